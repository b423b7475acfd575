//! The names of hops.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData};
use moka::future::Cache;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::timeout;

use crate::model::Run;

/// How long one lookup may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a server may take, so that a lost packet is asked again within [`LOOKUP_TIMEOUT`].
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long names are remembered.
const REMEMBERED: Duration = Duration::from_hours(1);
/// For how many addresses names are remembered.
const MAX_REMEMBERED: u64 = 10_000;
/// Lookups that wait for a server at the same time.
const MAX_CONCURRENT: usize = 128;
/// Names kept of one address: an answer over TCP has room for thousands.
const MAX_NAMES: usize = 16;
/// Longest name kept, in bytes of text: the longest that DNS has (RFC 1035 §2.3.4) when nothing in it needs escaping.
const MAX_NAME_LEN: usize = 255;

/// Looks up the PTR names of addresses, and remembers them for an hour.
///
/// Cheap to make: the system's configuration is read at the first lookup. Lookups need a tokio runtime with time and
/// I/O, always the same one.
pub struct ReverseDns {
    /// Empty: the system's.
    name_servers: Vec<SocketAddr>,
    timeout: Duration,
    resolver: OnceCell<TokioResolver>,
    permits: Semaphore,
    remembered: Cache<IpAddr, Arc<[String]>>,
}

impl Default for ReverseDns {
    fn default() -> Self {
        Self::new()
    }
}

impl ReverseDns {
    /// Asks the system's name servers, after its hosts file.
    pub fn new() -> Self {
        Self::with_limits(Vec::new(), LOOKUP_TIMEOUT, REMEMBERED)
    }

    /// Asks these name servers, and no hosts file.
    pub fn with_name_servers(name_servers: Vec<SocketAddr>) -> Self {
        Self::with_limits(name_servers, LOOKUP_TIMEOUT, REMEMBERED)
    }

    fn with_limits(name_servers: Vec<SocketAddr>, timeout: Duration, remembered: Duration) -> Self {
        ReverseDns {
            name_servers,
            timeout,
            resolver: OnceCell::new(),
            permits: Semaphore::new(MAX_CONCURRENT),
            remembered: Cache::builder()
                .max_capacity(MAX_REMEMBERED)
                .time_to_live(remembered)
                .build(),
        }
    }

    /// All names of an address in the order of the answer, without the final dot; none when there are none, or none
    /// within 5 seconds. Concurrent calls for one address share one lookup.
    ///
    /// Names are what some server on the Internet says: bytes that are not printable ASCII are escaped as
    /// `\ddd` (RFC 1035 §5.1), and only the first 16 are kept.
    pub async fn names(&self, address: IpAddr) -> Arc<[String]> {
        let lookup = self.remembered.try_get_with(address, self.lookup(address));
        match timeout(self.timeout, lookup).await {
            Ok(Ok(names)) => names,
            Ok(Err(error)) => {
                tracing::debug!(%address, %error, "no name");
                Arc::default()
            }
            Err(_) => {
                tracing::debug!(%address, "no name in time");
                Arc::default()
            }
        }
    }

    /// Fills in the names of every hop and destination, each distinct address looked up once and all at the same time.
    pub async fn annotate(&self, runs: &mut [Run]) {
        let distinct: HashSet<IpAddr> = runs.iter().flat_map(addresses).collect();
        let lookups = distinct
            .into_iter()
            .map(async |address| (address, self.names(address).await));
        let names: HashMap<IpAddr, Arc<[String]>> = join_all(lookups).await.into_iter().collect();
        let names_of = |address: &IpAddr| names.get(address).map_or_else(Vec::new, |names| names.to_vec());
        for run in runs {
            run.destination.reverse_dns = names_of(&run.destination.ip_address);
            for hop in &mut run.hops {
                hop.reverse_dns = hop.ip_address.as_ref().map_or_else(Vec::new, names_of);
            }
        }
    }

    async fn lookup(&self, address: IpAddr) -> Result<Arc<[String]>, NetError> {
        // The semaphore is never closed; and without a permit a lookup would be no less correct.
        let _permit = self.permits.acquire().await.ok();
        let resolver = self
            .resolver
            .get_or_try_init(async || build_resolver(&self.name_servers))
            .await?;
        let answer = resolver.reverse_lookup(address).await?;
        let pointers = answer.answers().iter().filter_map(|record| match &record.data {
            RData::PTR(name) => printable(name),
            _ => None,
        });
        Ok(pointers.take(MAX_NAMES).collect())
    }
}

fn addresses(run: &Run) -> impl Iterator<Item = IpAddr> {
    let hops = run.hops.iter().filter_map(|hop| hop.ip_address);
    hops.chain([run.destination.ip_address])
}

/// The name as printable ASCII, without the final dot. `None` for the root, and for names that escapes make too long.
fn printable(name: &Name) -> Option<String> {
    let label_text = |label: &[u8]| label.iter().map(|byte| printable_byte(*byte)).collect();
    let labels: Vec<String> = name.iter().map(label_text).collect();
    let text = labels.join(".");
    (1..=MAX_NAME_LEN).contains(&text.len()).then_some(text)
}

fn printable_byte(byte: u8) -> String {
    match byte {
        b'.' | b'\\' => format!("\\{}", char::from(byte)),
        b'!'..=b'~' => char::from(byte).to_string(),
        _ => format!("\\{byte:03}"),
    }
}

fn build_resolver(name_servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let mut builder = if name_servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let mut builder =
            TokioResolver::builder_with_config(config(name_servers), TokioRuntimeProvider::default());
        builder.options_mut().use_hosts_file = ResolveHosts::Never;
        builder
    };
    adjust(builder.options_mut());
    builder.build()
}

fn adjust(options: &mut ResolverOpts) {
    options.timeout = options.timeout.min(ATTEMPT_TIMEOUT);
    options.max_active_requests = MAX_CONCURRENT;
    // Names are remembered here, and failures nowhere.
    options.cache_size = 0;
    // Ports that the system picks cannot collide with those that probes have reserved.
    options.os_port_selection = true;
}

fn config(name_servers: &[SocketAddr]) -> ResolverConfig {
    let server = |address: &SocketAddr| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = address.port();
            connection
        });
        NameServerConfig::new(address.ip(), true, connections.to_vec())
    };
    ResolverConfig::from_name_servers(name_servers.iter().map(server).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Hop, RunDestination, RunSource};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::net::UdpSocket;
    use uuid::Uuid;

    /// What a name server on loopback does with a query for a name.
    type Behaviour = fn(&str) -> Answer;

    enum Answer {
        /// PTR records with these names, in wire format.
        Names(Vec<Vec<u8>>),
        NoSuchName,
        Silence,
    }

    struct NameServer {
        address: SocketAddr,
        queries: Arc<AtomicUsize>,
    }

    impl NameServer {
        async fn start(behaviour: Behaviour) -> Self {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let address = socket.local_addr().unwrap();
            let queries = Arc::new(AtomicUsize::new(0));
            let count = queries.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 512];
                loop {
                    let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
                    count.fetch_add(1, Ordering::Relaxed);
                    if let Some(answer) = respond(&buffer[..len], behaviour) {
                        socket.send_to(&answer, from).await.unwrap();
                    }
                }
            });
            NameServer { address, queries }
        }

        fn queries(&self) -> usize {
            self.queries.load(Ordering::Relaxed)
        }

        fn client(&self) -> ReverseDns {
            ReverseDns::with_name_servers(vec![self.address])
        }
    }

    /// The answer to a query (RFC 1035 §4.1), or none.
    fn respond(query: &[u8], behaviour: Behaviour) -> Option<Vec<u8>> {
        let mut labels = Vec::new();
        let mut at = 12;
        while query[at] != 0 {
            let len = usize::from(query[at]);
            labels.push(String::from_utf8(query[at + 1..=at + len].to_vec()).unwrap());
            at += 1 + len;
        }
        let question = &query[12..at + 5];
        assert_eq!(
            question[question.len() - 4..],
            [0, 12, 0, 1],
            "a PTR query in class IN"
        );
        let (code, names) = match behaviour(&labels.join(".").to_lowercase()) {
            Answer::Names(names) => (0, names),
            Answer::NoSuchName => (3, Vec::new()),
            Answer::Silence => return None,
        };
        let mut answer = vec![
            query[0],
            query[1],
            0x81,
            0x80 | code,
            0,
            1,
            0,
            names.len() as u8,
            0,
            0,
            0,
            0,
        ];
        answer.extend_from_slice(question);
        for name in names {
            // Compressed name of the question, type PTR, class IN, TTL 60 s.
            answer.extend_from_slice(&[0xc0, 12, 0, 12, 0, 1, 0, 0, 0, 60]);
            answer.extend_from_slice(&(name.len() as u16).to_be_bytes());
            answer.extend_from_slice(&name);
        }
        Some(answer)
    }

    fn wire(labels: &[&[u8]]) -> Vec<u8> {
        let mut bytes: Vec<u8> = Vec::new();
        for label in labels {
            bytes.push(label.len() as u8);
            bytes.extend_from_slice(label);
        }
        bytes.push(0);
        bytes
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn two_names(question: &str) -> Answer {
        assert_eq!(question, "1.2.0.192.in-addr.arpa");
        Answer::Names(vec![wire(&[b"router", b"example"]), wire(&[b"a", b"example"])])
    }

    #[tokio::test]
    async fn all_names_in_order_without_the_final_dot() {
        let server = NameServer::start(two_names).await;
        let names = server.client().names(address("192.0.2.1")).await;
        assert_eq!(*names, ["router.example", "a.example"]);
    }

    #[tokio::test]
    async fn ipv6_addresses_have_names_too() {
        let server = NameServer::start(|question| {
            assert_eq!(
                question,
                "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"
            );
            Answer::Names(vec![wire(&[b"six", b"example"])])
        })
        .await;
        assert_eq!(
            *server.client().names(address("2001:db8::1")).await,
            ["six.example"]
        );
    }

    #[tokio::test]
    async fn names_are_remembered() {
        let server = NameServer::start(two_names).await;
        let client = server.client();
        for _ in 0..3 {
            assert_eq!(client.names(address("192.0.2.1")).await.len(), 2);
        }
        assert_eq!(server.queries(), 1);
    }

    #[tokio::test]
    async fn names_are_forgotten() {
        let server = NameServer::start(two_names).await;
        let client = ReverseDns::with_limits(vec![server.address], LOOKUP_TIMEOUT, Duration::ZERO);
        for _ in 0..3 {
            assert_eq!(client.names(address("192.0.2.1")).await.len(), 2);
        }
        assert_eq!(server.queries(), 3);
    }

    #[tokio::test]
    async fn concurrent_lookups_of_one_address_are_one() {
        let server = NameServer::start(two_names).await;
        let client = server.client();
        let answers = join_all((0..50).map(|_| client.names(address("192.0.2.1")))).await;
        assert!(answers.iter().all(|names| names.len() == 2));
        assert_eq!(server.queries(), 1);
    }

    #[tokio::test]
    async fn no_such_name_is_not_remembered() {
        let server = NameServer::start(|_| Answer::NoSuchName).await;
        let client = server.client();
        assert!(client.names(address("192.0.2.1")).await.is_empty());
        let once = server.queries();
        assert!(client.names(address("192.0.2.1")).await.is_empty());
        assert_eq!(server.queries(), 2 * once);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_after_five_seconds() {
        let server = NameServer::start(|_| Answer::Silence).await;
        let started = tokio::time::Instant::now();
        assert!(server.client().names(address("192.0.2.1")).await.is_empty());
        let passed = started.elapsed();
        assert!(passed <= Duration::from_millis(5001), "{passed:?}");
        assert!(passed >= ATTEMPT_TIMEOUT, "{passed:?}");
    }

    #[tokio::test]
    async fn bytes_from_the_network_are_escaped() {
        let server = NameServer::start(|_| {
            Answer::Names(vec![
                wire(&[b"a\x1b[31m\n\0", b"b.c \"\\\xff", b"xn--bcher-kva"]),
                wire(&[]),
                wire(&[&[1; 63], &[1; 63], &[1; 63], &[1; 61]]),
            ])
        })
        .await;
        assert_eq!(
            *server.client().names(address("192.0.2.1")).await,
            [r#"a\027[31m\010\000.b\.c\032"\\\255.xn--bcher-kva"#.to_owned()]
        );
    }

    #[tokio::test]
    async fn only_so_many_names_are_kept() {
        let server = NameServer::start(|_| {
            let name = |number: u8| wire(&[&[b'a' + number]]);
            Answer::Names((0..20).map(name).collect())
        })
        .await;
        assert_eq!(server.client().names(address("192.0.2.1")).await.len(), MAX_NAMES);
    }

    #[tokio::test]
    async fn malformed_answers_are_no_names() {
        // A record that ends in the middle of a label.
        let server = NameServer::start(|_| Answer::Names(vec![vec![40, b'a']])).await;
        let client = ReverseDns::with_limits(vec![server.address], Duration::from_millis(100), REMEMBERED);
        assert!(client.names(address("192.0.2.1")).await.is_empty());
    }

    #[tokio::test]
    async fn runs_are_annotated() {
        let server = NameServer::start(|question| match question.split('.').next() {
            Some("1") => Answer::Names(vec![wire(&[b"hop", b"example"])]),
            Some("9") => Answer::Names(vec![wire(&[b"target", b"example"])]),
            _ => Answer::NoSuchName,
        })
        .await;
        let run = Run {
            run_id: Uuid::nil(),
            source: RunSource {
                ip_address: address("192.0.2.100"),
                port: 1,
            },
            destination: RunDestination {
                ip_address: address("192.0.2.9"),
                port: 2,
                reverse_dns: Vec::new(),
            },
            hops: vec![
                Hop::answered(1, address("192.0.2.1"), 1.0),
                Hop::silent(2),
                Hop::answered(3, address("192.0.2.3"), 2.0),
                Hop::answered(4, address("192.0.2.9"), 3.0),
            ],
        };
        let mut runs = [run.clone(), run];
        server.client().annotate(&mut runs).await;
        for run in &runs {
            assert_eq!(run.destination.reverse_dns, ["target.example"]);
            let names: Vec<String> = run.hops.iter().map(|hop| hop.reverse_dns.join(",")).collect();
            assert_eq!(names, ["hop.example", "", "", "target.example"]);
        }
    }

    #[test]
    fn the_systems_configuration_is_read_late() {
        // No runtime here: construction must not need one.
        assert!(ReverseDns::new().resolver.get().is_none());
    }
}
