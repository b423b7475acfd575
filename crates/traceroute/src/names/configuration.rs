//! How the system wants names to be looked up: `resolv.conf` and `nsswitch.conf`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use hickory_resolver::proto::rr::Name;
use hickory_resolver::system_conf::read_system_conf;
use resolv_conf::ScopedIp;

use super::is_host_name;

/// Where name servers listen.
pub(crate) const PORT: u16 = 53;
/// As many name servers as C libraries ask (`MAXNS` in resolv.h).
const MAX_SERVERS: usize = 3;
/// Upper limits of options (resolv.conf(5)).
const MAX_NDOTS: u32 = 15;
const MAX_TIMEOUT: u32 = 30;
const MAX_ATTEMPTS: u32 = 5;

/// Which name servers are asked, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Configuration {
    /// In the order in which they are asked.
    pub(crate) servers: Vec<SocketAddr>,
    /// None is configured: the server is the one that this machine may have.
    pub(crate) is_assumed: bool,
    /// Domains in which names are tried.
    pub(crate) search: Vec<Name>,
    /// A name with fewer dots is tried in the search domains first.
    pub(crate) ndots: usize,
    /// How long the answer of the last server asked may take.
    pub(crate) timeout: Duration,
    /// How often each server is asked.
    pub(crate) attempts: usize,
    /// Start with another server each time.
    pub(crate) rotate: bool,
    /// Ask over TCP only.
    pub(crate) tcp_only: bool,
    /// Do not ask for IPv6 addresses.
    pub(crate) no_ipv6: bool,
}

impl Configuration {
    /// These servers, with the defaults of resolv.conf(5).
    pub(crate) fn with_servers(servers: Vec<SocketAddr>) -> Self {
        Configuration {
            servers,
            is_assumed: false,
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
            rotate: false,
            tcp_only: false,
            no_ipv6: false,
        }
    }

    /// Reads a `resolv.conf`. Like C libraries, it ignores what it does not understand, with a
    /// warning in the log. `hostname` is this machine's name: without a `search` or `domain` line,
    /// its domain is searched. Servers listen on `port`.
    pub(crate) fn parse(text: &[u8], hostname: &str, port: u16) -> Self {
        let (parsed, errors) = resolv_conf::Config::parse_with_errors(text);
        for error in errors {
            tracing::warn!(%error, "ignored in resolv.conf");
        }
        let mut servers: Vec<SocketAddr> = parsed
            .nameservers
            .iter()
            .filter_map(|address| server(address, port))
            .collect();
        servers.truncate(MAX_SERVERS);
        let is_assumed = servers.is_empty();
        if is_assumed {
            // As C libraries do (resolv.conf(5)).
            servers.push(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        }
        let listed: Option<Vec<&str>> = parsed
            .get_last_search_or_domain()
            .map(|domain| Some(domain.as_str()))
            .collect();
        let domains = match listed {
            Some(listed) if !listed.is_empty() => listed,
            _ => hostname
                .split_once('.')
                .map(|(_, domain)| domain)
                .into_iter()
                .collect(),
        };
        Configuration {
            search: domains.into_iter().filter_map(search_domain).collect(),
            ndots: parsed.ndots.min(MAX_NDOTS) as usize,
            timeout: Duration::from_secs(u64::from(parsed.timeout.clamp(1, MAX_TIMEOUT))),
            attempts: parsed.attempts.clamp(1, MAX_ATTEMPTS) as usize,
            rotate: parsed.rotate,
            tcp_only: parsed.use_vc,
            no_ipv6: parsed.no_aaaa,
            is_assumed,
            ..Configuration::with_servers(servers)
        }
    }

    /// What systems without a `resolv.conf` of their own say. Without an answer, the server on this
    /// machine.
    pub(crate) fn of_system() -> Self {
        let servers: Vec<SocketAddr> = match read_system_conf() {
            Ok((configuration, _)) => {
                let servers = configuration.name_servers().iter();
                servers
                    .map(|server| SocketAddr::from((server.ip, PORT)))
                    .collect()
            }
            Err(error) => {
                tracing::warn!(%error, "cannot find out the system's name servers");
                Vec::new()
            }
        };
        if servers.is_empty() {
            return Configuration::with_servers(vec![(Ipv4Addr::LOCALHOST, PORT).into()]);
        }
        Configuration::with_servers(servers)
    }

    /// The full names that a name may mean, in the order in which they are tried (resolv.conf(5):
    /// `ndots`, `search`).
    pub(crate) fn candidates(&self, name: &str) -> Vec<Name> {
        let absolute = name.ends_with('.');
        let Some(as_it_is) = full_name(name) else {
            return Vec::new();
        };
        if absolute {
            return vec![as_it_is];
        }
        let in_domain = |domain: &Name| as_it_is.clone().append_domain(domain).ok();
        let mut candidates: Vec<Name> = self.search.iter().filter_map(in_domain).collect();
        let dots = name.bytes().filter(|byte| *byte == b'.').count();
        let place = if dots >= self.ndots { 0 } else { candidates.len() };
        candidates.insert(place, as_it_is);
        candidates
    }
}

/// The address of a `nameserver` line. A link-local one has a zone: the name or number of an
/// interface.
fn server(address: &ScopedIp, port: u16) -> Option<SocketAddr> {
    match address {
        // A literal with a zone is the one thing that only the C library can read. It asks nobody
        // for that.
        ScopedIp::V6(_, Some(_)) => match (address.to_string(), port).to_socket_addrs() {
            Ok(mut found) => found.next(),
            Err(error) => {
                tracing::warn!(%address, %error, "ignored in resolv.conf");
                None
            }
        },
        _ => Some(SocketAddr::new(IpAddr::from(address), port)),
    }
}

fn search_domain(text: &str) -> Option<Name> {
    if text == "." {
        // The root: the name as it is, which is tried anyway.
        return None;
    }
    let domain = full_name(text).filter(|_| is_host_name(text.trim_end_matches('.').as_bytes()));
    if domain.is_none() {
        tracing::warn!(domain = text, "ignored in resolv.conf: not a domain");
    }
    domain
}

/// A name in DNS format, its bytes as they are: `None` when a part is empty or something is too
/// long (RFC 1035 §2.3.4).
pub(crate) fn full_name(text: &str) -> Option<Name> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let labels: Vec<&[u8]> = text.split('.').map(str::as_bytes).collect();
    if labels.iter().any(|label| label.is_empty()) {
        return None;
    }
    Name::from_labels(labels).ok()
}

/// Whether `nsswitch.conf` names a source other than hosts file and DNS that may know the name, so
/// that only the C library can look it up. `hostname` is this machine's name.
pub(crate) fn needs_c_library(nsswitch: &str, name: &str, hostname: &str) -> bool {
    let lines = nsswitch
        .lines()
        .map(|line| line.split('#').next().unwrap_or(line).trim());
    let Some(line) = lines.filter_map(|line| line.strip_prefix("hosts:")).next_back() else {
        return false;
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let sources = sources(line);
    let place = |source: &str| sources.iter().position(|listed| listed == source);
    let ordinary = match (place("files"), place("dns")) {
        (Some(files), Some(dns)) => files < dns,
        _ => false,
    };
    let knows_more = |source: &String| match source.as_str() {
        "files" | "dns" => false,
        // Refuses everything else at once (RFC 6762 §3).
        "mdns_minimal" | "mdns4_minimal" | "mdns6_minimal" => name.rsplit('.').next() == Some("local"),
        // nss-myhostname(8). `localhost` is known without it.
        "myhostname" => {
            name == hostname.to_ascii_lowercase() || matches!(name.as_str(), "_gateway" | "_outbound")
        }
        _ => true,
    };
    !ordinary || sources.iter().any(knows_more)
}

/// The sources of a line, without the actions in brackets between them.
fn sources(line: &str) -> Vec<String> {
    let mut sources = String::new();
    let mut depth = 0_u32;
    for character in line.chars() {
        match character {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ if depth == 0 => sources.push(character),
            _ => {}
        }
    }
    sources.split_whitespace().map(str::to_owned).collect()
}
