//! ICMP errors on a socket's error queue (ip(7), `IP_RECVERR`; recvmsg(2), `MSG_ERRQUEUE`): the
//! error's type, code and sender, its TTL, and the quoted packet behind the headers that are the
//! kernel's business.

use std::net::IpAddr;
use std::os::fd::AsFd;

use socket2::Socket;
use traceroute_engine::MatchedReply;
use traceroute_wire::{Family, IcmpError, MplsStack};

use super::super::sys;
use super::sys::Message;

/// Linux 5.9 (linux/in.h): report where the extensions of RFC 4884 begin.
const IP_RECVERR_RFC4884: libc::c_int = 26;
/// The same for IPv6 (linux/in6.h).
const IPV6_RECVERR_RFC4884: libc::c_int = 31;

const UDP_HEADER_LEN: usize = 8;

/// How many bytes of a quote are missing on the error queue: the IP header and, on UDP sockets, the
/// UDP header. None of our packets has IP options or extension headers.
pub(super) fn missing_headers(local: IpAddr, is_udp: bool) -> usize {
    let ip = if local.is_ipv4() { 20 } else { 40 };
    if is_udp { ip + UDP_HEADER_LEN } else { ip }
}

/// Has the kernel queue ICMP errors about what this socket sends, with all that it tells of them.
pub(super) fn request(socket: &Socket, local: IpAddr) -> std::io::Result<()> {
    let (level, errors, hop_limit, extensions) = match local {
        IpAddr::V4(_) => (
            libc::IPPROTO_IP,
            libc::IP_RECVERR,
            libc::IP_RECVTTL,
            IP_RECVERR_RFC4884,
        ),
        IpAddr::V6(_) => (
            libc::IPPROTO_IPV6,
            libc::IPV6_RECVERR,
            libc::IPV6_RECVHOPLIMIT,
            IPV6_RECVERR_RFC4884,
        ),
    };
    sys::set_option(socket.as_fd(), level, errors, 1_i32)?;
    // Improvements only.
    let _ = sys::set_option(socket.as_fd(), level, hop_limit, 1_i32);
    let _ = sys::set_option(socket.as_fd(), level, extensions, 1_i32);
    Ok(())
}

/// What an entry of an error queue tells of a probe. `missing`: [`missing_headers`] of the socket.
/// `None`: it is no ICMP error that answers a probe.
pub(super) fn answer(message: &Message<'_>, missing: usize) -> Option<MatchedReply> {
    let error = message.notes.error?;
    let family = match error.origin {
        libc::SO_EE_ORIGIN_ICMP => Family::V4,
        libc::SO_EE_ORIGIN_ICMP6 => Family::V6,
        _ => return None,
    };
    let kind = IcmpError::from_type_and_code(family, error.kind, error.code)?;
    Some(MatchedReply {
        from: error.offender?,
        error: Some(kind),
        // Of the ICMP message itself: the kernel keeps its IP header with the entry.
        reply_ttl: message.notes.hop_limit.unwrap_or(0),
        mpls: MplsStack::without_headers(message.data, missing, error.extensions_at()),
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::cmsg::{ExtendedError, Notes};
    use super::*;

    /// An entry about an error from 192.0.2.1 that arrived with TTL 61.
    fn entry(data: &[u8], origin: u8, kind: u8, code: u8, extensions_at: [u8; 4]) -> Message<'_> {
        let error = ExtendedError {
            number: 113,
            origin,
            kind,
            code,
            info: 0,
            data: u32::from_ne_bytes(extensions_at),
            offender: Some("192.0.2.1".parse().expect("address")),
        };
        Message {
            data,
            len: data.len(),
            peer: None,
            notes: Notes {
                stamp: None,
                hop_limit: Some(61),
                error: Some(error),
                ..Notes::default()
            },
        }
    }

    #[test]
    fn only_icmp_errors_that_answer_probes_count() {
        let error = |origin, kind, code| {
            let answer = answer(&entry(b"", origin, kind, code, [0; 4]), 28)?;
            assert_eq!((answer.reply_ttl, answer.mpls.is_empty()), (61, true));
            answer.error
        };
        let (v4, v6) = (libc::SO_EE_ORIGIN_ICMP, libc::SO_EE_ORIGIN_ICMP6);
        assert_eq!(error(v4, 11, 0), Some(IcmpError::TimeExceeded));
        assert_eq!(error(v6, 3, 0), Some(IcmpError::TimeExceeded));
        assert_eq!(error(v4, 3, 13), Some(IcmpError::Unreachable { code: 13 }));
        assert_eq!(error(v6, 1, 4), Some(IcmpError::Unreachable { code: 4 }));
        assert_eq!(error(v4, 11, 1), None, "reassembly");
        assert_eq!(error(v6, 2, 0), None, "too big");
        assert_eq!(error(libc::SO_EE_ORIGIN_LOCAL, 11, 0), None, "not ICMP");
    }

    #[test]
    fn labels_are_where_the_kernel_says_or_behind_128_quoted_bytes() {
        let labels = |padding: usize, missing, extensions_at| {
            let mut data = vec![0; padding];
            data.extend(b"\x20\0\xCA\x0D\0\x08\x01\x01\x03\xE8\x11\x01");
            let entry = entry(&data, libc::SO_EE_ORIGIN_ICMP, 11, 0, extensions_at);
            let mpls = answer(&entry, missing).expect("an answer").mpls;
            mpls.labels().map(|entry| entry.label).collect::<Vec<_>>()
        };
        let at = |offset: u16| {
            let [first, second] = offset.to_ne_bytes();
            [first, second, 0, 0]
        };
        let v4: IpAddr = [192, 0, 2, 1].into();
        let v6: IpAddr = [0; 16].into();
        for (padding, local, is_udp) in [(100, v4, true), (108, v4, false), (80, v6, true), (88, v6, false)] {
            let missing = missing_headers(local, is_udp);
            assert_eq!(labels(padding, missing, at(0)), [16001], "{padding}");
            assert_eq!(labels(padding, missing, at(padding as u16)), [16001], "{padding}");
            assert!(labels(padding + 4, missing, at(0)).is_empty(), "{padding}");
        }
        assert_eq!(labels(200, 28, at(200)), [16001], "a longer quote");
        assert_eq!(labels(96, 28, at(96)), [16001], "a quote with IP options");
        for wrong in [1, 99, 101, 112, 113, u16::MAX] {
            assert!(labels(100, 28, at(wrong)).is_empty(), "{wrong}");
        }
    }
}
