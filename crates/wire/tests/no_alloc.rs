//! Decoding allocates nothing. A file of its own, as the allocator counts for the whole process.
// It is const; the lint does not see it on windows-gnu, where the macro expands differently.
#![allow(clippy::missing_const_for_thread_local)]
#![allow(clippy::unwrap_used)]

#[path = "wire/support/mod.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use support::packets::{self, v4, v6};
use traceroute_wire::{Checksums, MAX_PROBE_LEN, MplsLabel, Probe, ProbeKind, decode};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

#[allow(unsafe_code)]
// SAFETY: everything is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn decoding_and_encoding_allocate_nothing() {
    let probe = Probe {
        source: v4("192.0.2.10"),
        destination: v4("198.51.100.7"),
        ttl: 7,
        identification: 1,
        flow_label: 0,
        tos: 0,
        dont_fragment: false,
        kind: ProbeKind::Udp {
            source_port: 50000,
            destination_port: 33434,
            tag: 7,
            payload_len: 10,
        },
    };
    let mut buffer = [0; MAX_PROBE_LEN];
    let quote = probe.encode(&mut buffer).unwrap().to_vec();
    let (us, target, us6, target6) = (
        probe.source,
        probe.destination,
        v6("2001:db8::10"),
        v6("2001:db8::7"),
    );
    let label = MplsLabel {
        label: 16,
        traffic_class: 0,
        bottom: true,
        ttl: 1,
    };
    let options = packets::hex("01010402");
    let mut replies = vec![
        packets::time_exceeded(target, us, 0, &quote),
        packets::time_exceeded_with_mpls(target, us, &quote, true, &[label]),
        packets::echo(target6, us6, true, 1, 2, b"abcdef"),
        packets::tcp(target, us, (1, 2), (3, 4), 0x12, &options, &[]),
        packets::udp(target6, us6, (1, 2), b"abcdef"),
    ];
    for reply in &replies {
        assert!(decode(reply, Checksums::Verify).is_ok());
    }
    replies.push(vec![0x45; 60]);
    replies.push(vec![0x60; 3]);

    let before = ALLOCATIONS.get();
    let mut buffer = [0; MAX_PROBE_LEN];
    assert!(probe.encode(&mut buffer).is_some());
    for reply in &replies {
        let _ = std::hint::black_box(decode(reply, Checksums::Verify));
    }
    assert_eq!(ALLOCATIONS.get(), before);
    // The counter counts.
    drop(std::hint::black_box(vec![1u8; 10]));
    assert!(ALLOCATIONS.get() > before);
}
