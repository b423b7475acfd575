//! macOS: raw sockets send, BPF devices capture (ip(4), ip6(4), bpf(4)). Needs root.

mod advice;
mod capture;
mod connections;
mod diagnose;
mod egress;
mod routes;
mod rules;
mod sender;
mod sys;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use traceroute_engine::{
    Capabilities, ConnectionId, Egress, FlowRequest, NetError, Network, NetworkCounters, NetworkEvent,
    OpenFlow, Operation, Route, SendStamp, Time, Token, Transport, Waker,
};
use traceroute_wire::{Family, Probe};

use crate::NetworkOptions;
use crate::ports::{LocalPorts, PortPool};
use crate::route;
use crate::unix::clock::{Converter, Sample};
pub(crate) use crate::unix::egress::{has_interface, interface_of_name, only_zone};
use crate::unix::errors;
use crate::unix::families::PerFamily;
use crate::unix::interfaces::{self, Interface};
use crate::unix::reservations::Reservations;
use crate::unix::sys::monotonic;
pub(crate) use advice::advice;
use capture::{Capture, CaptureStatistics};
pub(crate) use connections::{Readiness, dissolve};
pub use diagnose::{access, diagnose};
pub(crate) use egress::{check_marking, is_own_source};
use sender::Sender;
use sys::{EVENTS, Kqueue, KqueueEvent};

/// Packets of one interface delivered by one [`Network::poll`], so that neither sending nor other
/// interfaces are kept waiting: some 100 µs of work.
const BATCH: usize = 128;

/// Opens the backend. Its sockets and devices are opened when they are first needed.
///
/// Raises the process's limit of open files as far as it may: each reserved port is one.
///
/// # Errors
/// Too many open files.
pub fn open(_: NetworkOptions) -> Result<Box<dyn Network + Send>, NetError> {
    if let Err(error) = raise_open_files() {
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
    let network = MacNetwork::new().map_err(|error| errors::error(Operation::OpenCapture, None, error))?;
    Ok(Box::new(network))
}

fn raise_open_files() -> io::Result<()> {
    crate::unix::sys::raise_open_files(most_open_files()?)
}

/// The kernel refuses "unlimited", which is the usual hard limit.
fn most_open_files() -> io::Result<u64> {
    let most = sys::setting(c"kern.maxfilesperproc")?;
    Ok(u64::try_from(most).unwrap_or(0))
}

/// The address that probes to `target` come from.
///
/// # Errors
/// No route, interface down, no address of that family; a link-local target that could be on
/// several interfaces.
pub fn source_address(target: IpAddr) -> Result<IpAddr, NetError> {
    routes::find(target, &Egress::default()).map(|route| route.source)
}

struct MacNetwork {
    families: PerFamily<FamilySockets>,
    reservations: Reservations,
    queue: Arc<Kqueue>,
    events: Vec<KqueueEvent>,
    clock: Converter,
    /// The interfaces of TCP flows that are bound to one, by local address and port.
    interfaces: HashMap<(IpAddr, u16), u32>,
    sent: u64,
}

/// What one address family needs.
struct FamilySockets {
    family: Family,
    sender: Sender,
    /// One per interface.
    captures: Vec<Capture>,
    /// Of captures whose interface is gone.
    gone: CaptureStatistics,
    ports: PortPool,
    /// The blocks of local ports that the captures watch.
    blocks: Vec<u8>,
}

impl MacNetwork {
    fn new() -> io::Result<Self> {
        let reservations = Reservations::new()?;
        let queue = Kqueue::new()?;
        queue.add_wake()?;
        queue.add_readable(reservations.as_fd())?;
        Ok(MacNetwork {
            families: PerFamily::default(),
            reservations,
            queue: Arc::new(queue),
            events: Vec::with_capacity(EVENTS),
            clock: Converter::new(Sample::take()),
            interfaces: HashMap::new(),
            sent: 0,
        })
    }

    /// Has replies captured, wherever those of a flow arrive.
    fn capture_replies(&mut self, target: IpAddr, route: &Route) -> Result<(), NetError> {
        let failed = |error| errors::error(Operation::Route, Some(target), error);
        let sockets = self.families.get_or_open(target, FamilySockets::open)?;
        let all = interfaces::all().map_err(failed)?;
        let mut found = rules::interfaces(&all, target, route.source, route.interface).peekable();
        if found.peek().is_none() {
            return Err(failed(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL)));
        }
        for interface in found {
            sockets
                .capture(interface, &self.queue)
                .map_err(|error| errors::error(Operation::OpenCapture, None, error))?;
        }
        Ok(())
    }

    /// Reserves a port on a flow's source address.
    fn reserve_port(&mut self, transport: Transport, route: &Route) -> Result<u16, NetError> {
        let Route {
            source, interface, ..
        } = *route;
        let sockets = self.families.get_or_open(source, FamilySockets::open)?;
        let FamilySockets {
            captures,
            ports,
            blocks,
            ..
        } = sockets;
        let scope = route::scope_of(source, interface);
        let local = |port| Ok(route::with_scope(source, port, scope));
        let local = self
            .reservations
            .reserve(ports, transport, local, |wanted| {
                captures.iter().try_for_each(|capture| capture.watch(wanted))?;
                *blocks = wanted.to_vec();
                Ok(())
            })
            .map_err(|error| errors::error(Operation::ReservePort, Some(source), error))?;
        if transport == Transport::Tcp && interface != 0 {
            self.interfaces.insert((source, local.port()), interface);
        }
        Ok(local.port())
    }

    /// Waits for packets, connections or the waker.
    fn wait(&mut self, deadline: Option<Time>) -> Result<(), NetError> {
        let has_unread = self.families.iter().any(FamilySockets::has_unread);
        let timeout = if has_unread || self.reservations.has_refused() {
            Some(Duration::ZERO)
        } else {
            deadline.map(|deadline| deadline.since(monotonic()))
        };
        self.queue
            .wait(timeout, EVENTS, &mut self.events)
            .map_err(|error| errors::error(Operation::Receive, None, error))
    }

    /// Reads the devices that have something, and delivers packets.
    fn deliver(&mut self, events: &mut dyn FnMut(NetworkEvent<'_>)) {
        for event in &self.events {
            if let KqueueEvent::Readable(fd) = *event {
                for family in self.families.iter_mut() {
                    family.read(fd);
                }
            }
        }
        if !self.families.iter().any(FamilySockets::has_unread) {
            return;
        }
        // After reading, so that all packets are from before.
        self.clock.begin(Sample::take());
        let clock = &self.clock;
        let mut emptied = self.events.len() < EVENTS;
        for capture in self.families.iter_mut().flat_map(|family| &mut family.captures) {
            capture.take(BATCH, |stamp, decoded| match decoded {
                Ok(reply) => events(NetworkEvent::Reply {
                    reply: &reply,
                    at: clock.received(stamp),
                }),
                Err(reason) => events(NetworkEvent::Ignored(reason)),
            });
            emptied &= !capture.may_have_more();
        }
        self.clock.end(emptied);
    }
}

impl FamilySockets {
    fn open(family: Family) -> Result<Self, NetError> {
        Ok(FamilySockets {
            family,
            sender: Sender::open(family)
                .map_err(|error| errors::error(Operation::OpenSender, None, error))?,
            captures: Vec::new(),
            gone: CaptureStatistics::default(),
            ports: PortPool::new(local_ports(), fastrand::Rng::new()),
            blocks: Vec::new(),
        })
    }

    /// Has an interface captured, if it is not. Closes captures of interfaces that are gone: those
    /// of tunnels come and go with changing names.
    fn capture(&mut self, interface: &Interface, queue: &Kqueue) -> io::Result<()> {
        self.retain(Capture::is_alive);
        if self
            .captures
            .iter()
            .any(|capture| capture.interface() == interface.name)
        {
            return Ok(());
        }
        let capture = Capture::open(interface, self.family, &self.blocks)?;
        queue.add_readable(capture.as_fd())?;
        self.captures.push(capture);
        Ok(())
    }

    fn has_unread(&self) -> bool {
        self.captures.iter().any(Capture::has_unread)
    }

    /// Reads a device, if it is of this family. When that fails its interface is gone: the device
    /// is closed, and opened again by the next trace that needs it.
    fn read(&mut self, fd: RawFd) {
        let Some(capture) = self.captures.iter_mut().find(|capture| capture.is(fd)) else {
            return;
        };
        if let Err(error) = capture.read() {
            tracing::debug!(%error, interface = capture.interface(), "a capture ended");
            self.retain(|capture| !capture.is(fd));
        }
    }

    /// Closes captures, but remembers what they counted.
    fn retain(&mut self, keep: impl Fn(&Capture) -> bool) {
        let gone = &mut self.gone;
        self.captures.retain(|capture| {
            let keep = keep(capture);
            if !keep {
                add(gone, capture.statistics());
            }
            keep
        });
    }

    fn statistics(&self) -> CaptureStatistics {
        let mut sum = self.gone;
        for capture in &self.captures {
            add(&mut sum, capture.statistics());
        }
        sum
    }
}

fn add(sum: &mut CaptureStatistics, more: CaptureStatistics) {
    sum.passed += more.passed;
    sum.dropped += more.dropped;
}

/// The ports that the kernel uses for outgoing connections, of both families.
fn local_ports() -> LocalPorts {
    let port = |name| {
        sys::setting(name)
            .ok()
            .and_then(|value| u16::try_from(value).ok())
    };
    let first = port(c"net.inet.ip.portrange.first");
    let last = port(c"net.inet.ip.portrange.last");
    let range = match (first, last) {
        (Some(first), Some(last)) if 0 < first && first <= last => first..=last,
        _ => 49_152..=65_535,
    };
    LocalPorts::new(range, Vec::new())
}

impl Network for MacNetwork {
    fn now(&self) -> Time {
        monotonic()
    }

    fn waker(&self) -> Waker {
        let queue = Arc::clone(&self.queue);
        Arc::new(move || queue.wake())
    }

    fn open_flow(&mut self, request: &FlowRequest) -> Result<OpenFlow, NetError> {
        let route = routes::find(request.target, &request.egress)?;
        self.capture_replies(request.target, &route)?;
        let number = match request.transport {
            Some(transport) => Some(self.reserve_port(transport, &route)?),
            None => None,
        };
        Ok(OpenFlow {
            route,
            number,
            capabilities: Capabilities::RAW,
        })
    }

    fn close_flow(&mut self, request: &FlowRequest, flow: &OpenFlow) {
        let source = flow.route.source;
        if let (Some(transport), Some(port)) = (request.transport, flow.number)
            && self.reservations.release(transport, source, port)
        {
            if transport == Transport::Tcp {
                self.interfaces.remove(&(source, port));
            }
            if let Ok(family) = self.families.get_or_open(source, FamilySockets::open) {
                family.ports.release(transport, port);
            }
        }
    }

    fn send_on(&mut self, probe: &Probe, route: &Route, _: Token) -> Result<SendStamp, NetError> {
        let destination = probe.destination;
        let sockets = self.families.get_or_open(destination, FamilySockets::open)?;
        let at = sockets
            .sender
            .send(probe, route.interface)
            .map_err(|error| errors::error(Operation::Send, Some(destination), error))?;
        self.sent += 1;
        Ok(SendStamp { at })
    }

    fn connect(&mut self, id: ConnectionId, local: SocketAddr, remote: SocketAddr) -> Result<(), NetError> {
        let interface = self.interfaces.get(&(local.ip(), local.port())).copied();
        let interface = interface.unwrap_or(0);
        // Each time: a port has another socket after its connection was reset.
        if interface != 0
            && let Some(socket) = self.reservations.socket(Transport::Tcp, local)
        {
            routes::bind_to_interface(socket, Family::of(local.ip()), interface)
                .map_err(|error| errors::error(Operation::Connect, Some(remote.ip()), error))?;
        }
        let scoped = |address: SocketAddr| route::scoped(address, route::scope_of(address.ip(), interface));
        self.reservations.connect(id, scoped(local), scoped(remote))
    }

    fn disconnect(&mut self, id: ConnectionId) {
        self.reservations.disconnect(id);
    }

    fn poll(
        &mut self,
        deadline: Option<Time>,
        events: &mut dyn FnMut(NetworkEvent<'_>),
    ) -> Result<(), NetError> {
        self.wait(deadline)?;
        self.deliver(events);
        self.reservations.deliver(events);
        Ok(())
    }

    fn counters(&self) -> NetworkCounters {
        let mut counters = NetworkCounters {
            sent: self.sent,
            reserved_ports: self.reservations.len() as u64,
            ..NetworkCounters::default()
        };
        for family in self.families.iter() {
            let statistics = family.statistics();
            counters.captured += statistics.passed;
            counters.kernel_drops += statistics.dropped;
            counters.sockets += family.captures.len() as u64 + family.sender.sockets();
        }
        counters
    }
}
