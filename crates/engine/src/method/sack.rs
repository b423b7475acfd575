//! TCP SACK: bytes beyond a gap on an established connection, which the target acknowledges
//! selectively (RFC 2018). The sequence number is the connection's next + TTL.
//!
//! Difference from the Go program: the timestamp also counts the milliseconds since the handshake.
//! A target that has acknowledged newer segments of our kernel would drop an older one (RFC 7323
//! §5.3).
//!
//! Of several SYN-ACKs, the last one before the kernel has connected counts: the kernel checks
//! their acknowledgments, the engine does not know the sequence number. One that is forged in the
//! microseconds between the genuine one and the kernel's word still passes.

use traceroute_wire::{ProbeKind, Quoted, Reply, ReplyKind, TcpReply, TcpTimestamps};

use super::syn::{segment_keys, segment_marks};
use super::{Marks, MethodState, ReplyMeaning, offset_ttl};
use crate::Time;
use crate::answer::TraceError;
use crate::flow::{FlowFields, ProbeId};
use crate::key::Key;

/// State of one SACK flow. A second probe with the same TTL repeats its byte (RFC 2883).
pub(crate) struct Sack {
    /// When the connection attempt began: the moment of the timestamp that the SYN-ACK echoes.
    started: Time,
    /// The kernel has connected.
    connected: bool,
    /// The newest SYN-ACK until then.
    offer: Option<TcpReply>,
    connection: Option<Connection>,
    /// The highest TTL acknowledged so far.
    highest: u8,
    /// Probes are out: acknowledgments now may be about them.
    acknowledged_without_sack: bool,
    reset: bool,
}

/// What the SYN-ACK told.
struct Connection {
    /// Our next sequence number.
    next: u32,
    /// The peer's next sequence number, which probes acknowledge.
    peer_next: u32,
    /// The same behind what the peer has sent since.
    peer_sent: u32,
    timestamps: Option<TcpTimestamps>,
}

impl Connection {
    /// Notes what the peer has sent, if nothing is missing in front of it.
    fn advance(&mut self, tcp: &TcpReply) {
        if tcp.sequence == self.peer_sent {
            self.peer_sent = self
                .peer_sent
                .wrapping_add(u32::from(tcp.payload_len) + u32::from(tcp.flags.fin));
        }
    }

    /// Whether a reset is the peer's: its sequence number is what the probe acknowledged, or the
    /// peer's next one (RFC 9293 §3.10.7). Others are blind guesses, which the kernel does not
    /// believe either (RFC 5961 §3.2).
    fn is_reset_by(&self, tcp: &TcpReply) -> bool {
        tcp.flags.rst && (tcp.sequence == self.peer_next || tcp.sequence == self.peer_sent)
    }
}

impl Sack {
    pub(crate) fn new(started: Time) -> Self {
        Sack {
            started,
            connected: false,
            offer: None,
            connection: None,
            highest: 0,
            acknowledged_without_sack: false,
            reset: false,
        }
    }

    /// The kernel checks a SYN-ACK's acknowledgment, which cannot be seen here, and connects at the
    /// first that is right. So a forged one does not count when another comes before the kernel has
    /// connected.
    fn handshake(&mut self, tcp: &TcpReply) -> ReplyMeaning {
        if !(tcp.flags.syn && tcp.flags.ack) || tcp.flags.rst {
            // A refusal is reported by the connection itself.
            return ReplyMeaning::Ignore;
        }
        if self.connected {
            return self.establish(tcp);
        }
        self.offer = Some(*tcp);
        ReplyMeaning::Ignore
    }

    fn establish(&mut self, tcp: &TcpReply) -> ReplyMeaning {
        if !tcp.sack.permitted {
            return ReplyMeaning::Fail(not_supported("the target's SYN-ACK does not permit SACK"));
        }
        self.connection = Some(Connection {
            next: tcp.acknowledgment,
            peer_next: tcp.sequence.wrapping_add(1),
            peer_sent: tcp.sequence.wrapping_add(1),
            timestamps: tcp.timestamps,
        });
        ReplyMeaning::Ready
    }

    fn segment(&mut self, tcp: &TcpReply) -> ReplyMeaning {
        let Some(connection) = &mut self.connection else {
            return self.handshake(tcp);
        };
        if !tcp.flags.rst {
            connection.advance(tcp);
            let next = connection.next;
            return self.acknowledgment(tcp, next);
        }
        if !connection.is_reset_by(tcp) {
            return ReplyMeaning::Reject;
        }
        self.reset = true;
        ReplyMeaning::Ignore
    }

    fn acknowledgment(&mut self, tcp: &TcpReply, next: u32) -> ReplyMeaning {
        if !tcp.flags.ack || tcp.flags.syn || tcp.flags.fin {
            return ReplyMeaning::Ignore;
        }
        let arrived = tcp
            .sack
            .edges()
            .iter()
            .filter_map(|edge| offset_ttl(*edge, next))
            .min();
        match arrived {
            Some(ttl) => {
                let newest = self.newest(tcp, next).unwrap_or(ttl).max(ttl);
                self.highest = self.highest.max(newest);
                ReplyMeaning::Covers { ttl, newest }
            }
            None => {
                // Only a bare repetition of our own next sequence number can be about a probe.
                if tcp.sack.blocks == 0 && tcp.payload_len == 0 && tcp.acknowledgment == next {
                    self.acknowledged_without_sack = true;
                }
                ReplyMeaning::Ignore
            }
        }
    }
}

impl Sack {
    /// The probe that an acknowledgment is about, if it is the one with the highest TTL so far: the
    /// first block contains it (RFC 2018 §4), and probes that arrive in order extend that block to
    /// the right. Blocks that lie together are one, so the lowest edge says nothing of when that
    /// probe was acknowledged first, if that got lost.
    fn newest(&self, tcp: &TcpReply, next: u32) -> Option<u8> {
        let last = tcp.sack.first_right_edge?.wrapping_sub(1);
        offset_ttl(last, next).filter(|ttl| *ttl > self.highest)
    }
}

impl MethodState for Sack {
    fn needs_handshake(&self) -> bool {
        true
    }

    fn keys(&self, fields: &FlowFields) -> [Option<Key>; 3] {
        segment_keys(fields, self.connection.as_ref().map(|connection| connection.next))
    }

    fn kind(&self, fields: &FlowFields, id: ProbeId, now: Time) -> ProbeKind {
        let (next, acknowledgment, timestamps) = match &self.connection {
            Some(connection) => (connection.next, connection.peer_next, connection.timestamps),
            None => (0, 0, None),
        };
        // The peer drops a segment whose timestamp is older than what our kernel has sent since
        // (RFC 7323 §5.3), for instance when acknowledging a greeting. Kernels count milliseconds.
        let elapsed = now.since(self.started).as_millis() as u32;
        let timestamps = timestamps.map(|theirs| TcpTimestamps {
            value: theirs
                .echo
                .wrapping_add(elapsed)
                .wrapping_add(50 + u32::from(id.ttl)),
            echo: theirs.value,
        });
        ProbeKind::TcpSack {
            source_port: fields.source_port,
            destination_port: fields.destination_port,
            sequence: next.wrapping_add(u32::from(id.ttl)),
            acknowledgment,
            timestamps,
        }
    }

    fn marks(&self, fields: &FlowFields, quoted: &Quoted) -> Option<Marks> {
        segment_marks(fields, quoted, self.connection.as_ref()?.next, |_| None)
    }

    fn direct(&mut self, _: &FlowFields, reply: &Reply, _: Time) -> ReplyMeaning {
        let ReplyKind::Tcp(tcp) = &reply.kind else {
            return ReplyMeaning::Reject;
        };
        self.segment(tcp)
    }

    fn connected(&mut self) -> ReplyMeaning {
        self.connected = true;
        match self.offer.take() {
            Some(tcp) => self.establish(&tcp),
            None => ReplyMeaning::Ignore,
        }
    }

    fn time_exceeded_from_target_is_destination(&self) -> bool {
        true
    }

    fn failure_without_destination(&self) -> Option<TraceError> {
        if self.acknowledged_without_sack {
            Some(not_supported("the target acknowledges without SACK blocks"))
        } else if self.reset {
            Some(not_supported("the target reset the connection"))
        } else {
            None
        }
    }
}

/// The error on which `prefer_sack` falls back.
pub(crate) fn not_supported(cause: impl Into<String>) -> TraceError {
    TraceError::SackNotSupported(cause.into())
}
