//! Properties that hold for all packets.

use proptest::collection::vec;
use proptest::prelude::*;

use traceroute_wire::Family;
use traceroute_wire::bpf_device::{LinkType, Records};

use crate::support::input::Input;
use crate::support::{bpf, packets, targets};

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
    fn any_bytes_from_a_bpf_device_are_walked_without_panic(data in bytes(300)) {
        targets::bpf_records(&data);
    }

    #[test]
    fn what_a_bpf_device_delivers_comes_back(
        link in prop::sample::select(&targets::LINK_TYPES),
        replies in vec((vec(any::<u8>(), 60..200), any::<bool>(), 18..24u16), 0..8),
    ) {
        let packets: Vec<_> = replies.iter().map(|(data, ..)| targets::valid_reply(&mut Input(data))).collect();
        let buffer: Vec<u8> = replies
            .iter()
            .zip(&packets)
            .flat_map(|((_, tagged, header_len), packet)| {
                packets::bpf_record(*header_len, &packets::frame(link, *tagged, packet))
            })
            .collect();
        let found: Vec<_> = Records::new(&buffer).map(|record| link.packet(record.frame).unwrap()).collect();
        prop_assert_eq!(found, packets);
    }

    #[test]
    fn the_filter_of_a_link_sees_through_its_header(
        link in prop::sample::select(&targets::LINK_TYPES),
        tagged: bool,
        data in vec(any::<u8>(), 60..200),
        blocks in vec(any::<u8>(), 0..256),
    ) {
        let packet = targets::valid_reply(&mut Input(&data));
        let frame = packets::frame(link, tagged, &packet);
        for family in [Family::V4, Family::V6] {
            let alone = bpf::run(&LinkType::Raw.program(family, &blocks, 1500), &packet) != 0;
            let framed = bpf::run(&link.program(family, &blocks, 1500), &frame);
            prop_assert_eq!(framed != 0, alone);
            let header_len = frame.len() - packet.len();
            prop_assert!(framed == 0 || framed as usize == 1500 + header_len);
        }
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
