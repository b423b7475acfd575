//! TCP SYN by connect(2): the socket that holds the port opens one connection after the other.
//!
//! Time exceeded while the connection is pending is on the error queue (Linux 5.8). A connection
//! that is established or refused is the target's answer; it is reset at once.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, Socket};
use traceroute_engine::{MatchedReply, Time, Token};

use super::super::connections::{Readiness, dissolve};
use super::super::sys;
use super::datagrams::read_clock;
use super::header::HeaderFields;
use super::icmp_errors;
use super::sys::{Handshake, MessageBuffer, SocketQueue, handshake, segment_hop_limit};
use crate::unix::clock::Converter;

/// A socket and the SYN that is out.
pub(super) struct Syns {
    socket: Socket,
    local: SocketAddr,
    pending: Option<Pending>,
}

#[derive(Clone, Copy)]
struct Pending {
    token: Token,
    target: IpAddr,
    at: Time,
    /// When connect(2) itself said that the target refuses.
    refused: Option<Time>,
}

/// What became of a SYN.
#[derive(Debug)]
pub(super) struct SynOutcome {
    pub(super) token: Token,
    pub(super) answer: MatchedReply,
    pub(super) at: Time,
}

impl Syns {
    /// Prepares a socket that is bound to `local`.
    pub(super) fn new(socket: Socket, local: SocketAddr) -> io::Result<Self> {
        icmp_errors::request(&socket, local.ip())?;
        // Improvements only: stamps of ICMP errors, and few repetitions of a SYN (two: giving up
        // must take longer than the 3 s after which the kernel reports a neighbour that is not
        // there).
        let stamps = libc::SOF_TIMESTAMPING_SOFTWARE | libc::SOF_TIMESTAMPING_RX_SOFTWARE;
        let _ = sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPING, stamps);
        let _ = sys::set_option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_SYNCNT, 2_i32);
        Ok(Syns {
            socket,
            local,
            pending: None,
        })
    }

    /// Sends a SYN, and has `readiness` report as `id` when there is an outcome. Nothing more is
    /// heard of the SYN before.
    ///
    /// # Errors
    /// What says that nothing was sent.
    pub(super) fn send(
        &mut self,
        to: SocketAddr,
        (hop_limit, header): (u8, HeaderFields),
        token: Token,
        (readiness, id): (&Readiness, u64),
    ) -> io::Result<Time> {
        self.reset(readiness);
        let (level, name) = match to {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TTL),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
        };
        sys::set_option(self.socket.as_fd(), level, name, i32::from(hop_limit))?;
        header.apply_to_stream(self.socket.as_fd(), self.local.ip())?;
        let at = sys::monotonic();
        let mut refused = None;
        match self.socket.connect(&to.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            // On loopback the answer can come during the call. The socket is reported below
            // nevertheless.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                refused = Some(sys::monotonic());
            }
            Err(error) => return Err(error),
        }
        readiness.watch_once(self.socket.as_fd(), id)?;
        self.pending = Some(Pending {
            token,
            target: to.ip(),
            at,
            refused,
        });
        Ok(at)
    }

    /// What became of the SYN; called when the socket was reported. `None`: nothing that answers
    /// it.
    ///
    /// When the kernel has repeated the SYN (after 1 s), nobody knows which of the two was answered
    /// and after how long: it counts as lost. Unless it is this machine itself that gave up, of
    /// which no round-trip time is wanted.
    pub(super) fn outcome(
        &mut self,
        buffer: &mut MessageBuffer,
        clock: &mut Converter,
        (readiness, id): (&Readiness, u64),
    ) -> Option<SynOutcome> {
        let pending = self.pending?;
        let handshake = handshake(self.socket.as_fd()).ok()?;
        match self.state(pending, handshake, buffer, clock) {
            SynState::Pending => {
                readiness.forget(self.socket.as_fd());
                let _ = readiness.watch_once(self.socket.as_fd(), id);
                None
            }
            SynState::Lost => {
                self.reset(readiness);
                None
            }
            SynState::Answered(answer, at) => {
                self.reset(readiness);
                let token = pending.token;
                let is_clear = !handshake.repeated || answer.from == self.local.ip();
                is_clear.then_some(SynOutcome { token, answer, at })
            }
        }
    }

    fn state(
        &self,
        pending: Pending,
        handshake: Handshake,
        buffer: &mut MessageBuffer,
        clock: &mut Converter,
    ) -> SynState {
        while let Some(message) = buffer.receive(self.socket.as_fd(), SocketQueue::Errors) {
            let now = read_clock(clock);
            let missing = icmp_errors::missing_headers(self.local.ip(), false);
            if let Some(answer) = icmp_errors::answer(&message, missing) {
                let at = message.notes.stamp.map_or(now, |stamp| clock.received(stamp));
                return SynState::Answered(answer, at);
            }
        }
        let now = read_clock(clock);
        let target = MatchedReply::new(pending.target, None);
        if let Some(at) = pending.refused {
            return SynState::Answered(target, at);
        }
        if handshake.connected {
            // Measured by the kernel, so without the time that it took to wake this thread.
            let measured = pending.at + Duration::from_micros(handshake.rtt.into());
            let at = if handshake.rtt == 0 {
                now
            } else {
                measured.min(now)
            };
            let answer = MatchedReply {
                reply_ttl: segment_hop_limit(self.socket.as_fd()).unwrap_or(0),
                ..target
            };
            return SynState::Answered(answer, at);
        }
        let error = SockRef::from(&self.socket).take_error().unwrap_or_else(Some);
        match error.map(|error| error.kind()) {
            Some(io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset) => {
                SynState::Answered(target, now)
            }
            None if handshake.pending => SynState::Pending,
            _ => SynState::Lost,
        }
    }

    /// Ends what goes on, with a reset if the connection is established. The socket keeps its port.
    pub(super) fn reset(&mut self, readiness: &Readiness) {
        if self.pending.take().is_some() {
            readiness.forget(self.socket.as_fd());
            // Fails only when there is nothing to reset. The error that it leaves behind is
            // read by nobody.
            let _ = dissolve(&mut self.socket, self.local);
            let _ = SockRef::from(&self.socket).take_error();
        }
    }
}

enum SynState {
    Pending,
    Lost,
    Answered(MatchedReply, Time),
}
