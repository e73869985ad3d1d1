//! The answer matrix (T30): what each answer of the service does to events, in process, with a
//! scripted endpoint and a clock that is turned.

use std::sync::Arc;
use std::time::Duration;

use appsync_bridge::delivery::Outcome;
use appsync_bridge::metrics::Metrics;
use appsync_bridge::publish::post::Fault;
use appsync_bridge::shutdown::Shutdown;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::support::script::{Ends, Play, Script, accepted, entry, error, failed, play, play_by};

const RETRIED_WHOLE: &str = "publish_retries_total{api=\"main\",fault=";

#[test]
fn one_that_is_always_to_wait_holds_up_nothing_else() {
    // One event of a thousand gets a 503 with a wait for five minutes, wherever it is, sooner than others are taken or not.
    for takes in [0, 30] {
        let keys: Vec<String> = (0..50).map(|n: u64| n.to_string()).collect();
        let after = Duration::from_millis(100);
        let event = |id: usize| {
            let channel = if id == 7 { "/a/x" } else { "/a/y" };
            (after, channel, &*keys[id % keys.len()], id as u64)
        };
        let run = play_by((0..1_000).map(event).collect(), move |posted| {
            let bad = posted.ids.contains(&7) && posted.at < Duration::from_mins(5);
            if bad { Play::RetryAfter(503, 20) } else { Play::After(takes, 200) }
        });
        assert_eq!((run.accepted.len(), run.refused.len()), (1_000, 0));
        let others = run.posts.iter().filter(|posted| !posted.ids.contains(&7));
        let others: Vec<_> = others.map(|posted| posted.at).collect();
        let held = others.windows(2).filter(|pair| pair[1] > pair[0] + Duration::from_secs(5));
        let held = held.count();
        // Once with nothing known of it, once with others taken since, and once alone.
        assert!(held <= 3, "{takes}: {held} times: {others:?}");
    }
}

#[test]
fn a_success_is_one_request() {
    let run = play(5, vec![]);
    assert_eq!(run.events(), [[0, 1, 2, 3, 4]]);
    assert_eq!(run.accepted, [0, 1, 2, 3, 4]);
    assert_eq!(run.metric("publish_events_total{api=\"main\",outcome=\"accepted\"}"), 5);
}

#[test]
fn answers_that_say_nothing_are_never_a_success() {
    for body in [
        "",
        "{}",
        "<html>",
        "{\"failed\":[]",
        r#"{"failed":[],"successful":[{"index":0},{"index":0}]}"#,
        r#"{"failed":[{"index":0}],"successful":[{"index":0}]}"#,
        r#"{"failed":[],"successful":[{"index":7}]}"#,
    ] {
        let run = play(2, vec![Play::Answer(200, body.to_owned())]);
        assert_eq!(run.events(), [[0, 1], [0, 1]], "{body}");
        assert_eq!(run.accepted, [0, 1]);
        assert_eq!(run.metric(&format!("{RETRIED_WHOLE}\"unknown_answer\"}}")), 2);
    }
}

#[test]
fn a_batch_that_is_never_answered_is_split_after_three_tries() {
    for silence in [|| Play::Fail(Fault::Ambiguous), || Play::Answer(504, String::new())] {
        let run = play(3, (0..3).map(|_| silence()).collect());
        let whole = vec![0, 1, 2];
        assert_eq!(run.events(), [whole.clone(), whole.clone(), whole, vec![0], vec![1], vec![2]]);
        assert_eq!(run.accepted, [0, 1, 2]);
    }
}

#[test]
fn faults_that_pass_are_retried_whole_and_in_order() {
    for (status, word) in [
        (408, "unavailable"),
        (425, "unavailable"),
        (500, "unavailable"),
        (502, "unavailable"),
        (503, "unavailable"),
        (504, "unavailable"),
        (522, "unavailable"),
        (429, "throttled"),
    ] {
        let run = play(
            3,
            vec![Play::Answer(status, "<html>".to_owned()), Play::Answer(status, String::new())],
        );
        assert_eq!(run.events(), [[0, 1, 2], [0, 1, 2], [0, 1, 2]], "{status}");
        assert_eq!(run.accepted, [0, 1, 2]);
        assert_eq!(run.metric(&format!("{RETRIED_WHOLE}\"{word}\"}}")), 6);
        assert!(run.refused.is_empty());
    }
    for fault in [Fault::Connect, Fault::Ambiguous] {
        let run = play(3, vec![Play::Fail(fault), Play::Fail(fault)]);
        assert_eq!(run.accepted, [0, 1, 2]);
        let ambiguous = u64::from(fault == Fault::Ambiguous) * 2;
        assert_eq!(run.metric("ambiguous_total{api=\"main\"}"), ambiguous);
    }
}

#[test]
fn retry_after_is_a_floor_with_an_end() {
    for status in [429, 503] {
        let run = play(1, vec![Play::RetryAfter(status, 7)]);
        assert!(run.posts[1].at >= Duration::from_secs(7), "{status}: {:?}", run.posts);
        let run = play(1, vec![Play::RetryAfter(status, u64::MAX)]);
        let at = run.posts[1].at.as_secs();
        assert!(
            (30..=31).contains(&at),
            "an outage that is over is found: {status}: {:?}",
            run.posts
        );
    }
}

#[test]
fn a_wait_that_the_api_asks_for_holds_every_key() {
    for status in [429, 500, 503] {
        // 30 keys on 30 channels, and new events all the time.
        let channels: Vec<String> = (0..30).map(|n| format!("/a/{n}")).collect();
        let events = (0..3_000).map(|id| {
            let after = Duration::from_millis(if id < 30 { 0 } else { 30 });
            (after, &*channels[id % 30], "k", id as u64)
        });
        let end = Duration::from_secs(70);
        let run = play_by(events.collect(), move |posted| {
            if posted.at < end { Play::RetryAfter(status, 20) } else { Play::Accept }
        });
        assert_eq!(run.accepted.len(), 3_000);
        let mut asked: Vec<Duration> = run.posts.iter().map(|posted| posted.at).collect();
        asked.retain(|at| *at < end);
        // Four at first, which may be out together; and as many as that, or a probe, once the wait is over.
        assert!((8..=20).contains(&asked.len()), "{status}: {asked:?}");
        for at in asked {
            let (wait, since) = (at.as_millis() / 20_000, at.as_millis() % 20_000);
            assert!(wait <= 3 && since < 1_200, "{status}: a request in the wait, at {at:?}");
        }
        let last = run.posts.last().unwrap().at;
        assert!(last < Duration::from_secs(92), "{status}: it went on after {last:?}");
    }
}

#[test]
fn single_events_have_their_own_fate() {
    let run = play(
        5,
        vec![failed(
            5,
            json!([
                { "index": 1, "code": "EventTooLargeException", "message": "Transformed event is larger than 240KB" },
                { "index": 3, "code": 500, "message": "later" },
            ]),
        )],
    );
    assert_eq!(
        run.events(),
        [vec![0, 1, 2, 3, 4], vec![3]],
        "only what failed for a while is sent again"
    );
    assert_eq!(run.accepted, [0, 2, 4, 3]);
    let why = "EventTooLargeException: Transformed event is larger than 240KB".to_owned();
    assert_eq!(run.refused, [(1, why)]);
    assert_eq!(run.metric("publish_events_total{api=\"main\",outcome=\"rejected\"}"), 1);
    assert_eq!(run.metric("reordered_total{api=\"main\"}"), 1, "4 passed 3");
}

#[test]
fn events_that_are_throttled_singly_slow_the_api_down_and_go_on_when_that_ends() {
    // For a minute every event is throttled, in an answer of status 200.
    let throttled = |n: usize| {
        let of = (0..n).map(|i| json!({ "index": i, "code": "ThrottlingException" }));
        failed(n as u64, of.collect())
    };
    let keys: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    let events = (0..2_000).map(|id| (Duration::from_millis(50), "/a/b", &*keys[id % 20], id));
    let events = events.map(|(after, channel, key, id)| (after, channel, key, id as u64));
    let end = Duration::from_mins(1);
    let run = play_by(events.collect(), move |posted| {
        if posted.at < end { throttled(posted.ids.len()) } else { Play::Accept }
    });
    assert_eq!((run.accepted.len(), run.refused.len()), (2_000, 0));
    let asked = run.posts.iter().filter(|posted| posted.at < end).count();
    assert!((30..400).contains(&asked), "{asked} requests in a minute");
    let late = run.posts.iter().filter(|posted| posted.at > end + Duration::from_secs(12));
    // Each is sent as it comes then: nothing waits any more.
    assert!(late.map(|posted| posted.ids.len()).all(|events| events <= 2));
    assert!(run.metric(&format!("{RETRIED_WHOLE}\"throttled\"}}")) >= 30);
}

#[test]
fn an_event_that_is_throttled_for_what_it_is_slows_nobody_down() {
    let events = (0..20_000).map(|id| (Duration::from_millis(1), "/a/b", "", id));
    let run = play_by(events.collect(), |posted| {
        let own = posted.ids.iter().position(|id| id % 1_000 == 7);
        match own.filter(|_| posted.at < Duration::from_secs(40)) {
            Some(index) => {
                failed(posted.ids.len() as u64, json!([{ "index": index, "code": 429 }]))
            }
            None => Play::Accept,
        }
    });
    assert_eq!(run.accepted.len(), 20_000);
    let others = run.posts.iter().filter(|p| p.ids.iter().any(|id| id % 1_000 != 7));
    assert!(others.map(|p| p.at).max().unwrap() < Duration::from_secs(25));
    let own = run.posts.iter().filter(|p| p.ids.iter().any(|id| id % 1_000 == 7));
    assert!(own.count() < 20 * 40, "each is tried in pauses");
}

#[test]
fn an_event_that_is_named_nowhere_is_unconfirmed_and_not_sent_again() {
    let run =
        play(2, vec![Play::Answer(200, r#"{"failed":[],"successful":[{"index":1}]}"#.to_owned())]);
    assert_eq!(run.events(), [[0, 1]]);
    assert_eq!(run.accepted, [0, 1]);
    assert_eq!(run.metric("publish_events_total{api=\"main\",outcome=\"unconfirmed\"}"), 1);
}

#[test]
fn a_quota_is_used_in_full_whatever_the_answers_name() {
    // An endpoint with a quota, of whose answers nothing says that an event was accepted.
    const QUOTA: f64 = 500.0;
    let nothing = || Play::Answer(200, r#"{"failed":[],"successful":[]}"#.to_owned());
    let channels: Vec<String> = (0..50).map(|n| format!("/a/{n}")).collect();
    let events = (0..10_000).map(|id| (Duration::ZERO, &*channels[id % 50], "", id as u64));
    let (mut bucket, mut filled) = (50.0, Duration::ZERO);
    let run = play_by(events.collect(), move |posted| {
        bucket = (bucket + posted.at.saturating_sub(filled).as_secs_f64() * QUOTA).min(50.0);
        filled = posted.at;
        let events = posted.ids.len() as f64;
        let takes = bucket >= events;
        bucket -= if takes { events } else { 0.0 };
        if takes { nothing() } else { Play::Answer(429, String::new()) }
    });
    let took = run.posts.last().unwrap().at.as_secs_f64();
    assert!(took * QUOTA * 0.95 <= 10_000.0, "{:.3} of the quota", 10_000.0 / took / QUOTA);
    assert!(run.posts.len() <= 2_400, "{} requests for 2,000", run.posts.len());
}

#[test]
fn an_event_that_goes_on_failing_is_given_up_but_not_for_throttling() {
    let own = |_| failed(1, json!([{ "index": 0, "code": "Custom", "message": "no" }]));
    let run = play(1, (0..4).map(own).collect());
    assert_eq!((run.accepted, run.posts.len()), (vec![0], 5));
    let run = play(1, (0..5).map(own).collect());
    assert_eq!((run.refused.len(), run.posts.len()), (1, 5));
    assert!(
        run.refused[0].1.contains("5 tries") && run.refused[0].1.contains("Custom"),
        "{:?}",
        run.refused
    );
    let throttled = |_| failed(1, json!([{ "index": 0, "code": 429, "message": "slow down" }]));
    let run = play(1, (0..12).map(throttled).collect());
    assert_eq!((run.accepted, run.posts.len()), (vec![0], 13));
}

#[test]
fn refusals_of_us_pause_and_discard_nothing() {
    for play_of in [
        || error(401, "UnauthorizedException"),
        || error(403, "UnauthorizedException"),
        || error(403, "AccessDeniedException"),
        || error(403, "ExpiredTokenException"),
        || error(400, "InvalidSignatureException"),
        || Play::Answer(401, String::new()),
        || Play::Answer(403, "<html>".to_owned()),
        || Play::Answer(404, String::new()),
        || Play::Answer(301, String::new()),
        || Play::Answer(307, String::new()),
        || Play::Fail(Fault::Refused),
        || Play::Fail(Fault::Trust),
    ] {
        let run = play(2, vec![play_of(), play_of(), play_of()]);
        assert_eq!(run.accepted, [0, 1]);
        assert!(run.refused.is_empty());
        let at: Vec<u64> = run.posts.iter().map(|posted| posted.at.as_secs()).collect();
        assert_eq!(at[..4], [0, 1, 2, 3], "one probe a second");
        // A probe holds one event.
        let events = [vec![0, 1], vec![0], vec![0], vec![0], vec![1]];
        assert_eq!((at.len(), run.events()), (5, events.to_vec()));
        assert_eq!(run.metric("api_paused{api=\"main\"}"), 0);
    }
}

#[test]
fn a_handler_s_refusal_is_the_event_s_own() {
    let run = play(3, vec![error(403, "TenantBlocked")]);
    assert_eq!(run.events(), [vec![0, 1, 2], vec![0], vec![1], vec![2]], "each alone");
    assert_eq!(run.accepted, [0, 1, 2]);
    let run = play(1, (0..5).map(|_| error(403, "TenantBlocked")).collect());
    assert_eq!(run.posts.len(), 5);
    assert!(run.refused[0].1.contains("TenantBlocked: words"), "{:?}", run.refused);
}

#[test]
fn the_guilty_event_of_a_bad_request_is_found() {
    // 0 is bad: the batch, then alone, and alone again after the others were accepted.
    let bad = || error(400, "BadRequestException");
    let ok = || Play::Answer(200, accepted(1));
    let run = play(2, vec![ok(), bad(), ok()]);
    // One key: what is alone goes in order.
    assert_eq!(run.refused, []);
    assert_eq!(run.accepted.len(), 2);
    let run = play(1, (0..3).map(|_| Play::Answer(413, String::new())).collect());
    assert_eq!((run.refused.len(), run.posts.len()), (1, 1), "too large is certain");
    let run = play(2, vec![Play::Answer(413, String::new()), Play::Answer(413, String::new())]);
    assert_eq!(run.events(), [vec![0, 1], vec![0], vec![1]]);
    assert_eq!((run.accepted, run.refused.len()), (vec![1], 1));
}

#[test]
fn the_guilty_event_is_found_where_the_answers_name_none() {
    let after = Duration::from_secs(1);
    let events = (0..60).map(|id| (after, "/a/b", if id == 20 { "bad" } else { "k" }, id));
    let run = play_by(events.collect(), |posted| {
        if posted.ids.contains(&20) {
            error(400, "BadRequestException")
        } else {
            Play::Answer(200, r#"{"failed":[],"successful":[]}"#.to_owned())
        }
    });
    assert_eq!((run.accepted.len(), run.refused.len()), (59, 1));
    assert_eq!(run.metric("publish_events_total{api=\"main\",outcome=\"accepted\"}"), 0);
    assert_eq!(run.metric("publish_events_total{api=\"main\",outcome=\"unconfirmed\"}"), 59);
}

#[test]
fn events_that_are_sent_again_are_counted_by_the_fault_and_no_others() {
    let own = |_| failed(1, json!([{ "index": 0, "code": "Custom", "message": "no" }]));
    let handler = |_| error(403, "TenantBlocked");
    let too_large = |_| Play::Answer(413, String::new());
    for (count, script, retried) in [
        (1, (0..9).map(own).collect::<Vec<_>>(), [("event", 4), ("bad_request", 0)]),
        // The batch, then each four times more.
        (2, (0..11).map(handler).collect(), [("event", 2 + 2 * 4), ("bad_request", 0)]),
        (1, (0..1).map(too_large).collect(), [("event", 0), ("bad_request", 0)]),
        (2, (0..3).map(too_large).collect(), [("event", 0), ("bad_request", 2)]),
    ] {
        let run = play(count, script);
        assert_eq!(run.refused.len() as u64, count);
        for (fault, times) in retried {
            let said = run.metric(&format!("{RETRIED_WHOLE}\"{fault}\"}}"));
            assert_eq!(said, times, "{fault}: {:?}", run.events());
        }
        let sent: usize = run.posts.iter().map(|posted| posted.ids.len()).sum();
        assert_eq!(sent as u64, count + retried.iter().map(|(_, times)| times).sum::<u64>());
    }
}

#[test]
fn an_api_that_calls_everything_bad_discards_nothing() {
    let run = play(5, (0..30).map(|_| error(400, "BadRequestException")).collect());
    assert_eq!(run.accepted, [0, 1, 2, 3, 4]);
    assert!(run.refused.is_empty());
    let last = run.posts.last().unwrap().at;
    assert!(last >= Duration::from_secs(25), "it asked 30 times in {last:?}");
}

#[test]
fn an_api_that_is_gone_is_asked_once_a_second_and_found_at_once() {
    let run = play(5, (0..60).map(|_| Play::Fail(Fault::Connect)).collect());
    assert_eq!(run.accepted, [0, 1, 2, 3, 4]);
    let late: Vec<Duration> = run.posts.iter().map(|posted| posted.at).skip(10).collect();
    for pair in late.windows(2) {
        let gap = pair[1].abs_diff(pair[0]);
        assert!((990..=1_100).contains(&gap.as_millis()), "{gap:?}");
    }
    assert_eq!(run.metric("publish_breaker_open{api=\"main\"}"), 1, "one answer is not yet enough");
}

#[tokio::test(start_paused = true)]
async fn an_abort_releases_what_is_out_and_what_waits() {
    let post = Script::new(|_| Play::Silence);
    let (metrics, ends, shutdown) = (Metrics::new(), Arc::new(Ends::default()), Shutdown::new());
    let (refused, _given_back) = mpsc::unbounded_channel();
    let (entries, queue) = mpsc::unbounded_channel();
    (0..7).for_each(|id| drop(entries.send(entry("/a/b", "k", id, &ends))));
    let run = tokio::spawn(post.publisher(&metrics, refused).run(queue, shutdown.clone()));
    // On the clock that is turned: when nothing else moves any more, the endpoint is silent.
    sleep(Duration::from_secs(1)).await;
    assert_eq!(post.posts().iter().map(|posted| posted.ids.len()).collect::<Vec<_>>(), [5]);
    assert!(ends.all().is_empty());
    shutdown.start_abort();
    timeout(Duration::from_secs(1), run).await.unwrap().unwrap();
    // The worker is stopped, which takes a turn of the runtime.
    sleep(Duration::from_secs(1)).await;
    let ends = ends.all();
    assert_eq!(ends.len(), 7);
    assert!(ends.iter().all(|(_, o)| *o == Outcome::Released));
}
