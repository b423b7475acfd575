//! Precision and recall of the causes named for lost probes, on random simulated networks: `causes
//! [NETWORKS] [--worst]`, and of one network, place by place: `causes --seed N`.
#![allow(clippy::print_stdout)]

use std::process::ExitCode;

use traceroute_scenarios::causes::{Sample, measure};

const NETWORKS: u64 = 2000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_detailed = arguments.iter().any(|argument| argument == "--worst");
    let number = arguments.iter().find_map(|argument| argument.parse().ok());
    if let (Some("--seed"), Some(seed)) = (arguments.first().map(String::as_str), number) {
        let sample = Sample::new(seed);
        println!("{sample:?}\n{}", sample.text());
        match sample.places() {
            Ok(places) => places
                .iter()
                .for_each(|(place, matrix)| println!("place {place}:\n{matrix}\n")),
            Err(error) => println!("{error}"),
        }
        return ExitCode::SUCCESS;
    }
    let report = match measure(1..=number.unwrap_or(NETWORKS)) {
        Ok(report) => report,
        Err(error) => {
            println!("{error}");
            return ExitCode::FAILURE;
        }
    };
    println!("{report}");
    if is_detailed {
        for (sample, matrix) in &report.worst {
            println!("\n{sample:?}\n{matrix}");
        }
    }
    ExitCode::SUCCESS
}
