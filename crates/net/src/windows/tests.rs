//! The backend as the engine uses it. Under Wine: raw sockets and the ICMP API work, `syn_socket`
//! does not, and the driver is not there.

use std::net::{Ipv4Addr, TcpListener};
use std::num::NonZeroU32;
use std::time::Duration;

use traceroute_engine::MatchedReply;

use super::*;
use crate::numbered;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn network(windows_driver: bool, syn_socket: bool) -> WindowsNetwork {
    let options = NetworkOptions {
        windows_driver,
        syn_socket,
        ..NetworkOptions::default()
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

/// A flow over loopback that leaves as the routing table says.
fn request(transport: Option<Transport>) -> FlowRequest {
    FlowRequest {
        target: LOOPBACK,
        transport,
        port: 0,
        egress: Egress::default(),
    }
}

/// Opens a flow over loopback.
fn open_flow(network: &mut WindowsNetwork, transport: Option<Transport>) -> OpenFlow {
    network.open_flow(&request(transport)).expect("a flow")
}

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
    let route = open_flow(&mut network, None).route;
    assert_eq!((route.source, route.interface, route.mark), (LOOPBACK, 0, 0));
    let sent = network.send_on(&probe(ECHO), &route, numbered(3));
    let sent = sent.expect("sent").at;
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
    let flow = open_flow(&mut network, Some(Transport::Tcp));
    let port = flow.number.expect("port");
    network
        .send_on(&probe(syn(port, closed_port)), &flow.route, numbered(1))
        .expect("sent");
    wait(&mut network, |event| match event {
        NetworkEvent::Reply { reply, .. } => match reply.kind {
            traceroute_wire::ReplyKind::Tcp(tcp) => tcp.destination_port == port && tcp.flags.rst,
            _ => false,
        },
        _ => false,
    });
    assert_eq!(network.counters().reserved_ports, 1);
    network.close_flow(&request(Some(Transport::Tcp)), &flow);
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
    let route = open_flow(&mut network, None).route;
    network.send_on(&probe(ECHO), &route, numbered(8)).expect("sent");
    let expected = MatchedReply::new(LOOPBACK, None);
    wait(&mut network, |event| match event {
        NetworkEvent::Answered { token, answer, .. } => *token == numbered(8) && *answer == expected,
        _ => false,
    });
    for transport in [Transport::Udp, Transport::Tcp] {
        let text = network
            .open_flow(&request(Some(transport)))
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
    let request = FlowRequest {
        target: loopback,
        ..request(Some(Transport::Udp))
    };
    let error = network.open_flow(&request).expect_err("IPv6");
    assert!(error.to_string().contains("without the driver"), "{error}");
}

#[test]
fn without_the_driver_its_network_does_not_open() {
    let flow = network(true, false).open_flow(&request(None));
    let error = flow.expect_err("no driver");
    assert!(error.to_string().contains("ddnpm is not running"), "{error}");
}

#[test]
fn windows_traces_with_syn_socket_and_wine_says_which_windows_it_needs() {
    let listener = TcpListener::bind((LOOPBACK, 0)).expect("listener");
    let open_port = listener.local_addr().expect("address").port();
    let mut network = network(false, true);
    let flow = open_flow(&mut network, Some(Transport::Tcp));
    let port = flow.number.expect("port");
    let sent = network.send_on(&probe(syn(port, open_port)), &flow.route, numbered(1));
    if sys::is_wine() {
        let error = sent.expect_err("an old Windows").to_string();
        assert!(error.contains("version 2004"), "{error}");
    } else {
        sent.expect("sent");
        wait(&mut network, |event| {
            matches!(event, NetworkEvent::Answered { .. })
        });
    }
    network
        .send_on(&probe(ECHO), &flow.route, numbered(2))
        .expect_err("no echo requests");
    network
        .open_flow(&request(Some(Transport::Udp)))
        .expect_err("no UDP either");
}

/// The interface that has 127.0.0.1.
fn loopback_interface() -> NonZeroU32 {
    let all = interfaces::addresses().expect("addresses");
    let own = all.iter().find(|own| own.address == LOOPBACK).expect("loopback");
    own.interface.try_into().expect("an index")
}

fn chosen(egress: Egress) -> FlowRequest {
    FlowRequest {
        egress,
        ..request(None)
    }
}

#[test]
fn an_echo_request_leaves_by_the_chosen_interface_and_the_next_as_the_routing_table_says() {
    let mut network = network(false, false);
    let interface = loopback_interface();
    let by_interface = Egress {
        interface: Some(interface),
        ..Egress::default()
    };
    for (token, egress) in [(1, by_interface), (2, Egress::default())] {
        let route = network.open_flow(&chosen(egress)).expect("a flow").route;
        assert_eq!(route.source, LOOPBACK);
        assert_eq!(route.interface, egress.interface.map_or(0, NonZeroU32::get));
        network
            .send_on(&probe(ECHO), &route, numbered(token))
            .expect("sent");
        wait(&mut network, |event| matches!(event, NetworkEvent::Reply { .. }));
    }
}

#[test]
fn a_way_that_cannot_be_is_refused_before_anything_is_sent() {
    let mut raw = network(false, false);
    let mut refused = |egress| {
        let flow = raw.open_flow(&chosen(egress));
        flow.expect_err("no way").to_string()
    };
    let nobodys = Egress {
        interface: Some(NonZeroU32::MAX),
        ..Egress::default()
    };
    assert!(refused(nobodys).contains("interface is gone"));
    let marked = Egress {
        mark: NonZeroU32::new(7),
        ..Egress::default()
    };
    assert!(refused(marked).contains("cannot mark packets"));
    let foreign = Egress {
        source: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77))),
        interface: Some(loopback_interface()),
        ..Egress::default()
    };
    assert!(refused(foreign).contains("choose only one"));
    let by_driver = Egress {
        interface: Some(loopback_interface()),
        ..Egress::default()
    };
    let flow = network(true, false).open_flow(&chosen(by_driver));
    let text = flow.expect_err("not by the driver").to_string();
    assert!(text.contains("driver cannot choose the interface"), "{text}");
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
