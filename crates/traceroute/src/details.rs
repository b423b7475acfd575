//! What the probes learned beyond the contract's document: only there when asked
//! for ([`RequestBuilder::details`](crate::RequestBuilder::details)), and then as the document's
//! last member. `docs/details.md` describes it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use traceroute_engine::{Answer, Distance, End, Hop, Losses, Method, Transport};
use traceroute_wire::{Family, IcmpError, MplsLabel};
use uuid::Uuid;

use crate::driver::Statistics;
use crate::notation::notation;
use crate::report::{EndToEnd, Report, Run};
use crate::warning::Warning;

/// What the probes of a request learned.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Details {
    /// The runs, in the order of those of the report.
    pub runs: Vec<RunDetails>,
    /// Who answered at each TTL in any run.
    pub hops: Vec<HopAddresses>,
    /// What became of the end-to-end probes.
    pub e2e: E2eDetails,
    /// What a reader must know to understand the result.
    pub warnings: Vec<Warning>,
    /// What happened to all probes and packets.
    pub counters: CounterDetails,
}

/// What one run learned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunDetails {
    /// The run's identifier in the report.
    pub run_id: Uuid,
    /// How it probed in the end.
    #[serde(with = "method_name")]
    pub method: Method,
    /// Probes that left.
    pub probes_sent: u32,
    /// Whether it is known how far away the destination is.
    pub distance: DistanceDetails,
    /// Why the run ended where it did.
    pub end: EndDetails,
    /// One entry for each of the run's hops in the report.
    pub hops: Vec<HopDetails>,
}

/// Whether it is known how far away the destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DistanceDetails {
    /// What is nearer is not the destination. Also where the destination did not answer at all.
    Known,
    /// The destination answered, but may be nearer than where it did; so it is not among the hops.
    Unknown,
}

/// Why a run ended where it did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndDetails {
    /// Why.
    pub reason: EndReason,
    /// Who refuses to forward probes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<IpAddr>,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The destination answered.
    Destination,
    /// A router or firewall refuses to forward probes.
    Refused,
    /// The highest TTL was probed.
    MaxTtl,
    /// As many TTLs in a row were silent as the request's gap limit allows.
    GapLimit,
}

/// Unanswered probes by cause: only causes that occurred.
pub type LossDetails = BTreeMap<String, u32>;

/// What became of the end-to-end probes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct E2eDetails {
    /// Probes that left.
    pub sent: u32,
    /// Those that were answered.
    pub answered: u32,
    /// Those that were not, by cause.
    pub lost: LossDetails,
    /// Probes that this machine refused to send.
    pub refused: u32,
}

/// What the probes of a run with one TTL learned.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HopDetails {
    /// TTL or hop limit of the probes, in hops.
    pub ttl: u8,
    /// How many there were, those included that this machine refused to send.
    pub attempts: u8,
    /// The answer.
    #[serde(flatten)]
    pub answer: Option<AnswerDetails>,
    /// Those without an answer, by cause.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lost: LossDetails,
    /// The first hop whose answer shows that a NAT has translated the probe.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nat: bool,
}

/// The answer to a probe. What this system's sockets do not tell is `None`, and left out of the
/// document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerDetails {
    /// Who answered.
    pub ip_address: IpAddr,
    /// With what.
    pub answer: AnswerKind,
    /// The answer is the destination's.
    pub destination: bool,
    /// Which of the probes with this TTL it answers, from 0; absent when that cannot be told, and
    /// then there is no round-trip time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u8>,
    /// ICMP or `ICMPv6` type, where the answer is an ICMP message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// ICMP or `ICMPv6` code, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    /// What the traceroute program writes behind the round-trip time: `!H`, `!N`, `!X`, `!<13>` …;
    /// `None` where it writes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notation: Option<String>,
    /// TTL or hop limit of the answer itself on arrival, in hops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_ttl: Option<u8>,
    /// TTL or hop limit of the probe as the answer quotes it, in hops. Where the probe ran out of
    /// it that is 1, or 0, unless something tampers with it; whoever refuses the probe quotes what
    /// was left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quoted_ttl: Option<u8>,
    /// MPLS label stack of the probe at the router (RFC 4950), outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mpls: Vec<MplsEntry>,
    /// The round-trip time is between two of the kernel's timestamps; otherwise the program read
    /// the clock itself at least when it sent the probe.
    pub kernel_timestamps: bool,
}

/// What kind of packet answers a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerKind {
    /// ICMP time exceeded.
    TimeExceeded,
    /// ICMP destination unreachable.
    Unreachable,
    /// ICMP echo reply.
    EchoReply,
    /// UDP datagram of a service.
    Udp,
    /// TCP segment: SYN-ACK, RST or selective acknowledgment.
    Tcp,
}

/// One MPLS label stack entry (RFC 3032 §2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MplsEntry {
    /// Label, 20 bits.
    pub label: u32,
    /// Traffic class (formerly EXP), 3 bits.
    pub tc: u8,
    /// Bottom of stack.
    pub s: bool,
    /// TTL, in hops.
    pub ttl: u8,
}

/// Who answered at a TTL, all runs taken together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HopAddresses {
    /// TTL, in hops.
    pub ttl: u8,
    /// The addresses, in order.
    pub addresses: Vec<AddressCount>,
}

/// How often an address answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressCount {
    /// The address.
    pub ip_address: IpAddr,
    /// In how many runs.
    pub answers: u32,
}

/// What happened to all probes and packets since the [`Tracer`](crate::Tracer) was made: those of
/// all its requests, and of their end-to-end probes as well.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CounterDetails {
    /// Probes.
    pub probes: ProbeCounters,
    /// Packets that came in.
    pub replies: ReplyCounters,
}

/// What happened to probes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProbeCounters {
    /// Sent.
    pub sent: u64,
    /// To be sent again, because the kernel's queue was full.
    pub retried: u64,
    /// Refused by the kernel.
    pub refused: u64,
    /// Sent, with the kernel's timestamp.
    pub kernel_timestamps: u64,
}

/// What happened to packets that came in.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReplyCounters {
    /// Packets that came through the capture's filter; without raw sockets, what the kernel had to
    /// say of probes.
    pub captured: u64,
    /// Packets that the kernel dropped because nobody read them in time.
    pub kernel_drops: u64,
    /// Credited to a probe.
    pub matched: u64,
    /// Among those, quotes that show another source address or port than ours: there is a NAT on
    /// the path.
    pub translated: u64,
    /// Credited to no probe, by reason.
    pub ignored: BTreeMap<String, u64>,
}

impl From<Statistics> for CounterDetails {
    fn from(statistics: Statistics) -> Self {
        let Statistics { engine, network, .. } = statistics;
        CounterDetails {
            probes: ProbeCounters {
                sent: engine.sent,
                retried: engine.send_retries,
                refused: engine.send_errors,
                kernel_timestamps: network.kernel_send_stamps,
            },
            replies: ReplyCounters {
                captured: network.captured,
                kernel_drops: network.kernel_drops,
                matched: engine.matched,
                translated: engine.translated,
                ignored: engine
                    .not_credited()
                    .map(|(reason, count)| (reason.to_owned(), count))
                    .collect(),
            },
        }
    }
}

impl Details {
    /// `None` where they were not asked for.
    pub(crate) fn of(report: &Report) -> Option<Self> {
        let statistics = report.statistics.as_deref()?;
        Some(Details::new(
            report.runs.iter().map(RunDetails::new).collect(),
            E2eDetails::from(&report.end_to_end),
            report.warnings.clone(),
            CounterDetails::from(*statistics),
        ))
    }

    fn new(runs: Vec<RunDetails>, e2e: E2eDetails, warnings: Vec<Warning>, counters: CounterDetails) -> Self {
        let mut by_ttl: BTreeMap<u8, BTreeMap<IpAddr, u32>> = BTreeMap::new();
        for hop in runs.iter().flat_map(|run| &run.hops) {
            let addresses = by_ttl.entry(hop.ttl).or_default();
            if let Some(answer) = &hop.answer {
                *addresses.entry(answer.ip_address).or_default() += 1;
            }
        }
        let count = |(ip_address, answers)| AddressCount { ip_address, answers };
        let hops = by_ttl
            .into_iter()
            .map(|(ttl, addresses)| HopAddresses {
                ttl,
                addresses: addresses.into_iter().map(count).collect(),
            })
            .collect();
        Details {
            runs,
            hops,
            e2e,
            warnings,
            counters,
        }
    }
}

impl RunDetails {
    fn new(run: &Run) -> Self {
        let hops = run.hops.iter().map(|hop| HopDetails::new(run.method, hop));
        RunDetails {
            run_id: run.id,
            method: run.method,
            probes_sent: run.probes_sent,
            distance: match run.distance {
                Distance::Known => DistanceDetails::Known,
                Distance::Unknown => DistanceDetails::Unknown,
            },
            end: EndDetails::new(run.end),
            hops: hops.collect(),
        }
    }
}

impl EndDetails {
    fn new(end: End) -> Self {
        let (reason, from) = match end {
            End::Destination => (EndReason::Destination, None),
            End::Refused { from, .. } => (EndReason::Refused, from),
            End::MaxTtl => (EndReason::MaxTtl, None),
            End::GapLimit => (EndReason::GapLimit, None),
        };
        EndDetails { reason, from }
    }
}

impl HopDetails {
    fn new(method: Method, hop: &Hop) -> Self {
        HopDetails {
            ttl: hop.ttl,
            attempts: hop.attempts,
            answer: hop.answer.map(|answer| AnswerDetails::new(method, &answer)),
            lost: by_cause(&hop.lost),
            nat: hop.nat,
        }
    }
}

fn by_cause(losses: &Losses) -> LossDetails {
    losses
        .iter()
        .map(|(cause, count)| (cause.name().to_owned(), count))
        .collect()
}

impl From<&EndToEnd> for E2eDetails {
    fn from(probes: &EndToEnd) -> Self {
        let loss = probes.loss();
        E2eDetails {
            sent: loss.sent,
            answered: loss.answered(),
            lost: by_cause(&probes.lost),
            refused: probes.refused,
        }
    }
}

impl AnswerDetails {
    fn new(method: Method, answer: &Answer) -> Self {
        let family = Family::of(answer.address);
        let kind = AnswerKind::of(method, answer.error);
        let (icmp_type, icmp_code) = match (kind.icmp_type(family), answer.error) {
            (Some(number), Some(IcmpError::Unreachable { code })) => (Some(number), Some(code)),
            (Some(number), _) => (Some(number), Some(0)),
            (None, _) => (None, None),
        };
        AnswerDetails {
            ip_address: answer.address,
            answer: kind,
            destination: answer.destination,
            attempt: answer.attempt,
            icmp_type,
            icmp_code,
            notation: notation(answer),
            reply_ttl: (answer.reply_ttl != 0).then_some(answer.reply_ttl),
            quoted_ttl: answer.quoted_ttl,
            mpls: answer.mpls.labels().map(MplsEntry::from).collect(),
            kernel_timestamps: answer.kernel_stamped,
        }
    }
}

impl AnswerKind {
    fn of(method: Method, error: Option<IcmpError>) -> Self {
        match (error, method.transport()) {
            (Some(IcmpError::TimeExceeded), _) => AnswerKind::TimeExceeded,
            (Some(IcmpError::Unreachable { .. }), _) => AnswerKind::Unreachable,
            (None, None) => AnswerKind::EchoReply,
            (None, Some(Transport::Udp)) => AnswerKind::Udp,
            (None, Some(Transport::Tcp)) => AnswerKind::Tcp,
        }
    }

    /// RFC 792 and RFC 4443.
    fn icmp_type(self, family: Family) -> Option<u8> {
        let (in_v4, in_v6) = match self {
            AnswerKind::TimeExceeded => (11, 3),
            AnswerKind::Unreachable => (3, 1),
            AnswerKind::EchoReply => (0, 129),
            AnswerKind::Udp | AnswerKind::Tcp => return None,
        };
        Some(match family {
            Family::V4 => in_v4,
            Family::V6 => in_v6,
        })
    }
}

/// Methods by their names.
mod method_name {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;
    use traceroute_engine::Method;

    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes fields by reference"
    )]
    pub(super) fn serialize<S: Serializer>(method: &Method, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(method.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Method, D::Error> {
        let name = String::deserialize(deserializer)?;
        let mut all = Method::ALL.into_iter();
        all.find(|method| method.name() == name)
            .ok_or_else(|| Error::custom(format!("no method is called {name}")))
    }
}

impl From<MplsLabel> for MplsEntry {
    fn from(label: MplsLabel) -> Self {
        MplsEntry {
            label: label.label,
            tc: label.traffic_class,
            s: label.bottom,
            ttl: label.ttl,
        }
    }
}

impl fmt::Display for MplsEntry {
    /// As traceroute(8) writes it: `L=16001,E=0,S=1,T=1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MplsEntry { label, tc, s, ttl } = self;
        write!(f, "L={label},E={tc},S={},T={ttl}", u8::from(*s))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use traceroute_engine::{Cause, TraceError, TraceResult};

    use super::*;
    use crate::json;
    use crate::notation::notation_in_words;
    use crate::report::FailedRun;
    use crate::request::Protocol;

    fn answer(address: &str, error: Option<IcmpError>) -> Answer {
        let rtt = Some(Duration::from_millis(5));
        Answer {
            reply_ttl: 61,
            ..Answer::new(address.parse().unwrap(), rtt, error)
        }
    }

    fn result(answers: Vec<Option<Answer>>) -> TraceResult {
        let hop = |(ttl, answer): (u8, Option<Answer>)| {
            let mut lost = Losses::default();
            if answer.is_none() {
                lost.add(Cause::Silent, 3);
            }
            Hop {
                ttl,
                answer,
                attempts: if answer.is_some() { 1 } else { 3 },
                lost,
                nat: false,
            }
        };
        TraceResult {
            source: "192.0.2.1".parse().unwrap(),
            source_port: 1,
            destination: "198.51.100.9".parse().unwrap(),
            destination_port: 1,
            probes_sent: answers.len() as u32,
            hops: (1..).zip(answers).map(hop).collect(),
            distance: Distance::Known,
            end: End::MaxTtl,
            retries_limited: false,
        }
    }

    fn run_of(method: Method, result: TraceResult) -> Run {
        let mut run = Run::new(0, method, result);
        run.id = Uuid::nil();
        run
    }

    fn run(method: Method, answers: Vec<Option<Answer>>) -> RunDetails {
        RunDetails::new(&run_of(method, result(answers)))
    }

    fn details_of(runs: Vec<RunDetails>) -> Details {
        Details::new(runs, E2eDetails::default(), Vec::new(), CounterDetails::default())
    }

    const EXCEEDED: Option<IcmpError> = Some(IcmpError::TimeExceeded);

    #[test]
    fn the_document_has_what_is_known_and_nothing_else() {
        let mut labelled = answer("192.0.2.7", EXCEEDED);
        labelled.quoted_ttl = Some(1);
        labelled.mpls.push(16001 << 12 | 5 << 9 | 0x001);
        labelled.mpls.push(24000 << 12 | 0x1fe);
        // Where the system itself matches answers, it may say who answered, and nothing more.
        let matched = Answer {
            reply_ttl: 0,
            kernel_stamped: false,
            rtt: None,
            attempt: None,
            ..answer("192.0.2.8", EXCEEDED)
        };
        let mut result = result(vec![
            Some(labelled),
            None,
            Some(matched),
            Some(answer("198.51.100.9", None)),
        ]);
        result.end = End::Destination;
        // The second attempt was answered, the first one lost.
        result.hops[2].attempts = 2;
        result.hops[2].lost.add(Cause::Network, 1);
        result.hops[2].nat = true;
        let run = RunDetails::new(&run_of(Method::Udp, result));
        let expected = [
            r#"{"run_id":"00000000-0000-0000-0000-000000000000","method":"udp","probes_sent":4,"#,
            r#""distance":"known","end":{"reason":"destination"},"hops":["#,
            r#"{"ttl":1,"attempts":1,"ip_address":"192.0.2.7","answer":"time_exceeded","destination":false,"attempt":0,"#,
            r#""icmp_type":11,"icmp_code":0,"#,
            r#""reply_ttl":61,"quoted_ttl":1,"mpls":[{"label":16001,"tc":5,"s":false,"ttl":1},"#,
            r#"{"label":24000,"tc":0,"s":true,"ttl":254}],"kernel_timestamps":true},"#,
            r#"{"ttl":2,"attempts":3,"lost":{"silent":3}},"#,
            r#"{"ttl":3,"attempts":2,"ip_address":"192.0.2.8","answer":"time_exceeded","destination":false,"#,
            r#""icmp_type":11,"icmp_code":0,"kernel_timestamps":false,"lost":{"network":1},"nat":true},"#,
            r#"{"ttl":4,"attempts":1,"ip_address":"198.51.100.9","answer":"udp","destination":true,"attempt":0,"#,
            r#""reply_ttl":61,"kernel_timestamps":true}]}"#,
            "\n",
        ];
        let written = json::to_compact(&run).unwrap();
        assert_eq!(written, expected.concat());
        assert_eq!(serde_json::from_str::<RunDetails>(&written).unwrap(), run);
    }

    #[test]
    fn ends_distances_and_end_to_end_probes_in_the_documents_words() {
        let from: IpAddr = "192.0.2.7".parse().unwrap();
        let mut result = result(vec![None]);
        result.end = End::Refused {
            from: Some(from),
            code: 13,
        };
        result.distance = Distance::Unknown;
        let run = RunDetails::new(&run_of(Method::Icmp, result));
        let written = json::to_compact(&run).unwrap();
        let expected = r#""distance":"unknown","end":{"reason":"refused","from":"192.0.2.7"},"#;
        assert!(written.contains(expected), "{written}");

        let mut probes = EndToEnd::new(vec![Some(Duration::from_millis(1)), None, None]);
        probes.refused = 2;
        probes.lost.add(Cause::RateLimited, 1);
        probes.lost.add(Cause::Network, 1);
        let written = json::to_compact(&E2eDetails::from(&probes)).unwrap();
        let expected = r#"{"sent":3,"answered":1,"lost":{"network":1,"rate_limited":1},"refused":2}"#;
        assert_eq!(written.trim_end(), expected);
    }

    /// The documentation's example, byte for byte.
    #[test]
    fn the_documented_example_reads_and_writes_identically() {
        #[derive(Serialize, Deserialize)]
        struct Document {
            details: Details,
        }
        let documentation = include_str!("../../../docs/details.md");
        let (_, example) = documentation.split_once("```json\n").unwrap();
        let (example, _) = example.split_once("```").unwrap();
        let example = format!("{{\n{example}");
        let document: Document = serde_json::from_str(&example).unwrap();
        assert_eq!(json::to_pretty(&document).unwrap(), example);
        let Details {
            runs,
            e2e,
            warnings,
            counters,
            ..
        } = document.details.clone();
        let counted = Details::new(runs, e2e, warnings, counters);
        assert_eq!(counted, document.details);
    }

    /// Every member that a document can have is described.
    #[test]
    fn the_documentation_names_every_member() {
        let documentation = include_str!("../../../docs/details.md");
        let mut labelled = answer("192.0.2.7", Some(IcmpError::Unreachable { code: 1 }));
        labelled.mpls.push(0);
        let counters = CounterDetails::from(Statistics::default());
        let mut result = result(vec![Some(labelled), None]);
        result.hops[0].nat = true;
        result.end = End::Refused {
            from: Some(labelled.address),
            code: 1,
        };
        let run = RunDetails::new(&run_of(Method::Udp, result));
        let mut e2e = E2eDetails::default();
        for cause in Cause::ALL {
            e2e.lost.insert(cause.name().to_owned(), 1);
        }
        let warning = Warning::run_failed(&FailedRun::new(0, TraceError::Stopped.into()));
        let details = Details::new(vec![run], e2e, vec![warning], counters);
        let document = json::to_compact(&details).unwrap();
        let mut names: Vec<&str> = document
            .split("\":")
            .filter_map(|text| text.rsplit('"').next())
            .collect();
        names.retain(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_') && !name.is_empty());
        assert!(names.len() > 40, "{names:?}");
        for name in &names {
            assert!(
                ["`", "."]
                    .iter()
                    .any(|before| documentation.contains(&format!("{before}{name}`"))),
                "{name} in {names:?}"
            );
        }
    }

    #[test]
    fn icmp_types_and_notations() {
        let unreachable = |code| Some(IcmpError::Unreachable { code });
        let (v4, v6) = ("192.0.2.7", "2001:db8::7");
        let cases = [
            (v4, EXCEEDED, Some(11), Some(0), None),
            (v4, unreachable(0), Some(3), Some(0), Some("!N")),
            (v4, unreachable(1), Some(3), Some(1), Some("!H")),
            (v4, unreachable(2), Some(3), Some(2), Some("!P")),
            (v4, unreachable(3), Some(3), Some(3), Some("!<3>")),
            (v4, unreachable(4), Some(3), Some(4), Some("!F")),
            (v4, unreachable(5), Some(3), Some(5), Some("!S")),
            (v4, unreachable(9), Some(3), Some(9), Some("!A")),
            (v4, unreachable(13), Some(3), Some(13), Some("!X")),
            (v4, unreachable(200), Some(3), Some(200), Some("!<200>")),
            (v4, None, Some(0), Some(0), None),
            (v6, EXCEEDED, Some(3), Some(0), None),
            (v6, unreachable(0), Some(1), Some(0), Some("!N")),
            (v6, unreachable(1), Some(1), Some(1), Some("!X")),
            (v6, unreachable(3), Some(1), Some(3), Some("!H")),
            (v6, unreachable(4), Some(1), Some(4), Some("!<4>")),
            (v6, unreachable(6), Some(1), Some(6), Some("!<6>")),
            (v6, None, Some(129), Some(0), None),
        ];
        for (address, error, icmp_type, icmp_code, notation) in cases {
            let details = AnswerDetails::new(Method::Icmp, &answer(address, error));
            let found = (details.icmp_type, details.icmp_code, details.notation.as_deref());
            assert_eq!(found, (icmp_type, icmp_code, notation), "{address} {error:?}");
        }
        for (address, code, words) in [
            (v4, 1, Some("host unreachable")),
            (v4, 3, Some("port unreachable")),
            (v6, 1, Some("administratively prohibited")),
            (v6, 3, Some("host unreachable")),
            (v4, 200, None),
        ] {
            let found = notation_in_words(&answer(address, unreachable(code)));
            assert_eq!(found, words, "{address} {code}");
        }
        for (address, code) in [(v4, 3), (v6, 4)] {
            let from_destination = Answer {
                destination: true,
                ..answer(address, unreachable(code))
            };
            assert_eq!(AnswerDetails::new(Method::Udp, &from_destination).notation, None);
        }
        for method in [Method::TcpSyn, Method::TcpSack] {
            let details = AnswerDetails::new(method, &answer(v4, None));
            assert_eq!((details.answer, details.icmp_type), (AnswerKind::Tcp, None));
            assert_eq!(details.quoted_ttl, None, "nothing is quoted");
        }
    }

    #[test]
    fn addresses_of_all_runs_by_ttl() {
        let runs = ["192.0.2.8", "192.0.2.7", "192.0.2.8"].map(|second| {
            let answers = vec![None, Some(answer(second, EXCEEDED))];
            run(Method::Icmp, answers)
        });
        let details = details_of(runs.to_vec());
        let count = |address: &str, answers| AddressCount {
            ip_address: address.parse().unwrap(),
            answers,
        };
        let expected = [
            HopAddresses {
                ttl: 1,
                addresses: Vec::new(),
            },
            HopAddresses {
                ttl: 2,
                addresses: vec![count("192.0.2.7", 1), count("192.0.2.8", 2)],
            },
        ];
        assert_eq!(details.hops, expected);
    }

    #[test]
    fn private_hops_leave_nothing_but_their_ttl() {
        let answers = ["10.0.0.1", "192.0.2.7"].map(|address| Some(answer(address, EXCEEDED)));
        let mut refused = result(answers.to_vec());
        refused.end = End::Refused {
            from: Some("10.0.0.1".parse().unwrap()),
            code: 13,
        };
        let run = run_of(Method::Udp, refused);
        let mut report = Report::new("192.0.2.9", 33434, Protocol::Udp, vec![run]);
        report.statistics = Some(Box::default());
        report.hide_private_hops();
        assert!(!json::to_compact(&report).unwrap().contains("10.0.0.1"));
        let details = Details::of(&report).unwrap();
        let hidden = HopDetails {
            ttl: 1,
            attempts: 1,
            ..HopDetails::default()
        };
        assert_eq!(details.runs[0].hops[0], hidden);
        assert!(details.runs[0].hops[1].answer.is_some());
    }
}
