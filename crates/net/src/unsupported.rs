//! Operating systems without a backend.

use std::io;
use std::net::IpAddr;

use traceroute_engine::{NetError, Network, Operation};

#[path = "windows/egress.rs"]
mod egress;
pub(crate) use egress::{
    CHOOSES_INTERFACES, check_marking, has_interface, interface_of_name, is_own_source, only_zone,
};

use crate::{Access, Finding, Options, diagnosis};

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
pub fn open(_options: Options) -> Result<Box<dyn Network + Send>, NetError> {
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
