//! Whether a server can be reached, lets us in and grants the subscriptions: for `check --connect`.
//!
//! A running bridge is not disturbed: each subscription is ended as soon as it was asked for, and none is in its queue
//! group, of which it would take a share. What comes in between is a copy, and is dropped.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::config::nats::NatsConfig;
use crate::nats::{Change, Dialer, Kind, Trouble, confirmed};
use crate::probe::{Complaint, Step};

/// The server has this long in all.
const PATIENCE: Duration = Duration::from_secs(15);

/// Says what is there, or why the source could not work: a clause, and a hint where there is one.
pub async fn probe(config: &NatsConfig) -> Result<String, Complaint> {
    let dialer = Dialer::new(&config.connection, "check");
    let dialer = dialer.map_err(|error| Complaint::of_words(Step::Tls, &error.to_string()))?;
    let asked = timeout(PATIENCE, ask(&dialer, config)).await;
    asked
        .unwrap_or_else(|_| Err(Trouble::silent("the server does not answer")))
        .map_err(|trouble| complaint(&trouble, config))
}

async fn ask(dialer: &Dialer, config: &NatsConfig) -> Result<String, Trouble> {
    let (complaints, closed) = (Arc::<Mutex<Vec<Trouble>>>::default(), Arc::new(Notify::new()));
    let (heard, end) = (Arc::clone(&complaints), Arc::clone(&closed));
    let client = dialer.visit(move |change| match change {
        Change::Complaint(trouble) => heard.lock().push(trouble),
        Change::Closed => end.notify_one(),
        _ => {}
    });
    let client = client.await?;
    let gone = |_| Trouble::closed();
    for subject in &config.subjects {
        let mut subscriber =
            client.subscribe(subject.clone()).await.map_err(|_| Trouble::closed())?;
        subscriber.drain().await.map_err(|_| Trouble::closed())?;
    }
    confirmed(&client).await;
    let info = client.server_info();
    // What was complained of before is told before its end.
    client.drain().await.map_err(gone)?;
    closed.notified().await;
    let complaints = std::mem::take(&mut *complaints.lock());
    if let Some(first) = complaints.first() {
        let all: Vec<_> = complaints.iter().map(|trouble| trouble.what.as_str()).collect();
        return Err(Trouble { what: all.join(", "), kind: first.kind });
    }
    let s = if config.subjects.len() == 1 { "" } else { "s" };
    let (version, count) = (&info.version, config.subjects.len());
    Ok(format!("nats-server {version}, {count} subscription{s} granted, at most once"))
}

fn complaint(trouble: &Trouble, config: &NatsConfig) -> Complaint {
    let mut complaint = trouble.complaint(&config.connection);
    if trouble.kind == Kind::Permission && config.queue.is_some() {
        complaint.remedy.push_str(
            "; tried without the `queue` group, so as to take nothing from a running bridge: a server that \
             allows it in the group only refuses this one only",
        );
    }
    complaint
}
