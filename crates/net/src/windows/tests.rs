//! The backend as the engine uses it. Under Wine: raw sockets and the ICMP API work, `syn_socket`
//! does not, and the driver is not there.

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use traceroute_engine::MatchedReply;

use super::*;
use crate::numbered;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn network(windows_driver: bool, syn_socket: bool) -> WindowsNetwork {
    let options = Options {
        windows_driver,
        syn_socket,
        ..Options::default()
    };
    WindowsNetwork::new(options.effective(), TRANSPORT_PATH)
}

fn probe(kind: ProbeKind) -> Probe {
    Probe {
        source: LOOPBACK,
        destination: LOOPBACK,
        ttl: 64,
        identification: 1,
        flow_label: 0,
        tos: 0,
        dont_fragment: false,
        kind,
    }
}

fn syn(source_port: u16, destination_port: u16) -> ProbeKind {
    ProbeKind::TcpSyn {
        source_port,
        destination_port,
        sequence: 0x1234_5678,
        timestamps: None,
    }
}

const ECHO: ProbeKind = ProbeKind::Echo {
    identifier: 77,
    sequence: 5,
    tag: 9,
    cookie: *b"cookie",
    payload_len: ECHO_PAYLOAD,
};

/// Polls until `found` says that an event is the one, at most 10 seconds.
fn wait(network: &mut WindowsNetwork, mut found: impl FnMut(&NetworkEvent<'_>) -> bool) {
    let deadline = network.now() + Duration::from_secs(10);
    let mut seen = false;
    while !seen {
        assert!(network.now() < deadline, "nothing within 10 s");
        network
            .poll(Some(deadline), &mut |event| seen |= found(&event))
            .expect("poll");
    }
}

#[test]
fn an_echo_request_over_a_raw_socket_is_answered() {
    let mut network = network(false, false);
    assert_eq!(network.prepare(LOOPBACK).expect("route"), LOOPBACK);
    let sent = network.send(&probe(ECHO), numbered(3)).expect("sent").at;
    wait(&mut network, |event| match event {
        NetworkEvent::Reply { reply, at } => {
            let expected = traceroute_wire::ReplyKind::Echo {
                identifier: 77,
                sequence: 5,
                cookie: Some(*b"cookie"),
            };
            reply.kind == expected && *at >= sent
        }
        _ => false,
    });
    let counters = network.counters();
    assert!(counters.sent == 1 && counters.captured >= 1, "{counters:?}");
}

#[test]
fn a_refused_syn_over_a_raw_socket_is_answered() {
    let listener = TcpListener::bind((LOOPBACK, 0)).expect("listener");
    let closed_port = listener.local_addr().expect("address").port();
    drop(listener);
    let mut network = network(false, false);
    network.prepare(LOOPBACK).expect("route");
    let port = network.reserve_port(Transport::Tcp, LOOPBACK).expect("port");
    network
        .send(&probe(syn(port, closed_port)), numbered(1))
        .expect("sent");
    wait(&mut network, |event| match event {
        NetworkEvent::Reply { reply, .. } => match reply.kind {
            traceroute_wire::ReplyKind::Tcp(tcp) => tcp.destination_port == port && tcp.flags.rst,
            _ => false,
        },
        _ => false,
    });
    assert_eq!(network.counters().reserved_ports, 1);
    network.release_port(Transport::Tcp, LOOPBACK, port);
    assert_eq!(network.counters().reserved_ports, 0);
}

#[test]
fn without_raw_sockets_icmp_works_and_the_rest_says_what_would() {
    let mut network = network(false, false);
    network.backend = Backend::Raw {
        sockets: RawSockets::new(Arc::clone(&network.inbox)),
        refused: Some(winerror::error(
            Operation::OpenSender,
            None,
            io::Error::from_raw_os_error(WSAEACCES),
        )),
    };
    network.prepare(LOOPBACK).expect("route");
    network.send(&probe(ECHO), numbered(8)).expect("sent");
    let expected = MatchedReply::new(LOOPBACK, None);
    wait(&mut network, |event| match event {
        NetworkEvent::Answered { token, answer, .. } => *token == numbered(8) && *answer == expected,
        _ => false,
    });
    for transport in [Transport::Udp, Transport::Tcp] {
        let text = network
            .reserve_port(transport, LOOPBACK)
            .expect_err("no raw sockets")
            .to_string();
        assert!(
            text.contains("Windows driver") && text.contains("syn_socket"),
            "{text}"
        );
    }
}

#[test]
fn sack_without_the_driver_fails_like_a_target_that_cannot() {
    let mut network = network(false, false);
    let address = SocketAddr::new(LOOPBACK, 80);
    network
        .connect(ConnectionId(4), address, address)
        .expect("told by an event");
    wait(&mut network, |event| match event {
        NetworkEvent::ConnectFailed(ConnectionId(4), error) => error
            .to_string()
            .contains("not supported on this platform without the driver"),
        _ => false,
    });
}

#[test]
fn udp_and_tcp_over_ipv6_need_the_driver() {
    let mut network = network(false, false);
    let loopback = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);
    let error = network.reserve_port(Transport::Udp, loopback).expect_err("IPv6");
    assert!(error.to_string().contains("without the driver"), "{error}");
}

#[test]
fn without_the_driver_its_network_does_not_open() {
    let error = network(true, false).prepare(LOOPBACK).expect_err("no driver");
    assert!(error.to_string().contains("ddnpm is not running"), "{error}");
}

#[test]
fn syn_socket_traces_or_wine_says_which_windows_it_needs() {
    let listener = TcpListener::bind((LOOPBACK, 0)).expect("listener");
    let open_port = listener.local_addr().expect("address").port();
    let mut network = network(false, true);
    network.prepare(LOOPBACK).expect("route");
    let port = network.reserve_port(Transport::Tcp, LOOPBACK).expect("port");
    match network.send(&probe(syn(port, open_port)), numbered(1)) {
        Ok(_) => wait(&mut network, |event| {
            matches!(event, NetworkEvent::Answered { .. })
        }),
        Err(error) => assert!(error.to_string().contains("version 2004"), "{error}"),
    }
    network
        .send(&probe(ECHO), numbered(2))
        .expect_err("no echo requests");
    network
        .reserve_port(Transport::Udp, LOOPBACK)
        .expect_err("no UDP either");
}

#[test]
fn the_waker_wakes_from_another_thread() {
    let mut network = network(false, false);
    let waker = network.waker();
    let thread = std::thread::spawn(move || waker());
    network
        .poll(None, &mut |event| panic!("{event:?}"))
        .expect("poll");
    thread.join().expect("thread");
}
