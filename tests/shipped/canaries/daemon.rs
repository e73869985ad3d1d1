//! What the daemon logs, serves, answers and exports, and what is asked of it.

use std::fs;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use tokio::net::TcpListener;

use super::{Cage, LEVELS};
use crate::support::{PATIENCE, signal, until};

/// Takes what comes over HTTP, and keeps the bodies.
async fn collector() -> (u16, Arc<Mutex<Vec<u8>>>) {
    let kept = Arc::<Mutex<Vec<u8>>>::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, shared) = (listener.local_addr().unwrap().port(), Arc::clone(&kept));
    let router = axum::Router::new().fallback(move |uri: http::Uri, body: Bytes| {
        let mut kept = shared.lock().unwrap();
        kept.extend_from_slice(uri.path().as_bytes());
        kept.extend_from_slice(&body);
        std::future::ready(http::StatusCode::OK)
    });
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (port, kept)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_every_slot_comes_out_of_no_check_and_no_daemon_at_no_level() {
    let (collector, exported) = collector().await;
    let cage = Cage::new(collector);
    let config = cage.config();
    assert_eq!(
        cage.seek(&["check", "-c", &config]).0,
        Some(0),
        "{}",
        cage.seek(&["check", "-c", &config]).1
    );
    assert_eq!(cage.seek(&["check", "--json", "-c", &config]).0, Some(0));
    for more in [&[][..], &["--json"], &["--publish", "/a/b"]] {
        let (code, said) = cage.seek(&[&["check", "--connect", "-c", &config][..], more].concat());
        assert_eq!(code, Some(1), "{said}");
    }
    for bad in cage.spoilt() {
        cage.write(&bad);
        for args in
            [&["check"][..], &["check", "--json"], &["check", "--connect", "--json"], &["run"]]
        {
            assert_eq!(cage.seek(&[args, &["-c", &config]].concat()).0, Some(78), "{args:?}");
        }
        cage.seek(&["health", "-c", &config]);
        cage.seek(&["replay", "--dry-run", "-c", &config, &cage.at("rejects.jsonl")]);
        cage.seek(&["publish", "-c", &config, "/a/b", "1"]);
    }
    for generated in ["schema", "man", "--help", "--version"] {
        cage.seek(&[generated]);
    }
    for (level, format) in LEVELS.into_iter().zip(["json", "text"].into_iter().cycle()) {
        let log = format!("[log]\nlevel = \"{level}\"\nformat = \"{format}\"\n");
        cage.write(&format!("{}{log}", cage.text));
        exported.lock().unwrap().clear();
        let (mut running, said) = cage.start(&["run", "-c", &config]);
        until("it serves", PATIENCE, async || cage.asked(http::Method::GET, "/metrics").await)
            .await;
        // Each source has failed to connect.
        let pages = until("each source is tried", PATIENCE, async || {
            let mut pages = Vec::new();
            for page in ["/", "/metrics", "/status", "/readyz", "/livez", "/nothing"] {
                pages.push(cage.asked(http::Method::GET, page).await?);
            }
            (pages.concat().matches("refused").count() >= 3).then(|| pages.concat())
        })
        .await;
        cage.canaries.sought(&pages, &format!("the admin port at {level}"));
        // A reload, too, and one that is refused.
        let bad = cage.spoilt().map(|bad| format!("{bad}{log}"));
        for text in
            bad.iter().chain([&format!("{}{log}", cage.text.replace("\"/a/b\"", "\"/a/c\""))])
        {
            cage.write(text);
            let answer = cage.asked(http::Method::POST, "/reload").await.unwrap();
            assert!(answer.contains("generation") || answer.contains("errors"), "{answer}");
            cage.canaries.sought(&answer, &format!("the answer to a reload at {level}"));
        }
        for args in
            [&["top", "--json"][..], &["top", "--once"], &["health"], &["health", "--ready"]]
        {
            cage.seek(&[args, &["-c", &config]].concat());
            // With a token that is none.
            let admin = format!("127.0.0.1:{}", cage.admin);
            let mut other = cage.command(&[args, &["--admin", &admin]].concat());
            other.env("APPSYNC_BRIDGE_ADMIN_TOKEN", &cage.canaries.0[0]);
            cage.sought(&format!("{args:?} with another token"), &mut other);
        }
        if cfg!(feature = "otlp") {
            let has = |kept: &[u8]| {
                ["/v1/metrics", "/v1/traces"]
                    .iter()
                    .any(|path| kept.windows(path.len()).any(|window| window == path.as_bytes()))
            };
            until("numbers are exported", PATIENCE, async || {
                has(&exported.lock().unwrap()).then_some(())
            })
            .await;
        }
        for name in ["TERM", "INT"] {
            signal(running.id(), name);
        }
        running.wait().unwrap();
        cage.canaries.sought(&String::from_utf8_lossy(&exported.lock().unwrap()), "the collector");
        let said = fs::read_to_string(said.path()).unwrap();
        assert!(level == "error" || !said.is_empty());
        cage.canaries.sought(&said, &format!("the log at {level}"));
    }
}
