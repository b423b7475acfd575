//! The `datadog-traceroute` command line program.

fn main() {}
