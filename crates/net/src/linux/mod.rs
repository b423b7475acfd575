//! Linux: raw sockets send, packet sockets capture (raw(7), packet(7)), which needs `CAP_NET_RAW`. Without it, ordinary
//! sockets do what they can: module `plain`.

mod capture;
mod clock;
mod cmsg;
mod connect;
mod diagnose;
mod errors;
mod interfaces;
mod plain;
mod ports;
mod queue;
mod ring;
mod route;
mod sender;
mod sys;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Protocol, Socket, Type};
use traceroute_wire::filter::Family;
use traceroute_wire::{MAX_PROBE_LEN, Probe};

use crate::{
    Access, ConnectionId, Counters, NetError, Network, NetworkEvent, Operation, Options, SendStamp, Time,
    Token, Transport, Waker,
};
use capture::Capture;
use clock::{Converter, Sample};
use connect::{Connections, Outcome};
pub use diagnose::diagnose;
use plain::PlainNetwork;
use ports::{LocalPorts, PortPool, Ports};
pub use route::source_address;
use sender::Sender;

/// Packets of one family delivered by one [`Network::poll`], so that neither sending nor the other family is kept waiting:
/// some 100 µs of work.
const BATCH: usize = 128;

/// Opens the backend that this thread has the privileges for. Its sockets are opened when they are first needed, in the network namespace of the thread that
/// needs them.
///
/// Raises the process's limit of open files as far as it may: each reserved port is one.
///
/// # Errors
/// Too many open files.
pub fn open(options: Options) -> Result<Box<dyn Network + Send>, NetError> {
    if let Err(error) = sys::raise_open_files() {
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
    let failed = |error| errors::error(Operation::OpenCapture, None, error);
    Ok(match access() {
        Access::Raw => Box::new(LinuxNetwork::new(options).map_err(failed)?),
        access @ Access::Ordinary => {
            tracing::info!("{access}");
            Box::new(PlainNetwork::new().map_err(failed)?)
        }
    })
}

/// Whether this thread may open raw sockets. Closing a packet socket would take some 10 ms, and needs the same privilege.
pub fn access() -> Access {
    let refused = |domain| {
        let socket = sys::socket(domain, libc::SOCK_RAW, libc::IPPROTO_RAW);
        match socket.map_err(|error| error.raw_os_error()) {
            Ok(_) => Some(false),
            Err(Some(libc::EPERM | libc::EACCES)) => Some(true),
            Err(_) => None,
        }
    };
    match refused(libc::AF_INET).or_else(|| refused(libc::AF_INET6)) {
        Some(true) => Access::Ordinary,
        // What else is wrong is said when a socket is needed.
        Some(false) | None => Access::Raw,
    }
}

struct LinuxNetwork {
    options: Options,
    v4: Option<FamilySockets>,
    v6: Option<FamilySockets>,
    reserved: HashMap<(Transport, IpAddr, u16), Socket>,
    connections: Connections,
    wake: Arc<OwnedFd>,
    clock: Converter,
    scopes: Scopes,
    sent: u64,
    kernel_send_stamps: u64,
    thread_is_prepared: bool,
}

/// What one address family needs.
struct FamilySockets {
    capture: Capture,
    /// `None` after an error that leaves the count of its reports in doubt.
    sender: Option<Sender>,
    ports: PortPool,
}

impl LinuxNetwork {
    fn new(options: Options) -> io::Result<Self> {
        Ok(LinuxNetwork {
            options,
            v4: None,
            v6: None,
            reserved: HashMap::new(),
            connections: Connections::new()?,
            wake: Arc::new(sys::event()?),
            clock: Converter::new(Sample::take()),
            scopes: Scopes::default(),
            sent: 0,
            kernel_send_stamps: 0,
            thread_is_prepared: false,
        })
    }

    /// The sockets of the family of `address`, opened if they are not.
    fn family(&mut self, address: IpAddr) -> Result<&mut FamilySockets, NetError> {
        let (slot, family) = match address {
            IpAddr::V4(_) => (&mut self.v4, Family::V4),
            IpAddr::V6(_) => (&mut self.v6, Family::V6),
        };
        match slot {
            Some(sockets) => Ok(sockets),
            None => Ok(slot.insert(FamilySockets::open(family, self.options)?)),
        }
    }

    fn families(&mut self) -> impl Iterator<Item = &mut FamilySockets> {
        self.v4.iter_mut().chain(&mut self.v6)
    }

    /// Waits for packets, connections or the waker.
    fn wait(&mut self, deadline: Option<Time>) -> Result<(), NetError> {
        let timeout = if self.connections.has_refused() {
            Some(Duration::ZERO)
        } else {
            deadline.map(|deadline| deadline.since(sys::monotonic()))
        };
        // Not for send reports: they are wanted only when their replies are there.
        let unused = sys::readable(self.wake.as_fd());
        let mut fds = [unused; 4];
        let mut count = 0;
        let captures = [&self.v4, &self.v6]
            .into_iter()
            .flatten()
            .map(|family| family.capture.as_fd());
        for (slot, fd) in fds.iter_mut().zip(
            [self.wake.as_fd(), self.connections.as_fd()]
                .into_iter()
                .chain(captures),
        ) {
            *slot = sys::readable(fd);
            count += 1;
        }
        let (fds, _) = fds.split_at_mut(count);
        sys::wait(fds, timeout).map_err(broken)?;
        let [wake, _, captures @ ..] = fds else {
            return Ok(());
        };
        if wake.revents != 0 {
            sys::lower(self.wake.as_fd());
        }
        if captures.iter().any(|fd| fd.revents & libc::POLLNVAL != 0) {
            return Err(broken(io::Error::from_raw_os_error(libc::EBADF)));
        }
        if captures.iter().any(|fd| fd.revents & libc::POLLERR != 0) {
            self.check_captures()?;
        }
        Ok(())
    }

    /// Asks captures for a pending error. That an interface went down is none: captures are on all of them.
    fn check_captures(&mut self) -> Result<(), NetError> {
        for family in self.families() {
            match family.capture.take_error() {
                Some(error) if error.raw_os_error() != Some(libc::ENETDOWN) => return Err(broken(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Delivers send reports and packets.
    fn deliver(&mut self, events: &mut dyn FnMut(NetworkEvent<'_>)) {
        // What is counted here has arrived, and with it the report of the probe that it answers. So the reports read next
        // include those of all packets counted, though others may arrive meanwhile.
        let mut ready = [0; 2];
        for (ready, family) in ready.iter_mut().zip(self.families()) {
            *ready = family.capture.ready(BATCH);
        }
        if ready == [0; 2] && !self.families().any(|family| family.expects_reports()) {
            return;
        }
        self.clock.begin(Sample::take());
        let clock = &self.clock;
        let stamps = &mut self.kernel_send_stamps;
        for family in self.v4.iter_mut().chain(&mut self.v6) {
            if let Some(sender) = &mut family.sender {
                sender.reports(clock, |token, at| {
                    *stamps += 1;
                    events(NetworkEvent::Sent { token, at });
                });
            }
        }
        for (ready, family) in ready.iter().zip(self.v4.iter_mut().chain(&mut self.v6)) {
            for _ in 0..*ready {
                family.capture.take(|stamp, decoded| match decoded {
                    Ok(reply) => events(NetworkEvent::Reply {
                        reply: &reply,
                        at: clock.received(stamp),
                    }),
                    Err(reason) => events(NetworkEvent::Ignored(reason)),
                });
            }
        }
        self.clock.end(ready.iter().all(|ready| *ready < BATCH));
    }

    /// Delivers the outcomes of attempts to connect.
    fn deliver_connections(&mut self, events: &mut dyn FnMut(NetworkEvent<'_>)) {
        let reserved = &self.reserved;
        let socket_at = |local: SocketAddr| reserved.get(&(Transport::Tcp, local.ip(), local.port()));
        for _ in 0..BATCH {
            let Some(Outcome {
                id, remote, error, ..
            }) = self.connections.next(socket_at)
            else {
                return;
            };
            events(match error {
                None => NetworkEvent::Connected(id),
                Some(error) => NetworkEvent::ConnectFailed(
                    id,
                    errors::error(Operation::Connect, Some(remote.ip()), error),
                ),
            });
        }
    }
}

impl FamilySockets {
    fn open(family: Family, options: Options) -> Result<Self, NetError> {
        let capture = Capture::open(family, options.heavy_load)
            .map_err(|error| errors::error(Operation::OpenCapture, None, error))?;
        Ok(FamilySockets {
            capture,
            sender: Some(open_sender(family)?),
            ports: PortPool::new(LocalPorts::of_system(), fastrand::Rng::new()),
        })
    }

    fn expects_reports(&self) -> bool {
        self.sender.as_ref().is_some_and(Sender::expects_reports)
    }
}

/// Whether the kernel says so before it counts a request for a send report: no room, no route, too long. A firewall's
/// refusal, for one, comes after.
fn is_found_out_early(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAGAIN | libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EMSGSIZE)
    )
}

fn open_sender(family: Family) -> Result<Sender, NetError> {
    Sender::open(family).map_err(|error| errors::error(Operation::OpenSender, None, error))
}

fn broken(error: io::Error) -> NetError {
    errors::error(Operation::Receive, None, error)
}

impl Network for LinuxNetwork {
    fn now(&self) -> Time {
        sys::monotonic()
    }

    fn waker(&self) -> Waker {
        let wake = Arc::clone(&self.wake);
        Arc::new(move || sys::raise(wake.as_fd()))
    }

    fn prepare(&mut self, target: IpAddr) -> Result<IpAddr, NetError> {
        self.family(target)?;
        source_address(target)
    }

    fn reserve_port(&mut self, transport: Transport, source: IpAddr) -> Result<u16, NetError> {
        let scope = self.scopes.of(source, source);
        let FamilySockets { capture, ports, .. } = self.family(source)?;
        let mut system = Binder {
            transport,
            source,
            scope,
            capture,
        };
        let (port, socket) = ports
            .reserve(transport, &mut system)
            .map_err(|error| errors::error(Operation::ReservePort, Some(source), error))?;
        self.reserved.insert((transport, source, port), socket);
        Ok(port)
    }

    fn release_port(&mut self, transport: Transport, source: IpAddr, port: u16) {
        let Some(socket) = self.reserved.remove(&(transport, source, port)) else {
            return;
        };
        if transport == Transport::Tcp {
            self.connections.reset(&socket);
            self.connections.forget(SocketAddr::new(source, port));
        }
        if let Ok(family) = self.family(source) {
            family.ports.release(transport, port);
        }
    }

    fn send(&mut self, probe: &Probe, token: Token) -> Result<SendStamp, NetError> {
        let destination = probe.destination;
        let failed = |error| errors::error(Operation::Send, Some(destination), error);
        let mut buffer = [0; MAX_PROBE_LEN];
        let packet = probe
            .encode(&mut buffer)
            .ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        let scope = self.scopes.of(destination, probe.source);
        let family = match destination {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        };
        let sockets = self.family(destination)?;
        let sender = match &mut sockets.sender {
            Some(sender) => sender,
            none => none.insert(open_sender(family)?),
        };
        match sender.send(packet, destination, scope, token) {
            Ok(at) => {
                self.sent += 1;
                Ok(SendStamp { at })
            }
            Err(error) => {
                if !is_found_out_early(&error) {
                    // The kernel may have counted the request for a report or not, so later reports could be taken for those
                    // of other probes. A new socket counts from zero.
                    sockets.sender = None;
                }
                Err(failed(error))
            }
        }
    }

    fn connect(&mut self, id: ConnectionId, local: SocketAddr, remote: SocketAddr) -> Result<(), NetError> {
        let failed = |error| errors::error(Operation::Connect, Some(remote.ip()), error);
        let scope = self.scopes.of(remote.ip(), local.ip());
        let target = match remote {
            SocketAddr::V6(given) if given.scope_id() != 0 => remote,
            _ => route::with_scope(remote.ip(), remote.port(), scope),
        };
        let socket = self
            .reserved
            .get(&(Transport::Tcp, local.ip(), local.port()))
            .ok_or_else(|| failed(io::ErrorKind::AddrNotAvailable.into()))?;
        self.connections.begin(id, socket, local, target).map_err(failed)
    }

    fn disconnect(&mut self, id: ConnectionId) {
        if let Some(local) = self.connections.end(id)
            && let Some(socket) = self.reserved.get(&(Transport::Tcp, local.ip(), local.port()))
        {
            self.connections.reset(socket);
        }
    }

    fn poll(
        &mut self,
        deadline: Option<Time>,
        events: &mut dyn FnMut(NetworkEvent<'_>),
    ) -> Result<(), NetError> {
        if !self.thread_is_prepared {
            sys::precise_timeouts();
            self.thread_is_prepared = true;
        }
        self.wait(deadline)?;
        self.deliver(events);
        self.deliver_connections(events);
        Ok(())
    }

    fn counters(&self) -> Counters {
        let mut counters = Counters {
            sent: self.sent,
            kernel_send_stamps: self.kernel_send_stamps,
            reserved_ports: self.reserved.len() as u64,
            ..Counters::default()
        };
        for family in self.v4.iter().chain(&self.v6) {
            let statistics = family.capture.statistics();
            counters.captured += statistics.passed;
            counters.kernel_drops += statistics.dropped;
            counters.sockets += 1 + u64::from(family.sender.is_some());
        }
        counters
    }
}

/// Binds sockets for [`PortPool`].
struct Binder<'a> {
    transport: Transport,
    source: IpAddr,
    scope: u32,
    capture: &'a Capture,
}

impl Ports for Binder<'_> {
    type Socket = Socket;

    fn bind(&mut self, port: u16) -> io::Result<Socket> {
        let socket = bound_socket(self.transport, self.source, self.scope, port)?;
        if self.transport == Transport::Udp {
            // Nobody reads what arrives; the kernel makes the least of it.
            socket.set_recv_buffer_size(0)?;
        }
        Ok(socket)
    }

    fn watch(&mut self, blocks: &[u8]) -> io::Result<()> {
        self.capture.watch(blocks)
    }
}

/// A socket that holds a port of an address.
fn bound_socket(transport: Transport, source: IpAddr, scope: u32, port: u16) -> io::Result<Socket> {
    let (kind, protocol) = match transport {
        Transport::Udp => (Type::DGRAM, Protocol::UDP),
        Transport::Tcp => (Type::STREAM, Protocol::TCP),
    };
    let socket = Socket::new(route::domain(source), kind.nonblocking(), Some(protocol))?;
    socket.bind(&route::with_scope(source, port, scope).into())?;
    Ok(socket)
}

/// The interfaces of link-local source addresses.
#[derive(Default)]
struct Scopes(HashMap<IpAddr, u32>);

impl Scopes {
    /// The interface for packets from `source` to `address`: 0, the kernel's choice, unless `address` is link-local.
    fn of(&mut self, address: IpAddr, source: IpAddr) -> u32 {
        match source {
            IpAddr::V6(link_local) if interfaces::needs_scope(address) => *self
                .0
                .entry(source)
                .or_insert_with(|| interfaces::interface_of(link_local).unwrap_or(0)),
            _ => 0,
        }
    }
}
