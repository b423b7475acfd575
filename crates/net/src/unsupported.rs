//! Operating systems without a backend.

use std::io;
use std::net::IpAddr;
use std::num::NonZeroU32;

use traceroute_engine::{NetError, Network, Operation};

use crate::{Access, EgressError, Finding, NetworkOptions, diagnosis};

fn unsupported(operation: Operation) -> NetError {
    NetError::new(
        operation,
        None,
        io::Error::new(io::ErrorKind::Unsupported, "this platform is not supported"),
    )
}

/// Opens nothing.
///
/// # Errors
/// Always: this platform is not supported.
pub fn open(_options: NetworkOptions) -> Result<Box<dyn Network + Send>, NetError> {
    Err(unsupported(Operation::OpenCapture))
}

/// Finds nothing.
///
/// # Errors
/// Always: this platform is not supported.
pub fn source_address(_target: IpAddr) -> Result<IpAddr, NetError> {
    Err(unsupported(Operation::Route))
}

/// By no sockets.
pub fn access() -> Access {
    Access::None
}

/// That nothing can be probed.
pub fn diagnose() -> Vec<Finding> {
    diagnosis::unknown()
}

/// There are no marks.
pub(crate) fn check_marking() -> Result<(), EgressError> {
    Err(EgressError::NoMarks)
}

/// Nothing is known of addresses.
pub(crate) fn is_own_source(_: IpAddr, _: Option<NonZeroU32>) -> io::Result<bool> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Nothing is known of interfaces.
pub(crate) fn interface_of_name(_: &str) -> Option<NonZeroU32> {
    None
}

/// Nothing is known of interfaces.
pub(crate) fn has_interface(_: NonZeroU32) -> bool {
    false
}

/// Nothing is known of interfaces.
pub(crate) fn only_zone() -> Option<NonZeroU32> {
    None
}
