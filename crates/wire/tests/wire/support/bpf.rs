//! A classic BPF interpreter, after the description in `bpf(4)` and Linux
//! `Documentation/networking/filter.rst`.

use traceroute_wire::filter::Instruction;

/// What the program returns for `packet`: bytes to capture, 0 to drop. A load beyond the packet
/// ends it with 0.
pub fn run(program: &[Instruction], packet: &[u8]) -> u32 {
    let load = |at: u32, len: usize| -> Option<u32> {
        let at = usize::try_from(at).ok()?;
        let bytes = packet.get(at..at.checked_add(len)?)?;
        Some(bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    };
    let (mut a, mut x, mut scratch, mut pc) = (0u32, 0u32, [0u32; 16], 0usize);
    loop {
        let Instruction { code, jt, jf, k } = program[pc];
        pc += 1;
        let mut branch = |condition: bool| pc += usize::from(if condition { jt } else { jf });
        match code {
            0x00 => a = k,
            0x28 | 0x30 | 0x48 | 0x50 => {
                let at = if code >= 0x48 { x.wrapping_add(k) } else { k };
                let Some(value) = load(at, if code & 0x18 == 0x08 { 2 } else { 1 }) else {
                    return 0;
                };
                a = value;
            }
            0x60 => a = scratch[k as usize],
            0xB1 => {
                let Some(value) = load(k, 1) else { return 0 };
                x = (value & 0xF) * 4;
            }
            0x02 => scratch[k as usize] = a,
            0x54 => a &= k,
            0x74 => a >>= k,
            0x7C => a >>= x,
            0x1C => a = a.wrapping_sub(x),
            0x05 => pc += k as usize,
            0x15 => branch(a == k),
            0x35 => branch(a >= k),
            0x45 => branch(a & k != 0),
            0x06 => return k,
            0x07 => x = a,
            _ => panic!("instruction {code:#x} is not used"),
        }
    }
}
