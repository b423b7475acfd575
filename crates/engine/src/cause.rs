//! Why a probe has no answer.
//!
//! Local trouble is an error where nothing can be measured, and loss with cause `local` otherwise:
//!
//! - A run fails when its first probe cannot leave: no route, no permission, interface down, too
//!   many open files. What this machine refuses later is counted as `local`.
//! - A destination unreachable that this machine sends to itself is no hop. If nobody answers ARP
//!   or neighbour discovery, the probe is `local`. The network is asked when nobody has answered
//!   (`Network::lacks_neighbour`). If a local firewall rejects probes and nothing else comes back,
//!   the run fails.

use std::ops::{AddAssign, Index, IndexMut};

/// Why a probe has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// The network lost the probe or its answer: the responder answers others, and no limit
    /// explains the silence.
    Network,
    /// The responder limits how many answers it sends, and this probe came when none was left.
    RateLimited,
    /// The node at this TTL never answers, although it forwards: later ones do answer.
    Silent,
    /// Nothing comes back from this TTL on, or somebody refuses to send probes on.
    Filtered,
    /// This machine did not send the probe, dropped its answer, or found no neighbour to send it
    /// to.
    Local,
    /// What was seen does not decide it.
    Unknown,
}

impl Cause {
    /// All causes, in the order in which they are reported.
    pub const ALL: [Cause; 6] = [
        Cause::Network,
        Cause::RateLimited,
        Cause::Silent,
        Cause::Filtered,
        Cause::Local,
        Cause::Unknown,
    ];

    /// Its name in documents and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Network => "network",
            Cause::RateLimited => "rate_limited",
            Cause::Silent => "silent",
            Cause::Filtered => "filtered",
            Cause::Local => "local",
            Cause::Unknown => "unknown",
        }
    }
}

/// How many probes went without an answer, by cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses([u32; Cause::ALL.len()]);

impl Losses {
    /// Counts `count` more.
    pub fn add(&mut self, cause: Cause, count: u32) {
        self[cause] += count;
    }

    /// All of them together.
    pub fn total(&self) -> u32 {
        self.0.iter().sum()
    }

    /// Those that occurred.
    pub fn iter(&self) -> impl Iterator<Item = (Cause, u32)> + '_ {
        let counted = Cause::ALL.into_iter().zip(self.0);
        counted.filter(|(_, count)| *count > 0)
    }

    /// The most frequent cause, if any probe was lost.
    pub fn main(&self) -> Option<Cause> {
        self.iter()
            .max_by_key(|(_, count)| *count)
            .map(|(cause, _)| cause)
    }
}

impl Index<Cause> for Losses {
    type Output = u32;

    fn index(&self, cause: Cause) -> &u32 {
        &self.0[cause as usize]
    }
}

impl IndexMut<Cause> for Losses {
    fn index_mut(&mut self, cause: Cause) -> &mut u32 {
        &mut self.0[cause as usize]
    }
}

impl AddAssign for Losses {
    fn add_assign(&mut self, other: Losses) {
        for (sum, count) in self.0.iter_mut().zip(other.0) {
            *sum = sum.saturating_add(count);
        }
    }
}
