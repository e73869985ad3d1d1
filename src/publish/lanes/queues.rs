//! First-in, first-out queues that share one store: an item costs one slot of it, and an empty queue
//! nothing.

use slab::Slab;

/// The items of any number of queues.
#[derive(Debug)]
pub(super) struct Queues<T> {
    nodes: Slab<Node<T>>,
}

/// One queue: where it begins and ends in the store. Belongs to the store that filled it.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// The first and the last node; `None` while it is empty.
    ends: Option<(usize, usize)>,
    len: usize,
}

#[derive(Debug)]
struct Node<T> {
    item: T,
    /// The number of the next node; [`END`] of the last one.
    next: usize,
}

/// No node. Half the size of an `Option`, which gives a node of an entry the size of a cache line.
const END: usize = usize::MAX;

impl Queue {
    /// Its number of items.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<T> Queues<T> {
    /// An empty store.
    pub(super) fn new() -> Self {
        Self { nodes: Slab::new() }
    }

    /// Puts an item at the end.
    pub(super) fn push_back(&mut self, queue: &mut Queue, item: T) {
        let new = self.nodes.insert(Node { item, next: END });
        queue.ends = match queue.ends {
            None => Some((new, new)),
            Some((first, last)) => {
                self.nodes[last].next = new;
                Some((first, new))
            }
        };
        queue.len += 1;
    }

    /// Puts an item at the front.
    pub(super) fn push_front(&mut self, queue: &mut Queue, item: T) {
        let next = queue.ends.map_or(END, |(first, _)| first);
        let new = self.nodes.insert(Node { item, next });
        queue.ends = Some((new, queue.ends.map_or(new, |(_, last)| last)));
        queue.len += 1;
    }

    /// The item at the front.
    pub(super) fn front(&self, queue: &Queue) -> Option<&T> {
        queue.ends.map(|(first, _)| &self.nodes[first].item)
    }

    /// Takes the item at the front.
    pub(super) fn pop_front(&mut self, queue: &mut Queue) -> Option<T> {
        let (first, last) = queue.ends?;
        let Node { item, next } = self.nodes.remove(first);
        queue.ends = (next != END).then_some((next, last));
        queue.len -= 1;
        Some(item)
    }
}

#[cfg(test)]
impl<T> Queues<T> {
    pub(super) fn hold_nothing(&self) -> bool {
        self.nodes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Three queues over one store do what three deques do, and leave nothing behind.
        #[test]
        fn queues_are_deques(steps in prop::collection::vec((0..3_usize, 0..4_u8), 0..200)) {
            let mut store = Queues::new();
            let mut queues: [(Queue, VecDeque<usize>); 3] = Default::default();
            for (number, (which, step)) in steps.into_iter().enumerate() {
                let (queue, deque) = &mut queues[which];
                match step {
                    0 | 1 => {
                        store.push_back(queue, number);
                        deque.push_back(number);
                    }
                    2 => {
                        store.push_front(queue, number);
                        deque.push_front(number);
                    }
                    _ => prop_assert_eq!(store.pop_front(queue), deque.pop_front()),
                }
                prop_assert_eq!(store.front(queue), deque.front());
                prop_assert_eq!((queue.len(), queue.is_empty()), (deque.len(), deque.is_empty()));
            }
            for (queue, deque) in &mut queues {
                while let Some(expected) = deque.pop_front() {
                    prop_assert_eq!(store.pop_front(queue), Some(expected));
                }
                prop_assert_eq!(store.pop_front(queue), None);
            }
            prop_assert!(store.hold_nothing());
        }
    }
}
