//! What a caller chooses of the packets that are sent.

use std::net::IpAddr;

use traceroute_wire::{ECHO_PAYLOAD, Family, UDP_IPV4_PAYLOAD, UDP_IPV6_BASE};

use crate::{Method, Transport};

/// What a caller chooses of the packets that are sent. The default leaves everything to the method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PacketOptions {
    /// Bytes of the whole IP packet, at least [`PacketOptions::least_size`]. Without effect on TCP,
    /// whose probes carry no data. `None`: as short as the method can make it.
    pub size: Option<u16>,
    /// IPv4 type of service or IPv6 traffic class.
    pub tos: u8,
    /// Sets IPv4's DF bit, and lets this host not fragment IPv6. UDP over IPv4 always has the bit.
    pub dont_fragment: bool,
}

/// Bytes of an ICMP or UDP header.
const TRANSPORT_HEADER: u16 = 8;

fn headers(family: Family) -> u16 {
    let network_header = match family {
        Family::V4 => 20,
        Family::V6 => 40,
    };
    network_header + TRANSPORT_HEADER
}

impl PacketOptions {
    /// Bytes of the shortest packet that has room for all that a probe is recognised by. `None`:
    /// the size cannot be chosen, because the method's probes carry no data.
    pub fn least_size(method: Method, family: Family) -> Option<u16> {
        let payload = match (method.transport(), family) {
            (None, _) => ECHO_PAYLOAD,
            (Some(Transport::Udp), Family::V4) => UDP_IPV4_PAYLOAD,
            (Some(Transport::Udp), Family::V6) => UDP_IPV6_BASE + 1,
            (Some(Transport::Tcp), _) => return None,
        };
        Some(headers(family) + payload)
    }

    /// Bytes of payload behind an ICMP or UDP header, if the size is chosen.
    pub(crate) fn payload(self, destination: IpAddr) -> Option<u16> {
        Some(self.size?.saturating_sub(headers(Family::of(destination))))
    }
}
