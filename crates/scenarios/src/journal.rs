//! What really happened on the simulated network: the yardstick for round-trip times.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use etherparse::{NetSlice, SlicedPacket};

/// Packets as the simulated network saw them.
#[derive(Debug, Default, Clone)]
pub struct Journal {
    sent: Vec<Sent>,
    heard: Vec<Heard>,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    number: u64,
    at: Duration,
    ttl: u8,
    to: IpAddr,
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    cause: u64,
    at: Duration,
    from: IpAddr,
}

impl Journal {
    /// The client sent its packet with this number, from 1.
    pub fn sent(&mut self, number: u64, at: Duration, packet: &[u8]) {
        if let Some((_, to, ttl)) = header(packet) {
            self.sent.push(Sent { number, at, ttl, to });
        }
    }

    /// An answer to the packet with number `cause` arrived at the client.
    pub fn heard(&mut self, cause: u64, at: Duration, packet: &[u8]) {
        if let Some((from, _, _)) = header(packet) {
            self.heard.push(Heard { cause, at, from });
        }
    }

    /// Whether `rtt` is the time from a packet with this TTL to `target` until an answer to it from `from`, give or take
    /// `slack` (in nanoseconds, what `rtt` may be more). `any_cause`: until any answer from there, for protocols whose
    /// answers cover several probes.
    pub fn explains(
        &self,
        target: IpAddr,
        ttl: u8,
        from: IpAddr,
        rtt: Duration,
        slack: &RangeInclusive<i128>,
        any_cause: bool,
    ) -> bool {
        let probes = self
            .sent
            .iter()
            .filter(|sent| sent.ttl == ttl && sent.to == target);
        probes.into_iter().any(|sent| {
            let answers = self
                .heard
                .iter()
                .filter(|heard| heard.from == from && heard.at >= sent.at);
            answers
                .filter(|heard| any_cause || heard.cause == sent.number)
                .any(|heard| {
                    let true_rtt = heard.at.saturating_sub(sent.at).as_nanos();
                    slack.contains(&(rtt.as_nanos().cast_signed() - true_rtt.cast_signed()))
                })
        })
    }
}

impl Journal {
    /// The true round-trip times of packets with this TTL to `target`, for messages.
    pub fn true_rtts(&self, target: IpAddr, ttl: u8) -> Vec<(IpAddr, Duration)> {
        let probes = self
            .sent
            .iter()
            .filter(|sent| sent.ttl == ttl && sent.to == target);
        probes
            .flat_map(|sent| {
                let answers = self.heard.iter().filter(|heard| heard.cause == sent.number);
                answers.map(|heard| (heard.from, heard.at.saturating_sub(sent.at)))
            })
            .collect()
    }
}

/// Source, destination and TTL of a packet.
pub(crate) fn header(packet: &[u8]) -> Option<(IpAddr, IpAddr, u8)> {
    match SlicedPacket::from_ip(packet).ok()?.net? {
        NetSlice::Ipv4(ip) => Some((
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
            ip.header().ttl(),
        )),
        NetSlice::Ipv6(ip) => Some((
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
            ip.header().hop_limit(),
        )),
        NetSlice::Arp(_) => None,
    }
}
