//! How many ports of a target a client may have probed in a minute: more is a port scan.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::connections::Client;

const MINUTE: Duration = Duration::from_mins(1);
/// Most pairs of a client and a target that are remembered: some 8 MB. All other targets of a
/// client count as one.
const MOST: usize = 65_536;
/// Stands for those other targets.
const OTHERS: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// The ports that clients had probed in the last minute.
#[derive(Debug)]
pub(crate) struct Ports {
    most: u32,
    table: Mutex<Table>,
}

type Table = HashMap<(Client, IpAddr), Probed>;

#[derive(Debug)]
struct Probed {
    since: Instant,
    ports: HashSet<u16>,
}

impl Probed {
    fn age(&self, now: Instant) -> Duration {
        now.duration_since(self.since)
    }
}

impl Ports {
    pub(crate) fn new(most: u32) -> Self {
        Ports {
            most,
            table: Mutex::default(),
        }
    }

    /// Counts a port that will be probed.
    ///
    /// # Errors
    /// One too many. It may be probed after this time.
    pub(crate) fn probe(
        &self,
        client: Client,
        target: IpAddr,
        port: u16,
        now: Instant,
    ) -> Result<(), Duration> {
        if client == Client::Local {
            // Who may use the Unix socket is trusted.
            return Ok(());
        }
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pair = (client, target);
        if table.len() >= MOST && !table.contains_key(&pair) {
            table.retain(|_, probed| probed.age(now) < MINUTE);
            if table.len() >= MOST {
                pair.1 = OTHERS;
            }
        }
        let new = || Probed {
            since: now,
            ports: HashSet::new(),
        };
        let probed = table.entry(pair).or_insert_with(new);
        if probed.age(now) >= MINUTE {
            *probed = new();
        }
        if probed.ports.len() >= self.most as usize && !probed.ports.contains(&port) {
            return Err(MINUTE.saturating_sub(probed.age(now)));
        }
        probed.ports.insert(port);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(index: u32) -> IpAddr {
        IpAddr::from(index.to_be_bytes())
    }

    fn allows(ports: &Ports, client: u32, target: u32, port: u16, now: Instant) -> bool {
        let client = Client::of(address(client));
        ports.probe(client, address(target), port, now).is_ok()
    }

    #[test]
    fn a_client_scans_no_target_and_hinders_no_other() {
        let ports = Ports::new(3);
        let now = Instant::now();
        let later = now + Duration::from_secs(40);
        let scan: Vec<bool> = (1..=5).map(|port| allows(&ports, 1, 9, port, now)).collect();
        assert_eq!(scan, [true, true, true, false, false]);
        assert!(allows(&ports, 1, 9, 2, later), "a port that it knows");
        assert!(allows(&ports, 1, 8, 5, later), "another target");
        assert!(allows(&ports, 2, 9, 5, later), "another client");
        let wait = ports.probe(Client::of(address(1)), address(9), 5, later);
        assert_eq!(wait, Err(Duration::from_secs(20)));
        assert!(allows(&ports, 1, 9, 5, now + MINUTE), "a minute is over");
        let local = |port| ports.probe(Client::Local, address(9), port, now).is_ok();
        assert!((1..=9).all(local));
    }

    #[test]
    fn targets_without_number_take_no_memory_without_bound() {
        let ports = Ports::new(2);
        let now = Instant::now();
        for target in 0..MOST as u32 {
            assert!(allows(&ports, 1, target, 1, now));
        }
        let more: Vec<bool> = (1..=3)
            .map(|port| allows(&ports, 1, u32::MAX - u32::from(port), port, now))
            .collect();
        assert_eq!(more, [true, true, false], "they share what one target has");
        assert!(allows(&ports, 2, 1, 1, now), "another client has its own");
        assert!(ports.table.lock().unwrap().len() <= MOST + 2);
        assert!(allows(&ports, 1, u32::MAX, 3, now + MINUTE));
        assert_eq!(ports.table.lock().unwrap().len(), 1);
    }
}
