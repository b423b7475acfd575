//! Bytes to probes and replies, and back.
//!
//! This crate knows packet formats and nothing else: no sockets, no clocks, no state. Every parser
//! is total: any input gives either a [`Reply`] or the reason ([`Ignored`]) why it is none, and no
//! input makes it panic.
//!
//! - [`Probe`] says what one probe looks like; [`Probe::encode`] writes the complete packet, IP
//!   header included.
//! - [`decode()`] reads a captured packet, starting at its IP header, into a [`Reply`].
//! - [`bpf_device`] finds the packets in what a BPF device delivers.
//! - [`ddnpm`] does so for the Windows driver.
//! - [`filter`] holds the classic BPF program that lets only packets through that [`decode()`]
//!   could understand.
#![forbid(unsafe_code)]
// All headers are borrowed, be they 8 bytes long or 40.
#![allow(clippy::trivially_copy_pass_by_ref)]

pub mod bpf_device;
mod checksum;
pub mod ddnpm;
mod decode;
mod echo;
mod family;
pub mod filter;
mod icmp;
mod ip;
mod layout;
mod mpls;
mod probe;
mod reply;
mod tcp;
mod udp;
mod writer;

pub use decode::{LEAST_SNAP_LEN, decode, is_checksum_missing};
pub use family::Family;
pub use probe::{
    ECHO_PAYLOAD, MAX_PROBE_LEN, Probe, ProbeKind, TcpTimestamps, UDP_IPV4_PAYLOAD, UDP_IPV6_BASE,
};
pub use reply::{
    Checksums, IcmpError, Ignored, MplsLabel, MplsStack, Quoted, QuotedTransport, Reply, ReplyKind, SackInfo,
    TcpFlags, TcpReply, UdpReply, echo_sequence,
};
