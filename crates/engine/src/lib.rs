//! The traceroute engine.
//!
//! [`Engine`] is sans-IO: it has no sockets, no clock and no threads. Told the time, the replies and what became of its
//! sends, it says what to send next, when to wake it, and what each trace found. [`driver`] is the one thread of a
//! process that pumps it over a [`Network`](traceroute_net::Network).
//!
//! Each probing method is one module below `method`: how its probes look, which TTL a quoted packet is about, and what
//! an answer from the target means. Everything else is shared.
#![forbid(unsafe_code)]

mod counters;
pub mod driver;
mod engine;
mod key;
mod method;
mod result;
mod run;
mod service;

pub use counters::Counters;
pub use engine::{Action, Engine, Event, TraceId};
pub use result::{Found, Hop, HopAnswer, TraceError, TraceResult};
pub use run::{Method, TraceSpec};
