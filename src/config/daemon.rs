//! `[admin]`, `[log]`, `[shutdown]` and `[cost]`: the daemon itself.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::api::pem_file;
use super::certificates;
use super::log_format::LogFormat;
use super::reader::{Form, Kind, Located, Problem, Reported, Setting, Table, listed, synonyms};
use super::secret::Secret;

/// A checked `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    /// 127.0.0.1:9464 unless set.
    pub listen: SocketAddr,
    /// Certificate and key of the server, both PEM; `None`: plain text.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// What whoever asks has to show; `None`: everybody is answered.
    pub token: Option<Secret>,
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

/// For whom `[admin]` is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The bridge, which has to be able to serve.
    Server,
    /// Who asks it: what the files of the certificate hold by now is no matter of theirs.
    Client,
}

/// Reads `[admin]`.
pub(super) fn admin(table: Option<Table<'_>>, side: Side) -> Option<AdminConfig> {
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let Some(mut table) = table else {
        return Some(AdminConfig { listen: default, tls: None, token: None });
    };
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
    let tls = server(&mut table, side);
    let token = table.secret("token").then(|token| {
        let text = token.value.reveal();
        if *text == *text.trim() {
            return Some(token.value);
        }
        let message = "`token` has white space at an end";
        let hint = "take it away: a request loses it on its way, so the token would never be the same; from a file only the line break at its end is left out";
        ledger.refuse(Problem::new(Kind::BadValue, Some(token.span), message).help(hint))
    });
    let token = token.optional();
    let plaintext = table.boolean("dangerously_plaintext").or(false);
    table.finish();
    let (listen, tls, token, plaintext) = (listen?, tls.ok()?, token.ok()?, plaintext?.value);
    let at = listen.span.filter(|_| !listen.value.ip().to_canonical().is_loopback());
    match (at, &token) {
        (Some(at), None) => {
            let message = "the admin port can be reached from elsewhere and asks for no token";
            let hint = "set `token`, and `tls = { cert_file, key_file }`; or let a firewall say who reaches it";
            ledger.report(Problem::new(Kind::Warning, Some(at), message).help(hint));
        }
        (Some(at), Some(token)) if tls.is_none() && !plaintext => {
            let message = "`token` would cross the network as plain text";
            let hint = "add `tls = { cert_file, key_file }`; to take it all the same, `dangerously_plaintext = true`";
            let problem = Problem::new(Kind::Unsafe, Some(token.span.clone()), message);
            ledger.report(problem.also(at, "not loopback").help(hint));
        }
        _ => {}
    }
    let token = token.map(|token| token.value);
    Some(AdminConfig { listen: listen.value, tls, token })
}

/// The server's certificate and key.
fn server(table: &mut Table<'_>, side: Side) -> Result<Option<(PathBuf, PathBuf)>, Reported> {
    let ledger = table.ledger;
    let files = table.table("tls", "tls").then(|Located { value: mut table, span }| {
        let mut file = |key: &'static str, what: &str| match side {
            Side::Server => pem_file(&mut table, key, what),
            Side::Client => table.filled(key).then(|text| Some(PathBuf::from(text.value.value))),
        };
        let chain = file("cert_file", "CERTIFICATE").optional();
        let key = file("key_file", "PRIVATE KEY").optional();
        table.finish();
        let (Some(chain), Some(key)) = (chain.ok()?, key.ok()?) else {
            let message = "`tls` needs both `cert_file` and `key_file`";
            let problem = Problem::new(Kind::MissingKey, Some(span), message);
            return ledger.refuse(problem.help("a server shows a certificate and holds its key"));
        };
        if side == Side::Server {
            certificates::of_server(ledger, &chain, &key)?;
        }
        Some((chain.value, key.value))
    });
    Ok(files.optional()?.map(|files| files.value))
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
    let format = table.choice_or("format", &formats, &[], LogFormat::Auto);
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
    let price = table.field("per_million", Form::Number(DEAREST), |ledger, entry| {
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Environment, load_admin, parse};

    /// What is said of these lines of `[admin]`, and whether they are taken.
    fn said(lines: &str) -> (bool, String) {
        let text = format!(
            "[api.main]\nendpoint = \"http://localhost/event\"\nauth = {{ type = \"token\", token = {{ env = \"T\" }} }}\n\
             [source.plant]\ntype = \"mqtt\"\nurl = \"mqtts://b\"\nclient_id = \"b\"\nsubscriptions = \"#\"\n\
             [route.all]\nfrom = \"plant\"\nchannel = \"/all/x\"\n[admin]\n{lines}\n"
        );
        let environment = Environment::of([("HOME", "/h"), ("T", "t")]);
        match parse(&text, Path::new("t.toml"), &environment) {
            Ok(loaded) => (true, loaded.warnings.to_string()),
            Err(problems) => (false, problems.to_string()),
        }
    }

    #[test]
    fn a_port_that_others_reach_asks_for_a_token_over_tls() {
        let token = "token = { env = \"T\" }";
        for quiet in [
            String::new(),
            token.to_owned(),
            format!("listen = \"[::1]:1\"\n{token}"),
            format!("listen = \"[::ffff:127.0.0.1]:1\"\n{token}"),
            format!("listen = \"0.0.0.0:1\"\n{token}\ndangerously_plaintext = true"),
        ] {
            assert_eq!(said(&quiet), (true, String::new()), "{quiet}");
        }
        let (taken, words) = said("listen = \"0.0.0.0:1\"");
        assert!(
            taken && words.contains("asks for no token") && words.contains("`token`"),
            "{words}"
        );
        let (taken, words) = said("listen = \"0.0.0.0:1\"\ndangerously_plaintext = true");
        assert!(taken && words.contains("asks for no token"), "{words}");
        let (taken, words) = said(&format!("listen = \"0.0.0.0:1\"\n{token}"));
        assert!(!taken && words.contains("as plain text"), "{words}");
        assert!(words.contains("dangerously_plaintext"), "{words}");
    }

    #[test]
    fn a_token_that_would_never_match_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let from_file = format!("token = {{ file = {:?} }}", file.path());
        for (content, good) in
            [("s3cret of it\n", true), ("s3cret of it \n", false), (" \n", false)]
        {
            std::fs::write(&file, content).unwrap();
            let (taken, words) = said(&from_file);
            assert_eq!(taken, good, "{content:?}: {words}");
            assert!(
                good || words.contains("white space") && words.contains("line break"),
                "{words}"
            );
            assert!(!words.contains("s3cret of it"), "{words}");
        }
        for text in ["s3cret ", "\\ts3cret", "s3cret\\n"] {
            assert!(!said(&format!("token = \"{text}\"")).0, "{text:?}");
        }
    }

    /// Who asks a bridge needs `[admin]` alone, and of its certificate only the place.
    #[test]
    fn who_asks_needs_nothing_else_of_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let admin = |text: &str| {
            std::fs::write(&file, text).unwrap();
            let loaded = load_admin(file.path(), &Environment::of([("T", "t")]));
            loaded.map_err(|problems| problems.to_string())
        };
        let good = "[admin]\nlisten = \"127.0.0.1:7\"\ntoken = { env = \"T\" }\n\
                    tls = { cert_file = \"/nowhere.pem\", key_file = \"/nowhere.key\" }\n";
        let wrong = "[source.x]\ntype = \"carrier-pigeon\"\n";
        let broken = ["[api.main\nendpoint = 1\n", "[api.main]\nendpoint = [\n"];
        for text in [
            good.to_owned(),
            format!("{wrong}{good}"),
            format!("{good}{}", broken[0]),
            format!("{good}{}", broken[1]),
        ] {
            let admin = admin(&text).unwrap();
            assert_eq!((admin.listen.port(), admin.token.is_some()), (7, true), "{text}");
            assert_eq!(admin.tls.unwrap().0, Path::new("/nowhere.pem"));
        }
        assert_eq!(admin(wrong).unwrap().listen.port(), super::PORT);
        for bad in [
            "[admin]\nlisten = 0.0.0.0:7\n",
            "[admin\nlisten = \"0.0.0.0:7\"\n",
            "[admin]\nport = 7\n",
        ] {
            let words = admin(bad).unwrap_err();
            assert!(words.contains("error"), "{bad}: {words}");
        }
    }

    #[test]
    fn tls_of_a_server_needs_both_files() {
        let (taken, words) = said("tls = true");
        assert!(!taken && words.contains("table"), "{words}");
        let (taken, words) =
            said("tls = { cert_file = \"/nowhere.pem\", key_file = \"/nowhere.key\" }");
        assert!(!taken && words.contains("does not exist"), "{words}");
        let (taken, words) = said("tls = { }");
        assert!(!taken && words.contains("needs both `cert_file` and `key_file`"), "{words}");
        let (taken, words) = said("tls = { ca_file = \"/a\" }");
        assert!(!taken && words.contains("ca_file"), "{words}");
    }

    #[cfg(feature = "emulator")]
    #[test]
    fn a_certificate_that_is_over_stops_no_message() {
        let directory = tempfile::tempdir().unwrap();
        let mut params = rcgen::CertificateParams::new(["bridge".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let [chain, private] = [
            ("cert.pem", params.self_signed(&key).unwrap().pem()),
            ("key.pem", key.serialize_pem()),
        ]
        .map(|(name, text)| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        });
        let (taken, words) =
            said(&format!("tls = {{ cert_file = {chain:?}, key_file = {private:?} }}"));
        assert!(taken && words.contains("expired on 2021-01-01"), "{words}");
        let (taken, words) =
            said(&format!("tls = {{ cert_file = {chain:?}, key_file = {chain:?} }}"));
        assert!(!taken && words.contains("private key"), "{words}");
    }
}
