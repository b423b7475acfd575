//! What goes wrong on this host, and what the program then says.

use std::fs;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use traceroute_testbed::{Node, Result, require_lab};

use crate::capture::Capture;
use crate::program::{Outcome, PROGRAM, each_family, end, finish, hops, program, run, start};

const METHODS: [&str; 5] = [
    "-P udp",
    "-P icmp",
    "-P tcp",
    "-P tcp --tcp-method sack",
    "-P tcp --tcp-method prefer_sack",
];

#[test]
fn without_a_route_nothing_is_traced() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let island = lab.node("island")?;
    for target in ["192.0.2.1", "2001:db8::1"] {
        for method in METHODS {
            for queries in ["-q 2 -Q 2", "-q 0 -Q 1"] {
                let outcome = run(&island, target, &format!("{method} {queries}"));
                let failure = outcome.failure();
                assert!(
                    failure.contains(&format!("cannot find a route to {target}: "))
                        && failure.contains("this host has no route to it"),
                    "{method} {queries}: {failure}"
                );
                // The same for each run and probe, so said once.
                assert_eq!(failure.lines().count(), 1, "{failure}");
            }
        }
    }
    Ok(())
}

#[test]
fn forbidden_routes_are_named() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(1)?;
    chain.client.ip(
        "route add unreachable 192.0.2.0/24\nroute add prohibit 198.51.100.0/24\n\
         route add unreachable 2001:db8:1::/48\nroute add prohibit 2001:db8:2::/48\n",
    )?;
    for target in ["192.0.2.1", "198.51.100.1", "2001:db8:1::1", "2001:db8:2::1"] {
        let outcome = run(&chain.client, target, "-q 1 -Q 1");
        assert!(outcome.failure().contains(target), "{outcome:?}");
    }
    Ok(())
}

#[test]
fn an_interface_that_is_down_has_no_route() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(2)?;
    chain.client.ip("link set eth0 down\n")?;
    each_family(&chain, |path| {
        let outcome = run(&chain.client, path.target, "-q 1 -Q 1");
        assert!(
            outcome.failure().contains(&path.target.to_string()),
            "{outcome:?}"
        );
    });
    Ok(())
}

/// What was found before stays found.
#[test]
fn an_interface_may_go_down_midway() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(3)?;
    chain.target.drop_packets("udp dport 33434")?;
    let capture = Capture::start(&chain.routers[0])?;
    let arguments = "-q 1 -Q 0 -m 20 --timeout 500";
    let tracing = start(&mut program(&chain.client, chain.target_v4(), arguments));
    let mut seen = 0;
    while seen < 3 {
        seen += capture.packets_from(chain.client_v4().into()).len();
        thread::sleep(Duration::from_millis(5));
    }
    chain.client.ip("link set eth0 down\n").unwrap();
    let outcome = end(tracing);
    let (report, warnings) = outcome.report_and_warnings();
    assert!(
        matches!(warnings[..], [warning] if warning.contains("of the runs ended on this machine")),
        "{warnings:?}"
    );
    let routers: Vec<_> = chain.hop_addresses_v4()[..2]
        .iter()
        .map(|hop| Some(IpAddr::from(*hop)))
        .collect();
    assert_eq!(hops(&report)[..2], routers);
    assert_eq!(hops(&report)[2..], [None; 18]);
    Ok(())
}

/// Root has more than probing needs, which nobody who sends packets to the program shall profit
/// from.
#[test]
fn while_it_probes_the_program_has_no_other_privilege() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(1)?;
    let mut command = program(&chain.client, chain.target_v4(), "-q 1 -Q 60");
    let child = start(command.env_remove("SUDO_UID"));
    let tasks = format!("/proc/{}/task", child.id());
    let until = Instant::now() + Duration::from_secs(10);
    let statuses = loop {
        let names: Vec<_> = fs::read_dir(&tasks).unwrap().flatten().collect();
        let read = |entry: &fs::DirEntry| fs::read_to_string(entry.path().join("status")).ok();
        let statuses: Vec<String> = names.iter().filter_map(read).collect();
        if statuses
            .iter()
            .any(|status| status.starts_with("Name:\tprobing\n"))
        {
            break statuses;
        }
        assert!(Instant::now() < until, "{statuses:?}");
        thread::sleep(Duration::from_millis(5));
    };
    let pid = Pid::from_raw(child.id().cast_signed());
    let _ = kill(pid, Signal::SIGINT);
    end(child);
    for status in statuses {
        for name in ["CapEff", "CapPrm", "CapBnd"] {
            // CAP_NET_RAW.
            assert!(
                status.contains(&format!("{name}:\t0000000000002000\n")),
                "{status}"
            );
        }
        // Else root's files would be its own. In a user namespace of one user there is nobody else
        // to become.
        let ids: &[&str] = if lab.is_unprivileged() {
            &[]
        } else {
            &["Uid", "Gid"]
        };
        for name in ids {
            let line = format!("{name}:\t65534\t65534\t65534\t65534\n");
            assert!(status.contains(&line), "{status}");
        }
    }
    Ok(())
}

/// However few files may be open, there is a result or a message, and enough of them means a
/// result.
#[test]
fn too_few_open_files_are_reported() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(1)?;
    let mut failures = 0;
    for limit in 4..40 {
        let mut command = chain.client.command("sh");
        command.args([
            "-c",
            "ulimit -n \"$0\" && exec \"$@\"",
            &limit.to_string(),
            PROGRAM,
        ]);
        let outcome = finish(
            command
                .args(["-q", "5", "-Q", "1"])
                .arg(chain.target_v4().to_string()),
        );
        if outcome.status == Some(0) {
            let (report, warnings) = outcome.report_and_warnings();
            // What did not work beside what did is said.
            let failed = warnings.iter().filter(|warning| warning.contains(" failed: "));
            assert_eq!(report.runs.len() + failed.count(), 5, "{limit}: {outcome:?}");
            continue;
        }
        failures += 1;
        assert_eq!(
            (outcome.status, outcome.stdout.as_str()),
            (Some(1), ""),
            "{limit}: {outcome:?}"
        );
        assert!(
            outcome.stderr.starts_with("Error: ") && outcome.stderr.contains("Too many open files"),
            "{limit}: {outcome:?}"
        );
    }
    assert!((1..30).contains(&failures), "{failures} failed");
    Ok(())
}

#[test]
fn wrong_usage_sends_nothing() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(1)?;
    let capture = Capture::start(&chain.target)?;
    let wrong = [
        "-p 65536",
        "-p -1",
        "-m 0",
        "-m 256",
        "-q -1",
        "-Q x",
        "--timeout -1",
        "--hop-retries 11",
        "-m 8 --first-ttl 9",
        "--delay 3001",
        "--packet-size 20",
        "-P tcp --packet-size 100",
        "--tos 256",
        "--tos 0 --dscp 46",
        "--e2e-interval -1",
        "-Q 3 --e2e-interval 50000",
        "-P sctp",
        "-P tcp --tcp-method fin",
        "--unknown",
        "another.host",
        "--ipv6=perhaps",
    ];
    for arguments in wrong {
        let outcome = run(&chain.client, chain.target_v4(), arguments);
        assert_eq!(
            (outcome.status, outcome.stdout.as_str()),
            (Some(1), ""),
            "{arguments}"
        );
        assert!(outcome.stderr.starts_with("Error: "), "{arguments}: {outcome:?}");
    }
    let outcome = run(&chain.client, format!("{}:0", chain.target_v4()), "");
    assert_eq!(outcome.status, Some(1));
    assert_eq!(capture.packets_from(chain.client_v4().into()), [[0; 0]; 0]);
    // That is no proof unless the capture sees probes.
    run(&chain.client, chain.target_v4(), "-q 1 -Q 1").report();
    assert!(!capture.packets_from(chain.client_v4().into()).is_empty());
    Ok(())
}

/// Local ports that a node's sockets hold.
fn sockets(node: &Node) -> String {
    let files = [
        "/proc/net/udp",
        "/proc/net/udp6",
        "/proc/net/tcp",
        "/proc/net/tcp6",
        "/proc/net/packet",
    ];
    let output = node.command("cat").args(files).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let is_heading = |line: &&str| line.contains("sl ") || line.starts_with("sk ");
    text.lines()
        .filter(|line| !is_heading(line))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn ctrl_c_stops_at_once_and_frees_everything() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(2)?;
    let server = chain.target.listen_tcp(80)?;
    // The targets are silent beyond the handshake, so that every trace would take long.
    chain.routers[0].silence()?;
    chain.target.drop_packets("udp dport 33434")?;
    chain.target.drop_packets("icmp type echo-request")?;
    chain.target.drop_packets("tcp flags & psh == psh")?;
    for (signal, status) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        for method in METHODS {
            let capture = Capture::start(&chain.target)?;
            let arguments = format!("{method} -p 33434 -q 3 -Q 1000 --timeout 20000");
            let arguments = if method.contains("sack") {
                arguments.replace("33434", "80")
            } else {
                arguments
            };
            let started = Instant::now();
            let tracing = start(&mut program(&chain.client, chain.target_v4(), &arguments));
            while capture.packets_from(chain.client_v4().into()).is_empty() {
                thread::sleep(Duration::from_millis(5));
            }
            assert_ne!(sockets(&chain.client), "", "{method}");
            let begin = Instant::now();
            kill(Pid::from_raw(tracing.id().cast_signed()), signal).unwrap();
            let outcome = end(tracing);
            // Far less than the timeout.
            assert!(
                begin.elapsed() < Duration::from_secs(5),
                "{method} took {:?}",
                begin.elapsed()
            );
            assert_eq!(
                (outcome.status, outcome.stdout.as_str()),
                (Some(status), ""),
                "{method}"
            );
            let seconds = outcome.stderr.strip_prefix("Error: interrupted after ");
            let seconds = seconds.and_then(|rest| rest.strip_suffix(" s\n")?.parse().ok());
            let passed = started.elapsed().as_secs_f64().round() as u64;
            assert!(
                seconds.is_some_and(|seconds: u64| seconds <= passed),
                "{method}: {outcome:?}"
            );
            assert_eq!(sockets(&chain.client), "", "{method}");
        }
    }
    drop(server);
    Ok(())
}

/// As shells start programs in the background, and nohup does.
#[test]
fn an_interrupt_that_is_ignored_at_the_start_stays_ignored() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(1)?;
    let capture = Capture::start(&chain.target)?;
    let mut command = chain.client.command("sh");
    command.args(["-c", "trap '' INT; exec \"$0\" \"$@\"", PROGRAM]);
    command
        .args(["-q", "0", "-Q", "3"])
        .arg(chain.target_v4().to_string());
    let tracing = start(&mut command);
    while capture.packets_from(chain.client_v4().into()).is_empty() {
        thread::sleep(Duration::from_millis(5));
    }
    kill(Pid::from_raw(tracing.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(end(tracing).report().e2e.received, 3);
    Ok(())
}

/// With `--verbose` the log goes to standard error, down to the lowest level, and standard output
/// is the same document.
#[test]
fn verbose_talks_on_standard_error_only() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(2)?;
    let outcome = run(&chain.client, chain.target_v4(), "-q 1 -Q 1 --verbose");
    assert!(outcome.stderr.contains(" TRACE "), "{}", outcome.stderr);
    let quiet = Outcome {
        stderr: String::new(),
        ..outcome
    };
    assert_eq!(quiet.report().hop_count.max, 2);
    Ok(())
}

/// As docs/false-loss.md tells: what a limit would leave unanswered is not sent, unless a fixed
/// interval asks for it.
#[test]
fn probes_wait_for_the_targets_limit_and_what_is_not_sent_is_said() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(3)?;
    chain.target.icmp_rate_limits(true)?;
    each_family(&chain, |path| {
        // 187 ms apart, so over 7.3 s: there are answers for six, and one a second.
        let queries = "-q 0 -Q 40 --timeout 250 --details";
        let outcome = run(&chain.client, path.target, queries);
        let (report, warnings) = outcome.report_and_warnings();
        assert!((9..=14).contains(&report.e2e.sent), "{}: {report:?}", path.target);
        assert_eq!(
            report.e2e.received, report.e2e.sent,
            "{}: {report:?}",
            path.target
        );
        let expected = format!(
            "{} of 40 end-to-end probes were sent: {} answers UDP probes",
            report.e2e.sent, path.target
        );
        assert!(
            matches!(warnings[..], [warning] if warning.starts_with(&expected)),
            "{warnings:?}"
        );

        let icmp = run(&chain.client, path.target, &format!("-P icmp {queries}"));
        assert_eq!(icmp.report().e2e.received, 40, "{}", path.target);
    });
    // The bucket is not full again: six and one a second are the most that is possible.
    each_family(&chain, |path| {
        let fixed = "-q 0 -Q 40 --timeout 250 --e2e-interval 187 --details";
        let outcome = run(&chain.client, path.target, fixed);
        let (report, warnings) = outcome.report_and_warnings();
        assert_eq!(report.e2e.sent, 40, "{}", path.target);
        let lost = 40 - report.e2e.received;
        assert!(lost >= 25, "{}: {report:?}", path.target);
        assert_eq!(
            report.details.unwrap().e2e_lost["rate_limited"],
            lost,
            "{}",
            path.target
        );
        assert!(
            matches!(warnings[..], [warning] if warning.contains("limits how often it answers")),
            "{warnings:?}"
        );
    });
    Ok(())
}
