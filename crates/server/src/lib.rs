//! The HTTP service: query parameters in, one JSON document out.
//!
//! [`main`] is the whole program. From the outside in: `args` reads flags, `listen` opens sockets,
//! `serve` accepts and bounds connections, `router` says which path is what, `observe` watches each
//! request, `job` carries one out.

mod accept_header;
mod args;
mod auth;
mod backend;
mod browser;
mod connections;
mod duration;
mod failure;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod health;
mod job;
mod limits;
mod listen;
mod logging;
mod metrics;
mod observe;
mod openapi;
mod page;
mod parameters;
mod paths;
mod policy;
mod ports;
mod probe;
mod rate;
mod redirect;
mod reload;
mod router;
mod sandbox;
mod serve;
mod shared;
mod stall;
mod stream;
#[cfg(test)]
mod tests;
mod tls;
mod tokens;
mod writer;

use std::ffi::OsString;
use std::process::ExitCode;

use args::Action;
use traceroute_flags::{fail, print};

/// Exit status of whatever goes wrong.
const FAILURE: u8 = 1;

/// Runs the program with these arguments (without its name) until it is told to stop.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    match args::parse(arguments) {
        Ok(Action::Serve(config)) => match serve::run(*config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error, FAILURE),
        },
        Ok(Action::Help(text)) => print(text.as_bytes()),
        Ok(Action::Version) => print(args::PROGRAM.version().as_bytes()),
        Ok(Action::Completion(shell)) => print(&args::completion(shell)),
        Ok(Action::Man) => match args::man() {
            Ok(page) => print(&page),
            Err(error) => fail(&error, FAILURE),
        },
        Err(error) => fail(&error, FAILURE),
    }
}

/// The OpenAPI document that the service hands out where its limits are the usual ones, indented and
/// with a final newline.
pub fn openapi() -> String {
    openapi::document(&limits::Ceilings::default())
}
