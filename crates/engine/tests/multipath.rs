//! Discoveries of paths, carried out by the engine.

mod support;

use std::io::ErrorKind;

use support::*;
use traceroute_engine::multipath::MAX_FLOWS;
use traceroute_engine::{Method, PathsPlan, Plan, TraceSpec};

#[test]
fn what_this_machine_refuses_to_send_is_not_counted_as_sent() {
    let plan = PathsPlan {
        allowed: 50_000,
        max_probes: 1000,
        max_flows: MAX_FLOWS,
        end_to_end: 20,
        interval: ms(10),
    };
    let mut simulation = Simulation::new(straight(3));
    for index in [5, 8] {
        simulation.fail_send.insert(index, ErrorKind::PermissionDenied);
    }
    let spec = TraceSpec {
        plan: Plan::Paths(plan),
        ..spec(Method::Icmp)
    };
    let id = simulation.start(spec);
    // Those with the highest TTL are the end-to-end probes.
    let is_end_to_end =
        |simulation: &Simulation<'_>| simulation.sent.last().is_some_and(|(_, probe)| probe.ttl == 30);
    while !is_end_to_end(&simulation) {
        assert!(simulation.step());
    }
    for index in [3, 4, 9] {
        let next = simulation.attempts.len() + index;
        simulation.fail_send.insert(next, ErrorKind::PermissionDenied);
    }
    simulation.run();
    simulation.assert_idle();
    let (_, result) = &simulation.paths[&id];
    assert_eq!(simulation.attempts.len(), simulation.sent.len() + 5);
    assert_eq!(result.probes_sent as usize, simulation.sent.len());
    let flows = result.flows.iter();
    let (sent, received) = flows.fold((0, 0), |(sent, received), flow| {
        (sent + flow.sent, received + flow.received)
    });
    assert_eq!((sent, received), (17, 17));
}
