//! Advice on what only macOS refuses, or in words that only fit macOS.

use std::io;

use traceroute_engine::{Egress, Operation};

use crate::egress::hints;

/// What to do about an error; `None` when nothing special to macOS is known.
pub(crate) fn advice(operation: Operation, error: &io::Error) -> Option<&'static str> {
    if operation == Operation::ReservePort && error.kind() == io::ErrorKind::AddrInUse {
        return Some("no local port is free; see net.inet.ip.portrange.first");
    }
    Some(match (operation, error.raw_os_error()?) {
        // Access to /dev/bpf* alone, as Wireshark's ChmodBPF gives, does not let anybody send.
        (Operation::OpenSender | Operation::OpenCapture, libc::EPERM | libc::EACCES) => {
            "needs root: run with sudo"
        }
        (Operation::OpenCapture, libc::EBUSY) => "all BPF devices are in use by other programs",
        (_, libc::ENXIO) => "the network interface is gone",
        (Operation::Send, libc::EHOSTUNREACH) => {
            "no route, or blocked: see System Settings, Privacy & Security, Local Network; or by a security agent"
        }
        (_, libc::ENFILE) => "too many open files on this host: raise kern.maxfiles",
        _ => return None,
    })
}

/// What to do when there is no way to leave as chosen; `None`: it is not about the choice.
pub(super) fn of_way(code: Option<i32>, egress: &Egress) -> Option<&'static str> {
    let is_bound = egress.interface.is_some();
    match code? {
        libc::EADDRNOTAVAIL if egress.source.is_some() => Some(hints::FOREIGN_SOURCE),
        libc::ENXIO if is_bound => Some(hints::GONE),
        libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EADDRNOTAVAIL if is_bound => Some(hints::NO_ROUTE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn a_choice_that_leads_nowhere_is_named() {
        let by_interface = Egress {
            interface: NonZeroU32::new(4),
            ..Egress::default()
        };
        let from_source = Egress {
            source: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            ..Egress::default()
        };
        let hint = |code, egress| of_way(Some(code), egress);
        assert_eq!(hint(libc::ENXIO, &by_interface), Some(hints::GONE));
        for code in [libc::ENETUNREACH, libc::EHOSTUNREACH] {
            assert_eq!(hint(code, &by_interface), Some(hints::NO_ROUTE));
            assert_eq!(hint(code, &from_source), None);
        }
        assert_eq!(
            hint(libc::EADDRNOTAVAIL, &from_source),
            Some(hints::FOREIGN_SOURCE)
        );
        assert_eq!(hint(libc::EADDRNOTAVAIL, &Egress::default()), None);
    }

    fn text(operation: Operation, errno: i32) -> &'static str {
        advice(operation, &io::Error::from_raw_os_error(errno)).unwrap_or_default()
    }

    #[test]
    fn missing_permission_says_how_to_get_it() {
        assert!(text(Operation::OpenSender, libc::EPERM).contains("sudo"));
        assert!(text(Operation::OpenCapture, libc::EACCES).contains("sudo"));
        assert_eq!(text(Operation::Send, libc::EPERM), "");
    }

    #[test]
    fn local_network_privacy_is_mentioned() {
        assert!(text(Operation::Send, libc::EHOSTUNREACH).contains("Local Network"));
        assert_eq!(
            text(Operation::Route, libc::EHOSTUNREACH),
            "",
            "routes are not subject to it"
        );
    }

    #[test]
    fn exhausted_ports_say_where_they_come_from() {
        let text = advice(Operation::ReservePort, &io::ErrorKind::AddrInUse.into()).expect("advice");
        assert!(text.contains("portrange"), "{text}");
    }
}
