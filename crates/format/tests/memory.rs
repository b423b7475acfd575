//! What a format says of its memory, beside what it takes.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use datadog_traceroute::{
    Answer, Distance, End, EndToEnd, Hop, IcmpError, Losses, Method, Names, Protocol, Report, Run,
    Statistics, TraceResult,
};
use traceroute_format::{Format, Screen, View, to_compact_json};

/// The system's, counting. There is one test, so nobody else allocates.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is passed on to the system's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(now, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs that are answered at each TTL, by one router or each by another.
fn report(runs: u32, ttls: u8, one_router: bool, names: usize, details: bool) -> Report {
    let target = IpAddr::from([198, 51, 100, 9]);
    let address = |run: u32, ttl: u8| {
        let run = if one_router { 0 } else { run };
        IpAddr::from(Ipv6Addr::from_bits(
            0x2001_0db8 << 96 | u128::from(run) << 64 | u128::from(ttl),
        ))
    };
    let hop = |run, ttl| Hop {
        ttl,
        answer: Some(Answer::new(
            address(run, ttl),
            Some(Duration::from_nanos(123_456_789)),
            Some(IcmpError::Unreachable { code: 13 }),
        )),
        attempts: 1,
        lost: Losses::default(),
        nat: false,
    };
    let runs = (0..runs).map(|run| {
        let result = TraceResult {
            source: target,
            source_port: 40_000,
            destination: target,
            destination_port: 443,
            hops: (1..=ttls).map(|ttl| hop(run, ttl)).collect(),
            probes_sent: ttls.into(),
            distance: Distance::Known,
            end: End::MaxTtl,
            retries_limited: false,
        };
        Run::new(run, Method::Udp, result)
    });
    let mut report = Report::new("host.example", 443, Protocol::Udp, runs.collect());
    let named = |address: IpAddr| {
        let name = format!("{:x<253}", address.to_string().replace(':', "-"));
        (address, Arc::from(vec![name; names]))
    };
    let hops = report.runs.iter().flat_map(|run| &run.hops);
    let answers = hops.filter_map(|hop| hop.answer);
    report.names = answers.map(|answer| named(answer.address)).collect::<Names>();
    report.end_to_end = EndToEnd::new(vec![Some(Duration::from_nanos(123_456_789)); 50]);
    if details {
        report.statistics = Some(Box::new(Statistics::default()));
    }
    report
}

/// The most memory that making a text takes, and the text.
fn measured(make: impl Fn() -> String) -> (usize, String) {
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let text = make();
    (MOST.load(Ordering::Relaxed) - before, text)
}

/// `wide` of 100 runs over 255 TTLs took 250 MB, and 10 were expected.
#[test]
fn no_format_takes_more_memory_than_it_says() {
    let formats = [
        Format::Json,
        Format::Table,
        Format::Wide,
        Format::Csv,
        Format::Dot,
    ];
    for (runs, ttls, one_router, names) in [
        (1, 10, true, 0),
        (3, 30, true, 1),
        (5, 255, true, 16),
        (20, 255, false, 0),
        (60, 30, false, 2),
        (200, 10, false, 0),
        (1000, 3, true, 0),
    ] {
        for details in [false, true] {
            let report = report(runs, ttls, one_router, names, details);
            for format in formats {
                let said = format.memory(&report, details);
                let view = View {
                    screen: Screen::NONE,
                    details,
                    option_prefix: "",
                };
                let (taken, text) = measured(|| format.render(&report, view).unwrap());
                let case = format!(
                    "{format:?} of {runs} runs, {ttls} TTLs, one router: {one_router}, {names} names, details: {details}: \
                     {said} said, {taken} taken, {} written",
                    text.len()
                );
                assert!(taken <= said, "{case}");
                assert!(said < 8 * taken + 1_000_000, "{case}");
            }
            // As the service writes it.
            let (taken, _) = measured(|| to_compact_json(&report, details).unwrap());
            let said = Format::Json.memory(&report, details);
            assert!(
                taken <= said,
                "compact, {runs} runs, {details}: {said} said, {taken} taken"
            );
        }
    }
}
