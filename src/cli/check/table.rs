//! What was found behind a configuration: a line of ticks a part, and below it what is to be said of a step, with its
//! remedy.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::probe::{Looked, Seen, State, Step};

/// A part of the configuration that reaches out.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// As in the file: `source`, `api`.
    pub(super) kind: &'static str,
    /// Its name; none of what there is one of.
    pub(super) name: Option<String>,
    pub(super) looked: Looked,
}

const RED: &str = "\u{1b}[31m";
const GREEN: &str = "\u{1b}[32m";
const YELLOW: &str = "\u{1b}[33m";
const DIM: &str = "\u{1b}[2m";
const PLAIN: &str = "\u{1b}[0m";

impl Part {
    fn title(&self) -> String {
        match &self.name {
            Some(name) => format!("{} {name}", self.kind),
            None => self.kind.to_owned(),
        }
    }

    /// The worst of its steps: those that were not tried are no fault.
    fn state(&self) -> State {
        let has = |state| self.looked.steps.iter().any(|seen| seen.state == state);
        [State::Failed, State::Warned].into_iter().find(|state| has(*state)).unwrap_or(State::Good)
    }
}

/// For people.
pub(super) fn text(parts: &[Part], colour: bool) -> String {
    let ticks = |part: &Part| {
        let one = |seen: &Seen| format!("{} {}", shown(seen.step), sign(seen.state));
        part.looked.steps.iter().map(one).collect::<Vec<_>>().join("  ")
    };
    let longest = |of: &dyn Fn(&Part) -> String| {
        parts.iter().map(|part| of(part).chars().count()).max().unwrap_or(0)
    };
    let (titles, most) = (longest(&Part::title), longest(&ticks));
    let mut text = String::new();
    for part in parts {
        let line = format!(
            "{} {:titles$}  {:most$}  {}",
            sign(part.state()),
            part.title(),
            ticks(part),
            part.looked.found
        );
        let _ = writeln!(text, "{}", line.trim_end());
        for Seen { step, state, what, remedy } in &part.looked.steps {
            if what.is_empty() {
                continue;
            }
            let _ = writeln!(text, "    {} {}: {what}", sign(*state), shown(*step));
            if !remedy.is_empty() {
                let _ = writeln!(text, "      → {remedy}");
            }
        }
    }
    let bad = parts.iter().filter(|part| !part.looked.is_good()).count();
    let untried = |part: &Part| part.looked.steps.iter().any(|seen| seen.state == State::Untried);
    let _ = match bad {
        0 if parts.iter().any(untried) => {
            let all = counted(parts.len());
            writeln!(text, "all {all} are well as far as they were tried; `·` was not")
        }
        0 => writeln!(text, "all {} can be worked with", counted(parts.len())),
        bad => writeln!(text, "{bad} of {} can't be worked with", counted(parts.len())),
    };
    if colour { coloured(&text) } else { text }
}

/// For scripts.
pub(super) fn json(parts: &[Part]) -> Value {
    let step = |seen: &Seen| {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        json!({
            "step": seen.step.word(),
            "state": seen.state.word(),
            "what": text(&seen.what),
            "remedy": text(&seen.remedy),
        })
    };
    let part = |part: &Part| {
        json!({
            "part": part.kind,
            "name": part.name,
            "good": part.looked.is_good(),
            "found": (!part.looked.found.is_empty()).then_some(part.looked.found.as_str()),
            "steps": part.looked.steps.iter().map(step).collect::<Vec<_>>(),
        })
    };
    parts.iter().map(part).collect()
}

fn counted(parts: usize) -> String {
    if parts == 1 { "1 part".to_owned() } else { format!("{parts} parts") }
}

fn sign(state: State) -> char {
    match state {
        State::Good => '✓',
        State::Warned => '!',
        State::Failed => '✗',
        State::Untried => '·',
    }
}

fn shown(step: Step) -> &'static str {
    if step == Step::Tls { "TLS" } else { step.word() }
}

/// Each sign and each remedy in its colour.
fn coloured(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for line in text.lines() {
        let line = line.replace('✓', &format!("{GREEN}✓{PLAIN}"));
        let line = line.replace('✗', &format!("{RED}✗{PLAIN}"));
        let line = line.replace('·', &format!("{DIM}·{PLAIN}"));
        let line = match line.trim_start().strip_prefix("→ ") {
            Some(remedy) => format!("      {YELLOW}→ {remedy}{PLAIN}"),
            None => line,
        };
        out.push_str(&line);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Complaint;

    fn parts() -> Vec<Part> {
        let part = |name: &str, ended| Part {
            kind: "source",
            name: Some(name.to_owned()),
            looked: Looked::of(&[Step::Reach, Step::Login, Step::Allowed], ended),
        };
        vec![
            part("plant", Ok("MQTT 5".to_owned())),
            part("a", Err(Complaint::new(Step::Login, "who is this?", "say it"))),
        ]
    }

    #[test]
    fn a_part_is_a_line_and_what_is_wrong_two_more() {
        let expected = "\
✓ source plant  reach ✓  login ✓  allowed ✓  MQTT 5
✗ source a      reach ✓  login ✗  allowed ·
    ✗ login: who is this?
      → say it
1 of 2 parts can't be worked with
";
        assert_eq!(text(&parts(), false), expected);
        let bare = text(&parts(), true);
        assert!(bare.contains("\u{1b}[31m✗\u{1b}[0m") && bare.contains("\u{1b}[33m→ say it"));
    }

    #[test]
    fn a_script_gets_the_same() {
        let json = json(&parts());
        assert_eq!(json[0]["good"], true);
        assert_eq!(json[0]["found"], "MQTT 5");
        let failed = json!({
            "step": "login", "state": "failed", "what": "who is this?", "remedy": "say it",
        });
        assert_eq!(json[1]["steps"][1], failed);
        assert_eq!(json[1]["steps"][2]["state"], "untried");
    }
}
