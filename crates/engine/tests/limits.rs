//! Limits on answers that all traces of a process learn and share, and the cause of each loss.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::net::IpAddr;

use support::world::{Limiter, Target, World};
use support::*;
use traceroute_engine::{Cause, End, Hop, Losses, Method, Time, TraceId, TraceSpec};
use traceroute_wire::{IcmpError, Probe};

const ROUTERS: u8 = 6;

/// This many runs at once over six routers and to a target that limit as Linux does by default,
/// each for at most `linger`.
fn at_once(
    method: Method,
    count: usize,
    linger: u64,
) -> (Simulation<'static>, Vec<TraceId>, BTreeMap<u8, usize>) {
    let (mut simulation, world) = World::new(ROUTERS + 1, 1).limited(1..=ROUTERS + 1).simulate();
    let spec = TraceSpec {
        linger: ms(linger),
        longest: ms(60_000),
        ..spec(method)
    };
    let ids = (0..count).map(|_| simulation.start(spec)).collect();
    simulation.run();
    let allowed = world.borrow().allowed.clone();
    (simulation, ids, allowed)
}

fn is_complete(simulation: &Simulation<'_>, id: TraceId) -> bool {
    let hops = &simulation.result(id).hops;
    hops.len() == usize::from(ROUTERS) + 1 && hops.iter().all(|hop| hop.answer.is_some())
}

#[test]
fn with_time_enough_sixty_runs_at_once_are_complete() {
    let (simulation, ids, _) = at_once(Method::Icmp, 60, 59_000);
    let complete = ids.iter().filter(|id| is_complete(&simulation, **id)).count();
    let end = ids.iter().map(|id| simulation.finished[id].0).max().unwrap();
    println!(
        "{complete} of {} complete after {:?}",
        ids.len(),
        end.since(at(1))
    );
    assert!(end.since(at(1)) <= ms(60_000));
    assert_eq!(complete, ids.len());
}

/// Eight default requests, each with three runs and end-to-end probes that take 30 s.
#[test]
fn with_time_enough_eight_requests_at_once_are_complete() {
    let (simulation, ids, _) = at_once(Method::Icmp, 24, 29_000);
    let complete = ids.iter().filter(|id| is_complete(&simulation, **id)).count();
    assert_eq!(complete, ids.len());
}

#[test]
fn without_time_nine_tenths_of_what_the_limits_allow_are_used() {
    for (count, method) in [(20, Method::Icmp), (60, Method::Icmp)] {
        let (simulation, ids, allowed) = at_once(method, count, 0);
        let end = ids.iter().map(|id| simulation.finished[id].0).max().unwrap();
        // Six at once and one more for each second.
        let possible = (6 + end.since(at(1)).as_secs() as usize).min(count) * usize::from(ROUTERS);
        let hops = ids.iter().flat_map(|id| &simulation.result(*id).hops);
        let is_router = |hop: &&Hop| hop.answer.is_some_and(|answer| !answer.destination);
        let shown = hops.filter(is_router).count();
        println!("{method:?} {count}: {shown} of {possible} shown, {allowed:?}");
        assert!(
            shown * 10 >= possible * 9,
            "{method:?} {count}: {shown} of {possible}"
        );
        for id in &ids {
            for hop in &simulation.result(*id).hops {
                let is_limited = hop.lost.total() == hop.lost[Cause::RateLimited];
                assert!(is_limited, "{method:?} {count}: {hop:?}");
            }
        }
    }
}

/// Datagrams are answered by the target's errors too: it is limited as well.
#[test]
fn udp_runs_at_once_never_show_the_target_elsewhere() {
    for (count, linger) in [(3, 0), (20, 0), (20, 29_000)] {
        let (simulation, ids, _) = at_once(Method::Udp, count, linger);
        for id in &ids {
            let hops = &simulation.result(*id).hops;
            let wrong = hops
                .iter()
                .find(|hop| hop.ttl != ROUTERS + 1 && hop.answer.is_some_and(|answer| answer.destination));
            assert_eq!(wrong, None, "{count} {linger}");
        }
    }
}

#[test]
fn a_run_after_one_that_drained_the_limits_waits_for_them() {
    let (mut simulation, _) = World::new(ROUTERS + 1, 1).limited(1..=ROUTERS + 1).simulate();
    let first: Vec<_> = (0..10).map(|_| simulation.start(spec(Method::Icmp))).collect();
    while first.iter().any(|id| !simulation.finished.contains_key(id)) && simulation.step() {}
    let mut found = 0;
    for _ in 0..5 {
        let id = simulation.start(spec(Method::Icmp));
        simulation.run();
        found += simulation
            .result(id)
            .hops
            .iter()
            .filter(|hop| hop.answer.is_some())
            .count();
    }
    assert!(found * 10 >= 5 * 7 * 9, "{found} of 35 hops");
}

/// Another process has used up the limits: nothing is known of them here.
#[test]
fn runs_after_another_process_drained_the_limits_find_each_new_token() {
    for (runs, left) in [(3, 0), (3, 400), (3, 900), (1, 0), (1, 600)] {
        let mut world = World::new(ROUTERS + 1, 1);
        for ttl in 1..=ROUTERS {
            world
                .limits
                .insert(ttl, Limiter::linux().drained(ms(7000 - left)));
        }
        let (mut simulation, _) = world.simulate();
        let spec = TraceSpec::full(Method::Icmp, target(), 0, 30, ms(3000));
        let ids: Vec<_> = (0..runs).map(|_| simulation.start(spec)).collect();
        simulation.run();
        let hops = ids.iter().flat_map(|id| &simulation.result(*id).hops);
        let (mut found, mut lost) = (0, Losses::default());
        for hop in hops {
            found += usize::from(hop.answer.is_some());
            lost += hop.lost;
        }
        assert!(found * 10 >= runs * 7 * 9, "{runs} {left}: {found} hops");
        let limited = lost[Cause::RateLimited];
        assert!(limited * 10 >= lost.total() * 9, "{runs} {left}: {lost:?}");
    }
}

/// The losses of one run over this network, by TTL.
fn losses(world: World, method: Method) -> (Vec<Hop>, World) {
    let (mut simulation, world) = world.simulate();
    let id = simulation.start_connected(spec(method));
    simulation.run();
    let hops = simulation.result(id).hops.clone();
    drop(simulation);
    (hops, std::rc::Rc::into_inner(world).unwrap().into_inner())
}

fn only(lost: &Losses, cause: Cause) -> bool {
    lost.total() > 0 && lost[cause] == lost.total()
}

#[test]
fn silence_has_its_cause() {
    for method in [Method::Icmp, Method::Udp, Method::TcpSyn, Method::TcpSack] {
        // A router that never answers, while later ones do.
        let mut world = World::new(6, 1);
        world.silent.insert(3);
        let (hops, _) = losses(world, method);
        assert!(only(&hops[2].lost, Cause::Silent), "{method:?}: {:?}", hops[2]);
        assert!(
            hops.iter().all(|hop| hop.ttl == 3 || hop.lost.total() == 0),
            "{method:?}"
        );

        // Nothing passes.
        let mut world = World::new(6, 1);
        world.filtered_from = Some(3);
        let (hops, _) = losses(world, method);
        assert_eq!(hops.len(), 30, "{method:?}");
        assert!(
            hops[2..]
                .iter()
                .all(|hop| only(&hops[2].lost, Cause::Filtered) && hop.answer.is_none())
        );
        assert!(hops[..2].iter().all(|hop| hop.lost.total() == 0));

        // Nor does the target answer.
        let mut world = World::new(6, 1);
        world.target = Target::Silent;
        let (hops, _) = losses(world, method);
        assert!(
            hops[5..].iter().all(|hop| only(&hop.lost, Cause::Filtered)),
            "{method:?}"
        );
    }
}

#[test]
fn a_lost_answer_of_a_hop_that_answers_is_the_networks() {
    for (share, method) in [0.1, 0.2].into_iter().flat_map(|share| {
        [Method::Icmp, Method::Udp, Method::TcpSyn, Method::TcpSack].map(|method| (share, method))
    }) {
        let (mut network, mut all) = (0, 0);
        for seed in 0..200 {
            let mut world = World::new(8, seed);
            world.answers_lost = share;
            for hop in losses(world, method).0.iter().filter(|hop| hop.answer.is_some()) {
                network += hop.lost[Cause::Network];
                all += hop.lost.total();
            }
        }
        // Several lost in a row at one hop of a lone run look like a limit.
        assert!(
            all > 0 && network * 100 >= all * 90,
            "{method:?} {share}: {network} of {all}"
        );
    }
}

#[test]
fn what_a_limit_held_back_is_rate_limited() {
    for (interval, burst) in [(1000, 6), (1000, 1), (500, 1), (100, 2)] {
        let mut world = World::new(6, 1);
        for ttl in 1..6 {
            world.limits.insert(ttl, Limiter::new(ms(interval), burst));
        }
        let (mut simulation, _) = world.simulate();
        let ids: Vec<_> = (0..20).map(|_| simulation.start(spec(Method::Icmp))).collect();
        simulation.run();
        let mut lost = Losses::default();
        for id in ids {
            simulation.result(id).hops.iter().for_each(|hop| lost += hop.lost);
        }
        let limited = lost[Cause::RateLimited];
        assert!(
            lost.total() > 50 && limited * 100 >= lost.total() * 95,
            "{interval} {burst}: {lost:?}"
        );
    }
}

#[test]
fn what_this_machine_does_not_send_is_local() {
    for method in [Method::Icmp, Method::Udp] {
        let (mut simulation, _) = World::new(6, 1).simulate();
        simulation.fail_send = [(2, std::io::ErrorKind::PermissionDenied)].into();
        let id = simulation.start(spec(method));
        simulation.run();
        let hops = &simulation.result(id).hops;
        assert_eq!((hops.len(), hops[2].answer), (6, None), "{method:?}");
        assert!(only(&hops[2].lost, Cause::Local), "{:?}", hops[2]);
    }
}

#[test]
fn a_slow_path_that_loses_nothing_has_no_losses() {
    for method in [Method::Icmp, Method::Udp, Method::TcpSyn, Method::TcpSack] {
        for hop_rtt in [30, 60, 150, 350] {
            let mut world = World::new(6, 1);
            world.hop = ms(hop_rtt);
            let (mut simulation, _) = world.simulate();
            let spec = TraceSpec::full(method, target(), 33434, 30, ms(3000));
            let id = simulation.start_connected(spec);
            simulation.run();
            let hops = &simulation.result(id).hops;
            assert_eq!(hops.len(), 6, "{method:?} {hop_rtt}");
            let lost = hops.iter().find(|hop| hop.lost.total() > 0);
            assert_eq!(lost, None, "{method:?} {hop_rtt}");
        }
    }
}

/// Runs wait longer than end-to-end probes do.
#[test]
fn what_a_target_that_runs_reach_answers_too_late_is_not_filtered() {
    let mut world = World::new(3, 1);
    world.hop = ms(200);
    let (mut simulation, _) = world.simulate();
    let run = simulation.start(TraceSpec::full(Method::Icmp, target(), 0, 30, ms(1000)));
    let single = TraceSpec::single(Method::Icmp, target(), 0, 30, ms(400));
    let series = simulation.start(TraceSpec::end_to_end(single, 3, ms(1000), false));
    simulation.run();
    assert_eq!(simulation.result(run).end, End::Destination);
    assert!(only(&simulation.series[&series].1.lost, Cause::Unknown));
}

#[test]
fn what_has_no_neighbour_to_go_to_is_local() {
    for lacks_neighbour in [true, false] {
        let mut world = World::new(6, 1);
        world.filtered_from = Some(1);
        let (mut simulation, _) = world.simulate();
        simulation.lacks_neighbour = lacks_neighbour;
        let run = simulation.start(spec(Method::Icmp));
        let single = TraceSpec::single(Method::Icmp, target(), 0, 30, ms(400));
        let series = simulation.start(TraceSpec::end_to_end(single, 3, ms(100), false));
        simulation.run();
        let cause = if lacks_neighbour {
            Cause::Local
        } else {
            Cause::Filtered
        };
        let hops = &simulation.result(run).hops;
        assert!(hops.iter().all(|hop| only(&hop.lost, cause)), "{hops:?}");
        assert!(only(&simulation.series[&series].1.lost, cause));
    }
}

/// More routers than are remembered: the memory stays bounded, and counts what it forgets.
#[test]
fn a_flood_of_responders_does_not_grow_the_memory() {
    let mut number = 0_u32;
    let mut simulation = Simulation::new(move |now: Time, probe: &Probe| {
        number += 1;
        let from = IpAddr::from((0x0B00_0000 + number).to_be_bytes());
        vec![(now + ms(1), error(from, probe, IcmpError::TimeExceeded))]
    });
    for _ in 0..40 {
        for _ in 0..20 {
            simulation.start(TraceSpec {
                max_ttl: 60,
                delay: ms(1),
                ..spec(Method::Udp)
            });
        }
        simulation.run();
        let counters = simulation.engine.counters();
        assert!(counters.responders <= 4096, "{}", counters.responders);
    }
    let counters = simulation.engine.counters();
    assert_eq!(counters.matched, 40 * 20 * 60);
    // Places do not count: there were only sixty.
    assert_eq!(counters.responders + counters.responders_forgotten, 40 * 20 * 60);
    simulation.assert_idle();
}
