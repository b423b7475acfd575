//! What can be chosen of how packets leave (macOS: the source address).

use std::io;
use std::net::IpAddr;
use std::num::NonZeroU32;

use crate::EgressError;
use crate::unix::interfaces;

/// Whether flows can be bound to interfaces.
pub(crate) const CHOOSES_INTERFACES: bool = false;

/// There are no marks here.
pub(crate) fn check_marking() -> Result<(), EgressError> {
    Err(EgressError::Unsupported("a mark"))
}

/// Whether an interface has this address.
pub(crate) fn is_own_source(source: IpAddr, _: Option<NonZeroU32>) -> io::Result<bool> {
    Ok(interfaces::all()?.iter().any(|interface| interface.has(source)))
}
