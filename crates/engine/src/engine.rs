//! The sans-IO engine: all traces of a process, the table where replies meet them, and their
//! timers.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use traceroute_wire::{Probe, Reply, ReplyKind};

use crate::answer::{FoundHop, TraceError, TraceOutcome};
use crate::counters::Counters;
use crate::flow::{Flow, ProbeId};
use crate::key::Key;
use crate::responders::Responders;
use crate::strategy::{self, Strategy};
use crate::trace::{Credit, Due, FlowIndex, Trace, TraceSpec};
use crate::{ConnectionId, NetError, NetworkEvent, Time, Token};

/// Names a trace from [`Engine::start`] to its [`EngineEvent::Finished`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TraceId {
    slot: u32,
    generation: u32,
}

/// What the engine wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send this probe, then call [`Engine::sent`] or [`Engine::send_failed`].
    Send {
        /// Names the probe.
        token: Token,
        /// The packet.
        probe: Probe,
    },
    /// Reserve a port, or an echo identifier, for a further flow of a trace, then call
    /// [`Engine::opened`] or [`Engine::open_failed`].
    Open {
        /// The trace it is for.
        trace: TraceId,
    },
    /// Release the port or identifier of a flow.
    Close {
        /// The trace it is of.
        trace: TraceId,
        /// The flow: the first has number 0, those of [`Action::Open`] follow in order.
        flow: u32,
    },
    /// Ask [`Network::lacks_neighbour`](crate::Network::lacks_neighbour) about a trace's latest
    /// flow, then call [`Engine::neighbour`]: nobody has answered any of its probes.
    AskForNeighbour {
        /// The trace it is for.
        trace: TraceId,
    },
    /// Open a TCP connection; the outcome comes back as [`NetworkEvent::Connected`] or
    /// [`NetworkEvent::ConnectFailed`], or by [`Engine::fail`] when it cannot even begin.
    Connect {
        /// Names the connection.
        id: ConnectionId,
        /// The trace it is for.
        trace: TraceId,
        /// Reserved local end.
        local: SocketAddr,
        /// Remote end.
        remote: SocketAddr,
    },
}

/// What the engine has to tell.
#[derive(Debug)]
pub enum EngineEvent {
    /// A hop was found.
    Found {
        /// The trace.
        trace: TraceId,
        /// The hop.
        found: FoundHop,
    },
    /// An end-to-end probe was answered, or will not be any more.
    Probe {
        /// The trace.
        trace: TraceId,
        /// Which probe of those that left, from 0.
        index: u32,
        /// Its round-trip time; `None`: no answer.
        rtt: Option<Duration>,
    },
    /// A trace is over; its state is gone.
    Finished {
        /// The trace.
        trace: TraceId,
        /// A connection to close.
        connection: Option<ConnectionId>,
        /// What it found.
        result: Result<TraceOutcome, TraceError>,
    },
}

/// How long to wait before sending again when the kernel's queue is full.
const SEND_RETRY: Duration = Duration::from_millis(1);
/// How many times fresh identifiers are drawn when they collide with those of other traces.
const IDENTIFIER_DRAWS: usize = 64;

/// Room for what one batch of replies has to tell, so that telling does not allocate.
const EVENTS_AT_ONCE: usize = 512;
/// Timer entries that a trace may have at once: the one that counts, and some that no longer do.
const TIMERS_PER_TRACE: usize = 4;

/// All traces of a process. See the crate documentation.
///
/// Call [`Engine::poll_action`] until it returns `None`, then [`Engine::poll_event`] likewise, then
/// wait until [`Engine::wake_at`] or for a [`NetworkEvent`], which goes to [`Engine::handle`].
pub struct Engine {
    slots: Vec<Slot>,
    free: Vec<u32>,
    table: HashMap<Key, Owner>,
    timers: BinaryHeap<Reverse<(Time, TraceId)>>,
    /// Traces to which something has happened.
    ready: VecDeque<TraceId>,
    events: VecDeque<EngineEvent>,
    rng: StdRng,
    limit: usize,
    counters: Counters,
    responders: Responders,
}

/// The flow to which a key leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner {
    slot: u32,
    flow: FlowIndex,
}

struct Slot {
    generation: u32,
    /// The time of the one timer entry that counts; others for this slot are stale.
    wake_at: Time,
    /// It is among those to be asked now.
    is_ready: bool,
    trace: Option<Trace>,
}

impl Engine {
    /// An engine for at most `limit` traces at once. The seed decides all identifiers; outside
    /// tests it must be random, so that nobody can guess them.
    pub fn new(limit: usize, seed: [u8; 32]) -> Self {
        Engine {
            slots: Vec::new(),
            free: Vec::new(),
            table: HashMap::new(),
            timers: BinaryHeap::new(),
            ready: VecDeque::new(),
            events: VecDeque::with_capacity(EVENTS_AT_ONCE),
            rng: StdRng::from_seed(seed),
            limit,
            counters: Counters::default(),
            responders: Responders::new(),
        }
    }

    /// Starts a trace from `source` and `source_port`; for ICMP that is the echo identifier, or 0
    /// for a random one.
    ///
    /// # Errors
    /// [`TraceError::TooManyTraces`] at the limit, or when no identifiers are free for this target.
    pub fn start(
        &mut self,
        now: Time,
        spec: TraceSpec,
        source: IpAddr,
        source_port: u16,
    ) -> Result<TraceId, TraceError> {
        self.start_with(now, spec, strategy::of(&spec), (source, source_port))
    }

    /// Starts a trace that another strategy leads.
    pub(crate) fn start_with(
        &mut self,
        now: Time,
        spec: TraceSpec,
        strategy: Box<dyn Strategy>,
        source: (IpAddr, u16),
    ) -> Result<TraceId, TraceError> {
        if self.running() >= self.limit {
            return Err(TraceError::TooManyTraces { limit: self.limit });
        }
        let mut trace = Trace::new(spec, strategy, now);
        let flow = self.draw_flow(&trace, source, now)?;
        trace.add_flow(flow);
        self.counters.started += 1;
        self.timers.reserve(TIMERS_PER_TRACE);
        self.ready.reserve(self.slots.len() + 1);
        let id = self.occupy(trace);
        self.register_keys(id.slot);
        self.reschedule(id.slot);
        Ok(id)
    }

    /// A flow for a trace whose identifiers nobody else has.
    fn draw_flow(&mut self, trace: &Trace, source: (IpAddr, u16), now: Time) -> Result<Flow, TraceError> {
        for _ in 0..IDENTIFIER_DRAWS {
            let flow = trace.draw_flow(source, now, &mut self.rng);
            if !flow.keys().any(|key| self.table.contains_key(&key)) {
                return Ok(flow);
            }
        }
        Err(TraceError::TooManyTraces { limit: self.limit })
    }

    fn occupy(&mut self, trace: Trace) -> TraceId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                wake_at: Time::MAX,
                is_ready: false,
                trace: None,
            });
            (self.slots.len() - 1) as u32
        });
        let entry = &mut self.slots[slot as usize];
        entry.trace = Some(trace);
        TraceId {
            slot,
            generation: entry.generation,
        }
    }

    /// The flow that [`Action::Open`] asked for has this port or identifier; 0 for a random
    /// identifier.
    pub fn opened(&mut self, now: Time, id: TraceId, source: IpAddr, port: u16) {
        let Some(trace) = self.take(id) else { return };
        let flow = self.draw_flow(&trace, (source, port), now);
        let mut trace = trace;
        match flow {
            Ok(flow) => {
                let keys: Vec<Key> = flow.keys().collect();
                let flow = trace.add_flow(flow);
                let owner = Owner { slot: id.slot, flow };
                self.table.extend(keys.into_iter().map(|key| (key, owner)));
            }
            Err(error) => trace.flow_failed(error),
        }
        self.put_back(id, trace);
    }

    /// The trace and the flow that a probe belongs to.
    pub fn sender(token: Token) -> (TraceId, u32) {
        let (trace, flow, _) = untoken(token);
        (trace, flow)
    }

    /// The flow that [`Action::Open`] asked for cannot be had.
    pub fn open_failed(&mut self, id: TraceId, error: TraceError) {
        if let Some(trace) = self.trace_mut(id) {
            trace.flow_failed(error);
            self.reschedule(id.slot);
        }
    }

    /// What [`Action::AskForNeighbour`] asked for.
    pub fn neighbour(&mut self, id: TraceId, is_missing: bool) {
        if let Some(trace) = self.trace_mut(id) {
            trace.neighbour(is_missing);
            self.reschedule(id.slot);
        }
    }

    /// Takes a trace out of its slot for a moment.
    fn take(&mut self, id: TraceId) -> Option<Trace> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        (slot.generation == id.generation)
            .then(|| slot.trace.take())
            .flatten()
    }

    fn put_back(&mut self, id: TraceId, trace: Trace) {
        if let Some(slot) = self.slots.get_mut(id.slot as usize) {
            slot.trace = Some(trace);
        }
        self.reschedule(id.slot);
    }

    /// Ends a trace that goes on only for answers that a limit holds back, with what it has, to
    /// free its ports. Whether there was one.
    pub fn shed(&mut self) -> bool {
        let mut lingering = self.slots.iter_mut().enumerate();
        let found = lingering.find_map(|(slot, entry)| {
            let trace = entry.trace.as_mut().filter(|trace| trace.is_lingering())?;
            trace.cut_short();
            Some(slot as u32)
        });
        if let Some(slot) = found {
            self.counters.cut_short += 1;
            self.reschedule(slot);
        }
        found.is_some()
    }

    /// Ends a trace at once, without an event. Returns the connection to close, if it has one.
    /// Unknown ids are ignored.
    pub fn cancel(&mut self, id: TraceId) -> Option<ConnectionId> {
        let trace = self.vacate(id)?;
        self.counters.cancelled += 1;
        trace.has_connection().then(|| connection_id(id))
    }

    /// Ends a trace with an error that its caller met.
    pub fn fail(&mut self, id: TraceId, error: TraceError) {
        if let Some(trace) = self.trace_mut(id) {
            trace.fail(error);
            self.reschedule(id.slot);
        }
    }

    /// Number of traces that are not over.
    pub fn running(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Timers, those included that no longer count: at most four for each trace.
    pub fn timers_len(&self) -> usize {
        self.timers.len()
    }

    /// Entries in the table where replies meet traces; 0 when nothing runs.
    pub fn table_len(&self) -> usize {
        self.table.len()
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        Counters {
            responders: self.responders.len() as u64,
            responders_forgotten: self.responders.forgotten(),
            ..self.counters
        }
    }

    /// When [`Engine::poll_action`] has something to do next; `None`: never, unless something
    /// happens.
    pub fn wake_at(&mut self) -> Option<Time> {
        if !self.ready.is_empty() {
            return Some(Time::ZERO);
        }
        while let Some(Reverse((at, id))) = self.timers.peek().copied() {
            if self.is_current(at, id) {
                return Some(at);
            }
            self.timers.pop();
        }
        None
    }

    fn is_current(&self, at: Time, id: TraceId) -> bool {
        self.slots.get(id.slot as usize).is_some_and(|slot| {
            slot.trace.is_some() && slot.generation == id.generation && slot.wake_at == at
        })
    }

    /// The next thing to do at `now`, if anything is due.
    pub fn poll_action(&mut self, now: Time) -> Option<Action> {
        while self.wake_at()? <= now {
            let ready = self.ready.pop_front();
            let is_timer = ready.is_none();
            let Some(id) = ready.or_else(|| self.timers.pop().map(|Reverse((_, id))| id)) else {
                break;
            };
            let slot = &mut self.slots[id.slot as usize];
            if slot.generation != id.generation {
                continue;
            }
            if is_timer {
                slot.wake_at = Time::MAX;
            } else {
                slot.is_ready = false;
            }
            let Some(trace) = slot.trace.as_mut() else {
                continue;
            };
            match trace.due(now, &mut self.responders) {
                Due::Send { flow, id: probe_id } => {
                    let Some(probe) = trace.probe(flow, probe_id, now) else {
                        continue;
                    };
                    // No timer before it is known what became of it.
                    slot.wake_at = Time::MAX;
                    return Some(Action::Send {
                        token: token(id, flow, probe_id),
                        probe,
                    });
                }
                Due::Open => {
                    slot.wake_at = Time::MAX;
                    return Some(Action::Open { trace: id });
                }
                Due::AskForNeighbour => {
                    slot.wake_at = Time::MAX;
                    return Some(Action::AskForNeighbour { trace: id });
                }
                Due::Close { flow, settled } => {
                    if let Some((index, rtt)) = settled {
                        self.events.push_back(EngineEvent::Probe {
                            trace: id,
                            index,
                            rtt,
                        });
                    }
                    if let Some(closed) = trace.remove_flow(flow) {
                        for key in closed.flow.keys() {
                            self.table.remove(&key);
                        }
                    }
                    self.reschedule(id.slot);
                    return Some(Action::Close { trace: id, flow });
                }
                Due::Connect => {
                    let fields = trace.flow(0).map(|state| state.flow.fields);
                    self.reschedule(id.slot);
                    let Some(fields) = fields else { continue };
                    return Some(Action::Connect {
                        id: connection_id(id),
                        trace: id,
                        local: SocketAddr::new(fields.source, fields.source_port),
                        remote: SocketAddr::new(fields.destination, fields.destination_port),
                    });
                }
                Due::Nothing => self.reschedule(id.slot),
                Due::Finish => self.finish(now, id),
            }
        }
        None
    }

    /// The next thing to tell.
    pub fn poll_event(&mut self) -> Option<EngineEvent> {
        self.events.pop_front()
    }

    /// The probe of an [`Action::Send`] left at `at`.
    pub fn sent(&mut self, token: Token, at: Time) {
        let (id, flow, probe) = untoken(token);
        self.counters.sent += 1;
        let slot = self.slots.get_mut(id.slot as usize);
        if let Some(trace) = slot
            .filter(|slot| slot.generation == id.generation)
            .and_then(|slot| slot.trace.as_mut())
        {
            trace.sent(flow, probe, at, &mut self.responders);
            self.reschedule(id.slot);
        }
    }

    /// The probe of an [`Action::Send`] could not be sent. A full queue is tried again, for the
    /// trace's timeout at most; anything else ends a run when none of its probes has left yet, and
    /// otherwise leaves that TTL without an answer.
    pub fn send_failed(&mut self, now: Time, token: Token, error: NetError) {
        let (id, ..) = untoken(token);
        let transient = matches!(
            error.source.kind(),
            ErrorKind::WouldBlock | ErrorKind::Interrupted
        ) || error.is_queue_full;
        let mut is_tried_again = transient;
        if let Some(trace) = self.trace_mut(id) {
            if transient {
                is_tried_again = trace.queue_full(now, now + SEND_RETRY, error);
            } else {
                trace.send_failed(now, error.into());
            }
            self.reschedule(id.slot);
        }
        let counter = if is_tried_again {
            &mut self.counters.send_retries
        } else {
            &mut self.counters.send_errors
        };
        *counter += 1;
    }

    /// Takes what happened on the network. `now` is the present; events have their own, earlier
    /// times.
    pub fn handle(&mut self, now: Time, event: NetworkEvent<'_>) {
        match event {
            NetworkEvent::Reply { reply, at } => self.reply(reply, at),
            NetworkEvent::Sent { token, at } => {
                let (id, flow, probe) = untoken(token);
                if let Some(trace) = self.trace_mut(id) {
                    trace.sent_by_kernel(flow, probe, at);
                }
            }
            NetworkEvent::Answered { token, answer, at } => {
                let (id, flow, probe) = untoken(token);
                let slot = self.slots.get_mut(id.slot as usize);
                let trace = slot
                    .filter(|slot| slot.generation == id.generation)
                    .and_then(|slot| slot.trace.as_mut());
                match trace {
                    Some(trace) => {
                        let credit = trace.answered(flow, probe, answer, at, &mut self.responders);
                        self.account(id.slot, credit);
                    }
                    None => self.counters.unmatched += 1,
                }
            }
            NetworkEvent::Ignored(reason) => {
                if let Some(counter) = self.counters.ignored.get_mut(reason.index()) {
                    *counter += 1;
                }
            }
            NetworkEvent::Connected(connection) => {
                let id = trace_of(connection);
                if let Some(credit) = self.trace_mut(id).map(|trace| trace.connected(now)) {
                    self.account(id.slot, credit);
                }
            }
            NetworkEvent::ConnectFailed(connection, error) => {
                let id = trace_of(connection);
                if let Some(trace) = self.trace_mut(id) {
                    trace.connect_failed(&error);
                    self.reschedule(id.slot);
                }
            }
        }
    }

    /// A quote is looked up by our port first; where a NAT has replaced that, it leads nowhere or
    /// to another flow, and the marks that a NAT leaves decide.
    fn reply(&mut self, reply: &Reply, at: Time) {
        let mut rejected = false;
        for key in Key::of(reply).into_iter().flatten() {
            let Some(owner) = self.table.get(&key).copied() else {
                continue;
            };
            let Some(trace) = self
                .slots
                .get_mut(owner.slot as usize)
                .and_then(|slot| slot.trace.as_mut())
            else {
                continue;
            };
            let credit = trace.reply(owner.flow, reply, at, &mut self.responders);
            if credit == Credit::Rejected && matches!(reply.kind, ReplyKind::IcmpError { .. }) {
                rejected = true;
                continue;
            }
            self.account(owner.slot, credit);
            return;
        }
        if rejected {
            self.counters.rejected += 1;
        } else {
            self.counters.unmatched += 1;
        }
    }

    fn account(&mut self, slot: u32, credit: Credit) {
        match credit {
            Credit::Matched { found } => {
                self.counters.matched += 1;
                self.counters.translated += u64::from(found.answer.translated);
                let trace = TraceId {
                    slot,
                    generation: self.slots[slot as usize].generation,
                };
                self.events.push_back(EngineEvent::Found { trace, found });
            }
            Credit::Kept => self.counters.matched += 1,
            Credit::Duplicate => self.counters.duplicates += 1,
            Credit::Late => self.counters.unmatched += 1,
            Credit::Rejected => self.counters.rejected += 1,
            Credit::Irrelevant => {}
            Credit::Ready => self.register_keys(slot),
        }
        self.reschedule(slot);
    }

    fn trace_mut(&mut self, id: TraceId) -> Option<&mut Trace> {
        let slot = self
            .slots
            .get_mut(id.slot as usize)
            .filter(|slot| slot.generation == id.generation)?;
        slot.trace.as_mut()
    }

    /// Enters the trace's keys. A key that another trace holds stays with that one: only sequence
    /// numbers that the kernel chose can collide here, and then this trace sees no quotes with
    /// them.
    fn register_keys(&mut self, slot: u32) {
        if let Some(trace) = &self.slots[slot as usize].trace {
            for (flow, key) in trace.keys() {
                self.table.entry(key).or_insert(Owner { slot, flow });
            }
        }
    }

    fn reschedule(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        let Some(trace) = &entry.trace else { return };
        let at = trace.wake_at();
        let id = TraceId {
            slot,
            generation: entry.generation,
        };
        if at == Time::ZERO {
            if !std::mem::replace(&mut entry.is_ready, true) {
                self.ready.push_back(id);
            }
            return;
        }
        if at == entry.wake_at {
            return;
        }
        entry.wake_at = at;
        // What no longer counts is removed when its time comes, which may be in days.
        if self.timers.len() >= TIMERS_PER_TRACE * self.running() {
            let mut timers = std::mem::take(&mut self.timers);
            timers.retain(|Reverse((at, id))| self.is_current(*at, *id));
            self.timers = timers;
        }
        self.timers.push(Reverse((at, id)));
    }

    fn finish(&mut self, now: Time, id: TraceId) {
        if let Some(trace) = self.vacate(id) {
            self.counters.finished += 1;
            let connection = trace.has_connection().then(|| connection_id(id));
            let result = trace.finish(now, &mut self.responders);
            match &result {
                Ok(TraceOutcome::Run(run)) => run.hops.iter().for_each(|hop| self.counters.lost += hop.lost),
                Ok(TraceOutcome::EndToEnd(probes)) => self.counters.lost += probes.lost,
                Ok(TraceOutcome::Paths(paths)) => {
                    paths
                        .nodes
                        .iter()
                        .for_each(|node| self.counters.lost += node.lost);
                }
                Err(_) => {}
            }
            self.events.push_back(EngineEvent::Finished {
                trace: id,
                connection,
                result,
            });
        }
    }

    fn vacate(&mut self, id: TraceId) -> Option<Trace> {
        let slot = self
            .slots
            .get_mut(id.slot as usize)
            .filter(|slot| slot.generation == id.generation)?;
        let trace = slot.trace.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        slot.wake_at = Time::MAX;
        slot.is_ready = false;
        for (flow, key) in trace.keys() {
            if self.table.get(&key) == Some(&Owner { slot: id.slot, flow }) {
                self.table.remove(&key);
            }
        }
        self.free.push(id.slot);
        Some(trace)
    }
}

/// Which trace, and which of its flows, TTL (8 bits) and attempt (8).
fn token(id: TraceId, flow: FlowIndex, probe: ProbeId) -> Token {
    Token {
        trace: u64::from(id.slot) << 32 | u64::from(id.generation),
        probe: u64::from(flow) << 16 | u64::from(probe.ttl) << 8 | u64::from(probe.attempt),
    }
}

fn untoken(token: Token) -> (TraceId, FlowIndex, ProbeId) {
    let id = TraceId {
        slot: (token.trace >> 32) as u32,
        generation: token.trace as u32,
    };
    let probe = ProbeId {
        ttl: (token.probe >> 8) as u8,
        attempt: token.probe as u8,
    };
    (id, (token.probe >> 16) as FlowIndex, probe)
}

fn connection_id(id: TraceId) -> ConnectionId {
    ConnectionId(packed(id))
}

fn trace_of(ConnectionId(value): ConnectionId) -> TraceId {
    unpacked(value)
}

/// 32 bits of slot, 32 of generation.
fn packed(id: TraceId) -> u64 {
    u64::from(id.slot) << 32 | u64::from(id.generation)
}

fn unpacked(value: u64) -> TraceId {
    TraceId {
        slot: (value >> 32) as u32,
        generation: value as u32,
    }
}
