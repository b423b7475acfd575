//! The raw sockets that send probes.

use std::io;
use std::net::IpAddr;

use socket2::{Domain, MsgHdr, Protocol, SockAddr, Socket, Type};
use traceroute_engine::Time;
use traceroute_wire::Probe;
use traceroute_wire::filter::Family;

use super::rules::{self, V6Packet};
use crate::unix::{route, sys};

/// The protocols of IPv6 probes; each needs its socket, as the kernel takes the next header from
/// it.
const V6_PROTOCOLS: [i32; 3] = [libc::IPPROTO_ICMPV6, libc::IPPROTO_UDP, libc::IPPROTO_TCP];

/// Sends probes of one address family.
pub(super) enum Sender {
    V4(Socket),
    V6([Socket; V6_PROTOCOLS.len()]),
}

impl Sender {
    pub(super) fn open(family: Family) -> io::Result<Self> {
        match family {
            Family::V4 => {
                let socket = raw(Domain::IPV4, libc::IPPROTO_RAW)?;
                socket.set_header_included_v4(true)?;
                Ok(Sender::V4(socket))
            }
            Family::V6 => {
                let [icmp, udp, tcp] = V6_PROTOCOLS.map(|protocol| raw(Domain::IPV6, protocol));
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

    /// Sends a probe; when, by the clock just before. `scope`: interface of a link-local
    /// destination, otherwise 0.
    pub(super) fn send(&self, probe: &Probe, scope: u32) -> io::Result<Time> {
        let mut packet = vec![0; probe.packet_len()];
        probe.encode(&mut packet).ok_or(io::ErrorKind::InvalidInput)?;
        // Raw sockets have no ports.
        let to = route::with_scope(probe.destination, 0, scope).into();
        match (self, probe.source) {
            (Sender::V4(socket), IpAddr::V4(_)) => {
                rules::to_host_order(&mut packet);
                at_once(|| socket.send_to(&packet, &to))
            }
            (Sender::V6(sockets), IpAddr::V6(source)) => {
                let parts = V6Packet::parse(&packet).ok_or(io::ErrorKind::InvalidInput)?;
                let control = rules::v6_control(&parts, source, scope, probe.dont_fragment);
                send_v6(sockets, &parts, &to, &control)
            }
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

/// A raw socket that receives next to nothing: replies are captured.
fn raw(domain: Domain, protocol: i32) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(protocol)))?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(1)?;
    Ok(socket)
}

fn send_v6(
    sockets: &[Socket; V6_PROTOCOLS.len()],
    parts: &V6Packet<'_>,
    to: &SockAddr,
    control: &[u8],
) -> io::Result<Time> {
    let mut by_protocol = V6_PROTOCOLS.iter().zip(sockets);
    let (_, socket) = by_protocol
        .find(|(protocol, _)| **protocol == i32::from(parts.protocol))
        .ok_or(io::ErrorKind::InvalidInput)?;
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
