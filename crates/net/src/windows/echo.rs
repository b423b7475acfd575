//! ICMP without raw sockets: `IcmpSendEcho2Ex` and `Icmp6SendEcho2`. They need no rights, pass
//! Windows Firewall, and are the only way to trace over IPv6 without the driver. The system chooses
//! identifier and sequence number.
//!
//! One thread starts all requests and is called by the system when one is over (an asynchronous
//! procedure call, which only the thread that started a request can receive): it reads the clock
//! and leaves the answer in the inbox. Events instead would be one for each request, with a pool of
//! threads to wait for them; and Wine 8 corrupts the heap with them (it frees the status block of a
//! request that is still under way, which later is written to).
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::mem::{offset_of, size_of, zeroed};
use std::net::{IpAddr, Ipv6Addr};
use std::os::windows::io::{AsRawHandle, OwnedHandle};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use traceroute_engine::{Family, MatchedReply, Time, Token};
use windows_sys::Win32::Foundation::{
    self, ERROR_INVALID_PARAMETER, GetLastError, HANDLE, INVALID_HANDLE_VALUE,
};
use windows_sys::Win32::NetworkManagement::IpHelper::{
    ICMP_ECHO_REPLY, ICMPV6_ECHO_REPLY_LH, IP_OPTION_INFORMATION, Icmp6CreateFile, Icmp6ParseReplies,
    Icmp6SendEcho2, IcmpCloseHandle, IcmpCreateFile, IcmpParseReplies, IcmpSendEcho2Ex,
};
use windows_sys::Win32::Networking::WinSock::{AF_INET6, IN6_ADDR, IN6_ADDR_0, SOCKADDR_IN6};
use windows_sys::Win32::System::IO::IO_STATUS_BLOCK;
use windows_sys::Win32::System::Threading::{INFINITE, QueueUserAPC, SleepEx};

use super::{clock, sys};
use crate::icmp_api::{self, Start, at};
use crate::inbox::{Inbox, Item};
use crate::route;

/// Requests under way at most; the next ones have to wait. Each has a kilobyte.
const MAX_REQUESTS: usize = 8192;
/// When the system gives a request up, in milliseconds: the longest time that a probe's answer may
/// take.
const PATIENCE: u32 = 30_000;
/// Payload, in bytes.
const DATA: [u8; 8] = *b"NSMNC\0\0\0";
/// The reply structure, the returned payload or 8 bytes of ICMP error, and an `IO_STATUS_BLOCK`,
/// with room to spare: routers may return more than they should.
const REPLY_LEN: usize = 512;

// ipexport.h and icmpapi.h, in the layout of 64-bit systems.
const _: () = assert!(icmp_api::ERROR_IO_PENDING == Foundation::ERROR_IO_PENDING);
const _: () = assert!(size_of::<usize>() != 8 || size_of::<ICMP_ECHO_REPLY>() == 40);
const _: () = assert!(
    offset_of!(ICMP_ECHO_REPLY, Address) == at::V4_ADDRESS
        && offset_of!(ICMP_ECHO_REPLY, Status) == at::V4_STATUS
);
const _: () = assert!(size_of::<usize>() != 8 || size_of::<IP_OPTION_INFORMATION>() == 16);
const _: () = assert!(size_of::<ICMPV6_ECHO_REPLY_LH>() == 36);
const _: () = assert!(
    offset_of!(ICMPV6_ECHO_REPLY_LH, Address.sin6_addr) == at::V6_ADDRESS
        && offset_of!(ICMPV6_ECHO_REPLY_LH, Status) == at::V6_STATUS
);
const _: () = assert!(size_of::<SOCKADDR_IN6>() == 28 && offset_of!(SOCKADDR_IN6, sin6_addr) == 8);
// The reply is written where the buffer begins, which must be long and aligned enough.
const _: () = assert!(
    offset_of!(EchoRequest, reply) == 0 && align_of::<ReplyBuffer>() >= align_of::<ICMP_ECHO_REPLY>()
);
const _: () =
    assert!(REPLY_LEN > size_of::<ICMP_ECHO_REPLY>() && REPLY_LEN > size_of::<ICMPV6_ECHO_REPLY_LH>());

/// Sends echo requests.
pub(super) struct EchoApi {
    inbox: Arc<Inbox>,
    v4: Option<Arc<IcmpHandle>>,
    v6: Option<Arc<IcmpHandle>>,
    under_way: Arc<AtomicUsize>,
    /// Started by the first request.
    thread: Option<EchoThread>,
}

/// The thread that starts requests and reads their answers.
struct EchoThread {
    handle: OwnedHandle,
    stopping: Arc<AtomicBool>,
    /// Whether the request that the thread was given last has been started, and when.
    started: Receiver<io::Result<Time>>,
    report: SyncSender<io::Result<Time>>,
}

/// A handle for echo requests. Open until the last request is over.
struct IcmpHandle(HANDLE);

// SAFETY: the handle is used from several threads, as any kernel handle may be; nothing else is
// shared.
unsafe impl Send for IcmpHandle {}
// SAFETY: as above.
unsafe impl Sync for IcmpHandle {}

impl Drop for IcmpHandle {
    fn drop(&mut self) {
        // SAFETY: open, and used by nobody any more.
        unsafe { IcmpCloseHandle(self.0) };
    }
}

/// One echo request. Belongs to the thread once it is queued.
#[repr(C)]
struct EchoRequest {
    /// Written by the system until it calls [`finish`].
    reply: ReplyBuffer,
    handle: Arc<IcmpHandle>,
    inbox: Arc<Inbox>,
    counted: Counted,
    /// Told when the request has been started.
    report: SyncSender<io::Result<Time>>,
    source: IpAddr,
    destination: IpAddr,
    /// The interface of link-local addresses.
    scope: u32,
    ttl: u8,
    token: Token,
}

/// One of the requests that are under way, until dropped.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(under_way: &Arc<AtomicUsize>) -> Self {
        under_way.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(under_way))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Aligned for every reply structure.
#[repr(C, align(8))]
struct ReplyBuffer([u8; REPLY_LEN]);

impl EchoApi {
    pub(super) fn new(inbox: Arc<Inbox>) -> Self {
        EchoApi {
            inbox,
            v4: None,
            v6: None,
            under_way: Arc::default(),
            thread: None,
        }
    }

    /// Sends a request with a TTL; when, by the clock just before. `scope`: the interface of a
    /// link-local destination, otherwise 0. Others leave by the interface that has the source.
    pub(super) fn send(
        &mut self,
        source: IpAddr,
        (destination, scope): (IpAddr, u32),
        ttl: u8,
        token: Token,
    ) -> io::Result<Time> {
        if self.under_way.load(Ordering::Relaxed) >= MAX_REQUESTS {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let handle = self.handle(destination)?;
        let thread = match &mut self.thread {
            Some(thread) => thread,
            none => none.insert(EchoThread::start(Arc::clone(&self.under_way))?),
        };
        thread.send(Box::new(EchoRequest {
            reply: ReplyBuffer([0; REPLY_LEN]),
            handle,
            inbox: Arc::clone(&self.inbox),
            counted: Counted::new(&self.under_way),
            report: thread.report.clone(),
            source,
            destination,
            scope,
            ttl,
            token,
        }))
    }

    fn handle(&mut self, destination: IpAddr) -> io::Result<Arc<IcmpHandle>> {
        let slot = match destination {
            IpAddr::V4(_) => &mut self.v4,
            IpAddr::V6(_) => &mut self.v6,
        };
        if let Some(handle) = slot {
            return Ok(Arc::clone(handle));
        }
        Ok(Arc::clone(slot.insert(Arc::new(open(destination)?))))
    }

    /// How many handles are open.
    pub(super) fn count(&self) -> u64 {
        u64::from(self.v4.is_some()) + u64::from(self.v6.is_some())
    }
}

/// Whether the API can be used for addresses of this family.
pub(super) fn check(family: IpAddr) -> io::Result<()> {
    open(family).map(drop)
}

fn open(family: IpAddr) -> io::Result<IcmpHandle> {
    // SAFETY: take nothing.
    let handle = unsafe {
        match family {
            IpAddr::V4(_) => IcmpCreateFile(),
            IpAddr::V6(_) => Icmp6CreateFile(),
        }
    };
    if handle == INVALID_HANDLE_VALUE || handle.is_null() {
        return Err(io::Error::last_os_error());
    }
    Ok(IcmpHandle(handle))
}

impl EchoThread {
    fn start(under_way: Arc<AtomicUsize>) -> io::Result<Self> {
        let stopping = Arc::new(AtomicBool::new(false));
        let (report, started) = sync_channel(1);
        let stop = Arc::clone(&stopping);
        let thread = thread::Builder::new()
            .name("echo requests".to_owned())
            .spawn(move || {
                sys::raise_priority();
                // The requests end with the thread that started them, and their memory is the
                // system's until then.
                while !stop.load(Ordering::Acquire) || under_way.load(Ordering::Relaxed) > 0 {
                    // SAFETY: takes no pointers. The calls that it lets through expect to be made
                    // here.
                    unsafe { SleepEx(INFINITE, 1) };
                }
            })?;
        Ok(EchoThread {
            handle: thread.into(),
            stopping,
            started,
            report,
        })
    }

    /// Starts a request on the thread; when, by its clock.
    fn send(&self, request: Box<EchoRequest>) -> io::Result<Time> {
        let request = Box::into_raw(request);
        // SAFETY: the thread's handle is open, and `start` gets the pointer that it expects, once.
        if unsafe { QueueUserAPC(Some(start), self.handle.as_raw_handle(), request as usize) } == 0 {
            let error = io::Error::last_os_error();
            // SAFETY: from `Box::into_raw`; nothing was queued, so nobody else has it.
            drop(unsafe { Box::from_raw(request) });
            return Err(error);
        }
        self.started
            .recv()
            .unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
    }
}

impl Drop for EchoThread {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // SAFETY: the thread's handle is open. Fails where the thread has ended already.
        unsafe { QueueUserAPC(Some(wake), self.handle.as_raw_handle(), 0) };
    }
}

/// Lets the thread look whether it is still needed.
unsafe extern "system" fn wake(_: usize) {}

/// Called on the thread: starts a request.
unsafe extern "system" fn start(request: usize) {
    let request = request as *mut EchoRequest;
    // SAFETY: the pointer that `EchoThread::send` gave away. The request stays where it is until
    // `finish` frees it, which is not called before this thread sleeps again.
    let report = unsafe { (*request).report.clone() };
    let at = clock::now();
    // SAFETY: as above.
    let started = match unsafe { send(request) } {
        Start::Pending => Ok(at),
        Start::Failed(error) => {
            // SAFETY: nothing was started, so the system holds no pointer, and `finish` is not
            // called.
            drop(unsafe { Box::from_raw(request) });
            Err(io::Error::from_raw_os_error(error.cast_signed()))
        }
        // The request stays where it is: the system may write to it.
        Start::Unclear(result) => Err(io::Error::other(format!(
            "the ICMP API returned {result}, which it does not document"
        ))),
    };
    // Fails where nobody waits for it any more.
    let _ = report.send(started);
}

/// Has the system send an echo request.
///
/// # Safety
/// `request` must be valid until [`finish`] is called with it.
unsafe fn send(request: *mut EchoRequest) -> Start {
    let (handle, source, destination, scope, ttl) = {
        // SAFETY: the caller vouches for `request`, and nothing has been started with it.
        let request = unsafe { &*request };
        let handle = request.handle.0;
        (
            handle,
            request.source,
            request.destination,
            request.scope,
            request.ttl,
        )
    };
    let options = IP_OPTION_INFORMATION {
        Ttl: ttl,
        Tos: 0,
        Flags: 0,
        OptionsSize: 0,
        OptionsData: ptr::null_mut(),
    };
    // SAFETY: as above; a place is named, not read.
    let reply = unsafe { &raw mut (*request).reply }.cast::<c_void>();
    let result = match (source, destination) {
        // SAFETY: payload and options are copied during the call, and the reply buffer is as long
        // as stated.
        (IpAddr::V4(source), IpAddr::V4(destination)) => unsafe {
            IcmpSendEcho2Ex(
                handle,
                ptr::null_mut(),
                Some(finish),
                request.cast(),
                u32::from_ne_bytes(source.octets()),
                u32::from_ne_bytes(destination.octets()),
                DATA.as_ptr().cast(),
                DATA.len() as u16,
                &raw const options,
                reply,
                REPLY_LEN as u32,
                PATIENCE,
            )
        },
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let (source, destination) = (sockaddr(source, scope), sockaddr(destination, scope));
            // SAFETY: as above, and the addresses are copied too.
            unsafe {
                Icmp6SendEcho2(
                    handle,
                    ptr::null_mut(),
                    Some(finish),
                    request.cast(),
                    &raw const source,
                    &raw const destination,
                    DATA.as_ptr().cast(),
                    DATA.len() as u16,
                    &raw const options,
                    reply,
                    REPLY_LEN as u32,
                    PATIENCE,
                )
            }
        }
        _ => return Start::Failed(ERROR_INVALID_PARAMETER),
    };
    // SAFETY: reads a value of the calling thread.
    Start::of(result, || unsafe { GetLastError() })
}

fn sockaddr(address: Ipv6Addr, interface: u32) -> SOCKADDR_IN6 {
    // SAFETY: made of integers and unions of them, for which all zeros is a value.
    let mut socket_address: SOCKADDR_IN6 = unsafe { zeroed() };
    socket_address.sin6_family = AF_INET6;
    socket_address.Anonymous.sin6_scope_id = route::scope_of(address.into(), interface);
    socket_address.sin6_addr = IN6_ADDR {
        u: IN6_ADDR_0 {
            Byte: address.octets(),
        },
    };
    socket_address
}

/// Called on the thread while it sleeps, when a request is over.
unsafe extern "system" fn finish(request: *mut c_void, _: *mut IO_STATUS_BLOCK, _: u32) {
    let at = clock::now();
    // SAFETY: the pointer that `EchoThread::send` gave away; the system is done with it, and calls
    // once.
    let mut request = unsafe { Box::from_raw(request.cast::<EchoRequest>()) };
    let answer = request.answer();
    let EchoRequest {
        inbox,
        counted,
        token,
        ..
    } = *request;
    // Before the answer is seen, so that there is room for the next request by then.
    drop(counted);
    if let Some(answer) = answer {
        inbox.push(Item::Answered { token, answer, at });
    }
}

impl EchoRequest {
    /// Reads the reply buffer.
    fn answer(&mut self) -> Option<MatchedReply> {
        let family = Family::of(self.destination);
        let buffer: *mut c_void = self.reply.0.as_mut_ptr().cast();
        // SAFETY: the buffer is as long as stated, and the system is done with it.
        let replies = unsafe {
            match family {
                Family::V4 => IcmpParseReplies(buffer, REPLY_LEN as u32),
                Family::V6 => Icmp6ParseReplies(buffer, REPLY_LEN as u32),
            }
        };
        icmp_api::answer(&self.reply.0, family, replies > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;
    use crate::numbered;

    const CALL_NOT_IMPLEMENTED: i32 = 120;

    fn ping(source: IpAddr, destination: IpAddr, count: u64) -> io::Result<Vec<(Token, IpAddr)>> {
        let inbox = Arc::new(Inbox::new(1000));
        let mut api = EchoApi::new(Arc::clone(&inbox));
        let sent = clock::now();
        for token in 0..count {
            assert!(api.send(source, (destination, 0), 64, numbered(token))? >= sent);
        }
        let mut items = Vec::new();
        while (items.len() as u64) < count {
            let before = items.len();
            inbox
                .take(Some(Duration::from_secs(10)), 1000, &mut items)
                .expect("inbox");
            assert_ne!(items.len(), before, "no answer within 10 s: {items:?}");
        }
        let mut answers = Vec::new();
        for item in items {
            match item {
                Item::Answered { token, answer, at } => {
                    assert!(at >= sent && answer.error.is_none(), "{answer:?}");
                    answers.push((token, answer.from));
                }
                other => panic!("{other:?}"),
            }
        }
        answers.sort_by_key(|(token, _)| token.trace);
        assert_eq!(api.under_way.load(Ordering::Relaxed), 0);
        Ok(answers)
    }

    #[test]
    fn loopback_answers_many_requests_at_once() {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let answers = ping(loopback, loopback, 200).expect("sent");
        let expected: Vec<_> = (0..200).map(|token| (numbered(token), loopback)).collect();
        assert_eq!(answers, expected);
    }

    /// With events, Wine wrote to freed memory: 200 of these rounds ended with it in one of four
    /// runs, and a trace in one of ten.
    #[test]
    fn many_requests_leave_the_heap_as_it_was() {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        for _ in 0..500 {
            let answers = ping(loopback, loopback, 20).expect("sent");
            assert_eq!(answers.len(), 20);
        }
    }

    #[test]
    fn windows_answers_on_ipv6_loopback_and_wine_has_no_icmpv6() {
        let loopback = IpAddr::V6(Ipv6Addr::LOCALHOST);
        let answers = ping(loopback, loopback, 10);
        if sys::is_wine() {
            let error = answers.expect_err("no ICMPv6");
            assert_eq!(error.raw_os_error(), Some(CALL_NOT_IMPLEMENTED));
        } else {
            assert_eq!(answers.expect("sent").len(), 10);
        }
    }

    #[test]
    fn requests_outlive_the_api() {
        let inbox = Arc::new(Inbox::new(10));
        let mut api = EchoApi::new(Arc::clone(&inbox));
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        api.send(loopback, (loopback, 0), 64, numbered(1)).expect("sent");
        drop(api);
        let mut items = Vec::new();
        inbox
            .take(Some(Duration::from_secs(10)), 10, &mut items)
            .expect("inbox");
        assert_eq!(items.len(), 1);
    }
}
