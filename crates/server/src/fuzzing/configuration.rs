//! What an operator writes, and headers that are lists of their own.

use std::collections::HashSet;
use std::ffi::OsString;
use std::time::Duration;

use axum::http::header::{ACCEPT, ACCEPT_LANGUAGE, AUTHORIZATION, HOST, ORIGIN, REFERER, USER_AGENT};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};

use super::take;
use crate::accept_header::prefers_json;
use crate::args;
use crate::auth::{Token, Tokens};
use crate::browser::{AllowedHosts, parse_host};
use crate::duration;
use crate::listen::ListenAddress;
use crate::redirect::to_clean_path;
use crate::tokens::NamedTokens;

/// Any text as a file of tokens, a duration, an address to listen on, the program's arguments, or
/// headers.
pub fn configuration(mut data: &[u8]) {
    let [kind] = take(&mut data);
    let text = String::from_utf8_lossy(data);
    match kind % 6 {
        0 => check_tokens(&text),
        1 => check_duration(&text),
        2 => check_listen(&text),
        3 => check_arguments(&text),
        4 => check_headers(data),
        _ => check_path(&text),
    }
}

/// A token that is read is found, stays the same when the file is read again, and no message has
/// its hash.
fn check_tokens(text: &str) {
    let tokens = match NamedTokens::parse(text, &NamedTokens::default()) {
        Ok(tokens) => tokens,
        Err(problem) => return assert!(!has_secret_of(&problem, text), "{problem}"),
    };
    let again = NamedTokens::parse(text, &tokens).unwrap();
    let mut clients = HashSet::new();
    for (one, other) in tokens.iter().zip(again.iter()) {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        assert!((1..=64).contains(&one.name.len()) && one.name.bytes().all(is_plain));
        assert_eq!(
            (&one.name, one.limits, one.client()),
            (&other.name, other.limits, other.client())
        );
        assert!(clients.insert(one.client()));
    }
    assert!(!clients.is_empty() && tokens.find(b"").is_none());
}

/// Whether the message quotes a value like a hash. Keys in single quotes may look the same, and keys
/// are told.
fn has_secret_of(problem: &str, text: &str) -> bool {
    let values = text.split("= \"").skip(1).filter_map(|rest| rest.get(..64));
    let mut secrets = values.filter(|value| value.bytes().all(|byte| byte.is_ascii_hexdigit()));
    !text.contains('\'')
        && secrets.any(|secret| text.matches(secret).count() == 1 && problem.contains(secret))
}

fn check_duration(text: &str) {
    let Ok(read) = duration::parse(text) else { return };
    let again = duration::parse(&duration::format(read)).unwrap();
    // Floating point arithmetic in between.
    assert!(
        again.abs_diff(read) <= Duration::from_micros(1).max(read / 1_000_000_000),
        "{text:?}"
    );
}

fn check_listen(text: &str) {
    let Ok(address) = text.parse::<ListenAddress>() else {
        return;
    };
    let again = address.to_string().parse::<ListenAddress>();
    assert_eq!(
        again.as_ref().map(ListenAddress::is_loopback),
        Ok(address.is_loopback())
    );
    assert_eq!(again, Ok(address));
}

/// One argument in each line.
fn check_arguments(text: &str) {
    let arguments = text.lines().take(12).map(OsString::from);
    match args::parse(arguments.collect()) {
        Ok(args::Action::Serve(config)) => {
            assert!(config.addr.is_some() || config.unix_socket.is_some());
            assert!(config.policy.check().is_ok());
            assert!(config.max_header_size <= config.max_request_size);
            assert!(config.ceilings.max_ttl > 0 && config.unix_socket_mode <= 0o777);
            assert!(config.ceilings.duration != Some(Duration::ZERO));
        }
        Ok(_) => {}
        Err(error) => assert!(!error.to_string().trim().is_empty()),
    }
}

/// One value in each line, for headers in turn.
fn check_headers(mut data: &[u8]) {
    const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
    const NAMES: [HeaderName; 8] = [
        HOST,
        ORIGIN,
        REFERER,
        USER_AGENT,
        ACCEPT_LANGUAGE,
        SITE,
        ACCEPT,
        AUTHORIZATION,
    ];
    let [options] = take(&mut data);
    let mut headers = HeaderMap::new();
    for (name, value) in NAMES
        .iter()
        .cycle()
        .zip(data.split(|byte| *byte == b'\n'))
        .take(16)
    {
        if let (false, Ok(value)) = (value.is_empty(), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let (guarded, encrypted) = (options & 1 != 0, options & 2 != 0);
    let version = if options & 4 != 0 {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    };
    let hosts = AllowedHosts(vec!["example.com".to_owned()]);
    let result = hosts.check(version, &headers, guarded, encrypted);
    if let Err(failure) = &result {
        assert!(matches!(failure.status.as_u16(), 400 | 403), "{failure}");
    }
    // Each further page can only be another's.
    headers.append(ORIGIN, HeaderValue::from_static("null"));
    let with_another = hosts.check(version, &headers, true, encrypted);
    assert!(with_another.is_err(), "{headers:?}");

    let json = prefers_json(&headers);
    headers.append(ACCEPT, HeaderValue::from_static("application/json;q=0"));
    assert!(json || !prefers_json(&headers), "{headers:?}");

    let shown = Tokens::of("secret").check(&headers).is_ok();
    let bearer = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
    assert_eq!(shown, bearer.is_some_and(is_secret), "{headers:?}");
}

fn is_secret(value: &[u8]) -> bool {
    let value = String::from_utf8_lossy(value);
    let words: Vec<&str> = value
        .split(|c: char| c.is_ascii_whitespace())
        .filter(|word| !word.is_empty())
        .collect();
    let is_bearer = value
        .get(..7)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer "));
    is_bearer && words.len() == 2 && words[1] == "secret"
}

/// A name, a token, and a path that may lead elsewhere.
fn check_path(text: &str) {
    if let Ok(host) = parse_host(text) {
        assert!(
            host.is_empty() || parse_host(&host).as_ref() == Ok(&host),
            "{text:?}"
        );
    }
    if let Ok(token) = Token::new(text) {
        assert_eq!(format!("{token:?}"), "Token(…)");
    }
    let Ok(uri) = text.parse::<Uri>() else { return };
    if let Some(response) = to_clean_path(&Method::GET, &uri) {
        let location = std::str::from_utf8(response.headers()["location"].as_bytes()).unwrap();
        assert!(location.starts_with('/') && !location.starts_with("//") && !location.starts_with("/\\"));
        let next = location.parse::<Uri>().unwrap();
        assert!(
            to_clean_path(&Method::GET, &next).is_none(),
            "{text:?} leads to {location:?} and on"
        );
    }
}
