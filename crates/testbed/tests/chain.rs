//! What a chain answers, and the things in it.
#![cfg(target_os = "linux")]
// Helpers are test code too.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{SockRef, Socket};
use traceroute_testbed::{Chain, Node, Reject, Result, not_run, require_lab};

const WAIT: Duration = Duration::from_secs(2);
/// How long to listen where nothing should come.
const SILENCE: Duration = Duration::from_millis(200);

/// Sends an echo request and returns who answered, with the ICMP type and code.
fn ping(from: &Node, target: IpAddr, ttl: u8, wait: Duration) -> Option<(IpAddr, u8, u8)> {
    let (domain, protocol) = if target.is_ipv4() {
        (libc::AF_INET, libc::IPPROTO_ICMP)
    } else {
        (libc::AF_INET6, libc::IPPROTO_ICMPV6)
    };
    // To the standard library, any socket that sends and receives datagrams may be a UDP socket.
    let socket = UdpSocket::from(from.socket(domain, libc::SOCK_RAW, protocol).unwrap());
    socket.set_read_timeout(Some(wait)).unwrap();
    let header = if target.is_ipv4() {
        socket.set_ttl(ttl.into()).unwrap();
        // Echo identifier and sequence 0; the checksum of 0x0800 is its complement.
        [8, 0, 0xf7, 0xff, 0, 0, 0, 0]
    } else {
        // The kernel writes the checksum. RFC 3542 section 3.1
        SockRef::from(&socket).set_unicast_hops_v6(ttl.into()).unwrap();
        [128, 0, 0, 0, 0, 0, 0, 0]
    };
    socket.send_to(&header, (target, 0)).unwrap();
    let deadline = Instant::now() + wait;
    let mut packet = [0; 1500];
    while Instant::now() < deadline {
        let Ok((_, sender)) = socket.recv_from(&mut packet) else {
            break;
        };
        let icmp = if target.is_ipv4() {
            &packet[20..]
        } else {
            &packet[..]
        };
        // Raw ICMPv6 sockets see neighbour discovery and multicast reports as well.
        let is_answer = if target.is_ipv4() {
            icmp[0] != 8
        } else {
            matches!(icmp[0], 1..=4 | 129)
        };
        if is_answer {
            return Some((sender.ip(), icmp[0], icmp[1]));
        }
    }
    None
}

fn assert_answers_at_every_ttl(chain: &Chain) {
    for (index, v4) in chain.hop_addresses_v4().into_iter().enumerate() {
        let ttl = index + 1;
        let (v6, is_target) = (chain.hop_addresses_v6()[index], ttl == chain.hops());
        let answer_v4 = ping(&chain.client, chain.target_v4().into(), ttl as u8, WAIT);
        assert_eq!(
            answer_v4,
            Some((v4.into(), if is_target { 0 } else { 11 }, 0)),
            "TTL {ttl}"
        );
        let answer_v6 = ping(&chain.client, chain.target_v6().into(), ttl as u8, WAIT);
        assert_eq!(
            answer_v6,
            Some((v6.into(), if is_target { 129 } else { 3 }, 0)),
            "hop limit {ttl}"
        );
    }
}

#[test]
fn every_hop_answers_at_its_ttl() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let start = Instant::now();
    let chain = lab.chain(11)?;
    eprintln!("11 hops took {:?}", start.elapsed());
    assert_answers_at_every_ttl(&chain);
    // Longer than an ICMP rate limit would allow (burst of 6, then 1 per second).
    for _ in 0..20 {
        assert!(ping(&chain.client, chain.target_v4().into(), 5, WAIT).is_some());
        assert!(ping(&chain.client, chain.target_v6().into(), 5, WAIT).is_some());
    }
    Ok(())
}

#[test]
fn a_chain_of_one_hop_has_no_router() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    assert_answers_at_every_ttl(&lab.chain(1)?);
    assert!(lab.chain(0).is_err() && lab.chain(251).is_err());
    Ok(())
}

#[test]
fn labs_do_not_disturb_each_other() {
    let build = || {
        let Some(lab) = require_lab() else { return };
        let chain = lab.chain(3).unwrap();
        for _ in 0..5 {
            assert_answers_at_every_ttl(&chain);
        }
    };
    thread::scope(|scope| {
        scope.spawn(build);
        scope.spawn(build);
    });
}

#[test]
fn every_address_can_be_reached_from_everywhere() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(4)?;
    for ttl in 0..=chain.hops() {
        let from = chain.hop(ttl).unwrap();
        let mut addresses: Vec<IpAddr> = chain.hop_addresses_v4().into_iter().map(IpAddr::from).collect();
        addresses.extend(chain.hop_addresses_v6().into_iter().map(IpAddr::from));
        addresses.extend([IpAddr::from(chain.client_v4()), chain.client_v6().into()]);
        for address in addresses {
            let answer = ping(from, address, 64, WAIT).map(|(sender, kind, _)| (sender, kind));
            assert_eq!(
                answer,
                Some((address, if address.is_ipv4() { 0 } else { 129 })),
                "from {from:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn rate_limits_can_be_switched_on() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(3)?;
    chain.routers[0].icmp_rate_limits(true)?;
    let target = IpAddr::from(chain.target_v4());
    assert!((0..50).any(|_| ping(&chain.client, target, 1, SILENCE).is_none()));
    Ok(())
}

#[test]
fn a_silent_router_forwards() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(3)?;
    chain.routers[1].silence()?;
    for target in [IpAddr::from(chain.target_v4()), chain.target_v6().into()] {
        assert_eq!(ping(&chain.client, target, 2, SILENCE), None);
        assert!(ping(&chain.client, target, 1, WAIT).is_some());
        assert_eq!(
            ping(&chain.client, target, 3, WAIT).map(|answer| answer.0),
            Some(target)
        );
    }
    Ok(())
}

#[test]
fn rules_reject_and_drop() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(2)?;
    let (v4, v6) = (IpAddr::from(chain.target_v4()), IpAddr::from(chain.target_v6()));
    chain.routers[0].reject("icmp type echo-request", Reject::AdminProhibited)?;
    chain
        .target
        .reject("icmpv6 type echo-request", Reject::HostUnreachable)?;
    let router = IpAddr::from(chain.hop_addresses_v4()[0]);
    assert_eq!(ping(&chain.client, v4, 9, WAIT), Some((router, 3, 13)));
    assert_eq!(ping(&chain.client, v6, 9, WAIT), Some((v6, 1, 3)));

    // Refused by the router although the target would answer.
    let server = chain.target.listen_udp(0)?;
    chain.routers[0].reject("meta l4proto udp", Reject::PortUnreachable)?;
    for (local, target) in [("0.0.0.0:0", v4), ("[::]:0", v6)] {
        let socket = chain.client.udp_socket(local.parse().unwrap())?;
        socket.set_read_timeout(Some(WAIT)).unwrap();
        socket.connect((target, server.port())).unwrap();
        socket.send(b"hello").unwrap();
        assert_eq!(
            socket.recv(&mut [0; 9]).unwrap_err().kind(),
            ErrorKind::ConnectionRefused
        );
    }

    chain.routers[0].drop_packets("icmpv6 type echo-request")?;
    assert_eq!(ping(&chain.client, v6, 9, SILENCE), None);
    Ok(())
}

/// Connects from the client to the target.
fn connect(chain: &Chain, address: SocketAddr, wait: Duration) -> std::io::Result<TcpStream> {
    let domain = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let socket = Socket::from(chain.client.socket(domain, libc::SOCK_STREAM, 0).unwrap());
    socket.connect_timeout(&address.into(), wait)?;
    socket.set_read_timeout(Some(WAIT))?;
    Ok(socket.into())
}

#[test]
fn servers_answer_both_families() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(2)?;
    let quiet = chain.target.listen_tcp(0)?;
    let greeting = chain.target.listen_tcp_greeting(0, b"hello")?;
    let udp = chain.target.listen_udp(7)?;
    let wildcards = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
    for (target, wildcard) in [IpAddr::from(chain.target_v4()), chain.target_v6().into()]
        .into_iter()
        .zip(wildcards)
    {
        let mut connection = connect(&chain, (target, greeting.port()).into(), WAIT).unwrap();
        let mut word = [0; 5];
        connection.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"hello");

        let mut connection = connect(&chain, (target, quiet.port()).into(), WAIT).unwrap();
        connection.write_all(b"anything").unwrap();
        connection.set_read_timeout(Some(SILENCE)).unwrap();
        assert_eq!(
            connection.read(&mut word).unwrap_err().kind(),
            ErrorKind::WouldBlock
        );

        let client: UdpSocket = chain.client.udp_socket((wildcard, 0).into())?;
        client.set_read_timeout(Some(WAIT)).unwrap();
        client.send_to(b"back", (target, udp.port())).unwrap();
        let (length, sender) = client.recv_from(&mut word).unwrap();
        assert_eq!((&word[..length], sender), (&b"back"[..], (target, 7).into()));
    }
    Ok(())
}

#[test]
fn tcp_ports_are_open_closed_reset_or_filtered() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(2)?;
    let server = chain.target.listen_tcp(80)?;
    chain.target.drop_packets("tcp dport 81")?;
    chain.routers[0].reject("tcp dport 82", Reject::TcpReset)?;
    for target in [IpAddr::from(chain.target_v4()), chain.target_v6().into()] {
        let result = |port| {
            let wait = if port == 81 { SILENCE } else { WAIT };
            connect(&chain, (target, port).into(), wait)
                .map(drop)
                .map_err(|error| error.kind())
        };
        assert_eq!(result(80), Ok(()));
        assert_eq!(result(81), Err(ErrorKind::TimedOut));
        assert_eq!(result(82), Err(ErrorKind::ConnectionRefused));
        assert_eq!(result(83), Err(ErrorKind::ConnectionRefused));
    }
    drop(server);
    let closed = connect(&chain, (chain.target_v4(), 80).into(), WAIT).unwrap_err();
    assert_eq!(closed.kind(), ErrorKind::ConnectionRefused);
    Ok(())
}

#[test]
fn settings_hold_in_the_node_only() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    a.sysctl("net.ipv4.tcp_sack", "0")?;
    let read = |node: &Node| {
        let output = node
            .command("cat")
            .arg("/proc/sys/net/ipv4/tcp_sack")
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!((read(&a).as_str(), read(&b).as_str()), ("0\n", "1\n"));
    let error = a.sysctl("net.ipv4.no_such_thing", "0").unwrap_err().to_string();
    assert!(
        error.contains("no_such_thing") && error.contains("node a"),
        "{error}"
    );
    let error = a.ip("link set no_such_link up").unwrap_err().to_string();
    assert!(
        error.contains("no_such_link") && error.contains("node a"),
        "{error}"
    );
    Ok(())
}

#[test]
fn threads_can_enter_a_node() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let node = lab.node("a")?;
    let here = || {
        std::fs::read_link("/proc/thread-self/ns/net")
            .unwrap()
            .display()
            .to_string()
    };
    let (before, entered) = (here(), node.enter(here));
    if lab.is_unprivileged() {
        assert!(entered.unwrap_err().to_string().contains("unshare -Ur"));
        return Ok(());
    }
    assert_eq!(entered?, format!("net:[{}]", node.namespace_inode()?));
    assert_eq!(before, here());
    Ok(())
}

/// Reads packets until one is UDP over IPv4.
fn read_udp(tun: &mut File) -> Vec<u8> {
    let mut packet = [0; 1500];
    loop {
        let length = tun.read(&mut packet).unwrap();
        if packet[0] >> 4 == 4 && packet[9] == 17 {
            return packet[..length].to_vec();
        }
    }
}

#[test]
fn tun_devices_carry_packets_both_ways() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    if let Err(error) = File::options().read(true).write(true).open("/dev/net/tun") {
        let message = lab.node("a")?.tun("tun0", &[]).unwrap_err().to_string();
        assert!(message.contains("/dev/net/tun"), "{message}");
        not_run(&format!("/dev/net/tun: {error}"));
        return Ok(());
    }
    let node = lab.node("a")?;
    let mut tun = node.tun("tun0", &["10.8.0.1/24", "fd08::1/64"])?;
    node.route_dev("192.0.2.0/24", "tun0")?;
    let socket = node.udp_socket((Ipv4Addr::UNSPECIFIED, 0).into())?;
    socket.send_to(b"out", "192.0.2.1:9").unwrap();
    let mut packet = read_udp(&mut tun);
    assert_eq!(&packet[12..20], &[10, 8, 0, 1, 192, 0, 2, 1]);
    assert_eq!(&packet[28..], b"out");

    // Swapped addresses and ports leave both checksums as they are.
    let (source, destination) = packet[12..20].split_at_mut(4);
    source.swap_with_slice(destination);
    let (source, destination) = packet[20..24].split_at_mut(2);
    source.swap_with_slice(destination);
    tun.write_all(&packet).unwrap();
    let mut answer = [0; 3];
    socket.set_read_timeout(Some(WAIT)).unwrap();
    let (length, sender) = socket.recv_from(&mut answer).unwrap();
    assert_eq!(
        (&answer[..length], sender),
        (&b"out"[..], "192.0.2.1:9".parse().unwrap())
    );
    Ok(())
}

#[test]
fn linked_nodes_reach_each_other() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    let link = lab.link(
        &a,
        &["10.9.0.1/24", "fd09::1/64"],
        &b,
        &["10.9.0.2/24", "fd09::2/64"],
    )?;
    assert_eq!((link.a.as_str(), link.b.as_str()), ("eth0", "eth0"));
    assert!(ping(&a, Ipv4Addr::new(10, 9, 0, 2).into(), 1, WAIT).is_some());
    assert!(ping(&a, "fd09::2".parse().unwrap(), 1, WAIT).is_some());
    Ok(())
}
