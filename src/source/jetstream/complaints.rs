//! What the server complains of. What it refuses is named by what it is, not by each message; what nothing works
//! without keeps the source from being ready for as long as it is refused. Pure.

use std::time::{Duration, Instant};

use crate::config::nats::Connection;
use crate::nats::{Kind, Trouble};
use crate::repeats::Repeats;

/// The same is said so often.
const SAY_EVERY: Duration = Duration::from_mins(1);

/// So many are told apart.
const MOST: usize = 16;

/// A request that was refused is made again within this: it is waited for, and then for the next try.
const ASKED_AGAIN: Duration = Duration::from_secs(15);

/// Subjects of which each message has its own.
const FAMILIES: [&str; 2] = [ACKNOWLEDGEMENTS, INBOXES];
const ACKNOWLEDGEMENTS: &str = "$JS.ACK.";
const INBOXES: &str = "_INBOX.";

/// The complaints of the server of one source.
pub(super) struct Complaints {
    /// Where it asks for messages.
    next: String,
    /// What is refused is refused again within this.
    within: Duration,
    said: Vec<(String, Repeats)>,
    /// Refused since the last question.
    question: Option<String>,
    /// Why nothing is delivered or acknowledged, and when that was heard last.
    refused: Option<(String, Instant)>,
}

impl Complaints {
    /// None yet, of one that asks for messages at `next`. What can't be acknowledged comes again after `ack_wait`.
    pub(super) fn new(next: &str, ack_wait: Duration) -> Self {
        let within = ASKED_AGAIN + ack_wait * 5 / 4;
        Self { next: next.to_owned(), within, said: Vec::new(), question: None, refused: None }
    }

    /// The server complains. Gives the words, and if they are to be said how often that was since the last time.
    pub(super) fn heard(
        &mut self,
        trouble: &Trouble,
        config: &Connection,
        now: Instant,
    ) -> (String, Option<u64>) {
        let what = in_general(&trouble.what);
        let vital = FAMILIES.into_iter().chain([&*self.next]).any(|it| what.contains(it));
        let why = Trouble { what, kind: trouble.kind }.in_words(config);
        if trouble.kind == Kind::Permission {
            self.question = Some(why.clone());
            if vital {
                self.refused = Some((why.clone(), now));
            }
        }
        (why.clone(), self.repeats(&why).again(SAY_EVERY, now))
    }

    /// The server is asked something.
    pub(super) fn ask(&mut self) {
        self.question = None;
    }

    /// Why there may be no answer: a request that is not permitted has none, but a complaint.
    pub(super) fn no_answer(&mut self) -> Option<String> {
        self.question.take()
    }

    /// Why nothing is delivered or acknowledged, if that was refused of late.
    pub(super) fn why(&self, now: Instant) -> Option<String> {
        let of_late = |(_, at): &&(String, Instant)| now.duration_since(*at) <= self.within;
        self.refused.as_ref().filter(of_late).map(|(why, _)| why.clone())
    }

    fn repeats(&mut self, why: &str) -> &mut Repeats {
        let at = self.said.iter().position(|(said, _)| said == why).unwrap_or_else(|| {
            if self.said.len() == MOST {
                self.said.remove(0);
            }
            self.said.push((why.to_owned(), Repeats::default()));
            self.said.len() - 1
        });
        &mut self.said[at].1
    }
}

/// The same of all the subjects of a family.
fn in_general(what: &str) -> String {
    for family in FAMILIES {
        if let Some((before, rest)) = what.split_once(family) {
            let end = rest.find('"').map_or("\"", |end| &rest[end..]);
            return format!("{before}{family}>{end}");
        }
    }
    what.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEXT: &str = "$JS.API.CONSUMER.MSG.NEXT.S.d";
    const ACK_WAIT: Duration = Duration::from_secs(4);

    fn violation(verb: &str, subject: &str) -> Trouble {
        Trouble::of_words(&format!("nats: Permissions Violation for {verb} to \"{subject}\""))
    }

    fn config() -> Connection {
        Connection { servers: Vec::new(), auth: None, tls: None, tls_first: false }
    }

    #[test]
    fn each_refused_acknowledgement_is_the_same_complaint() {
        let (mut complaints, mut now) = (Complaints::new(NEXT, ACK_WAIT), Instant::now());
        let mut said = Vec::new();
        for sequence in 0..1_000 {
            now += Duration::from_millis(100);
            let ack = violation("Publish", &format!("$JS.ACK.S.d.1.{sequence}.{sequence}.17.0"));
            let (why, times) = complaints.heard(&ack, &config(), now);
            assert!(
                why.starts_with("Permissions Violation for Publish to \"$JS.ACK.>\"; let"),
                "{why}"
            );
            assert_eq!(complaints.why(now), Some(why));
            said.extend(times);
        }
        assert_eq!(said, [1, 600]);
        let other = violation("Publish", "$JS.API.STREAM.INFO.S");
        assert_eq!(complaints.heard(&other, &config(), now).1, Some(1));
        // It is refused again as often as the messages come again.
        assert!(complaints.why(now + ACK_WAIT * 5 / 4).is_some());
        assert_eq!(complaints.why(now + ASKED_AGAIN + ACK_WAIT * 2), None);
    }

    #[test]
    fn only_what_nothing_works_without_is_in_the_way() {
        let now = Instant::now();
        for (verb, subject, vital) in [
            ("Publish", NEXT, true),
            ("Subscription", "_INBOX.abc.def", true),
            ("Publish", "$JS.API.STREAM.INFO.S", false),
            ("Subscription", "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.S.d", false),
        ] {
            let mut complaints = Complaints::new(NEXT, ACK_WAIT);
            let (why, _) = complaints.heard(&violation(verb, subject), &config(), now);
            assert_eq!(complaints.why(now), vital.then(|| why.clone()), "{subject}");
            assert_eq!(complaints.no_answer(), Some(why));
            complaints.heard(&violation(verb, subject), &config(), now);
            complaints.ask();
            assert_eq!(complaints.no_answer(), None);
        }
        let mut complaints = Complaints::new(NEXT, ACK_WAIT);
        complaints.heard(&Trouble::of_words("nats: Weather"), &config(), now);
        assert_eq!((complaints.why(now), complaints.no_answer()), (None, None));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut complaints = Complaints::new(NEXT, ACK_WAIT);
        for number in 0..100 {
            complaints.heard(&violation("Publish", &number.to_string()), &config(), Instant::now());
        }
        assert_eq!(complaints.said.len(), MOST);
    }
}
