//! The page in a browser. Needs python3,
//! chromium, chromedriver and axe: `just browser` says where they are.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use std::io;
use std::process::Stdio;

use traceroute_simnet::{Network, Topology, tun};
use traceroute_testbed::{Reject, require_lab};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser.py");
const REFUSED_PORT: u16 = 9999;
const PROGRAM: &str = env!("CARGO_BIN_EXE_datadog-traceroute-server");
/// A balancer over four branches. One of them loses packets.
const DIAMOND: &str = r#"
[client]
v4 = "192.0.2.1"

[[hop]]
name = "r1"
v4 = "10.9.1.1"
delay = 1

[[hop]]
name = "r2"
v4 = "10.9.2.1"
delay = 1
balance = "ports"

[[hop.branch]]
[[hop.branch.hop]]
name = "a"
v4 = "10.9.11.1"
delay = 1

[[hop.branch]]
[[hop.branch.hop]]
name = "b"
v4 = "10.9.12.1"
delay = 2

[[hop.branch]]
[[hop.branch.hop]]
name = "c"
v4 = "10.9.13.1"
delay = 3
forward = { loss = 0.3 }

[[hop.branch]]
[[hop.branch.hop]]
name = "d"
v4 = "10.9.14.1"
delay = 4

[[hop]]
name = "r4"
v4 = "10.9.4.1"
delay = 1

[[target]]
v4 = "198.51.100.11"
delay = 1
"#;

#[test]
#[ignore = "needs a browser"]
fn the_page_draws_the_path_as_it_is_found() {
    let Some(lab) = require_lab() else { return };
    let chain = lab.chain(5).unwrap();
    // Beside the chain a simulated network, which balances.
    let topology = Topology::parse("diamond", DIAMOND).unwrap();
    let (device, _) = chain.client.enter(|| tun::open("diamond")).unwrap().unwrap();
    let script =
        "addr add 192.0.2.1/32 dev diamond\nlink set diamond up\nroute add 198.51.100.0/24 dev diamond\n";
    chain.client.ip(script).unwrap();
    let (stop, running) = io::pipe().unwrap();
    let mut network = Network::new(&topology, 1);
    let simulation = std::thread::spawn(move || tun::run(&device, &mut network, stop));
    let mut server = chain
        .client
        .command(PROGRAM)
        .args(["--addr", "127.0.0.1:3765"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let refused = format!("udp dport {REFUSED_PORT}");
    chain.routers[2]
        .reject(&refused, Reject::AdminProhibited)
        .unwrap();
    let status = chain
        .client
        .command("python3")
        .args([SCRIPT, "http://127.0.0.1:3765", &chain.target_v4().to_string()])
        .args([&REFUSED_PORT.to_string(), "198.51.100.11"])
        .status()
        .unwrap();
    let _ = server.kill();
    let _ = server.wait();
    drop(running);
    simulation.join().unwrap().unwrap();
    assert!(status.success());
}
