use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;

use crate::{Chain, Error, Node, Result, Service, not_run};

/// Where the name server of [`Node::serve_names`] listens, in its own node.
const SERVER: ([u8; 4], u16) = ([127, 0, 0, 53], 53);

/// Length of a message's header (RFC 1035 section 4.1.1), and of what follows the name in a
/// question (section 4.1.2).
const HEADER: usize = 12;
const TYPE_AND_CLASS: usize = 4;

/// The types of records that questions are for (RFC 1035 section 3.2.2, RFC 3596 section 2.1).
const A: u16 = 1;
const PTR: u16 = 12;
const AAAA: u16 = 28;

/// What a question is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// The names of an address.
    Ptr,
    /// Any other type, by its number.
    Other(u16),
}

/// What a name server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameAnswer {
    /// These addresses; those of the other family are not in the answer.
    Addresses(Vec<IpAddr>),
    /// These names.
    Names(Vec<String>),
    /// No record but a code (RFC 1035 section 4.1.1): 2 for a failure, 3 when there is no such
    /// name, 5 for a refusal.
    Code(u8),
    /// Nothing at all.
    Silence,
}

impl Node {
    /// Answers questions for the names of `known` addresses (PTR, RFC 1035 section 3.3.12), and
    /// denies all other names, at the address that programs of [`Node::command_with_names`] ask.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub fn serve_names(&self, known: &[(IpAddr, &[&str])]) -> Result<Service> {
        let known: Vec<(String, Vec<String>)> = known
            .iter()
            .map(|(address, names)| {
                let names = names.iter().map(|name| (*name).to_owned());
                (reverse_name(*address), names.collect())
            })
            .collect();
        self.answer_names(move |asked, _| {
            let names = known.iter().find(|(name, _)| name == asked);
            names.map_or(NameAnswer::Code(3), |(_, names)| NameAnswer::Names(names.clone()))
        })
    }

    /// Answers questions over UDP with what `answer` says of a name, in lower case, and a type of
    /// record; at the address that programs of [`Node::command_with_names`] ask.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub fn answer_names(
        &self,
        answer: impl Fn(&str, Record) -> NameAnswer + Send + 'static,
    ) -> Result<Service> {
        self.answer_udp(SocketAddr::from(SERVER), move |query| respond(query, &answer))
    }

    /// A program for which `/etc/hosts` has these lines, and for which the only name server is that
    /// of [`Node::serve_names`], whether it is there or not. The files are made in `folder`.
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
        self.command_with_files(
            program,
            &[("hosts", hosts), ("resolv.conf", &configuration)],
            folder,
        )
    }

    /// A program for which files of `/etc` that exist have these names and contents. The files are
    /// made in `folder`: what is written to them later, the program sees.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn command_with_files(
        &self,
        program: impl AsRef<OsStr>,
        files: &[(&str, &str)],
        folder: &Path,
    ) -> Result<Command> {
        let write = |(name, text): &(&str, &str)| fs::write(folder.join(name), text);
        fs::create_dir_all(folder)
            .and_then(|()| files.iter().try_for_each(write))
            .map_err(Error::system(format!("write to {}", folder.display())))?;
        let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
        // The mounts vanish with the program: nobody else is in its mount namespace.
        let script =
            "for file in $1; do mount --bind \"$0/$file\" \"/etc/$file\" || exit; done; shift; exec \"$@\"";
        let mut command = self.command("unshare");
        command.args(["--mount", "sh", "-c", script]);
        command.arg(folder).arg(names.join(" ")).arg(program);
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
    /// [`Node::serve_names`] for the client: the first hop is `first.v4.test`, the target
    /// `one.v4.test` and `two.v4.test`, and with `v6` likewise. Hops between them have no name.
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

/// RFC 1035 section 4.1: header, the question again, and the records.
fn respond(query: &[u8], answer: impl Fn(&str, Record) -> NameAnswer) -> Option<Vec<u8>> {
    let question = query.get(HEADER..)?;
    let name_length = question.iter().position(|byte| *byte == 0)? + 1;
    let question = question.get(..name_length + TYPE_AND_CLASS)?;
    let kind = u16::from_be_bytes([question[name_length], question[name_length + 1]]);
    let record = match kind {
        A => Record::A,
        PTR => Record::Ptr,
        AAAA => Record::Aaaa,
        other => Record::Other(other),
    };
    let (code, contents) = match answer(&decode_name(&question[..name_length])?, record) {
        NameAnswer::Addresses(addresses) => {
            (0, addresses.iter().filter_map(|a| content(*a, record)).collect())
        }
        NameAnswer::Names(names) => (0, names.iter().map(|name| encode_name(name)).collect()),
        NameAnswer::Code(code) => (code, Vec::new()),
        NameAnswer::Silence => return None,
    };
    let mut message = query[..2].to_vec();
    // Response, recursion desired and available.
    message.extend([0x81, 0x80 | code, 0, 1, 0, contents.len() as u8, 0, 0, 0, 0]);
    message.extend(question);
    for content in contents {
        // The name asked for, at offset 12; the type asked for, class IN, to be kept for a minute.
        message.extend([0xc0, HEADER as u8]);
        message.extend(kind.to_be_bytes());
        message.extend([0, 1, 0, 0, 0, 60, 0, content.len() as u8]);
        message.extend(content);
    }
    Some(message)
}

fn content(address: IpAddr, record: Record) -> Option<Vec<u8>> {
    match (address, record) {
        (IpAddr::V4(v4), Record::A) => Some(v4.octets().to_vec()),
        (IpAddr::V6(v6), Record::Aaaa) => Some(v6.octets().to_vec()),
        _ => None,
    }
}

/// A name in the form of RFC 1035 section 3.1, without compression, as text in lower case.
fn decode_name(mut bytes: &[u8]) -> Option<String> {
    let mut labels = Vec::new();
    loop {
        let (length, rest) = bytes.split_first()?;
        if *length == 0 {
            return Some(labels.join("."));
        }
        let (label, rest) = rest.split_at_checked(usize::from(*length))?;
        labels.push(String::from_utf8_lossy(label).to_lowercase());
        bytes = rest;
    }
}
