//! The service control manager, asked for one service.
#![allow(unsafe_code)]

use std::io;
use std::mem::{offset_of, size_of};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use windows_sys::Win32::System::Services::{
    ChangeServiceConfigW, CloseServiceHandle, OpenSCManagerW, OpenServiceW, QUERY_SERVICE_CONFIGW,
    QueryServiceConfigW, QueryServiceStatus, SC_HANDLE, SC_MANAGER_CONNECT, SERVICE_CHANGE_CONFIG,
    SERVICE_DEMAND_START, SERVICE_DISABLED, SERVICE_NO_CHANGE, SERVICE_QUERY_CONFIG, SERVICE_QUERY_STATUS,
    SERVICE_RUNNING, SERVICE_START, SERVICE_START_PENDING, SERVICE_STATUS, SERVICE_STOP_PENDING,
    StartServiceW,
};

use super::wide;
use crate::ddnpm::service::{ServiceState, WindowsService};

/// How often the state of a service that is stopping is asked for.
const PAUSE: Duration = Duration::from_millis(300);
/// How often at most: 30 seconds.
const PAUSES: u32 = 100;
/// The longest configuration of a service, in 8-byte words (`QueryServiceConfig`: 8 KiB).
const CONFIG_WORDS: usize = 1024;

// winsvc.h, in the layout of 64-bit systems.
const _: () = assert!(size_of::<SERVICE_STATUS>() == 28 && offset_of!(SERVICE_STATUS, dwCurrentState) == 4);
const _: () = assert!(size_of::<usize>() != 8 || size_of::<QUERY_SERVICE_CONFIGW>() == 64);
const _: () = assert!(offset_of!(QUERY_SERVICE_CONFIGW, dwStartType) == 4);

/// Held from the opening of a service to its closing: one thread asks at a time. Nothing is gained
/// by more, and Wine loses handles (`ERROR_INVALID_HANDLE`) where two threads of a process connect
/// to the manager at once.
static ASKING: Mutex<()> = Mutex::new(());

/// A service by its name. Each question opens it with the rights that this question needs.
pub(super) struct NamedService {
    name: &'static str,
    pauses: u32,
}

impl NamedService {
    pub(super) fn new(name: &'static str) -> Self {
        NamedService { name, pauses: PAUSES }
    }

    fn open(&self, rights: u32) -> io::Result<OpenService> {
        let turn = ASKING.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: null stands for this computer and its usual database.
        let manager = Handle::new(unsafe { OpenSCManagerW(ptr::null(), ptr::null(), SC_MANAGER_CONNECT) })
            .map_err(|error| explain("could not connect to the service control manager", &error))?;
        let name = wide(self.name);
        // SAFETY: the manager is open and the name ends with a zero.
        let service = Handle::new(unsafe { OpenServiceW(manager.0, name.as_ptr(), rights) })
            .map_err(|error| explain(&format!("could not open service {}", self.name), &error))?;
        Ok(OpenService { service, _turn: turn })
    }

    fn failed(&self, what: &str) -> io::Error {
        explain(
            &format!("could not {what} service {}", self.name),
            &io::Error::last_os_error(),
        )
    }
}

/// What was attempted in front of what the system says; its number stays readable.
fn explain(attempt: &str, error: &io::Error) -> io::Error {
    let code = error.raw_os_error().unwrap_or(0);
    io::Error::new(
        error.kind(),
        Explained {
            text: format!("{attempt}: {error}"),
            code,
        },
    )
}

/// An error of the service control manager, in words and as a number.
#[derive(Debug)]
pub(super) struct Explained {
    text: String,
    pub(super) code: i32,
}

impl std::fmt::Display for Explained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Explained {}

/// The system's number behind an error.
pub(super) fn code(error: &io::Error) -> i32 {
    error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Explained>())
        .map_or_else(|| error.raw_os_error().unwrap_or(0), |explained| explained.code)
}

impl WindowsService for NamedService {
    fn state(&mut self) -> io::Result<ServiceState> {
        let service = self.open(SERVICE_QUERY_STATUS)?;
        let mut status = SERVICE_STATUS::default();
        // SAFETY: the service is open and `status` is written to.
        if unsafe { QueryServiceStatus(service.handle(), &raw mut status) } == 0 {
            return Err(self.failed("query the state of"));
        }
        Ok(match status.dwCurrentState {
            SERVICE_RUNNING => ServiceState::Running,
            SERVICE_START_PENDING => ServiceState::StartPending,
            SERVICE_STOP_PENDING => ServiceState::StopPending,
            _ => ServiceState::Stopped,
        })
    }

    fn is_disabled(&mut self) -> io::Result<bool> {
        let service = self.open(SERVICE_QUERY_CONFIG)?;
        let mut buffer = [0_u64; CONFIG_WORDS];
        let mut needed = 0;
        let config: *mut QUERY_SERVICE_CONFIGW = buffer.as_mut_ptr().cast();
        // SAFETY: the buffer is as long as stated, and aligned for the structure at its begin.
        let result = unsafe {
            QueryServiceConfigW(
                service.handle(),
                config,
                size_of_val(&buffer) as u32,
                &raw mut needed,
            )
        };
        if result == 0 {
            return Err(self.failed("query the configuration of"));
        }
        // SAFETY: the structure has been written.
        Ok(unsafe { (*config).dwStartType } == SERVICE_DISABLED)
    }

    fn enable(&mut self) -> io::Result<()> {
        let service = self.open(SERVICE_QUERY_STATUS | SERVICE_QUERY_CONFIG | SERVICE_CHANGE_CONFIG)?;
        // SAFETY: the service is open; null means that a property stays as it is.
        let result = unsafe {
            ChangeServiceConfigW(
                service.handle(),
                SERVICE_NO_CHANGE,
                SERVICE_DEMAND_START,
                SERVICE_NO_CHANGE,
                ptr::null(),
                ptr::null(),
                ptr::null_mut(),
                ptr::null(),
                ptr::null(),
                ptr::null(),
                ptr::null(),
            )
        };
        if result == 0 {
            return Err(self.failed("enable"));
        }
        Ok(())
    }

    fn start(&mut self) -> io::Result<()> {
        let service = self.open(SERVICE_START | SERVICE_QUERY_STATUS)?;
        // SAFETY: the service is open; it is given no arguments.
        if unsafe { StartServiceW(service.handle(), 0, ptr::null()) } == 0 {
            return Err(self.failed("start"));
        }
        Ok(())
    }

    fn pause(&mut self) -> bool {
        thread::sleep(PAUSE);
        self.pauses = self.pauses.saturating_sub(1);
        self.pauses > 0
    }
}

/// A service that is open; others wait until it is closed.
struct OpenService {
    // Closed before the turn ends: fields are dropped in this order.
    service: Handle,
    _turn: MutexGuard<'static, ()>,
}

impl OpenService {
    fn handle(&self) -> SC_HANDLE {
        self.service.0
    }
}

/// A handle of the service control manager.
struct Handle(SC_HANDLE);

impl Handle {
    fn new(handle: SC_HANDLE) -> io::Result<Self> {
        if handle.is_null() {
            return Err(io::Error::last_os_error());
        }
        Ok(Handle(handle))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: open, and closed once.
        unsafe { CloseServiceHandle(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;
    use crate::winerror::ERROR_SERVICE_DOES_NOT_EXIST;

    const MISSING: &str = "no-such-service-as-this";

    #[test]
    fn a_missing_service_is_named_with_the_systems_number() {
        let error = NamedService::new(MISSING).state().expect_err("no such service");
        assert_eq!(code(&error), ERROR_SERVICE_DOES_NOT_EXIST);
        assert!(
            error
                .to_string()
                .starts_with("could not open service no-such-service-as-this: "),
            "{error}"
        );
        assert_eq!(code(&io::Error::from_raw_os_error(5)), 5);
    }

    #[test]
    fn several_threads_read_the_state_and_the_start_type_of_a_service_that_every_windows_has() {
        let together = Barrier::new(8);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    // The remote procedure call service; in Wine too.
                    let mut service = NamedService::new("RpcSs");
                    together.wait();
                    service.state().expect("state");
                    assert!(!service.is_disabled().expect("start type"));
                });
            }
        });
    }
}
