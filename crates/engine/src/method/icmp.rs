//! ICMP echo (RFC 792, RFC 4443 §4.1).
//!
//! The sequence number has the TTL in the low byte and the attempt in the high one. The checksum is
//! the same for all probes of a flow.
//!
//! Differences from the Go program: the payload has 8 bytes, 6 random ones that the reply must
//! return and 2 that balance the checksum. The IPv4 identification has a base of its own.

use std::net::IpAddr;

use rand::RngExt;
use rand::rngs::StdRng;
use traceroute_wire::{ECHO_PAYLOAD, ProbeKind, Quoted, QuotedTransport, Reply, ReplyKind};

use super::{Marks, MethodState, ReplyMeaning};
use crate::Time;
use crate::flow::{FlowFields, ProbeId};
use crate::key::Key;

/// Identifiers of one flow.
pub(crate) struct Icmp {
    tag: u16,
    cookie: [u8; 6],
}

impl Icmp {
    pub(crate) fn new(rng: &mut StdRng) -> Self {
        Icmp {
            tag: rng.random_range(0..u16::MAX),
            cookie: rng.random(),
        }
    }
}

fn of_sequence(sequence: u16) -> ProbeId {
    let [attempt, ttl] = sequence.to_be_bytes();
    ProbeId { ttl, attempt }
}

/// Whether it may be the subnet-router anycast address of a network (RFC 4291 §2.6.1). Who answers
/// there does so from an address of its own (RFC 4443 §4.2).
fn is_subnet_router(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.segments()[4..] == [0; 4])
}

impl MethodState for Icmp {
    fn keys(&self, fields: &FlowFields) -> [Option<Key>; 3] {
        let mark = if fields.destination.is_ipv4() {
            u32::from(self.tag)
        } else {
            fields.flow_label
        };
        [
            Some(Key::local(Key::ICMP, fields.destination, 0, fields.source_port)),
            Some(Key::marks(Key::ICMP, fields.destination, 0, mark)),
            is_subnet_router(fields.destination).then(|| Key::anycast(fields.source_port)),
        ]
    }

    fn kind(&self, fields: &FlowFields, id: ProbeId, _: Time) -> ProbeKind {
        ProbeKind::Echo {
            identifier: fields.source_port,
            sequence: u16::from_be_bytes([id.attempt, id.ttl]),
            tag: self.tag,
            cookie: self.cookie,
            payload_len: fields.fixed_payload().unwrap_or(ECHO_PAYLOAD),
        }
    }

    fn marks(&self, fields: &FlowFields, quoted: &Quoted) -> Option<Marks> {
        let QuotedTransport::Echo {
            identifier, sequence, ..
        } = quoted.transport
        else {
            return None;
        };
        let id = of_sequence(sequence);
        let local = identifier == fields.source_port;
        let tag = quoted.tag() == Some(self.tag);
        let network = if quoted.source.is_ipv4() {
            fields.identified(quoted.identification) == Some(id)
        } else {
            quoted.flow_label == fields.flow_label
        };
        Some(Marks {
            of_flow: u32::from(local) + u32::from(tag) + u32::from(network),
            of_probe: [None; 2],
            hint: Some((id.ttl, Some(id.attempt))),
            translated: !local || !tag || quoted.source != fields.source,
        })
    }

    fn direct(&mut self, _: &FlowFields, reply: &Reply, _: Time) -> ReplyMeaning {
        match reply.kind {
            ReplyKind::Echo { sequence, cookie, .. } if cookie == Some(self.cookie) => {
                let ProbeId { ttl, attempt } = of_sequence(sequence);
                ReplyMeaning::Answer {
                    ttl,
                    attempt: Some(attempt),
                }
            }
            _ => ReplyMeaning::Reject,
        }
    }
}
