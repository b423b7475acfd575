//! `traceroute-simnet`: the simulated network as a program. See `docs/simulated-network.md`.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
mod cli;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    cli::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("traceroute-simnet needs Linux: it answers behind a TUN device");
    ExitCode::FAILURE
}
