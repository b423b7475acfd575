//! Names, forwards and backwards, with an `/etc/hosts` and `/etc/resolv.conf` of their own.

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::pty::{Winsize, openpty};
use traceroute_testbed::{NameAnswer, Node, Record, Result, require_lab};

use crate::program::{Outcome, PROGRAM, finish, hops, paths, start};

/// The program where `/etc/hosts` has these lines and the only name server is the node's.
fn program_with_names(node: &Node, test: &str, hosts: &str, arguments: &str) -> Command {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    let mut command = node.command_with_names(PROGRAM, hosts, &folder).unwrap();
    command.args(arguments.split_whitespace());
    command
}

/// A name server that says nothing would be waited for half a minute; the request ends when its
/// time is over.
#[test]
fn a_silent_name_server_does_not_delay_the_end() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let node = lab.node("host")?;
    if !node.can_have_names() {
        return Ok(());
    }
    let _silent = node.udp_socket(([127, 0, 0, 53], 53).into())?;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("silent_name_server");
    let mut command = node.command_with_names(PROGRAM, "", &folder)?;
    let configuration = "nameserver 127.0.0.53\noptions timeout:30 attempts:3\n";
    std::fs::write(folder.join("resolv.conf"), configuration).unwrap();
    let outcome = finish(command.args(["-m", "2", "--timeout", "200", "nowhere.test"]));
    // The program's own start, on a busy machine, included.
    assert!(outcome.elapsed <= Duration::from_secs(20), "{outcome:?}");
    assert!(
        outcome.failure().contains("within the request's time"),
        "{outcome:?}"
    );
    Ok(())
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
    let _names = chain
        .client
        .serve_names(&[(hop.into(), &[hostile, "good-one"])])?;
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
        // It is no host name, so it is none at all.
        assert!(!shown.contains("owned") && !shown.contains(".test"), "{shown:?}");
        assert!(shown.contains("good-one"), "{shown:?}");
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

/// With the patience of resolv.conf(5): who waits for an answer that never comes waits 5 s at
/// least.
const PATIENT: &str = "nameserver 127.0.0.53\n";
const IMPATIENT: &str = "nameserver 127.0.0.53\noptions timeout:1 attempts:1\n";

/// Name service switches: one that needs files and DNS only, and one for which the program asks the
/// C library (where that has such a switch: a static program asks the name servers itself).
const SWITCHES: [&str; 2] = ["hosts: files dns\n", "hosts: files mymachines dns\n"];

/// The program with these files in `/etc`.
fn program_with_files(node: &Node, test: &str, files: &[(&str, &str)], arguments: &str) -> Command {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    let mut command = node.command_with_files(PROGRAM, files, &folder).unwrap();
    command.args(arguments.split_whitespace());
    command
}

#[test]
fn one_kind_of_address_is_enough_whatever_the_server_says_of_the_other() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(1)?;
    if !chain.client.can_have_names() {
        return Ok(());
    }
    let [v4, v6] = paths(&chain);
    let (target4, target6) = (v4.target, v6.target);
    let _names = chain.client.answer_names(move |name, record| {
        let odd = match name.split('.').nth(1) {
            Some("nxdomain") => NameAnswer::Code(3),
            Some("servfail") => NameAnswer::Code(2),
            Some("refused") => NameAnswer::Code(5),
            Some("none") => NameAnswer::Addresses(Vec::new()),
            _ => NameAnswer::Silence,
        };
        match (name.split('.').next(), record) {
            (Some("only4"), Record::A) => NameAnswer::Addresses(vec![target4]),
            (Some("only6"), Record::Aaaa) => NameAnswer::Addresses(vec![target6]),
            _ => odd,
        }
    })?;
    for (number, switch) in SWITCHES.into_iter().enumerate() {
        let look_up = |test: &str, resolv_conf: &str, arguments: &str| {
            let files = [
                ("hosts", ""),
                ("resolv.conf", resolv_conf),
                ("nsswitch.conf", switch),
            ];
            let arguments = format!("-q 1 -Q 0 {arguments}");
            finish(&mut program_with_files(&chain.client, test, &files, &arguments))
        };
        for odd in ["nxdomain", "servfail", "refused", "none", "silence"] {
            let folder = format!("one_kind_{number}_{odd}");
            for (arguments, path) in [
                (format!("only4.{odd}.test"), &v4),
                (format!("--ipv6 only6.{odd}.test"), &v6),
                (format!("only6.{odd}.test"), &v6),
            ] {
                let outcome = look_up(&folder, PATIENT, &arguments);
                let (report, warnings) = outcome.report_and_warnings();
                assert_eq!(hops(&report), path.hops, "{switch} {arguments}");
                let unasked = format!(
                    "no IPv4 address of {arguments} was found: traced with IPv6, {}",
                    path.target
                );
                let expected: &[&str] = if arguments.starts_with("only6") {
                    &[&unasked]
                } else {
                    &[]
                };
                assert_eq!(warnings, expected, "{switch} {arguments}");
                assert!(
                    outcome.elapsed.as_secs() < 15,
                    "{switch} {arguments}: {:?}",
                    outcome.elapsed
                );
            }
        }
        for (flag, name, family) in [
            ("--ipv6", "only4.none.test", "IPv6"),
            ("-4", "only6.none.test", "IPv4"),
        ] {
            let outcome = look_up("one_kind_fails", PATIENT, &format!("{flag} {name}"));
            let failure = outcome.failure();
            assert!(failure.contains(name) && failure.contains(family), "{failure}");
        }
        let outcome = look_up("one_kind_fails", IMPATIENT, "neither.silence.test");
        assert!(outcome.failure().contains("neither.silence.test"), "{outcome:?}");
        assert!(outcome.elapsed.as_secs() < 5, "{outcome:?}");
    }
    Ok(())
}

#[test]
fn a_name_in_another_script_is_asked_for_in_ascii_and_shown_as_typed() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(1)?;
    if !chain.client.can_have_names() {
        return Ok(());
    }
    let [v4, _] = paths(&chain);
    let target = v4.target;
    let _names = chain.client.answer_names(move |name, _| match name {
        "xn--bcher-kva.test" => NameAnswer::Addresses(vec![target]),
        _ => NameAnswer::Code(3),
    })?;
    for typed in ["b\u{fc}cher.test", "B\u{dc}CHER.test:33500"] {
        let arguments = format!("-q 1 -Q 0 {typed}");
        let report = finish(&mut program_with_names(
            &chain.client,
            "other_scripts",
            "",
            &arguments,
        ))
        .report();
        assert_eq!(report.hostname, typed);
        assert_eq!(hops(&report), v4.hops);
    }
    Ok(())
}

/// Issues 12 and 14: what is wrong in `resolv.conf` does not keep what is right, and the hosts file
/// keeps its order.
#[test]
fn names_are_found_with_an_odd_resolv_conf_and_in_the_order_of_the_hosts_file() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(2)?;
    if !chain.client.can_have_names() {
        return Ok(());
    }
    let [v4, _] = paths(&chain);
    let (hop, target) = (chain.hop_addresses_v4()[0], v4.target);
    let octets = hop.octets();
    let pointer = format!(
        "{}.{}.{}.{}.in-addr.arpa",
        octets[3], octets[2], octets[1], octets[0]
    );
    let _names = chain
        .client
        .answer_names(move |name, record| match (name, record) {
            ("short.right.test", _) => NameAnswer::Addresses(vec![target]),
            (name, Record::Ptr) if name == pointer => NameAnswer::Names(vec!["hop.test".to_owned()]),
            _ => NameAnswer::Code(3),
        })?;
    let odd = "search corp..example right.test\noptions unknown timeout:x\nnonsense\nnameserver nobody\nnameserver 127.0.0.53\n";
    let hosts = format!("{target} zeta.test alpha\n10.9.9.9 alpha\n{target} beta.test\n");
    for switch in SWITCHES {
        let files = [
            ("hosts", hosts.as_str()),
            ("resolv.conf", odd),
            ("nsswitch.conf", switch),
        ];
        // glibc itself searches no further after the domain that is none.
        let searched = (switch == SWITCHES[0]).then_some("short");
        for name in searched.into_iter().chain(["alpha", "zeta.test."]) {
            let arguments = format!("-q 1 -Q 0 --reverse-dns {name}");
            let mut program = program_with_files(&chain.client, "odd_resolv_conf", &files, &arguments);
            let report = finish(&mut program).report();
            assert_eq!(hops(&report), v4.hops, "{switch} {name}");
            assert_eq!(report.runs[0].hops[0].names, ["hop.test"]);
            assert_eq!(report.runs[0].names, ["zeta.test", "alpha", "beta.test"]);
        }
    }
    let files = [("hosts", ""), ("resolv.conf", odd)];
    let arguments = "-q 1 -Q 0 --verbose short";
    let outcome = finish(&mut program_with_files(
        &chain.client,
        "odd_resolv_conf",
        &files,
        arguments,
    ));
    assert!(
        outcome.stderr.contains("corp..example"),
        "the log says so: {}",
        outcome.stderr
    );
    Ok(())
}

/// The C library takes them for addresses.
#[test]
fn numbers_are_names_that_do_not_resolve() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let node = lab.node("host")?;
    for number in ["0x7f000001", "0x7f.0.0.0x1", "127.1", "017700000001", "1.2.3"] {
        let outcome = finish(node.command(PROGRAM).args(["-q", "1", "-Q", "0", number]));
        assert_eq!(
            outcome.failure(),
            format!("cannot resolve {number:?}: no such host")
        );
    }
    Ok(())
}

/// The services on the Internet are asked through the proxy, by name, and not otherwise.
#[test]
fn the_public_address_is_asked_through_the_proxy_of_the_environment() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let node = lab.node("host")?;
    for variable in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"] {
        let listener = node.tcp_listener(([127, 0, 0, 1], 0).into())?;
        let mut program = node.command(PROGRAM);
        program.args(["-q", "0", "-Q", "0", "--source-public-ip", "127.0.0.1"]);
        for unset in [
            "HTTPS_PROXY",
            "https_proxy",
            "HTTP_PROXY",
            "http_proxy",
            "ALL_PROXY",
            "all_proxy",
        ] {
            program.env_remove(unset);
        }
        program.env(variable, listener.local_addr().unwrap().to_string());
        // Excepted from the proxy, they fail at once: there is no network.
        program.env("NO_PROXY", "ipinfo.io,amazonaws.com,ipify.org,akamai.com");
        let mut child = start(&mut program);
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = [0; 36];
        stream.read_exact(&mut asked).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&asked),
            "CONNECT icanhazip.com:443 HTTP/1.1\r\n"
        );
        // It would try the other services now.
        child.kill().unwrap();
        child.wait().unwrap();
    }
    Ok(())
}
