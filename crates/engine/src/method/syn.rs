//! TCP SYN (RFC 9293).

use rand::RngExt;
use rand::rngs::StdRng;
use traceroute_net::Time;
use traceroute_wire::{ProbeKind, Quoted, QuotedTransport, Reply, ReplyKind};

use super::{Flow, Outline, Probing, QuotedProbe, Strategy, Verdict, identification_base, offset_ttl};
use crate::key::Key;

/// Identifiers of one TCP SYN trace.
pub(crate) struct Syn {
    /// Sequence number of the probe with TTL 0.
    sequence: u32,
    identification: u16,
}

impl Syn {
    pub(crate) fn new(rng: &mut StdRng) -> Self {
        Syn {
            sequence: rng.random(),
            identification: identification_base(rng),
        }
    }
}

impl Probing for Syn {
    fn strategy(&self) -> Strategy {
        Strategy::Serial
    }

    fn keys(&self, flow: &Flow) -> [Option<Key>; 3] {
        segment_keys(flow, Some(self.sequence))
    }

    fn outline(&self, flow: &Flow, ttl: u8, _: Time) -> Outline {
        Outline {
            identification: self.identification.wrapping_add(u16::from(ttl)),
            kind: ProbeKind::TcpSyn {
                source_port: flow.source_port,
                destination_port: flow.destination_port,
                sequence: self.sequence.wrapping_add(u32::from(ttl)),
            },
        }
    }

    fn quoted(&self, flow: &Flow, quoted: &Quoted) -> Option<QuotedProbe> {
        quoted_segment(flow, quoted, self.sequence)
    }

    fn direct(&mut self, _: &Flow, reply: &Reply, _: Time) -> Verdict {
        let ReplyKind::Tcp(tcp) = &reply.kind else {
            return Verdict::Reject;
        };
        let flags = tcp.flags;
        match (flags.syn || flags.rst, flags.ack) {
            (true, true) => match offset_ttl(tcp.acknowledgment.wrapping_sub(1), self.sequence) {
                Some(ttl) => Verdict::Answer { ttl },
                None => Verdict::Reject,
            },
            (true, false) if flags.rst => Verdict::AnswerIfSole,
            _ => Verdict::Ignore,
        }
    }
}

/// The keys of segments from the target and, once the sequence numbers are known, of quotes of those from `base` + 1 to
/// `base` + 255, which share at most two values of their upper 24 bits.
pub(super) fn segment_keys(flow: &Flow, base: Option<u32>) -> [Option<Key>; 3] {
    let quote = |sequence| Key::tcp_quote(flow.destination, flow.destination_port, sequence);
    let first = base.map(|base| quote(base.wrapping_add(1)));
    let last = base.map(|base| quote(base.wrapping_add(255)));
    [
        Some(Key::tcp_reply(
            flow.destination,
            flow.destination_port,
            flow.source_port,
        )),
        first,
        last.filter(|_| first != last),
    ]
}

/// Which probe a quoted segment is, when sequence number `base` + TTL was sent. 24 random bits have agreed already when
/// the key was found, and 8 more must name a TTL, so a translated source needs no further proof.
pub(super) fn quoted_segment(flow: &Flow, quoted: &Quoted, base: u32) -> Option<QuotedProbe> {
    let QuotedTransport::Tcp {
        source_port,
        sequence,
        ..
    } = quoted.transport
    else {
        return None;
    };
    let ttl = offset_ttl(sequence, base)?;
    Some(QuotedProbe {
        ttl,
        translated: !flow.is_source_of(quoted, source_port),
    })
}
