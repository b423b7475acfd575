//! Traceroute as a library: a request in, one JSON document out.
//!
//! A [`Request`] is built from typed values and checked once, a [`Tracer`] carries it out, a
//! [`Report`] is what comes out, and [`json`] writes it down. One [`Tracer`] serves any number of
//! requests at once over the same sockets.
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

/// Compiles the program in the README.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

pub mod details;
pub mod driver;
mod egress;
mod error;
pub mod json;
mod model;
mod names;
pub mod paths;
mod proxy;
mod public_ip;
mod request;
mod reverse_dns;
mod statistics;
mod target;
mod tracer;
mod warning;

/// What this system lets the process do: [`access`](system::access) says by which sockets it
/// probes, [`diagnose`](system::diagnose) looks at everything that decides it, and
/// [`keep_probing_privileges`](system::keep_probing_privileges) gives up what probing does not
/// need. [`host`](system::host) tells what the host does with what it sends, and
/// [`check_name_servers`](system::check_name_servers) whether names can be looked up.
pub mod system {
    pub use traceroute_net::{
        Access, Action, Condition, DefaultRoute, Finding, Hook, Host, NatChain, NextHop, PROTOCOLS, Prefix,
        Privileges, Routes, Routing, Rule, Subject, Translation, Verdict, access, diagnose, host,
        keep_marking_privileges, keep_probing_privileges, program_path,
    };

    pub use crate::names::check::{ASKED_NAME, NameReply, NameServer, check_name_servers};
}

pub use driver::Statistics;
pub use error::{Error, ErrorCode};
pub use model::{
    Destination, E2eProbe, Hop, HopCount, Report, RttStatistics, Run, RunDestination, RunSource, Source,
    Traceroute,
};
pub use paths::{Paths, PathsOptions};
pub use public_ip::PublicIp;
pub use request::{
    DEFAULT_E2E_QUERIES, DEFAULT_MAX_TTL, DEFAULT_PORT, DEFAULT_TIMEOUT_MS, DEFAULT_TRACEROUTE_QUERIES,
    Field, Host, MAX_PACKET_SIZE, MAX_QUERIES, MAX_TIMEOUT_MS, Problem, Protocol, Request, RequestBuilder,
    RequestError, TcpMethod, UnknownProtocol,
};
pub use reverse_dns::ReverseDns;
pub use statistics::is_private;
pub use target::{Family, InvalidTarget, ResolveError, Target, resolve, resolve_by};
pub use tracer::{Options, Progress, RunError, Tracer};
pub use traceroute_engine::{
    Answer, Cause, DEFAULT_HOP_RETRIES, Distance, Egress, End, Losses, MAX_HOP_RETRIES, PacketOptions,
};
pub use traceroute_net::{EgressError, interface_index, only_zone, start_windows_driver};
pub use traceroute_wire::{IcmpError, MplsStack};
pub use uuid::Uuid;
pub use warning::{Warning, WarningCode};
