//! One request from start to report: runs and end-to-end probes side by side, then names and statistics.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use traceroute_engine::driver::{Driver, OnFound, Statistics};
use traceroute_engine::{Method, TraceError, TraceResult, TraceSpec};

use crate::details::{Counters, Details, RunDetails};
use crate::error::Error;
use crate::model::{
    Destination, E2eProbe, Hop, HopCount, Report, Run, RunDestination, RunSource, Source, Traceroute,
};
use crate::parameters::{Protocol, Request, TcpMethod};
use crate::public_ip::PublicIp;
use crate::rate_limit;
use crate::reverse_dns::ReverseDns;
use crate::target::resolve;

/// End-to-end probes are at most this far apart.
const MAX_E2E_SPACING: Duration = Duration::from_secs(1);

/// What happens while a request is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A hop answered.
    HopFound {
        /// Which run, from 0.
        run: u32,
        /// TTL, in hops.
        ttl: u8,
        /// Who answered.
        address: IpAddr,
        /// Round-trip time.
        rtt: Duration,
        /// The answer is the destination's.
        destination: bool,
    },
    /// A traceroute run ended.
    RunFinished {
        /// Which run, from 0.
        run: u32,
    },
    /// An end-to-end probe was answered, or will not be any more.
    E2eProbe {
        /// Which probe, from 0.
        index: u32,
        /// Round-trip time; `None`: no answer.
        rtt: Option<Duration>,
    },
}

/// How a [`Tracer`] is set up.
pub struct Options {
    /// How many traces (runs and end-to-end probes) may be in flight at once, for all requests together.
    pub max_traces: usize,
    /// How the network is opened. What a request asks for itself comes in addition.
    pub network: traceroute_net::Options,
    /// Who looks up names; its cache is shared by all requests.
    pub reverse_dns: ReverseDns,
    /// Who finds out the public address; its cache is shared by all requests.
    pub public_ip: PublicIp,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            max_traces: 65_536,
            network: traceroute_net::Options::default(),
            reverse_dns: ReverseDns::new(),
            public_ip: PublicIp::new(),
        }
    }
}

/// Carries out requests, any number at once, over one set of sockets. Cloning is cheap and shares everything.
///
/// Needs a Tokio runtime with time and I/O enabled. Sockets are opened by the first request.
#[derive(Clone)]
pub struct Tracer {
    shared: Arc<Shared>,
}

struct Shared {
    options: Options,
    /// One for each way of probing that requests have asked for: just one, but for Windows.
    drivers: Mutex<HashMap<traceroute_net::Options, Driver>>,
}

impl Default for Tracer {
    fn default() -> Self {
        Tracer::new()
    }
}

impl Tracer {
    /// A tracer with the usual options. Opens nothing yet.
    pub fn new() -> Self {
        Tracer::with_options(Options::default())
    }

    /// A tracer with other options. Opens nothing yet.
    pub fn with_options(options: Options) -> Self {
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
    /// The target's name cannot be resolved, or every run failed; local problems such as a missing permission or
    /// route say what to do about it.
    pub async fn trace(&self, request: &Request) -> Result<Report, Error> {
        Job::new(self, request, None).run().await
    }

    /// [`Tracer::trace`] that also tells what happens meanwhile.
    ///
    /// # Errors
    /// As [`Tracer::trace`].
    pub async fn trace_with_progress(
        &self,
        request: &Request,
        mut progress: impl FnMut(Progress),
    ) -> Result<Report, Error> {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let job = Job::new(self, request, Some(sender));
        let report = job.run();
        tokio::pin!(report);
        loop {
            tokio::select! {
                biased;
                Some(event) = receiver.recv() => progress(event),
                result = &mut report => {
                    while let Ok(event) = receiver.try_recv() {
                        progress(event);
                    }
                    return result;
                }
            }
        }
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

    fn drivers(&self) -> MutexGuard<'_, HashMap<traceroute_net::Options, Driver>> {
        self.shared.drivers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn driver(&self, request: &Request) -> Result<Driver, Error> {
        let network = traceroute_net::Options {
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
struct Job<'r> {
    tracer: &'r Tracer,
    request: &'r Request,
    progress: Option<mpsc::UnboundedSender<Progress>>,
}

/// A run, and its details if asked for.
type Found = (Run, Option<RunDetails>);

/// One request's probing: a resolved target and who probes it.
struct Probing<'j> {
    job: &'j Job<'j>,
    driver: Driver,
    address: IpAddr,
}

impl<'r> Job<'r> {
    fn new(
        tracer: &'r Tracer,
        request: &'r Request,
        progress: Option<mpsc::UnboundedSender<Progress>>,
    ) -> Self {
        Job {
            tracer,
            request,
            progress,
        }
    }

    async fn run(&self) -> Result<Report, Error> {
        let request = self.request;
        let address = Box::pin(resolve(&request.host, request.ipv6)).await?;
        if !is_one_host(address) {
            return Err(Error::NotAHost(address));
        }
        tracing::debug!(hostname = request.hostname, %address, "tracing");
        let probing = Probing {
            job: self,
            driver: self.tracer.driver(request)?,
            address,
        };
        let options = &self.tracer.shared.options;
        let public_ip = async {
            let wanted = request.source_public_ip.then_some(&options.public_ip)?;
            // Boxed, like the look-up of names below: rarely asked for, and large beside the rest of a request.
            Box::pin(wanted.address()).await.map(IpAddr::V4)
        };
        let probe = probing.probe();
        let ((results, rtts), public_ip) = tokio::try_join!(probe, async { Ok(public_ip.await) })?;
        let (mut runs, details): (Vec<Run>, Vec<Option<RunDetails>>) = results.into_iter().unzip();
        let details = if request.details {
            Some(Box::pin(self.details(details)).await)
        } else {
            None
        };
        if request.reverse_dns {
            Box::pin(options.reverse_dns.annotate(&mut runs)).await;
        }
        let hop_count = HopCount::of(&runs);
        if request.skip_private_hops {
            runs.iter_mut().for_each(Run::blank_private_hops);
        }
        Ok(Report {
            protocol: request.protocol,
            source: Source { public_ip },
            destination: Destination {
                hostname: request.hostname.clone(),
                port: request.port,
            },
            traceroute: Traceroute { runs, hop_count },
            e2e_probe: E2eProbe::from_rtts(rtts),
            details,
        })
    }

    /// What these runs learned, and the counters now that they have ended.
    async fn details(&self, runs: Vec<Option<RunDetails>>) -> Box<Details> {
        let mut runs: Vec<RunDetails> = runs.into_iter().flatten().collect();
        if self.request.skip_private_hops {
            runs.iter_mut().for_each(RunDetails::blank_private_hops);
        }
        let statistics = self.tracer.statistics().await;
        let counters = statistics.map_or_else(Counters::default, Counters::from);
        Box::new(Details::new(runs, counters))
    }

    fn tell(&self, event: Progress) {
        if let Some(progress) = &self.progress {
            // Nobody listening any more means the request is being dropped.
            let _ = progress.send(event);
        }
    }

    fn on_found(&self, run: u32) -> Option<OnFound> {
        let progress = self.progress.clone()?;
        Some(Box::new(move |found| {
            let event = Progress::HopFound {
                run,
                ttl: found.ttl,
                address: found.address,
                rtt: found.rtt,
                destination: found.destination,
            };
            let _ = progress.send(event);
        }))
    }
}

impl Probing<'_> {
    /// All runs and end-to-end probes, started together. Fails as soon as every run has failed.
    async fn probe(&self) -> Result<(Vec<Found>, Vec<f64>), Error> {
        let (runs, rtts) = tokio::try_join!(self.runs(), self.e2e_probes())?;
        if self.job.request.traceroute_queries == 0
            && let Some(error) = nothing_sent(&rtts)
        {
            return Err(error);
        }
        let rtts = rtts
            .into_iter()
            .map(|rtt| rtt.ok().flatten().map_or(0.0, milliseconds))
            .collect();
        Ok((runs, rtts))
    }

    async fn runs(&self) -> Result<Vec<Found>, Error> {
        let count = self.job.request.traceroute_queries;
        let mut pending: FuturesUnordered<_> = (0..count).map(|index| self.run(index)).collect();
        let mut results: Vec<Option<Found>> = (0..count).map(|_| None).collect();
        let mut errors = Vec::new();
        while let Some((index, result)) = pending.next().await {
            match result {
                Ok((method, result)) => {
                    let (hops, probes) = (result.hops.len(), result.probes_sent);
                    tracing::debug!(address = %self.address, run = index, hops, probes, "a run ended");
                    if let Some(slot) = results.get_mut(index as usize) {
                        let run = describe_run(&result);
                        let details = self.job.request.details;
                        let details = details.then(|| RunDetails::new(run.run_id, method, &result));
                        *slot = Some((run, details));
                    }
                }
                Err(error) => errors.push(error),
            }
            self.job.tell(Progress::RunFinished { run: index });
        }
        let runs: Vec<Found> = results.into_iter().flatten().collect();
        if runs.is_empty() && !errors.is_empty() {
            return Err(Error::Traces(errors));
        }
        for error in errors {
            tracing::warn!(address = %self.address, %error, "a traceroute run failed; others worked");
        }
        Ok(runs)
    }

    async fn run(&self, index: u32) -> (u32, Result<(Method, TraceResult), RunError>) {
        let request = self.job.request;
        let result = match (request.protocol, request.tcp_method) {
            (Protocol::Udp, _) => self.trace(Method::Udp, index).await,
            (Protocol::Icmp, _) => self.trace(Method::Icmp, index).await,
            (Protocol::Tcp, TcpMethod::Syn | TcpMethod::SynSocket) => self.trace(Method::TcpSyn, index).await,
            (Protocol::Tcp, TcpMethod::Sack) => self.trace(Method::TcpSack, index).await,
            (Protocol::Tcp, TcpMethod::PreferSack) => match self.trace(Method::TcpSack, index).await {
                Err(RunError::Trace(error @ TraceError::SackNotSupported(_))) => {
                    tracing::debug!(address = %self.address, %error, "falling back to SYN");
                    self.trace(Method::TcpSyn, index).await
                }
                Err(error) => Err(RunError::Fatal(Box::new(error))),
                result => result,
            },
        };
        (index, result)
    }

    /// A trace's result, and the method with which it came about.
    async fn trace(&self, method: Method, index: u32) -> Result<(Method, TraceResult), RunError> {
        let request = self.job.request;
        let port = request.probed_port();
        let spec = TraceSpec::full(method, self.address, port, request.max_ttl, request.timeout);
        Ok((method, self.driver.trace(spec, self.job.on_found(index)).await?))
    }

    /// Round-trip times in the order of sending; `Ok(None)` for no answer.
    async fn e2e_probes(&self) -> Result<Vec<Result<Option<Duration>, TraceError>>, Error> {
        let request = self.job.request;
        let count = request.e2e_queries;
        let spacing = e2e_spacing(request);
        let start = Instant::now();
        let mut results: Vec<Result<Option<Duration>, TraceError>> = (0..count).map(|_| Ok(None)).collect();
        let mut pending = FuturesUnordered::new();
        let mut next = 0;
        while next < count || !pending.is_empty() {
            tokio::select! {
                () = sleep_until(start + spacing * next), if next < count => {
                    pending.push(self.e2e_probe(next));
                    next += 1;
                }
                Some((index, result)) = pending.next(), if !pending.is_empty() => {
                    let rtt = result.as_ref().ok().copied().flatten();
                    tracing::trace!(address = %self.address, index, ?rtt, "an end-to-end probe ended");
                    self.job.tell(Progress::E2eProbe { index, rtt });
                    if let Err(error) = &result {
                        tracing::debug!(address = %self.address, index, %error, "an end-to-end probe failed");
                    }
                    if let Some(slot) = results.get_mut(index as usize) {
                        *slot = result;
                    }
                }
            }
        }
        self.warn_of_rate_limit(&results, spacing);
        Ok(results)
    }

    /// Loss that is the target's limit on ICMP errors cannot be told from the path's by a single probe, only by the
    /// pattern: it is reported as it is, and said aloud.
    fn warn_of_rate_limit(&self, results: &[Result<Option<Duration>, TraceError>], spacing: Duration) {
        let answered: Vec<bool> = results
            .iter()
            .map(|result| matches!(result, Ok(Some(_))))
            .collect();
        if self.job.request.protocol == Protocol::Udp && rate_limit::explains(&answered, spacing) {
            tracing::warn!(
                address = %self.address,
                "the target answers UDP probes at most once a second, as its limit on ICMP errors is: most of the reported \
                 loss is probably not the path's (a longer timeout or fewer e2e queries keep probes further apart; ICMP and \
                 TCP are not limited)"
            );
        }
    }

    async fn e2e_probe(&self, index: u32) -> (u32, Result<Option<Duration>, TraceError>) {
        let request = self.job.request;
        let method = match request.protocol {
            Protocol::Udp => Method::Udp,
            Protocol::Icmp => Method::Icmp,
            Protocol::Tcp => Method::TcpSyn,
        };
        let port = request.probed_port();
        let spec = TraceSpec::single(method, self.address, port, request.max_ttl, request.timeout);
        let result = self.driver.trace(spec, None).await;
        (index, result.map(|result| destination_rtt(&result)))
    }
}

/// Whether the address can be the end of a path. Directed broadcasts look like hosts; the kernel refuses those.
fn is_one_host(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && address != IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// The end-to-end probes' distance in time: spread over the longest time that a run may take, at most 1 s.
fn e2e_spacing(request: &Request) -> Duration {
    let longest = request.timeout.saturating_mul(u32::from(request.max_ttl));
    (longest / request.e2e_queries.max(1)).min(MAX_E2E_SPACING)
}

impl Request {
    /// How many traces (runs and end-to-end probes) the request has in flight at once at most: what it takes from
    /// [`Options::max_traces`], and about as many ports.
    pub fn traces_at_once(&self) -> u32 {
        let spacing = e2e_spacing(self).max(Duration::from_nanos(1));
        let waiting = self.timeout.as_nanos().div_ceil(spacing.as_nanos()) + 1;
        let probes = u128::from(self.e2e_queries).min(waiting) as u32;
        self.traceroute_queries.saturating_add(probes)
    }
}

/// Only the destination's own answer counts end to end.
fn destination_rtt(result: &TraceResult) -> Option<Duration> {
    let answers = result.hops.iter().filter_map(|hop| hop.answer);
    answers
        .filter(|answer| answer.destination)
        .map(|answer| answer.rtt)
        .next()
}

/// When every end-to-end probe failed for a local reason, that is an error, not loss.
fn nothing_sent(rtts: &[Result<Option<Duration>, TraceError>]) -> Option<Error> {
    let errors: Vec<RunError> = rtts
        .iter()
        .filter_map(|rtt| rtt.clone().err())
        .map(RunError::Trace)
        .collect();
    (!errors.is_empty() && errors.len() == rtts.len()).then_some(Error::Traces(errors))
}

fn describe_run(result: &TraceResult) -> Run {
    Run {
        run_id: uuid::Uuid::new_v4(),
        source: RunSource {
            ip_address: result.source,
            port: result.source_port,
        },
        destination: RunDestination {
            ip_address: result.destination,
            port: result.destination_port,
            reverse_dns: Vec::new(),
        },
        hops: result.hops.iter().map(describe_hop).collect(),
    }
}

fn describe_hop(hop: &traceroute_engine::Hop) -> Hop {
    match hop.answer {
        Some(answer) => Hop::answered(hop.ttl, answer.address, milliseconds(answer.rtt)),
        None => Hop::silent(hop.ttl),
    }
}

fn milliseconds(rtt: Duration) -> f64 {
    rtt.as_nanos() as f64 / 1e6
}

/// Why one run failed.
#[derive(Debug, Clone, thiserror::Error)]
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
    use traceroute_net::{NetError, Operation};

    use super::*;
    use crate::error::ErrorCode;
    use crate::parameters::Parameters;

    fn request(change: impl FnOnce(&mut Parameters)) -> Request {
        let mut parameters = Parameters {
            target: "192.0.2.1".to_owned(),
            ..Parameters::default()
        };
        change(&mut parameters);
        parameters.validate().unwrap()
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
        assert_eq!(e2e_spacing(&request(|_| {})), Duration::from_secs(1));
        let short = request(|parameters| (parameters.max_ttl, parameters.timeout_ms) = (10, 1000));
        assert_eq!(e2e_spacing(&short), Duration::from_millis(200));
        let many = request(|parameters| (parameters.e2e_queries, parameters.timeout_ms) = (1000, 100));
        assert_eq!(e2e_spacing(&many), Duration::from_millis(3));
        assert_eq!(
            e2e_spacing(&request(|parameters| parameters.e2e_queries = 0)),
            Duration::from_secs(1)
        );
    }

    #[tokio::test]
    async fn addresses_that_are_no_hosts_are_refused_before_anything_is_sent() {
        for target in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"] {
            let tracer = Tracer::new();
            let error = tracer
                .trace(&request(|parameters| parameters.target = target.to_owned()))
                .await
                .unwrap_err();
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
        let tracer = Tracer::with_options(Options {
            public_ip: PublicIp::with_services(vec![service]),
            ..Options::default()
        });
        for (wanted, expected) in [
            (false, r#""public_ip":"""#),
            (true, r#""public_ip":"203.0.113.10""#),
        ] {
            let request = request(|parameters| {
                parameters.traceroute_queries = 0;
                parameters.e2e_queries = 0;
                parameters.source_public_ip = wanted;
            });
            let report = tracer.trace(&request).await.unwrap();
            let document = crate::json::to_compact(&report).unwrap();
            assert!(document.contains(expected), "{document}");
        }
    }

    #[test]
    fn loss_is_an_error_only_when_nothing_could_be_sent() {
        assert!(nothing_sent(&[]).is_none());
        assert!(nothing_sent(&[Ok(None), Err(no_route())]).is_none());
        let error = nothing_sent(&[Err(no_route()), Err(no_route())]).unwrap();
        assert_eq!(error.to_string(), "cannot find a route: network unreachable");
        assert_eq!(error.code(), ErrorCode::NetworkUnreachable);
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

    #[test]
    fn only_the_destination_counts_end_to_end() {
        let answer = |destination| traceroute_engine::HopAnswer {
            address: "192.0.2.9".parse().unwrap(),
            rtt: Duration::from_millis(5),
            destination,
            error: None,
            reply_ttl: 0,
            quoted_ttl: None,
            mpls: traceroute_wire::MplsStack::default(),
            kernel_stamped: true,
        };
        let result = |answer| TraceResult {
            source: "192.0.2.1".parse().unwrap(),
            source_port: 1,
            destination: "192.0.2.9".parse().unwrap(),
            destination_port: 1,
            hops: vec![traceroute_engine::Hop { ttl: 30, answer }],
            probes_sent: 1,
        };
        assert_eq!(destination_rtt(&result(None)), None);
        assert_eq!(destination_rtt(&result(Some(answer(false)))), None);
        assert_eq!(
            destination_rtt(&result(Some(answer(true)))),
            Some(Duration::from_millis(5))
        );
        assert!((milliseconds(Duration::from_nanos(12_700)) - 0.0127).abs() < f64::EPSILON);
    }
}
