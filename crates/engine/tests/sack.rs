//! SACK traces on simulated paths.

mod support;

use std::cell::RefCell;
use std::io::ErrorKind;

use support::*;
use traceroute_engine::{Method, Time, TraceSpec};
use traceroute_wire::{Probe, ProbeKind, Reply, ReplyKind, TcpFlags, TcpTimestamps};

const NEXT: u32 = 0xFFFF_FFF0; // wraps within the TTLs

fn syn_ack(permitted: bool) -> Reply {
    let mut reply = tcp(target(), 33434, 40000, SYN_ACK, NEXT);
    if let ReplyKind::Tcp(tcp) = &mut reply.kind {
        tcp.sack.permitted = permitted;
        tcp.timestamps = Some(TcpTimestamps {
            value: 555,
            echo: 1000,
        });
    }
    reply
}

/// The target's next sequence number after its SYN-ACK.
const PEER_NEXT: u32 = 7001;

/// What the target sends on the connection.
fn segment(flags: TcpFlags, sequence: u32, payload_len: u16) -> Reply {
    let mut reply = tcp(target(), 33434, 40000, flags, NEXT.wrapping_add(1));
    if let ReplyKind::Tcp(tcp) = &mut reply.kind {
        (tcp.sequence, tcp.payload_len) = (sequence, payload_len);
    }
    reply
}

fn simulate(
    path: impl FnMut(Time, &Probe) -> Vec<(Time, Reply)>,
    prepare: impl FnOnce(&mut Simulation),
) -> String {
    let mut simulation = Simulation::new(path);
    prepare(&mut simulation);
    let id = simulation.start(TraceSpec {
        max_ttl: 6,
        ..spec(Method::TcpSack)
    });
    simulation.run();
    assert_eq!(
        (simulation.engine.table_len(), simulation.engine.running()),
        (0, 0)
    );
    match &simulation.finished[&id].1 {
        Ok(_) => simulation.summary(id),
        Err(error) => error.to_string(),
    }
}

#[test]
fn finds_the_path_by_selective_acknowledgments() {
    let found = simulate(straight(4), |simulation| simulation.post(at(5), syn_ack(true)));
    assert_eq!(found, "1:10.0.1.1/2 2:10.0.2.1/4 3:10.0.3.1/6 4:203.0.113.9/8!");
}

#[test]
fn probes_carry_the_connections_numbers() {
    let probes = RefCell::new(Vec::new());
    let path = |now: Time, probe: &Probe| {
        probes.borrow_mut().push((now, *probe));
        straight(2)(now, probe)
    };
    simulate(path, |simulation| simulation.post(at(5), syn_ack(true)));
    let probes = probes.borrow();
    let (_, first) = probes[0];
    let ProbeKind::TcpSack {
        sequence,
        acknowledgment,
        timestamps,
        ..
    } = first.kind
    else {
        panic!("{first:?}")
    };
    assert_eq!((sequence, acknowledgment), (NEXT.wrapping_add(1), 7001));
    // Echoed + 4 ms since the connection began + 50 + TTL.
    assert_eq!(
        timestamps,
        Some(TcpTimestamps {
            value: 1000 + 4 + 50 + 1,
            echo: 555
        })
    );
    assert_eq!(probes[1].0.since(probes[0].0), ms(10));
}

#[test]
fn the_lowest_left_edge_counts() {
    let path = |now: Time, probe: &Probe| match probe.ttl {
        1 | 2 => vec![(now + ms(1), time_exceeded(probe))],
        // The probe for TTL 4 arrives first; then both are acknowledged in two blocks.
        3 => {
            let mut reply = destination_answer(probe);
            if let ReplyKind::Tcp(tcp) = &mut reply.kind {
                tcp.sack.blocks = 2;
                tcp.sack.left_edges = [NEXT.wrapping_add(4), NEXT.wrapping_add(3), 0, 0];
            }
            vec![(now + ms(30), reply)]
        }
        _ => vec![(now + ms(11), destination_answer(probe))],
    };
    let found = simulate(path, |simulation| simulation.post(at(5), syn_ack(true)));
    assert_eq!(found, "1:10.0.1.1/1 2:10.0.2.1/1 3:203.0.113.9/30!");
}

#[test]
fn acknowledgments_of_a_server_that_speaks_first_say_nothing() {
    let path = |now: Time, probe: &Probe| {
        let mut replies = straight(3)(now, probe);
        let mut greeting = tcp(target(), 33434, 40000, ACK, NEXT);
        if let ReplyKind::Tcp(tcp) = &mut greeting.kind {
            tcp.payload_len = 20;
        }
        replies.push((now, greeting));
        replies
    };
    let found = simulate(path, |simulation| simulation.post(at(5), syn_ack(true)));
    assert_eq!(found, "1:10.0.1.1/2 2:10.0.2.1/4 3:203.0.113.9/6!");
}

#[test]
fn not_supported_always_reads_the_same() {
    let silent = |_: Time, _: &Probe| vec![];
    let prefix = "SACK not supported for this target/source: ";
    let refused = simulate(silent, |simulation| {
        simulation.connect = Some(Err(ErrorKind::ConnectionRefused));
    });
    let no_connection = simulate(silent, |simulation| simulation.connect = None);
    let not_permitted = simulate(silent, |simulation| simulation.post(at(5), syn_ack(false)));
    let only_acks = |now: Time, probe: &Probe| match probe.ttl {
        1 => vec![(now + ms(1), time_exceeded(probe))],
        _ => vec![(now + ms(3), tcp(target(), 33434, 40000, ACK, NEXT))],
    };
    let no_blocks = simulate(only_acks, |simulation| simulation.post(at(5), syn_ack(true)));
    let reset = |now: Time, _: &Probe| vec![(now + ms(3), segment(RST, PEER_NEXT, 0))];
    let reset = simulate(reset, |simulation| simulation.post(at(5), syn_ack(true)));
    let causes = [refused, no_connection, not_permitted, no_blocks, reset];
    for cause in &causes {
        assert!(cause.starts_with(prefix), "{cause}");
    }
    assert!(
        causes[0].contains("cannot connect to 203.0.113.9: connection refused"),
        "{}",
        causes[0]
    );
    assert_eq!(
        causes[1],
        format!("{prefix}no connection to 203.0.113.9 port 33434 within 1000 ms")
    );
    assert_eq!(
        causes[2],
        format!("{prefix}the target's SYN-ACK does not permit SACK")
    );
    assert_eq!(
        causes[3],
        format!("{prefix}the target acknowledges without SACK blocks")
    );
    assert_eq!(causes[4], format!("{prefix}the target reset the connection"));
}

/// Whether they are read in the same moment or one after the other.
#[test]
fn a_handshake_that_failed_is_not_revived_by_another() {
    for later in [5, 6] {
        let found = simulate(straight(4), |simulation| {
            simulation.post(at(5), syn_ack(false));
            simulation.post(at(later), syn_ack(true));
        });
        assert!(found.contains("does not permit SACK"), "{found}");
    }
}

#[test]
fn only_a_reset_with_the_peers_sequence_number_counts() {
    // Nothing answers but two routers; and somebody resets.
    let found = |greeting: u16, reset: u32| {
        let path = |now: Time, probe: &Probe| match probe.ttl {
            1 => vec![
                (now + ms(1), time_exceeded(probe)),
                (now + ms(1), segment(ACK, PEER_NEXT, greeting)),
                (now + ms(2), segment(RST, reset, 0)),
            ],
            2 => vec![(now + ms(1), time_exceeded(probe))],
            _ => vec![],
        };
        simulate(path, |simulation| simulation.post(at(5), syn_ack(true)))
    };
    let reset = "SACK not supported for this target/source: the target reset the connection";
    let path = "1:10.0.1.1/1 2:10.0.2.1/1 3:* 4:* 5:* 6:*";
    assert_eq!(found(0, PEER_NEXT), reset);
    assert_eq!(found(20, PEER_NEXT), reset, "as an answer to a probe");
    assert_eq!(found(20, PEER_NEXT + 20), reset, "behind what it sent");
    for forged in [0, PEER_NEXT - 1, PEER_NEXT + 1, PEER_NEXT + 19, 0x1122_3344] {
        assert_eq!(found(20, forged), path, "{forged}");
    }
}

#[test]
fn a_handshake_that_is_not_seen_is_an_error_of_its_own() {
    let found = simulate(|_, _: &Probe| vec![], |_| {});
    assert_eq!(
        found,
        "connected to 203.0.113.9 port 33434, but saw no SYN-ACK within 500 ms"
    );
}

#[test]
fn a_silent_path_is_a_result_not_an_error() {
    let found = simulate(
        |_, _: &Probe| vec![],
        |simulation| simulation.post(at(5), syn_ack(true)),
    );
    assert_eq!(found, "1:* 2:* 3:* 4:* 5:* 6:*");
}

/// Blocks that lie together are one, so its left edge alone would make the answer to TTL 5 one to
/// TTL 2, 30 ms too late.
#[test]
fn an_acknowledgment_of_several_probes_has_the_time_of_the_last() {
    let path = |now: Time, probe: &Probe| {
        let ProbeKind::TcpSack { sequence, .. } = probe.kind else {
            panic!("not a SACK probe")
        };
        let mut reply = destination_answer(probe);
        if let ReplyKind::Tcp(tcp) = &mut reply.kind {
            tcp.sack.left_edges[0] = NEXT.wrapping_add(2);
            tcp.sack.first_right_edge = Some(sequence.wrapping_add(1));
        }
        match probe.ttl {
            1 => vec![(now + ms(4), time_exceeded(probe))],
            5 => vec![(now + ms(4), reply)],
            _ => Vec::new(),
        }
    };
    let found = simulate(path, |simulation| simulation.post(at(5), syn_ack(true)));
    assert_eq!(found, "1:10.0.1.1/4 2:203.0.113.9/4!");
}

/// Without the connection's sequence numbers, which the kernel knows and the engine does not, a
/// forger only has to guess the port.
#[test]
fn a_forged_handshake_before_the_genuine_one_changes_nothing() {
    for permitted in [true, false] {
        let found = simulate(straight(4), |simulation| {
            simulation.connect_by = Some(NEXT);
            let mut forged = syn_ack(permitted);
            if let ReplyKind::Tcp(tcp) = &mut forged.kind {
                tcp.acknowledgment = 1234;
                tcp.sequence = 99;
            }
            simulation.post(at(3), forged);
            simulation.post(at(5), syn_ack(true));
        });
        assert_eq!(found, "1:10.0.1.1/2 2:10.0.2.1/4 3:10.0.3.1/6 4:203.0.113.9/8!");
    }
}
