//! The target as the user writes it, and the address behind it.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr, ToSocketAddrs};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::LazyLock;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::parameters::Host;

/// Longest host name in text form, without a final dot (RFC 1035 §2.3.4 counts 255 bytes on the wire).
const MAX_NAME_LEN: usize = 253;
/// Longest part of a host name between dots (RFC 1035 §2.3.4).
const MAX_LABEL_LEN: usize = 63;

/// A host, perhaps with a port: `host`, `host:443`, `192.0.2.1`, `192.0.2.1:443`, `2001:db8::1`, `[2001:db8::1]` or
/// `[2001:db8::1]:443`.
///
/// IPv4-mapped IPv6 addresses (`::ffff:192.0.2.1`) mean the IPv4 address. Zone identifiers (`fe80::1%eth0`) are
/// refused: link-local addresses are never behind a router, so there is no path to trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The host.
    pub host: Host,
    /// The port, 1–65535.
    pub port: Option<u16>,
}

/// What is wrong with a [`Target`]; continues a sentence that starts with the target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTarget {
    /// Nothing stands before the port.
    #[error("has no host")]
    NoHost,
    /// The port is not a number from 1 to 65535.
    #[error("has a port that is not between 1 and 65535: {0:?}")]
    Port(String),
    /// Brackets that do not enclose an IPv6 address, or several colons.
    #[error("is not an IPv6 address, which is written 2001:db8::1, or [2001:db8::1]:443 with a port")]
    Ipv6,
    /// An IPv6 address with a zone identifier.
    #[error(
        "has a zone identifier: a link-local address is never behind a router; use a global address of the host"
    )]
    Zone,
    /// All digits where a host name or IPv4 address should be.
    #[error("is neither an IPv4 address nor a host name")]
    Ipv4,
    /// A host name, or a part of one between dots, that is too long or empty.
    #[error(
        "is not a host name: it is longer than 253 bytes, or has an empty part or one longer than 63 bytes"
    )]
    NameLength,
    /// A character that no host name has.
    #[error("is not a host name: it contains {0:?}")]
    NameCharacter(char),
}

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        if let Some(bracketed) = text.strip_prefix('[') {
            return parse_bracketed(bracketed);
        }
        match text.split_once(':') {
            None => Ok(Target {
                host: parse_name_or_ipv4(text)?,
                port: None,
            }),
            Some((_, rest)) if rest.contains(':') => Ok(Target {
                host: Host::Address(parse_ipv6(text)?),
                port: None,
            }),
            Some((host, port)) => Ok(Target {
                host: parse_name_or_ipv4(host)?,
                port: Some(parse_port(port)?),
            }),
        }
    }
}

/// What follows an opening bracket.
fn parse_bracketed(text: &str) -> Result<Target, InvalidTarget> {
    let (address, rest) = text.split_once(']').ok_or(InvalidTarget::Ipv6)?;
    let host = Host::Address(parse_ipv6(address)?);
    let port = match rest.strip_prefix(':') {
        Some(port) => Some(parse_port(port)?),
        None if rest.is_empty() => None,
        None => return Err(InvalidTarget::Ipv6),
    };
    Ok(Target { host, port })
}

fn parse_ipv6(text: &str) -> Result<IpAddr, InvalidTarget> {
    let (address, zone) = text.split_once('%').map_or((text, None), |(a, z)| (a, Some(z)));
    let address: Ipv6Addr = address.parse().map_err(|_| InvalidTarget::Ipv6)?;
    match zone {
        Some(_) => Err(InvalidTarget::Zone),
        None => Ok(address.to_canonical()),
    }
}

fn parse_port(text: &str) -> Result<u16, InvalidTarget> {
    // A sign, which `u16::from_str` would take, is no part of a port.
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(port) if port > 0 && digits => Ok(port),
        _ => Err(InvalidTarget::Port(text.to_owned())),
    }
}

fn parse_name_or_ipv4(text: &str) -> Result<Host, InvalidTarget> {
    if text.is_empty() {
        return Err(InvalidTarget::NoHost);
    }
    if let Ok(address) = text.parse() {
        return Ok(Host::Address(IpAddr::V4(address)));
    }
    check_name(text)?;
    Ok(Host::Name(text.to_owned()))
}

/// Refuses what cannot be a host name. Lenient where real names are: underscores, and letters beyond ASCII, which
/// some resolvers translate.
fn check_name(name: &str) -> Result<(), InvalidTarget> {
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if let Some(wrong) = name.chars().find(|c| !allowed(*c)) {
        return Err(InvalidTarget::NameCharacter(wrong));
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let label_fits = |label: &str| (1..=MAX_LABEL_LEN).contains(&label.len());
    if name.len() > MAX_NAME_LEN || !name.split('.').all(label_fits) {
        return Err(InvalidTarget::NameLength);
    }
    // RFC 1123 §2.1: the last part of a name is never all digits, so that names and addresses cannot be confused.
    let last = name.rsplit('.').next().unwrap_or(name);
    if last.bytes().all(|b| b.is_ascii_digit()) {
        return Err(InvalidTarget::Ipv4);
    }
    Ok(())
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// Why a host name gave no address.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The resolver does not know the name, or failed.
    #[error("cannot resolve {host:?}: {source}")]
    Lookup {
        /// The name.
        host: String,
        /// What the operating system's resolver said.
        source: io::Error,
    },
    /// The name has addresses, but none of the wanted family.
    #[error("{host:?} has no {family} address")]
    NoAddress {
        /// The name.
        host: String,
        /// The family asked for.
        family: Family,
    },
}

/// How many names the operating system's resolver looks up at once, for the whole process.
const LOOKUPS: usize = 64;
/// How long a look-up may take, waiting for its turn included: more than the resolver takes to ask all its servers twice
/// (resolv.conf(5)).
const LOOKUP_TIMEOUT: Duration = Duration::from_mins(1);

/// The address of a host: itself, or the first that the operating system's resolver gives for the name and the family
/// (IPv6 when `ipv6`, otherwise IPv4).
///
/// Needs a tokio runtime with time enabled, on whose blocking threads the resolver works: 64 at most, others wait for their
/// turn. A look-up that has begun cannot be stopped: it keeps its turn until the operating system gives up, also
/// when the future is dropped.
///
/// # Errors
/// When the name is unknown, the resolver fails or takes more than a minute, or the name has no address of the family.
pub async fn resolve(host: &Host, ipv6: bool) -> Result<IpAddr, ResolveError> {
    static TURNS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(LOOKUPS)));
    resolve_with(host, ipv6, |name| look_up(&TURNS, name, ask_system)).await
}

/// What the operating system's resolver says.
fn ask_system(name: &str) -> io::Result<Vec<IpAddr>> {
    let addresses = (name, 0).to_socket_addrs()?;
    Ok(addresses.map(|address| address.ip()).collect())
}

/// Waits for a turn, and asks on a thread that may block. The turn ends with the question, not with who asks it:
/// otherwise those who go away would fill all threads, and everybody else would wait behind them.
async fn look_up<A>(turns: &Arc<Semaphore>, name: String, ask: A) -> io::Result<Vec<IpAddr>>
where
    A: FnOnce(&str) -> io::Result<Vec<IpAddr>> + Send + 'static,
{
    let asking = async {
        let turn = Arc::clone(turns)
            .acquire_owned()
            .await
            .map_err(io::Error::other)?;
        let asked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            ask(&name)
        });
        asked.await?
    };
    tokio::time::timeout(LOOKUP_TIMEOUT, asking).await.map_err(|_| {
        let seconds = LOOKUP_TIMEOUT.as_secs();
        let problem = format!("no answer from the system's resolver within {seconds} seconds");
        io::Error::new(io::ErrorKind::TimedOut, problem)
    })?
}

async fn resolve_with<L, F>(host: &Host, ipv6: bool, lookup: L) -> Result<IpAddr, ResolveError>
where
    L: FnOnce(String) -> F,
    F: Future<Output = io::Result<Vec<IpAddr>>>,
{
    let name = match host {
        Host::Address(address) => return Ok(*address),
        Host::Name(name) => name,
    };
    let addresses = lookup(name.clone())
        .await
        .map_err(|source| ResolveError::Lookup {
            host: name.clone(),
            source,
        })?;
    addresses
        .into_iter()
        .map(|address| address.to_canonical())
        .find(|address| address.is_ipv6() == ipv6)
        .ok_or_else(|| ResolveError::NoAddress {
            host: name.clone(),
            family: if ipv6 { Family::V6 } else { Family::V4 },
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(text: &str) -> Host {
        Host::Address(text.parse().unwrap())
    }

    fn name(text: &str) -> Host {
        Host::Name(text.to_owned())
    }

    #[test]
    fn accepted_forms() {
        let long_label = "a".repeat(63);
        let longest = format!("{long_label}.{long_label}.{long_label}.{}", "b".repeat(61));
        assert_eq!(longest.len(), 253);
        let cases = [
            ("example.com", name("example.com"), None),
            ("example.com.", name("example.com."), None),
            ("localhost", name("localhost"), None),
            ("my_service-1", name("my_service-1"), None),
            ("bücher.example", name("bücher.example"), None),
            ("4.example", name("4.example"), None),
            ("example.com:443", name("example.com"), Some(443)),
            ("example.com:1", name("example.com"), Some(1)),
            ("example.com:65535", name("example.com"), Some(65535)),
            ("1.2.3.4", address("1.2.3.4"), None),
            ("1.2.3.4:53", address("1.2.3.4"), Some(53)),
            ("2001:db8::1", address("2001:db8::1"), None),
            ("2001:db8::1:443", address("2001:db8::1:443"), None),
            ("::1", address("::1"), None),
            ("[2001:db8::1]", address("2001:db8::1"), None),
            ("[2001:db8::1]:443", address("2001:db8::1"), Some(443)),
            ("::ffff:192.0.2.1", address("192.0.2.1"), None),
            ("[::ffff:192.0.2.1]:80", address("192.0.2.1"), Some(80)),
            (longest.as_str(), name(&longest), None),
        ];
        for (text, host, port) in cases {
            assert_eq!(text.parse(), Ok(Target { host, port }), "{text}");
        }
    }

    #[test]
    fn refused_forms() {
        use InvalidTarget as E;
        let port = |text: &str| E::Port(text.to_owned());
        let long_label = "a".repeat(64);
        let too_long = ["a".repeat(63).as_str(); 4].join(".");
        let cases = [
            ("", E::NoHost),
            (":80", E::NoHost),
            ("example.com:", port("")),
            ("example.com:0", port("0")),
            ("example.com:65536", port("65536")),
            ("example.com:http", port("http")),
            ("example.com:+80", port("+80")),
            ("1.2.3.4:-1", port("-1")),
            ("[::1]:0", port("0")),
            ("[::1]:", port("")),
            ("[::1]80", E::Ipv6),
            ("[::1", E::Ipv6),
            ("[]", E::Ipv6),
            ("[1.2.3.4]:80", E::Ipv6),
            ("[example.com]", E::Ipv6),
            ("2001:db8:::1", E::Ipv6),
            ("1:2:3", E::Ipv6),
            ("fe80::1%eth0", E::Zone),
            ("[fe80::1%eth0]:80", E::Zone),
            ("256.1.1.1", E::Ipv4),
            ("1.2.3", E::Ipv4),
            ("1.2.3.4.5", E::Ipv4),
            ("12345", E::Ipv4),
            (".", E::NameLength),
            (".example", E::NameLength),
            ("a..b", E::NameLength),
            (long_label.as_str(), E::NameLength),
            (too_long.as_str(), E::NameLength),
            ("exa mple", E::NameCharacter(' ')),
            (" example", E::NameCharacter(' ')),
            ("example\n", E::NameCharacter('\n')),
            ("example\0", E::NameCharacter('\0')),
            ("example/path", E::NameCharacter('/')),
            ("http://example.com", port("//example.com")),
            ("user@example", E::NameCharacter('@')),
            ("1.2.3.4%eth0", E::NameCharacter('%')),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Target>(), Err(error), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_address_reads_back(v6: u128, v4: u32, port in 1..=u16::MAX) {
            let v6 = Ipv6Addr::from(v6);
            let v4 = std::net::Ipv4Addr::from(v4);
            prop_assert_eq!(v6.to_string().parse(), Ok(Target { host: Host::Address(v6.to_canonical()), port: None }));
            prop_assert_eq!(
                format!("[{v6}]:{port}").parse(),
                Ok(Target { host: Host::Address(v6.to_canonical()), port: Some(port) })
            );
            prop_assert_eq!(
                format!("{v4}:{port}").parse(),
                Ok(Target { host: Host::Address(v4.into()), port: Some(port) })
            );
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = text.parse::<Target>();
        }
    }

    fn both() -> Vec<IpAddr> {
        ["192.0.2.1", "2001:db8::1", "192.0.2.2", "2001:db8::2"]
            .map(|text| text.parse().unwrap())
            .to_vec()
    }

    async fn answer(host: &Host, ipv6: bool, addresses: io::Result<Vec<IpAddr>>) -> Result<IpAddr, String> {
        resolve_with(host, ipv6, |_| async { addresses })
            .await
            .map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn first_address_of_the_family() {
        let host = name("example.com");
        assert_eq!(answer(&host, false, Ok(both())).await, Ok(both()[0]));
        assert_eq!(answer(&host, true, Ok(both())).await, Ok(both()[1]));
    }

    #[tokio::test]
    async fn none_of_the_family() {
        let host = name("example.com");
        assert_eq!(
            answer(&host, true, Ok(vec![both()[0]])).await,
            Err(r#""example.com" has no IPv6 address"#.to_owned())
        );
        assert_eq!(
            answer(&host, false, Ok(vec![both()[1]])).await,
            Err(r#""example.com" has no IPv4 address"#.to_owned())
        );
    }

    #[tokio::test]
    async fn a_mapped_address_is_an_ipv4_address() {
        let mapped: IpAddr = "::ffff:192.0.2.3".parse().unwrap();
        let host = name("example.com");
        let plain = mapped.to_canonical();
        assert_eq!(answer(&host, false, Ok(vec![mapped])).await, Ok(plain));
        assert_eq!(
            answer(&host, true, Ok(vec![mapped, both()[1]])).await,
            Ok(both()[1])
        );
    }

    #[tokio::test]
    async fn unknown_name() {
        let unknown = io::Error::other("Name or service not known");
        assert_eq!(
            answer(&name("nowhere.invalid"), false, Err(unknown)).await,
            Err(r#"cannot resolve "nowhere.invalid": Name or service not known"#.to_owned())
        );
    }

    #[tokio::test]
    async fn an_address_decides_the_family_and_asks_nobody() {
        for text in ["192.0.2.1", "2001:db8::1"] {
            for ipv6 in [false, true] {
                let refused = io::Error::other("asked");
                assert_eq!(
                    answer(&address(text), ipv6, Err(refused)).await,
                    Ok(text.parse().unwrap())
                );
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_not_waited_for_without_end() {
        let full = Arc::new(Semaphore::new(0));
        let host = name("slow.example");
        let error = resolve_with(&host, false, |name| look_up(&full, name, |_| panic!("asked")))
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"cannot resolve "slow.example": no answer from the system's resolver within 60 seconds"#
        );
    }

    #[tokio::test]
    async fn who_goes_away_keeps_one_thread_busy_at_most() {
        let turns = Arc::new(Semaphore::new(1));
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let (answer, answered) = std::sync::mpsc::channel();
        let first = tokio::spawn({
            let turns = Arc::clone(&turns);
            async move {
                look_up(&turns, "slow.example".to_owned(), move |_| {
                    begun.send(()).unwrap();
                    answered.recv().unwrap()
                })
                .await
            }
        });
        has_begun.await.unwrap();
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        // The resolver still works for nobody; who comes now waits, and may leave before anything begins.
        assert_eq!(turns.available_permits(), 0);
        let mut second = Box::pin(look_up(&turns, "second.example".to_owned(), |_| panic!("asked")));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(second);
        let third = look_up(&turns, "third.example".to_owned(), |_| Ok(both()));
        answer.send(Ok(Vec::new())).unwrap();
        assert_eq!(third.await.unwrap(), both());
    }

    #[tokio::test]
    async fn the_systems_resolver_knows_localhost() {
        let found = resolve(&name("localhost"), false).await.unwrap();
        assert!(found.is_loopback() && found.is_ipv4(), "{found}");
    }
}
