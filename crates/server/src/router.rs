//! Which path is what.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{self, HeaderValue};
use axum::http::{Method, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::any;
use tokio::sync::watch;
use traceroute_flags::Parameters;

use crate::auth::Token;
use crate::backend::Backend;
use crate::failure::Failure;
use crate::job::Job;
use crate::limits::{Admission, Ceilings};
use crate::metrics::Metrics;
use crate::observe;
use crate::parameters::from_query;
use crate::policy::Policy;
use crate::{health, openapi, page, paths, stream};

/// What the operator decided about requests.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) ceilings: Ceilings,
    pub(crate) max_traces: u32,
    pub(crate) body: observe::BodyLimit,
    pub(crate) policy: Policy,
    pub(crate) token: Option<Token>,
}

/// Everything that requests share.
pub(crate) struct Service {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) settings: Settings,
    pub(crate) admission: Admission,
    pub(crate) metrics: Metrics,
    /// Becomes true when what still runs is to end.
    pub(crate) cancelled: watch::Receiver<bool>,
    started: Instant,
}

impl Service {
    pub(crate) fn new(
        backend: Arc<dyn Backend>,
        settings: Settings,
        cancelled: watch::Receiver<bool>,
    ) -> Arc<Self> {
        Arc::new(Service {
            backend,
            admission: Admission::new(settings.max_traces),
            settings,
            metrics: Metrics::default(),
            cancelled,
            started: Instant::now(),
        })
    }
}

/// Whether a path needs the token: those that send packets, or tell of those who do.
pub(crate) fn is_protected(path: &str) -> bool {
    matches!(path, "/traceroute" | "/traceroute/stream" | "/paths" | "/metrics")
}

/// The paths that are served, for metrics and the OpenAPI document; page files aside.
pub(crate) const PATHS: [&str; 7] = [
    "/traceroute",
    "/traceroute/stream",
    "/paths",
    "/health",
    "/metrics",
    "/openapi.json",
    "/",
];

/// The whole service.
pub(crate) fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/traceroute", any(traceroute))
        .route("/traceroute/stream", any(events))
        .route("/paths", any(paths::paths))
        .route("/health", any(healthy))
        .route("/metrics", any(metrics))
        .route("/openapi.json", any(api))
        .merge(page::routes())
        .fallback(async || Failure::not_found())
        .layer(from_fn_with_state(Arc::clone(&service), observe::surround))
        .with_state(service)
}

type Answer = Result<Response, Failure>;

async fn traceroute(State(service): State<Arc<Service>>, method: Method, uri: Uri) -> Answer {
    only_get(&method)?;
    let job = Job::admit(service, parameters(uri)).await?;
    let report = job.run(None).await?;
    let document =
        datadog_traceroute::json::to_compact(&report).map_err(|error| Failure::encoding(&error))?;
    Ok(respond("application/json", document))
}

async fn events(State(service): State<Arc<Service>>, method: Method, uri: Uri) -> Answer {
    only_get(&method)?;
    let job = Job::admit(service, parameters(uri)).await?;
    Ok(stream::response(job))
}

async fn healthy(State(service): State<Arc<Service>>, method: Method) -> Answer {
    get_or_head(&method)?;
    let document = health::document(service.started.elapsed(), SystemTime::now())
        .map_err(|error| Failure::encoding(&error))?;
    let mut response = respond("application/json", document);
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, no_store);
    Ok(response)
}

async fn metrics(State(service): State<Arc<Service>>, method: Method) -> Answer {
    get_or_head(&method)?;
    let engine = service.backend.statistics().await;
    let text = service.metrics.write(engine.as_ref());
    Ok(respond("text/plain; version=0.0.4; charset=utf-8", text))
}

async fn api(method: Method) -> Answer {
    get_or_head(&method)?;
    Ok(respond("application/json", openapi::document()))
}

/// Takes the address apart, and lets go of it: it would keep the connection's whole read buffer in
/// memory.
fn parameters(uri: Uri) -> Parameters {
    let parameters = from_query(uri.query().unwrap_or_default());
    drop(uri);
    parameters
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
