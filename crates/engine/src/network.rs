//! The seam between the engine and the operating system.
//!
//! The engine owns the trait, its events and its errors; `net` implements them. [`Network`] speaks
//! of probes and replies, not of bytes. A raw backend encodes and decodes with `wire`. A backend
//! that lets the kernel build packets and match answers reports [`NetworkEvent::Answered`] with the
//! probe's token instead. `Capabilities` say how backends differ where a method must know.
//!
//! There is one way to probe:
//!
//! 1. [`Network::open_flow`] takes a [`FlowRequest`] (target, transport, port, egress) and gives an
//!    [`OpenFlow`]: its [`Route`] (source, interface, mark), its port or echo identifier if the
//!    backend reserves one, and its capabilities.
//! 2. [`Network::send_on`] sends a probe by that route.
//! 3. [`Network::close_flow`] releases what was reserved.

use std::net::{IpAddr, SocketAddr};
use std::ops::AddAssign;
use std::sync::Arc;

use traceroute_wire::{IcmpError, Ignored, MplsStack, Probe, Reply};

use crate::{FlowRequest, NetError, OpenFlow, Route, Time};

/// Names a probe between [`Network::send_on`] and the events about it. Opaque to the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token {
    /// The trace.
    pub trace: u64,
    /// The probe within the trace.
    pub probe: u64,
}

/// Names a connection between [`Network::connect`] and the events about it. Chosen by the engine,
/// unique in the process.
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
    /// The clock just before the system call. A kernel timestamp may follow as
    /// [`NetworkEvent::Sent`].
    pub at: Time,
}

/// What happened on the network. Times are when the kernel saw it, not when the process got around
/// to reading it.
#[derive(Debug)]
pub enum NetworkEvent<'a> {
    /// The kernel's own timestamp of a probe leaving: better than [`SendStamp::at`]. Delivered
    /// before any reply that the probe caused; it does not end a wait by itself, and may never
    /// come.
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
    /// The kernel itself says which probe was answered (backends that probe through ordinary
    /// sockets).
    Answered {
        /// The probe.
        token: Token,
        /// The answer.
        answer: MatchedReply,
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

/// An answer that the kernel matched to its probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatchedReply {
    /// Who answered.
    pub from: IpAddr,
    /// `None`: the target's own answer (echo reply, SYN-ACK, RST, UDP datagram). Otherwise the ICMP
    /// error.
    pub error: Option<IcmpError>,
    /// TTL or hop limit of the answer itself on arrival, in hops; 0 when the kernel does not tell.
    pub reply_ttl: u8,
    /// MPLS labels of the router, as far as the kernel tells.
    pub mpls: MplsStack,
}

impl MatchedReply {
    /// An answer about which no more is known.
    pub fn new(from: IpAddr, error: Option<IcmpError>) -> Self {
        MatchedReply {
            from,
            error,
            reply_ttl: 0,
            mpls: MplsStack::default(),
        }
    }
}

/// What a backend can do with one kind of probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// An answer tells which attempt at a TTL it is to.
    ///
    /// Otherwise an answer to an earlier attempt may be reported as the answer to the latest one.
    pub tells_attempts: bool,
    /// The system itself repeats a probe that was not answered.
    pub retransmits: bool,
    /// Packets are seen after this host's own address translation: answers are addressed to the
    /// source address and port that the probe was given. `false`: before it, or not known.
    pub sees_after_nat: bool,
    /// A trace's probe must be over before its next one is sent: sending the next one ends it.
    pub one_at_a_time: bool,
}

impl Capabilities {
    /// Packets are sent and captured as they are.
    pub const RAW: Capabilities = Capabilities {
        tells_attempts: true,
        retransmits: false,
        sees_after_nat: false,
        one_at_a_time: false,
    };
}

/// Counters of a backend since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NetworkCounters {
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
    /// Replies that came in and that this host itself dropped: a firewall rule, or `rp_filter`
    /// (Linux, raw sockets).
    pub dropped_here: u64,
}

impl AddAssign for NetworkCounters {
    fn add_assign(&mut self, other: NetworkCounters) {
        self.captured += other.captured;
        self.kernel_drops += other.kernel_drops;
        self.sent += other.sent;
        self.kernel_send_stamps += other.kernel_send_stamps;
        self.sockets += other.sockets;
        self.reserved_ports += other.reserved_ports;
        self.dropped_here += other.dropped_here;
    }
}

/// Wakes a thread that waits in [`Network::poll`]. Callable from any thread.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// One process's access to the network. All calls come from one thread; none blocks except
/// [`Network::poll`].
///
/// Sockets are opened when first needed, per address family, and shared by everything that follows.
pub trait Network {
    /// The monotonic clock that all [`Time`]s of this network are on.
    fn now(&self) -> Time;

    /// A handle that makes a running or the next [`Network::poll`] return early.
    fn waker(&self) -> Waker;

    /// Opens a flow: opens what probing the target's family needs, so that permission problems show
    /// before anything is sent, finds the flow's way, and reserves its port or echo identifier. To
    /// be closed with [`Network::close_flow`].
    ///
    /// Until then replies to a reserved port are captured, and no other process can use it. Where
    /// any echo identifier will do, none is reserved: [`OpenFlow::number`] is `None`.
    ///
    /// # Errors
    /// - No permission (with a hint that says how to get it).
    /// - No route, interface down, a choice of [`Egress`](crate::Egress) that this system cannot
    ///   make: [`Operation::Route`](crate::Operation::Route).
    /// - No port left, too many open files.
    fn open_flow(&mut self, request: &FlowRequest) -> Result<OpenFlow, NetError>;

    /// Gives back what a flow reserved. Flows that are not open are ignored.
    fn close_flow(&mut self, request: &FlowRequest, flow: &OpenFlow);

    /// Sends one probe now, the way that its flow takes, and returns when it left.
    ///
    /// # Errors
    /// What the kernel says; [`std::io::ErrorKind::WouldBlock`] and [`NetError::is_queue_full`]
    /// mean "later".
    fn send_on(&mut self, probe: &Probe, route: &Route, token: Token) -> Result<SendStamp, NetError>;

    /// Whether packets of this flow do not leave this host because the target, or the gateway to
    /// it, answers no ARP (RFC 826) or neighbour solicitation (RFC 4861), or has not done so yet.
    /// `false` also where that is not known. The flow may have been closed.
    fn lacks_neighbour(&mut self, request: &FlowRequest, flow: &OpenFlow) -> bool {
        let _ = (request, flow);
        false
    }

    /// Begins a TCP connection from a flow's reserved port, `local`, to `remote`; the outcome is an
    /// event.
    ///
    /// # Errors
    /// What can be told at once: no route, too many open files.
    fn connect(&mut self, id: ConnectionId, local: SocketAddr, remote: SocketAddr) -> Result<(), NetError>;

    /// Closes a connection at once (RST, no lingering state). Unknown ids are ignored. The port
    /// stays reserved.
    fn disconnect(&mut self, id: ConnectionId);

    /// Waits until something happens, `deadline` passes (`None`: no deadline; a past deadline: do
    /// not wait) or the waker is called, then delivers every event that is ready, up to a bounded
    /// batch.
    ///
    /// # Errors
    /// Only when capture is broken for good (for instance the network namespace is gone).
    fn poll(
        &mut self,
        deadline: Option<Time>,
        events: &mut dyn FnMut(NetworkEvent<'_>),
    ) -> Result<(), NetError>;

    /// No flow is open until the next [`Network::open_flow`], and nobody calls [`Network::poll`]
    /// meanwhile: a backend that can stops capturing.
    fn rest(&mut self) {}

    /// Counters since this network was opened.
    fn counters(&self) -> NetworkCounters;
}
