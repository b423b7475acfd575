//! Which targets may be traced, by any lists.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::take;
use crate::policy::{Policy, Subnet, parse_subnet};

/// A line each for networks to allow and to deny: the one that a bit of the first bytes says. Then
/// an address, and the host's part of others.
pub fn policy(mut data: &[u8]) {
    let [which, options]: [u8; 2] = take(&mut data);
    let (bits, address): ([u8; 16], [u8; 16]) = (take(&mut data), take(&mut data));
    let mut policy = Policy {
        // Looks at this machine's addresses, which takes time.
        deny_local: options & 15 == 15,
        ..Policy::default()
    };
    let text = String::from_utf8_lossy(data);
    for (index, line) in text.lines().take(8).enumerate() {
        let Ok(subnet) = parse_subnet(line) else { continue };
        let shown = subnet.to_string();
        assert_eq!(parse_subnet(&shown).as_ref(), Ok(&subnet), "{line:?}");
        let list = match which >> index & 1 {
            0 => &mut policy.deny,
            _ => &mut policy.allow,
        };
        list.push(subnet);
    }
    let bits = u128::from_be_bytes(bits);
    for subnet in &policy.deny {
        check_denied(&policy, member(subnet, bits), bits);
    }
    if policy.deny_local {
        let loopback = Ipv4Addr::from(127 << 24 | bits as u32 >> 8);
        for local in [loopback, Ipv4Addr::new(169, 254, 169, 254)] {
            check_denied(&policy, local.into(), bits);
        }
    }
    check_allowed(&policy, bits);
    let address = Ipv6Addr::from(address);
    for address in [IpAddr::V6(address), IpAddr::V4(Ipv4Addr::from(bits as u32))] {
        check_address(&policy, address);
    }
}

/// The network of a subnet, read off its text.
fn network(subnet: &Subnet) -> IpNet {
    let text = subnet.to_string();
    text.split('%').next().unwrap().parse().unwrap()
}

/// An address of the network.
fn member(subnet: &Subnet, bits: u128) -> IpAddr {
    match network(subnet) {
        IpNet::V4(network) => {
            let hosts = u32::from(network.hostmask());
            Ipv4Addr::from(u32::from(network.network()) | bits as u32 & hosts).into()
        }
        IpNet::V6(network) => {
            let hosts = u128::from(network.hostmask());
            Ipv6Addr::from(u128::from(network.network()) | bits & hosts).into()
        }
    }
}

/// What is denied is so in all forms that an IPv4 address has in IPv6.
fn check_denied(policy: &Policy, address: IpAddr, bits: u128) {
    assert!(!policy.allows(address, None), "{address} by {policy:?}");
    let IpAddr::V4(v4) = address else { return };
    for form in forms(v4) {
        assert!(!policy.allows(form.into(), None), "{form} by {policy:?}");
    }
    // "This network": no translator sends there.
    if v4.octets()[0] != 0 {
        for guess in guesses(v4, bits) {
            assert!(!policy.allows(guess.into(), None), "{guess} by {policy:?}");
        }
    }
}

/// Mapped, and after the well-known prefix of NAT64.
fn forms(v4: Ipv4Addr) -> [Ipv6Addr; 2] {
    let bits = u128::from(u32::from(v4));
    [0xFFFF << 32, 0x0064_FF9B << 96].map(|prefix: u128| Ipv6Addr::from(prefix | bits))
}

/// 6to4, Teredo by server and by client, compatible, SIIT, ISATAP and local NAT64, with any other
/// bits.
fn guesses(v4: Ipv4Addr, bits: u128) -> [Ipv6Addr; 10] {
    let low = |count: u32| bits & ((1 << count) - 1);
    let address = u128::from(u32::from(v4));
    let (high, half) = (address >> 16, address & 0xFFFF);
    let nat64: u128 = 0x0064_FF9B_0001 << 80;
    let (byte, rest) = (address >> 24, address & 0x00FF_FFFF);
    [
        0x2002 << 112 | address << 80 | low(80),
        0x2001_0000 << 96 | address << 64 | low(64),
        0x2001_0000 << 96 | low(96) >> 32 << 32 | u128::from(!u32::from(v4)),
        address,
        0xFFFF << 48 | address,
        bits >> 64 << 64 | 0x0000_5EFE << 32 | address,
        bits >> 64 << 64 | 0x0200_5EFE << 32 | address,
        // RFC 6052 §2.2: prefixes of 48, 56 and 96 bits. The byte at 64 is none of the address.
        nat64 | high << 64 | half << 40 | low(40),
        nat64 | (bits >> 120) << 72 | byte << 64 | rest << 32 | low(32),
        nat64 | low(80) >> 32 << 32 | address,
    ]
    .map(Ipv6Addr::from)
}

/// What is on a list of allowed networks may be traced, unless it is denied; nothing else may.
fn check_allowed(policy: &Policy, bits: u128) {
    if policy.deny_local || policy.allow.is_empty() {
        return;
    }
    let plain = Policy {
        deny: Vec::new(),
        ..policy.clone()
    };
    for subnet in &plain.allow {
        let address = member(subnet, bits);
        let has_zone = subnet.to_string().contains('%');
        assert!(has_zone || plain.allows(address, None), "{address} by {plain:?}");
        if let (IpAddr::V4(v4), false) = (address, has_zone) {
            assert!(
                forms(v4).into_iter().all(|form| plain.allows(form.into(), None)),
                "{v4} by {plain:?}"
            );
        }
    }
    if policy.check().is_err() {
        // One of them is denied as a whole.
        let mut allow = policy.allow.iter().map(|subnet| member(subnet, bits));
        assert!(allow.any(|address| !policy.allows(address, None)), "{policy:?}");
    }
}

/// What is allowed is on no list of denied networks.
fn check_address(policy: &Policy, address: IpAddr) {
    let has = |subnets: &[Subnet]| subnets.iter().any(|subnet| network(subnet).contains(&address));
    assert!(
        !policy.allows(address, None) || !has(&policy.deny),
        "{address} by {policy:?}"
    );
}
