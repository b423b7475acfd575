//! Those who ask for nothing but what the service is for.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use datadog_traceroute::document::Document;
use tokio::time::{sleep, timeout};
use traceroute_bench::{get, percentile};

use super::{TOKEN, block_on};
use crate::linux::{Failure, path};

/// Health at the 99th percentile.
const LATEST_HEALTH: Duration = Duration::from_millis(100);

/// Asks for health as a kubelet does, on a new connection each time.
pub(crate) fn health(server: SocketAddr, seconds: u64) -> Result<(), Failure> {
    block_on(async {
        let begun = Instant::now();
        let (mut times, mut failed) = (Vec::new(), 0);
        while begun.elapsed() < Duration::from_secs(seconds) {
            let asked = Instant::now();
            let answer = timeout(Duration::from_secs(5), get(server, "/health", "")).await;
            if !matches!(answer, Ok(Ok((200, _)))) {
                failed += 1;
            }
            times.push(asked.elapsed().as_secs_f64() * 1000.0);
            sleep(Duration::from_millis(50)).await;
        }
        times.sort_by(f64::total_cmp);
        let [median, late, last] = [0.5, 0.99, 1.0].map(|share| percentile(&times, share));
        println!(
            "{} times, {failed} failed; {median:.1} ms, {late:.1} ms p99, {last:.1} ms at most",
            times.len()
        );
        if failed > 0 || late > LATEST_HEALTH.as_secs_f64() * 1000.0 {
            return Err("health is late".into());
        }
        Ok(())
    })
}

/// Traces again and again, and asks once more when told to come back later.
pub(crate) fn trace(server: SocketAddr, hops: &str, seconds: u64) -> Result<(), Failure> {
    let expected = path(hops)?;
    let target = expected.last().ok_or("no target")?;
    block_on(async {
        let begun = Instant::now();
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        let mut times = Vec::new();
        let token = format!("Authorization: Bearer {TOKEN}\r\n");
        while begun.elapsed() < Duration::from_secs(seconds) {
            let query = "traceroute-queries=1&e2e-queries=1&timeout=1000&max-ttl=10";
            let uri = format!("/traceroute?target={target}&{query}");
            let asked = Instant::now();
            let what = match timeout(Duration::from_mins(1), get(server, &uri, &token)).await {
                Ok(Ok((200, body))) => {
                    let document: Document = serde_json::from_str(&body)?;
                    let right = is_right(&document, &expected);
                    (if right { "right" } else { "wrong" }).to_owned()
                }
                Ok(Ok((status, body))) => format!("{status} {}", body.trim()),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            times.push(asked.elapsed().as_secs_f64() * 1000.0);
            *counts.entry(what).or_default() += 1;
            sleep(Duration::from_millis(200)).await;
        }
        times.sort_by(f64::total_cmp);
        let all: u32 = counts.values().sum();
        let late = percentile(&times, 0.99);
        let right = counts.remove("right").unwrap_or(0);
        println!(
            "{right} of {all} paths right, {late:.0} ms p99 {}",
            others(&counts)
        );
        let others: u32 = counts.values().sum();
        if right == 0 || others * 100 > right {
            return Err("more than one of a hundred traces failed".into());
        }
        Ok(())
    })
}

/// What came instead of right paths.
fn others(counts: &BTreeMap<String, u32>) -> String {
    let others = counts.iter().map(|(what, times)| format!("({times} × {what})"));
    others.collect::<Vec<_>>().join(" ")
}

/// All hops but the fourth, which is silent.
fn is_right(document: &Document, expected: &[IpAddr]) -> bool {
    document.traceroute.runs.iter().all(|run| {
        let hops = run.hops.iter().zip(expected).enumerate();
        run.hops.len() == expected.len()
            && hops
                .into_iter()
                .all(|(index, (hop, right))| hop.ip_address == (index != 3).then_some(*right))
    })
}
