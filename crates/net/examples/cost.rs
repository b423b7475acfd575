//! What a probe and a reply cost on Linux: `cargo run --release -p traceroute-net --example cost`
//! as root.
//!
//! Sends echo requests over the loopback interface of a new network namespace. A send there
//! includes the kernel's work for the reply, since both are done within the system call.

#[cfg(target_os = "linux")]
fn main() {
    linux::main();
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("this measurement is for Linux");
}

#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
mod linux {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
    use std::process::Command;
    use std::time::Instant;

    use socket2::{Domain, Protocol, Socket, Type};
    use traceroute_engine::{Egress, FlowRequest, Network, NetworkEvent, Token};
    use traceroute_wire::{ECHO_PAYLOAD, MAX_PROBE_LEN, Probe, ProbeKind};

    /// Fewer than the capture holds.
    const BURST: u64 = 200;
    const ROUNDS: u64 = 500;

    pub(super) fn main() {
        // SAFETY: no pointers; there is only this thread.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "needs root: {}", std::io::Error::last_os_error());
        let status = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(status.is_ok_and(|status| status.success()), "needs ip(8)");

        println!("resident at start: {} KiB", resident());
        baseline();
        for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            measure(address);
        }
    }

    /// What the system call alone costs, without clocks and send timestamps.
    fn baseline() {
        let raw = Protocol::from(libc::IPPROTO_RAW);
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(raw)).expect("a socket");
        let address = Ipv4Addr::LOCALHOST;
        let mut buffer = [0; MAX_PROBE_LEN];
        let probe = echo(address.into(), 1);
        let packet = probe.encode(&mut buffer).expect("a packet");
        let to = SocketAddr::from((address, 0)).into();
        let count = u128::from(BURST * ROUNDS);
        let start = Instant::now();
        for _ in 0..count {
            socket.send_to(packet, &to).expect("sent");
        }
        println!(
            "bare system call, nobody listening: {} ns per send",
            start.elapsed().as_nanos() / count
        );
    }

    fn measure(address: IpAddr) {
        let mut network =
            traceroute_net::open(traceroute_net::NetworkOptions::default()).expect("the network");
        let request = FlowRequest {
            target: address,
            transport: None,
            port: 0,
            egress: Egress::default(),
        };
        let route = network.open_flow(&request).expect("sockets").route;
        println!("{address}: resident with sockets: {} KiB", resident());
        for (burst, rounds) in [(BURST, ROUNDS), (1, 20_000)] {
            let (mut sending, mut receiving, mut replies) = (0, 0, 0_u64);
            for _ in 0..rounds {
                let start = Instant::now();
                for sequence in 0..burst {
                    let probe = echo(address, sequence as u16);
                    let token = Token {
                        trace: sequence,
                        probe: 0,
                    };
                    network.send_on(&probe, &route, token).expect("sent");
                }
                sending += start.elapsed().as_nanos();
                let start = Instant::now();
                replies += receive(&mut *network, burst);
                receiving += start.elapsed().as_nanos();
            }
            let sent = burst * rounds;
            println!(
                "{address}: bursts of {burst}: {} ns per send, {} ns per reply received, {} of {sent} stamped",
                sending / u128::from(sent),
                receiving / u128::from(replies),
                network.counters().kernel_send_stamps,
            );
        }
        println!("{address}: {:?}", network.counters());
        let start = Instant::now();
        for _ in 0..10_000 {
            receive(&mut *network, 0);
        }
        println!(
            "{address}: {} ns per poll without news",
            start.elapsed().as_nanos() / 10_000
        );
    }

    /// Polls until `count` replies are there, and once at least.
    fn receive(network: &mut dyn Network, count: u64) -> u64 {
        let mut replies = 0;
        loop {
            let now = network.now();
            network
                .poll(Some(now), &mut |event| {
                    replies += u64::from(matches!(event, NetworkEvent::Reply { .. }));
                })
                .expect("poll");
            if replies >= count {
                return replies;
            }
        }
    }

    fn echo(address: IpAddr, sequence: u16) -> Probe {
        Probe {
            source: address,
            destination: address,
            ttl: 64,
            identification: 1,
            flow_label: 1,
            tos: 0,
            dont_fragment: false,
            kind: ProbeKind::Echo {
                identifier: 1,
                sequence,
                tag: 1,
                cookie: [0; 6],
                payload_len: ECHO_PAYLOAD,
            },
        }
    }

    fn resident() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok())
            .unwrap_or(0)
    }
}
