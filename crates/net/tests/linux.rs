//! The Linux backend against the kernel, in network namespaces.
#![cfg(target_os = "linux")]
#![allow(unsafe_code)]

mod support;

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use support::{
    BOTH, Event, LOCALHOST, LOCALHOST_V6, Subject, alone, echo, heavy_load, ip, isolated, not_run, numbered,
    probe, request, run, syn, udp,
};
use traceroute_engine::{Capabilities, ConnectionId, Token, Transport};
use traceroute_net::Access;
use traceroute_wire::{
    ECHO_PAYLOAD, IcmpError, MAX_PROBE_LEN, Probe, ProbeKind, Quoted, QuotedTransport, ReplyKind,
};

/// Nothing listens here in a fresh namespace.
const CLOSED: u16 = 9;

/// The quote of an ICMP error.
fn quoted(kind: ReplyKind) -> (IcmpError, Quoted) {
    match kind {
        ReplyKind::IcmpError { error, quoted, .. } => (error, quoted),
        other => panic!("not an ICMP error: {other:?}"),
    }
}

#[test]
fn udp_to_a_closed_port_is_answered_with_our_packet() {
    isolated(|| {
        let mut subject = Subject::new();
        for address in BOTH {
            assert_eq!(subject.prepare(address).source, address);
            let port = subject.reserve(Transport::Udp, address);
            let probe = probe(address, udp(port, CLOSED));
            subject.send(&probe, 1);
            let (reply, _) = subject.reply();
            assert_eq!((reply.source, reply.destination), (address, address));
            let (error, quoted) = quoted(reply.kind);
            let code = if address.is_ipv4() { 3 } else { 4 };
            assert_eq!(error, IcmpError::Unreachable { code });
            assert_eq!(quoted.tag(), Some(0x0ABC));
            assert_eq!(quoted.ttl, 7);
            if address.is_ipv4() {
                assert_eq!(quoted.identification, 0x1234);
            } else {
                assert_eq!(quoted.flow_label, 0x54321);
            }
            match quoted.transport {
                QuotedTransport::Udp {
                    source_port,
                    destination_port,
                    ..
                } => assert_eq!((source_port, destination_port), (port, CLOSED)),
                other => panic!("quotes {other:?}"),
            }
        }
    });
}

#[test]
fn an_echo_is_answered_once() {
    isolated(|| {
        let mut subject = Subject::new();
        for address in BOTH {
            subject.prepare(address);
            subject.send(&probe(address, echo(1)), 1);
            subject.send(&probe(address, echo(2)), 2);
            let is_reply = |event: &Event, wanted: u16| match event {
                Event::Reply(reply, _) => {
                    matches!(reply.kind, ReplyKind::Echo { identifier: 0xBEEF, sequence, cookie: Some(cookie) }
                        if sequence == wanted && &cookie == b"cookie")
                }
                _ => false,
            };
            // A second copy of the first answer would have come before the answer to the second
            // probe.
            let seen = subject.collect(|event| is_reply(event, 2));
            assert_eq!(
                seen.iter().filter(|event| is_reply(event, 1)).count(),
                1,
                "{seen:?}"
            );
            let replies = seen
                .iter()
                .filter(|event| matches!(event, Event::Reply(..) | Event::Ignored(_)));
            assert_eq!(replies.count(), 2, "{seen:?}");
        }
    });
}

/// Also where a firewall of this host drops them, so that only the capture has them.
#[test]
fn answers_of_any_length_are_read() {
    isolated(|| {
        run("nft", "add table inet t");
        run(
            "nft",
            "add chain inet t i { type filter hook input priority 0 ; }",
        );
        for is_dropped in [false, true] {
            if is_dropped {
                let kinds = "{ echo-reply, destination-unreachable }";
                run("nft", &format!("add rule inet t i icmp type {kinds} drop"));
                run("nft", &format!("add rule inet t i icmpv6 type {kinds} drop"));
            }
            let mut subject = Subject::new();
            for address in BOTH {
                subject.prepare(address);
                let port = subject.reserve(Transport::Udp, address);
                for (token, payload_len) in
                    (1..).zip([18, 350, 370, 390, 410, 500, 1000, 1400, 1500, 9000, 60_000])
                {
                    for mut kind in [echo(token), udp(port, CLOSED)] {
                        match &mut kind {
                            ProbeKind::Echo {
                                payload_len: length, ..
                            }
                            | ProbeKind::Udp {
                                payload_len: length, ..
                            } => {
                                *length = payload_len;
                            }
                            _ => {}
                        }
                        // Linux limits errors, not those to this host itself.
                        subject.send(&probe(address, kind), token.into());
                        let seen =
                            subject.collect(|event| matches!(event, Event::Reply(..) | Event::Ignored(_)));
                        let is_right = |event: &Event| match event {
                            Event::Reply(reply, _) => match (reply.kind, kind) {
                                (ReplyKind::Echo { sequence, cookie, .. }, ProbeKind::Echo { .. }) => {
                                    sequence == token && cookie == Some(*b"cookie")
                                }
                                (ReplyKind::IcmpError { .. }, ProbeKind::Udp { .. }) => true,
                                _ => false,
                            },
                            Event::Sent(..) => true,
                            _ => false,
                        };
                        assert!(
                            seen.iter().all(is_right),
                            "{address} {payload_len} {is_dropped}: {seen:?}"
                        );
                    }
                }
            }
        }
        run("nft", "delete table inet t");
    });
}

#[test]
fn a_syn_is_answered_by_the_target() {
    isolated(|| {
        let mut subject = Subject::new();
        for address in BOTH {
            let listener = TcpListener::bind((address, 0)).expect("a listener");
            let open = listener.local_addr().expect("its address").port();
            for target in [open, CLOSED] {
                let port = subject.reserve(Transport::Tcp, address);
                subject.send(&probe(address, syn(port, target)), 1);
                let (reply, _) = subject.reply();
                let ReplyKind::Tcp(tcp) = reply.kind else {
                    panic!("{reply:?}")
                };
                assert_eq!((tcp.source_port, tcp.destination_port), (target, port));
                assert_eq!(tcp.acknowledgment, 0x0102_0305);
                assert!(tcp.flags.ack);
                assert_eq!((tcp.flags.syn, tcp.flags.rst), (target == open, target == CLOSED));
                // Once more for the reset that our kernel sends to an open port's answer, which
                // passes the same interface.
                subject.release(Transport::Tcp, address, port);
                let now = subject.network.now();
                subject.poll_until(now);
            }
        }
    });
}

#[test]
fn the_kernel_says_when_a_probe_left_before_its_reply() {
    isolated(|| {
        let mut subject = Subject::new();
        for address in BOTH {
            subject.prepare(address);
            for token in 1..=200 {
                let handed_over = subject.send(&probe(address, echo(token as u16)), token);
                let seen = subject.collect(|event| matches!(event, Event::Reply(..)));
                let now = subject.network.now();
                let [Event::Sent(about, left), Event::Reply(_, arrived)] = seen[..] else {
                    panic!("{seen:?}")
                };
                assert_eq!(about, numbered(token));
                assert!(handed_over <= left, "handed over {handed_over:?}, left {left:?}");
                assert!(left <= arrived, "left {left:?}, arrived {arrived:?}");
                assert!(arrived <= now, "arrived {arrived:?}, now {now:?}");
                assert!(arrived.since(left) < Duration::from_secs(1));
            }
        }
        assert_eq!(subject.network.counters().kernel_send_stamps, 400);
        assert_eq!(subject.network.counters().sent, 400);
    });
}

#[test]
fn a_reply_is_stamped_on_arrival_however_late_it_is_read() {
    isolated(|| {
        let mut subject = Subject::new();
        subject.prepare(LOCALHOST);
        let handed_over = subject.send(&probe(LOCALHOST, echo(1)), 1);
        let sent = subject.network.now();
        while subject.network.now().since(sent) < Duration::from_millis(300) {
            std::hint::spin_loop();
        }
        let (_, arrived) = subject.reply();
        assert!(
            arrived.since(handed_over) < Duration::from_millis(200),
            "{:?}",
            arrived.since(handed_over)
        );
    });
}

/// The interface tun0: what is routed to it is read from the file, and what is written there
/// arrives from it.
///
/// `None`: this user may not have one, which is said.
fn tun() -> Option<File> {
    #[repr(C)]
    struct Request {
        name: [u8; libc::IFNAMSIZ],
        flags: libc::c_short,
        padding: [u8; 22],
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun");
    let file = match file {
        Ok(file) => file,
        Err(error) => {
            not_run(&format!("/dev/net/tun: {error}"));
            return None;
        }
    };
    let mut request = Request {
        name: [0; libc::IFNAMSIZ],
        flags: (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short,
        padding: [0; 22],
    };
    request.name[..4].copy_from_slice(b"tun0");
    // SAFETY: TUNSETIFF takes a struct ifreq, which `Request` is laid out as, size included.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(result, 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
    Some(file)
}

/// The next packet routed to a tun interface that has this protocol: the kernel sends some of its
/// own.
fn read_packet(tun: &mut File, is_wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut buffer = [0; 2048];
    for _ in 0..10_000 {
        match tun.read(&mut buffer) {
            Ok(length) if is_wanted(&buffer[..length]) => return buffer[..length].to_vec(),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(error) => panic!("reading from tun: {error}"),
        }
    }
    panic!("the probe did not get to the tun interface");
}

/// RFC 1071.
fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

#[test]
fn a_link_without_link_layer_is_captured() {
    isolated(|| {
        let Some(mut tun) = tun() else {
            return;
        };
        ip("addr add 10.9.0.1/24 dev tun0");
        ip("link set tun0 up");
        let source: IpAddr = "10.9.0.1".parse().expect("address");
        let target: IpAddr = "10.9.0.77".parse().expect("address");
        let mut subject = Subject::new();
        assert_eq!(subject.prepare(target).source, source);
        let port = subject.reserve(Transport::Udp, target);
        let probe = Probe {
            source,
            destination: target,
            ..probe(source, udp(port, 33_434))
        };
        subject.send(&probe, 1);

        let mut buffer = [0; MAX_PROBE_LEN];
        let packet = read_packet(&mut tun, |packet| packet.get(9) == Some(&17));
        assert_eq!(
            Some(&packet[..]),
            probe.encode(&mut buffer),
            "the probe on the wire"
        );

        let router = [10, 9, 0, 2];
        let mut message = [&[11, 0, 0, 0, 0, 0, 0, 0], &packet[..28]].concat();
        let sum = checksum(&[&message]);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut header = [
            &[0x45, 0, 0, 20 + 36, 0, 1, 0, 0, 60, 1, 0, 0][..],
            &router,
            &[10, 9, 0, 1],
        ]
        .concat();
        let sum = checksum(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        tun.write_all(&[header, message].concat())
            .expect("written to tun");

        let (reply, _) = subject.reply();
        assert_eq!(reply.source, IpAddr::from(router));
        assert_eq!(reply.ttl, 60);
        let (error, quoted) = quoted(reply.kind);
        assert_eq!(error, IcmpError::TimeExceeded);
        assert_eq!(quoted.tag(), Some(0x0ABC));
    });
}

#[test]
fn a_link_local_target_is_probed_on_its_interface() {
    isolated(|| {
        let Some(mut tun) = tun() else {
            return;
        };
        // Only this address, so that the interface and the source are known.
        ip("link set tun0 addrgenmode none");
        ip("link set tun0 up");
        ip("addr add fe80::1/64 dev tun0 nodad");
        let source: IpAddr = "fe80::1".parse().expect("address");
        let target: IpAddr = "fe80::2".parse().expect("address");
        let mut subject = Subject::new();
        let route = subject.prepare(target);
        assert_eq!(route.source, source);
        let port = subject.reserve(Transport::Udp, target);
        let probe = Probe {
            source,
            destination: target,
            ..probe(source, udp(port, 33_434))
        };
        let sent = subject.network.send_on(&probe, &route, numbered(1));
        sent.expect("sent");
        let mut buffer = [0; MAX_PROBE_LEN];
        let packet = read_packet(&mut tun, |packet| packet.get(6) == Some(&17));
        assert_eq!(
            Some(&packet[..]),
            probe.encode(&mut buffer),
            "the probe on the wire"
        );

        // Another interface gets the address.
        // Whoever holds a copy of its file: a program that another test starts does for a moment.
        ip("link delete tun0");
        drop(tun);
        ip("link add other type veth peer name end");
        ip("link set other addrgenmode none");
        ip("link set end addrgenmode none");
        ip("link set other up");
        ip("link set end up");
        ip("addr add fe80::1/64 dev other nodad");
        let route = subject.prepare(target);
        assert_eq!(route.source, source);
        let sent = subject.network.send_on(&probe, &route, numbered(2));
        sent.expect("sent");
    });
}

#[test]
fn foreign_traffic_never_gets_in_not_even_while_the_capture_opens() {
    isolated(|| {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let sink = UdpSocket::bind((LOCALHOST, 0)).expect("a socket");
        let to = sink.local_addr().expect("its address");
        let flood = std::thread::spawn({
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            move || {
                let socket = UdpSocket::bind((LOCALHOST, 0)).expect("a socket");
                while !stop.load(Ordering::Relaxed) {
                    let is_sent = socket.send_to(&[0; 16], to).is_ok();
                    sent.fetch_add(u64::from(is_sent), Ordering::Relaxed);
                }
            }
        });
        let has_sent = |packets| sent.load(Ordering::Relaxed) > packets;
        while !has_sent(0) {
            std::thread::yield_now();
        }
        let mut rounds = 0;
        // On a busy machine fewer packets would tell too little.
        while rounds < 20 || !has_sent(1_000) {
            rounds += 1;
            let mut subject = Subject::new();
            subject.prepare(LOCALHOST);
            subject.send(&probe(LOCALHOST, echo(1)), 1);
            let seen = subject.collect(|event| matches!(event, Event::Reply(..)));
            assert!(
                !seen.iter().any(|event| matches!(event, Event::Ignored(_))),
                "{seen:?}"
            );
            assert_eq!(subject.network.counters().captured, 1);
        }
        stop.store(true, Ordering::Relaxed);
        flood.join().expect("the flood");
    });
}

#[test]
fn drops_by_the_kernel_are_counted() {
    isolated(|| {
        // More than fit: 8192 frames of a ring, or some 10,000 packets of a queue's 8 MiB.
        let probes = if heavy_load() { 12_000 } else { 30_000 };
        let mut subject = Subject::new();
        subject.prepare(LOCALHOST);
        for token in 0..probes {
            subject.send(&probe(LOCALHOST, echo(token as u16)), token);
        }
        let (mut replies, mut batches) = (0, 0);
        loop {
            let now = subject.network.now();
            let seen = subject.poll_until(now);
            let found = seen
                .iter()
                .filter(|event| matches!(event, Event::Reply(..)))
                .count();
            assert!(found <= 128, "a batch of {found}");
            if found == 0 {
                break;
            }
            replies += found as u64;
            batches += 1;
        }
        let counters = subject.network.counters();
        assert_eq!(counters.captured, probes);
        // What the capture had no room for may have been delivered to the sockets behind the
        // firewall.
        assert!(
            counters.kernel_drops >= probes - replies,
            "{replies} replies, {counters:?}"
        );
        assert!(
            replies >= 8_192 && counters.kernel_drops > 0,
            "{replies} replies, {counters:?}"
        );
        assert!(batches >= 32);

        // And it goes on as if nothing had been.
        subject.send(&probe(LOCALHOST, echo(1)), probes);
        subject.reply();
        assert_eq!(
            subject.network.counters().kernel_drops,
            counters.kernel_drops,
            "drops are not counted twice"
        );
    });
}

/// More than any capture has room for.
const FLOOD: u64 = 20_000;

#[test]
fn a_network_at_rest_captures_nothing() {
    isolated(|| {
        let mut subject = Subject::new();
        for address in BOTH {
            subject.prepare(address);
            let port = subject.reserve(Transport::Tcp, address);
            subject.network.rest();
            let before = subject.network.counters();
            for number in 0..FLOOD {
                subject.send(&probe(address, echo(1)), number);
            }
            subject.prepare(address);
            // The ports that it watched before are watched again.
            subject.send(&probe(address, syn(port, CLOSED)), FLOOD);
            let (reply, _) = subject.reply();
            assert!(matches!(reply.kind, ReplyKind::Tcp(_)), "{reply:?}");
            let after = subject.network.counters();
            assert!(after.captured - before.captured <= 2, "{before:?} {after:?}");
            assert_eq!(after.kernel_drops, 0);
        }
    });
}

#[test]
fn stamps_of_a_backlog_stay_as_they_are() {
    const PROBES: u16 = 200;
    isolated(|| {
        let mut subject = Subject::new();
        for address in BOTH {
            subject.prepare(address);
            for sequence in 1..=PROBES {
                subject.send(&probe(address, echo(sequence)), sequence.into());
            }
            let sent = subject.network.now();
            // Longer than the kernel ordinarily takes from stamping to delivering.
            while subject.network.now() < sent + Duration::from_millis(60) {
                std::hint::spin_loop();
            }
            let is_last = |event: &Event| matches!(event, Event::Reply(reply, _) if matches!(reply.kind, ReplyKind::Echo { sequence: PROBES, .. }));
            let times: Vec<_> = subject
                .collect(is_last)
                .into_iter()
                .filter_map(|event| match event {
                    Event::Reply(_, at) => Some(at),
                    _ => None,
                })
                .collect();
            assert_eq!(times.len(), usize::from(PROBES));
            // Loopback answers within the system call.
            let late = times.iter().filter(|at| **at > sent + Duration::from_millis(40));
            assert_eq!(late.count(), 0, "{sent:?} {times:?}");
        }
    });
}

#[test]
fn ports_of_all_blocks_are_captured() {
    isolated(|| {
        let mut subject = Subject::new();
        let ports: HashSet<u16> = (0..400)
            .map(|_| subject.reserve(Transport::Tcp, LOCALHOST))
            .collect();
        assert_eq!(ports.len(), 400);
        let blocks: HashSet<u16> = ports.iter().map(|port| port / 256).collect();
        assert!(blocks.len() >= 3, "{blocks:?}");
        assert_eq!(subject.network.counters().reserved_ports, 400);
        for port in ports {
            subject.send(&probe(LOCALHOST, syn(port, CLOSED)), 1);
            let (reply, _) = subject.reply();
            assert!(
                matches!(reply.kind, ReplyKind::Tcp(tcp) if tcp.destination_port == port),
                "{reply:?}"
            );
        }
    });
}

#[test]
fn a_reserved_port_is_ours_until_released() {
    isolated(|| {
        let mut subject = Subject::new();
        for address in BOTH {
            let port = subject.reserve(Transport::Udp, address);
            let taken = UdpSocket::bind((address, port)).expect_err("taken");
            assert_eq!(taken.kind(), ErrorKind::AddrInUse);
            subject.release(Transport::Udp, address, port);
            subject.release(Transport::Udp, address, port);
            until_free(|| UdpSocket::bind((address, port)));

            let port = subject.reserve(Transport::Tcp, address);
            let taken = TcpListener::bind((address, port)).expect_err("taken");
            assert_eq!(taken.kind(), ErrorKind::AddrInUse);
            subject.release(Transport::Tcp, address, port);
            assert_free_again(SocketAddr::new(address, port));
        }
        assert_eq!(subject.network.counters().reserved_ports, 0);
    });
}

fn assert_reset(peer: &mut TcpStream) {
    peer.set_read_timeout(Some(Duration::from_secs(2)))
        .expect("a timeout");
    let error = peer.read(&mut [0]).expect_err("reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_connection_is_opened_seen_and_reset() {
    isolated(|| {
        let mut subject = Subject::new();
        for address in BOTH {
            let listener = TcpListener::bind((address, 0)).expect("a listener");
            let remote = listener.local_addr().expect("its address");
            let port = subject.reserve(Transport::Tcp, address);
            let local = SocketAddr::new(address, port);
            // Twice: the port can be used again.
            for id in [ConnectionId(1), ConnectionId(2)] {
                subject.network.connect(id, local, remote).expect("begun");
                let seen = subject.collect(|event| *event == Event::Connected(id));
                let syn_ack = |event: &Event| matches!(event, Event::Reply(reply, _) if matches!(reply.kind, ReplyKind::Tcp(tcp) if tcp.flags.syn && tcp.flags.ack && tcp.sack.permitted && tcp.timestamps.is_some()));
                assert!(seen.iter().any(syn_ack), "{seen:?}");
                let (mut peer, from) = listener.accept().expect("a connection");
                assert_eq!(from, local);
                subject.network.disconnect(id);
                assert_reset(&mut peer);
                let taken = TcpListener::bind(local).expect_err("still reserved");
                assert_eq!(taken.kind(), ErrorKind::AddrInUse);
            }
            subject.network.disconnect(ConnectionId(2));
            subject.release(Transport::Tcp, address, port);
            assert_free_again(local);
        }
    });
}

/// That the port is free, and in no lingering state.
fn assert_free_again(local: SocketAddr) {
    until_free(|| TcpListener::bind(local));
}

/// That binding works, soon. A program that another test starts holds a copy of every socket between
/// fork and exec, so it may take a moment.
fn until_free<T>(bind: impl Fn() -> std::io::Result<T>) {
    let until = std::time::Instant::now() + Duration::from_secs(5);
    while let Err(error) = bind() {
        assert!(std::time::Instant::now() < until, "not free again: {error}");
        std::thread::yield_now();
    }
}

#[test]
fn releasing_the_port_ends_its_connection() {
    isolated(|| {
        let mut subject = Subject::new();
        let listener = TcpListener::bind((LOCALHOST, 0)).expect("a listener");
        let port = subject.reserve(Transport::Tcp, LOCALHOST);
        let local = SocketAddr::new(LOCALHOST, port);
        let remote = listener.local_addr().expect("its address");
        subject
            .network
            .connect(ConnectionId(1), local, remote)
            .expect("begun");
        subject.collect(|event| *event == Event::Connected(ConnectionId(1)));
        let (mut peer, _) = listener.accept().expect("a connection");
        subject.release(Transport::Tcp, LOCALHOST, port);
        assert_reset(&mut peer);
        subject.network.disconnect(ConnectionId(1));
    });
}

#[test]
fn a_refused_connection_is_reported() {
    isolated(|| {
        let mut subject = Subject::new();
        for address in BOTH {
            let port = subject.reserve(Transport::Tcp, address);
            let local = SocketAddr::new(address, port);
            for id in [ConnectionId(1), ConnectionId(2)] {
                subject
                    .network
                    .connect(id, local, SocketAddr::new(address, CLOSED))
                    .expect("begun");
                let seen = subject.collect(|event| matches!(event, Event::ConnectFailed(..)));
                let text = seen
                    .iter()
                    .find_map(|event| match event {
                        Event::ConnectFailed(about, text) if *about == id => Some(text.clone()),
                        _ => None,
                    })
                    .expect("about this connection");
                assert!(
                    text.contains("refused") && text.contains(&address.to_string()),
                    "{text}"
                );
            }
        }
    });
}

#[test]
fn connecting_from_a_port_that_is_not_reserved_fails() {
    isolated(|| {
        let mut subject = Subject::new();
        let local = SocketAddr::new(LOCALHOST, 40_000);
        let remote = SocketAddr::new(LOCALHOST, CLOSED);
        subject
            .network
            .connect(ConnectionId(1), local, remote)
            .expect_err("refused");
    });
}

#[test]
fn without_a_route_the_address_is_named() {
    isolated(|| {
        let mut subject = Subject::new();
        for target in ["192.0.2.1", "2001:db8::1"] {
            let target: IpAddr = target.parse().expect("address");
            let flow = subject.network.open_flow(&request(None, target));
            let text = flow.expect_err("no route").to_string();
            assert!(
                text.contains(&target.to_string()) && text.contains("no route"),
                "{text}"
            );
        }
        let text = traceroute_net::source_address("fe80::1".parse().expect("address"))
            .expect_err("which interface?")
            .to_string();
        assert!(text.contains("interface"), "{text}");
    });
}

#[test]
fn a_send_that_fails_does_not_mix_up_later_reports() {
    isolated(|| {
        let mut subject = Subject::new();
        subject.prepare(LOCALHOST);
        subject.send(&probe(LOCALHOST, echo(1)), 1);
        run("nft", "add table ip t");
        run("nft", "add chain ip t o { type filter hook output priority 0 ; }");
        run("nft", "add rule ip t o icmp type echo-request drop");
        let error = subject
            .try_send(&probe(LOCALHOST, echo(2)), 2)
            .expect_err("forbidden");
        assert_eq!(error.source.raw_os_error(), Some(libc::EPERM));
        assert!(error.to_string().contains("firewall"), "{error}");
        run("nft", "delete table ip t");
        for token in 3..10 {
            let handed_over = subject.send(&probe(LOCALHOST, echo(token as u16)), token);
            let seen = subject.collect(|event| matches!(event, Event::Reply(reply, _) if matches!(reply.kind, ReplyKind::Echo { sequence, .. } if u64::from(sequence) == token)));
            let reports: Vec<_> = seen
                .iter()
                .filter_map(|event| match event {
                    Event::Sent(about, at) => Some((*about, *at)),
                    _ => None,
                })
                .collect();
            assert_eq!(reports.len(), 1, "{seen:?}");
            assert_eq!(reports[0].0, numbered(token));
            assert!(reports[0].1 >= handed_over);
        }
    });
}

/// Packets for a neighbour that does not answer wait some seconds, in the room that the socket has
/// for packets.
#[test]
fn dead_neighbours_do_not_keep_probes_to_others_from_leaving() {
    isolated(|| {
        ip("link add dead type veth peer name end");
        ip("address add 192.0.2.1/24 dev dead");
        ip("address add 2001:db8::1/64 dev dead nodad");
        ip("link set dead up");
        ip("link set end up");
        let source = |address: IpAddr| -> IpAddr {
            let text = if address.is_ipv4() {
                "192.0.2.1"
            } else {
                "2001:db8::1"
            };
            text.parse().expect("an address")
        };
        let dead = |address: IpAddr, number: u8| -> IpAddr {
            let text = if address.is_ipv4() {
                format!("192.0.2.{}", 10 + number)
            } else {
                format!("2001:db8::1:{number}")
            };
            text.parse().expect("an address")
        };
        let mut subject = Subject::new();
        for address in BOTH {
            subject.prepare(address);
            for number in 0..4 {
                for sequence in 0..500 {
                    let probe = Probe {
                        source: source(address),
                        destination: dead(address, number),
                        ..probe(address, echo(sequence))
                    };
                    subject.send(&probe, 1);
                }
            }
            subject.send(&probe(address, echo(7)), 2);
            let (reply, _) = subject.reply();
            assert_eq!(reply.source, address);
        }
        let sockets = subject.network.counters().sockets;
        assert!(sockets > 4, "the test needs more than one socket's room");
        subject.network.rest();
        assert_eq!(subject.network.counters().sockets, 4);
    });
}

#[test]
fn a_packet_that_the_interface_has_no_room_for_was_not_sent() {
    isolated(|| {
        // Nobody reads from it, and it has no queue in front.
        let Some(tun) = tun() else { return };
        ip("link set tun0 txqueuelen 2");
        ip("link set tun0 up");
        run("tc", "qdisc replace dev tun0 root noqueue");
        ip("address add 192.0.2.1/24 dev tun0");
        ip("address add 2001:db8::1/64 dev tun0 nodad");
        let mut subject = Subject::new();
        for (source, destination) in [("192.0.2.1", "192.0.2.9"), ("2001:db8::1", "2001:db8::9")] {
            let source: IpAddr = source.parse().expect("an address");
            subject.prepare(source);
            let away = Probe {
                source,
                destination: destination.parse().expect("an address"),
                ..probe(source, echo(1))
            };
            let mut send = |token| {
                subject
                    .try_send(&away, token)
                    .map_err(|error| error.is_queue_full)
            };
            while send(1).is_ok() {}
            for _ in 0..3 {
                assert_eq!(send(2).map(drop), Err(true));
            }
            // The reports of those after it are still theirs.
            let local = if source.is_ipv4() { LOCALHOST } else { LOCALHOST_V6 };
            let sockets = subject.network.counters().sockets;
            subject.send(&probe(local, echo(3)), 3);
            let seen =
                subject.collect(|event| matches!(event, Event::Reply(reply, _) if reply.source == local));
            assert!(
                seen.iter()
                    .any(|event| matches!(event, Event::Sent(Token { trace: 3, .. }, _))),
                "{seen:?}"
            );
            assert_eq!(subject.network.counters().sockets, sockets, "no new socket");
        }
        drop(tun);
    });
}

#[test]
fn a_send_without_route_does_not_mix_up_later_reports() {
    isolated(|| {
        let mut subject = Subject::new();
        ip("route add unreachable 192.0.2.0/24");
        ip("-6 route add unreachable 2001:db8::/32");
        for (address, nowhere) in [(LOCALHOST, "192.0.2.1"), (LOCALHOST_V6, "2001:db8::1")] {
            subject.prepare(address);
            let sockets = subject.network.counters().sockets;
            for token in 0..10 {
                let unreachable = Probe {
                    destination: nowhere.parse().expect("address"),
                    ..probe(address, echo(1))
                };
                let error = subject.try_send(&unreachable, 1_000).expect_err("no route");
                assert!(error.to_string().contains(nowhere), "{error}");
                assert_eq!(subject.network.counters().sockets, sockets, "the socket is kept");
                subject.send(&probe(address, echo(token as u16)), token);
                let seen = subject.collect(|event| matches!(event, Event::Reply(..)));
                assert!(
                    matches!(seen[..], [Event::Sent(about, _), Event::Reply(..)] if about == numbered(token)),
                    "{seen:?}"
                );
            }
        }
    });
}

#[test]
fn one_family_does_not_keep_the_other_waiting() {
    isolated(|| {
        let mut subject = Subject::new();
        for address in BOTH {
            subject.prepare(address);
        }
        for token in 0..1_000 {
            subject.send(&probe(LOCALHOST, echo(token as u16)), token);
        }
        subject.send(&probe(LOCALHOST_V6, echo(1)), 1_000);
        let now = subject.network.now();
        let seen = subject.poll_until(now);
        assert!(
            seen.iter()
                .any(|event| matches!(event, Event::Reply(reply, _) if reply.source == LOCALHOST_V6))
        );
    });
}

#[test]
fn the_waker_ends_a_wait_without_end() {
    isolated(|| {
        let mut subject = Subject::new();
        let waker = subject.network.waker();
        // Before the wait begins ...
        waker();
        subject.network.poll(None, &mut |_| {}).expect("poll");
        // ... and, most likely, during it.
        let thread = std::thread::spawn(move || waker());
        subject.network.poll(None, &mut |_| {}).expect("poll");
        thread.join().expect("woken");
        // Woken once, not for ever.
        let deadline = subject.network.now() + Duration::from_millis(5);
        assert_eq!(subject.poll_until(deadline), []);
        assert!(subject.network.now() >= deadline);
    });
}

#[test]
fn a_wait_ends_at_its_deadline() {
    isolated(|| {
        let mut subject = Subject::new();
        subject.prepare(LOCALHOST_V6);
        let deadline = subject.network.now() + Duration::from_millis(5);
        assert_eq!(subject.poll_until(deadline), []);
        let late = subject.network.now().since(deadline);
        assert!(
            subject.network.now() >= deadline && late < Duration::from_secs(5),
            "{late:?}"
        );
    });
}

#[test]
fn probes_of_two_families_are_refused() {
    isolated(|| {
        let mut subject = Subject::new();
        let mixed = Probe {
            destination: LOCALHOST_V6,
            ..probe(LOCALHOST, echo(1))
        };
        let error = subject.try_send(&mixed, 1).expect_err("cannot be encoded");
        assert_eq!(error.source.kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn sack_probes_leave_too() {
    isolated(|| {
        let mut subject = Subject::new();
        let listener = TcpListener::bind((LOCALHOST, 0)).expect("a listener");
        let remote = listener.local_addr().expect("its address");
        let port = subject.reserve(Transport::Tcp, LOCALHOST);
        subject
            .network
            .connect(ConnectionId(1), SocketAddr::new(LOCALHOST, port), remote)
            .expect("begun");
        let seen = subject.collect(|event| *event == Event::Connected(ConnectionId(1)));
        let syn_ack = seen
            .iter()
            .find_map(|event| match event {
                Event::Reply(reply, _) => match reply.kind {
                    ReplyKind::Tcp(tcp) if tcp.flags.syn => Some(tcp),
                    _ => None,
                },
                _ => None,
            })
            .expect("a SYN-ACK");
        // Beyond a gap of three bytes.
        let kind = ProbeKind::TcpSack {
            source_port: port,
            destination_port: remote.port(),
            sequence: syn_ack.acknowledgment.wrapping_add(3),
            acknowledgment: syn_ack.sequence.wrapping_add(1),
            timestamps: syn_ack.timestamps.map(|theirs| traceroute_wire::TcpTimestamps {
                // Our kernel's clock has gone on since its SYN; an older value than in its ACK
                // would be dropped (RFC 7323 §5.3).
                value: theirs.echo.wrapping_add(10_000),
                echo: theirs.value,
            }),
        };
        subject.send(&probe(LOCALHOST, kind), 1);
        // On loopback our own segments are captured too, when the listener's port happens to lie in
        // a watched block.
        let from_target = |event: &Event| match event {
            Event::Reply(reply, _) => match reply.kind {
                ReplyKind::Tcp(tcp) if tcp.source_port == remote.port() && !tcp.flags.syn => Some(tcp),
                _ => None,
            },
            _ => None,
        };
        let seen = subject.collect(|event| from_target(event).is_some());
        let tcp = seen.iter().find_map(from_target).expect("an acknowledgment");
        assert_eq!(tcp.acknowledgment, syn_ack.acknowledgment);
        assert_eq!(tcp.sack.edges(), [syn_ack.acknowledgment.wrapping_add(3)]);
    });
}

/// Takes all capabilities from this thread.
fn drop_capabilities() {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let none = [0_u32; 6];
    // SAFETY: capset reads a header and two sets of three words (capset(2)).
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    assert_eq!(result, 0, "capset: {}", std::io::Error::last_os_error());
}

#[test]
fn without_permission_the_error_says_how_to_get_it() {
    isolated(|| {
        // Opened while raw sockets are allowed, and so for them.
        let mut subject = Subject::new();
        drop_capabilities();
        for address in BOTH {
            let flow = subject.network.open_flow(&request(None, address));
            let text = flow.expect_err("forbidden").to_string();
            assert!(text.contains("CAP_NET_RAW") && text.contains("sudo"), "{text}");
        }
        assert_eq!(
            traceroute_net::source_address(LOCALHOST).expect("needs no permission"),
            LOCALHOST
        );
    });
}

#[test]
fn without_permission_ordinary_sockets_probe() {
    isolated(|| {
        std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").expect("root's group may ping");
        // What answers leave with, so that no other TTL is taken for theirs.
        let (v4_ttl, v6_ttl) = (77, 78);
        std::fs::write("/proc/sys/net/ipv4/ip_default_ttl", v4_ttl.to_string()).expect("set");
        std::fs::write("/proc/sys/net/ipv6/conf/lo/hop_limit", v6_ttl.to_string()).expect("set");
        assert_eq!(traceroute_net::access(), Access::Raw);
        let capabilities = |subject: &mut Subject, transport, address| {
            let request = request(transport, address);
            let flow = subject.network.open_flow(&request).expect("a flow");
            subject.network.close_flow(&request, &flow);
            flow.capabilities
        };
        let raw = capabilities(&mut Subject::new(), Some(Transport::Tcp), LOCALHOST);
        drop_capabilities();
        assert_eq!(traceroute_net::access(), Access::Ordinary);
        let mut subject = Subject::new();
        let datagrams = Capabilities {
            sees_after_nat: true,
            ..Capabilities::RAW
        };
        assert_eq!(raw, datagrams);
        let connects = Capabilities {
            retransmits: true,
            one_at_a_time: true,
            ..datagrams
        };
        for address in BOTH {
            for (transport, expected) in [
                (None, datagrams),
                (Some(Transport::Udp), datagrams),
                (Some(Transport::Tcp), connects),
            ] {
                assert_eq!(capabilities(&mut subject, transport, address), expected);
            }
            let answered = |subject: &mut Subject, token| {
                let is_it = |event: &Event| matches!(event, Event::Answered(Token { trace: found, .. }, ..) if *found == token);
                let mut seen = subject.collect(is_it);
                match seen.pop() {
                    Some(Event::Answered(_, answer, _)) => (seen, answer),
                    other => panic!("{other:?}"),
                }
            };

            let port = subject.reserve(Transport::Udp, address);
            subject.send(&probe(address, udp(port, CLOSED)), 1);
            let (before, answer) = answered(&mut subject, 1);
            let code = if address.is_ipv4() { 3 } else { 4 };
            let ttl = if address.is_ipv4() { v4_ttl } else { v6_ttl };
            assert_eq!(answer.from, address);
            assert_eq!(answer.error, Some(IcmpError::Unreachable { code }));
            assert_eq!((answer.reply_ttl, answer.mpls.is_empty()), (ttl, true));
            assert!(
                matches!(before[..], [Event::Sent(Token { trace: 1, .. }, _)]),
                "the kernel's send time comes first: {before:?}"
            );
            subject.release(Transport::Udp, address, port);

            let request = request(None, address);
            let flow = subject.network.open_flow(&request).expect("an identifier");
            assert_eq!(flow.route.source, address);
            let identifier = flow.number.expect("the kernel hands them out");
            let kind = ProbeKind::Echo {
                identifier,
                sequence: 7,
                tag: 0x0ABC,
                cookie: *b"cookie",
                payload_len: ECHO_PAYLOAD,
            };
            subject.send(&probe(address, kind), 2);
            let (reply, _) = subject.reply();
            assert_eq!(
                reply.kind,
                ReplyKind::Echo {
                    identifier,
                    sequence: 7,
                    cookie: Some(*b"cookie")
                }
            );
            assert_eq!(reply.ttl, ttl);
            assert_eq!(subject.network.counters().sockets, 1);
            subject.network.close_flow(&request, &flow);

            let listener = TcpListener::bind((address, 0)).expect("a listener");
            let open = listener.local_addr().expect("its address").port();
            let port = subject.reserve(Transport::Tcp, address);
            for (token, target) in [(3, open), (4, CLOSED), (5, open)] {
                subject.send(&probe(address, syn(port, target)), token);
                let (_, answer) = answered(&mut subject, token);
                assert_eq!((answer.from, answer.error), (address, None), "port {target}");
                let is_told = address.is_ipv6() && target == open;
                assert_eq!(answer.reply_ttl, if is_told { ttl } else { 0 }, "port {target}");
            }
            subject.release(Transport::Tcp, address, port);
            let counters = subject.network.counters();
            assert_eq!((counters.sockets, counters.reserved_ports), (0, 0));
        }
    });
}

#[test]
fn too_many_open_files_is_an_error_that_says_so() {
    alone(|| {
        let limit = |soft, hard| {
            let limit = libc::rlimit {
                rlim_cur: soft,
                rlim_max: hard,
            };
            // SAFETY: the pointer is valid during the call.
            let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
            assert_eq!(result, 0, "setrlimit: {}", std::io::Error::last_os_error());
        };
        limit(40, 80);
        let mut subject = Subject::new();
        let mut ports = Vec::new();
        let error = loop {
            match subject.try_reserve(Transport::Udp, LOCALHOST) {
                Ok(port) => ports.push(port),
                Err(error) => break error,
            }
            assert!(ports.len() < 100, "no limit");
        };
        assert!(
            ports.len() > 40,
            "{} ports: the soft limit was not raised",
            ports.len()
        );
        assert_eq!(error.source.raw_os_error(), Some(libc::EMFILE));
        assert!(error.to_string().contains("ulimit -n"), "{error}");
        let released = ports.pop().expect("a port");
        subject.release(Transport::Udp, LOCALHOST, released);
        subject
            .try_reserve(Transport::Udp, LOCALHOST)
            .expect("one is free again");
    });
}
