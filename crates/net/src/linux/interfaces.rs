//! Link-local addresses: which interface they are on.
//!
//! `fe80::1` means a different host on each link, so the kernel wants to be told the link (RFC 4007 §6). Addresses come
//! here without it; the interface is the one that has the source address, or the only one that has any.

use std::net::{IpAddr, Ipv6Addr};

/// `IPV6_ADDR_LINKLOCAL` in the scope column.
const LINK_SCOPE: &str = "20";

/// Whether an address means nothing without its interface.
pub(super) fn needs_scope(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// The interface with this link-local address.
pub(super) fn interface_of(source: Ipv6Addr) -> Option<u32> {
    link_local_addresses(&read())
        .find(|(address, _)| *address == source)
        .map(|(_, index)| index)
}

/// The interface that a link-local target must be on, because no other has link-local addresses.
pub(super) fn only_interface() -> Option<u32> {
    only(&read())
}

/// Of this thread's network namespace; `/proc/net` would be the first thread's.
fn read() -> String {
    std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default()
}

fn only(table: &str) -> Option<u32> {
    let mut indexes = link_local_addresses(table).map(|(_, index)| index);
    let first = indexes.next()?;
    indexes.all(|index| index == first).then_some(first)
}

/// The lines of `if_inet6`: address, interface index, prefix length, scope (all hexadecimal), flags, name.
fn link_local_addresses(table: &str) -> impl Iterator<Item = (Ipv6Addr, u32)> {
    table.lines().filter_map(|line| {
        let mut columns = line.split_ascii_whitespace();
        let address = u128::from_str_radix(columns.next()?, 16).ok()?;
        let index = u32::from_str_radix(columns.next()?, 16).ok()?;
        let scope = columns.nth(1)?;
        (scope == LINK_SCOPE).then_some((Ipv6Addr::from_bits(address), index))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "\
fe8000000000000000fc00fffe000001 0a 40 20 80     eth0
00000000000000000000000000000001 01 80 10 80       lo
fd000000000000000000000000000002 04 40 00 82     eth0
";

    #[test]
    fn the_table_is_read() {
        let found: Vec<_> = link_local_addresses(ONE).collect();
        assert_eq!(found, [("fe80::fc:ff:fe00:1".parse().expect("address"), 10)]);
        assert_eq!(link_local_addresses("x\n\n1 2\nzz 1 1 20").count(), 0);
    }

    #[test]
    fn the_interface_is_known_only_when_there_is_one() {
        assert_eq!(only(ONE), Some(10));
        assert_eq!(only(""), None);
        let two = format!("{ONE}fe800000000000000000000000000001 05 40 20 80 eth1\n");
        assert_eq!(only(&two), None);
        let twice = format!("{ONE}fe800000000000000000000000000001 0a 40 20 80 eth0\n");
        assert_eq!(only(&twice), Some(10));
    }

    #[test]
    fn only_link_local_addresses_need_an_interface() {
        assert!(needs_scope("fe80::1".parse().expect("address")));
        assert!(!needs_scope("2001:db8::1".parse().expect("address")));
        assert!(!needs_scope("169.254.0.1".parse().expect("address")));
    }
}
