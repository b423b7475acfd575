//! This tool beside those of others on the same simulated paths: hops found, time, probes sent, RTT
//! error, silent routers, load balancers, forged answers, MPLS labels, and ten runs at once.
//!
//! ```text
//! cargo build --release -p datadog-traceroute-cli -p traceroute-simnet -p traceroute-bench && target/release/compare [ROUNDS] [TOOL …]
//! ```
//!
//! Only these tools, if any are named.
//! Prints the table of `docs/comparison.md`, which says what its columns mean. Tools that are not
//! installed are left out and named. Needs root: the simulator runs before all others.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use traceroute_bench::percentile;

/// Seconds after which a run is ended: no tool may hold up the others.
const LIMIT: &str = "30";
/// Runs through a load balancer, each with another seed.
const BALANCED: u64 = 10;
const AT_ONCE: usize = 10;
const LABELS: [&str; 4] = ["16001", "24001", "24002", "16002"];
/// Of the routers of a straight path, counted from 1.
const SILENT: [usize; 2] = [4, 7];

/// One way to run a tool. All send one probe for each TTL and wait a second for an answer.
struct Way {
    tool: &'static str,
    /// What tells it from the tool's other ways.
    probes: &'static str,
    v6: bool,
    parse: fn(&str) -> Vec<Hop>,
    /// `{}` is the target, `{port}` a source port that no other run has at the same time.
    command: &'static [&'static str],
}

/// What was reported for one TTL.
#[derive(Debug, Clone, PartialEq)]
struct Hop {
    ttl: usize,
    addresses: Vec<String>,
    rtt_ms: Option<f64>,
}

type Parse = fn(&str) -> Vec<Hop>;
const OURS: (&str, Parse) = ("datadog-traceroute", parse_ours);
const TRACEROUTE: (&str, Parse) = ("traceroute", parse_lines);
const MTR: (&str, Parse) = ("mtr", parse_mtr);
const SCAMPER: (&str, Parse) = ("scamper", parse_scamper);
const TCPTRACEROUTE: (&str, Parse) = ("tcptraceroute", parse_lines);
const TRIPPY: (&str, Parse) = ("trip", parse_trippy);

const fn way(
    (tool, parse): (&'static str, Parse),
    probes: &'static str,
    v6: bool,
    command: &'static [&'static str],
) -> Way {
    Way {
        tool,
        probes,
        v6,
        parse,
        command,
    }
}

#[rustfmt::skip]
const WAYS: &[Way] = &[
    way(OURS, "ICMP", true, &["--details", "-q", "1", "-Q", "0", "--timeout", "1000", "-P", "icmp", "{}"]),
    way(OURS, "UDP", true, &["--details", "-q", "1", "-Q", "0", "--timeout", "1000", "-P", "udp", "{}"]),
    way(OURS, "TCP", true, &["--details", "-q", "1", "-Q", "0", "--timeout", "1000", "-P", "tcp", "-p", "80", "{}"]),
    way(OURS, "ICMP `--delay 0`", true, &["--details", "--delay", "0", "-q", "1", "-Q", "0", "--timeout", "1000", "-P", "icmp", "{}"]),
    way(OURS, "UDP `--delay 0`", true, &["--details", "--delay", "0", "-q", "1", "-Q", "0", "--timeout", "1000", "-P", "udp", "{}"]),
    way(OURS, "TCP `--delay 0`", true, &["--details", "--delay", "0", "-q", "1", "-Q", "0", "--timeout", "1000", "-P", "tcp", "-p", "80", "{}"]),
    way(TRACEROUTE, "ICMP", true, &["-n", "-e", "-q", "1", "-w", "1", "-I", "{}"]),
    way(TRACEROUTE, "UDP", true, &["-n", "-e", "-q", "1", "-w", "1", "{}"]),
    way(TRACEROUTE, "UDP `-U --sport`", true, &["-n", "-e", "-q", "1", "-w", "1", "-U", "--sport={port}", "{}"]),
    way(TRACEROUTE, "TCP", true, &["-n", "-e", "-q", "1", "-w", "1", "-T", "-p", "80", "{}"]),
    way(TRACEROUTE, "TCP `--sport`", true, &["-n", "-e", "-q", "1", "-w", "1", "-T", "-p", "80", "--sport={port}", "{}"]),
    way(TCPTRACEROUTE, "TCP", false, &["-n", "-q", "1", "-w", "1", "{}", "80"]),
    way(MTR, "ICMP", true, &["-n", "-e", "--raw", "-c", "1", "-i", "0.1", "-G", "1", "{}"]),
    way(MTR, "UDP", true, &["-n", "-e", "--raw", "-c", "1", "-i", "0.1", "-G", "1", "-u", "{}"]),
    way(MTR, "UDP `-L -P`", true, &["-n", "-e", "--raw", "-c", "1", "-i", "0.1", "-G", "1", "-u", "-L", "{port}", "-P", "33434", "{}"]),
    way(MTR, "TCP", true, &["-n", "-e", "--raw", "-c", "1", "-i", "0.1", "-G", "1", "-T", "-P", "80", "{}"]),
    way(SCAMPER, "ICMP", true, &["-p", "1000", "-O", "json", "-I", "trace -P icmp-paris -q 1 -w 1 {}"]),
    way(SCAMPER, "UDP", true, &["-p", "1000", "-O", "json", "-I", "trace -P udp-paris -q 1 -w 1 {}"]),
    way(SCAMPER, "TCP", true, &["-p", "1000", "-O", "json", "-I", "trace -P tcp -d 80 -q 1 -w 1 {}"]),
    way(TRIPPY, "ICMP", true, &["-m", "json", "-C", "1", "-e", "-i", "100ms", "-T", "1s", "{}"]),
    way(TRIPPY, "UDP", true, &["-m", "json", "-C", "1", "-e", "-i", "100ms", "-T", "1s", "--udp", "{}"]),
    way(TRIPPY, "UDP `-R paris`", true, &["-m", "json", "-C", "1", "-e", "-i", "100ms", "-T", "1s", "--udp", "-R", "paris", "-S", "{port}", "{}"]),
    way(TRIPPY, "TCP", true, &["-m", "json", "-C", "1", "-e", "-i", "100ms", "-T", "1s", "--tcp", "-P", "80", "{}"]),
];

/// How each tool says its version.
const VERSIONS: [((&str, Parse), &str); 6] = [
    (OURS, "version"),
    (TRACEROUTE, "--version"),
    (TCPTRACEROUTE, "-v"),
    (MTR, "--version"),
    (SCAMPER, "-v"),
    (TRIPPY, "--version"),
];

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [worker, targets, command @ ..] = &arguments[..]
        && worker == "worker"
    {
        return work(targets, command);
    }
    let rounds: u64 = arguments.first().map_or(Ok(5), |rounds| rounds.parse())?;
    let wanted = arguments.get(1..).unwrap_or_default();
    let is_wanted = |tool: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == tool);
    let bench = Bench::new(rounds)?;
    let mut missing = Vec::new();
    for ((tool, _), option) in VERSIONS.into_iter().filter(|((tool, _), _)| is_wanted(tool)) {
        match Command::new(bench.program(tool)).arg(option).output() {
            Ok(output) => {
                let text = [output.stdout, output.stderr].concat();
                let text = String::from_utf8_lossy(&text).into_owned();
                let mut lines = text.lines().filter(|line| !line.is_empty());
                println!("- {tool}: {}", lines.next().unwrap_or("no version"));
            }
            Err(_) => {
                missing.push(tool);
                println!("- {tool}: not installed");
            }
        }
    }
    println!();
    println!(
        "| tool | probes | hops of 11 | time, ms | probes sent | RTT error, µs | two silent routers: hops of 9 | time, ms \
         | mixed paths of {BALANCED} | wrong hops by forged answers | MPLS labels of 4 | complete of {AT_ONCE} at once |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    let ways = WAYS
        .iter()
        .filter(|way| is_wanted(way.tool) && !missing.contains(&way.tool));
    for way in ways {
        for v6 in [false, true].into_iter().filter(|v6| way.v6 || !v6) {
            let what = format!("{} | {} IPv{}", way.tool, way.probes, if v6 { '6' } else { '4' });
            match bench.row(way, v6) {
                Ok(row) => println!("| {what} | {} |", row.join(" | ")),
                Err(error) => println!("| {what} | {error} | | | | | | | | | |"),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the programs and the topologies are.
struct Bench {
    directory: PathBuf,
    topologies: PathBuf,
    rounds: u64,
}

/// A run as the worker saw it.
#[derive(Debug, Serialize, Deserialize)]
struct Run {
    ms: f64,
    output: String,
    errors: String,
}

/// Runs at the same time, and what the simulator saw of them.
struct Simulated {
    runs: Vec<Run>,
    /// Each line that the simulator wrote about a packet.
    packets: String,
    /// Its log of delays.
    delays: String,
}

impl Bench {
    fn new(rounds: u64) -> Result<Self, Box<dyn Error>> {
        let directory = std::env::current_exe()?
            .parent()
            .ok_or("no directory")?
            .to_path_buf();
        let topologies = std::env::temp_dir().join(format!("compare-{}", std::process::id()));
        std::fs::create_dir_all(&topologies)?;
        let write = |name: &str, text: String| std::fs::write(topologies.join(name), text);
        write("straight.toml", straight(&[]) + &target(11, ""))?;
        write("silent.toml", straight(&SILENT) + &target(11, ""))?;
        let targets = (1..=AT_ONCE).map(|n| target(10 + n, &format!("behind = \"r{n}\"\n")));
        write("targets.toml", straight(&[]) + &targets.collect::<String>())?;
        Ok(Bench {
            directory,
            topologies,
            rounds,
        })
    }

    /// Ours stands beside this program, the others are in the search path.
    fn program(&self, tool: &str) -> PathBuf {
        if tool == OURS.0 {
            self.directory.join(tool)
        } else {
            PathBuf::from(tool)
        }
    }

    /// Runs a tool once for each target, all at once, in a network of its own.
    fn simulate(
        &self,
        way: &Way,
        topology: &Path,
        seed: u64,
        targets: &[String],
    ) -> Result<Simulated, Box<dyn Error>> {
        let log = self.topologies.join("delays.csv");
        let output = Command::new(self.directory.join("traceroute-simnet"))
            .arg("run")
            .arg(topology)
            .args(["--namespace", "--realtime", "-v", "--seed", &seed.to_string()])
            .arg("--log-delays")
            .arg(&log)
            .arg("--")
            .arg(std::env::current_exe()?)
            .args(["worker", &targets.join(",")])
            .arg(self.program(way.tool))
            .args(way.command)
            .output()
            .map_err(|error| format!("traceroute-simnet: {error}; build it first"))?;
        let packets = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            return Err(format!("traceroute-simnet: {packets}").into());
        }
        let lines = String::from_utf8(output.stdout)?;
        let runs = lines.lines().map(serde_json::from_str);
        Ok(Simulated {
            runs: runs.collect::<Result<_, _>>()?,
            packets,
            delays: std::fs::read_to_string(&log)?,
        })
    }

    /// One run to the target that every topology has.
    fn run(&self, way: &Way, topology: &str, seed: u64, v6: bool) -> Result<Single, Box<dyn Error>> {
        let own = self.topologies.join(format!("{topology}.toml"));
        // Others are built into the simulator.
        let file = if own.exists() { own } else { topology.into() };
        let target = target_address(11, v6);
        let simulated = self.simulate(way, &file, seed, std::slice::from_ref(&target))?;
        let run = simulated.runs.first().ok_or("no run")?;
        let hops = until(&target, (way.parse)(&run.output));
        let true_ms = true_delay(&simulated.delays, &target, 11);
        let reported = hops
            .last()
            .filter(|hop| hop.addresses.contains(&target))
            .and_then(|hop| hop.rtt_ms);
        Ok(Single {
            ms: run.ms,
            sent: probes(&simulated.packets, &target),
            error_us: reported
                .zip(true_ms)
                .map(|(said, true_ms)| (said - true_ms) * 1000.0),
            labels: LABELS.iter().filter(|label| run.output.contains(**label)).count(),
            complaint: run.errors.lines().last().unwrap_or_default().to_owned(),
            hops,
        })
    }

    /// The cells of a way to trace.
    fn row(&self, way: &Way, v6: bool) -> Result<Vec<String>, Box<dyn Error>> {
        let path = straight_path(10, 11, &[], v6);
        let (mut straight, mut silent) = (Vec::new(), Vec::new());
        for seed in 0..self.rounds {
            let run = self.run(way, "straight", seed, v6)?;
            if run.hops.is_empty() {
                return Err(format!("no hop shown {}", run.complaint).trim_end().into());
            }
            straight.push(run);
            silent.push(self.run(way, "silent", seed, v6)?);
        }
        // IPv6 routers have the flow label to go by.
        let balancers: &[&str] = if v6 {
            &["balance-checksum", "balance-flow-label"]
        } else {
            &["balance-checksum"]
        };
        let mut mixed_cells = Vec::new();
        for balancer in balancers {
            let mut mixed = 0;
            for seed in 0..BALANCED {
                let hops = self.run(way, balancer, seed, v6)?.hops;
                let exists = balanced_paths(v6)
                    .iter()
                    .any(|path| judge(&hops, path).wrong == 0);
                mixed += u64::from(!exists);
            }
            mixed_cells.push(mixed.to_string());
        }
        let forged = self.run(way, "strangers", 0, v6)?;
        let labels = self.run(way, "mpls", 0, v6)?.labels;
        let silent_path = straight_path(10, 11, &SILENT, v6);
        Ok(vec![
            found(&straight, &path),
            median(straight.iter().map(|run| run.ms), 0),
            median(straight.iter().map(|run| run.sent as f64), 0),
            median(straight.iter().filter_map(|run| run.error_us), 0),
            found(&silent, &silent_path),
            median(silent.iter().map(|run| run.ms), 0),
            mixed_cells.join("; "),
            judge(&forged.hops, &strangers_path(v6)).wrong.to_string(),
            labels.to_string(),
            self.at_once(way, v6)?,
        ])
    }

    /// Ten runs at once, each to a target at another distance, so that an answer to one run is
    /// wrong in another.
    fn at_once(&self, way: &Way, v6: bool) -> Result<String, Box<dyn Error>> {
        let targets: Vec<String> = (1..=AT_ONCE).map(|n| target_address(10 + n, v6)).collect();
        let file = self.topologies.join("targets.toml");
        let simulated = self.simulate(way, &file, 0, &targets)?;
        let (mut complete, mut wrong) = (0, 0);
        for (index, run) in simulated.runs.iter().enumerate() {
            let (n, target) = (index + 1, targets.get(index).ok_or("too many runs")?);
            let path = straight_path(n, 10 + n, &[], v6);
            let judged = judge(&until(target, (way.parse)(&run.output)), &path);
            complete += u32::from(judged.right == path.len() && judged.wrong == 0);
            wrong += judged.wrong;
        }
        Ok(match wrong {
            0 => complete.to_string(),
            _ => format!("{complete}; {wrong} wrong hops"),
        })
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // What is left behind in the folder for temporary files does no harm.
        let _ = std::fs::remove_dir_all(&self.topologies);
    }
}

/// What one run to one target came to.
struct Single {
    hops: Vec<Hop>,
    ms: f64,
    sent: usize,
    error_us: Option<f64>,
    labels: usize,
    complaint: String,
}

/// Inside the namespace: runs the command for all targets at once, and prints a line of JSON about
/// each.
fn work(targets: &str, command: &[String]) -> Result<ExitCode, Box<dyn Error>> {
    let threads: Vec<_> = targets
        .split(',')
        .enumerate()
        .map(|(index, target)| {
            let port = (40_000 + index).to_string();
            let fill = |argument: &String| argument.replace("{port}", &port).replace("{}", target);
            let command: Vec<String> = command.iter().map(fill).collect();
            thread::spawn(move || {
                let started = Instant::now();
                let output = Command::new("timeout").arg(LIMIT).args(&command).output()?;
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                Ok::<_, std::io::Error>(Run {
                    ms: started.elapsed().as_secs_f64() * 1000.0,
                    output: text(&output.stdout),
                    errors: text(&output.stderr),
                })
            })
        })
        .collect();
    for thread in threads {
        let run = thread.join().map_err(|_| "a run panicked")??;
        writeln!(std::io::stdout(), "{}", serde_json::to_string(&run)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

// The paths.

fn router_address(n: usize, v6: bool) -> String {
    if v6 {
        format!("2001:db8:{n:x}::1")
    } else {
        format!("10.0.{n}.1")
    }
}

fn target_address(n: usize, v6: bool) -> String {
    if v6 {
        format!("2001:db8:ffff::{n}")
    } else {
        format!("198.51.100.{n}")
    }
}

/// Ten routers, each 5 ms further away.
fn straight(silent: &[usize]) -> String {
    let hop = |n: usize| {
        let (v4, v6) = (router_address(n, false), router_address(n, true));
        let silent = silent.contains(&n);
        format!("[[hop]]\nname = \"r{n}\"\nv4 = \"{v4}\"\nv6 = \"{v6}\"\ndelay = 2.5\nsilent = {silent}\n")
    };
    // So that who looks up names, as Trippy always does for JSON, need not wait for a name server
    // that is not there.
    let no_route = "no_route = \"net\"\n".to_owned();
    [no_route].into_iter().chain((1..=10).map(hop)).collect()
}

fn target(n: usize, behind: &str) -> String {
    let (v4, v6) = (target_address(n, false), target_address(n, true));
    format!(
        "[[target]]\nv4 = \"{v4}\"\nv6 = \"{v6}\"\ndelay = 2.5\n{behind}udp = {{ open = [7] }}\ntcp = {{ open = [80] }}\n"
    )
}

/// What a complete trace shows; nothing for routers that are silent.
fn straight_path(routers: usize, target: usize, silent: &[usize], v6: bool) -> Vec<Option<String>> {
    (1..=routers)
        .map(|n| (!silent.contains(&n)).then(|| router_address(n, v6)))
        .chain([Some(target_address(target, v6))])
        .collect()
}

/// Of the simulator's topologies with a load balancer.
fn balanced_paths(v6: bool) -> Vec<Vec<Option<String>>> {
    let inner = |branch: usize, hops: usize| {
        (1..=hops).map(move |n| {
            if v6 {
                format!("2001:db8:10{branch}::{n}")
            } else {
                format!("10.1.{branch}.{n}")
            }
        })
    };
    [(1, 2), (2, 2), (3, 3)]
        .into_iter()
        .map(|(branch, hops)| {
            let before = [router_address(1, v6), router_address(2, v6)].into_iter();
            let after = [router_address(3, v6), target_address(11, v6)];
            before.chain(inner(branch, hops)).chain(after).map(Some).collect()
        })
        .collect()
}

/// Of the simulator's topology with forged echo replies; two routers answer from the same other
/// address.
fn strangers_path(v6: bool) -> Vec<Option<String>> {
    let other = if v6 { "2001:db8:903::1" } else { "10.9.3.1" };
    let path = [
        router_address(1, v6),
        router_address(2, v6),
        other.to_owned(),
        other.to_owned(),
        router_address(5, v6),
        target_address(11, v6),
    ];
    path.into_iter().map(Some).collect()
}

// What came of it.

/// The hops up to the target, in order. Tools that ask ahead may report it several times.
fn until(target: &str, mut hops: Vec<Hop>) -> Vec<Hop> {
    hops.sort_by_key(|hop| hop.ttl);
    let end = hops
        .iter()
        .position(|hop| hop.addresses.iter().any(|address| address == target));
    hops.truncate(end.map_or(hops.len(), |end| end + 1));
    hops
}

struct Judged {
    right: usize,
    /// Addresses that do not belong where they were reported.
    wrong: usize,
}

fn judge(hops: &[Hop], path: &[Option<String>]) -> Judged {
    let (mut right, mut wrong) = (0, 0);
    for hop in hops {
        let expected = hop.ttl.checked_sub(1).and_then(|index| path.get(index)?.as_ref());
        for address in &hop.addresses {
            if Some(address) == expected {
                right += 1;
            } else {
                wrong += 1;
            }
        }
    }
    Judged { right, wrong }
}

/// The least and the most hops that were found, and how many were wrong in all.
fn found(runs: &[Single], path: &[Option<String>]) -> String {
    let judged: Vec<Judged> = runs.iter().map(|run| judge(&run.hops, path)).collect();
    let right = || judged.iter().map(|judged| judged.right);
    let (least, most) = (right().min().unwrap_or(0), right().max().unwrap_or(0));
    let range = if least == most {
        format!("{least}")
    } else {
        format!("{least} to {most}")
    };
    match judged.iter().map(|judged| judged.wrong).sum::<usize>() {
        0 => range,
        wrong => format!("{range}; {wrong} wrong"),
    }
}

fn median(values: impl Iterator<Item = f64>, decimals: usize) -> String {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    if values.is_empty() {
        return "none".to_owned();
    }
    format!("{:.decimals$}", percentile(&values, 0.5))
}

/// How many probes to the target the simulator read: not the segments by which a tool ends a
/// connection again.
fn probes(packets: &str, target: &str) -> usize {
    let to = format!(" > {target} ttl ");
    let is_probe = |line: &&str| {
        let kinds = [" UDP ", " SYN seq ", " echo request "];
        line.contains(" -> ") && line.contains(&to) && kinds.iter().any(|kind| line.contains(kind))
    };
    packets.lines().filter(is_probe).count()
}

/// What the target's first answer to a probe of this TTL took, in ms. See `Log` of the simulator
/// for the columns.
fn true_delay(log: &str, target: &str, ttl: usize) -> Option<f64> {
    log.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(',').collect();
        let [_, _, _, of, _, _, _, _, _, _, from, read, _, written] = fields[..] else {
            return None;
        };
        let nanos = written.parse::<i64>().ok()? - read.parse::<i64>().ok()?;
        (from == target && of.parse() == Ok(ttl)).then_some(nanos as f64 / 1e6)
    })
}

// What the tools print.

fn parse_ours(output: &str) -> Vec<Hop> {
    let document: Value = serde_json::from_str(output).unwrap_or_default();
    let hops = document["traceroute"]["runs"][0]["hops"].as_array();
    hops.into_iter()
        .flatten()
        .filter_map(|hop| one(&hop["ttl"], &hop["ip_address"], &hop["rtt"]))
        .collect()
}

fn parse_scamper(output: &str) -> Vec<Hop> {
    let mut objects = output
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let trace = objects
        .find(|object| object["type"] == "trace")
        .unwrap_or_default();
    let hops = trace["hops"].as_array();
    hops.into_iter()
        .flatten()
        .filter_map(|hop| one(&hop["probe_ttl"], &hop["addr"], &hop["rtt"]))
        .collect()
}

/// A hop of a JSON document, if it has an address.
fn one(ttl: &Value, address: &Value, rtt: &Value) -> Option<Hop> {
    let address = address.as_str().filter(|address| !address.is_empty())?;
    Some(Hop {
        ttl: usize::try_from(ttl.as_u64()?).ok()?,
        addresses: vec![address.to_owned()],
        rtt_ms: rtt.as_f64(),
    })
}

/// Written by its manual: several hosts for each TTL, times as text.
fn parse_trippy(output: &str) -> Vec<Hop> {
    let document: Value = serde_json::from_str(output).unwrap_or_default();
    let hops = document["hops"].as_array();
    let parse = |hop: &Value| {
        let hosts = hop["hosts"].as_array()?;
        let addresses = hosts
            .iter()
            .filter_map(|host| Some(host["ip"].as_str()?.to_owned()));
        Some(Hop {
            ttl: usize::try_from(hop["ttl"].as_u64()?).ok()?,
            addresses: addresses.collect(),
            rtt_ms: hop["last"].as_str().and_then(|rtt| rtt.parse().ok()),
        })
    };
    hops.into_iter().flatten().filter_map(parse).collect()
}

/// Lines as ` 3  10.0.3.1  3.009 ms`, with `<…>` or `[…]` between address and time, or `*` for
/// silence.
fn parse_lines(output: &str) -> Vec<Hop> {
    let parse = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (ttl, address) = (words.first()?.parse().ok()?, *words.get(1)?);
        let at = words.iter().position(|word| *word == "ms")?;
        address.parse::<std::net::IpAddr>().ok()?;
        Some(Hop {
            ttl,
            addresses: vec![address.to_owned()],
            rtt_ms: words.get(at.checked_sub(1)?)?.parse().ok(),
        })
    };
    output.lines().filter_map(parse).collect()
}

/// Lines as `h 2 10.0.3.1` and `p 2 3009 33002`: address and time in µs, TTLs counted from 0.
fn parse_mtr(output: &str) -> Vec<Hop> {
    let mut hops: Vec<Hop> = Vec::new();
    for line in output.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [kind @ ("h" | "p"), index, value, ..] = words[..] else {
            continue;
        };
        let Ok(index) = index.parse::<usize>() else {
            continue;
        };
        let at = hops
            .iter()
            .position(|hop| hop.ttl == index + 1)
            .unwrap_or_else(|| {
                hops.push(Hop {
                    ttl: index + 1,
                    addresses: Vec::new(),
                    rtt_ms: None,
                });
                hops.len() - 1
            });
        let Some(hop) = hops.get_mut(at) else { continue };
        if kind == "p" {
            hop.rtt_ms = value.parse::<f64>().ok().map(|us| us / 1000.0);
        } else if !hop.addresses.iter().any(|address| address == value) {
            hop.addresses.push(value.to_owned());
        }
    }
    hops
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(ttl: usize, address: &str, rtt_ms: f64) -> Hop {
        Hop {
            ttl,
            addresses: vec![address.to_owned()],
            rtt_ms: Some(rtt_ms),
        }
    }

    #[test]
    fn what_the_tools_print_is_understood() {
        let text = "traceroute to 198.51.100.11, 30 hops max\n 1  10.0.1.1 <MPLS:L=1,E=0,S=1,T=1>  1.5 ms\n 2  *\n \
                    3  198.51.100.11 [open]  2.5 ms\n";
        let expected = [hop(1, "10.0.1.1", 1.5), hop(3, "198.51.100.11", 2.5)];
        assert_eq!(parse_lines(text), expected);
        let raw = "x 0 33000\nh 0 10.0.1.1\nh 0 10.0.1.1\np 0 1500 33000\nx 1 33001\nh 2 198.51.100.11\np 2 2500 33002\n";
        assert_eq!(parse_mtr(raw), expected);
        let json = "{\"type\":\"cycle-start\"}\n{\"type\":\"trace\",\"hops\":[{\"addr\":\"10.0.1.1\",\"probe_ttl\":1,\"rtt\":1.5},\
                    {\"addr\":\"198.51.100.11\",\"probe_ttl\":3,\"rtt\":2.5}]}\n";
        assert_eq!(parse_scamper(json), expected);
        let ours = "{\"traceroute\":{\"runs\":[{\"hops\":[{\"ttl\":1,\"ip_address\":\"10.0.1.1\",\"rtt\":1.5},\
                    {\"ttl\":2,\"ip_address\":\"\",\"rtt\":0},{\"ttl\":3,\"ip_address\":\"198.51.100.11\",\"rtt\":2.5}]}]}}";
        assert_eq!(parse_ours(ours), expected);
        let trippy = "{\"hops\":[{\"ttl\":1,\"hosts\":[{\"ip\":\"10.0.1.1\"}],\"last\":\"1.50\"},\
                      {\"ttl\":3,\"hosts\":[{\"ip\":\"198.51.100.11\"}],\"last\":\"2.50\"}]}";
        assert_eq!(parse_trippy(trippy), expected);
    }

    #[test]
    fn hops_are_right_at_their_place_only() {
        let path = straight_path(2, 11, &[2], false);
        let judged = judge(&[hop(1, "10.0.1.1", 1.0), hop(3, "198.51.100.11", 3.0)], &path);
        assert_eq!((judged.right, judged.wrong), (2, 0));
        let judged = judge(&[hop(2, "10.0.1.1", 1.0), hop(4, "198.51.100.11", 3.0)], &path);
        assert_eq!((judged.right, judged.wrong), (0, 2));
        let twice = vec![hop(4, "198.51.100.11", 1.0), hop(3, "198.51.100.11", 1.0)];
        assert_eq!(until("198.51.100.11", twice).len(), 1);
    }

    #[test]
    fn probes_are_counted_without_what_ends_connections() {
        let packets = "0.1 #1 -> 192.0.2.1 > 198.51.100.11 ttl 1 TCP 1 > 80 SYN seq 1 ack 0 id 1\n\
                       0.2 #2 -> 192.0.2.1 > 198.51.100.11 ttl 64 TCP 1 > 80 RST seq 1 ack 0 id 1\n\
                       0.3 #1 <- 10.0.1.1 > 192.0.2.1 ttl 255 time exceeded about [192.0.2.1 > 198.51.100.11 ttl 1 TCP 1 > 80 SYN seq 1 ack 0 id 1]\n";
        assert_eq!(probes(packets, "198.51.100.11"), 1);
        let log = "1,192.0.2.1,198.51.100.11,11,udp,1,2,3,4,,198.51.100.11,1000000,0,56100000\n";
        assert_eq!(true_delay(log, "198.51.100.11", 11), Some(55.1));
        assert_eq!(true_delay(log, "198.51.100.11", 10), None);
    }
}
