//! TCP: the two kinds of probes, their quote, and the target's segments.

use crate::checksum::Sum;
use crate::ip::Segment;
use crate::layout::{QUOTED_TRANSPORT_LEN, protocol, tcp, u8_at, u16_at, u32_at};
use crate::writer::Writer;
use crate::{Checksums, Ignored, Probe, QuotedTransport, SackInfo, TcpFlags, TcpReply, TcpTimestamps};

/// Window of all probes, in bytes.
const WINDOW: u16 = 1024;

/// Option kinds (RFC 9293 §3.1, RFC 2018 §2 and §3, RFC 7323 §3.2).
mod option {
    pub(super) const END: u8 = 0;
    pub(super) const NO_OPERATION: u8 = 1;
    pub(super) const SACK_PERMITTED: u8 = 4;
    pub(super) const SACK: u8 = 5;
    pub(super) const TIMESTAMPS: u8 = 8;
    /// Length of the timestamps option, kind and length bytes included.
    pub(super) const TIMESTAMPS_LEN: u8 = 10;
}

/// What the two kinds of probes differ in.
pub(crate) struct ProbeSegment {
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) sequence: u32,
    /// Without it, a SYN.
    pub(crate) acknowledgment: Option<u32>,
    pub(crate) timestamps: Option<TcpTimestamps>,
    /// A byte of data, which the target's application gets at once (PSH).
    pub(crate) data: Option<u8>,
}

/// Bytes of a probe's header with its options.
pub(crate) fn header_len(timestamps: Option<TcpTimestamps>) -> usize {
    let options = if timestamps.is_some() { 12 } else { 0 };
    tcp::HEADER_LEN + options
}

/// Writes a TCP probe.
pub(crate) fn write(out: &mut Writer<'_>, probe: &Probe, segment: &ProbeSegment) -> Option<()> {
    let push = if segment.data.is_some() { tcp::PSH } else { 0 };
    let flags = match segment.acknowledgment {
        Some(_) => tcp::ACK | push,
        None => tcp::SYN | push,
    };
    // Data offset in 32-bit words, in the high half of its byte.
    let header_words = (header_len(segment.timestamps) / 4) as u8;
    out.put_u16(segment.source_port)?;
    out.put_u16(segment.destination_port)?;
    out.put_u32(segment.sequence)?;
    out.put_u32(segment.acknowledgment.unwrap_or(0))?;
    out.put(&[header_words << 4, flags])?;
    out.put_u16(WINDOW)?;
    // Checksum, for now, and urgent pointer.
    out.put_u32(0)?;
    if let Some(timestamps) = segment.timestamps {
        out.put(&[option::NO_OPERATION, option::NO_OPERATION])?;
        out.put(&[option::TIMESTAMPS, option::TIMESTAMPS_LEN])?;
        out.put_u32(timestamps.value)?;
        out.put_u32(timestamps.echo)?;
    }
    if let Some(data) = segment.data {
        out.put(&[data])?;
    }
    let bytes = out.written();
    let checksum = Sum::default()
        .pseudo_header(probe.source, probe.destination, protocol::TCP, bytes.len())
        .bytes(bytes)
        .checksum();
    out.set_u16(tcp::CHECKSUM, checksum)
}

/// Reads the start of a quoted segment, and of what follows it the timestamp.
pub(crate) fn quoted(header: &[u8; QUOTED_TRANSPORT_LEN], rest: &[u8]) -> QuotedTransport {
    QuotedTransport::Tcp {
        source_port: u16_at::<{ tcp::SOURCE_PORT }, _>(header),
        destination_port: u16_at::<{ tcp::DESTINATION_PORT }, _>(header),
        sequence: u32_at::<{ tcp::SEQUENCE }, _>(header),
        timestamp: quoted_timestamp(rest),
    }
}

/// The timestamp where [`write()`] puts it: after two no-operations, first among the options.
fn quoted_timestamp(rest: &[u8]) -> Option<u32> {
    const OPTIONS: usize = tcp::HEADER_LEN - QUOTED_TRANSPORT_LEN;
    let options: &[u8; 8] = rest.get(OPTIONS..)?.first_chunk()?;
    let [nop, other, kind, len, value @ ..] = *options;
    let is_ours = [nop, other, kind, len]
        == [
            option::NO_OPERATION,
            option::NO_OPERATION,
            option::TIMESTAMPS,
            option::TIMESTAMPS_LEN,
        ];
    is_ours.then(|| u32::from_be_bytes(value))
}

/// Reads a segment from a target.
pub(crate) fn reply(segment: &Segment<'_>, checksums: Checksums) -> Result<TcpReply, Ignored> {
    let header: &[u8; tcp::HEADER_LEN] = segment.bytes.first_chunk().ok_or(Ignored::Truncated)?;
    let header_len = usize::from(u8_at::<{ tcp::DATA_OFFSET }, _>(header) >> 4) * 4;
    if header_len > segment.len {
        return Err(Ignored::Malformed);
    }
    let options = segment
        .bytes
        .get(..header_len)
        .ok_or(Ignored::Truncated)?
        .get(tcp::HEADER_LEN..)
        .ok_or(Ignored::Malformed)?;
    if checksums == Checksums::Verify && !segment.is_cut() {
        let sum = segment.pseudo_header(segment.len).bytes(segment.bytes);
        if !sum.is_valid() {
            return Err(Ignored::BadChecksum);
        }
    }
    let flags = flags(u8_at::<{ tcp::FLAGS }, _>(header));
    // Every segment of an answering TCP acknowledges something, except some resets (RFC 9293
    // §3.10.7).
    if !flags.ack && !flags.rst {
        return Err(Ignored::NotAnAnswer);
    }
    let (sack, timestamps) = parse_options(options, flags);
    Ok(TcpReply {
        source_port: u16_at::<{ tcp::SOURCE_PORT }, _>(header),
        destination_port: u16_at::<{ tcp::DESTINATION_PORT }, _>(header),
        sequence: u32_at::<{ tcp::SEQUENCE }, _>(header),
        acknowledgment: u32_at::<{ tcp::ACKNOWLEDGMENT }, _>(header),
        flags,
        payload_len: (segment.len - header_len) as u16,
        sack,
        timestamps,
    })
}

fn flags(bits: u8) -> TcpFlags {
    TcpFlags {
        syn: bits & tcp::SYN != 0,
        ack: bits & tcp::ACK != 0,
        rst: bits & tcp::RST != 0,
        fin: bits & tcp::FIN != 0,
    }
}

/// Reads the options up to the end of the list or the first broken one.
fn parse_options(mut options: &[u8], flags: TcpFlags) -> (SackInfo, Option<TcpTimestamps>) {
    let mut sack = SackInfo::default();
    let mut timestamps = None;
    while let Some((kind, value, rest)) = next_option(options) {
        match kind {
            option::SACK_PERMITTED => sack.permitted |= flags.syn && value.is_empty(),
            option::SACK => push_blocks(&mut sack, value),
            option::TIMESTAMPS => timestamps = parse_timestamps(value).or(timestamps),
            _ => {}
        }
        options = rest;
    }
    (sack, timestamps)
}

/// The next option that is not a no-operation: its kind, its value, and the options behind it.
fn next_option(mut options: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    loop {
        let (kind, rest) = options.split_first()?;
        match *kind {
            option::END => return None,
            option::NO_OPERATION => options = rest,
            kind => {
                let (len, rest) = rest.split_first()?;
                let (value, rest) = rest.split_at_checked(usize::from(*len).checked_sub(2)?)?;
                return Some((kind, value, rest));
            }
        }
    }
}

fn push_blocks(sack: &mut SackInfo, value: &[u8]) {
    let (blocks, _) = value.as_chunks::<8>();
    for block in blocks {
        if let Some(edge) = sack.left_edges.get_mut(usize::from(sack.blocks)) {
            *edge = u32_at::<0, _>(block);
            sack.first_right_edge.get_or_insert(u32_at::<4, _>(block));
            sack.blocks += 1;
        }
    }
}

fn parse_timestamps(value: &[u8]) -> Option<TcpTimestamps> {
    let value: &[u8; 8] = value.try_into().ok()?;
    Some(TcpTimestamps {
        value: u32_at::<0, _>(value),
        echo: u32_at::<4, _>(value),
    })
}
