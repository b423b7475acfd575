//! ICMP messages as routers and hosts build them (RFC 792, RFC 4443, RFC 4884, RFC 4950).

use std::net::IpAddr;

use crate::packet::{self, ICMP, ICMP_V6, Packet};
use crate::topology::{Extension, Icmp, Unreachable};

/// An ICMP error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Error {
    TimeExceeded,
    Unreachable(Unreachable),
}

impl Error {
    fn type_and_code(self, v6: bool) -> [u8; 2] {
        match (self, v6) {
            (Self::TimeExceeded, false) => [11, 0],
            (Self::TimeExceeded, true) => [3, 0],
            (Self::Unreachable(why), false) => [3, v4_code(why)],
            // RFC 4443 §3.4: an unknown next header is a parameter problem.
            (Self::Unreachable(Unreachable::Protocol), true) => [4, 1],
            (Self::Unreachable(why), true) => [1, v6_code(why)],
        }
    }
}

/// What IPv6 alone has becomes what is nearest in IPv4; for `BeyondScope` RFC 7915 §5.2 says what.
fn v4_code(why: Unreachable) -> u8 {
    match why {
        Unreachable::Net => 0,
        Unreachable::Host | Unreachable::BeyondScope => 1,
        Unreachable::Protocol => 2,
        Unreachable::Port => 3,
        Unreachable::NetProhibited => 9,
        Unreachable::HostProhibited => 10,
        Unreachable::AdminProhibited | Unreachable::SourcePolicy | Unreachable::RejectRoute => 13,
        Unreachable::Code(code) => code,
    }
}

fn v6_code(why: Unreachable) -> u8 {
    match why {
        Unreachable::Net => 0,
        Unreachable::NetProhibited | Unreachable::HostProhibited | Unreachable::AdminProhibited => 1,
        Unreachable::BeyondScope => 2,
        Unreachable::Host => 3,
        Unreachable::Protocol | Unreachable::Port => 4,
        Unreachable::SourcePolicy => 5,
        Unreachable::RejectRoute => 6,
        Unreachable::Code(code) => code,
    }
}

/// Whether an error may be sent about this packet (RFC 1122 §3.2.2, RFC 4443 §2.4 e): not about
/// ICMP errors, nor about fragments other than the first (here: about any), nor to or about
/// addresses that name no single host.
pub(crate) fn may_answer(packet: &Packet) -> bool {
    let message = packet.transport().first().copied().unwrap_or(0);
    let is_error = match packet.protocol() {
        ICMP => !matches!(message, 0 | 8 | 13 | 14),
        ICMP_V6 => message < 128,
        _ => false,
    };
    let source = packet.source();
    !is_error
        && !packet.is_fragment()
        && !source.is_unspecified()
        && !source.is_multicast()
        && !packet.destination().is_multicast()
}

/// The ICMP message about `about`, ready to be sent from `source`.
pub(crate) fn error(error: Error, about: &Packet, source: IpAddr, manner: &Icmp) -> Vec<u8> {
    let v6 = about.is_v6();
    let [kind, code] = error.type_and_code(v6);
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    let mut quote = quote(about, manner);
    if let Some(layout) = extension_layout(manner) {
        quote.resize(128, 0);
        if layout == Extension::Rfc4884 {
            // RFC 4884 §4: in 32-bit words for ICMP, in 64-bit words for ICMPv6.
            let (at, unit) = if v6 { (4, 8) } else { (5, 4) };
            message[at] = (quote.len() / unit) as u8;
        }
        quote.extend(extension(manner));
    }
    message.extend(quote);
    if let Some(length) = manner.truncate {
        message.truncate(usize::from(length));
    }
    let protocol = if v6 { ICMP_V6 } else { ICMP };
    packet::fill_checksum(source, about.source(), protocol, &mut message);
    if manner.wrong_checksum
        && let Some(byte) = message.get_mut(3)
    {
        *byte ^= 0x55;
    }
    message
}

fn extension_layout(manner: &Icmp) -> Option<Extension> {
    manner
        .extension
        .or((!manner.mpls.is_empty()).then_some(Extension::Rfc4884))
}

fn quote(about: &Packet, manner: &Icmp) -> Vec<u8> {
    let room = if about.is_v6() {
        1280 - 40 - 8
    } else {
        576 - 20 - 8
    };
    let wanted = manner
        .quote
        .map_or(room, |bytes| about.transport_offset() + usize::from(bytes));
    let mut quoted = about.clone();
    if let Some(ttl) = manner.quote_ttl {
        quoted.set_ttl(ttl);
    }
    let mut wanted = wanted;
    if manner.quote_options {
        quoted.add_options();
        wanted += quoted.transport_offset() - about.transport_offset();
    }
    let mut quote = quoted.into_bytes();
    quote.truncate(wanted.min(room));
    if manner.quote_length_swapped && !about.is_v6() {
        quote.swap(2, 3);
    }
    quote
}

/// RFC 4884 §7, with an MPLS label stack object (RFC 4950 §3), or with interface information (RFC
/// 5837 §4: the index only) when there are no labels.
fn extension(manner: &Icmp) -> Vec<u8> {
    let mut object = if manner.mpls.is_empty() {
        vec![0, 0, 2, 0x08, 0, 0, 0, 1]
    } else {
        let mut object = vec![0, 0, 1, 1];
        for (index, mpls) in manner.mpls.iter().enumerate() {
            let bottom = u32::from(index + 1 == manner.mpls.len());
            let entry =
                mpls.label << 12 | u32::from(mpls.traffic_class) << 9 | bottom << 8 | u32::from(mpls.ttl);
            object.extend(entry.to_be_bytes());
        }
        object
    };
    let length = object.len() as u16;
    packet::put_u16(&mut object, 0, length);
    let mut structure = vec![0x20, 0, 0, 0];
    structure.extend(object);
    let sum = packet::checksum(&structure, 0);
    packet::put_u16(&mut structure, 2, sum);
    structure
}

/// Whether this is an echo request.
pub(crate) fn is_echo_request(packet: &Packet) -> bool {
    let kind = packet.transport().first().copied();
    packet.transport().len() >= 8
        && match packet.protocol() {
            ICMP => kind == Some(8),
            ICMP_V6 => kind == Some(128),
            _ => false,
        }
}

/// The reply to an echo request, from `source`.
pub(crate) fn echo_reply(request: &Packet, source: IpAddr) -> Vec<u8> {
    let mut message = request.transport().to_vec();
    if let [kind, code, sum_high, sum_low, ..] = message.as_mut_slice() {
        *kind = if request.is_v6() { 129 } else { 0 };
        *code = 0;
        (*sum_high, *sum_low) = (0, 0);
    }
    packet::fill_checksum(source, request.source(), request.protocol(), &mut message);
    message
}
