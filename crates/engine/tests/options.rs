//! What a caller chooses of a run's probes: where they begin, how fast they leave, what they look
//! like.
#![allow(clippy::unwrap_used)]

mod support;

use support::*;
use traceroute_engine::{End, Family, Method, PacketOptions, Time, TraceId, TraceSpec};
use traceroute_wire::{Probe, Reply};

const METHODS: [Method; 4] = [Method::Icmp, Method::Udp, Method::TcpSyn, Method::TcpSack];
const LENGTH: u8 = 11;

/// A path of eleven hops that add 5 ms each to the round trip; these are silent.
fn path(silent: &'static [u8]) -> impl FnMut(Time, &Probe) -> Vec<(Time, Reply)> {
    let mut straight = straight(LENGTH);
    move |now, probe| {
        let mut replies = straight(now, probe);
        for (at, _) in &mut replies {
            *at = now + ms(5) * u32::from(probe.ttl.min(LENGTH));
        }
        replies.retain(|_| !silent.contains(&probe.ttl));
        replies
    }
}

fn at_once(method: Method) -> TraceSpec {
    TraceSpec {
        max_ttl: 30,
        delay: ms(0),
        ..spec(method)
    }
}

fn end(simulation: &Simulation<'_>, id: TraceId) -> std::time::Duration {
    simulation.finished[&id].0.since(at(1))
}

#[test]
fn without_a_delay_a_path_takes_one_round_trip() {
    for method in METHODS {
        let mut simulation = Simulation::new(path(&[]));
        let id = simulation.start_connected(at_once(method));
        simulation.run();
        simulation.assert_idle();
        let result = simulation.result(id);
        assert_eq!(
            (result.hops.len(), result.end),
            (11, End::Destination),
            "{method:?}"
        );
        assert!(result.hops.iter().all(|hop| hop.answer.is_some()), "{result:?}");
        let round_trip = ms(55);
        let end = end(&simulation, id);
        assert!(
            end >= round_trip && end <= round_trip * 13 / 10,
            "{method:?}: {end:?}"
        );
        let first = simulation.sent[0].0;
        let burst = simulation.sent.iter().filter(|(at, _)| *at == first).count();
        assert_eq!(burst, 16, "{method:?}");
    }
}

#[test]
fn silent_routers_are_waited_for_but_hold_nothing_up() {
    for method in METHODS {
        let mut simulation = Simulation::new(path(&[3, 7]));
        let spec = at_once(method);
        let id = simulation.start_connected(spec);
        simulation.run();
        let result = simulation.result(id);
        for hop in &result.hops {
            let is_silent = [3, 7].contains(&hop.ttl);
            assert_eq!(hop.answer.is_none(), is_silent, "{method:?}: {hop:?}");
            assert_eq!(
                simulation.times(id, hop.ttl)[0],
                simulation.sent[0].0,
                "{method:?}"
            );
        }
        let end = end(&simulation, id);
        // The last probe leaves before the destination has answered.
        assert!(end <= spec.timeout + ms(55), "{method:?}: {end:?}");
    }
}

#[test]
fn at_most_sixteen_probes_are_on_their_way() {
    // Nobody answers: the next ones leave when that is likely.
    let mut simulation = Simulation::new(|_, _| Vec::new());
    let id = simulation.start(TraceSpec {
        hop_retries: 0,
        ..at_once(Method::Icmp)
    });
    simulation.run();
    let first = simulation.sent[0].0;
    for ttl in 1..=30 {
        let expected = if ttl <= 16 { ms(0) } else { ms(200) };
        assert_eq!(simulation.times(id, ttl)[0].since(first), expected, "TTL {ttl}");
    }
    // Each answer makes room for one more.
    let mut simulation = Simulation::new(straight(40));
    let id = simulation.start(at_once(Method::TcpSyn));
    simulation.run();
    for ttl in 17..=30 {
        let room = simulation.sent[0].0 + ms(2) * u32::from(ttl - 16);
        assert_eq!(simulation.times(id, ttl)[0], room, "TTL {ttl}");
    }
}

#[test]
fn runs_without_a_delay_take_turns_by_ttl() {
    for method in [Method::Icmp, Method::Udp, Method::TcpSyn] {
        let mut simulation = Simulation::new(path(&[]));
        for _ in 0..3 {
            simulation.start(at_once(method));
        }
        simulation.act();
        let ttls: Vec<u8> = simulation.sent.iter().map(|(_, probe)| probe.ttl).collect();
        let turns: Vec<u8> = (1..=16).flat_map(|ttl| [ttl; 3]).collect();
        assert_eq!(ttls, turns, "{method:?}");
    }
}

/// A connect that ends the one before it.
#[test]
fn one_at_a_time_stays_serial() {
    let mut simulation = Simulation::new(path(&[]));
    let id = simulation.start(at_once(Method::TcpSyn).one_at_a_time());
    simulation.run();
    let sent: Vec<Time> = simulation.sent.iter().map(|(at, _)| *at).collect();
    assert_eq!(simulation.result(id).hops.len(), 11);
    assert_eq!(sent.len(), 11);
    assert!(sent.windows(2).all(|pair| pair[0] < pair[1]), "{sent:?}");
}

#[test]
fn runs_begin_at_the_first_ttl() {
    for method in METHODS {
        for (first_ttl, hops) in [(1, 11), (4, 8), (11, 1), (20, 1)] {
            let mut simulation = Simulation::new(path(&[]));
            let id = simulation.start_connected(TraceSpec {
                first_ttl,
                ..at_once(method)
            });
            simulation.run();
            let result = simulation.result(id);
            assert!(simulation.sent.iter().all(|(_, probe)| probe.ttl >= first_ttl));
            let ttls: Vec<u8> = result.hops.iter().map(|hop| hop.ttl).collect();
            let expected: Vec<u8> = (first_ttl..).take(hops).collect();
            assert_eq!((ttls, result.end), (expected, End::Destination), "{method:?}");
        }
    }
}

#[test]
fn packets_look_as_asked_for_and_are_recognised() {
    for method in METHODS {
        for family in Family::ALL {
            let least = PacketOptions::least_size(method, family);
            assert_eq!(
                least.is_none(),
                method.transport() == Some(traceroute_engine::Transport::Tcp)
            );
            for size in [least, Some(60), Some(61), Some(1280), Some(9000)] {
                let packet = PacketOptions {
                    size,
                    tos: 0xB8,
                    dont_fragment: true,
                };
                let mut simulation = Simulation::new(straight(5));
                let id = simulation.start_connected(TraceSpec {
                    target: target_of(family == Family::V6),
                    packet,
                    ..spec(method)
                });
                simulation.run();
                let hops = &simulation.result(id).hops;
                let answered = hops.iter().filter(|hop| hop.answer.is_some()).count();
                assert_eq!((hops.len(), answered), (5, 5), "{method:?} {family} {size:?}");
                for (_, probe) in &simulation.sent {
                    assert_eq!((probe.tos, probe.dont_fragment), (0xB8, true));
                    let len = probe.packet_len();
                    assert!(least.is_none() || Some(len as u16) == size, "{method:?}: {len}");
                }
            }
        }
    }
}
