//! All paths: carries out what a [`Discovery`] asks for, then sends end-to-end probes over the
//! flows that it has found, and where those are lost what a [`Locator`] asks for.
//!
//! At most [`AT_ONCE`] probes are on their way, of any TTLs and flows; with a delay they also leave
//! one by one. A question is repeated while it is silent, more often where somebody has answered at
//! its TTL. Where packets are lost and others were answered, it is asked once more in the end:
//! otherwise whoever is behind a lossy link would now and then be taken for a silent node.
//!
//! Routers limit their answers, and whose limit a silent probe has met is not known where a TTL has
//! several nodes. So limits are learned by TTL: after some first attempts in a row have stayed
//! silent, a flow that was answered there is asked again. If that is silent too, probes with this
//! TTL leave one by one, first a second apart as Linux allows, then sooner with each answer.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use traceroute_wire::{MAX_PROBE_LEN, MplsStack, ProbeKind};

use super::{FIRST, Step, Strategy, View};
use crate::answer::{Answer, TraceOutcome};
use crate::cause::{Cause, Losses};
use crate::flow::{MAX_REPEATS, ProbeId};
use crate::ledger::{Fate, Ledger};
use crate::multipath::{
    Ask, Balancing, Control, Discovery, HashedFields, Locator, MAX_FLOWS, NodeStatistics, PathFlow, PathsEnd,
    PathsResult, RttRange, Rules, Sample, Seen, Visit,
};
use crate::trace::{FlowIndex, FlowState, PathsPlan, TraceSpec};
use crate::{Method, Time};

/// So many probes are on their way at once.
const AT_ONCE: usize = 32;
/// A question is asked so often where somebody has answered at its TTL.
const ATTEMPTS: u8 = 5;
/// After so many attempts a question waits until an answer is left for sure: until nothing has
/// been sent with its TTL for [`LIMITED`].
const HASTY: u8 = 3;
/// Unless so many have waited in vain.
const CONVINCING: u32 = 2;
/// An answer is waited for so long at least before the question is repeated.
const PATIENCE: Duration = Duration::from_millis(300);
/// Where packets are lost, a silent question is asked again in the end, so often.
const ATTEMPTS_AGAIN: u8 = 10;
/// So many silent first attempts in a row are suspicious.
const SUSPICIOUS: u32 = 3;
/// So often a flow that was answered is asked again then.
const CONTROLS: u8 = 2;
/// Between two probes where answers are limited: Linux gives one a second.
const LIMITED: Duration = Duration::from_millis(1030);
/// What is answered at a shorter distance is not limited.
const LEAST_LIMITED: Duration = Duration::from_millis(20);
/// Between two probes that measure loss on the way.
const LOSS_APART: Duration = Duration::from_millis(5);
/// Their answers are waited for so long at least.
const LOSS_PATIENCE: Duration = Duration::from_millis(500);
/// So many answers by the same node show that the field in which their probes differ is not hashed.
const ALIKE: usize = 11;
/// A probe with another flow's label is sent so often while it is silent.
const FIELD_TRIES: u8 = 3;

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// The discovery asks.
    Question,
    /// A flow that was answered before: is somebody still answering there?
    Control,
    /// It goes to the destination.
    EndToEnd,
    /// Is it lost on its way?
    Loss,
    /// Does it take another next hop than one that differs in one field only?
    Field(Field),
}

/// A probe with another flow's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Field {
    label: u32,
    /// The label differs from the one it is compared with; else the port.
    is_label: bool,
    /// It was sent so often.
    tries: u8,
}

/// Who answered probes that differ in one field only.
#[derive(Debug)]
struct Compared {
    ttl: u8,
    ports: Vec<IpAddr>,
    labels: Vec<IpAddr>,
}

/// Whether a field is hashed; `None`: too few have answered.
fn is_hashed(nodes: &[IpAddr]) -> Option<bool> {
    let differ = nodes.windows(2).any(|pair| pair[0] != pair[1]);
    (differ || nodes.len() >= ALIKE).then_some(differ)
}

impl Purpose {
    /// It is sent once, and silence is a result.
    fn is_measuring(self) -> bool {
        matches!(self, Purpose::EndToEnd | Purpose::Loss | Purpose::Field(_))
    }
}

/// A question on its way.
#[derive(Debug)]
struct Asked {
    ask: Ask,
    purpose: Purpose,
    /// Its probes, by their attempt.
    attempts: Vec<u8>,
    /// When the last one counts as silent.
    until: Time,
    /// It stayed silent before, after so many attempts; else 0.
    before: u32,
}

/// A question that stayed silent.
#[derive(Debug)]
struct Silence {
    ask: Ask,
    /// It was asked so often.
    made: u32,
    cause: Cause,
}

/// What is known of a TTL.
#[derive(Debug, Default)]
struct Hop {
    /// A flow that was answered here.
    answered: Option<u32>,
    /// Questions that stayed silent, however often they were asked.
    silent: u32,
    /// First attempts in a row that stayed silent.
    in_a_row: u32,
    /// From so many on that is suspicious.
    suspicious: u32,
    /// A question was answered only when it was repeated, and answers are not limited.
    is_lossy: bool,
    /// Answers are limited, for all that is known: the time between two probes.
    limit: Option<Duration>,
    /// A flow that was answered was silent then, too.
    is_limited: bool,
    next_at: Time,
    last_sent: Time,
    on_their_way: u32,
}

impl Hop {
    /// Whether a question that has been asked so often waits until an answer is left for sure.
    fn is_slow(&self, asked: &Asked) -> bool {
        let made = asked.attempts.len() >= usize::from(HASTY);
        let is_sure = self.silent >= CONVINCING || asked.before > 0;
        asked.purpose == Purpose::Question && made && self.answered.is_some() && !is_sure
    }
}

/// What was measured at a node.
#[derive(Debug, Default)]
struct Measured {
    sent: u32,
    answered: u32,
    lost: Losses,
    rtt: Rtts,
    mpls: MplsStack,
}

#[derive(Debug, Clone, Copy, Default)]
struct Rtts {
    count: u32,
    sum: Duration,
    min: Duration,
    max: Duration,
}

impl Rtts {
    fn add(&mut self, rtt: Duration) {
        self.min = if self.count == 0 { rtt } else { self.min.min(rtt) };
        self.max = self.max.max(rtt);
        self.sum += rtt;
        self.count += 1;
    }

    fn range(self) -> Option<RttRange> {
        Some(RttRange {
            min: self.min,
            mean: self.sum.checked_div(self.count)?,
            max: self.max,
        })
    }
}

/// The end-to-end probes of a flow.
#[derive(Debug, Clone, Copy, Default)]
struct Series {
    sent: u32,
    received: u32,
    rtt: Rtts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Discovering,
    Comparing,
    EndToEnd,
    Locating,
    Over,
}

/// See the module.
pub(crate) struct Multipath {
    plan: PathsPlan,
    discovery: Discovery,
    phase: Phase,
    planned: VecDeque<(Ask, Purpose)>,
    asked: Vec<Asked>,
    /// Something was answered or settled since the discovery was asked.
    has_news: bool,
    /// Flows that were opened, and those that could not be.
    flows: FlowIndex,
    hops: BTreeMap<u8, Hop>,
    measured: BTreeMap<(u8, IpAddr), Measured>,
    silences: Vec<Silence>,
    /// Probes with another flow's label.
    fields: VecDeque<(Ask, Field)>,
    compared: Vec<Compared>,
    /// By flow.
    series: Vec<Series>,
    /// Flows for end-to-end probes, and how many of those were sent.
    targets: Vec<u32>,
    end_to_end: u32,
    locator: Option<Locator>,
    /// The longest round trip.
    rtt: Duration,
    probes: u32,
    next_at: Time,
    reached: Option<u8>,
    refused: Option<IpAddr>,
    is_cut: bool,
}

impl Multipath {
    pub(crate) fn new(spec: &TraceSpec, plan: PathsPlan) -> Self {
        Multipath {
            plan,
            discovery: Discovery::new(Rules {
                confidence: 1.0 - f64::from(plan.allowed) / 1e6,
                first_ttl: spec.first_ttl,
                max_ttl: spec.max_ttl,
                gap_limit: spec.gap_limit,
                max_flows: plan.max_flows.clamp(1, MAX_FLOWS),
                control: Control::Shared,
            }),
            phase: Phase::Discovering,
            planned: VecDeque::new(),
            asked: Vec::new(),
            has_news: true,
            // Every trace begins with one.
            flows: FIRST + 1,
            hops: BTreeMap::new(),
            measured: BTreeMap::new(),
            silences: Vec::new(),
            fields: VecDeque::new(),
            compared: Vec::new(),
            series: Vec::new(),
            targets: Vec::new(),
            end_to_end: 0,
            locator: None,
            rtt: Duration::ZERO,
            probes: 0,
            next_at: Time::ZERO,
            reached: None,
            refused: None,
            is_cut: false,
        }
    }

    fn hop(&mut self, ttl: u8) -> &mut Hop {
        self.hops.entry(ttl).or_default()
    }

    /// How long an answer to the attempt with this number is waited for.
    fn patience(&self, attempt: usize, timeout: Duration) -> Duration {
        let first = (self.rtt * 2).max(PATIENCE);
        (first * (1 << attempt.min(2))).min(timeout)
    }

    /// How often a question with this TTL is asked.
    fn attempts(&mut self, ttl: u8, is_again: bool, spec: &TraceSpec) -> u8 {
        let hop = self.hop(ttl);
        match hop.answered {
            _ if !spec.may_repeat() => 1,
            _ if is_again => ATTEMPTS_AGAIN,
            Some(_) if hop.silent < CONVINCING => ATTEMPTS,
            Some(_) => HASTY,
            None if hop.silent == 0 => 1 + spec.hop_retries,
            // Nobody has answered others here.
            None => 1,
        }
    }

    /// Settles questions whose time is up. Those to be asked again go first.
    fn settle(&mut self, view: &View<'_>) {
        let mut index = 0;
        while let Some(asked) = self.asked.get(index) {
            let refused = asked.attempts.last().is_some_and(|attempt| {
                let id = ProbeId {
                    ttl: asked.ask.ttl,
                    attempt: *attempt,
                };
                let sent = view.ledger(asked.ask.flow).and_then(|ledger| ledger.attempt(id));
                sent.is_some_and(|sent| sent.fate == Fate::Refused)
            });
            if asked.until == Time::MAX || view.now < asked.until && !refused {
                index += 1;
                continue;
            }
            let (ask, purpose, made) = (asked.ask, asked.purpose, asked.attempts.len());
            let before = asked.before;
            if purpose.is_measuring() {
                self.asked.swap_remove(index);
                match purpose {
                    // It has not left.
                    Purpose::EndToEnd if refused => {
                        if let Some(series) = self.series.get_mut(ask.flow as usize) {
                            series.sent -= 1;
                        }
                    }
                    Purpose::Loss => self.loss(ask, false),
                    Purpose::Field(field) if field.tries < FIELD_TRIES => {
                        self.fields.push_back((ask, field));
                    }
                    _ => {}
                }
                continue;
            }
            let hop = self.hop(ask.ttl);
            hop.on_their_way = hop.on_their_way.saturating_sub(1);
            if made == 1 && purpose == Purpose::Question && before == 0 {
                hop.in_a_row += 1;
            }
            if let Some(limit) = &mut hop.limit {
                *limit = (*limit * 2).min(LIMITED);
            }
            let is_control = purpose == Purpose::Control;
            let allowed = if is_control {
                CONTROLS
            } else {
                self.attempts(ask.ttl, before > 0, view.spec)
            };
            if made < usize::from(allowed) {
                if let Some(asked) = self.asked.get_mut(index) {
                    // It waits for its turn.
                    asked.until = Time::MAX;
                }
                index += 1;
                continue;
            }
            if is_control {
                let hop = self.hop(ask.ttl);
                hop.limit = Some(LIMITED);
                hop.is_limited = true;
                hop.is_lossy = false;
                hop.next_at = view.now + LIMITED;
            }
            let made = before + made as u32;
            self.asked.swap_remove(index);
            if purpose == Purpose::Question {
                self.silent(ask, made, view);
            }
        }
    }

    /// Nobody has answered a question.
    fn silent(&mut self, ask: Ask, made: u32, view: &View<'_>) {
        self.has_news = true;
        self.hop(ask.ttl).silent += 1;
        let is_beyond = self.hops.range(ask.ttl..).all(|(_, hop)| hop.answered.is_none());
        let refused = view.ledger(ask.flow).is_none_or(|ledger| ledger.sent() == 0);
        let cause = match (refused, is_beyond) {
            (true, _) => Cause::Local,
            (false, true) => Cause::Filtered,
            (false, false) => Cause::Silent,
        };
        self.silences.push(Silence { ask, made, cause });
        self.discovery.silent(ask);
    }

    /// How often a question was asked before it stayed silent.
    fn take_silence(&mut self, ask: Ask) -> u32 {
        let index = self.silences.iter().position(|silence| silence.ask == ask);
        index.map_or(0, |index| self.silences.swap_remove(index).made)
    }

    /// Plans what the discovery asks. What has stayed silent before is asked again only if packets
    /// are lost on the path: at a nearer TTL that is on its way, and at a farther one it may be. Not
    /// where answers are limited: it would take minutes.
    fn plan(&mut self) {
        let mut asks = Vec::new();
        while std::mem::take(&mut self.has_news) {
            self.discovery.plan(&mut asks);
            let is_lossy = self.hops.values().any(|hop| hop.is_lossy);
            for ask in asks.drain(..) {
                let is_limited = self.hop(ask.ttl).limit.is_some();
                if self.discovery.is_again(ask) && (is_limited || !is_lossy) {
                    self.discovery.silent(ask);
                    self.has_news = true;
                } else {
                    self.planned.push_back((ask, Purpose::Question));
                }
            }
        }
    }

    /// A suspicious TTL is controlled by a flow that was answered there.
    fn control(&mut self) {
        for (ttl, hop) in &mut self.hops {
            let limit = SUSPICIOUS + hop.suspicious;
            let Some(flow) = hop
                .answered
                .filter(|_| hop.in_a_row >= limit && hop.limit.is_none())
            else {
                continue;
            };
            hop.in_a_row = 0;
            self.planned
                .push_front((Ask { flow, ttl: *ttl }, Purpose::Control));
        }
    }

    /// The next probe, if one may leave now; otherwise when.
    fn next_probe(&mut self, view: &View<'_>) -> Result<(Ask, Purpose, Option<usize>), Time> {
        let mut later = Time::MAX;
        let waiting = self.asked.iter().filter(|asked| asked.until != Time::MAX).count();
        if waiting >= AT_ONCE {
            return Err(later);
        }
        if view.now < self.next_at {
            return Err(self.next_at);
        }
        let hops = &self.hops;
        let waits = |asked: &&Asked| {
            let hop = hops.get(&asked.ask.ttl);
            asked.until == Time::MAX && hop.is_some_and(|hop| hop.is_slow(asked))
        };
        let slow: Vec<u8> = self
            .asked
            .iter()
            .filter(waits)
            .map(|asked| asked.ask.ttl)
            .collect();
        let mut may_leave = |ttl: u8, is_slow: bool| {
            let Some(hop) = hops.get(&ttl) else { return true };
            let at = match (slow.contains(&ttl), is_slow) {
                // Others would take its answer.
                (true, false) => return false,
                (true, true) => hop.last_sent + LIMITED,
                (false, _) if hop.limit.is_some() => hop.next_at,
                (false, _) => return true,
            };
            if hop.on_their_way == 0 && at > view.now {
                later = later.min(at);
            }
            hop.on_their_way == 0 && at <= view.now
        };
        for (index, asked) in self.asked.iter().enumerate() {
            if asked.until == Time::MAX && may_leave(asked.ask.ttl, waits(&asked)) {
                return Ok((asked.ask, asked.purpose, Some(index)));
            }
        }
        let planned = self.planned.iter().position(|(ask, _)| may_leave(ask.ttl, false));
        match planned.and_then(|index| self.planned.remove(index)) {
            Some((ask, purpose)) => Ok((ask, purpose, None)),
            None => Err(later),
        }
    }

    /// Sends a probe, or opens the flow that it needs first.
    fn send(
        &mut self,
        view: &View<'_>,
        (ask, purpose, again): (Ask, Purpose, Option<usize>),
    ) -> Option<Step> {
        let opened = self.flows;
        if ask.flow >= opened {
            self.planned.push_front((ask, purpose));
            self.flows += 1;
            return Some(Step::Open);
        }
        let number = view.ledger(ask.flow).map(|ledger| ledger.next(ask.ttl).attempt);
        let Some(attempt) = number.filter(|attempt| *attempt < MAX_REPEATS) else {
            // The flow cannot be had, or was repeated as often as it can be.
            if view.state(ask.flow).is_none() {
                self.discovery.no_more_flows();
            }
            if let Some(index) = again {
                self.asked.swap_remove(index);
            }
            if purpose == Purpose::Question {
                self.has_news = true;
                self.discovery.silent(ask);
            }
            return None;
        };
        self.probes += 1;
        self.next_at = view.now + view.spec.delay;
        let made = again.map_or(0, |index| self.asked[index].attempts.len());
        let before = match again {
            Some(index) => self.asked[index].before,
            None if purpose == Purpose::Question && self.discovery.is_again(ask) => self.take_silence(ask),
            None => 0,
        };
        let until = match purpose {
            Purpose::EndToEnd => view.now + view.spec.timeout,
            Purpose::Loss | Purpose::Field(_) => {
                view.now + (self.rtt * 3).max(LOSS_PATIENCE).min(view.spec.timeout)
            }
            // Where there was loss, waiting longer does not help.
            _ if before > 0 => view.now + self.patience(0, view.spec.timeout),
            Purpose::Question | Purpose::Control => view.now + self.patience(made, view.spec.timeout),
        };
        match again.and_then(|index| self.asked.get_mut(index)) {
            Some(asked) => {
                asked.attempts.push(attempt);
                asked.until = until;
            }
            None => self.asked.push(Asked {
                ask,
                purpose,
                attempts: vec![attempt],
                until,
                before,
            }),
        }
        if !purpose.is_measuring() {
            let hop = self.hop(ask.ttl);
            hop.on_their_way += 1;
            hop.last_sent = view.now;
            hop.next_at = view.now + hop.limit.unwrap_or_default();
        }
        Some(Step::Send {
            flow: ask.flow,
            ttl: ask.ttl,
            label: match purpose {
                Purpose::Field(field) => Some(field.label),
                _ => None,
            },
            alone: false,
        })
    }

    fn discover(&mut self, view: &View<'_>) -> Option<Step> {
        loop {
            self.settle(view);
            self.control();
            self.plan();
            if self.planned.is_empty() && self.asked.is_empty() {
                return None;
            }
            if self.probes >= self.plan.max_probes {
                self.is_cut = true;
                return None;
            }
            match self.next_probe(view) {
                Ok(probe) => {
                    if let Some(step) = self.send(view, probe) {
                        return Some(step);
                    }
                }
                Err(later) => {
                    let settled = self.asked.iter().map(|asked| asked.until).min();
                    let until = settled.unwrap_or(Time::MAX).min(later);
                    return Some(Step::Wait { until, last: false });
                }
            }
        }
    }

    /// Over IPv6 flows differ in port and label, and what of it a balancer hashes is not known. So
    /// flows are compared that differ in one of them. Only where all come from one node: otherwise
    /// it could be an earlier balancer that tells them apart.
    fn start_comparing(&mut self, view: &View<'_>) {
        if !view.spec.target.is_ipv6() || self.is_cut || self.discovery.path_changed() {
            return;
        }
        let graph = self.discovery.graph();
        let label = |flow: u32| view.state(flow).map(|state| state.flow.fields.flow_label);
        let mut is_from_one = true;
        for (index, hop) in graph.hops.iter().enumerate() {
            let was_from_one = is_from_one;
            is_from_one = hop.nodes.len() == 1 && hop.nodes.iter().all(|node| node.address.is_some());
            if !was_from_one || hop.nodes.len() < 2 || hop.balancing != Balancing::PerFlow {
                continue;
            }
            let visits = graph.flows.iter().map(|visits| visits.get(index)?.address());
            let there = (0..).zip(visits).filter_map(|(flow, node)| Some((flow, node?)));
            let mut there = there.filter_map(|(flow, node)| Some((flow, node, label(flow)?)));
            let Some((first, node, first_label)) = there.next() else {
                continue;
            };
            for (flow, _, label) in there.take(ALIKE - 1) {
                for (flow, label, is_label) in [(flow, first_label, false), (first, label, true)] {
                    let field = Field {
                        label,
                        is_label,
                        tries: 0,
                    };
                    self.fields.push_back((Ask { flow, ttl: hop.ttl }, field));
                }
            }
            self.compared.push(Compared {
                ttl: hop.ttl,
                ports: vec![node],
                labels: vec![node],
            });
        }
    }

    fn compare(&mut self, view: &View<'_>) -> Option<Step> {
        loop {
            self.settle(view);
            if self.probes >= self.plan.max_probes {
                return None;
            }
            let room = self.asked.len() < AT_ONCE;
            let is_due = room && view.now >= self.next_at;
            let Some((ask, field)) = is_due.then(|| self.fields.pop_front()).flatten() else {
                let settled = self.asked.iter().map(|asked| asked.until).min();
                let next = (room && !is_due).then_some(self.next_at);
                let until = settled.into_iter().chain(next).min()?;
                return Some(Step::Wait { until, last: false });
            };
            let tries = field.tries + 1;
            let purpose = Purpose::Field(Field { tries, ..field });
            if let Some(step) = self.send(view, (ask, purpose, None)) {
                self.next_at = view.now + view.spec.delay.max(LOSS_APART);
                return Some(step);
            }
        }
    }

    fn hashed(&self) -> Vec<HashedFields> {
        let hashed = self.compared.iter().filter_map(|compared| {
            Some(HashedFields {
                ttl: compared.ttl,
                port: is_hashed(&compared.ports)?,
                label: is_hashed(&compared.labels)?,
            })
        });
        hashed.collect()
    }

    /// Flows for end-to-end probes: all that were followed to the end.
    fn choose_targets(&mut self) {
        let flows = self.discovery.graph().flows;
        let followed = flows
            .iter()
            .enumerate()
            .filter(|(_, visits)| !visits.contains(&Visit::Unknown));
        self.targets = followed.map(|(flow, _)| flow as u32).collect();
        self.series = vec![Series::default(); flows.len()];
        self.next_at = Time::ZERO;
    }

    fn end_to_end(&mut self, view: &View<'_>) -> Option<Step> {
        self.settle(view);
        let is_more = self.end_to_end < self.plan.end_to_end && !self.targets.is_empty();
        if is_more && view.now >= self.next_at {
            let index = self.end_to_end as usize % self.targets.len();
            let flow = self.targets[index];
            self.end_to_end += 1;
            let ask = Ask {
                flow,
                ttl: view.spec.max_ttl,
            };
            if let Some(step) = self.send(view, (ask, Purpose::EndToEnd, None)) {
                if let Some(series) = self.series.get_mut(flow as usize) {
                    series.sent += 1;
                }
                self.next_at = view.now + self.plan.interval;
                return Some(step);
            }
        }
        let settled = self.asked.iter().map(|asked| asked.until).min();
        let next = is_more.then_some(self.next_at.max(view.now));
        let until = settled.into_iter().chain(next).min()?;
        Some(Step::Wait { until, last: false })
    }

    /// Looks for where loss begins, if there is any.
    fn start_locating(&mut self, view: &View<'_>) {
        let graph = self.discovery.graph();
        let first = view.spec.first_ttl;
        let mut flows = Vec::new();
        for (visits, series) in graph.flows.into_iter().zip(&self.series) {
            let mixed = |ttl: u8| {
                let mut hops = graph.hops.iter();
                hops.any(|hop| hop.ttl == ttl && hop.balancing == Balancing::PerPacket)
            };
            // Packets of a flow go separate ways there.
            let visits = (first..).zip(visits).map(|(ttl, visit)| match visit {
                _ if mixed(ttl) => Visit::Unknown,
                visit => visit,
            });
            let sample = Sample {
                sent: series.sent,
                lost: series.sent - series.received.min(series.sent),
            };
            flows.push((visits.collect(), sample));
        }
        let hops = &self.hops;
        let usable = |ttl: u8| hops.get(&ttl).is_none_or(|hop| !hop.is_limited);
        // A closed port is answered by an error, and those are limited.
        let skips_target = view.spec.method == Method::Udp;
        let locator = Locator::new(first, &flows, graph.links.len(), (skips_target, usable));
        self.locator = Some(locator);
        self.next_at = view.now;
    }

    fn locate(&mut self, view: &View<'_>) -> Option<Step> {
        loop {
            self.settle(view);
            let room = self.asked.len() < AT_ONCE;
            let is_due = room && view.now >= self.next_at;
            let probe = is_due.then(|| self.locator.as_mut()?.next_probe()).flatten();
            let Some(ask) = probe else {
                let settled = self.asked.iter().map(|asked| asked.until).min();
                let next = (room && !is_due).then_some(self.next_at);
                let until = settled.into_iter().chain(next).min()?;
                return Some(Step::Wait { until, last: false });
            };
            if let Some(step) = self.send(view, (ask, Purpose::Loss, None)) {
                self.next_at = view.now + view.spec.delay.max(LOSS_APART);
                return Some(step);
            }
            if let Some(locator) = &mut self.locator {
                locator.give_up(ask);
            }
        }
    }

    fn loss(&mut self, ask: Ask, is_answered: bool) {
        if let Some(locator) = &mut self.locator {
            locator.settled(ask, is_answered);
        }
    }

    /// An answer of the destination to an end-to-end probe.
    fn received(&mut self, flow: u32, answer: &Answer) {
        let Some(series) = self.series.get_mut(flow as usize).filter(|_| answer.destination) else {
            return;
        };
        series.received += 1;
        if let Some(rtt) = answer.rtt {
            series.rtt.add(rtt);
        }
    }

    fn flow(&self, state: Option<&FlowState>, index: usize, now: Time) -> PathFlow {
        let series = self.series.get(index).copied().unwrap_or_default();
        let fields = state.map(|state| state.flow.fields);
        PathFlow {
            source_port: fields.map_or(0, |fields| fields.source_port),
            checksum: state.and_then(|state| icmp_checksum(state, now)),
            flow_label: fields
                .filter(|fields| fields.destination.is_ipv6())
                .map(|fields| fields.flow_label),
            sent: series.sent,
            received: series.received,
            rtt: series.rtt.range(),
        }
    }

    fn end(&self, view: &View<'_>, flows: &[Vec<Visit>]) -> PathsEnd {
        let longest = flows.iter().map(Vec::len).max().unwrap_or(0);
        match (self.reached, self.refused) {
            _ if self.is_cut || view.now >= view.end() => PathsEnd::Limit,
            (Some(_), _) => PathsEnd::Destination,
            (None, Some(from)) => PathsEnd::Refused { from },
            (None, None) if view.spec.gap_limit > 0 && longest < usize::from(view.spec.max_ttl) => {
                PathsEnd::GapLimit
            }
            (None, None) => PathsEnd::MaxTtl,
        }
    }
}

/// The checksum of a flow's echo requests.
fn icmp_checksum(state: &FlowState, now: Time) -> Option<u16> {
    let probe = state.flow.probe(ProbeId { ttl: 1, attempt: 0 }, now);
    let ProbeKind::Echo { .. } = probe.kind else {
        return None;
    };
    let header = if probe.source.is_ipv4() { 20 } else { 40 };
    let mut buffer = [0; MAX_PROBE_LEN];
    let packet = probe.encode(&mut buffer)?;
    let bytes = packet.get(header + 2..header + 4)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

impl Strategy for Multipath {
    fn next(&mut self, view: &mut View<'_>) -> Step {
        if self.phase == Phase::Discovering {
            if let Some(step) = self.discover(view) {
                return step;
            }
            self.phase = Phase::Comparing;
            self.asked.clear();
            self.start_comparing(view);
        }
        if self.phase == Phase::Comparing {
            if let Some(step) = self.compare(view) {
                return step;
            }
            self.phase = Phase::EndToEnd;
            self.asked.clear();
            self.choose_targets();
        }
        if self.phase == Phase::EndToEnd {
            if let Some(step) = self.end_to_end(view) {
                return step;
            }
            self.phase = Phase::Locating;
            self.start_locating(view);
        }
        if self.phase == Phase::Locating {
            if let Some(step) = self.locate(view) {
                return step;
            }
            self.phase = Phase::Over;
        }
        Step::Done
    }

    fn answered(&mut self, flow: FlowIndex, ttl: u8, answer: &Answer) -> bool {
        if let Some(rtt) = answer.rtt {
            self.rtt = self.rtt.max(rtt);
        }
        let is_it = |asked: &Asked| {
            let is_to = answer
                .attempt
                .is_none_or(|attempt| asked.attempts.contains(&attempt));
            (asked.ask.flow, asked.ask.ttl) == (flow, ttl) && is_to
        };
        let Some(index) = self.asked.iter().position(is_it) else {
            return false;
        };
        let asked = self.asked.swap_remove(index);
        match asked.purpose {
            Purpose::EndToEnd => {
                self.received(flow, answer);
                return false;
            }
            Purpose::Loss => {
                self.loss(asked.ask, true);
                return false;
            }
            Purpose::Field(field) => {
                let mut compared = self.compared.iter_mut();
                if let Some(compared) = compared.find(|compared| compared.ttl == ttl) {
                    let nodes = if field.is_label {
                        &mut compared.labels
                    } else {
                        &mut compared.ports
                    };
                    nodes.push(answer.address);
                }
                return false;
            }
            Purpose::Question | Purpose::Control => {}
        }
        self.has_news = true;
        let hop = self.hop(ttl);
        if asked.until != Time::MAX {
            hop.on_their_way = hop.on_their_way.saturating_sub(1);
        }
        hop.answered = Some(flow);
        hop.in_a_row = 0;
        let is_limited = hop.is_limited;
        // So many answers in a row are no limit, but there was loss.
        hop.limit = hop
            .limit
            .map(|limit| limit / 2)
            .filter(|limit| *limit > LEAST_LIMITED);
        hop.is_limited &= hop.limit.is_some();
        if asked.purpose == Purpose::Control {
            hop.suspicious += SUSPICIOUS;
        }
        let made = asked.before + asked.attempts.len() as u32;
        hop.is_lossy |= made > 1 && !is_limited && hop.limit.is_none();
        let measured = self.measured.entry((ttl, answer.address)).or_default();
        measured.sent += made;
        measured.answered += 1;
        let cause = if is_limited {
            Cause::RateLimited
        } else {
            Cause::Network
        };
        measured.lost.add(cause, made - 1);
        measured.mpls = answer.mpls;
        if let Some(rtt) = answer.rtt {
            measured.rtt.add(rtt);
        }
        if answer.destination {
            self.reached = Some(self.reached.map_or(ttl, |reached| reached.min(ttl)));
        }
        let is_refusal = answer.is_refusal();
        if is_refusal {
            self.refused = Some(answer.address);
        }
        if asked.purpose == Purpose::Question {
            let seen = Seen {
                address: answer.address,
                ends: answer.destination || is_refusal,
            };
            self.discovery.answered(asked.ask, seen);
        }
        true
    }

    fn outcome(&mut self, view: &mut View<'_>) -> TraceOutcome {
        let graph = self.discovery.graph();
        let fields = view.state(FIRST).map(|state| state.flow.fields);
        let of_graph = graph
            .hops
            .iter()
            .flat_map(|hop| hop.nodes.iter().map(|node| (hop.ttl, node.address)));
        let mut silent: BTreeMap<u8, Measured> = BTreeMap::new();
        for silence in &self.silences {
            let measured = silent.entry(silence.ask.ttl).or_default();
            measured.sent += silence.made;
            measured.lost.add(silence.cause, silence.made);
        }
        let nodes = of_graph.map(|(ttl, address)| {
            let measured = match address {
                Some(address) => self.measured.get(&(ttl, address)),
                None => silent.get(&ttl),
            };
            NodeStatistics {
                ttl,
                address,
                sent: measured.map_or(0, |measured| measured.sent),
                answered: measured.map_or(0, |measured| measured.answered),
                lost: measured.map_or_else(Losses::default, |measured| measured.lost),
                rtt: measured.and_then(|measured| measured.rtt.range()),
                mpls: measured.map_or_else(MplsStack::default, |measured| measured.mpls),
            }
        });
        let count = graph.flows.len();
        let ledgers = (FIRST..self.flows).filter_map(|flow| view.ledger(flow));
        let probes_sent = ledgers.map(Ledger::sent).sum();
        TraceOutcome::Paths(Box::new(PathsResult {
            source: fields.map_or(view.spec.target, |fields| fields.source),
            destination: view.spec.target,
            nodes: nodes.collect(),
            flows: (0..count)
                .map(|flow| self.flow(view.state(flow as FlowIndex), flow, view.now))
                .collect(),
            hashed: self.hashed(),
            loss_begins: self
                .locator
                .as_ref()
                .map(|locator| locator.found().to_vec())
                .unwrap_or_default(),
            probes_sent,
            reached: self.reached,
            end: self.end(view, &graph.flows),
            graph,
        }))
    }
}
