//! The world around the pipeline: an endpoint and a dead letter that go wrong as a seed says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use appsync_bridge::dead_letter::{Record, Target, WriteError};
use appsync_bridge::event_api::sent::PublishRequest;
use appsync_bridge::publish::post::{Answer, Failure, Fault, Post};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// Faults that last for a while.
pub(super) const OUTAGES: [&str; 13] = [
    "gone",
    "untrusted",
    "no credentials",
    "namespace",
    "bare 403",
    "401",
    "firewall",
    "429",
    "503",
    "404",
    "html",
    "errors",
    "400",
];

/// What the world is like, for one seed.
pub(super) struct World {
    random: Mutex<StdRng>,
    /// How often each fault struck.
    pub(super) struck: Mutex<BTreeMap<&'static str, u64>>,
    /// What the endpoint accepted, in order.
    pub(super) accepted: Mutex<Vec<Seen>>,
    /// What failed in a request in which later ones of its key were accepted: that one, and such a one.
    pub(super) passed: Mutex<BTreeSet<(Seen, Seen)>>,
    /// What the dead letter holds.
    pub(super) dead: Mutex<Vec<u64>>,
    /// Events that the endpoint will never take.
    pub(super) poison: BTreeSet<u64>,
    outage: Mutex<Option<(Instant, Instant, &'static str)>>,
    /// Requests that were cut off after they were processed.
    pub(super) ambiguous: Mutex<u64>,
}

/// An event that reached the endpoint. Sorted, those of a key are in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seen {
    pub(super) key: u64,
    pub(super) seq: u64,
    pub(super) id: u64,
}

impl World {
    /// One in which these events are refused for good.
    pub(super) fn new(seed: u64, poison: BTreeSet<u64>) -> Arc<Self> {
        Arc::new(Self {
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            struck: Mutex::default(),
            accepted: Mutex::default(),
            passed: Mutex::default(),
            dead: Mutex::default(),
            poison,
            outage: Mutex::default(),
            ambiguous: Mutex::default(),
        })
    }

    fn chance(&self, part: f64) -> bool {
        self.random.lock().unwrap().random_bool(part)
    }

    pub(super) fn strike(&self, name: &'static str) {
        *self.struck.lock().unwrap().entry(name).or_default() += 1;
    }

    fn within(&self, most: Duration) -> Duration {
        self.random.lock().unwrap().random_range(Duration::from_micros(200)..=most)
    }

    /// The long fault that is on for everybody, if one is.
    fn outage(&self) -> Option<&'static str> {
        let now = Instant::now();
        let mut outage = self.outage.lock().unwrap();
        if let Some((from, to, kind)) = *outage {
            if now < from {
                return None;
            }
            if now < to {
                return Some(kind);
            }
        }
        let mut random = self.random.lock().unwrap();
        let from = now + random.random_range(Duration::from_millis(50)..Duration::from_secs(3));
        let to = from + random.random_range(Duration::from_millis(200)..Duration::from_secs(8));
        *outage = Some((from, to, OUTAGES[random.random_range(0..OUTAGES.len())]));
        None
    }
}

/// The fake endpoint.
pub(super) struct Endpoint(pub(super) Arc<World>);

impl Post for Endpoint {
    type Connection = ();

    async fn post(&self, (): &mut (), body: Bytes) -> Result<Answer, Failure> {
        let world = &self.0;
        let request = PublishRequest::parse(&body).unwrap();
        assert!((1..=5).contains(&request.events.len()));
        let most =
            if world.chance(0.02) { Duration::from_secs(3) } else { Duration::from_millis(40) };
        sleep(world.within(most)).await;
        if let Some(kind) = world.outage()
            && let Some(answer) = self.out(kind, &request.channel)
        {
            world.strike(kind);
            return answer;
        }
        if world.chance(0.01) {
            world.strike("cut before");
            return failure(Fault::Ambiguous);
        }
        let body = self.process(&request);
        if world.chance(0.01) {
            world.strike("cut after");
            *world.ambiguous.lock().unwrap() += 1;
            return failure(Fault::Ambiguous);
        }
        if world.chance(0.005) {
            world.strike("truncated");
            *world.ambiguous.lock().unwrap() += 1;
            return Ok(Answer {
                status: 200,
                body: Bytes::copy_from_slice(&body[..body.len() / 2]),
                ..Answer::default()
            });
        }
        Ok(Answer { status: 200, body: body.into(), ..Answer::default() })
    }

    fn hint(&self, _elsewhere: bool) -> &'static str {
        "look at the seed"
    }
}

impl Endpoint {
    /// What is answered during an outage of this kind; `None`: as else.
    fn out(&self, kind: &str, channel: &str) -> Option<Result<Answer, Failure>> {
        let bare = |status, body| {
            Ok(Answer { status, body: Bytes::from_static(body), ..Answer::default() })
        };
        Some(match kind {
            "gone" => failure(Fault::Connect),
            "untrusted" => failure(Fault::Trust),
            "no credentials" => failure(Fault::Refused),
            "namespace" if channel.starts_with("/b/") => Ok(error(401, "UnauthorizedException")),
            "bare 403" if channel.starts_with("/b/") => bare(403, b""),
            "401" => Ok(error(401, "ExpiredTokenException")),
            "firewall" => Ok(error(403, "WAFForbiddenException")),
            "429" if self.0.chance(0.7) => Ok(error(429, "ThrottlingException")),
            "503" | "404" => bare(kind.parse().unwrap(), b""),
            "html" => bare(200, b"<html>"),
            "errors" => bare(
                200,
                br#"{"errors":[{"errorType":"InternalFailureException"}],"failed":[],"successful":[]}"#,
            ),
            "400" => Ok(error(400, "BadRequestException")),
            _ => return None,
        })
    }

    fn process(&self, request: &PublishRequest) -> Vec<u8> {
        let world = &self.0;
        let (mut failed, mut successful) = (Vec::new(), Vec::new());
        let (mut left, mut taken) = (Vec::new(), Vec::new());
        for (index, text) in request.events.iter().enumerate() {
            let event: Value = serde_json::from_str(text).unwrap();
            let number = |name: &str| event[name].as_u64().unwrap();
            let seen = Seen { key: number("key"), seq: number("seq"), id: number("id") };
            if world.poison.contains(&seen.id) {
                world.strike("terminal");
                failed.push(json!({ "index": index, "code": "EventTooLargeException", "message": "too large" }));
            } else if world.chance(0.03) {
                world.strike("transient");
                left.push(seen);
                // Throttling: never counted towards giving up, so that the account stays exact.
                failed.push(json!({ "index": index, "code": 429, "message": "later" }));
            } else {
                taken.push(seen);
                successful.push(json!({ "index": index, "identifier": "x" }));
            }
        }
        for one in left {
            let later = taken.iter().filter(|other| other.key == one.key && other.seq > one.seq);
            world.passed.lock().unwrap().extend(later.map(|other| (one, *other)));
        }
        world.accepted.lock().unwrap().append(&mut taken);
        json!({ "failed": failed, "successful": successful }).to_string().into_bytes()
    }
}

fn failure(fault: Fault) -> Result<Answer, Failure> {
    Err(Failure { fault, why: "as the seed says".to_owned() })
}

fn error(status: u16, kind: &str) -> Answer {
    let body =
        json!({ "errors": [{ "errorType": kind, "message": "no" }] }).to_string().into_bytes();
    Answer { status, body: body.into(), ..Answer::default() }
}

/// The fake dead letter, which fails now and then.
pub(super) struct Grave(pub(super) Arc<World>);

impl Target for Grave {
    fn place(&self) -> String {
        "the grave".to_owned()
    }

    async fn write(&mut self, records: &[Record]) -> Result<(), WriteError> {
        sleep(self.0.within(Duration::from_millis(5))).await;
        if self.0.chance(0.25) {
            self.0.strike("dead letter");
            return Err(WriteError { kept: 0, why: "no space".to_owned() });
        }
        let ids = records.iter().map(|r| {
            let event: Value = serde_json::from_slice(&r.message.payload).unwrap();
            event["id"].as_u64().unwrap()
        });
        self.0.dead.lock().unwrap().extend(ids);
        Ok(())
    }
}
