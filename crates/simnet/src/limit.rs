//! Rate limits on ICMP errors.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::topology::RateLimit;

/// A token bucket per destination, full at first (Linux: `icmp_ratelimit` with a burst of 6).
#[derive(Debug)]
pub(crate) struct Limiter {
    spec: RateLimit,
    /// Time saved up, and when that was.
    saved: HashMap<IpAddr, (Duration, Duration)>,
}

impl Limiter {
    pub(crate) fn new(spec: RateLimit) -> Self {
        Self {
            spec,
            saved: HashMap::new(),
        }
    }

    /// Whether one more error may go to `destination` now.
    pub(crate) fn allow(&mut self, destination: IpAddr, now: Duration) -> bool {
        let interval = self.spec.interval.0;
        let full = interval * self.spec.burst;
        let (saved, since) = self.saved.entry(destination).or_insert((full, now));
        *saved = (*saved + now.saturating_sub(*since)).min(full);
        *since = now;
        let allowed = *saved >= interval;
        if allowed {
            *saved -= interval;
        }
        allowed
    }
}
