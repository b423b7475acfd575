//! The HTTP service in a node.

use std::io::{BufRead, BufReader, Lines};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Command, Stdio};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use traceroute_testbed::Node;

/// The HTTP service, started by [`start_server`].
pub struct Server {
    /// The process.
    pub process: Child,
    /// Where it listens, as in `127.0.0.1:40000`.
    pub address: String,
    /// The rest of its log. Has to be read, or the service waits.
    pub log: Lines<BufReader<ChildStderr>>,
}

impl Server {
    /// Asks the service to stop, and waits until it has.
    ///
    /// # Errors
    /// It cannot be asked, or ends otherwise than with exit status 0.
    pub fn stop(process: &mut Child) -> std::io::Result<()> {
        let asked = Command::new("kill")
            .args(["-TERM", &process.id().to_string()])
            .status()?;
        if !asked.success() {
            return Err(std::io::Error::other("the server cannot be asked to stop"));
        }
        let status = process.wait()?;
        if status.success() {
            Ok(())
        } else {
            Err(std::io::Error::other(format!(
                "the server did not end well: {status}"
            )))
        }
    }
}

/// Status and body of one request on a connection of its own. `headers` are whole lines.
///
/// # Errors
/// The service cannot be reached, or closes the connection the hard way.
pub async fn get(server: SocketAddr, uri: &str, headers: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(server).await?;
    let request = format!("GET {uri} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.unwrap_or(0), body.to_owned()))
}

/// Starts the HTTP service on any port of the loopback address of a node.
///
/// # Errors
/// The program cannot be started, or ends before it listens.
pub fn start_server(node: &Node, program: &str, arguments: &[&str]) -> std::io::Result<Server> {
    let mut command = node.command(program);
    command.args(["--addr", "127.0.0.1:0"]).args(arguments);
    wait_until_it_listens(command)
}

/// Starts the HTTP service by a command.
///
/// # Errors
/// As [`start_server`].
pub fn wait_until_it_listens(mut command: Command) -> std::io::Result<Server> {
    let mut process = command.stderr(Stdio::piped()).spawn()?;
    let stderr = process.stderr.take();
    let mut log = BufReader::new(stderr.ok_or_else(|| std::io::Error::other("no log"))?).lines();
    for line in log.by_ref() {
        if let Some((_, rest)) = line?.split_once("listening address=\"") {
            let address = rest.split('"').next().unwrap_or_default().to_owned();
            return Ok(Server {
                process,
                address,
                log,
            });
        }
    }
    Err(std::io::Error::other("the server ended"))
}
