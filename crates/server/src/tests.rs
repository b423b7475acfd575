//! The router in memory, over a backend that traces nothing.

use std::future::pending;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, Response, StatusCode};
use datadog_traceroute::{
    Answer, Cause, Distance, End, EndToEnd, Error, Event, Hop, Host, IcmpError, Losses, Method, Paths,
    PathsEvent, PathsOptions, Protocol, Report, ResolveError, Run, RunError, Statistics, TraceResult, Uuid,
    json,
};
use futures_util::future::BoxFuture;
use http_body_util::BodyExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tower::ServiceExt;
use traceroute_engine::TraceError;

use crate::auth::Tokens;
use crate::backend::{Backend, OnEvent};
use crate::browser::AllowedHosts;
use crate::connections::{Client, Connection, ConnectionCounters, Connections};
use crate::job::Job;
use crate::limits::{Capacity, Ceilings};
use crate::observe::BodyLimit;
use crate::parameters::Query;
use crate::policy::{Choices, Policy, parse_subnet};
use crate::router::{Service, Settings, router};
use crate::tokens::Guest;

/// Always the same.
fn report() -> Report {
    let [source, router, target] =
        ["192.0.2.10", "192.0.2.1", "198.51.100.9"].map(|text| text.parse().unwrap());
    let rtt = |micros| (micros > 0).then(|| Duration::from_micros(micros));
    let hop = |(ttl, answer)| Hop {
        ttl,
        answer,
        attempts: 1,
        lost: Losses::default(),
        nat: false,
    };
    let answers = [
        Some(Answer::new(router, rtt(1200), Some(IcmpError::TimeExceeded))),
        None,
        Some(Answer::new(target, rtt(12_700), None)),
    ];
    let result = TraceResult {
        source,
        source_port: 54321,
        destination: target,
        destination_port: 33434,
        hops: (1..).zip(answers).map(hop).collect(),
        probes_sent: 3,
        distance: Distance::Known,
        end: End::Destination,
        retries_limited: false,
    };
    let mut run = Run::new(0, Method::Udp, result);
    run.id = Uuid::nil();
    let mut report = Report::new("example.com", 33434, Protocol::Udp, vec![run]);
    report.end_to_end = EndToEnd::new([12_700, 12_500, 0, 12_900].map(rtt).to_vec());
    report.end_to_end.lost.add(Cause::Network, 1);
    report.end_to_end.refused = 2;
    report
}

/// What the backend does with every trace.
enum Outcome {
    Succeed,
    Fail(Vec<&'static str>),
    /// Never ends.
    Hang,
    /// More happens at once than anybody can read.
    Chatter,
}

struct Fake {
    outcome: Outcome,
    /// What names resolve to.
    address: IpAddr,
    requests: Mutex<Vec<datadog_traceroute::Request>>,
    /// From when on their time counts.
    starts: Mutex<Vec<Instant>>,
    /// Why the driver does not start, if it does not.
    driver: Mutex<Option<&'static str>>,
    driver_starts: AtomicUsize,
    running: Arc<AtomicUsize>,
}

/// Counts a trace while it runs.
struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Backend for Fake {
    fn resolve<'a>(
        &'a self,
        request: &'a datadog_traceroute::Request,
    ) -> BoxFuture<'a, Result<IpAddr, Error>> {
        Box::pin(async move {
            match request.host() {
                Host::Address(address) => Ok(*address),
                Host::Name(name) if name == "never.invalid" => pending().await,
                Host::Name(name) if name == "slow.invalid" => {
                    sleep(Duration::from_secs(3)).await;
                    Ok(self.address)
                }
                Host::Name(name) if name == "nowhere.invalid" => Err(Error::Resolve(ResolveError::Lookup {
                    host: name.clone(),
                    source: std::io::Error::other("no such name"),
                })),
                Host::Name(_) => Ok(self.address),
            }
        })
    }

    fn trace<'a>(
        &'a self,
        start: Instant,
        request: &'a datadog_traceroute::Request,
        tell: Option<OnEvent>,
    ) -> BoxFuture<'a, Result<Report, Error>> {
        Box::pin(async move {
            self.requests.lock().unwrap().push(request.clone());
            self.starts.lock().unwrap().push(start);
            self.running.fetch_add(1, Ordering::SeqCst);
            let _running = Running(Arc::clone(&self.running));
            if let Some(mut tell) = tell {
                if matches!(self.outcome, Outcome::Chatter) {
                    (0..100_000).for_each(|index| tell(Event::E2eProbe { index, rtt: None }));
                }
                tell(Event::HopFound {
                    run: 0,
                    ttl: 1,
                    answer: Answer {
                        destination: false,
                        ..Answer::new(
                            Ipv4Addr::new(192, 0, 2, 1).into(),
                            Some(Duration::from_micros(1200)),
                            None,
                        )
                    },
                });
                tell(Event::RunFinished { run: 0 });
            }
            match &self.outcome {
                Outcome::Succeed | Outcome::Chatter => Ok(report()),
                Outcome::Fail(causes) => Err(Error::Traces(
                    causes
                        .iter()
                        .map(|cause| RunError::Trace(TraceError::SackNotSupported((*cause).to_owned())))
                        .collect(),
                )),
                Outcome::Hang => pending().await,
            }
        })
    }

    fn paths<'a>(
        &'a self,
        start: Instant,
        request: &'a datadog_traceroute::Request,
        options: PathsOptions,
        tell: Option<OnEvent<PathsEvent>>,
    ) -> BoxFuture<'a, Result<Paths, Error>> {
        assert_eq!(Some(options), PathsOptions::default().confidence(0.99));
        assert_eq!(request.e2e_probes(), 0);
        self.starts.lock().unwrap().push(start);
        let stopped = Error::Traces(vec![RunError::Trace(TraceError::Stopped)]);
        Box::pin(async move {
            self.running.fetch_add(1, Ordering::SeqCst);
            let _running = Running(Arc::clone(&self.running));
            if let Some(mut tell) = tell {
                tell(PathsEvent::Moved { ttl: 3 });
            }
            match &self.outcome {
                Outcome::Hang => pending().await,
                _ => Err(stopped),
            }
        })
    }

    fn statistics(&self) -> BoxFuture<'_, Option<Statistics>> {
        Box::pin(async { Some(Statistics::default()) })
    }

    fn start_windows_driver(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.driver_starts.fetch_add(1, Ordering::SeqCst);
        let failure = *self.driver.lock().unwrap();
        Box::pin(
            async move { failure.map_or(Ok(()), |cause| Err(Error::Start(std::io::Error::other(cause)))) },
        )
    }
}

/// A service under test.
struct Bench {
    fake: Arc<Fake>,
    router: Router,
    service: Arc<Service>,
    cancel: watch::Sender<bool>,
}

fn capacity(traces: u32) -> Capacity {
    Capacity {
        traces,
        packet_rate: 500_000,
        memory: 1 << 32,
    }
}

fn settings() -> Settings {
    Settings {
        ceilings: Ceilings::default(),
        capacity: capacity(1000),
        body: BodyLimit {
            size: 1000,
            timeout: Duration::from_secs(5),
        },
        policy: Policy::default(),
        tokens: Arc::default(),
        allowed_hosts: AllowedHosts::default(),
        max_requests_per_minute: None,
        max_ports: u32::MAX,
        tls: None,
    }
}

fn bench_with(outcome: Outcome, settings: Settings) -> Bench {
    let fake = Arc::new(Fake {
        outcome,
        address: Ipv4Addr::new(192, 0, 2, 9).into(),
        requests: Mutex::default(),
        starts: Mutex::default(),
        driver: Mutex::default(),
        driver_starts: AtomicUsize::default(),
        running: Arc::default(),
    });
    let (cancel, cancelled) = watch::channel(false);
    let backend: Arc<dyn Backend> = Arc::clone(&fake) as _;
    let service = Service::new(backend, settings, cancelled);
    Bench {
        fake,
        router: router(Arc::clone(&service)),
        service,
        cancel,
    }
}

fn bench(outcome: Outcome) -> Bench {
    bench_with(outcome, settings())
}

/// What a client sees.
struct HttpAnswer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl HttpAnswer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Bench {
    async fn respond(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn send(&self, request: Request<Body>) -> HttpAnswer {
        let response = self.respond(request).await;
        let (parts, body) = response.into_parts();
        let bytes: Bytes = body.collect().await.unwrap().to_bytes();
        HttpAnswer {
            status: parts.status,
            headers: parts.headers,
            body: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    async fn get(&self, uri: &str) -> HttpAnswer {
        self.send(request("GET", uri, &[])).await
    }
}

fn request(method: &str, uri: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let mut builder = Request::builder().method(method).uri(uri).header("host", "test");
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(Body::empty()).unwrap()
}

#[tokio::test]
async fn success_is_the_compact_document() {
    let bench = bench(Outcome::Succeed);
    let answer = bench.get("/traceroute?target=example.com").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.body, json::to_compact(&report()).unwrap());
    assert!(answer.body.ends_with("}\n"));
    assert_eq!(answer.header("x-trace-id").len(), 32);
}

/// The document itself is the library's.
#[tokio::test]
async fn paths_take_their_own_parameters_and_fail_like_traces() {
    let bench = bench(Outcome::Succeed);
    for (query, status, message) in [
        (
            "confidence=0.99",
            400,
            "Invalid parameters: missing required parameter: target",
        ),
        (
            "target=host&confidence=2",
            400,
            "Invalid parameters: confidence must be between 0.5 and 0.9999, got \"2\"",
        ),
        (
            "target=host&max-probes=0",
            400,
            "Invalid parameters: max-probes must be between 1 and 1000000, got \"0\"",
        ),
        (
            "target=host&confidence=0.99",
            500,
            "Traceroute failed: the probing engine stopped",
        ),
    ] {
        let answer = bench.get(&format!("/paths?{query}")).await;
        assert_eq!(
            (answer.status.as_u16(), answer.body.trim_end()),
            (status, message),
            "{query}"
        );
        // What is known before the first event has its own status.
        let streamed = bench.get(&format!("/paths/stream?{query}")).await;
        if status == 400 {
            assert_eq!((streamed.status, streamed.body), (answer.status, answer.body));
            continue;
        }
        let events = "event: moved\ndata: {\"ttl\":3}\n\nevent: error\ndata: \
                      {\"code\":\"UNKNOWN\",\"message\":\"the probing engine stopped\"}\n\n";
        assert_eq!((streamed.status.as_u16(), streamed.body.as_str()), (200, events));
    }
}

#[tokio::test]
async fn parameters_reach_the_tracer() {
    let bench = bench(Outcome::Succeed);
    let query = "target=example.com:443&protocol=TCP&port=80&traceroute-queries=4&max-ttl=6&timeout=7\
                 &tcp-method=prefer_sack&e2e-queries=5&ipv6=1&reverse-dns=1&source-public-ip=1\
                 &windows-driver=1&skip-private-hops=1&details=1&hop-retries=8&e2e-interval=9\
                 &first-ttl=2&delay=0&dscp=46&dont-fragment=1&gap-limit=3";
    assert_eq!(bench.get(&format!("/traceroute?{query}")).await.status, 200);
    let request = bench.fake.requests.lock().unwrap()[0].clone();
    // The name was resolved once, and the document still shows it.
    assert_eq!(*request.host(), Host::Address(bench.fake.address));
    assert_eq!(request.hostname(), "example.com:443");
    assert_eq!((request.port(), request.probed_port()), (80, 443));
    assert_eq!(
        (request.runs(), request.e2e_probes(), request.max_ttl()),
        (4, 5, 6)
    );
    assert_eq!(request.timeout(), Duration::from_millis(7));
    assert!(request.ipv6() && request.reverse_dns() && request.source_public_ip());
    assert!(request.windows_driver() && request.skip_private_hops() && request.details());
    assert_eq!(
        (request.hop_retries(), request.e2e_interval()),
        (8, Some(Duration::from_millis(9)))
    );
    assert_eq!((request.first_ttl(), request.delay()), (2, Some(Duration::ZERO)));
    assert_eq!((request.tos(), request.dont_fragment()), (46 << 2, true));
    assert_eq!(request.gap_limit(), 3);
}

#[tokio::test]
async fn egress_is_the_clients_choice_only_where_it_is_allowed() {
    let queries = [
        ("source", "source=127.0.0.1"),
        ("interface", "interface=no-such-if"),
        ("fwmark", "fwmark=5"),
    ];
    let refusing = bench(Outcome::Succeed);
    for path in ["/traceroute", "/traceroute/stream"] {
        for (name, query) in queries {
            let answer = refusing.get(&format!("{path}?target=h&{query}")).await;
            assert_eq!(answer.status, 403, "{query}");
            assert_eq!(
                answer.body,
                format!("Parameter not allowed: {name}; this server's --allow-egress does not name it\n")
            );
        }
    }
    // Neither of these chooses anything.
    for query in ["source=&interface=&fwmark=", "fwmark=0"] {
        let answer = refusing.get(&format!("/traceroute?target=h&{query}")).await;
        assert_eq!(answer.status, 200, "{query}");
    }

    let egress = Choices {
        source: true,
        interface: true,
        fwmark: false,
    };
    let policy = Policy {
        egress,
        ..Policy::default()
    };
    let permitting = bench_with(Outcome::Succeed, Settings { policy, ..settings() });
    let status = |query: &str| {
        let uri = format!("/traceroute?target=h&{query}");
        let permitting = &permitting;
        async move { permitting.get(&uri).await }
    };
    assert_eq!(status("source=127.0.0.1").await.status, 200);
    let request = permitting.fake.requests.lock().unwrap()[0].clone();
    assert_eq!(request.source(), Some(Ipv4Addr::LOCALHOST.into()));
    assert_eq!(status("fwmark=5").await.status, 403);
    for (query, message) in [
        (
            "source=eth0",
            "source must be an IPv4 or IPv6 address, got \"eth0\"",
        ),
        (
            "fwmark=x",
            "fwmark must be a number between 0 and 4294967295, got \"x\"",
        ),
        (
            "interface=no-such-if",
            "this host has no interface \"no-such-if\"; ",
        ),
    ] {
        let answer = status(query).await;
        assert_eq!(answer.status, 400, "{query}");
        let expected = format!("Invalid parameters: {message}");
        assert!(answer.body.starts_with(&expected), "{query}: {}", answer.body);
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_nobody_resolves_takes_no_longer_than_the_request_may() {
    let bench = bench(Outcome::Succeed);
    for path in ["/traceroute", "/traceroute/stream"] {
        let start = Instant::now();
        let answer = bench
            .get(&format!("{path}?target=never.invalid&max-ttl=10&timeout=100"))
            .await;
        assert_eq!(start.elapsed().as_secs(), 1 + 5, "{path}");
        assert_eq!(answer.status, 500);
        let message = "Traceroute failed: the target's name was not resolved within the request's time\n";
        assert_eq!(answer.body, message);
    }
}

/// `/paths` had its whole time once more.
#[tokio::test(start_paused = true)]
async fn the_time_in_which_a_name_is_resolved_counts() {
    let bench = bench(Outcome::Succeed);
    for path in ["/traceroute", "/traceroute/stream", "/paths", "/paths/stream"] {
        let start = Instant::now();
        bench
            .get(&format!(
                "{path}?target=slow.invalid&confidence=0.99&e2e-queries=0"
            ))
            .await;
        assert_eq!(start.elapsed().as_secs(), 3, "{path}");
        assert_eq!(bench.fake.starts.lock().unwrap().pop(), Some(start), "{path}");
    }
}

#[tokio::test]
async fn the_driver_is_started_for_those_who_ask_for_it() {
    let bench = bench(Outcome::Succeed);
    assert_eq!(bench.get("/traceroute?target=h").await.status, 200);
    assert_eq!(bench.fake.driver_starts.load(Ordering::SeqCst), 0);
    assert_eq!(
        bench.get("/traceroute?target=h&windows-driver=true").await.status,
        200
    );
    assert_eq!(bench.fake.driver_starts.load(Ordering::SeqCst), 1);

    *bench.fake.driver.lock().unwrap() = Some("no such service");
    let answer = bench.get("/traceroute?target=h&windows-driver=true").await;
    assert_eq!(answer.status, 500);
    assert!(answer.body.contains("no such service"), "{}", answer.body);
    assert_eq!(bench.fake.requests.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn wrong_parameters() {
    let bench = bench(Outcome::Succeed);
    for (query, message) in [
        ("", "missing required parameter: target"),
        ("?target=", "missing required parameter: target"),
        ("?port=80", "missing required parameter: target"),
        ("?target=h&max-ttl=0", "max-ttl must be between 1 and 255, got 0"),
        (
            "?target=h&max-ttl=300",
            "max-ttl must be between 1 and 255, got 300",
        ),
        (
            "?target=h&port=65536",
            "port must be between 0 and 65535, got 65536",
        ),
        (
            "?target=h&timeout=-1",
            "timeout must be between 0 and 86400000 ms, got -1",
        ),
        (
            "?target=h&traceroute-queries=-1",
            "traceroute-queries must be between 0 and 65535, got -1",
        ),
        (
            "?target=h&e2e-queries=65536",
            "e2e-queries must be between 0 and 65535, got 65536",
        ),
        (
            "?target=h&max-ttl=8&first-ttl=9",
            "first-ttl must be between 1 and 8, got 9",
        ),
        (
            "?target=h&timeout=100&delay=101",
            "delay must be between 0 and 100 ms, got 101",
        ),
        (
            "?target=h&protocol=tcp&packet-size=100",
            "packet-size cannot be chosen for tcp: its probes carry no data, got 100",
        ),
        (
            "?target=192.0.2.1&packet-size=37",
            "packet-size must be between 38 and 65535 bytes, got 37",
        ),
        ("?target=h&tos=256", "tos must be between 0 and 255, got 256"),
        (
            "?target=h&tos=0&dscp=0",
            "dscp sets part of what tos sets: only one of the two may be given",
        ),
        (
            "?target=h&hop-retries=11",
            "hop-retries must be between 0 and 10, got 11",
        ),
        (
            "?target=h&e2e-interval=-1",
            "e2e-interval must be between 0 and 86400000 ms, got -1",
        ),
        (
            "?target=h&e2e-queries=4&e2e-interval=30001",
            "e2e-interval must let all 4 end-to-end probes be sent within max-ttl × timeout = 90000 ms, got 30001 ms",
        ),
        (
            "?target=h&protocol=sctp",
            "protocol must be udp, tcp or icmp, got \"sctp\"",
        ),
        (
            "?target=h&tcp-method=ack",
            "tcp-method must be syn, sack, prefer_sack or syn_socket, got \"ack\"",
        ),
        (
            "?target=a%20b",
            "target \"a b\" is not a host name: it contains ' '",
        ),
    ] {
        for path in ["/traceroute", "/traceroute/stream"] {
            let answer = bench.get(&format!("{path}{query}")).await;
            assert_eq!(answer.status, 400, "{query}");
            assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
            assert_eq!(answer.body, format!("Invalid parameters: {message}\n"));
        }
    }
    assert!(
        bench.fake.requests.lock().unwrap().is_empty(),
        "nothing was traced"
    );
}

#[tokio::test]
async fn only_get_traces() {
    let bench = bench(Outcome::Succeed);
    for path in [
        "/traceroute?target=h",
        "/traceroute/stream?target=h",
        "/probe?target=h",
    ] {
        for method in [
            "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW",
        ] {
            let answer = bench.send(request(method, path, &[])).await;
            assert_eq!(answer.status, 405, "{method}");
            assert_eq!(answer.header("allow"), "GET");
            // A response to HEAD has no body.
            let body = if method == "HEAD" {
                ""
            } else {
                "Method not allowed\n"
            };
            assert_eq!(answer.body, body);
        }
    }
    let answer = bench.send(request("POST", "/health", &[])).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("allow")),
        (405, "GET, HEAD")
    );
    assert!(
        bench.fake.requests.lock().unwrap().is_empty(),
        "nothing was traced"
    );
}

#[tokio::test]
async fn unknown_paths() {
    let bench = bench(Outcome::Succeed);
    for path in ["/nowhere", "/traceroute/", "/Traceroute", "/health/x"] {
        let answer = bench.get(path).await;
        assert_eq!(
            (answer.status.as_u16(), answer.body.as_str()),
            (404, "Not found\n"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn errors_are_json_for_those_who_prefer_it() {
    let bench = bench(Outcome::Fail(vec!["x"]));
    let json = [("accept", "application/json")];
    for (method, path, status, body) in [
        (
            "GET",
            "/traceroute",
            400,
            r#"{"code":"INVALID_REQUEST","message":"missing required parameter: target"}"#,
        ),
        (
            "POST",
            "/traceroute",
            405,
            r#"{"code":"INVALID_REQUEST","message":"Method not allowed"}"#,
        ),
        (
            "GET",
            "/nowhere",
            404,
            r#"{"code":"INVALID_REQUEST","message":"Not found"}"#,
        ),
        (
            "GET",
            "/traceroute?target=h",
            500,
            r#"{"code":"UNKNOWN","message":"SACK not supported for this target/source: x"}"#,
        ),
    ] {
        let answer = bench.send(request(method, path, &json)).await;
        assert_eq!(answer.status.as_u16(), status);
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!(answer.body, format!("{body}\n"));
    }
    let both = [("accept", "text/plain;q=0.5, application/json;q=0.4")];
    let answer = bench.send(request("GET", "/traceroute", &both)).await;
    assert!(answer.header("content-type").starts_with("text/plain"));
}

#[tokio::test]
async fn several_errors_are_one_line() {
    let bench = bench(Outcome::Fail(vec!["first", "second", "first"]));
    let answer = bench.get("/traceroute?target=h").await;
    assert_eq!(answer.status, 500);
    assert_eq!(
        answer.body,
        "Traceroute failed: SACK not supported for this target/source: first; \
         SACK not supported for this target/source: second\n"
    );
}

#[tokio::test]
async fn a_name_that_does_not_exist() {
    let bench = bench(Outcome::Succeed);
    let accept = [("accept", "application/json")];
    let answer = bench
        .send(request("GET", "/traceroute?target=nowhere.invalid", &accept))
        .await;
    assert_eq!(answer.status, 500);
    let message = r#"cannot resolve \"nowhere.invalid\": no such name"#;
    assert_eq!(
        answer.body,
        format!("{{\"code\":\"DNS\",\"message\":\"{message}\"}}\n")
    );
}

#[tokio::test]
async fn overload_is_no_reason_to_restart() {
    let bench = bench_with(
        Outcome::Hang,
        Settings {
            capacity: capacity(8),
            ..settings()
        },
    );
    for path in ["/livez", "/readyz"] {
        assert_eq!(bench.get(path).await.status, 200, "{path}");
    }
    let asked = datadog_traceroute::Request::to("192.0.2.1").build().unwrap();
    let _permit = bench.service.admission.admit(&asked, Client::Local).unwrap();
    assert_eq!(bench.get("/readyz").await.status, 503);
    for path in ["/livez", "/health"] {
        assert_eq!(bench.get(path).await.status, 200, "{path}");
    }
    assert_eq!(bench.get("/traceroute?target=192.0.2.1").await.status, 503);
    let metrics = bench.get("/metrics").await.body;
    assert!(
        metrics.contains("traceroute_requests_refused_total{scarce=\"traces\"} 1"),
        "{metrics}"
    );
}

/// Six greedy clients left four traces, and a default request needs seven.
#[tokio::test]
async fn ready_means_that_somebody_new_is_let_in() {
    let bench = bench(Outcome::Hang);
    let [small, usual] = [(1, 0), (3, 50)].map(|(runs, probes)| {
        let request = datadog_traceroute::Request::to("192.0.2.1").runs(runs);
        request.e2e_probes(probes).build().unwrap()
    });
    let admission = &bench.service.admission;
    let (mut permits, mut states) = (Vec::new(), Vec::new());
    for last in 1..=6 {
        let greedy = Client::of([198, 51, 100, last].into());
        permits.extend(std::iter::from_fn(|| admission.admit(&small, greedy).ok()));
        let somebody_new = Client::of([192, 0, 2, last].into());
        let is_let_in = admission.admit(&usual, somebody_new).is_ok();
        assert_eq!(bench.get("/readyz").await.status == 200, is_let_in, "{last}");
        states.push(is_let_in);
    }
    assert!(states[0] && !states[5], "{states:?}");
}

#[tokio::test]
async fn who_lets_in_no_default_request_is_ready_for_smaller_ones() {
    let bench = bench_with(
        Outcome::Hang,
        Settings {
            capacity: Capacity {
                packet_rate: 50,
                ..capacity(1000)
            },
            ..settings()
        },
    );
    assert_eq!(bench.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn who_would_be_put_into_the_reserve_finds_nothing_ready() {
    let bench = bench(Outcome::Hang);
    let connections = Connections::new(2, 2, ConnectionCounters::default());
    let [first, second] = [1, 2].map(|last| connections.open(Client::of([192, 0, 2, last].into())));
    let ask = async |connection: &Arc<Connection>| {
        let mut request = request("GET", "/readyz", &[]);
        request.extensions_mut().insert(Arc::clone(connection));
        bench.send(request).await
    };
    assert_eq!(ask(&first).await.status, 200);
    let _busy = [first, second].map(|connection| connection.serve().unwrap());
    let third = connections.open(Client::of([192, 0, 2, 3].into()));
    let answer = ask(&third).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.body, "Too many connections at once: try again later\n");
}

/// A stranger who reads slowly had a copy of 100 kB.
#[tokio::test]
async fn there_is_one_description_of_the_service() {
    let bench = bench(Outcome::Hang);
    let mut copies = Vec::new();
    for _ in 0..2 {
        let response = bench.respond(request("GET", "/openapi.json", &[])).await;
        let frame = response.into_body().frame().await.unwrap().unwrap();
        copies.push(frame.into_data().unwrap());
    }
    assert_eq!(copies[0].as_ptr(), copies[1].as_ptr());
}

#[tokio::test]
async fn health() {
    let bench = bench(Outcome::Hang);
    let answer = bench.get("/health").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "application/json");
    assert!(
        answer.body.starts_with(r#"{"status":"healthy","timestamp":"20"#),
        "{}",
        answer.body
    );
    assert_eq!(bench.send(request("HEAD", "/health", &[])).await.status, 200);
}

#[tokio::test]
async fn too_much_at_once_is_refused_until_there_is_room() {
    let bench = bench_with(
        Outcome::Hang,
        Settings {
            capacity: capacity(10),
            ..settings()
        },
    );
    let large = "/traceroute?target=h&traceroute-queries=8&e2e-queries=0";
    let first = tokio::spawn(bench.router.clone().oneshot(request("GET", large, &[])));
    while bench.fake.running.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let answer = bench.get(large).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("retry-after"), "5");
    assert_eq!(answer.body, "Too many traces at once: try again later\n");
    // The client goes away.
    first.abort();
    let _ = first.await;
    assert_eq!(bench.fake.running.load(Ordering::SeqCst), 0);
    assert!(
        bench
            .service
            .admission
            .admit(&bench.fake.requests.lock().unwrap()[0], Client::Local)
            .is_ok()
    );
    let metrics = bench.get("/metrics").await.body;
    assert!(
        metrics.contains("traceroute_http_requests_total{path=\"/traceroute\",status=\"499\"} 1"),
        "{metrics}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_that_lasts_too_long_is_ended() {
    let bench = bench_with(
        Outcome::Hang,
        Settings {
            ceilings: Ceilings {
                duration: Some(Duration::from_secs(90)),
                ..Ceilings::default()
            },
            ..settings()
        },
    );
    let answer = bench.get("/traceroute?target=h").await;
    assert_eq!(answer.status, 500);
    assert_eq!(
        answer.body,
        "Traceroute failed: not finished within 1m30s, the longest that this server allows\n"
    );
    assert_eq!(bench.fake.running.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn ceilings_refuse_what_is_named_and_bound_what_is_not() {
    let ceilings = Ceilings {
        queries: 4,
        timeout: Duration::from_millis(500),
        ..Ceilings::default()
    };
    let bench = bench_with(
        Outcome::Succeed,
        Settings {
            ceilings,
            ..settings()
        },
    );
    for (query, message) in [
        (
            "e2e-queries=5",
            "e2e-queries must be at most 4 on this server, got 5",
        ),
        (
            "traceroute-queries=5",
            "traceroute-queries must be at most 4 on this server, got 5",
        ),
        (
            "timeout=501",
            "timeout must be at most 500 ms on this server, got 501",
        ),
    ] {
        let answer = bench.get(&format!("/traceroute?target=h&{query}")).await;
        assert_eq!(answer.status, 400, "{query}");
        assert_eq!(answer.body, format!("Invalid parameters: {message}\n"));
    }
    // The last one means the default; what does not parse counts as absent.
    for query in ["", "timeout=0&e2e-queries=x"] {
        assert_eq!(
            bench.get(&format!("/traceroute?target=h&{query}")).await.status,
            200
        );
        let request = bench.fake.requests.lock().unwrap().pop().unwrap();
        assert_eq!((request.runs(), request.e2e_probes()), (3, 4), "{query}");
        assert_eq!(request.timeout(), Duration::from_millis(500), "{query}");
    }
}

#[tokio::test]
async fn what_does_not_exist_is_named_in_a_header_and_refused_by_the_strict() {
    let bench = bench(Outcome::Succeed);
    for (path, target, status) in [
        ("/traceroute", "h", 200),
        ("/traceroute/stream", "h", 200),
        ("/probe", "h", 200),
        // Discoveries always fail here.
        ("/paths", "h&confidence=0.99", 500),
        ("/paths/stream", "h&confidence=0.99", 200),
    ] {
        let answer = bench
            .get(&format!("{path}?target={target}&max_ttl=5&tos=x"))
            .await;
        assert_eq!(answer.status, status, "{path}");
        let warning = answer.header("traceroute-warning");
        assert!(
            warning.starts_with("unknown parameter max_ttl (did you mean max-ttl?), tos does not parse ("),
            "{path}: {warning}"
        );
        let answer = bench
            .get(&format!("{path}?target={target}&max_ttl=5&strict=true"))
            .await;
        assert_eq!(answer.status, 400, "{path}");
        let problem = "unknown parameter max_ttl (did you mean max-ttl?)";
        assert_eq!(answer.body, format!("Invalid parameters: {problem}\n"));
        assert_eq!(answer.header("traceroute-warning"), problem);
        let answer = bench
            .get(&format!("{path}?target={target}&max-ttl=5&strict=true"))
            .await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("traceroute-warning")),
            (status, "")
        );
    }
    let answer = bench
        .get("/paths?target=h&confidence=0.9&tcp_method=syn&format=csv&strict=1")
        .await;
    let problem = "Invalid parameters: unknown parameter tcp_method, unknown parameter format\n";
    assert_eq!(answer.body, problem, "what traces alone have");
}

/// They took the places of ports that are probed.
#[tokio::test]
async fn requests_without_probes_count_no_ports() {
    let bench = bench_with(
        Outcome::Succeed,
        Settings {
            max_ports: 1,
            ..settings()
        },
    );
    for (query, status) in [
        ("port=80&traceroute-queries=0&e2e-queries=0", 200),
        ("port=81&traceroute-queries=0", 200),
        ("port=82&e2e-queries=0", 429),
        ("port=83&traceroute-queries=0&e2e-queries=0", 200),
    ] {
        let guest = Guest::from(Client::of(Ipv4Addr::LOCALHOST.into()));
        let parameters = Query::parse(&format!("target=h&{query}")).read_trace(&Ceilings::default());
        let request = parameters.parameters.validate().unwrap();
        let job = Job::admit(Arc::clone(&bench.service), request, guest, None).await;
        let found = job.map_or_else(|failure| failure.status.as_u16(), |_| 200);
        assert_eq!(found, status, "{query}");
    }
}

#[tokio::test]
async fn formats_are_those_of_the_command_line() {
    let bench = bench(Outcome::Succeed);
    for (format, kind, beginning) in [
        ("json", "application/json", r#"{"protocol":"udp""#),
        ("Table", "text/plain; charset=utf-8", "Traceroute to example.com"),
        ("wide", "text/plain; charset=utf-8", "Traceroute to example.com"),
        ("csv", "text/csv; charset=utf-8", "run,run_id,protocol,"),
        ("dot", "text/vnd.graphviz; charset=utf-8", "digraph"),
    ] {
        let answer = bench.get(&format!("/traceroute?target=h&format={format}")).await;
        assert_eq!(answer.status, 200, "{format}");
        assert_eq!(answer.header("content-type"), kind);
        assert!(answer.body.starts_with(beginning), "{}", answer.body);
    }
    let answer = bench.get("/traceroute?target=h&format=xml").await;
    let expected = "Invalid parameters: format must be json, table, wide, csv or dot, got \"xml\"\n";
    assert_eq!((answer.status.as_u16(), answer.body.as_str()), (400, expected));
    for path in ["/traceroute/stream", "/probe"] {
        let answer = bench.get(&format!("{path}?target=h&format=csv")).await;
        assert_eq!(answer.status, 400, "{path}");
        assert!(
            answer.body.contains("format cannot be chosen here"),
            "{}",
            answer.body
        );
        assert_eq!(
            bench.get(&format!("{path}?target=h&format=json")).await.status,
            200
        );
    }
}

#[tokio::test]
async fn addresses_of_no_host_are_refused() {
    let bench = bench(Outcome::Succeed);
    for target in ["0.0.0.0", "224.0.0.1", "255.255.255.255", "[::]", "[ff02::1]"] {
        for path in ["/traceroute", "/traceroute/stream", "/probe"] {
            let answer = bench.get(&format!("{path}?target={target}")).await;
            assert_eq!(answer.status, 400, "{target}");
            let address = target.trim_matches(['[', ']']);
            let expected = format!("Invalid parameters: {address} is not the address of one host");
            assert!(answer.body.starts_with(&expected), "{}", answer.body);
        }
    }
    assert!(
        bench.fake.requests.lock().unwrap().is_empty(),
        "nothing was traced"
    );
}

#[tokio::test]
async fn longer_forms_of_paths_lead_to_the_shortest() {
    let bench = bench(Outcome::Succeed);
    for (uri, location) in [
        ("//traceroute?target=h&a=%2F", "/traceroute?target=h&a=%2F"),
        ("/x/.././traceroute", "/traceroute"),
        ("//nowhere", "/nowhere"),
    ] {
        for method in ["GET", "POST"] {
            let answer = bench.send(request(method, uri, &[])).await;
            assert_eq!(
                (answer.status.as_u16(), answer.header("location")),
                (301, location)
            );
        }
    }
    assert!(
        bench.fake.requests.lock().unwrap().is_empty(),
        "nothing was traced"
    );
}

/// The value of a series, by its name and labels.
fn value(metrics: &str, series: &str) -> f64 {
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series} is not in {metrics}"))
        .parse()
        .unwrap()
}

#[tokio::test]
async fn a_probe_is_answered_with_metrics() {
    let bench = bench(Outcome::Succeed);
    let answer = bench.get("/probe?target=h&module=sack&max-ttl=7").await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.header("content-type"),
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let expected = [
        ("probe_success", 1.0),
        ("probe_target_reached", 1.0),
        ("probe_hops", 3.0),
        ("probe_e2e_sent", 4.0),
        ("probe_e2e_refused", 2.0),
        ("probe_e2e_loss_ratio", 0.25),
        ("probe_e2e_lost{cause=\"network\"}", 1.0),
        ("probe_e2e_lost{cause=\"silent\"}", 0.0),
        ("probe_e2e_rtt_min_seconds", 0.0125),
        ("probe_e2e_rtt_avg_seconds", 0.0127),
        ("probe_e2e_rtt_max_seconds", 0.0129),
        ("probe_e2e_jitter_seconds", 0.0003),
    ];
    for (series, expected) in expected {
        let found = value(&answer.body, series);
        assert!((found - expected).abs() < 1e-9, "{series} {found}");
    }
    let request = bench.fake.requests.lock().unwrap()[0].clone();
    assert_eq!(
        (request.runs(), request.e2e_probes(), request.max_ttl()),
        (1, 5, 7)
    );
    assert_eq!(request.protocol(), Protocol::Tcp);
    assert_eq!(request.tcp_method(), datadog_traceroute::TcpMethod::Sack);
}

/// So that alerts see them: series that vanish match nothing.
#[tokio::test(start_paused = true)]
async fn a_probe_that_fails_has_the_same_series() {
    let series = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let mut series: Vec<String> = lines
            .map(|line| line.rsplit_once(' ').unwrap().0.to_owned())
            .collect();
        series.sort();
        series
    };
    let good = bench(Outcome::Succeed).get("/probe?target=h").await.body;
    for (outcome, target, code) in [
        (Outcome::Fail(vec!["x"]), "h", "UNKNOWN"),
        (Outcome::Hang, "h", "TIMEOUT"),
        (Outcome::Succeed, "nowhere.invalid", "DNS"),
        (Outcome::Succeed, "never.invalid", "DNS"),
    ] {
        let bench = bench(outcome);
        let start = Instant::now();
        let scrape = [("x-prometheus-scrape-timeout-seconds", "3")];
        let answer = bench
            .send(request("GET", &format!("/probe?target={target}"), &scrape))
            .await;
        assert!(start.elapsed() <= Duration::from_millis(2500), "{target}");
        assert_eq!(answer.status, 200, "{target}");
        assert!(value(&answer.body, "probe_success") == 0.0, "{target}");
        assert!(
            value(&answer.body, "probe_e2e_rtt_avg_seconds").is_nan(),
            "{target}"
        );
        assert_eq!(series(&answer.body), series(&good), "{target}");
        let metrics = bench.get("/metrics").await.body;
        assert!(
            metrics.contains(&format!("path=\"/probe\",code=\"{code}\"")),
            "{metrics}"
        );
    }
}

/// What is in `packaging/prometheus` asks for no metric that does not exist.
#[tokio::test]
async fn rules_and_dashboard_ask_for_metrics_that_there_are() {
    const RULES: &str = include_str!("../../../packaging/prometheus/alerts.yml");
    const DASHBOARD: &str = include_str!("../../../packaging/prometheus/grafana-dashboard.json");
    let bench = bench(Outcome::Succeed);
    let mut metrics = bench.get("/probe?target=h").await.body;
    bench.get("/probe").await;
    metrics += &bench.get("/metrics").await.body;
    let _: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    let text = RULES.to_owned() + DASHBOARD;
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let mut names: Vec<&str> = words
        .filter(|word| word.starts_with("probe_") || word.starts_with("traceroute_"))
        .collect();
    names.sort_unstable();
    names.dedup();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        let exists = metrics
            .lines()
            .any(|line| line.split(['{', ' ']).next() == Some(name));
        assert!(exists, "{name} is not in {metrics}");
    }
}

#[tokio::test]
async fn a_wrong_probe_is_refused() {
    let bench = bench(Outcome::Succeed);
    for (query, message) in [
        ("", "missing required parameter: target"),
        (
            "?target=h&module=http_2xx",
            "module must be icmp, udp, tcp or sack, got \"http_2xx\"",
        ),
        (
            "?target=h&port=65536",
            "port must be between 0 and 65535, got 65536",
        ),
    ] {
        let answer = bench.get(&format!("/probe{query}")).await;
        assert_eq!(answer.status, 400, "{query}");
        assert_eq!(answer.body, format!("Invalid parameters: {message}\n"));
    }
}

#[tokio::test]
async fn stopping_ends_what_runs() {
    let bench = bench(Outcome::Hang);
    bench.cancel.send(true).unwrap();
    let answer = bench.get("/traceroute?target=h").await;
    assert_eq!(
        (answer.status.as_u16(), answer.body.as_str()),
        (503, "The server is shutting down\n")
    );
}

#[tokio::test]
async fn the_token_guards_what_sends_packets() {
    let bench = bench_with(
        Outcome::Succeed,
        Settings {
            tokens: Arc::new(Tokens::of("s3cret")),
            ..settings()
        },
    );
    for path in [
        "/traceroute?target=h",
        "/traceroute/stream?target=h",
        "/probe?target=h",
        "/metrics",
    ] {
        let answer = bench.get(path).await;
        assert_eq!(answer.status, 401, "{path}");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
        let wrong = [("authorization", "Bearer wrong"), ("accept", "application/json")];
        let answer = bench.send(request("GET", path, &wrong)).await;
        assert_eq!(answer.status, 401, "{path}");
        assert!(answer.body.starts_with(r#"{"code":"DENIED","#), "{}", answer.body);
        let right = [("authorization", "Bearer s3cret")];
        assert_eq!(
            bench.send(request("GET", path, &right)).await.status,
            200,
            "{path}"
        );
    }
    for path in ["/health", "/", "/openapi.json"] {
        assert_eq!(bench.get(path).await.status, 200, "{path}");
    }
}

/// SHA-256 of "one" and "two".
const NAMED: &str = "\
    [tokens.one]\n\
    sha256 = \"7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed\"\n\
    max-requests = 1\n\
    allow = [\"192.0.2.0/24\", \"198.51.100.0/24\"]\n\
    [tokens.two]\n\
    sha256 = \"3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3\"\n\
    max-packet-rate = 120\n\
    max-requests-per-minute = 4\n";

fn with_token(uri: &str, token: &str) -> Request<Body> {
    request("GET", uri, &[("authorization", &format!("Bearer {token}"))])
}

#[tokio::test]
async fn tokens_with_names_have_limits_of_their_own() {
    let path = std::env::temp_dir().join(format!("traceroute-tokens-{}.toml", std::process::id()));
    std::fs::write(&path, NAMED).unwrap();
    let tokens = Arc::new(Tokens::load(None, Some(path.clone())).unwrap());
    std::fs::remove_file(path).unwrap();
    let settings = || Settings {
        tokens: Arc::clone(&tokens),
        policy: Policy {
            deny: vec![parse_subnet("198.51.100.0/24").unwrap()],
            ..Policy::default()
        },
        ..settings()
    };
    let bench = bench_with(Outcome::Succeed, settings());
    let small = "traceroute-queries=1&e2e-queries=0";
    for (token, target, status) in [
        ("one", "192.0.2.1", 200),
        // By its address: 192.0.2.9.
        ("one", "name.example", 200),
        ("one", "203.0.113.1", 403),
        ("two", "203.0.113.1", 200),
        ("one", "[2001:db8::1]", 403),
        // A list of a token allows nothing that the service denies.
        ("one", "198.51.100.1", 403),
        ("three", "192.0.2.1", 401),
        ("", "192.0.2.1", 401),
    ] {
        let uri = format!("/traceroute?target={target}&{small}");
        let answer = bench.send(with_token(&uri, token)).await;
        assert_eq!(answer.status, status, "{token} {target}");
    }
    let header = axum::http::HeaderValue::from_bytes(b"Bearer \xff\xfeone").unwrap();
    let mut unreadable = with_token("/metrics", "");
    unreadable.headers_mut().insert("authorization", header);
    assert_eq!(bench.send(unreadable).await.status, 401);

    let bench = bench_with(Outcome::Hang, settings());
    let uri = format!("/traceroute?target=192.0.2.1&{small}");
    let _running = tokio::spawn(bench.router.clone().oneshot(with_token(&uri, "one")));
    while bench.fake.running.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let large = "/probe?target=192.0.2.1&traceroute-queries=3&e2e-queries=0";
    for (uri, token, message) in [
        (
            &*uri,
            "one",
            "Too many requests at once for this token: try again later",
        ),
        (
            large,
            "two",
            "Too many packets a second for this token: ask for less, or try again later",
        ),
    ] {
        let answer = bench.send(with_token(uri, token)).await;
        assert_eq!((answer.status.as_u16(), answer.body.trim_end()), (429, message));
        assert_eq!(answer.header("retry-after"), "5");
    }
    let two = |path: &str| with_token(&format!("{path}?target=192.0.2.1&{small}&max-ttl=0"), "two");
    for path in ["/traceroute", "/traceroute/stream", "/paths"] {
        assert_eq!(bench.send(two(path)).await.status, 400, "{path}");
    }
    let mut request = two("/traceroute");
    let json = axum::http::HeaderValue::from_static("application/json");
    request.headers_mut().insert("accept", json);
    let answer = bench.send(request).await;
    let message = "Too many requests a minute for one client: try again later";
    assert_eq!(answer.status, 429);
    assert_eq!(
        answer.body,
        format!("{{\"code\":\"UNKNOWN\",\"message\":\"{message}\"}}\n")
    );
    assert_eq!(answer.header("retry-after"), "15");
    let metrics = bench.send(with_token("/metrics", "two")).await.body;
    for line in [
        "traceroute_token_requests_total{token=\"one\"} 6",
        "traceroute_token_requests_refused_total{token=\"one\"} 1",
        "traceroute_token_requests_refused_total{token=\"two\"} 2",
        "traceroute_requests_refused_total{scarce=\"own_requests\"} 1",
        "traceroute_requests_refused_total{scarce=\"own_packets\"} 1",
        "traceroute_requests_refused_total{scarce=\"own_rate\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}

#[tokio::test]
async fn denied_networks_are_denied_by_name_too() {
    let bench = bench_with(
        Outcome::Succeed,
        Settings {
            policy: Policy {
                deny: vec![parse_subnet("192.0.2.0/24").unwrap()],
                ..Policy::default()
            },
            ..settings()
        },
    );
    for path in ["/traceroute", "/traceroute/stream"] {
        for (target, shown) in [
            ("192.0.2.9", "192.0.2.9"),
            ("[::ffff:192.0.2.9]", "192.0.2.9"),
            // Not the address: strangers would learn what names mean inside.
            ("innocent.example:80", "innocent.example"),
        ] {
            let answer = bench.get(&format!("{path}?target={target}")).await;
            assert_eq!(answer.status, 403, "{target}");
            assert_eq!(answer.body, format!("Target not allowed: {shown}\n"));
        }
    }
    assert!(
        bench.fake.requests.lock().unwrap().is_empty(),
        "nothing was traced"
    );
    assert_eq!(bench.get("/traceroute?target=198.51.100.1").await.status, 200);
}

#[tokio::test]
async fn bodies_are_read_and_bounded() {
    let bench = bench(Outcome::Succeed);
    let with = |body: Body| request("GET", "/traceroute?target=h", &[]).map(|_| body);
    assert_eq!(bench.send(with(Body::from("x".repeat(1000)))).await.status, 200);
    let answer = bench.send(with(Body::from("x".repeat(1001)))).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("connection")),
        (413, "close")
    );
}

/// Counts the bytes that are held on to.
struct Piece(&'static [u8], Arc<AtomicUsize>);

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        self.0
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_body_in_tiny_pieces_is_not_kept() {
    let bench = bench(Outcome::Succeed);
    let held = Arc::new(AtomicUsize::default());
    let most = Arc::new(AtomicUsize::default());
    for (pieces, status) in [(1000, 200), (1001, 413)] {
        let (held, most) = (Arc::clone(&held), Arc::clone(&most));
        let body = futures_util::stream::iter((0..pieces).map(move |_| {
            most.fetch_max(held.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let piece = Bytes::from_owner(Piece(b"x", Arc::clone(&held)));
            Ok::<_, std::io::Error>(piece)
        }));
        let request = Request::builder()
            .header("host", "test")
            .uri("/traceroute?target=h")
            .body(Body::from_stream(body))
            .unwrap();
        assert_eq!(bench.send(request).await.status, status, "{pieces}");
    }
    assert!(most.load(Ordering::SeqCst) <= 2, "{most:?} pieces at once");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let bench = bench(Outcome::Succeed);
    let never = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
    let slow = Request::builder()
        .header("host", "test")
        .uri("/traceroute?target=h")
        .body(Body::from_stream(never))
        .unwrap();
    assert_eq!(bench.send(slow).await.status, 408);
}

#[tokio::test]
async fn a_stream_ends_with_the_document() {
    let bench = bench(Outcome::Succeed);
    let answer = bench.get("/traceroute/stream?target=h").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "text/event-stream");
    assert_eq!(answer.header("cache-control"), "no-store");
    let document = json::to_compact(&report()).unwrap();
    let hop = r#"{"run":0,"ttl":1,"ip_address":"192.0.2.1","rtt":1.2,"destination":false}"#;
    assert_eq!(
        answer.body,
        format!(
            "event: hop\ndata: {hop}\n\nevent: run\ndata: {{\"run\":0}}\n\nevent: report\ndata: {document}\n"
        )
    );
}

#[tokio::test]
async fn a_stream_can_end_with_an_error() {
    let bench = bench(Outcome::Fail(vec!["x"]));
    let answer = bench.get("/traceroute/stream?target=h").await;
    assert_eq!(answer.status, 200);
    let error = r#"{"code":"UNKNOWN","message":"SACK not supported for this target/source: x"}"#;
    assert!(
        answer.body.ends_with(&format!("event: error\ndata: {error}\n\n")),
        "{}",
        answer.body
    );
}

#[tokio::test]
async fn a_stream_that_cannot_begin_has_its_own_status() {
    let bench = bench(Outcome::Succeed);
    for (target, status) in [("", 400), ("a%20b", 400), ("nowhere.invalid", 500)] {
        let answer = bench.get(&format!("/traceroute/stream?target={target}")).await;
        assert_eq!(answer.status, status, "{target}");
        assert!(
            answer.header("content-type").starts_with("text/plain"),
            "{target}"
        );
    }
}

#[tokio::test]
async fn a_stream_that_nobody_reads_any_more_traces_no_more() {
    let bench = bench(Outcome::Hang);
    for (path, query, event) in [
        ("/traceroute/stream", "target=h", "event: hop\n"),
        ("/paths/stream", "target=h&confidence=0.99", "event: moved\n"),
    ] {
        let uri = format!("{path}?{query}");
        let mut body = bench.respond(request("GET", &uri, &[])).await.into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(first.starts_with(event.as_bytes()), "{first:?}");
        assert_eq!(bench.fake.running.load(Ordering::SeqCst), 1);
        drop(body);
        while bench.fake.running.load(Ordering::SeqCst) > 0 {
            tokio::task::yield_now().await;
        }
        let metrics = bench.get("/metrics").await.body;
        let line = format!("traceroute_http_requests_total{{path=\"{path}\",status=\"499\"}} 1");
        assert!(metrics.contains(&line), "{metrics}");
    }
}

/// The reader is stuck: nobody asks the body for anything.
#[tokio::test(start_paused = true)]
async fn a_stream_that_nobody_reads_ends_in_time() {
    let bench = bench_with(
        Outcome::Hang,
        Settings {
            capacity: capacity(10),
            ceilings: Ceilings {
                duration: Some(Duration::from_secs(90)),
                ..Ceilings::default()
            },
            ..settings()
        },
    );
    let uri = "/traceroute/stream?target=h&traceroute-queries=8&e2e-queries=0";
    let response = bench.respond(request("GET", uri, &[])).await;
    tokio::time::sleep(Duration::from_secs(89)).await;
    assert_eq!(bench.fake.running.load(Ordering::SeqCst), 1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(bench.fake.running.load(Ordering::SeqCst), 0);
    let asked = bench.fake.requests.lock().unwrap()[0].clone();
    assert!(
        bench.service.admission.admit(&asked, Client::Local).is_ok(),
        "its room is free"
    );
    // Who reads after all still learns everything.
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let text = str::from_utf8(&body).unwrap();
    assert!(text.starts_with("event: hop\n"), "{text}");
    let last = r#"data: {"code":"TIMEOUT","message":"not finished within 1m30s"#;
    assert!(text.contains(last), "{text}");
}

#[tokio::test]
async fn stopping_ends_streams_that_nobody_reads() {
    let bench = bench(Outcome::Hang);
    let response = bench
        .respond(request("GET", "/traceroute/stream?target=h", &[]))
        .await;
    while bench.fake.running.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    bench.cancel.send(true).unwrap();
    while bench.fake.running.load(Ordering::SeqCst) > 0 {
        tokio::task::yield_now().await;
    }
    drop(response);
}

#[tokio::test]
async fn a_reader_who_is_too_slow_misses_events_and_no_document() {
    let bench = bench(Outcome::Chatter);
    let answer = bench.get("/traceroute/stream?target=h").await;
    let events = answer.body.matches("event: e2e\n").count();
    // As many wait as such a request has at most.
    assert!((100..1000).contains(&events), "{events}");
    let document = json::to_compact(&report()).unwrap();
    assert!(
        answer
            .body
            .ends_with(&format!("event: report\ndata: {document}\n"))
    );
}

#[tokio::test]
async fn errors_are_counted_by_code_those_of_streams_too() {
    let bench = bench(Outcome::Fail(vec!["x"]));
    bench.get("/traceroute?target=h").await;
    bench.get("/traceroute?target=nowhere.invalid").await;
    bench.get("/traceroute/stream?target=h").await;
    bench.get("/traceroute/stream").await;
    let metrics = bench.get("/metrics").await.body;
    for (path, code, fault) in [
        ("/traceroute", "UNKNOWN", "target"),
        ("/traceroute", "DNS", "name"),
        ("/traceroute/stream", "UNKNOWN", "target"),
        ("/traceroute/stream", "INVALID_REQUEST", "client"),
    ] {
        let labels = format!("path=\"{path}\",code=\"{code}\",fault=\"{fault}\"");
        let line = format!("traceroute_http_errors_total{{{labels}}} 1\n");
        assert!(metrics.contains(&line), "{line} is not in {metrics}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_is_kept_alive() {
    let bench = bench(Outcome::Hang);
    let response = bench
        .respond(request("GET", "/traceroute/stream?target=h", &[]))
        .await;
    let mut body = response.into_body();
    let mut text = String::new();
    for _ in 0..4 {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        text += str::from_utf8(&frame).unwrap();
    }
    assert!(text.ends_with("data: {\"run\":0}\n\n:\n\n:\n\n"), "{text}");
}

#[tokio::test]
async fn the_clients_trace_id_is_used() {
    let bench = bench(Outcome::Succeed);
    let headers = [(
        "traceparent",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )];
    let answer = bench.send(request("GET", "/health", &headers)).await;
    assert_eq!(answer.header("x-trace-id"), "0af7651916cd43dd8448eb211c80319c");
}

#[tokio::test]
async fn the_page_may_load_nothing_from_elsewhere() {
    let bench = bench(Outcome::Succeed);
    for (path, kind) in [
        ("/", "text/html"),
        ("/page.js", "text/javascript"),
        ("/paths.js", "text/javascript"),
        ("/page.css", "text/css"),
    ] {
        let answer = bench.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.header("content-type").starts_with(kind), "{path}");
        assert!(
            answer
                .header("content-security-policy")
                .starts_with("default-src 'none';")
        );
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        for outside in ["http://", "https://", "innerHTML", "eval("] {
            // The name of SVG's namespace is no address.
            let text = answer.body.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains(outside), "{path}: {outside}");
        }
    }
}
