//! How well the causes of lost probes are recognised: on random networks in which it is known
//! what happens where.
//!
//! Each network has a random length and, at random places, some of these mechanisms: a link that
//! loses packets, limits on ICMP errors with several runs at once, silent routers, a filter or a
//! silent target, and a machine that refuses to send. [`Sample::run`] traces it as the library does
//! for a request, and counts what was said of each lost probe against what is true.
//!
//! What is true of a place:
//!
//! - this machine refused to send the probe: `local`;
//! - a filter is before it, or it is the target and silent: `filtered`;
//! - it is a silent router: `silent`;
//! - of the other lost probes, as many as the node's limiter counted are `rate_limited`, and the
//!   rest `network`.
//!
//! In an [unambiguous](Sample::is_unambiguous) network each place has one mechanism at most. In the
//! others probes to a node with a limit cross the link that loses, too: then which of both took a
//! probe cannot always be told.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use traceroute_engine::{Cause, Losses, Method, TraceId, TraceSpec};
use traceroute_simnet::{Dropped, Network, Topology, TopologyError};

use crate::Simulation;
use crate::journal::header;

const TIMEOUT: Duration = Duration::from_secs(1);
const MAX_TTL: u8 = 18;
/// What a request may take longer than its TTLs' timeouts.
const EXTRA: Duration = Duration::from_secs(4);

/// Limits, with their share among networks that have any.
const LIMITS: [&str; 6] = [
    "\"linux\"",
    "\"linux\"",
    "{ interval = 1000, burst = 1 }",
    "{ interval = 500, burst = 1, per = \"all\" }",
    "{ interval = 250, burst = 3 }",
    "{ interval = 100, burst = 10, per = \"all\" }",
];

/// A random network and what to do with it.
#[derive(Debug, Clone)]
pub struct Sample {
    /// It repeats exactly.
    pub seed: u64,
    routers: u8,
    method: Method,
    v6: bool,
    /// The link that loses leads to this place; with which share; on the way back.
    lossy: Option<(u8, f64, bool)>,
    /// Places with a limit. The target's number is that of the routers and one more.
    limited: BTreeMap<u8, &'static str>,
    silent: Vec<u8>,
    filter: Filter,
    /// Share of probes that this machine refuses to send.
    refused: f64,
    runs: u32,
    e2e_queries: u32,
}

/// What keeps everything away from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filter {
    None,
    /// This router forwards nothing.
    After(u8),
    SilentTarget,
}

impl Sample {
    /// The sample with this number.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let routers = rng.u8(2..=14);
        let target = routers + 1;
        let chance = |rng: &mut Rng, share: f64| rng.f64() < share;
        let mut sample = Sample {
            seed,
            routers,
            method: [Method::Icmp, Method::Udp, Method::TcpSyn][rng.usize(..3)],
            v6: rng.bool(),
            lossy: None,
            limited: BTreeMap::new(),
            silent: Vec::new(),
            filter: Filter::None,
            refused: 0.0,
            runs: rng.u32(3..=5),
            e2e_queries: if rng.bool() { rng.u32(5..=30) } else { 0 },
        };
        if chance(&mut rng, 0.5) {
            let limit = LIMITS[rng.usize(..LIMITS.len())];
            let everywhere = rng.bool();
            for place in 1..=target {
                if everywhere || rng.bool() {
                    sample.limited.insert(place, limit);
                }
            }
            sample.runs = rng.u32(4..=12);
        }
        if chance(&mut rng, 0.6) {
            // Mostly after the last limit: there one cannot be taken for the other.
            let after = sample.limited.keys().copied().max().unwrap_or(0);
            let is_apart = after < target && chance(&mut rng, 0.8);
            let lowest = if is_apart { after + 1 } else { 1 };
            let share = f64::from(rng.u32(20..=300)) / 1000.0;
            sample.lossy = Some((rng.u8(lowest..=target), share, rng.bool()));
        }
        for place in 1..=routers {
            if chance(&mut rng, 0.1) {
                sample.silent.push(place);
            }
        }
        if chance(&mut rng, 0.25) {
            let last = rng.u8(1..=routers);
            sample.filter = if last == routers && rng.bool() {
                Filter::SilentTarget
            } else {
                Filter::After(last)
            };
            // Who does not answer just before a filter might as well be after it.
            let mut before = last;
            while before > 0 && sample.silent.contains(&before) {
                sample.silent.retain(|silent| *silent != before);
                before -= 1;
            }
        }
        if chance(&mut rng, 0.2) {
            sample.refused = f64::from(rng.u32(50..=400)) / 1000.0;
            sample.e2e_queries = 0;
        }
        sample
    }

    /// Each place has at most one mechanism that loses some probes and answers others.
    pub fn is_unambiguous(&self) -> bool {
        let first_lossy = self.lossy.map_or(u8::MAX, |(link, ..)| link);
        self.limited.range(first_lossy..).next().is_none()
    }

    /// The topology file.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for place in 1..=self.routers {
            let _ = write!(
                text,
                "[[hop]]\nname = \"{}\"\nv4 = \"10.0.{place}.1\"\nv6 = \"2001:db8:{place:x}::1\"\n{}",
                name(place),
                self.lines(place)
            );
        }
        let _ = write!(
            text,
            "[[target]]\nname = \"{}\"\nv4 = \"198.51.100.11\"\nv6 = \"2001:db8:ffff::11\"\n{}",
            name(self.routers + 1),
            self.lines(self.routers + 1)
        );
        if self.filter == Filter::SilentTarget {
            text.push_str("echo = false\nudp = { default = \"silent\" }\ntcp = { default = \"silent\" }\n");
        } else {
            text.push_str("tcp = { open = [80] }\n");
        }
        text
    }

    fn lines(&self, place: u8) -> String {
        let mut text = String::from("delay = 2\n");
        if let Some((_, share, is_back)) = self.lossy.filter(|(link, ..)| *link == place) {
            let direction = if is_back { "back" } else { "forward" };
            let _ = writeln!(text, "{direction} = {{ loss = {share} }}");
        }
        if let Some(limit) = self.limited.get(&place) {
            let _ = writeln!(text, "icmp = {{ limit = {limit} }}");
        }
        if self.silent.contains(&place) {
            text.push_str("silent = true\n");
        }
        if self.filter == Filter::After(place) {
            text.push_str("block = [{}]\n");
        }
        text
    }

    /// Traces it. What was said of the lost probes, against what is true.
    ///
    /// # Errors
    /// The topology is wrong.
    pub fn run(&self) -> Result<Matrix, TopologyError> {
        Ok(self
            .places()?
            .into_values()
            .fold(Matrix::default(), |mut sum, matrix| {
                sum.add_all(&matrix);
                sum
            }))
    }

    /// The same for each place, the target's included.
    ///
    /// # Errors
    /// The topology is wrong.
    pub fn places(&self) -> Result<BTreeMap<u8, Matrix>, TopologyError> {
        let topology = Topology::parse("sample", &self.text())?;
        let mut simulation = Simulation::new(Network::new(&topology, self.seed), self.seed);
        let refused = Rc::new(RefCell::new(BTreeMap::new()));
        if self.refused > 0.0 {
            let (count, share) = (Rc::clone(&refused), self.refused);
            let mut rng = Rng::with_seed(self.seed + 1);
            simulation.refuse = Some(Box::new(move |packet| {
                // A run whose first probe cannot leave is an error, not a result.
                let ttl = header(packet).map_or(0, |(.., ttl)| ttl);
                let is_refused = ttl > 1 && rng.f64() < share;
                if is_refused {
                    *count.borrow_mut().entry(ttl).or_insert(0) += 1;
                }
                is_refused
            }));
        }
        let target: IpAddr = if self.v6 {
            [0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x11].into()
        } else {
            [198, 51, 100, 11].into()
        };
        let port = if self.method == Method::Udp { 33434 } else { 80 };
        let interval = self.interval();
        let longest = TIMEOUT * u32::from(MAX_TTL) + EXTRA;
        let spec = TraceSpec {
            longest,
            linger: interval * self.e2e_queries.saturating_sub(1),
            ..TraceSpec::full(self.method, target, port, MAX_TTL, TIMEOUT)
        };
        let runs: Vec<TraceId> = (0..self.runs).map(|_| simulation.start(spec)).collect();
        let series = (self.e2e_queries > 0).then(|| {
            let single = TraceSpec {
                longest,
                ..TraceSpec::single(self.method, target, port, MAX_TTL, TIMEOUT)
            };
            simulation.start(TraceSpec::end_to_end(single, self.e2e_queries, interval, false))
        });
        // What goes farther than the target is answered there.
        let target_place = self.routers + 1;
        let mut said: BTreeMap<u8, Losses> = BTreeMap::new();
        for run in runs {
            if let Ok(result) = simulation.finish(run) {
                for hop in &result.hops {
                    *said.entry(hop.ttl.min(target_place)).or_default() += hop.lost;
                }
            }
        }
        if let Some(result) = series.and_then(|series| simulation.finish_series(series).ok()) {
            *said.entry(target_place).or_default() += result.lost;
        }
        simulation.drain();
        let mut matrices = BTreeMap::new();
        for (place, said) in said {
            let counters = simulation.network.counters(&name(place));
            let limited = counters.map_or(0, |counters| counters.dropped(Dropped::RateLimited)) as u32;
            let last = if place == target_place { MAX_TTL } else { place };
            let refused = refused.borrow().range(place..=last).map(|(_, count)| count).sum();
            let mut matrix = Matrix::default();
            matrix.add(self.truth(place, said.total(), refused, limited), said);
            matrices.insert(place, matrix);
        }
        Ok(matrices)
    }

    fn interval(&self) -> Duration {
        let longest = TIMEOUT * u32::from(MAX_TTL);
        (longest / self.e2e_queries.max(1)).min(Duration::from_secs(1))
    }

    /// Why `total` probes to this place are lost. This machine refused `refused` of them, and a
    /// limit took `limited`.
    fn truth(&self, place: u8, total: u32, refused: u32, limited: u32) -> Losses {
        let mut truth = Losses::default();
        let local = refused.min(total);
        truth.add(Cause::Local, local);
        let rest = total - local;
        let is_filtered = match self.filter {
            Filter::None => false,
            Filter::After(last) => place > last,
            Filter::SilentTarget => place > self.routers,
        };
        if is_filtered {
            truth.add(Cause::Filtered, rest);
        } else if self.silent.contains(&place) {
            truth.add(Cause::Silent, rest);
        } else {
            let limited = limited.min(rest);
            truth.add(Cause::RateLimited, limited);
            truth.add(Cause::Network, rest - limited);
        }
        truth
    }
}

fn name(place: u8) -> String {
    format!("n{place}")
}

/// How often a cause was named, by the true one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Matrix([[u64; Cause::ALL.len()]; Cause::ALL.len()]);

/// Causes that can be true.
pub const TRUE_CAUSES: [Cause; 5] = [
    Cause::Network,
    Cause::RateLimited,
    Cause::Silent,
    Cause::Filtered,
    Cause::Local,
];

impl Matrix {
    /// Takes the probes of a place. Of which it is not known which is which: as many as can be are
    /// right.
    fn add(&mut self, mut truth: Losses, mut said: Losses) {
        for cause in Cause::ALL {
            let right = truth[cause].min(said[cause]);
            self.0[cause as usize][cause as usize] += u64::from(right);
            truth[cause] -= right;
            said[cause] -= right;
        }
        for (cause, count) in truth.iter() {
            let mut left = count;
            for named in Cause::ALL {
                let wrong = left.min(said[named]);
                self.0[cause as usize][named as usize] += u64::from(wrong);
                said[named] -= wrong;
                left -= wrong;
            }
        }
    }

    /// Takes all of another one.
    pub fn add_all(&mut self, other: &Matrix) {
        for (row, others) in self.0.iter_mut().zip(other.0) {
            for (count, other) in row.iter_mut().zip(others) {
                *count += other;
            }
        }
    }

    /// All lost probes.
    pub fn total(&self) -> u64 {
        self.0.iter().flatten().sum()
    }

    /// How many lost for one cause were named another; equal causes: how many were right.
    pub fn count(&self, truth: Cause, named: Cause) -> u64 {
        self.0[truth as usize][named as usize]
    }

    /// Of those named so, which share is so.
    pub fn precision(&self, cause: Cause) -> f64 {
        let named = Cause::ALL.iter().map(|truth| self.count(*truth, cause)).sum();
        share(self.count(cause, cause), named)
    }

    /// Of those that are so, which share is named so.
    pub fn recall(&self, cause: Cause) -> f64 {
        let all = Cause::ALL.iter().map(|named| self.count(cause, *named)).sum();
        share(self.count(cause, cause), all)
    }

    /// Which share is named unknown.
    pub fn unknown(&self) -> f64 {
        let unknown: u64 = Cause::ALL
            .iter()
            .map(|truth| self.count(*truth, Cause::Unknown))
            .sum();
        unknown as f64 / self.total().max(1) as f64
    }
}

fn share(part: u64, all: u64) -> f64 {
    if all == 0 { 1.0 } else { part as f64 / all as f64 }
}

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<14}", "true \\ named")?;
        for cause in Cause::ALL {
            write!(f, "{:>14}", cause.name())?;
        }
        writeln!(f, "{:>11}{:>11}", "precision", "recall")?;
        for truth in TRUE_CAUSES {
            write!(f, "{:<14}", truth.name())?;
            for named in Cause::ALL {
                write!(f, "{:>14}", self.count(truth, named))?;
            }
            let (precision, recall) = (self.precision(truth), self.recall(truth));
            writeln!(f, "{:>9.1} %{:>9.1} %", precision * 100.0, recall * 100.0)?;
        }
        write!(f, "unknown: {:.1} % of {}", self.unknown() * 100.0, self.total())
    }
}

/// What came of many samples.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Of the networks where each place has one mechanism at most.
    pub unambiguous: Matrix,
    /// Of the others.
    pub mixed: Matrix,
    /// How many there were of each.
    pub networks: [u32; 2],
    /// The samples with the most wrong answers, each with its matrix: worst first.
    pub worst: Vec<(Sample, Matrix)>,
}

/// Runs the samples with these numbers.
///
/// # Errors
/// A topology is wrong.
pub fn measure(seeds: impl Iterator<Item = u64>) -> Result<Report, TopologyError> {
    const WORST: usize = 12;
    let mut report = Report::default();
    for seed in seeds {
        let sample = Sample::new(seed);
        let matrix = sample.run()?;
        let is_mixed = usize::from(!sample.is_unambiguous());
        report.networks[is_mixed] += 1;
        if is_mixed == 1 {
            report.mixed.add_all(&matrix);
            continue;
        }
        report.unambiguous.add_all(&matrix);
        report.worst.push((sample, matrix));
        report
            .worst
            .sort_by_key(|(_, matrix)| std::cmp::Reverse(matrix.wrong()));
        report.worst.truncate(WORST);
    }
    Ok(report)
}

impl Matrix {
    /// Probes whose cause was named wrongly.
    pub fn wrong(&self) -> u64 {
        let right: u64 = Cause::ALL.iter().map(|cause| self.count(*cause, *cause)).sum();
        self.total() - right
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [unambiguous, mixed] = self.networks;
        writeln!(
            f,
            "{unambiguous} networks with one mechanism a place at most:\n{}\n",
            self.unambiguous
        )?;
        write!(
            f,
            "{mixed} networks in which limits are beyond a link that loses:\n{}",
            self.mixed
        )
    }
}
