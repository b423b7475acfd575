//! What a node receives, byte by byte.

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};

use traceroute_testbed::{Node, Result};

/// Packets that a node receives, be they for itself or to be forwarded, from the start of the
/// capture on.
pub(crate) struct Capture([UdpSocket; 2]);

impl Capture {
    pub(crate) fn start(node: &Node) -> Result<Capture> {
        // For a given protocol, packet sockets see what is received but not what is sent. packet(7)
        let open = |protocol: i32| {
            let protocol = i32::from((protocol as u16).to_be());
            let socket = node.socket(libc::AF_PACKET, libc::SOCK_DGRAM, protocol)?;
            // To the standard library, any socket that receives datagrams may be a UDP socket.
            let socket = UdpSocket::from(socket);
            socket.set_nonblocking(true).unwrap();
            Ok(socket)
        };
        Ok(Capture([open(libc::ETH_P_IP)?, open(libc::ETH_P_IPV6)?]))
    }

    /// Those from `source` that have arrived since the last call, from their IP header on, in order
    /// of arrival, without neighbour discovery.
    pub(crate) fn packets_from(&self, source: IpAddr) -> Vec<Vec<u8>> {
        let socket = &self.0[usize::from(source.is_ipv6())];
        let mut packets = Vec::new();
        let mut buffer = [0; 2048];
        loop {
            match socket.recv(&mut buffer) {
                Ok(length) => packets.push(buffer[..length].to_vec()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        packets.retain(|packet| is_from(packet, source) && !is_neighbour_discovery(packet));
        packets
    }
}

fn is_from(packet: &[u8], source: IpAddr) -> bool {
    match source {
        IpAddr::V4(v4) => packet[12..16] == v4.octets(),
        IpAddr::V6(v6) => packet[8..24] == v6.octets(),
    }
}

/// `ICMPv6` types 133 to 137. RFC 4861 section 4
fn is_neighbour_discovery(packet: &[u8]) -> bool {
    packet[0] >> 4 == 6 && packet[6] == 58 && (133..=137).contains(&packet[40])
}
