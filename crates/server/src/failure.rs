//! Errors as clients see them.

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::{self, HeaderValue};
use axum::response::{IntoResponse, Response};
use datadog_traceroute::{EgressError, Error, ErrorCode, Host};
use serde::Serialize;
use traceroute_flags::InvalidParameter;

/// A request that has no result. How it is written depends on the request's headers, so it travels
/// in the response's extensions until [`Failure::render`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) status: StatusCode,
    pub(crate) code: ErrorCode,
    /// One line.
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(status: StatusCode, code: ErrorCode, message: &str) -> Self {
        Failure {
            status,
            code,
            message: one_line(message),
        }
    }

    pub(crate) fn method_not_allowed() -> Self {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Failure::new(status, ErrorCode::InvalidRequest, "Method not allowed")
    }

    pub(crate) fn not_found() -> Self {
        Failure::new(StatusCode::NOT_FOUND, ErrorCode::InvalidRequest, "Not found")
    }

    pub(crate) fn invalid_parameters(error: &InvalidParameter) -> Self {
        let message = format!("Invalid parameters: {error}");
        Failure::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidRequest, &message)
    }

    pub(crate) fn trace(error: &Error) -> Self {
        Failure::trace_failed(error.code(), error)
    }

    pub(crate) fn trace_failed(code: ErrorCode, cause: impl std::fmt::Display) -> Self {
        let message = format!("Traceroute failed: {cause}");
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, code, &message)
    }

    pub(crate) fn encoding(error: &serde_json::Error) -> Self {
        let message = format!("Failed to encode response: {error}");
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Unknown, &message)
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

    /// A choice of egress that cannot be made, or not by this server.
    pub(crate) fn egress(error: EgressError) -> Self {
        let error = Error::Egress(error);
        if error.code() == ErrorCode::InvalidRequest {
            let message = format!("Invalid parameters: {error}");
            Failure::new(StatusCode::BAD_REQUEST, error.code(), &message)
        } else {
            Failure::trace(&error)
        }
    }

    /// The task that carried out a request has panicked.
    pub(crate) fn crashed(panic: &tokio::task::JoinError) -> Self {
        Failure::trace_failed(ErrorCode::Unknown, panic)
    }

    pub(crate) fn overloaded() -> Self {
        let message = "Too many traces at once: try again later";
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
            ("text/plain; charset=utf-8", self.message.clone())
        };
        let mut response = Response::new(Body::from(text + "\n"));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        let extra = match self.status {
            StatusCode::SERVICE_UNAVAILABLE => Some((header::RETRY_AFTER, RETRY_AFTER)),
            StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer")),
            // A body that is not read to its end leaves the connection in doubt.
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT => {
                Some((header::CONNECTION, "close"))
            }
            _ => None,
        };
        if let Some((name, value)) = extra {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// When to try again after 503, in seconds.
const RETRY_AFTER: &str = "5";

/// Lines become clauses; other control characters, which may come from far away, become spaces.
fn one_line(message: &str) -> String {
    let lines: Vec<&str> = message
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines.join("; ").replace(char::is_control, " ")
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

    #[test]
    fn several_errors_are_one_line() {
        let failure = Failure::trace_failed(ErrorCode::Unknown, "no route\nno\tpermission\r\n");
        assert_eq!(failure.message, "Traceroute failed: no route; no permission");
    }

    #[test]
    fn messages_of_the_contract() {
        let missing = Failure::invalid_parameters(&InvalidParameter::missing("target"));
        assert_eq!(
            missing.message,
            "Invalid parameters: missing required parameter: target"
        );
        assert_eq!(missing.status, StatusCode::BAD_REQUEST);
        let encoding = serde_json::from_str::<bool>("x").unwrap_err();
        let not_encoded = Failure::encoding(&encoding);
        assert_eq!(not_encoded.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(
            not_encoded.message,
            format!("Failed to encode response: {encoding}")
        );
        let error = Error::Start(io::Error::from(io::ErrorKind::PermissionDenied));
        let failed = Failure::trace(&error);
        assert_eq!(failed.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(failed.code, ErrorCode::Denied);
        assert!(failed.message.starts_with("Traceroute failed: "));
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
