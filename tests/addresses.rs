//! T83: where nothing is sent to, in whatever spelling and wherever an address is written. (What a name leads to is looked
//! at when it is resolved, and no redirect is followed: `src/outbound`, `tests/answers.rs`.)

use std::io::Write as _;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::PATIENCE;
use crate::support::emulator::bridge;

/// Hosts, with what the refusal says.
const HOSTS: [(&str, &str); 29] = [
    ("169.254.169.254", "link-local"),
    ("169.254.170.2", "link-local"),
    ("169.254.169.254.", "link-local"),
    ("2852039166", "link-local"),
    ("0xa9fea9fe", "link-local"),
    ("0251.0376.0251.0376", "link-local"),
    ("169.254.43518", "link-local"),
    ("0xA9.254.0xa9.254", "link-local"),
    ("[::ffff:169.254.169.254]", "link-local"),
    ("[::ffff:a9fe:a9fe]", "link-local"),
    ("[::169.254.169.254]", "link-local"),
    ("[64:ff9b::a9fe:a9fe]", "link-local"),
    ("[2002:a9fe:a9fe::]", "link-local"),
    ("[2001:0:a9fe:a9fe::1]", "link-local"),
    ("[fe80::1]", "link-local"),
    ("[fd00:ec2::254]", "metadata"),
    ("100.100.100.200", "metadata"),
    ("168.63.129.16", "metadata"),
    ("metadata.google.internal", "metadata"),
    ("METADATA.google.internal.", "metadata"),
    ("0.0.0.0", "not the address of one host"),
    ("[::]", "not the address of one host"),
    ("239.255.255.250", "not the address of one host"),
    ("255.255.255.255", "not the address of one host"),
    ("me:s3cret-pass@events.example", "user"),
    ("events.example@169.254.169.254", "user"),
    ("events.example\\\\@169.254.169.254", ""),
    ("１６９.254.169.254", ""),
    ("169.254.169.254%2f@events.example", ""),
];

/// Each place in a configuration that has the address of what is asked over HTTP.
const PLACES: [(&str, &str); 5] = [
    ("endpoint", "https://HOST/event"),
    ("token_url", "https://HOST/token"),
    ("queue", "https://HOST/111122223333/orders"),
    ("endpoint", "https://HOST"),
    ("endpoint", "https://HOST:4318"),
];

/// A configuration with one of these addresses in its place.
fn configuration(place: usize, host: &str) -> String {
    let good = [
        "https://events.example/event",
        "https://issuer.example/token",
        "https://sqs.eu-west-1.amazonaws.com/111122223333/orders",
        "https://vpce.example",
        "https://collector.example:4318",
    ];
    let [api, token, queue, endpoint, otlp] = std::array::from_fn(|number| {
        if number == place {
            PLACES[number].1.replace("HOST", host)
        } else {
            good[number].to_owned()
        }
    });
    let otlp = if cfg!(feature = "otlp") {
        format!("[otlp]\nendpoint = \"{otlp}\"\n")
    } else {
        String::new()
    };
    format!(
        "[api.main]\nendpoint = \"{api}\"\n\
         auth = {{ type = \"oauth2\", token_url = \"{token}\", client_id = \"c\", client_secret = {{ env = \"PATH\" }} }}\n\
         [source.jobs]\ntype = \"sqs\"\nqueue = \"{queue}\"\nendpoint = \"{endpoint}\"\naws = {{ region = \"eu-west-1\" }}\n\
         [route.all]\nfrom = \"jobs\"\nchannel = \"/a/b\"\ndead_letter = \"discard\"\n{otlp}"
    )
}

/// What a command that is given a configuration makes of it.
fn said(command: &str, text: &str) -> (Option<i32>, String) {
    let mut child = bridge()
        .args([command, "-c", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = ended(child);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// What it has said by its end. One that was let through would go on for ever.
fn ended(mut child: Child) -> Output {
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

#[test]
fn no_spelling_of_a_forbidden_address_is_started_with() {
    let (code, good) = said("check", &configuration(usize::MAX, ""));
    assert_eq!(code, Some(0), "{good}");
    let places = if cfg!(feature = "otlp") { PLACES.len() } else { PLACES.len() - 1 };
    for (host, why) in HOSTS {
        for (place, (key, form)) in PLACES[..places].iter().enumerate() {
            let text = configuration(place, host);
            let (code, said) = said("run", &text);
            let problem = said.lines().find(|line| line.contains("\"ERROR\"")).unwrap_or_default();
            assert_eq!(code, Some(78), "{form}: {host}: {said}");
            let names = problem.contains(&format!("`{key}`"));
            assert!(names && problem.contains(why), "{form}: {host}: {said}");
            assert!(!said.contains("s3cret-pass"), "{said}");
        }
    }
}

/// Those of the commands that take an address on their own line.
#[test]
fn no_command_is_sent_there() {
    for (host, why) in HOSTS {
        let url = |form: &str| form.replace("HOST", &host.replace("\\\\", "\\"));
        let [event, token, socket] =
            ["https://HOST/event", "https://HOST/token", "wss://HOST/event/realtime"].map(url);
        let api = "https://events.example/event";
        let oauth2 = ["--oauth2", &token, "--client-id", "c"];
        for arguments in [
            &["publish", "/a/b", "1", "--api-key", "da2-key", "--endpoint", &event][..],
            &["subscribe", "/a/b", "--api-key", "da2-key", "--endpoint", &event],
            &[
                "subscribe",
                "/a/b",
                "--api-key",
                "da2-key",
                "--endpoint",
                api,
                "--realtime",
                &socket,
            ],
            &[&["publish", "/a/b", "1", "--endpoint", api][..], &oauth2].concat(),
            &[&["subscribe", "/a/b", "--endpoint", api][..], &oauth2].concat(),
        ] {
            let mut command = bridge();
            command.args(arguments).env("APPSYNC_CLIENT_SECRET", "a-secret-of-a-client");
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let output = ended(command.spawn().unwrap());
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
            assert!(said.contains(why) && !said.contains("s3cret-pass"), "{arguments:?}: {said}");
        }
    }
}
