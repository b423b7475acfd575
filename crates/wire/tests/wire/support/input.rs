//! Fuzzer bytes as structured values. When the bytes run out, zeros follow.

use std::net::IpAddr;

use traceroute_wire::{ECHO_PAYLOAD, Probe, ProbeKind, TcpTimestamps};

pub struct Input<'a>(pub &'a [u8]);

impl Input<'_> {
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let len = N.min(self.0.len());
        let (bytes, rest) = self.0.split_at(len);
        array[..len].copy_from_slice(bytes);
        self.0 = rest;
        array
    }

    pub fn byte(&mut self) -> u8 {
        u8::from_be_bytes(self.array())
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    pub fn flag(&mut self) -> bool {
        self.byte() & 1 != 0
    }

    pub fn address(&mut self, v4: bool) -> IpAddr {
        if v4 {
            IpAddr::from(self.array::<4>())
        } else {
            IpAddr::from(self.array::<16>())
        }
    }

    /// Up to 255 bytes.
    pub fn bytes(&mut self) -> Vec<u8> {
        let len = usize::from(self.byte()).min(self.0.len());
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        bytes.to_vec()
    }

    /// A probe whose fields keep what their documentation promises.
    pub fn probe(&mut self, v4: bool) -> Probe {
        Probe {
            source: self.address(v4),
            destination: self.address(v4),
            ttl: self.byte(),
            identification: self.u16(),
            flow_label: self.u32(),
            kind: self.probe_kind(),
            tos: self.byte(),
            dont_fragment: self.flag(),
        }
    }

    fn timestamps(&mut self) -> Option<TcpTimestamps> {
        self.flag().then(|| TcpTimestamps {
            value: self.u32(),
            echo: self.u32(),
        })
    }

    fn probe_kind(&mut self) -> ProbeKind {
        let (source_port, destination_port) = (self.u16(), self.u16());
        match self.byte() % 4 {
            0 => ProbeKind::Echo {
                identifier: source_port,
                sequence: destination_port,
                tag: self.u16() % 0xFFFF,
                cookie: self.array(),
                payload_len: ECHO_PAYLOAD + self.u16() % 1200,
            },
            1 => ProbeKind::Udp {
                source_port,
                destination_port,
                tag: self.u16() % 0xFFFF,
                payload_len: 10 + self.u16() % 1200,
            },
            2 => ProbeKind::TcpSyn {
                source_port,
                destination_port,
                sequence: self.u32(),
                timestamps: self.timestamps(),
            },
            _ => ProbeKind::TcpSack {
                source_port,
                destination_port,
                sequence: self.u32(),
                acknowledgment: self.u32(),
                timestamps: self.timestamps(),
            },
        }
    }
}
