//! A simulated fleet: vans that drive along the streets of a city, deliver, and charge.
//!
//! The map is a square of side 1 with streets at every twelfth; the page draws the same streets and
//! the same charging hubs. Each van publishes its position over MQTT, QoS 1.

use std::f64::consts::FRAC_PI_2;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rumqttc_v5::{AsyncClient, EventLoop, MqttOptions, PublishOptions};
use serde_json::{Value, json};

/// The number of vans.
pub(super) const VANS: u32 = 24;

/// The vans of a district report at the same moment, as by one gateway, and share a channel.
const DISTRICTS: [&str; 4] = ["north", "east", "south", "west"];

/// The time step of the simulation.
const STEP: Duration = Duration::from_millis(20);

/// Steps that are later than this are left out.
const LATE: Duration = Duration::from_secs(1);

/// Steps between two reports of a district: five a second.
const STEPS_A_REPORT: u32 = 10;

/// Streets on each side of the map are numbered 0 to this.
const LAST: i32 = 12;

/// The side of a block.
const BLOCK: f64 = 1.0 / 12.0;

/// Map units a second for each km/h.
const SCALE: f64 = 1.0 / 1_200.0;

/// km/h gained or lost a second.
const ACCELERATION: f64 = 22.0;

/// km/h through a corner.
const TURN_SPEED: f64 = 14.0;

/// East, south, west, north: a heading is the index times a quarter turn.
const DIRECTIONS: [(i32, i32); 4] = [(1, 0), (0, 1), (-1, 0), (0, -1)];

/// Quarter turns from east, of each direction.
const TURNS: [u8; 4] = [0, 1, 2, 3];

/// The charging hubs, in blocks.
const HUBS: [(i32, i32); 5] = [(2, 3), (10, 2), (6, 6), (3, 10), (10, 9)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Moving,
    Delivering,
    Charging,
}

/// One van, on the edge that leaves `corner` in `direction`.
struct Van {
    id: String,
    district: usize,
    sequence: u64,
    corner: (i32, i32),
    direction: usize,
    /// The direction after this edge.
    next: usize,
    /// Along the edge.
    position: f64,
    /// The position of a delivery on this edge.
    stop: Option<f64>,
    goal: (i32, i32),
    hub: Option<usize>,
    speed: f64,
    cruise: f64,
    battery: f64,
    state: State,
    wait: f64,
}

/// The fleet and its connection to the broker.
pub(super) struct Fleet {
    vans: Vec<Van>,
    random: StdRng,
    client: AsyncClient,
    events: EventLoop,
    published: Arc<AtomicU64>,
}

impl Fleet {
    /// A fleet that publishes to the broker at `port` on loopback.
    pub(super) fn new(port: u16) -> Self {
        let mut random = StdRng::seed_from_u64(20_261_122);
        let mut vans = fleet(&mut random);
        // A minute in advance, so that some vans deliver and charge from the start.
        for _ in 0..600 {
            step(&mut vans, &mut random, 0.1);
        }
        let mut options = MqttOptions::new("demo-fleet", ("127.0.0.1", port));
        options.set_keep_alive(30);
        let (client, events) = AsyncClient::builder(options).capacity(1_024).build();
        Self { vans, random, client, events, published: Arc::default() }
    }

    /// The number of events that the fleet has given to its MQTT client.
    pub(super) fn published(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.published)
    }

    /// Publishes by the same connection.
    pub(super) fn client(&self) -> AsyncClient {
        self.client.clone()
    }

    /// Moves the vans and publishes, for ever.
    pub(super) async fn run(mut self) {
        let mut events = self.events;
        // The MQTT client's event loop; it reconnects after an error at the next poll.
        let connection = async move {
            loop {
                if events.poll().await.is_err() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        };
        let driving = async {
            let mut clock = tokio::time::interval(STEP);
            for tick in (0..STEPS_A_REPORT).cycle() {
                // A busy machine is caught up with; what one that was stopped has missed is not.
                if clock.tick().await.elapsed() > LATE {
                    clock.reset();
                }
                step(&mut self.vans, &mut self.random, STEP.as_secs_f64());
                // One district after the other, so that events come evenly.
                let turn = STEPS_A_REPORT as usize / DISTRICTS.len();
                let (due, rest) = (tick as usize / turn, tick as usize % turn);
                for van in self.vans.iter_mut().filter(|van| rest == 0 && van.district == due) {
                    let topic = format!("fleet/{}/{}/position", DISTRICTS[van.district], van.id);
                    let event = van.event().to_string();
                    let options = PublishOptions::at_least_once();
                    if self.client.publish(topic, event, options).await.is_ok() {
                        self.published.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        };
        tokio::join!(connection, driving);
    }
}

fn fleet(random: &mut StdRng) -> Vec<Van> {
    let mut vans = Vec::new();
    for number in 1..=VANS {
        let van = Van::new(number, &vans, random);
        vans.push(van);
    }
    vans
}

fn step(vans: &mut [Van], random: &mut StdRng, seconds: f64) {
    for index in 0..vans.len() {
        let hubs: Vec<usize> = vans.iter().filter_map(|v| v.hub).collect();
        vans[index].step(seconds, &hubs, random);
    }
}

impl Van {
    fn new(number: u32, others: &[Self], random: &mut StdRng) -> Self {
        let corner = (random.random_range(0..=LAST), random.random_range(0..=LAST));
        let open: Vec<usize> = (0..4).filter(|d| inside(beyond(corner, *d))).collect();
        let mut van = Self {
            id: format!("van-{number:02}"),
            district: number as usize % DISTRICTS.len(),
            sequence: 0,
            corner,
            direction: open.choose(random).copied().unwrap_or(0),
            next: 0,
            position: random.random_range(0.0..BLOCK),
            stop: None,
            goal: corner,
            hub: None,
            speed: 0.0,
            cruise: random.random_range(28.0..46.0),
            battery: random.random_range(0.3..1.0),
            state: State::Moving,
            wait: 0.0,
        };
        let hubs: Vec<usize> = others.iter().filter_map(|v| v.hub).collect();
        van.find_job(&hubs, random);
        van
    }

    /// Chooses a hub when the battery is low, else a place to deliver; and the turn towards it.
    fn find_job(&mut self, hubs: &[usize], random: &mut StdRng) {
        if self.battery < 0.35 {
            // Each van that already uses a hub counts like three blocks more.
            let cost = |h: &usize| {
                let crowd = hubs.iter().filter(|x| *x == h).count();
                3 * crowd + distance(HUBS[*h], self.corner).unsigned_abs() as usize
            };
            let best = (0..HUBS.len()).min_by_key(cost);
            self.hub = best;
            self.goal = best.map_or(self.corner, |h| HUBS[h]);
        } else {
            self.hub = None;
            loop {
                let goal = (random.random_range(0..=LAST), random.random_range(0..=LAST));
                if (2..=6).contains(&distance(goal, self.corner)) {
                    self.goal = goal;
                    break;
                }
            }
        }
        self.next = self.choose_turn(random);
    }

    /// The direction after the corner that the current edge ends in.
    fn choose_turn(&self, random: &mut StdRng) -> usize {
        let corner = beyond(self.corner, self.direction);
        let back = (self.direction + 2) % 4;
        let open: Vec<usize> =
            (0..4).filter(|d| *d != back && inside(beyond(corner, *d))).collect();
        let (dx, dy) = (self.goal.0 - corner.0, self.goal.1 - corner.1);
        let good: Vec<usize> = open
            .iter()
            .copied()
            .filter(|d| DIRECTIONS[*d].0 * dx + DIRECTIONS[*d].1 * dy > 0)
            .collect();
        if good.contains(&self.direction) && random.random_bool(0.7) {
            return self.direction;
        }
        good.choose(random).or_else(|| open.choose(random)).copied().unwrap_or(back)
    }

    fn step(&mut self, seconds: f64, hubs: &[usize], random: &mut StdRng) {
        if self.state != State::Moving {
            self.speed = 0.0;
            if self.state == State::Charging {
                self.battery = (self.battery + 0.055 * seconds).min(1.0);
                if self.battery < 0.95 {
                    return;
                }
                self.hub = None;
                self.find_job(hubs, random);
            } else {
                self.wait -= seconds;
                if self.wait > 0.0 {
                    return;
                }
            }
            self.state = State::Moving;
            self.stop = None;
        }
        self.battery = (self.battery - 0.004 * seconds).max(0.02);
        let want = self.wanted_speed();
        self.speed =
            if want > self.speed { want.min(self.speed + ACCELERATION * seconds) } else { want };
        // A minimum, so that it always arrives.
        self.speed = self.speed.max(2.0);
        self.position += self.speed * SCALE * seconds;
        if let Some(stop) = self.stop.filter(|s| self.position >= *s) {
            self.position = stop;
            self.state = State::Delivering;
            self.wait = random.random_range(3.0..6.0);
            self.speed = 0.0;
            return self.find_job(hubs, random);
        }
        if self.position >= BLOCK {
            self.pass_corner(random);
        }
    }

    fn pass_corner(&mut self, random: &mut StdRng) {
        self.corner = beyond(self.corner, self.direction);
        self.position -= BLOCK;
        self.direction = self.next;
        if self.corner == self.goal {
            if self.hub.is_some() {
                self.position = 0.0;
                self.speed = 0.0;
                self.state = State::Charging;
                return;
            }
            // The place of the delivery is along the next edge.
            self.stop = Some(random.random_range(0.35..0.65) * BLOCK);
        }
        self.next = self.choose_turn(random);
    }

    /// The highest speed from which it can still slow down in time.
    fn wanted_speed(&self) -> f64 {
        let arriving = self.hub.is_some() && beyond(self.corner, self.direction) == self.goal;
        let at_corner = match (arriving, self.next == self.direction) {
            (true, _) => 0.0,
            (false, true) => self.cruise,
            (false, false) => TURN_SPEED,
        };
        let cap = |distance: f64, end: f64| {
            (end * end + 2.0 * ACCELERATION * distance.max(0.0) / SCALE).sqrt()
        };
        let corner = self.cruise.min(cap(BLOCK - self.position, at_corner));
        self.stop.map_or(corner, |stop| corner.min(cap(stop - self.position, 0.0)))
    }

    fn event(&mut self) -> Value {
        self.sequence += 1;
        let (dx, dy) = DIRECTIONS[self.direction];
        let place =
            |corner: i32, step: i32| f64::from(corner) * BLOCK + f64::from(step) * self.position;
        let state = match self.state {
            State::Moving => "moving",
            State::Delivering => "delivering",
            State::Charging => "charging",
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        json!({
            "kind": "position",
            "id": self.id,
            "district": DISTRICTS[self.district],
            "seq": self.sequence,
            "x": rounded(place(self.corner.0, dx), 5),
            "y": rounded(place(self.corner.1, dy), 5),
            "heading": rounded(f64::from(TURNS[self.direction]) * FRAC_PI_2, 4),
            "speed": rounded(self.speed, 1),
            "battery": rounded(self.battery, 3),
            "state": state,
            "sent_at": rounded(now.as_secs_f64() * 1_000.0, 3),
        })
    }
}

fn beyond(corner: (i32, i32), direction: usize) -> (i32, i32) {
    (corner.0 + DIRECTIONS[direction].0, corner.1 + DIRECTIONS[direction].1)
}

fn inside(corner: (i32, i32)) -> bool {
    (0..=LAST).contains(&corner.0) && (0..=LAST).contains(&corner.1)
}

fn distance(a: (i32, i32), b: (i32, i32)) -> i32 {
    (a.0 - b.0).abs() + (a.1 - b.1).abs()
}

fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vans_stay_on_the_streets_and_all_states_occur() {
        let mut random = StdRng::seed_from_u64(1);
        let mut vans = fleet(&mut random);
        let mut seen = [0_u32; 3];
        for _ in 0..6_000 {
            step(&mut vans, &mut random, 0.1);
            for van in &mut vans {
                seen[van.state as usize] += 1;
                let event = van.event();
                let (x, y) = (event["x"].as_f64().unwrap(), event["y"].as_f64().unwrap());
                assert!((0.0..=1.0).contains(&x) && (0.0..=1.0).contains(&y), "{event}");
                let on_street = |v: f64| ((v * 12.0).round() - v * 12.0).abs() < 0.001;
                assert!(on_street(x) || on_street(y), "{event}");
                assert!(van.battery > 0.02, "{} ran dry", van.id);
            }
        }
        assert!(seen.iter().all(|n| *n > 1_000), "{seen:?}");
    }
}
