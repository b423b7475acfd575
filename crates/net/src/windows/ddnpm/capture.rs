//! Reading packets from the driver: overlapped reads on a completion port, in a thread of their
//! own.
//!
//! The memory of a posted read belongs to the kernel until its completion has been seen. So the
//! thread that posts the reads also owns their memory, and frees it only when every read has come
//! back; if one does not, its memory is leaked rather than freed.
#![allow(unsafe_code)]

use std::io;
use std::mem::{offset_of, size_of};
use std::os::windows::io::{AsRawHandle, OwnedHandle};
use std::ptr;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use traceroute_engine::Operation;
use traceroute_wire::Ignored;
use traceroute_wire::ddnpm::{self, HEADER_LEN};
use windows_sys::Win32::Foundation::{
    ERROR_IO_PENDING, ERROR_MORE_DATA, ERROR_OPERATION_ABORTED, GetLastError, WAIT_TIMEOUT,
};
use windows_sys::Win32::Storage::FileSystem::ReadFile;
use windows_sys::Win32::System::IO::{
    CancelIoEx, CreateIoCompletionPort, GetQueuedCompletionStatus, OVERLAPPED, PostQueuedCompletionStatus,
};
use windows_sys::Win32::System::Threading::INFINITE;

use super::super::{clock, sys};
use crate::ddnpm::clock::Stamps;
use crate::inbox::Inbox;
use crate::winerror;

/// Reads posted at once: packets that arrive before the thread runs again. The driver counts those
/// that find none.
const READS: usize = 128;
/// A header and the longest packet of an ordinary Ethernet.
const READ_LEN: usize = HEADER_LEN + 1500;
/// How long to wait for cancelled reads to come back.
const DRAIN: Duration = Duration::from_secs(2);
/// So many failed reads in a row are not about single packets any more.
const MAX_FAILURES: u32 = 100;

/// The key of completions of reads.
const READ: usize = 0;
/// The key of the request to stop.
const STOP: usize = 1;

/// One read. The kernel writes to both members while it is posted.
#[repr(C)]
struct Read {
    /// First, so that the pointer that the port gives back is one to the whole.
    overlapped: OVERLAPPED,
    data: [u8; READ_LEN],
}

const _: () = assert!(offset_of!(Read, overlapped) == 0);
const _: () = assert!(size_of::<usize>() != 8 || size_of::<OVERLAPPED>() == 32);
const _: () = assert!(offset_of!(Read, data) == size_of::<OVERLAPPED>());

/// A capture. Ends when dropped.
#[derive(Debug)]
pub(super) struct Capture {
    port: Arc<OwnedHandle>,
    thread: Option<JoinHandle<bool>>,
}

impl Capture {
    /// Has `device`, an overlapped handle with its filters, copied to `inbox`. When this returns
    /// the driver has all reads, so that what answers a probe sent afterwards is not skipped.
    pub(super) fn start(device: OwnedHandle, inbox: &Arc<Inbox>) -> io::Result<Self> {
        let reader = Reader::new(device, inbox)?;
        let port = Arc::clone(&reader.port);
        let (report, posted) = sync_channel(1);
        let thread = thread::Builder::new()
            .name("driver".to_owned())
            .spawn(move || reader.run(&report))?;
        // Before the first error, so that the thread is told to stop.
        let capture = Capture {
            port,
            thread: Some(thread),
        };
        posted
            .recv()
            .unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))?;
        Ok(capture)
    }

    fn request_stop(&self) {
        // SAFETY: the port is open; no pointer is given.
        if unsafe { PostQueuedCompletionStatus(self.port.as_raw_handle(), 0, STOP, ptr::null()) } == 0 {
            tracing::warn!(error = %io::Error::last_os_error(), "cannot stop reading from the driver");
        }
    }

    /// Stops and waits for it; whether every read came back.
    #[cfg(test)]
    fn stop(mut self) -> bool {
        self.request_stop();
        let thread = self.thread.take().expect("stopped once");
        thread.join().expect("no panic")
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // The thread is not waited for: it owns all it needs.
        if self.thread.is_some() {
            self.request_stop();
        }
    }
}

/// A completion taken from the port.
enum Completion {
    /// A read came back, with an error or the number of bytes.
    Read(Box<Read>, Result<usize, u32>),
    Stop,
    /// Nothing in time.
    None,
}

/// The thread that reads.
struct Reader {
    device: OwnedHandle,
    port: Arc<OwnedHandle>,
    /// Reads that the kernel has.
    posted: usize,
    inbox: Arc<Inbox>,
    stamps: Stamps,
    failures: u32,
}

impl Reader {
    fn new(device: OwnedHandle, inbox: &Arc<Inbox>) -> io::Result<Self> {
        // SAFETY: the device is open; the port is new.
        let port = unsafe {
            sys::owned(CreateIoCompletionPort(
                device.as_raw_handle(),
                ptr::null_mut(),
                READ,
                0,
            ))
        }?;
        Ok(Reader {
            device,
            port: Arc::new(port),
            posted: 0,
            inbox: Arc::clone(inbox),
            stamps: Stamps::default(),
            failures: 0,
        })
    }

    /// Reads until told to stop; whether every read has come back. Tells `report` when all reads
    /// are posted, or why not.
    fn run(mut self, report: &SyncSender<io::Result<()>>) -> bool {
        sys::raise_priority();
        let posted = self.post_all();
        let reads = posted.is_ok();
        // There is room for it, and the other end waits.
        let _ = report.send(posted);
        if reads && let Err(error) = self.read() {
            self.inbox
                .break_down(winerror::error(Operation::Receive, None, error));
        }
        self.drain(DRAIN)
    }

    fn post_all(&mut self) -> io::Result<()> {
        for _ in 0..READS {
            self.post(Box::new(Read {
                overlapped: OVERLAPPED::default(),
                data: [0; READ_LEN],
            }))?;
        }
        Ok(())
    }

    fn read(&mut self) -> io::Result<()> {
        loop {
            match self.next(INFINITE)? {
                Completion::Read(read, result) => {
                    self.completed(&read.data, result)?;
                    self.post(read)?;
                }
                Completion::Stop => return Ok(()),
                Completion::None => {}
            }
        }
    }

    /// Gives a read to the kernel, which has it until its completion is taken from the port.
    fn post(&mut self, mut read: Box<Read>) -> io::Result<()> {
        read.overlapped = OVERLAPPED::default();
        let read = Box::into_raw(read);
        // SAFETY: `read` is valid, and stays where it is until the kernel gives it back. The buffer
        // is as long as stated.
        let result = unsafe {
            ReadFile(
                self.device.as_raw_handle(),
                (&raw mut (*read).data).cast(),
                READ_LEN as u32,
                ptr::null_mut(),
                &raw mut (*read).overlapped,
            )
        };
        // SAFETY: reads a value of the calling thread.
        let code = if result == 0 { unsafe { GetLastError() } } else { 0 };
        // Also when a read is over at once, its completion goes to the port; except when it has
        // failed outright.
        match code {
            0 | ERROR_IO_PENDING | ERROR_MORE_DATA => {
                self.posted += 1;
                Ok(())
            }
            code => {
                // SAFETY: from `Box::into_raw`, and the kernel does not have it.
                drop(unsafe { Box::from_raw(read) });
                Err(io::Error::from_raw_os_error(code.cast_signed()))
            }
        }
    }

    /// Waits for a completion, at most `timeout` milliseconds.
    fn next(&mut self, timeout: u32) -> io::Result<Completion> {
        let mut bytes = 0;
        let mut key = READ;
        let mut overlapped: *mut OVERLAPPED = ptr::null_mut();
        // SAFETY: everything that is written to lives here.
        let result = unsafe {
            GetQueuedCompletionStatus(
                self.port.as_raw_handle(),
                &raw mut bytes,
                &raw mut key,
                &raw mut overlapped,
                timeout,
            )
        };
        // SAFETY: reads a value of the calling thread.
        let code = if result == 0 { unsafe { GetLastError() } } else { 0 };
        if overlapped.is_null() {
            return match (code, key) {
                (0, STOP) => Ok(Completion::Stop),
                (0 | WAIT_TIMEOUT, _) => Ok(Completion::None),
                (code, _) => Err(io::Error::from_raw_os_error(code.cast_signed())),
            };
        }
        self.posted -= 1;
        let result = match code {
            // The packet is longer than the buffer, which is full of its beginning.
            0 | ERROR_MORE_DATA => Ok(bytes as usize),
            code => Err(code),
        };
        // SAFETY: nothing but `post` starts what ends at this port: this is the beginning of a
        // `Read` from `Box::into_raw`, which the kernel has just given back.
        let read = unsafe { Box::from_raw(overlapped.cast()) };
        Ok(Completion::Read(read, result))
    }

    fn completed(&mut self, data: &[u8], result: Result<usize, u32>) -> io::Result<()> {
        let at = clock::now();
        match result {
            Ok(length) => {
                self.failures = 0;
                let Some(captured) = data.get(..length).and_then(ddnpm::parse) else {
                    self.inbox.ignore(Ignored::Malformed);
                    return Ok(());
                };
                if captured.skipped > 0 {
                    self.inbox.count_drops(captured.skipped);
                }
                let at = self.stamps.arrival(captured.stamp, at, SystemTime::now());
                self.inbox.receive(captured.packet, at);
                Ok(())
            }
            Err(code) => {
                self.failures += 1;
                if code == ERROR_OPERATION_ABORTED || self.failures > MAX_FAILURES {
                    return Err(io::Error::from_raw_os_error(code.cast_signed()));
                }
                Ok(())
            }
        }
    }

    /// Takes all reads back from the kernel and frees them; false if some did not come back within
    /// `patience`.
    fn drain(&mut self, patience: Duration) -> bool {
        // SAFETY: the handle is open; null stands for all requests. It fails when there are none.
        unsafe { CancelIoEx(self.device.as_raw_handle(), ptr::null()) };
        let deadline = Instant::now() + patience;
        while self.posted > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.next(left.as_millis() as u32) {
                Ok(Completion::Read(..) | Completion::Stop) => {}
                Ok(Completion::None) if !left.is_zero() => {}
                Ok(Completion::None) | Err(_) => {
                    tracing::warn!(
                        reads = self.posted,
                        "the driver keeps reads; their memory is left to it"
                    );
                    return false;
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use windows_sys::Win32::System::Pipes::{PIPE_READMODE_MESSAGE, SetNamedPipeHandleState};

    use super::super::device;
    use super::super::testpipe::Pipe;
    use super::*;
    use crate::inbox::Item;

    fn start(pipe: &Pipe, inbox: &Arc<Inbox>) -> Capture {
        let device = device::open_overlapped(&pipe.path).expect("device");
        Capture::start(device, inbox).expect("capture")
    }

    /// A read as the driver gives it.
    fn sample(skipped: u64, stamp: u64, packet: &[u8]) -> Vec<u8> {
        let fields = [
            ddnpm::signature(0x18),
            HEADER_LEN as u64,
            skipped,
            1,
            0,
            packet.len() as u64,
            2,
            u64::MAX,
            stamp,
        ];
        let mut bytes: Vec<u8> = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
        bytes.extend(packet);
        bytes
    }

    fn take(inbox: &Inbox) -> Vec<Item> {
        let mut items = Vec::new();
        inbox
            .take(Some(Duration::from_secs(10)), 1, &mut items)
            .expect("inbox");
        items
    }

    /// An echo reply from 192.0.2.1 to 192.0.2.2 with this sequence number.
    fn echo_reply(sequence: u8) -> Vec<u8> {
        let checksum = 0xFFFF_u16 - 7 - u16::from(sequence);
        let mut packet = vec![
            0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
        ];
        packet.extend([0, 0]);
        packet.extend(checksum.to_be_bytes());
        packet.extend([0, 7, 0, sequence]);
        packet
    }

    #[test]
    fn packets_are_read_decoded_and_reads_posted_again() {
        let pipe = Pipe::new("capture");
        let inbox = Arc::new(Inbox::new(10_000));
        let capture = start(&pipe, &inbox);
        for round in 0..READS * 3 {
            let sequence = (round % 200) as u8;
            pipe.write(&sample(0, 1, &echo_reply(sequence)));
            match &take(&inbox)[..] {
                [Item::Reply { reply, .. }] => match reply.kind {
                    traceroute_wire::ReplyKind::Echo { sequence: seen, .. } => {
                        assert_eq!(seen, u16::from(sequence));
                    }
                    ref other => panic!("{other:?}"),
                },
                other => panic!("round {round}: {other:?}"),
            }
        }
        assert!(capture.stop(), "every read comes back");
    }

    #[test]
    fn skipped_packets_and_foreign_bytes_are_counted() {
        let pipe = Pipe::new("count");
        let inbox = Arc::new(Inbox::new(100));
        let _capture = start(&pipe, &inbox);
        pipe.write(&sample(41, 1, b"no IP packet"));
        pipe.write(b"not from the driver");
        pipe.write(&sample(0, 1, &echo_reply(1)));
        // What was counted wakes nobody; the reply does.
        assert!(matches!(take(&inbox)[..], [Item::Reply { .. }]));
        assert_eq!(inbox.counts(), (3, 41));
        let ignored = inbox.take_ignored(10);
        assert_eq!(ignored.iter().sum::<u64>(), 2);
        assert!(ignored[Ignored::Malformed.index()] >= 1, "{ignored:?}");
    }

    /// Reads are posted before the capture counts as open: the answer to a probe may come before
    /// its thread runs.
    #[test]
    fn a_device_that_takes_no_reads_is_no_capture() {
        let pipe = Pipe::new("no-reads");
        let device = device::open_overlapped(&pipe.path).expect("device");
        drop(pipe);
        Capture::start(device, &Arc::new(Inbox::new(10))).expect_err("nobody at the other end");
    }

    #[test]
    fn of_a_packet_that_is_too_long_the_beginning_is_read() {
        let pipe = Pipe::new("long");
        let inbox = Arc::new(Inbox::new(10));
        let device = device::open_overlapped(&pipe.path).expect("device");
        let mode = PIPE_READMODE_MESSAGE;
        // SAFETY: the handle is open, the mode lives here, and null leaves the rest as it is.
        let result = unsafe {
            SetNamedPipeHandleState(device.as_raw_handle(), &raw const mode, ptr::null(), ptr::null())
        };
        assert_ne!(result, 0, "{}", io::Error::last_os_error());
        let mut reader = Reader::new(device, &inbox).expect("reader");
        reader.post_all().expect("posted");
        let mut packet = echo_reply(3);
        packet.resize(9000, 0);
        pipe.write(&sample(0, 1, &packet));
        match reader.next(10_000).expect("completion") {
            Completion::Read(read, result) => {
                assert_eq!(result, Ok(READ_LEN));
                reader.completed(&read.data, result).expect("no failure");
            }
            _ => panic!("nothing was read"),
        }
        assert!(matches!(take_now(&inbox)[..], [Item::Reply { .. }]));
        reader.drain(DRAIN);
    }

    #[test]
    fn reads_that_do_not_come_back_are_waited_for_only_so_long() {
        let pipe = Pipe::new("kept");
        let device = device::open_overlapped(&pipe.path).expect("device");
        let mut reader = Reader::new(device, &Arc::new(Inbox::new(10))).expect("reader");
        reader.post_all().expect("posted");
        // One more than the device has.
        reader.posted += 1;
        assert!(!reader.drain(Duration::from_millis(50)));
        assert_eq!(reader.posted, 1);
    }

    #[test]
    fn a_device_that_goes_away_breaks_the_capture() {
        let pipe = Pipe::new("gone");
        let inbox = Arc::new(Inbox::new(100));
        let capture = start(&pipe, &inbox);
        drop(pipe);
        let error = inbox
            .take(Some(Duration::from_secs(10)), 10, &mut Vec::new())
            .expect_err("broken");
        assert_eq!(error.operation, Operation::Receive);
        assert!(capture.stop());
    }

    #[test]
    fn a_capture_without_packets_stops() {
        let pipe = Pipe::new("stop");
        let inbox = Arc::new(Inbox::new(100));
        let capture = start(&pipe, &inbox);
        assert!(capture.stop());
        assert!(take_now(&inbox).is_empty());
    }

    fn take_now(inbox: &Inbox) -> Vec<Item> {
        let mut items = Vec::new();
        inbox
            .take(Some(Duration::ZERO), 10, &mut items)
            .expect("not broken by stopping");
        items
    }
}
