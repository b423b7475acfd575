//! Stopping points: after how many answered probes a node's next hops count as complete.
//!
//! A balancer with *K* next hops, all equally likely, sends each new flow to one of them. Probing
//! stops when *k* next hops have been seen after `point(k)` answered flows. It stops too early if
//! *k* < *K*. The probability of that follows exactly, flow by flow, from how many next hops were
//! seen before ([`failure`]). Each point is the smallest for which a balancer with one next hop
//! more than was seen is missed at most with the probability that the user chose. Points from a
//! formula or from published tables may exceed it: of the usual ones for 95 %, 38 and 44 do.

/// The stopping points for one confidence, computed as far as they are needed.
#[derive(Debug, Clone)]
pub struct StoppingPoints {
    allowed: f64,
    /// For 1, 2, … next hops seen.
    points: Vec<u32>,
    /// For each of `points`: how likely a balancer with one next hop more was left earlier than
    /// that.
    early: Vec<f64>,
}

impl StoppingPoints {
    /// For failures with at most the probability `1 - confidence`. The confidence is brought into
    /// the range from 0.5 to 0.999999.
    pub fn new(confidence: f64) -> Self {
        StoppingPoints {
            allowed: 1.0 - confidence.clamp(0.5, 0.999_999),
            points: Vec::new(),
            early: Vec::new(),
        }
    }

    /// How likely the next hops of a node may be incomplete.
    pub fn allowed(&self) -> f64 {
        self.allowed
    }

    /// After how many answered flows a node with so many next hops seen is complete. A node of
    /// which nothing was seen yet counts as one with one next hop.
    pub fn point(&mut self, seen: usize) -> u32 {
        let seen = seen.max(1);
        while self.points.len() < seen {
            self.compute_next();
        }
        self.points[seen - 1]
    }

    /// At most how likely a node has one next hop more than the `seen` ones, if `answered` flows
    /// have shown those. More exactly: how likely a node with `seen + 1` equally likely next hops
    /// shows no more than that.
    pub fn doubt(&mut self, seen: usize, answered: u32) -> f64 {
        self.weight(seen, answered).min(1.0)
    }

    /// [`StoppingPoints::doubt`] as the sum over which next hop is missed. More than 1 for the
    /// first flows, so that each of them makes it less.
    pub(super) fn weight(&mut self, seen: usize, answered: u32) -> f64 {
        let seen = seen.max(1);
        let point = self.point(seen);
        let sum = self.early[seen - 1] + (seen as f64 + 1.0) * kept(seen).powf(f64::from(answered));
        // The sum is a bit too much; at the point the probability is known exactly.
        if answered >= point {
            sum.min(self.allowed)
        } else {
            sum
        }
    }

    /// [`StoppingPoints::weight`] as expected when `more` flows are on their way. Each passes the
    /// node with the probability `share`.
    pub(super) fn expected_weight(&mut self, seen: usize, answered: u32, (more, share): (u32, f64)) -> f64 {
        let seen = seen.max(1);
        let now = self.weight(seen, answered);
        now * (1.0 - share * (1.0 - kept(seen))).powf(f64::from(more))
    }

    fn compute_next(&mut self) {
        let next_hops = self.points.len() + 2;
        let mut walk = Walk::new(vec![1.0 / next_hops as f64; next_hops]);
        let last = self.points.last().copied().unwrap_or(0);
        while walk.flows < last {
            walk.step(&self.points);
        }
        self.early.push(walk.stopped);
        loop {
            walk.step(&self.points);
            if walk.stopped + walk.seen(next_hops - 1) <= self.allowed {
                break;
            }
        }
        self.points.push(walk.flows);
    }
}

/// The share of flows that tell nothing of a next hop beyond the `seen` ones.
fn kept(seen: usize) -> f64 {
    seen as f64 / (seen as f64 + 1.0)
}

/// How likely a node is left although it has further next hops, if flows take its next hops with
/// the probabilities `weights`.
///
/// Exact. With equal weights it takes time in proportion to their number; with unequal ones each
/// set of next hops is followed, so there may be at most 16 of those.
pub fn failure(points: &mut StoppingPoints, weights: &[f64]) -> f64 {
    let mut walk = Walk::new(weights.to_vec());
    let last = points.point(weights.len().saturating_sub(1).max(1));
    while weights.len() > 1 && walk.flows < last {
        walk.step(&points.points);
    }
    walk.stopped
}

/// The distribution of what is seen after some flows.
struct Walk {
    weights: Vec<f64>,
    /// By the number of next hops seen; with unequal weights by the set of those.
    states: Vec<f64>,
    is_equal: bool,
    flows: u32,
    /// How likely probing has stopped too early.
    stopped: f64,
}

impl Walk {
    fn new(weights: Vec<f64>) -> Self {
        let differs = |pair: &[f64]| (pair[0] - pair[1]).abs() > f64::EPSILON;
        let is_equal = !weights.windows(2).any(differs);
        let states = if is_equal {
            weights.len() + 1
        } else {
            1 << weights.len().min(16)
        };
        let mut walk = Walk {
            states: vec![0.0; states],
            is_equal,
            weights,
            flows: 0,
            stopped: 0.0,
        };
        walk.states[0] = 1.0;
        walk
    }

    /// How likely just so many next hops were seen.
    fn seen(&self, count: usize) -> f64 {
        let states = self.states.iter().enumerate();
        let counted = states.filter(|(state, _)| self.count(*state) == count);
        counted.map(|(_, probability)| probability).sum()
    }

    fn count(&self, state: usize) -> usize {
        if self.is_equal {
            state
        } else {
            state.count_ones() as usize
        }
    }

    /// One more flow, and a stop where that is due.
    fn step(&mut self, points: &[u32]) {
        self.flows += 1;
        let total = self.weights.len();
        let mut next = vec![0.0; self.states.len()];
        for (state, probability) in self.states.iter().enumerate().filter(|(_, p)| **p > 0.0) {
            if self.is_equal {
                let known = state as f64 / total as f64;
                next[state] += probability * known;
                if state < total {
                    next[state + 1] += probability * (1.0 - known);
                }
            } else {
                for (index, weight) in self.weights.iter().enumerate().take(16) {
                    next[state | 1 << index] += probability * weight;
                }
            }
        }
        self.states = next;
        for state in 0..self.states.len() {
            let seen = self.count(state);
            let stops = (1..total).contains(&seen) && points.get(seen - 1) == Some(&self.flows);
            if stops {
                self.stopped += std::mem::take(&mut self.states[state]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Probing by these points, all at once given.
    fn failure_at(points: &[u32], next_hops: usize) -> f64 {
        let mut points = StoppingPoints {
            allowed: 0.0,
            points: points.to_vec(),
            early: Vec::new(),
        };
        failure(&mut points, &vec![1.0 / next_hops as f64; next_hops])
    }

    #[test]
    fn points_are_the_smallest_that_keep_the_bound() {
        for confidence in [0.9, 0.95, 0.99] {
            let mut stopping = StoppingPoints::new(confidence);
            let mut points: Vec<u32> = (1..=48).map(|seen| stopping.point(seen)).collect();
            for seen in 1..points.len() {
                let exact = failure(&mut stopping, &vec![1.0 / (seen + 1) as f64; seen + 1]);
                assert!(exact <= 1.0 - confidence, "{seen} seen: {exact}");
                points[seen - 1] -= 1;
                let fewer = failure_at(&points[..seen], seen + 1);
                assert!(fewer > 1.0 - confidence, "{seen} seen: {fewer} would do");
                points[seen - 1] += 1;
            }
        }
    }

    #[test]
    fn published_points_for_95_percent_exceed_their_bound_at_8_and_9_next_hops() {
        let mut points = StoppingPoints::new(0.95);
        let own: Vec<u32> = (1..=8).map(|seen| points.point(seen)).collect();
        assert_eq!(own, [6, 11, 16, 21, 27, 33, 39, 45]);
        let published = [6, 11, 16, 21, 27, 33, 38, 44];
        let percent = |next_hops| (failure_at(&published, next_hops) * 1e4).round() / 100.0;
        assert_eq!((percent(8), percent(9)), (5.01, 5.06));
    }

    #[test]
    fn a_rare_next_hop_is_missed_more_often() {
        let mut points = StoppingPoints::new(0.95);
        // Six flows by the same one of two.
        let exact = failure(&mut points, &[0.9, 0.1]);
        assert!((exact - (0.9_f64.powi(6) + 0.1_f64.powi(6))).abs() < 1e-12);
        // Both ways of counting agree.
        let equal = failure(&mut points, &[0.25; 4]);
        let nearly = failure(&mut points, &[0.25, 0.25, 0.25 + 1e-13, 0.25 - 1e-13]);
        assert!((equal - nearly).abs() < 1e-9);
    }

    #[test]
    fn doubt_falls_with_each_answer_and_is_allowed_at_the_point() {
        let mut points = StoppingPoints::new(0.95);
        for seen in 1..20 {
            let point = points.point(seen);
            assert!(points.doubt(seen, point) <= points.allowed());
            let doubts: Vec<f64> = (0..2 * point)
                .map(|answered| points.doubt(seen, answered))
                .collect();
            assert!(doubts.is_sorted_by(|one, next| one >= next));
        }
        assert!((points.doubt(1, 0) - 1.0).abs() < f64::EPSILON);
        assert!((points.doubt(1, 6) - 2.0 / 64.0).abs() < f64::EPSILON);
    }
}
