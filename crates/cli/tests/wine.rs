//! The Windows programs, run by Wine in a network made of namespaces: what of the Windows backend
//! Linux can show.
//!
//! `scripts/cross-test-windows` runs it; it is not part of `cargo test`, as it needs Wine and
//! programs built for Windows. Wine 8 has neither ICMP errors of connects (so no `syn_socket`), nor
//! the ICMP API over IPv6, nor the driver, nor Windows Firewall; here only what the programs say
//! about these is tested. Their logic is tested in traceroute-net.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "all of this is test code")]
#![allow(
    dead_code,
    reason = "what is shared with the other end-to-end tests is not all used"
)]

#[path = "e2e/program.rs"]
mod program;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use traceroute_e2e::{Layout, Report};
use traceroute_testbed::{Chain, Lab, Service};

use program::{Outcome, Path, end, paths, start};

const WINESERVER: &str = "/usr/lib/wine/wineserver64";
const HOPS: usize = 4;
/// Longer than anything here should take, on however busy a machine.
const PATIENCE: Duration = Duration::from_mins(1);
/// `AF_INET` and `SOCK_STREAM` of socket(2).
const TCP: (i32, i32) = (2, 1);

/// A chain with Wine in its client. There is one Wine, so tests take turns.
struct Lane {
    chain: Chain,
    _service: Service,
    _lab: Lab,
    _turn: MutexGuard<'static, ()>,
}

static TURN: Mutex<()> = Mutex::new(());

impl Lane {
    fn new() -> Lane {
        Lane::with_server(&[WINESERVER, "-p"])
    }

    /// Windows programs are refused raw sockets, as they are without administrator rights: these
    /// are opened by Wine's server, which is started without `CAP_NET_RAW`. The ICMP API is another
    /// process of Wine's, which keeps it.
    fn without_raw_sockets() -> Lane {
        let lowered = [
            "setpriv",
            "--bounding-set",
            "-net_raw",
            "--inh-caps",
            "-net_raw",
            WINESERVER,
            "-p",
        ];
        Lane::with_server(&lowered)
    }

    fn with_server(server: &[&str]) -> Lane {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let lab = Lab::new().unwrap();
        let chain = lab.chain(HOPS).unwrap();
        let succeeds = |words: &[&str]| {
            let mut command = chain.client.command(words[0]);
            command
                .args(&words[1..])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command.status().unwrap().success()
        };
        // The sockets of Windows programs are those of Wine's server, so it has to be started in
        // the namespace. The first program brings up Wine's own, which live as long as the server and
        // would keep its pipes open. Wine's services may miss each other then, so it is tried again.
        let started = (0..3).any(|_| {
            stop_wine();
            succeeds(server) && succeeds(&["wine", "cmd", "/c", "exit"])
        });
        assert!(started, "{server:?}");
        Lane {
            _service: chain.target.listen_tcp(80).unwrap(),
            chain,
            _lab: lab,
            _turn: turn,
        }
    }

    fn command(&self, program: &str) -> Command {
        let program = std::env::var(program)
            .unwrap_or_else(|_| panic!("{program} is not set; scripts/cross-test-windows runs these tests"));
        let mut command = self.chain.client.command("wine");
        command.arg(program);
        command
    }

    /// The HTTP service at a free port.
    fn server(&self) -> Command {
        let mut command = self.command("WINDOWS_SERVER");
        command.args(["--addr", "127.0.0.1:0"]);
        command
    }

    fn path(&self) -> Path {
        let [v4, _] = paths(&self.chain);
        v4
    }

    fn run(&self, arguments: &str) -> Outcome {
        let run = || {
            let mut command = self.command("WINDOWS_PROGRAM");
            command.args(arguments.split_whitespace());
            eprintln!("$ datadog-traceroute.exe {arguments}");
            end(start(&mut command))
        };
        // Wine's server may break a program off, which says nothing about it.
        let is_broken_off = |outcome: &Outcome| outcome.stderr.contains("wine client error:");
        let mut outcome = run();
        if is_broken_off(&outcome) {
            outcome = run();
        }
        eprintln!("{}{}", outcome.stdout, outcome.stderr);
        outcome
    }

    /// Traces to the target: every hop must answer, as who it is, and all end-to-end probes.
    fn trace(&self, arguments: &str) -> Outcome {
        let path = self.path();
        let arguments = format!("{arguments} -q 2 -Q 3 --timeout 2000 {}", path.target);
        let outcome = self.run(&arguments);
        assert_eq!(outcome.status, Some(0), "{outcome:?}");
        check(&outcome_report(&outcome), &path);
        outcome
    }

    /// No result, but an error that contains `text`.
    fn refuses(&self, arguments: &str, text: &str) {
        let outcome = self.run(arguments);
        assert!(outcome.failure().contains(text), "{outcome:?}");
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        stop_wine();
    }
}

fn stop_wine() {
    // Fails when none runs. Of this prefix alone, so nobody else's is stopped.
    let _ = Command::new(WINESERVER).arg("-k").status();
    let _ = Command::new(WINESERVER).arg("-w").status();
}

fn outcome_report(outcome: &Outcome) -> Report {
    Report::read(&outcome.stdout, Layout::Indented).unwrap()
}

/// The document has two runs through all hops, in their order, to the target, and three answered
/// end-to-end probes.
fn check(report: &Report, path: &Path) {
    assert_eq!(report.hostname, path.target.to_string());
    assert_eq!(report.runs.len(), 2, "{report:?}");
    for run in &report.runs {
        assert_eq!(program::addresses(run), path.hops);
        assert_eq!((run.source, run.destination), (path.client, path.target));
    }
    report.check_hop_count().unwrap();
    assert_eq!(report.hop_count.max, HOPS as u64);
    assert_eq!((report.e2e.sent, report.e2e.received), (3, 3), "{:?}", report.e2e);
}

#[test]
fn icmp_over_raw_sockets_shows_every_hop() {
    let outcome = Lane::new().trace("--proto icmp");
    assert_eq!(outcome.stderr, "");
    assert_eq!(outcome_report(&outcome).protocol, "icmp");
}

#[test]
fn udp_over_raw_sockets_shows_every_hop() {
    let outcome = Lane::new().trace("--proto udp");
    assert_eq!(outcome_report(&outcome).protocol, "udp");
}

#[test]
fn tcp_syn_over_raw_sockets_shows_every_hop() {
    let lane = Lane::new();
    let outcome = lane.trace("--proto tcp --port 80");
    // Wine calls itself a client edition, although it can.
    let notice = "this edition of Windows sends no TCP over raw sockets";
    assert!(outcome.stderr.starts_with(notice), "{outcome:?}");
    // A closed port's target answers too.
    lane.trace("--proto tcp --port 81");
}

#[test]
fn sack_needs_the_driver_and_prefer_sack_falls_back() {
    let lane = Lane::new();
    let target = lane.path().target;
    lane.refuses(
        &format!("--proto tcp --port 80 --tcp-method sack -q 1 -Q 0 {target}"),
        "SACK not supported for this target/source: ",
    );
    lane.trace("--proto tcp --port 80 --tcp-method prefer_sack");
}

#[test]
fn source_and_interface_are_the_users_choice() {
    let lane = Lane::new();
    let Path { client, target, .. } = lane.path();
    for protocol in ["icmp", "udp", "tcp --port 80"] {
        lane.trace(&format!("--proto {protocol} --interface eth0"));
    }
    lane.trace(&format!("--proto udp --interface eth0 --source {client}"));
    for (choice, text) in [
        (
            "--source 192.0.2.7".to_owned(),
            "the source 192.0.2.7 is not an address of this host",
        ),
        (
            format!("--source {client} --interface lo"),
            "is not an address of the chosen interface",
        ),
        (
            "--interface no-such-if".to_owned(),
            "this host has no interface \"no-such-if\"; `ipconfig` lists",
        ),
        ("--fwmark 5".to_owned(), "this system cannot mark packets"),
    ] {
        lane.refuses(&format!("--proto udp {choice} -q 1 -Q 0 {target}"), text);
    }
}

#[test]
fn the_icmp_api_sends_from_the_chosen_interface() {
    Lane::without_raw_sockets().trace("--proto icmp --interface eth0");
}

#[test]
fn what_wine_cannot_do_is_refused_with_what_would_help() {
    let lane = Lane::new();
    let [v4, v6] = paths(&lane.chain);
    for (arguments, text) in [
        (
            "--proto tcp --tcp-method syn_socket",
            "syn_socket needs Windows 10 version 2004",
        ),
        ("--proto icmp --windows-driver", "could not open service ddnpm: "),
        (
            "--proto tcp --windows-driver",
            "the driver comes with the Datadog Agent",
        ),
    ] {
        lane.refuses(&format!("{arguments} -q 1 -Q 0 {}", v4.target), text);
    }
    lane.refuses(
        &format!("--proto udp --ipv6 -q 1 -Q 0 {}", v6.target),
        "without the driver",
    );
}

#[test]
fn doctor_under_wine_says_what_can_be_probed() {
    let lane = Lane::new();
    let outcome = lane.run("doctor");
    assert_eq!(
        (outcome.status, outcome.stderr.as_str()),
        (Some(0), ""),
        "{outcome:?}"
    );
    let table: Vec<Vec<&str>> = outcome
        .stdout
        .lines()
        .take(5)
        .map(|line| {
            line.split("  ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
                .collect()
        })
        .collect();
    // Wine has no ICMPv6, no errors of connects, and says that it is a client edition, which sends
    // no raw TCP.
    assert_eq!(table[0], ["IPv4", "IPv6"]);
    assert_eq!(table[1], ["icmp", "raw sockets", "not possible"]);
    assert_eq!(table[2], ["udp", "raw sockets", "not possible"]);
    assert_eq!(table[3], ["tcp syn", "not possible", "not possible"]);
    assert_eq!(table[4], ["tcp sack", "not possible", "not possible"]);
    for text in [
        "raw sockets [ok]: allowed",
        "administrator rights [ok]: yes",
        "a client edition, build ",
        "the service ddnpm is not installed",
        "install the Datadog Agent",
        "syn_socket [could be better]: not available",
        "firewall [unknown]",
        "New-NetFirewallRule",
    ] {
        assert!(
            outcome.stdout.contains(text),
            "{text:?} is not in {}",
            outcome.stdout
        );
    }
}

#[test]
fn without_rights_the_icmp_api_shows_every_hop_and_the_rest_says_what_it_needs() {
    let lane = Lane::without_raw_sockets();
    let doctor = lane.run("doctor").stdout;
    for text in [
        "icmp      ICMP API          not possible",
        "udp       not possible      not possible",
        "raw sockets [could be better]: refused",
        "-Verb RunAs",
    ] {
        assert!(doctor.contains(text), "{text:?} is not in {doctor}");
    }
    let outcome = lane.trace("--proto icmp");
    let notice = "no administrator rights: ICMP is probed through the ICMP API";
    assert!(outcome.stderr.starts_with(notice), "{outcome:?}");

    let outcome = lane.run(&format!("--proto udp -q 1 -Q 0 {}", lane.path().target));
    assert_eq!(
        (outcome.status, outcome.stdout.as_str()),
        (Some(1), ""),
        "{outcome:?}"
    );
    let error = outcome.stderr.lines().last().unwrap();
    assert!(error.starts_with("Error: failed to run traceroute: "), "{error}");
    assert!(
        error.contains("run as Administrator or use the Windows driver"),
        "{error}"
    );
}

/// The HTTP service under Wine, listening.
struct Server<'l> {
    lane: &'l Lane,
    child: Child,
    address: SocketAddr,
}

impl<'l> Server<'l> {
    fn start(lane: &'l Lane) -> Self {
        let mut child = lane
            .server()
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = lines
            .by_ref()
            .map_while(Result::ok)
            .inspect(|line| eprintln!("{line}"))
            .find(|line| line.contains("listening address="))
            .expect("the server listens");
        let address = line.split('"').nth(1).unwrap().parse().unwrap();
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| eprintln!("{line}")));
        Server { lane, child, address }
    }

    fn get(&self, uri: &str) -> (u16, String) {
        let socket = self.lane.chain.client.socket(TCP.0, TCP.1, 0).unwrap();
        let socket = socket2::Socket::from(socket);
        socket.connect(&self.address.into()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = std::net::TcpStream::from(socket);
        write!(
            stream,
            "GET {uri} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        eprintln!("$ GET {uri}\n{answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }
}

#[test]
fn the_server_answers_and_ends_when_told_to() {
    let lane = Lane::new();
    let mut server = Server::start(&lane);
    let (status, health) = server.get("/health");
    assert_eq!(status, 200);
    assert!(health.starts_with(r#"{"status":"healthy","#), "{health}");

    let path = lane.path();
    let query = "protocol=icmp&traceroute-queries=2&e2e-queries=3&timeout=2000";
    let (status, body) = server.get(&format!("/traceroute?target={}&{query}", path.target));
    assert_eq!(status, 200, "{body}");
    check(&Report::read(&body, Layout::Compact).unwrap(), &path);
    assert_eq!(server.get("/traceroute").0, 400);

    // Wine makes Ctrl-C of it.
    let wine = nix::unistd::Pid::from_raw(server.child.id().cast_signed());
    nix::sys::signal::kill(wine, nix::sys::signal::Signal::SIGINT).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = server.child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "the server does not end");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(0));
}

#[test]
fn without_the_driver_a_server_that_needs_it_does_not_start_and_a_request_for_it_fails() {
    const MISSING: &str = "could not open service ddnpm: ";
    let lane = Lane::new();
    let outcome = end(start(lane.server().arg("--windows-driver")));
    assert_eq!(outcome.status, Some(1), "{outcome:?}");
    let error = outcome.stderr.lines().last().unwrap();
    assert!(
        error.starts_with("Error: cannot start the driver: ") && error.contains(MISSING),
        "{error}"
    );

    let mut server = Server::start(&lane);
    let query = "protocol=icmp&traceroute-queries=1&e2e-queries=0&windows-driver=true";
    let (status, body) = server.get(&format!("/traceroute?target={}&{query}", lane.path().target));
    assert_eq!(status, 500, "{body}");
    assert!(body.contains(MISSING), "{body}");
    // The next one, which does not ask for it, is traced.
    let query = "protocol=icmp&traceroute-queries=1&e2e-queries=0";
    let (status, body) = server.get(&format!("/traceroute?target={}&{query}", lane.path().target));
    assert_eq!(status, 200, "{body}");
    server.child.kill().unwrap();
    server.child.wait().unwrap();
}
