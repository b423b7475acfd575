//! The capture ring: packets that the kernel writes into memory shared with this process
//! (packet(7), `PACKET_RX_RING`; the layout is in the kernel's
//! `Documentation/networking/packet_mmap.rst`).
//!
//! A ring, because its size is ours to choose (a socket's buffer is bounded by `net.core.rmem_max`)
//! and because reading it takes no system call, unless a packet is longer than a frame. Version 2,
//! because it wakes per frame; version 3 would wake per block.
#![allow(unsafe_code)]

use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use socket2::SockRef;

use super::capture::{RECEIVE_BUFFER, SNAP_LEN};
use super::sys::{self, Mapping};

/// Bytes per frame: header and address, and a packet. Answers to probes of ordinary size fit. Of a
/// longer packet the kernel also puts a copy into the socket's own queue (packet(7),
/// `PACKET_COPY_THRESH`), as long as there is room. Where there is none, it is read cut short.
const FRAME_SIZE: usize = 512;
/// Bytes of a packet for which a frame has room.
pub(super) const ROOM: usize = FRAME_SIZE - PACKET_AT;
/// Where the packets of sockets without link-layer header begin (`TPACKET2_HDRLEN`, aligned, and 16
/// bytes of air).
const PACKET_AT: usize =
    (ADDRESS_AT + size_of::<libc::sockaddr_ll>()).next_multiple_of(libc::TPACKET_ALIGNMENT) + 16;
/// Frames in a ring: 80 ms of 100,000 packets per second.
const FRAMES: usize = 8192;
/// Bytes that the kernel allocates at once; modest, so that fragmented memory is no problem.
const BLOCK_SIZE: usize = 64 * 1024;

/// `struct sockaddr_ll` follows `struct tpacket2_hdr`, aligned to `TPACKET_ALIGNMENT`.
const ADDRESS_AT: usize = size_of::<libc::tpacket2_hdr>().next_multiple_of(libc::TPACKET_ALIGNMENT);

/// One captured packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    /// From the IP header on, as far as it was captured.
    pub(super) packet: &'a [u8],
    /// When it was received, in nanoseconds of the wall clock.
    pub(super) stamp: i64,
    /// `sll_pkttype`: for whom the packet was.
    pub(super) packet_type: u8,
    /// The transport checksum was left to the device.
    pub(super) checksum_missing: bool,
}

impl<'a> Frame<'a> {
    /// With what a copy has of the packet, if it is a copy of this one.
    fn with_copy(self, copy: &'a [u8]) -> Self {
        Frame {
            packet: if copy.starts_with(self.packet) {
                copy
            } else {
                self.packet
            },
            ..self
        }
    }
}

/// Memory shared with the kernel. The frame at `next` is the oldest that was not taken.
pub(super) struct Ring {
    /// `FRAMES * FRAME_SIZE` bytes.
    memory: Mapping,
    next: usize,
    /// The packet that did not fit into its frame.
    long: Box<[u8; SNAP_LEN]>,
}

impl Ring {
    /// Gives a packet socket a ring.
    pub(super) fn new(socket: BorrowedFd<'_>) -> io::Result<Self> {
        sys::set_option(
            socket,
            libc::SOL_PACKET,
            libc::PACKET_VERSION,
            libc::tpacket_versions::TPACKET_V2 as libc::c_int,
        )?;
        let request = libc::tpacket_req {
            tp_block_size: BLOCK_SIZE as u32,
            tp_block_nr: (FRAMES * FRAME_SIZE / BLOCK_SIZE) as u32,
            tp_frame_size: FRAME_SIZE as u32,
            tp_frame_nr: FRAMES as u32,
        };
        sys::set_option(socket, libc::SOL_PACKET, libc::PACKET_RX_RING, request)?;
        sys::set_option(socket, libc::SOL_PACKET, libc::PACKET_COPY_THRESH, 1_i32)?;
        sys::set_receive_buffer(socket, RECEIVE_BUFFER)?;
        let memory = Mapping::new(socket, FRAMES * FRAME_SIZE)?;
        Ok(Ring {
            memory,
            next: 0,
            long: Box::new([0; SNAP_LEN]),
        })
    }

    /// How many frames are waiting, counted up to `limit`.
    pub(super) fn ready(&self, limit: usize) -> usize {
        (0..limit.min(FRAMES))
            .take_while(|ahead| self.is_filled(self.next + ahead))
            .count()
    }

    /// Shows the oldest frame to `read` and gives its memory back to the kernel; the socket is the
    /// ring's. `None`: there is none, or its header makes no sense.
    pub(super) fn take<T>(&mut self, socket: BorrowedFd<'_>, read: impl FnOnce(Frame<'_>) -> T) -> Option<T> {
        let index = self.next;
        if !self.is_filled(index) {
            return None;
        }
        self.next = (index + 1) % FRAMES;
        // SAFETY: a frame lies within the mapping, which lives as long as `self`. The status says
        // that it is ours: the kernel does not write to it until it is given back below.
        let bytes = unsafe { std::slice::from_raw_parts(self.frame(index).as_ptr(), FRAME_SIZE) };
        let has_copy = self.status(index).load(Ordering::Relaxed) & libc::TP_STATUS_COPY != 0;
        // Copies wait in the order of their frames.
        let copied = if has_copy {
            let socket = SockRef::from(&socket);
            let mut read = || (&*socket).read(&mut *self.long);
            // The first attempt may get the socket's pending error instead.
            read().or_else(|_| read()).unwrap_or(0)
        } else {
            0
        };
        let copy = self.long.get(..copied).unwrap_or_default();
        let result = parse(bytes).map(|frame| read(frame.with_copy(copy)));
        self.status(index)
            .store(libc::TP_STATUS_KERNEL, Ordering::Release);
        result
    }

    fn is_filled(&self, index: usize) -> bool {
        // Acquire: what the kernel wrote before it set the bit is visible after.
        self.status(index).load(Ordering::Acquire) & libc::TP_STATUS_USER != 0
    }

    /// Where a frame begins. After the last one comes the first again.
    fn frame(&self, index: usize) -> NonNull<u8> {
        // SAFETY: less than `FRAMES * FRAME_SIZE`, so the result is within the mapping.
        unsafe { self.memory.base().add(index % FRAMES * FRAME_SIZE) }
    }

    /// `tp_status`, the first word of the frame.
    fn status(&self, index: usize) -> &AtomicU32 {
        // SAFETY: frames start at multiples of FRAME_SIZE in page-aligned memory, so the word is
        // aligned; it is within the mapping, which lives as long as `self`; and it is only ever
        // accessed atomically while shared.
        unsafe { AtomicU32::from_ptr(self.frame(index).as_ptr().cast()) }
    }
}

/// Reads a frame: `struct tpacket2_hdr`, `struct sockaddr_ll`, packet.
fn parse(frame: &[u8]) -> Option<Frame<'_>> {
    let status = u32_at(frame, 0)?;
    let captured = u32_at(frame, 8)? as usize;
    let network = usize::from(u16_at(frame, 14)?);
    let seconds = i64::from(u32_at(frame, 16)?);
    let nanos = i64::from(u32_at(frame, 20)?);
    // struct sockaddr_ll: family 2, protocol 2, ifindex 4, hatype 2, pkttype 1.
    let packet_type = *frame.get(ADDRESS_AT + 10)?;
    let packet = frame.get(network..network.checked_add(captured)?)?;
    Some(Frame {
        packet,
        stamp: seconds * 1_000_000_000 + nanos,
        packet_type,
        checksum_missing: status & libc::TP_STATUS_CSUMNOTREADY != 0,
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    fn frame(status: u32, captured: u32, network: u16, packet: &[u8]) -> Vec<u8> {
        let mut frame = vec![0_u8; FRAME_SIZE];
        frame[0..4].copy_from_slice(&status.to_ne_bytes());
        frame[4..8].copy_from_slice(&captured.to_ne_bytes());
        frame[8..12].copy_from_slice(&captured.to_ne_bytes());
        frame[14..16].copy_from_slice(&network.to_ne_bytes());
        frame[16..20].copy_from_slice(&1_700_000_000_u32.to_ne_bytes());
        frame[20..24].copy_from_slice(&123_456_789_u32.to_ne_bytes());
        frame[32 + 10] = 3;
        let at = usize::from(network);
        if let Some(room) = frame.get_mut(at..at + packet.len()) {
            room.copy_from_slice(packet);
        }
        frame
    }

    #[test]
    fn offsets_are_those_of_the_kernel_headers() {
        assert_eq!(offset_of!(libc::tpacket2_hdr, tp_status), 0);
        assert_eq!(offset_of!(libc::tpacket2_hdr, tp_snaplen), 8);
        assert_eq!(offset_of!(libc::tpacket2_hdr, tp_net), 14);
        assert_eq!(offset_of!(libc::tpacket2_hdr, tp_sec), 16);
        assert_eq!(offset_of!(libc::tpacket2_hdr, tp_nsec), 20);
        assert_eq!(offset_of!(libc::sockaddr_ll, sll_pkttype), 10);
        assert_eq!(ADDRESS_AT, 32);
        assert_eq!(PACKET_AT, 80);
        assert_eq!(BLOCK_SIZE % FRAME_SIZE, 0);
        assert_eq!(FRAMES * FRAME_SIZE % BLOCK_SIZE, 0);
    }

    #[test]
    fn a_frame_is_read() {
        let bytes = frame(libc::TP_STATUS_USER, 5, 80, b"hello");
        assert_eq!(
            parse(&bytes),
            Some(Frame {
                packet: b"hello",
                stamp: 1_700_000_000_123_456_789,
                packet_type: 3,
                checksum_missing: false,
            })
        );
    }

    #[test]
    fn a_copy_is_taken_for_its_own_packet_only() {
        let bytes = frame(libc::TP_STATUS_USER, 5, 80, b"hello");
        let packet = |copy: &'static [u8]| parse(&bytes).expect("a frame").with_copy(copy).packet.to_vec();
        assert_eq!(packet(b"hello world"), b"hello world");
        for other in [&b""[..], b"hell", b"help me"] {
            assert_eq!(packet(other), b"hello");
        }
    }

    #[test]
    fn a_checksum_left_to_the_device_is_noticed() {
        let bytes = frame(
            libc::TP_STATUS_USER | libc::TP_STATUS_CSUMNOTREADY,
            5,
            80,
            b"hello",
        );
        assert!(parse(&bytes).expect("a frame").checksum_missing);
    }

    #[test]
    fn lengths_beyond_the_frame_are_refused() {
        assert_eq!(parse(&frame(1, 2_000, 80, b"")), None);
        assert_eq!(parse(&frame(1, u32::MAX, 80, b"")), None);
        assert_eq!(parse(&frame(1, 1, u16::MAX, b"")), None);
        let whole = frame(1, 5, 80, b"hello");
        for length in 0..85 {
            assert_eq!(parse(&whole[..length]), None, "{length} bytes");
        }
    }
}
