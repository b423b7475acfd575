//! What a terminal shows while a trace goes on: each hop as soon as it is found, and how far the
//! rest is.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use datadog_traceroute::{Answer, IcmpError, Request, is_private, notation};

use crate::backend::Event;
use traceroute_format::{host, milliseconds, rtt, width};

/// Of more round-trip times, the least, the mean and the greatest are shown.
const MOST_RTTS: usize = 3;

/// What is known of a trace so far.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    runs: u32,
    runs_finished: u32,
    probes: u32,
    /// End-to-end probes whose fate is known: their round-trip times, where they have one.
    rtts: Vec<Option<Duration>>,
    /// Empty where only hidden addresses have answered.
    hops: BTreeMap<u8, Vec<Seen>>,
    hide_private: bool,
    names: HashMap<IpAddr, Arc<[String]>>,
    /// The lowest TTL at which the destination answered.
    destination: Option<u8>,
}

/// Who answered at a TTL, in whichever run.
#[derive(Debug, Clone)]
struct Seen {
    address: IpAddr,
    rtts: Vec<Duration>,
    /// Why it is worth a look: `!X`, `NAT`.
    notes: Vec<String>,
    /// It refuses to send probes on.
    refuses: bool,
}

impl Live {
    /// A trace that has just begun.
    pub(crate) fn new(request: &Request) -> Self {
        Live {
            runs: request.runs(),
            runs_finished: 0,
            probes: request.e2e_probes(),
            rtts: Vec::new(),
            hops: BTreeMap::new(),
            hide_private: request.skip_private_hops(),
            names: HashMap::new(),
            destination: None,
        }
    }

    /// Takes in what happened.
    pub(crate) fn update(&mut self, event: &Event) {
        match event {
            Event::RunFinished { .. } => self.runs_finished += 1,
            Event::HopFound { ttl, answer, .. } => self.found(*ttl, answer),
            Event::E2eProbe { rtt, .. } => self.rtts.push(*rtt),
            _ => {}
        }
    }

    /// Takes in the names of an address.
    pub(crate) fn name(&mut self, address: IpAddr, names: Arc<[String]>) {
        self.names.insert(address, names);
    }

    /// An address with its name, as far as it is known.
    fn host(&self, address: IpAddr) -> String {
        host(address, self.names.get(&address).map_or(&[], |names| names))
    }

    fn found(&mut self, ttl: u8, answer: &Answer) {
        if answer.destination {
            self.destination = Some(self.destination.map_or(ttl, |known| known.min(ttl)));
        }
        let hop = self.hops.entry(ttl).or_default();
        if self.hide_private && is_private(answer.address) {
            return;
        }
        let known = hop.iter().position(|seen| seen.address == answer.address);
        let seen = match known {
            Some(index) => &mut hop[index],
            None => hop.push_mut(Seen {
                address: answer.address,
                rtts: Vec::new(),
                notes: Vec::new(),
                refuses: false,
            }),
        };
        let is_refusal = matches!(answer.error, Some(IcmpError::Unreachable { .. })) && !answer.destination;
        seen.refuses |= is_refusal;
        seen.rtts.extend(answer.rtt);
        let nat = answer.translated.then(|| "NAT".to_owned());
        let mpls = (!answer.mpls.is_empty()).then(|| "MPLS".to_owned());
        for note in [notation(answer), nat, mpls].into_iter().flatten() {
            if !seen.notes.contains(&note) {
                seen.notes.push(note);
            }
        }
    }

    /// The last TTL of the path: where the destination answered, or was refused. What goes beyond is
    /// answered by the same.
    fn last(&self) -> Option<u8> {
        let farthest = self.hops.keys().next_back().copied()?;
        let mut last = self.destination.unwrap_or(farthest);
        let refuses = |ttl| {
            let hop = self.hops.get(&ttl).map_or(&[][..], Vec::as_slice);
            !hop.is_empty() && hop.iter().all(|seen| seen.refuses)
        };
        while refuses(last) && refuses(last - 1) {
            last -= 1;
        }
        Some(last)
    }

    /// One line for each address at each TTL of the path.
    pub(crate) fn hops(&self) -> Vec<String> {
        let first = self.hops.keys().next().copied();
        let (Some(first), Some(last)) = (first, self.last()) else {
            return Vec::new();
        };
        let shown = || (first..=last).map(|ttl| (ttl, self.hops.get(&ttl).map_or(&[][..], Vec::as_slice)));
        let most = shown()
            .flat_map(|(_, hop)| hop)
            .map(|seen| width(&self.host(seen.address)))
            .max()
            .unwrap_or_default();
        let mut lines = Vec::new();
        for (ttl, hop) in shown() {
            if hop.is_empty() {
                let is_hidden = self.hops.contains_key(&ttl);
                lines.push(format!(
                    "{ttl:>3}  {}",
                    if is_hidden { "???  private" } else { "*" }
                ));
            }
            for (index, seen) in hop.iter().enumerate() {
                let ttl = if index == 0 {
                    ttl.to_string()
                } else {
                    String::new()
                };
                let host = self.host(seen.address);
                let mut line = format!("{ttl:>3}  {host}{:1$}", "", most - width(&host));
                let times = seen.times();
                for word in [times].iter().chain(&seen.notes).filter(|word| !word.is_empty()) {
                    let _ = write!(line, "  {word}");
                }
                lines.push(line);
            }
        }
        lines
    }

    /// How far the trace is after `elapsed`, and what the end-to-end probes tell.
    pub(crate) fn status(&self, elapsed: Duration) -> Vec<String> {
        let hops = self.hops.range(..=self.last().unwrap_or(u8::MAX)).count();
        let noun = if hops == 1 { "hop" } else { "hops" };
        let (finished, runs) = (self.runs_finished, self.runs);
        let seconds = elapsed.as_secs_f64();
        let mut lines = vec![format!(
            "Tracing: {hops} {noun}, runs {finished}/{runs}, {seconds:.1} s"
        )];
        if self.probes > 0 {
            let answered: Vec<Duration> = self.rtts.iter().copied().flatten().collect();
            let mut line = format!("End to end: {}/{} probes", self.rtts.len(), self.probes);
            let unanswered = self.rtts.len() - answered.len();
            if unanswered > 0 {
                // Not "lost": what they say of the network is known at the end.
                let _ = write!(line, ", {unanswered} unanswered");
            }
            if !answered.is_empty() {
                let _ = write!(line, ", min/avg/max {} ms", summary(&answered));
            }
            lines.push(line);
        }
        lines
    }
}

impl Seen {
    fn times(&self) -> String {
        if self.rtts.len() > MOST_RTTS {
            return format!("{} ms of {}", summary(&self.rtts), self.rtts.len());
        }
        let texts: Vec<String> = self.rtts.iter().copied().map(milliseconds).map(rtt).collect();
        if texts.is_empty() {
            String::new()
        } else {
            format!("{} ms", texts.join("  "))
        }
    }
}

/// The least, the mean and the greatest.
fn summary(rtts: &[Duration]) -> String {
    let (least, most, sum) = rtts
        .iter()
        .copied()
        .map(milliseconds)
        .fold((f64::MAX, 0.0_f64, 0.0), |(least, most, sum), value| {
            (value.min(least), value.max(most), sum + value)
        });
    [least, sum / rtts.len() as f64, most].map(rtt).join("/")
}

/// Lines at the bottom of a terminal, redrawn in place. Dropped without [`Block::keep`], they are
/// gone.
#[derive(Debug)]
pub(crate) struct Block<W: Write> {
    terminal: W,
    shown: Vec<String>,
    /// Height of the terminal in lines, as it is now; `None`: not known.
    height: fn() -> Option<usize>,
}

impl Block<io::Stderr> {
    /// Lines on standard error; `None` when that is no terminal, or one that cannot redraw a line.
    pub(crate) fn on_stderr() -> Option<Self> {
        let terminal = io::stderr();
        let capable = terminal.is_terminal()
            && anstyle_query::term_supports_ansi_color()
            && anstyle_query::windows::enable_ansi_colors() != Some(false);
        let height = || {
            let size = terminal_size::terminal_size_of(io::stderr());
            size.map(|(_, terminal_size::Height(height))| usize::from(height))
                .filter(|height| *height > 0)
        };
        capable.then(|| Block::new(terminal, height))
    }
}

impl<W: Write> Block<W> {
    fn new(terminal: W, height: fn() -> Option<usize>) -> Self {
        Block {
            terminal,
            shown: Vec::new(),
            height,
        }
    }

    /// Shows these lines in place of what was shown before: the last ones, where there is no room
    /// for all.
    pub(crate) fn draw(&mut self, mut lines: Vec<String>) {
        // What has left the screen at the top cannot be drawn again.
        if let Some(height) = (self.height)() {
            lines.drain(..lines.len().saturating_sub(height));
        }
        let same = self.shown.iter().zip(&lines).take_while(|(old, new)| old == new);
        let first = same.count();
        if first == lines.len() && first == self.shown.len() {
            return;
        }
        // The last line is always written again: the cursor is in it.
        let first = first
            .min(lines.len().saturating_sub(1))
            .min(self.shown.len().saturating_sub(1));
        let up = self.shown.len().saturating_sub(1) - first;
        let mut text = "\r".to_owned();
        if up > 0 {
            let _ = write!(text, "\x1b[{up}A");
        }
        // One write, and erasing only what is left of the old text: no flicker. Line wrapping is
        // off meanwhile (DECAWM, `CSI ? 7 l`), so that in a narrow window each line is cut and
        // stays one line.
        text.push_str("\x1b[?7l");
        for (index, line) in lines.iter().enumerate().skip(first) {
            let end = if index + 1 < lines.len() { "\r\n" } else { "" };
            let _ = write!(text, "{line}\x1b[K{end}");
        }
        text.push_str("\x1b[J\x1b[?7h");
        self.write(&text);
        self.shown = lines;
    }

    /// Draws from the cursor on, next time: somebody else has written since.
    pub(crate) fn begin_anew(&mut self) {
        self.shown.clear();
    }

    /// Whether anything is shown.
    pub(crate) fn is_shown(&self) -> bool {
        !self.shown.is_empty()
    }

    /// Leaves what is shown on the terminal.
    pub(crate) fn keep(mut self) {
        if !self.shown.is_empty() {
            self.write("\r\n");
        }
        self.shown.clear();
    }

    /// A terminal that is gone does not end the trace.
    fn write(&mut self, text: &str) {
        let _ = self.terminal.write_all(text.as_bytes());
        let _ = self.terminal.flush();
    }
}

impl<W: Write> Drop for Block<W> {
    fn drop(&mut self) {
        match self.shown.len() {
            0 => {}
            1 => self.write("\r\x1b[J"),
            lines => self.write(&format!("\r\x1b[{}A\x1b[J", lines - 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZero;

    use datadog_traceroute::IcmpError;

    use super::*;

    fn live() -> Live {
        Live::new(&Request::to("192.0.2.1").build().unwrap())
    }

    fn hop(run: u32, ttl: u8, address: &str, micros: u64, error: Option<IcmpError>) -> Event {
        let rtt = Some(Duration::from_micros(micros));
        Event::HopFound {
            run,
            ttl,
            answer: Answer::new(address.parse().unwrap(), rtt, error),
        }
    }

    #[test]
    fn a_trace_that_has_just_begun() {
        assert_eq!(live().hops(), Vec::<String>::new());
        assert_eq!(
            live().status(Duration::ZERO),
            ["Tracing: 0 hops, runs 0/3, 0.0 s", "End to end: 0/50 probes"]
        );
        let request = Request::to("192.0.2.1").e2e_probes(0).build().unwrap();
        assert_eq!(Live::new(&request).status(Duration::ZERO).len(), 1);
    }

    #[test]
    fn hops_as_they_are_found() {
        let mut live = live();
        let exceeded = Some(IcmpError::TimeExceeded);
        live.update(&hop(0, 1, "10.0.0.1", 500, exceeded));
        live.update(&hop(0, 3, "10.0.3.1", 1500, exceeded));
        live.update(&hop(1, 3, "10.0.30.1", 1600, exceeded));
        assert_eq!(
            live.hops(),
            [
                "  1  10.0.0.1   0.500 ms",
                "  2  *",
                "  3  10.0.3.1   1.500 ms",
                "     10.0.30.1  1.600 ms"
            ]
        );
        let names: Arc<[String]> = Arc::new(["röuter.example".to_owned()]);
        live.name("10.0.30.1".parse().unwrap(), names);
        assert_eq!(
            live.hops()[2..],
            [
                "  3  10.0.3.1                    1.500 ms",
                "     röuter.example (10.0.30.1)  1.600 ms"
            ]
        );
        live.name("10.0.30.1".parse().unwrap(), Arc::new([]));
        for run in 1..5 {
            live.update(&hop(run, 1, "10.0.0.1", 400 + u64::from(run) * 100, exceeded));
        }
        live.update(&hop(
            0,
            4,
            "10.0.3.1",
            1700,
            Some(IcmpError::Unreachable { code: 13 }),
        ));
        // What goes beyond the destination is answered by it, too.
        live.update(&hop(1, 5, "192.0.2.1", 2000, None));
        live.update(&hop(1, 6, "192.0.2.1", 2000, None));
        live.update(&Event::RunFinished { run: 1 });
        live.update(&Event::E2eProbe { index: 0, rtt: None });
        let hops = live.hops();
        assert_eq!(hops[0], "  1  10.0.0.1   0.500/0.620/0.800 ms of 5");
        assert_eq!(
            hops[4..],
            ["  4  10.0.3.1   1.700 ms  !X", "  5  192.0.2.1  2.000 ms"]
        );
        assert_eq!(
            live.status(Duration::from_millis(75_250)),
            [
                "Tracing: 4 hops, runs 1/3, 75.2 s",
                "End to end: 1/50 probes, 1 unanswered"
            ]
        );
        for (index, milliseconds) in [(1, 10), (2, 20)] {
            let rtt = Some(Duration::from_millis(milliseconds));
            live.update(&Event::E2eProbe { index, rtt });
        }
        assert_eq!(
            live.status(Duration::ZERO)[1],
            "End to end: 3/50 probes, 1 unanswered, min/avg/max 10.000/15.000/20.000 ms"
        );
    }

    /// As in the result: a refusal is confirmed by probes that go beyond it, which are no hops.
    #[test]
    fn a_path_that_is_refused_ends_there() {
        let mut live = live();
        let refused = Some(IcmpError::Unreachable { code: 1 });
        live.update(&hop(0, 1, "10.0.0.1", 500, Some(IcmpError::TimeExceeded)));
        for ttl in 2..=4 {
            live.update(&hop(0, ttl, "10.0.0.1", 700, refused));
        }
        assert_eq!(
            live.hops(),
            ["  1  10.0.0.1  0.500 ms", "  2  10.0.0.1  0.700 ms  !H"]
        );
        assert_eq!(live.status(Duration::ZERO)[0], "Tracing: 2 hops, runs 0/3, 0.0 s");
        // Another run goes on.
        live.update(&hop(1, 4, "10.0.4.1", 900, Some(IcmpError::TimeExceeded)));
        assert_eq!(live.hops().len(), 5);
    }

    #[test]
    fn private_hops_are_hidden_when_asked() {
        let request = Request::to("192.0.2.1").skip_private_hops(true).build().unwrap();
        let mut live = Live::new(&request);
        let exceeded = Some(IcmpError::TimeExceeded);
        live.update(&hop(0, 1, "10.0.0.1", 500, exceeded));
        live.update(&hop(0, 3, "10.0.3.1", 500, exceeded));
        live.update(&hop(1, 3, "198.51.100.3", 600, exceeded));
        assert_eq!(
            live.hops(),
            ["  1  ???  private", "  2  *", "  3  198.51.100.3  0.600 ms"]
        );
    }

    /// What a terminal of six lines shows after these drawings.
    fn screen(drawings: &[&[&str]], keep: bool) -> String {
        let mut written = Vec::new();
        let mut block = Block::new(&mut written, || Some(6));
        for lines in drawings {
            block.draw(lines.iter().map(|line| (*line).to_owned()).collect());
        }
        if keep {
            block.keep();
        } else {
            drop(block);
        }
        let mut terminal = vt100::Parser::new(NonZero::new(6).unwrap(), NonZero::new(40).unwrap(), 0);
        terminal.process(b"$ traceroute\r\n");
        terminal.process(&written);
        terminal.process(b"$");
        terminal.screen().contents()
    }

    #[test]
    fn a_block_is_drawn_in_place() {
        assert_eq!(
            screen(&[&["long", "s"], &["a", "b", "t"], &["a", "c", "u"]], true),
            "$ traceroute\na\nc\nu\n$"
        );
        assert_eq!(screen(&[&["a", "b", "s"], &["t"]], true), "$ traceroute\nt\n$");
        assert_eq!(screen(&[&["a", "b", "s"]], false), "$ traceroute\n$");
        // The last lines, where there is no room for all; above them is what has left the screen.
        let many = ["1", "2", "3", "4", "5", "6", "7", "s"];
        assert_eq!(screen(&[&many[..7], &many], true), "4\n5\n6\n7\ns\n$");
    }

    /// A shell writes while the program is stopped (Ctrl-Z).
    #[test]
    fn a_block_begun_anew_leaves_what_others_wrote() {
        let mut written = Vec::new();
        let mut block = Block::new(&mut written, || Some(6));
        block.draw(vec!["a".to_owned(), "s".to_owned()]);
        block.write("\r\n[1]+ Stopped\r\n");
        block.begin_anew();
        block.draw(vec!["b".to_owned(), "t".to_owned()]);
        block.keep();
        let mut terminal = vt100::Parser::new(NonZero::new(6).unwrap(), NonZero::new(40).unwrap(), 0);
        terminal.process(&written);
        assert_eq!(terminal.screen().contents(), "a\ns\n[1]+ Stopped\nb\nt");
    }

    #[test]
    fn a_block_that_does_not_change_is_not_drawn_again() {
        let mut terminal = Vec::new();
        let mut block = Block::new(&mut terminal, || None);
        block.draw(vec!["one".to_owned()]);
        block.draw(vec!["one".to_owned()]);
        drop(block);
        let written = String::from_utf8(terminal).unwrap();
        assert_eq!(written, "\r\x1b[?7lone\x1b[K\x1b[J\x1b[?7h\r\x1b[J");
    }

    #[test]
    fn a_block_never_drawn_leaves_the_terminal_alone() {
        let mut terminal = Vec::new();
        drop(Block::new(&mut terminal, || None));
        assert_eq!(terminal, b"");
    }
}
