//! TCP segments ↔ bytes (RFC 9293 §3.1).

use crate::packet::{u16_at, u32_at};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;

/// A segment without its ports.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Segment {
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) options: Options,
    pub(crate) payload: Vec<u8>,
}

/// The options that matter here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Options {
    pub(crate) mss: Option<u16>,
    pub(crate) window_scale: Option<u8>,
    pub(crate) sack_permitted: bool,
    /// `TSval` and `TSecr`.
    pub(crate) timestamps: Option<(u32, u32)>,
    /// Left and right edges.
    pub(crate) sack: Vec<(u32, u32)>,
}

impl Segment {
    /// `None` when the header is cut short.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let header = usize::from(*bytes.get(12)? >> 4) * 4;
        let options = bytes.get(20..header)?;
        Some(Self {
            sequence: u32_at(bytes, 4)?,
            acknowledgment: u32_at(bytes, 8)?,
            flags: *bytes.get(13)?,
            window: u16_at(bytes, 14)?,
            options: Options::parse(options),
            payload: bytes.get(header..)?.to_vec(),
        })
    }

    /// Length in sequence space: SYN and FIN count.
    pub(crate) fn length(&self) -> u32 {
        let flag = |bit| u32::from(self.flags & bit != 0);
        self.payload.len() as u32 + flag(SYN) + flag(FIN)
    }

    /// Bytes without a checksum.
    pub(crate) fn encode(&self, source_port: u16, destination_port: u16) -> Vec<u8> {
        let options = self.options.encode();
        let mut bytes = Vec::with_capacity(20 + options.len() + self.payload.len());
        bytes.extend(source_port.to_be_bytes());
        bytes.extend(destination_port.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.acknowledgment.to_be_bytes());
        bytes.extend([((20 + options.len()) / 4 * 16) as u8, self.flags]);
        bytes.extend(self.window.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(options);
        bytes.extend(&self.payload);
        bytes
    }
}

impl Options {
    fn parse(mut bytes: &[u8]) -> Self {
        let mut options = Self::default();
        while let Some((&kind, rest)) = bytes.split_first() {
            match kind {
                0 => break,
                1 => {
                    bytes = rest;
                    continue;
                }
                _ => {}
            }
            let length = usize::from(rest.first().copied().unwrap_or(0));
            let Some(body) = bytes.get(2..length) else { break };
            options.take(kind, body);
            bytes = &bytes[length..];
        }
        options
    }

    fn take(&mut self, kind: u8, body: &[u8]) {
        match (kind, body.len()) {
            (2, 2) => self.mss = u16_at(body, 0),
            (3, 1) => self.window_scale = body.first().copied(),
            (4, 0) => self.sack_permitted = true,
            (8, 8) => self.timestamps = u32_at(body, 0).zip(u32_at(body, 4)),
            (5, length) if length % 8 == 0 => {
                self.sack = body
                    .chunks_exact(8)
                    .filter_map(|block| u32_at(block, 0).zip(u32_at(block, 4)))
                    .collect();
            }
            _ => {}
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some(mss) = self.mss {
            bytes.extend([2, 4]);
            bytes.extend(mss.to_be_bytes());
        }
        if self.sack_permitted {
            bytes.extend([1, 1, 4, 2]);
        }
        if let Some((value, echo)) = self.timestamps {
            bytes.extend([1, 1, 8, 10]);
            bytes.extend(value.to_be_bytes());
            bytes.extend(echo.to_be_bytes());
        }
        if let Some(scale) = self.window_scale {
            bytes.extend([1, 3, 3, scale]);
        }
        // RFC 2018 §3: 40 bytes of options hold four blocks, three beside timestamps.
        let room = self.sack.len().min((40 - 4 - bytes.len().min(36)) / 8);
        let blocks = self.sack.get(..room).unwrap_or_default();
        if !blocks.is_empty() {
            bytes.extend([1, 1, 5, (2 + 8 * room) as u8]);
            for (left, right) in blocks {
                bytes.extend(left.to_be_bytes());
                bytes.extend(right.to_be_bytes());
            }
        }
        bytes
    }
}
