//! TCP connections that are being opened, from sockets that already hold their port.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use socket2::{SockRef, Socket};

use super::sys;
use crate::ConnectionId;

/// How an attempt to connect ended.
pub(super) struct Outcome {
    pub(super) id: ConnectionId,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// What the socket says; `None` when connected.
    pub(super) error: Option<io::Error>,
}

/// Connections by id. The sockets belong to the reserved ports.
pub(super) struct Connections {
    epoll: OwnedFd,
    known: HashMap<ConnectionId, Connection>,
    /// Attempts that failed on the spot, to be reported like the others.
    refused: Vec<Outcome>,
}

#[derive(Clone, Copy)]
struct Connection {
    local: SocketAddr,
    remote: SocketAddr,
}

impl Connections {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Connections {
            epoll: sys::epoll()?,
            known: HashMap::new(),
            refused: Vec::new(),
        })
    }

    /// Begins to connect `socket`, which is bound to `local`.
    ///
    /// # Errors
    /// What says that nothing was sent: no route and the like.
    pub(super) fn begin(
        &mut self,
        id: ConnectionId,
        socket: &Socket,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> io::Result<()> {
        match socket.connect(&remote.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            // On loopback the answer can come during the call.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let error = Some(error);
                self.refused.push(Outcome {
                    id,
                    local,
                    remote,
                    error,
                });
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        if let Err(error) = sys::epoll_add_once(self.epoll.as_fd(), socket.as_fd(), id.0) {
            let _ = sys::dissolve(socket.as_fd());
            return Err(error);
        }
        self.known.insert(id, Connection { local, remote });
        Ok(())
    }

    /// Forgets a connection; the local address of the socket that it was on.
    pub(super) fn end(&mut self, id: ConnectionId) -> Option<SocketAddr> {
        self.refused.retain(|outcome| outcome.id != id);
        self.known.remove(&id).map(|connection| connection.local)
    }

    /// Resets the connection of a socket; the socket keeps its port.
    pub(super) fn reset(&self, socket: &Socket) {
        sys::epoll_remove(self.epoll.as_fd(), socket.as_fd());
        // Fails only when there is nothing to reset.
        let _ = sys::dissolve(socket.as_fd());
    }

    /// Forgets connections from a port that is given back.
    pub(super) fn forget(&mut self, local: SocketAddr) {
        let is_from = |address: &SocketAddr| address.ip() == local.ip() && address.port() == local.port();
        self.known.retain(|_, connection| !is_from(&connection.local));
        self.refused.retain(|outcome| !is_from(&outcome.local));
    }

    /// Whether [`Connections::next`] has something without waiting for the kernel.
    pub(super) fn has_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// An attempt that has ended. `socket_at` finds the socket that is bound to an address.
    pub(super) fn next<'s>(
        &mut self,
        socket_at: impl Fn(SocketAddr) -> Option<&'s Socket>,
    ) -> Option<Outcome> {
        if let Some(outcome) = self.refused.pop() {
            return Some(outcome);
        }
        while !self.known.is_empty() {
            let id = ConnectionId(sys::epoll_next(self.epoll.as_fd())?);
            let Some(&Connection { local, remote }) = self.known.get(&id) else {
                continue;
            };
            let Some(socket) = socket_at(local) else {
                self.known.remove(&id);
                continue;
            };
            let error = SockRef::from(socket).take_error().unwrap_or_else(Some);
            if error.is_some() {
                self.known.remove(&id);
                self.reset(socket);
            }
            return Some(Outcome {
                id,
                local,
                remote,
                error,
            });
        }
        None
    }
}

impl AsFd for Connections {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
