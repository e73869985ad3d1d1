//! What the Event API is, as far as a client and an emulator must agree on it: its limits, the
//! grammar of a channel, an event, the wire shapes and the signature.
//!
//! Facts come from the AWS AppSync Events developer guide and from public test suites that ran
//! against the service. Nothing here does I/O.

pub mod channel;
pub mod event;
pub mod sign;
pub mod wire;

pub use channel::{Channel, ChannelError, Segment};
pub use event::{Event, EventError};

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
