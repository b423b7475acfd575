//! Reserved local ports, each held by a socket, and the TCP connections that are opened from them.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use socket2::{Protocol, Socket, Type};
use traceroute_engine::{ConnectionId, NetError, NetworkEvent, Operation, Transport};

use super::errors;
use crate::imp::{Readiness, dissolve};
use crate::ports::{PortPool, Ports};
use crate::route;

/// Outcomes delivered at once.
const BATCH: usize = 128;

/// The sockets that hold ports, and the connections by id.
pub(crate) struct Reservations {
    sockets: HashMap<(Transport, IpAddr, u16), Socket>,
    readiness: Readiness,
    connections: HashMap<ConnectionId, Connection>,
    /// Attempts that failed on the spot, to be reported like the others.
    refused: Vec<(ConnectionId, Connection, io::Error)>,
}

#[derive(Clone, Copy)]
struct Connection {
    local: SocketAddr,
    remote: SocketAddr,
}

impl Connection {
    fn is_from(&self, local: SocketAddr) -> bool {
        self.local.ip() == local.ip() && self.local.port() == local.port()
    }
}

impl Reservations {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Reservations {
            sockets: HashMap::new(),
            readiness: Readiness::new()?,
            connections: HashMap::new(),
            refused: Vec::new(),
        })
    }

    /// How many ports are reserved.
    pub(crate) fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Reserves a port, on the address that `address` tells for it. `watch` makes the capture see
    /// these blocks of ports.
    ///
    /// # Errors
    /// No port left, too many open files, or what `address` says.
    pub(crate) fn reserve(
        &mut self,
        pool: &mut PortPool,
        transport: Transport,
        address: impl FnMut(u16) -> io::Result<SocketAddr>,
        watch: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<SocketAddr> {
        let mut system = Binder {
            transport,
            address,
            watch,
        };
        let (_, (local, socket)) = pool.reserve(transport, &mut system)?;
        self.sockets.insert((transport, local.ip(), local.port()), socket);
        Ok(local)
    }

    /// The socket that holds a port.
    pub(crate) fn socket(&self, transport: Transport, local: SocketAddr) -> Option<&Socket> {
        self.sockets.get(&(transport, local.ip(), local.port()))
    }

    /// The interface of the link-local address that a port is bound to.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    pub(crate) fn scope(&self, transport: Transport, local: SocketAddr) -> Option<u32> {
        let bound = self.socket(transport, local)?.local_addr().ok()?;
        let scope = bound.as_socket_ipv6()?.scope_id();
        (scope != 0).then_some(scope)
    }

    /// Gives a port back, and by that resets its connection; whether it was reserved.
    pub(crate) fn release(&mut self, transport: Transport, source: IpAddr, port: u16) -> bool {
        let Some(socket) = self.sockets.remove(&(transport, source, port)) else {
            return false;
        };
        if transport == Transport::Tcp {
            let local = SocketAddr::new(source, port);
            self.readiness.forget(socket.as_fd());
            self.connections
                .retain(|_, connection| !connection.is_from(local));
            self.refused
                .retain(|(_, connection, _)| !connection.is_from(local));
        }
        true
    }

    /// Begins to connect the reserved port `local` to `remote`.
    ///
    /// # Errors
    /// What says that nothing was sent: no route and the like.
    pub(crate) fn connect(
        &mut self,
        id: ConnectionId,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<(), NetError> {
        self.try_connect(id, Connection { local, remote })
            .map_err(|error| errors::error(Operation::Connect, Some(remote.ip()), error))
    }

    fn try_connect(&mut self, id: ConnectionId, connection: Connection) -> io::Result<()> {
        let Connection { local, remote } = connection;
        let socket = self
            .sockets
            .get_mut(&(Transport::Tcp, local.ip(), local.port()))
            .ok_or(io::ErrorKind::AddrNotAvailable)?;
        match socket.connect(&remote.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            // On loopback the answer can come during the call.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.refused.push((id, connection, error));
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        if let Err(error) = self.readiness.watch_once(socket.as_fd(), id.0) {
            reset(&self.readiness, socket, local);
            return Err(error);
        }
        self.connections.insert(id, connection);
        Ok(())
    }

    /// Resets a connection and forgets it. The port stays reserved.
    pub(crate) fn disconnect(&mut self, id: ConnectionId) {
        self.refused.retain(|(refused, ..)| *refused != id);
        if let Some(connection) = self.connections.remove(&id) {
            self.reset(connection.local);
        }
    }

    fn reset(&mut self, local: SocketAddr) {
        if let Some(socket) = self.sockets.get_mut(&(Transport::Tcp, local.ip(), local.port())) {
            reset(&self.readiness, socket, local);
        }
    }

    /// Whether [`Reservations::deliver`] has something without waiting for the kernel.
    pub(crate) fn has_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// Delivers the outcomes of attempts to connect.
    pub(crate) fn deliver(&mut self, events: &mut dyn FnMut(NetworkEvent<'_>)) {
        for _ in 0..BATCH {
            let Some((id, connection, error)) = self.next() else {
                return;
            };
            events(match error {
                None => NetworkEvent::Connected(id),
                Some(error) => {
                    let remote = Some(connection.remote.ip());
                    NetworkEvent::ConnectFailed(id, errors::error(Operation::Connect, remote, error))
                }
            });
        }
    }

    /// An attempt that has ended, with what the socket says: `None` when connected.
    fn next(&mut self) -> Option<(ConnectionId, Connection, Option<io::Error>)> {
        if let Some((id, connection, error)) = self.refused.pop() {
            self.reset(connection.local);
            return Some((id, connection, Some(error)));
        }
        while !self.connections.is_empty() {
            let id = ConnectionId(self.readiness.next()?);
            let Some(&connection) = self.connections.get(&id) else {
                continue;
            };
            let local = connection.local;
            let Some(socket) = self.sockets.get(&(Transport::Tcp, local.ip(), local.port())) else {
                self.connections.remove(&id);
                continue;
            };
            let error = socket.take_error().unwrap_or_else(Some);
            if error.is_some() {
                self.connections.remove(&id);
                self.reset(local);
            }
            return Some((id, connection, error));
        }
        None
    }
}

impl AsFd for Reservations {
    /// Readable when there may be an outcome to deliver.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.readiness.as_fd()
    }
}

/// Resets the connection of a socket, if there is one; the port stays reserved.
fn reset(readiness: &Readiness, socket: &mut Socket, local: SocketAddr) {
    readiness.forget(socket.as_fd());
    if let Err(error) = dissolve(socket, local) {
        tracing::debug!(%error, %local, "cannot reset a connection");
    }
}

/// Prepares a socket for connections that never block and end with a reset.
///
/// Also should the process end before it can reset its connection: otherwise the port would be held
/// in TIME-WAIT for a minute. socket(7), `SO_LINGER`
pub(crate) fn prepare_tcp(socket: &Socket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_linger(Some(Duration::ZERO))
}

/// A socket that does not block and can be bound to an address of the family of `address`.
pub(crate) fn new_socket(transport: Transport, address: IpAddr) -> io::Result<Socket> {
    let (kind, protocol) = match transport {
        Transport::Udp => (Type::DGRAM, Protocol::UDP),
        Transport::Tcp => (Type::STREAM, Protocol::TCP),
    };
    let socket = Socket::new(route::domain(address), kind, Some(protocol))?;
    match transport {
        Transport::Udp => socket.set_nonblocking(true)?,
        Transport::Tcp => prepare_tcp(&socket)?,
    }
    Ok(socket)
}

/// Binds sockets for [`PortPool`].
struct Binder<A, W> {
    transport: Transport,
    address: A,
    watch: W,
}

impl<A, W> Ports for Binder<A, W>
where
    A: FnMut(u16) -> io::Result<SocketAddr>,
    W: FnMut(&[u8]) -> io::Result<()>,
{
    type Socket = (SocketAddr, Socket);

    fn bind(&mut self, port: u16) -> io::Result<(SocketAddr, Socket)> {
        let local = (self.address)(port)?;
        let socket = new_socket(self.transport, local.ip())?;
        if self.transport == Transport::Udp {
            // Nobody reads what arrives; the kernel makes the least of it. 0 is too little for
            // macOS.
            socket.set_recv_buffer_size(1)?;
        }
        socket.bind(&local.into())?;
        Ok((local, socket))
    }

    fn watch(&mut self, blocks: &[u8]) -> io::Result<()> {
        (self.watch)(blocks)
    }
}
