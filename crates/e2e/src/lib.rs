//! What the end-to-end tests of both programs share: a reader of the JSON document that is as
//! strict as the contract.
//!
//! `tests/matrix` runs both programs through the matrix of systems, protocols and targets in
//! `tests/matrix/matrix.toml`.

mod details;
mod json;
mod report;

pub use details::{Details, HopDetails, RunDetails};
pub use report::{E2e, Hop, HopCount, Layout, Report, Run};

/// What was read, or what is wrong with it and where.
pub type Result<T> = std::result::Result<T, String>;
