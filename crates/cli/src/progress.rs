//! The line on the terminal that shows how far a trace is.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use datadog_traceroute::Request;

use crate::backend::Progress;

/// How far a trace is.
#[derive(Debug, Clone)]
pub(crate) struct Counts {
    runs: u32,
    runs_finished: u32,
    probes: u32,
    probes_finished: u32,
    probes_lost: u32,
    /// TTLs at which a hop was found, in whichever run.
    hops: BTreeSet<u8>,
}

impl Counts {
    /// A trace that has just begun.
    pub(crate) fn new(request: &Request) -> Self {
        Counts {
            runs: request.runs(),
            runs_finished: 0,
            probes: request.e2e_probes(),
            probes_finished: 0,
            probes_lost: 0,
            hops: BTreeSet::new(),
        }
    }

    /// Takes in what happened.
    pub(crate) fn update(&mut self, progress: &Progress) {
        match progress {
            Progress::RunFinished { .. } => self.runs_finished += 1,
            Progress::HopFound { ttl, .. } => _ = self.hops.insert(*ttl),
            Progress::E2eProbe { rtt, .. } => {
                self.probes_finished += 1;
                self.probes_lost += u32::from(rtt.is_none());
            }
            _ => {}
        }
    }

    /// The line after `elapsed`, without control characters.
    pub(crate) fn line(&self, elapsed: Duration) -> String {
        format!("{self}, {:.1} s", elapsed.as_secs_f64())
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hops = self.hops.len();
        write!(f, "Tracing: {hops} {}", if hops == 1 { "hop" } else { "hops" })?;
        write!(f, ", runs {}/{}", self.runs_finished, self.runs)?;
        write!(f, ", end-to-end probes {}/{}", self.probes_finished, self.probes)?;
        if self.probes_lost > 0 {
            write!(f, " ({} lost)", self.probes_lost)?;
        }
        Ok(())
    }
}

/// One line of a terminal, redrawn in place; gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Line<W: Write> {
    terminal: W,
    shown: String,
}

impl Line<io::Stderr> {
    /// The line on standard error; `None` when that is no terminal, or one that cannot redraw a
    /// line.
    pub(crate) fn on_stderr() -> Option<Self> {
        let terminal = io::stderr();
        let capable = terminal.is_terminal()
            && anstyle_query::term_supports_ansi_color()
            && anstyle_query::windows::enable_ansi_colors() != Some(false);
        capable.then(|| Line::new(terminal))
    }
}

impl<W: Write> Line<W> {
    fn new(terminal: W) -> Self {
        Line {
            terminal,
            shown: String::new(),
        }
    }

    /// Shows `text` in place of what was shown before.
    pub(crate) fn draw(&mut self, text: &str) {
        if text != self.shown {
            // One write, and erasing only what is left of the old text: no flicker. Line wrapping
            // is off meanwhile (DECAWM, `CSI ? 7 l`), so that in a narrow window the line is cut
            // and stays one line.
            self.write(&format!("\r\x1b[?7l{text}\x1b[K\x1b[?7h"));
            text.clone_into(&mut self.shown);
        }
    }

    /// A terminal that is gone does not end the trace.
    fn write(&mut self, text: &str) {
        let _ = self.terminal.write_all(text.as_bytes());
        let _ = self.terminal.flush();
    }
}

impl<W: Write> Drop for Line<W> {
    fn drop(&mut self) {
        if !self.shown.is_empty() {
            self.write("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn counts() -> Counts {
        Counts::new(&Request::to("192.0.2.1").build().unwrap())
    }

    fn hop(run: u32, ttl: u8) -> Progress {
        Progress::HopFound {
            run,
            ttl,
            answer: datadog_traceroute::Answer::new(Ipv4Addr::LOCALHOST.into(), None, None),
        }
    }

    #[test]
    fn line_of_a_trace_that_has_just_begun() {
        let line = counts().line(Duration::ZERO);
        assert_eq!(line, "Tracing: 0 hops, runs 0/3, end-to-end probes 0/50, 0.0 s");
    }

    #[test]
    fn line_counts_what_happened() {
        let mut counts = counts();
        let rtt = Some(Duration::from_millis(2));
        counts.update(&hop(0, 1));
        assert_eq!(
            counts.line(Duration::from_millis(149)),
            "Tracing: 1 hop, runs 0/3, end-to-end probes 0/50, 0.1 s"
        );
        counts.update(&hop(0, 2));
        counts.update(&hop(1, 2));
        counts.update(&Progress::RunFinished { run: 1 });
        counts.update(&Progress::E2eProbe { index: 0, rtt });
        counts.update(&Progress::E2eProbe { index: 1, rtt: None });
        assert_eq!(
            counts.line(Duration::from_millis(75_250)),
            "Tracing: 2 hops, runs 1/3, end-to-end probes 2/50 (1 lost), 75.2 s"
        );
    }

    #[test]
    fn a_line_is_drawn_once_per_text_and_erased_at_the_end() {
        let mut terminal = Vec::new();
        let mut line = Line::new(&mut terminal);
        line.draw("one");
        line.draw("one");
        line.draw("two");
        drop(line);
        let written = String::from_utf8(terminal).unwrap();
        assert_eq!(
            written,
            "\r\x1b[?7lone\x1b[K\x1b[?7h\r\x1b[?7ltwo\x1b[K\x1b[?7h\r\x1b[K"
        );
    }

    #[test]
    fn a_line_never_drawn_leaves_the_terminal_alone() {
        let mut terminal = Vec::new();
        drop(Line::new(&mut terminal));
        assert_eq!(terminal, b"");
    }
}
