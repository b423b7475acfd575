//! This machine's address as the Internet sees it.

use std::net::Ipv4Addr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::USER_AGENT;
use hyper::{Request, StatusCode};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioExecutor;
use moka::future::Cache;
use tokio::time::timeout;

use crate::proxy::{ProxyConnector, with_tls};

/// Services that answer with the address that asked, in the order in which they are tried.
const SERVICES: [&str; 5] = [
    "https://icanhazip.com",
    "https://ipinfo.io/ip",
    "https://checkip.amazonaws.com",
    "https://api.ipify.org",
    "https://whatismyip.akamai.com",
];
/// How long one service may take, retries included.
const SERVICE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before the first retry.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// How much longer each further pause is.
const PAUSE_GROWTH: f32 = 1.5;
/// How long the address is remembered.
const REMEMBERED: Duration = Duration::from_hours(2);
/// Longest body read, in bytes: an address and some white space.
const MAX_BODY: usize = 256;

type HttpsClient = Client<HttpsConnector<ProxyConnector>, Empty<Bytes>>;

/// Finds this machine's public IPv4 address by asking services on the Internet, and remembers it
/// for two hours.
///
/// Where the environment names a proxy (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, also in lower
/// case), the services are asked through it, unless `NO_PROXY` excepts them.
///
/// Cheap to make: the HTTPS client is built at the first question. Questions need a tokio runtime
/// with time and I/O.
pub struct PublicIp {
    services: Vec<String>,
    proxies: Arc<Matcher>,
    client: OnceLock<Result<HttpsClient, String>>,
    remembered: Cache<(), Ipv4Addr>,
}

impl Default for PublicIp {
    fn default() -> Self {
        Self::new()
    }
}

impl PublicIp {
    /// Asks well-known services.
    pub fn new() -> Self {
        Self::with_services(SERVICES.map(str::to_owned).to_vec())
    }

    /// Asks these URLs (`https` or `http`), each of which answers with nothing but the address.
    pub fn with_services(services: Vec<String>) -> Self {
        Self::with_memory(services, Matcher::from_env(), REMEMBERED)
    }

    fn with_memory(services: Vec<String>, proxies: Matcher, remembered: Duration) -> Self {
        PublicIp {
            services,
            proxies: Arc::new(proxies),
            client: OnceLock::new(),
            remembered: Cache::builder().max_capacity(1).time_to_live(remembered).build(),
        }
    }

    /// The address that the first service to know one gives; `None` when none does within 2 seconds
    /// each. Concurrent calls share one search. Not finding it is not remembered.
    pub async fn address(&self) -> Option<Ipv4Addr> {
        self.remembered.optionally_get_with((), self.search()).await
    }

    async fn search(&self) -> Option<Ipv4Addr> {
        let client = match self.client.get_or_init(|| build_client(&self.proxies)) {
            Ok(client) => client,
            Err(error) => {
                tracing::warn!(error, "cannot ask for the public address");
                return None;
            }
        };
        for service in &self.services {
            match timeout(SERVICE_TIMEOUT, ask_with_retries(client, service)).await {
                Ok(Ok(address)) => return Some(address),
                Ok(Err(error)) => tracing::debug!(service, %error, "no public address"),
                Err(_) => tracing::debug!(service, "no public address in time"),
            }
        }
        None
    }
}

/// Why a service gave no address.
#[derive(Debug, thiserror::Error)]
enum AskFailure {
    /// The network's or the server's trouble, which may pass.
    #[error("{}", with_causes(&**.0))]
    Passing(Arc<dyn std::error::Error + Send + Sync>),
    /// The server answered with a status of its own trouble, which may pass too.
    #[error("status {0}")]
    ServerError(StatusCode),
    /// A status that will not get better by asking again.
    #[error("status {0}")]
    Status(StatusCode),
    /// The answer is no IPv4 address.
    #[error("the answer is no IPv4 address")]
    NoAddress,
    /// The service's URL is not one.
    #[error("invalid URL: {0}")]
    Url(#[from] hyper::http::Error),
}

impl AskFailure {
    fn passing(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        AskFailure::Passing(Arc::new(error))
    }

    fn may_pass(&self) -> bool {
        matches!(self, AskFailure::Passing(_) | AskFailure::ServerError(_))
    }
}

/// The message of an error, and those of what caused it: "client error" says little.
fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let messages: Vec<String> = causes.map(ToString::to_string).collect();
    messages.join(": ")
}

async fn ask_with_retries(client: &HttpsClient, service: &str) -> Result<Ipv4Addr, AskFailure> {
    let pauses = ExponentialBuilder::new()
        .with_min_delay(FIRST_PAUSE)
        .with_factor(PAUSE_GROWTH)
        .without_max_times();
    (|| ask(client, service))
        .retry(pauses)
        .when(AskFailure::may_pass)
        .await
}

async fn ask(client: &HttpsClient, service: &str) -> Result<Ipv4Addr, AskFailure> {
    let request = Request::get(service)
        .header(
            USER_AGENT,
            concat!("datadog-traceroute/", env!("CARGO_PKG_VERSION")),
        )
        .body(Empty::new())?;
    let response = client.request(request).await.map_err(AskFailure::passing)?;
    match response.status() {
        status if status.is_success() => {}
        status if status.is_server_error() => return Err(AskFailure::ServerError(status)),
        status => return Err(AskFailure::Status(status)),
    }
    read_address(response.into_body()).await
}

async fn read_address(body: hyper::body::Incoming) -> Result<Ipv4Addr, AskFailure> {
    let body = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            return Err(match error.downcast::<hyper::Error>() {
                Ok(broken) => AskFailure::passing(*broken),
                Err(_too_long) => AskFailure::NoAddress,
            });
        }
    };
    let text = std::str::from_utf8(&body).map_err(|_| AskFailure::NoAddress)?;
    text.trim().parse().map_err(|_| AskFailure::NoAddress)
}

/// A client that speaks IPv4 only, as the services answer with the address that the connection
/// comes from.
fn build_client(proxies: &Arc<Matcher>) -> Result<HttpsClient, String> {
    let connector = ProxyConnector::new(Arc::clone(proxies))
        .and_then(with_tls)
        .map_err(|error| error.to_string())?;
    // An address is asked for every two hours: connections are not worth keeping.
    Ok(Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(0)
        .build(connector))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::Instant;

    /// An HTTP server on loopback that gives the n-th request the n-th of its answers, and the last
    /// from then on.
    struct Service {
        url: String,
        requests: Arc<AtomicUsize>,
    }

    impl Service {
        async fn start(answers: &'static [&'static str]) -> Self {
            Self::start_on("127.0.0.1:0", answers).await
        }

        async fn start_on(address: &str, answers: &'static [&'static str]) -> Self {
            let listener = TcpListener::bind(address).await.unwrap();
            let url = format!("http://{}/ip", listener.local_addr().unwrap());
            let requests = Arc::new(AtomicUsize::new(0));
            let count = requests.clone();
            tokio::spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let number = count.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(serve(stream, answers[number.min(answers.len() - 1)]));
                }
            });
            Service { url, requests }
        }

        fn requests(&self) -> usize {
            self.requests.load(Ordering::Relaxed)
        }
    }

    /// An empty answer means silence.
    async fn serve(mut stream: TcpStream, answer: &str) {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        assert!(request.starts_with(b"GET /ip HTTP/1.1\r\n"));
        if answer.is_empty() {
            std::future::pending::<()>().await;
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    }

    const GOOD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n203.0.113.10\n";
    const OTHER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n203.0.113.99";
    const BROKEN: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
    const CUT_SHORT: &str = "HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n203.0";
    const SILENCE: &str = "";

    /// The address in [`GOOD`].
    const FOUND: Option<Ipv4Addr> = Some(Ipv4Addr::new(203, 0, 113, 10));

    fn no_proxies() -> Matcher {
        Matcher::builder().build()
    }

    fn public_ip(services: &[&Service]) -> PublicIp {
        let services = services.iter().map(|service| service.url.clone()).collect();
        PublicIp::with_memory(services, no_proxies(), REMEMBERED)
    }

    #[tokio::test]
    async fn the_first_service_is_enough() {
        let first = Service::start(&[GOOD]).await;
        let second = Service::start(&[OTHER]).await;
        assert_eq!(public_ip(&[&first, &second]).address().await, FOUND);
        assert_eq!((first.requests(), second.requests()), (1, 0));
    }

    #[tokio::test]
    async fn the_address_is_remembered_and_concurrent_searches_are_one() {
        let service = Service::start(&[GOOD, OTHER]).await;
        let public_ip = public_ip(&[&service]);
        let (one, two) = tokio::join!(public_ip.address(), public_ip.address());
        assert_eq!((one, two), (FOUND, FOUND));
        assert_eq!(public_ip.address().await, FOUND);
        assert_eq!(service.requests(), 1);
    }

    #[tokio::test]
    async fn the_address_is_forgotten() {
        let service = Service::start(&[OTHER, GOOD]).await;
        let public_ip = PublicIp::with_memory(vec![service.url.clone()], no_proxies(), Duration::ZERO);
        assert_ne!(public_ip.address().await, FOUND);
        assert_eq!(public_ip.address().await, FOUND);
    }

    #[tokio::test]
    async fn not_finding_it_is_not_remembered() {
        let service = Service::start(&["HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", GOOD]).await;
        let public_ip = public_ip(&[&service]);
        assert_eq!(public_ip.address().await, None);
        assert_eq!(public_ip.address().await, FOUND);
    }

    #[tokio::test]
    async fn answers_that_are_final() {
        let answers: [&'static [&'static str]; 7] = [
            &[
                "HTTP/1.1 404 Not Found\r\ncontent-length: 12\r\n\r\n203.0.113.99",
                OTHER,
            ],
            &[
                "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n",
                OTHER,
            ],
            &[
                "HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n",
                OTHER,
            ],
            &["HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>", OTHER],
            &["HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n2001:db8::1", OTHER],
            &["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n\u{e9}", OTHER],
            // Endless white space: 300 bytes announced, refused behind 256.
            &[
                concat!(
                    "HTTP/1.1 200 OK\r\ncontent-length: 300\r\n\r\n203.0.113.99",
                    "                                                                                ",
                    "                                                                                ",
                    "                                                                                ",
                    "                                                ",
                ),
                OTHER,
            ],
        ];
        for answers in answers {
            let useless = Service::start(answers).await;
            let fallback = Service::start(&[GOOD]).await;
            assert_eq!(
                public_ip(&[&useless, &fallback]).address().await,
                FOUND,
                "{answers:?}"
            );
            assert_eq!(useless.requests(), 1, "{answers:?}");
        }
    }

    // The tests below run on a clock that jumps over pauses: silence and retries take no real time.
    // Loopback I/O that is ready is always handled before a jump.

    #[tokio::test(start_paused = true)]
    async fn trouble_that_passes_is_retried_after_half_a_second() {
        for answers in [&[BROKEN, GOOD], &[CUT_SHORT, GOOD]] {
            let service = Service::start(answers).await;
            let started = Instant::now();
            assert_eq!(public_ip(&[&service]).address().await, FOUND);
            assert_eq!(service.requests(), 2);
            let passed = started.elapsed();
            assert!((500..600).contains(&passed.as_millis()), "{passed:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_service_has_two_seconds() {
        let broken = Service::start(&[BROKEN]).await;
        let fallback = Service::start(&[GOOD]).await;
        let started = Instant::now();
        assert_eq!(public_ip(&[&broken, &fallback]).address().await, FOUND);
        // At 0, 500 and 500 + 750 ms; the next would be at 2375 ms.
        assert_eq!(broken.requests(), 3);
        let passed = started.elapsed();
        assert!((2000..2100).contains(&passed.as_millis()), "{passed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_costs_two_seconds_each() {
        let first = Service::start(&[SILENCE]).await;
        let second = Service::start(&[SILENCE]).await;
        let started = Instant::now();
        assert_eq!(public_ip(&[&first, &second]).address().await, None);
        let passed = started.elapsed();
        assert!((4000..4100).contains(&passed.as_millis()), "{passed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn ipv6_is_never_used() {
        let six = Service::start_on("[::1]:0", &[OTHER]).await;
        let fallback = Service::start(&[GOOD]).await;
        assert_eq!(public_ip(&[&six, &fallback]).address().await, FOUND);
        assert_eq!(six.requests(), 0);
    }

    #[tokio::test]
    async fn https_urls_are_asked_over_tls() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let service = format!("https://{}", listener.local_addr().unwrap());
        let public_ip = PublicIp::with_services(vec![service]);
        let first_byte = async { listener.accept().await.unwrap().0.read_u8().await.unwrap() };
        tokio::select! {
            // Content type "handshake" (RFC 8446 §5.1).
            byte = first_byte => assert_eq!(byte, 22),
            address = public_ip.address() => panic!("gave up with {address:?}"),
        }
    }

    #[tokio::test]
    async fn a_url_that_is_none_is_passed_over() {
        let fallback = Service::start(&[GOOD]).await;
        let services = vec!["no url at all".to_owned(), fallback.url.clone()];
        assert_eq!(PublicIp::with_services(services).address().await, FOUND);
    }

    #[test]
    fn the_client_can_be_built_and_is_built_late() {
        assert!(PublicIp::new().client.get().is_none());
        assert!(build_client(&Arc::new(no_proxies())).is_ok());
    }

    /// No name server knows it: only a proxy can connect to it.
    const NOWHERE: &str = "http://service.invalid/ip";

    /// Asks [`NOWHERE`] through a proxy on loopback, whose URL has this beginning; the environment
    /// says so. The proxy checks what it is asked and answers. Then it is the service itself.
    async fn ask_through_proxy(
        scheme: &str,
        talk: &'static [(&'static [u8], &'static [u8])],
    ) -> Option<Ipv4Addr> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{scheme}{}", listener.local_addr().unwrap());
        let proxies = Matcher::builder().all(url).no("other.invalid").build();
        let public_ip = PublicIp::with_memory(vec![NOWHERE.to_owned()], proxies, REMEMBERED);
        let proxy = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            for (question, answer) in talk {
                let mut asked = vec![0; question.len()];
                stream.read_exact(&mut asked).await.unwrap();
                assert_eq!(String::from_utf8_lossy(&asked), String::from_utf8_lossy(question));
                stream.write_all(answer).await.unwrap();
            }
            serve(stream, GOOD).await;
        };
        tokio::join!(public_ip.address(), proxy).0
    }

    #[tokio::test]
    async fn a_proxy_is_asked_for_a_tunnel_by_name() {
        let found = ask_through_proxy(
            "http://us%65r:secret@",
            &[(
                b"CONNECT service.invalid:80 HTTP/1.1\r\nHost: service.invalid:80\r\n\
                  Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n\r\n",
                b"HTTP/1.1 200 Connection established\r\n\r\n",
            )],
        );
        assert_eq!(found.await, FOUND);
        let without_scheme = ask_through_proxy(
            "",
            &[(
                b"CONNECT service.invalid:80 HTTP/1.1\r\nHost: service.invalid:80\r\n\r\n",
                b"HTTP/1.1 200 OK\r\n\r\n",
            )],
        );
        assert_eq!(without_scheme.await, FOUND);
    }

    /// RFC 1928, RFC 1929.
    #[tokio::test]
    async fn a_socks_proxy_is_asked_by_name() {
        let connect: (&[u8], &[u8]) = (
            b"\x05\x01\x00\x03\x0fservice.invalid\x00\x50",
            b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00",
        );
        let found = ask_through_proxy(
            "socks5://",
            Box::leak(Box::new([
                (b"\x05\x01\x00" as &[u8], b"\x05\x00" as &[u8]),
                connect,
            ])),
        );
        assert_eq!(found.await, FOUND);
        let found = ask_through_proxy(
            "socks5h://user:secret@",
            Box::leak(Box::new([
                (b"\x05\x01\x02" as &[u8], b"\x05\x02" as &[u8]),
                (b"\x01\x04user\x06secret", b"\x01\x00"),
                connect,
            ])),
        );
        assert_eq!(found.await, FOUND);
    }

    #[tokio::test]
    async fn this_machine_and_what_no_proxy_names_are_asked_directly() {
        let nobody = "http://127.0.0.1:1";
        let direct = Service::start(&[GOOD]).await;
        for proxies in [
            Matcher::builder().all(nobody).build(),
            Matcher::builder().http(nobody).https(nobody).build(),
        ] {
            let public_ip = PublicIp::with_memory(vec![direct.url.clone()], proxies, REMEMBERED);
            assert_eq!(public_ip.address().await, FOUND);
        }
        // Refused at once by a proxy that nobody is, and not asked there at all.
        let through = |no: &str| {
            let proxies = Matcher::builder().all(nobody).no(no).build();
            ProxyConnector::new(Arc::new(proxies)).unwrap()
        };
        let uri = "https://api.service.example/ip".parse().unwrap();
        for (no, expected) in [
            ("", true),
            ("other.example", true),
            ("service.example", false),
            (".service.example", false),
            ("*", false),
        ] {
            assert_eq!(through(no).proxy_for(&uri).is_some(), expected, "{no:?}");
        }
    }
}
