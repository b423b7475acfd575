//! Runs the program in a node.

use std::fmt::Display;
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use traceroute_e2e::{Hop, Layout, Report, Run};
use traceroute_testbed::{Chain, Node};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_datadog-traceroute");

/// Whatever a test does, it takes far less than this.
const STUCK: Duration = Duration::from_mins(1);

/// What an ended program leaves.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub elapsed: Duration,
}

impl Outcome {
    /// The report of a trace that went well, and has nothing to say about it.
    pub(crate) fn report(&self) -> Report {
        assert_eq!((self.status, self.stderr.as_str()), (Some(0), ""), "{self:?}");
        Report::read(&self.stdout, Layout::Indented).unwrap()
    }

    /// The report of a trace that has nothing but warnings to say, and those.
    pub(crate) fn report_and_warnings(&self) -> (Report, Vec<&str>) {
        assert_eq!(self.status, Some(0), "{self:?}");
        let warning = |line| str::strip_prefix(line, "warning: ").unwrap_or_else(|| panic!("{self:?}"));
        let warnings = self.stderr.lines().map(warning).collect();
        (Report::read(&self.stdout, Layout::Indented).unwrap(), warnings)
    }

    /// What a trace that failed says after `Error: failed to run traceroute: `.
    pub(crate) fn failure(&self) -> &str {
        assert_eq!((self.status, self.stdout.as_str()), (Some(1), ""), "{self:?}");
        let message = self.stderr.strip_prefix("Error: failed to run traceroute: ");
        let message = message.and_then(|message| message.strip_suffix('\n'));
        message.unwrap_or_else(|| panic!("{self:?}"))
    }
}

/// The program in a node, with arguments separated by white space.
pub(crate) fn program(node: &Node, target: impl Display, arguments: &str) -> Command {
    let mut command = node.command(PROGRAM);
    command.args(arguments.split_whitespace()).arg(target.to_string());
    command
}

pub(crate) fn start(command: &mut Command) -> Child {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits for the end of a program, though not for ever.
pub(crate) fn end(child: Child) -> Outcome {
    let begin = Instant::now();
    let pid = Pid::from_raw(child.id().cast_signed());
    let (ended, is_ended) = mpsc::channel::<()>();
    let watchdog = thread::spawn(move || {
        if is_ended.recv_timeout(STUCK) == Err(mpsc::RecvTimeoutError::Timeout) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(ended);
    watchdog.join().unwrap();
    Outcome {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        elapsed: begin.elapsed(),
    }
}

pub(crate) fn finish(command: &mut Command) -> Outcome {
    let begin = Instant::now();
    let outcome = end(start(command));
    Outcome {
        elapsed: begin.elapsed(),
        ..outcome
    }
}

pub(crate) fn run(node: &Node, target: impl Display, arguments: &str) -> Outcome {
    finish(&mut program(node, target, arguments))
}

/// The report of a trace that goes well.
pub(crate) fn trace(node: &Node, target: impl Display, arguments: &str) -> Report {
    run(node, target, arguments).report()
}

/// The hops of a report with a single run.
pub(crate) fn hops(report: &Report) -> Vec<Option<IpAddr>> {
    let [run] = &report.runs[..] else {
        panic!("not one run: {report:?}");
    };
    addresses(run)
}

pub(crate) fn addresses(run: &Run) -> Vec<Option<IpAddr>> {
    run.hops.iter().map(Hop::address).collect()
}

/// A family's view of a chain.
#[derive(Debug)]
pub(crate) struct Path {
    pub client: IpAddr,
    pub target: IpAddr,
    /// Who answers at each TTL from 1, the target last.
    pub hops: Vec<Option<IpAddr>>,
}

/// IPv4 and IPv6.
pub(crate) fn paths(chain: &Chain) -> [Path; 2] {
    let some = |address: IpAddr| Some(address);
    [
        Path {
            client: chain.client_v4().into(),
            target: chain.target_v4().into(),
            hops: chain
                .hop_addresses_v4()
                .into_iter()
                .map(|hop| some(hop.into()))
                .collect(),
        },
        Path {
            client: chain.client_v6().into(),
            target: chain.target_v6().into(),
            hops: chain
                .hop_addresses_v6()
                .into_iter()
                .map(|hop| some(hop.into()))
                .collect(),
        },
    ]
}

/// Does something for both families at once.
pub(crate) fn each_family(chain: &Chain, check: impl Fn(&Path) + Sync) {
    thread::scope(|scope| {
        for path in paths(chain) {
            let check = &check;
            scope.spawn(move || check(&path));
        }
    });
}
