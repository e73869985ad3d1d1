//! A message as the broker sent it, and what acknowledges it.

use bytes::Bytes;

use crate::message::HEADER_ENTRY;

/// A message of either version. The payload shares the read buffer: copy what is kept.
pub(in super::super) struct Incoming {
    pub(in super::super) topic: Bytes,
    pub(in super::super) payload: Bytes,
    pub(in super::super) qos: u8,
    pub(in super::super) retain: bool,
    pub(in super::super) duplicate: bool,
    pub(in super::super) packet_id: u16,
    /// Of the subscriptions that it was sent for.
    pub(in super::super) identifiers: Vec<usize>,
    /// What only version 5 has, if it has any of it.
    pub(in super::super) extras: Option<Box<Extras>>,
}

/// What a publisher can say of a message in version 5.
#[derive(Default, PartialEq, Eq)]
pub(in super::super) struct Extras {
    pub(in super::super) user_properties: Vec<(String, String)>,
    pub(in super::super) content_type: Option<String>,
    pub(in super::super) response_topic: Option<String>,
    pub(in super::super) correlation_data: Option<Bytes>,
    /// It is of no use after so many seconds more.
    pub(in super::super) expires_in: Option<u32>,
}

/// What acknowledges a message, by its packet id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Ack {
    /// PUBACK, of QoS 1.
    PubAck(u16),
    /// PUBREC, of QoS 2: what it is about was published. What follows, PUBREL and PUBCOMP, only frees the
    /// packet id, and is left to the client library.
    PubRec(u16),
}

impl Incoming {
    /// The bytes that it is charged for.
    pub(in super::super) fn size(&self) -> usize {
        let extras = self.extras.as_ref().map_or(0, |extras| {
            let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
            let property =
                |(name, value): &(String, String)| HEADER_ENTRY + name.len() + value.len();
            let properties = extras.user_properties.iter().map(property);
            properties.sum::<usize>()
                + text(&extras.content_type)
                + text(&extras.response_topic)
                + extras.correlation_data.as_ref().map_or(0, Bytes::len)
        });
        self.payload.len() + self.topic.len() + extras
    }

    /// What acknowledges it, if anything does.
    pub(in super::super) fn ack(&self) -> Option<Ack> {
        match self.qos {
            0 => None,
            1 => Some(Ack::PubAck(self.packet_id)),
            _ => Some(Ack::PubRec(self.packet_id)),
        }
    }
}

impl Ack {
    /// Its packet id.
    pub(in super::super) fn packet_id(self) -> u16 {
        match self {
            Self::PubAck(packet_id) | Self::PubRec(packet_id) => packet_id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_of_nothing_are_charged() {
        let empty = (String::new(), String::new());
        let extras = Extras { user_properties: vec![empty; 60_000], ..Extras::default() };
        let incoming = Incoming {
            topic: Bytes::from_static(b"a"),
            payload: Bytes::new(),
            qos: 1,
            retain: false,
            duplicate: false,
            packet_id: 1,
            identifiers: Vec::new(),
            extras: Some(Box::new(extras)),
        };
        // What the list of them takes.
        assert!(incoming.size() >= 60_000 * size_of::<(String, String)>(), "{}", incoming.size());
    }
}
