//! From a query string to parameters, as Go's `net/url` and `strconv` read them.

use std::fmt;

use datadog_traceroute::{DEFAULT_TIMEOUT_MS, Parameters, parse_bool};

/// Reads the parameters of a query string, percent-encoded. What is absent, empty or does not parse
/// has its default; nothing is checked yet.
pub(crate) fn from_query(query: &str) -> Parameters {
    let query = Query::parse(query);
    let default = Parameters::default();
    Parameters {
        target: query.text("target", default.target),
        protocol: query.text("protocol", default.protocol),
        tcp_method: query.text("tcp-method", default.tcp_method),
        port: query.value("port", default.port, str::parse),
        traceroute_queries: query.value("traceroute-queries", default.traceroute_queries, str::parse),
        e2e_queries: query.value("e2e-queries", default.e2e_queries, str::parse),
        max_ttl: query.value("max-ttl", default.max_ttl, str::parse),
        timeout_ms: query.value("timeout", DEFAULT_TIMEOUT_MS.cast_signed(), str::parse),
        ipv6: query.value("ipv6", default.ipv6, parse_bool),
        reverse_dns: query.value("reverse-dns", default.reverse_dns, parse_bool),
        source_public_ip: query.value("source-public-ip", default.source_public_ip, parse_bool),
        windows_driver: query.value("windows-driver", default.windows_driver, parse_bool),
        skip_private_hops: query.value("skip-private-hops", default.skip_private_hops, parse_bool),
        details: query.value("details", default.details, parse_bool),
        hop_retries: query.value("hop-retries", default.hop_retries, str::parse),
        e2e_interval_ms: query.value("e2e-interval", default.e2e_interval_ms, str::parse),
        first_ttl: query.value("first-ttl", default.first_ttl, str::parse),
        delay_ms: query.optional("delay"),
        packet_size: query.optional("packet-size"),
        tos: query.optional("tos"),
        dscp: query.optional("dscp"),
        dont_fragment: query.value("dont-fragment", default.dont_fragment, parse_bool),
        // Text: a mark that does not parse must be refused. Without one the probes would take
        // another way than was asked for.
        source: query.first("source").map(str::to_owned),
        interface: query.first("interface").map(str::to_owned),
        fwmark: query.first("fwmark").map(str::to_owned),
    }
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

    fn text(&self, name: &str, default: String) -> String {
        self.first(name).map_or(default, str::to_owned)
    }

    /// Integers are decimal, with or without a sign, as `strconv.Atoi` has them: what Rust's own
    /// parser takes.
    fn value<T: Copy + fmt::Display, E: fmt::Display>(
        &self,
        name: &str,
        default: T,
        parse: fn(&str) -> Result<T, E>,
    ) -> T {
        let Some(text) = self.first(name) else {
            return default;
        };
        parse(text).unwrap_or_else(|error| {
            tracing::warn!(parameter = name, %error, %default, "a value does not parse; the default is used");
            default
        })
    }

    /// An integer whose default is not a value of its own.
    fn optional(&self, name: &str) -> Option<i64> {
        let parsed = self.first(name)?.parse();
        if let Err(error) = &parsed {
            tracing::warn!(parameter = name, %error, "a value does not parse; the default is used");
        }
        parsed.ok()
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

    fn defaults() -> Parameters {
        Parameters {
            target: "host".to_owned(),
            timeout_ms: 3000,
            ..Parameters::default()
        }
    }

    #[test]
    fn the_contracts_defaults() {
        let parameters = from_query("target=host");
        assert_eq!(parameters, defaults());
        let expected = Parameters {
            target: "host".to_owned(),
            protocol: "udp".to_owned(),
            tcp_method: "syn".to_owned(),
            port: 33434,
            traceroute_queries: 3,
            e2e_queries: 50,
            max_ttl: 30,
            timeout_ms: 3000,
            ipv6: false,
            reverse_dns: false,
            source_public_ip: false,
            windows_driver: false,
            skip_private_hops: false,
            details: false,
            hop_retries: 2,
            e2e_interval_ms: 0,
            first_ttl: 1,
            delay_ms: None,
            packet_size: None,
            tos: None,
            dscp: None,
            dont_fragment: false,
            source: None,
            interface: None,
            fwmark: None,
        };
        assert_eq!(parameters, expected);
    }

    #[test]
    fn every_parameter_has_its_effect() {
        let query = "target=h&protocol=TCP&port=443&traceroute-queries=4&max-ttl=6&timeout=7&tcp-method=sack\
                     &e2e-queries=5&ipv6=1&reverse-dns=t&source-public-ip=T&windows-driver=true&skip-private-hops=TRUE\
                     &details=true&hop-retries=8&e2e-interval=9&first-ttl=2&delay=0\
                     &packet-size=100&tos=184&dscp=46&dont-fragment=1&source=10.0.0.1&interface=eth1&fwmark=16";
        let expected = Parameters {
            target: "h".to_owned(),
            protocol: "TCP".to_owned(),
            tcp_method: "sack".to_owned(),
            port: 443,
            traceroute_queries: 4,
            e2e_queries: 5,
            max_ttl: 6,
            timeout_ms: 7,
            ipv6: true,
            reverse_dns: true,
            source_public_ip: true,
            windows_driver: true,
            skip_private_hops: true,
            details: true,
            hop_retries: 8,
            e2e_interval_ms: 9,
            first_ttl: 2,
            delay_ms: Some(0),
            packet_size: Some(100),
            tos: Some(184),
            dscp: Some(46),
            dont_fragment: true,
            source: Some("10.0.0.1".to_owned()),
            interface: Some("eth1".to_owned()),
            fwmark: Some("16".to_owned()),
        };
        assert_eq!(from_query(query), expected);
    }

    #[test]
    fn values_in_every_form() {
        let port = |port| Parameters { port, ..defaults() };
        let target = |target: &str| Parameters {
            target: target.to_owned(),
            ..defaults()
        };
        let cases = [
            ("target=host&port=80&port=443", port(80)),
            ("target=host&port=&port=443", port(33434)),
            ("target=host&port", port(33434)),
            ("target=host&port=abc", port(33434)),
            ("target=host&port=abc&port=80", port(33434)),
            ("target=host&port=1.5", port(33434)),
            ("target=host&port=+80", port(33434)),
            ("target=host&port=%2B80", port(80)),
            ("target=host&port=0x50", port(33434)),
            ("target=host&port=0b11", port(33434)),
            ("target=host&port=4_43", port(33434)),
            ("target=host&port=%2B", port(33434)),
            ("target=host&port=%2080", port(33434)),
            ("target=host&port=0443", port(443)),
            (
                "target=host&timeout=0500&max-ttl=08",
                Parameters {
                    timeout_ms: 500,
                    max_ttl: 8,
                    ..defaults()
                },
            ),
            ("target=host&port=-1", port(-1)),
            ("target=host&port=99999999999999999999", port(33434)),
            ("target=host&port=70000", port(70000)),
            ("target=host&ipv6=maybe", defaults()),
            ("target=host&ipv6=yes", defaults()),
            ("target=host&IPV6=true", defaults()),
            ("&&target=host&&", defaults()),
            ("target=host&unknown=1", defaults()),
            ("protocol=&target=host", defaults()),
            (
                "target=%5B2001%3Adb8%3A%3A1%5D%3A443",
                target("[2001:db8::1]:443"),
            ),
            ("target=[2001:db8::1]:443", target("[2001:db8::1]:443")),
            ("target=a+b", target("a b")),
            ("t%61rget=x%3Dy%26z", target("x=y&z")),
            ("target=b%C3%BCcher", target("bücher")),
            ("target=fe80::1%25eth0", target("fe80::1%eth0")),
            ("target=host&source=&interface=&fwmark=", defaults()),
            ("target=%ff", target("\u{fffd}")),
            ("target=a=b", target("a=b")),
            ("target=%zz&target=host", defaults()),
            ("target=%4&target=host", defaults()),
            ("target=a;b&target=host", defaults()),
        ];
        for (query, expected) in cases {
            assert_eq!(from_query(query), expected, "{query}");
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
            assert_eq!(from_query(&format!("ipv6={value}")).ipv6, expected, "{value}");
        }
    }

    #[test]
    fn no_target_is_an_empty_one() {
        for query in ["", "target", "target=", "target=&target=host", "Target=host"] {
            assert_eq!(from_query(query).target, "", "{query}");
        }
    }

    proptest! {
        #[test]
        fn any_target_arrives_as_sent(target in any::<String>()) {
            let mut query = "target=".to_owned();
            for byte in target.bytes() {
                write!(query, "%{byte:02x}").unwrap();
            }
            prop_assert_eq!(from_query(&query).target, target);
        }

        #[test]
        fn no_query_panics(query in any::<String>()) {
            let _ = from_query(&query);
        }
    }
}
