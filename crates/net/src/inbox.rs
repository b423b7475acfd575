//! Where the threads that wait for replies leave them, until [`Network::poll`](crate::Network::poll) delivers them.
//!
//! For systems without receive timestamps from the kernel: a thread that does nothing but receive reads the clock right
//! after, however busy the engine's thread is. Bounded: what does not fit is counted as dropped.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use traceroute_wire::{Ignored, Reply};

use crate::{Answer, ConnectionId, NetError, NetworkEvent, Time, Token};

/// What a thread has to tell.
#[derive(Debug)]
pub(crate) enum Item {
    /// A decoded packet.
    Reply { reply: Reply, at: Time },
    /// A packet that is no reply.
    Ignored(Ignored),
    /// The system matched an answer to its probe.
    Answered { token: Token, answer: Answer, at: Time },
    /// A connection is open.
    Connected(ConnectionId),
    /// A connection could not be opened.
    ConnectFailed(ConnectionId, NetError),
}

impl Item {
    /// Whether the item may be dropped for want of room. The others are at most one for each call of the engine.
    fn is_droppable(&self) -> bool {
        matches!(
            self,
            Item::Reply { .. } | Item::Ignored(_) | Item::Answered { .. }
        )
    }

    /// Hands the item to the engine.
    pub(crate) fn deliver(self, events: &mut dyn FnMut(NetworkEvent<'_>)) {
        events(match &self {
            Item::Reply { reply, at } => NetworkEvent::Reply { reply, at: *at },
            Item::Ignored(reason) => NetworkEvent::Ignored(*reason),
            Item::Answered { token, answer, at } => NetworkEvent::Answered {
                token: *token,
                answer: *answer,
                at: *at,
            },
            Item::Connected(id) => NetworkEvent::Connected(*id),
            Item::ConnectFailed(id, error) => NetworkEvent::ConnectFailed(*id, error.duplicate()),
        });
    }
}

/// A queue with any number of writers and one reader.
#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    changed: Condvar,
    capacity: usize,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Item>,
    woken: bool,
    broken: Option<NetError>,
    packets: u64,
    dropped: u64,
}

impl Inbox {
    /// An empty queue for at most `capacity` packets.
    pub(crate) fn new(capacity: usize) -> Self {
        Inbox {
            state: Mutex::default(),
            changed: Condvar::new(),
            capacity,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an item.
    pub(crate) fn push(&self, item: Item) {
        let mut state = self.state();
        state.packets += u64::from(matches!(item, Item::Reply { .. } | Item::Ignored(_)));
        if item.is_droppable() && state.items.len() >= self.capacity {
            state.dropped += 1;
            return;
        }
        state.items.push_back(item);
        self.changed.notify_one();
    }

    /// Nothing more can be received: every [`Inbox::take`] from now on says so.
    pub(crate) fn break_down(&self, error: NetError) {
        self.state().broken.get_or_insert(error);
        self.changed.notify_one();
    }

    /// Adds packets that the system has dropped.
    pub(crate) fn count_drops(&self, packets: u64) {
        let mut state = self.state();
        state.dropped = state.dropped.saturating_add(packets);
    }

    /// Makes a running or the next [`Inbox::take`] return early.
    pub(crate) fn wake(&self) {
        self.state().woken = true;
        self.changed.notify_one();
    }

    /// Waits until there is something, at most `timeout` (`None`: without limit), then moves up to `limit` items to the
    /// end of `batch`.
    ///
    /// # Errors
    /// What [`Inbox::break_down`] was told, once all items before it are taken.
    pub(crate) fn take(
        &self,
        timeout: Option<Duration>,
        limit: usize,
        batch: &mut Vec<Item>,
    ) -> Result<(), NetError> {
        let mut state = self.state();
        let is_idle = |state: &mut State| state.items.is_empty() && !state.woken && state.broken.is_none();
        if is_idle(&mut state) && timeout != Some(Duration::ZERO) {
            state = match timeout {
                None => self
                    .changed
                    .wait_while(state, is_idle)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(timeout) => {
                    self.changed
                        .wait_timeout_while(state, timeout, is_idle)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
        state.woken = false;
        if state.items.is_empty()
            && let Some(error) = &state.broken
        {
            return Err(error.duplicate());
        }
        let count = state.items.len().min(limit);
        batch.extend(state.items.drain(..count));
        Ok(())
    }

    /// Packets received and packets dropped, so far.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let state = self.state();
        (state.packets, state.dropped)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::thread;

    use super::*;
    use crate::Operation;

    fn take(inbox: &Inbox, timeout: Option<Duration>, limit: usize) -> Vec<Item> {
        let mut batch = Vec::new();
        inbox.take(timeout, limit, &mut batch).expect("not broken");
        batch
    }

    #[test]
    fn items_come_in_order_and_in_batches() {
        let inbox = Inbox::new(10);
        for id in 0..5 {
            inbox.push(Item::Connected(ConnectionId(id)));
        }
        let ids = |items: Vec<Item>| -> Vec<u64> {
            items
                .into_iter()
                .map(|item| match item {
                    Item::Connected(ConnectionId(id)) => id,
                    other => panic!("{other:?}"),
                })
                .collect()
        };
        assert_eq!(ids(take(&inbox, None, 3)), [0, 1, 2]);
        assert_eq!(ids(take(&inbox, None, 3)), [3, 4]);
        assert!(take(&inbox, Some(Duration::ZERO), 3).is_empty());
    }

    #[test]
    fn packets_that_do_not_fit_are_counted_but_outcomes_of_connections_are_kept() {
        let inbox = Inbox::new(2);
        for _ in 0..5 {
            inbox.push(Item::Ignored(Ignored::Malformed));
        }
        inbox.push(Item::Connected(ConnectionId(1)));
        inbox.count_drops(10);
        assert_eq!(inbox.counts(), (5, 13));
        assert_eq!(take(&inbox, None, 10).len(), 3);
    }

    #[test]
    fn a_waiting_reader_is_woken_by_items_and_by_the_waker() {
        let inbox = Arc::new(Inbox::new(10));
        let writer = Arc::clone(&inbox);
        let thread = thread::spawn(move || writer.push(Item::Connected(ConnectionId(7))));
        assert_eq!(take(&inbox, None, 10).len(), 1);
        thread.join().expect("writer");

        let waker = Arc::clone(&inbox);
        let thread = thread::spawn(move || waker.wake());
        assert!(take(&inbox, None, 10).is_empty());
        thread.join().expect("waker");
    }

    #[test]
    fn a_wake_before_waiting_is_not_lost_and_counts_once() {
        let inbox = Inbox::new(10);
        inbox.wake();
        assert!(take(&inbox, None, 10).is_empty());
        assert!(take(&inbox, Some(Duration::from_millis(1)), 10).is_empty());
    }

    #[test]
    fn a_broken_inbox_delivers_what_came_before() {
        let inbox = Inbox::new(10);
        inbox.push(Item::Ignored(Ignored::Truncated));
        inbox.break_down(NetError::new(
            Operation::Receive,
            None,
            io::Error::from_raw_os_error(9),
        ));
        assert_eq!(take(&inbox, None, 10).len(), 1);
        for _ in 0..2 {
            let error = inbox
                .take(None, 10, &mut Vec::new())
                .expect_err("broken for good");
            assert_eq!(error.operation, Operation::Receive);
        }
    }
}
