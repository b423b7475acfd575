//! Which quoted packets are recognised, whatever a device on the way has done to them.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::IpAddr;

use support::*;
use traceroute_engine::{Method, TraceSpec};
use traceroute_wire::{Probe, ProbeKind, Quoted, QuotedTransport, Reply, ReplyKind};

const METHODS: [Method; 4] = [Method::Icmp, Method::Udp, Method::TcpSyn, Method::TcpSack];

/// What a device does to the quote of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    /// A NAT that translates quotes back, all of them.
    Translated,
    /// A NAT that leaves quotes as they are outside.
    Untranslated,
    /// A NAT that translates addresses and ports back, but not the checksum.
    StaleChecksum,
    ZeroChecksum,
    /// RFC 6864 §4.1 lets devices replace the identification of packets that may not be fragmented.
    Identification,
    FlowLabel,
}

const ALL: [Damage; 6] = [
    Damage::Translated,
    Damage::Untranslated,
    Damage::StaleChecksum,
    Damage::ZeroChecksum,
    Damage::Identification,
    Damage::FlowLabel,
];

impl Damage {
    /// Whether it changes anything of such a quote.
    fn applies(self, method: Method, v6: bool) -> bool {
        let has_checksum = matches!(method, Method::Icmp | Method::Udp);
        match self {
            Damage::Translated | Damage::Untranslated => true,
            Damage::StaleChecksum => has_checksum,
            // 0 stands for no checksum in UDP only.
            Damage::ZeroChecksum => method == Method::Udp,
            Damage::Identification => !v6,
            Damage::FlowLabel => v6,
        }
    }

    /// Whether the answer is to show that a NAT has been at work. A checksum that is not there, or
    /// not what it was, is evidence of one.
    fn shows_nat(self) -> bool {
        matches!(
            self,
            Damage::Untranslated | Damage::StaleChecksum | Damage::ZeroChecksum
        )
    }

    fn apply(self, quoted: &mut Quoted) {
        let outside: IpAddr = if quoted.source.is_ipv6() {
            "2001:db8:77::1".parse().unwrap()
        } else {
            "198.51.100.1".parse().unwrap()
        };
        let inside = *quoted;
        match self {
            Damage::Translated => {}
            Damage::Identification => quoted.identification = quoted.identification.rotate_left(5) ^ 0x5A5A,
            Damage::FlowLabel => quoted.flow_label ^= 0x5_5555,
            Damage::ZeroChecksum => {
                if let QuotedTransport::Udp { checksum, .. } = &mut quoted.transport {
                    *checksum = 0;
                }
            }
            Damage::Untranslated | Damage::StaleChecksum => {
                let tag = quoted.tag();
                quoted.source = outside;
                match &mut quoted.transport {
                    QuotedTransport::Echo { identifier, .. } => *identifier = 4242,
                    QuotedTransport::Udp { source_port, .. } | QuotedTransport::Tcp { source_port, .. } => {
                        *source_port = 61_000;
                    }
                }
                // The checksum as it is outside: all that it covers sums up as before (RFC 3022
                // §4.2).
                if let (Some(tag), Some(now)) = (tag, quoted.tag()) {
                    let sum = |checksum: u16| {
                        ((u32::from(checksum) + u32::from(tag) + 0xFFFF - u32::from(now)) % 0xFFFF) as u16
                    };
                    match &mut quoted.transport {
                        QuotedTransport::Echo { checksum, .. } | QuotedTransport::Udp { checksum, .. } => {
                            *checksum = sum(*checksum);
                        }
                        QuotedTransport::Tcp { .. } => {}
                    }
                    assert_eq!(quoted.tag(), Some(tag));
                }
                if self == Damage::StaleChecksum {
                    let stale = quoted.transport;
                    *quoted = inside;
                    match (&mut quoted.transport, stale) {
                        (
                            QuotedTransport::Echo { checksum, .. },
                            QuotedTransport::Echo {
                                checksum: outside, ..
                            },
                        )
                        | (
                            QuotedTransport::Udp { checksum, .. },
                            QuotedTransport::Udp {
                                checksum: outside, ..
                            },
                        ) => {
                            *checksum = outside;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
}

/// A router's error whose quote has been damaged so.
fn damaged(probe: &Probe, damages: &[Damage]) -> Reply {
    let mut reply = time_exceeded(probe);
    if let ReplyKind::IcmpError { quoted, .. } = &mut reply.kind {
        if let (QuotedTransport::Tcp { timestamp, .. }, ProbeKind::TcpSyn { timestamps, .. }) =
            (&mut quoted.transport, probe.kind)
        {
            *timestamp = timestamps.map(|stamps| stamps.value);
        }
        for damage in damages {
            damage.apply(quoted);
        }
    }
    reply
}

fn cases() -> impl Iterator<Item = (Method, bool)> {
    METHODS
        .into_iter()
        .flat_map(|method| [(method, false), (method, true)])
}

/// All probes of a run with these attempts for each TTL. Nobody answers.
fn sent(method: Method, v6: bool) -> (Simulation<'static>, traceroute_engine::TraceId) {
    let mut simulation = Simulation::new(|_, _: &Probe| Vec::new());
    let id = simulation.start_connected(TraceSpec {
        hop_retries: 2,
        ..TraceSpec::full(method, target_of(v6), 33434, 4, ms(2000))
    });
    (simulation, id)
}

#[test]
fn every_single_damage_leaves_the_probe_recognisable() {
    for (method, v6) in cases() {
        for damage in ALL.into_iter().filter(|damage| damage.applies(method, v6)) {
            for answered in 0..3 {
                // Each TTL but the last answers that attempt and no other.
                let mut seen = [0; 5];
                let mut simulation = Simulation::new(move |now, probe: &Probe| {
                    if probe.ttl == 4 {
                        return vec![(now + ms(8), destination_answer(probe))];
                    }
                    let seen = &mut seen[usize::from(probe.ttl)];
                    *seen += 1;
                    let counts = *seen == answered + 1;
                    if counts {
                        vec![(now + ms(5), damaged(probe, &[damage]))]
                    } else {
                        Vec::new()
                    }
                });
                let spec = TraceSpec::full(method, target_of(v6), 33434, 6, ms(3000));
                let id = simulation.start_connected(spec);
                simulation.run();
                let label = format!("{method:?} v6 {v6} {damage:?} attempt {answered}");
                let result = simulation.result(id);
                assert_eq!(result.hops.len(), 4, "{label}");
                for hop in &result.hops[..3] {
                    let answer = hop.answer.unwrap_or_else(|| panic!("{label}: {hop:?}"));
                    assert_eq!(answer.address, router_of(v6, hop.ttl), "{label}");
                    // Of SACK probes only the IPv4 identification tells the attempt; what is not
                    // known has no time.
                    let is_told = method != Method::TcpSack || !v6 && damage != Damage::Identification;
                    let expected = (is_told || answered == 0).then_some((answered, ms(5)));
                    let attempt = answer.attempt.map(i32::from);
                    assert_eq!(attempt.zip(answer.rtt), expected, "{label}: {hop:?}");
                    assert_eq!(answer.translated, damage.shows_nat(), "{label}");
                    // Translation begins at the first of them.
                    assert_eq!(hop.nat, damage.shows_nat() && hop.ttl == 1, "{label}: {hop:?}");
                }
                assert_eq!(simulation.engine.counters().rejected, 0, "{label}");
            }
        }
    }
}

/// One mark is left: that is not enough. TCP sequence numbers count as two, whatever else is
/// damaged.
#[test]
fn two_damages_at_once_are_not_believed_and_counted() {
    let pairs = [
        [Damage::Untranslated, Damage::Identification],
        [Damage::Untranslated, Damage::FlowLabel],
        [Damage::StaleChecksum, Damage::Identification],
        [Damage::StaleChecksum, Damage::FlowLabel],
        [Damage::ZeroChecksum, Damage::Identification],
        [Damage::ZeroChecksum, Damage::FlowLabel],
    ];
    for (method, v6) in cases() {
        for pair in pairs {
            let applies = pair.iter().all(|damage| damage.applies(method, v6));
            let is_tcp = matches!(method, Method::TcpSyn | Method::TcpSack);
            if !applies {
                continue;
            }
            let mut simulation = Simulation::new(move |now, probe: &Probe| match probe.ttl {
                4 => vec![(now + ms(8), destination_answer(probe))],
                _ => vec![(now + ms(5), damaged(probe, &pair))],
            });
            let spec = TraceSpec {
                hop_retries: 0,
                ..TraceSpec::full(method, target_of(v6), 33434, 6, ms(500))
            };
            let id = simulation.start_connected(spec);
            simulation.run();
            let answered = simulation.result(id).hops[..3]
                .iter()
                .filter(|hop| hop.answer.is_some())
                .count();
            let counters = simulation.engine.counters();
            let not_credited = counters.rejected + counters.unmatched;
            let expected = if is_tcp { (3, 0) } else { (0, 3) };
            assert_eq!((answered, not_credited), expected, "{method:?} v6 {v6} {pair:?}");
        }
    }
}

/// The tag names one probe, the identification another.
#[test]
fn marks_that_contradict_each_other_are_not_believed() {
    let (mut simulation, id) = sent(Method::Udp, false);
    while simulation.sent.len() < 4 && simulation.step() {}
    let [(_, one), (_, other)] = [simulation.sent[0], simulation.sent[2]];
    let mut reply = time_exceeded(&one);
    if let ReplyKind::IcmpError { quoted, .. } = &mut reply.kind {
        quoted.identification = other.identification;
    }
    simulation.hear(simulation.now, &Heard::Reply(reply));
    assert_eq!(
        (
            simulation.engine.counters().rejected,
            simulation.engine.counters().matched
        ),
        (1, 0)
    );
    simulation.run();
    assert!(simulation.result(id).hops.iter().all(|hop| hop.answer.is_none()));
}

/// Neither a TTL nor an attempt that is still to come.
#[test]
fn a_probe_that_was_not_sent_is_not_answered() {
    for (method, v6) in cases() {
        // The same seed sends the same probes.
        let (mut twin, _) = sent(method, v6);
        twin.run();
        let (mut simulation, id) = sent(method, v6);
        while simulation.sent.is_empty() && simulation.step() {}
        for (index, (_, probe)) in twin.sent.iter().enumerate() {
            if probe.ttl > 1 || twin.numbers[index] > 0 {
                simulation.hear(simulation.now, &Heard::Reply(damaged(probe, &[])));
            }
        }
        simulation.run();
        for hop in &simulation.result(id).hops {
            // A sequence number that the attempts at a TTL share is right for the first one
            // already.
            let attempt = hop.answer.and_then(|answer| answer.attempt);
            assert!(hop.answer.is_none() || hop.ttl == 1, "{method:?} {v6}: {hop:?}");
            assert!(
                attempt.is_none_or(|attempt| attempt == 0),
                "{method:?} {v6}: {hop:?}"
            );
        }
    }
}

/// Also where the first routers are before the NAT.
#[test]
fn translation_begins_at_the_first_hop_that_shows_it() {
    for method in METHODS {
        let mut simulation = Simulation::new(|now, probe: &Probe| match probe.ttl {
            6 => vec![(now + ms(8), destination_answer(probe))],
            ttl => {
                let damage = if ttl < 3 {
                    Damage::Translated
                } else {
                    Damage::Untranslated
                };
                vec![(now + ms(5), damaged(probe, &[damage]))]
            }
        });
        let id = simulation.start_connected(spec(method));
        simulation.run();
        let nats: Vec<u8> = simulation
            .result(id)
            .hops
            .iter()
            .filter(|hop| hop.nat)
            .map(|hop| hop.ttl)
            .collect();
        assert_eq!(nats, [3], "{method:?}");
        assert_eq!(simulation.engine.counters().translated, 3);
    }
}
