//! What ordinary sockets deliver: messages without the headers that the kernel has read already.

use traceroute_wire::{Family, IcmpError, ReplyKind, UdpReply, echo_sequence};

#[test]
fn an_echo_reply_of_an_icmp_socket() {
    let message = [0, 0, 0xAB, 0xCD, 0x12, 0x34, 0, 5, 1, 2, 3, 4, 5, 6, 7];
    let expected = ReplyKind::Echo {
        identifier: 0x1234,
        sequence: 5,
        cookie: Some([1, 2, 3, 4, 5, 6]),
    };
    assert_eq!(ReplyKind::from_echo_message(Family::V4, &message), Some(expected));

    let mut v6 = message;
    v6[0] = 129;
    assert_eq!(ReplyKind::from_echo_message(Family::V6, &v6), Some(expected));

    let bare = ReplyKind::Echo {
        identifier: 0x1234,
        sequence: 5,
        cookie: None,
    };
    assert_eq!(
        ReplyKind::from_echo_message(Family::V4, &message[..13]),
        Some(bare)
    );
}

#[test]
fn other_messages_are_no_echo_reply() {
    for kind in 0..=255 {
        let message = [kind, 0, 0, 0, 0, 1, 0, 1];
        assert_eq!(
            ReplyKind::from_echo_message(Family::V4, &message).is_some(),
            kind == 0
        );
        assert_eq!(
            ReplyKind::from_echo_message(Family::V6, &message).is_some(),
            kind == 129
        );
    }
    for len in 0..8 {
        assert_eq!(ReplyKind::from_echo_message(Family::V4, &[0; 8][..len]), None);
    }
}

#[test]
fn the_sequence_number_of_a_message() {
    assert_eq!(echo_sequence(&[8, 0, 0, 0, 1, 2, 3, 4, 5]), Some(0x0304));
    assert_eq!(echo_sequence(&[8, 0, 0, 0, 1, 2, 3]), None);
}

#[test]
fn a_datagram_of_a_udp_socket() {
    let echoed = [b"NSMNC".as_slice(), &[0, 0x56, 0x78]].concat();
    for (family, payload, identification) in [
        (Family::V4, echoed.as_slice(), Some(0x5678)),
        (Family::V6, echoed.as_slice(), None),
        (Family::V4, b"hello, world", None),
        (Family::V4, b"", None),
    ] {
        let expected = UdpReply {
            source_port: 53,
            destination_port: 40000,
            payload_len: 1400,
            echoed: identification,
        };
        assert_eq!(
            ReplyKind::from_datagram(family, 53, 40000, payload, 1400),
            ReplyKind::Udp(expected)
        );
    }
}

/// RFC 792 and RFC 4443; code 1 of time exceeded is about reassembly.
#[test]
fn types_and_codes_of_errors() {
    for kind in 0..=255 {
        for code in 0..=255 {
            let unreachable = Some(IcmpError::Unreachable { code });
            let v4 = match (kind, code) {
                (11, 0) => Some(IcmpError::TimeExceeded),
                (3, _) => unreachable,
                _ => None,
            };
            let v6 = match (kind, code) {
                (3, 0) => Some(IcmpError::TimeExceeded),
                (1, _) => unreachable,
                _ => None,
            };
            assert_eq!(IcmpError::from_type_and_code(Family::V4, kind, code), v4);
            assert_eq!(IcmpError::from_type_and_code(Family::V6, kind, code), v6);
        }
    }
}
