//! What this host does with what it sends: routing rules, default routes, translation.
//!
//! Facts only. What they mean for a trace is for those who show them.

use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// What this host does with what it sends.
#[derive(Debug)]
pub struct LocalHost {
    /// IPv4.
    pub v4: Routing,
    /// IPv6.
    pub v6: Routing,
    /// Rules that translate addresses or ports.
    pub translation: Translation,
}

/// How one address family is routed.
#[derive(Debug)]
pub struct Routing {
    /// The address from which packets leave to somewhere else, without any choice; `None`: they do
    /// not leave.
    pub source: Option<IpAddr>,
    /// Rules with conditions, in the order in which the kernel asks them. Those whose only
    /// condition is the destination are left out: they are routes like others.
    pub rules: io::Result<Vec<Rule>>,
    /// Routes of all tables.
    pub routes: io::Result<Routes>,
    /// Which fields of a packet choose among several next hops: `fib_multipath_hash_policy`
    /// (`Documentation/networking/ip-sysctl.rst`).
    pub hash_policy: Option<u8>,
}

/// The routes of one address family.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Routes {
    /// Those to everywhere, as the kernel lists them.
    pub default: Vec<DefaultRoute>,
    /// Where else the main table leads to beyond this host's own networks.
    pub onward: Vec<Prefix>,
}

/// A route to everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultRoute {
    /// The number of its routing table.
    pub table: u32,
    /// Of several in a table, the kernel takes the one with the lowest.
    pub metric: u32,
    /// More than one: flows are spread over them.
    pub hops: Vec<NextHop>,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHop {
    /// The interface's name.
    pub interface: String,
    /// `None`: everybody is a neighbour there, as in a tunnel.
    pub gateway: Option<IpAddr>,
    /// The kernel does not use it: the interface is down.
    pub is_dead: bool,
}

/// Addresses that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// The first of them.
    pub address: IpAddr,
    /// How many bits are alike.
    pub length: u8,
}

/// A routing rule (ip-rule(8)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Rules with lower numbers are asked first.
    pub priority: u32,
    /// It holds for packets that fit all of these.
    pub conditions: Vec<Condition>,
    /// It holds for all others instead.
    pub is_inverted: bool,
    /// What becomes of such packets.
    pub action: RoutingAction,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoutingAction {
    /// Looks up the route in this table, and goes on with the next rule when there is none.
    Table(u32),
    /// Looks up the route in the table of the interface's VRF.
    TableOfVrf,
    /// Drops or refuses them.
    Refuse,
    /// Goes on with the rule that has this number.
    GoTo(u32),
    /// Something else, or nothing.
    Other,
}

/// What a rule depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Source address.
    From(Prefix),
    /// Destination address.
    To(Prefix),
    /// The interface that the packet came in by; `lo`: this host sends it.
    ComesIn(String),
    /// The interface that the socket is bound to.
    BoundTo(String),
    /// Mark of the packet, as far as the mask covers it.
    Mark {
        /// What it must be.
        value: u32,
        /// The bits that count.
        mask: u32,
    },
    /// Who sends.
    Users(RangeInclusive<u32>),
    /// IP protocol number.
    Protocol(u8),
    /// Local ports.
    SourcePorts(RangeInclusive<u16>),
    /// Remote ports.
    TargetPorts(RangeInclusive<u16>),
    /// Type of service, or traffic class.
    TypeOfService(u8),
    /// The interface belongs to a VRF.
    InVrf,
    /// Something newer than this program.
    Unknown,
}

/// Rules that translate what this host sends.
#[derive(Debug)]
pub struct Translation {
    /// Chains of nftables with at least one rule, at the hooks that this host's packets pass.
    pub chains: io::Result<Vec<NatChain>>,
    /// Whether the older iptables has a table for translation, by address family: IPv4, IPv6. It
    /// may be empty.
    pub tables: [io::Result<bool>; 2],
}

/// A chain of rules that translate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatChain {
    /// As in `nft list chain`: `ip nat POSTROUTING`.
    pub name: String,
    /// Where packets meet it.
    pub hook: Hook,
    /// How many rules it has.
    pub rules: u32,
}

/// Where this host's packets meet a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Before they are routed: it may change where they go.
    Output,
    /// When they leave: it may change where they come from.
    Postrouting,
}
