//! What connections need of Linux: to hear of their outcome (epoll(7)), and to end without giving
//! their port away.
#![allow(unsafe_code)]

use std::io;
use std::mem::zeroed;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use socket2::Socket;

use super::sys::length_of;
use crate::unix::sys::{check, check_fd};

/// Which descriptors have become writable or failed.
pub(crate) struct Readiness {
    epoll: OwnedFd,
}

impl Readiness {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointers; makes a descriptor.
        let epoll = unsafe { check_fd(libc::epoll_create1(libc::EPOLL_CLOEXEC)) }?;
        Ok(Readiness { epoll })
    }

    /// Reports `fd` once, as `id`, when it becomes writable or fails.
    pub(crate) fn watch_once(&self, fd: BorrowedFd<'_>, id: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: (libc::EPOLLOUT | libc::EPOLLONESHOT) as u32,
            u64: id,
        };
        self.control(libc::EPOLL_CTL_ADD, fd, Some(&mut event))
    }

    /// Reports `fd` as `id` as long as there is something to read from it or from its error queue.
    pub(crate) fn watch(&self, fd: BorrowedFd<'_>, id: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: id,
        };
        self.control(libc::EPOLL_CTL_ADD, fd, Some(&mut event))
    }

    /// Forgets `fd`, if it was known.
    pub(crate) fn forget(&self, fd: BorrowedFd<'_>) {
        let _ = self.control(libc::EPOLL_CTL_DEL, fd, None);
    }

    fn control(
        &self,
        operation: i32,
        fd: BorrowedFd<'_>,
        event: Option<&mut libc::epoll_event>,
    ) -> io::Result<()> {
        let event = event.map_or(ptr::null_mut(), ptr::from_mut);
        // SAFETY: `event` is valid during the call, or null: then the call does nothing but delete,
        // or fails.
        check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd.as_raw_fd(), event) }).map(drop)
    }

    /// One descriptor that is ready, by its id; does not wait.
    pub(crate) fn next(&self) -> Option<u64> {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: room for one event, and told so.
        let count = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), &raw mut event, 1, 0) };
        (count == 1).then_some(event.u64)
    }
}

impl AsFd for Readiness {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// Ends a connection with a reset but keeps the socket and its port: connect(2) to `AF_UNSPEC`.
/// Fails when there is no connection.
pub(crate) fn dissolve(socket: &mut Socket, _local: SocketAddr) -> io::Result<()> {
    // SAFETY: all-zero is a valid sockaddr, and AF_UNSPEC is 0.
    let address: libc::sockaddr = unsafe { zeroed() };
    // SAFETY: the address is valid for its length during the call.
    check(unsafe {
        libc::connect(
            socket.as_raw_fd(),
            &raw const address,
            length_of::<libc::sockaddr>(),
        )
    })
    .map(drop)
}
