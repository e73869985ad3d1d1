//! An error with its causes, as one line of a log or of `/readyz`.

use std::error::Error;
use std::io;

/// Characters of an error and its causes that are passed on.
const MOST: usize = 1_000;

/// Raised by the operator, who reads of a host or a file that is not to blame.
const NO_DESCRIPTORS: &str =
    "; raise the limit of open files (`LimitNOFILE=` of the unit, or `ulimit -n`)";

/// The error and what is behind it, each once: many an error says the words of the next one, too.
pub fn in_one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut lacks = false;
    let mut source = error.source();
    while let Some(cause) = source {
        lacks |= cause.downcast_ref::<io::Error>().is_some_and(lacks_descriptors);
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    let text = printable(&text.split_whitespace().collect::<Vec<_>>().join(" "), MOST);
    if lacks { text + NO_DESCRIPTORS } else { text }
}

fn lacks_descriptors(error: &io::Error) -> bool {
    let of = |errno: rustix::io::Errno| error.raw_os_error() == Some(errno.raw_os_error());
    of(rustix::io::Errno::MFILE) || of(rustix::io::Errno::NFILE)
}

/// A text that others wrote, as far as it may be printed: control characters, and those that turn or hide
/// what stands beside them, are escaped, and of what is longer than `most` characters the rest is left
/// out.
pub fn printable(text: &str, most: usize) -> String {
    let mut out = String::with_capacity(text.len().min(most));
    for (count, c) in text.chars().enumerate() {
        if count == most {
            out.push('…');
            break;
        }
        match c {
            '\n' | '\r' | '\t' => out.push(' '),
            c if c.is_control() || is_invisible(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// Marks of direction, joiners, separators of lines, tags: what a terminal acts upon and nobody sees.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{words}")]
    struct Layer {
        words: &'static str,
        #[source]
        cause: Option<Box<Layer>>,
    }

    #[test]
    fn each_cause_is_said_once_and_in_one_line() {
        let layers = ["bottom", "middle: bottom", "middle: bottom", "top\n  of it"];
        let error = layers.into_iter().fold(None, |cause, words| {
            let cause = cause.map(Box::new);
            Some(Layer { words, cause })
        });
        assert_eq!(in_one_line(&error.unwrap()), "top of it: middle: bottom");
    }

    #[test]
    fn what_a_terminal_acts_upon_is_escaped_and_what_is_long_is_cut() {
        let text = "a\u{1b}[2J\rb\u{7}\u{9b}31m\u{202e}c\n\u{2028}é\u{0}";
        let shown = "a\\u{1b}[2J b\\u{7}\\u{9b}31m\\u{202e}c \\u{2028}é\\u{0}";
        assert_eq!(printable(text, 100), shown);
        assert_eq!(printable("ééé", 2), "éé…");
        assert_eq!(printable("éé", 2), "éé");
        let error = Layer { words: "\u{1b}]0;x\u{7}", cause: None };
        assert_eq!(in_one_line(&error), "\\u{1b}]0;x\\u{7}");
    }
}
