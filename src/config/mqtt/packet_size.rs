//! `max_packet_size` of an MQTT source.

use crate::config::common::Common;
use crate::config::reader::{Kind, Problem, Setting, Table, contrast, impossible, show_size};

const MAX_PACKET_SIZE: u64 = 300_000;

/// A frame of a WebSocket that is larger ends the connection: the client library takes none.
const LARGEST_FRAME: u64 = 16 << 20;

/// The largest packet MQTT knows: a remaining length of 268,435,455 and its header.
const LARGEST_PACKET: u64 = 268_435_460;

/// Reads `max_packet_size` of a source that takes a WebSocket or not.
pub(super) fn packet_size(
    table: &mut Table<'_>,
    common: &Common,
    websocket: bool,
) -> Option<Setting<u64>> {
    let ledger = table.ledger;
    let packet = table.size("max_packet_size").then(|size| {
        if websocket && size.value > LARGEST_FRAME {
            let message = "`max_packet_size` is more than comes over a WebSocket";
            let hint = format!(
                "it is 1B to {} with `ws://` and `wss://`; larger messages come over TCP: `mqtts://`",
                show_size(LARGEST_FRAME)
            );
            return ledger.refuse(Problem::new(Kind::BadValue, Some(size.span), message).help(hint));
        }
        if (1..=LARGEST_PACKET).contains(&size.value) {
            return Some(size.value);
        }
        let message = "`max_packet_size` is beyond what MQTT can say";
        let hint = format!("it is 1B to {}", show_size(LARGEST_PACKET));
        ledger.refuse(Problem::new(Kind::BadValue, Some(size.span), message).help(hint))
    });
    let packet = packet.or(MAX_PACKET_SIZE)?;
    if let Some(bytes) = &common.bytes
        && packet.value > bytes.value
    {
        let settings = [("max_packet_size", &packet), ("max_in_flight_bytes", bytes)];
        let message = contrast(settings, show_size);
        let problem = impossible(message, &packet, bytes, "room for this much");
        ledger.report(problem.help(
            "`max_packet_size` <= `max_in_flight_bytes`: else there are messages that are never taken",
        ));
    }
    Some(packet)
}
