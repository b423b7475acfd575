//! The soak test itself.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::{hostile, siege};
use datadog_traceroute::document::Document;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use traceroute_bench::{Server, Usage, get, start_server};
use traceroute_testbed::Lab;

pub(super) type Failure = Box<dyn Error + Send + Sync>;

pub(super) fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument =
        |index: usize, default: &str| arguments.get(index).map_or(default, String::as_str).to_owned();
    match argument(0, "").as_str() {
        "worker" => {
            let address = argument(2, "").parse()?;
            let (seconds, clients) = (argument(3, "").parse()?, argument(4, "").parse()?);
            let paths = [path(&argument(5, ""))?, path(&argument(6, ""))?];
            return work(&argument(1, ""), address, seconds, clients, paths);
        }
        "hostile" => return hostile::attack(&path(&argument(1, ""))?),
        "siege" => return siege::all(&argument(1, ""), argument(2, "900").parse()?),
        "attacks" => return siege::each(&argument(1, ""), argument(2, "20").parse()?, &argument(3, "")),
        "attack" => return siege::attack(arguments.get(1..).unwrap_or_default()),
        "patient" => {
            return siege::trace(
                argument(1, "").parse()?,
                &argument(2, ""),
                argument(3, "").parse()?,
            );
        }
        "health" => return siege::health(argument(1, "").parse()?, argument(2, "").parse()?),
        _ => {}
    }
    let program = arguments
        .first()
        .ok_or("usage: server_soak SERVER [SECONDS [CLIENTS]]")?;
    let lab = Lab::new()?;
    let chain = lab.chain(6)?;
    let _service = chain.target.listen_tcp(80)?;
    // A hop that never answers, so that timeouts happen too.
    chain.routers.get(3).ok_or("too short")?.silence()?;
    let Server {
        process: mut server,
        address,
        log,
    } = start_server(&chain.client, program, &["--header-timeout", "3s"])?;
    let reader = std::thread::spawn(move || bad_lines(log.map_while(Result::ok)));
    let victims = format!("{},{}", chain.client_v4(), chain.client_v6());
    // Strangers on the path, and the target itself, whose address nothing needs to forge.
    let mut enemies = Vec::new();
    for node in [chain.routers.first().ok_or("no router")?, &chain.target] {
        let mut enemy = node.command(std::env::current_exe()?);
        enemies.push(enemy.args(["hostile", &victims]).spawn()?);
    }
    let v4: Vec<String> = chain.hop_addresses_v4().iter().map(ToString::to_string).collect();
    let v6: Vec<String> = chain.hop_addresses_v6().iter().map(ToString::to_string).collect();
    let status = chain
        .client
        .command(std::env::current_exe()?)
        .args(["worker", &server.id().to_string(), &address])
        .args([&argument(1, "3600"), &argument(2, "8")])
        .args([&v4.join(","), &v6.join(",")])
        .status()?;
    for mut enemy in enemies {
        if let Some(status) = enemy.try_wait()? {
            return Err(format!("who sends hostile packets has ended: {status}").into());
        }
        enemy.kill()?;
        enemy.wait()?;
    }
    Server::stop(&mut server)?;
    let bad = reader.join().map_err(|_| "the log's reader panicked")?;
    if bad > 0 {
        return Err(format!("{bad} lines of the log tell of errors").into());
    }
    std::process::exit(status.code().unwrap_or(1));
}

/// Shows and counts the lines that tell of a panic or an error.
pub(super) fn bad_lines(log: impl Iterator<Item = String>) -> usize {
    let bad = log.filter(|line| line.contains("panicked") || line.contains(" ERROR "));
    bad.inspect(|line| eprintln!("server: {line}")).count()
}

pub(super) fn path(list: &str) -> Result<Vec<IpAddr>, Failure> {
    Ok(list.split(',').map(str::parse).collect::<Result<_, _>>()?)
}

/// What clients share.
struct Soak {
    address: SocketAddr,
    paths: [Vec<IpAddr>; 2],
    over: AtomicBool,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    failures: Mutex<Vec<String>>,
}

impl Soak {
    fn count(&self, what: &'static str) {
        *lock(&self.counts).entry(what).or_default() += 1;
    }

    fn fail(&self, what: String) {
        let mut failures = lock(&self.failures);
        if failures.len() < 20 {
            eprintln!("FAILURE {what}");
        }
        failures.push(what);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn work(
    server: &str,
    address: SocketAddr,
    seconds: u64,
    clients: u64,
    paths: [Vec<IpAddr>; 2],
) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let soak = Arc::new(Soak {
        address,
        paths,
        over: AtomicBool::new(false),
        counts: Mutex::default(),
        failures: Mutex::default(),
    });
    runtime.block_on(async {
        let mut tasks = Vec::new();
        for client in 0..clients {
            tasks.push(tokio::spawn(client_loop(Arc::clone(&soak), client)));
        }
        let samples = watch(server, seconds).await?;
        soak.over.store(true, Ordering::Relaxed);
        for task in tasks {
            task.await?;
        }
        // Slow clients are closed within their timeout, and what was cancelled is gone.
        tokio::time::sleep(Duration::from_secs(6)).await;
        conclude(&soak, server, &samples).await
    })
}

/// Samples the server until time is up.
async fn watch(server: &str, seconds: u64) -> Result<Vec<Usage>, Failure> {
    let started = Instant::now();
    let mut samples = Vec::new();
    let step = Duration::from_secs((seconds / 60).clamp(1, 60));
    while started.elapsed() < Duration::from_secs(seconds) {
        tokio::time::sleep(step).await;
        let usage = Usage::of(server)?;
        println!(
            "{:6.0} s  {:.1} MB  {} descriptors  {:.1} s CPU",
            started.elapsed().as_secs_f64(),
            usage.resident as f64 / 1024.0,
            usage.descriptors,
            usage.cpu.as_secs_f64()
        );
        samples.push(usage);
    }
    Ok(samples)
}

async fn client_loop(soak: Arc<Soak>, client: u64) {
    let mut step = client;
    while !soak.over.load(Ordering::Relaxed) {
        step += 1;
        // What is done, and to whom and how it is traced, go through all pairs: 9 and 10 have no
        // common factor.
        let result = match step % 9 {
            0 => go_away(&soak, step).await,
            1 => bad_request(&soak, step).await,
            2 => slow_client(&soak, step).await,
            3 => stream(&soak, step).await,
            4 => many(&soak, step).await,
            5 => slow_reader(&soak, step).await,
            _ => trace(&soak, step).await,
        };
        if let Err(error) = result {
            soak.fail(format!("step {step}: {error}"));
        }
    }
}

const PROTOCOLS: [&str; 5] = [
    "protocol=udp",
    "protocol=icmp",
    "protocol=tcp&port=80",
    "protocol=tcp&port=80&tcp-method=sack",
    "protocol=TCP&tcp-method=prefer_sack",
];

impl Soak {
    /// The target with a protocol, as part of a query, and the addresses on its path. The fourth
    /// hop is silent.
    fn target(&self, step: u64) -> (String, &[IpAddr]) {
        let path = &self.paths[(step / 5 % 2) as usize];
        let target = path.last().map_or(String::new(), ToString::to_string);
        let index = (step % 5) as usize;
        // `prefer_sack` to a port that is open, and to one that is not.
        let port = match index {
            4 => ["&port=80", "&port=81"][(step / 10 % 2) as usize],
            _ => "",
        };
        (format!("target={target}&{}{port}", PROTOCOLS[index]), path)
    }

    async fn get(&self, uri: &str) -> std::io::Result<(u16, String)> {
        get(self.address, uri, "").await
    }

    async fn send(&self, uri: &str) -> std::io::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.address).await?;
        let request = format!("GET {uri} HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        Ok(stream)
    }
}

/// A whole request, whose path must be right.
async fn trace(soak: &Soak, step: u64) -> Result<(), Failure> {
    let (target, path) = soak.target(step);
    let query = "traceroute-queries=2&e2e-queries=2&timeout=500&max-ttl=10";
    let (status, body) = soak.get(&format!("/traceroute?{target}&{query}")).await?;
    if status != 200 {
        return Err(format!("{target}: {status} {body}").into());
    }
    let report: Document = serde_json::from_str(&body)?;
    for run in &report.traceroute.runs {
        let right = run.hops.len() == path.len()
            && run
                .hops
                .iter()
                .zip(path)
                .enumerate()
                .all(|(index, (hop, expected))| hop.ip_address == (index != 3).then_some(*expected));
        if !right {
            let found: Vec<_> = run.hops.iter().map(|hop| hop.ip_address).collect();
            return Err(format!("{target}: wrong path {found:?}").into());
        }
    }
    if report.e2e_probe.packets_received != 2 {
        return Err(format!("{target}: lost an end-to-end probe: {:?}", report.e2e_probe.rtts).into());
    }
    soak.count("traces");
    Ok(())
}

/// A client that goes away at any time.
async fn go_away(soak: &Soak, step: u64) -> Result<(), Failure> {
    let (target, _) = soak.target(step);
    let path = ["/traceroute", "/traceroute/stream"][(step / 18 % 2) as usize];
    let uri = format!("{path}?{target}&traceroute-queries=20");
    let mut stream = soak.send(&uri).await?;
    if (step / 36).is_multiple_of(2) {
        // Behind which the end of the connection must be seen.
        stream.write_all(b"\r\nX").await?;
    }
    tokio::time::sleep(Duration::from_millis(step * 37 % 400)).await;
    if (step / 9).is_multiple_of(3) {
        // With a reset instead of an ordinary end.
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    }
    drop(stream);
    soak.count("cancelled");
    Ok(())
}

/// Requests that must be refused.
async fn bad_request(soak: &Soak, step: u64) -> Result<(), Failure> {
    let bad = [
        ("/traceroute", 400),
        ("/traceroute?target=a%20b", 400),
        ("/traceroute?target=10.0.6.2&max-ttl=0", 400),
        ("/traceroute?target=10.0.6.2&protocol=sctp", 400),
        ("/traceroute?target=10.0.6.2&e2e-queries=-1", 400),
        ("/nowhere", 404),
        ("/traceroute?target=no.such.invalid&e2e-queries=0", 500),
    ];
    let (uri, expected) = bad[(step / 9 % bad.len() as u64) as usize];
    let (status, body) = soak.get(uri).await?;
    if status != expected {
        return Err(format!("{uri}: {status} {body}").into());
    }
    soak.count("refused");
    Ok(())
}

/// Half a request, or garbage; the server closes in time.
async fn slow_client(soak: &Soak, step: u64) -> Result<(), Failure> {
    let halves: [&[u8]; 5] = [
        b"",
        b"GET /traceroute?target=10.",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /health HTTP/1.1\r\nHost: x\r\n",
        b"GET /traceroute?target=10.0.6.2 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n",
    ];
    let mut stream = TcpStream::connect(soak.address).await?;
    stream.write_all(halves[(step / 9 % 5) as usize]).await?;
    let mut rest = Vec::new();
    let reading = stream.read_to_end(&mut rest);
    tokio::time::timeout(Duration::from_secs(30), reading)
        .await
        .map_err(|_| "a slow client is never closed")??;
    soak.count("slow clients closed");
    Ok(())
}

async fn stream(soak: &Soak, step: u64) -> Result<(), Failure> {
    let (target, _) = soak.target(step);
    let query = "traceroute-queries=1&e2e-queries=1&timeout=500&max-ttl=10";
    let (status, body) = soak.get(&format!("/traceroute/stream?{target}&{query}")).await?;
    if status != 200 || body.matches("event: report\n").count() != 1 {
        return Err(format!("stream: {status} {body}").into());
    }
    soak.count("streams");
    Ok(())
}

/// A client that reads a stream byte by byte at first; it gets the document all the same.
async fn slow_reader(soak: &Soak, step: u64) -> Result<(), Failure> {
    let (target, _) = soak.target(step);
    let query = "traceroute-queries=20&e2e-queries=1&timeout=500&max-ttl=10";
    let mut stream = soak.send(&format!("/traceroute/stream?{target}&{query}")).await?;
    for _ in 0..20 {
        stream.read_u8().await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await?;
    if rest.matches("event: report\n").count() != 1 {
        return Err(format!("slow reader: {rest}").into());
    }
    soak.count("slow readers");
    Ok(())
}

/// Fifty at once.
async fn many(soak: &Soak, step: u64) -> Result<(), Failure> {
    let (target, _) = soak.target(step);
    let uri = format!("/traceroute?{target}&traceroute-queries=1&e2e-queries=0&timeout=500");
    let answers = futures_util::future::join_all((0..50).map(|_| soak.get(&uri))).await;
    for answer in answers {
        let (status, body) = answer?;
        if status != 200 {
            return Err(format!("{uri}: {status} {body}").into());
        }
    }
    soak.count("bursts of 50");
    Ok(())
}

async fn conclude(soak: &Soak, server: &str, samples: &[Usage]) -> Result<(), Failure> {
    println!("{:?}", lock(&soak.counts));
    let (_, metrics) = soak.get("/metrics").await?;
    for line in metrics.lines().filter(|line| line.starts_with("traceroute_")) {
        if !line.contains("_bucket") {
            println!("  {line}");
        }
    }
    for (name, right) in [
        ("traceroute_traces_in_flight", 0),
        ("traceroute_reserved_ports", 0),
        // This question itself.
        ("traceroute_http_requests_in_flight", 1),
    ] {
        if !metrics.lines().any(|line| line == format!("{name} {right}")) {
            soak.fail(format!("{name} is not {right}"));
        }
    }
    for name in [
        "traceroute_traces_cancelled_total",
        "traceroute_replies_ignored_total{reason=\"malformed\"}",
        "traceroute_replies_ignored_total{reason=\"bad_checksum\"}",
        "traceroute_replies_ignored_total{reason=\"foreign_quote\"}",
    ] {
        let counts = |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.trim() != "0");
        if !metrics.lines().any(counts) {
            soak.fail(format!("{name} is 0: what it counts has not been tried"));
        }
    }
    let end = Usage::of(server)?;
    println!("descriptors at the end: {}", end.descriptors);
    if end.descriptors > 40 {
        soak.fail(format!("{} descriptors are left", end.descriptors));
    }
    if let (Some(half), Some(last)) = (samples.get(samples.len() / 2), samples.last()) {
        println!(
            "memory: {:.1} MB at half time, {:.1} MB at the end",
            half.resident as f64 / 1024.0,
            last.resident as f64 / 1024.0
        );
        if last.resident > half.resident + half.resident / 10 + 4096 {
            soak.fail("memory grows".to_owned());
        }
    }
    match lock(&soak.failures).len() {
        0 => Ok(()),
        count => Err(format!("{count} failures").into()),
    }
}
