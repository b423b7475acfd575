//! Where the program meets the library that traces.

use datadog_traceroute::system::{Access, access, keep_probing_privileges};
pub(crate) use datadog_traceroute::{Error, Progress, start_windows_driver};
use datadog_traceroute::{Options, Report, Request, TcpMethod, Tracer};

/// From so many runs on, all at once, it is worth the time to make room for their replies.
const MANY_RUNS: u32 = 100;

/// Traces what `request` asks for, telling `progress` what happens meanwhile. Dropping the future stops everything.
pub(crate) async fn run_trace(request: &Request, progress: impl FnMut(Progress)) -> Result<Report, Error> {
    let mut options = Options::default();
    options.network.heavy_load = request.traceroute_queries >= MANY_RUNS;
    Tracer::with_options(options)
        .trace_with_progress(request, progress)
        .await
}

/// Gives up the privileges that probing does not need: from here on, packets from anywhere are read.
pub(crate) fn drop_privileges() {
    match keep_probing_privileges() {
        Ok(privileges) => {
            let root = privileges.is_root;
            tracing::debug!(kept = %privileges, dropped = privileges.dropped, root, "privileges");
        }
        Err(error) => tracing::debug!(%error, "cannot drop privileges"),
    }
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
