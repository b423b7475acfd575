//! Links and routers that lose at random, in memory and on simulated time: what is found has been
//! answered, what is missing was lost, and the loss end to end is what truly was lost.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;
use std::time::Duration;

use traceroute_engine::{Method, TraceSpec};
use traceroute_scenarios::Simulation;
use traceroute_simnet::{Network, Topology};

const TIMEOUT: Duration = Duration::from_millis(500);
const ROUTERS: u8 = 6;
/// Runs of each method in each family, each with a seed of its own.
const RUNS: u64 = 40;
/// End-to-end probes of each run.
const PROBES: u32 = 20;

/// Every link loses, and every node answers not always.
fn topology() -> Topology {
    let lossy = "delay = 2\nforward = { loss = 0.05 }\nback = { loss = 0.05 }\nicmp = { loss = 0.1 }\n";
    let router =
        |n| format!("[[hop]]\nname = \"r{n}\"\nv4 = \"10.0.{n}.1\"\nv6 = \"2001:db8:{n}::1\"\n{lossy}");
    let target = format!(
        "[[target]]\nv4 = \"198.51.100.11\"\nv6 = \"2001:db8:ffff::11\"\ntcp = {{ open = [80] }}\n{lossy}"
    );
    let text: String = (1..=ROUTERS).map(router).chain([target]).collect();
    Topology::parse("random-loss", &text).unwrap()
}

/// Whether an answer comes within the timeout. Others, such as a SYN-ACK that the server repeats
/// after a second, may count while the run lasts.
fn is_in_time((_, rtt): &(IpAddr, Duration)) -> bool {
    *rtt <= TIMEOUT
}

#[test]
fn what_is_missing_was_lost() {
    let topology = topology();
    let (mut found, mut lost, mut received, mut unanswered) = (0, 0, 0, 0);
    for method in [Method::Icmp, Method::Udp, Method::TcpSyn] {
        for target in ["198.51.100.11", "2001:db8:ffff::11"] {
            let target: IpAddr = target.parse().unwrap();
            for seed in 0..RUNS {
                let mut simulation = Simulation::new(Network::new(&topology, seed), seed);
                let run = simulation.start(TraceSpec::full(method, target, 80, 12, TIMEOUT));
                let result = simulation.finish(run).unwrap();
                simulation.drain();
                for (ttl, hop) in (1..).zip(&result.hops) {
                    let answers = simulation.journal.true_rtts(target, ttl);
                    let answer = hop.answer;
                    let is_right = match answer {
                        // Without a time it could not be told which attempt was answered.
                        Some(answer) => answers.iter().any(|(from, rtt)| {
                            *from == answer.address && answer.rtt.is_none_or(|told| told == *rtt)
                        }),
                        None => !answers.iter().any(is_in_time),
                    };
                    assert!(
                        is_right,
                        "{method:?} to {target}, seed {seed}: {answer:?} at TTL {ttl}, truly {answers:?}"
                    );
                    *if answer.is_some() { &mut found } else { &mut lost } += 1;
                }

                let mut simulation = Simulation::new(Network::new(&topology, seed), seed);
                let single = TraceSpec::single(method, target, 80, 12, TIMEOUT);
                let counted: usize = (0..PROBES)
                    .map(|_| {
                        let probe = simulation.start(single);
                        let result = simulation.finish(probe).unwrap();
                        usize::from(result.hops.iter().any(|hop| hop.answer.is_some()))
                    })
                    .sum();
                simulation.drain();
                let truly = simulation.journal.true_rtts(target, 12);
                let truly = truly.iter().filter(|answer| is_in_time(answer)).count();
                assert_eq!(counted, truly, "{method:?} to {target}, seed {seed}");
                received += counted;
                unanswered += PROBES as usize - counted;
            }
        }
    }
    // Otherwise nothing was tested.
    assert!(found > 1000 && lost > 50, "{found} found, {lost} lost");
    assert!(
        received > 1000 && unanswered > 500,
        "{received} received, {unanswered} unanswered"
    );
}
