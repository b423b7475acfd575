//! From the bytes of a captured packet to the credited reply nothing is allocated. A file of its own, as the allocator
//! counts for the whole process.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use etherparse::{IpHeaders, Ipv4Header, Ipv6Header, PacketBuilder, TcpHeader, TcpOptionElement};
use traceroute_engine::{Action, Engine, Event, Method, TraceResult, TraceSpec};
use traceroute_net::{ConnectionId, NetworkEvent, Time};
use traceroute_simnet::{Network, example};
use traceroute_wire::{Checksums, MAX_PROBE_LEN, decode};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

#[allow(unsafe_code)]
// SAFETY: everything is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Traces in flight at once: enough that tables and queues would have to grow if nothing were ready for their replies.
const TRACES: usize = 40;
const HOPS: usize = 11;
const PORT: u16 = 80;

/// The simulated network speaks bytes only, and shares no code with what is measured.
struct World {
    network: Network,
    engine: Engine,
    now: Duration,
    results: Vec<TraceResult>,
    replies: usize,
    allocations: usize,
}

impl World {
    fn new() -> Self {
        World {
            network: Network::new(&example("straight").unwrap().topology().unwrap(), 1),
            engine: Engine::new(TRACES, [9; 32]),
            now: Duration::from_secs(1),
            results: Vec::new(),
            replies: 0,
            allocations: 0,
        }
    }

    fn time(&self) -> Time {
        Time::ZERO + self.now
    }

    fn start(&mut self, method: Method, source: IpAddr, target: IpAddr) {
        for index in 0..TRACES {
            let spec = TraceSpec::full(method, target, PORT, 30, Duration::from_secs(1));
            let port = if method == Method::Icmp {
                0
            } else {
                40000 + index as u16
            };
            self.engine.start(self.time(), spec, source, port).unwrap();
        }
    }

    fn run(&mut self) {
        loop {
            self.act();
            let wake = self
                .engine
                .wake_at()
                .map(|wake| Duration::from_nanos(wake.as_nanos()));
            let Some(next) = wake.into_iter().chain(self.network.next_at()).min() else {
                return;
            };
            self.now = self.now.max(next);
            while let Some(delivery) = self.network.poll(self.now) {
                self.hear(&delivery.packet);
            }
        }
    }

    /// What is measured.
    fn hear(&mut self, packet: &[u8]) {
        let (now, matched) = (self.time(), self.engine.counters().matched);
        let before = ALLOCATIONS.get();
        let reply = decode(packet, Checksums::Verify);
        if let Ok(reply) = &reply {
            self.engine.handle(now, NetworkEvent::Reply { reply, at: now });
        }
        let allocations = ALLOCATIONS.get() - before;
        // The handshake of a connection is not a reply to a probe.
        if self.engine.counters().matched > matched {
            self.replies += 1;
            self.allocations += allocations;
        }
    }

    fn act(&mut self) {
        while let Some(action) = self.engine.poll_action(self.time()) {
            match action {
                Action::Send { token, probe } => {
                    self.network
                        .inject(self.now, probe.encode(&mut [0; MAX_PROBE_LEN]).unwrap());
                    self.engine.sent(token, self.time());
                }
                Action::Connect {
                    id, local, remote, ..
                } => self.connect(id, local, remote),
            }
        }
        while let Some(event) = self.engine.poll_event() {
            if let Event::Finished { result, .. } = event {
                self.results.push(result.unwrap());
            }
        }
    }

    /// The kernel's part of a SACK trace.
    fn connect(&mut self, id: ConnectionId, local: SocketAddr, remote: SocketAddr) {
        // Numbers of its own for each connection, as their upper 24 bits tell quotes of their segments apart.
        let sequence = u32::from(local.port()) << 12;
        let mut header = TcpHeader::new(local.port(), remote.port(), sequence, 64240);
        header.syn = true;
        let options = [
            TcpOptionElement::SelectiveAcknowledgementPermitted,
            TcpOptionElement::Timestamp(1, 0),
        ];
        header.set_options(&options).unwrap();
        self.network.inject(self.now, &segment(local, remote, header));
        // Connections are made one by one on the way: the handshake takes 11 ms of simulated time.
        loop {
            self.now = self.network.next_at().unwrap();
            let Some(delivery) = self.network.poll(self.now) else {
                continue;
            };
            self.hear(&delivery.packet);
            if let Some(acknowledgment) = acknowledgment(&delivery.packet, local.port()) {
                self.network
                    .inject(self.now, &segment(local, remote, acknowledgment));
                break;
            }
        }
        self.engine.handle(self.time(), NetworkEvent::Connected(id));
    }
}

/// The last part of the handshake, if the packet is a SYN-ACK to this port.
fn acknowledgment(packet: &[u8], port: u16) -> Option<TcpHeader> {
    let parsed = etherparse::SlicedPacket::from_ip(packet).unwrap();
    let Some(etherparse::TransportSlice::Tcp(tcp)) = parsed.transport else {
        return None;
    };
    if !tcp.syn() || tcp.destination_port() != port {
        return None;
    }
    let mut header = TcpHeader::new(port, tcp.source_port(), tcp.acknowledgment_number(), 64240);
    header.ack = true;
    header.acknowledgment_number = tcp.sequence_number().wrapping_add(1);
    let theirs = tcp.options_iterator().find_map(|option| match option {
        Ok(TcpOptionElement::Timestamp(theirs, _)) => Some(theirs),
        _ => None,
    });
    header
        .set_options(&[TcpOptionElement::Timestamp(2, theirs.unwrap())])
        .unwrap();
    Some(header)
}

fn segment(local: SocketAddr, remote: SocketAddr, header: TcpHeader) -> Vec<u8> {
    let ip = match (local.ip(), remote.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let tcp = etherparse::IpNumber::TCP;
            let ip = Ipv4Header::new(0, 64, tcp, from.octets(), to.octets()).unwrap();
            IpHeaders::Ipv4(ip, etherparse::Ipv4Extensions::default())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let ip = Ipv6Header {
                source: from.octets(),
                destination: to.octets(),
                hop_limit: 64,
                ..Ipv6Header::default()
            };
            IpHeaders::Ipv6(ip, etherparse::Ipv6Extensions::default())
        }
        _ => panic!("two address families"),
    };
    let mut packet = Vec::new();
    PacketBuilder::ip(ip)
        .tcp_header(header)
        .write(&mut packet, &[])
        .unwrap();
    packet
}

fn check(method: Method) {
    for (source, target) in [
        ("192.0.2.1", "198.51.100.11"),
        ("2001:db8::1", "2001:db8:ffff::11"),
    ] {
        let mut world = World::new();
        world.start(method, source.parse().unwrap(), target.parse().unwrap());
        world.run();
        assert_eq!(world.results.len(), TRACES);
        for result in &world.results {
            assert_eq!(result.hops.len(), HOPS);
            assert!(result.hops.iter().all(|hop| hop.answer.is_some()));
        }
        assert!(world.replies >= TRACES * HOPS, "{}", world.replies);
        assert_eq!(
            world.allocations, 0,
            "{method:?} to {target}: {} replies",
            world.replies
        );
    }
}

#[test]
fn udp() {
    check(Method::Udp);
}

#[test]
fn icmp() {
    check(Method::Icmp);
}

#[test]
fn tcp_syn() {
    check(Method::TcpSyn);
}

#[test]
fn tcp_sack() {
    check(Method::TcpSack);
}

#[test]
fn the_counter_counts() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(vec![1u8; 10]));
    assert!(ALLOCATIONS.get() > before);
}
