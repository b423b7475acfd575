//! Networks, machines and runs at random.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::time::Duration;

use proptest::prelude::*;
use traceroute_engine::{Method, Time, TraceSpec};

use super::input::Input;
use super::support::world::{Limiter, World};
use super::support::*;

pub const METHODS: [Method; 4] = [Method::Icmp, Method::Udp, Method::TcpSyn, Method::TcpSack];
pub const MAX_TTL: u8 = 12;

#[derive(Debug, Clone)]
pub struct Network {
    pub length: u8,
    /// Shares of a hundred.
    pub probes_lost: u8,
    pub answers_lost: u8,
    pub duplicated: u8,
    pub hop: Duration,
    pub jitter: Duration,
    pub silent: BTreeSet<u8>,
    pub refuses: Option<u8>,
    /// TTL, milliseconds, burst.
    pub limits: Vec<(u8, u64, u32)>,
    pub quotes_options: bool,
    pub quotes_ttl: bool,
    pub seed: u64,
}

impl Network {
    pub fn world(&self) -> World {
        let limits = self.limits.iter();
        let limits = limits.map(|(ttl, millis, burst)| (*ttl, Limiter::new(ms(*millis), *burst)));
        let mut world = World::new(self.length, self.seed);
        world.probes_lost = f64::from(self.probes_lost) / 100.0;
        world.answers_lost = f64::from(self.answers_lost) / 100.0;
        world.duplicated = f64::from(self.duplicated) / 100.0;
        (world.hop, world.jitter) = (self.hop, self.jitter);
        world.silent.clone_from(&self.silent);
        world.refuses = self.refuses.map(|ttl| (ttl, 1));
        world.limits = limits.collect();
        world.quotes_options = self.quotes_options;
        world.quotes_ttl = self.quotes_ttl;
        world
    }

    /// Nothing hides the destination.
    pub fn is_clear(&self) -> bool {
        let hides = |limit: &(u8, u64, u32)| limit.0 >= self.length;
        self.probes_lost == 0 && self.answers_lost == 0 && !self.limits.iter().any(hides)
    }
}

pub fn network() -> impl Strategy<Value = Network> {
    let share = || prop_oneof![3 => Just(0), 2 => 1_u8..40, 1 => Just(100)];
    let interval = prop_oneof![Just(1000), Just(100), 20_u64..3000];
    let limit = (1..=MAX_TTL, interval, prop_oneof![Just(6), 1_u32..20]);
    let limits = prop_oneof![
        1 => Just(Vec::new()),
        1 => prop::collection::vec(limit, 0..4),
        // Everywhere as Linux does it.
        1 => Just((1..=MAX_TTL).map(|ttl| (ttl, 1000, 6)).collect()),
    ];
    let times = (0_u64..20_000, prop_oneof![Just(0), 0_u64..100_000]);
    let nodes = (
        prop::collection::btree_set(1..=MAX_TTL, 0..3),
        prop::option::weighted(0.1, 1..MAX_TTL),
        limits,
    );
    let shares = (share(), share(), 0_u8..30);
    (
        1..=MAX_TTL + 2,
        shares,
        times,
        nodes,
        any::<[bool; 2]>(),
        any::<u64>(),
    )
        .prop_map(
            |(length, shares, (hop, jitter), (silent, refuses, limits), quotes, seed)| Network {
                length,
                probes_lost: shares.0,
                answers_lost: shares.1,
                duplicated: shares.2,
                hop: Duration::from_micros(hop),
                jitter: Duration::from_micros(jitter),
                silent,
                refuses: refuses.filter(|ttl| *ttl < length),
                limits,
                quotes_options: quotes[0],
                quotes_ttl: quotes[1],
                seed,
            },
        )
}

/// What this machine does.
#[derive(Debug, Clone)]
pub struct Machine {
    /// How much later than its stamp each reply is read, in turn.
    pub read_late: Vec<u64>,
    /// When the thread stands still, and for how long.
    pub stalls: Vec<(u64, u64)>,
    /// The kernel's send stamps, in turn: how much later than the call.
    pub stamps: Vec<Option<u64>>,
    /// Which attempts to send find the queue full, or are refused.
    pub fails: BTreeMap<usize, bool>,
    pub kernel_matches: bool,
}

pub fn machine() -> impl Strategy<Value = Machine> {
    let late = prop_oneof![1 => Just(vec![0]), 1 => prop::collection::vec(0_u64..150, 1..8)];
    let stalls = prop_oneof![
        2 => Just(Vec::new()),
        1 => prop::collection::vec((0_u64..3000, 1_u64..700), 1..4),
    ];
    let fails = prop_oneof![
        2 => Just(BTreeMap::new()),
        1 => prop::collection::btree_map(0_usize..60, any::<bool>(), 1..6),
    ];
    let stamps = prop::collection::vec(prop::option::of(0_u64..30), 1..6);
    (late, stalls, stamps, fails, any::<bool>()).prop_map(
        |(read_late, stalls, stamps, fails, kernel_matches)| Machine {
            read_late,
            stalls,
            stamps,
            fails,
            kernel_matches,
        },
    )
}

impl Machine {
    pub fn prepare<'p>(&'p self, simulation: &mut Simulation<'p>) {
        let start = simulation.now;
        let mut late = self.read_late.iter().cycle();
        simulation.read_at = Box::new(move |stamp| stamp + ms(*late.next().unwrap()));
        let mut stamps = self.stamps.iter().cycle();
        simulation.send_stamp = Box::new(move |_| {
            stamps.next().unwrap().map(|later| SendStamp {
                later: ms(later),
                unread: Duration::ZERO,
            })
        });
        let stalls = self.stalls.iter();
        let stalls = stalls.map(|(from, length)| start + ms(*from)..start + ms(from + length));
        simulation.stalls = stalls.collect();
        let fails = self.fails.iter().map(|(index, is_full)| {
            let kind = if *is_full {
                ErrorKind::WouldBlock
            } else {
                ErrorKind::PermissionDenied
            };
            (*index, kind)
        });
        simulation.fail_send = fails.collect();
        simulation.kernel_matches = self.kernel_matches;
    }

    pub fn stalled(&self) -> Duration {
        self.stalls.iter().map(|(_, length)| ms(*length)).sum()
    }

    /// When the thread gets around to what is due then.
    pub fn gets_to(simulation: &Simulation<'_>, mut at: Time) -> Time {
        while let Some(stall) = simulation.stalls.iter().find(|stall| stall.contains(&at)) {
            at = stall.end;
        }
        at
    }
}

/// A kernel's stamp is at most so much later than the call.
pub const LATEST_STAMP: Duration = Duration::from_millis(30);

#[derive(Debug, Clone, Copy)]
pub struct Run {
    pub method: Method,
    pub v6: bool,
    pub retries: u8,
    pub tells_attempts: bool,
    pub timeout: u64,
    pub delay: u64,
    pub linger: u64,
    pub longest: u64,
}

impl Run {
    pub fn spec(&self) -> TraceSpec {
        TraceSpec {
            delay: ms(self.delay),
            hop_retries: self.retries,
            tells_attempts: self.tells_attempts,
            linger: ms(self.linger),
            longest: ms(self.longest),
            ..TraceSpec::full(self.method, target_of(self.v6), 33434, MAX_TTL, ms(self.timeout))
        }
    }
}

pub fn run() -> impl Strategy<Value = Run> {
    let linger = prop_oneof![2 => Just(0), 1 => 0_u64..20_000];
    let longest = prop_oneof![2 => Just(60_000), 1 => 1_u64..5000];
    let delay = prop_oneof![1 => Just(0), 4 => 1_u64..80];
    let times = (50_u64..1500, delay, linger, longest);
    let retries = prop_oneof![1 => Just(0), 3 => Just(2), 1 => 1_u8..=10];
    let method = prop::sample::select(METHODS.to_vec());
    (method, any::<bool>(), retries, prop::bool::weighted(0.9), times).prop_map(
        |(method, v6, retries, tells_attempts, (timeout, delay, linger, longest))| Run {
            method,
            v6,
            retries,
            tells_attempts,
            timeout,
            delay,
            linger,
            longest,
        },
    )
}

#[derive(Debug, Clone)]
pub struct Case {
    pub network: Network,
    pub machine: Machine,
    pub runs: Vec<Run>,
}

pub fn case() -> impl Strategy<Value = Case> {
    let parts = (network(), machine(), prop::collection::vec(run(), 1..5));
    parts.prop_map(|(network, machine, runs)| Case {
        network,
        machine,
        runs,
    })
}

/// The same from a fuzzer's bytes.
impl Case {
    pub fn read(input: &mut Input<'_>) -> Case {
        let network = Network::read(input);
        let machine = Machine::read(input);
        let runs = 1 + input.byte() % 4;
        Case {
            network,
            machine,
            runs: (0..runs).map(|_| Run::read(input)).collect(),
        }
    }
}

/// A number from 0 to `most`.
pub fn up_to(input: &mut Input<'_>, most: u32) -> u32 {
    input.u32() % (most + 1)
}

/// As many as a byte says, `most` at most.
pub fn several<T>(input: &mut Input<'_>, most: u8, one: impl Fn(&mut Input<'_>) -> T) -> Vec<T> {
    let count = input.byte() % (most + 1);
    (0..count).map(|_| one(input)).collect()
}

/// A share of a hundred; mostly nothing.
pub fn share(input: &mut Input<'_>) -> u8 {
    match input.byte() % 6 {
        0..3 => 0,
        3..5 => 1 + input.byte() % 39,
        _ => 100,
    }
}

impl Network {
    fn read(input: &mut Input<'_>) -> Network {
        let length = 1 + input.byte() % (MAX_TTL + 2);
        let ttl = |input: &mut Input<'_>| 1 + input.byte() % MAX_TTL;
        Network {
            length,
            probes_lost: share(input),
            answers_lost: share(input),
            duplicated: input.byte() % 30,
            hop: Duration::from_micros(up_to(input, 19_999).into()),
            jitter: if input.flag() {
                Duration::from_micros(up_to(input, 99_999).into())
            } else {
                Duration::ZERO
            },
            silent: several(input, 2, ttl).into_iter().collect(),
            refuses: input.flag().then(|| ttl(input)).filter(|ttl| *ttl < length),
            limits: match input.byte() % 3 {
                0 => Vec::new(),
                1 => (1..=MAX_TTL).map(|ttl| (ttl, 1000, 6)).collect(),
                _ => several(input, 3, |input| {
                    let interval = 20 + u64::from(input.u16() % 2980);
                    (ttl(input), interval, 1 + u32::from(input.byte() % 19))
                }),
            },
            quotes_options: input.flag(),
            quotes_ttl: input.flag(),
            seed: input.u32().into(),
        }
    }
}

impl Machine {
    pub fn read(input: &mut Input<'_>) -> Machine {
        let mut read_late = several(input, 7, |input| u64::from(input.byte() % 150));
        if read_late.is_empty() {
            read_late.push(0);
        }
        let stall = |input: &mut Input<'_>| (input.u16() % 3000, 1 + input.u16() % 699);
        let stalls = several(input, 3, stall).into_iter();
        let mut stamps = several(input, 5, |input| {
            input.flag().then(|| u64::from(input.byte() % 30))
        });
        if stamps.is_empty() {
            stamps.push(None);
        }
        let fail = |input: &mut Input<'_>| (usize::from(input.byte() % 60), input.flag());
        Machine {
            read_late,
            stalls: stalls
                .map(|(from, length)| (from.into(), length.into()))
                .collect(),
            stamps,
            fails: several(input, 5, fail).into_iter().collect(),
            kernel_matches: input.flag(),
        }
    }
}

impl Run {
    fn read(input: &mut Input<'_>) -> Run {
        Run {
            method: METHODS[usize::from(input.byte()) % METHODS.len()],
            v6: input.flag(),
            retries: input.byte() % 11,
            tells_attempts: !input.flag(),
            timeout: 50 + u64::from(input.u16() % 1450),
            delay: u64::from(input.byte() % 80),
            linger: if input.flag() {
                u64::from(input.u16() % 20_000)
            } else {
                0
            },
            longest: if input.flag() {
                1 + u64::from(input.u16() % 4999)
            } else {
                60_000
            },
        }
    }
}
