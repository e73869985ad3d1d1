//! Dead letters in a stream.

use async_nats::jetstream::stream;
use futures_util::StreamExt as _;

use super::Site;
use crate::support::PATIENCE;
use crate::support::bridge::Setup;
use crate::support::broker::{Broker as _, Sent};
use crate::support::until;

/// A bridge that keeps what can't be published at `rejects.it`.
fn setup(site: &Site) -> Setup {
    setup_at(site, "rejects.it")
}

fn setup_at(site: &Site, subject: &str) -> Setup {
    let tables = format!(
        "{}\n[route.data]\nfrom = \"it\"\nchannel = \"/it/dev-{{json.key}}\"\ndead_letter = \"subject\"\n\
         [dead_letter.subject]\ntype = \"jetstream\"\nsource = \"it\"\nsubject = \"{subject}\"\n",
        site.stream.source()
    );
    Setup::of(&site.emulator.endpoint, "", &tables, "")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reject_is_there_once_with_its_reason_and_nothing_is_acknowledged_before() {
    let site = Site::open("").await;
    let setup = setup(&site);
    let bridge = setup.start().await;
    let bad = |payload: &[u8]| Sent { key: 7, payload: payload.to_vec() };
    site.stream.produce(5_000, vec![bad(b"no json"), bad(b"\xff")]).await;
    until("no stream takes it", PATIENCE, async || {
        let (status, text) = bridge.get("/readyz").await;
        (status == 503 && text.contains("no stream takes it")).then_some(())
    })
    .await;
    assert_eq!(site.stream.acknowledged().await, 0);
    let (_, said) = setup.check().await;
    assert!(
        said.contains("error: dead_letter subject: the subject `rejects.it` can't be written"),
        "{said}"
    );
    let context = site.stream.context().await;
    let rejects = stream::Config {
        name: "R".into(),
        subjects: vec!["rejects.>".into()],
        ..Default::default()
    };
    let mut rejects = context.create_stream(rejects).await.unwrap();
    bridge.ready().await;
    until("both are acknowledged", PATIENCE, async || {
        (site.stream.acknowledged().await == 2).then_some(())
    })
    .await;
    assert_eq!(rejects.info().await.unwrap().state.messages, 2);
    let consumer = async_nats::jetstream::consumer::pull::Config::default();
    let consumer = rejects.create_consumer(consumer).await.unwrap();
    let letters: Vec<_> =
        consumer.fetch().max_messages(2).messages().await.unwrap().collect().await;
    let letters: Vec<_> = letters.into_iter().map(Result::unwrap).collect();
    let header = |at: usize, name: &str| {
        letters[at].headers.as_ref().unwrap().get(name).map(|v| v.as_str().to_owned())
    };
    assert_eq!((&letters[0].payload[..], &letters[1].payload[..]), (&b"no json"[..], &b"\xff"[..]));
    assert_eq!(header(0, "tenant").as_deref(), Some("acme"));
    assert_eq!(header(0, "appsync-bridge.reason").as_deref(), Some("invalid_json"));
    assert_eq!(header(0, "appsync-bridge.topic").as_deref(), Some("in.7.data"));
    assert_eq!(header(1, "appsync-bridge.coordinate.sequence").as_deref(), Some("2"));
    let ids = [header(0, "Nats-Msg-Id").unwrap(), header(1, "Nats-Msg-Id").unwrap()];
    assert_ne!(ids[0], ids[1]);
    // Written again by a bridge that knows nothing of it, it is known to the stream.
    drop(bridge);
    let stream = context.get_stream("IT").await.unwrap();
    stream.delete_consumer("bridge").await.unwrap();
    let bridge = setup.start_ready().await;
    bridge
        .metric_is("source_settled_total{source=\"it\",outcome=\"dead_lettered\"}", |v| v == 2.0)
        .await;
    assert_eq!(rejects.info().await.unwrap().state.messages, 2);
    let (good, said) = setup.check().await;
    assert!(said.contains("the subject `rejects.it` of the stream `R`"), "{good} {said}");
}

/// Which subjects a stream has only the server knows: of a source without `subjects` the file does not tell.
#[tokio::test(flavor = "multi_thread")]
async fn a_subject_of_the_stream_that_the_source_takes_whole_is_refused_before_the_first_reject() {
    let site = Site::open("").await;
    let setup = setup_at(&site, "in.rejects");
    let words = "`it` takes the whole stream `IT`, which has this subject";
    let (good, said) = setup.check().await;
    assert!(!good && said.contains(words) && said.contains("say in `subjects`"), "{said}");
    let bridge = setup.start().await;
    until("it says so", PATIENCE, async || {
        let (status, text) = bridge.get("/readyz").await;
        (status == 503 && text.contains(words)).then_some(())
    })
    .await;
    site.stream.produce(5_000, vec![Sent { key: 7, payload: b"no json".to_vec() }]).await;
    bridge.metric_is("source_received_total{source=\"it\"}", |v| v == 1.0).await;
    let client = site.stream.client().await;
    client.flush().await.unwrap();
    assert_eq!((site.stream.acknowledged().await, site.stream.state().await.messages), (0, 1));
    drop(bridge);
    // With `subjects` it is known, and goes on.
    let text = std::fs::read_to_string(setup.config()).unwrap();
    let text = text.replace("durable = ", "subjects = \"in.*.data\"\ndurable = \"other\"\n#");
    std::fs::write(setup.config(), text).unwrap();
    let (good, said) = setup.check().await;
    assert!(good && said.contains("the subject `in.rejects` of the stream `IT`"), "{said}");
    let bridge = setup.start_ready().await;
    let dead = "source_settled_total{source=\"it\",outcome=\"dead_lettered\"}";
    bridge.metric_is(dead, |v| v == 1.0).await;
    assert_eq!(site.stream.state().await.messages, 2);
}
