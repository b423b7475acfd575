//! ICMP and `ICMPv6` echo: the request as a probe, its quote, and the reply.

use std::net::IpAddr;

use crate::checksum::{Sum, balance};
use crate::layout::{QUOTED_TRANSPORT_LEN, bytes_at, icmp, protocol, u8_at, u16_at};
use crate::writer::Writer;
use crate::{ECHO_PAYLOAD, Probe, QuotedTransport, ReplyKind};

/// Length of [`ProbeKind::Echo`](crate::ProbeKind::Echo)'s cookie, in bytes.
const COOKIE_LEN: usize = 6;

/// The protocol number of ICMP in the family of `address`.
pub(crate) fn icmp_protocol(address: IpAddr) -> u8 {
    if address.is_ipv4() {
        protocol::ICMP
    } else {
        protocol::ICMPV6
    }
}

fn request_type(address: IpAddr) -> u8 {
    if address.is_ipv4() {
        icmp::V4_ECHO_REQUEST
    } else {
        icmp::V6_ECHO_REQUEST
    }
}

/// The sum of those checksummed fields that a NAT may rewrite: the identifier, and in IPv6, where
/// the checksum covers it (RFC 4443 §2.3), the source address.
pub(crate) fn rewritable(source: IpAddr, identifier: u16) -> Sum {
    let sum = Sum::default().word(identifier);
    if source.is_ipv6() {
        sum.address(source)
    } else {
        sum
    }
}

/// Writes an echo request.
pub(crate) fn write(
    out: &mut Writer<'_>,
    probe: &Probe,
    (identifier, sequence): (u16, u16),
    tag: u16,
    cookie: [u8; COOKIE_LEN],
    payload_len: u16,
) -> Option<()> {
    let padding = payload_len.checked_sub(ECHO_PAYLOAD)?;
    out.put(&[request_type(probe.destination), 0, 0, 0])?;
    out.put_u16(identifier)?;
    out.put_u16(sequence)?;
    out.put(&cookie)?;
    let balance_at = out.written().len();
    out.put_u16(0)?;
    std::iter::repeat_n([0], padding.into()).try_for_each(|byte| out.put(&byte))?;

    let sum = sum(probe, out.written());
    out.set_u16(
        balance_at,
        balance(sum, rewritable(probe.source, identifier), tag),
    )?;
    let checksum = self::sum(probe, out.written()).checksum();
    out.set_u16(icmp::CHECKSUM, checksum)
}

/// The sum that the checksum is the complement of; only `ICMPv6` has a pseudo-header in it.
fn sum(probe: &Probe, message: &[u8]) -> Sum {
    let sum = if probe.destination.is_ipv4() {
        Sum::default()
    } else {
        Sum::default().pseudo_header(probe.source, probe.destination, protocol::ICMPV6, message.len())
    };
    sum.bytes(message)
}

/// Reads the header of a quoted echo request; `None` for any other ICMP message.
pub(crate) fn quoted(source: IpAddr, header: &[u8; QUOTED_TRANSPORT_LEN]) -> Option<QuotedTransport> {
    (u8_at::<{ icmp::TYPE }, _>(header) == request_type(source)).then(|| QuotedTransport::Echo {
        identifier: u16_at::<{ icmp::IDENTIFIER }, _>(header),
        sequence: u16_at::<{ icmp::SEQUENCE }, _>(header),
        checksum: u16_at::<{ icmp::CHECKSUM }, _>(header),
    })
}

/// Reads an echo reply from its header and payload.
pub(crate) fn reply(header: &[u8; icmp::HEADER_LEN], payload: &[u8]) -> ReplyKind {
    ReplyKind::Echo {
        identifier: u16_at::<{ icmp::IDENTIFIER }, _>(header),
        sequence: u16_at::<{ icmp::SEQUENCE }, _>(header),
        cookie: payload.first_chunk().map(bytes_at::<0, COOKIE_LEN, COOKIE_LEN>),
    }
}
