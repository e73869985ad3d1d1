//! What a configuration needs that there is not: built, and not yet running.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::bridge::dead_letters::{self, Opened};
use crate::bridge::{BuildError, publisher, source};
use crate::config::{ApiConfig, ApiName, Config, DeadLetterName};
use crate::files::descriptors;
use crate::health::Health;
use crate::message::SourceName;
use crate::metrics::Metrics;
use crate::publish::{Change, Client, Publisher, Refused};
use crate::reload::{Difference, Part, another_client, reconnects};
use crate::shutdown::Shutdown;
use crate::source::{Begin, Source};
use crate::trace::Tracer;

/// What all parts are built on.
#[derive(Clone)]
pub(in crate::bridge) struct Ground {
    pub(super) metrics: Metrics,
    pub(super) health: Health,
    pub(super) shutdown: Shutdown,
    pub(super) refused: mpsc::UnboundedSender<Refused>,
    /// What makes the spans, if they are exported.
    pub(super) tracer: Option<Tracer>,
}

/// All that is new, and not yet running. Dropped, nothing has changed.
pub(in crate::bridge) struct Staged {
    pub(super) config: Arc<Config>,
    pub(in crate::bridge) difference: Difference,
    /// Where the parts are registered, which do not count yet.
    pub(super) aside: Health,
    pub(super) dead_letters: Vec<(DeadLetterName, Letters)>,
    pub(super) apis: Vec<(ApiName, (Publisher<Client>, Shutdown))>,
    pub(super) changes: Vec<(ApiName, Change<Client>)>,
    pub(super) sources: Vec<(SourceName, Source)>,
}

/// A dead letter, and what stops it.
pub(super) struct Letters {
    pub(super) opened: Opened,
    pub(super) stop: Shutdown,
}

/// Why a configuration can't be built; at least one reason.
pub(in crate::bridge) type Errors = Vec<BuildError>;

/// Builds what `difference` tells from `old`, if a bridge runs with that, to `config`. `files` are those that dead letters write to, each until
/// then.
pub(super) async fn stage(
    ground: Ground,
    old: Option<Arc<Config>>,
    files: Vec<(PathBuf, CancellationToken)>,
    config: Config,
    difference: Difference,
) -> Result<Staged, Errors> {
    let (metrics, aside, mut errors) = (&ground.metrics, ground.health.aside(), Errors::new());
    let is_new = |part: &Part| difference.added.contains(part);
    let is_other = |part: &Part| difference.changed.contains(part);

    let mut dead_letters = Vec::new();
    for (name, dead_letter) in &config.dead_letters {
        let part = Part::DeadLetter(Arc::clone(name));
        if !is_new(&part) && !is_other(&part) {
            continue;
        }
        let stop = ground.shutdown.child();
        let busy = files.iter().filter(|(file, _)| dead_letter.writes_to(file));
        let busy = busy.map(|(_, ended)| ended.clone()).collect();
        match dead_letters::open(&config, name, &aside, metrics, (&stop, busy)).await {
            Ok(opened) => dead_letters.push((Arc::clone(name), Letters { opened, stop })),
            Err(why) => errors.push(why),
        }
    }
    let (mut apis, mut changes) = (Vec::new(), Vec::new());
    for (name, api) in &config.apis {
        let part = Part::Api(Arc::clone(name));
        if !is_new(&part) && !is_other(&part) {
            continue;
        }
        let api = &*within_descriptors(name, api, config.apis.len());
        match old.as_ref().and_then(|old| old.apis.get(name)) {
            None => match publisher(name, api, metrics, &aside, &ground.refused).await {
                Ok(made) => apis.push((Arc::clone(name), (made, ground.shutdown.child()))),
                Err(why) => errors.push(why),
            },
            Some(before) => {
                let client = another_client(before, api) || difference.renewed.contains(&part);
                match Change::build(api, client).await {
                    Ok(change) => changes.push((Arc::clone(name), change)),
                    Err(why) => errors.push(BuildError::Api { name: name.to_string(), why }),
                }
            }
        }
    }
    let begin = if old.is_some() { Begin::Reload } else { Begin::Start };
    let mut sources = Vec::new();
    for config in &config.sources {
        let part = Part::Source(config.name.clone());
        let before = old.iter().flat_map(|old| &old.sources).find(|old| old.name == config.name);
        let begins = match before {
            Some(before) if is_other(&part) => {
                reconnects(before, config) || difference.renewed.contains(&part)
            }
            _ => is_new(&part),
        };
        if begins {
            let health = aside.register(part.to_string(), "not connected yet");
            match source(config, metrics, health, begin).await {
                Ok(made) => sources.push((config.name.clone(), made)),
                Err(why) => errors.push(why),
            }
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let config = Arc::new(config);
    Ok(Staged { config, difference, aside, dead_letters, apis, changes, sources })
}

impl Staged {
    /// The parts count from now on for how the whole does.
    pub(in crate::bridge) fn count(&self) {
        self.aside.count();
    }
}

/// An API's requests are out over a connection each. All of them together may use a quarter of the file descriptors:
/// what has no connection would be taken for an API that does not answer. Shared is among as many as there are when it
/// is built: after a reload that brings more, those that were not touched keep what they had, and all together may use
/// more than that.
fn within_descriptors<'a>(name: &str, api: &'a ApiConfig, apis: usize) -> Cow<'a, ApiConfig> {
    let parts = u64::try_from(apis).unwrap_or(1).saturating_mul(4);
    let most = descriptors::share(parts, api.max_concurrency);
    if most == api.max_concurrency {
        return Cow::Borrowed(api);
    }
    warn!(
        api = name,
        max_concurrency = api.max_concurrency,
        most,
        "fewer requests are out at a time than may be: raise the limit of open files (`LimitNOFILE=` of the unit, or `ulimit -n`)"
    );
    Cow::Owned(ApiConfig { max_concurrency: most, ..api.clone() })
}
