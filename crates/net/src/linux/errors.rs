//! Advice on what the kernel refuses.

use std::io;
use std::net::IpAddr;

use crate::{NetError, Operation};

/// How to get raw sockets.
pub(super) const NEEDS_RAW: &str = "needs CAP_NET_RAW: run with sudo, or `setcap cap_net_raw+ep <binary>`";

/// An error with the advice for its cause.
pub(super) fn error(operation: Operation, address: Option<IpAddr>, source: io::Error) -> NetError {
    let hint = advice(operation, &source);
    NetError::new(operation, address, source).with_hint(hint)
}

fn advice(operation: Operation, error: &io::Error) -> &'static str {
    if operation == Operation::ReservePort && error.kind() == io::ErrorKind::AddrInUse {
        return "no local port is free; see net.ipv4.ip_local_port_range";
    }
    match (operation, error.raw_os_error()) {
        (Operation::OpenSender | Operation::OpenCapture, Some(libc::EPERM | libc::EACCES)) => NEEDS_RAW,
        (Operation::OpenEcho, Some(libc::EPERM | libc::EACCES)) => {
            "this user's groups are not in net.ipv4.ping_group_range: \
             `sudo sysctl -w net.ipv4.ping_group_range=\"0 2147483647\"`; or give the program CAP_NET_RAW: \
             run with sudo, or `setcap cap_net_raw+ep <binary>`"
        }
        (Operation::Send, Some(libc::EPERM | libc::EACCES)) => "a firewall on this host forbids it",
        (_, Some(libc::EMFILE)) => "too many open files: raise `ulimit -n`",
        (_, Some(libc::ENFILE)) => "too many open files on this host: raise fs.file-max",
        (Operation::OpenCapture, Some(libc::ENOMEM)) => "no memory for the capture ring",
        (Operation::OpenCapture, Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP)) => {
            "this kernel or sandbox has no memory-mapped packet capture"
        }
        (Operation::OpenSender | Operation::OpenCapture | Operation::Route, Some(libc::EAFNOSUPPORT)) => {
            "this address family is switched off on this host"
        }
        (_, Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => "this host has no route to it",
        (_, Some(libc::ENETDOWN)) => "the network interface is down",
        (Operation::Route | Operation::Send, Some(libc::EADDRNOTAVAIL)) => {
            "this host has no address of that family to send from"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_permission_says_how_to_get_it() {
        for operation in [Operation::OpenSender, Operation::OpenCapture] {
            let text = error(operation, None, io::Error::from_raw_os_error(libc::EPERM)).to_string();
            assert!(text.contains("CAP_NET_RAW") && text.contains("sudo"), "{text}");
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
    fn exhausted_ports_say_so() {
        let text = error(Operation::ReservePort, None, io::ErrorKind::AddrInUse.into()).to_string();
        assert!(text.contains("no local port is free"), "{text}");
    }
}
