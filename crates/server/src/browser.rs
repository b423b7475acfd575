//! Requests that a web page makes its reader's browser send.
//!
//! A page of another site cannot read the answers, because they carry no CORS headers. It could
//! still make the service send probes. And by DNS rebinding it could read them too: its own name
//! then stands for the service's address, so its requests look like those of the service's page.

use std::net::IpAddr;

use axum::http::header::{ACCEPT_LANGUAGE, HOST, HeaderName, HeaderValue, ORIGIN, REFERER, USER_AGENT};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri, Version};

use crate::failure::Failure;

/// What caused a request, seen from the service (Fetch Metadata, W3C). Scripts cannot set it.
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// The part of Fetch Metadata that some programs send, too.
const MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// The names, besides addresses and `localhost`, under which browsers may ask for the service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AllowedHosts(pub(crate) Vec<String>);

/// Reads one name for [`AllowedHosts`].
///
/// # Errors
/// It is none: it has a port, say.
pub(crate) fn parse_host(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if is_name {
        Ok(text.trim_end_matches('.').to_ascii_lowercase())
    } else {
        Err(format!(
            "{text:?} is no host name; write it without scheme and port"
        ))
    }
}

impl AllowedHosts {
    /// # Errors
    /// The request has no `Host` or several (RFC 9112 §3.2); or a page of another site caused it
    /// and it is `guarded`; or it comes from a browser that took somebody else's name for ours. Over
    /// TLS the latter cannot be: the browser has compared the name with our certificate.
    pub(crate) fn check(
        &self,
        version: Version,
        headers: &HeaderMap,
        guarded: bool,
        encrypted: bool,
    ) -> Result<(), Failure> {
        let host = host(version, headers)?;
        if guarded && is_from_another_site(headers, host.as_ref(), encrypted) {
            return Err(Failure::another_site());
        }
        match host {
            Some(host) if !encrypted && is_browser(headers) && !self.contain(host.host()) => {
                Err(Failure::host_not_allowed(host.host()))
            }
            _ => Ok(()),
        }
    }

    fn contain(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        // Nobody can make an address stand for another.
        host == "localhost" || address.parse::<IpAddr>().is_ok() || self.0.contains(&host)
    }
}

/// The one `Host`. HTTP/1.0 needs none.
fn host(version: Version, headers: &HeaderMap) -> Result<Option<Authority>, Failure> {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if version < Version::HTTP_11 => Ok(None),
        (None, _) => Err(Failure::bad_host("is missing")),
        (Some(_), Some(_)) => Err(Failure::bad_host("is there more than once")),
        // Allowed where the target of the request has no authority.
        (Some(host), None) if host.is_empty() => Ok(None),
        (Some(host), None) => {
            let authority = Authority::try_from(host.as_bytes()).ok();
            let authority = authority.filter(|authority| !authority.as_str().contains('@'));
            authority.map(Some).ok_or_else(|| Failure::bad_host("is no host"))
        }
    }
}

fn is_from_another_site(headers: &HeaderMap, host: Option<&Authority>, encrypted: bool) -> bool {
    let by_site = headers
        .get_all(SITE)
        .iter()
        .any(|site| !matches!(site.as_bytes(), b"same-origin" | b"none"));
    let mut pages = headers.get_all(ORIGIN).iter().chain(headers.get_all(REFERER));
    by_site || pages.any(|page| !is_of(page, host, encrypted))
}

/// Whether a page is of the origin that the request was sent to. `null`, the origin of pages that
/// hide theirs, is not. Without TLS the page may have come through a proxy that has it.
fn is_of(page: &HeaderValue, host: Option<&Authority>, encrypted: bool) -> bool {
    let Some(host) = host else { return false };
    let Ok(page) = Uri::try_from(page.as_bytes()) else {
        return false;
    };
    let usual = match page.scheme_str() {
        Some("http") if !encrypted => 80,
        Some("https") => 443,
        _ => return false,
    };
    page.authority().is_some_and(|page| {
        page.host().eq_ignore_ascii_case(host.host())
            && page.port_u16().unwrap_or(usual) == host.port_u16().unwrap_or(usual)
    })
}

/// Whether a browser has sent this, as far as a page cannot hide it. Over HTTP without TLS,
/// browsers send no Fetch Metadata, a page can leave `Referer` out, and in some it can choose
/// `User-Agent`; but `Accept-Language` is always there.
fn is_browser(headers: &HeaderMap) -> bool {
    if [SITE, ORIGIN, REFERER]
        .iter()
        .any(|name| headers.contains_key(name))
    {
        return true;
    }
    let agent = headers.get(USER_AGENT).map_or(&b""[..], HeaderValue::as_bytes);
    // Node's `fetch` sends a language as well, and this without the site. No page can send it.
    let is_program = headers.contains_key(MODE);
    !is_program && (agent.starts_with(b"Mozilla/") || headers.contains_key(ACCEPT_LANGUAGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(headers: &[(&'static str, &str)], guarded: bool) -> u16 {
        status_over(headers, guarded, false)
    }

    fn status_over(headers: &[(&'static str, &str)], guarded: bool, encrypted: bool) -> u16 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let allowed = AllowedHosts(vec!["trace.example".to_owned()]);
        match allowed.check(Version::HTTP_11, &map, guarded, encrypted) {
            Ok(()) => 200,
            Err(failure) => failure.status.as_u16(),
        }
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let own = ("host", "10.0.0.1:3765");
        for (name, value, expected) in [
            ("sec-fetch-site", "cross-site", 403),
            ("sec-fetch-site", "same-site", 403),
            ("sec-fetch-site", "nonsense", 403),
            ("sec-fetch-site", "same-origin", 200),
            ("sec-fetch-site", "none", 200),
            ("origin", "http://evil.example", 403),
            ("origin", "null", 403),
            ("origin", "http://10.0.0.1", 403),
            ("origin", "http://10.0.0.1:3766", 403),
            ("origin", "http://10.0.0.1:3765", 200),
            ("referer", "http://evil.example/10.0.0.1:3765", 403),
            ("referer", "http://10.0.0.1:3765@evil.example/", 403),
            ("referer", "http://10.0.0.1:3765/page?x=y", 200),
        ] {
            assert_eq!(status(&[own, (name, value)], true), expected, "{name}: {value}");
            // A link may lead to what costs nothing.
            assert_eq!(status(&[own, (name, value)], false), 200, "{name}: {value}");
        }
        let proxied = [("host", "trace.example"), ("origin", "https://trace.example")];
        assert_eq!(status(&proxied, true), 200);
    }

    #[test]
    fn browsers_take_no_other_name_for_ours() {
        let signs = [
            ("user-agent", "Mozilla/5.0 (X11; Linux x86_64)"),
            ("accept-language", "*"),
            ("sec-fetch-site", "same-origin"),
            ("referer", "http://evil.example:3765/"),
        ];
        for sign in signs {
            for guarded in [true, false] {
                assert_eq!(
                    status(&[("host", "evil.example:3765"), sign], guarded),
                    403,
                    "{sign:?}"
                );
            }
        }
        for host in [
            "localhost:3765",
            "127.0.0.1",
            "[::1]:3765",
            "Trace.Example.:80",
            "trace.example",
        ] {
            assert_eq!(status(&[("host", host), signs[0]], true), 200, "{host}");
        }
    }

    #[test]
    fn over_tls_the_certificate_decides_which_names_are_ours() {
        let host = ("host", "any.example:3765");
        for (name, value, expected) in [
            ("user-agent", "Mozilla/5.0", 200),
            ("origin", "https://any.example:3765", 200),
            ("origin", "https://any.example", 403),
            ("origin", "http://any.example:3765", 403),
            ("sec-fetch-site", "cross-site", 403),
        ] {
            assert_eq!(
                status_over(&[host, (name, value)], true, true),
                expected,
                "{name}: {value}"
            );
        }
    }

    #[test]
    fn programs_may_use_any_name() {
        let host = ("host", "any.example:3765");
        for headers in [
            &[host][..],
            &[host, ("user-agent", "curl/8.5.0"), ("accept", "*/*")],
            &[
                host,
                ("user-agent", "node"),
                ("accept-language", "*"),
                ("sec-fetch-mode", "cors"),
            ],
        ] {
            assert_eq!(status(headers, true), 200, "{headers:?}");
        }
    }

    #[test]
    fn one_host_must_be_there() {
        for headers in [
            &[][..],
            &[("host", "a"), ("host", "a")],
            &[("host", "a b")],
            &[("host", "a/b")],
            &[("host", "user@a")],
        ] {
            assert_eq!(status(headers, false), 400, "{headers:?}");
        }
        let none = HeaderMap::new();
        assert!(
            AllowedHosts::default()
                .check(Version::HTTP_10, &none, true, false)
                .is_ok()
        );
    }

    #[test]
    fn names_as_written() {
        assert_eq!(parse_host("Trace.Example.").unwrap(), "trace.example");
        for text in ["", "a:80", "http://a", "a,b", "*"] {
            assert!(parse_host(text).is_err(), "{text:?}");
        }
    }
}
