//! Tokens with names: who each one is, and what it may do.
//!
//! The file has the SHA-256 of each token, and no token. Tokens are long random strings, so a plain
//! hash is enough: nobody can try all of them. Passwords would need a slow one.

use std::collections::{BTreeMap, HashSet};
use std::fmt::{self, Display};
use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ring::digest::{SHA256, digest};
use serde::Deserialize;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::auth::read_small_file;
use crate::connections::Client;
use crate::policy::{Subnet, contain, parse_subnet};

/// Most bytes of a file with tokens, and most tokens: each request is compared with all of them,
/// and each has its series in the metrics.
const LARGEST: u64 = 1 << 18;
const MOST: usize = 1000;
/// Most characters of a name.
const LONGEST_NAME: usize = 64;

/// SHA-256 as words, which compare eight times as fast as bytes.
type Hash = [u64; 4];

/// What one client may have at most, besides what any client may. The default bounds nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct OwnLimits {
    /// Requests at once.
    pub(crate) requests: Option<NonZeroU32>,
    /// Probes a second.
    pub(crate) packet_rate: Option<NonZeroU32>,
    /// In the place of what any client may.
    pub(crate) requests_per_minute: Option<NonZeroU32>,
}

/// A token's entry in the file.
#[derive(Debug)]
pub(crate) struct NamedToken {
    pub(crate) name: String,
    hash: Hash,
    pub(crate) limits: OwnLimits,
    /// What may be traced of what anybody may trace; `None`: all of it.
    allow: Option<Vec<Subnet>>,
    holder: Arc<Holder>,
}

/// Who holds a token: the same after the file was read again, and when the token is another.
#[derive(Debug, Default)]
struct Holder {
    id: u64,
    requests: AtomicU64,
    refused: AtomicU64,
}

impl NamedToken {
    /// As what it counts among clients, from whatever address it comes.
    pub(crate) fn client(&self) -> Client {
        Client::Token(self.holder.id)
    }

    /// Whether it may trace the address by this interface.
    pub(crate) fn allows(&self, address: IpAddr, interface: Option<NonZeroU32>) -> bool {
        let allow = self.allow.as_ref();
        allow.is_none_or(|networks| contain(networks, address, interface))
    }

    /// Counts a request. Too many are those that its own limits refuse.
    pub(crate) fn count(&self, is_too_many: bool) {
        self.holder.requests.fetch_add(1, Ordering::Relaxed);
        let refused = u64::from(is_too_many);
        self.holder.refused.fetch_add(refused, Ordering::Relaxed);
    }

    /// Requests, and those of them that its own limits refused.
    pub(crate) fn counts(&self) -> [u64; 2] {
        [&self.holder.requests, &self.holder.refused].map(|count| count.load(Ordering::Relaxed))
    }
}

/// The tokens of a file, by name.
#[derive(Debug, Default)]
pub(crate) struct NamedTokens(Vec<Arc<NamedToken>>);

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    tokens: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Entry {
    sha256: String,
    max_requests: Option<NonZeroU32>,
    max_packet_rate: Option<NonZeroU32>,
    max_requests_per_minute: Option<NonZeroU32>,
    allow: Option<Vec<String>>,
}

impl NamedTokens {
    /// Reads a file. Who was in it `before` stays who it was.
    ///
    /// # Errors
    /// What is wrong with the file. No message has more of it than names.
    pub(crate) fn read(path: &Path, before: &NamedTokens) -> Result<Self, String> {
        let cannot =
            |problem: &dyn Display| format!("cannot read the tokens from {}: {problem}", path.display());
        let text = read_small_file(path, LARGEST).map_err(|problem| cannot(&problem))?;
        NamedTokens::parse(&text, before).map_err(|problem| cannot(&problem))
    }

    pub(crate) fn parse(text: &str, before: &NamedTokens) -> Result<Self, String> {
        // Not its display form, which quotes the file.
        let document: Document = toml::from_str(text).map_err(|error| match error.span() {
            Some(span) => format!(
                "line {}: {}",
                line(text, span.start),
                without_value(error.message())
            ),
            None => without_value(error.message()),
        })?;
        if document.tokens.is_empty() {
            return Err("there is none in it".to_owned());
        }
        if document.tokens.len() > MOST {
            return Err(format!("there are more than {MOST}"));
        }
        let mut hashes = HashSet::new();
        let mut tokens = Vec::new();
        for (name, entry) in document.tokens {
            let problem = |problem: &str| format!("token {}: {problem}", name.escape_debug());
            let token = entry.named(&name, before).map_err(|error| problem(&error))?;
            if !hashes.insert(token.hash) {
                return Err(problem("another one has the same sha256"));
            }
            tokens.push(Arc::new(token));
        }
        Ok(NamedTokens(tokens))
    }

    /// The token that was shown. Takes the same time whichever it is, and when it is none.
    pub(crate) fn find(&self, shown: &[u8]) -> Option<Arc<NamedToken>> {
        let shown = hash(shown);
        let mut found = 0;
        for (place, token) in (1..).zip(&self.0) {
            let is_it: Choice = token.hash.ct_eq(&shown);
            found = u64::conditional_select(&found, &place, is_it);
        }
        let place = NonZeroUsize::new(found as usize)?;
        self.0.get(place.get() - 1).cloned()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<NamedToken>> {
        self.0.iter()
    }
}

impl Entry {
    fn named(self, name: &str, before: &NamedTokens) -> Result<NamedToken, String> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(is_plain) {
            return Err(format!(
                "a name has 1 to {LONGEST_NAME} letters, digits, dots, hyphens and underscores"
            ));
        }
        let known_hash = parse_hash(&self.sha256).ok_or("sha256 is not 64 hexadecimal digits")?;
        if known_hash == hash(b"") {
            return Err("sha256 is that of nothing at all".to_owned());
        }
        let allow = self
            .allow
            .map(|networks| networks.iter().map(|network| parse_subnet(network)).collect());
        let allow: Option<Vec<Subnet>> = allow.transpose()?;
        if allow.as_ref().is_some_and(Vec::is_empty) {
            return Err("allow is empty; without it everything is allowed".to_owned());
        }
        let known = before.iter().find(|token| token.name == name);
        Ok(NamedToken {
            name: name.to_owned(),
            hash: known_hash,
            limits: OwnLimits {
                requests: self.max_requests,
                packet_rate: self.max_packet_rate,
                requests_per_minute: self.max_requests_per_minute,
            },
            allow,
            holder: known.map_or_else(Holder::someone, |token| Arc::clone(&token.holder)),
        })
    }
}

impl Holder {
    /// Somebody new.
    fn someone() -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Arc::new(Holder {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            ..Holder::default()
        })
    }
}

/// Who sends a request, and what it may have.
#[derive(Debug, Clone)]
pub(crate) struct Guest {
    pub(crate) client: Client,
    pub(crate) token: Option<Arc<NamedToken>>,
}

impl Guest {
    /// A token counts for more than the address from which it comes.
    pub(crate) fn new(client: Client, token: Option<Arc<NamedToken>>) -> Self {
        let client = token.as_ref().map_or(client, |token| token.client());
        Guest { client, token }
    }

    pub(crate) fn limits(&self) -> OwnLimits {
        self.token.as_ref().map(|token| token.limits).unwrap_or_default()
    }
}

impl From<Client> for Guest {
    fn from(client: Client) -> Self {
        Guest::new(client, None)
    }
}

/// In the log.
impl Display for NamedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn hash(token: &[u8]) -> Hash {
    let bytes = digest(&SHA256, token);
    let mut hash = Hash::default();
    for (word, bytes) in hash.iter_mut().zip(bytes.as_ref().as_chunks().0) {
        *word = u64::from_be_bytes(*bytes);
    }
    hash
}

fn parse_hash(text: &str) -> Option<Hash> {
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut hash = Hash::default();
    for (word, start) in hash.iter_mut().zip((0..).step_by(16)) {
        *word = u64::from_str_radix(text.get(start..start + 16)?, 16).ok()?;
    }
    Some(hash)
}

/// A message of the parser without the value that it is about, which may be a token in the wrong
/// place: `invalid type: string "…", expected a map`.
fn without_value(message: &str) -> String {
    for kind in ["invalid type", "invalid value"] {
        if message.starts_with(kind)
            && let Some((_, expected)) = message.rsplit_once(", expected ")
        {
            return format!("{kind}, expected {expected}");
        }
    }
    message.to_owned()
}

fn line(text: &str, position: usize) -> usize {
    let before = text.as_bytes().iter().take(position);
    1 + before.filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of "first" and "second", as `printf %s first | sha256sum` says.
    const FIRST: &str = "a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e";
    const SECOND: &str = "16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4";

    fn parse(text: &str) -> Result<NamedTokens, String> {
        NamedTokens::parse(text, &NamedTokens::default())
    }

    fn two() -> String {
        format!(
            "[tokens.prometheus]\nsha256 = \"{FIRST}\"\nallow = [\"10.0.0.0/8\"]\nmax-requests = 2\n\
             [tokens.\"team.a\"]\nsha256 = \"{}\"\n",
            SECOND.to_uppercase()
        )
    }

    fn name(tokens: &NamedTokens, shown: &str) -> Option<String> {
        Some(tokens.find(shown.as_bytes())?.name.clone())
    }

    #[test]
    fn a_token_has_the_name_of_its_entry() {
        let tokens = parse(&two()).unwrap();
        assert_eq!(name(&tokens, "first").unwrap(), "prometheus");
        assert_eq!(name(&tokens, "second").unwrap(), "team.a");
        for wrong in ["", "First", "firs", "first ", FIRST, "prometheus"] {
            assert_eq!(name(&tokens, wrong), None, "{wrong}");
        }
        let token = tokens.find(b"first").unwrap();
        assert!(token.allows([10, 1, 2, 3].into(), None));
        assert!(!token.allows([192, 0, 2, 1].into(), None));
        assert!(
            tokens
                .find(b"second")
                .unwrap()
                .allows([192, 0, 2, 1].into(), None)
        );
        assert_eq!(token.limits.requests, NonZeroU32::new(2));
    }

    #[test]
    fn who_stays_in_the_file_stays_the_same() {
        let tokens = parse(&two()).unwrap();
        let before = tokens.find(b"first").unwrap();
        before.count(true);
        let other = format!("[tokens.prometheus]\nsha256 = \"{SECOND}\"\n[tokens.new]\nsha256 = \"{FIRST}\"");
        let tokens = NamedTokens::parse(&other, &tokens).unwrap();
        let after = tokens.find(b"second").unwrap();
        assert_eq!((after.client(), after.counts()), (before.client(), [1, 1]));
        let new = tokens.find(b"first").unwrap();
        assert_ne!(new.client(), before.client());
        assert_eq!(new.counts(), [0, 0]);
    }

    /// What is wrong is told in one line, which has nothing of what might be a token.
    #[test]
    fn wrong_files_are_refused() {
        let entry = |name: &str, rest: &str| format!("[tokens.{name}]\nsha256 = \"{FIRST}\"\n{rest}");
        let many: Vec<String> = (0..=MOST)
            .map(|index| format!("[tokens.t{index}]\nsha256 = \"{index:064x}\"\n"))
            .collect();
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for (text, problem) in [
            ("", "missing field `tokens`"),
            ("[tokens]\n", "there is none in it"),
            ("s3cret", "line 1: "),
            ("tokens = \"s3cret\"", "line 1: invalid type, expected "),
            ("[tokens]\na = \"s3cret\"", "line 2: invalid type, expected "),
            (
                &entry("a", "max-requests = \"s3cret\""),
                "line 3: invalid type, expected ",
            ),
            (&many.concat(), "there are more than 1000"),
            (&(entry("a", "") + &entry("a", "")), "line 3: duplicate key"),
            (
                &(entry("a", "") + &entry("b", "")),
                "token b: another one has the same sha256",
            ),
            (&entry("a", "max-request = 1"), "line 3: unknown field"),
            (&entry("a", "max-requests = 0"), "line 3: "),
            (&entry("a", "max-packet-rate = -1"), "line 3: "),
            (&entry("a", "allow = []"), "token a: allow is empty"),
            (&entry("a", "allow = [\"x\"]"), "token a: \"x\" is no network"),
            (&entry("\"\"", ""), "a name has 1 to 64 letters"),
            (&entry("\"a b\"", ""), "a name has 1 to 64 letters"),
            (&entry("\"a\\nb\"", ""), "token a\\nb: a name has"),
            (&entry(&"n".repeat(65), ""), "a name has 1 to 64 letters"),
            (
                "[tokens.a]\nsha256 = \"s3cret\"",
                "token a: sha256 is not 64 hexadecimal digits",
            ),
            (&format!("[tokens.a]\nsha256 = \"{}é\"", &FIRST[2..]), "not 64"),
            (&format!("[tokens.a]\nsha256 = \"{FIRST}0\""), "not 64"),
            (&format!("[tokens.a]\nsha256 = \"+{}\"", &FIRST[1..]), "not 64"),
            (
                &format!("[tokens.a]\nsha256 = \"{empty}\""),
                "sha256 is that of nothing",
            ),
            ("[tokens.a]\n", "line 1: missing field `sha256`"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
            assert!(!error.contains('\n') && !error.contains("s3cret"), "{error}");
        }
    }
}
