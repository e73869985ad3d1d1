//! The nats-server of the tests itself.

use async_nats::jetstream::{self, stream};

use crate::support::nats::Nats;

/// What is in a stream outlives a kill, so that no test blames the bridge for what the server forgot.
#[tokio::test]
async fn what_a_stream_confirmed_outlives_a_kill() {
    let mut nats = Nats::start("").await;
    let stream =
        stream::Config { name: "S".into(), subjects: vec!["s".into()], ..Default::default() };
    let context = jetstream::new(nats.client().await);
    context.create_stream(stream).await.unwrap();
    context.publish("s", "one".into()).await.unwrap().await.unwrap();
    nats.kill();
    nats.restart().await;
    let context = jetstream::new(nats.client().await);
    let mut stream = context.get_stream("S").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 1);
}
