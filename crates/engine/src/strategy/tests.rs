//! A strategy of a few lines, as later ones will be: it needs nothing but the interface.

use std::net::IpAddr;
use std::time::Duration;

use traceroute_wire::{
    IcmpError, MAX_PROBE_LEN, MplsStack, Probe, ProbeKind, Quoted, QuotedTransport, Reply, ReplyKind,
};

use super::{FIRST, Step, Strategy, View};
use crate::answer::{Distance, End, TraceOutcome, TraceResult};
use crate::ledger::Ledger;
use crate::trace::{FlowIndex, TraceSpec};
use crate::{Action, Engine, EngineEvent, Method, NetError, NetworkEvent, Operation, Time, TraceError};

const TTL: u8 = 3;
const FLOWS: FlowIndex = 2;
const PATIENCE: Duration = Duration::from_millis(100);

/// Who answers at TTL 3 on two flows: each is probed until it is answered.
struct TwoFlows {
    opened: FlowIndex,
}

impl Strategy for TwoFlows {
    fn next(&mut self, view: &mut View<'_>) -> Step {
        if self.opened < FLOWS {
            self.opened += 1;
            return Step::Open;
        }
        let mut wake = None;
        for flow in FIRST..FLOWS {
            let Some(ledger) = view.ledger(flow) else { continue };
            if ledger.is_answered(TTL) {
                continue;
            }
            let again = ledger.last_sent(TTL).map(|sent| sent + PATIENCE);
            match again.filter(|again| view.now < *again) {
                Some(again) => wake = Some(wake.map_or(again, |wake: Time| wake.min(again))),
                None => {
                    return Step::Send {
                        flow,
                        ttl: TTL,
                        label: None,
                        alone: false,
                    };
                }
            }
        }
        wake.map_or(Step::Done, |until| Step::Wait { until, last: false })
    }

    fn outcome(&mut self, view: &mut View<'_>) -> TraceOutcome {
        let sent = |flow| view.ledger(flow).map_or(0, Ledger::sent);
        TraceOutcome::Run(TraceResult {
            source: view.spec.target,
            source_port: 0,
            destination: view.spec.target,
            destination_port: view.spec.port,
            hops: Vec::new(),
            probes_sent: (FIRST..FLOWS).map(sent).sum(),
            distance: Distance::Unknown,
            end: End::MaxTtl,
            retries_limited: false,
        })
    }
}

fn client() -> IpAddr {
    [192, 0, 2, 1].into()
}

fn target() -> IpAddr {
    [203, 0, 113, 9].into()
}

/// A router's time exceeded about a UDP probe over IPv4.
fn time_exceeded(router: IpAddr, probe: &Probe) -> Reply {
    let ProbeKind::Udp {
        source_port,
        destination_port,
        ..
    } = probe.kind
    else {
        panic!("not a datagram: {probe:?}")
    };
    let mut buffer = [0; MAX_PROBE_LEN];
    let packet = probe.encode(&mut buffer).unwrap();
    let word = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    Reply {
        source: router,
        destination: probe.source,
        ttl: 60,
        kind: ReplyKind::IcmpError {
            error: IcmpError::TimeExceeded,
            quoted: Quoted {
                source: probe.source,
                destination: probe.destination,
                ttl: 1,
                identification: probe.identification,
                flow_label: 0,
                transport: QuotedTransport::Udp {
                    source_port,
                    destination_port,
                    length: word(24),
                    checksum: word(26),
                },
            },
            mpls: MplsStack::default(),
        },
    }
}

fn port(probe: &Probe) -> u16 {
    match probe.kind {
        ProbeKind::Udp { source_port, .. } => source_port,
        _ => panic!("not a datagram: {probe:?}"),
    }
}

/// Runs the strategy; each flow has its own router, which does not answer the first probe. Who
/// answered and when, how many probes left, when it was over. `port_left`: a second port can be
/// had.
fn run(port_left: bool) -> (Vec<(IpAddr, Option<Duration>)>, u32, Time) {
    let mut engine = Engine::new(1, [7; 32]);
    let spec = TraceSpec::full(Method::Udp, target(), 33434, 30, Duration::from_secs(1));
    let strategy = Box::new(TwoFlows { opened: FIRST + 1 });
    let id = engine
        .start_with(Time::ZERO, spec, strategy, (client(), 40_000))
        .unwrap();
    let router = |probe: &Probe| IpAddr::from([10, 0, 3, (port(probe) - 40_000) as u8]);
    let (mut found, mut silent, mut now) = (Vec::new(), vec![40_000, 40_001], Time::ZERO);
    loop {
        while let Some(action) = engine.poll_action(now) {
            match action {
                Action::Open { trace } if port_left => {
                    assert_eq!(trace, id);
                    engine.opened(now, id, client(), 40_001);
                }
                Action::Open { .. } => {
                    let error = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
                    let error = NetError::new(Operation::ReservePort, None, error);
                    engine.open_failed(id, TraceError::from(error));
                }
                Action::Send { token, probe } => {
                    engine.sent(token, now);
                    if let Some(first) = silent.iter().position(|silent| *silent == port(&probe)) {
                        silent.remove(first);
                        continue;
                    }
                    let (reply, at) = (
                        time_exceeded(router(&probe), &probe),
                        now + Duration::from_millis(5),
                    );
                    engine.handle(at, NetworkEvent::Reply { reply: &reply, at });
                }
                other => panic!("{other:?}"),
            }
        }
        while let Some(event) = engine.poll_event() {
            match event {
                EngineEvent::Found { found: hop, .. } => found.push((hop.answer.address, hop.answer.rtt)),
                EngineEvent::Finished { result, .. } => {
                    assert_eq!((engine.table_len(), engine.running()), (0, 0));
                    let Ok(TraceOutcome::Run(result)) = result else {
                        panic!("{result:?}")
                    };
                    return (found, result.probes_sent, now);
                }
                other @ EngineEvent::Probe { .. } => panic!("{other:?}"),
            }
        }
        now = engine.wake_at().expect("more to do");
    }
}

#[test]
fn a_strategy_of_a_few_lines_probes_two_flows() {
    let rtt = Some(Duration::from_millis(5));
    let (found, sent, end) = run(true);
    assert_eq!(found, [([10, 0, 3, 0].into(), rtt), ([10, 0, 3, 1].into(), rtt)]);
    assert_eq!((sent, end), (4, Time::ZERO + PATIENCE));
}

#[test]
fn a_flow_that_cannot_be_had_is_missing_in_the_view() {
    let (found, sent, _) = run(false);
    assert_eq!((found.len(), sent), (1, 2));
}
