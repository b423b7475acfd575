//! What is said about a wrong command line.

use std::error::Error;
use std::fmt;

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// A command line that cannot be obeyed.
#[derive(Debug)]
pub struct UsageError {
    message: String,
    usage: String,
    program: &'static str,
}

impl UsageError {
    /// An error of `program` that `message` explains; `usage` is its usage in one line.
    pub(crate) fn new(program: &'static str, usage: &str, message: impl Into<String>) -> Self {
        UsageError {
            message: message.into(),
            usage: format!("Usage: {usage}"),
            program,
        }
    }

    /// What clap found wrong.
    pub(crate) fn from_clap(program: &'static str, usage: &str, error: &clap::Error) -> Self {
        let mut usage_error = UsageError::new(program, usage, message(error));
        if let Some(ContextValue::StyledStr(usage)) = error.get(ContextKind::Usage) {
            usage_error.usage = usage.to_string();
        }
        usage_error
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UsageError {
            message,
            usage,
            program,
        } = self;
        writeln!(f, "{message}\n\n{usage}\n")?;
        write!(f, "Run '{program} --help' for all options.")
    }
}

/// The message in one line; clap's own takes several, and shows a flag with all its decoration.
fn message(error: &clap::Error) -> String {
    let Some(argument) = text(error, ContextKind::InvalidArg).map(plain_name) else {
        return first_line(error);
    };
    let value = text(error, ContextKind::InvalidValue).unwrap_or_default();
    match error.kind() {
        ErrorKind::UnknownArgument if argument.starts_with('-') => {
            let suggestion = text(error, ContextKind::SuggestedArg).map(plain_name);
            let suggestion = suggestion.map_or(String::new(), |flag| format!(" (did you mean {flag}?)"));
            format!("unknown flag: {argument}{suggestion}")
        }
        ErrorKind::UnknownArgument => format!("unexpected argument: {argument}"),
        ErrorKind::MissingRequiredArgument => format!("missing argument: {argument}"),
        ErrorKind::InvalidValue if value.is_empty() => format!("flag needs a value: {argument}"),
        ErrorKind::InvalidValue => {
            let valid = texts(error, ContextKind::ValidValue).join(", ");
            format!("invalid value for {argument}: {value:?} is none of {valid}")
        }
        ErrorKind::ValueValidation => {
            let cause = error.source().map_or(String::new(), |cause| format!(": {cause}"));
            format!("invalid value for {argument}{cause}")
        }
        _ => first_line(error),
    }
}

fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

fn text(error: &clap::Error, kind: ContextKind) -> Option<&str> {
    texts(error, kind).first().map(String::as_str)
}

fn texts(error: &clap::Error, kind: ContextKind) -> &[String] {
    match error.get(kind) {
        Some(ContextValue::String(text)) => std::slice::from_ref(text),
        Some(ContextValue::Strings(texts)) => texts,
        _ => &[],
    }
}

/// `--max-ttl` of `--max-ttl <hops>`, `--ipv6` of `--ipv6[=<bool>]`.
fn plain_name(argument: &str) -> &str {
    argument.split([' ', '[', '=']).next().unwrap_or(argument)
}
