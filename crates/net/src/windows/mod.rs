//! Windows. Three ways to probe, by [`NetworkOptions`]:
//!
//! - Raw sockets (administrator rights; IPv4; TCP only on server editions). Where they are refused,
//!   and for `ICMPv6`, echo requests go through the ICMP API, which needs no rights.
//! - The driver of the Datadog Agent: everything, on every edition.
//! - The system's own TCP connects (`syn_socket`): no rights needed, TCP SYN only.
//!
//! Whatever is received, a thread of its own receives it, reads the clock
//! (`QueryPerformanceCounter`) and leaves it in the [`Inbox`].

mod clock;
mod connect;
mod ddnpm;
mod diagnose;
mod echo;
mod egress;
mod interfaces;
mod ports;
mod raw;
mod routes;
mod sys;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use traceroute_engine::{
    Capabilities, ConnectionId, Egress, FlowRequest, NetError, Network, NetworkCounters, NetworkEvent,
    OpenFlow, Operation, Route, SendStamp, Time, Token, Transport, Waker,
};
use traceroute_wire::{ECHO_PAYLOAD, Family, Ignored, Probe, ProbeKind};

use crate::NetworkOptions;
use crate::ddnpm::TRANSPORT_PATH;
use crate::inbox::{Inbox, Item};
use crate::route;
use crate::winerror::{self, WSAEACCES};
use connect::Connector;
use ddnpm::WindowsDriver;
pub use ddnpm::start_windows_driver;
pub use diagnose::{access, diagnose};
use echo::EchoApi;
pub(crate) use egress::{check_marking, has_interface, interface_of_name, is_own_source, only_zone};
use ports::{Keeping, ReservedPorts};
use raw::RawSockets;

/// Items delivered by one [`Network::poll`], so that sending is not kept waiting.
const BATCH: usize = 256;
/// Packets that may wait to be delivered, some 10 MB.
const INBOX: usize = 1 << 16;

/// Opens the backend. Its sockets and handles are opened when they are first needed.
///
/// # Errors
/// None; they come with the first [`Network::open_flow`].
pub fn open(options: NetworkOptions) -> Result<Box<dyn Network + Send>, NetError> {
    Ok(Box::new(WindowsNetwork::new(options.effective(), TRANSPORT_PATH)))
}

/// The address that the system would use for packets to `target`.
///
/// # Errors
/// No route, no address of that family; a link-local target that could be on several interfaces.
pub fn source_address(target: IpAddr) -> Result<IpAddr, NetError> {
    routes::find(target, &Egress::default()).map(|route| route.source)
}

/// What sends probes.
enum Backend {
    Raw {
        sockets: RawSockets,
        /// Why there are none: this user may not have raw sockets.
        refused: Option<NetError>,
    },
    Driver(WindowsDriver),
    Connects,
}

struct WindowsNetwork {
    inbox: Arc<Inbox>,
    backend: Backend,
    echo: EchoApi,
    connector: Connector,
    ports: ReservedPorts,
    batch: Vec<Item>,
    sent: u64,
}

impl WindowsNetwork {
    fn new(options: NetworkOptions, device: &str) -> Self {
        let inbox = Arc::new(Inbox::new(INBOX));
        let (backend, keeping) = if options.syn_socket {
            (Backend::Connects, Keeping::Socket)
        } else if options.windows_driver {
            (
                Backend::Driver(WindowsDriver::new(device, Arc::clone(&inbox))),
                Keeping::Socket,
            )
        } else {
            let sockets = RawSockets::new(Arc::clone(&inbox));
            let refused = None;
            (Backend::Raw { sockets, refused }, Keeping::Memory)
        };
        WindowsNetwork {
            backend,
            echo: EchoApi::new(Arc::clone(&inbox)),
            connector: Connector::new(Arc::clone(&inbox)),
            ports: ReservedPorts::new(keeping),
            batch: Vec::with_capacity(BATCH),
            sent: 0,
            inbox,
        }
    }

    /// Opens what sends from `source`, and sees the replies.
    fn open_backend(&mut self, source: IpAddr) -> Result<(), NetError> {
        match (&mut self.backend, source) {
            (Backend::Driver(driver), _) => driver.open(),
            (Backend::Raw { sockets, refused }, IpAddr::V4(source)) if refused.is_none() => {
                match sockets.open(source) {
                    Err(error) if error.source.raw_os_error() == Some(WSAEACCES) => {
                        tracing::debug!(%error, "ICMP goes through the ICMP API");
                        *refused = Some(error);
                        Ok(())
                    }
                    result => result,
                }
            }
            _ => Ok(()),
        }
    }

    /// What can be done with probes over `transport`, or with ICMP echo requests (`None`).
    fn capabilities(&self, family: Family, transport: Option<Transport>) -> Capabilities {
        let system_matches = match &self.backend {
            // One request of the ICMP API for each probe.
            Backend::Raw { refused, .. } => {
                transport.is_none() && (family == Family::V6 || refused.is_some())
            }
            Backend::Driver(_) => false,
            // One socket for each probe, which sends its SYN once.
            Backend::Connects => true,
        };
        Capabilities {
            sees_after_nat: system_matches,
            ..Capabilities::RAW
        }
    }

    /// Reserves a port on a flow's source address.
    fn reserve_port(&mut self, transport: Transport, route: &Route) -> Result<u16, NetError> {
        let source = route.source;
        self.check_transport(transport, source)?;
        let port = self
            .ports
            .reserve(transport, source, route::scope_of(source, route.interface))
            .map_err(|error| winerror::error(Operation::ReservePort, Some(source), error))?;
        self.inbox.watched().add(transport, port);
        if let Backend::Driver(driver) = &mut self.backend
            && let Err(error) = driver.watch(transport)
        {
            self.release_port(transport, source, port);
            return Err(error);
        }
        Ok(port)
    }

    /// Gives a reserved port back. Unknown ports are ignored.
    fn release_port(&mut self, transport: Transport, source: IpAddr, port: u16) {
        if !self.ports.release(transport, source, port) {
            return;
        }
        self.inbox.watched().remove(transport, port);
        if transport == Transport::Tcp {
            self.connector.end_probes((source, port));
        }
        if let Backend::Driver(driver) = &mut self.backend
            && !self.ports.any(transport)
        {
            driver.unwatch(transport);
        }
    }

    /// Whether probes of a transport can be sent from `source` at all.
    fn check_transport(&self, transport: Transport, source: IpAddr) -> Result<(), NetError> {
        match &self.backend {
            Backend::Raw { .. } if source.is_ipv6() => Err(winerror::needs_driver(
                Operation::OpenSender,
                None,
                "UDP and TCP traceroutes over IPv6 are",
            )),
            Backend::Raw {
                refused: Some(error), ..
            } => Err(error.duplicate()),
            Backend::Connects if transport == Transport::Udp => Err(only_connects(None)),
            _ => Ok(()),
        }
    }

    fn send_now(&mut self, probe: &Probe, interface: u32, token: Token) -> Result<Time, NetError> {
        let destination = probe.destination;
        let failed = |error| winerror::error(Operation::Send, Some(destination), error);
        let is_echo = matches!(probe.kind, ProbeKind::Echo { .. });
        let is_special = has_packet_options(probe);
        let pair = raw::v4_pair(probe.source, destination);
        match (&mut self.backend, pair) {
            (Backend::Connects, _) if is_special => Err(no_packet_options(destination)),
            (Backend::Connects, _) => self.send_connect(probe, interface, token),
            (Backend::Driver(driver), _) => encoded(probe, |packet| driver.send(packet)).map_err(failed),
            (
                Backend::Raw {
                    sockets,
                    refused: None,
                },
                Some((source, target)),
            ) => {
                let result = encoded(probe, |packet| sockets.send((source, interface), target, packet));
                match probe.kind {
                    ProbeKind::TcpSyn { .. } => result.map_err(|error| {
                        let is_server = diagnose::edition().map(|edition| edition.is_server);
                        winerror::raw_tcp_error(destination, error, is_server)
                    }),
                    _ => result.map_err(failed),
                }
            }
            (Backend::Raw { .. }, _) if is_echo && is_special => Err(no_packet_options(destination)),
            (Backend::Raw { .. }, _) if is_echo => self
                .echo
                .send(probe.source, (destination, interface), probe.ttl, token)
                .map_err(failed),
            (Backend::Raw { refused, .. }, _) => Err(match refused {
                Some(error) => error.duplicate(),
                None => winerror::needs_driver(Operation::Send, Some(destination), "this is"),
            }),
        }
    }

    fn send_connect(&mut self, probe: &Probe, interface: u32, token: Token) -> Result<Time, NetError> {
        let ProbeKind::TcpSyn {
            source_port,
            destination_port,
            ..
        } = probe.kind
        else {
            return Err(only_connects(Some(probe.destination)));
        };
        let remote = SocketAddr::new(probe.destination, destination_port);
        let local = (probe.source, source_port);
        self.connector
            .probe((probe.source, interface), remote, probe.ttl, token, local)
            .map_err(|error| winerror::error(Operation::Connect, Some(probe.destination), error))
    }
}

fn encoded<T>(probe: &Probe, send: impl FnOnce(&[u8]) -> io::Result<T>) -> io::Result<T> {
    let mut buffer = vec![0; probe.packet_len()];
    send(probe.encode(&mut buffer).ok_or(io::ErrorKind::InvalidInput)?)
}

/// Whether a probe is to look other than the system's own APIs make it.
fn has_packet_options(probe: &Probe) -> bool {
    let is_padded = matches!(probe.kind, ProbeKind::Echo { payload_len, .. } if payload_len != ECHO_PAYLOAD);
    probe.tos != 0 || probe.dont_fragment || is_padded
}

fn no_packet_options(address: IpAddr) -> NetError {
    winerror::needs_driver(
        Operation::Send,
        Some(address),
        "packet size, type of service and DF of probes that the system itself makes are",
    )
}

fn only_connects(address: Option<IpAddr>) -> NetError {
    let text = "syn_socket probes with TCP connects only";
    NetError::new(
        Operation::Send,
        address,
        io::Error::new(io::ErrorKind::Unsupported, text),
    )
}

impl Network for WindowsNetwork {
    fn now(&self) -> Time {
        clock::now()
    }

    fn waker(&self) -> Waker {
        let inbox = Arc::clone(&self.inbox);
        Arc::new(move || inbox.wake())
    }

    fn open_flow(&mut self, request: &FlowRequest) -> Result<OpenFlow, NetError> {
        let FlowRequest {
            target,
            transport,
            egress,
            ..
        } = request;
        if matches!(self.backend, Backend::Driver(_)) && egress.interface.is_some() {
            return Err(winerror::driver_has_no_interfaces(*target));
        }
        let route = routes::find(*target, egress)?;
        self.open_backend(route.source)?;
        let number = match transport {
            Some(transport) => Some(self.reserve_port(*transport, &route)?),
            None => None,
        };
        Ok(OpenFlow {
            route,
            number,
            capabilities: self.capabilities(Family::of(*target), *transport),
        })
    }

    fn close_flow(&mut self, request: &FlowRequest, flow: &OpenFlow) {
        if let (Some(transport), Some(port)) = (request.transport, flow.number) {
            self.release_port(transport, flow.route.source, port);
        }
    }

    fn send_on(&mut self, probe: &Probe, route: &Route, token: Token) -> Result<SendStamp, NetError> {
        let at = self.send_now(probe, route.interface, token)?;
        self.sent += 1;
        Ok(SendStamp { at })
    }

    fn connect(&mut self, id: ConnectionId, local: SocketAddr, remote: SocketAddr) -> Result<(), NetError> {
        if !matches!(self.backend, Backend::Driver(_)) {
            // As an event, so that it counts as a target or system that cannot do SACK.
            let error = winerror::needs_driver(Operation::Connect, Some(remote.ip()), "SACK traceroutes are");
            self.inbox.push(Item::ConnectFailed(id, error));
            return Ok(());
        }
        let failed = |error| winerror::error(Operation::Connect, Some(remote.ip()), error);
        let socket = self
            .ports
            .take_socket(local.ip(), local.port())
            .ok_or_else(|| failed(io::ErrorKind::AddrNotAvailable.into()))?;
        // The port is bound to the interface of a link-local source, which is the target's too.
        let bound = socket.local_addr().map_err(failed)?.as_socket_ipv6();
        let scope = route::scope_of(remote.ip(), bound.map_or(0, |bound| bound.scope_id()));
        let remote = route::scoped(remote, scope);
        self.connector.connect(id, socket, remote).map_err(failed)
    }

    fn disconnect(&mut self, id: ConnectionId) {
        self.connector.disconnect(id);
    }

    fn poll(
        &mut self,
        deadline: Option<Time>,
        events: &mut dyn FnMut(NetworkEvent<'_>),
    ) -> Result<(), NetError> {
        let due = match &mut self.backend {
            Backend::Driver(driver) => driver.close_unneeded(),
            Backend::Raw { .. } | Backend::Connects => None,
        };
        let until = deadline.into_iter().chain(due).min();
        let timeout = until.map(|until| until.since(clock::now()));
        self.inbox.take(timeout, BATCH, &mut self.batch)?;
        for item in self.batch.drain(..) {
            item.deliver(events);
        }
        let ignored = self.inbox.take_ignored(BATCH as u64);
        for (reason, count) in Ignored::ALL.into_iter().zip(ignored) {
            (0..count).for_each(|_| events(NetworkEvent::Ignored(reason)));
        }
        Ok(())
    }

    fn counters(&self) -> NetworkCounters {
        let (captured, kernel_drops) = self.inbox.counts();
        let backend = match &self.backend {
            Backend::Raw { sockets, .. } => sockets.count(),
            Backend::Driver(driver) => driver.count(),
            Backend::Connects => 0,
        };
        NetworkCounters {
            captured,
            kernel_drops,
            sent: self.sent,
            kernel_send_stamps: 0,
            sockets: backend + self.echo.count() + self.connector.count(),
            reserved_ports: self.ports.count(),
            dropped_here: 0,
        }
    }
}

#[cfg(test)]
mod tests;
