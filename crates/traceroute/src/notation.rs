//! How traceroute programs write ICMP errors.

use traceroute_engine::{Answer, Family};
use traceroute_wire::IcmpError;

/// What traceroute programs write for a destination unreachable: `!H`, `!X`, `!<13>` …. The letters
/// are those of traceroute(8) on Linux, and for codes that it has no letter for those of the BSDs;
/// a port unreachable is worth a note only when it is not the destination's.
pub fn notation(answer: &Answer) -> Option<String> {
    let Some(IcmpError::Unreachable { code }) = answer.error else {
        return None;
    };
    let family = Family::of(answer.address);
    let port_unreachable = match family {
        Family::V4 => 3,
        Family::V6 => 4,
    };
    if answer.destination && code == port_unreachable {
        return None;
    }
    let letter = Unreachable::of(family, code).and_then(|meaning| meaning.letter);
    Some(letter.map_or_else(|| format!("!<{code}>"), |letter| format!("!{letter}")))
}

/// What [`notation`] means, in words; `None` where there is none, or its code has no meaning.
pub fn notation_in_words(answer: &Answer) -> Option<&'static str> {
    notation(answer)?;
    match answer.error {
        Some(IcmpError::Unreachable { code }) => {
            Some(Unreachable::of(Family::of(answer.address), code)?.words)
        }
        _ => None,
    }
}

/// What a destination unreachable means.
struct Unreachable {
    /// Code in ICMP for IPv4 (RFC 792, RFC 1812 §5.2.7.1).
    v4: Option<u8>,
    /// Code in `ICMPv6` (RFC 4443 §3.1).
    v6: Option<u8>,
    /// What traceroute programs write for it, after the exclamation mark.
    letter: Option<char>,
    words: &'static str,
}

impl Unreachable {
    #[rustfmt::skip]
    const ALL: [Unreachable; 19] = [
        Unreachable::new(Some(0), Some(0), Some('N'), "network unreachable"),
        Unreachable::new(Some(1), Some(3), Some('H'), "host unreachable"),
        Unreachable::new(Some(2), None, Some('P'), "protocol unreachable"),
        Unreachable::new(Some(3), Some(4), None, "port unreachable"),
        Unreachable::new(Some(4), None, Some('F'), "fragmentation needed"),
        Unreachable::new(Some(5), None, Some('S'), "source route failed"),
        Unreachable::new(Some(6), None, Some('U'), "network unknown"),
        Unreachable::new(Some(7), None, Some('W'), "host unknown"),
        Unreachable::new(Some(8), None, Some('I'), "source host isolated"),
        Unreachable::new(Some(9), None, Some('A'), "network administratively prohibited"),
        Unreachable::new(Some(10), None, Some('Z'), "host administratively prohibited"),
        Unreachable::new(Some(11), None, Some('Q'), "network unreachable for this type of service"),
        Unreachable::new(Some(12), None, Some('T'), "host unreachable for this type of service"),
        Unreachable::new(Some(13), Some(1), Some('X'), "administratively prohibited"),
        Unreachable::new(Some(14), None, Some('V'), "host precedence violation"),
        Unreachable::new(Some(15), None, Some('C'), "precedence cutoff"),
        Unreachable::new(None, Some(2), None, "beyond the scope of the source address"),
        Unreachable::new(None, Some(5), None, "source address refused by policy"),
        Unreachable::new(None, Some(6), None, "route rejects the destination"),
    ];

    const fn new(v4: Option<u8>, v6: Option<u8>, letter: Option<char>, words: &'static str) -> Self {
        Unreachable {
            v4,
            v6,
            letter,
            words,
        }
    }

    fn of(family: Family, code: u8) -> Option<&'static Unreachable> {
        const ALL: &[Unreachable] = &Unreachable::ALL;
        ALL.iter().find(|meaning| meaning.code(family) == Some(code))
    }

    fn code(&self, family: Family) -> Option<u8> {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}
