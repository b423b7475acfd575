//! A client on simulated time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use etherparse::checksum::u32_16bit_word;
use etherparse::{
    IpHeaders, IpNumber, Ipv4Header, Ipv6Header, NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket,
    TcpHeader, TransportSlice,
};
use traceroute_simnet::{Counters, Network, Topology};

pub(crate) const CLIENT: &str = "192.0.2.1";
pub(crate) const CLIENT_V6: &str = "2001:db8::1";
pub(crate) const TARGET: &str = "198.51.100.1";
pub(crate) const TARGET_V6: &str = "2001:db8:ffff::1";

pub(crate) fn ms(milliseconds: f64) -> Duration {
    Duration::from_nanos((milliseconds * 1e6).round() as u64)
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Three routers, 1 ms each way per link, then the target.
pub(crate) const THREE: &str = r#"
[[hop]]
name = "r1"
v4 = "10.0.1.1"
v6 = "2001:db8:1::1"
delay = 1
[[hop]]
name = "r2"
v4 = "10.0.2.1"
v6 = "2001:db8:2::1"
delay = 1
#MIDDLE#
[[hop]]
name = "r3"
v4 = "10.0.3.1"
v6 = "2001:db8:3::1"
delay = 1
[[target]]
name = "target"
v4 = "198.51.100.1"
v6 = "2001:db8:ffff::1"
delay = 1
#TARGET#
"#;

/// [`THREE`] with lines added to the second router and to the target.
pub(crate) fn three(middle: &str, target: &str) -> String {
    THREE.replace("#MIDDLE#", middle).replace("#TARGET#", target)
}

pub(crate) struct Lab {
    pub(crate) network: Network,
    pub(crate) now: Duration,
}

/// An answer, its checksums verified.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    /// Since the packet that caused it was sent.
    pub(crate) after: Duration,
    pub(crate) cause: u64,
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) ttl: u8,
    pub(crate) what: What,
}

#[derive(Debug, Clone)]
pub(crate) enum What {
    Icmp(Message),
    Udp {
        source_port: u16,
        destination_port: u16,
        payload: Vec<u8>,
    },
    Tcp(Box<TcpHeader>, Vec<u8>),
}

/// An ICMP message: its first 8 bytes, and the rest.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) kind: u8,
    pub(crate) code: u8,
    pub(crate) rest: [u8; 4],
    pub(crate) body: Vec<u8>,
    pub(crate) checksum_ok: bool,
}

/// A quoted packet.
#[derive(Debug, Clone)]
pub(crate) struct Quote {
    pub(crate) source: IpAddr,
    pub(crate) ttl: u8,
    pub(crate) header_checksum_ok: bool,
    /// What follows the IP header, extensions included.
    pub(crate) transport: Vec<u8>,
}

impl Lab {
    pub(crate) fn new(topology: &str) -> Self {
        Self::with_seed(topology, 1)
    }

    pub(crate) fn with_seed(topology: &str, seed: u64) -> Self {
        let topology = Topology::parse("lab", topology).unwrap();
        Self {
            network: Network::new(&topology, seed),
            now: Duration::from_secs(100),
        }
    }

    pub(crate) fn counters(&self, name: &str) -> &Counters {
        self.network.counters(name).unwrap()
    }

    /// Sends a packet; `wait` lets time pass.
    pub(crate) fn send(&mut self, packet: &[u8]) -> u64 {
        self.network.inject(self.now, packet)
    }

    /// Everything that arrives in the next `time`.
    pub(crate) fn wait(&mut self, time: Duration) -> Vec<Heard> {
        let end = self.now + time;
        let mut heard = Vec::new();
        let mut last = self.now;
        while let Some(at) = self.network.next_at().filter(|at| *at <= end) {
            while let Some(delivery) = self.network.poll(at) {
                assert!(delivery.at >= last, "out of order");
                assert_eq!(delivery.at, at);
                last = delivery.at;
                heard.push(read(
                    &delivery.packet,
                    delivery.at - delivery.injected_at,
                    delivery.cause,
                ));
            }
        }
        self.now = end;
        heard
    }

    /// Sends a packet and waits an hour for everything that it causes.
    pub(crate) fn ask(&mut self, packet: &[u8]) -> Vec<Heard> {
        self.send(packet);
        self.wait(Duration::from_hours(1))
    }

    /// As [`Lab::ask`], for exactly one answer.
    pub(crate) fn ask_one(&mut self, packet: &[u8]) -> Heard {
        let mut heard = self.ask(packet);
        assert_eq!(heard.len(), 1, "{heard:?}");
        heard.remove(0)
    }
}

impl Heard {
    pub(crate) fn icmp(&self) -> &Message {
        match &self.what {
            What::Icmp(message) => message,
            other => panic!("no ICMP: {other:?}"),
        }
    }

    pub(crate) fn tcp(&self) -> &TcpHeader {
        match &self.what {
            What::Tcp(header, _) => header,
            other => panic!("no TCP: {other:?}"),
        }
    }

    pub(crate) fn quote(&self) -> Quote {
        let body = &self.icmp().body;
        if self.from.is_ipv4() {
            let (header, transport) = Ipv4Header::from_slice(body).unwrap();
            Quote {
                source: IpAddr::from(header.source),
                ttl: header.time_to_live,
                header_checksum_ok: header.calc_header_checksum() == header.header_checksum,
                transport: transport.to_vec(),
            }
        } else {
            let (header, transport) = Ipv6Header::from_slice(body).unwrap();
            Quote {
                source: IpAddr::from(header.source),
                ttl: header.hop_limit,
                header_checksum_ok: true,
                transport: transport.to_vec(),
            }
        }
    }

    pub(crate) fn is_time_exceeded(&self) -> bool {
        matches!((&self.what, self.from.is_ipv4()), (What::Icmp(message), v4)
            if message.kind == if v4 { 11 } else { 3 } && message.code == 0)
    }

    pub(crate) fn is_echo_reply(&self) -> bool {
        matches!((&self.what, self.from.is_ipv4()), (What::Icmp(message), v4)
            if message.kind == if v4 { 0 } else { 129 })
    }
}

fn read(packet: &[u8], after: Duration, cause: u64) -> Heard {
    let sliced = SlicedPacket::from_ip(packet).unwrap();
    let (from, to, ttl) = match sliced.net.unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.calc_header_checksum(), header.header_checksum);
            assert_eq!(usize::from(header.total_len), packet.len());
            (
                IpAddr::from(header.source),
                IpAddr::from(header.destination),
                header.time_to_live,
            )
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            (
                IpAddr::from(header.source),
                IpAddr::from(header.destination),
                header.hop_limit,
            )
        }
        NetSlice::Arp(_) => panic!("ARP"),
    };
    let what = match sliced.transport {
        Some(TransportSlice::Icmpv4(icmp)) => {
            // Over the bytes: etherparse's header type has no room for the length field of RFC
            // 4884.
            let sum = u32_16bit_word::ones_complement(u32_16bit_word::add_slice(0, icmp.slice()));
            What::Icmp(message(icmp.slice(), sum == 0))
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            let (IpAddr::V6(from), IpAddr::V6(to)) = (from, to) else {
                panic!("ICMPv6 in IPv4")
            };
            What::Icmp(message(
                icmp.slice(),
                icmp.is_checksum_valid(from.octets(), to.octets()),
            ))
        }
        Some(TransportSlice::Udp(udp)) => {
            let header = udp.to_header();
            let sum = match (from, to) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    header.calc_checksum_ipv4_raw(from.octets(), to.octets(), udp.payload())
                }
                (from, to) => header.calc_checksum_ipv6_raw(v6(from), v6(to), udp.payload()),
            };
            assert_eq!(sum.unwrap(), header.checksum);
            What::Udp {
                source_port: header.source_port,
                destination_port: header.destination_port,
                payload: udp.payload().to_vec(),
            }
        }
        Some(TransportSlice::Tcp(tcp)) => {
            let header = tcp.to_header();
            let sum = match (from, to) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    header.calc_checksum_ipv4_raw(from.octets(), to.octets(), tcp.payload())
                }
                (from, to) => header.calc_checksum_ipv6_raw(v6(from), v6(to), tcp.payload()),
            };
            assert_eq!(sum.unwrap(), header.checksum);
            What::Tcp(Box::new(header), tcp.payload().to_vec())
        }
        other => panic!("unexpected {other:?} in {packet:?}"),
    };
    Heard {
        after,
        cause,
        from,
        to,
        ttl,
        what,
    }
}

fn message(bytes: &[u8], checksum_ok: bool) -> Message {
    Message {
        kind: bytes[0],
        code: bytes[1],
        rest: bytes[4..8].try_into().unwrap(),
        body: bytes[8..].to_vec(),
        checksum_ok,
    }
}

fn v6(address: IpAddr) -> [u8; 16] {
    let IpAddr::V6(address) = address else {
        panic!("{address} is no IPv6 address")
    };
    address.octets()
}

/// An IP header from the client.
pub(crate) fn header(to: &str, ttl: u8) -> PacketBuilderStep<IpHeaders> {
    match ip(to) {
        IpAddr::V4(to) => {
            let from: Ipv4Addr = CLIENT.parse().unwrap();
            let mut header = Ipv4Header::new(0, ttl, IpNumber::UDP, from.octets(), to.octets()).unwrap();
            header.identification = 41_821 + u16::from(ttl);
            PacketBuilder::ip(IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default()))
        }
        IpAddr::V6(to) => {
            let from: Ipv6Addr = CLIENT_V6.parse().unwrap();
            let header = Ipv6Header {
                source: from.octets(),
                destination: to.octets(),
                hop_limit: ttl,
                ..Ipv6Header::default()
            };
            PacketBuilder::ip(IpHeaders::Ipv6(header, etherparse::Ipv6Extensions::default()))
        }
    }
}

pub(crate) fn udp(to: &str, port: u16, ttl: u8) -> Vec<u8> {
    udp_from(50_000, to, port, ttl, b"NSMNC\0probe")
}

pub(crate) fn udp_from(from_port: u16, to: &str, port: u16, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    header(to, ttl)
        .udp(from_port, port)
        .write(&mut packet, payload)
        .unwrap();
    packet
}

pub(crate) fn echo(to: &str, id: u16, sequence: u16, ttl: u8) -> Vec<u8> {
    let mut packet = Vec::new();
    let header = header(to, ttl);
    let payload = b"payload";
    if ip(to).is_ipv4() {
        header
            .icmpv4_echo_request(id, sequence)
            .write(&mut packet, payload)
            .unwrap();
    } else {
        header
            .icmpv6_echo_request(id, sequence)
            .write(&mut packet, payload)
            .unwrap();
    }
    packet
}

pub(crate) fn tcp(to: &str, ttl: u8, header_: TcpHeader, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    header(to, ttl)
        .tcp_header(header_)
        .write(&mut packet, payload)
        .unwrap();
    packet
}

pub(crate) fn syn(to: &str, port: u16, ttl: u8) -> Vec<u8> {
    let mut header = TcpHeader::new(50_000, port, 1000, 1024);
    header.syn = true;
    tcp(to, ttl, header, &[])
}
