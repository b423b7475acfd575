//! Carries scenarios out in memory.

use std::time::Duration;

use traceroute_engine::{Method as Probing, TraceError, TraceResult, TraceSpec};
use traceroute_simnet::{Network, TopologyError};

use crate::scenario::{E2E_QUERIES, Family, Finding, Method, Outcome, Scenario, type_and_code};
use crate::simulation::{Interference, Simulation};

/// Seed of the simulated network and of the engine.
pub const SEED: u64 = 1;

/// One run, and in a fresh network the end-to-end probes: what the library does for a request.
/// `interference` makes what forgers add.
///
/// # Errors
/// The scenario's topology is wrong.
///
/// # Panics
/// When state is left.
pub fn run(
    scenario: &Scenario,
    method: Method,
    family: Family,
    interference: &dyn Fn() -> Option<Interference>,
) -> Result<Outcome, TopologyError> {
    let target = scenario.target(family);
    let prepare = || {
        let mut simulation = Simulation::new(Network::new(&scenario.topology()?, SEED), SEED);
        simulation.interference = interference();
        Ok(simulation)
    };
    let mut simulation = prepare()?;
    let hops = trace(&mut simulation, scenario, method, family)
        .map(|result| findings(&result, method))
        .map_err(|error| error.to_string());
    settle(&mut simulation, scenario);
    let mut wrong = Vec::new();
    let journal = &simulation.journal;
    for (ttl, finding) in (1..).zip(hops.as_deref().unwrap_or_default()) {
        let Some(finding) = finding else { continue };
        // Without one it could not be told which attempt was answered.
        let Some(rtt) = finding.rtt else { continue };
        // A selective acknowledgment may be the first to arrive about earlier probes too; its time
        // is that of its own.
        let covers = finding.destination && matches!(method, Method::Sack | Method::PreferSack);
        let last = if covers { scenario.max_ttl } else { ttl };
        let is_right = (ttl..=last).any(|ttl| {
            journal
                .error(target, ttl, finding.address, rtt, &(0..=0), false)
                .is_some()
        });
        if !is_right {
            let truth = journal.true_rtts(target, ttl);
            wrong.push(format!("wrong RTT {rtt:?} at TTL {ttl}, truly {truth:?}"));
        }
    }
    let mut simulation = prepare()?;
    let rtts = e2e(&mut simulation, scenario, method, family);
    settle(&mut simulation, scenario);
    let journal = &simulation.journal;
    for rtt in rtts.iter().flatten() {
        let error = journal.error(target, scenario.max_ttl, target, *rtt, &(0..=0), false);
        if error.is_none() {
            wrong.push(format!("wrong end-to-end RTT {rtt:?}"));
        }
    }
    Ok(Outcome {
        target,
        hops,
        rtts,
        wrong,
    })
}

/// One run as the library does it: `prefer_sack` falls back to SYN.
///
/// # Errors
/// Why there is no result.
pub fn trace(
    simulation: &mut Simulation,
    scenario: &Scenario,
    method: Method,
    family: Family,
) -> Result<TraceResult, TraceError> {
    let mut with = |probing| {
        let timeout = Duration::from_millis(scenario.timeout_ms);
        let port = scenario.port(method);
        let spec = TraceSpec::full(probing, scenario.target(family), port, scenario.max_ttl, timeout);
        let id = simulation.start(spec);
        simulation.finish(id)
    };
    match method {
        Method::Icmp => with(Probing::Icmp),
        Method::Udp => with(Probing::Udp),
        Method::Syn => with(Probing::TcpSyn),
        Method::Sack => with(Probing::TcpSack),
        Method::PreferSack => match with(Probing::TcpSack) {
            Err(TraceError::SackNotSupported(_)) => with(Probing::TcpSyn),
            result => result,
        },
    }
}

fn e2e(
    simulation: &mut Simulation,
    scenario: &Scenario,
    method: Method,
    family: Family,
) -> Vec<Option<Duration>> {
    let probing = match method {
        Method::Icmp => Probing::Icmp,
        Method::Udp => Probing::Udp,
        Method::Syn | Method::Sack | Method::PreferSack => Probing::TcpSyn,
    };
    let timeout = Duration::from_millis(scenario.timeout_ms);
    let (target, port) = (scenario.target(family), scenario.port(method));
    let single = TraceSpec::single(probing, target, port, scenario.max_ttl, timeout);
    let id = simulation.start(TraceSpec::end_to_end(
        single,
        E2E_QUERIES,
        scenario.e2e_spacing(),
        false,
    ));
    simulation
        .finish_series(id)
        .map_or_else(|_| Vec::new(), |series| series.probes)
}

/// Lets everything arrive that is still under way, and looks for state that is left.
fn settle(simulation: &mut Simulation, scenario: &Scenario) {
    simulation.drain();
    let engine = &mut simulation.engine;
    assert_eq!(engine.running(), 0, "{}", scenario.name);
    assert_eq!(engine.table_len(), 0, "{}", scenario.name);
    assert_eq!(engine.wake_at(), None, "{}", scenario.name);
}

fn findings(result: &TraceResult, method: Method) -> Vec<Option<Finding>> {
    let v6 = result.destination.is_ipv6();
    let echo_reply = (method == Method::Icmp).then_some((if v6 { 129 } else { 0 }, 0));
    let finding = |hop: &traceroute_engine::Hop| {
        hop.answer.map(|answer| Finding {
            address: answer.address,
            rtt: answer.rtt,
            destination: answer.destination,
            icmp: answer
                .error
                .map_or(echo_reply, |error| Some(type_and_code(v6, error))),
            reply_ttl: Some(answer.reply_ttl),
            quoted_ttl: answer.quoted_ttl,
            mpls: answer.mpls.labels().collect(),
        })
    };
    result.hops.iter().map(finding).collect()
}
