//! Runs the programs.

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use traceroute_e2e::Layout;

use crate::judge::Answer;
use crate::matrix::Case;
use crate::place::Place;

/// Whatever is asked for here takes far less.
const STUCK: Duration = Duration::from_mins(2);

/// A program of this build: test executables lie in a folder beside it.
fn program(name: &str) -> PathBuf {
    let mut path = env::current_exe().unwrap();
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    path.push(format!("{name}{}", env::consts::EXE_SUFFIX));
    assert!(
        path.is_file(),
        "there is no {}: build it first, with `cargo build --workspace --bins`, or run `just e2e-matrix`",
        path.display()
    );
    path
}

pub(crate) fn trace_by_command_line(place: &Place, case: &Case) -> Answer {
    let mut command = place.command(&program("datadog-traceroute"));
    command.args(["--proto", case.protocol, "--port", &case.port.to_string()]);
    if let Some(method) = case.method {
        command.args(["--tcp-method", method]);
    }
    command.args(["--traceroute-queries", &Case::RUNS.to_string()]);
    command.args(["--e2e-queries", &Case::PROBES.to_string()]);
    command.args(["--max-ttl", &case.max_ttl().to_string()]);
    command.args(["--timeout", &case.timeout().to_string()]);
    if case.wants_public_ip() {
        command.arg("--source-public-ip");
    }
    command.arg(&case.target);
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let output = end(child.unwrap());
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    match (output.status.code(), stdout.as_str(), stderr.as_str()) {
        (Some(0), _, "") => Answer::Document(stdout, Layout::Indented),
        (Some(1), "", _) => Answer::error(&stderr, "Error: failed to run traceroute: "),
        _ => Answer::Nonsense(format!(
            "{:?}, stdout {stdout:?}, stderr {stderr:?}",
            output.status
        )),
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// Waits for the end of a program, though not for ever. What it prints fits into a pipe.
fn end(mut child: Child) -> Output {
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() && begin.elapsed() < STUCK {
        thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    child.wait_with_output().unwrap()
}

/// A running server.
pub(crate) struct Server<'a> {
    place: &'a Place,
    child: Child,
    address: SocketAddr,
}

impl<'a> Server<'a> {
    pub(crate) fn start(place: &'a Place) -> Self {
        let mut child = place
            .command(&program("datadog-traceroute-server"))
            .args(["--addr", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (found, address) = channel();
        thread::spawn(move || {
            // To the end, so that the server can always write.
            for line in log.lines().map_while(Result::ok) {
                if let Some((_, address)) = line.split_once("listening address=\"") {
                    let _ = found.send(address.trim_end_matches('"').parse::<SocketAddr>());
                }
            }
        });
        Server {
            place,
            child,
            address: address.recv_timeout(STUCK).unwrap().unwrap(),
        }
    }

    pub(crate) fn trace(&self, case: &Case) -> Answer {
        // An IPv6 address in brackets or bare; colons need no escape in a query (RFC 3986 section
        // 3.4).
        let method = case.method.map(|method| format!("&tcp-method={method}"));
        let public_ip = case.wants_public_ip().then_some("&source-public-ip=true");
        let uri = format!(
            "/traceroute?target={}&protocol={}&port={}&traceroute-queries={}&e2e-queries={}&max-ttl={}&timeout={}{}{}",
            case.target,
            case.protocol,
            case.port,
            Case::RUNS,
            Case::PROBES,
            case.max_ttl(),
            case.timeout(),
            method.unwrap_or_default(),
            public_ip.unwrap_or_default()
        );
        let answer = self.get(&uri);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1);
        let kind = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-type"))
            .map(|(_, kind)| kind);
        match (status, kind) {
            (Some("200"), Some("application/json")) => Answer::Document(body.to_owned(), Layout::Compact),
            (Some("500"), Some("text/plain; charset=utf-8")) => Answer::error(body, "Traceroute failed: "),
            _ => Answer::Nonsense(answer),
        }
    }

    fn get(&self, uri: &str) -> String {
        let mut stream = self.place.connect(self.address);
        stream.set_read_timeout(Some(STUCK)).unwrap();
        write!(
            stream,
            "GET {uri} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
