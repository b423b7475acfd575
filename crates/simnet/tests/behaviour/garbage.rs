//! Nothing that a client sends may crash the network.

use std::time::Duration;

use crate::lab::*;
use traceroute_simnet::{Network, describe, examples};

fn seeds() -> Vec<Vec<u8>> {
    [TARGET, TARGET_V6, "198.51.100.11", "2001:db8:ffff::11"]
        .into_iter()
        .flat_map(|target| {
            [2, 5, 64].into_iter().flat_map(move |ttl| {
                [
                    udp(target, 33_434, ttl),
                    echo(target, 1, 1, ttl),
                    syn(target, 80, ttl),
                ]
            })
        })
        .collect()
}

#[test]
fn mutated_packets_do_no_harm() {
    let mut rng = fastrand::Rng::with_seed(7);
    let seeds = seeds();
    for example in examples() {
        let mut network = Network::new(&example.topology().unwrap(), 1);
        for round in 0..3000_u64 {
            let mut packet = rng.choice(&seeds).unwrap().clone();
            for _ in 0..rng.usize(0..4) {
                let at = rng.usize(..packet.len());
                packet[at] = rng.u8(..);
            }
            if rng.bool() {
                packet.truncate(rng.usize(..=packet.len()));
            }
            describe(&packet);
            network.inject(Duration::from_millis(round), &packet);
            while let Some(delivery) = network.poll(Duration::from_millis(round)) {
                describe(&delivery.packet);
            }
        }
        assert_eq!(network.injected(), 3000);
    }
}

#[test]
fn local_traffic_of_the_client_is_ignored() {
    let mut lab = Lab::new(&three("", ""));
    for target in [
        "224.0.0.251",
        "255.255.255.255",
        "169.254.1.1",
        "ff02::2",
        "fe80::1",
    ] {
        assert!(lab.ask(&udp(target, 5353, 64)).is_empty());
    }
    assert!(lab.ask(&[]).is_empty());
    assert_eq!((lab.network.injected(), lab.network.ignored()), (6, 6));
    assert_eq!(lab.counters("r1").seen, 0);
}

#[test]
fn link_layer_padding_is_cut_off() {
    let mut lab = Lab::new(&three("", ""));
    let mut probe = udp(TARGET, 33_434, 2);
    let length = probe.len();
    probe.extend([0xEE; 30]);
    assert_eq!(lab.ask_one(&probe).icmp().body.len(), length);
}
