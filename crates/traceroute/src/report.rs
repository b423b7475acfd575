//! What a request found out, in types. The contract's document is one view of it:
//! [`Document`](crate::document::Document).

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use traceroute_engine::{Answer, Distance, End, EndToEndResult, Hop, Losses, Method, TraceResult};
use uuid::Uuid;

use crate::driver::Statistics;
use crate::request::Protocol;
use crate::tracer::RunError;
use crate::warning::Warning;

/// Everything that one request found out.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// The target as it was given.
    pub hostname: String,
    /// The port that was asked for. It is not the probed one where the target itself has a port.
    pub port: u16,
    /// Protocol of the probes.
    pub protocol: Protocol,
    /// Where probes come from, seen from the Internet; `None` where that was not asked for or not
    /// found out.
    pub public_ip: Option<IpAddr>,
    /// The runs that worked.
    pub runs: Vec<Run>,
    /// The runs that did not. When all of them fail there is no report but an error.
    pub failed_runs: Vec<FailedRun>,
    /// How long the paths of all runs are.
    pub hop_count: HopCount,
    /// The end-to-end probes.
    pub end_to_end: EndToEnd,
    /// Names of the addresses, where they were asked for.
    pub names: Names,
    /// What a reader must know to understand the result.
    pub warnings: Vec<Warning>,
    /// Counters of the tracer when the request ended; only where details were asked for.
    pub statistics: Option<Box<Statistics>>,
}

impl Report {
    /// A report of these runs; nothing else is known.
    pub fn new(hostname: impl Into<String>, port: u16, protocol: Protocol, runs: Vec<Run>) -> Self {
        Report {
            hostname: hostname.into(),
            port,
            protocol,
            public_ip: None,
            hop_count: HopCount::of(&runs),
            runs,
            failed_runs: Vec::new(),
            end_to_end: EndToEnd::default(),
            names: Names::default(),
            warnings: Vec::new(),
            statistics: None,
        }
    }

    /// Takes out who answered from private networks ([`is_private`]). The TTLs stay, and the
    /// lengths of the paths are what they were.
    pub fn hide_private_hops(&mut self) {
        self.runs.iter_mut().for_each(Run::hide_private_hops);
    }

    /// Who answered, and what was traced.
    pub(crate) fn addresses(&self) -> HashSet<IpAddr> {
        self.runs.iter().flat_map(Run::addresses).collect()
    }
}

/// One traceroute run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Run {
    /// Which of the request's runs, from 0.
    pub index: u32,
    /// Random identifier.
    pub id: Uuid,
    /// How it probed in the end.
    pub method: Method,
    /// Source of the probes. Over ICMP its port is the echo identifier.
    pub source: SocketAddr,
    /// Destination of the probes; port 0 for ICMP.
    pub destination: SocketAddr,
    /// What became of the probes at each TTL, from the first one probed to where the run ended.
    pub hops: Vec<Hop>,
    /// Probes that left.
    pub probes_sent: u32,
    /// Whether the destination may be nearer than it seems.
    pub distance: Distance,
    /// Why the list of hops ends.
    pub end: End,
}

impl Run {
    /// A run from what the engine has found.
    pub fn new(index: u32, method: Method, result: TraceResult) -> Self {
        Run {
            index,
            id: Uuid::new_v4(),
            method,
            source: SocketAddr::new(result.source, result.source_port),
            destination: SocketAddr::new(result.destination, result.destination_port),
            hops: result.hops,
            probes_sent: result.probes_sent,
            distance: result.distance,
            end: result.end,
        }
    }

    /// Length of the path in hops: the TTL of the last hop that answered, or of the last hop when
    /// none did.
    pub fn hop_count(&self) -> u32 {
        let last_answer = self.hops.iter().rfind(|hop| hop.answer.is_some());
        last_answer.or(self.hops.last()).map_or(0, |hop| hop.ttl.into())
    }

    /// The answer of the router that refused to forward probes, where one did and is not hidden.
    pub fn refusal(&self) -> Option<&Answer> {
        let End::Refused { from: Some(from), .. } = self.end else {
            return None;
        };
        let mut answers = self.hops.iter().rev().filter_map(|hop| hop.answer.as_ref());
        answers.find(|answer| answer.address == from && answer.is_refusal())
    }

    fn hide_private_hops(&mut self) {
        for hop in &mut self.hops {
            if hop.answer.is_some_and(|answer| is_private(answer.address)) {
                (hop.answer, hop.lost, hop.nat) = (None, Losses::default(), false);
            }
        }
        if let End::Refused { from, .. } = &mut self.end {
            from.take_if(|from| is_private(*from));
        }
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let answers = self.hops.iter().filter_map(|hop| hop.answer);
        answers
            .map(|answer| answer.address)
            .chain([self.destination.ip()])
    }
}

/// Whether somebody answered at this hop whom the request wants hidden
/// ([`Report::hide_private_hops`]): it was probed, has no answer, and lost nothing.
pub fn is_hidden(hop: &Hop) -> bool {
    hop.answer.is_none() && hop.attempts > 0 && hop.lost.total() == 0
}

/// A run that did not work, beside others that did.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FailedRun {
    /// Which of the request's runs, from 0.
    pub index: u32,
    /// Why.
    pub error: RunError,
}

impl FailedRun {
    pub(crate) fn new(index: u32, error: RunError) -> Self {
        FailedRun { index, error }
    }
}

impl fmt::Display for FailedRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "run {} failed: {}", self.index + 1, self.error)
    }
}

/// How long the paths of all runs are, in hops; all 0 when there is no run.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct HopCount {
    /// Mean.
    pub avg: f64,
    /// Shortest.
    pub min: u32,
    /// Longest.
    pub max: u32,
}

impl HopCount {
    /// Over all runs. Runs without any hop count for the mean only.
    pub fn of(runs: &[Run]) -> Self {
        let counts = || runs.iter().map(Run::hop_count);
        let nonzero = || counts().filter(|count| *count > 0);
        HopCount {
            avg: mean(counts().map(f64::from)),
            min: nonzero().min().unwrap_or(0),
            max: nonzero().max().unwrap_or(0),
        }
    }
}

/// The end-to-end probes of a request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct EndToEnd {
    /// Round-trip times in the order of sending; `None`: no answer.
    pub rtts: Vec<Option<Duration>>,
    /// Those without an answer, by cause.
    pub lost: Losses,
    /// Probes that this machine refused to send; not among `rtts`.
    pub refused: u32,
    /// Probes not sent, because the target's limit on answers left no time for them.
    pub unsent: u32,
}

impl EndToEnd {
    /// Of probes with these round-trip times.
    pub fn new(rtts: Vec<Option<Duration>>) -> Self {
        EndToEnd {
            rtts,
            ..EndToEnd::default()
        }
    }

    /// The share of the probes that have no answer.
    pub fn loss(&self) -> Loss {
        Loss {
            sent: self.rtts.len() as u32,
            lost: self.rtts.iter().filter(|rtt| rtt.is_none()).count() as u32,
        }
    }

    /// Round-trip times of the probes answered; `None` when there is none.
    pub fn rtt(&self) -> Option<RttStatistics> {
        let answered = || self.rtts.iter().flatten();
        let sum: Duration = answered().sum();
        Some(RttStatistics {
            min: *answered().min()?,
            avg: sum / answered().count() as u32,
            max: *answered().max()?,
        })
    }

    /// Mean difference between the round-trip times of consecutive probes, over those answered;
    /// `None` when fewer than two were.
    pub fn jitter(&self) -> Option<Duration> {
        let answered: Vec<Duration> = self.rtts.iter().flatten().copied().collect();
        let pairs = answered.windows(2);
        let sum: Duration = pairs.clone().map(|pair| pair[1].abs_diff(pair[0])).sum();
        (pairs.len() > 0).then(|| sum / pairs.len() as u32)
    }
}

impl From<EndToEndResult> for EndToEnd {
    fn from(result: EndToEndResult) -> Self {
        EndToEnd {
            rtts: result.probes,
            lost: result.lost,
            refused: result.refused,
            unsent: result.unsent,
        }
    }
}

/// How many probes have no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// Probes that left.
    pub sent: u32,
    /// Those without an answer.
    pub lost: u32,
}

impl Loss {
    /// The share of the probes without an answer, 0–1; `None` when none was sent.
    pub fn ratio(self) -> Option<f64> {
        (self.sent > 0).then(|| f64::from(self.lost) / f64::from(self.sent))
    }

    /// Probes with an answer.
    pub fn answered(self) -> u32 {
        self.sent.saturating_sub(self.lost)
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = self.ratio().unwrap_or(0.0) * 100.0;
        write!(f, "{} of {} ({percent:.1} %)", self.lost, self.sent)
    }
}

/// Statistics of round-trip times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RttStatistics {
    /// Shortest.
    pub min: Duration,
    /// Mean.
    pub avg: Duration,
    /// Longest.
    pub max: Duration,
}

/// Names of addresses: each address's once, however often it answered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Names {
    of: HashMap<IpAddr, Arc<[String]>>,
    left_out: usize,
}

/// The most bytes of names ([`Names::size`]) that a request collects which probes so many TTLs, all
/// its runs taken together. That is hundreds of bytes for each router of an ordinary path; but who
/// owns addresses may give each 4 kB of names, and have another one answer each probe.
pub fn names_limit(hops: u64) -> usize {
    32 * 1024 + usize::try_from(hops).unwrap_or(usize::MAX / 128) * 128
}

impl Names {
    /// The names of an address, none where none is known.
    pub fn of(&self, address: IpAddr) -> &[String] {
        self.of.get(&address).map_or(&[], |names| names)
    }

    /// The bytes of memory that an address's names take.
    pub fn size(names: &[String]) -> usize {
        names.iter().map(|name| size_of::<String>() + name.len()).sum()
    }

    /// How many addresses have names that are left out, because all together take too much memory.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// Adds an address's names, unless all would take more than what is `left`, which they reduce.
    #[cfg(feature = "reverse-dns")]
    pub(crate) fn add(&mut self, address: IpAddr, names: Arc<[String]>, left: &mut usize) {
        match left.checked_sub(Names::size(&names)) {
            Some(less) => {
                *left = less;
                self.of.insert(address, names);
            }
            None => self.left_out += 1,
        }
    }

    /// The names of an address, not copied.
    #[cfg(feature = "serde")]
    pub(crate) fn shared(&self, address: IpAddr) -> Arc<[String]> {
        self.of.get(&address).map_or_else(Arc::default, Arc::clone)
    }

    /// Each address and its names, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &[String])> {
        self.of.iter().map(|(address, names)| (*address, &names[..]))
    }
}

impl FromIterator<(IpAddr, Arc<[String]>)> for Names {
    fn from_iter<T: IntoIterator<Item = (IpAddr, Arc<[String]>)>>(names: T) -> Self {
        Names {
            of: names.into_iter().collect(),
            left_out: 0,
        }
    }
}

/// Whether an address belongs to a private network (RFC 1918, RFC 4193): what
/// [`Report::hide_private_hops`] hides.
pub fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private(),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

/// The mean; 0 of nothing.
pub(crate) fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (count, sum) = values.fold((0_u32, 0.0), |(count, sum), value| (count + 1, sum + value));
    if count == 0 { 0.0 } else { sum / f64::from(count) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A run in short notation: one word per hop, `*` for silence, or an address and perhaps
    /// milliseconds as in `192.0.2.1/1.5`.
    pub(crate) fn run(hops: &str) -> Run {
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let hops = (1..).zip(hops.split_whitespace());
        Run::new(
            0,
            Method::Udp,
            TraceResult {
                source: address,
                source_port: 1,
                destination: address,
                destination_port: 2,
                hops: hops.map(|(ttl, word)| hop(ttl, word)).collect(),
                probes_sent: 0,
                distance: Distance::Known,
                end: End::MaxTtl,
                retries_limited: false,
            },
        )
    }

    fn hop(ttl: u8, word: &str) -> Hop {
        let (address, rtt) = word.split_once('/').unwrap_or((word, "1.5"));
        let rtt = Duration::from_secs_f64(rtt.parse::<f64>().unwrap() / 1000.0);
        Hop {
            ttl,
            answer: address
                .parse()
                .ok()
                .map(|address| Answer::new(address, Some(rtt), None)),
            attempts: 1,
            lost: Losses::default(),
            nat: false,
        }
    }

    #[test]
    fn hop_count_of_a_run() {
        assert_eq!(run("10.0.0.1 * 192.0.2.9").hop_count(), 3);
        assert_eq!(run("10.0.0.1 192.0.2.9 * *").hop_count(), 2);
        assert_eq!(run("* * * *").hop_count(), 4);
        assert_eq!(run("").hop_count(), 0);
        // With a first TTL of 2 the list is shorter than the path.
        for (hops, count) in [("10.0.0.1 * 192.0.2.9", 3), ("* * *", 3)] {
            let mut run = run(hops);
            run.hops.remove(0);
            assert_eq!(run.hop_count(), count);
        }
    }

    #[test]
    fn hop_counts_of_several_runs() {
        let runs = [run("10.0.0.1 * 192.0.2.9"), run("10.0.0.1 *"), run("* * * *")];
        let expected = HopCount {
            avg: 8.0 / 3.0,
            min: 1,
            max: 4,
        };
        assert_eq!(HopCount::of(&runs), expected);
    }

    #[test]
    fn empty_runs_count_for_the_mean_only() {
        let expected = HopCount {
            avg: 1.0,
            min: 2,
            max: 2,
        };
        assert_eq!(HopCount::of(&[run(""), run("* 192.0.2.9")]), expected);
        assert_eq!(HopCount::of(&[run("")]), HopCount::default());
        assert_eq!(HopCount::of(&[]), HopCount::default());
    }

    #[test]
    fn statistics_of_end_to_end_probes() {
        let millis = |millis: &[u64]| {
            let rtts = millis.iter().map(|millis| match millis {
                0 => None,
                millis => Some(Duration::from_millis(*millis)),
            });
            EndToEnd::new(rtts.collect())
        };
        let probes = millis(&[12, 0, 14, 10]);
        assert_eq!(probes.loss(), Loss { sent: 4, lost: 1 });
        assert_eq!(probes.loss().ratio(), Some(0.25));
        assert_eq!(probes.loss().to_string(), "1 of 4 (25.0 %)");
        // 2 ms over the gap, then 4.
        assert_eq!(probes.jitter(), Some(Duration::from_millis(3)));
        let rtt = probes.rtt().unwrap();
        assert_eq!(
            [rtt.min, rtt.avg, rtt.max],
            [10, 12, 14].map(Duration::from_millis)
        );
        let one = millis(&[0, 4]);
        assert_eq!((one.jitter(), one.rtt().is_some()), (None, true));
        let none = millis(&[]);
        assert_eq!(
            (none.loss().ratio(), none.rtt(), none.jitter()),
            (None, None, None)
        );
    }

    #[test]
    fn private_hops_are_hidden_and_their_neighbours_kept() {
        let private =
            "10.0.0.0 10.255.255.255 172.16.0.0 172.31.255.255 192.168.0.0 192.168.255.255 fc00::1 fdff::1";
        let mut hidden = run(private);
        hidden.end = End::Refused {
            from: Some("10.0.0.0".parse().unwrap()),
            code: 13,
        };
        hidden.hide_private_hops();
        assert!(hidden.hops.iter().all(is_hidden), "{:?}", hidden.hops);
        assert_eq!(hidden.end, End::Refused { from: None, code: 13 });

        let public = "9.255.255.255 11.0.0.0 172.15.255.255 172.32.0.0 192.167.255.255 192.169.0.0 \
                      100.64.0.1 127.0.0.1 169.254.0.1 fbff::1 fe00::1 fe80::1 * 2001:db8::1";
        let run = run(public);
        let mut kept = run.clone();
        kept.hide_private_hops();
        assert_eq!(kept, run);
    }
}
