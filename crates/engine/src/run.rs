//! One trace as a state machine: which probe goes out when, which answer counts, and when the result is final.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use traceroute_net::{Answer, NetError, Operation, Time};
use traceroute_wire::{IcmpError, MplsStack, Probe, Reply, ReplyKind};

use crate::key::Key;
use crate::method::{self, Flow, Probing, Strategy, Verdict};
use crate::result::{Found, Hop, HopAnswer, TraceError, TraceResult};
use crate::service::Answers;

/// How a trace probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// ICMP echo requests, in parallel.
    Icmp,
    /// UDP datagrams, in parallel.
    Udp,
    /// TCP SYN segments, one after the other.
    TcpSyn,
    /// TCP bytes answered by selective acknowledgments, in parallel.
    TcpSack,
}

impl Method {
    /// Time between probes: 50 ms, for SACK 10 ms.
    pub fn default_delay(self) -> Duration {
        match self {
            Method::TcpSack => Duration::from_millis(10),
            Method::Icmp | Method::Udp | Method::TcpSyn => Duration::from_millis(50),
        }
    }
}

/// What to trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceSpec {
    /// How to probe.
    pub method: Method,
    /// Target address.
    pub target: IpAddr,
    /// Probed port; unused for ICMP.
    pub port: u16,
    /// First TTL probed, in hops, at least 1.
    pub first_ttl: u8,
    /// Last TTL probed, in hops, at least `first_ttl`.
    pub max_ttl: u8,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Time between probes.
    pub delay: Duration,
}

impl TraceSpec {
    /// A trace of all TTLs from 1 to `max_ttl` with the method's usual delay.
    pub fn full(method: Method, target: IpAddr, port: u16, max_ttl: u8, timeout: Duration) -> Self {
        TraceSpec {
            method,
            target,
            port,
            first_ttl: 1,
            max_ttl,
            timeout,
            delay: method.default_delay(),
        }
    }

    /// A single probe with TTL `ttl`.
    pub fn single(method: Method, target: IpAddr, port: u16, ttl: u8, timeout: Duration) -> Self {
        TraceSpec {
            first_ttl: ttl,
            ..TraceSpec::full(method, target, port, ttl, timeout)
        }
    }
}

/// How long after connecting the handshake must have been seen on the wire.
const HANDSHAKE_SIGHT: Duration = Duration::from_millis(500);

/// What is said when probes cannot leave for want of room.
const QUEUE_STAYS_FULL: &str =
    "the send queue of this machine stays full: send less at once, or look at what holds up its interface";

/// What a run wants when its time has come.
#[derive(Debug)]
pub(crate) enum Due {
    Connect,
    Send { ttl: u8 },
    Nothing,
    Finish,
}

/// What became of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Credit {
    /// It answered a probe.
    Matched {
        translated: bool,
        found: Option<Found>,
        /// The destination, when this answer is what shows its TTL ([`Run::settle_unordered`]).
        settled: Option<Found>,
    },
    Duplicate,
    /// It came when the trace was over, even if nobody had got around to ending it.
    Late,
    Rejected,
    /// Genuine, but says nothing about a probe.
    Irrelevant,
    /// New keys are known.
    Ready,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    at: Time,
    by_kernel: bool,
    answer: Option<Received>,
}

#[derive(Debug, Clone, Copy)]
struct Received {
    from: IpAddr,
    at: Time,
    destination: bool,
    error: Option<IcmpError>,
    reply_ttl: u8,
    quoted_ttl: Option<u8>,
    mpls: MplsStack,
}

impl Received {
    /// The destination's answer counts more than a router's, otherwise the first one does, by its stamp: what comes in by two
    /// interfaces or queues may be read in another order.
    fn replaces(&self, known: &Received) -> bool {
        (self.destination, Reverse(self.at)) > (known.destination, Reverse(known.at))
    }
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

pub(crate) struct Run {
    spec: TraceSpec,
    flow: Flow,
    method: Box<dyn Probing>,
    phase: Phase,
    /// By TTL − first TTL; `None`: the kernel refused to send it.
    probes: Vec<Option<Sent>>,
    next_send: Time,
    /// How much longer probes may wait for room in the kernel's queue, all together.
    queue_patience: Duration,
    /// Since when the next probe has been waiting for room.
    queue_full_since: Option<Time>,
    /// When the last probe was sent, for the final timeout.
    last_sent: Time,
    /// Lowest TTL for which the destination answered.
    destination: Option<u8>,
    unordered: Option<Answers>,
    probes_sent: u32,
}

impl Run {
    pub(crate) fn new(
        spec: TraceSpec,
        source: IpAddr,
        source_port: u16,
        now: Time,
        rng: &mut StdRng,
    ) -> Self {
        let destination_port = if spec.method == Method::Icmp { 0 } else { spec.port };
        let flow = Flow {
            source,
            source_port,
            destination: spec.target,
            destination_port,
            flow_label: rng.random_range(1..1 << 20),
        };
        Run {
            spec,
            flow,
            method: method::new(spec.method, source_port, now, rng),
            phase: Phase::Start,
            probes: Vec::new(),
            next_send: now,
            queue_patience: spec.timeout,
            queue_full_since: None,
            last_sent: now,
            destination: None,
            unordered: None,
            probes_sent: 0,
        }
    }

    /// The same trace with other identifiers, because these collided.
    pub(crate) fn renew_identifiers(&mut self, now: Time, rng: &mut StdRng) {
        self.method = method::new(self.spec.method, self.flow.source_port, now, rng);
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> + use<> {
        self.method.keys(&self.flow).into_iter().flatten()
    }

    pub(crate) fn flow(&self) -> &Flow {
        &self.flow
    }

    pub(crate) fn has_connection(&self) -> bool {
        self.method.needs_handshake()
    }

    /// When [`Run::due`] must be called next.
    pub(crate) fn wake_at(&self) -> Time {
        match &self.phase {
            Phase::Start => self.next_send,
            Phase::Handshake { deadline, .. } => *deadline,
            Phase::Failed(_) => Time::ZERO,
            Phase::Probing if self.is_complete() => Time::ZERO,
            Phase::Probing => self.probing_wake(),
        }
    }

    fn probing_wake(&self) -> Time {
        let patience = self.last_sent + self.spec.timeout;
        if !self.may_send_more() {
            return patience;
        }
        match (self.method.strategy(), self.probes.last()) {
            // Serial: silence costs the timeout, but never less than the delay.
            (Strategy::Serial, Some(Some(Sent { answer: None, .. }))) => patience.max(self.next_send),
            _ => self.next_send,
        }
    }

    /// What to do at `now`, when [`Run::wake_at`] has come.
    pub(crate) fn due(&mut self, now: Time) -> Due {
        if now < self.wake_at() {
            return Due::Nothing;
        }
        match &self.phase {
            Phase::Start if self.method.needs_handshake() => {
                self.phase = Phase::Handshake {
                    connected: false,
                    deadline: now + self.spec.timeout,
                };
                Due::Connect
            }
            Phase::Start => {
                self.phase = Phase::Probing;
                self.due(now)
            }
            Phase::Handshake { connected, .. } => {
                self.phase = Phase::Failed(self.handshake_timeout(*connected));
                Due::Finish
            }
            Phase::Failed(_) => Due::Finish,
            Phase::Probing if self.is_complete() || !self.may_send_more() => Due::Finish,
            Phase::Probing => Due::Send { ttl: self.next_ttl() },
        }
    }

    fn handshake_timeout(&self, connected: bool) -> TraceError {
        let Flow {
            destination,
            destination_port,
            ..
        } = self.flow;
        if connected {
            return TraceError::Handshake(format!(
                "connected to {destination} port {destination_port}, but saw no SYN-ACK within {} ms",
                HANDSHAKE_SIGHT.as_millis()
            ));
        }
        method::sack::not_supported(format!(
            "no connection to {destination} port {destination_port} within {} ms",
            self.spec.timeout.as_millis()
        ))
    }

    fn next_ttl(&self) -> u8 {
        self.spec.first_ttl.saturating_add(self.probes.len() as u8)
    }

    fn may_send_more(&self) -> bool {
        let planned = usize::from(self.spec.max_ttl - self.spec.first_ttl) + 1;
        self.probes.len() < planned && self.destination.is_none() && self.unordered.is_none()
    }

    /// Whether what arrives at `at` comes when time is up.
    fn is_late(&self, at: Time) -> bool {
        !self.may_send_more() && at > self.last_sent + self.spec.timeout
    }

    /// Nothing that may still arrive can change the result.
    fn is_complete(&self) -> bool {
        let answered = |probe: &Option<Sent>| probe.is_none_or(|sent| sent.answer.is_some());
        let no_more = !self.may_send_more() && self.unordered.is_none();
        match (self.destination, self.method.strategy()) {
            (Some(_), Strategy::Serial) => true,
            (Some(ttl), Strategy::Parallel) => self.probes.iter().take(self.index(ttl)).all(answered),
            // The others have had their time.
            (None, Strategy::Serial) => no_more && self.probes.last().is_some_and(answered),
            (None, Strategy::Parallel) => no_more && self.probes.iter().all(answered),
        }
    }

    fn index(&self, ttl: u8) -> usize {
        usize::from(ttl.saturating_sub(self.spec.first_ttl))
    }

    fn probe_mut(&mut self, ttl: u8) -> Option<&mut Sent> {
        let index = usize::from(ttl.checked_sub(self.spec.first_ttl)?);
        self.probes.get_mut(index)?.as_mut()
    }

    /// The packet for `ttl`.
    pub(crate) fn probe(&self, ttl: u8, now: Time) -> Probe {
        let outline = self.method.outline(&self.flow, ttl, now);
        Probe {
            source: self.flow.source,
            destination: self.flow.destination,
            ttl,
            identification: outline.identification,
            flow_label: self.flow.flow_label,
            kind: outline.kind,
        }
    }

    /// The probe that [`Run::due`] asked for has left.
    pub(crate) fn sent(&mut self, ttl: u8, at: Time) {
        if ttl != self.next_ttl() || !self.may_send_more() {
            return;
        }
        self.probes.push(Some(Sent {
            at,
            by_kernel: false,
            answer: None,
        }));
        self.probes_sent += 1;
        self.last_sent = at;
        self.next_send = at + self.spec.delay;
        if let Some(since) = self.queue_full_since.take() {
            self.queue_patience = self.queue_patience.saturating_sub(at.since(since));
        }
    }

    /// The kernel knows better when the probe left.
    pub(crate) fn sent_by_kernel(&mut self, ttl: u8, at: Time) {
        if let Some(sent) = self.probe_mut(ttl)
            && sent.answer.is_none()
        {
            sent.at = at;
            sent.by_kernel = true;
        }
    }

    /// The kernel has no room for the probe now; it is tried again at `again`. All probes of a trace together wait at most
    /// as long as an answer may take, so that a queue that stays full does not keep the trace from ending; what does not
    /// leave by then counts as refused. Whether it is tried again.
    pub(crate) fn queue_full(&mut self, now: Time, again: Time, error: NetError) -> bool {
        let since = *self.queue_full_since.get_or_insert(now);
        let is_patient = now.since(since) < self.queue_patience;
        if is_patient {
            self.next_send = again;
        } else {
            self.queue_patience = Duration::ZERO;
            self.queue_full_since = None;
            self.send_failed(now, error.with_hint(QUEUE_STAYS_FULL).into());
        }
        is_patient
    }

    /// The kernel refused the probe. Ends the trace when none has left yet.
    pub(crate) fn send_failed(&mut self, at: Time, error: TraceError) {
        if self.probes_sent == 0 {
            self.phase = Phase::Failed(error);
        } else if self.may_send_more() {
            self.probes.push(None);
            self.next_send = at + self.spec.delay;
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
        let verdict = self.method.connected();
        self.handshake(verdict, now)
    }

    pub(crate) fn connect_failed(&mut self, cause: &NetError) {
        if matches!(self.phase, Phase::Handshake { .. }) {
            self.phase = Phase::Failed(method::sack::not_supported(cause.to_string()));
        }
    }

    pub(crate) fn fail(&mut self, error: TraceError) {
        self.phase = Phase::Failed(error);
    }

    fn handshake(&mut self, verdict: Verdict, now: Time) -> Credit {
        // What is read in the same moment as its failure does not revive it.
        if !matches!(self.phase, Phase::Handshake { .. }) {
            return Credit::Irrelevant;
        }
        match verdict {
            Verdict::Ready => {
                self.phase = Phase::Probing;
                self.next_send = now;
                Credit::Ready
            }
            Verdict::Fail(error) => {
                self.phase = Phase::Failed(error);
                Credit::Irrelevant
            }
            _ => Credit::Irrelevant,
        }
    }

    /// Takes a reply whose key led here.
    pub(crate) fn reply(&mut self, reply: &Reply, at: Time) -> Credit {
        if reply.destination != self.flow.source {
            return Credit::Rejected;
        }
        if self.is_late(at) {
            return Credit::Late;
        }
        match &reply.kind {
            ReplyKind::IcmpError { error, quoted, mpls } => {
                let Some(probe) = self.method.quoted(&self.flow, quoted) else {
                    return Credit::Rejected;
                };
                if self.is_own_kernel(reply.source) {
                    return self.refused_by_own_kernel(probe.ttl);
                }
                let received = Received {
                    from: reply.source,
                    at,
                    destination: self.is_destination(reply.source, *error),
                    error: Some(*error),
                    reply_ttl: reply.ttl,
                    quoted_ttl: Some(quoted.ttl),
                    mpls: *mpls,
                };
                self.credit(probe.ttl, received, probe.translated)
            }
            _ => self.direct(reply, at),
        }
    }

    /// Whether an ICMP error from this address is one that this machine sends to itself.
    fn is_own_kernel(&self, from: IpAddr) -> bool {
        from == self.flow.source && self.flow.source != self.flow.destination
    }

    /// Our own kernel took the probe and then gave up: nobody answers at the next hop's address, or a local firewall
    /// rejects it. That is a local error, not a hop; it ends the trace when nothing has come back yet.
    fn refused_by_own_kernel(&mut self, ttl: u8) -> Credit {
        if self.probe_mut(ttl).is_none() {
            return Credit::Rejected;
        }
        if self.probes.iter().flatten().all(|sent| sent.answer.is_none()) {
            let unreachable = std::io::Error::from(std::io::ErrorKind::HostUnreachable);
            let error = NetError::new(Operation::Send, Some(self.flow.destination), unreachable).with_hint(
                "this machine's own kernel reports it: the next hop does not answer, or a local firewall rejects probes",
            );
            self.phase = Phase::Failed(error.into());
            return Credit::Irrelevant;
        }
        let index = self.index(ttl);
        if let Some(slot) = self.probes.get_mut(index) {
            slot.take_if(|sent| sent.answer.is_none());
        }
        Credit::Irrelevant
    }

    fn is_destination(&self, from: IpAddr, error: IcmpError) -> bool {
        let counts = match error {
            IcmpError::Unreachable { .. } => true,
            IcmpError::TimeExceeded => self.method.time_exceeded_from_target_is_destination(),
        };
        counts && from == self.flow.destination
    }

    fn direct(&mut self, reply: &Reply, at: Time) -> Credit {
        let received = Received {
            from: reply.source,
            at,
            destination: true,
            error: None,
            reply_ttl: reply.ttl,
            quoted_ttl: None,
            mpls: MplsStack::default(),
        };
        match self.method.direct(&self.flow, reply, at) {
            Verdict::Ignore => Credit::Irrelevant,
            Verdict::Reject => Credit::Rejected,
            Verdict::Answer { ttl } => self.credit(ttl, received, false),
            // Known already; what is heard of it from now on is about other probes, and has their times.
            Verdict::Covers { ttl, .. } if self.destination == Some(ttl) => Credit::Duplicate,
            Verdict::Covers { ttl, newest } => {
                let at = at - self.sent_apart(ttl, newest);
                self.credit(ttl, Received { at, ..received }, false)
            }
            Verdict::AnswerIfSole => match self.sole_unanswered(at) {
                Some(ttl) => self.credit(ttl, received, false),
                None => Credit::Rejected,
            },
            Verdict::AnswerInOrder => self.credit_in_order(received),
            verdict @ (Verdict::Ready | Verdict::Fail(_)) => self.handshake(verdict, at),
        }
    }

    /// How much later the second probe left.
    fn sent_apart(&mut self, first: u8, second: u8) -> Duration {
        let mut sent = |ttl| self.probe_mut(ttl).map(|sent| sent.at);
        match (sent(first), sent(second)) {
            (Some(first), Some(second)) => second.since(first),
            _ => Duration::ZERO,
        }
    }

    /// The kernel itself matched an answer to the probe for `ttl`. What the probe's TTL had become, it does not tell.
    pub(crate) fn answered(&mut self, ttl: u8, answer: Answer, at: Time) -> Credit {
        let Answer {
            from,
            error,
            reply_ttl,
            mpls,
        } = answer;
        if self.is_late(at) {
            return Credit::Late;
        }
        if error.is_some() && self.is_own_kernel(from) {
            return self.refused_by_own_kernel(ttl);
        }
        let destination = error.is_none_or(|error| self.is_destination(from, error));
        let received = Received {
            from,
            at,
            destination,
            error,
            reply_ttl,
            quoted_ttl: None,
            mpls,
        };
        self.credit(ttl, received, false)
    }

    fn credit(&mut self, ttl: u8, received: Received, translated: bool) -> Credit {
        let Some(sent) = self.probe_mut(ttl) else {
            return Credit::Rejected;
        };
        if sent.answer.is_some_and(|known| !received.replaces(&known)) {
            return Credit::Duplicate;
        }
        sent.answer = Some(received);
        let rtt = rtt(sent.at, received.at);
        let settled = if received.destination {
            self.destination = Some(self.destination.map_or(ttl, |lowest| lowest.min(ttl)));
            None
        } else {
            self.settle_unordered(false)
        };
        let found = Found {
            ttl,
            address: received.from,
            rtt,
            destination: received.destination,
        };
        Credit::Matched {
            translated,
            found: Some(found),
            settled,
        }
    }

    /// The only probe that an answer may be to that arrives at `at`: those that have had their time do not count, or one
    /// silent hop would be the end of it.
    fn sole_unanswered(&self, at: Time) -> Option<u8> {
        let may_be = |sent: &Sent| sent.answer.is_none() && at <= sent.at + self.spec.timeout;
        let ttls = self.spec.first_ttl..=self.spec.max_ttl;
        let mut candidates = ttls
            .zip(&self.probes)
            .filter(|(_, probe)| probe.as_ref().is_some_and(may_be));
        let (ttl, _) = candidates.next()?;
        candidates.next().is_none().then_some(ttl)
    }

    fn credit_in_order(&mut self, received: Received) -> Credit {
        if self.destination.is_some() || self.probes.is_empty() {
            return Credit::Duplicate;
        }
        let Received {
            from, at, reply_ttl, ..
        } = received;
        let apart = self.farthest_apart();
        let answers = self
            .unordered
            .get_or_insert_with(|| Answers::new(from, reply_ttl, at));
        if !answers.add(at, apart) {
            return Credit::Duplicate;
        }
        Credit::Matched {
            translated: false,
            found: None,
            settled: self.settle_unordered(false),
        }
    }

    /// How long at most one probe left after the other.
    fn farthest_apart(&self) -> Duration {
        let sent = || self.probes.iter().flatten().map(|sent| sent.at);
        let gaps = sent().zip(sent().skip(1)).map(|(one, next)| next.since(one));
        gaps.fold(self.spec.delay, Duration::max)
    }

    /// A service's answers carry no identifier, but it answers every probe that reaches it, in order. So with probes up
    /// to TTL s sent and n answers, the first answer is to TTL s − n + 1, once all of them are in: when there are as many as there
    /// are unanswered probes behind the last router that answered, or when time is up (`finally`).
    fn settle_unordered(&mut self, finally: bool) -> Option<Found> {
        let answers = self.unordered.as_ref().filter(|_| self.destination.is_none())?;
        let answered = |probe: &Option<Sent>| probe.is_some_and(|sent| sent.answer.is_some());
        let lowest = self
            .probes
            .iter()
            .rposition(answered)
            .map_or(0, |index| index + 1);
        let candidates = || {
            let left = |(index, probe): (usize, &Option<Sent>)| probe.map(|sent| (index, sent.at));
            self.probes.iter().enumerate().skip(lowest).filter_map(left)
        };
        let reached = answers.answered(candidates().map(|(_, at)| at), self.spec.delay);
        let not_reached = candidates().count() - reached;
        if not_reached > 0 && !finally {
            return None;
        }
        let (index, _) = candidates().nth(not_reached)?;
        let Answers {
            from,
            reply_ttl,
            first_at: at,
            ..
        } = self.unordered.take()?;
        let sent = self.probes.get_mut(index)?.as_mut()?;
        let answer = Received {
            from,
            at,
            destination: true,
            error: None,
            reply_ttl,
            quoted_ttl: None,
            mpls: MplsStack::default(),
        };
        sent.answer = Some(answer);
        let ttl = self.spec.first_ttl + index as u8;
        self.destination = Some(ttl);
        Some(Found {
            ttl,
            address: from,
            rtt: rtt(sent.at, at),
            destination: true,
        })
    }

    /// The result; the run is over. In front of it the destination, when only the end showed its TTL.
    pub(crate) fn finish(mut self) -> (Option<Found>, Result<TraceResult, TraceError>) {
        let settled = self.settle_unordered(true);
        (settled, self.result())
    }

    fn result(self) -> Result<TraceResult, TraceError> {
        if let Phase::Failed(error) = self.phase {
            return Err(error);
        }
        if self.destination.is_none()
            && let Some(error) = self.method.failure_without_destination()
        {
            return Err(error);
        }
        let last = self.destination.unwrap_or(self.spec.max_ttl);
        let hops = (self.spec.first_ttl..=last).map(|ttl| self.hop(ttl)).collect();
        Ok(TraceResult {
            source: self.flow.source,
            source_port: self.method.reported_source_port(&self.flow),
            destination: self.flow.destination,
            destination_port: self.flow.destination_port,
            hops,
            probes_sent: self.probes_sent,
        })
    }

    fn hop(&self, ttl: u8) -> Hop {
        let sent = self.probes.get(self.index(ttl)).copied().flatten();
        let answer = sent.and_then(|sent| {
            sent.answer.map(|received| HopAnswer {
                address: received.from,
                rtt: rtt(sent.at, received.at),
                destination: received.destination,
                error: received.error,
                reply_ttl: received.reply_ttl,
                quoted_ttl: received.quoted_ttl,
                mpls: received.mpls,
                kernel_stamped: sent.by_kernel,
            })
        });
        Hop { ttl, answer }
    }
}

/// Round-trip time; at least a nanosecond, because zero stands for "no answer" in results.
fn rtt(sent: Time, received: Time) -> Duration {
    received.since(sent).max(Duration::from_nanos(1))
}
