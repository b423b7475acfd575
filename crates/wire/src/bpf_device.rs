//! What a BPF device delivers: packets with a link-layer header, in records (bpf(4) of macOS and
//! the BSDs).
//!
//! [`Records`] walks what one read(2) returned, [`LinkType`] knows what is in front of the IP
//! header. Both are total: what makes no sense is left out, and no input makes them panic.

use crate::Family;
use crate::filter::{self, FilterParameters, Instruction};

/// `struct bpf_hdr` with 32-bit times, as 64-bit macOS has it: seconds, microseconds, captured
/// length, original length (4 bytes each), length of this header (2 bytes). Longer in the buffer
/// when padding aligns the network header.
const HEADER_LEN: usize = 18;
/// `BPF_ALIGNMENT`: records start at multiples of it. `sizeof(int32_t)` on macOS, 64-bit or not.
const ALIGNMENT: usize = 4;

/// One captured frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// When it was seen, in nanoseconds of the wall clock; whole microseconds.
    pub stamp: i64,
    /// From the link-layer header on, as far as it was captured.
    pub frame: &'a [u8],
}

/// The records in a buffer that a BPF device has filled, in this machine's byte order.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// Walks what was read; ends at the first record that makes no sense.
    pub fn new(buffer: &'a [u8]) -> Self {
        Records { rest: buffer }
    }

    /// What is left to walk.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        // Whatever is wrong with this record, nothing after it can be found.
        let buffer = std::mem::take(&mut self.rest);
        let header: &[u8; HEADER_LEN] = buffer.first_chunk()?;
        let word = |at: usize| {
            let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
            u32::from_ne_bytes(bytes)
        };
        let captured = word(8) as usize;
        let header_len = usize::from(u16::from_ne_bytes([header[16], header[17]]));
        if header_len < HEADER_LEN {
            return None;
        }
        let end = header_len.checked_add(captured)?;
        let frame = buffer.get(header_len..end)?;
        // The last record's padding may be missing.
        self.rest = buffer.get(end.next_multiple_of(ALIGNMENT)..).unwrap_or(&[]);
        Some(Record {
            stamp: i64::from(word(0)) * 1_000_000_000 + i64::from(word(4)) * 1_000,
            frame,
        })
    }
}

/// What is in front of the IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkType {
    /// Address family in the byte order of the host: loopback, gif, most utun interfaces.
    Null,
    /// Ethernet, with or without VLAN tags: also Wi-Fi, bridges, VLAN interfaces.
    Ethernet,
    /// PPP with its address and control fields (RFC 1662).
    Ppp,
    /// Nothing: some utun and ipsec interfaces.
    Raw,
    /// Address family in network byte order.
    Loop,
}

const ETHERTYPE_AT: usize = 12;
const VLAN_TAG_LEN: usize = 4;
/// IEEE 802.1Q and 802.1ad.
const VLAN_ETHERTYPES: [u16; 2] = [0x8100, 0x88A8];
/// More would be an attempt to waste time.
const MAX_VLAN_TAGS: usize = 2;

impl LinkType {
    /// From what `BIOCGDLT` says (`net/bpf.h` of macOS). `None`: of no use here.
    pub fn from_dlt(dlt: u32) -> Option<Self> {
        match dlt {
            0 => Some(LinkType::Null),
            1 => Some(LinkType::Ethernet),
            9 => Some(LinkType::Ppp),
            12 => Some(LinkType::Raw),
            108 => Some(LinkType::Loop),
            _ => None,
        }
    }

    /// Bytes in front of the IP header; without VLAN tags.
    pub fn header_len(self) -> usize {
        match self {
            LinkType::Null | LinkType::Loop | LinkType::Ppp => 4,
            LinkType::Ethernet => ETHERTYPE_AT + 2,
            LinkType::Raw => 0,
        }
    }

    /// The IP packet in a frame; `None` when there is none.
    pub fn packet(self, frame: &[u8]) -> Option<&[u8]> {
        let (version, packet) = match self {
            LinkType::Null | LinkType::Loop => {
                let (family, packet) = frame.split_first_chunk()?;
                (family_version(*family)?, packet)
            }
            LinkType::Ethernet => ethernet(frame)?,
            LinkType::Ppp => {
                let ([0xFF, 0x03, high, low], packet) = frame.split_first_chunk()? else {
                    return None;
                };
                // RFC 1332 and RFC 5072.
                match u16::from_be_bytes([*high, *low]) {
                    0x0021 => (4, packet),
                    0x0057 => (6, packet),
                    _ => return None,
                }
            }
            LinkType::Raw => (frame.first()? >> 4, frame),
        };
        (matches!(version, 4 | 6) && packet.first()? >> 4 == version).then_some(packet)
    }

    /// The program that lets through those of these frames that [`decode()`](crate::decode()) could
    /// understand.
    ///
    /// `snap_len`: bytes of a packet to capture, link-layer header not included.
    pub fn program(self, family: Family, port_blocks: &[u8], snap_len: u32) -> Vec<Instruction> {
        let behind = |link_header_len: usize| {
            filter::program(&FilterParameters {
                family,
                port_blocks,
                link_header_len: link_header_len as u32,
                snap_len: snap_len + link_header_len as u32,
                segment_snap_len: snap_len + link_header_len as u32,
            })
        };
        let plain = behind(self.header_len());
        if self != LinkType::Ethernet {
            return plain;
        }
        let tagged = behind(self.header_len() + VLAN_TAG_LEN);
        let mut program = vec![Instruction {
            code: filter::op::LOAD_HALF,
            jt: 0,
            jf: 0,
            k: ETHERTYPE_AT as u32,
        }];
        // A program has at most 60 instructions, so the one behind it is within reach of a jump.
        for (i, ethertype) in VLAN_ETHERTYPES.into_iter().enumerate() {
            program.push(Instruction {
                code: filter::op::JUMP_EQUAL,
                jt: (VLAN_ETHERTYPES.len() - 1 - i + plain.len()) as u8,
                jf: 0,
                k: u32::from(ethertype),
            });
        }
        program.extend(plain);
        program.extend(tagged);
        program
    }
}

/// The IP version of an address family, in whichever byte order; IPv6's number differs between the
/// BSDs, and they read each other's captures.
fn family_version(family: [u8; 4]) -> Option<u8> {
    let ([number, 0, 0, 0] | [0, 0, 0, number]) = family else {
        return None;
    };
    match number {
        2 => Some(4),
        24 | 28 | 30 => Some(6),
        _ => None,
    }
}

/// The IP version and what is behind the Ethernet header.
fn ethernet(frame: &[u8]) -> Option<(u8, &[u8])> {
    let mut rest = frame.get(ETHERTYPE_AT..)?;
    for _ in 0..=MAX_VLAN_TAGS {
        let (ethertype, behind) = rest.split_first_chunk()?;
        match u16::from_be_bytes(*ethertype) {
            0x0800 => return Some((4, behind)),
            0x86DD => return Some((6, behind)),
            other if VLAN_ETHERTYPES.contains(&other) => rest = behind.get(2..)?,
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: [u8; 4] = [0x45, 0, 0, 20];
    const V6: [u8; 4] = [0x60, 0, 0, 0];

    fn record(header_len: u16, frame: &[u8]) -> Vec<u8> {
        let mut bytes = 1_700_000_000_u32.to_ne_bytes().to_vec();
        bytes.extend(123_456_u32.to_ne_bytes());
        bytes.extend((frame.len() as u32).to_ne_bytes());
        bytes.extend(1_500_u32.to_ne_bytes());
        bytes.extend(header_len.to_ne_bytes());
        bytes.resize(usize::from(header_len), 0xEE);
        bytes.extend(frame);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0xEE);
        bytes
    }

    fn frames(buffer: &[u8]) -> Vec<&[u8]> {
        Records::new(buffer).map(|record| record.frame).collect()
    }

    #[test]
    fn records_of_ethernet_and_loopback_are_walked() {
        // macOS: 18 bytes in front of Ethernet's 14, 20 in front of the loopback interface's 4.
        let buffer = [record(18, b"first"), record(20, b""), record(18, b"third.")].concat();
        assert_eq!(frames(&buffer), [&b"first"[..], b"", b"third."]);
        let first = Records::new(&buffer).next().expect("a record");
        assert_eq!(first.stamp, 1_700_000_000_123_456_000);
    }

    #[test]
    fn the_last_record_may_lack_its_padding() {
        let mut buffer = record(18, b"x");
        buffer.truncate(19);
        assert_eq!(frames(&buffer), [b"x"]);
    }

    #[test]
    fn a_record_that_makes_no_sense_ends_the_walk() {
        let good = record(18, b"good");
        for header_len in [0, 4, 17, u16::MAX] {
            let mut bad = record(18, b"bad");
            bad[16..18].copy_from_slice(&header_len.to_ne_bytes());
            assert_eq!(
                frames(&[&good[..], &bad, &good].concat()),
                [b"good"],
                "{header_len}"
            );
        }
        for captured in [100, u32::MAX] {
            let mut bad = record(18, b"bad");
            bad[8..12].copy_from_slice(&captured.to_ne_bytes());
            assert_eq!(frames(&[&good[..], &bad].concat()), [b"good"], "{captured}");
        }
        assert_eq!(frames(&good[..17]), [b""; 0]);
    }

    #[test]
    fn the_header_in_front_of_the_packet_is_stripped() {
        let behind = |header: &[u8], packet: &[u8]| [header, packet].concat();
        let ethernet = |rest: &[u8], packet: &[u8]| [&[7; 12], rest, packet].concat();
        for (link, frame, packet) in [
            (LinkType::Null, behind(&[2, 0, 0, 0], &V4), V4),
            (LinkType::Null, behind(&[30, 0, 0, 0], &V6), V6),
            (LinkType::Null, behind(&[0, 0, 0, 30], &V6), V6),
            (LinkType::Loop, behind(&[0, 0, 0, 2], &V4), V4),
            (LinkType::Loop, behind(&[0, 0, 0, 24], &V6), V6),
            (LinkType::Ppp, behind(&[0xFF, 3, 0, 0x21], &V4), V4),
            (LinkType::Ppp, behind(&[0xFF, 3, 0, 0x57], &V6), V6),
            (LinkType::Raw, V4.to_vec(), V4),
            (LinkType::Raw, V6.to_vec(), V6),
            (LinkType::Ethernet, ethernet(&[8, 0], &V4), V4),
            (LinkType::Ethernet, ethernet(&[0x86, 0xDD], &V6), V6),
            (LinkType::Ethernet, ethernet(&[0x81, 0, 0, 5, 8, 0], &V4), V4),
            (
                LinkType::Ethernet,
                ethernet(&[0x88, 0xA8, 0, 5, 0x81, 0, 0, 6, 0x86, 0xDD], &V6),
                V6,
            ),
        ] {
            assert_eq!(link.packet(&frame), Some(&packet[..]), "{link:?} {frame:x?}");
        }
    }

    #[test]
    fn frames_without_a_packet_have_none() {
        for (link, frame) in [
            (LinkType::Null, &[2, 0, 0, 0][..]),
            (LinkType::Null, &[2, 0, 0]),
            (LinkType::Null, &[16, 0, 0, 0, 0x45]),
            (LinkType::Null, &[30, 0, 0, 0, 0x45]),
            (LinkType::Null, &[2, 0, 0, 1, 0x45]),
            (LinkType::Ppp, &[0xFF, 3, 0xC0, 0x21, 0x45]),
            (LinkType::Ppp, &[0x21, 0x45, 0, 0, 0]),
            (LinkType::Raw, &[]),
            (LinkType::Raw, &[0x50]),
            (LinkType::Ethernet, &[0; 13]),
            (LinkType::Ethernet, &[0; 40]),
            (LinkType::Ethernet, &[8; 14]),
            (LinkType::Ethernet, &[0x81; 60]),
        ] {
            assert_eq!(link.packet(frame), None, "{link:?} {frame:x?}");
        }
    }

    #[test]
    fn link_types_have_the_numbers_of_macos() {
        let known: Vec<u32> = (0..300)
            .filter(|dlt| LinkType::from_dlt(*dlt).is_some())
            .collect();
        assert_eq!(known, [0, 1, 9, 12, 108]);
    }
}
