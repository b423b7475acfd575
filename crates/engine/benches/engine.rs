//! What a trace costs the engine: 10,000 at once through all 11 hops on simulated time, from start to result.
//!
//! The figure is the time per trace, and the throughput that of probes.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use support::{
    Action, Engine, Event, HOPS, METHODS, Method, NetworkEvent, Probe, Reply, TRACES, Time, answer,
};

const RTT: Duration = Duration::from_millis(10);

/// Runs all traces. `respond` gives the reply to the n-th probe sent. Returns how many results were complete.
fn run(engine: &mut Engine, mut respond: impl FnMut(usize, &Probe) -> Reply) -> usize {
    let mut now = Time::ZERO + Duration::from_secs(1);
    // All replies take equally long, so they arrive in the order in which they were caused.
    let mut under_way: VecDeque<(Time, Reply)> = VecDeque::with_capacity(TRACES);
    let (mut sent, mut complete) = (0, 0);
    loop {
        while let Some(action) = engine.poll_action(now) {
            let Action::Send { token, probe } = action else {
                panic!("no connections here")
            };
            engine.sent(token, now);
            under_way.push_back((now + RTT, respond(sent, &probe)));
            sent += 1;
        }
        while let Some(event) = engine.poll_event() {
            if let Event::Finished { result, .. } = event {
                complete += usize::from(result.unwrap().hops.len() == usize::from(HOPS));
            }
        }
        let reply_at = under_way.front().map(|(at, _)| *at);
        let Some(next) = engine.wake_at().into_iter().chain(reply_at).min() else {
            return complete;
        };
        now = now.max(next);
        for _ in 0..128 {
            let Some((at, reply)) = under_way.pop_front_if(|(at, _)| *at <= now) else {
                break;
            };
            engine.handle(now, NetworkEvent::Reply { reply: &reply, at });
        }
    }
}

/// The replies to all probes in the order of sending: the same in every run, as identifiers depend on the seed only.
fn rehearse(method: Method) -> Vec<Reply> {
    let mut engine = support::engine(method, Time::ZERO);
    let mut replies = Vec::new();
    let complete = run(&mut engine, |_, probe| {
        let reply = answer(probe);
        replies.push(reply);
        reply
    });
    assert_eq!((complete, replies.len()), (TRACES, TRACES * usize::from(HOPS)));
    replies
}

/// The time that `count` traces take.
fn measure(method: Method, replies: &[Reply], count: u64) -> Duration {
    let (mut elapsed, mut done) = (Duration::ZERO, 0);
    while done < count {
        let started = Instant::now();
        let mut engine = support::engine(method, Time::ZERO);
        let complete = run(&mut engine, |index, _| replies[index]);
        elapsed += started.elapsed();
        assert_eq!(complete, TRACES);
        done += TRACES as u64;
    }
    elapsed.mul_f64(count as f64 / done as f64)
}

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .throughput(Throughput::Elements(u64::from(HOPS)));
    for (name, method) in METHODS {
        let replies = rehearse(method);
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter_custom(|count| measure(method, &replies, count));
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
