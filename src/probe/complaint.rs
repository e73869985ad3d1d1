//! Why a look failed, with the remedy.

use std::fmt;

use super::Step;

/// Why a look failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Where it ended.
    pub step: Step,
    /// A clause.
    pub what: String,
    /// What to do about it; empty where the clause says it all.
    pub remedy: String,
}

impl Complaint {
    /// Of its parts.
    pub fn new(step: Step, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { step, what: what.into(), remedy: remedy.into() }
    }

    /// With what can't be done because of it in front.
    #[must_use]
    pub fn about(self, what: &str) -> Self {
        Self { what: format!("{what}: {}", self.what), ..self }
    }

    /// Of a clause with the remedy behind a semicolon, as errors are written.
    pub fn of_words(step: Step, words: &str) -> Self {
        let (what, remedy) = words.split_once("; ").unwrap_or((words, ""));
        Self::new(step, what, remedy)
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parted = if self.remedy.is_empty() { "" } else { "; " };
        write!(f, "{}{parted}{}", self.what, self.remedy)
    }
}
