//! UDP services, whose answers do not say which probe they are to.

mod support;

use std::io::ErrorKind;
use std::net::IpAddr;

use support::*;
use traceroute_engine::{Distance, End, Engine, EngineEvent, Method, NetworkEvent, TraceSpec};
use traceroute_wire::{Checksums, IcmpError, MAX_PROBE_LEN, Probe, Reply, ReplyKind, UdpReply, decode};

/// Three routers, a silent one, and a service at TTL 5, 120 ms away.
fn behind_a_silent_router(probe: &Probe) -> Vec<(u64, Reply)> {
    match probe.ttl {
        1..=3 => vec![(1, time_exceeded(probe))],
        4 => vec![],
        _ => vec![(120, udp_service(probe))],
    }
}

const BEHIND_A_SILENT_ROUTER: &str = "1:10.0.1.1/1 2:10.0.2.1/1 3:10.0.3.1/1 4:* 5:203.0.113.9/120!";

#[test]
fn duplicates_do_not_bring_a_service_nearer() {
    let repeated_after: [&[u64]; 4] = [&[0], &[2], &[0, 1, 2], &[400]];
    for delays in repeated_after {
        let mut simulation = Simulation::new(|now, probe: &Probe| {
            behind_a_silent_router(probe)
                .into_iter()
                .flat_map(|(after, reply)| {
                    let copies = delays.iter().map(move |delay| after + delay);
                    std::iter::once(after)
                        .chain(copies)
                        .map(move |after| (now + ms(after), reply))
                })
                .collect()
        });
        let id = simulation.start(spec(Method::Udp));
        simulation.run();
        // So late that there is no time to look for the service: then it is not shown.
        let is_open = simulation.result(id).end == End::MaxTtl && delays == [400];
        assert!(
            is_open || simulation.summary(id) == BEHIND_A_SILENT_ROUTER,
            "{delays:?}: {}",
            simulation.summary(id)
        );
    }
}

#[test]
fn a_pause_of_a_service_hides_nothing() {
    let mut lost = vec![7, 8, 9];
    let mut simulation = Simulation::new(move |now, probe: &Probe| {
        let before = lost.len();
        lost.retain(|ttl| *ttl != probe.ttl);
        let answers = if lost.len() < before {
            vec![]
        } else {
            behind_a_silent_router(probe)
        };
        let later = |(after, reply)| (now + ms(after), reply);
        answers.into_iter().map(later).collect()
    });
    let id = simulation.start(spec(Method::Udp));
    simulation.run();
    // Of two probes at TTL 5 it is not known which was answered.
    let expected = BEHIND_A_SILENT_ROUTER.replace("/120!", "/?!");
    assert_eq!(simulation.summary(id), expected);
}

#[test]
fn answers_of_a_service_that_were_held_up_still_count() {
    for (held_up, rtt) in [(5, 150), (6, 120), (7, 120)] {
        let mut simulation = Simulation::new(|now, probe: &Probe| {
            let more = if probe.ttl == held_up { 30 } else { 0 };
            behind_a_silent_router(probe)
                .into_iter()
                .map(|(after, reply)| (now + ms(after + more), reply))
                .collect()
        });
        let id = simulation.start(spec(Method::Udp));
        simulation.run();
        let expected = BEHIND_A_SILENT_ROUTER.replace("120", &rtt.to_string());
        assert_eq!(simulation.summary(id), expected, "TTL {held_up}");
    }
}

/// The target answers TTL 2 with port unreachable, say because the service was only just started.
#[test]
fn a_destination_that_is_known_stays_where_it_is() {
    let mut simulation = Simulation::new(|now, probe: &Probe| match probe.ttl {
        1 => vec![(now + ms(400), time_exceeded(probe))],
        2 => vec![(
            now + ms(300),
            error(target(), probe, IcmpError::Unreachable { code: 3 }),
        )],
        _ => vec![(now + ms(20), udp_service(probe))],
    });
    let id = simulation.start(spec(Method::Udp));
    simulation.run();
    assert_eq!(simulation.summary(id), "1:10.0.1.1/400 2:203.0.113.9/300!");
}

#[test]
fn probes_that_the_kernel_refused_were_not_answered() {
    // TTL 3 does not leave at first; the service is there, and 80 ms away, so that TTL 5 has left
    // when it answers TTL 4.
    let mut simulation = Simulation::new(|now, probe: &Probe| match probe.ttl {
        1 | 2 => vec![(now + ms(1), time_exceeded(probe))],
        _ => vec![(now + ms(80), udp_service(probe))],
    });
    simulation.fail_send.insert(2, ErrorKind::PermissionDenied);
    let id = simulation.start(spec(Method::Udp));
    simulation.run();
    assert_eq!(
        simulation.summary(id),
        "1:10.0.1.1/1 2:10.0.2.1/1 3:203.0.113.9/?!"
    );
    // The last probe before the answer does not leave.
    let mut simulation = Simulation::new(|now, probe: &Probe| match probe.ttl {
        1 | 2 => vec![(now + ms(1), time_exceeded(probe))],
        _ => vec![(now + ms(80), udp_service(probe))],
    });
    simulation.fail_send.insert(3, ErrorKind::PermissionDenied);
    let id = simulation.start(spec(Method::Udp));
    simulation.run();
    assert_eq!(
        simulation.summary(id),
        "1:10.0.1.1/1 2:10.0.2.1/1 3:203.0.113.9/80!"
    );
}

/// Somebody who knows who traces whom, and by which port, sends datagrams in the target's name.
#[test]
fn forged_datagrams_neither_stop_a_run_nor_show_a_destination() {
    // When they come, in milliseconds after each of the first probes: once, often, or all the time.
    let forgeries: [(u8, u64); 4] = [(1, 3), (3, 1), (30, 5), (30, 120)];
    let paths: [(&str, u8); 3] = [("closed port", 5), ("service", 5), ("silent target", 40)];
    for (what, length) in paths {
        for (until, after) in forgeries {
            let mut simulation = Simulation::new(move |now, probe: &Probe| {
                let mut replies = match probe.ttl {
                    ttl if ttl < length.min(8) => vec![(now + ms(2), time_exceeded(probe))],
                    ttl if ttl < length => vec![],
                    _ if what == "service" => vec![(now + ms(10), udp_service(probe))],
                    _ => vec![(now + ms(10), destination_answer(probe))],
                };
                // The first attempts of the lowest TTLs bring one each.
                if probe.ttl <= until && now < at(1600) {
                    replies.push((now + ms(after), udp_service(probe)));
                }
                replies
            });
            let id = simulation.start(spec(Method::Udp));
            simulation.run();
            let result = simulation.result(id);
            let label = format!("{what} {until} {after}: {}", simulation.summary(id));
            let routers = usize::from(length.min(8) - 1);
            assert!(
                result.hops[..routers].iter().all(|hop| hop.answer.is_some()),
                "{label}"
            );
            let shown = result
                .hops
                .iter()
                .find(|hop| hop.answer.is_some_and(|answer| answer.destination));
            match what {
                "closed port" => assert_eq!(shown.map(|hop| hop.ttl), Some(5), "{label}"),
                // Where forged ones come all the time, the service may stay hidden.
                "service" => assert!(shown.is_none_or(|hop| hop.ttl == 5), "{label}"),
                _ => assert!(shown.is_none() && result.end == End::MaxTtl, "{label}"),
            }
        }
    }
}

/// The same all the time, until long after the run must be over, from few for each of our ports to
/// many. Every second one looks like an echo of a probe.
#[test]
fn an_endless_flood_of_forged_datagrams_makes_no_router_wrong_and_no_run_longer() {
    for (what, hop_retries, silent) in [
        ("closed port", 2, false),
        ("closed port", 0, false),
        ("closed port", 2, true),
        ("closed port", 0, true),
        ("service", 2, false),
        ("service", 0, false),
        ("service", 2, true),
        ("service", 0, true),
        ("silent target", 2, true),
        ("silent target", 0, true),
    ] {
        for every in [2, 10, 600] {
            let mut simulation = Simulation::new(move |now, probe: &Probe| match probe.ttl {
                8..=10 if silent => vec![],
                ttl if ttl < 11 => vec![(now + ms(ttl.into()), time_exceeded(probe))],
                _ if what == "service" => vec![(now + ms(11), udp_service(probe))],
                _ if what == "closed port" => vec![(now + ms(11), destination_answer(probe))],
                _ => vec![],
            });
            let spec = TraceSpec {
                hop_retries,
                ..spec(Method::Udp)
            };
            let id = simulation.start(spec);
            for count in 0..30_000 / every {
                let echoed = (count % 2 == 1).then_some((count * 101) as u16);
                simulation.post(at(5 + count * every), forged(echoed));
            }
            simulation.run();
            let result = simulation.result(id);
            let label = format!(
                "{what} {hop_retries} {silent} {every}: {} {:?}",
                simulation.summary(id),
                result.distance
            );
            let passed = if silent { 7 } else { 10 };
            for hop in &result.hops[..passed] {
                let found = hop.answer.map(|answer| answer.address);
                assert_eq!(found, Some(router(hop.ttl)), "{label}");
            }
            let shown = result
                .hops
                .iter()
                .find(|hop| hop.answer.is_some_and(|answer| answer.destination));
            // A closed port's answers quote the probe. Nothing else is believed beside forgeries.
            let distance = if silent && hop_retries == 0 {
                Distance::Unknown
            } else {
                Distance::Known
            };
            let expected = (what == "closed port").then_some((11, distance));
            assert_eq!(shown.map(|hop| (hop.ttl, result.distance)), expected, "{label}");
            // 30 probes, the timeout, and as much again to seek a service.
            assert!(simulation.finished[&id].0 <= at(3600), "{label}");
        }
    }
}

/// As a stranger sends it to our port.
fn forged(echoed: Option<u16>) -> Reply {
    Reply {
        source: target(),
        destination: client(),
        ttl: 60,
        kind: ReplyKind::Udp(UdpReply {
            source_port: 33434,
            destination_port: 40_000,
            payload_len: 3,
            echoed,
        }),
    }
}

/// Echoes over IPv6 need no guess: the length alone says the TTL.
#[test]
fn a_forged_echo_takes_no_routers_place() {
    let source = client_of(true);
    for after in [1, 60] {
        // In front of each router's answer, and after all of them.
        let mut simulation = Simulation::new(move |now, probe: &Probe| {
            let mut replies = match probe.ttl {
                ttl if ttl < 5 => vec![(now + ms(20), time_exceeded(probe))],
                _ => vec![(now + ms(30), destination_answer(probe))],
            };
            let mut echo = echoed(probe);
            if let ReplyKind::Udp(udp) = &mut echo.kind {
                let number = udp.echoed.map(|len| len.min(9));
                udp.echoed = if after == 1 { udp.echoed } else { number };
            }
            replies.push((now + ms(after), echo));
            replies
        });
        let id = simulation.start(TraceSpec {
            target: target_of(true),
            ..spec(Method::Udp)
        });
        simulation.run();
        let result = simulation.result(id);
        assert_eq!(result.source, source);
        let found: Vec<_> = result
            .hops
            .iter()
            .map(|hop| hop.answer.map(|answer| answer.address))
            .collect();
        let path: Vec<_> = (1..5)
            .map(|ttl| router_of(true, ttl))
            .chain([target_of(true)])
            .map(Some)
            .collect();
        assert_eq!(found, path, "{after}");
    }
}

/// A router that did not answer at first and does then is none of the service's probes.
#[test]
fn second_attempts_at_routers_are_not_taken_for_the_services() {
    // Of three routers the first misses an answer or two; the service is far enough for its answers
    // to come meanwhile.
    for lost in 1..=2 {
        let mut left = lost;
        let mut simulation = Simulation::new(move |now, probe: &Probe| match probe.ttl {
            1 if left > 0 => {
                left -= 1;
                vec![]
            }
            1..=3 => vec![(now + ms(2), time_exceeded(probe))],
            _ => vec![(now + ms(30), udp_service(probe))],
        });
        let id = simulation.start(spec(Method::Udp));
        simulation.run();
        let expected = "1:10.0.1.1/2 2:10.0.2.1/2 3:10.0.3.1/2 4:203.0.113.9/30!";
        assert_eq!(simulation.summary(id), expected, "{lost}");
    }
}

/// Port 7: what comes back is the probe, which tells its TTL, in whichever order.
#[test]
fn an_echo_service_says_which_probe_it_answers() {
    let families: [(IpAddr, IpAddr); 2] = [
        (client(), target()),
        ("2001:db8::1".parse().unwrap(), "2001:db8::9".parse().unwrap()),
    ];
    for (client, target) in families {
        let mut engine = Engine::new(1, [7; 32]);
        let spec = TraceSpec {
            hop_retries: 0,
            ..TraceSpec::full(Method::Udp, target, 7, 3, ms(1000))
        };
        engine.start(at(0), spec, client, 40_000).unwrap();
        for millis in [0, 50, 100] {
            let Some(traceroute_engine::Action::Send { token, .. }) = engine.poll_action(at(millis)) else {
                panic!("a probe is due")
            };
            engine.sent(token, at(millis));
        }
        // The probes of the same seed, as they would come back.
        let mut twin = Engine::new(1, [7; 32]);
        twin.start(at(0), spec, client, 40_000).unwrap();
        let mut echoes = Vec::new();
        for millis in [0, 50, 100] {
            let Some(traceroute_engine::Action::Send { token, probe }) = twin.poll_action(at(millis)) else {
                panic!("a probe is due")
            };
            twin.sent(token, at(millis));
            echoes.push(echoed(&probe));
        }
        for (millis, reply) in [(220, &echoes[2]), (230, &echoes[1])] {
            let event = NetworkEvent::Reply {
                reply,
                at: at(millis),
            };
            engine.handle(at(millis), event);
        }
        assert_eq!(engine.poll_action(at(2000)), None);
        let result = std::iter::from_fn(|| engine.poll_event()).find_map(|event| match event {
            EngineEvent::Finished { result, .. } => Some(result),
            EngineEvent::Found { .. } | EngineEvent::Probe { .. } => None,
        });
        let hops = run_of(result.expect("a result").unwrap()).hops;
        let last = hops.last().unwrap();
        assert_eq!(
            (last.ttl, last.answer.unwrap().rtt),
            (2, Some(ms(180))),
            "{target}"
        );
    }
}

/// The probe's datagram with its addresses and ports exchanged, which leaves the checksum right.
fn echoed(probe: &Probe) -> Reply {
    let mut buffer = [0; MAX_PROBE_LEN];
    let mut packet = probe.encode(&mut buffer).expect("room").to_vec();
    let (addresses, ports) = if probe.source.is_ipv4() {
        (12..20, 20..24)
    } else {
        (8..40, 40..44)
    };
    for pair in [addresses, ports] {
        let half = pair.len() / 2;
        packet[pair].rotate_left(half);
    }
    decode(&packet, Checksums::Verify).expect("a reply")
}
