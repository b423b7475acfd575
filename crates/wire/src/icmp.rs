//! ICMP and `ICMPv6` messages: errors with the packet they quote, and echo replies.

use std::net::IpAddr;

use crate::ip::{Fragment, Header, Segment};
use crate::layout::{QUOTED_TRANSPORT_LEN, icmp, ipv4, protocol, u8_at};
use crate::{Family, IcmpError, Ignored, Quoted, ReplyKind, echo, mpls, tcp, udp};

/// Reads an ICMP message of the family of its addresses.
///
/// Its checksum is verified, unless the capture may have cut it short: then it can only be an echo
/// reply, since errors are not that long.
pub(crate) fn decode(segment: &Segment<'_>, may_be_cut: bool) -> Result<ReplyKind, Ignored> {
    let (header, body) = segment.bytes.split_first_chunk().ok_or(Ignored::Truncated)?;
    let message = Message::classify(segment.source, header);
    if segment.is_cut() {
        return match message {
            Message::EchoReply if may_be_cut => Ok(echo::reply(header, body)),
            _ => Err(Ignored::Truncated),
        };
    }
    let sum = match segment.source {
        IpAddr::V4(_) => crate::checksum::Sum::default(),
        IpAddr::V6(_) => segment.pseudo_header(segment.len),
    };
    if !sum.bytes(segment.bytes).is_valid() {
        return Err(Ignored::BadChecksum);
    }
    match message {
        Message::EchoReply => Ok(echo::reply(header, body)),
        Message::Error(error) => decode_error(segment.source, error, header, body),
        Message::Other => Err(Ignored::NotAnAnswer),
    }
}

enum Message {
    EchoReply,
    Error(IcmpError),
    Other,
}

impl Message {
    fn classify(source: IpAddr, header: &[u8; icmp::HEADER_LEN]) -> Message {
        let code = u8_at::<{ icmp::CODE }, _>(header);
        match (source, u8_at::<{ icmp::TYPE }, _>(header)) {
            (IpAddr::V4(_), icmp::V4_ECHO_REPLY) | (IpAddr::V6(_), icmp::V6_ECHO_REPLY) => Message::EchoReply,
            (_, kind) => IcmpError::from_type_and_code(Family::of(source), kind, code)
                .map_or(Message::Other, Message::Error),
        }
    }
}

fn decode_error(
    source: IpAddr,
    error: IcmpError,
    header: &[u8; icmp::HEADER_LEN],
    body: &[u8],
) -> Result<ReplyKind, Ignored> {
    let quote_len = match source {
        IpAddr::V4(_) => usize::from(u8_at::<{ icmp::V4_QUOTE_LENGTH }, _>(header)) * 4,
        IpAddr::V6(_) => usize::from(u8_at::<{ icmp::V6_QUOTE_LENGTH }, _>(header)) * 8,
    };
    let (quote, mpls) = mpls::split_extensions(body, quote_len);
    let quoted = decode_quoted(source, quote)?;
    Ok(ReplyKind::IcmpError { error, quoted, mpls })
}

/// Reads the quoted packet. Its checksum, TTL, type of service and total length are as routers left
/// them: the first two change on the way, and some routers quote the total length in their own byte
/// order. None is relied upon.
fn decode_quoted(outer_source: IpAddr, quote: &[u8]) -> Result<Quoted, Ignored> {
    let header = Header::parse(quote).map_err(|why| match why {
        Ignored::Truncated => Ignored::Truncated,
        _ => Ignored::ForeignQuote,
    })?;
    if header.source.is_ipv4() != outer_source.is_ipv4() || !has_transport_header(&header) {
        return Err(Ignored::ForeignQuote);
    }
    let (transport, rest): (&[u8; QUOTED_TRANSPORT_LEN], _) = quote
        .get(header.len..)
        .and_then(<[u8]>::split_first_chunk)
        .ok_or(Ignored::Truncated)?;
    let transport = match header.protocol {
        protocol::UDP => Some(udp::quoted(transport)),
        protocol::TCP => Some(tcp::quoted(transport, rest)),
        other if other == echo::icmp_protocol(header.source) => echo::quoted(header.source, transport),
        _ => None,
    };
    Ok(Quoted {
        source: header.source,
        destination: header.destination,
        ttl: header.ttl,
        identification: header.identification,
        flow_label: header.flow_label,
        transport: transport.ok_or(Ignored::ForeignQuote)?,
    })
}

/// Whether what is behind the IP header is a transport header. Routers that quote the length in
/// their own byte order do so with the fragment field too: a lone DF bit then reads as an offset.
fn has_transport_header(header: &Header) -> bool {
    const SWAPPED_DF: u16 = ipv4::DONT_FRAGMENT.swap_bytes();
    match header.fragment {
        Fragment::Whole | Fragment::First => true,
        Fragment::Later(offset) => header.source.is_ipv4() && offset == SWAPPED_DF,
    }
}
