//! One trace, from its request to the text of its result.

use std::convert::Infallible;
use std::fmt;
use std::future;
use std::io::{self, IsTerminal, Write};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use datadog_traceroute::{Host, Request};
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::time::sleep;
use traceroute_flags::{Interruption, with_open_files_advice};
use tracing::Level;

use crate::args::{self, Trace};
use crate::backend::{self, Event, News};
use crate::progress::{Block, Live};
use crate::screen;
use crate::signals;
use traceroute_format::{View, clean};

/// How often the terminal is redrawn.
const REDRAW_INTERVAL: Duration = Duration::from_millis(50);
/// After so long without being redrawn, the program was stopped (Ctrl-Z), and a shell wrote.
const STOPPED: Duration = Duration::from_secs(1);

/// Why there is no document.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The program could not even begin.
    Start(io::Error),
    /// The trace failed, and why.
    Trace(String),
    /// Somebody stopped it.
    Interrupted {
        by: Interruption,
        after: Duration,
        /// What was known until then, for people to read.
        known: String,
    },
}

impl Failure {
    /// Exit status of whatever goes wrong, except of being stopped.
    pub(crate) const EXIT_STATUS: u8 = 1;

    /// The program's exit status.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Failure::Start(_) | Failure::Trace(_) => Failure::EXIT_STATUS,
            Failure::Interrupted { by, .. } => by.exit_status(),
        }
    }

    /// What is worth printing nevertheless.
    pub(crate) fn known(&self) -> &str {
        match self {
            Failure::Start(_) | Failure::Trace(_) => "",
            Failure::Interrupted { known, .. } => known,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Start(error) => write!(f, "cannot start: {error}"),
            Failure::Trace(cause) => write!(f, "failed to run traceroute: {cause}"),
            Failure::Interrupted { after, .. } => {
                write!(f, "interrupted after {:.0} s", after.as_secs_f64())
            }
        }
    }
}

/// Makes the trace, with logs or else what is found so far on standard error, if that is a
/// terminal.
///
/// # Errors
/// When it fails or is stopped.
pub(crate) fn run(trace: &Trace) -> Result<String, Failure> {
    if trace.verbose {
        log_everything();
    }
    if trace.request.windows_driver() {
        backend::start_windows_driver().map_err(|error| Failure::Trace(error.to_string()))?;
    }
    if let Some(notice) = backend::notice(&trace.request) {
        tell(trace, &format_args!("{notice}; see `{} doctor`", args::NAME));
    }
    let is_read = io::stderr().is_terminal() || trace.format.is_for_people();
    if let Some(port) = trace.default_tcp_port.filter(|_| is_read) {
        tell(
            trace,
            &format_args!("probing TCP port {port}; to choose another: -p PORT, or HOST:PORT"),
        );
    }
    // While there is one thread only: privileges belong to threads.
    backend::drop_privileges(&trace.request);
    let stop = signals::watch();
    let block = if trace.verbose || trace.quiet {
        None
    } else {
        Block::on_stderr()
    };
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Start(with_open_files_advice(error)))?;
    let result = runtime.block_on(document(trace, block, stop));
    // A name still being resolved by the operating system cannot be stopped, only left behind.
    runtime.shutdown_background();
    result
}

pub(crate) fn log_everything() {
    tracing_subscriber::fmt()
        .with_max_level(Level::TRACE)
        .with_writer(io::stderr)
        .log_internal_errors(false)
        .init();
}

async fn document(
    trace: &Trace,
    mut block: Option<Block<io::Stderr>>,
    stop: oneshot::Receiver<Interruption>,
) -> Result<String, Failure> {
    let begin = Instant::now();
    let live = Mutex::new(Live::new(&trace.request));
    let mut address = None;
    let tracing = backend::run_trace(&trace.request, |news| match news {
        News::Event(event) => {
            if let Event::Resolved { address: found } = event {
                address = Some(found);
            }
            lock(&live).update(&event);
        }
        News::Names(of, names) => lock(&live).name(of, names),
    });
    let ended = tokio::select! {
        result = tracing => Ok(result),
        by = interrupted(stop) => Err(by),
        never = show(block.as_mut(), &live, begin) => match never {},
    };
    match block.filter(Block::is_shown) {
        Some(mut block) if !trace.format.is_for_people() => {
            block.draw(lines(&live, begin));
            block.keep();
        }
        // A table takes the place of what was shown. Gone before anything else is written, or it
        // would take that away.
        block => drop(block),
    }
    if let Some(address) = address.and_then(|address| unasked_ipv6(&trace.request, address))
        // The log has it.
        && !trace.verbose
    {
        let name = clean(trace.request.hostname());
        tell(
            trace,
            &format_args!("warning: no IPv4 address of {name} was found: traced with IPv6, {address}"),
        );
    }
    let report = match ended {
        Ok(result) => result.map_err(|error| Failure::Trace(error.to_string()))?,
        Err(by) => {
            let known = if trace.format.is_for_people() {
                lines(&live, begin).join("\n") + "\n"
            } else {
                String::new()
            };
            return Err(Failure::Interrupted {
                by,
                after: begin.elapsed(),
                known,
            });
        }
    };
    for warning in &report.warnings {
        tell(trace, &format_args!("warning: {}", warning.text));
    }
    let view = View {
        screen: screen::stdout(),
        details: trace.details,
        option_prefix: "--",
    };
    let written = trace.format.render(&report, view);
    written.map_err(|error| Failure::Trace(format!("cannot write down the result: {error}")))
}

/// Writes a line to standard error, unless nobody wants any. Where that is closed there is nobody
/// to tell.
fn tell(trace: &Trace, line: &dyn fmt::Display) {
    if !trace.quiet {
        let _ = writeln!(io::stderr(), "{line}");
    }
}

/// The address of a name that has IPv6 addresses only, where nobody asked for those.
fn unasked_ipv6(request: &Request, address: IpAddr) -> Option<IpAddr> {
    let is_name = matches!(request.host(), Host::Name(_));
    (is_name && !request.ipv6() && address.is_ipv6()).then_some(address)
}

/// When somebody stops the program; never where the system cannot tell.
pub(crate) async fn interrupted(stop: oneshot::Receiver<Interruption>) -> Interruption {
    match stop.await {
        Ok(interruption) => interruption,
        Err(_) => future::pending().await,
    }
}

/// Keeps `block` up to date, until dropped.
async fn show(block: Option<&mut Block<io::Stderr>>, live: &Mutex<Live>, begin: Instant) -> Infallible {
    let Some(block) = block else {
        return future::pending().await;
    };
    loop {
        // Not at once: a trace that ends before this shows nothing but its result.
        let before = Instant::now();
        sleep(REDRAW_INTERVAL).await;
        if before.elapsed() > STOPPED {
            block.begin_anew();
        }
        block.draw(lines(live, begin));
    }
}

fn lines(live: &Mutex<Live>, begin: Instant) -> Vec<String> {
    let live = lock(live);
    let mut lines = live.hops();
    lines.extend(live.status(begin.elapsed()));
    lines
}

fn lock(live: &Mutex<Live>) -> MutexGuard<'_, Live> {
    live.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_as_a_user_sees_them() {
        let interrupted = |by| Failure::Interrupted {
            by,
            after: Duration::from_millis(5200),
            known: String::new(),
        };
        let cases = [
            (
                Failure::Trace("no route".to_owned()),
                "failed to run traceroute: no route",
                1,
            ),
            (interrupted(Interruption::Interrupt), "interrupted after 5 s", 130),
            (interrupted(Interruption::Terminate), "interrupted after 5 s", 143),
        ];
        for (failure, text, status) in cases {
            assert_eq!(
                (failure.to_string().as_str(), failure.exit_status()),
                (text, status)
            );
        }
    }
}
