//! Safe wrappers around the system calls of macOS that neither `std` nor `socket2` has.
//!
//! Structures and numbers that `libc` lacks are from `net/bpf.h` of XNU; the assertions at the end
//! hold them, and those that `wire` and `rules` rely on, against what `libc` does know.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fs::OpenOptions;
use std::io;
use std::mem::{offset_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::ptr;
use std::time::Duration;

use traceroute_wire::filter::Instruction;

use super::rules;
use crate::unix::sys::{check, check_fd};

const BIOCSSEESENT: libc::c_ulong = 0x8004_4277;

/// `struct bpf_program`.
#[repr(C)]
struct BpfProgram {
    len: u32,
    instructions: *mut BpfInstruction,
}

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy)]
struct BpfInstruction {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

/// `struct bpf_stat`.
#[repr(C)]
#[derive(Default)]
struct BpfStat {
    received: u32,
    dropped: u32,
}

/// Opens a BPF device that nobody uses, not blocking. The last that exists makes the kernel create
/// the next, up to 256.
pub(super) fn open_bpf() -> io::Result<OwnedFd> {
    for number in 0..256 {
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(format!("/dev/bpf{number}"));
        match opened {
            Ok(device) => return Ok(device.into()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EBUSY))
}

/// ioctl(2).
///
/// # Safety
/// `request` is one whose argument is a `T`, and any pointer in it is valid during the call.
unsafe fn ioctl<T>(fd: BorrowedFd<'_>, request: libc::c_ulong, argument: &mut T) -> io::Result<()> {
    // SAFETY: `argument` is valid during the call, and of the type that the request takes.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request, ptr::from_mut(argument)) }).map(drop)
}

/// Asks for a buffer of so many bytes, before the device has an interface. The kernel may give
/// less.
pub(super) fn request_buffer_len(device: BorrowedFd<'_>, mut len: u32) -> io::Result<()> {
    // SAFETY: takes a u32.
    unsafe { ioctl(device, libc::BIOCSBLEN, &mut len) }
}

/// The buffer's length: reads must be exactly that long.
pub(super) fn buffer_len(device: BorrowedFd<'_>) -> io::Result<usize> {
    let mut len = 0_u32;
    // SAFETY: takes a u32.
    unsafe { ioctl(device, libc::BIOCGBLEN, &mut len) }?;
    Ok(len as usize)
}

/// Starts capture on an interface.
pub(super) fn attach(device: BorrowedFd<'_>, interface: &str) -> io::Result<()> {
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { zeroed() };
    // One byte stays 0.
    if interface.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    // SAFETY: takes an ifreq.
    unsafe { ioctl(device, libc::BIOCSETIF, &mut request) }
}

/// A `DLT_` number. Fails when the interface is gone.
pub(super) fn link_type(device: BorrowedFd<'_>) -> io::Result<u32> {
    let mut dlt = 0_u32;
    // SAFETY: takes a u32.
    unsafe { ioctl(device, libc::BIOCGDLT, &mut dlt) }?;
    Ok(dlt)
}

/// Makes packets readable as they come, not only when the buffer is full.
pub(super) fn set_immediate(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes a u32.
    unsafe { ioctl(device, libc::BIOCIMMEDIATE, &mut 1_u32) }
}

/// Whether to capture what leaves, too.
pub(super) fn set_see_sent(device: BorrowedFd<'_>, see: bool) -> io::Result<()> {
    // SAFETY: takes a u32.
    unsafe { ioctl(device, BIOCSSEESENT, &mut u32::from(see)) }
}

/// Sets the filter. `flush`: also forgets what has been captured.
pub(super) fn set_filter(device: BorrowedFd<'_>, program: &[Instruction], flush: bool) -> io::Result<()> {
    let translate = |instruction: &Instruction| BpfInstruction {
        code: instruction.code,
        jt: instruction.jt,
        jf: instruction.jf,
        k: instruction.k,
    };
    let mut instructions: Vec<BpfInstruction> = program.iter().map(translate).collect();
    let mut program = BpfProgram {
        len: instructions.len() as u32,
        instructions: instructions.as_mut_ptr(),
    };
    let request = if flush { libc::BIOCSETF } else { libc::BIOCSETFNR };
    // SAFETY: both take a bpf_program, whose pointer is valid for its length during the call.
    unsafe { ioctl(device, request, &mut program) }
}

/// Packets dropped because the buffer was full, since the device was attached; wraps around.
pub(super) fn dropped(device: BorrowedFd<'_>) -> io::Result<u32> {
    let mut statistics = BpfStat::default();
    // SAFETY: takes a bpf_stat.
    unsafe { ioctl(device, libc::BIOCGSTATS, &mut statistics) }?;
    Ok(statistics.dropped)
}

/// The effective user.
pub(super) fn user() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// read(2).
pub(super) fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is valid for its length during the call.
    let count = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// An integer setting of the kernel.
pub(super) fn setting(name: &CStr) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>();
    // SAFETY: the name is a C string, and the kernel writes at most `len` bytes to `value`; nothing
    // is set.
    check(unsafe {
        libc::sysctlbyname(
            name.as_ptr(),
            ptr::from_mut(&mut value).cast(),
            &raw mut len,
            ptr::null_mut(),
            0,
        )
    })?;
    Ok(value)
}

/// Something that happened, from a [`Kqueue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KqueueEvent {
    /// Somebody called [`Kqueue::wake`].
    Woken,
    /// The descriptor has something to read.
    Readable(RawFd),
    /// The descriptor became writable, or failed; with the number it was added with.
    Writable(u64),
}

/// Events taken from a queue at once.
pub(super) const EVENTS: usize = 64;

/// A kernel event queue (kqueue(2)).
pub(super) struct Kqueue(OwnedFd);

impl Kqueue {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: no pointers; makes a descriptor.
        let queue = unsafe { check_fd(libc::kqueue()) }?;
        // SAFETY: no pointers.
        check(unsafe { libc::fcntl(queue.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) })?;
        Ok(Kqueue(queue))
    }

    /// Prepares for [`Kqueue::wake`].
    pub(super) fn add_wake(&self) -> io::Result<()> {
        self.change(0, libc::EVFILT_USER, libc::EV_ADD | libc::EV_CLEAR, 0, 0)
    }

    /// Makes a running or the next [`Kqueue::wait`] return; from any thread.
    pub(super) fn wake(&self) {
        // Fails only without `add_wake`.
        let _ = self.change(0, libc::EVFILT_USER, 0, libc::NOTE_TRIGGER, 0);
    }

    /// Reports whenever the descriptor has something to read, until it is closed.
    pub(super) fn add_readable(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.change(fd.as_raw_fd(), libc::EVFILT_READ, libc::EV_ADD, 0, 0)
    }

    /// Reports once when the descriptor becomes writable or fails.
    pub(super) fn add_writable_once(&self, fd: BorrowedFd<'_>, id: u64) -> io::Result<()> {
        let flags = libc::EV_ADD | libc::EV_ONESHOT;
        self.change(fd.as_raw_fd(), libc::EVFILT_WRITE, flags, 0, id)
    }

    /// Undoes [`Kqueue::add_writable_once`], if it has not reported yet.
    pub(super) fn remove_writable(&self, fd: BorrowedFd<'_>) {
        let _ = self.change(fd.as_raw_fd(), libc::EVFILT_WRITE, libc::EV_DELETE, 0, 0);
    }

    fn change(&self, ident: RawFd, filter: i16, flags: u16, fflags: u32, id: u64) -> io::Result<()> {
        let change = libc::kevent {
            ident: ident as usize,
            filter,
            flags,
            fflags,
            data: 0,
            udata: ptr::without_provenance_mut(id as usize),
        };
        // SAFETY: one change, valid during the call, and no room for events.
        check(unsafe {
            libc::kevent(
                self.0.as_raw_fd(),
                &raw const change,
                1,
                ptr::null_mut(),
                0,
                ptr::null(),
            )
        })
        .map(drop)
    }

    /// Waits at most `timeout` (`None`: without end) and puts what happened into `events`, at most
    /// `room` of it and [`EVENTS`]. A signal ends it early, without an error.
    pub(super) fn wait(
        &self,
        timeout: Option<Duration>,
        room: usize,
        events: &mut Vec<KqueueEvent>,
    ) -> io::Result<()> {
        events.clear();
        let limit = timeout.map(|timeout| libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs().min(A_DAY)).unwrap_or_default(),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let limit = limit.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: all-zero is a valid kevent.
        let mut found: [libc::kevent; EVENTS] = unsafe { zeroed() };
        // SAFETY: no changes; room for as many events as told, and `limit` null or valid, during
        // the call.
        let count = check(unsafe {
            libc::kevent(
                self.0.as_raw_fd(),
                ptr::null(),
                0,
                found.as_mut_ptr(),
                libc::c_int::try_from(room.min(EVENTS)).unwrap_or(1),
                limit,
            )
        });
        match count {
            Ok(count) => events.extend(found.iter().take(count as usize).filter_map(event)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// The kernel refuses far longer timeouts; waking up once a day hurts nobody.
const A_DAY: u64 = 86_400;

fn event(event: &libc::kevent) -> Option<KqueueEvent> {
    match event.filter {
        libc::EVFILT_USER => Some(KqueueEvent::Woken),
        libc::EVFILT_READ => Some(KqueueEvent::Readable(RawFd::try_from(event.ident).ok()?)),
        libc::EVFILT_WRITE => Some(KqueueEvent::Writable(event.udata.addr() as u64)),
        _ => None,
    }
}

impl AsFd for Kqueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The size of an ioctl's argument is part of its number (`sys/ioccom.h`).
const fn takes<T>(request: libc::c_ulong) -> bool {
    request >> 16 & 0x1FFF == size_of::<T>() as libc::c_ulong
}

const _: () = {
    assert!(takes::<u32>(libc::BIOCSBLEN) && takes::<u32>(libc::BIOCGBLEN));
    assert!(takes::<u32>(libc::BIOCGDLT) && takes::<u32>(libc::BIOCIMMEDIATE) && takes::<u32>(BIOCSSEESENT));
    assert!(takes::<libc::ifreq>(libc::BIOCSETIF) && size_of::<libc::ifreq>() == 32);
    assert!(takes::<BpfProgram>(libc::BIOCSETF) && takes::<BpfProgram>(libc::BIOCSETFNR));
    assert!(takes::<BpfStat>(libc::BIOCGSTATS));
    assert!(size_of::<BpfProgram>() == 16 && offset_of!(BpfProgram, instructions) == 8);
    assert!(size_of::<BpfInstruction>() == 8 && offset_of!(BpfInstruction, k) == 4);

    // What `traceroute_wire::bpf_device` reads.
    assert!(size_of::<libc::timeval32>() == 8);
    assert!(offset_of!(libc::bpf_hdr, bh_tstamp) == 0 && offset_of!(libc::bpf_hdr, bh_caplen) == 8);
    assert!(offset_of!(libc::bpf_hdr, bh_hdrlen) == 16 && size_of::<libc::bpf_hdr>() == 20);

    // What `rules` writes.
    assert!(rules::IPPROTO_IPV6 == libc::IPPROTO_IPV6);
    assert!(rules::IPV6_PKTINFO == libc::IPV6_PKTINFO && rules::IPV6_HOPLIMIT == libc::IPV6_HOPLIMIT);
    assert!(rules::CONTROL_HEADER_LEN == size_of::<libc::cmsghdr>());
    assert!(rules::PACKET_INFO_LEN == size_of::<libc::in6_pktinfo>());
    assert!(offset_of!(libc::cmsghdr, cmsg_level) == 4 && offset_of!(libc::cmsghdr, cmsg_type) == 8);

    assert!(size_of::<BpfStat>() == 8 && offset_of!(BpfStat, dropped) == 4);
    // Which is packed.
    assert!(size_of::<libc::kevent>() == 32 && offset_of!(libc::kevent, udata) == 24);
    assert!(size_of::<libc::timespec>() == 16);

    // Ids of connections travel in a pointer.
    assert!(size_of::<usize>() == size_of::<u64>());
};
