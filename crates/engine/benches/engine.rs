//! What the engine itself costs, on simulated time: `cargo bench -p traceroute-engine`.

use std::collections::BinaryHeap;
use std::hint::black_box;
use std::net::IpAddr;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use traceroute_engine::{Action, Engine, EngineEvent, Method, NetworkEvent, Time, TraceOutcome, TraceSpec};
use traceroute_wire::{
    IcmpError, MAX_PROBE_LEN, MplsStack, Probe, ProbeKind, Quoted, QuotedTransport, Reply, ReplyKind,
    SackInfo, TcpFlags, TcpReply,
};

const TRACES: u16 = 10_000;
const HOPS: u8 = 11;
const METHODS: [(&str, Method); 3] = [
    ("icmp", Method::Icmp),
    ("udp", Method::Udp),
    ("tcp_syn", Method::TcpSyn),
];

fn client() -> IpAddr {
    [192, 0, 2, 1].into()
}

fn target() -> IpAddr {
    [203, 0, 113, 9].into()
}

/// An engine with all traces started.
fn loaded(method: Method) -> Engine {
    let mut engine = Engine::new(usize::from(TRACES), [9; 32]);
    let spec = TraceSpec::full(method, target(), 33434, 30, Duration::from_secs(1));
    for index in 0..TRACES {
        engine
            .start(Time::ZERO, spec, client(), 20_000 + index)
            .expect("started");
    }
    engine
}

/// What the path says to a probe: a time exceeded, or the target's answer.
fn answer(probe: &Probe) -> Reply {
    let reply = |source, kind| Reply {
        source,
        destination: client(),
        ttl: 60,
        kind,
    };
    match probe.kind {
        ProbeKind::Echo {
            identifier,
            sequence,
            cookie,
            ..
        } if probe.ttl >= HOPS => reply(
            target(),
            ReplyKind::Echo {
                identifier,
                sequence,
                cookie: Some(cookie),
            },
        ),
        ProbeKind::TcpSyn {
            source_port,
            destination_port,
            sequence,
            ..
        } if probe.ttl >= HOPS => {
            let tcp = TcpReply {
                source_port: destination_port,
                destination_port: source_port,
                sequence: 1,
                acknowledgment: sequence.wrapping_add(1),
                flags: TcpFlags {
                    syn: true,
                    ack: true,
                    rst: false,
                    fin: false,
                },
                payload_len: 0,
                sack: SackInfo::default(),
                timestamps: None,
            };
            reply(target(), ReplyKind::Tcp(tcp))
        }
        _ => {
            let (source, error) = match probe.ttl {
                HOPS.. => (target(), IcmpError::Unreachable { code: 3 }),
                ttl => ([10, 0, ttl, 1].into(), IcmpError::TimeExceeded),
            };
            reply(
                source,
                ReplyKind::IcmpError {
                    error,
                    quoted: quote(probe),
                    mpls: MplsStack::default(),
                },
            )
        }
    }
}

fn quote(probe: &Probe) -> Quoted {
    let mut buffer = [0; MAX_PROBE_LEN];
    let packet = probe.encode(&mut buffer).expect("one family");
    let word = |at: usize| u16::from_be_bytes([packet[20 + at], packet[21 + at]]);
    let transport = match probe.kind {
        ProbeKind::Echo { .. } => QuotedTransport::Echo {
            identifier: word(4),
            sequence: word(6),
            checksum: word(2),
        },
        ProbeKind::Udp { .. } => QuotedTransport::Udp {
            source_port: word(0),
            destination_port: word(2),
            length: word(4),
            checksum: word(6),
        },
        ProbeKind::TcpSyn { sequence, .. } | ProbeKind::TcpSack { sequence, .. } => QuotedTransport::Tcp {
            source_port: word(0),
            destination_port: word(2),
            sequence,
            timestamp: None,
        },
    };
    Quoted {
        source: client(),
        destination: target(),
        ttl: 1,
        identification: probe.identification,
        flow_label: 0,
        transport,
    }
}

/// A reply finds its trace among ten thousand.
fn matching(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("match_among_10000");
    for (name, method) in METHODS {
        let mut engine = loaded(method);
        let mut replies = Vec::new();
        while let Some(Action::Send { token, probe }) = engine.poll_action(Time::ZERO) {
            engine.sent(token, Time::ZERO);
            replies.push(answer(&probe));
        }
        let at = Time::from_nanos(1_000_000);
        let mut next = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                // After the first round these are duplicates: the same look-up, without the hop
                // being noted.
                let reply = black_box(&replies[next % replies.len()]);
                next += 7919;
                engine.handle(at, NetworkEvent::Reply { reply, at });
                engine.poll_event()
            });
        });
    }
    group.finish();
}

/// Ten thousand traces from start to result. Includes making the replies.
fn whole(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("10000_traces_of_11_hops");
    group
        .sample_size(10)
        .throughput(Throughput::Elements(u64::from(TRACES)));
    for (name, method) in METHODS {
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || loaded(method),
                |engine| assert_eq!(run(engine), usize::from(TRACES)),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

/// Runs to the end, each answer 1 ms after its probe; how many traces found the destination at the
/// right TTL.
fn run(mut engine: Engine) -> usize {
    let mut complete = 0;
    let mut now = Time::ZERO;
    let mut replies = Vec::new();
    let mut due = BinaryHeap::new();
    loop {
        while let Some(Action::Send { token, probe }) = engine.poll_action(now) {
            engine.sent(token, now);
            due.push(std::cmp::Reverse((now + Duration::from_millis(1), replies.len())));
            replies.push(answer(&probe));
        }
        while let Some(event) = engine.poll_event() {
            if let EngineEvent::Finished {
                result: Ok(TraceOutcome::Run(run)),
                ..
            } = event
            {
                complete += usize::from(run.hops.len() == usize::from(HOPS));
            }
        }
        let next_reply = due.peek().map(|std::cmp::Reverse((at, _))| *at);
        now = match (engine.wake_at(), next_reply) {
            (None, None) => return complete,
            (a, b) => a.unwrap_or(Time::MAX).min(b.unwrap_or(Time::MAX)),
        };
        while let Some(std::cmp::Reverse((at, index))) = due.peek().copied().filter(|entry| entry.0.0 <= now)
        {
            due.pop();
            engine.handle(
                now,
                NetworkEvent::Reply {
                    reply: &replies[index],
                    at,
                },
            );
        }
    }
}

criterion_group!(benches, matching, whole);
criterion_main!(benches);
