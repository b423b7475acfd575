//! Which path is what.

use std::hash::RandomState;
use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};

use axum::Extension;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{HeaderMap, Method, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use datadog_traceroute::{Report, Request};
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use traceroute_flags::InvalidParameter;
use traceroute_format::{Format, Screen, View, to_compact_json};

use crate::auth::Tokens;
use crate::backend::Backend;
use crate::browser::AllowedHosts;
use crate::connections::{Client, Connection};
use crate::failure::Failure;
use crate::job::{Job, probes_nothing};
use crate::limits::{Admission, Capacity, Ceilings, Room};
use crate::metrics::{self, Metrics};
use crate::observe::{self, ProbedNothing};
use crate::parameters::{Asked, MODULE, Query, Remarks};
use crate::policy::Policy;
use crate::ports::Ports;
use crate::probe::Probe;
use crate::rate::Rates;
use crate::tls::Tls;
use crate::tokens::Guest;
use crate::writer::Writer;
use crate::{health, openapi, page, paths, stream};

/// What the operator decided about requests.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) ceilings: Ceilings,
    pub(crate) capacity: Capacity,
    pub(crate) body: observe::BodyLimit,
    pub(crate) policy: Policy,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) allowed_hosts: AllowedHosts,
    pub(crate) max_requests_per_minute: Option<NonZeroU32>,
    pub(crate) max_ports: u32,
    pub(crate) tls: Option<Arc<Tls>>,
}

/// Everything that requests share.
pub(crate) struct Service {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) settings: Settings,
    pub(crate) admission: Admission,
    pub(crate) rates: Rates,
    pub(crate) ports: Ports,
    /// Turns each client into the number by which the library tells clients apart.
    pub(crate) numbers: RandomState,
    pub(crate) writer: Writer,
    pub(crate) metrics: Metrics,
    /// Becomes true when what still runs is to end.
    pub(crate) cancelled: watch::Receiver<bool>,
    started: Instant,
    /// The OpenAPI document. There is one: clients may be slow to read it.
    api: OnceLock<Bytes>,
}

impl Service {
    pub(crate) fn new(
        backend: Arc<dyn Backend>,
        settings: Settings,
        cancelled: watch::Receiver<bool>,
    ) -> Arc<Self> {
        Arc::new(Service {
            backend,
            admission: Admission::new(settings.capacity),
            rates: Rates::new(settings.max_requests_per_minute),
            ports: Ports::new(settings.max_ports),
            settings,
            numbers: RandomState::new(),
            writer: Writer::default(),
            metrics: Metrics::default(),
            cancelled,
            started: Instant::now(),
            api: OnceLock::new(),
        })
    }
}

/// Whether a path needs the token: those that send packets, or tell of those who do.
pub(crate) fn is_protected(path: &str) -> bool {
    sends_probes(path) || path == "/metrics"
}

/// Whether asking for a path costs something: only `GET` does.
pub(crate) fn sends_probes(path: &str) -> bool {
    matches!(
        path,
        "/traceroute" | "/traceroute/stream" | "/probe" | "/paths" | "/paths/stream"
    )
}

/// Whether a path tells how the service is, also when there is no room for more.
pub(crate) fn tells_health(path: &str) -> bool {
    matches!(path, "/health" | "/livez" | "/readyz" | "/metrics")
}

/// The paths that are served, for metrics and the OpenAPI document; page files aside.
pub(crate) const PATHS: [&str; 11] = [
    "/traceroute",
    "/traceroute/stream",
    "/probe",
    "/paths",
    "/paths/stream",
    "/health",
    "/livez",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/",
];

/// The whole service.
pub(crate) fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/traceroute", any(traceroute))
        .route("/traceroute/stream", any(events))
        .route("/probe", any(probe))
        .route("/paths", any(paths::paths))
        .route("/paths/stream", any(paths::events))
        .route("/health", any(healthy))
        .route("/livez", any(alive))
        .route("/readyz", any(ready))
        .route("/metrics", any(counters))
        .route("/openapi.json", any(api))
        .merge(page::routes())
        .fallback(async || Failure::not_found())
        .layer(from_fn_with_state(Arc::clone(&service), observe::surround))
        .with_state(service)
}

pub(crate) type HttpResult = Result<Response, Failure>;

async fn traceroute(
    State(service): State<Arc<Service>>,
    Extension(guest): Extension<Guest>,
    method: Method,
    uri: Uri,
) -> HttpResult {
    only_get(&method)?;
    let (wanted, notes) = wanted(asked_of_trace(&service, uri));
    let answer = wanted.map(|(request, format)| trace(service, request, guest, format));
    let answer = match answer {
        Ok(answer) => answer.await,
        Err(failure) => Err(failure),
    };
    Ok(notes.on(answer))
}

/// Not an `async fn`, which would keep room for its arguments: there may be ten thousand.
fn trace(
    service: Arc<Service>,
    request: Request,
    guest: Guest,
    format: Format,
) -> BoxFuture<'static, HttpResult> {
    let details = request.details();
    let job = Job::admit(service, request, guest, None);
    Box::pin(async move {
        let mut job = job.await?;
        let report = Arc::new(job.run(None).await?);
        let size = job.memory_of(&report, format).await?;
        let room = job.room_for(size).await?;
        let document = job.write(size, move || {
            let text = write(&report, format, details)?;
            Ok(held(format.media_type(), text, room))
        });
        document.await?
    })
}

fn write(report: &Report, format: Format, details: bool) -> Result<String, Failure> {
    let view = View {
        screen: Screen::NONE,
        details,
        option_prefix: "",
    };
    match format {
        Format::Json => to_compact_json(report, details).map_err(Failure::encoding),
        format => format.render(report, view).map_err(Failure::encoding),
    }
}

/// A response with a document, and the memory that it has taken: until it has been sent.
pub(crate) fn held(kind: &'static str, text: String, room: Room) -> Response {
    respond(kind, Bytes::from_owner(Held { text, _room: room }))
}

struct Held {
    text: String,
    _room: Room,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

async fn events(
    State(service): State<Arc<Service>>,
    Extension(guest): Extension<Guest>,
    method: Method,
    uri: Uri,
) -> HttpResult {
    only_get(&method)?;
    let (wanted, notes) = wanted(asked_of_trace(&service, uri));
    let answer = async {
        let request = without_format(wanted?, "events are JSON")?;
        stream::of_trace(Job::admit(service, request, guest, None).await?).await
    };
    Ok(notes.on(answer.await))
}

async fn probe(
    State(service): State<Arc<Service>>,
    Extension(guest): Extension<Guest>,
    method: Method,
    headers: HeaderMap,
    uri: Uri,
) -> HttpResult {
    only_get(&method)?;
    let query = Query::parse(uri.query().unwrap_or_default());
    let ceilings = &service.settings.ceilings;
    let probe = Probe::new(&query, &headers, ceilings)?;
    drop((uri, headers));
    let asked = query.read(&[MODULE], |option| ceilings.clamp(option, probe.default(option)));
    drop(query);
    asked.remarks.log();
    let (wanted, notes) = wanted(asked);
    let answer = async {
        let request = without_format(wanted?, "probes are answered with metrics")?;
        probe.measure(service, request, guest).await
    };
    Ok(notes.on(answer.await))
}

fn asked_of_trace(service: &Service, uri: Uri) -> Asked {
    asked(uri, |query| query.read_trace(&service.settings.ceilings))
}

/// What a query asks for. Lets go of the address: it would keep the connection's whole read buffer
/// in memory.
pub(crate) fn asked<P>(uri: Uri, read: impl FnOnce(&Query) -> Asked<P>) -> Asked<P> {
    let query = Query::parse(uri.query().unwrap_or_default());
    drop(uri);
    let asked = read(&query);
    asked.remarks.log();
    asked
}

/// The trace that is asked for, in which format.
fn wanted(asked: Asked) -> (Result<(Request, Format), Failure>, Notes) {
    let (wanted, remarks) = asked.check(|parameters| {
        let request = parameters.validate()?;
        Ok((request, Format::named(parameters.text("format"))))
    });
    let probes_nothing = wanted.as_ref().is_ok_and(|(request, _)| probes_nothing(request));
    let notes = Notes {
        remarks,
        probes_nothing,
    };
    (wanted, notes)
}

/// Refuses a format where there is one already, and which.
fn without_format((request, format): (Request, Format), which: &str) -> Result<Request, Failure> {
    if format == Format::Json {
        return Ok(request);
    }
    let problem = format!("cannot be chosen here: {which}");
    Err(Failure::invalid_parameters(InvalidParameter::new(
        "format", problem,
    )))
}

/// The response header that names parameters which do not exist or do not parse.
const WARNING: HeaderName = HeaderName::from_static("traceroute-warning");

/// What goes with the answer to a request.
pub(crate) struct Notes {
    /// For the client.
    pub(crate) remarks: Remarks,
    /// For the log.
    pub(crate) probes_nothing: bool,
}

impl Notes {
    pub(crate) fn on(&self, answer: HttpResult) -> Response {
        let mut response = answer.into_response();
        if !self.remarks.is_empty()
            && let Ok(value) = HeaderValue::from_str(&self.remarks.to_string())
        {
            response.headers_mut().insert(WARNING, value);
        }
        if self.probes_nothing {
            response.extensions_mut().insert(ProbedNothing);
        }
        response
    }
}

async fn healthy(State(service): State<Arc<Service>>, method: Method) -> HttpResult {
    get_or_head(&method)?;
    let document =
        health::document(service.started.elapsed(), SystemTime::now()).map_err(Failure::encoding)?;
    let mut response = respond("application/json", document);
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, no_store);
    Ok(response)
}

/// Restarting helps when this is not answered, and never otherwise.
async fn alive(method: Method) -> HttpResult {
    get_or_head(&method)?;
    Ok(state("{\"status\":\"alive\"}\n"))
}

/// Whether a client that has nothing yet would be let in: by a connection like this one, with a
/// request that has the defaults.
async fn ready(
    State(service): State<Arc<Service>>,
    connection: Option<Extension<Arc<Connection>>>,
    method: Method,
) -> HttpResult {
    get_or_head(&method)?;
    if connection
        .as_ref()
        .is_some_and(|connection| !connection.next_has_room())
    {
        return Err(Failure::too_many_connections());
    }
    let client = match connection {
        Some(connection) if connection.client == Client::Local => Client::Local,
        _ => Client::NOBODY,
    };
    let request = usual_request(&service.settings, client)?;
    match service.admission.overloaded(&request, client) {
        Some(scarce) => Err(Failure::overloaded(scarce)),
        None => Ok(state("{\"status\":\"ready\"}\n")),
    }
}

/// A request with the defaults or, where this server never lets such in, the smallest one.
fn usual_request(settings: &Settings, client: Client) -> Result<Request, Failure> {
    let request = |parameters: &str| {
        // From the range for documentation.
        let query = Query::parse(&format!("target=192.0.2.1&{parameters}"));
        let parameters = query.read_trace(&settings.ceilings).parameters;
        parameters.validate().map_err(Failure::invalid_parameters)
    };
    let usual = request("")?;
    match settings.capacity.refuses(&usual, client) {
        None => Ok(usual),
        Some(_) => request("traceroute-queries=1&e2e-queries=0&max-ttl=1"),
    }
}

fn state(document: &'static str) -> Response {
    let mut response = respond("application/json", document);
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, no_store);
    response
}

async fn counters(State(service): State<Arc<Service>>, method: Method) -> HttpResult {
    get_or_head(&method)?;
    let engine = service.backend.statistics().await;
    let refused = service.admission.refused();
    let Settings { tokens, tls, .. } = &service.settings;
    let end = tls.as_ref().and_then(|tls| tls.end());
    metrics::respond(&service.metrics.registry(engine, refused, &tokens.named(), end))
}

async fn api(State(service): State<Arc<Service>>, method: Method) -> HttpResult {
    get_or_head(&method)?;
    let document = || openapi::document(&service.settings.ceilings).into();
    let document: &Bytes = service.api.get_or_init(document);
    Ok(respond("application/json", document.clone()))
}

pub(crate) fn only_get(method: &Method) -> Result<(), Failure> {
    match *method {
        Method::GET => Ok(()),
        _ => Err(Failure::method_not_allowed()),
    }
}

/// For everything that costs nothing.
pub(crate) fn get_or_head(method: &Method) -> Result<(), Failure> {
    match *method {
        Method::GET | Method::HEAD => Ok(()),
        _ => Err(Failure::method_not_allowed()),
    }
}

/// 200 with a body.
pub(crate) fn respond(kind: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
