//! The export of metrics and traces, to a real collector of OpenTelemetry.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use rumqttc_v5::PublishOptions;
use rumqttc_v5::mqttbytes::v5::PublishProperties;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::support::bridge::{Bridge, Setup};
use crate::support::collector::{Collector, Span, attribute};
use crate::support::emulator::Emulator;
use crate::support::kafka::Kafka;
use crate::support::kafka::records::Record;
use crate::support::mosquitto::Mosquitto;
use crate::support::nats::Nats;
use crate::support::producer::{publish, publish_each};
use crate::support::server::Authority;
use crate::support::shop::Shop;
use crate::support::{PATIENCE, free_port, until};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// In no span and in no number.
const PAYLOAD: &str = "payload-canary";

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

fn named<'s>(spans: &'s [Span], name: &str) -> Vec<&'s Span> {
    spans.iter().filter(|span| span.text("name") == name).collect()
}

/// The drain, which exports what is left.
async fn stop(mut bridge: Bridge) -> String {
    bridge.signal("TERM");
    let status = bridge.ended(PATIENCE).await;
    assert_eq!(status.code(), Some(0), "{}", bridge.log());
    bridge.log()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_that_begins_at_a_kafka_producer_goes_on_at_the_collector() {
    let authority = Authority::new();
    let collector = Collector::start_with_tls(authority.issue(&["localhost"])).await;
    let kafka = Kafka::shared().await;
    let shop = Shop::open(kafka, "traced", 1).await;
    let rest = format!(
        "[otlp]\nendpoint = \"https://localhost:{}\"\nca_file = \"ca.pem\"\nmetrics = false\n",
        collector.port
    );
    let topics = format!("topics = \"{}\"", shop.topic);
    let setup = shop.setup_of(&topics, &rest.replace("ca.pem", "CA"));
    let ca = setup.file("collector.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    let text = std::fs::read_to_string(setup.config()).unwrap();
    std::fs::write(setup.config(), text.replace("\"CA\"", &format!("\"{}\"", ca.display())))
        .unwrap();
    let setup = setup.env("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=p%2D0");
    let bridge = setup.start_ready().await;
    let record = |key: u32, traceparent: Option<&str>| {
        let record = Record::new(json!({ "key": key, "secret": PAYLOAD }).to_string());
        match traceparent {
            Some(text) => record.header("traceparent", Some(text.as_bytes())),
            None => record,
        }
    };
    let long = format!("01-{TRACE}-{PARENT}-01-{}", "x".repeat(10_000));
    let records = [
        record(1, None),
        record(2, Some("no trace")),
        record(3, Some(&long)),
        record(4, Some(&traceparent("00"))),
        record(5, Some(&traceparent("01"))).header("tracestate", Some(b"vendor=1")),
    ];
    kafka.produce(&shop.topic, records).await;
    bridge
        .metric_is("source_settled_total{source=\"shop\",outcome=\"published\"}", |v| v == 5.0)
        .await;
    stop(bridge).await;

    // The last of the messages is the only traced one.
    let spans = collector.spans();
    let [process, event, request] =
        ["process shop", "publish data", "POST main"].map(|name| named(&spans, name));
    let ([process], [event], [request]) = (&process[..], &event[..], &request[..]) else {
        panic!("{spans:#?}")
    };
    assert_eq!(spans.len(), 3);
    assert!(spans.iter().all(|span| span.text("traceId") == TRACE));
    assert!(spans.iter().all(|span| span.text("traceState") == "vendor=1"), "{spans:?}");
    assert_eq!(process.text("parentSpanId"), PARENT);
    assert_eq!(event.text("parentSpanId"), process.text("spanId"));
    assert_eq!(request.text("parentSpanId"), event.text("spanId"));
    assert_eq!(request.0["links"][0]["spanId"], event.text("spanId"));
    // CONSUMER, PRODUCER and CLIENT.
    assert_eq!([process, event, request].map(|span| span.0["kind"].as_u64().unwrap()), [5, 4, 3]);
    for (span, name, value) in [
        (process, "messaging.system", "kafka"),
        (process, "messaging.destination.name", shop.topic.as_str()),
        (process, "messaging.destination.partition.id", "0"),
        (process, "messaging.kafka.offset", "4"),
        (process, "appsync_bridge.outcome", "published"),
        (event, "messaging.destination.name", "/shop/dev-5"),
        (event, "appsync_bridge.api", "main"),
        (event, "appsync_bridge.outcome", "published"),
        (request, "http.response.status_code", "200"),
    ] {
        assert_eq!(span.attribute(name), value, "{name} of {span:?}");
    }
    for process in collector.processes() {
        assert_eq!(attribute(&process, "service.name"), "appsync-bridge");
        assert_eq!(attribute(&process, "service.version"), env!("CARGO_PKG_VERSION"));
        assert_eq!(attribute(&process, "k8s.pod.name"), "p-0");
        assert!(!attribute(&process, "service.instance.id").is_empty());
    }
    assert!(!collector.text().contains(PAYLOAD));
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_nats_and_properties_of_mqtt_bring_traces_and_a_reject_is_an_error() {
    let collector = Collector::start().await;
    let (emulator, nats, mosquitto) =
        (Emulator::start(&[]), Nats::start("").await, Mosquitto::start("").await);
    let tables = format!(
        "[source.one]\ntype = \"nats\"\nservers = \"{}\"\nsubjects = \"in.*\"\n\
         [source.two]\ntype = \"mqtt\"\nclient_id = \"two\"\nurl = \"mqtt://127.0.0.1:{}\"\nsubscriptions = [\"in/#\"]\n\
         [route.data]\nfrom = [\"one\", \"two\"]\nchannel = \"/in/{{json.n}}\"\n",
        nats.url(),
        mosquitto.port
    );
    let rest = format!("[otlp]\nendpoint = \"{}/\"\n", collector.url());
    let setup = Setup::of(&emulator.endpoint, "", &tables, &rest);
    let (good, said) = setup.check().await;
    assert!(good && said.contains("otlp: connected: "), "{said}");
    // What is sent first is sent again.
    emulator.set_faults(json!([{ "fault": { "answer": { "status": 503 } }, "times": 1 }])).await;
    let bridge = setup.start_ready().await;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Traceparent", traceparent("01").as_str());
    let client = nats.client().await;
    client.publish_with_headers("in.x", headers, "{\"n\":1}".into()).await.unwrap();
    client.flush().await.unwrap();
    bridge
        .metric_is("source_settled_total{source=\"one\",outcome=\"published\"}", |v| v == 1.0)
        .await;
    let properties = PublishProperties {
        user_properties: vec![("traceparent".to_owned(), traceparent("01"))],
        ..PublishProperties::default()
    };
    let options = PublishOptions::at_least_once().properties(properties);
    publish_each(mosquitto.port, [("in/y".to_owned(), b"{".to_vec(), options)]).await;
    bridge
        .metric_is("source_settled_total{source=\"two\",outcome=\"dead_lettered\"}", |v| v == 1.0)
        .await;
    // While it runs, not only at its end.
    collector.has_spans(5).await;
    stop(bridge).await;

    let spans = collector.spans();
    let [one, two, event, requests] =
        ["process one", "process two", "publish data", "POST main"].map(|name| named(&spans, name));
    assert_eq!([one.len(), two.len(), event.len(), requests.len()], [1, 1, 1, 2], "{spans:#?}");
    for (span, system) in [(one[0], "nats"), (two[0], "mqtt")] {
        assert_eq!((span.text("traceId"), span.text("parentSpanId")), (TRACE, PARENT));
        assert_eq!(span.attribute("messaging.system"), system);
    }
    let event = &event[0].0;
    assert_eq!(event["events"][0]["name"], "retry");
    assert_eq!(attribute(&event["events"][0], "error.type"), "unavailable");
    let failed: Vec<_> = requests.iter().map(|r| r.0["status"]["code"].as_u64()).collect();
    assert_eq!(failed, [Some(2), None]);
    let two = &two[0].0;
    assert_eq!(two["status"]["message"], "dead_lettered: invalid_json");
    assert_eq!(two["events"][0]["name"], "rejected");
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_come_with_the_names_and_labels_of_the_scrape() {
    let collector = Collector::start().await;
    let (emulator, mosquitto) = (Emulator::start(&[]), Mosquitto::start("").await);
    let rest =
        format!("[otlp]\nendpoint = \"{}\"\ninterval = \"1s\"\ntraces = false\n", collector.url());
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", &rest);
    let bridge = setup.start_ready().await;
    publish(mosquitto.port, 1_000, [("plant/dev-1/data".to_owned(), b"{\"id\":1}".to_vec())]).await;
    bridge.nothing_in_flight().await;
    until("an export came", PATIENCE, async || (!collector.metrics().is_empty()).then_some(()))
        .await;
    let scrape = bridge.metrics().await;
    stop(bridge).await;

    let kinds = ["sum", "gauge", "histogram"];
    let mut series = BTreeSet::new();
    let mut last = std::collections::BTreeMap::new();
    for metric in collector.metrics() {
        let kind = *kinds.iter().find(|kind| metric[**kind].is_object()).unwrap();
        for point in metric[kind]["dataPoints"].as_array().unwrap() {
            let labels = point["attributes"].as_array().into_iter().flatten();
            let labels = labels.map(|l| format!("{}={}", l["key"], l["value"]["stringValue"]));
            let name = metric["name"].as_str().unwrap().to_owned();
            let labels: BTreeSet<String> = labels.collect();
            let value = point["asInt"].as_str().map(|value| value.parse::<f64>().unwrap());
            last.insert((name.clone(), labels.clone()), value.or(point["asDouble"].as_f64()));
            series.insert((name, labels));
        }
        if kind != "gauge" {
            assert_eq!(metric[kind]["aggregationTemporality"], 2, "cumulative: {metric}");
        }
    }
    let scraped: BTreeSet<_> = scrape.keys().map(|series| of_scrape(series)).collect();
    assert!(scraped.len() > 50, "{scraped:?}");
    assert_eq!(series, scraped);
    for (name, labels, value) in [
        ("source_received_total", vec!["\"source\"=\"plant\""], 1.0),
        ("publish_events_total", vec!["\"api\"=\"main\"", "\"outcome\"=\"accepted\""], 1.0),
        ("source_connected", vec!["\"source\"=\"plant\""], 0.0),
    ] {
        let labels: BTreeSet<_> = labels.into_iter().map(str::to_owned).collect();
        let name = format!("appsync_bridge_{name}");
        assert_eq!(last[&(name.clone(), labels)], Some(value), "{name} at the end");
    }
}

/// Name and labels of a line of `/metrics`, those of a histogram's parts as those of the whole.
fn of_scrape(series: &str) -> (String, BTreeSet<String>) {
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
    // A value may have a comma in it.
    let labels = labels.trim_end_matches('}').split_inclusive("\",").filter(|l| !l.is_empty());
    let labels = labels.map(|label| {
        let (name, value) = label.trim_end_matches(',').split_once('=').unwrap();
        format!("\"{name}\"={value}")
    });
    let labels = labels.filter(|label| !label.starts_with("\"le\"="));
    (histogram.unwrap_or(name).to_owned(), labels.collect())
}

/// A relay of so many messages with this `[otlp]`, and its log when it has drained.
async fn relay(otlp: &str, count: u64, env: &[(&str, &str)]) -> (Setup, String) {
    let (emulator, mosquitto) = (Emulator::start(&[]), Mosquitto::start("").await);
    let mut setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", otlp);
    for (name, value) in env {
        setup = setup.env(name, value);
    }
    let bridge = setup.start_ready().await;
    let message =
        |id: u64| (format!("plant/dev-{id}/data"), format!("{{\"id\":{id}}}").into_bytes());
    publish(mosquitto.port, 10_000, (0..count).map(message)).await;
    let published = "source_settled_total{source=\"plant\",outcome=\"published\"}";
    bridge.metric_is(published, |v| v == count as f64).await;
    (setup, stop(bridge).await)
}

fn count(log: &str, words: &str) -> usize {
    log.lines().filter(|line| line.contains(words)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_everything_is_relayed_and_what_is_lost_is_said_once() {
    let port = free_port();
    let rest = format!(
        "[otlp]\nendpoint = \"http://127.0.0.1:{port}\"\nsample = 1.0\ninterval = \"1s\"\ntimeout = \"1s\"\n"
    );
    let (setup, log) = relay(&rest, 4_000, &[]).await;
    assert_eq!(count(&log, "can't export to the OTLP collector"), 1, "{log}");
    // Of a message two, and each request: more than have room.
    let dropped = log.lines().filter(|line| line.contains("dropped spans")).collect::<Vec<_>>();
    assert!((1..=3).contains(&dropped.len()), "{log}");
    let lost: u64 = dropped.iter().map(|line| count_in(line)).sum();
    assert!(lost >= 8_000, "{lost} of 8,000 and the requests: {log}");
    assert!(!log.contains("panicked"), "{log}");
    let (good, said) = setup.check().await;
    assert!(
        !good && said.contains("error: otlp: ") && said.contains("Connection refused"),
        "{said}"
    );
}

fn count_in(line: &str) -> u64 {
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    line["count"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_never_answers_holds_up_neither_messages_nor_the_end() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let rest = format!("[otlp]\nendpoint = \"http://{address}\"\nsample = 1.0\ntimeout = \"1h\"\n");
    let began = tokio::time::Instant::now();
    let (_setup, log) = relay(&rest, 100, &[]).await;
    assert_eq!(count(&log, "the OTLP collector did not take them in time"), 1, "{log}");
    assert!(began.elapsed() < Duration::from_mins(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_wait_for_the_last_export() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let rest =
        format!("[otlp]\nendpoint = \"http://{address}\"\ntimeout = \"1h\"\ninterval = \"1h\"\n");
    let (emulator, mosquitto) = (Emulator::start(&[]), Mosquitto::start("").await);
    let setup = Setup::new(&emulator.endpoint, mosquitto.port, "", "", &rest);
    let mut bridge = setup.start_ready().await;
    bridge.signal("TERM");
    // The drain is over: nothing is exported before that.
    let _export = silent.accept().await.unwrap();
    bridge.signal("TERM");
    assert_eq!(bridge.ended(PATIENCE).await.code(), Some(130), "{}", bridge.log());
    assert_eq!(count(&bridge.log(), "the OTLP collector did not take them in time"), 1);
}

/// Takes requests, remembers their headers, and refuses them all.
async fn refusing(status: StatusCode) -> (String, Arc<Mutex<Vec<HeaderMap>>>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen: Arc<Mutex<Vec<HeaderMap>>> = Arc::default();
    let all = Arc::clone(&seen);
    let router = axum::Router::new().fallback(async move |headers: HeaderMap| {
        all.lock().unwrap().push(headers);
        status
    });
    (url, seen, tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secrets_of_headers_are_sent_and_never_shown() {
    const SECRET: &str = "Bearer collector-canary-1";
    let (url, seen, task) = refusing(StatusCode::UNAUTHORIZED).await;
    let rest = format!(
        "[otlp]\nendpoint = \"{url}\"\nsample = 1.0\nheaders = {{ authorization = {{ env = \"OTLP_TOKEN\" }}, \"x-scope\" = \"tenant-canary\" }}\n"
    );
    let (setup, log) = relay(&rest, 10, &[("OTLP_TOKEN", SECRET)]).await;
    task.abort();
    for headers in &*seen.lock().unwrap() {
        assert_eq!(headers["authorization"], SECRET);
        assert_eq!(headers["x-scope"], "tenant-canary");
        assert_eq!(headers["content-type"], "application/x-protobuf");
    }
    assert!(seen.lock().unwrap().len() >= 2, "metrics and traces");
    assert_eq!(count(&log, "can't export to the OTLP collector"), 1, "{log}");
    assert!(log.contains("it answers 401") && log.contains("`headers` of `[otlp]`"), "{log}");
    let (_, said) = setup.check().await;
    for text in [log, said] {
        assert!(!text.contains("canary"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_table_nothing_is_connected_whatever_the_environment_says() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    relay("", 10, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &url)]).await;
    let waiting = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
    assert!(waiting.is_err(), "somebody connected");
}
