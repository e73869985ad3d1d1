//! The page of the emulator in a real browser, and who may use what it uses.

use http::Method;
use serde_json::json;

use crate::support::emulator::{Emulator, request};
use crate::support::page::{Page, target};
use crate::support::socket::Socket;

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_what_goes_on_publishes_and_switches_faults() {
    let emulator = Emulator::start(&["--any-jwt"]);
    let mut socket = Socket::connect(&emulator).await;
    socket.subscribe("s", "/demo/*").await;
    emulator.publish("/demo/rooms/a", &[r#"{"who":"a test"}"#, "2"]).await;

    let mut page = Page::start();
    let root = emulator.endpoint.replace("/event", "/");
    assert_eq!(page.ask("visit", &root)["state"], "live");
    page.ask("until", "/demo/rooms/a");
    page.ask("until", r#"{"who":"a test"}"#);
    page.ask("until", "/demo/*");
    page.ask("until", "nothing in it is verified");
    page.ask("until", "globalThis.WebSocket ??= WebSocket");
    page.ask("click", "#publish [type=submit]");
    page.ask("until", "accepted at");
    // What came over the socket: two of the test's, one of the page's.
    for expected in [r#"{"who":"a test"}"#, "2", r#"{"n":1}"#] {
        assert_eq!(socket.hear().await["event"], expected);
    }

    page.ask("click", "#presets button");
    page.ask("state", "faulty");
    assert_eq!(emulator.publish("/demo/a", &["1"]).await.status, 503);
    page.ask("until", "struck 1 of 1");
    page.ask("click", "#presets button");
    page.ask("state", "live");
    assert_eq!(emulator.publish("/demo/a", &["1"]).await.status, 200);

    for (width, height, scheme) in
        [(1280, 900, "dark"), (1280, 900, "light"), (390, 844, "dark"), (390, 844, "light")]
    {
        let look = json!({ "width": width, "height": height, "scheme": scheme });
        page.ask("look", &look.to_string());
        let measured = page.ask("measure", ".");
        assert_eq!(measured["wide"], measured["width"], "{measured}");
        assert_eq!(measured["unnamed"], json!([]), "{measured}");
        assert_eq!(measured["complaints"], json!([]), "{measured}");
        let path = target().join(format!("emulator-{width}-{scheme}.png"));
        page.ask("picture", path.to_str().unwrap());
    }
}

#[tokio::test]
async fn what_the_page_may_do_other_pages_may_not() {
    let emulator = Emulator::start(&[]);
    let own = emulator.endpoint.strip_suffix("/event").unwrap().to_owned();
    let publish = format!("{own}/_emulator/publish");
    let body = r#"{"channel":"/demo/a","events":["1"]}"#;
    let asked = async |headers: &[(&str, &str)]| {
        request(Method::POST, &publish, headers, body).await.status.as_u16()
    };
    assert_eq!(asked(&[]).await, 200);
    assert_eq!(asked(&[("origin", &own)]).await, 200);
    assert_eq!(asked(&[("origin", "http://evil.example")]).await, 403);
    assert_eq!(asked(&[("host", "evil.example")]).await, 403);
    let elsewhere = Emulator::start_at("0.0.0.0:0", &[]);
    let root = elsewhere.endpoint.replace("/event", "/");
    assert_eq!(request(Method::GET, &root, &[], "").await.status, 404);
}

/// A name with a dot is led anywhere by whoever owns it: a page under it would be this emulator's own to a browser.
#[tokio::test]
async fn off_loopback_the_page_is_not_shown_by_names_that_could_be_anybodys() {
    let emulator = Emulator::start_at("0.0.0.0:0", &["--control"]);
    let root = emulator.endpoint.strip_suffix("/event").unwrap().to_owned();
    let asked = async |method: Method, path: &str, host: &str| {
        let headers = [("host", host), ("origin", &format!("http://{host}"))];
        request(method, &format!("{root}{path}"), &headers, "[]").await.status.as_u16()
    };
    for (host, good) in [
        ("127.0.0.1:80", true),
        ("192.0.2.7:8787", true),
        ("emulator:8787", true),
        ("evil.example:8787", false),
        ("box.local", false),
    ] {
        for (method, path) in [
            (Method::GET, "/"),
            (Method::GET, "/_emulator/view"),
            (Method::PUT, "/_emulator/faults"),
            (Method::DELETE, "/_emulator/faults"),
        ] {
            let expected = if good { 200 } else { 403 };
            assert_eq!(asked(method.clone(), path, host).await, expected, "{method} {path} {host}");
        }
        // The API itself is asked by any name, as it is behind a name of one's own.
        assert_eq!(asked(Method::POST, "/event", host).await, 401, "{host}");
    }
}
