//! The `datadog-traceroute-server` program: traceroutes over HTTP.

use std::process::ExitCode;

fn main() -> ExitCode {
    datadog_traceroute_server::main(std::env::args_os().skip(1).collect())
}
