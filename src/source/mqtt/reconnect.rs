//! How fast to connect again, and what to say of it. Pure.

use std::time::Duration;

use super::diagnosis::{Kind, Stage, Trouble};
use crate::config::mqtt::MqttConfig;
use crate::source::reconnect::{self, is_good};

/// The first reconnect waits up to this long.
const BASE: Duration = Duration::from_millis(100);

/// So many connections in a row that the broker took and closed soon have a cause of their own.
const SHORT_IN_A_ROW: u32 = 3;

/// When to connect again.
#[derive(Debug)]
pub(super) struct Reconnect {
    policy: reconnect::Reconnect<(Kind, bool)>,
    /// Connections in a row that the broker took and closed soon.
    short: u32,
}

/// What to do after the end of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) wait: Duration,
    /// Whether to say so.
    pub(super) say: bool,
    /// Whether another client of the same name is the likely cause.
    pub(super) maybe_taken_over: bool,
}

impl Next {
    /// What to look at; empty where the words of the trouble say it all.
    pub(super) fn hint(&self, trouble: &Trouble, config: &MqttConfig) -> String {
        let hint = trouble.hint(config);
        // A client without a name is given one that nobody else has.
        if !self.maybe_taken_over || config.client_id.is_empty() {
            return hint;
        }
        let likely = "another client may use the same `client_id`: give each its own";
        if hint.is_empty() { likely.to_owned() } else { format!("{likely}; or {hint}") }
    }
}

impl Reconnect {
    /// Nothing has failed yet.
    pub(super) fn new() -> Self {
        Self { policy: reconnect::Reconnect::new(BASE), short: 0 }
    }

    /// A connection ended, `held` after its subscriptions were confirmed.
    pub(super) fn ended(&mut self, trouble: &Trouble, held: Option<Duration>) -> Next {
        let (kind, stage) = (trouble.kind, trouble.stage);
        let closed = matches!(kind, Kind::Closed | Kind::CutShort);
        let short = !is_good(held) && stage > Stage::Connecting && closed;
        self.short = if short { self.short.saturating_add(1) } else { 0 };
        let maybe_taken_over = self.short >= SHORT_IN_A_ROW;
        let reconnect::Next { wait, say } = self.policy.ended((kind, maybe_taken_over), held);
        Next { wait, say, maybe_taken_over }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(reconnect: &mut Reconnect, held: u64) -> Next {
        reconnect.ended(&trouble(Kind::Closed, Stage::Subscribed), Some(Duration::from_secs(held)))
    }

    fn trouble(kind: Kind, stage: Stage) -> Trouble {
        Trouble { what: String::new(), kind, stage }
    }

    /// Of a connection that did not come to hold.
    fn taken_over(reconnect: &mut Reconnect, kind: Kind, stage: Stage) -> bool {
        reconnect.ended(&trouble(kind, stage), None).maybe_taken_over
    }

    #[test]
    fn short_connections_slow_it_down_and_have_a_likely_cause() {
        let mut reconnect = Reconnect::new();
        assert!(
            !closed(&mut reconnect, 1).maybe_taken_over
                && !closed(&mut reconnect, 0).maybe_taken_over
        );
        let third = closed(&mut reconnect, 9);
        assert!(third.maybe_taken_over && third.say);
        for _ in 0..100 {
            assert!(closed(&mut reconnect, 30).maybe_taken_over);
        }
        let good = closed(&mut reconnect, 61);
        assert!(!good.maybe_taken_over && good.wait <= BASE);
    }

    #[test]
    fn what_the_broker_never_took_is_no_take_over() {
        let mut reconnect = Reconnect::new();
        for _ in 0..20 {
            assert!(!taken_over(&mut reconnect, Kind::Closed, Stage::Connecting));
            assert!(!taken_over(&mut reconnect, Kind::Other, Stage::Subscribed));
        }
        // A broker that restarts closes, and then nobody listens.
        for _ in 0..5 {
            assert!(!closed(&mut reconnect, 1).maybe_taken_over);
            assert!(!closed(&mut reconnect, 1).maybe_taken_over);
            assert!(!taken_over(&mut reconnect, Kind::NobodyListens, Stage::Connecting));
        }
    }

    #[test]
    fn a_likely_cause_is_new() {
        let mut reconnect = Reconnect::new();
        let mut says = |stage| reconnect.ended(&trouble(Kind::Closed, stage), None).say;
        let said = (0..6).filter(|_| says(Stage::Connecting)).count();
        assert_eq!(said, 3);
        let said: Vec<_> = (1..=3).filter(|_| says(Stage::Subscribed)).collect();
        assert_eq!(said, [3]);
    }
}
