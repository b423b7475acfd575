//! The raw socket that sends probes, and the kernel's reports of when they left.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use traceroute_engine::{Route, Time, Token};
use traceroute_wire::Family;

use super::cmsg::Notes;
use super::privileges;
use super::sys::{self, ERROR_BATCH, ErrorBatch, SendOptions};
use crate::route;
use crate::route::needs_scope;
use crate::unix::clock::Converter;

/// Reports come within a few packets' time; a probe this many probes ago has lost its.
const REMEMBERED: usize = 1024;
/// Bytes of buffer asked for, in which the reports wait: as many as are remembered, at less than 1
/// KiB each. The unprivileged are granted less (`net.core.rmem_max`).
const REPORT_BUFFER: i32 = 1 << 20;

/// A packet, and what the kernel is told about its route: it does not look into the packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outgoing<'a> {
    pub(super) packet: &'a [u8],
    pub(super) destination: IpAddr,
    /// 0: not told.
    pub(super) protocol: u8,
    pub(super) route: Route,
}

impl Outgoing<'_> {
    fn settings(&self) -> SendOptions {
        let Route {
            source,
            interface,
            mark,
        } = self.route;
        let settings = SendOptions::send_report()
            .and_route(source, interface)
            .and_mark(mark);
        if self.protocol != 0 && source.is_ipv4() {
            settings.and_protocol(self.protocol)
        } else {
            settings
        }
    }

    /// Raw sockets have no ports; those of IPv6 take the protocol for one.
    fn to(&self) -> SocketAddr {
        let scope = if needs_scope(self.destination) {
            self.route.interface
        } else {
            0
        };
        let port = match self.destination {
            IpAddr::V4(_) => 0,
            IpAddr::V6(_) => self.protocol.into(),
        };
        route::with_scope(self.destination, port, scope)
    }
}

/// Sends packets of one address family.
pub(super) struct Sender {
    socket: OwnedFd,
    recent: Recent,
    batch: Box<ErrorBatch>,
    /// Reports may be taken for those of other probes.
    doubtful: bool,
}

impl Sender {
    /// Opens the socket, or takes one of the user who started this process.
    pub(super) fn open(family: Family) -> io::Result<Self> {
        let socket = match privileges::sender(family) {
            Some(socket) => socket,
            None => socket(family)?,
        };
        // Both are improvements only: without the first, some reports may be lost under load;
        // without the second, all.
        let _ = sys::set_receive_buffer(socket.as_fd(), REPORT_BUFFER);
        // Without these, the kernel says of packets that the interface's queue had no room for that
        // they were sent.
        let (level, errors) = match family {
            Family::V4 => (libc::IPPROTO_IP, libc::IP_RECVERR),
            Family::V6 => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
        };
        sys::set_option(socket.as_fd(), level, errors, 1_i32)?;
        let reports = libc::SOF_TIMESTAMPING_SOFTWARE
            | libc::SOF_TIMESTAMPING_OPT_ID
            | libc::SOF_TIMESTAMPING_OPT_TSONLY;
        if let Err(error) = sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPING, reports)
        {
            tracing::debug!(%error, "no send timestamps from the kernel");
        }
        Ok(Sender {
            socket,
            recent: Recent::new(),
            batch: ErrorBatch::new(),
            doubtful: false,
        })
    }

    /// Sends a packet; when, by the clock just before. One system call per packet: on loopback and
    /// virtual interfaces the reply arrives during the call, so that packets of a batch would seem
    /// to have left too early.
    ///
    /// The kernel is asked to report when the packet left, always: that costs 0.8 µs in all, a
    /// third of the system call.
    pub(super) fn send(&mut self, outgoing: &Outgoing<'_>, token: Token) -> io::Result<Time> {
        let (to, settings) = (outgoing.to(), outgoing.settings());
        loop {
            let at = sys::monotonic();
            match sys::send(self.socket.as_fd(), outgoing.packet, to, &settings) {
                Ok(()) => {
                    self.recent.push(token, at);
                    return Ok(at);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    match told(&error) {
                        Told::BeforeCounting => {}
                        Told::AfterCounting => self.recent.skip(),
                        Told::AtSomeTime => self.doubtful = true,
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Whether reports from now on may be taken for those of other probes than theirs.
    pub(super) fn is_doubtful(&self) -> bool {
        self.doubtful
    }

    /// Whether there are probes whose reports have not been seen.
    pub(super) fn expects_reports(&self) -> bool {
        self.recent.waiting > 0
    }

    /// Passes on the reports that have come in.
    pub(super) fn reports(&mut self, clock: &Converter, mut report: impl FnMut(Token, Time)) {
        while self.recent.waiting > 0 {
            let Ok(count) = sys::receive_errors(self.socket.as_fd(), &mut self.batch) else {
                return;
            };
            for index in 0..count {
                let Some((id, stamp)) = Notes::parse(self.batch.control(index)).send_report() else {
                    continue;
                };
                if let Some((token, handed_over)) = self.recent.take(id) {
                    report(token, clock.convert(stamp, handed_over));
                }
            }
            if count < ERROR_BATCH {
                return;
            }
        }
    }
}

/// A socket that sends packets with their header. `IPPROTO_RAW` receives nothing (raw(7)). A "too
/// big" that this host has heard keeps no packet back (`IP_PMTUDISC_PROBE`, ip(7)): who says so is
/// what a trace is to find out.
pub(super) fn socket(family: Family) -> io::Result<OwnedFd> {
    let (domain, level, discovery, probe) = match family {
        Family::V4 => (
            libc::AF_INET,
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_PROBE,
        ),
        Family::V6 => (
            libc::AF_INET6,
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_PROBE,
        ),
    };
    let socket = sys::socket(domain, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
    sys::set_option(socket.as_fd(), level, discovery, probe)?;
    if family == Family::V6 {
        // Linux 4.5; the default of IPPROTO_RAW, stated.
        sys::set_option(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_HDRINCL, 1_i32)?;
    }
    Ok(socket)
}

/// When the kernel finds an error, with respect to counting the request for a report.
enum Told {
    BeforeCounting,
    AfterCounting,
    AtSomeTime,
}

fn told(error: &io::Error) -> Told {
    match error.raw_os_error() {
        // No room, no route, too long.
        Some(libc::EAGAIN | libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EMSGSIZE) => Told::BeforeCounting,
        // The interface's queue had no room.
        Some(libc::ENOBUFS) => Told::AfterCounting,
        // A firewall's refusal, for one, comes after; others may come before.
        _ => Told::AtSomeTime,
    }
}

/// The probes that were sent last with a request for a report, by the kernel's count of such
/// requests.
struct Recent {
    slots: Vec<Option<(u32, Token, Time)>>,
    next: u32,
    waiting: usize,
}

impl Recent {
    fn new() -> Self {
        Recent {
            slots: vec![None; REMEMBERED],
            next: 0,
            waiting: 0,
        }
    }

    /// A request was counted whose packet did not leave.
    fn skip(&mut self) {
        self.next = self.next.wrapping_add(1);
    }

    fn push(&mut self, token: Token, at: Time) {
        let id = self.next;
        self.next = id.wrapping_add(1);
        if let Some(slot) = self.slots.get_mut(id as usize % REMEMBERED)
            && slot.replace((id, token, at)).is_none()
        {
            self.waiting += 1;
        }
    }

    fn take(&mut self, id: u32) -> Option<(Token, Time)> {
        let slot = self.slots.get_mut(id as usize % REMEMBERED)?;
        let (_, token, at) = slot.take_if(|(known, ..)| *known == id)?;
        self.waiting -= 1;
        Some((token, at))
    }
}

#[cfg(test)]
mod tests {
    use super::super::cmsg::tests::message;
    use super::*;
    use crate::numbered;

    fn parse_report(control: &[u8]) -> Option<(u32, i64)> {
        Notes::parse(control).send_report()
    }

    fn stamp(seconds: i64, nanos: i64) -> Vec<u8> {
        let mut data = seconds.to_ne_bytes().to_vec();
        data.extend(nanos.to_ne_bytes());
        data.resize(48, 0);
        message(libc::SOL_SOCKET, libc::SCM_TIMESTAMPING, &data)
    }

    fn error(errno: i32, origin: u8, info: u32, id: u32) -> Vec<u8> {
        let mut data = errno.to_ne_bytes().to_vec();
        data.extend([origin, 0, 0, 0]);
        data.extend(info.to_ne_bytes());
        data.extend(id.to_ne_bytes());
        data.extend([0; 16]);
        message(libc::IPPROTO_IP, libc::IP_RECVERR, &data)
    }

    #[test]
    fn a_report_is_read() {
        let control = [
            stamp(1_700_000_000, 5),
            error(libc::ENOMSG, libc::SO_EE_ORIGIN_TIMESTAMPING, 0, 77),
        ]
        .concat();
        assert_eq!(parse_report(&control), Some((77, 1_700_000_000_000_000_005)));
    }

    #[test]
    fn other_messages_are_not_reports() {
        let time = stamp(1_700_000_000, 5);
        let icmp = error(libc::EHOSTUNREACH, libc::SO_EE_ORIGIN_ICMP, 0, 77);
        assert_eq!(
            parse_report(&[time.clone(), icmp].concat()),
            None,
            "an ICMP error"
        );
        let scheduled = error(libc::ENOMSG, libc::SO_EE_ORIGIN_TIMESTAMPING, 1, 77);
        assert_eq!(
            parse_report(&[time.clone(), scheduled].concat()),
            None,
            "entered the queue"
        );
        assert_eq!(parse_report(&time), None, "no error");
        let no_time = [
            stamp(0, 0),
            error(libc::ENOMSG, libc::SO_EE_ORIGIN_TIMESTAMPING, 0, 77),
        ]
        .concat();
        assert_eq!(parse_report(&no_time), None, "no software time");
    }

    #[test]
    fn any_control_data_is_survived() {
        let whole = [
            stamp(1, 2),
            error(libc::ENOMSG, libc::SO_EE_ORIGIN_TIMESTAMPING, 0, 1),
        ]
        .concat();
        for length in 0..whole.len() {
            let _ = parse_report(&whole[..length]);
        }
        for lie in [0_usize, 1, 15, 17, usize::MAX - 3, usize::MAX] {
            let mut control = whole.clone();
            control[..size_of::<usize>()].copy_from_slice(&lie.to_ne_bytes());
            assert_eq!(parse_report(&control), None, "length {lie}");
        }
    }

    #[test]
    fn reports_find_their_probes_and_old_probes_are_forgotten() {
        let mut recent = Recent::new();
        for token in 0..REMEMBERED as u64 + 2 {
            recent.push(numbered(token), Time::from_nanos(token));
        }
        assert_eq!(recent.waiting, REMEMBERED);
        assert_eq!(recent.take(0), None);
        assert_eq!(recent.take(1), None);
        assert_eq!(recent.take(2), Some((numbered(2), Time::from_nanos(2))));
        assert_eq!(recent.take(2), None, "reported twice");
        assert_eq!(recent.waiting, REMEMBERED - 1);
        let last = REMEMBERED as u32 + 1;
        assert_eq!(
            recent.take(last),
            Some((numbered(u64::from(last)), Time::from_nanos(u64::from(last))))
        );
    }
}
