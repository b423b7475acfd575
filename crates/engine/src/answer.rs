//! What a trace found.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use traceroute_wire::{IcmpError, MplsStack};

use crate::cause::Losses;
use crate::error::NetError;
use crate::multipath::PathsResult;

/// The answer to a probe: the one type for it from here to whoever asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Who answered.
    pub address: IpAddr,
    /// From the probe leaving to the answer arriving; never zero. `None`: several attempts were on
    /// their way, and the answer does not tell which one it is to (Karn and Partridge, SIGCOMM
    /// 1987).
    pub rtt: Option<Duration>,
    /// The answer is the destination's.
    pub destination: bool,
    /// The ICMP error that is the answer; `None` when the destination answered in its own protocol.
    pub error: Option<IcmpError>,
    /// TTL of the answer itself on arrival, in hops; 0 when unknown.
    pub reply_ttl: u8,
    /// TTL in the quoted packet, in hops; `None` when there is no quote, or the kernel keeps it to
    /// itself.
    pub quoted_ttl: Option<u8>,
    /// MPLS labels of the router.
    pub mpls: MplsStack,
    /// The RTT is between two kernel timestamps; otherwise the send time was taken just before the
    /// system call.
    pub kernel_stamped: bool,
    /// Which attempt at this TTL was answered, from 0; `None` when that is not known.
    pub attempt: Option<u8>,
    /// The quoted packet is not as it was sent, but as a NAT on the way has left it: another
    /// source, or a checksum that does not belong to it.
    pub translated: bool,
}

impl Answer {
    /// A router's answer (`error`), or the destination's own, to the first probe at its TTL. No
    /// more is known of it.
    pub fn new(address: IpAddr, rtt: Option<Duration>, error: Option<IcmpError>) -> Self {
        Answer {
            address,
            rtt,
            destination: error.is_none(),
            error,
            reply_ttl: 0,
            quoted_ttl: None,
            mpls: MplsStack::default(),
            kernel_stamped: true,
            attempt: Some(0),
            translated: false,
        }
    }

    /// A router or firewall refuses to forward the probe.
    pub fn is_refusal(&self) -> bool {
        !self.destination && matches!(self.error, Some(IcmpError::Unreachable { .. }))
    }
}

/// One TTL of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// TTL, in hops.
    pub ttl: u8,
    /// Who answered; `None`: nobody in time.
    pub answer: Option<Answer>,
    /// Probes sent with this TTL.
    pub attempts: u8,
    /// Those without an answer, by cause; those included that this machine refused to send.
    pub lost: Losses,
    /// The first TTL whose answer shows that a NAT has translated the probe.
    pub nat: bool,
}

/// Whether a run knows how far away its destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distance {
    /// It does: what is nearer is not the destination. Also where the destination did not answer at
    /// all.
    Known,
    /// The destination answered, but may be nearer than where it did.
    Unknown,
}

/// Why a run ended where it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The destination answered.
    Destination,
    /// A router or firewall refuses to forward probes.
    Refused {
        /// Who; `None` where that is kept private.
        from: Option<IpAddr>,
        /// Code of the destination unreachable.
        code: u8,
    },
    /// The highest TTL to probe was reached.
    MaxTtl,
    /// Too many TTLs in a row were silent, and the caller wants no more of them.
    GapLimit,
}

impl End {
    /// Nobody said that the path ends here.
    pub(crate) fn is_open(self) -> bool {
        matches!(self, End::MaxTtl | End::GapLimit)
    }
}

/// The result of a run.
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
    /// One entry per TTL, from the first probed to the one where the run ended.
    pub hops: Vec<Hop>,
    /// Probes that left.
    pub probes_sent: u32,
    /// Whether the destination may be nearer than it seems.
    pub distance: Distance,
    /// Why the list of hops ends.
    pub end: End,
    /// Attempts cannot be told apart here, so fewer were made than asked for.
    pub retries_limited: bool,
}

/// The result of a series of end-to-end probes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndToEndResult {
    /// What became of each probe that left, in the order of sending.
    pub probes: Vec<Option<Duration>>,
    /// Those without an answer, by cause.
    pub lost: Losses,
    /// Probes that this machine refused to send; not among `probes`.
    pub refused: u32,
    /// Probes not sent, because the target's limit on answers left no time for them.
    pub unsent: u32,
    /// The time between two answers that the target's limit allows, if it limits them.
    pub limit: Option<Duration>,
}

/// What a finished trace has to say.
#[derive(Debug, Clone, PartialEq)]
pub enum TraceOutcome {
    /// Of a run.
    Run(TraceResult),
    /// Of end-to-end probes.
    EndToEnd(EndToEndResult),
    /// Of a discovery of all paths.
    Paths(Box<PathsResult>),
}

/// A hop as it is found, for progress displays. A discovery of paths tells of each flow, and again
/// of a flow that it repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundHop {
    /// Which flow of the trace, from 0.
    pub flow: u32,
    /// TTL, in hops.
    pub ttl: u8,
    /// The answer.
    pub answer: Answer,
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
