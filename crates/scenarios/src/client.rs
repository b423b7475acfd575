//! As much of a client's kernel as a SACK trace needs: opening TCP connections, acknowledging what
//! arrives, and refusing segments that belong to none (RFC 9293 §3.10.7).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use etherparse::{PacketBuilder, SlicedPacket, TcpHeader, TcpOptionElement, TransportSlice};
use traceroute_engine::{ConnectionId, NetError, Operation};
use traceroute_wire::{IcmpError, QuotedTransport, Reply, ReplyKind};

use crate::journal::header;

/// First retransmission of a SYN (RFC 6298 §2.1).
const RETRANSMIT: Duration = Duration::from_secs(1);

/// What the kernel tells the process.
pub(crate) enum Told {
    Connected(ConnectionId),
    Failed(ConnectionId, NetError),
}

#[derive(Default)]
pub(crate) struct Client {
    connections: Vec<Connection>,
    /// Packets to send.
    pub(crate) out: Vec<Vec<u8>>,
    pub(crate) told: Vec<Told>,
}

struct Connection {
    id: ConnectionId,
    local: SocketAddr,
    remote: SocketAddr,
    initial: u32,
    /// The peer's next sequence number; `None`: still waiting for the SYN-ACK.
    peer_next: Option<u32>,
    /// The peer's timestamp, when negotiated.
    timestamp: Option<u32>,
    again_at: Duration,
    wait: Duration,
}

impl Client {
    pub(crate) fn connect(
        &mut self,
        id: ConnectionId,
        local: SocketAddr,
        remote: SocketAddr,
        now: Duration,
        rng: &mut fastrand::Rng,
    ) {
        let connection = Connection {
            id,
            local,
            remote,
            initial: rng.u32(..),
            peer_next: None,
            timestamp: None,
            again_at: now + RETRANSMIT,
            wait: RETRANSMIT,
        };
        self.out.push(connection.syn(now));
        self.connections.push(connection);
    }

    pub(crate) fn disconnect(&mut self, id: ConnectionId) {
        let Some(index) = self.connections.iter().position(|connection| connection.id == id) else {
            return;
        };
        let connection = self.connections.swap_remove(index);
        if connection.peer_next.is_some() {
            let mut reset = connection.header();
            reset.rst = true;
            reset.sequence_number = connection.initial.wrapping_add(1);
            self.out
                .push(packet(connection.local, connection.remote, reset, &[]));
        }
    }

    pub(crate) fn wake_at(&self) -> Option<Duration> {
        let waiting = self
            .connections
            .iter()
            .filter(|connection| connection.peer_next.is_none());
        waiting.map(|connection| connection.again_at).min()
    }

    pub(crate) fn tick(&mut self, now: Duration) {
        for connection in &mut self.connections {
            if connection.peer_next.is_none() && connection.again_at <= now {
                self.out.push(connection.syn(now));
                connection.wait *= 2;
                connection.again_at = now + connection.wait;
            }
        }
    }

    /// A packet arrived; `reply` is what it says, if anything.
    pub(crate) fn receive(&mut self, bytes: &[u8], reply: Option<&Reply>, now: Duration) {
        if let Some(Reply {
            kind: ReplyKind::IcmpError { error, quoted, .. },
            ..
        }) = reply
        {
            if let (IcmpError::Unreachable { code }, QuotedTransport::Tcp { source_port, .. }) =
                (*error, quoted.transport)
            {
                let local = SocketAddr::new(quoted.source, source_port);
                self.refused(local, error_number(local.is_ipv6(), code));
            }
            return;
        }
        if let Some(local) = parameter_problem(bytes) {
            self.refused(local, PROTOCOL_ERROR);
            return;
        }
        let Some((from, to, _)) = header(bytes) else {
            return;
        };
        if let Ok(SlicedPacket {
            transport: Some(TransportSlice::Tcp(tcp)),
            ..
        }) = SlicedPacket::from_ip(bytes)
        {
            self.segment(from, to, &tcp.to_header(), tcp.payload().len() as u32, now);
        }
    }

    /// In this state every such error is final (Linux `tcp_v4_err`, `tcp_v6_err`).
    fn refused(&mut self, local: SocketAddr, error_number: i32) {
        let opening = |c: &Connection| c.local == local && c.peer_next.is_none();
        if let Some(index) = self.connections.iter().position(opening) {
            let connection = self.connections.swap_remove(index);
            self.told.push(connection.failed(error_number));
        }
    }

    fn segment(&mut self, from: IpAddr, to: IpAddr, tcp: &TcpHeader, payload: u32, now: Duration) {
        let (remote, local) = (
            SocketAddr::new(from, tcp.source_port),
            SocketAddr::new(to, tcp.destination_port),
        );
        let found = self
            .connections
            .iter()
            .position(|c| c.local == local && c.remote == remote);
        let Some(index) = found else {
            if !tcp.rst && tcp.ack {
                let mut reset = TcpHeader::new(local.port(), remote.port(), tcp.acknowledgment_number, 0);
                reset.rst = true;
                self.out.push(packet(local, remote, reset, &[]));
            }
            return;
        };
        let connection = &mut self.connections[index];
        let Some(peer_next) = connection.peer_next else {
            if tcp.ack && tcp.acknowledgment_number == connection.initial.wrapping_add(1) {
                if tcp.rst {
                    let connection = self.connections.swap_remove(index);
                    self.told.push(connection.failed(REFUSED));
                } else if tcp.syn {
                    connection.peer_next = Some(tcp.sequence_number.wrapping_add(1));
                    connection.timestamp = timestamp(tcp);
                    self.out.push(connection.acknowledgment(now));
                    self.told.push(Told::Connected(connection.id));
                }
            }
            return;
        };
        if tcp.rst && tcp.sequence_number == peer_next {
            self.connections.swap_remove(index);
        } else if tcp.syn || payload > 0 {
            connection.timestamp = timestamp(tcp).or(connection.timestamp);
            if tcp.sequence_number == peer_next && !tcp.syn {
                connection.peer_next = Some(peer_next.wrapping_add(payload));
            }
            self.out.push(connection.acknowledgment(now));
        }
    }
}

impl Connection {
    fn header(&self) -> TcpHeader {
        TcpHeader::new(self.local.port(), self.remote.port(), self.initial, 64_240)
    }

    fn syn(&self, now: Duration) -> Vec<u8> {
        let mut header = self.header();
        header.syn = true;
        let options = [
            TcpOptionElement::MaximumSegmentSize(1460),
            TcpOptionElement::SelectiveAcknowledgementPermitted,
            TcpOptionElement::Timestamp(clock(now), 0),
            TcpOptionElement::Noop,
            TcpOptionElement::WindowScale(7),
        ];
        packet(self.local, self.remote, header, &options)
    }

    fn acknowledgment(&self, now: Duration) -> Vec<u8> {
        let mut header = self.header();
        header.sequence_number = self.initial.wrapping_add(1);
        header.ack = true;
        header.acknowledgment_number = self.peer_next.unwrap_or_default();
        let options: Vec<_> = self
            .timestamp
            .map(|theirs| TcpOptionElement::Timestamp(clock(now), theirs))
            .into_iter()
            .collect();
        packet(self.local, self.remote, header, &options)
    }

    fn failed(&self, error_number: i32) -> Told {
        let source = io::Error::from_raw_os_error(error_number);
        let error = NetError::new(Operation::Connect, Some(self.remote.ip()), source);
        let hint = match error_number {
            NET_UNREACHABLE | HOST_UNREACHABLE => {
                "the next hop does not answer, or a router on the way refuses"
            }
            ACCESS => "a firewall on this host or on the way forbids it",
            _ => "",
        };
        Told::Failed(self.id, error.with_hint(hint))
    }
}

/// The connection that an `ICMPv6` parameter problem (RFC 4443 §3.4) is about.
fn parameter_problem(bytes: &[u8]) -> Option<SocketAddr> {
    const ICMP: usize = 40;
    const QUOTE: usize = ICMP + 8;
    if bytes.get(6) != Some(&58) || bytes.get(ICMP) != Some(&4) {
        return None;
    }
    let address: [u8; 16] = bytes.get(QUOTE + 8..QUOTE + 24)?.try_into().ok()?;
    let port = bytes.get(QUOTE + 40..QUOTE + 42)?.try_into().ok()?;
    Some(SocketAddr::new(address.into(), u16::from_be_bytes(port)))
}

fn timestamp(tcp: &TcpHeader) -> Option<u32> {
    tcp.options_iterator().find_map(|option| match option {
        Ok(TcpOptionElement::Timestamp(value, _)) => Some(value),
        _ => None,
    })
}

/// One tick per millisecond, as Linux has it.
fn clock(now: Duration) -> u32 {
    0x1000_0000_u32.wrapping_add(now.as_millis() as u32)
}

/// Linux's numbers.
const REFUSED: i32 = 111;
const HOST_UNREACHABLE: i32 = 113;
const NET_UNREACHABLE: i32 = 101;
const NO_PROTOCOL: i32 = 92;
const ACCESS: i32 = 13;
const PROTOCOL_ERROR: i32 = 71;

/// What Linux makes of an ICMP code (`icmp_err_convert`, `icmpv6_err_convert`).
fn error_number(v6: bool, code: u8) -> i32 {
    match (v6, code) {
        (false, 0 | 6 | 9 | 11) | (true, 0) => NET_UNREACHABLE,
        (false, 2) => NO_PROTOCOL,
        (false, 3) | (true, 4) => REFUSED,
        (true, 1 | 5 | 6) => ACCESS,
        _ => HOST_UNREACHABLE,
    }
}

/// A segment as it leaves the client.
fn packet(from: SocketAddr, to: SocketAddr, header: TcpHeader, options: &[TcpOptionElement]) -> Vec<u8> {
    const TTL: u8 = 64;
    let mut header = header;
    // Fails only for more than 40 bytes of options.
    let _ = header.set_options(options);
    let mut bytes = Vec::new();
    let written = match (from.ip(), to.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => PacketBuilder::ipv4(a.octets(), b.octets(), TTL)
            .tcp_header(header)
            .write(&mut bytes, &[]),
        (IpAddr::V6(a), IpAddr::V6(b)) => PacketBuilder::ipv6(a.octets(), b.octets(), TTL)
            .tcp_header(header)
            .write(&mut bytes, &[]),
        _ => return Vec::new(),
    };
    debug_assert!(written.is_ok());
    bytes
}
