//! What a user asks for, before and after validation.

use std::time::Duration;

/// What a user asks for, as given: not yet checked. [`Parameters::default`] has the contract's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// Host name or address, perhaps with a port: `host`, `1.2.3.4:443`, `[2001:db8::1]:443`.
    pub target: String,
    /// `udp`, `tcp` or `icmp`, in any letter case.
    pub protocol: String,
    /// `syn`, `sack`, `prefer_sack` or `syn_socket`, in any letter case.
    pub tcp_method: String,
    /// Port to probe, 0–65535; 0 means [`DEFAULT_PORT`].
    pub port: i64,
    /// How many traceroute runs, ≥ 0.
    pub traceroute_queries: i64,
    /// How many end-to-end probes, ≥ 0.
    pub e2e_queries: i64,
    /// Highest TTL to probe, 1–255 hops.
    pub max_ttl: i64,
    /// How long an answer may take, in milliseconds, ≥ 0; 0 means [`DEFAULT_TIMEOUT_MS`].
    pub timeout_ms: i64,
    /// Take an IPv6 address of a target given by name.
    pub ipv6: bool,
    /// Look up the names of hops.
    pub reverse_dns: bool,
    /// Find out this machine's public IPv4 address.
    pub source_public_ip: bool,
    /// Use the Windows driver; ignored elsewhere.
    pub windows_driver: bool,
    /// Leave hops with private addresses out of the result.
    pub skip_private_hops: bool,
}

/// Port probed unless told otherwise.
pub const DEFAULT_PORT: u16 = 33434;
/// How long an answer may take unless told otherwise, in milliseconds.
pub const DEFAULT_TIMEOUT_MS: u64 = 3000;
/// Number of traceroute runs unless told otherwise.
pub const DEFAULT_TRACEROUTE_QUERIES: u32 = 3;
/// Number of end-to-end probes unless told otherwise.
pub const DEFAULT_E2E_QUERIES: u32 = 50;
/// Highest TTL probed unless told otherwise, in hops.
pub const DEFAULT_MAX_TTL: u8 = 30;

impl Default for Parameters {
    fn default() -> Self {
        Parameters {
            target: String::new(),
            protocol: "udp".to_owned(),
            tcp_method: "syn".to_owned(),
            port: i64::from(DEFAULT_PORT),
            traceroute_queries: i64::from(DEFAULT_TRACEROUTE_QUERIES),
            e2e_queries: i64::from(DEFAULT_E2E_QUERIES),
            max_ttl: i64::from(DEFAULT_MAX_TTL),
            timeout_ms: 0,
            ipv6: false,
            reverse_dns: false,
            source_public_ip: false,
            windows_driver: false,
            skip_private_hops: false,
        }
    }
}

/// Protocol of the probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// UDP datagrams.
    Udp,
    /// TCP segments, by a [`TcpMethod`].
    Tcp,
    /// ICMP echo requests.
    Icmp,
}

/// How TCP probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TcpMethod {
    /// SYN segments.
    Syn,
    /// Bytes beyond a gap on a real connection, answered by selective acknowledgments.
    Sack,
    /// [`TcpMethod::Sack`], and [`TcpMethod::Syn`] where the target does not support that.
    PreferSack,
    /// The operating system's own connect (Windows only).
    SynSocket,
}

/// A checked request; made by [`Parameters::validate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The target as the user wrote it, reported as `destination.hostname`.
    pub hostname: String,
    /// What to resolve.
    pub host: Host,
    /// Port from inside the target; wins over `port` for the probes.
    pub target_port: Option<u16>,
    /// The port asked for, reported as `destination.port`; never 0.
    pub port: u16,
    /// Protocol of the probes.
    pub protocol: Protocol,
    /// How TCP probes.
    pub tcp_method: TcpMethod,
    /// Number of traceroute runs.
    pub traceroute_queries: u32,
    /// Number of end-to-end probes.
    pub e2e_queries: u32,
    /// Highest TTL to probe, in hops, at least 1.
    pub max_ttl: u8,
    /// How long an answer may take, never zero.
    pub timeout: Duration,
    /// Take an IPv6 address of a target given by name.
    pub ipv6: bool,
    /// Look up the names of hops.
    pub reverse_dns: bool,
    /// Find out this machine's public IPv4 address.
    pub source_public_ip: bool,
    /// Use the Windows driver; ignored elsewhere.
    pub windows_driver: bool,
    /// Leave hops with private addresses out of the result.
    pub skip_private_hops: bool,
}

/// The host part of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// An address; decides the family by itself.
    Address(std::net::IpAddr),
    /// A name to resolve.
    Name(String),
}

impl Request {
    /// The port that is probed.
    pub fn probed_port(&self) -> u16 {
        self.target_port.unwrap_or(self.port)
    }
}
