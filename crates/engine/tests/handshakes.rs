//! Handshakes of SACK traces in every order, and what is said of a trace when it is over.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::ErrorKind;

use proptest::prelude::*;
use support::*;
use traceroute_engine::{Method, TraceSpec};
use traceroute_wire::{IcmpError, ProbeKind, Reply, ReplyKind};

/// The SYN-ACK that a SACK trace waits for.
fn syn_ack(v6: bool, port: u16, acknowledgment: u32) -> Reply {
    let mut reply = tcp(target_of(v6), 33434, port, SYN_ACK, acknowledgment);
    if let ReplyKind::Tcp(tcp) = &mut reply.kind {
        tcp.sack.permitted = true;
    }
    reply
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

/// The last SYN-ACK before the kernel has connected counts, or else the first one within half a
/// second after it.
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
        simulation.assert_idle();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

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
        // A forger that the kernel does not believe, but the engine, which cannot see why, may:
        // nobody knows its numbers.
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
        let spec = TraceSpec {
            hop_retries: 0,
            ..TraceSpec::full(Method::TcpSack, target_of(v6), 33434, 6, ms(timeout))
        };
        let id = simulation.start(spec);
        // The connection must have begun before anything can be said of it.
        simulation.act();
        for (event, at) in &events {
            let at = start + ms(*at);
            simulation.tell(at, at, event.heard(v6));
        }
        simulation.run();
        simulation.assert_idle();
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
                        prop_assert_eq!((answer.address, answer.rtt, answer.destination), (from, Some(rtt), is_target));
                    } else {
                        prop_assert!(!is_answered || rtt > ms(timeout), "TTL {}", hop.ttl);
                    }
                }
            }
            (outcome, result) => prop_assert!(false, "{result:?} instead of {outcome:?}"),
        }
    }
}
