//! The way back to the client.

use std::net::IpAddr;
use std::time::Duration;

use super::{Event, Flight, Network};
use crate::counters::Dropped;
use crate::icmp::{self, Error};
use crate::link::{happens, random_below};
use crate::packet::{ICMP, ICMP_V6, Packet};

impl Network {
    pub(super) fn packet(
        &mut self,
        ttl: u8,
        source: IpAddr,
        destination: IpAddr,
        protocol: u8,
        transport: &[u8],
    ) -> Packet {
        Packet::build(source, destination, ttl, self.rng.u16(..), protocol, transport)
    }

    /// Answers from `source` at once.
    pub(super) fn answer(
        &mut self,
        node: usize,
        source: IpAddr,
        protocol: u8,
        reply: &[u8],
        to: &Flight,
        at: Duration,
    ) {
        let Some(ttl) = self.nodes[node].reply_ttl(&to.packet) else {
            return self.drop(node, Dropped::TtlExpiredBack);
        };
        let mut packet = self.packet(ttl, source, to.packet.source(), protocol, reply);
        if self.nodes[node].icmp.options {
            packet.add_options();
        }
        self.schedule(
            at,
            Event::Departure {
                node,
                flight: Flight {
                    packet,
                    route: to.route.clone(),
                },
            },
        );
    }

    /// Answers with an ICMP error, if the node does such a thing.
    pub(super) fn answer_with_error(&mut self, node: usize, error: Error, about: &Flight, now: Duration) {
        if let Some(reason) = self.no_error_because(node, error, &about.packet, now) {
            return self.drop(node, reason);
        }
        let sender = &self.nodes[node];
        let Some(source) = sender.error_source(about.packet.is_v6()) else {
            return;
        };
        let message = icmp::error(error, &about.packet, source, &sender.icmp);
        let protocol = if about.packet.is_v6() { ICMP_V6 } else { ICMP };
        let late: Vec<Duration> = sender.icmp.late_duplicates.iter().map(|late| late.0).collect();
        let at = now + sender.icmp.delay.0 + random_below(sender.icmp.jitter.0, &mut self.rng);
        self.answer(node, source, protocol, &message, about, at);
        for late in late {
            self.answer(node, source, protocol, &message, about, at + late);
        }
    }

    fn no_error_because(
        &mut self,
        node: usize,
        error: Error,
        about: &Packet,
        now: Duration,
    ) -> Option<Dropped> {
        let sender = &mut self.nodes[node];
        if !icmp::may_answer(about) {
            return Some(Dropped::NoAnswerAllowed);
        }
        let able = sender.answers(about) && sender.error_source(about.is_v6()).is_some();
        if !able || happens(sender.icmp.loss.0, &mut self.rng) {
            return Some(Dropped::Silent);
        }
        (!sender.within_limit(error, about.source(), now, &mut self.rng)).then_some(Dropped::RateLimited)
    }

    /// Sends an answer over the link from `node` towards the client.
    pub(super) fn send_back(&mut self, node: usize, mut flight: Flight, now: Duration) {
        let [first, duplicate] = self.nodes[node].back.cross(now, &mut self.rng);
        let previous = flight.route.trail.pop();
        let event = |flight| match previous {
            Some(node) => Event::Return { node, flight },
            None => Event::Delivery { flight },
        };
        if let Some(at) = duplicate {
            self.schedule(at, event(flight.clone()));
        }
        match first {
            Some(at) => self.schedule(at, event(flight)),
            None => self.drop(node, Dropped::LostBack),
        }
    }

    pub(super) fn pass_back(&mut self, node: usize, mut flight: Flight, now: Duration) {
        if let Some(router) = &self.nodes[node].router {
            let ttl = flight.packet.ttl();
            if router.ttl_decrement > 0 && ttl <= router.ttl_decrement {
                return self.drop(node, Dropped::TtlExpiredBack);
            }
            flight.packet.set_ttl(ttl - router.ttl_decrement.min(ttl));
            let translated = router
                .nat
                .as_ref()
                .is_none_or(|nat| nat.inbound(&mut flight.packet));
            if !translated {
                return self.drop(node, Dropped::NoTranslation);
            }
        }
        self.send_back(node, flight, now);
    }
}
