//! Precision and recall of the causes named for lost probes, on random networks: `just causes` on
//! more of them.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use traceroute_scenarios::causes::{TRUE_CAUSES, measure};

const NETWORKS: u64 = 400;

/// Least precision and recall of each cause where causes can be told apart.
const LEAST: f64 = 0.95;

#[test]
fn causes_are_recognised() {
    let report = measure(1..=NETWORKS).unwrap();
    println!("{report}");
    let matrix = &report.unambiguous;
    for cause in TRUE_CAUSES {
        assert!(matrix.precision(cause) >= LEAST, "{}\n{report}", cause.name());
        assert!(matrix.recall(cause) >= LEAST, "{}\n{report}", cause.name());
    }
    assert!(matrix.unknown() <= 0.1, "{report}");
}
