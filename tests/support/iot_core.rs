//! What stands before the WebSocket of AWS IoT Core: checks the signature of a handshake, by the steps of AWS's
//! documentation and apart from the bridge's code, and passes what is good on to a broker.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use appsync_bridge::event_api::sign::hex;
use aws_lc_rs::{digest, hmac};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

pub(crate) const KEY: &str = "AKIDEXAMPLE";
pub(crate) const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
pub(crate) const TOKEN: &str = "a+token/of=a=session";
pub(crate) const REGION: &str = "eu-west-1";

/// The gate; closed when dropped.
pub(crate) struct Gate {
    pub(crate) port: u16,
    passed: Arc<Mutex<Passed>>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Passed {
    /// The query of each handshake that was good.
    queries: Vec<String>,
    connections: JoinSet<()>,
}

impl Gate {
    /// In front of the broker's WebSocket at the port `to`, with a clock that is `ahead`.
    pub(crate) async fn open(to: u16, ahead: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let passed = Arc::<Mutex<Passed>>::default();
        let kept = Arc::clone(&passed);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = pass(stream, to, ahead, Arc::clone(&kept));
                kept.lock().connections.spawn(connection);
            }
        });
        Self { port, passed, _task: AbortOnDropHandle::new(task) }
    }

    /// The queries of the handshakes that were good, in their order.
    pub(crate) fn queries(&self) -> Vec<String> {
        self.passed.lock().queries.clone()
    }

    /// Cuts every connection.
    pub(crate) fn cut(&self) {
        self.passed.lock().connections.abort_all();
    }
}

async fn pass(mut stream: TcpStream, to: u16, ahead: Duration, passed: Arc<Mutex<Passed>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let (line, headers) = head.split_once("\r\n").unwrap();
    let target = line.strip_prefix("GET ").unwrap().strip_suffix(" HTTP/1.1").unwrap();
    let now = SystemTime::now() + ahead;
    if let Err(why) = check(target, headers, now) {
        let body = format!("{{\"message\":\"{why}\",\"traceId\":\"t\"}}");
        let answer = format!(
            "HTTP/1.1 403 Forbidden\r\ndate: {}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            httpdate::fmt_http_date(now),
            body.len()
        );
        let _ = stream.write_all(answer.as_bytes()).await;
        return;
    }
    let (path, query) = target.split_once('?').unwrap();
    passed.lock().queries.push(query.to_owned());
    let mut broker = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\n{headers}");
    broker.write_all(head.as_bytes()).await.unwrap();
    let _ = copy_bidirectional(&mut stream, &mut broker).await;
}

/// Why the handshake is refused, if it is.
fn check(target: &str, headers: &str, now: SystemTime) -> Result<(), String> {
    let (path, query) = target.split_once('?').ok_or("Missing Authentication Token")?;
    let header = |name: &str| {
        let mut lines = headers.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    };
    let parts: Vec<_> = query.split('&').map(|part| part.split_once('=').unwrap()).collect();
    let of = |name: &str| parts.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    let given = |name: &str| of(name).ok_or(format!("there is no {name}"));

    if parts.last() != Some(&("X-Amz-Security-Token", "a%2Btoken%2Fof%3Da%3Dsession")) {
        return Err("The security token included in the request is invalid".to_owned());
    }
    let date = given("X-Amz-Date")?;
    let scope = format!("{}/{REGION}/iotdevicegateway/aws4_request", &date[..8]);
    if given("X-Amz-Credential")?.replace("%2F", "/") != format!("{KEY}/{scope}") {
        return Err("Credential should be scoped to a valid region and service".to_owned());
    }
    if (given("X-Amz-Algorithm")?, given("X-Amz-SignedHeaders")?) != ("AWS4-HMAC-SHA256", "host") {
        return Err("wrong algorithm or headers".to_owned());
    }

    let mut signed: Vec<_> = parts
        .iter()
        .filter(|(name, _)| !matches!(*name, "X-Amz-Signature" | "X-Amz-Security-Token"))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    signed.sort_unstable();
    let canonical = format!(
        "GET\n{path}\n{}\nhost:{}\n\nhost\n{}",
        signed.join("&"),
        header("host").ok_or("there is no host")?,
        hex(digest::digest(&digest::SHA256, b"").as_ref())
    );
    let hash = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{hash}");
    let mut key = format!("AWS4{SECRET}").into_bytes();
    for part in scope.split('/') {
        key = mac(&key, part);
    }
    if given("X-Amz-Signature")? != hex(&mac(&key, &to_sign)) {
        return Err(
            "The request signature we calculated does not match the signature you provided"
                .to_owned(),
        );
    }

    let (day, time) = date.split_once('T').unwrap();
    let rfc3339 = format!(
        "{}-{}-{}T{}:{}:{}Z",
        &day[..4],
        &day[4..6],
        &day[6..],
        &time[..2],
        &time[2..4],
        &time[4..6]
    );
    let from = humantime::parse_rfc3339(&rfc3339).unwrap();
    let lifetime = Duration::from_secs(given("X-Amz-Expires")?.parse().unwrap());
    let apart = now.duration_since(from).unwrap_or_else(|error| error.duration());
    if apart > lifetime {
        return Err(format!("Signature expired: {date} is not within 5 min. of the server's time"));
    }
    Ok(())
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
}
