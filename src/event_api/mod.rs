//! What the Event API is, as far as a client and an emulator must agree on it: its limits, the
//! grammar of a channel, an event, the wire shapes and the signature.
//!
//! Facts come from the AWS AppSync Events developer guide and from public test suites that ran
//! against the service. Nothing here does I/O.

mod answer;
pub mod channel;
pub mod event;
pub mod received;
pub mod sent;
pub mod sign;
pub mod wire;

pub use channel::{Channel, ChannelError, Segment};
pub use event::{EscapedLen, Event, EventError};

/// Events in one publish request (Service Quotas `L-B6E463BF`, not adjustable).
pub const MAX_EVENTS: usize = 5;

/// Bytes of one event's text. AWS says 240 KB and not whether a KB is 1,000 or 1,024 bytes, so the
/// smaller reading.
pub const MAX_EVENT_BYTES: usize = 240_000;

/// Bytes of one publish request's body (Service Quotas `L-16CCBB05`: 1.2 MB), the smaller reading.
pub const MAX_BODY_BYTES: usize = 1_200_000;

/// Segments of a channel, its namespace included (Service Quotas `L-7DE80FA2`).
pub const MAX_SEGMENTS: usize = 5;

/// Characters of one segment (Service Quotas `L-A1CF8F5B`).
pub const MAX_SEGMENT_CHARS: usize = 50;

/// The path of the only action of the HTTP endpoint.
pub const EVENT_PATH: &str = "/event";

/// The path of the WebSocket endpoint.
pub const REALTIME_PATH: &str = "/event/realtime";

/// The subprotocol that both sides of the WebSocket must name.
pub const SUBPROTOCOL: &str = "aws-appsync-event-ws";

/// Before the base64url text of an auth object that travels as a subprotocol.
pub const HEADER_SUBPROTOCOL_PREFIX: &str = "header-";

/// Milliseconds without a frame after which a client should drop the WebSocket.
pub const CONNECTION_TIMEOUT_MS: u32 = 300_000;

/// Publish requests a second on one WebSocket (Service Quotas `L-D33F7C2A`, not adjustable).
pub const MAX_SOCKET_PUBLISHES_PER_SECOND: u32 = 25;

/// Subscriptions on one WebSocket (Service Quotas `L-AA33EB36`; AWS raises it on request).
pub const MAX_SOCKET_SUBSCRIPTIONS: usize = 200;

/// Characters of the id of a subscription or a publish over the WebSocket.
pub const MAX_ID_CHARS: usize = 128;
