//! Decides when the second view of replies, after this host's firewall and translation, is worth
//! its cost.
//!
//! Where nothing is translated and nothing is dropped, both views show the same packets, and
//! reading each twice costs some 10 % of the CPU time of a trace. So under load the second view
//! closes after 256 packets that were the same in both, and opens each second for the next 256. It
//! stays open, or opens within 100 ms,
//!
//! - while this host tracks connections (`nf_conntrack_count` is not 0, which it is from the first
//!   probe on that a NAT rule can translate) or has a module of `IPsec`;
//! - for 10 s after any packet that differed.
//!
//! What can be missed: the answers of up to a second when, amid heavy load, a translation without
//! connection tracking begins, a firewall rule without it (only `dropped_here`), or `IPsec` that is
//! built into the kernel.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use traceroute_engine::Time;

use super::views::Tally;

/// Packets that must be the same in both views.
const SAMPLE: u64 = 256;
/// Until the next sample.
const PAUSE: Duration = Duration::from_secs(1);
/// Until this host is asked again whether it translates.
const CHECK: Duration = Duration::from_millis(100);
/// How long a difference keeps the second view open.
const HOLD: Duration = Duration::from_secs(10);

/// What is to be done with the second view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ViewChange {
    Keep,
    Open,
    Close,
}

pub(super) struct Attention {
    is_open: bool,
    /// When it was last opened or closed.
    before: Tally,
    /// The differences that were seen.
    differed: u64,
    hold_until: Time,
    check_at: Time,
    sample_at: Time,
}

impl Attention {
    pub(super) fn new() -> Self {
        Attention {
            is_open: true,
            before: Tally::default(),
            differed: 0,
            hold_until: Time::ZERO,
            check_at: Time::ZERO,
            sample_at: Time::ZERO,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// What is to be done now; it is taken for done.
    pub(super) fn consider(
        &mut self,
        now: Time,
        tally: Tally,
        translates: impl FnOnce() -> bool,
    ) -> ViewChange {
        if tally.differed != self.differed {
            self.differed = tally.differed;
            self.hold_until = now + HOLD;
        }
        let is_wanted = if self.is_open {
            now < self.hold_until || tally.agreed - self.before.agreed < SAMPLE
        } else {
            now < self.hold_until || self.sample_at <= now
        };
        // Whether this host translates only matters if nothing else wants the view.
        let is_wanted = is_wanted || {
            if now < self.check_at {
                return ViewChange::Keep;
            }
            self.check_at = now + CHECK;
            translates()
        };
        if self.is_open == is_wanted {
            return ViewChange::Keep;
        }
        self.set(is_wanted, now, tally);
        if is_wanted {
            ViewChange::Open
        } else {
            ViewChange::Close
        }
    }

    /// The second view is open from now on: after a rest, all begins anew.
    pub(super) fn begin(&mut self, now: Time, tally: Tally) {
        self.set(true, now, tally);
    }

    fn set(&mut self, is_open: bool, now: Time, tally: Tally) {
        self.is_open = is_open;
        self.before = tally;
        self.sample_at = now + PAUSE;
    }
}

/// Whether this host may translate or decrypt packets. What cannot be found out counts as yes.
///
/// Whatever translates with netfilter's help tracks connections, and that of a probe is counted
/// before it leaves. Decryption is mostly a module's. What else translates shows in samples.
pub(super) fn host_may_translate() -> bool {
    tracks_connections() || has_module_of_ipsec()
}

fn tracks_connections() -> bool {
    // Of the network namespace of the thread that asks.
    match fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count") {
        Ok(count) => count.trim() != "0",
        // Some kernels hide it from namespaces of ordinary users.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            !Path::new("/proc/sys/net").exists() || Path::new("/sys/module/nf_conntrack").exists()
        }
        Err(_) => true,
    }
}

fn has_module_of_ipsec() -> bool {
    // A kernel without modules has no such file.
    let modules = fs::read_to_string("/proc/modules").unwrap_or_default();
    let mut names = modules.lines().filter_map(|line| line.split(' ').next());
    names.any(|name| matches!(name, "esp4" | "esp6" | "ah4" | "ah6"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_secs(100) + Duration::from_millis(millis)
    }

    fn tally(agreed: u64, differed: u64) -> Tally {
        Tally { agreed, differed }
    }

    #[test]
    fn views_that_agree_are_sampled_each_second() {
        let mut attention = Attention::new();
        assert_eq!(
            attention.consider(at(0), tally(255, 0), || false),
            ViewChange::Keep
        );
        assert_eq!(
            attention.consider(at(1), tally(256, 0), || false),
            ViewChange::Close
        );
        assert_eq!(
            attention.consider(at(900), tally(256, 0), || false),
            ViewChange::Keep
        );
        assert_eq!(
            attention.consider(at(1001), tally(256, 0), || false),
            ViewChange::Open
        );
        assert_eq!(
            attention.consider(at(1002), tally(400, 0), || false),
            ViewChange::Keep
        );
        assert_eq!(
            attention.consider(at(1101), tally(512, 0), || false),
            ViewChange::Close
        );
    }

    #[test]
    fn a_host_that_translates_is_watched_whenever_that_begins() {
        let mut attention = Attention::new();
        assert_eq!(
            attention.consider(at(0), tally(300, 0), || true),
            ViewChange::Keep
        );
        assert_eq!(
            attention.consider(at(100), tally(300, 0), || false),
            ViewChange::Close
        );
        assert_eq!(
            attention.consider(at(150), tally(300, 0), || true),
            ViewChange::Keep
        );
        assert_eq!(
            attention.consider(at(200), tally(300, 0), || true),
            ViewChange::Open
        );
    }

    #[test]
    fn a_difference_keeps_the_second_view_open() {
        let mut attention = Attention::new();
        assert_eq!(
            attention.consider(at(0), tally(300, 1), || false),
            ViewChange::Keep
        );
        assert_eq!(
            attention.consider(at(9_999), tally(900, 1), || false),
            ViewChange::Keep
        );
        assert_eq!(
            attention.consider(at(10_000), tally(900, 1), || false),
            ViewChange::Close
        );
        assert_eq!(
            attention.consider(at(10_001), tally(900, 2), || false),
            ViewChange::Open
        );
    }
}
