//! One trace: a strategy, its flows, and what comes back on them.

use std::net::IpAddr;
use std::time::Duration;

use rand::rngs::StdRng;
use traceroute_wire::{IcmpError, MplsStack, Probe, Reply, ReplyKind};

use crate::answer::{Answer, FoundHop, TraceError, TraceOutcome};
use crate::flow::{Flow, MAX_ATTEMPTS, MAX_REPEATS, Numbering, ProbeId};
use crate::key::Key;
use crate::ledger::{Attempt, Entry, Fate, Ledger, Received};
use crate::method::{Method, ReplyMeaning, sack};
use crate::network::MatchedReply;
use crate::packet::PacketOptions;
use crate::responders::{Place, Responders};
use crate::service::Datagrams;
use crate::strategy::{Step, Strategy, View, patience};
use crate::{Egress, NetError, Operation, Time};

/// What a trace does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// A traceroute run: one flow, all TTLs.
    Run,
    /// End-to-end probes: a flow each, all with the highest TTL.
    EndToEnd {
        /// How many.
        count: u32,
        /// Time between them.
        interval: Duration,
        /// Send each when its time has come, whatever the target's limit on answers.
        fixed: bool,
    },
    /// All paths of flows to the target, see [`multipath`](crate::multipath).
    Paths(PathsPlan),
}

/// How a multipath discovery goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathsPlan {
    /// How likely the next hops of a node may be incomplete, in millionths.
    pub allowed: u32,
    /// Probes at most, those of retries included.
    pub max_probes: u32,
    /// Flows at most, each with a port of its own; beyond [`MAX_FLOWS`](crate::multipath::MAX_FLOWS)
    /// there are none.
    pub max_flows: u32,
    /// End-to-end probes over the flows that were found.
    pub end_to_end: u32,
    /// Time between them.
    pub interval: Duration,
}

impl Plan {
    /// Whether a discovery of all paths.
    pub(crate) fn is_paths(self) -> bool {
        matches!(self, Plan::Paths(_))
    }

    /// Whether it fails when none of its first probes can leave.
    fn needs_first(self) -> bool {
        !matches!(self, Plan::EndToEnd { .. })
    }
}

/// What to trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceSpec {
    /// What to do.
    pub plan: Plan,
    /// How to probe.
    pub method: Method,
    /// Target address.
    pub target: IpAddr,
    /// Probed port; unused for ICMP.
    pub port: u16,
    /// How its packets leave this host.
    pub egress: Egress,
    /// First TTL probed, in hops, at least 1.
    pub first_ttl: u8,
    /// Last TTL probed, in hops, at least `first_ttl`.
    pub max_ttl: u8,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Time between probes. Zero: a run has up to sixteen on their way at once, SYN segments too.
    pub delay: Duration,
    /// What its packets look like.
    pub packet: PacketOptions,
    /// How often a silent TTL is probed again, at most 10 times.
    pub hop_retries: u8,
    /// A run sends no further after so many silent TTLs in a row; 0: it goes on to `max_ttl`.
    pub gap_limit: u8,
    /// Attempts at the same TTL can be told apart by what comes back. Where they cannot, there is
    /// only one.
    pub tells_attempts: bool,
    /// How long after its start a run may wait for answers that a limit holds back: while something
    /// else goes on anyway.
    pub linger: Duration,
    /// When the trace must be over, whatever happens, from its start.
    pub longest: Duration,
}

/// How often a silent TTL is probed again unless told otherwise.
pub const DEFAULT_HOP_RETRIES: u8 = 2;
/// The most that may be asked for.
pub const MAX_HOP_RETRIES: u8 = 10;

impl TraceSpec {
    /// A run over all TTLs from 1 to `max_ttl` with the method's usual delay and retries.
    pub fn full(method: Method, target: IpAddr, port: u16, max_ttl: u8, timeout: Duration) -> Self {
        TraceSpec {
            plan: Plan::Run,
            method,
            target,
            port,
            egress: Egress::default(),
            first_ttl: 1,
            max_ttl,
            timeout,
            delay: method.default_delay(),
            packet: PacketOptions::default(),
            hop_retries: DEFAULT_HOP_RETRIES,
            gap_limit: 0,
            tells_attempts: true,
            linger: Duration::ZERO,
            longest: Duration::MAX,
        }
    }

    /// A single probe with TTL `ttl`.
    pub fn single(method: Method, target: IpAddr, port: u16, ttl: u8, timeout: Duration) -> Self {
        TraceSpec {
            first_ttl: ttl,
            hop_retries: 0,
            ..TraceSpec::full(method, target, port, ttl, timeout)
        }
    }

    /// `count` end-to-end probes with TTL `ttl`, one each `interval`.
    pub fn end_to_end(single: TraceSpec, count: u32, interval: Duration, fixed: bool) -> Self {
        TraceSpec {
            plan: Plan::EndToEnd {
                count,
                interval,
                fixed,
            },
            ..single
        }
    }

    /// The same where a probe's successor ends it: one attempt at each TTL, one TTL after the
    /// other.
    #[must_use]
    pub fn one_at_a_time(self) -> Self {
        TraceSpec {
            tells_attempts: false,
            delay: self.delay.max(LEAST_DELAY),
            ..self
        }
    }

    /// Whether runs probe one TTL after the other.
    pub(crate) fn is_serial(&self) -> bool {
        self.method.is_serial() && !self.delay.is_zero()
    }

    /// Whether probes may be repeated at all.
    pub(crate) fn may_repeat(&self) -> bool {
        self.hop_retries > 0 && self.tells_attempts
    }

    pub(crate) fn place(&self, ttl: u8) -> Place {
        Place {
            target: self.target,
            egress: self.egress,
            method: self.method,
            ttl,
        }
    }
}

/// Between probes that cannot be on their way at once.
const LEAST_DELAY: Duration = Duration::from_millis(1);

/// Probes at the same TTL that are less than this apart may be answered in any order.
const SOON: Duration = Duration::from_millis(200);

/// How long after connecting the handshake must have been seen on the wire.
const HANDSHAKE_SIGHT: Duration = Duration::from_millis(500);

/// What is said when probes cannot leave because the queue stays full.
const QUEUE_STAYS_FULL: &str =
    "the send queue of this machine stays full: send less at once, or look at what holds up its interface";

/// A flow's number in its trace.
pub(crate) type FlowIndex = u32;

/// What a trace wants when its time has come.
#[derive(Debug)]
pub(crate) enum Due {
    Connect,
    /// Whether packets of the latest flow leave this host at all.
    AskForNeighbour,
    /// A further flow, whose port or identifier is to be reserved.
    Open,
    /// This flow is not needed any more.
    Close {
        flow: FlowIndex,
        settled: Option<(u32, Option<Duration>)>,
    },
    Send {
        flow: FlowIndex,
        id: ProbeId,
    },
    /// Nothing before [`Trace::wake_at`].
    Nothing,
    Finish,
}

/// When so many of a run's first probes are refused, none will leave.
const MOST_REFUSED_FIRST: u8 = 3;

/// What became of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Credit {
    /// It answered a probe.
    Matched {
        found: FoundHop,
    },
    /// It answered a probe, but there is nothing to tell: it is not known which, for now; or it only
    /// counts.
    Kept,
    Duplicate,
    /// It came when the trace was over, even if nobody had got around to ending it.
    Late,
    Rejected,
    /// Genuine, but says nothing about a probe.
    Irrelevant,
    /// New keys are known.
    Ready,
}

enum Phase {
    /// Nothing done yet.
    Start,
    /// Waiting for a connection and for its handshake to be seen.
    Handshake {
        connected: bool,
        deadline: Time,
    },
    Probing,
    Failed(TraceError),
}

/// A flow and what was sent on it.
pub(crate) struct FlowState {
    pub flow: Flow,
    pub ledger: Ledger,
    /// Answers that do not say which probe they are to.
    pub datagrams: Option<Box<Datagrams>>,
    /// The probe that is alone on its way, so that such an answer is to it.
    alone: Option<ProbeId>,
}

/// A probe that a strategy has asked for.
#[derive(Debug, Clone, Copy)]
struct Asked {
    flow: FlowIndex,
    id: ProbeId,
    /// Instead of the flow's.
    label: Option<u32>,
    alone: bool,
}

pub(crate) struct Trace {
    spec: TraceSpec,
    strategy: Box<dyn Strategy>,
    phase: Phase,
    started: Time,
    flows: Vec<Option<FlowState>>,
    wake_at: Time,
    /// The strategy waits, and is over then: what comes later does not count.
    closing: Option<Time>,
    /// The probe that the kernel had no room for, or that has been asked for and is not settled
    /// yet.
    asked: Option<Asked>,
    /// How much longer probes may wait for room in the kernel's queue, all together.
    queue_patience: Duration,
    /// Since when the next probe has been waiting for room.
    queue_full_since: Option<Time>,
    probes_sent: u32,
    /// Why a probe could not be sent.
    refusal: Option<TraceError>,
    /// Probes that were refused before any left.
    refused_first: u8,
    /// Somebody has answered.
    is_answered: bool,
    /// Whether nobody answers on the local link; `None`: that was not asked.
    lacks_neighbour: Option<bool>,
}

impl Trace {
    pub(crate) fn new(spec: TraceSpec, strategy: Box<dyn Strategy>, now: Time) -> Self {
        Trace {
            spec,
            strategy,
            phase: Phase::Start,
            started: now,
            // Most traces have one.
            flows: Vec::with_capacity(1),
            wake_at: Time::ZERO,
            closing: None,
            asked: None,
            queue_patience: spec.timeout,
            queue_full_since: None,
            probes_sent: 0,
            refusal: None,
            refused_first: 0,
            is_answered: false,
            lacks_neighbour: None,
        }
    }

    /// A flow with fresh identifiers, not yet part of the trace.
    pub(crate) fn draw_flow(&self, source: (IpAddr, u16), now: Time, rng: &mut StdRng) -> Flow {
        let TraceSpec {
            method,
            target,
            port,
            max_ttl,
            packet,
            plan,
            ..
        } = self.spec;
        let numbering = Numbering {
            span: max_ttl,
            attempts: if plan.is_paths() {
                MAX_REPEATS
            } else {
                MAX_ATTEMPTS
            },
        };
        Flow::new(method, source, (target, port), (numbering, packet), now, rng)
    }

    /// Adds a flow; its number.
    pub(crate) fn add_flow(&mut self, flow: Flow) -> FlowIndex {
        self.flows.push(Some(FlowState {
            flow,
            ledger: Ledger::new(self.spec.first_ttl),
            datagrams: None,
            alone: None,
        }));
        self.wake_at = Time::ZERO;
        (self.flows.len() - 1) as FlowIndex
    }

    /// A further flow could not be had. The strategy sees that it is missing.
    pub(crate) fn flow_failed(&mut self, error: TraceError) {
        self.refusal = Some(error);
        self.flows.push(None);
        self.wake_at = Time::ZERO;
    }

    /// Gives a flow up; the keys under which it is known.
    pub(crate) fn remove_flow(&mut self, flow: FlowIndex) -> Option<FlowState> {
        self.flows.get_mut(flow as usize)?.take()
    }

    pub(crate) fn flow(&self, flow: FlowIndex) -> Option<&FlowState> {
        self.flows.get(flow as usize)?.as_ref()
    }

    fn flow_mut(&mut self, flow: FlowIndex) -> Option<&mut FlowState> {
        self.flows.get_mut(flow as usize)?.as_mut()
    }

    /// The keys of all flows.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (FlowIndex, Key)> + '_ {
        let of = |(index, state): (usize, &Option<FlowState>)| {
            let keys = state.as_ref().map(|state| state.flow.keys());
            keys.map(|keys| keys.map(move |key| (index as FlowIndex, key)))
        };
        self.flows.iter().enumerate().filter_map(of).flatten()
    }

    pub(crate) fn has_connection(&self) -> bool {
        self.flow(0).is_some_and(|state| state.flow.needs_handshake())
    }

    /// When [`Trace::due`] must be called next.
    pub(crate) fn wake_at(&self) -> Time {
        match &self.phase {
            Phase::Handshake { deadline, .. } => *deadline,
            Phase::Failed(_) => Time::ZERO,
            Phase::Start | Phase::Probing => self.wake_at,
        }
    }

    /// What to do at `now`, when [`Trace::wake_at`] has come.
    pub(crate) fn due(&mut self, now: Time, responders: &mut Responders) -> Due {
        if now < self.wake_at() {
            return Due::Nothing;
        }
        match &self.phase {
            Phase::Start if self.has_connection() => {
                self.phase = Phase::Handshake {
                    connected: false,
                    deadline: now + self.spec.timeout.min(self.spec.longest),
                };
                Due::Connect
            }
            Phase::Start => {
                self.phase = Phase::Probing;
                self.step(now, responders)
            }
            Phase::Handshake { connected, .. } => {
                self.phase = Phase::Failed(self.handshake_timeout(*connected));
                Due::Finish
            }
            Phase::Failed(_) => Due::Finish,
            Phase::Probing => self.step(now, responders),
        }
    }

    /// The answer to [`Due::AskForNeighbour`].
    pub(crate) fn neighbour(&mut self, is_missing: bool) {
        self.lacks_neighbour = Some(is_missing);
        self.wake_at = Time::ZERO;
    }

    /// The trace is over, unless it is still to be asked why nobody has answered.
    fn over(&mut self) -> Due {
        if self.is_answered || self.probes_sent == 0 || self.lacks_neighbour.is_some() {
            Due::Finish
        } else {
            self.lacks_neighbour = Some(false);
            Due::AskForNeighbour
        }
    }

    fn step(&mut self, now: Time, responders: &mut Responders) -> Due {
        if now >= self.started + self.spec.longest {
            return self.over();
        }
        if let Some(Asked { flow, id, .. }) = self.asked {
            return Due::Send { flow, id };
        }
        let mut view = View {
            now,
            started: self.started,
            spec: &self.spec,
            flows: &self.flows,
            responders,
            lacks_neighbour: false,
        };
        let step = self.strategy.next(&mut view);
        self.closing = None;
        match step {
            Step::Send {
                flow,
                ttl,
                label,
                alone,
            } => {
                let Some(state) = self.flow(flow) else {
                    debug_assert!(false, "a strategy probes on a flow that is not there");
                    return Due::Finish;
                };
                let id = state.ledger.next(ttl);
                self.asked = Some(Asked {
                    flow,
                    id,
                    label,
                    alone,
                });
                Due::Send { flow, id }
            }
            Step::Open => Due::Open,
            Step::Close { flow, settled } => Due::Close { flow, settled },
            Step::Wait { until, last } => {
                let end = self.started + self.spec.longest;
                self.wake_at = until.min(end).max(now + Duration::from_nanos(1));
                self.closing = last.then_some(self.wake_at);
                Due::Nothing
            }
            Step::Done => self.over(),
        }
    }

    fn handshake_timeout(&self, connected: bool) -> TraceError {
        let TraceSpec { target, port, .. } = self.spec;
        if connected {
            return TraceError::Handshake(format!(
                "connected to {target} port {port}, but saw no SYN-ACK within {} ms",
                HANDSHAKE_SIGHT.as_millis()
            ));
        }
        sack::not_supported(format!(
            "no connection to {target} port {port} within {} ms",
            self.spec.timeout.as_millis()
        ))
    }

    /// The packet of a probe.
    pub(crate) fn probe(&self, flow: FlowIndex, id: ProbeId, now: Time) -> Option<Probe> {
        let mut probe = self.flow(flow)?.flow.probe(id, now);
        let asked = self.asked.filter(|asked| (asked.flow, asked.id) == (flow, id));
        if let Some(label) = asked.and_then(|asked| asked.label) {
            probe.flow_label = label;
        }
        Some(probe)
    }

    /// The probe that [`Trace::due`] asked for has left.
    pub(crate) fn sent(&mut self, flow: FlowIndex, id: ProbeId, at: Time, responders: &mut Responders) {
        let Some(Asked { alone, .. }) = self.asked.take_if(|asked| (asked.flow, asked.id) == (flow, id))
        else {
            return;
        };
        let place = self.spec.place(id.ttl);
        let is_paths = self.spec.plan.is_paths();
        if let Some(state) = self.flow_mut(flow) {
            state.ledger.record_sent(id, at);
            // A probe that ends before the last router reaches nobody who answers so.
            let ends_before = state.alone.is_some()
                && state
                    .ledger
                    .highest_passed(u8::MAX)
                    .is_some_and(|passed| id.ttl <= passed);
            if alone || !ends_before {
                state.alone = alone.then_some(id);
            }
            // At a TTL with several nodes it is not known whose limit an answer would count
            // against.
            let mark = if is_paths { at } else { responders.sent(place, at) };
            state.ledger.set_mark(id, mark);
        }
        self.probes_sent += 1;
        self.wake_at = Time::ZERO;
        if let Some(since) = self.queue_full_since.take() {
            self.queue_patience = self.queue_patience.saturating_sub(at.since(since));
        }
    }

    /// The kernel knows better when the probe left.
    pub(crate) fn sent_by_kernel(&mut self, flow: FlowIndex, id: ProbeId, at: Time) {
        if let Some(state) = self.flow_mut(flow) {
            state.ledger.sent_by_kernel(id, at);
        }
    }

    /// The kernel has no room for the probe now; it is tried again at `again`. All probes of a
    /// trace together wait at most as long as an answer may take, so that a queue that stays full
    /// does not keep the trace from ending; what does not leave by then counts as refused. Whether
    /// it is tried again.
    pub(crate) fn queue_full(&mut self, now: Time, again: Time, error: NetError) -> bool {
        let since = *self.queue_full_since.get_or_insert(now);
        let is_patient = now.since(since) < self.queue_patience;
        if is_patient {
            self.wake_at = again.min(self.started + self.spec.longest);
        } else {
            self.queue_patience = Duration::ZERO;
            self.queue_full_since = None;
            // It was tried often enough.
            self.refused_first = MOST_REFUSED_FIRST;
            self.send_failed(now, error.with_hint(QUEUE_STAYS_FULL).into());
        }
        is_patient
    }

    /// The kernel refused the probe. Ends a run if that was so of all of the first ones.
    pub(crate) fn send_failed(&mut self, at: Time, error: TraceError) {
        let Some(Asked { flow, id, .. }) = self.asked.take() else {
            return;
        };
        self.wake_at = Time::ZERO;
        if self.probes_sent == 0 && self.spec.plan.needs_first() {
            self.refused_first = self.refused_first.saturating_add(1);
            if self.refused_first >= MOST_REFUSED_FIRST {
                self.phase = Phase::Failed(error);
                return;
            }
        }
        self.refusal.get_or_insert(error);
        if let Some(state) = self.flow_mut(flow) {
            state.ledger.record_refused(id, at);
        }
    }

    pub(crate) fn connected(&mut self, now: Time) -> Credit {
        let Phase::Handshake { connected, deadline } = &mut self.phase else {
            return Credit::Irrelevant;
        };
        // Told once more, it gives no more time.
        if !std::mem::replace(connected, true) {
            *deadline = now + HANDSHAKE_SIGHT;
        }
        match self.flow_mut(0).map(|state| state.flow.connected()) {
            Some(verdict) => self.handshake(verdict),
            None => Credit::Irrelevant,
        }
    }

    pub(crate) fn connect_failed(&mut self, cause: &NetError) {
        if matches!(self.phase, Phase::Handshake { .. }) {
            self.phase = Phase::Failed(sack::not_supported(cause.to_string()));
        }
    }

    pub(crate) fn fail(&mut self, error: TraceError) {
        self.phase = Phase::Failed(error);
    }

    fn handshake(&mut self, verdict: ReplyMeaning) -> Credit {
        // What is read in the same moment as its failure does not revive it.
        if !matches!(self.phase, Phase::Handshake { .. }) {
            return Credit::Irrelevant;
        }
        match verdict {
            ReplyMeaning::Ready => {
                self.phase = Phase::Probing;
                self.wake_at = Time::ZERO;
                Credit::Ready
            }
            ReplyMeaning::Fail(error) => {
                self.phase = Phase::Failed(error);
                Credit::Irrelevant
            }
            _ => Credit::Irrelevant,
        }
    }

    /// Whether what arrives at `at` comes when time is up.
    fn is_late(&self, at: Time) -> bool {
        self.closing.is_some_and(|closing| at > closing)
    }

    /// Takes a reply whose key led to this flow.
    pub(crate) fn reply(
        &mut self,
        flow: FlowIndex,
        reply: &Reply,
        at: Time,
        responders: &mut Responders,
    ) -> Credit {
        let is_late = self.is_late(at);
        let Some(state) = self.flow_mut(flow) else {
            return Credit::Rejected;
        };
        if reply.destination != state.flow.fields.source {
            return Credit::Rejected;
        }
        let ReplyKind::IcmpError { error, quoted, mpls } = &reply.kind else {
            return self.direct(flow, reply, at, responders);
        };
        let ledger = &state.ledger;
        let Some(probe) = state.flow.quoted(quoted, |id| ledger.was_sent(id)) else {
            return Credit::Rejected;
        };
        if is_late {
            return Credit::Late;
        }
        let attempt = probe.attempt.or_else(|| state.ledger.sole_attempt(probe.ttl, at));
        if self.is_own_kernel(flow, reply.source) {
            return self.dropped_here(flow, probe.ttl, attempt, *error);
        }
        let answer = Answer {
            address: reply.source,
            rtt: None,
            destination: self.is_destination(flow, reply.source, *error),
            error: Some(*error),
            reply_ttl: reply.ttl,
            quoted_ttl: Some(quoted.ttl),
            mpls: *mpls,
            kernel_stamped: true,
            attempt,
            translated: probe.translated,
        };
        self.credit(flow, probe.ttl, Received::of(answer, at), responders)
    }

    /// Whether an ICMP error from this address is one that this machine sends to itself.
    fn is_own_kernel(&self, flow: FlowIndex, from: IpAddr) -> bool {
        self.flow(flow).is_some_and(|state| {
            let fields = &state.flow.fields;
            from == fields.source && fields.source != fields.destination
        })
    }

    /// Our own kernel took the probe and then gave up. Nobody answers at the next hop's address:
    /// the probe is lost here, which is no error. Or a local firewall rejects it: that is one, and
    /// ends a trace to which nothing has come back yet.
    fn dropped_here(&mut self, flow: FlowIndex, ttl: u8, attempt: Option<u8>, error: IcmpError) -> Credit {
        let target = self.spec.target;
        let is_run = self.spec.plan.needs_first();
        let no_neighbour = match error {
            IcmpError::Unreachable { code } => code == if target.is_ipv4() { 1 } else { 3 },
            IcmpError::TimeExceeded => false,
        };
        let Some(state) = self.flow_mut(flow) else {
            return Credit::Rejected;
        };
        let attempt = attempt.or_else(|| state.ledger.attempts_at(ttl).checked_sub(1));
        let Some(attempt) = attempt.filter(|attempt| {
            state.ledger.was_sent(ProbeId {
                ttl,
                attempt: *attempt,
            })
        }) else {
            return Credit::Rejected;
        };
        let nothing_came = state
            .ledger
            .attempts()
            .iter()
            .all(|sent| sent.fate != Fate::Answered);
        state.ledger.dropped(ProbeId { ttl, attempt });
        if !no_neighbour && nothing_came && is_run {
            let unreachable = std::io::Error::from(std::io::ErrorKind::HostUnreachable);
            let error = NetError::new(Operation::Send, Some(target), unreachable)
                .with_hint("this machine's own kernel reports it: a local firewall rejects probes");
            self.phase = Phase::Failed(error.into());
        }
        self.wake_at = Time::ZERO;
        Credit::Irrelevant
    }

    fn is_destination(&self, flow: FlowIndex, from: IpAddr, error: IcmpError) -> bool {
        let counts = match error {
            IcmpError::Unreachable { .. } => true,
            IcmpError::TimeExceeded => self
                .flow(flow)
                .is_some_and(|state| state.flow.method().time_exceeded_from_target_is_destination()),
        };
        counts && from == self.spec.target
    }

    fn direct(&mut self, flow: FlowIndex, reply: &Reply, at: Time, responders: &mut Responders) -> Credit {
        let is_late = self.is_late(at);
        let timeout = self.spec.timeout;
        let is_syn = self.spec.method == Method::TcpSyn;
        let is_udp = self.spec.method == Method::Udp;
        let Some(state) = self.flow_mut(flow) else {
            return Credit::Rejected;
        };
        let verdict = state.flow.direct(reply, at);
        let answer = |attempt| Answer {
            address: reply.source,
            rtt: None,
            destination: true,
            error: None,
            reply_ttl: reply.ttl,
            quoted_ttl: None,
            mpls: MplsStack::default(),
            kernel_stamped: true,
            attempt,
            translated: false,
        };
        let received = |attempt, at| Received::of(answer(attempt), at);
        if is_late {
            return if matches!(verdict, ReplyMeaning::Reject) {
                Credit::Rejected
            } else {
                Credit::Late
            };
        }
        match verdict {
            ReplyMeaning::Ignore => Credit::Irrelevant,
            ReplyMeaning::Reject => Credit::Rejected,
            ReplyMeaning::Answer { ttl, attempt } => {
                // A repeated SYN is answered with the timestamp of the first (RFC 9293 §3.10.7.4
                // leaves it at that).
                let is_later = |sent: &Attempt| {
                    sent.id.ttl == ttl
                        && Some(sent.id.attempt) > attempt
                        && sent.at <= at
                        && sent.fate != Fate::Refused
                };
                let is_unclear = is_syn && attempt.is_some() && state.ledger.attempts().iter().any(is_later);
                // An echo can be forged: routers and closed ports know better.
                let ledger = &state.ledger;
                let is_passed = ledger.highest_passed(u8::MAX).is_some_and(|passed| ttl <= passed);
                if is_udp && (is_passed || ledger.is_destination_proven()) {
                    return Credit::Rejected;
                }
                let received = Received {
                    is_unclear,
                    is_unproven: is_udp,
                    ..received(attempt.filter(|_| !is_unclear), at)
                };
                self.credit(flow, ttl, received, responders)
            }
            // Known already, there or nearer; what is heard from now on is about other probes, and
            // has their times.
            ReplyMeaning::Covers { ttl, .. }
                if state.ledger.destination().is_some_and(|known| known <= ttl) =>
            {
                Credit::Duplicate
            }
            ReplyMeaning::Covers { ttl, newest } => {
                // A repeated byte fills a hole, and then the blocks do not say which segment was
                // acknowledged.
                let is_repeated = |sent: &Attempt| sent.id.ttl >= ttl && sent.id.attempt > 0 && sent.at <= at;
                let is_unclear = state.ledger.attempts().iter().any(is_repeated);
                let at = at - sent_apart(&state.ledger, ttl, newest);
                let received = Received {
                    is_unclear,
                    ..received(None, at)
                };
                self.credit(flow, ttl, received, responders)
            }
            ReplyMeaning::AnswerIfSole => match sole_unanswered(&state.ledger, at, timeout) {
                Some(ttl) => self.credit(flow, ttl, received(None, at), responders),
                None => Credit::Rejected,
            },
            ReplyMeaning::Unidentified => self.unidentified(flow, received(None, at), responders),
            verdict @ (ReplyMeaning::Ready | ReplyMeaning::Fail(_)) => self.handshake(verdict),
        }
    }

    /// An answer of the target's that does not say to which probe. Of one that is alone on its way
    /// it is clear.
    fn unidentified(&mut self, flow: FlowIndex, received: Received, responders: &mut Responders) -> Credit {
        let is_single = self.spec.first_ttl == self.spec.max_ttl;
        let delay = self.spec.delay;
        let Some(state) = self.flow_mut(flow) else {
            return Credit::Rejected;
        };
        if state.ledger.is_destination_proven() {
            return Credit::Duplicate;
        }
        let sent = state.ledger.attempts();
        let alone = match sent {
            [sole] if is_single => Some(sole.id.ttl),
            _ => state.alone.map(|id| id.ttl),
        };
        let is_known = |ttl: u8| {
            state
                .ledger
                .destination()
                .is_some_and(|destination| destination <= ttl)
        };
        if let Some(ttl) = alone.filter(|ttl| !is_known(*ttl)) {
            let mut waiting = sent
                .iter()
                .rev()
                .filter(|sent| sent.id.ttl == ttl && sent.fate == Fate::Waiting);
            let last = waiting.next().map(|sent| (sent.id.attempt, sent.at));
            // Earlier ones at the same TTL may have been lost, but not long ago.
            let before = waiting.next().map(|sent| sent.at);
            let is_clear = last
                .zip(before)
                .is_none_or(|((_, last), before)| last.since(before) >= SOON);
            let answer = Answer {
                attempt: last.filter(|_| is_clear).map(|(attempt, _)| attempt),
                ..received.answer
            };
            let received = Received {
                answer,
                is_unproven: true,
                ..received
            };
            return self.credit(flow, ttl, received, responders);
        }
        if state.ledger.destination().is_some() {
            return Credit::Duplicate;
        }
        if sent.is_empty() {
            return Credit::Rejected;
        }
        let gaps = sent
            .iter()
            .zip(sent.iter().skip(1))
            .map(|(one, next)| next.at.since(one.at));
        let apart = gaps.fold(delay, Duration::max);
        let datagrams = state
            .datagrams
            .get_or_insert_with(|| Box::new(Datagrams::new(received)));
        if !datagrams.add(received.at, apart) {
            return Credit::Duplicate;
        }
        self.is_answered = true;
        self.wake_at = Time::ZERO;
        Credit::Kept
    }

    /// The kernel itself matched an answer to a probe. What the probe's TTL had become, it does not
    /// tell.
    pub(crate) fn answered(
        &mut self,
        flow: FlowIndex,
        id: ProbeId,
        matched: MatchedReply,
        at: Time,
        responders: &mut Responders,
    ) -> Credit {
        let MatchedReply {
            from,
            error,
            reply_ttl,
            mpls,
        } = matched;
        if self.is_late(at) {
            return Credit::Late;
        }
        if let Some(error) = error.filter(|_| self.is_own_kernel(flow, from)) {
            return self.dropped_here(flow, id.ttl, Some(id.attempt), error);
        }
        let answer = Answer {
            address: from,
            rtt: None,
            destination: error.is_none_or(|error| self.is_destination(flow, from, error)),
            error,
            reply_ttl,
            quoted_ttl: None,
            mpls,
            kernel_stamped: true,
            attempt: Some(id.attempt),
            translated: false,
        };
        self.credit(flow, id.ttl, Received::of(answer, at), responders)
    }

    fn credit(
        &mut self,
        flow: FlowIndex,
        ttl: u8,
        received: Received,
        responders: &mut Responders,
    ) -> Credit {
        let place = self.spec.place(ttl);
        let is_paths = self.spec.plan.is_paths();
        let Some(state) = self.flow_mut(flow) else {
            return Credit::Rejected;
        };
        let (answer, is_first, is_new) = match state.ledger.answered(ttl, received) {
            Entry::NeverSent => return Credit::Rejected,
            Entry::Duplicate => return Credit::Duplicate,
            Entry::Another(answer) => (answer, true, false),
            Entry::New { answer, is_first } => (answer, is_first, true),
        };
        let is_told = if is_paths {
            is_first && self.strategy.answered(flow, ttl, &answer)
        } else {
            if is_first {
                let attempt = answer.attempt.map(|attempt| ProbeId { ttl, attempt });
                let sent = attempt
                    .and_then(|id| state.ledger.mark(id))
                    .or_else(|| state.ledger.last_sent(ttl))
                    .unwrap_or(received.at);
                responders.answered(place, answer.address, answer.error.is_some(), sent, answer.rtt);
            }
            is_new
        };
        self.wake_at = Time::ZERO;
        self.is_answered = true;
        if is_told {
            Credit::Matched {
                found: FoundHop { flow, ttl, answer },
            }
        } else if is_paths && (is_first || is_new) {
            Credit::Kept
        } else {
            Credit::Duplicate
        }
    }

    /// Whether the trace goes on only for answers that a limit holds back: it can be ended early.
    pub(crate) fn is_lingering(&self) -> bool {
        self.strategy.is_lingering()
    }

    /// Ends a lingering trace with what it has.
    pub(crate) fn cut_short(&mut self) {
        self.spec.longest = Duration::ZERO;
        self.wake_at = Time::ZERO;
    }

    /// The result; the trace is over.
    pub(crate) fn finish(
        mut self,
        now: Time,
        responders: &mut Responders,
    ) -> Result<TraceOutcome, TraceError> {
        if let Phase::Failed(error) = self.phase {
            return Err(error);
        }
        let failure = self.flow(0).filter(|state| state.ledger.destination().is_none());
        if let Some(error) = failure.and_then(|state| state.flow.method().failure_without_destination()) {
            return Err(error);
        }
        if self.probes_sent == 0
            && let Some(error) = self.refusal
        {
            return Err(error);
        }
        let mut view = View {
            now,
            started: self.started,
            spec: &self.spec,
            flows: &self.flows,
            responders,
            lacks_neighbour: self.lacks_neighbour == Some(true),
        };
        Ok(self.strategy.outcome(&mut view))
    }
}

/// How much later the second probe left.
fn sent_apart(ledger: &Ledger, first: u8, second: u8) -> Duration {
    match (ledger.first_sent(first), ledger.first_sent(second)) {
        (Some(first), Some(second)) => second.since(first),
        _ => Duration::ZERO,
    }
}

/// The only TTL that an answer may be about that arrives at `at`: those that have had their time do
/// not count, or one silent hop would be the end of it.
fn sole_unanswered(ledger: &Ledger, at: Time, timeout: Duration) -> Option<u8> {
    let patience = patience(ledger, timeout);
    // Where the destination has answered already, this may be a duplicate of that.
    let answered = ledger.destination().and_then(|ttl| ledger.last_sent(ttl));
    if answered.is_some_and(|sent| at < sent + patience * 2) {
        return None;
    }
    let has_time = |ttl| {
        let (first, last) = (ledger.first_sent(ttl)?, ledger.last_sent(ttl)?);
        Some(at <= (first + timeout).max(last + patience))
    };
    let may_be = |ttl: u8| !ledger.is_settled(ttl) && has_time(ttl).unwrap_or(false);
    let mut candidates = ledger
        .attempts()
        .iter()
        .map(|attempt| attempt.id.ttl)
        .filter(|ttl| may_be(*ttl));
    let ttl = candidates.next()?;
    candidates.all(|other| other == ttl).then_some(ttl)
}
