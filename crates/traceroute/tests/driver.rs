//! The driver over a network that is simulated, clock included: nothing is sent and nothing sleeps.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../../engine/tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, mpsc};
use std::task::{Context, Waker as TaskWaker};
use std::time::Duration;

use datadog_traceroute::driver::{Driver, News, TraceFuture};
use support::*;
use tokio::runtime::Runtime;
use traceroute_engine::{
    Capabilities, ConnectionId, EndToEndResult, FlowRequest, Method, NetError, Network, NetworkCounters,
    NetworkEvent, OpenFlow, Operation, Route, SendStamp, Time, Token, TraceError, TraceOutcome, TraceResult,
    TraceSpec, Waker,
};
use traceroute_wire::{Ignored, Probe, Reply};

/// A network whose clock jumps to the next event, or to the deadline of whoever waits.
#[derive(Clone, Default)]
struct Fake(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    now: Time,
    woken: bool,
    /// Replies under way.
    wire: BTreeMap<(Time, u64), Reply>,
    sequence: u64,
    ports: Vec<u16>,
    sent: usize,
    opened: usize,
    /// How long connecting takes.
    connect_after: Duration,
    connecting: Option<(Time, ConnectionId)>,
    disconnected: usize,
    /// Answer nothing.
    silent: bool,
    /// Foreign packets that fill the capture, read one by one.
    foreign: usize,
    resting: bool,
    /// What the next calls say.
    open_error: Option<ErrorKind>,
    poll_error: Option<ErrorKind>,
    poll_panics: bool,
    /// Do not let time pass: waits for something later last until the waker is called.
    frozen: bool,
    /// Opening a flow waits while this is set.
    shut: bool,
    opening: bool,
    /// The ports of flows, as they were opened.
    asked: Vec<u16>,
}

fn failure(operation: Operation, kind: ErrorKind) -> NetError {
    NetError::new(operation, Some(target()), kind.into())
}

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap()
    }

    fn driver(&self, limit: usize) -> Driver {
        let network = self.clone();
        let open = move || {
            network.state().opened += 1;
            Ok(Box::new(network.clone()) as Box<dyn Network + Send>)
        };
        Driver::spawn(Box::new(open), limit, [3; 32]).unwrap()
    }

    /// The state, to be changed: whoever waits for something looks again.
    fn changing(&self) -> MutexGuard<'_, State> {
        let state = self.state();
        self.0.1.notify_all();
        state
    }

    /// Waits for the driver's thread to get there.
    fn wait_for(&self, what: &str, condition: impl Fn(&State) -> bool) {
        let limit = Duration::from_secs(10);
        let is_missing = |state: &mut State| !condition(state);
        let (_state, result) = self
            .0
            .1
            .wait_timeout_while(self.state(), limit, is_missing)
            .unwrap();
        assert!(!result.timed_out(), "never happened: {what}");
    }
}

impl Network for Fake {
    fn now(&self) -> Time {
        self.state().now
    }

    fn waker(&self) -> Waker {
        let shared = Arc::clone(&self.0);
        Arc::new(move || {
            shared.0.lock().unwrap().woken = true;
            shared.1.notify_all();
        })
    }

    fn open_flow(&mut self, request: &FlowRequest) -> Result<OpenFlow, NetError> {
        let mut state = self.changing();
        state.resting = false;
        state.opening = true;
        while state.shut {
            state = self.0.1.wait(state).unwrap();
        }
        state.opening = false;
        state.asked.push(request.port);
        if let Some(kind) = state.open_error {
            return Err(failure(Operation::Route, kind));
        }
        let number = request.transport.map(|_| {
            (40_000..=u16::MAX)
                .find(|port| !state.ports.contains(port))
                .unwrap()
        });
        state.ports.extend(number);
        Ok(OpenFlow {
            route: Route {
                source: client(),
                interface: 0,
                mark: 0,
            },
            number,
            capabilities: Capabilities::RAW,
        })
    }

    fn close_flow(&mut self, _: &FlowRequest, flow: &OpenFlow) {
        self.changing()
            .ports
            .retain(|reserved| Some(*reserved) != flow.number);
    }

    fn send_on(&mut self, probe: &Probe, _: &Route, _: Token) -> Result<SendStamp, NetError> {
        let mut state = self.changing();
        state.sent += 1;
        let at = state.now;
        // Where the answer comes during the call, it finds no room in a capture that is full.
        if !state.silent && state.foreign == 0 {
            for (arrival, reply) in straight(4)(at, probe) {
                state.sequence += 1;
                let order = state.sequence;
                state.wire.insert((arrival, order), reply);
            }
        }
        Ok(SendStamp { at })
    }

    fn connect(&mut self, id: ConnectionId, _: SocketAddr, _: SocketAddr) -> Result<(), NetError> {
        let mut state = self.state();
        state.connecting = Some((state.now + state.connect_after, id));
        Ok(())
    }

    fn disconnect(&mut self, _: ConnectionId) {
        self.state().disconnected += 1;
    }

    fn rest(&mut self) {
        self.changing().resting = true;
    }

    fn poll(
        &mut self,
        deadline: Option<Time>,
        events: &mut dyn FnMut(NetworkEvent<'_>),
    ) -> Result<(), NetError> {
        let mut state = self.state();
        if let Some(kind) = state.poll_error.take() {
            return Err(failure(Operation::Receive, kind));
        }
        if std::mem::take(&mut state.poll_panics) {
            drop(state);
            panic!("on purpose");
        }
        while state.frozen && !state.woken && deadline.is_none_or(|deadline| deadline > state.now) {
            state = self.0.1.wait(state).unwrap();
        }
        state.woken = false;
        if state.foreign > 0 {
            state.foreign -= 1;
            drop(state);
            events(NetworkEvent::Ignored(Ignored::NotAnAnswer));
            return Ok(());
        }
        if state.frozen {
            return Ok(());
        }
        let next_reply = state.wire.keys().next().map(|(at, _)| *at);
        let next_connection = state.connecting.map(|(at, _)| at);
        let Some(until) = [deadline, next_reply, next_connection]
            .into_iter()
            .flatten()
            .min()
        else {
            return Ok(());
        };
        state.now = state.now.max(until);
        let connected = state.connecting.take_if(|(at, _)| *at <= until);
        let later = state.wire.split_off(&(Time::from_nanos(until.as_nanos() + 1), 0));
        let arrived = std::mem::replace(&mut state.wire, later);
        drop(state);
        if let Some((_, id)) = connected {
            events(NetworkEvent::Connected(id));
        }
        for ((at, _), reply) in arrived {
            events(NetworkEvent::Reply { reply: &reply, at });
        }
        Ok(())
    }

    fn counters(&self) -> NetworkCounters {
        NetworkCounters {
            sent: self.state().sent as u64,
            ..NetworkCounters::default()
        }
    }
}

/// The result of a run.
fn wait(trace: TraceFuture) -> Result<TraceResult, TraceError> {
    block_on(trace).map(|outcome| match outcome {
        TraceOutcome::Run(result) => result,
        other => panic!("no run: {other:?}"),
    })
}

/// The result of end-to-end probes.
fn wait_for_series(trace: TraceFuture) -> EndToEndResult {
    match block_on(trace).unwrap() {
        TraceOutcome::EndToEnd(result) => result,
        other => panic!("no series: {other:?}"),
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime: Runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(future)
}

#[test]
fn a_trace_runs_to_its_result_and_gives_its_port_back() {
    let fake = Fake::default();
    let driver = fake.driver(10);
    for method in [Method::Udp, Method::Icmp, Method::TcpSyn] {
        let result = wait(driver.trace(spec(method), None)).unwrap();
        assert_eq!(result.hops.len(), 4, "{method:?}");
        assert!(fake.state().ports.is_empty(), "{method:?}");
    }
    assert_eq!(fake.state().opened, 1, "one network for all traces");
    let statistics = block_on(driver.statistics()).unwrap();
    assert_eq!(
        (
            statistics.running,
            statistics.engine.finished,
            statistics.network.sent
        ),
        (0, 3, 12)
    );
}

#[test]
fn hops_are_told_as_they_are_found() {
    let fake = Fake::default();
    let driver = fake.driver(10);
    let found = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&found);
    let on_news = Box::new(move |news: News| match news {
        News::Hop(hop) => {
            let answer = hop.answer;
            sink.lock()
                .unwrap()
                .push((hop.ttl, answer.address, answer.destination));
        }
        News::Probe { .. } => panic!("{news:?} of a run"),
    });
    wait(driver.trace(spec(Method::Udp), Some(on_news))).unwrap();
    let expected = [
        (1, router(1), false),
        (2, router(2), false),
        (3, router(3), false),
        (4, target(), true),
    ];
    assert_eq!(*found.lock().unwrap(), expected);
}

#[test]
fn end_to_end_probes_are_told_one_by_one_and_leave_no_port() {
    let fake = Fake::default();
    let driver = fake.driver(10);
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&told);
    let on_news = Box::new(move |news: News| match news {
        News::Probe { index, rtt } => sink.lock().unwrap().push((index, rtt.is_some())),
        News::Hop(hop) => assert!(hop.answer.destination),
    });
    let single = TraceSpec::single(Method::TcpSyn, target(), 443, 30, ms(1000));
    let spec = TraceSpec::end_to_end(single, 3, ms(100), true);
    let result = wait_for_series(driver.trace(spec, Some(on_news)));
    assert_eq!(result.probes.len(), 3);
    assert!(result.probes.iter().all(Option::is_some), "{result:?}");
    assert_eq!(*told.lock().unwrap(), [(0, true), (1, true), (2, true)]);
    assert!(fake.state().ports.is_empty());
}

#[test]
fn dropping_the_future_stops_probing_and_frees_the_port_at_once() {
    let fake = Fake::default();
    (fake.state().frozen, fake.state().silent) = (true, true);
    let driver = fake.driver(10);
    let trace = driver.trace(spec(Method::Udp), None);
    fake.wait_for("the first probe", |state| {
        state.sent == 1 && state.ports.len() == 1
    });
    drop(trace);
    fake.wait_for("the port is free", |state| state.ports.is_empty());
    let statistics = block_on(driver.statistics()).unwrap();
    assert_eq!(
        (
            statistics.running,
            statistics.engine.cancelled,
            statistics.engine.sent
        ),
        (0, 1, 1)
    );
}

/// The waker is called once for many commands, which the thread takes a few at a time.
#[test]
fn no_command_is_left_lying_when_many_come_at_once() {
    let fake = Fake::default();
    (fake.state().frozen, fake.state().silent) = (true, true);
    let driver = fake.driver(10_000);
    let running = driver.trace(spec(Method::Udp), None);
    fake.wait_for("the first probe", |state| state.sent == 1);
    fake.state().shut = true;
    let blocked = driver.trace(spec(Method::Udp), None);
    fake.wait_for("the thread is busy", |state| state.opening);
    let cancelled: Vec<_> = (0..1000).map(|_| driver.trace(spec(Method::Udp), None)).collect();
    drop(cancelled);
    let mut question = Box::pin(async move { driver.statistics().await.unwrap() });
    // Asks, and calls the waker, while the thread cannot sleep yet.
    let first = question
        .as_mut()
        .poll(&mut Context::from_waker(TaskWaker::noop()));
    assert!(first.is_pending());
    let (answer, answered) = mpsc::channel();
    std::thread::spawn(move || answer.send(block_on(question).running));
    fake.state().shut = false;
    fake.0.1.notify_all();
    let running_then = answered.recv_timeout(Duration::from_secs(10));
    assert_eq!(running_then, Ok(2));
    drop((running, blocked));
}

#[test]
fn a_problem_before_the_first_probe_is_the_traces_error() {
    let fake = Fake::default();
    fake.state().open_error = Some(ErrorKind::NetworkUnreachable);
    let driver = fake.driver(10);
    let error = wait(driver.trace(spec(Method::Udp), None)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot find a route to 203.0.113.9: network unreachable"
    );
    assert_eq!(fake.state().sent, 0);
}

#[test]
fn beyond_the_limit_the_port_is_given_back() {
    let fake = Fake::default();
    fake.state().frozen = true;
    let driver = fake.driver(1);
    let first = driver.trace(spec(Method::Udp), None);
    let error = wait(driver.trace(spec(Method::Udp), None)).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("too many traces at once: the limit is 1"),
        "{error}"
    );
    assert_eq!(fake.state().ports.len(), 1);
    drop(first);
}

#[test]
fn a_broken_capture_ends_all_traces_and_the_next_one_opens_it_anew() {
    let fake = Fake::default();
    fake.state().poll_error = Some(ErrorKind::NetworkDown);
    let driver = fake.driver(10);
    let error = wait(driver.trace(spec(Method::Udp), None)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot receive replies to 203.0.113.9: network down"
    );
    assert!(fake.state().ports.is_empty());
    assert_eq!(wait(driver.trace(spec(Method::Udp), None)).unwrap().hops.len(), 4);
    assert_eq!(fake.state().opened, 2);
}

#[test]
fn a_defect_ends_the_traces_in_flight_and_no_later_one() {
    let fake = Fake::default();
    fake.state().poll_panics = true;
    let driver = fake.driver(10);
    let hit = wait(driver.trace(spec(Method::Udp), None));
    assert!(matches!(hit, Err(TraceError::Stopped)), "{hit:?}");
    assert_eq!(wait(driver.trace(spec(Method::Udp), None)).unwrap().hops.len(), 4);
    assert_eq!(fake.state().opened, 2);
    assert_eq!(block_on(driver.statistics()).unwrap().running, 0);
}

#[test]
fn the_time_spent_connecting_is_not_taken_from_the_wait_for_the_handshake() {
    let fake = Fake::default();
    fake.state().connect_after = ms(900);
    // The SYN-ACK is seen 400 ms after that.
    let mut syn_ack = tcp(target(), 33434, 40000, SYN_ACK, 77);
    if let traceroute_wire::ReplyKind::Tcp(tcp) = &mut syn_ack.kind {
        tcp.sack.permitted = true;
    }
    fake.state().wire.insert((at(1300), 0), syn_ack);
    let driver = fake.driver(10);
    let result = wait(driver.trace(spec(Method::TcpSack), None)).unwrap();
    assert_eq!(result.hops.len(), 4);
    assert_eq!(fake.state().disconnected, 1);
}

#[test]
fn many_traces_at_once_all_end() {
    let fake = Fake::default();
    let driver = fake.driver(1000);
    let single = TraceSpec::single(Method::Icmp, target(), 0, 30, ms(1000));
    let traces: Vec<_> = (0..500).map(|_| driver.trace(single, None)).collect();
    for trace in traces {
        assert_eq!(wait(trace).unwrap().hops.len(), 1);
    }
}

/// It calls no waker: there is none yet.
#[test]
fn a_trace_that_is_asked_for_while_the_network_opens_is_not_left_lying() {
    let fake = Fake::default();
    fake.state().open_error = Some(ErrorKind::NetworkUnreachable);
    fake.state().frozen = true;
    let ((enter, entered), (leave, left)) = (mpsc::channel(), mpsc::channel::<()>());
    let network = fake.clone();
    let open = move || {
        enter.send(()).unwrap();
        let _ = left.recv();
        Ok(Box::new(network.clone()) as Box<dyn Network + Send>)
    };
    let driver = Driver::spawn(Box::new(open), 10, [3; 32]).unwrap();
    let first = driver.trace(spec(Method::Udp), None);
    entered.recv().unwrap();
    let second = driver.trace(spec(Method::Udp), None);
    drop(leave);
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || tell.send([first, second].map(|trace| wait(trace).is_err())));
    assert_eq!(told.recv_timeout(Duration::from_secs(10)), Ok([true, true]));
}

#[test]
fn who_asks_for_much_delays_no_other_client() {
    let fake = Fake::default();
    (fake.state().frozen, fake.state().silent) = (true, true);
    let driver = fake.driver(10_000);
    fake.state().shut = true;
    let blocked = driver.trace(spec(Method::Udp), None);
    fake.wait_for("the thread is busy", |state| state.opening);
    let many: Vec<_> = (0..300)
        .map(|_| driver.trace_for(1, spec(Method::Udp), None))
        .collect();
    let one = driver.trace_for(
        2,
        TraceSpec {
            port: 7,
            ..spec(Method::Udp)
        },
        None,
    );
    fake.state().shut = false;
    fake.0.1.notify_all();
    fake.wait_for("all are open", |state| state.asked.len() == 302);
    let place = fake.state().asked.iter().position(|port| *port == 7);
    assert!(place.is_some_and(|place| place < 5), "{place:?}");
    drop((blocked, many, one));
}

/// On loopback, say, the answer is there before the first poll.
#[test]
fn what_was_captured_while_nothing_was_traced_is_not_in_the_way_of_answers() {
    let fake = Fake::default();
    let driver = fake.driver(10);
    wait(driver.trace(spec(Method::Udp), None)).unwrap();
    fake.wait_for("the network rests", |state| state.resting);
    fake.state().foreign = 500;
    let single = TraceSpec::single(Method::Icmp, target(), 0, 30, ms(1000));
    let result = wait(driver.trace(single, None)).unwrap();
    assert!(result.hops[0].answer.is_some());
    let ignored = block_on(driver.statistics()).unwrap().engine.ignored;
    assert_eq!(ignored.iter().sum::<u64>(), 500);
}

#[test]
fn the_thread_ends_with_the_last_handle() {
    let fake = Fake::default();
    let (alive, ended) = mpsc::channel::<()>();
    let network = fake.clone();
    let open = move || {
        // Goes with the thread.
        let _ = &alive;
        Ok(Box::new(network.clone()) as Box<dyn Network + Send>)
    };
    let driver = Driver::spawn(Box::new(open), 10, [3; 32]).unwrap();
    wait(driver.trace(spec(Method::Udp), None)).unwrap();
    drop(driver);
    let end = ended.recv_timeout(Duration::from_secs(10));
    assert_eq!(end, Err(mpsc::RecvTimeoutError::Disconnected));
}
