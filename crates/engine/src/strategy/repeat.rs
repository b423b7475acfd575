//! Second attempts: a silent TTL is probed again while the run waits anyway.
//!
//! First after two round trips or 200 ms, then at growing distances, last one round trip before the
//! run ends. Where the responder is known to limit its answers, each retry waits for a token of its
//! own, and may do so as long as something else of the same request goes on (`TraceSpec::linger`).
//! The same holds for a silent TTL between others that answer, when a limit is likely: it may be
//! out of tokens whenever it is asked, for other processes ask, too. Such retries are spread over
//! the run's own time, so that each new token is found soon, and come a second apart after it.

use std::time::Duration;

use super::View;
use super::distance::Asking;
use super::run::{Next, patience};
use crate::Time;
use crate::flow::MAX_ATTEMPTS;
use crate::ledger::Ledger;
use crate::responders::Ticket;
use crate::trace::MAX_HOP_RETRIES;

/// Each retry is waited for so many times as long as the one before.
const GROWTH: u32 = 3;
/// So many silent routers on one path are more likely out of tokens.
const MANY_SILENT: usize = 2;
/// After so many retries in vain there is no hurry.
const HASTY: u8 = 4;
/// Where a router may be out of tokens, two retries are so far apart: Linux gives one a second.
const SLOW_TURN: Duration = Duration::from_millis(1030);
/// In a run's own time so many retries are made there, by all traces together.
const TURNS: u32 = 10;
/// So many retries are made also in the shortest time.
const FEW: u8 = 2;
/// An answer takes this long at least.
const SHORTEST: Duration = Duration::from_millis(20);

/// When the retry after so many retries at a TTL is due.
#[derive(Debug, Clone, Copy)]
struct Decision {
    ttl: u8,
    retries: u8,
    what: What,
}

#[derive(Debug, Clone, Copy)]
enum What {
    /// A retry at this time.
    At(Time),
    /// The same, for which the run goes on beyond its own time.
    Token(Time),
    /// None for now; another look at this time.
    Look(Time),
    /// None.
    Nothing,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    decisions: Vec<Decision>,
    /// Until when the answer to the last probe that waited for a token is waited for.
    until: Option<Time>,
}

/// What a run is at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// The highest TTL whose answer matters.
    pub horizon: u8,
    /// How long the run itself waits.
    pub window: Time,
    /// All first attempts have been made: the window stays as it is.
    pub is_last: bool,
}

impl Repeats {
    /// What is due of the silent TTLs.
    pub(super) fn wishes(
        &mut self,
        view: &mut View<'_>,
        ledger: &Ledger,
        asking: &Asking,
        bounds: Bounds,
        next: &mut Next,
    ) {
        let spec = view.spec;
        if !spec.may_repeat() {
            return;
        }
        for ttl in spec.first_ttl..=bounds.horizon {
            if !ledger.is_settled(ttl) && ledger.attempts_at(ttl) < MAX_ATTEMPTS {
                let asks = asking.asks(ttl);
                let retries = ledger.attempts_at(ttl).saturating_sub(asks).saturating_sub(1);
                // Asked for the destination's distance, it is probed often enough.
                let is_left = asks == 0 && retries < spec.hop_retries;
                self.wish(view, ledger, (ttl, retries, is_left), bounds, next);
            }
        }
        if let Some(until) = self.until {
            next.wait(until.min(view.end()));
        }
    }

    fn wish(
        &mut self,
        view: &mut View<'_>,
        ledger: &Ledger,
        (ttl, retries, is_left): (u8, u8, bool),
        bounds: Bounds,
        next: &mut Next,
    ) {
        let Some(last) = ledger.last_sent(ttl) else { return };
        let spec = view.spec;
        let patience = patience(ledger, spec.timeout);
        let known = self
            .decisions
            .iter()
            .find(|known| (known.ttl, known.retries) == (ttl, retries));
        let mut what = known.map(|decision| decision.what);
        if let Some(What::Look(at)) = what {
            let is_over = bounds.is_last && at > bounds.window.max(view.started + spec.linger);
            if view.now < at && !is_over {
                next.wake(at);
                return;
            }
            what = None;
        }
        let what = if let Some(what) = what {
            what
        } else {
            let natural = is_left
                .then(|| natural(ledger, last, (retries, patience), bounds.window))
                .flatten();
            // What others learn of the responder meanwhile counts.
            let decide_at = natural.unwrap_or(last + patience);
            if natural.is_none() && decide_at > bounds.window.max(view.started + spec.linger) {
                return;
            }
            if view.now < decide_at {
                next.wake(decide_at);
                return;
            }
            let what = decide(view, ledger, (ttl, retries), natural.is_some(), bounds);
            self.decisions.retain(|known| known.ttl != ttl);
            self.decisions.push(Decision { ttl, retries, what });
            what
        };
        match what {
            What::At(at) => next.probe(ttl, at),
            What::Token(at) => {
                next.probe(ttl, at);
                self.until = Some(self.until.unwrap_or(at).max(at + patience));
            }
            What::Look(at) => next.wake(at),
            What::Nothing => {}
        }
    }
}

/// When a retry is due that no limit concerns, after so many: ever longer after the last attempt,
/// but early enough for its answer, and not before one to that attempt.
fn natural(ledger: &Ledger, last: Time, (retries, patience): (u8, Duration), window: Time) -> Option<Time> {
    let grown = patience * GROWTH.pow(u32::from(retries.min(6)));
    let rtt = ledger.rtt().max(SHORTEST);
    // Timers are late, and what comes too late is not sent.
    let at = (last + grown).min(window - rtt * 5 / 4);
    let apart = if retries < FEW {
        patience.min(rtt * 2)
    } else {
        patience
    };
    (at >= last + apart).then_some(at)
}

fn decide(
    view: &mut View<'_>,
    ledger: &Ledger,
    (ttl, retries): (u8, u8),
    is_wanted: bool,
    bounds: Bounds,
) -> What {
    let place = view.spec.place(ttl);
    let rtt = ledger.rtt().max(SHORTEST);
    let own = bounds.window - rtt;
    let lingering = bounds.window.max(view.started + view.spec.linger).min(view.end()) - rtt;
    if retries >= MAX_HOP_RETRIES {
        return What::Nothing;
    }
    // Others may use the same tokens: the more retries were in vain, the less of a hurry.
    let calm = if retries < HASTY {
        view.now
    } else {
        let left = u32::from(MAX_HOP_RETRIES - retries) + 1;
        let last = ledger.last_sent(ttl).unwrap_or(view.now);
        last + lingering.since(view.now) / left
    };
    if view.responders.limit(place, view.now).is_some() {
        return match view.responders.ticket(place, view.now, lingering) {
            Ticket::Token(at) | Ticket::Turn(at) if at.max(calm) <= lingering => What::Token(at.max(calm)),
            _ if bounds.is_last => What::Nothing,
            _ => What::Look(bounds.window),
        };
    }
    // As long as nothing is learned, another look at the run's end.
    let later = if view.now < bounds.window && (lingering > own || !bounds.is_last) {
        What::Look(bounds.window)
    } else {
        What::Nothing
    };
    // A serial run's answers may not say which TTL they are to: silent ones are left alone.
    let is_own = view.now < own && !view.spec.is_serial();
    let is_time = is_own || view.now >= own;
    if is_time && lingering > view.now && may_be_limited(view, ledger, ttl) {
        let (latest, apart, earliest) = if is_own {
            (own, (own.since(view.started) / TURNS).min(SLOW_TURN), view.now)
        } else {
            (lingering, SLOW_TURN, calm)
        };
        return match view.responders.slow_turn(place, (earliest, latest), apart) {
            Some(at) => What::Token(at),
            None if is_own => later,
            None => What::Nothing,
        };
    }
    if is_wanted && let Ticket::Turn(at) = view.responders.ticket(place, view.now, own) {
        return if at <= own { What::At(at) } else { later };
    }
    later
}

/// Whether a limit may be what keeps a TTL silent, between others that answer: other traces got an
/// answer there, or limits are known on this path, or more routers are silent than is likely.
fn may_be_limited(view: &View<'_>, ledger: &Ledger, ttl: u8) -> bool {
    let Some(highest) = ledger.highest_answered().filter(|highest| *highest > ttl) else {
        return false;
    };
    let place = view.spec.place(ttl);
    let silent = (view.spec.first_ttl..highest)
        .filter(|ttl| !ledger.is_answered(*ttl))
        .count();
    view.responders.is_known(place) || view.responders.is_path_limited(place) || silent >= MANY_SILENT
}
