//! Filter definitions: which packets the driver copies to a handle.

use traceroute_engine::Transport;

/// Size of a definition, in bytes.
pub(crate) const DEFINITION_LEN: usize = 0xA0;

/// Offsets in a definition. Those left out (addresses, ports, interface) stay zero: any.
mod at {
    pub(super) const SIGNATURE: usize = 0x00;
    pub(super) const SIZE: usize = 0x08;
    pub(super) const LAYER: usize = 0x10;
    pub(super) const FAMILY: usize = 0x18;
    pub(super) const PROTOCOL: usize = 0x80;
    pub(super) const DIRECTION: usize = 0x88;
    pub(super) const DISCARDED: usize = 0x98;
}

const LAYER_TRANSPORT: u64 = 1;
const DIRECTION_INBOUND: u64 = 0;
const AF_INET: u64 = 2;
const AF_INET6: u64 = 23;
const ICMP: u64 = 1;
const ICMPV6: u64 = 58;
const TCP: u64 = 6;
const UDP: u64 = 17;

/// Inbound packets of one protocol, for any address, port and interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Definition {
    family: u64,
    protocol: u64,
    /// Those that the network stack has no use for, instead of those that it takes.
    discarded: bool,
}

/// What answers probes of every kind.
pub(crate) const ICMP_DEFINITIONS: [Definition; 2] = [
    Definition::new(AF_INET, ICMP, false),
    Definition::new(AF_INET6, ICMPV6, false),
];

/// Segments and datagrams from targets. The stack takes those of a connection (SACK) and for a
/// reserved UDP port, and discards those for ports that it knows nothing of (SYN). Any port:
/// definitions cannot be removed from a handle, and [`Inbox`](crate::inbox::Inbox) looks at the
/// port.
pub(crate) const fn of_transport(transport: Transport) -> [Definition; 4] {
    let protocol = match transport {
        Transport::Udp => UDP,
        Transport::Tcp => TCP,
    };
    [
        Definition::new(AF_INET, protocol, false),
        Definition::new(AF_INET, protocol, true),
        Definition::new(AF_INET6, protocol, false),
        Definition::new(AF_INET6, protocol, true),
    ]
}

impl Definition {
    const fn new(family: u64, protocol: u64, discarded: bool) -> Self {
        Definition {
            family,
            protocol,
            discarded,
        }
    }

    /// The bytes that the driver wants.
    pub(crate) fn encode(self, signature: u64) -> [u8; DEFINITION_LEN] {
        let mut bytes = [0; DEFINITION_LEN];
        let fields = [
            (at::SIGNATURE, signature),
            (at::SIZE, DEFINITION_LEN as u64),
            (at::LAYER, LAYER_TRANSPORT),
            (at::FAMILY, self.family),
            (at::PROTOCOL, self.protocol),
            (at::DIRECTION, DIRECTION_INBOUND),
            (at::DISCARDED, u64::from(self.discarded)),
        ];
        for (offset, value) in fields {
            if let Some(field) = bytes.get_mut(offset..offset + 8) {
                field.copy_from_slice(&value.to_le_bytes());
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use traceroute_wire::ddnpm::signature;

    use super::*;

    fn words(bytes: &[u8; DEFINITION_LEN]) -> Vec<(usize, u64)> {
        let words = bytes.chunks_exact(8).enumerate();
        words
            .map(|(index, word)| (index * 8, u64::from_le_bytes(word.try_into().expect("8 bytes"))))
            .filter(|(_, value)| *value != 0)
            .collect()
    }

    #[test]
    fn the_second_icmp_definition_to_the_byte() {
        let [_, v6] = ICMP_DEFINITIONS;
        assert_eq!(
            words(&v6.encode(signature(0x18))),
            [
                (0x00, 0xDDFD_0000_0018),
                (0x08, 0xA0),
                (0x10, 1),
                (0x18, 23),
                (0x80, 58)
            ]
        );
    }

    #[test]
    fn segments_and_datagrams_are_captured_whether_the_stack_takes_them_or_not() {
        for (transport, protocol) in [(Transport::Tcp, 6), (Transport::Udp, 17)] {
            let flags = of_transport(transport).map(|definition| {
                let bytes = definition.encode(signature(0x17));
                (bytes[0x18], bytes[0x80], bytes[0x98])
            });
            assert_eq!(
                flags,
                [
                    (2, protocol, 0),
                    (2, protocol, 1),
                    (23, protocol, 0),
                    (23, protocol, 1)
                ]
            );
        }
    }
}
