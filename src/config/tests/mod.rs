//! The loader as a whole.

mod environment;
mod hiding;
mod hints;
mod sizes;

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::broker::SourceKind;
use super::kafka::{Protocol, Start, Tombstones};
use super::mqtt::{MqttVersion, Qos};
use super::source::Unrouted;
use super::*;

const GOOD: &str = r#"
[api.main]
endpoint = "https://abcdefghijklmnopqrstuvwxyz.appsync-api.eu-west-1.amazonaws.com/event"
auth = { type = "iam" }

[source.plant]
type = "mqtt"
url = "mqtt://localhost"
client_id = "bridge-0"
subscriptions = ["plant/#"]

[route.all]
from = "plant"
channel = "/plant/{topic..}"
"#;

fn environment() -> Environment {
    Environment::of([("HOME", "/home/b"), ("POD", "pod-0"), ("KEY", "da2-x"), ("EMPTY", "")])
}

fn read(text: &str) -> Result<Loaded, Problems> {
    parse(text, Path::new("t.toml"), &environment())
}

fn good(text: &str) -> Config {
    read(text).unwrap_or_else(|problems| panic!("{problems}")).config
}

/// The good one with a line put behind the header of a table, or a line replaced.
fn with(table: &str, line: &str) -> String {
    let key = line.split('=').next().unwrap().trim();
    let mut here = false;
    let mut text = String::new();
    for each in GOOD.lines() {
        if each.starts_with('[') {
            here = each == format!("[{table}]");
        }
        if !(here && each.split('=').next().unwrap().trim() == key) {
            text.extend([each, "\n"]);
        }
        if here && each.starts_with('[') {
            text.extend([line, "\n"]);
        }
    }
    text
}

fn of_mqtt(kind: &SourceKind) -> &super::mqtt::MqttConfig {
    let SourceKind::Mqtt(mqtt) = kind else { panic!("{kind:?}") };
    mqtt
}

fn kinds(text: &str) -> Vec<Kind> {
    match read(text) {
        Ok(loaded) => loaded.warnings.iter().map(Problem::kind).collect(),
        Err(problems) => problems.iter().map(Problem::kind).collect(),
    }
}

#[test]
fn defaults_are_those_of_the_page() {
    let config = good(GOOD);
    let api = &config.apis["main"];
    assert_eq!(api.timeout, Duration::from_secs(10));
    assert_eq!(api.max_concurrency, 64);
    assert_eq!((api.max_rate, api.http2), (10_000, false));
    assert_eq!(api.connection_max_age, Duration::from_mins(5));
    assert_eq!(api.endpoint.region.as_deref(), Some("eu-west-1"));
    assert_eq!(api.ca_file, None);
    let source = &config.sources[0];
    assert_eq!(source.limits.messages, 1000);
    assert_eq!(source.limits.bytes, 64 << 20);
    assert_eq!(source.unrouted, Unrouted::Ignore);
    let mqtt = of_mqtt(&source.kind);
    assert_eq!((mqtt.host.as_str(), mqtt.port, &mqtt.tls), ("localhost", 1883, &None));
    assert_eq!(mqtt.version, MqttVersion::V5);
    assert_eq!(mqtt.subscriptions[0].qos, Qos::AtLeastOnce);
    assert_eq!(mqtt.session_expiry, Duration::from_hours(24));
    assert_eq!(mqtt.keep_alive, Duration::from_secs(30));
    assert_eq!(mqtt.max_packet_size, 300_000);
    let route = &config.routes[0];
    assert_eq!((&*route.api, route.strict_order, route.give_up_after), ("main", false, 5));
    assert_eq!(route.dead_letter, crate::route::RejectTo::DeadLetter("default".into()));
    let path = "/home/b/.local/state/appsync-bridge/dead-letters.jsonl".into();
    assert_eq!(
        config.dead_letters["default"],
        DeadLetterConfig::File { path, rotation: Rotation::default() }
    );
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:9464");
    assert_eq!((config.log.level.as_str(), config.log.format), ("info", LogFormat::Auto));
    assert_eq!(config.grace, Duration::from_secs(25));
}

#[test]
fn defaults_of_kafka_are_those_of_the_page() {
    let text = GOOD.split("[source").next().unwrap().to_owned()
        + "[source.plant]\ntype = \"kafka\"\nbrokers = \"kafka\"\ngroup = \"g\"\ntopics = \"a.b\"\n\
           [route.all]\nfrom = \"plant\"\ntopic = \"a.{what}\"\nchannel = \"/a/{what}\"\n";
    let config = good(&text);
    let source = &config.sources[0];
    assert_eq!((source.limits.messages, source.limits.bytes), (10_000, 64 << 20));
    let SourceKind::Kafka(kafka) = &source.kind else { panic!("{source:?}") };
    assert_eq!(
        (&*kafka.brokers, kafka.topics.all()),
        (&["kafka".to_owned()][..], &["a.b".to_owned()][..])
    );
    assert_eq!((kafka.protocol, kafka.start), (Protocol::Classic, Start::Earliest));
    assert_eq!(kafka.session_timeout, Duration::from_secs(45));
    assert_eq!(kafka.drain_timeout, Duration::from_secs(20));
    assert_eq!(kafka.tombstones, Tombstones::Skip);
    assert!(kafka.tls.is_none() && kafka.sasl.is_none() && kafka.instance.is_none());
    assert!(kafka.options.is_empty());
}

#[test]
fn defaults_of_sqs_are_those_of_the_page() {
    let url = "https://sqs.eu-west-1.amazonaws.com/111122223333/orders.fifo";
    let text = GOOD.split("[source").next().unwrap().to_owned()
        + &format!("[source.plant]\ntype = \"sqs\"\nqueue = \"{url}\"\n")
        + "[route.all]\nfrom = \"plant\"\nchannel = \"/a/{json.id}\"\ndead_letter = \"source\"\n";
    let config = good(&text);
    assert_eq!(config.routes[0].dead_letter, crate::route::RejectTo::Source);
    let source = &config.sources[0];
    assert_eq!((source.limits.messages, source.limits.bytes), (1_000, 64 << 20));
    let SourceKind::Sqs(sqs) = &source.kind else { panic!("{source:?}") };
    let queue = &sqs.queue;
    assert_eq!((queue.url.as_str(), queue.name.as_str()), (url, "orders.fifo"));
    assert_eq!(queue.account.as_deref(), Some("111122223333"));
    assert!(queue.is_fifo() && sqs.needs_redrive && sqs.tls.is_some());
    assert_eq!(sqs.endpoint, "https://sqs.eu-west-1.amazonaws.com");
    assert_eq!(sqs.aws.region.as_deref(), Some("eu-west-1"));
    assert_eq!((sqs.wait_time, sqs.visibility_timeout), (Duration::from_secs(20), None));
    assert_eq!(sqs.receivers, 2);
}

#[test]
fn dead_letters_are_kept_out_of_the_regular_expressions_of_their_sources() {
    let source = |name: &str, broker: &str| {
        format!(
            "[source.{name}]\ntype = \"kafka\"\nbrokers = \"{broker}\"\ngroup = \"g\"\ntopics = \"^.*\"\n\
             [route.{name}]\nfrom = \"{name}\"\nchannel = \"/a/b\"\ndead_letter = \"{name}\"\n"
        )
    };
    let dead_letter = |name: &str, home: &str| {
        format!(
            "[dead_letter.{name}]\ntype = \"kafka\"\nsource = \"{home}\"\ntopic = \"{name}.rejects\"\n"
        )
    };
    let api = GOOD.split("[source").next().unwrap();
    // `b` is of another cluster, and its rejects go to that of `a`.
    let text = format!(
        "{api}{}{}{}{}",
        source("a", "one"),
        source("b", "two"),
        dead_letter("a", "a"),
        dead_letter("b", "a")
    );
    let config = good(&text);
    let never = |at: usize| {
        let topics = &config.sources[at].kind.kafka().unwrap().topics;
        topics.choose(["a.rejects", "b.rejects"]).dead_letters
    };
    assert_eq!((never(0), never(1)), (vec!["a.rejects".into(), "b.rejects".into()], vec![]));
    // Two that read what the other can't publish.
    let circle = format!(
        "{api}{}{}{}{}",
        source("a", "one"),
        source("b", "one"),
        dead_letter("a", "a"),
        dead_letter("b", "b")
    );
    assert_eq!(kinds(&circle), [Kind::Impossible]);
}

#[test]
fn ports_and_tls_follow_the_url() {
    let broker = |url: &str, more: &str| {
        let text = with("source.plant", &format!("url = \"{url}\"\n{more}"));
        let config = good(&text);
        let mqtt = of_mqtt(&config.sources[0].kind);
        (mqtt.host.clone(), mqtt.port, mqtt.tls.clone())
    };
    let tls = Some(Tls::default());
    assert_eq!(broker("mqtt://h", ""), ("h".into(), 1883, None));
    assert_eq!(broker("mqtts://h/", ""), ("h".into(), 8883, tls.clone()));
    assert_eq!(broker("mqtt://h:9", "tls = true"), ("h".into(), 9, tls.clone()));
    assert_eq!(broker("mqtt://h", "tls = true"), ("h".into(), 8883, tls));
    assert_eq!(broker("mqtt://[::1]:1884", "tls = false"), ("::1".into(), 1884, None));
    for bad in ["mqtt://", "mqtt://h:0", "mqtt://h:99999", "mqtt://h/x", "h:1883", "mqtt:// h"] {
        assert_eq!(
            kinds(&with("source.plant", &format!("url = \"{bad}\""))),
            [Kind::BadValue],
            "{bad}"
        );
    }
}

#[test]
fn without_acknowledgements_no_session_is_needed() {
    let text = with("source.plant", "qos = 0").replace("client_id = \"bridge-0\"\n", "");
    let config = good(&text);
    let mqtt = of_mqtt(&config.sources[0].kind);
    assert_eq!((mqtt.client_id.as_str(), mqtt.session_expiry), ("", Duration::ZERO));
}

#[test]
fn secrets_come_from_files_and_credentials() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("mqtt-password");
    std::fs::write(&file, "hunter2\r\n").unwrap();
    open_to(&file, 0o600);
    let from_file = format!("password = {{ file = {file:?} }}");
    let from_credential = "password = { credential = \"mqtt-password\" }";
    for line in [from_file.as_str(), from_credential] {
        let text = with("source.plant", line);
        let credentials = directory.path().to_str().unwrap();
        let environment = Environment::of([("HOME", "/h"), ("CREDENTIALS_DIRECTORY", credentials)]);
        let loaded = parse(&text, Path::new("t.toml"), &environment).unwrap();
        assert!(loaded.warnings.is_empty());
        let mqtt = of_mqtt(&loaded.config.sources[0].kind);
        assert_eq!(&*mqtt.password.as_ref().unwrap().reveal(), "hunter2");
        assert!(!format!("{loaded:?}").contains("hunter2"));
    }
    open_to(&file, 0o644);
    let loaded = read(&with("source.plant", &from_file)).unwrap();
    let shown = loaded.warnings.to_string();
    assert!(shown.contains("others can read it") && shown.contains("chmod 600 "), "{shown}");
    assert!(!shown.contains("hunter2"));
    std::fs::write(&file, "\n").unwrap();
    open_to(&file, 0o600);
    assert_eq!(kinds(&with("source.plant", &from_file)), [Kind::Unresolved]);
    assert_eq!(kinds(&with("source.plant", from_credential)), [Kind::Unresolved]);
}

#[test]
#[cfg(feature = "emulator")]
fn a_certificate_and_its_key_belong_together() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    for name in ["a", "b"] {
        let made = rcgen::generate_simple_self_signed(["client".to_owned()]).unwrap();
        std::fs::write(path(&format!("{name}.pem")), made.cert.pem()).unwrap();
        let key = path(&format!("{name}.key"));
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        open_to(Path::new(&key), 0o600);
    }
    std::fs::write(path("c.pem"), "-----BEGIN CERTIFICATE-----\n???\n").unwrap();
    let tls = |certificate: &str, key: &str| {
        let (certificate, key) = (path(certificate), path(key));
        with(
            "source.plant",
            &format!("tls = {{ cert_file = {certificate:?}, key_file = {key:?} }}"),
        )
    };
    assert_eq!(kinds(&tls("a.pem", "a.key")), []);
    let found = read(&tls("a.pem", "b.key")).unwrap_err().to_string();
    assert!(found.contains("do not belong together"), "{found}");
    let found = read(&tls("c.pem", "a.key")).unwrap_err().to_string();
    assert!(found.contains("can't be used"), "{found}");
    let found = read(&tls("a.pem", "a.pem")).unwrap_err().to_string();
    assert!(found.contains("holds no private key"), "{found}");
}

fn open_to(file: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_secret_goes_to_no_address_that_serves_others() {
    for host in [
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "[::ffff:169.254.169.254]",
        "[2002:a9fe:a9fe::]",
        "[64:ff9b:1::a9fe:a9fe]",
        "metadata.google.internal",
        "0.0.0.0",
        "255.255.255.255",
        "example.com:0",
        "example.com:99999",
    ] {
        let auth = format!(
            "auth = {{ type = \"oauth2\", token_url = \"https://{host}/t\", client_id = \"b\", client_secret = \"s\" }}"
        );
        let endpoint = format!("endpoint = \"https://{host}/event\"");
        for (key, line) in [("token_url", auth), ("endpoint", endpoint)] {
            let found = read(&with("api.main", &line)).unwrap_err();
            let problems: Vec<_> = found.iter().filter(|p| p.kind() != Kind::Warning).collect();
            let message = problems.iter().map(|p| p.message()).collect::<Vec<_>>().join("; ");
            let kinds = [Kind::Unsafe, Kind::BadValue];
            assert!(
                problems.len() == 1 && kinds.contains(&problems[0].kind()),
                "{line}: {message}"
            );
            assert!(message.contains(&format!("`{key}`")), "{line}: {message}");
        }
    }
    let good = "auth = { type = \"oauth2\", token_url = \"http://127.0.0.1:9/t\", client_id = \"b\", client_secret = \"s\" }";
    assert!(read(&with("api.main", good)).is_ok());
}

#[test]
fn a_mistake_has_no_followers() {
    // What was misspelt or broken is not missing or dangling on top.
    let cases = [
        (GOOD.replace("endpoint =", "endpont ="), Kind::UnknownKey),
        (GOOD.replace("endpoint =", "endpoint"), Kind::Syntax),
        (GOOD.replace("[source.plant]", "[source.plant"), Kind::Syntax),
        (GOOD.replace("[api.main]", "[apis.main]"), Kind::UnknownKey),
        (GOOD.replace("[\"plant/#\"]", "[\"plant/#\""), Kind::Syntax),
        (with("route.all", "decode = \"avro\""), Kind::NotInThisVersion),
        (GOOD.replace("\"mqtt\"", "\"mqt\""), Kind::BadValue),
        (GOOD.replace("from = \"plant\"", "from = \"plnt\""), Kind::Dangling),
        (GOOD.replace("[api.main]", "[api]"), Kind::WrongType),
        (GOOD.replace("[source.plant]", "[[source]]"), Kind::WrongType),
        (
            with("route.all", "topic = \"plant/{site\"").replace("{topic..}", "{site}"),
            Kind::BadTemplate,
        ),
        (with("api.main", "timeout = 10"), Kind::WrongType),
    ];
    for (text, kind) in cases {
        let found = read(&text).unwrap_err();
        let kinds: Vec<_> = found.iter().map(Problem::kind).collect();
        assert_eq!(kinds, [kind], "{found}");
    }
}

#[test]
fn every_key_of_a_wrong_type_is_told_so() {
    let sections: [(&str, &[&str]); 4] = [
        (
            "api.main",
            &[
                "endpoint",
                "auth",
                "timeout",
                "max_concurrency",
                "max_rate",
                "http2",
                "connection_max_age",
                "ca_file",
                "dangerously_plaintext",
            ],
        ),
        (
            "source.plant",
            &[
                "type",
                "max_in_flight",
                "max_in_flight_bytes",
                "tls",
                "unrouted",
                "dangerously_plaintext",
                "url",
                "version",
                "client_id",
                "subscriptions",
                "qos",
                "session_expiry",
                "keep_alive",
                "max_packet_size",
                "username",
                "password",
            ],
        ),
        (
            "route.all",
            &[
                "from",
                "topic",
                "channel",
                "api",
                "order_by",
                "strict_order",
                "give_up_after",
                "dead_letter",
                "decode",
                "event",
            ],
        ),
        ("log", &["level", "format"]),
    ];
    for (section, keys) in sections {
        for key in keys {
            for value in ["1979-05-27", "1.5", "[[1]]"] {
                let mut text = with(section, &format!("{key} = {value}"));
                if !GOOD.contains(&format!("[{section}]")) {
                    text.extend(["[", section, "]\n", key, " = ", value, "\n"]);
                }
                let found = read(&text).unwrap_err();
                let kinds: Vec<_> = found.iter().map(Problem::kind).collect();
                assert_eq!(kinds, [Kind::WrongType], "{section}.{key} = {value}\n{found}");
            }
        }
    }
}

#[test]
fn line_breaks_of_windows_make_no_difference() {
    let text = GOOD.replace("localhost", "me@localhost\" x = \"");
    let plain = read(&text).unwrap_err().to_string();
    assert_eq!(read(&text.replace('\n', "\r\n")).unwrap_err().to_string(), plain);
    assert!(read(&format!("\u{feff}{}", GOOD.replace('\n', "\r\n"))).is_ok());
}

#[test]
fn a_mark_before_the_text_makes_no_difference() {
    let good = GOOD.trim_start();
    for text in [
        good.replacen("[api.main]", "[api main]", 1),
        good.replacen("[api.main]", "[]", 1),
        good.replacen("[api.main]", "endpoint = 7\n[api.main]", 1),
        format!("{good}[api.main]\ntimeout = \"1s\"\n"),
    ] {
        let plain = read(&text).unwrap_err().to_string();
        assert_eq!(read(&format!("\u{feff}{text}")).unwrap_err().to_string(), plain);
        let count = if text.starts_with("[]") { "2 problems" } else { "1 problem" };
        assert!(plain.ends_with(&format!("t.toml: {count}")), "{plain}");
    }
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let missing = load(Path::new("/nonexistent/bridge.toml"), &environment()).unwrap_err();
    assert!(missing.to_string().starts_with("error: there is no such file"), "{missing}");
    assert!(!missing.is_forbidden());
    let directory = tempfile::tempdir().unwrap();
    let found = load(directory.path(), &environment()).unwrap_err();
    assert!(found.to_string().contains("directory"), "{found}");
    let file = directory.path().join("x.toml");
    std::fs::write(&file, b"a = 1\nb = \"\xff\"\n").unwrap();
    let found = load(&file, &environment()).unwrap_err();
    assert!(found.to_string().contains("line 2 is not UTF-8"), "{found}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn never_panics_on_any_text(text in "\\PC{0,300}") {
        if let Err(problems) = read(&text) {
            prop_assert!(problems.errors() > 0);
            let _ = problems.to_string();
        }
    }

    #[test]
    fn never_panics_on_a_spoilt_file(cuts in prop::collection::vec((0usize..500, 0usize..9, "[\\[\\]{}=\"'#,.\n \u{e9}a1]{0,4}"), 1..6)) {
        let mut text = with("source.plant", "password = \"hunter2\"");
        for (at, length, new) in cuts {
            let at = at.min(text.len());
            let end = (at + length).min(text.len());
            if text.is_char_boundary(at) && text.is_char_boundary(end) {
                text.replace_range(at..end, &new);
            }
        }
        if let Err(problems) = read(&text) {
            prop_assert!(problems.errors() > 0, "{text}");
            let _ = problems.render(true);
        }
    }
}

#[test]
fn a_region_that_nothing_names_is_warned_of() {
    let own = "endpoint = \"https://events.example/event\"";
    let warned = |auth: &str, environment: &Environment| {
        let text = with("api.main", own).replace("{ type = \"iam\" }", auth);
        parse(&text, Path::new("t.toml"), environment).unwrap().warnings.to_string()
    };
    let iam = "{ type = \"iam\" }";
    assert!(warned(iam, &environment()).contains("no region is named here"));
    for aws in ["region = \"eu-west-1\"", "profile = \"p\""] {
        let auth = format!("{{ type = \"iam\", aws = {{ {aws} }} }}");
        assert_eq!(warned(&auth, &environment()), "");
    }
    assert_eq!(warned(iam, &Environment::of([("HOME", "/h"), ("AWS_REGION", "eu-west-1")])), "");
    assert!(read(GOOD).unwrap().warnings.is_empty(), "a standard endpoint tells it");
}
