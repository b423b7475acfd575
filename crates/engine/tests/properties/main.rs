//! What holds for every trace, whatever the network and this machine do to it.
#![allow(clippy::unwrap_used)]

mod hostile;
#[path = "../../../../fuzz/replay.rs"]
mod replay;
mod statistics;

use hostile::cases::case;
use hostile::checks::{check, check_nameless, check_series};
use hostile::support::ms;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_run_keeps_the_invariants(case in case()) {
        check(&case)?;
    }

    #[test]
    fn every_series_keeps_the_invariants(
        case in case(),
        count in 0_u32..40,
        interval in 10_u64..1000,
        fixed in any::<bool>(),
    ) {
        check_series(&case, &case.runs[0], (count, ms(interval), fixed))?;
    }

    /// Datagrams of a service and bare resets do not say to which probe they are. Who answered is
    /// right all the same, and nothing is shown nearer than it is; when nothing is lost, the
    /// distance is right.
    #[test]
    fn a_target_that_does_not_say_what_it_answers_is_never_too_near(
        case in case(),
        tcp in any::<bool>(),
        is_lossless in any::<bool>(),
    ) {
        check_nameless(&case, tcp, is_lossless)?;
    }
}

/// Replays the fuzz targets' committed corpora.
#[test]
fn targets_survive_their_corpora() {
    replay::replay(&hostile::targets::ALL);
}
