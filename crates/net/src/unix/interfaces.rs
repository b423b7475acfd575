//! The interfaces of this host, and which of them a link-local address is on.
//!
//! `fe80::1` means a different host on each link, so the kernel wants to be told the link (RFC 4007
//! §6). Where a target comes without it, the interface is the only one that it can be.

use std::io;
use std::net::{IpAddr, Ipv6Addr};

use super::sys::{self, InterfaceAddress};
use crate::route::needs_scope;

/// An interface that has IP addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) index: u32,
    pub(crate) is_loopback: bool,
    pub(crate) addresses: Vec<IpAddr>,
}

impl Interface {
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }
}

/// The interfaces of this host (on Linux: of this thread's network namespace).
pub(crate) fn all() -> io::Result<Vec<Interface>> {
    Ok(group(sys::interface_addresses()?, sys::interface_index))
}

fn group(addresses: Vec<InterfaceAddress>, index_of: impl Fn(&str) -> Option<u32>) -> Vec<Interface> {
    let mut interfaces: Vec<Interface> = Vec::new();
    for InterfaceAddress { name, flags, address } in addresses {
        let position = interfaces.iter().position(|interface| interface.name == name);
        let position = position.unwrap_or_else(|| {
            interfaces.push(Interface {
                index: index_of(&name).unwrap_or(0),
                name,
                is_loopback: flags & libc::IFF_LOOPBACK as u32 != 0,
                addresses: Vec::new(),
            });
            interfaces.len() - 1
        });
        if let Some(interface) = interfaces.get_mut(position) {
            let index = interface.index;
            interface.addresses.push(without_index(address, index));
        }
    }
    interfaces
}

/// A link-local address as it is on the wire: BSD kernels keep the interface's index in its third
/// and fourth byte, and let it slip at times.
fn without_index(address: IpAddr, index: u32) -> IpAddr {
    match address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() && u32::from(v6.segments()[1]) == index => {
            Ipv6Addr::from_bits(v6.to_bits() & !(0xFFFF << 96)).into()
        }
        other => other,
    }
}

/// The index of the interface that a link-local target must be on, because no other has link-local
/// addresses; or no other that has further addresses too, as macOS has link-local ones on
/// interfaces of its own.
pub(crate) fn only_interface() -> Option<u32> {
    only(&all().ok()?).map(|interface| interface.index)
}

/// The index of the interface that has an address.
pub(crate) fn of(address: IpAddr) -> Option<u32> {
    let interfaces = all().ok()?;
    let interface = interfaces.iter().find(|interface| interface.has(address))?;
    Some(interface.index)
}

fn only(interfaces: &[Interface]) -> Option<&Interface> {
    let candidates = || {
        let with_link = |interface: &&Interface| interface.addresses.iter().any(|a| needs_scope(*a));
        interfaces
            .iter()
            .filter(|interface| !interface.is_loopback)
            .filter(with_link)
    };
    let in_use = |interface: &&Interface| interface.addresses.iter().any(|a| !needs_scope(*a));
    single(candidates()).or_else(|| single(candidates().filter(in_use)))
}

fn single<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next()?;
    items.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    fn interface(name: &str, index: u32, addresses: &[&str]) -> Interface {
        Interface {
            name: name.to_owned(),
            index,
            is_loopback: name.starts_with("lo"),
            addresses: addresses.iter().map(|text| ip(text)).collect(),
        }
    }

    #[test]
    fn addresses_are_grouped_by_interface() {
        let address = |name: &str, flags: i32, address: &str| InterfaceAddress {
            name: name.to_owned(),
            flags: flags as u32,
            address: ip(address),
        };
        let list = vec![
            address("lo0", libc::IFF_LOOPBACK | libc::IFF_UP, "127.0.0.1"),
            address("en0", libc::IFF_UP, "192.0.2.1"),
            address("lo0", libc::IFF_LOOPBACK | libc::IFF_UP, "::1"),
            address("en0", libc::IFF_UP, "fe80:4::1"),
        ];
        let index = |name: &str| Some(if name == "en0" { 4 } else { 1 });
        assert_eq!(
            group(list, index),
            [
                interface("lo0", 1, &["127.0.0.1", "::1"]),
                interface("en0", 4, &["192.0.2.1", "fe80::1"]),
            ]
        );
    }

    #[test]
    fn only_an_index_is_taken_out_of_an_address() {
        assert_eq!(without_index(ip("fe80:4::1"), 4), ip("fe80::1"));
        assert_eq!(without_index(ip("fe80:5::1"), 4), ip("fe80:5::1"));
        assert_eq!(without_index(ip("2001:4::1"), 4), ip("2001:4::1"));
        assert_eq!(without_index(ip("fe80::1"), 0), ip("fe80::1"));
    }

    #[test]
    fn the_interface_is_known_only_when_there_is_one() {
        let loopback = interface("lo0", 1, &["127.0.0.1", "fe80::1"]);
        let used = interface("en0", 4, &["192.0.2.1", "fe80::4"]);
        let also_used = interface("en1", 5, &["2001:db8::5", "fe80::5"]);
        let bare = interface("awdl0", 9, &["fe80::9"]);
        let v4_only = interface("en2", 6, &["192.0.2.6"]);
        let of = |interfaces: &[&Interface]| {
            let interfaces: Vec<Interface> =
                interfaces.iter().map(|interface| (*interface).clone()).collect();
            only(&interfaces).map(|interface| interface.index)
        };
        assert_eq!(of(&[&loopback, &v4_only]), None);
        assert_eq!(of(&[&loopback, &used, &v4_only]), Some(4));
        assert_eq!(of(&[&loopback, &bare]), Some(9));
        assert_eq!(of(&[&loopback, &bare, &used]), Some(4));
        assert_eq!(of(&[&used, &also_used]), None);
    }

    #[test]
    fn only_link_local_addresses_need_an_interface() {
        assert!(needs_scope(ip("fe80::1")));
        assert!(!needs_scope(ip("2001:db8::1")));
        assert!(!needs_scope(ip("169.254.0.1")));
    }

    #[test]
    fn this_host_has_a_loopback_interface() {
        let interfaces = all().expect("the interfaces of this host");
        let loopback = interfaces
            .iter()
            .find(|interface| interface.is_loopback)
            .expect("loopback");
        assert!(loopback.has(ip("127.0.0.1")), "{loopback:?}");
        assert_ne!(loopback.index, 0);
    }
}
