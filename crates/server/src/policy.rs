//! Which targets may be traced.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::num::NonZeroU32;
use std::sync::LazyLock;

use clap::ValueEnum;
use datadog_traceroute::{Request, interface_index};
use ipnet::IpNet;
use traceroute_net::OwnAddresses;

/// Addresses that may or may not be traced. The default allows all.
///
/// It is asked about the address that will be probed, not about the name in the request, so no name
/// gets around it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Nothing else may be traced, unless empty.
    pub(crate) allow: Vec<Subnet>,
    /// Wins over `allow`.
    pub(crate) deny: Vec<Subnet>,
    /// Deny [`LOCAL`], and the addresses of this machine.
    pub(crate) deny_local: bool,
    /// What clients may choose of how probes leave.
    pub(crate) egress: Choices,
}

/// Some addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subnet {
    addresses: IpNet,
    /// On this interface only, by name or index. Interfaces come and go, so it is looked up each
    /// time.
    zone: Option<String>,
}

impl Subnet {
    fn contains(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// Whether it is about this interface; `None`: nobody knows on which interface the address is.
    fn is_on(&self, interface: Option<NonZeroU32>) -> Option<bool> {
        match &self.zone {
            None => Some(true),
            Some(zone) => {
                let interface = interface?;
                Some(interface_index(zone).is_ok_and(|index| index == interface))
            }
        }
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.addresses.fmt(f)?;
        match &self.zone {
            None => Ok(()),
            Some(zone) => write!(f, "%{zone}"),
        }
    }
}

/// What may be chosen of how probes leave this host. The default is nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Choices {
    pub(crate) source: bool,
    pub(crate) interface: bool,
    pub(crate) fwmark: bool,
}

impl Choices {
    /// What names of parameters allow.
    pub(crate) fn of(parameters: &[EgressParameter]) -> Self {
        let has = |parameter| parameters.contains(&parameter);
        Choices {
            source: has(EgressParameter::Source),
            interface: has(EgressParameter::Interface),
            fwmark: has(EgressParameter::Fwmark),
        }
    }

    /// The first parameter that a request has and may not have. The zone of a link-local target is
    /// part of its address.
    pub(crate) fn refused(self, request: &Request) -> Option<&'static str> {
        [
            ("source", self.source, request.source().is_some()),
            ("interface", self.interface, request.interface().is_some()),
            ("fwmark", self.fwmark, request.fwmark().is_some()),
        ]
        .into_iter()
        .find_map(|(name, is_allowed, is_given)| (is_given && !is_allowed).then_some(name))
    }
}

/// A parameter that chooses how probes leave this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EgressParameter {
    /// The source address.
    Source,
    /// The interface.
    Interface,
    /// The mark.
    Fwmark,
}

/// What `--deny-local` denies besides this machine's own addresses: loopback, link-local, "this
/// network", multicast and broadcast, and where clouds answer questions about their machines.
const LOCAL: [&str; 15] = [
    "127.0.0.0/8",
    "::1/128",
    "0.0.0.0/8",
    "::/128",
    // Link-local, with the metadata service of most clouds at 169.254.169.254.
    "169.254.0.0/16",
    "fe80::/10",
    "224.0.0.0/4",
    "255.255.255.255/32",
    "ff00::/8",
    // Metadata: AWS, Google (two), Oracle, Alibaba, and Azure's host.
    "fd00:ec2::/32",
    "fd20:ce::254/128",
    "192.0.0.192/32",
    "100.100.100.200/32",
    "168.63.129.16/32",
    "fd00:42::42/128",
];

impl Policy {
    /// # Errors
    /// A network of `allow` that is denied as a whole: it would allow nothing.
    pub(crate) fn check(&self) -> Result<(), String> {
        for allowed in &self.allow {
            let applies = |denied: &&Subnet| denied.zone.is_none() || denied.zone == allowed.zone;
            let denied = self.deny.iter().filter(applies);
            let mut networks: Vec<(String, IpNet)> = denied
                .map(|denied| (format!("--deny {denied}"), denied.addresses))
                .collect();
            if self.deny_local {
                let local = LOCAL.iter().filter_map(|network| network.parse().ok());
                networks.extend(local.map(|network| ("--deny-local".to_owned(), network)));
            }
            let covers = |network: &IpNet| network.contains(&allowed.addresses);
            let (mut names, networks): (Vec<_>, Vec<_>) = networks
                .into_iter()
                .filter(|(_, network)| covers(network) || allowed.addresses.contains(network))
                .unzip();
            let names = match networks.iter().position(covers) {
                Some(index) => format!("{} denies", names[index]),
                None if IpNet::aggregate(&networks).iter().any(covers) => {
                    names.dedup();
                    format!("{} deny", names.join(" and "))
                }
                None => continue,
            };
            return Err(format!("--allow {allowed} allows nothing: {names} all of it"));
        }
        Ok(())
    }

    /// Opens what deciding needs.
    pub(crate) fn prepare(&self) {
        if self.deny_local {
            LazyLock::force(&OWN);
        }
    }

    /// Whether the address may be traced, by this interface; `None`: the routing tables decide.
    /// Where that cannot be told, what is said of an interface denies, and allows nothing.
    pub(crate) fn allows(&self, address: IpAddr, interface: Option<NonZeroU32>) -> bool {
        let denied =
            |address| within(&self.deny, address, interface, true) || self.deny_local && is_local(address);
        let allowed = self.allow.is_empty() || contain(&self.allow, address, interface);
        allowed && !meanings(address).chain(guesses(address)).any(denied)
    }
}

/// Whether allowed networks have the address, whatever is known of the interface.
pub(crate) fn contain(networks: &[Subnet], address: IpAddr, interface: Option<NonZeroU32>) -> bool {
    meanings(address).any(|meant| within(networks, meant, interface, false))
}

/// Whether networks have the address; `unknown` is the answer of those that depend on the interface
/// where it is not known.
fn within(networks: &[Subnet], address: IpAddr, interface: Option<NonZeroU32>, unknown: bool) -> bool {
    let mut networks = networks.iter();
    networks.any(|network| network.contains(address) && network.is_on(interface).unwrap_or(unknown))
}

/// The address, and the IPv4 address that an IPv6 address is another form of: mapped (RFC 4291
/// §2.5.5), or behind the well-known NAT64 prefix (RFC 6052 §2.1).
fn meanings(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let embedded = match address {
        IpAddr::V6(v6) => embedded(v6),
        IpAddr::V4(_) => None,
    };
    [Some(address), embedded].into_iter().flatten()
}

fn embedded(address: Ipv6Addr) -> Option<IpAddr> {
    match address.octets() {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
        | [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d] => Some(Ipv4Addr::new(a, b, c, d).into()),
        _ => None,
    }
}

/// IPv4 addresses that packets to an IPv6 address may end at, or pass: enough to deny, too little
/// to allow. The router of a 6to4 network (RFC 3056 §2); server and client of Teredo (RFC 4380 §4);
/// IPv4-compatible addresses (RFC 4291 §2.5.5.1); those that a translator gives to IPv4 hosts
/// (SIIT, RFC 2765 §2.1) and ISATAP (RFC 5214 §6.1) to its own. After a local NAT64 prefix (RFC
/// 8215), all places where its address may stand, which the length of the operator's prefix decides
/// (RFC 6052 §2.2).
fn guesses(address: IpAddr) -> Vec<IpAddr> {
    let IpAddr::V6(v6) = address else {
        return Vec::new();
    };
    let octets = v6.octets();
    let by_prefix: &[[usize; 4]] = match octets {
        [0x20, 0x02, ..] => &[[2, 3, 4, 5]],
        [0x20, 0x01, 0, 0, ..] => &[[4, 5, 6, 7]],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, ..] => {
            &[[12, 13, 14, 15]]
        }
        [0, 0x64, 0xff, 0x9b, 0, 1, ..] => {
            &[[6, 7, 9, 10], [7, 9, 10, 11], [9, 10, 11, 12], [12, 13, 14, 15]]
        }
        _ => &[],
    };
    // Whatever network the interface is in: one of 6to4, too.
    let by_interface: &[[usize; 4]] = match octets {
        [_, _, _, _, _, _, _, _, 0 | 2, 0, 0x5e, 0xfe, ..] => &[[12, 13, 14, 15]],
        _ => &[],
    };
    let read = |place: &[usize; 4]| Ipv4Addr::from(place.map(|index| octets[index]));
    let client = match octets {
        // Inverted, so that no translator on the way changes it.
        [0x20, 0x01, 0, 0, .., a, b, c, d] => Some(Ipv4Addr::new(!a, !b, !c, !d)),
        _ => None,
    };
    by_prefix
        .iter()
        .chain(by_interface)
        .map(read)
        .chain(client)
        // "This network": no translator sends there, and where no address stands are zeros.
        .filter(|v4| v4.octets()[0] != 0)
        .map(IpAddr::V4)
        .collect()
}

fn is_local(address: IpAddr) -> bool {
    LOCAL
        .iter()
        .filter_map(|network| network.parse::<IpNet>().ok())
        .any(|network| network.contains(&address))
        || is_own(address)
}

/// Opened before requests can use up ports and descriptors. `None`: this system has nothing of the
/// kind.
static OWN: LazyLock<Option<OwnAddresses>> = LazyLock::new(|| OwnAddresses::open().ok());

/// Whether this machine has the address. What cannot be found out counts as yes.
fn is_own(address: IpAddr) -> bool {
    if let Some(own) = OWN.as_ref() {
        return own.contain(address).unwrap_or(true);
    }
    match source_towards(address) {
        // The second question finds what the first does not: a further address of an interface,
        // from which nothing is sent by itself.
        Ok(source) => source == address || only_own_can_be_bound(address),
        // Without a way there it is not ours, and the trace will say so. Other errors say nothing
        // of the address.
        Err(error) => !no_way(&error),
    }
}

/// The address from which the kernel sends to another: to one of its own, the same.
fn source_towards(address: IpAddr) -> io::Result<IpAddr> {
    let socket = UdpSocket::bind((unspecified(address), 0))?;
    // Sends nothing. The port does not matter, but 0 is refused by some systems.
    socket.connect((address, 9))?;
    Ok(socket.local_addr()?.ip())
}

fn unspecified(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn no_way(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable | ErrorKind::AddrNotAvailable
    )
}

/// Whether a socket can be bound to the address, where that says something: not where any address
/// can be bound, as with `net.ipv4.ip_nonlocal_bind` (ip(7)).
fn only_own_can_be_bound(address: IpAddr) -> bool {
    let nobody: IpAddr = match address {
        // Reserved (RFC 1112 §4), and for discarding (RFC 6666).
        IpAddr::V4(_) => Ipv4Addr::new(240, 0, 0, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1).into(),
    };
    let binds = |address| UdpSocket::bind((address, 0)).is_ok();
    binds(address) && !binds(nobody)
}

/// Reads `192.0.2.0/24`, `2001:db8::/32` or a single address; a link-local one perhaps with a zone,
/// as in `fe80::1%eth0`.
///
/// # Errors
/// For any other text.
pub(crate) fn parse_subnet(text: &str) -> Result<Subnet, String> {
    let (network, zone) = match text.split_once('%') {
        Some((network, zone)) => (network, Some(zone)),
        None => (text, None),
    };
    // Not by ipnet alone, which reads 010.0.0.0 as 10.0.0.0, where others read 8.0.0.0.
    let (address, length) = network.split_once('/').unzip();
    let address = address.unwrap_or(network).parse::<IpAddr>().ok();
    let addresses = match length {
        Some(_) => address.and_then(|_| network.parse::<IpNet>().ok()),
        None => address.map(IpNet::from),
    };
    let addresses = addresses.ok_or_else(|| {
        format!("{text:?} is no network such as 192.0.2.0/24 or 2001:db8::/32, and no address")
    })?;
    let addresses = canonical(addresses).trunc();
    let is_link_local = matches!(addresses.network(), IpAddr::V6(v6) if v6.is_unicast_link_local() && addresses.prefix_len() >= 10);
    match zone {
        Some("") => Err(format!("{text:?} has an empty zone after %")),
        Some(_) if !is_link_local => Err(format!(
            "{text:?} has a zone, which only link-local addresses have"
        )),
        zone => Ok(Subnet {
            addresses,
            zone: zone.map(str::to_owned),
        }),
    }
}

/// A network of mapped addresses as the IPv4 network that it means: targets are compared as IPv4.
fn canonical(network: IpNet) -> IpNet {
    match (network.addr().to_canonical(), network.prefix_len()) {
        (address @ IpAddr::V4(_), length) if network.addr().is_ipv6() && length >= 96 => {
            IpNet::new(address, length - 96).unwrap_or(network)
        }
        _ => network,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Vec<Subnet> {
        texts.iter().map(|text| parse_subnet(text).unwrap()).collect()
    }

    fn allows(policy: &Policy, address: &str) -> bool {
        policy.allows(address.parse().unwrap(), None)
    }

    #[test]
    fn every_local_network_is_one() {
        for network in LOCAL {
            assert!(network.parse::<IpNet>().is_ok(), "{network}");
        }
    }

    #[test]
    fn by_default_all_is_allowed() {
        for address in ["127.0.0.1", "::1", "169.254.169.254", "192.0.2.1", "2001:db8::1"] {
            assert!(allows(&Policy::default(), address), "{address}");
        }
    }

    #[test]
    fn an_allow_list_allows_nothing_else() {
        let policy = Policy {
            allow: networks(&["192.0.2.0/24", "2001:db8::/32"]),
            ..Policy::default()
        };
        assert!(allows(&policy, "192.0.2.7"));
        assert!(allows(&policy, "2001:db8:1::1"));
        assert!(!allows(&policy, "192.0.3.1"));
        assert!(!allows(&policy, "2001:db9::1"));
        assert!(!allows(&policy, "::1"));
    }

    #[test]
    fn a_deny_list_wins() {
        let policy = Policy {
            allow: networks(&["192.0.2.0/24"]),
            deny: networks(&["192.0.2.128/25", "192.0.2.1"]),
            ..Policy::default()
        };
        assert!(allows(&policy, "192.0.2.2"));
        assert!(!allows(&policy, "192.0.2.1"));
        assert!(!allows(&policy, "192.0.2.200"));
    }

    #[test]
    fn local_addresses() {
        let policy = Policy {
            deny_local: true,
            ..Policy::default()
        };
        for address in [
            "127.0.0.1",
            "127.255.0.1",
            "::1",
            "0.0.0.0",
            "::",
            "169.254.169.254",
            "169.254.170.2",
            "fe80::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "168.63.129.16",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
        ] {
            assert!(!allows(&policy, address), "{address}");
        }
        for address in ["192.0.2.1", "10.0.0.1", "2001:db8::1", "100.100.100.201"] {
            assert!(allows(&policy, address), "{address}");
        }
    }

    #[test]
    fn no_form_of_an_ipv4_address_gets_around() {
        let policy = Policy {
            deny_local: true,
            deny: networks(&["198.51.100.0/24"]),
            ..Policy::default()
        };
        for address in [
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::169.254.169.254",
            "2002:a9fe:a9fe::1",
            "::ffff:198.51.100.1",
            "64:ff9b::198.51.100.1",
            // Local NAT64 prefixes of 48, 56, 64 and 96 bits; the last with bits where there should
            // be none.
            "64:ff9b:1:c633:64:100::",
            "64:ff9b:1:aac6:33:6401::",
            "64:ff9b:1:aaaa:c6:3364:100:0",
            "64:ff9b:1::198.51.100.1",
            "64:ff9b:1:c633:64:1ff:ffff:ffff",
            // IPv4-compatible, SIIT, ISATAP; Teredo by server and by client.
            "::198.51.100.1",
            "::ffff:0:198.51.100.1",
            "2001:db8::5efe:198.51.100.1",
            "2001:db8::200:5efe:198.51.100.1",
            // ISATAP in a network of 6to4.
            "2002:c000:201::5efe:198.51.100.1",
            "2001:0:c633:6401::1",
            "2001:0:c000:201:0:0:39cc:9bfe",
        ] {
            assert!(!allows(&policy, address), "{address}");
        }
        for address in [
            "64:ff9b:1::192.0.2.1",
            "64:ff9b:1:c000:2:100::",
            "2002:c000:201::1",
            "2001:0:c000:201:0:0:3fff:fdfe",
            "::ffff:0:192.0.2.1",
        ] {
            assert!(allows(&policy, address), "{address}");
        }
    }

    #[test]
    fn an_allow_list_takes_no_guesses() {
        let policy = Policy {
            allow: networks(&["192.0.2.0/24"]),
            ..Policy::default()
        };
        for address in ["::ffff:192.0.2.1", "64:ff9b::192.0.2.1"] {
            assert!(allows(&policy, address), "{address}");
        }
        for address in ["2002:c000:201::1", "64:ff9b:1::192.0.2.1"] {
            assert!(!allows(&policy, address), "{address}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_zone_is_one_interface() {
        let loopback = (1..=u16::MAX.into())
            .filter_map(NonZeroU32::new)
            .find(|index| interface_index(&index.to_string()).is_ok())
            .unwrap();
        let other = NonZeroU32::new(u32::MAX);
        let link: IpAddr = "fe80::1".parse().unwrap();
        let zone = format!("fe80::1%{loopback}");
        let denying = Policy {
            deny: networks(&[&zone]),
            ..Policy::default()
        };
        let allowing = Policy {
            allow: networks(&[&zone]),
            ..Policy::default()
        };
        for (interface, is_there) in [(Some(loopback), true), (other, false)] {
            assert_eq!(denying.allows(link, interface), !is_there);
            assert_eq!(allowing.allows(link, interface), is_there);
        }
        // Whoever cannot tell is careful.
        assert!(!denying.allows(link, None) && !allowing.allows(link, None));
        assert!(denying.allows("fe80::2".parse().unwrap(), None));
    }

    #[test]
    fn networks_as_written() {
        assert_eq!(parse_subnet("192.0.2.9/24").unwrap().to_string(), "192.0.2.0/24");
        assert_eq!(parse_subnet("192.0.2.9").unwrap().to_string(), "192.0.2.9/32");
        assert_eq!(
            parse_subnet("2001:db8::1").unwrap().to_string(),
            "2001:db8::1/128"
        );
        let mapped = parse_subnet("::ffff:127.0.0.0/104").unwrap();
        assert_eq!(mapped.to_string(), "127.0.0.0/8");
        assert_eq!(
            parse_subnet("::ffff:192.0.2.1").unwrap().to_string(),
            "192.0.2.1/32"
        );
        assert_eq!(
            parse_subnet("::ffff:0:0/95").unwrap().to_string(),
            "::fffe:0:0/95"
        );
        assert_eq!(
            parse_subnet("fe80::9%eth0").unwrap().to_string(),
            "fe80::9/128%eth0"
        );
        for text in [
            "fe80::1%",
            "2001:db8::1%eth0",
            "192.0.2.1%eth0",
            "::/0%eth0",
            "%eth0",
        ] {
            assert!(parse_subnet(text).is_err(), "{text:?}");
        }
        for text in [
            "",
            "example.com",
            "192.0.2.0/33",
            "192.0.2/24",
            "010.0.0.0/8",
            "10.0.0.010",
            "/8",
        ] {
            assert!(parse_subnet(text).is_err(), "{text:?}");
        }
    }
}
