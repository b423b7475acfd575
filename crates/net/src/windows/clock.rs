//! The monotonic clock.

use std::sync::OnceLock;
use std::time::Instant;

use traceroute_engine::Time;

/// Now. [`Instant`] is `QueryPerformanceCounter`: it neither steps nor moves in ticks.
pub(super) fn now() -> Time {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    Time::from_nanos(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX))
}
