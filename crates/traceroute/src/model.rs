//! The result of a request, field by field in the order in which it is written.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::details::Details;
use crate::request::Protocol;
use crate::warning::Warning;

/// Everything that one request found out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Protocol of the probes.
    pub protocol: Protocol,
    /// Where the probes came from.
    pub source: Source,
    /// What was asked for.
    pub destination: Destination,
    /// The traceroute runs.
    pub traceroute: Traceroute,
    /// The end-to-end probes.
    pub e2e_probe: E2eProbe,
    /// What the probes learned beyond that. Not part of the contract: absent unless asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<Details>>,
    /// What a reader must know to understand the result. Not part of the document, except as one of
    /// the details.
    #[serde(skip)]
    pub warnings: Vec<Warning>,
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
    pub runs: Vec<Run>,
    /// How long the paths are.
    pub hop_count: HopCount,
}

/// How long the paths of all runs are, in hops; all 0 when there is no run.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct HopCount {
    /// Mean.
    pub avg: f64,
    /// Shortest.
    pub min: u32,
    /// Longest.
    pub max: u32,
}

/// One traceroute run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Random identifier.
    pub run_id: Uuid,
    /// Source of the probes.
    pub source: RunSource,
    /// Destination of the probes.
    pub destination: RunDestination,
    /// What answered, by TTL from 1 up.
    pub hops: Vec<Hop>,
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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reverse_dns: Vec<String>,
}

/// What is at one TTL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hop {
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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reverse_dns: Vec<String>,
}

impl Hop {
    /// A hop that answered after `rtt` milliseconds.
    pub fn answered(ttl: u8, address: IpAddr, rtt: f64) -> Self {
        Hop {
            ttl,
            ip_address: Some(address),
            rtt,
            reachable: true,
            reverse_dns: Vec::new(),
        }
    }

    /// A hop without an answer.
    pub fn silent(ttl: u8) -> Self {
        Hop {
            ttl,
            ip_address: None,
            rtt: 0.0,
            reachable: false,
            reverse_dns: Vec::new(),
        }
    }
}

/// The end-to-end probes of a request.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct E2eProbe {
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
    pub rtt: RttStatistics,
}

/// Statistics of round-trip times, in milliseconds; all 0 when there is none.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct RttStatistics {
    /// Mean.
    pub avg: f64,
    /// Shortest.
    pub min: f64,
    /// Longest.
    pub max: f64,
}

/// An address that is written as an empty string when there is none.
mod address_or_empty {
    use std::net::IpAddr;

    use serde::{Deserialize, Deserializer, Serializer, de};

    #[expect(clippy::ref_option, reason = "the signature that serde calls")]
    pub(super) fn serialize<S: Serializer>(
        address: &Option<IpAddr>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match address {
            Some(address) => serializer.collect_str(address),
            None => serializer.serialize_str(""),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<IpAddr>, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(de::Error::custom)
    }
}
