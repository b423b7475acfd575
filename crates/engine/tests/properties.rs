//! What holds for every trace, whatever arrives in whatever order.
#![allow(clippy::unwrap_used)]

mod support;

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
    max_ttl: u8,
    /// TTL of the destination.
    length: u8,
    timeout: Duration,
    delay: Duration,
    /// By TTL − 1.
    answers: Vec<Answers>,
    /// Which attempts to send find the kernel's queue full.
    full: Range<usize>,
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        4 => Just(Answer::TimeExceeded),
        1 => Just(Answer::Refused),
        4 => Just(Answer::Destination),
        2 => any::<u8>().prop_map(Answer::Foreign),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let method = prop_oneof![
        Just(Method::Icmp),
        Just(Method::Udp),
        Just(Method::TcpSyn),
        Just(Method::TcpSack)
    ];
    let answers = prop::collection::vec((answer(), 0_u32..700_000), 0..5);
    let answers = prop::collection::vec(answers, 12);
    let full = prop_oneof![
        3 => Just(0..0),
        1 => (0_usize..12, 1_usize..1500).prop_map(|(first, count)| first..first + count),
    ];
    (method, 1_u8..=12, 1_u8..=14, 1_u64..600, 1_u64..80, answers, full).prop_map(
        |(method, max_ttl, length, timeout, delay, answers, full)| Case {
            method,
            max_ttl,
            length,
            timeout: ms(timeout),
            delay: ms(delay),
            answers,
            full,
        },
    )
}

/// Answers by the identifier of the trace: TTL, from whom, after what time.
type Log = Arc<Mutex<Vec<(u16, u8, IpAddr, Duration)>>>;

/// A genuine answer as it was put on the wire.
#[derive(Debug, Clone, Copy)]
struct Genuine {
    ttl: u8,
    from: IpAddr,
    sent: Time,
    arrives: Time,
    destination: bool,
}

/// A reply as `answer` says; whether it is genuine, and the destination's.
fn reply(case: &Case, answer: Answer, probe: &Probe) -> Option<(Reply, Option<bool>)> {
    let reached = probe.ttl >= case.length;
    match answer {
        Answer::TimeExceeded if !reached => Some((time_exceeded(probe), Some(false))),
        Answer::Refused if !reached => {
            let refusal = IcmpError::Unreachable { code: 13 };
            Some((error(router(probe.ttl), probe, refusal), Some(false)))
        }
        Answer::Destination if reached => Some((destination_answer(probe), Some(true))),
        Answer::Foreign(what) => Some((foreign(probe, what), None)),
        Answer::TimeExceeded | Answer::Refused | Answer::Destination => None,
    }
}

/// An answer with something wrong in it that only somebody who saw the probe could know.
fn foreign(probe: &Probe, what: u8) -> Reply {
    let mut reply = if what & 1 == 0 {
        error(router(200), probe, IcmpError::TimeExceeded)
    } else {
        destination_answer(probe)
    };
    let wrong = u16::from(what | 1);
    match &mut reply.kind {
        ReplyKind::IcmpError { quoted, .. } => match &mut quoted.transport {
            QuotedTransport::Echo { checksum, .. } => *checksum ^= wrong << 4,
            QuotedTransport::Udp { checksum, .. } if what & 2 == 0 => *checksum ^= wrong << 4,
            QuotedTransport::Udp { .. } => quoted.identification ^= 0x8000,
            QuotedTransport::Tcp { sequence, .. } => *sequence ^= u32::from(wrong) << 12,
        },
        ReplyKind::Echo { cookie, .. } => *cookie = (what & 2 == 0).then_some([what; 6]),
        ReplyKind::Tcp(tcp) if what & 2 == 0 => reply.source = router(77),
        ReplyKind::Tcp(tcp) => {
            tcp.acknowledgment ^= u32::from(wrong) << 12;
            tcp.sack.left_edges[0] ^= u32::from(wrong) << 12;
        }
        ReplyKind::Udp(_) => reply.source = router(77),
    }
    reply
}

/// The SYN-ACK that a SACK trace waits for.
fn syn_ack(port: u16) -> Reply {
    let mut reply = tcp(target(), 33434, port, SYN_ACK, 5000);
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
    full + match case.method {
        Method::TcpSyn => case.timeout.max(case.delay) * count,
        Method::TcpSack => case.delay * count + case.timeout * 2 + ms(500),
        Method::Icmp | Method::Udp => case.delay * count + case.timeout,
    }
}

fn check(case: &Case) -> Result<(), TestCaseError> {
    let genuine: Arc<Mutex<Vec<Genuine>>> = Arc::default();
    let log = Arc::clone(&genuine);
    let plan = case.clone();
    let mut simulation = Simulation::new(move |now, probe| {
        let mut replies = Vec::new();
        for (answer, micros) in &plan.answers[usize::from(probe.ttl - 1)] {
            let Some((reply, kind)) = reply(&plan, *answer, probe) else {
                continue;
            };
            let arrives = now + Duration::from_micros(u64::from(*micros));
            if let Some(destination) = kind {
                log.lock().unwrap().push(Genuine {
                    ttl: probe.ttl,
                    from: reply.source,
                    sent: now,
                    arrives,
                    destination,
                });
            }
            replies.push((arrives, reply));
        }
        replies
    });
    let spec = TraceSpec {
        delay: case.delay,
        ..TraceSpec::full(case.method, target(), 33434, case.max_ttl, case.timeout)
    };
    let start = simulation.now;
    simulation
        .fail_send
        .extend(case.full.clone().map(|attempt| (attempt, ErrorKind::WouldBlock)));
    let id = simulation.start(spec);
    if case.method == Method::TcpSack {
        simulation.post(start, syn_ack(40000));
    }
    simulation.run();

    let (end, result) = &simulation.finished[&id];
    prop_assert!(
        end.since(start) <= deadline(case),
        "ends at {:?}",
        end.since(start)
    );
    let result = match result {
        Ok(result) => result,
        // Not one probe left.
        Err(error) => {
            prop_assert!(
                case.full.start == 0 && error.to_string().contains("stays full"),
                "{error}"
            );
            prop_assert_eq!(simulation.engine.running(), 0);
            return Ok(());
        }
    };
    let genuine = genuine.lock().unwrap();
    // What arrived in the same instant may have come before or after the end.
    let in_time = || genuine.iter().filter(|answer| answer.arrives < *end);

    for hop in &result.hops {
        let Some(answer) = hop.answer else {
            prop_assert!(
                in_time().all(|known| known.ttl != hop.ttl),
                "{hop:?} was answered"
            );
            continue;
        };
        let own = genuine.iter().any(|known| {
            known.ttl == hop.ttl
                && known.from == answer.address
                && known.destination == answer.destination
                && known.arrives.since(known.sent).max(Duration::from_nanos(1)) == answer.rtt
                && known.arrives <= *end
        });
        prop_assert!(own, "{answer:?} at TTL {} is none of its own", hop.ttl);
        // The first answer counts.
        let earlier =
            in_time().any(|known| known.ttl == hop.ttl && known.arrives.since(known.sent) < answer.rtt);
        prop_assert!(!earlier || answer.rtt == Duration::from_nanos(1));
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
    if let Some(lowest) = in_time()
        .filter(|known| known.destination)
        .map(|known| known.ttl)
        .min()
    {
        prop_assert!(last <= lowest);
        prop_assert_eq!(destinations, vec![last]);
    } else if destinations.is_empty() {
        prop_assert_eq!(last, case.max_ttl);
    }

    prop_assert_eq!(simulation.engine.table_len(), 0);
    prop_assert_eq!(simulation.engine.running(), 0);
    prop_assert_eq!(simulation.engine.wake_at(), None);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_trace_keeps_the_invariants(case in case()) {
        check(&case)?;
    }

    /// Answers of services carry no identifier: who answered and when is right all the same, and the end is in time.
    #[test]
    fn a_datagram_service_keeps_the_invariants(
        length in 1_u8..10,
        max_ttl in 1_u8..12,
        delays in prop::collection::vec(0_u64..400, 12),
        lost in any::<u16>(),
        silent in any::<u16>(),
    ) {
        let mut simulation = Simulation::new(move |now, probe| {
            let delay = ms(delays[usize::from(probe.ttl - 1)]);
            let bit = 1 << probe.ttl;
            match probe.ttl < length {
                true if silent & bit == 0 => vec![(now + delay, time_exceeded(probe))],
                false if lost & bit == 0 => vec![(now + delay, udp_service(probe))],
                _ => Vec::new(),
            }
        });
        let start = simulation.now;
        let id = simulation.start(TraceSpec::full(Method::Udp, target(), 33434, max_ttl, ms(200)));
        simulation.run();
        let (end, result) = &simulation.finished[&id];
        prop_assert!(end.since(start) <= ms(50) * u32::from(max_ttl) + ms(200));
        for hop in &result.as_ref().unwrap().hops {
            if let Some(answer) = hop.answer {
                let expected = if answer.destination { target() } else { router(hop.ttl) };
                prop_assert_eq!(answer.address, expected);
                prop_assert!(!answer.rtt.is_zero());
                prop_assert!(answer.destination || hop.ttl < length);
            }
        }
        prop_assert_eq!(simulation.engine.table_len(), 0);
        prop_assert_eq!(simulation.engine.wake_at(), None);
    }

    /// Any number of traces at once, to the same target: each gets its own answers.
    #[test]
    fn traces_do_not_mix(methods in prop::collection::vec(0_u8..3, 1..40), seed in any::<u64>()) {
        let mut random = seed;
        let log: Log = Arc::default();
        let known = Arc::clone(&log);
        let mut simulation = Simulation::new(move |now, probe| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let delay = Duration::from_micros(random >> 44);
            let reply = if probe.ttl < 7 { time_exceeded(probe) } else { destination_answer(probe) };
            let name = match probe.kind {
                ProbeKind::Echo { identifier, .. } => identifier,
                ProbeKind::Udp { source_port, .. }
                | ProbeKind::TcpSyn { source_port, .. }
                | ProbeKind::TcpSack { source_port, .. } => source_port,
            };
            known.lock().unwrap().push((name, probe.ttl, reply.source, delay));
            vec![(now + delay, reply)]
        });
        let ids: Vec<_> = methods
            .iter()
            .enumerate()
            .map(|(index, method)| {
                let method = [Method::Icmp, Method::Udp, Method::TcpSyn][usize::from(*method)];
                let port = if method == Method::Icmp { 0 } else { 50_000 + index as u16 };
                let spec = TraceSpec::full(method, target(), 33434, 10, ms(2000));
                simulation.engine.start(simulation.now, spec, client(), port).unwrap()
            })
            .collect();
        simulation.run();
        let log = log.lock().unwrap();
        for id in ids {
            let result = simulation.result(id);
            prop_assert_eq!(result.hops.len(), 7);
            for hop in &result.hops {
                let answer = hop.answer.unwrap();
                let rtt = answer.rtt;
                let own = log.iter().any(|(name, ttl, from, delay)| {
                    (*name, *ttl, *from) == (result.source_port, hop.ttl, answer.address)
                        && (*delay).max(Duration::from_nanos(1)) == rtt
                });
                prop_assert!(own);
            }
        }
    }
}
