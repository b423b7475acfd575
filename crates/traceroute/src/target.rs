//! The target as the user writes it, and the address behind it.

use std::borrow::Cow;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use idna::{AsciiDenyList, domain_to_ascii_cow};
use tokio::time::{Instant, timeout_at};

use traceroute_engine::Family;

use crate::names::{LookupFailure, MAX_LABEL_LEN, MAX_NAME_LEN, System, Wanted};
use crate::request::{Host, Request};

/// A host, perhaps with a port: `host`, `host:443`, `192.0.2.1`, `192.0.2.1:443`, `2001:db8::1`,
/// `[2001:db8::1]` or `[2001:db8::1]:443`.
///
/// Names in other scripts are taken in their ASCII form (UTS 46): `bücher.example` is
/// `xn--bcher-kva.example`.
///
/// IPv4-mapped IPv6 addresses (`::ffff:192.0.2.1`) mean the IPv4 address. A link-local address may
/// have a zone, the name or index of the interface that it is on: `fe80::1%eth0`, `[fe80::1%2]:443`
/// (RFC 4007 §11).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The host.
    pub host: Host,
    /// The zone of a link-local address.
    pub zone: Option<String>,
    /// The port, 1–65535.
    pub port: Option<u16>,
}

/// What is wrong with a [`Target`]; continues a sentence that starts with the target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
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
    /// A percent sign that no zone follows.
    #[error("has an empty zone after %: write the name or index of an interface, as in fe80::1%eth0")]
    EmptyZone,
    /// A zone after an address that means the same on all interfaces.
    #[error("has a zone, which only link-local addresses have: choose the interface instead")]
    Zone,
    /// Ends in a number, as only addresses do, but is none.
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
    /// Letters that have no form in DNS, or not in this order (UTS 46).
    #[error("is not a host name: it has no form in ASCII (UTS 46)")]
    NoAscii,
    /// A URL; holds the host in it.
    #[error("is a URL; give the host name only: {}", .0.escape_debug())]
    Url(String),
}

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        if let Some((_, rest)) = text.split_once("://") {
            return Err(host_of_url(rest).map_or(InvalidTarget::NoHost, InvalidTarget::Url));
        }
        if let Some(bracketed) = text.strip_prefix('[') {
            return parse_bracketed(bracketed);
        }
        match text.split_once(':') {
            None => Ok(Target {
                host: parse_name_or_ipv4(text)?,
                zone: None,
                port: None,
            }),
            Some((_, rest)) if rest.contains(':') => {
                let (address, zone) = parse_ipv6(text)?;
                Ok(Target {
                    host: Host::Address(address),
                    zone,
                    port: None,
                })
            }
            Some((host, port)) => Ok(Target {
                host: parse_name_or_ipv4(host)?,
                zone: None,
                port: Some(parse_port(port)?),
            }),
        }
    }
}

/// The host, and the port if there is one, of what follows `://` in a URL (RFC 3986 §3.2).
fn host_of_url(rest: &str) -> Option<String> {
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    (!host.is_empty()).then(|| host.to_owned())
}

/// What follows an opening bracket.
fn parse_bracketed(text: &str) -> Result<Target, InvalidTarget> {
    let (address, rest) = text.split_once(']').ok_or(InvalidTarget::Ipv6)?;
    let (address, zone) = parse_ipv6(address)?;
    let port = match rest.strip_prefix(':') {
        Some(port) => Some(parse_port(port)?),
        None if rest.is_empty() => None,
        None => return Err(InvalidTarget::Ipv6),
    };
    Ok(Target {
        host: Host::Address(address),
        zone,
        port,
    })
}

/// An address, perhaps with a zone.
fn parse_ipv6(text: &str) -> Result<(IpAddr, Option<String>), InvalidTarget> {
    let (address, zone) = text.split_once('%').map_or((text, None), |(a, z)| (a, Some(z)));
    let address: Ipv6Addr = address.parse().map_err(|_| InvalidTarget::Ipv6)?;
    match zone {
        Some("") => Err(InvalidTarget::EmptyZone),
        Some(_) if !address.is_unicast_link_local() => Err(InvalidTarget::Zone),
        zone => Ok((address.to_canonical(), zone.map(str::to_owned))),
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
    let name = to_ascii(text).ok_or(InvalidTarget::NoAscii)?;
    check_name(&name)?;
    Ok(Host::Name(name.into_owned()))
}

/// A name in the form that it has in DNS. One that is in ASCII stays as it is.
pub(crate) fn to_ascii(name: &str) -> Option<Cow<'_, str>> {
    if name.is_ascii() {
        return Some(Cow::Borrowed(name));
    }
    domain_to_ascii_cow(name.as_bytes(), AsciiDenyList::EMPTY).ok()
}

/// Refuses what cannot be a host name. Underscores are no part of host names, but of real ones.
fn check_name(name: &str) -> Result<(), InvalidTarget> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if let Some(wrong) = name.chars().find(|c| !allowed(*c)) {
        return Err(InvalidTarget::NameCharacter(wrong));
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let label_fits = |label: &str| (1..=MAX_LABEL_LEN).contains(&label.len());
    if name.len() > MAX_NAME_LEN || !name.split('.').all(label_fits) {
        return Err(InvalidTarget::NameLength);
    }
    // RFC 1123 §2.1: the last part of a name is never all digits, so that names and addresses
    // cannot be confused.
    if is_decimal(last_label(name)) && !is_unusual_address(name) {
        return Err(InvalidTarget::Ipv4);
    }
    Ok(())
}

/// Whether this is a form of an address that `inet_aton(3)` knows besides four decimal numbers:
/// fewer parts, or hexadecimal ones. These are taken for names, which nobody knows.
fn is_unusual_address(name: &str) -> bool {
    let is_hexadecimal = |label: &str| hexadecimal(label).is_some_and(|digits| !digits.is_empty());
    let parts = name.split('.').count();
    let decimal = name.split('.').filter(|label| is_decimal(label)).count();
    let hexadecimal = name.split('.').filter(|label| is_hexadecimal(label)).count();
    decimal + hexadecimal == parts && (parts < 4 || parts == 4 && hexadecimal > 0)
}

/// Whether the last part of a name is a number, decimal or hexadecimal: no name ends so, but some
/// forms of addresses do. <https://url.spec.whatwg.org/#ends-in-a-number-checker>
pub(crate) fn ends_in_number(name: &str) -> bool {
    let last = last_label(name.strip_suffix('.').unwrap_or(name));
    is_decimal(last) || hexadecimal(last).is_some()
}

fn last_label(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn is_decimal(label: &str) -> bool {
    label.bytes().all(|byte| byte.is_ascii_digit())
}

/// The digits, perhaps none, of a hexadecimal number.
fn hexadecimal(label: &str) -> Option<&str> {
    let digits = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"))?;
    digits
        .bytes()
        .all(|byte| byte.is_ascii_hexdigit())
        .then_some(digits)
}

/// Why a host name gave no address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The resolver does not know the name, or failed.
    #[error("cannot resolve {host:?}: {source}")]
    Lookup {
        /// The name.
        host: String,
        /// What was said instead of an address.
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

/// The address of a host: itself, or the first one of its name. With `ipv6` that is the first IPv6
/// address, otherwise the first IPv4 address; a name without IPv4 addresses is given its first IPv6
/// address then, with a warning in the log.
///
/// The system is asked as it says at this moment: its hosts file, then its name servers, or its C
/// library where that has other sources of names. Both kinds of addresses are asked for at once,
/// and a name server that does not answer for one does not keep the other.
///
/// Needs a tokio runtime with time and I/O. Dropping the future stops the questions, except those
/// of the C library: these keep one of 64 threads busy until the C library gives up.
///
/// # Errors
/// When the name is unknown, nobody answers, or the name has no address of the family.
pub async fn resolve(host: &Host, ipv6: bool) -> Result<IpAddr, ResolveError> {
    resolve_in(System::shared(), host, wanted(ipv6), 0).await
}

/// The address that `request` traces, looked up in its client's turn.
///
/// # Errors
/// As [`resolve`].
pub async fn resolve_target(request: &Request) -> Result<IpAddr, ResolveError> {
    let wanted = if request.ipv4_only() {
        Wanted::V4
    } else {
        wanted(request.ipv6())
    };
    resolve_in(System::shared(), request.host(), wanted, request.client()).await
}

/// The addresses wanted of a name.
pub(crate) fn wanted(ipv6: bool) -> Wanted {
    if ipv6 { Wanted::V6 } else { Wanted::V4OrElseV6 }
}

/// [`resolve`], until `deadline` at the latest.
///
/// # Errors
/// As [`resolve`], and when there is no address by then.
pub async fn resolve_by(host: &Host, ipv6: bool, deadline: Instant) -> Result<IpAddr, ResolveError> {
    let late = |_| {
        let problem = "no answer in the time that the request may take";
        lookup_error(host, io::Error::new(io::ErrorKind::TimedOut, problem))
    };
    timeout_at(deadline, resolve(host, ipv6)).await.map_err(late)?
}

pub(crate) async fn resolve_in(
    system: &System,
    host: &Host,
    wanted: Wanted,
    client: u64,
) -> Result<IpAddr, ResolveError> {
    let name = match host {
        Host::Address(address) => return Ok(*address),
        Host::Name(name) => name,
    };
    let found = system.addresses(name, wanted, client).await;
    let found = found.map_err(|failure| resolve_error(host, wanted, failure))?;
    // There is always one.
    let first = found.first().copied().unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    if first.is_ipv6() && wanted == Wanted::V4OrElseV6 {
        tracing::warn!(host = name, address = %first, "the name has no IPv4 address: it is traced with IPv6");
    }
    Ok(first)
}

fn resolve_error(host: &Host, wanted: Wanted, failure: LookupFailure) -> ResolveError {
    let family = match wanted {
        Wanted::V4 => Some(Family::V4),
        Wanted::V6 => Some(Family::V6),
        Wanted::V4OrElseV6 => None,
    };
    let problem = match (failure, family) {
        (LookupFailure::NoAddress, Some(family)) => {
            return ResolveError::NoAddress {
                host: name_of(host),
                family,
            };
        }
        (LookupFailure::NoAddress, None) => "it has neither an IPv4 nor an IPv6 address".to_owned(),
        (failure, Some(family)) => format!("no {family} address: {failure}"),
        (failure, None) => failure.to_string(),
    };
    lookup_error(host, io::Error::other(problem))
}

fn lookup_error(host: &Host, source: io::Error) -> ResolveError {
    ResolveError::Lookup {
        host: name_of(host),
        source,
    }
}

fn name_of(host: &Host) -> String {
    match host {
        Host::Address(address) => address.to_string(),
        Host::Name(name) => name.clone(),
    }
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
            ("bücher.example", name("xn--bcher-kva.example"), None),
            ("BÜCHER。example:443", name("xn--bcher-kva.example"), Some(443)),
            (
                "_dienst.straße.example.",
                name("_dienst.xn--strae-oqa.example."),
                None,
            ),
            ("xn--bcher-kva.example", name("xn--bcher-kva.example"), None),
            ("правда.рф", name("xn--80aafi6cg.xn--p1ai"), None),
            ("0x7f000001", name("0x7f000001"), None),
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
            let zone = None;
            assert_eq!(text.parse(), Ok(Target { host, zone, port }), "{text}");
        }
    }

    #[test]
    fn link_local_targets_may_have_a_zone() {
        for (text, zone, port) in [
            ("fe80::1%eth0", "eth0", None),
            ("fe80::1%2", "2", None),
            ("fe80::1%br-lan.5", "br-lan.5", None),
            ("fe80::1%a:b", "a:b", None),
            ("[fe80::1%eth0]", "eth0", None),
            ("[fe80::1%eth0]:80", "eth0", Some(80)),
        ] {
            let expected = Target {
                host: address("fe80::1"),
                zone: Some(zone.to_owned()),
                port,
            };
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn refused_forms() {
        use InvalidTarget as E;
        let port = |text: &str| E::Port(text.to_owned());
        let url = |host: &str| E::Url(host.to_owned());
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
            ("fe80::1%", E::EmptyZone),
            ("[fe80::1%]:80", E::EmptyZone),
            ("2001:db8::1%eth0", E::Zone),
            ("::ffff:169.254.0.1%eth0", E::Zone),
            ("256.1.1.1", E::Ipv4),
            ("127.0.0.01", E::Ipv4),
            ("1.2.3.4.5", E::Ipv4),
            ("example.1", E::Ipv4),
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
            ("http://example.com", url("example.com")),
            (
                "HTTPS://user:secret@example.com:8443/path?query#part",
                url("example.com:8443"),
            ),
            ("http://[2001:db8::1]/", url("[2001:db8::1]")),
            ("http:///path", E::NoHost),
            ("http://\u{1b}[2Jx/", url("\u{1b}[2Jx")),
            ("http:example.com", port("example.com")),
            // A letter that no script has, right-to-left and left-to-right in one label, and a mark
            // without a letter.
            ("\u{e000}.example", E::NoAscii),
            ("a\u{5d0}.example", E::NoAscii),
            ("\u{301}a.example", E::NoAscii),
            ("xn--a.b\u{fc}cher", E::NoAscii),
            ("b\u{fc}cher example", E::NameCharacter(' ')),
            ("b\u{fc}cher..example", E::NameLength),
            ("１２７.0.0.1", E::Ipv4),
            ("user@example", E::NameCharacter('@')),
            ("1.2.3.4%eth0", E::NameCharacter('%')),
        ];
        for (text, error) in cases {
            assert!(!error.to_string().contains(char::is_control), "{error:?}");
            assert_eq!(text.parse::<Target>(), Err(error), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_address_reads_back(v6: u128, v4: u32, port in 1..=u16::MAX) {
            let v6 = Ipv6Addr::from(v6);
            let v4 = std::net::Ipv4Addr::from(v4);
            prop_assert_eq!(v6.to_string().parse(), Ok(Target { host: Host::Address(v6.to_canonical()), zone: None, port: None }));
            prop_assert_eq!(
                format!("[{v6}]:{port}").parse(),
                Ok(Target { host: Host::Address(v6.to_canonical()), zone: None, port: Some(port) })
            );
            prop_assert_eq!(
                format!("{v4}:{port}").parse(),
                Ok(Target { host: Host::Address(v4.into()), zone: None, port: Some(port) })
            );
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = text.parse::<Target>();
        }
    }

    #[tokio::test]
    async fn an_address_decides_the_family_and_asks_nobody() {
        for text in ["192.0.2.1", "2001:db8::1"] {
            for ipv6 in [false, true] {
                let found = resolve(&address(text), ipv6).await.unwrap();
                assert_eq!(found, text.parse::<IpAddr>().unwrap());
            }
        }
    }

    #[tokio::test]
    async fn this_system_knows_localhost() {
        let found = resolve(&name("localhost"), false).await.unwrap();
        assert!(found.is_loopback() && found.is_ipv4(), "{found}");
        let found = resolve(&name("localhost"), true).await.unwrap();
        assert!(found.is_loopback() && found.is_ipv6(), "{found}");
    }

    /// The C library takes them for addresses.
    #[tokio::test]
    async fn numbers_are_names_that_nobody_knows() {
        for text in [
            "0x7f000001",
            "0X7F000001",
            "127.0x1",
            "0x",
            "example.0x7f.",
            "127.1",
            "1.2.3",
            "017700000001",
            "2130706433",
            "0x7f.0.0.1",
            "127.1.",
        ] {
            let Target { host, port: None, .. } = text.parse().unwrap() else {
                panic!("{text}");
            };
            let error = resolve(&host, false).await.unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("cannot resolve {text:?}: no such host")
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_ends_the_look_up() {
        let now = Instant::now();
        let error = resolve_by(&name("never.asked.example"), false, now)
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"cannot resolve "never.asked.example": no answer in the time that the request may take"#
        );
    }
}
