//! Every scenario behind a TUN device, through the library with its real sockets: what comes out
//! must be what is expected, and what came out in memory. Where a balancer hashes the client's
//! ports or draws lots, or an answer races with the end of the run, it may be another of the
//! expected paths than in memory. Each for root and for plain users. Needs root; the namespaces
//! vanish with their threads.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use datadog_traceroute::details::MplsEntry;
use datadog_traceroute::document::Document;
use datadog_traceroute::{Event, PathsEvent, PathsOptions, Protocol, Report, Request, TcpMethod, Tracer};
use tokio::runtime::{Builder, Runtime};
use traceroute_net::Access;
use traceroute_scenarios::{
    Aspect, E2E_QUERIES, Expect, Family, Finding, Journal, Method, Outcome, Scenario, memory, ordinary, table,
};
use traceroute_simnet::tun::{self, Activity, Settings};
use traceroute_simnet::{Network, namespace};
use traceroute_wire::MplsLabel;

/// Scenarios at once, each with one method. They mostly wait.
const WORKERS: usize = 190;

/// The same where something was different: those are repeated after all others, in quiet.
const WORKERS_AFTER: usize = 8;

/// Between the starts of workers: opening namespaces is work, and delays whoever measures
/// meanwhile.
const STAGGER: Duration = Duration::from_millis(20);

/// End-to-end probes over longer than this are long.
const LONG: Duration = Duration::from_secs(5);

/// Known defects: what should come out there does not yet.
const OPEN_DEFECTS: [(&str, Method, Access); 3] = [
    ("lossy", Method::Udp, Access::Raw),
    ("lossy", Method::Udp, Access::Ordinary),
    // The two probes that test the target's limit do not, and two of ten are not sent.
    ("quotes", Method::Udp, Access::Ordinary),
];

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// How much more a round-trip time may be than the time from the network's reading a probe to its
/// writing the answer, in nanoseconds: it sleeps until there is a probe to read, and a busy machine
/// may stop everything for a while. Less than zero only by the error of comparing two clocks.
const SLACK: RangeInclusive<i128> = -300_000..=250_000_000;

/// How much more 99 of 100 round-trip times may be, beyond what the machine is late by, and of each
/// case most, in nanoseconds: who takes the time from another probe, or when a packet is read
/// instead of when it came, is wrong more often.
const USUAL_SLACK: i128 = 5_000_000;

/// The network keeps its times also when the machine is busy.
const SETTINGS: Settings = Settings {
    spin: Duration::from_micros(60),
    busy: false,
    realtime: true,
};

/// As root, and as plain users do without privileges, except for what [`ordinary::DIFFERENCES`]
/// lists. In one test, so that no more than [`WORKERS`] are at work.
#[test]
fn the_library_finds_behind_a_device_what_the_engine_finds_in_memory() {
    if let Err(error) = thread::spawn(|| Lab::new(Access::Ordinary))
        .join()
        .unwrap()
        .map(drop)
    {
        traceroute_testbed::not_run(&error.to_string());
        return;
    }
    let mut scenarios = table::scenarios();
    if let Ok(only) = std::env::var("SCENARIO") {
        scenarios.retain(|scenario| scenario.name == only);
    }
    let mut cases: Vec<Case<'_>> = scenarios
        .iter()
        .flat_map(|scenario| Method::ALL.map(|method| Case::all(scenario, method)))
        .flatten()
        .collect();
    // Those that wait longest come first, so that none is left alone at the end.
    cases.sort_by_key(|case| std::cmp::Reverse(case.waiting()));
    let (stop, stopped) = mpsc::channel();
    let late = thread::spawn(move || lateness(&stopped));
    let Found { wrong, errors } = compare_twice(&cases);
    drop(stop);
    let usual = check_errors(errors, late.join().unwrap());
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    usual.unwrap();
}

/// Once more where something is different, and says so: a machine that stops for longer than a
/// timeout looks like loss. What is different twice is reported; with `SCENARIO_ONCE`, what is
/// different at all.
fn compare_twice(cases: &[Case<'_>]) -> Found {
    let mut all = Found::default();
    let mut again = Vec::new();
    for (case, found) in compare_all(&cases.iter().collect::<Vec<_>>(), WORKERS) {
        if found.wrong.is_empty() || std::env::var_os("SCENARIO_ONCE").is_some() {
            all.extend(found);
        } else {
            // Not eprintln!, whose output the test harness keeps to itself when a test passes.
            let _ = writeln!(io::stderr(), "once more: {}", found.wrong.join("; "));
            again.push(case);
        }
    }
    for (_, found) in compare_all(&again, WORKERS_AFTER) {
        all.extend(found);
    }
    all
}

/// What came of each case.
fn compare_all<'c, 's>(cases: &[&'c Case<'s>], workers: usize) -> Vec<(&'c Case<'s>, Found)> {
    let queue = Mutex::new(cases.iter());
    let found = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for worker in 0..workers.min(cases.len()) as u32 {
            let (queue, found) = (&queue, &found);
            scope.spawn(move || {
                thread::sleep(STAGGER * worker);
                loop {
                    let next = queue.lock().unwrap().next();
                    let Some(case) = next else { return };
                    let more = case.compare_alone();
                    found.lock().unwrap().push((*case, more));
                }
            });
        }
    });
    found.into_inner().unwrap()
}

/// How much later than asked for a thread goes on that has the network's priority: in each
/// millisecond until the sender is dropped, in nanoseconds.
fn lateness(stopped: &Receiver<()>) -> Vec<i128> {
    tun::set_realtime().unwrap();
    let mut late = Vec::new();
    let mut due = Instant::now();
    let wait = |due: Instant| stopped.recv_timeout(due.saturating_duration_since(Instant::now()));
    while wait(due) == Err(RecvTimeoutError::Timeout) {
        let now = Instant::now();
        while due <= now {
            late.push((now - due).as_nanos().cast_signed());
            due += Duration::from_millis(1);
        }
    }
    late
}

/// Over a balancer by flow and one by packet: what is told on the way is what is in the result.
#[test]
fn paths_are_told_as_they_are_found() {
    let lab = match Lab::new(Access::Raw) {
        Ok(lab) => lab,
        Err(error) => return traceroute_testbed::not_run(&error.to_string()),
    };
    let scenarios = table::scenarios();
    for (name, is_first) in [("balance-ports", true), ("balance-packet", false)] {
        let scenario = scenarios.iter().find(|scenario| scenario.name == name).unwrap();
        if is_first {
            namespace::configure(&lab.name, &scenario.topology().unwrap(), true).unwrap();
        }
        let target = scenario.target(Family::V4);
        let (mut nodes, mut links, mut moved) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let (result, _) = lab.with_network(scenario, || {
            let request = Request::to(target).e2e_probes(20);
            let request = request.e2e_interval(Duration::from_millis(5)).build().unwrap();
            let tracer = Tracer::new();
            lab.runtime.block_on(async {
                let mut events = tracer.paths_events(&request, PathsOptions::default());
                assert_eq!(
                    events.next().await,
                    Some(PathsEvent::Resolved { address: target })
                );
                while let Some(event) = events.next().await {
                    let is_new = match event {
                        PathsEvent::NodeFound { ttl, address, .. } => nodes.insert((ttl, address)),
                        PathsEvent::LinkFound { ttl, from, to } => links.insert((ttl, from, to)),
                        PathsEvent::Moved { ttl } => moved.insert(ttl),
                        _ => false,
                    };
                    assert!(is_new, "{event:?}");
                }
                assert_eq!(events.missed(), 0);
                events.report().await.unwrap()
            })
        });
        let found = result
            .hops
            .iter()
            .flat_map(|hop| hop.nodes.iter().map(|node| (hop.ttl, node.ip_address.unwrap())));
        assert_eq!(nodes, found.collect(), "{name}: {result:?}");
        let by_packet = result.hops.iter().filter(|hop| hop.balancing == "per_packet");
        let by_packet: BTreeSet<u8> = by_packet.map(|hop| hop.ttl).collect();
        assert_eq!(moved, by_packet, "{name}: {result:?}");
        assert_eq!(moved.is_empty(), name == "balance-ports");
        let is_sure = |ttl: u8| !moved.contains(&ttl) && !moved.contains(&(ttl - 1));
        links.retain(|(ttl, ..)| is_sure(*ttl));
        let all = result
            .links
            .iter()
            .filter(|link| link.ttl > 1 && is_sure(link.ttl))
            .map(|link| (link.ttl, link.from.unwrap(), link.to.unwrap()));
        assert_eq!(links, all.collect(), "{name}: {result:?}");
    }
}

/// Whether the errors of all round-trip times are as small as they usually are on a machine that is
/// so late.
fn check_errors(mut errors: Vec<i128>, mut late: Vec<i128>) -> Result<(), String> {
    errors.sort_unstable();
    late.sort_unstable();
    let at = |times: &[i128], share: usize| times.get(times.len() * share / 100).copied().unwrap_or(0);
    let text = format!(
        "{} round-trip times; 50, 90 and 99 % of them are at most {}, {} and {} µs more than truly; \
         99 % of the time the machine was at most {} µs late",
        errors.len(),
        at(&errors, 50) / 1000,
        at(&errors, 90) / 1000,
        at(&errors, 99) / 1000,
        at(&late, 99) / 1000
    );
    println!("{text}");
    (at(&errors, 99) <= USUAL_SLACK + at(&late, 99))
        .then_some(())
        .ok_or(text)
}

/// What came of cases.
#[derive(Default)]
struct Found {
    /// What is different behind a device, one line each.
    wrong: Vec<String>,
    /// How much more round-trip times are than truly, in nanoseconds.
    errors: Vec<i128>,
}

impl Found {
    fn extend(&mut self, more: Found) {
        self.wrong.extend(more.wrong);
        self.errors.extend(more.errors);
    }

    /// Takes the error of a round-trip time; `None`: no answer explains it.
    fn check_rtt(&mut self, error: Option<i128>, text: impl FnOnce() -> String) {
        match error {
            Some(error) => self.errors.push(error),
            None => self.wrong.push(text()),
        }
    }

    /// Whether most of the errors from `first` on are as small as usual.
    fn check_usual(&mut self, first: usize) {
        let mut errors = self.errors[first..].to_vec();
        errors.sort_unstable();
        if let Some(median) = errors.get(errors.len() / 2)
            && *median > USUAL_SLACK
        {
            self.wrong
                .push(format!("round-trip times are {median} ns too long"));
        }
    }
}

/// A scenario and a method, and what must come out in each family that is part of the scenario.
struct Case<'a> {
    scenario: &'a Scenario,
    method: Method,
    access: Access,
    expected: Vec<Expected>,
}

#[derive(Clone)]
struct Expected {
    family: Family,
    expect: Expect,
    /// What comes out in memory must come out again.
    is_as_in_memory: bool,
}

impl Case<'_> {
    /// As root and as a plain user, as far as the method is for them.
    fn all(scenario: &Scenario, method: Method) -> Vec<Case<'_>> {
        let (mut raw, mut plain) = (Vec::new(), Vec::new());
        for family in FAMILIES {
            let Some(expect) = scenario.expectation(method, family) else {
                continue;
            };
            let is_as_in_memory = expect.is_repeatable();
            if let Some(expect) = ordinary::expectation(scenario, method, family) {
                let is_same = ordinary::difference(scenario, method).is_none();
                plain.push(Expected {
                    family,
                    expect,
                    is_as_in_memory: is_as_in_memory && is_same,
                });
            }
            raw.push(Expected {
                family,
                expect: expect.clone(),
                is_as_in_memory,
            });
        }
        // Families share a namespace, which costs more than most cases; those that take long are
        // apart, to be side by side.
        let at_once = if scenario.e2e_time() > LONG {
            1
        } else {
            FAMILIES.len()
        };
        let mut cases = Vec::new();
        for (access, expected) in [(Access::Raw, &raw), (Access::Ordinary, &plain)] {
            cases.extend(expected.chunks(at_once).map(|expected| Case {
                scenario,
                method,
                access,
                expected: expected.to_vec(),
            }));
        }
        cases
    }

    /// About how long it takes.
    fn waiting(&self) -> Duration {
        let timeout = Duration::from_millis(self.scenario.timeout_ms);
        let families = self.expected.iter();
        families
            .map(|expected| self.scenario.e2e_time() + timeout * expected.expect.silent_hops())
            .sum()
    }

    /// In a thread of its own, with which its namespace goes.
    fn compare_alone(&self) -> Found {
        thread::scope(|scope| scope.spawn(|| self.compare()).join().unwrap())
    }

    /// Runs it.
    fn compare(&self) -> Found {
        let Case {
            scenario,
            method,
            access,
            ..
        } = *self;
        let lab = Lab::new(access).unwrap();
        let topology = scenario.topology().unwrap();
        assert!(
            namespace::configure(&lab.name, &topology, true).unwrap(),
            "IPv6 is missing"
        );
        let mut found = Found::default();
        for Expected {
            family,
            expect,
            is_as_in_memory,
        } in &self.expected
        {
            let (first_wrong, first_error) = (found.wrong.len(), found.errors.len());
            let outcome = lab.run(scenario, method, *family, &mut found);
            if OPEN_DEFECTS.contains(&(scenario.name, method, access)) {
                continue;
            }
            found.wrong.extend(expect.check(scenario, &outcome).err());
            if *is_as_in_memory {
                let in_memory = memory::run(scenario, method, *family, &|| None).unwrap();
                let in_memory = match access {
                    Access::Ordinary => ordinary::may_find(method, in_memory, &outcome),
                    _ => in_memory,
                };
                let (here, there) = (outcome.summary(&Aspect::ALL), in_memory.summary(&Aspect::ALL));
                if here != there {
                    found.wrong.push(format!("{here}, but in memory {there}"));
                }
            }
            found.check_usual(first_error);
            for text in &mut found.wrong[first_wrong..] {
                *text = format!("{} {method:?} {family:?} {access:?}: {text}", scenario.name);
            }
        }
        found
    }
}

/// A namespace with a device, and the library in it.
struct Lab {
    device: File,
    name: String,
    runtime: Runtime,
    access: Access,
}

impl Lab {
    /// Moves the calling thread.
    fn new(access: Access) -> io::Result<Lab> {
        namespace::enter()?;
        let (device, name) = tun::open("")?;
        if access == Access::Ordinary {
            fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0")?;
        }
        Ok(Lab {
            access,
            device,
            name,
            runtime: Builder::new_current_thread().enable_all().build()?,
        })
    }

    /// The library's run, and then its end-to-end probes.
    fn run(&self, scenario: &Scenario, method: Method, family: Family, found: &mut Found) -> Outcome {
        let target = scenario.target(family);
        let mut destinations = HashMap::new();
        let (run, journal) = self.with_network(scenario, || {
            let request = request(scenario, method, target, 1, 0);
            // One that knows nothing of the limits of the network before.
            let tracer = Tracer::new();
            self.runtime.block_on(async {
                let mut events = tracer.events(&request);
                while let Some(event) = events.next().await {
                    if let Event::HopFound { ttl, answer, .. } = event {
                        destinations.insert(ttl, answer.destination);
                    }
                }
                events.report().await
            })
        });
        let hops = match run {
            Ok(report) => Ok(hops(&report, &destinations)),
            Err(error) => Err(error.to_string()),
        };
        let (e2e, e2e_journal) = self.with_network(scenario, || {
            let request = request(scenario, method, target, 0, E2E_QUERIES);
            self.runtime.block_on(Tracer::new().trace(&request)).unwrap()
        });
        let figures = Document::of(&e2e).e2e_probe;
        let rtts = e2e.end_to_end.rtts;

        for (ttl, finding) in (1..).zip(hops.as_deref().unwrap_or_default()) {
            let Some(finding) = finding else { continue };
            let Finding {
                address,
                rtt,
                destination,
                ..
            } = *finding;
            // Without one it could not be told which attempt was answered.
            let Some(rtt) = rtt else { continue };
            let covers = destination && matches!(method, Method::Sack | Method::PreferSack);
            let last = if covers { scenario.max_ttl } else { ttl };
            let error = (ttl..=last)
                .filter_map(|ttl| journal.error(target, ttl, address, rtt, &SLACK, false))
                .min_by_key(|error| error.abs());
            found.check_rtt(error, || {
                let truth = journal.true_rtts(target, ttl);
                format!("wrong RTT {rtt:?} at TTL {ttl} from {address}, truly {truth:?}")
            });
        }
        let (sent, received) = (rtts.len() as u32, rtts.iter().flatten().count() as u32);
        let loss = (sent - received) as f32 / sent as f32;
        // Over UDP those are not sent for which the target's limit leaves no answer.
        let is_all = sent == E2E_QUERIES || method == Method::Udp && sent < E2E_QUERIES;
        if !is_all
            || (figures.packets_sent, figures.packets_received) != (sent, received)
            || (figures.packet_loss_percentage - loss).abs() > f32::EPSILON
        {
            found.wrong.push(format!("wrong loss figures: {figures:?}"));
        }
        // A source port may come again while the server still knows it: then what it repeats
        // answers the new SYN. Seldom.
        let mut strays = u32::from(!matches!(method, Method::Icmp | Method::Udp));
        for rtt in rtts.iter().flatten() {
            let error =
                |any_cause| e2e_journal.error(target, scenario.max_ttl, target, *rtt, &SLACK, any_cause);
            let error = error(false).or_else(|| {
                strays = strays.checked_sub(1)?;
                error(true)
            });
            found.check_rtt(error, || {
                let truth = e2e_journal.true_rtts(target, scenario.max_ttl);
                format!("wrong end-to-end RTT {rtt:?} in {rtts:?}, truly {truth:?}")
            });
        }
        Outcome {
            target,
            hops,
            rtts,
            wrong: Vec::new(),
        }
    }

    /// Does something while a fresh network answers behind the device.
    fn with_network<T: Send>(&self, scenario: &Scenario, act: impl FnOnce() -> T + Send) -> (T, Journal) {
        // What the client's kernel had to say to the network before, such as a RST.
        while (&self.device).read(&mut [0; 2048]).is_ok() {}
        let mut network = Network::new(&scenario.topology().unwrap(), memory::SEED);
        let (stop, stopper) = UnixStream::pair().unwrap();
        thread::scope(|scope| {
            let serve = scope.spawn(move || {
                let mut journal = Journal::default();
                tun::run_with(
                    &self.device,
                    &mut network,
                    &stop,
                    SETTINGS,
                    &mut |activity| match activity {
                        Activity::Read { number, at, packet } => journal.sent(number, at, packet),
                        Activity::Written { delivery, at } => {
                            journal.heard(delivery.cause, at, &delivery.packet);
                        }
                        Activity::Refused { error, .. } => panic!("the kernel refuses an answer: {error}"),
                    },
                )
                .unwrap();
                journal
            });
            // Of its own, for capabilities belong to threads.
            let user = scope.spawn(|| {
                if self.access == Access::Ordinary {
                    traceroute_testbed::forget_capabilities().unwrap();
                }
                act()
            });
            let result = user.join().unwrap();
            drop(stopper);
            (result, serve.join().unwrap())
        })
    }
}

fn request(scenario: &Scenario, method: Method, target: IpAddr, runs: u32, e2e_queries: u32) -> Request {
    let (protocol, tcp_method) = match method {
        Method::Icmp => (Protocol::Icmp, TcpMethod::Syn),
        Method::Udp => (Protocol::Udp, TcpMethod::Syn),
        Method::Syn => (Protocol::Tcp, TcpMethod::Syn),
        Method::Sack => (Protocol::Tcp, TcpMethod::Sack),
        Method::PreferSack => (Protocol::Tcp, TcpMethod::PreferSack),
    };
    Request::to(target)
        .protocol(protocol)
        .tcp_method(tcp_method)
        .port(scenario.port(method))
        .runs(runs)
        .e2e_probes(e2e_queries)
        .max_ttl(scenario.max_ttl)
        .timeout(Duration::from_millis(scenario.timeout_ms))
        .details(true)
        .build()
        .unwrap()
}

/// The hops of the only run; `destinations` is what was told of each while it went on, which must
/// be all of them.
fn hops(report: &Report, destinations: &HashMap<u8, bool>) -> Vec<Option<Finding>> {
    let Document {
        traceroute, details, ..
    } = Document::of(report);
    let hops = &traceroute.runs[0].hops;
    let details = &details.as_ref().unwrap().runs[0].hops;
    assert_eq!(hops.len(), details.len());
    hops.iter()
        .zip(details)
        .map(|(hop, details)| {
            assert_eq!(hop.ip_address.is_some(), details.answer.is_some());
            let answer = details.answer.as_ref()?;
            assert_eq!(hop.ip_address, Some(answer.ip_address));
            assert_eq!(destinations[&hop.ttl], answer.destination);
            Some(Finding {
                address: answer.ip_address,
                rtt: (hop.rtt > 0.0).then(|| milliseconds(hop.rtt)),
                destination: answer.destination,
                icmp: answer.icmp_type.zip(answer.icmp_code),
                reply_ttl: answer.reply_ttl,
                quoted_ttl: answer.quoted_ttl,
                mpls: answer.mpls.iter().copied().map(label).collect(),
            })
        })
        .collect()
}

fn label(entry: MplsEntry) -> MplsLabel {
    MplsLabel {
        label: entry.label,
        traffic_class: entry.tc,
        bottom: entry.s,
        ttl: entry.ttl,
    }
}

fn milliseconds(value: f64) -> Duration {
    Duration::from_nanos((value * 1e6).round() as u64)
}
