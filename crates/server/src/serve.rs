//! The program's life: sockets, privileges, connections, and the end.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::num::NonZero;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};
use traceroute_flags::{Hangups, is_out_of_files, watch_signals, with_open_files_advice};
use traceroute_net::{Access, Privileges};

use crate::args::Config;
use crate::auth::{Tokens, is_readable_by_all};
use crate::backend;
use crate::connections::{Client, Connection, ConnectionCounters, Connections};
use crate::logging;
use crate::policy::Choices;
use crate::reload::Reload;
use crate::router::{Service, Settings, router};
use crate::sandbox;
use crate::shared::{Socket, TELLS_END, Watch, share};
use crate::stall::StallGuard;
use crate::tls::{Encrypted, Tls};

/// How long answers may take to leave once everything was cancelled.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Pause after an error of `accept` that may last, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection that makes room may take to close.
const CLOSE_PAUSE: Duration = Duration::from_millis(1);
/// When to ask a silent client whether it is still there, how often then, and how many times.
const KEEP_ALIVE: (Duration, Duration, u32) = (Duration::from_secs(15), Duration::from_secs(5), 3);
/// How often memory is given back.
const RETURN_MEMORY: Duration = Duration::from_secs(20);
/// After so many connections those that are there may say what they want.
const ACCEPT_AT_ONCE: usize = 16;
/// A client that reads the rest of its answer has so long for each byte: it reads 1 kB a second.
const SLOWEST_READER: Duration = Duration::from_millis(1);
/// The least that hyper takes.
const SMALLEST_BUFFER: usize = 8192;

/// Why the program could not begin.
#[derive(Debug)]
pub(crate) struct StartError(String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn cannot_watch(error: &io::Error) -> StartError {
    StartError(format!("cannot watch for signals: {error}"))
}

/// Serves until told to stop.
///
/// # Errors
/// The service could not begin.
pub(crate) fn run(mut config: Config) -> Result<(), StartError> {
    traceroute_net::ignore_file_size_signal();
    // Before files are read: who changes one of them then may say so at once.
    let hangups = Hangups::catch().map_err(|error| cannot_watch(&error))?;
    let tokens = Tokens::load(config.token_file.clone(), config.tokens_file.clone()).map_err(StartError)?;
    let tls = config.tls.clone().map(Tls::load).transpose();
    let tls = tls.map_err(StartError)?.map(Arc::new);
    let sockets = Sockets::open(&config)?;
    // While there is one thread only: privileges belong to threads.
    let kept = drop_privileges(config.policy.egress);
    // What it keeps from whom depends on who the process has become.
    let _ = traceroute_net::forbid_dumps();
    let sandbox = (!config.no_sandbox).then(|| sandbox::enter(config.socket_folder()));
    let log = logging::start(config.log_level, config.log_format)
        .map_err(|error| StartError(format!("cannot start a thread for the log: {error}; {RAISE}")))?;
    match sandbox {
        None => tracing::warn!("files and system calls are not restricted: --no-sandbox"),
        Some(sandbox) => sandbox.tell(),
    }
    if let Some(ports) = traceroute_net::ephemeral_ports()
        && !config.fit_ports(ports)
    {
        tracing::warn!(
            "only {ports} ports may be used: at most {} traces at once; widen net.ipv4.ip_local_port_range",
            config.capacity.traces
        );
    }
    if let Some(files) = traceroute_net::most_open_files()
        && !config.fit(files)
    {
        tracing::warn!(
            "only {files} files may be open: at most {} traces and {} connections at once; raise `ulimit -Hn` or \
             LimitNOFILE=",
            config.capacity.traces,
            config.max_connections
        );
    }
    let result = start(config, tokens, tls, (sockets, hangups), &kept);
    log.finish();
    result
}

/// What to do about a thread that cannot be started.
const RAISE: &str = "raise `ulimit -u` or the pids limit of the container";

/// Serves, with privileges dropped.
fn start(
    config: Config,
    tokens: Tokens,
    tls: Option<Arc<Tls>>,
    (sockets, hangups): (Sockets, Hangups),
    kept: &io::Result<Privileges>,
) -> Result<(), StartError> {
    tell_privileges(kept);
    let files = tokens.files().map(|path| (path, "tokens"));
    let files = files.chain(tls.iter().map(|tls| (tls.key(), "key")));
    for (path, what) in files.filter(|(path, _)| is_readable_by_all(path)) {
        let path = path.display();
        tracing::warn!("everybody on this machine may read the {what} in {path}; chmod o-r it");
    }
    let asks_for_certificates = tls.as_ref().is_some_and(|tls| tls.asks_for_certificates());
    if !tokens.is_any() && !asks_for_certificates && !config.is_local() {
        tracing::warn!(
            "everybody who reaches the port may trace; use --addr 127.0.0.1:3765, a Unix socket, a token \
             (--token-file, --tokens-file) or client certificates (--tls-client-ca)"
        );
    }
    if let Err(problem) = config.lets_in("") {
        tracing::warn!("requests with the default parameters are refused: {problem}");
    }
    if let Some(bytes) = traceroute_net::most_address_space() {
        tracing::warn!(
            "only {} MiB of addresses may be used (`ulimit -v`): the service ends when that is too little; bound its \
             memory with a control group and --max-memory",
            bytes >> 20
        );
    }
    config.policy.prepare();
    if config.windows_driver {
        datadog_traceroute::start_windows_driver().map_err(|error| StartError(error.to_string()))?;
    }
    check_threads().map_err(|error| {
        StartError(format!(
            "cannot start a thread for each processor: {error}; {RAISE}"
        ))
    })?;
    let runtime = runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| StartError(format!("cannot start: {}", with_open_files_advice(error))))?;
    let result = runtime.block_on(serve(config, tokens, tls, sockets, hangups));
    // A name still being resolved by the operating system cannot be stopped, only left behind.
    runtime.shutdown_background();
    result
}

/// Keeps nothing but the right to send probes, and to mark them if clients may choose marks.
fn drop_privileges(choices: Choices) -> io::Result<Privileges> {
    if choices.fwmark {
        traceroute_net::keep_marking_privileges()
    } else {
        traceroute_net::keep_probing_privileges()
    }
}

/// Says which privileges were kept, and what they are enough for.
fn tell_privileges(kept: &io::Result<Privileges>) {
    match kept {
        Ok(privileges) => {
            let root = privileges.is_root;
            tracing::info!(kept = %privileges, dropped = privileges.dropped, root, "privileges");
        }
        // This system has none to drop.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
        Err(error) => tracing::warn!(%error, "cannot drop privileges"),
    }
    match traceroute_net::access() {
        Access::Raw => {}
        access => tracing::warn!("{access}"),
    }
}

/// The runtime's threads can be started: it panics where they cannot.
fn check_threads() -> io::Result<()> {
    let count = thread::available_parallelism().map_or(1, NonZero::get);
    let gate = Mutex::new(());
    thread::scope(|scope| {
        // All are there at once, until this is given back.
        let _closed = gate.lock();
        (0..count).try_for_each(|_| {
            let started = thread::Builder::new().spawn_scoped(scope, || drop(gate.lock()));
            started.map(drop)
        })
    })
}

/// Open listening sockets.
struct Sockets {
    tcp: Vec<TcpListener>,
    #[cfg(unix)]
    unix: Option<crate::listen::UnixSocket>,
}

impl Sockets {
    fn open(config: &Config) -> Result<Self, StartError> {
        let mut tcp = Vec::new();
        if let Some(address) = &config.addr {
            let failed = |error| StartError(format!("cannot listen on {address}: {error}"));
            tcp = address.open().map_err(failed)?;
        }
        Ok(Sockets {
            tcp,
            #[cfg(unix)]
            unix: Sockets::open_unix(config)?,
        })
    }

    #[cfg(unix)]
    fn open_unix(config: &Config) -> Result<Option<crate::listen::UnixSocket>, StartError> {
        let Some(path) = &config.unix_socket else {
            return Ok(None);
        };
        let failed = |error| StartError(format!("cannot listen on {}: {error}", path.display()));
        let socket = crate::listen::UnixSocket::open(path, config.unix_socket_mode).map_err(failed)?;
        Ok(Some(socket))
    }

    /// Says where the service can be asked.
    fn announce(&self, config: &Config) {
        for listener in &self.tcp {
            let address = listener.local_addr().map(|address| address.to_string());
            tracing::info!(address = address.unwrap_or_default(), "listening");
        }
        if let Some(path) = &config.unix_socket {
            tracing::info!(path = %path.display(), "listening");
        }
    }
}

async fn serve(
    config: Config,
    tokens: Tokens,
    tls: Option<Arc<Tls>>,
    sockets: Sockets,
    hangups: Hangups,
) -> Result<(), StartError> {
    // Before anybody is told that the service is there: they might send a signal, which would end
    // it the hard way.
    let (asked, mut stop) = mpsc::channel(1);
    watch_signals(move |signal| {
        // Who asks again before that was seen asks for the same.
        let _ = asked.try_send(signal);
    })
    .map_err(|error| cannot_watch(&error))?;
    let tokens = Arc::new(tokens);
    let reload = Arc::new(Reload::new(Arc::clone(&tokens), tls.clone()));
    reload.tell_end();
    let on_hangup = Arc::clone(&reload);
    hangups
        .watch(move || on_hangup.all())
        .map_err(|error| cannot_watch(&error))?;
    let watching = reload.watch();
    watching.map_err(|error| StartError(format!("cannot watch files: {error}; {RAISE}")))?;
    sockets.announce(&config);
    let (cancel, cancelled) = watch::channel(false);
    let settings = Settings {
        ceilings: config.ceilings.clone(),
        capacity: config.capacity,
        body: config.body_limit(),
        policy: config.policy.clone(),
        tokens,
        allowed_hosts: config.allowed_hosts.clone(),
        max_requests_per_minute: config.max_requests_per_minute,
        max_ports: config.max_ports,
        tls: tls.clone(),
    };
    let tracer = Arc::new(backend::tracer(config.capacity.traces));
    let service = Service::new(tracer, settings, cancelled);
    let connections = Arc::new(GracefulShutdown::new());
    let counters = service.metrics.connections.clone();
    let (stopping, stopped) = watch::channel(false);
    let shutdown = Arc::clone(&connections);
    let server = Server::new(&config, router(service), counters, tls, shutdown, stopped);
    let accepting = server
        .accept_all(&sockets)
        .map_err(|error| StartError(format!("cannot listen: {error}")))?;
    drop(server);

    stop.recv().await;
    tracing::info!("stopping: no new connections; what runs may finish");
    let _ = stopping.send(true);
    for task in accepting {
        task.abort();
        let _ = task.await;
    }
    drop(sockets);
    // Each connection ends after its present request.
    let mut ended = std::pin::pin!(async {
        // Nobody else has it: those who accept have ended.
        if let Some(connections) = Arc::into_inner(connections) {
            connections.shutdown().await;
        }
    });
    let all_ended = tokio::select! {
        result = timeout(config.grace_period, &mut ended) => result.is_ok(),
        _ = stop.recv() => {
            tracing::warn!("stopping at once");
            false
        }
    };
    let _ = cancel.send(true);
    if !all_ended {
        let _ = timeout(LAST_WORDS, ended).await;
    }
    tracing::info!("stopped");
    Ok(())
}

/// What connections share.
#[derive(Clone)]
struct Server {
    router: Router,
    http: http1::Builder,
    tcp: Arc<Connections>,
    /// Apart, so that nobody on the network takes its room.
    #[cfg(unix)]
    unix: Arc<Connections>,
    counters: ConnectionCounters,
    /// For TCP connections.
    tls: Option<Arc<Tls>>,
    /// Bytes that one may have, and how long it may take: as a header.
    handshake: (usize, Duration),
    write_timeout: Duration,
    shutdown: Arc<GracefulShutdown>,
    /// Becomes true when the service ends: handshakes are not waited for.
    stopping: watch::Receiver<bool>,
}

impl Server {
    fn new(
        config: &Config,
        router: Router,
        counters: ConnectionCounters,
        tls: Option<Arc<Tls>>,
        shutdown: Arc<GracefulShutdown>,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        let most = config.max_connections as usize;
        let most_per_client = config.max_connections_per_client as usize;
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(config.header_timeout)
            // Elsewhere the end of what a client sends is all that is ever seen of its going.
            .half_close(TELLS_END)
            .max_header_size(config.max_header_size)
            .max_buf_size(config.max_header_size.max(SMALLEST_BUFFER));
        Server {
            router,
            http,
            #[cfg(unix)]
            unix: Connections::new(most, most, counters.clone()),
            tcp: Connections::new(most, most_per_client, counters.clone()),
            counters,
            tls,
            handshake: (config.max_header_size, config.header_timeout),
            write_timeout: config.write_timeout,
            shutdown,
            stopping,
        }
    }

    /// Accepts on every socket, until the returned tasks are aborted.
    fn accept_all(&self, sockets: &Sockets) -> io::Result<Vec<tokio::task::JoinHandle<()>>> {
        let mut tasks = Vec::new();
        for listener in &sockets.tcp {
            let listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
            tasks.push(tokio::spawn(self.clone().accept_tcp(listener)));
        }
        #[cfg(unix)]
        if let Some(socket) = &sockets.unix {
            let listener = tokio::net::UnixListener::from_std(socket.listener.try_clone()?)?;
            tasks.push(tokio::spawn(self.clone().accept_unix(listener)));
        }
        tasks.push(tokio::spawn(self.clone().return_memory()));
        Ok(tasks)
    }

    async fn accept_tcp(self, listener: tokio::net::TcpListener) {
        let mut accepted = 0_usize;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    accepted = accepted.wrapping_add(1);
                    if accepted.is_multiple_of(ACCEPT_AT_ONCE) {
                        tokio::task::yield_now().await;
                    }
                    // What cannot be set costs little.
                    let _ = tune(&stream, self.write_timeout);
                    let place = self.tcp.open(Client::of(peer.ip()));
                    match &self.tls {
                        Some(tls) => self.tls_connection(Arc::clone(tls), stream, peer.ip(), place),
                        None => self.connection(stream, place),
                    }
                }
                Err(error) => pause(&error, &self.tcp).await,
            }
        }
    }

    #[cfg(unix)]
    async fn accept_unix(self, listener: tokio::net::UnixListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    // What cannot be set costs little.
                    let _ = SockRef::from(&stream).set_send_buffer_size(crate::listen::SEND_BUFFER);
                    self.connection(stream, self.unix.open(Client::Local));
                }
                Err(error) => pause(&error, &self.unix).await,
            }
        }
    }

    /// Gives memory back after connections: after thousands it would stay otherwise.
    async fn return_memory(self) {
        let mut before = 0;
        loop {
            sleep(RETURN_MEMORY).await;
            let now = self.tcp.age();
            #[cfg(unix)]
            let now = now + self.unix.age();
            if now != before {
                before = now;
                // It may take milliseconds. Where no thread can be started, another time.
                let returning = thread::Builder::new().name("memory".to_owned());
                let _ = returning.spawn(traceroute_net::return_free_memory);
            }
        }
    }

    /// Carries on a connection in a task.
    fn connection<S: Socket>(&self, socket: S, place: Arc<Connection>) {
        let (socket, watch) = share(socket);
        let stream = StallGuard::new(socket, self.write_timeout);
        let connection = self
            .http
            .serve_connection(TokioIo::new(stream), self.service(&place, false));
        let connection = self.shutdown.watch(connection);
        tokio::spawn(carry_on(connection, watch, place, self.write_timeout));
    }

    /// Carries on a connection in a task, after its TLS handshake.
    fn tls_connection(&self, tls: Arc<Tls>, stream: TcpStream, client: IpAddr, place: Arc<Connection>) {
        let (socket, watch) = share(stream);
        let stream = StallGuard::new(socket, self.write_timeout);
        let service = self.service(&place, true);
        let http = self.http.clone();
        let (most, patience) = self.handshake;
        let (counters, mut stopping) = (self.counters.clone(), self.stopping.clone());
        let (shutdown, write_timeout) = (self.shutdown.watcher(), self.write_timeout);
        tokio::spawn(async move {
            let stream = tokio::select! {
                biased;
                result = tls.accept(stream, place.turns(), most, patience) => result,
                () = place.must_close() => return watch.reset(),
                _ = stopping.wait_for(|stopping| *stopping) => return,
            };
            match stream {
                Ok(stream) => {
                    let connection = http.serve_connection(TokioIo::new(stream), service);
                    carry_on(shutdown.watch(connection), watch, place, write_timeout).await;
                }
                Err(error) => {
                    error.report(client, &counters);
                    part(watch, place, write_timeout).await;
                }
            }
        });
    }

    /// Answers the requests of a connection.
    fn service(
        &self,
        place: &Arc<Connection>,
        encrypted: bool,
    ) -> impl HttpService<hyper::Request<Incoming>, Response = Response, Error = Infallible, Future: Send>
    + Send
    + use<> {
        let router = TowerToHyperService::new(self.router.clone());
        let place = Arc::clone(place);
        service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(Arc::clone(&place));
            if encrypted {
                request.extensions_mut().insert(Encrypted);
            }
            let answer = router.call(request);
            // Whoever sends thousands of requests on one connection is not served them in a row. Not
            // an `async` block, which would keep room for the answer twice.
            yield_now().then(|()| answer)
        })
    }
}

/// Waits for a connection to end, or ends it.
async fn carry_on<S: Socket>(
    connection: impl Future<Output = hyper::Result<()>>,
    watch: Watch<S>,
    place: Arc<Connection>,
    patience: Duration,
) {
    let result = tokio::select! {
        biased;
        result = connection => result,
        () = watch.gone() => return watch.reset(),
        () = place.must_close() => return watch.reset(),
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended with an error");
    }
    part(watch, place, patience).await;
}

/// Ends a connection, which has its place until the client has all of its answer: the kernel keeps
/// the rest, of closed sockets too. `patience`: so long at least, and more where the client may
/// still be reading slowly.
async fn part<S: Socket>(watch: Watch<S>, place: Arc<Connection>, patience: Duration) {
    tokio::select! {
        biased;
        () = watch.delivered() => {}
        () = place.must_close() => watch.reset(),
        () = sleep(patience + SLOWEST_READER * watch.owed()) => watch.reset(),
    }
}

/// Sends answers at once, and finds out when the client vanishes without a word: while it owes
/// acknowledgements, after the time that it may take to read; otherwise by asking.
fn tune(stream: &tokio::net::TcpStream, write_timeout: Duration) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    let (idle, interval, retries) = KEEP_ALIVE;
    let keep_alive = TcpKeepalive::new().with_time(idle).with_interval(interval);
    socket.set_tcp_keepalive(&keep_alive.with_retries(retries))?;
    // TCP_USER_TIMEOUT of tcp(7).
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(write_timeout))?;
    let _ = write_timeout;
    Ok(())
}

/// Errors of single connections are theirs; others may last, and must not make the loop spin.
///
/// Where there is no file left for a connection, an idle one makes room.
async fn pause(error: &io::Error, connections: &Connections) {
    let theirs = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    );
    if theirs {
        return;
    }
    if is_out_of_files(error) && connections.make_room() {
        sleep(CLOSE_PAUSE).await;
    } else {
        tracing::warn!(%error, "cannot accept connections");
        sleep(ACCEPT_PAUSE).await;
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_that_vanishes_is_noticed_in_time() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = tokio::net::TcpStream::connect(address);
        let (accepted, _client) = tokio::join!(listener.accept(), client);
        let (stream, _) = accepted.unwrap();
        tune(&stream, Duration::from_secs(30)).unwrap();
        let socket = SockRef::from(&stream);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(30)));
        let asked = socket.tcp_keepalive_interval().unwrap() * socket.tcp_keepalive_retries().unwrap();
        assert!(socket.keepalive().unwrap());
        assert_eq!(
            socket.tcp_keepalive_time().unwrap() + asked,
            Duration::from_secs(30)
        );
    }
}
