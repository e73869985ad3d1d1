//! Pauses end by themselves: a refusal that is over holds nothing up, and one that stays holds up nothing
//! but what it is about (T32). In process, with a scripted endpoint and a clock that is turned.

use std::time::Duration;

use appsync_bridge::publish::verdict::Fault;

use crate::support::script::{Play, Posted, Run, error, play, play_by};

const MS: Duration = Duration::from_millis(1);

/// When the requests came for which this holds.
fn times(run: &Run, of: impl Fn(&Posted) -> bool) -> Vec<Duration> {
    run.posts.iter().filter(|posted| of(posted)).map(|posted| posted.at).collect()
}

#[test]
fn what_a_probe_meets_is_asked_again() {
    // The breaker is open; each of these is the answer to its probe.
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
    }
}

#[test]
fn a_namespace_that_is_refused_for_good_does_not_keep_the_others_out() {
    // Who asks first after a pause of the API is a matter of chance: once is not enough.
    for turn in 0..20 {
        let events = [
            (Duration::ZERO, "/bad/x", "k", 0),
            // While that is refused, the credentials expire for all, and are good again.
            (3_500 * MS, "/good/x", "k", 1),
            (Duration::ZERO, "/good/y", "k", 2),
        ];
        let end = Duration::from_mins(1);
        let run = play_by(events.to_vec(), move |posted| match posted.at {
            at if at > end => Play::Accept,
            at if (3_400..5_600).contains(&at.as_millis()) => error(401, "ExpiredTokenException"),
            _ if posted.channel.starts_with("/bad/") => error(401, "UnauthorizedException"),
            _ => Play::Accept,
        });
        assert_eq!(run.accepted.len(), 3);
        let good = times(&run, |posted| posted.channel.starts_with("/good/"));
        assert!(*good.last().unwrap() < 8_000 * MS, "turn {turn}: {good:?}");
        let all = times(&run, |_| true);
        assert!(all.len() < 75, "more than a probe a second: {}", all.len());
    }
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
    // One of 3,000, a request with which is answered like a refusal of the bridge, for half a minute.
    let events = (0..3_000).map(|id| (10 * MS, "/a/x", if id == 100 { "bad" } else { "k" }, id));
    let until = Duration::from_secs(40);
    let run = play_by(events.collect(), move |posted| {
        let bad = posted.ids.contains(&100) && posted.at < until;
        if bad { Play::Answer(403, "<html>".to_owned()) } else { Play::Accept }
    });
    assert_eq!((run.accepted.len(), run.refused.len()), (3_000, 0));
    let tries = times(&run, |posted| posted.ids.contains(&100) && posted.at < until);
    assert!(tries.len() < 40, "{tries:?}");
    // Its neighbours wait for a second now and then, and flow else.
    let seconds: std::collections::BTreeSet<u64> =
        times(&run, |posted| !posted.ids.contains(&100)).iter().map(Duration::as_secs).collect();
    let flowed = seconds.iter().filter(|second| **second < 30).count();
    assert!(flowed >= 20, "they flowed in {flowed} of 30 seconds: {seconds:?}");
}

#[test]
fn a_firewall_that_takes_others_has_something_against_the_event() {
    let events = (0..200).map(|id| (50 * MS, "/a/x", if id == 20 { "bad" } else { "k" }, id));
    let run = play_by(events.collect(), |posted| {
        let bad = posted.ids.contains(&20);
        if bad { error(403, "WAFForbiddenException") } else { Play::Accept }
    });
    assert_eq!(run.accepted.len(), 199);
    assert_eq!(run.refused, [(20, "403 WAFForbiddenException: words".to_owned())]);
    // One that lets nobody in means us.
    let run = play(3, (0..20).map(|_| error(403, "WAFForbiddenException")).collect());
    assert_eq!((run.accepted.len(), run.refused.len()), (3, 0));
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
