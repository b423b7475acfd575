//! Reads from the Windows driver.

use proptest::prelude::*;
use traceroute_wire::ddnpm::{DriverRead, HEADER_LEN, parse, signature};

use crate::support::packets::driver_read;

#[test]
fn a_whole_read() {
    let bytes = driver_read(3, 1_700_000_000_000_000_001, b"packet");
    let expected = DriverRead {
        skipped: 3,
        stamp: 1_700_000_000_000_000_001,
        packet: b"packet",
    };
    assert_eq!(parse(&bytes), Some(expected));
    assert_eq!(bytes[..8], 0x0000_DDFD_0000_0018_u64.to_le_bytes());
    assert_eq!(signature(0x17), 0x0000_DDFD_0000_0017);
}

#[test]
fn a_stale_tail_is_cut_and_a_truncated_packet_is_what_is_there() {
    let mut bytes = driver_read(0, 1, b"packet");
    bytes.extend(b"stale");
    assert_eq!(parse(&bytes).unwrap().packet, b"packet");
    bytes.truncate(HEADER_LEN + 3);
    assert_eq!(parse(&bytes).unwrap().packet, b"pac");
}

#[test]
fn a_longer_header_is_skipped_and_a_shorter_one_refused() {
    let mut bytes = driver_read(0, 1, b"--------packet");
    bytes[0x08] = 80;
    assert_eq!(parse(&bytes).unwrap().packet, b"packet");
    bytes[0x08] = 64;
    assert_eq!(parse(&bytes), None);
}

#[test]
fn foreign_bytes_are_refused() {
    assert_eq!(parse(&[]), None);
    assert_eq!(parse(&[0; 100]), None);
    assert_eq!(parse(&driver_read(0, 1, b"")[..HEADER_LEN - 1]), None);
}

proptest! {
    #[test]
    fn any_header_gives_at_most_what_was_read(
        header_size in prop_oneof![0..200_u64, Just(u64::MAX)],
        packet_size in prop_oneof![0..200_u64, Just(u64::MAX)],
        packet in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let mut bytes = driver_read(0, 1, &packet);
        bytes[0x08..0x10].copy_from_slice(&header_size.to_le_bytes());
        bytes[0x28..0x30].copy_from_slice(&packet_size.to_le_bytes());
        if let Some(captured) = parse(&bytes) {
            prop_assert!(captured.packet.len() as u64 <= packet_size.min(packet.len() as u64));
            prop_assert!(packet.ends_with(captured.packet) || packet_size < packet.len() as u64);
        }
    }
}
