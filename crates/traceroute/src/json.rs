//! JSON as the contract shows it: whole numbers without `.0`, plain decimals, and HTML characters
//! escaped.

use std::fmt::{Display, LowerExp};
use std::io::{self, Write};

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};

/// Indented by two spaces, with a final newline.
///
/// # Errors
/// When `value`'s own serialization fails; a [`Report`](crate::Report)'s never does.
pub fn to_pretty<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<String> {
    write(value, PrettyFormatter::new(), 0)
}

/// Without white space, with a final newline.
///
/// # Errors
/// When `value`'s own serialization fails; a [`Report`](crate::Report)'s never does.
pub fn to_compact<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<String> {
    write(value, CompactFormatter, 0)
}

/// As [`to_compact`], of a value that takes about this many bytes: a large one is not copied while
/// it is written.
///
/// # Errors
/// As [`to_compact`].
pub fn to_compact_of_size<T: Serialize + ?Sized>(value: &T, bytes: usize) -> serde_json::Result<String> {
    write(value, CompactFormatter, bytes)
}

/// As [`to_pretty`], of a value that takes about this many bytes.
///
/// # Errors
/// As [`to_pretty`].
pub fn to_pretty_of_size<T: Serialize + ?Sized>(value: &T, bytes: usize) -> serde_json::Result<String> {
    write(value, PrettyFormatter::new(), bytes)
}

fn write<T: Serialize + ?Sized>(
    value: &T,
    layout: impl Formatter,
    capacity: usize,
) -> serde_json::Result<String> {
    let mut bytes = Vec::with_capacity(capacity);
    value.serialize(&mut Serializer::with_formatter(
        &mut bytes,
        ContractFormatter { layout },
    ))?;
    bytes.push(b'\n');
    String::from_utf8(bytes).map_err(serde::ser::Error::custom)
}

/// Numbers and strings as in the contract; white space by `layout`.
struct ContractFormatter<L> {
    layout: L,
}

impl<L: Formatter> Formatter for ContractFormatter<L> {
    fn write_f32<W: ?Sized + Write>(&mut self, writer: &mut W, value: f32) -> io::Result<()> {
        let size = value.abs();
        write_number(writer, value, size == 0.0 || (1e-6..1e21).contains(&size))
    }

    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        let size = value.abs();
        write_number(writer, value, size == 0.0 || (1e-6..1e21).contains(&size))
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, special)) = rest.char_indices().find(|(_, c)| is_escaped(*c)) {
            writer.write_all(&rest.as_bytes()[..at])?;
            write!(writer, "\\u{:04x}", u32::from(special))?;
            rest = &rest[at + special.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }

    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.layout.begin_array(writer)
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.layout.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.layout.begin_array_value(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.layout.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.layout.begin_object(writer)
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.layout.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.layout.begin_object_key(writer, first)
    }

    fn end_object_key<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.layout.end_object_key(writer)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.layout.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.layout.end_object_value(writer)
    }
}

/// Characters that are safe in JSON but not where JSON is pasted into HTML or JavaScript.
fn is_escaped(c: char) -> bool {
    matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}')
}

/// The shortest form that reads back the same, which is what `Display` and `LowerExp` give;
/// positive exponents get the sign that JavaScript gives them.
fn write_number<W, N>(writer: &mut W, number: N, plain: bool) -> io::Result<()>
where
    W: ?Sized + Write,
    N: Display + LowerExp,
{
    if plain {
        return write!(writer, "{number}");
    }
    let text = format!("{number:e}");
    match text.split_once('e') {
        Some((digits, exponent)) if !exponent.starts_with('-') => write!(writer, "{digits}e+{exponent}"),
        _ => writer.write_all(text.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Document;
    use proptest::prelude::*;

    /// The contract's example, byte for byte.
    const GOLDEN: &str = include_str!("../tests/golden/report.json");

    fn compact<T: Serialize>(value: T) -> String {
        let text = to_compact(&value).unwrap();
        text.strip_suffix('\n').unwrap().to_owned()
    }

    #[test]
    fn golden_example_reads_and_writes_identically() {
        let document: Document = serde_json::from_str(GOLDEN).unwrap();
        assert_eq!(to_pretty(&document).unwrap(), GOLDEN);
    }

    #[test]
    fn compact_golden_example_is_the_same_without_white_space() {
        // No string in the example contains white space.
        let document: Document = serde_json::from_str(GOLDEN).unwrap();
        let expected: String = GOLDEN.split_whitespace().collect();
        assert_eq!(to_compact(&document).unwrap(), expected + "\n");
    }

    #[test]
    fn numbers() {
        let cases = [
            (0.0, "0"),
            (3.0, "3"),
            (-2.0, "-2"),
            (12.7, "12.7"),
            (0.1 + 0.2, "0.30000000000000004"),
            (1e-6, "0.000001"),
            (9.99e-7, "9.99e-7"),
            (1e-7, "1e-7"),
            (5e-324, "5e-324"),
            (123_456_789_012_345_680_000.0, "123456789012345680000"),
            (999_999_999_999_999_900_000.0, "999999999999999900000"),
            (1e21, "1e+21"),
            (-1.5e22, "-1.5e+22"),
            (f64::MAX, "1.7976931348623157e+308"),
        ];
        for (value, text) in cases {
            assert_eq!(compact(value), text);
        }
    }

    #[test]
    fn single_precision_numbers() {
        let cases = [
            (0.02_f32, "0.02"),
            (1.0 / 3.0, "0.33333334"),
            (1e-6, "0.000001"),
            (1e-7, "1e-7"),
            (1e21, "1e+21"),
            (1.0, "1"),
        ];
        for (value, text) in cases {
            assert_eq!(compact(value), text);
        }
    }

    #[test]
    fn html_characters_are_escaped() {
        assert_eq!(
            compact("<a href=\"x\">&\u{2028}\u{2029}ü\\\n\u{1}</a>"),
            r#""\u003ca href=\"x\"\u003e\u0026\u2028\u2029ü\\\n\u0001\u003c/a\u003e""#
        );
    }

    #[test]
    fn empty_lists_stay_on_one_line() {
        let empty: [u8; 0] = [];
        assert_eq!(to_pretty(&empty).unwrap(), "[]\n");
        assert_eq!(to_pretty(&[[1]]).unwrap(), "[\n  [\n    1\n  ]\n]\n");
    }

    proptest! {
        #[test]
        fn numbers_read_back_the_same(value in prop::num::f64::ANY.prop_filter("JSON has no others", |v| v.is_finite())) {
            prop_assert_eq!(compact(value).parse::<f64>().unwrap().to_bits(), value.to_bits());
        }

        #[test]
        fn single_precision_numbers_read_back_the_same(bits: u32) {
            let value = f32::from_bits(bits);
            prop_assume!(value.is_finite());
            prop_assert_eq!(compact(value).parse::<f32>().unwrap().to_bits(), bits);
        }

        #[test]
        fn strings_read_back_the_same(text in any::<String>()) {
            let json = compact(&text);
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
            prop_assert!(!json.contains(is_escaped));
        }
    }
}
