//! Tests of the wire crate.
#![allow(clippy::unwrap_used)]

mod corpus;
mod ddnpm;
mod properties;
mod support;
mod vectors;
