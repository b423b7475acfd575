//! All paths to a target: `datadog-traceroute paths`.

use std::io::{self, Write};
use std::time::Instant;

use datadog_traceroute::{Paths, PathsOptions, Request, Tracer, TracerOptions};
use tokio::runtime;

use traceroute_format::PathsFormat;

use crate::args;
use crate::backend;
use crate::screen;
use crate::signals;
use crate::trace::{Failure, interrupted, log_everything};

/// A discovery to make.
#[derive(Debug)]
pub(crate) struct Discovery {
    pub(crate) request: Request,
    pub(crate) options: PathsOptions,
    pub(crate) format: PathsFormat,
    /// Whether to log everything.
    pub(crate) verbose: bool,
    /// Whether to write nothing but errors to standard error.
    pub(crate) quiet: bool,
}

/// Makes the discovery; its result as text.
///
/// # Errors
/// When it fails or is stopped.
pub(crate) fn run(discovery: &Discovery) -> Result<String, Failure> {
    if discovery.verbose {
        log_everything();
    }
    if let Some(notice) = backend::notice(&discovery.request).filter(|_| !discovery.quiet) {
        // Where standard error is closed there is nobody to tell.
        let _ = writeln!(io::stderr(), "{notice}; see `{} doctor`", args::NAME);
    }
    // While there is one thread only: privileges belong to threads.
    backend::drop_privileges(&discovery.request);
    let stop = signals::watch();
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::Start)?;
    let begin = Instant::now();
    let result = runtime.block_on(async {
        let tracer = Tracer::with_options(TracerOptions::default());
        tokio::select! {
            found = tracer.paths(&discovery.request, discovery.options) => {
                found.map_err(|error| Failure::Trace(error.to_string()))
            }
            by = interrupted(stop) => {
                let (after, known) = (begin.elapsed(), String::new());
                Err(Failure::Interrupted { by, after, known })
            }
        }
    });
    // A name still being resolved by the operating system cannot be stopped, only left behind.
    runtime.shutdown_background();
    result.and_then(|paths| written(discovery, &paths))
}

fn written(discovery: &Discovery, paths: &Paths) -> Result<String, Failure> {
    if !discovery.quiet {
        let mut stderr = io::stderr();
        if paths.path_changed {
            let _ = writeln!(
                stderr,
                "warning: the path changed meanwhile, so nothing can be said of what is missing"
            );
        }
        if paths.names_left_out > 0 {
            let count = paths.names_left_out;
            let _ = writeln!(
                stderr,
                "warning: the names of {count} addresses are left out: all together take too much memory"
            );
        }
    }
    let written = discovery.format.render(paths, screen::stdout());
    written.map_err(|error| Failure::Trace(format!("cannot write down the result: {error}")))
}
