//! Datagrams of a UDP service: they answer probes, but do not say which.
//!
//! So a datagram settles nothing by itself. When all TTLs were probed, one TTL at a time is asked,
//! upwards from the last router; a datagram then answers that probe. With one probe for each TTL
//! (`hop_retries` 0) answers are counted instead: the first of *n* answers the TTL *n* − 1 below
//! the last one sent. An echo service returns the probe itself, which names it.

use std::time::Duration;

use crate::Time;
use crate::ledger::Received;

/// So many times as far apart as probes were, and a datagram is no answer any more but a service
/// that repeats itself.
const PATIENCE: u32 = 3;

/// Clocks of sending and receiving differ by less.
const CLOCKS: Duration = Duration::from_millis(1);
/// Of so many probes that reach a service, it answers one at least.
const SELDOM: usize = 4;

/// A service's answers on one flow. It answers every probe that reaches it, in order.
pub(crate) struct Datagrams {
    /// The one that arrived first.
    pub(crate) first: Received,
    last_at: Time,
    /// The last one that was heard, be it an answer or a duplicate.
    pub(crate) heard_at: Time,
    count: usize,
    /// How many were heard, answers or duplicates.
    heard: usize,
}

impl Datagrams {
    /// None yet; this is to be the first.
    pub(crate) fn new(first: Received) -> Self {
        Datagrams {
            first,
            last_at: first.at,
            heard_at: first.at,
            count: 0,
            heard: 0,
        }
    }

    /// Counts one more; whether it is one. `apart`: how long at most one probe left after the
    /// other.
    pub(crate) fn add(&mut self, at: Time, apart: Duration) -> bool {
        self.heard_at = self.heard_at.max(at);
        self.heard += 1;
        let is_answer = at.since(self.last_at) <= apart * PATIENCE;
        if is_answer {
            // They may be read in another order than they came in.
            self.first.at = self.first.at.min(at);
            self.last_at = self.last_at.max(at);
            self.count += 1;
        }
        is_answer
    }

    /// Whether somebody else than a service sends them: one came before any probe could have reached
    /// the target. `lowest`: when the first probe left that may have reached it.
    pub(crate) fn are_forged(&self, lowest: Option<Time>) -> bool {
        lowest.is_none_or(|sent| self.first.at + CLOCKS < sent)
    }

    /// Whether they are so few that they may be somebody else's, though none came too early. Those
    /// after a pause count as well. `probes`: how many must have reached the service.
    pub(crate) fn are_few(&self, probes: usize) -> bool {
        self.heard * SELDOM < probes
    }

    /// How many probes they answer, of those that left at `sent`: the last ones, as many as there
    /// are answers. But they came as far apart as their probes left, so when they all came within
    /// less time, some are duplicates. `delay`: how far apart probes are at least.
    pub(crate) fn answered(&self, sent: impl Iterator<Item = Time> + Clone, delay: Duration) -> usize {
        let Some(last) = sent.clone().last() else { return 0 };
        // Duplicates come soon; other answers may well have been held up longer on the way than
        // those after them.
        let within = self.last_at.since(self.first.at) + delay * 4 / 5;
        let possible = sent.filter(|at| last.since(*at) <= within).count();
        self.count.min(possible)
    }
}

#[cfg(test)]
mod tests {
    use traceroute_wire::MplsStack;

    use super::*;
    use crate::answer::Answer;

    const DELAY: Duration = Duration::from_millis(50);

    fn ms(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    fn datagram(millis: u64) -> Received {
        let answer = Answer {
            address: [192, 0, 2, 1].into(),
            rtt: None,
            destination: true,
            error: None,
            reply_ttl: 60,
            quoted_ttl: None,
            mpls: MplsStack::default(),
            kernel_stamped: true,
            attempt: None,
            translated: false,
        };
        Received::of(answer, ms(millis))
    }

    /// Of four probes, 50 ms apart.
    fn answered(arrivals: &[u64]) -> usize {
        let mut answers = Datagrams::new(datagram(arrivals[0]));
        for at in arrivals {
            answers.add(ms(*at), DELAY);
        }
        answers.answered([0, 50, 100, 150].map(ms).into_iter(), DELAY)
    }

    #[test]
    fn answers_are_counted() {
        assert_eq!(answered(&[320]), 1);
        assert_eq!(answered(&[320, 370, 420]), 3);
        assert_eq!(answered(&[320, 420]), 2, "one was lost");
        assert_eq!(answered(&[320, 370, 420, 470, 520]), 4);
    }

    #[test]
    fn duplicates_are_not() {
        assert_eq!(answered(&[320, 320, 370, 370]), 2);
        assert_eq!(answered(&[320, 321, 321, 321]), 1);
        assert_eq!(answered(&[320, 322, 370, 375, 420, 429]), 3);
    }

    #[test]
    fn answers_that_were_held_up_are() {
        assert_eq!(answered(&[359, 370, 420]), 3, "the first");
        assert_eq!(answered(&[320, 420, 420]), 3, "one in the middle");
        assert_eq!(answered(&[320, 370, 460]), 3, "the last");
    }

    #[test]
    fn the_first_is_the_first_that_came_and_not_that_was_read() {
        assert_eq!(answered(&[370, 320, 420]), 3);
        let mut answers = Datagrams::new(datagram(370));
        for at in [370, 320, 420] {
            assert!(answers.add(ms(at), DELAY));
        }
        assert_eq!(answers.first.at, ms(320));
    }

    #[test]
    fn a_service_that_repeats_itself_is_not_believed() {
        assert_eq!(answered(&[320, 370, 820, 870]), 2);
    }
}
