//! What may be wrong now and then, over fixed seeds.

use traceroute_engine::{End, Method, TraceSpec};

use crate::hostile::cases::METHODS;
use crate::hostile::support::world::{Limiter, Target, World};
use crate::hostile::support::*;

/// At each method's own share of 200 runs.
#[test]
fn a_fifth_of_the_answers_lost_leaves_hops_and_distance() {
    for method in METHODS {
        let (mut wrong, mut found, mut all) = (0, 0, 0);
        for seed in 0..200 {
            let mut world = World::new(11, seed);
            world.answers_lost = 0.2;
            let (mut simulation, _) = world.simulate();
            let id = simulation.start_connected(spec(method));
            simulation.run();
            let result = simulation.result(id);
            let shown = result.end == End::Destination;
            wrong += usize::from(shown && result.hops.len() != 11);
            let answered = |ttl: u8| {
                result
                    .hops
                    .get(usize::from(ttl - 1))
                    .and_then(|hop| hop.answer)
                    .is_some()
            };
            found += (1..=11).filter(|ttl| answered(*ttl)).count();
            all += 11;
        }
        println!("{method:?}: {found} of {all} hops, {wrong} wrong distances");
        assert!(wrong <= 1, "{method:?}: {wrong} wrong distances in 200 runs");
        assert!(found * 1000 >= all * 985, "{method:?}: {found} of {all} hops");
    }
}

/// The same of a service, whose answers do not say which probe they are to, after a silent router.
#[test]
fn a_tenth_of_a_services_answers_lost_leaves_its_distance() {
    let (mut wrong, mut shown) = (0, 0);
    for seed in 0..200 {
        let mut world = World::new(9, seed);
        world.target = Target::Service;
        world.answers_lost = 0.1;
        world.silent.insert(8);
        let (mut simulation, _) = world.simulate();
        let id = simulation.start(spec(Method::Udp));
        simulation.run();
        let result = simulation.result(id);
        shown += usize::from(result.end == End::Destination);
        wrong += usize::from(result.end == End::Destination && result.hops.len() != 9);
    }
    println!("{shown} of 200 shown, {wrong} at a wrong distance");
    assert!(
        wrong <= 1 && shown >= 150,
        "{shown} of 200 shown, {wrong} at a wrong distance"
    );
}

/// However much of it is left: another run may just have used it.
#[test]
fn linuxs_limit_never_moves_the_destination() {
    let mut shown = 0;
    for seed in 0..300_u64 {
        let length = 2 + (seed % 12) as u8;
        let mut world = World::new(length, seed).limited(1..=length);
        let left = Limiter::linux().drained(ms(seed * 20));
        world.limits.insert(length, left);
        if seed % 3 == 0 {
            world.silent.insert(length - 1);
        }
        let (mut simulation, _) = world.simulate();
        let spec = TraceSpec {
            linger: ms(seed % 5 * 3000),
            ..spec(Method::Udp)
        };
        let first = simulation.start(spec);
        let second = (seed % 2 == 0).then(|| simulation.start(spec));
        simulation.run();
        for id in [Some(first), second].into_iter().flatten() {
            let result = simulation.result(id);
            if result.end == End::Destination {
                assert_eq!(
                    result.hops.len(),
                    usize::from(length),
                    "seed {seed}: {}",
                    simulation.summary(id)
                );
                shown += 1;
            }
        }
    }
    println!("{shown} of 450 show the destination");
    assert!(shown >= 300, "{shown} of 450");
}

/// Sixty runs at once share what the target's limit leaves, and on the way probes are held up. Their
/// answers do not tell by what they quote where the target is.
#[test]
fn in_a_crowd_no_run_shows_the_destination_elsewhere() {
    for seed in 0..20_u64 {
        let mut world = World::new(7, seed).limited(1..=7);
        world.quotes_ttl = false;
        (world.jitter, world.queued) = (ms(50), ms(50));
        let left = Limiter::linux().drained(ms(seed * 300));
        world.limits.insert(7, left);
        let (mut simulation, _) = world.simulate();
        for count in [10, 10, 60] {
            let ids: Vec<_> = (0..count).map(|_| simulation.start(spec(Method::Udp))).collect();
            simulation.run();
            for id in ids {
                let result = simulation.result(id);
                let is_right = result.end != End::Destination || result.hops.len() == 7;
                assert!(is_right, "seed {seed}: {}", simulation.summary(id));
            }
        }
    }
}
