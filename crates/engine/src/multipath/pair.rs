//! Two hops that follow each other, as the flows seen at both show them.

use super::discovery::{Hop, Place};

/// Who is at the nearer of the two hops.
#[derive(Debug, Clone, Copy)]
pub(super) enum Before<'h> {
    /// All flows come from one place: the source, a hop with just one node, one that is silent
    /// altogether, or one where packets of a flow go separate ways.
    One,
    /// Its nodes.
    Hop(&'h Hop),
}

/// A node of the nearer hop with what is known of its next hops.
#[derive(Debug, Clone, Default)]
pub(super) struct Passed {
    /// Flows that were seen there.
    pub reach: u32,
    /// Flows of those that were answered one hop further.
    pub answered: u32,
    /// Flows of those that are being asked there.
    pub pending: u32,
    /// Flows of those that stayed silent there.
    pub silent: u32,
    /// Flows of those that have not been asked there.
    pub available: Vec<u32>,
    /// Its next hops, by their number in the further hop.
    pub next: Vec<bool>,
    /// It is not a node, but the flows whose node is silent.
    pub is_unnamed: bool,
}

impl Passed {
    pub(super) fn next_hops(&self) -> usize {
        self.next.iter().filter(|is_next| **is_next).count()
    }

    /// Nobody answers beyond it, or so few that asking on is futile.
    pub(super) fn is_futile(&self, point: u32) -> bool {
        self.answered + self.pending == 0 && self.silent >= 2 || self.silent > point
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pair {
    /// By the number of the node in the nearer hop; the last one are the silent ones. One, if all
    /// flows come from one place.
    pub passed: Vec<Passed>,
    /// Flows that are being asked at the nearer hop.
    pub pending_before: u32,
    /// Flows answered at the nearer hop, also by the destination.
    pub known_before: u32,
    pub is_from_one: bool,
}

impl Pair {
    /// `is_passing`: whether a flow gets as far as the further hop.
    pub(super) fn new(before: Before<'_>, after: &Hop, flows: u32, is_passing: impl Fn(u32) -> bool) -> Self {
        let count = match before {
            Before::One => 1,
            Before::Hop(hop) => hop.nodes.len() + 1,
        };
        let mut pair = Pair {
            passed: vec![Passed::default(); count],
            pending_before: 0,
            known_before: 0,
            is_from_one: matches!(before, Before::One),
        };
        for passed in &mut pair.passed {
            passed.next = vec![false; after.nodes.len()];
        }
        if let (Before::Hop(_), Some(last)) = (before, pair.passed.last_mut()) {
            last.is_unnamed = true;
        }
        for flow in 0..flows {
            let from = match before {
                Before::One => Some(0),
                Before::Hop(hop) => match hop.place(flow) {
                    Place::Node(node) => Some(usize::from(node)),
                    Place::Silent => Some(hop.nodes.len()),
                    Place::Pending => {
                        pair.pending_before += 1;
                        None
                    }
                    Place::Unasked => None,
                },
            };
            let Some(from) = from else { continue };
            pair.known_before += 1;
            if is_passing(flow) {
                pair.count(from, flow, after);
            }
        }
        pair
    }

    fn count(&mut self, from: usize, flow: u32, after: &Hop) {
        let Some(passed) = self.passed.get_mut(from) else {
            return;
        };
        passed.reach += 1;
        match after.place(flow) {
            Place::Unasked => passed.available.push(flow),
            Place::Pending => passed.pending += 1,
            Place::Silent => passed.silent += 1,
            Place::Node(node) => {
                passed.answered += 1;
                if let Some(is_next) = passed.next.get_mut(usize::from(node)) {
                    *is_next = true;
                }
            }
        }
    }

    /// How many nodes of the nearer hop lead to this one.
    pub(super) fn previous_hops(&self, node: usize) -> usize {
        let leads = |passed: &&Passed| passed.next.get(node) == Some(&true);
        self.passed.iter().filter(leads).count()
    }

    /// A node with several next hops leads to one with several previous ones.
    pub(super) fn is_meshed(&self) -> bool {
        let mut wide = self.passed.iter().filter(|passed| passed.next_hops() > 1);
        wide.any(|passed| {
            let next = passed.next.iter().enumerate().filter(|(_, is_next)| **is_next);
            next.into_iter().any(|(node, _)| self.previous_hops(node) > 1)
        })
    }

    /// Its nodes have different numbers of next hops, or for some of them the path ends.
    pub(super) fn is_asymmetric(&self) -> bool {
        let ends = self.known_before > self.passed.iter().map(|passed| passed.reach).sum();
        let seen = self.passed.iter().filter(|passed| passed.answered > 0);
        let mut widths = seen.map(Passed::next_hops);
        let first = widths.next();
        let is_wide = self.passed.iter().filter(|passed| passed.reach > 0).count() > 1;
        is_wide && ends || widths.any(|width| Some(width) != first)
    }
}
