//! Where loss begins on the flows that have some.
//!
//! End-to-end probes tell which flows lose packets, but not where: links in series look alike from
//! their ends. So probes with a lower TTL go over the same flows. What a router answers of those
//! shows the loss up to it. The nearest router whose loss is that of the whole path is looked for
//! by bisection. Then both ends of the link before it are probed until they differ for sure, or the
//! most that may be sent was sent.
//!
//! A verdict needs that a difference like this, on any link of the graph, would come about by
//! chance once in a thousand discoveries at most (Fisher's exact test, Bonferroni's correction).
//! Intervals are Wilson's at 95 %.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::discovery::Ask;
use super::graph::Visit;

/// Probes that are sent to one TTL of a path at most.
pub const MOST_PROBES: u32 = 200;
/// Probes between two looks at what they show.
const BATCH: u32 = 20;
/// How likely any verdict is wrong.
const FAMILY_ERROR: f64 = 1e-3;
/// So few lost probes are no reason to look.
const LEAST_LOST: u32 = 2;
/// Two-sided 95 % of the normal distribution.
const Z: f64 = 1.959_964;
/// The same of 99.9 %: a lossy router that is taken for a clean one is not looked at again.
const SURE: f64 = 3.290_527;

/// What became of some probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sample {
    /// How many left.
    pub sent: u32,
    /// How many were not answered.
    pub lost: u32,
}

impl Sample {
    /// The part that was lost; 0 of none.
    pub fn ratio(self) -> f64 {
        f64::from(self.lost) / f64::from(self.sent.max(1))
    }

    /// Wilson's interval at 95 %; everything is possible after none.
    pub fn interval(self) -> (f64, f64) {
        self.interval_at(Z)
    }

    fn interval_at(self, z: f64) -> (f64, f64) {
        if self.sent == 0 {
            return (0.0, 1.0);
        }
        let (sent, ratio) = (f64::from(self.sent), self.ratio());
        let centre = ratio + z * z / (2.0 * sent);
        let spread = z * (ratio * (1.0 - ratio) / sent + z * z / (4.0 * sent * sent)).sqrt();
        let scale = 1.0 + z * z / sent;
        let low = if self.lost == 0 {
            0.0
        } else {
            (centre - spread) / scale
        };
        let high = if self.lost == self.sent {
            1.0
        } else {
            (centre + spread) / scale
        };
        (low, high)
    }
}

/// A link on which loss begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossBegins {
    /// TTL of its further end, in hops.
    pub ttl: u8,
    /// The nearer end; `None`: a silent node, or at the first TTL the source.
    pub from: Option<IpAddr>,
    /// The further end.
    pub to: Option<IpAddr>,
    /// What was lost up to the further end.
    pub sample: Sample,
}

/// Flows on the same way.
#[derive(Debug)]
struct Group {
    flows: Vec<u32>,
    visits: Vec<Visit>,
    /// What was lost from end to end.
    whole: Sample,
    /// TTLs where somebody answers.
    stops: Vec<u8>,
    samples: BTreeMap<u8, Sample>,
    /// How many of the nearest stops have no loss.
    clean: usize,
    /// The nearest stop that has the path's loss.
    lossy: usize,
    /// What is still to be asked of the current batch, and what is on its way.
    batch: Vec<u8>,
    pending: u32,
    turn: usize,
    is_over: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Locator {
    first_ttl: u8,
    groups: Vec<Group>,
    /// The probability of chance below which a difference is one.
    level: f64,
    /// What the last router and the target tell does not count: the target may limit its answers.
    skips_target: bool,
    found: Vec<LossBegins>,
}

impl Locator {
    /// For flows with their nodes from `first_ttl` on and what became of their end-to-end probes.
    /// Flows with an unknown node are left out, and TTLs that are not `usable`. `links` is how many
    /// links the graph has.
    /// `skips_target`: the target may limit its answers, so no loss is blamed on the last link.
    pub fn new(
        first_ttl: u8,
        flows: &[(Vec<Visit>, Sample)],
        links: usize,
        (skips_target, usable): (bool, impl Fn(u8) -> bool),
    ) -> Self {
        let mut groups: Vec<(Vec<u32>, &Vec<Visit>, Sample)> = Vec::new();
        for (flow, (visits, sample)) in (0..).zip(flows) {
            if visits.contains(&Visit::Unknown) {
                continue;
            }
            match groups.iter_mut().find(|(_, known, _)| *known == visits) {
                Some((members, _, sum)) => {
                    members.push(flow);
                    sum.sent += sample.sent;
                    sum.lost += sample.lost;
                }
                None => groups.push((vec![flow], visits, *sample)),
            }
        }
        let lossy = groups
            .into_iter()
            .filter(|(_, _, sample)| sample.lost >= LEAST_LOST);
        let groups = lossy.filter_map(|(flows, visits, sample)| {
            let named = (first_ttl..)
                .zip(visits)
                .filter(|(ttl, visit)| visit.address().is_some() && usable(*ttl));
            let stops: Vec<u8> = named.map(|(ttl, _)| ttl).collect();
            Some(Group {
                flows,
                visits: visits.clone(),
                whole: sample,
                samples: BTreeMap::new(),
                clean: 0,
                lossy: stops.len().checked_sub(1)?,
                stops,
                batch: Vec::new(),
                pending: 0,
                turn: 0,
                is_over: false,
            })
        });
        Locator {
            first_ttl,
            groups: groups.collect(),
            level: FAMILY_ERROR / links.max(1) as f64,
            skips_target,
            found: Vec::new(),
        }
    }

    /// The next probe; `None`: when the ones on their way have been settled there may be more.
    pub fn next_probe(&mut self) -> Option<Ask> {
        for index in 0..self.groups.len() {
            self.judge(index);
            let group = &mut self.groups[index];
            let Some(ttl) = group.batch.pop() else { continue };
            let flow = group.flows[group.turn % group.flows.len()];
            group.turn += 1;
            group.pending += 1;
            return Some(Ask { flow, ttl });
        }
        None
    }

    /// A probe was answered, or not.
    pub fn settled(&mut self, ask: Ask, is_answered: bool) {
        let mut groups = self.groups.iter_mut();
        let Some(group) = groups.find(|group| group.flows.contains(&ask.flow)) else {
            return;
        };
        group.pending = group.pending.saturating_sub(1);
        let sample = group.samples.entry(ask.ttl).or_default();
        sample.sent += 1;
        sample.lost += u32::from(!is_answered);
    }

    /// A probe cannot be sent: nothing more can be found out on its flow's way.
    pub fn give_up(&mut self, ask: Ask) {
        let mut groups = self.groups.iter_mut();
        if let Some(group) = groups.find(|group| group.flows.contains(&ask.flow)) {
            group.is_over = true;
            group.batch.clear();
        }
    }

    /// Where loss begins.
    pub fn found(&self) -> &[LossBegins] {
        &self.found
    }

    /// Looks at what a batch has shown, and makes the next one.
    fn judge(&mut self, index: usize) {
        let (level, skips_target, first_ttl) = (self.level, self.skips_target, self.first_ttl);
        let group = &mut self.groups[index];
        if group.is_over || group.pending > 0 || !group.batch.is_empty() {
            return;
        }
        while group.clean < group.lossy {
            let middle = usize::midpoint(group.clean, group.lossy);
            let ttl = group.stops[middle];
            let sample = group.samples.get(&ttl).copied().unwrap_or_default();
            let (low, _) = sample.interval();
            let (_, high) = sample.interval_at(SURE);
            if sample.sent > 0 && sample.interval_at(SURE).0 > group.whole.interval_at(SURE).1 {
                // More than the whole path loses: it limits its answers.
                group.stops.remove(middle);
                group.lossy -= 1;
            } else if sample.sent > 0 && high < group.whole.ratio() / 2.0 {
                group.clean = middle + 1;
            } else if sample.sent > 0 && low > group.whole.ratio() / 3.0 {
                group.lossy = middle;
            } else if sample.sent >= MOST_PROBES {
                group.is_over = true;
                return;
            } else {
                group.batch = vec![ttl; BATCH as usize];
                return;
            }
        }
        let far = group.stops[group.lossy];
        let near = group.lossy.checked_sub(1).map(|near| group.stops[near]);
        // Between routers that do not answer it cannot be told on which link loss begins.
        let is_next = far == near.map_or(first_ttl, |near| near + 1);
        let is_last = group.lossy + 1 == group.stops.len();
        if skips_target && is_last || !is_next {
            group.is_over = true;
            return;
        }
        let of = |ttl: u8| group.samples.get(&ttl).copied().unwrap_or_default();
        // Nothing is lost before the source.
        let before = near.map_or(
            Sample {
                sent: MOST_PROBES,
                lost: 0,
            },
            of,
        );
        let after = of(far);
        if chance(before, after) <= level {
            group.is_over = true;
            let visit = |ttl: u8| {
                let index = ttl.checked_sub(self.first_ttl).map(usize::from);
                index
                    .and_then(|index| group.visits.get(index))
                    .and_then(|visit| visit.address())
            };
            let (ttl, sample) = (far, after);
            let (from, to) = (far.checked_sub(1).and_then(visit), visit(far));
            let is_same = |known: &LossBegins| (known.ttl, known.from, known.to) == (ttl, from, to);
            if !self.found.iter().any(is_same) {
                self.found.push(LossBegins {
                    ttl,
                    from,
                    to,
                    sample,
                });
            }
        } else if before.sent.min(after.sent) >= MOST_PROBES {
            group.is_over = true;
        } else {
            group.batch = vec![far; BATCH as usize];
            group
                .batch
                .extend(near.map(|near| vec![near; BATCH as usize]).unwrap_or_default());
        }
    }
}

/// How likely so much more is lost after a link than before it, if nothing is lost on it: Fisher's
/// exact test, one-sided.
fn chance(before: Sample, after: Sample) -> f64 {
    if before.sent == 0 || after.sent == 0 {
        return 1.0;
    }
    let lost = before.lost + after.lost;
    let all = ln_choose(before.sent + after.sent, lost);
    let most = lost.min(after.sent);
    let probability = |count: u32| {
        if lost - count > before.sent {
            return 0.0;
        }
        (ln_choose(after.sent, count) + ln_choose(before.sent, lost - count) - all).exp()
    };
    (after.lost..=most).map(probability).sum()
}

fn ln_choose(n: u32, k: u32) -> f64 {
    let ln_factorial = |n: u32| (2..=n).map(|factor| f64::from(factor).ln()).sum::<f64>();
    ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k.min(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_wilsons() {
        let (low, high) = Sample { sent: 10, lost: 1 }.interval();
        assert!(
            (low - 0.0179).abs() < 1e-4 && (high - 0.4042).abs() < 1e-4,
            "{low} {high}"
        );
        let (low, high) = Sample { sent: 20, lost: 0 }.interval();
        assert!(low.abs() < 1e-12 && (high - 0.1611).abs() < 1e-4, "{low} {high}");
        assert_eq!(Sample::default().interval(), (0.0, 1.0));
    }

    /// The tea tasting of Fisher (1935): all four recognised of four, by chance one in seventy.
    #[test]
    fn chance_is_fishers() {
        let (before, after) = (Sample { sent: 4, lost: 0 }, Sample { sent: 4, lost: 4 });
        assert!((chance(before, after) - 1.0 / 70.0).abs() < 1e-12);
        assert!((chance(after, before) - 1.0).abs() < 1e-12);
    }

    fn node(n: u8) -> Visit {
        Visit::Node(IpAddr::from([10, 0, 0, n]))
    }

    /// Two ways of five hops; on the second one `ratio` is lost from a TTL on. What is found, and
    /// the most probes that one TTL has got.
    fn locate(ratio: f64, from: u8, seed: u64) -> (Vec<LossBegins>, u32) {
        let ways = [[1, 2, 3, 4, 5], [1, 12, 13, 4, 5]].map(|way| way.map(node).to_vec());
        let mut state = seed;
        let mut is_lost = |flow: u32, ttl: u8| {
            // Knuth's MMIX generator.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            flow % 2 == 1 && ttl >= from && ((state >> 33) as f64) < ratio * f64::from(1_u32 << 31)
        };
        let flows: Vec<(Vec<Visit>, Sample)> = (0..10)
            .map(|flow| {
                let lost = (0..20).filter(|_| is_lost(flow, 30)).count() as u32;
                (ways[flow as usize % 2].clone(), Sample { sent: 20, lost })
            })
            .collect();
        let mut locator = Locator::new(1, &flows, 8, (false, |_| true));
        let mut sent = BTreeMap::new();
        while let Some(ask) = locator.next_probe() {
            *sent.entry(ask.ttl).or_insert(0) += 1;
            let is_answered = !is_lost(ask.flow, ask.ttl);
            locator.settled(ask, is_answered);
        }
        (locator.found().to_vec(), sent.into_values().max().unwrap_or(0))
    }

    #[test]
    fn loss_is_found_where_it_begins_and_nowhere_else() {
        for seed in 0..500 {
            for (from, ends) in [
                (1, (None, 1)),
                (2, (Some(1), 12)),
                (3, (Some(12), 13)),
                (5, (Some(4), 5)),
            ] {
                let (found, most) = locate(0.3, from, seed);
                let address = |n| IpAddr::from([10, 0, 0, n]);
                let links: Vec<_> = found.iter().map(|link| (link.ttl, link.from, link.to)).collect();
                assert_eq!(
                    links,
                    [(from, ends.0.map(address), Some(address(ends.1)))],
                    "seed {seed}"
                );
                assert!(most <= MOST_PROBES + BATCH);
            }
            assert_eq!(locate(0.0, 1, seed), (Vec::new(), 0));
        }
    }
}
