//! Names and addresses: targets, hops, and the services that tell the public address.
//!
//! 1. The hosts file comes first. A name that stands there has those addresses, in the order of the
//!    file, and no others.
//! 2. Then the name servers of `resolv.conf` are asked, by this program itself: a question can be
//!    stopped, blocks no thread, and has the same answer whatever the program is linked with. A and
//!    AAAA are asked for at once. AAAA is waited for only when there is no A.
//! 3. The C library is asked where it may know more: on Linux with glibc, when `nsswitch.conf`
//!    lists a source besides `files` and `dns` that may know the name (mDNS, systemd-resolved,
//!    LDAP); on macOS and Windows always. It blocks a thread and cannot be stopped, so at most 64
//!    threads wait for it. musl has no such sources: static builds always use the name servers.
//!
//! Files are read for each question, so changes need no restart. Dropping a future ends its
//! question.
//!
//! Servers, `search`, `ndots`, `attempts` and `rotate` are those of resolv.conf(5). Two things are
//! quicker than in C libraries: a silent server is passed over after one second, not five, and
//! still counts if it answers later; a server that refuses is not asked again.

mod c_library;
pub(crate) mod check;
pub(crate) mod configuration;
pub(crate) mod dns;
mod hosts;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{Either, select};
use hickory_resolver::proto::op::ResponseCode;
use tokio::time::timeout;

use configuration::{Configuration, needs_c_library};

use crate::target::ends_in_number;
use crate::turns::Turns;

/// How many names are looked up at once, for the whole process, where enough files may be open.
const LOOKUPS: u64 = 512;
/// Sockets of a look-up: a server is asked for both kinds of address at once. Those for further
/// servers count as look-ups.
const SOCKETS: u64 = 2;
/// The part of the open files that look-ups may have.
const PART: u64 = 8;
/// How long the IPv4 addresses may take when the IPv6 addresses are there: time to ask again.
const V4_PATIENCE: Duration = Duration::from_secs(2);
/// Longest host name in text form, without a final dot (RFC 1035 §2.3.4 counts 255 bytes on the
/// wire).
pub(crate) const MAX_NAME_LEN: usize = 253;
/// Longest part of a host name between dots (RFC 1035 §2.3.4).
pub(crate) const MAX_LABEL_LEN: usize = 63;

/// Which addresses of a name are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// IPv4 addresses only.
    V4,
    /// IPv6 addresses only.
    V6,
    /// IPv4 addresses, and where there are none, IPv6 addresses.
    V4OrElseV6,
}

/// Addresses, at least one, or why there are none.
pub(crate) type Resolution = Result<Vec<IpAddr>, LookupFailure>;

/// Why a name has no address, or an address no name.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookupFailure {
    /// Nobody knows the name.
    #[error("no such host")]
    Unknown,
    /// The name is known, but has no such address.
    #[error("the name exists, but has no such address")]
    NoAddress,
    /// A name server said something else than an answer.
    #[error("name server {server} answered {code}")]
    Refused {
        /// The server.
        server: SocketAddr,
        /// What it said.
        code: ResponseCode,
    },
    /// A name server that asks no others, and does not know itself.
    #[error("name server {server} knows its own names only")]
    NotServed {
        /// The server.
        server: SocketAddr,
    },
    /// A name server could not be asked, or its answer not be read.
    #[error("cannot ask name server {server}: {error}")]
    Unreachable {
        /// The server.
        server: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// No name server answered.
    #[error("no answer from {} within {:.1} s", list(servers), waited.as_secs_f64())]
    Silence {
        /// The servers.
        servers: Vec<SocketAddr>,
        /// How long they had.
        waited: Duration,
    },
    /// What the C library said.
    #[error("{0}")]
    CLibrary(io::Error),
}

fn list(servers: &[SocketAddr]) -> String {
    let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
    format!(
        "name server{} {}",
        if servers.len() == 1 { "" } else { "s" },
        servers.join(", ")
    )
}

impl LookupFailure {
    /// Whether another server may do better.
    fn may_be_the_servers(&self) -> bool {
        matches!(
            self,
            LookupFailure::Refused { .. }
                | LookupFailure::NotServed { .. }
                | LookupFailure::Unreachable { .. }
        )
    }

    /// What is worth saying of two failures: trouble rather than "no address", and that rather than
    /// "no such host".
    fn or(self, other: LookupFailure) -> LookupFailure {
        match (&self, &other) {
            (LookupFailure::NoAddress, LookupFailure::Unknown) => self,
            (LookupFailure::Unknown | LookupFailure::NoAddress, _) => other,
            _ => self,
        }
    }
}

/// Both questions at once. IPv6 addresses count only when there are no IPv4 addresses, and those
/// are not waited for long when the IPv6 addresses are there.
async fn prefer_v4(v4: impl Future<Output = Resolution>, v6: impl Future<Output = Resolution>) -> Resolution {
    let (v4, v6) = (std::pin::pin!(v4), std::pin::pin!(v6));
    match select(v4, v6).await {
        Either::Left((Ok(found), _)) => Ok(found),
        Either::Left((Err(failure), v6)) => v6.await.map_err(|other| failure.or(other)),
        Either::Right((Ok(found), v4)) => match timeout(V4_PATIENCE, v4).await {
            Ok(Ok(better)) => Ok(better),
            Ok(Err(failure)) => {
                tracing::debug!(%failure, "no IPv4 address, but IPv6");
                Ok(found)
            }
            Err(_) => {
                tracing::debug!("no IPv4 address in time, but IPv6");
                Ok(found)
            }
        },
        Either::Right((Err(failure), v4)) => v4.await.map_err(|other| other.or(failure)),
    }
}

/// Turns at look-ups, of targets and of hops.
pub(crate) fn turns() -> &'static Turns {
    static TURNS: LazyLock<Turns> = LazyLock::new(|| {
        let files = traceroute_net::most_open_files().unwrap_or(u64::MAX);
        Turns::new((most_name_sockets(files) / SOCKETS) as usize)
    });
    &TURNS
}

/// How many sockets to name servers this process has at most, where so many files may be open in
/// all: an eighth, at most 1,024. Where the C library is asked, its own come in addition.
#[must_use]
pub fn most_name_sockets(files: u64) -> u64 {
    SOCKETS * (files / PART / SOCKETS).clamp(4, LOOKUPS)
}

/// Where a system says how names are looked up. There is one for the process, [`System::shared`];
/// tests make others.
pub(crate) struct System {
    hosts: PathBuf,
    resolv_conf: PathBuf,
    nsswitch: PathBuf,
    /// Where the name servers of `resolv.conf` listen.
    port: u16,
    resolver: Resolver,
    /// What the last `resolv.conf` said, and its text.
    last: Mutex<Option<(Vec<u8>, Arc<Configuration>)>>,
}

/// Who looks up names besides the hosts file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resolver {
    /// Name servers only, as the C library itself knows no other source (musl).
    NameServers,
    /// What `nsswitch.conf` says (glibc).
    Nsswitch,
    /// Always the C library: the system has more sources than files can tell (macOS, Windows).
    CLibrary,
}

impl Resolver {
    const OWN: Resolver = if cfg!(not(target_os = "linux")) {
        Resolver::CLibrary
    } else if cfg!(target_env = "gnu") {
        Resolver::Nsswitch
    } else {
        Resolver::NameServers
    };
}

impl System {
    /// This system.
    pub(crate) fn shared() -> &'static System {
        static SHARED: LazyLock<System> = LazyLock::new(|| System::new(folder(), Resolver::OWN));
        &SHARED
    }

    fn new(folder: impl Into<PathBuf>, resolver: Resolver) -> System {
        let folder = folder.into();
        System {
            hosts: folder.join("hosts"),
            resolv_conf: folder.join("resolv.conf"),
            nsswitch: folder.join("nsswitch.conf"),
            port: configuration::PORT,
            resolver,
            last: Mutex::new(None),
        }
    }

    /// The addresses of a name, at least one, in the order in which they are listed. The name is in
    /// ASCII.
    ///
    /// A name in the hosts file has the addresses that stand there, and no others. Dropping the
    /// future stops the questions, except those of the C library. A `client` whose names nobody
    /// answers for delays no other.
    pub(crate) async fn addresses(&self, name: &str, wanted: Wanted, client: u64) -> Resolution {
        if ends_in_number(name) {
            // C libraries take 127.1 and 0x7f000001 for addresses.
            return Err(LookupFailure::Unknown);
        }
        let listed = hosts::addresses(&read(&self.hosts), name);
        if is_localhost(name) {
            let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            return of_family([listed, loopback.to_vec()].concat(), wanted);
        }
        if !listed.is_empty() {
            return of_family(listed, wanted);
        }
        let found = if self.needs_c_library(name) {
            c_library::addresses(name, wanted, client).await?
        } else {
            let turn = turns().turn(client).await;
            dns::addresses(&self.configuration(), name, wanted, turn.as_ref()).await?
        };
        of_family(found, wanted)
    }

    /// The names that the hosts file has for these addresses, in its order. Those that it does not
    /// list are left out.
    pub(crate) fn listed_names(&self, addresses: &HashSet<IpAddr>) -> HashMap<IpAddr, Vec<String>> {
        hosts::names(&read(&self.hosts), addresses)
    }

    /// Which name servers to ask now.
    pub(crate) fn configuration(&self) -> Arc<Configuration> {
        if self.resolver == Resolver::CLibrary {
            return Arc::new(Configuration::of_system());
        }
        let text = fs::read(&self.resolv_conf).unwrap_or_default();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((known, configuration)) if *known == text => Arc::clone(configuration),
            _ => {
                let configuration = Arc::new(Configuration::parse(&text, &hostname(), self.port));
                tracing::debug!(?configuration, "read {}", self.resolv_conf.display());
                *last = Some((text, Arc::clone(&configuration)));
                configuration
            }
        }
    }

    fn needs_c_library(&self, name: &str) -> bool {
        match self.resolver {
            Resolver::NameServers => false,
            Resolver::Nsswitch => needs_c_library(&read(&self.nsswitch), name, &hostname()),
            Resolver::CLibrary => true,
        }
    }
}

/// Where this system keeps its hosts file, and the others if it has them.
fn folder() -> PathBuf {
    match std::env::var_os("SystemRoot") {
        Some(windows) if cfg!(windows) => PathBuf::from(windows).join(r"System32\drivers\etc"),
        _ => PathBuf::from("/etc"),
    }
}

/// What a small file says; nothing when it cannot be read.
fn read(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// This machine's name, where a file tells it (Linux).
fn hostname() -> String {
    read(Path::new("/proc/sys/kernel/hostname")).trim().to_owned()
}

fn of_family(found: Vec<IpAddr>, wanted: Wanted) -> Resolution {
    let found: Vec<IpAddr> = found.into_iter().map(|address| address.to_canonical()).collect();
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = found.into_iter().partition(IpAddr::is_ipv4);
    let found = match wanted {
        Wanted::V4 => v4,
        Wanted::V4OrElseV6 if !v4.is_empty() => v4,
        Wanted::V6 | Wanted::V4OrElseV6 => v6,
    };
    if found.is_empty() {
        return Err(LookupFailure::NoAddress);
    }
    Ok(found)
}

/// RFC 6761 §6.3: these names are this machine, and nobody else is asked.
fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let last = name.rsplit('.').next().unwrap_or(name);
    last.eq_ignore_ascii_case("localhost")
}

/// Reads what may be anything: the system's files, and what a name server answered to a question for
/// a name.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_anything(file: &[u8], answer: &[u8], (text, name): (&str, &str)) {
    use hickory_resolver::proto::op::{Message, Query};
    use hickory_resolver::proto::rr::{Name, RecordType};

    let configuration = Configuration::parse(file, text, 53);
    assert!(!configuration.servers.is_empty() && configuration.attempts > 0);
    assert!(configuration.candidates(name).len() <= 1 + configuration.search.len());
    let options = format!("search {text}\noptions {name}");
    let _ = Configuration::parse(options.as_bytes(), name, 53).candidates(text);
    let _ = hosts::addresses(text, name);
    let address = Ipv4Addr::new(192, 0, 2, 1).into();
    for name in hosts::names(&format!("{address} {text}"), &[address].into())
        .into_values()
        .flatten()
    {
        assert!(is_host_name(name.as_bytes()), "{name:?}");
    }
    let _ = needs_c_library(&format!("hosts: {text}"), name, text);
    let mut query = Message::query();
    // The question that the answer repeats, where it is one.
    let question = Message::from_vec(&[&[0, 0], answer].concat())
        .ok()
        .and_then(|answer| answer.queries.first().cloned());
    let other = || Query::query(Name::from(Ipv4Addr::LOCALHOST), RecordType::PTR);
    query.add_query(question.unwrap_or_else(other));
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, 53));
    let own = [&query.metadata.id.to_be_bytes(), answer].concat();
    for bytes in [answer, &own] {
        if let Some(answer) = dns::answer_to(&query, bytes)
            && let Ok(answer) = dns::judge(server, answer)
        {
            assert!(answer.queries == query.queries, "{answer:?}");
        }
    }
}

/// Whether a name that somebody claims is one that a host may have: letters, digits, hyphens and
/// underscores between dots, no hyphen at either end of a part, and not digits alone.
pub(crate) fn is_host_name(name: &[u8]) -> bool {
    let is_label = |label: &[u8]| {
        (1..=MAX_LABEL_LEN).contains(&label.len())
            && label
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with(b"-")
            && !label.ends_with(b"-")
    };
    name.len() <= MAX_NAME_LEN
        && name.split(|byte| *byte == b'.').all(is_label)
        && name.iter().any(|byte| !byte.is_ascii_digit() && *byte != b'.')
}

#[cfg(test)]
mod tests;
