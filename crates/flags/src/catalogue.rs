//! What an option of a trace is, and how each interface shows and reads it.

use std::ffi::OsStr;
use std::fmt;
use std::ops::RangeInclusive;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, ArgAction, ValueHint};
use datadog_traceroute::Parameters as Request;

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
    /// One sentence for help texts, without a full stop. `{range}` and `{names}` stand for those
    /// of the option's kind.
    pub help: &'static str,
    /// One sentence or two for documents; empty: the help text.
    pub description: &'static str,
    /// What values it takes.
    pub kind: Kind,
}

/// What values an option takes, which one it has when it is not given, and what they change.
#[derive(Debug)]
pub enum Kind {
    /// The target, which must be given: on the command line without a flag.
    Target,
    /// One of some names, in any letter case.
    Choice {
        /// The names, the default first.
        names: &'static [&'static str],
        /// Puts the value into a request.
        set: fn(&mut Request, &str),
    },
    /// A number.
    Integer {
        /// Lowest and highest value. Other options may narrow the range.
        range: RangeInclusive<i64>,
        /// Value on the command line when none is given; `None`: no number says the same.
        default: Option<i64>,
        /// The same in a query string.
        query_default: Option<i64>,
        /// Puts the value into a request.
        set: fn(&mut Request, i64),
    },
    /// On or off. Off when it is not given.
    Switch {
        /// Puts the value into a request.
        set: fn(&mut Request, bool),
    },
    /// Any text. Unlike other values, it must be right also in a query string.
    Text {
        /// Puts the value into a request, or says what it must be.
        set: fn(&mut Request, &str) -> Result<(), &'static str>,
    },
}

/// Where users give options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interface {
    /// Flags. Integers may have a base prefix, as with Go's `flag` package.
    CommandLine,
    /// A query string. Integers are decimal, as Go's `strconv.Atoi` reads them.
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
            (Kind::Target | Kind::Text { .. }, _) => None,
            (Kind::Choice { names, .. }, _) => names.first().map(|name| Value::Text((*name).to_owned())),
            (Kind::Integer { default, .. }, Interface::CommandLine) => default.map(Value::Integer),
            (Kind::Integer { query_default, .. }, Interface::Query) => query_default.map(Value::Integer),
            (Kind::Switch { .. }, _) => Some(Value::Switch(false)),
        }
    }

    /// Reads a value.
    ///
    /// # Errors
    /// The text is no number or no boolean; ranges and names are not checked.
    pub fn parse(&self, interface: Interface, text: &str) -> Result<Value, String> {
        let message = |error: &dyn fmt::Display| error.to_string();
        match (&self.kind, interface) {
            (Kind::Target | Kind::Choice { .. } | Kind::Text { .. }, _) => Ok(Value::Text(text.to_owned())),
            (Kind::Integer { .. }, Interface::CommandLine) => parse_int(text)
                .map(Value::Integer)
                .map_err(|error| message(&error)),
            (Kind::Integer { .. }, Interface::Query) => {
                text.parse().map(Value::Integer).map_err(|error| message(&error))
            }
            (Kind::Switch { .. }, _) => parse_bool(text)
                .map(Value::Switch)
                .map_err(|error| message(&error)),
        }
    }

    /// The text for `--help` and the manual page.
    pub fn help(&self) -> String {
        match &self.kind {
            Kind::Integer { range, .. } => self.help.replace("{range}", &words(range)),
            Kind::Choice { names, .. } => self.help.replace("{names}", &alternatives(names)),
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
            Kind::Choice { names, .. } => argument.value_parser(Suggest(names)).hide_possible_values(true),
            Kind::Integer { .. } => argument.value_parser(parse_int),
            Kind::Switch { .. } => argument.action(ArgAction::SetTrue),
            Kind::Text { .. } => argument,
        };
        let default = match self.kind {
            // Which has it anyway.
            Kind::Switch { .. } => None,
            _ => self.default(Interface::CommandLine),
        };
        argument
            .long(self.flag)
            .short(self.short)
            .default_values(default.map(|value| value.to_string()))
    }

    /// Whether this is its flag or its query parameter.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.flag == name || self.query == Some(name)
    }

    /// Its row in [`table`].
    fn row(&self) -> String {
        let flag = match (&self.kind, self.short) {
            (Kind::Target, _) => self.flag.to_owned(),
            (_, None) => format!("`--{}`", self.flag),
            (_, Some(short)) => format!("`-{short}`, `--{}`", self.flag),
        };
        let query = self.query.map_or(String::new(), |query| format!("`{query}`"));
        let [default, query_default] = [Interface::CommandLine, Interface::Query].map(|interface| {
            self.default(interface)
                .map_or(String::new(), |value| value.to_string())
        });
        let default = if default == query_default {
            default
        } else {
            format!("{default}; over HTTP {query_default}")
        };
        let values = match &self.kind {
            Kind::Integer { range, .. } => words(range),
            Kind::Choice { names, .. } => alternatives(names),
            Kind::Target | Kind::Switch { .. } | Kind::Text { .. } => String::new(),
        };
        format!(
            "| {flag} | {query} | {default} | {values} | {} |\n",
            self.description()
        )
    }
}

/// The option that has this name, as a flag or in a query string.
pub fn option(name: &str) -> Option<&'static TraceOption> {
    OPTIONS.iter().find(|option| option.is_called(name))
}

/// The table of all options for the documentation (Markdown).
pub fn table() -> String {
    let head = "| flag | query parameter | default | values | what it does |\n|---|---|---|---|---|\n";
    let rows = OPTIONS.iter().map(TraceOption::row);
    head.to_owned() + &rows.collect::<String>()
}

fn words(range: &RangeInclusive<i64>) -> String {
    format!("{} to {}", range.start(), range.end())
}

/// `udp, tcp or icmp`.
pub fn alternatives(names: &[&str]) -> String {
    match names {
        [names @ .., last] if !names.is_empty() => format!("{} or {last}", names.join(", ")),
        _ => names.concat(),
    }
}

/// Takes any text, and knows the names to offer in completions. Names are checked together with
/// everything else.
#[derive(Clone)]
struct Suggest(&'static [&'static str]);

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
        Some(Box::new(self.0.iter().map(PossibleValue::new)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// After an intended change: `UPDATE=1 cargo test -p traceroute-flags table`.
    #[test]
    fn the_guides_table_is_the_catalogues() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/guide.md");
        let guide = fs::read_to_string(path).unwrap();
        let (before, rest) = guide.split_once("| flag | query parameter |").unwrap();
        let (_, after) = rest.split_once("\n\n").unwrap();
        let expected = format!("{before}{}\n{after}", table());
        if std::env::var_os("UPDATE").is_some() {
            fs::write(path, &expected).unwrap();
        }
        assert!(
            guide == expected || std::env::var_os("UPDATE").is_some(),
            "docs/guide.md is out of date: run with UPDATE=1"
        );
    }

    #[test]
    fn names_are_listed_as_in_a_sentence() {
        assert_eq!(alternatives(&["a"]), "a");
        assert_eq!(alternatives(&["a", "b", "c"]), "a, b or c");
    }
}
