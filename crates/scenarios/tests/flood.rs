//! A flood of 100,000 irrelevant packets a second while 50 traces run, as in a service, or 3, as
//! from the command line: no hop is missed, memory does not grow, and the CPU time is bounded.
//!
//! The flood is of the family that is probed, and the capture's filter stops hardly any of it, for
//! its segments go to the ports that the engine has reserved.
//!
//! Only what happens at that rate counts: when the machine is too busy to make so many packets, all
//! is done again, and if it never is able to, the test fails and says how many it made. What the
//! kernel drops are packets for which the capture's ring had no room, because the probing thread
//! did not get a CPU for longer than the ring lasts. Any of them may have been an answer: where
//! something is missing then, all is done again, too. Without drops nothing may be missing.
//!
//! Another flood is of datagrams in the name of the probed target. They may hide the destination of
//! a UDP run, but no router, and show it nowhere before or at a router that answered.
//!
//! Ignored, because on a busy machine the flood itself would take all CPUs:
//! `cargo test -p traceroute-scenarios --test flood -- --ignored --nocapture`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use datadog_traceroute::{Distance, Protocol, Report, Request, Run, TcpMethod, Tracer, TracerOptions};
use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep, TcpHeader};
use tokio::runtime::{Builder, Runtime};
use traceroute_simnet::tun::{self, Settings};
use traceroute_simnet::{Network, Topology, example, namespace};

/// Packets per second. Fewer prove nothing.
const MIN_RATE: f64 = 100_000.0;
/// What is aimed at.
const RATE: u64 = 105_000;
/// When the flood is so much behind it does not catch up: that would be another, higher rate.
const LATE: Duration = Duration::from_millis(10);
/// Most of one CPU that the probing thread may take while the flood lasts: twice what it takes.
const MAX_CPU: f64 = 0.9;
/// Most that a second pass may add to the memory, in KiB.
const MAX_GROWTH: u64 = 2048;

/// End-to-end probes beside them, at the start: the capture rests as soon as nothing is traced.
const E2E_QUERIES: u32 = 1;
/// How often a busy machine may fail to make the flood.
const TRIES: u32 = 100;
/// Protocol and TCP method.
const PROTOCOLS: [(Protocol, TcpMethod); 4] = [
    (Protocol::Icmp, TcpMethod::Syn),
    (Protocol::Udp, TcpMethod::Syn),
    (Protocol::Tcp, TcpMethod::Syn),
    (Protocol::Tcp, TcpMethod::Sack),
];
const CLIENT: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(192, 0, 2, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
);
const TARGET: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(198, 51, 100, 11),
    Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x11),
);
/// Probed by the TCP rounds.
const TCP_PORT: u16 = 80;
/// Probed by the UDP rounds.
const UDP_PORT: u16 = 33434;

/// One flood at a time, and no probing thread of another one that still counts.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let until = Instant::now() + Duration::from_secs(30);
    while probing_threads().next().is_some() {
        assert!(Instant::now() < until, "the other flood's thread does not end");
        thread::sleep(Duration::from_millis(10));
    }
    alone
}

#[test]
#[ignore = "takes a CPU for itself"]
fn a_flood_of_irrelevant_packets_hides_no_hop() {
    let _alone = alone();
    for (runs, heavy_load) in [(50, true), (3, false)] {
        println!("{runs} runs");
        thread::spawn(move || {
            if let Err(error) = namespace::enter() {
                return traceroute_testbed::not_run(&error.to_string());
            }
            match tun::open("") {
                Ok((device, name)) => trace_in_flood(&device, &name, runs, heavy_load),
                Err(error) => traceroute_testbed::not_run(&error.to_string()),
            }
        })
        .join()
        .unwrap();
    }
}

fn trace_in_flood(device: &File, name: &str, runs: u32, heavy_load: bool) {
    let topology = example("straight").unwrap().topology().unwrap();
    assert!(
        namespace::configure(name, &topology, true).unwrap(),
        "IPv6 is missing"
    );
    let (stop, stopper) = UnixStream::pair().unwrap();
    let flood = &Flood::default();
    thread::scope(|scope| {
        // Also when something panics: the scope waits for its threads.
        let end_all = EndAll {
            flood,
            _stopper: stopper,
        };
        scope.spawn(move || serve(device, &topology, &stop));
        let lab = Lab::new(runs, heavy_load);
        // What is reserved stays in the filter, and is given out again.
        let blocks = [false, true].map(|v6| block(&lab.trace((Protocol::Tcp, TcpMethod::Syn), v6).runs));
        scope.spawn(move || flood.run(device, &irrelevant(blocks)));

        let start = lab.usage(flood);
        lab.pass(flood, blocks);
        let middle = lab.usage(flood);
        lab.pass(flood, blocks);
        let end = lab.usage(flood);
        drop(end_all);

        println!("all: {}", end.since(&start));
        let cpu = end.cpu_since(&start);
        assert!(cpu <= MAX_CPU, "{:.0} % of a CPU", cpu * 100.0);
        let captured = end.captured - start.captured;
        assert!(
            captured * 10 >= (end.sent - start.sent) * 7,
            "only {captured} packets came through the filter"
        );
        // The first pass fills caches.
        let growth = end.memory_kib.saturating_sub(middle.memory_kib);
        assert!(growth < MAX_GROWTH, "{growth} KiB more");
    });
}

/// What the target of the forged datagrams does itself with UDP, and how many routers answer.
const TARGETS: [(&str, &str, u8); 5] = [
    ("closed port", "default = \"closed\"", 10),
    ("closed port after silent routers", "default = \"closed\"", 7),
    ("service", "default = \"open\"\nreply = \"hello\"", 10),
    ("echo service", "default = \"open\"", 10),
    ("silent target", "default = \"silent\"", 10),
];
/// Runs of each request in the flood of forged datagrams.
const FORGED_RUNS: u32 = 10;

/// Who knows who traces whom sends datagrams from the target's address and the probed port to all
/// our ports. That is all a datagram has to show that it is an answer.
#[test]
#[ignore = "takes a CPU for itself"]
fn datagrams_in_the_targets_name_make_no_router_wrong() {
    let _alone = alone();
    thread::spawn(|| {
        if let Err(error) = namespace::enter() {
            return traceroute_testbed::not_run(&error.to_string());
        }
        for target in TARGETS {
            match tun::open("") {
                Ok((device, name)) => trace_among_forgeries(&device, &name, target),
                Err(error) => traceroute_testbed::not_run(&error.to_string()),
            }
        }
    })
    .join()
    .unwrap();
}

/// Of a target with a path of eleven hops.
fn trace_among_forgeries(device: &File, name: &str, (what, udp, routers): (&str, &str, u8)) {
    let mut text = example("straight")
        .unwrap()
        .text
        .replace("open = [7, 53]\nsilent = [9]", udp);
    for silent in routers + 1..11 {
        let router = format!("name = \"r{silent}\"");
        text = text.replace(&router, &format!("{router}\nsilent = true"));
    }
    let topology = Topology::parse(what, &text).unwrap();
    namespace::configure(name, &topology, true).unwrap();
    let (stop, stopper) = UnixStream::pair().unwrap();
    let flood = &Flood::default();
    thread::scope(|scope| {
        let _end_all = EndAll {
            flood,
            _stopper: stopper,
        };
        scope.spawn(move || serve(device, &topology, &stop));
        let lab = Lab::new(FORGED_RUNS, true);
        // What is reserved is given out again.
        let method = (Protocol::Udp, TcpMethod::Syn);
        let blocks = [false, true].map(|v6| block(&lab.trace(method, v6).runs));
        scope.spawn(move || flood.run(device, &forged(blocks)));
        for (v6, hop_retries) in [(false, 2), (true, 2), (false, 0)] {
            flood.v6.store(v6, Relaxed);
            let before = lab.usage(flood);
            let report = lab.trace_udp(v6, hop_retries);
            let after = lab.usage(flood);
            let mut shown = Shown::default();
            for run in &report.runs {
                shown.add(run, v6);
            }
            let family = if v6 { "IPv6" } else { "IPv4" };
            let label = format!(
                "{what} {family}, {hop_retries} retries: {shown:?}; {}",
                after.since(&before)
            );
            println!("{label}");
            assert_eq!(shown.wrong_routers, 0, "{label}");
            assert_eq!((shown.nearer, shown.further), (0, 0), "{label}");
            // Only the kernel may have dropped what is missing.
            if after.drops == before.drops {
                assert_eq!(
                    shown.missing_routers,
                    u32::from(10 - routers) * FORGED_RUNS,
                    "{label}"
                );
                // Its port unreachable quotes the probe, which cannot be forged.
                let right = if udp.contains("closed") { FORGED_RUNS } else { 0 };
                assert_eq!(shown.right, right, "{label}");
                // Nor has anybody asked again whether it is nearer.
                let is_known = right > 0 && (routers == 10 || hop_retries > 0);
                let unknown = if is_known { 0 } else { FORGED_RUNS };
                assert_eq!(shown.unknown, unknown, "{label}");
            }
        }
    });
}

/// How many runs show the destination where, which is the eleventh hop, and how many hops are wrong.
#[derive(Debug, Default)]
struct Shown {
    wrong_routers: u32,
    missing_routers: u32,
    right: u32,
    nearer: u32,
    further: u32,
    /// The details say that its distance is unknown.
    unknown: u32,
}

impl Shown {
    fn add(&mut self, run: &Run, v6: bool) {
        let router = |ttl: u8| -> IpAddr {
            if v6 {
                Ipv6Addr::new(0x2001, 0xdb8, ttl.into(), 0, 0, 0, 0, 1).into()
            } else {
                Ipv4Addr::new(10, 0, ttl, 1).into()
            }
        };
        for hop in &run.hops {
            match hop.answer {
                Some(answer) if answer.destination => {}
                Some(answer) => self.wrong_routers += u32::from(answer.address != router(hop.ttl)),
                None => self.missing_routers += u32::from(hop.ttl < 11),
            }
        }
        let destination = run
            .hops
            .iter()
            .find(|hop| hop.answer.is_some_and(|answer| answer.destination));
        self.unknown += u32::from(run.distance == Distance::Unknown);
        match destination.map(|hop| hop.ttl) {
            Some(11) => self.right += 1,
            Some(..11) => self.nearer += 1,
            Some(_) => self.further += 1,
            None => {}
        }
    }
}

/// Datagrams from the probed port to each port of the blocks.
fn forged(blocks: [u16; 2]) -> [Vec<Vec<u8>>; 2] {
    let (client, target) = (CLIENT, TARGET);
    let v4 = || PacketBuilder::ipv4(target.0.octets(), client.0.octets(), 60);
    let v6 = || PacketBuilder::ipv6(target.1.octets(), client.1.octets(), 60);
    [datagrams(v4, blocks[0]), datagrams(v6, blocks[1])]
}

fn datagrams(ip: impl Fn() -> PacketBuilderStep<IpHeaders>, block: u16) -> Vec<Vec<u8>> {
    let datagram = |index: u8| {
        let mut packet = Vec::new();
        ip().udp(UDP_PORT, block << 8 | u16::from(index))
            .write(&mut packet, b"forged")
            .unwrap();
        packet
    };
    (0..=u8::MAX).map(datagram).collect()
}

/// Ends the flood and the network when it goes.
struct EndAll<'a> {
    flood: &'a Flood,
    _stopper: UnixStream,
}

impl Drop for EndAll<'_> {
    fn drop(&mut self) {
        self.flood.over.store(true, Relaxed);
    }
}

fn serve(device: &File, topology: &Topology, stop: &UnixStream) {
    let mut network = Network::new(topology, 1);
    let settings = Settings {
        realtime: true,
        ..Settings::default()
    };
    tun::run_with(device, &mut network, stop, settings, &mut |_| {}).unwrap();
}

struct Lab {
    runtime: Runtime,
    tracer: Tracer,
    runs: u32,
}

impl Lab {
    fn new(runs: u32, heavy_load: bool) -> Lab {
        Lab {
            runs,
            runtime: Builder::new_current_thread().enable_all().build().unwrap(),
            tracer: Tracer::with_options(TracerOptions {
                network: traceroute_net::NetworkOptions {
                    heavy_load,
                    ..traceroute_net::NetworkOptions::default()
                },
                ..TracerOptions::default()
            }),
        }
    }

    fn trace(&self, (protocol, tcp_method): (Protocol, TcpMethod), v6: bool) -> Report {
        let target: IpAddr = if v6 { TARGET.1.into() } else { TARGET.0.into() };
        let request = Request::to(target)
            .protocol(protocol)
            .tcp_method(tcp_method)
            .port(if protocol == Protocol::Tcp {
                TCP_PORT
            } else {
                UDP_PORT
            })
            .runs(self.runs)
            .e2e_probes(E2E_QUERIES)
            .timeout(Duration::from_secs(1))
            .build()
            .unwrap();
        self.runtime.block_on(self.tracer.trace(&request)).unwrap()
    }

    fn trace_udp(&self, v6: bool, hop_retries: u8) -> Report {
        let target: IpAddr = if v6 { TARGET.1.into() } else { TARGET.0.into() };
        let request = Request::to(target)
            .protocol(Protocol::Udp)
            .port(UDP_PORT)
            .runs(self.runs)
            .hop_retries(hop_retries)
            .e2e_probes(0)
            .timeout(Duration::from_secs(1))
            .build()
            .unwrap();
        self.runtime.block_on(self.tracer.trace(&request)).unwrap()
    }

    /// Traces with every protocol in both families.
    fn pass(&self, flood: &Flood, blocks: [u16; 2]) {
        for protocol in PROTOCOLS {
            for v6 in [false, true] {
                flood.v6.store(v6, Relaxed);
                let is_proven = (0..TRIES).any(|_| self.finds_everything(protocol, v6, flood, blocks));
                assert!(
                    is_proven,
                    "nothing is proven: the machine is too busy or too slow for {MIN_RATE:.0} packets/s, or to read them"
                );
            }
        }
    }

    /// Traces; whether this found all there is while the flood was as it should be. Where something
    /// is missing, the kernel must have dropped packets, and then nothing is proven either way.
    fn finds_everything(
        &self,
        protocol: (Protocol, TcpMethod),
        v6: bool,
        flood: &Flood,
        blocks: [u16; 2],
    ) -> bool {
        let before = self.usage(flood);
        let report = self.trace(protocol, v6);
        let after = self.usage(flood);
        let (runs, all) = (&report.runs, self.runs);
        let complete = runs.iter().filter(|run| is_complete(run)).count();
        let answered = report.end_to_end.loss().answered();
        let family = if v6 { "IPv6" } else { "IPv4" };
        let what = format!(
            "{protocol:?} {family}: {complete} of {all} complete, {answered} of {E2E_QUERIES} answered end to end, {}",
            after.since(&before)
        );
        println!("{what}");
        if protocol == (Protocol::Tcp, TcpMethod::Syn) {
            assert_eq!(block(runs), blocks[usize::from(v6)], "the flood goes elsewhere");
        }
        let rate = after.rate_since(&before);
        let is_all = complete == all as usize && answered == E2E_QUERIES;
        let is_dropping = after.drops > before.drops;
        assert!(rate < MIN_RATE || is_all || is_dropping, "{what}");
        rate >= MIN_RATE && is_all
    }

    fn usage(&self, flood: &Flood) -> Usage {
        let statistics = self.runtime.block_on(self.tracer.statistics()).unwrap();
        let drops = statistics.network.kernel_drops;
        Usage {
            at: Instant::now(),
            sent: flood.sent.load(Relaxed),
            captured: statistics.network.captured + drops,
            drops,
            cpu_ticks: cpu_ticks(),
            memory_kib: memory_kib(),
        }
    }
}

fn is_complete(run: &Run) -> bool {
    run.hops.len() == 11 && run.hops.iter().all(|hop| hop.answer.is_some())
}

/// The block of ports that all these runs probed from.
fn block(runs: &[Run]) -> u16 {
    let first = runs[0].source.port() >> 8;
    assert!(runs.iter().all(|run| run.source.port() >> 8 == first));
    first
}

/// What has been used up to a moment.
struct Usage {
    at: Instant,
    sent: u64,
    /// Packets that came through the capture's filter, read or not.
    captured: u64,
    drops: u64,
    cpu_ticks: u64,
    memory_kib: u64,
}

impl Usage {
    fn seconds_since(&self, before: &Usage) -> f64 {
        (self.at - before.at).as_secs_f64()
    }

    fn rate_since(&self, before: &Usage) -> f64 {
        (self.sent - before.sent) as f64 / self.seconds_since(before)
    }

    /// Share of one CPU.
    fn cpu_since(&self, before: &Usage) -> f64 {
        (self.cpu_ticks - before.cpu_ticks) as f64 / 100.0 / self.seconds_since(before)
    }

    fn since(&self, before: &Usage) -> String {
        format!(
            "{:.1} s, {:.0} packets/s, probing thread {:.0} % of a CPU, memory {} -> {} KiB, {} packets dropped by the kernel",
            self.seconds_since(before),
            self.rate_since(before),
            self.cpu_since(before) * 100.0,
            before.memory_kib,
            self.memory_kib,
            self.drops - before.drops
        )
    }
}

/// For each family: echo replies, errors about other people's packets, and segments to ports of its
/// block.
fn irrelevant(blocks: [u16; 2]) -> [Vec<Vec<u8>>; 2] {
    let all = |of: fn(u8, u16) -> [Vec<u8>; 3], block| (0..=255).flat_map(|index| of(index, block)).collect();
    [all(flooders_v4, blocks[0]), all(flooders_v6, blocks[1])]
}

fn flooders_v4(index: u8, block: u16) -> [Vec<u8>; 3] {
    let (client, target) = (CLIENT.0.octets(), TARGET.0.octets());
    let mut packets = [const { Vec::new() }; 3];
    let [echo, error, reset] = &mut packets;
    PacketBuilder::ipv4(target, client, 60)
        .icmpv4_echo_reply(u16::from(index) * 257, u16::from(index))
        .write(echo, &[index; 16])
        .unwrap();
    let mut quoted = Vec::new();
    PacketBuilder::ipv4(client, [203, 0, 113, index], 1)
        .udp(33_000, 33_434)
        .write(&mut quoted, &[0; 8])
        .unwrap();
    PacketBuilder::ipv4([10, 0, 1, 1], client, 60)
        .icmpv4_raw(11, 0, [0; 4])
        .write(error, &quoted)
        .unwrap();
    PacketBuilder::ipv4(target, client, 60)
        .tcp_header(segment(index, block))
        .write(reset, &[])
        .unwrap();
    packets
}

fn flooders_v6(index: u8, block: u16) -> [Vec<u8>; 3] {
    let (client, target) = (CLIENT.1.octets(), TARGET.1.octets());
    let other = Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, index.into());
    let router = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
    let mut packets = [const { Vec::new() }; 3];
    let [echo, error, reset] = &mut packets;
    PacketBuilder::ipv6(target, client, 60)
        .icmpv6_echo_reply(u16::from(index) * 257, u16::from(index))
        .write(echo, &[index; 16])
        .unwrap();
    let mut quoted = Vec::new();
    PacketBuilder::ipv6(client, other.octets(), 1)
        .udp(33_000, 33_434)
        .write(&mut quoted, &[0; 8])
        .unwrap();
    PacketBuilder::ipv6(router.octets(), client, 60)
        .icmpv6_raw(3, 0, [0; 4])
        .write(error, &quoted)
        .unwrap();
    PacketBuilder::ipv6(target, client, 60)
        .tcp_header(segment(index, block))
        .write(reset, &[])
        .unwrap();
    packets
}

/// A RST, so that the client's kernel does not answer it. Every second one comes from the probed
/// port and gets as far as the trace that probes from there, if one does: its acknowledgment is no
/// probe's.
fn segment(index: u8, block: u16) -> TcpHeader {
    let source = if index.is_multiple_of(2) { TCP_PORT } else { 443 };
    let mut header = TcpHeader::new(source, block << 8 | u16::from(index), 1, 0);
    header.rst = true;
    header.ack = true;
    header.acknowledgment_number = 1;
    header
}

/// Irrelevant packets, as many as [`RATE`] says.
#[derive(Default)]
struct Flood {
    v6: AtomicBool,
    over: AtomicBool,
    sent: AtomicU64,
}

impl Flood {
    /// Sends `packets` of the family of the moment.
    fn run(&self, mut device: &File, packets: &[Vec<Vec<u8>>; 2]) {
        let interval = Duration::from_nanos(1_000_000_000 / RATE);
        let mut due = Instant::now();
        let both = packets[0].iter().zip(&packets[1]);
        for (v4, v6) in both.cycle() {
            if self.over.load(Relaxed) {
                return;
            }
            let packet = if self.v6.load(Relaxed) { v6 } else { v4 };
            device.write_all(packet).unwrap();
            self.sent.fetch_add(1, Relaxed);
            due += interval;
            let now = Instant::now();
            let wait = due.saturating_duration_since(now);
            if wait > Duration::from_micros(200) {
                thread::sleep(wait);
            } else if now.saturating_duration_since(due) > LATE {
                due = now;
            }
        }
    }
}

fn memory_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// CPU time of the probing thread, in hundredths of a second.
fn cpu_ticks() -> u64 {
    let ticks = |stat: String| {
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    probing_threads().map(ticks).sum()
}

/// What `/proc/self/task/…/stat` (proc(5)) says of each of them.
fn probing_threads() -> impl Iterator<Item = String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let stat_of = |task: fs::DirEntry| {
        let mut stat = String::new();
        File::open(task.path().join("stat"))
            .and_then(|mut file| file.read_to_string(&mut stat))
            .ok()?;
        Some(stat)
    };
    tasks
        .filter_map(stat_of)
        .filter(|stat| stat.contains("(probing)"))
}
