//! Pauses end by themselves: a refusal that is over holds nothing up, and one that stays holds up nothing
//! but what it is about. In process, with a scripted endpoint and a clock that is turned.

use std::sync::Arc;
use std::time::Duration;

use appsync_bridge::delivery::{Done, Intake, Outcome};
use appsync_bridge::metrics::Metrics;
use appsync_bridge::publish::post::Fault;
use appsync_bridge::shutdown::Shutdown;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use crate::support::script::{Ends, Play, Posted, Run, Script, entry, error, play, play_by};

const MS: Duration = Duration::from_millis(1);

/// When the requests came for which this holds.
fn times(run: &Run, of: impl Fn(&Posted) -> bool) -> Vec<Duration> {
    run.posts.iter().filter(|posted| of(posted)).map(|posted| posted.at).collect()
}

#[test]
fn what_a_probe_meets_is_asked_again() {
    // The breaker is open; each of these is the answer to its probe, and to the next two.
    for meets in [
        || Play::Fail(Fault::Trust),
        || Play::Fail(Fault::Refused),
        || Play::Fail(Fault::Ambiguous),
        || Play::Answer(404, String::new()),
        || Play::Answer(400, String::new()),
        || Play::Answer(401, String::new()),
        || Play::Answer(200, "<html>".to_owned()),
        || Play::Answer(429, String::new()),
        || error(403, "TenantBlocked"),
        || error(403, "WAFForbiddenException"),
    ] {
        let gone = (0..5).map(|_| Play::Fail(Fault::Connect));
        let run = play(1, gone.chain([meets(), meets(), meets()]).collect());
        assert_eq!((run.accepted, run.posts.len()), (vec![0], 9));
        assert!(run.posts[5].at >= run.posts[4].at + 1_000 * MS, "{:?}", run.posts);
    }
}

#[test]
fn a_namespace_that_is_refused_for_good_does_not_keep_the_others_out() {
    let named = || error(401, "UnauthorizedException");
    for bad in [named, || Play::Answer(403, String::new()), || error(403, "WAFForbiddenException")]
    {
        let quiet = Duration::ZERO;
        let mut events =
            vec![(quiet, "/bad/x", "k".to_owned(), 0), (quiet, "/worse/x", "k".to_owned(), 1)];
        // While those are refused, the credentials expire for all, and are good again.
        let good = (2..500).map(|id| (4 * MS, "/good/x", format!("k{id}"), id));
        events.push((3_000 * MS, "/good/x", "k".to_owned(), 500));
        events.extend(good);
        let end = Duration::from_mins(1);
        let gone = |at: Duration| (3_400..9_000).contains(&at.as_millis());
        let run = play_by(events, move |posted| match posted.at {
            at if at > end => Play::Accept,
            _ if posted.channel != "/good/x" => bad(),
            at if gone(at) => error(401, "ExpiredTokenException"),
            _ => Play::Accept,
        });
        assert_eq!(run.accepted.len() + run.refused.len(), 501);
        let good = times(&run, |posted| posted.channel == "/good/x");
        assert!(*good.last().unwrap() < 11_000 * MS, "{good:?}");
        // Nor is the API tried with more than one request a second meanwhile, whoever asks.
        let tried: Vec<_> = good.iter().filter(|at| gone(**at)).collect();
        assert!((5..=7).contains(&tried.len()), "{tried:?}");
    }
}

#[test]
fn who_never_gets_a_verdict_does_not_keep_the_others_from_asking() {
    // Which namespace comes first is a matter of chance: once is not enough.
    for turn in 0..10 {
        let channels = ["/a/x", "/b/x", "/c/x"];
        let broken = channels[turn % 3];
        let events = (0..30).map(|id| (100 * MS, channels[id as usize % 3], id.to_string(), id));
        // The credentials expire, and when they are good again the handler of one namespace is broken.
        let run = play_by(events.collect(), move |posted| match posted.at.as_millis() {
            1_000..4_000 => error(401, "ExpiredTokenException"),
            at if at < 30_000 && posted.channel == broken => Play::Answer(503, String::new()),
            _ => Play::Accept,
        });
        assert_eq!(run.accepted.len(), 30);
        let others = times(&run, |posted| posted.channel != broken);
        assert!(*others.last().unwrap() < 9_000 * MS, "{broken}: {others:?}");
    }
}

#[test]
fn what_has_no_order_goes_behind_the_others_when_it_is_refused() {
    // The first of all, when nobody knows yet; and one in the midst.
    for bad in [0, 100] {
        let events = (0..2_000).map(|id| (20 * MS, "/a/x", "", id));
        let run = play_by(events.collect(), move |posted| {
            let blocked = posted.ids.contains(&bad);
            if blocked { error(403, "WAFForbiddenException") } else { Play::Accept }
        });
        assert_eq!((run.accepted.len(), run.refused.len()), (1_999, 1));
        let last = times(&run, |posted| posted.ids.contains(&bad)).pop().unwrap();
        assert!(last < Duration::from_secs(30), "{last:?}");
    }
}

#[test]
fn under_full_load_refused_namespaces_get_their_probes() {
    // Each request takes 20 ms and only eight go at a time: 400 a second, with 800 channels in need of them.
    let channels: Vec<String> = (0..800).map(|n| format!("/c/{n}")).collect();
    let refused = ["/r/x", "/s/x"].map(str::to_owned);
    let load = (0..8_000).map(|id| (Duration::ZERO, channels[id % 800].as_str(), "k", id as u64));
    let first = (0..2).map(|id| (Duration::ZERO, refused[id].as_str(), "k", 8_000 + id as u64));
    let run = play_by(first.chain(load).collect(), |posted| match &*posted.channel {
        "/r/x" | "/s/x" if posted.at < 4_000 * MS => Play::After(20, 401),
        _ => Play::After(20, 200),
    });
    assert_eq!(run.accepted.len(), 8_002);
    for channel in refused {
        let probes = times(&run, |posted| posted.channel == channel);
        // The others take 2 s for a round, after which it is a refused one's turn, like anybody's.
        assert!(probes.len() >= 3 && *probes.last().unwrap() < 6_500 * MS, "{probes:?}");
    }
}

#[test]
fn many_refused_namespaces_leave_room_for_a_good_one() {
    // Their probes alone would take more than there is room for: eight at a time, of 200 ms each.
    let refused: Vec<String> = (0..80).map(|n| format!("/r{n}/x")).collect();
    let first = refused.iter().enumerate().map(|(id, channel)| (Duration::ZERO, &**channel, id));
    let good = (80..480).map(|id| (50 * MS, "/good/x", id));
    let events = first.chain(good).map(|(after, channel, id)| (after, channel, "k", id as u64));
    let run = play_by(events.collect(), |posted| match &*posted.channel {
        "/good/x" => Play::After(200, 200),
        _ if posted.at < Duration::from_secs(40) => Play::After(200, 401),
        _ => Play::Accept,
    });
    assert_eq!(run.accepted.len(), 480);
    // A round of all takes 2 to 4 s.
    let early = |posted: &Posted| posted.at < Duration::from_secs(40);
    let good = times(&run, |posted| early(posted) && posted.channel == "/good/x");
    assert!(good.len() >= 8, "{good:?}");
    for channel in refused {
        let probes = times(&run, |posted| early(posted) && posted.channel == channel);
        assert!(probes.len() > 5, "{channel}: {probes:?}");
    }
}

#[test]
fn a_refusal_right_after_a_pause_pauses_at_once() {
    // A firewall that lets through single events, and so each probe, but no batch.
    let channels: Vec<String> = (0..40).map(|n| format!("/a/{n}")).collect();
    let events = (0..200).map(|id| (Duration::ZERO, channels[id % 40].as_str(), "k", id as u64));
    let run = play_by(events.collect(), |posted| match posted.ids.len() {
        1 => Play::Accept,
        _ => error(403, "WAFForbiddenException"),
    });
    assert_eq!(run.accepted.len(), 200);
    // As many as may be out at first, once a second.
    let batches = times(&run, |posted| posted.ids.len() > 1 && posted.at.as_secs() < 8);
    assert!((28..=40).contains(&batches.len()), "{batches:?}");
}

#[test]
fn under_load_a_refused_namespace_gets_a_probe_a_second() {
    // Of a namespace everything is refused for 20 s, while new events come 50 times a second.
    let events = (0..1_500).map(|id| (20 * MS, if id % 2 == 0 { "/a/x" } else { "/b/x" }, "k", id));
    let refused = |at: Duration| (5..25).contains(&at.as_secs());
    let run = play_by(events.collect(), move |posted| match &*posted.channel {
        "/a/x" if refused(posted.at) => error(403, "AccessDeniedException"),
        _ => Play::Accept,
    });
    assert_eq!(run.accepted.len(), 1_500);
    let probes = times(&run, |posted| posted.channel == "/a/x" && refused(posted.at));
    assert!((20..=22).contains(&probes.len()), "{probes:?}");
    let flowed = times(&run, |posted| posted.channel == "/b/x" && refused(posted.at));
    assert!(flowed.len() > 450, "only {} requests for the other namespace", flowed.len());
}

#[test]
fn an_event_that_is_refused_whatever_its_neighbours_get_goes_alone() {
    // One of 3,000, a request with which is answered like a refusal of the bridge in its namespace, or in all, for half a
    // minute.
    for status in [403, 404, 307, 407, 511] {
        goes_alone(status);
    }
}

fn goes_alone(status: u16) {
    let events = (0..3_000).map(|id| (10 * MS, "/a/x", if id == 100 { "bad" } else { "k" }, id));
    let until = Duration::from_secs(40);
    let run = play_by(events.collect(), move |posted| {
        let bad = posted.ids.contains(&100) && posted.at < until;
        if bad { Play::Answer(status, "<html>".to_owned()) } else { Play::Accept }
    });
    assert_eq!((run.accepted.len(), run.refused.len()), (3_000, 0));
    let tries = times(&run, |posted| posted.ids.contains(&100) && posted.at < until);
    // Of a paused API it is the first to ask; and once a second at the end, where nothing else is left.
    assert!(tries.len() < 60, "{tries:?}");
    // Its neighbours wait for a second now and then, and flow else.
    let mut seconds = [0; 30];
    for posted in run.posts.iter().filter(|posted| !posted.ids.contains(&100)) {
        if let Some(second) = seconds.get_mut(posted.at.as_secs() as usize) {
            *second += posted.ids.len();
        }
    }
    let total: usize = seconds.iter().sum();
    // Fewest at first, until it is known which one it is: 83 were the least of 600 runs, each with other waits.
    let flows = seconds.windows(6).all(|six| six.iter().sum::<usize>() >= 60);
    assert!(flows && total >= 2_700, "{total} in 30 seconds: {seconds:?}");
}

#[test]
fn what_is_slow_to_be_refused_pauses_nothing_that_goes_on() {
    // Sent before the pause, refused after it: of the time after it that says nothing.
    let events = [("/a/w", 0), ("/a/x", 1), ("/a/x", 2)].map(|(lane, id)| (MS, lane, "k", id));
    let later = (3..103).map(|id| (20 * MS, "/a/y", "k", id));
    let events = events.into_iter().chain([(1_200 * MS, "/a/y", "k", 103)]).chain(later);
    let run = play_by(events.collect(), |posted| match (&*posted.channel, posted.at.as_millis()) {
        ("/a/w", at) if at < 1_000 => Play::After(2_000, 401),
        ("/a/x", at) if at < 1_000 => Play::After(10, 401),
        _ => Play::Accept,
    });
    assert_eq!(run.accepted.len(), 104);
    let mut at = times(&run, |posted| posted.channel == "/a/y");
    at.retain(|at| *at > 1_300 * MS);
    let longest = at.windows(2).map(|pair| pair[1].abs_diff(pair[0])).max().unwrap();
    assert!(longest < 100 * MS, "{at:?}");
}

#[test]
fn a_firewall_that_takes_others_has_something_against_the_event() {
    let events = (0..2_000).map(|id| (50 * MS, "/a/x", if id == 20 { "bad" } else { "k" }, id));
    let run = play_by(events.collect(), |posted| {
        let bad = posted.ids.contains(&20);
        if bad { error(403, "WAFForbiddenException") } else { Play::Accept }
    });
    assert_eq!(run.accepted.len(), 1_999);
    let why = "given up after 5 tries: 403 WAFForbiddenException: words";
    assert_eq!(run.refused, [(20, why.to_owned())]);
    let tries = times(&run, |posted| posted.ids.contains(&20));
    assert!(*tries.last().unwrap() > tries[0] + 5_000 * MS, "soon: {tries:?}");
}

#[test]
fn a_firewall_that_lets_in_some_or_nobody_means_us() {
    let run = play(3, (0..20).map(|_| error(403, "WAFForbiddenException")).collect());
    assert_eq!((run.accepted.len(), run.refused.len()), (3, 0));
    // Every second request, for ten seconds: such as by one of two addresses that we are seen from.
    let events = (0..2_000).map(|id| (10 * MS, "/a/x", id.to_string(), id));
    let mut coin = StdRng::seed_from_u64(1);
    let run = play_by(events.collect(), move |posted| {
        let blocked = (2..12).contains(&posted.at.as_secs()) && coin.random_bool(0.5);
        if blocked { error(403, "WAFForbiddenException") } else { Play::Accept }
    });
    assert_eq!((run.accepted.len(), run.refused.len()), (2_000, 0));
}

#[test]
fn an_api_that_calls_all_bad_is_asked_once_a_second_however_much_comes() {
    const CHANNELS: [&str; 5] = ["/a/v", "/a/w", "/a/x", "/a/y", "/a/z"];
    let events = (0..1_500).map(|id| (20 * MS, CHANNELS[id as usize % 5], id.to_string(), id));
    let bad = |at: Duration| (12..30).contains(&at.as_secs());
    // What was accepted long ago says nothing: a quiet time is between.
    let events = events.map(|(after, channel, key, id)| {
        (if id == 50 { 11_000 * MS } else { after }, channel, key, id)
    });
    let run = play_by(events.collect(), move |posted| {
        if bad(posted.at) { error(400, "BadRequestException") } else { Play::Accept }
    });
    assert_eq!((run.accepted.len(), run.refused.len()), (1_500, 0));
    let asked = times(&run, |posted| bad(posted.at));
    assert!(asked.len() <= 20, "{} requests in 18 s: {asked:?}", asked.len());
}

#[test]
fn a_guilty_event_leaves_no_pause_behind() {
    // It comes first in its namespace, when nothing was taken yet: so it may be us. Then it is found guilty.
    let events = (0..500).map(|id| (50 * MS, if id == 0 { "/a/x" } else { "/b/x" }, "k", id));
    let run = play_by(events.collect(), |posted| match &*posted.channel {
        "/a/x" => error(400, "BadRequestException"),
        _ => Play::Accept,
    });
    assert_eq!((run.accepted.len(), run.refused.len()), (499, 1));
}

#[test]
fn a_guilty_event_is_found_where_nothing_can_come_before_it() {
    // One key, so what stands behind it waits: all at once, in turns with the answers, and slower than those.
    for (gap, guilty) in [(0, 50..51), (1, 50..51), (100, 50..51), (0, 51..54), (0, 0..1)] {
        let bad: Vec<u64> = guilty.collect();
        let events = (0..100).map(|id| (gap * MS, "/a/x", "k", id));
        let first = bad[0] == 0;
        let events = (first.then_some((MS, "/b/x", "k", 100))).into_iter().chain(events);
        let of = bad.clone();
        let run = play_by(events.collect(), move |posted| {
            let is_bad = posted.ids.iter().any(|id| of.contains(id));
            if is_bad { error(400, "BadRequestException") } else { Play::Accept }
        });
        let found: Vec<u64> = run.refused.iter().map(|(id, _)| *id).collect();
        assert_eq!((run.accepted.len(), found), (100 + usize::from(first) - bad.len(), bad));
        // If it is known by its neighbours, soon; else by half a minute of asking.
        let last = run.posts.last().unwrap().at;
        assert!(last < Duration::from_secs(45), "{gap} ms apart: {last:?}");
    }
}

#[test]
fn a_bad_request_that_speaks_of_us_is_believed_unless_others_are_taken() {
    // An event that is quoted.
    let events = (0..500).map(|id| (20 * MS, "/a/x", if id == 50 { "bad" } else { "k" }, id));
    let run = play_by(events.collect(), move |posted| {
        let is_bad = posted.ids.contains(&50);
        if is_bad { says("not an event: 'the signature has expired'") } else { Play::Accept }
    });
    assert_eq!((run.accepted.len(), run.refused.len()), (499, 1));
    assert!(run.posts.last().unwrap().at < Duration::from_secs(12));
    // A signature that is bad, from right after it was good.
    for keys in [1, 20] {
        let keys: Vec<String> = (0..keys).map(|n: u64| n.to_string()).collect();
        let events = (0..500).map(|id| (20 * MS, "/a/x", &*keys[id % keys.len()], id as u64));
        let broken = |at: Duration| (3..303).contains(&at.as_secs());
        let run = play_by(events.collect(), move |posted| {
            if broken(posted.at) { says("Signature expired") } else { Play::Accept }
        });
        assert_eq!((run.accepted.len(), run.refused.len()), (500, 0));
        let asked = times(&run, |posted| broken(posted.at));
        assert!(asked.len() < 320, "{} requests in 300 s", asked.len());
    }
}

#[test]
fn an_api_that_breaks_right_after_it_took_events_makes_none_guilty_or_one() {
    // For five minutes nothing is taken any more.
    for (keys, most) in [(1, 1), (2, 0), (100, 0)] {
        let keys: Vec<String> = (0..keys).map(|n: u64| n.to_string()).collect();
        let events = (0..1_000).map(|id| (20 * MS, "/a/x", &*keys[id % keys.len()], id as u64));
        let broken = |at: Duration| (3..303).contains(&at.as_secs());
        let run = play_by(events.collect(), move |posted| {
            if broken(posted.at) { error(400, "BadRequestException") } else { Play::Accept }
        });
        assert!(run.refused.len() <= most, "{}: {:?}", keys.len(), run.refused);
    }
}

/// A bad request, in these words.
fn says(words: &str) -> Play {
    let errors = json!({ "errors": [{ "errorType": "BadRequestException", "message": words }] });
    Play::Answer(400, errors.to_string())
}

#[test]
fn an_answer_to_an_earlier_request_proves_nothing_of_an_api_that_broke() {
    // What was sent just before is accepted behind the first refusal, and nothing else is for five minutes.
    let keys = ["0", "1", "2", "3", "4", "5"];
    let event = |id: u64| match id {
        0 => (20 * MS, "/b/x", "k", id),
        1 => (MS, "/a/x", keys[1], id),
        _ => (Duration::ZERO, "/a/x", keys[id as usize], id),
    };
    let run = play_by((0..6).map(event).collect(), |posted| match posted.at.as_millis() {
        0..21 => Play::After(20, 200),
        21..300_000 => Play::After(10, 400),
        _ => Play::Accept,
    });
    assert_eq!((run.accepted.len(), run.refused.len()), (6, 0), "{:?}", run.refused);
}

#[test]
fn one_acceptance_proves_no_more_than_one_event_guilty() {
    // Of a batch one event is taken, and nothing else for five minutes.
    let keys = ["0", "1", "2", "3", "4"];
    let events = (0..5).map(|id| (Duration::ZERO, "/a/x", keys[id], id as u64));
    let run = play_by(events.collect(), |posted| match posted.at.as_secs() {
        0..300 if posted.ids != [0] => error(400, "BadRequestException"),
        _ => Play::Accept,
    });
    assert!(run.refused.len() <= 1, "{:?}", run.refused);
}

#[test]
fn what_another_namespace_gets_once_makes_no_event_guilty() {
    // Nothing is taken; then once more from one of two namespaces, which has no more to send.
    let events = (0..300).map(|id| (20 * MS, if id % 2 == 0 { "/a/x" } else { "/b/x" }, "k", id));
    let run = play_by(events.collect(), |posted| match (&*posted.channel, posted.at.as_millis()) {
        ("/a/x", 2_000..20_000) | ("/b/x", 2_000..5_200) => error(400, "BadRequestException"),
        _ => Play::Accept,
    });
    assert_eq!((run.accepted.len(), run.refused.len()), (300, 0));
}

#[tokio::test(start_paused = true)]
async fn others_are_let_in_when_only_the_refused_are_left_to_ask() {
    // It is the wrong endpoint for a while, twice; one namespace is refused all the time.
    let post = Script::new(|posted| match posted.at.as_secs() {
        2..5 | 20..25 => Play::Answer(404, String::new()),
        _ if posted.channel == "/bad/x" => Play::After(500, 403),
        _ => Play::Accept,
    });
    let (metrics, ends, shutdown) = (Metrics::new(), Arc::new(Ends::default()), Shutdown::new());
    let (refused, _given_back) = mpsc::unbounded_channel();
    let (entries, queue) = mpsc::unbounded_channel();
    let publisher = post.publisher(&metrics, refused);
    let intake = Intake::new(drop).behind(vec![publisher.gate()]);
    let run = tokio::spawn(publisher.run(queue, shutdown.clone()));
    let begun = Instant::now();
    let at = |second: u64| sleep_until(begun + Duration::from_millis(second * 1_000 + 500));
    let push = |channel, id| drop(entries.send(entry(channel, "k", id, &ends)));

    push("/bad/x", 0);
    at(7).await;
    // What asks is refused itself, so nobody knows that the API is good again: who will find out?
    for _ in 0..30 {
        assert!(intake.is_open());
        sleep(100 * MS).await;
    }
    push("/good/x", 1);
    at(13).await;
    assert_eq!(ends.all(), [(1, Outcome::Accepted(Done::Published))]);
    at(20).await;
    push("/good/x", 2);
    at(22).await;
    assert!(!intake.is_open(), "there is one to ask with");
    at(27).await;
    assert!(intake.is_open() && ends.all().len() == 2);
    shutdown.start_abort();
    run.await.unwrap();
}
