//! The destination's distance: it counts only when what is nearer is known not to be the
//! destination.
//!
//! When the destination answered at TTL d and nobody did at d − 1, one answer may have been lost,
//! or a limit may have swallowed many. So the TTL after the highest router is asked, up to eight
//! times, and then d − 1: each answer moves d down or shows a router. Not by halving: what lies
//! beyond the destination costs one of its answers, what lies before it does not.
//!
//! An ICMP error quotes the probe as it arrived (RFC 1122 §3.2.2), with what was left of its TTL.
//! So a destination that answers UDP probes may say by itself that it is nearer. Then that TTL is
//! asked first, and where it answered is not taken for its distance.

use std::time::Duration;

use super::View;
use super::run::{EXTRA, Next, patience};
use crate::Method;
use crate::Time;
use crate::answer::Distance;
use crate::flow::MAX_ATTEMPTS;
use crate::ledger::Ledger;
use crate::responders::Ticket;

/// How often a TTL is asked.
const ASKS: u8 = 8;
/// The same where another trace of this process found a router.
const ASKS_OF_ROUTER: u8 = 2;
/// Asks are at least so far apart.
const LEAST_APART: Duration = Duration::from_millis(1);
/// In a serial run, which waits for nothing else.
const LEAST_APART_SERIAL: Duration = Duration::from_millis(50);
/// Linux has a new token for an ICMP error after this.
const LINUX_TOKEN: Duration = Duration::from_millis(1040);

#[derive(Debug, Clone, Copy)]
struct Asked {
    ttl: u8,
    /// How often.
    count: u8,
    /// When the next one is due that needs a token, after so many attempts.
    token: Option<(u8, Option<Time>)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Asking {
    asked: Vec<Asked>,
    /// When it began.
    began: Option<Time>,
    /// When the destination itself was asked once more, right after the TTL before it, and where it
    /// was then.
    control: Option<(u8, Time)>,
}

impl Asking {
    /// How often a TTL was asked.
    pub(super) fn asks(&self, ttl: u8) -> u8 {
        let of = self.asked.iter().find(|asked| asked.ttl == ttl);
        of.map_or(0, |asked| asked.count)
    }

    /// Takes note that a TTL is asked now.
    pub(super) fn ask(&mut self, ttl: u8) {
        let asked = self.of(ttl);
        asked.count = asked.count.saturating_add(1);
    }

    fn of(&mut self, ttl: u8) -> &mut Asked {
        let index = self
            .asked
            .iter()
            .position(|asked| asked.ttl == ttl)
            .unwrap_or_else(|| {
                self.asked.push(Asked {
                    ttl,
                    count: 0,
                    token: None,
                });
                self.asked.len() - 1
            });
        &mut self.asked[index]
    }

    /// How often a TTL is to be asked: seldom where other traces know a router.
    fn wanted(view: &View<'_>, ttl: u8) -> u8 {
        let is_router = view.responders.router_at(view.spec.place(ttl)).is_some();
        if is_router { ASKS_OF_ROUTER } else { ASKS }
    }

    /// What is due to find out whether the destination is nearer than `destination`. `window`: how
    /// long the run waits anyway; `alone`: answers do not say which TTL they are to, so that probes
    /// of only one may be on their way.
    pub(super) fn wish(
        &mut self,
        view: &mut View<'_>,
        ledger: &Ledger,
        destination: u8,
        (window, alone): (Time, bool),
        next: &mut Next,
    ) {
        let spec = view.spec;
        let before = destination - 1;
        if before < spec.first_ttl || ledger.is_passed(before) || !spec.may_repeat() {
            return;
        }
        let is_serial = spec.is_serial();
        let began = *self.began.get_or_insert(view.now);
        let window = if is_serial {
            window.max(began + spec.timeout.min(EXTRA))
        } else {
            window
        }
        .min(view.end());
        let passed = ledger
            .highest_passed(before)
            .map_or(spec.first_ttl, |ttl| ttl + 1);
        let is_router = |ttl: &u8| view.responders.router_at(spec.place(*ttl)).is_some();
        let lowest = nearer(ledger, destination)
            .filter(|said| *said >= spec.first_ttl)
            .or_else(|| (passed..before).find(|ttl| !is_router(ttl)))
            .unwrap_or(before);
        let (at_lowest, at_before) = (Self::wanted(view, lowest), Self::wanted(view, before));
        let (ttl, wanted) = if self.asks(lowest) < at_lowest {
            (lowest, at_lowest)
        } else {
            (before, at_before)
        };
        let Some(last) = ledger
            .last_sent(ttl)
            .filter(|_| ledger.attempts_at(ttl) < MAX_ATTEMPTS)
        else {
            return;
        };
        let patience = patience(ledger, spec.timeout);
        let asks = self.asks(ttl);
        let at = if asks < wanted {
            let later = if ttl == before { 0 } else { at_before };
            let left = wanted - asks + later;
            let spare = window.since(view.now.max(last)).saturating_sub(patience) / u32::from(left);
            let apart = if is_serial {
                spare.min((patience / 4).max(LEAST_APART_SERIAL))
            } else {
                spare
            };
            // Not before answers to other probes have come.
            let since = match ledger.attempts().last() {
                Some(latest) if alone && latest.id.ttl != ttl => latest.at + patience,
                _ => last,
            };
            Some(since + apart.max(LEAST_APART))
        } else if let Some(at) = self.control(view, ledger, destination, last) {
            next.ask(destination, at, false);
            next.wait(at + patience);
            if at <= view.now && next.due == Some(destination) {
                self.control = Some((destination, view.now));
            }
            return;
        } else {
            self.token(view, ledger, ttl, destination)
        };
        let Some(at) = at.filter(|at| *at <= view.end()) else {
            next.wait((last + patience).min(view.end()));
            return;
        };
        next.ask(ttl, at, alone);
        next.wait(at + patience);
    }

    /// When to probe the destination itself once more: right after the last ask before it, to see
    /// whether its limit left an answer then.
    fn control(&self, view: &mut View<'_>, ledger: &Ledger, destination: u8, asked: Time) -> Option<Time> {
        let is_done = self.control.is_some_and(|(ttl, _)| ttl == destination);
        let may_be = !is_done && ledger.attempts_at(destination) < MAX_ATTEMPTS;
        (may_be && Self::may_be_limit(view, destination)).then_some(asked + LEAST_APART)
    }

    /// Whether the destination answered that probe: it had an answer left, so that it is not what
    /// was silent one hop before.
    fn is_controlled(&self, ledger: &Ledger, destination: u8) -> bool {
        self.control
            .is_some_and(|(ttl, at)| ttl == destination && ledger.was_answered_since(ttl, at))
    }

    /// When to ask once more, if the target's limit may be what keeps it silent and there is time.
    fn token(&mut self, view: &mut View<'_>, ledger: &Ledger, ttl: u8, destination: u8) -> Option<Time> {
        let attempts = ledger.attempts_at(ttl);
        let is_clear = self.is_controlled(ledger, destination);
        if attempts >= MAX_ATTEMPTS || is_clear || !Self::may_be_limit(view, destination) {
            return None;
        }
        let place = view.spec.place(destination);
        let asked = self.of(ttl);
        if let Some((_, at)) = asked.token.filter(|(known, _)| *known == attempts) {
            return at;
        }
        let latest = (view.started + view.spec.linger).min(view.end()) - ledger.rtt();
        let at = match view.responders.ticket(place, view.now, latest) {
            Ticket::Token(at) => Some(at),
            // Not learned yet: as long apart as Linux's tokens are.
            Ticket::Turn(_) => ledger.last_sent(ttl).map(|last| last + LINUX_TOKEN),
            Ticket::None => None,
        }
        .filter(|at| *at <= latest);
        asked.token = Some((attempts, at));
        at
    }

    /// Whether the silence before `destination` may be the target's own, held back by its limit.
    fn may_be_limit(view: &mut View<'_>, destination: u8) -> bool {
        let place = view.spec.place(destination - 1);
        view.spec.method == Method::Udp && view.responders.may_hide_target(place, view.now)
    }

    /// What is known of the destination's distance when it answered at `ttl` and no router did one
    /// hop before.
    pub(super) fn verdict(&self, view: &mut View<'_>, ledger: &Ledger, ttl: u8) -> Distance {
        let before = ttl - 1;
        // A run that is cut short may not have waited for the last answers.
        let patience = patience(ledger, view.spec.timeout);
        let is_waited = ledger
            .last_sent(before)
            .is_some_and(|sent| view.now >= sent + patience);
        let was_asked =
            is_waited && was_sent(ledger, before) && self.asks(before) >= Self::wanted(view, before);
        let is_open = nearer(ledger, ttl).is_some()
            || !self.is_controlled(ledger, ttl) && Self::may_be_limit(view, ttl);
        if was_asked && !is_open {
            Distance::Known
        } else {
            Distance::Unknown
        }
    }
}

/// Where the destination that answered at `ttl` says that it is, if that is nearer, and beyond all
/// routers that answered.
fn nearer(ledger: &Ledger, ttl: u8) -> Option<u8> {
    let answer = ledger.answer(ttl)?;
    // Some hosts answer with what was left of the probe's TTL. This was just enough; to nearer
    // probes their answers do not arrive.
    if answer.reply_ttl == 1 {
        return None;
    }
    let passed = ledger.highest_passed(ttl).unwrap_or(0);
    let said = ttl.checked_sub(answer.quoted_ttl?)?.checked_add(1)?;
    (passed + 1..ttl).contains(&said).then_some(said)
}

/// What this machine did not send says nothing.
fn was_sent(ledger: &Ledger, ttl: u8) -> bool {
    ledger.attempts_at(ttl) > ledger.refused_at(ttl)
}
