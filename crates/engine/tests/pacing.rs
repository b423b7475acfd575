//! When end-to-end probes leave, and what a limit on answers makes of them.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::ErrorKind;
use std::time::Duration;

use support::world::{Limiter, World};
use support::*;
use traceroute_engine::{Cause, EndToEndResult, Method, Time, TraceSpec};
use traceroute_wire::Probe;

/// As many as the Datadog Agent asks for, with its timeout: 50 in 30 s.
const COUNT: u32 = 50;
const INTERVAL: Duration = Duration::from_millis(600);

fn series(fixed: bool) -> TraceSpec {
    let single = TraceSpec::single(Method::Udp, target(), 33434, 30, ms(1000));
    TraceSpec::end_to_end(single, COUNT, INTERVAL, fixed)
}

fn run(mut simulation: Simulation<'_>, spec: TraceSpec) -> (EndToEndResult, Vec<Time>, Time) {
    let id = simulation.start(spec);
    simulation.run();
    simulation.assert_idle();
    assert_eq!(
        simulation.opened + 1,
        simulation.closed,
        "each port is released as soon as it can be"
    );
    let (end, series) = simulation.series[&id].clone();
    assert_eq!(series.probes.len() as u32 + series.refused + series.unsent, COUNT);
    let told: Vec<_> = simulation
        .probes
        .iter()
        .filter_map(|(_, index, rtt)| rtt.map(|_| *index))
        .collect();
    assert_eq!(told.len(), series.probes.iter().flatten().count());
    (series, simulation.sent.iter().map(|(at, _)| *at).collect(), end)
}

#[test]
fn linuxs_limit_costs_probes_but_none_is_lost() {
    // Right after another series the bucket is empty.
    for drained in [0, 1500, 3000, 4700, 6000] {
        let mut world = World::new(7, 1);
        world.limits.insert(7, Limiter::linux().drained(ms(drained)));
        let (simulation, _) = world.simulate();
        let (series, sent, end) = run(simulation, series(false));
        let lost = series.probes.iter().filter(|rtt| rtt.is_none()).count();
        println!("{drained}: {} sent, {lost} lost", series.probes.len());
        assert!(end.since(at(1)) <= ms(31_000), "{end:?}");
        assert!(sent.len() - series.probes.len() <= 2, "two tests at most");
        // What was used before cannot be known before one was lost.
        assert!(lost <= usize::from(drained > 0) * 2, "{drained}: {lost} lost");
        assert!(
            series.probes.len() >= 30 - drained as usize / 1000,
            "{drained}: {} sent",
            series.probes.len()
        );
        assert_eq!(series.lost[Cause::RateLimited] as usize, lost, "{drained}");
    }
}

#[test]
fn series_after_series_none_is_lost_that_the_process_could_know_of() {
    let (mut simulation, _) = World::new(7, 1).limited([7]).simulate();
    for _ in 0..5 {
        let id = simulation.start(series(false));
        simulation.run();
        let (_, series) = simulation.series[&id].clone();
        assert_eq!(series.lost.total(), 0, "{series:?}");
        assert!(series.probes.len() >= 30, "{}", series.probes.len());
        // As somebody who asks again 8 s later.
        simulation.now = simulation.now + ms(8000);
    }
}

#[test]
fn a_target_without_limit_gets_all() {
    for fixed in [false, true] {
        let (simulation, _) = World::new(7, 1).simulate();
        let (series, sent, end) = run(simulation, series(fixed));
        assert_eq!(
            (series.probes.len(), series.lost.total(), series.limit),
            (50, 0, None)
        );
        assert!(end.since(at(1)) <= ms(31_000));
        assert!(sent.len() <= 52, "two tests at most");
    }
    for method in [Method::Icmp, Method::TcpSyn] {
        let (simulation, _) = World::new(7, 1).limited(1..=7).simulate();
        let (series, sent, _) = run(
            simulation,
            TraceSpec {
                method,
                ..series(false)
            },
        );
        // Their answers are not ICMP errors.
        assert_eq!(
            (series.probes.len(), series.lost.total(), sent.len()),
            (50, 0, 50),
            "{method:?}"
        );
        assert!(sent.windows(2).all(|pair| pair[1].since(pair[0]) == INTERVAL));
    }
}

#[test]
fn a_fixed_interval_sends_all_whatever_the_limit() {
    let (simulation, world) = World::new(7, 1).limited([7]).simulate();
    let (series, sent, _) = run(simulation, series(true));
    assert_eq!((series.probes.len(), series.unsent, sent.len()), (50, 0, 50));
    assert!(sent.windows(2).all(|pair| pair[1].since(pair[0]) == INTERVAL));
    let forbidden = world.borrow().forbidden[&7];
    assert_eq!(series.lost.total() as usize, forbidden);
    assert_eq!(
        series.lost[Cause::RateLimited] as usize,
        forbidden,
        "{:?}",
        series.lost
    );
    assert_eq!(series.limit, Some(ms(1000)));
}

/// The thread stands still for five seconds: what it missed is not made up for, and not left out.
#[test]
fn after_a_suspension_there_is_no_burst() {
    for (method, fixed) in [
        (Method::Udp, false),
        (Method::Udp, true),
        (Method::Icmp, false),
        (Method::TcpSyn, false),
    ] {
        let (mut simulation, _) = World::new(7, 1).simulate();
        simulation.stalls.push(at(3000)..at(8000));
        let (series, sent, _) = run(
            simulation,
            TraceSpec {
                method,
                ..series(fixed)
            },
        );
        assert_eq!(
            (series.probes.len(), series.unsent),
            (50, 0),
            "{method:?} {fixed}"
        );
        let tests = sent.len().saturating_sub(COUNT as usize);
        let after: Vec<_> = sent
            .iter()
            .filter(|sent| **sent >= at(8000) && **sent < at(8600))
            .collect();
        assert!(after.len() <= 2 + tests, "{method:?} {fixed}: {after:?}");
    }
}

/// What waits for a token that comes too late waits for nothing that could be missed.
#[test]
fn a_series_ends_in_time_where_the_last_probes_are_lost() {
    for lost_from in (24_000..30_000).step_by(100) {
        let mut world = World::new(7, 1).limited([7]);
        let path = move |now, probe: &Probe| match world.answers(now, probe) {
            _ if now >= at(lost_from) => Vec::new(),
            answers => answers,
        };
        let (_, sent, end) = run(Simulation::new(path), series(false));
        let last = at(1) + INTERVAL * (COUNT - 1);
        assert!(sent.iter().all(|sent| *sent <= last), "{lost_from}: {sent:?}");
        assert!(end <= last + ms(1000), "{lost_from}: {end:?}");
    }
}

/// A firewall of this machine, for a while.
#[test]
fn refused_probes_keep_their_place_in_time() {
    let (mut simulation, _) = World::new(7, 1).simulate();
    simulation.fail_send = (10..20)
        .map(|index| (index, ErrorKind::PermissionDenied))
        .collect();
    let id = simulation.start(TraceSpec {
        method: Method::Icmp,
        ..series(false)
    });
    simulation.run();
    let (_, series) = simulation.series[&id].clone();
    assert_eq!(
        (series.refused, series.probes.len(), series.lost.total()),
        (10, 40, 0)
    );
    assert!(
        simulation
            .attempts
            .windows(2)
            .all(|pair| pair[1].since(pair[0]) >= INTERVAL / 2)
    );
}

/// Nothing comes back, or some of it gets lost.
#[test]
fn loss_has_its_cause() {
    let mut world = World::new(7, 1);
    world.filtered_from = Some(4);
    let (simulation, _) = world.simulate();
    let (silent, ..) = run(simulation, series(false));
    assert_eq!((silent.probes.len(), silent.lost[Cause::Filtered]), (50, 50));
    for method in [Method::Icmp, Method::Udp] {
        let mut world = World::new(7, 1);
        world.answers_lost = 0.1;
        let (simulation, _) = world.simulate();
        let (series, ..) = run(
            simulation,
            TraceSpec {
                method,
                ..series(true)
            },
        );
        assert!(series.lost.total() > 0);
        assert_eq!(
            series.lost[Cause::Network],
            series.lost.total(),
            "{method:?}: {:?}",
            series.lost
        );
    }
    // Nobody answers at the next hop's address.
    let mut simulation = Simulation::new(|now, probe: &Probe| {
        let code = traceroute_wire::IcmpError::Unreachable { code: 1 };
        vec![(now + ms(900), error(client(), probe, code))]
    });
    let id = simulation.start(series(false));
    simulation.run();
    let (_, series) = simulation.series[&id].clone();
    assert_eq!(series.lost[Cause::Local], 50, "{:?}", series.lost);
}
