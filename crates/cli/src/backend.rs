//! Where the program meets the library that traces.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use datadog_traceroute::system::{
    Access, Finding, Subject, Verdict, access, diagnose, keep_marking_privileges, keep_probing_privileges,
};
pub(crate) use datadog_traceroute::{Error, Event, start_windows_driver};
use datadog_traceroute::{Protocol, Report, Request, TcpMethod, Tracer, TracerOptions};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

/// From so many runs on, all at once, it is worth the time to make room for their replies.
const MANY_RUNS: u32 = 100;

/// The flags that ask for what the library's advice names.
const WINDOWS_FLAGS: &str = "--tcp-method syn_socket, --windows-driver";

/// What is told while a trace goes on.
pub(crate) enum News {
    Event(Event),
    /// The names of an address that answered.
    Names(IpAddr, Arc<[String]>),
}

/// Traces what `request` asks for, telling `tell` what happens meanwhile. Dropping the future stops
/// everything.
pub(crate) async fn run_trace(request: &Request, mut tell: impl FnMut(News)) -> Result<Report, Error> {
    let mut options = TracerOptions::default();
    options.network.heavy_load = request.runs() >= MANY_RUNS;
    let tracer = &Tracer::with_options(options);
    let mut events = tracer.events(request);
    let mut asked = HashSet::new();
    let mut names = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            event = events.next() => {
                let Some(event) = event else { break };
                if let Event::HopFound { answer, .. } = event
                    && request.reverse_dns()
                    && asked.insert(answer.address)
                {
                    let address = answer.address;
                    // The report asks again, and gets what this has found.
                    names.push(async move { (address, tracer.names(address).await) });
                }
                tell(News::Event(event));
            }
            Some((address, found)) = names.next() => tell(News::Names(address, found)),
        }
    }
    events.report().await
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
    notice_of(access(), request, why_no_icmp)
}

/// Why ICMP can be probed over neither family; `None` where it can.
fn why_no_icmp() -> Option<String> {
    let findings = diagnose().into_iter();
    let of_icmp = findings.filter(|finding| match finding.subject {
        Subject::Probing { protocol, .. } => protocol == "icmp",
        Subject::System(_) => false,
    });
    let of_icmp: Vec<Finding> = of_icmp.collect();
    let is_bad = of_icmp.iter().all(|finding| finding.verdict == Verdict::Bad);
    of_icmp
        .into_iter()
        .next()
        .filter(|_| is_bad)
        .map(|finding| finding.text)
}

fn notice_of(access: Access, request: &Request, why_no_icmp: fn() -> Option<String>) -> Option<String> {
    // These need no raw sockets.
    let does_without = request.windows_driver() || request.tcp_method() == TcpMethod::SynSocket;
    match access {
        // Without anything the trace fails, and says why.
        Access::Raw | Access::None => None,
        Access::RawWithoutTcp if request.protocol() != Protocol::Tcp => None,
        // Fails without the driver, and says so.
        Access::RawWithoutTcp if request.tcp_method() == TcpMethod::Sack => None,
        Access::RawWithoutTcp | Access::IcmpApi if does_without => None,
        Access::Ordinary => Some(match why_no_icmp() {
            None => access.to_string(),
            Some(reason) => format!("{access}; ICMP cannot be probed at all: {reason}"),
        }),
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
        let notice = |protocol, driver| notice_of(Access::RawWithoutTcp, &request(protocol, driver), || None);
        let text = notice(Protocol::Tcp, false).unwrap();
        assert!(
            text.contains("syn_socket") && text.contains("--windows-driver"),
            "{text}"
        );
        assert_eq!(notice(Protocol::Tcp, true), None);
        assert_eq!(notice(Protocol::Udp, false), None);
        assert_eq!(notice(Protocol::Icmp, false), None);
    }

    #[test]
    fn with_ordinary_sockets_the_notice_names_icmp_where_it_is_not_to_be_had() {
        let notice = |reason| notice_of(Access::Ordinary, &request(Protocol::Udp, false), reason).unwrap();
        assert!(!notice(|| None).contains("ICMP"));
        let text = notice(|| Some("no group".to_owned()));
        assert!(
            text.ends_with("; ICMP cannot be probed at all: no group"),
            "{text}"
        );
    }
}
