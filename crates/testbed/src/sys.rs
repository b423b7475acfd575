//! The system calls that the standard library does not wrap. All `unsafe` of this crate except
//! `CommandExt::pre_exec` is here.

use std::fs::OpenOptions;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

use libc::{c_int, c_short};

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Moves the calling thread into a namespace. setns(2)
pub(crate) fn setns(namespace: BorrowedFd<'_>, kind: c_int) -> io::Result<()> {
    // SAFETY: takes no pointers; the descriptor is open for the call.
    check(unsafe { libc::setns(namespace.as_raw_fd(), kind) }).map(drop)
}

/// Gives the calling thread new namespaces. unshare(2)
pub(crate) fn unshare(kinds: c_int) -> io::Result<()> {
    // SAFETY: takes no pointers; only used for namespaces, not for `CLONE_FILES` or the like.
    check(unsafe { libc::unshare(kinds) }).map(drop)
}

/// Has the calling process killed when the thread that forked it ends. `PR_SET_PDEATHSIG(2const)`
///
/// To be called last before exec: a change of credentials (setns into a user namespace) clears it.
pub(crate) fn die_with_parent(parent: u32) -> io::Result<()> {
    // SAFETY: PR_SET_PDEATHSIG reads one unsigned long.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) })?;
    // SAFETY: no arguments, cannot fail.
    let now = unsafe { libc::getppid() };
    // The parent may have died before the signal was asked for.
    if now.cast_unsigned() == parent {
        Ok(())
    } else {
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

/// SIGINT ends the calling process, also if it was ignored. signal(7)
pub(crate) fn heed_interrupt() {
    // SAFETY: no handler is installed. The call cannot fail for this signal.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
}

/// Gives up every privilege that the calling process would have after exec, also those that root
/// gets then. The program may be where nobody may look. capabilities(7)
pub(crate) fn become_nobody(may_change_user: bool) -> io::Result<()> {
    /// `SECBIT_NOROOT`, the same locked, and `SECBIT_NO_SETUID_FIXUP` (linux/securebits.h).
    const SECURE_BITS: libc::c_ulong = 0b111;
    /// Until exec, which ends it: to look for the program.
    const CAP_DAC_READ_SEARCH: u32 = 2;
    const NOBODY: libc::c_ulong = 65534;
    // SAFETY: PR_SET_SECUREBITS reads one unsigned long.
    check(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, SECURE_BITS) })?;
    if may_change_user {
        // The system calls and not the library's functions, which concern all threads and are not
        // for after a fork. SAFETY: a list of no groups is not read.
        check(unsafe { libc::syscall(libc::SYS_setgroups, 0, ptr::null::<libc::gid_t>()) } as c_int)?;
        // SAFETY: integers only.
        check(unsafe { libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY) } as c_int)?;
        // SAFETY: integers only.
        check(unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) } as c_int)?;
    }
    set_capabilities(1 << CAP_DAC_READ_SEARCH)
}

/// Gives up every capability that the calling thread has, for good. capabilities(7)
pub(crate) fn forget_capabilities() -> io::Result<()> {
    set_capabilities(0)
}

/// Version and process (0: this thread); effective, permitted and inheritable, twice.
fn set_capabilities(kept: u32) -> io::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3`.
    const VERSION: u32 = 0x2008_0522;
    let (header, sets) = ([VERSION, 0], [kept, kept, 0_u32, 0, 0, 0]);
    // SAFETY: both point to what this version of the call reads.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) } as c_int).map(drop)
}

/// Lets a descriptor survive exec, in the calling process only.
pub(crate) fn keep_across_exec(fd: RawFd) -> io::Result<()> {
    // SAFETY: F_SETFD takes an integer; a wrong descriptor is an error, not undefined.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }).map(drop)
}

/// A new socket, closed on exec. socket(2)
pub(crate) fn socket(domain: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let fd = check(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens a new TUN device of the calling process's network namespace, packets without a header.
/// Documentation/networking/tuntap.rst
pub(crate) fn open_tun(name: [libc::c_char; libc::IFNAMSIZ]) -> io::Result<OwnedFd> {
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let flags = (libc::IFF_TUN | libc::IFF_NO_PI) as c_short;
    let request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags },
    };
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives across the call.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw const request) })?;
    Ok(tun.into())
}

/// Waits until one of the descriptors can be read or has hung up; true for those that are. poll(2)
pub(crate) fn wait_readable(fds: &[RawFd]) -> io::Result<Vec<bool>> {
    let mut polled: Vec<_> = fds
        .iter()
        .map(|&fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    loop {
        // SAFETY: pointer and length are those of the vector.
        match check(unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, -1) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(polled.iter().map(|polled| polled.revents != 0).collect()),
        }
    }
}

/// Runs `make` in a forked child and hands its descriptor to this process.
///
/// Only a process of one thread may join a user namespace (setns(2)), and sockets, TUN devices and
/// namespace descriptors stay what they are wherever they are passed to. So a child that lives for
/// this one call does for plain users what a thread could do for root only.
///
/// `make` runs between fork and exec of a process that may have had other threads: it must not
/// allocate or lock.
pub(crate) fn fd_from_child(
    mut make: impl FnMut() -> io::Result<OwnedFd> + Send + Sync + 'static,
) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    // Never executed: `Command` is used for its fork and because it reports the child's error
    // number.
    let mut command = Command::new("true");
    let child_side = move || {
        let fd = make()?;
        send_fd(&theirs, fd.as_fd())?;
        // SAFETY: ends the child at once, running none of this process's exit handlers.
        unsafe { libc::_exit(0) }
    };
    // SAFETY: the closure only makes system calls on values prepared before the fork (see above for
    // `make`).
    unsafe { command.pre_exec(child_side) };
    let mut child = command.spawn()?;
    // Closes `theirs`, so that receiving cannot block when nothing was sent.
    drop(command);
    let fd = receive_fd(&ours);
    child.wait()?;
    fd
}

/// Space for one control message with one descriptor; the integers give it the alignment of
/// `cmsghdr`.
type Control = [u64; 4];
const FD_SIZE: u32 = size_of::<RawFd>() as u32;

/// A message of one byte whose control data is `control`. unix(7), cmsg(3)
fn message(byte: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: all zeros is a valid msghdr (null pointers, no lengths).
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = byte;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: arithmetic only.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(FD_SIZE) } as _;
    message
}

fn send_fd(socket: &UnixStream, fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut byte = 0_u8;
    let mut iovec = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let mut control = Control::default();
    let message = message(&mut iovec, &mut control);
    // SAFETY: `control` is large enough and aligned for one header and one descriptor, so
    // CMSG_FIRSTHDR is not null; everything the message points to lives until after sendmsg.
    let sent = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(FD_SIZE) as _;
        ptr::write_unaligned(libc::CMSG_DATA(header).cast(), fd.as_raw_fd());
        libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
    };
    check(sent as c_int).map(drop)
}

fn receive_fd(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = 0_u8;
    let mut iovec = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let mut control = Control::default();
    let mut message = message(&mut iovec, &mut control);
    // SAFETY: everything the message points to lives across the call.
    check(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) } as c_int)?;
    // SAFETY: the kernel set msg_controllen; a header it returns lies within `control`, and one of
    // SCM_RIGHTS holds a descriptor that is new in this process and nobody else's.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if header.is_null() || (*header).cmsg_type != libc::SCM_RIGHTS {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(OwnedFd::from_raw_fd(ptr::read_unaligned(
            libc::CMSG_DATA(header).cast(),
        )))
    }
}
