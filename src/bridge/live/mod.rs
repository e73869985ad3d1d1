//! The running parts by name, and how they take another configuration.
//!
//! A reload has two steps. [`stage`](staged::stage) builds all that is new, beside what runs; what fails there refuses the whole.
//! [`Live::apply`] can't fail and never waits: it leads every source that stays to the new routes between two of
//! its messages, and tells the parts that go to end.
//!
//! A part that goes ends as in a drain of the bridge, because its queue closes, and has as long for it; then it is
//! aborted, and what it holds is given back. A source takes no more, and what it
//! has in flight goes by the routes, to the APIs and the dead letters that it came by. What takes its place at a
//! broker, at an endpoint, or in a file, waits for its end. An API that changes does not end: its publisher keeps what it holds and posts it by the new settings.

mod lifetimes;
mod retired;
mod running;
mod staged;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tracing::{info, warn};

use super::policy;
use crate::config::{ApiName, Config, DeadLetterName};
use crate::delivery::{Gate, Intake};
use crate::health::Health;
use crate::message::SourceName;
use crate::metrics::Metrics;
use crate::pipeline::{Pipeline, Rejects};
use crate::publish::{Addressed, Client, Helm};
use crate::reload::{Difference, Part};
use crate::route::RouteTable;
use crate::shutdown::Shutdown;
use crate::source;
use crate::trace::Tracer;
use retired::{Past, Retired};
pub(super) use running::Ended;
use running::{Hold, Leaving, Running};
use staged::Ground;
pub(super) use staged::{Errors, Staged};

/// The parts of a bridge while it runs.
pub(super) struct Live {
    ground: Ground,
    config: Arc<Config>,
    tasks: JoinSet<Ended>,
    rejects: Rejects,
    sources: BTreeMap<SourceName, Running<Intake>>,
    apis: BTreeMap<ApiName, Running<Api>>,
    dead_letters: BTreeMap<DeadLetterName, Running<()>>,
    /// Those that no route names any more, and that events in flight may still need.
    retired: Retired,
    leaving: Vec<Leaving>,
    /// What is being staged has numbers already: series of these names are not forgotten meanwhile.
    staging: BTreeSet<Part>,
    /// What each part has for its end, which it looks at when that begins.
    grace: watch::Sender<Duration>,
}

/// The ways to a publisher.
struct Api {
    entries: mpsc::UnboundedSender<Addressed>,
    gate: Gate,
    helm: Helm<Client>,
}

impl Live {
    /// Without any part but that which takes refused events to the dead letters.
    pub(super) fn new(
        metrics: Metrics,
        health: Health,
        shutdown: Shutdown,
        tracer: Option<Tracer>,
        config: Arc<Config>,
    ) -> Self {
        let (refused, refused_entries) = mpsc::unbounded_channel();
        let rejects = Rejects::new(HashMap::new());
        let ground = Ground { metrics, health, shutdown, refused, tracer };
        let grace = watch::Sender::new(config.grace);
        let mut live = Self {
            ground,
            config,
            tasks: JoinSet::new(),
            rejects: rejects.clone(),
            sources: BTreeMap::new(),
            apis: BTreeMap::new(),
            dead_letters: BTreeMap::new(),
            retired: Retired::default(),
            leaving: Vec::new(),
            staging: BTreeSet::new(),
            grace,
        };
        let run = rejects.run(refused_entries).map(|()| Ended::of("the reject step"));
        live.tasks.spawn(run);
        live
    }

    /// The configuration in force.
    pub(super) fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Builds what `config` needs that there is not, without an effect on what runs. Errors are all reasons why it
    /// can't be built; then [`unstage`](Self::unstage).
    pub(super) fn stage(
        &mut self,
        config: Config,
        difference: Difference,
    ) -> impl Future<Output = Result<Staged, Errors>> + use<> {
        let leaving = self.leaving.iter().filter_map(Leaving::file);
        let running = self.config.dead_letters.iter().filter_map(|(name, dead_letter)| {
            let ended = &self.dead_letters.get(name)?.ended;
            Some((dead_letter.path()?.to_owned(), ended.clone()))
        });
        let files = leaving.chain(running).chain(self.retired.files()).collect();
        self.staging = difference.added.union(&difference.changed).cloned().collect();
        // No configuration is without an API.
        let old = (!self.apis.is_empty()).then(|| Arc::clone(&self.config));
        staged::stage(self.ground.clone(), old, files, config, difference)
    }

    /// What was staged is there no more, or is in force: series that nobody has are forgotten.
    pub(super) fn unstage(&mut self) {
        for part in std::mem::take(&mut self.staging) {
            self.forget(&part);
        }
    }

    /// Puts what was staged in force. Never waits.
    pub(super) fn apply(&mut self, staged: Staged) {
        let Staged { config, difference, aside, dead_letters, apis, changes, sources } = staged;
        let old = std::mem::replace(&mut self.config, config);
        self.grace.send_replace(self.config.grace);
        aside.count();
        for (name, opened) in dead_letters {
            // Told first: one whose queue is closed before that would seem to have failed.
            self.end_dead_letter(&old, &name);
            for other in self.predecessors(&old, &name) {
                self.end_dead_letter(&old, &other);
                self.retired.lead(other, &name);
            }
            for led in self.retired.led_to(&name) {
                self.rejects.put(led, opened.opened.letters.clone());
            }
            self.rejects.put(Arc::clone(&name), opened.opened.letters);
            let part = Part::DeadLetter(Arc::clone(&name));
            let run = opened.opened.run.map(|()| None).boxed();
            let running = self.run(part, opened.stop, (), run);
            self.dead_letters.insert(name, running);
        }
        for (name, change) in changes {
            if let Some(api) = self.apis.get(&name) {
                api.it.helm.steer(change);
            }
        }
        // Told before another comes, which may have to wait for its end.
        for part in &difference.removed {
            self.remove(&old, part);
        }
        for (name, publisher) in apis {
            self.start_api(name, publisher);
        }
        let way = self.way();
        for source in &old.sources {
            let stays = self.config.sources.iter().any(|new| new.name == source.name);
            if !stays || sources.iter().any(|(name, _)| *name == source.name) {
                self.end_source(source);
            }
        }
        for (name, running) in &self.sources {
            running.it.redirect(&way.behind(self.gates(name)));
        }
        for (name, source) in sources {
            self.start_source(&name, source, &way);
        }
        drop(way);
        self.unstage();
        self.tidy();
    }

    /// The next part that ends.
    pub(super) async fn ended(&mut self) -> Result<Ended, JoinError> {
        match self.tasks.join_next().await {
            Some(ended) => ended,
            // The reject step is there as long as this is.
            None => std::future::pending().await,
        }
    }

    /// A part has ended. Given back unless it was told to.
    pub(super) fn unless_expected(
        &mut self,
        ended: Result<Ended, JoinError>,
    ) -> Option<Result<Ended, JoinError>> {
        let Ok(Ended { leaving: Some(part), unclean, .. }) = &ended else {
            return Some(ended);
        };
        match unclean {
            None => info!(%part, "a part of an earlier configuration has ended"),
            Some(why) => {
                warn!(%part, why, "a part of an earlier configuration has ended, not cleanly; nothing is lost, but some may come again");
            }
        }
        self.tidy();
        None
    }

    /// Whether something waits for events of an earlier configuration to be settled, of which nobody tells: look
    /// [now and then](Self::tidy).
    pub(super) fn waits(&self) -> bool {
        !self.retired.is_empty()
    }

    /// Ends the dead letters that nobody needs any more, and forgets the parts that have ended.
    pub(super) fn tidy(&mut self) {
        for (name, retired, file) in self.retired.take_unneeded() {
            let holds = file.map(Hold::File).into_iter().collect();
            self.leave(Part::DeadLetter(Arc::clone(&name)), retired, holds);
            self.rejects.remove(&name);
        }
        for name in self.retired.take_unneeded_names() {
            self.rejects.remove(&name);
        }
        let gone = self.leaving.extract_if(.., |leaving| leaving.ended.is_cancelled());
        for Leaving { part, .. } in gone.collect::<Vec<_>>() {
            self.forget(&part);
        }
    }

    /// Removes the series of a part, unless one of its name is there; of a source those that were of another kind.
    fn forget(&self, part: &Part) {
        let leaves = self.leaving.iter().any(|leaving| leaving.part == *part);
        if leaves || self.retired.contains(part) || self.staging.contains(part) {
            return;
        }
        let (kind, name, is_there) = match part {
            Part::Source(name) => ("source", &**name, self.sources.contains_key(name)),
            Part::Api(name) => ("api", &**name, self.apis.contains_key(name)),
            Part::DeadLetter(name) => {
                ("dead_letter", &**name, self.dead_letters.contains_key(name))
            }
            Part::Route(name) => {
                ("route", &**name, self.config.routes.iter().any(|route| route.name == *name))
            }
            Part::Shutdown => return,
        };
        if !is_there {
            self.ground.metrics.forget(kind, name);
        } else if let Some(config) =
            self.config.sources.iter().find(|s| *part == Part::Source(s.name.clone()))
        {
            let kind = source::numbers_of(config);
            self.ground.metrics.forget_others("source", name, &kind);
        }
    }

    /// What each source has in flight, those that are leaving among them.
    pub(super) fn in_flight(&self) -> Vec<(SourceName, Gauge)> {
        let leaving = self.leaving.iter().filter_map(|leaving| match &leaving.part {
            Part::Source(name) if !self.sources.contains_key(name) => Some(name),
            _ => None,
        });
        let names = self.sources.keys().chain(leaving);
        names.map(|name| (name.clone(), self.ground.metrics.source(name).in_flight)).collect()
    }

    /// The parts, which nobody else keeps from ending from now on.
    pub(super) fn into_tasks(self) -> JoinSet<Ended> {
        self.tasks
    }

    /// The way of a message by the configuration in force.
    fn way(&mut self) -> Intake {
        let table = Arc::new(RouteTable::new(self.config.routes.iter().cloned()));
        let metrics = &self.ground.metrics;
        let policies = self.config.sources.iter();
        let policies = policies.map(|s| (s.name.clone(), policy(s, metrics))).collect();
        let publishers = self.apis.iter();
        let publishers =
            publishers.map(|(name, api)| (Arc::clone(name), api.it.entries.clone())).collect();
        let rejects = self.rejects.clone();
        let pipeline = Pipeline::new(Arc::clone(&table), policies, &publishers, rejects, metrics);
        let pipeline = Arc::new(pipeline.traced(self.ground.tracer.clone()));
        self.retired.note(Past::of(&pipeline, &table));
        Intake::new(move |delivery| pipeline.route(delivery))
    }

    /// The gates of the APIs that a source feeds.
    fn gates(&self, source: &SourceName) -> Vec<Gate> {
        let routes = self.config.routes.iter().filter(|route| route.from.contains(source));
        let feeds: HashSet<_> = routes.map(|route| &route.api).collect();
        feeds.into_iter().filter_map(|api| Some(self.apis.get(api)?.it.gate.clone())).collect()
    }

    /// Ends the dead letter of this name, if there is one, in whose place another has come.
    fn end_dead_letter(&mut self, old: &Config, name: &DeadLetterName) {
        let part = Part::DeadLetter(Arc::clone(name));
        if let Some((retired, file)) = self.retired.remove(name) {
            self.leave(part.clone(), retired, file.map(Hold::File).into_iter().collect());
        }
        if let Some(running) = self.dead_letters.remove(name) {
            let file = old.dead_letters.get(name).and_then(|to| to.path());
            let holds = file.map(|path| Hold::File(path.to_owned()));
            self.leave(part, running, holds.into_iter().collect());
        }
    }

    /// The dead letters that are gone, or will be, and write to the file of this one: it takes their place at once,
    /// where it would wait for events in flight that may need them.
    fn predecessors(&self, old: &Config, name: &DeadLetterName) -> Vec<DeadLetterName> {
        let Some(file) = self.config.dead_letters.get(name).and_then(|to| to.path()) else {
            return Vec::new();
        };
        let goes = |name: &DeadLetterName| {
            !self.config.dead_letters.contains_key(name) && self.dead_letters.contains_key(name)
        };
        let removed = old.dead_letters.iter().filter(|(name, to)| goes(name) && to.writes_to(file));
        let removed = removed.map(|(name, _)| Arc::clone(name));
        removed.chain(self.retired.writers(file)).collect()
    }

    /// Ends a part that there is no more. Sources are told by themselves.
    fn remove(&mut self, old: &Config, part: &Part) {
        self.ground.health.retire(&part.to_string());
        match part {
            Part::Api(name) => {
                if let Some(running) = self.apis.remove(name) {
                    let endpoint = old.apis.get(name).map(Hold::of_api);
                    self.leave(part.clone(), running, endpoint.into_iter().collect());
                }
            }
            Part::DeadLetter(name) => {
                if let Some(running) = self.dead_letters.remove(name) {
                    let file = old.dead_letters.get(name).and_then(|to| to.path());
                    self.retired.add(name, running, file.map(ToOwned::to_owned));
                }
            }
            Part::Route(_) => self.forget(part),
            Part::Source(_) | Part::Shutdown => {}
        }
    }
}

#[cfg(test)]
mod tests;
