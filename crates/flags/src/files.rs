//! Whether files enough can be opened to start.

use std::io;

/// What two runtimes with signal handling open: a queue of events, a waker and the read end of a socket pair each, and
/// the pair itself. In pipes, which are two files each.
const PIPES: usize = 4;

/// Checks that this process may open the files that an asynchronous runtime needs; where they are too few for its signal
/// handling, it would panic.
///
/// # Errors
/// They cannot be opened, with what helps.
pub fn check_open_files() -> io::Result<()> {
    let opened: io::Result<Vec<_>> = (0..PIPES).map(|_| io::pipe()).collect();
    match opened {
        Ok(_) => Ok(()),
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!("{error} (the limit of open files is too low: raise `ulimit -n`)"),
        )),
    }
}
