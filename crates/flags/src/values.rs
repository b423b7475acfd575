//! How numbers and booleans are written on the command line and in query strings: as Go's `strconv`
//! reads them.

use std::fmt;

/// A text that is no boolean or no integer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidValue {
    text: String,
    problem: &'static str,
}

impl fmt::Display for InvalidValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.text, self.problem)
    }
}

impl std::error::Error for InvalidValue {}

/// Reads a boolean: `true`, `false`, `True`, `False`, `TRUE`, `FALSE`, `t`, `f`, `T`, `F`, `1` or
/// `0`.
///
/// # Errors
/// For any other text.
pub fn parse_bool(text: &str) -> Result<bool, InvalidValue> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(InvalidValue {
            text: text.to_owned(),
            problem: "is neither true nor false",
        }),
    }
}

/// Reads an integer: decimal, or with a base prefix (`0x`, `0o`, `0b`, or `0` for octal), perhaps
/// with a sign, and with single underscores between digits or behind the prefix.
///
/// # Errors
/// For any other text, and for numbers that do not fit into 64 bits.
pub fn parse_int(text: &str) -> Result<i64, InvalidValue> {
    let invalid = |problem| InvalidValue {
        text: text.to_owned(),
        problem,
    };
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let (base, digits) = split_base(unsigned);
    let digits = plain_digits(digits, base).ok_or_else(|| invalid("is not an integer"))?;
    // Signed from the start, as the lowest number has no positive counterpart.
    let signed = if negative { format!("-{digits}") } else { digits };
    i64::from_str_radix(&signed, base).map_err(|_| invalid("does not fit into 64 bits"))
}

/// The base that an unsigned number's prefix names, and what follows the prefix. The `0` of octal
/// numbers stays: it is a digit too.
fn split_base(unsigned: &str) -> (u32, &str) {
    match unsigned.as_bytes() {
        [b'0', b'x' | b'X', _, ..] => (16, &unsigned[2..]),
        [b'0', b'o' | b'O', _, ..] => (8, &unsigned[2..]),
        [b'0', b'b' | b'B', _, ..] => (2, &unsigned[2..]),
        [b'0', _, ..] => (8, unsigned),
        _ => (10, unsigned),
    }
}

/// The digits without underscores. `None` when there are none, when one is not of the base, or when
/// an underscore does not stand between digits (one directly behind a prefix is fine).
fn plain_digits(digits: &str, base: u32) -> Option<String> {
    let behind_prefix = base != 10;
    let trimmed = digits
        .strip_prefix('_')
        .filter(|_| behind_prefix)
        .unwrap_or(digits);
    let groups_are_digits = trimmed
        .split('_')
        .all(|group| !group.is_empty() && group.chars().all(|c| c.is_digit(base)));
    groups_are_digits.then(|| trimmed.replace('_', ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans() {
        for text in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(parse_bool(text), Ok(true), "{text}");
        }
        for text in ["0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(parse_bool(text), Ok(false), "{text}");
        }
        for text in ["", "yes", "tRUE", " true", "2"] {
            assert!(parse_bool(text).is_err(), "{text}");
        }
        assert_eq!(
            parse_bool("yes").unwrap_err().to_string(),
            r#""yes" is neither true nor false"#
        );
    }

    #[test]
    fn integers() {
        let good = [
            ("0", 0),
            ("-0", 0),
            ("+7", 7),
            ("300", 300),
            ("0x1F", 31),
            ("0X1f", 31),
            ("-0x10", -16),
            ("0o17", 15),
            ("017", 15),
            ("00", 0),
            ("0b101", 5),
            ("1_000", 1000),
            ("0x_ff", 255),
            ("0_7", 7),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ];
        for (text, value) in good {
            assert_eq!(parse_int(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn not_integers() {
        let bad = [
            "", "-", "+", "_1", "1_", "1__0", "0x", "0x_", "0b2", "08", "0o8", "0x__1", "1.0", "1e3", " 1",
            "1 ", "--1", "+-1", "0_", "_", "ten", "٣", "-_1",
        ];
        for text in bad {
            assert_eq!(
                parse_int(text).map_err(|e| e.problem),
                Err("is not an integer"),
                "{text}"
            );
        }
        for text in [
            "9223372036854775808",
            "-9223372036854775809",
            "0xffffffffffffffff",
        ] {
            assert_eq!(
                parse_int(text).unwrap_err().to_string(),
                format!("{text:?} does not fit into 64 bits")
            );
        }
    }
}
