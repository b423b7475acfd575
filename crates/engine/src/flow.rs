//! A flow: what all its probes share, and how each of them is recognised.
//!
//! # Identifiers
//!
//! A quoted packet may be as short as the IP header and 8 bytes, and a NAT may have changed the
//! source address and port in it. So what identifies a probe lies within those bytes and survives
//! that. Probes of a flow are numbered: *number* = attempt × highest TTL + TTL − 1.
//!
//! - **Port**: our port, or the echo identifier of ICMP.
//! - **Tag** (ICMP, UDP): a sum that a NAT does not change. What a NAT takes from address and port
//!   it adds to the checksum (RFC 3022 §4.2, RFC 1624). Two balancing bytes in the probe set the
//!   tag.
//! - **Identification**: IPv4, a random base + number. IPv6 has the flow label instead.
//! - **Sequence number** (TCP): a random base + TTL.
//!
//! The modules of `method` say what each protocol does with them.
//!
//! # Which quotes are ours
//!
//! Two marks must agree with a probe that was sent. A TCP sequence number counts as two: it has 32
//! bits. One mark alone is counted as `rejected`.
//!
//! | device on the way | port | tag | identification, label | |
//! |---|---|---|---|---|
//! | none, or a NAT that translates quotes | yes | yes | yes | ours |
//! | NAT that does not translate quotes | no | yes | yes | ours |
//! | NAT that leaves the checksum (RFC 3022 §4.3) or sets it to 0 | yes | no | yes | ours |
//! | device that replaces the identification (RFC 6864 §4.1) or label | yes | yes | no | ours |
//! | two of these | | | | counted, not believed |
//!
//! Type of service and TTL are not looked at. A NAT64 that quotes the IPv4 packet (RFC 7915 §4.2
//! forbids it) is not recognised; its quotes are counted.
//!
//! A reply is looked up by our port first. If no flow there has sent the quoted probe, it is looked
//! up by the other marks (UDP over IPv4: tag − identification). A checksum that does not fit, or
//! another source, is evidence of a NAT.
//!
//! # What a guesser gains
//!
//! Somebody who knows both addresses and the probed port may send packets while a probe waits. The
//! chance that one of them is taken for an answer to that probe:
//!
//! | guess | must be right | chance for each packet |
//! |---|---|---|
//! | quote of an echo request | two of identifier, tag, identification or label | 2⁻³² |
//! | quote of a datagram | two of port, tag, identification or label | ≤ 2⁻³⁰; port known: 2⁻¹⁶ |
//! | quote of a segment | sequence number | 2⁻³² |
//! | echo reply | identifier, cookie | 2⁻⁶⁴ |
//! | SYN-ACK, RST-ACK | our port, acknowledgment number | ≤ 2⁻⁴⁶; port known: 2⁻³² |
//! | selective acknowledgment | our port, one of up to four left edges | four times that |
//! | bare RST (to a SYN), datagram (to UDP) | our port | 2⁻¹⁵: one of the kernel's ports |
//!
//! The last row is weak: who sends a bare RST or a datagram to each of some 28,000 ports within one
//! timeout makes the target appear at a lower TTL than its own. No other address and no earlier
//! router can be forged that way, and each trace takes only one. Refusing such packets would hide
//! closed ports behind some firewalls, and all UDP services. `tests/guesses.rs` checks the table.
//!
//! Datagrams, echoes among them, do not count at or before a TTL where a router answered, nor once
//! the target has sent a port unreachable, which quotes a probe. When one came before any probe
//! could have reached the target, or they are too few for a service, nothing is concluded from
//! them: the distance is unknown. Few datagrams, none of them too early, can still show a service
//! among silent hops after the last router that answered. `tests/services.rs` checks this.

use std::net::IpAddr;

use rand::RngExt;
use rand::rngs::StdRng;
use traceroute_wire::{Probe, Quoted, Reply};

use crate::key::Key;
use crate::method::{self, Marks, MethodState, QuotedProbe, ReplyMeaning};
use crate::packet::PacketOptions;
use crate::{Method, Time};

/// Attempts at one TTL that can be told apart: the first, retries, and those that ask for the
/// destination's distance.
pub(crate) const MAX_ATTEMPTS: u8 = 19;
/// The same on the flows of a multipath discovery, which repeats some of them.
pub(crate) const MAX_REPEATS: u8 = 128;

/// A probe of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ProbeId {
    /// TTL or hop limit, in hops.
    pub ttl: u8,
    /// Which probe with this TTL, from 0.
    pub attempt: u8,
}

/// How probes are numbered: TTLs 1 to `span` of the first attempt, then those of the second …
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Numbering {
    pub span: u8,
    /// How many attempts there may be at each TTL.
    pub attempts: u8,
}

impl Numbering {
    /// How many numbers there are.
    pub(crate) fn count(self) -> u16 {
        u16::from(self.span) * u16::from(self.attempts)
    }

    pub(crate) fn number(self, id: ProbeId) -> u16 {
        u16::from(id.attempt.min(self.attempts - 1)) * u16::from(self.span) + u16::from(id.ttl.max(1)) - 1
    }

    pub(crate) fn id(self, number: u16) -> Option<ProbeId> {
        let (attempt, ttl) = (
            number.checked_div(u16::from(self.span))?,
            number.checked_rem(u16::from(self.span))? + 1,
        );
        (number < self.count()).then_some(ProbeId {
            ttl: ttl as u8,
            attempt: attempt as u8,
        })
    }
}

/// What all probes of a flow have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FlowFields {
    pub source: IpAddr,
    /// For ICMP the echo identifier.
    pub source_port: u16,
    pub destination: IpAddr,
    /// 0 for ICMP.
    pub destination_port: u16,
    /// IPv6 flow label, random.
    pub flow_label: u32,
    /// IPv4 identification of the probe with number 0, random; no number leads to 0, which the
    /// kernel would replace.
    pub identification: u16,
    pub numbering: Numbering,
    pub packet: PacketOptions,
}

impl FlowFields {
    /// The IPv4 identification of a probe.
    fn identification_of(&self, id: ProbeId) -> u16 {
        self.identification.wrapping_add(self.numbering.number(id))
    }

    /// Bytes of payload that each ICMP or UDP probe has, if the caller chose the packets' size.
    pub(crate) fn fixed_payload(&self) -> Option<u16> {
        self.packet.payload(self.destination)
    }

    /// Which probe has this IPv4 identification.
    pub(crate) fn identified(&self, identification: u16) -> Option<ProbeId> {
        self.numbering
            .id(identification.checked_sub(self.identification)?)
    }
}

/// A flow of one method.
pub(crate) struct Flow {
    pub fields: FlowFields,
    method: Box<dyn MethodState>,
}

impl Flow {
    /// With fresh random identifiers, except for the port or, if it is not 0, the echo identifier.
    pub(crate) fn new(
        method: Method,
        (source, source_port): (IpAddr, u16),
        (destination, destination_port): (IpAddr, u16),
        (numbering, packet): (Numbering, PacketOptions),
        now: Time,
        rng: &mut StdRng,
    ) -> Self {
        let is_icmp = method == Method::Icmp;
        let drawn = rng.random_range(1..=u16::MAX);
        let fields = FlowFields {
            source,
            source_port: if is_icmp && source_port == 0 {
                drawn
            } else {
                source_port
            },
            destination,
            destination_port: if is_icmp { 0 } else { destination_port },
            flow_label: rng.random_range(1..1 << 20),
            identification: rng.random_range(1..=u16::MAX - numbering.count()),
            numbering,
            packet,
        };
        Flow {
            fields,
            method: method::new(method, now, rng),
        }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> + use<> {
        self.method.keys(&self.fields).into_iter().flatten()
    }

    pub(crate) fn needs_handshake(&self) -> bool {
        self.method.needs_handshake()
    }

    /// The packet of a probe.
    pub(crate) fn probe(&self, id: ProbeId, now: Time) -> Probe {
        Probe {
            source: self.fields.source,
            destination: self.fields.destination,
            ttl: id.ttl,
            identification: self.fields.identification_of(id),
            flow_label: self.fields.flow_label,
            tos: self.fields.packet.tos,
            dont_fragment: self.fields.packet.dont_fragment,
            kind: self.method.kind(&self.fields, id, now),
        }
    }

    /// Which probe a quoted packet is, if it is one of those that were sent.
    pub(crate) fn quoted(&self, quoted: &Quoted, was_sent: impl Fn(ProbeId) -> bool) -> Option<QuotedProbe> {
        self.method
            .marks(&self.fields, quoted)
            .and_then(|marks| marks.decide(was_sent))
    }

    /// What a packet from the target means.
    pub(crate) fn direct(&mut self, reply: &Reply, at: Time) -> ReplyMeaning {
        self.method.direct(&self.fields, reply, at)
    }

    /// The connection that the method waits for is there: what the handshake seen so far means.
    pub(crate) fn connected(&mut self) -> ReplyMeaning {
        self.method.connected()
    }

    pub(crate) fn method(&self) -> &dyn MethodState {
        self.method.as_ref()
    }
}

impl Marks {
    /// The probe that the quote is of, if the marks agree on one that was sent.
    fn decide(&self, was_sent: impl Fn(ProbeId) -> bool) -> Option<QuotedProbe> {
        let mut named = self.of_probe.iter().flatten().copied().filter(|id| was_sent(*id));
        let (first, second) = (named.next(), named.next());
        let agreeing = match (first, second) {
            (Some(one), Some(other)) if one == other => 2,
            // Two probes at once: it cannot be told which one it is.
            (Some(_), Some(_)) => return None,
            (Some(_), None) => 1,
            _ => 0,
        };
        let (ttl, attempt) = match (first, self.hint) {
            (Some(id), _) => (id.ttl, Some(id.attempt)),
            (None, Some((ttl, Some(attempt)))) if !was_sent(ProbeId { ttl, attempt }) => return None,
            (None, Some((ttl, attempt))) => (ttl, attempt),
            (None, None) => return None,
        };
        (agreeing + self.of_flow >= 2).then_some(QuotedProbe {
            ttl,
            attempt,
            translated: self.translated,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_probes_map_to_each_other() {
        for span in [1, 30, 255] {
            let numbering = Numbering {
                span,
                attempts: MAX_ATTEMPTS,
            };
            for number in 0..numbering.count() {
                let id = numbering.id(number).unwrap();
                assert_eq!(numbering.number(id), number);
                assert!((1..=span).contains(&id.ttl) && id.attempt < MAX_ATTEMPTS);
            }
            assert_eq!(numbering.id(numbering.count()), None);
        }
    }
}
