use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;

use crate::{Chain, Error, Node, Result, Service, not_run};

/// Where the name server of [`Node::serve_names`] listens, in its own node.
const SERVER: ([u8; 4], u16) = ([127, 0, 0, 53], 53);

/// Length of a message's header (RFC 1035 section 4.1.1), and of what follows the name in a question (section 4.1.2).
const HEADER: usize = 12;
const TYPE_AND_CLASS: usize = 4;

impl Node {
    /// Answers questions for the names of `known` addresses (PTR, RFC 1035 section 3.3.12), and denies all other names, at the
    /// address that programs of [`Node::command_with_names`] ask.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub fn serve_names(&self, known: &[(IpAddr, &[&str])]) -> Result<Service> {
        let known: Vec<_> = known
            .iter()
            .map(|(address, names)| {
                let names: Vec<_> = names.iter().map(|name| encode_name(name)).collect();
                (encode_name(&reverse_name(*address)), names)
            })
            .collect();
        self.answer_udp(SocketAddr::from(SERVER), move |query| answer(query, &known))
    }

    /// A program for which `/etc/hosts` has these lines, and for which the only name server is that of
    /// [`Node::serve_names`], whether it is there or not. The files are made in `folder`.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn command_with_names(
        &self,
        program: impl AsRef<OsStr>,
        hosts: &str,
        folder: &Path,
    ) -> Result<Command> {
        let [a, b, c, d] = SERVER.0;
        let configuration = format!("nameserver {a}.{b}.{c}.{d}\noptions timeout:1 attempts:1\n");
        let write = |name: &str, text: &str| fs::write(folder.join(name), text);
        fs::create_dir_all(folder)
            .and_then(|()| write("hosts", hosts))
            .and_then(|()| write("resolv.conf", &configuration))
            .map_err(Error::system(format!("write to {}", folder.display())))?;
        // The mounts vanish with the program: nobody else is in its mount namespace.
        let script = "for file in hosts resolv.conf; do mount --bind \"$0/$file\" \"/etc/$file\" || exit; done; exec \"$@\"";
        let mut command = self.command("unshare");
        command.args(["--mount", "sh", "-c", script]);
        command.arg(folder).arg(program);
        Ok(command)
    }

    /// Whether [`Node::command_with_names`] works here; says [`not_run`] where it does not.
    ///
    /// # Panics
    /// As [`not_run`].
    pub fn can_have_names(&self) -> bool {
        let mut probe = self.command("unshare");
        let script = "mount --bind /etc/hosts /etc/hosts && test -e /etc/resolv.conf";
        let problem = match probe.args(["--mount", "sh", "-c", script]).output() {
            Ok(output) if output.status.success() => return true,
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        not_run(&format!("`unshare --mount` does not work here: {problem}"));
        false
    }
}

impl Chain {
    /// [`Node::serve_names`] for the client: the first hop is `first.v4.test`, the target `one.v4.test` and `two.v4.test`, and
    /// with `v6` likewise. Hops between them have no name.
    ///
    /// # Errors
    /// As [`Node::serve_names`].
    pub fn serve_names(&self) -> Result<Service> {
        self.client.serve_names(&[
            (self.hop_addresses_v4()[0].into(), &["first.v4.test"]),
            (self.hop_addresses_v6()[0].into(), &["first.v6.test"]),
            (self.target_v4().into(), &["one.v4.test", "two.v4.test"]),
            (self.target_v6().into(), &["one.v6.test", "two.v6.test"]),
        ])
    }
}

fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(v6) => {
            let digits = format!("{:032x}", v6.to_bits());
            let backwards: String = digits.chars().rev().flat_map(|digit| [digit, '.']).collect();
            backwards + "ip6.arpa"
        }
    }
}

fn encode_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// RFC 1035 section 4.1: header, the question again, and an answer for each name.
fn answer(query: &[u8], known: &[(Vec<u8>, Vec<Vec<u8>>)]) -> Option<Vec<u8>> {
    let question = query.get(HEADER..)?;
    let name_length = question.iter().position(|byte| *byte == 0)? + 1;
    let question = question.get(..name_length + TYPE_AND_CLASS)?;
    let asked = question[..name_length].to_ascii_lowercase();
    let names = known
        .iter()
        .find(|(name, _)| *name == asked)
        .map(|(_, names)| names);
    let mut answer = query[..2].to_vec();
    // Response, recursion desired and available; code 3 when there is no such name.
    answer.extend([0x81, if names.is_some() { 0x80 } else { 0x83 }]);
    answer.extend([0, 1, 0, names.map_or(0, Vec::len) as u8, 0, 0, 0, 0]);
    answer.extend(question);
    for name in names.into_iter().flatten() {
        // The name asked for, at offset 12; type PTR, class IN, to be kept for a minute.
        answer.extend([0xc0, HEADER as u8, 0, 12, 0, 1, 0, 0, 0, 60, 0, name.len() as u8]);
        answer.extend(name);
    }
    Some(answer)
}
