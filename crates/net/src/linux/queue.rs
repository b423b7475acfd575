//! The capture socket's own receive queue, read in batches (recvmmsg(2), packet(7)).
//!
//! What a capture starts with: unlike a [ring](super::ring), whose making waits for all CPUs to
//! pass a quiescent state (about 10 ms), it is there at once. Its size is bounded by
//! `net.core.rmem_max` for processes without `CAP_NET_ADMIN`.

use std::io;
use std::os::fd::BorrowedFd;

use super::capture::{RECEIVE_BUFFER, SNAP_LEN};
use super::cmsg::ControlMessages;
use super::ring::Frame;
use super::sys::{self, PacketBatch};

/// Packets read from the socket that were not taken yet: `next..filled` of the batch.
pub(super) struct PacketQueue {
    batch: Box<PacketBatch<SNAP_LEN>>,
    next: usize,
    filled: usize,
}

impl PacketQueue {
    /// Prepares a packet socket.
    pub(super) fn new(socket: BorrowedFd<'_>) -> io::Result<Self> {
        sys::set_option(socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1_i32)?;
        sys::set_receive_buffer(socket, RECEIVE_BUFFER)?;
        Ok(PacketQueue {
            batch: PacketBatch::new(),
            next: 0,
            filled: 0,
        })
    }

    /// How many packets wait here, counted up to `limit`. Reads from the socket when none does.
    pub(super) fn ready(&mut self, socket: BorrowedFd<'_>, limit: usize) -> usize {
        if self.next == self.filled {
            // An error is the socket's pending one, which is looked at when the socket is waited
            // for.
            self.filled = sys::receive_packets(socket, &mut self.batch, 0).unwrap_or(0);
            self.next = 0;
        }
        (self.filled - self.next).min(limit)
    }

    /// Shows the oldest packet to `read`. `None`: there is none, or it has no stamp.
    pub(super) fn take<T>(&mut self, read: impl FnOnce(Frame<'_>) -> T) -> Option<T> {
        if self.next == self.filled {
            return None;
        }
        let index = self.next;
        self.next += 1;
        let packet = self.batch.packet(index)?;
        let (stamp, checksum_missing) = parse(packet.control)?;
        Some(read(Frame {
            packet: packet.bytes,
            stamp,
            packet_type: packet.packet_type(),
            checksum_missing,
        }))
    }
}

/// When the packet was received, in nanoseconds of the wall clock, and whether its checksum was
/// left to the device.
pub(super) fn parse(control: &[u8]) -> Option<(i64, bool)> {
    let mut stamp = None;
    let mut checksum_missing = false;
    for (level, kind, data) in ControlMessages(control) {
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => stamp = parse_time(data),
            // struct tpacket_auxdata begins with tp_status.
            (libc::SOL_PACKET, libc::PACKET_AUXDATA) => {
                let status = u32::from_ne_bytes(data.get(..4)?.try_into().ok()?);
                checksum_missing = status & libc::TP_STATUS_CSUMNOTREADY != 0;
            }
            _ => {}
        }
    }
    Some((stamp?, checksum_missing))
}

/// `struct timespec`: seconds and nanoseconds of 8 bytes each, or of 4 on old 32-bit systems.
fn parse_time(data: &[u8]) -> Option<i64> {
    let (seconds, nanos) = data.split_at_checked(data.len() / 2)?;
    let word = |bytes: &[u8]| -> Option<i64> {
        match bytes.len() {
            8 => Some(i64::from_ne_bytes(bytes.try_into().ok()?)),
            4 => Some(i32::from_ne_bytes(bytes.try_into().ok()?).into()),
            _ => None,
        }
    };
    Some(
        word(seconds)?
            .saturating_mul(1_000_000_000)
            .saturating_add(word(nanos)?),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let length = size_of::<usize>() + 8 + data.len();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(size_of::<usize>()), 0);
        bytes
    }

    fn time(seconds: i64, nanos: i64) -> Vec<u8> {
        let data = [seconds.to_ne_bytes(), nanos.to_ne_bytes()].concat();
        message(libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, &data)
    }

    fn auxiliary(status: u32) -> Vec<u8> {
        message(
            libc::SOL_PACKET,
            libc::PACKET_AUXDATA,
            &[status.to_ne_bytes(), [0; 4], [0; 4], [0; 4], [0; 4]].concat(),
        )
    }

    #[test]
    fn stamp_and_checksum_state_are_read() {
        let plain = [auxiliary(libc::TP_STATUS_USER), time(3, 5)].concat();
        assert_eq!(parse(&plain), Some((3_000_000_005, false)));
        let offloaded = [
            time(3, 5),
            auxiliary(libc::TP_STATUS_USER | libc::TP_STATUS_CSUMNOTREADY),
        ]
        .concat();
        assert_eq!(parse(&offloaded), Some((3_000_000_005, true)));
    }

    #[test]
    fn any_control_data_is_survived() {
        let whole = [auxiliary(1), time(3, 5)].concat();
        for length in 0..whole.len() - 1 {
            assert_eq!(parse(&whole[..length]), None, "{length}");
        }
        assert_eq!(
            parse(&message(libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, &[1, 2, 3])),
            None
        );
    }
}
