//! Where the program meets the library that traces.

use datadog_traceroute::system::{Access, access};
pub(crate) use datadog_traceroute::{Error, Progress};
use datadog_traceroute::{Report, Request, Tracer};

/// Traces what `request` asks for, telling `progress` what happens meanwhile. Dropping the future stops everything.
pub(crate) async fn run_trace(request: &Request, progress: impl FnMut(Progress)) -> Result<Report, Error> {
    Tracer::new().trace_with_progress(request, progress).await
}

/// Starts the capture driver that `--windows-driver` asks for; other systems have none and need none.
#[expect(clippy::unnecessary_wraps, reason = "there is no driver yet")]
pub(crate) fn start_windows_driver() -> Result<(), &'static str> {
    Ok(())
}

/// What a user should know before a trace: that this process has less than it takes to do everything.
pub(crate) fn notice() -> Option<String> {
    match access() {
        Access::Raw => None,
        access @ Access::Ordinary => Some(access.to_string()),
    }
}
