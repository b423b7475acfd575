//! The driver over the kernel's own network, in a namespace: what comes in between two traces.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use datadog_traceroute::driver::Driver;
use traceroute_engine::{Method, Route, Token, TraceOutcome, TraceSpec};
use traceroute_net::NetworkOptions;
use traceroute_testbed::{not_run, require_lab};
use traceroute_wire::{ECHO_PAYLOAD, Probe, ProbeKind};

/// More than any capture has room for.
const FLOOD: u64 = 20_000;

/// Echo replies for somebody else.
fn flood(address: IpAddr) {
    let mut network = traceroute_net::open(NetworkOptions::default()).unwrap();
    let route = Route {
        source: address,
        interface: 0,
        mark: 0,
    };
    for number in 0..FLOOD {
        let probe = Probe {
            source: address,
            destination: address,
            ttl: 64,
            identification: 1,
            flow_label: 1,
            tos: 0,
            dont_fragment: false,
            kind: ProbeKind::Echo {
                identifier: 7,
                sequence: 1,
                tag: 1,
                cookie: [0; 6],
                payload_len: ECHO_PAYLOAD,
            },
        };
        let token = Token {
            trace: number,
            probe: 0,
        };
        network.send_on(&probe, &route, token).unwrap();
    }
}

/// On loopback the answer is captured before the probe's system call returns.
#[test]
fn foreign_packets_between_two_traces_cost_the_second_no_answer() {
    let Some(lab) = require_lab() else { return };
    if lab.is_unprivileged() {
        return not_run("needs a privileged lab: use `unshare -Ur`");
    }
    let host = lab.node("host").unwrap();
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let trace = || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for heavy_load in [false, true] {
            let options = NetworkOptions {
                heavy_load,
                ..NetworkOptions::default()
            };
            let open = Box::new(move || traceroute_net::open(options));
            let driver = Driver::spawn(open, 10, [3; 32]).unwrap();
            for address in loopback {
                let answer = || {
                    let spec = TraceSpec::single(Method::Icmp, address, 0, 30, Duration::from_secs(1));
                    match runtime.block_on(driver.trace(spec, None)).unwrap() {
                        TraceOutcome::Run(result) => result.hops[0].answer,
                        other => panic!("no run: {other:?}"),
                    }
                };
                assert!(answer().is_some(), "{address} {heavy_load}");
                flood(address);
                assert!(answer().is_some(), "{address} {heavy_load}");
            }
        }
    };
    host.enter(trace).unwrap();
}
