//! ICMP echo (RFC 792, RFC 4443 §4.1).

use rand::RngExt;
use rand::rngs::StdRng;
use traceroute_net::Time;
use traceroute_wire::{ProbeKind, Quoted, QuotedTransport, Reply, ReplyKind};

use super::{Flow, Outline, Probing, QuotedProbe, Strategy, Verdict};
use crate::key::Key;

/// Identifiers of one ICMP trace.
pub(crate) struct Icmp {
    /// Echo identifier and IPv4 identification.
    identifier: u16,
    tag: u16,
    cookie: [u8; 6],
}

impl Icmp {
    /// With this identifier, or a random one if it is 0.
    pub(crate) fn new(identifier: u16, rng: &mut StdRng) -> Self {
        let drawn = rng.random_range(1..=u16::MAX);
        Icmp {
            identifier: if identifier == 0 { drawn } else { identifier },
            tag: rng.random_range(0..u16::MAX),
            cookie: rng.random(),
        }
    }
}

impl Probing for Icmp {
    fn strategy(&self) -> Strategy {
        Strategy::Parallel
    }

    fn reported_source_port(&self, _: &Flow) -> u16 {
        self.identifier
    }

    fn keys(&self, flow: &Flow) -> [Option<Key>; 3] {
        [
            Some(Key::echo_quote(flow.destination, self.tag)),
            Some(Key::echo_reply(flow.destination, self.identifier)),
            None,
        ]
    }

    fn outline(&self, _: &Flow, ttl: u8, _: Time) -> Outline {
        let Icmp {
            identifier,
            tag,
            cookie,
        } = *self;
        Outline {
            identification: identifier,
            kind: ProbeKind::Echo {
                identifier,
                sequence: u16::from(ttl),
                tag,
                cookie,
            },
        }
    }

    fn quoted(&self, flow: &Flow, quoted: &Quoted) -> Option<QuotedProbe> {
        let QuotedTransport::Echo {
            identifier, sequence, ..
        } = quoted.transport
        else {
            return None;
        };
        let translated = identifier != self.identifier || quoted.source != flow.source;
        // Behind a NAT a second random identifier has to agree, so that guessing the tag is not enough.
        let ours = if translated {
            quoted.identification == self.identifier && quoted.source.is_ipv4()
                || quoted.flow_label == flow.flow_label && quoted.source.is_ipv6()
        } else {
            true
        };
        let ttl = u8::try_from(sequence).ok().filter(|_| ours)?;
        Some(QuotedProbe { ttl, translated })
    }

    fn direct(&mut self, _: &Flow, reply: &Reply, _: Time) -> Verdict {
        match reply.kind {
            ReplyKind::Echo { sequence, cookie, .. } if cookie == Some(self.cookie) => {
                match u8::try_from(sequence) {
                    Ok(ttl) => Verdict::Answer { ttl },
                    Err(_) => Verdict::Reject,
                }
            }
            _ => Verdict::Reject,
        }
    }
}
