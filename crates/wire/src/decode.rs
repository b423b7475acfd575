//! Captured packets to replies.

use crate::ip::Header;
use crate::layout::protocol;
use crate::{Checksums, Ignored, Reply, ReplyKind, echo, icmp, tcp, udp};

/// Reads a captured packet that starts at its IP header.
///
/// The packet may be longer than its IP header says (link-layer padding), and shorter (the capture's snap length).
/// IPv4 options, IPv6 extension headers, TCP options and ICMP extensions are understood or skipped, in the packet and
/// in the packet it quotes. Nothing is allocated.
///
/// # Checksums
/// The IPv4 header's and ICMP's are verified; TCP's and UDP's unless `checksums` says that they cannot be. A TCP or
/// UDP packet cut short by the capture has all that is needed in its headers, so it is read unverified. A sender
/// could make its packets long enough for that, but gains nothing: a checksum is no secret, it could as well have
/// been right. What remains is accidental damage, which must hit the probe's ports and acknowledgment exactly.
///
/// # Errors
/// Why the packet is no reply.
pub fn decode(packet: &[u8], checksums: Checksums) -> Result<Reply, Ignored> {
    let header = Header::parse(packet)?;
    let segment = header.segment(packet, checksums)?;
    let kind = match header.protocol {
        protocol::TCP => ReplyKind::Tcp(tcp::reply(&segment, checksums)?),
        protocol::UDP => ReplyKind::Udp(udp::reply(&segment, checksums)?),
        other if other == echo::icmp_protocol(header.source) => icmp::decode(&segment)?,
        _ => return Err(Ignored::NotAnAnswer),
    };
    Ok(Reply {
        source: header.source,
        destination: header.destination,
        ttl: header.ttl,
        kind,
    })
}
