//! That labs vanish with their process, and work for plain users. Both need a process of their own:
//! this test binary again, told to run one of the ignored tests.
#![cfg(target_os = "linux")]
// Helpers are test code too.
#![allow(clippy::unwrap_used)]

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{self, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use traceroute_testbed::{Lab, Result, not_run, require_lab};

const OTHER_PROCESS: [&str; 4] = ["--ignored", "--nocapture", "--test-threads=1", "--exact"];

/// Whether a condition comes true soon; the kernel removes namespaces in the background.
fn soon(condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
    true
}

#[test]
fn nothing_is_left_after_sigkill() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let observer = lab.node("observer")?;
    let mut child = observer
        .command(env::current_exe().unwrap())
        .args(OTHER_PROCESS)
        .arg("build_a_lab_and_wait_to_be_killed")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(std::result::Result::ok);
    let sleeper = lines
        .find_map(|line| line.strip_prefix("sleeper ").map(str::to_owned))
        .unwrap();
    let sleeper = format!("/proc/{sleeper}");

    // The canary is one end of a link whose other end is in a node of the child: it goes when that
    // namespace goes.
    let canary_lives = || observer.ip("link show dev canary").is_ok();
    assert!(canary_lives() && Path::new(&sleeper).exists());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(soon(|| !canary_lives()), "the namespace is still there");
    assert!(
        soon(|| !Path::new(&sleeper).exists()),
        "a program in a node is still running"
    );
    Ok(())
}

#[test]
#[ignore = "started by nothing_is_left_after_sigkill"]
fn build_a_lab_and_wait_to_be_killed() {
    let lab = Lab::new().unwrap();
    let chain = lab.chain(3).unwrap();
    let here = format!("/proc/{}/ns/net", process::id());
    let canary = format!("link add name held type veth peer name canary netns {here}\n");
    chain.routers[0].ip(&canary).unwrap();
    let mut sleeper = chain.routers[0]
        .command("sleep")
        .arg("60")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    println!("\nsleeper {}", sleeper.id());
    sleeper.wait().unwrap();
}

#[test]
fn plain_users_can_have_labs() {
    // As root, this says whether user namespaces may be made here at all; as a plain user, whether
    // this user may.
    if require_lab().is_none() {
        return;
    }
    let output = run_as_plain_user().output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

/// Runs the test below as this user, or when this is root as nobody. In a user namespace without a
/// nobody (such as that of `unshare -Ur`) root lacks the right to make network namespaces instead.
fn run_as_plain_user() -> Command {
    let uid_map = fs::read_to_string("/proc/self/uid_map").unwrap();
    let users: u64 = uid_map
        .split_whitespace()
        .skip(2)
        .step_by(3)
        .map(|count| count.parse::<u64>().unwrap())
        .sum();
    let mut command = Command::new(env::current_exe().unwrap());
    if fs::metadata("/proc/self").unwrap().uid() == 0 && users > 1 {
        command.uid(65534).gid(65534);
    } else if users == 1 {
        command = Command::new("setpriv");
        command
            .arg("--bounding-set=-sys_admin")
            .arg(env::current_exe().unwrap());
    }
    // Its standard error is ours, for the line that says that it was not run.
    command
        .args(OTHER_PROCESS)
        .arg("lab_of_a_plain_user")
        .current_dir("/")
        .stderr(Stdio::inherit());
    command
}

#[test]
#[ignore = "started by plain_users_can_have_labs"]
fn lab_of_a_plain_user() {
    let Some(lab) = require_lab() else { return };
    assert!(lab.is_unprivileged());
    let chain = lab.chain(3).unwrap();
    chain.routers[0].silence().unwrap();
    let server = chain.target.listen_udp(0).unwrap();
    let client = chain.client.udp_socket("[::]:0".parse().unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    client
        .send_to(b"hello", (chain.target_v6(), server.port()))
        .unwrap();
    assert_eq!(client.recv(&mut [0; 9]).unwrap(), 5);
    let user = chain.client.command("id").arg("-u").output().unwrap();
    assert_eq!(user.stdout, b"0\n");
    assert!(chain.client.enter(|| ()).is_err());
}

/// Runs the test below in a user namespace that may have no network namespaces. namespaces(7)
fn run_where_labs_are_refused() -> Command {
    let mut command = Command::new("unshare");
    let script = r#"echo 0 > /proc/sys/user/max_net_namespaces && exec "$0" "$@""#;
    command
        .args(["--user", "--map-root-user", "sh", "-c", script])
        .arg(env::current_exe().unwrap());
    command.args(OTHER_PROCESS).arg("lab_where_it_is_refused");
    command
}

#[test]
fn a_refused_lab_is_never_silent() {
    let may_run = Command::new("unshare")
        .args(["--user", "--map-root-user", "true"])
        .output();
    if !may_run.is_ok_and(|output| output.status.success()) {
        return not_run("`unshare --user` does not work here");
    }
    let at_home = run_where_labs_are_refused().env_remove("CI").output().unwrap();
    let stderr = String::from_utf8_lossy(&at_home.stderr);
    assert!(at_home.status.success(), "{stderr}");
    assert!(
        stderr.contains("not run: ") && stderr.contains("network namespaces are refused here"),
        "{stderr}"
    );

    let in_ci = run_where_labs_are_refused().env("CI", "true").output().unwrap();
    assert!(!in_ci.status.success());
    assert!(String::from_utf8_lossy(&in_ci.stderr).contains("CI is set"));
}

#[test]
#[ignore = "started by a_refused_lab_is_never_silent"]
fn lab_where_it_is_refused() {
    assert!(require_lab().is_none());
}
