//! Manual pages.

use std::io;

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

use crate::{BUILD_DATE, Manual, Program, VERSION};

/// The page of `program`, section 1. Commands and what stands below the help have sections of their
/// own, because one page is for all of it.
pub(crate) fn page(program: &Program, mut command: clap::Command) -> io::Result<Vec<u8>> {
    command.build();
    let Program { name, manual, .. } = program;
    let Manual {
        phrase,
        exit_status,
        environment,
        files,
        examples,
    } = manual;
    let mut head = Roff::default();
    head.control("SH", ["NAME"]);
    head.text([roman(format!("{name} - {phrase}"))]);
    let mut rest = Roff::default();
    commands(&mut rest, &command);
    list(&mut rest, "EXIT STATUS", exit_status);
    list(&mut rest, "ENVIRONMENT", environment);
    list(&mut rest, "FILES", files);
    notes(&mut rest, &command);
    list(&mut rest, "EXAMPLES", examples);
    let date = BUILD_DATE.split_once('T').map_or("", |(date, _)| date);
    let man = Man::new(command)
        .title(name.to_uppercase())
        .date(date)
        .source(format!("{name} {VERSION}"))
        .manual("User Commands");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    head.to_writer(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    rest.to_writer(&mut page)?;
    Ok(page)
}

/// Each command with its arguments.
fn commands(roff: &mut Roff, command: &clap::Command) {
    roff.control("SH", ["COMMANDS"]);
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        let mut line = vec![bold(command.get_name())];
        // `help` has the name of a command, and commands of its own.
        for argument in command.get_positionals() {
            let names = argument.get_value_names().unwrap_or_default().join(" ");
            line.extend([roman(" "), italic(format!("<{names}>"))]);
        }
        roff.control("TP", []);
        roff.text(line);
        if let Some(about) = command.get_about() {
            roff.text([roman(about.to_string())]);
        }
    }
}

/// A section of terms and what is to be said of them.
fn list(roff: &mut Roff, title: &str, entries: &[(&str, &str)]) {
    if !entries.is_empty() {
        roff.control("SH", [title]);
    }
    for (term, text) in entries {
        roff.control("TP", []);
        roff.text([bold(*term)]);
        roff.text([roman(*text)]);
    }
}

fn notes(roff: &mut Roff, command: &clap::Command) {
    let Some(notes) = command.get_after_help() else {
        return;
    };
    roff.control("SH", ["NOTES"]);
    for note in notes.to_string().lines() {
        roff.control("PP", []);
        roff.text([roman(note)]);
    }
}
