//! Advice on what only macOS refuses, or in words that only fit macOS.

use std::io;

use traceroute_engine::Operation;

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
        (Operation::OpenCapture, libc::ENXIO) => "the network interface is gone",
        (Operation::Send, libc::EHOSTUNREACH) => {
            "no route, or blocked: see System Settings, Privacy & Security, Local Network; or by a security agent"
        }
        (_, libc::ENFILE) => "too many open files on this host: raise kern.maxfiles",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
