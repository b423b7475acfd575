//! No request ends later than `max_ttl × timeout + 5 s`, whatever the network does: random
//! networks, in memory and on simulated time.
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::time::Duration;

use fastrand::Rng;
use traceroute_engine::{Method, TraceSpec};
use traceroute_scenarios::Simulation;
use traceroute_simnet::{Network, Topology};

/// What the library lets a request's probes take beyond their TTLs' timeouts.
const EXTRA: Duration = Duration::from_secs(4);
/// What a request may take beyond them.
const ALLOWED: Duration = Duration::from_secs(5);
/// Requests of each method on each kind of network.
const REQUESTS: u64 = 60;

/// A kind of network: lines for a router, and for the target.
type Kind = (&'static str, fn(&mut Rng) -> (String, String));

const KINDS: [Kind; 6] = [
    ("silent", |rng| {
        let target = "echo = false\nudp = { default = \"silent\" }\ntcp = { default = \"silent\" }";
        let router = if rng.bool() { "silent = true" } else { "" };
        (router.to_owned(), target.to_owned())
    }),
    ("silent routers", |_| ("silent = true".to_owned(), String::new())),
    ("lossy", |rng| {
        let share = rng.f64() * 0.6;
        let line = format!("forward = {{ loss = {share:.3} }}");
        (line.clone(), line)
    }),
    ("limited", |rng| {
        let interval = rng.u32(20..=4000);
        let burst = rng.u32(1..=10);
        let start = rng.u32(0..=burst);
        let line =
            format!("icmp = {{ limit = {{ interval = {interval}, burst = {burst}, start = {start} }} }}");
        (line.clone(), line)
    }),
    ("refusing", |rng| {
        let wait = ["", ", delay = 900", ", resolve = 3000"][rng.usize(..3)];
        let line = format!("block = [{{ answer = \"host\"{wait}, from_ttl = 2 }}]");
        (line, String::new())
    }),
    ("service", |rng| {
        let reply = if rng.bool() { ", reply = \"hello\"" } else { "" };
        let delay = rng.u32(1..=900);
        let target =
            format!("udp = {{ default = \"open\"{reply} }}\nback = {{ delay = {delay}, duplicate = 0.2 }}");
        (String::new(), target)
    }),
];

#[test]
fn no_request_ends_later_than_allowed() {
    for (kind, lines) in KINDS {
        for method in [Method::Icmp, Method::Udp, Method::TcpSyn, Method::TcpSack] {
            for seed in 0..REQUESTS {
                request(kind, lines, method, seed);
            }
        }
    }
}

/// A request as the library makes it: runs and a series at once.
fn request(kind: &str, lines: fn(&mut Rng) -> (String, String), method: Method, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let routers = rng.u8(1..=12);
    let mut text = String::new();
    let (router, target) = lines(&mut rng);
    for n in 1..=routers {
        let special = if rng.u8(..3) > 0 { router.as_str() } else { "" };
        let _ = writeln!(
            text,
            "[[hop]]\nname = \"r{n}\"\nv4 = \"10.0.{n}.1\"\nv6 = \"2001:db8:{n}::1\"\ndelay = {}\n{special}",
            rng.u32(1..=20)
        );
    }
    let _ = writeln!(
        text,
        "[[target]]\nv4 = \"198.51.100.11\"\nv6 = \"2001:db8:ffff::11\"\ndelay = 1\n{target}"
    );
    if !target.contains("tcp") {
        text.push_str("tcp = { open = [80] }\n");
    }
    let topology = Topology::parse("deadlines", &text).unwrap();
    let mut simulation = Simulation::new(Network::new(&topology, seed), seed);
    let target = ["198.51.100.11", "2001:db8:ffff::11"][rng.usize(..2)];
    let target = target.parse().unwrap();
    let port = if method == Method::Udp { 33434 } else { 80 };
    let timeout = Duration::from_millis(rng.u64(100..=3000));
    let max_ttl = rng.u8(1..=30);
    let (runs, queries) = (rng.u32(0..=5), rng.u32(0..=50));
    let longest = timeout * u32::from(max_ttl);
    let interval = (longest / queries.max(1)).min(Duration::from_secs(1));
    let start = simulation.now();
    let full = TraceSpec {
        hop_retries: rng.u8(0..=10),
        linger: interval * queries.saturating_sub(1),
        longest: longest + EXTRA,
        ..TraceSpec::full(method, target, port, max_ttl, timeout)
    };
    let runs: Vec<_> = (0..runs).map(|_| simulation.start(full)).collect();
    let single = match method {
        Method::TcpSack => Method::TcpSyn,
        method => method,
    };
    let single = TraceSpec {
        longest: longest + EXTRA,
        ..TraceSpec::single(single, target, port, max_ttl, timeout)
    };
    let series =
        (queries > 0).then(|| simulation.start(TraceSpec::end_to_end(single, queries, interval, rng.bool())));
    for run in &runs {
        let _ = simulation.finish(*run);
    }
    if let Some(series) = series {
        let _ = simulation.finish_series(series);
    }
    for id in runs.iter().chain(&series) {
        let took = simulation.ended_at(*id).unwrap().saturating_sub(start);
        assert!(
            took <= longest + ALLOWED,
            "{kind}, {method:?}, seed {seed}: {took:?}, allowed are {longest:?} + {ALLOWED:?}"
        );
    }
    simulation.drain();
    assert_eq!(
        (simulation.engine.running(), simulation.engine.table_len()),
        (0, 0)
    );
}
