//! What a server says of a pull request instead of a message. Pure.

use async_nats::{HeaderMap, StatusCode};

/// The server's words for a message that does not fit into the bytes of a request.
const TOO_LARGE: &str = "Message Size Exceeds MaxBytes";

/// What a status message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::source::jetstream) enum Status {
    /// There is nothing new, and the server is there.
    Heartbeat,
    /// A request has ended, and so many of its messages will not come.
    Ended(usize),
    /// As [`Ended`](Self::Ended), since the next message has more bytes than the request may still bring.
    Exceeded(usize),
    /// A request has ended, and it is not said with how many: all have to be made anew.
    Lost(String),
    /// The consumer or its stream is gone.
    Gone,
    /// The server does not take such requests.
    Refused(String),
}

impl Status {
    /// Reads a message; `None` if it is one of the stream. Those have a subject for their acknowledgement, whatever
    /// status a publisher wrote into their headers; what the server itself says has none.
    pub(in crate::source::jetstream) fn of(message: &async_nats::Message) -> Option<Self> {
        if message.reply.is_some() {
            return None;
        }
        let status = message.status.filter(|status| *status != StatusCode::OK)?;
        let text = message.description.as_deref().unwrap_or("no reason given");
        Some(Self::read(status.as_u16(), text, message.headers.as_ref()))
    }

    fn read(status: u16, text: &str, headers: Option<&HeaderMap>) -> Self {
        let pending = || {
            let left = headers?.get("Nats-Pending-Messages")?;
            left.as_str().parse().ok()
        };
        let words = || text.to_owned();
        match status {
            100 => Self::Heartbeat,
            // Nobody hears: the stream is gone, or its server, or JetStream is off.
            503 => Self::Gone,
            409 if text == "Consumer Deleted" => Self::Gone,
            400 | 423 => Self::Refused(words()),
            409 if text.starts_with("Exceeded ") || text == "Consumer is push based" => {
                Self::Refused(words())
            }
            409 if text == TOO_LARGE
                && let Some(left) = pending() =>
            {
                Self::Exceeded(left)
            }
            _ => pending().map_or_else(|| Self::Lost(words()), Self::Ended),
        }
    }
}

#[cfg(test)]
mod tests {
    use async_nats::Message;

    use super::*;

    #[test]
    fn what_a_publisher_wrote_is_no_status() {
        let of = |reply: Option<&str>| {
            Status::of(&Message {
                subject: "in.1.data".into(),
                reply: reply.map(Into::into),
                payload: "".into(),
                headers: None,
                status: Some(StatusCode::NO_RESPONDERS),
                description: None,
                length: 0,
            })
        };
        assert_eq!(of(None), Some(Status::Gone));
        assert_eq!(of(Some("$JS.ACK.S.c.1.17.23.0.5")), None);
    }

    #[test]
    fn every_status_is_understood() {
        let with = |left: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Pending-Messages", left);
            headers
        };
        for (status, text, left, said) in [
            (100, "Idle Heartbeat", None, Status::Heartbeat),
            (408, "Request Timeout", Some("17"), Status::Ended(17)),
            (409, TOO_LARGE, Some("3"), Status::Exceeded(3)),
            (409, TOO_LARGE, None, Status::Lost(TOO_LARGE.into())),
            (409, "Leadership Change", Some("3"), Status::Ended(3)),
            (409, "Server Shutdown", None, Status::Lost("Server Shutdown".into())),
            (409, "Batch Completed", Some("x"), Status::Lost("Batch Completed".into())),
            (409, "Consumer Deleted", None, Status::Gone),
            (503, "", None, Status::Gone),
            (400, "Bad Request", None, Status::Refused("Bad Request".into())),
            (
                409,
                "Exceeded MaxRequestBatch of 10",
                None,
                Status::Refused("Exceeded MaxRequestBatch of 10".into()),
            ),
            (409, "Exceeded MaxWaiting", None, Status::Refused("Exceeded MaxWaiting".into())),
        ] {
            let headers = left.map(with);
            assert_eq!(Status::read(status, text, headers.as_ref()), said, "{status} {text}");
        }
    }
}
