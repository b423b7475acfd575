//! Reserved local ports.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use traceroute_engine::Transport;

use crate::route;
use crate::winerror::{WSAEACCES, WSAENOBUFS};

/// Where Windows takes dynamic ports from, unless told otherwise (RFC 6335 §6).
const DYNAMIC: std::ops::RangeInclusive<u16> = 49_152..=65_535;
/// How many random ports are tried.
const TRIES: usize = 256;
/// `WSAEADDRINUSE`.
const IN_USE: i32 = 10_048;

/// How a port is kept from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeping {
    /// By a socket.
    Socket,
    /// Not at all, other than that this process does not use it twice: what arrives for a port with
    /// a socket goes to that socket, and no raw socket sees it. Another process may take the port
    /// meanwhile, which costs replies.
    Memory,
}

/// The reserved ports.
pub(super) struct ReservedPorts {
    keeping: Keeping,
    reserved: HashMap<(Transport, IpAddr, u16), Option<Socket>>,
    rng: fastrand::Rng,
}

impl ReservedPorts {
    pub(super) fn new(keeping: Keeping) -> Self {
        ReservedPorts {
            keeping,
            reserved: HashMap::new(),
            rng: fastrand::Rng::new(),
        }
    }

    /// Reserves a free port. `scope`: the interface of a link-local source.
    pub(super) fn reserve(&mut self, transport: Transport, source: IpAddr, scope: u32) -> io::Result<u16> {
        for _ in 0..TRIES {
            let port = self.rng.u16(DYNAMIC);
            if self.reserved.contains_key(&(transport, source, port)) {
                continue;
            }
            match bind(transport, route::with_scope(source, port, scope)) {
                Ok(socket) => {
                    let kept = (self.keeping == Keeping::Socket).then_some(socket);
                    self.reserved.insert((transport, source, port), kept);
                    return Ok(port);
                }
                // Somebody else's, or one that the system keeps back.
                Err(error) if matches!(error.raw_os_error(), Some(IN_USE | WSAEACCES)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::from_raw_os_error(WSAENOBUFS))
    }

    /// Gives a port back; whether it was reserved.
    pub(super) fn release(&mut self, transport: Transport, source: IpAddr, port: u16) -> bool {
        self.reserved.remove(&(transport, source, port)).is_some()
    }

    /// The socket of a reserved TCP port, for connecting. The port stays reserved.
    pub(super) fn take_socket(&mut self, source: IpAddr, port: u16) -> Option<Socket> {
        self.reserved.get_mut(&(Transport::Tcp, source, port))?.take()
    }

    /// Whether any port of that transport is reserved.
    pub(super) fn any(&self, transport: Transport) -> bool {
        self.reserved.keys().any(|(reserved, ..)| *reserved == transport)
    }

    pub(super) fn count(&self) -> u64 {
        self.reserved.len() as u64
    }
}

fn bind(transport: Transport, address: SocketAddr) -> io::Result<Socket> {
    let (kind, protocol) = match transport {
        Transport::Udp => (Type::DGRAM, Protocol::UDP),
        Transport::Tcp => (Type::STREAM, Protocol::TCP),
    };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, UdpSocket};

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn ports_are_distinct_and_come_back() {
        let mut ports = ReservedPorts::new(Keeping::Memory);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..500 {
            let port = ports.reserve(Transport::Udp, LOOPBACK, 0).expect("port");
            assert!(DYNAMIC.contains(&port) && seen.insert(port));
        }
        assert_eq!(ports.count(), 500);
        assert!(ports.any(Transport::Udp) && !ports.any(Transport::Tcp));
        for port in seen {
            assert!(ports.release(Transport::Udp, LOOPBACK, port));
            assert!(!ports.release(Transport::Udp, LOOPBACK, port));
        }
        assert!(!ports.any(Transport::Udp));
    }

    #[test]
    fn a_port_is_kept_by_a_socket_or_only_in_memory() {
        let mut kept = ReservedPorts::new(Keeping::Socket);
        let port = kept.reserve(Transport::Udp, LOOPBACK, 0).expect("port");
        UdpSocket::bind((LOOPBACK, port)).expect_err("taken");
        kept.release(Transport::Udp, LOOPBACK, port);
        UdpSocket::bind((LOOPBACK, port)).expect("free again");

        let mut remembered = ReservedPorts::new(Keeping::Memory);
        let port = remembered.reserve(Transport::Tcp, LOOPBACK, 0).expect("port");
        TcpListener::bind((LOOPBACK, port)).expect("no socket holds it");
    }

    #[test]
    fn the_socket_of_a_port_can_be_taken_once() {
        let mut ports = ReservedPorts::new(Keeping::Socket);
        let port = ports.reserve(Transport::Tcp, LOOPBACK, 0).expect("port");
        let socket = ports.take_socket(LOOPBACK, port).expect("socket");
        let bound = socket.local_addr().expect("address").as_socket().expect("inet");
        assert_eq!(bound, SocketAddr::new(LOOPBACK, port));
        assert!(ports.take_socket(LOOPBACK, port).is_none());
        assert!(ports.release(Transport::Tcp, LOOPBACK, port));
    }
}
