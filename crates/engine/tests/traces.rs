//! What traces find on simulated paths, without sockets and without sleeping.

mod support;

use std::io::ErrorKind;
use std::ops::Range;

use support::*;
use traceroute_engine::{Cause, End, Method, TraceSpec};
use traceroute_wire::{IcmpError, MplsStack, Probe, ProbeKind, ReplyKind};

const METHODS: [Method; 3] = [Method::Icmp, Method::Udp, Method::TcpSyn];

#[test]
fn every_method_finds_all_hops_with_their_own_rtt() {
    for method in METHODS {
        let mut simulation = Simulation::new(straight(4));
        let id = simulation.start(spec(method));
        simulation.run();
        let expected = "1:10.0.1.1/2 2:10.0.2.1/4 3:10.0.3.1/6 4:203.0.113.9/8!";
        assert_eq!(simulation.summary(id), expected, "{method:?}");
        assert_eq!(
            simulation.sent.len(),
            4,
            "{method:?} stops sending once the destination has answered"
        );
    }
}

#[test]
fn a_run_ends_as_soon_as_its_result_is_final() {
    for method in METHODS {
        let mut simulation = Simulation::new(straight(4));
        let id = simulation.start(spec(method));
        simulation.run();
        // Three delays of 50 ms, then the destination's 8 ms; started at 1 ms.
        assert_eq!(simulation.finished[&id].0, at(1 + 150 + 8), "{method:?}");
    }
}

#[test]
fn nothing_is_left_behind() {
    for method in METHODS {
        let mut simulation = Simulation::new(straight(4));
        simulation.start(spec(method));
        assert_ne!(simulation.engine.table_len(), 0);
        simulation.run();
        assert_eq!(
            (simulation.engine.table_len(), simulation.engine.running()),
            (0, 0)
        );
        assert_eq!(simulation.engine.wake_at(), None);
    }
}

#[test]
fn cancelling_frees_everything_at_once() {
    let mut simulation = Simulation::new(straight(4));
    let id = simulation.start(spec(Method::Udp));
    simulation.step();
    simulation.engine.cancel(id);
    assert_eq!(
        (simulation.engine.table_len(), simulation.engine.running()),
        (0, 0)
    );
    simulation.run();
    assert!(simulation.finished.is_empty());
    assert_eq!(simulation.engine.counters().cancelled, 1);
}

#[test]
fn silence_costs_the_timeout_after_the_last_probe() {
    for method in [Method::Icmp, Method::Udp] {
        let mut simulation = Simulation::new(|_, _: &Probe| vec![]);
        let id = simulation.start(TraceSpec {
            max_ttl: 5,
            ..spec(method)
        });
        simulation.run();
        assert_eq!(simulation.finished[&id].0, at(1 + 4 * 50 + 1000));
        assert_eq!(simulation.summary(id), "1:* 2:* 3:* 4:* 5:*");
    }
}

#[test]
fn a_serial_run_waits_the_timeout_for_each_silent_hop() {
    let mut simulation = Simulation::new(|now, probe: &Probe| match probe.ttl {
        2 => vec![],
        ttl => straight(3)(now, &Probe { ttl, ..*probe }),
    });
    let id = simulation.start(spec(Method::TcpSyn));
    simulation.run();
    assert_eq!(simulation.summary(id), "1:10.0.1.1/2 2:* 3:203.0.113.9/6!");
    // Whether it is not the destination that was silent is asked eight times more, each 50 ms after
    // the other.
    let asked = 7 * 50 + 200;
    assert_eq!(simulation.finished[&id].0, at(1 + 50 + 1000 + 6 + asked));
}

#[test]
fn a_silent_hop_before_the_destination_is_waited_for() {
    let mut simulation = Simulation::new(|now, probe: &Probe| match probe.ttl {
        2 => vec![],
        _ => straight(3)(now, probe),
    });
    let id = simulation.start(spec(Method::Udp));
    simulation.run();
    assert_eq!(simulation.summary(id), "1:10.0.1.1/2 2:* 3:203.0.113.9/6!");
    assert_eq!(
        simulation.finished[&id].0,
        at(1 + 100 + 1000),
        "the timeout after the last probe"
    );
}

#[test]
fn the_list_ends_at_the_lowest_ttl_that_the_destination_answered() {
    // The target is 200 ms away, so probes for higher TTLs are on their way when it answers.
    for method in [Method::Icmp, Method::Udp] {
        let mut simulation = Simulation::new(|now, probe: &Probe| match probe.ttl {
            1 => vec![(now + ms(1), time_exceeded(probe))],
            // Overtaken by the answers to later probes.
            2 => vec![(now + ms(400), destination_answer(probe))],
            _ => vec![(now + ms(200), destination_answer(probe))],
        });
        let id = simulation.start(spec(method));
        simulation.run();
        assert_eq!(
            simulation.summary(id),
            "1:10.0.1.1/1 2:203.0.113.9/400!",
            "{method:?}"
        );
    }
}

#[test]
fn the_first_answer_for_a_ttl_wins_but_the_destination_replaces_a_router() {
    let mut simulation = Simulation::new(|now, probe: &Probe| match probe.ttl {
        1 => vec![
            (now + ms(1), time_exceeded(probe)),
            (now + ms(2), error(router(77), probe, IcmpError::TimeExceeded)),
        ],
        2 => vec![
            (
                now + ms(1),
                error(router(88), probe, IcmpError::Unreachable { code: 13 }),
            ),
            (now + ms(5), destination_answer(probe)),
        ],
        _ => vec![],
    });
    let id = simulation.start(spec(Method::Udp));
    simulation.run();
    assert_eq!(simulation.summary(id), "1:10.0.1.1/1 2:203.0.113.9/5!");
    assert_eq!(simulation.engine.counters().duplicates, 1);
}

#[test]
fn late_answers_of_a_serial_run_go_to_their_own_probe() {
    // Hop 1 answers 1.2 s late, when hop 2 has been answered and hop 3 is awaited.
    let mut simulation = Simulation::new(|now, probe: &Probe| match probe.ttl {
        1 => vec![(now + ms(1200), time_exceeded(probe))],
        2 => vec![
            (now + ms(3), time_exceeded(probe)),
            (now + ms(300), time_exceeded(probe)),
        ],
        3 => vec![(now + ms(900), time_exceeded(probe))],
        _ => vec![(now + ms(7), destination_answer(probe))],
    });
    let id = simulation.start(spec(Method::TcpSyn));
    simulation.run();
    assert_eq!(
        simulation.summary(id),
        "1:10.0.1.1/1200 2:10.0.2.1/3 3:10.0.3.1/900 4:203.0.113.9/7!"
    );
}

#[test]
fn a_late_syn_ack_names_the_probe_that_caused_it() {
    // The destination at TTL 2 answers after the probe for TTL 3 has gone out, whose SYN it answers
    // as well.
    let mut simulation = Simulation::new(|now, probe: &Probe| match probe.ttl {
        1 => vec![(now + ms(1), time_exceeded(probe))],
        2 => vec![(now + ms(1100), destination_answer(probe))],
        _ => vec![(now + ms(500), destination_answer(probe))],
    });
    let id = simulation.start(spec(Method::TcpSyn));
    simulation.run();
    assert_eq!(simulation.summary(id), "1:10.0.1.1/1 2:203.0.113.9/?!");
}

#[test]
fn a_closed_port_and_a_bare_reset_are_the_destination_too() {
    for (flags, hint) in [(RST_ACK, 1), (RST, 0)] {
        let mut simulation = Simulation::new(move |now, probe: &Probe| match (probe.ttl, probe.kind) {
            (
                3,
                ProbeKind::TcpSyn {
                    source_port,
                    destination_port,
                    sequence,
                    ..
                },
            ) => {
                let acknowledgment = if hint == 1 { sequence.wrapping_add(1) } else { 0 };
                vec![(
                    now + ms(6),
                    tcp(target(), destination_port, source_port, flags, acknowledgment),
                )]
            }
            _ => vec![(now + ms(1), time_exceeded(probe))],
        });
        let id = simulation.start(spec(Method::TcpSyn));
        simulation.run();
        assert_eq!(
            simulation.summary(id),
            "1:10.0.1.1/1 2:10.0.2.1/1 3:203.0.113.9/6!"
        );
    }
}

#[test]
fn a_router_that_refuses_is_the_end_for_every_method() {
    for method in METHODS {
        let mut simulation = Simulation::new(|now, probe: &Probe| match probe.ttl {
            1 => vec![(now + ms(1), time_exceeded(probe))],
            _ => vec![(
                now + ms(2),
                error(router(2), probe, IcmpError::Unreachable { code: 13 }),
            )],
        });
        let id = simulation.start(TraceSpec {
            max_ttl: 4,
            ..spec(method)
        });
        simulation.run();
        assert_eq!(simulation.summary(id), "1:10.0.1.1/1 2:10.0.2.1/2", "{method:?}");
        // What it refuses twice goes no further.
        let from = router(2);
        assert_eq!(
            simulation.result(id).end,
            End::Refused {
                from: Some(from),
                code: 13
            }
        );
        assert_eq!(
            simulation.finished[&id].0,
            at(1 + 100 + 2),
            "the second refusal: {method:?}"
        );
    }
}

#[test]
fn destination_unreachable_from_the_target_is_the_destination_for_every_method() {
    for method in METHODS {
        let mut simulation = Simulation::new(|now, probe: &Probe| match probe.ttl {
            1 => vec![(now + ms(1), time_exceeded(probe))],
            _ => vec![(
                now + ms(2),
                error(target(), probe, IcmpError::Unreachable { code: 10 }),
            )],
        });
        let id = simulation.start(spec(method));
        simulation.run();
        assert_eq!(
            simulation.summary(id),
            "1:10.0.1.1/1 2:203.0.113.9/2!",
            "{method:?}"
        );
    }
}

#[test]
fn strangers_and_guesses_change_nothing() {
    for method in METHODS {
        let mut simulation = Simulation::new(|now, probe: &Probe| {
            let mut replies = straight(3)(now, probe);
            let genuine = replies[0].1;
            let soon = now + ms(1);
            // From an address that is not the target's.
            let mut stranger = destination_answer(probe);
            stranger.source = router(99);
            if !matches!(stranger.kind, ReplyKind::IcmpError { .. }) {
                replies.push((soon, stranger));
            }
            // To another address of ours.
            replies.push((
                soon,
                traceroute_wire::Reply {
                    destination: router(50),
                    ..genuine
                },
            ));
            // About a TTL that was not sent yet.
            let mut future = Probe {
                ttl: probe.ttl + 9,
                ..*probe
            };
            if let ProbeKind::Udp { tag, .. } = &mut future.kind {
                *tag += 9;
                let identification = probe.identification + 9;
                replies.push((
                    soon,
                    error(
                        router(66),
                        &Probe {
                            identification,
                            ..future
                        },
                        IcmpError::TimeExceeded,
                    ),
                ));
            }
            replies
        });
        let id = simulation.start(spec(method));
        simulation.run();
        assert_eq!(
            simulation.summary(id),
            "1:10.0.1.1/2 2:10.0.2.1/4 3:203.0.113.9/6!",
            "{method:?}"
        );
        let counters = simulation.engine.counters();
        assert!(
            counters.rejected + counters.unmatched >= 3,
            "{method:?}: {counters:?}"
        );
    }
}

#[test]
fn quotes_changed_by_a_nat_still_match() {
    use traceroute_wire::QuotedTransport as Transport;
    // One's complement arithmetic of a NAT that rewrites the source (RFC 3022 §4.2).
    let subtract = |checksum: u16, old: u32, new: u32| {
        let value = u32::from(checksum) + old % 0xFFFF + (0xFFFF - new % 0xFFFF);
        (value % 0xFFFF) as u16
    };
    for method in METHODS {
        let mut simulation = Simulation::new(|now, probe: &Probe| {
            if probe.ttl == 3 {
                return vec![(now + ms(6), destination_answer(probe))];
            }
            let mut reply = time_exceeded(probe);
            if let ReplyKind::IcmpError { quoted, .. } = &mut reply.kind {
                let (old_words, new_words) = (0xC000 + 0x0201, 0xC633 + 0x6401); // 192.0.2.1 → 198.51.100.1
                quoted.source = "198.51.100.1".parse().unwrap();
                match &mut quoted.transport {
                    Transport::Echo {
                        identifier, checksum, ..
                    } => {
                        *checksum = subtract(*checksum, u32::from(*identifier), 4242);
                        *identifier = 4242;
                    }
                    Transport::Udp {
                        source_port,
                        checksum,
                        ..
                    } => {
                        let old = old_words + u32::from(*source_port);
                        *checksum = subtract(*checksum, old, new_words + 61000);
                        *source_port = 61000;
                    }
                    Transport::Tcp { source_port, .. } => *source_port = 61000,
                }
            }
            vec![(now + ms(1), reply)]
        });
        let id = simulation.start(spec(method));
        simulation.run();
        assert_eq!(
            simulation.summary(id),
            "1:10.0.1.1/1 2:10.0.2.1/1 3:203.0.113.9/6!",
            "{method:?}"
        );
        assert_eq!(simulation.engine.counters().translated, 2, "{method:?}");
    }
}

#[test]
fn a_udp_service_is_the_destination() {
    let mut simulation = Simulation::new(|now, probe: &Probe| match probe.ttl {
        1 | 2 => vec![(now + ms(1), time_exceeded(probe))],
        _ => vec![(now + ms(6), udp_service(probe))],
    });
    let id = simulation.start(spec(Method::Udp));
    simulation.run();
    assert_eq!(
        simulation.summary(id),
        "1:10.0.1.1/1 2:10.0.2.1/1 3:203.0.113.9/6!"
    );
    // Only when all TTLs were probed is it looked for; then one more answer shows where it is.
    assert_eq!(simulation.finished[&id].0, at(1 + 29 * 50 + 6 + 200 + 6));
    // That each hop is told is checked by the simulation, always; here that it is told once.
    let told: Vec<u8> = simulation.found.iter().map(|(_, found)| found.ttl).collect();
    assert_eq!(told, [1, 2, 3]);
}

#[test]
fn a_distant_udp_service_is_credited_to_the_first_probe_that_reached_it() {
    // 180 ms away: probes for TTL 3 to 6 are out when the answer to TTL 3 arrives.
    let mut simulation = Simulation::new(|now, probe: &Probe| match probe.ttl {
        1 | 2 => vec![(now + ms(1), time_exceeded(probe))],
        _ => vec![(now + ms(180), udp_service(probe))],
    });
    let id = simulation.start(spec(Method::Udp));
    simulation.run();
    assert_eq!(
        simulation.summary(id),
        "1:10.0.1.1/1 2:10.0.2.1/1 3:203.0.113.9/180!"
    );
    assert_eq!(
        simulation.finished[&id].0,
        at(1 + 29 * 50 + 180 + 180 * 5 / 4 + 180),
        "after all answers have come, one more probe shows where it is"
    );
}

#[test]
fn a_silent_hop_before_a_udp_service_is_not_mistaken_for_it() {
    let mut simulation = Simulation::new(|now, probe: &Probe| match probe.ttl {
        1 => vec![(now + ms(1), time_exceeded(probe))],
        2 => vec![],
        _ => vec![(now + ms(6), udp_service(probe))],
    });
    let id = simulation.start(spec(Method::Udp));
    simulation.run();
    assert_eq!(simulation.summary(id), "1:10.0.1.1/1 2:* 3:203.0.113.9/6!");
    // Only the end of the run shows at which TTL the service is; it is told then.
    let (_, last) = *simulation.found.last().unwrap();
    assert_eq!(
        (
            last.ttl,
            last.answer.address,
            last.answer.rtt,
            last.answer.destination
        ),
        (3, target(), Some(ms(6)), true)
    );
}

#[test]
fn a_router_that_answers_last_shows_where_a_udp_service_is() {
    let mut simulation = Simulation::new(|now, probe: &Probe| match probe.ttl {
        1 => vec![(now + ms(300), time_exceeded(probe))],
        _ => vec![(now + ms(6), udp_service(probe))],
    });
    let id = simulation.start(spec(Method::Udp));
    simulation.run();
    assert_eq!(simulation.summary(id), "1:10.0.1.1/300 2:203.0.113.9/6!");
    let told: Vec<u8> = simulation.found.iter().map(|(_, found)| found.ttl).collect();
    assert_eq!(told, [1, 2], "both in the same moment");
}

#[test]
fn a_single_probe_counts_only_the_destination() {
    for method in METHODS {
        let mut simulation = Simulation::new(straight(4));
        let id = simulation.start(TraceSpec::single(method, target(), 33434, 30, ms(1000)));
        simulation.run();
        assert_eq!(simulation.summary(id), "30:203.0.113.9/8!", "{method:?}");
        assert_eq!(simulation.finished[&id].0, at(1 + 8), "{method:?}");
    }
}

#[test]
fn a_full_send_queue_is_tried_again_and_a_refusal_is_an_error() {
    let mut simulation = Simulation::new(straight(3));
    simulation
        .fail_send
        .extend([(0, ErrorKind::WouldBlock), (1, ErrorKind::WouldBlock)]);
    let id = simulation.start(spec(Method::Udp));
    simulation.run();
    assert_eq!(
        simulation.summary(id),
        "1:10.0.1.1/2 2:10.0.2.1/4 3:203.0.113.9/6!"
    );
    assert_eq!(simulation.engine.counters().send_retries, 2);

    let mut simulation = Simulation::new(straight(3));
    simulation
        .fail_send
        .extend((0..3).map(|send| (send, ErrorKind::NetworkUnreachable)));
    let id = simulation.start(spec(Method::Udp));
    simulation.run();
    assert!(
        simulation
            .error(id)
            .starts_with("cannot send a probe to 203.0.113.9: "),
        "{}",
        simulation.error(id)
    );

    // Where others leave, a refused one is a hop without an answer.
    for (refused, summary) in [
        (0, "1:* 2:10.0.2.1/4 3:203.0.113.9/6!"),
        // Asked again, for it may be the destination that is there.
        (1, "1:10.0.1.1/2 2:10.0.2.1/4 3:203.0.113.9/6!"),
    ] {
        let mut simulation = Simulation::new(straight(3));
        simulation.fail_send.insert(refused, ErrorKind::PermissionDenied);
        let id = simulation.start(spec(Method::Udp));
        simulation.run();
        assert_eq!(simulation.summary(id), summary);
    }
}

#[test]
fn a_send_queue_that_stays_full_does_not_keep_a_trace_from_ending() {
    let full = |attempts: Range<usize>| attempts.map(|attempt| (attempt, ErrorKind::WouldBlock));
    for method in [Method::Icmp, Method::Udp, Method::TcpSyn] {
        let mut simulation = Simulation::new(straight(40));
        simulation.fail_send.extend(full(0..5000));
        let id = simulation.start(spec(method));
        simulation.run();
        let error = simulation.error(id);
        assert!(
            error.contains("the send queue of this machine stays full"),
            "{error}"
        );
        assert_eq!(simulation.finished[&id].0, at(1 + 1000), "after the timeout");
        let counters = simulation.engine.counters();
        assert_eq!((counters.send_retries, counters.send_errors), (1000, 1));
    }

    // All probes together wait no longer than an answer may take; what has left by then counts.
    let mut simulation = Simulation::new(straight(40));
    let second_for_600_ms = full(1..601);
    let third_and_all_others = full(602..5000);
    simulation
        .fail_send
        .extend(second_for_600_ms.chain(third_and_all_others));
    let id = simulation.start(TraceSpec::full(Method::Udp, target(), 33434, 5, ms(1000)));
    simulation.run();
    assert_eq!(simulation.summary(id), "1:10.0.1.1/2 2:10.0.2.1/4 3:* 4:* 5:*");
    let end = simulation.finished[&id].0;
    assert!(end <= at(1 + 5 * 50 + 2 * 1000), "{end:?}");
    assert_eq!(simulation.engine.counters().send_errors, 3);
}

#[test]
fn many_traces_to_one_target_keep_apart() {
    for method in METHODS {
        let mut simulation = Simulation::new(straight(5));
        let ids: Vec<_> = (0..900)
            .map(|index| {
                let port = if method == Method::Icmp { 0 } else { 20000 + index };
                simulation
                    .engine
                    .start(simulation.now, spec(method), client(), port)
                    .unwrap()
            })
            .collect();
        simulation.run();
        for id in ids {
            let expected = "1:10.0.1.1/2 2:10.0.2.1/4 3:10.0.3.1/6 4:10.0.4.1/8 5:203.0.113.9/10!";
            assert_eq!(simulation.summary(id), expected);
        }
    }
}

#[test]
fn the_bound_on_traces_is_an_error_that_names_it() {
    let mut engine = traceroute_engine::Engine::new(1, [0; 32]);
    engine.start(at(0), spec(Method::Icmp), client(), 0).unwrap();
    let error = engine.start(at(0), spec(Method::Icmp), client(), 0).unwrap_err();
    assert_eq!(
        error.to_string(),
        "too many traces at once: the limit is 1; try again when some have finished"
    );
}

#[test]
fn kernel_send_stamps_replace_ours() {
    let mut simulation = Simulation::new(|_, _: &Probe| vec![]);
    simulation.start(TraceSpec::single(Method::Icmp, target(), 0, 5, ms(100)));
    let Some(traceroute_engine::Action::Send { token, probe }) =
        simulation.engine.poll_action(simulation.now)
    else {
        panic!("a probe is due")
    };
    simulation.engine.sent(token, at(10));
    let stamp = traceroute_engine::NetworkEvent::Sent { token, at: at(13) };
    simulation.engine.handle(at(20), stamp);
    simulation.post(at(20), destination_answer(&probe));
    simulation.run();
    let (_, result) = simulation.finished.first_key_value().unwrap().1;
    let answer = result.as_ref().unwrap().hops[0].answer.unwrap();
    assert_eq!(
        (millis_of(answer.rtt), answer.kernel_stamped),
        ("7".to_owned(), true)
    );
}

#[test]
fn a_next_hop_that_is_not_there_is_local_loss_and_not_a_path_of_our_own_address() {
    for method in METHODS {
        let mut simulation = Simulation::new(|now, probe: &Probe| {
            vec![(
                now + ms(3000),
                error(client(), probe, IcmpError::Unreachable { code: 1 }),
            )]
        });
        let id = simulation.start(TraceSpec {
            timeout: ms(3000),
            ..spec(method)
        });
        simulation.run();
        // Nobody to give the probes to: they are lost, and it is known where.
        let result = simulation.result(id);
        assert!(result.hops.iter().all(|hop| hop.answer.is_none()), "{method:?}");
        let lost = |hop: &traceroute_engine::Hop| hop.lost.total() == hop.lost[Cause::Local];
        assert!(result.hops.iter().all(lost), "{method:?}: {:?}", result.hops);
    }
    // When it only breaks halfway, the path found until then is the result.
    let mut simulation = Simulation::new(|now, probe: &Probe| match probe.ttl {
        1 => vec![(now + ms(1), time_exceeded(probe))],
        _ => vec![(
            now + ms(10),
            error(client(), probe, IcmpError::Unreachable { code: 1 }),
        )],
    });
    let id = simulation.start(TraceSpec {
        max_ttl: 3,
        ..spec(Method::Udp)
    });
    simulation.run();
    assert_eq!(simulation.summary(id), "1:10.0.1.1/1 2:* 3:*");
}

/// As backends do that probe through ordinary sockets.
#[test]
fn answers_that_the_kernel_matched_count_like_captured_ones() {
    use traceroute_engine::{Action, Engine, EngineEvent, MatchedReply, NetworkEvent};

    let router = "192.0.2.77".parse().unwrap();
    let time_exceeded = Some(IcmpError::TimeExceeded);
    let mut mpls = MplsStack::default();
    mpls.push(16001 << 12 | 0x101);
    for (from, error) in [
        (router, time_exceeded),
        (client(), time_exceeded),
        (target(), None),
    ] {
        let mut engine = Engine::new(1, [7; 32]);
        let single = TraceSpec::single(Method::Icmp, target(), 0, 5, ms(100));
        engine.start(at(0), single, client(), 4711).unwrap();
        let Some(Action::Send { token, probe }) = engine.poll_action(at(0)) else {
            panic!("a probe is due")
        };
        assert!(
            matches!(probe.kind, ProbeKind::Echo { identifier: 4711, .. }),
            "the identifier that the network reserved: {probe:?}"
        );
        engine.sent(token, at(0));
        let answer = MatchedReply {
            from,
            error,
            reply_ttl: 61,
            mpls,
        };
        engine.handle(
            at(9),
            NetworkEvent::Answered {
                token,
                answer,
                at: at(7),
            },
        );
        assert_eq!(engine.poll_action(at(9)), None);
        let result = std::iter::from_fn(|| engine.poll_event()).find_map(|event| match event {
            EngineEvent::Finished { result, .. } => Some(result.map(run_of)),
            EngineEvent::Found { .. } | EngineEvent::Probe { .. } => None,
        });
        let result = result.expect("a result");
        if from == client() {
            let text = result.unwrap_err().to_string();
            assert!(text.contains("this machine's own kernel"), "{text}");
            continue;
        }
        let result = result.unwrap();
        assert_eq!(result.source_port, 4711);
        let hop = result.hops[0].answer.unwrap();
        assert_eq!((hop.address, hop.rtt, hop.error), (from, Some(ms(7)), error));
        assert_eq!(hop.destination, from == target());
        assert_eq!((hop.reply_ttl, hop.quoted_ttl, hop.mpls), (61, None, mpls));
    }
}

/// `syn_socket`: the system tells of each connect who answered it.
#[test]
fn hops_whose_answers_the_kernel_matched_have_the_ttl_of_their_probe() {
    use traceroute_engine::{Action, Engine, EngineEvent, MatchedReply, NetworkEvent};

    let router = |ttl: u8| format!("198.51.100.{ttl}").parse().unwrap();
    let mut engine = Engine::new(1, [7; 32]);
    let spec = TraceSpec::full(Method::TcpSyn, target(), 80, 4, ms(100));
    engine.start(at(0), spec, client(), 50_000).unwrap();
    for now in 0..2000 {
        while let Some(action) = engine.poll_action(at(now)) {
            let Action::Send { token, probe } = action else {
                continue;
            };
            engine.sent(token, at(now));
            let (from, error) = match probe.ttl {
                2 => continue,
                4 => (target(), None),
                ttl => (router(ttl), Some(IcmpError::TimeExceeded)),
            };
            let answered = at(now) + ms(u64::from(probe.ttl));
            let answer = MatchedReply::new(from, error);
            engine.handle(
                answered,
                NetworkEvent::Answered {
                    token,
                    answer,
                    at: answered,
                },
            );
        }
    }
    let result = std::iter::from_fn(|| engine.poll_event()).find_map(|event| match event {
        EngineEvent::Finished { result, .. } => Some(result.map(run_of)),
        EngineEvent::Found { .. } | EngineEvent::Probe { .. } => None,
    });
    let hops: Vec<_> = result
        .expect("a result")
        .unwrap()
        .hops
        .iter()
        .map(|hop| {
            (
                hop.ttl,
                hop.answer
                    .map(|answer| (answer.address, answer.rtt, answer.destination)),
            )
        })
        .collect();
    assert_eq!(
        hops,
        [
            (1, Some((router(1), Some(ms(1)), false))),
            (2, None),
            (3, Some((router(3), Some(ms(3)), false))),
            (4, Some((target(), Some(ms(4)), true))),
        ]
    );
}

#[test]
fn a_subnet_router_answers_from_an_address_of_its_own() {
    for (target, is_answered) in [("2001:db8:9::", true), ("2001:db8:9::5", false)] {
        let mut simulation = Simulation::new(|now, probe: &Probe| {
            let mut reply = destination_answer(probe);
            reply.source = "2001:db8:8::1".parse().unwrap();
            vec![(now + ms(2), reply)]
        });
        let id = simulation.start(TraceSpec {
            target: target.parse().unwrap(),
            max_ttl: 2,
            ..spec(Method::Icmp)
        });
        simulation.run();
        let first = simulation.result(id).hops[0].answer;
        assert_eq!(
            first.map(|answer| answer.destination),
            is_answered.then_some(true),
            "{target}"
        );
    }
}
