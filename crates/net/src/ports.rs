//! Which local ports to reserve.
//!
//! The capture filter knows ports by their high byte, in blocks of 256, so reserved ports are taken
//! from as few blocks as will do: the filter changes seldom and stays narrow. Blocks and the ports
//! in them are random, within what the system lets ephemeral ports be.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::ops::RangeInclusive;

use traceroute_engine::Transport;

/// Ports per block.
const BLOCK: u16 = 256;
/// Beyond this many of a block's ports in use for one transport, finding a free one costs too many
/// tries.
const CROWDED: u16 = 192;

/// This many ports that were given back last are not given out again while there are others: the
/// target, and firewalls and NATs on the way, may still know the last connection from there and
/// take a new SYN for part of it. Fewer than a block that is not crowded has free.
const RESTING: usize = 48;

/// Where the kernel takes ephemeral ports from, and which it leaves alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalPorts {
    range: RangeInclusive<u16>,
    excluded: Vec<RangeInclusive<u16>>,
}

/// The ports that traceroutes probe by custom. From one of these, a trace of an address of this
/// host would take probes of others for answers, and its own.
const PROBED: RangeInclusive<u16> = 33_434..=33_534;

impl LocalPorts {
    /// The range without what is excluded, and without the ports that are probed by custom, if
    /// there are others.
    pub(crate) fn new(range: RangeInclusive<u16>, mut excluded: Vec<RangeInclusive<u16>>) -> Self {
        let has_others = range.start() < PROBED.start() || range.end() > PROBED.end();
        if has_others {
            excluded.push(PROBED);
        }
        LocalPorts { range, excluded }
    }

    fn contains(&self, port: u16) -> bool {
        self.range.contains(&port) && !self.excluded.iter().any(|range| range.contains(&port))
    }

    /// How many there are.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    pub(crate) fn count(&self) -> u32 {
        self.range
            .clone()
            .map(|port| u32::from(self.contains(port)))
            .sum()
    }

    fn blocks(&self) -> RangeInclusive<u8> {
        (self.range.start() / BLOCK) as u8..=(self.range.end() / BLOCK) as u8
    }
}

/// What [`PortPool::reserve`] needs from the system.
pub(crate) trait Ports {
    /// What holds a port.
    type Socket;

    /// Takes a port, or says why not.
    fn bind(&mut self, port: u16) -> io::Result<Self::Socket>;

    /// Makes the capture see replies to ports of these blocks, before the first of their ports is
    /// used.
    fn watch(&mut self, blocks: &[u8]) -> io::Result<()>;
}

/// The reserved ports of one address family.
#[derive(Debug)]
pub(crate) struct PortPool {
    local: LocalPorts,
    /// The blocks that the capture watches; only ever grows.
    blocks: Vec<u8>,
    used: HashSet<(Transport, u16)>,
    /// Given back last, the oldest first.
    resting: VecDeque<(Transport, u16)>,
    /// How many of `used` are in a block, by its number; UDP, TCP.
    used_in: Box<[[u16; 2]; 256]>,
    rng: fastrand::Rng,
}

impl PortPool {
    pub(crate) fn new(local: LocalPorts, rng: fastrand::Rng) -> Self {
        PortPool {
            local,
            blocks: Vec::new(),
            used: HashSet::new(),
            resting: VecDeque::with_capacity(RESTING + 1),
            used_in: Box::new([[0; 2]; 256]),
            rng,
        }
    }

    /// Reserves a port: in a block that is watched and not crowded, else in a new one, else
    /// wherever one is left.
    ///
    /// # Errors
    /// `AddrInUse`: no port is left. Otherwise what the system says.
    pub(crate) fn reserve<P: Ports>(
        &mut self,
        transport: Transport,
        system: &mut P,
    ) -> io::Result<(u16, P::Socket)> {
        for block in self.blocks.clone().into_iter().rev() {
            if *self.count(block, transport) < CROWDED
                && let Some(found) = self.reserve_in(block, transport, system)?
            {
                return Ok(found);
            }
        }
        while let Some(block) = self.open_block(system)? {
            if let Some(found) = self.reserve_in(block, transport, system)? {
                return Ok(found);
            }
        }
        self.resting.clear();
        for block in self.blocks.clone() {
            if let Some(found) = self.reserve_in(block, transport, system)? {
                return Ok(found);
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    /// Gives a port back; whether it was reserved.
    pub(crate) fn release(&mut self, transport: Transport, port: u16) -> bool {
        let was_used = self.used.remove(&(transport, port));
        if was_used {
            *self.count((port / BLOCK) as u8, transport) -= 1;
            self.resting.push_back((transport, port));
            if self.resting.len() > RESTING {
                self.resting.pop_front();
            }
        }
        was_used
    }

    fn count(&mut self, block: u8, transport: Transport) -> &mut u16 {
        let [udp, tcp] = &mut self.used_in[usize::from(block)];
        match transport {
            Transport::Udp => udp,
            Transport::Tcp => tcp,
        }
    }

    /// Tries all ports of a block in random order.
    fn reserve_in<P: Ports>(
        &mut self,
        block: u8,
        transport: Transport,
        system: &mut P,
    ) -> io::Result<Option<(u16, P::Socket)>> {
        // Counting up by an odd number modulo 256 visits each port once.
        let start = self.rng.u16(..BLOCK);
        let step = self.rng.u16(..BLOCK) | 1;
        for i in 0..BLOCK {
            let low = start.wrapping_add(step.wrapping_mul(i)) % BLOCK;
            let port = u16::from(block) * BLOCK + low;
            let candidate = (transport, port);
            if !self.local.contains(port)
                || self.used.contains(&candidate)
                || self.resting.contains(&candidate)
            {
                continue;
            }
            match system.bind(port) {
                Ok(socket) => {
                    self.used.insert((transport, port));
                    *self.count(block, transport) += 1;
                    return Ok(Some((port, socket)));
                }
                // Somebody else's, or (EACCES) a privileged one.
                Err(error) if is_taken(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Has a random further block watched. `None`: there is no further one.
    fn open_block(&mut self, system: &mut impl Ports) -> io::Result<Option<u8>> {
        let unopened: Vec<u8> = self
            .local
            .blocks()
            .filter(|block| !self.blocks.contains(block))
            .collect();
        let Some(block) = self.rng.choice(unopened) else {
            return Ok(None);
        };
        self.blocks.push(block);
        if let Err(error) = system.watch(&self.blocks) {
            self.blocks.pop();
            return Err(error);
        }
        Ok(Some(block))
    }
}

fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A system on which `taken` ports belong to somebody else.
    #[derive(Default)]
    struct Fake {
        taken: HashSet<u16>,
        watched: Vec<u8>,
        watches: usize,
        fail: Option<io::ErrorKind>,
        /// Each port bound, with whether it was watched by then.
        bound: Vec<u16>,
    }

    impl Ports for Fake {
        type Socket = u16;

        fn bind(&mut self, port: u16) -> io::Result<u16> {
            assert!(
                self.watched.contains(&((port / 256) as u8)),
                "port {port} is not watched"
            );
            if let Some(kind) = self.fail {
                return Err(kind.into());
            }
            if self.taken.contains(&port) {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            self.bound.push(port);
            Ok(port)
        }

        fn watch(&mut self, blocks: &[u8]) -> io::Result<()> {
            assert!(
                self.watched.iter().all(|block| blocks.contains(block)),
                "the filter got narrower"
            );
            self.watched = blocks.to_vec();
            self.watches += 1;
            Ok(())
        }
    }

    fn pool(range: RangeInclusive<u16>) -> PortPool {
        PortPool::new(LocalPorts::new(range, Vec::new()), fastrand::Rng::with_seed(7))
    }

    /// A server that still knows the last connection from a port takes a new SYN from there for
    /// part of it.
    #[test]
    fn a_port_just_given_back_is_not_given_out_again() {
        let mut pool = pool(32_768..=60_999);
        let mut system = Fake::default();
        let mut last = VecDeque::new();
        for _ in 0..1000 {
            let (port, _) = pool.reserve(Transport::Tcp, &mut system).expect("a port");
            assert!(!last.contains(&port), "{port} came back at once");
            pool.release(Transport::Tcp, port);
            last.push_back(port);
            if last.len() > RESTING {
                last.pop_front();
            }
        }
        assert_eq!(system.watches, 1, "one block is enough");
    }

    #[test]
    fn resting_ports_are_given_out_when_there_are_no_others() {
        let mut pool = pool(40_000..=40_001);
        let mut system = Fake::default();
        for _ in 0..10 {
            let (port, _) = pool.reserve(Transport::Tcp, &mut system).expect("a port");
            pool.release(Transport::Tcp, port);
        }
    }

    #[test]
    fn ports_share_a_block_until_it_is_crowded() {
        let mut pool = pool(32_768..=60_999);
        let mut system = Fake::default();
        for _ in 0..CROWDED {
            pool.reserve(Transport::Udp, &mut system).expect("a port");
        }
        assert_eq!(system.watches, 1);
        pool.reserve(Transport::Tcp, &mut system)
            .expect("the other transport's ports are free");
        assert_eq!(system.watches, 1);
        pool.reserve(Transport::Udp, &mut system).expect("a port");
        assert_eq!(system.watches, 2);
        let distinct: HashSet<_> = system.bound.iter().collect();
        assert_eq!(
            distinct.len(),
            usize::from(CROWDED) + 1,
            "only the transports share a port"
        );
    }

    #[test]
    fn every_port_of_the_range_can_be_reserved_and_then_none() {
        let mut pool = pool(40_000..=40_999);
        let mut system = Fake::default();
        for _ in 0..1_000 {
            let (port, _) = pool.reserve(Transport::Udp, &mut system).expect("a port");
            assert!((40_000..=40_999).contains(&port));
        }
        let error = pool
            .reserve(Transport::Udp, &mut system)
            .expect_err("nothing left");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(pool.used.len(), 1_000);
    }

    #[test]
    fn ports_that_are_probed_by_custom_are_no_source_ports_if_there_are_others() {
        let mut pool_of_some = pool(33_400..=33_600);
        let mut system = Fake::default();
        while let Ok((port, _)) = pool_of_some.reserve(Transport::Udp, &mut system) {
            assert!(!PROBED.contains(&port), "{port}");
        }
        assert_eq!(pool_of_some.used.len(), 201 - 101);
        pool(33_434..=33_440)
            .reserve(Transport::Udp, &mut Fake::default())
            .expect("a port");
    }

    #[test]
    fn a_released_port_can_be_reserved_again() {
        let mut pool = pool(40_000..=40_000);
        let mut system = Fake::default();
        let (port, _) = pool.reserve(Transport::Udp, &mut system).expect("a port");
        assert!(pool.release(Transport::Udp, port));
        assert!(!pool.release(Transport::Udp, port), "released twice");
        assert_eq!(
            pool.reserve(Transport::Udp, &mut system).expect("a port").0,
            40_000
        );
    }

    #[test]
    fn ports_of_others_are_passed_over() {
        let mut pool = pool(40_000..=40_999);
        let mut system = Fake {
            taken: (40_000..=40_999).filter(|port| *port != 40_777).collect(),
            ..Fake::default()
        };
        assert_eq!(
            pool.reserve(Transport::Tcp, &mut system)
                .expect("the last port")
                .0,
            40_777
        );
    }

    #[test]
    fn ports_set_aside_by_the_administrator_are_left_alone() {
        let local = LocalPorts::new(40_000..=40_003, vec![40_000..=40_000, 40_002..=40_003]);
        let mut pool = PortPool::new(local, fastrand::Rng::with_seed(7));
        let mut system = Fake::default();
        assert_eq!(
            pool.reserve(Transport::Tcp, &mut system).expect("a port").0,
            40_001
        );
        assert!(pool.reserve(Transport::Tcp, &mut system).is_err());
    }

    #[test]
    fn other_errors_end_the_search() {
        let mut pool = pool(40_000..=40_999);
        let mut system = Fake {
            fail: Some(io::ErrorKind::AddrNotAvailable),
            ..Fake::default()
        };
        let error = pool
            .reserve(Transport::Udp, &mut system)
            .expect_err("cannot bind");
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        assert_eq!(pool.used.len(), 0);
    }

    #[test]
    fn the_choice_is_random() {
        let first = |seed| {
            let local = LocalPorts::new(32_768..=60_999, Vec::new());
            let mut pool = PortPool::new(local, fastrand::Rng::with_seed(seed));
            pool.reserve(Transport::Udp, &mut Fake::default())
                .expect("a port")
                .0
        };
        let distinct: HashSet<u16> = (0..100).map(first).collect();
        assert!(distinct.len() > 90, "{distinct:?}");
        assert!(distinct.iter().all(|port| (32_768..=60_999).contains(port)));
    }
}
