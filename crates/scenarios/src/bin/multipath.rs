//! How often multipath discovery misses something, beside what it states: `multipath [RUNS]
//! [--each]`, with as many runs for each shape, and for random networks together.
#![allow(clippy::print_stdout)]

use std::process::ExitCode;

use traceroute_engine::multipath::Control;
use traceroute_scenarios::multipath::{HEADING, Tally, random, shapes};

const RUNS: u64 = 50_000;
/// Runs over each random network.
const RUNS_EACH: u64 = 10;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runs = arguments
        .iter()
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(RUNS);
    let control = if arguments.iter().any(|argument| argument == "--each") {
        Control::Each
    } else {
        Control::Shared
    };
    println!("{HEADING}");
    let mut is_good = true;
    for network in shapes() {
        let tally = Tally::of(&network, control, 0..runs);
        println!("{tally}");
        is_good &= tally.is_good();
    }
    let mut all = Tally {
        name: "random".to_owned(),
        ..Tally::default()
    };
    for seed in 0..runs / RUNS_EACH {
        all.merge(&Tally::of(&random(seed), control, seed..seed + RUNS_EACH));
    }
    println!("{all}");
    if is_good && all.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
