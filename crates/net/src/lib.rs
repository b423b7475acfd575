//! What the operating system is needed for: sending a probe, seeing its replies, and when each happened.
//!
//! [`Network`] is the seam to the engine. It speaks of [`Probe`](traceroute_wire::Probe)s and
//! [`Reply`](traceroute_wire::Reply)s, so a backend may encode and decode packets itself (raw sockets and packet
//! capture) or let the kernel do it and report which probe was answered. Each operating system is one module; nothing
//! outside this crate asks which one it runs on.

mod access;
mod diagnosis;
mod error;
mod network;
mod time;

// The one place that asks for the operating system.
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
use linux as imp;

#[cfg(not(target_os = "linux"))]
mod unsupported;
#[cfg(not(target_os = "linux"))]
use unsupported as imp;

pub use access::Access;
pub use diagnosis::{Finding, PROTOCOLS, Subject, Verdict};
pub use error::{NetError, Operation};
pub use imp::{access, diagnose, open, source_address};
pub use network::{
    Answer, ConnectionId, Counters, Network, NetworkEvent, Options, SendStamp, Token, Transport, Waker,
};
pub use time::Time;

/// Whether this operating system reports the answers to its own TCP connects well enough to trace with them
/// (the TCP method `syn_socket`).
pub const SYN_SOCKET_SUPPORTED: bool = cfg!(windows);
