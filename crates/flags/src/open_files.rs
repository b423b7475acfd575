//! What is said where too few files may be open.

use std::io;

/// `EMFILE` of Linux and macOS.
const TOO_MANY_OPEN_FILES: i32 = 24;

/// Whether too many files are open already.
#[must_use]
pub fn is_out_of_files(error: &io::Error) -> bool {
    cfg!(unix) && error.raw_os_error() == Some(TOO_MANY_OPEN_FILES)
}

/// An error of starting, with what helps if too few files may be open.
#[must_use]
pub fn with_open_files_advice(error: io::Error) -> io::Error {
    if !is_out_of_files(&error) {
        return error;
    }
    let advice = "the limit of open files is too low: raise `ulimit -n`";
    io::Error::new(error.kind(), format!("{error} ({advice})"))
}
