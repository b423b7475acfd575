//! The sans-IO engine: all traces of a process, the table where replies meet them, and their timers.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use traceroute_net::{ConnectionId, NetError, NetworkEvent, Time, Token};
use traceroute_wire::{Probe, Reply};

use crate::counters::Counters;
use crate::key::Key;
use crate::result::{Found, TraceError, TraceResult};
use crate::run::{Credit, Due, Run, TraceSpec};

/// Names a trace from [`Engine::start`] to its [`Event::Finished`].
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
pub enum Event {
    /// A hop was found.
    Found {
        /// The trace.
        trace: TraceId,
        /// The hop.
        found: Found,
    },
    /// A trace is over; its state is gone.
    Finished {
        /// The trace.
        trace: TraceId,
        /// A connection to close.
        connection: Option<ConnectionId>,
        /// What it found.
        result: Result<TraceResult, TraceError>,
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

/// Generations fit the 24 bits that a [`Token`] has for them.
const GENERATION_MASK: u32 = 0xFF_FFFF;

/// All traces of a process. See the crate documentation.
///
/// Call [`Engine::poll_action`] until it returns `None`, then [`Engine::poll_event`] likewise, then wait until
/// [`Engine::wake_at`] or for a [`NetworkEvent`], which goes to [`Engine::handle`].
pub struct Engine {
    slots: Vec<Slot>,
    free: Vec<u32>,
    table: HashMap<Key, u32>,
    timers: BinaryHeap<Reverse<(Time, TraceId)>>,
    events: VecDeque<Event>,
    rng: StdRng,
    limit: usize,
    counters: Counters,
}

struct Slot {
    generation: u32,
    /// The time of the one timer entry that counts; others for this slot are stale.
    wake_at: Time,
    run: Option<Run>,
}

impl Engine {
    /// An engine for at most `limit` traces at once. The seed decides all identifiers; outside tests it must be random,
    /// so that nobody can guess them.
    pub fn new(limit: usize, seed: [u8; 32]) -> Self {
        Engine {
            slots: Vec::new(),
            free: Vec::new(),
            table: HashMap::new(),
            timers: BinaryHeap::new(),
            events: VecDeque::with_capacity(EVENTS_AT_ONCE),
            rng: StdRng::from_seed(seed),
            limit,
            counters: Counters::default(),
        }
    }

    /// Starts a trace from `source` and `source_port`; for ICMP that is the echo identifier, or 0 for a random one.
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
        let too_many = TraceError::TooManyTraces { limit: self.limit };
        if self.running() >= self.limit {
            return Err(too_many);
        }
        let mut run = Run::new(spec, source, source_port, now, &mut self.rng);
        let mut draws = 1;
        while run.keys().any(|key| self.table.contains_key(&key)) {
            if draws == IDENTIFIER_DRAWS {
                return Err(too_many);
            }
            draws += 1;
            run.renew_identifiers(now, &mut self.rng);
        }
        self.counters.started += 1;
        self.timers.reserve(TIMERS_PER_TRACE);
        let id = self.occupy(run);
        self.register_keys(id.slot);
        self.reschedule(id.slot);
        Ok(id)
    }

    fn occupy(&mut self, run: Run) -> TraceId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                wake_at: Time::MAX,
                run: None,
            });
            (self.slots.len() - 1) as u32
        });
        let entry = &mut self.slots[slot as usize];
        entry.run = Some(run);
        TraceId {
            slot,
            generation: entry.generation,
        }
    }

    /// Ends a trace at once, without an event. Returns the connection to close, if it has one. Unknown ids are ignored.
    pub fn cancel(&mut self, id: TraceId) -> Option<ConnectionId> {
        let run = self.vacate(id)?;
        self.counters.cancelled += 1;
        run.has_connection().then(|| connection_id(id))
    }

    /// Ends a trace with an error that its caller met.
    pub fn fail(&mut self, id: TraceId, error: TraceError) {
        if let Some(run) = self.run_mut(id) {
            run.fail(error);
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
        self.counters
    }

    /// When [`Engine::poll_action`] has something to do next; `None`: never, unless something happens.
    pub fn wake_at(&mut self) -> Option<Time> {
        while let Some(Reverse((at, id))) = self.timers.peek().copied() {
            if self.is_current(at, id) {
                return Some(at);
            }
            self.timers.pop();
        }
        None
    }

    fn is_current(&self, at: Time, id: TraceId) -> bool {
        self.slots
            .get(id.slot as usize)
            .is_some_and(|slot| slot.run.is_some() && slot.generation == id.generation && slot.wake_at == at)
    }

    /// The next thing to do at `now`, if anything is due.
    pub fn poll_action(&mut self, now: Time) -> Option<Action> {
        while self.wake_at()? <= now {
            let Reverse((_, id)) = self.timers.pop()?;
            let slot = &mut self.slots[id.slot as usize];
            slot.wake_at = Time::MAX;
            let Some(run) = slot.run.as_mut() else { continue };
            match run.due(now) {
                Due::Send { ttl } => {
                    return Some(Action::Send {
                        token: token(id, ttl),
                        probe: run.probe(ttl, now),
                    });
                }
                Due::Connect => {
                    let flow = *run.flow();
                    self.reschedule(id.slot);
                    return Some(Action::Connect {
                        id: connection_id(id),
                        trace: id,
                        local: SocketAddr::new(flow.source, flow.source_port),
                        remote: SocketAddr::new(flow.destination, flow.destination_port),
                    });
                }
                Due::Nothing => self.reschedule(id.slot),
                Due::Finish => self.finish(id),
            }
        }
        None
    }

    /// The next thing to tell.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The probe of an [`Action::Send`] left at `at`.
    pub fn sent(&mut self, token: Token, at: Time) {
        let (id, ttl) = untoken(token);
        self.counters.sent += 1;
        if let Some(run) = self.run_mut(id) {
            run.sent(ttl, at);
            self.reschedule(id.slot);
        }
    }

    /// The probe of an [`Action::Send`] could not be sent. A full queue is tried again, for the trace's timeout at most;
    /// anything else ends the trace when none of its probes has left yet, and otherwise leaves that TTL without an answer.
    pub fn send_failed(&mut self, now: Time, token: Token, error: NetError) {
        let (id, _) = untoken(token);
        let transient = matches!(
            error.source.kind(),
            ErrorKind::WouldBlock | ErrorKind::Interrupted
        ) || error.is_queue_full();
        let mut is_tried_again = transient;
        if let Some(run) = self.run_mut(id) {
            if transient {
                is_tried_again = run.queue_full(now, now + SEND_RETRY, error);
            } else {
                run.send_failed(now, error.into());
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

    /// Takes what happened on the network. `now` is the present; events have their own, earlier times.
    pub fn handle(&mut self, now: Time, event: NetworkEvent<'_>) {
        match event {
            NetworkEvent::Reply { reply, at } => self.reply(reply, at),
            NetworkEvent::Sent { token, at } => {
                let (id, ttl) = untoken(token);
                if let Some(run) = self.run_mut(id) {
                    run.sent_by_kernel(ttl, at);
                }
            }
            NetworkEvent::Answered { token, answer, at } => {
                let (id, ttl) = untoken(token);
                match self.run_mut(id).map(|run| run.answered(ttl, answer, at)) {
                    Some(credit) => self.account(id.slot, credit),
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
                if let Some(credit) = self.run_mut(id).map(|run| run.connected(now)) {
                    self.account(id.slot, credit);
                }
            }
            NetworkEvent::ConnectFailed(connection, error) => {
                let id = trace_of(connection);
                if let Some(run) = self.run_mut(id) {
                    run.connect_failed(&error);
                    self.reschedule(id.slot);
                }
            }
        }
    }

    fn reply(&mut self, reply: &Reply, at: Time) {
        let slot = Key::of(reply).and_then(|key| self.table.get(&key).copied());
        let run = slot
            .and_then(|slot| self.slots.get_mut(slot as usize))
            .and_then(|slot| slot.run.as_mut());
        match (slot, run) {
            (Some(slot), Some(run)) => {
                let credit = run.reply(reply, at);
                self.account(slot, credit);
            }
            _ => self.counters.unmatched += 1,
        }
    }

    fn account(&mut self, slot: u32, credit: Credit) {
        match credit {
            Credit::Matched {
                translated,
                found,
                settled,
            } => {
                self.counters.matched += 1;
                self.counters.translated += u64::from(translated);
                let trace = TraceId {
                    slot,
                    generation: self.slots[slot as usize].generation,
                };
                for found in [found, settled].into_iter().flatten() {
                    self.events.push_back(Event::Found { trace, found });
                }
            }
            Credit::Duplicate => self.counters.duplicates += 1,
            Credit::Late => self.counters.unmatched += 1,
            Credit::Rejected => self.counters.rejected += 1,
            Credit::Irrelevant => {}
            Credit::Ready => self.register_keys(slot),
        }
        self.reschedule(slot);
    }

    fn run_mut(&mut self, id: TraceId) -> Option<&mut Run> {
        let slot = self
            .slots
            .get_mut(id.slot as usize)
            .filter(|slot| slot.generation == id.generation)?;
        slot.run.as_mut()
    }

    /// Enters the run's keys. A key that another trace holds stays with that one: only sequence numbers that the kernel
    /// chose can collide here, and then this trace sees no quotes with them.
    fn register_keys(&mut self, slot: u32) {
        if let Some(run) = &self.slots[slot as usize].run {
            for key in run.keys() {
                self.table.entry(key).or_insert(slot);
            }
        }
    }

    fn reschedule(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        let Some(run) = &entry.run else { return };
        let at = run.wake_at();
        if at == entry.wake_at {
            return;
        }
        entry.wake_at = at;
        let id = TraceId {
            slot,
            generation: entry.generation,
        };
        // What no longer counts is removed when its time comes, which may be in days.
        if self.timers.len() >= TIMERS_PER_TRACE * self.running() {
            let mut timers = std::mem::take(&mut self.timers);
            timers.retain(|Reverse((at, id))| self.is_current(*at, *id));
            self.timers = timers;
        }
        self.timers.push(Reverse((at, id)));
    }

    fn finish(&mut self, id: TraceId) {
        if let Some(run) = self.vacate(id) {
            self.counters.finished += 1;
            let connection = run.has_connection().then(|| connection_id(id));
            let (settled, result) = run.finish();
            if let Some(found) = settled {
                self.events.push_back(Event::Found { trace: id, found });
            }
            self.events.push_back(Event::Finished {
                trace: id,
                connection,
                result,
            });
        }
    }

    fn vacate(&mut self, id: TraceId) -> Option<Run> {
        let slot = self
            .slots
            .get_mut(id.slot as usize)
            .filter(|slot| slot.generation == id.generation)?;
        let run = slot.run.take()?;
        slot.generation = slot.generation.wrapping_add(1) & GENERATION_MASK;
        slot.wake_at = Time::MAX;
        for key in run.keys() {
            if self.table.get(&key) == Some(&id.slot) {
                self.table.remove(&key);
            }
        }
        self.free.push(id.slot);
        Some(run)
    }
}

/// 32 bits of slot, 24 of generation, 8 of TTL.
fn token(id: TraceId, ttl: u8) -> Token {
    Token(u64::from(id.slot) << 32 | u64::from(id.generation & GENERATION_MASK) << 8 | u64::from(ttl))
}

fn untoken(Token(value): Token) -> (TraceId, u8) {
    let id = TraceId {
        slot: (value >> 32) as u32,
        generation: (value >> 8) as u32 & GENERATION_MASK,
    };
    (id, value as u8)
}

fn connection_id(id: TraceId) -> ConnectionId {
    ConnectionId(u64::from(id.slot) << 32 | u64::from(id.generation))
}

fn trace_of(ConnectionId(value): ConnectionId) -> TraceId {
    TraceId {
        slot: (value >> 32) as u32,
        generation: value as u32,
    }
}
