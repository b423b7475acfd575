//! `GET /metrics`: what the service and the engine count, in Prometheus' text format.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::response::Response;
use datadog_traceroute::{Cause, EndToEnd, Statistics};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::prometheus_text::{CONTENT_TYPE, encode};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use traceroute_flags::{COMMIT, VERSION};

use crate::connections::ConnectionCounters;
use crate::failure::{Failure, Fault};
use crate::limits::Scarce;
use crate::tokens::NamedTokens;
use crate::{logging, router};

/// What the service counts itself.
pub(crate) struct Metrics {
    in_flight: Gauge,
    requests: Family<RequestLabels, Counter>,
    errors: Family<Labels<3>, Counter>,
    durations: Family<Labels<1>, Histogram, fn() -> Histogram>,
    e2e_lost: Counter,
    e2e_rtts: Histogram,
    pub(crate) connections: ConnectionCounters,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    path: &'static str,
    status: u16,
}

/// Names and values of labels.
pub(crate) type Labels<const N: usize> = [(&'static str, &'static str); N];

/// Upper bounds of request durations, in seconds.
const DURATIONS: [f64; 14] = [
    0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
];
/// Upper bounds of round-trip times, in seconds.
const RTTS: [f64; 15] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0,
];

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            in_flight: Gauge::default(),
            requests: Family::default(),
            errors: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(DURATIONS)),
            e2e_lost: Counter::default(),
            e2e_rtts: Histogram::new(RTTS),
            connections: ConnectionCounters::default(),
        }
    }
}

impl Metrics {
    pub(crate) fn begin_request(&self) {
        self.in_flight.inc();
    }

    pub(crate) fn end_request(&self, path: &'static str, status: u16, duration: Duration) {
        self.in_flight.dec();
        self.requests.get_or_create(&RequestLabels { path, status }).inc();
        let durations = self.durations.get_or_create(&[("path", path)]);
        durations.observe(duration.as_secs_f64());
    }

    /// Counts a request without a result; streams too, whose status is 200 all the same.
    pub(crate) fn count_error(&self, path: &'static str, code: &'static str, fault: Fault) {
        let labels = [("path", path), ("code", code), ("fault", fault.name())];
        self.errors.get_or_create(&labels).inc();
    }

    pub(crate) fn count_e2e(&self, probes: &EndToEnd) {
        self.e2e_lost.inc_by(probes.loss().lost.into());
        for rtt in probes.rtts.iter().flatten() {
            self.e2e_rtts.observe(rtt.as_secs_f64());
        }
    }

    /// Everything, with the engine's counters; zeros where it has not begun.
    pub(crate) fn registry(
        &self,
        engine: Option<Statistics>,
        refused: impl IntoIterator<Item = (Scarce, u64)>,
        tokens: &NamedTokens,
        certificate_end: Option<SystemTime>,
    ) -> Registry {
        let mut registry = Registry::with_prefix("traceroute");
        registry.register(
            "build",
            "The version and commit of the service",
            Info::new([("version", VERSION), ("revision", COMMIT)]),
        );
        registry.register(
            "http_requests",
            "Requests answered, by path and status; 499: the client went away",
            self.requests.clone(),
        );
        registry.register(
            "http_errors",
            "Requests answered with an error, by path, code and fault; probes and streams too, though their status is 200",
            self.errors.clone(),
        );
        registry.register(
            "http_requests_in_flight",
            "Requests not yet answered",
            self.in_flight.clone(),
        );
        registry.register(
            "http_request_duration_seconds",
            "Time from a request's header to the end of its response",
            self.durations.clone(),
        );
        registry.register("connections", "Open connections", self.connections.open.clone());
        registry.register(
            "connections_closed",
            "Connections closed to make room, by reason: idle ones, and those of the reserve",
            self.connections.closed.clone(),
        );
        registry.register(
            "tls_handshakes_failed",
            "TLS handshakes that failed, by reason",
            self.connections.failed_handshakes.clone(),
        );
        if let Some(since) = certificate_end.and_then(|end| end.duration_since(UNIX_EPOCH).ok()) {
            registry.register(
                "tls_certificate_end_timestamp_seconds",
                "When the service's certificate ends",
                ConstGauge::new(since.as_secs()),
            );
        }
        let refused = refused
            .into_iter()
            .map(|(scarce, count)| ("scarce", scarce.name(), count));
        registry.register(
            "requests_refused",
            "Requests refused with 503 or 429, by what there was not enough of",
            counters(refused),
        );
        let missing = logging::missing_lines().map(|(reason, lines)| ("reason", reason, lines));
        registry.register(
            "log_lines_missing",
            "Lines missing from the log: nobody read it, or there were too many of requests that cost nothing",
            counters(missing),
        );
        registry.register(
            "e2e_probes_lost",
            "End-to-end probes of finished requests without an answer",
            self.e2e_lost.clone(),
        );
        registry.register(
            "e2e_rtt_seconds",
            "Round-trip times of end-to-end probes of finished requests",
            self.e2e_rtts.clone(),
        );
        register_tokens(&mut registry, tokens);
        register_engine(&mut registry, engine.unwrap_or_default());
        registry
    }
}

/// Of the tokens that there are now, so that reading others makes no series without end.
fn register_tokens(registry: &mut Registry, tokens: &NamedTokens) {
    if tokens.is_empty() {
        return;
    }
    let [requests, refused] = [0, 1].map(|which| {
        let family = Family::<[(&'static str, String); 1], Counter>::default();
        for token in tokens.iter() {
            let counter = family.get_or_create_owned(&[("token", token.name.clone())]);
            counter.inc_by(token.counts()[which]);
        }
        family
    });
    registry.register(
        "token_requests",
        "Requests that showed a token with a name",
        requests,
    );
    registry.register(
        "token_requests_refused",
        "Requests of a token that its own limits refused, with 429",
        refused,
    );
}

fn register_engine(registry: &mut Registry, statistics: Statistics) {
    let Statistics {
        running,
        engine,
        network,
    } = statistics;
    for (name, help, value) in [
        (
            "traces_started",
            "Runs, and series of end-to-end probes, started",
            engine.started,
        ),
        (
            "traces_finished",
            "Runs, and series of end-to-end probes, that ended by themselves",
            engine.finished,
        ),
        (
            "traces_cancelled",
            "Runs, and series of end-to-end probes, cancelled",
            engine.cancelled,
        ),
        ("probes_sent", "Probes sent", engine.sent),
        (
            "probe_send_retries",
            "Probes that the kernel asked to send again later",
            engine.send_retries,
        ),
        (
            "probe_send_errors",
            "Probes that the kernel refused",
            engine.send_errors,
        ),
        (
            "runs_cut_short",
            "Runs that stopped waiting for answers held back by a limit, because others needed their ports",
            engine.cut_short,
        ),
        (
            "responders_forgotten",
            "Responders and places forgotten because too many were known",
            engine.responders_forgotten,
        ),
        ("replies_matched", "Replies credited to a probe", engine.matched),
        (
            "replies_translated",
            "Matched replies that show a NAT on the path",
            engine.translated,
        ),
        (
            "captured_packets",
            "Packets that passed the capture's filter",
            network.captured,
        ),
        (
            "kernel_drops",
            "Packets that the kernel dropped because its buffer was full",
            network.kernel_drops,
        ),
        (
            "kernel_send_stamps",
            "Probes whose send time the kernel told",
            network.kernel_send_stamps,
        ),
    ] {
        registry.register(name, help, ConstCounter::new(value));
    }
    for (name, help, value) in [
        (
            "traces_in_flight",
            "Runs, and series of end-to-end probes, in flight",
            running as u64,
        ),
        (
            "responders",
            "Addresses whose limits on answers are known",
            engine.responders,
        ),
        ("sockets", "Open probing sockets", network.sockets),
        ("reserved_ports", "Local ports in use", network.reserved_ports),
    ] {
        registry.register(name, help, ConstGauge::new(value));
    }
    let lost = Cause::ALL.map(|cause| ("cause", cause.name(), engine.lost[cause].into()));
    registry.register(
        "probes_lost",
        "Probes of finished runs and series without an answer, by cause",
        counters(lost),
    );
    let ignored = engine.not_credited();
    let ignored = ignored.map(|(reason, count)| ("reason", reason, count));
    registry.register(
        "replies_ignored",
        "Captured packets credited to no probe, by reason",
        counters(ignored),
    );
}

/// A counter for each label, its value and the count.
fn counters(
    counts: impl IntoIterator<Item = (&'static str, &'static str, u64)>,
) -> Family<Labels<1>, Counter> {
    let family = Family::<Labels<1>, Counter>::default();
    for (label, value, count) in counts {
        family.get_or_create(&[(label, value)]).inc_by(count);
    }
    family
}

/// The metrics as a response.
///
/// # Errors
/// None in practice: it is written to memory.
pub(crate) fn respond(registry: &Registry) -> Result<Response, Failure> {
    let mut text = String::new();
    encode(&mut text, registry).map_err(Failure::encoding)?;
    Ok(router::respond(CONTENT_TYPE, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &Metrics, engine: Option<Statistics>) -> String {
        let mut text = String::new();
        encode(
            &mut text,
            &metrics.registry(engine, [], &NamedTokens::default(), None),
        )
        .unwrap();
        text
    }

    #[test]
    fn requests_by_path_and_status() {
        let metrics = Metrics::default();
        for _ in 0..3 {
            metrics.begin_request();
        }
        metrics.end_request("/traceroute", 200, Duration::from_millis(60));
        metrics.end_request("/traceroute", 500, Duration::from_secs(1000));
        let text = text(&metrics, None);
        for line in [
            "traceroute_http_requests_total{path=\"/traceroute\",status=\"200\"} 1",
            "traceroute_http_requests_total{path=\"/traceroute\",status=\"500\"} 1",
            "traceroute_http_requests_in_flight 1",
            "traceroute_http_request_duration_seconds_bucket{path=\"/traceroute\",le=\"0.05\"} 0",
            "traceroute_http_request_duration_seconds_bucket{path=\"/traceroute\",le=\"0.1\"} 1",
            "traceroute_http_request_duration_seconds_bucket{path=\"/traceroute\",le=\"300\"} 1",
            "traceroute_http_request_duration_seconds_bucket{path=\"/traceroute\",le=\"+Inf\"} 2",
            "traceroute_http_request_duration_seconds_count{path=\"/traceroute\"} 2",
            "traceroute_probes_sent_total 0",
            "traceroute_replies_ignored_total{reason=\"bad_checksum\"} 0",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line}\nis not in\n{text}"
            );
        }
    }

    /// Every cause is there from the beginning, so that a rate can be made of it.
    #[test]
    fn lost_probes_by_cause_and_what_is_known_of_limits() {
        let mut statistics = Statistics::default();
        statistics.engine.lost.add(Cause::RateLimited, 7);
        statistics.engine.lost.add(Cause::Network, 2);
        statistics.engine.responders = 3;
        statistics.engine.responders_forgotten = 4;
        statistics.engine.cut_short = 5;
        let text = text(&Metrics::default(), Some(statistics));
        for line in [
            "traceroute_probes_lost_total{cause=\"network\"} 2",
            "traceroute_probes_lost_total{cause=\"rate_limited\"} 7",
            "traceroute_probes_lost_total{cause=\"silent\"} 0",
            "traceroute_probes_lost_total{cause=\"filtered\"} 0",
            "traceroute_probes_lost_total{cause=\"local\"} 0",
            "traceroute_probes_lost_total{cause=\"unknown\"} 0",
            "traceroute_responders 3",
            "traceroute_responders_forgotten_total 4",
            "traceroute_runs_cut_short_total 5",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line}\nis not in\n{text}"
            );
        }
    }

    #[test]
    fn end_to_end_probes() {
        let metrics = Metrics::default();
        metrics.count_e2e(&EndToEnd::new(
            [200, 0, 2000, 5_000_000]
                .map(|micros| (micros > 0).then(|| Duration::from_micros(micros)))
                .to_vec(),
        ));
        let text = text(&metrics, None);
        for line in [
            "traceroute_e2e_probes_lost_total 1",
            "traceroute_e2e_rtt_seconds_bucket{le=\"0.0001\"} 0",
            "traceroute_e2e_rtt_seconds_bucket{le=\"0.00025\"} 1",
            "traceroute_e2e_rtt_seconds_bucket{le=\"3\"} 2",
            "traceroute_e2e_rtt_seconds_bucket{le=\"+Inf\"} 3",
            "traceroute_e2e_rtt_seconds_count 3",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line}\nis not in\n{text}"
            );
        }
    }

    #[test]
    fn every_line_has_the_formats_shape() {
        let metrics = Metrics::default();
        metrics.end_request_for_test();
        let text = text(&metrics, None);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let name = name.split('{').next().unwrap();
            assert!(
                name.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{line}"
            );
        }
    }

    impl Metrics {
        fn end_request_for_test(&self) {
            self.begin_request();
            self.end_request("/", 200, Duration::ZERO);
        }
    }
}
