//! What people and other programs get instead of the JSON document, and what it has when details
//! are asked for.

use std::fmt::Display;
use std::net::IpAddr;

use serde_json::Value;
use traceroute_e2e::{Layout, Report};
use traceroute_simnet::example;
use traceroute_testbed::{Node, Reject, Result, require_lab};

use crate::program::{Outcome, each_family, hops, run};
use crate::tun::behind_a_tunnel;

/// What a trace prints that goes well and has nothing to say about it.
fn printed(node: &Node, target: impl Display, arguments: &str) -> String {
    let Outcome {
        status,
        stdout,
        stderr,
        ..
    } = run(node, target, arguments);
    assert_eq!((status, stderr.as_str()), (Some(0), ""), "{stdout}");
    assert!(
        !stdout.contains('\x1b'),
        "coloured, though this is no terminal: {stdout:?}"
    );
    stdout
}

/// The words of each line below the one that begins with `TTL`, up to the empty one.
fn rows(table: &str) -> Vec<Vec<&str>> {
    table
        .lines()
        .skip_while(|line| !line.starts_with("TTL"))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .map(|line| line.split_whitespace().collect())
        .collect()
}

fn is_time(word: &str) -> bool {
    let decimals = word.split_once('.').map(|(_, decimals)| decimals.len());
    decimals == Some(3) && word.parse::<f64>().is_ok_and(|time| time > 0.0)
}

#[test]
fn a_table_of_a_path() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(11)?;
    each_family(&chain, |path| {
        let table = printed(&chain.client, path.target, "--format table -q 3 -Q 2");
        let (target, client) = (path.target, path.client);
        let head = format!(
            "Traceroute to {target}, UDP port 33434\n3 runs from {client}; times in ms\n\nTTL  Host "
        );
        assert!(table.starts_with(&head), "{table}");
        let rows = rows(&table);
        assert_eq!(rows.len(), 11, "{table}");
        for ((ttl, row), hop) in (1..).zip(&rows).zip(&path.hops) {
            let [number, host, loss, runs, times @ ..] = &row[..] else {
                panic!("{table}");
            };
            assert_eq!(
                (number.parse(), host.parse().ok(), *loss, *runs),
                (Ok(ttl), *hop, "0.0%", "3/3"),
                "{table}"
            );
            assert!(
                times.len() == 4 && times[..3].iter().all(|time| is_time(time)),
                "{table}"
            );
        }
        assert!(
            table.contains("\n\nEnd to end  2 probes sent, 2 answered, 0.0% lost\n            min/avg/max "),
            "{table}"
        );
    });
    Ok(())
}

#[test]
fn silence_and_prohibition_in_a_table() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(4)?;
    chain.routers[1].silence()?;
    chain.routers[2].reject("udp dport 33434", Reject::AdminProhibited)?;
    each_family(&chain, |path| {
        let arguments = "-m 4 --timeout 300 -q 2 -Q 1 --details --format";
        let table = printed(&chain.client, path.target, &format!("{arguments} table"));
        let prohibiting = path.hops[2].unwrap().to_string();
        let rows = rows(&table);
        assert_eq!(rows[1], ["2", "???", "silent", "0/2"], "{table}");
        // A router looks at the TTL before its filter does, so its first answer is that of any
        // router.
        assert_eq!(rows[2][..4], ["3", &prohibiting, "0.0%", "2/2"], "{table}");
        assert_ne!(rows[2].last(), Some(&"!X"), "{table}");
        assert_eq!(rows[3][..4], ["4", &prohibiting, "0.0%", "2/2"], "{table}");
        assert_eq!(rows[3].last(), Some(&"!X"), "{table}");
        let remarks = format!(
            "\nPath        destination not reached: !X from {prohibiting} (administratively prohibited)\n\
             End to end  1 probe sent, 0 answered, 100.0% lost\n            1 filtered\n"
        );
        assert!(table.contains(&remarks), "{table}");

        let wide = printed(&chain.client, path.target, &format!("{arguments} wide"));
        let rows = self::rows(&wide);
        assert_eq!(rows[1], ["2", "???", "*", "*", "silent"], "{wide}");
        let ["4", host, first, "!X", second, "!X"] = rows[3][..] else {
            panic!("{wide}");
        };
        assert!(host == prohibiting && is_time(first) && is_time(second), "{wide}");
    });
    Ok(())
}

#[test]
fn csv_and_graph_of_a_path() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(3)?;
    each_family(&chain, |path| {
        let text = printed(&chain.client, path.target, "--format csv -q 2 -Q 0");
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let titles = reader.headers().unwrap().clone();
        let column = |name: &str| titles.iter().position(|title| title == name).unwrap();
        let records: Vec<_> = reader.records().map(std::result::Result::unwrap).collect();
        assert_eq!(records.len(), 6, "{text}");
        for (index, record) in records.iter().enumerate() {
            let address: IpAddr = record[column("address")].parse().unwrap();
            assert_eq!(record[column("run")], (index / 3 + 1).to_string());
            assert_eq!(record[column("ttl")], (index % 3 + 1).to_string());
            assert_eq!(Some(address), path.hops[index % 3]);
            assert!(record[column("rtt_ms")].parse::<f64>().unwrap() > 0.0);
        }

        let graph = printed(&chain.client, path.target, "--format dot -q 2 -Q 0");
        let nodes = [Some(path.client)].into_iter().chain(path.hops.iter().copied());
        for (index, address) in nodes.flatten().enumerate() {
            assert!(
                graph.contains(&format!("  n{index} [label=\"{address}\"")),
                "{graph}"
            );
        }
        for index in 0..3 {
            assert!(
                graph.contains(&format!("  n{index} -> n{} [label=\"2\"]\n", index + 1)),
                "{graph}"
            );
        }
        assert!(graph.starts_with(&format!("digraph \"{}\" {{\n", path.target)) && graph.ends_with("}\n"));
    });
    Ok(())
}

/// The document without its details, which must be the contract's, and the details.
fn split_details(text: &str) -> (Report, Value) {
    let (contract, _) = text
        .split_once(",\n  \"details\": {\n")
        .unwrap_or_else(|| panic!("{text}"));
    let document: Value = serde_json::from_str(text).unwrap();
    Report::read(text, Layout::Indented).unwrap();
    (
        Report::read(&format!("{contract}\n}}\n"), Layout::Indented).unwrap(),
        document["details"].clone(),
    )
}

#[test]
fn details_of_a_path() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(3)?;
    each_family(&chain, |path| {
        let text = printed(&chain.client, path.target, "-q 1 -Q 1 --hop-retries 0 --details");
        let (report, details) = split_details(&text);
        assert_eq!(hops(&report), path.hops);
        let v4 = path.target.is_ipv4();
        let run = &details["runs"][0];
        assert_eq!(run["run_id"], report.runs[0].id);
        assert_eq!((&run["method"], &run["probes_sent"]), (&"udp".into(), &3.into()));
        for (index, address) in path.hops.iter().flatten().enumerate() {
            let goal = index == 2;
            let (kind, code) = match (goal, v4) {
                (false, true) => (11, 0),
                (false, false) => (3, 0),
                (true, true) => (3, 3),
                (true, false) => (1, 4),
            };
            let expected = serde_json::json!({
                "ttl": index + 1,
                "attempts": 1,
                "attempt": 0,
                "ip_address": address,
                "answer": if goal { "unreachable" } else { "time_exceeded" },
                "destination": goal,
                "icmp_type": kind,
                "icmp_code": code,
                // The kernel's default for what it sends is 64; each router on the way back takes
                // one.
                "reply_ttl": 64 - index,
                "quoted_ttl": 1,
                "kernel_timestamps": true,
            });
            assert_eq!(run["hops"][index], expected);
            let counted =
                serde_json::json!({"ttl": index + 1, "addresses": [{"ip_address": address, "answers": 1}]});
            assert_eq!(details["hops"][index], counted);
        }
        assert_eq!(
            (&run["distance"], &run["end"]),
            (&"known".into(), &serde_json::json!({"reason": "destination"}))
        );
        let e2e = serde_json::json!({"sent": 1, "answered": 1, "lost": {}, "refused": 0});
        assert_eq!(
            (&details["e2e"], &details["warnings"]),
            (&e2e, &serde_json::json!([]))
        );
        let counters = &details["counters"];
        assert_eq!(counters["probes"]["sent"], 4);
        assert_eq!(counters["replies"]["matched"], 4);
        assert_eq!(counters["replies"]["kernel_drops"], 0);
        assert!(counters["replies"]["ignored"]["unmatched"].is_u64(), "{counters}");
    });
    Ok(())
}

#[test]
fn details_hide_private_hops_where_they_are_to_be_hidden() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let chain = lab.chain(3)?;
    let text = printed(
        &chain.client,
        chain.target_v4(),
        "-q 1 -Q 0 --hop-retries 0 --details --skip-private-hops",
    );
    let (_, details) = split_details(&text);
    assert_eq!(
        details["runs"][0]["hops"][0],
        serde_json::json!({"ttl": 1, "attempts": 1})
    );
    assert!(
        !details
            .to_string()
            .contains(&chain.hop_addresses_v4()[0].to_string()),
        "{details}"
    );
    Ok(())
}

/// The labels are those of the topology, with and without the length attribute of RFC 4884.
#[test]
fn details_of_a_path_with_mpls() -> Result<()> {
    let topology = example("mpls").unwrap().topology().unwrap();
    behind_a_tunnel(&topology, |client| {
        for target in ["198.51.100.11", "2001:db8:ffff::11"] {
            let text = printed(client, target, "-q 1 -Q 0 --details");
            let (_, details) = split_details(&text);
            let labels = |index: usize| details["runs"][0]["hops"][index].get("mpls");
            let entry = |label: u32, tc: u8, s: bool, ttl: u8| serde_json::json!({"label": label, "tc": tc, "s": s, "ttl": ttl});
            assert_eq!(labels(0), None, "{details}");
            assert_eq!(labels(1), Some(&vec![entry(16001, 0, true, 1)].into()));
            assert_eq!(
                labels(2),
                Some(&vec![entry(24001, 5, false, 1), entry(24002, 0, true, 254)].into())
            );
            assert_eq!(labels(3), Some(&vec![entry(16002, 0, true, 1)].into()));
            assert_eq!(labels(4), None, "{details}");

            let table = printed(client, target, "-q 1 -Q 0 --details --format table");
            assert!(
                table.contains("\n       MPLS L=24001,E=5,S=0,T=1/L=24002,E=0,S=1,T=254\n  4  "),
                "{table}"
            );
        }
    })
}

/// Each address on a line of its own, below one TTL; what they answered adds up.
#[test]
fn a_table_of_a_balanced_path() -> Result<()> {
    let topology = example("balance-packet").unwrap().topology().unwrap();
    behind_a_tunnel(&topology, |client| {
        let table = printed(
            client,
            "198.51.100.11",
            "-P icmp -q 6 -Q 0 --timeout 1000 --format table",
        );
        // A row without TTL begins with an address.
        let rows = rows(&table);
        let third = rows.iter().position(|row| row[0] == "3").unwrap();
        let fourth = rows.iter().position(|row| row[0] == "4").unwrap();
        assert!(
            fourth - third > 1,
            "no two of six runs took different ways: {table}"
        );
        assert_eq!(rows[third][2], "0.0%", "{table}");
        let answers = rows[third..fourth].iter().map(|row| {
            let (answered, all) = row.iter().find_map(|word| word.split_once('/')).unwrap();
            assert_eq!(all, "6", "{table}");
            answered.parse::<u32>().unwrap()
        });
        assert_eq!(answers.sum::<u32>(), 6, "{table}");
    })
}

/// Two branches between the first router and the last.
const DIAMOND: &str = r#"
[client]
v4 = "10.0.0.2"
v6 = "2001:db8::2"

[[hop]]
name = "first"
v4 = "10.0.0.1"
v6 = "2001:db8::1"
delay = 0.5
balance = "first-four-bytes"

[[hop.branch]]
[[hop.branch.hop]]
name = "one"
v4 = "10.1.1.1"
v6 = "2001:db8:1::1"
delay = 0.5

[[hop.branch]]
[[hop.branch.hop]]
name = "other"
v4 = "10.1.2.1"
v6 = "2001:db8:1::2"
delay = 0.5

[[hop]]
name = "last"
v4 = "10.0.2.1"
v6 = "2001:db8:2::1"
delay = 0.5

[[target]]
v4 = "198.51.100.1"
v6 = "2001:db8:ffff::1"
delay = 1
"#;

#[test]
fn all_paths_in_each_format() -> Result<()> {
    let topology = traceroute_simnet::Topology::parse("diamond", DIAMOND).unwrap();
    behind_a_tunnel(&topology, |client| {
        let target = "198.51.100.1";
        // So that a missing branch is a defect, not bad luck.
        let print =
            |arguments: &str| printed(client, target, &format!("paths --confidence 0.9999 {arguments}"));
        for protocol in ["udp", "icmp"] {
            let text = print(&format!("-P {protocol} -Q 10 --e2e-interval 5"));
            let document: Value = serde_json::from_str(&text).unwrap();
            let links: Vec<(u64, &str, &str)> = document["links"]
                .as_array()
                .unwrap()
                .iter()
                .map(|link| {
                    (
                        link["ttl"].as_u64().unwrap(),
                        link["from"].as_str().unwrap(),
                        link["to"].as_str().unwrap(),
                    )
                })
                .collect();
            for link in [
                (1, "10.0.0.2", "10.0.0.1"),
                (2, "10.0.0.1", "10.1.1.1"),
                (2, "10.0.0.1", "10.1.2.1"),
                (3, "10.1.1.1", "10.0.2.1"),
                (3, "10.1.2.1", "10.0.2.1"),
                (4, "10.0.2.1", target),
            ] {
                assert!(links.contains(&link), "{protocol}: {link:?} {text}");
            }
            assert_eq!(links.len(), 6, "{protocol}: {text}");
            assert_eq!(document["hops"][1]["balancing"], "per_flow");
            let received = document["flows"].as_array().unwrap().iter();
            let received: u64 = received.filter_map(|flow| flow["e2e"]["received"].as_u64()).sum();
            assert_eq!(
                (received, &document["loss_begins"]),
                (10, &serde_json::json!([])),
                "{text}"
            );
        }
        let table = print("--format table");
        assert!(
            table.starts_with(&format!("All paths to {target} over UDP: ")),
            "{table}"
        );
        let rows = rows(&table);
        let ttls: Vec<&str> = rows.iter().map(|row| row[0]).collect();
        assert_eq!(
            ttls.iter().filter(|word| word.parse::<u8>().is_ok()).count(),
            4,
            "{table}"
        );
        assert_eq!(rows.len(), 5, "{table}");
        // Once in a thousand runs the first flows all take one branch, which then counts as not
        // balanced by ports.
        let by_port = || {
            let to_v6 = "paths --confidence 0.9999 --format table";
            printed(client, "2001:db8:ffff::1", to_v6).contains("\nBalanced to TTL 2 by: source port.\n")
        };
        assert!((0..3).any(|_| by_port()));
        let graph = print("--format dot");
        assert!(
            graph.starts_with("digraph paths {\n") && graph.ends_with("}\n"),
            "{graph}"
        );
        assert!(
            graph.contains(r#""1 10.0.0.1" -> "2 10.1.2.1" [label = "#),
            "{graph}"
        );
        let picture = print("--format svg");
        assert!(
            picture.starts_with("<svg ") && picture.ends_with("</svg>\n"),
            "{picture}"
        );
        // A box for the source and each node, and what is behind all of it.
        assert_eq!(picture.matches("<rect ").count(), 1 + 1 + 5, "{picture}");
        assert_eq!(picture.matches("<path ").count(), 6, "{picture}");
    })
}

#[test]
fn a_picture_of_paths_says_where_loss_begins() -> Result<()> {
    let lossy = DIAMOND.replacen(
        "v6 = \"2001:db8:1::2\"\n",
        "v6 = \"2001:db8:1::2\"\nforward = { loss = 0.5 }\n",
        1,
    );
    let topology = traceroute_simnet::Topology::parse("diamond", &lossy).unwrap();
    behind_a_tunnel(&topology, |client| {
        // Now and then the branch that loses half is taken for a hop that limits its answers: then no
        // link is blamed.
        let draw = |_| {
            let arguments = "paths --confidence 0.9999 --format svg -Q 200 --e2e-interval 2";
            printed(client, "198.51.100.1", arguments)
        };
        let names_a_link = |picture: &String| picture.contains(" % lost</text>");
        let picture = (0..4).map(draw).find(names_a_link).expect("a link is named");
        assert_eq!(picture.matches(" % lost</text>").count(), 1, "{picture}");
        assert_eq!(picture.matches("stroke=\"#c22\"").count(), 1, "{picture}");
    })
}
