//! What strangers may try against the program, over real sockets.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use socket2::Socket;
use support::{PATIENCE, PROGRAM, Server, TCP, finish, get_from, read, socket_path};
use traceroute_testbed::{Chain, Lab, NameAnswer, Node, Record, require_lab};

/// Held by tests that look at the clock while a server is under attack.
static ALONE: Mutex<()> = Mutex::new(());

/// The status of a request with these header lines.
fn status(server: &Server, uri: &str, headers: &str) -> u16 {
    let mut stream = server.connect();
    write!(stream, "GET {uri} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n").unwrap();
    finish(stream).0
}

/// A trace that takes long and holds its connection.
const LONG: &str = "/traceroute?target=127.0.0.1&traceroute-queries=1&e2e-queries=1000";

/// `browser.rs` has every form of them.
#[test]
fn a_web_page_of_another_site_sends_no_probes() {
    let Some(lab) = require_lab() else { return };
    let node = lab.node("host").unwrap();
    let server = Server::start(&node, &["--allowed-hosts", "trace.example"]);
    let trace = "/traceroute?target=127.0.0.1&traceroute-queries=1&e2e-queries=0";
    let firefox = "User-Agent: Mozilla/5.0\r\n";
    for (headers, expected) in [
        ("Host: evil.example\r\n".to_owned(), 200),
        (format!("Host: evil.example\r\n{firefox}"), 403),
        (
            "Host: localhost\r\nSec-Fetch-Site: cross-site\r\n".to_owned(),
            403,
        ),
        (format!("Host: trace.example\r\n{firefox}"), 200),
        (format!("Host: 127.0.0.1\r\n{firefox}"), 200),
        (String::new(), 400),
        ("Host: a\r\nHost: b\r\n".to_owned(), 400),
    ] {
        assert_eq!(status(&server, trace, &headers), expected, "{headers}");
    }
    assert_eq!(server.metric("traceroute_traces_started_total"), 3);
}

#[test]
fn who_serves_everybody_is_told_how_not_to() {
    let Some(lab) = require_lab() else { return };
    let node = lab.node("host").unwrap();
    let token = Path::new(env!("CARGO_TARGET_TMPDIR")).join("told_token");
    fs::write(&token, "secret").unwrap();
    for (flags, is_told) in [
        (&["--addr", ":0"][..], true),
        (&["--addr", "127.0.0.1:0"], false),
        (&["--addr", ":0", "--token-file", token.to_str().unwrap()], false),
    ] {
        let server = Server::start(&node, flags);
        let advice = "everybody who reaches the port may trace; use --addr 127.0.0.1:3765";
        let told = server.beginning.iter().any(|line| line.contains(advice));
        assert_eq!(told, is_told, "{flags:?}: {:?}", server.beginning);
    }
    fs::remove_file(token).unwrap();
}

#[test]
fn a_client_sends_so_many_requests_a_minute() {
    let Some(lab) = require_lab() else { return };
    let node = lab.node("host").unwrap();
    let server = Server::start(&node, &["--max-requests-per-minute", "5"]);
    let trace = "/traceroute?target=127.0.0.1&traceroute-queries=1&e2e-queries=0";
    let statuses: Vec<u16> = (0..7).map(|_| server.get(trace).0).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429]);
    assert_eq!(server.get("/health").0, 200);
    let metrics = server.get("/metrics").1;
    assert!(
        metrics.contains("refused_total{scarce=\"own_rate\"} 2"),
        "{metrics}"
    );
}

/// 6,000 ports of a host were scanned in 1.2 seconds.
#[test]
fn a_client_scans_no_ports() {
    let Some(lab) = require_lab() else { return };
    let node = lab.node("host").unwrap();
    let server = Server::start(&node, &["--max-ports", "5"]);
    let scan = |protocol: &str, target: &str| {
        let query = "traceroute-queries=1&e2e-queries=0&max-ttl=1&timeout=100";
        let uri = |port| format!("/traceroute?target={target}&port={port}&{protocol}&{query}");
        let statuses = (1..=8).map(|port| server.get(&uri(port)).0);
        statuses.filter(|status| *status == 429).count()
    };
    assert_eq!(scan("protocol=udp", "127.0.0.1"), 3);
    assert_eq!(scan("protocol=tcp&tcp-method=sack", "127.0.0.1"), 3);
    assert_eq!(scan("protocol=icmp", "127.0.0.1"), 0, "ICMP has no ports");
    assert_eq!(scan("protocol=tcp&tcp-method=sack", "127.0.0.2"), 3);
    let metrics = server.get("/metrics").1;
    assert!(
        metrics.contains("refused_total{scarce=\"own_ports\"} 9"),
        "{metrics}"
    );
}

#[test]
fn silent_connections_keep_nobody_out() {
    let Some(lab) = require_lab() else { return };
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let node = lab.node("host").unwrap();
    let server = Server::start(&node, &["--max-connections", "16"]);
    let begun = Instant::now();
    let silent: Vec<TcpStream> = (0..200)
        .map(|index| {
            let mut stream = server.connect();
            let sent = [
                "",
                "GET /hea",
                "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
            ];
            stream.write_all(sent[index % 3].as_bytes()).unwrap();
            stream
        })
        .collect();
    let (status, body) = server.get("/traceroute?target=127.0.0.1&traceroute-queries=1&e2e-queries=0");
    assert_eq!(status, 200, "{body}");
    // They would be closed by themselves after half a minute.
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert!(server.metric("traceroute_connections") <= 16);
    drop(silent);
}

/// Requests without sense cost up to 2 ms each. A connection was served as many in a row as had
/// arrived: thousands on 20 connections kept `/health` waiting for a second.
#[test]
fn requests_in_a_row_on_some_connections_leave_turns_for_others() {
    let Some(lab) = require_lab() else { return };
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let node = lab.node("host").unwrap();
    let server = Server::start(&node, &[]);
    let request = format!(
        "GET /traceroute?{} HTTP/1.1\r\nHost: a\r\n\r\n",
        ";&".repeat(7500)
    );
    let busy: Vec<TcpStream> = (0..20).map(|_| server.connect()).collect();
    for stream in &busy {
        let (mut sending, mut receiving) = (stream.try_clone().unwrap(), stream.try_clone().unwrap());
        let flood = request.repeat(4);
        thread::spawn(move || while sending.write_all(flood.as_bytes()).is_ok() {});
        thread::spawn(move || while receiving.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {});
    }
    // Counted rather than timed, as a busy machine is slow for everybody.
    let answered = || {
        let (status, metrics) = server.get("/metrics");
        assert_eq!(status, 200, "{metrics}");
        let lines = metrics
            .lines()
            .filter(|line| line.starts_with("traceroute_http_requests_total{"));
        lines
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum::<u64>()
    };
    answered();
    let before = answered();
    for _ in 0..29 {
        answered();
    }
    // 30 with turns, 125 without.
    let meanwhile = (answered() - before) / 30;
    for stream in busy {
        stream.shutdown(Shutdown::Both).unwrap();
    }
    assert!(
        (2..90).contains(&meanwhile),
        "{meanwhile} others are answered before one is"
    );
}

/// A host that has a network in which nobody answers, 198.51.100.0/24, and what drops the packets.
fn host_beside_silence(lab: &Lab) -> (Node, Node) {
    let (host, sink) = (lab.node("host").unwrap(), lab.node("sink").unwrap());
    lab.link(&host, &["10.9.0.1/24"], &sink, &["10.9.0.2/24"])
        .unwrap();
    host.route_via("198.51.100.0/24", "10.9.0.2").unwrap();
    (host, sink)
}

/// A server with so many files at most, and these name servers.
fn server_with(node: &Node, files: u32, servers: &[&str]) -> Server {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("files_{files}_{}", servers.len()));
    let servers = format!("nameserver {}\n", servers.join("\nnameserver "));
    let names = [("hosts", ""), ("resolv.conf", servers.as_str())];
    let mut command = node.command_with_files("prlimit", &names, &folder).unwrap();
    command.args([&format!("--nofile={files}"), PROGRAM, "--addr", "127.0.0.1:0"]);
    Server::spawn(node, command)
}

fn assert_health(server: &Server, what: &str) {
    let started = Instant::now();
    assert_eq!(server.get("/health").0, 200, "{what}");
    assert!(started.elapsed() < Duration::from_secs(15), "{what}");
}

/// Silent connections, ports of traces and sockets to name servers took the last open file: nobody
/// could connect then.
#[test]
fn few_open_files_keep_nobody_out() {
    let Some(lab) = require_lab() else { return };
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (node, _sink) = host_beside_silence(&lab);
    let asked: Arc<Mutex<Vec<(String, Record)>>> = Arc::default();
    let questions = Arc::clone(&asked);
    let _silent = node.answer_names(move |name, record| {
        questions.lock().unwrap().push((name.to_owned(), record));
        NameAnswer::Silence
    });
    let is_asked_again = || {
        let asked = asked.lock().unwrap();
        asked
            .iter()
            .any(|question| asked.iter().filter(|other| *other == question).count() > 1)
    };
    for files in [64, 256, 1024] {
        let server = server_with(&node, files, &["127.0.0.53", "198.51.100.53", "198.51.100.54"]);
        let told = |line: &String| line.contains("files may be open");
        assert!(server.beginning.iter().any(told), "{:?}", server.beginning);
        let silent: Vec<TcpStream> = (0..300).map(|_| server.connect()).collect();
        assert_health(&server, &format!("{files}: connections"));
        drop(silent);

        let trace =
            "/traceroute?target=198.51.100.1&traceroute-queries=2000&e2e-queries=0&max-ttl=3&timeout=60000";
        let busy: Vec<TcpStream> = (0..3).map(|_| server.begin(trace)).collect();
        // All that may go on.
        server.wait_for("traceroute_traces_in_flight", |traces| traces > 0);
        let mut before = 0;
        server.wait_for("traceroute_traces_in_flight", |traces| {
            std::mem::replace(&mut before, traces) == traces
        });
        assert_health(&server, &format!("{files}: traces"));
        drop(busy);
        server.wait_for("traceroute_traces_in_flight", |traces| traces == 0);

        asked.lock().unwrap().clear();
        let names: Vec<TcpStream> = (0..150)
            .map(|index| {
                server.begin(&format!(
                    "/traceroute?target=name{index}.example&traceroute-queries=1&e2e-queries=0"
                ))
            })
            .collect();
        let deadline = Instant::now() + PATIENCE;
        // By then all three servers have been asked.
        while !is_asked_again() {
            assert!(Instant::now() < deadline, "no server was asked again");
            assert_health(&server, &format!("{files}: names"));
        }
        assert_health(&server, &format!("{files}: names"));
        drop(names);
    }
}

/// One request took all ports of the host, those for questions to name servers included.
#[test]
fn few_ports_keep_nobody_out() {
    let Some(lab) = require_lab() else { return };
    let (node, _sink) = host_beside_silence(&lab);
    node.sysctl("net.ipv4.ip_local_port_range", "40000 40399")
        .unwrap();
    let localhost = || NameAnswer::Addresses(vec!["127.0.0.1".parse().unwrap()]);
    let _names = node.answer_names(move |_, _| localhost()).unwrap();
    let server = server_with(&node, 4096, &["127.0.0.53"]);
    let told = |line: &String| line.contains("only 400 ports may be used: at most 300 traces");
    assert!(server.beginning.iter().any(told), "{:?}", server.beginning);
    let many = "/traceroute?target=198.51.100.1&traceroute-queries=2000&e2e-queries=0&max-ttl=1&timeout=9000";
    let busy = server.begin(many);
    // Two thirds of the room.
    server.wait_for("traceroute_traces_in_flight", |traces| traces == 200);
    let (status, body) = server.get("/traceroute?target=one.example&traceroute-queries=1&e2e-queries=0");
    assert_eq!(status, 200, "{body}");
    drop(busy);
}

/// `ulimit -f`: the kernel ends who writes beyond, unless that is ignored.
#[test]
fn a_log_file_that_may_not_grow_ends_nothing() {
    let Some(lab) = require_lab() else { return };
    let node = lab.node("host").unwrap();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("full_log");
    let script = "exec prlimit --fsize=4096 \"$0\" --addr 127.0.0.1:3765 2> \"$1\"";
    let mut command = node.command("sh");
    command.args(["-c", script, PROGRAM]).arg(&path);
    let mut server = Server::spawn_silent(&node, command, 3765);
    for _ in 0..50 {
        assert_eq!(server.get("/health").0, 200);
    }
    // It is written by a thread of its own.
    let until = Instant::now() + PATIENCE;
    while fs::metadata(&path).unwrap().len() < 4096 {
        assert!(Instant::now() < until, "it is not written");
        thread::sleep(Duration::from_millis(10));
    }
    server.signal("-TERM");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn busy_connections_leave_a_reserve_for_health_and_the_unix_socket() {
    let Some(lab) = require_lab() else { return };
    let node = lab.node("host").unwrap();
    let path = socket_path("reserve");
    let flags = ["--max-connections", "8", "--unix-socket", path.to_str().unwrap()];
    let server = Server::start(&node, &flags);
    server.wait_for_log("listening path=");
    // All that one address may have.
    let busy: Vec<TcpStream> = (0..4).map(|_| server.begin(LONG)).collect();
    let in_flight = || {
        get_from(&path, "/metrics")
            .1
            .contains("traceroute_http_requests_in_flight 5")
    };
    while !in_flight() {}
    let refused = (503, "Too many connections at once: try again later\n".to_owned());
    for _ in 0..200 {
        assert_eq!(server.get("/health").0, 200);
        assert_eq!(server.get(LONG), refused);
    }
    assert_eq!(get_from(&path, "/health").0, 200);
    drop(busy);
    server.wait_for("traceroute_http_requests_in_flight", |requests| requests == 1);
    drop(server);
    let _ = fs::remove_file(path);
}

/// RFC 9112 §9.6.
#[test]
fn who_only_sends_no_more_is_answered() {
    let Some(lab) = require_lab() else { return };
    let chain = lab.chain(2).unwrap();
    let server = Server::start(&chain.client, &[]);
    let ask = |uri: &str| {
        let client = server.begin(uri);
        client.shutdown(Shutdown::Write).unwrap();
        client
    };
    for _ in 0..100 {
        assert_eq!(finish(ask("/health")).0, 200);
    }
    // Longer than it takes to see whether the client has gone.
    let query = "traceroute-queries=1&e2e-queries=4&timeout=1000&max-ttl=4";
    let (status, body) = finish(ask(&format!("/traceroute?target={}&{query}", chain.target_v4())));
    assert_eq!((status, read(&body).e2e.sent), (200, 4));
    let metrics = server.get("/metrics").1;
    assert!(!metrics.contains("status=\"499\""), "{metrics}");
}

/// What the kernel keeps for one connection at most, of answers and of requests: bytes.
const SEND_MEMORY: usize = 112 << 10;
const RECEIVE_MEMORY: usize = 48 << 10;

/// A server that another node reaches.
fn reachable_server(chain: &Chain, flags: &[&str]) -> Server {
    let mut command = chain.client.command(PROGRAM);
    let address = format!("{}:0", chain.client_v4());
    command.args(["--addr", &address]).args(flags);
    Server::spawn(&chain.client, command)
}

/// A client whose own kernel takes about this many bytes before it reads.
fn connect_with_buffer(server: &Server, node: &Node, bytes: usize) -> TcpStream {
    let socket = Socket::from(node.socket(TCP.0, TCP.1, 0).unwrap());
    socket.set_recv_buffer_size(bytes).unwrap();
    socket.connect(&server.address.into()).unwrap();
    socket.into()
}

/// The sockets of the server that have a peer, closed ones too, and the kernel's memory for them.
fn socket_memory(server: &Server) -> (usize, usize) {
    let port = format!(":{}", server.address.port());
    let mut command = server.node.command("ss");
    command.args([
        "-tmnHO",
        "state",
        "connected",
        "exclude",
        "time-wait",
        "sport",
        "=",
        &port,
    ]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let output = String::from_utf8(output.stdout).unwrap();
    let of_socket = |line: &str| {
        let (_, memory) = line.split_once("skmem:(").unwrap();
        let (memory, _) = memory.split_once(')').unwrap();
        // Received, allocated ahead, to be sent, and received while the socket was in use.
        let parts = memory.split(',').filter_map(|part| {
            let name = part.trim_end_matches(|letter: char| letter.is_ascii_digit());
            let counts = matches!(name, "r" | "f" | "w" | "bl");
            counts.then(|| part[name.len()..].parse::<usize>().unwrap())
        });
        parts.sum::<usize>()
    };
    (output.lines().count(), output.lines().map(of_socket).sum())
}

/// Waits until so many bytes at least are kept for each socket.
fn filled_memory(server: &Server, sockets: usize, each: usize) -> usize {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (_, memory) = socket_memory(server);
        if memory >= sockets * each {
            return memory;
        }
        assert!(Instant::now() < deadline, "{memory} bytes for {sockets} sockets");
    }
}

/// The kernel kept up to 4 MB for each client that stopped reading, and 128 kB of what each sent
/// behind a trace. It counts as the service's memory.
#[test]
fn clients_leave_little_in_the_kernel() {
    let Some(lab) = require_lab() else { return };
    let chain = lab.chain(1).unwrap();
    let server = reachable_server(&chain, &[]);
    let description = "GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100);
    let readers = (0..40).map(|_| {
        let mut stream = connect_with_buffer(&server, &chain.target, 1 << 20);
        let description = description.clone();
        // The more one has read, the more the kernel would keep ready for it.
        thread::spawn(move || {
            stream.write_all(description.as_bytes()).unwrap();
            stream.read_exact(&mut vec![0; 2_000_000]).unwrap();
            stream
        })
    });
    let readers: Vec<_> = readers.collect();
    let readers: Vec<TcpStream> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
    let memory = filled_memory(&server, readers.len(), 16 << 10);
    assert!(memory < readers.len() * SEND_MEMORY, "{memory}");
    assert_eq!(server.get("/health").0, 200);
    drop(readers);

    let server = reachable_server(&chain, &[]);
    let senders = (0..100).map(|_| {
        let mut stream = server.begin_from(&chain.target, LONG);
        stream.set_nonblocking(true).unwrap();
        while stream.write(&[b'x'; 4096]).is_ok() {}
        stream
    });
    let senders: Vec<TcpStream> = senders.collect();
    let memory = filled_memory(&server, senders.len(), 16 << 10);
    assert!(memory < senders.len() * RECEIVE_MEMORY, "{memory}");
    assert_eq!(server.get("/health").0, 200);
}

/// The kernel keeps the rest of an answer after the connection has ended. It was no connection then,
/// and anybody could have thousands.
#[test]
fn answers_that_nobody_takes_count_as_connections() {
    let Some(lab) = require_lab() else { return };
    let chain = lab.chain(1).unwrap();
    let server = reachable_server(&chain, &["--max-connections", "16"]);
    let clients = (0..100).map(|_| {
        let mut stream = connect_with_buffer(&server, &chain.target, 2048);
        let request = "GET /openapi.json HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        // Nearly all: the server has nothing left to write.
        stream.read_exact(&mut vec![0; 90_000]).unwrap();
        stream
    });
    let clients: Vec<TcpStream> = clients.collect();
    let begun = Instant::now();
    while socket_memory(&server).0 > 16 {
        // The kernel gives up after half a minute by itself.
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{:?}",
            socket_memory(&server)
        );
    }
    assert_eq!(server.get("/health").0, 200);
    drop(clients);
    // Who takes everything has everything.
    let (status, body) = server.get("/openapi.json");
    assert!(status == 200 && body.ends_with("}\n"));
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let Some(lab) = require_lab() else { return };
    let node = lab.node("host").unwrap();
    let mut server = Server::start_with_unread_log(&node, 3765);
    let padding = "x".repeat(2000);
    for _ in 0..300 {
        let query = format!("target=127.0.0.1&traceroute-queries=1&e2e-queries=0&{padding}=1");
        assert_eq!(server.get(&format!("/traceroute?{query}")).0, 200);
    }
    server.signal("-TERM");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_flood_without_a_token_does_not_fill_the_log() {
    let Some(lab) = require_lab() else { return };
    let node = lab.node("host").unwrap();
    let mut command = node.command(support::PROGRAM);
    command
        .args(["--addr", "127.0.0.1:0"])
        .env("DATADOG_TRACEROUTE_TOKEN", "secret");
    let begun = Instant::now();
    let mut server = Server::spawn(&node, command);
    let mut stream = server.connect();
    let target = "x".repeat(8000);
    let request = format!("GET /traceroute?target={target} HTTP/1.1\r\nHost: x\r\n\r\n");
    for _ in 0..2000 {
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 4096];
        let size = stream.read(&mut answer).unwrap();
        assert!(answer[..size].starts_with(b"HTTP/1.1 401"));
    }
    server.signal("-TERM");
    assert_eq!(server.wait().code(), Some(0));
    let lines: Vec<String> = server.log.iter().collect();
    assert!(lines.iter().all(|line| line.len() < 1000), "a line is too long");
    let told = lines.iter().filter(|line| line.contains("status=401")).count();
    // A hundred a second.
    let seconds = 1 + begun.elapsed().as_secs() as usize;
    assert!(told <= 100 * seconds, "{told} lines in {seconds} s");
}

/// Warnings, failures and requests that probe nothing had all their lines, some of 15 kB.
#[test]
fn no_flood_of_cheap_requests_fills_the_log() {
    let Some(lab) = require_lab() else { return };
    let node = lab.node("host").unwrap();
    if !node.can_have_names() {
        return;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cheap_requests");
    let command = node.command_with_names(support::PROGRAM, "::1 six.test\n", &folder);
    let mut command = command.unwrap();
    command.args(["--addr", "127.0.0.1:0"]);
    let begun = Instant::now();
    let mut server = Server::spawn(&node, command);
    let long = "x".repeat(8000);
    let odd: Vec<String> = (0..12)
        .map(|index| format!("{index}{}=1", "%C3%BC".repeat(40)))
        .collect();
    let nothing = "traceroute-queries=0&e2e-queries=0";
    let kinds = [
        (format!("/traceroute?{}", odd.join("&")), 400),
        (format!("/paths?target=127.0.0.1&max-ttl=0&ipv6={long}"), 400),
        // Fails without a question to a name server.
        ("/traceroute?target=127.1".to_owned(), 500),
        ("/traceroute/stream?target=127.1".to_owned(), 500),
        ("/probe?target=127.1".to_owned(), 200),
        (format!("/traceroute?target=127.0.0.1&{nothing}"), 200),
        (format!("/traceroute/stream?target=127.0.0.1&{nothing}"), 200),
        // The library warns of a name without IPv4 address.
        (format!("/traceroute?target=six.test&{nothing}"), 200),
    ];
    let each = 300;
    for (uri, status) in &kinds {
        for _ in 0..each {
            assert_eq!(server.get(uri).0, *status, "{uri}");
        }
    }
    let missing = server.metric("traceroute_log_lines_missing_total{reason=\"too_many\"}");
    server.signal("-TERM");
    assert_eq!(server.wait().code(), Some(0));
    let lines: Vec<String> = server.log.iter().collect();
    let longest = lines.iter().max_by_key(|line| line.len()).unwrap();
    let beginning: String = longest.chars().take(500).collect();
    assert!(longest.len() < 2500, "{} bytes: {beginning}", longest.len());
    // A hundred a second, one that tells how many are missing, and those of the end.
    let seconds = 2 + begun.elapsed().as_secs() as usize;
    assert!(
        lines.len() <= 101 * seconds + 10,
        "{} lines in {seconds} s",
        lines.len()
    );
    let requests = kinds.len() * each;
    assert!(
        missing as usize + lines.len() >= requests,
        "{missing} are missing, {} are there",
        lines.len()
    );
}

#[test]
fn hangup_reads_the_token_again_and_ends_nothing() {
    let Some(lab) = require_lab() else { return };
    let node = lab.node("host").unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = folder.join("reloaded_token");
    // Whoever the server becomes may read it.
    fs::write(&path, "first").unwrap();
    let server = Server::start(&node, &["--token-file", path.to_str().unwrap()]);
    assert!(
        server
            .beginning
            .iter()
            .any(|line| line.contains("may read the token"))
    );
    let with = |token: &str| format!("Host: x\r\nAuthorization: Bearer {token}\r\n");
    assert_eq!(status(&server, "/metrics", &with("first")), 200);
    fs::write(&path, "second").unwrap();
    server.signal("-HUP");
    server.wait_for_log("read the token again");
    assert_eq!(status(&server, "/metrics", &with("first")), 401);
    assert_eq!(status(&server, "/metrics", &with("second")), 200);
    fs::write(&path, "").unwrap();
    server.signal("-HUP");
    server.wait_for_log("the token is what it was");
    assert_eq!(status(&server, "/metrics", &with("second")), 200);
    fs::remove_file(path).unwrap();
}

#[test]
fn hangup_reads_tokens_with_names_again_and_the_log_has_names_only() {
    let Some(lab) = require_lab() else { return };
    let node = lab.node("host").unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = folder.join("reloaded_tokens.toml");
    // Of "first" and "second".
    let [first, second] = [
        "a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e",
        "16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4",
    ];
    let file = |hash: &str| format!("[tokens.alice]\nsha256 = \"{hash}\"\n");
    fs::write(&path, file(first)).unwrap();
    let server = Server::start(&node, &["--tokens-file", path.to_str().unwrap()]);
    let told = |text: &str| server.beginning.iter().any(|line| line.contains(text));
    assert!(told("may read the tokens in") && !told("everybody who reaches the port"));
    let with = |token: &str| format!("Host: x\r\nAuthorization: Bearer {token}\r\n");
    let trace = "/traceroute?target=127.0.0.1&traceroute-queries=1&e2e-queries=0";
    assert_eq!(status(&server, trace, &with("first")), 200);
    let line = server.wait_for_log("status=200");
    assert!(line.contains("token=alice") && !line.contains("first"), "{line}");
    fs::write(&path, file(second)).unwrap();
    server.signal("-HUP");
    server.wait_for_log("read the tokens again");
    assert_eq!(status(&server, trace, &with("first")), 401);
    assert_eq!(status(&server, trace, &with("second")), 200);
    // A pipe would hold up whoever opens it.
    fs::remove_file(&path).unwrap();
    let made = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    server.signal("-HUP");
    let line = server.wait_for_log("the tokens are what they were");
    assert!(line.contains("it is no regular file"), "{line}");
    fs::remove_file(&path).unwrap();
    for wrong in [String::new(), "\0".repeat(300_000), file("second")] {
        fs::write(&path, wrong).unwrap();
        server.signal("-HUP");
        server.wait_for_log("the tokens are what they were");
    }
    assert_eq!(status(&server, trace, &with("second")), 200);
    fs::remove_file(path).unwrap();
}

/// Names are up to 4 kB a hop, whatever the hop is worth.
#[test]
fn names_take_no_more_memory_than_there_is() {
    let Some(lab) = require_lab() else { return };
    let chain = lab.chain(3).unwrap();
    if !chain.client.can_have_names() {
        return;
    }
    let label = "x".repeat(61);
    let long = move |index| format!("{index:02}{}.{label}.{label}.{label}.test", &label[2..]);
    let names: Vec<String> = (0..4).map(long).collect();
    let _names = chain.client.answer_names(move |_, record| match record {
        Record::Ptr => NameAnswer::Names(names.clone()),
        _ => NameAnswer::Code(3),
    });
    let query = "traceroute-queries=100&e2e-queries=0&timeout=1000&reverse-dns=true";
    let uri = format!("/traceroute?target={}&{query}", chain.target_v4());
    let ask = |memory: &str| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("names_{memory}"));
        let mut command = chain
            .client
            .command_with_names(support::PROGRAM, "", &folder)
            .unwrap();
        command.args(["--addr", "127.0.0.1:0", "--max-memory", memory]);
        Server::spawn(&chain.client, command).get(&uri)
    };
    let (status, body) = ask("16M");
    assert_eq!(status, 200);
    assert!(body.len() > 350_000, "{} bytes", body.len());
    let refused = "Not enough memory for one client: ask for less, or try again later\n".to_owned();
    assert_eq!(ask("1700k"), (503, refused));
}

/// A name server may be silent for seconds: 600 such names kept everybody waiting for a minute.
#[test]
fn silent_names_of_one_client_delay_no_other() {
    let Some(lab) = require_lab() else { return };
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let chain = lab.chain(1).unwrap();
    if !chain.client.can_have_names() {
        return;
    }
    let _names = chain.client.answer_names(|name, record| match (name, record) {
        ("friend.test", Record::A) => NameAnswer::Addresses(vec!["127.0.0.2".parse().unwrap()]),
        ("friend.test", _) => NameAnswer::Code(0),
        ("2.0.0.127.in-addr.arpa", Record::Ptr) => NameAnswer::Names(vec!["friend.test".to_owned()]),
        _ => NameAnswer::Silence,
    });
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("silent_names");
    let files = [
        ("hosts", ""),
        ("resolv.conf", "nameserver 127.0.0.53\noptions timeout:30\n"),
    ];
    let command = chain.client.command_with_files(support::PROGRAM, &files, &folder);
    let mut command = command.unwrap();
    command.args(["--addr", &format!("{}:0", chain.client_v4())]);
    let server = Server::spawn(&chain.client, command);
    let query = "traceroute-queries=1&e2e-queries=0&reverse-dns=true";
    let attack = (0..1200).map(|index| {
        // Names of targets, and names of hops.
        let target = match index % 2 {
            0 => format!("silent{index}.test"),
            _ => format!("127.1.{}.{}", index / 200, index % 200 + 1),
        };
        server.begin_from(&chain.target, &format!("/traceroute?target={target}&{query}"))
    });
    let _attack: Vec<TcpStream> = attack.collect();
    server.wait_for("traceroute_http_requests_in_flight", |requests| requests > 500);
    let begun = Instant::now();
    let (status, body) = server.get(&format!("/traceroute?target=friend.test&{query}"));
    let took = begun.elapsed();
    assert_eq!(status, 200, "{body}");
    assert!(body.contains(r#""reverse_dns":["friend.test"]"#), "{body}");
    assert!(took < Duration::from_secs(15), "{took:?}");
    let still = server.metric("traceroute_http_requests_in_flight");
    assert!(still > 500, "the attack was over: {still} requests");
}

/// One request used up everybody's room for a day, and another one sent 400,000 packets a second.
#[test]
fn one_request_leaves_something_for_others() {
    let Some(lab) = require_lab() else { return };
    let node = lab.node("host").unwrap();
    let server = Server::start(&node, &["--max-traces", "64"]);
    let day =
        "/traceroute?target=127.0.0.1&protocol=tcp&port=9&e2e-queries=1000&e2e-interval=60000&max-ttl=1";
    let _day = server.begin(&format!("{day}&timeout=86400000&traceroute-queries=64"));
    server.wait_for("traceroute_traces_in_flight", |traces| traces > 0);
    let (status, body) = server.get(&format!("{day}&timeout=86400000&traceroute-queries=64"));
    assert_eq!(
        (status, &*body),
        (503, "Too many traces at once: try again later\n")
    );
    let (status, body) = server.get("/traceroute?target=127.0.0.1&traceroute-queries=3&e2e-queries=0");
    assert_eq!(status, 200, "{body}");
    let idle = Server::start(&node, &[]);
    let (status, body) = idle.get("/traceroute?target=127.0.0.1&traceroute-queries=65535&e2e-queries=0");
    assert_eq!(status, 503, "{body}");
    assert!(body.starts_with("Too many packets a second"), "{body}");
}
