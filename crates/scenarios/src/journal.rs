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

    /// How much more `rtt` is, in nanoseconds, than the time from a packet with this TTL to
    /// `target` until an answer to it from `from`: of those within `slack` the least. `any_cause`:
    /// until any answer from there, for protocols whose answers cover several probes. `None`: no
    /// such answer explains it.
    pub fn error(
        &self,
        target: IpAddr,
        ttl: u8,
        from: IpAddr,
        rtt: Duration,
        slack: &RangeInclusive<i128>,
        any_cause: bool,
    ) -> Option<i128> {
        let errors = self.probes(target, ttl).flat_map(|sent| {
            let answers = self
                .heard
                .iter()
                .filter(move |heard| heard.from == from && heard.at >= sent.at);
            answers
                .filter(move |heard| any_cause || heard.cause == sent.number)
                .map(move |heard| {
                    let true_rtt = heard.at.saturating_sub(sent.at).as_nanos();
                    rtt.as_nanos().cast_signed() - true_rtt.cast_signed()
                })
        });
        errors
            .filter(|error| slack.contains(error))
            .min_by_key(|error| error.abs())
    }

    /// The true round-trip times of packets with this TTL to `target`, for messages.
    pub fn true_rtts(&self, target: IpAddr, ttl: u8) -> Vec<(IpAddr, Duration)> {
        self.probes(target, ttl)
            .flat_map(|sent| {
                let answers = self.heard.iter().filter(|heard| heard.cause == sent.number);
                answers.map(|heard| (heard.from, heard.at.saturating_sub(sent.at)))
            })
            .collect()
    }

    fn probes(&self, target: IpAddr, ttl: u8) -> impl Iterator<Item = &Sent> {
        self.sent
            .iter()
            .filter(move |sent| sent.ttl == ttl && sent.to == target)
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
