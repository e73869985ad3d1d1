//! Dead letters that no route names any more: events that came by the routes before may still need them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use tokio_util::sync::CancellationToken;

use super::running::Running;
use crate::config::{DeadLetterName, is_same_file};
use crate::pipeline::Pipeline;
use crate::reload::Part;
use crate::route::{RejectTo, RouteTable, Spec};

/// The dead letters that wait for the last of these events, and what there was of routes since the first
/// configuration.
#[derive(Default)]
pub(super) struct Retired {
    waiting: BTreeMap<DeadLetterName, (Running<()>, Option<PathBuf>)>,
    /// Those that have ended before, and the one that takes what is for them: it has their file.
    led: BTreeMap<DeadLetterName, DeadLetterName>,
    pasts: Vec<Past>,
}

/// The routes of a configuration, which are gone when no source has them, and no event that came by them is left.
pub(super) struct Past {
    pipeline: Weak<Pipeline>,
    routes: Vec<Weak<Spec>>,
}

impl Past {
    /// Those of `table`, which `pipeline` has.
    pub(super) fn of(pipeline: &Arc<Pipeline>, table: &RouteTable) -> Self {
        let routes = table.routes().iter().map(Arc::downgrade).collect();
        Self { pipeline: Arc::downgrade(pipeline), routes }
    }

    fn is_over(&self) -> bool {
        self.pipeline.strong_count() == 0 && self.routes.iter().all(|r| r.strong_count() == 0)
    }

    /// Whether a reject may go to this dead letter. Of a source that still has these routes any may, as it may be
    /// unrouted.
    fn needs(&self, name: &DeadLetterName, in_force: bool) -> bool {
        let names = |route: &Weak<Spec>| {
            route.upgrade().is_some_and(|r| r.dead_letter == RejectTo::DeadLetter(name.clone()))
        };
        (self.pipeline.strong_count() > 0 && !in_force) || self.routes.iter().any(names)
    }
}

impl Retired {
    /// These routes are in force from now on.
    pub(super) fn note(&mut self, past: Past) {
        self.pasts.retain(|past| !past.is_over());
        self.pasts.push(past);
    }

    /// Keeps a dead letter for as long as it may be needed.
    pub(super) fn add(&mut self, name: &DeadLetterName, it: Running<()>, file: Option<PathBuf>) {
        self.waiting.insert(Arc::clone(name), (it, file));
    }

    /// The dead letter of this name is another one now.
    pub(super) fn remove(
        &mut self,
        name: &DeadLetterName,
    ) -> Option<(Running<()>, Option<PathBuf>)> {
        self.led.remove(name);
        self.waiting.remove(name)
    }

    /// What is for `name`, and for those that are led to it, is for `to` from now on.
    pub(super) fn lead(&mut self, name: DeadLetterName, to: &DeadLetterName) {
        self.led.values_mut().filter(|at| **at == name).for_each(|at| *at = Arc::clone(to));
        self.led.insert(name, Arc::clone(to));
    }

    /// Those whose place this one has taken.
    pub(super) fn led_to(&self, name: &DeadLetterName) -> Vec<DeadLetterName> {
        let led = self.led.iter().filter(|(_, to)| *to == name);
        led.map(|(name, _)| Arc::clone(name)).collect()
    }

    /// Those that write to `file`.
    pub(super) fn writers(&self, file: &Path) -> impl Iterator<Item = DeadLetterName> {
        let is_it = |to: &PathBuf| is_same_file(to, file);
        let writers =
            self.waiting.iter().filter(move |(_, (_, to))| to.as_ref().is_some_and(is_it));
        writers.map(|(name, _)| Arc::clone(name))
    }

    /// Whether this is one that still runs.
    pub(super) fn contains(&self, part: &Part) -> bool {
        matches!(part, Part::DeadLetter(name) if self.waiting.contains_key(name))
    }

    /// Whether none is kept.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.led.is_empty()
    }

    /// The files that are still written to, and when they are no more.
    pub(super) fn files(&self) -> impl Iterator<Item = (PathBuf, CancellationToken)> {
        self.waiting.values().filter_map(|(it, file)| Some((file.clone()?, it.ended.clone())))
    }

    /// Those that nobody needs any more.
    pub(super) fn take_unneeded(&mut self) -> Vec<(DeadLetterName, Running<()>, Option<PathBuf>)> {
        let Self { waiting, led, pasts } = self;
        let serves = |name: &DeadLetterName| {
            led.iter().any(|(of, to)| to == name && needed(pasts, of)) || needed(pasts, name)
        };
        let unneeded = waiting.extract_if(.., |name, _| !serves(name));
        unneeded.map(|(name, (it, file))| (name, it, file)).collect()
    }

    /// The names that are led to another one, and that nobody has any more.
    pub(super) fn take_unneeded_names(&mut self) -> Vec<DeadLetterName> {
        let Self { led, pasts, .. } = self;
        led.extract_if(.., |name, _| !needed(pasts, name)).map(|(name, _)| name).collect()
    }
}

/// Whether an event that came by any of these routes, the last of which are in force, may need this dead letter.
fn needed(pasts: &[Past], name: &DeadLetterName) -> bool {
    let newest = pasts.len().saturating_sub(1);
    pasts.iter().enumerate().any(|(at, past)| past.needs(name, at == newest))
}
