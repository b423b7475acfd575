//! Forged and damaged packets before and after each genuine one: the genuine result comes out unchanged.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use fastrand::Rng;
use traceroute_scenarios::{
    Family, Interference, Method, Outcome, Scenario, Simulation, hostile, memory, table,
};
use traceroute_simnet::Network;
use traceroute_wire::{Checksums, decode};

fn cases() -> impl Iterator<Item = (Scenario, Method, Family)> {
    table::scenarios().into_iter().flat_map(|scenario| {
        let all = Method::ALL
            .into_iter()
            .flat_map(|method| [(method, Family::V4), (method, Family::V6)]);
        let included: Vec<_> = all
            .filter(|(method, family)| scenario.expectation(*method, *family).is_some())
            .collect();
        included
            .into_iter()
            .map(move |(method, family)| (scenario.clone(), method, family))
    })
}

/// What makes packets around a genuine one.
type Make = fn(&[u8], &mut Rng) -> Vec<Vec<u8>>;

/// Enough to tell an answer that is credited by mistake, and less than any round-trip time.
const EARLY: Duration = Duration::from_micros(5);

fn around(seed: u64, early: Duration, make: Make) -> Interference {
    let mut rng = Rng::with_seed(seed);
    // What the simulated network itself has damaged is nothing genuine: repairing it would be cheating.
    let make = move |genuine: &[u8]| match decode(genuine, Checksums::Verify) {
        Ok(_) => (make(genuine, &mut rng), make(genuine, &mut rng)),
        Err(_) => (Vec::new(), Vec::new()),
    };
    Interference {
        make: Box::new(make),
        early,
    }
}

/// `compared` makes of an outcome what must not change.
fn unchanged(make: Make, early: Duration, compared: fn(Outcome) -> Outcome) {
    for (scenario, method, family) in cases() {
        let clean = memory::run(&scenario, method, family, &|| None).unwrap();
        let interference = || Some(around(1, early, make));
        let attacked = memory::run(&scenario, method, family, &interference).unwrap();
        assert_eq!(
            format!("{:?}", compared(clean)),
            format!("{:?}", compared(attacked)),
            "{} {method:?} {family:?}",
            scenario.name
        );
    }
}

#[test]
fn damaged_packets_change_nothing() {
    unchanged(hostile::damaged, EARLY, |outcome| outcome);
}

#[test]
fn resized_packets_change_nothing_but_labels() {
    unchanged(hostile::resized, Duration::ZERO, without_labels);
}

/// A copy that is cut behind the quote, or says that its quote has another length, with a checksum to match, is an answer all the
/// same, but has no labels; and the first answer counts.
fn without_labels(mut outcome: Outcome) -> Outcome {
    for finding in outcome.hops.iter_mut().flatten().flatten() {
        finding.mpls.clear();
    }
    outcome
}

#[test]
fn forged_packets_change_nothing() {
    unchanged(hostile::forged, EARLY, |outcome| outcome);
}

/// Not even when no genuine answer comes: nothing damaged is credited to any probe.
#[test]
fn damaged_packets_alone_find_nothing() {
    alone(hostile::damaged);
}

/// Nor anything forged.
#[test]
fn forged_packets_alone_find_nothing() {
    alone(hostile::forged);
}

fn alone(make: Make) {
    for (scenario, method, family) in cases() {
        let what = format!("{} {method:?} {family:?}", scenario.name);
        let mut simulation = Simulation::new(
            Network::new(&scenario.topology().unwrap(), memory::SEED),
            memory::SEED,
        );
        simulation.replace_genuine = true;
        simulation.interference = Some(around(1, EARLY, make));
        match memory::trace(&mut simulation, &scenario, method, family) {
            Ok(result) => {
                let answered = result.hops.iter().filter(|hop| hop.answer.is_some()).count();
                assert_eq!(answered, 0, "{what}");
            }
            // No connection to probe on.
            Err(error) => {
                assert_eq!(method, Method::Sack, "{what}: {error}");
                assert!(simulation.probes.is_empty(), "{what}: {error}");
                continue;
            }
        }
        let counters = simulation.engine.counters();
        assert_eq!(counters.matched, 0, "{what}");
        let turned_away = counters.rejected + counters.unmatched + counters.ignored.iter().sum::<u64>();
        assert!(turned_away > 0, "{what}: nothing came");
    }
}
