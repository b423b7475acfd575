//! Properties that hold for all packets.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::input::Input;
use crate::support::targets;

fn bytes(len: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..len)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn encoded_probes_are_complete_and_come_back_from_quotes(data in vec(any::<u8>(), 40..80)) {
        targets::encode(&data);
    }

    #[test]
    fn any_bytes_decode_without_panic(data in bytes(300)) {
        targets::any_packet(&data);
    }

    #[test]
    fn any_bytes_with_an_ip_header_decode_without_panic(
        v4: bool,
        protocol in prop::sample::select(&[0u8, 1, 6, 17, 43, 44, 58, 60]),
        payload in bytes(200),
    ) {
        let packet = if v4 {
            let mut packet = vec![0x45, 0, 0, 20 + payload.len() as u8 % 200, 0, 1, 0, 0, 9, protocol, 0, 0];
            packet.extend([192, 0, 2, 1, 192, 0, 2, 2]);
            packet.extend(&payload);
            packet
        } else {
            let mut packet = vec![0x60, 0, 0, 0, 0, payload.len() as u8, protocol, 9];
            packet.extend([7; 32]);
            packet.extend(&payload);
            packet
        };
        targets::any_packet(&packet);
        targets::check_filter(&packet, &[0, 1, 0x80, 0xFF], 14);
    }

    #[test]
    fn any_quote_decodes_or_is_ignored(data in bytes(300)) {
        targets::quoted(&data);
    }

    #[test]
    fn damaged_replies_decode_without_panic(data in vec(any::<u8>(), 60..200)) {
        targets::mutate_reply(&data);
    }

    #[test]
    fn filter_accepts_replies_to_its_ports(
        data in vec(any::<u8>(), 60..300),
        blocks in vec(any::<u8>(), 0..256),
        link in prop::sample::select(&[0u32, 4, 14]),
    ) {
        let reply = targets::valid_reply(&mut Input(&data));
        targets::check_filter(&reply, &blocks, link);
        targets::filter(&data);
    }
}
