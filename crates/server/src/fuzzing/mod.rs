//! Bodies of the fuzz targets: each takes any bytes and panics when something is wrong.
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a panic is what they find"
)]

mod configuration;
mod policy;
mod request;

pub use configuration::configuration;
pub use policy::policy;
pub use request::request;

/// A target by its name, which is also the name of its corpus.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const ALL: [Target; 3] = [
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
