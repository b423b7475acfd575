//! What a user asks for.

use std::fmt;

use clap::ArgMatches;
use clap::parser::ValueSource;
use datadog_traceroute::{Field, Problem, Request, RequestBuilder, RequestError};

use crate::catalogue::{Interface, Kind, TraceOption, Value, choose, option};
use crate::options::OPTIONS;

/// A value for each option, as a user gave it or its default. Not yet checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// In the order of [`OPTIONS`].
    values: Vec<Option<Value>>,
}

impl Parameters {
    /// What the flags of a command line say.
    pub fn from_flags(matches: &ArgMatches) -> Self {
        Parameters::from_some_flags(matches, |_| true)
    }

    /// The same of a command line that has only the flags for which `has` is true; the others have
    /// their defaults.
    pub(crate) fn from_some_flags(matches: &ArgMatches, has: impl Fn(&TraceOption) -> bool) -> Self {
        let own = |option: &TraceOption| match option.kind {
            Kind::Integer(..) => matches.get_one(option.flag).copied().map(Value::Integer),
            Kind::Switch(_) | Kind::Shorthand { .. } => {
                matches.get_one(option.flag).copied().map(Value::Switch)
            }
            _ => matches.get_one(option.flag).cloned().map(Value::Text),
        };
        let value = |option: &TraceOption| {
            if !has(option) {
                return option.default(Interface::CommandLine);
            }
            match shorthand(matches, option, &has).or_else(|| own(option)) {
                Some(Value::Text(text)) if text.is_empty() && option.may_be_empty => {
                    option.default(Interface::CommandLine)
                }
                value => value,
            }
        };
        Parameters {
            values: OPTIONS.iter().map(value).collect(),
        }
    }

    /// What a query string says, in which `first` finds the first value of a parameter that is not
    /// empty. What is absent has the value that `default` gives it. A number or boolean that does
    /// not parse counts as absent, and `ignored` is told of its name, what is wrong, and that
    /// default.
    pub fn from_query<'q>(
        first: impl Fn(&str) -> Option<&'q str>,
        default: impl Fn(&TraceOption) -> Option<Value>,
        mut ignored: impl FnMut(&'static str, &str, Option<&Value>),
    ) -> Self {
        let mut value = |option: &TraceOption| {
            let default = default(option);
            let name = option.query?;
            let Some(text) = first(name) else {
                return default;
            };
            match option.parse_query(text) {
                Ok(value) => Some(value),
                Err(problem) => {
                    ignored(name, &problem, default.as_ref());
                    default
                }
            }
        };
        Parameters {
            values: OPTIONS.iter().map(&mut value).collect(),
        }
    }

    /// The value of the option that has this flag or query parameter.
    pub fn get(&self, name: &str) -> Option<&Value> {
        let place = OPTIONS.iter().position(|option| option.is_called(name))?;
        self.values.get(place)?.as_ref()
    }

    /// The value of a target, a choice or a text; empty when there is none.
    pub fn text(&self, name: &str) -> &str {
        match self.get(name) {
            Some(Value::Text(text)) => text,
            _ => "",
        }
    }

    /// Whether a switch is on.
    pub fn switch(&self, name: &str) -> bool {
        self.get(name) == Some(&Value::Switch(true))
    }

    /// Checks everything that can be checked without the network, and says what a trace is to do.
    ///
    /// # Errors
    /// The first parameter that is missing, unknown or out of range.
    pub fn validate(&self) -> Result<Request, InvalidParameter> {
        if self.text("target").is_empty() {
            return Err(InvalidParameter::missing("target"));
        }
        let mut request = Request::to(self.text("target"));
        for (option, value) in OPTIONS.iter().zip(&self.values) {
            if let Some(value) = value {
                let invalid = |problem| InvalidParameter::new(option.name(), problem);
                request = set(option, request, value).map_err(invalid)?;
            }
        }
        if self.get("tos").is_some() && self.get("dscp").is_some() {
            let problem = "sets part of what tos sets: only one of the two may be given";
            return Err(InvalidParameter::new("dscp", problem.to_owned()));
        }
        request.build().map_err(|error| self.explain(error))
    }

    /// What the library refuses, in the user's terms: the option's name, and the value as given.
    fn explain(&self, RequestError { field, problem, .. }: RequestError) -> InvalidParameter {
        let name = match field {
            Field::Runs => "traceroute-queries".to_owned(),
            Field::E2eProbes => "e2e-queries".to_owned(),
            field => field.to_string().replace('_', "-"),
        };
        let name = option(&name).map_or("target", TraceOption::name);
        let problem = match (problem, self.get(name)) {
            (Problem::OutOfRange { range, unit, .. }, Some(Value::Integer(value))) => {
                let value = *value;
                Problem::OutOfRange { value, range, unit }.to_string()
            }
            (Problem::NoData(protocol), Some(size)) => format!("{}, got {size}", Problem::NoData(protocol)),
            (problem @ (Problem::OtherFamily(_) | Problem::EmptyInterface), Some(Value::Text(text))) => {
                format!("{problem}, got {text:?}")
            }
            (problem, _) => problem.to_string(),
        };
        InvalidParameter::new(name, problem)
    }
}

/// The value of `option` that a shorthand says, if one stands after the option itself.
fn shorthand(
    matches: &ArgMatches,
    option: &TraceOption,
    has: impl Fn(&TraceOption) -> bool,
) -> Option<Value> {
    let mut last = place(matches, option.flag);
    let mut said = None;
    for other in OPTIONS.iter().filter(|other| has(other)) {
        let Kind::Shorthand { of, value } = other.kind else {
            continue;
        };
        let is_on = of == option.flag && matches.get_one(other.flag) == Some(&true);
        let place = place(matches, other.flag).filter(|_| is_on);
        if place > last {
            // What the catalogue has can be read.
            (last, said) = (place, option.parse_query(value).ok());
        }
    }
    said
}

/// Where the flag stands on the command line, if it does.
fn place(matches: &ArgMatches, flag: &str) -> Option<usize> {
    if matches.value_source(flag) != Some(ValueSource::CommandLine) {
        return None;
    }
    matches.indices_of(flag)?.next_back()
}

fn set(option: &TraceOption, request: RequestBuilder, value: &Value) -> Result<RequestBuilder, String> {
    Ok(match (&option.kind, value) {
        (Kind::Choice(choices), Value::Text(text)) => (choose(choices, text)?.set)(request),
        (Kind::Integer(range, _), Value::Integer(value)) if !option.narrowed && !range.contains(value) => {
            let (value, range, unit) = (*value, range.clone(), option.unit());
            return Err(Problem::OutOfRange { value, range, unit }.to_string());
        }
        (Kind::Integer(_, set), Value::Integer(value)) => set(request, *value),
        (Kind::Switch(set), Value::Switch(value)) => set(request, *value),
        (Kind::Text(set), Value::Text(text)) => {
            set(request, text).map_err(|must| format!("{must}, got {text:?}"))?
        }
        _ => request,
    })
}

/// A parameter that is missing, unknown or out of range.
///
/// Displayed, it starts with the parameter's name as in a query string: `max-ttl must be between 1
/// and 255, got 300`, except for `missing required parameter: target`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidParameter {
    /// The parameter's name, as in a query string: `max-ttl`.
    name: &'static str,
    /// What is wrong with its value; `None` when it has none but needs one.
    problem: Option<String>,
}

impl InvalidParameter {
    /// A required parameter without a value.
    pub fn missing(name: &'static str) -> Self {
        InvalidParameter { name, problem: None }
    }

    /// A parameter whose value is wrong; `problem` continues a sentence that starts with the name.
    pub fn new(name: &'static str, problem: String) -> Self {
        InvalidParameter {
            name,
            problem: Some(problem),
        }
    }

    /// The same message for a command line: `--max-ttl must be between 1 and 255, got 300`.
    pub fn for_command_line(&self) -> String {
        match (&self.problem, option(self.name)) {
            (Some(problem), Some(option)) if !matches!(option.kind, Kind::Target) => {
                format!("--{} {problem}", option.flag)
            }
            // Of a discovery of paths.
            (Some(problem), None) => format!("--{} {problem}", self.name),
            _ => self.to_string(),
        }
    }
}

impl fmt::Display for InvalidParameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problem {
            None => write!(f, "missing required parameter: {}", self.name),
            Some(problem) => write!(f, "{} {problem}", self.name),
        }
    }
}

impl std::error::Error for InvalidParameter {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Interface;

    /// What a query string with these parameters and a target says.
    fn with(given: &[(&str, &'static str)]) -> Parameters {
        Parameters::from_query(
            |name| match given.iter().find(|(given, _)| *given == name) {
                Some((_, text)) => Some(*text),
                None => (name == "target").then_some("example.com"),
            },
            |option| option.default(Interface::Query),
            |name, problem, _| panic!("{name}: {problem}"),
        )
    }

    /// Each option, with a value that is not its default, must change what is traced.
    #[test]
    fn every_option_has_its_effect() {
        let unchanged = with(&[]).validate().unwrap();
        for option in OPTIONS {
            let Some(name) = option.query else { continue };
            if name == "format" {
                // It is about the answer.
                continue;
            }
            let text = match &option.kind {
                Kind::Choice(choices) => choices[1].name,
                Kind::Integer(..) if name == "packet-size" => "100",
                Kind::Integer(..) => "7",
                Kind::Switch(_) => "TRUE",
                Kind::Shorthand { .. } => continue,
                Kind::Text(_) if name == "fwmark" => "0x2a",
                Kind::Text(_) | Kind::Target => "192.0.2.2",
            };
            assert_ne!(with(&[(name, text)]).validate().unwrap(), unchanged, "{name}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused_by_name_and_range() {
        for option in OPTIONS {
            let (Kind::Integer(range, _), name) = (&option.kind, option.flag) else {
                continue;
            };
            // What the defaults of the others leave.
            let (least, most) = match name {
                "first-ttl" => (1, 30),
                "delay" => (0, 3000),
                "packet-size" => (54, 65535),
                _ => (*range.start(), *range.end()),
            };
            let parsed = |value: i64| {
                let text: &'static str = value.to_string().leak();
                with(&[
                    (name, text),
                    ("e2e-queries", if name == "e2e-queries" { text } else { "1" }),
                ])
                .validate()
            };
            for good in [least, most] {
                assert!(parsed(good).is_ok(), "{name} {good}");
            }
            let unit = option.unit();
            for bad in [least - 1, most + 1, i64::MIN, i64::MAX, (1 << 32) + least] {
                assert_eq!(
                    parsed(bad).unwrap_err().to_string(),
                    format!("{name} must be between {least} and {most}{unit}, got {bad}")
                );
            }
        }
    }

    #[test]
    fn what_is_refused_is_told_in_the_users_words() {
        let family = "must be of the target's address family, got";
        let mark = "must be a number between 0 and 4294967295, got";
        let cases: [(&[(&str, &'static str)], String); 21] = [
            (&[("target", "")], "missing required parameter: target".into()),
            (
                &[("target", "example.com:0")],
                r#"target "example.com:0" has a port that is not between 1 and 65535: "0""#.into(),
            ),
            (&[("protocol", "sctp")], r#"--proto must be udp, tcp or icmp, got "sctp""#.into()),
            (
                &[("tcp-method", "ack")],
                r#"--tcp-method must be syn, sack, prefer_sack or syn_socket, got "ack""#.into(),
            ),
            (&[("max-ttl", "8"), ("first-ttl", "9")], "--first-ttl must be between 1 and 8, got 9".into()),
            (&[("max-ttl", "255"), ("first-ttl", "256")], "--first-ttl must be between 1 and 255, got 256".into()),
            (&[("timeout", "20"), ("delay", "21")], "--delay must be between 0 and 20 ms, got 21".into()),
            (
                &[("e2e-interval", "1837")],
                "--e2e-interval must let all 50 end-to-end probes be sent within max-ttl × timeout = 90000 ms, got 1837 ms".into(),
            ),
            (
                &[("protocol", "tcp"), ("packet-size", "70000")],
                "--packet-size cannot be chosen for tcp: its probes carry no data, got 70000".into(),
            ),
            (
                &[("tos", "0"), ("dscp", "0")],
                "--dscp sets part of what tos sets: only one of the two may be given".into(),
            ),
            (&[("source", "eth0")], r#"--source must be an IPv4 or IPv6 address, got "eth0""#.into()),
            (&[("target", "192.0.2.1"), ("source", "::1")], format!(r#"--source {family} "::1""#)),
            (&[("target", "2001:db8::1"), ("source", "127.0.0.1")], format!(r#"--source {family} "127.0.0.1""#)),
            (&[("ipv6", "1"), ("source", "127.0.0.1")], format!(r#"--source {family} "127.0.0.1""#)),
            (
                &[("interface", "")],
                r#"--interface must be the name or the index of an interface, got """#.into(),
            ),
            (&[("fwmark", "")], format!(r#"--fwmark {mark} """#)),
            (&[("fwmark", "x")], format!(r#"--fwmark {mark} "x""#)),
            (&[("fwmark", "-1")], format!(r#"--fwmark {mark} "-1""#)),
            (&[("fwmark", "4294967296")], format!(r#"--fwmark {mark} "4294967296""#)),
            (&[("fwmark", "1.5")], format!(r#"--fwmark {mark} "1.5""#)),
            // Whatever is wrong with another parameter is not said of this one.
            (&[("e2e-interval", "1000"), ("e2e-queries", "65536")], "--e2e-queries must be between 0 and 65535, got 65536".into()),
        ];
        for (given, expected) in cases {
            assert_eq!(with(given).validate().unwrap_err().for_command_line(), expected);
        }
    }

    #[test]
    fn values_as_the_library_has_them() {
        let request = |given: &[(&str, &'static str)]| with(given).validate().unwrap();
        let zeros = request(&[
            ("port", "0"),
            ("timeout", "0"),
            ("e2e-interval", "0"),
            ("fwmark", "0"),
        ]);
        assert_eq!(zeros, request(&[]));
        let names = request(&[("protocol", "TcP"), ("tcp-method", "Prefer_SACK")]);
        assert_eq!(
            names,
            request(&[("protocol", "tcp"), ("tcp-method", "prefer_sack")])
        );
        assert_eq!(request(&[("tos", "184")]), request(&[("dscp", "46")]));
        assert_eq!(request(&[("fwmark", "0x2a")]), request(&[("fwmark", "42")]));
    }
}
