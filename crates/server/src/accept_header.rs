//! What a client wants errors to look like (RFC 9110 §12.5.1).

use axum::http::{HeaderMap, header};

/// Whether the client prefers JSON to plain text: gives it a higher quality. Where it has no
/// preference it gets plain text.
pub(crate) fn prefers_json(headers: &HeaderMap) -> bool {
    let ranges: Vec<Range> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(Range::parse)
        .collect();
    quality(&ranges, "application", "json") > quality(&ranges, "text", "plain")
}

/// One media range with its quality.
struct Range {
    kind: String,
    subtype: String,
    /// 0–1000.
    quality: u16,
}

impl Range {
    fn parse(text: &str) -> Option<Range> {
        let mut parts = text.split(';').map(str::trim);
        let (kind, subtype) = parts.next()?.split_once('/')?;
        let mut quality = 1000;
        for parameter in parts {
            if let Some((name, value)) = parameter.split_once('=')
                && name.trim().eq_ignore_ascii_case("q")
            {
                quality = thousandths(value.trim())?;
            }
        }
        Some(Range {
            kind: kind.trim().to_ascii_lowercase(),
            subtype: subtype.trim().to_ascii_lowercase(),
            quality,
        })
    }

    /// How well the range fits, 0–2; `None`: not at all.
    fn specificity(&self, kind: &str, subtype: &str) -> Option<u8> {
        match (self.kind.as_str(), self.subtype.as_str()) {
            (k, s) if k == kind && s == subtype => Some(2),
            (k, "*") if k == kind => Some(1),
            ("*", "*") => Some(0),
            _ => None,
        }
    }
}

/// `0.5` is 500. `None` for what is no quality.
fn thousandths(text: &str) -> Option<u16> {
    let value: f32 = text.parse().ok()?;
    (0.0..=1.0)
        .contains(&value)
        .then(|| (value * 1000.0).round() as u16)
}

/// The quality that the most specific range gives; 0 when none fits.
fn quality(ranges: &[Range], kind: &str, subtype: &str) -> u16 {
    ranges
        .iter()
        .filter_map(|range| Some((range.specificity(kind, subtype)?, range.quality)))
        .max()
        .map_or(0, |(_, quality)| quality)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json(values: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::ACCEPT, value.parse().unwrap());
        }
        prefers_json(&headers)
    }

    #[test]
    fn preferences() {
        let cases = [
            (&[][..], false),
            (&[""], false),
            (&["*/*"], false),
            (&["text/plain"], false),
            (
                &["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"],
                false,
            ),
            (&["application/json"], true),
            (&["Application/JSON"], true),
            (&["application/json; charset=utf-8"], true),
            (&["application/*"], true),
            (&["application/json, text/plain, */*"], false),
            (&["application/json;q=0.9, text/plain;q=0.5"], true),
            (&["application/json;q=0.5, text/plain;q=0.9"], false),
            (&["application/json, text/plain;q=0.9"], true),
            (&["application/json, */*;q=0.8"], true),
            (&["*/*;q=0.8, application/json"], true),
            (&["application/json;q=0, */*"], false),
            (&["text/*;q=0.3, */*;q=0.5"], true),
            (&["text/plain;q=0, */*;q=0.1"], true),
            (&["application/json ; Q=0.2"], true),
            (&["application/json;q=0"], false),
            (&["application/json;q=x"], false),
            (&["application/json;q=2"], false),
            (&["application/json;q=nan"], false),
            (&["text/plain;q=0.1", "application/json;q=0.2"], true),
            (&["application/problem+json"], false),
            (&["nonsense"], false),
        ];
        for (values, expected) in cases {
            assert_eq!(json(values), expected, "{values:?}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(value in "[ -~]{0,60}") {
            let _ = json(&[&value]);
        }
    }
}
