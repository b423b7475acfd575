//! The hosts file, `hosts(5)`: read anew for each question, as C libraries do.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::is_host_name;
use crate::target::to_ascii;

/// The addresses of a name, in the order of the file.
pub(super) fn addresses(file: &str, name: &str) -> Vec<IpAddr> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut found = Vec::new();
    for (address, mut names) in entries(file) {
        if !found.contains(&address) && names.any(|listed| is_same(listed, name)) {
            found.push(address);
        }
    }
    found
}

/// The names of those addresses that have any, in the order of the file. It is read once for all:
/// some hosts files are long.
pub(super) fn names(file: &str, addresses: &HashSet<IpAddr>) -> HashMap<IpAddr, Vec<String>> {
    let mut found: HashMap<IpAddr, Vec<String>> = HashMap::new();
    for (address, listed) in entries(file).filter(|(address, _)| addresses.contains(address)) {
        for name in listed.map(|name| name.strip_suffix('.').unwrap_or(name)) {
            let known = found
                .get(&address)
                .is_some_and(|known| known.iter().any(|known| known == name));
            if is_host_name(name.as_bytes()) && !known {
                found.entry(address).or_default().push(name.to_owned());
            }
        }
    }
    found
}

fn entries(file: &str) -> impl Iterator<Item = (IpAddr, impl Iterator<Item = &str>)> {
    file.lines().filter_map(|line| {
        let mut words = line.split('#').next()?.split_ascii_whitespace();
        // Addresses with a zone are left out: a zone cannot be part of a name's address.
        let address: IpAddr = words.next()?.parse().ok()?;
        Some((address.to_canonical(), words))
    })
}

/// Whether an entry is the name, which is in ASCII. Entries may be in other scripts.
fn is_same(listed: &str, name: &str) -> bool {
    let listed = listed.strip_suffix('.').unwrap_or(listed);
    to_ascii(listed).is_some_and(|listed| listed.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# a comment\n\
        127.0.0.1 localhost\n\
        \t10.0.0.2\ttwo.example two # not three\n\
        10.0.0.1 one.example TWO\n\
        2001:db8::2 two\r\n\
        ::ffff:10.0.0.3 mapped\n\
        10.0.0.2 two.example again\n\
        fe80::1%eth0 two\n\
        10.0.0.4 b\u{fc}cher.example\n\
        10.0.0.5 a;b -x\n\
        no.address two\n\
        10.0.0.6\n";

    fn found(name: &str) -> Vec<String> {
        addresses(FILE, name).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_keep_the_order_of_the_file() {
        assert_eq!(found("two"), ["10.0.0.2", "10.0.0.1", "2001:db8::2"]);
        assert_eq!(found("Two."), found("two"));
        assert_eq!(found("two.example"), ["10.0.0.2"]);
        assert_eq!(found("mapped"), ["10.0.0.3"]);
        assert_eq!(found("xn--bcher-kva.example"), ["10.0.0.4"]);
        for unknown in ["three", "not", "", "example", "#"] {
            assert!(found(unknown).is_empty(), "{unknown}");
        }
    }

    #[test]
    fn names_keep_the_order_of_the_file() {
        let addresses = ["10.0.0.2", "10.0.0.3", "10.0.0.5", "10.0.0.9"].map(|text| text.parse().unwrap());
        let found = names(FILE, &HashSet::from(addresses));
        assert_eq!(found[&addresses[0]], ["two.example", "two", "again"]);
        assert_eq!(found[&addresses[1]], ["mapped"]);
        assert_eq!(found.len(), 2, "{found:?}");
    }
}
