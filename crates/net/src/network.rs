//! The seam between the engine and the operating system.

use std::net::{IpAddr, SocketAddr};
use std::ops::AddAssign;
use std::sync::Arc;

use traceroute_wire::{IcmpError, Ignored, MplsStack, Probe, Reply};

use crate::{NetError, Time};

/// Names a probe between [`Network::send`] and the events about it. Opaque to the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// Names a connection between [`Network::connect`] and the events about it. Chosen by the engine, unique in the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub u64);

/// A transport protocol whose ports can be reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

/// When a probe left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendStamp {
    /// The clock just before the system call. A kernel timestamp may follow as [`NetworkEvent::Sent`].
    pub at: Time,
}

/// What happened on the network. Times are when the kernel saw it, not when the process got around to reading it.
#[derive(Debug)]
pub enum NetworkEvent<'a> {
    /// The kernel's own timestamp of a probe leaving: better than [`SendStamp::at`]. Delivered before any reply that the
    /// probe caused; it does not end a wait by itself, and may never come.
    Sent {
        /// The probe.
        token: Token,
        /// When it was handed to the device.
        at: Time,
    },
    /// A packet that may answer a probe.
    Reply {
        /// The packet.
        reply: &'a Reply,
        /// When it arrived.
        at: Time,
    },
    /// The kernel itself says which probe was answered (backends that probe through ordinary sockets).
    Answered {
        /// The probe.
        token: Token,
        /// The answer.
        answer: Answer,
        /// When it arrived.
        at: Time,
    },
    /// A captured packet that is no reply, for the counters.
    Ignored(Ignored),
    /// [`Network::connect`] succeeded.
    Connected(ConnectionId),
    /// [`Network::connect`] failed; the connection is closed.
    ConnectFailed(ConnectionId, NetError),
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Counters) {
        self.captured += other.captured;
        self.kernel_drops += other.kernel_drops;
        self.sent += other.sent;
        self.kernel_send_stamps += other.kernel_send_stamps;
        self.sockets += other.sockets;
        self.reserved_ports += other.reserved_ports;
    }
}

/// An answer that the kernel matched to its probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Who answered.
    pub from: IpAddr,
    /// `None`: the target's own answer (echo reply, SYN-ACK, RST, UDP datagram). Otherwise the ICMP error.
    pub error: Option<IcmpError>,
    /// TTL or hop limit of the answer itself on arrival, in hops; 0 when the kernel does not tell.
    pub reply_ttl: u8,
    /// MPLS labels of the router, as far as the kernel tells.
    pub mpls: MplsStack,
}

impl Answer {
    /// An answer of which no more is known.
    pub fn new(from: IpAddr, error: Option<IcmpError>) -> Self {
        Answer {
            from,
            error,
            reply_ttl: 0,
            mpls: MplsStack::default(),
        }
    }
}

/// Counters of a backend since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Packets that the capture's filter let through.
    pub captured: u64,
    /// Packets that the kernel dropped because the process did not read them in time.
    pub kernel_drops: u64,
    /// Probes handed to the kernel.
    pub sent: u64,
    /// Probes whose send timestamp came from the kernel.
    pub kernel_send_stamps: u64,
    /// Open sockets, reserved ports not counted.
    pub sockets: u64,
    /// Reserved ports.
    pub reserved_ports: u64,
}

/// Wakes a thread that waits in [`Network::poll`]. Callable from any thread.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// How a backend is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Options {
    /// Thousands of probes a second are to come: room for 4096 packets per address family that nobody has read yet, 8 MiB
    /// each, which take some 10 ms longer to set up (Linux).
    pub heavy_load: bool,
    /// Send and capture with the driver, which [`start_windows_driver`](crate::start_windows_driver) must have started
    /// (Windows; ignored elsewhere).
    pub windows_driver: bool,
    /// Probe TCP with the system's own connects, which need no rights; nothing but TCP SYN probes can be sent then
    /// (Windows; ignored elsewhere).
    pub syn_socket: bool,
}

impl Options {
    /// The same without what makes no difference here: traces with equal effective options can share a network.
    #[must_use]
    pub fn effective(self) -> Self {
        Options {
            heavy_load: self.heavy_load,
            // The system's own connects are the same with the driver as without.
            windows_driver: cfg!(windows) && self.windows_driver && !self.syn_socket,
            syn_socket: cfg!(windows) && self.syn_socket,
        }
    }
}

/// One process's access to the network. All calls come from one thread; none blocks except [`Network::poll`].
///
/// Sockets are opened when first needed, per address family, and shared by everything that follows.
pub trait Network {
    /// The monotonic clock that all [`Time`]s of this network are on.
    fn now(&self) -> Time;

    /// A handle that makes a running or the next [`Network::poll`] return early.
    fn waker(&self) -> Waker;

    /// Opens what probing `target`'s family needs, so that permission problems show before anything is sent, and returns
    /// the source address that the kernel would use for `target`.
    ///
    /// # Errors
    /// No permission (with a hint that says how to get it), no route, interface down, too many open files.
    fn prepare(&mut self, target: IpAddr) -> Result<IpAddr, NetError>;

    /// Reserves a local port on `source` until [`Network::release_port`], such that replies to it are captured and no
    /// other process can use it.
    ///
    /// # Errors
    /// No port left, too many open files.
    fn reserve_port(&mut self, transport: Transport, source: IpAddr) -> Result<u16, NetError>;

    /// Gives a reserved port back. Unknown ports are ignored.
    fn release_port(&mut self, transport: Transport, source: IpAddr, port: u16);

    /// Reserves the identifier of echo requests from `source` until [`Network::release_identifier`], where the kernel hands
    /// them out. `None`: any identifier will do, and nothing needs to be released.
    ///
    /// # Errors
    /// No permission (with a hint that says how to get it), none left, too many open files.
    fn reserve_identifier(&mut self, source: IpAddr) -> Result<Option<u16>, NetError> {
        let _ = source;
        Ok(None)
    }

    /// Gives a reserved identifier back. Unknown ones are ignored.
    fn release_identifier(&mut self, source: IpAddr, identifier: u16) {
        let _ = (source, identifier);
    }

    /// Sends one probe now and returns when it left.
    ///
    /// # Errors
    /// What the kernel says; [`std::io::ErrorKind::WouldBlock`] or `ENOBUFS` mean "later".
    fn send(&mut self, probe: &Probe, token: Token) -> Result<SendStamp, NetError>;

    /// Begins a TCP connection from the reserved port `local` to `remote`; the outcome is an event.
    ///
    /// # Errors
    /// What can be told at once: no route, too many open files.
    fn connect(&mut self, id: ConnectionId, local: SocketAddr, remote: SocketAddr) -> Result<(), NetError>;

    /// Closes a connection at once (RST, no lingering state). Unknown ids are ignored. The port stays reserved.
    fn disconnect(&mut self, id: ConnectionId);

    /// Waits until something happens, `deadline` passes (`None`: no deadline; a past deadline: do not wait) or the waker
    /// is called, then delivers every event that is ready, up to a bounded batch.
    ///
    /// # Errors
    /// Only when capture is broken for good (for instance the network namespace is gone).
    fn poll(
        &mut self,
        deadline: Option<Time>,
        events: &mut dyn FnMut(NetworkEvent<'_>),
    ) -> Result<(), NetError>;

    /// Nothing is probed until the next [`Network::prepare`], and nobody calls [`Network::poll`] meanwhile: a backend that can
    /// stops capturing.
    fn rest(&mut self) {}

    /// Counters since this network was opened.
    fn counters(&self) -> Counters;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_windows_make_no_difference_elsewhere() {
        let all = Options {
            heavy_load: true,
            windows_driver: true,
            syn_socket: true,
        };
        let effective = all.effective();
        assert!(effective.heavy_load && !effective.windows_driver);
        assert_eq!(effective.syn_socket, cfg!(windows));
        let driver = Options {
            syn_socket: false,
            ..all
        };
        assert_eq!(driver.effective().windows_driver, cfg!(windows));
    }
}
