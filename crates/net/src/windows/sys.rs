//! System calls that neither std nor socket2 has, each made safe where it is wrapped.
#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::windows::io::{AsRawHandle, AsRawSocket, FromRawHandle, OwnedHandle};
use std::ptr;

use socket2::Socket;
use traceroute_engine::Family;
use windows_sys::Win32::Foundation::{HANDLE, WAIT_FAILED};
use windows_sys::Win32::Networking::WinSock::{
    AF_INET, AF_INET6, FD_READ, ICMP_ERROR_INFO, IP_UNICAST_IF, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP,
    IPV6_UNICAST_IF, POLLOUT, SIO_TCP_INITIAL_RTO, SOCKADDR_INET, SOCKET, TCP_FAIL_CONNECT_ON_ICMP_ERROR,
    TCP_ICMP_ERROR_INFO, TCP_INITIAL_RTO_NO_SYN_RETRANSMISSIONS, TCP_INITIAL_RTO_PARAMETERS, WSAEventSelect,
    WSAGetLastError, WSAIoctl, WSAPOLLFD, WSAPoll, getsockopt, setsockopt,
};
use windows_sys::Win32::System::Threading::{
    CreateEventW, GetCurrentThread, INFINITE, SetEvent, SetThreadPriority, THREAD_PRIORITY_HIGHEST,
    WaitForMultipleObjects,
};

// Layouts that the headers of Windows give (ws2ipdef.h, winsock2.h): a wrong one would be read
// wrongly, not refused.
const ICMP_ERROR_INFO_LEN: i32 = 36;
const _: () = assert!(
    size_of::<ICMP_ERROR_INFO>() == ICMP_ERROR_INFO_LEN as usize && align_of::<ICMP_ERROR_INFO>() == 4
);
const _: () = assert!(core::mem::offset_of!(ICMP_ERROR_INFO, protocol) == 28);
const _: () = assert!(core::mem::offset_of!(ICMP_ERROR_INFO, r#type) == 32);
const _: () = assert!(core::mem::offset_of!(ICMP_ERROR_INFO, code) == 33);
const _: () = assert!(size_of::<usize>() != 8 || size_of::<WSAPOLLFD>() == 16);
const _: () = assert!(core::mem::offset_of!(WSAPOLLFD, revents) == size_of::<SOCKET>() + 2);
// mstcpip.h.
const _: () = assert!(
    size_of::<TCP_INITIAL_RTO_PARAMETERS>() == 4
        && core::mem::offset_of!(TCP_INITIAL_RTO_PARAMETERS, MaxSynRetransmissions) == 2
);

fn last_socket_error() -> io::Error {
    // SAFETY: reads a value of the calling thread.
    io::Error::from_raw_os_error(unsafe { WSAGetLastError() })
}

fn raw_socket(socket: &Socket) -> SOCKET {
    socket.as_raw_socket() as SOCKET
}

/// A handle from a call that gives null when it fails.
///
/// # Safety
/// `handle` must be null or owned by nobody else.
pub(super) unsafe fn owned(handle: HANDLE) -> io::Result<OwnedHandle> {
    if handle.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: not null, and the caller vouches for the rest.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

/// An event that is not signalled. `manual`: it stays signalled until reset.
pub(super) fn event(manual: bool) -> io::Result<OwnedHandle> {
    // SAFETY: no pointers but null; the handle is new.
    unsafe { owned(CreateEventW(ptr::null(), manual.into(), 0, ptr::null())) }
}

/// Signals an event.
pub(super) fn signal(event: &OwnedHandle) {
    // SAFETY: the handle is open. Fails only for handles that are no events.
    unsafe { SetEvent(event.as_raw_handle()) };
}

/// Waits until one of at most 64 objects is signalled.
pub(super) fn wait_any(objects: &[&OwnedHandle]) -> io::Result<()> {
    let handles: Vec<HANDLE> = objects.iter().map(|object| object.as_raw_handle()).collect();
    // SAFETY: the array is as long as stated and its handles are open.
    let result = unsafe { WaitForMultipleObjects(handles.len() as u32, handles.as_ptr(), 0, INFINITE) };
    if result == WAIT_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Lets the calling thread run before most others: it only receives, and reads the clock for what
/// it received.
pub(super) fn raise_priority() {
    // SAFETY: the pseudo handle of the calling thread is always valid.
    if unsafe { SetThreadPriority(GetCurrentThread(), THREAD_PRIORITY_HIGHEST) } == 0 {
        tracing::debug!(error = %io::Error::last_os_error(), "cannot raise the priority of a receiving thread");
    }
}

/// Makes `event` signalled whenever `socket` has something to read. The socket does not block any
/// more.
pub(super) fn signal_on_read(socket: &Socket, event: &OwnedHandle) -> io::Result<()> {
    // SAFETY: both are open.
    let result = unsafe {
        WSAEventSelect(
            raw_socket(socket),
            event.as_raw_handle() as isize,
            FD_READ.cast_signed(),
        )
    };
    if result != 0 {
        return Err(last_socket_error());
    }
    Ok(())
}

/// What to wait for with [`poll`].
pub(super) fn poll_for(socket: &impl AsRawSocket, events: i16) -> WSAPOLLFD {
    WSAPOLLFD {
        fd: socket.as_raw_socket() as SOCKET,
        events,
        revents: 0,
    }
}

/// Waits without limit until one of the sockets is ready.
pub(super) fn poll(fds: &mut [WSAPOLLFD]) -> io::Result<()> {
    const FOREVER: i32 = -1;
    // SAFETY: the array is as long as stated.
    let result = unsafe { WSAPoll(fds.as_mut_ptr(), fds.len() as u32, FOREVER) };
    if result < 0 {
        return Err(last_socket_error());
    }
    Ok(())
}

/// Whether a connecting socket that [`poll`] reports is connected, or has failed.
pub(super) fn is_writable(revents: i16) -> bool {
    revents & POLLOUT != 0
}

/// Makes connecting fail when an ICMP error answers the SYN, and lets that error be asked for.
///
/// # Errors
/// `WSAENOPROTOOPT` before Windows build 19041.
pub(super) fn fail_on_icmp_error(socket: &Socket) -> io::Result<()> {
    set_option(socket, IPPROTO_TCP, TCP_FAIL_CONNECT_ON_ICMP_ERROR, 1)
}

/// An ICMP error as the system reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReportedIcmp {
    pub(super) from: IpAddr,
    pub(super) kind: u8,
    pub(super) code: u8,
}

/// The ICMP error that made connecting fail. `None`: another reason.
pub(super) fn icmp_error(socket: &Socket) -> Option<ReportedIcmp> {
    // SAFETY: made of integers and unions of them, for which all zeros is a value.
    let mut info: ICMP_ERROR_INFO = unsafe { zeroed() };
    let mut length = ICMP_ERROR_INFO_LEN;
    // SAFETY: the buffer is as long as stated.
    let result = unsafe {
        getsockopt(
            raw_socket(socket),
            IPPROTO_TCP,
            TCP_ICMP_ERROR_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    // Success with nothing written means that there was no ICMP error.
    (result == 0 && length == ICMP_ERROR_INFO_LEN)
        .then(|| reported(&info))
        .flatten()
}

fn reported(info: &ICMP_ERROR_INFO) -> Option<ReportedIcmp> {
    Some(ReportedIcmp {
        from: ip_address(&info.srcaddress)?,
        kind: info.r#type,
        code: info.code,
    })
}

/// The IP address in a socket address; `None` if it is of another family.
pub(super) fn ip_address(address: &SOCKADDR_INET) -> Option<IpAddr> {
    // SAFETY: all members of the union begin with the family.
    let family = unsafe { address.si_family };
    match family {
        AF_INET => {
            // SAFETY: the family says that it is an IPv4 address; any bytes are one.
            let v4 = unsafe { address.Ipv4.sin_addr.S_un.S_addr };
            Some(Ipv4Addr::from(v4.to_ne_bytes()).into())
        }
        AF_INET6 => {
            // SAFETY: the family says that it is an IPv6 address; any bytes are one.
            let v6 = unsafe { address.Ipv6.sin6_addr.u.Byte };
            Some(Ipv6Addr::from(v6).into())
        }
        _ => None,
    }
}

/// Has a socket's packets leave by an interface; 0: as the routing table says.
pub(super) fn send_by(socket: &Socket, family: Family, interface: u32) -> io::Result<()> {
    let (level, option, value) = match family {
        // In network byte order, unlike in IPv6.
        Family::V4 => (IPPROTO_IP, IP_UNICAST_IF, interface.to_be()),
        Family::V6 => (IPPROTO_IPV6, IPV6_UNICAST_IF, interface),
    };
    set_option(socket, level, option, value)
}

fn set_option(socket: &Socket, level: i32, option: i32, value: u32) -> io::Result<()> {
    const LEN: i32 = 4;
    let value = value.to_ne_bytes();
    // SAFETY: the value is as long as stated.
    let result = unsafe { setsockopt(raw_socket(socket), level, option, value.as_ptr(), LEN) };
    if result != 0 {
        return Err(last_socket_error());
    }
    Ok(())
}

/// Lets a SYN be sent once only, so that the time of its answer is that of this SYN, and a refusal
/// is reported at the first RST instead of the third. `patience` is when the system gives up, in
/// milliseconds.
///
/// An improvement only, so it is no matter when the system does not know it.
pub(super) fn send_syn_once(socket: &Socket, patience: u16) {
    let parameters = TCP_INITIAL_RTO_PARAMETERS {
        Rtt: patience,
        MaxSynRetransmissions: TCP_INITIAL_RTO_NO_SYN_RETRANSMISSIONS as u8,
    };
    let mut written = 0;
    // SAFETY: the input is as long as stated, there is no output and nothing overlapped.
    let result = unsafe {
        WSAIoctl(
            raw_socket(socket),
            SIO_TCP_INITIAL_RTO,
            (&raw const parameters).cast(),
            size_of::<TCP_INITIAL_RTO_PARAMETERS>() as u32,
            ptr::null_mut(),
            0,
            &raw mut written,
            ptr::null_mut(),
            None,
        )
    };
    if result != 0 {
        tracing::trace!(error = %last_socket_error(), "SYNs may be sent again by the system");
    }
}

/// Whether this is Wine, which has a function that Windows has not.
#[cfg(test)]
pub(super) fn is_wine() -> bool {
    use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleA, GetProcAddress};
    // SAFETY: both names end with a zero, and every process has this library.
    unsafe {
        let library = GetModuleHandleA(c"ntdll.dll".as_ptr().cast());
        GetProcAddress(library, c"wine_get_version".as_ptr().cast()).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reported_icmp_errors_are_read_in_both_families() {
        // SAFETY: as above.
        let mut info: ICMP_ERROR_INFO = unsafe { zeroed() };
        assert_eq!(reported(&info), None, "no family");
        info.srcaddress.Ipv4.sin_family = AF_INET;
        info.srcaddress.Ipv4.sin_addr.S_un.S_addr = u32::from_ne_bytes([192, 0, 2, 1]);
        info.r#type = 11;
        info.code = 2;
        let expected = ReportedIcmp {
            from: "192.0.2.1".parse().expect("address"),
            kind: 11,
            code: 2,
        };
        assert_eq!(reported(&info), Some(expected));

        let address: Ipv6Addr = "2001:db8::1".parse().expect("address");
        info.srcaddress.Ipv6.sin6_family = AF_INET6;
        info.srcaddress.Ipv6.sin6_addr.u.Byte = address.octets();
        assert_eq!(
            reported(&info).map(|reported| reported.from),
            Some(address.into())
        );
    }

    #[test]
    fn windows_reports_icmp_errors_of_connects_and_wine_does_not() {
        let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("socket");
        let asked = fail_on_icmp_error(&socket);
        if is_wine() {
            let error = asked.expect_err("as before build 19041");
            assert_eq!(error.raw_os_error(), Some(crate::winerror::WSAENOPROTOOPT));
        } else {
            asked.expect("build 19041 or later");
            assert_eq!(icmp_error(&socket), None);
        }
    }
}
