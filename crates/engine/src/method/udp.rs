//! UDP datagrams (RFC 768).
//!
//! The number of a probe is in the IPv4 identification and in the checksum's tag; over IPv6 in the
//! tag and, unless the caller chose it, in the length (6 + number). Load balancers hash the ports,
//! which are the same for all probes of a flow.
//!
//! Differences from the Go program:
//!
//! - Over IPv4 the identification starts at a random base, not at 41821, which every process in the
//!   world shares. Two bytes follow the 8-byte payload, which has no room for the tag.
//! - Over IPv6 the last two bytes (at an even offset) balance the tag. In payloads of more than
//!   1000 bytes it is the first two, because a quote may lack the end. A retry is longer than 5 +
//!   TTL bytes, by its number.

use std::net::IpAddr;

use rand::RngExt;
use rand::rngs::StdRng;
use traceroute_wire::{
    ProbeKind, Quoted, QuotedTransport, Reply, ReplyKind, UDP_IPV4_PAYLOAD, UDP_IPV6_BASE,
};

use super::{Marks, MethodState, ReplyMeaning};
use crate::Time;
use crate::flow::{FlowFields, ProbeId};
use crate::key::Key;

/// Tags are sums modulo this (RFC 1071).
const TAGS: u32 = 0xFFFF;
/// Numbers up to this one are told by the length over IPv6 as well; the packet stays below the MTU
/// that every link has.
const LONGEST: u16 = 1100;

/// Identifiers of one flow.
pub(crate) struct Udp {
    /// Of the probe with number 0.
    tag: u16,
}

impl Udp {
    pub(crate) fn new(rng: &mut StdRng) -> Self {
        Udp {
            tag: rng.random_range(0..u16::MAX),
        }
    }

    fn tag_of(&self, number: u16) -> u16 {
        ((u32::from(self.tag) + u32::from(number)) % TAGS) as u16
    }

    /// Which probe has this tag.
    fn tagged(&self, fields: &FlowFields, tag: u16) -> Option<ProbeId> {
        let number = (u32::from(tag) + TAGS - u32::from(self.tag)) % TAGS;
        fields.numbering.id(number as u16)
    }
}

/// Bytes of payload over IPv6: the base, and the probe's number, or its TTL where that were too
/// much.
fn payload_v6(fields: &FlowFields, id: ProbeId) -> u16 {
    let number = fields.numbering.number(id);
    UDP_IPV6_BASE
        + 1
        + if number <= LONGEST {
            number
        } else {
            u16::from(id.ttl) - 1
        }
}

/// TTL, and attempt if that is clear, that a payload of so many bytes over IPv6 stands for.
fn of_payload_v6(fields: &FlowFields, len: u16) -> Option<(u8, Option<u8>)> {
    if fields.fixed_payload().is_some() {
        return None;
    }
    let number = len.checked_sub(UDP_IPV6_BASE + 1)?;
    let id = fields.numbering.id(number)?;
    let is_clear = fields.numbering.count() <= LONGEST || id.attempt > 0;
    Some((id.ttl, is_clear.then_some(id.attempt)))
}

impl MethodState for Udp {
    fn keys(&self, fields: &FlowFields) -> [Option<Key>; 3] {
        let FlowFields {
            destination,
            destination_port,
            source_port,
            ..
        } = *fields;
        let mark = if destination.is_ipv4() {
            difference(self.tag, fields.identification)
        } else {
            fields.flow_label
        };
        [
            Some(Key::local(Key::UDP, destination, destination_port, source_port)),
            Some(Key::marks(Key::UDP, destination, destination_port, mark)),
            None,
        ]
    }

    fn kind(&self, fields: &FlowFields, id: ProbeId, _: Time) -> ProbeKind {
        ProbeKind::Udp {
            source_port: fields.source_port,
            destination_port: fields.destination_port,
            tag: self.tag_of(fields.numbering.number(id)),
            payload_len: match (fields.fixed_payload(), fields.destination) {
                (Some(len), _) => len,
                (None, IpAddr::V4(_)) => UDP_IPV4_PAYLOAD,
                (None, IpAddr::V6(_)) => payload_v6(fields, id),
            },
        }
    }

    fn marks(&self, fields: &FlowFields, quoted: &Quoted) -> Option<Marks> {
        let QuotedTransport::Udp {
            source_port, length, ..
        } = quoted.transport
        else {
            return None;
        };
        let local = source_port == fields.source_port;
        let tagged = quoted.tag().and_then(|tag| self.tagged(fields, tag));
        let mut marks = Marks {
            of_flow: u32::from(local),
            of_probe: [tagged, None],
            hint: None,
            translated: !local || tagged.is_none() || quoted.source != fields.source,
        };
        if quoted.source.is_ipv4() {
            marks.of_probe[1] = fields.identified(quoted.identification);
        } else {
            marks.of_flow += u32::from(quoted.flow_label == fields.flow_label);
            marks.hint = of_payload_v6(fields, length.saturating_sub(8));
        }
        Some(marks)
    }

    fn direct(&mut self, fields: &FlowFields, reply: &Reply, _: Time) -> ReplyMeaning {
        let ReplyKind::Udp(udp) = &reply.kind else {
            return ReplyMeaning::Reject;
        };
        // A service that sends back what it gets.
        let echoed = udp.echoed.and_then(|value| match fields.destination {
            IpAddr::V4(_) => fields.identified(value).map(|id| (id.ttl, Some(id.attempt))),
            IpAddr::V6(_) => of_payload_v6(fields, value),
        });
        match echoed {
            Some((ttl, attempt)) => ReplyMeaning::Answer { ttl, attempt },
            None => ReplyMeaning::Unidentified,
        }
    }
}

/// What tag and identification of each probe of a flow differ by, since both count its number.
pub(crate) fn difference(tag: u16, identification: u16) -> u32 {
    (u32::from(tag) + TAGS - u32::from(identification) % TAGS) % TAGS
}
