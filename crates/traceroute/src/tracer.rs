//! One request from start to report: runs and end-to-end probes side by side, then names.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use traceroute_engine::{Egress, EndToEndResult, Method, TraceError, TraceOutcome, TraceResult, TraceSpec};

use crate::driver::{Driver, OnNews, Statistics};
use crate::egress::check_target;
use crate::error::Error;
use crate::events::{self, Event, Events, Teller};
#[cfg(feature = "public-ip")]
use crate::public_ip::PublicIp;
use crate::report::{EndToEnd, FailedRun, Names, Report, Run, names_limit};
use crate::request::{Protocol, Request, TcpMethod};
#[cfg(feature = "reverse-dns")]
use crate::reverse_dns::ReverseDns;
use crate::target::resolve_target;
use crate::warning::Warning;

/// End-to-end probes are at most this far apart.
const MAX_E2E_SPACING: Duration = Duration::from_secs(1);

/// How a [`Tracer`] is set up.
pub struct TracerOptions {
    /// How many traces (runs and end-to-end probes) may be in flight at once, for all requests
    /// together.
    pub max_traces: usize,
    /// How the network is opened. What a request asks for itself comes in addition.
    pub network: traceroute_net::NetworkOptions,
    /// Who looks up names; its cache is shared by all requests.
    #[cfg(feature = "reverse-dns")]
    pub reverse_dns: ReverseDns,
    /// Who finds out the public address; its cache is shared by all requests.
    #[cfg(feature = "public-ip")]
    pub public_ip: PublicIp,
}

impl Default for TracerOptions {
    fn default() -> Self {
        TracerOptions {
            max_traces: 65_536,
            network: traceroute_net::NetworkOptions::default(),
            #[cfg(feature = "reverse-dns")]
            reverse_dns: ReverseDns::new(),
            #[cfg(feature = "public-ip")]
            public_ip: PublicIp::new(),
        }
    }
}

/// Carries out requests, any number at once, over one set of sockets. Cloning is cheap and shares
/// everything.
///
/// Needs a Tokio runtime with time and I/O enabled. Sockets are opened by the first request.
#[derive(Clone)]
pub struct Tracer {
    shared: Arc<Shared>,
}

struct Shared {
    options: TracerOptions,
    /// One for each way of probing that requests have asked for: just one, but for Windows.
    drivers: Mutex<HashMap<traceroute_net::NetworkOptions, Driver>>,
}

impl Default for Tracer {
    fn default() -> Self {
        Tracer::new()
    }
}

impl Tracer {
    /// A tracer with the usual options. Opens nothing yet.
    pub fn new() -> Self {
        Tracer::with_options(TracerOptions::default())
    }

    /// A tracer with other options. Opens nothing yet.
    pub fn with_options(options: TracerOptions) -> Self {
        Tracer {
            shared: Arc::new(Shared {
                options,
                drivers: Mutex::default(),
            }),
        }
    }

    /// Carries out `request`. Dropping the future stops its probes at once and frees their ports.
    ///
    /// # Errors
    /// The target's name cannot be resolved, or every run failed; local problems such as a missing
    /// permission or route say what to do about it.
    pub async fn trace(&self, request: &Request) -> Result<Report, Error> {
        self.trace_since(Instant::now(), request).await
    }

    /// [`Tracer::trace`] of a request on which some time has been spent: it ends as if it had begun
    /// at `start`.
    ///
    /// # Errors
    /// As [`Tracer::trace`].
    pub async fn trace_since(&self, start: Instant, request: &Request) -> Result<Report, Error> {
        RequestInProgress::new(self, request, None, start).run().await
    }

    /// [`Tracer::trace`] that also tells what happens meanwhile.
    pub fn events<'r>(&'r self, request: &'r Request) -> Events<'r> {
        self.events_since(Instant::now(), request)
    }

    /// [`Tracer::events`] of a request on which some time has been spent: it ends as if it had
    /// begun at `start`.
    pub fn events_since<'r>(&'r self, start: Instant, request: &'r Request) -> Events<'r> {
        let (teller, queue) = events::queue();
        let request = RequestInProgress::new(self, request, Some(teller), start);
        queue.of(Box::pin(async move { request.run().await }))
    }

    /// The names of an address, as requests that ask for names get them
    /// ([`ReverseDns::names`]).
    #[cfg(feature = "reverse-dns")]
    pub async fn names(&self, address: IpAddr) -> Arc<[String]> {
        self.shared.options.reverse_dns.names(address).await
    }

    /// The names of addresses; at the deadline, if there is one, those that are known by then.
    #[cfg(feature = "reverse-dns")]
    pub(crate) async fn names_of(
        &self,
        addresses: HashSet<IpAddr>,
        deadline: Option<Instant>,
        client: u64,
        limit: usize,
    ) -> Names {
        let names = &self.shared.options.reverse_dns;
        names.names_of(addresses, deadline, client, limit).await
    }

    #[cfg(not(feature = "reverse-dns"))]
    #[expect(clippy::unused_async, reason = "as with the feature")]
    pub(crate) async fn names_of(&self, _: HashSet<IpAddr>, _: Option<Instant>, _: u64, _: usize) -> Names {
        Names::default()
    }

    /// Counters of the probing engine; `None` before the first request.
    pub async fn statistics(&self) -> Option<Statistics> {
        let drivers: Vec<Driver> = self.drivers().values().cloned().collect();
        let mut sum: Option<Statistics> = None;
        for driver in drivers {
            if let Some(statistics) = driver.statistics().await {
                *sum.get_or_insert_default() += statistics;
            }
        }
        sum
    }

    fn drivers(&self) -> MutexGuard<'_, HashMap<traceroute_net::NetworkOptions, Driver>> {
        self.shared.drivers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn driver(&self, request: &Request) -> Result<Driver, Error> {
        let network = traceroute_net::NetworkOptions {
            windows_driver: request.windows_driver,
            syn_socket: (request.protocol, request.tcp_method) == (Protocol::Tcp, TcpMethod::SynSocket),
            ..self.shared.options.network
        }
        .effective();
        let mut drivers = self.drivers();
        if let Some(driver) = drivers.get(&network) {
            return Ok(driver.clone());
        }
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| Error::Start(error.into()))?;
        let open = Box::new(move || traceroute_net::open(network));
        let driver = Driver::spawn(open, self.shared.options.max_traces, seed).map_err(Error::Start)?;
        drivers.insert(network, driver.clone());
        Ok(driver)
    }
}

/// One request under way.
struct RequestInProgress<'r> {
    tracer: &'r Tracer,
    request: &'r Request,
    events: Option<Teller>,
    /// From when on its time counts.
    start: Instant,
}

/// What all probing of a request found.
struct Findings {
    runs: Vec<Run>,
    failed_runs: Vec<FailedRun>,
    end_to_end: EndToEnd,
    warnings: Vec<Warning>,
}

/// How much longer than its runs may take a request may be on its way, for names and the public
/// address.
pub(crate) const EXTRA: Duration = Duration::from_millis(4800);
/// The same for its probes.
pub(crate) const EXTRA_FOR_PROBES: Duration = Duration::from_secs(4);

/// One request's probing: a resolved target and who probes it.
struct Probing<'j> {
    owner: &'j RequestInProgress<'j>,
    driver: Driver,
    address: IpAddr,
    /// How probes leave this host.
    egress: Egress,
    /// When all probing must be over.
    deadline: Instant,
}

impl<'r> RequestInProgress<'r> {
    fn new(tracer: &'r Tracer, request: &'r Request, events: Option<Teller>, start: Instant) -> Self {
        RequestInProgress {
            tracer,
            request,
            events,
            start,
        }
    }

    async fn run(&self) -> Result<Report, Error> {
        let request = self.request;
        let start = self.start;
        let longest = start
            .checked_add(request.longest())
            .unwrap_or_else(|| start + FAR);
        let deadline = longest + EXTRA;
        let egress = request.egress()?;
        let resolved = timeout_at(deadline, Box::pin(resolve_target(request))).await;
        let address = resolved.map_err(|_| Error::TooLate)??;
        if !is_one_host(address) {
            return Err(Error::NotAHost(address));
        }
        check_target(&egress, address)?;
        tracing::debug!(hostname = request.hostname, %address, "tracing");
        self.tell(Event::Resolved { address });
        let probing = Probing {
            owner: self,
            driver: self.tracer.driver(request)?,
            address,
            egress,
            deadline: longest + EXTRA_FOR_PROBES,
        };
        // What is rarely asked for, or comes after the probing, is boxed: there may be ten thousand
        // requests at once that wait for answers.
        let public_ip = async {
            if !request.source_public_ip {
                return Ok(None);
            }
            Ok(Box::pin(self.public_ip(deadline)).await)
        };
        let (findings, public_ip) = tokio::try_join!(probing.probe(), public_ip)?;
        Ok(Box::pin(self.report(findings, public_ip, deadline)).await)
    }

    async fn report(&self, findings: Findings, public_ip: Option<IpAddr>, deadline: Instant) -> Report {
        let request = self.request;
        let mut report = Report {
            public_ip,
            failed_runs: findings.failed_runs,
            end_to_end: findings.end_to_end,
            warnings: findings.warnings,
            ..Report::new(&request.hostname, request.port, request.protocol, findings.runs)
        };
        if request.skip_private_hops {
            report.hide_private_hops();
        }
        if request.details {
            let statistics = self.tracer.statistics().await;
            report.statistics = Some(Box::new(statistics.unwrap_or_default()));
        }
        if request.reverse_dns {
            // Those found in time are used.
            let limit = names_limit(u64::from(request.runs) * u64::from(request.max_ttl));
            let names = self
                .tracer
                .names_of(report.addresses(), Some(deadline), request.client, limit);
            report.names = names.await;
            report.warnings.extend(Warning::names_left_out(&report.names));
        }
        report
    }

    #[cfg(feature = "public-ip")]
    async fn public_ip(&self, deadline: Instant) -> Option<IpAddr> {
        let asked = timeout_at(deadline, self.tracer.shared.options.public_ip.address()).await;
        asked.ok().flatten().map(IpAddr::V4)
    }

    #[cfg(not(feature = "public-ip"))]
    #[expect(clippy::unused_async, reason = "as with the feature")]
    async fn public_ip(&self, _: Instant) -> Option<IpAddr> {
        None
    }

    fn tell(&self, event: Event) {
        if let Some(events) = &self.events {
            events.tell(event);
        }
    }

    /// Passes on what a trace tells: one of this run, or the end-to-end probes (`None`).
    fn on_news(&self, run: Option<u32>) -> Option<OnNews> {
        let events = self.events.clone()?;
        Some(Box::new(move |news| {
            if let Some(event) = Event::of(run, news) {
                events.tell(event);
            }
        }))
    }
}

/// A time that does not come.
pub(crate) const FAR: Duration = Duration::from_hours(10 * 365 * 24);

impl Probing<'_> {
    /// All runs and end-to-end probes, started together. Fails as soon as every run has failed.
    async fn probe(&self) -> Result<Findings, Error> {
        let e2e = async {
            if self.owner.request.e2e_probes == 0 {
                return Ok(Ok(EndToEndResult::default()));
            }
            Ok(Box::pin(self.e2e_probes()).await)
        };
        let ((results, failed_runs), e2e) = tokio::try_join!(self.runs(), e2e)?;
        let asked = self.owner.request.e2e_probes;
        let mut warnings: Vec<Warning> = failed_runs.iter().map(Warning::run_failed).collect();
        let e2e = match e2e {
            Ok(e2e) => e2e,
            Err(error) if self.owner.request.runs == 0 => {
                return Err(Error::Traces(vec![RunError::Trace(error)]));
            }
            Err(error) => {
                warnings.push(Warning::no_end_to_end(&error));
                EndToEndResult {
                    refused: asked,
                    ..EndToEndResult::default()
                }
            }
        };
        let of_runs: Vec<(u32, &TraceResult)> = results
            .iter()
            .map(|(index, _, result)| (*index, result))
            .collect();
        warnings.extend(Warning::of(
            self.address,
            &of_runs,
            (asked > 0).then_some((&e2e, asked)),
        ));
        let runs = results
            .into_iter()
            .map(|(index, method, result)| Run::new(index, method, result));
        Ok(Findings {
            runs: runs.collect(),
            failed_runs,
            end_to_end: e2e.into(),
            warnings,
        })
    }

    /// Those that worked, with how they probed in the end, and those that failed.
    async fn runs(&self) -> Result<(Vec<(u32, Method, TraceResult)>, Vec<FailedRun>), Error> {
        let request = self.owner.request;
        let turns = Semaphore::new(request.runs_at_once() as usize);
        let runs = join_all((0..request.runs).map(async |index| {
            // Never closed.
            let _turn = turns.acquire().await;
            self.run(index).await
        }));
        let mut results = Vec::new();
        let mut failed = Vec::new();
        for (index, result) in runs.await {
            match result {
                Ok((method, result)) => results.push((index, method, result)),
                Err(error) => failed.push(FailedRun::new(index, error)),
            }
        }
        if results.is_empty() && !failed.is_empty() {
            let errors = failed.into_iter().map(|failed| failed.error);
            return Err(Error::Traces(errors.collect()));
        }
        Ok((results, failed))
    }

    async fn run(&self, index: u32) -> (u32, Result<(Method, TraceResult), RunError>) {
        let request = self.owner.request;
        let result = match (request.protocol, request.tcp_method) {
            (Protocol::Tcp, TcpMethod::Sack) => self.trace(Method::TcpSack, index).await,
            (Protocol::Tcp, TcpMethod::PreferSack) => match self.trace(Method::TcpSack, index).await {
                Err(RunError::Trace(error @ TraceError::SackNotSupported(_))) => {
                    tracing::debug!(address = %self.address, %error, "falling back to SYN");
                    self.trace(Method::TcpSyn, index).await
                }
                Err(error) => Err(RunError::Fatal(Box::new(error))),
                result => result,
            },
            (protocol, _) => self.trace(protocol.method(), index).await,
        };
        if let Ok((_, result)) = &result {
            let (hops, probes) = (result.hops.len(), result.probes_sent);
            tracing::debug!(address = %self.address, run = index, hops, probes, "a run ended");
        }
        self.owner.tell(Event::RunFinished { run: index });
        (index, result)
    }

    /// A trace's result, and the method with which it came about.
    async fn trace(&self, method: Method, index: u32) -> Result<(Method, TraceResult), RunError> {
        let request = self.owner.request;
        let port = request.probed_port();
        let spec = TraceSpec {
            first_ttl: request.first_ttl,
            delay: request.delay.unwrap_or(method.default_delay()),
            packet: request.packet(),
            egress: self.egress,
            hop_retries: request.hop_retries,
            gap_limit: request.gap_limit,
            linger: request.e2e_time().min(request.longest_run()),
            longest: self.time_left(),
            ..TraceSpec::full(method, self.address, port, request.max_ttl, request.timeout)
        };
        let trace = self
            .driver
            .trace_for(request.client, spec, self.owner.on_news(Some(index)));
        match trace.await? {
            TraceOutcome::Run(result) => Ok((method, result)),
            TraceOutcome::EndToEnd(_) | TraceOutcome::Paths(_) => Err(TraceError::Stopped.into()),
        }
    }

    fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    async fn e2e_probes(&self) -> Result<EndToEndResult, TraceError> {
        let request = self.owner.request;
        let single = TraceSpec {
            packet: request.packet(),
            egress: self.egress,
            longest: self.time_left(),
            ..TraceSpec::single(
                request.protocol.method(),
                self.address,
                request.probed_port(),
                request.max_ttl,
                request.timeout,
            )
        };
        let interval = request.e2e_spacing();
        let spec = TraceSpec::end_to_end(
            single,
            request.e2e_probes,
            interval,
            request.e2e_interval.is_some(),
        );
        let trace = self
            .driver
            .trace_for(request.client, spec, self.owner.on_news(None));
        match trace.await? {
            TraceOutcome::EndToEnd(result) => Ok(result),
            TraceOutcome::Run(_) | TraceOutcome::Paths(_) => Err(TraceError::Stopped),
        }
    }
}

/// Whether the address can be the end of a path: it is not unspecified, multicast or broadcast.
/// Directed broadcasts look like hosts; the kernel refuses those.
pub fn is_one_host(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && address != IpAddr::V4(Ipv4Addr::BROADCAST)
}

impl Request {
    /// How long a run may take: each TTL its timeout.
    pub(crate) fn longest_run(&self) -> Duration {
        self.timeout.saturating_mul(u32::from(self.max_ttl))
    }

    /// How long all probing may take: a run's time, as often as runs have to wait for others.
    pub(crate) fn longest(&self) -> Duration {
        let rounds = self.runs.div_ceil(self.runs_at_once().max(1)).max(1);
        self.longest_run().saturating_mul(rounds).max(self.e2e_time())
    }

    /// The end-to-end probes' distance in time: spread over the longest time that a run may take,
    /// at most 1 s. Longer if too many would wait for an answer
    /// ([`Request::at_most_at_once`]).
    pub fn e2e_spacing(&self) -> Duration {
        let wanted = self.wanted_spacing();
        let (waiting, most) = (self.probes_waiting(wanted), self.probes_at_once());
        if waiting <= most {
            return wanted;
        }
        let apart = self.timeout.as_nanos().div_ceil(u128::from(most.max(2) - 1));
        wanted.max(Duration::from_nanos(u64::try_from(apart).unwrap_or(u64::MAX)))
    }

    fn wanted_spacing(&self) -> Duration {
        let spread = (self.longest_run() / self.e2e_probes.max(1)).min(MAX_E2E_SPACING);
        self.e2e_interval.unwrap_or(spread)
    }

    /// How many end-to-end probes so far apart wait for an answer at once.
    fn probes_waiting(&self, spacing: Duration) -> u32 {
        let spacing = spacing.as_nanos().max(1);
        let waiting = self.timeout.as_nanos().div_ceil(spacing) + 1;
        u128::from(self.e2e_probes).min(waiting) as u32
    }

    /// Of the traces at once, end-to-end probes have what runs leave, or half.
    fn probes_at_once(&self) -> u32 {
        let most = self
            .most_at_once
            .saturating_sub(self.runs)
            .max(self.most_at_once / 2);
        self.probes_waiting(self.wanted_spacing()).min(most.max(2))
    }

    fn runs_at_once(&self) -> u32 {
        let most = self.most_at_once.saturating_sub(self.probes_at_once());
        self.runs.min(most.max(1))
    }

    /// For how long end-to-end probes are sent.
    pub(crate) fn e2e_time(&self) -> Duration {
        self.e2e_spacing()
            .saturating_mul(self.e2e_probes.saturating_sub(1))
    }

    /// How long the request may take, whatever happens: each TTL its timeout, and 5 s. Longer if
    /// its runs have to wait for each other ([`Request::at_most_at_once`]).
    pub fn time_limit(&self) -> Duration {
        self.longest().saturating_add(Duration::from_secs(5))
    }

    /// How many traces (runs and end-to-end probes) the request has in flight at once at most:
    /// about as many ports, and what it takes from [`TracerOptions::max_traces`].
    pub fn traces_at_once(&self) -> u32 {
        let probes = self.probes_waiting(self.e2e_spacing());
        self.runs_at_once().saturating_add(probes)
    }
}

/// Why one run failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The trace itself failed.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// `prefer_sack` found a problem that SYN would have as well.
    #[error("SACK traceroute failed fatally, not falling back: {0}")]
    Fatal(Box<RunError>),
}

/// The distinct messages of all errors, in order of appearance.
pub(crate) fn distinct_messages(errors: &[RunError]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    errors
        .iter()
        .map(ToString::to_string)
        .filter(|message| seen.insert(message.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Error as IoError, ErrorKind};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use traceroute_engine::{NetError, Operation};

    use super::*;
    use crate::error::ErrorCode;
    use crate::request::RequestBuilder;

    fn request(change: impl FnOnce(RequestBuilder) -> RequestBuilder) -> Request {
        change(Request::to("192.0.2.1")).build().unwrap()
    }

    fn no_route() -> TraceError {
        NetError::new(
            Operation::Route,
            None,
            IoError::from(ErrorKind::NetworkUnreachable),
        )
        .into()
    }

    #[test]
    fn end_to_end_probes_are_spread_over_the_longest_run_but_at_most_a_second_apart() {
        assert_eq!(request(|r| r).e2e_spacing(), Duration::from_secs(1));
        let short = request(|r| r.max_ttl(10).timeout(Duration::from_secs(1)));
        assert_eq!(short.e2e_spacing(), Duration::from_millis(200));
        let many = request(|r| r.e2e_probes(1000).timeout(Duration::from_millis(100)));
        assert_eq!(many.e2e_spacing(), Duration::from_millis(3));
        assert_eq!(request(|r| r.e2e_probes(0)).e2e_spacing(), Duration::from_secs(1));
    }

    #[tokio::test]
    async fn addresses_that_are_no_hosts_are_refused_before_anything_is_sent() {
        for target in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"] {
            let tracer = Tracer::new();
            let error = tracer.trace(&request(|_| Request::to(target))).await.unwrap_err();
            assert!(
                error
                    .to_string()
                    .starts_with(&format!("{target} is not the address of one host")),
                "{error}"
            );
            assert_eq!(error.code(), ErrorCode::InvalidRequest);
            assert!(tracer.statistics().await.is_none(), "nothing was even opened");
        }
    }

    /// Nothing is probed, so nothing is opened either.
    #[tokio::test]
    async fn the_public_address_is_reported_when_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let service = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut question = Vec::new();
            while !question.ends_with(b"\r\n\r\n") {
                question.push(stream.read_u8().await.unwrap());
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n203.0.113.10";
            stream.write_all(answer).await.unwrap();
        });
        let tracer = Tracer::with_options(TracerOptions {
            public_ip: PublicIp::with_services(vec![service]),
            ..TracerOptions::default()
        });
        for (wanted, expected) in [
            (false, r#""public_ip":"""#),
            (true, r#""public_ip":"203.0.113.10""#),
        ] {
            let request = request(|r| r.runs(0).e2e_probes(0).source_public_ip(wanted));
            let report = tracer.trace(&request).await.unwrap();
            let document = crate::json::to_compact(&report).unwrap();
            assert!(document.contains(expected), "{document}");
        }
    }

    #[test]
    fn distinct_errors_are_joined_by_newlines() {
        let not_supported = || RunError::Trace(TraceError::SackNotSupported("no blocks".to_owned()));
        let errors = vec![not_supported(), RunError::Trace(no_route()), not_supported()];
        assert_eq!(
            Error::Traces(errors).to_string(),
            "SACK not supported for this target/source: no blocks\ncannot find a route: network unreachable"
        );
        let fatal = RunError::Fatal(Box::new(RunError::Trace(no_route())));
        assert_eq!(
            fatal.to_string(),
            "SACK traceroute failed fatally, not falling back: cannot find a route: network unreachable"
        );
    }

    /// A service's bound counted, but did not hold.
    #[test]
    fn a_request_keeps_to_its_traces_at_once() {
        let second = Duration::from_secs(1);
        for (runs, probes, most, expected) in [
            // It fits.
            (3, 50, 7, (3, 4, 1, second)),
            (3, 0, 7, (3, 0, 1, second)),
            (28_000, 0, 10_922, (10_922, 0, 3, second)),
            // Each has half.
            (20, 50, 6, (3, 3, 7, second * 3 / 2)),
            // What the others leave.
            (20, 50, 20, (16, 4, 2, second)),
            (1, 50, 4, (1, 3, 1, second * 3 / 2)),
            // Two in the air at least, and a run.
            (3, 50, 1, (1, 2, 3, second * 3)),
        ] {
            let request = request(|r| r.runs(runs).e2e_probes(probes)).at_most_at_once(most);
            let found = (request.runs_at_once(), request.probes_at_once());
            let rounds = u32::try_from(request.longest().as_secs() / 90).unwrap();
            assert_eq!(
                (found.0, found.1, rounds, request.e2e_spacing()),
                expected,
                "{runs} {probes} {most}"
            );
            assert!(request.traces_at_once() <= most.max(3), "{runs} {probes} {most}");
            assert!(request.e2e_time() <= request.longest());
        }
        let largest = request(|r| {
            let slow = r.timeout(Duration::from_secs(190)).max_ttl(3);
            slow.runs(crate::MAX_QUERIES).e2e_probes(crate::MAX_QUERIES)
        });
        for most in 1..1000 {
            let request = largest.clone().at_most_at_once(most);
            assert!(request.traces_at_once() <= most.max(3), "{most}");
        }
    }

    #[test]
    fn an_interval_of_its_own_wins_over_the_spreading() {
        let fixed = request(|r| r.e2e_probes(4).e2e_interval(Duration::from_millis(250)));
        assert_eq!(fixed.e2e_spacing(), Duration::from_millis(250));
        assert_eq!(fixed.e2e_time(), Duration::from_millis(750));
        // Twelve probes are on their way within the timeout, but there are only four.
        assert_eq!(fixed.traces_at_once(), 3 + 4);
        let slow = request(|r| r.e2e_probes(10).e2e_interval(Duration::from_secs(5)));
        assert_eq!(slow.e2e_time(), Duration::from_secs(45));
        assert_eq!(slow.traces_at_once(), 3 + 2);
    }
}
