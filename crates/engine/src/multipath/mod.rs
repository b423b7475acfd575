//! Multipath discovery: which nodes and links the flows to a target use, each with a stated bound
//! on what may be missing.
//!
//! | type | owns | knows nothing of |
//! |---|---|---|
//! | [`StoppingPoints`] | after how many answered flows a node's next hops are complete | topology |
//! | [`Discovery`] | who answered on which flow and TTL; what to ask next | time, packets, limits |
//! | [`Graph`] | what was found, with its [`Bound`] | how |
//! | `strategy::multipath` | when a question leaves and is repeated; silence | stopping rules |
//!
//! A [`Discovery`] asks for (flow, TTL) pairs in batches ([`Discovery::plan`]), and is told who
//! answered each ([`Discovery::answered`]) or that nobody did ([`Discovery::silent`]). It numbers
//! flows from 0. A flow that is new to its driver is opened then: another source port, or for ICMP
//! another identifier and checksum, and over IPv6 another flow label as well. A batch is what is
//! certain to be needed by what is known so far. So probes of many TTLs and flows are on their way
//! at once, and few are wasted. All of that is driven in memory by `scenarios`' `multipath`, fifty
//! thousand times for each shape.
//!
//! How it goes on, hop by hop and at all hops at once, after MDA-Lite (Vermeulen et al., IMC 2018):
//!
//! 1. One flow is followed to the destination, [`LOOK_AHEAD`] TTLs at a time.
//! 2. As many flows as a node without balancing needs are asked at each of its hops.
//! 3. Each node needs as many flows through it, seen both there and one hop further, as its next
//!    hops call for. Flows whose node is known are asked first; more flows are sent to a node's hop
//!    only when those do not suffice.
//! 4. Where a hop is neither meshed nor asymmetric, its nodes share what may be missed: the mean of
//!    their doubts must be allowed. Otherwise the doubt of each node must be (*node control*, as in
//!    the MDA of Augustin et al.). Both keep the same bound for the graph. MDA-Lite itself takes
//!    two flows through each node of a uniform hop for enough, which keeps none.
//! 5. Where a node has several next hops, one of its flows is repeated. If it does not stay the
//!    same, balancing is per packet. Then flows tell nothing of the links beyond, so none are
//!    drawn. On a meshed hop it is repeated more often: per-packet balancing looks like a mesh.
//! 6. In the end the first flow is followed again, and at hops with several nodes some others. If
//!    one has moved, the path has changed, and there is no bound.
//!
//! A node that stays silent is unnamed, and all silent ones of a hop are one. Only answers count
//! towards a stopping point.
//!
//! The bound assumes that a balancer's next hops are equally likely, that balancers choose
//! independently of each other, and that nodes answer. A next hop of smaller weight is missed more
//! often ([`failure`] says how often).

mod discovery;
mod graph;
mod loss;
mod pair;
mod result;
mod stopping;

pub use discovery::{Ask, Control, Discovery, LOOK_AHEAD, Rules, Seen};
pub use graph::{Balancing, Bound, Graph, GraphHop, GraphNode, Link, Visit};
pub use loss::{Locator, LossBegins, MOST_PROBES, Sample};
pub use result::{HashedFields, NodeStatistics, PathFlow, PathsEnd, PathsResult, RttRange};
pub use stopping::{StoppingPoints, failure};

/// Flows of a discovery at most: each holds a port.
pub const MAX_FLOWS: u32 = 4096;
