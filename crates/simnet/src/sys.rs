//! The system calls that the standard library lacks. The crate's only unsafe code.

#![allow(unsafe_code)]
// C's integer types differ between architectures; the values are small.
#![allow(clippy::cast_possible_wrap, clippy::unnecessary_cast)]

use std::fs::{File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

/// Opens a TUN device without packet information (`IFF_TUN | IFF_NO_PI`), non-blocking; it vanishes
/// with the file. An empty name, or one with `%d`, lets the kernel choose. Returns the name too.
pub(crate) fn open_tun(name: &str) -> io::Result<(File, String)> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    let mut request = interface_request(name)?;
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which `request` is and which outlives the
    // call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    let name = request
        .ifr_name
        .iter()
        .take_while(|byte| **byte != 0)
        .map(|byte| *byte as u8 as char)
        .collect();
    Ok((file, name))
}

/// Brings up an interface of the calling thread's network namespace (netdevice(7)).
pub(crate) fn bring_up(interface: &str) -> io::Result<()> {
    let mut request = interface_request(interface)?;
    // Any socket of the namespace does.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: SIOCGIFFLAGS reads and writes one `ifreq`, which `request` is and which outlives the
    // call.
    check(unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCGIFFLAGS as libc::Ioctl,
            &raw mut request,
        )
    })?;
    // SAFETY: the call before has filled in the flags, and all-zero bytes were valid ones before.
    unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, which outlives the call.
    check(unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as libc::Ioctl,
            &raw const request,
        )
    })
}

/// What is asked of one interface, all else zero.
fn interface_request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all-zero bytes are a valid `ifreq`: it holds only integers, arrays and a pointer that
    // may be null.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() || name.contains('\0') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "device names have at most 15 bytes",
        ));
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    Ok(request)
}

/// Moves the calling thread into new namespaces (unshare(2)).
pub(crate) fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::unshare(flags) })
}

/// The effective user and group.
pub(crate) fn user_and_group() -> (u32, u32) {
    // SAFETY: both take nothing and always succeed.
    unsafe { (libc::geteuid(), libc::getegid()) }
}

/// Lets the calling thread's timers expire without the usual 50 µs of slack (`PR_SET_TIMERSLACK`).
pub(crate) fn set_timer_slack() -> io::Result<()> {
    let nanoseconds: libc::c_ulong = 1;
    // SAFETY: takes no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, nanoseconds) })
}

/// Schedules the calling thread before all ordinary ones (`SCHED_FIFO`, lowest priority).
///
/// # Errors
/// This is not permitted.
pub fn set_realtime() -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid `sched_param`: it holds only integers.
    let mut param: libc::sched_param = unsafe { std::mem::zeroed() };
    param.sched_priority = 1;
    // SAFETY: reads one `sched_param`, which outlives the call; 0 is the calling thread.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) })
}

/// Waits until one of two files is readable or closed by its other side, or for `timeout` (`None`:
/// no limit). Returns which are. A signal counts as a time-out.
pub(crate) fn wait(files: [BorrowedFd<'_>; 2], timeout: Option<Duration>) -> io::Result<[bool; 2]> {
    let mut polled = files.map(|file| libc::pollfd {
        fd: file.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    });
    // SAFETY: all-zero bytes are a valid `timespec`: it holds only integers.
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    let time_pointer = match timeout {
        Some(timeout) => {
            time.tv_sec = timeout.as_secs().min(3600) as _;
            time.tv_nsec = timeout.subsec_nanos() as _;
            &raw const time
        }
        None => std::ptr::null(),
    };
    // SAFETY: the two `pollfd`s and the time, when there is one, outlive the call; a null signal
    // mask changes none.
    let result = check(unsafe { libc::ppoll(polled.as_mut_ptr(), 2, time_pointer, std::ptr::null()) });
    match result {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok([false; 2]),
        Err(error) => Err(error),
        Ok(()) => Ok(polled.map(|polled| polled.revents != 0)),
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
