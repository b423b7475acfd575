//! Where the program meets the library that traces.

use std::net::IpAddr;
use std::time::Duration;

use datadog_traceroute::{Report, Request};

/// What happens during a trace.
#[expect(dead_code, reason = "nothing traces yet")]
#[derive(Debug, Clone)]
pub(crate) enum Progress {
    /// A traceroute run has ended.
    RunFinished { run: u32 },
    /// A hop has answered.
    HopFound {
        run: u32,
        ttl: u8,
        address: IpAddr,
        rtt: Duration,
        destination: bool,
    },
    /// An end-to-end probe was answered, or not in time.
    E2eProbe { index: u32, rtt: Option<Duration> },
}

/// Why there is no result.
pub(crate) type Error = &'static str;

/// Traces what `request` asks for, telling `progress` what happens meanwhile. Dropping the future stops everything.
#[expect(clippy::unused_async, reason = "nothing traces yet")]
pub(crate) async fn run_trace(
    _request: &Request,
    _progress: impl FnMut(Progress) + Send,
) -> Result<Report, Error> {
    Err("tracing is not built in yet")
}

/// Starts the capture driver that `--windows-driver` asks for; other systems have none and need none.
#[expect(clippy::unnecessary_wraps, reason = "there is no driver yet")]
pub(crate) fn start_windows_driver() -> Result<(), Error> {
    Ok(())
}
