//! All attacks at once, on the limits that the Kubernetes manifest ships.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use datadog_traceroute::document::Document;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use traceroute_bench::{Server, Usage, get, percentile, wait_until_it_listens};
use traceroute_testbed::{Lab, NameAnswer, Node};

use crate::linux::{Failure, bad_lines, path};

const MANIFEST: &str = include_str!("../../../../../packaging/kubernetes/daemonset.yaml");
const PORT: u16 = 3765;
const TOKEN: &str = "siege";
/// Health at the 99th percentile.
const LATEST_HEALTH: Duration = Duration::from_millis(100);
/// Connections that one attacker holds of each silent kind.
const HELD: usize = 1500;

pub(super) fn main(program: &str, seconds: u64) -> Result<(), Failure> {
    if program.is_empty() {
        return Err("usage: server_soak siege SERVER [SECONDS]".into());
    }
    let lab = Lab::new()?;
    let chain = lab.chain(6)?;
    let _service = chain.target.listen_tcp(80)?;
    chain.routers.get(3).ok_or("too short")?.silence()?;
    let _names = chain.client.answer_names(|_, _| NameAnswer::Silence)?;
    let folder = std::env::temp_dir().join(format!("siege_{}", std::process::id()));
    let mut command = chain.client.command_with_names(program, "", &folder)?;
    fs::write(folder.join("token"), TOKEN)?;
    command
        .args(["--addr", &format!(":{PORT}")])
        .args(arguments(&folder));
    let cage = Cage::new()?;
    let Server { process, log, .. } = wait_until_it_listens(command)?;
    let mut server = Running(process);
    cage.hold(&server.0)?;
    let reader = std::thread::spawn(move || bad_lines(log.map_while(Result::ok)));

    let run = |node: &Node, arguments: &[&str]| -> Result<Running, Failure> {
        let child = node.command(std::env::current_exe()?).args(arguments).spawn()?;
        Ok(Running(child))
    };
    // Attackers have machines of their own elsewhere; here they get what the others leave.
    let attack = |node: &Node, arguments: &[&str]| -> Result<Running, Failure> {
        let mut command = node.command("nice");
        command.args(["-n", "19"]).arg(std::env::current_exe()?);
        Ok(Running(command.args(arguments).spawn()?))
    };
    let address = SocketAddr::new(chain.client_v4().into(), PORT).to_string();
    let target = chain.target_v4().to_string();
    // Nobody is there.
    let silent = chain.hop_addresses_v4().get(3).ok_or("too short")?.to_string();
    let victims = format!("{},{}", chain.client_v4(), chain.client_v6());
    let mut enemies = Vec::new();
    for router in chain.routers.iter().take(2) {
        enemies.push(attack(router, &["hostile", &victims])?);
        enemies.push(attack(router, &["besiege", &address, &target, &silent])?);
    }
    let hops: Vec<String> = chain.hop_addresses_v4().iter().map(ToString::to_string).collect();
    let time = seconds.to_string();
    let local = format!("127.0.0.1:{PORT}");
    let honest = [
        run(&chain.client, &["health", &local, &time])?,
        run(&chain.target, &["patient", &address, &hops.join(","), &time])?,
    ];
    let id = server.0.id().to_string();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(seconds) {
        std::thread::sleep(Duration::from_secs((seconds / 15).clamp(1, 60)));
        let usage = Usage::of(&id).map_err(|error| format!("the server is gone: {error}"))?;
        println!(
            "{:6.0} s  {:.1} MB  {} descriptors  {:.1} s CPU",
            begun.elapsed().as_secs_f64(),
            usage.resident as f64 / 1024.0,
            usage.descriptors,
            usage.cpu.as_secs_f64()
        );
    }
    let mut failures = Vec::new();
    for mut client in honest {
        if !client.0.wait()?.success() {
            failures.push("an honest client was not served".to_owned());
        }
    }
    for mut enemy in enemies {
        if let Some(status) = enemy.0.try_wait()? {
            failures.push(format!("an attacker has ended: {status}"));
        }
    }
    println!("most memory {}", cage.most());
    // What they held is given back.
    std::thread::sleep(Duration::from_secs(35));
    let after = Usage::of(&id)?;
    let megabytes = |kib: u64| kib as f64 / 1024.0;
    let (left, peak) = (megabytes(after.resident), megabytes(after.peak));
    println!("resident: {peak:.1} MB at the most, {left:.1} MB half a minute after");
    if left > peak * 0.75 {
        failures.push("memory is not given back".to_owned());
    }
    Server::stop(&mut server.0)?;
    let bad = reader.join().map_err(|_| "the log's reader panicked")?;
    if bad > 0 {
        failures.push(format!("{bad} lines of the log tell of errors"));
    }
    fs::remove_dir_all(&folder)?;
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures.join("; ").into())
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
        println!("memory limited to {limit} MiB, the network's buffers included");
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

/// Asks for health as a kubelet does, on a new connection each time.
pub(super) fn health(server: SocketAddr, seconds: u64) -> Result<(), Failure> {
    block_on(async {
        let begun = Instant::now();
        let (mut times, mut failed) = (Vec::new(), 0);
        while begun.elapsed() < Duration::from_secs(seconds) {
            let asked = Instant::now();
            let answer = timeout(Duration::from_secs(5), get(server, "/health", "")).await;
            if !matches!(answer, Ok(Ok((200, _)))) {
                failed += 1;
            }
            times.push(asked.elapsed().as_secs_f64() * 1000.0);
            sleep(Duration::from_millis(50)).await;
        }
        times.sort_by(f64::total_cmp);
        let [median, late, last] = [0.5, 0.99, 1.0].map(|share| percentile(&times, share));
        println!(
            "health: {} times, {failed} failed; {median:.1} ms median, {late:.1} ms p99, {last:.1} ms at most",
            times.len()
        );
        if failed > 0 || late > LATEST_HEALTH.as_secs_f64() * 1000.0 {
            return Err("health is late".into());
        }
        Ok(())
    })
}

/// Traces again and again, and asks once more when told to come back later.
pub(super) fn trace(server: SocketAddr, hops: &str, seconds: u64) -> Result<(), Failure> {
    let expected = path(hops)?;
    let target = expected.last().ok_or("no target")?;
    block_on(async {
        let begun = Instant::now();
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        let mut times = Vec::new();
        let token = format!("Authorization: Bearer {TOKEN}\r\n");
        while begun.elapsed() < Duration::from_secs(seconds) {
            let query = "traceroute-queries=1&e2e-queries=1&timeout=1000&max-ttl=10";
            let uri = format!("/traceroute?target={target}&{query}");
            let asked = Instant::now();
            let what = match timeout(Duration::from_mins(1), get(server, &uri, &token)).await {
                Ok(Ok((200, body))) => {
                    let document: Document = serde_json::from_str(&body)?;
                    let right = is_right(&document, &expected);
                    (if right { "right" } else { "wrong" }).to_owned()
                }
                Ok(Ok((status, body))) => format!("{status} {}", body.trim()),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            times.push(asked.elapsed().as_secs_f64() * 1000.0);
            *counts.entry(what).or_default() += 1;
            sleep(Duration::from_millis(200)).await;
        }
        times.sort_by(f64::total_cmp);
        println!(
            "an honest client: {counts:?}, {:.0} ms p99",
            percentile(&times, 0.99)
        );
        let right = counts.remove("right").unwrap_or(0);
        let others: u32 = counts.values().sum();
        if right == 0 || others * 100 > right {
            return Err("more than one of a hundred traces failed".into());
        }
        Ok(())
    })
}

/// All hops but the fourth, which is silent.
fn is_right(document: &Document, expected: &[IpAddr]) -> bool {
    document.traceroute.runs.iter().all(|run| {
        let hops = run.hops.iter().zip(expected).enumerate();
        run.hops.len() == expected.len()
            && hops
                .into_iter()
                .all(|(index, (hop, right))| hop.ip_address == (index != 3).then_some(*right))
    })
}

fn request(uri: &str, token: &str, more: &str) -> String {
    format!("GET {uri} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n{more}\r\n")
}

/// What came of attacks, by their name and outcome.
type Tally = Arc<Mutex<BTreeMap<(&'static str, u16), u64>>>;

/// Attacks until it is killed, and says now and then what came of it.
pub(super) fn besiege(server: SocketAddr, target: &str, silent: &str) -> Result<(), Failure> {
    let raise = Command::new("prlimit")
        .args(["--pid", &std::process::id().to_string(), "--nofile=20000"])
        .status()?;
    if !raise.success() {
        return Err("no more descriptors".into());
    }
    let dear = "traceroute-queries=100&e2e-queries=100&timeout=10000&max-ttl=255&reverse-dns=true";
    let padding = "x".repeat(8000);
    let foreign = "User-Agent: Mozilla/5.0\r\nOrigin: http://evil.example\r\n";
    // A name, what is asked with which token and headers, how many at once.
    let asked: [(&'static str, String, &str, &str, usize); 9] = [
        ("no token", format!("/traceroute?target={padding}"), "", "", 8),
        (
            "wrong token",
            "/traceroute?target=127.0.0.1".to_owned(),
            "wrong",
            "",
            8,
        ),
        (
            "dear",
            format!("/traceroute?target={silent}&{dear}"),
            TOKEN,
            "",
            40,
        ),
        (
            "dear table",
            format!("/traceroute?target={silent}&{dear}&format=table&details=true"),
            TOKEN,
            "",
            20,
        ),
        (
            "SACK",
            format!(
                "/traceroute?target={target}&protocol=tcp&tcp-method=sack&port=80&traceroute-queries=100"
            ),
            TOKEN,
            "",
            20,
        ),
        (
            "all paths",
            format!("/paths?target={silent}&max-probes=100000&e2e-queries=100"),
            TOKEN,
            "",
            20,
        ),
        (
            "names",
            "/traceroute?target=nobody.silent.test&e2e-queries=0".to_owned(),
            TOKEN,
            "",
            40,
        ),
        (
            "foreign page",
            format!("/traceroute?target={target}"),
            TOKEN,
            foreign,
            4,
        ),
        ("metrics", "/metrics".to_owned(), TOKEN, "", 4),
    ];
    let tally = Tally::default();
    block_on(async {
        for (name, uri, token, more, at_once) in &asked {
            let bytes: Arc<str> = request(uri, token, more).into();
            for _ in 0..*at_once {
                tokio::spawn(ask(server, name, Arc::clone(&bytes), Arc::clone(&tally)));
            }
        }
        let half = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}", "y".repeat(15_000));
        let stream = request(&format!("/traceroute/stream?target={target}"), TOKEN, "");
        for (name, bytes) in [
            ("silent", String::new()),
            ("half a header", half),
            ("TLS", "\u{16}\u{3}\u{1}".to_owned()),
            ("unread stream", stream),
        ] {
            tokio::spawn(hold(server, name, bytes.into(), Arc::clone(&tally)));
        }
        for _ in 0..8 {
            let bytes = request(&format!("/traceroute?target={silent}&{dear}"), TOKEN, "");
            tokio::spawn(leave(server, bytes, Arc::clone(&tally)));
        }
        loop {
            sleep(Duration::from_secs(30)).await;
            println!(
                "attacks: {:?}",
                tally.lock().unwrap_or_else(PoisonError::into_inner)
            );
        }
    })
}

fn count(tally: &Tally, name: &'static str, status: u16) {
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    *tally.entry((name, status)).or_default() += 1;
}

/// Asks on one connection again and again, on a new one when it is closed. Counts the status.
async fn ask(server: SocketAddr, name: &'static str, bytes: Arc<str>, tally: Tally) {
    loop {
        if let Ok(mut stream) = TcpStream::connect(server).await {
            while stream.write_all(bytes.as_bytes()).await.is_ok() {
                let mut answer = vec![0; 1 << 16];
                let Ok(size @ 1..) = stream.read(&mut answer).await else {
                    break;
                };
                let head = String::from_utf8_lossy(answer.get(..size.min(16)).unwrap_or_default());
                let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
                count(&tally, name, status.unwrap_or(0));
                if status.is_none_or(|status: u16| status == 200) {
                    // Of a large document the rest is not read: a new connection.
                    break;
                }
            }
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// Holds connections on which this was said and nothing is read.
async fn hold(server: SocketAddr, name: &'static str, bytes: Arc<str>, tally: Tally) {
    let mut held = VecDeque::new();
    loop {
        if held.len() == HELD {
            held.pop_front();
        }
        if let Ok(mut stream) = TcpStream::connect(server).await {
            let said = stream.write_all(bytes.as_bytes()).await;
            count(&tally, name, u16::from(said.is_err()));
            held.push_back(stream);
        }
        sleep(Duration::from_millis(2)).await;
    }
}

/// Goes away as soon as it has asked, with a reset.
async fn leave(server: SocketAddr, bytes: String, tally: Tally) {
    loop {
        if let Ok(mut stream) = TcpStream::connect(server).await {
            let _ = stream.write_all(bytes.as_bytes()).await;
            sleep(Duration::from_millis(5)).await;
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            count(&tally, "gone", 0);
        }
        sleep(Duration::from_millis(5)).await;
    }
}
