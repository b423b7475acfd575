//! How long answers count, whenever the thread gets around to them.

mod support;

use support::*;
use traceroute_engine::{
    Action, Engine, EngineEvent, MatchedReply, Method, NetworkEvent, Time, TraceResult, TraceSpec,
};
use traceroute_wire::{IcmpError, Probe, ProbeKind, Reply};

/// An engine with one trace whose first probe left at 0; the probe, and its token.
fn begun(spec: TraceSpec) -> (Engine, traceroute_engine::Token, Probe) {
    let mut engine = Engine::new(1, [7; 32]);
    engine.start(at(0), spec, client(), 40_000).expect("a place");
    let Some(Action::Send { token, probe }) = engine.poll_action(at(0)) else {
        panic!("a probe is due")
    };
    engine.sent(token, at(0));
    assert_idle(&mut engine, at(0));
    (engine, token, probe)
}

fn hear(engine: &mut Engine, now: Time, reply: &Reply, at: Time) {
    engine.handle(now, NetworkEvent::Reply { reply, at });
}

/// Nothing is to be done. Neighbours answer.
fn assert_idle(engine: &mut Engine, now: Time) {
    let mut action = engine.poll_action(now);
    if let Some(Action::AskForNeighbour { trace }) = action {
        engine.neighbour(trace, false);
        action = engine.poll_action(now);
    }
    assert_eq!(action, None);
}

fn result(engine: &mut Engine) -> TraceResult {
    std::iter::from_fn(|| engine.poll_event())
        .find_map(|event| match event {
            EngineEvent::Finished { result, .. } => Some(result),
            EngineEvent::Found { .. } | EngineEvent::Probe { .. } => None,
        })
        .expect("the end")
        .map(run_of)
        .expect("a result")
}

const METHODS: [Method; 3] = [Method::Icmp, Method::Udp, Method::TcpSyn];

/// A thread that comes late reads answers that came in time and answers that did not.
#[test]
fn an_answer_counts_by_when_it_arrived_and_not_by_when_it_was_read() {
    for method in METHODS {
        let single = TraceSpec::single(method, target(), 33434, 5, ms(100));
        for (arrived, counts) in [(99, true), (100, true), (101, false)] {
            let (mut engine, _, probe) = begun(single);
            hear(&mut engine, at(500), &destination_answer(&probe), at(arrived));
            assert_idle(&mut engine, at(500));
            let answer = result(&mut engine).hops[0].answer;
            assert_eq!(answer.is_some(), counts, "{method:?} after {arrived} ms");
            assert_eq!(engine.counters().unmatched, u64::from(!counts));
        }
    }
    // The same where the kernel matches answers.
    let single = TraceSpec::single(Method::Icmp, target(), 0, 5, ms(100));
    for (arrived, counts) in [(100, true), (101, false)] {
        let (mut engine, token, _) = begun(single);
        let answer = MatchedReply::new(target(), None);
        let arrived = at(arrived);
        engine.handle(
            at(500),
            NetworkEvent::Answered {
                token,
                answer,
                at: arrived,
            },
        );
        assert_idle(&mut engine, at(500));
        assert_eq!(result(&mut engine).hops[0].answer.is_some(), counts);
    }
}

/// Two interfaces may have brought them.
#[test]
fn of_two_answers_the_one_that_arrived_first_counts_and_not_the_one_that_was_read_first() {
    for method in METHODS {
        let (mut engine, _, probe) = begun(TraceSpec::single(method, target(), 33434, 5, ms(100)));
        for arrived in [40, 30, 35] {
            hear(&mut engine, at(50), &destination_answer(&probe), at(arrived));
        }
        assert_idle(&mut engine, at(50));
        let answer = result(&mut engine).hops[0].answer;
        assert_eq!(answer.and_then(|answer| answer.rtt), Some(ms(30)), "{method:?}");
        assert_eq!((engine.counters().matched, engine.counters().duplicates), (2, 1));
    }
}

#[test]
fn while_probes_are_sent_a_late_answer_is_still_its_probes() {
    for method in METHODS {
        let (mut engine, _, probe) = begun(TraceSpec::full(method, target(), 33434, 2, ms(20)));
        hear(&mut engine, at(40), &time_exceeded(&probe), at(30));
        let Some(Action::Send { token, .. }) = engine.poll_action(at(50)) else {
            panic!("a probe is due")
        };
        engine.sent(token, at(50));
        assert_idle(&mut engine, at(70));
        let hops = result(&mut engine).hops;
        assert_eq!(
            hops[0].answer.map(|answer| answer.rtt),
            Some(Some(ms(30))),
            "{method:?}"
        );
    }
}

#[test]
fn a_serial_run_does_not_wait_again_for_a_hop_that_has_had_its_time() {
    let mut simulation = Simulation::new(|now, probe: &Probe| match probe.ttl {
        1 => vec![],
        _ => vec![(now + ms(4), time_exceeded(probe))],
    });
    let id = simulation.start(TraceSpec {
        max_ttl: 3,
        ..spec(Method::TcpSyn)
    });
    simulation.run();
    assert_eq!(simulation.summary(id), "1:* 2:10.0.2.1/4 3:10.0.3.1/4");
    assert_eq!(simulation.finished[&id].0, at(1 + 1000 + 50 + 4));
}

/// The timer of a probe that was answered is of no use, but its time comes in a day.
#[test]
fn timers_of_answered_probes_do_not_pile_up() {
    let mut simulation = Simulation::new(|now, probe: &Probe| vec![(now + ms(1), time_exceeded(probe))]);
    for _ in 0..20 {
        simulation.start(TraceSpec {
            max_ttl: 255,
            timeout: ms(86_400_000),
            ..spec(Method::TcpSyn)
        });
        for _ in 0..300 {
            simulation.step();
            let running = simulation.engine.running().max(1);
            assert!(simulation.engine.timers_len() <= 4 * running);
        }
        simulation.run();
    }
}

fn bare_reset(probe: &Probe) -> Reply {
    let ProbeKind::TcpSyn {
        source_port,
        destination_port,
        ..
    } = probe.kind
    else {
        panic!("not a SYN")
    };
    tcp(target(), destination_port, source_port, RST, 0)
}

#[test]
fn a_bare_reset_counts_behind_a_silent_hop() {
    let mut simulation = Simulation::new(|now, probe: &Probe| match probe.ttl {
        2 | 3 => vec![],
        5 => vec![(now + ms(9), bare_reset(probe))],
        _ => vec![(now + ms(1), time_exceeded(probe))],
    });
    let id = simulation.start(spec(Method::TcpSyn));
    simulation.run();
    assert_eq!(
        simulation.summary(id),
        "1:10.0.1.1/1 2:* 3:* 4:10.0.4.1/1 5:203.0.113.9/9!"
    );
}

#[test]
fn our_own_kernels_refusal_does_not_remove_an_answer_or_a_probe_that_it_is_not_about() {
    let refusal = |probe: &Probe, ttl| {
        let identification = probe.identification - u16::from(probe.ttl) + u16::from(ttl);
        let probe = Probe {
            ttl,
            identification,
            ..*probe
        };
        error(client(), &probe, IcmpError::Unreachable { code: 1 })
    };
    let mut simulation = Simulation::new(|now, probe: &Probe| match probe.ttl {
        5 => vec![
            (now + ms(1), time_exceeded(probe)),
            (now + ms(2), refusal(probe, 5)),
            (now + ms(3), refusal(probe, 4)),
            (now + ms(4), refusal(probe, 7)),
        ],
        _ => vec![(now + ms(8), destination_answer(probe))],
    });
    let id = simulation.start(TraceSpec {
        first_ttl: 5,
        ..spec(Method::Udp)
    });
    simulation.run();
    assert_eq!(simulation.summary(id), "5:10.0.5.1/1 6:203.0.113.9/8!");
}
