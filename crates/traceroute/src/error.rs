//! Why a request has no report.

use std::fmt;
use std::io;
use std::net::IpAddr;

use traceroute_engine::{NetError, TraceError};
use traceroute_net::EgressError;

use crate::target::ResolveError;
use crate::tracer::{RunError, distinct_messages};

/// Why a request has no report.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The target has no address.
    Resolve(ResolveError),
    /// The target's address is no single host's: unspecified, multicast or broadcast.
    NotAHost(IpAddr),
    /// Every run failed; these are their errors.
    Traces(Vec<RunError>),
    /// Probes cannot leave this host as chosen.
    Egress(EgressError),
    /// The target's name was not resolved in time.
    TooLate,
    /// The probing engine could not be started.
    Start(io::Error),
}

/// The class of an [`Error`], as the HTTP service reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorCode {
    /// The name cannot be resolved.
    Dns,
    /// Something took too long.
    Timeout,
    /// The target refused the connection.
    ConnectionRefused,
    /// No way to the host.
    HostUnreachable,
    /// No way to the network.
    NetworkUnreachable,
    /// The operating system does not allow it.
    Denied,
    /// The request itself is wrong.
    InvalidRequest,
    /// Anything else.
    Unknown,
}

impl ErrorCode {
    /// The name in JSON errors.
    pub fn name(self) -> &'static str {
        match self {
            ErrorCode::Dns => "DNS",
            ErrorCode::Timeout => "TIMEOUT",
            ErrorCode::ConnectionRefused => "CONNREFUSED",
            ErrorCode::HostUnreachable => "HOSTUNREACH",
            ErrorCode::NetworkUnreachable => "NETUNREACH",
            ErrorCode::Denied => "DENIED",
            ErrorCode::InvalidRequest => "INVALID_REQUEST",
            ErrorCode::Unknown => "UNKNOWN",
        }
    }
}

impl Error {
    /// The class of the error; of several different ones, that of the first.
    pub fn code(&self) -> ErrorCode {
        match self {
            Error::Resolve(_) | Error::TooLate => ErrorCode::Dns,
            Error::Egress(EgressError::Mark(error) | EgressError::Unknown(error)) | Error::Start(error) => {
                io_code(error)
            }
            Error::NotAHost(_) | Error::Egress(_) => ErrorCode::InvalidRequest,
            Error::Traces(errors) => errors.first().map_or(ErrorCode::Unknown, run_code),
        }
    }
}

fn run_code(error: &RunError) -> ErrorCode {
    match error {
        RunError::Fatal(error) => run_code(error),
        RunError::Trace(TraceError::Net(error)) => io_code(&error.source),
        RunError::Trace(TraceError::Handshake(_)) => ErrorCode::Timeout,
        RunError::Trace(_) => ErrorCode::Unknown,
    }
}

fn io_code(error: &io::Error) -> ErrorCode {
    match error.kind() {
        io::ErrorKind::TimedOut => ErrorCode::Timeout,
        io::ErrorKind::ConnectionRefused => ErrorCode::ConnectionRefused,
        io::ErrorKind::HostUnreachable => ErrorCode::HostUnreachable,
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => ErrorCode::NetworkUnreachable,
        io::ErrorKind::PermissionDenied => ErrorCode::Denied,
        _ => ErrorCode::Unknown,
    }
}

/// What keeps every run from beginning.
impl From<NetError> for Error {
    fn from(error: NetError) -> Self {
        Error::Traces(vec![RunError::Trace(TraceError::Net(error.into()))])
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Resolve(error) => error.fmt(f),
            Error::NotAHost(address) => {
                write!(
                    f,
                    "{address} is not the address of one host: unspecified, multicast and broadcast addresses have no path"
                )
            }
            Error::Egress(error) => error.fmt(f),
            Error::TooLate => f.write_str("the target's name was not resolved within the request's time"),
            Error::Traces(errors) => f.write_str(&distinct_messages(errors).join("\n")),
            Error::Start(error) if error.kind() == io::ErrorKind::WouldBlock => write!(
                f,
                "cannot start the probing engine: no further thread is allowed ({error}); \
                 raise `ulimit -u` or the pids limit of the container"
            ),
            Error::Start(error) => write!(f, "cannot start the probing engine: {error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Resolve(error) => Some(error),
            Error::Egress(error) => Some(error),
            Error::NotAHost(_) | Error::TooLate => None,
            Error::Traces(errors) => errors.first().map(|error| error as _),
            Error::Start(error) => Some(error),
        }
    }
}

impl From<EgressError> for Error {
    fn from(error: EgressError) -> Self {
        Error::Egress(error)
    }
}

impl From<ResolveError> for Error {
    fn from(error: ResolveError) -> Self {
        Error::Resolve(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_no_thread_left_is_told_which_limit_to_raise() {
        let none_left = Error::Start(io::Error::from(io::ErrorKind::WouldBlock)).to_string();
        assert!(none_left.contains("ulimit -u"), "{none_left}");
        let refused = Error::Start(io::Error::from(io::ErrorKind::PermissionDenied)).to_string();
        assert!(!refused.contains("ulimit"), "{refused}");
    }
}
