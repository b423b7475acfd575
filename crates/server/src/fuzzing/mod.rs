//! Bodies of the fuzz targets: each takes any bytes and panics when something is wrong.
#![allow(clippy::unwrap_used, reason = "a panic is what they find")]

mod configuration;
mod policy;
mod request;

pub use configuration::configuration;
pub use policy::policy;
pub use request::request;

/// The targets by name, which is also the name of a target's corpus.
pub const ALL: [(&str, fn(&[u8])); 3] = [
    ("request", request),
    ("policy", policy),
    ("configuration", configuration),
];

/// Takes the first bytes; zeros where there are none.
fn take<const N: usize>(data: &mut &[u8]) -> [u8; N] {
    let mut array = [0; N];
    let (bytes, rest) = data.split_at(N.min(data.len()));
    array[..bytes.len()].copy_from_slice(bytes);
    *data = rest;
    array
}

#[cfg(test)]
#[path = "../../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
#[test]
fn targets_survive_their_corpora() {
    replay::replay(&ALL);
}
