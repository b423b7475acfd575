//! Control messages of recvmsg(2), see cmsg(3).

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// The control messages in a buffer, as (level, type, data); see cmsg(3) for the layout.
pub(super) struct ControlMessages<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for ControlMessages<'a> {
    type Item = (i32, i32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        const WORD: usize = size_of::<usize>();
        const HEADER: usize = WORD + 8;
        let length = usize::from_ne_bytes(self.0.get(..WORD)?.try_into().ok()?);
        let level = i32::from_ne_bytes(self.0.get(WORD..WORD + 4)?.try_into().ok()?);
        let kind = i32::from_ne_bytes(self.0.get(WORD + 4..HEADER)?.try_into().ok()?);
        let data = self.0.get(HEADER..length)?;
        let aligned = length.checked_next_multiple_of(WORD)?;
        self.0 = self.0.get(aligned..).unwrap_or(&[]);
        Some((level, kind, data))
    }
}

/// What the kernel tells with a message about its packet or, on the error queue, about what became
/// of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Notes {
    /// When, in nanoseconds of the wall clock.
    pub(super) stamp: Option<i64>,
    /// TTL or hop limit on arrival.
    pub(super) hop_limit: Option<u8>,
    /// Where an IPv6 packet was sent to (`IPV6_RECVPKTINFO`).
    pub(super) destination: Option<Ipv6Addr>,
    /// Only on the error queue.
    pub(super) error: Option<ExtendedError>,
}

/// `struct sock_extended_err` (linux/errqueue.h) and the address behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ExtendedError {
    pub(super) number: u32,
    pub(super) origin: u8,
    /// ICMP type.
    pub(super) kind: u8,
    /// ICMP code.
    pub(super) code: u8,
    pub(super) info: u32,
    pub(super) data: u32,
    /// Who sent the ICMP message.
    pub(super) offender: Option<IpAddr>,
}

impl Notes {
    /// Reads control data; what is not understood is left out.
    pub(super) fn parse(control: &[u8]) -> Self {
        let mut notes = Notes::default();
        for (level, kind, data) in ControlMessages(control) {
            match (level, kind) {
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPING) => notes.stamp = parse_stamp(data),
                (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {
                    notes.error = ExtendedError::parse(data);
                }
                (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                    notes.hop_limit = word(data, 0).and_then(|value| u8::try_from(value).ok());
                }
                // struct in6_pktinfo begins with the address.
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    notes.destination = data.first_chunk::<16>().map(|bytes| (*bytes).into());
                }
                _ => {}
            }
        }
        notes
    }
}

impl ExtendedError {
    /// Where the extensions of an ICMP error begin in the message, in bytes, if its length
    /// attribute says so and `IP_RECVERR_RFC4884` is set: the first half of `data`. The rest of it
    /// is the kernel's opinion on them (`struct sock_ee_data_rfc4884`).
    pub(super) fn extensions_at(&self) -> Option<usize> {
        let [first, second, ..] = self.data.to_ne_bytes();
        let offset = u16::from_ne_bytes([first, second]);
        (offset != 0).then_some(offset.into())
    }

    /// errno 4, origin 1, type 1, code 1, padding 1, info 4, data 4; then a socket address.
    fn parse(data: &[u8]) -> Option<Self> {
        Some(ExtendedError {
            number: word(data, 0)?,
            origin: *data.get(4)?,
            kind: *data.get(5)?,
            code: *data.get(6)?,
            info: word(data, 8)?,
            data: word(data, 12)?,
            offender: data.get(16..).and_then(parse_address).map(|address| address.ip()),
        })
    }
}

/// `struct sockaddr_in` or `struct sockaddr_in6`.
pub(super) fn parse_address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*bytes.first_chunk()?);
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    match i32::from(family) {
        libc::AF_INET => {
            let address: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            Some(SocketAddr::new(address.into(), port))
        }
        libc::AF_INET6 => {
            let address: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            Some(SocketAddrV6::new(address.into(), port, 0, word(bytes, 24)?).into())
        }
        _ => None,
    }
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(data.get(at..at + 4)?.try_into().ok()?))
}

/// `struct scm_timestamping`: three times, the first of which is the software's. Seconds and
/// nanoseconds have 8 bytes each, or 4 on old 32-bit systems.
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

/// `SCM_TSTAMP_SND` (linux/errqueue.h): the report is about handing the packet to the device.
const SCM_TSTAMP_SND: u32 = 0;

impl Notes {
    /// Of a send report: which request, counted from the socket's first, and when, in nanoseconds
    /// of the wall clock. `None`: it is about something else.
    pub(super) fn send_report(&self) -> Option<(u32, i64)> {
        let error = self.error?;
        let is_report = error.number == libc::ENOMSG as u32
            && error.origin == libc::SO_EE_ORIGIN_TIMESTAMPING
            && error.info == SCM_TSTAMP_SND;
        if is_report {
            Some((error.data, self.stamp?))
        } else {
            None
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A control message (cmsg(3)) as the kernel writes it.
    pub(in crate::linux) fn message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let mut bytes = (size_of::<usize>() + 8 + data.len()).to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(size_of::<usize>()), 0);
        bytes
    }

    /// Time exceeded from `fd00::7` with remaining hop limit 61.
    fn time_exceeded() -> Vec<u8> {
        let mut error = 113_u32.to_ne_bytes().to_vec();
        error.extend([libc::SO_EE_ORIGIN_ICMP6, 3, 0, 0]);
        error.extend([0; 8]);
        error.extend((libc::AF_INET6 as u16).to_ne_bytes());
        error.extend([0; 6]);
        error.extend("fd00::7".parse::<Ipv6Addr>().expect("address").octets());
        error.extend([0; 4]);
        let mut bytes = message(libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, &61_u32.to_ne_bytes());
        bytes.extend(message(libc::IPPROTO_IPV6, libc::IPV6_RECVERR, &error));
        bytes
    }

    #[test]
    fn an_icmp_error_is_read() {
        let notes = Notes::parse(&time_exceeded());
        assert_eq!(notes.hop_limit, Some(61));
        let error = notes.error.expect("an error");
        assert_eq!(
            (error.origin, error.kind, error.code),
            (libc::SO_EE_ORIGIN_ICMP6, 3, 0)
        );
        assert_eq!(error.offender, Some("fd00::7".parse().expect("address")));
        assert_eq!(notes.send_report(), None);
    }

    #[test]
    fn addresses_are_read() {
        let mut v4 = (libc::AF_INET as u16).to_ne_bytes().to_vec();
        v4.extend([0x82, 0x9A, 192, 0, 2, 1, 0, 0]);
        assert_eq!(
            parse_address(&v4),
            Some("192.0.2.1:33434".parse().expect("address"))
        );
        assert_eq!(parse_address(&[0; 28]), None, "no address");
        for length in 0..8 {
            assert_eq!(parse_address(&v4[..length]), None);
        }
    }

    #[test]
    fn any_control_data_is_survived() {
        let whole = time_exceeded();
        for length in 0..whole.len() {
            let _ = Notes::parse(&whole[..length]);
        }
    }
}
