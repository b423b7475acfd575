//! Soak test of the HTTP service: mixed load for a time, and a check that nothing is left behind.
//!
//! ```text
//! server_soak SERVER [SECONDS [CLIENTS]]      defaults: 3600 8
//! ```
//!
//! Over a chain of network namespaces, at once: requests of all protocols and both families, streams, clients that go
//! away, half-open and slow clients, bad requests; and hostile packets towards the server: forged, truncated and random ICMP,
//! UDP and TCP from the first router. Every error that was not asked for is reported and makes the exit status 1, as do
//! ports, traces or descriptors left at the end, and memory that grows in the second half.

// Namespaces and `/proc` are Linux's.
#[cfg(target_os = "linux")]
mod linux;

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("The soak test is made of Linux network namespaces.");
    std::process::exit(1);
}
