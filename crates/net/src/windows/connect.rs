//! TCP connections being opened: the probes of `syn_socket`, and the connections of SACK
//! traceroutes.
//!
//! A thread waits for all of them at once with `WSAPoll`, which reports failed attempts from
//! Windows build 19041 on, the same that reports the ICMP errors which `syn_socket` lives from.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use traceroute_engine::{ConnectionId, MatchedReply, NetError, Operation, Time, Token};
use traceroute_wire::{Family, IcmpError};
use windows_sys::Win32::Networking::WinSock::{POLLIN, POLLOUT, WSAPOLLFD};

use super::{clock, sys};
use crate::inbox::{Inbox, Item};
use crate::route;
use crate::winerror::{self, WSAECONNREFUSED, WSAEWOULDBLOCK};

/// After this many milliseconds without an answer the system gives a probe up: the most that it can
/// be told (the initial RTO of Set-NetTCPSetting is at most 3000 ms).
const SYN_PATIENCE: u16 = 3000;

/// A port reserved for a trace: whose probes belong together.
pub(super) type LocalPort = (IpAddr, u16);

/// Opens connections.
pub(super) struct Connector {
    inbox: Arc<Inbox>,
    /// `None` until the first connection, which starts the thread.
    shared: Option<Arc<Shared>>,
}

struct Shared {
    inbox: Arc<Inbox>,
    state: Mutex<State>,
    /// Connected to itself: a datagram wakes the thread.
    bell: UdpSocket,
}

#[derive(Default)]
struct State {
    /// New attempts, not yet taken by the thread.
    begun: Vec<ConnectAttempt>,
    /// What the thread has to forget.
    ended: Vec<End>,
    /// Connections that are open, until they are ended.
    open: HashMap<ConnectionId, Socket>,
    stopping: bool,
}

impl State {
    /// Adds new attempts to those that the thread has, and gives up what has been ended.
    fn hand_over(&mut self, attempts: &mut Vec<ConnectAttempt>) {
        attempts.append(&mut self.begun);
        // After taking the new attempts: the end of one may have come together with its beginning.
        for end in self.ended.drain(..) {
            attempts.retain(|attempt| !end.covers(attempt.purpose));
            // It may have connected since it was ended.
            if let End::Connection(id) = end {
                self.open.remove(&id);
            }
        }
    }
}

/// An attempt to connect.
struct ConnectAttempt {
    socket: Socket,
    remote: SocketAddr,
    purpose: Purpose,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// The SYN is a probe.
    Probe {
        token: Token,
        local: LocalPort,
    },
    Connection(ConnectionId),
}

/// Attempts that nobody waits for any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Probes(LocalPort),
    Connection(ConnectionId),
}

impl End {
    fn covers(self, purpose: Purpose) -> bool {
        match (self, purpose) {
            (End::Probes(ended), Purpose::Probe { local, .. }) => ended == local,
            (End::Connection(ended), Purpose::Connection(id)) => ended == id,
            _ => false,
        }
    }
}

impl Connector {
    pub(super) fn new(inbox: Arc<Inbox>) -> Self {
        Connector { inbox, shared: None }
    }

    /// Sends a SYN with a TTL as a probe by an interface (0: as the routing table says); when, by
    /// the clock just before. `local` is what [`Connector::end_probes`] is told.
    ///
    /// # Errors
    /// `WSAENOPROTOOPT` where the system does not report ICMP errors of connects.
    pub(super) fn probe(
        &mut self,
        (source, interface): (IpAddr, u32),
        remote: SocketAddr,
        ttl: u8,
        token: Token,
        local: LocalPort,
    ) -> io::Result<Time> {
        let socket = Socket::new(Domain::for_address(remote), Type::STREAM, None)?;
        sys::fail_on_icmp_error(&socket)?;
        sys::send_syn_once(&socket, SYN_PATIENCE);
        if remote.is_ipv4() {
            socket.set_ttl_v4(ttl.into())?;
        } else {
            socket.set_unicast_hops_v6(ttl.into())?;
        }
        if interface != 0 {
            sys::send_by(&socket, Family::of(remote.ip()), interface)?;
        }
        socket.bind(&route::with_scope(source, 0, route::scope_of(source, interface)).into())?;
        let remote = route::scoped(remote, route::scope_of(remote.ip(), interface));
        self.begin(socket, remote, Purpose::Probe { token, local })
    }

    /// Begins to connect a socket that is bound.
    pub(super) fn connect(&mut self, id: ConnectionId, socket: Socket, remote: SocketAddr) -> io::Result<()> {
        self.begin(socket, remote, Purpose::Connection(id)).map(|_| ())
    }

    fn begin(&mut self, socket: Socket, remote: SocketAddr, purpose: Purpose) -> io::Result<Time> {
        let shared = self.started()?;
        socket.set_nonblocking(true)?;
        // Whatever becomes of it, nothing lingers: closing sends RST.
        socket.set_linger(Some(Duration::ZERO))?;
        let at = clock::now();
        let result = socket.connect(&remote.into());
        let attempt = ConnectAttempt {
            socket,
            remote,
            purpose,
        };
        match result {
            Err(error) if error.raw_os_error() == Some(WSAEWOULDBLOCK) => {
                shared.state().begun.push(attempt);
                shared.ring();
            }
            // On loopback the answer can come during the call.
            Ok(()) => shared.outcome(attempt, None, clock::now()),
            Err(error) if error.raw_os_error() == Some(WSAECONNREFUSED) => {
                shared.outcome(attempt, Some(error), clock::now());
            }
            Err(error) => return Err(error),
        }
        Ok(at)
    }

    fn started(&mut self) -> io::Result<Arc<Shared>> {
        if let Some(shared) = &self.shared {
            return Ok(Arc::clone(shared));
        }
        let bell = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        bell.connect(bell.local_addr()?)?;
        bell.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            inbox: Arc::clone(&self.inbox),
            state: Mutex::default(),
            bell,
        });
        let thread = Arc::clone(&shared);
        thread::Builder::new()
            .name("connections".to_owned())
            .spawn(move || thread.run())?;
        Ok(Arc::clone(self.shared.insert(shared)))
    }

    /// Closes all probes of a trace.
    pub(super) fn end_probes(&mut self, local: LocalPort) {
        self.end(End::Probes(local));
    }

    /// Resets a connection, or gives up opening it.
    pub(super) fn disconnect(&mut self, id: ConnectionId) {
        self.end(End::Connection(id));
    }

    fn end(&mut self, end: End) {
        let Some(shared) = &self.shared else { return };
        let mut state = shared.state();
        if let End::Connection(id) = end
            && state.open.remove(&id).is_some()
        {
            return;
        }
        state.ended.push(end);
        drop(state);
        shared.ring();
    }

    /// How many sockets it has, the attempts under way not counted.
    pub(super) fn count(&self) -> u64 {
        let open = |shared: &Arc<Shared>| 1 + shared.state().open.len() as u64;
        self.shared.as_ref().map_or(0, open)
    }
}

impl Drop for Connector {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.state().stopping = true;
            shared.ring();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        // When its buffer is full, the bell has been rung.
        let _ = self.bell.send(&[0]);
    }

    fn run(&self) {
        sys::raise_priority();
        let mut attempts: Vec<ConnectAttempt> = Vec::new();
        let mut fds: Vec<WSAPOLLFD> = Vec::new();
        loop {
            {
                let mut state = self.state();
                if state.stopping {
                    return;
                }
                state.hand_over(&mut attempts);
            }
            fds.clear();
            fds.push(sys::poll_for(&self.bell, POLLIN));
            fds.extend(
                attempts
                    .iter()
                    .map(|attempt| sys::poll_for(&attempt.socket, POLLOUT)),
            );
            if let Err(error) = sys::poll(&mut fds) {
                let error = winerror::error(Operation::Receive, None, error);
                return self.inbox.break_down(error);
            }
            let at = clock::now();
            self.collect(&mut attempts, &fds, at);
        }
    }

    /// Takes out the attempts that have ended.
    fn collect(&self, attempts: &mut Vec<ConnectAttempt>, fds: &[WSAPOLLFD], at: Time) {
        let Some((bell, sockets)) = fds.split_first() else {
            return;
        };
        if bell.revents != 0 {
            let mut byte = [0];
            while self.bell.recv(&mut byte).is_ok() {}
        }
        // From the end, so that removing one moves only those already seen.
        for (index, fd) in sockets.iter().enumerate().rev() {
            if fd.revents != 0 && index < attempts.len() {
                let attempt = attempts.swap_remove(index);
                let error = match SockRef::from(&attempt.socket).take_error() {
                    Ok(None) if sys::is_writable(fd.revents) => None,
                    Ok(None) => Some(io::Error::from(io::ErrorKind::ConnectionAborted)),
                    Ok(Some(error)) | Err(error) => Some(error),
                };
                self.outcome(attempt, error, at);
            }
        }
    }

    /// Tells how an attempt ended; `None`: it is connected.
    fn outcome(&self, attempt: ConnectAttempt, error: Option<io::Error>, at: Time) {
        let remote = attempt.remote.ip();
        match (attempt.purpose, error) {
            (Purpose::Probe { token, .. }, error) => {
                if let Some(answer) = probe_answer(&attempt, error.as_ref()) {
                    self.inbox.push(Item::Answered { token, answer, at });
                }
            }
            (Purpose::Connection(id), None) => {
                self.state().open.insert(id, attempt.socket);
                self.inbox.push(Item::Connected(id));
            }
            (Purpose::Connection(id), Some(error)) => {
                let error = connect_error(remote, error);
                self.inbox.push(Item::ConnectFailed(id, error));
            }
        }
    }
}

/// Who answered a SYN. `None`: nobody.
fn probe_answer(attempt: &ConnectAttempt, error: Option<&io::Error>) -> Option<MatchedReply> {
    let target = MatchedReply::new(attempt.remote.ip(), None);
    match error.map(io::Error::raw_os_error) {
        // SYN-ACK, or RST: either way the target's own answer.
        None | Some(Some(WSAECONNREFUSED)) => Some(target),
        Some(_) => {
            let reported = sys::icmp_error(&attempt.socket)?;
            let error =
                IcmpError::from_type_and_code(Family::of(reported.from), reported.kind, reported.code)?;
            Some(MatchedReply::new(reported.from, Some(error)))
        }
    }
}

fn connect_error(remote: IpAddr, error: io::Error) -> NetError {
    winerror::error(Operation::Connect, Some(remote), error)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::numbered;

    fn fixture() -> (Arc<Inbox>, Connector) {
        let inbox = Arc::new(Inbox::new(1000));
        (Arc::clone(&inbox), Connector::new(inbox))
    }

    fn next(inbox: &Inbox) -> Vec<Item> {
        let mut items = Vec::new();
        inbox
            .take(Some(Duration::from_secs(10)), 1, &mut items)
            .expect("inbox");
        items
    }

    fn bound() -> Socket {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        socket.bind(&any.into()).expect("bind");
        socket
    }

    #[test]
    fn connections_open_and_close() {
        let (inbox, mut connector) = fixture();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listener");
        let remote = listener.local_addr().expect("address");
        for id in 0..20 {
            connector
                .connect(ConnectionId(id), bound(), remote)
                .expect("begun");
        }
        for _ in 0..20 {
            let items = next(&inbox);
            assert!(matches!(items[..], [Item::Connected(_)]), "{items:?}");
        }
        assert_eq!(connector.count(), 21);
        for id in 0..20 {
            connector.disconnect(ConnectionId(id));
        }
        assert_eq!(connector.count(), 1);
    }

    #[test]
    fn a_refused_connection_fails() {
        let (inbox, mut connector) = fixture();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listener");
        let remote = listener.local_addr().expect("address");
        drop(listener);
        connector
            .connect(ConnectionId(1), bound(), remote)
            .expect("begun");
        match &next(&inbox)[..] {
            [Item::ConnectFailed(ConnectionId(1), error)] => {
                assert_eq!(error.source.raw_os_error(), Some(WSAECONNREFUSED));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn windows_answers_a_probe_and_wine_refuses_the_option_that_it_needs() {
        let (inbox, mut connector) = fixture();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listener");
        let remote = listener.local_addr().expect("address");
        let source = remote.ip();
        let sent = connector.probe((source, 0), remote, 5, numbered(9), (source, 1));
        if sys::is_wine() {
            let error = sent.expect_err("an old Windows");
            assert_eq!(error.raw_os_error(), Some(winerror::WSAENOPROTOOPT));
            return;
        }
        sent.expect("sent");
        match next(&inbox)[..] {
            [Item::Answered { token, answer, .. }] => {
                assert_eq!((token, answer.from, answer.error), (numbered(9), source, None));
            }
            ref other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_wine_cannot_do_a_probes_outcomes_become_answers() {
        let (inbox, mut connector) = fixture();
        let shared = connector.started().expect("thread");
        let remote: SocketAddr = "192.0.2.1:80".parse().expect("address");
        let attempt = |token| ConnectAttempt {
            socket: bound(),
            remote,
            purpose: Purpose::Probe {
                token: numbered(token),
                local: (remote.ip(), 1),
            },
        };
        let at = Time::from_nanos(5);
        shared.outcome(attempt(1), None, at);
        let refused = io::Error::from_raw_os_error(WSAECONNREFUSED);
        shared.outcome(attempt(2), Some(refused), at);
        // No ICMP error is readable on this socket, so nobody answered.
        let unreachable = io::Error::from_raw_os_error(winerror::WSAEHOSTUNREACH);
        shared.outcome(attempt(3), Some(unreachable), at);
        let mut items = Vec::new();
        inbox.take(Some(Duration::ZERO), 10, &mut items).expect("inbox");
        let tokens: Vec<_> = items
            .iter()
            .map(|item| match item {
                Item::Answered {
                    token,
                    answer,
                    at: when,
                } => {
                    assert_eq!((answer.from, answer.error, *when), (remote.ip(), None, at));
                    token.trace
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(tokens, [1, 2]);
    }

    #[test]
    fn a_connection_that_opens_while_it_is_ended_is_closed() {
        let shared = Shared {
            inbox: Arc::new(Inbox::new(10)),
            state: Mutex::default(),
            bell: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bell"),
        };
        let remote: SocketAddr = "192.0.2.1:80".parse().expect("address");
        let attempt = |id| ConnectAttempt {
            socket: bound(),
            remote,
            purpose: Purpose::Connection(ConnectionId(id)),
        };
        // As when the thread is between waiting and telling.
        shared.state().ended.push(End::Connection(ConnectionId(1)));
        shared.outcome(attempt(1), None, Time::ZERO);
        shared.outcome(attempt(2), None, Time::ZERO);
        let mut attempts = vec![attempt(1)];
        let mut state = shared.state();
        state.hand_over(&mut attempts);
        assert!(attempts.is_empty());
        assert_eq!(state.open.keys().copied().collect::<Vec<_>>(), [ConnectionId(2)]);
    }

    #[test]
    fn ended_attempts_are_given_up() {
        let local = ("192.0.2.1".parse().expect("address"), 7);
        let probe = Purpose::Probe {
            token: numbered(1),
            local,
        };
        assert!(End::Probes(local).covers(probe));
        assert!(!End::Probes((local.0, 8)).covers(probe));
        assert!(!End::Connection(ConnectionId(1)).covers(probe));
        assert!(End::Connection(ConnectionId(1)).covers(Purpose::Connection(ConnectionId(1))));
    }
}
