//! The BPF device that sees replies on one interface (bpf(4)).

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use traceroute_wire::Family;
use traceroute_wire::bpf_device::{LinkType, Records};
use traceroute_wire::{Checksums, Ignored, Reply};

use super::sys;
use crate::unix::interfaces::Interface;

/// Bytes of a packet to capture.
const SNAP_LEN: u32 = 2048;
/// Bytes of buffer to ask for: some 5000 replies. The kernel has two such buffers, and by default a
/// limit of as much.
const BUFFER_LEN: u32 = 512 * 1024;
/// The longest record: headers of BPF and the link (with some air), and packet.
const MAX_RECORD_LEN: usize = SNAP_LEN as usize + 64;

/// Captures one address family on one interface.
pub(super) struct Capture {
    device: OwnedFd,
    interface: String,
    family: Family,
    link: LinkType,
    checksums: Checksums,
    /// As long as the device's.
    buffer: Vec<u8>,
    /// Where in `buffer` the next record is, and where those that were read last end.
    next: usize,
    end: usize,
    captured: u64,
    dropped: Cell<Dropped>,
}

/// The device's count as it was last, and ours, which does not wrap around.
#[derive(Debug, Clone, Copy, Default)]
struct Dropped {
    last: u32,
    total: u64,
}

/// Packets since the capture began.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CaptureStatistics {
    /// That the filter let through.
    pub(super) passed: u64,
    /// Of these, those that found the buffer full.
    pub(super) dropped: u64,
}

impl Capture {
    /// Opens a capture that sees ICMP, and TCP and UDP to ports of these blocks.
    pub(super) fn open(interface: &Interface, family: Family, blocks: &[u8]) -> io::Result<Self> {
        let device = sys::open_bpf()?;
        // An improvement only. Must come before the interface.
        if let Err(error) = sys::request_buffer_len(device.as_fd(), BUFFER_LEN) {
            tracing::debug!(%error, "the capture keeps its usual buffer");
        }
        sys::attach(device.as_fd(), &interface.name)?;
        let link = known_link(device.as_fd(), &interface.name)?;
        sys::set_immediate(device.as_fd())?;
        // The loopback interface shows each packet once, as one that leaves.
        sys::set_see_sent(device.as_fd(), interface.is_loopback)?;
        // Forgets what came in unfiltered.
        sys::set_filter(device.as_fd(), &link.program(family, blocks, SNAP_LEN), true)?;
        let buffer = vec![0; sys::buffer_len(device.as_fd())?];
        Ok(Capture {
            device,
            interface: interface.name.clone(),
            family,
            link,
            checksums: if interface.is_loopback {
                Checksums::Offloaded
            } else {
                Checksums::Verify
            },
            buffer,
            next: 0,
            end: 0,
            captured: 0,
            dropped: Cell::default(),
        })
    }

    /// The name of the interface.
    pub(super) fn interface(&self) -> &str {
        &self.interface
    }

    /// Whether the interface still exists, and as the same kind as when the capture was opened.
    pub(super) fn is_alive(&self) -> bool {
        sys::link_type(self.device.as_fd()).is_ok_and(|dlt| LinkType::from_dlt(dlt) == Some(self.link))
    }

    /// Lets TCP and UDP packets to ports of these blocks through; no packet is lost while the
    /// filter changes.
    pub(super) fn watch(&self, blocks: &[u8]) -> io::Result<()> {
        let program = self.link.program(self.family, blocks, SNAP_LEN);
        sys::set_filter(self.device.as_fd(), &program, false)
    }

    /// Whether this is the capture's descriptor.
    pub(super) fn is(&self, fd: RawFd) -> bool {
        self.device.as_raw_fd() == fd
    }

    /// Whether packets wait that were read already.
    pub(super) fn has_unread(&self) -> bool {
        self.next < self.end
    }

    /// Whether the kernel may still have packets that it had at the last [`Capture::read`]. That
    /// took one of its two buffers: the one being filled, unless that had become full before and
    /// been put aside.
    pub(super) fn may_have_more(&self) -> bool {
        self.has_unread() || self.end + MAX_RECORD_LEN > self.buffer.len()
    }

    /// Reads what the device has, if all that was read before has been taken.
    pub(super) fn read(&mut self) -> io::Result<()> {
        if self.has_unread() {
            return Ok(());
        }
        (self.next, self.end) = (0, 0);
        match sys::read(self.device.as_fd(), &mut self.buffer) {
            Ok(count) => self.end = count,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Decodes at most `limit` packets that were read, and passes each on with its stamp, in
    /// nanoseconds of the wall clock.
    pub(super) fn take(&mut self, limit: usize, mut deliver: impl FnMut(i64, Result<Reply, Ignored>)) {
        let unread = self.buffer.get(self.next..self.end).unwrap_or_default();
        let mut records = Records::new(unread);
        for record in records.by_ref().take(limit) {
            self.captured += 1;
            let decoded = match self.link.packet(record.frame) {
                Some(packet) => traceroute_wire::decode(packet, self.checksums),
                None => Err(Ignored::NotAnAnswer),
            };
            deliver(record.stamp, decoded);
        }
        self.next = self.end - records.rest().len();
    }

    pub(super) fn statistics(&self) -> CaptureStatistics {
        let mut dropped = self.dropped.get();
        // Fails when the interface is gone: then nothing more is dropped.
        if let Ok(now) = sys::dropped(self.device.as_fd()) {
            dropped.total += u64::from(now.wrapping_sub(dropped.last));
            dropped.last = now;
            self.dropped.set(dropped);
        }
        CaptureStatistics {
            passed: self.captured + dropped.total,
            dropped: dropped.total,
        }
    }
}

impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

fn known_link(device: BorrowedFd<'_>, interface: &str) -> io::Result<LinkType> {
    let dlt = sys::link_type(device)?;
    LinkType::from_dlt(dlt).ok_or_else(|| {
        let text = format!("link type {dlt} of interface {interface} is not supported");
        io::Error::new(io::ErrorKind::Unsupported, text)
    })
}
