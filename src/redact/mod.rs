//! Masking: every secret value that this process knows is removed from all that it prints or serves.
//!
//! Code that reads, fetches or receives a secret gives it to [`learn`]. All output passes here: the log and
//! messages through [`stderr`], output of commands through [`stdout`], HTTP answers through [`clean`]. So it
//! does not matter what repeats a secret: an API in an error, a library, a panic. Only the events that `subscribe` prints
//! do not pass: they are data, asked for as they are.
//!
//! A value is found verbatim, in escapes (of JSON, of URLs, of HTML, also nested) and in Base64; pieces of a
//! long one are found, too, because a repeated text may be cut.
//!
//! Not here: the text of a configuration file, which is masked by its syntax, because the value of a broken
//! setting is not known.

mod escapes;
mod known;

use std::borrow::Cow;
use std::io::{self, Write};
use std::ops::Range;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use escapes::{Kind, Unescaped};
use known::Known;
use parking_lot::RwLock;

/// The text in place of a secret.
const COVER: &str = "…";

/// An escaped text in an escaped text, and so on: an error of an API that is JSON, as a text in a log
/// line that is JSON, and one more.
const MOST_LAYERS: usize = 3;

/// How long a token is masked after its expiry: it may be repeated late, and clocks differ.
const AFTER_THE_END: Duration = Duration::from_hours(1);

/// Variables with secrets that libraries read by themselves.
const VARIABLES: [&str; 3] =
    ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN"];

/// Variables with URLs that may hold a password.
const PROXIES: [&str; 3] = ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"];

static KNOWN: LazyLock<RwLock<Known>> = LazyLock::new(RwLock::default);

/// Remembers a secret for ever: an old key is valid until it is revoked. Values of less than eight characters
/// are not remembered: common words would be masked everywhere.
pub fn learn(value: &str) {
    remember(value, None);
}

/// Remembers a secret that is worthless after `lifetime`; `None`: for ever.
pub fn learn_for(value: &str, lifetime: Option<Duration>) {
    let now = Instant::now();
    // An end beyond the clock's range counts as none.
    let until = lifetime.and_then(|life| now.checked_add(life)?.checked_add(AFTER_THE_END));
    remember(value, until);
}

/// Remembers the values in the query of a URL: tokens are handed over there, and errors of clients name URLs.
pub fn learn_query(query: &str) {
    for (_, value) in form_urlencoded::parse(query.as_bytes()) {
        learn(&value);
    }
}

/// Remembers the secrets in the environment of this process.
pub fn learn_environment() {
    let value = |name: &str| Some(std::env::var_os(name)?.to_string_lossy().into_owned());
    for secret in VARIABLES.into_iter().filter_map(value) {
        learn(&secret);
    }
    let either = |name: &str| [value(name), value(&name.to_ascii_lowercase())];
    for proxy in PROXIES.into_iter().flat_map(either).flatten() {
        for secret in secrets_of(&proxy) {
            learn(&secret);
        }
    }
}

/// A text without the secrets in it.
pub fn clean(text: &str) -> Cow<'_, str> {
    match cleaned(text.as_bytes()) {
        None => Cow::Borrowed(text),
        // Only whole characters were replaced.
        Some(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

/// Standard error, for all output there. Lines are written whole.
pub fn stderr() -> Clean<io::Stderr> {
    Clean::new(io::stderr())
}

/// Standard output, for all output there. Lines are written whole.
pub fn stdout() -> Clean<io::Stdout> {
    Clean::new(io::stdout())
}

/// Writes lines with their secrets masked, even if they come in pieces. A line without an end is written by
/// `flush` or on drop.
#[derive(Debug)]
pub struct Clean<W: Write> {
    inner: W,
    line: Vec<u8>,
}

impl<W: Write> Clean<W> {
    /// In front of `inner`.
    pub fn new(inner: W) -> Self {
        Self { inner, line: Vec::new() }
    }

    fn write_out(&mut self, end: usize) -> io::Result<()> {
        let text: Vec<u8> = self.line.drain(..end).collect();
        if text.is_empty() {
            return Ok(());
        }
        self.inner.write_all(cleaned(&text).as_deref().unwrap_or(&text))
    }
}

impl<W: Write> Write for Clean<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        if let Some(end) = memchr::memrchr(b'\n', bytes) {
            self.write_out(self.line.len() - bytes.len() + end + 1)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_out(self.line.len())?;
        self.inner.flush()
    }
}

impl<W: Write> Drop for Clean<W> {
    fn drop(&mut self) {
        // There is no one left to report an error to.
        let _ = self.flush();
    }
}

/// The password of an address, or its user where that is all (tokens are written so), as it stands there and
/// as it is sent.
fn secrets_of(address: &str) -> Vec<String> {
    let Some((user_info, _)) = address.rsplit_once('@') else { return Vec::new() };
    let user_info = user_info.split_once("://").map_or(user_info, |(_, user_info)| user_info);
    let secret = match user_info.split_once(':') {
        Some((user, "")) => user,
        Some((_, password)) => password,
        None => user_info,
    };
    let sent = Unescaped::of(secret.as_bytes(), Kind::Percent);
    let sent = sent.and_then(|sent| String::from_utf8(sent.bytes().to_vec()).ok());
    [Some(secret.to_owned()), sent].into_iter().flatten().collect()
}

fn remember(value: &str, until: Option<Instant>) {
    let knows = KNOWN.read().knows(value, until);
    if !knows {
        KNOWN.write().learn(value, until, Instant::now());
    }
}

/// `None` if there is no secret in it.
fn cleaned(text: &[u8]) -> Option<Vec<u8>> {
    let spans = secrets(&KNOWN.read(), text);
    let mut shown = Vec::with_capacity(text.len());
    let mut from = 0;
    for span in &spans {
        shown.extend_from_slice(&text[from..span.start]);
        shown.extend_from_slice(COVER.as_bytes());
        from = span.end;
    }
    shown.extend_from_slice(&text[from..]);
    (!spans.is_empty()).then_some(shown)
}

/// The places of secrets, in order and disjoint.
fn secrets(known: &Known, text: &[u8]) -> Vec<Range<usize>> {
    if known.is_empty() {
        return Vec::new();
    }
    let mut found = known.find(text);
    below(known, |kind| Unescaped::of(text, kind), MOST_LAYERS, &mut found);
    for span in &mut found {
        widen(text, span);
    }
    found.sort_by_key(|span| (span.start, span.end));
    found.dedup_by(|next, kept| {
        let meets = next.start <= kept.end;
        if meets {
            kept.end = kept.end.max(next.end);
        }
        meets
    });
    found
}

/// What is found with one kind of escapes undone, and below that with another: a value may hold what
/// looks like an escape of a kind that it was not written in.
fn below(
    known: &Known,
    undo: impl Fn(Kind) -> Option<Unescaped>,
    layers: usize,
    found: &mut Vec<Range<usize>>,
) {
    for layer in Kind::ALL.into_iter().filter_map(undo) {
        found.extend(known.find(layer.bytes()).into_iter().map(|span| layer.origin(&span)));
        if layers > 1 {
            let again: &dyn Fn(Kind) -> Option<Unescaped> = &|kind| layer.again(kind);
            below(known, again, layers - 1, found);
        }
    }
}

/// Widened to whole characters: a piece of a secret may begin within one.
fn widen(text: &[u8], span: &mut Range<usize>) {
    let within = |at: usize| text.get(at).is_some_and(|byte| byte & 0xC0 == 0x80);
    while span.start > 0 && within(span.start) {
        span.start -= 1;
    }
    while within(span.end) {
        span.end += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    fn covered(secrets: &[&str], text: &str) -> String {
        let mut known = Known::default();
        for secret in secrets {
            known.learn(secret, None, Instant::now());
        }
        let mut shown = text.to_owned();
        for span in super::secrets(&known, text.as_bytes()).into_iter().rev() {
            shown.replace_range(span, COVER);
        }
        shown
    }

    #[test]
    fn what_the_query_of_a_url_holds_is_a_secret() {
        learn_query("name=short&token=hunter2%2Fof-a-query");
        for url in
            ["wss://b/mqtt?token=hunter2%2Fof-a-query", "wss://b/mqtt?token=hunter2/of-a-query"]
        {
            assert_eq!(clean(url), "wss://b/mqtt?token=…");
        }
    }

    #[test]
    fn a_value_is_covered_wherever_it_stands_and_a_word_is_not() {
        let secrets = ["hunter2-of-no-one", "s3cr3t-ä-\"q\"", "short"];
        for (text, expected) in [
            ("token hunter2-of-no-one expired", "token … expired"),
            ("hunter2-of-no-onehunter2-of-no-one", "…"),
            ("short words stay, hunter2 too", "short words stay, hunter2 too"),
            ("a s3cr3t-ä-\"q\" b", "a … b"),
            (r#"{"m":"s3cr3t-ä-\"q\""}"#, r#"{"m":"…"}"#),
            (r#"{"m":"{\"m\":\"s3cr3t-\\u00e4-\\\"q\\\"\"}"}"#, r#"{"m":"{\"m\":\"…\"}"}"#),
            ("?t=s3cr3t-%C3%A4-%22q%22&u=1", "?t=…&u=1"),
            ("<b>s3cr3t-&#228;-&quot;q&#x22;</b>", "<b>…</b>"),
        ] {
            assert_eq!(covered(&secrets, text), expected);
        }
    }

    #[test]
    fn base64_is_covered_wherever_in_it_the_value_stands() {
        let secret = "p4ss/w+rd?of~someone";
        for before in ["", "u", "us", "user:", "a-client:"] {
            let plain = format!("{before}{secret}&more");
            for text in [STANDARD.encode(&plain), URL_SAFE_NO_PAD.encode(&plain)] {
                let shown = covered(&[secret], &format!("Basic {text}, refused"));
                assert!(shown.starts_with("Basic ") && shown.ends_with(", refused"), "{shown}");
                // At either end a character is made of a neighbour's bits, too.
                assert!(shown.contains('…') && shown.len() < 45, "{shown}");
            }
        }
        // RFC 6749 has both encoded before they are joined.
        let basic = STANDARD.encode("a-client:p4ss%2Fw%2Brd%3Fof%7Esomeone");
        assert!(covered(&[secret], &basic).contains('…'));
    }

    #[test]
    fn of_a_long_value_every_piece_is_covered() {
        let secret: String = (0..400u32).map(|n| char::from(b'!' + (n * n % 89) as u8)).collect();
        for (from, to) in [(0, 16), (0, 399), (1, 400), (123, 139), (200, 317)] {
            let text = format!("ends in {}", &secret[from..to]);
            let shown = covered(&[&secret], &text);
            assert_eq!(shown, "ends in …", "{from}..{to}");
        }
        assert_eq!(covered(&[&secret], &secret[5..15]), &secret[5..15], "too little to be one");
        let lines = "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0BAQEFAASC";
        assert_eq!(covered(&[lines], "got: MIIEvQIBADANBgkq hkiG9w0BAQEFAASC"), "got:…");
    }

    #[test]
    fn a_line_is_covered_however_it_comes_in_pieces() {
        learn("in-pieces-and-whole");
        let mut written = Vec::new();
        {
            let mut writer = Clean::new(&mut written);
            for piece in ["one in-pie", "ces-and-who", "le two\nthree in-pieces-", "and-whole"] {
                writer.write_all(piece.as_bytes()).unwrap();
            }
        }
        assert_eq!(String::from_utf8(written).unwrap(), "one … two\nthree …");
        assert_eq!(clean("nothing in it"), Cow::Borrowed("nothing in it"));
    }

    #[test]
    fn an_address_may_hold_a_password_or_a_token_and_either_may_be_encoded() {
        for (address, expected) in [
            ("http://proxy.example:3128", &[][..]),
            ("http://user:password@proxy.example:3128", &["password"]),
            ("user:pass//word@proxy.example", &["pass//word"]),
            ("http://token-of-nobody@proxy.example", &["token-of-nobody"]),
            ("token-of-nobody@proxy.example", &["token-of-nobody"]),
            ("http://token-of-nobody:@proxy.example", &["token-of-nobody"]),
            ("http://a%40b:p%40ss%2Fw@proxy.example", &["p%40ss%2Fw", "p@ss/w"]),
            ("http://t%6Fken@proxy.example", &["t%6Fken", "token"]),
            ("http://user:p@ss//w:rd@proxy.example", &["p@ss//w:rd"]),
            ("http://user:p%E4ss@proxy.example", &["p%E4ss"]),
        ] {
            assert_eq!(secrets_of(address), expected, "{address}");
        }
    }

    /// Not a test: the process that the next one starts.
    #[test]
    fn a_process_with_proxies() {
        if std::env::var_os("HAS_PROXIES").is_some() {
            learn_environment();
            let all = SECRETS_OF_PROXIES.join(" ");
            let _ = writeln!(stdout(), "all: {all}, https_proxy");
        }
    }

    #[test]
    fn every_variable_of_a_proxy_is_known() {
        let mut process = std::process::Command::new(std::env::current_exe().unwrap());
        process.args(["--exact", "redact::tests::a_process_with_proxies", "--nocapture"]);
        let variables = PROXIES.map(|name| [name.to_owned(), name.to_ascii_lowercase()]).concat();
        for (name, secret) in variables.iter().zip(SECRETS_OF_PROXIES) {
            process.env(name, format!("http://{secret}@proxy.example:3128"));
        }
        let said = process.env("HAS_PROXIES", "1").output().unwrap().stdout;
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains("all: … … … … … …, https_proxy"), "{said}");
    }

    const SECRETS_OF_PROXIES: [&str; 6] = [
        "token-the-first",
        "token-the-second",
        "token-the-third",
        "token-the-fourth",
        "token-the-fifth",
        "token-the-sixth",
    ];

    proptest::proptest! {
        #[test]
        fn whatever_the_value_it_is_gone_from_its_json(secret in "[ -~äé€𝄞]{8,40}", text in "\\PC{0,20}") {
            let line = serde_json::json!({ "why": format!("{text}{secret}{text}") }).to_string();
            let line = serde_json::json!({ "message": line }).to_string();
            let shown = covered(&[&secret], &line);
            let outer: serde_json::Value = serde_json::from_str(&shown).unwrap();
            proptest::prop_assert!(!outer["message"].as_str().unwrap().contains(&secret));
            proptest::prop_assert!(shown.contains('…'));
        }
    }
}
