//! Second attempts, the destination's distance, and the end where a router refuses.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::world::{Limiter, World};
use support::*;
use traceroute_engine::{Distance, End, Method, Time, TraceId, TraceSpec};
use traceroute_wire::{IcmpError, Probe, Reply, ReplyKind};

const METHODS: [Method; 4] = [Method::Icmp, Method::Udp, Method::TcpSyn, Method::TcpSack];

/// Milliseconds after the first probe of the trace.
fn offsets(simulation: &Simulation<'_>, id: TraceId, ttl: u8) -> Vec<u64> {
    let first = simulation.times(id, 1)[0];
    let times = simulation.times(id, ttl);
    times
        .iter()
        .map(|at| at.since(first).as_millis() as u64)
        .collect()
}

/// A path of five hops that swallows the first answers of these TTLs: as many as it says.
fn swallowing(lost: &[(u8, usize)]) -> impl FnMut(Time, &Probe) -> Vec<(Time, Reply)> + use<> {
    let mut left = lost.to_vec();
    let mut path = straight(5);
    move |now, probe| {
        let lost = left
            .iter_mut()
            .find(|(ttl, count)| *ttl == probe.ttl && *count > 0);
        match lost {
            Some((_, count)) => {
                *count -= 1;
                Vec::new()
            }
            None => path(now, probe),
        }
    }
}

#[test]
fn a_silent_hop_is_probed_again_while_the_run_waits() {
    // A router that never answers, between others, in parallel runs of 1 s: 200 ms after the first
    // attempt, thrice as much after the second, none when its answer would come too late.
    let cases: [(u8, &[u64]); 4] = [
        (0, &[50]),
        (1, &[50, 250]),
        (2, &[50, 250, 850]),
        // The next ones would be three times as much later.
        (10, &[50, 250, 850]),
    ];
    for method in [Method::Icmp, Method::Udp] {
        for (retries, expected) in cases {
            let mut simulation = Simulation::new(swallowing(&[(2, 99)]));
            let id = simulation.start(TraceSpec {
                hop_retries: retries,
                ..spec(method)
            });
            simulation.run();
            let sent = offsets(&simulation, id, 2);
            let in_time = &sent[..sent.len().min(expected.len())];
            assert_eq!(in_time, expected, "{method:?} {retries}");
            assert!(sent.len() <= 1 + usize::from(retries));
            assert!(sent.iter().all(|at| *at <= 200 + 1000 - 20), "{sent:?}");
            let hop = simulation.result(id).hops[1];
            assert_eq!((hop.answer, usize::from(hop.attempts)), (None, sent.len()));
            // What was answered is not asked again.
            assert_eq!(simulation.sent.len(), 4 + sent.len());
            assert_eq!(
                simulation.finished[&id].0,
                at(1 + 200 + 1000),
                "no longer than it would anyway"
            );
        }
    }
}

#[test]
fn in_a_short_time_there_are_as_many_attempts() {
    for (timeout, late) in [200, 300, 500, 1000]
        .into_iter()
        .flat_map(|timeout| [(timeout, 0), (timeout, 3)])
    {
        let mut world = World::new(6, 1);
        world.silent.insert(3);
        let (mut simulation, _) = world.simulate();
        simulation.late = ms(late);
        let id = simulation.start(TraceSpec::full(Method::Icmp, target(), 0, 30, ms(timeout)));
        simulation.run();
        let attempts = offsets(&simulation, id, 3);
        assert_eq!(attempts.len(), 3, "{timeout} {late}: {attempts:?}");
    }
}

/// Neither what this host did not send nor what was not asked for shows how far it is.
#[test]
fn a_distance_is_known_only_where_the_hop_before_was_asked() {
    for method in [Method::Icmp, Method::Udp, Method::TcpSyn] {
        let (mut simulation, _) = World::new(6, 1).simulate();
        simulation.refused_ttl = Some(6);
        let id = simulation.start(spec(method));
        let later = simulation.start(TraceSpec {
            first_ttl: 9,
            ..spec(method)
        });
        simulation.run();
        let result = simulation.result(id);
        assert_eq!(result.distance, Distance::Unknown, "{method:?}");
        let shown = result.hops.iter().filter_map(|hop| hop.answer);
        assert!(shown.clone().all(|answer| !answer.destination), "{method:?}");
        let result = simulation.result(later);
        assert_eq!(
            (result.distance, result.hops.len()),
            (Distance::Unknown, 1),
            "{method:?}"
        );
        assert!(result.hops[0].answer.is_some(), "what was asked for is shown");
    }
}

#[test]
fn two_round_trips_are_waited_for_on_a_slow_path() {
    let mut slow = swallowing(&[(2, 99)]);
    let mut simulation = Simulation::new(move |now, probe: &Probe| {
        let later = |(at, reply)| (at + ms(180), reply);
        slow(now, probe).into_iter().map(later).collect()
    });
    let id = simulation.start(spec(Method::Icmp));
    simulation.run();
    let sent = offsets(&simulation, id, 2);
    assert!(sent[1] - sent[0] >= 2 * 180, "{sent:?}");
}

#[test]
fn a_second_attempt_that_is_answered_has_its_own_time() {
    for method in METHODS {
        for lost in 1..=2 {
            let mut simulation = Simulation::new(swallowing(&[(3, lost)]));
            let id = simulation.start_connected(spec(method));
            simulation.run();
            let expected = "1:10.0.1.1/2 2:10.0.2.1/4 3:10.0.3.1/6 4:10.0.4.1/8 5:203.0.113.9/10!";
            // The quote of a SACK probe does not tell the attempt where only eight bytes are
            // quoted, but the IPv4 identification does.
            assert_eq!(simulation.summary(id), expected, "{method:?}");
            let hop = simulation.result(id).hops[2];
            assert_eq!(
                hop.answer.unwrap().attempt.map(usize::from),
                Some(lost),
                "{method:?}"
            );
            assert_eq!(usize::from(hop.attempts), lost + 1);
            assert_eq!(hop.lost.total() as usize, lost);
        }
    }
}

/// The answer to the first attempt comes after the second was sent.
#[test]
fn a_late_answer_is_its_own_attempts() {
    for method in METHODS {
        let mut is_first = true;
        let mut path = straight(5);
        let mut simulation = Simulation::new(move |now, probe: &Probe| {
            if probe.ttl == 3 && std::mem::take(&mut is_first) {
                return vec![(now + ms(300), time_exceeded(probe))];
            }
            path(now, probe)
        });
        let id = simulation.start_connected(TraceSpec {
            timeout: ms(2000),
            ..spec(method)
        });
        simulation.run();
        let answer = simulation.result(id).hops[2].answer.unwrap();
        let (rtt, attempt) = (answer.rtt.unwrap(), answer.attempt.unwrap());
        let expected = if attempt == 0 { ms(300) } else { ms(6) };
        assert_eq!(rtt, expected, "{method:?}");
    }
}

#[test]
fn where_attempts_cannot_be_told_apart_there_is_one() {
    for method in [Method::Icmp, Method::Udp, Method::TcpSyn] {
        let mut simulation = Simulation::new(swallowing(&[(2, 99), (4, 99)]));
        let id = simulation.start(TraceSpec {
            tells_attempts: false,
            hop_retries: 10,
            ..spec(method)
        });
        simulation.run();
        assert_eq!(simulation.sent.len(), 5, "{method:?}");
        assert!(simulation.result(id).retries_limited);
        assert_eq!(simulation.result(id).distance, Distance::Unknown);
    }
}

/// One lost answer of the destination does not make the path longer.
#[test]
fn a_destination_that_missed_one_is_asked_where_it_is() {
    for method in METHODS {
        for lost in [1, 2, 5] {
            let mut simulation = Simulation::new(swallowing(&[(5, lost)]));
            let id = simulation.start_connected(spec(method));
            simulation.run();
            let result = simulation.result(id);
            assert_eq!(
                result.hops.len(),
                5,
                "{method:?} {lost}: {}",
                simulation.summary(id)
            );
            assert_eq!((result.distance, result.end), (Distance::Known, End::Destination));
        }
    }
}

#[test]
fn a_silent_router_before_the_destination_is_asked_eight_times_more() {
    for method in METHODS {
        let mut simulation = Simulation::new(swallowing(&[(4, 99)]));
        let id = simulation.start_connected(TraceSpec {
            hop_retries: 1,
            ..spec(method)
        });
        simulation.run();
        let result = simulation.result(id);
        assert_eq!(result.hops.len(), 5, "{method:?}");
        assert_eq!((result.distance, result.end), (Distance::Known, End::Destination));
        assert!(result.hops[4].answer.unwrap().destination);
        let asked = simulation.times(id, 4).len();
        assert!((9..=10).contains(&asked), "{method:?}: {asked}");
    }
    // Two silent routers: the one after the highest that answered is asked first, then the one
    // before the destination.
    let mut simulation = Simulation::new(swallowing(&[(3, 99), (4, 99)]));
    let id = simulation.start(spec(Method::Icmp));
    simulation.run();
    let result = simulation.result(id);
    assert_eq!((result.hops.len(), result.distance), (5, Distance::Known));
    let [three, four] = [3, 4].map(|ttl| simulation.times(id, ttl));
    assert!(
        three.len() >= 9 && four.len() >= 9,
        "{} {}",
        three.len(),
        four.len()
    );
    assert!(three[8] < four[8]);
}

/// Without second attempts the first answer is believed, as far as it goes.
#[test]
fn without_second_attempts_the_destination_is_shown_and_its_distance_unknown() {
    for method in METHODS {
        let mut simulation = Simulation::new(swallowing(&[(5, 1)]));
        let id = simulation.start_connected(TraceSpec {
            hop_retries: 0,
            ..spec(method)
        });
        simulation.run();
        let result = simulation.result(id);
        assert_eq!(
            (result.hops.len(), result.distance),
            (6, Distance::Unknown),
            "{method:?}"
        );
        assert!(result.hops.iter().all(|hop| hop.attempts == 1));
    }
}

/// Six answers are gone, one comes back each second: the destination is shown where it is, or not
/// at all.
#[test]
fn a_drained_target_is_never_shown_elsewhere() {
    let mut hidden = Vec::new();
    for (left, quotes_ttl) in (0..=12).flat_map(|left| [(left, true), (left, false)]) {
        let mut world = World::new(7, left).limited(1..=7);
        world.quotes_ttl = quotes_ttl;
        let drained = Limiter::linux().drained(ms(6000 - left * 500));
        world.limits.insert(7, drained);
        let (mut simulation, _) = world.simulate();
        let id = simulation.start(TraceSpec {
            linger: ms(20_000),
            longest: ms(35_000),
            ..spec(Method::Udp)
        });
        simulation.run();
        let result = simulation.result(id);
        let is_right = result.hops.len() == 7 && result.end == End::Destination;
        let is_open = result.end == End::MaxTtl && result.distance == Distance::Unknown
            || result
                .hops
                .iter()
                .all(|hop| hop.answer.is_none_or(|answer| !answer.destination));
        assert!(is_right || is_open, "{left}: {}", simulation.summary(id));
        if !is_right {
            hidden.push(left);
        }
    }
    assert!(hidden.is_empty(), "there is time enough for answers: {hidden:?}");
}

/// A limit that many use may answer whom it likes, when it likes. What was left of a probe's TTL
/// when it arrived shows that the target is nearer than where it answered.
#[test]
fn what_the_target_quotes_tells_where_it_is() {
    // Which probes the target answers, by TTL; where it is shown; and where, if it always quotes the
    // same TTL: then what counts is whether it answered right after it was silent one hop before.
    let cases: [(&[u8], _, _); 3] = [
        (&[12], None, Some(12)),
        (&[12, 13], None, Some(12)),
        (&[7, 9], Some(7), Some(7)),
    ];
    let cases = cases
        .into_iter()
        .flat_map(|(answered, quoted, unquoted)| [(answered, true, quoted), (answered, false, unquoted)]);
    for (answered, quotes_ttl, shown) in cases {
        let mut path = straight(7);
        let mut asked = 0;
        let mut simulation = Simulation::new(move |now, probe: &Probe| {
            asked += usize::from(probe.ttl == 7);
            let mut answers = match probe.ttl {
                4..=6 => Vec::new(),
                ttl if ttl >= 7 && !answered.contains(&ttl) => Vec::new(),
                // Further on the target always answers; where it is, only the second probe.
                7 if asked != 2 => Vec::new(),
                _ => path(now, probe),
            };
            for (_, reply) in &mut answers {
                if let ReplyKind::IcmpError { quoted, .. } = &mut reply.kind {
                    quoted.ttl = if quotes_ttl {
                        probe.ttl.saturating_sub(6).max(1)
                    } else {
                        1
                    };
                }
            }
            answers
        });
        let id = simulation.start(spec(Method::Udp));
        simulation.run();
        let result = simulation.result(id);
        let found = result
            .hops
            .iter()
            .find(|hop| hop.answer.is_some_and(|answer| answer.destination));
        let distance = if shown.is_some() {
            Distance::Known
        } else {
            Distance::Unknown
        };
        let found = (found.map(|hop| hop.ttl), result.distance);
        assert_eq!(found, (shown, distance), "{answered:?} {quotes_ttl}");
        let asked = simulation.times(id, 7).len();
        assert!(
            !quotes_ttl || asked >= 9 || shown.is_some(),
            "{answered:?}: {asked}"
        );
    }
}

/// By TTL: from the third hop on somebody refuses each probe for which `refuses` says so, counted
/// from 0; nothing passes.
fn refusing(mut refuses: impl FnMut(u8, usize) -> bool) -> impl FnMut(Time, &Probe) -> Vec<(Time, Reply)> {
    let mut count = 0;
    move |now, probe| {
        if probe.ttl < 3 {
            return vec![(now + ms(2), time_exceeded(probe))];
        }
        count += 1;
        let refusal = error(router(3), probe, IcmpError::Unreachable { code: 1 });
        if refuses(probe.ttl, count - 1) {
            vec![(now + ms(4), refusal)]
        } else {
            Vec::new()
        }
    }
}

#[test]
fn a_refusal_that_a_second_one_confirms_is_the_end() {
    let from = router(3);
    for method in METHODS {
        // By two TTLs; with silence between them; by TTLs that are far apart.
        for pattern in [[0, 1], [0, 2], [0, 4]] {
            let mut simulation = Simulation::new(refusing(|_, count| pattern.contains(&count)));
            let id = simulation.start_connected(spec(method));
            simulation.run();
            let result = simulation.result(id);
            assert_eq!(
                result.end,
                End::Refused {
                    from: Some(from),
                    code: 1
                },
                "{method:?} {pattern:?}"
            );
            assert_eq!(simulation.summary(id), "1:10.0.1.1/2 2:10.0.2.1/2 3:10.0.3.1/4");
        }
        // At the last TTL there is no other: a second attempt confirms it.
        let mut simulation = Simulation::new(refusing(|_, _| true));
        let id = simulation.start_connected(TraceSpec {
            max_ttl: 3,
            ..spec(method)
        });
        simulation.run();
        let result = simulation.result(id);
        assert_eq!(
            result.end,
            End::Refused {
                from: Some(from),
                code: 1
            },
            "{method:?} {:?}",
            simulation.sent.len()
        );
        assert_eq!(result.hops[2].attempts, 2);
    }
}

#[test]
fn a_gap_limit_ends_a_run_after_so_many_silent_ttls() {
    // TTLs 4 to `silent` do not answer, of a path of 12 hops.
    let path = |silent: u8, late: u64| {
        let mut path = straight(12);
        move |now: Time, probe: &Probe| match probe.ttl {
            5 if late > 0 => path(now + Duration::from_millis(late), probe),
            ttl if (4..=silent).contains(&ttl) => Vec::new(),
            _ => path(now, probe),
        }
    };
    let gap = |length| (End::GapLimit, length);
    // A parallel run, and one that probes one TTL after the other. The first goes on for the 200 ms
    // in which an answer to the last of the gap may come, and so sees beyond gaps of silence.
    let cases = [
        ((0, 255, 0), [(End::MaxTtl, 20); 2]),
        ((3, 255, 0), [gap(9), gap(6)]),
        ((1, 255, 0), [gap(7), gap(4)]),
        ((4, 7, 0), [(End::Destination, 12), gap(7)]),
        ((5, 7, 0), [(End::Destination, 12); 2]),
        // A late answer lets the run go on, and shows that answers take their time.
        ((3, 255, 600), [(End::MaxTtl, 20), gap(8)]),
        // Nothing is left to be given up.
        ((20, 255, 0), [(End::MaxTtl, 20); 2]),
    ];
    let found = cases.map(|((gap_limit, silent, late), _)| {
        [Method::Icmp, Method::TcpSyn].map(|method| {
            let mut simulation = Simulation::new(path(silent, late));
            let id = simulation.start_connected(TraceSpec {
                max_ttl: 20,
                gap_limit,
                ..spec(method)
            });
            simulation.run();
            let result = simulation.result(id);
            (result.end, result.hops.len())
        })
    });
    assert_eq!(found, cases.map(|(_, expected)| expected));
}

#[test]
fn one_refusal_alone_is_no_end() {
    for method in METHODS {
        let mut simulation = Simulation::new(refusing(|_, count| count == 0));
        let id = simulation.start_connected(TraceSpec {
            max_ttl: 6,
            ..spec(method)
        });
        simulation.run();
        let result = simulation.result(id);
        assert_eq!((result.end, result.hops.len()), (End::MaxTtl, 6), "{method:?}");
        assert!(result.hops[2].answer.unwrap().is_refusal());
    }
    // One of two paths refuses: what answers from beyond shows that probes do pass.
    let mut path = straight(6);
    let mut simulation = Simulation::new(move |now, probe: &Probe| match probe.ttl {
        3 | 4 => vec![(
            now + ms(40),
            error(router(3), probe, IcmpError::Unreachable { code: 13 }),
        )],
        _ => path(now, probe),
    });
    let id = simulation.start(TraceSpec {
        delay: ms(1),
        ..spec(Method::Icmp)
    });
    simulation.run();
    assert_eq!(simulation.result(id).end, End::Destination);
}
