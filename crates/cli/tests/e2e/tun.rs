//! Devices without a link layer, such as VPNs have: a simulated path behind a TUN device.

use std::io;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use traceroute_simnet::{Network, Topology, tun};
use traceroute_testbed::{Error, Node, Result, not_run, require_lab};

use crate::program::{hops, trace};

const TOPOLOGY: &str = r#"
[client]
v4 = "10.0.0.2"
v6 = "2001:db8::2"

[[hop]]
name = "first"
v4 = "10.0.0.1"
v6 = "2001:db8::1"
delay = 0.5

[[hop]]
name = "second"
v4 = "10.0.1.1"
v6 = "2001:db8:1::1"
delay = 0.5

[[target]]
v4 = "198.51.100.1"
v6 = "2001:db8:ffff::1"
delay = 1

[target.tcp]
open = [80]
"#;

/// Does something in a node behind whose TUN device there is nothing but a simulated network. Not
/// at all where there can be no such device, after saying so.
pub(crate) fn behind_a_tunnel(topology: &Topology, act: impl FnOnce(&Node)) -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let client = lab.node("client")?;
    let addresses: Vec<String> = topology
        .client_addresses()
        .into_iter()
        .map(|address| format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 }))
        .collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let device = match client.tun("tunnel", &addresses) {
        Err(Error::System { what, source }) => {
            not_run(&format!("cannot {what}: {source}"));
            return Ok(());
        }
        device => device?,
    };
    client.route_dev("0.0.0.0/0", "tunnel")?;
    client.route_dev("::/0", "tunnel")?;
    fcntl(&device, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let (stop, running) = io::pipe().unwrap();
    let mut network = Network::new(topology, 1);
    let simulation = std::thread::spawn(move || tun::run(&device, &mut network, stop));
    act(&client);
    drop(running);
    simulation.join().unwrap().unwrap();
    Ok(())
}

#[test]
fn a_path_behind_a_tunnel_is_seen() -> Result<()> {
    let topology = Topology::parse("tunnel", TOPOLOGY).unwrap();
    behind_a_tunnel(&topology, |client| {
        let paths = [
            ["10.0.0.1", "10.0.1.1", "198.51.100.1"],
            ["2001:db8::1", "2001:db8:1::1", "2001:db8:ffff::1"],
        ];
        for path in paths {
            for method in [
                "-P udp",
                "-P icmp",
                "-P tcp -p 80",
                "-P tcp -p 80 --tcp-method sack",
            ] {
                let report = trace(client, path[2], &format!("{method} -q 1 -Q 1"));
                assert_eq!(
                    hops(&report),
                    path.map(|hop| Some(hop.parse().unwrap())),
                    "{method}"
                );
                assert_eq!(report.e2e.received, 1, "{method}");
                // 0.5 ms there and back to the first hop, 2 ms of links to the target.
                let rtts: Vec<f64> = report.runs[0]
                    .hops
                    .iter()
                    .map(|hop| hop.answer.unwrap().1)
                    .collect();
                assert!(
                    rtts[0] >= 1.0 && rtts[1] >= 2.0 && rtts[2] >= 4.0,
                    "{method}: {rtts:?}"
                );
            }
        }
    })
}
