//! The HTTP service in a node.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStderr, Command, Stdio};

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
    pub fn stop(mut process: Child) -> std::io::Result<()> {
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
