//! What the operating system is needed for: sending a probe, seeing its replies, and when each
//! happened.
//!
//! [`open`] returns a [`Network`](traceroute_engine::Network), the seam to the engine. It speaks of
//! [`Probe`](traceroute_wire::Probe)s and [`Reply`](traceroute_wire::Reply)s, so a backend may
//! encode and decode packets itself, or let the kernel do it and report which probe was answered.
//! Each operating system is one module; nothing outside this crate asks which one it runs on.
//!
//! | system | backend | chosen |
//! |---|---|---|
//! | Linux | raw sockets, packet capture (`linux`) | if a raw socket may be opened |
//! | Linux | ordinary sockets (`linux/plain`) | otherwise |
//! | macOS | raw sockets, a BPF device for each interface (`macos`) | always |
//! | Windows | raw sockets, and the ICMP API beside them (`windows`) | by default |
//! | Windows | the Datadog Agent's driver (`windows/ddnpm`, `ddnpm`) | by [`NetworkOptions`] |
//! | Windows | the system's own connects (`syn_socket`) | by [`NetworkOptions`] |
//!
//! Linux and macOS share `unix`. What calls no operating system in the Windows and macOS backends
//! (`ddnpm`, `inbox`, `winerror`, `macos/rules`) is tested on Linux.
//!
//! [`access()`] says which Linux backend a process gets. [`diagnose`] looks at everything that
//! decides it, without sending anything. `host` tells what a Linux host does with what it sends, as
//! data; the `doctor` of the command line says what that means.

mod access;
mod diagnosis;
mod egress;
mod host;
mod memory;
mod options;
mod own_addresses;
#[cfg(any(target_os = "linux", target_os = "macos"))]
mod ports;
mod privileges;
mod program;
#[cfg(any(target_os = "linux", target_os = "macos", windows))]
mod route;

// Parts of the Windows backend that call no operating system are tested on all of them.
#[cfg(any(windows, test))]
#[cfg_attr(not(windows), allow(dead_code))]
mod ddnpm;
#[cfg(any(windows, test))]
#[cfg_attr(not(windows), allow(dead_code))]
mod icmp_api;
#[cfg(any(windows, test))]
#[cfg_attr(not(windows), allow(dead_code))]
mod inbox;
#[cfg(any(windows, test))]
#[cfg_attr(not(windows), allow(dead_code))]
mod winerror;

// The one place that asks for the operating system.
#[cfg(any(target_os = "linux", target_os = "macos"))]
mod unix;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
use linux as imp;

#[cfg(target_os = "macos")]
mod macos;
#[cfg(target_os = "macos")]
use macos as imp;

/// What touches no system in it is tested on Linux too.
#[cfg(all(test, target_os = "linux"))]
mod macos {
    mod advice;
    mod rules;
}

#[cfg(windows)]
mod windows;
#[cfg(windows)]
use windows as imp;

#[cfg(not(any(target_os = "linux", target_os = "macos", windows)))]
mod unsupported;
#[cfg(not(any(target_os = "linux", target_os = "macos", windows)))]
use unsupported as imp;

pub use access::Access;
pub use diagnosis::{Finding, PROTOCOLS, Subject, Verdict};
pub use egress::{EgressError, check_egress, interface_index, only_zone};
pub use host::{
    Condition, DefaultRoute, Hook, LocalHost, NatChain, NextHop, Prefix, Routes, Routing, RoutingAction,
    Rule, Translation,
};
#[cfg(target_os = "linux")]
pub use imp::host;
#[cfg(windows)]
pub use imp::start_windows_driver;
pub use imp::{access, diagnose, open, source_address};
#[cfg(target_os = "linux")]
pub use imp::{
    ephemeral_ports, forbid_dumps, ignore_file_size_signal, keep_marking_privileges, keep_probing_privileges,
    most_address_space, most_open_files, unacknowledged,
};
pub use memory::{BufferPages, return_free_memory};
pub use options::NetworkOptions;
pub use own_addresses::OwnAddresses;
pub use privileges::Privileges;
pub use program::program_path;
pub use traceroute_engine::Family;
#[cfg(any(target_os = "linux", target_os = "macos"))]
pub use unix::sys::is_interrupt_ignored;

/// Names a probe in tests that need no more than a number.
#[cfg(all(test, any(target_os = "linux", windows)))]
fn numbered(trace: u64) -> traceroute_engine::Token {
    traceroute_engine::Token { trace, probe: 0 }
}

/// Gives up what probing does not need; this system has nothing of the kind.
///
/// # Errors
/// Always: not supported here.
#[cfg(not(target_os = "linux"))]
pub fn keep_probing_privileges() -> std::io::Result<Privileges> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// As [`keep_probing_privileges`], and keeps what marking packets needs.
///
/// # Errors
/// Always: not supported here.
#[cfg(not(target_os = "linux"))]
pub fn keep_marking_privileges() -> std::io::Result<Privileges> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Keeps what is in this process's memory from others; this system has nothing of the kind.
///
/// # Errors
/// Always: not supported here.
#[cfg(not(target_os = "linux"))]
pub fn forbid_dumps() -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Keeps a full file from ending this process; there is nothing to do here.
#[cfg(not(target_os = "linux"))]
pub fn ignore_file_size_signal() {}

/// How many files this process may have open; nobody asks on this system.
#[cfg(not(target_os = "linux"))]
pub fn most_open_files() -> Option<u64> {
    None
}

/// How many ports the system gives to those who need any; nobody asks on this system.
#[cfg(not(target_os = "linux"))]
pub fn ephemeral_ports() -> Option<u32> {
    None
}

/// How many bytes of addresses this process may use; nobody asks on this system.
#[cfg(not(target_os = "linux"))]
pub fn most_address_space() -> Option<u64> {
    None
}

/// Bytes that a stream socket's peer does not have yet; nobody asks on this system.
#[cfg(not(target_os = "linux"))]
pub fn unacknowledged<S>(_socket: &S) -> Option<usize> {
    None
}

/// What this host does with what it sends; this system does not tell.
#[cfg(not(target_os = "linux"))]
pub fn host() -> Option<LocalHost> {
    None
}

/// Whether this process ignores SIGINT; this system has nothing of the kind.
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
pub fn is_interrupt_ignored() -> bool {
    false
}

/// Starts the driver that [`NetworkOptions::windows_driver`] needs, on Windows; other systems have
/// none and need none.
///
/// # Errors
/// None here.
#[cfg(not(windows))]
pub fn start_windows_driver() -> Result<(), traceroute_engine::NetError> {
    Ok(())
}

/// Whether this operating system reports the answers to its own TCP connects well enough to trace
/// with them (the TCP method `syn_socket`).
pub const SYN_SOCKET_SUPPORTED: bool = cfg!(windows);
