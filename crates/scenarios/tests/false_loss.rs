//! End-to-end probes over UDP against a target that limits its port unreachables as Linux does: how
//! many are sent, and how much loss a lossless path seems to have. The figures are those in
//! `docs/false-loss.md`.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use traceroute_engine::{Method, TraceSpec};
use traceroute_scenarios::Simulation;
use traceroute_simnet::{Network, Topology};

/// What a request does: `runs` traces, and 50 end-to-end probes beside them; `fixed`: at their own
/// distance in time, whatever the limit. Returns how many of these were sent, and how many are
/// unanswered.
fn e2e(timeout_ms: u64, runs: u32, one_way_ms: u32, fixed: bool) -> (usize, usize) {
    let router = |number| format!("[[hop]]\nname = \"r{number}\"\nv4 = \"10.0.{number}.1\"\ndelay = 0.1\n");
    let target =
        format!("[[target]]\nv4 = \"198.51.100.11\"\ndelay = {one_way_ms}\nicmp = {{ limit = \"linux\" }}\n");
    let text: String = (1..=10).map(router).chain([target]).collect();
    let topology = Topology::parse("false-loss", &text).unwrap();
    let mut simulation = Simulation::new(Network::new(&topology, 1), 1);
    let timeout = Duration::from_millis(timeout_ms);
    let spacing = (timeout * 30 / 50).min(Duration::from_secs(1));
    let target = "198.51.100.11".parse().unwrap();
    let longest = timeout * 30 + Duration::from_secs(4);
    let run = TraceSpec {
        linger: spacing * 49,
        longest,
        ..TraceSpec::full(Method::Udp, target, 33434, 30, timeout)
    };
    let single = TraceSpec {
        longest,
        ..TraceSpec::single(Method::Udp, target, 33434, 30, timeout)
    };
    for _ in 0..runs {
        simulation.start(run);
    }
    let series = simulation.start(TraceSpec::end_to_end(single, 50, spacing, fixed));
    let result = simulation.finish_series(series).unwrap();
    let received = result.probes.iter().flatten().count();
    (result.probes.len(), result.probes.len() - received)
}

#[test]
fn loss_on_a_lossless_path_is_what_the_documentation_says() {
    // Timeout in ms, runs, one way to the target in ms; sent and unanswered with the fixed
    // distance, and by default.
    let figures = [
        (3000, 3, 1, (50, 0), (50, 0)),
        (3000, 3, 50, (50, 0), (50, 0)),
        (3000, 3, 200, (50, 0), (50, 0)),
        (2000, 3, 1, (50, 0), (50, 0)),
        (1000, 3, 1, (50, 18), (32, 0)),
        (1000, 0, 1, (50, 15), (35, 0)),
        (500, 3, 1, (50, 33), (17, 0)),
    ];
    let found = figures.map(|(timeout, runs, delay, ..)| {
        let of = |fixed| e2e(timeout, runs, delay, fixed);
        (timeout, runs, delay, of(true), of(false))
    });
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
    for (timeout, least_sent) in [(3, 50), (1, 30)] {
        let chain = lab.chain(4).unwrap();
        chain.target.icmp_rate_limits(true).unwrap();
        let request = datadog_traceroute::Request::to(chain.target_v4());
        let request = request.timeout(Duration::from_secs(timeout)).build().unwrap();
        let report = chain.client.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let tracer = datadog_traceroute::Tracer::new();
            runtime.block_on(tracer.trace(&request)).unwrap()
        });
        let e2e = match report {
            Ok(report) => report.end_to_end,
            Err(error) => return traceroute_testbed::not_run(&error.to_string()),
        };
        let loss = e2e.loss();
        assert!(
            loss.sent >= least_sent && loss.lost == 0,
            "timeout {timeout} s: {loss} lost: {:?}",
            e2e.rtts
        );
    }
}
