//! A bounded map that forgets what was not used for longest.

use std::collections::HashMap;
use std::hash::Hash;

/// A map of at most twice `half` entries in two generations. When the young one is full it becomes
/// the old one, and the old one is forgotten; what is used moves back to the young one. So the most
/// recently used `half` entries are always there, at the cost of a hash map.
///
/// Room is made once: later insertions do not allocate.
pub(crate) struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    half: usize,
    forgotten: u64,
}

impl<K: Hash + Eq, V> Generations<K, V> {
    pub(crate) fn new(half: usize) -> Self {
        Generations {
            young: HashMap::with_capacity(half),
            old: HashMap::with_capacity(half),
            half,
            forgotten: 0,
        }
    }

    /// What is known of `key`, without counting as a use.
    pub(crate) fn peek(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// The entry of `key`, if it has one.
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V>
    where
        K: Copy,
    {
        if !self.young.contains_key(key) {
            let (key, value) = self.old.remove_entry(key)?;
            self.insert(key, value);
        }
        self.young.get_mut(key)
    }

    /// The entry of `key`, made if there is none.
    pub(crate) fn entry(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V
    where
        K: Copy,
    {
        if !self.young.contains_key(&key) {
            let value = self.old.remove(&key).unwrap_or_else(make);
            self.insert(key, value);
        }
        // It was there, or has just been put there.
        self.young
            .entry(key)
            .or_insert_with(|| unreachable!("inserted above"))
    }

    fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.half {
            std::mem::swap(&mut self.young, &mut self.old);
            self.forgotten += self.young.len() as u64;
            self.young.clear();
        }
        self.young.insert(key, value);
    }

    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// How many entries were forgotten because the map was full.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_are_forgotten() {
        let mut map = Generations::new(4);
        for key in 0..100 {
            *map.entry(key, || 0) += key;
            // Used all the time.
            assert_eq!(map.get_mut(&0), Some(&mut 0));
            assert!(map.len() <= 8);
        }
        assert!(map.peek(&99).is_some() && map.peek(&97).is_some());
        assert_eq!(map.peek(&1), None);
        assert_eq!(map.forgotten() as usize + map.len(), 100);
    }
}
