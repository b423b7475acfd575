//! A simulated network for traceroute: routers and hosts that answer as real ones do, good and bad.
//!
//! [`Network`] is sans-IO: it is given packets of a client and the time, and says which packets
//! arrive at the client when. So tests run on simulated time, without privileges and without
//! sleeping; `tun` puts the same network behind a TUN device, for programs that know nothing of it.
//! It is deterministic for a seed.
//!
//! It is meant as an independent counterpart: it shares no code with the packet handling that it
//! tests.
//!
//! ```
//! use std::time::Duration;
//! use traceroute_simnet::{Network, Topology};
//!
//! let topology = Topology::parse(
//!     "example.toml",
//!     r#"
//!     [[hop]]
//!     name = "router"
//!     v4 = "10.0.0.1"
//!     delay = 1.5
//!     [[target]]
//!     v4 = "198.51.100.1"
//!     "#,
//! )?;
//! let mut network = Network::new(&topology, 1);
//! network.inject(Duration::ZERO, b"not an IP packet");
//! assert_eq!(network.ignored(), 1);
//! assert_eq!(network.next_at(), None);
//! # Ok::<(), traceroute_simnet::TopologyError>(())
//! ```

mod balance;
mod counters;
mod describe;
mod examples;
mod icmp;
mod limit;
mod link;
mod nat;
mod network;
mod node;
mod packet;
mod tcp;
mod topology;

#[cfg(target_os = "linux")]
pub mod namespace;
#[cfg(target_os = "linux")]
mod sys;
#[cfg(target_os = "linux")]
pub mod tun;

pub use counters::{Counters, Dropped};
pub use describe::{csv_fields, describe};
pub use examples::{Example, example, examples};
pub use network::{Delivery, Network};
pub use topology::{Topology, TopologyError};
