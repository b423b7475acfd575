//! What to ask next, from who answered on which flow at which TTL. See [`multipath`](super).

use std::net::IpAddr;

use super::graph::{Balancing, Bound, Graph, GraphHop, GraphNode, Link, Visit};
use super::pair::{Before, Pair, Passed};
use super::stopping::StoppingPoints;

/// So many TTLs are asked at once while it is not known how far away the destination is.
pub const LOOK_AHEAD: usize = 3;
/// How often a flow is repeated where a mesh is seen: per-packet balancing between two would stay
/// unnoticed once in 2²⁵.
const REPEATS_ON_MESH: u32 = 25;
/// So many times as often as usual a flow is repeated at most, to tell a change of the path.
const MOST_REPEATS: u32 = 8;
/// Of the flows that would be expected to suffice, this share is sent before looking again.
const CAUTION: f64 = 0.6;
/// How many flows' worth the assumption has that all nodes of a hop get the same share.
const PRIOR: f64 = 10.0;

/// How complete the nodes of a hop must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// On the mean, unless the hop is meshed or asymmetric.
    Shared,
    /// Each of them, as in the MDA.
    Each,
}

/// What a discovery goes by.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// How likely the next hops of a node shall be complete, 0.5 to 0.999999.
    pub confidence: f64,
    /// First TTL asked, in hops, at least 1.
    pub first_ttl: u8,
    /// Last TTL asked, in hops.
    pub max_ttl: u8,
    /// So many silent TTLs in a row are the end; 0: none are.
    pub gap_limit: u8,
    /// Flows at most.
    pub max_flows: u32,
    /// How complete the nodes of a hop must be.
    pub control: Control,
}

/// A question: who answers a probe of this flow with this TTL. Asked again for a flow whose node is
/// known, it is whether that is still so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// The flow, from 0. A number that was not there before is a new flow.
    pub flow: u32,
    /// TTL, in hops.
    pub ttl: u8,
}

/// Who answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Its address.
    pub address: IpAddr,
    /// The flow does not go on: it is the destination, or refuses to forward.
    pub ends: bool,
}

/// Where a flow is at a hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Unasked,
    Pending,
    Silent,
    Node(u16),
}

/// A flow that is repeated, to see whether it stays.
#[derive(Debug)]
struct Repeated {
    /// The node before, whose balancing is in question; `None`: all flows come from one place.
    of: Option<usize>,
    flow: u32,
    /// The nodes, in the order of the answers.
    history: Vec<u16>,
    asked: u32,
    pending: u32,
    is_over: bool,
}

impl Repeated {
    fn new(of: Option<usize>, flow: u32, history: Vec<u16>) -> Self {
        Repeated {
            of,
            flow,
            history,
            asked: 0,
            pending: 0,
            is_over: false,
        }
    }

    fn switches(&self) -> usize {
        self.history.windows(2).filter(|pair| pair[0] != pair[1]).count()
    }

    /// How many of the latest answers were by the same node.
    fn run(&self) -> u32 {
        let last = self.history.last();
        let same = self.history.iter().rev().take_while(|node| Some(*node) == last);
        same.count() as u32
    }
}

/// One TTL.
#[derive(Debug, Default)]
pub(super) struct Hop {
    /// By flow.
    places: Vec<Place>,
    pub nodes: Vec<Seen>,
    silent: u32,
    /// Flows that stayed silent though somebody answers here, and were asked once more.
    asked_again: Vec<u32>,
    per_packet: bool,
    repeated: Vec<Repeated>,
    /// Flows that are asked again in the end.
    checking: Vec<u32>,
}

impl Hop {
    pub(super) fn place(&self, flow: u32) -> Place {
        self.places.get(flow as usize).copied().unwrap_or(Place::Unasked)
    }

    fn set(&mut self, flow: u32, place: Place) {
        let index = flow as usize;
        if self.places.len() <= index {
            self.places.resize(index + 1, Place::Unasked);
        }
        self.places[index] = place;
    }

    /// Nobody answers here, whatever the flow.
    fn is_dark(&self, enough: u32) -> bool {
        self.nodes.is_empty() && self.silent >= enough
    }

    fn node(&mut self, seen: Seen) -> u16 {
        let known = self.nodes.iter().position(|node| node.address == seen.address);
        let index = known.unwrap_or_else(|| {
            self.nodes.push(seen);
            self.nodes.len() - 1
        });
        index as u16
    }
}

/// See the module.
#[derive(Debug)]
pub struct Discovery {
    rules: Rules,
    points: StoppingPoints,
    /// So many flows show that a node has one next hop, or that nobody answers at a hop.
    enough: u32,
    hops: Vec<Hop>,
    /// By flow: the TTL where it ends, if that is known.
    ends: Vec<u8>,
    outstanding: u32,
    is_checked: bool,
    path_changed: bool,
}

/// Stands for the node before that of a flow which is repeated because it has moved.
const CHECKED: usize = usize::MAX;
/// The same for one whose packets go separate ways further on.
const VERIFIED: usize = usize::MAX - 1;
/// A flow that has not ended yet.
const GOES_ON: u8 = u8::MAX;

impl Discovery {
    /// Nothing is known yet.
    pub fn new(rules: Rules) -> Self {
        let mut points = StoppingPoints::new(rules.confidence);
        Discovery {
            enough: points.point(1),
            points,
            rules,
            hops: Vec::new(),
            ends: Vec::new(),
            outstanding: 0,
            is_checked: false,
            path_changed: false,
        }
    }

    /// Adds what is to be asked by what is known now. Each question must be followed by just one
    /// [`Discovery::answered`] or [`Discovery::silent`]. When nothing is added and all questions
    /// have been settled, the discovery is over.
    pub fn plan(&mut self, asks: &mut Vec<Ask>) {
        if self.path_changed && self.is_checked {
            return;
        }
        let before = asks.len();
        self.sweep(asks);
        let extent = self.extent();
        let last = extent.saturating_add(1).min(self.rules.max_ttl);
        // What is found out about a hop may matter for the one before.
        let mut moving = None;
        while moving != Some(self.moving_hops()) {
            moving = Some(self.moving_hops());
            for ttl in self.rules.first_ttl..=last {
                self.complete(ttl, extent, asks);
            }
        }
        if asks.len() == before && self.outstanding == 0 {
            self.ask_silent_again(asks);
        }
        if asks.len() == before && self.outstanding == 0 && !self.is_checked {
            self.is_checked = true;
            self.check(asks);
        }
    }

    /// Where others are answered, silence may be loss. Each such flow is asked once more, when all
    /// else is known.
    fn ask_silent_again(&mut self, asks: &mut Vec<Ask>) {
        let flows = 0..self.flows();
        for (hop, ttl) in self.hops.iter_mut().zip(self.rules.first_ttl..) {
            let is_doubtful =
                |flow: &u32| hop.place(*flow) == Place::Silent && !hop.asked_again.contains(flow);
            if hop.nodes.is_empty() {
                continue;
            }
            let doubtful: Vec<u32> = flows.clone().filter(is_doubtful).collect();
            for flow in &doubtful {
                hop.set(*flow, Place::Pending);
                asks.push(Ask { flow: *flow, ttl });
            }
            hop.silent -= doubtful.len() as u32;
            self.outstanding += doubtful.len() as u32;
            hop.asked_again.extend(doubtful);
        }
    }

    /// How many hops are known where packets of a flow go separate ways.
    fn moving_hops(&self) -> usize {
        self.hops.iter().filter(|hop| hop.per_packet).count()
    }

    /// A question was answered.
    pub fn answered(&mut self, ask: Ask, seen: Seen) {
        self.outstanding = self.outstanding.saturating_sub(1);
        let Some(hop) = self.hop_mut(ask.ttl) else { return };
        let place = hop.place(ask.flow);
        let node = hop.node(seen);
        if let Place::Node(known) = place {
            self.repeated(ask, known, node);
            return;
        }
        hop.set(ask.flow, Place::Node(node));
        if seen.ends
            && let Some(end) = self.ends.get_mut(ask.flow as usize)
        {
            *end = ask.ttl.min(*end);
        }
    }

    /// Nobody has answered a question, however often it was asked.
    pub fn silent(&mut self, ask: Ask) {
        self.outstanding = self.outstanding.saturating_sub(1);
        let Some(hop) = self.hop_mut(ask.ttl) else { return };
        if hop.place(ask.flow) == Place::Pending {
            hop.set(ask.flow, Place::Silent);
            hop.silent += 1;
            return;
        }
        if let Some(repeated) = find_repeated(hop, ask.flow) {
            repeated.pending -= 1;
        }
    }

    /// Whether a question is asked once more because it stayed silent.
    pub fn is_again(&self, ask: Ask) -> bool {
        let hop = self.hop(ask.ttl);
        hop.is_some_and(|hop| hop.place(ask.flow) == Place::Pending && hop.asked_again.contains(&ask.flow))
    }

    /// Questions that are not settled yet.
    pub fn outstanding(&self) -> u32 {
        self.outstanding
    }

    /// Flows that were asked for.
    pub fn flows(&self) -> u32 {
        self.ends.len() as u32
    }

    /// No further flow can be had.
    pub fn no_more_flows(&mut self) {
        self.rules.max_flows = self.flows();
    }

    /// A flow has moved to other nodes, so there is no bound any more.
    pub fn path_changed(&self) -> bool {
        self.path_changed
    }

    fn index(&self, ttl: u8) -> Option<usize> {
        ttl.checked_sub(self.rules.first_ttl).map(usize::from)
    }

    fn hop(&self, ttl: u8) -> Option<&Hop> {
        self.hops.get(self.index(ttl)?)
    }

    fn hop_mut(&mut self, ttl: u8) -> Option<&mut Hop> {
        let index = self.index(ttl)?;
        if ttl > self.rules.max_ttl {
            return None;
        }
        if self.hops.len() <= index {
            self.hops.resize_with(index + 1, Hop::default);
        }
        self.hops.get_mut(index)
    }

    fn place(&self, flow: u32, ttl: u8) -> Place {
        self.hop(ttl).map_or(Place::Unasked, |hop| hop.place(flow))
    }

    fn end(&self, flow: u32) -> u8 {
        self.ends.get(flow as usize).copied().unwrap_or(GOES_ON)
    }

    /// Whether a flow gets as far as this TTL, for all that is known.
    fn reaches(&self, flow: u32, ttl: u8) -> bool {
        ttl <= self.end(flow)
    }

    fn ask(&mut self, flow: u32, ttl: u8, asks: &mut Vec<Ask>) {
        if flow >= self.rules.max_flows {
            return;
        }
        while self.ends.len() <= flow as usize {
            self.ends.push(GOES_ON);
        }
        let Some(hop) = self.hop_mut(ttl) else { return };
        if hop.place(flow) == Place::Unasked {
            hop.set(flow, Place::Pending);
        }
        self.outstanding += 1;
        asks.push(Ask { flow, ttl });
    }

    /// The highest TTL at which a flow was seen.
    fn extent(&self) -> u8 {
        let is_seen = |ttl: u8, hop: &Hop| {
            (0..self.flows()).any(|flow| {
                let before = ttl
                    .checked_sub(1)
                    .map_or(Place::Unasked, |ttl| self.place(flow, ttl));
                // An end may be nearer as long as that is being asked.
                let is_sure = self.end(flow) != ttl || before != Place::Pending;
                matches!(hop.place(flow), Place::Node(_)) && self.reaches(flow, ttl) && is_sure
            })
        };
        let hops = self.hops.iter().zip(self.rules.first_ttl..);
        let seen = hops.filter(|(hop, ttl)| is_seen(*ttl, hop)).last();
        seen.map_or(self.rules.first_ttl - 1, |(_, ttl)| ttl)
    }

    /// Follows one flow: the first one, or when that has ended the first that goes on.
    fn sweep(&mut self, asks: &mut Vec<Ask>) {
        let extent = self.extent();
        let goes_on =
            |flow: &u32| self.end(*flow) == GOES_ON && matches!(self.place(*flow, extent), Place::Node(_));
        let flow = if self.end(0) == GOES_ON {
            0
        } else {
            match (0..self.flows()).find(goes_on) {
                Some(flow) => flow,
                None => return,
            }
        };
        let (mut pending, mut gap) = (0, 0);
        for ttl in self.rules.first_ttl..=self.rules.max_ttl {
            match self.place(flow, ttl) {
                Place::Node(_) => gap = 0,
                Place::Silent => gap += 1,
                Place::Pending => pending += 1,
                Place::Unasked if ttl <= extent => {}
                Place::Unasked => {
                    let is_gap = self.rules.gap_limit > 0 && gap >= self.rules.gap_limit;
                    if pending >= LOOK_AHEAD || is_gap {
                        return;
                    }
                    pending += 1;
                    self.ask(flow, ttl, asks);
                }
            }
        }
    }

    /// The hop before `ttl`; `None`: the source, or it tells nothing of who is at it.
    fn hop_before(&self, ttl: u8) -> Option<&Hop> {
        let hop = self.hop(ttl.checked_sub(1)?);
        hop.filter(|hop| ttl > self.rules.first_ttl && !hop.per_packet && !hop.is_dark(self.enough))
    }

    /// What the hop before `ttl` is.
    fn before(&self, ttl: u8) -> Before<'_> {
        match self.hop_before(ttl) {
            Some(hop) if !self.has_one_node(ttl - 1, hop) => Before::Hop(hop),
            _ => Before::One,
        }
    }

    /// Whether a hop has just one node, as far as so many flows as that takes can tell.
    fn has_one_node(&self, ttl: u8, hop: &Hop) -> bool {
        let mut first = None;
        let mut same = 0;
        for flow in (0..self.flows()).filter(|flow| self.reaches(*flow, ttl)) {
            if let Place::Node(node) = hop.place(flow) {
                if *first.get_or_insert(node) != node {
                    return false;
                }
                same += 1;
            }
        }
        hop.silent == 0 && same >= self.enough
    }

    fn pair(&self, ttl: u8) -> Option<Pair> {
        let after = self.hop(ttl)?;
        let reaches = |flow| self.reaches(flow, ttl);
        Some(Pair::new(self.before(ttl), after, self.flows(), reaches))
    }

    /// Asks what the nodes before `ttl` need for their next hops to be complete.
    fn complete(&mut self, ttl: u8, extent: u8, asks: &mut Vec<Ask>) {
        if self.hop(ttl).is_some_and(|hop| hop.is_dark(self.enough)) {
            return;
        }
        if self.hop_mut(ttl).is_none_or(|hop| hop.nodes.is_empty()) {
            self.look_for_answers(ttl, extent, asks);
            return;
        }
        if ttl > extent {
            return;
        }
        for flow in 0..self.enough {
            if self.place(flow, ttl) == Place::Unasked && self.reaches(flow, ttl) {
                self.ask(flow, ttl, asks);
            }
        }
        let Some(pair) = self.pair(ttl) else { return };
        self.find_previous(ttl, asks);
        if pair.is_from_one {
            self.complete_one(ttl, &pair, asks);
        } else if self.is_node_controlled(&pair) {
            self.complete_each(ttl, &pair, asks);
        } else {
            self.complete_together(ttl, &pair, asks);
        }
        self.repeat(ttl, asks);
    }

    fn is_node_controlled(&self, pair: &Pair) -> bool {
        self.rules.control == Control::Each || pair.is_meshed() || pair.is_asymmetric()
    }

    /// Nobody has answered at `ttl` yet. When the first flow stays silent there, others are asked.
    fn look_for_answers(&mut self, ttl: u8, extent: u8, asks: &mut Vec<Ask>) {
        let is_pending = |flow: u32| self.place(flow, ttl) == Place::Pending;
        if (0..self.flows()).any(is_pending) {
            return;
        }
        let silent = self.hop(ttl).map_or(0, |hop| hop.silent);
        let wanted = if silent == 0 {
            1
        } else {
            self.enough.saturating_sub(silent)
        };
        // Beyond all answers only flows that are known to get there.
        let is_beyond = ttl > extent;
        let may_answer = |flow: &u32| {
            let is_known = matches!(self.place(*flow, ttl - 1), Place::Node(_));
            self.place(*flow, ttl) == Place::Unasked && self.reaches(*flow, ttl) && (is_known || !is_beyond)
        };
        let fresh = self.flows()..if is_beyond { 0 } else { self.rules.max_flows };
        let flows: Vec<u32> = (0..self.flows())
            .filter(may_answer)
            .chain(fresh)
            .take(wanted as usize)
            .collect();
        for flow in flows {
            self.ask(flow, ttl, asks);
        }
    }

    /// A node that no known one leads to was met by flows that were not asked before it.
    fn find_previous(&mut self, ttl: u8, asks: &mut Vec<Ask>) {
        if self.hop_before(ttl).is_none() {
            return;
        }
        let count = self.hop(ttl).map_or(0, |hop| hop.nodes.len());
        for node in 0..count {
            let is_there = |flow: &u32| self.place(*flow, ttl) == Place::Node(node as u16);
            let mut unasked = None;
            let mut is_found = false;
            for flow in (0..self.flows()).filter(|flow| is_there(flow) && self.reaches(*flow, ttl)) {
                match self.place(flow, ttl - 1) {
                    Place::Unasked => unasked = unasked.or(Some(flow)),
                    Place::Pending | Place::Node(_) => is_found = true,
                    Place::Silent => {}
                }
            }
            if let Some(flow) = unasked.filter(|_| !is_found) {
                self.ask(flow, ttl - 1, asks);
            }
        }
    }

    /// All flows come from one place.
    fn complete_one(&mut self, ttl: u8, pair: &Pair, asks: &mut Vec<Ask>) {
        let Some(passed) = pair.passed.first() else { return };
        let point = self.points.point(passed.next_hops());
        if passed.is_futile(point) {
            return;
        }
        let open = point.saturating_sub(passed.answered + passed.pending);
        let fresh = self.flows()..self.rules.max_flows;
        for flow in passed.available.iter().copied().chain(fresh).take(open as usize) {
            self.ask(flow, ttl, asks);
        }
    }

    /// Node control.
    fn complete_each(&mut self, ttl: u8, pair: &Pair, asks: &mut Vec<Ask>) {
        let mut wanted = vec![false; pair.passed.len()];
        let mut most: f64 = 0.0;
        for (index, passed) in pair.passed.iter().enumerate() {
            let point = self.points.point(passed.next_hops());
            let open = self.ask_available(ttl, (passed, passed.answered), point, asks);
            if open > 0 && !passed.is_unnamed && !passed.is_futile(point) && passed.reach > 0 {
                wanted[index] = true;
                most = most.max(f64::from(open) / share(passed, pair));
            }
        }
        if most > 0.0 {
            self.send_more(ttl - 1, &wanted, most, asks);
        }
    }

    /// Asks flows of a node at `ttl` until `point` were; how many more would be needed.
    fn ask_available(
        &mut self,
        ttl: u8,
        (passed, answered): (&Passed, u32),
        point: u32,
        asks: &mut Vec<Ask>,
    ) -> u32 {
        if passed.is_futile(point) {
            return 0;
        }
        let mut open = point.saturating_sub(answered + passed.pending);
        for flow in &passed.available {
            if open == 0 {
                break;
            }
            // It may have been asked just before.
            if self.place(*flow, ttl) == Place::Unasked {
                self.ask(*flow, ttl, asks);
            }
            open -= 1;
        }
        open
    }

    /// The nodes share what may be missed.
    fn complete_together(&mut self, ttl: u8, pair: &Pair, asks: &mut Vec<Ask>) {
        let mut shared: Vec<Sharing> = Vec::new();
        for (index, passed) in pair.passed.iter().enumerate() {
            let seen = passed.next_hops();
            let point = self.points.point(seen);
            if passed.reach == 0 || passed.is_futile(point) {
                continue;
            }
            if passed.is_unnamed {
                self.ask_available(ttl, (passed, passed.answered), point, asks);
                continue;
            }
            let waiting = |flow: &&u32| self.place(**flow, ttl) == Place::Unasked;
            let available: Vec<u32> = passed.available.iter().filter(waiting).copied().collect();
            let asked = passed.available.len() - available.len();
            shared.push(Sharing {
                node: index,
                seen,
                flows: passed.answered + passed.pending + asked as u32,
                available,
                share: share(passed, pair),
            });
        }
        let budget = self.points.allowed() * shared.len() as f64;
        let suffices = self.expected(&shared, 0) <= budget;
        while self.sum(&shared) > budget {
            let points = &mut self.points;
            let mut gain = |sharing: &Sharing| {
                let Sharing { seen, flows, .. } = *sharing;
                let is_useful = suffices || flows < points.point(seen);
                let gain = points.weight(seen, flows) - points.weight(seen, flows + 1);
                if sharing.available.is_empty() || !is_useful {
                    0.0
                } else {
                    gain
                }
            };
            let gains = shared.iter_mut().map(|sharing| (gain(sharing), sharing));
            let best = gains.max_by(|one, other| one.0.total_cmp(&other.0));
            let Some((_, sharing)) = best.filter(|(gain, _)| *gain > 0.0) else {
                break;
            };
            let flow = sharing.available.remove(0);
            sharing.flows += 1;
            self.ask(flow, ttl, asks);
        }
        if !suffices {
            let mut wanted = vec![false; pair.passed.len()];
            for sharing in &shared {
                wanted[sharing.node] = true;
            }
            let more = self.needed(&shared, budget);
            self.send_more(ttl - 1, &wanted, more, asks);
        }
    }

    fn sum(&mut self, shared: &[Sharing]) -> f64 {
        let points = &mut self.points;
        let weights = shared
            .iter()
            .map(|sharing| points.weight(sharing.seen, sharing.flows));
        weights.sum()
    }

    /// The sum of doubts to expect when all available flows are asked, and so many more.
    fn expected(&mut self, shared: &[Sharing], more: u32) -> f64 {
        let points = &mut self.points;
        let weights = shared.iter().map(|sharing| {
            let flows = sharing.flows + sharing.available.len() as u32;
            points.expected_weight(sharing.seen, flows, (more, sharing.share))
        });
        weights.sum()
    }

    /// How many more flows would be expected to suffice.
    fn needed(&mut self, shared: &[Sharing], budget: f64) -> f64 {
        let mut most = 1;
        while self.expected(shared, most) > budget && most < self.rules.max_flows {
            most *= 2;
        }
        let mut least = most / 2;
        while most - least > 1 {
            let middle = least.midpoint(most);
            if self.expected(shared, middle) > budget {
                least = middle;
            } else {
                most = middle;
            }
        }
        f64::from(most)
    }

    /// Sends more flows to the hop at `ttl`, so that the wanted ones of its nodes get some. First
    /// those whose next node is known already.
    fn send_more(&mut self, ttl: u8, wanted: &[bool], expected: f64, asks: &mut Vec<Ask>) {
        let target = (expected * CAUTION).ceil().max(1.0) as u32;
        let pending = (0..self.flows()).filter(|flow| self.place(*flow, ttl) == Place::Pending);
        let mut open = target.saturating_sub(pending.count() as u32);
        if open == 0 {
            return;
        }
        let leads = self.leading(ttl, wanted);
        let mut candidates: Vec<(bool, u32)> = Vec::new();
        for flow in 0..self.flows() {
            let is_free = self.place(flow, ttl) == Place::Unasked && self.reaches(flow, ttl + 1);
            let may_lead = match (&leads, self.place(flow, ttl.saturating_sub(1))) {
                (Some(leads), Place::Node(node)) => leads.get(usize::from(node)) == Some(&true),
                _ => true,
            };
            if is_free && may_lead {
                let is_known_beyond = matches!(self.place(flow, ttl + 1), Place::Node(_));
                candidates.push((!is_known_beyond, flow));
            }
        }
        candidates.sort_unstable();
        let fresh = self.flows()..self.rules.max_flows;
        for flow in candidates.into_iter().map(|(_, flow)| flow).chain(fresh) {
            if open == 0 {
                break;
            }
            self.ask(flow, ttl, asks);
            open -= 1;
        }
    }

    /// Which nodes before `ttl` lead to a wanted one; `None`: all flows may.
    fn leading(&self, ttl: u8, wanted: &[bool]) -> Option<Vec<bool>> {
        if ttl < self.rules.first_ttl {
            return None;
        }
        let before = self.pair(ttl)?;
        if before.is_from_one {
            return None;
        }
        let leads = |passed: &Passed| {
            let mut next = passed.next.iter().zip(wanted);
            next.any(|(is_next, is_wanted)| *is_next && *is_wanted)
        };
        Some(before.passed.iter().map(leads).collect())
    }

    /// Repeats a flow of each node before `ttl` that has several next hops there.
    fn repeat(&mut self, ttl: u8, asks: &mut Vec<Ask>) {
        let Some(pair) = self.pair(ttl) else { return };
        let is_meshed = self
            .pair(ttl.saturating_add(1))
            .is_some_and(|beyond| beyond.is_meshed());
        self.verify(ttl, asks);
        let usual = self.enough - 1;
        let default = Passed::default();
        for index in (0..pair.passed.len()).chain([CHECKED, VERIFIED]) {
            let passed = pair.passed.get(index).unwrap_or(&default);
            let of = (index >= VERIFIED || !pair.is_from_one).then_some(index);
            let is_repeated = |hop: &Hop| hop.repeated.iter().any(|repeated| repeated.of == of);
            let Some(hop) = self.hop(ttl).filter(|hop| !hop.per_packet) else {
                return;
            };
            if !is_repeated(hop) {
                if passed.next_hops() < 2 || passed.is_unnamed {
                    continue;
                }
                let Some((flow, node)) = self.flow_of(ttl, of) else {
                    continue;
                };
                if let Some(hop) = self.hop_mut(ttl) {
                    hop.repeated.push(Repeated::new(of, flow, vec![node]));
                }
            }
            let more = self.hop_mut(ttl).and_then(|hop| {
                let repeated = hop.repeated.iter_mut().find(|repeated| repeated.of == of)?;
                let is_doubtful = is_meshed || of == Some(VERIFIED);
                let more = match (repeated.switches(), is_doubtful) {
                    (0, true) => REPEATS_ON_MESH.saturating_sub(repeated.asked),
                    (0, false) => usual.saturating_sub(repeated.asked),
                    // One difference may be a change of the path: more will tell, unless nobody answers
                    // any more.
                    (1, _) => (2 * usual)
                        .saturating_sub(repeated.run() + repeated.pending)
                        .min((MOST_REPEATS * usual).saturating_sub(repeated.asked)),
                    _ => 0,
                };
                repeated.asked += more;
                repeated.pending += more;
                let is_settled = more == 0 && repeated.pending == 0 && !repeated.is_over;
                Some((repeated.flow, more, is_settled.then(|| repeated.switches())))
            });
            let Some((flow, more, settled)) = more else {
                continue;
            };
            for _ in 0..more {
                self.ask(flow, ttl, asks);
            }
            self.judge(ttl, of, settled);
        }
    }

    /// Where packets of a flow go separate ways, it must be known whether they do so at the hop
    /// before and at the one after, too: a flow is repeated there.
    fn verify(&mut self, ttl: u8, asks: &mut Vec<Ask>) {
        let beyond = self.hop(ttl.saturating_add(1)).filter(|hop| hop.per_packet);
        let moving = beyond.and_then(|hop| hop.repeated.iter().find(|repeated| repeated.switches() > 0));
        let before = ttl.checked_sub(1).and_then(|before| self.hop(before));
        let is_after_such = before.is_some_and(|hop| hop.per_packet);
        let after_such = is_after_such.then(|| self.flow_of(ttl, None)).flatten();
        let Some(flow) = moving
            .map(|repeated| repeated.flow)
            .or(after_such.map(|(flow, _)| flow))
        else {
            return;
        };
        match self.place(flow, ttl) {
            Place::Unasked => self.ask(flow, ttl, asks),
            Place::Node(node) => {
                if let Some(hop) = self.hop_mut(ttl)
                    && !hop.repeated.iter().any(|repeated| repeated.of == Some(VERIFIED))
                {
                    hop.repeated.push(Repeated::new(Some(VERIFIED), flow, vec![node]));
                }
            }
            Place::Pending | Place::Silent => {}
        }
    }

    /// What a repeated flow has shown: it stays, its packets go separate ways, or it has moved.
    fn judge(&mut self, ttl: u8, of: Option<usize>, switches: Option<usize>) {
        let before = ttl.checked_sub(1).and_then(|before| self.hop(before));
        let is_after_such = before.is_some_and(|hop| hop.per_packet);
        let (Some(switches), Some(hop)) = (switches, self.hop_mut(ttl)) else {
            return;
        };
        let is_moving = switches > usize::from(!is_after_such);
        hop.per_packet |= is_moving;
        if let Some(repeated) = hop.repeated.iter_mut().find(|repeated| repeated.of == of) {
            // On a mesh it is repeated again.
            repeated.is_over = switches > 0 || repeated.asked >= REPEATS_ON_MESH;
        }
        self.path_changed |= switches == 1 && !is_moving;
    }

    /// A flow from this node before `ttl`, and where it is there.
    fn flow_of(&self, ttl: u8, of: Option<usize>) -> Option<(u32, u16)> {
        (0..self.flows()).find_map(|flow| {
            let comes_from = match of {
                Some(node) => self.place(flow, ttl - 1) == Place::Node(node as u16),
                None => true,
            };
            match self.place(flow, ttl) {
                Place::Node(node) if comes_from && self.reaches(flow, ttl) => Some((flow, node)),
                _ => None,
            }
        })
    }

    /// A flow whose node was `known` was answered by `node`.
    fn repeated(&mut self, ask: Ask, known: u16, node: u16) {
        let Some(hop) = self.hop_mut(ask.ttl) else { return };
        if let Some(repeated) = find_repeated(hop, ask.flow) {
            repeated.pending -= 1;
            repeated.history.push(node);
        } else if hop.checking.contains(&ask.flow) && node != known {
            hop.checking.clear();
            hop.repeated
                .push(Repeated::new(Some(CHECKED), ask.flow, vec![known, node]));
        }
    }

    /// Follows the first flow again, and at hops with several nodes some others.
    fn check(&mut self, asks: &mut Vec<Ask>) {
        for ttl in self.rules.first_ttl..=self.extent() {
            let Some(hop) = self.hop(ttl).filter(|hop| !hop.per_packet) else {
                continue;
            };
            let is_there =
                |flow: &u32| matches!(hop.place(*flow), Place::Node(_)) && self.reaches(*flow, ttl);
            let count = if hop.nodes.len() > 1 {
                self.enough as usize
            } else {
                1
            };
            let flows: Vec<u32> = (0..self.flows()).filter(is_there).take(count).collect();
            for flow in &flows {
                self.ask(*flow, ttl, asks);
            }
            if let Some(hop) = self.hop_mut(ttl) {
                hop.checking = flows;
            }
        }
    }

    /// What was found so far.
    pub fn graph(&mut self) -> Graph {
        let extent = self.extent();
        let (mut hops, mut links) = (Vec::new(), Vec::new());
        for ttl in self.rules.first_ttl..=extent {
            hops.push(self.graph_hop(ttl));
            self.links_to(ttl, &mut links);
        }
        let sole: Vec<Visit> = (self.rules.first_ttl..=extent)
            .map(|ttl| self.sole(ttl))
            .collect();
        let flows = (0..self.flows()).map(|flow| self.visits(flow, &sole)).collect();
        Graph {
            hops,
            links,
            flows,
            bound: (!self.path_changed).then(|| self.bound(extent)),
            path_changed: self.path_changed,
        }
    }

    fn graph_hop(&self, ttl: u8) -> GraphHop {
        let Some(hop) = self.hop(ttl) else {
            return GraphHop {
                ttl,
                balancing: Balancing::None,
                nodes: Vec::new(),
            };
        };
        let mut counts = vec![0; hop.nodes.len() + 1];
        for flow in (0..self.flows()).filter(|flow| self.reaches(*flow, ttl)) {
            match hop.place(flow) {
                Place::Node(node) => counts[usize::from(node)] += 1,
                Place::Silent => counts[hop.nodes.len()] += 1,
                Place::Unasked | Place::Pending => {}
            }
        }
        let is_met = |node: usize| {
            let mut repeated = hop.repeated.iter();
            repeated.any(|repeated| repeated.history.contains(&(node as u16)))
        };
        let addresses = hop.nodes.iter().map(|node| (Some(node.address), node.ends));
        let all = addresses.chain([(None, false)]).zip(counts).enumerate();
        let seen = all.filter(|(node, (_, flows))| *flows > 0 || is_met(*node));
        let nodes: Vec<GraphNode> = seen
            .map(|(_, ((address, ends), flows))| GraphNode { address, flows, ends })
            .collect();
        GraphHop {
            ttl,
            balancing: match nodes.len() {
                _ if hop.per_packet => Balancing::PerPacket,
                0 | 1 => Balancing::None,
                _ => Balancing::PerFlow,
            },
            nodes,
        }
    }

    /// Where a flow is at a TTL; where nobody answers, it is not asked.
    fn visit(&self, flow: u32, ttl: u8) -> Visit {
        let Some(hop) = self.hop(ttl) else {
            return Visit::Unknown;
        };
        match hop.place(flow) {
            Place::Node(node) => hop
                .nodes
                .get(usize::from(node))
                .map_or(Visit::Unknown, |node| Visit::Node(node.address)),
            Place::Silent => Visit::Silent,
            Place::Unasked if hop.is_dark(self.enough) => Visit::Silent,
            Place::Unasked | Place::Pending => Visit::Unknown,
        }
    }

    /// Where a flow is at each TTL. At a hop with just one node it need not be asked.
    fn visits(&self, flow: u32, sole: &[Visit]) -> Vec<Visit> {
        let known = (self.rules.first_ttl..=self.end(flow)).zip(sole);
        let visits = known.map(|(ttl, sole)| match self.visit(flow, ttl) {
            Visit::Unknown => *sole,
            visit => visit,
        });
        visits.collect()
    }

    /// The only node at a TTL.
    fn sole(&self, ttl: u8) -> Visit {
        let hop = self
            .hop(ttl)
            .filter(|hop| !hop.per_packet && self.has_one_node(ttl, hop));
        let mut visits = (0..self.flows()).filter(|flow| self.reaches(*flow, ttl) && hop.is_some());
        let node = visits.find_map(|flow| match self.visit(flow, ttl) {
            Visit::Node(address) => Some(Visit::Node(address)),
            Visit::Silent | Visit::Unknown => None,
        });
        node.unwrap_or(Visit::Unknown)
    }

    /// The links by which flows come to `ttl`; none, where packets of a flow go separate ways
    /// before.
    fn links_to(&self, ttl: u8, links: &mut Vec<Link>) {
        let before = ttl.checked_sub(1).and_then(|before| self.hop(before));
        if before.is_some_and(|hop| hop.per_packet) {
            return;
        }
        let first = links.len();
        for flow in (0..self.flows()).filter(|flow| self.reaches(*flow, ttl)) {
            let from = if ttl == self.rules.first_ttl {
                Visit::Silent
            } else {
                self.visit(flow, ttl - 1)
            };
            let to = self.visit(flow, ttl);
            if from == Visit::Unknown || to == Visit::Unknown {
                continue;
            }
            let (from, to) = (from.address(), to.address());
            let same = |link: &&mut Link| (link.from, link.to) == (from, to);
            match links.iter_mut().skip(first).find(same) {
                Some(link) => link.flows += 1,
                None => links.push(Link {
                    ttl,
                    from,
                    to,
                    flows: 1,
                }),
            }
        }
    }

    fn bound(&mut self, extent: u8) -> Bound {
        let (mut per_node, mut graph): (f64, f64) = (0.0, 0.0);
        for ttl in self.rules.first_ttl..=extent {
            let Some(pair) = self.pair(ttl) else { continue };
            let doubts: Vec<f64> = pair
                .passed
                .iter()
                .filter(|passed| passed.answered > 0 && !passed.is_unnamed)
                .map(|passed| self.points.doubt(passed.next_hops(), passed.answered))
                .collect();
            let sum: f64 = doubts.iter().sum();
            graph += sum;
            let of_hop = if self.is_node_controlled(&pair) || doubts.len() < 2 {
                doubts.iter().copied().fold(0.0, f64::max)
            } else {
                sum / doubts.len() as f64
            };
            per_node = per_node.max(of_hop);
        }
        Bound {
            per_node,
            graph: graph.min(1.0),
        }
    }
}

/// A node of a hop that shares what may be missed with the others.
struct Sharing {
    /// Its number in the hop.
    node: usize,
    /// Next hops seen.
    seen: usize,
    /// Flows that are or will be known there and one hop further.
    flows: u32,
    available: Vec<u32>,
    /// The part of all flows that pass it.
    share: f64,
}

/// The part of all flows that is expected to pass a node.
fn share(passed: &Passed, pair: &Pair) -> f64 {
    let nodes = pair.passed.iter().filter(|passed| passed.reach > 0).count();
    (f64::from(passed.reach) + PRIOR) / (f64::from(pair.known_before) + PRIOR * nodes as f64)
}

fn find_repeated(hop: &mut Hop, flow: u32) -> Option<&mut Repeated> {
    let mut repeated = hop.repeated.iter_mut();
    repeated.find(|repeated| repeated.flow == flow && repeated.pending > 0)
}
