//! Linux: raw sockets send, packet sockets capture (raw(7), packet(7)), which needs `CAP_NET_RAW`.
//! Without it, ordinary sockets do what they can: module `plain`.
//!
//! The capture is one `AF_PACKET`/`SOCK_DGRAM` socket per family, bound to `ETH_P_IP` or
//! `ETH_P_IPV6`. It sees packets from the IP header on, whatever the link layer is, each once, and
//! none that leave. The filter is attached before the socket is bound, so nothing unfiltered gets
//! in. It starts with the socket's own queue (`queue`). A process that expects heavy load
//! (`Options::heavy_load`) gets a memory-mapped `ring` of 8192 packets. Source ports come from
//! random blocks of 256, so that the filter stays short even with ten thousand ports.
//!
//! Raw sockets (`local_delivery`) see the replies a second time, after this host's firewall and
//! translation. An answer in either view counts; `views` merges them. An answer that only the
//! packet socket sees was dropped by this host: `NetworkCounters::dropped_here`.

mod advice;
mod attention;
mod capture;
mod cmsg;
mod connections;
mod diagnose;
mod egress;
mod host;
mod local_delivery;
mod local_ports;
mod netlink;
mod plain;
mod privileges;
mod queue;
mod ring;
mod routes;
mod sender;
mod senders;
mod stamps;
mod sys;
mod views;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use traceroute_engine::{
    Capabilities, ConnectionId, Egress, FlowRequest, NetError, Network, NetworkCounters, NetworkEvent,
    OpenFlow, Operation, Route, SendStamp, Time, Token, Transport, Waker,
};
use traceroute_wire::{Family, Ignored, Probe, Reply, ReplyKind};

use crate::egress::hints;
use crate::ports::PortPool;
use crate::route;
use crate::route::needs_scope;
use crate::unix::clock::{Converter, Sample};
pub(crate) use crate::unix::egress::{has_interface, interface_of_name, only_zone};
use crate::unix::errors;
use crate::unix::families::PerFamily;
use crate::unix::reservations::Reservations;
use crate::{Access, NetworkOptions};
pub(crate) use advice::advice;
use attention::{Attention, ViewChange};
use capture::{Capture, CapturedPacket};
pub(crate) use connections::{Readiness, dissolve};
pub use diagnose::diagnose;
pub(crate) use egress::{check_marking, is_own_source};
pub use host::host;
use local_delivery::{Delivered, LocalDelivery};
pub use local_ports::ephemeral_ports;
use plain::PlainNetwork;
pub use privileges::{
    forbid_dumps, ignore_file_size_signal, keep_marking_privileges, keep_probing_privileges,
    most_address_space, most_open_files,
};
pub(crate) use routes::FlowRoutes;
use routes::{FlowWay, Want};
use sender::Outgoing;
use senders::Senders;
pub use sys::unacknowledged;
use views::{ReadTo, Views};

/// Packets of one family delivered by one [`Network::poll`], so that neither sending nor the other
/// family is kept waiting: some 50 µs of work. As many as a queue reads at once, so that fewer mean
/// that it was emptied.
const BATCH: usize = sys::PACKET_BATCH;

/// Descriptors to wait for: the waker, the connections, sockets of flows, and of each family a
/// capture and three raw sockets.
const MOST_DESCRIPTORS: usize = 11;

/// The kernel shows a packet to both views within microseconds; since Linux 6.15 as it came in
/// comes last.
const BETWEEN_VIEWS: Duration = Duration::from_millis(1);

/// Longer than a packet waits to be read.
const RECENTLY: Duration = Duration::from_secs(1);

/// Source addresses that are remembered.
const MOST_SOURCES: usize = 64;

/// Opens the backend that this thread has the privileges for. Its sockets are opened when they are
/// first needed, in the network namespace of the thread that needs them.
///
/// Raises the process's limit of open files as far as it may: each reserved port is one.
///
/// # Errors
/// Too many open files.
pub fn open(options: NetworkOptions) -> Result<Box<dyn Network + Send>, NetError> {
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

/// Whether this thread may open raw sockets. Closing a packet socket would take some 10 ms, and
/// needs the same privilege.
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
/// No route, interface down, no address of that family; a link-local target that could be on
/// several interfaces.
pub fn source_address(target: IpAddr) -> Result<IpAddr, NetError> {
    let mut routes =
        FlowRoutes::open().map_err(|error| errors::error(Operation::Route, Some(target), error))?;
    let want = Want::new(target, Egress::default());
    let route = routes.ordinary_flow(&want);
    Ok(route.map_err(|error| no_way(&want, error))?.source)
}

/// An error of a route look-up, which says what to do.
fn no_way(want: &Want, source: io::Error) -> NetError {
    let is_ambiguous = needs_scope(want.target) && want.egress.interface.is_none();
    let is_unclear = source.raw_os_error() == Some(libc::EINVAL);
    let is_bound = want.egress.interface.is_some();
    let has_no_route = source.raw_os_error() == Some(libc::ENETUNREACH);
    let is_foreign = source.raw_os_error() == Some(libc::EADDRNOTAVAIL) && want.egress.source.is_some();
    let is_gone = source.raw_os_error() == Some(libc::ENODEV);
    let error = errors::error(Operation::Route, Some(want.target), source);
    if is_ambiguous && is_unclear {
        return error.with_hint(hints::WHICH_ZONE);
    }
    if is_foreign {
        return error.with_hint(hints::FOREIGN_SOURCE);
    }
    if is_bound && has_no_route {
        return error.with_hint(hints::NO_ROUTE);
    }
    if is_bound && is_gone {
        return error.with_hint(hints::GONE);
    }
    error
}

struct LinuxNetwork {
    options: NetworkOptions,
    families: PerFamily<FamilySockets>,
    reservations: Reservations,
    /// Flows whose way depends on their ports, so that raw packets would not take it.
    own: Option<PlainNetwork>,
    wake: Arc<OwnedFd>,
    clock: Converter,
    routes: FlowRoutes,
    /// Of flows: replies are for us that were sent there. The latest ones.
    sources: Vec<IpAddr>,
    sent: u64,
    kernel_send_stamps: u64,
    thread_is_prepared: bool,
}

/// What one address family needs.
struct FamilySockets {
    capture: Capture,
    /// `None`: this host lets nobody have them.
    delivery: Option<LocalDelivery>,
    attention: Attention,
    /// When the delivery was opened anew, by the wall clock and by the other one. What came in
    /// before was only seen outside.
    reopened: Option<(i64, Time)>,
    views: Views,
    read_to: ReadTo,
    /// Packets for which one of the views had no room, when that was last asked.
    lost: u64,
    /// Errors, as delivered, that wait to be seen as they came in, which tells who sent them.
    inside: Vec<(Reply, i64)>,
    rests: bool,
    senders: Senders,
    ports: PortPool,
}

impl LinuxNetwork {
    fn new(options: NetworkOptions) -> io::Result<Self> {
        Ok(LinuxNetwork {
            options,
            families: PerFamily::default(),
            reservations: Reservations::new()?,
            own: None,
            wake: Arc::new(sys::event()?),
            clock: Converter::new(Sample::take()),
            routes: FlowRoutes::open()?,
            sources: Vec::new(),
            sent: 0,
            kernel_send_stamps: 0,
            thread_is_prepared: false,
        })
    }

    /// Waits for packets, connections or the waker.
    fn wait(&mut self, deadline: Option<Time>) -> Result<(), NetError> {
        let mut timeout = if self.reservations.has_refused() {
            Some(Duration::ZERO)
        } else {
            deadline.map(|deadline| deadline.since(sys::monotonic()))
        };
        if self.families.iter().any(FamilySockets::waits) {
            timeout = Some(timeout.unwrap_or(BETWEEN_VIEWS).min(BETWEEN_VIEWS));
        }
        // Not for send reports: they are wanted only when their replies are there.
        let unused = sys::readable(self.wake.as_fd());
        let mut fds = [unused; MOST_DESCRIPTORS];
        let mut count = 0;
        let captures = self.families.iter().map(|family| family.capture.as_fd());
        let deliveries = self.families.iter().flat_map(|family| &family.delivery);
        for (slot, fd) in fds.iter_mut().zip(
            [self.wake.as_fd(), self.reservations.as_fd()]
                .into_iter()
                .chain(self.own.iter().map(|own| own.as_fd()))
                .chain(captures)
                .chain(deliveries.flat_map(LocalDelivery::fds)),
        ) {
            *slot = sys::readable(fd);
            count += 1;
        }
        let (fds, _) = fds.split_at_mut(count);
        sys::wait(fds, timeout).map_err(broken)?;
        let [wake, others @ ..] = fds else {
            return Ok(());
        };
        if wake.revents != 0 {
            sys::lower(self.wake.as_fd());
        }
        if others.iter().any(|fd| fd.revents & libc::POLLNVAL != 0) {
            return Err(broken(io::Error::from_raw_os_error(libc::EBADF)));
        }
        if others.iter().any(|fd| fd.revents & libc::POLLERR != 0) {
            self.check_captures()?;
        }
        Ok(())
    }

    /// Asks captures for a pending error. That an interface went down is none: captures are on all
    /// of them.
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
        // What is counted here has arrived, and with it the report of the probe that it answers. So
        // the reports read next include those of all packets counted, though others may arrive
        // meanwhile.
        let began = sys::realtime();
        let mut ready = [0; 2];
        let mut delivered = 0;
        for (ready, family) in ready.iter_mut().zip(self.families.iter_mut()) {
            *ready = family.capture.ready(BATCH);
            // After counting: what was captured has mostly been delivered too.
            delivered += family.delivery.as_mut().map_or(0, LocalDelivery::read);
        }
        if ready == [0; 2]
            && delivered == 0
            && !self.families.iter().any(FamilySockets::waits)
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
            family.deliver((*ready, began), &self.sources, &mut |event| match event {
                Ok((reply, stamp)) => events(NetworkEvent::Reply {
                    reply: &reply,
                    at: clock.received(stamp),
                }),
                Err(reason) => events(NetworkEvent::Ignored(reason)),
            });
        }
        self.clock.end(ready.iter().all(|ready| *ready < BATCH));
    }

    /// Replies to this address are for us.
    fn remember_source(&mut self, source: IpAddr) {
        if !self.sources.contains(&source) {
            if self.sources.len() == MOST_SOURCES {
                self.sources.remove(0);
            }
            self.sources.push(source);
        }
    }

    /// Opens the sockets of a target's family, or wakes them.
    fn ready(&mut self, target: IpAddr) -> Result<(), NetError> {
        let sockets = self.families.get_or_open(target, self.opener())?;
        sockets
            .resume()
            .map_err(|error| errors::error(Operation::OpenCapture, None, error))
    }

    /// Reserves a port for a flow, on the address that the flow's packets leave from.
    fn reserve(
        &mut self,
        transport: Transport,
        target: IpAddr,
        mut way: impl FnMut(&mut FlowRoutes, u16) -> Result<FlowWay, NetError>,
    ) -> Result<(FlowWay, u16), NetError> {
        let opener = self.opener();
        let sockets = self.families.get_or_open(target, opener)?;
        let FamilySockets { capture, ports, .. } = sockets;
        let routes = &mut self.routes;
        let mut found = Err(errors::error(
            Operation::Route,
            Some(target),
            io::ErrorKind::AddrInUse.into(),
        ));
        let local = |port| {
            found = way(routes, port);
            match &found {
                Ok(FlowWay { route, .. }) => Ok(route::with_scope(route.source, port, route.interface)),
                // Unlike a port that is taken, this ends the search.
                Err(_) => Err(io::ErrorKind::InvalidData.into()),
            }
        };
        let reserved = self
            .reservations
            .reserve(ports, transport, local, |blocks| capture.watch(blocks));
        let way = found.inspect_err(|error| tracing::debug!(%error, "no way"));
        let local = match (&way, reserved) {
            (Err(error), Err(reason)) if reason.kind() == io::ErrorKind::InvalidData => {
                return Err(error.duplicate());
            }
            (_, reserved) => reserved.map_err(|error| {
                let source = way.as_ref().ok().map(|way| way.route.source);
                errors::error(Operation::ReservePort, source, error)
            })?,
        };
        if let Some(delivery) = &mut sockets.delivery
            && let Err(error) = delivery.watch(transport, sockets.capture.blocks())
        {
            tracing::debug!(%error, "cannot see replies as this host's programs do");
        }
        Ok((way?, local.port()))
    }

    /// Gives a reserved port back. Unknown ports are ignored.
    fn release_port(&mut self, transport: Transport, source: IpAddr, port: u16) {
        if self.reservations.release(transport, source, port)
            && let Ok(family) = self.families.get_or_open(source, self.opener())
        {
            family.ports.release(transport, port);
        }
    }

    /// What can be done with probes of a family.
    fn capabilities(&self, family: Family) -> Capabilities {
        let sockets = self.families.of(family);
        Capabilities {
            sees_after_nat: sockets.is_some_and(|sockets| sockets.delivery.is_some()),
            ..Capabilities::RAW
        }
    }

    /// Opens a flow with a socket of its own, by whose ports the kernel routes.
    fn open_own_flow(&mut self, request: &FlowRequest) -> Result<OpenFlow, NetError> {
        let own = match &mut self.own {
            Some(own) => own,
            own @ None => own.insert(
                PlainNetwork::new()
                    .map_err(|error| errors::error(Operation::ReservePort, Some(request.target), error))?,
            ),
        };
        own.open_flow(request)
    }

    /// Has connections from a reserved port take the flow's way: what they are routed by, they know
    /// but the choice of an interface and a mark.
    fn bind_to_route(&self, transport: Transport, route: &Route, port: u16) -> io::Result<()> {
        let local = SocketAddr::new(route.source, port);
        match self.reservations.socket(transport, local) {
            Some(socket) if transport == Transport::Tcp => sys::bind_to_route(socket.as_fd(), route),
            _ => Ok(()),
        }
    }

    /// Opens the sockets of a family. Those of the other one, if they are open, keep stamps on
    /// arrival switched on.
    fn opener(&self) -> impl FnOnce(Family) -> Result<FamilySockets, NetError> + use<> {
        let (options, are_stamped) = (self.options, self.families.iter().next().is_some());
        move |family| FamilySockets::open(family, options, are_stamped)
    }
}

impl FamilySockets {
    fn open(family: Family, options: NetworkOptions, are_stamped: bool) -> Result<Self, NetError> {
        let capture = Capture::open(family, options.heavy_load, are_stamped)
            .map_err(|error| errors::error(Operation::OpenCapture, None, error))?;
        let delivery = LocalDelivery::open(family)
            .inspect_err(|error| tracing::debug!(%error, "cannot see replies as this host's programs do"));
        Ok(FamilySockets {
            capture,
            delivery: delivery.ok(),
            attention: Attention::new(),
            reopened: None,
            views: Views::new(),
            read_to: ReadTo {
                inside: 0,
                outside: 0,
            },
            lost: 0,
            inside: Vec::new(),
            rests: false,
            senders: Senders::open(family)?,
            ports: PortPool::new(local_ports::of_system(), fastrand::Rng::new()),
        })
    }

    /// Ends a rest.
    fn resume(&mut self) -> io::Result<()> {
        if self.rests {
            self.rests = false;
            self.attention.begin(sys::monotonic(), self.views.tally());
            self.reopened = None;
        }
        self.capture.resume()?;
        match &mut self.delivery {
            Some(delivery) if self.attention.is_open() => delivery.resume(),
            _ => Ok(()),
        }
    }

    fn rest(&mut self) {
        self.rests = true;
        self.capture.rest();
        self.delivery.iter_mut().for_each(LocalDelivery::rest);
        self.views.forget_outside();
        self.senders.rest();
    }

    /// What came in before this was not seen in both views. After a step of the clock that is not
    /// known for long.
    fn reopened_at(&self) -> i64 {
        match self.reopened {
            Some((stamp, at)) if sys::monotonic().since(at) < RECENTLY => stamp,
            _ => i64::MIN,
        }
    }

    /// Opens the second view when it may matter, and closes it when it does not.
    fn pay_attention(&mut self) {
        let Some(delivery) = &mut self.delivery else {
            return;
        };
        let now = sys::monotonic();
        match self
            .attention
            .consider(now, self.views.tally(), attention::host_may_translate)
        {
            ViewChange::Keep => {}
            ViewChange::Open => {
                if let Err(error) = delivery.resume() {
                    tracing::debug!(%error, "cannot see replies as this host's programs do");
                }
                self.reopened = Some((sys::realtime(), now));
            }
            ViewChange::Close => {
                delivery.rest();
                self.views.forget_outside();
            }
        }
    }

    /// Whether replies wait for their other view.
    fn waits(&self) -> bool {
        !self.inside.is_empty()
    }

    /// Decides what became of packets that were only seen in one view. `is_emptied`: the capture's
    /// packets of until `began` have all been taken.
    fn settle(&mut self, is_emptied: bool, began: i64) {
        if is_emptied {
            self.read_to.outside = began;
        }
        let delivery = self.delivery.as_ref();
        if delivery.is_some_and(LocalDelivery::is_emptied) {
            self.read_to.inside = began;
        }
        let (capture, lost) = (&self.capture, &mut self.lost);
        self.views.settle(self.read_to, || {
            let now = capture.statistics().dropped + delivery.map_or(0, LocalDelivery::lost);
            std::mem::replace(lost, now) != now
        });
    }

    /// Passes on each reply once: first those that this host's programs get, which are translated,
    /// then what else came in.
    fn deliver(
        &mut self,
        (ready, began): (usize, i64),
        sources: &[IpAddr],
        events: &mut dyn FnMut(Result<(Reply, i64), Ignored>),
    ) {
        let reopened = self.reopened_at();
        let FamilySockets {
            capture,
            delivery,
            attention,
            views,
            ..
        } = self;
        let has_both_views = delivery.is_some() && attention.is_open();
        let mut inside = std::mem::take(&mut self.inside);
        if let Some(delivery) = delivery {
            delivery.take(|Delivered { stamp, reply }| {
                // What is no reply is counted as it came in.
                let Ok(mut reply) = reply else { return };
                if stamp < reopened || !views.is_news_inside(stamp, &mut reply) {
                } else if views::may_be_replaced(&reply) {
                    inside.push((reply, stamp));
                } else {
                    events(Ok((reply, stamp)));
                }
            });
        }
        for _ in 0..ready {
            capture.take(|captured| {
                let stamp = captured.stamp();
                if !views.is_news_outside(stamp, |addresses| captured.is_between(addresses)) {
                    if let Some(index) = inside.iter().position(|(_, of)| *of == stamp) {
                        let (mut reply, _) = inside.swap_remove(index);
                        restore_router(&mut reply, &captured);
                        events(Ok((reply, stamp)));
                    }
                    return;
                }
                let decoded = captured.decode();
                if has_both_views
                    && stamp >= reopened
                    && let Ok(reply) = &decoded
                {
                    let is_for_us = sources.contains(&reply.destination);
                    views.remember_outside(stamp, reply, is_for_us);
                }
                events(decoded.map(|reply| (reply, stamp)));
            });
        }
        // After a step of the clock backwards, nothing waits.
        let now = sys::realtime();
        let late = now - BETWEEN_VIEWS.as_nanos() as i64;
        inside.retain(|&(reply, stamp)| {
            let may_wait = (late..=now).contains(&stamp);
            if !may_wait {
                events(Ok((reply, stamp)));
            }
            may_wait
        });
        self.inside = inside;
        self.settle(ready < BATCH, began);
    }
}

/// Names the router that an error comes from, which translation has replaced.
fn restore_router(reply: &mut Reply, captured: &CapturedPacket<'_>) {
    if matches!(reply.kind, ReplyKind::IcmpError { .. })
        && !captured.is_from(reply.source)
        && let Ok(outside) = captured.decode()
        && let Some(router) = views::router(&outside)
    {
        reply.source = router;
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

    fn open_flow(&mut self, request: &FlowRequest) -> Result<OpenFlow, NetError> {
        self.ready(request.target)?;
        let want = |port| Want::of(request, port);
        let find = |routes: &mut FlowRoutes, port| {
            let want = want(port);
            routes.raw_flow(&want).map_err(|error| no_way(&want, error))
        };
        let (way, number) = match request.transport {
            None => (find(&mut self.routes, 0)?, None),
            Some(transport) => {
                let (way, port) = self.reserve(transport, request.target, find)?;
                if way.needs_own_socket {
                    self.release_port(transport, way.route.source, port);
                    return self.open_own_flow(request);
                }
                if let Err(error) = self.bind_to_route(transport, &way.route, port) {
                    self.release_port(transport, way.route.source, port);
                    return Err(errors::error(Operation::Route, Some(request.target), error));
                }
                (way, Some(port))
            }
        };
        self.remember_source(way.route.source);
        Ok(OpenFlow {
            route: way.route,
            number,
            capabilities: self.capabilities(Family::of(request.target)),
        })
    }

    fn close_flow(&mut self, request: &FlowRequest, flow: &OpenFlow) {
        if let Some(own) = &mut self.own {
            own.close_flow(request, flow);
        }
        if let (Some(transport), Some(port)) = (request.transport, flow.number) {
            self.release_port(transport, flow.route.source, port);
        }
    }

    fn lacks_neighbour(&mut self, request: &FlowRequest, flow: &OpenFlow) -> bool {
        let want = Want::of(request, flow.number.unwrap_or(0));
        self.routes.lacks_neighbour(&want, &flow.route)
    }

    fn send_on(&mut self, probe: &Probe, route: &Route, token: Token) -> Result<SendStamp, NetError> {
        if let Some(own) = self.own.as_mut().filter(|own| own.has_socket_of(probe)) {
            let stamp = own.send_on(probe, route, token)?;
            self.sent += 1;
            return Ok(stamp);
        }
        let destination = probe.destination;
        let failed = |error| errors::error(Operation::Send, Some(destination), error);
        let mut buffer = vec![0; probe.packet_len()];
        let packet = probe
            .encode(&mut buffer)
            .ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        let outgoing = Outgoing {
            packet,
            destination,
            protocol: if self.routes.raw_tells_protocol() {
                probe.kind.protocol(probe.destination)
            } else {
                0
            },
            route: *route,
        };
        let sockets = self.families.get_or_open(destination, self.opener())?;
        let at = sockets.senders.send(&outgoing, token)?;
        self.sent += 1;
        Ok(SendStamp { at })
    }

    fn connect(&mut self, id: ConnectionId, local: SocketAddr, remote: SocketAddr) -> Result<(), NetError> {
        if let Some(own) = self.own.as_mut().filter(|own| own.has_port(local)) {
            return own.connect(id, local, remote);
        }
        let scope = if needs_scope(remote.ip()) {
            // Several interfaces may have the same link-local address: the reserved port is bound
            // to one of them.
            self.reservations
                .scope(Transport::Tcp, local)
                .unwrap_or_else(|| FlowRoutes::between(local.ip(), remote.ip()).interface)
        } else {
            0
        };
        self.reservations.connect(id, local, route::scoped(remote, scope))
    }

    fn disconnect(&mut self, id: ConnectionId) {
        self.reservations.disconnect(id);
        if let Some(own) = &mut self.own {
            own.disconnect(id);
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
        self.families.iter_mut().for_each(FamilySockets::pay_attention);
        self.reservations.deliver(events);
        match &mut self.own {
            Some(own) => own.poll(Some(Time::ZERO), events),
            None => Ok(()),
        }
    }

    fn rest(&mut self) {
        for family in self.families.iter_mut() {
            family.rest();
        }
    }

    fn counters(&self) -> NetworkCounters {
        let mut counters = NetworkCounters {
            sent: self.sent,
            kernel_send_stamps: self.kernel_send_stamps,
            reserved_ports: self.reservations.len() as u64,
            ..NetworkCounters::default()
        };
        for family in self.families.iter() {
            counters.dropped_here += family.views.dropped();
            let statistics = family.capture.statistics();
            counters.captured += statistics.passed;
            counters.kernel_drops += statistics.dropped;
            let deliveries = family.delivery.as_ref().map_or(0, LocalDelivery::len);
            counters.sockets += (1 + family.senders.len() + deliveries) as u64;
        }
        counters
    }
}
