//! What the running kernel does with ICMP errors, beside what is simulated. The tests take seconds
//! each and say what they have measured: `cargo test -p traceroute-simnet --test kernel --
//! --ignored --nocapture`. They need root.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers outside #[test] functions, and what was measured

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use traceroute_simnet::{Network, Topology};
use traceroute_testbed::{Chain, Node, not_run, require_lab};

const FIRST_PORT: u16 = 33_434;

/// When probes were sent and answered, counted from the first.
struct Measured {
    sent: Vec<Duration>,
    answered: BTreeMap<usize, Duration>,
}

impl Measured {
    fn numbers(&self) -> Vec<usize> {
        self.answered.keys().copied().collect()
    }
}

/// Sends UDP probes from `source`, and waits for errors until `patience` after the last.
fn probe(
    client: &Node,
    ends: (IpAddr, IpAddr),
    ttl: u32,
    probes: u16,
    times: (Duration, Duration),
) -> Measured {
    let (source, target) = ends;
    let (gap, patience) = times;
    let measure = || {
        let domain = Domain::for_address(SocketAddr::new(source, 0));
        let icmp = if source.is_ipv4() {
            Protocol::ICMPV4
        } else {
            Protocol::ICMPV6
        };
        let raw = Socket::new(domain, Type::RAW, Some(icmp)).unwrap();
        raw.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let udp = Socket::new(domain, Type::DGRAM, None).unwrap();
        udp.bind(&SocketAddr::new(source, 0).into()).unwrap();
        if source.is_ipv4() {
            udp.set_ttl_v4(ttl).unwrap();
        } else {
            udp.set_unicast_hops_v6(ttl).unwrap();
        }
        let done = AtomicBool::new(false);
        let start = Instant::now();
        thread::scope(|scope| {
            let answered = scope.spawn(|| receive(&raw, source.is_ipv6(), start, &done));
            let mut sent = Vec::new();
            for number in 0..probes {
                thread::sleep((gap * u32::from(number)).saturating_sub(start.elapsed()));
                let to = SocketAddr::new(target, FIRST_PORT + number);
                udp.send_to(b"probe", &to.into()).unwrap();
                sent.push(start.elapsed());
            }
            thread::sleep(patience);
            done.store(true, Ordering::Relaxed);
            Measured {
                sent,
                answered: answered.join().unwrap(),
            }
        })
    };
    client.enter(measure).unwrap()
}

fn receive(mut raw: &Socket, v6: bool, start: Instant, done: &AtomicBool) -> BTreeMap<usize, Duration> {
    // A raw IPv4 socket delivers the IP header too.
    let (message, port, errors): (usize, usize, &[u8]) = if v6 {
        (0, 8 + 40 + 2, &[1, 3])
    } else {
        (20, 20 + 8 + 20 + 2, &[3, 11])
    };
    let mut answered = BTreeMap::new();
    let mut buffer = [0; 2048];
    while !done.load(Ordering::Relaxed) {
        let Ok(length) = raw.read(&mut buffer) else {
            continue;
        };
        if length >= port + 2 && errors.contains(&buffer[message]) {
            let port = u16::from_be_bytes([buffer[port], buffer[port + 1]]);
            answered
                .entry(usize::from(port - FIRST_PORT))
                .or_insert(start.elapsed());
        }
    }
    answered
}

/// Which probes are answered that are sent at these times to the only router of a simulated path.
fn simulated(limit: &str, v6: bool, sent: &[Duration]) -> Vec<usize> {
    let topology = format!(
        "[[hop]]\nname = \"r\"\nv4 = \"10.0.0.1\"\nv6 = \"fd00::1\"\nicmp = {{ limit = {limit} }}\n\
         [[target]]\nv4 = \"10.0.0.2\"\nv6 = \"fd00::2\""
    );
    let topology = Topology::parse("kernel", &topology).unwrap();
    let mut network = Network::new(&topology, 1);
    let builder = etherparse::PacketBuilder::ipv4([192, 0, 2, 1], [10, 0, 0, 2], 1);
    let mut packet = Vec::new();
    if v6 {
        let addresses = topology_v6();
        let builder = etherparse::PacketBuilder::ipv6(addresses.0, addresses.1, 1);
        builder.udp(1, 2).write(&mut packet, b"probe").unwrap();
    } else {
        builder.udp(1, 2).write(&mut packet, b"probe").unwrap();
    }
    let mut answered = Vec::new();
    for (number, at) in sent.iter().enumerate() {
        network.inject(*at, &packet);
        if network.poll(*at).is_some() {
            answered.push(number);
        }
    }
    answered
}

/// The simulated client's address and the target's.
fn topology_v6() -> ([u8; 16], [u8; 16]) {
    let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    (octets("2001:db8::1"), octets("fd00::2"))
}

/// A sysctl as new namespaces have it.
fn default_sysctl(node: &Node, path: &str) -> String {
    let output = node
        .command("unshare")
        .args(["-n", "cat", path])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Whether at no time one has answered more than one more than the other. The kernel's ticks, which
/// the simulation does not see, explain as much.
fn are_close(measured: &[usize], simulated: &[usize]) -> bool {
    let until = |answered: &[usize], number| answered.partition_point(|other| *other <= number);
    (0..60).all(|number| until(measured, number).abs_diff(until(simulated, number)) <= 1)
}

/// A client, a router with the kernel's own limits, and a target.
fn chain() -> Option<Chain> {
    let lab = require_lab()?;
    if lab.is_unprivileged() {
        not_run("sending from a namespace needs root");
        return None;
    }
    let chain = lab.chain(2).unwrap();
    let router = &chain.routers[0];
    for (path, name) in [
        ("/proc/sys/net/ipv4/icmp_ratelimit", "net.ipv4.icmp_ratelimit"),
        ("/proc/sys/net/ipv4/icmp_ratemask", "net.ipv4.icmp_ratemask"),
        ("/proc/sys/net/ipv6/icmp/ratelimit", "net.ipv6.icmp.ratelimit"),
        ("/proc/sys/net/ipv6/icmp/ratemask", "net.ipv6.icmp.ratemask"),
    ] {
        let value = default_sysctl(router, path);
        println!("{name} = {value}");
        router.sysctl(name, &value).unwrap();
    }
    Some(chain)
}

#[test]
#[ignore = "measures the kernel for half a minute"]
fn the_kernel_limits_errors_as_simulated() {
    let Some(chain) = chain() else { return };
    // Not a divisor of what tokens take, so that a late probe changes nothing.
    let times = (Duration::from_millis(53), Duration::from_millis(200));
    let check = |name: &str, source: IpAddr, target: IpAddr, limit: &str| {
        let measured = probe(&chain.client, (source, target), 1, 60, times);
        println!(
            "{name}: of 60 probes, one each 53 ms, are answered {:?}",
            measured.numbers()
        );
        let (measured, simulated) = (
            measured.numbers(),
            simulated(limit, source.is_ipv6(), &measured.sent),
        );
        assert!(
            are_close(&measured, &simulated),
            "{name}: simulated {simulated:?}"
        );
    };
    let (v4, v6) = (chain.target_v4().into(), chain.target_v6().into());
    check("IPv4", chain.client_v4().into(), v4, "\"linux\"");
    let router = &chain.routers[0];
    let newer = default_sysctl(router, "/proc/sys/net/ipv6/icmp/ratelimit") == "100";
    for prefix in [128, 96, 64, 48, 32, 0] {
        let source: IpAddr = format!("fd00:{:x}::1", 0x1000 + prefix).parse().unwrap();
        chain
            .client
            .ip(&format!("address add {source}/128 dev eth0 nodad"))
            .unwrap();
        let route = match prefix {
            0 => "route replace ::/0 via fd00:1::1".to_owned(),
            128 => format!("route add {source}/128 via fd00:1::1"),
            _ => format!("route add fd00:{:x}::/{prefix} via fd00:1::1", 0x1000 + prefix),
        };
        router.ip(&route).unwrap();
        let limit = if newer {
            "\"linux\"".to_owned()
        } else {
            format!("{{ kind = \"linux\", prefix_v6 = {prefix} }}")
        };
        check(&format!("IPv6, route /{prefix}"), source, v6, &limit);
    }
}

#[test]
#[ignore = "waits seconds for the kernel to give a neighbour up"]
fn the_kernel_answers_for_dead_hosts_as_simulated() {
    let Some(chain) = chain() else { return };
    let times = (Duration::from_millis(100), Duration::from_secs(4));
    for (source, dead) in [
        (chain.client_v4().into(), "10.0.2.99"),
        (IpAddr::from(chain.client_v6()), "fd00:2::99"),
    ] {
        let measured = probe(&chain.client, (source, dead.parse().unwrap()), 9, 10, times);
        println!(
            "{dead}: of 10 probes, one each 100 ms, are answered {:?}",
            measured.answered
        );
        assert_eq!(measured.numbers(), [0, 1, 2, 3, 4, 5]);
        let at: Vec<_> = measured.answered.values().collect();
        assert!(*at[0] > Duration::from_millis(2900) && *at[0] < Duration::from_millis(3500));
        assert!(*at[5] < *at[0] + Duration::from_millis(20));
    }
}
