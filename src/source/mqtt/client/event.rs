//! What happens on a connection of either protocol version, in the words of both.

use std::time::Duration;

use rumqttc_v4 as v4;
use rumqttc_v5 as v5;

use super::incoming::{Extras, Incoming};
use crate::source::mqtt::subscriptions::Answer;

/// What the broker says when it takes us.
pub(in super::super) struct Welcome {
    pub(in super::super) session_present: bool,
    /// Whether it has subscription identifiers.
    pub(in super::super) identifiers: bool,
    /// How long it keeps the session without a client, if that is not as long as it was asked to.
    pub(in super::super) kept_for: Option<Duration>,
    /// The keep-alive that it wants in place of ours, if it does; 0: none.
    pub(in super::super) keep_alive: Option<Duration>,
}

/// What happened on a connection.
pub(in super::super) enum Event {
    /// The broker took us.
    Connected(Welcome),
    /// The next SUBSCRIBE was written, with this packet id.
    Asked(u16),
    /// What became of the filters of a SUBSCRIBE, by its packet id.
    Subscribed(u16, Vec<Answer>),
    /// A message.
    Publish(Box<Incoming>),
    /// A PUBACK or a PUBREC was written to the socket.
    AckWritten,
    /// A mark was written to the socket.
    MarkWritten(u16),
    /// The broker has read a mark.
    MarkRead(u16),
    /// A ping was written to the socket.
    PingWritten,
    /// The broker has read a ping.
    PingRead,
    /// Our DISCONNECT was written to the socket.
    Disconnected,
    /// Of no interest.
    Other,
}

pub(super) fn from_v3(event: v4::Event) -> Event {
    match event {
        v4::Event::Outgoing(v4::Outgoing::PubAck(_) | v4::Outgoing::PubRec(_)) => Event::AckWritten,
        v4::Event::Outgoing(v4::Outgoing::Unsubscribe(packet_id)) => Event::MarkWritten(packet_id),
        v4::Event::Incoming(v4::Packet::UnsubAck(ack)) => Event::MarkRead(ack.pkid),
        v4::Event::Outgoing(v4::Outgoing::PingReq) => Event::PingWritten,
        v4::Event::Incoming(v4::Packet::PingResp) => Event::PingRead,
        v4::Event::Outgoing(v4::Outgoing::Disconnect) => Event::Disconnected,
        v4::Event::Outgoing(v4::Outgoing::Subscribe(packet_id)) => Event::Asked(packet_id),
        v4::Event::Incoming(v4::Packet::ConnAck(ack)) => Event::Connected(Welcome {
            session_present: ack.session_present,
            identifiers: true,
            kept_for: None,
            keep_alive: None,
        }),
        v4::Event::Incoming(v4::Packet::SubAck(ack)) => {
            let granted = |code: &v4::SubscribeReasonCode| match code {
                v4::SubscribeReasonCode::Success(qos) => Answer::Granted(*qos as u8),
                v4::SubscribeReasonCode::Failure => {
                    Answer::Refused("the broker gives no reason".to_owned())
                }
            };
            Event::Subscribed(ack.pkid, ack.return_codes.iter().map(granted).collect())
        }
        v4::Event::Incoming(v4::Packet::Publish(publish)) => Event::Publish(Box::new(Incoming {
            topic: publish.topic,
            payload: publish.payload,
            qos: publish.qos as u8,
            retain: publish.retain,
            duplicate: publish.dup,
            packet_id: publish.pkid,
            identifiers: Vec::new(),
            extras: None,
        })),
        _ => Event::Other,
    }
}

pub(super) fn from_v5(event: v5::Event) -> Event {
    match event {
        v5::Event::Outgoing(v5::Outgoing::PubAck(_) | v5::Outgoing::PubRec(_)) => Event::AckWritten,
        v5::Event::Outgoing(v5::Outgoing::Unsubscribe(packet_id)) => Event::MarkWritten(packet_id),
        v5::Event::Incoming(v5::Packet::UnsubAck(ack)) => Event::MarkRead(ack.pkid),
        v5::Event::Outgoing(v5::Outgoing::PingReq) => Event::PingWritten,
        v5::Event::Incoming(v5::Packet::PingResp) => Event::PingRead,
        v5::Event::Outgoing(v5::Outgoing::Disconnect) => Event::Disconnected,
        v5::Event::Outgoing(v5::Outgoing::Subscribe(packet_id)) => Event::Asked(packet_id),
        v5::Event::Incoming(v5::Packet::ConnAck(ack)) => {
            let said =
                |of: fn(&v5::ConnAckProperties) -> Option<u64>| of(ack.properties.as_ref()?);
            let available = said(|p| p.subscription_identifiers_available.map(u64::from));
            let kept_for = said(|p| p.session_expiry_interval.map(u64::from));
            let keep_alive = said(|p| p.server_keep_alive.map(u64::from));
            Event::Connected(Welcome {
                session_present: ack.session_present,
                identifiers: available != Some(0),
                kept_for: kept_for.map(Duration::from_secs),
                keep_alive: keep_alive.map(Duration::from_secs),
            })
        }
        v5::Event::Incoming(v5::Packet::SubAck(ack)) => {
            let granted = |code: &v5::SubscribeReasonCode| match code {
                v5::SubscribeReasonCode::Success(qos) => Answer::Granted(*qos as u8),
                v5::SubscribeReasonCode::SubscriptionIdNotSupported => Answer::NoIdentifiers,
                other => Answer::Refused(format!("{other:?}")),
            };
            Event::Subscribed(ack.pkid, ack.return_codes.iter().map(granted).collect())
        }
        v5::Event::Incoming(v5::Packet::Publish(publish)) => {
            let (extras, identifiers) = publish
                .properties
                .map(|p| {
                    let extras = Extras {
                        user_properties: p.user_properties,
                        content_type: p.content_type,
                        response_topic: p.response_topic,
                        correlation_data: p.correlation_data,
                        expires_in: p.message_expiry_interval,
                    };
                    // Most have an identifier, and nothing else.
                    let extras = (extras != Extras::default()).then(|| Box::new(extras));
                    (extras, p.subscription_identifiers)
                })
                .unwrap_or_default();
            Event::Publish(Box::new(Incoming {
                topic: publish.topic,
                payload: publish.payload,
                qos: publish.qos as u8,
                retain: publish.retain,
                duplicate: publish.dup,
                packet_id: publish.pkid,
                identifiers,
                extras,
            }))
        }
        _ => Event::Other,
    }
}
