//! The program on a terminal: hops as they are found, and what Ctrl-C does.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::num::NonZero;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A trace that takes a second: its second end-to-end probe leaves a second after the first.
const SHORT: [&str; 4] = [
    "127.0.0.1",
    "--traceroute-queries=1",
    "--e2e-queries=2",
    "--port=33434",
];
/// A trace that takes longer than anybody waits.
const LONG: [&str; 3] = ["127.0.0.1", "--traceroute-queries=1", "--e2e-queries=1000"];

/// The program, its standard error on a pseudo-terminal.
struct Session {
    child: Child,
    /// The terminal's other end.
    terminal: File,
    /// What it has shown.
    shown: String,
}

/// What is left of a [`Session`].
struct Ended {
    stdout: String,
    shown: String,
    status: ExitStatus,
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_datadog-traceroute");

/// The program where it may send probes on loopback; `None` where it may not, after saying so. On
/// Linux that is a network namespace of its own, elsewhere it takes root.
#[cfg(target_os = "linux")]
fn program() -> Option<Command> {
    let lab = traceroute_testbed::require_lab()?;
    Some(lab.node("host").unwrap().command(PROGRAM))
}

#[cfg(not(target_os = "linux"))]
fn program() -> Option<Command> {
    if nix::unistd::geteuid().is_root() {
        return Some(Command::new(PROGRAM));
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "cannot run this test without root, and CI is set"
    );
    // Not eprintln!, whose output the test harness keeps to itself when a test passes.
    let thread = std::thread::current();
    let _ = std::io::Write::write_fmt(
        &mut std::io::stderr(),
        format_args!(
            "not run: {}: sending probes needs root\n",
            thread.name().unwrap_or("test")
        ),
    );
    None
}

impl Session {
    /// Starts what [`program`] returned.
    fn start(mut program: Command, arguments: &[&str], term: &str) -> Session {
        let pty = openpty(None, None).unwrap();
        let child = program
            .args(arguments)
            .env("TERM", term)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(pty.slave)
            .spawn()
            .unwrap();
        Session {
            child,
            terminal: pty.master.into(),
            shown: String::new(),
        }
    }

    /// Waits until the terminal has shown `text`.
    fn wait_for(&mut self, text: &str) {
        while !self.shown.contains(text) {
            assert!(self.read(), "ended without {text:?}: {:?}", self.shown);
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    fn end(mut self) -> Ended {
        while self.read() {}
        let output = self.child.wait_with_output().unwrap();
        Ended {
            stdout: String::from_utf8(output.stdout).unwrap(),
            shown: self.shown,
            status: output.status,
        }
    }

    /// Reads what is shown next; false when the program has closed the terminal.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match self.terminal.read(&mut buffer) {
            Ok(length) => {
                self.shown += str::from_utf8(&buffer[..length]).unwrap();
                length > 0
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            // Linux's way to say that nobody has the other end open any more: EIO.
            Err(_) => false,
        }
    }
}

#[test]
fn an_error_on_a_terminal_is_plain_text() {
    let ended = Session::start(Command::new(PROGRAM), &["--foo"], "xterm").end();
    assert!(
        ended.shown.starts_with("Error: unknown flag: --foo\r\n"),
        "{:?}",
        ended.shown
    );
    assert!(!ended.shown.contains('\x1b'), "{:?}", ended.shown);
}

#[test]
fn a_terminal_shows_progress_and_is_left_clean() {
    let Some(program) = program() else { return };
    let ended = Session::start(program, &SHORT, "xterm").end();
    assert!(ended.status.success(), "{:?}", ended.shown);
    let screen = screen(&ended.shown);
    let (hop, status) = screen.split_once('\n').unwrap();
    assert!(
        hop.starts_with("  1  127.0.0.1  ") && hop.ends_with(" ms"),
        "{screen}"
    );
    assert!(
        status.starts_with("Tracing: 1 hop, runs 1/1, ")
            && status.contains(" s\nEnd to end: 2/2 probes, min/avg/max "),
        "{screen}"
    );
    assert!(
        ended.stdout.starts_with("{\n  \"protocol\": \"udp\""),
        "{:?}",
        ended.stdout
    );
    assert!(ended.stdout.ends_with("\n}\n"), "{:?}", ended.stdout);
}

/// What a terminal that has shown this shows in the end.
fn screen(shown: &str) -> String {
    let mut terminal = vt100::Parser::new(NonZero::new(24).unwrap(), NonZero::new(80).unwrap(), 0);
    terminal.process(shown.as_bytes());
    terminal.screen().contents()
}

#[test]
fn a_table_takes_the_place_of_what_was_shown() {
    let Some(program) = program() else { return };
    let ended = Session::start(program, &[&SHORT[..], &["--format", "table"]].concat(), "xterm").end();
    assert!(ended.shown.contains("  1  127.0.0.1  "), "{:?}", ended.shown);
    assert_eq!(screen(&ended.shown), "");
    assert!(ended.stdout.contains("127.0.0.1"), "{:?}", ended.stdout);
}

/// What was shown goes before they are written, and takes none of them away.
#[test]
fn warnings_stay_when_a_table_is_printed() {
    let Some(program) = program() else { return };
    // A lower distance was not asked for.
    let arguments = [&SHORT[..], &["--first-ttl=2", "--format=table"]].concat();
    let ended = Session::start(program, &arguments, "xterm").end();
    assert!(ended.shown.contains("Tracing: "), "{:?}", ended.shown);
    assert_eq!(
        screen(&ended.shown).trim_end(),
        "warning: run 1: 127.0.0.1 answered, but its distance is unknown"
    );
}

#[test]
fn a_dumb_terminal_shows_nothing() {
    let Some(program) = program() else { return };
    let ended = Session::start(program, &SHORT, "dumb").end();
    assert!(ended.status.success());
    assert_eq!(ended.shown, "");
}

/// SHORT names a port; without one, TCP's is told where somebody reads it.
#[test]
fn notices_are_for_those_who_read_them() {
    let told = "probing TCP port 33434; to choose another: -p PORT, or HOST:PORT\r\n";
    let tcp = ["127.0.0.1", "-Ptcp", "-q1", "-Q0"];
    for (arguments, term, expected) in [
        ([&SHORT[..], &["--quiet"]].concat(), "xterm", ""),
        (tcp.to_vec(), "dumb", told),
        ([&tcp[..], &["--quiet"]].concat(), "dumb", ""),
        ([&tcp[..], &["-p", "33434"]].concat(), "dumb", ""),
    ] {
        let Some(program) = program() else { return };
        let ended = Session::start(program, &arguments, term).end();
        assert!(ended.status.success(), "{arguments:?}: {:?}", ended.shown);
        assert_eq!(ended.shown, expected, "{arguments:?}");
    }
}

#[test]
fn logs_take_the_place_of_the_progress_line() {
    let Some(program) = program() else { return };
    let ended = Session::start(program, &[&SHORT[..], &["--verbose"]].concat(), "xterm").end();
    assert!(ended.status.success());
    assert!(
        ended.shown.contains("DEBUG") || ended.shown.contains("TRACE"),
        "{:?}",
        ended.shown
    );
    assert!(!ended.shown.contains('\x1b'), "{:?}", ended.shown);
}

#[test]
fn no_terminal_no_progress() {
    let Some(mut program) = program() else { return };
    let output = program.args(SHORT).env("TERM", "xterm").output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

/// What the program writes to a terminal as its standard output.
fn shown_by(mut program: Command, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let pty = openpty(None, None).unwrap();
    program
        .args(arguments)
        .env("TERM", "xterm")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(pty.slave)
        .stderr(Stdio::piped());
    let child = program.spawn().unwrap();
    // Or the terminal would stay open.
    drop(program);
    let mut session = Session {
        child,
        terminal: pty.master.into(),
        shown: String::new(),
    };
    while session.read() {}
    let output = session.child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    session.shown
}

const ONE: [&str; 4] = [
    "127.0.0.1",
    "--traceroute-queries=2",
    "--e2e-queries=1",
    "--port=33434",
];

#[test]
fn tables_have_colours_on_terminals_that_want_them() {
    let show = |format: &str, environment: &[(&str, &str)]| {
        let arguments = [&ONE[..], &["--format", format]].concat();
        program().map(|program| shown_by(program, &arguments, environment))
    };
    for format in ["table", "wide"] {
        let Some(shown) = show(format, &[]) else { return };
        assert!(
            shown.starts_with("\x1b[1mTraceroute to 127.0.0.1, UDP port 33434\x1b[0m\r\n"),
            "{shown:?}"
        );
        // An empty NO_COLOR says nothing (https://no-color.org).
        assert!(show(format, &[("NO_COLOR", "")]).unwrap().contains("\x1b["));
        for environment in [("NO_COLOR", "1"), ("CLICOLOR", "0"), ("TERM", "dumb")] {
            let shown = show(format, &[environment]).unwrap();
            assert!(
                shown.starts_with("Traceroute to 127.0.0.1, "),
                "{environment:?}: {shown:?}"
            );
            assert!(!shown.contains('\x1b'), "{environment:?}: {shown:?}");
        }
    }
    for format in ["json", "csv", "dot"] {
        let Some(shown) = show(format, &[]) else { return };
        assert!(!shown.contains('\x1b'), "{shown:?}");
    }
}

#[test]
fn signals_end_a_trace_and_what_is_known_is_shown() {
    for (signal, status) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        for format in ["json", "table"] {
            let Some(program) = program() else { return };
            let mut session = Session::start(program, &[&LONG[..], &["--format", format]].concat(), "xterm");
            session.wait_for("Tracing: 1 hop");
            session.signal(signal);
            let ended = session.end();
            assert_eq!(ended.status.code(), Some(status));
            let screen = screen(&ended.shown);
            let (known, error) = screen
                .trim_end()
                .rsplit_once("Error: interrupted after ")
                .unwrap();
            assert!(error.ends_with(" s"), "{screen}");
            // The document is for programs: there is none. What was shown remains.
            let (shown, printed) = if format == "json" {
                (known, ended.stdout.as_str())
            } else {
                (ended.stdout.as_str(), known)
            };
            assert_eq!(printed, "", "{format}");
            assert!(
                shown.starts_with("  1  127.0.0.1  ") && shown.contains("Tracing: 1 hop"),
                "{format}: {shown}"
            );
        }
    }
}
