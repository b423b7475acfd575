//! Safe wrappers around the system calls of Linux that neither `std` nor `socket2` has.
#![allow(unsafe_code)]

use std::io;
use std::mem::zeroed;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::time::Duration;

use traceroute_engine::Route;

use crate::unix::sys::{check, check_fd};
pub(super) use crate::unix::sys::{monotonic, realtime};

/// The size of a structure as the socket interface counts it.
pub(super) fn length_of<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

/// A value of a socket option that is what its bytes say.
///
/// # Safety
/// It has no padding, and nothing in it is an address.
pub(super) unsafe trait PlainValue: Copy {}

// SAFETY: an integer.
unsafe impl PlainValue for i32 {}
// SAFETY: an integer.
unsafe impl PlainValue for u32 {}
// SAFETY: four integers of the same size, and each counts something.
unsafe impl PlainValue for libc::tpacket_req {}

/// Bytes that a stream socket's peer does not have yet, in the kernel's memory: not acknowledged
/// (`SIOCOUTQ` of tcp(7)), or not read (unix(7)). The end counts as one over TCP.
pub fn unacknowledged<S: AsFd>(socket: &S) -> Option<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one integer, to a valid pointer. The type of the request's number
    // depends on the C library.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ as _, &raw mut bytes) };
    check(result).ok()?;
    usize::try_from(bytes).ok()
}

/// setsockopt(2) with a plain value.
pub(super) fn set_option<T: PlainValue>(
    socket: BorrowedFd<'_>,
    level: i32,
    name: i32,
    value: T,
) -> io::Result<()> {
    // SAFETY: there are no addresses in a plain value.
    unsafe { set_any_option(socket, level, name, &value) }
}

/// setsockopt(2).
///
/// # Safety
/// What `value` points to, if there are addresses in it, is valid for the option during the call.
unsafe fn set_any_option<T>(socket: BorrowedFd<'_>, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: the kernel only reads: the `size_of::<T>()` bytes of `value`, and by this function's
    // contract what they point to.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            ptr::from_ref(value).cast(),
            length_of::<T>(),
        )
    })
    .map(drop)
}

/// Asks for so many bytes of a socket's receive buffer; the kernel grants less to the unprivileged
/// (socket(7), `net.core.rmem_max`).
pub(super) fn set_receive_buffer(socket: BorrowedFd<'_>, bytes: i32) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)
        .or_else(|_| set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes))
}

/// A non-blocking socket that children do not inherit.
pub(super) fn socket(domain: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; makes a descriptor.
    unsafe {
        check_fd(libc::socket(
            domain,
            kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            protocol,
        ))
    }
}

/// Sets a classic BPF program, or replaces the one that is set: no packet sees a state in between
/// (socket(7)).
pub(super) fn attach_filter(socket: BorrowedFd<'_>, program: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the address in it is that of as many instructions as it says, which the kernel copies
    // during the call.
    unsafe { set_any_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program) }
}

/// Starts capture of a protocol (an `ETH_P_` constant) on all interfaces.
pub(super) fn bind_packet(socket: BorrowedFd<'_>, protocol: i32) -> io::Result<()> {
    // SAFETY: all-zero is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (protocol as u16).to_be();
    // SAFETY: the address is valid for its length during the call.
    check(unsafe {
        libc::bind(
            socket.as_raw_fd(),
            ptr::from_ref(&address).cast(),
            length_of::<libc::sockaddr_ll>(),
        )
    })
    .map(drop)
}

/// `PACKET_STATISTICS` since the last call: packets that passed the filter, and how many of them
/// were dropped.
pub(super) fn packet_statistics(socket: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    let mut stats = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut length = length_of::<libc::tpacket_stats>();
    // SAFETY: the kernel writes at most `length` bytes, and any bytes are valid there.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            ptr::from_mut(&mut stats).cast(),
            &raw mut length,
        )
    })?;
    Ok((stats.tp_packets, stats.tp_drops))
}

/// Packets for which a socket's queue had no room (socket(7), `SO_MEMINFO`).
pub(super) fn socket_drops(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = [0_u32; libc::SK_MEMINFO_DROPS as usize + 1];
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, and any bytes are valid there.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            ptr::from_mut(&mut info).cast(),
            &raw mut length,
        )
    })?;
    Ok(info[libc::SK_MEMINFO_DROPS as usize])
}

/// Memory that is shared with the kernel, until dropped.
pub(super) struct Mapping {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps the ring of a packet socket, which is `length` bytes long.
    pub(super) fn new(socket: BorrowedFd<'_>, length: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that exists.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                socket.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::Other)?;
        Ok(Mapping { base, length })
    }

    /// Where its first byte is. Valid as long as the mapping.
    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: what mmap(2) returned for this length, unmapped once. Whoever dereferences
        // `base()` must know that it is gone now.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.length) };
    }
}

/// A socket address for the kernel.
#[derive(Clone, Copy)]
pub(super) union Destination {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Destination {
    /// Raw and ICMP sockets have no ports: 0. An IPv6 link-local address has its interface's index
    /// as scope.
    pub(super) fn new(to: SocketAddr) -> (Self, libc::socklen_t) {
        match to {
            SocketAddr::V4(to) => {
                let v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as u16,
                    sin_port: to.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(to.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                (Destination { v4 }, length_of::<libc::sockaddr_in>())
            }
            SocketAddr::V6(to) => {
                let v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as u16,
                    sin6_port: to.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr {
                        s6_addr: to.ip().octets(),
                    },
                    sin6_scope_id: to.scope_id(),
                };
                (Destination { v6 }, length_of::<libc::sockaddr_in6>())
            }
        }
    }
}

/// Control messages for sendmsg(2), one behind the other (cmsg(3)): each has its length, level and
/// kind, then its value.
#[derive(Clone, Copy)]
pub(super) struct SendOptions {
    bytes: Aligned,
    used: usize,
}

#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Aligned([u8; SETTINGS_SIZE]);

const WORD: usize = size_of::<usize>();
/// Room for a send report, a hop limit, a packet's source and interface, a protocol and a mark.
const SETTINGS_SIZE: usize = 160;

impl SendOptions {
    pub(super) const NONE: SendOptions = SendOptions {
        bytes: Aligned([0; SETTINGS_SIZE]),
        used: 0,
    };

    /// Asks for a report of when the packet left (`Documentation/networking/timestamping.rst`
    /// §1.3.4).
    pub(super) fn send_report() -> Self {
        let kinds = libc::SOF_TIMESTAMPING_TX_SOFTWARE;
        SendOptions::NONE.and(libc::SOL_SOCKET, libc::SO_TIMESTAMPING, &kinds.to_ne_bytes())
    }

    /// With one more. What there is no room for is left out, which the tests would show.
    #[must_use]
    #[inline]
    pub(super) fn and(mut self, level: libc::c_int, kind: libc::c_int, value: &[u8]) -> Self {
        let header = WORD + 2 * size_of::<libc::c_int>();
        let length = header + value.len();
        let end = self.used + length.next_multiple_of(WORD);
        if let Some(message) = self.bytes.0.get_mut(self.used..end) {
            message[..WORD].copy_from_slice(&length.to_ne_bytes());
            message[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
            message[WORD + 4..header].copy_from_slice(&kind.to_ne_bytes());
            message[header..length].copy_from_slice(value);
            self.used = end;
        }
        self
    }

    /// The source address and the interface that a packet's route is looked up with; 0: any.
    #[must_use]
    #[inline]
    pub(super) fn and_route(self, source: IpAddr, interface: u32) -> Self {
        match source {
            // struct in_pktinfo: interface, source, and a field that only receiving knows.
            IpAddr::V4(source) => {
                let mut info = [0; 12];
                info[..4].copy_from_slice(&interface.to_ne_bytes());
                info[4..8].copy_from_slice(&source.octets());
                self.and(libc::IPPROTO_IP, libc::IP_PKTINFO, &info)
            }
            // struct in6_pktinfo: source, interface. IPv6 takes the interface for a wish when a
            // source is given.
            IpAddr::V6(source) => {
                let mut info = [0; 20];
                if interface == 0 {
                    info[..16].copy_from_slice(&source.octets());
                }
                info[16..].copy_from_slice(&interface.to_ne_bytes());
                self.and(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info)
            }
        }
    }

    /// The mark that a packet's route is looked up with, and that firewalls see. Needs
    /// `CAP_NET_RAW` or `CAP_NET_ADMIN`, the latter before Linux 5.17.
    #[must_use]
    #[inline]
    pub(super) fn and_mark(self, mark: u32) -> Self {
        if mark == 0 {
            return self;
        }
        self.and(libc::SOL_SOCKET, libc::SO_MARK, &mark.to_ne_bytes())
    }

    /// The protocol that a raw IPv4 packet's route is looked up with; see [`raw_tells_protocol`].
    #[must_use]
    #[inline]
    pub(super) fn and_protocol(self, protocol: u8) -> Self {
        self.and(
            libc::IPPROTO_IP,
            IP_PROTOCOL,
            &libc::c_int::from(protocol).to_ne_bytes(),
        )
    }
}

/// Linux 6.4 (linux/in.h).
const IP_PROTOCOL: libc::c_int = 52;

/// Whether a raw socket of protocol `IPPROTO_RAW` can tell which protocol a packet's route is to be
/// looked up with: in IPv4 by [`SendOptions::and_protocol`], in IPv6 by the port of the
/// destination. The option that reads a socket's protocol came with that.
pub(super) fn raw_tells_protocol() -> bool {
    let Ok(socket) = socket(libc::AF_INET, libc::SOCK_DGRAM, 0) else {
        return false;
    };
    let mut protocol: libc::c_int = 0;
    let mut length = length_of::<libc::c_int>();
    // SAFETY: the kernel writes at most `length` bytes, and any bytes are valid there.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            IP_PROTOCOL,
            ptr::from_mut(&mut protocol).cast(),
            &raw mut length,
        )
    };
    result == 0
}

/// Has all that an ordinary socket sends leave by a route's interface and with its mark, if it has
/// any.
pub(super) fn bind_to_route(socket: BorrowedFd<'_>, route: &Route) -> io::Result<()> {
    if route.interface != 0 {
        // Linux 5.0; before 5.7 it needs CAP_NET_RAW.
        set_option(socket, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, route.interface)?;
    }
    if route.mark != 0 {
        set_option(socket, libc::SOL_SOCKET, libc::SO_MARK, route.mark)?;
    }
    Ok(())
}

/// Sends one packet with these settings.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    packet: &[u8],
    to: SocketAddr,
    settings: &SendOptions,
) -> io::Result<()> {
    let (mut address, length) = Destination::new(to);
    let mut part = libc::iovec {
        iov_base: packet.as_ptr().cast_mut().cast(),
        iov_len: packet.len(),
    };
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_name = ptr::from_mut(&mut address).cast();
    message.msg_namelen = length;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = settings.bytes.0.as_ptr().cast_mut().cast();
    message.msg_controllen = settings.used as _;
    // SAFETY: every pointer in `message` is valid for the length beside it during the call; sendmsg
    // only reads.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, 0) };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Messages read from an error queue at once.
pub(super) const ERROR_BATCH: usize = 32;
/// Room for one message's control data: a timestamp (64 bytes) and an extended error with an
/// address (64), and some.
const CONTROL_WORDS: usize = 24;

/// Where [`receive_errors`] puts the control data of messages.
pub(super) struct ErrorBatch {
    control: [[u64; CONTROL_WORDS]; ERROR_BATCH],
    lengths: [usize; ERROR_BATCH],
}

impl ErrorBatch {
    pub(super) fn new() -> Box<Self> {
        Box::new(ErrorBatch {
            control: [[0; CONTROL_WORDS]; ERROR_BATCH],
            lengths: [0; ERROR_BATCH],
        })
    }

    /// The control data of message `index` of the last batch.
    pub(super) fn control(&self, index: usize) -> &[u8] {
        let (Some(words), Some(&length)) = (self.control.get(index), self.lengths.get(index)) else {
            return &[];
        };
        let length = length.min(CONTROL_WORDS * 8);
        // SAFETY: `length` bytes lie within the array, and integers have no invalid or
        // uninitialised bytes.
        unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), length) }
    }
}

/// Reads what is in a socket's error queue; how many messages it was. `WouldBlock`: none.
pub(super) fn receive_errors(socket: BorrowedFd<'_>, batch: &mut ErrorBatch) -> io::Result<usize> {
    // SAFETY: all-zero is a valid mmsghdr.
    let mut messages: [libc::mmsghdr; ERROR_BATCH] = unsafe { zeroed() };
    for (message, control) in messages.iter_mut().zip(&mut batch.control) {
        message.msg_hdr.msg_control = control.as_mut_ptr().cast();
        message.msg_hdr.msg_controllen = size_of_val(control) as _;
    }
    // SAFETY: every pointer in `messages` is valid for the length beside it during the call, and
    // there are as many messages as told.
    let count = check(unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            ERROR_BATCH as libc::c_uint,
            (libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) as _,
            ptr::null_mut(),
        )
    })? as usize;
    for (message, length) in messages.iter().zip(&mut batch.lengths).take(count) {
        *length = message.msg_hdr.msg_controllen as _;
    }
    Ok(count)
}

/// Packets read from a socket at once.
pub(super) const PACKET_BATCH: usize = 64;
/// Room for one packet's control data: a timestamp (32 bytes) and auxiliary data (40), or a
/// timestamp, a hop limit (24) and a destination (40); and some.
const PACKET_CONTROL_WORDS: usize = 16;
/// The size of the longest of `struct sockaddr_ll`, `sockaddr_in` and `sockaddr_in6`.
const NAME_SIZE: usize = 28;
/// Where `struct sockaddr_ll` has its `sll_pkttype`.
const PACKET_TYPE_AT: usize = 10;

/// Where [`receive_packets`] puts packets of up to `SIZE` bytes.
pub(super) struct PacketBatch<const SIZE: usize> {
    packets: [[u8; SIZE]; PACKET_BATCH],
    control: [[u64; PACKET_CONTROL_WORDS]; PACKET_BATCH],
    names: [[u8; NAME_SIZE]; PACKET_BATCH],
    /// Of the packet and of its control data.
    lengths: [(usize, usize); PACKET_BATCH],
}

/// One packet of a [`PacketBatch`].
pub(super) struct Packet<'a> {
    /// As much of it as there was room for.
    pub(super) bytes: &'a [u8],
    /// Its true length, if that was asked for.
    pub(super) length: usize,
    pub(super) control: &'a [u8],
    /// The socket address that it came from.
    pub(super) name: &'a [u8],
}

impl Packet<'_> {
    /// For whom a packet socket's packet was (`sll_pkttype`).
    pub(super) fn packet_type(&self) -> u8 {
        self.name.get(PACKET_TYPE_AT).copied().unwrap_or_default()
    }
}

impl<const SIZE: usize> PacketBatch<SIZE> {
    pub(super) fn new() -> Box<Self> {
        // SAFETY: all-zero is valid for every field, which are integers and structures of integers.
        unsafe { Box::new_zeroed().assume_init() }
    }

    /// Packet `index` of the last batch.
    pub(super) fn packet(&self, index: usize) -> Option<Packet<'_>> {
        let (length, control) = *self.lengths.get(index)?;
        let bytes = self.packets.get(index)?.get(..length.min(SIZE))?;
        let words = self.control.get(index)?;
        let control = control.min(size_of_val(words));
        // SAFETY: `control` bytes lie within the array, and integers have no invalid or
        // uninitialised bytes.
        let control = unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), control) };
        Some(Packet {
            bytes,
            length,
            control,
            name: self.names.get(index)?,
        })
    }
}

/// Reads packets that wait; how many it was. `WouldBlock`: none. `flags`: `MSG_TRUNC` asks for the
/// true lengths.
pub(super) fn receive_packets<const SIZE: usize>(
    socket: BorrowedFd<'_>,
    batch: &mut PacketBatch<SIZE>,
    flags: libc::c_int,
) -> io::Result<usize> {
    // SAFETY: all-zero is a valid mmsghdr, and a valid iovec.
    let (mut messages, mut parts): ([libc::mmsghdr; PACKET_BATCH], [libc::iovec; PACKET_BATCH]) =
        unsafe { (zeroed(), zeroed()) };
    let buffers = batch
        .packets
        .iter_mut()
        .zip(&mut batch.control)
        .zip(&mut batch.names);
    for ((message, part), ((packet, control), name)) in messages.iter_mut().zip(&mut parts).zip(buffers) {
        part.iov_base = packet.as_mut_ptr().cast();
        part.iov_len = SIZE;
        message.msg_hdr.msg_iov = part;
        message.msg_hdr.msg_iovlen = 1;
        message.msg_hdr.msg_control = control.as_mut_ptr().cast();
        message.msg_hdr.msg_controllen = size_of_val(control) as _;
        message.msg_hdr.msg_name = name.as_mut_ptr().cast();
        message.msg_hdr.msg_namelen = NAME_SIZE as _;
    }
    // SAFETY: every pointer in `messages` is valid for the length beside it during the call, and
    // there are as many messages as told.
    let count = check(unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            PACKET_BATCH as libc::c_uint,
            (libc::MSG_DONTWAIT | flags) as _,
            ptr::null_mut(),
        )
    })? as usize;
    for (message, lengths) in messages.iter().zip(&mut batch.lengths).take(count) {
        *lengths = (message.msg_len as usize, message.msg_hdr.msg_controllen as _);
    }
    Ok(count)
}

/// A descriptor that ppoll(2) should wait for.
pub(super) fn readable(fd: BorrowedFd<'_>) -> libc::pollfd {
    libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    }
}

/// Waits for any of `fds`, at most `timeout` (`None`: without end). A signal ends it early, without
/// an error.
pub(super) fn wait(fds: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<()> {
    let limit = timeout.map(|timeout| libc::timespec {
        // At most 68 years.
        tv_sec: i32::try_from(timeout.as_secs()).unwrap_or(i32::MAX).into(),
        tv_nsec: timeout.subsec_nanos() as _,
    });
    let limit = limit.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: `fds` is valid for its length, and `limit` null or valid, during the call.
    match check(unsafe { libc::ppoll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, limit, ptr::null()) }) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

/// A counter that makes ppoll(2) return (eventfd(2)).
pub(super) fn event() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; makes a descriptor.
    unsafe { check_fd(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)) }
}

/// Raises an [`event`].
pub(super) fn raise(event: BorrowedFd<'_>) {
    let one = 1_u64;
    // SAFETY: the 8 bytes are valid during the call. It fails only when the counter is full: then
    // it is raised already.
    unsafe { libc::write(event.as_raw_fd(), ptr::from_ref(&one).cast(), 8) };
}

/// Lowers an [`event`].
pub(super) fn lower(event: BorrowedFd<'_>) {
    let mut count = 0_u64;
    // SAFETY: the 8 bytes are valid during the call. It fails only when the event was not raised.
    unsafe { libc::read(event.as_raw_fd(), ptr::from_mut(&mut count).cast(), 8) };
}

/// Lets timeouts of this thread end on time instead of up to 50 µs late (`PR_SET_TIMERSLACK`).
pub(super) fn precise_timeouts() {
    // SAFETY: no pointers. 1 ns is the least; 0 would mean the default.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong) };
}
