//! TLS: certificates from files, which are read again while the service runs, and handshakes.

use std::fmt::Display;
use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{Acceptor, NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, Error, InvalidMessage, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::auth::read_small_file;
use crate::connections::ConnectionCounters;
use crate::logging::may_tell_of_cheap_request;

/// Most bytes of a file: a whole system's authorities are a quarter of it.
const LARGEST: u64 = 1 << 20;
/// How long before its end a certificate should have been renewed.
const RENEWED: Duration = Duration::from_hours(3 * 24);

/// In a request's extensions: it came over TLS.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Encrypted;

/// The files in which certificates are, as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// The service's own, and those between it and its authority.
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// The authorities of clients, which then must have a certificate.
    pub(crate) client_ca: Option<PathBuf>,
}

/// What handshakes need, as the files had it when they were read last.
#[derive(Debug)]
pub(crate) struct Tls {
    files: TlsFiles,
    loaded: RwLock<Loaded>,
    /// Whether it has been said that the certificate is not valid yet, ends soon, or has ended.
    told: Mutex<Option<Ending>>,
}

#[derive(Debug, Clone)]
struct Loaded {
    config: Arc<ServerConfig>,
    /// When the last certificate of the service's own chain begins to be valid.
    begin: Option<SystemTime>,
    /// When the first one ends.
    end: Option<SystemTime>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    NotYet,
    Soon,
    Over,
}

impl Tls {
    /// # Errors
    /// What is wrong with which file.
    pub(crate) fn load(files: TlsFiles) -> Result<Self, String> {
        let loaded = RwLock::new(files.read()?);
        let told = Mutex::new(None);
        Ok(Tls { files, loaded, told })
    }

    /// Reads the files again. After an error everything is as it was. What is connected stays so.
    ///
    /// # Errors
    /// As [`Tls::load`].
    pub(crate) fn reload(&self) -> Result<(), String> {
        let loaded = self.files.read()?;
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }

    fn loaded(&self) -> Loaded {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        loaded.clone()
    }

    /// When the service's certificate ends, or one between it and its authority.
    pub(crate) fn end(&self) -> Option<SystemTime> {
        self.loaded().end
    }

    /// Warns, once, where that is soon or over.
    pub(crate) fn tell_end(&self, now: SystemTime) {
        let Loaded { begin, end, .. } = self.loaded();
        let ending = match end {
            Some(end) if end <= now => Some(Ending::Over),
            _ if begin.is_some_and(|begin| begin > now) => Some(Ending::NotYet),
            Some(end) if end <= now + RENEWED => Some(Ending::Soon),
            _ => None,
        };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if *told == ending {
            return;
        }
        *told = ending;
        let path = self.files.certificate.display();
        match ending {
            Some(Ending::Over) => tracing::warn!("the certificate in {path} has ended: clients refuse it"),
            Some(Ending::NotYet) => {
                tracing::warn!(
                    "the certificate in {path} is not valid yet, by this machine's clock: clients refuse it"
                );
            }
            Some(Ending::Soon) => {
                let hours = end
                    .unwrap_or(now)
                    .duration_since(now)
                    .unwrap_or_default()
                    .as_secs()
                    / 3600;
                tracing::warn!("the certificate in {path} ends in {hours} hours: renew it");
            }
            None => {}
        }
    }

    /// Whether clients need a certificate.
    pub(crate) fn asks_for_certificates(&self) -> bool {
        self.files.client_ca.is_some()
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        let TlsFiles {
            certificate,
            key,
            client_ca,
        } = &self.files;
        [Some(certificate), Some(key), client_ca.as_ref()]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
    }

    /// The file that nobody else should be able to read.
    pub(crate) fn key(&self) -> &Path {
        &self.files.key
    }

    /// Makes a connection out of a stream. The peer may send at most so many bytes for that. For what
    /// takes CPU time, the signature, it waits for one of the `turns`.
    ///
    /// # Errors
    /// The peer speaks no TLS, has no certificate where it needs one, sends more, or takes longer
    /// than `patience`.
    pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        turns: &Semaphore,
        most: usize,
        patience: Duration,
    ) -> Result<TlsStream<Metered<S>>, HandshakeError> {
        let config = self.loaded().config;
        let stream = Metered {
            inner: stream,
            left: Some(most),
        };
        // It has some kB while it goes on: not a part of what every connection is.
        let handshake = async move {
            let begun = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
            let turn = turns.acquire().await;
            let mut handshake = std::pin::pin!(begun.into_stream(config));
            // The client's first message is there, so it signs at once.
            let first = poll_fn(|context| Poll::Ready(handshake.as_mut().poll(context))).await;
            drop(turn);
            match first {
                Poll::Ready(result) => result,
                Poll::Pending => handshake.await,
            }
        };
        let handshake = Box::pin(timeout(patience, handshake));
        let Ok(result) = handshake.await else {
            return Err(HandshakeError::late());
        };
        let mut stream = result.map_err(|error| HandshakeError::of(&error))?;
        stream.get_mut().0.left = None;
        Ok(stream)
    }
}

impl TlsFiles {
    fn read(&self) -> Result<Loaded, String> {
        let chain = certificates(&self.certificate)?;
        let begin = chain
            .iter()
            .filter_map(|certificate| validity(certificate).0)
            .max();
        let end = chain
            .iter()
            .filter_map(|certificate| validity(certificate).1)
            .min();
        let text = read("the key", &self.key)?;
        // It has another label, or a header of its own.
        if ["BEGIN ENCRYPTED", "4,ENCRYPTED"]
            .iter()
            .any(|mark| text.contains(mark))
        {
            let problem = "it is encrypted; `openssl pkey` decrypts it";
            return Err(cannot("the key", &self.key, &problem));
        }
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes());
        let key = key.map_err(|error| cannot("the key", &self.key, &error))?;
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let wrong = |error: &dyn Display| cannot("the certificates", path, error);
                let mut authorities = RootCertStore::empty();
                for certificate in certificates(path)? {
                    authorities.add(certificate).map_err(|error| wrong(&error))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| wrong(&error))?)
            }
        };
        // Also when the key is that of another certificate.
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| cannot("the key", &self.key, &error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Sessions that go on would outlive the client's certificate.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Loaded {
            config: Arc::new(config),
            begin,
            end,
        })
    }
}

/// When a certificate begins to be valid, and when it ends. Who verifies it for the begin and the
/// end of time is told.
fn validity(certificate: &CertificateDer<'_>) -> (Option<SystemTime>, Option<SystemTime>) {
    /// The last second that a certificate can name (RFC 5280 §4.1.2.5).
    const LAST: u64 = 253_402_300_799;
    let Ok(certificate) = ParsedCertificate::try_from(certificate) else {
        return (None, None);
    };
    let told = |at: u64| {
        let (nobody, at) = (
            RootCertStore::empty(),
            UnixTime::since_unix_epoch(Duration::from_secs(at)),
        );
        let Err(Error::InvalidCertificate(
            CertificateError::NotValidYetContext { not_before: time, .. }
            | CertificateError::ExpiredContext { not_after: time, .. },
        )) = verify_server_cert_signed_by_trust_anchor(&certificate, &nobody, &[], at, &[])
        else {
            return None;
        };
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs()))
    };
    (told(0), told(LAST))
}

/// The certificates in a file, one at least.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let what = "the certificates";
    let text = read(what, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match found {
        Ok(found) if found.is_empty() => Err(cannot(what, path, &"there is none in it")),
        found => found.map_err(|error| cannot(what, path, &error)),
    }
}

fn read(what: &str, path: &Path) -> Result<String, String> {
    let text = read_small_file(path, LARGEST).map_err(|problem| cannot(what, path, &problem))?;
    // Editors of some systems begin a file with it; the first certificate would not be seen.
    Ok(text.trim_start_matches('\u{feff}').to_owned())
}

fn cannot(what: &str, path: &Path, problem: &dyn Display) -> String {
    format!("cannot use {what} in {}: {problem}", path.display())
}

/// A stream with a bound on what is read at first: rustls would keep 64 kB of anybody's handshake.
pub(crate) struct Metered<S> {
    inner: S,
    /// Bytes; `None`: any number.
    left: Option<usize>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        if let Some(left) = &mut self.left {
            let read = buffer.filled().len() - before;
            let Some(rest) = left.checked_sub(read) else {
                return Poll::Ready(Err(ErrorKind::FileTooLarge.into()));
            };
            *left = rest;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// Why a handshake failed.
#[derive(Debug)]
pub(crate) struct HandshakeError {
    /// The name in metrics.
    reason: &'static str,
    cause: String,
}

impl HandshakeError {
    fn of(error: &io::Error) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        let (reason, cause) = match tls {
            // The first byte is that of no TLS message.
            Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => (
                "not_tls",
                "the client speaks no TLS; ask with https://".to_owned(),
            ),
            Some(Error::NoCertificatesPresented) => {
                ("certificate", "the client has no certificate".to_owned())
            }
            Some(Error::InvalidCertificate(problem)) => {
                ("certificate", format!("the client's certificate: {problem}"))
            }
            // It does not trust ours, say.
            Some(Error::AlertReceived(alert)) => ("refused", format!("the client ended it: {alert:?}")),
            Some(error) => ("other", error.to_string()),
            None if error.kind() == ErrorKind::TimedOut => return HandshakeError::late(),
            None if error.kind() == ErrorKind::FileTooLarge => {
                ("too_large", "it has too many bytes".to_owned())
            }
            None => ("closed", error.to_string()),
        };
        HandshakeError { reason, cause }
    }

    fn late() -> Self {
        HandshakeError {
            reason: "timeout",
            cause: "it took too long".to_owned(),
        }
    }

    /// Counts it, and tells of it unless there are too many like it. Who only looks whether the
    /// port is open closes the connection; that is nothing to tell.
    pub(crate) fn report(&self, client: IpAddr, counters: &ConnectionCounters) {
        let HandshakeError { reason, cause } = self;
        counters
            .failed_handshakes
            .get_or_create(&[("reason", reason)])
            .inc();
        let client = client.to_canonical();
        if *reason == "closed" {
            tracing::debug!(%client, reason, error = cause, "TLS handshake failed");
        } else if may_tell_of_cheap_request() {
            tracing::info!(%client, reason, error = cause, "TLS handshake failed");
        }
    }
}

// Elsewhere the messages are others.
#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::unwrap_used, reason = "all of this is test code")]
mod tests {
    use super::*;
    use std::fs;

    fn certificate(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/certificates")
            .join(name)
    }

    fn files(certificate_name: &str, key: &str, client_ca: Option<&str>) -> TlsFiles {
        TlsFiles {
            certificate: certificate(certificate_name),
            key: certificate(key),
            client_ca: client_ca.map(certificate),
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_file() {
        assert!(Tls::load(files("server.pem", "server.key", Some("ca.pem"))).is_ok());
        let folder = std::env::temp_dir().join(format!("traceroute-tls-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let empty = file("empty", "");
        let large = file("large", &" ".repeat((1 << 20) + 1));
        let pem = fs::read_to_string(certificate("server.pem")).unwrap();
        let cut = file("cut", &pem[..pem.len() / 2]);
        let nonsense = file(
            "nonsense",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        );
        let key = fs::read_to_string(certificate("server.key")).unwrap();
        let encrypted = file("encrypted", &key.replace("PRIVATE", "ENCRYPTED PRIVATE"));
        let marked = file("marked", &format!("\u{feff}{pem}"));
        assert!(Tls::load(files(&marked, "server.key", None)).is_ok());
        for (files, problem) in [
            (files("server.pem", "renewed.key", None), "renewed.key: "),
            (
                files("server.pem", &encrypted, None),
                "encrypted: it is encrypted; ",
            ),
            (files("server.pem", "server.pem", None), "cannot use the key in "),
            (
                files("server.key", "server.key", None),
                "server.key: there is none in it",
            ),
            (files("none.pem", "server.key", None), "none.pem: No such file"),
            (files(&empty, "server.key", None), "empty: there is none in it"),
            (files(&cut, "server.key", None), "cannot use the certificates in "),
            (files(&nonsense, "server.key", None), "cannot use "),
            (
                files(&large, "server.key", None),
                "large: it has more than 1048576 bytes",
            ),
            (files("/dev/zero", "server.key", None), "it is no regular file"),
            (
                files("server.pem", "server.key", Some(&empty)),
                "empty: there is none in it",
            ),
            (files("server.pem", "server.key", Some(&nonsense)), "nonsense: "),
        ] {
            let error = Tls::load(files).unwrap_err();
            assert!(error.contains(problem) && !error.contains('\n'), "{error}");
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_certificate_has_a_begin_and_an_end() {
        let ends = |name: &str| Tls::load(files(name, "client.key", None)).unwrap().end().unwrap();
        let begin_of_2021 = SystemTime::UNIX_EPOCH + Duration::from_hours(447_072);
        assert_eq!(ends("expired.pem"), begin_of_2021);
        assert!(ends("client.pem") > SystemTime::now());
        let tls = Tls::load(files("expired.pem", "client.key", None)).unwrap();
        let told = |before: Duration| {
            tls.tell_end(begin_of_2021 - before);
            *tls.told.lock().unwrap()
        };
        assert_eq!(told(Duration::from_hours(24 * 365 * 45)), Some(Ending::NotYet));
        assert_eq!(told(RENEWED * 2), None);
        assert_eq!(told(RENEWED), Some(Ending::Soon));
        assert_eq!(told(Duration::ZERO), Some(Ending::Over));
        tls.reload().unwrap();
        assert_eq!(*tls.told.lock().unwrap(), None, "it is told again");
    }

    #[tokio::test(start_paused = true)]
    async fn signing_waits_for_the_clients_turn() {
        let tls = Tls::load(files("server.pem", "server.key", None)).unwrap();
        let mut roots = RootCertStore::empty();
        for authority in certificates(&certificate("ca.pem")).unwrap() {
            roots.add(authority).unwrap();
        }
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let (near, far) = tokio::io::duplex(1 << 14);
        let turns = Semaphore::new(0);
        let both = async {
            tokio::join!(
                connector.connect("localhost".try_into().unwrap(), near),
                tls.accept(far, &turns, 1 << 14, Duration::from_mins(1)),
            )
        };
        let mut both = std::pin::pin!(both);
        assert!(timeout(Duration::from_secs(30), &mut both).await.is_err());
        turns.add_permits(1);
        let (asked, answered) = both.await;
        assert!(asked.is_ok() && answered.is_ok());
        assert_eq!(turns.available_permits(), 1);
    }
}
