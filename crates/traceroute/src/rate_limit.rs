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
/// What the bucket holds when the first probe comes is tried in steps of this.
const STEP: Duration = Duration::from_millis(20);
/// Fewer losses have too little of a pattern.
const ENOUGH: usize = 5;

/// Whether probes sent `spacing` apart were answered as Linux's limit lets them: at any time as many, give or take one, as
/// probes may be a little early or late.
pub(crate) fn explains(answered: &[bool], spacing: Duration) -> bool {
    let received = answered.iter().filter(|answered| **answered).count();
    if answered.len() - received < ENOUGH || received < ENOUGH {
        return false;
    }
    let steps = (INTERVAL * BURST).as_millis() / STEP.as_millis();
    (0..=steps as u32).any(|step| keeps_pace(answered, spacing, STEP * step))
}

/// Whether a limiter that has `saved` up when the first probe comes answers like this.
fn keeps_pace(answered: &[bool], spacing: Duration, saved: Duration) -> bool {
    let mut saved = saved;
    let mut ahead = 0_i32;
    answered.iter().all(|answered| {
        let allowed = saved >= INTERVAL;
        if allowed {
            saved -= INTERVAL;
        }
        saved = (saved + spacing).min(INTERVAL * BURST);
        ahead += i32::from(allowed) - i32::from(*answered);
        ahead.abs() <= 1
    })
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
        for millis in [200, 333, 500, 600, 800] {
            for used in [0.0, 1.0, 3.35, 5.9] {
                let spacing = Duration::from_millis(millis);
                assert!(
                    explains(&limited(50, spacing, used), spacing),
                    "{millis} ms, {used}"
                );
            }
        }
    }

    #[test]
    fn random_loss_is_not() {
        let mut state = 1_u64;
        let mut mistaken = 0;
        for millis in [200, 600, 1000] {
            for percent in [10, 20, 36, 60, 80, 90] {
                for _ in 0..200 {
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
            }
        }
        // Random loss looks like a limit only when it happens to be as much as the limit makes.
        assert!(mistaken <= 3600 / 50, "{mistaken} of 3600");
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
