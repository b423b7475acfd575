//! Names, forwards and backwards, with an `/etc/hosts` and `/etc/resolv.conf` of their own.

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::pty::{Winsize, openpty};
use traceroute_testbed::{Node, Result, require_lab};

use crate::program::{Outcome, PROGRAM, finish, hops, paths};

/// The program where `/etc/hosts` has these lines and the only name server is the node's.
fn program_with_names(node: &Node, test: &str, hosts: &str, arguments: &str) -> Command {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    let mut command = node.command_with_names(PROGRAM, hosts, &folder).unwrap();
    command.args(arguments.split_whitespace());
    command
}

#[test]
fn names_have_addresses_of_the_family_wanted() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(2)?;
    if !chain.client.can_have_names() {
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

#[test]
fn hops_and_destination_have_all_their_names() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(3)?;
    if !chain.client.can_have_names() {
        return Ok(());
    }
    let _names = chain.serve_names()?;
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
    if !chain.client.can_have_names() {
        return Ok(());
    }
    let hop = chain.hop_addresses_v4()[0];
    let hostile = "\x1b]0;owned\x07\x1b[2J\r\n\u{9b}31m \u{202e}\".test";
    let _names = chain.client.serve_names(&[(hop.into(), &[hostile])])?;
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
    if !chain.client.can_have_names() {
        return Ok(());
    }
    let hop = chain.hop_addresses_v4()[0];
    let name = "a-router-with-a-long-name.somewhere.test";
    let _names = chain.client.serve_names(&[(hop.into(), &[name])])?;
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
    if !chain.client.can_have_names() {
        return Ok(());
    }
    let arguments = format!("-q 1 -Q 0 --reverse-dns {}", chain.target_v4());
    let mut program = program_with_names(&chain.client, "without_a_name_server", "", &arguments);
    let report = finish(&mut program).report();
    assert_eq!(hops(&report), [Some(chain.target_v4().into())]);
    assert!(report.runs[0].names.is_empty());
    Ok(())
}
