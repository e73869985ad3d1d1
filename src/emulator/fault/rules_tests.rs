use super::*;

fn rules(texts: &[&str], now: Instant) -> Rules {
    Rules::new(texts.iter().map(|text| text.parse().unwrap()).collect(), now)
}

fn channel(text: &str) -> Channel {
    Channel::parse(text).unwrap()
}

/// Asks about `tries` requests of two events, and says which were struck.
fn struck(rules: &mut Rules, channel: &str, tries: usize, now: Instant) -> Vec<bool> {
    let channel = self::channel(channel);
    let subject = Subject { channel: Some(&channel), events: 2 };
    (0..tries).map(|_| !rules.strikes(Stage::Arrived, subject, now).is_empty()).collect()
}

#[test]
fn a_fault_keeps_to_its_namespace_its_channel_its_number_and_its_time() {
    let now = Instant::now();
    let mut all = rules(&[r#"{"fault":{"cut":{}},"namespace":"a","times":2,"skip":1}"#], now);
    assert_eq!(struck(&mut all, "b/x", 2, now), [false, false]);
    assert_eq!(struck(&mut all, "a/x", 5, now), [false, true, true, false, false]);
    let shown = all.show();
    assert_eq!((&shown[0]["asked"], &shown[0]["struck"]), (&json!(3), &json!(2)));
    assert_eq!((&shown[0]["events"], &shown[0]["namespace"]), (&json!(4), &json!("a")));

    let mut one = rules(&[r#"{"fault":{"cut":{}},"channel":"a/x","for":"1s"}"#], now);
    assert_eq!(struck(&mut one, "a/y", 1, now), [false]);
    assert_eq!(struck(&mut one, "/a/x/", 1, now), [true]);
    assert_eq!(struck(&mut one, "a/x", 1, now + Duration::from_secs(1)), [false]);
    // Without a channel to be read, only what is limited to none strikes.
    let nothing = Subject { channel: None, events: 0 };
    assert!(one.strikes(Stage::Arrived, nothing, now).is_empty());
    let mut any = rules(&[r#"{"fault":{"cut":{}}}"#], now);
    assert_eq!(any.strikes(Stage::Arrived, nothing, now).len(), 1);
}

#[test]
fn the_dice_fall_the_same_way_for_the_same_seed() {
    let now = Instant::now();
    let throws = |seed: u64| {
        let text = format!(r#"{{"fault":{{"cut":{{}}}},"probability":0.3,"seed":{seed}}}"#);
        struck(&mut rules(&[&text], now), "a/x", 1_000, now)
    };
    let count = throws(1).iter().filter(|struck| **struck).count();
    assert!((250..350).contains(&count), "{count}");
    assert_eq!(throws(1), throws(1));
    assert_ne!(throws(1), throws(2));
}

#[test]
fn faults_are_asked_in_order_until_one_ends_the_request() {
    let now = Instant::now();
    let mut rules = rules(
        &[
            r#"{"fault":{"slow":{"delay":"1s","jitter":"1s","when":"before"}}}"#,
            r#"{"fault":{"cut":{"when":"after"}}}"#,
            r#"{"fault":{"answer":{"status":503}},"times":1}"#,
            r#"{"fault":{"cut":{}}}"#,
        ],
        now,
    );
    let channel = channel("a/x");
    let subject = Subject { channel: Some(&channel), events: 1 };
    let first = rules.strikes(Stage::Arrived, subject, now);
    let [Strike::Wait(delay), Strike::Answer(answer)] = &first[..] else { panic!("{first:?}") };
    assert!((1..=2).contains(&delay.as_secs()) && answer.status() == 503, "{first:?}");
    let second = rules.strikes(Stage::Arrived, subject, now);
    assert!(matches!(second[..], [Strike::Wait(_), Strike::Cut]), "{second:?}");
    let answered = rules.strikes(Stage::Answered, subject, now);
    assert!(matches!(answered[..], [Strike::Cut]), "{answered:?}");
    let counts: Vec<u64> = rules.0.iter().map(|rule| rule.counts.struck).collect();
    assert_eq!(counts, [2, 1, 1, 1]);
}

#[test]
fn a_throttle_counts_requests_or_events_and_strikes_what_is_beyond() {
    let now = Instant::now();
    let limit = |kind: &str| {
        let text = format!(r#"{{"fault":{{"throttle":{{"{kind}":4,"retry_after":7}}}}}}"#);
        let mut rules = rules(&[&text], now);
        let passed = struck(&mut rules, "a/x", 20, now).iter().filter(|s| !**s).count();
        let later = struck(&mut rules, "a/x", 20, now + Duration::from_mins(1));
        (passed, later.iter().filter(|s| !**s).count(), rules.0[0].counts.struck)
    };
    assert_eq!(limit("requests_per_second"), (4, 4, 32));
    assert_eq!(limit("events_per_second"), (2, 2, 36));
}

#[test]
fn events_fail_by_index_or_by_chance_and_once() {
    let now = Instant::now();
    let channel = channel("a/x");
    let subject = Subject { channel: Some(&channel), events: 4 };
    let mut rules = rules(
        &[
            r#"{"fault":{"fail_events":{"code":429,"indexes":[1]}}}"#,
            r#"{"fault":{"fail_events":{"code":"Bad","message":"no","indexes":[1,2]}}}"#,
        ],
        now,
    );
    let codes = |failures: Vec<Option<EventFailure>>| -> Vec<Option<String>> {
        failures.into_iter().map(|f| f.map(|f| f.code)).collect()
    };
    let expected = [None, Some("429".to_owned()), Some("Bad".to_owned()), None];
    assert_eq!(codes(rules.failures(subject, now)), expected);
    assert_eq!(rules.0[1].counts.events, 1);

    let text = r#"{"fault":{"fail_events":{"probability":0.3}}}"#;
    let mut chance = self::rules(&[text], now);
    let failed: usize =
        (0..1_000).map(|_| chance.failures(subject, now).iter().flatten().count()).sum();
    assert!((1_100..1_300).contains(&failed), "{failed}");
    assert_eq!(chance.0[0].counts.events, failed as u64);
}
