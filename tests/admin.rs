//! Who is answered on the admin port, over what, and how much of it: TLS, the token, the names of the port, what is
//! too large or makes no sense; and `health`, which asks it.

use std::path::Path;
use std::time::{Duration, Instant};

use http::Method;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::support::PATIENCE;
use crate::support::bridge::{Bridge, Setup, write_secret};
use crate::support::certificates::certificates;
use crate::support::emulator::{self, Emulator, request};
use crate::support::mosquitto::Mosquitto;
use crate::support::until;

const TOKEN: &str = "a token of the admin port";

struct Site {
    _emulator: Emulator,
    mosquitto: Mosquitto,
    setup: Setup,
}

impl Site {
    async fn with(admin: &str) -> Self {
        let emulator = Emulator::start(&[]);
        let mosquitto = Mosquitto::start("").await;
        let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", "").admin(admin);
        Self { _emulator: emulator, mosquitto, setup }
    }
}

fn tls(directory: &Path) -> String {
    let path = directory.display();
    format!("tls = {{ cert_file = \"{path}/server.pem\", key_file = \"{path}/server.key\" }}")
}

/// The exit code, and all that was said.
async fn says(arguments: &[&str], token: Option<&str>) -> (i32, String) {
    let mut command = Command::from(emulator::bridge());
    command.args(arguments).env_remove("APPSYNC_BRIDGE_ADMIN_TOKEN");
    command.envs(token.map(|token| ("APPSYNC_BRIDGE_ADMIN_TOKEN", token)));
    let output = command.output().await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

/// All of the answer to these bytes, until the port closes.
async fn raw(bridge: &Bridge, text: &[u8]) -> String {
    let mut stream = TcpStream::connect(bridge.admin()).await.unwrap();
    // It may be closed before all is written.
    let _ = stream.write_all(text).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn asked(bridge: &Bridge, method: &str, path: &str, headers: &str) -> String {
    let head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n{headers}\r\n");
    raw(bridge, head.as_bytes()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_token_only_whether_it_lives_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    write_secret(&file, TOKEN);
    let site = Site::with(&format!("token = {{ file = \"{}\" }}", file.display())).await;
    let bridge = site.setup.start().await;
    let get = async |path: &str, authorization: &str| {
        let url = format!("http://{}{path}", bridge.admin());
        request(Method::GET, &url, &[("authorization", authorization)], "").await
    };
    let with_token = format!("Bearer {TOKEN}");
    until("the bridge is ready", PATIENCE, async || {
        (get("/readyz", &with_token).await.status == 200).then_some(())
    })
    .await;
    for path in ["/", "/page.js", "/page.css", "/status", "/metrics", "/nothing"] {
        let refused = get(path, "Bearer wrong").await;
        assert_eq!(refused.status, 401, "{path}");
        let challenges: Vec<_> = refused.headers.get_all("www-authenticate").iter().collect();
        assert!(challenges.len() == 2 && challenges[0].to_str().unwrap().starts_with("Bearer "));
        let text = String::from_utf8_lossy(&refused.body).into_owned();
        assert!(text.contains("Authorization: Bearer"), "{text}");
    }
    for path in ["/", "/status", "/metrics"] {
        assert_eq!(get(path, &with_token).await.status, 200, "{path}");
    }
    // As a browser does: anybody, and it as the password.
    assert_eq!(get("/status", "Basic YTphIHRva2VuIG9mIHRoZSBhZG1pbiBwb3J0").await.status, 200);
    for path in ["/livez", "/readyz"] {
        let open = get(path, "").await;
        assert_eq!((open.status.as_u16(), &open.body[..]), (200, &b"yes\n"[..]), "{path}");
    }
    let at = bridge.admin().to_owned();
    let asked = async |token| says(&["top", "--json", "--admin", &at], token).await;
    if cfg!(feature = "top") {
        assert!(asked(Some(TOKEN)).await.1.contains("\"sources\""));
        let (code, said) = asked(None).await;
        assert!(code == 1 && said.contains("APPSYNC_BRIDGE_ADMIN_TOKEN"), "{code} {said}");
    }

    // Another one in the file: within a second or two the old one is refused.
    write_secret(&file, "another token");
    until("the new one is taken", PATIENCE, async || {
        (get("/status", "Bearer another token").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(get("/status", &with_token).await.status, 401);
    let log = bridge.log();
    assert!(!log.contains(TOKEN) && !log.contains("another token"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn why_it_is_not_ready_is_for_who_has_the_token() {
    let site = Site::with(&format!("token = \"{TOKEN}\"")).await;
    let mut mosquitto = site.mosquitto;
    mosquitto.kill();
    let bridge = site.setup.start().await;
    let url = format!("http://{}/readyz", bridge.admin());
    let with_token = format!("Bearer {TOKEN}");
    let shown = request(Method::GET, &url, &[("authorization", &with_token)], "").await;
    assert!(shown.status == 503 && String::from_utf8_lossy(&shown.body).contains("source plant"));
    let hidden = request(Method::GET, &url, &[], "").await;
    let text = String::from_utf8_lossy(&hidden.body).into_owned();
    assert!(hidden.status == 503 && !text.contains("plant") && text.contains("token"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_it_shows_the_certificate_in_its_file_and_the_next_one() {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path());
    let ca = directory.path().join("ca.pem");
    let lines = format!("{}\ntoken = \"{TOKEN}\"", tls(directory.path()));
    let site = Site::with(&lines).await;
    let bridge = site.setup.start().await;
    let address = format!("https://localhost:{}", bridge.admin().rsplit_once(':').unwrap().1);
    let health = async |ca: &Path| {
        let ca = ca.to_str().unwrap();
        says(&["health", "--ready", "--admin", &address, "--ca-file", ca], None).await
    };
    until("it is ready", PATIENCE, async || {
        let (code, said) = health(&ca).await;
        assert!(code == 0 || said.contains("not ready"), "{said}");
        (code == 0).then_some(())
    })
    .await;
    // Plain text gets nothing.
    let answer = asked(&bridge, "GET", "/livez", "host: localhost\r\n").await;
    assert!(!answer.contains("HTTP/1.1 200"), "{answer}");
    let (code, said) = says(&["health", "--admin", bridge.admin()], None).await;
    assert!(code == 1 && said.contains("https://"), "{code} {said}");

    // A stranger's authority is refused; so is, when it is there, the old one.
    let other: TempDir = tempfile::tempdir().unwrap();
    certificates(other.path());
    let other_ca = other.path().join("ca.pem");
    let (code, said) = health(&other_ca).await;
    assert!(code == 1 && said.contains("invalid peer certificate"), "{said}");
    let replace = |name: &str, text: &[u8]| {
        let path = directory.path().join(format!("{name}.new"));
        std::fs::write(&path, text).unwrap();
        std::fs::rename(&path, directory.path().join(name)).unwrap();
    };
    // Half of a change, as between two renames: the old pair is shown, and it is said.
    replace("server.key", &std::fs::read(other.path().join("server.key")).unwrap());
    until("it is said", PATIENCE, async || {
        assert_eq!(health(&ca).await.0, 0);
        bridge.lines(&["certificate can't be used", "last good one"]).pop()
    })
    .await;
    replace("server.pem", &std::fs::read(other.path().join("server.pem")).unwrap());
    until("the new one is shown", PATIENCE, async || {
        (health(&other_ca).await.0 == 0).then_some(())
    })
    .await;
    assert_eq!(health(&ca).await.0, 1);
    assert_eq!(bridge.lines(&["certificate changed"]).len(), 1, "{}", bridge.log());
    assert!(bridge.lines(&["certificate can't be used"]).len() <= 2, "{}", bridge.log());
}

/// A container asks with the configuration alone, whatever name the certificate has.
#[tokio::test(flavor = "multi_thread")]
async fn health_asks_the_bridge_of_a_configuration() {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path());
    let port = crate::support::free_port();
    let lines =
        format!("listen = \"0.0.0.0:{port}\"\n{}\ntoken = \"{TOKEN}\"", tls(directory.path()));
    let mut site = Site::with(&lines).await;
    let config = site.setup.config();
    let config = config.to_str().unwrap();
    let (code, said) = says(&["health", "-c", config], None).await;
    assert!(code == 1 && said.contains("does the bridge run"), "{code} {said}");
    let bridge = site.setup.start().await;
    until("it is ready", PATIENCE, async || {
        (says(&["health", "--ready", "-c", config], None).await.0 == 0).then_some(())
    })
    .await;
    let alive = (0, "alive\n".to_owned());
    assert_eq!(says(&["health", "-c", config], None).await, alive);
    // A file that a reload would refuse, and half of a new certificate, say nothing of the bridge that runs.
    let good = std::fs::read_to_string(config).unwrap();
    std::fs::write(config, format!("{good}\n[source.next]\ntype = \"carrier-pigeon\"\n[route.x\n"))
        .unwrap();
    let next = tempfile::tempdir().unwrap();
    certificates(next.path());
    std::fs::copy(next.path().join("server.key"), directory.path().join("server.key")).unwrap();
    assert_eq!(says(&["health", "-c", config], None).await, alive);
    std::fs::write(config, good).unwrap();
    site.mosquitto.kill();
    let said = until("it is not ready", PATIENCE, async || {
        let (code, said) = says(&["health", "--ready", "-c", config], None).await;
        (code == 1).then_some(said)
    })
    .await;
    assert!(said.contains("not ready: source plant: "), "{said}");
    // Another server with another certificate is not this bridge.
    let other = tempfile::tempdir().unwrap();
    certificates(other.path());
    let swapped = std::fs::read_to_string(config)
        .unwrap()
        .replace(&directory.path().display().to_string(), &other.path().display().to_string());
    let file = other.path().join("bridge.toml");
    std::fs::write(&file, swapped).unwrap();
    let (code, said) = says(&["health", "-c", file.to_str().unwrap()], None).await;
    assert!(code == 1 && said.contains("another certificate"), "{code} {said}");
    assert!(said.contains("log of the bridge"), "{said}");
    drop(bridge);
    let (code, said) = says(&["health", "-c", "/nowhere.toml"], None).await;
    assert_eq!(code, 78, "{said}");
    let (code, said) = says(&["health", "--admin", "ftp://x"], None).await;
    assert_eq!(code, 2, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn strange_names_methods_heads_and_bodies_are_refused_in_words() {
    let site = Site::with("").await;
    let bridge = site.setup.start_ready().await;
    let own = format!("host: {}\r\n", bridge.admin());
    for (method, path, headers, begins, holds) in [
        ("GET", "/livez", own.as_str(), "HTTP/1.1 200", "alive"),
        ("GET", "/livez", "host: localhost\r\n", "HTTP/1.1 200", "alive"),
        ("GET", "/status", "host: evil.example\r\n", "HTTP/1.1 403", "`evil.example`"),
        ("GET", "http://evil.example/status", own.as_str(), "HTTP/1.1 403", "loopback"),
        ("DELETE", "/status", own.as_str(), "HTTP/1.1 405", "allow: GET,HEAD"),
        ("POST", "/metrics", own.as_str(), "HTTP/1.1 405", "allow: GET,HEAD"),
        ("BREW", "/", own.as_str(), "HTTP/1.1 405", "allow: GET,HEAD"),
        ("CONNECT", "a:1", own.as_str(), "HTTP/1.1 4", ""),
        ("GET", "/config", own.as_str(), "HTTP/1.1 404", ""),
        ("GET", "/debug/pprof", own.as_str(), "HTTP/1.1 404", ""),
    ] {
        let answer = asked(&bridge, method, path, headers).await;
        assert!(answer.starts_with(begins) && answer.contains(holds), "{method} {path}: {answer}");
        assert!(!answer.to_lowercase().contains("access-control"), "{answer}");
    }
    let foreign = format!("{own}origin: https://evil.example\r\ncontent-length: 0\r\n");
    let answer = asked(&bridge, "POST", "/reload", &foreign).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let large = format!("{own}content-length: 1000000000\r\n");
    let answer = asked(&bridge, "POST", "/status", &large).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let head = [b"GET / HTTP/1.1\r\nx: ".to_vec(), vec![b'x'; 1 << 20], b"\r\n\r\n".to_vec()];
    let answer = raw(&bridge, &head.concat()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    for bytes in [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"\0\0\0\0\r\n\r\n", b"GET\r\n\r\n"] {
        let answer = raw(&bridge, &[bytes, b"\r\n\r\n"].concat()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    assert_eq!(bridge.get("/livez").await.0, 200);
}

/// T82.
#[tokio::test(flavor = "multi_thread")]
async fn a_port_on_loopback_is_reached_from_nowhere_else() {
    let site = Site::with("").await;
    let bridge = site.setup.start_ready().await;
    let port: u16 = bridge.admin().rsplit_once(':').unwrap().1.parse().unwrap();
    // This machine's own address, on the way to another one; nothing is sent.
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    if probe.connect("192.0.2.1:9").is_err() {
        return println!("this machine has no address but loopback");
    }
    let own = probe.local_addr().unwrap().ip();
    if own.is_loopback() {
        return println!("this machine has no address but loopback");
    }
    assert!(TcpStream::connect((own, port)).await.is_err(), "{own}:{port} is open");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_heads_and_bad_methods_by_the_thousand_cost_no_message_and_no_descriptor() {
    use crate::support::producer::produce;
    const COUNT: u64 = 3_000;
    let directory = tempfile::tempdir().unwrap();
    let (emulator, ledger) = Emulator::with_ledger(&directory, &[]);
    let mosquitto = Mosquitto::start("").await;
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", "");
    let bridge = setup.start_ready().await;
    produce(mosquitto.port, 100, 1_000, 20).await;
    ledger.has_ids(100, PATIENCE).await;
    let (before, resident) = (bridge.descriptors(), bridge.peak_mib());
    let address = bridge.admin().to_owned();
    let hostile = tokio::spawn(async move {
        let head = [b"GET / HTTP/1.1\r\nx: ".to_vec(), vec![b'x'; 1 << 20]].concat();
        let bad = b"BREW / HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(20);
        for round in 0..40 {
            let some = (0..25).map(|n| {
                let text = if n % 2 == 0 { &head } else { &bad };
                let address = &address;
                async move {
                    let mut stream = TcpStream::connect(address).await.ok()?;
                    stream.write_all(text).await.ok()?;
                    stream.shutdown().await.ok()?;
                    let mut all = Vec::new();
                    stream.read_to_end(&mut all).await.ok()
                }
            });
            futures_util::future::join_all(some).await;
            if round == 39 {
                return;
            }
        }
    });
    let began = Instant::now();
    produce(mosquitto.port, COUNT, 1_000, 20).await;
    ledger.has_ids(COUNT as usize, PATIENCE).await;
    hostile.await.unwrap();
    println!("{COUNT} events and 1,000 strangers in {:?}", began.elapsed());
    let grown = bridge.peak_mib() - resident;
    assert!(grown < 64, "{grown} MiB more");
    until("every descriptor is closed", Duration::from_secs(30), async || {
        (bridge.descriptors() <= before + 1).then_some(())
    })
    .await;
    bridge.nothing_in_flight().await;
}
