//! Errors as clients see them.

use std::fmt::{self, Display};
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::{self, HeaderValue};
use axum::response::{IntoResponse, Response};
use datadog_traceroute::{Error, ErrorCode, Host};
use serde::Serialize;

use crate::limits::Scarce;

/// A request that has no result. How it is written depends on the request's headers, so it travels
/// in the response's extensions until [`Failure::render`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) status: StatusCode,
    pub(crate) code: ErrorCode,
    /// What kind of failure, in the contract's words: what plain text begins with. JSON has the
    /// code for that.
    kind: Option<&'static str>,
    /// One line.
    message: String,
    pub(crate) fault: Fault,
    /// After 503 and 429, in seconds.
    retry_after: u64,
}

/// The contract's words.
const INVALID: &str = "Invalid parameters";
const FAILED: &str = "Traceroute failed";
const NOT_ENCODED: &str = "Failed to encode response";

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The request is wrong, may not be made, or asks for more than there is time for.
    Client,
    /// The target's name does not resolve.
    Name,
    /// The target does not do what the method needs.
    Target,
    /// The service, its machine, or the network that it is in.
    Service,
}

impl Fault {
    /// The name in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Fault::Client => "client",
            Fault::Name => "name",
            Fault::Target => "target",
            Fault::Service => "service",
        }
    }
}

impl Failure {
    pub(crate) fn new(status: StatusCode, code: ErrorCode, message: &str) -> Self {
        Failure {
            status,
            code,
            kind: None,
            message: one_line(message),
            fault: if status.is_client_error() {
                Fault::Client
            } else {
                Fault::Service
            },
            retry_after: RETRY_AFTER,
        }
    }

    fn of_kind(kind: &'static str, status: StatusCode, code: ErrorCode, cause: impl Display) -> Self {
        Failure {
            kind: Some(kind),
            ..Failure::new(status, code, &cause.to_string())
        }
    }

    pub(crate) fn method_not_allowed() -> Self {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Failure::new(status, ErrorCode::InvalidRequest, "Method not allowed")
    }

    pub(crate) fn not_found() -> Self {
        Failure::new(StatusCode::NOT_FOUND, ErrorCode::InvalidRequest, "Not found")
    }

    pub(crate) fn invalid_parameters(problem: impl Display) -> Self {
        let (status, code) = (StatusCode::BAD_REQUEST, ErrorCode::InvalidRequest);
        Failure::of_kind(INVALID, status, code, problem)
    }

    /// A request that the library does not carry out: the client's fault where it is wrong.
    pub(crate) fn trace(error: &Error) -> Self {
        let fault = match (error, error.code()) {
            (_, ErrorCode::InvalidRequest) => return Failure::invalid_parameters(error),
            (_, ErrorCode::Dns) => Fault::Name,
            (Error::Traces(_), ErrorCode::Timeout | ErrorCode::ConnectionRefused | ErrorCode::Unknown) => {
                Fault::Target
            }
            _ => Fault::Service,
        };
        Failure {
            fault,
            ..Failure::trace_failed(error.code(), error)
        }
    }

    /// A request that takes longer than it may.
    pub(crate) fn took_too_long(cause: &str) -> Self {
        Failure {
            fault: Fault::Client,
            ..Failure::trace_failed(ErrorCode::Timeout, cause)
        }
    }

    fn trace_failed(code: ErrorCode, cause: impl Display) -> Self {
        Failure::of_kind(FAILED, StatusCode::INTERNAL_SERVER_ERROR, code, cause)
    }

    pub(crate) fn encoding(error: impl Display) -> Self {
        let (status, code) = (StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Unknown);
        Failure::of_kind(NOT_ENCODED, status, code, error)
    }

    /// Whether a trace that could be asked for has failed.
    pub(crate) fn is_failed_trace(&self) -> bool {
        self.kind == Some(FAILED)
    }

    /// Shows the host as it was asked for: what a name stands for is nothing to tell those who may
    /// not know.
    pub(crate) fn target_not_allowed(host: &Host) -> Self {
        let host = match host {
            Host::Name(name) => name.clone(),
            Host::Address(address) => address.to_string(),
        };
        let message = format!("Target not allowed: {host}");
        Failure::new(StatusCode::FORBIDDEN, ErrorCode::Denied, &message)
    }

    /// A choice of egress that the operator does not leave to clients.
    pub(crate) fn egress_not_allowed(parameter: &str) -> Self {
        let message =
            format!("Parameter not allowed: {parameter}; this server's --allow-egress does not name it");
        Failure::new(StatusCode::FORBIDDEN, ErrorCode::Denied, &message)
    }

    /// A `Host` header that is not as it must be.
    pub(crate) fn bad_host(problem: &str) -> Self {
        let message = format!("The Host header {problem}");
        Failure::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidRequest, &message)
    }

    /// A browser asks on behalf of a page that is not ours.
    pub(crate) fn another_site() -> Self {
        let message = "A page of another site caused this request";
        Failure::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message)
    }

    /// A browser asks under a name that may be anybody's.
    pub(crate) fn host_not_allowed(host: &str) -> Self {
        let message = format!("Host not allowed: {host}; name it in --allowed-hosts, or use an address");
        Failure::new(StatusCode::FORBIDDEN, ErrorCode::Denied, &message)
    }

    /// What carried out a request has panicked.
    pub(crate) fn crashed(panic: impl Display) -> Self {
        Failure::trace_failed(ErrorCode::Unknown, panic)
    }

    pub(crate) fn overloaded(scarce: Scarce) -> Self {
        let message = match scarce {
            Scarce::Traces | Scarce::LongTraces => "Too many traces at once: try again later",
            Scarce::ClientTraces => "Too many traces at once for one client: try again later",
            Scarce::Packets => "Too many packets a second: try again later",
            Scarce::ClientPackets => "Too many packets a second for one client: try again later",
            Scarce::TargetPackets => "Too many packets a second to this target: try again later",
            Scarce::Memory => "Not enough memory: ask for less, or try again later",
            Scarce::ClientMemory => "Not enough memory for one client: ask for less, or try again later",
            Scarce::OwnRequests => "Too many requests at once for this token: try again later",
            Scarce::OwnPackets => {
                "Too many packets a second for this token: ask for less, or try again later"
            }
            Scarce::OwnRate => "Too many requests a minute for one client: try again later",
            Scarce::OwnPorts => "Too many ports of this target a minute for one client: try again later",
        };
        let status = match scarce {
            // There is room, but not for this client.
            Scarce::OwnRequests | Scarce::OwnPackets | Scarce::OwnRate | Scarce::OwnPorts => {
                StatusCode::TOO_MANY_REQUESTS
            }
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Failure::new(status, ErrorCode::Unknown, message)
    }

    /// A client asks for more a minute than it may have; it will be let in after this time.
    pub(crate) fn too_frequent(scarce: Scarce, wait: Duration) -> Self {
        Failure {
            retry_after: wait.as_secs() + u64::from(wait.subsec_nanos() > 0),
            ..Failure::overloaded(scarce)
        }
    }

    pub(crate) fn too_many_connections() -> Self {
        let message = "Too many connections at once: try again later";
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unknown, message)
    }

    pub(crate) fn stopping() -> Self {
        let message = "The server is shutting down";
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unknown, message)
    }

    /// The JSON form, without a final newline.
    pub(crate) fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Document<'a> {
            code: &'static str,
            message: &'a str,
        }
        let document = Document {
            code: self.code.name(),
            message: &self.message,
        };
        // Two strings can always be written.
        datadog_traceroute::json::to_compact(&document)
            .unwrap_or_default()
            .trim_end()
            .to_owned()
    }

    /// The response, as JSON or as plain text.
    pub(crate) fn render(&self, json: bool) -> Response {
        let (kind, text) = if json {
            ("application/json", self.to_json())
        } else {
            ("text/plain; charset=utf-8", self.to_string())
        };
        let mut response = Response::new(Body::from(text + "\n"));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        let known = HeaderValue::from_static;
        let extra = match self.status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                Some((header::RETRY_AFTER, self.retry_after.into()))
            }
            StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, known("Bearer"))),
            // A body that is not read to its end leaves the connection in doubt.
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT => {
                Some((header::CONNECTION, known("close")))
            }
            _ => None,
        };
        if let Some((name, value)) = extra {
            headers.insert(name, value);
        }
        response
    }
}

/// When to try again where nobody knows better, in seconds.
const RETRY_AFTER: u64 = 5;

/// Lines become clauses; other control characters, which may come from far away, become spaces.
fn one_line(message: &str) -> String {
    let lines: Vec<&str> = message
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines.join("; ").replace(char::is_control, " ")
}

/// As plain text.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(kind) = self.kind {
            write!(f, "{kind}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use traceroute_flags::InvalidParameter;

    #[test]
    fn several_errors_are_one_line() {
        let failure = Failure::trace_failed(ErrorCode::Unknown, "no route\nno\tpermission\r\n");
        assert_eq!(failure.to_string(), "Traceroute failed: no route; no permission");
    }

    #[test]
    fn messages_of_the_contract() {
        let missing = Failure::invalid_parameters(InvalidParameter::missing("target"));
        assert_eq!(
            missing.to_string(),
            "Invalid parameters: missing required parameter: target"
        );
        assert_eq!(missing.status, StatusCode::BAD_REQUEST);
        let encoding = serde_json::from_str::<bool>("x").unwrap_err();
        let not_encoded = Failure::encoding(&encoding);
        assert_eq!(not_encoded.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(
            not_encoded.to_string(),
            format!("Failed to encode response: {encoding}")
        );
        let error = Error::Start(io::Error::from(io::ErrorKind::PermissionDenied));
        let failed = Failure::trace(&error);
        assert_eq!(failed.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(failed.code, ErrorCode::Denied);
        assert!(failed.to_string().starts_with("Traceroute failed: "));
    }

    /// Names that do not resolve are no fault of the service, whatever the status.
    #[test]
    fn whose_fault_it_is() {
        let wrong = Failure::trace(&Error::NotAHost([0, 0, 0, 0].into()));
        assert_eq!((wrong.status.as_u16(), wrong.fault), (400, Fault::Client));
        let unknown = Failure::trace(&Error::TooLate);
        assert_eq!((unknown.status.as_u16(), unknown.fault), (500, Fault::Name));
        assert_eq!(Failure::overloaded(Scarce::Traces).fault, Fault::Service);
    }

    #[test]
    fn json_has_a_code_in_the_place_of_words() {
        let failure = Failure::trace_failed(ErrorCode::Dns, "no such name");
        assert_eq!(failure.to_json(), r#"{"code":"DNS","message":"no such name"}"#);
    }

    #[test]
    fn json_escapes_what_html_would_interpret() {
        let failure = Failure::new(StatusCode::BAD_REQUEST, ErrorCode::Dns, "\"<b>\"");
        assert_eq!(
            failure.to_json(),
            r#"{"code":"DNS","message":"\"\u003cb\u003e\""}"#
        );
    }
}
