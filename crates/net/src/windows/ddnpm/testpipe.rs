//! A named pipe in place of the driver's device, which only exists where the Datadog Agent is
//! installed: it can be opened, read overlapped, written and cancelled like it.
#![allow(unsafe_code)]

use std::io;
use std::os::windows::io::{AsRawHandle, OwnedHandle};
use std::ptr;

use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_OVERLAPPED, PIPE_ACCESS_DUPLEX, ReadFile, WriteFile,
};
use windows_sys::Win32::System::IO::{GetOverlappedResult, OVERLAPPED};
use windows_sys::Win32::System::Pipes::{CreateNamedPipeW, PIPE_TYPE_MESSAGE};

use super::super::sys;
use super::wide;

pub(super) struct Pipe {
    pub(super) path: String,
    pub(super) server: OwnedHandle,
}

impl Pipe {
    pub(super) fn new(name: &str) -> Self {
        const BUFFER: u32 = 1 << 16;
        let path = format!(r"\\.\pipe\ddnpm-test-{}-{name}", std::process::id());
        let wide_path = wide(&path);
        // SAFETY: the path ends with a zero.
        let handle = unsafe {
            CreateNamedPipeW(
                wide_path.as_ptr(),
                PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED,
                PIPE_TYPE_MESSAGE,
                1,
                BUFFER,
                BUFFER,
                0,
                ptr::null(),
            )
        };
        assert_ne!(handle.addr(), usize::MAX, "{}", io::Error::last_os_error());
        // SAFETY: valid, and owned by nobody else.
        let server = unsafe { sys::owned(handle) }.expect("pipe");
        Pipe { path, server }
    }

    /// Sends a message to the client.
    pub(super) fn write(&self, message: &[u8]) {
        let event = sys::event(true).expect("event");
        let mut overlapped = OVERLAPPED {
            hEvent: event.as_raw_handle(),
            ..OVERLAPPED::default()
        };
        let mut written = 0;
        // SAFETY: everything lives until the result is there, which the second call waits for.
        unsafe {
            WriteFile(
                self.server.as_raw_handle(),
                message.as_ptr(),
                message.len() as u32,
                ptr::null_mut(),
                &raw mut overlapped,
            );
            let result = GetOverlappedResult(
                self.server.as_raw_handle(),
                &raw const overlapped,
                &raw mut written,
                1,
            );
            assert_ne!(result, 0, "{}", io::Error::last_os_error());
        }
        assert_eq!(written as usize, message.len());
    }

    /// Waits for a message from the client.
    pub(super) fn read(&self) -> Vec<u8> {
        let event = sys::event(true).expect("event");
        let mut overlapped = OVERLAPPED {
            hEvent: event.as_raw_handle(),
            ..OVERLAPPED::default()
        };
        let mut buffer = vec![0; 4096];
        let mut read = 0;
        // SAFETY: as above.
        unsafe {
            ReadFile(
                self.server.as_raw_handle(),
                buffer.as_mut_ptr(),
                buffer.len() as u32,
                ptr::null_mut(),
                &raw mut overlapped,
            );
            let result = GetOverlappedResult(
                self.server.as_raw_handle(),
                &raw const overlapped,
                &raw mut read,
                1,
            );
            assert_ne!(result, 0, "{}", io::Error::last_os_error());
        }
        buffer.truncate(read as usize);
        buffer
    }
}
