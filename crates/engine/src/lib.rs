//! The traceroute engine.
//!
//! [`Engine`] is sans-IO: it has no sockets, no clock and no threads. Told the time, the replies
//! and what became of its sends, it says what to send next, when to wake it, and what each trace
//! found. [`Network`] is its seam to the operating system: whoever pumps the engine carries out its
//! [`Action`]s over one.
//!
//! Each probing method is one module below `method`: how its probes look, which TTL a quoted packet
//! is about, and what an answer from the target means. Everything else is shared.
#![forbid(unsafe_code)]

mod answer;
mod bucket;
mod cause;
mod counters;
mod egress;
mod engine;
mod error;
mod evidence;
mod flow;
mod generations;
mod key;
mod ledger;
mod method;
pub mod multipath;
mod network;
mod packet;
mod responders;
mod service;
mod strategy;
mod time;
mod trace;

pub use answer::{
    Answer, Distance, End, EndToEndResult, FoundHop, Hop, TraceError, TraceOutcome, TraceResult,
};
pub use cause::{Cause, Losses};
pub use counters::Counters;
pub use egress::{Egress, FlowRequest, OpenFlow, Route};
pub use engine::{Action, Engine, EngineEvent, TraceId};
pub use error::{NetError, Operation};
pub use method::Method;
pub use network::{
    Capabilities, ConnectionId, MatchedReply, Network, NetworkCounters, NetworkEvent, SendStamp, Token,
    Transport, Waker,
};
pub use packet::PacketOptions;
pub use time::Time;
pub use trace::{DEFAULT_HOP_RETRIES, MAX_HOP_RETRIES, PathsPlan, Plan, TraceSpec};
pub use traceroute_wire::Family;
