//! Probing through ordinary sockets, without `CAP_NET_RAW`: the kernel builds the packets and
//! matches the answers.
//!
//! - Each flow has one UDP, ICMP or TCP socket, which reserves its port or echo identifier.
//! - ICMP errors come from the socket's error queue, with the beginning of the message they are
//!   about, their own TTL and their extensions. They become `Answered`.
//! - Datagrams and echo replies become `Reply`, as if captured.
//! - A SYN is a `connect` on the reserved socket, ended before the next one.
//! - SACK needs segments that no ordinary socket sends: `connect` fails, and `prefer_sack` falls
//!   back.

mod datagrams;
mod header;
mod icmp_errors;
mod syn;
mod sys;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Protocol, Socket, Type};
use traceroute_engine::{
    Capabilities, ConnectionId, FlowRequest, NetError, Network, NetworkCounters, NetworkEvent, OpenFlow,
    Operation, Route, SendStamp, Time, Token, Transport, Waker,
};
use traceroute_wire::{Probe, ProbeKind};

use super::advice::needs_raw;
use super::connections::Readiness;
use super::routes::{FlowRoutes, Want};
use super::{BATCH, local_ports, no_way, stamps};
use crate::ports::{PortPool, Ports};
use crate::route;
use crate::unix::clock::{Converter, Sample};
use crate::unix::errors;
use crate::unix::reservations::new_socket;
use datagrams::{DatagramKind, DatagramSocket};
use header::HeaderFields;
use syn::{SynOutcome, Syns};
use sys::MessageBuffer;

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
    Datagrams(DatagramSocket),
    Syns(Syns),
}

pub(super) struct PlainNetwork {
    readiness: Readiness,
    wake: Arc<OwnedFd>,
    clock: Converter,
    routes: FlowRoutes,
    v4: PortPool,
    v6: PortPool,
    /// By the number that readiness is told with.
    endpoints: HashMap<u64, Endpoint>,
    numbers: HashMap<Local, u64>,
    next_number: u64,
    buffer: Box<MessageBuffer>,
    /// Connections that cannot be.
    refused: Vec<(ConnectionId, IpAddr)>,
    counters: NetworkCounters,
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
            routes: FlowRoutes::open()?,
            v4: pool(),
            v6: pool(),
            endpoints: HashMap::new(),
            numbers: HashMap::new(),
            next_number: 0,
            buffer: MessageBuffer::new(),
            refused: Vec::new(),
            counters: NetworkCounters::default(),
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
            DatagramSocket::new(kind, socket, address).map(Endpoint::Datagrams)
        };
        let endpoint = match protocol {
            Protocols::Udp => datagrams(DatagramKind::Udp, socket)?,
            Protocols::Echo => datagrams(DatagramKind::Echo, socket)?,
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

    /// Whether a probe's flow has a socket here.
    pub(super) fn has_socket_of(&self, probe: &Probe) -> bool {
        socket_of(probe)
            .is_some_and(|(protocol, port, _)| self.numbers.contains_key(&(protocol, probe.source, port)))
    }

    /// Whether a TCP port is reserved here.
    pub(super) fn has_port(&self, local: SocketAddr) -> bool {
        self.numbers
            .contains_key(&(Protocols::Tcp, local.ip(), local.port()))
    }

    /// Reserves a port on the address that the flow's packets leave from.
    fn open_port(&mut self, transport: Transport, request: &FlowRequest) -> Result<OpenFlow, NetError> {
        let pool = match request.target {
            IpAddr::V4(_) => &mut self.v4,
            IpAddr::V6(_) => &mut self.v6,
        };
        let mut binder = Router {
            transport,
            request,
            routes: &mut self.routes,
            failure: None,
        };
        let reserved = pool.reserve(transport, &mut binder);
        if let Some(failure) = binder.failure {
            return Err(failure);
        }
        let failed = |error| errors::error(Operation::ReservePort, None, error);
        let (port, (route, socket)) = reserved.map_err(failed)?;
        if let Err(error) = self.add((protocol(transport), route.source, port), socket) {
            self.ports(route.source).release(transport, port);
            return Err(failed(error));
        }
        Ok(OpenFlow {
            route,
            number: Some(port),
            capabilities: capabilities(request.transport),
        })
    }

    fn transmit(&mut self, probe: &Probe, scope: u32, token: Token) -> io::Result<Time> {
        let (protocol, port, to_port) = socket_of(probe).ok_or(io::ErrorKind::Unsupported)?;
        let to = route::with_scope(probe.destination, to_port, scope);
        let mut buffer = vec![0; probe.packet_len()];
        let message = probe
            .encode_message(&mut buffer)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let number = self.numbers.get(&(protocol, probe.source, port)).copied();
        match number.and_then(|number| Some((number, self.endpoints.get_mut(&number)?))) {
            Some((_, Endpoint::Datagrams(datagrams))) => {
                datagrams.send(message, to, (probe.ttl, HeaderFields::of(probe)), token)
            }
            Some((number, Endpoint::Syns(syns))) => syns.send(
                to,
                (probe.ttl, HeaderFields::of(probe)),
                token,
                (&self.readiness, number),
            ),
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
                    datagrams.deliver(&mut self.buffer, &mut self.clock, &mut counted);
                }
                Some(Endpoint::Syns(syns)) => {
                    if let Some(SynOutcome { token, answer, at }) =
                        syns.outcome(&mut self.buffer, &mut self.clock, (readiness, number))
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

    fn open_flow(&mut self, request: &FlowRequest) -> Result<OpenFlow, NetError> {
        match request.transport {
            Some(transport) => self.open_port(transport, request),
            None => {
                let want = Want::of(request, 0);
                let route = self.routes.ordinary_flow(&want);
                let route = route.map_err(|error| no_way(&want, error))?;
                let failed = |error| errors::error(Operation::OpenEcho, None, error);
                let (identifier, socket) = echo_socket(&route).map_err(failed)?;
                self.add((Protocols::Echo, route.source, identifier), socket)
                    .map_err(failed)?;
                Ok(OpenFlow {
                    route,
                    number: Some(identifier),
                    capabilities: capabilities(request.transport),
                })
            }
        }
    }

    fn close_flow(&mut self, request: &FlowRequest, flow: &OpenFlow) {
        let (source, Some(number)) = (flow.route.source, flow.number) else {
            return;
        };
        match request.transport {
            Some(transport) => {
                if self.remove((protocol(transport), source, number)) {
                    self.ports(source).release(transport, number);
                }
            }
            None => {
                self.remove((Protocols::Echo, source, number));
            }
        }
    }

    fn lacks_neighbour(&mut self, request: &FlowRequest, flow: &OpenFlow) -> bool {
        let want = Want::of(request, flow.number.unwrap_or(0));
        self.routes.lacks_neighbour(&want, &flow.route)
    }

    fn send_on(&mut self, probe: &Probe, route: &Route, token: Token) -> Result<SendStamp, NetError> {
        let scope = route::scope_of(probe.destination, route.interface);
        let at = self
            .transmit(probe, scope, token)
            .map_err(|error| errors::error(Operation::Send, Some(probe.destination), error))?;
        self.counters.sent += 1;
        Ok(SendStamp { at })
    }

    /// Fails, as an event: connections are for TCP SACK, and this way another method can be tried
    /// instead.
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

    fn counters(&self) -> NetworkCounters {
        let of = |protocol| self.numbers.keys().filter(|local| local.0 == protocol).count() as u64;
        let echo = of(Protocols::Echo);
        NetworkCounters {
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

/// What can be done with probes over `transport`, or with ICMP echo requests (`None`).
fn capabilities(transport: Option<Transport>) -> Capabilities {
    let is_tcp = transport == Some(Transport::Tcp);
    Capabilities {
        // An error's probe is found by the quoted message; no two are the same. The kernel
        // checks sequence numbers, so what is about an earlier connection from the port
        // ends no later one.
        tells_attempts: true,
        // TCP_SYNCNT. What answers a repeated SYN is not reported.
        retransmits: is_tcp,
        sees_after_nat: true,
        // A socket has one connection at a time.
        one_at_a_time: is_tcp,
    }
}

fn no_sack(target: IpAddr) -> NetError {
    let cause = io::Error::new(
        io::ErrorKind::Unsupported,
        "ordinary sockets cannot probe with TCP SACK",
    );
    NetError::new(Operation::Connect, Some(target), cause).with_hint(needs_raw())
}

/// The protocol, the local port or echo identifier, and the remote port of a probe's socket;
/// `None`: no ordinary socket sends it.
fn socket_of(probe: &Probe) -> Option<(Protocols, u16, u16)> {
    match probe.kind {
        ProbeKind::Udp {
            source_port,
            destination_port,
            ..
        } => Some((Protocols::Udp, source_port, destination_port)),
        ProbeKind::Echo { identifier, .. } => Some((Protocols::Echo, identifier, 0)),
        ProbeKind::TcpSyn {
            source_port,
            destination_port,
            ..
        } => Some((Protocols::Tcp, source_port, destination_port)),
        ProbeKind::TcpSack { .. } => None,
    }
}

/// An ICMP socket (icmp(7)) with a random identifier: its port.
fn echo_socket(route: &Route) -> io::Result<(u16, Socket)> {
    let Route {
        source, interface, ..
    } = *route;
    let protocol = match source {
        IpAddr::V4(_) => Protocol::ICMPV4,
        IpAddr::V6(_) => Protocol::ICMPV6,
    };
    let socket = Socket::new(route::domain(source), Type::DGRAM.nonblocking(), Some(protocol))?;
    super::sys::bind_to_route(socket.as_fd(), route)?;
    for _ in 0..IDENTIFIER_DRAWS {
        let identifier = fastrand::u16(1..);
        match socket.bind(&route::with_scope(source, identifier, interface).into()) {
            Ok(()) => return Ok((identifier, socket)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    socket.bind(&route::with_scope(source, 0, interface).into())?;
    let local = socket.local_addr()?.as_socket();
    local
        .map(|local| (local.port(), socket))
        .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// Binds sockets for [`PortPool`] to the address that a flow's packets leave from, which may depend
/// on the port.
struct Router<'a> {
    transport: Transport,
    request: &'a FlowRequest,
    routes: &'a mut FlowRoutes,
    /// What is not about the port.
    failure: Option<NetError>,
}

impl Ports for Router<'_> {
    type Socket = (Route, Socket);

    fn bind(&mut self, port: u16) -> io::Result<(Route, Socket)> {
        let want = Want::of(self.request, port);
        let route = self.routes.ordinary_flow(&want).map_err(|error| {
            self.failure = Some(no_way(&want, error));
            // Unlike a port that is taken, this ends the search.
            io::ErrorKind::InvalidData
        })?;
        let socket = new_socket(self.transport, route.source)?;
        super::sys::bind_to_route(socket.as_fd(), &route)?;
        socket.bind(&route::with_scope(route.source, port, route.interface).into())?;
        Ok((route, socket))
    }

    /// Nothing is captured, so nothing needs to be watched.
    fn watch(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for PlainNetwork {
    /// Readable when there may be something to deliver.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.readiness.as_fd()
    }
}
