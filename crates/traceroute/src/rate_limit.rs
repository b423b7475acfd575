//! Loss that is none: targets that limit how often they say that a port is unreachable.
//!
//! Hosts limit the ICMP errors that they send (RFC 1812 §4.3.2.8); Linux lets one a second go to each address, and six at once
//! after a quiet time (icmp(7), `icmp_ratelimit`). End-to-end probes over UDP that are less than a second apart then go unanswered
//! although nothing is lost. That is no random pattern, so it can be recognised.

use std::time::Duration;

/// Linux: time for one more error.
const INTERVAL: Duration = Duration::from_secs(1);
/// Linux: errors at once.
const BURST: u32 = 6;
/// How early or late a probe may get there, and the kernel's clock ticks.
const TOLERANCE: Duration = Duration::from_millis(50);
/// Fewer losses have too little of a pattern.
const ENOUGH: usize = 5;
/// One of so many probes may be truly lost, or find that other errors have used the bucket up.
const PROBES_PER_EXCEPTION: usize = 40;

/// Whether probes sent `spacing` apart were answered as Linux's limit lets them.
///
/// Each answer and each silence tells how full the bucket was: how full it can be, at least and at most, is followed from probe to probe,
/// and a limiter never contradicts it.
pub(crate) fn explains(answered: &[bool], spacing: Duration) -> bool {
    let received = answered.iter().filter(|answered| **answered).count();
    if answered.len() - received < ENOUGH || received < ENOUGH {
        return false;
    }
    let (mut bucket, mut exceptions) = (Bucket::UNKNOWN, 0);
    for answered in answered {
        if !bucket.allows(*answered) {
            exceptions += 1;
            bucket = Bucket::UNKNOWN;
        }
        bucket = bucket.after(*answered, spacing);
    }
    exceptions <= answered.len() / PROBES_PER_EXCEPTION
}

/// What a target has saved up, as time: each error costs [`INTERVAL`].
#[derive(Clone, Copy)]
struct Bucket {
    least: Duration,
    most: Duration,
}

impl Bucket {
    const FULL: Duration = INTERVAL.saturating_mul(BURST);
    const UNKNOWN: Bucket = Bucket {
        least: Duration::ZERO,
        most: Self::FULL,
    };

    /// Whether a probe that comes now can be answered, or can be left unanswered.
    fn allows(self, answered: bool) -> bool {
        if answered {
            self.most + TOLERANCE >= INTERVAL
        } else {
            self.least <= INTERVAL + TOLERANCE
        }
    }

    /// What is there when the next probe comes.
    fn after(self, answered: bool, spacing: Duration) -> Bucket {
        let Bucket { mut least, mut most } = self;
        if answered {
            least = least.saturating_sub(INTERVAL);
            most = most.saturating_sub(INTERVAL);
        } else {
            most = most.min(INTERVAL + TOLERANCE);
        }
        least = (least + spacing).min(Self::FULL);
        most = (most + spacing).min(Self::FULL);
        Bucket { least, most }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Linux answers, with other errors in between that use up `used` of its burst, and probes that come a little early
    /// or late.
    fn limited(count: u32, spacing: Duration, used: f64) -> Vec<bool> {
        let (mut saved, mut last) = (f64::from(BURST) - used, 0.0);
        (0..count)
            .map(|index| {
                let late = f64::from(index * 7919 % 13) / 1000.0;
                let at = spacing.as_secs_f64() * f64::from(index) + late;
                saved = (saved + at - last).min(f64::from(BURST));
                last = at;
                let allowed = saved >= 1.0;
                saved -= if allowed { 1.0 } else { 0.0 };
                allowed
            })
            .collect()
    }

    #[test]
    fn linuxs_limit_is_recognised() {
        for millis in [200, 250, 333, 500, 600, 666, 750, 800] {
            for used in [0.0, 1.0, 3.35, 5.9] {
                let spacing = Duration::from_millis(millis);
                let answered = limited(50, spacing, used);
                assert!(explains(&answered, spacing), "{millis} ms, {used}");
            }
        }
    }

    #[test]
    fn one_true_loss_does_not_hide_it() {
        let spacing = Duration::from_millis(600);
        let answered = limited(50, spacing, 3.35);
        let reached = (0..50).filter(|index| answered[*index]);
        for index in reached.clone() {
            let mut with_loss = answered.clone();
            with_loss[index] = false;
            assert!(explains(&with_loss, spacing), "{index}");
        }
        let mut lossy = answered.clone();
        for index in reached.skip(6).step_by(3) {
            lossy[index] = false;
        }
        assert!(!explains(&lossy, spacing));
    }

    #[test]
    fn random_loss_is_not() {
        let mut state = 1_u64;
        for millis in [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000] {
            for percent in [5, 10, 15, 20, 30, 36, 40, 50, 60, 70, 80, 90] {
                let mut mistaken = 0;
                for _ in 0..1000 {
                    let answered: Vec<bool> = (0..50)
                        .map(|_| {
                            state = state
                                .wrapping_mul(6_364_136_223_846_793_005)
                                .wrapping_add(1_442_695_040_888_963_407);
                            (state >> 33) % 100 >= percent
                        })
                        .collect();
                    mistaken += u32::from(explains(&answered, Duration::from_millis(millis)));
                }
                // Seldom, at every spacing and with every loss.
                assert!(mistaken <= 10, "{millis} ms, {percent} %: {mistaken} of 1000");
            }
        }
    }

    #[test]
    fn outages_and_clean_paths_are_not() {
        let spacing = Duration::from_millis(600);
        assert!(!explains(&[true; 50], spacing));
        assert!(!explains(&[false; 50], spacing));
        assert!(!explains(&[], spacing));
        let outage: Vec<bool> = (0..50).map(|index| index < 25).collect();
        assert!(!explains(&outage, spacing));
    }
}
