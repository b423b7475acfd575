//! From the captured bytes to the credited reply nothing is allocated.
#![allow(
    clippy::missing_const_for_thread_local,
    reason = "clippy 1.96 does not see the const on windows-gnu"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use traceroute_engine::{Action, Engine, EngineEvent, Method, NetworkEvent, Time, TraceSpec};
use traceroute_wire::{
    Checksums, MAX_PROBE_LEN, Probe, Reply, ReplyKind, SackInfo, TcpFlags, TcpReply, decode,
};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

#[allow(unsafe_code)]
// SAFETY: everything is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as for this function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as for this function.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let total: u32 = words
        .map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low)))
        .sum();
    let folded = (total & 0xFFFF) + (total >> 16);
    !((folded & 0xFFFF) + (folded >> 16)) as u16
}

/// A time exceeded from `router` that quotes the header and 8 bytes of `probe`.
fn time_exceeded(router: IpAddr, client: IpAddr, probe: &[u8]) -> Vec<u8> {
    let mut icmp = vec![0; 8];
    let mut packet = match (router, client) {
        (IpAddr::V4(router), IpAddr::V4(client)) => {
            icmp[0] = 11;
            icmp.extend(&probe[..28]);
            let checksum = sum(&[&icmp]);
            icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
            let mut header = [
                &[0x45, 0, 0, 56, 0, 1, 0, 0, 60, 1, 0, 0][..],
                &router.octets(),
                &client.octets(),
            ]
            .concat();
            let checksum = sum(&[&header]);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            header
        }
        (IpAddr::V6(router), IpAddr::V6(client)) => {
            icmp[0] = 3;
            icmp.extend(&probe[..48]);
            let pseudo = [0, 0, 0, 56, 0, 0, 0, 58];
            let checksum = sum(&[&router.octets(), &client.octets(), &pseudo, &icmp]);
            icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
            [
                &[0x60, 0, 0, 0, 0, 56, 58, 60][..],
                &router.octets(),
                &client.octets(),
            ]
            .concat()
        }
        _ => panic!("two families"),
    };
    packet.extend(icmp);
    packet
}

/// The handshake of a SACK trace.
fn syn_ack(target: IpAddr, client: IpAddr) -> Reply {
    let tcp = TcpReply {
        source_port: 33434,
        destination_port: 40_000,
        sequence: 1,
        acknowledgment: 7,
        flags: TcpFlags {
            syn: true,
            ack: true,
            rst: false,
            fin: false,
        },
        payload_len: 0,
        sack: SackInfo {
            permitted: true,
            ..SackInfo::default()
        },
        timestamps: None,
    };
    Reply {
        source: target,
        destination: client,
        ttl: 64,
        kind: ReplyKind::Tcp(tcp),
    }
}

/// What is captured for a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quote {
    /// Of the first attempt, by a router that was not known.
    First,
    Retry,
    /// By a NAT that does not translate it back: only marks lead to the flow.
    Untranslated,
}

/// The probe as it is outside: another port or identifier, and something else that makes up for it
/// in the checksum.
fn outside(mut probe: Vec<u8>, method: Method, v6: bool) -> Vec<u8> {
    let (source_end, transport) = if v6 { (24, 40) } else { (16, 20) };
    let (raised, lowered) = match method {
        Method::Icmp => (transport + 4, transport + 2),
        _ => (transport, source_end - 2),
    };
    let mut add = |at: usize, what: u16| {
        let word = u16::from_be_bytes([probe[at], probe[at + 1]]).wrapping_add(what);
        probe[at..at + 2].copy_from_slice(&word.to_be_bytes());
    };
    add(raised, 1);
    add(lowered, u16::MAX);
    probe
}

/// The next probe with TTL 1; all others have left as well. And when.
fn next_probe(engine: &mut Engine, mut now: Time) -> (Probe, Time) {
    loop {
        while let Some(action) = engine.poll_action(now) {
            let Action::Send { token, probe } = action else {
                panic!("a probe is due: {action:?}")
            };
            engine.sent(token, now);
            if probe.ttl == 1 {
                return (probe, now);
            }
        }
        now = engine.wake_at().expect("more to do");
    }
}

#[test]
fn from_captured_bytes_to_the_credited_reply_nothing_is_allocated() {
    let v6 = |last| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last));
    let families: [(IpAddr, IpAddr, IpAddr); 2] = [
        (
            [192, 0, 2, 1].into(),
            [198, 51, 100, 7].into(),
            [203, 0, 113, 9].into(),
        ),
        (v6(1), v6(7), v6(9)),
    ];
    let methods = [Method::Icmp, Method::Udp, Method::TcpSyn, Method::TcpSack];
    let quotes = [Quote::First, Quote::Retry, Quote::Untranslated];
    let cases = methods
        .into_iter()
        .flat_map(|method| quotes.map(|quote| (method, quote)));
    for ((client, router, target), (method, quote)) in families
        .into_iter()
        .flat_map(|family| cases.clone().map(move |case| (family, case)))
    {
        let mut engine = Engine::new(10, [5; 32]);
        let spec = TraceSpec::full(method, target, 33434, 30, Duration::from_secs(1));
        let trace = engine.start(Time::ZERO, spec, client, 40_000).expect("started");
        if method == Method::TcpSack {
            let Some(Action::Connect { id, .. }) = engine.poll_action(Time::ZERO) else {
                panic!("a connection is due")
            };
            let reply = &syn_ack(target, client);
            let at = Time::ZERO;
            engine.handle(at, NetworkEvent::Reply { reply, at });
            engine.handle(at, NetworkEvent::Connected(id));
        }
        let (mut probe, mut now) = next_probe(&mut engine, Time::ZERO);
        if quote == Quote::Retry {
            (probe, now) = next_probe(&mut engine, now);
        }
        let mut buffer = [0; MAX_PROBE_LEN];
        let mut quoted = probe.encode(&mut buffer).expect("one family").to_vec();
        if quote == Quote::Untranslated {
            quoted = outside(quoted, method, target.is_ipv6());
        }
        let packet = time_exceeded(router, client, &quoted);

        let before = ALLOCATIONS.get();
        let reply = decode(&packet, Checksums::Verify).expect("a reply");
        let at = now + Duration::from_millis(5);
        engine.handle(at, NetworkEvent::Reply { reply: &reply, at });
        let after = ALLOCATIONS.get();

        let Some(EngineEvent::Found {
            trace: found_by,
            found,
        }) = engine.poll_event()
        else {
            panic!("{method:?} {quote:?} {target}: {:?}", engine.counters())
        };
        assert_eq!((found_by, found.answer.address, found.ttl), (trace, router, 1));
        assert_eq!(
            found.answer.translated,
            quote == Quote::Untranslated,
            "{method:?}"
        );
        assert_eq!(after - before, 0, "{method:?} {quote:?} {target}");
    }
    // The counter does count.
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.get() - before, 1);
}
