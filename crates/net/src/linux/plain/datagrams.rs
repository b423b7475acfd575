//! UDP and ICMP sockets: one for each trace.
//!
//! What became of a probe is on the socket's error queue, with what the router quoted of our
//! message, which tells the probe.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{SockRef, Socket};
use traceroute_engine::{NetworkEvent, Time, Token};
use traceroute_wire::{Family, Ignored, Reply, ReplyKind, echo_sequence};

use super::super::sys::{self, SendOptions};
use super::header::HeaderFields;
use super::icmp_errors;
use super::sys::{Message, MessageBuffer, SocketQueue};
use crate::unix::clock::{Converter, Sample};

/// Probes that a socket remembers: more than a trace has TTLs.
const REMEMBERED: usize = 256;
/// Bytes of a message that are remembered: as many as can tell it from others in a quote.
const REMEMBERED_BYTES: usize = 1000;
/// Messages of one socket taken at once, so that the others are not kept waiting.
const BATCH: usize = 32;
/// A pending error from an earlier probe fails the next system call, whatever that is. It is asked
/// for before sending, but may come in between.
const ATTEMPTS: usize = 3;

/// What a socket sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum DatagramKind {
    Udp,
    Echo,
}

/// A socket and the probes that were sent from it.
pub(super) struct DatagramSocket {
    kind: DatagramKind,
    socket: Socket,
    /// Its address and port, or echo identifier.
    local: SocketAddr,
    /// What the socket writes into the IP header.
    header: HeaderFields,
    sent: VecDeque<Sent>,
    /// How many were forgotten of those in front.
    forgotten: u32,
    /// The kernel numbers the requests for send reports. After an error nobody knows how far it
    /// counted.
    reports: bool,
}

struct Sent {
    token: Token,
    at: Time,
    /// Its beginning.
    message: Box<[u8]>,
    answered: bool,
}

impl DatagramSocket {
    /// Prepares a socket that is bound to `local`.
    pub(super) fn new(kind: DatagramKind, socket: Socket, local: SocketAddr) -> io::Result<Self> {
        icmp_errors::request(&socket, local.ip())?;
        if local.is_ipv4() && kind == DatagramKind::Udp {
            // Sets DF, and does not let an earlier "too big" keep a probe back (ip(7)). An
            // improvement only, as the next.
            let probe = libc::IP_PMTUDISC_PROBE;
            let _ = sys::set_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, probe);
        }
        let stamps = libc::SOF_TIMESTAMPING_SOFTWARE
            | libc::SOF_TIMESTAMPING_RX_SOFTWARE
            | libc::SOF_TIMESTAMPING_OPT_ID
            | libc::SOF_TIMESTAMPING_OPT_TSONLY;
        let reports = sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPING, stamps);
        if let Err(error) = &reports {
            tracing::debug!(%error, "no timestamps from the kernel");
        }
        Ok(DatagramSocket {
            kind,
            socket,
            local,
            header: HeaderFields::default(),
            sent: VecDeque::new(),
            forgotten: 0,
            reports: reports.is_ok(),
        })
    }

    /// Sends a message with this TTL or hop limit; when, by the clock just before.
    pub(super) fn send(
        &mut self,
        message: &[u8],
        to: SocketAddr,
        (hop_limit, header): (u8, HeaderFields),
        token: Token,
    ) -> io::Result<Time> {
        if header != self.header {
            header.apply_to_datagrams(self.socket.as_fd(), self.local.ip())?;
            self.header = header;
        }
        let (level, kind) = match to {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TTL),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT),
        };
        let hop_limit = u32::from(hop_limit).to_ne_bytes();
        let mut attempt = 0;
        let at = loop {
            let _ = SockRef::from(&self.socket).take_error();
            let settings = if self.reports {
                SendOptions::send_report()
            } else {
                SendOptions::NONE
            };
            let settings = settings.and(level, kind, &hop_limit);
            let at = sys::monotonic();
            match sys::send(self.socket.as_fd(), message, to, &settings) {
                Ok(()) => break at,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.reports = false;
                    attempt += 1;
                    if attempt == ATTEMPTS || error.kind() == io::ErrorKind::WouldBlock {
                        return Err(error);
                    }
                }
            }
        };
        if self.sent.len() == REMEMBERED {
            self.sent.pop_front();
            self.forgotten = self.forgotten.wrapping_add(1);
        }
        self.sent.push_back(Sent {
            token,
            at,
            message: message[..message.len().min(REMEMBERED_BYTES)].into(),
            answered: false,
        });
        Ok(at)
    }

    /// Passes on what has come in: first what became of probes, with their send reports in the
    /// order of both, then answers.
    pub(super) fn deliver(
        &mut self,
        buffer: &mut MessageBuffer,
        clock: &mut Converter,
        events: &mut dyn FnMut(NetworkEvent<'_>),
    ) {
        for _ in 0..BATCH {
            let Some(message) = buffer.receive(self.socket.as_fd(), SocketQueue::Errors) else {
                break;
            };
            let now = read_clock(clock);
            if let Some((number, stamp)) = message.notes.send_report() {
                if let Some(sent) = self.reported(number) {
                    let at = clock.convert(stamp, sent.at);
                    events(NetworkEvent::Sent {
                        token: sent.token,
                        at,
                    });
                }
            } else if message.notes.error.is_some() {
                let at = message.notes.stamp.map_or(now, |stamp| clock.received(stamp));
                events(self.error(&message, at));
            }
        }
        for _ in 0..BATCH {
            let Some(message) = buffer.receive(self.socket.as_fd(), SocketQueue::Messages) else {
                break;
            };
            let now = read_clock(clock);
            let at = message.notes.stamp.map_or(now, |stamp| clock.received(stamp));
            match self.reply(&message) {
                Some(reply) => events(NetworkEvent::Reply { reply: &reply, at }),
                None => events(NetworkEvent::Ignored(Ignored::NotAnAnswer)),
            }
        }
    }

    fn reported(&self, number: u32) -> Option<&Sent> {
        let index = number.wrapping_sub(self.forgotten);
        self.reports.then(|| self.sent.get(index as usize)).flatten()
    }

    fn error(&mut self, message: &Message<'_>, at: Time) -> NetworkEvent<'static> {
        let missing = icmp_errors::missing_headers(self.local.ip(), self.kind == DatagramKind::Udp);
        let Some(answer) = icmp_errors::answer(message, missing) else {
            return NetworkEvent::Ignored(Ignored::NotAnAnswer);
        };
        let index = match self.kind {
            DatagramKind::Udp => quoted_datagram(&self.sent, message.data),
            DatagramKind::Echo => quoted_echo(&self.sent, message.data),
        };
        let Some(sent) = index.and_then(|index| self.sent.get_mut(index)) else {
            return NetworkEvent::Ignored(Ignored::ForeignQuote);
        };
        sent.answered = true;
        NetworkEvent::Answered {
            token: sent.token,
            answer,
            at,
        }
    }

    fn reply(&self, message: &Message<'_>) -> Option<Reply> {
        let peer = message.peer?;
        let kind = match self.kind {
            DatagramKind::Echo => ReplyKind::from_echo_message(Family::of(peer.ip()), message.data)?,
            DatagramKind::Udp => {
                let len = u16::try_from(message.len).ok()?;
                ReplyKind::from_datagram(
                    Family::of(peer.ip()),
                    peer.port(),
                    self.local.port(),
                    message.data,
                    len,
                )
            }
        };
        Some(Reply {
            source: peer.ip(),
            destination: self.local.ip(),
            ttl: message.notes.hop_limit.unwrap_or(0),
            kind,
        })
    }
}

impl AsFd for DatagramSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Tells `clock` the time, so that it can convert stamps from before; the time.
pub(super) fn read_clock(clock: &mut Converter) -> Time {
    let sample = Sample::take();
    clock.begin(sample);
    sample.now
}

/// Which datagram is quoted. The quote may be cut short, or go on behind the datagram: routers fill
/// it up with zeros before they append extensions (RFC 4884 §4.1).
///
/// A quote of no more than 8 transport bytes is empty here: the kernel keeps the header, which
/// would tell, to itself. Then it is the only datagram that is unanswered, or nobody knows which.
fn quoted_datagram(sent: &VecDeque<Sent>, quote: &[u8]) -> Option<usize> {
    let whole = |(_, sent): &(usize, &Sent)| quote.starts_with(&sent.message);
    if let Some((index, _)) = sent
        .iter()
        .enumerate()
        .filter(whole)
        .max_by_key(|(_, sent)| sent.message.len())
    {
        return Some(index);
    }
    sole_unanswered(sent, quote).or_else(|| sole_unanswered(sent, without_padding(quote)))
}

/// The only unanswered datagram that begins so.
fn sole_unanswered(sent: &VecDeque<Sent>, beginning: &[u8]) -> Option<usize> {
    let mut candidates = sent
        .iter()
        .enumerate()
        .filter(|(_, sent)| sent.message.starts_with(beginning) && !sent.answered);
    let (index, _) = candidates.next()?;
    candidates.next().is_none().then_some(index)
}

/// The part of a quote that is the datagram's, where zeros fill it up to 128 bytes with its
/// headers, in front of extensions (RFC 4884 §4.1).
fn without_padding(quote: &[u8]) -> &[u8] {
    const IPV6_AND_UDP_HEADERS: usize = 48;
    let padded = &quote[..quote.len().min(128 - IPV6_AND_UDP_HEADERS)];
    let len = padded
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    &padded[..len]
}

/// Which echo request is quoted; the kernel has set the identifier and the checksum, so only the
/// sequence number counts.
fn quoted_echo(sent: &VecDeque<Sent>, quote: &[u8]) -> Option<usize> {
    let sequence = echo_sequence(quote)?;
    sent.iter()
        .rposition(|sent| echo_sequence(&sent.message) == Some(sequence))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbered;

    fn sent(messages: &[&[u8]]) -> VecDeque<Sent> {
        let remember = |(index, message): (usize, &&[u8])| Sent {
            token: numbered(index as u64),
            at: Time::ZERO,
            message: (*message).into(),
            answered: false,
        };
        messages.iter().enumerate().map(remember).collect()
    }

    #[test]
    fn a_quote_tells_its_datagram() {
        let probes = sent(&[b"NSMNC\0\x01\x02ab", b"NSMNC\0\x01\x03cd", b"NSMNC\0\x01\x04ef"]);
        assert_eq!(quoted_datagram(&probes, b"NSMNC\0\x01\x03cd"), Some(1));
        assert_eq!(
            quoted_datagram(&probes, b"NSMNC\0\x01\x03cd\0\0\0\0\x20\0"),
            Some(1),
            "filled up"
        );
        assert_eq!(quoted_datagram(&probes, b"NSMNC\0\x01\x04"), Some(2), "cut short");
        assert_eq!(quoted_datagram(&probes, b"NSMNC\0\x01"), None, "cut too short");
        assert_eq!(quoted_datagram(&probes, b"something else"), None);
    }

    #[test]
    fn of_datagrams_that_differ_in_length_the_longest_is_meant() {
        let probes = sent(&[b"NSMNCN", b"NSMNCNS", b"NSMNCNSM"]);
        assert_eq!(quoted_datagram(&probes, b"NSMNCNS"), Some(1));
        assert_eq!(quoted_datagram(&probes, b"NSMNCNS\0\0\0"), Some(1));
    }

    #[test]
    fn an_empty_quote_is_of_the_only_unanswered_datagram() {
        let mut probes = sent(&[b"one", b"two"]);
        assert_eq!(quoted_datagram(&probes, b""), None);
        probes[0].answered = true;
        assert_eq!(quoted_datagram(&probes, b""), Some(1));
        probes[1].answered = true;
        assert_eq!(quoted_datagram(&probes, b""), None);
    }

    /// As routers do that quote 8 bytes of UDP and add MPLS labels.
    #[test]
    fn an_empty_quote_that_is_filled_up_is_too() {
        let mut probes = sent(&[b"one", b"two"]);
        let filled = |beginning: &[u8]| {
            let mut quote = beginning.to_vec();
            quote.resize(100, 0);
            quote.extend(b"\x20\0\xAB\xCD\0\x08\x01\x01\0\0\x11\x01");
            quote
        };
        assert_eq!(quoted_datagram(&probes, &filled(b"")), None);
        assert_eq!(quoted_datagram(&probes, &filled(b"tw")), Some(1));
        assert_eq!(quoted_datagram(&probes, &filled(b"tx")), None);
        probes[0].answered = true;
        assert_eq!(quoted_datagram(&probes, &filled(b"")), Some(1));
    }

    #[test]
    fn an_echo_request_is_known_by_its_sequence_number() {
        let probes = sent(&[&[8, 0, 1, 1, 9, 9, 0, 1, 7], &[8, 0, 1, 1, 9, 9, 0, 2, 7]]);
        assert_eq!(quoted_echo(&probes, &[8, 0, 5, 5, 3, 3, 0, 2]), Some(1));
        assert_eq!(quoted_echo(&probes, &[8, 0, 5, 5, 3, 3, 0, 3]), None);
        assert_eq!(quoted_echo(&probes, &[8, 0, 5, 5, 3, 3, 0]), None, "cut short");
    }
}
