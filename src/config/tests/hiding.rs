//! That no secret is shown, whatever is wrong around it: secrets in every place where one may stand, times
//! the mistakes that people make.

use std::path::Path;

use crate::config::{Environment, parse};

/// What is looked for. Each is what some secret looks like: nothing but its place tells the first from a name.
const CANARIES: &[&str] = &[
    "hunter2",
    "CanarySecret",
    "12345678",
    "da2-canaryabcdefghijklmnopqr",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJjYW5hcnkifQ.c2lnbmF0dXJl",
    "9f86d081884c7d659a2feaa0c55ad015",
    "correct horse battery staple",
    "p@ss:w/rd#1",
];

/// Keys whose value is a secret, with the table they belong to, and `%` for the value.
const SECRETS: &[(&str, &str)] = &[
    ("source.plant", "password = %"),
    ("source.shop", "sasl = { mechanism = \"plain\", username = \"u\", password = % }"),
    ("source.shop", "sasl.password = %"),
    ("source.shop", "options = { \"ssl.key.pem\" = %, \"sasl.password\" = % }"),
    ("source.shop", "options = { \"ssl.key.password\" = % }"),
    ("source.shop", "options = { ssl.key.pem = % }"),
    ("source.shop", "options = { \"sasl.jaas.config\" = %, \"x\" = % }"),
    ("api.main", "auth = { type = \"api-key\", key = % }"),
    ("api.main", "auth = { type = \"token\", token = % }"),
    (
        "api.main",
        "auth = { type = \"oauth2\", token_url = \"https://x/\", client_id = \"c\", client_secret = % }",
    ),
    ("api.main", "auth = %"),
    ("api.main", "auth = { aws = { secret_access_key = %, session_token = % } }"),
    ("api.main", "api_key = %"),
    ("api.main", "headers = { authorization = % }"),
    ("source.plant", "paswd = %"),
    ("source.plant", "credentials = [\"u\", %]"),
    ("api.main", "auth = { type = \"oauth2\", client_secert = % }"),
    ("api.main", "auth = { type = \"token\", tokn = % }"),
    ("source.plant", "passphrase = { value = % }"),
    ("source.plant", "url = \"mqtt://h\" # was %"),
    ("source.plant", "# password = %"),
    ("source.plant", "password %"),
    ("source.plant", "paswd: %"),
    ("admin", "token = %"),
    ("otlp", "headers = { authorization = %, user = % }"),
    ("otlp", "headers = { x-scope = { value = % } }"),
    ("otlp", "headers = %"),
    ("route.all", "password = %"),
    ("nothing.here", "secret = %"),
];

/// How the value is written wrongly, or well; `$` is the secret itself.
const WRITTEN: &[&str] = &[
    "\"$\"",
    "'$'",
    "$",
    "\"$",
    "'$",
    "\"\"\"\n$\n\"\"\"",
    "'''$",
    "\"a\"$\"",
    "[\"$\"]",
    "[\n  \"$\",\n",
    "\n\"$\"",
    "\n$",
    "{ env = \"NONE\", default = \"$\" }",
    "{ evn = \"X\", default = \"$\" }",
    "{ value = \"$\" }",
    "{ \"$\" = 1 }",
    "{ \"$\" }",
    "{ file = \"$\" }",
    "{ env = \"NONE\", x = \"$\"",
    "(\"$\")",
    "“$”",
    "\"x\" # $",
    "\"x\" \"$\"",
    "\"\\q$\"",
    "\"-----BEGIN PRIVATE KEY-----\n$\n-----END PRIVATE KEY-----\"",
];

/// Lines whose key is known and harmless, and whose value holds a secret all the same.
const ASTRAY: &[(&str, &str)] = &[
    ("source.plant", "url = \"mqtts:u:$@b\""),
    ("source.plant", "url = \"u:$@b\""),
    ("source.plant", "url = \"mqtt://u:$@b:1883\""),
    ("source.plant", "url = \"mqtt://u:$@b"),
    ("source.plant", "url = mqtt://u:$@b"),
    ("source.plant", "url = \"mqtt://h/x?password=$\""),
    ("source.plant", "url = [\"mqtt://u:$@b\"]"),
    ("source.plant", "client_id = \"u:$@b\""),
    ("source.shop", "brokers = [\"u:$@b:9092\"]"),
    ("source.shop", "brokers = [\"kafka://u:$@b:1\", \"a b\"]"),
    ("source.shop", "brokers = \"a:1,u:$@b:1\""),
    ("api.main", "endpoint = \"https://u:pa/$@h/event\""),
    ("api.main", "endpoint = \"https://u:$@h/event\""),
    ("api.main", "endpoint = \"u:$@h/event\""),
    ("api.main", "endpoint = \"https://h/event?key=$\""),
    ("api.main", "auth = { type = \"oauth2\", token_url = \"https://u:$@x/\" }"),
    ("api.main", "auth = { type = \"oauth2\", token_url = \"u:$@x\" }"),
    ("api.main", "ca_file = \"-----BEGIN CERTIFICATE-----$\""),
    ("source.plant", "tls = { cert_file = \"/c\", key_file = \"-----BEGIN PRIVATE KEY-----$\" }"),
    (
        "source.plant",
        "tls = { cert_file = \"/c\", key_file = \"\"\"-----BEGIN PRIVATE KEY-----\n$\n\"\"\" }",
    ),
    ("admin", "listen = \"u:$@h:1\""),
    ("dead_letter.d", "path = \"file://u:$@h/x\""),
];

/// What else is wrong with the file, before and behind the line in question.
const MISTAKES: &[(&str, &str)] = &[
    ("", ""),
    ("x = [", ""),
    ("bananas = 1", "bananas 1"),
    ("", "type = \"mqtt\"\ntype = 'mqtt'"),
    ("qos = \"", ""),
];

const FILE: &str = r#"
[api.main]
endpoint = "https://abcdefghijklmnopqrstuvwxyz.appsync-api.eu-west-1.amazonaws.com/event"
[source.plant]
type = "mqtt"
[source.shop]
type = "kafka"
[route.all]
from = "plant"
[admin]
[dead_letter.d]
type = "file"
"#;

/// The file with these lines put behind the header of a table.
fn file(table: &str, lines: &str) -> String {
    let header = format!("[{table}]\n");
    if !FILE.contains(&header) {
        return format!("{FILE}{header}{lines}\n");
    }
    let text = FILE.replace(&header, &format!("{header}{lines}\n"));
    if lines.contains("endpoint =") {
        return text.replace("\nendpoint = \"https://abcd", "\n#endpoint = \"https://abcd");
    }
    text
}

/// Everything that can be read of it.
fn shown(text: &str) -> String {
    let environment = Environment::of([("HOME", "/home/b")]);
    let found = match parse(text, Path::new("t.toml"), &environment) {
        Ok(loaded) => loaded.warnings,
        Err(found) => found,
    };
    format!("{found}{found:?}{}", found.render(true))
}

#[test]
fn no_secret_is_shown_wherever_it_stands_and_whatever_is_wrong_beside_it() {
    let placed = SECRETS.iter().flat_map(|(table, line)| {
        WRITTEN.iter().map(move |written| (*table, line.replace('%', written)))
    });
    let astray = ASTRAY.iter().map(|(table, line)| (*table, (*line).to_owned()));
    let mut tried = 0;
    let mut leaks = Vec::new();
    for (number, (table, line)) in placed.chain(astray).enumerate() {
        for (turn, (before, behind)) in MISTAKES.iter().enumerate() {
            // Not all times all: each canary comes to each line with one mistake or another.
            let canary = CANARIES[(number + turn * 2) % CANARIES.len()];
            let lines = format!("{before}\n{}\n{behind}", line.replace('$', canary));
            let text = file(table, &lines);
            let shown = shown(&text);
            tried += 1;
            if shown.contains(canary) {
                leaks.push(format!("--- {canary} of\n{text}\n--- in\n{shown}"));
            }
        }
    }
    assert!(tried > 3000, "{tried}");
    assert!(leaks.is_empty(), "{} of {tried}, the first:\n{}", leaks.len(), leaks[0]);
}

/// What is hidden in its line is hidden in what is said of it, whatever is wrong with it.
#[test]
fn a_secret_in_place_of_a_property_is_not_named() {
    let canary = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
    for value in ["[1]", "1.5", "1979-05-27", "{ a = 1 }", "0x10"] {
        let shown = shown(&file("source.shop", &format!("options = {{ \"{canary}\" = {value} }}")));
        assert!(shown.contains("`…`") && !shown.contains(canary), "{value}\n{shown}");
    }
}

#[test]
fn a_good_file_shows_none_either() {
    let text = "[api.main]\nendpoint = \"http://localhost/event\"\nauth = { type = \"api-key\", key = \"hunter2\" } # hunter3\n\
        [source.plant]\ntype = \"mqtt\"\nurl = \"mqtt://localhost\"\nclient_id = \"b\"\nsubscriptions = \"#\"\n\
        password = \"hunter2\" # was hunter3\nusername = \"u\"\n[route.a]\nfrom = \"plant\"\nchannel = \"/a\"\n";
    let environment = Environment::of([("HOME", "/home/b")]);
    let loaded = parse(text, Path::new("t.toml"), &environment).unwrap();
    assert_eq!(loaded.warnings.warnings(), 2);
    assert!(!shown(text).contains("hunter"), "{}", shown(text));
    assert!(!format!("{:?}", loaded.config).contains("hunter"));
}

#[test]
fn what_is_harmless_stays_readable() {
    let lines = "client_idd = 1\nqos = 7\nurl = \"amqp://broker.example:1\"\n\
        subscriptions = [\"plant/+x/#\"]\npassword = { credential = \"mqtt-password\", x = 1 }\n\
        tls = { ca_file = \"/nonexistent/ca.pem\" }";
    let shown = shown(&file("source.plant", lines));
    for word in [
        "`client_idd`",
        "qos = 7",
        "amqp://broker.example:1",
        "plant/+x/#",
        "mqtt-password",
        "/nonexistent/ca.pem",
    ] {
        assert!(shown.contains(word), "{word}\n{shown}");
    }
}
