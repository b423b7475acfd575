//! Text from elsewhere, made fit to be shown.

use std::net::IpAddr;
use std::time::Duration;

use datadog_traceroute::Cause;
use unicode_width::UnicodeWidthStr;

/// `text` without anything that could do more on a terminal than be read: control characters, and
/// those that are invisible or turn the direction of writing, are escaped as `\u{1b}`. A name is
/// what a stranger's name server says.
pub fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    // `escape_debug` knows what cannot be shown, but escapes these three as well, which can.
    for piece in text.split_inclusive(['\\', '"', '\'']) {
        let mut chars = piece.chars();
        match chars.next_back() {
            Some(last @ ('\\' | '"' | '\'')) => {
                clean.extend(chars.as_str().escape_debug());
                clean.push(last);
            }
            _ => clean.extend(piece.escape_debug()),
        }
    }
    clean
}

/// How many columns of a terminal `text` takes.
pub fn width(text: &str) -> usize {
    text.width()
}

/// A host as people write it: `name (address)`, or the address alone. Of several names the first.
pub fn host(address: IpAddr, names: &[String]) -> String {
    match names.first() {
        Some(name) => format!("{} ({address})", clean(name)),
        None => address.to_string(),
    }
}

/// A time in milliseconds.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e6
}

/// A round-trip time in milliseconds, to the microsecond.
pub fn rtt(milliseconds: f64) -> String {
    format!("{milliseconds:.3}")
}

/// Why a probe went unanswered, in a word.
pub(crate) fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Network => "lost",
        Cause::RateLimited => "limited",
        Cause::Silent => "silent",
        Cause::Filtered => "filtered",
        Cause::Local => "local",
        Cause::Unknown => "unknown",
    }
}

/// Why a probe went unanswered, where there is more room.
pub(crate) fn cause_in_words(cause: Cause) -> &'static str {
    match cause {
        Cause::RateLimited => "rate limited",
        cause => self::cause(cause),
    }
}

/// `1 run`, `2 runs`.
pub(crate) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_can_be_read_stays_as_it_is() {
        for text in [
            "router.example.net",
            r"with\032space.example",
            r#"it's "quoted" \\ here"#,
            "bücher.example",
            "संगठन.example",
            "例え.テスト",
            "\\",
            "",
        ] {
            assert_eq!(clean(text), text);
        }
    }

    #[test]
    fn what_terminals_obey_is_escaped() {
        let cases = [
            ("\x1b]0;title\x07", r"\u{1b}]0;title\u{7}"),
            ("a\r\n\tb", r"a\r\n\tb"),
            ("\x7f\u{9b}31m", r"\u{7f}\u{9b}31m"),
            ("abc\u{202e}fed", r"abc\u{202e}fed"),
            ("\u{200b}\u{feff}\u{2028}", r"\u{200b}\u{feff}\u{2028}"),
            ("\\\x1b'\x1b\"\x1b", "\\\\u{1b}'\\u{1b}\"\\u{1b}"),
        ];
        for (hostile, shown) in cases {
            assert_eq!(clean(hostile), shown, "{hostile:?}");
        }
    }

    #[test]
    fn width_is_columns() {
        assert_eq!(width("example"), 7);
        assert_eq!(width("bücher"), 6);
        assert_eq!(width("bu\u{308}cher"), 6);
        assert_eq!(width("例え"), 4);
    }

    proptest! {
        #[test]
        fn nothing_that_a_terminal_obeys_is_left(text in any::<String>()) {
            prop_assert!(!clean(&text).contains(char::is_control), "{:?}", clean(&text));
        }
    }
}
