//! Captures that are kept open a while after their last use.

use std::time::Duration;

use traceroute_engine::Time;

/// How long. A capture that copies all of a host's traffic is not for keeps, but end-to-end probes,
/// each of which reserves a port for itself, come seconds apart, and a capture that has just been
/// opened knows less of its clock.
const LINGER: Duration = Duration::from_secs(30);

/// Something that is opened when it is needed, and closed [`LINGER`] after it was needed last.
#[derive(Debug)]
pub(crate) struct Lingering<T> {
    open: Option<T>,
    /// When it is to be closed; `None` while it is needed.
    until: Option<Time>,
}

impl<T> Default for Lingering<T> {
    fn default() -> Self {
        Lingering {
            open: None,
            until: None,
        }
    }
}

impl<T> Lingering<T> {
    /// Opens it, unless it is open.
    ///
    /// # Errors
    /// Those of `open`.
    pub(crate) fn need<E>(&mut self, open: impl FnOnce() -> Result<T, E>) -> Result<(), E> {
        if self.open.is_none() {
            self.open = Some(open()?);
        }
        self.until = None;
        Ok(())
    }

    /// Nobody needs it any more.
    pub(crate) fn release(&mut self, now: Time) {
        if self.open.is_some() && self.until.is_none() {
            self.until = Some(now + LINGER);
        }
    }

    /// Closes it if it is time.
    pub(crate) fn close_if_due(&mut self, now: Time) {
        if self.until.is_some_and(|until| until <= now) {
            *self = Lingering::default();
        }
    }

    /// When [`Lingering::close_if_due`] is to be called.
    pub(crate) fn due(&self) -> Option<Time> {
        self.until
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn what_is_needed_again_in_time_is_not_opened_again() {
        let mut opened = 0;
        let mut capture = Lingering::default();
        for start in [0, 10, 35] {
            capture
                .need(|| {
                    opened += 1;
                    Ok::<_, ()>(())
                })
                .expect("opens");
            assert_eq!(capture.due(), None);
            capture.release(at(start));
            capture.close_if_due(at(start + 29));
        }
        assert_eq!(opened, 1);
    }

    #[test]
    fn what_nobody_needs_is_closed_in_time() {
        let mut capture = Lingering::default();
        capture.need(|| Ok::<_, ()>(())).expect("opens");
        capture.close_if_due(at(1000));
        assert!(capture.is_open(), "needed");
        capture.release(at(1000));
        // Once more does not prolong it.
        capture.release(at(1020));
        assert_eq!(capture.due(), Some(at(1030)));
        capture.close_if_due(at(1030));
        assert!(!capture.is_open() && capture.due().is_none());
        capture.release(at(1040));
        assert_eq!(capture.due(), None);
    }

    #[test]
    fn what_does_not_open_is_tried_again() {
        let mut capture = Lingering::default();
        assert_eq!(capture.need(|| Err::<(), _>("no")), Err("no"));
        assert!(!capture.is_open());
        assert_eq!(capture.need(|| Ok::<_, &str>(())), Ok(()));
        assert!(capture.is_open());
    }
}
