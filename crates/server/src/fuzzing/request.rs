//! From a query to a job, and through the whole router to an answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{ACCEPT, AUTHORIZATION, HOST};
use axum::http::{HeaderMap, HeaderValue, Method, Request as HttpRequest, Response};
use datadog_traceroute::{
    Error, Host, MAX_QUERIES, Paths, PathsEvent, PathsOptions, Protocol, Report, Request, RunError,
    Statistics, TraceError,
};
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Limited};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::Instant;
use traceroute_flags::{Interface, TraceOption};

use super::take;
use crate::auth::Tokens;
use crate::backend::{Backend, OnEvent};
use crate::browser::AllowedHosts;
use crate::connections::Client;
use crate::limits::{Admission, Capacity, Ceilings};
use crate::observe::BodyLimit;
use crate::parameters::{MODULE, Query, Remarks};
use crate::policy::{Choices, Policy, parse_subnet};
use crate::probe::Probe;
use crate::router::{PATHS, Service, Settings, router};

/// Which path, headers and limits; the rest is the query.
pub fn request(mut data: &[u8]) {
    let [path, what, limits, last]: [u8; 4] = take(&mut data);
    let ceilings = ceilings(limits);
    let text = String::from_utf8_lossy(data);
    check_query(&text, &ceilings, last);
    check_answer(&text, (path, what, last), &ceilings);
}

fn ceilings(choice: u8) -> Ceilings {
    match choice % 4 {
        0 => Ceilings::default(),
        1 => Ceilings {
            queries: 5,
            max_ttl: 16,
            timeout: Duration::from_millis(500),
            duration: Some(Duration::from_secs(10)),
        },
        2 => Ceilings {
            queries: 1,
            max_ttl: 1,
            timeout: Duration::from_millis(1),
            duration: Some(Duration::from_nanos(1)),
        },
        _ => Ceilings {
            queries: (choice / 4).into(),
            max_ttl: 255,
            timeout: Duration::from_micros(999),
            duration: None,
        },
    }
}

const CAPACITY: Capacity = Capacity {
    traces: 1000,
    packet_rate: 500_000,
    memory: 1 << 28,
};

/// What is accepted keeps the limits, and finds room; what is refused is said in one line.
fn check_query(text: &str, ceilings: &Ceilings, seconds: u8) {
    let query = Query::parse(text);
    let default = |option: &TraceOption| ceilings.clamp(option, option.default(Interface::Query));
    let asked = query.read(&[], default);
    check_remarks(&asked.remarks);
    check_request(asked.parameters.validate(), ceilings);

    let asked = query.read_paths(ceilings);
    check_remarks(&asked.remarks);
    if let Ok((request, options)) = asked.parameters.validate() {
        drop(Admission::new(CAPACITY).admit_discovery(&request, options, client()));
    }

    let mut headers = HeaderMap::new();
    let timeout = format!("{}.{seconds}", seconds / 8);
    headers.insert(
        "x-prometheus-scrape-timeout-seconds",
        HeaderValue::try_from(timeout).unwrap(),
    );
    if let Ok(probe) = Probe::new(&query, &headers, ceilings) {
        let asked = query.read(&[MODULE], |option| ceilings.clamp(option, probe.default(option)));
        check_remarks(&asked.remarks);
        check_request(asked.parameters.validate(), ceilings);
    }
}

fn check_remarks(remarks: &Remarks) {
    let text = remarks.to_string();
    assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text}");
    assert!(
        text.len() < 4000 && remarks.is_empty() == text.is_empty(),
        "{text}"
    );
}

fn check_request(request: Result<Request, impl ToString>, ceilings: &Ceilings) {
    let request = match request {
        Ok(request) => request,
        Err(problem) => return assert!(!problem.to_string().is_empty()),
    };
    assert!(request.runs() <= MAX_QUERIES && request.e2e_probes() <= MAX_QUERIES);
    assert!(1 <= request.first_ttl() && request.first_ttl() <= request.max_ttl());
    if ceilings.check(&request).is_ok() {
        assert!(request.runs() <= ceilings.queries && request.e2e_probes() <= ceilings.queries);
        assert!(request.max_ttl() <= ceilings.max_ttl && request.timeout() <= ceilings.timeout);
    }
    let admission = Admission::new(CAPACITY);
    if let Ok(mut permit) = admission.admit(&request, client()) {
        let _ = permit.aim_at(Ipv4Addr::LOCALHOST.into());
        assert!(permit.guest().token.is_none());
    }
}

fn client() -> Client {
    Client::of(Ipv4Addr::LOCALHOST.into())
}

/// Every answer has a status that is documented, and an error a body that can be read.
fn check_answer(text: &str, (path, what, last): (u8, u8, u8), ceilings: &Ceilings) {
    let path = match PATHS.get(usize::from(path)) {
        Some(path) => format!("{path}?{text}"),
        None => text.to_owned(),
    };
    let json = what & 1 != 0;
    let methods = [Method::GET, Method::GET, Method::GET, Method::HEAD, Method::POST];
    let builder = HttpRequest::builder()
        .method(methods[usize::from(what >> 5) % methods.len()].clone())
        .uri(path)
        .header(HOST, "192.0.2.1")
        .header(ACCEPT, if json { "application/json" } else { "*/*" });
    let builder = match what & 2 {
        0 => builder,
        _ => builder.header(AUTHORIZATION, "Bearer secret"),
    };
    // Not an address: no connection gets as far.
    let Ok(request) = builder.body(Body::empty()) else {
        return;
    };
    let settings = Settings {
        ceilings: ceilings.clone(),
        capacity: CAPACITY,
        body: BodyLimit {
            size: 1000,
            timeout: Duration::from_secs(5),
        },
        policy: Policy {
            deny: vec![
                parse_subnet("198.51.100.0/24").unwrap(),
                parse_subnet("::/64").unwrap(),
            ],
            egress: Choices {
                source: what & 4 != 0,
                interface: what & 4 != 0,
                fwmark: what & 4 != 0,
            },
            ..Policy::default()
        },
        tokens: Arc::new(if what & 8 == 0 {
            Tokens::default()
        } else {
            Tokens::of("secret")
        }),
        allowed_hosts: AllowedHosts::default(),
        max_requests_per_minute: None,
        max_ports: u32::MAX,
        tls: None,
    };
    let backend = Arc::new(Fake {
        last,
        fails: what & 16 != 0,
        settings: settings.clone(),
    });
    RUNTIME.with(|runtime| runtime.block_on(answer(backend, settings, request, json)));
}

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().unwrap();
}

async fn answer(backend: Arc<Fake>, settings: Settings, request: HttpRequest<Body>, json: bool) {
    // Cancelled when it is dropped, which is at the end.
    let (_cancel, cancelled) = watch::channel(false);
    let is_head = request.method() == Method::HEAD;
    let service = TowerToHyperService::new(router(Service::new(backend, settings, cancelled)));
    let response: Response<Body> = service.call(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, 1 << 22).collect().await.unwrap().to_bytes();
    let text = std::str::from_utf8(&body).unwrap();
    let status = parts.status.as_u16();
    match status {
        200 | 301 => {}
        400 | 401 | 403 | 404 | 405 | 500 | 503 => {
            assert!(
                is_head || text.ends_with('\n') && text.trim_end().lines().count() == 1,
                "{text:?}"
            );
            assert!(
                status != 500 || text.contains("not finished within") || text.contains(STOPPED),
                "{text}"
            );
        }
        _ => panic!("{status}: {text}"),
    }
    let kind = parts.headers.get("content-type").map(HeaderValue::as_bytes);
    if kind == Some(b"application/json") && !text.is_empty() {
        let document: serde_json::Value = serde_json::from_str(text).unwrap();
        let is_error = document["code"].is_string() && document["message"].is_string();
        assert!(status == 200 || is_error, "{text}");
    } else {
        assert!(status < 400 || !json || text.is_empty(), "no JSON: {text}");
    }
}

/// What the only error of the backend says.
const STOPPED: &str = "the probing engine stopped";

/// Traces nothing, and sees to it that only what is allowed gets here.
struct Fake {
    last: u8,
    fails: bool,
    settings: Settings,
}

impl Fake {
    fn check(&self, request: &Request) {
        assert!(self.settings.ceilings.check(request).is_ok(), "{request:?}");
        assert_eq!(self.settings.policy.egress.refused(request), None, "{request:?}");
        let Host::Address(address) = request.host() else {
            panic!("not resolved: {request:?}");
        };
        assert!(self.settings.policy.allows(*address, None), "{request:?}");
    }

    fn stopped() -> Error {
        Error::Traces(vec![RunError::Trace(TraceError::Stopped)])
    }
}

impl Backend for Fake {
    fn resolve<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<IpAddr, Error>> {
        let address = match request.host() {
            Host::Address(address) => *address,
            Host::Name(_) if request.ipv6() => Ipv6Addr::new(0, 0, 0, self.last.into(), 0, 0, 0, 1).into(),
            Host::Name(_) => Ipv4Addr::new(198, 51, 100 + (self.last & 1), self.last).into(),
        };
        Box::pin(async move { Ok(address) })
    }

    fn trace<'a>(
        &'a self,
        _start: Instant,
        request: &'a Request,
        _tell: Option<OnEvent>,
    ) -> BoxFuture<'a, Result<Report, Error>> {
        self.check(request);
        let report = Report::new(request.hostname(), request.port(), Protocol::Udp, Vec::new());
        let fails = self.fails;
        Box::pin(async move { if fails { Err(Fake::stopped()) } else { Ok(report) } })
    }

    fn paths<'a>(
        &'a self,
        _start: Instant,
        request: &'a Request,
        _options: PathsOptions,
        _tell: Option<OnEvent<PathsEvent>>,
    ) -> BoxFuture<'a, Result<Paths, Error>> {
        self.check(request);
        Box::pin(async { Err(Fake::stopped()) })
    }

    fn statistics(&self) -> BoxFuture<'_, Option<Statistics>> {
        Box::pin(async { Some(Statistics::default()) })
    }

    fn start_windows_driver(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }
}
