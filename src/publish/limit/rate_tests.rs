use std::collections::VecDeque;

use super::super::window::{GRAIN, WINDOW};
use super::*;

/// More than any portion has.
const MANY: usize = 1_000_000;

/// With many waiting, and answers at once.
fn is_open(gate: &mut RateGate, now: Instant) -> bool {
    gate.is_open(Load { queued: MANY, ..Load::default() }, now)
}

/// An API that lets in `quota(t)` events a second, asked through the gate as often as it opens, in
/// full batches, answers after 20 ms; gives accepted events and requests of each second. Its bucket holds a
/// tenth of a second.
fn simulate(
    gate: &mut RateGate,
    start: Instant,
    seconds: u32,
    offered: f64,
    quota: impl Fn(f64) -> f64,
) -> Vec<(f64, f64)> {
    simulate_bucket(gate, start, seconds, offered, quota, (0.1, 20))
}

/// The same with a bucket of `holds` seconds, and answers after `trip` ms.
fn simulate_bucket(
    gate: &mut RateGate,
    start: Instant,
    seconds: u32,
    offered: f64,
    quota: impl Fn(f64) -> f64,
    (holds, trip): (f64, u64),
) -> Vec<(f64, f64)> {
    let (mut bucket, mut backlog) = (quota(0.0) * holds, 0.0);
    let mut answers: VecDeque<(Instant, Instant, bool)> = VecDeque::new();
    let mut seen = vec![(0.0, 0.0); seconds as usize];
    let step = Duration::from_millis(1);
    for tick in 0..seconds * 1_000 {
        let now = start + step * tick;
        let t = f64::from(tick) / 1_000.0;
        bucket = (bucket + quota(t) / 1_000.0).min(quota(t) * holds);
        backlog += offered / 1_000.0;
        while answers.front().is_some_and(|(_, at, _)| *at <= now) {
            let (sent, _, good) = answers.pop_front().unwrap();
            if good {
                gate.answered(5, now);
                seen[(tick / 1_000) as usize].0 += 5.0;
            } else {
                gate.throttled(sent, now);
                backlog += 5.0;
            }
        }
        while backlog >= 5.0 && is_open(gate, now) && answers.len() < 64 {
            gate.sent(5);
            backlog -= 5.0;
            let good = bucket >= 5.0;
            if good {
                bucket -= 5.0;
            }
            seen[(tick / 1_000) as usize].1 += 1.0;
            answers.push_back((now, now + Duration::from_millis(trip), good));
        }
    }
    seen
}

#[test]
fn unthrottled_it_holds_the_ceiling() {
    let start = Instant::now();
    let mut gate = RateGate::new(1_000.0, start);
    let seen = simulate(&mut gate, start, 5, 3_000.0, |_| 1e9);
    for (accepted, _) in &seen[1..] {
        assert!((950.0..=1_050.0).contains(accepted), "{seen:?}");
    }
}

#[test]
fn another_ceiling_counts_at_once_and_a_throttled_rate_stays() {
    let start = Instant::now();
    let mut gate = RateGate::new(1_000.0, start);
    gate.set_ceiling(300.0, start);
    let seen = simulate(&mut gate, start, 5, 3_000.0, |_| 1e9);
    for (accepted, _) in &seen[1..] {
        assert!((280.0..=320.0).contains(accepted), "{seen:?}");
    }
    let later = start + Duration::from_secs(5);
    gate.set_ceiling(2_000.0, later);
    let is_at = |gate: &RateGate, rate: f64| (gate.rate() - rate).abs() < 1e-9;
    assert!(is_at(&gate, 2_000.0));
    simulate(&mut gate, later, 5, 3_000.0, |_| 500.0);
    let throttled = gate.rate();
    assert!(throttled < 1_000.0, "{throttled}");
    let last = later + Duration::from_secs(5);
    gate.set_ceiling(5_000.0, last);
    assert!(is_at(&gate, throttled));
    gate.set_ceiling(100.0, last);
    assert!(is_at(&gate, 100.0));
    gate.hold(last + Duration::from_hours(1));
    assert!(!is_open(&mut gate, last + Duration::from_secs(1)));
    gate.release();
    assert!(is_open(&mut gate, last + Duration::from_secs(1)));
}

/// The gate asked for five seconds, as by a publisher with a backlog whose events take `each` to send, and `trip` to
/// be answered: how many went at which time.
fn spend(
    gate: &mut RateGate,
    start: Instant,
    each: Duration,
    round_trip: Duration,
) -> Vec<(Instant, usize)> {
    let (mut now, mut sent) = (start, Vec::new());
    while now < start + Duration::from_secs(5) {
        while gate.is_open(Load { queued: MANY, round_trip }, now) {
            gate.sent(5);
            sent.push((now, 5));
            now += each * 5;
        }
        now = gate.opens_at(MANY, now).unwrap();
    }
    sent
}

/// The most that goes in any second.
fn most_in_a_second(sent: &[(Instant, usize)]) -> usize {
    let within = |from: usize| {
        let until = sent[from].0 + Duration::from_secs(1);
        sent[from..].iter().take_while(|(at, _)| *at < until).map(|(_, events)| events).sum()
    };
    (0..sent.len()).map(within).max().unwrap()
}

#[test]
fn what_was_used_up_comes_back_in_portions_that_grow_in_a_backlog() {
    // µs that an event takes to be sent, of 100 that there are, and ms to be answered; the longest pause in ms.
    for (rate, each, trip, pauses) in [
        (10_000_u16, 5, 1, 200..=250),
        (10_000, 60, 1, 30..=45),
        (10_000, 5, 25, 30..=45),
        (100, 5, 1, 10..=60),
    ] {
        let start = Instant::now();
        let mut gate = RateGate::new(rate.into(), start);
        let trip = Duration::from_millis(trip);
        let sent = spend(&mut gate, start, Duration::from_micros(each), trip);
        let pause = sent.windows(2).map(|pair| pair[1].0.duration_since(pair[0].0)).max().unwrap();
        assert!(pauses.contains(&pause.as_millis()), "{rate}, {each}: {pause:?}");
        let (all, rate) = (sent.len(), usize::from(rate));
        assert!((rate * 98 / 100..=rate * 102 / 100).contains(&all), "{rate}, {each}: {all}");
        let most = most_in_a_second(&sent);
        assert!(most <= rate * 109 / 100 + 5, "{rate}, {each}: {most}");
    }
}

#[test]
fn an_api_of_just_that_rate_that_counts_over_little_throttles_once() {
    let start = Instant::now();
    let mut gate = RateGate::new(10_000.0, start);
    let seen = simulate_bucket(&mut gate, start, 120, 20_000.0, |_| 10_000.0, (0.1, 2));
    // From when it has grown back.
    let late = &seen[30..];
    let [accepted, requests] =
        [0, 1].map(|of| late.iter().map(|s| if of == 0 { s.0 } else { s.1 }).sum::<f64>());
    assert!(accepted >= 0.97 * 10_000.0 * 90.0, "{accepted}");
    assert!(requests <= accepted / 5.0 * 1.01, "{requests} for {accepted}");
}

#[test]
fn a_large_portion_is_for_a_backlog_and_gone_with_it() {
    let gate_after_a_backlog = |start| {
        let mut gate = RateGate::new(10_000.0, start);
        let trip = Duration::from_millis(1);
        let sent = spend(&mut gate, start, Duration::from_micros(1), trip);
        (gate, sent.last().unwrap().0)
    };
    let (mut gate, last) = gate_after_a_backlog(Instant::now());
    // The few that come then wait for a small one.
    let opens = gate.opens_at(5, last).unwrap();
    assert!(opens <= last + Duration::from_millis(45), "{:?}", opens - last);
    assert!(gate.opens_at(MANY, last).unwrap() >= last + Duration::from_millis(200));
    assert!(gate.is_open(Load { queued: 5, ..Load::default() }, opens));
    let (mut gate, last) = gate_after_a_backlog(Instant::now());
    let now = last + Duration::from_secs(2);
    let mut burst = 0;
    while is_open(&mut gate, now) {
        gate.sent(5);
        burst += 5;
    }
    assert!(burst <= 500, "{burst}");
}

#[test]
fn an_api_that_counts_over_little_is_used_all_the_same() {
    for quota in [300.0, 2_000.0, 9_000.0] {
        let start = Instant::now();
        let mut gate = RateGate::new(10_000.0, start);
        let seen = simulate_bucket(&mut gate, start, 30, 20_000.0, |_| quota, (0.02, 20));
        let goodput = seen[5..].iter().map(|s| s.0).sum::<f64>() / (quota * 25.0);
        assert!(goodput >= 0.8, "{quota}: {goodput:.3}");
    }
}

#[test]
fn a_slow_rate_waits_for_single_events() {
    let start = Instant::now();
    let mut gate = RateGate::new(20.0, start);
    while is_open(&mut gate, start) {
        gate.sent(1);
    }
    let opens = gate.opens_at(MANY, start).unwrap();
    assert!(opens <= start + Duration::from_millis(51), "{:?}", opens - start);
    assert!(is_open(&mut gate, opens));
}

#[test]
fn throttled_to_a_third_it_uses_the_quota_wastes_little_and_recovers() {
    let start = Instant::now();
    let mut gate = RateGate::new(10_000.0, start);
    let quota = |t: f64| if (5.0..65.0).contains(&t) { 300.0 } else { 1e9 };
    let seen = simulate(&mut gate, start, 90, 1_000.0, quota);
    let throttled = &seen[6..65];
    let accepted: f64 = throttled.iter().map(|s| s.0).sum();
    let requests: f64 = throttled.iter().map(|s| s.1).sum();
    let goodput = accepted / (300.0 * 59.0);
    assert!(goodput >= 0.95, "goodput {goodput:.3}");
    let extra = requests / (accepted / 5.0) - 1.0;
    assert!(extra <= 0.2, "extra requests {extra:.3}");
    // The backlog of a minute is still there: full speed is what is offered, at least.
    let back = seen[65..].iter().position(|s| s.0 >= 1_000.0);
    assert!(back.is_some_and(|s| s < 10), "{:?}", &seen[65..80]);
}

#[test]
fn a_quota_that_falls_is_found() {
    let start = Instant::now();
    let mut gate = RateGate::new(10_000.0, start);
    let quota = |t: f64| if t < 10.0 { 2_000.0 } else { 200.0 };
    let seen = simulate(&mut gate, start, 30, 5_000.0, quota);
    let late: f64 = seen[13..].iter().map(|s| s.0).sum::<f64>() / (200.0 * 17.0);
    assert!(late >= 0.95, "{late:.3}: {seen:?}");
    let requests: f64 = seen[13..].iter().map(|s| s.1).sum();
    assert!(requests / (200.0 * 17.0 / 5.0) <= 1.2, "{seen:?}");
}

/// When the events of a second are as many as that, in seconds from the first one looked at.
fn full_after(seen: &[(f64, f64)], rate: f64) -> usize {
    seen.iter().position(|s| s.0 >= rate * 0.95).unwrap_or(usize::MAX)
}

#[test]
fn one_429_after_a_rest_costs_seconds_however_little_was_answered_before() {
    // Nothing before it, or a trickle.
    for trickle in [0, 1, 20] {
        let start = Instant::now();
        let mut gate = RateGate::new(5_000.0, start);
        for n in 0..trickle {
            gate.answered(1, start + WINDOW / 20 * n);
        }
        let sent = start + WINDOW;
        let back = sent + GRAIN;
        gate.throttled(sent, back);
        let seen = simulate(&mut gate, back, 20, 5_000.0, |_| 1e9);
        assert!(full_after(&seen, 5_000.0) <= 6, "{trickle}: {seen:?}");
    }
}

#[test]
fn waits_that_the_api_asks_for_leave_the_rate_as_it_was() {
    let start = Instant::now();
    let mut gate = RateGate::new(5_000.0, start);
    let wait = Duration::from_secs(20);
    let mut now = start;
    for _ in 0..10 {
        gate.hold(now + wait);
        gate.throttled(now, now + GRAIN);
        assert!(gate.is_held(now + GRAIN) && !is_open(&mut gate, now + wait / 2));
        now += wait;
        assert!(!gate.is_held(now) && is_open(&mut gate, now));
    }
    let seen = simulate(&mut gate, now, 20, 5_000.0, |_| 1e9);
    assert!(full_after(&seen, 5_000.0) <= 6, "{seen:?}");
}

#[test]
fn events_that_are_throttled_singly_lower_the_rate_while_they_are_the_most() {
    let start = Instant::now();
    // Of five, so many are throttled in every answer, 50 a second.
    let rate_after = |seconds: u32, of_five: usize| {
        let mut gate = RateGate::new(5_000.0, start);
        for answer in 1..seconds * 50 {
            let sent = start + GRAIN * 2 * answer;
            let now = sent + GRAIN;
            gate.answered(5 - of_five, now);
            gate.singled_out(of_five, sent, now);
            is_open(&mut gate, now);
        }
        gate.rate()
    };
    assert!(rate_after(10, 2) >= 5_000.0);
    assert!(rate_after(10, 4) < 100.0, "{}", rate_after(10, 4));
}
