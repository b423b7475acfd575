//! End-to-end probes over UDP against a target that limits its port unreachables as Linux does: how much loss a lossless path
//! seems to have. The figures are those in `docs/false-loss.md`.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use traceroute_engine::{Method, TraceSpec};
use traceroute_scenarios::Simulation;
use traceroute_simnet::{Network, Topology};

/// What a request does: `runs` traces, and 50 end-to-end probes beside them. Returns how many of these are unanswered.
fn lost(timeout_ms: u64, runs: u32, one_way_ms: u32) -> usize {
    let router = |number| format!("[[hop]]\nname = \"r{number}\"\nv4 = \"10.0.{number}.1\"\ndelay = 0.1\n");
    let target = format!(
        "[[target]]\nv4 = \"198.51.100.11\"\ndelay = {one_way_ms}\nicmp = {{ unreachable_limit = {{}} }}\n"
    );
    let text: String = (1..=10).map(router).chain([target]).collect();
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

/// The same over real hosts: Linux's own limiter.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "takes 80 seconds"]
fn linux_limits_as_simulated() {
    let Some(lab) = traceroute_testbed::require_lab() else {
        return;
    };
    // 0 stands for the default.
    for (timeout_ms, expected) in [(0, 0..=1), (1000, 17..=19)] {
        let chain = lab.chain(4).unwrap();
        chain.target.icmp_rate_limits(true).unwrap();
        let parameters = datadog_traceroute::Parameters {
            target: chain.target_v4().to_string(),
            timeout_ms,
            ..datadog_traceroute::Parameters::default()
        };
        let request = parameters.validate().unwrap();
        let report = chain.client.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let tracer = datadog_traceroute::Tracer::new();
            runtime.block_on(tracer.trace(&request)).unwrap()
        });
        let e2e = match report {
            Ok(report) => report.e2e_probe,
            Err(error) => return traceroute_testbed::not_run(&error.to_string()),
        };
        let lost = e2e.packets_sent - e2e.packets_received;
        assert!(
            expected.contains(&lost),
            "timeout {timeout_ms}: {lost} of 50 unanswered: {:?}",
            e2e.rtts
        );
    }
}
