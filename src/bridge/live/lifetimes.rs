//! How the parts begin, and are told to end.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::running::{Hold, Leaving, Running, after, guarded, holds_of};
use super::{Api, Live};
use crate::config::{ApiName, SourceConfig};
use crate::delivery::Intake;
use crate::message::SourceName;
use crate::publish::{Client, Publisher};
use crate::reload::Part;
use crate::shutdown::Shutdown;
use crate::source::Source;

impl Live {
    /// Starts an API when no other has its endpoint: both would have its whole rate, and newer events could overtake
    /// older ones.
    pub(super) fn start_api(
        &mut self,
        name: ApiName,
        (mut publisher, stop): (Publisher<Client>, Shutdown),
    ) {
        let (entries, queue) = mpsc::unbounded_channel();
        let (gate, helm) = (publisher.gate(), publisher.helm());
        let mine = self.config.apis.get(&name).map(Hold::of_api);
        let others = self.others(mine.as_slice());
        let clock = stop.clone();
        let run = async move {
            // In a drain what it is given already waits, too.
            tokio::select! {
                biased;
                () = clock.abort() => {}
                () = after(others) => publisher.run(queue, clock.clone()).await,
            }
            None
        };
        let part = Part::Api(Arc::clone(&name));
        let running = self.run(part, stop, Api { entries, gate, helm }, run.boxed());
        self.apis.insert(name, running);
    }

    /// Starts a source when nobody else is what it is to its broker.
    pub(super) fn start_source(&mut self, name: &SourceName, source: Source, way: &Intake) {
        let Some(config) = self.config.sources.iter().find(|source| source.name == *name) else {
            return;
        };
        let metrics = self.ground.metrics.source(name);
        metrics.show_limits(config.limits.messages, config.limits.bytes);
        let others = self.others(&holds_of(config));
        let (intake, stop) = (way.behind(self.gates(name)), self.ground.shutdown.child());
        let (own, clock, left) = (intake.clone(), stop.clone(), source.left());
        let (part, health) = (Part::Source(name.clone()), self.ground.health.clone());
        let (word, gone) = (part.to_string(), left.clone());
        let run = async move {
            // It has left at the latest when it has ended, however it did.
            let _gone = gone.drop_guard();
            tokio::select! {
                biased;
                () = clock.drain() => return None,
                () = after(others) => {}
            }
            // One that has left may still wait for what it has in flight.
            health.supersede(&word);
            source.run(own, clock).await.err().map(|why| why.to_string())
        };
        let running = self.run(part, stop, intake, run.boxed());
        self.sources.insert(name.clone(), Running { left, ..running });
    }

    /// Tells a source to end.
    pub(super) fn end_source(&mut self, source: &SourceConfig) {
        if let Some(running) = self.sources.remove(&source.name) {
            self.leave(Part::Source(source.name.clone()), running, holds_of(source));
        }
    }

    /// When those that are leaving have left, of which each has one of these.
    fn others(&self, mine: &[Hold]) -> Vec<CancellationToken> {
        let mine =
            |other: &&Leaving| other.holds.iter().any(|hold| mine.iter().any(|own| own.is(hold)));
        self.leaving.iter().filter(mine).map(|other| other.left.clone()).collect()
    }

    /// Drops what leads to a part, and tells it to end.
    pub(super) fn leave<T>(&mut self, part: Part, running: Running<T>, holds: Vec<Hold>) {
        running.stop.start_drain();
        let Running { left, ended, .. } = running;
        self.leaving.push(Leaving { part, holds, left, ended });
    }

    /// Runs a part, to which `it` leads.
    pub(super) fn run<T>(
        &mut self,
        part: Part,
        stop: Shutdown,
        it: T,
        run: BoxFuture<'static, Option<String>>,
    ) -> Running<T> {
        let ended = CancellationToken::new();
        let clocks = (self.ground.shutdown.clone(), stop.clone(), self.grace.subscribe());
        self.tasks.spawn(guarded(part, clocks, ended.clone(), run));
        Running { it, stop, left: ended.clone(), ended }
    }
}
