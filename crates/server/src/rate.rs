//! How many requests a minute one client may send.
//!
//! By hand: crates for this, such as `governor`, give all clients of a table the same rate and
//! remember any number of them.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::connections::Client;
use crate::tokens::Guest;

const MINUTE: Duration = Duration::from_mins(1);
/// Most clients that are remembered: some 2 MB. All others share the allowance of one.
const MOST: usize = 16_384;
/// How often those who have their whole allowance again are looked for where there is no room.
const CLEANING: Duration = Duration::from_secs(1);

/// What clients have left of their requests. Each may send those of a minute at once, and then one
/// whenever its share of the minute has passed.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    /// Requests a minute of a client without a limit of its own.
    most: Option<NonZeroU32>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// When each client will have its whole allowance again.
    clients: HashMap<Client, Instant>,
    others: Option<Instant>,
    cleaned: Option<Instant>,
}

impl Rates {
    pub(crate) fn new(most: Option<NonZeroU32>) -> Self {
        Rates {
            most,
            table: Mutex::default(),
        }
    }

    /// Counts a request.
    ///
    /// # Errors
    /// One too many. One will be let in after this time.
    pub(crate) fn take(&self, guest: &Guest, now: Instant) -> Result<(), Duration> {
        let limit = match guest.limits().requests_per_minute.or(self.most) {
            // Who may use the Unix socket is trusted.
            Some(limit) if guest.client != Client::Local => limit,
            _ => return Ok(()),
        };
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let full = table.of(guest.client, now);
        let after = (*full).max(now) + MINUTE / limit.get();
        let wait = after.duration_since(now).saturating_sub(MINUTE);
        if wait.is_zero() {
            *full = after;
            return Ok(());
        }
        Err(wait)
    }
}

impl Table {
    /// When the client will have its whole allowance again.
    fn of(&mut self, client: Client, now: Instant) -> &mut Instant {
        if self.clients.len() >= MOST && !self.clients.contains_key(&client) {
            let is_due = self
                .cleaned
                .is_none_or(|last| now.duration_since(last) >= CLEANING);
            if is_due {
                self.cleaned = Some(now);
                self.clients.retain(|_, full| *full > now);
            }
            if self.clients.len() >= MOST {
                return self.others.get_or_insert(now);
            }
        }
        self.clients.entry(client).or_insert(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;

    /// An address in one /64 of many.
    fn address(network: u64, host: u64) -> Guest {
        let bits = u128::from(network) << 64 | u128::from(host);
        Guest::from(Client::of(Ipv6Addr::from_bits(bits | 0x2001 << 112).into()))
    }

    #[test]
    fn a_client_has_its_requests_at_once_and_then_one_by_one() {
        let rates = Rates::new(NonZeroU32::new(3));
        let now = Instant::now();
        let take =
            |network, host, after| rates.take(&address(network, host), now + Duration::from_secs(after));
        for host in 0..3 {
            assert_eq!(take(1, host, 0), Ok(()));
        }
        assert_eq!(take(1, 9, 0), Err(Duration::from_secs(20)));
        assert_eq!(take(1, 9, 15), Err(Duration::from_secs(5)));
        assert_eq!(take(2, 1, 15), Ok(()), "another network");
        // What was refused does not count.
        assert_eq!(take(1, 9, 20), Ok(()));
        assert_eq!(take(1, 9, 20), Err(Duration::from_secs(20)));
        for _ in 0..3 {
            assert_eq!(take(1, 9, 1000), Ok(()));
        }
        assert!(take(1, 9, 1000).is_err(), "nothing is saved beyond a minute");
        for _ in 0..10 {
            assert_eq!(rates.take(&Guest::from(Client::Local), now), Ok(()));
            assert_eq!(Rates::new(None).take(&address(1, 1), now), Ok(()));
        }
    }

    #[test]
    fn strangers_without_number_share_one_allowance() {
        let rates = Rates::new(NonZeroU32::new(2));
        let now = Instant::now();
        let known = MOST as u64;
        for network in 0..known {
            assert_eq!(rates.take(&address(network, 1), now), Ok(()));
        }
        assert_eq!(rates.take(&address(known, 1), now), Ok(()));
        assert_eq!(rates.take(&address(known + 1, 1), now), Ok(()));
        assert!(rates.take(&address(known + 2, 1), now).is_err());
        assert_eq!(rates.take(&address(1, 1), now), Ok(()), "who was there before");
        let later = now + MINUTE;
        assert_eq!(rates.take(&address(known + 2, 1), later), Ok(()));
        assert_eq!(rates.table.lock().unwrap().clients.len(), 1);
    }
}
