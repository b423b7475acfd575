//! The bearer token (RFC 6750 §2.1).

use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use axum::http::{HeaderMap, HeaderValue, header};
use subtle::ConstantTimeEq;

use crate::tokens::{NamedToken, NamedTokens};

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
        let text = read_small_file(path, LARGEST).map_err(|problem| cannot(&problem))?;
        Token::new(&text).map_err(|problem| format!("the token in {} {problem}", path.display()))
    }

    /// Whether it is what was shown. Takes the same time however much of it is right.
    fn is(&self, shown: &[u8]) -> bool {
        shown.ct_eq(self.0.as_bytes()).into()
    }
}

/// The token that a request shows. Of two a proxy in between may have looked at the other one.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().map(HeaderValue::as_bytes)?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, rest) = value.split_at_checked("Bearer ".len())?;
    scheme
        .eq_ignore_ascii_case(b"Bearer ")
        .then_some(rest.trim_ascii())
}

/// The text of a regular file that has no more than this many bytes.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn read_small_file(path: &Path, largest: u64) -> Result<String, String> {
    let file = fs::metadata(path).map_err(|error| error.to_string())?;
    // A device may never end, and a pipe make the service wait.
    if !file.is_file() {
        return Err("it is no regular file".to_owned());
    }
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    let size = file.take(largest + 1).read_to_string(&mut text);
    if size.map_err(|error| error.to_string())? as u64 > largest {
        return Err(format!("it has more than {largest} bytes"));
    }
    Ok(text)
}

/// Whether everybody on this machine may read a file.
pub(crate) fn is_readable_by_all(path: &Path) -> bool {
    #[cfg(unix)]
    if let Ok(file) = fs::metadata(path) {
        return std::os::unix::fs::PermissionsExt::mode(&file.permissions()) & 0o004 != 0;
    }
    let _ = path;
    false
}

/// Where the tokens come from, and what they are now.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    file: Option<PathBuf>,
    token: RwLock<Option<Token>>,
    named_file: Option<PathBuf>,
    named: RwLock<Arc<NamedTokens>>,
}

/// No token was shown, or a wrong one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotShown;

impl Tokens {
    /// Reads the token from a file, or else from the environment; there is none where neither names
    /// one. Reads those with names from another file.
    ///
    /// # Errors
    /// What is wrong with a file or a token.
    pub(crate) fn load(file: Option<PathBuf>, named_file: Option<PathBuf>) -> Result<Self, String> {
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
        let tokens = Tokens {
            file,
            token: RwLock::new(token),
            named_file,
            named: RwLock::default(),
        };
        tokens.reload_named()?;
        tokens.check_different()?;
        Ok(tokens)
    }

    /// One token, from nowhere.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn of(text: &str) -> Self {
        Tokens {
            token: RwLock::new(Token::new(text).ok()),
            ..Tokens::default()
        }
    }

    /// Reads the token's file again. After an error the token is what it was. False: there is no
    /// file.
    ///
    /// # Errors
    /// As [`Tokens::load`].
    pub(crate) fn reload(&self) -> Result<bool, String> {
        if let Some(path) = &self.file {
            let token = Token::from_file(path)?;
            *self.token.write().unwrap_or_else(PoisonError::into_inner) = Some(token);
        }
        Ok(self.file.is_some())
    }

    /// The same for the file of tokens with names.
    ///
    /// # Errors
    /// As [`Tokens::load`].
    pub(crate) fn reload_named(&self) -> Result<bool, String> {
        if let Some(path) = &self.named_file {
            let named = NamedTokens::read(path, &self.named())?;
            *self.named.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(named);
        }
        Ok(self.named_file.is_some())
    }

    /// No two tokens may be the same.
    ///
    /// # Errors
    /// The one without a name has a name, too.
    pub(crate) fn check_different(&self) -> Result<(), String> {
        let token = self.token.read().unwrap_or_else(PoisonError::into_inner);
        let twin = token
            .as_ref()
            .and_then(|token| self.named().find(token.0.as_bytes()));
        match twin {
            Some(twin) => Err(format!("the token without a name is that of {twin}, too")),
            None => Ok(()),
        }
    }

    /// The file of those with names.
    pub(crate) fn named_file(&self) -> Option<&Path> {
        self.named_file.as_deref()
    }

    /// The files that nobody else should be able to read.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        let files = [&self.file, &self.named_file];
        files.into_iter().flatten().map(PathBuf::as_path)
    }

    pub(crate) fn is_any(&self) -> bool {
        let token = self.token.read().unwrap_or_else(PoisonError::into_inner);
        token.is_some() || !self.named().is_empty()
    }

    /// Those with names.
    pub(crate) fn named(&self) -> Arc<NamedTokens> {
        Arc::clone(&self.named.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Which token with a name `headers` show; `None`: the one without, or none is needed.
    ///
    /// # Errors
    /// They show none that is right.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<Option<Arc<NamedToken>>, NotShown> {
        let token = self.token.read().unwrap_or_else(PoisonError::into_inner);
        let named = self.named();
        if token.is_none() && named.is_empty() {
            return Ok(None);
        }
        let shown = bearer(headers).ok_or(NotShown)?;
        // First: it may be one without a name as well, which may do more.
        if let Some(token) = named.find(shown) {
            return Ok(Some(token));
        }
        let is_it = token.as_ref().is_some_and(|token| token.is(shown));
        is_it.then_some(None).ok_or(NotShown)
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
        Tokens::of("s3cret\n").check(&headers).is_ok()
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
    fn of_two_tokens_none_counts() {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, "Bearer s3cret".parse().unwrap());
        headers.append(header::AUTHORIZATION, "Bearer other".parse().unwrap());
        assert_eq!(Tokens::of("s3cret").check(&headers).unwrap_err(), NotShown);
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
        let tokens = Tokens::load(Some(path.clone()), None).unwrap();
        assert_eq!(tokens.check(&headers).unwrap_err(), NotShown);
        fs::write(&path, "second\n").unwrap();
        tokens.reload().unwrap();
        assert!(tokens.check(&headers).is_ok());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(tokens.files().all(is_readable_by_all));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(!tokens.files().any(is_readable_by_all));
        fs::write(&path, "x".repeat(4097)).unwrap();
        assert!(tokens.reload().unwrap_err().contains("more than 4096 bytes"));
        assert!(tokens.check(&headers).is_ok(), "the last one counts");
        fs::remove_file(&path).unwrap();
        for other in ["/dev/zero", "/dev", "/dev/no-such-file"] {
            assert!(Tokens::load(Some(other.into()), None).is_err(), "{other}");
            assert!(Tokens::load(None, Some(other.into())).is_err(), "{other}");
        }
    }

    /// Otherwise its bounds would be gone.
    #[test]
    fn a_token_with_a_name_is_one_also_where_there_is_one_without() {
        let folder = std::env::temp_dir().join(format!("traceroute-twins-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (plain, named) = (folder.join("token"), folder.join("tokens.toml"));
        // Of "one".
        let hash = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed";
        fs::write(&named, format!("[tokens.a]\nsha256 = \"{hash}\"\n")).unwrap();
        fs::write(&plain, "one").unwrap();
        let load = || Tokens::load(Some(plain.clone()), Some(named.clone()));
        assert_eq!(load().unwrap_err(), "the token without a name is that of a, too");
        fs::write(&plain, "two").unwrap();
        let tokens = load().unwrap();
        fs::write(&plain, "one").unwrap();
        tokens.reload().unwrap();
        assert!(tokens.check_different().is_err());
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, "Bearer one".parse().unwrap());
        let found = tokens.check(&headers).unwrap();
        assert_eq!(found.unwrap().name, "a");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn it_is_never_printed() {
        assert!(!format!("{:?}", Token::new("s3cret").unwrap()).contains("s3cret"));
    }
}
