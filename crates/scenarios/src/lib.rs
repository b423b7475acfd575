//! What a path does to probes, as data, and what the tool must make of it.
//!
//! - [`table`] lists the scenarios: a simulated network each, and for each protocol the hops, the
//!   destination, the losses and the error text that must come out.
//! - [`Simulation`] runs the engine against the simulated network in memory, on simulated time.
//! - [`memory`] carries a scenario out so; the tests do the same with the real library behind a TUN
//!   device.
//! - [`report`] writes down what came out, as the table in `docs/adversities.md`.
//! - [`ordinary`] lists where plain users find less, whose probes leave through ordinary sockets.
//! - [`causes`] measures how well the causes of lost probes are recognised, on random networks.
//! - [`multipath`] measures how often multipath discovery misses something.
//! - [`hostile`] makes forged and damaged packets around genuine replies.

pub mod causes;
mod client;
pub mod hostile;
mod journal;
pub mod memory;
pub mod multipath;
pub mod ordinary;
pub mod report;
mod scenario;
mod simulation;
pub mod table;

pub use journal::Journal;
pub use scenario::{Aspect, E2E_QUERIES, Expect, Family, Finding, Method, Outcome, Scenario};
pub use simulation::{Forger, Interference, Refuse, Simulation};
