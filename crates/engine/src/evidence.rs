//! Limit or loss: which of the two explains who was answered when.
//!
//! A few probes to one node seldom decide that. But a link that loses takes its share of the probes
//! to all nodes beyond it and of none before it, while a limit belongs to one node. So all nodes of
//! a path are weighed together: for each place of the first link that loses, each share that it
//! takes and each set of limited nodes, the likelihood of what was seen is counted.
//!
//! Before anything is seen, Linux's limit is the most likely one: one a second, six at once.

use std::time::Duration;

use crate::bucket::{Bucket, Limit, Mark};

/// Shares that a link may lose, and how likely each is, before anything was seen.
const SHARES: [(f64, f64); 9] = [
    (0.03, 0.2),
    (0.06, 0.2),
    (0.1, 0.15),
    (0.15, 0.13),
    (0.22, 0.1),
    (0.3, 0.08),
    (0.45, 0.06),
    (0.65, 0.04),
    (0.85, 0.04),
];
/// What links lose that are said to lose nothing.
const HARDLY_ANY: f64 = 0.02;
/// How likely no link loses.
const LOSSLESS: f64 = 0.5;
/// The share of a path's nodes that are limited, and how likely it is so.
const LIMITED: [(f64, f64); 3] = [(0.001, 0.58), (0.5, 0.2), (0.97, 0.22)];
/// How likely a limit is Linux's.
const LIMITED_AS_LINUX: f64 = 0.4;
/// Chance that an answer which a limit allows is lost nevertheless.
const LOST_ANYWAY: f64 = 0.03;
/// Which shares of a path's limits others had left untouched before our first probe, used somewhat,
/// and used up; and how likely it is so: who traces a path uses all of them.
const USES: [([f64; 3], f64); 3] = [
    ([0.9994, 0.0005, 0.0001], 0.965),
    ([0.08, 0.87, 0.05], 0.005),
    ([0.05, 0.1, 0.85], 0.03),
];
/// The share of a path's limits that other hosts or processes use, too, and how likely it is so:
/// such a limit may answer any share of our probes, at any time.
const SHARED: [(f64, f64); 2] = [(0.01, 0.95), (0.9, 0.05)];
/// The same of a limit that is looked at by itself.
const USE: [f64; 3] = [0.9, 0.09, 0.01];
/// How likely each of these leaves our first probe unanswered.
const FIRST_LOST: [f64; 3] = [0.0, 0.2, 0.9];
/// Fewer losses do not show that.
const MANY_LOST: usize = 5;
/// Chance of an answer that a limit forbids: clocks differ.
const ANSWERED_ANYWAY: f64 = 0.01;

const INTERVALS_MS: [u64; 11] = [20, 50, 62, 100, 125, 200, 250, 500, 1000, 2000, 4000];
const BURSTS: [u32; 7] = [1, 2, 3, 6, 10, 20, 50];

/// Limits that explain a node's answers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidates {
    /// The most likely one: Linux's, as long as not much speaks against it.
    pub best: Limit,
    /// The one that fits most closely.
    pub closest: Limit,
}

impl Default for Candidates {
    fn default() -> Self {
        Candidates {
            best: Limit::LINUX,
            closest: Limit::LINUX,
        }
    }
}

/// How likely a node's answers are under each explanation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Evidence {
    /// The logarithm of how likely a limit is to give just this that had all its tokens at first,
    /// any number of them, and none. Of a node that has no limit or did not reach it, minus
    /// infinity.
    own: [f64; 3],
    /// The same of a limit that others use, too.
    shared: f64,
    /// If it has a limit, our first probe was within it.
    began_within: bool,
    answered: u32,
    lost: u32,
}

impl Evidence {
    /// Of a node whose answers nobody limits, or that answered all.
    pub(crate) fn unlimited(answered: u32, lost: u32) -> Self {
        Evidence {
            own: [f64::NEG_INFINITY; 3],
            shared: f64::NEG_INFINITY,
            began_within: false,
            answered,
            lost,
        }
    }

    /// What these probes show (in the order of time), and which limits explain it.
    pub(crate) fn of(marks: &[Mark]) -> (Self, Candidates) {
        let lost = marks.iter().filter(|mark| !mark.answered).count();
        let mut evidence = Evidence::unlimited((marks.len() - lost) as u32, lost as u32);
        let mut candidates = Candidates::default();
        if lost == 0 {
            evidence.began_within = !marks.is_empty();
            return (evidence, candidates);
        }
        let (mut best, mut closest) = (0.0, 0.0);
        let others = (INTERVALS_MS.len() * BURSTS.len() - 1) as f64;
        for interval in INTERVALS_MS {
            for burst in BURSTS {
                let limit = Limit {
                    interval: Duration::from_millis(interval),
                    burst,
                };
                let prior = if limit == Limit::LINUX {
                    LIMITED_AS_LINUX
                } else {
                    (1.0 - LIMITED_AS_LINUX) / others
                };
                let likelihoods = likelihoods(limit, marks);
                let likelihood = weighted(likelihoods, USE);
                if likelihood > closest {
                    (candidates.closest, closest) = (limit, likelihood);
                }
                let weight = likelihood * prior;
                if weight > best {
                    (candidates.best, best) = (limit, weight);
                }
                for (sum, likelihood) in evidence.own.iter_mut().zip(likelihoods) {
                    *sum = log_sum(*sum, (likelihood * prior).ln());
                }
            }
        }
        if lost >= MANY_LOST {
            evidence.shared = evidence.any_share();
        }
        (evidence, candidates)
    }

    /// The logarithm of how likely this is if any share is as likely as any other.
    fn any_share(&self) -> f64 {
        let (lost, answered) = (self.lost, self.answered);
        let all_lost = -f64::from(lost + 1).ln();
        (1..=answered).fold(all_lost, |sum, count| {
            sum + (f64::from(count) / f64::from(lost + count + 1)).ln()
        })
    }

    /// How many probes were answered.
    pub(crate) fn answered(&self) -> u32 {
        self.answered
    }

    /// How many probes went unanswered.
    pub(crate) fn lost(&self) -> u32 {
        self.lost
    }

    /// The logarithm of how likely this is if each probe is lost with this chance.
    fn random(&self, share: f64) -> f64 {
        f64::from(self.lost) * share.ln() + f64::from(self.answered) * (1.0 - share).ln()
    }

    /// The same if a limit of its own explains it.
    fn own(&self, uses: [f64; 3]) -> f64 {
        let explained = self
            .own
            .into_iter()
            .zip(uses)
            .map(|(own, share)| own + share.ln());
        explained.fold(f64::NEG_INFINITY, log_sum)
    }

    /// The same if it is limited as `picture` has it, and otherwise loses so. A limit that was not
    /// reached explains nothing, but it was not used up before.
    fn mixed(&self, share: f64, picture: Picture) -> f64 {
        let Picture {
            limited,
            shared,
            uses,
        } = picture;
        if self.own.iter().all(|own| own.is_infinite()) {
            let lost = if self.began_within {
                limited * weighted(FIRST_LOST, uses)
            } else {
                0.0
            };
            return self.random(share) + (1.0 - lost).ln();
        }
        let random = self.random(share) + (1.0 - limited).ln();
        let own = self.own(uses) + (1.0 - shared).ln();
        log_sum(random, log_sum(own, self.shared + shared.ln()) + limited.ln())
    }
}

/// What the limits on a path may be like, in shares.
#[derive(Debug, Clone, Copy)]
struct Picture {
    /// Of the nodes: how many are limited.
    limited: f64,
    /// Of those: how many by limits that others use all the time.
    shared: f64,
    /// Of those: how many by limits that others had left untouched, used somewhat, and used up.
    uses: [f64; 3],
}

impl Picture {
    /// Each with its chance, before anything was seen.
    fn all() -> impl Iterator<Item = (Picture, f64)> {
        LIMITED.into_iter().flat_map(|(limited, limits)| {
            SHARED.into_iter().flat_map(move |(shared, shares)| {
                USES.into_iter().map(move |(uses, likely)| {
                    let picture = Picture {
                        limited,
                        shared,
                        uses,
                    };
                    (picture, limits * shares * likely)
                })
            })
        })
    }
}

/// How likely a node is limited.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Odds {
    /// From 0 to 1.
    pub limited: f64,
    /// The same of a limit that others use, too; never more than that.
    pub shared: f64,
}

/// How likely the node at the index `of` is limited. `path`: nodes in their order.
pub(crate) fn odds(path: &[Evidence], of: usize) -> Odds {
    let Some(node) = path.get(of) else {
        return Odds::default();
    };
    let mut sums = [f64::NEG_INFINITY; 3];
    let links = path.len() as f64;
    for (picture, prior) in Picture::all() {
        let Picture {
            limited,
            shared,
            uses,
        } = picture;
        // This node is left out, and comes in with what it is said to be.
        let clean = |index: usize| {
            if index == of {
                0.0
            } else {
                path[index].mixed(HARDLY_ANY, picture)
            }
        };
        let as_own = node.own(uses) + (limited * (1.0 - shared)).ln();
        let as_shared = node.shared + (limited * shared).ln();
        let mut weigh = |weight: f64, share: f64| {
            let as_random = node.random(share) + (1.0 - limited).ln();
            for (sum, explained) in sums.iter_mut().zip([as_random, as_own, as_shared]) {
                *sum = log_sum(*sum, weight + explained);
            }
        };
        let all_clean: f64 = (0..path.len()).map(clean).sum();
        weigh(all_clean + (prior * LOSSLESS).ln(), HARDLY_ANY);
        for (share, likely) in SHARES {
            let mut weight = all_clean + (prior * (1.0 - LOSSLESS) * likely / links).ln();
            // The first link that loses leads to this one.
            for first in (0..path.len()).rev() {
                if first != of {
                    weight += path[first].mixed(share, picture) - clean(first);
                }
                weigh(weight, if first <= of { share } else { HARDLY_ANY });
            }
        }
    }
    let most = sums.into_iter().fold(f64::NEG_INFINITY, f64::max);
    let [random, own, shared] = sums.map(|sum| (sum - most).exp());
    let all = random + own + shared;
    Odds {
        limited: (own + shared) / all,
        shared: shared / all,
    }
}

/// The logarithm of the sum of what has these logarithms.
fn log_sum(one: f64, other: f64) -> f64 {
    let (larger, smaller) = (one.max(other), one.min(other));
    if smaller == f64::NEG_INFINITY {
        larger
    } else {
        larger + (smaller - larger).exp().ln_1p()
    }
}

fn weighted(values: [f64; 3], weights: [f64; 3]) -> f64 {
    values
        .into_iter()
        .zip(weights)
        .map(|(value, weight)| value * weight)
        .sum()
}

/// How likely a limit is to give just this, with all its tokens at first, any number, and none.
fn likelihoods(limit: Limit, marks: &[Mark]) -> [f64; 3] {
    let Some(first) = marks.first() else {
        return [1.0; 3];
    };
    [
        Bucket::full(limit, first.at),
        Bucket::unknown(limit, first.at),
        Bucket::empty(limit, first.at),
    ]
    .map(|mut bucket| {
        let mut product = 1.0;
        for mark in marks {
            bucket.advance(mark.at);
            let odds = bucket.odds();
            let answered = odds * (1.0 - LOST_ANYWAY) + (1.0 - odds) * ANSWERED_ANYWAY;
            product *= if mark.answered { answered } else { 1.0 - answered };
            bucket.take(mark.answered);
        }
        product
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::tests::{at, limited};

    /// The limit that fits a node best, and how likely it is one, when no other node is known.
    fn fit(marks: &[Mark]) -> (Limit, f64) {
        let (evidence, candidates) = Evidence::of(marks);
        (candidates.best, odds(&[evidence], 0).limited)
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
                let (limit, odds) = fit(&marks);
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
            let (found, odds) = fit(&marks);
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
                        fit(&marks).1 > 0.9
                    })
                    .count();
                assert!(mistaken <= 8, "{spacing} ms, {loss} %: {mistaken} of 200");
            }
        }
    }

    #[test]
    fn a_clean_path_is_no_limit() {
        let marks = random(0, 1, (0..60).map(|index| index * 20));
        assert!(fit(&marks).1 < 0.5);
    }
}
