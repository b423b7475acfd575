//! Operating systems without a backend.

use std::io;
use std::net::IpAddr;

use crate::{NetError, Network, Operation, Privileges};

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
pub fn open() -> Result<Box<dyn Network + Send>, NetError> {
    Err(unsupported(Operation::OpenCapture))
}

/// Finds nothing.
///
/// # Errors
/// Always: this platform is not supported.
pub fn source_address(_target: IpAddr) -> Result<IpAddr, NetError> {
    Err(unsupported(Operation::Route))
}

/// Drops nothing.
///
/// # Errors
/// Always: this platform is not supported.
pub fn keep_probing_privileges() -> io::Result<Privileges> {
    Err(io::ErrorKind::Unsupported.into())
}
