//! The system calls that only this backend makes.
#![allow(unsafe_code)]

use std::io;
use std::mem::zeroed;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::super::cmsg::{Notes, parse_address};

/// More of a message than this is not looked at.
const DATA_SIZE: usize = 1024;
/// Room for the control data of a message: a timestamp (64 bytes), an extended error with an
/// address (64), a TTL (24), and some.
const CONTROL_WORDS: usize = 32;
/// Size of `struct sockaddr_in6`, the longer of the two.
const NAME_SIZE: usize = 28;
/// A pending error of the socket is reported in place of a message, once.
const ATTEMPTS: usize = 4;

/// What recvmsg(2) reads from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SocketQueue {
    /// Messages that arrived.
    Messages,
    /// What became of messages that were sent (`MSG_ERRQUEUE`).
    Errors,
}

/// Where [`MessageBuffer::receive`] puts a message.
pub(super) struct MessageBuffer {
    data: [u8; DATA_SIZE],
    control: [u64; CONTROL_WORDS],
    name: [u8; NAME_SIZE],
}

/// A message that was read.
pub(super) struct Message<'a> {
    /// Its beginning; on the error queue, that of the message that the error is about.
    pub(super) data: &'a [u8],
    /// Its true length, in bytes.
    pub(super) len: usize,
    /// Who sent it; on the error queue, to whom we did.
    pub(super) peer: Option<SocketAddr>,
    pub(super) notes: Notes,
}

impl MessageBuffer {
    pub(super) fn new() -> Box<Self> {
        Box::new(MessageBuffer {
            data: [0; DATA_SIZE],
            control: [0; CONTROL_WORDS],
            name: [0; NAME_SIZE],
        })
    }

    /// Reads a message; `None`: there is none.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>, queue: SocketQueue) -> Option<Message<'_>> {
        let mut part = libc::iovec {
            iov_base: self.data.as_mut_ptr().cast(),
            iov_len: DATA_SIZE,
        };
        // SAFETY: all-zero is a valid msghdr.
        let mut header: libc::msghdr = unsafe { zeroed() };
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        let flags = match queue {
            SocketQueue::Messages => libc::MSG_DONTWAIT | libc::MSG_TRUNC,
            SocketQueue::Errors => libc::MSG_DONTWAIT | libc::MSG_TRUNC | libc::MSG_ERRQUEUE,
        };
        for _ in 0..ATTEMPTS {
            header.msg_name = self.name.as_mut_ptr().cast();
            header.msg_namelen = NAME_SIZE as _;
            header.msg_control = self.control.as_mut_ptr().cast();
            header.msg_controllen = size_of_val(&self.control) as _;
            // SAFETY: every pointer in `header` is valid for the length beside it during the call.
            let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
            if let Ok(len) = usize::try_from(received) {
                return Some(self.message(len, header.msg_namelen as usize, header.msg_controllen as _));
            }
            if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock {
                return None;
            }
        }
        None
    }

    fn message(&self, len: usize, name_len: usize, control_len: usize) -> Message<'_> {
        let control_len = control_len.min(size_of_val(&self.control));
        // SAFETY: `control_len` bytes lie within the array, and integers have no invalid or
        // uninitialised bytes.
        let control = unsafe { std::slice::from_raw_parts(self.control.as_ptr().cast(), control_len) };
        Message {
            data: self.data.get(..len).unwrap_or(&self.data),
            len,
            peer: self.name.get(..name_len).and_then(parse_address),
            notes: Notes::parse(control),
        }
    }
}

/// The hop limit with which the last segment of a connection over IPv6 arrived, if
/// `IPV6_RECVHOPLIMIT` is set: the option `IPV6_PKTOPTIONS` of RFC 2292. Over IPv4 there is none:
/// what looks like it, `IP_PKTOPTIONS`, says 1 here whatever arrived. Only while the connection is
/// open; refusals leave an earlier value.
pub(super) fn segment_hop_limit(socket: BorrowedFd<'_>) -> Option<u8> {
    let mut control = [0_u64; CONTROL_WORDS];
    let mut length = size_of_val(&control) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_2292PKTOPTIONS,
            ptr::from_mut(&mut control).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return None;
    }
    let length = (length as usize).min(size_of_val(&control));
    // SAFETY: `length` bytes lie within the array, and integers have no invalid or uninitialised
    // bytes.
    let control = unsafe { std::slice::from_raw_parts(control.as_ptr().cast(), length) };
    Notes::parse(control).hop_limit
}

/// States in `tcpi_state` (`linux/tcp_states.h`).
const TCP_SYN_SENT: u8 = 2;
const TCP_CLOSE: u8 = 7;

/// What `TCP_INFO` says about a connection attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Handshake {
    /// The SYN was sent and not answered.
    pub(super) pending: bool,
    /// The target has accepted the connection, whatever it did with it since.
    pub(super) connected: bool,
    /// Round-trip time of the handshake, in microseconds; 0 when unknown.
    pub(super) rtt: u32,
    /// The SYN was sent more than once.
    pub(super) repeated: bool,
}

/// `TCP_INFO` of a socket (tcp(7), linux/tcp.h).
pub(super) fn handshake(socket: BorrowedFd<'_>) -> io::Result<Handshake> {
    /// Bytes of `struct tcp_info` up to and including `tcpi_total_retrans`: 8 bytes, then 24 32-bit
    /// fields.
    const SIZE: usize = 8 + 24 * 4;
    const RTT: usize = 8 + 15 * 4;
    const TOTAL_RETRANS: usize = 8 + 23 * 4;
    let mut info = [0_u8; SIZE];
    let mut length = SIZE as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            ptr::from_mut(&mut info).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let word = |at: usize| -> u32 {
        let bytes = info.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_ne_bytes)
    };
    Ok(Handshake {
        pending: info[0] == TCP_SYN_SENT,
        connected: !matches!(info[0], TCP_SYN_SENT | TCP_CLOSE),
        rtt: word(RTT),
        repeated: word(TOTAL_RETRANS) > 0,
    })
}
