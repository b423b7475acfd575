//! `GET /`: a page to try the service from a browser. Needs nothing from elsewhere, and may not load anything either.

use axum::Router;
use axum::http::Method;
use axum::http::header::{self, HeaderValue};
use axum::response::Response;
use axum::routing::any;

use crate::failure::Failure;
use crate::router::{get_or_head, respond};

/// What the page may do: run its own script, use its own style, ask this server. No other page may show it in a frame.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                                       img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Path, media type and content.
const FILES: [(&str, &str, &str); 3] = [
    ("/", "text/html; charset=utf-8", include_str!("assets/index.html")),
    (
        "/page.js",
        "text/javascript; charset=utf-8",
        include_str!("assets/page.js"),
    ),
    (
        "/page.css",
        "text/css; charset=utf-8",
        include_str!("assets/page.css"),
    ),
];

/// The page and its two files.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES
        .into_iter()
        .fold(Router::new(), |router, (path, kind, text)| {
            router.route(path, any(async move |method| file(&method, kind, text)))
        })
}

fn file(method: &Method, kind: &'static str, text: &'static str) -> Result<Response, Failure> {
    get_or_head(method)?;
    let mut response = respond(kind, text);
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}
