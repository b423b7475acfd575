//! Captured packets to replies.

use crate::ip::Header;
use crate::layout::{self, protocol};
use crate::{Checksums, Ignored, Reply, ReplyKind, echo, icmp, tcp, udp};

/// The least that a capture keeps of a packet, in bytes from its IP header on. ICMP errors are
/// shorter: they have at most 1280 bytes (RFC 4443 §2.4 (c)), those of IPv4 fewer (RFC 1812 §4.3.2.3).
pub const LEAST_SNAP_LEN: usize = 1536;

/// Reads a captured packet that starts at its IP header.
///
/// The packet may be longer than its IP header says (link-layer padding), and shorter (the
/// capture's snap length). IPv4 options, IPv6 extension headers, TCP options and ICMP extensions
/// are understood or skipped, in the packet and in the packet it quotes. Nothing is allocated.
///
/// # Checksums
/// The IPv4 header's and ICMP's are verified; TCP's and UDP's unless `checksums` says that they
/// cannot be. A TCP or UDP packet cut short by the capture has all that is needed in its headers,
/// so it is read unverified, and so is an echo reply if at least [`LEAST_SNAP_LEN`] bytes of the packet
/// were captured. A sender could make its packets long enough for that, but gains
/// nothing: a checksum is no secret, it could as well have been right. What remains is accidental
/// damage, which must hit the probe's ports and acknowledgment exactly.
///
/// # Errors
/// Why the packet is no reply.
pub fn decode(packet: &[u8], checksums: Checksums) -> Result<Reply, Ignored> {
    let header = Header::parse(packet)?;
    let segment = header.segment(packet, checksums)?;
    let kind = match header.protocol {
        protocol::TCP => ReplyKind::Tcp(tcp::reply(&segment, checksums)?),
        protocol::UDP => ReplyKind::Udp(udp::reply(&segment, checksums)?),
        other if other == echo::icmp_protocol(header.source) => {
            icmp::decode(&segment, packet.len() >= LEAST_SNAP_LEN)?
        }
        _ => return Err(Ignored::NotAnAnswer),
    };
    Ok(Reply {
        source: header.source,
        destination: header.destination,
        ttl: header.ttl,
        kind,
    })
}
/// Whether a TCP or UDP packet's checksum was left to the device: it is only the sum of the
/// pseudo-header then.
///
/// For captures that do not say so. Damage that makes a wrong checksum look so has a chance of
/// 2⁻¹⁶.
pub fn is_checksum_missing(packet: &[u8]) -> bool {
    let segment = || {
        let header = Header::parse(packet).ok()?;
        let segment = header.segment(packet, Checksums::Offloaded).ok()?;
        let at = match segment.protocol {
            protocol::TCP => layout::tcp::CHECKSUM,
            protocol::UDP => layout::udp::CHECKSUM,
            _ => return None,
        };
        let field: &[u8; 2] = segment.bytes.get(at..)?.first_chunk()?;
        Some(u16::from_be_bytes(*field) == segment.pseudo_header(segment.len).fold())
    };
    segment().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::Sum;

    #[test]
    fn the_sum_of_the_pseudo_header_is_a_missing_checksum() {
        let mut segment = vec![
            0x01, 0xBB, 0x82, 0x31, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x12, 4, 0, 0, 0, 0, 0,
        ];
        let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 63, 6, 0, 0, 10, 2, 0, 2, 10, 1, 0, 1];
        let addresses = [[10, 2, 0, 2].into(), [10, 1, 0, 1].into()];
        let sum = Sum::default().pseudo_header(addresses[0], addresses[1], protocol::TCP, segment.len());
        segment[16..18].copy_from_slice(&sum.fold().to_be_bytes());
        packet.extend(&segment);
        assert!(is_checksum_missing(&packet));
        packet[36] ^= 1;
        assert!(!is_checksum_missing(&packet), "damaged");
        assert!(!is_checksum_missing(&packet[..30]), "cut short");
    }
}
