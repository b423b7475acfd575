//! Traceroute as a library: a request in, one JSON document out.
//!
//! A [`Request`] is built from typed values and checked once, a [`Tracer`] carries it out, and a
//! [`Report`] is what comes out. One [`Tracer`] serves any number of requests at once over the same
//! sockets.
//!
//! ```no_run
//! use datadog_traceroute::{Request, Tracer};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let report = Tracer::new().trace(&Request::to("example.com").build()?).await?;
//! for hop in &report.runs[0].hops {
//!     match hop.answer {
//!         Some(answer) => println!("{:3}  {}  {:?}", hop.ttl, answer.address, answer.rtt),
//!         None => println!("{:3}  *  {:?}", hop.ttl, hop.lost.main()),
//!     }
//! }
//! println!("end to end: {} lost", report.end_to_end.loss());
//! # Ok(())
//! # }
//! ```
//!
//! [`Tracer::events`] tells what happens as it happens. [`json`] writes the document that the
//! programs print, which is one view of a report:
//!
//! ```no_run
//! use datadog_traceroute::{Protocol, Request, Tracer, json};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let request = Request::to("example.com:443").protocol(Protocol::Tcp).build()?;
//! let report = Tracer::new().trace(&request).await?;
//! println!("{}", json::to_pretty(&report)?);
//! # Ok(())
//! # }
//! ```

#![cfg_attr(
    not(feature = "reverse-dns"),
    allow(dead_code, reason = "what only the names of hops need")
)]

/// Compiles the program in the README.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

#[cfg(feature = "serde")]
pub mod details;
#[cfg(feature = "serde")]
pub mod document;
pub mod driver;
mod egress;
mod error;
mod events;
#[cfg(all(any(test, fuzzing), feature = "serde"))]
pub mod fuzzing;
#[cfg(feature = "serde")]
pub mod json;
mod names;
mod notation;
#[cfg(feature = "serde")]
mod path_events;
#[cfg(feature = "serde")]
pub mod paths;
#[cfg(feature = "public-ip")]
mod proxy;
#[cfg(feature = "public-ip")]
mod public_ip;
mod report;
mod request;
#[cfg(feature = "reverse-dns")]
mod reverse_dns;
mod rotation;
mod target;
mod tracer;
mod turns;
mod warning;

/// What this system lets the process do: [`access`](system::access) says by which sockets it
/// probes, [`diagnose`](system::diagnose) looks at everything that decides it, and
/// [`keep_probing_privileges`](system::keep_probing_privileges) gives up what probing does not
/// need. [`host`](system::host) tells what the host does with what it sends, and
/// [`check_name_servers`](system::check_name_servers) whether names can be looked up.
/// [`is_interrupt_ignored`](system::is_interrupt_ignored) says whether whoever started the process
/// wants SIGINT left alone.
pub mod system {
    pub use traceroute_net::{
        Access, Condition, DefaultRoute, Finding, Hook, LocalHost, NatChain, NextHop, PROTOCOLS, Prefix,
        Privileges, Routes, Routing, RoutingAction, Rule, Subject, Translation, Verdict, access, diagnose,
        host, is_interrupt_ignored, keep_marking_privileges, keep_probing_privileges, program_path,
    };

    pub use crate::names::check::{ASKED_NAME, NameReply, NameServer, check_name_servers};
}

pub use driver::Statistics;
pub use error::{Error, ErrorCode};
pub use events::{Event, Events};
pub use names::most_name_sockets;
pub use notation::{notation, notation_in_words};
#[cfg(feature = "serde")]
pub use paths::{Paths, PathsEvent, PathsOptions};
#[cfg(feature = "public-ip")]
pub use public_ip::PublicIp;
pub use report::{
    EndToEnd, FailedRun, HopCount, Loss, Names, Report, RttStatistics, Run, is_hidden, is_private,
    names_limit,
};
pub use request::{
    DEFAULT_E2E_QUERIES, DEFAULT_MAX_TTL, DEFAULT_PORT, DEFAULT_TIMEOUT_MS, DEFAULT_TRACEROUTE_QUERIES,
    Field, Host, MAX_PACKET_SIZE, MAX_QUERIES, MAX_TIMEOUT_MS, Problem, Protocol, Request, RequestBuilder,
    RequestError, TcpMethod, UnknownProtocol,
};
#[cfg(feature = "reverse-dns")]
pub use reverse_dns::ReverseDns;
pub use target::{InvalidTarget, ResolveError, Target, resolve, resolve_by, resolve_target};
pub use tracer::{RunError, Tracer, TracerOptions, is_one_host};
pub use traceroute_engine::{
    Answer, Cause, DEFAULT_HOP_RETRIES, Distance, Egress, End, Hop, Losses, MAX_HOP_RETRIES, Method,
    NetError, Operation, PacketOptions, TraceError, TraceResult,
};
pub use traceroute_net::{EgressError, NetworkOptions, interface_index, only_zone, start_windows_driver};
pub use traceroute_wire::{Family, IcmpError, MplsStack};
pub use uuid::Uuid;
pub use warning::{Warning, WarningCode};
