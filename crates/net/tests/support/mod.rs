//! Network namespaces to test in, and what the tests say to and hear from the network.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use traceroute_engine::{
    Capabilities, ConnectionId, Egress, FlowRequest, MatchedReply, NetError, Network, NetworkEvent, OpenFlow,
    Route, Time, Token, Transport,
};
use traceroute_net::NetworkOptions;
pub(crate) use traceroute_testbed::not_run;
use traceroute_wire::{ECHO_PAYLOAD, Ignored, Probe, ProbeKind, Reply};

/// Set in the process that runs one test by itself.
const ALONE: &str = "TRACEROUTE_TEST_ALONE";

pub(crate) const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub(crate) const LOCALHOST_V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
pub(crate) const BOTH: [IpAddr; 2] = [LOCALHOST, LOCALHOST_V6];

thread_local! {
    /// How [`Subject::new`] opens the network.
    static HEAVY_LOAD: Cell<bool> = const { Cell::new(false) };
}

/// Names a probe in tests that need no more than a number.
pub(crate) fn numbered(trace: u64) -> Token {
    Token { trace, probe: 0 }
}

/// Whether the network under test is opened for heavy load.
pub(crate) fn heavy_load() -> bool {
    HEAVY_LOAD.get()
}

/// Runs a test twice, with a network for light and one for heavy load, each time in a network
/// namespace of its own, in which only the loopback interface is up. The namespace goes away with
/// the thread.
///
/// Without privileges, runs the test in a user namespace. Where that is forbidden, fails if `CI` is
/// set, and otherwise says that the test was skipped.
pub(crate) fn isolated<T: Fn() + Copy + Send + 'static>(test: T) {
    if is_root() {
        for heavy in [false, true] {
            in_new_namespace(move || {
                HEAVY_LOAD.set(heavy);
                test();
            });
        }
    } else if !run_alone::<T>(
        Command::new("unshare")
            .args(["--user", "--map-root-user", "--"])
            .arg(this_program()),
    ) {
        not_run("neither root nor allowed to make user namespaces");
    }
}

/// Runs a test like [`isolated`], in a process of its own, so that it may change what the process
/// has.
pub(crate) fn alone<T: Fn() + Copy + Send + 'static>(test: T) {
    if std::env::var_os(ALONE).is_some() {
        isolated(test);
    } else if !run_alone::<T>(&mut Command::new(this_program())) {
        not_run("cannot run itself");
    }
}

/// Runs a test once in a process and a network namespace of its own, for what cannot be done twice.
/// Only root can.
#[allow(dead_code)]
pub(crate) fn alone_once<T: Fn() + Send + 'static>(test: T) {
    if !is_root() {
        not_run("not root");
    } else if std::env::var_os(ALONE).is_some() {
        in_new_namespace(test);
    } else if !run_alone::<T>(&mut Command::new(this_program())) {
        not_run("cannot run itself");
    }
}

/// Runs a test in a thread, which has the test's name like the one that it is called from, and a
/// network namespace of its own.
fn in_new_namespace<T: FnOnce() + Send + 'static>(test: T) {
    let name = std::thread::current().name().map(str::to_owned);
    let thread = std::thread::Builder::new()
        .name(name.unwrap_or_default())
        .spawn(move || {
            enter_new_namespace();
            test();
        })
        .expect("a thread");
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a test, known by the type of its closure, in a process of its own; whether that could be
/// started. Panics if the test fails.
fn run_alone<T>(command: &mut Command) -> bool {
    let output = command
        .args(["--exact", test_name::<T>(), "--nocapture"])
        .env(ALONE, "1")
        .output();
    let Ok(output) = output else { return false };
    let text = String::from_utf8_lossy(&output.stdout);
    let ran = text.contains("running 1 test");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!ran || output.status.success(), "{text}{errors}");
    for line in errors.lines().filter(|line| line.starts_with("not run:")) {
        // Not eprintln!, whose output the test harness keeps to itself when a test passes.
        let _ = writeln!(io::stderr(), "{line}");
    }
    ran
}

/// The function in which a closure of type `T` stands: `its_name` of
/// `linux::its_name::{{closure}}`.
fn test_name<T>() -> &'static str {
    let path = std::any::type_name::<T>();
    let path = path.split_once("::").map_or(path, |(_, path)| path);
    path.split_once("::{{closure}}").map_or(path, |(name, _)| name)
}

fn this_program() -> std::path::PathBuf {
    std::env::current_exe().expect("the path of this program")
}

fn is_root() -> bool {
    // SAFETY: no pointers.
    unsafe { libc::geteuid() == 0 }
}

fn enter_new_namespace() {
    // SAFETY: no pointers.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(
        result,
        0,
        "cannot make a network namespace: {}",
        io::Error::last_os_error()
    );
    ip("link set lo up");
}

/// Runs ip(8).
pub(crate) fn ip(arguments: &str) {
    run("ip", arguments);
}

/// Runs a program in the namespace of this thread. Also from where administrators' programs are,
/// which plain users' `PATH` does not have everywhere.
pub(crate) fn run(program: &str, arguments: &str) {
    let path = std::env::var("PATH").unwrap_or_default();
    let status = Command::new(program)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .args(arguments.split_whitespace())
        .status()
        .unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    assert!(status.success(), "{program} {arguments} failed");
}

/// A [`NetworkEvent`] that can be kept.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    Sent(Token, Time),
    Reply(Reply, Time),
    Answered(Token, MatchedReply, Time),
    Ignored(Ignored),
    Connected(ConnectionId),
    ConnectFailed(ConnectionId, String),
}

/// The network under test.
pub(crate) struct Subject {
    pub(crate) network: Box<dyn Network + Send>,
}

/// Keeps the kernel's stamps on arrival switched on for the whole process. Without a socket that
/// wants them they go off between two tests, and come on in the background.
fn keep_stamps_on() {
    static SOCKET: OnceLock<Socket> = OnceLock::new();
    SOCKET.get_or_init(|| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
        #[cfg(target_os = "linux")]
        {
            use std::os::fd::AsRawFd;
            let (on, size) = (1_i32, size_of::<i32>() as libc::socklen_t);
            // SAFETY: the option's value is an integer, which lives until the call ends.
            let result = unsafe {
                let on = (&raw const on).cast();
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_TIMESTAMPNS,
                    on,
                    size,
                )
            };
            assert_eq!(result, 0, "{}", io::Error::last_os_error());
        }
        std::thread::sleep(Duration::from_millis(200));
        socket
    });
}

impl Subject {
    pub(crate) fn new() -> Self {
        keep_stamps_on();
        Subject {
            network: traceroute_net::open(NetworkOptions {
                heavy_load: heavy_load(),
                ..NetworkOptions::default()
            })
            .expect("the network"),
        }
    }

    /// One poll.
    pub(crate) fn poll_until(&mut self, deadline: Time) -> Vec<Event> {
        let mut seen = Vec::new();
        self.network
            .poll(Some(deadline), &mut |event| {
                seen.push(match event {
                    NetworkEvent::Sent { token, at } => Event::Sent(token, at),
                    NetworkEvent::Reply { reply, at } => Event::Reply(*reply, at),
                    NetworkEvent::Ignored(reason) => Event::Ignored(reason),
                    NetworkEvent::Connected(id) => Event::Connected(id),
                    NetworkEvent::ConnectFailed(id, error) => Event::ConnectFailed(id, error.to_string()),
                    NetworkEvent::Answered { token, answer, at } => Event::Answered(token, answer, at),
                });
            })
            .expect("poll");
        seen
    }

    /// Polls until an event is what is looked for; everything up to the end of that batch. Panics
    /// after 2 s.
    pub(crate) fn collect(&mut self, mut is_last: impl FnMut(&Event) -> bool) -> Vec<Event> {
        let deadline = self.network.now() + Duration::from_secs(2);
        let mut seen = Vec::new();
        loop {
            let batch = self.poll_until(deadline);
            let found = batch.iter().any(&mut is_last);
            seen.extend(batch);
            if found {
                return seen;
            }
            assert!(
                self.network.now() < deadline,
                "what was waited for did not happen, but: {seen:?}"
            );
        }
    }

    /// Polls until there is a reply; the first one and when it came.
    pub(crate) fn reply(&mut self) -> (Reply, Time) {
        let seen = self.collect(|event| matches!(event, Event::Reply(..)));
        seen.into_iter()
            .find_map(|event| match event {
                Event::Reply(reply, at) => Some((reply, at)),
                _ => None,
            })
            .expect("collect saw it")
    }

    /// Opens an ICMP flow, and with it what probing a family needs.
    pub(crate) fn prepare(&mut self, target: IpAddr) -> Route {
        let flow = self.network.open_flow(&request(None, target));
        flow.expect("prepared").route
    }

    /// Opens a flow; its port.
    pub(crate) fn reserve(&mut self, transport: Transport, target: IpAddr) -> u16 {
        self.try_reserve(transport, target).expect("a port")
    }

    pub(crate) fn try_reserve(&mut self, transport: Transport, target: IpAddr) -> Result<u16, NetError> {
        let flow = self.network.open_flow(&request(Some(transport), target))?;
        Ok(flow.number.expect("a port"))
    }

    /// Closes a flow to this host itself.
    pub(crate) fn release(&mut self, transport: Transport, address: IpAddr, port: u16) {
        let flow = OpenFlow {
            route: route_from(address),
            number: Some(port),
            capabilities: Capabilities::RAW,
        };
        self.network.close_flow(&request(Some(transport), address), &flow);
    }

    /// Sends a probe; when it left.
    pub(crate) fn send(&mut self, probe: &Probe, token: u64) -> Time {
        self.try_send(probe, token).expect("sent")
    }

    pub(crate) fn try_send(&mut self, probe: &Probe, token: u64) -> Result<Time, NetError> {
        let route = route_from(probe.source);
        let stamp = self.network.send_on(probe, &route, numbered(token))?;
        Ok(stamp.at)
    }
}

/// A flow that leaves as the routing tables say, to a port that does not matter to them.
pub(crate) fn request(transport: Option<Transport>, target: IpAddr) -> FlowRequest {
    FlowRequest {
        target,
        transport,
        port: if transport.is_some() { 33_434 } else { 0 },
        egress: Egress::default(),
    }
}

/// The route of packets from an address that the routing tables decide about.
fn route_from(source: IpAddr) -> Route {
    Route {
        source,
        interface: 0,
        mark: 0,
    }
}

/// A probe from an address to itself.
pub(crate) fn probe(address: IpAddr, kind: ProbeKind) -> Probe {
    Probe {
        source: address,
        destination: address,
        ttl: 7,
        identification: 0x1234,
        flow_label: 0x54321,
        tos: 0,
        dont_fragment: false,
        kind,
    }
}

pub(crate) fn echo(sequence: u16) -> ProbeKind {
    ProbeKind::Echo {
        identifier: 0xBEEF,
        sequence,
        tag: 0x0ABC,
        cookie: *b"cookie",
        payload_len: ECHO_PAYLOAD,
    }
}

pub(crate) fn udp(source_port: u16, destination_port: u16) -> ProbeKind {
    ProbeKind::Udp {
        source_port,
        destination_port,
        tag: 0x0ABC,
        payload_len: 10,
    }
}

pub(crate) fn syn(source_port: u16, destination_port: u16) -> ProbeKind {
    ProbeKind::TcpSyn {
        source_port,
        destination_port,
        sequence: 0x0102_0304,
        timestamps: None,
    }
}
