//! What a message is known by while it is ours.

use std::sync::Arc;

use crate::message::OrderKey;

/// One message, as it was received last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Receipt {
    /// Its place in the order in which this source received its messages for the first time.
    pub(super) order: u64,
    /// The message's id, the same whenever it is received.
    pub(super) id: Arc<str>,
    /// What SQS is told of it by; every receive makes a new one, and only the newest is sure to count.
    pub(super) handle: Arc<str>,
    /// Its group, of a FIFO queue.
    pub(super) group: Option<OrderKey>,
}

impl Receipt {
    /// Whether it comes after another of its own group.
    pub(super) fn follows(&self, other: &Self) -> bool {
        self.group.is_some() && self.group == other.group && self.order > other.order
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn receipt(order: u64, group: Option<&str>) -> Receipt {
        Receipt {
            order,
            id: format!("id-{order}").into(),
            handle: format!("handle-{order}").into(),
            group: group.map(|group| group.as_bytes().into()),
        }
    }

    #[test]
    fn only_what_is_ordered_follows() {
        let of = |order, group| receipt(order, group);
        assert!(of(2, Some("a")).follows(&of(1, Some("a"))));
        assert!(!of(1, Some("a")).follows(&of(2, Some("a"))));
        assert!(!of(2, Some("b")).follows(&of(1, Some("a"))));
        assert!(!of(2, None).follows(&of(1, None)));
    }
}
