//! How long it takes to find the probe of a reply among 10,000 traces in flight, and to credit it.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use support::{Action, HOPS, METHODS, Method, NetworkEvent, Reply, TRACES, Time, answer};

/// Replies between two looks at the engine's events, as the driver has it.
const BATCH: usize = 128;

/// The time that `count` replies take, by the median of batches: a busy machine interrupts some of them for long. Replies
/// come in random order; making them is not measured.
fn measure(method: Method, count: u64) -> Duration {
    let mut batches = Vec::new();
    while ((batches.len() * BATCH) as u64) < count {
        let mut now = Time::ZERO + Duration::from_secs(1);
        let mut engine = support::engine(method, now);
        for _ in 0..HOPS {
            let mut replies: Vec<Reply> = Vec::with_capacity(TRACES);
            while let Some(Action::Send { token, probe }) = engine.poll_action(now) {
                engine.sent(token, now);
                replies.push(answer(&probe));
            }
            assert_eq!(replies.len(), TRACES);
            fastrand::shuffle(&mut replies);
            now = now + Duration::from_millis(1);
            for batch in replies.chunks_exact(BATCH) {
                let started = Instant::now();
                for reply in batch {
                    engine.handle(now, NetworkEvent::Reply { reply, at: now });
                }
                batches.push(started.elapsed());
                while engine.poll_event().is_some() {}
            }
            for reply in replies.chunks_exact(BATCH).remainder() {
                engine.handle(now, NetworkEvent::Reply { reply, at: now });
            }
            now = now + Duration::from_millis(50);
        }
        let expected = TRACES * usize::from(HOPS);
        assert_eq!(
            engine.counters().matched,
            expected as u64,
            "every reply must be credited"
        );
    }
    batches.sort_unstable();
    batches[batches.len() / 2].mul_f64(count as f64 / BATCH as f64)
}

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("match");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    for (name, method) in METHODS {
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter_custom(|count| measure(method, count));
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
