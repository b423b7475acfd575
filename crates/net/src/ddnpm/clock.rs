//! When a packet arrived, from the driver's stamp and the time of reading.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use traceroute_engine::Time;

/// No packet waits longer than this to be read; an older stamp is from before a step of the wall
/// clock.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// Closer than any two ticks of the Windows system time, unless it is read precisely: the finest
/// are about 500 µs, now a little more and now a little less.
const CLOSER_THAN_TICKS: Duration = Duration::from_micros(100);

/// Decides between two clocks. The driver's stamp is right however late the read is, but whether it
/// is from the precise system time or from the one that moves in ticks of up to 16 ms is not
/// documented. So it counts only once two stamps have been closer than any tick; until then the
/// time of reading does, which is a little late but never early.
#[derive(Debug, Default)]
pub(crate) struct Stamps {
    last: Option<u64>,
    precise: bool,
}

impl Stamps {
    /// When a packet stamped `stamp` (nanoseconds of the wall clock since 1970), read at `read`,
    /// arrived. `wall`: the wall clock at `read`.
    pub(crate) fn arrival(&mut self, stamp: u64, read: Time, wall: SystemTime) -> Time {
        if let Some(last) = self.last.replace(stamp) {
            let apart = Duration::from_nanos(stamp.abs_diff(last));
            self.precise |= !apart.is_zero() && apart < CLOSER_THAN_TICKS;
        }
        let now = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        match now.checked_sub(Duration::from_nanos(stamp)) {
            Some(waited) if self.precise && waited <= LONGEST_WAIT => read - waited,
            _ => read,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: u64 = 1_700_000_000_000_000_000;
    const MS: u64 = 1_000_000;

    fn wall(nanos: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(EPOCH + nanos)
    }

    fn ms(time: u64) -> Time {
        Time::from_nanos(time * MS)
    }

    #[test]
    fn precise_stamps_count_once_they_are_known_to_be() {
        let mut stamps = Stamps::default();
        assert_eq!(
            stamps.arrival(EPOCH, ms(50), wall(3 * MS)),
            ms(50),
            "not known yet"
        );
        assert_eq!(
            stamps.arrival(EPOCH + 90_000, ms(50), wall(3 * MS + 90_000)),
            ms(47)
        );
        assert_eq!(
            stamps.arrival(EPOCH + 90 * MS, ms(140), wall(92 * MS)),
            ms(138),
            "remembered"
        );
    }

    #[test]
    fn stamps_that_move_in_ticks_never_count() {
        let mut stamps = Stamps::default();
        for (packet, tick) in [(1, 0), (2, 0), (15, 0), (17, 16), (30, 16), (33, 32)] {
            let at = stamps.arrival(EPOCH + tick * MS, ms(100 + packet), wall(packet * MS));
            assert_eq!(at, ms(100 + packet));
        }
    }

    #[test]
    fn the_finest_ticks_are_not_taken_for_precise() {
        let mut stamps = Stamps::default();
        for packet in 1..20 {
            // The system rounds them to 100 ns.
            let stamp = EPOCH + packet * 499_900;
            let wall = wall(packet * 499_900 + 400_000);
            assert_eq!(stamps.arrival(stamp, ms(100), wall), ms(100));
        }
    }

    #[test]
    fn a_step_of_the_wall_clock_does_not_move_the_arrival() {
        let mut stamps = Stamps {
            last: None,
            precise: true,
        };
        assert_eq!(
            stamps.arrival(EPOCH, ms(50), wall(3_600_000 * MS)),
            ms(50),
            "forwards"
        );
        assert_eq!(
            stamps.arrival(EPOCH + 5 * MS, ms(50), wall(0)),
            ms(50),
            "backwards"
        );
        assert_eq!(stamps.arrival(u64::MAX, ms(50), wall(0)), ms(50), "nonsense");
    }
}
