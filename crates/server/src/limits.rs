//! What one request may ask for, and how much may go on at once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use datadog_traceroute::{
    MAX_QUERIES, MAX_TIMEOUT_MS, Method, PathsOptions, Protocol, Request, TcpMethod, names_limit,
};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use traceroute_flags::{InvalidParameter, TraceOption, Value};

use crate::connections::Client;
use crate::tokens::{Guest, OwnLimits};

/// Ceilings for one request. The defaults refuse nothing that the library allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ceilings {
    /// Most runs, and most end-to-end probes.
    pub(crate) queries: u32,
    /// Largest TTL.
    pub(crate) max_ttl: u8,
    /// Longest that an answer may take.
    pub(crate) timeout: Duration,
    /// Longest that the whole request may take.
    pub(crate) duration: Option<Duration>,
}

impl Default for Ceilings {
    fn default() -> Self {
        Ceilings {
            queries: MAX_QUERIES,
            max_ttl: u8::MAX,
            timeout: Duration::from_millis(MAX_TIMEOUT_MS),
            duration: None,
        }
    }
}

impl Ceilings {
    /// What a parameter is that the client does not name: its default, as far as this server
    /// allows it.
    pub(crate) fn clamp(&self, option: &TraceOption, default: Option<Value>) -> Option<Value> {
        let most = match option.name() {
            "traceroute-queries" | "e2e-queries" => i64::from(self.queries),
            "max-ttl" | "first-ttl" => self.max_ttl.into(),
            // At least 1: 0 would mean the default.
            "timeout" => (self.timeout.as_millis() as i64).max(1),
            _ => return default,
        };
        match default {
            Some(Value::Integer(value)) => Some(Value::Integer(value.min(most))),
            other => other,
        }
    }

    /// # Errors
    /// The first parameter that is above its ceiling.
    pub(crate) fn check(&self, request: &Request) -> Result<(), InvalidParameter> {
        for (name, value) in [
            ("traceroute-queries", request.runs()),
            ("e2e-queries", request.e2e_probes()),
        ] {
            if value > self.queries {
                return Err(too_large(name, u128::from(self.queries), "", u128::from(value)));
            }
        }
        if request.max_ttl() > self.max_ttl {
            return Err(too_large(
                "max-ttl",
                self.max_ttl.into(),
                "",
                request.max_ttl().into(),
            ));
        }
        if request.timeout() > self.timeout {
            let (limit, value) = (self.timeout.as_millis(), request.timeout().as_millis());
            return Err(too_large("timeout", limit, " ms", value));
        }
        Ok(())
    }
}

fn too_large(name: &'static str, limit: u128, unit: &str, value: u128) -> InvalidParameter {
    let problem = format!("must be at most {limit}{unit} on this server, got {value}");
    InvalidParameter::new(name, problem)
}

/// Requests that may last longer share half of the room: nobody else waits for them for hours.
const LONG: Duration = Duration::from_mins(10);
/// A request counts for its packets of a second at least: many short ones are a flood as well.
const PACKET_TIME: Duration = Duration::from_secs(1);
/// A run probes a silent TTL again after so long, or when no answer counts any more.
const PATIENCE_WITH_ANSWERS: Duration = Duration::from_millis(200);
/// Bytes of a trace in flight, and of what is known of one TTL and of one end-to-end probe after.
const TRACE_SIZE: u64 = 4096;
const HOP_SIZE: u64 = 128;
const PROBE_SIZE: u64 = 24;

/// What all requests may need at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Runs and end-to-end probes in flight.
    pub(crate) traces: u32,
    /// Probes a second.
    pub(crate) packet_rate: u64,
    /// Bytes of requests and their documents.
    pub(crate) memory: u64,
}

impl Capacity {
    /// What there is too little of for a client's request, however idle the service.
    pub(crate) fn refuses(self, request: &Request, client: Client) -> Option<Scarce> {
        // No permit, which would take and give back: strangers may ask this as often as they like.
        let demand = Demand::of(request, self);
        let none = Used::default();
        let admitted = none.check(demand, &Guest::from(client), self);
        let aimed = || self.check_target(None, client, demand.packet_rate);
        admitted.and_then(|()| aimed().map(drop)).err()
    }

    /// Packets a second to a target and this client's share of them, with so many more.
    fn check_target(
        self,
        known: Option<&OfTarget>,
        client: Client,
        needed: u64,
    ) -> Result<(u64, u64), Scarce> {
        let all = (self.packet_rate / 2).max(1);
        let rate = known.map_or(0, |of_target| of_target.packet_rate) + needed;
        let own = known.and_then(|of_target| of_target.clients.get(&client));
        let own = own.copied().unwrap_or(0) + needed;
        let is_fair = || client == Client::Local || is_fair(own, all.saturating_sub(rate));
        if rate > all || needed > 0 && !is_fair() {
            return Err(Scarce::TargetPackets);
        }
        Ok((rate, own))
    }
}

/// What one request needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Demand {
    requests: u64,
    traces: u64,
    /// It has more than these, which take turns.
    is_cut: bool,
    /// As many traces, if the request may last long.
    long: u64,
    packet_rate: u64,
    memory: u64,
    /// What of the memory is free when all traces have ended.
    of_traces: u64,
}

impl Demand {
    /// At most so much, whatever the network does. Of a request with more traces than two thirds of
    /// the room so many go on at once, and it finds room when others have little.
    fn of(request: &Request, capacity: Capacity) -> Self {
        let all = u64::from(request.traces_at_once()).max(1);
        let rounds = u32::try_from(all.div_ceil(most_traces(capacity, false))).unwrap_or(u32::MAX);
        let is_long = request.time_limit().saturating_mul(rounds) > LONG;
        let traces = all.min(most_traces(capacity, is_long));
        let of_traces = all * TRACE_SIZE;
        let ttls = u64::from(request.max_ttl());
        let runs = u64::from(request.runs());
        let memory = of_traces
            + runs * ttls * HOP_SIZE
            + u64::from(request.e2e_probes()) * PROBE_SIZE
            + names(request, runs * ttls);
        Demand {
            requests: 1,
            traces,
            is_cut: traces < all,
            long: if is_long { traces } else { 0 },
            packet_rate: packet_rate(request, traces),
            memory,
            of_traces,
        }
    }
}

impl Demand {
    /// Of a discovery of paths, whose runs are not made.
    fn of_discovery(request: &Request, options: PathsOptions, capacity: Capacity) -> Self {
        let flows = u64::from(options.flows_at_most());
        let most = u64::from(options.probes_at_most());
        let of_run = request.delay().filter(|delay| !delay.is_zero());
        let rate = of_run.map_or(most, per_second).min(most);
        let of_probes = per_second(request.e2e_spacing()).min(request.e2e_probes().into());
        let is_long = request.time_limit() > LONG;
        let traces = flows.min(most_traces(capacity, is_long)).max(1);
        let of_traces = traces * TRACE_SIZE;
        Demand {
            requests: 1,
            traces,
            is_cut: traces < flows,
            long: if is_long { traces } else { 0 },
            packet_rate: rate + of_probes,
            of_traces,
            memory: of_traces
                + traces * u64::from(request.max_ttl()) * HOP_SIZE
                + u64::from(request.e2e_probes()) * PROBE_SIZE
                + names(request, most),
        }
    }
}

/// Names of hops at most, of so many TTLs that may be answered.
fn names(request: &Request, hops: u64) -> u64 {
    if request.reverse_dns() {
        names_limit(hops) as u64
    } else {
        0
    }
}

fn per_second(pause: Duration) -> u64 {
    1_000_000_000 / pause.as_nanos().clamp(1, 1_000_000_000) as u64
}

/// Most probes that a request sends in any second, if all TTLs are silent: with second attempts.
/// `traces`: so many at once. A run that has ended makes room for the next one.
fn packet_rate(request: &Request, traces: u64) -> u64 {
    let delay = request.delay().unwrap_or_else(|| usual_delay(request));
    let attempts = attempts_in_a_second(request);
    let runs = u64::from(request.runs());
    let pace = per_second(delay).saturating_mul(runs.min(traces));
    let of_runs = pace.min(runs * u64::from(request.max_ttl())) * attempts;
    let probes = u64::from(request.e2e_probes());
    of_runs + per_second(request.e2e_spacing()).min(probes)
}

fn usual_delay(request: &Request) -> Duration {
    match (request.protocol(), request.tcp_method()) {
        (Protocol::Tcp, TcpMethod::Sack | TcpMethod::PreferSack) => Method::TcpSack.default_delay(),
        _ => Method::Udp.default_delay(),
    }
}

/// How often a silent TTL is probed in a second: again after the patience with an answer, then
/// after three times as long, and so on.
fn attempts_in_a_second(request: &Request) -> u64 {
    let mut wait = PATIENCE_WITH_ANSWERS.min(request.timeout());
    let mut since = wait;
    let mut attempts = 1;
    while attempts <= u64::from(request.hop_retries()) && since < Duration::from_secs(1) {
        attempts += 1;
        wait *= 3;
        since += wait;
    }
    attempts
}

/// How many traces of one request go on at once at most: two thirds of the room.
fn most_traces(capacity: Capacity, is_long: bool) -> u64 {
    let room = (u64::from(capacity.traces) * 2 / 3).max(1);
    if is_long { (room / 2).max(1) } else { room }
}

/// Whether a client may have this much when so much would still be free: three times as much as
/// that. So one alone gets three quarters of all, and each that comes later at least three quarters
/// of what it finds: three that take all they can leave a sixty-fourth, six a four-thousandth. (A
/// dynamic threshold, as switches share their buffers by.)
pub(crate) fn is_fair(own: u64, free: u64) -> bool {
    own <= free.saturating_mul(3)
}

/// What there is not enough of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scarce {
    Traces,
    LongTraces,
    ClientTraces,
    Packets,
    ClientPackets,
    TargetPackets,
    Memory,
    ClientMemory,
    OwnRequests,
    OwnPackets,
    OwnRate,
    OwnPorts,
}

impl Scarce {
    pub(crate) const ALL: [Scarce; 12] = [
        Scarce::Traces,
        Scarce::LongTraces,
        Scarce::ClientTraces,
        Scarce::Packets,
        Scarce::ClientPackets,
        Scarce::TargetPackets,
        Scarce::Memory,
        Scarce::ClientMemory,
        Scarce::OwnRequests,
        Scarce::OwnPackets,
        Scarce::OwnRate,
        Scarce::OwnPorts,
    ];

    /// The option that says how much there is.
    pub(crate) fn option(self) -> &'static str {
        match self {
            Scarce::Traces | Scarce::LongTraces | Scarce::ClientTraces => "--max-traces",
            Scarce::Packets | Scarce::ClientPackets | Scarce::TargetPackets => "--max-packet-rate",
            Scarce::Memory | Scarce::ClientMemory => "--max-memory",
            Scarce::OwnRequests | Scarce::OwnPackets => "--tokens-file",
            Scarce::OwnRate => "--max-requests-per-minute",
            Scarce::OwnPorts => "--max-ports",
        }
    }

    /// The name in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Scarce::Traces => "traces",
            Scarce::LongTraces => "long_traces",
            Scarce::ClientTraces => "client_traces",
            Scarce::Packets => "packets",
            Scarce::ClientPackets => "client_packets",
            Scarce::TargetPackets => "target_packets",
            Scarce::Memory => "memory",
            Scarce::ClientMemory => "client_memory",
            Scarce::OwnRequests => "own_requests",
            Scarce::OwnPackets => "own_packets",
            Scarce::OwnRate => "own_rate",
            Scarce::OwnPorts => "own_ports",
        }
    }
}

/// Lets requests in while there is enough of everything: room for traces, packets and memory.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    capacity: Capacity,
    used: Arc<Mutex<Used>>,
}

#[derive(Debug, Default)]
struct Used {
    traces: u64,
    long: u64,
    packet_rate: u64,
    memory: u64,
    clients: HashMap<Client, OfClient>,
    /// Packets a second to each target, in all and of each client.
    targets: HashMap<IpAddr, OfTarget>,
    refused: [u64; Scarce::ALL.len()],
}

#[derive(Debug, Default)]
struct OfTarget {
    packet_rate: u64,
    clients: HashMap<Client, u64>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct OfClient {
    requests: u64,
    traces: u64,
    packet_rate: u64,
    memory: u64,
}

impl Admission {
    pub(crate) fn new(capacity: Capacity) -> Self {
        Admission {
            capacity,
            used: Arc::default(),
        }
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what `request` needs until the permit is dropped.
    ///
    /// # Errors
    /// There is not enough of something.
    pub(crate) fn admit(&self, request: &Request, guest: impl Into<Guest>) -> Result<Permit, Scarce> {
        self.take(Demand::of(request, self.capacity), guest.into())
    }

    /// Takes what a discovery of paths needs until the permit is dropped.
    ///
    /// # Errors
    /// There is not enough of something.
    pub(crate) fn admit_discovery(
        &self,
        request: &Request,
        options: PathsOptions,
        guest: impl Into<Guest>,
    ) -> Result<Permit, Scarce> {
        self.take(
            Demand::of_discovery(request, options, self.capacity),
            guest.into(),
        )
    }

    fn take(&self, demand: Demand, guest: Guest) -> Result<Permit, Scarce> {
        let mut used = self.used();
        if let Err(scarce) = used.check(demand, &guest, self.capacity) {
            used.refused[scarce as usize] += 1;
            return Err(scarce);
        }
        used.take(demand, guest.client);
        drop(used);
        Ok(Permit {
            admission: self.clone(),
            begun: Instant::now(),
            demand,
            guest,
            target: None,
        })
    }

    /// Counts a request that was refused before it came here.
    pub(crate) fn count_refused(&self, scarce: Scarce) {
        self.used().refused[scarce as usize] += 1;
    }

    /// Why requests were refused, and how often.
    pub(crate) fn refused(&self) -> [(Scarce, u64); Scarce::ALL.len()] {
        let refused = self.used().refused;
        Scarce::ALL.map(|scarce| (scarce, refused[scarce as usize]))
    }

    /// What there is not enough of right now for a request of this client.
    pub(crate) fn overloaded(&self, request: &Request, client: Client) -> Option<Scarce> {
        let demand = Demand::of(request, self.capacity);
        let guest = Guest::from(client);
        self.used().check(demand, &guest, self.capacity).err()
    }
}

impl Used {
    fn check(&self, demand: Demand, guest: &Guest, capacity: Capacity) -> Result<(), Scarce> {
        let traces = u64::from(capacity.traces);
        let fits = |used: u64, needed: u64, all: u64| needed == 0 || used.saturating_add(needed) <= all;
        let none = OfClient::default();
        let client = guest.client;
        let own = self.clients.get(&client).unwrap_or(&none);
        let OwnLimits {
            requests,
            packet_rate,
            requests_per_minute: _,
        } = guest.limits();
        let bound = |limit: Option<NonZeroU32>| limit.map_or(u64::MAX, |limit| limit.get().into());
        // Who may use the Unix socket is trusted.
        let shares = |own: u64, used: u64, needed: u64, all: u64| {
            let free = all.saturating_sub(used.saturating_add(needed));
            needed == 0 || client == Client::Local || is_fair(own.saturating_add(needed), free)
        };
        for (fits, scarce) in [
            (
                fits(own.requests, demand.requests, bound(requests)),
                Scarce::OwnRequests,
            ),
            (
                fits(own.packet_rate, demand.packet_rate, bound(packet_rate)),
                Scarce::OwnPackets,
            ),
            (fits(self.traces, demand.traces, traces), Scarce::Traces),
            (
                fits(self.long, demand.long, (traces / 2).max(1)),
                Scarce::LongTraces,
            ),
            (
                shares(own.traces, self.traces, demand.traces, traces),
                Scarce::ClientTraces,
            ),
            (
                fits(self.packet_rate, demand.packet_rate, capacity.packet_rate),
                Scarce::Packets,
            ),
            (
                shares(
                    own.packet_rate,
                    self.packet_rate,
                    demand.packet_rate,
                    capacity.packet_rate,
                ),
                Scarce::ClientPackets,
            ),
            (fits(self.memory, demand.memory, capacity.memory), Scarce::Memory),
            (
                shares(own.memory, self.memory, demand.memory, capacity.memory),
                Scarce::ClientMemory,
            ),
        ] {
            if !fits {
                return Err(scarce);
            }
        }
        Ok(())
    }

    fn take(&mut self, demand: Demand, client: Client) {
        self.traces += demand.traces;
        self.long += demand.long;
        self.packet_rate += demand.packet_rate;
        self.memory += demand.memory;
        let own = self.clients.entry(client).or_default();
        own.requests += demand.requests;
        own.traces += demand.traces;
        own.packet_rate += demand.packet_rate;
        own.memory += demand.memory;
    }

    fn give_back(&mut self, demand: Demand, client: Client, target: Option<IpAddr>) {
        self.traces -= demand.traces;
        self.long -= demand.long;
        self.packet_rate -= demand.packet_rate;
        self.memory -= demand.memory;
        if let Some(own) = self.clients.get_mut(&client) {
            own.requests -= demand.requests;
            own.traces -= demand.traces;
            own.packet_rate -= demand.packet_rate;
            own.memory -= demand.memory;
            if *own == OfClient::default() {
                self.clients.remove(&client);
            }
        }
        if let Some(target) = target
            && let Some(of_target) = self.targets.get_mut(&target)
        {
            of_target.packet_rate -= demand.packet_rate;
            if let Some(own) = of_target.clients.get_mut(&client) {
                *own -= demand.packet_rate;
                if *own == 0 {
                    of_target.clients.remove(&client);
                }
            }
            if of_target.clients.is_empty() {
                self.targets.remove(&target);
            }
        }
    }
}

/// What a request has taken.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Admission,
    begun: Instant,
    demand: Demand,
    guest: Guest,
    target: Option<IpAddr>,
}

impl Permit {
    /// Who has taken it.
    pub(crate) fn guest(&self) -> &Guest {
        &self.guest
    }

    /// All its traces have ended: gives back what they took. What there is to write needs room, too.
    pub(crate) fn probing_is_over(&mut self) {
        let ended = Demand {
            traces: self.demand.traces,
            long: self.demand.long,
            memory: self.demand.of_traces,
            ..Demand::default()
        };
        self.admission.used().give_back(ended, self.guest.client, None);
        self.demand.traces = 0;
        self.demand.long = 0;
        self.demand.memory -= ended.memory;
        self.demand.of_traces = 0;
    }

    /// How many of its traces may go on at once, if it has more.
    pub(crate) fn most_at_once(&self) -> Option<u32> {
        let traces = u32::try_from(self.demand.traces).unwrap_or(u32::MAX);
        self.demand.is_cut.then_some(traces)
    }

    /// Its packets go there.
    ///
    /// # Errors
    /// Too many already do.
    pub(crate) fn aim_at(&mut self, target: IpAddr) -> Result<(), Scarce> {
        let admission = self.admission.clone();
        let mut used = admission.used();
        let (client, needed) = (self.guest.client, self.demand.packet_rate);
        let known = used.targets.get(&target);
        let (rate, own) = match admission.capacity.check_target(known, client, needed) {
            Ok(rates) => rates,
            Err(scarce) => {
                used.refused[scarce as usize] += 1;
                return Err(scarce);
            }
        };
        let of_target = used.targets.entry(target).or_default();
        of_target.packet_rate = rate;
        of_target.clients.insert(client, own);
        self.target = Some(target);
        Ok(())
    }

    /// Room for a document of this many bytes, until it is dropped; waits a while for it.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn room_for(&self, bytes: usize) -> Result<Room, Scarce> {
        let demand = Demand {
            memory: bytes as u64,
            ..Demand::default()
        };
        let (admission, guest) = (&self.admission, Guest::from(self.guest.client));
        let deadline = Instant::now() + PATIENCE;
        loop {
            {
                let mut used = admission.used();
                let Err(scarce) = used.check(demand, &guest, admission.capacity) else {
                    used.take(demand, guest.client);
                    return Ok(Room {
                        admission: admission.clone(),
                        demand,
                        client: guest.client,
                    });
                };
                let never = Used::default().check(demand, &guest, admission.capacity).is_err();
                if never || Instant::now() >= deadline {
                    used.refused[scarce as usize] += 1;
                    return Err(scarce);
                }
            }
            sleep(PATIENCE / 100).await;
        }
    }
}

/// How long a document waits for memory.
const PATIENCE: Duration = Duration::from_secs(10);

impl Drop for Permit {
    fn drop(&mut self) {
        let (admission, client, target) = (self.admission.clone(), self.guest.client, self.target);
        let now = Demand {
            packet_rate: 0,
            ..self.demand
        };
        let later = Demand {
            packet_rate: self.demand.packet_rate,
            ..Demand::default()
        };
        // What was refused before it had a target has sent nothing.
        let has_sent = target.is_some() && later.packet_rate > 0;
        let rest = if has_sent {
            PACKET_TIME.saturating_sub(self.begun.elapsed())
        } else {
            Duration::ZERO
        };
        admission.used().give_back(now, client, None);
        let end = move || admission.used().give_back(later, client, target);
        match Handle::try_current() {
            Ok(runtime) if !rest.is_zero() => {
                runtime.spawn(async move {
                    sleep(rest).await;
                    end();
                });
            }
            _ => end(),
        }
    }
}

/// Memory for a document.
#[derive(Debug)]
pub(crate) struct Room {
    admission: Admission,
    demand: Demand,
    client: Client,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.admission.used().give_back(self.demand, self.client, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datadog_traceroute::RequestBuilder;

    fn request(runs: u32, probes: u32) -> Request {
        let request = Request::to("192.0.2.1").runs(runs).e2e_probes(probes);
        request.build().unwrap()
    }

    #[test]
    fn the_defaults_allow_everything_that_is_valid() {
        let largest = Request::to("192.0.2.1")
            .timeout(Duration::from_millis(MAX_TIMEOUT_MS))
            .runs(MAX_QUERIES)
            .e2e_probes(MAX_QUERIES)
            .max_ttl(255)
            .build()
            .unwrap();
        assert_eq!(Ceilings::default().check(&largest), Ok(()));
    }

    #[test]
    fn each_ceiling_is_named() {
        let ceilings = Ceilings {
            queries: 10,
            max_ttl: 20,
            timeout: Duration::from_secs(2),
            duration: None,
        };
        let message = |request: &Request| ceilings.check(request).unwrap_err().to_string();
        assert_eq!(
            message(&request(11, 0)),
            "traceroute-queries must be at most 10 on this server, got 11"
        );
        assert_eq!(
            message(&request(10, 11)),
            "e2e-queries must be at most 10 on this server, got 11"
        );
        assert_eq!(
            message(&request(10, 10)),
            "max-ttl must be at most 20 on this server, got 30"
        );
        let short = Request::to("192.0.2.1").runs(10).e2e_probes(10).max_ttl(20);
        assert_eq!(
            message(&short.build().unwrap()),
            "timeout must be at most 2000 ms on this server, got 3000"
        );
    }

    fn capacity(traces: u32) -> Capacity {
        Capacity {
            traces,
            packet_rate: 1_000_000,
            memory: 1 << 32,
        }
    }

    const LOCAL: Client = Client::Local;

    fn scarce(result: Result<Permit, Scarce>) -> Option<Scarce> {
        result.err()
    }

    #[test]
    fn a_discovery_takes_room_for_its_flows() {
        let admission = Admission::new(capacity(10_000));
        let options = PathsOptions::default();
        let discovery = || admission.admit_discovery(&request(0, 0), options, LOCAL);
        let first = discovery().unwrap();
        let _second = discovery().unwrap();
        assert_eq!(scarce(discovery()), Some(Scarce::Traces));
        let few = options.max_probes(5).unwrap();
        assert!(admission.admit_discovery(&request(0, 0), few, LOCAL).is_ok());
        drop(first);
        assert!(discovery().is_ok());
    }

    #[test]
    fn room_is_taken_and_given_back() {
        let admission = Admission::new(capacity(14));
        // Three runs, and four probes waiting for an answer: one a second, three seconds each.
        let first = admission.admit(&request(3, 50), LOCAL).unwrap();
        let second = admission.admit(&request(5, 0), LOCAL).unwrap();
        assert_eq!(
            scarce(admission.admit(&request(3, 0), LOCAL)),
            Some(Scarce::Traces)
        );
        let third = admission.admit(&request(2, 0), LOCAL).unwrap();
        assert_eq!(
            scarce(admission.admit(&request(0, 0), LOCAL)),
            Some(Scarce::Traces)
        );
        assert_eq!(admission.overloaded(&request(0, 0), LOCAL), Some(Scarce::Traces));
        drop(first);
        assert!(admission.admit(&request(7, 0), LOCAL).is_ok());
        drop((second, third));
        let used = admission.used();
        assert_eq!((used.traces, used.packet_rate, used.memory), (0, 0, 0));
        assert!(used.clients.is_empty());
    }

    #[test]
    fn a_request_larger_than_the_room_leaves_others_their_share() {
        let admission = Admission::new(capacity(16));
        // Two rounds, so no long one.
        let large = admission.admit(&request(20, 0), LOCAL).unwrap();
        assert_eq!(large.most_at_once(), Some(10));
        let _small = admission.admit(&request(4, 0), LOCAL).unwrap();
        assert_eq!(
            scarce(admission.admit(&request(3, 0), LOCAL)),
            Some(Scarce::Traces)
        );
        drop(large);
        assert!(admission.admit(&request(20, 0), LOCAL).is_ok());
        // A hundred rounds and more may last longer than ten minutes.
        let admission = Admission::new(capacity(16));
        let longer = admission.admit(&request(1000, 0), LOCAL).unwrap();
        assert_eq!(longer.most_at_once(), Some(5));
        let small = admission.admit(&request(4, 0), LOCAL).unwrap();
        assert_eq!(small.most_at_once(), None);
    }

    /// SACK counted five times too few, and second attempts not at all.
    #[test]
    fn all_that_a_request_may_send_in_a_second_counts() {
        let build = |change: fn(RequestBuilder) -> RequestBuilder| {
            let request = change(Request::to("192.0.2.1").e2e_probes(0).runs(1));
            request.build().unwrap()
        };
        for (request, rate) in [
            (build(|r| r), 60),
            (build(|r| r.runs(3).e2e_probes(50)), 181),
            (build(|r| r.hop_retries(0)), 20),
            (build(|r| r.hop_retries(1)), 40),
            // Again after 0.2 and 0.8 s; the next would be after 2.6 s.
            (build(|r| r.hop_retries(10)), 60),
            (build(|r| r.max_ttl(5)), 15),
            (build(|r| r.delay(Duration::from_millis(10)).hop_retries(0)), 30),
            (build(|r| r.delay(Duration::ZERO)), 90),
            (build(|r| r.protocol(Protocol::Tcp)), 60),
            (
                build(|r| r.protocol(Protocol::Tcp).tcp_method(TcpMethod::Sack)),
                90,
            ),
            (
                build(|r| r.protocol(Protocol::Tcp).tcp_method(TcpMethod::PreferSack)),
                90,
            ),
            // After 20, 80, 260 and 800 ms.
            (
                build(|r| r.timeout(Duration::from_millis(20)).hop_retries(10)),
                100,
            ),
        ] {
            assert_eq!(packet_rate(&request, 1000), rate, "{request:?}");
        }
        // A run that has ended makes room for the next.
        let many = build(|r| r.runs(1000).max_ttl(3).hop_retries(0));
        assert_eq!(packet_rate(&many, 1000), 3000);
        assert_eq!(packet_rate(&many, 100), 2000);
    }

    /// Monitors ask for much at once, and load tests more.
    #[test]
    fn thousands_of_usual_requests_fit() {
        let admission = Admission::new(Capacity {
            traces: 16_384,
            packet_rate: 500_000,
            memory: 1 << 32,
        });
        let target = IpAddr::from([198, 51, 100, 1]);
        let client = Client::of([192, 0, 2, 1].into());
        for (request, least) in [(request(1, 0), 2000), (request(3, 50), 1000)] {
            let admitted: Vec<Permit> = std::iter::from_fn(|| {
                let mut permit = admission.admit(&request, client).ok()?;
                permit.aim_at(target).ok().map(|()| permit)
            })
            .collect();
            assert!(admitted.len() >= least, "{}", admitted.len());
        }
    }

    /// A day with one TTL took all room for a day, and next to no CPU.
    #[test]
    fn long_requests_leave_half_of_the_room() {
        let admission = Admission::new(capacity(16));
        let day = Duration::from_millis(MAX_TIMEOUT_MS);
        let long = Request::to("192.0.2.1")
            .runs(1000)
            .e2e_probes(0)
            .max_ttl(1)
            .timeout(day);
        let long = long.build().unwrap();
        let _first = admission.admit(&long, LOCAL).unwrap();
        assert_eq!(scarce(admission.admit(&long, LOCAL)), Some(Scarce::LongTraces));
        assert!(admission.admit(&request(8, 0), LOCAL).is_ok());
    }

    #[test]
    fn no_client_and_no_target_has_everything() {
        let admission = Admission::new(Capacity {
            packet_rate: 300,
            ..capacity(1000)
        });
        let [one, other] = [1, 2].map(|last| Client::of([192, 0, 2, last].into()));
        let target = IpAddr::from([198, 51, 100, 1]);
        // Sixty packets a second each.
        let of_one: Vec<Permit> = (0..3)
            .map(|_| admission.admit(&request(1, 0), one).unwrap())
            .collect();
        assert_eq!(
            scarce(admission.admit(&request(1, 0), one)),
            Some(Scarce::ClientPackets)
        );
        let mut permits = vec![admission.admit(&request(1, 0), other).unwrap()];
        // Something is left for whoever comes next.
        assert_eq!(
            scarce(admission.admit(&request(1, 0), other)),
            Some(Scarce::ClientPackets)
        );
        permits.push(admission.admit(&request(1, 0), LOCAL).unwrap());
        assert_eq!(
            scarce(admission.admit(&request(1, 0), LOCAL)),
            Some(Scarce::Packets)
        );
        permits.extend(of_one);
        let aimed: Vec<bool> = permits
            .iter_mut()
            .map(|permit| permit.aim_at(target).is_ok())
            .collect();
        assert_eq!(aimed, [true, true, false, false, false]);
        drop(permits);
        let used = admission.used();
        assert!(used.clients.is_empty() && used.targets.is_empty());
        assert_eq!(used.refused.iter().sum::<u64>(), 6);
    }

    #[test]
    fn a_client_keeps_nobody_from_a_target() {
        let admission = Admission::new(Capacity {
            packet_rate: 1200,
            ..capacity(1000)
        });
        let [one, other] = [1, 2].map(|last| Client::of([192, 0, 2, last].into()));
        let target = IpAddr::from([198, 51, 100, 1]);
        // Sixty packets a second each, of the target's 600.
        let aim = |client| {
            let mut permit = admission.admit(&request(1, 0), client).ok()?;
            permit.aim_at(target).ok().map(|()| permit)
        };
        let of_one: Vec<Permit> = std::iter::from_fn(|| aim(one)).collect();
        assert_eq!(of_one.len(), 7);
        let of_other = aim(other);
        assert!(of_other.is_some());
        drop((of_one, of_other));
        assert!(admission.used().targets.is_empty());
        let mut all_at_once = admission.admit(&request(10, 0), one).unwrap();
        assert_eq!(all_at_once.aim_at(target), Err(Scarce::TargetPackets));
        assert!(admission.used().targets.is_empty());
    }

    /// Two clients took all memory, and everybody else got 503.
    #[test]
    fn whoever_comes_next_finds_something() {
        let admission = Admission::new(Capacity {
            memory: 20_000_000,
            ..capacity(100_000)
        });
        let mut permits = Vec::new();
        for last in 0..20 {
            let client = Client::of([192, 0, 2, last].into());
            // About 4 MB, 8 kB of them for each run.
            while let Ok(permit) = admission.admit(&request(500, 0), client) {
                permits.push(permit);
            }
            let refused = scarce(admission.admit(&request(500, 0), client));
            assert_eq!(refused, Some(Scarce::ClientMemory));
            assert!(
                admission
                    .admit(&request(10, 0), Client::of([192, 0, 2, 99].into()))
                    .is_ok()
            );
        }
        assert!((3..=5).contains(&permits.len()), "{}", permits.len());
    }

    #[tokio::test(start_paused = true)]
    async fn short_requests_count_for_a_second_unless_they_were_refused() {
        let admission = Admission::new(Capacity {
            packet_rate: 210,
            ..capacity(1000)
        });
        let admit = || admission.admit(&request(1, 0), LOCAL);
        for _ in 0..1000 {
            // Without a target.
            drop(admit().unwrap());
        }
        let others = [admit().unwrap(), admit().unwrap()];
        let mut short = admit().unwrap();
        short.aim_at("192.0.2.1".parse().unwrap()).unwrap();
        drop(short);
        assert_eq!(scarce(admit()), Some(Scarce::Packets));
        sleep(PACKET_TIME + Duration::from_millis(10)).await;
        assert!(admit().is_ok());
        drop(others);
    }

    /// Strangers may ask `/readyz` as often as they like, and for what sends nothing: each left a
    /// sleeping task behind.
    #[tokio::test(start_paused = true)]
    async fn what_sends_nothing_leaves_nothing_behind() {
        let admission = Admission::new(capacity(1000));
        let client = Client::of([192, 0, 2, 1].into());
        let mut nothing = admission.admit(&request(0, 0), client).unwrap();
        nothing.aim_at("192.0.2.1".parse().unwrap()).unwrap();
        drop(nothing);
        assert_eq!(capacity(1000).refuses(&request(1, 0), client), None);
        assert_eq!(capacity(0).refuses(&request(1, 0), client), Some(Scarce::Traces));
        let few_packets = Capacity {
            packet_rate: 100,
            ..capacity(1000)
        };
        assert_eq!(
            few_packets.refuses(&request(1, 0), LOCAL),
            Some(Scarce::TargetPackets)
        );
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
        let used = admission.used();
        assert!(used.clients.is_empty() && used.targets.is_empty());
    }

    /// A discovery that may take long was refused for ever where it wanted more than half of the
    /// room.
    #[test]
    fn the_longest_requests_find_room_where_nothing_goes_on() {
        let client = Client::of([192, 0, 2, 1].into());
        for traces in [10, 348, 4096, 16_384] {
            let admission = Admission::new(capacity(traces));
            for max_ttl in [1, 30, 255] {
                let request = Request::to("192.0.2.1").e2e_probes(0).max_ttl(max_ttl);
                let request = request.build().unwrap();
                let discovery = admission.admit_discovery(&request, PathsOptions::default(), client);
                assert_eq!(scarce(discovery), None, "{traces} {max_ttl}");
            }
        }
    }

    /// Requests that had ended waited for the memory that they held themselves.
    #[tokio::test(start_paused = true)]
    async fn what_has_been_probed_makes_room_for_its_document() {
        let admission = Admission::new(Capacity {
            memory: 1_000_000,
            ..capacity(100_000)
        });
        let client = Client::of([192, 0, 2, 1].into());
        let mut permits: Vec<Permit> =
            std::iter::from_fn(|| admission.admit(&request(3, 50), client).ok()).collect();
        let used = admission.used().memory;
        for permit in &mut permits {
            permit.probing_is_over();
            permit.room_for(20_000).await.unwrap();
        }
        assert!(used > 500_000 && admission.used().traces == 0, "{used}");
        assert!(admission.admit(&request(3, 50), client).is_ok());
        drop(permits);
        let used = admission.used();
        assert_eq!((used.traces, used.long, used.memory), (0, 0, 0));
        assert!(used.clients.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn documents_wait_for_memory_and_not_for_ever() {
        let admission = Admission::new(Capacity {
            memory: 100_000,
            ..capacity(1000)
        });
        let permit = admission.admit(&request(1, 0), LOCAL).unwrap();
        let room = permit.room_for(60_000).await.unwrap();
        assert_eq!(permit.room_for(60_000).await.unwrap_err(), Scarce::Memory);
        let begun = Instant::now();
        assert_eq!(permit.room_for(100_001).await.unwrap_err(), Scarce::Memory);
        assert!(begun.elapsed().is_zero(), "it would never fit");
        let (second, ()) = tokio::join!(permit.room_for(60_000), async {
            sleep(PATIENCE / 2).await;
            drop(room);
        });
        drop(second.unwrap());
        assert_eq!(
            scarce(admission.admit(&request(100, 0), LOCAL)),
            Some(Scarce::Memory)
        );
    }
}
