//! Links: delay, jitter, loss, duplication, reordering.

use std::time::Duration;

use fastrand::Rng;

use crate::topology::{Direction, Millis};

/// One direction of a link at work.
#[derive(Debug)]
pub(crate) struct Link {
    spec: Direction,
    delay: Duration,
    crossed: u64,
    /// When the last packet that kept its place arrived.
    last: Duration,
}

impl Link {
    pub(crate) fn new(spec: &Direction, delay: Millis) -> Self {
        Self {
            delay: spec.delay.unwrap_or(delay).0,
            spec: spec.clone(),
            crossed: 0,
            last: Duration::ZERO,
        }
    }

    /// When a packet that leaves at `now` arrives, and when its duplicate does. `None` twice: lost.
    pub(crate) fn cross(&mut self, now: Duration, rng: &mut Rng) -> [Option<Duration>; 2] {
        self.crossed += 1;
        if self.spec.lose.contains(&self.crossed) || happens(self.spec.loss.0, rng) {
            return [None; 2];
        }
        let first = self.arrival(now, rng);
        let second = happens(self.spec.duplicate.0, rng).then(|| self.arrival(now, rng));
        [Some(first), second]
    }

    fn arrival(&mut self, now: Duration, rng: &mut Rng) -> Duration {
        let at = now + self.delay + random_below(self.spec.jitter.0, rng);
        if happens(self.spec.reorder.0, rng) {
            return at
                + self
                    .spec
                    .reorder_delay
                    .map_or(Duration::from_millis(10), |delay| delay.0);
        }
        // A link is a queue: jitter alone lets nobody overtake.
        self.last = self.last.max(at);
        self.last
    }
}

/// Draws only when needed, so that adding a certain event does not shift other draws.
pub(crate) fn happens(chance: f64, rng: &mut Rng) -> bool {
    chance >= 1.0 || (chance > 0.0 && rng.f64() < chance)
}

/// Evenly distributed from zero to `limit`.
pub(crate) fn random_below(limit: Duration, rng: &mut Rng) -> Duration {
    if limit.is_zero() {
        Duration::ZERO
    } else {
        limit.mul_f64(rng.f64())
    }
}
