//! What a read from the driver gives: a header, then the packet from its IP header on.

/// Size of the header, in bytes, in the versions known.
pub(crate) const HEADER_LEN: usize = 72;

/// Offsets in the header.
mod at {
    pub(super) const SIGNATURE: usize = 0x00;
    pub(super) const HEADER_SIZE: usize = 0x08;
    pub(super) const SKIPPED: usize = 0x10;
    pub(super) const PACKET_SIZE: usize = 0x28;
    pub(super) const TIMESTAMP: usize = 0x40;
}

/// One read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Captured<'a> {
    /// Packets that the driver dropped since the last read, because none was posted.
    pub skipped: u64,
    /// When the driver saw the packet, in nanoseconds of the wall clock since 1970.
    pub stamp: u64,
    /// The packet; shorter than on the wire when the buffer was.
    pub packet: &'a [u8],
}

/// Reads what the driver wrote. `None`: too short, no such signature, or a header size that cannot be.
pub(crate) fn parse(bytes: &[u8]) -> Option<Captured<'_>> {
    let header = bytes.get(..HEADER_LEN)?;
    let word = |offset: usize| -> Option<u64> {
        Some(u64::from_le_bytes(
            header.get(offset..offset + 8)?.try_into().ok()?,
        ))
    };
    if word(at::SIGNATURE)? >> 32 != super::signature(0) >> 32 {
        return None;
    }
    // A later version may have a longer header.
    let header_size = usize::try_from(word(at::HEADER_SIZE)?).ok()?;
    if header_size < HEADER_LEN {
        return None;
    }
    let data = bytes.get(header_size..)?;
    // Whether this is the captured or the original length is not known, so neither is trusted alone.
    let packet_size = usize::try_from(word(at::PACKET_SIZE)?).unwrap_or(usize::MAX);
    let packet = data.get(..packet_size).unwrap_or(data);
    Some(Captured {
        skipped: word(at::SKIPPED)?,
        stamp: word(at::TIMESTAMP)?,
        packet,
    })
}

/// A read as the driver would give it, for tests.
#[cfg(test)]
pub(crate) fn sample(skipped: u64, stamp: u64, packet: &[u8]) -> Vec<u8> {
    let fields = [
        super::signature(0x18),
        HEADER_LEN as u64,
        skipped,
        1,
        0,
        packet.len() as u64,
        2,
        u64::MAX,
        stamp,
    ];
    let mut bytes: Vec<u8> = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
    bytes.extend(packet);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_whole_read() {
        let bytes = sample(3, 1_700_000_000_000_000_001, b"packet");
        let expected = Captured {
            skipped: 3,
            stamp: 1_700_000_000_000_000_001,
            packet: b"packet",
        };
        assert_eq!(parse(&bytes), Some(expected));
    }

    #[test]
    fn a_stale_tail_is_cut_and_a_truncated_packet_is_what_is_there() {
        let mut bytes = sample(0, 1, b"packet");
        bytes.extend(b"stale");
        assert_eq!(parse(&bytes).expect("read").packet, b"packet");
        bytes.truncate(HEADER_LEN + 3);
        assert_eq!(parse(&bytes).expect("read").packet, b"pac");
    }

    #[test]
    fn a_longer_header_is_skipped_and_a_shorter_one_refused() {
        let mut bytes = sample(0, 1, b"--------packet");
        bytes[0x08] = 80;
        assert_eq!(parse(&bytes).expect("read").packet, b"packet");
        bytes[0x08] = 64;
        assert_eq!(parse(&bytes), None);
    }

    #[test]
    fn foreign_bytes_are_refused() {
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&[0; 100]), None);
        assert_eq!(parse(&sample(0, 1, b"")[..HEADER_LEN - 1]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn any_header_gives_at_most_what_was_read(
            header_size in prop_oneof![0..200_u64, Just(u64::MAX)],
            packet_size in prop_oneof![0..200_u64, Just(u64::MAX)],
            packet in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut bytes = sample(0, 1, &packet);
            bytes[0x08..0x10].copy_from_slice(&header_size.to_le_bytes());
            bytes[0x28..0x30].copy_from_slice(&packet_size.to_le_bytes());
            if let Some(captured) = parse(&bytes) {
                prop_assert!(captured.packet.len() as u64 <= packet_size.min(packet.len() as u64));
                prop_assert!(packet.ends_with(captured.packet) || packet_size < packet.len() as u64);
            }
        }
    }
}
