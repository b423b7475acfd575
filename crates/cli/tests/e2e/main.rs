//! The program end to end: traces through networks made of namespaces, by the kernel's own routers,
//! hosts and services.
//!
//! Needs Linux and root, or user namespaces for plain users; the testbed says what is missing.
//! Needs the programs `ip`, `nft`, `setpriv` and `unshare`; some tests need `traceroute`, `ping`,
//! `tshark` or `/dev/net/tun` as well, and say so.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

mod capture;
mod doctor;
mod documents;
mod egress;
mod filters;
mod formats;
mod names;
mod neighbours;
mod options;
mod ordinary;
mod paths;
mod program;
mod sack;
mod services;
mod trouble;
mod tun;
mod wire;
