//! First attempts in parallel: one TTL after the other, without waiting for answers. Without a
//! delay, at most [`AT_ONCE`] are on their way. The engine sends one probe of each trace in turn,
//! so runs that start together reach each TTL together: none takes all answers that a limit allows.

use super::View;
use super::run::{First, Pace, patience};
use crate::Time;
use crate::ledger::{Attempt, Fate, Ledger};

/// So many probes of a run are on their way at once: as many as traceroute(8) has.
const AT_ONCE: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Sweep;

impl Pace for Sweep {
    fn first(&self, view: &View<'_>, ledger: &Ledger) -> First {
        let spec = view.spec;
        let Some(last) = last_first(ledger) else {
            return First::At {
                at: view.started,
                ttl: spec.first_ttl,
                window: view.started + spec.timeout,
            };
        };
        // A forged answer must not end it before routers have answered.
        let has_ended = ledger.is_destination_proven() || ledger.refusal().is_some();
        let is_over = has_ended || last.0 >= spec.max_ttl;
        if is_over {
            First::Over {
                window: last.1 + spec.timeout,
            }
        } else {
            let at = if spec.delay.is_zero() {
                room(view, ledger)
            } else {
                last.1 + spec.delay
            };
            First::At {
                at,
                ttl: last.0 + 1,
                window: at + spec.timeout,
            }
        }
    }
}

/// When fewer than [`AT_ONCE`] probes are on their way, if no answer comes before: silence is not
/// waited for longer than until it is likely.
fn room(view: &View<'_>, ledger: &Ledger) -> Time {
    let patience = patience(ledger, view.spec.timeout);
    let given_up = |sent: &Attempt| sent.at + patience;
    let waiting = || {
        let attempts = ledger.attempts().iter();
        attempts.filter(|sent| sent.fate == Fate::Waiting && given_up(sent) > view.now)
    };
    if waiting().count() < AT_ONCE {
        view.now
    } else {
        waiting().map(given_up).min().unwrap_or(view.now)
    }
}

/// The highest TTL probed so far, and when it was probed first.
pub(super) fn last_first(ledger: &Ledger) -> Option<(u8, Time)> {
    let ttl = ledger.highest()?;
    Some((ttl, ledger.first_sent(ttl)?))
}
