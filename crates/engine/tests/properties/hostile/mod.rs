//! Hostile networks and machines, what holds over all of them, and the bodies of the fuzz targets.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, missing_docs)]

pub mod cases;
pub mod checks;
#[path = "../../../../wire/tests/wire/support/input.rs"]
pub mod input;
pub mod mischief;
pub mod paths;
#[path = "../../support/mod.rs"]
pub mod support;
pub mod targets;
