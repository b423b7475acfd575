//! The classic BPF program that lets through what [`decode()`](crate::decode()) could understand.
//!
//! The program is data; `net` hands it to the kernel. It is a coarse sieve that keeps foreign
//! traffic from waking the process: what it passes is not yet a reply, but what it stops is none.
//! TCP and UDP are recognised by the destination port's *block*, its high byte, so that the program
//! changes only when a block gets its first port.

use Label::{Accept, Next, Reject};
use Step::{Do, Goto, If, Mark};

use crate::Family;
use crate::layout::{QUOTED_TRANSPORT_LEN, icmp, ipv4, ipv6, protocol, tcp, udp};

/// UDP and TCP have their ports in the same place.
const DESTINATION_PORT: usize = udp::DESTINATION_PORT;
const _: () = assert!(DESTINATION_PORT == tcp::DESTINATION_PORT);

/// One instruction: `struct sock_filter` on Linux, `struct bpf_insn` elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip if a conditional jump's condition holds.
    pub jt: u8,
    /// Instructions to skip if it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// What a program depends on.
#[derive(Debug, Clone, Copy)]
pub struct FilterParameters<'a> {
    /// Which packets to let through; those of the other family are rejected.
    pub family: Family,
    /// Blocks of local ports, `port >> 8`, whose TCP and UDP packets to let through. Order does not
    /// matter.
    pub port_blocks: &'a [u8],
    /// Bytes in front of the IP header: 0 on Linux `SOCK_DGRAM` packet sockets and on tunnels, 14
    /// on Ethernet, 4 on macOS's loopback.
    pub link_header_len: u32,
    /// Bytes of a packet to capture, link header included. ICMP errors cut short are of no use,
    /// and the longest are the 1280 bytes of `ICMPv6` errors (RFC 4443 §2.4 (c)).
    pub snap_len: u32,
    /// The same for TCP and UDP packets, whose headers are enough.
    pub segment_snap_len: u32,
}

/// Operations (Linux `include/uapi/linux/bpf_common.h`; the same numbers on every system). IND
/// means at an offset from X, which holds the length of the IPv4 header.
pub(crate) mod op {
    pub(crate) const LOAD_IMMEDIATE: u16 = 0x00;
    pub(crate) const LOAD_HALF: u16 = 0x28;
    pub(crate) const LOAD_BYTE: u16 = 0x30;
    pub(crate) const LOAD_HALF_INDEXED: u16 = 0x48;
    pub(crate) const LOAD_BYTE_INDEXED: u16 = 0x50;
    pub(crate) const LOAD_SCRATCH: u16 = 0x60;
    pub(crate) const LOAD_X_IPV4_HEADER_LEN: u16 = 0xB1;
    pub(crate) const STORE_SCRATCH: u16 = 0x02;
    pub(crate) const AND: u16 = 0x54;
    pub(crate) const SHIFT_RIGHT: u16 = 0x74;
    pub(crate) const SHIFT_RIGHT_X: u16 = 0x7C;
    pub(crate) const SUBTRACT_X: u16 = 0x1C;
    pub(crate) const JUMP_ALWAYS: u16 = 0x05;
    pub(crate) const JUMP_EQUAL: u16 = 0x15;
    pub(crate) const JUMP_GREATER_EQUAL: u16 = 0x35;
    pub(crate) const JUMP_SET: u16 = 0x45;
    pub(crate) const RETURN: u16 = 0x06;
    pub(crate) const A_TO_X: u16 = 0x07;
}

/// The word of scratch memory that holds the block.
const BLOCK: u32 = 0;

/// Places in the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Label {
    /// The following instruction.
    Next,
    Icmp,
    IcmpError,
    /// The destination port is to be loaded.
    Transport,
    /// Loads this word of the bitmap.
    Word(u8),
    /// A holds the word of the bitmap, X the bit.
    Bit,
    Accept,
    Reject,
}

/// An instruction whose jumps are not resolved yet.
#[derive(Debug, Clone, Copy)]
enum Step {
    Mark(Label),
    Do(u16, u32),
    /// Operation, operand, where to if the condition holds, where to if not.
    If(u16, u32, Label, Label),
    Goto(Label),
}

/// Builds the program.
///
/// It has at most 60 instructions whatever the port blocks are, so that every conditional jump is
/// within reach of its 8-bit offset: the blocks are a bitmap of eight 32-bit words.
pub fn program(parameters: &FilterParameters<'_>) -> Vec<Instruction> {
    let link = parameters.link_header_len;
    let mut steps = match parameters.family {
        Family::V4 => v4(link),
        Family::V6 => v6(link),
    };
    steps.extend(port_is_in(bitmap(parameters.port_blocks)));
    steps.push(Do(op::RETURN, parameters.segment_snap_len));
    steps.extend([Mark(Accept), Do(op::RETURN, parameters.snap_len)]);
    steps.extend([Mark(Reject), Do(op::RETURN, 0)]);
    assemble(&steps)
}

/// IPv4: everything but later fragments, then by protocol. Ends with the destination port in A.
fn v4(link: u32) -> Vec<Step> {
    // The shortest usable ICMP error: its own header, the quoted IPv4 header, and what must follow
    // that.
    const MIN_ERROR: u32 = (icmp::HEADER_LEN + ipv4::HEADER_LEN + QUOTED_TRANSPORT_LEN) as u32;
    let at = |field: usize| link + field as u32;
    vec![
        Do(op::LOAD_BYTE, at(ipv4::VERSION_IHL)),
        Do(op::AND, 0xF0),
        If(op::JUMP_EQUAL, 4 << 4, Next, Reject),
        Do(op::LOAD_HALF, at(ipv4::FRAGMENT)),
        If(op::JUMP_SET, u32::from(ipv4::FRAGMENT_OFFSET_MASK), Reject, Next),
        Do(op::LOAD_X_IPV4_HEADER_LEN, at(ipv4::VERSION_IHL)),
        Do(op::LOAD_BYTE, at(ipv4::PROTOCOL)),
        If(op::JUMP_EQUAL, u32::from(protocol::ICMP), Label::Icmp, Next),
        If(op::JUMP_EQUAL, u32::from(protocol::TCP), Label::Transport, Next),
        If(op::JUMP_EQUAL, u32::from(protocol::UDP), Label::Transport, Reject),
        Mark(Label::Icmp),
        Do(op::LOAD_BYTE_INDEXED, at(icmp::TYPE)),
        If(op::JUMP_EQUAL, u32::from(icmp::V4_ECHO_REPLY), Accept, Next),
        If(
            op::JUMP_EQUAL,
            u32::from(icmp::V4_UNREACHABLE),
            Label::IcmpError,
            Next,
        ),
        If(
            op::JUMP_EQUAL,
            u32::from(icmp::V4_TIME_EXCEEDED),
            Label::IcmpError,
            Reject,
        ),
        Mark(Label::IcmpError),
        Do(op::LOAD_HALF, at(ipv4::TOTAL_LENGTH)),
        Do(op::SUBTRACT_X, 0),
        If(op::JUMP_GREATER_EQUAL, MIN_ERROR, Accept, Reject),
        Mark(Label::Transport),
        Do(op::LOAD_HALF_INDEXED, at(DESTINATION_PORT)),
    ]
}

/// IPv6: packets with extension headers are left to the decoder, as classic BPF cannot loop over
/// them. Ends with the destination port in A.
fn v6(link: u32) -> Vec<Step> {
    let at = |field: usize| link + field as u32;
    let behind_header = |field: usize| at(ipv6::HEADER_LEN + field);
    let mut steps = vec![
        Do(op::LOAD_BYTE, at(ipv6::VERSION_FLOW)),
        Do(op::AND, 0xF0),
        If(op::JUMP_EQUAL, 6 << 4, Next, Reject),
        Do(op::LOAD_BYTE, at(ipv6::NEXT_HEADER)),
        If(op::JUMP_EQUAL, u32::from(protocol::ICMPV6), Label::Icmp, Next),
        If(op::JUMP_EQUAL, u32::from(protocol::TCP), Label::Transport, Next),
        If(op::JUMP_EQUAL, u32::from(protocol::UDP), Label::Transport, Next),
    ];
    steps.extend(ipv6::EXTENSIONS.map(|extension| If(op::JUMP_EQUAL, u32::from(extension), Accept, Next)));
    steps.extend([
        Goto(Reject),
        Mark(Label::Icmp),
        Do(op::LOAD_BYTE, behind_header(icmp::TYPE)),
        If(op::JUMP_EQUAL, u32::from(icmp::V6_UNREACHABLE), Accept, Next),
        If(op::JUMP_EQUAL, u32::from(icmp::V6_TIME_EXCEEDED), Accept, Next),
        If(op::JUMP_EQUAL, u32::from(icmp::V6_ECHO_REPLY), Accept, Reject),
        Mark(Label::Transport),
        Do(op::LOAD_HALF, behind_header(DESTINATION_PORT)),
    ]);
    steps
}

/// Accepts if the block of the port in A is in the bitmap.
fn port_is_in(bitmap: [u32; 8]) -> Vec<Step> {
    let words = || (0u8..).zip(bitmap).filter(|(_, word)| *word != 0);
    let mut steps = vec![
        Do(op::SHIFT_RIGHT, 8),
        Do(op::STORE_SCRATCH, BLOCK),
        Do(op::AND, 31),
        Do(op::A_TO_X, 0),
        Do(op::LOAD_SCRATCH, BLOCK),
        Do(op::SHIFT_RIGHT, 5),
    ];
    steps.extend(words().map(|(i, _)| If(op::JUMP_EQUAL, u32::from(i), Label::Word(i), Next)));
    steps.push(Goto(Reject));
    for (i, word) in words() {
        steps.extend([
            Mark(Label::Word(i)),
            Do(op::LOAD_IMMEDIATE, word),
            Goto(Label::Bit),
        ]);
    }
    steps.extend([
        Mark(Label::Bit),
        Do(op::SHIFT_RIGHT_X, 0),
        If(op::JUMP_SET, 1, Next, Reject),
    ]);
    steps
}

fn bitmap(port_blocks: &[u8]) -> [u32; 8] {
    let mut bitmap = [0; 8];
    for block in port_blocks {
        bitmap[usize::from(block >> 5)] |= 1 << (block & 31);
    }
    bitmap
}

/// Replaces labels by distances.
fn assemble(steps: &[Step]) -> Vec<Instruction> {
    let is_mark = |step: &&Step| matches!(step, Mark(_));
    let position = |label: Label| {
        let before = steps
            .iter()
            .take_while(|step| !matches!(step, Mark(mark) if *mark == label));
        before.filter(|step| !is_mark(step)).count()
    };
    let mut instructions = Vec::with_capacity(steps.len());
    for step in steps {
        // Jumps count from the following instruction, and all go forward.
        let next = instructions.len() + 1;
        let distance = |label| if label == Next { 0 } else { position(label) - next };
        let (code, k, jt, jf) = match *step {
            Mark(_) => continue,
            Do(code, k) => (code, k, 0, 0),
            If(code, k, yes, no) => (code, k, distance(yes) as u8, distance(no) as u8),
            Goto(label) => (op::JUMP_ALWAYS, distance(label) as u32, 0, 0),
        };
        instructions.push(Instruction { code, jt, jf, k });
    }
    instructions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditional_jumps_reach_their_targets() {
        let all: Vec<u8> = (0..=255).collect();
        for port_blocks in [&[][..], &[7], &all] {
            for family in [Family::V4, Family::V6] {
                let parameters = FilterParameters {
                    family,
                    port_blocks,
                    link_header_len: 14,
                    snap_len: 2000,
                    segment_snap_len: 1000,
                };
                let program = program(&parameters);
                assert!(program.len() <= 60, "{} instructions", program.len());
                for (i, instruction) in program.iter().enumerate() {
                    assert!(i + 1 + usize::from(instruction.jt) <= program.len());
                    assert!(i + 1 + usize::from(instruction.jf) <= program.len());
                }
                assert_eq!(program.iter().filter(|i| i.code == op::RETURN).count(), 3);
            }
        }
    }

    #[test]
    fn bitmap_has_one_bit_per_block() {
        assert_eq!(
            bitmap(&[0, 31, 32, 255, 255]),
            [0x8000_0001, 1, 0, 0, 0, 0, 0, 0x8000_0000]
        );
    }
}
