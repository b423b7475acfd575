//! How packets leave this host.

use std::net::IpAddr;
use std::num::NonZeroU32;

use crate::{Capabilities, Transport};

/// How packets leave this host, as far as that is not left to its routing tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Egress {
    /// The source address: one of this host's.
    pub source: Option<IpAddr>,
    /// The index of the outgoing interface; also the zone of a link-local target.
    pub interface: Option<NonZeroU32>,
    /// The mark that routing rules and firewalls of this host see (Linux).
    pub mark: Option<NonZeroU32>,
}

/// A flow that is to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowRequest {
    /// Where its probes go.
    pub target: IpAddr,
    /// `None`: ICMP.
    pub transport: Option<Transport>,
    /// The target's port; 0 for ICMP.
    pub port: u16,
    /// How its packets leave.
    pub egress: Egress,
}

/// A flow that was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFlow {
    /// Which way its packets leave.
    pub route: Route,
    /// Its reserved port or echo identifier; `None`: any identifier will do.
    pub number: Option<u16>,
    /// What can be done with its probes.
    pub capabilities: Capabilities,
}

/// Which way the packets of a flow leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Route {
    /// Their source address.
    pub source: IpAddr,
    /// The index of the interface that they are bound to; 0: the routing tables decide for each.
    pub interface: u32,
    /// The mark that routing rules and firewalls of this host see; 0: none.
    pub mark: u32,
}
