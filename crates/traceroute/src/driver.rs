//! The one thread that pumps an [`Engine`] over a [`Network`], and the handle through which the
//! rest of the process talks to it.
//!
//! - **Back-pressure.** The thread carries out at most 32 actions between two looks at the capture,
//!   and starts at most 64 traces; one only, while actions are due that it did not get to. When more
//!   is asked for than the machine can do, traces start later. Those that run go on, and no reply
//!   waits long and none is lost.
//! - **Fairness.** Traces that have not started wait in the queue of their client, and clients take
//!   turns: who asks for ten thousand keeps nobody else waiting.
//! - **Order.** What is due comes right after a look. So no trace ends before an answer that was
//!   captured is read. An answer counts by when it arrived.
//! - **Rest.** While nothing is traced, nothing is captured (`Network::rest`). The next trace
//!   begins with an empty capture.
//! - **Failures.** When a capture breaks, the traces in flight end with its error, and the next
//!   trace opens the network anew. When the thread panics, they end with `TraceError::Stopped`, and
//!   it restarts with a new engine: one packet must not end a service for good.

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::ops::AddAssign;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use crate::rotation::Rotation;
use tokio::sync::oneshot;
use traceroute_engine::{
    Action, ConnectionId, Counters, Engine, EngineEvent, FlowRequest, FoundHop, NetError, Network,
    NetworkCounters, NetworkEvent, OpenFlow, Operation, Plan, Route, Time, Token, TraceError, TraceId,
    TraceOutcome, TraceSpec, Waker,
};

/// Actions carried out between two looks at the capture, so that its buffer cannot overflow while
/// many probes are due.
const ACTIONS_PER_TURN: usize = 32;
/// Traces started between two looks at the capture.
const STARTS_PER_TURN: usize = 64;
/// The same while actions are due: so many that as much ends as begins.
const STARTS_WHEN_LATE: usize = 1;
/// Commands taken between two looks. That takes no time: starts are put where they wait.
const COMMANDS_PER_TURN: usize = 1024;
/// So many packets at one look, and there may be more.
const CROWD: usize = 32;
/// Looks at the capture, one after the other, as long as it is crowded; then it is the probes'
/// turn.
const LOOKS_PER_TURN: usize = 16;
/// The same when nothing was read for a while: more than a capture has room for.
const LOOKS_AFTER_IDLING: usize = 1024;

/// Opens the network; called on the driver's thread, which alone uses it.
pub type Open = Box<dyn Fn() -> Result<Box<dyn Network + Send>, NetError> + Send>;
/// What a trace tells while it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// A hop answered.
    Hop(FoundHop),
    /// An end-to-end probe was answered, or will not be any more.
    Probe {
        /// Which probe of those that left, from 0.
        index: u32,
        /// Its round-trip time; `None`: no answer.
        rtt: Option<Duration>,
    },
}

/// Called on the driver's thread for what a trace tells while it goes on. Must not block.
pub type OnNews = Box<dyn FnMut(News) + Send>;

/// Counters of the whole driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Traces in flight.
    pub running: usize,
    /// The engine's counters.
    pub engine: Counters,
    /// The network's counters; all zero until the first trace opens it.
    pub network: NetworkCounters,
}

impl AddAssign for Statistics {
    fn add_assign(&mut self, other: Statistics) {
        self.running += other.running;
        self.engine += other.engine;
        self.network += other.network;
    }
}

/// A handle to the driver. Cloning is cheap. The thread ends when every handle and every trace is
/// gone.
#[derive(Clone)]
pub struct Driver {
    shared: Arc<Shared>,
}

struct Shared {
    commands: mpsc::Sender<Command>,
    /// The process that has the thread: one that was forked from it does not.
    process: u32,
    next_ticket: AtomicU64,
    /// Set by the thread once the network is open.
    waker: Mutex<Option<Waker>>,
}

enum Command {
    Start(Box<Start>),
    Cancel { ticket: u64 },
    Statistics(oneshot::Sender<Statistics>),
}

/// What is left after a turn of taking commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Commands {
    /// None is waiting.
    Taken,
    /// There may be more.
    More,
    /// No handle is left, so none can come.
    Over,
}

struct Start {
    ticket: u64,
    client: u64,
    spec: TraceSpec,
    on_news: Option<OnNews>,
    result: oneshot::Sender<Result<TraceOutcome, TraceError>>,
}

impl Driver {
    /// Starts the thread. The network is opened with `open` when the first trace starts, and again
    /// after it broke.
    ///
    /// # Errors
    /// The operating system cannot start a thread.
    pub fn spawn(open: Open, limit: usize, seed: [u8; 32]) -> std::io::Result<Driver> {
        let (commands, inbox) = mpsc::channel();
        let shared = Arc::new(Shared {
            commands,
            process: std::process::id(),
            next_ticket: AtomicU64::new(0),
            waker: Mutex::new(None),
        });
        let weak = Arc::downgrade(&shared);
        let publish = move |waker: Option<Waker>| {
            if let Some(shared) = weak.upgrade() {
                *shared.waker.lock().unwrap_or_else(PoisonError::into_inner) = waker;
            }
        };
        thread::Builder::new()
            .name("probing".to_owned())
            .spawn(move || Pump::new(open, limit, seed, inbox, Box::new(publish)).keep_running())?;
        Ok(Driver { shared })
    }

    /// Starts a trace. Dropping the returned future before it is ready cancels the trace and frees
    /// all it holds.
    pub fn trace(&self, spec: TraceSpec, on_news: Option<OnNews>) -> TraceFuture {
        self.trace_for(0, spec, on_news)
    }

    /// [`Driver::trace`] for one of several clients, by any number.
    pub fn trace_for(&self, client: u64, spec: TraceSpec, on_news: Option<OnNews>) -> TraceFuture {
        let ticket = self.shared.next_ticket.fetch_add(1, Ordering::Relaxed);
        let (result, receiver) = oneshot::channel();
        self.send(Command::Start(Box::new(Start {
            ticket,
            client,
            spec,
            on_news,
            result,
        })));
        TraceFuture {
            ticket,
            receiver,
            driver: self.clone(),
            over: false,
        }
    }

    /// Counters, or `None` when the thread has stopped.
    pub async fn statistics(&self) -> Option<Statistics> {
        let (sender, receiver) = oneshot::channel();
        self.send(Command::Statistics(sender));
        receiver.await.ok()
    }

    fn send(&self, command: Command) {
        if self.shared.process != std::process::id() {
            // The dropped command shows as a closed result channel, too.
            return;
        }
        // A stopped thread shows as a closed result channel.
        let _ = self.shared.commands.send(command);
        self.shared.wake();
    }
}

impl Shared {
    fn wake(&self) {
        if let Some(waker) = self.waker.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            waker();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The thread sees that the channel is closed once it wakes; the sender itself is dropped
        // right after this.
        let (closed, _) = mpsc::channel();
        self.commands = closed;
        self.wake();
    }
}

/// A running trace: a future of its result.
pub struct TraceFuture {
    ticket: u64,
    receiver: oneshot::Receiver<Result<TraceOutcome, TraceError>>,
    driver: Driver,
    over: bool,
}

impl Future for TraceFuture {
    type Output = Result<TraceOutcome, TraceError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let result = Pin::new(&mut self.receiver).poll(context);
        result.map(|received| {
            self.over = true;
            received.unwrap_or(Err(TraceError::Stopped))
        })
    }
}

impl Drop for TraceFuture {
    fn drop(&mut self) {
        if !self.over {
            // First: a trace that still waits for its turn is not cancelled, but seen to be closed.
            self.receiver.close();
            self.driver.send(Command::Cancel { ticket: self.ticket });
        }
    }
}

/// A trace as the thread knows it.
struct RunningTrace {
    ticket: u64,
    request: FlowRequest,
    /// By their numbers, the closed ones, too. What could not be opened is a closed copy of the one
    /// before.
    flows: Vec<RunningFlow>,
    on_news: Option<OnNews>,
    result: oneshot::Sender<Result<TraceOutcome, TraceError>>,
}

#[derive(Clone, Copy)]
struct RunningFlow {
    flow: OpenFlow,
    is_open: bool,
}

struct Pump {
    open: Open,
    publish: Box<dyn Fn(Option<Waker>) + Send>,
    inbox: mpsc::Receiver<Command>,
    /// Traces that have not started.
    waiting: Rotation<Box<Start>>,
    network: Option<Box<dyn Network + Send>>,
    limit: usize,
    seed: [u8; 32],
    engine: Engine,
    running: HashMap<TraceId, RunningTrace>,
    tickets: HashMap<u64, TraceId>,
}

impl Pump {
    fn new(
        open: Open,
        limit: usize,
        seed: [u8; 32],
        inbox: mpsc::Receiver<Command>,
        publish: Box<dyn Fn(Option<Waker>) + Send>,
    ) -> Self {
        Pump {
            open,
            publish,
            inbox,
            waiting: Rotation::new(),
            network: None,
            limit,
            seed,
            engine: Engine::new(limit, seed),
            running: HashMap::new(),
            tickets: HashMap::new(),
        }
    }

    /// Runs, and restarts after a panic, so that one defect does not end a service for good. The
    /// panic hook has already logged it.
    fn keep_running(mut self) {
        while catch_unwind(AssertUnwindSafe(|| self.run())).is_err() {
            tracing::error!("a defect in the probing engine; all traces in flight end");
            self.start_over();
        }
    }

    /// Forgets everything, for it may be half changed. Traces in flight end with
    /// [`TraceError::Stopped`].
    fn start_over(&mut self) {
        self.network = None;
        (self.publish)(None);
        self.running.clear();
        self.tickets.clear();
        // Not the identifiers of before, which late answers still carry.
        for byte in &mut self.seed {
            *byte = byte.wrapping_add(1);
        }
        self.engine = Engine::new(self.limit, self.seed);
    }

    /// Turns of commands, packets, and what is due. What is due comes right after the packets: a
    /// trace must not end before an answer that has arrived is read.
    fn run(&mut self) {
        let mut pending = false;
        loop {
            if self.is_idle() {
                match self.idle() {
                    Ok(command) => self.command(command),
                    Err(mpsc::RecvError) => return,
                }
            }
            self.start_some(if pending {
                STARTS_WHEN_LATE
            } else {
                STARTS_PER_TURN
            });
            // After the first start has opened the network: before, commands call no waker.
            let commands = self.take_commands();
            let is_all = self.waiting.is_empty();
            if commands == Commands::Over && is_all && self.running.is_empty() {
                return;
            }
            // The waker has been called for them, but perhaps only once for all.
            if let Err(error) = self.listen(pending || commands == Commands::More || !is_all) {
                self.break_down(&error);
            }
            pending = self.act();
            self.tell();
        }
    }

    /// Whether there is nothing to watch.
    fn is_idle(&mut self) -> bool {
        let watches = self.network.is_some() && (!self.running.is_empty() || self.engine.wake_at().is_some());
        self.waiting.is_empty() && !watches
    }

    /// Waits for a command without the network. What it has captured meanwhile answers nobody, and
    /// is removed before it is in the way of what does.
    fn idle(&mut self) -> Result<Command, mpsc::RecvError> {
        if let Some(network) = self.network.as_deref_mut() {
            network.rest();
        }
        let command = self.inbox.recv()?;
        if let Err(error) = self.look(Some(Time::ZERO), 1, LOOKS_AFTER_IDLING) {
            self.break_down(&error);
        }
        Ok(command)
    }

    /// Takes waiting commands.
    fn take_commands(&mut self) -> Commands {
        for _ in 0..COMMANDS_PER_TURN {
            match self.inbox.try_recv() {
                Ok(command) => self.command(command),
                Err(mpsc::TryRecvError::Empty) => return Commands::Taken,
                Err(mpsc::TryRecvError::Disconnected) => return Commands::Over,
            }
        }
        Commands::More
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Start(start) => self.waiting.push(start.client, start),
            Command::Cancel { ticket } => self.cancel(ticket),
            Command::Statistics(reply) => {
                let network = self
                    .network
                    .as_ref()
                    .map(|network| network.counters())
                    .unwrap_or_default();
                let statistics = Statistics {
                    running: self.engine.running(),
                    engine: self.engine.counters(),
                    network,
                };
                // Whoever asked may have gone.
                let _ = reply.send(statistics);
            }
        }
    }

    /// Starts so many of those that wait, without those that nobody waits for any more.
    fn start_some(&mut self, most: usize) {
        let mut started = 0;
        while started < most
            && let Some(start) = self.waiting.pop()
        {
            if !start.result.is_closed() {
                self.start(*start);
                started += 1;
            }
        }
    }

    fn start(&mut self, start: Start) {
        let Start {
            ticket,
            client: _,
            spec,
            on_news,
            result,
        } = start;
        let request = FlowRequest {
            target: spec.target,
            transport: spec.method.transport(),
            port: spec.port,
            egress: spec.egress,
        };
        match self.begin(spec, &request) {
            Ok((trace, flow)) => {
                self.tickets.insert(ticket, trace);
                self.running.insert(
                    trace,
                    RunningTrace {
                        ticket,
                        request,
                        flows: vec![RunningFlow { flow, is_open: true }],
                        on_news,
                        result,
                    },
                );
            }
            Err(error) => {
                let _ = result.send(Err(error));
            }
        }
    }

    fn begin(&mut self, spec: TraceSpec, request: &FlowRequest) -> Result<(TraceId, OpenFlow), TraceError> {
        let network = open_network(&mut self.network, &self.open, &self.publish)?;
        let flow = match network.open_flow(request) {
            Err(error) if error.operation != Operation::Route && self.make_room() => {
                open_network(&mut self.network, &self.open, &self.publish)?.open_flow(request)?
            }
            result => result?,
        };
        let network = open_network(&mut self.network, &self.open, &self.publish)?;
        if matches!(spec.plan, Plan::Paths(_)) && flow.capabilities.one_at_a_time {
            network.close_flow(request, &flow);
            return Err(needs_raw_sockets(spec.target).into());
        }
        let spec = TraceSpec {
            tells_attempts: spec.tells_attempts && flow.capabilities.tells_attempts,
            ..spec
        };
        // Where a second attempt would end the first, the system's own repetitions must do.
        let spec = if flow.capabilities.one_at_a_time {
            spec.one_at_a_time()
        } else {
            spec
        };
        let now = network.now();
        match self
            .engine
            .start(now, spec, flow.route.source, flow.number.unwrap_or(0))
        {
            Ok(trace) => Ok((trace, flow)),
            Err(error) => {
                network.close_flow(request, &flow);
                Err(error)
            }
        }
    }

    fn cancel(&mut self, ticket: u64) {
        let Some(trace) = self.tickets.get(&ticket).copied() else {
            return;
        };
        let connection = self.engine.cancel(trace);
        self.forget(trace, connection);
    }

    /// Frees what a trace held; returns its state.
    fn forget(&mut self, trace: TraceId, connection: Option<ConnectionId>) -> Option<RunningTrace> {
        let state = self.running.remove(&trace)?;
        self.tickets.remove(&state.ticket);
        if let Some(network) = self.network.as_deref_mut() {
            if let Some(connection) = connection {
                network.disconnect(connection);
            }
            for open in state.flows.iter().filter(|flow| flow.is_open) {
                network.close_flow(&state.request, &open.flow);
            }
        }
        Some(state)
    }

    /// Ends a run that only waits for answers that a limit holds back, so that others get its port.
    /// Whether there was one.
    fn make_room(&mut self) -> bool {
        if !self.engine.shed() {
            return false;
        }
        // It has ended when the engine is asked for what is due; actions of others wait for their
        // turn.
        self.act();
        self.tell();
        true
    }

    /// Opens a further flow of a trace.
    fn open_flow(&mut self, trace: TraceId) {
        let (Some(state), Some(network)) = (self.running.get_mut(&trace), self.network.as_deref_mut()) else {
            return;
        };
        let opened = network.open_flow(&state.request);
        let now = network.now();
        let closed = state.flows.last().map(|last| RunningFlow {
            is_open: false,
            ..*last
        });
        let flow = opened.as_ref().ok().map(|flow| RunningFlow {
            flow: *flow,
            is_open: true,
        });
        state.flows.extend(flow.or(closed));
        match opened {
            Ok(flow) => self
                .engine
                .opened(now, trace, flow.route.source, flow.number.unwrap_or(0)),
            Err(error) => self.engine.open_failed(trace, error.into()),
        }
    }

    fn close_flow(&mut self, trace: TraceId, flow: u32) {
        let (Some(state), Some(network)) = (self.running.get_mut(&trace), self.network.as_deref_mut()) else {
            return;
        };
        if let Some(open) = state.flows.get_mut(flow as usize).filter(|flow| flow.is_open) {
            open.is_open = false;
            network.close_flow(&state.request, &open.flow);
        }
    }

    /// The way of the flow that a probe belongs to.
    fn route(&self, token: Token) -> Option<Route> {
        let (trace, flow) = Engine::sender(token);
        let flow = self.running.get(&trace)?.flows.get(flow as usize)?;
        flow.is_open.then_some(flow.flow.route)
    }

    /// Carries out what is due; true when more may be.
    fn act(&mut self) -> bool {
        for _ in 0..ACTIONS_PER_TURN {
            let Some(now) = self.network.as_ref().map(|network| network.now()) else {
                return false;
            };
            let Some(action) = self.engine.poll_action(now) else {
                return false;
            };
            let route = match action {
                Action::Send { token, .. } => self.route(token),
                _ => None,
            };
            let Some(network) = self.network.as_deref_mut() else {
                return false;
            };
            match action {
                Action::Send { token, probe } => {
                    let sent = match route {
                        Some(route) => network.send_on(&probe, &route, token),
                        None => Err(not_open(probe.destination)),
                    };
                    match sent {
                        Ok(stamp) => self.engine.sent(token, stamp.at),
                        Err(error) => self.engine.send_failed(network.now(), token, error),
                    }
                }
                Action::Open { trace } => self.open_flow(trace),
                Action::AskForNeighbour { trace } => {
                    let last = self
                        .running
                        .get(&trace)
                        .and_then(|state| Some((state, state.flows.last()?)));
                    let is_missing =
                        last.is_some_and(|(state, last)| network.lacks_neighbour(&state.request, &last.flow));
                    self.engine.neighbour(trace, is_missing);
                }
                Action::Close { trace, flow } => self.close_flow(trace, flow),
                Action::Connect {
                    id,
                    trace,
                    local,
                    remote,
                } => {
                    if let Err(error) = network.connect(id, local, remote) {
                        self.engine.fail(trace, error.into());
                    }
                }
            }
        }
        true
    }

    fn tell(&mut self) {
        while let Some(event) = self.engine.poll_event() {
            match event {
                EngineEvent::Found { trace, found } => self.news(trace, News::Hop(found)),
                EngineEvent::Probe { trace, index, rtt } => self.news(trace, News::Probe { index, rtt }),
                EngineEvent::Finished {
                    trace,
                    connection,
                    result,
                } => {
                    if let Some(state) = self.forget(trace, connection) {
                        // The receiver may have gone in this very moment; its cancellation then
                        // finds nothing.
                        let _ = state.result.send(result);
                    }
                }
            }
        }
    }

    fn news(&mut self, trace: TraceId, news: News) {
        if let Some(on_news) = self
            .running
            .get_mut(&trace)
            .and_then(|state| state.on_news.as_mut())
        {
            on_news(news);
        }
    }

    /// Waits until something is due, unless it is already or more is `pending`, and takes what has
    /// come.
    fn listen(&mut self, pending: bool) -> Result<(), NetError> {
        let deadline = if pending {
            Some(Time::ZERO)
        } else {
            self.engine.wake_at()
        };
        self.look(deadline, CROWD, LOOKS_PER_TURN)
    }

    /// Takes what has come, after waiting for it until `deadline`; again, at most `limit` times in
    /// all, while it was as much as `crowd`.
    fn look(&mut self, mut deadline: Option<Time>, crowd: usize, limit: usize) -> Result<(), NetError> {
        let Some(network) = self.network.as_deref_mut() else {
            return Ok(());
        };
        let engine = &mut self.engine;
        for _ in 0..limit {
            let now = network.now();
            let mut connected = Vec::new();
            let mut packets = 0;
            network.poll(deadline, &mut |event| match event {
                NetworkEvent::Connected(id) => connected.push(id),
                event => {
                    packets += usize::from(!matches!(event, NetworkEvent::Sent { .. }));
                    engine.handle(now, event);
                }
            })?;
            // What counts from the connection on must not count the time that was waited for it.
            let now = network.now();
            for id in connected {
                engine.handle(now, NetworkEvent::Connected(id));
            }
            if packets < crowd {
                break;
            }
            deadline = Some(Time::ZERO);
        }
        Ok(())
    }

    /// The network is broken for good: every trace fails, and the next one opens it anew.
    fn break_down(&mut self, error: &NetError) {
        tracing::error!(%error, "capture failed; all traces in flight end");
        let traces: Vec<TraceId> = self.running.keys().copied().collect();
        for trace in traces {
            let connection = self.engine.cancel(trace);
            if let Some(state) = self.forget(trace, connection) {
                let _ = state.result.send(Err(error.duplicate().into()));
            }
        }
        self.network = None;
        (self.publish)(None);
    }
}

/// The error where probes of a flow cannot be on their way together.
fn needs_raw_sockets(target: IpAddr) -> NetError {
    let reason = std::io::ErrorKind::Unsupported.into();
    NetError::new(Operation::Send, Some(target), reason).with_hint(
        "all paths over TCP need raw sockets: run as root or with CAP_NET_RAW, or probe with UDP or ICMP",
    )
}

/// The error of a probe whose flow is not open. The engine sends none.
fn not_open(destination: IpAddr) -> NetError {
    let reason = std::io::ErrorKind::NotConnected.into();
    NetError::new(Operation::Send, Some(destination), reason)
}

fn open_network<'n>(
    network: &'n mut Option<Box<dyn Network + Send>>,
    open: &Open,
    publish: &dyn Fn(Option<Waker>),
) -> Result<&'n mut Box<dyn Network + Send>, TraceError> {
    let opened = match network.take() {
        Some(opened) => opened,
        None => {
            let opened = open()?;
            publish(Some(opened.waker()));
            opened
        }
    };
    Ok(network.insert(opened))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forked_process_is_told_that_nobody_probes() {
        // Nobody will ever take the command.
        let (commands, _inbox) = mpsc::channel();
        let shared = Arc::new(Shared {
            commands,
            process: std::process::id() + 1,
            next_ticket: AtomicU64::new(0),
            waker: Mutex::new(None),
        });
        let driver = Driver { shared };
        let statistics = driver.statistics();
        let mut context = Context::from_waker(std::task::Waker::noop());
        let answer = std::pin::pin!(statistics).poll(&mut context);
        assert!(matches!(answer, Poll::Ready(None)), "{answer:?}");
    }

    /// The thread may take the cancellation while the start still waits for its turn: then it must
    /// see that nobody waits for the result.
    #[test]
    fn who_drops_a_trace_has_closed_its_result_before_it_is_cancelled() {
        let (commands, inbox) = mpsc::channel();
        let shared = Arc::new(Shared {
            commands,
            process: std::process::id(),
            next_ticket: AtomicU64::new(0),
            waker: Mutex::new(None),
        });
        let driver = Driver {
            shared: Arc::clone(&shared),
        };
        let target = std::net::Ipv4Addr::LOCALHOST.into();
        let spec = TraceSpec::full(
            traceroute_engine::Method::Udp,
            target,
            33434,
            30,
            Duration::from_secs(1),
        );
        let trace = driver.trace(spec, None);
        let Ok(Command::Start(start)) = inbox.try_recv() else {
            panic!("it was not asked for");
        };
        let (start, closed) = (Mutex::new(start), Arc::new(Mutex::new(None)));
        let seen = Arc::clone(&closed);
        let waker: Waker = Arc::new(move || {
            *seen.lock().unwrap() = Some(start.lock().unwrap().result.is_closed());
        });
        *shared.waker.lock().unwrap() = Some(waker);
        drop(trace);
        assert!(matches!(inbox.try_recv(), Ok(Command::Cancel { .. })));
        let closed = closed.lock().unwrap().take();
        assert_eq!(closed, Some(true));
    }
}
