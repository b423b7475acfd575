//! Token buckets, and how well one explains who was answered when.
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
    fn odds(&self) -> f64 {
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

/// How many probes were lost, of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    pub lost: u32,
    pub seen: u32,
}

impl Tally {
    /// The share that was lost.
    pub(crate) fn share(self) -> f64 {
        f64::from(self.lost) / f64::from(self.seen.max(1))
    }
}

/// Chance that an answer which a limit allows is lost nevertheless.
const LOST_ANYWAY: f64 = 0.06;
/// Chance of an answer that a limit forbids: clocks differ.
const ANSWERED_ANYWAY: f64 = 0.01;
/// How likely a responder is limited, and how likely so as Linux is, before anything was seen.
const LIMITED: f64 = 0.5;
const LIMITED_AS_LINUX: f64 = 0.6;
/// Random loss, before anything was seen: as if one of so many probes had been lost.
const PRIOR_PROBES: f64 = 10.0;
/// How likely the loss is any share from 0 to 1 rather than a small one.
const ANY_LOSS: f64 = 0.2;

const INTERVALS_MS: [u64; 11] = [20, 50, 62, 100, 125, 200, 250, 500, 1000, 2000, 4000];
const BURSTS: [u32; 7] = [1, 2, 3, 6, 10, 20, 50];

/// Whether a limit or random loss explains these probes (in the order of time): the most likely
/// limit, and the odds that it is a limit, from 0 to 1. `elsewhere`: what was lost of probes that
/// crossed the same links to somebody who does not limit.
pub(crate) fn fit(marks: &[Mark], elsewhere: Option<Tally>) -> Option<(Limit, f64)> {
    let loss = loss_likelihood(marks, elsewhere) * (1.0 - LIMITED);
    let others = (INTERVALS_MS.len() * BURSTS.len() - 1) as f64;
    let mut limits = 0.0;
    let mut best: Option<(Limit, f64)> = None;
    for interval in INTERVALS_MS {
        for burst in BURSTS {
            let limit = Limit {
                interval: Duration::from_millis(interval),
                burst,
            };
            let prior = if limit == Limit::LINUX {
                LIMITED * LIMITED_AS_LINUX
            } else {
                LIMITED * (1.0 - LIMITED_AS_LINUX) / others
            };
            let weight = limit_likelihood(limit, marks) * prior;
            limits += weight;
            if best.is_none_or(|(_, known)| weight > known) {
                best = Some((limit, weight));
            }
        }
    }
    let total = limits + loss;
    best.filter(|_| total > 0.0)
        .map(|(limit, _)| (limit, limits / total))
}

/// How likely random loss is to give just this: mostly some percent are lost, but it may be any
/// share.
fn loss_likelihood(marks: &[Mark], elsewhere: Option<Tally>) -> f64 {
    let with = |lost: f64, seen: f64| {
        let (mut lost, mut seen, mut product) = (lost, seen, 1.0);
        for mark in marks {
            let share = lost / seen;
            product *= if mark.answered { 1.0 - share } else { share };
            lost += if mark.answered { 0.0 } else { 1.0 };
            seen += 1.0;
        }
        product
    };
    if let Some(Tally { lost, seen }) = elsewhere {
        return with(0.5 + f64::from(lost), PRIOR_PROBES / 2.0 + f64::from(seen));
    }
    let (low, any) = (with(1.0, PRIOR_PROBES), with(1.0, 2.0));
    low * (1.0 - ANY_LOSS) + any * ANY_LOSS
}

/// How likely a limit is to give just this.
fn limit_likelihood(limit: Limit, marks: &[Mark]) -> f64 {
    let Some(first) = marks.first() else { return 1.0 };
    let mut bucket = Bucket::unknown(limit, first.at);
    let mut product = 1.0;
    for mark in marks {
        bucket.advance(mark.at);
        let odds = bucket.odds();
        let answered = odds * (1.0 - LOST_ANYWAY) + (1.0 - odds) * ANSWERED_ANYWAY;
        product *= if mark.answered { answered } else { 1.0 - answered };
        bucket.take(mark.answered);
    }
    product
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
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    /// What a limit answers of probes at these times, when `used` of its tokens are gone.
    fn limited(limit: Limit, used: f64, times: impl IntoIterator<Item = u64>) -> Vec<Mark> {
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

    fn random(loss: u64, seed: u64, times: impl IntoIterator<Item = u64>) -> Vec<Mark> {
        let mut state = seed;
        let mark = |millis| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            Mark {
                at: at(millis),
                answered: (state >> 33) % 100 >= loss,
            }
        };
        times.into_iter().map(mark).collect()
    }

    #[test]
    fn linuxs_limit_is_recognised_however_full_it_was() {
        for used in [0.0, 1.0, 3.35, 5.9] {
            for spacing in [1, 50, 200, 600, 750] {
                let marks = limited(Limit::LINUX, used, (0..40).map(|index| index * spacing));
                if marks.iter().all(|mark| !mark.answered) {
                    continue;
                }
                let (limit, odds) = fit(&marks, None).unwrap();
                assert!(odds > 0.9, "{used} {spacing}: {odds}");
                // Of probes that are all sent at once, only the burst shows.
                assert!(
                    spacing == 1 || limit.interval == Limit::LINUX.interval,
                    "{used} {spacing}: {limit:?}"
                );
            }
        }
    }

    #[test]
    fn other_limits_are_recognised() {
        for (interval, burst) in [(500, 1), (100, 10), (2000, 1), (250, 6)] {
            let limit = Limit {
                interval: Duration::from_millis(interval),
                burst,
            };
            let marks = limited(limit, 0.0, (0..60).map(|index| index * interval / 3));
            let (found, odds) = fit(&marks, None).unwrap();
            assert!(odds > 0.95, "{limit:?}: {odds}");
            assert_eq!(found.interval, limit.interval);
        }
    }

    #[test]
    fn random_loss_is_no_limit() {
        for spacing in [1, 50, 300, 1000] {
            for loss in [2, 5, 10, 20, 40, 60, 80] {
                let mistaken = (0..200)
                    .filter(|seed| {
                        let marks = random(loss, *seed, (0..40).map(|index| index * spacing));
                        fit(&marks, None).is_some_and(|(_, odds)| odds > 0.9)
                    })
                    .count();
                assert!(mistaken <= 6, "{spacing} ms, {loss} %: {mistaken} of 200");
            }
        }
    }

    #[test]
    fn a_clean_path_is_no_limit() {
        let marks = random(0, 1, (0..60).map(|index| index * 20));
        assert!(fit(&marks, None).unwrap().1 < 0.5);
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
