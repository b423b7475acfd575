//! What the ICMP API of Windows (`IcmpSendEcho2Ex`, `Icmp6SendEcho2`) answers: bytes and numbers,
//! without a call to it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use traceroute_engine::MatchedReply;
use traceroute_wire::{Family, IcmpError};

/// Offsets in the reply structures of 64-bit systems, `ICMP_ECHO_REPLY` and `ICMPV6_ECHO_REPLY`.
pub(crate) mod at {
    pub(crate) const V4_ADDRESS: usize = 0;
    pub(crate) const V4_STATUS: usize = 4;
    pub(crate) const V6_ADDRESS: usize = 6;
    pub(crate) const V6_STATUS: usize = 28;
}

/// winerror.h.
pub(crate) const ERROR_IO_PENDING: u32 = 997;

/// What became of the start of an asynchronous request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// It is under way: the system calls back.
    Pending,
    /// It is not, for this reason. The system has nothing of it.
    Failed(u32),
    /// Nobody knows: the system may call back or not, and write to the reply buffer until then.
    Unclear(u32),
}

impl Start {
    /// What a return value means, and the last error if that is asked for. Documented are
    /// `ERROR_IO_PENDING`, and 0 with the reason as the last error. Systems return 0 also when the
    /// request is under way: then the last error is `ERROR_IO_PENDING`.
    pub(crate) fn of(result: u32, last_error: impl FnOnce() -> u32) -> Self {
        match result {
            ERROR_IO_PENDING => Start::Pending,
            0 => match last_error() {
                ERROR_IO_PENDING => Start::Pending,
                error => Start::Failed(error),
            },
            other => Start::Unclear(other),
        }
    }
}

/// Reads a reply buffer that was all zeros before the request. `parsed`: the API's own function
/// found a reply in it. It finds echo replies and messages that a TTL ran out. Other errors are
/// there all the same, with who sent them; so without its word they count, but only those. `None`:
/// nobody has answered.
pub(crate) fn answer(buffer: &[u8], family: Family, parsed: bool) -> Option<MatchedReply> {
    let (from, status) = match family {
        Family::V4 => {
            let octets: [u8; 4] = array(buffer, at::V4_ADDRESS)?;
            (IpAddr::V4(Ipv4Addr::from(octets)), array(buffer, at::V4_STATUS)?)
        }
        Family::V6 => {
            let octets: [u8; 16] = array(buffer, at::V6_ADDRESS)?;
            (Ipv6Addr::from(octets).into(), array(buffer, at::V6_STATUS)?)
        }
    };
    if from.is_unspecified() {
        return None;
    }
    match EchoStatus::of(u32::from_ne_bytes(status), family) {
        EchoStatus::Reply => parsed.then_some(MatchedReply::new(from, None)),
        EchoStatus::Error(error) => Some(MatchedReply::new(from, Some(error))),
        EchoStatus::Nothing => None,
    }
}

fn array<const N: usize>(buffer: &[u8], offset: usize) -> Option<[u8; N]> {
    buffer.get(offset..)?.first_chunk().copied()
}

/// What a status of the ICMP API (`IcmpSendEcho2`) means. The same numbers have different names in
/// IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EchoStatus {
    /// The target's echo reply.
    Reply,
    /// An ICMP error.
    Error(IcmpError),
    /// Nothing came in time, or the request was not sent.
    Nothing,
}

impl EchoStatus {
    fn of(status: u32, family: Family) -> Self {
        let code = match family {
            Family::V4 => v4_code(status),
            Family::V6 => v6_code(status),
        };
        match (status, code) {
            (0, _) => EchoStatus::Reply,
            // IP_TTL_EXPIRED_TRANSIT, IP_TIME_EXCEEDED.
            (11_013 | 11_041, _) => EchoStatus::Error(IcmpError::TimeExceeded),
            (_, Some(code)) => EchoStatus::Error(IcmpError::Unreachable { code }),
            _ => EchoStatus::Nothing,
        }
    }
}

/// Network, host, protocol and port unreachable, fragmentation needed (RFC 792).
fn v4_code(status: u32) -> Option<u8> {
    match status {
        11_002 => Some(0),
        11_003 => Some(1),
        11_004 => Some(2),
        11_005 => Some(3),
        11_009 => Some(4),
        _ => None,
    }
}

/// No route (or not known why), administratively prohibited, beyond scope, address and port
/// unreachable (RFC 4443 §3.1).
fn v6_code(status: u32) -> Option<u8> {
    match status {
        11_002 | 11_040 => Some(0),
        11_004 => Some(1),
        11_045 => Some(2),
        11_003 => Some(3),
        11_005 => Some(4),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_is_documented_is_taken_for_pending_or_failed() {
        let never = || panic!("not asked for");
        assert_eq!(Start::of(ERROR_IO_PENDING, never), Start::Pending);
        assert_eq!(Start::of(0, || ERROR_IO_PENDING), Start::Pending);
        assert_eq!(Start::of(0, || 87), Start::Failed(87));
        assert_eq!(Start::of(1, never), Start::Unclear(1));
    }

    /// A reply buffer, written as ipexport.h describes it.
    fn v4_reply(address: [u8; 4], status: u32) -> Vec<u8> {
        let mut buffer = address.to_vec();
        buffer.extend(status.to_ne_bytes());
        // Round-trip time, length of the data, reserved.
        buffer.extend(12_u32.to_ne_bytes());
        buffer.extend([8, 0, 1, 0]);
        buffer.resize(512, 0);
        buffer
    }

    /// A packed socket address without its family, then status and round-trip time.
    fn v6_reply(address: Ipv6Addr, status: u32) -> Vec<u8> {
        let mut buffer = vec![0; 6];
        buffer.extend(address.octets());
        buffer.extend(0_u32.to_ne_bytes());
        // The status is aligned.
        buffer.extend([0; 2]);
        buffer.extend(status.to_ne_bytes());
        buffer.extend(12_u32.to_ne_bytes());
        buffer.resize(512, 0);
        buffer
    }

    const ROUTER: [u8; 4] = [192, 0, 2, 1];
    const ROUTER_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

    /// What a router's answer with this status is read as.
    fn read(family: Family, status: u32, parsed: bool) -> Option<MatchedReply> {
        let buffer = match family {
            Family::V4 => v4_reply(ROUTER, status),
            Family::V6 => v6_reply(ROUTER_6, status),
        };
        answer(&buffer, family, parsed)
    }

    fn answered(family: Family, error: Option<IcmpError>) -> MatchedReply {
        let from = match family {
            Family::V4 => ROUTER.into(),
            Family::V6 => ROUTER_6.into(),
        };
        MatchedReply::new(from, error)
    }

    const PROHIBITED_OR_HOST: Option<IcmpError> = Some(IcmpError::Unreachable { code: 1 });

    #[test]
    fn replies_and_errors_are_read_with_who_sent_them() {
        for (family, unreachable) in [(Family::V4, 11_003), (Family::V6, 11_004)] {
            for (status, error) in [
                (0, None),
                (11_013, Some(IcmpError::TimeExceeded)),
                (unreachable, PROHIBITED_OR_HOST),
            ] {
                assert_eq!(
                    read(family, status, true),
                    Some(answered(family, error)),
                    "{status}"
                );
            }
        }
    }

    #[test]
    fn errors_that_the_api_does_not_parse_count_all_the_same() {
        for (family, unreachable) in [(Family::V4, 11_003), (Family::V6, 11_004)] {
            let expected = answered(family, PROHIBITED_OR_HOST);
            assert_eq!(read(family, unreachable, false), Some(expected));
            // Success is the API's to find; and IP_REQ_TIMED_OUT.
            assert_eq!(read(family, 0, false), None);
            assert_eq!(read(family, 11_010, false), None);
        }
    }

    #[test]
    fn a_buffer_that_nobody_wrote_to_or_that_has_no_address_is_no_answer() {
        for family in Family::ALL {
            for parsed in [false, true] {
                assert_eq!(answer(&[0; 512], family, parsed), None);
                assert_eq!(answer(&[1; 20], Family::V6, parsed), None, "too short");
            }
        }
        assert_eq!(answer(&v4_reply([0; 4], 11_013), Family::V4, false), None);
        assert_eq!(
            answer(&v6_reply(Ipv6Addr::UNSPECIFIED, 11_003), Family::V6, false),
            None
        );
    }

    #[test]
    fn the_same_status_differs_by_family() {
        let code = |status, family| match EchoStatus::of(status, family) {
            EchoStatus::Error(IcmpError::Unreachable { code }) => Some(code),
            _ => None,
        };
        let v4: Vec<_> = [11_002, 11_003, 11_004, 11_005, 11_009, 11_010]
            .map(|status| code(status, Family::V4))
            .into();
        assert_eq!(v4, [Some(0), Some(1), Some(2), Some(3), Some(4), None]);
        let v6: Vec<_> = [11_002, 11_003, 11_004, 11_005, 11_045, 11_010]
            .map(|status| code(status, Family::V6))
            .into();
        assert_eq!(v6, [Some(0), Some(3), Some(1), Some(4), Some(2), None]);
        for family in Family::ALL {
            assert_eq!(EchoStatus::of(0, family), EchoStatus::Reply);
            let expired = EchoStatus::Error(IcmpError::TimeExceeded);
            assert_eq!(EchoStatus::of(11_013, family), expired);
        }
    }

    fn family() -> impl Strategy<Value = Family> {
        prop::sample::select(&Family::ALL[..])
    }

    proptest! {
        #[test]
        fn any_status_means_something_and_only_0_a_reply(status: u32, family in family()) {
            let is_reply = EchoStatus::of(status, family) == EchoStatus::Reply;
            prop_assert_eq!(is_reply, status == 0);
        }

        #[test]
        fn any_buffer_is_survived(buffer: Vec<u8>, family in family(), parsed: bool) {
            let _ = answer(&buffer, family, parsed);
        }
    }
}
