//! Raw IPv4 sockets, for which Windows wants administrator rights. IPv6 raw sockets neither take
//! nor give IPv6 headers, so they are of no use here.
//!
//! One socket per source address sends everything, and a thread per source address receives:
//! Windows has no receive timestamps for raw sockets, so the clock is read right after the packet
//! is.

use std::collections::HashMap;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::windows::io::OwnedHandle;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use socket2::{Domain, Protocol, Socket, Type};
use traceroute_engine::{Family, NetError, Operation, Time};

use super::{clock, sys};
use crate::inbox::Inbox;
use crate::winerror::{self, WSAEACCES, WSAEPROTONOSUPPORT};

/// `IPPROTO_IP`: packets of every protocol.
const ANY_PROTOCOL: i32 = 0;
/// Where there is no such socket (Wine).
const ICMP: i32 = 1;
/// TCP and UDP.
const OTHER_PROTOCOLS: [i32; 2] = [6, 17];
/// No packet is longer.
const MAX_PACKET_LEN: usize = 0xFFFF;
/// So many failed reads in a row are not about single packets any more.
const MAX_FAILURES: u32 = 100;

/// Raw sockets by source address.
pub(super) struct RawSockets {
    inbox: Arc<Inbox>,
    by_source: HashMap<Ipv4Addr, RawSocket>,
}

struct RawSocket {
    sockets: Arc<Vec<Socket>>,
    /// The index of the interface that packets leave by; 0: the routing table decides.
    interface: u32,
    stopping: Arc<AtomicBool>,
    ready: Arc<OwnedHandle>,
}

impl RawSockets {
    pub(super) fn new(inbox: Arc<Inbox>) -> Self {
        RawSockets {
            inbox,
            by_source: HashMap::new(),
        }
    }

    /// Opens what probes from `source` need, if it is not open.
    pub(super) fn open(&mut self, source: Ipv4Addr) -> Result<(), NetError> {
        if self.by_source.contains_key(&source) {
            return Ok(());
        }
        let socket = RawSocket::open(source, &self.inbox)
            .map_err(|error| winerror::error(Operation::OpenSender, None, error))?;
        tracing::debug!(
            %source,
            "raw socket open; if only the last hop answers, Windows Firewall drops time exceeded messages: allow \
             inbound ICMPv4 of types 3 and 11"
        );
        self.by_source.insert(source, socket);
        Ok(())
    }

    /// Sends a packet that starts at its IP header by an interface (0: as the routing table says);
    /// when, by the clock just before.
    pub(super) fn send(
        &mut self,
        (source, interface): (Ipv4Addr, u32),
        destination: Ipv4Addr,
        packet: &[u8],
    ) -> io::Result<Time> {
        let raw = self
            .by_source
            .get_mut(&source)
            .ok_or(io::ErrorKind::NotConnected)?;
        let socket = raw.sockets.first().ok_or(io::ErrorKind::NotConnected)?;
        if raw.interface != interface {
            sys::send_by(socket, Family::V4, interface)?;
            raw.interface = interface;
        }
        let destination = SocketAddr::V4(SocketAddrV4::new(destination, 0)).into();
        let at = clock::now();
        socket.send_to(packet, &destination)?;
        Ok(at)
    }

    /// How many sockets are open.
    pub(super) fn count(&self) -> u64 {
        self.by_source.values().map(|raw| raw.sockets.len() as u64).sum()
    }
}

impl RawSocket {
    fn open(source: Ipv4Addr, inbox: &Arc<Inbox>) -> io::Result<Self> {
        let sockets = for_all_protocols(|protocol| open_socket(source, protocol))?;
        let ready = Arc::new(sys::event(false)?);
        for socket in &sockets {
            sys::signal_on_read(socket, &ready)?;
        }
        let raw = RawSocket {
            sockets: Arc::new(sockets),
            interface: 0,
            stopping: Arc::default(),
            ready,
        };
        let receiver = Receiver {
            sockets: Arc::clone(&raw.sockets),
            stopping: Arc::clone(&raw.stopping),
            ready: Arc::clone(&raw.ready),
            inbox: Arc::clone(inbox),
            failures: 0,
        };
        thread::Builder::new()
            .name("raw socket".to_owned())
            .spawn(move || receiver.run())?;
        Ok(raw)
    }
}

impl Drop for RawSocket {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        sys::signal(&self.ready);
    }
}

/// Whether this process may have raw sockets.
pub(super) fn check() -> io::Result<()> {
    for_all_protocols(new_socket).map(drop)
}

/// One socket for packets of every protocol; or one for each of those that matter. Only ICMP's
/// must open: without it no hop would answer.
fn for_all_protocols<T>(mut open: impl FnMut(i32) -> io::Result<T>) -> io::Result<Vec<T>> {
    match open(ANY_PROTOCOL) {
        Ok(socket) => Ok(vec![socket]),
        Err(error) if error.raw_os_error() == Some(WSAEPROTONOSUPPORT) => {
            let mut sockets = vec![open(ICMP)?];
            for protocol in OTHER_PROTOCOLS {
                match open(protocol) {
                    Ok(socket) => sockets.push(socket),
                    Err(error) => tracing::debug!(%error, protocol, "no raw socket for this protocol"),
                }
            }
            Ok(sockets)
        }
        Err(error) => Err(error),
    }
}

fn new_socket(protocol: i32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(protocol)))?;
    // Wine without rights gives a socket for ICMP that is not raw after all, and takes no headers.
    let refused = |_| io::Error::from_raw_os_error(WSAEACCES);
    socket.set_header_included_v4(true).map_err(refused)?;
    Ok(socket)
}

fn open_socket(source: Ipv4Addr, protocol: i32) -> io::Result<Socket> {
    let socket = new_socket(protocol)?;
    // Not bound, a raw socket refuses to receive until it has sent.
    socket.bind(&SocketAddr::V4(SocketAddrV4::new(source, 0)).into())?;
    Ok(socket)
}

/// The thread that receives. The sockets close when it has ended.
struct Receiver {
    sockets: Arc<Vec<Socket>>,
    stopping: Arc<AtomicBool>,
    ready: Arc<OwnedHandle>,
    inbox: Arc<Inbox>,
    failures: u32,
}

impl Receiver {
    fn run(mut self) {
        sys::raise_priority();
        let mut buffer = vec![0; MAX_PACKET_LEN];
        let result = loop {
            if self.stopping.load(Ordering::Acquire) {
                break Ok(());
            }
            if let Err(error) = self.receive(&mut buffer) {
                break Err(error);
            }
            if let Err(error) = sys::wait_any(&[&self.ready]) {
                break Err(error);
            }
        };
        if let Err(error) = result {
            self.inbox
                .break_down(winerror::error(Operation::Receive, None, error));
        }
    }

    /// Reads all that is there.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        for socket in self.sockets.iter() {
            loop {
                match (&*socket).read(buffer) {
                    Ok(length) => {
                        let at = clock::now();
                        self.failures = 0;
                        self.inbox.receive(buffer.get(..length).unwrap_or(buffer), at);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // A port unreachable and the like, reported on the socket that caused it.
                    Err(error) => {
                        self.failures += 1;
                        tracing::trace!(%error, "raw socket");
                        if self.failures > MAX_FAILURES {
                            return Err(error);
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// The IPv4 addresses of a probe.
pub(super) fn v4_pair(source: IpAddr, destination: IpAddr) -> Option<(Ipv4Addr, Ipv4Addr)> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => Some((source, destination)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is opened when these protocols are refused.
    fn opened(refused: &[i32], code: i32) -> Result<Vec<i32>, Option<i32>> {
        let open = |protocol: i32| {
            if refused.contains(&protocol) {
                Err(io::Error::from_raw_os_error(code))
            } else {
                Ok(protocol)
            }
        };
        for_all_protocols(open).map_err(|error| error.raw_os_error())
    }

    #[test]
    fn one_socket_is_enough_where_it_may_be_of_any_protocol() {
        assert_eq!(opened(&[], 0), Ok(vec![ANY_PROTOCOL]));
    }

    #[test]
    fn where_protocol_0_is_refused_there_is_icmp_and_what_else_can_be_had() {
        let code = WSAEPROTONOSUPPORT;
        assert_eq!(opened(&[ANY_PROTOCOL], code), Ok(vec![ICMP, 6, 17]));
        assert_eq!(opened(&[ANY_PROTOCOL, 6], code), Ok(vec![ICMP, 17]));
        assert_eq!(opened(&[ANY_PROTOCOL, ICMP], code), Err(Some(code)));
    }

    #[test]
    fn missing_rights_are_not_tried_around() {
        let code = WSAEACCES;
        assert_eq!(opened(&[ANY_PROTOCOL], code), Err(Some(code)));
    }
}
