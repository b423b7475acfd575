//! Network namespaces and the client's side of the TUN device: addresses and routes.

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv6Addr};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::sys;
use crate::topology::Topology;

/// How long the kernel may take to make an address its own.
const PATIENCE: Duration = Duration::from_secs(10);

/// Moves the calling thread, and what it starts from now on, into a new network namespace that
/// vanishes with them. Ordinary users get a new user namespace around it, in which they are root;
/// for that the process must have only one thread (unshare(2)). Returns whether it is so.
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
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
        fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
    }
    sys::bring_up("lo")?;
    Ok(as_user)
}

/// Gives `device` the client's addresses and brings it up, with routes to all simulated addresses;
/// with `default_routes`, to everything.
///
/// # Errors
/// When iproute2 is missing or refuses. IPv6 alone failing is no error but `Ok(false)`: kernels
/// without it exist.
pub fn configure(device: &str, topology: &Topology, default_routes: bool) -> io::Result<bool> {
    let mut commands = vec![
        format!("link set dev {device} addrgenmode none"),
        format!("link set dev {device} up"),
    ];
    commands.extend(family_commands(device, topology, default_routes, false));
    ip(&commands)?;
    if ip(&family_commands(device, topology, default_routes, true)).is_err() {
        return Ok(false);
    }
    let mut addresses: Vec<Ipv6Addr> = topology
        .client_addresses()
        .into_iter()
        .filter_map(|address| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address),
        })
        .collect();
    // The kernel has a worker do the rest of adding an IPv6 address. Until then it drops what comes
    // for it.
    let begin = Instant::now();
    while !addresses.is_empty() {
        let routes = fs::read_to_string("/proc/thread-self/net/ipv6_route")?;
        addresses.retain(|address| !is_local(&routes, *address));
        if begin.elapsed() > PATIENCE {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the kernel does not take {addresses:?} for its own"),
            ));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(true)
}

/// Whether the kernel's list of routes has an address as its own: destination, prefix length and,
/// last but one, flags, all in hexadecimal (`RTF_LOCAL` in `linux/ipv6_route.h`).
fn is_local(routes: &str, address: Ipv6Addr) -> bool {
    const RTF_LOCAL: u32 = 0x8000_0000;
    let destination = format!("{:032x}", u128::from(address));
    routes.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let flags = fields
            .get(8)
            .and_then(|flags| u32::from_str_radix(flags, 16).ok());
        fields.first() == Some(&destination.as_str())
            && fields.get(1) == Some(&"80")
            && flags.is_some_and(|flags| flags & RTF_LOCAL != 0)
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_the_kernels_own_with_a_local_route_only() {
        let route = |flags: &str| {
            let zero = "0".repeat(32);
            format!(
                "20010db8000000000000000000000007 80 {zero} 00 {zero} 00000000 00000002 00000000 {flags}     tun0\n"
            )
        };
        let address = "2001:db8::7".parse().expect("address");
        let other = "2001:db8::8".parse().expect("address");
        assert!(!is_local(&route("00200200"), address));
        let both = route("00200200") + &route("80200001");
        assert!(is_local(&both, address));
        assert!(!is_local(&both, other));
        assert!(!is_local("", address));
    }
}
