//! The `datadog-traceroute` command line program: flags in, one JSON document out.

mod args;
mod backend;
mod doctor;
mod progress;
mod signals;
mod trace;
mod usage;

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use args::Action;
use datadog_traceroute::system::diagnose;
use trace::Failure;

fn main() -> ExitCode {
    let arguments = std::env::args_os().skip(1).collect();
    match args::parse(arguments) {
        Ok(Action::Trace(trace)) => match trace::run(&trace) {
            Ok(document) => print(document.as_bytes()),
            Err(failure) => fail(&failure, failure.exit_status()),
        },
        Ok(Action::Help(text)) => print(text.as_bytes()),
        Ok(Action::Version) => print(version().as_bytes()),
        Ok(Action::Completion(shell)) => print(&args::completion(shell)),
        Ok(Action::Doctor) => doctor(),
        Err(error) => fail(&error, Failure::EXIT_STATUS),
    }
}

/// Succeeds when something can be probed.
fn doctor() -> ExitCode {
    let findings = diagnose();
    let printed = print(doctor::render(&findings).as_bytes());
    if doctor::can_probe(&findings) {
        printed
    } else {
        ExitCode::from(Failure::EXIT_STATUS)
    }
}

fn version() -> String {
    format!(
        "{} {}\ncommit: {}\nbuilt: {}\n",
        args::NAME,
        env!("CARGO_PKG_VERSION"),
        env!("BUILD_COMMIT"),
        env!("BUILD_DATE"),
    )
}

/// Writes to standard output, where nothing but results goes.
fn print(bytes: &[u8]) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has seen enough, as in `| head -1`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::from(Failure::EXIT_STATUS),
        Err(error) => fail(
            &format_args!("cannot write to standard output: {error}"),
            Failure::EXIT_STATUS,
        ),
    }
}

fn fail(error: &dyn fmt::Display, status: u8) -> ExitCode {
    // Where standard error is closed there is nobody left to tell, and `eprintln!` would panic.
    let _ = writeln!(io::stderr(), "Error: {error}");
    ExitCode::from(status)
}
