//! A running server, and how to ask it.
#![allow(dead_code, reason = "not every test file needs all of this")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use socket2::Socket;
use traceroute_e2e::{Layout, Report};
use traceroute_testbed::Node;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_datadog-traceroute-server");
/// Longer than anything here should take, on however busy a machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// `AF_INET` and `SOCK_STREAM` of socket(2).
pub(crate) const TCP: (i32, i32) = (2, 1);

/// A running server.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) node: Node,
    pub(crate) address: SocketAddr,
    pub(crate) log: Receiver<String>,
    /// What was logged before it listened.
    pub(crate) beginning: Vec<String>,
}

impl Server {
    pub(crate) fn start(node: &Node, arguments: &[&str]) -> Server {
        let mut command = node.command(PROGRAM);
        command.args(["--addr", "127.0.0.1:0"]).args(arguments);
        Server::spawn(node, command)
    }

    /// Starts at this port, with a pipe for its log that nobody reads, and waits until it listens.
    pub(crate) fn start_with_unread_log(node: &Node, port: u16) -> Server {
        let mut command = node.command(PROGRAM);
        command.args(["--addr", &format!("127.0.0.1:{port}")]);
        Server::spawn_silent(node, command, port)
    }

    /// Starts what becomes the server at this port, as above.
    pub(crate) fn spawn_silent(node: &Node, mut command: Command, port: u16) -> Server {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        let server = Server {
            child,
            node: node.clone(),
            address,
            log: channel().1,
            beginning: Vec::new(),
        };
        let deadline = Instant::now() + PATIENCE;
        let socket = || Socket::from(node.socket(TCP.0, TCP.1, 0).unwrap());
        while socket().connect(&address.into()).is_err() {
            assert!(Instant::now() < deadline, "the server does not listen");
            thread::sleep(Duration::from_millis(10));
        }
        server
    }

    /// Starts whatever becomes the server, and waits until it listens, at a TCP address or else a
    /// Unix socket.
    pub(crate) fn spawn(node: &Node, mut command: Command) -> Server {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, log) = channel();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut server = Server {
            child,
            node: node.clone(),
            address: ([127, 0, 0, 1], 0).into(),
            log,
            beginning: Vec::new(),
        };
        loop {
            let line = server.log.recv_timeout(PATIENCE).unwrap();
            if line.contains("listening") {
                let address = line.split('"').find_map(|part| part.parse().ok());
                server.address = address.unwrap_or(server.address);
                return server;
            }
            server.beginning.push(line);
        }
    }

    pub(crate) fn wait_for_log(&self, text: &str) -> String {
        loop {
            let line = self.log.recv_timeout(PATIENCE).unwrap();
            if line.contains(text) {
                return line;
            }
        }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        self.connect_from(&self.node)
    }

    fn connect_from(&self, node: &Node) -> TcpStream {
        let socket = Socket::from(node.socket(TCP.0, TCP.1, 0).unwrap());
        socket.connect(&self.address.into()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.into()
    }

    /// Sends a request and leaves the answer to be read.
    pub(crate) fn begin(&self, uri: &str) -> TcpStream {
        self.begin_from(&self.node, uri)
    }

    /// The same for a client in another node.
    pub(crate) fn begin_from(&self, node: &Node, uri: &str) -> TcpStream {
        let mut stream = self.connect_from(node);
        write!(
            stream,
            "GET {uri} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        stream
    }

    pub(crate) fn get(&self, uri: &str) -> (u16, String) {
        finish(self.begin(uri))
    }

    pub(crate) fn report(&self, uri: &str) -> Report {
        let (status, body) = self.get(uri);
        assert_eq!(status, 200, "{uri}: {body}");
        read(&body)
    }

    /// The value of a metric without labels.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let (_, text) = self.get("/metrics");
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        line.and_then(|line| line.split(' ').nth(1))
            .unwrap()
            .parse()
            .unwrap()
    }

    /// Asks until the metric is as it should be.
    pub(crate) fn wait_for(&self, name: &str, mut right: impl FnMut(u64) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !right(self.metric(name)) {
            assert!(Instant::now() < deadline, "{name} is {}", self.metric(name));
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([name, &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the server does not end");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status and body of an answer.
pub(crate) fn finish(mut stream: impl Read) -> (u16, String) {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).unwrap_or("0").parse().unwrap();
    (status, body.to_owned())
}

/// A document in which every field is as the contract says.
pub(crate) fn read(body: &str) -> Report {
    let report = Report::read(body, Layout::Compact).unwrap();
    report.check_hop_count().unwrap();
    report
}

pub(crate) fn socket_path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("traceroute-server-{name}-{}.sock", std::process::id()))
}

pub(crate) fn get_from(path: &Path, uri: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(path).unwrap();
    write!(
        stream,
        "GET {uri} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    finish(stream)
}
