//! Error and status numbers of Windows: what they mean for a traceroute and what to do about them.

use std::io;
use std::net::IpAddr;

use traceroute_engine::{Egress, NetError, Operation};

use crate::egress::hints;

pub(crate) const ERROR_FILE_NOT_FOUND: i32 = 2;
pub(crate) const ERROR_PATH_NOT_FOUND: i32 = 3;
pub(crate) const ERROR_ACCESS_DENIED: i32 = 5;
pub(crate) const ERROR_SERVICE_DOES_NOT_EXIST: i32 = 1060;
pub(crate) const WSAEINTR: i32 = 10004;
pub(crate) const WSAEACCES: i32 = 10013;
pub(crate) const WSAEINVAL: i32 = 10022;
pub(crate) const WSAEMFILE: i32 = 10024;
pub(crate) const WSAEWOULDBLOCK: i32 = 10035;
pub(crate) const WSAENOPROTOOPT: i32 = 10042;
pub(crate) const WSAEPROTONOSUPPORT: i32 = 10043;
pub(crate) const WSAEOPNOTSUPP: i32 = 10045;
pub(crate) const WSAEAFNOSUPPORT: i32 = 10047;
pub(crate) const WSAEADDRNOTAVAIL: i32 = 10049;
pub(crate) const WSAENETDOWN: i32 = 10050;
pub(crate) const WSAENETUNREACH: i32 = 10051;
pub(crate) const WSAENOBUFS: i32 = 10055;
pub(crate) const WSAECONNREFUSED: i32 = 10061;
pub(crate) const WSAEHOSTUNREACH: i32 = 10065;

/// The first half makes everything work; the second is what works without.
const WITHOUT_RAW_SOCKETS: &str = "run as Administrator or use the Windows driver; without either, ICMP works, and TCP \
                                   with the method syn_socket";

/// An error with the advice for its cause.
pub(crate) fn error(operation: Operation, address: Option<IpAddr>, source: io::Error) -> NetError {
    let code = source.raw_os_error().unwrap_or(0);
    NetError {
        is_queue_full: code == WSAENOBUFS,
        ..NetError::new(operation, address, source).with_hint(advice(operation, code))
    }
}

/// The error of a route look-up: about what was chosen, where that is the cause.
pub(crate) fn no_way(target: IpAddr, egress: &Egress, source: io::Error) -> NetError {
    let code = source.raw_os_error().unwrap_or(0);
    let error = error(Operation::Route, Some(target), source);
    match code {
        WSAEADDRNOTAVAIL if egress.source.is_some() && egress.interface.is_some() => error
            .with_hint("the chosen source is no address of the chosen interface: choose only one of them"),
        WSAEADDRNOTAVAIL if egress.source.is_some() => error.with_hint(hints::FOREIGN_SOURCE),
        WSAEADDRNOTAVAIL | WSAENETUNREACH | WSAEHOSTUNREACH if egress.interface.is_some() => {
            error.with_hint(hints::NO_ROUTE)
        }
        _ => error,
    }
}

/// What the driver cannot do: it hands packets to Windows, which routes them.
pub(crate) fn driver_has_no_interfaces(target: IpAddr) -> NetError {
    let text = "the driver cannot choose the interface or zone";
    let reason = io::Error::new(io::ErrorKind::Unsupported, text);
    NetError::new(Operation::Route, Some(target), reason)
        .with_hint("choose a source address instead, or trace without the driver")
}

/// The same where the system's number is not in the error itself any more.
pub(crate) fn with_advice(operation: Operation, source: io::Error, code: i32) -> NetError {
    NetError::new(operation, None, source).with_hint(advice(operation, code))
}

fn advice(operation: Operation, code: i32) -> &'static str {
    match (operation, code) {
        (Operation::OpenSender | Operation::OpenCapture, WSAEACCES) => WITHOUT_RAW_SOCKETS,
        (Operation::OpenCapture | Operation::OpenSender, ERROR_FILE_NOT_FOUND | ERROR_PATH_NOT_FOUND) => {
            "the driver ddnpm is not running: let this program start the Windows driver, or start the Datadog Agent"
        }
        (Operation::StartDriver, ERROR_SERVICE_DOES_NOT_EXIST) => {
            "the driver comes with the Datadog Agent: install it, or trace without the driver"
        }
        (Operation::StartDriver | Operation::OpenCapture | Operation::OpenSender, ERROR_ACCESS_DENIED) => {
            "run as Administrator"
        }
        (Operation::Send, WSAEACCES) => "a firewall on this host forbids it",
        (Operation::Connect, WSAENOPROTOOPT) => {
            "syn_socket needs Windows 10 version 2004, Windows Server 2022 or later"
        }
        (Operation::OpenSender | Operation::OpenCapture | Operation::Route, WSAEAFNOSUPPORT) => {
            "this address family is switched off on this host"
        }
        (Operation::Route | Operation::Send, WSAEADDRNOTAVAIL) => {
            "this host has no address of that family to send from"
        }
        (Operation::ReservePort, WSAENOBUFS) => {
            "no local port is free; see netsh interface ipv4 show dynamicport"
        }
        (_, WSAEMFILE) => "too many open sockets",
        (_, WSAENETUNREACH | WSAEHOSTUNREACH) => "this host has no route to it",
        (_, WSAENETDOWN) => "the network is down",
        _ => "",
    }
}

/// The error of sending a TCP segment over a raw socket, which client editions refuse; with which
/// code is not documented, and reports name these four. `is_server`: the edition; `None` where it
/// is not known.
pub(crate) fn raw_tcp_error(address: IpAddr, source: io::Error, is_server: Option<bool>) -> NetError {
    let refusals = [WSAEINTR, WSAEACCES, WSAEINVAL, WSAEOPNOTSUPP];
    let refused = source.raw_os_error().is_some_and(|code| refusals.contains(&code));
    let error = error(Operation::Send, Some(address), source);
    if refused && is_server != Some(true) {
        error.with_hint(
            "only Windows Server sends TCP over raw sockets: use the method syn_socket or the Windows driver",
        )
    } else {
        error
    }
}

/// The error of a driver that opens its device but takes no filters: its interface is another one.
pub(crate) fn filter_error(source: io::Error) -> NetError {
    NetError::new(Operation::OpenCapture, None, source)
        .with_hint("needs ddnpm 2.10 or later: update the Datadog Agent")
}

/// Something that only the driver can do here.
pub(crate) fn needs_driver(operation: Operation, address: Option<IpAddr>, what: &str) -> NetError {
    let text = format!("{what} not supported on this platform without the driver");
    NetError::new(
        operation,
        address,
        io::Error::new(io::ErrorKind::Unsupported, text),
    )
    .with_hint("use the Windows driver")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TARGET: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    /// The text of an error whose code means something else, or nothing, on the system that runs
    /// the test.
    fn text(operation: Operation, code: i32) -> String {
        error(operation, Some(TARGET), io::Error::from_raw_os_error(code)).to_string()
    }

    #[test]
    fn missing_rights_name_every_way_out() {
        let text = text(Operation::OpenSender, WSAEACCES);
        for way in ["Administrator", "Windows driver", "ICMP", "syn_socket"] {
            assert!(text.contains(way), "{way}: {text}");
        }
    }

    #[test]
    fn a_choice_that_leads_nowhere_is_named() {
        let from_source = Egress {
            source: Some(TARGET),
            ..Egress::default()
        };
        let by_interface = Egress {
            interface: std::num::NonZeroU32::new(4),
            ..Egress::default()
        };
        let both = Egress {
            interface: by_interface.interface,
            ..from_source
        };
        let hint = |code, egress| no_way(TARGET, egress, io::Error::from_raw_os_error(code)).hint;
        assert_eq!(hint(WSAEADDRNOTAVAIL, &from_source), hints::FOREIGN_SOURCE);
        assert_eq!(hint(WSAENETUNREACH, &by_interface), hints::NO_ROUTE);
        assert!(hint(WSAEADDRNOTAVAIL, &both).contains("choose only one"));
        let unchosen = hint(WSAENETUNREACH, &Egress::default());
        assert_eq!(unchosen, "this host has no route to it");
    }

    #[test]
    fn raw_tcp_on_client_editions_names_what_works() {
        let text = |code, is_server| {
            raw_tcp_error(TARGET, io::Error::from_raw_os_error(code), is_server).to_string()
        };
        for code in [WSAEACCES, WSAEINTR, WSAEINVAL, WSAEOPNOTSUPP] {
            for unlike_server in [Some(false), None] {
                let text = text(code, unlike_server);
                assert!(
                    text.contains("syn_socket") && text.contains("Windows driver"),
                    "{text}"
                );
            }
            assert!(!text(code, Some(true)).contains("syn_socket"), "{code}");
        }
        let no_route = text(WSAENETUNREACH, Some(false));
        assert!(
            no_route.contains("no route") && !no_route.contains("syn_socket"),
            "{no_route}"
        );
    }

    #[test]
    fn a_driver_that_is_missing_or_not_running_says_where_it_comes_from() {
        assert!(text(Operation::StartDriver, ERROR_SERVICE_DOES_NOT_EXIST).contains("Datadog Agent"));
        for code in [ERROR_FILE_NOT_FOUND, ERROR_PATH_NOT_FOUND] {
            assert!(text(Operation::OpenCapture, code).contains("ddnpm is not running"));
        }
        assert!(text(Operation::OpenCapture, ERROR_ACCESS_DENIED).contains("Administrator"));
    }

    #[test]
    fn a_driver_that_is_too_old_says_which_is_needed() {
        let text = filter_error(io::Error::from_raw_os_error(87)).to_string();
        assert!(text.contains("needs ddnpm 2.10 or later"), "{text}");
    }

    #[test]
    fn what_needs_the_driver_says_so() {
        let text = needs_driver(Operation::Connect, Some(TARGET), "SACK traceroute is").to_string();
        assert!(
            text.contains("not supported on this platform without the driver (use the Windows driver)"),
            "{text}"
        );
    }

    proptest! {
        #[test]
        fn any_code_makes_an_error_that_names_its_address(code: i32) {
            prop_assert!(text(Operation::Send, code).contains("192.0.2.1"));
        }
    }
}
