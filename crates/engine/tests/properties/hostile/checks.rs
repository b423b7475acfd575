//! What holds for every trace.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;
use traceroute_engine::{Answer, Distance, End, Method, Time, Token, TraceId, TraceResult, TraceSpec};
use traceroute_wire::{IcmpError, Probe, ProbeKind, QuotedTransport, Reply, ReplyKind};

use super::cases::{Case, LATEST_STAMP, MAX_TTL, Machine, Run};
use super::input::Input;
use super::mischief::Mischief;
use super::support::world::Target;
use super::support::*;

/// Asks for the destination's distance, 1 ms apart at least, and a token may come when time is
/// nearly over. The last probe's answer is then waited for, two round trips long.
const ASKS: Duration = Duration::from_millis(16 + 2 * (14 * 20 + 150));
/// Attempts at one TTL at most.
const MOST_ATTEMPTS: u8 = 19;

/// An answer that names a probe by one mark only, or by none.
fn forged(probe: &Probe, what: u8) -> Reply {
    let v6 = probe.destination.is_ipv6();
    let mut reply = if what & 1 == 0 {
        error(router_of(v6, 200), probe, IcmpError::TimeExceeded)
    } else {
        destination_answer(probe)
    };
    match &mut reply.kind {
        ReplyKind::IcmpError { quoted, .. } => {
            quoted.identification ^= 0x8000;
            quoted.flow_label ^= 0x8000;
            match &mut quoted.transport {
                QuotedTransport::Echo { checksum, .. } | QuotedTransport::Udp { checksum, .. } => {
                    *checksum ^= 0x7000;
                }
                QuotedTransport::Tcp { sequence, .. } => *sequence ^= 0x7000_0000,
            }
        }
        ReplyKind::Echo { cookie, .. } => *cookie = (what & 2 == 0).then_some([what; 6]),
        ReplyKind::Tcp(_) if what & 2 == 0 => reply.source = router_of(v6, 77),
        ReplyKind::Tcp(tcp) => {
            tcp.acknowledgment ^= 0x7000_0000;
            tcp.sack.left_edges = tcp.sack.left_edges.map(|edge| edge ^ 0x7000_0000);
        }
        ReplyKind::Udp(_) => reply.source = router_of(v6, 77),
    }
    reply
}

/// What names this probe by its port or identifier, and another trace's by the rest.
fn mixed(probe: &Probe, other: &Probe) -> Option<Reply> {
    let is_another = name(probe) != name(other) && probe.destination == other.destination;
    let mut reply = destination_answer(other);
    match (&mut reply.kind, destination_answer(probe).kind) {
        (ReplyKind::Echo { identifier, .. }, ReplyKind::Echo { identifier: own, .. }) => *identifier = own,
        (ReplyKind::Tcp(tcp), ReplyKind::Tcp(own)) => tcp.destination_port = own.destination_port,
        _ => return None,
    }
    is_another.then_some(reply)
}

/// What was put on the wire explains what is shown.
fn is_explained(
    simulation: &Simulation<'_>,
    forged: &[Reply],
    (port, target): (u16, IpAddr),
    ttl: u8,
    answer: &Answer,
) -> bool {
    simulation.answers.iter().any(|(index, arrives, reply)| {
        let ((sent, probe), left) = (&simulation.sent[*index], simulation.left[*index]);
        // A selective acknowledgment may be about an earlier probe than the one that caused it.
        let covers =
            matches!(probe.kind, ProbeKind::TcpSack { .. }) && answer.destination && probe.ttl >= ttl;
        let rtt = |since: Time| Some(arrives.since(since).max(Duration::from_nanos(1)));
        let is_attempt = |number: u8| simulation.numbers[*index] == usize::from(number);
        (name(probe).1, probe.destination) == (port, target)
            && (probe.ttl == ttl || covers)
            && reply.source == answer.address
            && (covers || answer.attempt.is_none_or(is_attempt))
            && match answer.rtt {
                // The covered probe may be stamped while this one is not.
                Some(_) if covers => (rtt(left)..=rtt(*sent)).contains(&answer.rtt),
                known => [None, rtt(*sent), rtt(left)].contains(&known),
            }
            && !forged.contains(reply)
    })
}

/// What was sent on a flow and what came back, in microseconds.
fn story(simulation: &Simulation<'_>, path: (u16, IpAddr)) -> String {
    let mut story = String::new();
    for (index, (sent, probe)) in simulation.sent.iter().enumerate() {
        if (name(probe).1, probe.destination) == path {
            let number = simulation.numbers[index];
            let micros = |at: Time| at.as_nanos() / 1000;
            write!(
                story,
                "\n  TTL {} attempt {number} at {}:",
                probe.ttl,
                micros(*sent)
            )
            .unwrap();
            for (_, arrives, reply) in simulation.answers.iter().filter(|(of, ..)| *of == index) {
                write!(story, " {} at {}", reply.source, micros(*arrives)).unwrap();
            }
        }
    }
    story
}

/// When a run must be over; checks that first attempts come in order and no faster than they may.
fn deadline(simulation: &Simulation<'_>, spec: &TraceSpec, port: u16) -> Result<Time, TestCaseError> {
    let mut firsts: Vec<(Token, u8, Time)> = Vec::new();
    for (at, token, probe) in &simulation.tries {
        if (name(probe).1, probe.destination) != (port, spec.target) {
            continue;
        }
        match firsts.iter_mut().find(|(_, ttl, _)| *ttl == probe.ttl) {
            // Tried again because the queue was full.
            Some((first, _, tried)) if first == token => *tried = *at,
            Some(_) => {}
            None => firsts.push((*token, probe.ttl, *at)),
        }
    }
    for pair in firsts.windows(2) {
        prop_assert_eq!(pair[1].1, pair[0].1 + 1, "the order of TTLs");
        prop_assert!(pair[1].2.since(pair[0].2) >= spec.delay, "a burst: {:?}", firsts);
    }
    let start = at(1);
    let last = firsts.last().map_or(start, |(.., at)| *at);
    let asks = if spec.method == Method::TcpSyn {
        spec.timeout.min(ms(5000))
    } else {
        Duration::ZERO
    };
    let natural = (last + LATEST_STAMP + spec.timeout + asks).max(start + spec.linger);
    let natural = Machine::gets_to(simulation, natural) + ASKS + spec.timeout;
    Ok(Machine::gets_to(simulation, natural.min(start + spec.longest)))
}

pub fn check(case: &Case) -> Result<(), TestCaseError> {
    let forgeries: Rc<RefCell<Vec<Reply>>> = Rc::default();
    let (mut world, mut random) = (case.network.world(), case.network.seed);
    let (known, mut others) = (Rc::clone(&forgeries), Vec::new());
    let mut simulation = Simulation::new(move |now, probe| {
        let mut replies = world.answers(now, probe);
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mixture = others.last().and_then(|other| mixed(probe, other));
        others.push(*probe);
        let false_ones = [mixture, Some(forged(probe, (random >> 40) as u8))];
        for reply in false_ones.into_iter().flatten().filter(|_| random >> 62 == 0) {
            known.borrow_mut().push(reply);
            replies.push((now + Duration::from_micros(random >> 46), reply));
        }
        replies
    });
    case.machine.prepare(&mut simulation);
    // No system that matches answers itself opens connections for it.
    simulation.kernel_matches &= case.runs.iter().all(|run| run.method != Method::TcpSack);
    let start = simulation.now;
    let runs: Vec<(TraceId, TraceSpec)> = case
        .runs
        .iter()
        .map(|run| (simulation.start_connected(run.spec()), run.spec()))
        .collect();
    simulation.run();
    simulation.assert_idle();
    let forgeries = forgeries.borrow();
    for (id, spec) in &runs {
        let (end, result) = &simulation.finished[id];
        let Ok(result) = result else {
            let error = simulation.error(*id);
            prop_assert!(
                !case.machine.fails.is_empty() || spec.longest < ms(1500),
                "{error}"
            );
            continue;
        };
        check_run(case, &simulation, spec, result)?;
        let latest = deadline(&simulation, spec, result.source_port)?;
        prop_assert!(
            *end <= latest,
            "{:?} ends {:?} late, at {end:?}:{}",
            spec.method,
            end.since(latest),
            story(&simulation, (result.source_port, spec.target))
        );
        let path = (result.source_port, spec.target);
        for (_, found) in simulation.found.iter().filter(|(trace, _)| trace == id) {
            let is_true = is_explained(&simulation, &forgeries, path, found.ttl, &found.answer);
            prop_assert!(is_true, "{found:?} was told of:{}", story(&simulation, path));
        }
        for hop in &result.hops {
            if let Some(answer) = &hop.answer {
                let is_true = is_explained(&simulation, &forgeries, path, hop.ttl, answer);
                prop_assert!(is_true, "{:?}", hop);
            }
        }
        prop_assert!(end.since(start) <= ms(70_000));
    }
    Ok(())
}

fn check_run(
    case: &Case,
    simulation: &Simulation<'_>,
    spec: &TraceSpec,
    result: &TraceResult,
) -> Result<(), TestCaseError> {
    let network = &case.network;
    let repeats = spec.hop_retries > 0 && spec.tells_attempts;
    // Where losses may look like a limit.
    let loses = network.answers_lost > 0
        || network.probes_lost > 0
        || !network.limits.is_empty()
        || network.silent.len() > 1
        || spec.linger > Duration::ZERO;
    // A UDP target is thought to be limited, as Linux is.
    let may_learn = loses || spec.method == Method::Udp;
    let most = match (repeats, may_learn) {
        (false, _) => 1,
        (true, false) => 1 + spec.hop_retries + 8,
        (true, true) => MOST_ATTEMPTS,
    };
    check_probes(simulation, spec, result, most)?;
    let path = (result.source_port, spec.target);
    for hop in &result.hops {
        let is_destination = hop.answer.is_some_and(|answer| answer.destination);
        prop_assert!(
            !is_destination || hop.ttl >= network.length,
            "too near: {:?}",
            result
        );
    }
    let has_refused = case.machine.fails.values().any(|is_full| !is_full);
    let late = case
        .machine
        .read_late
        .iter()
        .max()
        .map_or(Duration::ZERO, |late| ms(*late));
    let slowest = network.hop * u32::from(network.length) + network.jitter + late;
    let is_in_time = spec.timeout >= slowest * 2 && simulation.stalls.is_empty();
    if result.end == End::Destination && repeats && network.is_clear() && !has_refused && is_in_time {
        let story = story(simulation, path);
        prop_assert_eq!(
            result.hops.len(),
            usize::from(network.length),
            "{:?}:{}",
            result.hops.last(),
            story
        );
        prop_assert_eq!(result.distance, Distance::Known);
    }
    if let End::Refused { from: Some(from), .. } = result.end {
        prop_assert_eq!(
            Some(from),
            network.refuses.map(|ttl| router_of(spec.target.is_ipv6(), ttl))
        );
    }
    Ok(())
}

/// The hops and probes of a run, whatever the replies say; `most` attempts at each TTL.
fn check_probes(
    simulation: &Simulation<'_>,
    spec: &TraceSpec,
    result: &TraceResult,
    most: u8,
) -> Result<(), TestCaseError> {
    let ttls: Vec<u8> = result.hops.iter().map(|hop| hop.ttl).collect();
    prop_assert_eq!(&ttls, &(1..=ttls.len() as u8).collect::<Vec<_>>());
    let path = (result.source_port, spec.target);
    let sent = |ttl: u8| {
        let is_it =
            |(_, probe): &&(Time, Probe)| (name(probe).1, probe.destination) == path && probe.ttl == ttl;
        simulation.sent.iter().filter(is_it).count()
    };
    for hop in &result.hops {
        prop_assert!(hop.attempts <= most, "{hop:?}:{}", story(simulation, path));
        prop_assert!(sent(hop.ttl) <= usize::from(hop.attempts), "{:?}", hop);
        let answered = usize::from(hop.answer.is_some());
        prop_assert!(
            hop.lost.total() as usize + answered <= usize::from(hop.attempts),
            "{:?}",
            hop
        );
        let is_last = hop.ttl == ttls.len() as u8;
        let is_destination = hop.answer.is_some_and(|answer| answer.destination);
        prop_assert!(
            !is_destination || is_last && result.end == End::Destination,
            "{:?}",
            hop
        );
    }
    let all: usize = (1..=MAX_TTL).map(sent).sum();
    prop_assert_eq!(all, result.probes_sent as usize);
    Ok(())
}

/// A series of end-to-end probes over such a network.
pub fn check_series(
    case: &Case,
    run: &Run,
    (count, interval, fixed): (u32, Duration, bool),
) -> Result<(), TestCaseError> {
    let mut world = case.network.world();
    let mut simulation = Simulation::new(|now, probe: &Probe| world.answers(now, probe));
    case.machine.prepare(&mut simulation);
    let start = simulation.now;
    let method = if run.method == Method::TcpSack {
        Method::TcpSyn
    } else {
        run.method
    };
    let single = TraceSpec::single(method, target_of(run.v6), 33434, MAX_TTL, ms(run.timeout));
    let id = simulation.start(TraceSpec::end_to_end(single, count, interval, fixed));
    simulation.run();
    simulation.assert_idle();
    let Some((end, series)) = simulation.series.get(&id) else {
        let is_refused = case.machine.fails.contains_key(&0);
        prop_assert!(is_refused, "{}", simulation.error(id));
        return Ok(());
    };
    let tests = simulation.sent.len() - series.probes.len();
    prop_assert!(
        tests <= if method == Method::Udp && !fixed { 2 } else { 0 },
        "{} tests",
        tests
    );
    prop_assert_eq!(series.probes.len() as u32 + series.refused + series.unsent, count);
    prop_assert!(series.unsent == 0 || method == Method::Udp && !fixed);
    let lost = series.probes.iter().filter(|rtt| rtt.is_none()).count();
    prop_assert_eq!(lost, series.lost.total() as usize);
    // Each is told once, as the result says.
    let told: BTreeMap<u32, _> = simulation
        .probes
        .iter()
        .map(|(_, index, rtt)| (*index, *rtt))
        .collect();
    prop_assert_eq!(told.len(), simulation.probes.len());
    let told: Vec<_> = told.into_values().collect();
    prop_assert_eq!(&told, &series.probes);
    // In the order of sending, with the time of the probe's own answer.
    let mut of_series = simulation.sent.iter().enumerate();
    for rtt in series.probes.iter().flatten() {
        let is_it = |index: usize| {
            let answered = simulation.answers.iter().filter(|(probe, ..)| *probe == index);
            let since = [simulation.sent[index].0, simulation.left[index]];
            answered.into_iter().any(|(_, arrives, reply)| {
                let took = |since: Time| arrives.since(since).max(Duration::from_nanos(1));
                reply.source == target_of(run.v6) && since.iter().any(|since| took(*since) == *rtt)
            })
        };
        prop_assert!(
            of_series.any(|(index, _)| is_it(index)),
            "{:?} in {:?}",
            rtt,
            series
        );
    }
    if count > 0 {
        let last = start + interval * (count - 1);
        let slack = ms(run.timeout) * 2 + LATEST_STAMP + case.machine.stalled();
        prop_assert!(*end <= last + slack, "{:?} late", end.since(last));
    }
    // One that a stall held back may be made up for, not more.
    let tries: Vec<Time> = first_tries(&simulation);
    // A refused test is among the tries, too.
    let may_test = method == Method::Udp && !fixed && !case.machine.fails.is_empty();
    if tests == 0 && !may_test {
        for three in tries.windows(3) {
            prop_assert!(three[2].since(three[0]) >= interval, "a burst: {:?}", tries);
        }
    }
    Ok(())
}

/// When each probe was tried first.
fn first_tries(simulation: &Simulation<'_>) -> Vec<Time> {
    let mut seen = BTreeSet::new();
    let tries = simulation.tries.iter();
    let firsts = tries.filter(|(_, token, _)| seen.insert((token.trace, token.probe)));
    firsts.map(|(at, ..)| *at).collect()
}

/// A target whose answers do not say to which probe they are: datagrams of a service, or bare
/// resets.
pub fn check_nameless(case: &Case, tcp: bool, is_lossless: bool) -> Result<(), TestCaseError> {
    let mut world = case.network.world();
    world.target = if tcp { Target::BareReset } else { Target::Service };
    if is_lossless {
        (world.probes_lost, world.answers_lost) = (0.0, 0.0);
    }
    let method = if tcp { Method::TcpSyn } else { Method::Udp };
    let spec = TraceSpec {
        timeout: ms(1000),
        longest: ms(60_000),
        ..Run {
            method,
            ..case.runs[0]
        }
        .spec()
    };
    let mut simulation = Simulation::new(|now, probe: &Probe| world.answers(now, probe));
    let id = simulation.start(spec);
    simulation.run();
    simulation.assert_idle();
    let result = simulation.result(id);
    let length = case.network.length;
    let repeats = spec.hop_retries > 0 && spec.tells_attempts;
    for hop in &result.hops {
        if let Some(answer) = hop.answer.filter(|answer| answer.destination) {
            prop_assert_eq!(answer.address, spec.target);
            // One probe for each TTL leaves nothing but to count answers, duplicates too.
            let is_certain = repeats || case.network.duplicated == 0;
            prop_assert!(!is_certain || hop.ttl >= length, "too near: {:?}", hop);
        }
    }
    if is_lossless && result.end == End::Destination && repeats {
        let story = story(&simulation, (result.source_port, spec.target));
        prop_assert_eq!(result.hops.len(), usize::from(length), "too far:{}", story);
    }
    Ok(())
}

/// Runs whose replies are held back, repeated and damaged. They may say anything, but the runs end,
/// in time, with no more probes than they may send.
pub fn check_damaged(case: &Case, bytes: Input<'_>) -> Result<(), TestCaseError> {
    let mut world = case.network.world();
    let mut mischief = Mischief::new(bytes);
    let mut simulation = Simulation::new(move |now, probe: &Probe| {
        let answers = world.answers(now, probe);
        mischief.replies(probe, answers)
    });
    case.machine.prepare(&mut simulation);
    simulation.kernel_matches &= case.runs.iter().all(|run| run.method != Method::TcpSack);
    let start = simulation.now;
    let specs: Vec<TraceSpec> = case.runs.iter().map(Run::spec).collect();
    let ids: Vec<TraceId> = specs
        .iter()
        .map(|spec| simulation.start_connected(*spec))
        .collect();
    simulation.run();
    simulation.assert_idle();
    for (id, spec) in ids.iter().zip(&specs) {
        let (end, result) = &simulation.finished[id];
        let latest = Machine::gets_to(&simulation, start + spec.longest);
        prop_assert!(*end <= latest, "{:?} late", end.since(latest));
        let Ok(result) = result else { continue };
        check_probes(&simulation, spec, result, MOST_ATTEMPTS)?;
    }
    Ok(())
}
