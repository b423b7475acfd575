//! Where the threads that wait for replies leave them, until
//! [`Network::poll`](traceroute_engine::Network::poll) delivers them.
//!
//! For systems without receive timestamps from the kernel: a thread that does nothing but receive
//! reads the clock right after, however busy the engine's thread is. Bounded: what does not fit is
//! counted as dropped.
//!
//! What is captured is all that the host receives of some protocols. What cannot answer a probe is
//! only counted here: it neither takes the place of replies nor wakes the engine.

mod watched;

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use traceroute_engine::{ConnectionId, MatchedReply, NetError, NetworkEvent, Time, Token, Transport};
use traceroute_wire::{Checksums, Ignored, Reply, ReplyKind, decode};

use watched::WatchedPorts;

/// What a thread has to tell.
#[derive(Debug)]
pub(crate) enum Item {
    /// A decoded packet.
    Reply { reply: Reply, at: Time },
    /// The system matched an answer to its probe.
    Answered {
        token: Token,
        answer: MatchedReply,
        at: Time,
    },
    /// A connection is open.
    Connected(ConnectionId),
    /// A connection could not be opened.
    ConnectFailed(ConnectionId, NetError),
}

impl Item {
    /// Whether the item may be dropped when there is no room. The others are at most one for each
    /// call of the engine.
    fn is_droppable(&self) -> bool {
        matches!(self, Item::Reply { .. } | Item::Answered { .. })
    }

    /// Hands the item to the engine.
    pub(crate) fn deliver(self, events: &mut dyn FnMut(NetworkEvent<'_>)) {
        events(match &self {
            Item::Reply { reply, at } => NetworkEvent::Reply { reply, at: *at },
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

/// Packets that are no reply, by [`Ignored::index`].
pub(crate) type IgnoredCounts = [u64; Ignored::ALL.len()];

/// A queue with any number of writers and one reader.
#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    changed: Condvar,
    capacity: usize,
    watched: WatchedPorts,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Item>,
    woken: bool,
    broken: Option<NetError>,
    packets: u64,
    dropped: u64,
    /// Not yet taken.
    ignored: IgnoredCounts,
}

impl Inbox {
    /// An empty queue for at most `capacity` packets.
    pub(crate) fn new(capacity: usize) -> Self {
        Inbox {
            state: Mutex::default(),
            changed: Condvar::new(),
            capacity,
            watched: WatchedPorts::new(),
        }
    }

    /// The ports that captured segments and datagrams may be for.
    pub(crate) fn watched(&self) -> &WatchedPorts {
        &self.watched
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a captured packet, which arrived `at`, or counts it when it is no reply.
    ///
    /// Checksums of TCP and UDP are not verified: on loopback nobody computes them, and segments
    /// that the network card has merged have none that is right.
    pub(crate) fn receive(&self, packet: &[u8], at: Time) {
        match decode(packet, Checksums::Offloaded) {
            Ok(reply) if self.may_answer(&reply) => self.push(Item::Reply { reply, at }),
            Ok(_) => self.ignore(Ignored::NotAnAnswer),
            Err(reason) => self.ignore(reason),
        }
    }

    fn may_answer(&self, reply: &Reply) -> bool {
        match &reply.kind {
            ReplyKind::Tcp(tcp) => self.watched.contains(Transport::Tcp, tcp.destination_port),
            ReplyKind::Udp(udp) => self.watched.contains(Transport::Udp, udp.destination_port),
            ReplyKind::IcmpError { .. } | ReplyKind::Echo { .. } => true,
        }
    }

    /// Counts a packet that is no reply.
    pub(crate) fn ignore(&self, reason: Ignored) {
        let mut state = self.state();
        state.packets += 1;
        if let Some(count) = state.ignored.get_mut(reason.index()) {
            *count += 1;
        }
    }

    /// Adds an item.
    pub(crate) fn push(&self, item: Item) {
        let mut state = self.state();
        state.packets += u64::from(matches!(item, Item::Reply { .. }));
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

    /// Waits until there is something, at most `timeout` (`None`: without limit), then moves up to
    /// `limit` items to the end of `batch`.
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

    /// Takes the counts of packets that are no reply, of each reason at most `limit`: the others
    /// are for the next call.
    pub(crate) fn take_ignored(&self, limit: u64) -> IgnoredCounts {
        let mut state = self.state();
        std::array::from_fn(|index| {
            let waiting = state.ignored.get_mut(index);
            waiting.map_or(0, |waiting| {
                let taken = (*waiting).min(limit);
                *waiting -= taken;
                taken
            })
        })
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

    use traceroute_engine::Operation;

    use super::*;

    /// From 192.0.2.1 to 192.0.2.2, with checksums that nobody verifies here.
    const ECHO_REPLY: [u8; 28] = [
        0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, // IPv4
        0, 0, 0xFF, 0xF8, 0, 7, 0, 0, // ICMP
    ];

    /// A datagram from 192.0.2.1 to this port of 192.0.2.2.
    fn datagram(port: u16) -> Vec<u8> {
        let mut packet = vec![
            0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
        ];
        let [high, low] = port.to_be_bytes();
        packet.extend([0, 53, high, low, 0, 8, 0, 0]);
        packet
    }

    /// A SYN-ACK, likewise.
    fn segment(port: u16) -> Vec<u8> {
        let mut packet = vec![
            0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
        ];
        let [high, low] = port.to_be_bytes();
        packet.extend([
            0, 80, high, low, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x12, 0, 1, 0, 0, 0, 0,
        ]);
        packet
    }

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
            inbox.receive(&ECHO_REPLY, Time::from_nanos(1));
        }
        inbox.push(Item::Connected(ConnectionId(1)));
        inbox.count_drops(10);
        assert_eq!(inbox.counts(), (5, 13));
        assert_eq!(take(&inbox, None, 10).len(), 3);
    }

    #[test]
    fn a_flood_of_foreign_packets_neither_wakes_the_engine_nor_takes_the_place_of_replies() {
        let inbox = Inbox::new(2);
        inbox.watched().add(Transport::Udp, 50_000);
        let foreign = [segment(50_000), datagram(50_001), vec![0; 3]];
        for packet in foreign.iter().cycle().take(3000) {
            inbox.receive(packet, Time::from_nanos(1));
        }
        assert!(take(&inbox, Some(Duration::ZERO), 10).is_empty());
        inbox.receive(&datagram(50_000), Time::from_nanos(2));
        let items = take(&inbox, None, 10);
        assert!(matches!(items[..], [Item::Reply { .. }]), "{items:?}");
        assert_eq!(inbox.counts(), (3001, 0));
    }

    #[test]
    fn segments_and_datagrams_are_replies_while_their_port_is_watched() {
        let inbox = Inbox::new(10);
        let replies = |packet: &[u8]| {
            inbox.receive(packet, Time::from_nanos(1));
            take(&inbox, Some(Duration::ZERO), 10).len()
        };
        for (transport, packet) in [(Transport::Tcp, segment(5)), (Transport::Udp, datagram(5))] {
            assert_eq!(replies(&packet), 0);
            inbox.watched().add(transport, 5);
            assert_eq!(replies(&packet), 1, "{transport:?}");
            inbox.watched().remove(transport, 5);
            assert_eq!(replies(&packet), 0);
        }
    }

    #[test]
    fn ignored_packets_are_counted_by_reason_a_part_at_a_time() {
        let inbox = Inbox::new(10);
        for _ in 0..5 {
            inbox.ignore(Ignored::Malformed);
        }
        inbox.ignore(Ignored::ForeignQuote);
        let of = |counts: IgnoredCounts, reason: Ignored| counts[reason.index()];
        let first = inbox.take_ignored(3);
        assert_eq!(
            (of(first, Ignored::Malformed), of(first, Ignored::ForeignQuote)),
            (3, 1)
        );
        assert_eq!(of(inbox.take_ignored(3), Ignored::Malformed), 2);
        assert_eq!(inbox.take_ignored(3), IgnoredCounts::default());
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
        inbox.receive(&ECHO_REPLY, Time::from_nanos(1));
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
