//! UDP: the probe, its quote, and the answer of a service.

use std::net::IpAddr;

use crate::checksum::{Sum, balance};
use crate::ip::Segment;
use crate::layout::{QUOTED_TRANSPORT_LEN, protocol, u16_at, udp};
use crate::writer::Writer;
use crate::{Checksums, Family, Ignored, Probe, QuotedTransport, UDP_IPV6_BASE, UdpReply};

/// What probe payloads start with.
const SIGNATURE: [u8; 5] = *b"NSMNC";

/// The sum of those checksummed fields that a NAT may rewrite.
pub(crate) fn rewritable(source: IpAddr, source_port: u16) -> Sum {
    Sum::default().address(source).word(source_port)
}

/// Writes a UDP probe.
pub(crate) fn write(
    out: &mut Writer<'_>,
    probe: &Probe,
    (source_port, destination_port): (u16, u16),
    tag: u16,
    payload_len: usize,
) -> Option<()> {
    let len = udp::HEADER_LEN + payload_len;
    out.put_u16(source_port)?;
    out.put_u16(destination_port)?;
    out.put_u16(len as u16)?;
    out.put_u16(0)?;
    match probe.destination {
        IpAddr::V4(_) => write_v4_payload(out, probe.identification, payload_len)?,
        IpAddr::V6(_) => write_v6_payload(out, payload_len)?,
    }

    let pseudo = Sum::default().pseudo_header(probe.source, probe.destination, protocol::UDP, len);
    let balance_at = udp::HEADER_LEN + balance_offset(Family::of(probe.destination), payload_len);
    out.set_u16(balance_at, 0)?;
    let sum = pseudo.bytes(out.written());
    let word = balance(sum, rewritable(probe.source, source_port), tag);
    // RFC 1071 §2 (B): at an odd offset a word counts with its bytes swapped.
    let word = if balance_at.is_multiple_of(2) {
        word
    } else {
        word.swap_bytes()
    };
    out.set_u16(balance_at, word)?;

    // RFC 768: "If the computed checksum is zero, it is transmitted as all ones".
    let checksum = match pseudo.bytes(out.written()).checksum() {
        0 => 0xFFFF,
        checksum => checksum,
    };
    out.set_u16(udp::CHECKSUM, checksum)
}

fn write_v4_payload(out: &mut Writer<'_>, identification: u16, len: usize) -> Option<()> {
    out.put(&SIGNATURE)?;
    out.put(&[0])?;
    out.put_u16(identification)?;
    let rest = len.checked_sub(SIGNATURE.len() + 3).filter(|rest| *rest >= 2)?;
    std::iter::repeat_n([0], rest).try_for_each(|byte| out.put(&byte))
}

fn write_v6_payload(out: &mut Writer<'_>, len: usize) -> Option<()> {
    SIGNATURE
        .iter()
        .cycle()
        .take(len)
        .try_for_each(|byte| out.put(&[*byte]))
}

/// Reads the header of a quoted datagram.
pub(crate) fn quoted(header: &[u8; QUOTED_TRANSPORT_LEN]) -> QuotedTransport {
    QuotedTransport::Udp {
        source_port: u16_at::<{ udp::SOURCE_PORT }, _>(header),
        destination_port: u16_at::<{ udp::DESTINATION_PORT }, _>(header),
        length: u16_at::<{ udp::LENGTH }, _>(header),
        checksum: u16_at::<{ udp::CHECKSUM }, _>(header),
    }
}

/// Reads a datagram from a target.
pub(crate) fn reply(segment: &Segment<'_>, checksums: Checksums) -> Result<UdpReply, Ignored> {
    let header = segment.bytes.first_chunk().ok_or(Ignored::Truncated)?;
    // May be less than the IP header says (RFC 768 leaves what follows undefined), not more.
    let len = usize::from(u16_at::<{ udp::LENGTH }, { udp::HEADER_LEN }>(header));
    if len < udp::HEADER_LEN || len > segment.len {
        return Err(Ignored::Malformed);
    }
    if checksums == Checksums::Verify {
        verify(segment, len, u16_at::<{ udp::CHECKSUM }, _>(header))?;
    }
    let datagram = segment.bytes.get(..len).unwrap_or(segment.bytes);
    Ok(UdpReply {
        source_port: u16_at::<{ udp::SOURCE_PORT }, _>(header),
        destination_port: u16_at::<{ udp::DESTINATION_PORT }, _>(header),
        payload_len: (len - udp::HEADER_LEN) as u16,
        echoed: datagram
            .get(udp::HEADER_LEN..)
            .and_then(|payload| echoed(Family::of(segment.source), payload, len - udp::HEADER_LEN)),
    })
}

/// Verifies the checksum of a datagram of `len` bytes, unless the capture cut it short: see
/// [`decode`](crate::decode()).
fn verify(segment: &Segment<'_>, len: usize, checksum: u16) -> Result<(), Ignored> {
    let valid = match (checksum, segment.bytes.get(..len)) {
        // RFC 768: no checksum; RFC 8200 §8.1 forbids that.
        (0, _) => segment.source.is_ipv4(),
        (_, Some(datagram)) => segment.pseudo_header(len).bytes(datagram).is_valid(),
        (_, None) => true,
    };
    if valid { Ok(()) } else { Err(Ignored::BadChecksum) }
}

/// What identifies the probe whose payload of `len` bytes this is, perhaps cut short: in IPv4 the
/// identification, in IPv6 the length.
pub(crate) fn echoed(family: Family, payload: &[u8], len: usize) -> Option<u16> {
    match family {
        Family::V4 => v4_identification(payload),
        Family::V6 => v6_length(payload, len),
    }
}

fn v4_identification(payload: &[u8]) -> Option<u16> {
    let (high_low, _) = payload
        .strip_prefix(&SIGNATURE)?
        .strip_prefix(&[0])?
        .split_first_chunk()?;
    Some(u16::from_be_bytes(*high_low))
}

fn v6_length(payload: &[u8], len: usize) -> Option<u16> {
    let length = u16::try_from(len).ok().filter(|length| *length > UDP_IPV6_BASE)?;
    let pattern = SIGNATURE.iter().cycle();
    let balance = balance_offset(Family::V6, len);
    let is_ours =
        |(at, (byte, wanted)): (usize, (&u8, &u8))| byte == wanted || (balance..balance + 2).contains(&at);
    let is_echo = payload.len() > SIGNATURE.len() && payload.iter().zip(pattern).enumerate().all(is_ours);
    is_echo.then_some(length)
}

/// Where in a payload of `len` bytes the two balancing ones are. In IPv4 they are the last word. In
/// IPv6, where nothing else in a payload tells the probe, they follow the signature, so that a
/// quote that is cut short has them too. They take the signature's end where there is no more room.
fn balance_offset(family: Family, len: usize) -> usize {
    match family {
        Family::V4 => (len / 2).saturating_sub(1) * 2,
        Family::V6 => SIGNATURE.len().min(len.saturating_sub(2)),
    }
}
