//! Who called and what became of it, for the log: one line a refusal, one at `debug` for what was
//! accepted. Nothing that a client shows as a credential stands in it.

use std::fmt::Display;
use std::net::SocketAddr;

use tracing::{debug, warn};

/// Characters of a channel or a path that are shown.
const MOST_SHOWN: usize = 300;

/// A client's connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    /// Where it comes from.
    pub(super) address: SocketAddr,
    /// `http` or `ws`.
    pub(super) transport: &'static str,
}

impl Caller {
    /// Says that `operation`, perhaps on a `channel`, was refused, and what would be right.
    pub(super) fn refused(
        &self,
        operation: &str,
        channel: Option<&str>,
        why: impl Display,
        hint: &str,
    ) {
        let Self { address, transport } = self;
        let channel = channel.map(shown);
        let channel = channel.as_deref();
        warn!(client = %address, transport, operation, channel, %why, hint, "refused");
    }

    /// Says that `operation`, perhaps on a `channel`, was accepted.
    pub(super) fn accepted(&self, operation: &str, channel: Option<&str>) {
        let Self { address, transport } = self;
        let channel = channel.map(shown);
        let channel = channel.as_deref();
        debug!(client = %address, transport, operation, channel, "accepted");
    }
}

/// What a client wrote, on one line and not too long.
fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(MOST_SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(MOST_SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_wrote_stays_on_one_line_and_short() {
        assert_eq!(shown("/demo/a"), "/demo/a");
        assert_eq!(shown("a\nb\u{1b}[31m"), r"a\nb\u{1b}[31m");
        assert_eq!(shown(&"ü".repeat(10_000)).chars().count(), MOST_SHOWN + 1);
    }
}
