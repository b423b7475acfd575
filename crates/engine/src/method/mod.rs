//! The probing methods: how each writes a flow's probes, and what answers them.
//!
//! Quotes are matched by marks: see `flow`. The TTL and attempt of a quoted probe follow from:
//!
//! | probe | TTL and attempt |
//! |---|---|
//! | ICMP | sequence number: TTL in the low byte, attempt in the high one |
//! | UDP | tag or identification; over IPv6 also the length, unless the caller chose it |
//! | TCP SYN | sequence number for the TTL; identification or timestamp for the attempt |
//! | TCP SACK | the same |
//!
//! Answers from the target itself are found by addresses and ports (or the echo identifier). Then:
//!
//! - An echo reply must return the probe's random cookie.
//! - A SYN-ACK or RST must acknowledge the sequence number of its own SYN.
//! - The left edge of a SACK block names the byte that arrived.
//! - A bare RST carries no identifier. It counts only while a single TTL is unanswered.
//! - A datagram from a UDP service carries none either: see `service`.

pub(crate) mod icmp;
pub(crate) mod sack;
pub(crate) mod syn;
pub(crate) mod udp;

use std::time::Duration;

use rand::rngs::StdRng;
use traceroute_wire::{ProbeKind, Quoted, Reply};

use crate::Time;
use crate::answer::TraceError;
use crate::flow::{FlowFields, ProbeId};
use crate::key::Key;
use crate::network::Transport;

/// How a trace probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// ICMP echo requests, in parallel.
    Icmp,
    /// UDP datagrams, in parallel.
    Udp,
    /// TCP SYN segments, one after the other unless there is no delay between them.
    TcpSyn,
    /// TCP bytes answered by selective acknowledgments, in parallel.
    TcpSack,
}

impl Method {
    /// All of them.
    pub const ALL: [Method; 4] = [Method::Udp, Method::Icmp, Method::TcpSyn, Method::TcpSack];

    /// Its name in documents.
    pub const fn name(self) -> &'static str {
        match self {
            Method::Icmp => "icmp",
            Method::Udp => "udp",
            Method::TcpSyn => "tcp_syn",
            Method::TcpSack => "tcp_sack",
        }
    }

    /// Time between probes: 50 ms, for SACK 10 ms.
    pub fn default_delay(self) -> Duration {
        match self {
            Method::TcpSack => Duration::from_millis(10),
            _ => Duration::from_millis(50),
        }
    }

    /// Whose ports a method's probes use; none for ICMP.
    pub fn transport(self) -> Option<Transport> {
        match self {
            Method::Icmp => None,
            Method::Udp => Some(Transport::Udp),
            Method::TcpSyn | Method::TcpSack => Some(Transport::Tcp),
        }
    }

    /// Whether runs probe one TTL after the other, as long as there is a delay between probes.
    pub(crate) fn is_serial(self) -> bool {
        self == Method::TcpSyn
    }
}

/// What a packet from the target means.
#[derive(Debug)]
pub(crate) enum ReplyMeaning {
    /// Nothing.
    Ignore,
    /// It names the flow but none of its probes.
    Reject,
    /// The destination's answer to a probe with this TTL, and to which attempt if that is known.
    Answer { ttl: u8, attempt: Option<u8> },
    /// The destination's answer to the probe with TTL `newest`, which shows that this TTL's has
    /// arrived as well.
    Covers { ttl: u8, newest: u8 },
    /// The destination's answer to the only unanswered TTL, if there is just one: it carries no
    /// identifier.
    AnswerIfSole,
    /// The destination's answer to one of the probes: it carries no identifier.
    Unidentified,
    /// The handshake that the method waits for; probes and keys are known from now on.
    Ready,
    /// The trace cannot work.
    Fail(TraceError),
}

/// In what a quoted packet agrees with a flow; see [`flow`](crate::flow).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Marks {
    /// How many marks that all probes share agree.
    pub of_flow: u32,
    /// The probes that marks name which each probe has for itself.
    pub of_probe: [Option<ProbeId>; 2],
    /// What else tells the TTL, and perhaps the attempt, but is too easily guessed to count as a
    /// mark.
    pub hint: Option<(u8, Option<u8>)>,
    /// A NAT has left its traces.
    pub translated: bool,
}

/// Which probe a quoted packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QuotedProbe {
    pub ttl: u8,
    pub attempt: Option<u8>,
    /// A NAT has left its traces.
    pub translated: bool,
}

/// One probing method, for one flow: its own identifiers and the meaning of answers.
pub(crate) trait MethodState: Send {
    /// Whether a handshake comes before the first probe.
    fn needs_handshake(&self) -> bool {
        false
    }
    /// The keys of everything that can answer this flow, as far as they are known.
    fn keys(&self, fields: &FlowFields) -> [Option<Key>; 3];
    /// The transport part of a probe. Only called when a handshake, if needed, is done.
    fn kind(&self, fields: &FlowFields, id: ProbeId, now: Time) -> ProbeKind;
    /// In what a quoted packet agrees with this flow; `None` when it is of another protocol.
    fn marks(&self, fields: &FlowFields, quoted: &Quoted) -> Option<Marks>;
    /// What a packet from the target means.
    fn direct(&mut self, fields: &FlowFields, reply: &Reply, at: Time) -> ReplyMeaning;
    /// The connection that the method waits for is there: what the handshake seen so far means.
    fn connected(&mut self) -> ReplyMeaning {
        ReplyMeaning::Ignore
    }
    /// Whether a time exceeded from the target itself is the destination's answer.
    fn time_exceeded_from_target_is_destination(&self) -> bool {
        false
    }
    /// Called when the trace ends without an answer from the destination: perhaps the method does
    /// not work here.
    fn failure_without_destination(&self) -> Option<TraceError> {
        None
    }
}

/// The method's state for a new flow, with fresh identifiers. The one place where methods are
/// listed.
pub(crate) fn new(method: Method, started: Time, rng: &mut StdRng) -> Box<dyn MethodState> {
    match method {
        Method::Icmp => Box::new(icmp::Icmp::new(rng)),
        Method::Udp => Box::new(udp::Udp::new(rng)),
        Method::TcpSyn => Box::new(syn::Syn::new(rng)),
        Method::TcpSack => Box::new(sack::Sack::new(started)),
    }
}

/// The TTL that `value` stands for when `base` + TTL was sent.
fn offset_ttl(value: u32, base: u32) -> Option<u8> {
    u8::try_from(value.wrapping_sub(base))
        .ok()
        .filter(|ttl| *ttl != 0)
}
