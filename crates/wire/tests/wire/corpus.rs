//! Replays the fuzz targets' committed corpora.

#[path = "../../../../fuzz/replay.rs"]
mod replay;

use crate::support::targets;

#[test]
fn targets_survive_their_corpora() {
    replay::replay(&targets::ALL);
}
