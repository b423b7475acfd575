//! Counters of what happened to probes and replies.

use std::ops::AddAssign;

use traceroute_wire::Ignored;

use crate::cause::Losses;

/// What the engine counted since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Traces started.
    pub started: u64,
    /// Traces that ended with a result or an error.
    pub finished: u64,
    /// Traces cancelled.
    pub cancelled: u64,
    /// Probes sent.
    pub sent: u64,
    /// Probes that the kernel asked to send again later.
    pub send_retries: u64,
    /// Probes that the kernel refused.
    pub send_errors: u64,
    /// Replies credited to a probe.
    pub matched: u64,
    /// Matched replies whose quote shows a source address or port other than ours: a NAT on the
    /// path.
    pub translated: u64,
    /// Further replies to a probe that was answered already.
    pub duplicates: u64,
    /// Replies that belong to no trace: other programs' traffic, or answers to traces that are
    /// over.
    pub unmatched: u64,
    /// Replies that name a trace but not one of its probes, or carry a wrong identifier: stray or
    /// forged.
    pub rejected: u64,
    /// Probes without an answer, by cause.
    pub lost: Losses,
    /// Runs ended early to free their ports.
    pub cut_short: u64,
    /// Responders whose limits are remembered now.
    pub responders: u64,
    /// Responders and places forgotten because the memory was full.
    pub responders_forgotten: u64,
    /// Captured packets that are no reply, by [`Ignored::index`].
    pub ignored: [u64; Ignored::ALL.len()],
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Counters) {
        self.started += other.started;
        self.finished += other.finished;
        self.cancelled += other.cancelled;
        self.sent += other.sent;
        self.send_retries += other.send_retries;
        self.send_errors += other.send_errors;
        self.matched += other.matched;
        self.translated += other.translated;
        self.duplicates += other.duplicates;
        self.unmatched += other.unmatched;
        self.rejected += other.rejected;
        self.lost += other.lost;
        self.cut_short += other.cut_short;
        self.responders += other.responders;
        self.responders_forgotten += other.responders_forgotten;
        for (sum, count) in self.ignored.iter_mut().zip(other.ignored) {
            *sum += count;
        }
    }
}

impl Counters {
    /// Replies and other packets that were credited to no probe, by reason; the names are
    /// `snake_case`.
    pub fn not_credited(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let replies = [
            ("duplicate", self.duplicates),
            ("unmatched", self.unmatched),
            ("rejected", self.rejected),
        ];
        let ignored = self.ignored;
        let others = Ignored::ALL.map(|reason| (reason.name(), ignored[reason.index()]));
        replies.into_iter().chain(others)
    }
}
