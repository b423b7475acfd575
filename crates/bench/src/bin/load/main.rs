//! Load bench: N traces at once from one process over a chain of network namespaces without loss.
//!
//! ```text
//! load [PROTOCOL [TRACES [HOPS [FAMILY]]]]     defaults: udp 2000 11 4; PROTOCOL udp, icmp, tcp
//! ```
//!
//! Prints complete paths, RTT percentiles over all hops, CPU per trace, memory above idle and
//! sockets. The kernel forwards the packets of all eleven hops while the sender's system call runs,
//! so the CPU time contains the network's own.

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
