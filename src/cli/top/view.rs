//! The document as lines of a terminal. Pure: what `/status` says, a width and a look.

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use serde_json::Value;

use super::curve::curve;
use super::words::{
    between, counts, grouped, lasting, list, number, numbers, rate, text, texts, took, total,
    wrapped,
};

/// Columns of a name; a longer one moves what follows.
const NAME: usize = 14;

/// Narrower than this a curve says nothing.
const LEAST_CURVE: usize = 10;

/// How it looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Whether there are colours.
    pub(super) colour: bool,
}

/// What a piece of text says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Title,
    Good,
    Bad,
    Warn,
    Faint,
}

impl Look {
    /// In colours, unless `NO_COLOR` is set.
    pub(super) fn of_environment() -> Self {
        Self { colour: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) }
    }

    /// The style of a tone. Without colours what is bad is bold, so that it is seen all the same.
    pub(super) fn style(self, tone: Tone) -> Style {
        let plain = Style::new();
        let colour = |colour| if self.colour { plain.fg(colour) } else { plain };
        match tone {
            Tone::Plain => plain,
            Tone::Title => plain.add_modifier(Modifier::BOLD),
            Tone::Good => colour(Color::Green),
            Tone::Bad => colour(Color::Red).add_modifier(Modifier::BOLD),
            Tone::Warn => colour(Color::Yellow),
            Tone::Faint => plain.add_modifier(Modifier::DIM),
        }
    }

    fn span(self, tone: Tone, text: impl Into<String>) -> Span<'static> {
        Span::styled(text.into(), self.style(tone))
    }
}

/// A state as people say it, and its tone.
pub(super) fn state(of: &Value) -> (String, Tone) {
    let word = text(of, "state");
    let tone = match word.as_str() {
        "ready" => Tone::Good,
        "not_ready" | "stopped" => Tone::Bad,
        _ => Tone::Warn,
    };
    (word.replace('_', " "), tone)
}

/// The first lines: who it is, how it does on the whole.
pub(super) fn head(status: &Value, address: &str, look: Look) -> Vec<Line<'static>> {
    let (word, tone) = state(status);
    let up = lasting(number(status, "uptime_seconds"));
    let sum = |parts: &str, member: &str| -> f64 {
        list(status, parts).iter().map(|part| number(part, member)).sum()
    };
    let dead: f64 = list(status, "dead_letters").iter().map(|part| total(part, "written")).sum();
    vec![
        Line::from(vec![
            look.span(tone, word.to_uppercase()),
            look.span(Tone::Title, format!("  appsync-bridge {}", text(status, "version"))),
            look.span(Tone::Plain, format!("  {address}  up {up}")),
        ]),
        Line::from(format!(
            "received {}/s  accepted {}/s  in flight {}  dead letters {}",
            rate(sum("sources", "received_per_second")),
            rate(sum("apis", "accepted_per_second")),
            grouped(sum("sources", "in_flight")),
            grouped(dead)
        )),
    ]
}

/// Everything else. A section begins with a line that [`is_title`].
pub(super) fn body(status: &Value, width: usize, look: Look) -> Vec<Line<'static>> {
    let mut page = Page { width, look, lines: Vec::new() };
    page.attention(status);
    let history = |kind: &str, at: usize, name: &str| -> Vec<f64> {
        list(&status["history"], kind).get(at).map(|past| numbers(past, name)).unwrap_or_default()
    };
    page.title("SOURCES");
    for (at, source) in list(status, "sources").iter().enumerate() {
        let past = history("sources", at, "received_per_second");
        page.source(status, source, &past);
    }
    page.title("APIS");
    for (at, api) in list(status, "apis").iter().enumerate() {
        page.api(status, api, &history("apis", at, "accepted_per_second"));
    }
    page.title("ROUTES");
    for route in list(status, "routes") {
        page.route(route);
    }
    page.title("DEAD LETTERS");
    for letters in list(status, "dead_letters") {
        page.dead_letter(status, letters);
    }
    page.title("LAST WARNINGS AND ERRORS");
    let log = list(status, "log");
    if log.is_empty() {
        page.line(vec![(Tone::Faint, "none".to_owned())]);
    }
    for line in log {
        page.log(line);
    }
    page.lines
}

/// Whether a section begins here.
pub(super) fn is_title(line: &Line<'_>) -> bool {
    line.spans.len() == 1
        && line.spans[0].style.add_modifier.contains(Modifier::BOLD)
        && line.spans[0].content.starts_with(|c: char| c.is_ascii_uppercase())
}

struct Page {
    width: usize,
    look: Look,
    lines: Vec<Line<'static>>,
}

impl Page {
    fn title(&mut self, title: &str) {
        if !self.lines.is_empty() {
            self.lines.push(Line::default());
        }
        self.lines.push(Line::from(self.look.span(Tone::Title, title)));
    }

    fn line(&mut self, pieces: Vec<(Tone, String)>) {
        let spans = pieces.into_iter().map(|(tone, text)| self.look.span(tone, text));
        let indent = std::iter::once(Span::raw("  "));
        self.lines.push(indent.chain(spans).collect::<Vec<_>>().into());
    }

    /// Text below a part, as long as it is.
    fn words(&mut self, tone: Tone, text: &str) {
        if text.is_empty() {
            return;
        }
        for line in wrapped(text, self.width.saturating_sub(4)) {
            self.line(vec![(tone, format!("  {line}"))]);
        }
    }

    /// Name, kind, state, figures, and a curve in what is left of the line, or else below it.
    fn part(&mut self, status: &Value, of: &Value, kind: &str, figures: &str, past: &[f64]) {
        let (word, tone) = state(of);
        let since = between(&of["since"], &status["now"]).filter(|_| tone != Tone::Good);
        let word = since.map_or(word.clone(), |since| format!("{word} for {since}"));
        let first = format!("{:NAME$} {kind:9} ", text(of, "name"));
        let last = format!("  {figures}");
        let used = 2 + first.chars().count() + word.chars().count() + last.chars().count() + 2;
        let mut pieces = vec![(Tone::Title, first), (tone, word), (Tone::Plain, last)];
        // A long name, or a narrow terminal.
        let below = (used > self.width + 2).then(|| pieces.pop()).flatten();
        let left = self.width.saturating_sub(used);
        let beside = left >= LEAST_CURVE + 8;
        if beside && !past.is_empty() {
            pieces.push((Tone::Good, format!("  {}", curve(past, left.min(60)))));
        }
        self.line(pieces);
        if let Some((tone, figures)) = below {
            self.words(tone, &figures);
        }
        if !beside && !past.is_empty() {
            let width = self.width.saturating_sub(16).min(60);
            let line = curve(past, width.max(1));
            self.line(vec![(Tone::Good, format!("  {line}")), (Tone::Faint, " 15 min".into())]);
        }
        self.words(Tone::Bad, &text(of, "why"));
    }

    fn attention(&mut self, status: &Value) {
        let parts = list(status, "not_ready");
        let stuck = texts(status, "stuck");
        if parts.is_empty() && stuck.is_empty() {
            return;
        }
        let names: Vec<_> = parts.iter().map(|part| text(part, "part")).collect();
        self.title("NEEDS ATTENTION");
        self.words(Tone::Bad, &names.join(", "));
        if !stuck.is_empty() {
            self.words(Tone::Bad, &format!("no progress: {}", stuck.join(", ")));
        }
    }

    fn source(&mut self, status: &Value, source: &Value, past: &[f64]) {
        let mut figures = vec![
            format!("{}/s", rate(number(source, "received_per_second"))),
            format!(
                "in flight {} of {}",
                grouped(number(source, "in_flight")),
                grouped(number(source, "max_in_flight"))
            ),
        ];
        if let Some(lag) = source["lag"].as_f64() {
            figures.push(format!("lag {}", grouped(lag)));
        }
        self.part(status, source, &text(source, "type"), &figures.join("  "), past);
        let settled = &source["settled"];
        let odd = [
            ("dropped", number(source, "dropped")),
            ("unrouted", number(source, "unrouted")),
            ("released", number(settled, "released")),
            ("reconnects", number(source, "reconnects")),
        ];
        let mut line = vec![format!("received {}", grouped(number(source, "received")))];
        let member = |member: &str| source[member].as_f64().map(took);
        if let (Some(half), Some(most)) =
            (member("delivery_p50_seconds"), member("delivery_p99_seconds"))
        {
            line.push(format!("published within {half} (99 %: {most})"));
        }
        line.extend(some(odd));
        line.extend(credentials(status, source));
        self.words(Tone::Faint, &line.join(", "));
    }

    fn api(&mut self, status: &Value, api: &Value, past: &[f64]) {
        let figures = format!("{}/s", rate(number(api, "accepted_per_second")));
        let pauses = list(api, "pauses");
        // A pause says the same, and what to do.
        let mut shown = api.clone();
        if !pauses.is_empty() {
            shown["why"] = Value::Null;
        }
        self.part(status, &shown, "", &figures, past);
        let breaker = if api["breaker_open"].as_bool() == Some(true) { "OPEN" } else { "closed" };
        let limits = format!(
            "{}, accepted {}, rejected {}, concurrency {} of {}, rate {}/s, breaker {breaker}",
            text(api, "host"),
            grouped(number(api, "accepted")),
            grouped(number(api, "rejected")),
            grouped(number(api, "concurrency_limit")),
            grouped(number(api, "max_concurrency")),
            grouped(number(api, "rate_limit"))
        );
        self.words(if breaker == "OPEN" { Tone::Warn } else { Tone::Faint }, &limits);
        let mut more = Vec::new();
        if let Some(amount) = api["estimated_cost"]["amount"].as_f64() {
            let currency = text(&api["estimated_cost"], "currency");
            let units = grouped(number(api, "metered_units"));
            more.push(format!("metered units {units}, estimated cost {amount:.2} {currency}"));
        }
        let odd = ["unconfirmed", "ambiguous", "expired"].map(|word| (word, number(api, word)));
        more.extend(some(odd));
        more.extend(credentials(status, api));
        self.words(Tone::Faint, &more.join(", "));
        let retries = counts(api, "retries");
        if !retries.is_empty() {
            self.words(Tone::Faint, &format!("retries: {retries}"));
        }
        for pause in pauses {
            let since = between(&pause["since"], &status["now"]).unwrap_or_default();
            let scope = text(pause, "scope");
            self.words(
                Tone::Bad,
                &format!("{scope} refuses the bridge for {since}; its events are kept"),
            );
            self.words(Tone::Plain, &text(pause, "why"));
            self.words(Tone::Warn, &text(pause, "hint"));
        }
    }

    fn route(&mut self, route: &Value) {
        let rejected = total(route, "rejected");
        let from = texts(route, "from").join(", ");
        let mut pieces = vec![
            (Tone::Title, format!("{:NAME$} ", text(route, "name"))),
            (
                Tone::Plain,
                format!(
                    "{}/s  matched {}  rejected {}  ",
                    rate(number(route, "matched_per_second")),
                    grouped(number(route, "matched")),
                    grouped(rejected)
                ),
            ),
        ];
        let topic = text(route, "topic");
        let path = format!("{from} {topic} → {}", texts(route, "channels").join(", "));
        let used: usize = pieces.iter().map(|(_, text)| text.chars().count()).sum();
        let beside = used + path.chars().count() + 2 <= self.width;
        if beside {
            pieces.push((Tone::Faint, path.clone()));
        }
        self.line(pieces);
        if !beside {
            self.words(Tone::Faint, &path);
        }
        if rejected > 0.0 {
            let now = rate(number(route, "rejected_per_second"));
            let reasons = counts(route, "rejected");
            self.words(Tone::Warn, &format!("rejected {now}/s: {reasons}"));
        }
    }

    fn dead_letter(&mut self, status: &Value, letters: &Value) {
        let written = total(letters, "written");
        let figures = format!("written {}", grouped(written));
        self.part(status, letters, &text(letters, "type"), &figures, &[]);
        self.words(Tone::Faint, &text(letters, "place"));
        if written > 0.0 {
            self.words(Tone::Warn, &counts(letters, "written"));
        }
    }

    fn log(&mut self, line: &Value) {
        let fields = list(line, "fields").iter().filter_map(|field| {
            let [name, value] = field.as_array()?.as_slice() else { return None };
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            Some(format!("{}={value}", name.as_str()?))
        });
        let fields: Vec<_> = fields.collect();
        let count = number(line, "count");
        let times =
            if count > 1.0 { format!(" ({} times)", grouped(count)) } else { String::new() };
        let at = text(line, "at");
        let clock = at.get(11..19).unwrap_or(&at);
        let level = text(line, "level");
        let tone = if level == "ERROR" { Tone::Bad } else { Tone::Warn };
        self.words(tone, &format!("{clock} {level} {}{times}", text(line, "message")));
        let fields = crate::error_chain::printable(&fields.join(" "), 1_000);
        self.words(Tone::Faint, &fields);
    }
}

/// Counts that are not 0, with their words.
fn some(counts: impl IntoIterator<Item = (&'static str, f64)>) -> impl Iterator<Item = String> {
    let some = counts.into_iter().filter(|(_, count)| *count > 0.0);
    some.map(|(word, count)| format!("{word} {}", grouped(count)))
}

/// When the credentials of a part end, if that is known.
fn credentials(status: &Value, of: &Value) -> Option<String> {
    let left = between(&status["now"], &of["credentials_end"])?;
    Some(format!("credentials end in {left}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(status: &Value, width: usize) -> String {
        let lines = body(status, width, Look { colour: false });
        for line in &lines {
            assert!(line.width() <= width, "{} > {width}: {line}", line.width());
        }
        lines.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n") + "\n"
    }

    fn status() -> Value {
        json!({
            "version": "0.1.0", "now": "2026-01-01T00:01:00.000Z", "uptime_seconds": 60, "state": "not_ready",
            "not_ready": [{ "part": "api main", "why": "x" }], "stuck": [],
            "sources": [{ "name": "plant", "type": "mqtt", "state": "ready", "why": null, "received": 12_345,
                "received_per_second": 12.5, "in_flight": 3, "max_in_flight": 1_000, "lag": 7, "settled": { "released": 2 },
                "dropped": 0, "reconnects": 1, "delivery_p50_seconds": 0.025, "delivery_p99_seconds": 2.5,
                "credentials_end": "2026-01-01T01:01:00Z" }],
            "routes": [{ "name": "data", "from": ["plant"], "topic": "plant/{device}/data", "channels": ["/plant/{device}"],
                "matched": 5, "matched_per_second": 0.5, "rejected": { "invalid_json": 4 }, "rejected_per_second": 0.1 }],
            "apis": [{ "name": "main", "host": "api.example", "state": "not_ready", "why": "the same", "since": "2026-01-01T00:00:30.000Z",
                "accepted": 9, "accepted_per_second": 1.5, "concurrency_limit": 8, "max_concurrency": 64, "rate_limit": 10_000,
                "breaker_open": true, "retries": { "throttled": 3 }, "unconfirmed": 0, "ambiguous": 2, "expired": 1,
                "metered_units": 1_234, "estimated_cost": { "amount": 12.345, "currency": "EUR" },
                "credentials_end": "2026-01-01T00:16:00Z",
                "pauses": [{ "scope": "namespace `alarms`", "why": "401: no", "hint": "may the key publish there?", "since": "2026-01-01T00:00:57.000Z" }] }],
            "dead_letters": [{ "name": "rejects", "type": "file", "place": "/var/rejects.jsonl", "state": "ready", "written": { "invalid_json": 4 } }],
            "log": [{ "at": "2026-01-01T00:00:59.000Z", "level": "WARN", "message": "can't be published", "fields": [["route", "data"]], "count": 4 }],
            "history": { "step_seconds": 5, "sources": [{ "received_per_second": [0.0, 5.0, 12.5] }], "apis": [] },
            "something_new": { "a": [1] },
        })
    }

    #[test]
    fn it_says_what_a_person_needs_at_any_width() {
        for width in [60, 80, 120, 200] {
            let text = shown(&status(), width).split_whitespace().collect::<Vec<_>>().join(" ");
            for words in [
                "NEEDS ATTENTION api main",
                "plant mqtt ready 12/s in flight 3 of 1,000 lag 7",
                "received 12,345, published within 25 ms (99 %: 2.5 s), released 2, reconnects 1, credentials end in 1 h 0 min",
                "metered units 1,234, estimated cost 12.35 EUR, ambiguous 2, expired 1, credentials end in 15 min 0 s",
                "not ready for 30 s",
                "concurrency 8 of 64, rate 10,000/s, breaker OPEN",
                "retries: throttled 3",
                "namespace `alarms` refuses the bridge for 3 s; its events are kept",
                "401: no may the key publish there?",
                "data 0.5/s matched 5 rejected 4 plant plant/{device}/data → /plant/{device}",
                "rejected 0.1/s: invalid json 4",
                "rejects file ready written 4",
                "00:00:59 WARN can't be published (4 times) route=data",
            ] {
                if width >= 80 {
                    assert!(text.contains(words), "{words} at {width}: {text}");
                }
            }
            assert!(text.contains('█') && !text.contains("the same"), "{text}");
        }
        let head = head(&status(), "http://localhost:9464", Look { colour: false });
        assert!(head[0].to_string().starts_with("NOT READY  appsync-bridge 0.1.0"), "{}", head[0]);
        assert!(head[1].to_string().contains("received 12/s  accepted 1.5/s  in flight 3"));
    }

    #[test]
    fn a_document_of_anything_is_no_panic() {
        for odd in [json!(null), json!([]), json!({ "sources": 1, "apis": [1], "log": [{}] })] {
            shown(&odd, 80);
            head(&odd, "", Look { colour: true });
        }
        let titles = body(&status(), 80, Look { colour: false });
        assert_eq!(titles.iter().filter(|line| is_title(line)).count(), 6);
    }
}
