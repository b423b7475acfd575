//! `GET /`: a page to try the service from a browser. Needs nothing from elsewhere, and may not
//! load anything either.

use axum::Router;
use axum::http::Method;
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::response::Response;
use axum::routing::any;

use crate::failure::Failure;
use crate::router::{get_or_head, respond};

/// What the page may do: run its own script, use its own style, ask this server. No other page may
/// show it in a frame.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                                       img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Path, media type and content.
const FILES: [(&str, &str, &str); 4] = [
    ("/", "text/html; charset=utf-8", include_str!("assets/index.html")),
    (
        "/page.js",
        "text/javascript; charset=utf-8",
        include_str!("assets/page.js"),
    ),
    (
        "/paths.js",
        "text/javascript; charset=utf-8",
        include_str!("assets/paths.js"),
    ),
    (
        "/page.css",
        "text/css; charset=utf-8",
        include_str!("assets/page.css"),
    ),
];

/// The page and its files.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES
        .into_iter()
        .fold(Router::new(), |router, (path, kind, text)| {
            let file = async move |method: Method, headers: HeaderMap| {
                get_or_head(&method)?;
                Ok::<_, Failure>(file(kind, opened_by(&headers, text)))
            };
            router.route(path, any(file))
        })
}

/// The page knows whether its user opened it: by typing its address, a bookmark, or a link of its
/// own. Only then it traces at once what its address names; any other site may have a link here
/// (<https://www.w3.org/TR/fetch-metadata/>).
fn opened_by(headers: &HeaderMap, text: &'static str) -> String {
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    if matches!(site, Some(b"none" | b"same-origin")) {
        text.replacen("<html lang", "<html data-opened-by=\"user\" lang", 1)
    } else {
        text.to_owned()
    }
}

fn file(kind: &'static str, text: String) -> Response {
    let mut response = respond(kind, text);
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::VARY, "sec-fetch-site"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
