//! `check --connect`: whether the consumer could be worked with. Nothing is taken, nothing is made.

use std::sync::Arc;

use parking_lot::Mutex;

use super::consumer::{self, Binding};
use crate::config::nats::JetStreamConfig;
use crate::config::source::Limits;
use crate::nats::{Change, Dialer};
use crate::probe::{Complaint, Found, Step};

/// What would take messages, or make a consumer.
const UNTRIED: &str = "stream and consumer may be asked for; whether messages may be pulled and acknowledged was not tried, as that would take them";

/// Tries the server, the stream and the consumer, and says what is there.
pub async fn probe(config: &JetStreamConfig, limits: Limits) -> Result<Found, Complaint> {
    let complaint = Arc::<Mutex<Option<Complaint>>>::default();
    let heard = Arc::clone(&complaint);
    let connection = &config.connection;
    let words = connection.clone();
    let told = move |change| {
        if let Change::Complaint(trouble) = change {
            *heard.lock() = Some(trouble.complaint(&words));
        }
    };
    let dialer = Dialer::new(connection, "check");
    let dialer = dialer.map_err(|error| Complaint::of_words(Step::Tls, &error.to_string()))?;
    let client = dialer.visit(told).await;
    let client = client.map_err(|trouble| trouble.complaint(connection))?;
    let binding = Binding::new(client, config);
    let found = look(&binding, config, limits).await;
    // What the server complains of says more than that there was no answer.
    found.map_err(|why| {
        let said = complaint.lock().take();
        said.unwrap_or_else(|| Complaint::of_words(Step::Exists, &why))
    })
}

async fn look(
    binding: &Binding,
    config: &JetStreamConfig,
    limits: Limits,
) -> Result<Found, String> {
    let wanted = consumer::wanted(config, limits);
    let (stream, durable) = (&config.stream, &config.durable);
    let info = binding.look(&wanted, limits).await?;
    // A user who may not ask for the state of the stream can work with a consumer all the same.
    let is_asked = info.as_ref().is_none_or(|info| !consumer::takes_all(&info.config));
    let state = if is_asked { binding.stream().await.ok() } else { None };
    let what = match &info {
        None => {
            let why = state.as_ref().and_then(|it| consumer::unmakeable(&wanted, &it.config));
            if let Some(why) = why {
                return Err(format!(
                    "the consumer `{durable}` of the stream `{stream}` can't be created: {why}"
                ));
            }
            let messages = state.as_ref().map(|stream| stream.state.messages);
            let messages =
                messages.map_or(String::new(), |count| format!(" with {count} messages"));
            format!(
                "the stream `{stream}`{messages}; the consumer `{durable}` is yet to be created"
            )
        }
        Some(info) => format!(
            "the consumer `{durable}` of the stream `{stream}` with {} messages to come and {} not acknowledged",
            info.num_pending, info.num_ack_pending
        ),
    };
    let consumer = info.as_ref().map_or(&wanted, |info| &info.config);
    let astray = state.and_then(|stream| consumer::astray(consumer, &stream.config));
    let warned = astray.map(|why| Complaint::of_words(Step::Exists, &why));
    Ok(Found { what, untried: Some((Step::Allowed, UNTRIED)), warned })
}
