//! Names, forwards and backwards, with an `/etc/hosts` and `/etc/resolv.conf` of their own.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use nix::pty::{Winsize, openpty};
use traceroute_testbed::{Chain, Node, Result, not_run, require_lab};

use crate::program::{Outcome, PROGRAM, finish, hops, paths};

const DNS_SERVER: &str = "127.0.0.53";

/// The program where `/etc/hosts` has these lines and the only name server is [`DNS_SERVER`].
fn program_with_names(node: &Node, test: &str, hosts: &str, arguments: &str) -> Command {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(test);
    fs::create_dir_all(&directory).unwrap();
    let files = [
        ("hosts", hosts.to_owned()),
        (
            "resolv.conf",
            format!("nameserver {DNS_SERVER}\noptions timeout:1 attempts:1\n"),
        ),
    ];
    // The mounts vanish with the program: nobody else is in its mount namespace.
    let mut script = String::new();
    for (name, text) in files {
        fs::write(directory.join(name), text).unwrap();
        let file = directory.join(name);
        write!(script, "mount --bind '{}' /etc/{name} && ", file.display()).unwrap();
    }
    script += "exec \"$0\" \"$@\"";
    let mut command = node.command("unshare");
    command.args(["--mount", "sh", "-c", &script, PROGRAM]);
    command.args(arguments.split_whitespace());
    command
}

fn can_mount(node: &Node) -> bool {
    let mut probe = node.command("unshare");
    probe.args([
        "--mount",
        "sh",
        "-c",
        "mount --bind /etc/hosts /etc/hosts && test -e /etc/resolv.conf",
    ]);
    let output = probe.output().unwrap();
    if !output.status.success() {
        not_run(&format!(
            "`unshare --mount` does not work here: {}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    output.status.success()
}

#[test]
fn names_have_addresses_of_the_family_wanted() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(2)?;
    if !can_mount(&chain.client) {
        return Ok(());
    }
    let [v4, v6] = paths(&chain);
    // IPv6 first, and a second address that is not to be used.
    let hosts = format!(
        "127.0.0.1 localhost\n::1 localhost\n{} both\n{} both\n10.9.9.9 both\n{} only4\n",
        v6.target, v4.target, v4.target
    );
    let look_up = |arguments: &str| -> Outcome {
        finish(&mut program_with_names(
            &chain.client,
            "names_have_addresses",
            &hosts,
            &format!("-q 1 -Q 1 {arguments}"),
        ))
    };
    let found = |arguments: &str| {
        let report = look_up(arguments).report();
        assert_eq!(
            Some(report.hostname.as_str()),
            arguments.split_whitespace().last()
        );
        hops(&report)
    };
    let loopback = |address: &str| vec![Some(address.parse::<IpAddr>().unwrap())];
    assert_eq!(found("localhost"), loopback("127.0.0.1"));
    assert_eq!(found("--ipv6 localhost"), loopback("::1"));
    assert_eq!(found("both"), v4.hops);
    assert_eq!(found("--ipv6 both"), v6.hops);
    assert_eq!(found("both:33500"), v4.hops);
    // A literal address decides by itself.
    assert_eq!(found(&format!("--ipv6 {}", v4.target)), v4.hops);

    let outcome = look_up("--ipv6 only4");
    let failure = outcome.failure();
    assert!(failure.contains("only4") && failure.contains("IPv6"), "{failure}");
    let outcome = look_up("no-such-host.invalid");
    let failure = outcome.failure();
    assert!(failure.contains("no-such-host.invalid"), "{failure}");
    Ok(())
}

/// Answers questions for the names of `known` addresses (PTR, RFC 1035 section 3.3.12), and denies all other names.
fn serve_dns(node: &Node, known: Vec<(IpAddr, Vec<&'static str>)>) {
    let socket = node
        .udp_socket(format!("{DNS_SERVER}:53").parse().unwrap())
        .unwrap();
    let known: Vec<_> = known
        .into_iter()
        .map(|(address, names)| (encode_name(&reverse_name(address)), names))
        .collect();
    // Ends with the test's process.
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut query) {
            let _ = socket.send_to(&dns_answer(&query[..length], &known), client);
        }
    });
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
fn dns_answer(query: &[u8], known: &[(Vec<u8>, Vec<&str>)]) -> Vec<u8> {
    let question = &query[12..];
    let name_length = question.iter().position(|byte| *byte == 0).unwrap() + 1;
    let asked = question[..name_length].to_ascii_lowercase();
    let names = known
        .iter()
        .find(|(name, _)| *name == asked)
        .map(|(_, names)| names);
    let mut answer = query[..2].to_vec();
    // Response, recursion desired and available; code 3 when there is no such name.
    answer.extend([0x81, if names.is_some() { 0x80 } else { 0x83 }]);
    answer.extend([0, 1, 0, names.map_or(0, Vec::len) as u8, 0, 0, 0, 0]);
    answer.extend(&question[..name_length + 4]);
    for name in names.into_iter().flatten() {
        let name = encode_name(name);
        // The name asked for, at offset 12; type PTR, class IN, to be kept for a minute.
        answer.extend([0xc0, 12, 0, 12, 0, 1, 0, 0, 0, 60, 0, name.len() as u8]);
        answer.extend(name);
    }
    answer
}

fn serve_names_of(chain: &Chain) {
    let (v4, v6) = (chain.hop_addresses_v4(), chain.hop_addresses_v6());
    // The second hop has no name.
    serve_dns(
        &chain.client,
        vec![
            (v4[0].into(), vec!["first.v4.test"]),
            (v4[2].into(), vec!["one.v4.test", "two.v4.test"]),
            (v6[0].into(), vec!["first.v6.test"]),
            (v6[2].into(), vec!["one.v6.test", "two.v6.test"]),
        ],
    );
}

#[test]
fn hops_and_destination_have_all_their_names() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(3)?;
    if !can_mount(&chain.client) {
        return Ok(());
    }
    serve_names_of(&chain);
    for (path, family) in paths(&chain).iter().zip(["v4", "v6"]) {
        let arguments = format!("-q 2 -Q 1 --reverse-dns {}", path.target);
        let mut program = program_with_names(&chain.client, "hops_have_names", "", &arguments);
        let report = finish(&mut program).report();
        let both = ["one", "two"].map(|name| format!("{name}.{family}.test"));
        for run in &report.runs {
            assert_eq!(run.hops[0].names, [format!("first.{family}.test")]);
            assert!(run.hops[1].names.is_empty(), "{run:?}");
            for names in [&run.hops[2].names, &run.names] {
                let mut names = names.clone();
                names.sort();
                assert_eq!(names, both);
            }
        }
        assert_eq!(report.runs.len(), 2);
    }
    Ok(())
}

/// What a stranger's name server says must not get at the terminal.
#[test]
fn hostile_names_are_text_in_all_formats() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(2)?;
    if !can_mount(&chain.client) {
        return Ok(());
    }
    let hop = chain.hop_addresses_v4()[0];
    let hostile = "\x1b]0;owned\x07\x1b[2J\r\n\u{9b}31m \u{202e}\".test";
    serve_dns(&chain.client, vec![(hop.into(), vec![hostile])]);
    for format in ["json", "table", "wide", "csv", "dot"] {
        let arguments = format!("-q 1 -Q 0 --reverse-dns --format {format} {}", chain.target_v4());
        let outcome = finish(&mut program_with_names(
            &chain.client,
            "hostile_names",
            "",
            &arguments,
        ));
        assert_eq!((outcome.status, outcome.stderr.as_str()), (Some(0), ""));
        let shown = outcome.stdout.replace('\n', "");
        assert!(
            shown.is_ascii() && !shown.contains(|c: char| c.is_control()),
            "{shown:?}"
        );
        // JSON and graphs escape the backslashes of the escapes.
        assert!(
            shown.replace(r"\\", r"\").contains(r"\027]0"),
            "{format}: {shown:?}"
        );
    }
    Ok(())
}

/// What the program writes to a terminal with this many columns.
fn shown_on_terminal(mut program: Command, columns: u16) -> String {
    let size = Winsize {
        ws_row: 24,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let pty = openpty(&size, None).unwrap();
    program
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(pty.slave);
    let mut child = program.spawn().unwrap();
    // Or the terminal would stay open.
    drop(program);
    let mut shown = String::new();
    // Ends with EIO, which is Linux's way to say that nobody has the other end open any more.
    let _ = File::from(pty.master).read_to_string(&mut shown);
    assert!(child.wait().unwrap().success(), "{shown}");
    shown.replace("\r\n", "\n")
}

#[test]
fn names_stand_where_a_terminal_has_room_for_them() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(2)?;
    if !can_mount(&chain.client) {
        return Ok(());
    }
    let hop = chain.hop_addresses_v4()[0];
    let name = "a-router-with-a-long-name.somewhere.test";
    serve_dns(&chain.client, vec![(hop.into(), vec![name])]);
    for format in ["table", "wide"] {
        let shown = |columns| {
            let arguments = format!("-q 4 -Q 0 --reverse-dns --format {format} {}", chain.target_v4());
            let program = program_with_names(&chain.client, "names_on_terminals", "", &arguments);
            shown_on_terminal(program, columns)
        };
        let narrow = shown(80);
        assert!(narrow.contains(&format!("\n  1  {hop} ")), "{narrow}");
        assert!(narrow.contains(&format!("\n       {name}\n  2  ")), "{narrow}");
        assert!(narrow.lines().all(|line| line.len() <= 80), "{narrow}");
        let wide = shown(200);
        assert!(wide.contains(&format!("\n  1  {name} ({hop})  ")), "{wide}");
    }
    Ok(())
}

/// Nobody listens on the name server's port.
#[test]
fn without_a_name_server_hops_have_no_names() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(1)?;
    if !can_mount(&chain.client) {
        return Ok(());
    }
    let arguments = format!("-q 1 -Q 0 --reverse-dns {}", chain.target_v4());
    let mut program = program_with_names(&chain.client, "without_a_name_server", "", &arguments);
    let report = finish(&mut program).report();
    assert_eq!(hops(&report), [Some(chain.target_v4().into())]);
    assert!(report.runs[0].names.is_empty());
    Ok(())
}
