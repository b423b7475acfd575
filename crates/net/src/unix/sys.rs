//! Safe wrappers around system calls that neither `std` nor `socket2` has, as POSIX and BSD sockets
//! define them.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;

use traceroute_engine::Time;

/// Turns the return value of a system call into a result.
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Takes ownership of a descriptor that a system call just made.
///
/// # Safety
/// `result` is what a call returned that makes a descriptor or fails with a negative value.
pub(crate) unsafe fn check_fd(result: libc::c_int) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: the kernel just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether this process ignores SIGINT, as shells have it in the background, and nohup.
pub fn is_interrupt_ignored() -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: nothing is set, and the pointer is valid. The call cannot fail for this signal; if it
    // did, the zeros would be valid.
    let action = unsafe {
        libc::sigaction(libc::SIGINT, ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}

fn clock(id: libc::clockid_t) -> libc::timespec {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the pointer is valid. The call cannot fail for these clocks; if it did, the zeros
    // would be valid.
    unsafe {
        libc::clock_gettime(id, time.as_mut_ptr());
        time.assume_init()
    }
}

/// `CLOCK_MONOTONIC`.
pub(crate) fn monotonic() -> Time {
    let time = clock(libc::CLOCK_MONOTONIC);
    Time::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// `CLOCK_REALTIME`, in nanoseconds since 1970.
#[allow(clippy::unnecessary_cast)] // Narrower on 32-bit systems.
pub(crate) fn realtime() -> i64 {
    let time = clock(libc::CLOCK_REALTIME);
    time.tv_sec as i64 * 1_000_000_000 + time.tv_nsec as i64
}

/// How many files this process may have open, and how far it may raise that.
#[allow(clippy::unnecessary_cast)] // Narrower on 32-bit systems.
pub(crate) fn open_files() -> io::Result<(u64, u64)> {
    let limit = open_files_limit()?;
    Ok((limit.rlim_cur as u64, limit.rlim_max as u64))
}

fn open_files_limit() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is valid during the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    Ok(limit)
}

/// Raises the limit of open files as far as an ordinary process may, and not beyond `most`.
pub(crate) fn raise_open_files(most: libc::rlim_t) -> io::Result<()> {
    let mut limit = open_files_limit()?;
    let wanted = limit.rlim_max.min(most);
    if limit.rlim_cur < wanted {
        limit.rlim_cur = wanted;
        // SAFETY: the pointer is valid during the call.
        check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    }
    Ok(())
}

/// One address of an interface.
#[derive(Debug)]
pub(crate) struct InterfaceAddress {
    pub(crate) name: String,
    /// `IFF_` constants.
    pub(crate) flags: u32,
    pub(crate) address: IpAddr,
}

/// The IP addresses of all interfaces (getifaddrs(3)), those of an interface next to each other or
/// not.
pub(crate) fn interface_addresses() -> io::Result<Vec<InterfaceAddress>> {
    let mut first: *mut libc::ifaddrs = ptr::null_mut();
    // SAFETY: the pointer is valid during the call.
    check(unsafe { libc::getifaddrs(&raw mut first) })?;
    let mut found = Vec::new();
    let mut next = first;
    // SAFETY: each pointer in the list is null or valid until `freeifaddrs`.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        // SAFETY: an address in the list is null or a socket address of its family.
        let Some(address) = (unsafe { ip_address(entry.ifa_addr) }) else {
            continue;
        };
        // SAFETY: names in the list are C strings.
        let name = unsafe { CStr::from_ptr(entry.ifa_name) };
        found.push(InterfaceAddress {
            name: name.to_string_lossy().into_owned(),
            flags: entry.ifa_flags,
            address,
        });
    }
    // SAFETY: what `getifaddrs` returned, freed once; nothing refers to it any more.
    unsafe { libc::freeifaddrs(first) };
    Ok(found)
}

/// The IP address in a socket address; `None` if it is of another family.
///
/// # Safety
/// `address` is null or points to a socket address that is complete for its family.
unsafe fn ip_address(address: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: null or valid, by this function's contract.
    let family = unsafe { address.as_ref() }?.sa_family;
    match i32::from(family) {
        libc::AF_INET => {
            // SAFETY: a socket address of this family is a sockaddr_in, and it may not be aligned
            // like one.
            let v4 = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes()).into())
        }
        libc::AF_INET6 => {
            // SAFETY: a socket address of this family is a sockaddr_in6, and it may not be aligned
            // like one.
            let v6 = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

/// The index of an interface.
pub(crate) fn interface_index(name: &str) -> Option<u32> {
    let name = std::ffi::CString::new(name).ok()?;
    // SAFETY: a C string, valid during the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

/// Whether an interface has this index.
pub(crate) fn has_interface(index: u32) -> bool {
    interface_name(index).is_some()
}

/// The name of the interface with this index.
pub(crate) fn interface_name(index: u32) -> Option<String> {
    let mut name = [0; libc::IF_NAMESIZE];
    // SAFETY: room for the longest name of an interface, as if_indextoname(3) wants it.
    let found = unsafe { libc::if_indextoname(index, name.as_mut_ptr()) };
    if found.is_null() {
        return None;
    }
    // SAFETY: the call succeeded, so a string that ends with a zero is in `name`.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) };
    Some(name.to_string_lossy().into_owned())
}
