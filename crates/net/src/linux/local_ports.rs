//! Which ports the kernel uses for outgoing connections.

use std::fs;

use crate::ports::LocalPorts;

/// As `net.ipv4.ip_local_port_range` and `ip_local_reserved_ports` say; they hold for IPv6 too.
pub(super) fn of_system() -> LocalPorts {
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default();
    parse(&read("ip_local_port_range"), &read("ip_local_reserved_ports"))
}

/// How many ports of each transport the kernel gives to those who need any: what traces have, and
/// everybody else on this host.
#[must_use]
pub fn ephemeral_ports() -> Option<u32> {
    Some(of_system().count())
}

/// `range`: two numbers. `excluded`: numbers and ranges, separated by commas. The kernel's default
/// range when `range` makes no sense.
fn parse(range: &str, excluded: &str) -> LocalPorts {
    let mut bounds = range.split_whitespace().map(str::parse);
    let range = match (bounds.next(), bounds.next()) {
        (Some(Ok(first)), Some(Ok(last))) if 0 < first && first <= last => first..=last,
        _ => 32_768..=60_999,
    };
    let excluded = excluded
        .trim()
        .split(',')
        .filter_map(|item| {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            Some(first.parse().ok()?..=last.parse().ok()?)
        })
        .collect();
    LocalPorts::new(range, excluded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_files_are_read() {
        let of = |range| parse(range, "");
        assert_eq!(of("1024\t65535\n"), LocalPorts::new(1_024..=65_535, Vec::new()));
        assert_eq!(parse("1024 65535", "\n"), of("1024 65535"));
        for nonsense in ["", "x y", "5", "9 3", "0 0", "70000 80000"] {
            let default = LocalPorts::new(32_768..=60_999, Vec::new());
            assert_eq!(of(nonsense), default, "{nonsense:?}");
        }
        assert_eq!(
            parse("1 65535", "8080,9148-9150,x\n"),
            LocalPorts::new(1..=65_535, vec![8_080..=8_080, 9_148..=9_150])
        );
        // Without those that are probed by custom.
        assert_eq!(of("").count(), 28_232 - 101);
        assert_eq!(parse("40000 40009", "40001,40003-40005").count(), 6);
    }
}
