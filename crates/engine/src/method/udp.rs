//! UDP datagrams (RFC 768).

use rand::RngExt;
use rand::rngs::StdRng;
use traceroute_net::Time;
use traceroute_wire::{ProbeKind, Quoted, QuotedTransport, Reply, ReplyKind, UDP_IPV6_BASE_LEN};

use super::{Flow, Outline, Probing, QuotedProbe, Strategy, Verdict, identification_base, offset_ttl};
use crate::key::Key;

/// Identifiers of one UDP trace.
pub(crate) struct Udp {
    /// IPv4 identification of the probe with TTL 0; in IPv6 the datagram's length tells the TTL.
    identification: u16,
    tag: u16,
}

impl Udp {
    pub(crate) fn new(rng: &mut StdRng) -> Self {
        Udp {
            identification: identification_base(rng),
            tag: rng.random_range(0..u16::MAX),
        }
    }
}

impl Probing for Udp {
    fn strategy(&self) -> Strategy {
        Strategy::Parallel
    }

    fn keys(&self, flow: &Flow) -> [Option<Key>; 3] {
        [
            Some(Key::udp_quote(flow.destination, flow.destination_port, self.tag)),
            Some(Key::udp_reply(
                flow.destination,
                flow.destination_port,
                flow.source_port,
            )),
            None,
        ]
    }

    fn outline(&self, flow: &Flow, ttl: u8, _: Time) -> Outline {
        Outline {
            identification: self.identification.wrapping_add(u16::from(ttl)),
            kind: ProbeKind::Udp {
                source_port: flow.source_port,
                destination_port: flow.destination_port,
                tag: self.tag,
            },
        }
    }

    fn quoted(&self, flow: &Flow, quoted: &Quoted) -> Option<QuotedProbe> {
        let QuotedTransport::Udp {
            source_port, length, ..
        } = quoted.transport
        else {
            return None;
        };
        let translated = !flow.is_source_of(quoted, source_port);
        let ttl = if quoted.source.is_ipv4() {
            offset_ttl(u32::from(quoted.identification), u32::from(self.identification))?
        } else {
            // Behind a NAT a second random identifier has to agree, so that guessing the tag is not enough.
            if translated && quoted.flow_label != flow.flow_label {
                return None;
            }
            offset_ttl(u32::from(length), UDP_IPV6_BASE_LEN)?
        };
        Some(QuotedProbe { ttl, translated })
    }

    fn direct(&mut self, flow: &Flow, reply: &Reply, _: Time) -> Verdict {
        let ReplyKind::Udp(udp) = &reply.kind else {
            return Verdict::Reject;
        };
        let echoed = udp.echoed_identification.map(u32::from);
        let base = if flow.destination.is_ipv4() {
            u32::from(self.identification)
        } else {
            0
        };
        match echoed.and_then(|value| offset_ttl(value, base)) {
            Some(ttl) => Verdict::Answer { ttl },
            None => Verdict::AnswerInOrder,
        }
    }
}
