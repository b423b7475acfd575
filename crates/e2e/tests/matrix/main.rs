//! Both programs through the contract's matrix of systems, protocols and targets: `matrix.toml`.
//!
//! Targets on this machine and in networks made of namespaces (Linux) are always run; public ones
//! only where the environment variable `E2E_PUBLIC` is `1`, because nobody should send packets to
//! strangers by running tests. The programs are
//! those beside the test, which `cargo test --workspace` and `just e2e-matrix` build.
//!
//! Needs what tracing needs: on Linux a [lab](traceroute_testbed), elsewhere an administrator.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

mod judge;
#[cfg(target_os = "linux")]
mod lab;
mod matrix;
mod place;
mod program;

use std::env;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use crate::judge::{Answer, judge};
use crate::matrix::{Case, Matrix, Runner, Target};
use crate::place::Place;
use crate::program::{Server, trace_by_command_line};

/// Asks a program for a trace.
type Ask<'a> = &'a (dyn Fn(&Case) -> Answer + Sync);

/// All cases at once: most of a trace is waiting. Says what went better than expected, and fails
/// with all that went wrong.
fn run(what: &str, cases: &[Case], ask: Ask<'_>) {
    assert!(!cases.is_empty(), "the matrix has no cases for {what}");
    let outcomes: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = cases
            .iter()
            .map(|case| scope.spawn(move || attempt(case, ask)))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut failures = Vec::new();
    for (case, outcome) in cases.iter().zip(outcomes) {
        match outcome {
            Ok(None) => {}
            Ok(Some(remark)) => say(&format!("{what}: {case}: {remark}")),
            Err(reason) => failures.push(format!("{what}: {case}: {reason}")),
        }
    }
    assert!(failures.is_empty(), "\n{}\n", failures.join("\n"));
}

/// Once, or as often as the matrix allows.
fn attempt(case: &Case, ask: Ask<'_>) -> Result<Option<String>, String> {
    let mut outcome = judge(case, &ask(case));
    for _ in 0..case.retries {
        if outcome.is_ok() {
            break;
        }
        outcome = judge(case, &ask(case));
    }
    outcome
}

/// As the contract allows for what it calls flaky, and for nothing else.
#[test]
fn only_what_may_be_flaky_is_asked_for_again() {
    let matrix = Matrix::read();
    let cases = matrix.cases(Target::Localhost, Runner::this(), &Place::without_network());
    for (retries, attempts) in [(0, 1), (3, 4)] {
        let case = Case {
            retries,
            ..cases[0].clone()
        };
        let asked = AtomicU32::new(0);
        let outcome = attempt(&case, &|_| {
            asked.fetch_add(1, Ordering::Relaxed);
            Answer::Nonsense("nothing".to_owned())
        });
        assert!(outcome.is_err());
        assert_eq!(asked.into_inner(), attempts);
    }
}

/// Not `eprintln!`, whose output the test harness keeps to itself when a test passes.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn both_programs(place: &Place, cases: &[Case]) {
    run("command line", cases, &|case| trace_by_command_line(place, case));
    let server = Server::start(place);
    run("server", cases, &|case| server.trace(case));
}

#[test]
fn localhost() {
    // In a namespace where there are any, so that it does not matter which ports are in use.
    #[cfg(target_os = "linux")]
    let Some(place) = lab::machine() else { return };
    #[cfg(not(target_os = "linux"))]
    let place = Place::host();
    both_programs(
        &place,
        &Matrix::read().cases(Target::Localhost, Runner::this(), &place),
    );
}

#[cfg(target_os = "linux")]
#[test]
fn localhost_v6() {
    let Some(place) = lab::machine() else { return };
    both_programs(
        &place,
        &Matrix::read().cases(Target::LocalhostV6, Runner::this(), &place),
    );
}

#[cfg(target_os = "linux")]
#[test]
fn fake_network() {
    let Some(network) = lab::network() else { return };
    let matrix = Matrix::read();
    for target in [Target::FakeNetwork, Target::FakeNetworkOpen] {
        both_programs(
            &network.place,
            &matrix.cases(target, Runner::this(), &network.place),
        );
    }
}

#[test]
fn public() {
    let place = Place::host();
    if env::var("E2E_PUBLIC").as_deref() == Ok("1") {
        // The other targets are in labs, where anybody is root.
        #[cfg(target_os = "linux")]
        if traceroute_net::access() != traceroute_net::Access::Raw {
            return traceroute_testbed::not_run(
                "the matrix is that of raw sockets, so this needs CAP_NET_RAW",
            );
        }
        both_programs(
            &place,
            &Matrix::read().cases(Target::Public, Runner::this(), &place),
        );
    } else {
        // Without the addresses, for which a name server would be asked.
        let cases = Matrix::read().cases(Target::Public, Runner::this(), &Place::without_network());
        say(&format!(
            "public targets not asked for: {} cases for each program (E2E_PUBLIC=1 runs them)",
            cases.len()
        ));
    }
}
