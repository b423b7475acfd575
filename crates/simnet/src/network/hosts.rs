//! What happens at a destination.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Event, Flight, Network, Route};
use crate::counters::Dropped;
use crate::icmp::{self, Error};
use crate::node;
use crate::packet::{self, ICMP, ICMP_V6, TCP, UDP};
use crate::tcp::{Ends, Outcome, Segment};
use crate::topology::{Port, Unreachable};

impl Network {
    pub(super) fn arrive_at_host(&mut self, node: usize, flight: &Flight, now: Duration) {
        let packet = &flight.packet;
        if packet.is_fragment() {
            return self.drop(node, Dropped::Fragment);
        }
        let has_checksum = matches!(packet.protocol(), ICMP | ICMP_V6 | UDP | TCP);
        if has_checksum && !packet.transport_checksum_ok() {
            return self.drop(node, Dropped::WrongChecksum);
        }
        if let Some(block) = self.nodes[node].blocked(packet) {
            let block = block.clone();
            return self.refuse(node, &block, flight.clone(), now);
        }
        match packet.protocol() {
            ICMP | ICMP_V6 => self.echo(node, flight, now),
            UDP => self.udp(node, flight, now),
            TCP => self.tcp(node, flight, now),
            _ => self.answer_with_error(node, Error::Unreachable(Unreachable::Protocol), flight, now),
        }
    }

    fn echo(&mut self, node: usize, flight: &Flight, now: Duration) {
        let request = &flight.packet;
        if !icmp::is_echo_request(request) {
            return self.drop(node, Dropped::NotUnderstood);
        }
        if !self.nodes[node].host.echo {
            return self.drop(node, Dropped::Silent);
        }
        let reply = icmp::echo_reply(request, request.destination());
        self.answer(
            node,
            request.destination(),
            request.protocol(),
            &reply,
            flight,
            now,
        );
    }

    fn udp(&mut self, node: usize, flight: &Flight, now: Duration) {
        let request = flight.packet.transport();
        let length = packet::u16_at(request, 4).map_or(0, usize::from);
        let ports = node::source_port(&flight.packet).zip(node::destination_port(&flight.packet));
        let (Some((from, to)), Some(payload)) = (ports, request.get(8..length)) else {
            return self.drop(node, Dropped::NotUnderstood);
        };
        match self.nodes[node].host.udp.port(to) {
            Port::Silent => self.drop(node, Dropped::Silent),
            Port::Closed => self.answer_with_error(node, Error::Unreachable(Unreachable::Port), flight, now),
            Port::Open => {
                let fixed = &self.nodes[node].host.udp.reply;
                let payload = fixed.as_ref().map_or(payload, |reply| reply.as_bytes());
                let source = flight.packet.destination();
                let reply = packet::datagram((source, to), (flight.packet.source(), from), payload);
                self.answer(node, source, UDP, &reply, flight, now);
            }
        }
    }

    fn tcp(&mut self, node: usize, flight: &Flight, now: Duration) {
        let packet = &flight.packet;
        let ports = node::source_port(packet).zip(node::destination_port(packet));
        let (Some((from, to)), Some(segment)) = (ports, Segment::parse(packet.transport())) else {
            return self.drop(node, Dropped::NotUnderstood);
        };
        let ends = (
            SocketAddr::new(packet.source(), from),
            SocketAddr::new(packet.destination(), to),
        );
        let Some(ttl) = self.nodes[node].reply_ttl(packet) else {
            return self.drop(node, Dropped::TtlExpiredBack);
        };
        let outcome = self.nodes[node]
            .host
            .tcp
            .segment(ends, &segment, now, &mut self.rng);
        self.tcp_outcome(node, ends, outcome, &flight.route, ttl, now);
    }

    pub(super) fn tcp_outcome(
        &mut self,
        node: usize,
        ends: Ends,
        outcome: Outcome,
        route: &Route,
        ttl: u8,
        now: Duration,
    ) {
        let (client, server) = ends;
        if let Some(reason) = outcome.dropped {
            self.drop(node, reason);
        }
        for (delay, segment) in outcome.send {
            let mut bytes = segment.encode(server.port(), client.port());
            packet::fill_checksum(server.ip(), client.ip(), TCP, &mut bytes);
            let packet = self.packet(ttl, server.ip(), client.ip(), TCP, &bytes);
            let flight = Flight {
                packet,
                route: route.clone(),
            };
            self.schedule(now + delay, Event::Departure { node, flight });
        }
        for (delay, timer) in outcome.timers {
            let route = route.clone();
            self.schedule(
                now + delay,
                Event::Timer {
                    node,
                    ends,
                    timer,
                    route,
                    ttl,
                },
            );
        }
    }
}
