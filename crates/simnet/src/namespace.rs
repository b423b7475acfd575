//! Network namespaces and the client's side of the TUN device: addresses and routes.

use std::io::{self, Write};
use std::net::IpAddr;
use std::process::{Command, Stdio};

use crate::sys;
use crate::topology::Topology;

/// Moves the calling thread, and what it starts from now on, into a new network namespace that vanishes with them.
/// Ordinary users get a new user namespace around it, in which they are root; for that the process must have only
/// one thread (unshare(2)). Returns whether it is so.
///
/// # Errors
/// When the kernel or the container forbids it.
pub fn enter() -> io::Result<bool> {
    let (user, group) = sys::user_and_group();
    let as_user = user != 0;
    let flags = libc::CLONE_NEWNET | if as_user { libc::CLONE_NEWUSER } else { 0 };
    sys::unshare(flags).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot create a network namespace: {error}"),
        )
    })?;
    if as_user {
        // user_namespaces(7): groups can be mapped only after setgroups(2) was given up.
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
        std::fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
    }
    ip(&["link set dev lo up".to_owned()])?;
    Ok(as_user)
}

/// Gives `device` the client's addresses and brings it up, with routes to all simulated addresses; with
/// `default_routes`, to everything.
///
/// # Errors
/// When iproute2 is missing or refuses. IPv6 alone failing is no error but `Ok(false)`: kernels without it exist.
pub fn configure(device: &str, topology: &Topology, default_routes: bool) -> io::Result<bool> {
    ip(&[
        format!("link set dev {device} addrgenmode none"),
        format!("link set dev {device} up"),
    ])?;
    let commands = |v6| family_commands(device, topology, default_routes, v6);
    ip(&commands(false))?;
    Ok(ip(&commands(true)).is_ok())
}

fn family_commands(device: &str, topology: &Topology, default_routes: bool, v6: bool) -> Vec<String> {
    let of_family = |address: &IpAddr| address.is_ipv6() == v6;
    let (length, options, default) = if v6 {
        (128, " nodad", "::/0")
    } else {
        (32, "", "0.0.0.0/0")
    };
    let client = topology.client_addresses().into_iter().filter(of_family);
    let mut commands: Vec<String> = client
        .map(|address| format!("address add {address}/{length} dev {device}{options}"))
        .collect();
    let simulated = topology.simulated_addresses().into_iter().filter(of_family);
    commands.extend(simulated.map(|address| format!("route add {address}/{length} dev {device}")));
    if default_routes {
        commands.push(format!("route add {default} dev {device}"));
    }
    commands
}

/// Runs commands with ip(8) until one fails.
fn ip(commands: &[String]) -> io::Result<()> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("cannot run ip (from iproute2): {error}")))?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all((commands.join("\n") + "\n").as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().replace('\n', ", ");
    Err(io::Error::other(format!("ip: {message}")))
}
