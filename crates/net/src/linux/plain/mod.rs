//! Probing through ordinary sockets, without `CAP_NET_RAW`: the kernel builds the packets and matches the answers.
//!
//! One UDP, ICMP or TCP socket for each trace, which holds its port or echo identifier. TCP SACK needs segments that no
//! ordinary socket sends.

mod datagrams;
mod icmp_errors;
mod syn;
mod sys;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Protocol, Socket, Type};
use traceroute_wire::{MAX_PROBE_LEN, Probe, ProbeKind};

use super::advice::NEEDS_RAW;
use super::connections::Readiness;
use super::{BATCH, local_ports, source_address, stamps};
use crate::ports::{PortPool, Ports};
use crate::unix::clock::{Converter, Sample};
use crate::unix::interfaces::{Scopes, needs_scope};
use crate::unix::reservations::new_socket;
use crate::unix::{errors, route};
use crate::{
    ConnectionId, Counters, NetError, Network, NetworkEvent, Operation, SendStamp, Time, Token, Transport,
    Waker,
};
use datagrams::{Datagrams, Kind};
use syn::{Outcome, Syns};
use sys::Inbox;

/// How many random echo identifiers are tried before the kernel is asked for one.
const IDENTIFIER_DRAWS: usize = 8;

/// What a trace probes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Protocols {
    Udp,
    Tcp,
    Echo,
}

/// A socket's protocol, address, and port or echo identifier.
type Local = (Protocols, IpAddr, u16);

enum Endpoint {
    Datagrams(Datagrams),
    Syns(Syns),
}

pub(super) struct PlainNetwork {
    readiness: Readiness,
    wake: Arc<OwnedFd>,
    clock: Converter,
    scopes: Scopes,
    v4: PortPool,
    v6: PortPool,
    /// By the number that readiness is told with.
    endpoints: HashMap<u64, Endpoint>,
    numbers: HashMap<Local, u64>,
    next_number: u64,
    inbox: Box<Inbox>,
    /// Connections that cannot be.
    refused: Vec<(ConnectionId, IpAddr)>,
    counters: Counters,
    thread_is_prepared: bool,
    stamps_are_active: bool,
}

impl PlainNetwork {
    pub(super) fn new() -> io::Result<Self> {
        let pool = || PortPool::new(local_ports::of_system(), fastrand::Rng::new());
        Ok(PlainNetwork {
            readiness: Readiness::new()?,
            wake: Arc::new(super::sys::event()?),
            clock: Converter::new(Sample::take()),
            scopes: Scopes::default(),
            v4: pool(),
            v6: pool(),
            endpoints: HashMap::new(),
            numbers: HashMap::new(),
            next_number: 0,
            inbox: Inbox::new(),
            refused: Vec::new(),
            counters: Counters::default(),
            thread_is_prepared: false,
            stamps_are_active: false,
        })
    }

    fn ports(&mut self, address: IpAddr) -> &mut PortPool {
        match address {
            IpAddr::V4(_) => &mut self.v4,
            IpAddr::V6(_) => &mut self.v6,
        }
    }

    /// Takes a bound socket into use.
    fn add(&mut self, local: Local, socket: Socket) -> io::Result<()> {
        let (protocol, source, port) = local;
        let number = self.next_number;
        let address = SocketAddr::new(source, port);
        let datagrams = |kind, socket: Socket| -> io::Result<Endpoint> {
            self.readiness.watch(socket.as_fd(), number)?;
            Datagrams::new(kind, socket, address).map(Endpoint::Datagrams)
        };
        let endpoint = match protocol {
            Protocols::Udp => datagrams(Kind::Udp, socket)?,
            Protocols::Echo => datagrams(Kind::Echo, socket)?,
            Protocols::Tcp => Endpoint::Syns(Syns::new(socket, address)?),
        };
        // The first has switched the kernel's stamps on; a connect's answers carry none.
        if matches!(endpoint, Endpoint::Datagrams(_)) && !self.stamps_are_active {
            stamps::wait_until_active();
            self.stamps_are_active = true;
        }
        self.next_number += 1;
        self.numbers.insert(local, number);
        self.endpoints.insert(number, endpoint);
        Ok(())
    }

    /// Closes a socket; whether there was one.
    fn remove(&mut self, local: Local) -> bool {
        let endpoint = self
            .numbers
            .remove(&local)
            .and_then(|number| self.endpoints.remove(&number));
        match endpoint {
            Some(Endpoint::Syns(mut syns)) => {
                syns.reset(&self.readiness);
                true
            }
            other => other.is_some(),
        }
    }

    fn transmit(&mut self, probe: &Probe, token: Token) -> io::Result<Time> {
        let (protocol, port, to_port) = match probe.kind {
            ProbeKind::Udp {
                source_port,
                destination_port,
                ..
            } => (Protocols::Udp, source_port, destination_port),
            ProbeKind::Echo { identifier, .. } => (Protocols::Echo, identifier, 0),
            ProbeKind::TcpSyn {
                source_port,
                destination_port,
                ..
            } => (Protocols::Tcp, source_port, destination_port),
            ProbeKind::TcpSack { .. } => return Err(io::ErrorKind::Unsupported.into()),
        };
        let scope = self.scopes.of(probe.destination, probe.source);
        let to = route::with_scope(probe.destination, to_port, scope);
        let mut buffer = [0; MAX_PROBE_LEN];
        let message = probe
            .encode_message(&mut buffer)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let number = self.numbers.get(&(protocol, probe.source, port)).copied();
        match number.and_then(|number| Some((number, self.endpoints.get_mut(&number)?))) {
            Some((_, Endpoint::Datagrams(datagrams))) => datagrams.send(message, to, probe.ttl, token),
            Some((number, Endpoint::Syns(syns))) => {
                syns.send(to, probe.ttl, token, (&self.readiness, number))
            }
            None => Err(io::ErrorKind::AddrNotAvailable.into()),
        }
    }

    /// Waits for any socket or the waker.
    fn wait(&mut self, deadline: Option<Time>) -> Result<(), NetError> {
        let timeout = if self.refused.is_empty() {
            deadline.map(|deadline| deadline.since(super::sys::monotonic()))
        } else {
            Some(Duration::ZERO)
        };
        let mut fds = [self.wake.as_fd(), self.readiness.as_fd()].map(super::sys::readable);
        super::sys::wait(&mut fds, timeout)
            .map_err(|error| errors::error(Operation::Receive, None, error))?;
        if fds[0].revents != 0 {
            super::sys::lower(self.wake.as_fd());
        }
        Ok(())
    }

    fn deliver(&mut self, events: &mut dyn FnMut(NetworkEvent<'_>)) {
        let counters = &mut self.counters;
        let mut counted = |event: NetworkEvent<'_>| {
            match event {
                NetworkEvent::Sent { .. } => counters.kernel_send_stamps += 1,
                _ => counters.captured += 1,
            }
            events(event);
        };
        let readiness = &self.readiness;
        for _ in 0..BATCH {
            let Some(number) = readiness.next() else {
                // Everything that was there has been read.
                datagrams::read_clock(&mut self.clock);
                self.clock.end(true);
                return;
            };
            match self.endpoints.get_mut(&number) {
                Some(Endpoint::Datagrams(datagrams)) => {
                    datagrams.deliver(&mut self.inbox, &mut self.clock, &mut counted);
                }
                Some(Endpoint::Syns(syns)) => {
                    if let Some(Outcome { token, answer, at }) =
                        syns.outcome(&mut self.inbox, &mut self.clock, (readiness, number))
                    {
                        counted(NetworkEvent::Answered { token, answer, at });
                    }
                }
                None => {}
            }
        }
    }
}

impl Network for PlainNetwork {
    fn now(&self) -> Time {
        super::sys::monotonic()
    }

    fn waker(&self) -> Waker {
        let wake = Arc::clone(&self.wake);
        Arc::new(move || super::sys::raise(wake.as_fd()))
    }

    fn prepare(&mut self, target: IpAddr) -> Result<IpAddr, NetError> {
        if needs_scope(target) {
            self.scopes.forget();
        }
        source_address(target)
    }

    fn reserve_port(&mut self, transport: Transport, source: IpAddr) -> Result<u16, NetError> {
        let failed = |error| errors::error(Operation::ReservePort, Some(source), error);
        let scope = self.scopes.of(source, source);
        let mut binder = Binder {
            transport,
            source,
            scope,
        };
        let (port, socket) = self
            .ports(source)
            .reserve(transport, &mut binder)
            .map_err(failed)?;
        if let Err(error) = self.add((protocol(transport), source, port), socket) {
            self.ports(source).release(transport, port);
            return Err(failed(error));
        }
        Ok(port)
    }

    fn release_port(&mut self, transport: Transport, source: IpAddr, port: u16) {
        if self.remove((protocol(transport), source, port)) {
            self.ports(source).release(transport, port);
        }
    }

    fn reserve_identifier(&mut self, source: IpAddr) -> Result<Option<u16>, NetError> {
        let failed = |error| errors::error(Operation::OpenEcho, None, error);
        let scope = self.scopes.of(source, source);
        let (identifier, socket) = echo_socket(source, scope).map_err(failed)?;
        self.add((Protocols::Echo, source, identifier), socket)
            .map_err(failed)?;
        Ok(Some(identifier))
    }

    fn release_identifier(&mut self, source: IpAddr, identifier: u16) {
        self.remove((Protocols::Echo, source, identifier));
    }

    fn send(&mut self, probe: &Probe, token: Token) -> Result<SendStamp, NetError> {
        let at = self
            .transmit(probe, token)
            .map_err(|error| errors::error(Operation::Send, Some(probe.destination), error))?;
        self.counters.sent += 1;
        Ok(SendStamp { at })
    }

    /// Fails, as an event: connections are for TCP SACK, and this way another method can be tried instead.
    fn connect(&mut self, id: ConnectionId, _: SocketAddr, remote: SocketAddr) -> Result<(), NetError> {
        self.refused.push((id, remote.ip()));
        Ok(())
    }

    fn disconnect(&mut self, id: ConnectionId) {
        self.refused.retain(|(refused, _)| *refused != id);
    }

    fn poll(
        &mut self,
        deadline: Option<Time>,
        events: &mut dyn FnMut(NetworkEvent<'_>),
    ) -> Result<(), NetError> {
        if !self.thread_is_prepared {
            super::sys::precise_timeouts();
            self.thread_is_prepared = true;
        }
        self.wait(deadline)?;
        self.deliver(events);
        for (id, target) in self.refused.drain(..) {
            events(NetworkEvent::ConnectFailed(id, no_sack(target)));
        }
        Ok(())
    }

    fn counters(&self) -> Counters {
        let of = |protocol| self.numbers.keys().filter(|local| local.0 == protocol).count() as u64;
        let echo = of(Protocols::Echo);
        Counters {
            sockets: echo,
            reserved_ports: self.numbers.len() as u64 - echo,
            ..self.counters
        }
    }
}

fn protocol(transport: Transport) -> Protocols {
    match transport {
        Transport::Udp => Protocols::Udp,
        Transport::Tcp => Protocols::Tcp,
    }
}

fn no_sack(target: IpAddr) -> NetError {
    let cause = io::Error::new(
        io::ErrorKind::Unsupported,
        "ordinary sockets cannot probe with TCP SACK",
    );
    NetError::new(Operation::Connect, Some(target), cause).with_hint(NEEDS_RAW)
}

/// An ICMP socket (icmp(7)) with a random identifier: its port.
fn echo_socket(source: IpAddr, scope: u32) -> io::Result<(u16, Socket)> {
    let protocol = match source {
        IpAddr::V4(_) => Protocol::ICMPV4,
        IpAddr::V6(_) => Protocol::ICMPV6,
    };
    let socket = Socket::new(route::domain(source), Type::DGRAM.nonblocking(), Some(protocol))?;
    for _ in 0..IDENTIFIER_DRAWS {
        let identifier = fastrand::u16(1..);
        match socket.bind(&route::with_scope(source, identifier, scope).into()) {
            Ok(()) => return Ok((identifier, socket)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    socket.bind(&route::with_scope(source, 0, scope).into())?;
    let local = socket.local_addr()?.as_socket();
    local
        .map(|local| (local.port(), socket))
        .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// Binds sockets for [`PortPool`]. Nothing is captured, so nothing needs to be watched.
struct Binder {
    transport: Transport,
    source: IpAddr,
    scope: u32,
}

impl Ports for Binder {
    type Socket = Socket;

    fn bind(&mut self, port: u16) -> io::Result<Socket> {
        let socket = new_socket(self.transport, self.source)?;
        socket.bind(&route::with_scope(self.source, port, self.scope).into())?;
        Ok(socket)
    }

    fn watch(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}
