//! The last warnings and errors of this process, as the log has them: what repeats is one line with a count.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::time::SystemTime;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::Context;

use crate::error_chain::printable;
use crate::redact;

/// Lines that are kept.
const MOST: usize = 20;

/// Characters of a message, and of the value of a field.
const MOST_CHARACTERS: usize = 1_000;

/// Fields that say whom a line is about: lines that differ in them are two.
const WHO: [&str; 9] =
    ["source", "api", "route", "who", "name", "owner", "file", "reason", "target"];

/// Fields with how often it came since it was logged last.
const COUNTS: [&str; 3] = ["count", "letters", "times"];

static RECENT: Mutex<Recent> = Mutex::new(Recent { lines: VecDeque::new() });

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When it was logged last.
    pub at: SystemTime,
    /// `WARN` or `ERROR`.
    pub level: &'static str,
    /// Its words.
    pub message: String,
    /// What it says besides, in the order of the log.
    pub fields: Vec<(&'static str, String)>,
    /// How often it came, by what its lines say.
    pub count: u64,
}

/// The last warnings and errors, the newest first. Secrets in them are masked.
pub fn recent() -> Vec<Line> {
    RECENT.lock().lines.iter().cloned().collect()
}

/// Keeps what is said of a panic. Never waits, since the panic may be that of whoever writes here.
pub(super) fn note_panic(words: &str) {
    let message = shown(words);
    let line =
        Line { at: SystemTime::now(), level: "ERROR", message, fields: Vec::new(), count: 1 };
    if let Some(mut recent) = RECENT.try_lock() {
        recent.note(line);
    }
}

/// Keeps the warnings and errors that come here.
pub(super) struct Layer(&'static Mutex<Recent>);

impl Default for Layer {
    fn default() -> Self {
        Self(&RECENT)
    }
}

impl<S: Subscriber> tracing_subscriber::Layer<S> for Layer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = match *event.metadata().level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARN",
            _ => return,
        };
        let mut line = Line {
            at: SystemTime::now(),
            level,
            message: String::new(),
            fields: Vec::new(),
            count: 1,
        };
        event.record(&mut line);
        self.0.lock().note(line);
    }
}

impl Visit for Line {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if COUNTS.contains(&field.name()) {
            self.count = value;
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        match u64::try_from(value) {
            Ok(value) => self.record_u64(field, value),
            Err(_) => self.record_debug(field, &value),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.keep(field.name(), shown(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        let _ = write!(text, "{value:?}");
        self.keep(field.name(), shown(&text));
    }
}

impl Line {
    fn keep(&mut self, field: &'static str, text: String) {
        if field == "message" {
            self.message = text;
        } else {
            self.fields.push((field, text));
        }
    }

    fn repeats(&self, other: &Self) -> bool {
        fn who(line: &Line) -> impl Iterator<Item = &(&'static str, String)> {
            line.fields.iter().filter(|(name, _)| WHO.contains(name))
        }
        self.level == other.level && self.message == other.message && who(self).eq(who(other))
    }
}

/// Newest first.
#[derive(Debug, Default)]
struct Recent {
    lines: VecDeque<Line>,
}

impl Recent {
    fn note(&mut self, mut line: Line) {
        if let Some(at) = self.lines.iter().position(|other| line.repeats(other))
            && let Some(before) = self.lines.remove(at)
        {
            line.count = line.count.saturating_add(before.count);
        }
        self.lines.truncate(MOST - 1);
        self.lines.push_front(line);
    }
}

fn shown(text: &str) -> String {
    printable(&redact::clean(text), MOST_CHARACTERS)
}

#[cfg(test)]
mod tests {
    use tracing::subscriber::with_default;
    use tracing::{error, info, warn};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// What is kept of what `say` logs.
    fn kept(say: impl FnOnce()) -> Vec<Line> {
        let recent: &'static Mutex<Recent> = Box::leak(Box::default());
        with_default(tracing_subscriber::registry().with(Layer(recent)), say);
        recent.lock().lines.iter().cloned().collect()
    }

    #[test]
    fn the_newest_warnings_are_kept_and_no_more() {
        let lines = kept(|| {
            info!("of no interest");
            for number in 0..50 {
                warn!("the {number}th");
            }
            error!("the last");
        });
        let messages: Vec<_> = lines.iter().map(|line| line.message.as_str()).collect();
        assert_eq!((messages.len(), &messages[..2]), (MOST, &["the last", "the 49th"][..]));
        assert_eq!((lines[0].level, lines[1].level), ("ERROR", "WARN"));
    }

    #[test]
    fn what_repeats_of_the_same_part_is_one_line_with_its_count() {
        let lines = kept(|| {
            for (api, count, why) in [("a", 1, "x"), ("b", 1, "x"), ("a", 7, "y")] {
                warn!(api, why, count, "publishing fails");
            }
        });
        let said: Vec<_> = lines.iter().map(|line| (line.fields.clone(), line.count)).collect();
        let fields = |api: &str, why: &str| vec![("api", api.to_owned()), ("why", why.to_owned())];
        assert_eq!(said, [(fields("a", "y"), 8), (fields("b", "x"), 1)]);
    }

    #[test]
    fn secrets_are_masked_and_long_texts_cut() {
        redact::learn("hunter2-of-the-ring");
        let long = "x".repeat(5_000);
        let [line] = &kept(|| warn!(why = "said hunter2-of-the-ring\u{1b}[2J", long, "m"))[..]
        else {
            panic!("one line")
        };
        assert_eq!(line.fields[0].1, "said …\\u{1b}[2J");
        assert_eq!(line.fields[1].1.chars().count(), MOST_CHARACTERS + 1);
    }
}
