//! What holds for every trace, whatever arrives in whatever order.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use support::*;
use traceroute_engine::{Method, TraceSpec};
use traceroute_net::Time;
use traceroute_wire::{IcmpError, Probe, ProbeKind, QuotedTransport, Reply, ReplyKind};

/// What comes back for one probe.
#[derive(Debug, Clone, Copy)]
enum Answer {
    TimeExceeded,
    /// Destination unreachable from a router.
    Refused,
    /// From the destination, if the probe gets there.
    Destination,
    /// From somebody who does not know the identifiers; the number chooses what is wrong.
    Foreign(u8),
}

/// A probe's answers with the time that each takes, in microseconds.
type Answers = Vec<(Answer, u32)>;

#[derive(Debug, Clone)]
struct Case {
    method: Method,
    v6: bool,
    max_ttl: u8,
    /// TTL of the destination.
    length: u8,
    timeout: Duration,
    delay: Duration,
    /// By TTL − 1.
    answers: Vec<Answers>,
    /// Which attempts to send find the kernel's queue full.
    full: Range<usize>,
    /// Which attempts to send are refused, and why.
    refused: Vec<(usize, ErrorKind)>,
    /// When the caller gives up.
    cancel: Option<Duration>,
    reading: Reading,
}

/// How the process gets to know what happened.
#[derive(Debug, Clone)]
struct Reading {
    /// How much later than its stamp each reply is read, in turn, in microseconds; the clock of the stamps may be a bit ahead.
    delays: Vec<i64>,
    /// When the thread begins to stand still, and for how long.
    stalls: Vec<(Duration, Duration)>,
    /// The kernel's send stamps, by TTL − 1.
    stamps: Vec<Option<SendStamp>>,
    /// The kernel itself matches answers (not for SACK, which no such backend has).
    kernel_matches: bool,
}

fn reading() -> impl Strategy<Value = Reading> {
    let delay = prop_oneof![3 => Just(0), 2 => 0_i64..200_000, 1 => -20_000_i64..0];
    let delays = prop_oneof![
        1 => Just(vec![0]),
        2 => prop::collection::vec(delay, 1..8),
    ];
    let stall = (0_u64..1500, 1_u64..700).prop_map(|(from, length)| (ms(from), ms(length)));
    let stalls = prop_oneof![
        2 => Just(Vec::new()),
        1 => prop::collection::vec(stall, 1..4),
    ];
    let unread = prop_oneof![3 => Just(0), 1 => 0_u64..300_000];
    let stamp = (0_u64..30_000, unread).prop_map(|(later, unread)| SendStamp {
        later: Duration::from_micros(later),
        unread: Duration::from_micros(unread),
    });
    let stamps = prop::collection::vec(prop::option::of(stamp), 12);
    (delays, stalls, stamps, any::<bool>()).prop_map(|(delays, stalls, stamps, kernel_matches)| Reading {
        delays,
        stalls,
        stamps,
        kernel_matches,
    })
}

impl Reading {
    fn prepare<'p>(&'p self, simulation: &mut Simulation<'p>) {
        let start = simulation.now;
        let mut delays = self.delays.iter().cycle();
        simulation.read_at = Box::new(move |stamp| {
            let delay = *delays.next().unwrap();
            let by = Duration::from_micros(delay.unsigned_abs());
            if delay < 0 { stamp - by } else { stamp + by }
        });
        simulation.send_stamp = Box::new(|probe| self.stamps[usize::from(probe.ttl - 1)]);
        let stalls = self
            .stalls
            .iter()
            .map(|(from, length)| start + *from..start + *from + *length);
        simulation.stalls = stalls.collect();
    }

    fn stalled(&self) -> Duration {
        self.stalls.iter().map(|(_, length)| *length).sum()
    }
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        4 => Just(Answer::TimeExceeded),
        1 => Just(Answer::Refused),
        4 => Just(Answer::Destination),
        2 => any::<u8>().prop_map(Answer::Foreign),
    ]
}

fn method() -> impl Strategy<Value = Method> {
    prop_oneof![
        Just(Method::Icmp),
        Just(Method::Udp),
        Just(Method::TcpSyn),
        Just(Method::TcpSack)
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let answers = prop::collection::vec((answer(), 0_u32..700_000), 0..5);
    let answers = prop::collection::vec(answers, 12);
    let full = prop_oneof![
        3 => Just(0..0),
        1 => (0_usize..12, 1_usize..1500).prop_map(|(first, count)| first..first + count),
    ];
    let refusal = prop_oneof![
        Just(ErrorKind::PermissionDenied),
        Just(ErrorKind::NetworkUnreachable),
        Just(ErrorKind::HostUnreachable),
        Just(ErrorKind::InvalidInput),
    ];
    let refused = prop_oneof![
        2 => Just(Vec::new()),
        1 => prop::collection::vec((0_usize..15, refusal), 1..4),
    ];
    let cancel = prop::option::weighted(0.2, (0_u64..3000).prop_map(ms));
    let path = (any::<bool>(), 1_u8..=12, 1_u8..=14);
    let trouble = (full, refused, cancel);
    let timing = (1_u64..600, 1_u64..80);
    (method(), path, timing, answers, trouble, reading()).prop_map(
        |(method, (v6, max_ttl, length), (timeout, delay), answers, (full, refused, cancel), reading)| Case {
            method,
            v6,
            max_ttl,
            length,
            timeout: ms(timeout),
            delay: ms(delay),
            answers,
            full,
            refused,
            cancel,
            reading,
        },
    )
}

/// Probes with who answers first and after what time.
type Log = Arc<Mutex<Vec<(Time, Probe, IpAddr, Duration)>>>;

/// A genuine answer as it was put on the wire.
#[derive(Debug, Clone, Copy)]
struct Genuine {
    /// Of the probe that it is an answer to.
    ttl: u8,
    /// Of the probe that caused it.
    cause: u8,
    reply: Reply,
    arrives: Time,
    destination: bool,
}

/// The same, and what the engine can have known.
#[derive(Debug, Clone, Copy)]
struct Known {
    genuine: Genuine,
    /// When the probe that caused it left by our clock and by the kernel's.
    sent: Time,
    left: Time,
    /// When the probe left that it is an answer to.
    covered_left: Time,
    /// Its place in the order in which things were heard.
    place: usize,
    read: Time,
    /// Whether it arrived before time was up.
    in_time: bool,
}

impl Known {
    fn rtt(&self, since: Time) -> Duration {
        self.genuine.arrives.since(since).max(Duration::from_nanos(1))
    }
}

/// What was heard of the genuine answers.
fn known(case: &Case, simulation: &Simulation<'_>, genuine: &[Genuine]) -> Vec<Known> {
    let Some((last_sent, _)) = simulation.sent.last() else {
        return Vec::new();
    };
    let know = |genuine: &Genuine| {
        let is_it = |(_, at, what): &(Time, Time, Heard)| match what {
            Heard::Reply(reply) | Heard::Answered(_, reply) => {
                (*at, *reply) == (genuine.arrives, genuine.reply)
            }
            _ => false,
        };
        let place = simulation.heard.iter().position(is_it)?;
        let probe = |ttl| simulation.sent.iter().position(|(_, probe)| probe.ttl == ttl);
        let (cause, covered) = (probe(genuine.cause)?, probe(genuine.ttl)?);
        Some(Known {
            genuine: *genuine,
            sent: simulation.sent[cause].0,
            left: simulation.left[cause],
            covered_left: simulation.left[covered],
            place,
            read: simulation.heard[place].0,
            in_time: genuine.arrives <= *last_sent + case.timeout,
        })
    };
    genuine.iter().filter_map(know).collect()
}

/// A reply as `answer` says; the TTL that it is about if it is genuine, and whether it is the destination's. `arrived`: the TTLs
/// whose probes the destination has.
fn reply(
    case: &Case,
    answer: Answer,
    probe: &Probe,
    arrived: &BTreeSet<u8>,
) -> Option<(Reply, Option<(u8, bool)>)> {
    let reached = probe.ttl >= case.length;
    match answer {
        Answer::TimeExceeded if !reached => Some((time_exceeded(probe), Some((probe.ttl, false)))),
        Answer::Refused if !reached => {
            let code = if case.v6 { 1 } else { 13 };
            let refusal = IcmpError::Unreachable { code };
            let reply = error(router_of(case.v6, probe.ttl), probe, refusal);
            Some((reply, Some((probe.ttl, false))))
        }
        Answer::Destination if reached => {
            let (reply, ttl) = match case.method {
                Method::TcpSack => selective_acknowledgment(probe, arrived),
                _ => (destination_answer(probe), probe.ttl),
            };
            Some((reply, Some((ttl, true))))
        }
        Answer::Foreign(what) => Some((foreign(probe, what), None)),
        Answer::TimeExceeded | Answer::Refused | Answer::Destination => None,
    }
}

/// The destination's answer to a SACK probe that arrived last of all these (RFC 2018 §4), and the TTL that it shows to have arrived:
/// the lowest of all, for blocks that touch are one.
fn selective_acknowledgment(probe: &Probe, arrived: &BTreeSet<u8>) -> (Reply, u8) {
    let mut reply = destination_answer(probe);
    let lowest = *arrived.first().unwrap();
    let missing = (lowest..probe.ttl).rev().find(|ttl| !arrived.contains(ttl));
    let block = missing.map_or(lowest, |ttl| ttl + 1);
    if let (ReplyKind::Tcp(tcp), ProbeKind::TcpSack { sequence, .. }) = (&mut reply.kind, probe.kind) {
        let edge = |ttl: u8| sequence.wrapping_sub(u32::from(probe.ttl - ttl));
        tcp.sack.left_edges[..2].copy_from_slice(&[edge(block), edge(lowest)]);
        tcp.sack.blocks = if block == lowest { 1 } else { 2 };
        tcp.sack.first_right_edge = Some(sequence.wrapping_add(1));
    }
    (reply, lowest)
}

/// An answer with something wrong in it that only somebody who saw the probe could know.
fn foreign(probe: &Probe, what: u8) -> Reply {
    let v6 = probe.destination.is_ipv6();
    let mut reply = if what & 1 == 0 {
        error(router_of(v6, 200), probe, IcmpError::TimeExceeded)
    } else {
        destination_answer(probe)
    };
    let wrong = u16::from(what | 1);
    let (stranger, kind) = (router_of(v6, 77), what >> 1 & 3);
    match &mut reply.kind {
        ReplyKind::IcmpError { quoted, .. } => match (&mut quoted.transport, kind) {
            // As a NAT would have it, but for what it cannot know.
            (QuotedTransport::Echo { .. } | QuotedTransport::Udp { .. }, 1) => {
                quoted.source = stranger;
                quoted.identification ^= 0x8000;
                quoted.flow_label ^= 1;
            }
            (QuotedTransport::Udp { length, .. }, 2 | 3) if v6 => *length ^= wrong << 8,
            (QuotedTransport::Udp { .. }, 2 | 3) => quoted.identification ^= 0x8000,
            (QuotedTransport::Echo { checksum, .. } | QuotedTransport::Udp { checksum, .. }, _) => {
                *checksum ^= wrong << 4;
            }
            (QuotedTransport::Tcp { sequence, .. }, _) => *sequence ^= u32::from(wrong) << 12,
        },
        ReplyKind::Echo { cookie, .. } => *cookie = (kind & 1 == 0).then_some([what; 6]),
        ReplyKind::Tcp(_) if kind == 0 => reply.source = stranger,
        ReplyKind::Tcp(tcp) if kind == 1 => {
            tcp.acknowledgment ^= u32::from(wrong) << 12;
            tcp.sack.left_edges = tcp.sack.left_edges.map(|edge| edge ^ u32::from(wrong) << 12);
        }
        // Resets that acknowledge nothing, from the wrong port and to it.
        ReplyKind::Tcp(tcp) => {
            let port = if kind == 2 {
                &mut tcp.source_port
            } else {
                &mut tcp.destination_port
            };
            *port ^= wrong;
            tcp.flags = RST;
        }
        ReplyKind::Udp(_) => reply.source = stranger,
    }
    reply
}

/// The SYN-ACK that a SACK trace waits for.
fn syn_ack(v6: bool, port: u16, acknowledgment: u32) -> Reply {
    let mut reply = tcp(target_of(v6), 33434, port, SYN_ACK, acknowledgment);
    if let ReplyKind::Tcp(tcp) = &mut reply.kind {
        tcp.sack.permitted = true;
    }
    reply
}

fn deadline(case: &Case) -> Duration {
    let count = u32::from(case.max_ttl);
    // Probes may wait for room as long as an answer may take, all together.
    let full = if case.full.is_empty() {
        Duration::ZERO
    } else {
        case.timeout
    };
    full + case.reading.stalled()
        + match case.method {
            Method::TcpSyn => case.timeout.max(case.delay) * count,
            Method::TcpSack => case.delay * count + case.timeout * 2 + ms(500),
            Method::Icmp | Method::Udp => case.delay * count + case.timeout,
        }
}

fn check(case: &Case) -> Result<(), TestCaseError> {
    let genuine: Arc<Mutex<Vec<Genuine>>> = Arc::default();
    let log = Arc::clone(&genuine);
    let plan = case.clone();
    let mut arrived = BTreeSet::new();
    let mut simulation = Simulation::new(move |now, probe| {
        let answers = &plan.answers[usize::from(probe.ttl - 1)];
        let is_answered = answers
            .iter()
            .any(|(answer, _)| matches!(answer, Answer::Destination));
        if is_answered && probe.ttl >= plan.length {
            arrived.insert(probe.ttl);
        }
        let mut replies = Vec::new();
        for (answer, micros) in answers {
            let Some((reply, about)) = reply(&plan, *answer, probe, &arrived) else {
                continue;
            };
            let arrives = now + Duration::from_micros(u64::from(*micros));
            if let Some((ttl, destination)) = about {
                log.lock().unwrap().push(Genuine {
                    ttl,
                    cause: probe.ttl,
                    reply,
                    arrives,
                    destination,
                });
            }
            replies.push((arrives, reply));
        }
        replies
    });
    let target = target_of(case.v6);
    let spec = TraceSpec {
        delay: case.delay,
        ..TraceSpec::full(case.method, target, 33434, case.max_ttl, case.timeout)
    };
    let start = simulation.now;
    case.reading.prepare(&mut simulation);
    simulation.kernel_matches = case.reading.kernel_matches && case.method != Method::TcpSack;
    simulation.fail_send.extend(case.refused.iter().copied());
    simulation
        .fail_send
        .extend(case.full.clone().map(|attempt| (attempt, ErrorKind::WouldBlock)));
    let id = simulation.start(spec);
    if case.method == Method::TcpSack {
        simulation.post(start, syn_ack(case.v6, 40000, 5000));
    }
    if let Some(after) = case.cancel {
        while simulation.now < start + after && simulation.step() {}
        let is_running = !simulation.finished.contains_key(&id);
        simulation.engine.cancel(id);
        nothing_is_left(&mut simulation)?;
        // What is still under way finds nothing to answer.
        simulation.run();
        nothing_is_left(&mut simulation)?;
        prop_assert_eq!(simulation.finished.contains_key(&id), !is_running);
        if is_running {
            return Ok(());
        }
    }
    simulation.run();
    nothing_is_left(&mut simulation)?;

    let (end, result) = &simulation.finished[&id];
    prop_assert!(
        end.since(start) <= deadline(case),
        "ends at {:?}",
        end.since(start)
    );
    let result = match result {
        Ok(result) => result,
        Err(error) => {
            prop_assert!(simulation.sent.is_empty(), "{error}");
            let stays_full = error.to_string().contains("stays full");
            prop_assert!(
                stays_full && case.full.start == 0 || !case.refused.is_empty(),
                "{error}"
            );
            return Ok(());
        }
    };
    let known = known(case, &simulation, &genuine.lock().unwrap());
    // What was read in the same instant may have come before or after the end.
    let counts = |known: &&Known| known.in_time && known.read < *end;

    for hop in &result.hops {
        let own = known.iter().filter(|known| known.genuine.ttl == hop.ttl);
        let Some(answer) = hop.answer else {
            let missed = own.clone().find(counts);
            prop_assert!(missed.is_none(), "TTL {}: {missed:?}", hop.ttl);
            continue;
        };
        // A selective acknowledgment may be about an earlier probe than the one that caused it.
        let covers = case.method == Method::TcpSack && answer.destination;
        let is_it = |known: &&Known| {
            let right_rtt = if covers {
                // A probe whose own stamp is missing left after this one all the same.
                [known.sent, known.left, known.covered_left.max(known.sent)]
                    .iter()
                    .any(|at| known.rtt(*at) == answer.rtt)
            } else {
                let left = if answer.kernel_stamped {
                    known.left
                } else {
                    known.sent
                };
                known.rtt(left) == answer.rtt
            };
            right_rtt
                && known.genuine.reply.source == answer.address
                && known.genuine.destination == answer.destination
                && known.read <= *end
        };
        // The first answer counts: by its stamp, except that an acknowledgment which is heard later is about a later probe.
        let order = |known: &&Known| {
            if covers {
                (Time::ZERO, known.place)
            } else {
                (known.genuine.arrives, 0)
            }
        };
        let Some(credited) = own.clone().filter(is_it).min_by_key(order) else {
            return Err(TestCaseError::fail(format!(
                "TTL {}: {answer:?} is none of {known:?}",
                hop.ttl
            )));
        };
        let earlier = own
            .clone()
            .filter(counts)
            .find(|known| order(known) < order(&credited));
        prop_assert!(earlier.is_none(), "{credited:?}, but {earlier:?}");
        prop_assert!(
            credited.in_time || may_be_sending(&simulation, &known, credited),
            "{credited:?} came late"
        );
        if !covers {
            let stamp = simulation
                .heard
                .iter()
                .position(|(.., what)| matches!(what, Heard::Sent(_, ttl) if *ttl == hop.ttl));
            let first = own.map(|known| known.place).min();
            if stamp.is_some() && stamp < first {
                prop_assert!(answer.kernel_stamped, "TTL {}", hop.ttl);
            }
            if stamp.is_none_or(|place| place > credited.place) {
                prop_assert!(!answer.kernel_stamped, "TTL {}", hop.ttl);
            }
        }
    }
    let ttls: Vec<u8> = result.hops.iter().map(|hop| hop.ttl).collect();
    let last = ttls.len() as u8;
    prop_assert_eq!(ttls, (1..=last).collect::<Vec<_>>());
    let destinations: Vec<u8> = result
        .hops
        .iter()
        .filter(|hop| hop.answer.is_some_and(|answer| answer.destination))
        .map(|hop| hop.ttl)
        .collect();
    if let Some(lowest) = known
        .iter()
        .filter(counts)
        .filter(|known| known.genuine.destination)
        .map(|known| known.genuine.ttl)
        .min()
    {
        prop_assert!(last <= lowest);
        prop_assert_eq!(destinations, vec![last]);
    } else if destinations.is_empty() {
        prop_assert_eq!(last, case.max_ttl);
    }
    Ok(())
}

/// Whether more probes may have been to come when this answer was read: until then none is late.
fn may_be_sending(simulation: &Simulation<'_>, known: &[Known], answer: &Known) -> bool {
    let mut destinations = known
        .iter()
        .filter(|known| known.genuine.destination && known.in_time);
    let is_over = destinations.any(|known| known.place < answer.place);
    let is_last = known.iter().all(|known| !known.genuine.destination);
    let last_attempt = simulation.attempts.last();
    let all_are_sent = is_last && last_attempt.is_some_and(|at| *at < answer.read);
    !is_over && !all_are_sent
}

fn nothing_is_left(simulation: &mut Simulation<'_>) -> Result<(), TestCaseError> {
    prop_assert_eq!(simulation.engine.table_len(), 0);
    prop_assert_eq!(simulation.engine.running(), 0);
    prop_assert_eq!(simulation.engine.wake_at(), None);
    Ok(())
}

/// The target's next sequence number for us in the genuine SYN-ACK, and in a forged one.
const NEXT: u32 = 5000;
const FORGED: u32 = 0x7777_0000;

/// What may happen to a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Handshake {
    SynAck,
    /// By somebody who knows addresses and ports only.
    Forged,
    NotPermitted,
    /// To another port, or from somebody else.
    Foreign(bool),
    Reset,
    Connected,
    Refused,
}

fn handshake_event() -> impl Strategy<Value = Handshake> {
    prop_oneof![
        5 => Just(Handshake::SynAck),
        1 => Just(Handshake::Forged),
        1 => Just(Handshake::NotPermitted),
        1 => any::<bool>().prop_map(Handshake::Foreign),
        1 => Just(Handshake::Reset),
        5 => Just(Handshake::Connected),
        1 => Just(Handshake::Refused),
    ]
}

/// Milliseconds up to `limit`, often the same as another's.
fn moment(limit: u64) -> impl Strategy<Value = u64> {
    prop_oneof![1..limit, (1..=limit / 100).prop_map(|count| count * 100)]
}

impl Handshake {
    fn heard(self, v6: bool) -> Heard {
        let mut reply = syn_ack(v6, 40000, NEXT);
        let ReplyKind::Tcp(tcp) = &mut reply.kind else {
            unreachable!()
        };
        match self {
            Handshake::Connected => return Heard::Connected,
            Handshake::Refused => return Heard::ConnectFailed(ErrorKind::ConnectionRefused),
            Handshake::SynAck => {}
            Handshake::Forged => tcp.acknowledgment = FORGED,
            Handshake::NotPermitted => tcp.sack.permitted = false,
            Handshake::Foreign(true) => tcp.destination_port += 1,
            Handshake::Foreign(false) => reply.source = router_of(v6, 77),
            // As the target itself would send it on the connection.
            Handshake::Reset => (tcp.flags, tcp.sequence) = (RST, tcp.sequence + 1),
        }
        Heard::Reply(reply)
    }
}

/// What becomes of a handshake, and how many milliseconds after the start.
#[derive(Debug)]
enum Outcome {
    Fails(u64, &'static str),
    /// The first probe has `next` + 1 as sequence number.
    Probes {
        at: u64,
        next: u32,
    },
}

/// The last SYN-ACK before the kernel has connected counts, or else the first one within half a second after it.
fn outcome(events: &[(Handshake, u64)], timeout: u64) -> Outcome {
    let (mut connected, mut deadline, mut offer) = (false, timeout, None);
    for (event, at) in events {
        if *at > deadline {
            break;
        }
        match event {
            Handshake::SynAck | Handshake::Forged | Handshake::NotPermitted => offer = Some(*event),
            Handshake::Connected if !connected => (connected, deadline) = (true, at + 500),
            Handshake::Refused => return Outcome::Fails(*at, "cannot connect"),
            _ => {}
        }
        match offer.filter(|_| connected) {
            Some(Handshake::NotPermitted) => return Outcome::Fails(*at, "does not permit SACK"),
            Some(Handshake::Forged) => {
                return Outcome::Probes {
                    at: *at,
                    next: FORGED,
                };
            }
            Some(_) => return Outcome::Probes { at: *at, next: NEXT },
            None => {}
        }
    }
    let text = if connected {
        "saw no SYN-ACK"
    } else {
        "no connection to"
    };
    Outcome::Fails(deadline, text)
}

/// By what a trace is told from others to the same target.
fn name(probe: &Probe) -> (Method, u16) {
    match probe.kind {
        ProbeKind::Echo { identifier, .. } => (Method::Icmp, identifier),
        ProbeKind::Udp { source_port, .. } => (Method::Udp, source_port),
        ProbeKind::TcpSyn { source_port, .. } => (Method::TcpSyn, source_port),
        ProbeKind::TcpSack { source_port, .. } => (Method::TcpSack, source_port),
    }
}

/// What answers this probe by its addresses and ports or identifier, and another trace's by the rest. Not quotes of datagrams, of
/// which one in 65,536 would have the other's tag by chance.
fn mixed(probe: &Probe, other: &Probe) -> Option<Reply> {
    let is_another = name(probe) != name(other) && probe.destination == other.destination;
    let mut reply = destination_answer(other);
    match (&mut reply.kind, destination_answer(probe).kind) {
        (ReplyKind::Echo { identifier, .. }, ReplyKind::Echo { identifier: own, .. }) => *identifier = own,
        (ReplyKind::Tcp(tcp), ReplyKind::Tcp(own)) => tcp.destination_port = own.destination_port,
        _ => return None,
    }
    is_another.then_some(reply)
}

/// Not even the one that has its place in the engine's memory and its port now.
#[test]
fn what_is_said_of_a_trace_after_its_end_touches_no_other() {
    let methods = [Method::Icmp, Method::Udp, Method::TcpSyn, Method::TcpSack];
    for (method, v6) in methods
        .into_iter()
        .flat_map(|method| [(method, false), (method, true)])
    {
        let mut simulation = Simulation::new(straight(4));
        let start = |simulation: &mut Simulation<'_>, next: u32| {
            let spec = TraceSpec::full(method, target_of(v6), 33434, 6, ms(200));
            let port = if method == Method::Icmp { 0 } else { 40000 };
            let now = simulation.now;
            if method == Method::TcpSack {
                simulation.post(now, syn_ack(v6, port, next));
            }
            simulation.engine.start(now, spec, client_of(v6), port).unwrap()
        };
        let first = start(&mut simulation, NEXT);
        simulation.run();
        let before: Vec<_> = simulation.heard.iter().map(|(.., what)| what.clone()).collect();
        let (tokens, connection) = (simulation.tokens.clone(), simulation.connection);
        let nonsense = error(router_of(v6, 99), &simulation.sent[0].1, IcmpError::TimeExceeded);
        let second = start(&mut simulation, FORGED);
        loop {
            simulation.act();
            let now = simulation.now;
            for token in &tokens {
                simulation.hear(now, &Heard::Sent(*token, 0));
                simulation.hear(now, &Heard::Answered(*token, nonsense));
            }
            let current = std::mem::replace(&mut simulation.connection, connection);
            simulation.hear(now, &Heard::ConnectFailed(ErrorKind::ConnectionReset));
            simulation.connection = current;
            // An old SYN-ACK is for the kernel to tell from the new one.
            let has_begun = simulation.sent.len() > tokens.len();
            for what in before.iter().filter(|_| has_begun) {
                simulation.hear(now, what);
            }
            if !simulation.step() {
                break;
            }
        }
        assert_eq!(
            simulation.summary(second),
            simulation.summary(first),
            "{method:?}"
        );
        assert_eq!(simulation.sent.len(), 2 * tokens.len());
        assert_eq!(
            (simulation.engine.table_len(), simulation.engine.running()),
            (0, 0)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_trace_keeps_the_invariants(case in case()) {
        check(&case)?;
    }

    /// Answers of services carry no identifier: who answered and when is right all the same, none gets a lower TTL than the service
    /// has, and the end is in time.
    #[test]
    fn a_datagram_service_keeps_the_invariants(
        v6 in any::<bool>(),
        length in 1_u8..10,
        max_ttl in 1_u8..12,
        delays in prop::collection::vec(0_u64..400, 12),
        lost in any::<u16>(),
        silent in any::<u16>(),
        reading in reading(),
    ) {
        let delay = |ttl: u8| ms(delays[usize::from(ttl - 1)]);
        let mut simulation = Simulation::new(move |now, probe| {
            let bit = 1 << probe.ttl;
            match probe.ttl < length {
                true if silent & bit == 0 => vec![(now + delay(probe.ttl), time_exceeded(probe))],
                false if lost & bit == 0 => vec![(now + delay(probe.ttl), udp_service(probe))],
                _ => Vec::new(),
            }
        });
        let start = simulation.now;
        reading.prepare(&mut simulation);
        simulation.send_stamp = Box::new(|_| None);
        let id = simulation.start(TraceSpec::full(Method::Udp, target_of(v6), 33434, max_ttl, ms(200)));
        simulation.run();
        nothing_is_left(&mut simulation)?;
        let (end, result) = &simulation.finished[&id];
        prop_assert!(end.since(start) <= ms(50) * u32::from(max_ttl) + ms(200) + reading.stalled());
        for hop in &result.as_ref().unwrap().hops {
            if let Some(answer) = hop.answer {
                prop_assert!(!answer.rtt.is_zero());
                prop_assert_eq!(answer.destination, hop.ttl >= length);
                if answer.destination {
                    prop_assert_eq!(answer.address, target_of(v6));
                } else {
                    prop_assert_eq!(answer.address, router_of(v6, hop.ttl));
                    prop_assert_eq!(answer.rtt, delay(hop.ttl).max(Duration::from_nanos(1)));
                }
            }
        }
    }

    /// When none of its answers is lost, TTL and time are right as well, whatever the routers do and however often the network
    /// doubles what the service says.
    #[test]
    fn a_steady_datagram_service_is_found_where_it_is(
        v6 in any::<bool>(),
        length in 1_u8..10,
        more in 0_u8..3,
        delays in prop::collection::vec(0_u64..400, 12),
        silent in any::<u16>(),
        steady in 1_u64..190,
        copies in prop::collection::vec(0_u64..4, 0..4),
    ) {
        let mut simulation = Simulation::new(move |now, probe| {
            if probe.ttl < length {
                let delay = ms(delays[usize::from(probe.ttl - 1)]);
                let is_silent = silent >> probe.ttl & 1 == 1;
                return if is_silent { Vec::new() } else { vec![(now + delay, time_exceeded(probe))] };
            }
            let copies = copies.iter().map(|later| now + ms(steady + later));
            [now + ms(steady)].into_iter().chain(copies).map(|at| (at, udp_service(probe))).collect()
        });
        let spec = TraceSpec::full(Method::Udp, target_of(v6), 33434, length + more, ms(200));
        let id = simulation.start(spec);
        simulation.run();
        nothing_is_left(&mut simulation)?;
        let result = simulation.result(id);
        prop_assert_eq!(result.hops.len(), usize::from(length));
        let answer = result.hops[usize::from(length - 1)].answer.unwrap();
        prop_assert_eq!((answer.address, answer.destination), (target_of(v6), true));
        prop_assert_eq!(answer.rtt, ms(steady));
    }

    /// A RST without an acknowledgment does not say which SYN it answers, but within the timeout there is only one.
    #[test]
    fn a_closed_port_is_found_where_it_is(
        v6 in any::<bool>(),
        length in 1_u8..10,
        max_ttl in 1_u8..12,
        delays in prop::collection::vec(0_u64..400, 12),
        steady in 1_u64..190,
        silent in any::<u16>(),
    ) {
        let answers = |ttl: u8| silent >> ttl & 1 == 0;
        let delay = |ttl: u8| ms(delays[usize::from(ttl - 1)]);
        let mut simulation = Simulation::new(move |now, probe| {
            let ProbeKind::TcpSyn { source_port, destination_port, .. } = probe.kind else {
                panic!("not a SYN")
            };
            match (answers(probe.ttl), probe.ttl < length) {
                (false, _) => Vec::new(),
                (true, true) => vec![(now + delay(probe.ttl), time_exceeded(probe))],
                (true, false) => {
                    let reset = tcp(probe.destination, destination_port, source_port, RST, 0);
                    vec![(now + ms(steady), reset)]
                }
            }
        });
        let id = simulation.start(TraceSpec::full(Method::TcpSyn, target_of(v6), 80, max_ttl, ms(200)));
        simulation.run();
        nothing_is_left(&mut simulation)?;
        let found = (length..=max_ttl).find(|ttl| answers(*ttl));
        let hops = &simulation.result(id).hops;
        prop_assert_eq!(hops.len(), usize::from(found.unwrap_or(max_ttl)));
        for hop in hops {
            let is_destination = Some(hop.ttl) == found;
            let Some(answer) = hop.answer else {
                prop_assert!(!is_destination);
                continue;
            };
            prop_assert_eq!(answer.destination, is_destination);
            if is_destination {
                prop_assert_eq!((answer.address, answer.rtt), (target_of(v6), ms(steady)));
            } else {
                let rtt = delay(hop.ttl).max(Duration::from_nanos(1));
                prop_assert_eq!((answer.address, answer.rtt), (router_of(v6, hop.ttl), rtt));
            }
        }
    }

    /// Whatever comes of the handshake in whatever order, the trace ends in time with what it must.
    #[test]
    fn every_handshake_ends_in_the_right_error_or_in_hops(
        v6 in any::<bool>(),
        timeout in moment(1200),
        length in 1_u8..8,
        events in prop::collection::vec((handshake_event(), moment(2000)), 0..8),
    ) {
        let mut events = events;
        events.sort_by_key(|(_, at)| *at);
        // A forger that the kernel does not believe, but the engine, which cannot see why, may: nobody knows its numbers.
        let mut simulation = Simulation::new(move |now, probe| {
            let ProbeKind::TcpSack { sequence, .. } = probe.kind else {
                panic!("not a SACK probe")
            };
            let is_known = sequence.wrapping_sub(u32::from(probe.ttl)) == NEXT;
            if probe.ttl < length || is_known {
                straight(length)(now, probe)
            } else {
                Vec::new()
            }
        });
        simulation.connect = None;
        let start = simulation.now;
        let spec = TraceSpec::full(Method::TcpSack, target_of(v6), 33434, 6, ms(timeout));
        let id = simulation.start(spec);
        // The connection must have begun before anything can be said of it.
        simulation.act();
        for (event, at) in &events {
            let at = start + ms(*at);
            simulation.tell(at, at, event.heard(v6));
        }
        simulation.run();
        nothing_is_left(&mut simulation)?;
        let (end, result) = &simulation.finished[&id];
        let outcome = outcome(&events, timeout);
        match (&outcome, result) {
            (Outcome::Fails(at, text), Err(error)) => {
                prop_assert!(error.to_string().contains(text), "{error} instead of {text}");
                prop_assert_eq!(*end, start + ms(*at));
                prop_assert!(simulation.sent.is_empty());
            }
            (Outcome::Probes { at, .. }, result) => {
                prop_assert_eq!(simulation.sent[0].0, start + ms(*at));
                prop_assert!(end.since(start) <= ms(at + 5 * 10 + timeout));
                let genuine = matches!(outcome, Outcome::Probes { next: NEXT, .. });
                let Ok(result) = result else {
                    // What the target resets is no path without it.
                    let error = simulation.error(id);
                    prop_assert!(error.contains("reset the connection"), "{error}");
                    prop_assert!(events.iter().any(|(event, when)| *event == Handshake::Reset && when >= at));
                    return Ok(());
                };
                // Nobody but the target of the genuine connection is the destination.
                for hop in &result.hops {
                    let is_target = genuine && hop.ttl == length;
                    let rtt = ms(2) * u32::from(hop.ttl);
                    let from = if is_target { target_of(v6) } else { router_of(v6, hop.ttl) };
                    let is_answered = hop.ttl < length || is_target;
                    if let Some(answer) = hop.answer {
                        prop_assert!(is_answered);
                        prop_assert_eq!((answer.address, answer.rtt, answer.destination), (from, rtt, is_target));
                    } else {
                        prop_assert!(!is_answered || rtt > ms(timeout), "TTL {}", hop.ttl);
                    }
                }
            }
            (outcome, result) => prop_assert!(false, "{result:?} instead of {outcome:?}"),
        }
    }

}

proptest! {
    // Each case is up to 60 traces.
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any number of traces at once and one after the other, to the same target: each gets its own answers, however often and
    /// late they come and whatever else does.
    #[test]
    fn traces_do_not_mix(
        traces in prop::collection::vec((method(), any::<bool>()), 1..20),
        seed in any::<u64>(),
    ) {
        let mut random = seed;
        let log: Log = Arc::default();
        let known = Arc::clone(&log);
        let mut others: Vec<Probe> = Vec::new();
        let mut simulation = Simulation::new(move |now, probe| {
            let mut draw = |bits: u32| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                random >> (64 - bits)
            };
            let reply = if probe.ttl < 7 { time_exceeded(probe) } else { destination_answer(probe) };
            let copies: Vec<_> = (0..=draw(2)).map(|_| Duration::from_micros(draw(20))).collect();
            let first = copies.iter().min().copied().unwrap();
            known.lock().unwrap().push((now, *probe, reply.source, first));
            let mut replies: Vec<_> = copies.iter().map(|delay| (now + *delay, reply)).collect();
            // When the next traces run, from the same ports.
            replies.push((now + ms(3000 + draw(11)), reply));
            for _ in 0..draw(2) {
                replies.push((now + Duration::from_micros(draw(20)), foreign(probe, draw(8) as u8)));
            }
            // Half of it another's.
            for other in others.iter().rev().take(3) {
                replies.extend(mixed(probe, other).map(|reply| (now + Duration::from_micros(draw(20)), reply)));
            }
            others.push(*probe);
            replies
        });
        for number in 0..3_u32 {
            let round = simulation.now;
            let ids: Vec<_> = traces
                .iter()
                .enumerate()
                .map(|(index, (method, v6))| {
                    // What is foreign differs in the lower byte: it must not be another trace's port, which a bare reset may
                    // be sent to by anybody.
                    let port = if *method == Method::Icmp { 0 } else { (100 + index as u16) << 8 };
                    let spec = TraceSpec::full(*method, target_of(*v6), 33434, 10, ms(2000));
                    let id = simulation.engine.start(round, spec, client_of(*v6), port).unwrap();
                    if *method == Method::TcpSack {
                        // Far enough apart for quotes, also of the rounds before.
                        let next = number << 26 | (index as u32) << 20;
                        simulation.post(round, syn_ack(*v6, port, next));
                    }
                    id
                })
                .collect();
            while ids.iter().any(|id| !simulation.finished.contains_key(id)) && simulation.step() {}
            let log = log.lock().unwrap();
            for (id, (method, v6)) in ids.iter().zip(&traces) {
                let result = simulation.result(*id);
                prop_assert_eq!(result.hops.len(), 7);
                for hop in &result.hops {
                    let is_own = |(at, probe, ..): &&(Time, Probe, IpAddr, Duration)| {
                        *at >= round
                            && (probe.ttl, probe.destination) == (hop.ttl, target_of(*v6))
                            && name(probe) == (*method, result.source_port)
                    };
                    let (.., from, rtt) = log.iter().find(is_own).unwrap();
                    let answer = hop.answer.unwrap();
                    prop_assert_eq!((answer.address, answer.rtt), (*from, (*rtt).max(Duration::from_nanos(1))));
                }
            }
        }
        simulation.run();
        nothing_is_left(&mut simulation)?;
    }
}
