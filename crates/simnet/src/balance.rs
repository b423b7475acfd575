//! Load balancing: which branch a packet takes.

use std::net::IpAddr;

use fastrand::Rng;

use crate::packet::{Packet, TCP, UDP};
use crate::topology::Balance;

/// A load balancer at work.
#[derive(Debug)]
pub(crate) struct Balancer {
    policy: Balance,
    /// Differs between routers, so that two balancers in a row do not agree.
    salt: u64,
    turn: usize,
}

impl Balancer {
    pub(crate) fn new(policy: Balance, salt: u64) -> Self {
        Self {
            policy,
            salt,
            turn: 0,
        }
    }

    /// One of `branches` ways; `branches` is not 0.
    pub(crate) fn choose(&mut self, packet: &Packet, branches: usize, rng: &mut Rng) -> usize {
        let key = match self.policy {
            Balance::Packet => return rng.usize(..branches),
            Balance::RoundRobin => {
                self.turn = (self.turn + 1) % branches;
                return self.turn;
            }
            Balance::Addresses => Vec::new(),
            Balance::Ports => ports(packet),
            Balance::FirstFourBytes => packet.transport().iter().take(4).copied().collect(),
            Balance::FlowLabel => match packet.flow_label() {
                Some(label) => label.to_be_bytes().to_vec(),
                None => ports(packet),
            },
        };
        (hash(self.salt, packet, &key) % branches as u64) as usize
    }
}

fn ports(packet: &Packet) -> Vec<u8> {
    match packet.protocol() {
        TCP | UDP => packet.transport().iter().take(4).copied().collect(),
        _ => Vec::new(),
    }
}

fn hash(salt: u64, packet: &Packet, key: &[u8]) -> u64 {
    let addresses = [packet.source(), packet.destination()]
        .into_iter()
        .flat_map(|address| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        });
    let bytes = addresses.chain([packet.protocol()]).chain(key.iter().copied());
    // FNV-1a, then a final mix so that the low bits depend on every byte.
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64 ^ salt, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ hash >> 33
}
