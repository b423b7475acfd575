//! RTT error against a simulated path with known delays, idle and with the CPUs saturated by other
//! processes, beside a run of `traceroute` on the same path where that is installed: with every
//! protocol, in both families.
//!
//! ```text
//! cargo build --release -p traceroute-simnet -p traceroute-bench && target/release/accuracy [ROUNDS]
//! ```
//!
//! The error is what the tool reports minus the delay that the simulator really produced for that
//! answer: from reading the probe from its device to writing the answer there, by its own log. What
//! the device and the simulator's wake-up take counts as the tool's error. Prints the table of
//! `docs/accuracy.md`. Needs root: the simulator runs before all others.

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use datadog_traceroute::{Request, Tracer};
use futures_util::future::join_all;
use traceroute_bench::percentile;

const TARGETS: [(&str, &str); 2] = [("IPv4", "198.51.100.11"), ("IPv6", "2001:db8:ffff::11")];
/// Our names, and traceroute's options.
const PROTOCOLS: [(&str, &str); 3] = [("icmp", "-I"), ("udp", "-U -p 33434"), ("tcp", "-T -p 80")];
const TCP_PORT: u16 = 80;
const DELAYS: [&str; 4] = ["0.1", "1", "10", "100"];
const TRACES_PER_ROUND: u32 = 8;
/// Between the starts of traces, so that they do not queue for the simulator's one thread.
const STAGGER: Duration = Duration::from_micros(5300);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [worker, protocol, target, rounds] = &arguments[..]
        && worker == "worker"
    {
        return work(protocol, target, rounds.parse()?);
    }
    let rounds = arguments.first().map_or("5", String::as_str);
    let directory = std::env::current_exe()?
        .parent()
        .ok_or("no directory")?
        .to_path_buf();
    println!("| probes | CPUs | RTT | by | samples | 50 % | 90 % | 99 % | most |");
    println!("|---|---|---|---|---|---|---|---|---|");
    for (protocol, options) in PROTOCOLS {
        for (family, target) in TARGETS {
            for load in ["idle", "saturated"] {
                for delay in DELAYS {
                    let _burners = if load == "saturated" {
                        Burners::start()?
                    } else {
                        Burners(Vec::new())
                    };
                    let path = SimulatedPath {
                        directory: &directory,
                        delay,
                        target,
                    };
                    let what = format!("{protocol} {family} | {load} | {delay} ms");
                    print(
                        &format!("{what} | datadog-traceroute"),
                        path.measure_ours(protocol, rounds)?,
                    );
                    match path.measure_traceroute(options, rounds) {
                        Ok(theirs) => print(&format!("{what} | traceroute"), theirs),
                        Err(error) => println!("| {what} | traceroute | not run: {error} | | | | |"),
                    }
                }
            }
        }
    }
    Ok(())
}

fn print(what: &str, mut errors: Vec<f64>) {
    errors.sort_by(f64::total_cmp);
    let at = |share| percentile(&errors, share);
    println!(
        "| {what} | {} | {:.0} | {:.0} | {:.0} | {:.0} |",
        errors.len(),
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0)
    );
}

/// Busy processes of normal priority, two for each CPU.
struct Burners(Vec<Child>);

impl Burners {
    fn start() -> Result<Self, Box<dyn Error>> {
        let count = 2 * std::thread::available_parallelism()?.get();
        let burn = || Command::new("sh").args(["-c", "while :; do :; done"]).spawn();
        Ok(Burners((0..count).map(|_| burn()).collect::<Result<_, _>>()?))
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // Already gone is fine.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What the simulator logged about one answer.
struct Logged {
    /// Source port or echo identifier, and TTL.
    probe: (String, String),
    from: IpAddr,
    delay_us: f64,
}

/// A simulated path and where its target is.
struct SimulatedPath<'a> {
    /// Where the programs are.
    directory: &'a Path,
    /// RTT in milliseconds.
    delay: &'a str,
    target: &'a str,
}

impl SimulatedPath<'_> {
    /// Runs `command` on the path; its output and the simulator's log.
    fn simulate(&self, command: &[&str]) -> Result<(String, Vec<Logged>), Box<dyn Error>> {
        let log: PathBuf = std::env::temp_dir().join(format!("accuracy-{}.csv", std::process::id()));
        let output = Command::new(self.directory.join("traceroute-simnet"))
            .args([
                "run",
                &format!("delay-{}ms", self.delay),
                "--namespace",
                "--realtime",
                "--log-delays",
            ])
            .arg(&log)
            .arg("--")
            .args(command)
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| format!("traceroute-simnet: {error}; build it first"))?;
        let text = std::fs::read_to_string(&log)?;
        std::fs::remove_file(&log)?;
        if !output.status.success() {
            return Err(format!("{command:?} failed: {}", output.status).into());
        }
        let logged = text.lines().skip(1).filter_map(parse_log_line).collect();
        Ok((String::from_utf8(output.stdout)?, logged))
    }

    fn measure_ours(&self, protocol: &str, rounds: &str) -> Result<Vec<f64>, Box<dyn Error>> {
        let worker = std::env::current_exe()?.display().to_string();
        let (output, log) = self.simulate(&[&worker, "worker", protocol, self.target, rounds])?;
        // Ports come again in later rounds.
        let mut known: HashMap<(String, String), VecDeque<f64>> = HashMap::new();
        for logged in log {
            known.entry(logged.probe).or_default().push_back(logged.delay_us);
        }
        let mut errors = Vec::new();
        for line in output.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let [port, ttl, rtt] = fields[..] else {
                return Err(format!("unexpected: {line}").into());
            };
            let delay = known
                .get_mut(&(port.to_owned(), ttl.to_owned()))
                .and_then(VecDeque::pop_front)
                .ok_or("a hop that the simulator did not answer")?;
            errors.push(rtt.parse::<f64>()? * 1000.0 - delay);
        }
        Ok(errors)
    }

    fn measure_traceroute(&self, options: &str, rounds: &str) -> Result<Vec<f64>, Box<dyn Error>> {
        let target = self.target;
        let script = format!(
            "for i in $(seq {rounds}); do traceroute -n {options} -q 1 -N 1 -w 2 {target} || exit 1; done"
        );
        let (output, log) = self.simulate(&["sh", "-c", &script])?;
        // It prints hops in order and asks one after the other, so the n-th answer from an address
        // is in the n-th line with it.
        let mut by_address: HashMap<IpAddr, VecDeque<f64>> = HashMap::new();
        for logged in log {
            by_address
                .entry(logged.from)
                .or_default()
                .push_back(logged.delay_us);
        }
        let mut errors = Vec::new();
        for line in output.lines().filter(|line| line.contains(" ms")) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, address, rtt, "ms", ..] = fields[..] else {
                continue;
            };
            let delay = by_address
                .get_mut(&address.parse()?)
                .and_then(VecDeque::pop_front)
                .ok_or("more answers than the simulator gave")?;
            errors.push(rtt.parse::<f64>()? * 1000.0 - delay);
        }
        Ok(errors)
    }
}

/// number, 9 fields of the probe, from, `read_ns`, `due_ns`, `written_ns`.
fn parse_log_line(line: &str) -> Option<Logged> {
    let fields: Vec<&str> = line.split(',').collect();
    let [_, _, _, ttl, _, port, _, _, _, _, from, read, _, written] = fields[..] else {
        return None;
    };
    let nanos = written.parse::<i64>().ok()? - read.parse::<i64>().ok()?;
    Some(Logged {
        probe: (port.to_owned(), ttl.to_owned()),
        from: from.parse().ok()?,
        delay_us: nanos as f64 / 1000.0,
    })
}

/// Inside the namespace: traces, and prints source port or identifier, TTL and RTT in ms of each
/// hop.
fn work(protocol: &str, target: &str, rounds: u32) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let request = Request::to(target)
            .protocol(protocol.parse()?)
            .port(if protocol == "tcp" { TCP_PORT } else { 33434 })
            .runs(1)
            .e2e_probes(0)
            .timeout(Duration::from_secs(1))
            .build()?;
        let tracer = Tracer::new();
        for _ in 0..rounds {
            let traces = (0..TRACES_PER_ROUND).map(|index| trace_later(&tracer, &request, STAGGER * index));
            for lines in join_all(traces).await {
                println!("{}", lines?);
            }
        }
        Ok(())
    })
}

async fn trace_later(
    tracer: &Tracer,
    request: &Request,
    delay: Duration,
) -> Result<String, datadog_traceroute::Error> {
    tokio::time::sleep(delay).await;
    let report = tracer.trace(request).await?;
    let runs = report.runs.iter();
    let hops = runs.flat_map(|run| run.hops.iter().map(|hop| (run.source.port(), hop)));
    let lines = hops.filter_map(|(port, hop)| {
        let rtt = hop.answer?.rtt?.as_secs_f64() * 1000.0;
        Some(format!("{port} {} {rtt}", hop.ttl))
    });
    Ok(lines.collect::<Vec<_>>().join("\n"))
}
