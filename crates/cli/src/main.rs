//! The `datadog-traceroute` command line program: flags in, one JSON document out.

mod args;
mod backend;
mod doctor;
mod paths;
mod progress;
mod screen;
mod signals;
mod trace;

use std::process::ExitCode;

use args::Action;
use trace::Failure;
use traceroute_flags::{fail, print};

fn main() -> ExitCode {
    let arguments = std::env::args_os().skip(1).collect();
    match args::parse(arguments) {
        Ok(Action::Trace(trace)) => match trace::run(&trace) {
            Ok(document) => print(document.as_bytes()),
            Err(failure) => {
                print(failure.known().as_bytes());
                fail(&failure, failure.exit_status())
            }
        },
        Ok(Action::Paths(discovery)) => match paths::run(&discovery) {
            Ok(document) => print(document.as_bytes()),
            Err(failure) => fail(&failure, failure.exit_status()),
        },
        Ok(Action::Help(text)) => print(text.as_bytes()),
        Ok(Action::Version) => print(args::PROGRAM.version().as_bytes()),
        Ok(Action::Completion(shell)) => print(&args::completion(shell)),
        Ok(Action::Man) => match args::man() {
            Ok(page) => print(&page),
            Err(error) => fail(&error, Failure::EXIT_STATUS),
        },
        Ok(Action::Doctor) => doctor(),
        Err(error) => fail(&error, Failure::EXIT_STATUS),
    }
}

/// Succeeds when something can be probed.
fn doctor() -> ExitCode {
    let findings = doctor::examine();
    let printed = print(doctor::render(&findings).as_bytes());
    if doctor::can_probe(&findings) {
        printed
    } else {
        ExitCode::from(Failure::EXIT_STATUS)
    }
}
