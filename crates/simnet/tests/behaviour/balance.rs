//! Load balancing.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::lab::*;

fn balanced(policy: &str) -> Lab {
    let branch = |name: &str, hops: u8| {
        let hop = |index| {
            format!(
                "[[hop.branch.hop]]\nname = \"{name}{index}\"\nv4 = \"10.1.{0}.{index}\"\nv6 = \"2001:db8:1{0}::{index}\"\n",
                name.as_bytes()[0]
            )
        };
        format!("[[hop.branch]]\n{}", (1..=hops).map(hop).collect::<String>())
    };
    let branches: String = ["a", "b", "c", "d"].iter().map(|name| branch(name, 1)).collect();
    Lab::new(&three(&format!("balance = \"{policy}\"\n{branches}"), ""))
}

/// Who answers behind the balancer.
fn third(lab: &mut Lab, probes: impl IntoIterator<Item = Vec<u8>>) -> BTreeSet<IpAddr> {
    probes.into_iter().map(|probe| lab.ask_one(&probe).from).collect()
}

#[test]
fn flows_stay_together_and_spread() {
    for target in [TARGET, TARGET_V6] {
        for policy in ["ports", "first-four-bytes"] {
            let mut lab = balanced(policy);
            assert_eq!(third(&mut lab, (0..20).map(|_| udp(target, 33_434, 3))).len(), 1);
            assert_eq!(
                third(&mut lab, (0..200).map(|port| udp(target, 33_000 + port, 3))).len(),
                4
            );
        }
        let mut lab = balanced("addresses");
        assert_eq!(
            third(&mut lab, (0..50).map(|port| udp(target, 33_000 + port, 3))).len(),
            1
        );
    }
}

#[test]
fn the_icmp_checksum_may_be_part_of_the_flow() {
    let mut lab = balanced("first-four-bytes");
    assert_eq!(
        third(&mut lab, (0..100).map(|sequence| echo(TARGET, 1, sequence, 3))).len(),
        4
    );
    // The same sum of identifier and sequence: the same checksum.
    assert_eq!(
        third(
            &mut lab,
            (0..100).map(|sequence| echo(TARGET, 1000 - sequence, sequence, 3))
        )
        .len(),
        1
    );
    let mut lab = balanced("ports");
    assert_eq!(
        third(&mut lab, (0..100).map(|sequence| echo(TARGET, 1, sequence, 3))).len(),
        1
    );
}

#[test]
fn ipv6_flow_labels_may_decide() {
    let labelled = |label: u8| {
        let mut probe = udp(TARGET_V6, 33_434, 3);
        probe[3] = label;
        probe
    };
    let mut lab = balanced("flow-label");
    assert_eq!(third(&mut lab, (0..100).map(labelled)).len(), 4);
    assert_eq!(
        third(&mut lab, (0..100).map(|port| udp(TARGET_V6, 33_000 + port, 3))).len(),
        1
    );
    assert_eq!(
        third(&mut lab, (0..100).map(|port| udp(TARGET, 33_000 + port, 3))).len(),
        4
    );
    assert_eq!(third(&mut balanced("ports"), (0..100).map(labelled)).len(), 1);
}

#[test]
fn packets_may_go_their_own_ways() {
    for policy in ["packet", "round-robin"] {
        let mut lab = balanced(policy);
        assert_eq!(
            third(&mut lab, (0..100).map(|_| udp(TARGET, 33_434, 3))).len(),
            4,
            "{policy}"
        );
    }
}

#[test]
fn branches_may_differ_in_length_and_meet_again() {
    let topology = three(
        r#"
        balance = "round-robin"
        [[hop.branch]]
        [[hop.branch]]
        [[hop.branch.hop]]
        name = "long1"
        v4 = "10.1.0.1"
        delay = 5
        [[hop.branch.hop]]
        name = "long2"
        v4 = "10.1.0.2"
        "#,
        "",
    );
    let mut lab = Lab::new(&topology);
    let heard: Vec<_> = (0..2).map(|_| lab.ask_one(&udp(TARGET, 33_434, 3))).collect();
    assert_eq!(heard[0].from, ip("10.1.0.1"));
    assert_eq!(heard[1].from, ip("10.0.3.1"));
    let heard: Vec<_> = (0..2).map(|_| lab.ask_one(&echo(TARGET, 1, 1, 64))).collect();
    assert_eq!((heard[0].after, heard[0].ttl), (ms(18.0), 64 - 5));
    assert_eq!((heard[1].after, heard[1].ttl), (ms(8.0), 64 - 3));
}

#[test]
fn balancers_in_a_row_decide_independently() {
    let split = |name: &str, net: u8| {
        format!(
            r#"
            [[hop]]
            name = "{name}"
            v4 = "10.2.{net}.1"
            balance = "ports"
            [[hop.branch]]
            [[hop.branch.hop]]
            name = "{name}-left"
            v4 = "10.2.{net}.2"
            [[hop.branch]]
            [[hop.branch.hop]]
            name = "{name}-right"
            v4 = "10.2.{net}.3"
            "#
        )
    };
    let mut lab = Lab::new(&format!(
        "{}{}[[target]]\nv4 = \"{TARGET}\"",
        split("x", 1),
        split("y", 2)
    ));
    let ways: BTreeSet<_> = (0..100)
        .map(|port| [2, 4].map(|ttl| lab.ask_one(&udp(TARGET, 33_000 + port, ttl)).from))
        .collect();
    assert_eq!(ways.len(), 4);
}
