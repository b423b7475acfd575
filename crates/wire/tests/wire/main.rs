//! Tests of the wire crate.
#![allow(clippy::unwrap_used)]

mod corpus;
mod properties;
mod support;
mod vectors;
