//! What somebody on the way makes of replies, as a fuzzer's bytes say.

use std::collections::VecDeque;
use std::time::Duration;

use traceroute_engine::Time;
use traceroute_wire::{
    IcmpError, Probe, QuotedTransport, Reply, ReplyKind, SackInfo, TcpFlags, TcpReply, TcpTimestamps,
    UdpReply,
};

use super::input::Input;
use super::support::router_of;

/// So many replies are remembered.
const REMEMBERED: usize = 16;

/// Holds replies back, repeats and damages them. Without bytes it leaves them as they are.
pub struct Mischief<'a> {
    input: Input<'a>,
    seen: VecDeque<Reply>,
}

impl<'a> Mischief<'a> {
    pub fn new(input: Input<'a>) -> Self {
        Mischief {
            input,
            seen: VecDeque::new(),
        }
    }

    /// What arrives instead of the answers to a probe.
    pub fn replies(&mut self, probe: &Probe, answers: Vec<(Time, Reply)>) -> Vec<(Time, Reply)> {
        let mut replies = Vec::new();
        for (at, reply) in answers {
            self.seen.push_front(reply);
            self.seen.truncate(REMEMBERED);
            let later = |input: &mut Input<'_>| Duration::from_micros(u64::from(input.u16()) * 50);
            let input = &mut self.input;
            match input.byte() % 8 {
                0 | 1 => replies.push((at, reply)),
                2 => replies.push((at + later(input), reply)),
                3 => replies.extend([(at, reply), (at + later(input), reply)]),
                // An earlier one instead, or as well.
                4 | 5 => {
                    let index = usize::from(input.byte()) % self.seen.len();
                    replies.push((at, self.seen[index]));
                    if input.flag() {
                        replies.push((at + later(input), reply));
                    }
                }
                _ => {
                    let mut damaged = reply;
                    for _ in 0..=input.byte() % 3 {
                        damage(&mut damaged, probe, input);
                    }
                    replies.push((at, damaged));
                    if input.flag() {
                        replies.push((at + later(input), reply));
                    }
                }
            }
        }
        replies
    }
}

/// Puts any value into one field.
fn damage(reply: &mut Reply, probe: &Probe, input: &mut Input<'_>) {
    let v6 = probe.destination.is_ipv6();
    let field = input.byte() % 16;
    match field {
        0 => reply.source = router_of(v6, input.byte().max(1)),
        1 => reply.source = probe.destination,
        2 => reply.destination = input.address(!v6),
        3 => reply.ttl = input.byte(),
        4 => {
            let transport = quoted_transport(input);
            if let ReplyKind::IcmpError { quoted, .. } = &mut reply.kind {
                quoted.transport = transport;
            }
        }
        5 => {
            reply.kind = ReplyKind::Echo {
                identifier: input.u16(),
                sequence: input.u16(),
                cookie: input.flag().then(|| input.array()),
            };
        }
        6 => {
            reply.kind = ReplyKind::Udp(UdpReply {
                source_port: input.u16(),
                destination_port: input.u16(),
                payload_len: input.u16(),
                echoed: None,
            });
        }
        _ => damage_kind(&mut reply.kind, field, input),
    }
}

fn damage_kind(kind: &mut ReplyKind, field: u8, input: &mut Input<'_>) {
    match kind {
        ReplyKind::IcmpError { error, quoted, .. } => match field {
            7 => *error = IcmpError::TimeExceeded,
            8 => *error = IcmpError::Unreachable { code: input.byte() },
            9 => quoted.identification = input.u16(),
            10 => quoted.flow_label = input.u32() & 0xF_FFFF,
            11 => quoted.ttl = input.byte(),
            12 => quoted.source = input.address(quoted.source.is_ipv4()),
            _ => match &mut quoted.transport {
                QuotedTransport::Echo {
                    sequence, checksum, ..
                } => {
                    *sequence = sequence.wrapping_add(u16::from(input.byte()));
                    *checksum = checksum.wrapping_add(input.u16());
                }
                QuotedTransport::Udp { checksum, length, .. } => {
                    *checksum = checksum.wrapping_add(input.u16());
                    *length = length.wrapping_add(u16::from(input.byte()));
                }
                QuotedTransport::Tcp {
                    sequence, timestamp, ..
                } => {
                    *sequence = sequence.wrapping_add(input.u32());
                    *timestamp = input.flag().then(|| input.u32());
                }
            },
        },
        ReplyKind::Echo {
            identifier,
            sequence,
            cookie,
        } => match field % 3 {
            0 => *identifier = input.u16(),
            1 => *sequence = sequence.wrapping_add(u16::from(input.byte())),
            _ => *cookie = input.flag().then(|| input.array()),
        },
        ReplyKind::Tcp(tcp) => damage_tcp(tcp, field, input),
        ReplyKind::Udp(udp) => match field % 2 {
            0 => udp.source_port = input.u16(),
            _ => udp.payload_len = input.u16(),
        },
    }
}

fn damage_tcp(tcp: &mut TcpReply, field: u8, input: &mut Input<'_>) {
    match field {
        7 => tcp.acknowledgment = tcp.acknowledgment.wrapping_add(input.byte().into()),
        8 => tcp.acknowledgment = input.u32(),
        9 => {
            let bits = input.byte();
            tcp.flags = TcpFlags {
                syn: bits & 1 != 0,
                ack: bits & 2 != 0,
                rst: bits & 4 != 0,
                fin: bits & 8 != 0,
            };
        }
        10 => tcp.sequence = input.u32(),
        11 => tcp.payload_len = input.u16(),
        12 => {
            let next = tcp.acknowledgment;
            let mut edge = || next.wrapping_add(u32::from(input.byte()));
            let left_edges = [edge(), edge(), edge(), edge()];
            let first_right_edge = Some(edge());
            tcp.sack = SackInfo {
                permitted: input.flag(),
                left_edges,
                blocks: input.byte() % 5,
                first_right_edge: first_right_edge.filter(|_| input.flag()),
            };
        }
        13 => {
            tcp.timestamps = input.flag().then(|| TcpTimestamps {
                value: input.u32(),
                echo: input.u32(),
            });
        }
        14 => tcp.source_port = input.u16(),
        _ => tcp.destination_port = tcp.destination_port.wrapping_add(input.byte().into()),
    }
}

fn quoted_transport(input: &mut Input<'_>) -> QuotedTransport {
    let (source_port, destination_port) = (input.u16(), input.u16());
    match input.byte() % 3 {
        0 => QuotedTransport::Echo {
            identifier: source_port,
            sequence: destination_port,
            checksum: input.u16(),
        },
        1 => QuotedTransport::Udp {
            source_port,
            destination_port,
            length: input.u16(),
            checksum: input.u16(),
        },
        _ => QuotedTransport::Tcp {
            source_port,
            destination_port,
            sequence: input.u32(),
            timestamp: input.flag().then(|| input.u32()),
        },
    }
}
