//! Starting the driver's service: the order of steps, and who has asked for it.

use std::io;
use std::sync::{Mutex, PoisonError};

use traceroute_engine::NetError;

use crate::winerror::{ERROR_FILE_NOT_FOUND, ERROR_PATH_NOT_FOUND};

/// `SERVICE_STATUS.dwCurrentState`, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServiceState {
    Stopped,
    StartPending,
    StopPending,
    Running,
}

/// What the service control manager can be asked, each with no more rights than it needs.
pub(crate) trait WindowsService {
    /// The state.
    fn state(&mut self) -> io::Result<ServiceState>;
    /// Whether the service is disabled.
    fn is_disabled(&mut self) -> io::Result<bool>;
    /// Lets it be started on demand.
    fn enable(&mut self) -> io::Result<()>;
    /// Starts it. For a driver this returns when the driver has initialised itself.
    fn start(&mut self) -> io::Result<()>;
    /// Waits a moment before the state is asked again; `false`: that was long enough.
    fn pause(&mut self) -> bool;
}

/// Makes the service run.
pub(crate) fn start(service: &mut impl WindowsService) -> io::Result<()> {
    if service.state()? == ServiceState::Running {
        return Ok(());
    }
    if service.is_disabled()? {
        service.enable()?;
    }
    loop {
        match service.state()? {
            ServiceState::Running | ServiceState::StartPending => return Ok(()),
            ServiceState::Stopped => return service.start(),
            ServiceState::StopPending if service.pause() => {}
            ServiceState::StopPending => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the service is still stopping",
                ));
            }
        }
    }
}

/// How many times this process has started the driver. Only the first start asks the system, and a
/// start that failed does not count. Nothing is ever stopped: other processes, the Datadog Agent
/// first of all, use the driver too.
#[derive(Debug)]
pub(crate) struct Starts(Mutex<u64>);

impl Starts {
    pub(crate) const fn new() -> Self {
        Starts(Mutex::new(0))
    }

    /// Counts a start, and carries it out if it is the first.
    pub(crate) fn add<E>(&self, start: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let mut count = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *count == 0 {
            start()?;
        }
        *count += 1;
        Ok(())
    }

    /// The next start asks the system again; whether there was any.
    fn forget(&self) -> bool {
        let mut count = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *count) > 0
    }

    /// Opens something of the driver. If the driver is gone although this process has started it,
    /// somebody has stopped it since: starts it again, and tries once more.
    pub(crate) fn open<T>(
        &self,
        mut open: impl FnMut() -> Result<T, NetError>,
        start: impl FnOnce() -> Result<(), NetError>,
    ) -> Result<T, NetError> {
        match open() {
            Err(error) if is_gone(&error) && self.forget() => {
                tracing::info!(%error, "the driver was stopped; starting it again");
                self.add(start)?;
                open()
            }
            result => result,
        }
    }
}

/// Whether the device does not exist.
fn is_gone(error: &NetError) -> bool {
    matches!(
        error.source.raw_os_error(),
        Some(ERROR_FILE_NOT_FOUND | ERROR_PATH_NOT_FOUND)
    )
}

#[cfg(test)]
mod tests {
    use traceroute_engine::Operation;

    use super::*;

    /// A service that goes through `states` and notes what it is told.
    struct Fake {
        states: Vec<ServiceState>,
        disabled: bool,
        pauses: u32,
        told: Vec<&'static str>,
    }

    impl Fake {
        fn new(states: &[ServiceState]) -> Self {
            Fake {
                states: states.iter().rev().copied().collect(),
                disabled: false,
                pauses: 10,
                told: Vec::new(),
            }
        }
    }

    impl WindowsService for Fake {
        fn state(&mut self) -> io::Result<ServiceState> {
            self.states.pop().ok_or_else(|| io::ErrorKind::NotFound.into())
        }
        fn is_disabled(&mut self) -> io::Result<bool> {
            Ok(self.disabled)
        }
        fn enable(&mut self) -> io::Result<()> {
            self.told.push("enable");
            Ok(())
        }
        fn start(&mut self) -> io::Result<()> {
            self.told.push("start");
            Ok(())
        }
        fn pause(&mut self) -> bool {
            self.told.push("pause");
            self.pauses -= 1;
            self.pauses > 0
        }
    }

    #[test]
    fn a_running_service_is_left_alone() {
        let mut service = Fake::new(&[ServiceState::Running]);
        start(&mut service).expect("runs");
        assert!(service.told.is_empty());
    }

    #[test]
    fn a_stopped_service_is_started_and_a_disabled_one_enabled_first() {
        let mut service = Fake::new(&[ServiceState::Stopped, ServiceState::Stopped]);
        start(&mut service).expect("starts");
        assert_eq!(service.told, ["start"]);

        let mut service = Fake::new(&[ServiceState::Stopped, ServiceState::Stopped]);
        service.disabled = true;
        start(&mut service).expect("starts");
        assert_eq!(service.told, ["enable", "start"]);
    }

    #[test]
    fn somebody_elses_start_is_enough() {
        let mut service = Fake::new(&[ServiceState::Stopped, ServiceState::StartPending]);
        start(&mut service).expect("starts");
        assert!(service.told.is_empty());
    }

    #[test]
    fn a_stopping_service_is_waited_for_but_not_for_ever() {
        let mut service = Fake::new(&[
            ServiceState::StopPending,
            ServiceState::StopPending,
            ServiceState::Stopped,
        ]);
        start(&mut service).expect("starts");
        assert_eq!(service.told, ["pause", "start"]);

        let mut service = Fake::new(&[ServiceState::StopPending; 20]);
        service.pauses = 3;
        let error = start(&mut service).expect_err("never stops");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(service.told, ["pause"; 3]);
    }

    #[test]
    fn a_missing_service_is_an_error() {
        let error = start(&mut Fake::new(&[])).expect_err("no service");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn only_a_start_that_worked_counts() {
        let starts = Starts::new();
        assert_eq!(starts.add(|| Err("no service")), Err("no service"));
        let mut asked = 0;
        for _ in 0..3 {
            starts
                .add(|| {
                    asked += 1;
                    Ok::<_, ()>(())
                })
                .expect("starts");
        }
        assert_eq!(asked, 1);
    }

    fn error(code: i32) -> NetError {
        NetError::new(Operation::OpenCapture, None, io::Error::from_raw_os_error(code))
    }

    #[test]
    fn a_driver_that_was_stopped_meanwhile_is_started_again_once() {
        for code in [ERROR_FILE_NOT_FOUND, ERROR_PATH_NOT_FOUND] {
            let starts = Starts::new();
            starts.add(|| Ok::<_, ()>(())).expect("starts");
            let mut opened = 0;
            let mut started = 0;
            let result = starts.open(
                || {
                    opened += 1;
                    if opened == 1 { Err(error(code)) } else { Ok(opened) }
                },
                || {
                    started += 1;
                    Ok(())
                },
            );
            assert_eq!((result.expect("opens"), started), (2, 1));
            let never = starts.open::<()>(|| Err(error(code)), || Ok(()));
            assert_eq!(never.expect_err("still gone").source.raw_os_error(), Some(code));
        }
    }

    #[test]
    fn a_driver_that_does_not_start_again_says_why_and_the_next_start_asks_again() {
        let starts = Starts::new();
        starts.add(|| Ok::<_, ()>(())).expect("starts");
        let refused = starts.open::<()>(|| Err(error(ERROR_FILE_NOT_FOUND)), || Err(error(5)));
        assert_eq!(refused.expect_err("refused").source.raw_os_error(), Some(5));
        let mut asked = false;
        starts
            .add(|| {
                asked = true;
                Ok::<_, ()>(())
            })
            .expect("starts");
        assert!(asked);
    }

    #[test]
    fn who_never_started_the_driver_does_not_start_it_by_opening() {
        let unwanted = || panic!("not asked for");
        let starts = Starts::new();
        starts
            .open::<()>(|| Err(error(ERROR_FILE_NOT_FOUND)), unwanted)
            .expect_err("gone");
        starts.add(|| Ok::<_, ()>(())).expect("starts");
        starts
            .open::<()>(|| Err(error(5)), unwanted)
            .expect_err("there, but refused");
    }
}
