//! Paths that are not as short as they could be, as Go's `http.ServeMux` treats them: the client is
//! sent to the short form.

use axum::body::Body;
use axum::http::header::{self, HeaderValue};
use axum::http::{Method, StatusCode, Uri};
use axum::response::Response;

/// The answer to a request for a path with empty or dot segments; `None` where it has none.
pub(crate) fn to_clean_path(method: &Method, uri: &Uri) -> Option<Response> {
    let path = uri.path();
    let clean = clean(path);
    if clean == path || !path.starts_with('/') || method == Method::CONNECT {
        return None;
    }
    // Browsers take a backslash for a slash, and two slashes for the beginning of another host.
    let clean = clean.replace('\\', "%5C");
    let location = match uri.query() {
        None => clean,
        Some(query) => format!("{clean}?{query}"),
    };
    let mut response = Response::new(Body::from("Moved permanently\n"));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let headers = response.headers_mut();
    // Made of a valid address.
    headers.insert(header::LOCATION, HeaderValue::try_from(location).ok()?);
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    Some(response)
}

/// The path without empty and `.` segments, and without segments before `..`. A slash at the end
/// stays.
fn clean(path: &str) -> String {
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    let end = if path.ends_with('/') && !segments.is_empty() {
        "/"
    } else {
        ""
    };
    format!("/{}{end}", segments.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_to_another_host() {
        for uri in ["//other.example", r"//\other.example/", r"/./\/other.example"] {
            let response = to_clean_path(&Method::GET, &uri.parse().unwrap()).unwrap();
            let location = response.headers()[header::LOCATION].to_str().unwrap();
            let (slash, rest) = location.split_at(1);
            assert!(slash == "/" && !rest.starts_with(['/', '\\']), "{location}");
        }
    }

    #[test]
    fn paths_become_as_short_as_they_can_be() {
        for (path, expected) in [
            ("/", "/"),
            ("//", "/"),
            ("/traceroute", "/traceroute"),
            ("//traceroute", "/traceroute"),
            ("/./traceroute", "/traceroute"),
            ("/x/../traceroute", "/traceroute"),
            ("/../../traceroute//stream", "/traceroute/stream"),
            ("/traceroute/", "/traceroute/"),
            ("/traceroute/.", "/traceroute"),
            ("/traceroute//", "/traceroute/"),
            ("/x/..", "/"),
            ("/x/../", "/"),
            ("/...", "/..."),
            ("/%2e/x", "/%2e/x"),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
    }
}
