//! Multipath discovery beside scamper's `tracelb` on the same simulated networks: probes, time,
//! nodes found.
//!
//! ```text
//! cargo build --release -p datadog-traceroute-cli -p traceroute-simnet -p traceroute-bench && target/release/compare_paths [ROUNDS]
//! ```
//!
//! Prints the second table of `docs/comparison.md`. Needs root and scamper.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use serde_json::Value;
use traceroute_bench::percentile;

const TARGET: &str = "198.51.100.11";
/// Seconds after which a run is ended.
const LIMIT: &str = "120";

/// A tool, and how it is run.
const WAYS: [(&str, &str, &[&str]); 4] = [
    ("datadog-traceroute", "UDP", &["paths", "-P", "udp", TARGET]),
    (
        "scamper",
        "UDP",
        &[
            "-p",
            "1000",
            "-O",
            "json",
            "-I",
            "tracelb -P udp-sport -w 1 198.51.100.11",
        ],
    ),
    ("datadog-traceroute", "ICMP", &["paths", "-P", "icmp", TARGET]),
    (
        "scamper",
        "ICMP",
        &[
            "-p",
            "1000",
            "-O",
            "json",
            "-I",
            "tracelb -P icmp-echo -w 1 198.51.100.11",
        ],
    ),
];

/// A network: its name, and per router how long the branches behind it are.
const SHAPES: [(&str, &[&[usize]]); 6] = [
    (
        "no balancing, 11 hops",
        &[&[], &[], &[], &[], &[], &[], &[], &[], &[], &[]],
    ),
    ("diamond of 2", &[&[], &[], &[1; 2], &[], &[], &[], &[]]),
    ("diamond of 4, two long", &[&[], &[], &[2; 4], &[], &[], &[]]),
    ("diamond of 16", &[&[], &[], &[1; 16], &[], &[], &[], &[]]),
    ("uneven length", &[&[], &[], &[1, 2], &[], &[], &[]]),
    ("two diamonds", &[&[], &[1; 3], &[], &[1; 4], &[], &[], &[]]),
];

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [worker, program, command @ ..] = &arguments[..]
        && worker == "worker"
    {
        return work(program, command);
    }
    let rounds: u64 = arguments.first().map_or(Ok(5), |rounds| rounds.parse())?;
    let directory = std::env::current_exe()?
        .parent()
        .ok_or("no directory")?
        .to_path_buf();
    println!("| network | tool | probes sent | time, ms | nodes found |");
    println!("|---|---|---|---|---|");
    for (name, routers) in SHAPES {
        let file = std::env::temp_dir().join(format!("compare-paths-{}.toml", std::process::id()));
        std::fs::write(&file, topology(routers))?;
        for (tool, probes, command) in WAYS {
            let row = row(&directory, (tool, command), &file, rounds);
            let cells = row.unwrap_or_else(|error| format!("{error} | | "));
            println!("| {name} | {tool} {probes} | {cells} |");
        }
        std::fs::remove_file(&file)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Medians over some runs.
fn row(
    directory: &Path,
    (tool, command): (&str, &[&str]),
    file: &Path,
    rounds: u64,
) -> Result<String, Box<dyn Error>> {
    let (mut sent, mut times, mut nodes) = (Vec::new(), Vec::new(), Vec::new());
    for seed in 0..rounds {
        let ours = directory.join(tool);
        let program = if ours.exists() { ours } else { PathBuf::from(tool) };
        let output = Command::new(directory.join("traceroute-simnet"))
            .arg("run")
            .arg(file)
            .args([
                "--namespace",
                "--realtime",
                "-v",
                "--seed",
                &seed.to_string(),
                "--",
            ])
            .arg(std::env::current_exe()?)
            .arg("worker")
            .arg(program)
            .args(command)
            .output()?;
        let packets = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(packets.lines().last().unwrap_or("no reason").to_owned().into());
        }
        let text = String::from_utf8(output.stdout)?;
        let (ms, result) = text.split_once('\n').ok_or("no result")?;
        times.push(ms.parse()?);
        sent.push(probes(&packets) as f64);
        nodes.push(addresses(result).len() as f64);
    }
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        percentile(&values, 0.5)
    };
    let (least, most) = nodes.iter().fold((f64::MAX, 0.0_f64), |(least, most), count| {
        (least.min(*count), most.max(*count))
    });
    let found = if least < most {
        format!("{least} to {most}")
    } else {
        most.to_string()
    };
    Ok(format!("{:.0} | {:.0} | {found}", median(sent), median(times)))
}

/// Scamper writes Ethernet frames itself, and the simulator's device has none: the tool gets a
/// namespace of its own, behind a link that has. It prints the process that holds it open.
const LINK: &str = "
set -e
unshare --net sleep 600 >/dev/null 2>&1 & holder=$!
until [ \"$(readlink /proc/$holder/ns/net)\" != \"$(readlink /proc/self/ns/net)\" ]; do :; done
ip link add near type veth peer name far netns $holder
ip address add 192.0.2.129/30 dev near
ip link set near up
nsenter --target $holder --net sh -ec '
    ip address add 192.0.2.130/30 dev far
    ip link set far up
    ip route add default via 192.0.2.129
'
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 0 > /proc/sys/net/ipv4/icmp_ratelimit
echo $holder
";

/// Inside the namespace: milliseconds, and then what the program has written.
fn work(program: &str, command: &[String]) -> Result<ExitCode, Box<dyn Error>> {
    let linked = Command::new("sh").args(["-c", LINK]).output()?;
    let holder = String::from_utf8(linked.stdout)?.trim().to_owned();
    if !linked.status.success() {
        return Err(String::from_utf8_lossy(&linked.stderr).into_owned().into());
    }
    let result = run(&holder, program, command);
    Command::new("kill").arg(&holder).status()?;
    result
}

fn run(holder: &str, program: &str, command: &[String]) -> Result<ExitCode, Box<dyn Error>> {
    let started = Instant::now();
    let output = Command::new("nsenter")
        .args(["--target", holder, "--net", "timeout", LIMIT, program])
        .args(command)
        .output()?;
    println!("{}", started.elapsed().as_secs_f64() * 1000.0);
    println!("{}", String::from_utf8_lossy(&output.stdout));
    Ok(ExitCode::SUCCESS)
}

/// How many probes the simulator has read.
fn probes(packets: &str) -> usize {
    let to = format!(" > {TARGET} ttl ");
    let kinds = [" UDP ", " echo request "];
    let is_probe = |line: &&str| {
        line.contains(" -> ") && line.contains(&to) && kinds.iter().any(|kind| line.contains(kind))
    };
    packets.lines().filter(is_probe).count()
}

/// All addresses of routers and the target that a result shows.
fn addresses(result: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let documents = serde_json::Deserializer::from_str(result).into_iter::<Value>();
    for document in documents.filter_map(Result::ok) {
        for list in ["hops", "nodes"] {
            collect(&document[list], &mut found);
        }
    }
    found
}

fn collect(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        Value::Object(members) => {
            for (name, member) in members {
                match (name.as_str(), member) {
                    ("addr" | "ip_address", Value::String(address)) if !address.is_empty() => {
                        found.insert(address.clone());
                    }
                    _ => collect(member, found),
                }
            }
        }
        _ => {}
    }
}

fn topology(routers: &[&[usize]]) -> String {
    let mut text = String::new();
    for (n, branches) in (1..).zip(routers) {
        let balance = if branches.is_empty() {
            ""
        } else {
            "balance = \"first-four-bytes\"\n"
        };
        let _ = write!(
            text,
            "[[hop]]\nname = \"r{n}\"\nv4 = \"10.0.{n}.1\"\ndelay = 2.5\n{balance}"
        );
        for (b, length) in (1..).zip(*branches) {
            text.push_str("[[hop.branch]]\n");
            for h in 1..=*length {
                let _ = write!(
                    text,
                    "[[hop.branch.hop]]\nname = \"r{n}b{b}h{h}\"\nv4 = \"10.{n}.{b}.{h}\"\ndelay = 2.5\n"
                );
            }
        }
    }
    let _ = write!(text, "[[target]]\nv4 = \"{TARGET}\"\ndelay = 2.5\n");
    text
}
