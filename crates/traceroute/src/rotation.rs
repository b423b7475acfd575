//! Queues of several clients, served in rotation.

use std::collections::{HashMap, VecDeque};

/// What clients wait for: of each client in the order in which it came, and one of each client in
/// turn. So who comes with one thing waits for no other's thousand.
pub(crate) struct Rotation<T> {
    queues: HashMap<u64, VecDeque<T>>,
    /// Whose queue is not empty.
    order: VecDeque<u64>,
}

impl<T> Rotation<T> {
    pub(crate) fn new() -> Self {
        Rotation {
            queues: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(crate) fn push(&mut self, client: u64, item: T) {
        let queue = self.queues.entry(client).or_default();
        if queue.is_empty() {
            self.order.push_back(client);
        }
        queue.push_back(item);
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        let client = self.order.pop_front()?;
        let queue = self.queues.get_mut(&client)?;
        let item = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&client);
        } else {
            self.order.push_back(client);
        }
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_take_turns_and_each_keeps_its_order() {
        let mut rotation = Rotation::new();
        for (client, item) in [(1, "a1"), (1, "a2"), (1, "a3"), (2, "b1"), (3, "c1"), (2, "b2")] {
            rotation.push(client, item);
        }
        let first: Vec<_> = (0..4).map_while(|_| rotation.pop()).collect();
        assert_eq!(first, ["a1", "b1", "c1", "a2"]);
        rotation.push(3, "c2");
        let rest: Vec<_> = std::iter::from_fn(|| rotation.pop()).collect();
        assert_eq!(rest, ["b2", "a3", "c2"]);
        assert!(rotation.is_empty() && rotation.queues.is_empty());
    }
}
