//! Which targets may be traced.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use ipnet::IpNet;

/// Addresses that may or may not be traced. The default allows all.
///
/// It is asked about the address that will be probed, not about the name in the request, so no name gets around it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Nothing else may be traced, unless empty.
    pub(crate) allow: Vec<IpNet>,
    /// Wins over `allow`.
    pub(crate) deny: Vec<IpNet>,
    /// Deny [`LOCAL`], and the addresses of this machine.
    pub(crate) deny_local: bool,
}

/// What `--deny-local` denies besides this machine's own addresses: loopback, link-local, "this network", multicast and
/// broadcast, and where clouds answer questions about their machines.
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
    /// Says that the address may not be traced; not why, which is the operator's affair.
    pub(crate) fn check(&self, address: IpAddr) -> Result<(), String> {
        let meant = meanings(address);
        let within = |networks: &[IpNet]| {
            networks
                .iter()
                .any(|network| meant.iter().any(|address| network.contains(address)))
        };
        let allowed = self.allow.is_empty() || within(&self.allow);
        let local = self.deny_local && meant.iter().any(|address| is_local(*address));
        if allowed && !local && !within(&self.deny) {
            return Ok(());
        }
        Err(format!("Target not allowed: {address}"))
    }
}

/// The address, and the IPv4 address that an IPv6 address stands for: mapped (RFC 4291 §2.5.5), behind the well-known
/// NAT64 prefix (RFC 6052 §2.1), or 6to4 (RFC 3056 §2).
fn meanings(address: IpAddr) -> Vec<IpAddr> {
    let mut meanings = vec![address];
    if let IpAddr::V6(v6) = address
        && let Some(v4) = embedded(v6)
    {
        meanings.push(IpAddr::V4(v4));
    }
    meanings
}

fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.octets() {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
        | [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]
        | [0x20, 0x02, a, b, c, d, ..] => Some(Ipv4Addr::new(a, b, c, d)),
        _ => None,
    }
}

fn is_local(address: IpAddr) -> bool {
    LOCAL
        .iter()
        .filter_map(|network| network.parse::<IpNet>().ok())
        .any(|network| network.contains(&address))
        || is_own(address)
}

/// Whether this machine has the address: only then can a socket be bound to it.
fn is_own(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// Reads `192.0.2.0/24`, `2001:db8::/32` or a single address.
///
/// # Errors
/// For any other text.
pub(crate) fn parse_network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map(|network| network.trunc())
        .map_err(|_| format!("{text:?} is no network such as 192.0.2.0/24 or 2001:db8::/32, and no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| parse_network(text).unwrap()).collect()
    }

    fn allows(policy: &Policy, address: &str) -> bool {
        policy.check(address.parse().unwrap()).is_ok()
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
        ] {
            assert!(!allows(&policy, address), "{address}");
        }
    }

    #[test]
    fn networks_as_written() {
        assert_eq!(parse_network("192.0.2.9/24").unwrap().to_string(), "192.0.2.0/24");
        assert_eq!(parse_network("192.0.2.9").unwrap().to_string(), "192.0.2.9/32");
        assert_eq!(
            parse_network("2001:db8::1").unwrap().to_string(),
            "2001:db8::1/128"
        );
        for text in ["", "example.com", "192.0.2.0/33", "192.0.2/24", "/8"] {
            assert!(parse_network(text).is_err(), "{text:?}");
        }
    }
}
