//! Real networks for tests and benches, made of unnamed Linux network namespaces.
//!
//! A [`Lab`] has [`Node`]s: hosts and routers with the kernel's own network stack. [`Lab::chain`]
//! puts a client, routers and a target in a row.
//!
//! - Nothing is left behind: namespaces are held by file descriptors of this process only, so the
//!   kernel removes them when it ends, be it by SIGKILL. Programs started with [`Node::command`]
//!   are killed with it.
//! - The default namespace is never touched, and labs do not see each other.
//! - Root is not needed where plain users may make user namespaces. Only [`Node::enter`] needs it;
//!   `unshare -Ur` is root enough.
//! - The programs `ip` and, for packet filters, `nft` must be installed.
//!
//! ```
//! use std::io::Read;
//! use std::net::TcpStream;
//!
//! # fn main() -> Result<(), traceroute_testbed::Error> {
//! let Some(lab) = traceroute_testbed::require_lab() else { return Ok(()) };
//! let chain = lab.chain(3)?;
//! chain.routers[1].silence()?;
//! let server = chain.target.listen_tcp_greeting(0, b"220 hello\r\n")?;
//!
//! if !lab.is_unprivileged() {
//!     let address = (chain.target_v6(), server.port());
//!     let mut greeting = [0; 11];
//!     chain.client.enter(|| TcpStream::connect(address)?.read_exact(&mut greeting))?.unwrap();
//!     assert_eq!(&greeting, b"220 hello\r\n");
//! }
//! let status = chain.client.command("ip").args(["route", "get", "10.0.3.2"]).status();
//! assert!(status.unwrap().success());
//! # Ok(())
//! # }
//! ```
#![cfg(target_os = "linux")]
// Namespaces, passing of descriptors and TUN devices have no safe interface in the standard
// library.
#![allow(unsafe_code)]

mod chain;
mod error;
mod lab;
mod names;
mod node;
mod service;
mod sys;

pub use chain::Chain;
pub use error::Error;
pub use lab::{Lab, Link, not_run, require_lab};
pub use names::{NameAnswer, Record};
pub use node::{Node, Reject};
pub use service::Service;

/// Gives up every capability that the calling thread has, for good: its sockets are those of plain
/// users from then on.
///
/// # Errors
/// The kernel refuses.
pub fn forget_capabilities() -> std::io::Result<()> {
    sys::forget_capabilities()
}

/// What most functions here return.
pub type Result<T> = std::result::Result<T, Error>;
