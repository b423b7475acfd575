//! How many ports of a target a client may have probed in a minute: more is a port scan.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::connections::Client;

const MINUTE: Duration = Duration::from_mins(1);
/// Most bytes that are remembered, of all clients. Beyond that the oldest is forgotten before its
/// minute is over. So nobody is refused because others probe much; and to probe more ports of a
/// target, a client would have to probe tens of thousands of other targets in between.
const MOST: usize = 8 << 20;
/// Bytes that a client and a target take without ports: what both containers have of them, with
/// the room that these keep for growing.
const PAIR: usize = 320;

/// The ports that clients had probed in the last minute.
#[derive(Debug)]
pub(crate) struct Ports {
    most: u32,
    table: Mutex<Table>,
}

type Pair = (Client, IpAddr);

#[derive(Debug, Default)]
struct Table {
    probed: HashMap<Pair, Probed>,
    /// The same pairs, the oldest first.
    order: VecDeque<Pair>,
    /// In bytes.
    size: usize,
}

#[derive(Debug)]
struct Probed {
    since: Instant,
    /// In order.
    ports: Vec<u16>,
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
        table.forget_old(now);
        let most = self.most as usize;
        let counted = table.add((client, target), port, most, now);
        table.forget_what_is_too_much();
        counted
    }
}

impl Table {
    fn add(&mut self, pair: Pair, port: u16, most: usize, now: Instant) -> Result<(), Duration> {
        let probed = self.probed.entry(pair).or_insert_with(|| {
            self.order.push_back(pair);
            self.size += PAIR;
            Probed {
                since: now,
                ports: Vec::new(),
            }
        });
        let Err(place) = probed.ports.binary_search(&port) else {
            return Ok(());
        };
        if probed.ports.len() >= most {
            return Err(MINUTE.saturating_sub(now.duration_since(probed.since)));
        }
        self.size -= probed.size();
        probed.ports.insert(place, port);
        self.size += probed.size();
        Ok(())
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some(oldest) = self.order.front()
            && let Some(probed) = self.probed.get(oldest)
            && now.duration_since(probed.since) >= MINUTE
        {
            self.forget_oldest();
        }
    }

    fn forget_what_is_too_much(&mut self) {
        while self.size > MOST {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let oldest = self.order.pop_front();
        let Some(probed) = oldest.and_then(|oldest| self.probed.remove(&oldest)) else {
            return;
        };
        self.size -= PAIR + probed.size();
        // Rarely: three of four places are free then.
        let left = self.order.len();
        if self.probed.capacity() / 4 > left {
            self.probed.shrink_to(2 * left);
            self.order.shrink_to(2 * left);
        }
    }
}

impl Probed {
    /// Bytes of the ports.
    fn size(&self) -> usize {
        self.ports.capacity() * size_of::<u16>()
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

    /// 400 MB stayed for ever.
    #[test]
    fn scans_without_number_take_no_memory_without_bound() {
        let ports = Ports::new(1000);
        let now = Instant::now();
        let size = || ports.table.lock().unwrap().size;
        let targets = || ports.table.lock().unwrap().probed.len();
        // As many as filled the table before; some with all their ports.
        let probed = |target| if target < 500 { 1000 } else { 1 };
        for target in 0..70_000 {
            for port in 0..probed(target) {
                assert!(allows(&ports, 1, target, port, now), "{target} {port}");
            }
            assert!(size() <= MOST);
        }
        assert!(targets() > 20_000);
        let later = now + Duration::from_secs(59);
        assert!(allows(&ports, 2, 1, 1, later), "another client finds room");
        assert!(allows(&ports, 1, 0, 1000, later), "what is oldest was forgotten");
        assert!(allows(&ports, 2, 1, 2, now + MINUTE));
        assert_eq!(targets(), 2, "a minute is over");
        assert!(allows(&ports, 2, 1, 3, later + MINUTE));
        let table = ports.table.lock().unwrap();
        assert_eq!((table.probed.len(), table.order.len()), (1, 1));
        assert!(table.probed.capacity() < 100 && table.order.capacity() < 100);
        assert!(table.size < 2 * PAIR, "{}", table.size);
    }

    /// What [`PAIR`] stands for: a map is at least 7/16 full, a queue half, once they are larger
    /// than a few pairs.
    #[test]
    fn a_pair_takes_no_more_than_is_counted() {
        let in_map = (size_of::<(Pair, Probed)>() + 1) * 16 / 7;
        let in_queue = 2 * size_of::<Pair>();
        assert!(in_map + in_queue <= PAIR, "{in_map} + {in_queue}");
    }
}
