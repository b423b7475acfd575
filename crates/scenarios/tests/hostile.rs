//! Forged and damaged packets before and after each genuine one: the genuine result comes out
//! unchanged.
#![allow(clippy::unwrap_used)]

use std::sync::LazyLock;
use std::time::Duration;

use fastrand::Rng;
use traceroute_scenarios::{
    Family, Finding, Interference, Method, Outcome, Scenario, Simulation, hostile, memory, table,
};
use traceroute_simnet::Network;
use traceroute_wire::{Checksums, decode};

/// A scenario for one method and family, and what comes of it when nobody interferes.
struct Case {
    scenario: Scenario,
    method: Method,
    family: Family,
    clean: Outcome,
    name: String,
}

static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let mut cases = Vec::new();
    for scenario in table::scenarios() {
        let all = Method::ALL
            .into_iter()
            .flat_map(|method| [(method, Family::V4), (method, Family::V6)]);
        for (method, family) in all {
            if scenario.expectation(method, family).is_some() {
                cases.push(Case {
                    clean: memory::run(&scenario, method, family, &|| None).unwrap(),
                    name: format!("{} {method:?} {family:?}", scenario.name),
                    scenario: scenario.clone(),
                    method,
                    family,
                });
            }
        }
    }
    cases
});

/// What makes packets around a genuine one.
type Make = fn(&[u8], &mut Rng) -> Vec<Vec<u8>>;

/// Enough to tell an answer that is credited by mistake, and less than any round-trip time.
const EARLY: Duration = Duration::from_micros(5);

fn around(seed: u64, early: Duration, make: Make) -> Interference {
    let mut rng = Rng::with_seed(seed);
    // What the simulated network itself has damaged is nothing genuine: repairing it would be
    // cheating.
    let make = move |genuine: &[u8]| match decode(genuine, Checksums::Verify) {
        Ok(_) => (make(genuine, &mut rng), make(genuine, &mut rng)),
        Err(_) => (Vec::new(), Vec::new()),
    };
    Interference {
        make: Box::new(make),
        early,
    }
}

/// `compared` makes of an outcome what must not change. Each case has its own seed.
fn unchanged(make: Make, early: Duration, compared: fn(Outcome) -> Outcome) {
    for (seed, case) in (1..).zip(CASES.iter()) {
        let interference = || Some(around(seed, early, make));
        let attacked = memory::run(&case.scenario, case.method, case.family, &interference).unwrap();
        let clean = untold(case.clean.clone(), &attacked);
        assert_eq!(
            format!("{:?}", compared(clean)),
            format!("{:?}", compared(attacked)),
            "{}",
            case.name
        );
    }
}

/// A quote of 8 bytes may say no more which attempt it is of: then there is no time.
fn untold(mut outcome: Outcome, told: &Outcome) -> Outcome {
    let told = told.hops.iter().flatten();
    for (finding, told) in outcome.hops.iter_mut().flatten().zip(told) {
        if let (Some(finding), Some(told)) = (finding, told)
            && told.rtt.is_none()
        {
            finding.rtt = None;
        }
    }
    outcome
}

#[test]
fn damaged_packets_change_nothing() {
    unchanged(hostile::damaged, EARLY, |outcome| outcome);
}

#[test]
fn cut_packets_change_nothing() {
    unchanged(hostile::cut, EARLY, |outcome| outcome);
}

#[test]
fn shortened_packets_change_nothing_but_labels() {
    unchanged(hostile::shortened, Duration::ZERO, without_labels);
}

#[test]
fn overstated_packets_change_nothing() {
    unchanged(hostile::overstated, Duration::ZERO, |outcome| outcome);
}

/// A copy that is cut behind the quote, or says that its quote has another length, with a checksum
/// to match, is an answer all the same, but has no labels; and the first answer counts.
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

/// Nor anything that lacks a byte of what it must say.
#[test]
fn cut_packets_alone_find_nothing() {
    alone(hostile::cut);
}

/// Nor anything forged.
#[test]
fn forged_packets_alone_find_nothing() {
    alone(hostile::forged);
}

/// A simulation of the case in which only what is made of genuine packets arrives.
fn instead_of_genuine(case: &Case, interference: Interference) -> Simulation {
    let topology = case.scenario.topology().unwrap();
    let mut simulation = Simulation::new(Network::new(&topology, memory::SEED), memory::SEED);
    simulation.replace_genuine = true;
    simulation.interference = Some(interference);
    simulation
}

fn alone(make: Make) {
    for (seed, case) in (1001..).zip(CASES.iter()) {
        let Case {
            scenario,
            method,
            family,
            name,
            ..
        } = case;
        let mut simulation = instead_of_genuine(case, around(seed, EARLY, make));
        match memory::trace(&mut simulation, scenario, *method, *family) {
            Ok(result) => {
                let answered = result.hops.iter().filter(|hop| hop.answer.is_some()).count();
                assert_eq!(answered, 0, "{name}: {:?}", result.hops);
            }
            // No connection to probe on.
            Err(error) => {
                assert_eq!(*method, Method::Sack, "{name}: {error}");
                assert!(simulation.probes.is_empty(), "{name}: {error}");
                continue;
            }
        }
        let counters = simulation.engine.counters();
        assert_eq!(counters.matched, 0, "{name}");
        let turned_away = counters.rejected + counters.unmatched + counters.ignored.iter().sum::<u64>();
        assert!(turned_away > 0, "{name}: nothing came");
    }
}

/// Down to the last byte that matters.
#[test]
fn shortened_packets_alone_find_what_genuine_ones_do() {
    copies_alone(hostile::shortened, &Method::ALL);
}

/// But what a segment carries is of importance to SACK.
#[test]
fn overstated_packets_alone_find_what_genuine_ones_do() {
    copies_alone(hostile::overstated, &[Method::Udp, Method::Syn]);
}

/// One copy of each genuine packet finds all that the packet would.
fn copies_alone(make: Make, methods: &[Method]) {
    let cases = (1..).zip(CASES.iter());
    for (seed, case) in cases.filter(|(_, case)| methods.contains(&case.method)) {
        let mut copies = around(seed, Duration::ZERO, make);
        let one = move |genuine: &[u8]| {
            let (copies, _) = (copies.make)(genuine);
            let copy = copies.into_iter().next().unwrap_or_else(|| genuine.to_vec());
            (vec![copy], Vec::new())
        };
        let mut simulation = instead_of_genuine(
            case,
            Interference {
                make: Box::new(one),
                early: Duration::ZERO,
            },
        );
        let found = memory::trace(&mut simulation, &case.scenario, case.method, case.family);
        let found = found.map_err(|error| error.to_string()).map(|result| {
            let hop = |hop: &traceroute_engine::Hop| hop.answer.map(|answer| (answer.address, answer.rtt));
            result.hops.iter().map(hop).collect::<Vec<_>>()
        });
        let clean = case.clean.hops.clone().map(|findings| {
            let hop =
                |finding: &Option<Finding>| finding.as_ref().map(|finding| (finding.address, finding.rtt));
            findings.iter().map(hop).collect::<Vec<_>>()
        });
        // A quote of 8 bytes may say no more which attempt it is of: then there is no time.
        let clean = clean.map(|mut clean| {
            for (clean, found) in clean.iter_mut().zip(found.iter().flatten()) {
                if let (Some((_, rtt)), Some((_, None))) = (clean, found) {
                    *rtt = None;
                }
            }
            clean
        });
        assert_eq!(found, clean, "{}", case.name);
    }
}
