//! Which connections there may be at once.
//!
//! A connection on which no request is being served is idle: one that has sent nothing, half a
//! header, or half a body, too. When there is no room, the client with the most idle connections
//! loses its longest idle one. Where none is idle, a small reserve takes the new one, which is
//! answered as to health, and otherwise refused. So accepting never waits.
//!
//! How many connections of one client may be other than idle depends on how many still can be, as
//! with traces ([`is_fair`]). So it takes many clients to leave the next one nothing but the
//! reserve.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Notify, Semaphore};

use crate::limits::is_fair;
use crate::metrics::Labels;

/// Connections beyond the bounds, for questions as to health.
const RESERVE: usize = 64;

/// Who counts as one client: an IPv4 address, or what one subscriber has of IPv6 (a /64).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    Address(IpAddr),
    /// Whoever shows this token, from wherever. Counts for requests, not for connections, which are
    /// there before.
    Token(u64),
    /// Through a Unix socket.
    #[cfg_attr(not(unix), allow(dead_code))]
    Local,
}

impl Client {
    /// One from which no request comes, so it has nothing.
    pub(crate) const NOBODY: Client = Client::Address(IpAddr::V4(Ipv4Addr::UNSPECIFIED));

    pub(crate) fn of(address: IpAddr) -> Self {
        Client::Address(match address.to_canonical() {
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// What is counted of connections.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConnectionCounters {
    pub(crate) open: Gauge,
    pub(crate) closed: Family<Labels<1>, Counter>,
    pub(crate) failed_handshakes: Family<Labels<1>, Counter>,
}

/// The connections of one kind of socket.
#[derive(Debug)]
pub(crate) struct Connections {
    most: usize,
    most_per_client: usize,
    counters: ConnectionCounters,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Numbers connections, and the moments from which on they are idle.
    next: u64,
    /// All but those of the reserve.
    connections: HashMap<u64, Entry>,
    clients: HashMap<Client, Share>,
    /// Connections that are not idle.
    busy: usize,
    /// The oldest first.
    reserve: VecDeque<Reserved>,
}

/// A connection in the reserve.
#[derive(Debug)]
struct Reserved {
    id: u64,
    client: Client,
    close: Arc<Notify>,
}

#[derive(Debug)]
struct Entry {
    client: Client,
    close: Arc<Notify>,
    /// Its key in [`Share::idle`].
    idle_since: Option<u64>,
}

/// A client's connections.
#[derive(Debug)]
struct Share {
    all: usize,
    busy: usize,
    /// See [`Connection::turns`].
    turns: Arc<Semaphore>,
    /// Since when, and which.
    idle: BTreeMap<u64, u64>,
}

impl Default for Share {
    fn default() -> Self {
        Share {
            all: 0,
            busy: 0,
            turns: one_turn(),
            idle: BTreeMap::new(),
        }
    }
}

fn one_turn() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(1))
}

impl Table {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Makes an idle connection busy, unless its client would have more than its share. False for
    /// one of the reserve, and for one that has to close.
    fn set_busy(&mut self, id: u64, most: usize) -> bool {
        let Some(entry) = self.connections.get_mut(&id) else {
            return false;
        };
        let Some(since) = entry.idle_since else {
            return true;
        };
        let share = self.clients.entry(entry.client).or_default();
        let free = most.saturating_sub(self.busy + 1);
        let may_have = share.busy == 0
            // Who may use the Unix socket is trusted.
            || entry.client == Client::Local
            || is_fair(share.busy as u64 + 1, free as u64);
        if may_have {
            entry.idle_since = None;
            share.idle.remove(&since);
            share.busy += 1;
            self.busy += 1;
        }
        may_have
    }

    fn set_idle(&mut self, id: u64) {
        let now = self.number();
        let Some(entry) = self.connections.get_mut(&id) else {
            return;
        };
        let share = self.clients.entry(entry.client).or_default();
        if entry.idle_since.is_none() {
            entry.idle_since = Some(now);
            share.idle.insert(now, id);
            share.busy -= 1;
            self.busy -= 1;
        }
    }

    fn add(&mut self, id: u64, client: Client, close: Arc<Notify>) -> &Share {
        let now = self.number();
        let entry = Entry {
            client,
            close,
            idle_since: Some(now),
        };
        self.connections.insert(id, entry);
        let share = self.clients.entry(client).or_default();
        share.all += 1;
        share.idle.insert(now, id);
        share
    }

    fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.connections.remove(&id)?;
        if let Some(share) = self.clients.get_mut(&entry.client) {
            share.all -= 1;
            if let Some(since) = entry.idle_since {
                share.idle.remove(&since);
            } else {
                share.busy -= 1;
                self.busy -= 1;
            }
            if share.all == 0 {
                self.clients.remove(&entry.client);
            }
        }
        Some(entry)
    }

    /// The longest idle connection of a client.
    fn idlest(&self, client: Client) -> Option<u64> {
        self.clients
            .get(&client)?
            .idle
            .first_key_value()
            .map(|(_, id)| *id)
    }

    /// The longest idle connection of the client that has the most.
    fn idlest_of_all(&self) -> Option<u64> {
        let most = self.clients.values().max_by_key(|share| share.idle.len())?;
        most.idle.first_key_value().map(|(_, id)| *id)
    }

    /// The oldest in the reserve of the client that has the most there: however many connections
    /// somebody opens at once, others are asked what they want.
    fn take_of_reserve(&mut self) -> Option<Reserved> {
        let mut counts: HashMap<Client, usize> = HashMap::new();
        for reserved in &self.reserve {
            *counts.entry(reserved.client).or_default() += 1;
        }
        let most = counts.values().copied().max()?;
        let of_most = |reserved: &Reserved| counts.get(&reserved.client) == Some(&most);
        let oldest = self.reserve.iter().position(of_most)?;
        self.reserve.remove(oldest)
    }
}

impl Connections {
    pub(crate) fn new(most: usize, most_per_client: usize, counters: ConnectionCounters) -> Arc<Self> {
        Arc::new(Connections {
            most,
            most_per_client,
            counters,
            table: Mutex::default(),
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a client that has no connection would get one, and be served on it.
    fn has_room(&self) -> bool {
        self.table().busy < self.most
    }

    /// A number that grows with every connection.
    pub(crate) fn age(&self) -> u64 {
        self.table().next
    }

    /// A place for one more, idle at first. Others may have to close.
    pub(crate) fn open(self: &Arc<Self>, client: Client) -> Arc<Connection> {
        let mut table = self.table();
        let of_client = table.clients.get(&client).map_or(0, |share| share.all);
        let full = if of_client >= self.most_per_client {
            Some(table.idlest(client))
        } else if table.connections.len() >= self.most {
            Some(table.idlest_of_all())
        } else {
            None
        };
        let in_reserve = full == Some(None);
        if let Some(entry) = full.flatten().and_then(|id| table.remove(id)) {
            self.close(&entry.close, "idle");
        }
        let id = table.number();
        let close = Arc::new(Notify::new());
        let turns = if in_reserve {
            if table.reserve.len() >= RESERVE
                && let Some(oldest) = table.take_of_reserve()
            {
                self.close(&oldest.close, "reserve");
            }
            let close = Arc::clone(&close);
            table.reserve.push_back(Reserved { id, client, close });
            let share = table.clients.get(&client);
            share.map_or_else(one_turn, |share| Arc::clone(&share.turns))
        } else {
            Arc::clone(&table.add(id, client, Arc::clone(&close)).turns)
        };
        drop(table);
        self.counters.open.inc();
        Arc::new(Connection {
            id,
            client,
            in_reserve,
            close,
            turns,
            all: Arc::clone(self),
        })
    }

    /// Closes an idle one, or one in the reserve. False if there is none.
    pub(crate) fn make_room(&self) -> bool {
        let mut table = self.table();
        let idle = table.idlest_of_all().and_then(|id| table.remove(id));
        let (close, reason) = match idle {
            Some(entry) => (entry.close, "idle"),
            None => match table.take_of_reserve() {
                Some(oldest) => (oldest.close, "reserve"),
                None => return false,
            },
        };
        self.close(&close, reason);
        true
    }

    fn close(&self, connection: &Notify, reason: &'static str) {
        self.counters.closed.get_or_create(&[("reason", reason)]).inc();
        connection.notify_one();
    }
}

/// A connection's place among the others.
#[derive(Debug)]
pub(crate) struct Connection {
    id: u64,
    pub(crate) client: Client,
    /// It is one too many: only questions as to health are answered.
    pub(crate) in_reserve: bool,
    close: Arc<Notify>,
    turns: Arc<Semaphore>,
    all: Arc<Connections>,
}

impl Connection {
    /// Ends when others need the place.
    pub(crate) async fn must_close(&self) {
        self.close.notified().await;
    }

    /// Turns of this client's connections at what takes CPU time: one at once, so that a client with
    /// many connections keeps nobody else waiting.
    pub(crate) fn turns(&self) -> &Semaphore {
        &self.turns
    }

    /// It is not idle until this is dropped. `None` where it stays idle: it is one too many, its
    /// client has its share, or others need the place.
    pub(crate) fn serve(self: Arc<Self>) -> Option<Serving> {
        let is_served = self.all.table().set_busy(self.id, self.all.most);
        is_served.then(|| Serving(self))
    }

    /// Whether a client that has no connection would get one like this, and be served on it.
    pub(crate) fn next_has_room(&self) -> bool {
        self.all.has_room()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut table = self.all.table();
        if self.in_reserve {
            table.reserve.retain(|reserved| reserved.id != self.id);
        } else {
            table.remove(self.id);
        }
        drop(table);
        self.all.counters.open.dec();
    }
}

/// A request is being served.
#[derive(Debug)]
pub(crate) struct Serving(Arc<Connection>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.all.table().set_idle(self.0.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn client(last: u8) -> Client {
        Client::of([192, 0, 2, last].into())
    }

    fn must_close(connection: &Connection) -> bool {
        connection.must_close().now_or_never().is_some()
    }

    #[test]
    fn the_longest_idle_one_of_the_client_with_most_makes_room() {
        let all = Connections::new(4, 3, ConnectionCounters::default());
        let honest = all.open(client(1));
        let silent: Vec<_> = (0..3).map(|_| all.open(client(2))).collect();
        let busy = Arc::clone(&silent[0]).serve().unwrap();
        let newcomer = all.open(client(3));
        assert!(must_close(&silent[1]));
        assert!(!newcomer.in_reserve && !must_close(&honest) && !must_close(&silent[0]));
        drop(busy);
        // Idle again, but since later.
        drop(all.open(client(3)));
        assert!(must_close(&silent[2]) && !must_close(&silent[0]));
    }

    #[test]
    fn nobody_has_more_than_one_clients_share() {
        let all = Connections::new(100, 2, ConnectionCounters::default());
        let first = all.open(client(1));
        let second = all.open(client(1));
        let _busy = Arc::clone(&first).serve().unwrap();
        assert!(!all.open(client(1)).in_reserve && must_close(&second));
        let _also_busy = all.open(client(1)).serve().unwrap();
        assert!(all.open(client(1)).in_reserve);
        assert!(!all.open(client(2)).in_reserve);
    }

    #[test]
    fn the_reserve_takes_what_nobody_makes_room_for() {
        let all = Connections::new(1, 1, ConnectionCounters::default());
        let busy = all.open(client(1)).serve().unwrap();
        assert!(!busy.0.next_has_room());
        let reserve: Vec<_> = (0..=RESERVE).map(|_| all.open(client(2))).collect();
        assert!(reserve.iter().all(|connection| connection.in_reserve));
        assert!(Arc::clone(&reserve[1]).serve().is_none());
        assert!(must_close(&reserve[0]) && !must_close(&reserve[1]));
        let another = all.open(client(3));
        let more: Vec<_> = (0..2 * RESERVE).map(|_| all.open(client(2))).collect();
        assert!(another.in_reserve && !must_close(&another) && must_close(&more[0]));
        drop((another, more));
        drop(reserve);
        drop(busy);
        assert!(!all.open(client(2)).in_reserve);
        let table = all.table();
        assert!(table.connections.is_empty() && table.clients.is_empty() && table.reserve.is_empty());
        assert_eq!(table.busy, 0);
        assert_eq!(all.counters.open.get(), 0);
    }

    /// Two clients with a long trace on each connection kept everybody else out.
    #[test]
    fn whoever_comes_next_is_served() {
        let all = Connections::new(64, 32, ConnectionCounters::default());
        let mut connections = Vec::new();
        let mut busy = Vec::new();
        for (last, share) in [(1, 32), (2, 24), (3, 6), (4, 1), (5, 1)] {
            for _ in 0..40 {
                let connection = all.open(client(last));
                busy.extend(Arc::clone(&connection).serve());
                connections.push(connection);
            }
            let of_client = |serving: &&Serving| serving.0.client == client(last);
            assert_eq!(busy.iter().filter(of_client).count(), share, "{last}");
        }
        // One is left busy of nobody, so there is an idle one that makes room.
        busy.pop();
        let newcomer = all.open(client(9));
        assert!(!newcomer.in_reserve && newcomer.next_has_room());
        busy.extend(newcomer.serve());
        assert_eq!(busy.len(), 64);
        drop((connections, busy));
        assert_eq!(all.table().busy, 0);
    }

    #[test]
    fn the_unix_socket_is_no_client_that_has_a_share() {
        let all = Connections::new(4, 4, ConnectionCounters::default());
        let busy: Vec<_> = (0..4).filter_map(|_| all.open(Client::Local).serve()).collect();
        assert_eq!(busy.len(), 4);
    }

    #[test]
    fn a_subscriber_is_one_client() {
        let of = |text: &str| Client::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
