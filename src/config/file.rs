//! The file of a configuration: read whole, from a path or from standard input.

use std::io::ErrorKind;
use std::path::Path;

use super::reader::{Kind, Problem};
use crate::files::regular::{self, Unreadable};

/// Largest file. Thousands of routes need less; a larger one is another file, or a mistake.
const MAX_BYTES: u64 = 4 << 20;

/// How standard input is written.
const STDIN: &str = "-";

/// The name of a file in texts for people.
pub fn shown(path: &Path) -> String {
    if is_stdin(path) { "standard input".to_owned() } else { path.display().to_string() }
}

/// Whether it is standard input.
pub fn is_stdin(path: &Path) -> bool {
    path == Path::new(STDIN)
}

/// The text of the file at `path`, or why there is none.
pub(super) fn read(path: &Path) -> Result<String, Box<Problem>> {
    let bytes = if is_stdin(path) {
        regular::bounded(std::io::stdin().lock(), MAX_BYTES)
    } else {
        regular::read(path, MAX_BYTES).map(|content| content.bytes)
    };
    text(bytes.map_err(|why| Box::new(unreadable(&why)))?)
}

fn unreadable(why: &Unreadable) -> Problem {
    let another = "name another with `--config FILE`";
    let (kind, message, hint) = match (why, why.kind()) {
        (_, Some(ErrorKind::NotFound)) => {
            let hint = "create it, or name another with `--config FILE`";
            (Kind::Unreadable, "there is no such file".to_owned(), hint)
        }
        (_, Some(ErrorKind::PermissionDenied)) => {
            let hint = "let this user read it: `ls -l` shows whose it is";
            (Kind::Forbidden, "this user may not read the file".to_owned(), hint)
        }
        (Unreadable::NotRegular("a directory"), _) => {
            (Kind::Unreadable, "this is a directory".to_owned(), "name the file in it")
        }
        (Unreadable::NotRegular(what), _) => {
            let message = format!("this is {what}, not a regular file");
            (Kind::Unreadable, message, "to read from a pipe, use `--config -`")
        }
        (Unreadable::TooLarge { .. }, _) => {
            let message = "the file is larger than 4 MiB".to_owned();
            (Kind::Unreadable, message, "no configuration is that large: is it another file?")
        }
        (Unreadable::Io(error), _) => {
            (Kind::Unreadable, format!("the file can't be read: {error}"), another)
        }
    };
    Problem::new(kind, None, message).help(hint)
}

fn text(bytes: Vec<u8>) -> Result<String, Box<Problem>> {
    let wide = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
    let refuse = |message: String| {
        let problem = Problem::new(Kind::Syntax, None, message);
        Err(Box::new(problem.help("TOML is UTF-8: save it as that")))
    };
    if wide {
        return refuse("the file is UTF-16".to_owned());
    }
    if let Some(at) = memchr::memchr(0, &bytes) {
        let line = line_of(&bytes, at);
        return refuse(format!("line {line} holds a NUL: this is no text, or UTF-16"));
    }
    String::from_utf8(bytes).or_else(|error| {
        let line = line_of(error.as_bytes(), error.utf8_error().valid_up_to());
        refuse(format!("line {line} is not UTF-8"))
    })
}

fn line_of(bytes: &[u8], at: usize) -> usize {
    memchr::memchr_iter(b'\n', &bytes[..at]).count() + 1
}

/// The format of a text that is no TOML, if it is obvious.
pub(super) fn foreign(text: &str) -> Option<Problem> {
    let start = text.trim_start();
    let what = match start.chars().next()? {
        '{' => "JSON",
        '<' => "XML or HTML",
        _ if start.starts_with("---") || is_yaml(text) => "YAML",
        _ => return None,
    };
    let at = text.len() - start.len();
    let place = at..at + start.chars().next().map_or(0, char::len_utf8);
    let problem = Problem::new(Kind::Syntax, Some(place), format!("this is {what}, not TOML"));
    Some(problem.help(
        "a table is written `[api.main]`, and a key in it `endpoint = \"https://…/event\"`: see `config/` for examples",
    ))
}

/// Whether hardly any line is TOML's, and most are keys with a colon or items of a list.
fn is_yaml(text: &str) -> bool {
    let (mut yaml, mut toml) = (0, 0);
    for line in
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let key = line.trim_start_matches("- ");
        let behind = key.trim_start_matches(|c: char| c.is_alphanumeric() || "_-.\"'".contains(c));
        if line.starts_with('[') || behind.trim_start().starts_with('=') {
            toml += 1;
        } else if line.starts_with("- ")
            || (behind.len() < key.len() && (behind == ":" || behind.starts_with(": ")))
        {
            yaml += 1;
        }
    }
    yaml > 1 && yaml > 4 * toml
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_no_text() {
        let said = |bytes: &[u8]| text(bytes.to_vec()).unwrap_err().message().to_owned();
        assert_eq!(said(b"\xff\xfea\0"), "the file is UTF-16");
        assert_eq!(said(b"a\0\n\0"), "line 1 holds a NUL: this is no text, or UTF-16");
        assert_eq!(said(b"a = 1\nb = \"\xff\"\n"), "line 2 is not UTF-8");
        assert_eq!(text("\u{feff}a = 1".into()).unwrap(), "\u{feff}a = 1");
    }

    #[test]
    fn knows_what_is_not_toml() {
        let said = |text: &str| foreign(text).map(|problem| problem.message().to_owned());
        for (text, what) in [
            ("{ \"api\": 1 }", "JSON"),
            ("<html>", "XML or HTML"),
            ("---\napi: x\n", "YAML"),
            (
                "# x\napi:\n  main:\n    endpoint: https://x\n    auth: {type: iam}\nlist:\n- a\n",
                "YAML",
            ),
        ] {
            assert_eq!(said(text), Some(format!("this is {what}, not TOML")));
        }
        for text in ["", "[a]\nx: 1\ny = 2\n", "a = 1", "x : 1"] {
            assert_eq!(said(text), None, "{text}");
        }
    }
}
