//! Ones' complement sums (RFC 1071).

use std::net::IpAddr;

/// A ones' complement sum in the making, not yet folded to 16 bits.
///
/// 64 bits hold the sum of four thousand million 32-bit words, more than any packet has.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sum(u64);

impl Sum {
    /// Adds one 16-bit word.
    pub(crate) fn word(self, word: u16) -> Self {
        Sum(self.0 + u64::from(word))
    }

    /// Adds bytes as big-endian words; an odd last byte counts as if a zero byte followed (RFC 1071
    /// §4.1). All but the last part of a sum must have an even length.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Self {
        // 32 bits at a time: the sum is the same after folding (RFC 1071 §2 (C)).
        let (words, rest) = bytes.as_chunks::<4>();
        let sum: u64 = words
            .iter()
            .map(|word| u64::from(u32::from_be_bytes(*word)))
            .sum();
        let mut last = [0; 4];
        last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        Sum(self.0 + sum + u64::from(u32::from_be_bytes(last)))
    }

    /// Adds an address.
    pub(crate) fn address(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.bytes(&address.octets()),
            IpAddr::V6(address) => self.bytes(&address.octets()),
        }
    }

    /// Adds the pseudo-header of RFC 9293 §3.1 and RFC 8200 §8.1, which have the same sum of the
    /// same fields.
    pub(crate) fn pseudo_header(self, source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> Self {
        Sum(self.0 + len as u64)
            .address(source)
            .address(destination)
            .word(u16::from(protocol))
    }

    /// The 16-bit ones' complement sum.
    pub(crate) fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xFFFF {
            sum = (sum >> 16) + (sum & 0xFFFF);
        }
        sum as u16
    }

    /// The checksum to put into a header whose checksum field counted as zero.
    pub(crate) fn checksum(self) -> u16 {
        !self.fold()
    }

    /// Whether data, its checksum included, is intact.
    pub(crate) fn is_valid(self) -> bool {
        self.fold() == 0xFFFF
    }

    /// The sum modulo 0xFFFF: ones' complement arithmetic has two zeros, this has one.
    pub(crate) fn residue(self) -> u16 {
        self.fold() % 0xFFFF
    }
}

/// The two bytes that, added to data with the sum `sum`, make checksum + `rewritable` congruent to
/// `tag` modulo 0xFFFF.
///
/// With checksum ≡ −(sum + balance) that is balance ≡ rewritable − sum − tag; in ones' complement
/// −x is !x.
pub(crate) fn balance(sum: Sum, rewritable: Sum, tag: u16) -> u16 {
    rewritable.word(!sum.fold()).word(!tag).residue()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn example_of_rfc_1071_section_3() {
        let sum = Sum::default().bytes(&[0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7]);
        assert_eq!(sum.fold(), 0xDDF2);
        assert_eq!(sum.checksum(), 0x220D);
    }

    #[test]
    fn odd_lengths_are_padded_with_zero() {
        for len in 0..9 {
            let mut padded: Vec<u8> = (1..=len).collect();
            let odd = Sum::default().bytes(&padded).fold();
            padded.resize(16, 0);
            assert_eq!(odd, Sum::default().bytes(&padded).fold(), "length {len}");
        }
    }

    #[test]
    fn both_zeros_have_the_same_residue() {
        assert_eq!(Sum::default().word(0xFFFF).residue(), 0);
        assert_eq!(Sum::default().residue(), 0);
        assert_eq!(Sum::default().word(0xFFFE).residue(), 0xFFFE);
    }
}
