//! The program as a user sees it, without tracing anything.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use std::fmt::Write as _;
use std::fs::File;
use std::io::pipe;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use clap::ValueEnum;
use traceroute_flags::Shell;

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_datadog-traceroute"));
    command.args(arguments);
    command
}

fn run(arguments: &[&str]) -> Output {
    program(arguments).output().unwrap()
}

/// Everything that a user sees, fenced so that white space at the ends shows too.
fn transcript(arguments: &[&str]) -> String {
    let output = run(arguments);
    let mut text = format!("$ datadog-traceroute {}\n", arguments.join(" "));
    for (name, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        if !bytes.is_empty() {
            writeln!(text, "[{name}]\n{}[end]", str::from_utf8(bytes).unwrap()).unwrap();
        }
    }
    writeln!(text, "[status {}]\n", output.status.code().unwrap()).unwrap();
    text
}

#[test]
fn help() {
    insta::assert_snapshot!("help", transcript(&["--help"]));
    assert_eq!(run(&["-h"]), run(&["--help"]));
    assert_eq!(run(&["help"]), run(&["--help"]));
    assert_eq!(run(&["host", "-q", "1", "-h"]), run(&["--help"]));
}

#[test]
fn help_of_commands() {
    let texts = [
        transcript(&["help", "version"]),
        transcript(&["completion", "--help"]),
    ];
    insta::assert_snapshot!("help_of_commands", texts.concat());
    assert_eq!(run(&["version", "-h"]), run(&["help", "version"]));
}

#[test]
fn wrong_usage() {
    let lines = [
        "",
        "one two",
        "--ipv6 false host",
        "--quiet --verbose host",
        "-4 -6 host",
        "-4 ::1",
        "http://example.com/path",
        "--foo host",
        "--prot udp host",
        "-x host",
        "host --port",
        "--port abc host",
        "--port= host",
        "--port 9223372036854775808 host",
        "--ipv6=maybe host",
        "--port -1 host",
        "--port=65536 host",
        "--max-ttl 0 host",
        "-m 300 host",
        "-q -1 host",
        "-Q 65536 host",
        "--timeout -1 host",
        "--hop-retries 11 host",
        "-m 8 --first-ttl 9 host",
        "--delay 3001 host",
        "--packet-size 37 192.0.2.1",
        "--packet-size 100 -P tcp host",
        "--tos 256 host",
        "--tos 0 --dscp 46 host",
        "--e2e-interval -1 host",
        "-Q 4 --e2e-interval 30001 host",
        "--proto sctp host",
        "--tcp-method ack -P tcp host",
        "--format xml host",
        "--format",
        "host:0",
        "-v version",
        "version now",
        "help nonsense",
        "completion",
        "completion tcsh",
    ];
    let texts: String = lines
        .iter()
        .map(|line| transcript(&line.split_whitespace().collect::<Vec<_>>()))
        .collect();
    insta::assert_snapshot!("wrong_usage", texts);
    assert_eq!(texts.matches("[status 1]").count(), lines.len());
    assert_eq!(texts.matches("\n[stderr]\nError: ").count(), lines.len());
    assert!(!texts.contains("[stdout]"));
}

#[test]
fn version_names_commit_and_date() {
    let output = run(&["version"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = text.split('\n').collect();
    let [version, commit, date, ""] = lines[..] else {
        panic!("not three lines: {text:?}");
    };
    assert_eq!(version, concat!("datadog-traceroute ", env!("CARGO_PKG_VERSION")));
    let commit = commit.strip_prefix("commit: ").unwrap();
    assert!(commit == "unknown" || commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit()));
    let date = date.strip_prefix("built: ").unwrap();
    let shape = date.replace(|c: char| c.is_ascii_digit(), "9");
    assert!(date == "unknown" || shape == "9999-99-99T99:99:99Z", "{date}");
    assert!(output.stderr.is_empty() && output.status.success());
}

/// What is in them is checked where the flags are known.
#[test]
fn completions() {
    for shell in Shell::value_variants() {
        let output = run(&["completion", &shell.to_string()]);
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(script.contains("skip-private-hops"), "{shell}: {script}");
        assert!(output.stderr.is_empty() && output.status.success(), "{shell}");
    }
}

#[test]
fn manual_page() {
    let output = run(&["man"]);
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(page.contains(r"skip\-private\-hops"), "{page}");
    assert!(output.stderr.is_empty() && output.status.success());
}

#[test]
fn a_reader_that_has_seen_enough_is_no_news() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let child = program(&["--help"])
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn a_full_disk_is_reported() {
    let full = Path::new("/dev/full");
    if !full.exists() {
        eprintln!("skipped: this system has no {}", full.display());
        return;
    }
    let disk = File::create(full).unwrap();
    let child = program(&["version"])
        .stdout(disk)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.starts_with("Error: cannot write to standard output: "),
        "{error}"
    );
}

#[test]
fn nobody_listening_for_errors_is_no_panic() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let status = program(&["--foo"]).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

/// It used to panic with 6 and 7.
#[test]
#[cfg(unix)]
fn too_few_open_files_are_an_error_with_advice() {
    for limit in 5..=10 {
        let output = Command::new("sh")
            .args(["-c", &format!("ulimit -n {limit}; exec \"$0\" \"$@\"")])
            .arg(env!("CARGO_BIN_EXE_datadog-traceroute"))
            .args(["-q", "1", "-Q", "0", "127.0.0.1"])
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{limit}: {stderr}");
        let last = stderr.lines().last().unwrap_or_default();
        assert!(
            last.starts_with("Error: ") && last.contains("raise `ulimit -n`"),
            "{limit}: {stderr}"
        );
    }
}
