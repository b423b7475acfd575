//! The program over real sockets, in networks made of namespaces.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use traceroute_e2e::{Hop, Report};
use traceroute_flags::Shell;
use traceroute_testbed::{Chain, NameAnswer, Record, not_run, require_lab};

mod support;

use support::*;

fn path(report: &Report, run: usize) -> Vec<Option<IpAddr>> {
    report.runs[run].hops.iter().map(Hop::address).collect()
}

fn addresses(chain: &Chain) -> [(String, Vec<Option<IpAddr>>); 2] {
    [
        (
            chain.target_v4().to_string(),
            chain
                .hop_addresses_v4()
                .into_iter()
                .map(|a| Some(a.into()))
                .collect(),
        ),
        (
            format!("[{}]", chain.target_v6()),
            chain
                .hop_addresses_v6()
                .into_iter()
                .map(|a| Some(a.into()))
                .collect(),
        ),
    ]
}

/// The request that lasts until it is cancelled: nobody answers where the router drops it (it would
/// say after three seconds that it does not find the host), and the timeout is long.
const ENDLESS: &str = "/traceroute?target=10.0.2.9&traceroute-queries=3&e2e-queries=5&timeout=3600000";

#[test]
fn every_protocol_finds_the_whole_path() {
    let Some(lab) = require_lab() else { return };
    let chain = lab.chain(5).unwrap();
    let _service = chain.target.listen_tcp(80).unwrap();
    let server = Server::start(&chain.client, &[]);
    for (target, expected) in addresses(&chain) {
        for query in [
            "protocol=udp",
            "protocol=icmp",
            "protocol=tcp&port=80",
            "protocol=TCP&port=81",
            "protocol=tcp&tcp-method=sack&port=80",
            "protocol=tcp&tcp-method=prefer_sack&port=80",
        ] {
            let uri = format!(
                "/traceroute?target={target}&{query}&traceroute-queries=2&e2e-queries=2&timeout=1000"
            );
            let report = server.report(&uri);
            assert_eq!(report.runs.len(), 2, "{uri}");
            for run in 0..2 {
                assert_eq!(path(&report, run), expected, "{uri}");
            }
            assert_eq!((report.e2e.sent, report.e2e.received), (2, 2), "{uri}");
            assert_eq!(report.hostname, target);
            assert_eq!(report.public_ip, None);
        }
    }
    server.wait_for("traceroute_reserved_ports", |ports| ports == 0);
    assert_eq!(server.metric("traceroute_traces_in_flight"), 0);
    assert!(server.metric("traceroute_replies_matched_total") > 100);
}

/// The contract's expectations for localhost on Linux.
#[test]
fn the_contracts_matrix_for_localhost() {
    let Some(lab) = require_lab() else { return };
    let node = lab.node("host").unwrap();
    let server = Server::start(&node, &[]);
    let uri = |query: &str| {
        format!("/traceroute?target=localhost&{query}&traceroute-queries=1&e2e-queries=2&timeout=500")
    };
    for protocol in ["icmp", "udp", "tcp"] {
        let report = server.report(&uri(&format!("protocol={protocol}")));
        assert_eq!(report.protocol, protocol);
        assert_eq!(path(&report, 0), [Some([127, 0, 0, 1].into())], "{protocol}");
        assert_eq!((report.hop_count.min, report.hop_count.max), (1, 1));
        assert_eq!(report.e2e.received, 2, "{protocol}");
        assert_eq!(report.port, 33434);
        let port = report.runs[0].destination_port;
        assert_eq!(port, if protocol == "icmp" { 0 } else { 33434 });
    }
    let (status, body) = server.get(&uri("protocol=tcp&tcp-method=sack"));
    let prefix = "Traceroute failed: SACK not supported for this target/source: ";
    assert!(status == 500 && body.starts_with(prefix), "{status} {body}");
    assert_eq!(body.lines().count(), 1, "{body}");
}

#[test]
fn hops_and_destination_have_all_their_names() {
    let Some(lab) = require_lab() else { return };
    let chain = lab.chain(3).unwrap();
    if !chain.client.can_have_names() {
        return;
    }
    let _names = chain.serve_names().unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("server_names");
    let mut command = chain.client.command_with_names(PROGRAM, "", &folder).unwrap();
    command.args(["--addr", "127.0.0.1:0"]);
    let server = Server::spawn(&chain.client, command);
    for ((target, expected), family) in addresses(&chain).into_iter().zip(["v4", "v6"]) {
        let trace = |reverse_dns| {
            let query = format!("traceroute-queries=2&e2e-queries=1&timeout=1000&reverse-dns={reverse_dns}");
            let report = server.report(&format!("/traceroute?target={target}&{query}"));
            assert_eq!(report.runs.len(), 2);
            for run in 0..2 {
                assert_eq!(path(&report, run), expected);
            }
            report
        };
        let both = ["one", "two"].map(|name| format!("{name}.{family}.test"));
        for run in trace(true).runs {
            assert_eq!(run.hops[0].names, [format!("first.{family}.test")]);
            // It has no name, so it has no such field: the reader refuses an empty list.
            assert!(run.hops[1].names.is_empty(), "{run:?}");
            for mut names in [run.hops[2].names.clone(), run.names] {
                names.sort();
                assert_eq!(names, both);
            }
        }
        for run in trace(false).runs {
            assert!(run.names.is_empty(), "{run:?}");
            assert!(run.hops.iter().all(|hop| hop.names.is_empty()), "{run:?}");
        }
    }
}

/// From the next request on, for targets and for hops.
#[test]
fn a_changed_resolv_conf_counts_at_once() {
    let Some(lab) = require_lab() else { return };
    let chain = lab.chain(2).unwrap();
    if !chain.client.can_have_names() {
        return;
    }
    let target = IpAddr::from(chain.target_v4());
    let _names = chain
        .client
        .answer_names(move |name, record| match (name, record) {
            ("target.test", Record::A) => NameAnswer::Addresses(vec![target]),
            (_, Record::Ptr) => NameAnswer::Names(vec!["named.test".to_owned()]),
            _ => NameAnswer::Code(3),
        });
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("changed_resolv_conf");
    let options = "options timeout:1 attempts:1\n";
    let files = [
        ("hosts", ""),
        ("resolv.conf", &*format!("nameserver 127.0.0.54\n{options}")),
        ("nsswitch.conf", "hosts: files dns\n"),
    ];
    let mut command = chain.client.command_with_files(PROGRAM, &files, &folder).unwrap();
    command.args(["--addr", "127.0.0.1:0"]);
    let server = Server::spawn(&chain.client, command);
    let query = "traceroute-queries=1&e2e-queries=0&timeout=1000&reverse-dns=true";
    let by_name = format!("/traceroute?target=target.test&{query}");
    let by_address = format!("/traceroute?target={target}&{query}");
    // Nobody listens at that address.
    assert_eq!(server.get(&by_name).0, 500);
    assert!(server.report(&by_address).runs[0].hops[0].names.is_empty());
    fs::write(
        folder.join("resolv.conf"),
        format!("nameserver 127.0.0.53\n{options}"),
    )
    .unwrap();
    assert_eq!(server.report(&by_name).runs[0].hops[0].names, ["named.test"]);
    assert_eq!(server.report(&by_address).runs[0].names, ["named.test"]);
}

/// The value of a series of `/probe`, as written.
fn series<'m>(metrics: &'m str, name: &str) -> &'m str {
    let value = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("{name} is not in {metrics}"))
}

#[test]
fn a_probe_measures_by_every_module() {
    let Some(lab) = require_lab() else { return };
    let chain = lab.chain(3).unwrap();
    let _service = chain.target.listen_tcp(80).unwrap();
    let server = Server::start(&chain.client, &[]);
    let mut hashes = Vec::new();
    for module in ["icmp", "udp", "tcp", "sack"] {
        let query = format!(
            "target={}&module={module}&port=80&e2e-queries=2",
            chain.target_v4()
        );
        let (status, metrics) = server.get(&format!("/probe?{query}"));
        assert_eq!(status, 200, "{metrics}");
        for (name, expected) in [
            ("probe_success", "1.0"),
            ("probe_target_reached", "1.0"),
            ("probe_hops", "3.0"),
            ("probe_e2e_sent", "2.0"),
            ("probe_e2e_loss_ratio", "0.0"),
        ] {
            assert_eq!(series(&metrics, name), expected, "{module}: {name}: {metrics}");
        }
        let seconds = |name| series(&metrics, name).parse::<f64>().unwrap();
        let (rtt, duration) = (
            seconds("probe_e2e_rtt_avg_seconds"),
            seconds("probe_duration_seconds"),
        );
        assert!(
            0.0 < rtt && rtt < duration && duration < 9.5,
            "{module}: {metrics}"
        );
        hashes.push(series(&metrics, "probe_path_hash").to_owned());
    }
    // The path is the same whoever probes it.
    hashes.dedup();
    assert_eq!(hashes.len(), 1, "{hashes:?}");
}

/// Where nobody answers, probing ends by itself before the scrape does: its losses are reported.
#[test]
fn a_probe_of_a_dead_target_fits_into_the_scrape() {
    let Some(lab) = require_lab() else { return };
    let chain = lab.chain(2).unwrap();
    // The router does not even say that it does not find the target.
    chain.routers[0].drop_packets("ip daddr 10.0.2.9").unwrap();
    let server = Server::start(&chain.client, &[]);
    // It plans to within a second: a machine that stands still so long may spoil it.
    let mut wrong = Vec::new();
    let fits = (0..3).any(|_| {
        wrong = asked_of_dead_target(&server);
        wrong.is_empty()
    });
    assert!(fits, "{wrong:?}");
}

/// What is wrong with the answers of the three modules.
fn asked_of_dead_target(server: &Server) -> Vec<String> {
    let start = Instant::now();
    let asked = ["icmp", "udp", "tcp"].map(|module| {
        // At their usual pace so many probes would take 12 s.
        let uri = format!("/probe?target=10.0.2.9&module={module}&e2e-queries=10");
        let header = "X-Prometheus-Scrape-Timeout-Seconds: 10";
        (module, begin_with(server, &uri, header))
    });
    let mut wrong = Vec::new();
    for (module, stream) in asked {
        let (status, metrics) = finish(stream);
        let took = start.elapsed();
        let expected = [
            ("probe_success", "0.0"),
            ("probe_target_reached", "0.0"),
            ("probe_hops", "1.0"),
            ("probe_e2e_sent", "10.0"),
            ("probe_e2e_loss_ratio", "1.0"),
            ("probe_e2e_rtt_avg_seconds", "NaN"),
        ];
        let is_expected = |(name, value): (&str, &str)| series(&metrics, name) == value;
        if took >= Duration::from_secs(10) || status != 200 || !expected.into_iter().all(is_expected) {
            wrong.push(format!("{module}: {status} after {took:?}: {metrics}"));
        }
    }
    wrong
}

#[test]
fn a_gap_limit_ends_a_silent_path_and_the_table_says_so() {
    let Some(lab) = require_lab() else { return };
    let chain = lab.chain(2).unwrap();
    let server = Server::start(&chain.client, &[]);
    let query = "target=10.0.2.9&gap-limit=2&timeout=300&traceroute-queries=1&e2e-queries=0&format=table";
    let (status, table) = server.get(&format!("/traceroute?{query}"));
    assert_eq!(status, 200, "{table}");
    let end = "destination not reached: no answer after TTL 1, and gap-limit gave up";
    assert!(table.contains(end), "{table}");
}

#[test]
fn a_client_that_goes_away_cancels_its_traces() {
    let Some(lab) = require_lab() else { return };
    let chain = lab.chain(2).unwrap();
    chain.routers[0].drop_packets("ip daddr 10.0.2.9").unwrap();
    let server = Server::start(&chain.client, &[]);
    for stream_path in ["", "/stream"] {
        let uri = ENDLESS.replace("/traceroute?", &format!("/traceroute{stream_path}?"));
        let client = server.begin(&uri);
        server.wait_for("traceroute_traces_in_flight", |traces| traces > 3);
        assert!(server.metric("traceroute_reserved_ports") > 3);
        client.shutdown(Shutdown::Both).unwrap();
        drop(client);
        server.wait_for("traceroute_traces_in_flight", |traces| traces == 0);
        server.wait_for("traceroute_reserved_ports", |ports| ports == 0);
    }
    assert!(
        server
            .get("/metrics")
            .1
            .contains("path=\"/traceroute/stream\",status=\"499\"} 1")
    );
}

/// HTTP lets clients send the next request before they have the answer. Whoever does must not live
/// on in the server.
#[test]
fn bytes_after_a_request_do_not_hide_that_the_client_goes_away() {
    let Some(lab) = require_lab() else { return };
    let chain = lab.chain(2).unwrap();
    chain.routers[0].drop_packets("ip daddr 10.0.2.9").unwrap();
    let server = Server::start(&chain.client, &[]);
    for stream_path in ["", "/stream"] {
        for rest in ["\r\nX", "GET /health HTTP/1.1\r\nHost: x\r\n\r\n"] {
            let uri = ENDLESS.replace("/traceroute?", &format!("/traceroute{stream_path}?"));
            let mut client = server.connect();
            write!(client, "GET {uri} HTTP/1.1\r\nHost: test\r\n\r\n{rest}").unwrap();
            server.wait_for("traceroute_traces_in_flight", |traces| traces > 3);
            drop(client);
            server.wait_for("traceroute_traces_in_flight", |traces| traces == 0);
            server.wait_for("traceroute_http_requests_in_flight", |requests| requests == 1);
        }
    }
}

#[test]
fn a_signal_counts_from_the_moment_that_the_service_listens() {
    let Some(lab) = require_lab() else { return };
    let node = lab.node("host").unwrap();
    for signal in ["-TERM", "-INT"] {
        let mut server = Server::start(&node, &[]);
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0), "{signal}");
    }
}

#[test]
fn sigterm_lets_requests_finish() {
    let Some(lab) = require_lab() else { return };
    let chain = lab.chain(2).unwrap();
    for signal in ["-TERM", "-INT"] {
        let mut server = Server::start(&chain.client, &["--grace-period", "30s"]);
        // Four probes in three seconds.
        let query = "traceroute-queries=1&e2e-queries=4&timeout=1000&max-ttl=4";
        let client = server.begin(&format!("/traceroute?target={}&{query}", chain.target_v4()));
        // Itself and the question; between probes no trace is in flight.
        server.wait_for("traceroute_http_requests_in_flight", |requests| requests > 1);
        server.signal(signal);
        server.wait_for_log("stopping");
        let (status, body) = finish(client);
        assert_eq!(status, 200, "{body}");
        assert_eq!(read(&body).e2e.sent, 4);
        assert_eq!(server.wait().code(), Some(0));
    }
}

#[test]
fn sigterm_cancels_what_lasts_longer_than_the_grace_period() {
    let Some(lab) = require_lab() else { return };
    let chain = lab.chain(2).unwrap();
    chain.routers[0].drop_packets("ip daddr 10.0.2.9").unwrap();
    let mut server = Server::start(&chain.client, &["--grace-period", "100ms"]);
    let client = server.begin(ENDLESS);
    // A connection without a request does not hold the end up.
    let _idle = server.connect();
    server.wait_for("traceroute_traces_in_flight", |traces| traces > 0);
    server.signal("-TERM");
    assert_eq!(finish(client), (503, "The server is shutting down\n".to_owned()));
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn slow_clients_are_not_waited_for() {
    let Some(lab) = require_lab() else { return };
    let node = lab.node("host").unwrap();
    // With room for a few only, which must become free again.
    let server = Server::start(&node, &["--header-timeout", "300ms", "--max-connections", "8"]);
    let slow: Vec<TcpStream> = (0..8)
        .map(|index| {
            let mut stream = server.connect();
            let sent = ["", "GET /hea", "GET /health HTTP/1.1\r\nHost: x\r\nX: ", "\r\n"][index % 4];
            stream.write_all(sent.as_bytes()).unwrap();
            stream
        })
        .collect();
    assert_eq!(server.get("/health").0, 200);
    for mut stream in slow {
        let mut rest = Vec::new();
        // Closed, perhaps with an error before, or reset; anything but waiting.
        let result = stream.read_to_end(&mut rest).map_err(|error| error.kind());
        assert!(
            matches!(result, Ok(_) | Err(ErrorKind::ConnectionReset)),
            "{result:?}"
        );
    }
}

#[test]
fn a_client_that_reads_nothing_is_closed() {
    let Some(lab) = require_lab() else { return };
    let server = Server::start(&lab.node("host").unwrap(), &["--write-timeout", "300ms"]);
    let mut client = server.connect();
    client.set_write_timeout(Some(PATIENCE)).unwrap();
    // Until the answers fill all buffers, then the requests, then the connection ends.
    let error = loop {
        if let Err(error) = client.write_all(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n") {
            break error;
        }
    };
    assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "it is waited for");
}

/// Nobody waits for a connection with the room that another listener needs.
#[test]
fn one_connection_at_a_time_may_come_to_either_listener() {
    let Some(lab) = require_lab() else { return };
    let path = socket_path("turns");
    let flag = path.to_str().unwrap();
    let server = Server::start(
        &lab.node("host").unwrap(),
        &["--max-connections", "1", "--unix-socket", flag],
    );
    server.wait_for_log("listening path=");
    for _ in 0..3 {
        assert_eq!(server.get("/health").0, 200);
        assert_eq!(get_from(&path, "/health").0, 200);
    }
    drop(server);
    let _ = fs::remove_file(path);
}

#[test]
fn a_body_that_never_comes_holds_nothing_up() {
    let Some(lab) = require_lab() else { return };
    let node = lab.node("host").unwrap();
    let server = Server::start(
        &node,
        &["--header-timeout", "300ms", "--max-request-size", "9000"],
    );
    let request = |extra: &str, body: &[u8]| {
        let mut stream = server.connect();
        let target = "/traceroute?target=127.0.0.1&traceroute-queries=1&e2e-queries=0";
        write!(
            stream,
            "GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{extra}\r\n"
        )
        .unwrap();
        // The server may have answered and closed already.
        let _ = stream.write_all(body);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer)
            .chars()
            .take(12)
            .collect::<String>()
    };
    assert_eq!(request("Content-Length: 10\r\n", b""), "HTTP/1.1 408");
    assert_eq!(request("Content-Length: 10\r\n", b"0123456789"), "HTTP/1.1 200");
    assert_eq!(request("Content-Length: 10000\r\n", &[0; 10000]), "HTTP/1.1 413");
    assert_eq!(
        request(&format!("X: {}\r\n", "x".repeat(10_000)), b""),
        "HTTP/1.1 431"
    );
}

#[test]
fn nothing_but_cap_net_raw_is_kept() {
    let Some(lab) = require_lab() else { return };
    let node = lab.node("host").unwrap();
    let server = Server::start(&node, &[]);
    server.report("/traceroute?target=127.0.0.1&traceroute-queries=1&e2e-queries=0");
    let users = fs::read_to_string(format!("/proc/{}/uid_map", server.child.id())).unwrap();
    let tasks = fs::read_dir(format!("/proc/{}/task", server.child.id())).unwrap();
    let mut threads = 0;
    for task in tasks {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        for name in ["CapEff", "CapPrm"] {
            assert!(status.contains(&format!("{name}:\t0000000000002000")), "{status}");
        }
        assert!(
            status.contains("CapInh:\t0000000000000000") && status.contains("NoNewPrivs:\t1"),
            "{status}"
        );
        let is_root = status.contains("Uid:\t0\t0\t0\t0\n");
        // In a user namespace of one user there is nobody else to become.
        assert!(!is_root || !users.contains("4294967295"), "{status}");
        threads += 1;
    }
    assert!(threads > 1);
}

/// How system calls are filtered (`proc_pid_status(5)`): the mode, and the number of filters.
fn filters(status: &Path) -> (u32, u32) {
    let status = fs::read_to_string(status).unwrap();
    let value = |name| {
        let mut lines = status.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)).unwrap();
        value.trim().parse().unwrap()
    };
    (value("Seccomp:"), value("Seccomp_filters:"))
}

#[test]
fn system_calls_are_restricted_in_every_thread_unless_turned_off() {
    let Some(lab) = require_lab() else { return };
    let node = lab.node("host").unwrap();
    // A container has a filter of its own.
    let own = filters(Path::new("/proc/self/status"));
    for (arguments, expected) in [(&[][..], (2, own.1 + 1)), (&["--no-sandbox"], own)] {
        let server = Server::start(&node, arguments);
        for protocol in ["udp", "tcp", "icmp"] {
            server.report(&format!(
                "/traceroute?target=localhost&protocol={protocol}&traceroute-queries=1&e2e-queries=1&reverse-dns=true"
            ));
        }
        let tasks = fs::read_dir(format!("/proc/{}/task", server.child.id())).unwrap();
        let found: Vec<_> = tasks
            .map(|task| filters(&task.unwrap().path().join("status")))
            .collect();
        assert!(found.len() > 3, "{found:?}");
        assert!(
            found.iter().all(|found| *found == expected),
            "{arguments:?}: {found:?}"
        );
    }
}

#[test]
fn the_log_names_privileges_and_requests() {
    let Some(lab) = require_lab() else { return };
    let node = lab.node("host").unwrap();
    let server = Server::start(&node, &[]);
    let mut beginning = server.beginning.iter();
    assert!(beginning.any(|line| line.contains("privileges kept=CAP_NET_RAW")));
    let mut stream = server.connect();
    let id = "0af7651916cd43dd8448eb211c80319c";
    let target = "/traceroute?target=127.0.0.1&port=abc&e2e-queries=0&traceroute-queries=1";
    write!(
        stream,
        "GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\ntraceparent: 00-{id}-b7ad6b7169203331-01\r\n\r\n"
    )
    .unwrap();
    assert_eq!(finish(stream).0, 200);
    let warning = server.wait_for_log("WARN");
    assert!(
        warning.contains(id) && warning.contains("remarks=\"port does not parse"),
        "{warning}"
    );
    let line = server.wait_for_log("status=200");
    assert!(
        line.contains(id) && line.contains("INFO") && line.contains("duration_ms="),
        "{line}"
    );
}

/// A failed stream has status 200, which says nothing.
#[test]
fn the_log_says_why_requests_fail() {
    let Some(lab) = require_lab() else { return };
    let server = Server::start(&lab.node("host").unwrap(), &[]);
    let query = "target=127.0.0.1&protocol=tcp&tcp-method=sack&e2e-queries=0&timeout=500";
    for (path, status) in [("/traceroute", 500), ("/traceroute/stream", 200)] {
        assert_eq!(server.get(&format!("{path}?{query}")).0, status);
        let line = server.wait_for_log("request failed");
        for part in [
            "trace_id=",
            &format!("path=\"{path}\""),
            &format!("status={status}"),
            "code=\"UNKNOWN\"",
            "error=\"Traceroute failed: SACK not supported",
        ] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
    }
}

/// A JSON object none of whose names occurs twice.
struct UniqueNames;

impl<'de> serde::Deserialize<'de> for UniqueNames {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> serde::de::Visitor<'de> for Names {
            type Value = UniqueNames;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<UniqueNames, A::Error> {
                let mut names = std::collections::BTreeSet::new();
                while let Some((name, _)) = map.next_entry::<String, serde_json::Value>()? {
                    if !names.insert(name.clone()) {
                        return Err(serde::de::Error::custom(format!("{name} occurs twice")));
                    }
                }
                Ok(UniqueNames)
            }
        }
        deserializer.deserialize_map(Names)
    }
}

#[test]
fn the_log_as_json_has_no_name_twice() {
    let Some(lab) = require_lab() else { return };
    let server = Server::start(
        &lab.node("host").unwrap(),
        &["--log-format", "json", "--log-level", "debug"],
    );
    let query = "target=127.0.0.1&port=abc&traceroute-queries=1&e2e-queries=1&timeout=500";
    let id = "0af7651916cd43dd8448eb211c80319c";
    for path in ["/traceroute", "/traceroute/stream"] {
        let mut stream = server.connect();
        write!(
            stream,
            "GET {path}?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\ntraceparent: 00-{id}-b7ad6b7169203331-01\r\n\r\n"
        )
        .unwrap();
        assert_eq!(finish(stream).0, 200);
        let mut run_ended = 0;
        loop {
            let line = server.log.recv_timeout(PATIENCE).unwrap();
            let parsed = serde_json::from_str::<UniqueNames>(&line);
            assert!(parsed.is_ok(), "{:?}: {line}", parsed.err());
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            if value["message"] == "a run ended" {
                assert_eq!(value["address"], "127.0.0.1");
                assert_eq!(value["span"]["trace_id"], id, "{path}: {line}");
                run_ended += 1;
            }
            if value["message"] == "request" && value["span"]["path"] == path {
                assert_eq!(value["status"], 200);
                break;
            }
        }
        assert_eq!(run_ended, 1, "{path}");
    }
}

/// Status and body of a request with this header.
fn get_with(server: &Server, uri: &str, header: &str) -> (u16, String) {
    finish(begin_with(server, uri, header))
}

fn begin_with(server: &Server, uri: &str, header: &str) -> TcpStream {
    let mut stream = server.connect();
    write!(
        stream,
        "GET {uri} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\n\r\n"
    )
    .unwrap();
    stream
}

#[test]
fn the_token_comes_from_a_file_or_the_environment() {
    let Some(lab) = require_lab() else { return };
    let node = lab.node("host").unwrap();
    let file = std::env::temp_dir().join(format!("traceroute-test-{}.token", std::process::id()));
    fs::write(&file, "from-file\n").unwrap();
    let start = |arguments: &[&str]| {
        let mut command = node.command(PROGRAM);
        command.args(["--addr", "127.0.0.1:0"]).args(arguments);
        command.env("DATADOG_TRACEROUTE_TOKEN", "from-environment");
        Server::spawn(&node, command)
    };
    for (arguments, token) in [
        (&["--token-file", file.to_str().unwrap()][..], "from-file"),
        (&[], "from-environment"),
    ] {
        let server = start(arguments);
        assert_eq!(server.get("/metrics").0, 401);
        for (shown, status) in [(token, 200), ("other", 401)] {
            let header = format!("Authorization: Bearer {shown}");
            assert_eq!(get_with(&server, "/metrics", &header).0, status, "{shown}");
        }
    }
    fs::remove_file(file).unwrap();
}

#[test]
fn a_plain_user_with_cap_net_raw_probes_as_root_does() {
    let Some(lab) = require_lab() else { return };
    if lab.is_unprivileged() {
        return not_run("only root can become another user");
    }
    let chain = lab.chain(3).unwrap();
    // Where that user may look.
    let program = std::env::temp_dir().join(format!("traceroute-test-{}-server", std::process::id()));
    // By another process: a child that another test starts meanwhile would inherit the file, open
    // for writing, and nobody may run it then (ETXTBSY).
    let copied = Command::new("cp")
        .arg("-p")
        .arg(PROGRAM)
        .arg(&program)
        .status()
        .unwrap();
    assert!(copied.success());
    let mut command = chain.client.command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.args(["--inh-caps=-all,+net_raw", "--ambient-caps=-all,+net_raw"]);
    command.arg(&program).args(["--addr", "127.0.0.1:0"]);
    let server = Server::spawn(&chain.client, command);
    fs::remove_file(program).unwrap();
    let mut beginning = server.beginning.iter();
    assert!(beginning.any(|line| line.contains("privileges kept=CAP_NET_RAW")));
    let status = fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    for line in [
        "Uid:\t65534\t65534\t65534\t65534",
        "CapEff:\t0000000000002000",
        "CapAmb:\t0000000000000000",
    ] {
        assert!(status.contains(line), "{status}");
    }
    // No other program of that user may look into it (proc(5), `PR_SET_DUMPABLE` of prctl(2)).
    let memory = fs::metadata(format!("/proc/{}/mem", server.child.id())).unwrap();
    assert_eq!(memory.uid(), 0);
    for (target, expected) in addresses(&chain) {
        // SACK needs raw sockets.
        let query = "protocol=icmp&traceroute-queries=1&e2e-queries=0&timeout=1000";
        let report = server.report(&format!("/traceroute?target={target}&{query}"));
        assert_eq!(path(&report, 0), expected);
    }
}

#[test]
fn a_unix_socket_serves_those_who_may_open_it() {
    let Some(lab) = require_lab() else { return };
    let node = lab.node("host").unwrap();
    let path = socket_path("test");
    let flag = path.to_str().unwrap().to_owned();
    let arguments = ["--unix-socket", &flag, "--unix-socket-mode", "600"];
    let mut server = Server::start(&node, &arguments);
    server.wait_for_log("listening path=");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(get_from(&path, "/health").0, 200);
    server.signal("-TERM");
    assert_eq!(server.wait().code(), Some(0));
    // What root made, the program cannot remove any more, but replace when it starts again.
    Server::start(&node, &arguments).wait_for_log("listening path=");
    let _ = fs::remove_file(&path);
}

#[test]
fn a_unix_socket_alone_opens_no_port() {
    let Some(lab) = require_lab() else { return };
    let node = lab.node("host").unwrap();
    let path = socket_path("alone");
    let mut command = node.command(PROGRAM);
    command.arg("--unix-socket").arg(&path);
    let mut server = Server::spawn(&node, command);
    assert_eq!(get_from(&path, "/health").0, 200);
    for table in ["tcp", "tcp6"] {
        let sockets = fs::read_to_string(format!("/proc/{}/net/{table}", server.child.id())).unwrap();
        // A heading, and no socket that listens: state 0A of proc(5).
        let listening = sockets
            .lines()
            .filter(|line| line.split_whitespace().nth(3) == Some("0A"));
        assert_eq!(listening.count(), 0, "{sockets}");
    }
    server.signal("-TERM");
    assert_eq!(server.wait().code(), Some(0));
    let _ = fs::remove_file(&path);
}

#[test]
fn local_targets_can_be_denied() {
    let Some(lab) = require_lab() else { return };
    let chain = lab.chain(2).unwrap();
    let server = Server::start(&chain.client, &["--deny-local"]);
    let own = chain.client_v4().to_string();
    let own_v6 = format!("[{}]", chain.client_v6());
    let query = "traceroute-queries=1&e2e-queries=0";
    // With the sysctl every address can be bound, which then says nothing about whose it is.
    for any_can_be_bound in ["0", "1"] {
        for family in ["ipv4", "ipv6"] {
            let name = format!("net.{family}.ip_nonlocal_bind");
            chain.client.sysctl(&name, any_can_be_bound).unwrap();
        }
        for target in [
            "127.0.0.1",
            "localhost",
            "[::1]",
            "169.254.169.254",
            "0.0.0.0",
            &own,
            &own_v6,
        ] {
            let (status, body) = server.get(&format!("/traceroute?target={target}"));
            let shown = target.trim_matches(['[', ']']);
            assert_eq!((status, body), (403, format!("Target not allowed: {shown}\n")));
        }
        server.report(&format!("/traceroute?target={}&{query}", chain.target_v4()));
        server.report(&format!("/traceroute?target={}&{query}", chain.target_v6()));
    }
}

/// An address from which nothing is sent by itself: the second of an interface in the same network.
#[test]
fn further_addresses_of_an_interface_are_local_too() {
    let Some(lab) = require_lab() else { return };
    let node = lab.node("host").unwrap();
    node.ip("addr add 203.0.113.1/24 dev lo\naddr add 203.0.113.2/24 dev lo")
        .unwrap();
    let server = Server::start(&node, &["--deny-local"]);
    for target in ["203.0.113.1", "203.0.113.2"] {
        assert_eq!(
            server.get(&format!("/traceroute?target={target}")).0,
            403,
            "{target}"
        );
    }
    // Where there is no way, the trace says so.
    let (status, body) = server.get("/traceroute?target=198.51.100.1");
    assert!(status == 500 && body.contains("route"), "{status} {body}");
}

/// What the process may do, from proc(5).
fn effective_capabilities(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

#[test]
fn egress_is_chosen_by_clients_where_the_operator_allows_it() {
    const CAP_NET_RAW: u64 = 1 << 13;
    const CAP_NET_ADMIN: u64 = 1 << 12;
    let Some(lab) = require_lab() else { return };
    let chain = lab.chain(2).unwrap();
    // Marked packets may not leave.
    chain
        .client
        .command("ip")
        .args(["rule", "add", "pref", "10", "fwmark", "5", "prohibit"])
        .status()
        .unwrap();
    chain.routers[0]
        .ip("addr add fe80::99/64 dev eth0 nodad")
        .unwrap();
    let [(target, expected), _] = addresses(&chain);
    let own = chain.client_v4();
    let uri = |target: &str, choice: &str| {
        format!("/traceroute?target={target}&traceroute-queries=1&e2e-queries=0&timeout=500&{choice}")
    };

    let refusing = Server::start(
        &chain.client,
        &["--allow-egress", "interface", "--deny", "fe80::99%eth0"],
    );
    assert_eq!(effective_capabilities(&refusing), CAP_NET_RAW);
    for (name, value) in [("source", own.to_string()), ("fwmark", "5".to_owned())] {
        let (status, body) = refusing.get(&uri(&target, &format!("{name}={value}")));
        let message =
            format!("Parameter not allowed: {name}; this server's --allow-egress does not name it\n");
        assert_eq!((status, body), (403, message));
    }
    let report = refusing.report(&uri(&target, "interface=eth0"));
    assert_eq!(path(&report, 0), expected);
    let (status, _) = refusing.get(&uri("fe80::99%25eth0", ""));
    assert_eq!(status, 403);

    let permitting = Server::start(&chain.client, &["--allow-egress", "source,fwmark"]);
    assert_eq!(effective_capabilities(&permitting), CAP_NET_RAW | CAP_NET_ADMIN);
    let report = permitting.report(&uri(&target, &format!("source={own}")));
    assert_eq!(path(&report, 0), expected);
    let (status, body) = permitting.get(&uri(&target, "source=192.0.2.7"));
    assert!(
        status == 400 && body.contains("not an address of this host"),
        "{status} {body}"
    );
    let report = permitting.report(&uri(&target, "fwmark=6"));
    assert_eq!(path(&report, 0), expected);
    let (status, body) = permitting.get(&uri(&target, "fwmark=5"));
    assert!(status == 500 && body.contains("prohibits"), "{status} {body}");
    let report = permitting.report(&uri("fe80::99%25eth0", ""));
    assert_eq!(report.hostname, "fe80::99%eth0");
    assert_eq!(path(&report, 0), [Some("fe80::99".parse().unwrap())]);
}

#[test]
fn many_requests_at_once_are_all_complete() {
    let Some(lab) = require_lab() else { return };
    let chain = lab.chain(5).unwrap();
    let server = Server::start(&chain.client, &[]);
    let [(target, expected), _] = addresses(&chain);
    for protocol in ["udp", "icmp", "tcp"] {
        let query = format!("protocol={protocol}&traceroute-queries=1&e2e-queries=1&timeout=1000");
        let uri = format!("/traceroute?target={target}&{query}");
        let clients: Vec<TcpStream> = (0..200).map(|_| server.begin(&uri)).collect();
        for client in clients {
            let (status, body) = finish(client);
            assert_eq!(status, 200, "{body}");
            let report = read(&body);
            assert_eq!(path(&report, 0), expected, "{protocol}");
            assert_eq!(report.e2e.received, 1, "{protocol}");
        }
    }
    assert_eq!(server.metric("traceroute_kernel_drops_total"), 0);
}

#[test]
fn a_stream_tells_what_happens() {
    let Some(lab) = require_lab() else { return };
    let chain = lab.chain(4).unwrap();
    let server = Server::start(&chain.client, &[]);
    let target = chain.target_v4();
    let query = "traceroute-queries=2&e2e-queries=3&timeout=300&max-ttl=5";
    let (status, body) = server.get(&format!("/traceroute/stream?target={target}&{query}"));
    assert_eq!(status, 200);
    for (event, count) in [("hop", 8), ("run", 2), ("e2e", 3), ("report", 1), ("error", 0)] {
        // One hop event per answer; a probe sent beyond the destination may add one.
        let found = body.matches(&format!("event: {event}\n")).count();
        assert!(
            found == count || event == "hop" && found > count,
            "{event}: {found}\n{body}"
        );
    }
    let (_, data) = body.split_once("event: report\ndata: ").unwrap();
    let report = read(&format!("{}\n", data.lines().next().unwrap()));
    assert_eq!((report.runs.len(), report.e2e.sent), (2, 3));
}

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).output().unwrap()
}

/// The limit counts what all processes of a user have, and does not hold for root: this takes a
/// user who has none.
#[test]
fn without_a_thread_left_it_does_not_start_and_says_what_to_raise() {
    const NOBODY_ELSE: &str = "64321";
    let Some(lab) = require_lab() else { return };
    if lab.is_unprivileged() {
        return not_run("becoming another user needs root");
    }
    let output = Command::new("timeout")
        .args(["20", "prlimit", "--nproc=2"])
        .args([
            "setpriv",
            "--reuid",
            NOBODY_ELSE,
            "--regid",
            NOBODY_ELSE,
            "--clear-groups",
        ])
        .args([PROGRAM, "--addr", "127.0.0.1:0"])
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("raise `ulimit -u`"), "{error}");
}

#[test]
fn wrong_usage_and_what_needs_no_network() {
    for arguments in [
        &["--addr", "3765"][..],
        &["--log-level", "INFO"],
        &["nonsense"],
        &["--token-file", "/does/not/exist"],
        &["--addr", "192.0.2.1:80"],
        &["--unix-socket", "/does/not/exist/socket"],
    ] {
        let output = run(arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(error.lines().any(|line| line.starts_with("Error: ")), "{error}");
        assert!(output.stdout.is_empty());
    }
    let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
    assert!(help.contains("--addr") && help.contains(":3765"), "{help}");
    let version = run(&["version"]);
    assert!(version.status.success() && version.stdout.starts_with(b"datadog-traceroute-server "));
    for shell in Shell::value_variants() {
        let script = run(&["completion", &shell.to_string()]);
        assert!(script.status.success() && !script.stdout.is_empty(), "{shell}");
    }
    let man = run(&["man"]);
    assert!(man.status.success() && String::from_utf8_lossy(&man.stdout).contains(".SH OPTIONS"));
}
