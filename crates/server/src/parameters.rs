//! From a query string to parameters, as Go's `net/url` and `strconv` read them.

use traceroute_flags::{Parameters, PathParameters, Value};

/// Reads the parameters of a query string, percent-encoded. What is absent, empty or does not parse
/// has its default; nothing is checked yet.
pub(crate) fn from_query(query: &str) -> Parameters {
    let query = Query::parse(query);
    Parameters::from_query(|name| query.first(name), warn)
}

/// The same for a discovery of paths.
pub(crate) fn paths_from_query(query: &str) -> PathParameters {
    let query = Query::parse(query);
    PathParameters::from_query(|name| query.first(name), warn)
}

fn warn(name: &str, error: &str, default: Option<&Value>) {
    let default = default.map(tracing::field::display);
    tracing::warn!(parameter = name, %error, default, "a value does not parse; the default is used");
}

/// Names and values, decoded, in order.
struct Query(Vec<(String, String)>);

impl Query {
    /// Pairs that contain a semicolon or a wrong percent-encoding are left out.
    fn parse(text: &str) -> Query {
        let pairs = text
            .split('&')
            .filter(|pair| !pair.is_empty() && !pair.contains(';'));
        let decoded = pairs.filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(name)?, decode(value)?))
        });
        Query(decoded.collect())
    }

    /// The first value of a name; `None` when that is empty.
    fn first(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(key, _)| key == name)?;
        (!value.is_empty()).then_some(value)
    }
}

/// Undoes percent-encoding, and `+` for a space; `None` when a percent sign is not followed by two
/// hexadecimal digits.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let (digits, tail) = tail.split_at_checked(2)?;
                bytes.push(hex(digits[0])? << 4 | hex(digits[1])?);
                rest = tail;
            }
            other => bytes.push(other),
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fmt::Write;
    use traceroute_flags::{Interface, Kind, OPTIONS};

    /// Asserts that `query` gives the parameters these values, and all others their defaults.
    fn assert_values(query: &str, expected: &[(&str, &str)]) {
        let parameters = from_query(query);
        for option in OPTIONS {
            let Some(name) = option.query else { continue };
            let given = expected.iter().find(|(given, _)| *given == name);
            let value = match given {
                Some((_, value)) => Some((*value).to_owned()),
                None => option.default(Interface::Query).map(|value| value.to_string()),
            };
            assert_eq!(
                parameters.get(name).map(ToString::to_string),
                value,
                "{query}: {name}"
            );
        }
    }

    #[test]
    fn the_contracts_defaults() {
        assert_values("", &[]);
        let contract = [
            ("protocol", "udp"),
            ("port", "33434"),
            ("traceroute-queries", "3"),
            ("max-ttl", "30"),
            ("timeout", "3000"),
            ("tcp-method", "syn"),
            ("e2e-queries", "50"),
            ("ipv6", "false"),
            ("reverse-dns", "false"),
            ("source-public-ip", "false"),
            ("windows-driver", "false"),
            ("skip-private-hops", "false"),
        ];
        assert_values("", &contract);
    }

    #[test]
    fn every_parameter_has_its_effect() {
        let mut query = String::new();
        let mut expected = Vec::new();
        for option in OPTIONS {
            let Some(name) = option.query else { continue };
            let value = match &option.kind {
                Kind::Choice(choices) => choices[1].name.to_uppercase(),
                Kind::Integer(range, _) => (range.end() - 1).to_string(),
                Kind::Switch(_) | Kind::Shorthand { .. } => "true".to_owned(),
                Kind::Text(_) | Kind::Target => "text".to_owned(),
            };
            write!(query, "{name}={value}&").unwrap();
            expected.push((name, value));
        }
        let expected: Vec<_> = expected
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        assert_values(&query, &expected);
    }

    #[test]
    fn values_in_every_form() {
        let cases: [(&str, &[(&str, &str)]); 34] = [
            ("port=80&port=443", &[("port", "80")]),
            ("port=&port=443", &[]),
            ("port", &[]),
            ("port=abc", &[]),
            ("port=abc&port=80", &[]),
            ("port=1.5", &[]),
            ("port=+80", &[]),
            ("port=%2B80", &[("port", "80")]),
            ("port=0x50", &[]),
            ("port=0b11", &[]),
            ("port=4_43", &[]),
            ("port=%2B", &[]),
            ("port=%2080", &[]),
            ("port=0443", &[("port", "443")]),
            ("timeout=0500&max-ttl=08", &[("timeout", "500"), ("max-ttl", "8")]),
            ("port=-1", &[("port", "-1")]),
            ("port=99999999999999999999", &[]),
            ("port=70000", &[("port", "70000")]),
            ("ipv6=maybe&packet-size=x", &[]),
            ("ipv6=yes", &[]),
            ("IPV6=true", &[]),
            ("&&target=host&&", &[("target", "host")]),
            ("unknown=1&verbose=1&format=csv&proto=tcp", &[]),
            ("protocol=", &[]),
            (
                "target=%5B2001%3Adb8%3A%3A1%5D%3A443",
                &[("target", "[2001:db8::1]:443")],
            ),
            ("target=[2001:db8::1]:443", &[("target", "[2001:db8::1]:443")]),
            ("target=a+b", &[("target", "a b")]),
            ("t%61rget=x%3Dy%26z", &[("target", "x=y&z")]),
            ("target=b%C3%BCcher", &[("target", "bücher")]),
            ("source=&interface=&fwmark=", &[]),
            ("target=%ff", &[("target", "\u{fffd}")]),
            ("target=a=b", &[("target", "a=b")]),
            (
                "target=%zz&target=%4&target=a;b&target=host",
                &[("target", "host")],
            ),
            ("target=fe80::1%25eth0", &[("target", "fe80::1%eth0")]),
        ];
        for (query, expected) in cases {
            assert_values(query, expected);
        }
    }

    #[test]
    fn switches_in_every_form() {
        for (value, expected) in [
            ("1", true),
            ("t", true),
            ("T", true),
            ("true", true),
            ("True", true),
            ("TRUE", true),
            ("0", false),
            ("f", false),
            ("F", false),
            ("false", false),
            ("False", false),
            ("FALSE", false),
            ("tRUE", false),
        ] {
            assert_eq!(
                from_query(&format!("ipv6={value}")).switch("ipv6"),
                expected,
                "{value}"
            );
        }
    }

    #[test]
    fn no_target_is_an_empty_one() {
        for query in ["", "target", "target=", "target=&target=host", "Target=host"] {
            assert_eq!(from_query(query).text("target"), "", "{query}");
        }
    }

    proptest! {
        #[test]
        fn any_target_arrives_as_sent(target in any::<String>()) {
            let mut query = "target=".to_owned();
            for byte in target.bytes() {
                write!(query, "%{byte:02x}").unwrap();
            }
            prop_assert_eq!(from_query(&query).text("target").to_owned(), target);
        }

        #[test]
        fn no_query_panics(query in any::<String>()) {
            let _ = from_query(&query);
        }
    }
}
