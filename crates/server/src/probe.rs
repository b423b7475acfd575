//! `GET /probe`: one measurement, answered as metrics, in the manner of Prometheus' blackbox
//! exporter.
//!
//! Prometheus decides what is probed, when and from where
//! (<https://prometheus.io/docs/guides/multi-target-exporter/>).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use axum::response::Response;
use datadog_traceroute::{Cause, Losses, Report, Request, RttStatistics};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;
use traceroute_flags::{Interface, InvalidParameter, TraceOption, Value};

use crate::failure::Failure;
use crate::job::Job;
use crate::limits::Ceilings;
use crate::metrics::{self, Labels};
use crate::observe::Outcome;
use crate::parameters::{MODULE, Query};
use crate::router::Service;
use crate::tokens::Guest;

/// The header by which Prometheus tells when it will give up, in seconds.
const SCRAPE_TIMEOUT: &str = "x-prometheus-scrape-timeout-seconds";
/// The time limit of scrapes where nothing is said of it: Prometheus' own default.
const DEFAULT_SCRAPE_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that makes a difference.
const LONGEST_SCRAPE: Duration = Duration::from_hours(1);
/// What the answer may take on its way.
const RESERVE: Duration = Duration::from_millis(500);
/// The share of the time that probes may take; the rest is for names and for a busy machine.
const SHARE: f64 = 0.9;

/// Runs, and end-to-end probes, where the query does not say.
pub(crate) const QUERIES: (i64, i64) = (1, 5);
/// Milliseconds between a run's probes at most, as everywhere: over UDP and ICMP, and by selective
/// acknowledgments.
const DELAYS: (i64, i64) = (50, 10);
/// Milliseconds that an answer may take at most, as everywhere.
const TIMEOUT: i64 = 3000;
/// Milliseconds between end-to-end probes at most, as everywhere.
const INTERVAL: i64 = 1000;
/// How many probes of a run without a delay are on their way at once.
const AT_ONCE: i64 = 16;

/// Protocol and method that `module` names.
pub(crate) const MODULES: [(&str, &str, &str); 4] = [
    ("icmp", "icmp", "syn"),
    ("udp", "udp", "syn"),
    ("tcp", "tcp", "syn"),
    ("sack", "tcp", "sack"),
];

/// What a request to `/probe` asks for besides the parameters of a trace.
pub(crate) struct Probe {
    /// Protocol and TCP method.
    module: Option<(&'static str, &'static str)>,
    /// How long the measurement may take.
    limit: Duration,
    /// What makes it fit into that.
    pace: Pace,
}

/// How fast probes are sent and how long answers may take, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pace {
    delay: i64,
    timeout: i64,
    interval: i64,
}

impl Probe {
    /// # Errors
    /// There is no such module.
    pub(crate) fn new(query: &Query, headers: &HeaderMap, ceilings: &Ceilings) -> Result<Self, Failure> {
        let module = query.first(MODULE).map(module).transpose()?;
        let limit = limit(scrape_timeout(headers).unwrap_or(DEFAULT_SCRAPE_TIMEOUT));
        let usual = Pace {
            delay: DELAYS.0,
            timeout: TIMEOUT,
            interval: INTERVAL,
        };
        let mut probe = Probe {
            module,
            limit,
            pace: usual,
        };
        let chosen = query.read(&[], |option| probe.default(option)).parameters;
        let number = |name: &str, most: i64| match chosen.get(name) {
            Some(Value::Integer(value)) => (*value).clamp(1, most),
            _ => 1,
        };
        let named = |name: &str| query.first(name)?.parse().ok().map(|value: i64| value.max(1));
        let is_tcp = chosen.text("protocol").eq_ignore_ascii_case("tcp");
        let method = chosen.text("tcp-method").to_ascii_lowercase();
        let shape = Shape {
            max_ttl: number("max-ttl", 255),
            e2e_probes: number("e2e-queries", 65_535),
            syn: is_tcp && method != "sack",
            sack: is_tcp && method.ends_with("sack"),
            delay: named("delay"),
            timeout: named("timeout"),
            longest_timeout: (ceilings.timeout.as_millis() as i64).clamp(1, TIMEOUT),
        };
        let most = limit.mul_f64(SHARE).as_millis() as i64;
        probe.pace = Pace::within(most.max(1), shape);
        Ok(probe)
    }

    /// What stands for a parameter that the query does not name.
    pub(crate) fn default(&self, option: &TraceOption) -> Option<Value> {
        let text = |text: &str| Some(Value::Text(text.to_owned()));
        match (option.name(), self.module) {
            ("protocol", Some((protocol, _))) => text(protocol),
            ("tcp-method", Some((_, method))) => text(method),
            ("traceroute-queries", _) => Some(Value::Integer(QUERIES.0)),
            ("e2e-queries", _) => Some(Value::Integer(QUERIES.1)),
            ("timeout", _) => Some(Value::Integer(self.pace.timeout)),
            ("delay", _) => Some(Value::Integer(self.pace.delay)),
            ("e2e-interval", _) => Some(Value::Integer(self.pace.interval)),
            _ => option.default(Interface::Query),
        }
    }

    /// Carries out the request. A trace that fails has its metrics, too.
    ///
    /// # Errors
    /// The request is wrong, may not be made, or must be made later.
    pub(crate) async fn measure(
        &self,
        service: Arc<Service>,
        request: Request,
        guest: Guest,
    ) -> Result<Response, Failure> {
        let start = Instant::now();
        let measuring = async {
            Job::admit(service, request, guest, Some(self.limit))
                .await?
                .run(None)
                .await
        };
        let result = measuring.await;
        if let Err(failure) = &result
            && !failure.is_failed_trace()
        {
            return Err(failure.clone());
        }
        let sample = Sample::of(result.as_ref().ok());
        let mut response = metrics::respond(&sample.registry(start.elapsed()))?;
        if let Err(failure) = result {
            let outcome = Outcome::default();
            outcome.fail(failure);
            response.extensions_mut().insert(outcome);
        }
        Ok(response)
    }
}

fn module(name: &str) -> Result<(&'static str, &'static str), Failure> {
    let mut modules = MODULES.iter();
    let found = modules.find(|(module, ..)| module.eq_ignore_ascii_case(name));
    found
        .map(|(_, protocol, method)| (*protocol, *method))
        .ok_or_else(|| {
            let problem = format!("must be icmp, udp, tcp or sack, got {name:?}");
            Failure::invalid_parameters(InvalidParameter::new(MODULE, problem))
        })
}

fn scrape_timeout(headers: &HeaderMap) -> Option<Duration> {
    let seconds: f64 = headers.get(SCRAPE_TIMEOUT)?.to_str().ok()?.parse().ok()?;
    let time = Duration::try_from_secs_f64(seconds).ok()?;
    (!time.is_zero()).then(|| time.min(LONGEST_SCRAPE))
}

/// How long a measurement may take; of very short scrapes half.
fn limit(scrape_timeout: Duration) -> Duration {
    scrape_timeout.saturating_sub(RESERVE).max(scrape_timeout / 2)
}

/// What decides how long a measurement takes; times in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Shape {
    max_ttl: i64,
    e2e_probes: i64,
    syn: bool,
    sack: bool,
    /// What the query names.
    delay: Option<i64>,
    timeout: Option<i64>,
    /// What this server allows.
    longest_timeout: i64,
}

impl Pace {
    /// The slowest pace, no slower than usual, with which all is done `within` so many
    /// milliseconds, even where nobody answers. Around what the query names, it is one that is
    /// valid.
    fn within(within: i64, shape: Shape) -> Pace {
        let Shape {
            max_ttl, syn, sack, ..
        } = shape;
        let usual = match (syn, sack) {
            // SYN with a delay probes one TTL after the other: each may take the whole timeout.
            (true, _) => 0,
            (false, true) => DELAYS.1,
            (false, false) => DELAYS.0,
        };
        let delay = usual.min(within / 2 / max_ttl);
        let batches = if syn { (max_ttl + AT_ONCE - 1) / AT_ONCE } else { 1 };
        // The connection, too.
        let waits = batches + i64::from(sack);
        // Half of the time is for sending end-to-end probes. No delay is longer than the timeout.
        let fitting = ((within - delay * max_ttl) / waits).min(within / 2);
        let fitting = fitting.max(shape.delay.unwrap_or(1));
        let timeout = shape.timeout.unwrap_or(fitting.min(shape.longest_timeout));
        // All end-to-end probes must be sent within max-ttl × timeout. 0 leaves it to the library.
        let gaps = (shape.e2e_probes - 1).max(1);
        let room = (within - timeout)
            .max(within / 2)
            .min(max_ttl.saturating_mul(timeout));
        Pace {
            delay: delay.min(timeout),
            timeout,
            interval: INTERVAL.min(room / gaps),
        }
    }
}

/// What is reported of a measurement.
#[derive(Debug, Default)]
struct Sample {
    success: bool,
    /// No runs were wanted: what they would have shown is not known.
    has_no_runs: bool,
    /// A run reached the target.
    reached: bool,
    hops: u32,
    path_hash: u32,
    sent: u32,
    refused: u32,
    lost: Losses,
    /// `None`: none was sent.
    loss_ratio: Option<f64>,
    /// `None`: none was answered.
    rtt: Option<RttStatistics>,
    jitter: Option<Duration>,
}

impl Sample {
    /// Of a report; `None`: the trace failed. All that the metrics need of a report is read here.
    fn of(report: Option<&Report>) -> Sample {
        let Some(report) = report else {
            return Sample::default();
        };
        let probes = &report.end_to_end;
        let loss = probes.loss();
        let hops = || report.runs.iter().flat_map(|run| &run.hops);
        let answers = hops().filter_map(|hop| Some((hop.ttl, hop.answer?)));
        let reached = answers.clone().any(|(_, answer)| answer.destination);
        Sample {
            success: reached || loss.answered() > 0,
            has_no_runs: report.runs.is_empty() && report.failed_runs.is_empty(),
            reached,
            hops: report.hop_count.max,
            path_hash: hash(answers.map(|(ttl, answer)| (ttl, answer.address)).collect()),
            sent: loss.sent,
            refused: probes.refused,
            lost: probes.lost,
            loss_ratio: loss.ratio(),
            rtt: probes.rtt(),
            jitter: probes.jitter(),
        }
    }

    fn registry(&self, duration: Duration) -> Registry {
        let mut registry = Registry::with_prefix("probe");
        let seconds = |time: Option<Duration>| time.map_or(f64::NAN, |time| time.as_secs_f64());
        let of_runs = |value: f64| if self.has_no_runs { f64::NAN } else { value };
        let rtt = self.rtt.as_ref();
        for (name, help, value) in [
            (
                "success",
                "Whether the target answered",
                f64::from(u8::from(self.success)),
            ),
            (
                "duration_seconds",
                "How long the measurement took",
                duration.as_secs_f64(),
            ),
            (
                "target_reached",
                "Whether a traceroute run reached the target",
                of_runs(f64::from(u8::from(self.reached))),
            ),
            (
                "hops",
                "TTL of the last hop that answered, the target's if it did",
                of_runs(f64::from(self.hops)),
            ),
            (
                "path_hash",
                "Hash of the hops that answered: another value, another path",
                of_runs(f64::from(self.path_hash)),
            ),
            ("e2e_sent", "End-to-end probes sent", f64::from(self.sent)),
            (
                "e2e_refused",
                "End-to-end probes that the service's machine refused to send",
                f64::from(self.refused),
            ),
            (
                "e2e_loss_ratio",
                "Share of the end-to-end probes without an answer; NaN where none was sent",
                self.loss_ratio.unwrap_or(f64::NAN),
            ),
            (
                "e2e_rtt_min_seconds",
                "Shortest round-trip time of the end-to-end probes; NaN without an answer",
                seconds(rtt.map(|rtt| rtt.min)),
            ),
            (
                "e2e_rtt_avg_seconds",
                "Mean round-trip time of the end-to-end probes; NaN without an answer",
                seconds(rtt.map(|rtt| rtt.avg)),
            ),
            (
                "e2e_rtt_max_seconds",
                "Longest round-trip time of the end-to-end probes; NaN without an answer",
                seconds(rtt.map(|rtt| rtt.max)),
            ),
            (
                "e2e_jitter_seconds",
                "Mean difference of consecutive round-trip times; NaN with fewer than two answers",
                seconds(self.jitter),
            ),
        ] {
            registry.register(name, help, ConstGauge::new(value));
        }
        let lost = Family::<Labels<1>, Gauge>::default();
        for cause in Cause::ALL {
            let count = self.lost[cause];
            lost.get_or_create(&[("cause", cause.name())]).set(count.into());
        }
        registry.register("e2e_lost", "End-to-end probes without an answer, by cause", lost);
        registry
    }
}

/// FNV-1a of 32 bits, which a metric's value holds exactly: the same for the same hops
/// in any build.
fn hash(hops: BTreeSet<(u8, IpAddr)>) -> u32 {
    let bytes = hops.into_iter().flat_map(|(ttl, address)| {
        let octets = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        std::iter::once(ttl).chain(octets)
    });
    bytes.fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use datadog_traceroute::Protocol;
    use prometheus_client::encoding::text::encode;

    use super::*;

    fn headers(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(SCRAPE_TIMEOUT, value.parse().unwrap());
        headers
    }

    #[test]
    fn the_time_that_prometheus_leaves() {
        for (header, milliseconds) in [
            ("10", 9500),
            ("5.000000", 4500),
            ("1", 500),
            ("0.4", 200),
            ("0", 9500),
            ("-1", 9500),
            ("x", 9500),
            ("nan", 9500),
            ("1e18", 3_599_500),
        ] {
            let probe = Probe::new(&Query::parse(""), &headers(header), &Ceilings::default()).unwrap();
            assert_eq!(probe.limit.as_millis(), milliseconds, "{header}");
        }
    }

    /// Whatever is asked for and however little time there is, valid parameters come out of it with
    /// which even silence fits.
    #[test]
    fn silence_fits_into_the_scrape() {
        for module in ["icmp", "udp", "tcp", "sack"] {
            for seconds in ["0.5", "1", "3", "10", "60"] {
                for query in ["", "max-ttl=1", "max-ttl=255", "e2e-queries=1", "e2e-queries=50"] {
                    let query = Query::parse(&format!("target=192.0.2.1&module={module}&{query}"));
                    let probe = Probe::new(&query, &headers(seconds), &Ceilings::default()).unwrap();
                    let asked = query.read(&[MODULE], |option| probe.default(option));
                    let request = asked.parameters.validate().unwrap();
                    let (timeout, ttl) = (request.timeout(), u32::from(request.max_ttl()));
                    let delay = request.delay().unwrap();
                    let gaps = request.e2e_probes() - 1;
                    let waits = match module {
                        "tcp" => ttl.div_ceil(16),
                        "sack" => 2,
                        _ => 1,
                    };
                    let run = delay * ttl + timeout * waits;
                    let e2e = request.e2e_interval().unwrap() * gaps + timeout;
                    let longest = run.max(e2e);
                    assert!(longest <= probe.limit, "{module} {seconds}: {longest:?}");
                }
            }
        }
    }

    /// What the query names, and what the server allows, may be anything: the defaults around it
    /// are valid, and what is refused is what was named.
    #[test]
    fn defaults_agree_with_what_is_named() {
        let timeout = Duration::from_millis(30);
        for ceilings in [
            Ceilings::default(),
            Ceilings {
                timeout,
                ..Ceilings::default()
            },
        ] {
            for seconds in ["0.5", "10"] {
                for query in [
                    "",
                    "timeout=20",
                    "timeout=20&max-ttl=1",
                    "timeout=1&max-ttl=1&e2e-queries=5000",
                    "delay=25",
                    "max-ttl=1&e2e-queries=50",
                    "e2e-queries=65535",
                ] {
                    for module in ["udp", "tcp"] {
                        let query = Query::parse(&format!("target=192.0.2.1&module={module}&{query}"));
                        let probe = Probe::new(&query, &headers(seconds), &ceilings).unwrap();
                        let default = |option: &TraceOption| ceilings.clamp(option, probe.default(option));
                        let parameters = query.read(&[MODULE], default).parameters;
                        let request = parameters.validate();
                        assert!(request.is_ok(), "{seconds} {module}: {request:?}");
                        assert_eq!(ceilings.check(&request.unwrap()), Ok(()));
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_usual_stays_where_there_is_time() {
        for (module, delay) in [("icmp", 50), ("udp", 50), ("tcp", 0), ("sack", 10)] {
            let query = Query::parse(&format!("module={module}"));
            let probe = Probe::new(&query, &headers("8.5"), &Ceilings::default()).unwrap();
            let usual = Pace {
                delay,
                timeout: 3000,
                interval: 1000,
            };
            assert_eq!(probe.pace, usual, "{module}");
        }
    }

    #[test]
    fn what_no_run_has_looked_at_is_not_measured() {
        let report = Report::new("192.0.2.1", 80, Protocol::Tcp, Vec::new());
        for (report, value) in [(Some(&report), "NaN"), (None, "0.0")] {
            let mut text = String::new();
            let registry = Sample::of(report).registry(Duration::ZERO);
            encode(&mut text, &registry).unwrap();
            for name in ["target_reached", "hops", "path_hash"] {
                let line = format!("\nprobe_{name} {value}\n");
                assert!(text.contains(&line), "{line}{text}");
            }
        }
    }

    #[test]
    fn the_hash_is_of_the_hops_that_answered() {
        let hops = |text: &str| {
            let hop = |(ttl, address): (u8, &str)| Some((ttl, address.parse().ok()?));
            hash((1..).zip(text.split(' ')).filter_map(hop).collect())
        };
        let path = hops("192.0.2.1 * 192.0.2.9");
        assert_eq!(path, hops("192.0.2.1 * 192.0.2.9"));
        for other in [
            "192.0.2.1 192.0.2.9",
            "192.0.2.9 * 192.0.2.1",
            "* * 192.0.2.9",
            "*",
        ] {
            assert_ne!(path, hops(other), "{other}");
        }
        assert_eq!(hash(BTreeSet::new()), 0x811c_9dc5);
    }
}
