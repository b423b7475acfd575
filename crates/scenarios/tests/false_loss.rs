//! End-to-end probes over UDP against a target that limits its port unreachables as Linux does: how much loss a lossless path
//! seems to have. The figures are those in `docs/false-loss.md`.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use traceroute_engine::{Method, TraceSpec};
use traceroute_scenarios::Simulation;
use traceroute_simnet::{Network, Topology};

/// What a request does: `runs` traces, and 50 end-to-end probes beside them. Returns how many of these are unanswered.
fn lost(timeout_ms: u64, runs: u32, one_way_ms: u32) -> usize {
    let mut text = String::new();
    for number in 1..=10 {
        text += &format!("[[hop]]\nname = \"r{number}\"\nv4 = \"10.0.{number}.1\"\ndelay = 0.1\n");
    }
    text += &format!(
        "[[target]]\nv4 = \"198.51.100.11\"\ndelay = {one_way_ms}\nicmp = {{ unreachable_limit = {{}} }}\n"
    );
    let topology = Topology::parse("false-loss", &text).unwrap();
    let mut simulation = Simulation::new(Network::new(&topology, 1), 1);
    let timeout = Duration::from_millis(timeout_ms);
    let spacing = (timeout * 30 / 50).min(Duration::from_secs(1));
    let target = "198.51.100.11".parse().unwrap();
    let start = simulation.now();
    for _ in 0..runs {
        simulation.start(TraceSpec::full(Method::Udp, target, 33434, 30, timeout));
    }
    let probes: Vec<_> = (0..50)
        .map(|index| {
            simulation.run_until(start + spacing * index);
            simulation.start(TraceSpec::single(Method::Udp, target, 33434, 30, timeout))
        })
        .collect();
    let results = probes.into_iter().map(|probe| simulation.finish(probe).unwrap());
    results.filter(|result| result.hops[0].answer.is_none()).count()
}

#[test]
fn loss_on_a_lossless_path_is_what_the_documentation_says() {
    // Timeout in ms, runs, one way to the target in ms; unanswered of 50.
    let figures = [
        (3000, 3, 1, 0),
        (3000, 3, 50, 0),
        (3000, 3, 200, 0),
        (2000, 3, 1, 0),
        (1000, 3, 1, 18),
        (1000, 0, 1, 15),
        (500, 3, 1, 33),
    ];
    let found = figures.map(|(timeout, runs, delay, _)| (timeout, runs, delay, lost(timeout, runs, delay)));
    assert_eq!(found, figures);
}
