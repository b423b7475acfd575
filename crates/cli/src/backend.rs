//! Where the program meets the library that traces.

use datadog_traceroute::system::{Access, access};
pub(crate) use datadog_traceroute::{Error, Progress, start_windows_driver};
use datadog_traceroute::{Report, Request, Tracer};

/// Traces what `request` asks for, telling `progress` what happens meanwhile. Dropping the future stops everything.
pub(crate) async fn run_trace(request: &Request, progress: impl FnMut(Progress)) -> Result<Report, Error> {
    Tracer::new().trace_with_progress(request, progress).await
}

/// What a user should know before a trace: that this process has less than it takes to do everything.
pub(crate) fn notice() -> Option<String> {
    match access() {
        Access::Raw => None,
        access @ Access::Ordinary => Some(access.to_string()),
    }
}
