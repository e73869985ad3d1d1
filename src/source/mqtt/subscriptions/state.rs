//! How it stands with one subscription, and what is to be said of a change. Pure.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::config::mqtt::Subscription;

/// What is to be said, once.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Change {
    /// A filter is refused, for this reason.
    Refused(String, String),
    /// A filter that was refused is granted.
    Granted(String),
    /// A filter is granted with QoS 0, but more was asked for.
    AtMostOnce(String),
    /// Filters overlap, and the broker can't tell copies apart.
    NoIdentifiers,
}

/// How it stands with one subscription.
#[derive(Debug)]
pub(super) struct State {
    pub(super) subscription: Subscription,
    /// Those that have topics in common with it.
    pub(super) meets: Vec<usize>,
    pub(super) asking: Asking,
    /// On this connection.
    pub(super) grant: Option<Grant>,
    /// Why it is refused, as it was said.
    pub(super) refused: Option<String>,
    /// It was said that the grant is of QoS 0.
    pub(super) at_most_once: bool,
    pub(super) corrections: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asking {
    Due,
    Asked,
    Answered,
}

#[derive(Debug)]
pub(super) struct Grant {
    pub(super) qos: u8,
    /// Those it stands back for, as its identifier says.
    pub(super) before: BTreeSet<usize>,
}

impl State {
    /// The lower counts more: by the QoS that is granted, or else asked for.
    pub(super) fn rank(&self, number: usize) -> (Reverse<u8>, usize) {
        let asked = self.subscription.qos.number();
        (Reverse(self.grant.as_ref().map_or(asked, |grant| grant.qos)), number)
    }

    pub(super) fn is_refused(&self) -> bool {
        self.grant.is_none() && self.asking == Asking::Answered
    }

    pub(super) fn granted(&mut self, grant: Grant) -> Vec<Change> {
        let filter = || self.subscription.filter.clone();
        let mut changes = Vec::new();
        if self.refused.take().is_some() {
            changes.push(Change::Granted(filter()));
        }
        let lower = grant.qos == 0 && self.subscription.qos.is_kept();
        if lower && !self.at_most_once {
            changes.push(Change::AtMostOnce(filter()));
        }
        self.at_most_once = lower;
        self.grant = Some(grant);
        changes
    }

    pub(super) fn refused(&mut self, why: String) -> Option<Change> {
        self.grant = None;
        let known = self.refused.replace(why.clone());
        (known.as_ref() != Some(&why))
            .then(|| Change::Refused(self.subscription.filter.clone(), why))
    }
}
