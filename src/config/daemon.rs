//! `[admin]`, `[log]`, `[shutdown]` and `[cost]`: the daemon itself.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use toml::de::DeValue;

use super::log_format::LogFormat;
use super::reader::{Kind, Located, Problem, Setting, Table, listed, synonyms};

/// A checked `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    /// 127.0.0.1:9464 unless set.
    pub listen: SocketAddr,
}

/// A checked `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// A directive of `tracing_subscriber`'s `EnvFilter`; `info` unless set.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

/// A checked `[cost]`: what publishing costs, for the estimate.
#[derive(Clone, Debug, PartialEq)]
pub struct CostConfig {
    /// Of a million units; 1 unless set.
    pub per_million: f64,
    /// USD unless set.
    pub currency: String,
    /// The size of a unit in bytes; 5 KB unless set.
    pub unit: u64,
}

const PORT: u16 = 9464;
const GRACE: Duration = Duration::from_secs(25);
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Reads `[admin]`.
pub(super) fn admin(table: Option<Table<'_>>) -> Option<AdminConfig> {
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let Some(mut table) = table else { return Some(AdminConfig { listen: default }) };
    let ledger = table.ledger;
    let listen = table.filled("listen").then(|text| {
        let Located { value: text, span } = text;
        let parsed = text.value.parse();
        if parsed.is_err() {
            let message = format!("{} is not an address with a port", text.shown());
            let hint = format!(
                "write `\"{default}\"`, or `\"0.0.0.0:{PORT}\"` to be reached from elsewhere"
            );
            ledger.report(Problem::new(Kind::BadValue, Some(span), message).help(hint));
        }
        parsed.ok()
    });
    let listen = listen.or(default);
    table.finish();
    Some(AdminConfig { listen: listen?.value })
}

/// Reads `[log]`.
pub(super) fn log(table: Option<Table<'_>>) -> Option<LogConfig> {
    let Some(mut table) = table else {
        return Some(LogConfig { level: "info".to_owned(), format: LogFormat::Auto });
    };
    let ledger = table.ledger;
    let level = table.filled("level").then(|text| {
        let Located { value: text, span } = text;
        let problem = |message: String| Problem::new(Kind::BadValue, Some(span), message);
        let level = text.value.trim();
        // A lone word that is no level would be taken for a module's name, and silence the rest.
        let lone = !level.contains(['=', ',', '[']);
        if lone && !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
            let hint = match synonyms::meant("log", level, &LEVELS) {
                Some(word) => format!("did you mean `{word}`?"),
                None => format!("it is {}, or `info,MODULE=debug`", listed(&LEVELS, "or")),
            };
            return ledger.refuse(problem(format!("{} is not a level", text.shown())).help(hint));
        }
        if level.parse::<tracing_subscriber::filter::EnvFilter>().is_err() {
            let hint = "write a level, or `info,MODULE=debug`";
            return ledger.refuse(problem(format!("{} can't be read", text.shown())).help(hint));
        }
        Some(level.to_owned())
    });
    let level = level.or("info".to_owned());
    let formats = [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
    let format = table.choice("format", &formats, &[]).or(LogFormat::Auto);
    ledger.log_format.set(format.as_ref().map(|format| format.value));
    table.finish();
    Some(LogConfig { level: level?.value, format: format?.value })
}

/// Reads `[shutdown]`: how long the drain may take.
pub(super) fn grace(table: Option<Table<'_>>) -> Option<Setting<Duration>> {
    let Some(mut table) = table else { return Some(Setting { value: GRACE, span: None }) };
    let ledger = table.ledger;
    let grace = table.duration("grace").then(|grace| {
        if grace.value.is_zero() {
            let message = "`grace` is 0, so nothing in flight could ever be settled";
            let hint = "`grace` > 0: messages in flight are finished before the bridge ends";
            return ledger
                .refuse(Problem::new(Kind::Impossible, Some(grace.span), message).help(hint));
        }
        Some(grace.value)
    });
    let grace = grace.or(GRACE);
    table.finish();
    grace
}

/// The price of AWS's list: a million operations, of which an event is one for each 5 KB that it begins.
const COST: (f64, &str, u64) = (1.0, "USD", 5_000);

/// Dearer is a slip.
const DEAREST: f64 = 1e6;

/// Reads `[cost]`.
pub(super) fn cost(table: Option<Table<'_>>) -> Option<CostConfig> {
    let (per_million, currency, unit) = COST;
    let default = CostConfig { per_million, currency: currency.to_owned(), unit };
    let Some(mut table) = table else { return Some(default) };
    let ledger = table.ledger;
    let price = table.field("per_million", |ledger, entry| {
        let (span, value) = (entry.value.span(), entry.value.get_ref());
        let number = match value {
            DeValue::Float(number) => number.as_str().replace('_', "").parse::<f64>().ok(),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .ok()
                .and_then(|number| i32::try_from(number).ok())
                .map(f64::from),
            _ => return ledger.wrong_type("per_million", span, "a number", value),
        };
        let number = number.filter(|number| (0.0..=DEAREST).contains(number));
        if number.is_none() {
            let message = "`per_million` is a price from 0 to 1000000";
            ledger.report(Problem::new(Kind::BadValue, Some(span), message));
        }
        number
    });
    let currency = table.filled("currency").then(|text| {
        let Located { value: text, span } = text;
        if text.value.len() == 3 && text.value.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Some(text.value);
        }
        let message = format!("{} is no currency", text.shown());
        let hint = "write its three letters: `\"USD\"`, `\"EUR\"`";
        ledger.refuse(Problem::new(Kind::BadValue, Some(span), message).help(hint))
    });
    let unit = table.size("unit").then(|size| {
        if size.value > 0 {
            return Some(size.value);
        }
        let message = "`unit` is 0, so nothing could be counted";
        ledger.refuse(
            Problem::new(Kind::Impossible, Some(size.span), message)
                .help("AWS meters by `\"5KB\"`"),
        )
    });
    let (price, currency, unit) =
        (price.or(default.per_million), currency.or(default.currency), unit.or(default.unit));
    table.finish();
    Some(CostConfig { per_million: price?.value, currency: currency?.value, unit: unit?.value })
}
