//! Where the program meets the library that traces.

use datadog_traceroute::system::{Access, access, keep_marking_privileges, keep_probing_privileges};
pub(crate) use datadog_traceroute::{Error, Progress, start_windows_driver};
use datadog_traceroute::{Options, Protocol, Report, Request, TcpMethod, Tracer};

/// From so many runs on, all at once, it is worth the time to make room for their replies.
const MANY_RUNS: u32 = 100;

/// The flags that ask for what the library's advice names.
const WINDOWS_FLAGS: &str = "--tcp-method syn_socket, --windows-driver";

/// Traces what `request` asks for, telling `progress` what happens meanwhile. Dropping the future
/// stops everything.
pub(crate) async fn run_trace(request: &Request, progress: impl FnMut(Progress)) -> Result<Report, Error> {
    let mut options = Options::default();
    options.network.heavy_load = request.runs() >= MANY_RUNS;
    Tracer::with_options(options)
        .trace_with_progress(request, progress)
        .await
}

/// Gives up the privileges that this request's probes do not need: from here on, packets from
/// anywhere are read.
pub(crate) fn drop_privileges(request: &Request) {
    let kept = if request.fwmark().is_some() {
        keep_marking_privileges()
    } else {
        keep_probing_privileges()
    };
    match kept {
        Ok(privileges) => {
            let root = privileges.is_root;
            tracing::debug!(kept = %privileges, dropped = privileges.dropped, root, "privileges");
        }
        Err(error) => tracing::debug!(%error, "cannot drop privileges"),
    }
}

/// What a user should know before a trace: that this process has less than it takes to do
/// everything.
pub(crate) fn notice(request: &Request) -> Option<String> {
    notice_of(access(), request)
}

fn notice_of(access: Access, request: &Request) -> Option<String> {
    // These need no raw sockets.
    let does_without = request.windows_driver() || request.tcp_method() == TcpMethod::SynSocket;
    match access {
        // Without anything the trace fails, and says why.
        Access::Raw | Access::None => None,
        Access::RawWithoutTcp if request.protocol() != Protocol::Tcp => None,
        // Fails without the driver, and says so.
        Access::RawWithoutTcp if request.tcp_method() == TcpMethod::Sack => None,
        Access::RawWithoutTcp | Access::IcmpApi if does_without => None,
        Access::Ordinary => Some(access.to_string()),
        Access::RawWithoutTcp | Access::IcmpApi => Some(format!("{access} ({WINDOWS_FLAGS})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(protocol: Protocol, windows_driver: bool) -> Request {
        let request = Request::to("192.0.2.1").protocol(protocol);
        request.windows_driver(windows_driver).build().unwrap()
    }

    #[test]
    fn on_a_client_edition_of_windows_tcp_comes_with_a_notice_of_what_works() {
        let notice = |protocol, driver| notice_of(Access::RawWithoutTcp, &request(protocol, driver));
        let text = notice(Protocol::Tcp, false).unwrap();
        assert!(
            text.contains("syn_socket") && text.contains("--windows-driver"),
            "{text}"
        );
        assert_eq!(notice(Protocol::Tcp, true), None);
        assert_eq!(notice(Protocol::Udp, false), None);
        assert_eq!(notice(Protocol::Icmp, false), None);
    }
}
