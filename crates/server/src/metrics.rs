//! `GET /metrics`: counters in Prometheus' text format
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use datadog_traceroute::{Cause, EndToEnd, Statistics};

/// What the service counts itself.
#[derive(Default)]
pub(crate) struct Metrics {
    in_flight: AtomicU64,
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    errors: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    durations: Mutex<BTreeMap<&'static str, Histogram<14>>>,
    e2e_lost: AtomicU64,
    e2e_rtts: Mutex<Histogram<15>>,
}

/// Upper bounds of request durations, in seconds.
const DURATIONS: [f64; 14] = [
    0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
];
/// Upper bounds of round-trip times, in seconds.
const RTTS: [f64; 15] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0,
];

impl Metrics {
    pub(crate) fn begin_request(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn end_request(&self, path: &'static str, status: u16, duration: Duration) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        *lock(&self.requests).entry((path, status)).or_default() += 1;
        lock(&self.durations)
            .entry(path)
            .or_default()
            .add(&DURATIONS, duration.as_secs_f64());
    }

    /// Counts a request without a result, by path and code; streams too, whose status is 200 all
    /// the same.
    pub(crate) fn count_error(&self, path: &'static str, code: &'static str) {
        *lock(&self.errors).entry((path, code)).or_default() += 1;
    }

    pub(crate) fn count_e2e(&self, probes: &EndToEnd) {
        let lost = probes.loss().lost;
        self.e2e_lost.fetch_add(u64::from(lost), Ordering::Relaxed);
        let mut rtts = lock(&self.e2e_rtts);
        for rtt in probes.rtts.iter().flatten() {
            rtts.add(&RTTS, rtt.as_secs_f64());
        }
    }

    /// Everything, with the engine's counters where it has begun.
    pub(crate) fn write(&self, engine: Option<&Statistics>) -> String {
        let mut page = Page(String::new());
        // Writing to a string does not fail.
        let _ = self.write_requests(&mut page);
        let _ = self.write_e2e(&mut page);
        let _ = write_engine(&mut page, engine.copied().unwrap_or_default());
        page.0
    }

    fn write_requests(&self, page: &mut Page) -> fmt::Result {
        let name = "traceroute_http_requests_total";
        page.head(
            name,
            "counter",
            "Requests answered, by path and status; 499: the client went away.",
        )?;
        for ((path, status), count) in &*lock(&self.requests) {
            writeln!(page.0, "{name}{{path=\"{path}\",status=\"{status}\"}} {count}")?;
        }
        let name = "traceroute_http_errors_total";
        page.head(
            name,
            "counter",
            "Requests answered with an error, by path and code; streams that end with one too, though their status is 200.",
        )?;
        for ((path, code), count) in &*lock(&self.errors) {
            writeln!(page.0, "{name}{{path=\"{path}\",code=\"{code}\"}} {count}")?;
        }
        page.value(
            "traceroute_http_requests_in_flight",
            "gauge",
            "Requests not yet answered.",
            self.in_flight.load(Ordering::Relaxed),
        )?;
        let name = "traceroute_http_request_duration_seconds";
        page.head(
            name,
            "histogram",
            "Time from a request's header to the end of its response.",
        )?;
        for (path, histogram) in &*lock(&self.durations) {
            page.histogram(name, &format!("path=\"{path}\""), &DURATIONS, histogram)?;
        }
        Ok(())
    }

    fn write_e2e(&self, page: &mut Page) -> fmt::Result {
        page.value(
            "traceroute_e2e_probes_lost_total",
            "counter",
            "End-to-end probes of finished requests without an answer.",
            self.e2e_lost.load(Ordering::Relaxed),
        )?;
        let name = "traceroute_e2e_rtt_seconds";
        page.head(
            name,
            "histogram",
            "Round-trip times of end-to-end probes of finished requests.",
        )?;
        page.histogram(name, "", &RTTS, &lock(&self.e2e_rtts))
    }
}

fn write_engine(page: &mut Page, statistics: Statistics) -> fmt::Result {
    let Statistics {
        running,
        engine,
        network,
    } = statistics;
    page.value(
        "traceroute_traces_in_flight",
        "gauge",
        "Runs, and series of end-to-end probes, in flight.",
        running as u64,
    )?;
    for (name, help, value) in [
        (
            "traces_started",
            "Runs, and series of end-to-end probes, started.",
            engine.started,
        ),
        (
            "traces_finished",
            "Runs, and series of end-to-end probes, that ended by themselves.",
            engine.finished,
        ),
        (
            "traces_cancelled",
            "Runs, and series of end-to-end probes, cancelled.",
            engine.cancelled,
        ),
        ("probes_sent", "Probes sent.", engine.sent),
        (
            "probe_send_retries",
            "Probes that the kernel asked to send again later.",
            engine.send_retries,
        ),
        (
            "probe_send_errors",
            "Probes that the kernel refused.",
            engine.send_errors,
        ),
        (
            "runs_cut_short",
            "Runs that stopped waiting for answers held back by a limit, because others needed their ports.",
            engine.cut_short,
        ),
        (
            "responders_forgotten",
            "Responders and places forgotten because too many were known.",
            engine.responders_forgotten,
        ),
        ("replies_matched", "Replies credited to a probe.", engine.matched),
        (
            "replies_translated",
            "Matched replies that show a NAT on the path.",
            engine.translated,
        ),
    ] {
        page.value(&format!("traceroute_{name}_total"), "counter", help, value)?;
    }
    page.value(
        "traceroute_responders",
        "gauge",
        "Addresses whose limits on answers are known.",
        engine.responders,
    )?;
    let name = "traceroute_probes_lost_total";
    page.head(
        name,
        "counter",
        "Probes of finished runs and series without an answer, by cause.",
    )?;
    for cause in Cause::ALL {
        writeln!(
            page.0,
            "{name}{{cause=\"{}\"}} {}",
            cause.name(),
            engine.lost[cause]
        )?;
    }
    let name = "traceroute_replies_ignored_total";
    page.head(
        name,
        "counter",
        "Captured packets credited to no probe, by reason.",
    )?;
    for (reason, count) in engine.not_credited() {
        writeln!(page.0, "{name}{{reason=\"{reason}\"}} {count}")?;
    }
    for (name, help, value) in [
        (
            "captured_packets",
            "Packets that passed the capture's filter.",
            network.captured,
        ),
        (
            "kernel_drops",
            "Packets that the kernel dropped because its buffer was full.",
            network.kernel_drops,
        ),
        (
            "kernel_send_stamps",
            "Probes whose send time the kernel told.",
            network.kernel_send_stamps,
        ),
    ] {
        page.value(&format!("traceroute_{name}_total"), "counter", help, value)?;
    }
    page.value(
        "traceroute_sockets",
        "gauge",
        "Open probing sockets.",
        network.sockets,
    )?;
    let ports = network.reserved_ports;
    page.value("traceroute_reserved_ports", "gauge", "Local ports in use.", ports)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts by upper bound; not yet cumulated.
struct Histogram<const N: usize> {
    counts: [u64; N],
    count: u64,
    sum: f64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Histogram {
            counts: [0; N],
            count: 0,
            sum: 0.0,
        }
    }
}

impl<const N: usize> Histogram<N> {
    fn add(&mut self, bounds: &[f64; N], value: f64) {
        if let Some(index) = bounds.iter().position(|bound| value <= *bound) {
            self.counts[index] += 1;
        }
        self.count += 1;
        self.sum += value;
    }
}

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) -> fmt::Result {
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}")
    }

    fn value(&mut self, name: &str, kind: &str, help: &str, value: u64) -> fmt::Result {
        self.head(name, kind, help)?;
        writeln!(self.0, "{name} {value}")
    }

    fn histogram<const N: usize>(
        &mut self,
        name: &str,
        labels: &str,
        bounds: &[f64; N],
        histogram: &Histogram<N>,
    ) -> fmt::Result {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut cumulated = 0;
        for (bound, count) in bounds.iter().zip(histogram.counts) {
            cumulated += count;
            writeln!(
                self.0,
                "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {cumulated}"
            )?;
        }
        let Histogram { count, sum, .. } = histogram;
        writeln!(self.0, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}")?;
        let braces = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{labels}}}")
        };
        writeln!(self.0, "{name}_sum{braces} {sum}\n{name}_count{braces} {count}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_by_path_and_status() {
        let metrics = Metrics::default();
        for _ in 0..3 {
            metrics.begin_request();
        }
        metrics.end_request("/traceroute", 200, Duration::from_millis(60));
        metrics.end_request("/traceroute", 500, Duration::from_secs(1000));
        let text = metrics.write(None);
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
        let text = Metrics::default().write(Some(&statistics));
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
        let text = metrics.write(None);
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
        let text = metrics.write(None);
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
