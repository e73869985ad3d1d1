use std::collections::VecDeque;

use super::super::window::{GRAIN, WINDOW};
use super::*;

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
    simulate_bucket(gate, start, seconds, offered, quota, 0.1)
}

/// The same with a bucket of `holds` seconds.
fn simulate_bucket(
    gate: &mut RateGate,
    start: Instant,
    seconds: u32,
    offered: f64,
    quota: impl Fn(f64) -> f64,
    holds: f64,
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
        while backlog >= 5.0 && gate.is_open(now) && answers.len() < 64 {
            gate.sent(5);
            backlog -= 5.0;
            let good = bucket >= 5.0;
            if good {
                bucket -= 5.0;
            }
            seen[(tick / 1_000) as usize].1 += 1.0;
            answers.push_back((now, now + Duration::from_millis(20), good));
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
    assert!(!gate.is_open(last + Duration::from_secs(1)));
    gate.release();
    assert!(gate.is_open(last + Duration::from_secs(1)));
}

#[test]
fn what_was_used_up_comes_back_in_portions() {
    let start = Instant::now();
    let mut gate = RateGate::new(10_000.0, start);
    let (mut now, mut openings, mut sent) = (start, 0, 0);
    while now < start + Duration::from_secs(1) {
        openings += 1;
        while gate.is_open(now) {
            gate.sent(5);
            sent += 5;
        }
        now = gate.opens_at(now).unwrap();
    }
    // The first is the whole burst.
    assert!((22..=28).contains(&openings), "{openings}");
    assert!((10_000..=10_900).contains(&sent), "{sent}");
}

#[test]
fn an_api_that_counts_over_little_is_used_all_the_same() {
    for quota in [300.0, 2_000.0, 9_000.0] {
        let start = Instant::now();
        let mut gate = RateGate::new(10_000.0, start);
        let seen = simulate_bucket(&mut gate, start, 30, 20_000.0, |_| quota, 0.02);
        let goodput = seen[5..].iter().map(|s| s.0).sum::<f64>() / (quota * 25.0);
        assert!(goodput >= 0.8, "{quota}: {goodput:.3}");
    }
}

#[test]
fn a_slow_rate_waits_for_single_events() {
    let start = Instant::now();
    let mut gate = RateGate::new(20.0, start);
    while gate.is_open(start) {
        gate.sent(1);
    }
    let opens = gate.opens_at(start).unwrap();
    assert!(opens <= start + Duration::from_millis(51), "{:?}", opens - start);
    assert!(gate.is_open(opens));
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
        assert!(gate.is_held(now + GRAIN) && !gate.is_open(now + wait / 2));
        now += wait;
        assert!(!gate.is_held(now) && gate.is_open(now));
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
            gate.is_open(now);
        }
        gate.rate()
    };
    assert!(rate_after(10, 2) >= 5_000.0);
    assert!(rate_after(10, 4) < 100.0, "{}", rate_after(10, 4));
}
