//! A simulated path and clock for the engine: probes go in as [`Probe`]s, answers come back as
//! [`Reply`]s at the time the path says, and the clock jumps from one event to the next.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    missing_docs,
    reason = "each test file uses its own part"
)]

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use traceroute_engine::multipath::PathsResult;
use traceroute_engine::{
    Action, ConnectionId, EndToEndResult, Engine, EngineEvent, FoundHop, MatchedReply, Method, NetError,
    NetworkEvent, Operation, Time, Token, TraceError, TraceId, TraceOutcome, TraceResult, TraceSpec,
};
use traceroute_wire::{
    IcmpError, MplsStack, Probe, ProbeKind, Quoted, QuotedTransport, Reply, ReplyKind, SackInfo, TcpFlags,
    TcpReply, TcpTimestamps, UdpReply,
};

pub mod world;

pub const MS: Duration = Duration::from_millis(1);

pub fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub fn at(millis: u64) -> Time {
    Time::ZERO + ms(millis)
}

pub fn client() -> IpAddr {
    client_of(false)
}

pub fn client_of(v6: bool) -> IpAddr {
    if v6 { "2001:db8::1" } else { "192.0.2.1" }.parse().unwrap()
}

pub fn target() -> IpAddr {
    target_of(false)
}

pub fn target_of(v6: bool) -> IpAddr {
    if v6 { "2001:db8:ffff::9" } else { "203.0.113.9" }
        .parse()
        .unwrap()
}

pub fn router(ttl: u8) -> IpAddr {
    router_of(false, ttl)
}

pub fn router_of(v6: bool, ttl: u8) -> IpAddr {
    if v6 {
        IpAddr::from([0x2001, 0xdb8, ttl.into(), 0, 0, 0, 0, 1])
    } else {
        IpAddr::from([10, 0, ttl, 1])
    }
}

pub fn spec(method: Method) -> TraceSpec {
    TraceSpec::full(method, target(), 33434, 30, ms(1000))
}

/// What the path does with a probe sent at a time: replies with their arrival times.
pub type Path<'p> = dyn FnMut(Time, &Probe) -> Vec<(Time, Reply)> + 'p;

/// The kernel's own stamp of a probe leaving.
#[derive(Debug, Clone, Copy)]
pub struct SendStamp {
    /// How much later than the system call.
    pub later: Duration,
    /// How long after that it is read.
    pub unread: Duration,
}

/// The stamp of each probe; `None`: the kernel gives none.
pub type Stamping<'p> = dyn FnMut(&Probe) -> Option<SendStamp> + 'p;

/// What the engine hears.
#[derive(Debug, Clone)]
pub enum Heard {
    Reply(Reply),
    /// The kernel says that the reply answers this probe.
    Answered(Token, Reply),
    /// The kernel says when the probe with this TTL left.
    Sent(Token, u8),
    /// Of the connection that was begun last.
    Connected,
    ConnectFailed(ErrorKind),
}

pub struct Simulation<'p> {
    pub engine: Engine,
    pub now: Time,
    pub path: Box<Path<'p>>,
    pub sent: Vec<(Time, Probe)>,
    pub finished: BTreeMap<TraceId, (Time, Result<TraceResult, TraceError>)>,
    /// Results of end-to-end series.
    pub series: BTreeMap<TraceId, (Time, EndToEndResult)>,
    /// Results of discoveries.
    pub paths: BTreeMap<TraceId, (Time, Box<PathsResult>)>,
    /// What was told of each probe of a series.
    pub probes: Vec<(TraceId, u32, Option<Duration>)>,
    next_port: u16,
    specs: BTreeMap<TraceId, TraceSpec>,
    /// The hops told of as they were found.
    pub found: Vec<(TraceId, FoundHop)>,
    /// What is under way with its stamp, by the time when it is read and order.
    wire: BTreeMap<(Time, u64), (Time, Heard)>,
    sequence: u64,
    /// What was heard, in this order: when it was read, its stamp, what it was.
    pub heard: Vec<(Time, Time, Heard)>,
    /// When a reply with this stamp is read; not before its probe leaves.
    pub read_at: Box<dyn FnMut(Time) -> Time + 'p>,
    pub send_stamp: Box<Stamping<'p>>,
    /// When the thread stands still: it neither reads nor acts.
    pub stalls: Vec<Range<Time>>,
    /// So much later than the engine wishes it is woken, as a real timer does.
    pub late: Duration,
    /// The kernel itself says which probe a genuine answer is to.
    pub kernel_matches: bool,
    /// Of the probes in `sent`, and when they really left.
    pub tokens: Vec<Token>,
    pub left: Vec<Time>,
    /// Which attempt of its trace, flow and TTL each of the probes in `sent` was.
    pub numbers: Vec<usize>,
    /// What came back: the index of the probe in `sent`, when it arrives, what.
    pub answers: Vec<(usize, Time, Reply)>,
    /// Every time that it was tried to send: when, and which probe.
    pub tries: Vec<(Time, Token, Probe)>,
    /// The tokens of each TTL of each flow, in order.
    attempts_of: BTreeMap<(u64, Name, u8), Vec<Token>>,
    /// Flows opened and closed besides the first ones.
    pub opened: usize,
    /// Nobody answers on the local link.
    pub lacks_neighbour: bool,
    pub closed: usize,
    /// Fails the n-th send (from 0).
    pub fail_send: BTreeMap<usize, ErrorKind>,
    /// Fails sends with this TTL.
    pub refused_ttl: Option<u8>,
    /// When it was tried to send.
    pub attempts: Vec<Time>,
    /// How connecting ends, at once; `None`: never.
    pub connect: Option<Result<(), ErrorKind>>,
    /// Connecting succeeds after the packet with this acknowledgment number.
    pub connect_by: Option<u32>,
    /// The one that was begun last.
    pub connection: Option<ConnectionId>,
}

impl<'p> Simulation<'p> {
    pub fn new(path: impl FnMut(Time, &Probe) -> Vec<(Time, Reply)> + 'p) -> Self {
        Simulation {
            engine: Engine::new(1000, [7; 32]),
            now: at(1),
            path: Box::new(path),
            sent: Vec::new(),
            finished: BTreeMap::new(),
            series: BTreeMap::new(),
            paths: BTreeMap::new(),
            probes: Vec::new(),
            next_port: 40_000,
            specs: BTreeMap::new(),
            found: Vec::new(),
            wire: BTreeMap::new(),
            sequence: 0,
            heard: Vec::new(),
            read_at: Box::new(|stamp| stamp),
            send_stamp: Box::new(|_| None),
            stalls: Vec::new(),
            late: Duration::ZERO,
            kernel_matches: false,
            tokens: Vec::new(),
            left: Vec::new(),
            numbers: Vec::new(),
            answers: Vec::new(),
            tries: Vec::new(),
            attempts_of: BTreeMap::new(),
            opened: 0,
            lacks_neighbour: false,
            closed: 0,
            fail_send: BTreeMap::new(),
            refused_ttl: None,
            attempts: Vec::new(),
            connect: Some(Ok(())),
            connect_by: None,
            connection: None,
        }
    }

    pub fn start(&mut self, spec: TraceSpec) -> TraceId {
        let port = self.port(spec.method);
        let client = client_of(spec.target.is_ipv6());
        let id = self.engine.start(self.now, spec, client, port).unwrap();
        self.specs.insert(id, spec);
        id
    }

    /// The same with the handshake that a SACK trace waits for. Connections' sequence numbers are
    /// far apart.
    pub fn start_connected(&mut self, spec: TraceSpec) -> TraceId {
        if spec.method == Method::TcpSack {
            let next = u32::from(self.next_port) << 16;
            let mut syn_ack = tcp(spec.target, spec.port, self.next_port, SYN_ACK, next);
            if let ReplyKind::Tcp(tcp) = &mut syn_ack.kind {
                tcp.sack.permitted = true;
            }
            self.post(self.now, syn_ack);
        }
        self.start(spec)
    }

    fn port(&mut self, method: Method) -> u16 {
        self.next_port += 1;
        if method == Method::Icmp {
            0
        } else {
            self.next_port - 1
        }
    }

    /// The reply arrives at `at` and is read at once.
    pub fn post(&mut self, at: Time, reply: Reply) {
        self.tell(at, at, Heard::Reply(reply));
    }

    /// The engine will hear this, which is stamped `at`, when the clock shows `read`.
    pub fn tell(&mut self, read: Time, at: Time, what: Heard) {
        self.sequence += 1;
        self.wire.insert((read, self.sequence), (at, what));
    }

    /// Runs until nothing is left to do. Panics when that takes more than an hour of simulated
    /// time.
    pub fn run(&mut self) {
        while self.step() {
            assert!(self.now < at(3_600_000), "the engine does not come to an end");
        }
    }

    /// Carries out what is due now, then jumps to the next event; false when there is none.
    pub fn step(&mut self) -> bool {
        self.act();
        let next_reply = self.wire.keys().next().map(|(at, _)| *at);
        let wake = self.engine.wake_at().map(|at| at + self.late);
        let next = match (wake, next_reply) {
            (Some(a), Some(b)) => a.min(b),
            (Some(a), None) | (None, Some(a)) => a,
            (None, None) => return false,
        };
        self.now = self.now.max(next);
        while let Some(stall) = self.stalls.iter().find(|stall| stall.contains(&self.now)) {
            self.now = stall.end;
        }
        while let Some(entry) = self.wire.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (at, what) = entry.remove();
            self.heard.push((self.now, at, what.clone()));
            self.hear(at, &what);
        }
        true
    }

    /// The engine hears this now, whatever else is under way.
    pub fn hear(&mut self, at: Time, what: &Heard) {
        let event = match what {
            Heard::Reply(reply) => NetworkEvent::Reply { reply, at },
            Heard::Answered(token, reply) => NetworkEvent::Answered {
                token: *token,
                answer: answer_of(reply),
                at,
            },
            Heard::Sent(token, _) => NetworkEvent::Sent { token: *token, at },
            Heard::Connected => match self.connection {
                Some(id) => NetworkEvent::Connected(id),
                None => return,
            },
            Heard::ConnectFailed(kind) => match self.connection {
                Some(id) => NetworkEvent::ConnectFailed(id, cannot_connect(*kind)),
                None => return,
            },
        };
        self.engine.handle(self.now, event);
        if let Heard::Reply(Reply {
            kind: ReplyKind::Tcp(tcp),
            ..
        }) = what
            && self.connect_by == Some(tcp.acknowledgment)
        {
            self.connect_by = None;
            self.hear(at, &Heard::Connected);
        }
    }

    /// Carries out what is due now, and takes note of what is told.
    pub fn act(&mut self) {
        while let Some(action) = self.engine.poll_action(self.now) {
            match action {
                Action::Send { token, probe } => {
                    self.attempts.push(self.now);
                    self.tries.push((self.now, token, probe));
                    let numbers = self
                        .attempts_of
                        .entry((token.trace, name(&probe), probe.ttl))
                        .or_default();
                    if numbers.last() != Some(&token) {
                        assert!(!numbers.contains(&token), "a token names two probes");
                        numbers.push(token);
                    }
                    let is_refused = self.refused_ttl == Some(probe.ttl);
                    let refusal = is_refused.then_some(&ErrorKind::PermissionDenied);
                    if let Some(kind) = self.fail_send.get(&(self.attempts.len() - 1)).or(refusal) {
                        let source = std::io::Error::from(*kind);
                        let error = NetError::new(Operation::Send, Some(probe.destination), source);
                        self.engine.send_failed(self.now, token, error);
                        continue;
                    }
                    assert!(probe.encode(&mut vec![0; probe.packet_len()]).is_some());
                    self.send(token, &probe);
                }
                Action::Open { trace } => {
                    let spec = self.specs[&trace];
                    let port = self.port(spec.method);
                    let client = client_of(spec.target.is_ipv6());
                    self.opened += 1;
                    self.engine.opened(self.now, trace, client, port);
                }
                Action::AskForNeighbour { trace } => self.engine.neighbour(trace, self.lacks_neighbour),
                Action::Close { .. } => self.closed += 1,
                Action::Connect { id, .. } => {
                    self.connection = Some(id);
                    let outcome = self.connect.filter(|_| self.connect_by.is_none());
                    match outcome {
                        Some(Ok(())) => self.hear(self.now, &Heard::Connected),
                        Some(Err(kind)) => self.hear(self.now, &Heard::ConnectFailed(kind)),
                        None => {}
                    }
                }
            }
        }
        while let Some(event) = self.engine.poll_event() {
            match event {
                EngineEvent::Found { trace, found } => {
                    assert!(
                        !self.finished.contains_key(&trace),
                        "told after the end: {found:?}"
                    );
                    self.found.push((trace, found));
                }
                EngineEvent::Probe { trace, index, rtt } => self.probes.push((trace, index, rtt)),
                EngineEvent::Finished { trace, result, .. } => {
                    let result = match result {
                        Ok(TraceOutcome::EndToEnd(series)) => {
                            self.series.insert(trace, (self.now, series));
                            continue;
                        }
                        Ok(TraceOutcome::Run(run)) => Ok(run),
                        Ok(TraceOutcome::Paths(paths)) => {
                            self.paths.insert(trace, (self.now, paths));
                            continue;
                        }
                        Err(error) => Err(error),
                    };
                    if let Ok(result) = &result {
                        self.assert_told(trace, result);
                    }
                    self.finished.insert(trace, (self.now, result));
                }
            }
        }
    }

    fn send(&mut self, token: Token, probe: &Probe) {
        self.sent.push((self.now, *probe));
        self.tokens.push(token);
        self.numbers
            .push(self.attempts_of[&(token.trace, name(probe), probe.ttl)].len() - 1);
        self.engine.sent(token, self.now);
        // The device's queue keeps the order.
        let mut left = self.left.last().copied().unwrap_or(self.now).max(self.now);
        if let Some(SendStamp { later, unread }) = (self.send_stamp)(probe) {
            left = left.max(self.now + later);
            self.tell(left + unread, left, Heard::Sent(token, probe.ttl));
        }
        self.left.push(left);
        for (at, reply) in (self.path)(left, probe) {
            self.answers.push((self.sent.len() - 1, at, reply));
            let read = (self.read_at)(at).max(left);
            let what = if self.kernel_matches && is_genuine(probe, &reply) {
                Heard::Answered(token, reply)
            } else {
                Heard::Reply(reply)
            };
            self.tell(read, at, what);
        }
    }

    /// Every hop of a result was told as it was found: what was told of its TTL last is what the
    /// result says.
    fn assert_told(&self, id: TraceId, result: &TraceResult) {
        for hop in &result.hops {
            let told = self
                .found
                .iter()
                .rfind(|(trace, found)| (*trace, found.ttl) == (id, hop.ttl))
                .map(|(_, found)| found.answer);
            // Hidden, or counted at the end.
            let is_special = hop.answer.is_some() != told.is_some();
            assert!(
                is_special || told == hop.answer,
                "TTL {} of {:?}",
                hop.ttl,
                self.found
            );
        }
    }

    /// Nothing is left of traces that are over.
    pub fn assert_idle(&mut self) {
        let engine = &mut self.engine;
        assert_eq!((engine.table_len(), engine.running()), (0, 0));
        assert_eq!((engine.wake_at(), engine.timers_len()), (None, 0));
    }

    pub fn result(&self, id: TraceId) -> &TraceResult {
        self.finished[&id].1.as_ref().expect("the trace has a result")
    }

    /// When each TTL of a trace was probed, in order.
    pub fn times(&self, id: TraceId, ttl: u8) -> Vec<Time> {
        let port = self.result(id).source_port;
        let own = |(_, probe): &&(Time, Probe)| (name(probe).1, probe.ttl) == (port, ttl);
        self.sent.iter().filter(own).map(|(at, _)| *at).collect()
    }

    pub fn error(&self, id: TraceId) -> String {
        self.finished[&id]
            .1
            .as_ref()
            .expect_err("the trace failed")
            .to_string()
    }

    /// `ttl:address` or `ttl:*`, `!` behind the destination's.
    pub fn summary(&self, id: TraceId) -> String {
        let hop = |hop: &traceroute_engine::Hop| match hop.answer {
            None => format!("{}:*", hop.ttl),
            Some(answer) if answer.destination => {
                format!("{}:{}/{}!", hop.ttl, answer.address, millis_of(answer.rtt))
            }
            Some(answer) => format!("{}:{}/{}", hop.ttl, answer.address, millis_of(answer.rtt)),
        };
        self.result(id).hops.iter().map(hop).collect::<Vec<_>>().join(" ")
    }
}

/// By what a flow is told from others to the same target.
pub type Name = (u8, u16);

pub fn name(probe: &Probe) -> Name {
    match probe.kind {
        ProbeKind::Echo { identifier, .. } => (0, identifier),
        ProbeKind::Udp { source_port, .. } => (1, source_port),
        ProbeKind::TcpSyn { source_port, .. } => (2, source_port),
        ProbeKind::TcpSack { source_port, .. } => (3, source_port),
    }
}

/// Of a run.
pub fn run_of(outcome: TraceOutcome) -> TraceResult {
    match outcome {
        TraceOutcome::Run(run) => run,
        other => panic!("no run: {other:?}"),
    }
}

/// `?` where it cannot be told.
pub fn millis_of(rtt: Option<Duration>) -> String {
    rtt.map_or_else(|| "?".to_owned(), millis)
}

pub fn millis(rtt: Duration) -> String {
    format!("{}", rtt.as_secs_f64() * 1000.0)
}

fn cannot_connect(kind: ErrorKind) -> NetError {
    NetError::new(Operation::Connect, Some(target()), std::io::Error::from(kind))
}

/// What the kernel tells of a reply that it has matched.
fn answer_of(reply: &Reply) -> MatchedReply {
    let (error, mpls) = match reply.kind {
        ReplyKind::IcmpError { error, mpls, .. } => (Some(error), mpls),
        _ => (None, MplsStack::default()),
    };
    MatchedReply {
        from: reply.source,
        error,
        reply_ttl: reply.ttl,
        mpls,
    }
}

/// Whether the reply is one that this probe may cause.
fn is_genuine(probe: &Probe, reply: &Reply) -> bool {
    *reply
        == match reply.kind {
            ReplyKind::IcmpError { error: kind, .. } => error(reply.source, probe, kind),
            _ => destination_answer(probe),
        }
}

/// An ICMP error about `probe` from `source`.
pub fn error(source: IpAddr, probe: &Probe, error: IcmpError) -> Reply {
    let mut buffer = vec![0; probe.packet_len()];
    let packet = probe.encode(&mut buffer).unwrap().to_vec();
    let v6 = probe.destination.is_ipv6();
    let header = if v6 { 40 } else { 20 };
    let transport = &packet[header..header + 8];
    let word = |at: usize| u16::from_be_bytes([transport[at], transport[at + 1]]);
    let quoted = Quoted {
        source: probe.source,
        destination: probe.destination,
        ttl: 1,
        identification: if v6 { 0 } else { probe.identification },
        flow_label: if v6 { probe.flow_label } else { 0 },
        transport: match probe.kind {
            ProbeKind::Echo { .. } => QuotedTransport::Echo {
                identifier: word(4),
                sequence: word(6),
                checksum: word(2),
            },
            ProbeKind::Udp { .. } => QuotedTransport::Udp {
                source_port: word(0),
                destination_port: word(2),
                length: word(4),
                checksum: word(6),
            },
            ProbeKind::TcpSyn { sequence, .. } | ProbeKind::TcpSack { sequence, .. } => {
                QuotedTransport::Tcp {
                    source_port: word(0),
                    destination_port: word(2),
                    sequence,
                    timestamp: None,
                }
            }
        },
    };
    Reply {
        source,
        destination: probe.source,
        ttl: 64,
        kind: ReplyKind::IcmpError {
            error,
            quoted,
            mpls: MplsStack::default(),
        },
    }
}

pub fn time_exceeded(probe: &Probe) -> Reply {
    let router = router_of(probe.destination.is_ipv6(), probe.ttl);
    error(router, probe, IcmpError::TimeExceeded)
}

pub fn tcp(from: IpAddr, port: u16, to: u16, flags: TcpFlags, acknowledgment: u32) -> Reply {
    Reply {
        source: from,
        destination: client_of(from.is_ipv6()),
        ttl: 64,
        kind: ReplyKind::Tcp(TcpReply {
            source_port: port,
            destination_port: to,
            sequence: 7000,
            acknowledgment,
            flags,
            payload_len: 0,
            sack: SackInfo::default(),
            timestamps: None,
        }),
    }
}

pub const SYN_ACK: TcpFlags = TcpFlags {
    syn: true,
    ack: true,
    rst: false,
    fin: false,
};
pub const RST_ACK: TcpFlags = TcpFlags {
    syn: false,
    ack: true,
    rst: true,
    fin: false,
};
pub const RST: TcpFlags = TcpFlags {
    syn: false,
    ack: false,
    rst: true,
    fin: false,
};
pub const ACK: TcpFlags = TcpFlags {
    syn: false,
    ack: true,
    rst: false,
    fin: false,
};

/// The target's own answer to a probe: port unreachable, echo reply, SYN-ACK or RST.
pub fn destination_answer(probe: &Probe) -> Reply {
    match probe.kind {
        ProbeKind::Echo {
            identifier,
            sequence,
            cookie,
            ..
        } => Reply {
            source: probe.destination,
            destination: probe.source,
            ttl: 64,
            kind: ReplyKind::Echo {
                identifier,
                sequence,
                cookie: Some(cookie),
            },
        },
        ProbeKind::Udp { .. } => {
            let code = if probe.destination.is_ipv6() { 4 } else { 3 };
            error(probe.destination, probe, IcmpError::Unreachable { code })
        }
        ProbeKind::TcpSyn {
            source_port,
            destination_port,
            sequence,
            timestamps,
        } => {
            let acknowledged = sequence.wrapping_add(1);
            let mut reply = tcp(
                probe.destination,
                destination_port,
                source_port,
                SYN_ACK,
                acknowledged,
            );
            if let ReplyKind::Tcp(tcp) = &mut reply.kind {
                tcp.timestamps = timestamps.map(|theirs| TcpTimestamps {
                    value: 77,
                    echo: theirs.value,
                });
            }
            reply
        }
        ProbeKind::TcpSack {
            source_port,
            destination_port,
            sequence,
            ..
        } => {
            let next = sequence.wrapping_sub(u32::from(probe.ttl));
            let mut reply = tcp(probe.destination, destination_port, source_port, ACK, next);
            if let ReplyKind::Tcp(tcp) = &mut reply.kind {
                tcp.sack.blocks = 1;
                tcp.sack.left_edges[0] = sequence;
                tcp.sack.first_right_edge = Some(sequence.wrapping_add(1));
            }
            reply
        }
    }
}

pub fn udp_service(probe: &Probe) -> Reply {
    let ProbeKind::Udp {
        source_port,
        destination_port,
        ..
    } = probe.kind
    else {
        panic!("not a datagram")
    };
    let udp = UdpReply {
        source_port: destination_port,
        destination_port: source_port,
        payload_len: 3,
        echoed: None,
    };
    Reply {
        source: probe.destination,
        destination: probe.source,
        ttl: 64,
        kind: ReplyKind::Udp(udp),
    }
}

/// Routers up to `length` − 1 and the target at TTL `length`, all answering after `ttl` × 2 ms.
pub fn straight(length: u8) -> impl FnMut(Time, &Probe) -> Vec<(Time, Reply)> {
    move |now, probe| {
        let reply = if probe.ttl < length {
            time_exceeded(probe)
        } else {
            destination_answer(probe)
        };
        vec![(now + ms(2) * u32::from(probe.ttl.min(length)), reply)]
    }
}
