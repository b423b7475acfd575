//! Standard output and standard error.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

/// Exit status of whatever goes wrong.
const FAILURE: u8 = 1;

/// Writes to standard output, where nothing but results goes.
pub fn print(bytes: &[u8]) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has seen enough, as in `| head -1`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::from(FAILURE),
        Err(error) => fail(&format_args!("cannot write to standard output: {error}"), FAILURE),
    }
}

/// Writes `error` to standard error; the exit status is `status`.
pub fn fail(error: &dyn fmt::Display, status: u8) -> ExitCode {
    // Where standard error is closed there is nobody left to tell, and `eprintln!` would panic.
    let _ = writeln!(io::stderr(), "Error: {error}");
    ExitCode::from(status)
}
