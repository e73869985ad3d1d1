//! `check --connect` as people see it: set-ups that can't work, each with the line that says so and its remedy.

use std::fs;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use regex::Regex;
use serde_json::{Value, json};

use crate::support::bridge::Setup;
use crate::support::certificates::certificates;
use crate::support::emulator::Emulator;
use crate::support::free_port;
use crate::support::jetstream::JetStream;
use crate::support::kafka::Kafka;
use crate::support::kafka::security::{Listener, USER};
use crate::support::mosquitto::Mosquitto;
use crate::support::nats::Nats;
use crate::support::stub::Stub;

/// A route of this source.
fn route(source: &str) -> String {
    format!("[route.all]\nfrom = \"{source}\"\nchannel = \"/all/x\"\n")
}

/// What differs from run to run, as words.
fn steady(said: &str) -> String {
    [
        (r"(127\.0\.0\.1|localhost):\d{2,5}", "$1:PORT"),
        (r"check-[0-9a-f]{8}", "check-ID"),
        (r"/tmp/\.tmp\w+", "DIRECTORY"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME"),
        (r"until \d{4}-\d\d-\d\d", "until DAY"),
        (r"after \d+ms", "after Nms"),
        (r"orders-[0-9a-f]{8}\b", "orders-ID"),
        (r"nats-server [0-9.]+", "nats-server VERSION"),
    ]
    .iter()
    .fold(said.to_owned(), |said, (varies, word)| {
        Regex::new(varies).unwrap().replace_all(&said, *word).into_owned()
    })
}

/// That the table is the one in `tests/fixtures/connect/NAME.txt`; with `UPDATE_FIXTURES` it is written there.
async fn says(name: &str, setup: &Setup, args: &[&str], good: bool) {
    let (content, said) = setup.check_with(args).await;
    let table: Vec<_> = said
        .lines()
        .take_while(|line| !line.starts_with("warning: ") && !line.starts_with("note: "))
        .filter(|line| !line.contains(" is good: "))
        .map(|line| steady(line) + "\n")
        .collect();
    let (table, path) = (table.concat(), format!("tests/fixtures/connect/{name}.txt"));
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        fs::create_dir_all("tests/fixtures/connect").unwrap();
        fs::write(&path, &table).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap();
    assert_eq!(table, expected, "{name}");
    assert_eq!(content, good, "{name}: {said}");
    assert!(good || table.contains("✗"), "{name}: {said}");
    for secret in ["wrong-password", "da2-wrong-key", "wrong-secret"] {
        assert!(!said.contains(secret), "{name}: {said}");
    }
    println!("{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt() {
    let emulator = Emulator::start(&[]);
    let setup = |source: &str| Setup::new(&emulator.endpoint, free_port(), "", source, "");
    says("mqtt-nobody", &setup(""), &[], false).await;

    let directory = tempfile::tempdir().unwrap();
    let passwords = directory.path().join("passwords");
    let mut made = Command::new("mosquitto_passwd");
    made.args(["-c", "-b"]).arg(&passwords).args(["relay", "right-password"]);
    assert!(made.status().expect("`mosquitto_passwd` cannot be run").success());
    let lines = format!("allow_anonymous false\npassword_file {}\n", passwords.display());
    let mosquitto = Mosquitto::start(&lines).await;
    let source = format!(
        "url = \"mqtt://127.0.0.1:{}\"\nusername = \"relay\"\npassword = \"wrong-password\"",
        mosquitto.port
    );
    says("mqtt-password", &setup(&source), &[], false).await;

    let (path, port) = (directory.path().display(), free_port());
    certificates(directory.path());
    let lines = format!(
        "listener {port} 127.0.0.1\ncafile {path}/ca.pem\ncertfile {path}/server.pem\nkeyfile {path}/server.key\n"
    );
    let _mosquitto = Mosquitto::start(&lines).await;
    let source = format!("url = \"mqtts://localhost:{port}\"\n");
    says("mqtt-certificate", &setup(&source), &[], false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka() {
    let emulator = Emulator::start(&[]);
    let kafka = Kafka::shared().await;
    let setup = |lines: &str| {
        let source = format!("[source.shop]\ntype = \"kafka\"\ngroup = \"check\"\n{lines}\n");
        Setup::of(&emulator.endpoint, "", &(source + &route("shop")), "")
    };
    let nobody = format!("brokers = \"127.0.0.1:{}\"\ntopics = \"orders\"", free_port());
    says("kafka-nobody", &setup(&nobody), &[], false).await;
    let missing =
        format!("brokers = \"{}\"\ntopics = \"orders-that-are-not-there\"", kafka.address());
    says("kafka-topic", &setup(&missing), &[], false).await;
    let security = kafka.security();
    let sasl =
        format!("mechanism = \"plain\", username = \"{USER}\", password = \"wrong-password\"");
    let wrong = format!(
        "brokers = \"{}\"\ntopics = \"orders\"\ntls = {{ ca_file = \"{}\" }}\nsasl = {{ {sasl} }}",
        kafka.address_of(Listener::Password),
        security.ca.display()
    );
    says("kafka-password", &setup(&wrong), &[], false).await;
    let topic = kafka.topic("orders", 1, &[]).await;
    let good = format!("brokers = \"{}\"\ntopics = \"{topic}\"", kafka.address());
    says("kafka-good", &setup(&good), &[], true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats() {
    let emulator = Emulator::start(&[]);
    let setup = |lines: &str, rest: &str| {
        Setup::of(&emulator.endpoint, "", &format!("[source.it]\n{lines}\n{}", route("it")), rest)
    };
    let nobody =
        format!("type = \"nats\"\nservers = \"localhost:{}\"\nsubjects = \"in.>\"\n", free_port());
    says("nats-nobody", &setup(&nobody, ""), &[], false).await;
    let users = "authorization { users: [ { user: \"b\", password: \"right-password\", \
                 permissions: { subscribe: { allow: [\"_INBOX.>\"] } } } ] }";
    let server = Nats::start(users).await;
    let source = format!(
        "type = \"nats\"\nservers = \"{}\"\nsubjects = \"in.>\"\n\
         auth = {{ user = \"b\", password = \"right-password\" }}",
        server.url()
    );
    says("nats-permission", &setup(&source, ""), &[], false).await;

    let stream = JetStream::on("", "").await;
    let source = format!(
        "type = \"jetstream\"\nservers = \"{}\"\nstream = \"ORDERS\"\ndurable = \"bridge\"\n",
        stream.nats.url()
    );
    // No stream takes what the bridge rejects, either.
    let rejects =
        "[dead_letter.subject]\ntype = \"jetstream\"\nsource = \"it\"\nsubject = \"rejects\"\n";
    let setup = setup(&source, rejects);
    let text = fs::read_to_string(setup.config()).unwrap();
    let text =
        text.replace("channel = \"/all/x\"", "channel = \"/all/x\"\ndead_letter = \"subject\"");
    fs::write(setup.config(), text).unwrap();
    says("jetstream-stream", &setup, &[], false).await;
}

#[cfg(feature = "sqs")]
#[tokio::test(flavor = "multi_thread")]
async fn sqs() {
    use crate::support::sqs::fake::{ALWAYS, Action, Fake, Refusal};
    use crate::support::sqs::{CREDENTIALS, REGION};
    let (emulator, fake) = (Emulator::start(&[]), Fake::start().await);
    let queue = fake.queue("orders", &[]).await;
    let setup = |url: &str| {
        let source = format!(
            "[source.it]\ntype = \"sqs\"\nqueue = \"{url}\"\naws = {{ region = \"{REGION}\" }}\n{}",
            route("it")
        );
        let setup = Setup::of(&emulator.endpoint, "", &source, "");
        CREDENTIALS.iter().fold(setup, |setup, (name, value)| setup.env(name, value))
    };
    says("sqs-queue", &setup(&format!("{}-x", queue.url)), &[], false).await;
    fake.faults().requests.insert(Action::DeleteMessageBatch, (Refusal::AccessDenied, ALWAYS));
    says("sqs-denied", &setup(&queue.url), &[], false).await;
}

/// The broker is there.
fn beside(mosquitto: &Mosquitto, endpoint: &str, api: &str) -> Setup {
    Setup::new(endpoint, mosquitto.port, api, "", "")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api() {
    let mosquitto = Mosquitto::start("").await;
    let directory = tempfile::tempdir().unwrap();
    let user = ["--access-key-id", "AKIDOFTHISTEST", "--secret-access-key", "right-secret"];
    let emulator = Emulator::start(&[&["--namespace", "demo"], &user[..]].concat());
    let publish = ["--publish", "/demo/check"];

    let nobody = format!("http://127.0.0.1:{}/event", free_port());
    says("api-nobody", &beside(&mosquitto, &nobody, ""), &publish, false).await;

    let secure = Emulator::start(&["--tls", directory.path().to_str().unwrap()]);
    let setup = beside(&mosquitto, &secure.endpoint, "");
    says("api-certificate", &setup, &publish, false).await;
    let ca = format!("ca_file = \"{}\"", secure.ca_file.as_deref().unwrap());
    let setup = beside(&mosquitto, &secure.endpoint, &ca);
    says("api-over-tls", &setup, &publish, true).await;

    let key = "auth = { type = \"api-key\", key = \"da2-wrong-key\" }";
    let setup = beside(&mosquitto, &emulator.endpoint, key);
    // What was not asked for is not tried.
    says("api-untried", &setup, &[], true).await;
    says("api-key", &setup, &publish, false).await;

    let sts = Stub::start(Duration::ZERO, |_| {
        let identity = "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                        <GetCallerIdentityResult><Arn>arn:aws:iam::111122223333:user/bridge</Arn>\
                        <UserId>AIDA</UserId><Account>111122223333</Account></GetCallerIdentityResult>\
                        </GetCallerIdentityResponse>";
        axum::response::Response::builder()
            .header("content-type", "text/xml")
            .body(axum::body::Body::from(identity))
            .unwrap()
    })
    .await;
    let iam = "auth = { type = \"iam\", aws = { region = \"eu-west-1\" } }";
    let signed = |setup: Setup, secret: &str| {
        let setup = setup.env("AWS_ACCESS_KEY_ID", "AKIDOFTHISTEST");
        setup.env("AWS_SECRET_ACCESS_KEY", secret).env("AWS_ENDPOINT_URL_STS", &sts.url(""))
    };
    let setup = || beside(&mosquitto, &emulator.endpoint, iam);
    says("api-iam", &signed(setup(), "right-secret"), &publish, true).await;
    let elsewhere = ["--publish", "/orders/check"];
    says("api-namespace", &signed(setup(), "right-secret"), &elsewhere, false).await;
    says("api-signature", &signed(setup(), "wrong-secret"), &publish, false).await;
    says("api-credentials", &setup(), &publish, false).await;

    let claims = URL_SAFE_NO_PAD.encode(json!({ "sub": "bridge", "exp": 1_000_000 }).to_string());
    let token = format!("auth = {{ type = \"token\", token = \"e30.{claims}.c2ln\" }}");
    let setup = beside(&mosquitto, &emulator.endpoint, &token);
    says("api-token", &setup, &publish, false).await;

    let throttle = json!({ "answer": { "status": 429, "body": "{}", "headers": { "retry-after": "2" }, "when": "before" } });
    emulator.set_faults(json!([{ "fault": throttle }])).await;
    let setup = beside(&mosquitto, &emulator.endpoint, "");
    says("api-throttled", &setup, &publish, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_off_is_warned_of() {
    let mosquitto = Mosquitto::start("").await;
    let api = Stub::start(Duration::ZERO, |_| {
        let then = std::time::SystemTime::now() + Duration::from_secs(3_600 + 30);
        axum::response::Response::builder()
            .status(404)
            .header("date", httpdate::fmt_http_date(then))
            .body(axum::body::Body::empty())
            .unwrap()
    })
    .await;
    let setup = beside(&mosquitto, &api.url("/event"), "");
    let (good, said) = setup.check_with(&[]).await;
    assert!(good && said.contains("! api main"), "{said}");
    assert!(
        said.contains("this machine's clock is 1h") && said.contains("→ set it (NTP)"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_get_one_line_of_json() {
    let emulator = Emulator::start(&[]);
    let setup = Setup::new(&emulator.endpoint, free_port(), "", "", "");
    let (good, said) = setup.check_with(&["--json", "--publish", "/demo/check"]).await;
    assert!(!good && said.lines().count() == 1, "{said}");
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&report["good"], &report["errors"]), (&json!(false), &json!([])));
    let parts = report["connect"].as_array().unwrap();
    let part = |name: &str| parts.iter().find(|part| part["part"] == name).unwrap();
    assert_eq!(part("source")["steps"][0]["state"], "failed");
    assert_eq!(part("dead_letter")["good"], true);
    let publish = part("api")["steps"].as_array().unwrap().last().unwrap();
    assert_eq!((&publish["step"], &publish["state"]), (&json!("publish"), &json!("good")));
}
