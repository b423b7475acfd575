//! How long it takes to read one reply.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../tests/wire/support/mod.rs"]
mod support;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use support::packets::{self, v4, v6};
use traceroute_wire::{Checksums, MAX_PROBE_LEN, MplsLabel, Probe, ProbeKind, decode};

fn replies() -> Vec<(&'static str, Vec<u8>)> {
    let (us, target, us6, target6) = (
        v4("192.0.2.10"),
        v4("198.51.100.7"),
        v6("2001:db8::10"),
        v6("2001:db8::7"),
    );
    let kind = ProbeKind::Udp {
        source_port: 50000,
        destination_port: 33434,
        tag: 7,
        payload_len: 10,
    };
    let probe = Probe {
        source: us,
        destination: target,
        ttl: 7,
        identification: 1,
        flow_label: 9,
        tos: 0,
        dont_fragment: false,
        kind,
    };
    let probe6 = Probe {
        source: us6,
        destination: target6,
        ..probe
    };
    let mut buffer = [0; MAX_PROBE_LEN];
    let quote = probe.encode(&mut buffer).unwrap().to_vec();
    let quote6 = probe6.encode(&mut buffer).unwrap().to_vec();
    let label = MplsLabel {
        label: 24001,
        traffic_class: 0,
        bottom: true,
        ttl: 1,
    };
    let options = packets::hex("020405b4 0402 080a0102030405060708 01 030307");
    vec![
        (
            "udp_time_exceeded_v4_56_bytes",
            packets::time_exceeded(target, us, 0, &quote[..28]),
        ),
        (
            "udp_time_exceeded_v6",
            packets::time_exceeded(target6, us6, 0, &quote6),
        ),
        (
            "echo_reply_v4",
            packets::echo(target, us, true, 1, 2, b"abcdef\x11\x22"),
        ),
        (
            "syn_ack_v4",
            packets::tcp(target, us, (443, 50001), (1, 2), 0x12, &options, &[]),
        ),
        (
            "time_exceeded_mpls_v4",
            packets::time_exceeded_with_mpls(target, us, &quote, true, &[label]),
        ),
    ]
}

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for (name, packet) in replies() {
        decode(&packet, Checksums::Verify).unwrap();
        group.bench_function(name, |bencher| {
            bencher.iter(|| decode(black_box(&packet), black_box(Checksums::Verify)));
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
