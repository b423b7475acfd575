//! What both benches need: 10,000 traces and the replies to their probes.
#![allow(dead_code, unused_imports, unreachable_pub, clippy::unwrap_used, missing_docs)]

#[path = "../../tests/support/mod.rs"]
mod simulation;

use std::time::Duration;

use simulation::{client, destination_answer, target, time_exceeded};
pub use traceroute_engine::{Action, Engine, Event, Method, TraceSpec};
pub use traceroute_net::{NetworkEvent, Time};
pub use traceroute_wire::{Probe, Reply};

pub const TRACES: usize = 10_000;
pub const HOPS: u8 = 11;
pub const METHODS: [(&str, Method); 3] = [
    ("udp", Method::Udp),
    ("icmp", Method::Icmp),
    ("syn", Method::TcpSyn),
];

/// An engine with [`TRACES`] traces to one target, which is the hardest case: their keys differ in identifiers only.
pub fn engine(method: Method, now: Time) -> Engine {
    let mut engine = Engine::new(TRACES, [7; 32]);
    let spec = TraceSpec::full(method, target(), 33434, 30, Duration::from_secs(1));
    for index in 0..TRACES {
        let port = if method == Method::Icmp {
            0
        } else {
            20_000 + index as u16
        };
        engine.start(now, spec, client(), port).unwrap();
    }
    engine
}

/// What the hop that a probe reaches answers.
pub fn answer(probe: &Probe) -> Reply {
    if probe.ttl < HOPS {
        time_exceeded(probe)
    } else {
        destination_answer(probe)
    }
}
