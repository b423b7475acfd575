//! What an option of a trace is, and how each interface shows and reads it.

use std::ffi::OsStr;
use std::fmt;
use std::num::ParseIntError;
use std::ops::RangeInclusive;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, ArgAction, ValueHint};
use datadog_traceroute::RequestBuilder;

use crate::options::OPTIONS;
use crate::values::{parse_bool, parse_int};

/// One option of a trace, as [`OPTIONS`] lists them.
#[derive(Debug)]
pub struct TraceOption {
    /// Long flag, without its dashes.
    pub flag: &'static str,
    /// Short flag.
    pub short: Option<char>,
    /// Parameter in a query string; `None`: the option is for the command line only.
    pub query: Option<&'static str>,
    /// What the value is called in help texts.
    pub value_name: &'static str,
    /// Value of an integer that is not given; `None`: no number says the same.
    pub default: Option<i64>,
    /// The same in a query string, where it is another one.
    pub query_default: Option<i64>,
    /// An empty value is the default on the command line, too. In a query string it always is.
    pub may_be_empty: bool,
    /// Other options narrow the range of an integer: the library checks it.
    pub narrowed: bool,
    /// One sentence for help texts, without a full stop. `{range}` and `{names}` stand for those
    /// of the option's kind.
    pub help: &'static str,
    /// One sentence or two for documents; empty: the help text.
    pub description: &'static str,
    /// What values it takes.
    pub kind: Kind,
}

/// What values an option takes, and how it puts one into a request.
#[derive(Debug)]
pub enum Kind {
    /// The target, which must be given: on the command line without a flag.
    Target,
    /// One of some names, in any letter case; the first is the default.
    Choice(&'static [Choice]),
    /// A number, at least and at most so. Where other options narrow the range, the function takes
    /// any: what the library's type cannot hold becomes a value that the library refuses.
    Integer(RangeInclusive<i64>, fn(RequestBuilder, i64) -> RequestBuilder),
    /// On or off. Off when it is not given.
    Switch(fn(RequestBuilder, bool) -> RequestBuilder),
    /// A switch that is the same as another option with this value. Of both the last one counts.
    Shorthand {
        /// The other option's flag.
        of: &'static str,
        /// Its value, as on the command line.
        value: &'static str,
    },
    /// Any text. Unlike other values, it must be right also in a query string. An error says what
    /// it must be.
    Text(fn(RequestBuilder, &str) -> Result<RequestBuilder, &'static str>),
}

/// A name that an option takes.
#[derive(Debug)]
pub struct Choice {
    /// The name.
    pub name: &'static str,
    /// Only Windows has it.
    pub only_windows: bool,
    /// Puts it into a request.
    pub set: fn(RequestBuilder) -> RequestBuilder,
}

/// Where users give options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interface {
    /// Flags. Integers may have a base prefix, as with Go's `flag` package. What does not parse is
    /// a usage error.
    CommandLine,
    /// A query string. Integers are decimal, as Go's `strconv.Atoi` reads them. What does not parse
    /// counts as absent, with a warning.
    Query,
}

/// A value of an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Of a target, a choice or a text.
    Text(String),
    /// Of an integer.
    Integer(i64),
    /// Of a switch.
    Switch(bool),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => f.write_str(text),
            Value::Integer(value) => value.fmt(f),
            Value::Switch(value) => value.fmt(f),
        }
    }
}

impl TraceOption {
    /// Its value where it is not given; `None`: no value says the same.
    pub fn default(&self, interface: Interface) -> Option<Value> {
        match (&self.kind, interface) {
            (Kind::Target | Kind::Text(_), _) => None,
            (Kind::Choice(choices), _) => choices.first().map(|choice| Value::Text(choice.name.to_owned())),
            (Kind::Integer(..), Interface::CommandLine) => self.default.map(Value::Integer),
            (Kind::Integer(..), Interface::Query) => self.query_default.or(self.default).map(Value::Integer),
            (Kind::Switch(_) | Kind::Shorthand { .. }, _) => Some(Value::Switch(false)),
        }
    }

    /// Reads a value in a query string.
    ///
    /// # Errors
    /// The text is no number or no boolean; ranges and names are not checked.
    pub(crate) fn parse_query(&self, text: &str) -> Result<Value, String> {
        match &self.kind {
            Kind::Target | Kind::Choice(_) | Kind::Text(_) => Ok(Value::Text(text.to_owned())),
            Kind::Integer(..) => text
                .parse()
                .map(Value::Integer)
                .map_err(|error: ParseIntError| error.to_string()),
            Kind::Switch(_) | Kind::Shorthand { .. } => parse_bool(text)
                .map(Value::Switch)
                .map_err(|error| error.to_string()),
        }
    }

    /// The text for `--help` and the manual page.
    pub fn help(&self) -> String {
        match &self.kind {
            Kind::Integer(range, _) => self.help.replace("{range}", &words(range)),
            Kind::Choice(choices) => self.help.replace("{names}", &alternatives(choices)),
            _ => self.help.to_owned(),
        }
    }

    /// The text for documents.
    pub fn description(&self) -> String {
        if self.description.is_empty() {
            format!("{}.", self.help())
        } else {
            self.description.to_owned()
        }
    }

    /// The option as an argument of a command line.
    pub fn argument(&self) -> Arg {
        let argument = Arg::new(self.flag).value_name(self.value_name).help(self.help());
        let argument = match &self.kind {
            Kind::Target => return argument.value_hint(ValueHint::Hostname),
            Kind::Choice(choices) => argument.value_parser(Suggest(choices)).hide_possible_values(true),
            Kind::Integer(..) => argument.value_parser(parse_int),
            Kind::Switch(_) | Kind::Shorthand { .. } => argument.action(ArgAction::SetTrue),
            Kind::Text(_) => argument,
        };
        let default = match self.kind {
            // Which has it anyway.
            Kind::Switch(_) | Kind::Shorthand { .. } => None,
            _ => self.default(Interface::CommandLine),
        };
        argument
            .long(self.flag)
            .short(self.short)
            .default_values(default.map(|value| value.to_string()))
    }

    /// What messages call it: its query parameter, or else its flag.
    pub fn name(&self) -> &'static str {
        self.query.unwrap_or(self.flag)
    }

    /// Its unit in messages, after a space.
    pub(crate) fn unit(&self) -> &'static str {
        match self.value_name {
            "ms" => " ms",
            "bytes" => " bytes",
            _ => "",
        }
    }

    /// Whether this is its flag or its query parameter.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.flag == name || self.query == Some(name)
    }
}

/// The option that has this name, as a flag or in a query string.
pub(crate) fn option(name: &str) -> Option<&'static TraceOption> {
    OPTIONS.iter().find(|option| option.is_called(name))
}

fn words(range: &RangeInclusive<i64>) -> String {
    format!("{} to {}", range.start(), range.end())
}

/// `udp, tcp or icmp`.
fn alternatives(choices: &[Choice]) -> String {
    let names: Vec<&str> = choices.iter().map(|choice| choice.name).collect();
    let (last, others) = names.split_last().unwrap_or((&"", &[]));
    format!("{} or {last}", others.join(", "))
}

/// The choice that `name` means, in any letter case.
///
/// # Errors
/// There is none: what it must be.
pub(crate) fn choose(choices: &'static [Choice], name: &str) -> Result<&'static Choice, String> {
    let mut choices_of_name = choices
        .iter()
        .filter(|choice| choice.name.eq_ignore_ascii_case(name));
    choices_of_name
        .next()
        .ok_or_else(|| format!("must be {}, got {name:?}", alternatives(choices)))
}

/// Takes any text, and knows the names to offer in completions. Names are checked together with
/// everything else.
#[derive(Clone)]
struct Suggest(&'static [Choice]);

impl TypedValueParser for Suggest {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        flag: Option<&Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, flag, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(
            self.0.iter().map(|choice| PossibleValue::new(choice.name)),
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn row(option: &TraceOption) -> String {
        let flag = match (&option.kind, option.short) {
            (Kind::Target, _) => option.flag.to_owned(),
            (_, None) => format!("`--{}`", option.flag),
            (_, Some(short)) => format!("`-{short}`, `--{}`", option.flag),
        };
        let query = option.query.map_or(String::new(), |query| format!("`{query}`"));
        let [default, query_default] = [Interface::CommandLine, Interface::Query].map(|interface| {
            option
                .default(interface)
                .map_or(String::new(), |value| value.to_string())
        });
        let default = if default == query_default {
            default
        } else {
            format!("{default}; over HTTP {query_default}")
        };
        let values = match &option.kind {
            Kind::Integer(range, _) => words(range),
            Kind::Choice(choices) => alternatives(choices),
            Kind::Target | Kind::Switch(_) | Kind::Shorthand { .. } | Kind::Text(_) => String::new(),
        };
        let description = option.description();
        format!("| {flag} | {query} | {default} | {values} | {description} |\n")
    }

    /// After an intended change: `UPDATE=1 cargo test -p traceroute-flags table`.
    #[test]
    fn the_guides_table_is_the_catalogues() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/guide.md");
        let guide = fs::read_to_string(path).unwrap();
        let head = "| flag | query parameter | default | values | what it does |\n|---|---|---|---|---|\n";
        let (before, table) = guide.split_once(head).unwrap();
        let (_, after) = table.split_once("\n\n").unwrap();
        let rows: String = OPTIONS.iter().map(row).collect();
        let expected = format!("{before}{head}{rows}\n{after}");
        if std::env::var_os("UPDATE").is_some() {
            fs::write(path, expected).unwrap();
        } else {
            assert!(
                guide == expected,
                "docs/guide.md is out of date: run with UPDATE=1"
            );
        }
    }
}
