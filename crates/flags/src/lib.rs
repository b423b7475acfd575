//! What the programs share: the options of a trace, flags in the manner of Go programs, what is
//! said about wrong usage, which build this is, what ends them, and how results and errors are
//! written.

mod catalogue;
mod complete;
mod completion;
mod man;
mod open_files;
mod options;
mod output;
mod parameters;
mod paths;
mod signals;
mod usage;
mod utc;
mod values;

use std::io;

use clap::ArgAction;
pub use clap_complete::Shell;

pub use catalogue::{Choice, Interface, Kind, TraceOption, Value};
pub use open_files::{is_out_of_files, with_open_files_advice};
pub use options::OPTIONS;
pub use output::{fail, print};
pub use parameters::{InvalidParameter, Parameters};
pub use paths::{PATH_PARAMETERS, PathParameters, is_shared_with_paths, path_arguments};
pub use signals::{Hangups, Interruption, watch_signals};
pub use usage::UsageError;
pub use utc::rfc3339;
pub use values::{InvalidValue, parse_bool, parse_int};

/// A program, as it speaks of itself.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Its name, also where the file was renamed.
    pub name: &'static str,
    /// Its usage in one line.
    pub usage: &'static str,
    /// What its manual page has besides flags and commands.
    pub manual: Manual,
}

/// What a manual page has besides flags and commands. A section without entries is left out.
#[derive(Debug, Clone, Copy)]
pub struct Manual {
    /// What the program does, as a phrase: `trace the network path to a host`.
    pub phrase: &'static str,
    /// Exit statuses, and when.
    pub exit_status: &'static [(&'static str, &'static str)],
    /// Variables, and what they do.
    pub environment: &'static [(&'static str, &'static str)],
    /// Paths, and what is read there.
    pub files: &'static [(&'static str, &'static str)],
    /// Command lines, and what they are for.
    pub examples: &'static [(&'static str, &'static str)],
}

impl Program {
    /// Wrong usage, which `message` explains.
    pub fn usage_error(&self, message: impl Into<String>) -> UsageError {
        UsageError::new(self.name, self.usage, message)
    }

    /// Wrong usage, found by clap.
    pub fn clap_error(&self, error: &clap::Error) -> UsageError {
        UsageError::from_clap(self.name, self.usage, error)
    }

    /// Version, commit and date of the build, three lines; `unknown` where the build could not find
    /// out.
    pub fn version(&self) -> String {
        format!(
            "{} {}\ncommit: {}\nbuilt: {}\n",
            self.name, VERSION, COMMIT, BUILD_DATE
        )
    }

    /// The completion script for `shell` of a program that has the flags of `command`.
    pub fn completion(&self, command: clap::Command, shell: Shell) -> Vec<u8> {
        completion::script(self.name, go_style(command), shell)
    }

    /// The manual page, in roff, of a program that has the flags of `command`.
    ///
    /// # Errors
    /// None that occurs: it is written to memory.
    pub fn man(&self, command: clap::Command) -> io::Result<Vec<u8>> {
        man::page(self, go_style(command))
    }

    /// Which flags and commands of `command` the manual page and the completion scripts do not
    /// have. For tests: none.
    pub fn undocumented(&self, command: &clap::Command) -> Vec<String> {
        complete::undocumented(self, command)
    }
}

/// The version of all programs.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit they were built from.
pub const COMMIT: &str = env!("BUILD_COMMIT");
/// When they were built, or the commit made.
pub const BUILD_DATE: &str = env!("BUILD_DATE");

/// Makes flags behave as those of Go programs: `--switch=false`, and `--number -1`.
#[must_use]
pub fn go_style(command: clap::Command) -> clap::Command {
    command.mut_args(|flag| match flag.get_action() {
        ArgAction::SetTrue => flag
            .action(ArgAction::Set)
            .value_name("bool")
            .value_parser(parse_bool)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value("false"),
        ArgAction::Set if !flag.is_positional() => flag.allow_hyphen_values(true),
        _ => flag,
    })
}
