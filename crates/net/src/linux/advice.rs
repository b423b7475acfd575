//! Advice on what only Linux refuses, or in words that only fit Linux.

use std::io;
use std::sync::LazyLock;

use traceroute_engine::Operation;

use crate::program_path;

/// How to get raw sockets.
pub(super) fn needs_raw() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let program = program_path();
        format!("needs CAP_NET_RAW: run with sudo, or `setcap cap_net_raw+ep {program}`")
    });
    &TEXT
}

/// How to get ICMP sockets.
fn needs_group() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let program = program_path();
        format!(
            "this user's groups are not in net.ipv4.ping_group_range: \
             `sudo sysctl -w net.ipv4.ping_group_range=\"0 2147483647\"`; or give the program CAP_NET_RAW: \
             run with sudo, or `setcap cap_net_raw+ep {program}`"
        )
    });
    &TEXT
}

/// What to do about an error; `None` when nothing special to Linux is known.
pub(crate) fn advice(operation: Operation, error: &io::Error) -> Option<&'static str> {
    if operation == Operation::ReservePort && error.kind() == io::ErrorKind::AddrInUse {
        return Some("no local port is free; see net.ipv4.ip_local_port_range");
    }
    Some(match (operation, error.raw_os_error()?) {
        (Operation::OpenSender | Operation::OpenCapture, libc::EPERM | libc::EACCES) => needs_raw(),
        (Operation::OpenEcho, libc::EPERM | libc::EACCES) => needs_group(),
        (_, libc::ENFILE) => "too many open files on this host: raise fs.file-max",
        (Operation::OpenCapture, libc::ENOMEM) => "no memory for the capture ring",
        (Operation::OpenCapture, libc::ENOPROTOOPT | libc::EOPNOTSUPP) => {
            "this kernel or sandbox lacks an option of packet sockets that captures need"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_permission_names_the_capability() {
        let refused = io::Error::from_raw_os_error(libc::EPERM);
        let text = advice(Operation::OpenCapture, &refused).expect("advice");
        assert!(
            text.contains("CAP_NET_RAW") && text.contains(program_path()),
            "{text}"
        );
        assert_eq!(
            advice(Operation::Send, &refused),
            None,
            "sending is refused by a firewall"
        );
    }

    #[test]
    fn exhausted_ports_say_where_they_come_from() {
        let text = advice(Operation::ReservePort, &io::ErrorKind::AddrInUse.into()).expect("advice");
        assert!(text.contains("net.ipv4.ip_local_port_range"), "{text}");
    }
}
