//! What the simulated network does, on simulated time. Packets are built and read with etherparse.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers outside #[test] functions
#![allow(
    clippy::decimal_bitwise_operands,
    clippy::unchecked_time_subtraction,
    clippy::wildcard_imports
)]

mod balance;
mod errors;
mod files;
mod garbage;
mod hosts;
mod lab;
mod links;
mod nat;
mod path;
mod tcp;
