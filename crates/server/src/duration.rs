//! Durations as Go writes them: `1h2m3.5s`, `350ms`, `0s`.

use std::time::Duration;

const SECOND: u128 = 1_000_000_000;

/// Writes a duration as Go's `Duration.String` does: hours, minutes and seconds without leading
/// zero units, and below a second the largest unit that leaves a whole part.
pub(crate) fn format(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    match nanos {
        0 => return "0s".to_owned(),
        1..1_000 => return format!("{nanos}ns"),
        1_000..1_000_000 => return format!("{}µs", decimal(nanos, 1_000)),
        1_000_000..SECOND => return format!("{}ms", decimal(nanos, 1_000_000)),
        _ => {}
    }
    let minutes = nanos / (60 * SECOND);
    let (hours, minutes) = (minutes / 60, minutes % 60);
    let seconds = decimal(nanos % (60 * SECOND), SECOND);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// `value / unit` without trailing zeros.
fn decimal(value: u128, unit: u128) -> String {
    let digits = unit.ilog10() as usize;
    let text = format!("{}.{:0digits$}", value / unit, value % unit);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Reads a duration as Go's `ParseDuration` does, except that there are no negative ones: numbers
/// with units one after the other, such as `1h30m`, `1.5s` or `500ms`; `0` needs no unit.
///
/// # Errors
/// For any other text.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanos = 0_f64;
    while !rest.is_empty() {
        let number_end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let number: f64 = number.parse().map_err(|_| invalid(text))?;
        nanos += number * unit_nanos(unit).ok_or_else(|| invalid(text))?;
        rest = tail;
    }
    if text.is_empty() || nanos > 1e9 * 3600.0 * 24.0 * 36_500.0 {
        return Err(invalid(text));
    }
    Ok(Duration::from_nanos(nanos.round() as u64))
}

fn invalid(text: &str) -> String {
    format!("{text:?} is no duration such as 1h30m, 10s or 500ms")
}

fn unit_nanos(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1.0,
        "us" | "µs" | "μs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" => 60e9,
        "h" => 3600e9,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn written_as_go_does() {
        let cases = [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (350_000_000, "350ms"),
            (1_000_000_000, "1s"),
            (3_300_000_000, "3.3s"),
            (60_000_000_000, "1m0s"),
            (60_500_000_000, "1m0.5s"),
            (245_001_000_000, "4m5.001s"),
            (3_600_000_000_000, "1h0m0s"),
            (3_723_500_000_000, "1h2m3.5s"),
            (18_367_001_000_000, "5h6m7.001s"),
            (480_000_000_001, "8m0.000000001s"),
        ];
        for (nanos, text) in cases {
            assert_eq!(format(Duration::from_nanos(nanos)), text);
        }
    }

    #[test]
    fn read() {
        let cases = [
            ("0", 0.0),
            ("0s", 0.0),
            ("5s", 5.0),
            ("1.5s", 1.5),
            (".5s", 0.5),
            ("500ms", 0.5),
            ("1h30m", 5400.0),
            ("1h2m3.5s", 3723.5),
        ];
        for (text, seconds) in cases {
            assert_eq!(parse(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
    }

    #[test]
    fn refused() {
        for text in [
            "",
            "5",
            "s",
            "-1s",
            "+1s",
            "1x",
            "1 s",
            "1s ",
            "1..s",
            "999999999h",
            "NaNs",
            "infs",
            "1e3s",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(nanos in 0..100_000_u64 * 1_000_000_000) {
            let duration = Duration::from_nanos(nanos);
            let read = parse(&format(duration)).unwrap();
            // Floating point arithmetic in between.
            prop_assert!(read.abs_diff(duration) < Duration::from_micros(1));
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = parse(&text);
        }
    }
}
