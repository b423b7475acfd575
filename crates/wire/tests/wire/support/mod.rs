//! What tests, benches and fuzz targets share: packets built independently of the crate, a second
//! parser to compare with, a classic BPF interpreter, and the bodies of the fuzz targets.
#![allow(dead_code, clippy::unwrap_used, unreachable_pub, missing_docs)]

pub mod bpf;
pub mod input;
pub mod oracle;
pub mod packets;
pub mod targets;
