//! Advice on what the kernel refuses.

use std::io;
use std::net::IpAddr;

use traceroute_engine::{NetError, Operation};

use crate::imp;

/// An error with the advice for its cause.
pub(crate) fn error(operation: Operation, address: Option<IpAddr>, source: io::Error) -> NetError {
    let hint = advice(operation, &source);
    let is_queue_full = source.raw_os_error() == Some(libc::ENOBUFS);
    NetError {
        is_queue_full,
        ..NetError::new(operation, address, source).with_hint(hint)
    }
}

/// What this operating system is asked first about, then what all have in common.
fn advice(operation: Operation, error: &io::Error) -> &'static str {
    imp::advice(operation, error)
        .or_else(|| common(operation, error))
        .unwrap_or("")
}

fn common(operation: Operation, error: &io::Error) -> Option<&'static str> {
    Some(match (operation, error.raw_os_error()?) {
        (Operation::Send, libc::EPERM | libc::EACCES) | (Operation::Connect, libc::EPERM) => {
            "a firewall on this host forbids it"
        }
        // Also what routers' "administratively prohibited" becomes in IPv6.
        (Operation::Connect, libc::EACCES) => "a firewall on this host or on the way forbids it",
        (Operation::Route, libc::EACCES | libc::EINVAL) => {
            "a route on this host prohibits it, or it is a broadcast address"
        }
        (_, libc::EMFILE) => "too many open files: raise `ulimit -n`",
        (Operation::OpenSender | Operation::OpenCapture | Operation::Route, libc::EAFNOSUPPORT) => {
            "this address family is switched off on this host"
        }
        // Also what ICMP errors from routers become (icmp(7)); a missing route here is found before
        // connecting.
        (Operation::Connect, libc::ENETUNREACH | libc::EHOSTUNREACH) => {
            "the next hop does not answer, or a router on the way refuses"
        }
        (_, libc::ENETUNREACH | libc::EHOSTUNREACH) => "this host has no route to it",
        (Operation::Send, libc::EMSGSIZE) => {
            "the packet is longer than the interface's MTU: choose a smaller packet size"
        }
        (_, libc::ENETDOWN) => "the network interface is down",
        (Operation::Route | Operation::Send, libc::EADDRNOTAVAIL) => {
            "this host has no address of that family to send from"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_permission_says_how_to_get_it() {
        for operation in [Operation::OpenSender, Operation::OpenCapture] {
            let text = error(operation, None, io::Error::from_raw_os_error(libc::EPERM)).to_string();
            assert!(text.contains("sudo"), "{text}");
        }
    }

    #[test]
    fn too_many_open_files_says_what_to_raise() {
        let text = error(
            Operation::ReservePort,
            None,
            io::Error::from_raw_os_error(libc::EMFILE),
        )
        .to_string();
        assert!(text.contains("ulimit -n"), "{text}");
    }

    #[test]
    fn no_route_names_the_address() {
        let address = "192.0.2.1".parse().expect("address");
        let text = error(
            Operation::Route,
            Some(address),
            io::Error::from_raw_os_error(libc::ENETUNREACH),
        )
        .to_string();
        assert!(
            text.contains("192.0.2.1") && text.contains("this host has no route"),
            "{text}"
        );
    }

    #[test]
    fn a_refusing_router_is_no_missing_route() {
        let source = io::Error::from_raw_os_error(libc::EHOSTUNREACH);
        let text = error(Operation::Connect, None, source).to_string();
        assert!(
            text.contains("a router on the way refuses") && !text.contains("this host has no route"),
            "{text}"
        );
    }

    #[test]
    fn what_a_host_forbids_is_explained() {
        let text = |operation, code| error(operation, None, io::Error::from_raw_os_error(code)).to_string();
        for code in [libc::EACCES, libc::EINVAL] {
            let text = text(Operation::Route, code);
            assert!(text.contains("a route on this host prohibits it"), "{text}");
        }
        for code in [libc::EACCES, libc::EPERM] {
            let text = text(Operation::Connect, code);
            assert!(text.contains("a firewall on this host "), "{text}");
            assert_eq!(text.contains("on the way"), code == libc::EACCES, "{text}");
        }
    }

    #[test]
    fn exhausted_ports_say_so() {
        let text = error(Operation::ReservePort, None, io::ErrorKind::AddrInUse.into()).to_string();
        assert!(text.contains("no local port is free"), "{text}");
    }
}
