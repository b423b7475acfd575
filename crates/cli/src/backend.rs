//! Where the program meets the library that traces.

use datadog_traceroute::system::{Access, access};
pub(crate) use datadog_traceroute::{Error, Progress, start_windows_driver};
use datadog_traceroute::{Report, Request, TcpMethod, Tracer};

/// Traces what `request` asks for, telling `progress` what happens meanwhile. Dropping the future stops everything.
pub(crate) async fn run_trace(request: &Request, progress: impl FnMut(Progress)) -> Result<Report, Error> {
    Tracer::new().trace_with_progress(request, progress).await
}

/// What a user should know before a trace: that this process has less than it takes to do everything.
pub(crate) fn notice(request: &Request) -> Option<String> {
    match access() {
        // Without anything the trace fails, and says why.
        Access::Raw | Access::None => None,
        // These do not need what is missing.
        Access::IcmpApi if request.windows_driver || request.tcp_method == TcpMethod::SynSocket => None,
        access @ (Access::Ordinary | Access::IcmpApi) => Some(access.to_string()),
    }
}
