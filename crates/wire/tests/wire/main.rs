//! Tests of the wire crate.
#![allow(clippy::unwrap_used)]

mod corpus;
mod ddnpm;
mod properties;
mod sockets;
mod support;
mod vectors;
