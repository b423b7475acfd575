//! The way to a web service: direct, or through the proxy that the environment names.

use std::error::Error;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::vec;

use hyper::Uri;
use hyper::http::uri::{PathAndQuery, Scheme};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::connect::proxy::{SocksV4, SocksV5, Tunnel};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::names::{LookupFailure, System, Wanted};

/// Where SOCKS proxies listen unless their URL says otherwise (RFC 1928 §3).
const SOCKS_PORT: u16 = 1080;

type BoxError = Box<dyn Error + Send + Sync>;
type BoxFuture<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;
type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;

/// Opens connections over IPv4, or to a proxy over any family. A proxy is asked for a tunnel by
/// name, so it looks up the name, and the service sees the proxy's address.
#[derive(Clone)]
pub(crate) struct ProxyConnector {
    proxies: Arc<Matcher>,
    direct: HttpConnector<Addresses>,
    to_proxy: HttpsConnector<HttpConnector<Addresses>>,
}

impl ProxyConnector {
    /// # Errors
    /// TLS cannot be set up.
    pub(crate) fn new(proxies: Arc<Matcher>) -> Result<Self, rustls::Error> {
        let connector = |wanted| {
            let mut connector = HttpConnector::new_with_resolver(Addresses(wanted));
            connector.enforce_http(false);
            connector
        };
        let mut direct = connector(Wanted::V4);
        // No IPv6 address fits to it, not even one in a URL.
        direct.set_local_address(Some(Ipv4Addr::UNSPECIFIED.into()));
        Ok(ProxyConnector {
            proxies,
            direct,
            to_proxy: with_tls(connector(Wanted::V4OrElseV6))?,
        })
    }

    /// As Go's `http.ProxyFromEnvironment`: this machine needs no proxy.
    pub(crate) fn proxy_for(&self, to: &Uri) -> Option<Intercept> {
        let host = to.host()?.trim_start_matches('[').trim_end_matches(']');
        let is_loopback = host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
        if is_loopback || host.eq_ignore_ascii_case("localhost") {
            return None;
        }
        self.proxies.intercept(to)
    }

    async fn connect(mut self, to: Uri) -> Result<Stream, BoxError> {
        let Some(proxy) = self.proxy_for(&to) else {
            return Ok(MaybeHttpsStream::Http(self.direct.call(to).await?));
        };
        tracing::debug!(%to, proxy = %proxy.uri(), "connecting through a proxy");
        let to = with_port(to)?;
        match proxy.uri().scheme_str() {
            Some("socks4" | "socks4a") => Ok(SocksV4::new(socks_server(&proxy)?, self.to_proxy)
                .call(to)
                .await?),
            Some("socks5" | "socks5h") => {
                let mut socks = SocksV5::new(socks_server(&proxy)?, self.to_proxy);
                if let Some((user, password)) = proxy.raw_auth() {
                    socks = socks.with_auth(user.to_owned(), password.to_owned());
                }
                Ok(socks.call(to).await?)
            }
            _ => {
                let mut tunnel = Tunnel::new(proxy.uri().clone(), self.to_proxy);
                if let Some(credentials) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(credentials.clone());
                }
                Ok(tunnel.call(to).await?)
            }
        }
    }
}

/// TLS for `https` URLs over what `inner` connects.
pub(crate) fn with_tls<C>(inner: C) -> Result<HttpsConnector<C>, rustls::Error> {
    let provider = rustls::crypto::ring::default_provider();
    let builder = HttpsConnectorBuilder::new().with_provider_and_webpki_roots(provider)?;
    Ok(builder.https_or_http().enable_http1().wrap_connector(inner))
}

/// Tunnels go to port 443 unless told otherwise.
fn with_port(to: Uri) -> Result<Uri, hyper::http::Error> {
    if to.port().is_some() || to.scheme() != Some(&Scheme::HTTP) {
        return Ok(to);
    }
    let authority = format!("{}:80", to.host().unwrap_or_default());
    let path = to
        .path_and_query()
        .cloned()
        .unwrap_or(PathAndQuery::from_static("/"));
    Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(authority)
        .path_and_query(path)
        .build()
}

/// A SOCKS proxy is spoken to without TLS, which connectors know by the scheme.
fn socks_server(proxy: &Intercept) -> Result<Uri, hyper::http::Error> {
    let host = proxy.uri().host().unwrap_or_default();
    let port = proxy.uri().port_u16().unwrap_or(SOCKS_PORT);
    Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(format!("{host}:{port}"))
        .path_and_query("/")
        .build()
}

impl Service<Uri> for ProxyConnector {
    type Response = Stream;
    type Error = BoxError;
    type Future = BoxFuture<Stream, BoxError>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        Box::pin(self.clone().connect(to))
    }
}

/// This system's names, for connections.
#[derive(Clone, Copy)]
struct Addresses(Wanted);

impl Service<Name> for Addresses {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = LookupFailure;
    type Future = BoxFuture<vec::IntoIter<SocketAddr>, LookupFailure>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LookupFailure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let Addresses(wanted) = *self;
        Box::pin(async move {
            let found = System::shared().addresses(name.as_str(), wanted, 0).await?;
            let found: Vec<SocketAddr> = found.into_iter().map(|address| (address, 0).into()).collect();
            Ok(found.into_iter())
        })
    }
}
