//! Tracing through the driver `ddnpm`: every method works, over IPv4 and IPv6, on every edition of
//! Windows.

mod capture;
mod device;
mod service;
#[cfg(test)]
mod testpipe;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use capture::Capture;
use device::Sender;
use service::NamedService;
use traceroute_engine::{NetError, Operation, Time, Transport};

use super::clock;
use crate::ddnpm::filter::{self, Definition, ICMP_DEFINITIONS};
use crate::ddnpm::lingering::Lingering;
use crate::ddnpm::service::Starts;
use crate::ddnpm::{self, SERVICE};
use crate::diagnosis::windows as diagnosis;
use crate::inbox::Inbox;
use crate::winerror::{self, ERROR_SERVICE_DOES_NOT_EXIST};

static STARTS: Starts = Starts::new();

/// Starts the driver unless this process has done so before. It is never stopped.
///
/// # Errors
/// The driver is not installed (it comes with the Datadog Agent); no administrator rights.
pub fn start_windows_driver() -> Result<(), NetError> {
    STARTS.add(|| start(SERVICE))
}

fn start(name: &'static str) -> Result<(), NetError> {
    ddnpm::service::start(&mut NamedService::new(name)).map_err(|error| {
        let code = service::code(&error);
        winerror::with_advice(Operation::StartDriver, error, code)
    })
}

/// What a diagnosis wants to know of the driver. Starts nothing.
pub(super) fn state() -> diagnosis::DriverState {
    use crate::ddnpm::service::{ServiceState, WindowsService};

    match NamedService::new(SERVICE).state() {
        Ok(ServiceState::Running) => device_state(ddnpm::TRANSPORT_PATH),
        Ok(_) => diagnosis::DriverState::Stopped,
        Err(error) if service::code(&error) == ERROR_SERVICE_DOES_NOT_EXIST => {
            diagnosis::DriverState::NotInstalled
        }
        Err(error) => diagnosis::DriverState::Unknown(error),
    }
}

/// What a running driver lets this process do. The filters go with the handle that they are set on.
fn device_state(path: &str) -> diagnosis::DriverState {
    match device::open_overlapped(path) {
        Ok(device) => match device::set_filters(&device, &ICMP_DEFINITIONS) {
            Ok(()) => diagnosis::DriverState::Running(Ok(())),
            Err(error) => diagnosis::DriverState::TooOld(error),
        },
        Err(error) => diagnosis::DriverState::Running(Err(error)),
    }
}

/// The process's handles of the driver's device.
pub(super) struct WindowsDriver {
    path: String,
    inbox: Arc<Inbox>,
    /// `None` until something is prepared.
    open: Option<(Sender, Capture)>,
    /// Open while ports are reserved, and a while longer: each copies all of the host's traffic of
    /// one transport.
    watched: HashMap<Transport, Lingering<Capture>>,
}

impl WindowsDriver {
    /// `path` is the device's; nothing is opened yet.
    pub(super) fn new(path: &str, inbox: Arc<Inbox>) -> Self {
        WindowsDriver {
            path: path.to_owned(),
            inbox,
            open: None,
            watched: HashMap::new(),
        }
    }

    /// Opens what sends, and what sees ICMP. Starts the driver again if it was stopped since this
    /// process has started it.
    pub(super) fn open(&mut self) -> Result<(), NetError> {
        if self.open.is_none() {
            let open = || {
                let capture = capture(&self.path, &ICMP_DEFINITIONS, &self.inbox)?;
                let sender = Sender::open(&self.path)
                    .map_err(|error| winerror::error(Operation::OpenSender, None, error))?;
                Ok((sender, capture))
            };
            self.open = Some(STARTS.open(open, || start(SERVICE))?);
        }
        Ok(())
    }

    /// Makes what arrives for the ports of a transport seen.
    pub(super) fn watch(&mut self, transport: Transport) -> Result<(), NetError> {
        let definitions = filter::of_transport(transport);
        self.watched
            .entry(transport)
            .or_default()
            .need(|| capture(&self.path, &definitions, &self.inbox))
    }

    /// No port of a transport is reserved any more.
    pub(super) fn unwatch(&mut self, transport: Transport) {
        self.watched.entry(transport).or_default().release(clock::now());
    }

    /// Closes what has not been needed for a while; when this is to be called again.
    pub(super) fn close_unneeded(&mut self) -> Option<Time> {
        let now = clock::now();
        for capture in self.watched.values_mut() {
            capture.close_if_due(now);
        }
        self.watched.values().filter_map(Lingering::due).min()
    }

    /// Sends a packet; when, by the clock just before.
    pub(super) fn send(&mut self, packet: &[u8]) -> io::Result<Time> {
        let (sender, _) = self.open.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let at = clock::now();
        sender.send(packet)?;
        Ok(at)
    }

    /// How many handles are open.
    pub(super) fn count(&self) -> u64 {
        let watching = self.watched.values().filter(|capture| capture.is_open());
        2 * u64::from(self.open.is_some()) + watching.count() as u64
    }
}

fn capture(path: &str, definitions: &[Definition], inbox: &Arc<Inbox>) -> Result<Capture, NetError> {
    let failed = |error| winerror::error(Operation::OpenCapture, None, error);
    let device = device::open_overlapped(path).map_err(failed)?;
    device::set_filters(&device, definitions).map_err(winerror::filter_error)?;
    Capture::start(device, inbox).map_err(failed)
}

/// UTF-16 with a zero at the end.
fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().chain([0]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_driver_starting_it_says_where_it_comes_from() {
        for _ in 0..2 {
            let text = start_windows_driver()
                .expect_err("not installed here")
                .to_string();
            assert!(
                text.starts_with("cannot start the driver: could not open service ddnpm: "),
                "{text}"
            );
            assert!(text.contains("Datadog Agent"), "{text}");
        }
    }

    #[test]
    fn without_the_driver_nothing_opens_and_the_error_says_how_to_start_it() {
        let inbox = Arc::new(Inbox::new(10));
        let mut driver = WindowsDriver::new(ddnpm::TRANSPORT_PATH, inbox);
        let text = driver.open().expect_err("no driver").to_string();
        assert!(text.contains("Windows driver"), "{text}");
        assert_eq!(driver.count(), 0);
        assert!(driver.send(&[]).is_err());
    }

    #[test]
    fn a_device_that_takes_no_filters_is_of_a_driver_that_is_too_old() {
        // The pipe in its place takes none.
        let pipe = testpipe::Pipe::new("old");
        let state = device_state(&pipe.path);
        assert!(matches!(state, diagnosis::DriverState::TooOld(_)), "{state:?}");

        let pipe = testpipe::Pipe::new("old-capture");
        let mut driver = WindowsDriver::new(&pipe.path, Arc::new(Inbox::new(10)));
        let text = driver.open().expect_err("no filters").to_string();
        assert!(text.contains("needs ddnpm 2.10"), "{text}");
        let missing = device_state(ddnpm::TRANSPORT_PATH);
        assert!(
            matches!(missing, diagnosis::DriverState::Running(Err(_))),
            "{missing:?}"
        );
    }
}
