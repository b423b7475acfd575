//! Looks at what can be probed, and opens the backend: `cargo run -p traceroute-net --example look
//! -- [TARGET]`.
//!
//! It needs every call to the operating system that the backend makes, so it is what shows, by
//! being linked for systems that are not at hand, that all of these exist there.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};

use traceroute_engine::{Egress, FlowRequest};
use traceroute_net::{NetworkOptions, access, diagnose, host, open};

fn main() -> Result<(), Box<dyn Error>> {
    let target = match std::env::args().nth(1) {
        Some(target) => target.parse()?,
        None => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    println!("{}", access());
    for finding in diagnose() {
        println!("{}: {:?}, {}", finding.subject, finding.verdict, finding.text);
    }
    println!("{:?}", host());
    let mut network = open(NetworkOptions::default())?;
    let flow = network.open_flow(&FlowRequest {
        target,
        transport: None,
        port: 0,
        egress: Egress::default(),
    })?;
    println!("to {target} from {}", flow.route.source);
    println!("{:?}", network.counters());
    Ok(())
}
