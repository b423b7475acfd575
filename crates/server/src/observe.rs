//! What happens around every request: a trace id, a log line, counters, authorization, and errors
//! in the form that the client wants.

use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use datadog_traceroute::{ErrorCode, Uuid};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, SizeHint};
use tower_service::Service as _;
use tracing::instrument::Instrumented;
use tracing::{Instrument, Span, field};

use crate::accept_header::prefers_json;
use crate::auth::NotShown;
use crate::connections::{Client, Connection, Serving};
use crate::failure::Failure;
use crate::limits::{Room, Scarce};
use crate::logging::{may_tell_of_cheap_request, may_tell_of_request, shorten};
use crate::redirect::to_clean_path;
use crate::router::{PATHS, Service, is_protected, sends_probes, tells_health};
use crate::tls::Encrypted;
use crate::tokens::{Guest, NamedToken};

/// The response header that names the request in the log.
const TRACE_ID: HeaderName = HeaderName::from_static("x-trace-id");
/// Status in logs and metrics of a request whose client went away, as nginx has it.
const CLIENT_GONE: u16 = 499;
/// The path in metrics of what is not served, so that strangers cannot make up labels.
const OTHER: &str = "other";

/// What a request's body may be. No request needs one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BodyLimit {
    /// Bytes.
    pub(crate) size: usize,
    pub(crate) timeout: Duration,
}

/// Everything around a request. One function, because each layer of its own costs every request in
/// flight a kilobyte; and not an `async fn`, which would keep room for the request.
pub(crate) fn surround(
    State(service): State<Arc<Service>>,
    request: Request,
    next: Next,
) -> impl Future<Output = Response> + Send {
    let trace_id = trace_id(request.headers());
    let span = tracing::info_span!(
        "request",
        trace_id,
        method = %request.method(),
        path = &*shorten(request.uri().path()),
        query = &*shorten(request.uri().query().unwrap_or_default()),
        token = field::Empty,
    );
    let observation = Observation::begin(service, request.uri().path(), span);
    // Not the headers themselves: they would keep the connection's whole read buffer in memory.
    let json = prefers_json(request.headers());
    let head_is_allowed = !sends_probes(request.uri().path());
    let is_one_too_many = connection(&request).is_some_and(|connection| connection.in_reserve);
    // Boxed: it is over when a trace begins, and there may be ten thousand of them.
    let entering = Box::pin(enter(request, next, observation));
    async move {
        let (answer, observation) = entering.await;
        let response = match answer {
            Ok(answer) => answer.await.unwrap_or_else(|never| match never {}),
            Err(response) => response,
        };
        let about = About {
            trace_id,
            json,
            head_is_allowed,
            is_one_too_many,
        };
        about.finish(response, observation)
    }
}

/// The answer that a request gets, once it has begun.
type Answer = Instrumented<<Next as tower_service::Service<Request>>::Future>;

fn connection(request: &Request) -> Option<&Arc<Connection>> {
    request.extensions().get()
}

/// Lets a request in, or has a response instead.
async fn enter(
    request: Request,
    mut next: Next,
    mut observation: Observation,
) -> (Result<Answer, Response>, Observation) {
    if let Some(response) = to_clean_path(request.method(), request.uri()) {
        return (Err(response), observation);
    }
    let connection = connection(&request).cloned();
    let answer = match prepare(request, &mut observation).await {
        Ok(request) => {
            let is_unbound = connection.is_none();
            observation.serving = connection.and_then(Connection::serve);
            if is_unbound || observation.serving.is_some() || tells_health(observation.path) {
                Ok(next.call(request).instrument(observation.span.clone()))
            } else {
                Err(Failure::too_many_connections().into_response())
            }
        }
        Err(failure) => Err(failure.into_response()),
    };
    (answer, observation)
}

/// What a response depends on besides its answer.
struct About {
    trace_id: String,
    json: bool,
    head_is_allowed: bool,
    is_one_too_many: bool,
}

impl About {
    /// Writes errors as the client wants them, and has the observation end with the response.
    fn finish(self, mut response: Response, mut observation: Observation) -> Response {
        if let Some(failure) = response.extensions_mut().remove::<Failure>() {
            let headers = std::mem::take(response.headers_mut());
            response = failure.render(self.json);
            response.headers_mut().extend(headers);
            if failure.status == StatusCode::METHOD_NOT_ALLOWED {
                let allow = HeaderValue::from_static(if self.head_is_allowed { "GET, HEAD" } else { "GET" });
                response.headers_mut().insert(header::ALLOW, allow);
            }
            observation.outcome.fail(failure);
        } else if let Some(outcome) = response.extensions_mut().remove::<Outcome>() {
            observation.outcome = outcome;
        }
        observation.status = response.status().as_u16();
        observation.probed_nothing = response.extensions_mut().remove::<ProbedNothing>().is_some();
        let headers = response.headers_mut();
        if self.is_one_too_many {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Ok(value) = HeaderValue::from_str(&self.trace_id) {
            headers.insert(TRACE_ID, value);
        }
        headers.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        response.map(|body| {
            Body::new(Observed {
                body,
                observation: Some(observation),
            })
        })
    }
}

/// Refuses what pages of other sites cause, those who do not show the token where there is one, and
/// those who send too many requests; and reads the body.
async fn prepare(mut request: Request, observation: &mut Observation) -> Result<Request, Failure> {
    let service = Arc::clone(&observation.service);
    let guarded = is_protected(request.uri().path());
    let hosts = &service.settings.allowed_hosts;
    let encrypted = request.extensions().get::<Encrypted>().is_some();
    hosts.check(request.version(), request.headers(), guarded, encrypted)?;
    if guarded {
        let token = service.settings.tokens.check(request.headers());
        let token = token.map_err(|NotShown| {
            let message = "A valid bearer token is required";
            Failure::new(StatusCode::UNAUTHORIZED, ErrorCode::Denied, message)
        })?;
        if let Some(token) = &token {
            observation.span.record("token", field::display(token));
        }
        observation.token.clone_from(&token);
        let client = connection(&request).map_or(Client::Local, |connection| connection.client);
        let guest = Guest::new(client, token);
        if sends_probes(request.uri().path()) {
            service.rates.take(&guest, Instant::now()).map_err(|wait| {
                service.admission.count_refused(Scarce::OwnRate);
                Failure::too_frequent(Scarce::OwnRate, wait)
            })?;
        }
        request.extensions_mut().insert(guest);
    }
    if request.body().is_end_stream() {
        return Ok(request);
    }
    Box::pin(take_body(service.settings.body, request)).await
}

/// The trace id of a `traceparent` header (W3C Trace Context §3.2), or a random one: 32 hexadecimal
/// digits.
fn trace_id(headers: &HeaderMap) -> String {
    let given = headers.get("traceparent").and_then(|value| value.to_str().ok());
    let id = given.and_then(|text| {
        let mut parts = text.split('-');
        let (version, id, _parent) = (parts.next()?, parts.next()?, parts.next()?);
        let hex = |text: &str| {
            text.bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let valid = version.len() == 2 && version != "ff" && hex(version) && id.len() == 32 && hex(id);
        (valid && id.bytes().any(|b| b != b'0')).then(|| id.to_owned())
    });
    id.unwrap_or_else(|| Uuid::new_v4().simple().to_string())
}

/// How a request ended, for the log and the metrics. A stream's status is sent before that is
/// known, so the one who carries it out shares this with the one who logs it, through the
/// response's extensions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome(Arc<Ending>);

#[derive(Debug, Default)]
struct Ending {
    failure: OnceLock<Failure>,
    rooms: Mutex<Vec<Room>>,
}

impl Outcome {
    /// The request has no result.
    pub(crate) fn fail(&self, failure: Failure) {
        // Only the first reason counts.
        let _ = self.0.failure.set(failure);
    }

    /// Keeps the memory of a stream taken: of what waits in it, and of its document.
    pub(crate) fn hold(&self, room: Room) {
        let mut rooms = self.0.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        rooms.push(room);
    }
}

/// What the response to a request has in its extensions that asked for no probes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProbedNothing;

/// A request under way; counted and logged when dropped.
struct Observation {
    service: Arc<Service>,
    path: &'static str,
    span: Span,
    started: Instant,
    status: u16,
    outcome: Outcome,
    probed_nothing: bool,
    token: Option<Arc<NamedToken>>,
    serving: Option<Serving>,
}

impl Observation {
    fn begin(service: Arc<Service>, path: &str, span: Span) -> Self {
        service.metrics.begin_request();
        Observation {
            service,
            path: PATHS.iter().find(|known| **known == path).unwrap_or(&OTHER),
            span,
            started: Instant::now(),
            // Until there is a response.
            status: CLIENT_GONE,
            outcome: Outcome::default(),
            probed_nothing: false,
            token: None,
            serving: None,
        }
    }
}

impl Observation {
    /// Whether the request may have cost next to nothing: strangers can send any number of those.
    /// Only a trace that has succeeded has surely sent probes.
    fn is_cheap(&self) -> bool {
        let succeeded = self.status == 200 && self.outcome.0.failure.get().is_none();
        !succeeded || self.probed_nothing || !sends_probes(self.path)
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        let duration = self.started.elapsed();
        let metrics = &self.service.metrics;
        metrics.end_request(self.path, self.status, duration);
        let duration_ms = duration.as_micros() as f64 / 1000.0;
        let status = self.status;
        if let Some(token) = &self.token {
            token.count(status == StatusCode::TOO_MANY_REQUESTS.as_u16());
        }
        let failure = self.outcome.0.failure.get();
        if let Some(failure) = failure {
            metrics.count_error(self.path, failure.code.name(), failure.fault);
        }
        let may_tell = if self.is_cheap() {
            may_tell_of_cheap_request()
        } else {
            may_tell_of_request()
        };
        if !may_tell {
            return;
        }
        self.span.in_scope(|| {
            if status == CLIENT_GONE {
                tracing::info!(status, duration_ms, "the client went away");
            } else if let Some(failure) = failure {
                tracing::info!(
                    status,
                    duration_ms,
                    code = failure.code.name(),
                    error = &*shorten(&failure.to_string()),
                    "request failed"
                );
            } else {
                tracing::info!(status, duration_ms, "request");
            }
        });
    }
}

/// A body that ends an observation when it ends.
struct Observed {
    body: Body,
    observation: Option<Observation>,
}

impl hyper::body::Body for Observed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(None) = polled {
            self.observation = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        // A body of known size is dropped once it is written, without being asked for its end.
        if let Some(observation) = &mut self.observation
            && self.body.size_hint().exact().is_none()
            && !self.body.is_end_stream()
        {
            observation.status = CLIENT_GONE;
        }
    }
}

/// Reads the body, which nobody needs, to its end: while one is outstanding, a client that goes
/// away would not be noticed.
async fn take_body(limit: BodyLimit, request: Request) -> Result<Request, Failure> {
    let (parts, body) = request.into_parts();
    match tokio::time::timeout(limit.timeout, read_to_end(body, limit.size)).await {
        Ok(true) => Ok(Request::from_parts(parts, Body::empty())),
        Ok(false) => Err(too_large()),
        Err(_) => Err(too_slow()),
    }
}

/// Reads a body and keeps nothing of it: held together, the small pieces in which it may come would
/// take many times the memory that they take on the wire. False when it is broken, or has more
/// bytes than `limit`.
async fn read_to_end(mut body: Body, limit: usize) -> bool {
    let mut left = limit;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        let size = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(size) {
            Some(rest) => left = rest,
            None => return false,
        }
    }
    true
}

fn too_large() -> Failure {
    let message = "The request's body is too large or broken";
    Failure::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::InvalidRequest, message)
}

fn too_slow() -> Failure {
    let message = "The request's body did not arrive in time";
    Failure::new(StatusCode::REQUEST_TIMEOUT, ErrorCode::Timeout, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(traceparent: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", traceparent.parse().unwrap());
        trace_id(&headers)
    }

    #[test]
    fn trace_ids() {
        let given = "0af7651916cd43dd8448eb211c80319c";
        assert_eq!(id(&format!("00-{given}-b7ad6b7169203331-01")), given);
        let zero = "0".repeat(32);
        for wrong in [
            String::new(),
            given.to_owned(),
            format!("00-{zero}-b7ad6b7169203331-01"),
            format!("ff-{given}-b7ad6b7169203331-01"),
            format!("00-{}-b7ad6b7169203331-01", given.to_uppercase()),
            format!("00-{}x-b7ad6b7169203331-01", &given[1..]),
        ] {
            let id = id(&wrong);
            assert!(id.len() == 32 && id != given && id != zero, "{wrong}: {id}");
        }
    }
}
