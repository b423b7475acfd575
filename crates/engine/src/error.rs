//! Errors of system calls, with what was attempted and what to do about it.

use std::fmt;
use std::io;
use std::net::IpAddr;

/// What was attempted when the operating system refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Opening the raw socket that sends probes.
    OpenSender,
    /// Opening the capture that sees replies.
    OpenCapture,
    /// Opening an ordinary socket for ICMP echo (Linux, without raw sockets).
    OpenEcho,
    /// Finding the route, and so the source address, to the target.
    Route,
    /// Reserving a local port.
    ReservePort,
    /// Sending a probe.
    Send,
    /// Receiving replies.
    Receive,
    /// Opening the TCP connection that a SACK traceroute needs.
    Connect,
    /// Starting the capture driver (Windows).
    StartDriver,
}

/// A system call that failed.
#[derive(Debug)]
pub struct NetError {
    /// What was attempted.
    pub operation: Operation,
    /// Towards which address, where there is one.
    pub address: Option<IpAddr>,
    /// What the operating system said.
    pub source: io::Error,
    /// What the person at the keyboard can do about it; empty when nothing better than the error
    /// itself is known.
    pub hint: &'static str,
    /// The kernel's send queue is full: trying again a little later helps.
    pub is_queue_full: bool,
}

impl NetError {
    /// An error without a hint.
    pub fn new(operation: Operation, address: Option<IpAddr>, source: io::Error) -> Self {
        NetError {
            operation,
            address,
            source,
            hint: "",
            is_queue_full: false,
        }
    }

    /// The same with advice.
    #[must_use]
    pub fn with_hint(mut self, hint: &'static str) -> Self {
        self.hint = hint;
        self
    }

    /// A copy; `io::Error` itself cannot be cloned.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        let source = match self.source.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(self.source.kind(), self.source.to_string()),
        };
        NetError {
            operation: self.operation,
            address: self.address,
            source,
            hint: self.hint,
            is_queue_full: self.is_queue_full,
        }
    }
}

impl fmt::Display for NetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.operation {
            Operation::OpenSender => "cannot open a raw socket to send probes",
            Operation::OpenCapture => "cannot open a capture socket to see replies",
            Operation::OpenEcho => "cannot open an ICMP socket to send probes",
            Operation::Route => "cannot find a route",
            Operation::ReservePort => "cannot reserve a local port",
            Operation::Send => "cannot send a probe",
            Operation::Receive => "cannot receive replies",
            Operation::Connect => "cannot connect",
            Operation::StartDriver => "cannot start the driver",
        })?;
        if let Some(address) = self.address {
            write!(f, " to {address}")?;
        }
        write!(f, ": {}", self.source)?;
        if !self.hint.is_empty() {
            write!(f, " ({})", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for NetError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
