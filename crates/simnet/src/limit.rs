//! Limits on ICMP errors.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use fastrand::Rng;

use crate::topology::{Bucket, Limit, LinuxLimit, Per};

/// A limit at work.
#[derive(Debug)]
pub(crate) enum Limiter {
    Buckets(Buckets),
    Linux(Linux),
}

impl Limiter {
    pub(crate) fn new(limit: Limit) -> Self {
        match limit {
            Limit::Bucket(bucket) => Self::Buckets(Buckets::new(bucket)),
            Limit::Linux(limit) => Self::Linux(Linux::new(limit)),
        }
    }

    /// Whether one more error may go to `destination` now. One that may not takes no token.
    pub(crate) fn allow(&mut self, destination: IpAddr, now: Duration, rng: &mut Rng) -> bool {
        match self {
            Self::Buckets(buckets) => buckets.allow(destination, now),
            Self::Linux(linux) => linux.allow(destination, now, rng),
        }
    }
}

/// Token buckets, one for each destination or one for all.
#[derive(Debug)]
pub(crate) struct Buckets {
    spec: Bucket,
    /// Time saved up, and when that was.
    saved: HashMap<Option<IpAddr>, (Duration, Duration)>,
}

impl Buckets {
    fn new(spec: Bucket) -> Self {
        Self {
            spec,
            saved: HashMap::new(),
        }
    }

    fn allow(&mut self, destination: IpAddr, now: Duration) -> bool {
        let interval = self.spec.interval.0;
        let full = interval * self.spec.burst;
        let start = interval * self.spec.start.unwrap_or(self.spec.burst);
        let key = (self.spec.per == Per::Destination).then_some(destination);
        let (saved, since) = self.saved.entry(key).or_insert((start, now));
        *saved = (*saved + now.saturating_sub(*since)).min(full);
        *since = now;
        let allowed = *saved >= interval;
        if allowed {
            *saved -= interval;
        }
        allowed
    }
}

/// What Linux does, in its own unit of time, the jiffy: first `icmp_global_allow`, then
/// `inet_peer_xrlim_allow`, and `icmp_global_consume` when both agree.
#[derive(Debug)]
pub(crate) struct Linux {
    spec: LinuxLimit,
    /// Jiffies saved up for each destination, and when that was.
    peers: HashMap<IpAddr, (u64, u64)>,
    credit: i32,
    /// When the credit was filled up.
    stamp: Option<u64>,
}

impl Linux {
    fn new(spec: LinuxLimit) -> Self {
        Self {
            spec,
            peers: HashMap::new(),
            credit: 0,
            stamp: None,
        }
    }

    fn allow(&mut self, destination: IpAddr, now: Duration, rng: &mut Rng) -> bool {
        let now = (now.as_nanos() * u128::from(self.spec.hz) / 1_000_000_000) as u64;
        let allowed = self.has_credit(now) && self.peer(destination, now);
        if allowed {
            // Random, so that nobody learns about other destinations by counting. It may become
            // less than 0.
            self.credit -= i32::from(rng.u8(..3));
        }
        allowed
    }

    /// The credit is filled up only when it is used up, and at most 50 times a second.
    fn has_credit(&mut self, now: u64) -> bool {
        if self.credit > 0 {
            return true;
        }
        let hz = u64::from(self.spec.hz);
        let delta = self.stamp.map_or(hz, |stamp| (now - stamp).min(hz));
        let more = u64::from(self.spec.msgs_per_sec) * delta / hz;
        if delta < hz / 50 || more == 0 {
            return false;
        }
        self.stamp = Some(now);
        let more = i32::try_from(more).unwrap_or(i32::MAX);
        let burst = i32::try_from(self.spec.msgs_burst).unwrap_or(i32::MAX);
        self.credit = self.credit.saturating_add(more).min(burst);
        true
    }

    fn peer(&mut self, destination: IpAddr, now: u64) -> bool {
        let timeout = self.timeout(destination.is_ipv6());
        let full = timeout * u64::from(LinuxLimit::BURST);
        let start = timeout * u64::from(self.spec.start.unwrap_or(LinuxLimit::BURST));
        let (saved, since) = self.peers.entry(destination).or_insert((start, now));
        *saved = (*saved + (now - *since)).min(full);
        *since = now;
        let allowed = *saved >= timeout;
        if allowed {
            *saved -= timeout;
        }
        allowed
    }

    /// Jiffies for one more error.
    fn timeout(&self, v6: bool) -> u64 {
        let time = if v6 {
            self.spec.ratelimit_v6
        } else {
            self.spec.ratelimit
        };
        let jiffies = (time.0.as_millis() as u64 * u64::from(self.spec.hz)).div_ceil(1000);
        match self.spec.prefix_v6 {
            Some(length) if v6 => jiffies >> ((128 - u64::from(length)) / 32),
            _ => jiffies,
        }
    }
}
