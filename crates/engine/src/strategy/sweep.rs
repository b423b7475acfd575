//! First attempts in parallel: one TTL after the other, without waiting for answers.

use super::View;
use super::run::{First, Pace};
use crate::ledger::Ledger;

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
        let is_over = ledger.destination().is_some() || ledger.refusal().is_some() || last.0 >= spec.max_ttl;
        if is_over {
            First::Over {
                window: last.1 + spec.timeout,
            }
        } else {
            let at = last.1 + spec.delay;
            First::At {
                at,
                ttl: last.0 + 1,
                window: at + spec.timeout,
            }
        }
    }
}

/// The highest TTL probed so far, and when it was probed first.
pub(super) fn last_first(ledger: &Ledger) -> Option<(u8, crate::Time)> {
    let ttl = ledger.highest()?;
    Some((ttl, ledger.first_sent(ttl)?))
}
