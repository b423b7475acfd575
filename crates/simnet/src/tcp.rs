//! A TCP server that is good enough to be probed: handshake, selective acknowledgments (RFC 2018,
//! RFC 2883), timestamps and PAWS (RFC 7323), challenge ACKs (RFC 5961), data that the server sends
//! first, and closing.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;

use crate::counters::Dropped;
use crate::topology::{Port, Tcp};

mod connection;
mod segment;

use connection::Connection;
pub(crate) use segment::Segment;
use segment::{ACK, FIN, RST, SYN};

/// Connections that one server keeps.
const MAX_CONNECTIONS: usize = 10_000;

/// What the server wants after an event.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Segments to send, each after a delay.
    pub(crate) send: Vec<(Duration, Segment)>,
    /// Call [`Server::timer`] after these delays.
    pub(crate) timers: Vec<(Duration, Timer)>,
    /// What became of the segment, when it was refused.
    pub(crate) dropped: Option<Dropped>,
}

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timer {
    /// The SYN-ACK was not acknowledged after this many tries.
    SynAck { tries: u32 },
    /// Time for the greeting, or to send it again.
    Greeting { tries: u32 },
}

impl Outcome {
    fn now(segment: Segment) -> Self {
        Self {
            send: vec![(Duration::ZERO, segment)],
            ..Self::default()
        }
    }

    fn dropped(reason: Dropped) -> Self {
        Self {
            dropped: Some(reason),
            ..Self::default()
        }
    }

    fn with_drop(mut self, reason: Dropped) -> Self {
        self.dropped = Some(reason);
        self
    }
}

/// Both ends of a connection: the client's, then the server's.
pub(crate) type Ends = (SocketAddr, SocketAddr);

/// All connections of a target.
#[derive(Debug)]
pub(crate) struct Server {
    spec: Tcp,
    connections: HashMap<Ends, Connection>,
}

impl Server {
    pub(crate) fn new(spec: Tcp) -> Self {
        Self {
            spec,
            connections: HashMap::new(),
        }
    }

    /// A segment arrived.
    pub(crate) fn segment(&mut self, ends: Ends, segment: &Segment, now: Duration, rng: &mut Rng) -> Outcome {
        if let Some(connection) = self.connections.get_mut(&ends) {
            let outcome = connection.segment(&self.spec, segment, now);
            if connection.is_closed() {
                self.connections.remove(&ends);
            }
            return outcome;
        }
        match self.spec.port(ends.1.port()) {
            Port::Silent => Outcome::dropped(Dropped::Silent),
            Port::Open if segment.flags & (SYN | ACK | RST | FIN) == SYN => {
                self.accept(ends, segment, now, rng)
            }
            Port::Closed | Port::Open => self.reset(segment),
        }
    }

    fn accept(&mut self, ends: Ends, segment: &Segment, now: Duration, rng: &mut Rng) -> Outcome {
        if self.connections.len() >= MAX_CONNECTIONS {
            return Outcome::dropped(Dropped::TooManyConnections);
        }
        let (connection, outcome) = Connection::accept(&self.spec, segment, now, rng.u32(..), rng.u32(..));
        self.connections.insert(ends, connection);
        outcome
    }

    /// RFC 9293 §3.10.7.1: nothing answers a RST; everything else is answered with one that fits.
    fn reset(&self, segment: &Segment) -> Outcome {
        if segment.flags & RST != 0 {
            return Outcome::default();
        }
        let reply = if segment.flags & ACK != 0 {
            Segment {
                sequence: segment.acknowledgment,
                flags: RST,
                ..Segment::default()
            }
        } else if self.spec.bare_reset {
            Segment {
                flags: RST,
                ..Segment::default()
            }
        } else {
            let acknowledgment = segment.sequence.wrapping_add(segment.length());
            Segment {
                acknowledgment,
                flags: RST | ACK,
                ..Segment::default()
            }
        };
        Outcome::now(reply)
    }

    /// A timer ran out.
    pub(crate) fn timer(&mut self, ends: Ends, timer: Timer, now: Duration) -> Outcome {
        let Some(connection) = self.connections.get_mut(&ends) else {
            return Outcome::default();
        };
        let outcome = connection.timer(&self.spec, timer, now);
        if connection.is_closed() {
            self.connections.remove(&ends);
        }
        outcome
    }
}
