//! All attacks at once or each by itself, on the limits that the Kubernetes manifest ships.

mod attacks;
mod honest;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub(super) use attacks::attack;
pub(super) use honest::{health, trace};
use traceroute_bench::{Server, Usage, wait_until_it_listens};
use traceroute_testbed::{Chain, Lab, NameAnswer, Node, Record};

use crate::linux::{Failure, bad_lines};

const MANIFEST: &str = include_str!("../../../../../../packaging/kubernetes/daemonset.yaml");
const PORT: u16 = 3765;
const TOKEN: &str = "siege";
/// After so long, memory must have been given back.
const RETURNED: Duration = Duration::from_secs(35);

/// All attacks at once, for some seconds.
pub(super) fn all(program: &str, seconds: u64) -> Result<(), Failure> {
    let ground = Ground::new(program)?;
    println!("memory limited as in the manifest, the network's buffers included");
    let mut siege = ground.begin("", seconds)?;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(seconds) {
        thread::sleep(Duration::from_secs((seconds / 15).clamp(1, 60)));
        let usage = siege.usage()?;
        println!(
            "{:6.0} s  {:.1} MB  {} descriptors  {:.1} s CPU",
            begun.elapsed().as_secs_f64(),
            megabytes(usage.resident),
            usage.descriptors,
            usage.cpu.as_secs_f64()
        );
    }
    let mut failures = siege.wait()?;
    for line in &siege.told {
        println!("{line}");
    }
    println!("most memory {}", siege.cage.most());
    thread::sleep(RETURNED);
    let after = siege.usage()?;
    let (left, peak) = (megabytes(after.resident), megabytes(after.peak));
    println!("resident: {peak:.1} MB at the most, {left:.1} MB half a minute after");
    if left > peak * 0.75 {
        failures.push("memory is not given back".to_owned());
    }
    failures.extend(siege.end()?);
    conclude(&failures)
}

/// Each attack by itself, for some seconds, as rows of a table.
pub(super) fn each(program: &str, seconds: u64, only: &str) -> Result<(), Failure> {
    let ground = Ground::new(program)?;
    println!(
        "| attack | what came of it | `/health` | an honest client | most memory |\n|---|---|---|---|---|"
    );
    let mut failures = Vec::new();
    for name in attacks::names().filter(|name| only.is_empty() || *name == only) {
        let mut siege = ground.begin(name, seconds)?;
        let mut failed = siege.wait()?;
        let peak = megabytes(siege.usage()?.peak);
        failed.extend(siege.end()?);
        let [health, honest, outcome] = siege.told.as_slice() else {
            return Err(format!("{name}: {:?}", siege.told).into());
        };
        println!("| {name} | {outcome} | {health} | {honest} | {peak:.0} MB |");
        failures.extend(failed.into_iter().map(|failure| format!("{name}: {failure}")));
    }
    conclude(&failures)
}

fn conclude(failures: &[String]) -> Result<(), Failure> {
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures.join("; ").into())
    }
}

fn megabytes(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// Where it takes place.
struct Ground {
    program: String,
    chain: Chain,
    folder: PathBuf,
    /// What must not end before.
    _services: [traceroute_testbed::Service; 2],
    _lab: Lab,
}

impl Ground {
    fn new(program: &str) -> Result<Ground, Failure> {
        if program.is_empty() {
            return Err("usage: server_soak siege|attacks SERVER [SECONDS [ATTACK]]".into());
        }
        let lab = Lab::new()?;
        let chain = lab.chain(6)?;
        let services = [
            chain.target.listen_tcp(80)?,
            chain.client.answer_names(|_, record| match record {
                // As long as names may be, and as many as an answer over UDP has room for.
                Record::Ptr => NameAnswer::Names((0..2).map(long_name).collect()),
                _ => NameAnswer::Silence,
            })?,
        ];
        chain.routers.get(3).ok_or("too short")?.silence()?;
        let folder = std::env::temp_dir().join(format!("siege_{}", std::process::id()));
        Ok(Ground {
            program: program.to_owned(),
            chain,
            folder,
            _services: services,
            _lab: lab,
        })
    }

    /// Starts the server, those who attack it in one way or in all, and honest clients.
    fn begin(&self, only: &str, seconds: u64) -> Result<Siege, Failure> {
        let Ground { chain, folder, .. } = self;
        let mut command = chain.client.command_with_names(&self.program, "", folder)?;
        fs::write(folder.join("token"), TOKEN)?;
        command
            .args(["--addr", &format!(":{PORT}")])
            .args(arguments(folder));
        let cage = Cage::new()?;
        let Server { process, log, .. } = wait_until_it_listens(command)?;
        let server = Running(process);
        cage.hold(&server.0)?;
        let log = thread::spawn(move || bad_lines(log.map_while(Result::ok)));
        let id = server.0.id().to_string();
        let run = |node: &Node, nice: &str, arguments: &[&str]| -> Result<Running, Failure> {
            let mut command = node.command("nice");
            command
                .args(["-n", nice])
                .arg(std::env::current_exe()?)
                .args(arguments);
            Ok(Running(command.stdout(Stdio::piped()).spawn()?))
        };
        let address = SocketAddr::new(chain.client_v4().into(), PORT).to_string();
        let local = format!("127.0.0.1:{PORT}");
        let hops: Vec<String> = chain.hop_addresses_v4().iter().map(ToString::to_string).collect();
        let time = seconds.to_string();
        let mut all = vec![
            run(&chain.client, "0", &["health", &local, &time])?,
            run(&chain.target, "0", &["patient", &address, &hops.join(","), &time])?,
        ];
        let target = chain.target_v4().to_string();
        // Nobody is there.
        let silent = hops.get(3).ok_or("too short")?;
        let victims = format!("{},{}", chain.client_v4(), chain.client_v6());
        let hosts = if only.is_empty() { 2 } else { 1 };
        for router in chain.routers.iter().take(hosts) {
            let arguments = ["attack", &address, &id, &target, silent, &victims, &time, only];
            // Attackers have machines of their own elsewhere; here they get what the others leave.
            all.push(run(router, "19", &arguments)?);
        }
        Ok(Siege {
            server,
            all,
            told: Vec::new(),
            cage,
            log: Some(log),
        })
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A name of 200 bytes, different for each number.
fn long_name(number: usize) -> String {
    let label = "x".repeat(49);
    format!("{number}{label}.{label}.{label}.{label}.test")
}

/// A server under attack.
struct Siege {
    server: Running,
    /// The honest, then those who attack.
    all: Vec<Running>,
    /// What they said at the end, a line each or more.
    told: Vec<String>,
    cage: Cage,
    log: Option<JoinHandle<usize>>,
}

impl Siege {
    fn usage(&self) -> Result<Usage, Failure> {
        let id = self.server.0.id().to_string();
        Usage::of(&id).map_err(|error| format!("the server is gone: {error}").into())
    }

    /// Waits until it is over; which processes did not end well.
    fn wait(&mut self) -> Result<Vec<String>, Failure> {
        let mut failures = Vec::new();
        for (index, mut process) in self.all.drain(..).enumerate() {
            let output = process.0.stdout.take().ok_or("no output")?;
            self.told
                .extend(std::io::read_to_string(output)?.lines().map(str::to_owned));
            if !process.0.wait()?.success() {
                let who = ["health is late", "an honest client was not served"];
                failures.push((*who.get(index).unwrap_or(&"an attacker failed")).to_owned());
            }
        }
        Ok(failures)
    }

    /// Ends the server; what went wrong.
    fn end(&mut self) -> Result<Option<String>, Failure> {
        Server::stop(&mut self.server.0)?;
        let log = self.log.take().ok_or("it has ended")?;
        let bad = log.join().map_err(|_| "the log's reader panicked")?;
        Ok((bad > 0).then(|| format!("{bad} lines of the log tell of errors")))
    }
}

/// A process that ends with its owner, who may have failed.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The manifest's, with the token in another file and the log as text.
fn arguments(folder: &Path) -> Vec<String> {
    let mut all: Vec<String> = MANIFEST
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- --"))
        .filter(|line| !line.starts_with("token-file") && !line.starts_with("log-format"))
        .map(|line| format!("--{line}"))
        .collect();
    all.push(format!("--token-file={}", folder.join("token").display()));
    all
}

/// A control group with the manifest's memory.
struct Cage {
    folder: PathBuf,
    is_v2: bool,
}

impl Cage {
    fn new() -> Result<Cage, Failure> {
        let limit = MANIFEST
            .lines()
            .find_map(|line| line.trim().strip_prefix("limits: { memory: "))
            .and_then(|rest| rest.strip_suffix("Mi }"))
            .ok_or("the manifest has no limit")?;
        let bytes = (limit.parse::<u64>()? << 20).to_string();
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let is_v2 = !v1.is_dir();
        let root = if is_v2 { Path::new("/sys/fs/cgroup") } else { v1 };
        let folder = root.join(format!("traceroute_siege_{}", std::process::id()));
        fs::create_dir(&folder)?;
        let cage = Cage { folder, is_v2 };
        cage.write(cage.file("memory.max", "memory.limit_in_bytes"), &bytes)?;
        Ok(cage)
    }

    fn file(&self, v2: &'static str, v1: &'static str) -> &'static str {
        if self.is_v2 { v2 } else { v1 }
    }

    fn write(&self, file: &str, text: &str) -> std::io::Result<()> {
        fs::write(self.folder.join(file), text)
    }

    fn hold(&self, process: &Child) -> std::io::Result<()> {
        self.write("cgroup.procs", &process.id().to_string())
    }

    fn most(&self) -> String {
        let file = self
            .folder
            .join(self.file("memory.peak", "memory.max_usage_in_bytes"));
        let bytes = fs::read_to_string(file)
            .ok()
            .and_then(|text| text.trim().parse::<u64>().ok());
        bytes.map_or("not known".to_owned(), |bytes| format!("{} MiB", bytes >> 20))
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}

fn block_on(future: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build()?.block_on(future)
}
