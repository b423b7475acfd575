//! What can be probed here, and what is in the way.

// The decisions for each system, from facts that its backend gathers; tested on all of them.
// Linux's are with its backend.
#[cfg(any(target_os = "macos", test))]
#[cfg_attr(not(target_os = "macos"), allow(dead_code))]
pub(crate) mod macos;
#[cfg(any(windows, test))]
#[cfg_attr(not(windows), allow(dead_code))]
pub(crate) mod windows;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Family;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub subject: Subject,
    /// Whether it is as it should be.
    pub verdict: Verdict,
    /// How it is. For [`Subject::Probing`]: by which sockets, or why not.
    pub text: String,
    /// What to do to make it better, a command where there is one; empty when nothing needs to be
    /// done, or nobody knows.
    pub remedy: String,
}

/// What a [`Finding`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// Probing with a protocol (`udp`, `icmp`, `tcp syn` or `tcp sack`) over IPv4 or IPv6.
    Probing {
        /// The protocol.
        protocol: &'static str,
        /// Over which.
        family: Family,
    },
    /// Something about the system or this process, by its name.
    System(&'static str),
}

/// Whether something is as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Good,
    /// It works, but not as well as it could.
    Limited,
    /// It does not work.
    Bad,
    /// It works, and changes what results mean.
    Notable,
    /// Nobody knows.
    Unknown,
}

/// The protocols that [`Subject::Probing`] is about.
pub const PROTOCOLS: [&str; 4] = ["icmp", "udp", "tcp syn", "tcp sack"];

impl Finding {
    /// A finding that needs no remedy.
    pub fn new(subject: Subject, verdict: Verdict, text: impl Into<String>) -> Self {
        Finding {
            subject,
            verdict,
            text: text.into(),
            remedy: String::new(),
        }
    }

    /// The same with something to do about it.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Probing { protocol, family } => write!(f, "{protocol} over {family}"),
            Subject::System(name) => f.write_str(name),
        }
    }
}

/// Documentation addresses (RFC 5737, RFC 3849), to which nothing is sent.
pub(crate) const ELSEWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// Whether packets get anywhere, on systems that tell no [`LocalHost`](crate::LocalHost). `source`
/// is the address that they would leave [`ELSEWHERE`] from, `command` shows the routes.
#[cfg_attr(target_os = "linux", allow(dead_code))]
pub(crate) fn route(family: Family, source: Option<IpAddr>, command: &str) -> Finding {
    let subject = Subject::System(match family {
        Family::V4 => "IPv4 route",
        Family::V6 => "IPv6 route",
    });
    match source {
        Some(source) => {
            let text = format!("a default route, with source address {source}");
            Finding::new(subject, Verdict::Good, text)
        }
        None => {
            let text = "no default route: only this host and its own networks can be probed";
            Finding::new(subject, Verdict::Limited, text).with_remedy(command)
        }
    }
}

/// For operating systems without a backend.
#[cfg(not(any(target_os = "linux", target_os = "macos", windows)))]
pub(crate) fn unknown() -> Vec<Finding> {
    let probing = |protocol, family| {
        let text = "this platform is not supported";
        Finding::new(Subject::Probing { protocol, family }, Verdict::Bad, text)
    };
    PROTOCOLS
        .into_iter()
        .flat_map(|protocol| Family::ALL.map(|family| probing(protocol, family)))
        .collect()
}
