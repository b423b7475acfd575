//! Forged and damaged packets before and after each genuine one: the genuine result comes out unchanged.
#![allow(clippy::unwrap_used)]

use fastrand::Rng;
use traceroute_scenarios::{
    Family, Interference, Method, Outcome, Scenario, Simulation, hostile, memory, table,
};
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

fn around(seed: u64, make: fn(&[u8], &mut Rng) -> Vec<Vec<u8>>) -> Interference {
    let mut rng = Rng::with_seed(seed);
    // What the simulated network itself has damaged is nothing genuine: repairing it would be cheating.
    Box::new(move |genuine| match decode(genuine, Checksums::Verify) {
        Ok(_) => (make(genuine, &mut rng), make(genuine, &mut rng)),
        Err(_) => (Vec::new(), Vec::new()),
    })
}

/// `compared` makes of an outcome what must not change.
fn unchanged(make: fn(&[u8], &mut Rng) -> Vec<Vec<u8>>, compared: fn(Outcome) -> Outcome) {
    for seed in 0..2 {
        for (scenario, method, family) in cases() {
            let clean = memory::run(&scenario, method, family, &|| None).unwrap();
            let attacked = memory::run(&scenario, method, family, &|| Some(around(seed, make))).unwrap();
            assert_eq!(
                format!("{:?}", compared(clean)),
                format!("{:?}", compared(attacked)),
                "{} {method:?} {family:?} seed {seed}",
                scenario.name
            );
        }
    }
}

#[test]
fn damaged_packets_change_nothing() {
    unchanged(hostile::damaged, without_labels);
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
    unchanged(hostile::forged, |outcome| outcome);
}

/// Not even when no genuine answer comes: nothing forged is credited to any probe.
#[test]
fn forged_packets_alone_find_nothing() {
    for (scenario, method, family) in cases() {
        let mut forgeries = 0;
        let mut simulation = Simulation::new(
            traceroute_simnet::Network::new(&scenario.topology().unwrap(), memory::SEED),
            memory::SEED,
        );
        simulation.replace_genuine = matches!(method, Method::Icmp | Method::Udp | Method::Syn);
        if !simulation.replace_genuine {
            continue;
        }
        simulation.interference = Some(around(1, hostile::forged));
        let probing = match method {
            Method::Icmp => traceroute_engine::Method::Icmp,
            Method::Udp => traceroute_engine::Method::Udp,
            _ => traceroute_engine::Method::TcpSyn,
        };
        let spec = traceroute_engine::TraceSpec::full(
            probing,
            scenario.target(family),
            scenario.port(method),
            scenario.max_ttl,
            std::time::Duration::from_millis(scenario.timeout_ms),
        );
        let id = simulation.start(spec);
        let result = simulation.finish(id).unwrap();
        let counters = simulation.engine.counters();
        forgeries += counters.rejected + counters.unmatched;
        let answered = result.hops.iter().filter(|hop| hop.answer.is_some()).count();
        assert_eq!(answered, 0, "{} {method:?} {family:?}", scenario.name);
        assert_eq!(counters.matched, 0);
        assert!(
            forgeries > 0 || counters.ignored.iter().sum::<u64>() > 0,
            "{} {method:?} {family:?}: nothing was forged",
            scenario.name
        );
    }
}
