//! Token buckets.
//!
//! Hosts and routers limit the ICMP errors that they send (RFC 1812 §4.3.2.8). Linux keeps one
//! bucket for each address that it answers: one token a second, six at most (icmp(7),
//! `icmp_ratelimit`). A probe that finds the bucket empty goes unanswered and takes nothing.

use std::time::Duration;

use crate::Time;

/// A limit on answers: a bucket of `burst` tokens, one more each `interval`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    pub interval: Duration,
    pub burst: u32,
}

impl Limit {
    /// Linux's default.
    pub(crate) const LINUX: Limit = Limit {
        interval: Duration::from_secs(1),
        burst: 6,
    };

    /// A full bucket, as time.
    fn full(self) -> Duration {
        self.interval.saturating_mul(self.burst)
    }

    /// How early or late a probe may get there, and how coarse the responder's clock is.
    pub(crate) fn tolerance(self) -> Duration {
        (self.interval / 20).clamp(Duration::from_millis(2), Duration::from_millis(40))
    }
}

/// What a limit says of a probe's fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forecast {
    /// There is a token: it is answered.
    Answered,
    /// There is none: it is not.
    Unanswered,
    /// Both are possible.
    Open,
}

/// What a responder has saved up under a limit, at least and at most, as time: each answer costs
/// one interval.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    limit: Limit,
    least: Duration,
    most: Duration,
    at: Time,
}

impl Bucket {
    /// Nothing is known of what was used before `at`.
    pub(crate) fn unknown(limit: Limit, at: Time) -> Self {
        Bucket {
            limit,
            least: Duration::ZERO,
            most: limit.full(),
            at,
        }
    }

    /// Nothing was used before `at`.
    pub(crate) fn full(limit: Limit, at: Time) -> Self {
        Bucket {
            least: limit.full(),
            ..Bucket::unknown(limit, at)
        }
    }

    /// All was used before `at`.
    pub(crate) fn empty(limit: Limit, at: Time) -> Self {
        Bucket {
            most: limit.interval,
            ..Bucket::unknown(limit, at)
        }
    }

    /// Lets time pass.
    pub(crate) fn advance(&mut self, to: Time) {
        let passed = to.since(self.at);
        self.least = (self.least + passed).min(self.limit.full());
        self.most = (self.most + passed).min(self.limit.full());
        self.at = self.at.max(to);
    }

    pub(crate) fn forecast(&self) -> Forecast {
        let (interval, tolerance) = (self.limit.interval, self.limit.tolerance());
        if self.least >= interval + tolerance {
            Forecast::Answered
        } else if self.most + tolerance < interval {
            Forecast::Unanswered
        } else {
            Forecast::Open
        }
    }

    /// How likely a probe now finds a token, from 0 to 1: all amounts between least and most are
    /// equally likely.
    pub(crate) fn odds(&self) -> f64 {
        let (interval, tolerance) = (self.limit.interval, self.limit.tolerance());
        let [least, most, wanted] =
            [self.least, self.most + tolerance, interval].map(|time| time.as_secs_f64());
        ((most - wanted) / (most - least)).clamp(0.0, 1.0)
    }

    /// Takes note of what became of a probe now. What contradicts the forecast shows that others
    /// use the bucket, too.
    pub(crate) fn take(&mut self, answered: bool) {
        let interval = self.limit.interval;
        match (answered, self.forecast()) {
            (true, Forecast::Unanswered) => *self = Bucket::unknown(self.limit, self.at),
            (false, Forecast::Answered) => self.least = Duration::ZERO,
            _ => {}
        }
        if answered {
            self.least = self.least.saturating_sub(interval);
            self.most = self.most.saturating_sub(interval);
        } else {
            self.most = self.most.min(interval + self.limit.tolerance());
        }
    }

    /// When a token is there for sure.
    pub(crate) fn surely_at(&self) -> Time {
        let wanted = self.limit.interval + self.limit.tolerance();
        self.at + wanted.saturating_sub(self.least)
    }

    /// When a token may be there, if nobody else has taken any.
    pub(crate) fn perhaps_at(&self) -> Time {
        let wanted = self.limit.interval + self.limit.tolerance();
        self.at + wanted.saturating_sub(self.most)
    }
}

/// One probe that a responder got, and whether it was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub at: Time,
    pub answered: bool,
}

impl Mark {
    pub(crate) const NONE: Mark = Mark {
        at: Time::ZERO,
        answered: false,
    };
}

/// The bucket after these probes, and what it says of each: for `each` in turn.
pub(crate) fn replay(limit: Limit, marks: &[Mark], mut each: impl FnMut(&Mark, Forecast)) -> Option<Bucket> {
    let mut bucket = Bucket::unknown(limit, marks.first()?.at);
    for mark in marks {
        bucket.advance(mark.at);
        each(mark, bucket.forecast());
        bucket.take(mark.answered);
    }
    Some(bucket)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    /// What a limit answers of probes at these times, when `used` of its tokens are gone.
    pub(crate) fn limited(limit: Limit, used: f64, times: impl IntoIterator<Item = u64>) -> Vec<Mark> {
        let interval = limit.interval.as_secs_f64();
        let (mut saved, mut last) = (f64::from(limit.burst) - used, None);
        let mut mark = |millis: u64| {
            let now = millis as f64 / 1000.0;
            saved = (saved + (now - last.unwrap_or(now)) / interval).min(f64::from(limit.burst));
            last = Some(now);
            let answered = saved >= 1.0;
            saved -= if answered { 1.0 } else { 0.0 };
            Mark {
                at: at(millis),
                answered,
            }
        };
        times.into_iter().map(&mut mark).collect()
    }

    #[test]
    fn a_token_comes_back_one_interval_after_the_last_was_taken() {
        let marks = limited(Limit::LINUX, 0.0, [0; 10]);
        let bucket = replay(Limit::LINUX, &marks, |_, _| {}).unwrap();
        let wait = bucket.surely_at().since(at(0));
        assert!(
            wait > Duration::from_secs(1) && wait < Duration::from_millis(1100),
            "{wait:?}"
        );
    }
}
