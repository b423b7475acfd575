//! What can be chosen of how packets leave (Windows: the source address).

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::num::NonZeroU32;

use crate::EgressError;

/// Whether flows can be bound to interfaces.
pub(crate) const CHOOSES_INTERFACES: bool = false;

/// There are no marks here.
pub(crate) fn check_marking() -> Result<(), EgressError> {
    Err(EgressError::Unsupported("a mark"))
}

/// Whether an interface has this address: no socket can be bound to others'.
pub(crate) fn is_own_source(source: IpAddr, _: Option<NonZeroU32>) -> io::Result<bool> {
    if source.is_unspecified() || source.is_multicast() {
        return Ok(false);
    }
    match UdpSocket::bind((source, 0)) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Ok(false),
        Err(error) => Err(error),
    }
}

/// Interfaces go by their index here.
pub(crate) fn interface_of_name(_: &str) -> Option<NonZeroU32> {
    None
}

/// Not looked at, as none can be chosen.
pub(crate) fn has_interface(_: NonZeroU32) -> bool {
    true
}

/// The system does not say.
pub(crate) fn only_zone() -> io::Result<Option<NonZeroU32>> {
    Err(io::ErrorKind::Unsupported.into())
}
