//! End-to-end probes: one after the other at a fixed distance in time, each on a flow of its own,
//! all with the highest TTL.
//!
//! A UDP probe to a closed port is answered by an ICMP error, which targets limit. So a probe waits
//! until the target's limit leaves an answer for it; what then does not fit into the series' time
//! is not sent. Until something else was seen, the limit is assumed to be Linux's. Two more probes,
//! which are not part of the series, test that when the bucket should be empty: they go unanswered,
//! and take nothing, if it is.

use std::time::Duration;

use super::{FIRST, Step, Strategy, View};
use crate::Method;
use crate::Time;
use crate::answer::{EndToEndResult, TraceOutcome};
use crate::cause::Cause;
use crate::ledger::{Fate, Ledger};
use crate::responders::Allowance;
use crate::trace::{FlowIndex, Plan};

/// Probes that test an assumed limit.
const TESTS: u8 = 2;
/// A test is waited for so long, or two round trips; as everything no longer than the timeout.
const TEST_PATIENCE: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy)]
enum Fortune {
    Waiting,
    Answered(Duration),
    Lost { sent: Time, why: Option<Cause> },
}

/// What the next flow is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Probe,
    Test,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct EndToEndStrategy {
    /// Flows on which a probe of the series is on its way, with its number among those that left.
    open: Vec<(FlowIndex, usize)>,
    left: Vec<Fortune>,
    /// How many probes of the series have been dealt with.
    made: u32,
    refused: u32,
    /// When the first one was dealt with: the schedule counts from then.
    first_at: Option<Time>,
    next_at: Option<Time>,
    /// When the next one is to leave, as was said last.
    due: Option<Time>,
    opening: Option<(FlowIndex, Use)>,
    flows: FlowIndex,
    test: Option<FlowIndex>,
    tested: bool,
}

impl EndToEndStrategy {
    pub(crate) fn new() -> Self {
        EndToEndStrategy {
            open: Vec::new(),
            left: Vec::new(),
            made: 0,
            refused: 0,
            first_at: None,
            next_at: None,
            due: None,
            // Every trace begins with one.
            opening: Some((FIRST, Use::Probe)),
            flows: FIRST + 1,
            test: None,
            tested: false,
        }
    }

    /// Takes note of what became of the probes on their way; closes a flow that is not needed any
    /// more.
    fn settle(&mut self, view: &View<'_>) -> Option<Step> {
        let timeout = view.spec.timeout;
        for place in 0..self.open.len() {
            let Some((flow, number)) = self.open.get(place).copied() else {
                break;
            };
            let ttl = view.spec.max_ttl;
            let fortune = match view.ledger(flow) {
                Some(ledger) => fortune(ledger, ttl, (view.now, timeout)),
                None => Fortune::Lost {
                    sent: view.now,
                    why: Some(Cause::Local),
                },
            };
            if matches!(fortune, Fortune::Waiting) {
                continue;
            }
            self.open.swap_remove(place);
            if let Some(slot) = self.left.get_mut(number) {
                *slot = fortune;
            }
            let rtt = match fortune {
                Fortune::Answered(rtt) => Some(rtt),
                _ => None,
            };
            return Some(Step::Close {
                flow,
                settled: Some((number as u32, rtt)),
            });
        }
        None
    }

    /// When the first of the probes on their way has had its time.
    fn patience(&self, view: &View<'_>) -> Option<Time> {
        let sent = |(flow, _): &(FlowIndex, usize)| Some(view.ledger(*flow)?.attempts().last()?.at);
        self.open
            .iter()
            .filter_map(sent)
            .min()
            .map(|sent| sent + view.spec.timeout)
    }

    /// When a test has been answered, or has had its time.
    fn test_ends(&self, view: &View<'_>, flow: FlowIndex) -> Time {
        let ledger = view.ledger(flow);
        let unanswered = ledger.filter(|ledger| !ledger.is_answered(view.spec.max_ttl));
        let Some(last) = unanswered.and_then(|ledger| ledger.attempts().last()) else {
            return view.now;
        };
        let rtts = self.left.iter().filter_map(|fortune| match fortune {
            Fortune::Answered(rtt) => Some(*rtt * 2),
            _ => None,
        });
        let patience = rtts.fold(TEST_PATIENCE, Duration::max);
        last.at + patience.min(view.spec.timeout)
    }

    /// What follows the opening of a flow: a probe on it.
    fn opened(&mut self, view: &View<'_>, flow: FlowIndex, purpose: Use, interval: Duration) -> Option<Step> {
        let ledger = view.ledger(flow);
        let ttl = view.spec.max_ttl;
        let tries = if purpose == Use::Test { TESTS } else { 1 };
        match ledger {
            Some(ledger) if ledger.attempts_at(ttl) < tries => {
                return Some(Step::Send {
                    flow,
                    ttl,
                    label: None,
                    alone: false,
                });
            }
            _ => self.opening = None,
        }
        if purpose == Use::Test {
            self.test = ledger.map(|_| flow);
            return None;
        }
        self.made += 1;
        self.first_at.get_or_insert(view.now);
        // Missed ones, after a suspension, are not made up for in a burst.
        let planned = self.next_at.filter(|at| view.now.since(*at) < interval);
        self.next_at = Some(planned.unwrap_or(view.now) + interval);
        if ledger.is_some_and(|ledger| ledger.sent() > 0) {
            self.open.push((flow, self.left.len()));
            self.left.push(Fortune::Waiting);
            None
        } else {
            self.refused += 1;
            ledger.map(|_| close(flow))
        }
    }

    fn open(&mut self, purpose: Use) -> Step {
        self.opening = Some((self.flows, purpose));
        self.flows += 1;
        Step::Open
    }
}

/// What became of a flow's only probe.
fn fortune(ledger: &Ledger, ttl: u8, (now, timeout): (Time, Duration)) -> Fortune {
    let answer = ledger.answer(ttl);
    let Some(sent) = ledger.attempts().last() else {
        return Fortune::Waiting;
    };
    let lost = |why| Fortune::Lost {
        sent: sent.mark(),
        why,
    };
    match answer {
        // It is the only probe of its flow, so its answer has a time.
        Some(answer) if answer.destination => {
            answer.rtt.map_or(lost(Some(Cause::Unknown)), Fortune::Answered)
        }
        // Somebody on the way: the probe's TTL is too small, or it was refused.
        Some(answer) if answer.is_refusal() => lost(Some(Cause::Filtered)),
        Some(_) => lost(Some(Cause::Unknown)),
        None if sent.fate == Fate::Dropped => lost(Some(Cause::Local)),
        None if now >= sent.at + timeout => lost(None),
        None => Fortune::Waiting,
    }
}

fn close(flow: FlowIndex) -> Step {
    Step::Close { flow, settled: None }
}

impl Strategy for EndToEndStrategy {
    fn next(&mut self, view: &mut View<'_>) -> Step {
        let Plan::EndToEnd {
            count,
            interval,
            fixed,
        } = view.spec.plan
        else {
            return Step::Done;
        };
        if let Some((flow, purpose)) = self.opening {
            if count == 0 {
                return Step::Done;
            }
            if let Some(step) = self.opened(view, flow, purpose, interval) {
                return step;
            }
        }
        if let Some(step) = self.settle(view) {
            return step;
        }
        let limited = view.spec.method == Method::Udp && !fixed;
        let test_ends = self.test.map(|flow| (flow, self.test_ends(view, flow)));
        if let Some((flow, ends)) = test_ends
            && view.now >= ends
        {
            self.test = None;
            return close(flow);
        }
        // After a suspension all comes so much later: the end, too. What does not wait for a probe
        // misses none.
        let due = self.due.filter(|_| self.made < count);
        if let Some(late) = due.map(|due| view.now.since(due))
            && late >= interval
        {
            self.first_at = self.first_at.map(|first| first + late);
            self.due = Some(view.now);
        }
        // The series ends when it would have ended without a limit.
        let first = self.first_at.unwrap_or(view.started);
        let end = (first + interval.saturating_mul(count.saturating_sub(1))).min(view.end());
        let mut wake = self.patience(view);
        if self.made < count {
            let mut at = self.next_at.unwrap_or(view.now);
            if limited {
                match view
                    .responders
                    .allowance(view.spec.place(u8::MAX), view.now.max(at))
                {
                    Allowance::Now => {}
                    Allowance::At(then) => at = at.max(then),
                    Allowance::Assumed(then) => {
                        let test_at = at - interval / 2;
                        if !self.tested && view.now >= test_at && self.test.is_none() {
                            self.tested = true;
                            return self.open(Use::Test);
                        }
                        if !self.tested {
                            wake = Some(wake.map_or(test_at, |wake| wake.min(test_at)));
                        }
                        at = at.max(then);
                    }
                }
            }
            let is_in_time = at <= end || self.made == 0 || !limited;
            if is_in_time && at <= view.now {
                self.due = None;
                return self.open(Use::Probe);
            } else if is_in_time {
                self.due = Some(at);
                wake = Some(wake.map_or(at, |wake| wake.min(at)));
            } else {
                self.due = None;
            }
        }
        if let Some((_, ends)) = test_ends {
            wake = Some(wake.map_or(ends, |wake| wake.min(ends)));
        }
        match wake {
            Some(until) => Step::Wait { until, last: false },
            None => Step::Done,
        }
    }

    fn outcome(&mut self, view: &mut View<'_>) -> TraceOutcome {
        let Plan::EndToEnd { count, .. } = view.spec.plan else {
            return TraceOutcome::EndToEnd(EndToEndResult::default());
        };
        while self.settle(view).is_some() {}
        let place = view.spec.place(view.spec.max_ttl);
        let answered = self
            .left
            .iter()
            .any(|fortune| matches!(fortune, Fortune::Answered(_)));
        let refuses = |fortune: &Fortune| {
            matches!(
                fortune,
                Fortune::Lost {
                    why: Some(Cause::Filtered),
                    ..
                }
            )
        };
        let refused = self.left.iter().any(refuses);
        let mut result = EndToEndResult {
            refused: self.refused,
            unsent: count - self.made.min(count),
            limit: view.responders.limit(place, view.now).map(|limit| limit.interval),
            ..EndToEndResult::default()
        };
        for fortune in &self.left {
            let (sent, why) = match *fortune {
                Fortune::Answered(rtt) => {
                    result.probes.push(Some(rtt));
                    continue;
                }
                Fortune::Lost { sent, why } => (sent, why),
                Fortune::Waiting => (view.now, None),
            };
            result.probes.push(None);
            let cause = if view.lacks_neighbour {
                Cause::Local
            } else if let Some(why) = why {
                why
            } else if refused && !answered {
                // Whoever refuses does not do so each time, or too late.
                Cause::Filtered
            } else if answered || view.responders.is_known(place) {
                match view.responders.explains_probe(place, sent, view.now) {
                    Some(true) => Cause::RateLimited,
                    Some(false) => Cause::Network,
                    None => Cause::Unknown,
                }
            } else if view.responders.has_answered(place) {
                // Runs reach it: its answers may take longer than is waited for.
                Cause::Unknown
            } else {
                Cause::Filtered
            };
            result.lost.add(cause, 1);
        }
        TraceOutcome::EndToEnd(result)
    }
}
