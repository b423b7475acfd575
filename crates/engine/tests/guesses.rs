//! What somebody reaches who knows who traces whom and sends many replies with guessed identifiers.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::IpAddr;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use support::*;
use traceroute_engine::{Method, TraceId, TraceSpec};
use traceroute_wire::{IcmpError, Probe, ProbeKind, QuotedTransport, Reply, ReplyKind};

/// So many traces to one target at once are as many times as easy to hit.
const TRACES: u16 = 50;
const MAX_TTL: u8 = 6;
/// Each kind of guess for each method and family. The likeliest to get in are quotes of TCP
/// segments: 6 TTLs of 50 traces among 2^32 sequence numbers, so that one of all gets in with a
/// probability of 0.2 %. The seed is fixed.
const GUESSES: usize = 20_000;

/// All probes are out, and none is answered.
fn begun(method: Method, v6: bool) -> (Simulation<'static>, Vec<TraceId>) {
    let mut simulation = Simulation::new(|_, _: &Probe| Vec::new());
    let spec = TraceSpec::full(method, target_of(v6), 33434, MAX_TTL, ms(500));
    let start = |index| {
        let port = if method == Method::Icmp { 0 } else { 40_000 + index };
        let now = simulation.now;
        if method == Method::TcpSack {
            let mut syn_ack = tcp(
                spec.target,
                33434,
                port,
                SYN_ACK,
                0x0123_4567 * u32::from(index + 1),
            );
            if let ReplyKind::Tcp(tcp) = &mut syn_ack.kind {
                tcp.sack.permitted = true;
            }
            simulation.post(now, syn_ack);
        }
        simulation.engine.start(now, spec, client_of(v6), port).unwrap()
    };
    let ids = (0..TRACES).map(start).collect();
    while simulation.sent.len() < usize::from(TRACES) * usize::from(MAX_TTL) && simulation.step() {}
    (simulation, ids)
}

/// A router's error about one of these probes, as far as everybody knows it.
fn guessed_quote(probe: &Probe, rng: &mut StdRng) -> Reply {
    let v6 = probe.destination.is_ipv6();
    let mut reply = error(router_of(v6, probe.ttl), probe, IcmpError::TimeExceeded);
    let ReplyKind::IcmpError { quoted, .. } = &mut reply.kind else {
        unreachable!()
    };
    if v6 {
        quoted.flow_label = rng.random_range(0..1 << 20);
    } else {
        quoted.identification = rng.random();
    }
    match &mut quoted.transport {
        QuotedTransport::Echo {
            identifier, checksum, ..
        } => (*identifier, *checksum) = rng.random(),
        QuotedTransport::Udp {
            source_port,
            checksum,
            ..
        } => (*source_port, *checksum) = rng.random(),
        QuotedTransport::Tcp {
            source_port,
            sequence,
            ..
        } => (*source_port, *sequence) = rng.random(),
    }
    reply
}

/// The target's answer by somebody who even knows port or echo identifier. `None`: that would be
/// enough.
fn guessed_answer(probe: &Probe, rng: &mut StdRng) -> Option<Reply> {
    let mut reply = destination_answer(probe);
    match &mut reply.kind {
        ReplyKind::Echo { cookie, .. } => *cookie = Some(rng.random()),
        ReplyKind::Tcp(tcp) => {
            tcp.sequence = rng.random();
            tcp.acknowledgment = rng.random();
            tcp.sack.left_edges = rng.random();
            tcp.sack.first_right_edge = tcp.sack.first_right_edge.map(|_| rng.random());
            if rng.random() {
                tcp.flags = RST_ACK;
            }
        }
        // A quote like any other.
        ReplyKind::IcmpError { .. } => {
            reply = Reply {
                source: reply.source,
                ..guessed_quote(probe, rng)
            }
        }
        ReplyKind::Udp(_) => return None,
    }
    Some(reply)
}

#[test]
fn thousands_of_guesses_do_not_get_in() {
    let mut rng = StdRng::seed_from_u64(1);
    for method in [Method::Icmp, Method::Udp, Method::TcpSyn, Method::TcpSack] {
        for v6 in [false, true] {
            let (mut simulation, ids) = begun(method, v6);
            for _ in 0..GUESSES {
                let probe = simulation.sent[rng.random_range(0..simulation.sent.len())].1;
                let answer = guessed_answer(&probe, &mut rng);
                for guess in [Some(guessed_quote(&probe, &mut rng)), answer]
                    .into_iter()
                    .flatten()
                {
                    simulation.hear(simulation.now, &Heard::Reply(guess));
                }
            }
            assert_eq!(simulation.engine.counters().matched, 0, "{method:?}");
            simulation.run();
            for id in ids {
                let hops = &simulation.result(id).hops;
                assert_eq!(hops.len(), usize::from(MAX_TTL), "{method:?}");
                assert!(hops.iter().all(|hop| hop.answer.is_none()), "{method:?}");
            }
        }
    }
}

/// A reset without acknowledgment and a datagram carry nothing but addresses and ports. Whoever
/// tries all ports while a probe waits makes the target appear at this probe's TTL: once in each
/// trace, and no address but the target's.
#[test]
fn who_tries_all_ports_with_bare_answers_hits_each_trace_once() {
    for (method, v6) in [Method::TcpSyn, Method::Udp]
        .into_iter()
        .flat_map(|method| [(method, false), (method, true)])
    {
        let (mut simulation, ids) = begun(method, v6);
        // Of the SYNs all but the last have had their time.
        let probe = simulation.sent[simulation.sent.len() - 1].1;
        for port in 0..=u16::MAX {
            let guess = match probe.kind {
                ProbeKind::TcpSyn { destination_port, .. } => {
                    tcp(probe.destination, destination_port, port, RST, 0)
                }
                _ => {
                    let mut datagram = udp_service(&probe);
                    if let ReplyKind::Udp(udp) = &mut datagram.kind {
                        udp.destination_port = port;
                    }
                    datagram
                }
            };
            simulation.hear(simulation.now, &Heard::Reply(guess));
        }
        let matched = simulation.engine.counters().matched;
        assert!(
            (1..=u64::from(TRACES)).contains(&matched),
            "{method:?}: {matched}"
        );
        simulation.run();
        for id in ids {
            let hops = &simulation.result(id).hops;
            let found: Vec<_> = hops
                .iter()
                .filter_map(|hop| hop.answer.map(|answer| (hop.ttl, answer.address)))
                .collect();
            let is_target = |found: &(u8, IpAddr)| *found == (MAX_TTL, target_of(v6));
            assert!(
                found.len() <= 1 && found.iter().all(is_target),
                "{method:?}: {found:?}"
            );
        }
    }
}
