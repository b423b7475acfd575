//! The contract's document, field by field in the order in which it is written: a view of a
//! [`Report`]. [`json`](crate::json) writes it down.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};
use traceroute_engine::Hop;
use uuid::Uuid;

use crate::details::Details;
use crate::report::{EndToEnd, HopCount, Names, Report, Run, mean};
use crate::request::Protocol;

/// What one request found out, as the contract has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// Protocol of the probes.
    pub protocol: Protocol,
    /// Where the probes came from.
    pub source: Source,
    /// What was asked for.
    pub destination: Destination,
    /// The traceroute runs.
    pub traceroute: Traceroute,
    /// The end-to-end probes.
    pub e2e_probe: E2eProbes,
    /// What the probes learned beyond that. Not part of the contract: absent unless asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<Details>>,
}

/// Where the probes came from, seen from the Internet.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Source {
    /// Public IPv4 address; `None`, written as an empty string, when not asked for or not found.
    #[serde(with = "address_or_empty")]
    pub public_ip: Option<IpAddr>,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// The target as given.
    pub hostname: String,
    /// The port asked for, which is not the probed one when the target contains a port.
    pub port: u16,
}

/// The traceroute runs of a request.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Traceroute {
    /// The runs.
    pub runs: Vec<RunEntry>,
    /// How long the paths are.
    pub hop_count: HopCount,
}

/// One traceroute run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunEntry {
    /// Random identifier.
    pub run_id: Uuid,
    /// Source of the probes.
    pub source: RunSource,
    /// Destination of the probes.
    pub destination: RunDestination,
    /// What answered, by TTL from 1 up.
    pub hops: Vec<HopEntry>,
}

/// Source of a run's probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSource {
    /// Local address.
    pub ip_address: IpAddr,
    /// Local port.
    pub port: u16,
}

/// Destination of a run's probes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunDestination {
    /// Probed address.
    pub ip_address: IpAddr,
    /// Probed port; 0 for ICMP.
    pub port: u16,
    /// Names of the address.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub reverse_dns: Arc<[String]>,
}

/// What is at one TTL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HopEntry {
    /// TTL or hop limit of the probe, in hops.
    pub ttl: u8,
    /// Who answered; `None`, written as an empty string, when nobody did.
    #[serde(with = "address_or_empty")]
    pub ip_address: Option<IpAddr>,
    /// Round-trip time in milliseconds; 0 without an answer.
    pub rtt: f64,
    /// Whether there was an answer.
    pub reachable: bool,
    /// Names of the address.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub reverse_dns: Arc<[String]>,
}

/// The end-to-end probes of a request.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct E2eProbes {
    /// Round-trip times in milliseconds in the order of sending; 0 without an answer.
    pub rtts: Vec<f64>,
    /// Probes sent.
    pub packets_sent: u32,
    /// Probes answered.
    pub packets_received: u32,
    /// Share of the probes without an answer, 0–1.
    pub packet_loss_percentage: f32,
    /// Mean difference between consecutive round-trip times, in milliseconds.
    pub jitter: f64,
    /// Round-trip times of the probes answered.
    pub rtt: E2eRtt,
}

/// Statistics of round-trip times, in milliseconds; all 0 when there is none.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct E2eRtt {
    /// Mean.
    pub avg: f64,
    /// Shortest.
    pub min: f64,
    /// Longest.
    pub max: f64,
}

impl Document {
    /// A report as the contract shows it; with details where they were asked for.
    pub fn of(report: &Report) -> Self {
        let runs = report.runs.iter();
        Document {
            protocol: report.protocol,
            source: Source {
                public_ip: report.public_ip,
            },
            destination: Destination {
                hostname: report.hostname.clone(),
                port: report.port,
            },
            traceroute: Traceroute {
                runs: runs.map(|run| RunEntry::new(run, &report.names)).collect(),
                hop_count: report.hop_count,
            },
            e2e_probe: E2eProbes::new(&report.end_to_end),
            details: Details::of(report).map(Box::new),
        }
    }
}

/// As its [`Document`].
impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Document::of(self).serialize(serializer)
    }
}

impl RunEntry {
    fn new(run: &Run, names: &Names) -> Self {
        RunEntry {
            run_id: run.id,
            source: RunSource {
                ip_address: run.source.ip(),
                port: run.source.port(),
            },
            destination: RunDestination {
                ip_address: run.destination.ip(),
                port: run.destination.port(),
                reverse_dns: names.shared(run.destination.ip()),
            },
            hops: run.hops.iter().map(|hop| HopEntry::new(hop, names)).collect(),
        }
    }
}

impl HopEntry {
    fn new(hop: &Hop, names: &Names) -> Self {
        let answer = hop.answer;
        HopEntry {
            ttl: hop.ttl,
            ip_address: answer.map(|answer| answer.address),
            rtt: answer.and_then(|answer| answer.rtt).map_or(0.0, milliseconds),
            reachable: answer.is_some(),
            reverse_dns: answer.map_or_else(Arc::default, |answer| names.shared(answer.address)),
        }
    }
}

impl E2eProbes {
    fn new(probes: &EndToEnd) -> Self {
        let rtts = probes.rtts.iter();
        E2eProbes::from_rtts(rtts.map(|rtt| rtt.map_or(0.0, milliseconds)).collect())
    }

    /// From the round-trip times in milliseconds, in the order of sending, 0 where there was no
    /// answer.
    fn from_rtts(rtts: Vec<f64>) -> Self {
        let received: Vec<f64> = rtts.iter().copied().filter(|rtt| *rtt > 0.0).collect();
        let sent = rtts.len() as u32;
        let lost = sent - received.len() as u32;
        E2eProbes {
            rtts,
            packets_sent: sent,
            packets_received: received.len() as u32,
            packet_loss_percentage: if sent == 0 { 0.0 } else { lost as f32 / sent as f32 },
            jitter: mean(received.windows(2).map(|pair| (pair[1] - pair[0]).abs())),
            rtt: E2eRtt {
                avg: mean(received.iter().copied()),
                min: received.iter().copied().reduce(f64::min).unwrap_or(0.0),
                max: received.iter().copied().reduce(f64::max).unwrap_or(0.0),
            },
        }
    }
}

fn milliseconds(rtt: Duration) -> f64 {
    rtt.as_nanos() as f64 / 1e6
}

fn is_empty(names: &Arc<[String]>) -> bool {
    names.is_empty()
}

/// An address that is written as an empty string when there is none.
pub(crate) mod address_or_empty {
    use std::net::IpAddr;

    use serde::{Deserialize, Deserializer, Serializer, de};

    #[expect(clippy::ref_option, reason = "the signature that serde calls")]
    pub(crate) fn serialize<S: Serializer>(
        address: &Option<IpAddr>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match address {
            Some(address) => serializer.collect_str(address),
            None => serializer.serialize_str(""),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<IpAddr>, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use traceroute_engine::{Answer, Losses};

    use super::*;

    fn assert_close(actual: f64, expected: f64) {
        assert!((actual - expected).abs() < 1e-9, "{actual} is not {expected}");
    }

    #[test]
    fn the_contracts_example() {
        let probe = E2eProbes::from_rtts(vec![12.7, 12.5, 0.0, 12.9]);
        assert_eq!(probe.rtts, [12.7, 12.5, 0.0, 12.9]);
        assert_eq!((probe.packets_sent, probe.packets_received), (4, 3));
        assert_eq!(probe.packet_loss_percentage.to_bits(), 0.25_f32.to_bits());
        // |12.5 - 12.7| = 0.2 and, over the gap, |12.9 - 12.5| = 0.4.
        assert_close(probe.jitter, 0.3);
        assert_close(probe.rtt.avg, 12.7);
        assert_close(probe.rtt.min, 12.5);
        assert_close(probe.rtt.max, 12.9);
    }

    #[test]
    fn loss_is_in_single_precision() {
        let mut rtts = vec![1.0; 50];
        rtts[7] = 0.0;
        let json = crate::json::to_compact(&E2eProbes::from_rtts(rtts)).unwrap();
        assert!(json.contains(r#""packet_loss_percentage":0.02,"#), "{json}");
    }

    #[test]
    fn too_little_for_jitter() {
        let one = E2eProbes::from_rtts(vec![0.0, 4.0, 0.0]);
        assert_eq!(
            (one.jitter, one.rtt.avg, one.rtt.min, one.rtt.max),
            (0.0, 4.0, 4.0, 4.0)
        );
        assert_eq!(one.packet_loss_percentage.to_bits(), (2.0_f32 / 3.0).to_bits());
        let none = E2eProbes::from_rtts(vec![0.0, 0.0]);
        assert_eq!((none.packets_sent, none.packets_received), (2, 0));
        assert_eq!(none.packet_loss_percentage.to_bits(), 1.0_f32.to_bits());
        assert_eq!((none.jitter, none.rtt), (0.0, E2eRtt::default()));
        assert_eq!(E2eProbes::from_rtts(Vec::new()), E2eProbes::default());
    }

    #[test]
    fn what_has_no_round_trip_time_is_a_hop_all_the_same() {
        let address = "192.0.2.9".parse().unwrap();
        let hop = Hop {
            ttl: 4,
            answer: Some(Answer::new(address, None, None)),
            attempts: 2,
            lost: Losses::default(),
            nat: false,
        };
        let entry = HopEntry::new(&hop, &Names::default());
        assert_eq!(
            (entry.ip_address, entry.rtt, entry.reachable),
            (Some(address), 0.0, true)
        );
        assert!((milliseconds(Duration::from_nanos(12_700)) - 0.0127).abs() < f64::EPSILON);
    }
}
