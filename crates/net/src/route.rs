//! Socket addresses, and the interfaces of link-local ones (RFC 4007 §6).

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use socket2::Domain;

/// The family's domain.
pub(crate) fn domain(address: IpAddr) -> Domain {
    match address {
        IpAddr::V4(_) => Domain::IPV4,
        IpAddr::V6(_) => Domain::IPV6,
    }
}

/// Whether an address means nothing without its interface.
pub(crate) fn needs_scope(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// What the kernel is to be told with an address of a flow that leaves by `interface`: 0 unless the
/// address means nothing without.
pub(crate) fn scope_of(address: IpAddr, interface: u32) -> u32 {
    if needs_scope(address) { interface } else { 0 }
}

/// A socket address with the interface of a link-local address.
pub(crate) fn with_scope(address: IpAddr, port: u16, scope: u32) -> SocketAddr {
    match address {
        IpAddr::V4(_) => SocketAddr::new(address, port),
        IpAddr::V6(address) => SocketAddrV6::new(address, port, 0, scope).into(),
    }
}

/// A socket address with the interface of a link-local address, unless it has one already.
pub(crate) fn scoped(address: SocketAddr, scope: u32) -> SocketAddr {
    match address {
        SocketAddr::V6(given) if given.scope_id() != 0 => address,
        _ => with_scope(address.ip(), address.port(), scope),
    }
}
