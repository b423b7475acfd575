//! The bearer token (RFC 6750 §2.1).

use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use axum::http::{HeaderMap, HeaderValue, header};
use subtle::ConstantTimeEq;

/// The environment variable that may hold the token.
pub(crate) const VARIABLE: &str = "DATADOG_TRACEROUTE_TOKEN";

/// Most bytes of a file with a token.
const LARGEST: u64 = 4096;

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

    /// The token in a file.
    ///
    /// # Errors
    /// What is wrong with the file or the token.
    fn from_file(path: &Path) -> Result<Self, String> {
        let cannot =
            |problem: &dyn fmt::Display| format!("cannot read the token from {}: {problem}", path.display());
        let file = fs::metadata(path).map_err(|error| cannot(&error))?;
        // A device may never end, and a pipe make the service wait.
        if !file.is_file() {
            return Err(cannot(&"it is no regular file"));
        }
        let file = File::open(path).map_err(|error| cannot(&error))?;
        let mut text = String::new();
        let size = file.take(LARGEST + 1).read_to_string(&mut text);
        if size.map_err(|error| cannot(&error))? as u64 > LARGEST {
            return Err(cannot(&format_args!("it has more than {LARGEST} bytes")));
        }
        Token::new(&text).map_err(|problem| format!("the token in {} {problem}", path.display()))
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

/// Where the token comes from, and what it is now.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    file: Option<PathBuf>,
    token: RwLock<Option<Token>>,
}

impl Tokens {
    /// Reads the token from a file, or else from the environment; there is none where neither names
    /// one.
    ///
    /// # Errors
    /// What is wrong with the file or the token.
    pub(crate) fn load(file: Option<PathBuf>) -> Result<Self, String> {
        let token = match &file {
            Some(path) => Some(Token::from_file(path)?),
            None => match std::env::var_os(VARIABLE) {
                None => None,
                Some(value) => Some(
                    Token::new(&value.to_string_lossy())
                        .map_err(|problem| format!("the token in {VARIABLE} {problem}"))?,
                ),
            },
        };
        Ok(Tokens {
            file,
            token: RwLock::new(token),
        })
    }

    /// One token, from nowhere.
    #[cfg(test)]
    pub(crate) fn of(text: &str) -> Self {
        Tokens {
            file: None,
            token: RwLock::new(Token::new(text).ok()),
        }
    }

    /// Reads the file again, where there is one. After an error the token is what it was.
    ///
    /// # Errors
    /// As [`Tokens::load`].
    pub(crate) fn reload(&self) -> Result<(), String> {
        if let Some(path) = &self.file {
            let token = Token::from_file(path)?;
            *self.token.write().unwrap_or_else(PoisonError::into_inner) = Some(token);
        }
        Ok(())
    }

    /// Whether everybody on this machine may read the token.
    #[cfg_attr(not(unix), expect(clippy::unused_self, reason = "as on Unix"))]
    pub(crate) fn are_readable_by_all(&self) -> bool {
        #[cfg(unix)]
        if let Some(Ok(file)) = self.file.as_ref().map(fs::metadata) {
            return std::os::unix::fs::PermissionsExt::mode(&file.permissions()) & 0o004 != 0;
        }
        false
    }

    pub(crate) fn is_any(&self) -> bool {
        self.token
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }

    /// Whether `headers` show the token, or none is needed.
    pub(crate) fn allow(&self, headers: &HeaderMap) -> bool {
        let token = self.token.read().unwrap_or_else(PoisonError::into_inner);
        token.as_ref().is_none_or(|token| token.is_shown(headers))
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

    #[cfg(unix)]
    #[test]
    fn a_file_is_read_again_and_never_for_ever() {
        use std::os::unix::fs::PermissionsExt;

        let path = std::env::temp_dir().join(format!("traceroute-token-{}", std::process::id()));
        fs::write(&path, "first\n").unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, "Bearer second".parse().unwrap());
        let tokens = Tokens::load(Some(path.clone())).unwrap();
        assert!(!tokens.allow(&headers));
        fs::write(&path, "second\n").unwrap();
        tokens.reload().unwrap();
        assert!(tokens.allow(&headers));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(tokens.are_readable_by_all());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(!tokens.are_readable_by_all());
        fs::write(&path, "x".repeat(4097)).unwrap();
        assert!(tokens.reload().unwrap_err().contains("more than 4096 bytes"));
        assert!(tokens.allow(&headers), "the last one counts");
        fs::remove_file(&path).unwrap();
        for other in ["/dev/zero", "/dev", "/dev/no-such-file"] {
            assert!(Tokens::load(Some(other.into())).is_err(), "{other}");
        }
    }

    #[test]
    fn it_is_never_printed() {
        assert!(!format!("{:?}", Token::new("s3cret").unwrap()).contains("s3cret"));
    }
}
