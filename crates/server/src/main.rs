//! The `datadog-traceroute-server` program: traceroutes over HTTP.

use std::process::ExitCode;

/// Most of what a connection needs is its buffers.
#[global_allocator]
static ALLOCATOR: traceroute_net::BufferPages = traceroute_net::BufferPages;

fn main() -> ExitCode {
    datadog_traceroute_server::main(std::env::args_os().skip(1).collect())
}
