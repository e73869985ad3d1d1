//! What is said of common mistakes: the words that lead to what works, and nothing that hides another mistake.

use std::path::Path;

use crate::config::{Environment, parse};

/// All that is said of a file with these lines in its tables.
fn said(api: &str, source: &str, route: &str) -> String {
    let or =
        |lines: &str, default: &str| (if lines.is_empty() { default } else { lines }).to_owned();
    let api = or(api, "endpoint = \"http://localhost/event\"\nauth = { type = \"iam\" }");
    let source =
        or(source, "type = \"mqtt\"\nurl = \"mqtt://h\"\nclient_id = \"b\"\nsubscriptions = \"#\"");
    let route = or(route, "from = \"plant\"\nchannel = \"/a\"");
    of(&format!("[api.main]\n{api}\n[source.plant]\n{source}\n[route.a]\n{route}\n"))
}

fn of(text: &str) -> String {
    let environment = Environment::of([("HOME", "/h"), ("AWS_REGION", "eu-west-1")]);
    match parse(text, Path::new("t.toml"), &environment) {
        Ok(loaded) => loaded.warnings.to_string(),
        Err(found) => found.to_string(),
    }
}

#[test]
fn an_endpoint_is_corrected() {
    let realtime = "wss://abcdefghijklmnopqrstuvwxyz.appsync-realtime-api.eu-west-1.amazonaws.com/event/realtime";
    let http = "https://abcdefghijklmnopqrstuvwxyz.appsync-api.eu-west-1.amazonaws.com";
    for (written, right) in [
        (realtime, format!("{http}/event")),
        (http, format!("{http}/event")),
        ("https://events.example:8443/", "https://events.example:8443/event".to_owned()),
        ("https://events.example/event/realtime", "https://events.example/event".to_owned()),
        ("wss://events.example/event/realtime", "https://events.example/event".to_owned()),
        (
            "arn:aws:appsync:eu-west-1:111122223333:apis/abc",
            "https://….appsync-api.eu-west-1.amazonaws.com/event".to_owned(),
        ),
    ] {
        let shown = said(&format!("endpoint = \"{written}\"\nauth = {{ type = \"iam\" }}"), "", "");
        assert!(shown.contains(&format!("`{right}`")), "{written}: {shown}");
    }
}

#[test]
fn other_forms_are_named() {
    let api =
        |auth: &str| said(&format!("endpoint = \"http://localhost/event\"\nauth = {auth}"), "", "");
    for auth in ["\"iam\"", "\"api-key\""] {
        assert!(api(auth).contains("write `auth = { type = \"iam\" }`"), "{}", api(auth));
    }
    let yaml = of("api:\n  main:\n    endpoint: https://u:hunter2@h\n    auth:\n      type: iam\n");
    assert!(yaml.contains("this is YAML") && yaml.ends_with(" 1 problem"), "{yaml}");
    assert!(!yaml.contains("hunter2"));
    assert!(of("{\"api\": {}}").contains("this is JSON"));
}

#[test]
fn what_can_not_be_seen_is_named() {
    for line in ["\u{a0}qos = 1", "qos\u{a0}= 1", "\u{feff}qos = 1", "qos = “1”", "qos = \u{200b}1"]
    {
        let source = format!(
            "{line}\ntype = \"mqtt\"\nurl = \"mqtt://h\"\nclient_id = \"b\"\nsubscriptions = \"#\""
        );
        let shown = said("", &source, "");
        assert!(shown.contains("which only looks like"), "{line:?}: {shown}");
    }
    for key in ["\"client_id \"", "\"\u{a0}client_id\"", "\"\\uFEFFclient_id\""] {
        let source =
            format!("{key} = \"b\"\ntype = \"mqtt\"\nurl = \"mqtt://h\"\nsubscriptions = \"#\"");
        let shown = said("", &source, "");
        assert!(
            shown.contains("can't be seen") && shown.contains("did you mean `client_id`?"),
            "{shown}"
        );
    }
    let shown = said(
        "",
        "\" \" = 1\ntype = \"mqtt\"\nurl = \"mqtt://h\"\nclient_id = \"b\"\nsubscriptions = \"#\"",
        "",
    );
    assert!(shown.contains("nothing is in it that can be seen"), "{shown}");
    let good =
        "\u{feff}[api.main]\nendpoint = \"http://localhost/event\"\nauth = { type = \"iam\" }\n";
    assert!(!of(good).contains("TOML"), "{}", of(good));
}

#[test]
fn a_mistake_hides_no_other() {
    let shown = said("", "type = \"mqtt\"\nurl = \"mqtt://h\"\nsubscriptions = [\"a/#/b\"]", "");
    assert!(
        shown.contains("`#` is not at the end") && shown.contains("has no `client_id`"),
        "{shown}"
    );
    let shown =
        said("", "type = \"mqtt\"\nqos = 0\nurl = \"mqtt://h\"\nsubscriptions = [\"a/#/b\"]", "");
    assert!(!shown.contains("client_id"), "{shown}");
    for topic in ["plant/{site", "plant/{site}/{site}", "plant/{rest..}/x/{site}"] {
        let route = format!(
            "from = \"plant\"\ntopic = \"{topic}\"\nchannel = \"/plant/{{site}}/{{nonsense}}\""
        );
        let shown = said("", "", &route);
        assert!(
            shown.contains("nothing is called `nonsense`") && shown.contains("2 problems"),
            "{shown}"
        );
    }
}
