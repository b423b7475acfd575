//! The options of a discovery of all paths: those of a trace that mean the same, and its own.

use std::str::FromStr;

use clap::{Arg, ArgMatches};
use datadog_traceroute::paths::{DEFAULT_CONFIDENCE, DEFAULT_MAX_PROBES, MAX_PROBES};
use datadog_traceroute::{PathsOptions, Request};

use crate::catalogue::{TraceOption, Value};
use crate::options::OPTIONS;
use crate::parameters::{InvalidParameter, Parameters};

/// The options of a trace that mean the same here.
const SHARED: &[&str] = &[
    "target",
    "proto",
    "port",
    "max-ttl",
    "first-ttl",
    "verbose",
    "quiet",
    "ipv6",
    "ipv4-only",
    "ipv6-only",
    "timeout",
    "reverse-dns",
    "no-reverse-dns",
    "e2e-queries",
    "e2e-interval",
    "hop-retries",
    "gap-limit",
    "delay",
    "packet-size",
    "tos",
    "dscp",
    "dont-fragment",
    "source",
    "interface",
    "fwmark",
];
/// End-to-end probes, unless told otherwise.
const E2E_QUERIES: &str = "e2e-queries";
const CONFIDENCE: &str = "confidence";
const MAX: &str = "max-probes";
/// The query parameters that a discovery has besides those of a trace.
pub const PATH_PARAMETERS: [&str; 2] = [CONFIDENCE, MAX];

/// Whether an option of a trace means the same here.
pub fn is_shared_with_paths(option: &TraceOption) -> bool {
    SHARED.contains(&option.flag)
}

/// The arguments of a command line.
pub fn path_arguments() -> Vec<Arg> {
    let shared = OPTIONS.iter().filter(|option| is_shared_with_paths(option));
    let mut arguments: Vec<Arg> = shared
        .map(|option| match option.flag {
            E2E_QUERIES => option
                .argument()
                .default_value("0")
                .help(format!("{}; they go over the flows in turn", option.help())),
            "delay" => option
                .argument()
                .help("Milliseconds between probes, 0 to timeout; 0 means up to 32 at once [default: 0]"),
            _ => option.argument(),
        })
        .collect();
    arguments.push(
        Arg::new(CONFIDENCE)
            .long(CONFIDENCE)
            .value_name("number")
            .default_value(DEFAULT_CONFIDENCE.to_string())
            .help("How likely the next hops of a node shall be complete, 0.5 to 0.9999"),
    );
    arguments.push(
        Arg::new(MAX)
            .long(MAX)
            .value_name("number")
            .default_value(DEFAULT_MAX_PROBES.to_string())
            .help(format!("Probes for the discovery at most, 1 to {MAX_PROBES}")),
    );
    arguments
}

/// What a user wants of a discovery of paths. Not yet checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathParameters {
    /// The options of a trace; those that mean nothing here have their defaults.
    pub trace: Parameters,
    confidence: Option<String>,
    max_probes: Option<String>,
}

impl PathParameters {
    /// What the flags of a command line say that has the [`path_arguments`].
    pub fn from_flags(matches: &ArgMatches) -> Self {
        let text = |name| matches.get_one::<String>(name).cloned();
        PathParameters {
            trace: Parameters::from_some_flags(matches, is_shared_with_paths),
            confidence: text(CONFIDENCE),
            max_probes: text(MAX),
        }
    }

    /// What a query string says, as for [`Parameters::from_query`].
    pub fn from_query<'q>(
        first: impl Fn(&str) -> Option<&'q str>,
        default: impl Fn(&TraceOption) -> Option<Value>,
        ignored: impl FnMut(&'static str, &str, Option<&Value>),
    ) -> Self {
        let shared = |name: &str| {
            let mut known = OPTIONS.iter().filter(|option| option.query == Some(name));
            known.any(is_shared_with_paths).then(|| first(name)).flatten()
        };
        let default = |option: &TraceOption| match option.flag {
            E2E_QUERIES => Some(Value::Integer(0)),
            _ => default(option),
        };
        PathParameters {
            trace: Parameters::from_query(shared, default, ignored),
            confidence: first(CONFIDENCE).map(str::to_owned),
            max_probes: first(MAX).map(str::to_owned),
        }
    }

    /// Checks everything that can be checked without the network.
    ///
    /// # Errors
    /// The first parameter that is missing, unknown or out of range.
    pub fn validate(&self) -> Result<(Request, PathsOptions), InvalidParameter> {
        let request = self.trace.validate()?;
        let mut options = PathsOptions::default();
        if let Some(text) = &self.confidence {
            let confidence = parse(text).and_then(|confidence| options.confidence(confidence));
            options = confidence.ok_or_else(|| wrong(CONFIDENCE, "between 0.5 and 0.9999", text))?;
        }
        if let Some(text) = &self.max_probes {
            let range = format!("between 1 and {MAX_PROBES}");
            let probes = parse(text).and_then(|probes| options.max_probes(probes));
            options = probes.ok_or_else(|| wrong(MAX, &range, text))?;
        }
        Ok((request, options))
    }
}

fn parse<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn wrong(name: &'static str, range: &str, text: &str) -> InvalidParameter {
    InvalidParameter::new(name, format!("must be {range}, got {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Interface;

    fn of(query: &'static str) -> Result<(Request, PathsOptions), String> {
        let pairs: Vec<(&str, &str)> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let first = |name: &str| {
            let found = pairs.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| *value)
        };
        let parameters =
            PathParameters::from_query(first, |option| option.default(Interface::Query), |_, _, _| {});
        parameters.validate().map_err(|error| error.to_string())
    }

    #[test]
    fn every_shared_option_exists() {
        let missing = SHARED
            .iter()
            .filter(|name| !OPTIONS.iter().any(|option| option.flag == **name));
        assert_eq!(missing.count(), 0);
    }

    #[test]
    fn own_options_are_checked_and_those_of_a_trace_alone_have_no_effect() {
        let (request, options) = of("target=host&traceroute-queries=9&details=true").unwrap();
        assert_eq!((request.e2e_probes(), request.details()), (0, false));
        assert_eq!(options, PathsOptions::default());
        let (request, options) = of("target=host&e2e-queries=5&confidence=0.99&max-probes=7").unwrap();
        assert_eq!(request.e2e_probes(), 5);
        let expected = PathsOptions::default()
            .confidence(0.99)
            .and_then(|options| options.max_probes(7));
        assert_eq!(Some(options), expected);
        for (query, message) in [
            (
                "confidence=1",
                r#"confidence must be between 0.5 and 0.9999, got "1""#,
            ),
            (
                "confidence=x",
                r#"confidence must be between 0.5 and 0.9999, got "x""#,
            ),
            (
                "max-probes=0",
                r#"max-probes must be between 1 and 1000000, got "0""#,
            ),
        ] {
            let error = of(Box::leak(format!("target=host&{query}").into_boxed_str())).unwrap_err();
            assert_eq!(error, message);
        }
    }
}
