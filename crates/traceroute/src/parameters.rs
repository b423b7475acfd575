//! What a user asks for, before and after validation.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use traceroute_engine::{DEFAULT_HOP_RETRIES, MAX_HOP_RETRIES, Method, PacketOptions};

use crate::target::Target;

/// What a user asks for, as given: not yet checked. [`Parameters::default`] has the contract's
/// defaults.
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
    /// How many traceroute runs, 0–[`MAX_QUERIES`].
    pub traceroute_queries: i64,
    /// How many end-to-end probes, 0–[`MAX_QUERIES`].
    pub e2e_queries: i64,
    /// Highest TTL to probe, 1–255 hops.
    pub max_ttl: i64,
    /// How long an answer may take, in milliseconds, 0–[`MAX_TIMEOUT_MS`]; 0 means
    /// [`DEFAULT_TIMEOUT_MS`].
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
    /// Report [`details`](crate::details) as well.
    pub details: bool,
    /// How often a silent TTL is probed again, 0–[`MAX_HOP_RETRIES`].
    pub hop_retries: i64,
    /// Time between end-to-end probes in milliseconds, 0–[`MAX_TIMEOUT_MS`]; 0 means spread over
    /// the time that runs may take, and over UDP no faster than the target answers.
    pub e2e_interval_ms: i64,
    /// Lowest TTL to probe in runs, 1–`max_ttl` hops.
    pub first_ttl: i64,
    /// Time between a run's probes in milliseconds, from 0 to the timeout; 0 means that up to
    /// sixteen are on their way at once. `None`: 50, for TCP SACK 10.
    pub delay_ms: Option<i64>,
    /// Bytes of each probe's IP packet, up to [`MAX_PACKET_SIZE`]; not for TCP. `None`: as short as
    /// can be.
    pub packet_size: Option<i64>,
    /// IPv4 type of service or IPv6 traffic class, 0–255. `None`: 0, or what `dscp` says.
    pub tos: Option<i64>,
    /// The upper six bits of the same, 0–63; not together with `tos`.
    pub dscp: Option<i64>,
    /// Set IPv4's DF bit; IPv6 packets are not fragmented by this host.
    pub dont_fragment: bool,
    /// The source address of probes: one of this host's. `None`: the routing tables decide.
    pub source: Option<String>,
    /// The interface by which probes leave, by name or index. `None`: the routing tables decide.
    pub interface: Option<String>,
    /// The mark of probes that routing rules and firewalls see (Linux); 0 means none.
    pub fwmark: Option<u32>,
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
/// Most runs, and most end-to-end probes, that one request may ask for: a request must not be able
/// to take all of a server's memory and ports.
pub const MAX_QUERIES: u32 = 65_535;
/// Most bytes of a probe's IP packet: what IPv4 can describe.
pub const MAX_PACKET_SIZE: u16 = u16::MAX;
/// Longest that an answer may take, in milliseconds: a day.
pub const MAX_TIMEOUT_MS: u64 = 24 * 60 * 60 * 1000;

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
            details: false,
            hop_retries: i64::from(DEFAULT_HOP_RETRIES),
            e2e_interval_ms: 0,
            first_ttl: 1,
            delay_ms: None,
            packet_size: None,
            tos: None,
            dscp: None,
            dont_fragment: false,
            source: None,
            interface: None,
            fwmark: None,
        }
    }
}

impl Parameters {
    /// Checks everything that can be checked without the network, and says what a trace is to do.
    ///
    /// # Errors
    /// The first parameter that is missing, unknown or out of range.
    pub fn validate(&self) -> Result<Request, InvalidParameter> {
        self.validate_on(traceroute_net::SYN_SOCKET_SUPPORTED)
    }

    fn validate_on(&self, syn_socket_supported: bool) -> Result<Request, InvalidParameter> {
        let target = self.checked_target()?;
        let protocol = self.checked_protocol()?;
        let tcp_method = self.checked_tcp_method(syn_socket_supported)?;
        let port: u16 = in_range("port", "", self.port, 0..=u16::MAX)?;
        let max_ttl = in_range("max-ttl", "", self.max_ttl, 1..=u8::MAX)?;
        let timeout_ms = in_range("timeout", " ms", self.timeout_ms, 0..=MAX_TIMEOUT_MS)?;
        let e2e_queries = in_range("e2e-queries", "", self.e2e_queries, 0..=MAX_QUERIES)?;
        let longest_ms = u64::from(max_ttl) * default_if_zero(timeout_ms);
        let e2e_interval = self.checked_e2e_interval(e2e_queries, longest_ms)?;
        let timeout_ms = default_if_zero(timeout_ms);
        let packet = PacketOptions {
            size: self.checked_packet_size(protocol, &target.host)?,
            tos: self.checked_tos()?,
            dont_fragment: self.dont_fragment,
        };
        let source = self.checked_source(&target.host)?;
        Ok(Request {
            hostname: self.target.clone(),
            host: target.host,
            zone: target.zone,
            target_port: target.port,
            port: if port == 0 { DEFAULT_PORT } else { port },
            protocol,
            tcp_method,
            traceroute_queries: in_range("traceroute-queries", "", self.traceroute_queries, 0..=MAX_QUERIES)?,
            e2e_queries,
            max_ttl,
            timeout: Duration::from_millis(timeout_ms),
            // A name has addresses of both families; the source's is the one to take.
            ipv6: self.ipv6 || source.is_some_and(|source| source.is_ipv6()),
            reverse_dns: self.reverse_dns,
            source_public_ip: self.source_public_ip,
            windows_driver: self.windows_driver,
            skip_private_hops: self.skip_private_hops,
            details: self.details,
            hop_retries: in_range("hop-retries", "", self.hop_retries, 0..=MAX_HOP_RETRIES)?,
            e2e_interval,
            first_ttl: in_range("first-ttl", "", self.first_ttl, 1..=max_ttl)?,
            delay: self.checked_delay(timeout_ms)?,
            packet,
            source,
            interface: self.checked_interface()?,
            fwmark: self.fwmark.and_then(NonZeroU32::new),
        })
    }

    /// Of the target's family, as far as that is known.
    fn checked_source(&self, host: &Host) -> Result<Option<IpAddr>, InvalidParameter> {
        let Some(text) = &self.source else {
            return Ok(None);
        };
        let source = text.parse::<IpAddr>().map_err(|_| {
            InvalidParameter::new("source", format!("must be an IPv4 or IPv6 address, got {text:?}"))
        })?;
        let source = source.to_canonical();
        let wants_ipv4 = match host {
            Host::Address(address) => Some(address.is_ipv4()),
            Host::Name(_) => self.ipv6.then_some(false),
        };
        if wants_ipv4.is_some_and(|wants_ipv4| wants_ipv4 != source.is_ipv4()) {
            let problem = format!("must be of the target's address family, got {text:?}");
            return Err(InvalidParameter::new("source", problem));
        }
        Ok(Some(source))
    }

    fn checked_interface(&self) -> Result<Option<String>, InvalidParameter> {
        match self.interface.as_deref() {
            Some("") => Err(InvalidParameter::new(
                "interface",
                "must be the name or the index of an interface, got \"\"".to_owned(),
            )),
            interface => Ok(interface.map(str::to_owned)),
        }
    }

    /// At most the timeout, so that all TTLs are probed within the longest time that runs may take.
    fn checked_delay(&self, timeout_ms: u64) -> Result<Option<Duration>, InvalidParameter> {
        let checked = |delay| in_range("delay", " ms", delay, 0..=timeout_ms);
        Ok(self.delay_ms.map(checked).transpose()?.map(Duration::from_millis))
    }

    /// A name's family is not known yet: what fits IPv6 fits both.
    fn checked_packet_size(&self, protocol: Protocol, host: &Host) -> Result<Option<u16>, InvalidParameter> {
        let Some(size) = self.packet_size else {
            return Ok(None);
        };
        let method = match protocol {
            Protocol::Udp => Method::Udp,
            Protocol::Tcp => Method::TcpSyn,
            Protocol::Icmp => Method::Icmp,
        };
        let is_ipv6 = !matches!(host, Host::Address(address) if address.is_ipv4());
        let Some(least) = PacketOptions::least_size(method, is_ipv6) else {
            let problem = format!("cannot be chosen for {protocol}: its probes carry no data, got {size}");
            return Err(InvalidParameter::new("packet-size", problem));
        };
        in_range("packet-size", " bytes", size, least..=MAX_PACKET_SIZE).map(Some)
    }

    fn checked_tos(&self) -> Result<u8, InvalidParameter> {
        const MAX_DSCP: u8 = 63;
        match (self.tos, self.dscp) {
            (Some(_), Some(_)) => Err(InvalidParameter::new(
                "dscp",
                "sets part of what tos sets: only one of the two may be given".to_owned(),
            )),
            (Some(tos), None) => in_range("tos", "", tos, 0..=u8::MAX),
            (None, Some(dscp)) => Ok(in_range("dscp", "", dscp, 0..=MAX_DSCP)? << 2),
            (None, None) => Ok(0),
        }
    }

    /// All end-to-end probes must have been sent when runs have had the longest time they may take:
    /// a request never ends much later.
    fn checked_e2e_interval(
        &self,
        queries: u32,
        longest_ms: u64,
    ) -> Result<Option<Duration>, InvalidParameter> {
        let interval: u64 = in_range("e2e-interval", " ms", self.e2e_interval_ms, 0..=MAX_TIMEOUT_MS)?;
        let gaps = u64::from(queries.saturating_sub(1));
        if interval.saturating_mul(gaps) > longest_ms {
            return Err(InvalidParameter::new(
                "e2e-interval",
                format!(
                    "must let all {queries} end-to-end probes be sent within max-ttl × timeout = {longest_ms} ms, got {interval} ms"
                ),
            ));
        }
        Ok((interval > 0).then(|| Duration::from_millis(interval)))
    }

    fn checked_target(&self) -> Result<Target, InvalidParameter> {
        if self.target.is_empty() {
            return Err(InvalidParameter::missing("target"));
        }
        self.target
            .parse()
            .map_err(|error| InvalidParameter::new("target", format!("{:?} {error}", self.target)))
    }

    fn checked_protocol(&self) -> Result<Protocol, InvalidParameter> {
        match self.protocol.to_ascii_lowercase().as_str() {
            "udp" => Ok(Protocol::Udp),
            "tcp" => Ok(Protocol::Tcp),
            "icmp" => Ok(Protocol::Icmp),
            _ => Err(InvalidParameter::new(
                "protocol",
                format!("must be udp, tcp or icmp, got {:?}", self.protocol),
            )),
        }
    }

    fn checked_tcp_method(&self, syn_socket_supported: bool) -> Result<TcpMethod, InvalidParameter> {
        match self.tcp_method.to_ascii_lowercase().as_str() {
            "syn" => Ok(TcpMethod::Syn),
            "sack" => Ok(TcpMethod::Sack),
            "prefer_sack" => Ok(TcpMethod::PreferSack),
            "syn_socket" if syn_socket_supported => Ok(TcpMethod::SynSocket),
            "syn_socket" => Err(InvalidParameter::new(
                "tcp-method",
                "syn_socket is supported on Windows only; use syn, sack or prefer_sack".to_owned(),
            )),
            _ => Err(InvalidParameter::new(
                "tcp-method",
                format!(
                    "must be syn, sack, prefer_sack or syn_socket, got {:?}",
                    self.tcp_method
                ),
            )),
        }
    }
}

fn default_if_zero(timeout_ms: u64) -> u64 {
    if timeout_ms == 0 {
        DEFAULT_TIMEOUT_MS
    } else {
        timeout_ms
    }
}

/// `value` as a number of the type that the request holds, when it lies in `range`.
fn in_range<T>(
    name: &'static str,
    unit: &str,
    value: i64,
    range: RangeInclusive<T>,
) -> Result<T, InvalidParameter>
where
    T: TryFrom<i64> + PartialOrd + fmt::Display,
{
    match T::try_from(value) {
        Ok(fitting) if range.contains(&fitting) => Ok(fitting),
        _ => Err(InvalidParameter::new(
            name,
            format!(
                "must be between {} and {}{unit}, got {value}",
                range.start(),
                range.end()
            ),
        )),
    }
}

/// A parameter that is missing, unknown or out of range.
///
/// Displayed, it starts with the parameter's name as in a query string: `max-ttl must be between 1
/// and 255, got 300`, except for `missing required parameter: target`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidParameter {
    /// The parameter's name, as in a query string: `max-ttl`.
    pub name: &'static str,
    /// What is wrong with its value; `None` when it has none but needs one.
    pub problem: Option<String>,
}

impl InvalidParameter {
    /// A required parameter without a value.
    pub fn missing(name: &'static str) -> Self {
        InvalidParameter { name, problem: None }
    }

    /// A parameter whose value is wrong; `problem` continues a sentence that starts with the name.
    pub fn new(name: &'static str, problem: String) -> Self {
        InvalidParameter {
            name,
            problem: Some(problem),
        }
    }
}

impl fmt::Display for InvalidParameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problem {
            None => write!(f, "missing required parameter: {}", self.name),
            Some(problem) => write!(f, "{} {problem}", self.name),
        }
    }
}

impl std::error::Error for InvalidParameter {}

/// Protocol of the probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// UDP datagrams.
    Udp,
    /// TCP segments, by a [`TcpMethod`].
    Tcp,
    /// ICMP echo requests.
    Icmp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Udp => "udp",
            Protocol::Tcp => "tcp",
            Protocol::Icmp => "icmp",
        })
    }
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
    /// The interface that a link-local target is on, by name or index, as given.
    pub zone: Option<String>,
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
    /// Report [`details`](crate::details) as well.
    pub details: bool,
    /// How often a silent TTL is probed again.
    pub hop_retries: u8,
    /// Fixed time between end-to-end probes; `None`: as the target and the longest time of runs
    /// allow.
    pub e2e_interval: Option<Duration>,
    /// Lowest TTL to probe in runs, in hops, at least 1 and at most `max_ttl`.
    pub first_ttl: u8,
    /// Time between a run's probes; `None`: the method's own.
    pub delay: Option<Duration>,
    /// What the packets look like.
    pub packet: PacketOptions,
    /// The source address of probes; `None`: the routing tables decide.
    pub source: Option<IpAddr>,
    /// The interface by which probes leave, by name or index; `None`: the routing tables decide.
    pub interface: Option<String>,
    /// The mark of probes that routing rules and firewalls see; `None`: none.
    pub fwmark: Option<NonZeroU32>,
}

/// The host part of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// An address; decides the family by itself.
    Address(IpAddr),
    /// A name to resolve.
    Name(String),
}

impl Request {
    /// The port that is probed.
    pub fn probed_port(&self) -> u16 {
        self.target_port.unwrap_or(self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters() -> Parameters {
        Parameters {
            target: "example.com".to_owned(),
            ..Parameters::default()
        }
    }

    fn message(parameters: &Parameters) -> String {
        parameters.validate_on(false).unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_the_contracts() {
        let request = parameters().validate().unwrap();
        assert_eq!(
            request,
            Request {
                hostname: "example.com".to_owned(),
                host: Host::Name("example.com".to_owned()),
                zone: None,
                target_port: None,
                port: 33434,
                protocol: Protocol::Udp,
                tcp_method: TcpMethod::Syn,
                traceroute_queries: 3,
                e2e_queries: 50,
                max_ttl: 30,
                timeout: Duration::from_secs(3),
                ipv6: false,
                reverse_dns: false,
                source_public_ip: false,
                windows_driver: false,
                skip_private_hops: false,
                details: false,
                hop_retries: 2,
                e2e_interval: None,
                first_ttl: 1,
                delay: None,
                packet: PacketOptions::default(),
                source: None,
                interface: None,
                fwmark: None,
            }
        );
    }

    #[test]
    fn the_lowest_packet_size_is_the_methods() {
        for (protocol, target, least) in [
            ("icmp", "192.0.2.1", 36),
            ("icmp", "2001:db8::1", 56),
            ("icmp", "example.com", 56),
            ("udp", "192.0.2.1", 38),
            ("udp", "[2001:db8::1]:53", 54),
            ("udp", "example.com:53", 54),
        ] {
            let of = |size| Parameters {
                target: target.to_owned(),
                protocol: protocol.to_owned(),
                packet_size: Some(size),
                ..Parameters::default()
            };
            let size = of(i64::from(least)).validate().unwrap().packet.size;
            assert_eq!(size, Some(least), "{protocol} {target}");
            assert!(
                of(i64::from(least) - 1).validate().is_err(),
                "{protocol} {target}"
            );
        }
    }

    #[test]
    fn a_choice_of_egress_that_cannot_be_one() {
        let mut chosen = parameters();
        chosen.source = Some("eth0".to_owned());
        assert_eq!(
            message(&chosen),
            "source must be an IPv4 or IPv6 address, got \"eth0\""
        );
        let other_family = "source must be of the target's address family, got ";
        for (target, ipv6, source) in [
            ("192.0.2.1", false, "::1"),
            ("2001:db8::1", false, "127.0.0.1"),
            ("example.com", true, "127.0.0.1"),
        ] {
            chosen.target = target.to_owned();
            chosen.ipv6 = ipv6;
            chosen.source = Some(source.to_owned());
            assert_eq!(message(&chosen), format!("{other_family}{source:?}"));
        }
        let mut chosen = parameters();
        chosen.interface = Some(String::new());
        assert_eq!(
            message(&chosen),
            "interface must be the name or the index of an interface, got \"\""
        );
    }

    #[test]
    fn tcp_probes_have_no_size_to_choose() {
        for tcp_method in ["syn", "sack", "prefer_sack"] {
            let tcp = Parameters {
                protocol: "tcp".to_owned(),
                tcp_method: tcp_method.to_owned(),
                packet_size: Some(52),
                ..parameters()
            };
            let expected = "packet-size cannot be chosen for tcp: its probes carry no data, got 52";
            assert_eq!(message(&tcp), expected);
        }
    }

    #[test]
    fn type_of_service_is_given_whole_or_by_its_dscp() {
        let tos = |tos, dscp| Parameters {
            tos,
            dscp,
            ..parameters()
        };
        let of = |parameters: Parameters| parameters.validate().unwrap().packet.tos;
        assert_eq!(of(tos(Some(0xB9), None)), 0xB9);
        assert_eq!(of(tos(None, Some(46))), 0xB8);
        assert_eq!(
            message(&tos(Some(0), Some(0))),
            "dscp sets part of what tos sets: only one of the two may be given"
        );
    }

    #[test]
    fn delays_are_at_most_the_timeout_and_0_is_literal() {
        let delay = |delay_ms, timeout_ms| Parameters {
            timeout_ms,
            delay_ms,
            ..parameters()
        };
        let of = |parameters: Parameters| parameters.validate().unwrap().delay;
        assert_eq!(of(delay(None, 20)), None);
        assert_eq!(of(delay(Some(0), 20)), Some(Duration::ZERO));
        assert_eq!(of(delay(Some(20), 20)), Some(Duration::from_millis(20)));
        assert_eq!(
            message(&delay(Some(21), 20)),
            "delay must be between 0 and 20 ms, got 21"
        );
    }

    #[test]
    fn a_choice_of_egress() {
        let mut chosen = parameters();
        chosen.source = Some("::ffff:192.0.2.1".to_owned());
        chosen.interface = Some("eth0".to_owned());
        for mark in [42, 0, u32::MAX] {
            chosen.fwmark = Some(mark);
            let request = chosen.validate_on(false).unwrap();
            assert_eq!(request.fwmark, NonZeroU32::new(mark));
            assert_eq!(request.source, Some(IpAddr::from([192, 0, 2, 1])));
            assert_eq!(request.interface.as_deref(), Some("eth0"));
            assert!(!request.ipv6);
        }
        chosen.source = Some("2001:db8::1".to_owned());
        assert!(chosen.validate_on(false).unwrap().ipv6, "as the source is");
        chosen.target = "[fe80::1%eth1]:443".to_owned();
        let request = chosen.validate_on(false).unwrap();
        assert_eq!(request.zone.as_deref(), Some("eth1"));
        assert_eq!(request.hostname, "[fe80::1%eth1]:443");
        assert_eq!(request.probed_port(), 443);
    }

    #[test]
    fn numbers_out_of_range_are_refused_by_name_and_range() {
        type Set = fn(&mut Parameters, i64);
        let cases: [(Set, i64, i64, &str); 12] = [
            (
                |p, v| p.port = v,
                0,
                65535,
                "port must be between 0 and 65535, got ",
            ),
            (
                |p, v| p.max_ttl = v,
                1,
                255,
                "max-ttl must be between 1 and 255, got ",
            ),
            (
                |p, v| p.traceroute_queries = v,
                0,
                65535,
                "traceroute-queries must be between 0 and 65535, got ",
            ),
            (
                |p, v| p.e2e_queries = v,
                0,
                65535,
                "e2e-queries must be between 0 and 65535, got ",
            ),
            (
                |p, v| p.timeout_ms = v,
                0,
                86_400_000,
                "timeout must be between 0 and 86400000 ms, got ",
            ),
            (
                |p, v| p.first_ttl = v,
                1,
                30,
                "first-ttl must be between 1 and 30, got ",
            ),
            (
                |p, v| p.delay_ms = Some(v),
                0,
                3000,
                "delay must be between 0 and 3000 ms, got ",
            ),
            (
                |p, v| p.packet_size = Some(v),
                54,
                65535,
                "packet-size must be between 54 and 65535 bytes, got ",
            ),
            (
                |p, v| p.tos = Some(v),
                0,
                255,
                "tos must be between 0 and 255, got ",
            ),
            (
                |p, v| p.dscp = Some(v),
                0,
                63,
                "dscp must be between 0 and 63, got ",
            ),
            (
                |p, v| p.hop_retries = v,
                0,
                10,
                "hop-retries must be between 0 and 10, got ",
            ),
            (
                |p, v| (p.e2e_interval_ms, p.e2e_queries) = (v, 1),
                0,
                86_400_000,
                "e2e-interval must be between 0 and 86400000 ms, got ",
            ),
        ];
        for (set, lowest, highest, text) in cases {
            let mut parameters = parameters();
            for good in [lowest, highest] {
                set(&mut parameters, good);
                assert!(parameters.validate().is_ok(), "{text} {good}");
            }
            for bad in [lowest - 1, highest + 1, i64::MIN, i64::MAX, (1 << 32) + lowest] {
                set(&mut parameters, bad);
                assert_eq!(message(&parameters), format!("{text}{bad}"));
            }
        }
    }

    #[test]
    fn an_interval_must_let_all_probes_be_sent_in_time() {
        // 50 probes have 49 gaps between them: 30 hops × 3000 ms are 90 s.
        let with = |interval, queries, max_ttl, timeout| Parameters {
            e2e_interval_ms: interval,
            e2e_queries: queries,
            max_ttl,
            timeout_ms: timeout,
            ..parameters()
        };
        let interval = |parameters: &Parameters| parameters.validate().unwrap().e2e_interval;
        assert_eq!(interval(&with(0, 50, 30, 0)), None);
        assert_eq!(
            interval(&with(1836, 50, 30, 0)),
            Some(Duration::from_millis(1836))
        );
        assert_eq!(
            message(&with(1837, 50, 30, 0)),
            "e2e-interval must let all 50 end-to-end probes be sent within max-ttl × timeout = 90000 ms, got 1837 ms"
        );
        assert_eq!(
            message(&with(1001, 2, 1, 1000)),
            "e2e-interval must let all 2 end-to-end probes be sent within max-ttl × timeout = 1000 ms, got 1001 ms"
        );
        // Of one probe, or none, any interval is right.
        assert!(with(86_400_000, 1, 1, 1).validate().is_ok());
        assert!(with(86_400_000, 0, 1, 1).validate().is_ok());
        // Whatever is wrong with another parameter is not said of this one.
        assert!(message(&with(1000, i64::MAX, 30, 0)).starts_with("e2e-queries"));
    }

    #[test]
    fn zero_means_the_default_for_port_and_timeout() {
        let request = Parameters {
            port: 0,
            timeout_ms: 0,
            ..parameters()
        }
        .validate()
        .unwrap();
        assert_eq!(request.port, DEFAULT_PORT);
        assert_eq!(request.timeout, Duration::from_millis(DEFAULT_TIMEOUT_MS));
    }

    #[test]
    fn protocol_and_method_in_any_case() {
        let request = Parameters {
            protocol: "TcP".to_owned(),
            tcp_method: "Prefer_SACK".to_owned(),
            ..parameters()
        }
        .validate()
        .unwrap();
        assert_eq!(
            (request.protocol, request.tcp_method),
            (Protocol::Tcp, TcpMethod::PreferSack)
        );
    }

    #[test]
    fn unknown_protocol_and_method() {
        let mut parameters = parameters();
        parameters.protocol = "sctp".to_owned();
        assert_eq!(
            message(&parameters),
            r#"protocol must be udp, tcp or icmp, got "sctp""#
        );
        parameters.protocol = "udp".to_owned();
        parameters.tcp_method = "ack".to_owned();
        assert_eq!(
            message(&parameters),
            r#"tcp-method must be syn, sack, prefer_sack or syn_socket, got "ack""#
        );
    }

    #[test]
    fn syn_socket_only_where_there_is_one() {
        let parameters = Parameters {
            tcp_method: "SYN_SOCKET".to_owned(),
            ..parameters()
        };
        assert_eq!(
            parameters.validate_on(true).unwrap().tcp_method,
            TcpMethod::SynSocket
        );
        assert_eq!(
            message(&parameters),
            "tcp-method syn_socket is supported on Windows only; use syn, sack or prefer_sack"
        );
    }

    #[test]
    fn target_missing_or_wrong() {
        let mut parameters = Parameters::default();
        assert_eq!(message(&parameters), "missing required parameter: target");
        parameters.target = "example.com:0".to_owned();
        assert_eq!(
            message(&parameters),
            r#"target "example.com:0" has a port that is not between 1 and 65535: "0""#
        );
    }

    #[test]
    fn port_inside_the_target_wins_for_the_probes() {
        let request = Parameters {
            target: "[2001:db8::1]:443".to_owned(),
            port: 80,
            ..parameters()
        }
        .validate()
        .unwrap();
        assert_eq!((request.probed_port(), request.port), (443, 80));
        assert_eq!(request.hostname, "[2001:db8::1]:443");
    }
}
