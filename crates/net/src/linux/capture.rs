//! The packet socket that sees replies.

use std::cell::Cell;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use socket2::SockRef;
use traceroute_wire::{Checksums, Ignored, Reply};
use traceroute_wire::{Family, filter};

use super::queue::PacketQueue;
use super::ring::{self, Frame, Ring};
use super::{stamps, sys};

/// Bytes of a packet that are read. Only what a target itself sends is longer, and of that the
/// beginning is enough.
pub(super) const SNAP_LEN: usize = traceroute_wire::LEAST_SNAP_LEN;

/// Room for packets that nobody has read, in bytes.
pub(super) const RECEIVE_BUFFER: libc::c_int = 4 << 20;

/// The filter that lets nothing through: "return 0".
const NOTHING: libc::sock_filter = libc::sock_filter {
    code: (libc::BPF_RET | libc::BPF_K) as u16,
    jt: 0,
    jf: 0,
    k: 0,
};

/// Captures one address family on all interfaces.
///
/// The socket's protocol is `ETH_P_IP` or `ETH_P_IPV6` and not `ETH_P_ALL`: taps for all protocols
/// also see what leaves, so each packet of the loopback interface twice, and each packet of a
/// stacked device (VLAN, bridge, bond) once per layer. And it is of type `SOCK_DGRAM`, whose
/// packets start at the IP header whatever the link.
pub(super) struct Capture {
    socket: OwnedFd,
    buffer: PacketBuffer,
    family: Family,
    /// The blocks of ports watched.
    blocks: Vec<u8>,
    /// Nothing is let through.
    rests: bool,
    seen: Cell<CaptureStatistics>,
}

/// Where packets wait. The kernel fills a ring without regard to `net.core.rmem_max`, and reading
/// it takes no system call, but it takes some 10 ms to set up.
enum PacketBuffer {
    Queue(PacketQueue),
    Ring(Ring),
}

/// Packets since the capture began.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CaptureStatistics {
    /// That the filter let through.
    pub(super) passed: u64,
    /// Of these, those that found the ring or the queue full.
    pub(super) dropped: u64,
}

impl Capture {
    /// Opens the capture, without local ports in its filter yet. With `heavy_load` it takes longer,
    /// and then holds more. `are_stamped`: packets are already stamped on arrival.
    pub(super) fn open(family: Family, heavy_load: bool, are_stamped: bool) -> io::Result<Self> {
        // Protocol 0 captures nothing, until `bind` names one. So no packet comes in unfiltered.
        let socket = sys::socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0)?;
        sys::attach_filter(socket.as_fd(), &program(family, &[]))?;
        // Have packets stamped on arrival and not when they reach the socket.
        sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1_i32)?;
        let buffer = if heavy_load {
            PacketBuffer::Ring(Ring::new(socket.as_fd())?)
        } else {
            // A ring's packets are stamped when they get there, a queue's not.
            if !are_stamped {
                stamps::wait_until_active();
            }
            PacketBuffer::Queue(PacketQueue::new(socket.as_fd())?)
        };
        let protocol = match family {
            Family::V4 => libc::ETH_P_IP,
            Family::V6 => libc::ETH_P_IPV6,
        };
        sys::bind_packet(socket.as_fd(), protocol)?;
        Ok(Capture {
            socket,
            buffer,
            family,
            blocks: Vec::new(),
            rests: false,
            seen: Cell::default(),
        })
    }

    /// Lets TCP and UDP packets to ports of these blocks through; no packet is lost while the
    /// filter changes.
    pub(super) fn watch(&mut self, blocks: &[u8]) -> io::Result<()> {
        sys::attach_filter(self.socket.as_fd(), &program(self.family, blocks))?;
        self.blocks = blocks.to_vec();
        self.rests = false;
        Ok(())
    }

    /// The blocks of ports that are watched.
    pub(super) fn blocks(&self) -> &[u8] {
        &self.blocks
    }

    /// Lets nothing through until [`Capture::resume`], so that foreign packets do not fill the room
    /// for replies while nobody reads.
    pub(super) fn rest(&mut self) {
        // Fails only without memory; then the capture goes on, at its cost.
        self.rests |= sys::attach_filter(self.socket.as_fd(), &[NOTHING]).is_ok();
    }

    /// Ends a [rest](Capture::rest).
    pub(super) fn resume(&mut self) -> io::Result<()> {
        if self.rests {
            self.watch(&self.blocks.clone())?;
        }
        Ok(())
    }

    /// How many packets wait, counted up to `limit`.
    pub(super) fn ready(&mut self, limit: usize) -> usize {
        match &mut self.buffer {
            PacketBuffer::Queue(queue) => queue.ready(self.socket.as_fd(), limit),
            PacketBuffer::Ring(ring) => ring.ready(limit),
        }
    }

    /// Shows the oldest packet to `read`.
    pub(super) fn take(&mut self, read: impl FnOnce(CapturedPacket<'_>)) {
        let read = |frame: Frame<'_>| {
            if is_for_us(&frame) {
                read(CapturedPacket(frame));
            }
        };
        match &mut self.buffer {
            PacketBuffer::Queue(queue) => queue.take(read),
            PacketBuffer::Ring(ring) => ring.take(self.socket.as_fd(), read),
        };
    }

    /// The socket's pending error, if there is one.
    pub(super) fn take_error(&self) -> Option<io::Error> {
        SockRef::from(&self.socket).take_error().unwrap_or_else(Some)
    }

    pub(super) fn statistics(&self) -> CaptureStatistics {
        let mut total = self.seen.get();
        // Cannot fail on a packet socket; if it did, the counters would stand still.
        if let Ok((passed, dropped)) = sys::packet_statistics(self.socket.as_fd()) {
            total.passed += u64::from(passed);
            total.dropped += u64::from(dropped);
            self.seen.set(total);
        }
        total
    }
}

impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A packet as it came in.
pub(super) struct CapturedPacket<'a>(Frame<'a>);

impl CapturedPacket<'_> {
    /// When it arrived, in nanoseconds of the wall clock.
    pub(super) fn stamp(&self) -> i64 {
        self.0.stamp
    }

    /// Whether it comes from `source`: cheaper than to decode it.
    pub(super) fn is_from(&self, source: IpAddr) -> bool {
        match source {
            IpAddr::V4(source) => self.0.packet.get(12..16) == Some(&source.octets()),
            IpAddr::V6(source) => self.0.packet.get(8..24) == Some(&source.octets()),
        }
    }

    /// Whether it has these addresses.
    pub(super) fn is_between(&self, [source, destination]: [IpAddr; 2]) -> bool {
        let is_to = match destination {
            IpAddr::V4(destination) => self.0.packet.get(16..20) == Some(&destination.octets()),
            IpAddr::V6(destination) => self.0.packet.get(24..40) == Some(&destination.octets()),
        };
        is_to && self.is_from(source)
    }

    pub(super) fn decode(&self) -> Result<Reply, Ignored> {
        decode(&self.0)
    }
}

/// Not what leaves, what a promiscuous interface overhears, or what multicast loops back.
fn is_for_us(frame: &Frame<'_>) -> bool {
    !matches!(
        frame.packet_type,
        libc::PACKET_OUTGOING | libc::PACKET_OTHERHOST | libc::PACKET_LOOPBACK
    )
}

fn decode(frame: &Frame<'_>) -> Result<Reply, Ignored> {
    let checksums = if frame.checksum_missing {
        Checksums::Offloaded
    } else {
        Checksums::Verify
    };
    traceroute_wire::decode(frame.packet, checksums)
}

fn program(family: Family, port_blocks: &[u8]) -> Vec<libc::sock_filter> {
    translate(&filter::program(&filter::FilterParameters {
        family,
        port_blocks,
        link_header_len: 0,
        snap_len: SNAP_LEN as u32,
        segment_snap_len: ring::ROOM as u32,
    }))
}

/// A filter as the kernel takes it.
pub(super) fn translate(instructions: &[filter::Instruction]) -> Vec<libc::sock_filter> {
    let translate = |instruction: &filter::Instruction| libc::sock_filter {
        code: instruction.code,
        jt: instruction.jt,
        jf: instruction.jf,
        k: instruction.k,
    };
    instructions.iter().map(translate).collect()
}
