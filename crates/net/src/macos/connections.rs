//! What connections need of macOS: to hear of their outcome (kqueue(2)), and to end without giving
//! their port away.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::sys::{Kqueue, KqueueEvent};
use crate::unix::reservations;

/// Which descriptors have become writable or failed.
pub(crate) struct Readiness {
    queue: Kqueue,
    events: RefCell<Vec<KqueueEvent>>,
}

impl Readiness {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Readiness {
            queue: Kqueue::new()?,
            events: RefCell::default(),
        })
    }

    /// Reports `fd` once, as `id`, when it becomes writable or fails.
    pub(crate) fn watch_once(&self, fd: BorrowedFd<'_>, id: u64) -> io::Result<()> {
        self.queue.add_writable_once(fd, id)
    }

    /// Forgets `fd`, if it was known.
    pub(crate) fn forget(&self, fd: BorrowedFd<'_>) {
        self.queue.remove_writable(fd);
    }

    /// One descriptor that is ready, by its id; does not wait.
    pub(crate) fn next(&self) -> Option<u64> {
        let mut events = self.events.borrow_mut();
        self.queue.wait(Some(Duration::ZERO), 1, &mut events).ok()?;
        match events.first() {
            Some(KqueueEvent::Writable(id)) => Some(*id),
            _ => None,
        }
    }
}

impl AsFd for Readiness {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

/// Ends a connection with a reset but keeps its port: connect(2) to `AF_UNSPEC` does not do that to
/// TCP here, and a socket whose connection has ended has no port. So another takes its place and
/// its port, at once: after a reset nothing lingers that would be in the way.
pub(crate) fn dissolve(socket: &mut Socket, local: SocketAddr) -> io::Result<()> {
    let address = socket.local_addr().ok().and_then(|address| address.as_socket());
    // With its scope, which `local` may lack. Failed connections have lost their address, or show
    // an unspecified one.
    let address = address.filter(|known| known.ip() == local.ip() && known.port() == local.port());
    let next = Socket::new(Domain::for_address(local), Type::STREAM, Some(Protocol::TCP))?;
    reservations::prepare_tcp(&next)?;
    // Closes the other, which resets its connection.
    *socket = next;
    socket.bind(&address.unwrap_or(local).into())
}
