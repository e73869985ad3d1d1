//! A value that expires, on paused time.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::{advance, sleep};

use super::*;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

/// What a fetch does next, and how often it was asked.
#[derive(Default)]
struct Source {
    asked: AtomicU64,
    answer: Mutex<Option<(u64, Option<Duration>)>>,
}

impl Source {
    fn says(&self, value: u64, lifetime: impl Into<Option<Duration>>) {
        *self.answer.lock() = Some((value, lifetime.into()));
    }

    fn fails(&self) {
        *self.answer.lock() = None;
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

fn renewal() -> (Renewal<u64>, Arc<Source>) {
    let source = Arc::new(Source::default());
    let asked = Arc::clone(&source);
    let renewal = Renewal::new("test", move || {
        let source = Arc::clone(&asked);
        Box::pin(async move {
            source.asked.fetch_add(1, Ordering::Relaxed);
            sleep(100 * MS).await;
            let answer = *source.answer.lock();
            answer.map(|(value, lifetime)| Fresh { value, lifetime }).ok_or("down".to_owned())
        })
    });
    (renewal, source)
}

/// Whose comparison panics, where a renewal is already ending.
struct Odd;

impl PartialEq for Odd {
    fn eq(&self, _: &Self) -> bool {
        panic!("on purpose")
    }
}

async fn value(renewal: &Renewal<u64>) -> Result<u64, String> {
    renewal.get().await.map(|held| *held.value)
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_value_in_use_is_told_at_once_and_with_each_renewal() {
    let (renewal, source) = renewal();
    let told = Arc::new(Mutex::new(Vec::new()));
    let seen = || told.lock().clone();
    source.says(1, 60 * S);
    value(&renewal).await.unwrap();
    let of_teller = Arc::clone(&told);
    renewal.tell_end(move |end| {
        let left = end.map(|end| end.duration_since(SystemTime::now()).unwrap_or_default());
        of_teller.lock().push(left.map(|left| left.as_secs_f64().round()));
    });
    renewal.tell_end(|_| panic!("only the first is told"));
    assert_eq!(seen(), [Some(60.0)]);
    // One that fails tells nothing; one without an end says so.
    source.fails();
    advance(50 * S).await;
    value(&renewal).await.unwrap();
    sleep(S).await;
    assert_eq!(seen(), [Some(60.0)]);
    source.says(2, None);
    until_fetched(&renewal, 2).await;
    assert_eq!(seen(), [Some(60.0), None]);
}

/// Asks until this value is there.
async fn until_fetched(renewal: &Renewal<u64>, wanted: u64) {
    while value(renewal).await != Ok(wanted) {
        sleep(S).await;
    }
}

#[tokio::test(start_paused = true)]
async fn all_who_wait_share_one_fetch() {
    let (renewal, source) = renewal();
    source.says(7, None);
    let all = futures_util::future::join_all((0..64).map(|_| value(&renewal))).await;
    assert!(all.into_iter().all(|value| value == Ok(7)));
    advance(1_000_000 * S).await;
    assert_eq!(value(&renewal).await, Ok(7));
    assert_eq!(source.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_short_lifetime_is_renewed_ahead_and_nobody_waits() {
    let (renewal, source) = renewal();
    source.says(0, 30 * S);
    value(&renewal).await.unwrap();
    let mut last = 0;
    for tenth in 1..=3_000 {
        source.says(tenth, 30 * S);
        let before = Instant::now();
        let held = renewal.get().await.unwrap();
        assert_eq!(before, Instant::now(), "somebody waited");
        assert!(held.generation - last <= 1);
        last = held.generation;
        sleep(100 * MS).await;
    }
    // 300 s, a renewal every 20 to 25 s.
    assert!((12..=16).contains(&source.asked()), "{}", source.asked());
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_beyond_all_times_is_a_long_one() {
    for lifetime in [Duration::MAX, Duration::from_secs(i64::MAX as u64), 2 * LONGEST, LONGEST] {
        let (renewal, source) = renewal();
        source.says(1, lifetime);
        assert_eq!(value(&renewal).await, Ok(1));
        source.says(2, lifetime);
        advance(RENEWED_AFTER.saturating_sub(S)).await;
        assert_eq!((value(&renewal).await, source.asked()), (Ok(1), 1), "{lifetime:?}");
        advance(2 * S).await;
        assert_eq!(value(&renewal).await, Ok(1), "it is good while the next one is fetched");
        sleep(S).await;
        assert_eq!((value(&renewal).await, source.asked()), (Ok(2), 2));
        // An issuer that is down does not take away what is good, but not for ever.
        source.fails();
        advance(LONGEST.saturating_sub(2 * S)).await;
        assert_eq!(value(&renewal).await, Ok(2));
        advance(2 * S).await;
        assert_eq!(value(&renewal).await, Err("down".to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_value_may_be_fetched_early() {
    let (renewal, source) = renewal();
    source.says(3, None);
    renewal.begin_early();
    renewal.begin_early();
    sleep(S).await;
    let before = Instant::now();
    assert_eq!((value(&renewal).await, before), (Ok(3), Instant::now()), "nobody waits");
    assert_eq!(source.asked(), 1);
}

#[test]
fn the_renewal_begins_five_to_ten_minutes_ahead_or_a_part_of_a_short_life() {
    for (lifetime, least, most) in [
        (12 * 3_600, 300.0, 600.0),
        (3_600, 300.0, 600.0),
        (900, 150.0, 300.0),
        (30, 5.0, 10.0),
        (2, 0.33, 0.67),
    ] {
        for _ in 0..100 {
            let ahead = ahead(Duration::from_secs(lifetime)).as_secs_f64();
            assert!((least..=most).contains(&ahead), "{lifetime}: {ahead}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_is_down_costs_nothing_until_the_value_expires() {
    let (renewal, source) = renewal();
    source.says(1, 3_600 * S);
    value(&renewal).await.unwrap();
    source.fails();
    sleep(3_301 * S).await;
    for _ in 0..290 {
        assert_eq!(value(&renewal).await, Ok(1));
        sleep(S).await;
    }
    let asked = source.asked();
    assert!((10..=290).contains(&asked), "{asked}");
    sleep(20 * S).await;
    // Expired: said at once, or after the one try that was due.
    for _ in 0..20 {
        assert_eq!(value(&renewal).await, Err("down".to_owned()));
        sleep(S).await;
    }
    source.says(2, 3_600 * S);
    sleep(RETRY.1).await;
    assert_eq!(value(&renewal).await, Ok(2));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_renews_once_for_all_who_were_refused() {
    let (renewal, source) = renewal();
    source.says(1, None);
    let old = renewal.get().await.unwrap().generation;
    source.says(2, None);
    let all = futures_util::future::join_all((0..64).map(|_| renewal.refused(old))).await;
    assert!(all.into_iter().all(|other| other));
    assert!(renewal.refused(old).await, "one who hears of it late");
    assert_eq!((value(&renewal).await, source.asked()), (Ok(2), 2));
}

#[tokio::test(start_paused = true)]
async fn refusals_that_go_on_are_not_a_storm_of_renewals() {
    let (renewal, source) = renewal();
    source.says(1, None);
    let mut generation = renewal.get().await.unwrap().generation;
    for second in 0..3_600 {
        // A source that gives another value each time, and one that gives the same.
        source.says(if second < 1_800 { second } else { 0 }, None);
        let other = renewal.refused(generation).await;
        let held = renewal.get().await.unwrap();
        assert_eq!(other, held.generation != generation);
        generation = held.generation;
        sleep(S).await;
    }
    // At 0, 5, 15, 35 s, and then every 20.
    assert!((170..=190).contains(&source.asked()), "{}", source.asked());
    sleep(Duration::from_mins(20)).await;
    let asked = source.asked();
    renewal.refused(generation).await;
    assert_eq!(source.asked(), asked + 1);
    sleep(6 * S).await;
    renewal.refused(renewal.get().await.unwrap().generation).await;
    assert_eq!(source.asked(), asked + 2, "after a quiet it is as at first");
}

#[tokio::test(start_paused = true)]
async fn a_refused_value_that_can_not_be_renewed_stays() {
    let (renewal, source) = renewal();
    source.says(1, None);
    let held = renewal.get().await.unwrap();
    source.fails();
    assert!(!renewal.refused(held.generation).await);
    assert_eq!(value(&renewal).await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_hangs_or_panics_has_failed() {
    let hangs = Renewal::<u64>::new("test", || Box::pin(std::future::pending()));
    assert_eq!(value(&hangs).await, Err("no answer within 20s".to_owned()));
    let short = Some(MS);
    let odd = Renewal::new("test", move || {
        Box::pin(async move { Ok(Fresh { value: Odd, lifetime: short }) })
    });
    assert!(odd.get().await.is_ok());
    sleep(2 * S).await;
    assert_eq!(odd.get().await.err().as_deref(), Some("the renewal broke off"));
    let panics = Renewal::<u64>::new("test", || Box::pin(async { panic!("on purpose") }));
    assert_eq!(value(&panics).await, Err("the renewal broke off".to_owned()));
}
