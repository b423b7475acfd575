//! A flood of irrelevant packets while 50 traces run: no hop is missed, memory does not grow, and the CPU time is bounded.
//!
//! Ignored, because on a busy machine the flood itself would take all CPUs:
//! `cargo test --release -p traceroute-scenarios --test flood -- --ignored --nocapture`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use datadog_traceroute::{Options, Parameters, Tracer};
use etherparse::PacketBuilder;
use traceroute_simnet::tun::{self, Settings};
use traceroute_simnet::{Network, example, namespace};

/// Packets per second.
const RATE: u64 = 100_000;
const RUNS: u32 = 50;

#[test]
#[ignore = "takes a CPU for itself"]
fn a_flood_of_irrelevant_packets_hides_no_hop() {
    thread::spawn(|| {
        if let Err(error) = namespace::enter() {
            return traceroute_testbed::not_run(&error.to_string());
        }
        match tun::open("") {
            Ok((device, name)) => trace_in_flood(&device, &name),
            Err(error) => traceroute_testbed::not_run(&error.to_string()),
        }
    })
    .join()
    .unwrap();
}

fn trace_in_flood(device: &File, name: &str) {
    let topology = example("straight").unwrap().topology().unwrap();
    namespace::configure(name, &topology, true).unwrap();
    let mut network = Network::new(&topology, 1);
    let (stop, stopper) = UnixStream::pair().unwrap();
    let (over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let settings = Settings {
            realtime: true,
            ..Settings::default()
        };
        let serve = scope.spawn(move || tun::run_with(device, &mut network, &stop, settings, &mut |_| {}));
        let flood = scope.spawn(|| flood(device, &over, &sent));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let tracer = Tracer::with_options(Options {
            network: traceroute_net::Options {
                heavy_load: true,
                ..traceroute_net::Options::default()
            },
            ..Options::default()
        });
        for (round, protocol) in ["icmp", "udp", "tcp", "icmp", "udp", "tcp"]
            .into_iter()
            .enumerate()
        {
            let request = Parameters {
                target: "198.51.100.11".to_owned(),
                protocol: protocol.to_owned(),
                port: if protocol == "tcp" { 80 } else { 33434 },
                traceroute_queries: RUNS.into(),
                e2e_queries: 0,
                timeout_ms: 1000,
                ..Parameters::default()
            };
            let (start, before, packets, cpu) = (
                Instant::now(),
                memory_kib(),
                sent.load(Ordering::Relaxed),
                cpu_ticks(),
            );
            let report = runtime
                .block_on(tracer.trace(&request.validate().unwrap()))
                .unwrap();
            let seconds = start.elapsed().as_secs_f64();
            let runs = &report.traceroute.runs;
            let complete = runs
                .iter()
                .filter(|run| run.hops.len() == 11 && run.hops.iter().all(|hop| hop.reachable))
                .count();
            let drops = runtime
                .block_on(tracer.statistics())
                .unwrap()
                .network
                .kernel_drops;
            println!(
                "{protocol}: {complete} of {RUNS} complete, {seconds:.1} s, {:.0} packets/s, probing thread {:.0} % of a CPU, \
                 memory {before} -> {} KiB, {drops} packets dropped by the kernel",
                (sent.load(Ordering::Relaxed) - packets) as f64 / seconds,
                (cpu_ticks() - cpu) as f64 / seconds,
                memory_kib()
            );
            assert_eq!(complete, RUNS as usize, "{protocol}");
            // The first rounds fill caches and open sockets.
            assert!(round < 3 || memory_kib() < before + 2048, "{protocol}");
        }
        over.store(true, Ordering::Relaxed);
        flood.join().unwrap();
        drop(stopper);
        serve.join().unwrap().unwrap();
    });
}

/// Echo replies, errors about other people's packets, and segments to other ports.
fn irrelevant() -> Vec<Vec<u8>> {
    let (client, target) = ([192, 0, 2, 1], [198, 51, 100, 11]);
    let mut packets = Vec::new();
    for index in 0..=255_u8 {
        let mut echo = Vec::new();
        PacketBuilder::ipv4(target, client, 60)
            .icmpv4_echo_reply(u16::from(index) * 257, u16::from(index))
            .write(&mut echo, &[index; 16])
            .unwrap();
        packets.push(echo);

        let mut quoted = Vec::new();
        PacketBuilder::ipv4(client, [203, 0, 113, index], 1)
            .udp(33_000, 33_434)
            .write(&mut quoted, &[0; 8])
            .unwrap();
        let mut error = Vec::new();
        PacketBuilder::ipv4([10, 0, 1, 1], client, 60)
            .icmpv4_raw(11, 0, [0; 4])
            .write(&mut error, &quoted)
            .unwrap();
        packets.push(error);

        // RSTs, so that the client's kernel does not answer them. Below the ports that are given out.
        let mut reset = Vec::new();
        let mut header = etherparse::TcpHeader::new(443, 1024 + u16::from(index), 1, 0);
        header.rst = true;
        PacketBuilder::ipv4(target, client, 60)
            .tcp_header(header)
            .write(&mut reset, &[])
            .unwrap();
        packets.push(reset);
    }
    packets
}

fn flood(mut device: &File, over: &AtomicBool, sent: &AtomicU64) {
    let packets = irrelevant();
    let start = Instant::now();
    for packet in packets.iter().cycle() {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let count = sent.fetch_add(1, Ordering::Relaxed);
        // Refused only while the device comes up.
        let _ = device.write(packet);
        let due = Duration::from_nanos(count * 1_000_000_000 / RATE);
        if let Some(wait) = due.checked_sub(start.elapsed())
            && wait > Duration::from_micros(200)
        {
            thread::sleep(wait);
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
    let mut ticks = 0;
    for task in fs::read_dir("/proc/self/task").unwrap().flatten() {
        let mut stat = String::new();
        let file = File::open(task.path().join("stat"));
        if file.and_then(|mut file| file.read_to_string(&mut stat)).is_ok() && stat.contains("(probing)") {
            let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
            ticks += fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        }
    }
    ticks
}
