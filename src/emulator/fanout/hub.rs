//! The table of subscriptions, and the look-up of those that match a channel. Pure: no sockets, no
//! locks, no clock.
//!
//! `/a/b` matches that channel alone, `/a/*` everything at any depth below `/a` and not `/a` itself.
//! Guesses, where the documents of AWS are silent: `/*` and `**` are refused, `*` counts as one of the
//! five segments, and a second subscription with the id of a live one on the same connection is
//! refused.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use crate::event_api::{Channel, ChannelError, MAX_SEGMENTS, MAX_SOCKET_SUBSCRIPTIONS};

/// The id of a WebSocket connection, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// The channel or the channels of a subscription.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Pattern {
    base: Channel,
    deep: bool,
}

/// A subscription that matches a channel.
#[derive(Clone, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub(crate) struct Target {
    /// The socket.
    pub(crate) connection: ConnectionId,
    /// The id of the subscription, chosen by its client.
    pub(crate) subscription: Arc<str>,
}

/// Why a subscription was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SubscribeError {
    /// The connection has a live subscription of that id.
    Duplicate,
    /// The connection has [`MAX_SOCKET_SUBSCRIPTIONS`].
    TooMany,
}

/// All live subscriptions.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    exact: HashMap<Box<str>, Vec<Target>>,
    /// By the part before `/*`.
    deep: HashMap<Box<str>, Vec<Target>>,
    /// The subscriptions of each connection. Ids are unique within a connection only: a client that
    /// reconnects sends its old ids again.
    connections: HashMap<ConnectionId, HashMap<Arc<str>, Pattern>>,
}

impl Pattern {
    /// Parses a channel that may end in `/*`.
    pub(crate) fn parse(text: &str) -> Result<Self, ChannelError> {
        let trimmed = text.strip_suffix('/').unwrap_or(text);
        let Some(base) = trimmed.strip_suffix("/*") else {
            return Ok(Self { base: Channel::parse(text)?, deep: false });
        };
        if base.ends_with('/') {
            return Err(ChannelError::Empty);
        }
        let base = Channel::parse(base)?;
        if base.segments().count() >= MAX_SEGMENTS {
            return Err(ChannelError::TooManySegments);
        }
        Ok(Self { base, deep: true })
    }

    /// The first segment.
    pub(crate) fn namespace(&self) -> &str {
        self.base.namespace()
    }
}

impl Hub {
    /// Adds a subscription.
    pub(crate) fn subscribe(
        &mut self,
        connection: ConnectionId,
        subscription: &str,
        pattern: Pattern,
    ) -> Result<(), SubscribeError> {
        let held = self.connections.entry(connection).or_default();
        if held.contains_key(subscription) {
            return Err(SubscribeError::Duplicate);
        }
        if held.len() >= MAX_SOCKET_SUBSCRIPTIONS {
            return Err(SubscribeError::TooMany);
        }
        let subscription: Arc<str> = subscription.into();
        let side = if pattern.deep { &mut self.deep } else { &mut self.exact };
        let target = Target { connection, subscription: Arc::clone(&subscription) };
        side.entry(pattern.base.as_str().into()).or_default().push(target);
        held.insert(subscription, pattern);
        Ok(())
    }

    /// Ends a subscription; `false` if the connection has none of that id.
    pub(crate) fn unsubscribe(&mut self, connection: ConnectionId, subscription: &str) -> bool {
        let Some(held) = self.connections.get_mut(&connection) else {
            return false;
        };
        let Some(pattern) = held.remove(subscription) else {
            return false;
        };
        self.forget(connection, subscription, &pattern);
        true
    }

    /// Ends all subscriptions of a connection.
    pub(crate) fn leave(&mut self, connection: ConnectionId) {
        for (subscription, pattern) in self.connections.remove(&connection).unwrap_or_default() {
            self.forget(connection, &subscription, &pattern);
        }
    }

    /// The subscriptions that match `channel`; two on one socket both get the event.
    pub(crate) fn publish(&self, channel: &Channel) -> Vec<Target> {
        let text = channel.as_str();
        let mut targets = self.exact.get(text).cloned().unwrap_or_default();
        if !self.deep.is_empty() {
            // The text before each slash but the first may be the base of a `/*`.
            for (at, _) in text.match_indices('/').skip(1) {
                targets.extend_from_slice(self.deep.get(&text[..at]).map_or(&[], Vec::as_slice));
            }
        }
        targets
    }

    /// The number of subscriptions to each channel or `/*`, in the order of their names.
    pub(crate) fn counts(&self) -> Vec<(String, usize)> {
        let exact = self.exact.iter().map(|(name, targets)| (name.to_string(), targets.len()));
        let deep = self.deep.iter().map(|(name, targets)| (format!("{name}/*"), targets.len()));
        let mut counts: Vec<_> = exact.chain(deep).collect();
        counts.sort();
        counts
    }

    fn forget(&mut self, connection: ConnectionId, subscription: &str, pattern: &Pattern) {
        let side = if pattern.deep { &mut self.deep } else { &mut self.exact };
        if let Entry::Occupied(mut targets) = side.entry(pattern.base.as_str().into()) {
            let is_it = |t: &Target| t.connection == connection && &*t.subscription == subscription;
            targets.get_mut().retain(|target| !is_it(target));
            if targets.get().is_empty() {
                targets.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: ConnectionId = ConnectionId(1);
    const TWO: ConnectionId = ConnectionId(2);

    fn subscribe(hub: &mut Hub, connection: ConnectionId, id: &str, pattern: &str) {
        hub.subscribe(connection, id, Pattern::parse(pattern).unwrap()).unwrap();
    }

    fn matches(hub: &Hub, channel: &str) -> Vec<String> {
        let mut ids: Vec<String> = hub
            .publish(&Channel::parse(channel).unwrap())
            .into_iter()
            .map(|t| format!("{}:{}", t.connection.0, t.subscription))
            .collect();
        ids.sort();
        ids
    }

    #[test]
    fn a_star_matches_any_depth_below_and_not_the_base() {
        let mut hub = Hub::default();
        subscribe(&mut hub, ONE, "all", "/demo/*");
        subscribe(&mut hub, ONE, "vans", "demo/vans/*");
        subscribe(&mut hub, TWO, "van", "demo/vans/7/");
        subscribe(&mut hub, TWO, "base", "/demo");
        assert_eq!(matches(&hub, "/demo/vans/7"), ["1:all", "1:vans", "2:van"]);
        assert_eq!(matches(&hub, "demo/vans/7/speed"), ["1:all", "1:vans"]);
        assert_eq!(matches(&hub, "demo/vans"), ["1:all"]);
        assert_eq!(matches(&hub, "demo"), ["2:base"]);
        assert_eq!(matches(&hub, "demos/vans"), [""; 0]);
        assert_eq!(matches(&hub, "Demo/vans/7"), [""; 0]);
    }

    #[test]
    fn a_star_stands_alone_at_the_end() {
        for good in ["a/*", "/a/*", "a/*/", "/a/b/c/d/*", "a"] {
            assert!(Pattern::parse(good).is_ok(), "{good}");
        }
        for bad in ["*", "/*", "/*/", "a/**", "a/b*", "a/*/b", "a//*", "/a/b/c/d/e/*", "a/*/*", ""]
        {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_id_is_unique_on_its_connection_and_free_again_after() {
        let mut hub = Hub::default();
        subscribe(&mut hub, ONE, "id", "a/b");
        let again = hub.subscribe(ONE, "id", Pattern::parse("a/c").unwrap());
        assert_eq!(again, Err(SubscribeError::Duplicate));
        subscribe(&mut hub, TWO, "id", "a/b");
        assert_eq!(matches(&hub, "a/b"), ["1:id", "2:id"]);
        assert!(hub.unsubscribe(ONE, "id"));
        assert!(!hub.unsubscribe(ONE, "id"));
        assert_eq!(matches(&hub, "a/b"), ["2:id"]);
        subscribe(&mut hub, ONE, "id", "a/c");
        assert_eq!(matches(&hub, "a/c"), ["1:id"]);
    }

    #[test]
    fn two_hundred_subscriptions_and_no_more() {
        let mut hub = Hub::default();
        for n in 0..MAX_SOCKET_SUBSCRIPTIONS {
            subscribe(&mut hub, ONE, &n.to_string(), "a/b");
        }
        let one_more = hub.subscribe(ONE, "more", Pattern::parse("a/b").unwrap());
        assert_eq!(one_more, Err(SubscribeError::TooMany));
        assert_eq!(hub.publish(&Channel::parse("a/b").unwrap()).len(), MAX_SOCKET_SUBSCRIPTIONS);
    }

    #[test]
    fn a_connection_that_leaves_leaves_nothing() {
        let mut hub = Hub::default();
        subscribe(&mut hub, ONE, "x", "a/b");
        subscribe(&mut hub, ONE, "y", "a/*");
        hub.leave(ONE);
        assert!(hub.exact.is_empty() && hub.deep.is_empty() && hub.connections.is_empty());
    }
}
