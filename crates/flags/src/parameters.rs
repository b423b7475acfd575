//! What a user asks for.

use clap::ArgMatches;
use datadog_traceroute::{InvalidParameter, Parameters as Unchecked, Request};

use crate::catalogue::{Interface, Kind, TraceOption, Value, option};
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
        let value = |option: &TraceOption| match option.kind {
            Kind::Integer { .. } => matches.get_one(option.flag).copied().map(Value::Integer),
            Kind::Switch { .. } => matches.get_one(option.flag).copied().map(Value::Switch),
            _ => matches.get_one(option.flag).cloned().map(Value::Text),
        };
        Parameters {
            values: OPTIONS.iter().map(value).collect(),
        }
    }

    /// What a query string says, in which `first` finds the first value of a parameter that is not
    /// empty. A number or boolean that does not parse has its default, and `ignored` is told of its
    /// name, what is wrong, and that default.
    pub fn from_query<'q>(
        first: impl Fn(&str) -> Option<&'q str>,
        ignored: impl Fn(&str, &str, Option<&Value>),
    ) -> Self {
        let value = |option: &TraceOption| {
            let default = option.default(Interface::Query);
            let name = option.query?;
            let Some(text) = first(name) else {
                return default;
            };
            let use_default = |problem: String| {
                ignored(name, &problem, default.as_ref());
                default.clone()
            };
            option
                .parse(Interface::Query, text)
                .map_or_else(use_default, Some)
        };
        Parameters {
            values: OPTIONS.iter().map(value).collect(),
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
        let mut request = Unchecked {
            target: self.text("target").to_owned(),
            ..Unchecked::default()
        };
        for (option, value) in OPTIONS.iter().zip(&self.values) {
            match (&option.kind, value) {
                (Kind::Integer { set, .. }, Some(Value::Integer(value))) => set(&mut request, *value),
                (Kind::Switch { set }, Some(Value::Switch(value))) => set(&mut request, *value),
                (Kind::Choice { set, .. }, Some(Value::Text(text))) => set(&mut request, text),
                (Kind::Text { set }, Some(Value::Text(text))) => set(&mut request, text)
                    .map_err(|must| InvalidParameter::new(option.flag, format!("{must}, got {text:?}")))?,
                _ => {}
            }
        }
        request.validate()
    }
}

/// The error for a command line: `--max-ttl must be between 1 and 255, got 300`.
pub fn for_command_line(error: &InvalidParameter) -> String {
    match (&error.problem, option(error.name)) {
        (Some(problem), Some(option)) if !matches!(option.kind, Kind::Target) => {
            format!("--{} {problem}", option.flag)
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each option, with a value that is not its default, must change what is traced or shown.
    #[test]
    fn every_option_has_its_effect() {
        let with = |name: &str, text: &'static str| {
            Parameters::from_query(
                |asked| match asked {
                    "target" if name != "target" => Some("192.0.2.1"),
                    _ => (asked == name).then_some(text),
                },
                |name, problem, _| panic!("{name}: {problem}"),
            )
        };
        let unchanged = with("", "").validate().unwrap();
        for option in OPTIONS {
            let Some(name) = option.query else { continue };
            let text = match &option.kind {
                Kind::Choice { names, .. } => names[1],
                Kind::Integer { .. } if name == "packet-size" => "100",
                Kind::Integer { .. } => "7",
                Kind::Switch { .. } => "true",
                Kind::Text { .. } if name == "fwmark" => "0x2a",
                Kind::Text { .. } | Kind::Target => "192.0.2.2",
            };
            assert_ne!(with(name, text).validate().unwrap(), unchanged, "{name}");
        }
        for mark in ["", "x", "-1", "4294967296", "1.5"] {
            let error = with("fwmark", mark).validate().unwrap_err();
            let message = format!("--fwmark must be a number between 0 and 4294967295, got {mark:?}");
            assert_eq!(for_command_line(&error), message);
        }
    }
}
