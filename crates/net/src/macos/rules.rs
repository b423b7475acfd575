//! What is peculiar to macOS and touches no system, so that it is tested everywhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::route::needs_scope;
use crate::unix::interfaces::Interface;

/// The source address for probes to `target`, where the kernel says `routed`: for addresses of the
/// loopback interface it may say one of another.
pub(super) fn source(target: IpAddr, routed: IpAddr) -> IpAddr {
    match target {
        IpAddr::V4(v4) if v4.is_loopback() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_loopback() => Ipv6Addr::LOCALHOST.into(),
        _ => routed,
    }
}

/// Whether an address is this interface's. `bound`: the interface that a flow leaves by, which
/// decides whose a link-local address is; 0: the routing tables decide.
pub(super) fn is_at(interface: &Interface, address: IpAddr, bound: u32) -> bool {
    let is_right_link = bound == 0 || interface.index == bound;
    interface.has(address) && (is_right_link || !needs_scope(address))
}

/// The interfaces where answers of `target` to `source` arrive: those with that address, the one
/// that the flow leaves by, and the loopback interface when the target is this host itself,
/// whatever address it goes by.
pub(super) fn interfaces(
    all: &[Interface],
    target: IpAddr,
    source: IpAddr,
    bound: u32,
) -> impl Iterator<Item = &Interface> {
    let is_here = target.is_loopback() || all.iter().any(|interface| is_at(interface, target, bound));
    all.iter().filter(move |interface| {
        let is_bound = bound != 0 && interface.index == bound;
        is_bound || is_at(interface, source, bound) || (is_here && interface.is_loopback)
    })
}

/// `ip_len` and `ip_off` in an IPv4 header.
const HOST_ORDER_FIELDS: [usize; 2] = [2, 6];

/// Turns an IPv4 packet into what the kernel wants with `IP_HDRINCL`: total length and fragment
/// field in the byte order of the host (ip(4), "BUGS"). The kernel turns them back and computes the
/// header's checksum.
pub(super) fn to_host_order(packet: &mut [u8]) {
    for at in HOST_ORDER_FIELDS {
        if let Some([high, low]) = packet.get_mut(at..at + 2) {
            [*high, *low] = u16::from_be_bytes([*high, *low]).to_ne_bytes();
        }
    }
}

const IPV6_HEADER_LEN: usize = 40;

/// An IPv6 packet as raw sockets take it: the kernel writes the header.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct V6Packet<'a> {
    /// Next header: the protocol of the socket to use.
    pub(super) protocol: u8,
    pub(super) hop_limit: u8,
    pub(super) traffic_class: u8,
    pub(super) payload: &'a [u8],
}

impl<'a> V6Packet<'a> {
    /// Takes an encoded probe apart. Its flow label is lost: the kernel uses the socket's own, one
    /// that it made up.
    pub(super) fn parse(packet: &'a [u8]) -> Option<Self> {
        let (header, payload) = packet.split_first_chunk::<IPV6_HEADER_LEN>()?;
        Some(V6Packet {
            protocol: header[6],
            hop_limit: header[7],
            // RFC 8200 §3: 8 bits after the 4 of the version.
            traffic_class: header[0] << 4 | header[1] >> 4,
            payload,
        })
    }
}

pub(super) const IPPROTO_IPV6: i32 = 41;
/// The number of RFC 3542's option; there also is one of RFC 2292's by that name.
pub(super) const IPV6_PKTINFO: i32 = 46;
/// As above. Accepted with a packet only, not by setsockopt(2).
pub(super) const IPV6_HOPLIMIT: i32 = 47;
/// Likewise; RFC 3542 §6.5.
pub(super) const IPV6_TCLASS: i32 = 36;
/// Likewise; RFC 3542 §11.2.
pub(super) const IPV6_DONTFRAG: i32 = 62;
/// Bytes of `struct cmsghdr`: length, level, type (4 each).
pub(super) const CONTROL_HEADER_LEN: usize = 12;
/// Bytes of `struct in6_pktinfo`: address, interface.
pub(super) const PACKET_INFO_LEN: usize = 20;
/// Control messages are aligned to 4 bytes, and all are multiples of that.
pub(super) const CONTROL_LEN: usize = 3 * (CONTROL_HEADER_LEN + 4) + CONTROL_HEADER_LEN + PACKET_INFO_LEN;

/// The control messages of an IPv6 packet: its hop limit, its traffic class, whether this host must
/// not fragment it, its source address and, unless 0, its interface.
///
/// The source must be the one that the checksums were computed with. That of `ICMPv6` the kernel
/// computes again, from the same bytes and addresses, and so gets the same.
pub(super) fn v6_control(
    packet: &V6Packet<'_>,
    source: Ipv6Addr,
    scope: u32,
    dont_fragment: bool,
) -> [u8; CONTROL_LEN] {
    let header = |len: usize, kind: i32| -> [[u8; 4]; 3] {
        [
            ((CONTROL_HEADER_LEN + len) as u32).to_ne_bytes(),
            IPPROTO_IPV6.to_ne_bytes(),
            kind.to_ne_bytes(),
        ]
    };
    let mut control = [0; CONTROL_LEN];
    let parts = [
        header(4, IPV6_HOPLIMIT).as_flattened(),
        &i32::from(packet.hop_limit).to_ne_bytes(),
        header(4, IPV6_TCLASS).as_flattened(),
        &i32::from(packet.traffic_class).to_ne_bytes(),
        header(4, IPV6_DONTFRAG).as_flattened(),
        &i32::from(dont_fragment).to_ne_bytes(),
        header(PACKET_INFO_LEN, IPV6_PKTINFO).as_flattened(),
        &source.octets(),
        &scope.to_ne_bytes(),
    ]
    .concat();
    control.copy_from_slice(&parts);
    control
}

#[cfg(test)]
mod tests {
    use super::*;

    use traceroute_wire::{MAX_PROBE_LEN, Probe, ProbeKind};

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    fn interfaces_of_a_laptop() -> Vec<Interface> {
        let interface = |name: &str, index, addresses: &[&str]| Interface {
            name: name.to_owned(),
            index,
            is_loopback: index == 1,
            addresses: addresses.iter().map(|text| ip(text)).collect(),
        };
        vec![
            interface("lo0", 1, &["127.0.0.1", "::1", "fe80::1"]),
            interface("en0", 4, &["192.0.2.10", "fe80::4", "2001:db8::10"]),
            interface("utun3", 9, &["10.8.0.2", "fe80::9"]),
        ]
    }

    fn chosen(target: &str, source: &str) -> Vec<String> {
        chosen_by(target, source, 0)
    }

    fn chosen_by(target: &str, source: &str, bound: u32) -> Vec<String> {
        let all = interfaces_of_a_laptop();
        interfaces(&all, ip(target), ip(source), bound)
            .map(|interface| interface.name.clone())
            .collect()
    }

    #[test]
    fn replies_arrive_where_the_source_address_is() {
        assert_eq!(chosen("198.51.100.1", "192.0.2.10"), ["en0"]);
        assert_eq!(chosen("2001:db8:1::1", "2001:db8::10"), ["en0"]);
        assert_eq!(chosen("198.51.100.1", "10.8.0.2"), ["utun3"]);
        assert_eq!(chosen("198.51.100.1", "192.0.2.99"), [""; 0]);
    }

    #[test]
    fn this_host_answers_on_its_loopback_interface() {
        assert_eq!(chosen("127.0.0.1", "127.0.0.1"), ["lo0"]);
        assert_eq!(chosen("127.1.2.3", "127.0.0.1"), ["lo0"]);
        assert_eq!(chosen("::1", "::1"), ["lo0"]);
        assert_eq!(chosen("192.0.2.10", "192.0.2.10"), ["lo0", "en0"]);
    }

    #[test]
    fn replies_arrive_by_the_chosen_interface_too() {
        assert_eq!(chosen_by("198.51.100.1", "192.0.2.10", 4), ["en0"]);
        assert_eq!(chosen_by("198.51.100.1", "192.0.2.10", 9), ["en0", "utun3"]);
    }

    #[test]
    fn a_link_local_address_is_that_of_the_chosen_interface() {
        // Also the loopback interface's address; here it is a router's.
        assert_eq!(chosen_by("fe80::1", "fe80::4", 4), ["en0"]);
        assert_eq!(chosen_by("fe80::1", "fe80::1", 1), ["lo0"]);
        assert_eq!(chosen_by("fe80::2", "fe80::9", 9), ["utun3"]);
        assert_eq!(chosen_by("fe80::4", "fe80::4", 4), ["lo0", "en0"]);
    }

    #[test]
    fn loopback_targets_are_probed_from_loopback() {
        assert_eq!(source(ip("127.0.0.9"), ip("192.0.2.10")), ip("127.0.0.1"));
        assert_eq!(source(ip("::1"), ip("2001:db8::10")), ip("::1"));
        assert_eq!(source(ip("198.51.100.1"), ip("192.0.2.10")), ip("192.0.2.10"));
    }

    fn probe(source: &str, destination: &str) -> Probe {
        Probe {
            source: ip(source),
            destination: ip(destination),
            ttl: 7,
            identification: 0x1234,
            flow_label: 0xABCDE,
            tos: 0xB9,
            dont_fragment: false,
            kind: ProbeKind::Udp {
                source_port: 50_000,
                destination_port: 33_434,
                tag: 77,
                payload_len: 10,
            },
        }
    }

    #[test]
    fn length_and_fragment_field_are_in_host_order_and_nothing_else_changes() {
        let mut buffer = [0; MAX_PROBE_LEN];
        let original = probe("192.0.2.10", "198.51.100.1")
            .encode(&mut buffer)
            .expect("a packet")
            .to_vec();
        let mut packet = original.clone();
        to_host_order(&mut packet);
        assert_eq!(packet[2..4], (original.len() as u16).to_ne_bytes());
        assert_eq!(packet[6..8], 0x4000_u16.to_ne_bytes(), "don't fragment");
        to_host_order(&mut packet);
        assert_eq!(packet, original, "the conversion is its own inverse");
        to_host_order(&mut packet[..7]);
    }

    #[test]
    fn a_packet_is_taken_apart_for_a_raw_ipv6_socket() {
        let mut buffer = [0; MAX_PROBE_LEN];
        let packet = probe("2001:db8::10", "2001:db8::1")
            .encode(&mut buffer)
            .expect("a packet");
        let parts = V6Packet::parse(packet).expect("an IPv6 packet");
        assert_eq!(
            (parts.protocol, parts.hop_limit, parts.traffic_class),
            (17, 7, 0xB9)
        );
        assert_eq!(parts.payload, &packet[40..]);
        assert_eq!(V6Packet::parse(&packet[..39]), None);
    }

    #[test]
    fn control_messages_say_what_the_header_is_to_be() {
        let packet = V6Packet {
            protocol: 17,
            hop_limit: 7,
            traffic_class: 0xB9,
            payload: &[],
        };
        let control = v6_control(&packet, "2001:db8::10".parse().expect("address"), 4, true);
        let words: Vec<u32> = control
            .chunks_exact(4)
            .map(|word| u32::from_ne_bytes(word.try_into().expect("4 bytes")))
            .collect();
        assert_eq!(words[..4], [16, 41, 47, 7]);
        assert_eq!(words[4..8], [16, 41, 36, 0xB9]);
        assert_eq!(words[8..12], [16, 41, 62, 1]);
        assert_eq!(words[12..15], [32, 41, 46]);
        assert_eq!(
            IpAddr::from(<[u8; 16]>::try_from(&control[60..76]).expect("16 bytes")),
            ip("2001:db8::10")
        );
        assert_eq!(words[19..], [4]);
    }
}
