//! The local ports that replies are expected at.

use std::fmt;
use std::sync::atomic::{AtomicU16, Ordering};

use traceroute_engine::Transport;

/// How many there are of one transport.
const PORTS: usize = 1 << 16;

/// By transport and port, how many times it is watched: once for each source address. Read for
/// every packet, by the threads that receive, so there is no lock.
pub(crate) struct WatchedPorts([Box<[AtomicU16]>; 2]);

impl WatchedPorts {
    pub(super) fn new() -> Self {
        let none = || (0..PORTS).map(|_| AtomicU16::new(0)).collect();
        WatchedPorts([none(), none()])
    }

    /// Watches a port.
    pub(crate) fn add(&self, transport: Transport, port: u16) {
        if let Some(count) = self.count(transport, port) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Undoes one [`WatchedPorts::add`].
    pub(crate) fn remove(&self, transport: Transport, port: u16) {
        if let Some(count) = self.count(transport, port) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(super) fn contains(&self, transport: Transport, port: u16) -> bool {
        self.count(transport, port)
            .is_some_and(|count| count.load(Ordering::Relaxed) > 0)
    }

    fn count(&self, transport: Transport, port: u16) -> Option<&AtomicU16> {
        let [udp, tcp] = &self.0;
        let of_transport = match transport {
            Transport::Udp => udp,
            Transport::Tcp => tcp,
        };
        of_transport.get(usize::from(port))
    }
}

impl fmt::Debug for WatchedPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WatchedPorts")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_two_addresses_is_watched_until_both_give_it_back() {
        let ports = WatchedPorts::new();
        ports.add(Transport::Tcp, 65_535);
        ports.add(Transport::Tcp, 65_535);
        ports.remove(Transport::Tcp, 65_535);
        assert!(ports.contains(Transport::Tcp, 65_535));
        assert!(!ports.contains(Transport::Udp, 65_535));
        ports.remove(Transport::Tcp, 65_535);
        assert!(!ports.contains(Transport::Tcp, 65_535));
    }
}
