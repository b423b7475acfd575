//! Merges the two views of one packet: before and after this host's firewall and translation.
//!
//! The kernel stamps a packet once, on arrival, and both views carry that stamp: it names the
//! packet. The view after translation is preferred, because its addresses are those of the probe.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Duration;

use traceroute_wire::{Reply, ReplyKind};

/// Packets that are remembered, in sets; each stamp belongs to one. The views are read in turns of
/// 64 packets, so they are mostly not far apart.
const SETS: usize = 256;
const SET: usize = 8;
/// A packet that one view still does not have, so long after the other one got it, is not in it.
const PATIENCE: Duration = Duration::from_millis(50);

/// Where a view was read to: packets stamped until then have been read, in nanoseconds of the wall
/// clock. A view that is behind has not missed what it has not read yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadTo {
    pub(super) inside: i64,
    pub(super) outside: i64,
}

/// In which views a packet was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// As this host's programs get it: from where to where.
    Inside([IpAddr; 2]),
    /// As it came in: what it decoded to, and the router if it is one's error.
    Outside(u64, Option<IpAddr>),
    Both,
}

/// How many packets were the same in both views, and how many were not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tally {
    pub(super) agreed: u64,
    pub(super) differed: u64,
}

impl Tally {
    fn count(&mut self, is_same: bool) {
        self.agreed += u64::from(is_same);
        self.differed += u64::from(!is_same);
    }
}

/// The packets seen last.
pub(super) struct Views {
    sets: Vec<[Option<(i64, Seen)>; SET]>,
    /// Stamps of packets to this host that were only seen outside so far; the oldest first.
    outside: VecDeque<i64>,
    /// The same inside.
    inside: VecDeque<i64>,
    tally: Tally,
    hasher: RandomState,
    dropped: u64,
}

impl Views {
    pub(super) fn new() -> Self {
        Views {
            sets: vec![[None; SET]; SETS],
            outside: VecDeque::new(),
            inside: VecDeque::new(),
            tally: Tally::default(),
            hasher: RandomState::new(),
            dropped: 0,
        }
    }

    /// A packet was delivered to this host's programs. Whether it is news: false when the same was
    /// seen outside. Tells the router that it comes from, if it was translated and that is known.
    pub(super) fn is_news_inside(&mut self, stamp: i64, reply: &mut Reply) -> bool {
        let slot = self.slot(stamp);
        match *slot {
            Some((known, Seen::Outside(outside, router))) if known == stamp => {
                *slot = Some((stamp, Seen::Both));
                let is_translated = outside != self.hasher.hash_one(*reply);
                if is_translated && let Some(router) = router {
                    reply.source = router;
                }
                self.tally.count(!is_translated);
                is_translated
            }
            _ => {
                *slot = Some((stamp, Seen::Inside([reply.source, reply.destination])));
                if self.inside.len() < SETS * SET {
                    self.inside.push_back(stamp);
                }
                true
            }
        }
    }

    /// Whether a packet that came in is news: false when it was seen inside, be it translated.
    /// `is_between` tells whether it has these addresses.
    pub(super) fn is_news_outside(
        &mut self,
        stamp: i64,
        is_between: impl FnOnce([IpAddr; 2]) -> bool,
    ) -> bool {
        let slot = self.slot(stamp);
        match *slot {
            Some((known, Seen::Inside(addresses))) if known == stamp => {
                *slot = Some((stamp, Seen::Both));
                self.tally.count(is_between(addresses));
                false
            }
            _ => true,
        }
    }

    /// Remembers what a packet that came in decoded to. `is_for_us`: it must be seen inside too, or
    /// this host dropped it.
    pub(super) fn remember_outside(&mut self, stamp: i64, reply: &Reply, is_for_us: bool) {
        let digest = self.hasher.hash_one(reply);
        *self.slot(stamp) = Some((stamp, Seen::Outside(digest, router(reply))));
        if is_for_us && self.outside.len() < SETS * SET {
            self.outside.push_back(stamp);
        }
    }

    /// Decides what became of packets that were only seen in one view. `has_lost`: the kernel had
    /// no room for packets in one of them since it was last asked; then their absence says nothing.
    pub(super) fn settle(&mut self, read_to: ReadTo, has_lost: impl FnOnce() -> bool) {
        let patience = PATIENCE.as_nanos() as i64;
        let mut dropped = 0;
        while let Some(stamp) = self
            .outside
            .pop_front_if(|stamp| *stamp < read_to.inside - patience)
        {
            let slot = self.slot(stamp);
            dropped += u64::from(matches!(slot, Some((known, Seen::Outside(..))) if *known == stamp));
        }
        // A packet that was only seen inside came in encrypted.
        let mut encrypted = 0;
        while let Some(stamp) = self
            .inside
            .pop_front_if(|stamp| *stamp < read_to.outside - patience)
        {
            let slot = self.slot(stamp);
            encrypted += u64::from(matches!(slot, Some((known, Seen::Inside(_))) if *known == stamp));
        }
        if dropped + encrypted > 0 && !has_lost() {
            self.dropped += dropped;
            self.tally.differed += dropped + encrypted;
        }
    }

    /// Nothing is seen inside any more, so nothing is missed there.
    pub(super) fn forget_outside(&mut self) {
        self.outside.clear();
    }

    /// How many packets were the same in both views so far.
    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    /// How many packets to this host it has dropped itself: a firewall rule, or `rp_filter`.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Where a packet is remembered: its own place, a free one, or that of the oldest packet of the
    /// set.
    fn slot(&mut self, stamp: i64) -> &mut Option<(i64, Seen)> {
        // Stamps may be multiples of what the clock counts in.
        let mixed = stamp.cast_unsigned().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let set = &mut self.sets[mixed as usize % SETS];
        let stamp_at = |slot: &Option<(i64, Seen)>| slot.map(|(stamp, _)| stamp);
        let own = set.iter().position(|slot| stamp_at(slot) == Some(stamp));
        let oldest = || (0..SET).min_by_key(|index| stamp_at(&set[*index]));
        let index = own.or_else(oldest).unwrap_or(0);
        &mut set[index]
    }
}

/// The router that an error comes from as it came in; `None`: it comes from where the packet was
/// going, or is none.
///
/// Linux puts the address that it translated in place of the address of each router that reports an
/// error on the way there (`nf_nat_icmp_reply_translation`), so only this view knows the router.
pub(super) fn router(outside: &Reply) -> Option<IpAddr> {
    match outside.kind {
        ReplyKind::IcmpError { quoted, .. } if quoted.destination != outside.source => Some(outside.source),
        _ => None,
    }
}

/// Whether an error as it was delivered may be from a router whose address was replaced: by that
/// where the packet was going.
pub(super) fn may_be_replaced(inside: &Reply) -> bool {
    matches!(inside.kind, ReplyKind::IcmpError { quoted, .. } if quoted.destination == inside.source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(destination: [u8; 4]) -> Reply {
        Reply {
            source: IpAddr::from([192, 0, 2, 1]),
            destination: destination.into(),
            ttl: 60,
            kind: ReplyKind::Echo {
                identifier: 1,
                sequence: 2,
                cookie: None,
            },
        }
    }

    fn both(stamp: i64) -> ReadTo {
        ReadTo {
            inside: stamp,
            outside: stamp,
        }
    }

    const US: [u8; 4] = [10, 0, 0, 1];
    const TRANSLATED: [u8; 4] = [10, 0, 0, 77];

    #[test]
    fn a_packet_seen_in_both_views_is_news_once() {
        let mut views = Views::new();
        assert!(views.is_news_inside(5, &mut reply(US)));
        assert!(!views.is_news_outside(5, |_| true));
        assert!(views.is_news_outside(6, |_| true));
        views.remember_outside(6, &reply(US), true);
        assert!(!views.is_news_inside(6, &mut reply(US)));
        views.settle(both(1_000_000_000), || false);
        assert_eq!(views.dropped(), 0);
        assert_eq!(
            views.tally(),
            Tally {
                agreed: 2,
                differed: 0
            }
        );
    }

    #[test]
    fn what_is_only_seen_inside_is_a_difference() {
        let mut views = Views::new();
        assert!(views.is_news_inside(5, &mut reply(US)));
        views.settle(both(6), || false);
        assert_eq!(views.tally().differed, 0, "it may still come in");
        views.settle(both(1_000_000_000), || false);
        assert_eq!(
            views.tally(),
            Tally {
                agreed: 0,
                differed: 1
            }
        );
    }

    #[test]
    fn a_translated_packet_is_news_inside_and_nothing_else_then() {
        let mut views = Views::new();
        assert!(views.is_news_inside(5, &mut reply(US)));
        assert!(!views.is_news_outside(5, |_| false), "translated already");
        assert!(views.is_news_outside(6, |_| false));
        views.remember_outside(6, &reply(TRANSLATED), false);
        assert!(views.is_news_inside(6, &mut reply(US)), "only now translated");
        assert_eq!(
            views.tally(),
            Tally {
                agreed: 0,
                differed: 2
            }
        );
    }

    #[test]
    fn what_is_only_seen_outside_was_dropped_here() {
        let mut views = Views::new();
        for (stamp, is_for_us) in [(1, true), (2, false), (3, true)] {
            assert!(views.is_news_outside(stamp, |_| true));
            views.remember_outside(stamp, &reply(US), is_for_us);
        }
        assert!(!views.is_news_inside(3, &mut reply(US)));
        views.settle(both(4), || false);
        assert_eq!(views.dropped(), 0, "it may still come");
        for now in [1_000_000_000, 2_000_000_000] {
            views.settle(both(now), || false);
            assert_eq!(views.dropped(), 1, "counted once");
        }
    }

    #[test]
    fn a_view_that_is_behind_or_had_no_room_tells_of_no_difference() {
        let late = 1_000_000_000;
        let mut views = Views::new();
        assert!(views.is_news_outside(1, |_| true));
        views.remember_outside(1, &reply(US), true);
        assert!(views.is_news_inside(2, &mut reply(US)));
        // Neither view has been read as far as the other one's packet.
        views.settle(both(0), || panic!("nothing is missing"));
        views.settle(both(late), || true);
        assert_eq!((views.dropped(), views.tally().differed), (0, 0));
        views.remember_outside(3, &reply(US), true);
        views.settle(both(late), || false);
        assert_eq!((views.dropped(), views.tally().differed), (1, 1));
    }
}
