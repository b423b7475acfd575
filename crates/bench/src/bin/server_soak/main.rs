//! Soak test of the HTTP service: mixed load for a time, and a check that nothing is left behind.
//!
//! ```text
//! server_soak SERVER [SECONDS [CLIENTS]]      defaults: 3600 8
//! server_soak siege SERVER [SECONDS]           default: 900
//! server_soak attacks SERVER [SECONDS [NAME]]  default: 20 each, all
//! ```
//!
//! Over a chain of network namespaces, at once: requests and streams of all protocols and both
//! families, clients that go away, half-open clients, slow ones and slow readers, bad requests; and
//! hostile packets towards the server: forged, truncated and random ICMP of both families, UDP and
//! TCP, from the first router and from the target. Every error that was not asked for is reported
//! and makes the exit status 1, as do errors in the log, requests, ports, traces or descriptors
//! left at the end, memory that grows in the second half, a service that does not end well, and
//! hostility that did not arrive.
//!
//! `siege` is everything that strangers and clients with a token may try, at once and as fast as
//! they can, on the arguments and the memory of the Kubernetes manifest. Beside it, health is asked
//! for and a patient client traces. Health later than 100 ms at the 99th percentile, a client that
//! is not served, a restart or an error in the log makes the exit status 1.
//!
//! `attacks` is the same for each attack by itself, as a table.

// Namespaces and `/proc` are Linux's.
#[cfg(target_os = "linux")]
mod hostile;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
mod siege;

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("The soak test is made of Linux network namespaces.");
    std::process::exit(1);
}
