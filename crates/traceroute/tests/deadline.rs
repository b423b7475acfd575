//! However little answers, a request ends in time: the Datadog Agent gives up at max TTL × timeout
//! + 10 s.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use datadog_traceroute::{
    DEFAULT_E2E_QUERIES, PathsOptions, Protocol, PublicIp, Request, ReverseDns, TcpMethod, Tracer,
    TracerOptions,
};
use futures_util::future::join_all;
use traceroute_testbed::{Chain, Lab, require_lab};

const MAX_TTL: u8 = 5;
const TIMEOUT: Duration = Duration::from_millis(200);
/// 5 s beyond max TTL × timeout.
const ALLOWED: Duration = Duration::from_secs(5).saturating_add(TIMEOUT.saturating_mul(MAX_TTL as u32));

/// One request for each way of probing, in both families, with everything else that takes time.
fn requests(chain: &Chain, e2e_probes: u32) -> Vec<Request> {
    let methods = [
        (Protocol::Udp, TcpMethod::Syn),
        (Protocol::Icmp, TcpMethod::Syn),
        (Protocol::Tcp, TcpMethod::Syn),
        (Protocol::Tcp, TcpMethod::Sack),
        (Protocol::Tcp, TcpMethod::PreferSack),
    ];
    let targets = [chain.target_v4().to_string(), chain.target_v6().to_string()];
    let request = |target: &String, (protocol, method)| {
        Request::to(target)
            .protocol(protocol)
            .tcp_method(method)
            .max_ttl(MAX_TTL)
            .timeout(TIMEOUT)
            .hop_retries(10)
            .e2e_probes(e2e_probes)
            .reverse_dns(true)
            .source_public_ip(true)
            .build()
            .unwrap()
    };
    targets
        .iter()
        .flat_map(|target| methods.map(|method| request(target, method)))
        .collect()
}

/// A tracer whose name server and services say nothing at all.
fn tracer(chain: &Chain) -> Tracer {
    let silent = SocketAddr::from((chain.hop_addresses_v4()[0], 53));
    let service = format!("http://{silent}");
    Tracer::with_options(TracerOptions {
        reverse_dns: ReverseDns::with_name_servers(vec![silent]),
        public_ip: PublicIp::with_services(vec![service; 5]),
        ..TracerOptions::default()
    })
}

/// How much later than asked for this runtime wakes who sleeps, added up from this time on.
async fn note_lateness(from: Instant, late: &Cell<Duration>) {
    let mut due = from;
    loop {
        tokio::time::sleep_until(due.into()).await;
        let now = Instant::now();
        late.set(late.get() + (now - due));
        due = now + Duration::from_millis(10);
    }
}

/// How long the slowest of `times` requests of each kind at once takes, without what the machine
/// was late by at the end.
fn longest(chain: &Chain, times: usize) -> Duration {
    let traced = chain.client.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let tracer = tracer(chain);
        // Whose end-to-end probes come last.
        let discoveries = requests(chain, 0);
        let requests: Vec<Request> = (0..times)
            .flat_map(|_| requests(chain, DEFAULT_E2E_QUERIES))
            .collect();
        let trace = async |request: &Request| {
            let start = Instant::now();
            // An error is an end, too.
            let _ = tracer.trace(request).await;
            start.elapsed()
        };
        let discover = async |request: &Request| {
            let start = Instant::now();
            let _ = tracer.paths(request, PathsOptions::default()).await;
            start.elapsed()
        };
        let late = Cell::default();
        let from = Instant::now() + ALLOWED.saturating_sub(Duration::from_millis(200));
        let elapsed = runtime.block_on(async {
            let traces = join_all(requests.iter().map(trace));
            let discoveries = join_all(discoveries.iter().map(discover));
            tokio::select! {
                // First: what the others finish late has been noted then.
                biased;
                () = note_lateness(from, &late) => unreachable!(),
                (traces, discoveries) = async { tokio::join!(traces, discoveries) } => {
                    [traces, discoveries].concat()
                }
            }
        });
        // A lookup that still waits cannot be stopped, only left behind.
        runtime.shutdown_background();
        elapsed.into_iter().max().unwrap().saturating_sub(late.get())
    });
    traced.unwrap()
}

fn chain(lab: &Lab) -> Chain {
    let chain = lab.chain(4).unwrap();
    // Nobody answers for names or addresses, not even that nobody listens.
    chain.routers[0].drop_packets("udp dport 53").unwrap();
    chain.routers[0].drop_packets("tcp dport 53").unwrap();
    chain
}

#[test]
fn no_request_takes_longer_than_it_may() {
    let Some(lab) = require_lab() else { return };
    let answering = chain(&lab);
    let took = longest(&answering, 1);
    assert!(took <= ALLOWED, "all answer: {took:?}");
    // The name server has been waited for, so there was something to bound.
    assert!(took > Duration::from_secs(2), "all answer: {took:?}");

    let silent = chain(&lab);
    for router in &silent.routers {
        router.silence().unwrap();
    }
    silent.target.drop_packets("ip ttl < 255").unwrap();
    silent.target.drop_packets("ip6 hoplimit < 255").unwrap();
    let took = longest(&silent, 1);
    assert!(took <= ALLOWED, "nobody answers: {took:?}");

    let limited = chain(&lab);
    for router in &limited.routers {
        router.icmp_rate_limits(true).unwrap();
    }
    limited.target.icmp_rate_limits(true).unwrap();
    let took = longest(&limited, 4);
    assert!(took <= ALLOWED, "everybody limits answers: {took:?}");
}
