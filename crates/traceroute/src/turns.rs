//! Turns at something scarce, shared between clients.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Turns that clients wait for. Nobody waits behind another client: one may have three times as
/// many as would then be left, so whoever comes next finds one; and a turn that ends goes to the
/// waiting client that has the fewest.
pub(crate) struct Turns {
    all: usize,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    taken: usize,
    /// Those that have turns or wait.
    clients: HashMap<u64, OfClient>,
}

#[derive(Default)]
struct OfClient {
    taken: usize,
    waiting: VecDeque<oneshot::Sender<Turn>>,
}

/// A turn. It ends when this is dropped.
pub(crate) struct Turn {
    client: u64,
    all: usize,
    state: Arc<Mutex<State>>,
}

impl Turns {
    pub(crate) fn new(all: usize) -> Self {
        Turns {
            all,
            state: Arc::default(),
        }
    }

    /// Waits for a turn of this client. `None`, which is never: there are no turns any more.
    pub(crate) async fn turn(&self, client: u64) -> Option<Turn> {
        let told = {
            let mut state = lock(&self.state);
            let own = state.clients.entry(client).or_default();
            own.forget_gone();
            if own.waiting.is_empty() && state.may(client, self.all) {
                return Some(state.take(client, self.all, &self.state));
            }
            let (tell, told) = oneshot::channel();
            state.clients.entry(client).or_default().waiting.push_back(tell);
            told
        };
        told.await.ok()
    }
}

impl Turn {
    /// One more for the same client, if it need not wait for it.
    pub(crate) fn another(&self) -> Option<Turn> {
        let mut state = lock(&self.state);
        let own = state.clients.entry(self.client).or_default();
        own.forget_gone();
        let is_free = own.waiting.is_empty() && state.may(self.client, self.all);
        is_free.then(|| state.take(self.client, self.all, &self.state))
    }
}

impl State {
    /// Whether a client may have one more.
    fn may(&self, client: u64, all: usize) -> bool {
        let own = self.clients.get(&client).map_or(0, |own| own.taken);
        let free = all.saturating_sub(self.taken + 1);
        own < free.saturating_mul(3)
    }

    fn take(&mut self, client: u64, all: usize, state: &Arc<Mutex<State>>) -> Turn {
        self.taken += 1;
        self.clients.entry(client).or_default().taken += 1;
        let state = Arc::clone(state);
        Turn { client, all, state }
    }

    fn give_back(&mut self, client: u64) {
        self.taken -= 1;
        if let Some(own) = self.clients.get_mut(&client) {
            own.taken -= 1;
        }
        self.clients.retain(|_, own| {
            own.forget_gone();
            own.taken > 0 || !own.waiting.is_empty()
        });
    }

    /// Whose turn it is, and whom to tell.
    fn next(&mut self, all: usize) -> Option<(u64, oneshot::Sender<Turn>)> {
        let waiting = self.clients.iter().filter(|(_, own)| !own.waiting.is_empty());
        let client = waiting
            .min_by_key(|(_, own)| own.taken)
            .map(|(client, _)| *client)?;
        if !self.may(client, all) {
            return None;
        }
        let tell = self.clients.get_mut(&client)?.waiting.pop_front()?;
        Some((client, tell))
    }
}

impl OfClient {
    /// Those who do not wait any more.
    fn forget_gone(&mut self) {
        while self.waiting.front().is_some_and(oneshot::Sender::is_closed) {
            self.waiting.pop_front();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        lock(&self.state).give_back(self.client);
        loop {
            let mut state = lock(&self.state);
            let Some((client, tell)) = state.next(self.all) else {
                return;
            };
            let turn = state.take(client, self.all, &self.state);
            // Who has gone meanwhile gives it back at once, to the next.
            drop(state);
            let _ = tell.send(turn);
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;

    /// Takes turns until one has to be waited for; that one comes, too.
    fn take_all(turns: &Turns, client: u64) -> (Vec<Turn>, BoxFuture<'_, Option<Turn>>) {
        let mut taken = Vec::new();
        loop {
            let mut next = turns.turn(client).boxed();
            match (&mut next).now_or_never() {
                Some(turn) => taken.extend(turn),
                None => return (taken, next),
            }
        }
    }

    #[test]
    fn whoever_comes_next_finds_a_turn() {
        let turns = Turns::new(64);
        let mut all = Vec::new();
        for (client, expected) in [(1, 48), (2, 12), (3, 3)] {
            let (taken, _) = take_all(&turns, client);
            assert_eq!(taken.len(), expected, "client {client}");
            all.push(taken);
        }
        drop(all);
        assert_eq!(take_all(&turns, 4).0.len(), 48, "all are given back");
    }

    #[test]
    fn another_turn_is_taken_only_if_nobody_waits_for_it() {
        let turns = Turns::new(4);
        let first = turns.turn(1).now_or_never().flatten().unwrap();
        let second = first.another().unwrap();
        let third = second.another().unwrap();
        assert!(third.another().is_none(), "the last one is for somebody else");
        let mut waits = turns.turn(1).boxed();
        assert!((&mut waits).now_or_never().is_none());
        drop(third);
        assert!(first.another().is_none(), "it has gone to who waits");
        assert!(waits.now_or_never().is_some());
    }

    #[test]
    fn a_turn_goes_to_who_has_the_fewest_and_still_waits() {
        let turns = Turns::new(4);
        let (mut first, mut first_waits) = take_all(&turns, 1);
        assert_eq!(first.len(), 3);
        let (second, mut second_waits) = take_all(&turns, 2);
        assert!(second.is_empty(), "the last one is for nobody");
        let (_, gone) = take_all(&turns, 3);
        drop(gone);
        first.pop();
        assert!((&mut first_waits).now_or_never().is_none());
        let turn = (&mut second_waits).now_or_never();
        assert!(turn.is_some_and(|turn| turn.is_some()));
    }

    #[test]
    fn many_who_went_away_are_passed_over() {
        let turns = Turns::new(4);
        let (taken, _) = take_all(&turns, 1);
        for _ in 0..100_000 {
            assert!(turns.turn(1).now_or_never().is_none());
        }
        let mut next = turns.turn(1).boxed();
        assert!((&mut next).now_or_never().is_none());
        drop(taken);
        assert!(next.now_or_never().is_some());
    }
}
