//! TCP SYN (RFC 9293).
//!
//! The sequence number is a random base + TTL. To the target, a second SYN with the same TTL is a
//! repetition of the first. The timestamps option (RFC 7323 §3) and the IPv4 identification tell
//! the attempt.
//!
//! Differences from the Go program: it uses one sequence number for a whole run, and no timestamps
//! option. Here an answer names its probe. The next SYN lies within the window that a half-open
//! connection would have. So a target whose SYN-ACK was lost answers the next SYN with a RST that
//! acknowledges it, and is still recognised.

use rand::RngExt;
use rand::rngs::StdRng;
use traceroute_wire::{ProbeKind, Quoted, QuotedTransport, Reply, ReplyKind, TcpTimestamps};

use super::{Marks, MethodState, ReplyMeaning, offset_ttl};
use crate::Time;
use crate::flow::{FlowFields, ProbeId};
use crate::key::Key;

/// Identifiers of one flow.
pub(crate) struct Syn {
    /// Sequence number of the probe with TTL 0.
    sequence: u32,
    /// Timestamp of the probe with number 0.
    timestamp: u32,
}

impl Syn {
    pub(crate) fn new(rng: &mut StdRng) -> Self {
        Syn {
            sequence: rng.random(),
            timestamp: rng.random(),
        }
    }
}

impl MethodState for Syn {
    fn keys(&self, fields: &FlowFields) -> [Option<Key>; 3] {
        segment_keys(fields, Some(self.sequence))
    }

    fn kind(&self, fields: &FlowFields, id: ProbeId, _: Time) -> ProbeKind {
        let number = fields.numbering.number(id);
        ProbeKind::TcpSyn {
            source_port: fields.source_port,
            destination_port: fields.destination_port,
            sequence: self.sequence.wrapping_add(u32::from(id.ttl)),
            timestamps: Some(TcpTimestamps {
                value: self.timestamp.wrapping_add(u32::from(number)),
                echo: 0,
            }),
        }
    }

    fn marks(&self, fields: &FlowFields, quoted: &Quoted) -> Option<Marks> {
        segment_marks(fields, quoted, self.sequence, |value| {
            stamped(fields, value, self.timestamp)
        })
    }

    fn direct(&mut self, fields: &FlowFields, reply: &Reply, _: Time) -> ReplyMeaning {
        let ReplyKind::Tcp(tcp) = &reply.kind else {
            return ReplyMeaning::Reject;
        };
        let flags = tcp.flags;
        match (flags.syn || flags.rst, flags.ack) {
            (true, true) => match offset_ttl(tcp.acknowledgment.wrapping_sub(1), self.sequence) {
                Some(ttl) => {
                    let echoed = tcp
                        .timestamps
                        .and_then(|theirs| stamped(fields, theirs.echo, self.timestamp));
                    ReplyMeaning::Answer {
                        ttl,
                        attempt: echoed.filter(|id| id.ttl == ttl).map(|id| id.attempt),
                    }
                }
                None => ReplyMeaning::Reject,
            },
            (true, false) if flags.rst => ReplyMeaning::AnswerIfSole,
            _ => ReplyMeaning::Ignore,
        }
    }
}

/// The probe whose timestamp this is, when `base` + number was sent.
fn stamped(fields: &FlowFields, value: u32, base: u32) -> Option<ProbeId> {
    fields.numbering.id(u16::try_from(value.wrapping_sub(base)).ok()?)
}

/// The keys of segments from the target and, once the sequence numbers are known, of quotes of
/// those from `base` + 1 to `base` + 255, which share at most two values of their upper 24 bits.
pub(super) fn segment_keys(fields: &FlowFields, base: Option<u32>) -> [Option<Key>; 3] {
    let FlowFields {
        destination,
        destination_port,
        source_port,
        ..
    } = *fields;
    let quote = |sequence: u32| Key::marks(Key::TCP, destination, destination_port, sequence >> 8);
    let first = base.map(|base| quote(base.wrapping_add(1)));
    let last = base.map(|base| quote(base.wrapping_add(255)));
    [
        Some(Key::local(Key::TCP, destination, destination_port, source_port)),
        first,
        last.filter(|_| first != last),
    ]
}

/// In what a quoted segment agrees with a flow whose segments have sequence number `base` + TTL.
/// `stamped`: the probe with this timestamp.
pub(super) fn segment_marks(
    fields: &FlowFields,
    quoted: &Quoted,
    base: u32,
    stamped: impl Fn(u32) -> Option<ProbeId>,
) -> Option<Marks> {
    let QuotedTransport::Tcp {
        source_port,
        sequence,
        timestamp,
        ..
    } = quoted.transport
    else {
        return None;
    };
    let ttl = offset_ttl(sequence, base);
    let local = source_port == fields.source_port;
    let by_stamp = timestamp.and_then(stamped);
    let identified = quoted
        .source
        .is_ipv4()
        .then(|| fields.identified(quoted.identification))
        .flatten();
    let labelled = quoted.source.is_ipv6() && quoted.flow_label == fields.flow_label;
    // The sequence number, if it is right, has the last word on the TTL.
    let of_ttl = |id: Option<ProbeId>| id.filter(|id| ttl.is_none_or(|ttl| ttl == id.ttl));
    let attempt = of_ttl(identified).or(of_ttl(by_stamp)).map(|id| id.attempt);
    let by_sequence = ttl.map(|ttl| (ttl, attempt));
    Some(Marks {
        of_flow: u32::from(local) + u32::from(labelled) + if ttl.is_some() { 2 } else { 0 },
        of_probe: [if ttl.is_some() { None } else { identified }, None],
        hint: by_sequence.or(by_stamp.map(|id| (id.ttl, Some(id.attempt)))),
        translated: !local || quoted.source != fields.source || ttl.is_none(),
    })
}
