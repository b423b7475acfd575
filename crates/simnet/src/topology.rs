//! Topologies as data: the TOML model. Every field has a default, so that a file says only what is
//! special.
//!
//! The guide with examples is `docs/simulated-network.md`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

mod check;
mod limits;
mod services;

pub(crate) use limits::{Bucket, Limit, LinuxLimit, Per};
pub(crate) use services::{Port, Tcp, Udp};

/// A simulated network, read from TOML and checked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    #[serde(default)]
    pub(crate) client: Client,
    /// What the last router says about destinations that nobody has; nothing when absent.
    pub(crate) no_route: Option<Unreachable>,
    #[serde(default, rename = "hop")]
    pub(crate) hops: Vec<Hop>,
    #[serde(default, rename = "target")]
    pub(crate) targets: Vec<Spanned<Target>>,
}

/// Why a topology was refused, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}:{line}:{column}: {message}")]
pub struct TopologyError {
    /// The file, as it was named.
    pub name: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, in one line.
    pub message: String,
}

impl Topology {
    /// Reads and checks a topology; `name` goes into errors.
    ///
    /// # Errors
    /// Anything that is no TOML, has an unknown field, a value out of range, or contradicts itself.
    pub fn parse(name: &str, text: &str) -> Result<Self, TopologyError> {
        let fail = |position: usize, message: &str| {
            let before = text.get(..position).unwrap_or(text);
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            TopologyError {
                name: name.to_owned(),
                line: before.matches('\n').count() + 1,
                column: before[line_start..].chars().count() + 1,
                message: message.trim().replace('\n', ", "),
            }
        };
        let topology: Self = toml::from_str(text)
            .map_err(|error| fail(error.span().map_or(0, |span| span.start), error.message()))?;
        check::check(&topology).map_err(|problem| fail(problem.position, &problem.message))?;
        Ok(topology)
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// As [`Topology::parse`]; a file that cannot be read is an error at line 1.
    pub fn load(path: &Path) -> Result<Self, TopologyError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| TopologyError {
            name: name.clone(),
            line: 1,
            column: 1,
            message: format!("cannot read: {error}"),
        })?;
        Self::parse(&name, &text)
    }

    /// Addresses of the client, where the TUN device is.
    pub fn client_addresses(&self) -> Vec<IpAddr> {
        vec![self.client.v4.into(), self.client.v6.into()]
    }

    /// Addresses of the targets, in file order.
    pub fn target_addresses(&self) -> Vec<IpAddr> {
        self.every_target()
            .flat_map(|target| addresses(target.v4.as_ref(), target.v6.as_ref()))
            .collect()
    }

    /// Every address that packets may come from: of routers (NATs, other interfaces, strangers) and
    /// of targets.
    pub fn simulated_addresses(&self) -> Vec<IpAddr> {
        let mut all = self.target_addresses();
        all.extend(self.every_target().flat_map(|target| target.icmp.other_sources()));
        for hop in self.every_hop() {
            all.extend(addresses(hop.v4.as_ref(), hop.v6.as_ref()));
            all.extend(hop.icmp.other_sources());
            all.extend(hop.forge_echo_from);
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    pub(crate) fn every_target(&self) -> impl Iterator<Item = &Target> {
        self.targets.iter().map(Spanned::get_ref)
    }

    /// The hops of the main path and of all branches.
    pub(crate) fn every_hop(&self) -> Vec<&Hop> {
        let mut waiting: Vec<&Hop> = self.hops.iter().rev().collect();
        let mut all = Vec::new();
        while let Some(hop) = waiting.pop() {
            all.push(hop);
            waiting.extend(
                hop.branches
                    .iter()
                    .rev()
                    .flat_map(|branch| branch.hops.iter().rev()),
            );
        }
        all
    }
}

pub(crate) fn addresses(
    v4: Option<&Spanned<Ipv4Addr>>,
    v6: Option<&Spanned<Ipv6Addr>>,
) -> impl Iterator<Item = IpAddr> {
    let v4 = v4.map(|address| IpAddr::V4(*address.get_ref()));
    let v6 = v6.map(|address| IpAddr::V6(*address.get_ref()));
    v4.into_iter().chain(v6)
}

/// Where probes come from.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Client {
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            v4: Ipv4Addr::new(192, 0, 2, 1),
            v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
        }
    }
}

/// Milliseconds, fractions allowed, from 0 to an hour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(try_from = "f64")]
pub(crate) struct Millis(pub(crate) Duration);

impl TryFrom<f64> for Millis {
    type Error = &'static str;

    fn try_from(value: f64) -> Result<Self, Self::Error> {
        if (0.0..=3_600_000.0).contains(&value) {
            Ok(Self(Duration::from_nanos((value * 1e6).round() as u64)))
        } else {
            Err("milliseconds must be from 0 to 3600000")
        }
    }
}

/// A chance from 0 (never) to 1 (always).
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(try_from = "f64")]
pub(crate) struct Chance(pub(crate) f64);

impl TryFrom<f64> for Chance {
    type Error = &'static str;

    fn try_from(value: f64) -> Result<Self, Self::Error> {
        if (0.0..=1.0).contains(&value) {
            Ok(Self(value))
        } else {
            Err("a chance must be from 0 to 1")
        }
    }
}

/// One direction of a link.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Direction {
    /// One way; the node's `delay` when absent.
    pub(crate) delay: Option<Millis>,
    /// Added, evenly distributed from 0 to this. Packets keep their order all the same.
    pub(crate) jitter: Millis,
    pub(crate) loss: Chance,
    /// Which packets are lost for certain, counted from 1 over everything that crosses.
    pub(crate) lose: Vec<u64>,
    pub(crate) duplicate: Chance,
    /// Chance that a packet is held for `reorder_delay` while others overtake it.
    pub(crate) reorder: Chance,
    pub(crate) reorder_delay: Option<Millis>,
}

/// A router, and the link that leads to it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hop {
    pub(crate) name: Spanned<String>,
    pub(crate) v4: Option<Spanned<Ipv4Addr>>,
    pub(crate) v6: Option<Spanned<Ipv6Addr>>,
    /// One-way delay of the link that leads here, in both directions.
    #[serde(default)]
    pub(crate) delay: Millis,
    #[serde(default)]
    pub(crate) forward: Direction,
    #[serde(default)]
    pub(crate) back: Direction,
    /// Sends no ICMP errors.
    #[serde(default)]
    pub(crate) silent: bool,
    #[serde(default)]
    pub(crate) icmp: Icmp,
    /// What it does not let pass.
    #[serde(default, rename = "block")]
    pub(crate) blocks: Vec<Block>,
    /// By how much it lowers the TTL; 0 makes it invisible.
    #[serde(default = "one")]
    pub(crate) ttl_decrement: u8,
    /// Sets the TTL of what it forwards.
    pub(crate) ttl_reset: Option<u8>,
    /// Forwards with TTL 0 instead of answering, so that the next router quotes TTL 0 and appears
    /// twice.
    #[serde(default)]
    pub(crate) zero_ttl_forwarding: bool,
    /// Rewrites the type of service or traffic class of what it forwards.
    pub(crate) traffic_class: Option<u8>,
    /// Rewrites the IPv4 identification of what it forwards with random values.
    pub(crate) random_identification: Option<RandomIdentification>,
    /// Rewrites the IPv6 flow label of what it forwards.
    pub(crate) flow_label: Option<FlowLabel>,
    /// Strips SACK-permitted and timestamps from SYN segments, as some firewalls do.
    #[serde(default)]
    pub(crate) strip_tcp_options: bool,
    /// Answers each echo request that passes with an echo reply from this stranger.
    pub(crate) forge_echo_from: Option<IpAddr>,
    /// Which UDP datagrams that pass are also answered at once in the name of their destination,
    /// counted from 1: with a datagram from the probed port to the source port.
    #[serde(default)]
    pub(crate) forge_udp: Vec<u64>,
    pub(crate) nat: Option<Nat>,
    /// How traffic spreads over `branch`.
    pub(crate) balance: Option<Balance>,
    #[serde(default, rename = "branch")]
    pub(crate) branches: Vec<Branch>,
}

/// One of several ways from a balancing router to the next hop of the path that the router is in.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Branch {
    #[serde(default, rename = "hop")]
    pub(crate) hops: Vec<Hop>,
}

/// What a load balancer hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Balance {
    /// Addresses and protocol.
    Addresses,
    /// Addresses, protocol and TCP or UDP ports.
    Ports,
    /// Addresses, protocol and the first four transport bytes: for ICMP the type, code and
    /// checksum.
    FirstFourBytes,
    /// Addresses and IPv6 flow label (RFC 6438); in IPv4 as `ports`.
    FlowLabel,
    /// Nothing: each packet goes its own way.
    Packet,
    /// Nothing: packets take turns.
    RoundRobin,
}

/// Which IPv4 packets get a random identification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RandomIdentification {
    /// Atomic ones, which are no fragments and have DF set: RFC 6864 §4.1 allows any value there.
    Atomic,
    /// All that are no fragments (pf's `scrub random-id`).
    Unfragmented,
}

/// What an IPv6 flow label becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    expecting = "a flow label is a number from 0 to 1048575, or \"random\""
)]
pub(crate) enum FlowLabel {
    Value(u32),
    Word(Random),
}

/// A value that is drawn for each packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Random {
    Random,
}

/// Source address and port translation.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nat {
    pub(crate) v4: Option<Ipv4Addr>,
    pub(crate) v6: Option<Ipv6Addr>,
    /// Whether ports and echo identifiers change too.
    #[serde(default = "yes")]
    pub(crate) ports: bool,
    /// Short for `quotes`: `translated` or `untranslated`.
    pub(crate) translate_quotes: Option<bool>,
    pub(crate) quotes: Option<Quotes>,
}

impl Nat {
    pub(crate) fn quotes(&self) -> Quotes {
        let named = self.translate_quotes.map(|translate| {
            if translate {
                Quotes::Translated
            } else {
                Quotes::Untranslated
            }
        });
        self.quotes.or(named).unwrap_or_default()
    }
}

/// What a NAT translates back in the quote of an ICMP error. The checksum of a quoted IPv4 header
/// is always right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Quotes {
    /// Address, port or echo identifier, and the checksum that covers them (RFC 5508 §4.2).
    #[default]
    Translated,
    /// Address and port or echo identifier. The inner UDP, TCP or ICMP checksum stays that of the
    /// outside (RFC 3022 §4.3 asks for no more).
    StaleChecksum,
    /// As `StaleChecksum`, with a UDP checksum of 0.
    ZeroChecksum,
    /// Nothing.
    Untranslated,
}

/// How a node sends ICMP errors.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Icmp {
    /// Bytes quoted behind the IP header; when absent as much as fits into 576 bytes (RFC 1812
    /// §4.3.2.3) or 1280 (RFC 4443 §3.1).
    pub(crate) quote: Option<u16>,
    /// Adds an extension structure; implied by `mpls`.
    pub(crate) extension: Option<Extension>,
    pub(crate) mpls: Vec<Mpls>,
    /// TTL in the quote, when not as received.
    pub(crate) quote_ttl: Option<u8>,
    /// Swaps the bytes of the IPv4 total length in the quote, as old BSD systems did.
    pub(crate) quote_length_swapped: bool,
    /// The quote has IPv4 options or an IPv6 extension header, as if the packet had got them on its
    /// way.
    pub(crate) quote_options: bool,
    /// The node's own packets, TCP aside, have IPv4 options or an IPv6 extension header.
    pub(crate) options: bool,
    /// Initial TTL of what the node sends; 255 for routers and 64 for targets when absent.
    pub(crate) ttl: Option<u8>,
    /// Initial TTL as in the packet that is answered.
    pub(crate) ttl_copied: bool,
    /// Replies have this many more routers on their way back than the packet had on its way there.
    pub(crate) extra_hops_back: u8,
    /// Time to generate an error.
    pub(crate) delay: Millis,
    pub(crate) jitter: Millis,
    /// Copies of each error that follow this much later.
    pub(crate) late_duplicates: Vec<Millis>,
    /// On all errors together.
    pub(crate) limit: Option<Limit>,
    pub(crate) time_exceeded_limit: Option<Bucket>,
    pub(crate) unreachable_limit: Option<Bucket>,
    /// About which protocols it sends errors; all when empty.
    pub(crate) answers: Vec<Protocol>,
    /// Chance that it sends none.
    pub(crate) loss: Chance,
    /// Cuts the ICMP message to this many bytes.
    pub(crate) truncate: Option<u16>,
    pub(crate) wrong_checksum: bool,
    /// Source address of errors, when not the node's own: that of another interface.
    pub(crate) from_v4: Option<Ipv4Addr>,
    pub(crate) from_v6: Option<Ipv6Addr>,
}

impl Icmp {
    fn other_sources(&self) -> impl Iterator<Item = IpAddr> {
        self.from_v4
            .map(IpAddr::V4)
            .into_iter()
            .chain(self.from_v6.map(IpAddr::V6))
    }
}

/// Layout of extended ICMP errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Extension {
    /// With the length field of RFC 4884.
    Rfc4884,
    /// As routers did before: the quote padded to 128 bytes, length field zero (RFC 4884 §5.5).
    Legacy,
}

/// An MPLS label stack entry (RFC 3032 §2.1, RFC 4950).
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mpls {
    pub(crate) label: u32,
    #[serde(default)]
    pub(crate) traffic_class: u8,
    #[serde(default = "one")]
    pub(crate) ttl: u8,
}

/// A protocol family, IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Protocol {
    Icmp,
    Udp,
    Tcp,
}

/// What is not let in or through.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Block {
    /// All when empty.
    pub(crate) protocols: Vec<Protocol>,
    /// Destination ports; all when empty.
    pub(crate) ports: Vec<u16>,
    /// Destinations; all when empty.
    pub(crate) to: Vec<IpAddr>,
    /// Only what arrives with this TTL or more.
    pub(crate) from_ttl: Option<u8>,
    /// The error that says so; silence when absent.
    pub(crate) answer: Option<Unreachable>,
    /// In place of `answer`: this code of destination unreachable, in both families.
    pub(crate) code: Option<u8>,
    /// How much later each packet is answered.
    pub(crate) delay: Option<Millis>,
    /// Packets wait as for the link-layer address of a host that is down: all that came in this
    /// time since the first are answered at its end, and the next one begins anew.
    pub(crate) resolve: Option<Millis>,
}

impl Block {
    /// What it says; `None`: nothing.
    pub(crate) fn says(&self) -> Option<Unreachable> {
        self.code.map(Unreachable::Code).or(self.answer)
    }
}

/// Why a destination is unreachable (RFC 792, RFC 1122 §3.2.2.1, RFC 1812 §5.2.7.1, RFC 4443 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Unreachable {
    Net,
    Host,
    Protocol,
    Port,
    NetProhibited,
    HostProhibited,
    AdminProhibited,
    /// IPv6 only, as the following ones.
    BeyondScope,
    SourcePolicy,
    RejectRoute,
    /// Any code, by number.
    #[serde(skip)]
    Code(u8),
}

/// A destination, and the link that leads to it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Target {
    pub(crate) name: Option<Spanned<String>>,
    pub(crate) v4: Option<Spanned<Ipv4Addr>>,
    pub(crate) v6: Option<Spanned<Ipv6Addr>>,
    /// The hop that it is attached to; the last one when absent.
    pub(crate) behind: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) delay: Millis,
    #[serde(default)]
    pub(crate) forward: Direction,
    #[serde(default)]
    pub(crate) back: Direction,
    #[serde(default)]
    pub(crate) icmp: Icmp,
    #[serde(default, rename = "block")]
    pub(crate) blocks: Vec<Block>,
    /// Answers echo requests.
    #[serde(default = "yes")]
    pub(crate) echo: bool,
    #[serde(default)]
    pub(crate) udp: Udp,
    #[serde(default)]
    pub(crate) tcp: Tcp,
}

fn one() -> u8 {
    1
}

fn yes() -> bool {
    true
}
