//! Dead letters that no route names any more: events that came by the routes before may still need them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use tokio_util::sync::CancellationToken;

use super::running::Running;
use crate::config::DeadLetterName;
use crate::pipeline::Pipeline;
use crate::route::{RejectTo, RouteTable, Spec};

/// The dead letters that wait for the last of these events, and what there was of routes since the first
/// configuration.
#[derive(Default)]
pub(super) struct Retired {
    waiting: BTreeMap<DeadLetterName, (Running<()>, Option<PathBuf>)>,
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
        self.waiting.remove(name)
    }

    /// Whether none is kept.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The files that are still written to, and when they are no more.
    pub(super) fn files(&self) -> impl Iterator<Item = (PathBuf, CancellationToken)> {
        self.waiting.values().filter_map(|(it, file)| Some((file.clone()?, it.ended.clone())))
    }

    /// Those that nobody needs any more.
    pub(super) fn take_unneeded(&mut self) -> Vec<(DeadLetterName, Running<()>, Option<PathBuf>)> {
        let newest = self.pasts.len().saturating_sub(1);
        let pasts: Vec<_> = self.pasts.iter().enumerate().collect();
        let needed =
            |name: &DeadLetterName| pasts.iter().any(|(at, past)| past.needs(name, *at == newest));
        let unneeded = self.waiting.extract_if(.., |name, _| !needed(name));
        unneeded.map(|(name, (it, file))| (name, it, file)).collect()
    }
}
