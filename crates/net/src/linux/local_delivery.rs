//! Raw sockets that see replies after this host's own firewall and translation (raw(7)).
//!
//! A packet socket sees a packet as it came in: before netfilter translates it back (masquerading,
//! service addresses) and before decryption. These sockets see what the kernel delivers to programs
//! of this host. They miss what a firewall rule or a strict `rp_filter` drops here, so both views
//! are needed: [`Views`](super::views::Views) merges them.
//!
//! The sockets of a family are one for each protocol, opened when that protocol is first probed.
//! Each runs the capture's filter, so foreign packets are not queued.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use traceroute_engine::Transport;
use traceroute_wire::{Checksums, Ignored, Reply};
use traceroute_wire::{Family, filter};

use super::capture::{RECEIVE_BUFFER, SNAP_LEN};
use super::cmsg::{Notes, parse_address};
use super::queue;
use super::sys::{self, PACKET_BATCH, PacketBatch};

/// `SKF_NET_OFF` (linux/filter.h): offsets from here on count from the IP header. Filters of raw
/// IPv6 sockets start behind it.
const NETWORK_HEADER: u32 = -0x10_0000_i32 as u32;
const IPV6_HEADER: usize = 40;

/// What the kernel delivers to this host, of one address family.
pub(super) struct LocalDelivery {
    family: Family,
    sockets: Vec<Receiver>,
    blocks: Vec<u8>,
    /// The protocols that are watched, also at rest.
    watched: Vec<libc::c_int>,
    rests: bool,
}

struct Receiver {
    protocol: libc::c_int,
    socket: OwnedFd,
    batch: Box<PacketBatch<SNAP_LEN>>,
    /// Read and not taken yet.
    next: usize,
    filled: usize,
}

/// One packet as it was delivered.
#[derive(Debug)]
pub(super) struct Delivered {
    /// When it arrived, in nanoseconds of the wall clock: the same as the packet capture's for this
    /// packet.
    pub(super) stamp: i64,
    pub(super) reply: Result<Reply, Ignored>,
}

impl LocalDelivery {
    /// Watches ICMP only.
    pub(super) fn open(family: Family) -> io::Result<Self> {
        let icmp = match family {
            Family::V4 => libc::IPPROTO_ICMP,
            Family::V6 => libc::IPPROTO_ICMPV6,
        };
        let mut delivery = LocalDelivery {
            family,
            sockets: Vec::new(),
            blocks: Vec::new(),
            watched: vec![icmp],
            rests: false,
        };
        delivery.resume()?;
        Ok(delivery)
    }

    /// Watches a transport's packets to ports of these blocks too.
    pub(super) fn watch(&mut self, transport: Transport, blocks: &[u8]) -> io::Result<()> {
        let protocol = match transport {
            Transport::Udp => libc::IPPROTO_UDP,
            Transport::Tcp => libc::IPPROTO_TCP,
        };
        if self.blocks != blocks {
            self.blocks = blocks.to_vec();
            let program = self.program();
            for receiver in &self.sockets {
                sys::attach_filter(receiver.socket.as_fd(), &program)?;
            }
        }
        if !self.watched.contains(&protocol) {
            self.watched.push(protocol);
            if !self.rests {
                self.resume()?;
            }
        }
        Ok(())
    }

    /// Stops watching until [`LocalDelivery::resume`]: each socket costs the kernel a copy of every
    /// packet of its protocol.
    pub(super) fn rest(&mut self) {
        self.sockets.clear();
        self.rests = true;
    }

    /// Ends a [rest](LocalDelivery::rest).
    pub(super) fn resume(&mut self) -> io::Result<()> {
        self.rests = false;
        for &protocol in &self.watched {
            if !self.sockets.iter().any(|receiver| receiver.protocol == protocol) {
                self.sockets
                    .push(Receiver::open(self.family, protocol, &self.program())?);
            }
        }
        Ok(())
    }

    fn program(&self) -> Vec<libc::sock_filter> {
        let link_header_len = match self.family {
            Family::V4 => 0,
            Family::V6 => NETWORK_HEADER,
        };
        super::capture::translate(&filter::program(&filter::FilterParameters {
            family: self.family,
            port_blocks: &self.blocks,
            link_header_len,
            // ICMPv6's checksum is the kernel's to verify here, which it cannot in a part of a
            // packet.
            snap_len: u32::from(u16::MAX),
            segment_snap_len: u32::from(u16::MAX),
        }))
    }

    /// The descriptors to wait for.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets.iter().map(|receiver| receiver.socket.as_fd())
    }

    /// Reads what has arrived, at most one batch of each protocol; how many packets wait to be
    /// taken.
    pub(super) fn read(&mut self) -> usize {
        self.sockets.iter_mut().map(Receiver::read).sum()
    }

    /// Whether what was read last is all that had arrived.
    pub(super) fn is_emptied(&self) -> bool {
        self.sockets.iter().all(|receiver| receiver.filled < PACKET_BATCH)
    }

    /// Packets for which the sockets had no room.
    pub(super) fn lost(&self) -> u64 {
        let lost = |receiver: &Receiver| sys::socket_drops(receiver.socket.as_fd());
        // A socket that cannot be asked has lost none.
        self.sockets
            .iter()
            .filter_map(|receiver| lost(receiver).ok())
            .map(u64::from)
            .sum()
    }

    /// Takes what was read.
    pub(super) fn take(&mut self, mut deliver: impl FnMut(Delivered)) {
        for receiver in &mut self.sockets {
            while receiver.next < receiver.filled {
                if let Some(delivered) = receiver.parse(receiver.next) {
                    deliver(delivered);
                }
                receiver.next += 1;
            }
        }
    }

    /// Open sockets.
    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }
}

impl Receiver {
    fn open(family: Family, protocol: libc::c_int, program: &[libc::sock_filter]) -> io::Result<Self> {
        let domain = match family {
            Family::V4 => libc::AF_INET,
            Family::V6 => libc::AF_INET6,
        };
        let socket = sys::socket(domain, libc::SOCK_RAW, protocol)?;
        let fd = socket.as_fd();
        sys::attach_filter(fd, program)?;
        if family == Family::V6 {
            for option in [libc::IPV6_RECVHOPLIMIT, libc::IPV6_RECVPKTINFO] {
                sys::set_option(fd, libc::IPPROTO_IPV6, option, 1_i32)?;
            }
        }
        sys::set_option(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1_i32)?;
        let _ = sys::set_receive_buffer(fd, RECEIVE_BUFFER);
        let mut receiver = Receiver {
            protocol,
            socket,
            batch: PacketBatch::new(),
            next: 0,
            filled: 0,
        };
        // A packet may have come in before the filter did.
        while receiver.fill() == PACKET_BATCH {}
        receiver.filled = 0;
        Ok(receiver)
    }

    fn read(&mut self) -> usize {
        if self.next == self.filled {
            self.next = 0;
            self.fill();
        }
        self.filled - self.next
    }

    fn fill(&mut self) -> usize {
        self.filled =
            sys::receive_packets(self.socket.as_fd(), &mut self.batch, libc::MSG_TRUNC).unwrap_or(0);
        self.filled
    }

    fn parse(&self, index: usize) -> Option<Delivered> {
        let packet = self.batch.packet(index)?;
        let (stamp, _) = queue::parse(packet.control)?;
        let reply = if is_v6(packet.name) {
            let IpAddr::V6(source) = parse_address(packet.name)?.ip() else {
                return None;
            };
            let notes = Notes::parse(packet.control);
            let header = ipv6_header(
                u16::try_from(packet.length).ok()?,
                self.protocol as u8,
                notes.hop_limit.unwrap_or(0),
                [source, notes.destination?],
            );
            let mut whole = [0; IPV6_HEADER + SNAP_LEN];
            let length = IPV6_HEADER + packet.bytes.len();
            let whole = whole.get_mut(..length)?;
            let (head, body) = whole.split_at_mut_checked(IPV6_HEADER)?;
            head.copy_from_slice(&header);
            body.copy_from_slice(packet.bytes);
            decode(whole)
        } else {
            decode(packet.bytes)
        };
        Some(Delivered { stamp, reply })
    }
}

/// Whether a socket address is of IPv6.
fn is_v6(name: &[u8]) -> bool {
    let family = name.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes));
    family == Some(libc::AF_INET6 as u16)
}

/// The IPv6 header of a packet; the kernel delivers only what follows it. Traffic class and flow
/// label are not told.
fn ipv6_header(length: u16, protocol: u8, hop_limit: u8, addresses: [Ipv6Addr; 2]) -> [u8; IPV6_HEADER] {
    let mut header = [0; IPV6_HEADER];
    header[0] = 6 << 4;
    header[4..6].copy_from_slice(&length.to_be_bytes());
    header[6] = protocol;
    header[7] = hop_limit;
    header[8..24].copy_from_slice(&addresses[0].octets());
    header[24..40].copy_from_slice(&addresses[1].octets());
    header
}

/// Decodes a packet. These sockets get segments before their checksum is verified, and are not told
/// whether it was left to the device (it is on virtual links). Then it is the sum of the
/// pseudo-header.
fn decode(packet: &[u8]) -> Result<Reply, Ignored> {
    match traceroute_wire::decode(packet, Checksums::Verify) {
        Err(Ignored::BadChecksum) if traceroute_wire::is_checksum_missing(packet) => {
            traceroute_wire::decode(packet, Checksums::Offloaded)
        }
        decoded => decoded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_made_that_decodes() {
        let source: Ipv6Addr = "2001:db8::1".parse().expect("address");
        let header = ipv6_header(8, 58, 61, [source, Ipv6Addr::LOCALHOST]);
        let mut packet = header.to_vec();
        // Echo reply with a wrong checksum: the header was understood.
        packet.extend([129, 0, 0, 0, 0, 1, 0, 1]);
        assert!(matches!(decode(&packet), Err(Ignored::BadChecksum)));
    }

    #[test]
    fn foreign_packets_are_not_read() {
        let mut delivery = LocalDelivery {
            family: Family::V4,
            sockets: Vec::new(),
            blocks: Vec::new(),
            watched: Vec::new(),
            rests: false,
        };
        delivery.read();
        delivery.take(|delivered| panic!("{delivered:?}"));
        assert_eq!(delivery.len(), 0);
    }
}
