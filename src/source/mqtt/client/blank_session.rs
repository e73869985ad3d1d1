//! The session of the client for MQTT 5.

use std::future::Future;
use std::pin::Pin;

use rumqttc_v5 as v5;

/// The session of a client that only subscribes: it has no state of its own, so the blank one is the
/// true one. Having "loaded" it, the client accepts that the broker has a session *and* sends
/// SUBSCRIBE; under its other policy it swallows SUBSCRIBE on a resumed session.
#[derive(Debug)]
pub(super) struct BlankSession;

type Loaded<'a, T> = Pin<Box<dyn Future<Output = Result<T, v5::SessionStoreError>> + Send + 'a>>;

impl v5::SessionStore for BlankSession {
    fn load<'a>(
        &'a self,
        key: &'a v5::SessionStoreKey,
    ) -> Loaded<'a, Option<v5::PersistedSession>> {
        // These must equal the options, or the client refuses the session.
        let blank = v5::PersistedSession {
            format_version: 1,
            client_id: key.client_id().into(),
            clean_start: false,
            outgoing_inflight_upper_limit: Some(1),
            ack_mode: v5::PersistedAckMode::Manual,
            session_expiry_interval: None,
            last_pkid: 0,
            last_puback: 0,
            replay: Vec::new(),
            incoming_qos2: Vec::new(),
        };
        Box::pin(async { Ok(Some(blank)) })
    }

    fn save<'a>(
        &'a self,
        _: &'a v5::SessionStoreKey,
        _: &'a v5::PersistedSession,
    ) -> Loaded<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    fn clear<'a>(&'a self, _: &'a v5::SessionStoreKey) -> Loaded<'a, ()> {
        Box::pin(async { Ok(()) })
    }
}
