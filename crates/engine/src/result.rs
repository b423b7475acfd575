//! What a trace found.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use traceroute_net::NetError;
use traceroute_wire::{IcmpError, MplsStack};

/// The result of one trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceResult {
    /// Source address of the probes.
    pub source: IpAddr,
    /// Source port of the probes; for ICMP the echo identifier.
    pub source_port: u16,
    /// Target address.
    pub destination: IpAddr,
    /// Probed port; 0 for ICMP.
    pub destination_port: u16,
    /// One entry per TTL, from the first probed to the lowest for which the destination answered, or to the highest.
    pub hops: Vec<Hop>,
    /// Probes that left.
    pub probes_sent: u32,
}

/// One TTL of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// TTL, in hops.
    pub ttl: u8,
    /// Who answered; `None`: nobody in time.
    pub answer: Option<HopAnswer>,
}

/// The answer to one probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HopAnswer {
    /// Who answered.
    pub address: IpAddr,
    /// From the probe leaving to the answer arriving; never zero.
    pub rtt: Duration,
    /// The answer is the destination's.
    pub destination: bool,
    /// The ICMP error that is the answer; `None` when the destination answered in its own protocol.
    pub error: Option<IcmpError>,
    /// TTL of the answer itself on arrival, in hops; 0 when unknown.
    pub reply_ttl: u8,
    /// TTL in the quoted packet, in hops; `None` when there is no quote, or the kernel keeps it to itself.
    pub quoted_ttl: Option<u8>,
    /// MPLS labels of the router.
    pub mpls: MplsStack,
    /// The RTT is between two kernel timestamps; otherwise the send time was taken just before the system call.
    pub kernel_stamped: bool,
}

/// A hop as it is found, for progress displays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// TTL, in hops.
    pub ttl: u8,
    /// Who answered.
    pub address: IpAddr,
    /// Round-trip time.
    pub rtt: Duration,
    /// The answer is the destination's.
    pub destination: bool,
}

/// Why a trace has no result. Cheap to clone: one failure may end many traces.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TraceError {
    /// The operating system refused something.
    #[error("{0}")]
    Net(Arc<NetError>),
    /// The target or this system cannot do a SACK traceroute; another method may work.
    #[error("SACK not supported for this target/source: {0}")]
    SackNotSupported(String),
    /// The handshake of a SACK traceroute was not seen.
    #[error("{0}")]
    Handshake(String),
    /// More traces at once than the engine's bound.
    #[error("too many traces at once: the limit is {limit}; try again when some have finished")]
    TooManyTraces {
        /// The bound.
        limit: usize,
    },
    /// The engine stopped while the trace ran.
    #[error("the probing engine stopped")]
    Stopped,
}

impl From<NetError> for TraceError {
    fn from(error: NetError) -> Self {
        TraceError::Net(Arc::new(error))
    }
}
