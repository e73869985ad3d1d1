//! Reloads, one at a time: the configuration is read, compared, staged and put in force, and everybody is told what
//! came of it: the log, the metrics, who asked, and the service manager.
//!
//! Nothing is changed before all of it is read, checked and built; what is wrong with it refuses the whole.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use super::certificates::Contents;
use super::live::{Errors, Live, Staged};
use crate::admin::{Answer, Asked};
use crate::config::{Config, Loaded, Problems};
use crate::metrics::{Metrics, ReloadMetrics};
use crate::reload::{Difference, Part, left_behind, listed};

/// What came of a reload, a label of metrics.
const APPLIED: &str = "applied";
const UNCHANGED: &str = "unchanged";
const REFUSED: &str = "refused";

/// Who gives the bridge its configuration, and is told what it makes of it.
pub trait Operator: Send + Sync + 'static {
    /// A reload begins.
    fn begins(&self);
    /// Reads and checks the configuration, and says what is wrong with it. It may take its time.
    fn load(&self) -> Result<Loaded, Problems>;
    /// The reload has ended; `words` say how, in a line.
    fn ended(&self, words: &str);
}

/// The reloads of a bridge.
pub(super) struct Reloads {
    asked: mpsc::Receiver<Asked>,
    operator: Option<Arc<dyn Operator>>,
    metrics: ReloadMetrics,
    generation: i64,
    /// What the files hold that the parts were built with.
    contents: Contents,
    current: Option<(Asked, Step)>,
}

/// A step of the reload that is going on.
enum Step {
    Load(BoxFuture<'static, Result<Read, Refusal>>),
    /// With what the files hold. A task of its own: files are opened and read in it.
    Stage(Contents, AbortOnDropHandle<Result<Staged, Errors>>),
}

/// A configuration that was read, with what its files hold.
pub(super) struct Read {
    config: Box<Config>,
    contents: Contents,
}

/// Why the configuration in force stays.
pub(super) enum Refusal {
    /// There is nothing to read again.
    NoFile,
    /// It is wrong.
    Problems(Problems),
    /// It can't be built.
    Unbuilt(Errors),
    /// It could not be read or built to the end.
    Panicked(String),
}

/// A step that is done.
pub(super) enum Done {
    Loaded(Result<Read, Refusal>),
    Staged(Result<Outcome, Refusal>),
}

pub(super) enum Outcome {
    Staged(Box<Staged>, Contents),
    Unchanged(Difference),
}

impl Reloads {
    /// Those that are asked for; `config` is in force.
    pub(super) fn new(asked: mpsc::Receiver<Asked>, metrics: &Metrics, config: &Config) -> Self {
        let metrics = metrics.reloads([APPLIED, UNCHANGED, REFUSED]);
        metrics.generation.set(1);
        let contents = Contents::of(config);
        Self { asked, operator: None, metrics, generation: 1, contents, current: None }
    }

    /// Who is asked for the configuration.
    pub(super) fn set_operator(&mut self, operator: impl Operator) {
        self.operator = Some(Arc::new(operator));
    }

    /// The next step, when it is done. Cancelled, it goes on with the next call.
    pub(super) async fn next(&mut self) -> Done {
        if self.current.is_none() {
            // The bridge itself can ask: this never ends.
            let Some(asked) = self.asked.recv().await else { return std::future::pending().await };
            if let Some(operator) = &self.operator {
                operator.begins();
            }
            self.current = Some((asked, Step::Load(Box::pin(read(self.operator.clone())))));
        }
        match &mut self.current {
            Some((_, Step::Load(read))) => Done::Loaded(read.await),
            Some((_, Step::Stage(contents, staged))) => {
                let staged = staged.await;
                Done::Staged(match staged {
                    Ok(Ok(staged)) => {
                        Ok(Outcome::Staged(Box::new(staged), std::mem::take(contents)))
                    }
                    Ok(Err(errors)) => Err(Refusal::Unbuilt(errors)),
                    Err(error) => Err(Refusal::Panicked(error.to_string())),
                })
            }
            None => std::future::pending().await,
        }
    }

    /// Begins the step after it, or ends the reload. Whether another configuration is in force now.
    pub(super) fn go_on(&mut self, done: Done, live: &mut Live) -> bool {
        let ended = match done {
            Done::Staged(ended) => ended,
            Done::Loaded(Err(why)) => Err(why),
            Done::Loaded(Ok(Read { config, contents })) => {
                let renewed = self.contents.renewed(&contents);
                let difference = Difference::between(live.config(), &config, &renewed);
                if difference.is_empty() {
                    Ok(Outcome::Unchanged(difference))
                } else {
                    let staged = live.stage(restrained(*config, live.config()), difference);
                    if let Some((_, step)) = &mut self.current {
                        let staged = AbortOnDropHandle::new(tokio::spawn(staged));
                        *step = Step::Stage(contents, staged);
                    }
                    return false;
                }
            }
        };
        self.end(ended, live)
    }

    /// Puts it in force, if it is good, and tells everybody.
    fn end(&mut self, ended: Result<Outcome, Refusal>, live: &mut Live) -> bool {
        let (status, result, words, mut body) = match ended {
            Ok(Outcome::Staged(staged, contents)) => {
                let (difference, before) = (staged.difference.clone(), live.config().clone());
                live.apply(*staged);
                self.contents = contents;
                self.generation += 1;
                self.metrics.generation.set(self.generation);
                let words = self.applied(&difference);
                for (source, by) in left_behind(&before, live.config()) {
                    let hint = "name it again to have them, or remove it at the broker";
                    warn!(%source, kept_by = by, hint, "the broker keeps messages that no source takes any more");
                }
                (200, APPLIED, words, parts(&difference))
            }
            Ok(Outcome::Unchanged(difference)) => {
                info!(generation = self.generation, "configuration reloaded: nothing is different");
                needs_restart(&difference);
                let words = format!("configuration {} is in force", self.generation);
                (200, UNCHANGED, words, parts(&difference))
            }
            Err(why) => {
                live.unstage();
                let (status, problems) = why.told();
                let (generation, count) = (self.generation, problems.len());
                error!(
                    generation,
                    problems = count,
                    "the configuration was not reloaded; the one before stays in force as a whole"
                );
                let words = format!(
                    "configuration {generation} is in force; a reload was refused with {count} problem{}",
                    if count == 1 { "" } else { "s" }
                );
                (status, REFUSED, words, json!({ "problems": problems }))
            }
        };
        self.metrics.ended(result);
        if let Some(operator) = &self.operator {
            operator.ended(&words);
        }
        body["result"] = result.into();
        body["generation"] = self.generation.into();
        if let Some((asked, _)) = self.current.take() {
            asked.answer(Answer { status, body });
        }
        result == APPLIED
    }

    fn applied(&self, difference: &Difference) -> String {
        let Difference { added, removed, changed, untouched, .. } = difference;
        let [added, removed, changed, untouched] = [added, removed, changed, untouched].map(listed);
        let generation = self.generation;
        info!(generation, added, removed, changed, untouched, "configuration reloaded");
        needs_restart(difference);
        let lists = [("added", added), ("removed", removed), ("changed", changed)];
        let lists = lists.into_iter().filter(|(_, parts)| !parts.is_empty());
        let lists: Vec<_> = lists.map(|(word, parts)| format!("{word}: {parts}")).collect();
        format!("configuration {generation} is in force; {}", lists.join("; "))
    }
}

impl Refusal {
    /// The status of HTTP, and each problem; those that nobody has logged yet are logged.
    fn told(self) -> (u16, Vec<Value>) {
        match self {
            Self::NoFile => {
                let message = "this bridge was not started with a file that could be read again";
                error!("{message}");
                (409, vec![json!({ "message": message })])
            }
            Self::Problems(problems) => {
                let errors = problems.log_lines().filter(|line| !line.warning);
                let problem = |line: crate::config::LogLine<'_>| {
                    let (number, column) = line.place.unzip();
                    json!({
                        "message": line.message, "help": line.help, "file": line.file,
                        "line": number, "column": column,
                    })
                };
                (422, errors.map(problem).collect())
            }
            Self::Unbuilt(errors) => {
                let told = |why: &super::BuildError| {
                    error!("{why}");
                    json!({ "message": why.to_string() })
                };
                (422, errors.iter().map(told).collect())
            }
            Self::Panicked(why) => {
                error!("reading or building the configuration failed: {why}");
                (500, vec![json!({ "message": "reading or building the configuration failed" })])
            }
        }
    }
}

/// Reads the configuration on a thread that may wait.
async fn read(operator: Option<Arc<dyn Operator>>) -> Result<Read, Refusal> {
    let operator = operator.ok_or(Refusal::NoFile)?;
    let read = move || {
        let config = operator.load()?.config;
        let contents = Contents::of(&config);
        Ok(Read { config: Box::new(config), contents })
    };
    match tokio::task::spawn_blocking(read).await {
        Ok(read) => read.map_err(Refusal::Problems),
        Err(error) => Err(Refusal::Panicked(error.to_string())),
    }
}

/// What can be in force of `new`: sections that need a restart stay as they are.
fn restrained(new: Config, old: &Config) -> Config {
    let Config { admin, log, otlp, cost, .. } = old.clone();
    Config { admin, log, otlp, cost, ..new }
}

fn needs_restart(difference: &Difference) {
    if !difference.needs_restart.is_empty() {
        let sections = difference.needs_restart.join(", ");
        warn!(sections, "these sections can't change while the bridge runs; restart it for them");
    }
}

fn parts(difference: &Difference) -> Value {
    let Difference { added, removed, changed, untouched, needs_restart, renewed: _ } = difference;
    let names = |parts: &BTreeSet<Part>| -> Vec<_> { parts.iter().map(Part::to_string).collect() };
    json!({
        "added": names(added), "removed": names(removed), "changed": names(changed),
        "untouched": names(untouched), "needs_restart": needs_restart,
    })
}
