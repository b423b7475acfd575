//! Packets in one line, for people.

use crate::packet::{self, ICMP, ICMP_V6, Packet, TCP, UDP};

/// One line about an IP packet: addresses, TTL, and what it is.
pub fn describe(bytes: &[u8]) -> String {
    match Packet::parse(bytes) {
        Some(packet) => describe_packet(&packet),
        None => format!("{} bytes that are no IP packet", bytes.len()),
    }
}

/// The fields that identify a probe, for CSV files: source, destination, TTL, protocol, source port
/// (or echo identifier), destination port, IPv4 identification, transport length, sequence number
/// (TCP or echo). Empty where the packet has none.
pub fn csv_fields(bytes: &[u8]) -> String {
    let Some(packet) = Packet::parse(bytes) else {
        return ",,,,,,,,".to_owned();
    };
    let transport = packet.transport();
    let word = |at| {
        packet::u16_at(transport, at)
            .map(|word| word.to_string())
            .unwrap_or_default()
    };
    let (protocol, source_port, destination_port, sequence) = match packet.protocol() {
        UDP => ("udp", word(0), word(2), String::new()),
        TCP => {
            let sequence = packet::u32_at(transport, 4).unwrap_or(0).to_string();
            ("tcp", word(0), word(2), sequence)
        }
        ICMP | ICMP_V6 => ("icmp", word(4), String::new(), word(6)),
        _ => ("", String::new(), String::new(), String::new()),
    };
    let (id, length) = (packet.identification(), transport.len());
    let ends = format!("{},{},{}", packet.source(), packet.destination(), packet.ttl());
    format!("{ends},{protocol},{source_port},{destination_port},{id},{length},{sequence}")
}

fn describe_packet(packet: &Packet) -> String {
    let ends = format!(
        "{} > {} ttl {}",
        packet.source(),
        packet.destination(),
        packet.ttl()
    );
    format!("{ends} {}", describe_transport(packet))
}

fn describe_transport(packet: &Packet) -> String {
    let bytes = packet.transport();
    let word = |at| packet::u16_at(bytes, at).unwrap_or(0);
    let id = packet.identification();
    match packet.protocol() {
        UDP => format!("UDP {} > {} length {} id {id}", word(0), word(2), word(4)),
        TCP => {
            let sequence = packet::u32_at(bytes, 4).unwrap_or(0);
            let acknowledgment = packet::u32_at(bytes, 8).unwrap_or(0);
            let flags = tcp_flags(bytes.get(13).copied().unwrap_or(0));
            format!(
                "TCP {} > {} {flags} seq {sequence} ack {acknowledgment} id {id}",
                word(0),
                word(2)
            )
        }
        ICMP | ICMP_V6 => describe_icmp(packet),
        protocol => format!("protocol {protocol}"),
    }
}

fn tcp_flags(flags: u8) -> String {
    let names = [
        (0x02, "SYN"),
        (0x01, "FIN"),
        (0x04, "RST"),
        (0x08, "PSH"),
        (0x10, "ACK"),
    ];
    let set: Vec<&str> = names
        .iter()
        .filter(|(bit, _)| flags & bit != 0)
        .map(|(_, name)| *name)
        .collect();
    set.join("+")
}

fn describe_icmp(packet: &Packet) -> String {
    let bytes = packet.transport();
    let kind = bytes.first().copied().unwrap_or(0);
    let code = bytes.get(1).copied().unwrap_or(0);
    let word = |at| packet::u16_at(bytes, at).unwrap_or(0);
    match (packet.is_v6(), kind) {
        (false, 8) | (true, 128) => format!("echo request id {} seq {}", word(4), word(6)),
        (false, 0) | (true, 129) => format!("echo reply id {} seq {}", word(4), word(6)),
        (false, 11) | (true, 3) => format!("time exceeded about [{}]", describe_quote(bytes)),
        (false, 3) | (true, 1) => format!("unreachable code {code} about [{}]", describe_quote(bytes)),
        _ => format!("ICMP type {kind} code {code}"),
    }
}

fn describe_quote(message: &[u8]) -> String {
    match message.get(8..).and_then(Packet::parse_quote) {
        Some(quote) if !matches!(quote.protocol(), ICMP | ICMP_V6) => describe_packet(&quote),
        Some(quote) => {
            let word = |at| packet::u16_at(quote.transport(), at).unwrap_or(0);
            let ends = format!("{} > {} ttl {}", quote.source(), quote.destination(), quote.ttl());
            format!("{ends} echo id {} seq {}", word(4), word(6))
        }
        None => "a cut packet".to_owned(),
    }
}
