//! What can be chosen of how packets leave (Linux: everything).

use std::io;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::os::fd::AsFd;

use socket2::{Domain, Socket, Type};

use super::routes::FlowRoutes;
use super::sys;
use crate::EgressError;

/// Any mark: whether it may be set does not depend on it.
const ANY_MARK: u32 = 1;

/// Tries to mark the packets of a socket that sends none.
pub(crate) fn check_marking() -> Result<(), EgressError> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)
        .or_else(|_| Socket::new(Domain::IPV6, Type::DGRAM, None))
        .map_err(EgressError::Mark)?;
    sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_MARK, ANY_MARK).map_err(EgressError::Mark)
}

/// Whether packets may come from an address, by the kernel's routes.
pub(crate) fn is_own_source(source: IpAddr, interface: Option<NonZeroU32>) -> io::Result<bool> {
    let mut routes = FlowRoutes::open()?;
    Ok(routes
        .check_source(source, interface.map_or(0, NonZeroU32::get))
        .is_ok())
}
