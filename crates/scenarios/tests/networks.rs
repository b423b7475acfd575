//! Ordinary networks on which a traceroute goes blind, in memory and on simulated time: limits that
//! many requests share, answers that get lost, NATs. What a single run or series finds is a row of
//! [`traceroute_scenarios::table`].
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use traceroute_engine::{
    Cause, Distance, EndToEndResult, Method, TraceError, TraceId, TraceResult, TraceSpec,
};
use traceroute_scenarios::Simulation;
use traceroute_simnet::{Network, Topology};

const TARGETS: [&str; 2] = ["198.51.100.11", "2001:db8:ffff::11"];
const MAX_TTL: u8 = 30;
/// The default timeout.
const TIMEOUT: Duration = Duration::from_secs(3);
/// What the library lets a request take beyond its TTLs' timeouts.
const EXTRA: Duration = Duration::from_secs(4);
const LINUX: &str = "icmp = { limit = \"linux\" }";

/// `routers` routers and a target, with these lines each.
fn chain(routers: u8, router: impl Fn(u8) -> String, target: &str) -> Topology {
    let mut text = String::new();
    for n in 1..=routers {
        let _ = writeln!(
            text,
            "[[hop]]\nname = \"r{n}\"\nv4 = \"10.0.{n}.1\"\nv6 = \"2001:db8:{n}::1\"\ndelay = 0.5\n{}",
            router(n)
        );
    }
    let _ = writeln!(
        text,
        "[[target]]\nname = \"target\"\nv4 = \"{}\"\nv6 = \"{}\"\ndelay = 0.5\ntcp = {{ open = [80] }}\n{target}",
        TARGETS[0], TARGETS[1]
    );
    Topology::parse("networks", &text).unwrap()
}

/// Six Linux routers and a Linux target, with default sysctls.
fn linux_hosts() -> Topology {
    chain(6, |_| LINUX.to_owned(), LINUX)
}

fn simulation(topology: &Topology, seed: u64) -> Simulation {
    Simulation::new(Network::new(topology, seed), seed)
}

/// A request as the library carries it out.
#[derive(Clone, Copy)]
struct Request {
    method: Method,
    target: IpAddr,
    runs: u32,
    e2e_queries: u32,
    timeout: Duration,
}

/// A request under way.
struct Running {
    started: Duration,
    runs: Vec<TraceId>,
    series: Option<TraceId>,
}

impl Request {
    fn new(method: Method, target: &str) -> Self {
        Request {
            method,
            target: target.parse().unwrap(),
            runs: 3,
            e2e_queries: 50,
            timeout: TIMEOUT,
        }
    }

    fn interval(&self) -> Duration {
        let spread = self.timeout * u32::from(MAX_TTL) / self.e2e_queries.max(1);
        spread.min(Duration::from_secs(1))
    }

    fn start(&self, simulation: &mut Simulation) -> Running {
        let port = if self.method == Method::Udp { 33434 } else { 80 };
        let longest = self.timeout * u32::from(MAX_TTL) + EXTRA;
        let interval = self.interval();
        let spec = TraceSpec {
            longest,
            linger: interval * self.e2e_queries.saturating_sub(1),
            ..TraceSpec::full(self.method, self.target, port, MAX_TTL, self.timeout)
        };
        let method = match self.method {
            Method::TcpSack => Method::TcpSyn,
            method => method,
        };
        let single = TraceSpec {
            longest,
            ..TraceSpec::single(method, self.target, port, MAX_TTL, self.timeout)
        };
        let series = TraceSpec::end_to_end(single, self.e2e_queries, interval, false);
        Running {
            started: simulation.now(),
            runs: (0..self.runs).map(|_| simulation.start(spec)).collect(),
            series: (self.e2e_queries > 0).then(|| simulation.start(series)),
        }
    }
}

/// What came of a request.
struct Done {
    runs: Vec<Result<TraceResult, TraceError>>,
    series: Option<EndToEndResult>,
    took: Duration,
}

impl Running {
    fn finish(self, simulation: &mut Simulation) -> Done {
        let runs = self.runs.iter().map(|run| simulation.finish(*run)).collect();
        let series = self
            .series
            .map(|series| simulation.finish_series(series).unwrap());
        let ids = self.runs.iter().chain(&self.series);
        let ended = ids.filter_map(|id| simulation.ended_at(*id)).max().unwrap();
        Done {
            runs,
            series,
            took: ended.saturating_sub(self.started),
        }
    }
}

fn answered(result: &TraceResult) -> usize {
    result.hops.iter().filter(|hop| hop.answer.is_some()).count()
}

/// Where the destination is said to be.
fn distance(result: &TraceResult) -> Option<u8> {
    let shown = |hop: &&traceroute_engine::Hop| hop.answer.is_some_and(|answer| answer.destination);
    result.hops.iter().find(shown).map(|hop| hop.ttl)
}

fn is_complete(result: &TraceResult, hops: usize) -> bool {
    result.hops.len() == hops && answered(result) == hops && distance(result) == Some(hops as u8)
}

/// No run says another distance than this.
fn assert_distance(results: &[TraceResult], hops: u8, what: &str) {
    for result in results {
        let said = distance(result);
        assert!(
            said.is_none_or(|said| said == hops),
            "{what}: the target at TTL {said:?}"
        );
        assert!(
            said.is_some()
                || result.distance == Distance::Unknown
                || result.hops.len() == usize::from(MAX_TTL),
            "{what}: {} hops, no destination",
            result.hops.len()
        );
    }
}

fn ok(done: Done) -> Vec<TraceResult> {
    done.runs.into_iter().map(Result::unwrap).collect()
}

/// `-q 10 -Q 0` right after the same has used up what the routers' limits allow.
#[test]
fn a_run_right_after_a_draining_one_finds_the_distance() {
    for method in [Method::Icmp, Method::Udp, Method::TcpSyn, Method::TcpSack] {
        for target in TARGETS {
            let mut simulation = simulation(&linux_hosts(), 1);
            let request = Request {
                runs: 10,
                e2e_queries: 0,
                ..Request::new(method, target)
            };
            request.start(&mut simulation).finish(&mut simulation);
            let results = ok(request.start(&mut simulation).finish(&mut simulation));
            let found: usize = results.iter().map(answered).sum();
            let known = results.iter().filter(|result| distance(result).is_some()).count();
            println!(
                "after a draining run, {method:?} {target}: {found} of 70 hops, {known} of 10 distances"
            );
            assert_distance(&results, 7, &format!("{method:?} {target}"));
        }
    }
}

/// One run after ten that have used up the limits: there is time to ask again.
#[test]
fn one_run_after_a_draining_one_finds_nearly_all() {
    for method in [Method::Icmp, Method::TcpSyn, Method::TcpSack] {
        let mut found = 0;
        for seed in 1..=10 {
            let mut simulation = simulation(&linux_hosts(), seed);
            let draining = Request {
                runs: 10,
                e2e_queries: 0,
                ..Request::new(method, TARGETS[0])
            };
            draining.start(&mut simulation).finish(&mut simulation);
            let request = Request { runs: 1, ..draining };
            let results = ok(request.start(&mut simulation).finish(&mut simulation));
            assert_distance(&results, 7, &format!("{method:?}"));
            found += results.iter().map(answered).sum::<usize>();
        }
        println!("one run after ten, {method:?}: {found} of 70 hops");
        assert!(found >= 63, "{method:?}: {found} of 70 hops");
    }
}

/// Eight default requests at once: 24 runs share six routers' limits, and have 49 s to ask again.
#[test]
fn eight_requests_at_once_are_complete() {
    for (method, target) in [
        (Method::Icmp, TARGETS[0]),
        (Method::Icmp, TARGETS[1]),
        (Method::TcpSyn, TARGETS[0]),
    ] {
        let request = Request::new(method, target);
        let mut alone = simulation(&linux_hosts(), 1);
        let alone = request.start(&mut alone).finish(&mut alone).took;
        let mut simulation = simulation(&linux_hosts(), 1);
        let running: Vec<_> = (0..8).map(|_| request.start(&mut simulation)).collect();
        let done: Vec<_> = running
            .into_iter()
            .map(|running| running.finish(&mut simulation))
            .collect();
        let longest = done.iter().map(|done| done.took).max().unwrap();
        let lost: u32 = done
            .iter()
            .filter_map(|done| done.series.as_ref())
            .map(|series| series.lost.total())
            .sum();
        let results: Vec<_> = done.into_iter().flat_map(ok).collect();
        let complete = results.iter().filter(|result| is_complete(result, 7)).count();
        println!(
            "8 requests at once, {method:?} {target}: {complete} of 24 complete, {longest:?}, one alone {alone:?}"
        );
        assert_distance(&results, 7, "eight requests");
        assert_eq!((complete, lost), (24, 0), "{method:?} {target}");
        assert!(
            longest <= alone + Duration::from_secs(1),
            "{method:?} {target}: {longest:?}, one alone {alone:?}"
        );
    }
}

/// Twenty requests of three runs at once, without end-to-end probes: what the limits allow, and no
/// untruth.
#[test]
fn sixty_runs_at_once_find_what_the_limits_allow() {
    let mut simulation = simulation(&linux_hosts(), 1);
    let request = Request {
        e2e_queries: 0,
        ..Request::new(Method::Icmp, TARGETS[0])
    };
    let running: Vec<_> = (0..20).map(|_| request.start(&mut simulation)).collect();
    let done: Vec<_> = running
        .into_iter()
        .map(|running| running.finish(&mut simulation))
        .collect();
    let longest = done.iter().map(|done| done.took).max().unwrap();
    let results: Vec<_> = done.into_iter().flat_map(ok).collect();
    assert_distance(&results, 7, "sixty runs");
    let routers = || results.iter().flat_map(|result| result.hops.iter().take(6));
    let found = routers().filter(|hop| hop.answer.is_some()).count();
    // Six at once, and one a second while the runs last.
    let allowed = 6 * (6 + longest.as_secs() as usize);
    println!("60 runs at once: {found} of {allowed} that the limits allow in {longest:?}");
    assert!(found * 10 >= allowed * 9, "{found} of {allowed}");
    for hop in routers().filter(|hop| hop.answer.is_none()) {
        assert_eq!(
            hop.lost.main(),
            Some(Cause::RateLimited),
            "TTL {}: {:?}",
            hop.ttl,
            hop.lost
        );
    }
}

/// Each node answers four probes of five. 200 runs of each method, each with a seed of its own.
#[test]
fn a_fifth_of_all_answers_lost_hides_little_and_moves_nothing() {
    const RUNS: u64 = 200;
    let lossy = |_| "icmp = { loss = 0.2 }".to_owned();
    let topology = chain(10, lossy, "back = { loss = 0.2 }");
    for method in [Method::Icmp, Method::Udp, Method::TcpSyn, Method::TcpSack] {
        let (mut found, mut wrong, mut unknown, mut failed) = (0, 0, 0, 0);
        for seed in 0..RUNS {
            let mut simulation = simulation(&topology, seed);
            let request = Request {
                runs: 1,
                e2e_queries: 0,
                ..Request::new(method, TARGETS[seed as usize % 2])
            };
            let mut done = request.start(&mut simulation).finish(&mut simulation);
            match done.runs.remove(0) {
                Ok(result) => {
                    found += result
                        .hops
                        .iter()
                        .take(11)
                        .filter(|hop| hop.answer.is_some())
                        .count();
                    wrong += u32::from(distance(&result).is_some_and(|said| said != 11));
                    unknown += u32::from(distance(&result).is_none());
                }
                Err(_) => failed += 1,
            }
        }
        let share = found as f64 / (11 * (RUNS - failed)) as f64;
        println!(
            "20 % lost, {method:?}: {:.2} % of hops, {wrong} wrong and {unknown} unknown distances of {RUNS}, {failed} without a result",
            share * 100.0
        );
        assert!(wrong <= 1, "{method:?}: {wrong} wrong distances");
        assert!(share >= 0.985, "{method:?}: {:.2} % of hops", share * 100.0);
        // Only the handshake of SACK may be what got lost.
        assert!(
            failed <= if method == Method::TcpSack { 20 } else { 0 },
            "{failed}"
        );
    }
}

/// What the Datadog Agent asks for: UDP, a timeout of 1000 ms, 50 end-to-end probes.
#[test]
fn a_limited_target_costs_no_end_to_end_probe() {
    for target in TARGETS {
        let mut simulation = simulation(&linux_hosts(), 1);
        let request = Request {
            timeout: Duration::from_secs(1),
            ..Request::new(Method::Udp, target)
        };
        for round in 1..=5 {
            let done = request.start(&mut simulation).finish(&mut simulation);
            let series = done.series.as_ref().unwrap();
            let (sent, lost, took) = (series.probes.len(), series.lost.total(), done.took);
            println!("limited target {target}, round {round}: {sent} sent, {lost} lost, {took:?}");
            assert_eq!(lost, 0, "{target}, round {round}: of {sent}");
            assert!(sent >= 30, "{target}, round {round}: {sent} sent");
            assert!(
                took <= Duration::from_secs(31),
                "{target}, round {round}: {took:?}"
            );
            assert_distance(&ok(done), 7, "limited target");
            let later = simulation.now() + Duration::from_secs(8);
            simulation.run_until(later);
        }
    }
}

#[test]
fn a_target_without_limits_gets_all_end_to_end_probes() {
    let topology = chain(6, |_| LINUX.to_owned(), "");
    for target in TARGETS {
        let mut simulation = simulation(&topology, 1);
        let request = Request {
            timeout: Duration::from_secs(1),
            ..Request::new(Method::Udp, target)
        };
        for round in 1..=3 {
            let done = request.start(&mut simulation).finish(&mut simulation);
            let series = done.series.unwrap();
            let received = series.probes.iter().flatten().count();
            assert_eq!((received, series.unsent), (50, 0), "{target}, round {round}");
            assert!(done.took <= Duration::from_secs(31), "{:?}", done.took);
            let later = simulation.now() + Duration::from_secs(8);
            simulation.run_until(later);
        }
    }
}

/// Where a NAT leaves a trace in quotes, the first hop after it says so.
#[test]
fn the_hop_after_a_nat_says_so() {
    for (quotes, shows) in [
        ("translated", false),
        ("stale-checksum", true),
        ("zero-checksum", true),
        ("untranslated", true),
    ] {
        let nat = |n| {
            if n == 2 {
                format!("nat = {{ v4 = \"203.0.113.1\", v6 = \"2001:db8:aaaa::1\", quotes = \"{quotes}\" }}")
            } else {
                String::new()
            }
        };
        let topology = chain(4, nat, "");
        for method in [Method::Icmp, Method::Udp, Method::TcpSyn, Method::TcpSack] {
            for target in TARGETS {
                let mut simulation = simulation(&topology, 1);
                let request = Request {
                    runs: 1,
                    e2e_queries: 0,
                    ..Request::new(method, target)
                };
                let result = ok(request.start(&mut simulation).finish(&mut simulation)).remove(0);
                assert!(
                    is_complete(&result, 5),
                    "{quotes} {method:?} {target}: {:?}",
                    result.hops
                );
                let first = result.hops.iter().find(|hop| hop.nat).map(|hop| hop.ttl);
                // Of TCP the first 8 bytes are looked at, which RFC 792 promises: there is no
                // checksum among them.
                let is_tcp = matches!(method, Method::TcpSyn | Method::TcpSack);
                let shows = shows && (!is_tcp || quotes == "untranslated");
                assert_eq!(first, shows.then_some(3), "{quotes} {method:?} {target}");
            }
        }
    }
}

/// A router that refuses, and one that looks for a neighbour first: no run goes on for each TTL.
#[test]
fn a_refused_run_ends_soon() {
    let refusals = [
        ("block = [{ answer = \"admin-prohibited\" }]", 1),
        ("block = [{ answer = \"host\" }]", 1),
        (
            "icmp = { limit = \"linux\" }\nblock = [{ answer = \"admin-prohibited\" }]",
            4,
        ),
        (
            "icmp = { limit = \"linux\" }\nblock = [{ answer = \"host\", resolve = 3000 }]",
            5,
        ),
    ];
    for (refusal, seconds) in refusals {
        let topology = chain(4, |n| if n == 3 { refusal.to_owned() } else { String::new() }, "");
        for method in [Method::Icmp, Method::Udp, Method::TcpSyn] {
            for target in TARGETS {
                let mut simulation = simulation(&topology, 1);
                let request = Request {
                    runs: 1,
                    e2e_queries: 0,
                    timeout: Duration::from_millis(3500),
                    ..Request::new(method, target)
                };
                let done = request.start(&mut simulation).finish(&mut simulation);
                let took = done.took;
                let result = ok(done).remove(0);
                println!(
                    "{refusal:?}, {method:?} {target}: {} hops, {took:?}",
                    result.hops.len()
                );
                assert_eq!(
                    result.hops.len(),
                    4,
                    "{refusal} {method:?} {target}: {:?}",
                    result.end
                );
                assert!(
                    matches!(result.end, traceroute_engine::End::Refused { .. }),
                    "{:?}",
                    result.end
                );
                assert!(
                    took <= Duration::from_secs(seconds),
                    "{refusal} {method:?} {target}: {took:?}"
                );
            }
        }
    }
}

/// A datagram forged from the target's address and port decides nothing.
#[test]
fn a_forged_datagram_does_not_end_a_run() {
    for router in 1..=4 {
        for number in 1..=3 {
            let forge = |n| {
                if n == router {
                    format!("forge_udp = [{number}]")
                } else {
                    String::new()
                }
            };
            let topology = chain(6, forge, "");
            for target in TARGETS {
                let mut simulation = simulation(&topology, 1);
                let request = Request {
                    runs: 1,
                    e2e_queries: 0,
                    ..Request::new(Method::Udp, target)
                };
                let result = ok(request.start(&mut simulation).finish(&mut simulation)).remove(0);
                assert!(
                    is_complete(&result, 7),
                    "r{router}, datagram {number}, {target}: {:?}",
                    result.hops
                );
            }
        }
    }
}
