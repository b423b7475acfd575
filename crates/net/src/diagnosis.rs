//! What can be probed here, and what is in the way.

use std::fmt;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub subject: Subject,
    /// Whether it is as it should be.
    pub verdict: Verdict,
    /// How it is. For [`Subject::Probing`]: by which sockets, or why not.
    pub text: String,
    /// What to do to make it better, a command where there is one; empty when nothing needs to be done, or nobody knows.
    pub remedy: String,
}

/// What a [`Finding`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// Probing with a protocol (`udp`, `icmp`, `tcp syn` or `tcp sack`) over IPv4 or IPv6.
    Probing {
        /// The protocol.
        protocol: &'static str,
        /// IPv6 and not IPv4.
        v6: bool,
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
            Subject::Probing { protocol, v6 } => write!(f, "{protocol} over IPv{}", if *v6 { 6 } else { 4 }),
            Subject::System(name) => f.write_str(name),
        }
    }
}

/// For operating systems whose backend does not look.
#[cfg_attr(target_os = "linux", expect(dead_code, reason = "this one does"))]
pub(crate) fn unknown() -> Vec<Finding> {
    let probing = |protocol, v6| {
        let text = "this system has not been looked at";
        Finding::new(Subject::Probing { protocol, v6 }, Verdict::Unknown, text)
    };
    PROTOCOLS
        .into_iter()
        .flat_map(|protocol| [probing(protocol, false), probing(protocol, true)])
        .collect()
}
