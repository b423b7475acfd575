//! Checks a choice of how packets leave this host, before any does.

use std::io;
use std::net::IpAddr;
use std::num::NonZeroU32;

use traceroute_engine::Egress;
#[cfg(any(target_os = "macos", windows))]
use traceroute_engine::{NetError, Operation};

use crate::{imp, program_path};

/// How to see what can be chosen.
const LISTED_BY: &str = if cfg!(windows) {
    "`ipconfig` lists those there are"
} else if cfg!(target_os = "linux") {
    "`ip address` lists those there are"
} else {
    "`ifconfig` lists those there are"
};

/// How a link-local address is written with its interface.
const ZONE_EXAMPLE: &str = if cfg!(windows) {
    "%12"
} else if cfg!(target_os = "linux") {
    "%eth0"
} else {
    "%en0"
};

/// Hints on errors of a flow that does not leave as the routing tables say.
#[cfg(any(target_os = "linux", target_os = "macos", windows))]
pub(crate) mod hints {
    pub(crate) const FOREIGN_SOURCE: &str = "the chosen source is no address of this host";
    pub(crate) const NO_ROUTE: &str = "this host has no route to it by the chosen interface";
    pub(crate) const GONE: &str = "the chosen interface is gone";
    pub(crate) const WHICH_ZONE: &str = if cfg!(windows) {
        "a link-local address, and there is not exactly one interface that it could be on: say \
         which, as in fe80::1%12"
    } else if cfg!(target_os = "linux") {
        "a link-local address, and there is not exactly one interface that it could be on: say \
         which, as in fe80::1%eth0"
    } else {
        "a link-local address, and there is not exactly one interface that it could be on: say \
         which, as in fe80::1%en0"
    };
}

/// Why packets cannot leave this host as chosen. Displayed, it says what to do.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// No interface has this name or index.
    #[error("this host has no interface {0:?}; {LISTED_BY}")]
    NoInterface(String),
    /// The source address is not one of this host's.
    #[error("the source {0} is not an address of this host; {LISTED_BY}")]
    ForeignSource(IpAddr),
    /// The source address is this host's, but packets cannot leave from it by the chosen interface.
    #[error("the source {0} is not an address of the chosen interface: choose only one of them")]
    OtherInterface(IpAddr),
    /// The target's zone and the chosen interface are different interfaces.
    #[error(
        "the target is in the zone {zone:?}, which is not the interface {interface:?}: name only one of them"
    )]
    OtherZone {
        /// The zone, as given.
        zone: String,
        /// The interface, as given.
        interface: String,
    },
    /// The chosen source and the target are of different address families.
    #[error("probes cannot go from {source_address} to {target}: take a source of the target's family")]
    OtherFamily {
        /// The source address.
        source_address: IpAddr,
        /// The target's address.
        target: IpAddr,
    },
    /// A link-local target that could be on several interfaces, or on none.
    #[error(
        "{0} is a link-local address, and there is not exactly one interface that it could be on: \
         say which, as in {0}{ZONE_EXAMPLE}"
    )]
    NoZone(IpAddr),
    /// This process may not mark packets, or it cannot be found out.
    #[error(
        "this process may not mark packets: {0}; needs CAP_NET_ADMIN: run with sudo, or \
         `setcap cap_net_raw,cap_net_admin+ep {program}`",
        program = program_path()
    )]
    Mark(io::Error),
    /// The operating system has no marks.
    #[error("this system cannot mark packets, only Linux can: leave the mark out")]
    NoMarks,
    /// The system does not say.
    #[error("cannot find out what addresses this host has: {0}")]
    Unknown(io::Error),
}

/// The index of the interface with a name, or else an index.
///
/// # Errors
/// There is no such interface.
pub fn interface_index(text: &str) -> Result<NonZeroU32, EgressError> {
    let by_name = imp::interface_of_name(text);
    // "+5" would be read as a number, too.
    let digits = || text.bytes().all(|byte| byte.is_ascii_digit());
    by_name
        .or_else(|| {
            text.parse()
                .ok()
                .filter(|_| digits())
                .filter(|index| imp::has_interface(*index))
        })
        .ok_or_else(|| EgressError::NoInterface(text.to_owned()))
}

/// Whether packets can leave this host as chosen: that the source is one of its addresses, and that
/// this process may mark packets. Sends nothing.
///
/// # Errors
/// They cannot.
pub fn check_egress(egress: &Egress) -> Result<(), EgressError> {
    if egress.mark.is_some() {
        imp::check_marking()?;
    }
    let Some(source) = egress.source else {
        return Ok(());
    };
    match imp::is_own_source(source, egress.interface) {
        Ok(true) => Ok(()),
        Ok(false) if egress.interface.is_some() && imp::is_own_source(source, None).unwrap_or(false) => {
            Err(EgressError::OtherInterface(source))
        }
        Ok(false) => Err(EgressError::ForeignSource(source)),
        Err(error) => Err(EgressError::Unknown(error)),
    }
}

/// The interface of a link-local target whose zone was not given: the only one that it can be on.
/// `None` for other targets.
///
/// # Errors
/// There are several, or there is none.
pub fn only_zone(target: IpAddr) -> Result<Option<NonZeroU32>, EgressError> {
    let is_scoped = matches!(target, IpAddr::V6(v6) if v6.is_unicast_link_local());
    if !is_scoped {
        return Ok(None);
    }
    imp::only_zone().map(Some).ok_or(EgressError::NoZone(target))
}

/// Refuses a flow whose packets are to be marked, where no system call marks them.
///
/// # Errors
/// They are.
#[cfg(any(target_os = "macos", windows))]
pub(crate) fn refuse_mark(target: IpAddr, egress: &Egress) -> Result<(), NetError> {
    if egress.mark.is_none() {
        return Ok(());
    }
    let reason = io::Error::new(io::ErrorKind::Unsupported, EgressError::NoMarks.to_string());
    Err(NetError::new(Operation::Route, Some(target), reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn interfaces_that_are_not_there() {
        for text in ["no-such-if", "", "0", "4294967295", "4294967296", "+1", "lo\0"] {
            let error = interface_index(text).expect_err(text).to_string();
            assert!(
                error.contains(&format!("no interface {text:?}; `")),
                "{text:?}: {error}"
            );
        }
    }

    #[cfg(unix)]
    #[test]
    fn an_interface_by_name_and_by_index() {
        let loopback = crate::unix::interfaces::all().expect("interfaces");
        let loopback = loopback
            .iter()
            .find(|interface| interface.is_loopback)
            .expect("one");
        let index = interface_index(&loopback.name).expect("by name");
        assert_eq!(index.get(), loopback.index);
        assert_eq!(interface_index(&index.to_string()).expect("by index"), index);
    }

    #[test]
    fn a_source_must_be_this_hosts() {
        let from = |source| Egress {
            source: Some(ip(source)),
            ..Egress::default()
        };
        assert!(check_egress(&Egress::default()).is_ok());
        assert!(check_egress(&from("127.0.0.1")).is_ok());
        for source in ["192.0.2.77", "2001:db8::77", "224.0.0.1", "0.0.0.0"] {
            let error = check_egress(&from(source)).expect_err(source).to_string();
            assert!(error.contains(source), "{error}");
        }
    }

    #[test]
    fn only_link_local_targets_need_a_zone() {
        for target in ["192.0.2.1", "2001:db8::1", "169.254.0.1"] {
            assert_eq!(only_zone(ip(target)).expect(target), None);
        }
    }
}
