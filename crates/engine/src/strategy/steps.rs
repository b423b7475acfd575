//! First attempts in series: the next TTL after the answer to the last, or after its time.

use super::View;
use super::run::{First, Pace};
use super::sweep::last_first;
use crate::ledger::Ledger;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Steps;

impl Pace for Steps {
    fn first(&self, view: &View<'_>, ledger: &Ledger) -> First {
        let spec = view.spec;
        let Some((ttl, sent)) = last_first(ledger) else {
            return First::At {
                at: view.started,
                ttl: spec.first_ttl,
                window: view.started,
            };
        };
        let has_ended = ledger.destination().is_some() || ledger.refusal().is_some();
        let is_settled = ledger.is_settled(ttl);
        if has_ended || ttl >= spec.max_ttl && is_settled {
            return First::Over {
                window: sent.max(view.now),
            };
        }
        if ttl >= spec.max_ttl {
            return First::Over {
                window: sent + spec.timeout,
            };
        }
        // Silence costs the timeout, but never less than the delay.
        let patience = if is_settled { sent } else { sent + spec.timeout };
        let at = patience.max(sent + spec.delay);
        First::At {
            at,
            ttl: ttl + 1,
            window: at,
        }
    }
}
