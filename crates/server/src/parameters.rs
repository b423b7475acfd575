//! From a query string to parameters, as Go's `net/url` and `strconv` read them.

use std::collections::HashSet;
use std::fmt;

use traceroute_flags::{
    Interface, InvalidParameter, OPTIONS, PATH_PARAMETERS, Parameters, PathParameters, TraceOption, Value,
    is_shared_with_paths, parse_bool,
};

use crate::failure::Failure;
use crate::limits::Ceilings;
use crate::logging::{may_tell_of_cheap_request, shorten};

/// Makes an error of everything that would be a remark.
pub(crate) const STRICT: &str = "strict";
/// Parameters of `/probe` alone.
pub(crate) const MODULE: &str = "module";

/// How alike two names are when one may be a misspelling of the other, by `strsim::jaro_winkler`.
const ALIKE: f64 = 0.85;
/// How many remarks a client is told of, and how many characters of a name.
const MOST: (usize, usize) = (10, 40);

/// What a query string has.
pub(crate) struct Query {
    /// Names and values, decoded, in order.
    pairs: Vec<(String, String)>,
    /// What cannot be read, as it came.
    unreadable: Vec<String>,
}

/// What a query string asks for.
pub(crate) struct Asked<P = Parameters> {
    /// Not yet checked.
    pub(crate) parameters: P,
    /// What the client may have meant otherwise.
    pub(crate) remarks: Remarks,
}

impl<P> Asked<P> {
    /// What `validate` makes of the parameters; a failure also where there are remarks and the
    /// client wants none. Lets go of the parameters: there may be ten thousand requests at once.
    pub(crate) fn check<T>(
        self,
        validate: impl FnOnce(&P) -> Result<T, InvalidParameter>,
    ) -> (Result<T, Failure>, Remarks) {
        let Asked { parameters, remarks } = self;
        let checked = match remarks.check() {
            Ok(()) => validate(&parameters).map_err(Failure::invalid_parameters),
            Err(remarks) => Err(Failure::invalid_parameters(remarks)),
        };
        (checked, remarks)
    }
}

impl Query {
    /// Pairs that contain a semicolon or a wrong percent-encoding are left out.
    pub(crate) fn parse(text: &str) -> Query {
        let mut query = Query {
            pairs: Vec::new(),
            unreadable: Vec::new(),
        };
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match (decode(name), decode(value)) {
                (Some(name), Some(value)) if !pair.contains(';') => query.pairs.push((name, value)),
                _ => query.unreadable.push(pair.to_owned()),
            }
        }
        query
    }

    /// The first value of a name; `None` when that is empty, or a timeout of 0, which means the
    /// default.
    pub(crate) fn first(&self, name: &str) -> Option<&str> {
        let (_, value) = self.pairs.iter().find(|(key, _)| key == name)?;
        let means_default = value.is_empty() || name == "timeout" && value.parse::<i64>() == Ok(0);
        (!means_default).then_some(value)
    }

    /// The parameters of a trace, with the usual defaults as far as `ceilings` let them.
    pub(crate) fn read_trace(&self, ceilings: &Ceilings) -> Asked {
        self.read(&[], |option| {
            ceilings.clamp(option, option.default(Interface::Query))
        })
    }

    /// The parameters of a discovery of paths, likewise.
    pub(crate) fn read_paths(&self, ceilings: &Ceilings) -> Asked<PathParameters> {
        let default = |option: &TraceOption| ceilings.clamp(option, option.default(Interface::Query));
        let known = known(is_shared_with_paths, &PATH_PARAMETERS);
        self.read_with(&known, |ignored| {
            PathParameters::from_query(|name| self.first(name), default, ignored)
        })
    }

    /// The parameters, with `default` for what is absent or does not parse, of an endpoint that
    /// has the parameters `own` besides those of a trace.
    pub(crate) fn read(
        &self,
        own: &[&'static str],
        default: impl Fn(&TraceOption) -> Option<Value>,
    ) -> Asked {
        self.read_with(&known(|_| true, own), |ignored| {
            Parameters::from_query(|name| self.first(name), default, ignored)
        })
    }

    /// What `read` reads, of an endpoint whose parameters are `known`. It tells which values do
    /// not parse, why, and what is used instead.
    fn read_with<P>(
        &self,
        known: &[&'static str],
        read: impl FnOnce(&mut dyn FnMut(&'static str, &str, Option<&Value>)) -> P,
    ) -> Asked<P> {
        let mut texts = self.ignored(known);
        let strict = match self.first(STRICT).map(parse_bool) {
            None => false,
            Some(Ok(strict)) => strict,
            Some(Err(problem)) => {
                let problem = does_not_parse(STRICT, &problem.to_string());
                texts.push(format!("{problem}: false is used"));
                false
            }
        };
        let parameters = read(&mut |name, problem, default| {
            let default = default.map_or("nothing".to_owned(), ToString::to_string);
            let problem = does_not_parse(name, problem);
            // Those who are strict get an error.
            let used = format!(": {default} is used");
            texts.push(problem + if strict { "" } else { &used });
        });
        let remarks = Remarks { strict, texts };
        Asked { parameters, remarks }
    }

    /// A remark on everything that has no effect: what cannot be read, names that no parameter has,
    /// and all values of a parameter but the first.
    fn ignored(&self, known: &[&'static str]) -> Vec<String> {
        let unreadable = self
            .unreadable
            .iter()
            .map(|pair| format!("cannot read \"{}\"", ascii(pair)));
        let mut seen = HashSet::new();
        let names = self.pairs.iter().filter_map(|(name, _)| {
            let is_first = seen.insert(name);
            if known.contains(&name.as_str()) {
                let remark = || format!("{name} is given more than once: the first one counts");
                return (!is_first).then(remark);
            }
            let hint =
                || similar(name, known).map_or(String::new(), |name| format!(" (did you mean {name}?)"));
            is_first.then(|| format!("unknown parameter {}{}", ascii(name), hint()))
        });
        let mut remarks = Vec::new();
        for remark in unreadable.chain(names) {
            if !remarks.contains(&remark) {
                remarks.push(remark);
            }
            if remarks.len() > MOST.0 {
                break;
            }
        }
        remarks
    }
}

/// The names of those parameters of a trace that an endpoint `takes`, and of its own.
fn known(takes: impl Fn(&TraceOption) -> bool, own: &[&'static str]) -> Vec<&'static str> {
    let of_traces = OPTIONS.iter().filter(|option| takes(option));
    let of_traces = of_traces.filter_map(|option| option.query);
    of_traces.chain([STRICT]).chain(own.iter().copied()).collect()
}

fn does_not_parse(name: &str, problem: &str) -> String {
    format!("{name} does not parse ({})", ascii(problem))
}

/// The beginning of `text` in plain ASCII, as a header needs it.
fn ascii(text: &str) -> String {
    let (_, most) = MOST;
    let mut shown = String::new();
    for char in text.chars().take(most) {
        match char {
            ' '..='~' => shown.push(char),
            _ => shown.extend(char.escape_default()),
        }
    }
    shown
}

/// What those who wrote `name` may have meant.
fn similar(name: &str, known: &[&'static str]) -> Option<&'static str> {
    // Comparing takes time with the square of the length.
    if name.len() > MOST.1 {
        return None;
    }
    let name = name.to_lowercase().replace('_', "-");
    let of_flag = OPTIONS.iter().find(|option| option.flag == name);
    let of_flag = of_flag.and_then(|option| option.query);
    if let Some(name) = of_flag.filter(|name| known.contains(name)) {
        return Some(name);
    }
    let likeness = |known: &&'static str| (strsim::jaro_winkler(&name, known), *known);
    let likenesses = known
        .iter()
        .map(likeness)
        .filter(|(likeness, _)| *likeness >= ALIKE);
    likenesses
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, known)| known)
}

/// What a client may have meant otherwise: what has no effect, values that do not parse.
#[derive(Debug)]
pub(crate) struct Remarks {
    strict: bool,
    /// Plain ASCII: they become a header.
    texts: Vec<String>,
}

impl Remarks {
    /// The remarks as an error, where the client wants none.
    pub(crate) fn check(&self) -> Result<(), &Remarks> {
        if self.strict && !self.texts.is_empty() {
            return Err(self);
        }
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    pub(crate) fn log(&self) {
        if !self.is_empty() && may_tell_of_cheap_request() {
            tracing::warn!(remarks = &*shorten(&self.to_string()), "odd parameters");
        }
    }
}

impl fmt::Display for Remarks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (most, _) = MOST;
        f.write_str(
            &self
                .texts
                .iter()
                .take(most)
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", "),
        )?;
        if self.texts.len() > most {
            f.write_str(", and more")?;
        }
        Ok(())
    }
}

/// Undoes percent-encoding, and `+` for a space; `None` when a percent sign is not followed by two
/// hexadecimal digits. Own code, because `form_urlencoded` lets those pass and Go does not.
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
    use traceroute_flags::{Interface, Kind};

    fn read(query: &str) -> Asked {
        Query::parse(query).read(&[], |option| option.default(Interface::Query))
    }

    fn from_query(query: &str) -> Parameters {
        read(query).parameters
    }

    #[test]
    fn what_is_odd_is_said_with_what_may_be_meant() {
        let cases = [
            ("target=h&strict=1&format=csv&details=true", ""),
            ("max_ttl=5", "unknown parameter max_ttl (did you mean max-ttl?)"),
            ("MAX-TTL=5", "unknown parameter MAX-TTL (did you mean max-ttl?)"),
            ("proto=tcp", "unknown parameter proto (did you mean protocol?)"),
            ("quieries=1", "unknown parameter quieries"),
            (
                "traceroute-querys=1",
                "unknown parameter traceroute-querys (did you mean traceroute-queries?)",
            ),
            ("x=1&x=2&y", "unknown parameter x, unknown parameter y"),
            ("m%C3%BCll%0a=1", r"unknown parameter m\u{fc}ll\n"),
            ("module=udp", "unknown parameter module"),
            (
                "port=80&port=443&port=8080",
                "port is given more than once: the first one counts",
            ),
            (
                "port=80;max-ttl=5&&max-ttl=%zz",
                r#"cannot read "port=80;max-ttl=5", cannot read "max-ttl=%zz""#,
            ),
            (
                "port=x&strict=1",
                "port does not parse (invalid digit found in string)",
            ),
            (
                "port=abc",
                "port does not parse (invalid digit found in string): 33434 is used",
            ),
            (
                "strict=maybe",
                r#"strict does not parse ("maybe" is neither true nor false): false is used"#,
            ),
        ];
        for (query, expected) in cases {
            assert_eq!(read(query).remarks.to_string(), expected, "{query}");
        }
    }

    #[test]
    fn remarks_are_bounded() {
        let names: Vec<String> = (0..100)
            .map(|index| format!("{index}{}", "x".repeat(1000)))
            .collect();
        let query = names.join("&");
        let text = read(&query).remarks.to_string();
        assert!(text.len() < 1000 && text.ends_with(", and more"), "{text}");
    }

    /// What the longest header has room for took half a second.
    #[test]
    fn long_names_take_no_time() {
        let begun = std::time::Instant::now();
        for _ in 0..100 {
            read(&format!("max-ttl{}=1", "l".repeat(16_000)));
        }
        let took = begun.elapsed();
        assert!(took < std::time::Duration::from_secs(5), "{took:?}");
    }

    #[test]
    fn only_the_strict_are_refused() {
        assert!(read("foo=1").remarks.check().is_ok());
        assert!(read("strict=true").remarks.check().is_ok());
        assert!(read("strict=true&foo=1").remarks.check().is_err());
        assert!(read("strict=true&port=x").remarks.check().is_err());
    }

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
            ("unknown=1&verbose=1&Format=csv&proto=tcp", &[]),
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
            let remarks = read(&query).remarks.to_string();
            // They become a header.
            prop_assert!(remarks.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{remarks}");
        }
    }
}
