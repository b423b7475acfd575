//! Handles of the driver's device.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::{AsRawHandle, OwnedHandle};

use windows_sys::Win32::Foundation::{ERROR_IO_PENDING, GetLastError};
use windows_sys::Win32::Storage::FileSystem::{FILE_FLAG_OVERLAPPED, FILE_SHARE_READ, FILE_SHARE_WRITE};
use windows_sys::Win32::System::IO::{DeviceIoControl, GetOverlappedResult, OVERLAPPED};

use super::super::sys;
use crate::ddnpm::filter::Definition;
use crate::ddnpm::{Negotiation, SET_DATA_FILTER};

/// A filter's id, which is of no use here.
const FILTER_ID_LEN: usize = 8;

/// What the driver speaks is the same for every handle.
static VERSION: Negotiation = Negotiation::new();

/// Opens a handle whose reads are overlapped.
pub(super) fn open_overlapped(path: &str) -> io::Result<OwnedHandle> {
    options()
        .custom_flags(FILE_FLAG_OVERLAPPED)
        .open(path)
        .map(OwnedHandle::from)
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .share_mode(FILE_SHARE_READ | FILE_SHARE_WRITE);
    options
}

/// A handle to send with. The driver routes by the packet's IP header.
pub(super) struct Sender(File);

impl Sender {
    pub(super) fn open(path: &str) -> io::Result<Self> {
        options().open(path).map(Sender)
    }

    /// Sends a packet that starts at its IP header.
    pub(super) fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        match self.0.write(packet)? {
            length if length == packet.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}

/// Adds filter definitions to an overlapped handle.
pub(super) fn set_filters(handle: &OwnedHandle, definitions: &[Definition]) -> io::Result<()> {
    for definition in definitions {
        VERSION.run(|signature| {
            control(
                handle,
                SET_DATA_FILTER,
                &definition.encode(signature),
                FILTER_ID_LEN,
            )
        })?;
    }
    Ok(())
}

/// What the kernel reads and writes while it carries out a request.
struct ControlRequest {
    overlapped: OVERLAPPED,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// `DeviceIoControl` on an overlapped handle; what it wrote, at most `output_len` bytes.
///
/// The driver may complete the request later. Its completion must then not go to the completion
/// port of the handle, where it would be taken for a read: the lowest bit of the event handle says
/// so (`GetQueuedCompletionStatus`).
pub(super) fn control(
    handle: &OwnedHandle,
    code: u32,
    input: &[u8],
    output_len: usize,
) -> io::Result<Vec<u8>> {
    control_then(handle, code, input, output_len, || {})
}

/// The same; `pending` is called when the driver is to complete the request later.
fn control_then(
    handle: &OwnedHandle,
    code: u32,
    input: &[u8],
    output_len: usize,
    pending: impl FnOnce(),
) -> io::Result<Vec<u8>> {
    let event = sys::event(true)?;
    let request = Box::new(ControlRequest {
        overlapped: OVERLAPPED {
            hEvent: event.as_raw_handle().map_addr(|address| address | 1),
            ..OVERLAPPED::default()
        },
        input: input.to_vec(),
        output: vec![0; output_len],
    });
    let request = Box::into_raw(request);
    let mut written = 0;
    // SAFETY: the buffers are as long as stated, and like `overlapped` they live until the request
    // is over.
    let result = unsafe {
        DeviceIoControl(
            handle.as_raw_handle(),
            code,
            (*request).input.as_ptr().cast(),
            input.len() as u32,
            (*request).output.as_mut_ptr().cast(),
            output_len as u32,
            &raw mut written,
            &raw mut (*request).overlapped,
        )
    };
    let mut outcome = Ok(());
    if result == 0 {
        outcome = Err(io::Error::last_os_error());
        // SAFETY: reads a value of the calling thread.
        if unsafe { GetLastError() } == ERROR_IO_PENDING {
            pending();
            // If this failed, which it cannot, the kernel would still own the request: it is left
            // to it.
            sys::wait_any(&[&event])?;
            // SAFETY: the request is over, so nothing is waited for.
            let result = unsafe {
                let overlapped = &raw const (*request).overlapped;
                GetOverlappedResult(handle.as_raw_handle(), overlapped, &raw mut written, 0)
            };
            outcome = if result == 0 {
                Err(io::Error::last_os_error())
            } else {
                Ok(())
            };
        }
    }
    // SAFETY: from `Box::into_raw`, and the kernel is done with it.
    let mut output = unsafe { Box::from_raw(request) }.output;
    outcome?;
    output.truncate(written as usize);
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::super::testpipe::Pipe;
    use super::*;
    use crate::winerror::{ERROR_FILE_NOT_FOUND, ERROR_PATH_NOT_FOUND};

    /// `FSCTL_PIPE_LISTEN`: pending until a client connects.
    const PIPE_LISTEN: u32 = 0x11_0008;
    /// `FSCTL_PIPE_PEEK`: answers at once.
    const PIPE_PEEK: u32 = 0x11_400C;

    #[test]
    fn a_driver_that_is_not_loaded_has_no_device() {
        let error = open_overlapped(crate::ddnpm::TRANSPORT_PATH).expect_err("no driver here");
        assert!(
            matches!(
                error.raw_os_error(),
                Some(ERROR_FILE_NOT_FOUND | ERROR_PATH_NOT_FOUND)
            ),
            "{error:?}"
        );
    }

    #[test]
    fn a_request_that_is_answered_at_once() {
        let pipe = Pipe::new("peek");
        let client = open_overlapped(&pipe.path).expect("client");
        pipe.write(b"abc");
        let output = control(&client, PIPE_PEEK, &[], 64).expect("peek");
        assert!(output.ends_with(b"abc"), "{output:?}");
    }

    #[test]
    fn a_request_that_is_answered_later_is_waited_for() {
        let pipe = Pipe::new("listen");
        let mut client = None;
        let connect = || client = Some(open_overlapped(&pipe.path));
        let output = control_then(&pipe.server, PIPE_LISTEN, &[], 0, connect).expect("answered");
        assert!(output.is_empty());
        client.expect("it was pending").expect("client");
    }

    #[test]
    fn a_request_that_is_refused_is_an_error() {
        let pipe = Pipe::new("refuse");
        let client = open_overlapped(&pipe.path).expect("client");
        set_filters(&client, &crate::ddnpm::filter::ICMP_DEFINITIONS).expect_err("a pipe has no filters");
    }

    #[test]
    fn packets_are_sent_whole() {
        let pipe = Pipe::new("send");
        let mut sender = Sender::open(&pipe.path).expect("sender");
        sender.send(b"packet").expect("sent");
        assert_eq!(pipe.read(), b"packet");
    }
}
