//! Linux: raw sockets send, packet sockets capture (raw(7), packet(7)), which needs `CAP_NET_RAW`. Without it, ordinary
//! sockets do what they can: module `plain`.

mod advice;
mod capture;
mod cmsg;
mod connections;
mod diagnose;
mod local_ports;
mod plain;
mod privileges;
mod queue;
mod ring;
mod sender;
mod senders;
mod stamps;
mod sys;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use traceroute_wire::filter::Family;
use traceroute_wire::{MAX_PROBE_LEN, Probe};

use crate::ports::PortPool;
use crate::unix::clock::{Converter, Sample};
use crate::unix::families::PerFamily;
use crate::unix::interfaces::{Scopes, needs_scope};
use crate::unix::reservations::Reservations;
use crate::unix::{errors, route};
use crate::{
    Access, ConnectionId, Counters, NetError, Network, NetworkEvent, Operation, Options, SendStamp, Time,
    Token, Transport, Waker,
};
pub(crate) use advice::advice;
use capture::Capture;
pub(crate) use connections::{Readiness, dissolve};
pub use diagnose::diagnose;
use plain::PlainNetwork;
pub use privileges::keep_probing_privileges;
use senders::Senders;

/// Packets of one family delivered by one [`Network::poll`], so that neither sending nor the other family is kept waiting:
/// some 50 µs of work. As many as a queue reads at once, so that fewer mean that it was emptied.
const BATCH: usize = sys::PACKET_BATCH;

/// Opens the backend that this thread has the privileges for. Its sockets are opened when they are first needed, in the
/// network namespace of the thread that needs them.
///
/// Raises the process's limit of open files as far as it may: each reserved port is one.
///
/// # Errors
/// Too many open files.
pub fn open(options: Options) -> Result<Box<dyn Network + Send>, NetError> {
    if let Err(error) = crate::unix::sys::raise_open_files(libc::RLIM_INFINITY) {
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
    let failed = |error| errors::error(Operation::OpenCapture, None, error);
    let access = access();
    if access == Access::Ordinary {
        tracing::info!("{access}");
        return Ok(Box::new(PlainNetwork::new().map_err(failed)?));
    }
    Ok(Box::new(LinuxNetwork::new(options).map_err(failed)?))
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

/// The address that probes to `target` come from.
///
/// # Errors
/// No route, interface down, no address of that family; a link-local target that could be on several interfaces.
pub fn source_address(target: IpAddr) -> Result<IpAddr, NetError> {
    route::source_address(target)
}

struct LinuxNetwork {
    options: Options,
    families: PerFamily<FamilySockets>,
    reservations: Reservations,
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
    senders: Senders,
    ports: PortPool,
}

impl LinuxNetwork {
    fn new(options: Options) -> io::Result<Self> {
        Ok(LinuxNetwork {
            options,
            families: PerFamily::default(),
            reservations: Reservations::new()?,
            wake: Arc::new(sys::event()?),
            clock: Converter::new(Sample::take()),
            scopes: Scopes::default(),
            sent: 0,
            kernel_send_stamps: 0,
            thread_is_prepared: false,
        })
    }

    /// Waits for packets, connections or the waker.
    fn wait(&mut self, deadline: Option<Time>) -> Result<(), NetError> {
        let timeout = if self.reservations.has_refused() {
            Some(Duration::ZERO)
        } else {
            deadline.map(|deadline| deadline.since(sys::monotonic()))
        };
        // Not for send reports: they are wanted only when their replies are there.
        let unused = sys::readable(self.wake.as_fd());
        let mut fds = [unused; 4];
        let mut count = 0;
        let captures = self.families.iter().map(|family| family.capture.as_fd());
        for (slot, fd) in fds.iter_mut().zip(
            [self.wake.as_fd(), self.reservations.as_fd()]
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
        for family in self.families.iter_mut() {
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
        for (ready, family) in ready.iter_mut().zip(self.families.iter_mut()) {
            *ready = family.capture.ready(BATCH);
        }
        if ready == [0; 2]
            && !self
                .families
                .iter_mut()
                .any(|family| family.senders.expects_reports())
        {
            return;
        }
        self.clock.begin(Sample::take());
        let clock = &self.clock;
        let stamps = &mut self.kernel_send_stamps;
        for family in self.families.iter_mut() {
            family.senders.reports(clock, |token, at| {
                *stamps += 1;
                events(NetworkEvent::Sent { token, at });
            });
        }
        for (ready, family) in ready.iter().zip(self.families.iter_mut()) {
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

    /// Opens the sockets of a family. Those of the other one, if they are open, keep stamps on arrival switched on.
    fn opener(&self) -> impl FnOnce(Family) -> Result<FamilySockets, NetError> + use<> {
        let (options, are_stamped) = (self.options, self.families.iter().next().is_some());
        move |family| FamilySockets::open(family, options, are_stamped)
    }
}

impl FamilySockets {
    fn open(family: Family, options: Options, are_stamped: bool) -> Result<Self, NetError> {
        let capture = Capture::open(family, options.heavy_load, are_stamped)
            .map_err(|error| errors::error(Operation::OpenCapture, None, error))?;
        Ok(FamilySockets {
            capture,
            senders: Senders::open(family)?,
            ports: PortPool::new(local_ports::of_system(), fastrand::Rng::new()),
        })
    }
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
        let sockets = self.families.get_or_open(target, self.opener())?;
        sockets
            .capture
            .resume()
            .map_err(|error| errors::error(Operation::OpenCapture, None, error))?;
        if needs_scope(target) {
            self.scopes.forget();
        }
        source_address(target)
    }

    fn reserve_port(&mut self, transport: Transport, source: IpAddr) -> Result<u16, NetError> {
        let scope = self.scopes.of(source, source);
        let sockets = self.families.get_or_open(source, self.opener())?;
        let FamilySockets { capture, ports, .. } = sockets;
        self.reservations
            .reserve(ports, transport, (source, scope), |blocks| capture.watch(blocks))
    }

    fn release_port(&mut self, transport: Transport, source: IpAddr, port: u16) {
        if self.reservations.release(transport, source, port)
            && let Ok(family) = self.families.get_or_open(source, self.opener())
        {
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
        let sockets = self.families.get_or_open(destination, self.opener())?;
        let at = sockets.senders.send(packet, (destination, scope), token)?;
        self.sent += 1;
        Ok(SendStamp { at })
    }

    fn connect(&mut self, id: ConnectionId, local: SocketAddr, remote: SocketAddr) -> Result<(), NetError> {
        let scope = self.scopes.of(remote.ip(), local.ip());
        self.reservations.connect(id, local, route::scoped(remote, scope))
    }

    fn disconnect(&mut self, id: ConnectionId) {
        self.reservations.disconnect(id);
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
        self.reservations.deliver(events);
        Ok(())
    }

    fn rest(&mut self) {
        for family in self.families.iter_mut() {
            family.capture.rest();
            family.senders.rest();
        }
    }

    fn counters(&self) -> Counters {
        let mut counters = Counters {
            sent: self.sent,
            kernel_send_stamps: self.kernel_send_stamps,
            reserved_ports: self.reservations.len() as u64,
            ..Counters::default()
        };
        for family in self.families.iter() {
            let statistics = family.capture.statistics();
            counters.captured += statistics.passed;
            counters.kernel_drops += statistics.dropped;
            counters.sockets += 1 + family.senders.len() as u64;
        }
        counters
    }
}
