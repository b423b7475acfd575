//! Those who attack.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::{TOKEN, block_on};
use crate::hostile;
use crate::linux::Failure;

/// Connections that an attacker holds of each kind.
const HELD: usize = 1500;

/// One way to attack.
#[derive(Clone, Copy)]
enum Way {
    /// Asks again and again, so many at once: the URI, a token, more header lines. In a URI and in
    /// what is said on connections, `{target}` stands for a host that answers, `{silent}` for an
    /// address that nobody has, `{n}` for another number each time, `{long}` for 12,000 letters.
    Ask(&'static str, &'static str, &'static str, usize),
    /// Holds connections on which this was said, and reads nothing.
    Hold(&'static str),
    /// Asks for something dear and goes away with a reset.
    Leave,
    /// Says that it sends no more as soon as it has asked for health.
    HalfClose,
    /// Packets that nobody decent sends.
    Hostile,
    /// Datagrams that seem to come from the port that is probed, to all ports.
    Forged,
    /// Signals to read files again.
    HangUp,
}

const DEAR: &str = "/traceroute?target={silent}&traceroute-queries=100&e2e-queries=100&timeout=10000&max-ttl=255\
                    &reverse-dns=true";
const BROWSER: &str = "User-Agent: Mozilla/5.0\r\nOrigin: http://evil.example\r\n";
const STREAM: &str = "GET /traceroute/stream?target={target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\
                      Authorization: Bearer siege\r\n\r\n";

/// Each answer has 100 kB.
const DESCRIPTIONS: &str =
    "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\nGET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n";

/// All of them, by name.
const WAYS: [(&str, Way); 25] = [
    (
        "no token, long URLs",
        Way::Ask("/traceroute?target={long}", "", "", 8),
    ),
    (
        "wrong token",
        Way::Ask("/traceroute?target={target}", "wrong", "", 8),
    ),
    ("the dearest requests", Way::Ask(DEAR, TOKEN, "", 40)),
    (
        "dear tables with details",
        Way::Ask(
            "/traceroute?target={silent}&traceroute-queries=100&timeout=10000&max-ttl=255&format=table&details=true",
            TOKEN,
            "",
            20,
        ),
    ),
    (
        "many packets",
        Way::Ask(
            "/traceroute?target={target}&traceroute-queries=100&e2e-queries=100&e2e-interval=1&delay=0",
            TOKEN,
            "",
            40,
        ),
    ),
    (
        "long, with few packets",
        Way::Ask(
            "/traceroute?target={silent}&timeout=10000&max-ttl=1&traceroute-queries=100&e2e-queries=0",
            TOKEN,
            "",
            200,
        ),
    ),
    (
        "TCP SACK",
        Way::Ask(
            "/traceroute?target={target}&protocol=tcp&tcp-method=sack&port=80&traceroute-queries=100",
            TOKEN,
            "",
            20,
        ),
    ),
    (
        "port scan",
        Way::Ask(
            "/traceroute?target={target}&protocol=tcp&tcp-method=sack&port={n}&traceroute-queries=1\
             &e2e-queries=0&max-ttl=1&timeout=100",
            TOKEN,
            "",
            40,
        ),
    ),
    (
        "all paths",
        Way::Ask(
            "/paths?target={silent}&max-probes=100000&e2e-queries=100",
            TOKEN,
            "",
            20,
        ),
    ),
    (
        "names that nobody resolves",
        Way::Ask(
            "/traceroute?target=nobody{n}.silent.test&e2e-queries=0",
            TOKEN,
            "",
            300,
        ),
    ),
    (
        "long names of hops",
        Way::Ask(
            "/traceroute?target={target}&traceroute-queries=100&e2e-queries=0&reverse-dns=true",
            TOKEN,
            "",
            40,
        ),
    ),
    (
        "a page of another site",
        Way::Ask("/traceroute?target={target}", TOKEN, BROWSER, 8),
    ),
    (
        "unknown parameters",
        Way::Ask("/traceroute?target={target}&strict=1&{long}={n}", TOKEN, "", 8),
    ),
    ("metrics", Way::Ask("/metrics", TOKEN, "", 8)),
    ("silent connections", Way::Hold("")),
    (
        "half headers",
        Way::Hold("GET / HTTP/1.1\r\nHost: x\r\nX: {long}"),
    ),
    (
        "half bodies",
        Way::Hold("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n{long}"),
    ),
    ("half TLS", Way::Hold("\u{16}\u{3}\u{1}")),
    ("streams that nobody reads", Way::Hold(STREAM)),
    ("answers that nobody reads", Way::Hold(DESCRIPTIONS)),
    ("clients that go away", Way::Leave),
    ("half-closed connections", Way::HalfClose),
    ("hostile packets", Way::Hostile),
    ("forged datagrams", Way::Forged),
    ("SIGHUP", Way::HangUp),
];

/// The names of all ways to attack.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    WAYS.into_iter().map(|(name, _)| name)
}

/// What came of attacks: how often each way had each outcome.
type Tally = Arc<Mutex<BTreeMap<(&'static str, String), u64>>>;

/// Who is attacked, and where from.
#[derive(Clone)]
struct Siege {
    server: SocketAddr,
    /// The server's process.
    process: String,
    target: String,
    silent: String,
    /// All addresses of the server.
    victims: Vec<IpAddr>,
    tally: Tally,
}

/// Attacks for some seconds, in the way of this name or in all, and says what came of it.
///
/// # Errors
/// Arguments that make no sense.
pub(crate) fn attack(arguments: &[String]) -> Result<(), Failure> {
    let [server, process, target, silent, victims, seconds, only] = arguments else {
        return Err("attacks are started by the siege".into());
    };
    let siege = Siege {
        server: server.parse()?,
        process: process.clone(),
        target: target.clone(),
        silent: silent.clone(),
        victims: crate::linux::path(victims)?,
        tally: Tally::default(),
    };
    let raise = Command::new("prlimit")
        .args(["--pid", &std::process::id().to_string(), "--nofile=20000"])
        .status()?;
    if !raise.success() {
        return Err("no more descriptors".into());
    }
    let time = Duration::from_secs(seconds.parse()?);
    block_on(async {
        for (name, way) in WAYS {
            if only.is_empty() || only == name {
                siege.begin(name, way);
            }
        }
        sleep(time).await;
        Ok(())
    })?;
    let tally = siege.tally.lock().unwrap_or_else(PoisonError::into_inner);
    for name in names().filter(|name| only.is_empty() || only == name) {
        let outcomes = tally.iter().filter(|((way, _), _)| *way == name);
        let outcomes: Vec<String> = outcomes
            .map(|((_, outcome), times)| format!("{times} × {outcome}"))
            .collect();
        let outcomes = match outcomes.as_slice() {
            [] => "no answer in this time".to_owned(),
            _ => outcomes.join(", "),
        };
        if only.is_empty() {
            println!("{name}: {outcomes}");
        } else {
            println!("{outcomes}");
        }
    }
    // Threads that still attack end with the process.
    Ok(())
}

impl Siege {
    fn begin(&self, name: &'static str, way: Way) {
        let siege = self.clone();
        match way {
            Way::Ask(uri, token, more, at_once) => {
                for first in 0..at_once {
                    let request = format!(
                        "GET {uri} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n{more}\r\n"
                    );
                    tokio::spawn(self.clone().ask(name, request, first));
                }
            }
            Way::Hold(said) => drop(tokio::spawn(siege.hold(name, said))),
            Way::Leave => {
                for _ in 0..8 {
                    tokio::spawn(self.clone().leave(name));
                }
            }
            Way::HalfClose => {
                for _ in 0..8 {
                    tokio::spawn(self.clone().half_close(name));
                }
            }
            Way::Hostile => {
                // It does not count what it sends.
                self.count(name, "sender", 1);
                thread::spawn(move || hostile::attack(&siege.victims));
            }
            Way::Forged => drop(thread::spawn(move || siege.forge(name))),
            Way::HangUp => drop(thread::spawn(move || siege.hang_up(name))),
        }
    }

    fn count(&self, name: &'static str, outcome: &str, times: u64) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        *tally.entry((name, outcome.to_owned())).or_default() += times;
    }

    /// With what stands in braces filled in.
    fn fill(&self, text: &str, number: usize) -> Vec<u8> {
        let text = text
            .replace("{target}", &self.target)
            .replace("{silent}", &self.silent);
        let text = text.replace("{n}", &(1 + number % 65_535).to_string());
        text.replace("{long}", &"x".repeat(12_000)).into_bytes()
    }

    /// Asks on one connection again and again, on a new one when it is closed.
    async fn ask(self, name: &'static str, request: String, first: usize) {
        let is_new_each_time = request.contains("{n}");
        let mut number = first * 1000;
        let mut bytes = self.fill(&request, number);
        let mut answer = vec![0; 1 << 16];
        loop {
            if let Ok(mut stream) = TcpStream::connect(self.server).await {
                loop {
                    if is_new_each_time {
                        number += 1;
                        bytes = self.fill(&request, number);
                    }
                    if stream.write_all(&bytes).await.is_err() {
                        break;
                    }
                    let Ok(size @ 1..) = stream.read(&mut answer).await else {
                        self.count(name, "closed", 1);
                        break;
                    };
                    let status = status(answer.get(..size).unwrap_or_default());
                    self.count(name, status.as_deref().unwrap_or("no HTTP"), 1);
                    // Of a large document the rest is not read: a new connection.
                    if status.is_none_or(|status| status == "200") {
                        break;
                    }
                }
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    async fn hold(self, name: &'static str, said: &str) {
        let bytes = self.fill(said, 0);
        let mut held = VecDeque::new();
        loop {
            if held.len() == HELD {
                held.pop_front();
            }
            if let Ok(mut stream) = TcpStream::connect(self.server).await {
                let said = stream.write_all(&bytes).await;
                self.count(name, if said.is_ok() { "opened" } else { "closed" }, 1);
                held.push_back(stream);
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    async fn leave(self, name: &'static str) {
        let request =
            format!("GET {DEAR} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
        let bytes = self.fill(&request, 0);
        loop {
            if let Ok(mut stream) = TcpStream::connect(self.server).await {
                let _ = stream.write_all(&bytes).await;
                sleep(Duration::from_millis(5)).await;
                let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                self.count(name, "gone", 1);
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn half_close(self, name: &'static str) {
        loop {
            if let Ok(mut stream) = TcpStream::connect(self.server).await {
                let mut answer = Vec::new();
                let asked = async {
                    stream
                        .write_all(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                        .await?;
                    stream.shutdown().await?;
                    stream.read_to_end(&mut answer).await
                };
                let _ = asked.await;
                self.count(name, status(&answer).as_deref().unwrap_or("no answer"), 1);
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// As fast as one thread can, from the port that is probed.
    fn forge(&self, name: &'static str) {
        let sockets: Vec<UdpSocket> = self
            .victims
            .iter()
            .filter_map(|victim| {
                let any: IpAddr = match victim {
                    IpAddr::V4(_) => [0; 4].into(),
                    IpAddr::V6(_) => [0; 16].into(),
                };
                UdpSocket::bind((any, 33434)).ok()
            })
            .collect();
        let mut sent = 0;
        let mut told = Instant::now();
        loop {
            for port in 32_768..61_000 {
                for (socket, victim) in sockets.iter().zip(&self.victims) {
                    let data = [0x55; 32];
                    sent += u64::from(socket.send_to(&data, (*victim, port)).is_ok());
                }
            }
            if told.elapsed() > Duration::from_millis(500) {
                self.count(name, "sent", std::mem::take(&mut sent));
                told = Instant::now();
            }
        }
    }

    fn hang_up(&self, name: &'static str) {
        loop {
            let told = Command::new("kill").args(["-HUP", &self.process]).status();
            let is_told = told.is_ok_and(|status| status.success());
            self.count(name, if is_told { "sent" } else { "no such process" }, 1);
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The status of the answer that begins so.
fn status(answer: &[u8]) -> Option<String> {
    let head = String::from_utf8_lossy(answer.get(..answer.len().min(16))?);
    let status = head.strip_prefix("HTTP/1.1 ")?.split(' ').next()?;
    Some(status.to_owned())
}
