//! What Linux and macOS have in common.
//!
//! Where they differ, these modules ask `imp`, the module of this operating system: for `Readiness`
//! (which descriptors became writable), `dissolve` (end a connection, keep its port) and `advice`
//! (hints on errors).

pub(crate) mod clock;
pub(crate) mod egress;
pub(crate) mod errors;
pub(crate) mod families;
pub(crate) mod interfaces;
pub(crate) mod reservations;
pub(crate) mod sys;
