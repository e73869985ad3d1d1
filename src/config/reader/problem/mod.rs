//! The problems of a configuration, and their reports: the place, the line, a caret, a hint.

mod cover;
mod excerpt;
mod harmless;
mod lines;
mod mask;
mod words;

use std::fmt::{self, Write as _};
use std::ops::Range;

use annotate_snippets::{Level, Origin, Renderer};

use crate::config::LogFormat;
pub(super) use cover::{closing_quote, is_key_char};
use excerpt::Excerpt;
pub(super) use harmless::{betrays, is_known, looks_secret};
pub(super) use lines::{Lines, line_end};
pub(super) use mask::COVER;
pub(crate) use mask::Masked;

/// The kind of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A file can't be read because permissions forbid it: this one, or one that it names.
    Forbidden,
    /// The file can't be read for another reason.
    Unreadable,
    /// Not TOML.
    Syntax,
    /// Defined twice.
    Duplicate,
    /// A word that no version knows.
    UnknownKey,
    /// A word that a later version will know.
    NotInThisVersion,
    /// A number where a text belongs, and the like.
    WrongType,
    /// A required key is missing.
    MissingKey,
    /// An unusable value of the right type.
    BadValue,
    /// A name that does not exist.
    Dangling,
    /// A pattern or a template that can't be read.
    BadTemplate,
    /// Settings that are good alone and can't work together.
    Impossible,
    /// A setting that would send secrets or events unprotected.
    Unsafe,
    /// A variable, a file or a credential that is not there.
    Unresolved,
    /// Not wrong, but probably not meant.
    Warning,
}

/// One mistake, or one warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    kind: Kind,
    message: String,
    place: Option<Range<usize>>,
    label: Option<String>,
    others: Vec<(Range<usize>, String)>,
    help: Vec<String>,
}

/// All problems of one file, in the order of the file, with the text they point into.
///
/// `Display` shows them, the first thousand if there are more, and ends in a line that counts all. The text
/// in here is masked: no secret of the file is left in it.
#[derive(Clone, PartialEq, Eq)]
pub struct Problems {
    path: String,
    masked: Box<Masked>,
    lines: Lines,
    list: Vec<Problem>,
    /// Line and column of each in the file as it was written, which the mask moves; from 1.
    origins: Vec<(usize, usize)>,
    log_format: LogFormat,
}

/// A problem as a line of a log says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine<'a> {
    /// Not wrong, but probably not meant.
    pub warning: bool,
    /// What is wrong, in one line.
    pub message: &'a str,
    /// The file.
    pub file: &'a str,
    /// Line and column, from 1, where a place can be shown.
    pub place: Option<(usize, usize)>,
    /// The hints; maybe empty.
    pub help: String,
}

/// Most problems shown; more are of no use at once.
const SHOWN: usize = 1000;

impl Problem {
    /// A problem at the bytes `place` of the file; `None` where no place can be shown.
    pub fn new(kind: Kind, place: Option<Range<usize>>, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { kind, message, place, label: None, others: Vec::new(), help: Vec::new() }
    }

    /// Adds a hint.
    #[must_use]
    pub fn help(mut self, hint: impl Into<String>) -> Self {
        self.help.push(hint.into());
        self
    }

    /// Adds a hint if there is one.
    #[must_use]
    pub fn maybe_help(mut self, hint: Option<impl Into<String>>) -> Self {
        self.help.extend(hint.map(Into::into));
        self
    }

    /// Writes `text` behind the carets.
    #[must_use]
    pub fn label(mut self, text: impl Into<String>) -> Self {
        self.label = Some(text.into());
        self
    }

    /// Marks another place that belongs to it.
    #[must_use]
    pub fn also(mut self, place: Range<usize>, label: impl Into<String>) -> Self {
        self.others.push((place, label.into()));
        self
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What is wrong, in one line.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The bytes of the file it points at.
    pub fn place(&self) -> Option<Range<usize>> {
        self.place.clone()
    }

    fn is_warning(&self) -> bool {
        self.kind == Kind::Warning
    }

    /// With its line and column; from 1.
    fn render(
        &self,
        renderer: &Renderer,
        path: &str,
        (line, column): (usize, usize),
        masked: &Masked,
        lines: &Lines,
    ) -> String {
        let level = if self.is_warning() { Level::WARNING } else { Level::ERROR };
        let title = level.primary_title(self.message.as_str());
        let mut moved = column;
        let group = match &self.place {
            Some(place) => {
                let place = masked.shift(place);
                let others: Vec<_> = self
                    .others
                    .iter()
                    .map(|(at, label)| (masked.shift(at), label.as_str()))
                    .collect();
                let primary = (place, self.label.as_deref());
                let (excerpt, far) = Excerpt::around(masked.text(), lines, primary, others);
                moved = excerpt.column();
                let snippets = std::iter::once(excerpt).chain(far);
                title.elements(snippets.map(|excerpt| excerpt.into_snippet().path(path.to_owned())))
            }
            None => title.element(Origin::path(path.to_owned())),
        };
        let group = group.elements(self.help.iter().map(|hint| Level::HELP.message(hint.as_str())));
        let shown = renderer.render(&[group]);
        // The column is that of the file, not that of what is left of its line.
        let origin = |column| format!("{path}:{line}:{column}");
        if moved == column { shown } else { shown.replacen(&origin(moved), &origin(column), 1) }
    }
}

impl Problems {
    /// Sorts `list` by place; problems without one come last.
    pub(crate) fn new(path: &str, text: &str, masked: Masked, mut list: Vec<Problem>) -> Self {
        let place = |problem: &Problem| problem.place.as_ref().map_or(usize::MAX, |at| at.start);
        list.sort_by_key(place);
        let origins = origins(text, list.iter().map(place));
        let lines = Lines::new(masked.text());
        let masked = Box::new(masked);
        Self { path: path.to_owned(), masked, lines, list, origins, log_format: LogFormat::Auto }
    }

    /// A problem of the file as a whole, of which nothing is shown.
    pub(crate) fn alone(path: &str, problem: Problem) -> Self {
        Self::new(path, "", Masked::new(""), vec![problem])
    }

    /// Of a file that says how log lines are to look.
    pub(crate) fn of_log(self, format: Option<LogFormat>) -> Self {
        Self { log_format: format.unwrap_or(self.log_format), ..self }
    }

    /// How the file says that log lines are to look; the default where it says nothing readable.
    pub fn log_format(&self) -> LogFormat {
        self.log_format
    }

    /// Each one, warnings included, as a line of a log says it.
    pub fn log_lines(&self) -> impl Iterator<Item = LogLine<'_>> {
        self.list.iter().zip(&self.origins).map(|(problem, origin)| LogLine {
            warning: problem.is_warning(),
            message: problem.message(),
            file: self.path.as_str(),
            place: problem.place.as_ref().map(|_| *origin),
            help: problem.help.join("; "),
        })
    }

    /// Each one, warnings included, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many are no mere warnings.
    pub fn errors(&self) -> usize {
        self.list.iter().filter(|problem| !problem.is_warning()).count()
    }

    /// How many are warnings.
    pub fn warnings(&self) -> usize {
        self.list.len() - self.errors()
    }

    /// Whether permissions alone are what is wrong: of this file, or of those that it names.
    pub fn is_forbidden(&self) -> bool {
        let mut errors = self.list.iter().filter(|problem| !problem.is_warning()).peekable();
        errors.peek().is_some() && errors.all(|problem| problem.kind == Kind::Forbidden)
    }

    /// All of it as text, with the escapes of a terminal if `colour`.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let mut shown = String::new();
        for (problem, origin) in self.list.iter().zip(&self.origins).take(SHOWN) {
            let (path, masked, lines) = (&self.path, &self.masked, &self.lines);
            shown.push_str(&problem.render(&renderer, path, *origin, masked, lines));
            shown.push_str("\n\n");
        }
        if let more @ 1.. = self.list.len().saturating_sub(SHOWN) {
            let _ = write!(shown, "{more} more are not shown: correct these first\n\n");
        }
        let counts = [(self.errors(), "problem"), (self.warnings(), "warning")];
        let counts: Vec<_> = counts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, noun)| format!("{count} {noun}{}", if *count == 1 { "" } else { "s" }))
            .collect();
        if !counts.is_empty() {
            shown.extend([self.path.as_str(), ": ", &counts.join(", ")]);
        }
        shown
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl fmt::Debug for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Problems")
            .field("path", &self.path)
            .field("list", &self.list)
            .finish_non_exhaustive()
    }
}

impl std::error::Error for Problems {}

/// Line and column, from 1, of places that are in order; for a problem without a place, 1 and 1.
fn origins(text: &str, places: impl Iterator<Item = usize>) -> Vec<(usize, usize)> {
    let (mut line, mut column, mut at) = (1, 1, 0);
    let origin = |place: usize| {
        for c in text.get(at..place).unwrap_or_default().chars() {
            (line, column) = if c == '\n' { (line + 1, 1) } else { (line, column + 1) };
        }
        at = place.max(at);
        (line, column)
    };
    places.map(origin).collect()
}

/// A text as an error shows it: in backticks, control characters escaped, cut at 64 characters. What looks
/// like a secret is not shown, wherever it is from, and what is covered stays so.
pub(crate) fn quoted(text: &str) -> String {
    if text == COVER || harmless::betrays(text) {
        return format!("`{COVER}`");
    }
    let mut shown: String = text.chars().take(64).flat_map(escaped).collect();
    if text.chars().nth(64).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

/// Several names: `a`, `b` and `c`; of many the first ones and how many more.
pub(crate) fn listed<T: AsRef<str>>(names: &[T], and: &str) -> String {
    const MOST: usize = 30;
    let more = names.len().saturating_sub(MOST);
    let names = &names[..names.len() - more];
    let mut names: Vec<_> = names.iter().map(|name| quoted(name.as_ref())).collect();
    if more > 0 {
        return format!("{} {and} {more} more", names.join(", "));
    }
    match names.pop() {
        Some(last) if names.is_empty() => last,
        Some(last) => format!("{} {and} {last}", names.join(", ")),
        None => String::new(),
    }
}

fn escaped(c: char) -> Vec<char> {
    if c.is_control()
        || (c.is_whitespace() && c != ' ')
        || ('\u{200b}'..='\u{206f}').contains(&c)
        || c == '\u{feff}'
    {
        c.escape_unicode().collect()
    } else {
        vec![c]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_place_line_caret_hint_and_count() {
        let text = "[api.main]\nendpont = \"x\"\n";
        let problem = Problem::new(Kind::UnknownKey, Some(11..18), "unknown key `endpont`")
            .help("did you mean `endpoint`?");
        let problems = Problems::new("bridge.toml", text, Masked::new(text), vec![problem]);
        let expected = "\
error: unknown key `endpont`
 --> bridge.toml:2:1
  |
2 | endpont = \"…\"
  | ^^^^^^^
  |
  = help: did you mean `endpoint`?

bridge.toml: 1 problem";
        assert_eq!(problems.to_string(), expected);
        let told: Vec<_> = problems.log_lines().map(|told| (told.place, told.help)).collect();
        assert_eq!(told, [(Some((2, 1)), "did you mean `endpoint`?".to_owned())]);
        assert!(problems.render(true).contains('\u{1b}'));
    }

    #[test]
    fn sorts_by_place_and_counts_warnings_apart() {
        let text = "a\nb\n";
        let list = vec![
            Problem::new(Kind::MissingKey, None, "last"),
            Problem::new(Kind::BadValue, Some(2..3), "second"),
            Problem::new(Kind::Warning, Some(0..1), "first"),
        ];
        let problems = Problems::new("x.toml", text, Masked::new(text), list);
        let messages: Vec<_> = problems.iter().map(Problem::message).collect();
        assert_eq!(messages, ["first", "second", "last"]);
        assert!(problems.to_string().ends_with("x.toml: 2 problems, 1 warning"));
    }

    #[test]
    fn escapes_and_cuts_what_it_quotes() {
        assert_eq!(quoted("a\u{1b}[1m"), "`a\\u{1b}[1m`");
        assert_eq!(quoted(&"x ".repeat(33)), format!("`{}…`", "x ".repeat(32)));
        assert_eq!(listed(&["a", "b", "c"], "and"), "`a`, `b` and `c`");
    }
}
