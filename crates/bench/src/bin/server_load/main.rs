//! Load bench of the HTTP service: N requests at once to one server process over a chain of network
//! namespaces.
//!
//! ```text
//! server_load SERVER [QUERY [REQUESTS [HOPS]]]
//!     SERVER   the program, target/release/datadog-traceroute-server
//!     QUERY    default protocol=udp&traceroute-queries=1&e2e-queries=0&timeout=1000;
//!              the target is added
//!     REQUESTS default 2000
//!     HOPS     default 11
//! ```
//!
//! The exit status is 1 when a figure is missed: all answers 200 with complete paths, no end-to-end
//! probe lost, RTT p99 of 1 ms, 64 MB, and 0.6 ms of CPU time for a request with one run and no
//! end-to-end probes.
//!
//! Server and clients are in the first namespace of the chain. CPU time, memory and descriptors are
//! the server process's alone; the kernel forwards the packets of all hops while its system calls
//! run, so that is in its CPU time.

// Namespaces and `/proc` are Linux's.
#[cfg(target_os = "linux")]
mod linux;

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("The load bench is made of Linux network namespaces.");
    std::process::exit(1);
}
