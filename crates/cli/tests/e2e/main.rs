//! The program end to end: traces through networks made of namespaces, by the kernel's own routers, hosts and
//! services.
//!
//! Needs Linux and root, or user namespaces for plain users; the testbed says what is missing. Needs the programs `ip`
//! and `nft`; some tests need `traceroute`, `tshark` or `/dev/net/tun` as well, and say so.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

mod ordinary;
mod paths;
mod program;
mod report;
