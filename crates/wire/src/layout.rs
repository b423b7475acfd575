//! Where the fields are: the one list of numbers that encoder, decoder and filter share.
//!
//! Offsets are in bytes from the start of their header. The accessors take the header as an array
//! and the offset as a constant, so that a field beyond its header does not compile and no access
//! can fail.

/// IPv4 (RFC 791 §3.1).
pub(crate) mod ipv4 {
    pub(crate) const HEADER_LEN: usize = 20;
    pub(crate) const VERSION_IHL: usize = 0;
    pub(crate) const TOTAL_LENGTH: usize = 2;
    pub(crate) const IDENTIFICATION: usize = 4;
    pub(crate) const FRAGMENT: usize = 6;
    pub(crate) const TTL: usize = 8;
    pub(crate) const PROTOCOL: usize = 9;
    pub(crate) const CHECKSUM: usize = 10;
    pub(crate) const SOURCE: usize = 12;
    pub(crate) const DESTINATION: usize = 16;

    pub(crate) const DONT_FRAGMENT: u16 = 0x4000;
    pub(crate) const MORE_FRAGMENTS: u16 = 0x2000;
    pub(crate) const FRAGMENT_OFFSET_MASK: u16 = 0x1FFF;
}

/// IPv6 (RFC 8200 §3) and its extension headers (§4).
pub(crate) mod ipv6 {
    pub(crate) const HEADER_LEN: usize = 40;
    pub(crate) const VERSION_FLOW: usize = 0;
    pub(crate) const PAYLOAD_LENGTH: usize = 4;
    pub(crate) const NEXT_HEADER: usize = 6;
    pub(crate) const HOP_LIMIT: usize = 7;
    pub(crate) const SOURCE: usize = 8;
    pub(crate) const DESTINATION: usize = 24;

    pub(crate) const FLOW_LABEL_MASK: u32 = 0x000F_FFFF;

    /// Next header 0.
    pub(crate) const HOP_BY_HOP: u8 = 0;
    /// Next header 43.
    pub(crate) const ROUTING: u8 = 43;
    /// Next header 44.
    pub(crate) const FRAGMENT: u8 = 44;
    /// Next header 60.
    pub(crate) const DESTINATION_OPTIONS: u8 = 60;
    /// The extension headers that are skipped. The others (AH, ESP, mobility) lead to no answer.
    pub(crate) const EXTENSIONS: [u8; 4] = [HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS];
}

/// Protocol and next header numbers.
pub(crate) mod protocol {
    pub(crate) const ICMP: u8 = 1;
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;
    pub(crate) const ICMPV6: u8 = 58;
}

/// ICMP (RFC 792) and `ICMPv6` (RFC 4443): the first 8 bytes.
pub(crate) mod icmp {
    pub(crate) const HEADER_LEN: usize = 8;
    pub(crate) const TYPE: usize = 0;
    pub(crate) const CODE: usize = 1;
    pub(crate) const CHECKSUM: usize = 2;
    pub(crate) const IDENTIFIER: usize = 4;
    pub(crate) const SEQUENCE: usize = 6;
    /// Length of the quoted packet in 8-byte units (RFC 4884 §4.4, §4.5).
    pub(crate) const V6_QUOTE_LENGTH: usize = 4;
    /// Length of the quoted packet in 4-byte units (RFC 4884 §4.1, §4.2).
    pub(crate) const V4_QUOTE_LENGTH: usize = 5;

    pub(crate) const V4_ECHO_REPLY: u8 = 0;
    pub(crate) const V4_UNREACHABLE: u8 = 3;
    pub(crate) const V4_ECHO_REQUEST: u8 = 8;
    pub(crate) const V4_TIME_EXCEEDED: u8 = 11;
    pub(crate) const V6_UNREACHABLE: u8 = 1;
    pub(crate) const V6_TIME_EXCEEDED: u8 = 3;
    pub(crate) const V6_ECHO_REQUEST: u8 = 128;
    pub(crate) const V6_ECHO_REPLY: u8 = 129;
}

/// UDP (RFC 768).
pub(crate) mod udp {
    pub(crate) const HEADER_LEN: usize = 8;
    pub(crate) const SOURCE_PORT: usize = 0;
    pub(crate) const DESTINATION_PORT: usize = 2;
    pub(crate) const LENGTH: usize = 4;
    pub(crate) const CHECKSUM: usize = 6;
}

/// TCP (RFC 9293 §3.1).
pub(crate) mod tcp {
    pub(crate) const HEADER_LEN: usize = 20;
    pub(crate) const SOURCE_PORT: usize = 0;
    pub(crate) const DESTINATION_PORT: usize = 2;
    pub(crate) const SEQUENCE: usize = 4;
    pub(crate) const ACKNOWLEDGMENT: usize = 8;
    pub(crate) const DATA_OFFSET: usize = 12;
    pub(crate) const FLAGS: usize = 13;
    pub(crate) const CHECKSUM: usize = 16;

    pub(crate) const FIN: u8 = 0x01;
    pub(crate) const SYN: u8 = 0x02;
    pub(crate) const RST: u8 = 0x04;
    pub(crate) const PSH: u8 = 0x08;
    pub(crate) const ACK: u8 = 0x10;
}

/// What a quote must hold behind its IP header (RFC 792: "plus 64 bits of the original datagram's
/// data").
pub(crate) const QUOTED_TRANSPORT_LEN: usize = 8;

/// The `LEN` bytes at offset `AT`.
pub(crate) fn bytes_at<const AT: usize, const LEN: usize, const N: usize>(header: &[u8; N]) -> [u8; LEN] {
    const { assert!(AT + LEN <= N, "field beyond its header") };
    std::array::from_fn(|i| header[AT + i])
}

/// The byte at offset `AT`.
pub(crate) fn u8_at<const AT: usize, const N: usize>(header: &[u8; N]) -> u8 {
    let [byte] = bytes_at::<AT, 1, N>(header);
    byte
}

/// The big-endian 16-bit field at offset `AT`.
pub(crate) fn u16_at<const AT: usize, const N: usize>(header: &[u8; N]) -> u16 {
    u16::from_be_bytes(bytes_at::<AT, 2, N>(header))
}

/// The big-endian 32-bit field at offset `AT`.
pub(crate) fn u32_at<const AT: usize, const N: usize>(header: &[u8; N]) -> u32 {
    u32::from_be_bytes(bytes_at::<AT, 4, N>(header))
}
