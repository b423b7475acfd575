//! What a read from `ddnpm`, the capture driver of the Datadog Agent for Windows, gives: a header,
//! then the packet from its IP header on. All integers are little-endian.
//!
//! [`parse`] is total: what makes no sense gives nothing, and no input makes it panic.

/// Size of the header, in bytes, in the versions known.
pub const HEADER_LEN: usize = 72;

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
pub struct DriverRead<'a> {
    /// Packets that the driver dropped since the last read, because none was posted.
    pub skipped: u64,
    /// When the driver saw the packet, in nanoseconds of the wall clock since 1970.
    pub stamp: u64,
    /// The packet; shorter than on the wire when the buffer was.
    pub packet: &'a [u8],
}

/// What is in front of everything that the driver is given and gives: who it is, and the version of
/// its interface.
pub const fn signature(version: u32) -> u64 {
    const DATADOG: u64 = 0xDDFD;
    DATADOG << 32 | version as u64
}

/// Reads what the driver wrote. `None`: too short, no such signature, or a header size that cannot
/// be.
pub fn parse(bytes: &[u8]) -> Option<DriverRead<'_>> {
    let header = bytes.get(..HEADER_LEN)?;
    let word = |offset: usize| -> Option<u64> {
        Some(u64::from_le_bytes(
            header.get(offset..offset + 8)?.try_into().ok()?,
        ))
    };
    if word(at::SIGNATURE)? >> 32 != signature(0) >> 32 {
        return None;
    }
    // A later version may have a longer header.
    let header_size = usize::try_from(word(at::HEADER_SIZE)?).ok()?;
    if header_size < HEADER_LEN {
        return None;
    }
    let data = bytes.get(header_size..)?;
    // Whether this is the captured or the original length is not known, so neither is trusted
    // alone.
    let packet_size = usize::try_from(word(at::PACKET_SIZE)?).unwrap_or(usize::MAX);
    let packet = data.get(..packet_size).unwrap_or(data);
    Some(DriverRead {
        skipped: word(at::SKIPPED)?,
        stamp: word(at::TIMESTAMP)?,
        packet,
    })
}
