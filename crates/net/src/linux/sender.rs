//! The raw socket that sends probes, and the kernel's reports of when they left.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use traceroute_wire::filter::Family;

use super::cmsg::ControlMessages;
use super::sys::{self, ERROR_BATCH, ErrorBatch};
use crate::unix::clock::Converter;
use crate::{Time, Token};

/// Reports come within a few packets' time; a probe this many probes ago has lost its.
const REMEMBERED: usize = 1024;
/// `SCM_TSTAMP_SND` (linux/errqueue.h): the report is about handing the packet to the device.
const SCM_TSTAMP_SND: u32 = 0;
/// Bytes of buffer asked for, in which the reports wait: as many as are remembered, at less than 1 KiB each.
const REPORT_BUFFER: i32 = 1 << 20;

/// Sends packets of one address family.
pub(super) struct Sender {
    socket: OwnedFd,
    recent: Recent,
    batch: Box<ErrorBatch>,
}

impl Sender {
    /// Opens the socket. `IPPROTO_RAW` takes packets with their IP header and receives nothing (raw(7)).
    pub(super) fn open(family: Family) -> io::Result<Self> {
        let socket = match family {
            Family::V4 => sys::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW)?,
            Family::V6 => {
                let socket = sys::socket(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
                // Linux 4.5; the default of IPPROTO_RAW, stated.
                sys::set_option(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_HDRINCL, 1_i32)?;
                socket
            }
        };
        // Both are improvements only: without the first, some reports may be lost under load; without the second, all.
        let buffer = sys::set_option(
            socket.as_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            REPORT_BUFFER,
        );
        if buffer.is_err() {
            let _ = sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, REPORT_BUFFER);
        }
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
        })
    }

    /// Sends a packet; when, by the clock just before. One system call per packet: on loopback and virtual interfaces
    /// the reply arrives during the call, so that packets of a batch would seem to have left too early.
    ///
    /// `scope`: interface of a link-local destination, otherwise 0. The kernel is asked to report when the packet left,
    /// always: that costs 0.8 µs in all, a third of the system call.
    pub(super) fn send(
        &mut self,
        packet: &[u8],
        destination: IpAddr,
        scope: u32,
        token: Token,
    ) -> io::Result<Time> {
        loop {
            let at = sys::monotonic();
            match sys::send(self.socket.as_fd(), packet, (destination, scope)) {
                Ok(()) => {
                    self.recent.push(token, at);
                    return Ok(at);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
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
                let Some((id, stamp)) = parse_report(self.batch.control(index)) else {
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

/// The probes that were sent last with a request for a report, by the kernel's count of such requests.
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

/// Reads the control data of a message from the error queue: which request, and when, in nanoseconds of the wall clock.
/// `None`: it is about something else.
fn parse_report(control: &[u8]) -> Option<(u32, i64)> {
    let mut id = None;
    let mut stamp = None;
    for (level, kind, data) in ControlMessages(control) {
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPING) => stamp = parse_stamp(data),
            (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {
                id = parse_extended_error(data);
            }
            _ => {}
        }
    }
    Some((id?, stamp?))
}

/// `struct scm_timestamping`: three times, the first of which is the software's. Seconds and nanoseconds have 8 bytes
/// each, or 4 on old 32-bit systems.
fn parse_stamp(data: &[u8]) -> Option<i64> {
    const TIMES: usize = 3;
    let word = |index: usize| -> Option<i64> {
        if data.len() == TIMES * 16 {
            Some(i64::from_ne_bytes(
                data.get(index * 8..index * 8 + 8)?.try_into().ok()?,
            ))
        } else {
            Some(i32::from_ne_bytes(data.get(index * 4..index * 4 + 4)?.try_into().ok()?).into())
        }
    };
    let (seconds, nanos) = (word(0)?, word(1)?);
    (seconds != 0).then(|| seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// `struct sock_extended_err`: errno 4, origin 1, type 1, code 1, padding 1, info 4, data 4.
fn parse_extended_error(data: &[u8]) -> Option<u32> {
    let word =
        |at: usize| -> Option<u32> { Some(u32::from_ne_bytes(data.get(at..at + 4)?.try_into().ok()?)) };
    let is_report = word(0)? == libc::ENOMSG as u32
        && *data.get(4)? == libc::SO_EE_ORIGIN_TIMESTAMPING
        && word(8)? == SCM_TSTAMP_SND;
    if is_report { word(12) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let mut bytes = (size_of::<usize>() + 8 + data.len()).to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(size_of::<usize>()), 0);
        bytes
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
            recent.push(Token(token), Time::from_nanos(token));
        }
        assert_eq!(recent.waiting, REMEMBERED);
        assert_eq!(recent.take(0), None);
        assert_eq!(recent.take(1), None);
        assert_eq!(recent.take(2), Some((Token(2), Time::from_nanos(2))));
        assert_eq!(recent.take(2), None, "reported twice");
        assert_eq!(recent.waiting, REMEMBERED - 1);
        let last = REMEMBERED as u32 + 1;
        assert_eq!(
            recent.take(last),
            Some((Token(u64::from(last)), Time::from_nanos(u64::from(last))))
        );
    }
}
