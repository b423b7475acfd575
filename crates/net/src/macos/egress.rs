//! What can be chosen of how packets leave (macOS: the source address and the interface).

use std::io;
use std::net::IpAddr;
use std::num::NonZeroU32;

use super::rules;
use crate::EgressError;
use crate::unix::interfaces;

/// There are no marks here.
pub(crate) fn check_marking() -> Result<(), EgressError> {
    Err(EgressError::NoMarks)
}

/// Whether an interface has this address; a link-local one must be of the chosen interface.
pub(crate) fn is_own_source(source: IpAddr, chosen: Option<NonZeroU32>) -> io::Result<bool> {
    let bound = chosen.map_or(0, NonZeroU32::get);
    Ok(interfaces::all()?
        .iter()
        .any(|interface| rules::is_at(interface, source, bound)))
}
