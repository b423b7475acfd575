//! The bearer token (RFC 6750 §2.1).

use std::fmt;
use std::fs;
use std::path::Path;

use axum::http::{HeaderMap, HeaderValue, header};
use subtle::ConstantTimeEq;

/// The environment variable that may hold the token.
pub(crate) const VARIABLE: &str = "DATADOG_TRACEROUTE_TOKEN";

/// A secret that clients must show.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// The token in `text`, white space around it aside.
    ///
    /// # Errors
    /// It is empty, or no client could send it.
    pub(crate) fn new(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        if text.is_empty() {
            return Err("is empty");
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("contains white space or characters beyond ASCII");
        }
        Ok(Token(text.to_owned()))
    }

    /// Reads the token from a file, or else from the environment; `None` where neither names one.
    ///
    /// # Errors
    /// What is wrong with the file or the token.
    pub(crate) fn load(file: Option<&Path>) -> Result<Option<Self>, String> {
        if let Some(path) = file {
            let text = fs::read_to_string(path)
                .map_err(|error| format!("cannot read the token from {}: {error}", path.display()))?;
            return Token::new(&text)
                .map(Some)
                .map_err(|problem| format!("the token in {} {problem}", path.display()));
        }
        match std::env::var_os(VARIABLE) {
            None => Ok(None),
            Some(value) => Token::new(&value.to_string_lossy())
                .map(Some)
                .map_err(|problem| format!("the token in {VARIABLE} {problem}")),
        }
    }

    /// Whether `headers` show the token. Takes the same time however much of it is right.
    pub(crate) fn is_shown(&self, headers: &HeaderMap) -> bool {
        let value = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        let shown = value.and_then(|value| {
            let (scheme, rest) = value.split_at_checked("Bearer ".len())?;
            scheme.eq_ignore_ascii_case(b"Bearer ").then_some(rest)
        });
        shown.is_some_and(|shown| shown.trim_ascii().ct_eq(self.0.as_bytes()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        }
        Token::new("s3cret\n").unwrap().is_shown(&headers)
    }

    #[test]
    fn only_the_whole_token_counts() {
        assert!(shown(Some("Bearer s3cret")));
        assert!(shown(Some("bearer s3cret")));
        assert!(shown(Some("BEARER  s3cret")));
        for value in [
            None,
            Some(""),
            Some("Bearer"),
            Some("Bearer "),
            Some("Bearer s3cre"),
            Some("Bearer s3cretx"),
            Some("Bearer S3CRET"),
            Some("Basic s3cret"),
            Some("s3cret"),
            Some("Bearers3cret"),
        ] {
            assert!(!shown(value), "{value:?}");
        }
    }

    #[test]
    fn a_token_that_nobody_could_send_is_refused() {
        for text in ["", " \n", "two words", "schlüssel", "a\u{7f}"] {
            assert!(Token::new(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn it_is_never_printed() {
        assert!(!format!("{:?}", Token::new("s3cret").unwrap()).contains("s3cret"));
    }
}
