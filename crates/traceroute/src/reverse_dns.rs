//! The names of hops.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use hickory_resolver::proto::rr::Name;
use moka::future::Cache;
use tokio::time::{Instant, timeout, timeout_at};

use crate::names::configuration::Configuration;
use crate::names::{LookupFailure, System, dns, is_host_name, turns};
use crate::report::Names;
use crate::turns::Turn;

/// How long one lookup may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long names are remembered.
const REMEMBERED: Duration = Duration::from_hours(1);
/// Most bytes of names that are remembered: those of some 15,000 addresses with one name each.
const MAX_REMEMBERED: u64 = 8 << 20;
/// Bytes that the cache needs for an address without names.
const ENTRY: usize = 512;
/// Addresses of one request whose names are looked up at once. More would only wait for turns.
const MAX_CONCURRENT: usize = 512;
/// Names kept of one address: an answer over TCP has room for thousands.
const MAX_NAMES: usize = 16;

/// Looks up the PTR names of addresses, and remembers them for an hour.
///
/// Cheap to make. Lookups need a tokio runtime with time and I/O. Each request follows the system's
/// configuration as it is then.
pub struct ReverseDns {
    source: Source,
    timeout: Duration,
    remembered: Cache<IpAddr, Arc<[String]>>,
}

/// Who is asked.
enum Source {
    /// The hosts file, then the name servers.
    System(&'static System),
    /// These name servers.
    Servers(Arc<Configuration>),
}

impl Default for ReverseDns {
    fn default() -> Self {
        Self::new()
    }
}

impl ReverseDns {
    /// Asks the system's name servers, after its hosts file.
    pub fn new() -> Self {
        Self::with_limits(Source::System(System::shared()), LOOKUP_TIMEOUT, REMEMBERED)
    }

    /// Asks these name servers, and no hosts file.
    pub fn with_name_servers(name_servers: Vec<SocketAddr>) -> Self {
        Self::with_limits(Source::servers(name_servers), LOOKUP_TIMEOUT, REMEMBERED)
    }

    fn with_limits(source: Source, timeout: Duration, remembered: Duration) -> Self {
        ReverseDns {
            source,
            timeout,
            remembered: Cache::builder()
                .max_capacity(MAX_REMEMBERED)
                .weigher(|_, names| size(names))
                .time_to_live(remembered)
                .build(),
        }
    }

    /// All names of an address in the order of the answer, without the final dot; none when there
    /// are none, or none within 5 seconds. Concurrent calls for one address share one lookup.
    /// Dropping the future stops it.
    ///
    /// Names are what some server on the Internet says: those that are no host names are left out
    /// (only letters, digits, hyphens and underscores between dots), and only the first 16 are
    /// kept.
    pub async fn names(&self, address: IpAddr) -> Arc<[String]> {
        match self
            .source
            .listed_names(&HashSet::from([address]))
            .remove(&address)
        {
            Some(listed) => listed,
            None => self.names_from(&self.source.configuration(), address, 0).await,
        }
    }

    async fn names_from(&self, configuration: &Configuration, address: IpAddr, client: u64) -> Arc<[String]> {
        if let Some(names) = self.remembered.get(&address).await {
            return names;
        }
        let lookup = async {
            // Before others can wait for the same look-up: they would wait for this client's turn.
            let turn = turns().turn(client).await;
            let asked = lookup(configuration, address, turn.as_ref());
            self.remembered.try_get_with(address, asked).await
        };
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

    /// The names of addresses, all looked up at the same time, as far as the look-ups of others
    /// leave room: a `client` ([`Request::by_client`](crate::Request::by_client)) with many silent names
    /// delays no other. After 5 seconds, or at the deadline, if there is one, those that are known by
    /// then. All together take `limit` bytes at most ([`Names::size`]); [`Names::left_out`] counts the
    /// others.
    pub async fn names_of(
        &self,
        addresses: HashSet<IpAddr>,
        deadline: Option<Instant>,
        client: u64,
        limit: usize,
    ) -> Names {
        let mut names = Names::default();
        let mut left = limit;
        let listed = self.source.listed_names(&addresses);
        let configuration = self.source.configuration();
        let others = addresses
            .into_iter()
            .filter(|address| !listed.contains_key(address));
        let lookups =
            others.map(async |address| (address, self.names_from(&configuration, address, client).await));
        // Not one for each address at once: there may be ten thousands.
        let mut lookups = pin!(stream::iter(lookups).buffer_unordered(MAX_CONCURRENT));
        for (address, listed) in &listed {
            names.add(*address, Arc::clone(listed), &mut left);
        }
        let collecting = async {
            while let Some((address, found)) = lookups.next().await {
                names.add(address, found, &mut left);
            }
        };
        let longest = Instant::now() + self.timeout;
        let deadline = deadline.map_or(longest, |deadline| deadline.min(longest));
        if timeout_at(deadline, collecting).await.is_err() {
            tracing::debug!("some names were not found in time");
        }
        names
    }
}

/// Bytes that the names of one address take.
fn size(names: &Arc<[String]>) -> u32 {
    let of_name = |name: &String| size_of::<String>() + name.capacity();
    let size = ENTRY + names.iter().map(of_name).sum::<usize>();
    u32::try_from(size).unwrap_or(u32::MAX)
}

async fn lookup(
    configuration: &Configuration,
    address: IpAddr,
    turn: Option<&Turn>,
) -> Result<Arc<[String]>, LookupFailure> {
    let pointers = dns::pointers(configuration, address, turn).await?;
    Ok(pointers.iter().filter_map(host_name).take(MAX_NAMES).collect())
}

impl Source {
    /// What the hosts file says, if there is one.
    fn listed_names(&self, addresses: &HashSet<IpAddr>) -> HashMap<IpAddr, Arc<[String]>> {
        let listed = match self {
            Source::System(system) => system.listed_names(addresses),
            Source::Servers(_) => HashMap::new(),
        };
        let first = |names: Vec<String>| names.into_iter().take(MAX_NAMES).collect();
        listed
            .into_iter()
            .map(|(address, names)| (address, first(names)))
            .collect()
    }

    fn servers(name_servers: Vec<SocketAddr>) -> Self {
        Source::Servers(Arc::new(Configuration::with_servers(name_servers)))
    }

    fn configuration(&self) -> Arc<Configuration> {
        match self {
            Source::System(system) => system.configuration(),
            Source::Servers(configuration) => Arc::clone(configuration),
        }
    }
}

/// The name without the final dot, if it is a host name. A dot within a part makes none.
fn host_name(name: &Name) -> Option<String> {
    if name.iter().any(|label| label.contains(&b'.')) {
        return None;
    }
    let text = name.iter().collect::<Vec<&[u8]>>().join(&b'.');
    is_host_name(&text).then(|| String::from_utf8(text).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::net::UdpSocket;

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
        let client = ReverseDns::with_limits(
            Source::servers(vec![server.address]),
            LOOKUP_TIMEOUT,
            Duration::ZERO,
        );
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
        assert!(passed >= Duration::from_secs(2), "{passed:?}");
        assert_eq!(server.queries(), 2, "a lost packet is sent again");
    }

    #[tokio::test]
    async fn names_that_are_no_host_names_are_left_out() {
        let server = NameServer::start(|_| {
            Answer::Names(vec![
                wire(&[b"a\x1b[31m\n\0", b"b"]),
                wire(&[b"a.b", b"example"]),
                wire(&[b"b\xc3\xbccher", b"example"]),
                wire(&[b"-a", b"example"]),
                wire(&[b"a-", b"example"]),
                wire(&[b"192", b"0", b"2", b"1"]),
                wire(&[]),
                wire(&[&[b'a'; 63], &[b'a'; 63], &[b'a'; 63], &[b'a'; 61]]),
                wire(&[b"xn--bcher-kva", b"0-1_2", b"Example"]),
            ])
        })
        .await;
        let longest = [[b'a'; 63].as_slice(), &[b'a'; 63], &[b'a'; 63], &[b'a'; 61]].join(&b'.');
        assert_eq!(
            *server.client().names(address("192.0.2.1")).await,
            [
                String::from_utf8(longest).unwrap(),
                "xn--bcher-kva.0-1_2.Example".to_owned()
            ]
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

    /// 10,000 addresses with the longest names took 47 MB.
    #[tokio::test]
    async fn remembered_names_are_bounded_in_bytes() {
        let client = ReverseDns::with_name_servers(Vec::new());
        let names: Arc<[String]> = (0..MAX_NAMES).map(|_| "x".repeat(253)).collect();
        let addresses = || (0..10_000_u32).map(|index| IpAddr::from(index.to_be_bytes()));
        for address in addresses() {
            client.remembered.insert(address, Arc::clone(&names)).await;
        }
        client.remembered.run_pending_tasks().await;
        let kept = client.remembered.entry_count();
        let most = MAX_REMEMBERED / (MAX_NAMES as u64 * 253);
        assert!(0 < kept && kept < most, "{kept}");
    }

    #[tokio::test]
    async fn malformed_answers_are_no_names() {
        // A record that ends in the middle of a label.
        let server = NameServer::start(|_| Answer::Names(vec![vec![40, b'a']])).await;
        let client = ReverseDns::with_limits(
            Source::servers(vec![server.address]),
            Duration::from_millis(100),
            REMEMBERED,
        );
        assert!(client.names(address("192.0.2.1")).await.is_empty());
    }

    #[tokio::test]
    async fn each_address_has_its_names() {
        let server = NameServer::start(|question| match question.split('.').next() {
            Some("1") => Answer::Names(vec![wire(&[b"hop", b"example"])]),
            Some("9") => Answer::Names(vec![wire(&[b"target", b"example"])]),
            _ => Answer::NoSuchName,
        })
        .await;
        let asked = ["192.0.2.1", "192.0.2.3", "192.0.2.9"].map(address);
        let names = server
            .client()
            .names_of(HashSet::from(asked), None, 0, usize::MAX)
            .await;
        assert_eq!(names.of(asked[0]), ["hop.example"]);
        assert_eq!(names.of(asked[1]), [""; 0]);
        assert_eq!(names.of(asked[2]), ["target.example"]);
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_deadline_the_names_known_by_then_are_filled_in() {
        let server = NameServer::start(|question| match question.split('.').next() {
            Some("1") => Answer::Names(vec![wire(&[b"hop", b"example"])]),
            _ => Answer::Silence,
        })
        .await;
        let asked = ["192.0.2.1", "192.0.2.9"].map(address);
        let started = Instant::now();
        let deadline = started + Duration::from_millis(500);
        let names = server
            .client()
            .names_of(HashSet::from(asked), Some(deadline), 0, usize::MAX)
            .await;
        assert!(
            started.elapsed() <= Duration::from_millis(501),
            "{:?}",
            started.elapsed()
        );
        assert_eq!(names.of(asked[0]), ["hop.example"]);
        assert!(names.of(asked[1]).is_empty());
    }

    /// One request's names took 118 MB before anybody counted them.
    #[tokio::test]
    async fn names_that_take_too_much_memory_are_left_out_and_counted() {
        let server = NameServer::start(|_| Answer::Names(vec![wire(&[&[b'a'; 63], b"example"])])).await;
        let asked: HashSet<IpAddr> = (1..=20).map(|last| IpAddr::from([192, 0, 2, last])).collect();
        let of_one = size_of::<String>() + 63 + ".example".len();
        let client = server.client();
        let names = client.names_of(asked.clone(), None, 0, 7 * of_one).await;
        assert_eq!((names.iter().count(), names.left_out()), (7, 13));
        assert!(names.iter().all(|(_, names)| Names::size(names) == of_one));
        let all = client.names_of(asked, None, 0, 20 * of_one).await;
        assert_eq!((all.iter().count(), all.left_out()), (20, 0));
    }
}
