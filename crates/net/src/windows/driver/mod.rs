//! Tracing through the driver `ddnpm`: every method works, over IPv4 and IPv6, on every edition of Windows.

mod capture;
mod device;
mod service;
#[cfg(test)]
mod testpipe;

use std::sync::Arc;

use capture::Capture;
use device::Sender;
use service::NamedService;

use super::clock;
use crate::ddnpm::filter::{ICMP_DEFINITIONS, TCP_DEFINITIONS};
use crate::ddnpm::service::Starts;
use crate::ddnpm::{self, SERVICE};
use crate::diagnosis::windows as diagnosis;
use crate::inbox::Inbox;
use crate::winerror::{self, ERROR_SERVICE_DOES_NOT_EXIST};
use crate::{NetError, Operation, Time};

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
pub(super) fn state() -> diagnosis::Driver {
    use crate::ddnpm::service::{Service, State};

    match NamedService::new(SERVICE).state() {
        Ok(State::Running) => {
            diagnosis::Driver::Running(device::open_overlapped(ddnpm::TRANSPORT_PATH).map(drop))
        }
        Ok(_) => diagnosis::Driver::Stopped,
        Err(error) if service::code(&error) == ERROR_SERVICE_DOES_NOT_EXIST => {
            diagnosis::Driver::NotInstalled
        }
        Err(error) => diagnosis::Driver::Unknown(error),
    }
}

/// The process's handles of the driver's device.
pub(super) struct Driver {
    path: String,
    inbox: Arc<Inbox>,
    /// `None` until something is prepared.
    open: Option<(Sender, Capture)>,
    /// Only while a TCP port is reserved: it copies all of the host's TCP traffic.
    tcp: Option<Capture>,
}

impl Driver {
    /// `path` is the device's; nothing is opened yet.
    pub(super) fn new(path: &str, inbox: Arc<Inbox>) -> Self {
        Driver {
            path: path.to_owned(),
            inbox,
            open: None,
            tcp: None,
        }
    }

    /// Opens what sends, and what sees ICMP.
    pub(super) fn open(&mut self) -> Result<(), NetError> {
        if self.open.is_none() {
            let capture = Capture::open(&self.path, &ICMP_DEFINITIONS, &self.inbox)
                .map_err(|error| winerror::error(Operation::OpenCapture, None, error))?;
            let sender = Sender::open(&self.path)
                .map_err(|error| winerror::error(Operation::OpenSender, None, error))?;
            self.open = Some((sender, capture));
        }
        Ok(())
    }

    /// Makes TCP segments seen, or not any more.
    pub(super) fn watch_tcp(&mut self, wanted: bool) -> Result<(), NetError> {
        if !wanted {
            self.tcp = None;
        } else if self.tcp.is_none() {
            let capture = Capture::open(&self.path, &TCP_DEFINITIONS, &self.inbox)
                .map_err(|error| winerror::error(Operation::OpenCapture, None, error))?;
            self.tcp = Some(capture);
        }
        Ok(())
    }

    /// Sends a packet; when, by the clock just before.
    pub(super) fn send(&mut self, packet: &[u8]) -> std::io::Result<Time> {
        let (sender, _) = self.open.as_mut().ok_or(std::io::ErrorKind::NotConnected)?;
        let at = clock::now();
        sender.send(packet)?;
        Ok(at)
    }

    /// How many handles are open.
    pub(super) fn count(&self) -> u64 {
        2 * u64::from(self.open.is_some()) + u64::from(self.tcp.is_some())
    }
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
        let mut driver = Driver::new(ddnpm::TRANSPORT_PATH, inbox);
        let text = driver.open().expect_err("no driver").to_string();
        assert!(text.contains("--windows-driver"), "{text}");
        assert_eq!(driver.count(), 0);
        assert!(driver.send(&[]).is_err());
    }
}
