//! The raw sockets that send probes.

use std::io;
use std::net::IpAddr;

use socket2::{Domain, MsgHdr, Protocol, SockAddr, Socket, Type};
use traceroute_engine::Time;
use traceroute_wire::{Family, Probe};

use super::routes;
use super::rules::{self, V6Packet};
use crate::route;
use crate::unix::sys;

/// The protocols of IPv6 probes; each needs its socket, as the kernel takes the next header from
/// it.
const V6_PROTOCOLS: [i32; 3] = [libc::IPPROTO_ICMPV6, libc::IPPROTO_UDP, libc::IPPROTO_TCP];

/// Sends probes of one address family.
pub(super) enum Sender {
    V4(RawSocket),
    V6([RawSocket; V6_PROTOCOLS.len()]),
}

/// A socket whose packets leave by one interface at a time.
pub(super) struct RawSocket {
    socket: Socket,
    family: Family,
    /// The index of that interface; 0: the routing tables decide.
    interface: u32,
}

impl Sender {
    pub(super) fn open(family: Family) -> io::Result<Self> {
        match family {
            Family::V4 => {
                let raw = RawSocket::open(Family::V4, libc::IPPROTO_RAW)?;
                raw.socket.set_header_included_v4(true)?;
                Ok(Sender::V4(raw))
            }
            Family::V6 => {
                let [icmp, udp, tcp] = V6_PROTOCOLS.map(|protocol| RawSocket::open(Family::V6, protocol));
                Ok(Sender::V6([icmp?, udp?, tcp?]))
            }
        }
    }

    /// How many sockets it has.
    pub(super) fn sockets(&self) -> u64 {
        match self {
            Sender::V4(_) => 1,
            Sender::V6(sockets) => sockets.len() as u64,
        }
    }

    /// Sends a probe by an interface (0: as the routing tables say); when, by the clock just
    /// before.
    pub(super) fn send(&mut self, probe: &Probe, interface: u32) -> io::Result<Time> {
        let mut packet = vec![0; probe.packet_len()];
        probe.encode(&mut packet).ok_or(io::ErrorKind::InvalidInput)?;
        let scope = route::scope_of(probe.destination, interface);
        // Raw sockets have no ports.
        let to = route::with_scope(probe.destination, 0, scope).into();
        match (self, probe.source) {
            (Sender::V4(raw), IpAddr::V4(_)) => {
                rules::to_host_order(&mut packet);
                let socket = raw.by(interface)?;
                at_once(|| socket.send_to(&packet, &to))
            }
            (Sender::V6(sockets), IpAddr::V6(source)) => {
                let parts = V6Packet::parse(&packet).ok_or(io::ErrorKind::InvalidInput)?;
                let control = rules::v6_control(&parts, source, scope, probe.dont_fragment);
                let mut by_protocol = V6_PROTOCOLS.iter().zip(sockets);
                let (_, raw) = by_protocol
                    .find(|(protocol, _)| **protocol == i32::from(parts.protocol))
                    .ok_or(io::ErrorKind::InvalidInput)?;
                send_v6(raw.by(interface)?, &parts, &to, &control)
            }
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

impl RawSocket {
    /// Receives next to nothing: replies are captured.
    fn open(family: Family, protocol: i32) -> io::Result<Self> {
        let domain = match family {
            Family::V4 => Domain::IPV4,
            Family::V6 => Domain::IPV6,
        };
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(protocol)))?;
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(1)?;
        Ok(RawSocket {
            socket,
            family,
            interface: 0,
        })
    }

    /// The socket, whose next packet leaves by this interface.
    fn by(&mut self, interface: u32) -> io::Result<&Socket> {
        if self.interface != interface {
            routes::bind_to_interface(&self.socket, self.family, interface)?;
            self.interface = interface;
        }
        Ok(&self.socket)
    }
}

fn send_v6(socket: &Socket, parts: &V6Packet<'_>, to: &SockAddr, control: &[u8]) -> io::Result<Time> {
    let payload = [io::IoSlice::new(parts.payload)];
    let message = MsgHdr::new()
        .with_addr(to)
        .with_buffers(&payload)
        .with_control(control);
    at_once(|| socket.sendmsg(&message, 0))
}

/// Makes a system call, again if a signal interrupts it; the time just before.
fn at_once(call: impl Fn() -> io::Result<usize>) -> io::Result<Time> {
    loop {
        let at = sys::monotonic();
        match call() {
            Ok(_) => return Ok(at),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
