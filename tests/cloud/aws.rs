//! `deploy/aws`: the templates as cfn-lint knows them (the specification of each resource, the actions of policies),
//! Terraform's text as a parser of its language reads it. The provider's own schema is not to be had here.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use super::{check, said, script};

const API: &str = "deploy/aws/event-api.yaml";
const QUEUE: &str = "deploy/aws/queue.yaml";
const BRIDGE: &str = "deploy/aws/bridge.yaml";
const TERRAFORM: &str = "deploy/aws/event-api.tf";

fn read(file: &str) -> String {
    fs::read_to_string(file).unwrap()
}

/// What cfn-lint says of a template.
fn linted(text: &str) -> (bool, String) {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    fs::write(file.path(), text).unwrap();
    // Each region has resources of its own; one that has them all is enough.
    let output =
        script("cfn-lint").args(["--regions", "eu-west-1", "--"]).arg(file.path()).output();
    said(&output.unwrap())
}

#[test]
fn cfn_lint_has_nothing_against_the_templates_and_finds_a_planted_mistake() {
    for file in [API, QUEUE, BRIDGE] {
        assert_eq!(linted(&read(file)), (true, String::new()), "{file}");
    }
    let planted = |file, mistakes: [(&str, &str, &str); 3]| {
        let text = mistakes.iter().fold(read(file), |text, (right, wrong, _)| {
            assert!(text.contains(right), "{right}");
            text.replace(right, wrong)
        });
        let (good, said) = linted(&text);
        assert!(!good, "{said}");
        for (_, wrong, code) in mistakes {
            assert!(said.contains(code), "{wrong}: {said}");
        }
    };
    planted(
        API,
        [
            ("DefaultPublishAuthModes", "DefaultPublishAuthMode", "E3002"),
            ("AuthType: AWS_IAM", "AuthType: IAM", "E3030"),
            ("!GetAtt Api.Dns.Realtime", "!GetAtt Api.RealtimeDns", "E6101"),
        ],
    );
    planted(
        BRIDGE,
        [
            ("appsync:EventPublish", "appsync:PublishEvent", "W3037 'publishevent'"),
            ("kafka-cluster:AlterGroup", "kafka-cluster:WriteGroup", "W3037 'writegroup'"),
            ("!Ref Subnets", "!Ref Subnet", "E1020"),
        ],
    );
}

/// The text of each block that is an argument of `!Sub`, in `bridge.yaml`.
fn configurations() -> Vec<String> {
    let text = read(BRIDGE);
    let deep = |line: &str| line.len() - line.trim_start().len();
    let lines: Vec<_> = text.lines().collect();
    let begins = |line: &str| line.trim_end().ends_with("- !Sub |") || line.trim() == "- |";
    let blocks = lines.iter().enumerate().filter(|(_, line)| begins(line)).map(|(at, line)| {
        let inside = |next: &&&str| next.is_empty() || deep(next) > deep(line);
        let block = lines[at + 1..].iter().take_while(inside);
        block.map(|line| line.trim()).collect::<Vec<_>>().join("\n")
    });
    blocks.collect()
}

#[test]
fn the_configurations_of_the_tasks_pass_check() {
    let configurations = configurations();
    assert_eq!(configurations.len(), 2);
    for (text, kind) in configurations.iter().zip(["sqs", "kafka"]) {
        let filled = [
            (
                "${Endpoint}",
                "https://abcdefghijklmnopqrstuvwxyz.appsync-api.eu-west-1.amazonaws.com/event",
            ),
            ("${MaxRate}", "2500"),
            ("${AWS::Region}", "eu-west-1"),
            ("${AWS::URLSuffix}", "amazonaws.com"),
            ("${AWS::AccountId}", "111122223333"),
            ("${Namespace}", "orders"),
            ("${Queue}", "orders"),
            ("${RejectsQueue}", "orders-rejected"),
            ("${Topic}", "orders"),
            ("${RejectsTopic}", "orders-rejected"),
            // Joined by the template.
            ("${Servers}", "b-1.example:9098\", \"b-2.example:9098"),
        ]
        .iter()
        .fold(text.clone(), |text, (name, value)| text.replace(name, value));
        assert!(!filled.contains("${") && filled.contains(kind), "{filled}");
        let (good, said) = check(&filled, []);
        assert!(good, "{said}\n{filled}");
    }
}

/// The actions of a service that a text names.
fn actions(text: &str, service: &str) -> BTreeSet<String> {
    let named = text
        .split(service)
        .skip(1)
        .filter(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase()));
    let word =
        |rest: &str| rest.chars().take_while(char::is_ascii_alphanumeric).collect::<String>();
    named.map(|rest| format!("{service}{}", word(rest))).collect()
}

#[test]
fn the_roles_allow_what_the_source_asks_for_and_nothing_else() {
    let template = read(BRIDGE);
    let calls = actions(&read("src/aws/sqs/trouble.rs"), "sqs:");
    assert!(calls.len() == 5, "{calls:?}");
    assert_eq!(actions(&template, "sqs:"), calls);
    assert_eq!(actions(&template, "appsync:"), ["appsync:EventPublish".to_owned()].into());
    let kafka = [
        "Connect",
        "DescribeTopic",
        "ReadData",
        "DescribeGroup",
        "AlterGroup",
        "WriteData",
        "WriteDataIdempotently",
    ];
    let kafka: BTreeSet<_> = kafka.iter().map(|action| format!("kafka-cluster:{action}")).collect();
    assert_eq!(actions(&template, "kafka-cluster:"), kafka);
    for file in [API, QUEUE, BRIDGE, TERRAFORM] {
        let text = read(file);
        let wild = |line: &&str| {
            line.contains("Resource: '*'") || line.contains(":*\"") || line.contains("\"*\"")
        };
        assert_eq!(text.lines().find(wild), None, "{file}");
    }
    // The document says the same.
    let document = read("SECURITY.md");
    assert_eq!(actions(&document, "sqs:"), calls);
    assert_eq!(actions(&document, "kafka-cluster:"), kafka);
    assert_eq!(actions(&document, "appsync:"), ["appsync:EventPublish".to_owned()].into());
}

/// What the parser of Terraform's language makes of a text.
fn parsed(text: &str) -> Option<Value> {
    let file = tempfile::Builder::new().suffix(".tf").tempfile().unwrap();
    fs::write(file.path(), text).unwrap();
    let output = script("hcl2tojson").arg(file.path()).output().unwrap();
    output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
}

/// `TYPE.NAME` of all blocks of a kind.
fn declared(parsed: &Value, kind: &str) -> BTreeSet<String> {
    let bare = |text: &str| text.trim_matches('"').to_owned();
    let blocks = parsed[kind].as_array().into_iter().flatten();
    let names = blocks.flat_map(|block| {
        block.as_object().unwrap().iter().flat_map(move |(first, inner)| {
            let inner = inner.as_object().unwrap();
            inner.keys().map(move |second| format!("{}.{}", bare(first), bare(second)))
        })
    });
    names.collect()
}

/// What a text refers to and does not declare.
fn dangling(text: &str) -> BTreeSet<String> {
    let parsed = parsed(text).expect("it can be parsed");
    let known = &declared(&parsed, "resource") | &declared(&parsed, "data");
    assert!(known.len() >= 10, "{known:?}");
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.')));
    let references = words.filter_map(|word| {
        let mut parts = word.trim_start_matches("data.").split('.');
        let (kind, name) = (parts.next()?, parts.next()?);
        kind.starts_with("aws_").then(|| format!("{kind}.{name}"))
    });
    references.filter(|reference| !known.contains(reference)).collect()
}

#[test]
fn terraform_is_parsed_and_names_what_it_declares() {
    let text = read(TERRAFORM);
    assert_eq!(dangling(&text), BTreeSet::new());
    assert_eq!(parsed(&text.replacen('{', "", 1)), None, "an open block is found");
    let planted = text.replace("aws_appsync_api.events.api_id", "aws_appsync_api.event.api_id");
    assert_eq!(dangling(&planted), ["aws_appsync_api.event".to_owned()].into());
    // The same API as the template's.
    for shared in ["AWS_IAM", "API_KEY", "appsync:EventPublish", "AWSAppSyncPushToCloudWatchLogs"] {
        assert_eq!(text.matches(shared).count() > 0, read(API).contains(shared), "{shared}");
    }
}
