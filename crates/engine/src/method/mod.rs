//! The probing methods.

pub(crate) mod icmp;
pub(crate) mod sack;
pub(crate) mod syn;
pub(crate) mod udp;

use std::net::IpAddr;

use rand::RngExt;
use rand::rngs::StdRng;
use traceroute_net::{Time, Transport};
use traceroute_wire::{ProbeKind, Quoted, Reply};

use crate::key::Key;
use crate::result::TraceError;
use crate::run::Method;

/// The addresses and ports that all probes of a trace share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flow {
    pub source: IpAddr,
    /// For ICMP the echo identifier that is reserved, or 0.
    pub source_port: u16,
    pub destination: IpAddr,
    /// 0 for ICMP.
    pub destination_port: u16,
    /// IPv6 flow label, random per trace.
    pub flow_label: u32,
}

impl Flow {
    /// Whether the quote is of a packet that nobody on the way has translated.
    pub(crate) fn is_source_of(&self, quoted: &Quoted, port: u16) -> bool {
        quoted.source == self.source && port == self.source_port
    }
}

/// How a method's probes follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// One per delay without waiting for answers.
    Parallel,
    /// The next one after the answer to the last, or its timeout.
    Serial,
}

/// What a method sets in a probe: the IPv4 identification and the transport part.
pub(crate) struct Outline {
    pub identification: u16,
    pub kind: ProbeKind,
}

/// What a packet from the target means.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Nothing.
    Ignore,
    /// It names the trace but none of its probes.
    Reject,
    /// The destination's answer to this TTL's probe.
    Answer { ttl: u8 },
    /// The destination's answer to the probe with TTL `newest`, which shows that this TTL's has arrived as well.
    Covers { ttl: u8, newest: u8 },
    /// The destination's answer to the only unanswered probe, if there is just one: it carries no identifier.
    AnswerIfSole,
    /// The destination's answer to one of the probes in the order they were sent: it carries no identifier.
    AnswerInOrder,
    /// The handshake that the method waits for; probes and keys are known from now on.
    Ready,
    /// The trace cannot work.
    Fail(TraceError),
}

/// Which probe a quoted packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QuotedProbe {
    pub ttl: u8,
    /// A NAT has rewritten the quote's source address or port.
    pub translated: bool,
}

/// One probing method, for one trace: its identifiers and the meaning of answers.
pub(crate) trait Probing: Send {
    /// How probes follow each other.
    fn strategy(&self) -> Strategy;
    /// Whether a handshake comes before the first probe.
    fn needs_handshake(&self) -> bool {
        false
    }
    /// What to report as source port.
    fn reported_source_port(&self, flow: &Flow) -> u16 {
        flow.source_port
    }
    /// The keys of everything that can answer this trace, as far as they are known.
    fn keys(&self, flow: &Flow) -> [Option<Key>; 3];
    /// The probe for `ttl`. Only called when a handshake, if needed, is done.
    fn outline(&self, flow: &Flow, ttl: u8, now: Time) -> Outline;
    /// The TTL whose probe is quoted; `None` when the quote is not of one of ours.
    fn quoted(&self, flow: &Flow, quoted: &Quoted) -> Option<QuotedProbe>;
    /// What a packet from the target means.
    fn direct(&mut self, flow: &Flow, reply: &Reply, at: Time) -> Verdict;
    /// The connection that the method waits for is there: what the handshake seen so far means.
    fn connected(&mut self) -> Verdict {
        Verdict::Ignore
    }
    /// Whether a time exceeded from the target itself is the destination's answer.
    fn time_exceeded_from_target_is_destination(&self) -> bool {
        false
    }
    /// Called when the trace ends without an answer from the destination: perhaps the method does not work here.
    fn failure_without_destination(&self) -> Option<TraceError> {
        None
    }
}

/// The method's state for a new trace, with fresh identifiers, except for the echo identifier if that is not 0. The one
/// place where methods are listed.
pub(crate) fn new(method: Method, echo_identifier: u16, started: Time, rng: &mut StdRng) -> Box<dyn Probing> {
    match method {
        Method::Icmp => Box::new(icmp::Icmp::new(echo_identifier, rng)),
        Method::Udp => Box::new(udp::Udp::new(rng)),
        Method::TcpSyn => Box::new(syn::Syn::new(rng)),
        Method::TcpSack => Box::new(sack::Sack::new(started, rng)),
    }
}

/// Whose ports a method's probes use.
pub(crate) fn transport(method: Method) -> Option<Transport> {
    match method {
        Method::Icmp => None,
        Method::Udp => Some(Transport::Udp),
        Method::TcpSyn | Method::TcpSack => Some(Transport::Tcp),
    }
}

/// An IPv4 identification such that adding any TTL does not reach 0, which the kernel would replace.
fn identification_base(rng: &mut StdRng) -> u16 {
    rng.random_range(1..=u16::MAX - 255)
}

/// The TTL that `value` stands for when `base` + TTL was sent.
fn offset_ttl(value: u32, base: u32) -> Option<u8> {
    u8::try_from(value.wrapping_sub(base))
        .ok()
        .filter(|ttl| *ttl != 0)
}
