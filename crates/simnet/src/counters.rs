//! What really happened, for assertions.

use std::collections::BTreeMap;

/// Why a packet went no further, or an answer was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dropped {
    /// The IPv4 header, ICMP, UDP or TCP checksum is wrong.
    WrongChecksum,
    /// Lost on the link towards the node.
    LostForward,
    /// Lost on the link from the node back to the client.
    LostBack,
    /// The node does not answer such packets.
    Silent,
    /// An ICMP error was not sent because of a rate limit.
    RateLimited,
    /// RFC 1122 §3.2.2 forbids an answer: the packet is itself an ICMP error, or a fragment.
    NoAnswerAllowed,
    /// Blocked by the topology.
    Blocked,
    /// Nobody has the destination address.
    NoRoute,
    /// The packet is a fragment, and hosts here do not reassemble.
    Fragment,
    /// The packet makes no sense to a host: cut short, an unknown type.
    NotUnderstood,
    /// A reply's own TTL ran out on its way back.
    TtlExpiredBack,
    /// Nothing to translate the packet to.
    NoTranslation,
    /// A TCP segment older than the connection's timestamps allow (RFC 7323 §5.3).
    Paws,
    /// A TCP segment without the timestamps that were negotiated (RFC 7323 §3.2).
    NoTimestamps,
    /// A TCP segment outside the window.
    OutsideWindow,
    /// A server that ignores data beyond a gap.
    OutOfOrder,
    /// More connections than a simulated server keeps.
    TooManyConnections,
}

/// Counters of one router or target.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counters {
    /// Packets from the client that arrived.
    pub seen: u64,
    /// Packets from the client that were passed on.
    pub forwarded: u64,
    /// Packets that the node itself sent, late duplicates included.
    pub answered: u64,
    /// Everything that went no further.
    pub dropped: BTreeMap<Dropped, u64>,
}

impl Counters {
    /// How many were dropped for this reason.
    pub fn dropped(&self, reason: Dropped) -> u64 {
        self.dropped.get(&reason).copied().unwrap_or(0)
    }

    pub(crate) fn drop(&mut self, reason: Dropped) {
        *self.dropped.entry(reason).or_default() += 1;
    }
}
