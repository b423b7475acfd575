//! Source NAT (RFC 3022, RFC 5508): addresses, ports and echo identifiers of what passes, and
//! quotes in ICMP errors.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::packet::{self, ICMP, ICMP_V6, Packet, TCP, UDP};
use crate::topology::{self, Quotes};

/// One side of a mapping. The port is an echo identifier for ICMP.
type Endpoint = (u8, IpAddr, u16);

/// The first NAT hands out ports from here upwards.
const FIRST_PORT: u16 = 20_000;

/// How far the ports of two NATs are apart, so that a mapping of one is never right by chance in
/// another.
const PORTS_APART: u16 = 1_000;

/// A NAT at work.
#[derive(Debug)]
pub(crate) struct Nat {
    spec: topology::Nat,
    outside: HashMap<Endpoint, Endpoint>,
    inside: HashMap<Endpoint, Endpoint>,
    first_port: u16,
    next_port: u16,
}

impl Nat {
    /// `index` counts the NATs of a network.
    pub(crate) fn new(spec: topology::Nat, index: usize) -> Self {
        let first_port = FIRST_PORT + (index % 40) as u16 * PORTS_APART;
        Self {
            spec,
            outside: HashMap::new(),
            inside: HashMap::new(),
            first_port,
            next_port: first_port,
        }
    }

    /// Translates a packet on its way out; a family without an outside address passes as it is.
    pub(crate) fn outbound(&mut self, packet: &mut Packet) {
        let Some(address) = self.outside_address(packet.is_v6()) else {
            return;
        };
        let Some(offset) = source_port_offset(packet) else {
            packet.set_source(address);
            return;
        };
        let Some(port) = packet::u16_at(packet.transport(), offset) else {
            return;
        };
        let (_, address, port) = self.map((packet.protocol(), packet.source(), port), address);
        packet.set_source(address);
        packet.set_transport_u16(offset, port);
    }

    fn map(&mut self, inside: Endpoint, address: IpAddr) -> Endpoint {
        if let Some(outside) = self.outside.get(&inside) {
            return *outside;
        }
        let port = if self.spec.ports { self.next_port } else { inside.2 };
        self.next_port = self.next_port.checked_add(1).unwrap_or(self.first_port);
        let outside = (inside.0, address, port);
        self.outside.insert(inside, outside);
        self.inside.insert(outside, inside);
        outside
    }

    fn outside_address(&self, v6: bool) -> Option<IpAddr> {
        if v6 {
            self.spec.v6.map(IpAddr::V6)
        } else {
            self.spec.v4.map(IpAddr::V4)
        }
    }

    /// Translates a packet on its way back. `false`: there is nothing to translate it to.
    pub(crate) fn inbound(&self, packet: &mut Packet) -> bool {
        if Some(packet.destination()) != self.outside_address(packet.is_v6()) {
            return true;
        }
        if is_error(packet) {
            self.inbound_error(packet)
        } else {
            self.inbound_plain(packet)
        }
    }

    fn inbound_plain(&self, packet: &mut Packet) -> bool {
        let offset = if matches!(packet.protocol(), TCP | UDP) {
            2
        } else {
            4
        };
        let Some(port) = packet::u16_at(packet.transport(), offset) else {
            return false;
        };
        let outside = (packet.protocol(), packet.destination(), port);
        let Some((_, address, port)) = self.inside.get(&outside) else {
            return false;
        };
        packet.set_destination(*address);
        packet.set_transport_u16(offset, *port);
        true
    }

    fn inbound_error(&self, packet: &mut Packet) -> bool {
        let checksum_ok = packet.transport_checksum_ok();
        let mut message = packet.transport().to_vec();
        let Some(mut quote) = message.get(8..).and_then(Packet::parse_quote) else {
            return false;
        };
        let Some(offset) = source_port_offset(&quote) else {
            return false;
        };
        let Some(port) = packet::u16_at(quote.transport(), offset) else {
            return false;
        };
        let outside = (quote.protocol(), quote.source(), port);
        let Some((_, address, port)) = self.inside.get(&outside) else {
            return false;
        };
        let quotes = self.spec.quotes();
        if quotes != Quotes::Untranslated {
            let outside_sum = quote.transport_checksum();
            quote.set_source(*address);
            quote.set_transport_u16(offset, *port);
            match (quotes, outside_sum) {
                (Quotes::ZeroChecksum, Some(_)) if quote.protocol() == UDP => quote.set_transport_checksum(0),
                (Quotes::StaleChecksum | Quotes::ZeroChecksum, Some(sum)) => {
                    quote.set_transport_checksum(sum);
                }
                _ => {}
            }
            message.splice(8.., quote.into_bytes());
        }
        packet.replace_message(*address, message, checksum_ok);
        true
    }
}

/// Where the port or echo identifier of the sender is; `None` when the protocol has none.
fn source_port_offset(packet: &Packet) -> Option<usize> {
    match packet.protocol() {
        TCP | UDP => Some(0),
        ICMP | ICMP_V6 if packet.transport().len() >= 8 => Some(4),
        _ => None,
    }
}

fn is_error(packet: &Packet) -> bool {
    let kind = packet.transport().first().copied().unwrap_or(0);
    match packet.protocol() {
        ICMP => !matches!(kind, 0 | 8),
        ICMP_V6 => kind < 128,
        _ => false,
    }
}
