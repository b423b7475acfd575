//! From the kernel's wall-clock stamps to the monotonic clock.
//!
//! The kernel stamps packets with `CLOCK_REALTIME`, which jumps when somebody sets the time.
//! `CLOCK_MONOTONIC` minus `CLOCK_REALTIME` changes at such a jump and only then (slewing by NTP
//! moves both alike; on macOS the former even is the latter less the time of booting), so the
//! difference tells both how to convert and when not to trust the result.

use std::time::Duration;

use traceroute_engine::Time;

use super::sys;

/// How far two measurements of a constant difference may be apart, beside their own uncertainty:
/// rounding.
const TOLERANCE: i64 = 1_000;
/// How long a packet may lie in a backlog of the kernel between its stamp and the capture ring.
const BACKLOG: Duration = Duration::from_millis(10);
/// How long stamps from before a jump may still turn up.
const AFTER_JUMP: Duration = Duration::from_secs(5);

/// Both clocks, read at (almost) the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample {
    /// The monotonic clock.
    pub(crate) now: Time,
    /// Monotonic minus wall clock, in nanoseconds.
    pub(crate) offset: i64,
    /// How wrong `offset` may be, in nanoseconds.
    pub(crate) uncertainty: i64,
}

impl Sample {
    /// Reads the clocks; again when the thread was interrupted in between.
    pub(crate) fn take() -> Self {
        let mut best = Self::read();
        for _ in 0..3 {
            if best.uncertainty <= TOLERANCE {
                break;
            }
            let again = Self::read();
            if again.uncertainty < best.uncertainty {
                best = again;
            }
        }
        best
    }

    fn read() -> Self {
        let before = sys::monotonic().as_nanos().cast_signed();
        let real = sys::realtime();
        let after = sys::monotonic().as_nanos().cast_signed();
        let half = (after - before) / 2;
        Sample {
            now: Time::from_nanos(after.cast_unsigned()),
            offset: before + half - real,
            uncertainty: half + 1,
        }
    }
}

/// Converts stamps. Told the clocks once per batch of packets, with [`Converter::begin`].
#[derive(Debug)]
pub(crate) struct Converter {
    current: Sample,
    now: Time,
    /// The offset before the last jump and until when it is worth a try.
    before_jump: Option<(i64, Time)>,
    /// Everything stamped before this has been delivered.
    delivered_until: Time,
}

impl Converter {
    pub(crate) fn new(sample: Sample) -> Self {
        Converter {
            current: sample,
            now: sample.now,
            before_jump: None,
            delivered_until: sample.now - BACKLOG,
        }
    }

    /// Begins a batch: all stamps that follow are from before `sample.now`.
    pub(crate) fn begin(&mut self, sample: Sample) {
        self.now = sample.now;
        let moved = (sample.offset.saturating_sub(self.current.offset)).saturating_abs();
        if moved > TOLERANCE + sample.uncertainty + self.current.uncertainty {
            self.before_jump = Some((self.current.offset, sample.now + AFTER_JUMP));
            self.current = sample;
        } else if sample.uncertainty < self.current.uncertainty {
            self.current = sample;
        }
        if self.before_jump.is_some_and(|(_, until)| until < sample.now) {
            self.before_jump = None;
        }
    }

    /// Ends a batch. `emptied`: nothing that was there when it began is left for the next one.
    pub(crate) fn end(&mut self, emptied: bool) {
        if emptied {
            self.delivered_until = self.now - BACKLOG;
        }
    }

    /// When a packet arrived, from its stamp in nanoseconds of the wall clock.
    ///
    /// Only after a jump it is asked what was delivered before: a kernel that does not get around
    /// to its backlog may deliver later than expected, which makes the stamp no less true.
    pub(crate) fn received(&self, stamp: i64) -> Time {
        let earliest = if self.before_jump.is_some() {
            self.delivered_until
        } else {
            Time::ZERO
        };
        self.convert(stamp, earliest)
    }

    /// When something happened that cannot have been before `earliest`, from its stamp in
    /// nanoseconds of the wall clock.
    ///
    /// The stamp on the monotonic clock, by the offset that puts it where it must be: not before
    /// `earliest`, not in the future. When none does, the nearest such time.
    pub(crate) fn convert(&self, stamp: i64, earliest: Time) -> Time {
        let at = shift(stamp, self.current.offset);
        if (earliest..=self.now).contains(&at) {
            return at;
        }
        if let Some((offset, _)) = self.before_jump {
            let at = shift(stamp, offset);
            if (earliest..=self.now).contains(&at) {
                return at;
            }
        }
        at.max(earliest).min(self.now)
    }
}

fn shift(stamp: i64, offset: i64) -> Time {
    Time::from_nanos(stamp.saturating_add(offset).max(0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;
    /// Wall clock minus monotonic clock in these tests.
    const EPOCH: i64 = 1_700_000_000_000 * MS;

    fn sample(now_ms: i64, epoch: i64) -> Sample {
        Sample {
            now: Time::from_nanos((now_ms * MS) as u64),
            offset: -epoch,
            uncertainty: 30,
        }
    }

    fn ms(time: i64) -> Time {
        Time::from_nanos((time * MS) as u64)
    }

    #[test]
    fn a_stamp_becomes_monotonic() {
        let mut clock = Converter::new(sample(1_000, EPOCH));
        clock.begin(sample(1_050, EPOCH));
        assert_eq!(clock.received(EPOCH + 1_020 * MS), ms(1_020));
        assert_eq!(clock.convert(EPOCH + 1_020 * MS, ms(1_019)), ms(1_020));
    }

    #[test]
    fn a_step_backwards_between_stamp_and_reading_does_not_move_the_stamp() {
        let mut clock = Converter::new(sample(1_000, EPOCH));
        clock.begin(sample(1_050, EPOCH - 3_600_000 * MS));
        assert_eq!(
            clock.received(EPOCH + 1_020 * MS),
            ms(1_020),
            "stamped before the step"
        );
        assert_eq!(
            clock.received(EPOCH - 3_600_000 * MS + 1_040 * MS),
            ms(1_040),
            "stamped after the step"
        );
    }

    #[test]
    fn a_step_forwards_does_not_move_the_stamp() {
        let mut clock = Converter::new(sample(1_000, EPOCH));
        clock.begin(sample(1_050, EPOCH + 86_400_000 * MS));
        assert_eq!(clock.received(EPOCH + 1_020 * MS), ms(1_020));
        assert_eq!(clock.convert(EPOCH + 1_020 * MS, ms(1_010)), ms(1_020));
    }

    #[test]
    fn stamps_left_over_from_before_a_step_are_converted_in_later_batches() {
        let mut clock = Converter::new(sample(1_000, EPOCH));
        clock.begin(sample(1_050, EPOCH + 5_000 * MS));
        clock.end(false);
        clock.begin(sample(1_060, EPOCH + 5_000 * MS));
        assert_eq!(clock.received(EPOCH + 1_045 * MS), ms(1_045));
    }

    #[test]
    fn the_old_offset_is_forgotten() {
        let mut clock = Converter::new(sample(1_000, EPOCH));
        clock.begin(sample(1_050, EPOCH + 5_000 * MS));
        clock.end(true);
        clock.begin(sample(9_000, EPOCH + 5_000 * MS));
        assert_eq!(clock.before_jump, None);
    }

    #[test]
    fn a_stamp_that_the_kernel_delivers_late_stays_as_it_is() {
        let mut clock = Converter::new(sample(1_000, EPOCH));
        clock.begin(sample(1_050, EPOCH));
        clock.end(true);
        clock.begin(sample(1_100, EPOCH));
        assert_eq!(clock.received(EPOCH + 1_020 * MS), ms(1_020));
    }

    #[test]
    fn an_impossible_stamp_is_clamped() {
        let mut clock = Converter::new(sample(1_000, EPOCH));
        clock.begin(sample(1_050, EPOCH + 5_000 * MS));
        clock.end(true);
        clock.begin(sample(1_100, EPOCH + 5_000 * MS));
        assert_eq!(clock.received(EPOCH + 7_000 * MS), ms(1_100), "in the future");
        assert_eq!(clock.received(0), ms(1_050) - BACKLOG, "long delivered");
        assert_eq!(
            clock.convert(EPOCH, ms(1_090)),
            ms(1_090),
            "before it was handed over"
        );
    }

    #[test]
    fn noise_is_no_step_and_the_best_measurement_stays() {
        let mut clock = Converter::new(sample(1_000, EPOCH));
        let mut interrupted = sample(1_050, EPOCH + 400_000);
        interrupted.uncertainty = 500_000;
        clock.begin(interrupted);
        assert_eq!(clock.before_jump, None);
        assert_eq!(clock.received(EPOCH + 1_020 * MS), ms(1_020));
    }

    #[test]
    fn extreme_stamps_do_not_overflow() {
        let mut clock = Converter::new(sample(1_000, EPOCH));
        clock.begin(sample(1_050, -EPOCH));
        for stamp in [i64::MIN, i64::MAX, 0] {
            let at = clock.received(stamp);
            assert!(at <= ms(1_050));
        }
    }

    #[test]
    fn the_real_clocks_agree_with_themselves() {
        let first = Sample::take();
        let mut clock = Converter::new(first);
        let stamp = sys::realtime();
        let second = Sample::take();
        clock.begin(second);
        let at = clock.received(stamp);
        assert!(at >= first.now - Duration::from_micros(100) && at <= second.now);
    }
}
