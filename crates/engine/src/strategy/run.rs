//! A traceroute run: first attempts at the contract's pace, second ones while it waits, the
//! destination's distance, the end.
//!
//! - With a delay between probes, `sweep` sends without waiting for answers and `steps` (TCP SYN)
//!   waits for each. Without a delay all methods sweep, with at most 16 probes on their way.
//! - The engine sends one probe of each trace in turn. So the runs of one request reach each TTL
//!   together.
//! - Two refusals by the same node end the run there.

use std::time::Duration;

use super::distance::Asking;
use super::repeat::{Bounds, Repeats};
use super::sweep::last_first;
use super::{FIRST, Step, Strategy, View};
use crate::Method;
use crate::Time;
use crate::answer::{Answer, Distance, End, Hop, TraceOutcome, TraceResult};
use crate::cause::{Cause, Losses};
use crate::flow::MAX_ATTEMPTS;
use crate::ledger::{Attempt, Fate, Ledger};
use crate::service::Datagrams;
use crate::trace::FlowState;

/// When the next TTL is probed for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    /// Then, this TTL; the run waits until `window` at least.
    At { at: Time, ttl: u8, window: Time },
    /// None is left. The run waits for the last one until then.
    Over { window: Time },
}

/// How first attempts follow each other.
pub(super) trait Pace: Send {
    fn first(&self, view: &View<'_>, ledger: &Ledger) -> First;
}

/// See the module.
pub(crate) struct RunStrategy<P> {
    pace: P,
    repeats: Repeats,
    asking: Asking,
    /// A datagram service is looked for, one TTL after the other.
    seeking: Option<u8>,
    /// The TTL that was counted has been tried, and upwards from the last router, too.
    has_begun: bool,
    lingers: bool,
}

/// So much longer a run may take to find out where its destination is.
pub(super) const EXTRA: Duration = Duration::from_secs(5);

/// A silent place is probed again after this, or after two round trips.
pub(super) const PATIENCE: Duration = Duration::from_millis(200);

/// How long an answer is waited for before its probe counts as unanswered.
pub(crate) fn patience(ledger: &Ledger, timeout: Duration) -> Duration {
    (ledger.rtt() * 2).max(PATIENCE).min(timeout)
}

impl<P: Pace> RunStrategy<P> {
    pub(super) fn new(pace: P) -> Self {
        RunStrategy {
            pace,
            repeats: Repeats::default(),
            asking: Asking::default(),
            seeking: None,
            has_begun: false,
            lingers: false,
        }
    }

    /// Looks for a service whose datagrams do not say which probe they answer, one probe at a time,
    /// upwards from the last router: an answer is then to the one that is on its way. `None`: there
    /// is no more time.
    fn seek(
        &mut self,
        view: &View<'_>,
        ledger: &Ledger,
        datagrams: &Datagrams,
        window: Time,
    ) -> Option<Step> {
        let spec = view.spec;
        let lowest = ledger
            .highest_passed(u8::MAX)
            .map_or(spec.first_ttl, |ttl| ttl.saturating_add(1));
        // Its answers take no longer than the first one did, if that was to the lowest TTL.
        let longest = ledger
            .first_sent(lowest)
            .map_or(Duration::ZERO, |sent| datagrams.first.at.since(sent) * 5 / 4);
        let quiet = patience(ledger, spec.timeout).max(longest.min(spec.timeout));
        let last_sent = ledger.attempts().last().map_or(view.now, |attempt| attempt.at);
        let since = if self.seeking.is_some() {
            last_sent
        } else {
            last_sent.max(datagrams.heard_at)
        };
        let at = since + quiet;
        let latest = (window + spec.timeout.min(EXTRA)).min(view.end());
        // Where somebody forges them, it may never be quiet.
        if datagrams.are_forged(ledger.first_sent(lowest)) || self.seeking.is_none() && at > latest {
            return None;
        }
        if view.now < at {
            return Some(Step::Wait {
                until: at,
                last: false,
            });
        }
        // It does answer, so more time is well spent.
        if view.now > latest {
            return None;
        }
        let counted = count_datagrams(ledger, datagrams, spec.delay).0;
        let next = match self.seeking {
            None => counted.unwrap_or(lowest),
            Some(ttl) if ttl == lowest || self.has_begun => ttl.saturating_add(1),
            Some(_) => lowest,
        };
        self.has_begun |= self.seeking.is_some();
        if next > spec.max_ttl || ledger.attempts_at(next) >= MAX_ATTEMPTS {
            return None;
        }
        self.seeking = Some(next);
        Some(Step::Send {
            flow: FIRST,
            ttl: next,
            label: None,
            alone: true,
        })
    }
}

/// When the last TTL was probed, where so many before it have been silent in a row that no further
/// ones are to be probed. Their time is what silence is given before it is probed again: with the
/// timeout, all TTLs would have been probed. An answer that comes later lets the run go on.
fn gap_ended(view: &View<'_>, state: &FlowState) -> Option<Time> {
    let (ledger, spec) = (&state.ledger, view.spec);
    let has_ended = ledger.destination().is_some() || ledger.refusal().is_some();
    // A service that answers without saying which TTL leaves gaps of its own.
    if spec.gap_limit == 0 || has_ended || state.datagrams.is_some() {
        return None;
    }
    let (highest, last_sent) = last_first(ledger).filter(|(ttl, _)| *ttl < spec.max_ttl)?;
    let mut from_above = (spec.first_ttl..=highest).rev();
    let answered = from_above.find(|ttl| ledger.is_answered(*ttl));
    let silent = answered.map_or(Some(spec.first_ttl), |ttl| ttl.checked_add(1))?;
    let last_of_gap = silent.checked_add(spec.gap_limit - 1)?;
    let given_up = ledger.first_sent(last_of_gap)? + patience(ledger, spec.timeout);
    (last_of_gap <= highest && given_up <= view.now).then_some(last_sent)
}

/// The highest TTL whose answer matters.
fn horizon(ledger: &Ledger) -> u8 {
    let highest = ledger.highest().unwrap_or(0);
    let refused = ledger.refusal().map_or(highest, |(ttl, ..)| ttl);
    ledger.destination().unwrap_or(highest).min(refused)
}

fn send(ttl: u8, alone: bool) -> Step {
    Step::Send {
        flow: FIRST,
        ttl,
        label: None,
        alone,
    }
}

impl<P: Pace> Strategy for RunStrategy<P> {
    fn next(&mut self, view: &mut View<'_>) -> Step {
        let Some(state) = view.state(FIRST) else {
            return Step::Done;
        };
        let (ledger, spec) = (&state.ledger, view.spec);
        let first = match gap_ended(view, state) {
            Some(last_sent) => First::Over {
                window: last_sent + spec.timeout,
            },
            None => self.pace.first(view, ledger),
        };
        let (first_at, window) = match first {
            First::At { at, ttl, .. } if at <= view.now => return send(ttl, false),
            First::At { at, window, .. } => (Some(at), window.min(view.end())),
            First::Over { window } => (None, window.min(view.end())),
        };
        let is_over = first_at.is_none();
        let is_sought = state
            .datagrams
            .as_ref()
            .filter(|_| ledger.destination().is_none());
        if let Some(datagrams) = is_sought.filter(|_| is_over) {
            let step = if spec.may_repeat() {
                self.seek(view, ledger, datagrams, window)
            } else {
                // Each probe from there on is answered: it will not get better.
                (count_datagrams(ledger, datagrams, spec.delay).1 == 0).then_some(Step::Done)
            };
            return match step {
                Some(step) => step,
                None if view.now >= window => Step::Done,
                None => Step::Wait {
                    until: window,
                    last: true,
                },
            };
        }
        // What a service may be answering is not probed again before it is sought.
        let horizon = if state.datagrams.is_some() {
            ledger.highest_passed(u8::MAX).unwrap_or(0)
        } else {
            horizon(ledger)
        };
        let mut next = Next::new(view.now, window);
        let bounds = Bounds {
            horizon,
            window,
            is_last: is_over,
        };
        self.repeats.wishes(view, ledger, &self.asking, bounds, &mut next);
        confirm_refusal(view, ledger, window, &mut next);
        // Of a service's answers each must be to the only TTL that is asked.
        let alone = state.datagrams.is_some();
        if is_over && let Some(destination) = ledger.destination() {
            self.asking
                .wish(view, ledger, destination, (window, alone), &mut next);
        }
        if let Some(ttl) = next.due {
            if next.is_ask {
                self.asking.ask(ttl);
            }
            return send(ttl, next.alone);
        }
        self.lingers = is_over && view.now > window;
        let wake = first_at.into_iter().chain(next.wake).min();
        match wake {
            Some(until) => Step::Wait { until, last: false },
            None if (spec.first_ttl..=self::horizon(ledger)).all(|ttl| ledger.is_settled(ttl)) => Step::Done,
            None if view.now >= next.until => Step::Done,
            None => Step::Wait {
                until: next.until,
                last: true,
            },
        }
    }

    fn outcome(&mut self, view: &mut View<'_>) -> TraceOutcome {
        TraceOutcome::Run(self.result(view))
    }

    fn is_lingering(&self) -> bool {
        self.lingers
    }
}

/// One refusal may be a mistake: it is confirmed by a second probe, unless one further on is
/// refused meanwhile.
fn confirm_refusal(view: &View<'_>, ledger: &Ledger, window: Time, next: &mut Next) {
    let unconfirmed = ledger.unconfirmed_refusal().filter(|ttl| {
        view.spec.may_repeat()
            && ledger.destination().is_none()
            && ledger.attempts_at(*ttl) <= view.spec.hop_retries
    });
    if let Some(ttl) = unconfirmed
        && let Some(last) = ledger.last_sent(ttl)
    {
        let at = last + patience(ledger, view.spec.timeout);
        // A serial run waits for nothing else.
        let window = if view.spec.is_serial() {
            window.max(last + view.spec.timeout)
        } else {
            window
        };
        if at + ledger.rtt() <= window {
            next.probe(ttl, at);
            next.wait((at + ledger.rtt() * 2).min(window));
        }
    }
}

/// Collects what is due.
pub(super) struct Next {
    now: Time,
    /// The TTL to probe now: the lowest that is due.
    pub due: Option<u8>,
    /// It is asked for the destination's distance.
    is_ask: bool,
    /// Nothing else is on its way that could be answered without saying what it answers.
    alone: bool,
    /// When something is due next.
    pub wake: Option<Time>,
    /// Until when answers are waited for.
    pub until: Time,
}

impl Next {
    fn new(now: Time, until: Time) -> Self {
        Next {
            now,
            due: None,
            is_ask: false,
            alone: false,
            wake: None,
            until,
        }
    }

    pub(super) fn probe(&mut self, ttl: u8, at: Time) {
        if at <= self.now {
            self.due = Some(self.due.map_or(ttl, |due| due.min(ttl)));
        } else {
            self.wake(at);
        }
    }

    /// Asks for the destination's distance, if nothing else is due.
    pub(super) fn ask(&mut self, ttl: u8, at: Time, alone: bool) {
        if at <= self.now && self.due.is_none() {
            (self.due, self.is_ask, self.alone) = (Some(ttl), true, alone);
        } else {
            self.wake(at.max(self.now));
        }
    }

    pub(super) fn wake(&mut self, at: Time) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    pub(super) fn wait(&mut self, until: Time) {
        self.until = self.until.max(until);
    }
}

/// Which probe a service's first datagram answers, by counting: it answers every probe that reaches
/// it, in order. So with probes up to TTL s sent and n answers, the first is to TTL s − n + 1. And
/// how many probes that might have reached it did not.
fn count_datagrams(ledger: &Ledger, datagrams: &Datagrams, delay: Duration) -> (Option<u8>, usize) {
    let lowest = ledger.highest_passed(u8::MAX).map_or(0, |ttl| ttl + 1);
    let candidates = || {
        let attempts = ledger.attempts().iter();
        attempts.filter(move |sent| sent.id.ttl >= lowest && sent.fate == Fate::Waiting)
    };
    let reached = datagrams.answered(candidates().map(|sent| sent.at), delay);
    let not_reached = candidates().count() - reached;
    (candidates().nth(not_reached).map(|sent| sent.id.ttl), not_reached)
}

/// Whether the destination, at `ttl` by an answer that anybody may have sent, is not to be believed.
fn is_doubtful(state: &FlowState, ttl: u8) -> bool {
    let ledger = &state.ledger;
    let Some(datagrams) = state.datagrams.as_ref() else {
        return false;
    };
    let lowest = ledger.highest_passed(u8::MAX).map_or(ttl, |passed| passed + 1);
    let reached = |sent: &&Attempt| sent.id.ttl >= ttl && sent.id.attempt == 0 && sent.fate != Fate::Refused;
    let probes = ledger.attempts().iter().filter(reached).count();
    datagrams.are_forged(ledger.first_sent(lowest.min(ttl))) || datagrams.are_few(probes)
}

impl<P: Pace> RunStrategy<P> {
    fn result(&self, view: &mut View<'_>) -> TraceResult {
        let spec = view.spec;
        let Some(state) = view.state(FIRST) else {
            return TraceResult::empty(spec);
        };
        let ledger = &state.ledger;
        let counted = match &state.datagrams {
            Some(datagrams) if ledger.destination().is_none() && !spec.may_repeat() => {
                let (ttl, _) = count_datagrams(ledger, datagrams, spec.delay);
                ttl.map(|ttl| (ttl, datagrams.first))
            }
            _ => None,
        };
        let destination = ledger.destination().or(counted.map(|(ttl, _)| ttl));
        let is_unproven = |ttl: &u8| counted.is_some() || ledger.is_unproven(*ttl);
        let is_doubtful = destination
            .filter(is_unproven)
            .is_some_and(|ttl| is_doubtful(state, ttl));
        let distance = match destination {
            Some(_) if is_doubtful => Distance::Unknown,
            Some(ttl) if ttl > spec.first_ttl && !ledger.is_passed(ttl - 1) => {
                self.asking.verdict(view, ledger, ttl)
            }
            // What is nearer was not to be asked.
            Some(ttl) if ttl > 1 && ttl == spec.first_ttl => Distance::Unknown,
            None if state.datagrams.is_some() => Distance::Unknown,
            _ => Distance::Known,
        };
        // What may be wrong is not shown, unless that is what the caller wants: one probe for each
        // TTL, or none for what is nearer.
        let is_wanted = !spec.may_repeat() || destination == Some(spec.first_ttl);
        let is_shown = distance == Distance::Known || is_wanted && !is_doubtful;
        let (last, end) = match (destination.filter(|_| is_shown), ledger.refusal()) {
            (Some(ttl), _) => (ttl, End::Destination),
            (None, Some((ttl, from, code))) => (
                ttl,
                End::Refused {
                    from: Some(from),
                    code,
                },
            ),
            (None, None) => match (gap_ended(view, state), ledger.highest()) {
                (Some(_), Some(highest)) => (highest, End::GapLimit),
                _ => (spec.max_ttl, End::MaxTtl),
            },
        };
        let highest_answered = (spec.first_ttl..=last).rev().find(|ttl| ledger.is_answered(*ttl));
        let mut has_nat = false;
        let mut hops = Vec::with_capacity(usize::from(last - spec.first_ttl) + 1);
        for ttl in spec.first_ttl..=last {
            let mut answer = ledger.answer(ttl);
            if let Some((_, first)) = counted.filter(|(counted, _)| *counted == ttl) {
                let sent = ledger.first_sent(ttl).unwrap_or(first.at);
                answer = Some(Answer {
                    rtt: Some(crate::ledger::rtt(sent, first.at)),
                    attempt: Some(0),
                    ..first.answer
                });
            }
            let answer = answer.filter(|answer| is_shown || !answer.destination);
            let shows_nat = answer.is_some_and(|answer| answer.translated);
            hops.push(Hop {
                ttl,
                answer,
                attempts: ledger.attempts_at(ttl),
                lost: losses(view, ledger, ttl, highest_answered, (end, distance)),
                nat: shows_nat && !has_nat,
            });
            has_nat |= shows_nat;
        }
        let fields = &state.flow.fields;
        TraceResult {
            source: fields.source,
            source_port: fields.source_port,
            destination: fields.destination,
            destination_port: fields.destination_port,
            hops,
            probes_sent: ledger.sent(),
            distance,
            end,
            retries_limited: !spec.tells_attempts,
        }
    }
}

/// Why probes with this TTL have no answer.
fn losses(
    view: &mut View<'_>,
    ledger: &Ledger,
    ttl: u8,
    highest_answered: Option<u8>,
    (end, distance): (End, Distance),
) -> Losses {
    let place = view.spec.place(ttl);
    let mut losses = Losses::default();
    let is_answered = ledger.is_answered(ttl);
    let is_beyond = ledger.highest_passed(u8::MAX).is_none_or(|passed| passed < ttl);
    let is_open = distance == Distance::Unknown || end.is_open();
    let may_be_target =
        place.method == Method::Udp && is_beyond && is_open && !view.responders.is_before_router(place);
    // One probe that found no neighbour speaks for those that nobody reported on.
    let dropped_here = view.lacks_neighbour
        || highest_answered.is_none() && ledger.attempts().iter().any(|sent| sent.fate == Fate::Dropped);
    for attempt in ledger.attempts().iter().filter(|attempt| attempt.id.ttl == ttl) {
        let cause = match attempt.fate {
            Fate::Answered => continue,
            Fate::Waiting if ledger.may_be_answered(attempt, view.now) => continue,
            Fate::Refused | Fate::Dropped => Cause::Local,
            Fate::Waiting if dropped_here => Cause::Local,
            // Somebody is known to answer here: either its limit explains the silence, or the
            // network lost the probe.
            Fate::Waiting if is_answered || view.responders.is_known(place) => {
                match view.responders.explains_probe(place, attempt.mark(), view.now) {
                    Some(true) => Cause::RateLimited,
                    Some(false) => Cause::Network,
                    None => Cause::Unknown,
                }
            }
            // The target may be there already, and hold its answers back.
            Fate::Waiting if may_be_target && view.responders.is_target_limited(place.target) => {
                Cause::RateLimited
            }
            Fate::Waiting if may_be_target && distance == Distance::Unknown => Cause::Unknown,
            Fate::Waiting if highest_answered.is_some_and(|highest| highest > ttl) => {
                if view.responders.explains_silent_place(place) {
                    Cause::RateLimited
                } else {
                    Cause::Silent
                }
            }
            Fate::Waiting if end.is_open() => Cause::Filtered,
            Fate::Waiting => Cause::Unknown,
        };
        losses.add(cause, 1);
    }
    losses
}

impl TraceResult {
    fn empty(spec: &crate::trace::TraceSpec) -> Self {
        TraceResult {
            source: spec.target,
            source_port: 0,
            destination: spec.target,
            destination_port: spec.port,
            hops: Vec::new(),
            probes_sent: 0,
            distance: Distance::Known,
            end: End::MaxTtl,
            retries_limited: false,
        }
    }
}
