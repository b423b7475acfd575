//! Precision and recall of the causes named for lost probes, on random networks: `just causes` on
//! more of them.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::Duration;

use traceroute_engine::{Cause, Method, TraceSpec};
use traceroute_scenarios::Simulation;
use traceroute_scenarios::causes::{TRUE_CAUSES, measure};
use traceroute_simnet::{Network, Topology};

const NETWORKS: u64 = 400;

/// Least precision and recall of each cause where causes can be told apart.
const LEAST: f64 = 0.95;

#[test]
fn causes_are_recognised() {
    let report = measure(1..=NETWORKS).unwrap();
    println!("{report}");
    let matrix = &report.unambiguous;
    for cause in TRUE_CAUSES {
        assert!(matrix.precision(cause) >= LEAST, "{}\n{report}", cause.name());
        assert!(matrix.recall(cause) >= LEAST, "{}\n{report}", cause.name());
    }
    assert!(matrix.unknown() <= 0.1, "{report}");
}

/// The router before a host that is down refuses, as Linux does, what came within three seconds of
/// the first. Some of it has been given up by then.
#[test]
fn probes_to_a_host_that_is_down_are_not_lost_in_the_network() {
    let text = r#"
        [[hop]]
        name = "r1"
        v4 = "10.0.1.1"
        delay = 0.5
        icmp = { limit = "linux" }
        block = [{ answer = "host", resolve = 3000 }]

        [[target]]
        v4 = "198.51.100.11"
    "#;
    let topology = Topology::parse("dead-host", text).unwrap();
    let (target, second) = ("198.51.100.11".parse().unwrap(), Duration::from_secs(1));
    for method in [Method::Udp, Method::Icmp] {
        let mut simulation = Simulation::new(Network::new(&topology, 1), 1);
        for _ in 0..3 {
            simulation.start(TraceSpec::full(method, target, 33434, 30, 3 * second));
        }
        let single = TraceSpec::single(method, target, 33434, 30, 3 * second);
        let series = simulation.start(TraceSpec::end_to_end(single, 10, second, false));
        let result = simulation.finish_series(series).unwrap();
        assert!(result.probes.iter().all(Option::is_none), "{result:?}");
        assert_eq!(
            result.lost[Cause::Filtered] as usize,
            result.probes.len(),
            "{result:?}"
        );
    }
}
