//! The engine against the simulated network, in memory and on simulated time.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use traceroute_engine::multipath::PathsResult;
use traceroute_engine::{
    Action, EndToEndResult, Engine, EngineEvent, Method, NetError, NetworkEvent, Operation, Time, TraceError,
    TraceId, TraceOutcome, TraceResult, TraceSpec,
};
use traceroute_simnet::{Delivery, Network};
use traceroute_wire::{Checksums, MAX_PROBE_LEN, decode};

use crate::client::{Client, Told};
use crate::journal::Journal;

/// Makes of a genuine packet what is captured before it, and what after it.
pub type Forger = Box<dyn FnMut(&[u8]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>)>;

/// Whether this machine refuses to send a packet.
pub type Refuse = Box<dyn FnMut(&[u8]) -> bool>;

/// What else arrives around a genuine packet.
pub struct Interference {
    /// Makes it.
    pub make: Forger,
    /// How much earlier than the genuine packet it arrives by its stamp: an answer that is credited
    /// by mistake has another round-trip time than the genuine one.
    pub early: Duration,
}

/// An engine, a network and a clock that jumps from one event to the next.
pub struct Simulation {
    /// The engine.
    pub engine: Engine,
    /// The network that it probes.
    pub network: Network,
    /// What happened.
    pub journal: Journal,
    /// What forgers add, if any.
    pub interference: Option<Interference>,
    /// Only what forgers make arrives, from the first probe on: a handshake before it goes
    /// undisturbed.
    pub replace_genuine: bool,
    /// Every probe's packet, in order.
    pub probes: Vec<Vec<u8>>,
    /// Which probes this machine refuses to send, as a local firewall does.
    pub refuse: Option<Refuse>,
    now: Duration,
    client: Client,
    rng: fastrand::Rng,
    next_port: u16,
    finished: HashMap<TraceId, Result<TraceOutcome, TraceError>>,
    ended_at: HashMap<TraceId, Duration>,
    specs: HashMap<TraceId, TraceSpec>,
}

/// No trace may take longer than this.
const PATIENCE: Duration = Duration::from_hours(1);

impl Simulation {
    /// Everything random follows from the seed.
    pub fn new(network: Network, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut engine_seed = [0; 32];
        rng.fill(&mut engine_seed);
        Simulation {
            engine: Engine::new(100_000, engine_seed),
            network,
            journal: Journal::default(),
            interference: None,
            replace_genuine: false,
            probes: Vec::new(),
            refuse: None,
            now: Duration::from_secs(1),
            client: Client::default(),
            rng,
            next_port: 40_000,
            finished: HashMap::new(),
            ended_at: HashMap::new(),
            specs: HashMap::new(),
        }
    }

    /// Simulated time.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// When a trace was over.
    pub fn ended_at(&self, id: TraceId) -> Option<Duration> {
        self.ended_at.get(&id).copied()
    }

    /// Starts a trace now.
    ///
    /// # Panics
    /// When the engine refuses.
    pub fn start(&mut self, spec: TraceSpec) -> TraceId {
        let port = self.port(spec.method);
        let source = client_address(spec.target.is_ipv6());
        match self.engine.start(time(self.now), spec, source, port) {
            Ok(id) => {
                self.specs.insert(id, spec);
                id
            }
            Err(error) => panic!("the engine refuses: {error}"),
        }
    }

    fn port(&mut self, method: Method) -> u16 {
        if method == Method::Icmp {
            return 0;
        }
        self.next_port += 1;
        self.next_port
    }

    /// Runs until the run is over and returns its result.
    ///
    /// # Panics
    /// When it never ends, or is no run.
    pub fn finish(&mut self, id: TraceId) -> Result<TraceResult, TraceError> {
        match self.outcome(id)? {
            TraceOutcome::Run(result) => Ok(result),
            other => panic!("no run: {other:?}"),
        }
    }

    /// Runs until the end-to-end probes are over and returns their result.
    ///
    /// # Panics
    /// When they never end, or are none.
    pub fn finish_series(&mut self, id: TraceId) -> Result<EndToEndResult, TraceError> {
        match self.outcome(id)? {
            TraceOutcome::EndToEnd(result) => Ok(result),
            other => panic!("no series: {other:?}"),
        }
    }

    /// Runs until a discovery of paths is over and returns its result.
    ///
    /// # Panics
    /// When it never ends, or is none.
    pub fn finish_paths(&mut self, id: TraceId) -> Result<Box<PathsResult>, TraceError> {
        match self.outcome(id)? {
            TraceOutcome::Paths(result) => Ok(result),
            other => panic!("no paths: {other:?}"),
        }
    }

    fn outcome(&mut self, id: TraceId) -> Result<TraceOutcome, TraceError> {
        while !self.finished.contains_key(&id) && self.step(PATIENCE) {}
        match self.finished.remove(&id) {
            Some(result) => result,
            None => panic!("the trace does not end"),
        }
    }

    /// Runs until `until`.
    pub fn run_until(&mut self, until: Duration) {
        while self.step(until) {}
        self.now = self.now.max(until);
    }

    /// Runs until nothing is under way any more.
    pub fn drain(&mut self) {
        while self.step(PATIENCE) {}
    }

    /// Does what is due, then jumps to the next event; false when there is none up to `until`.
    fn step(&mut self, until: Duration) -> bool {
        self.act();
        let next = [
            self.engine.wake_at().map(duration),
            self.network.next_at(),
            self.client.wake_at(),
        ];
        let Some(next) = next.into_iter().flatten().min().filter(|at| *at <= until) else {
            return false;
        };
        self.now = self.now.max(next);
        self.client.tick(self.now);
        while let Some(delivery) = self.network.poll(self.now) {
            self.deliver(&delivery);
        }
        self.pump_client();
        true
    }

    fn act(&mut self) {
        while let Some(action) = self.engine.poll_action(time(self.now)) {
            match action {
                Action::Send { token, probe } => {
                    let mut buffer = [0; MAX_PROBE_LEN];
                    let packet = probe.encode(&mut buffer).unwrap_or(&[]).to_vec();
                    if self.refuse.as_mut().is_some_and(|refuse| refuse(&packet)) {
                        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
                        let error = NetError::new(Operation::Send, None, denied);
                        self.engine.send_failed(time(self.now), token, error);
                        continue;
                    }
                    self.send(&packet);
                    self.probes.push(packet);
                    self.engine.sent(token, time(self.now));
                }
                Action::Open { trace } => {
                    let spec = self.specs.get(&trace).copied();
                    if let Some(spec) = spec {
                        let port = self.port(spec.method);
                        let source = client_address(spec.target.is_ipv6());
                        self.engine.opened(time(self.now), trace, source, port);
                    }
                }
                Action::AskForNeighbour { trace } => self.engine.neighbour(trace, false),
                Action::Close { .. } => {}
                Action::Connect {
                    id, local, remote, ..
                } => {
                    self.client.connect(id, local, remote, self.now, &mut self.rng);
                }
            }
        }
        while let Some(event) = self.engine.poll_event() {
            if let EngineEvent::Finished {
                trace,
                connection,
                result,
            } = event
            {
                if let Some(connection) = connection {
                    self.client.disconnect(connection);
                }
                self.finished.insert(trace, result);
                self.ended_at.insert(trace, self.now);
            }
        }
        self.pump_client();
    }

    fn send(&mut self, packet: &[u8]) {
        let number = self.network.inject(self.now, packet);
        self.journal.sent(number, self.now, packet);
    }

    fn deliver(&mut self, delivery: &Delivery) {
        self.journal.heard(delivery.cause, delivery.at, &delivery.packet);
        let (before, after, early) = match &mut self.interference {
            Some(Interference { make, early }) => {
                let (before, after) = make(&delivery.packet);
                (before, after, delivery.at.saturating_sub(*early))
            }
            None => (Vec::new(), Vec::new(), delivery.at),
        };
        for forged in &before {
            self.capture(forged, early);
        }
        if !self.replace_genuine || self.probes.is_empty() {
            self.capture(&delivery.packet, delivery.at);
        }
        let reply = decode(&delivery.packet, Checksums::Verify).ok();
        self.client.receive(&delivery.packet, reply.as_ref(), delivery.at);
        for forged in &after {
            self.capture(forged, early);
        }
    }

    /// What the capture sees reaches the engine.
    pub fn capture(&mut self, packet: &[u8], at: Duration) {
        let event = decode(packet, Checksums::Verify);
        let event = match &event {
            Ok(reply) => NetworkEvent::Reply { reply, at: time(at) },
            Err(why) => NetworkEvent::Ignored(*why),
        };
        self.engine.handle(time(self.now), event);
    }

    fn pump_client(&mut self) {
        for packet in std::mem::take(&mut self.client.out) {
            self.send(&packet);
        }
        for told in std::mem::take(&mut self.client.told) {
            let event = match told {
                Told::Connected(id) => NetworkEvent::Connected(id),
                Told::Failed(id, error) => NetworkEvent::ConnectFailed(id, error),
            };
            self.engine.handle(time(self.now), event);
        }
    }
}

fn time(at: Duration) -> Time {
    Time::ZERO + at
}

fn duration(at: Time) -> Duration {
    at.since(Time::ZERO)
}

/// The simulated client's address.
pub(crate) fn client_address(v6: bool) -> IpAddr {
    if v6 {
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1])
    } else {
        IpAddr::from([192, 0, 2, 1])
    }
}
