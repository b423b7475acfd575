//! Limits that many requests share, behind a TUN device and in real time: six Linux routers and a
//! Linux target. In memory `networks.rs` does the same. Needs root, or a user who may make user
//! namespaces; the namespaces vanish with their threads.
//!
//! Ignored, because it takes as long as requests do: `cargo test -p traceroute-scenarios --test
//! limits -- --ignored --nocapture`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use datadog_traceroute::{Distance, Protocol, Report, Request, RequestBuilder, Tracer};
use tokio::runtime::Builder;
use traceroute_simnet::{Network, Topology, namespace, tun};

const TARGET: &str = "198.51.100.11";
const HOPS: usize = 7;
const LINUX: &str = "icmp = { limit = \"linux\" }";

fn topology(target: &str) -> Topology {
    let mut text = String::new();
    for n in 1..HOPS {
        let _ = writeln!(
            text,
            "[[hop]]\nname = \"r{n}\"\nv4 = \"10.0.{n}.1\"\nv6 = \"2001:db8:{n}::1\"\ndelay = 0.5\n{LINUX}"
        );
    }
    let _ = writeln!(
        text,
        "[[target]]\nname = \"target\"\nv4 = \"{TARGET}\"\nv6 = \"2001:db8:ffff::11\"\ndelay = 0.5\ntcp = {{ open = [80] }}\n{target}"
    );
    Topology::parse("limits", &text).unwrap()
}

/// Does something in a namespace of its own, whose only way leads into the network.
fn behind(target: &'static str, act: impl FnOnce() + Send + 'static) {
    let inside = move || {
        if let Err(error) = namespace::enter() {
            return traceroute_testbed::not_run(&error.to_string());
        }
        match tun::open("") {
            Ok((device, name)) => serve(&device, &name, target, act),
            Err(error) => traceroute_testbed::not_run(&error.to_string()),
        }
    };
    thread::spawn(inside).join().unwrap();
}

fn serve(device: &File, name: &str, target: &str, act: impl FnOnce() + Send) {
    let topology = topology(target);
    assert!(
        namespace::configure(name, &topology, true).unwrap(),
        "IPv6 is missing"
    );
    let mut network = Network::new(&topology, 1);
    let (stop, stopper) = UnixStream::pair().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || tun::run(device, &mut network, &stop).unwrap());
        // Also when something panics: the scope waits for its threads.
        let _stopper = stopper;
        act();
    });
}

/// As many requests at once; what they found, and how long each took.
fn trace(tracer: &Tracer, request: RequestBuilder, count: usize) -> Vec<(Report, Duration)> {
    let request = request.build().unwrap();
    let one = |_| {
        let (tracer, request) = (tracer.clone(), request.clone());
        async move {
            let start = Instant::now();
            let report = tracer.trace(&request).await.unwrap();
            (report, start.elapsed())
        }
    };
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..count).map(one).map(tokio::spawn).collect();
        let mut results = Vec::new();
        for task in tasks {
            results.push(task.await.unwrap());
        }
        results
    })
}

fn request(protocol: Protocol) -> RequestBuilder {
    Request::to(TARGET).protocol(protocol).details(true)
}

#[test]
#[ignore = "takes 50 seconds"]
fn eight_requests_at_once_are_complete() {
    behind(LINUX, || {
        let results = trace(&Tracer::new(), request(Protocol::Icmp), 8);
        let longest = results.iter().map(|(_, took)| *took).max().unwrap();
        let runs: Vec<_> = results.iter().flat_map(|(report, _)| &report.runs).collect();
        let is_complete = |hops: &[datadog_traceroute::Hop]| {
            hops.len() == HOPS && hops.iter().all(|hop| hop.answer.is_some())
        };
        let complete = runs.iter().filter(|run| is_complete(&run.hops)).count();
        println!("{complete} of {} runs complete, {longest:?}", runs.len());
        assert_eq!((complete, runs.len()), (24, 24));
        // One alone takes 49 s, for its end-to-end probes; one that waited to its own end, 90.
        assert!(longest <= Duration::from_mins(1), "{longest:?}");
    });
}

#[test]
#[ignore = "takes 3 minutes"]
fn a_limited_target_costs_no_end_to_end_probe() {
    behind(LINUX, || {
        let tracer = Tracer::new();
        for round in 1..=5 {
            let request = request(Protocol::Udp).timeout(Duration::from_secs(1));
            let (report, took) = trace(&tracer, request, 1).remove(0);
            let loss = report.end_to_end.loss();
            println!("round {round}: {loss} lost, {took:?}");
            assert_eq!(loss.lost, 0, "round {round}: {:?}", report.end_to_end.rtts);
            assert!(loss.sent >= 30, "round {round}: {}", loss.sent);
            assert!(took <= Duration::from_secs(40), "round {round}: {took:?}");
            thread::sleep(Duration::from_secs(8));
        }
    });
}

#[test]
#[ignore = "takes half a minute"]
fn a_target_without_limits_gets_all_end_to_end_probes() {
    behind("", || {
        let request = request(Protocol::Udp).timeout(Duration::from_secs(1));
        let (report, took) = trace(&Tracer::new(), request, 1).remove(0);
        let loss = report.end_to_end.loss();
        println!("{loss} lost, {took:?}");
        assert_eq!((loss.sent, loss.lost), (50, 0));
        assert!(took <= Duration::from_secs(40), "{took:?}");
    });
}

/// `-q 10 -Q 0` right after the same has used up what the limits allow, and twenty requests at
/// once: never another distance.
#[test]
#[ignore = "takes half a minute"]
fn drained_limits_move_no_target() {
    behind(LINUX, || {
        let tracer = Tracer::new();
        for protocol in Protocol::ALL {
            let port = if protocol == Protocol::Tcp { 80 } else { 33434 };
            for (runs, requests) in [(10, 1), (10, 1), (3, 20)] {
                let request = request(protocol).runs(runs).e2e_probes(0).port(port);
                for (report, _) in trace(&tracer, request, requests) {
                    for run in &report.runs {
                        let destination = run
                            .hops
                            .iter()
                            .find(|hop| hop.answer.is_some_and(|answer| answer.destination));
                        let said = destination.map(|hop| usize::from(hop.ttl));
                        // Of UDP the target's own limit may leave no answer at all.
                        let is_open = run.distance == Distance::Unknown || protocol == Protocol::Udp;
                        assert!(
                            said == Some(HOPS) || said.is_none() && is_open,
                            "{protocol}: {said:?} {:?}",
                            run.distance
                        );
                    }
                }
            }
        }
    });
}
