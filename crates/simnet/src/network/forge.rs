//! Routers that answer in somebody else's name.

use std::time::Duration;

use super::{Event, Flight, Network};
use crate::icmp;
use crate::node;
use crate::packet::{self, UDP};

/// Initial TTL of what is forged.
const TTL: u8 = 64;

/// What forged datagrams carry.
const PAYLOAD: &[u8] = b"forged";

impl Network {
    /// Sends what the router forges about a packet that passes.
    pub(super) fn forge(&mut self, node: usize, flight: &Flight, now: Duration) {
        self.forge_echo(node, flight, now);
        self.forge_udp(node, flight, now);
    }

    fn forge_echo(&mut self, node: usize, flight: &Flight, now: Duration) {
        let request = &flight.packet;
        let router = self.nodes[node].router.as_ref();
        let stranger = router.and_then(|router| router.forge_echo_from);
        let Some(stranger) = stranger.filter(|stranger| stranger.is_ipv6() == request.is_v6()) else {
            return;
        };
        if icmp::is_echo_request(request) {
            let reply = icmp::echo_reply(request, stranger);
            let packet = self.packet(TTL, stranger, request.source(), request.protocol(), &reply);
            self.send_forged(node, packet, flight, now);
        }
    }

    fn forge_udp(&mut self, node: usize, flight: &Flight, now: Duration) {
        let probe = &flight.packet;
        let ports = node::source_port(probe).zip(node::destination_port(probe));
        let Some((from, to)) = ports.filter(|_| probe.protocol() == UDP) else {
            return;
        };
        let Some(router) = &mut self.nodes[node].router else {
            return;
        };
        router.datagrams += 1;
        if router.forge_udp.contains(&router.datagrams) {
            let (source, destination) = (probe.destination(), probe.source());
            let reply = packet::datagram((source, to), (destination, from), PAYLOAD);
            let packet = self.packet(TTL, source, destination, UDP, &reply);
            self.send_forged(node, packet, flight, now);
        }
    }

    fn send_forged(&mut self, node: usize, packet: packet::Packet, about: &Flight, now: Duration) {
        let route = about.route.clone();
        let flight = Flight { packet, route };
        self.schedule(now, Event::Departure { node, flight });
    }
}
