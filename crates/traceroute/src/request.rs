//! What a trace is to do: built from typed values, checked once.

use std::fmt::{self, Write};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use traceroute_engine::{DEFAULT_HOP_RETRIES, Family, MAX_HOP_RETRIES, Method, PacketOptions};

use crate::target::{InvalidTarget, Target};

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

/// Defines [`Request`] and, for each of its options, a setter of [`RequestBuilder`] and an
/// accessor.
macro_rules! options {
    (
        values { $($(#[$doc:meta])* $name:ident: $type:ty = $default:expr,)* }
        optional { $($(#[$optional_doc:meta])* $optional:ident: $optional_type:ty,)* }
    ) => {
        /// What a trace is to do. Made by [`Request::to`], and correct from then on.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Request {
            pub(crate) hostname: String,
            pub(crate) host: Host,
            pub(crate) zone: Option<String>,
            pub(crate) target_port: Option<u16>,
            pub(crate) interface: Option<String>,
            pub(crate) client: u64,
            pub(crate) most_at_once: u32,
            $(pub(crate) $name: $type,)*
            $(pub(crate) $optional: Option<$optional_type>,)*
        }

        impl Request {
            /// A request for a target, with the default of everything else: a host name or address,
            /// perhaps with a port, as [`Target`] reads them.
            pub fn to(target: impl fmt::Display) -> RequestBuilder {
                let target = target.to_string();
                RequestBuilder(Request {
                    // Known when the request is built.
                    host: Host::Name(String::new()),
                    hostname: target,
                    zone: None,
                    target_port: None,
                    interface: None,
                    client: 0,
                    most_at_once: u32::MAX,
                    $($name: $default,)*
                    $($optional: None,)*
                })
            }

            $($(#[$doc])* pub fn $name(&self) -> $type {
                self.$name
            })*

            $($(#[$optional_doc])* pub fn $optional(&self) -> Option<$optional_type> {
                self.$optional
            })*
        }

        impl RequestBuilder {
            $($(#[$doc])* pub fn $name(mut self, $name: $type) -> Self {
                self.0.$name = $name;
                self
            })*

            $($(#[$optional_doc])* pub fn $optional(mut self, $optional: $optional_type) -> Self {
                self.0.$optional = Some($optional);
                self
            })*
        }
    };
}

options! {
    values {
        /// Protocol of the probes. By default UDP.
        protocol: Protocol = Protocol::Udp,
        /// How TCP probes. By default with SYN segments.
        tcp_method: TcpMethod = TcpMethod::Syn,
        /// Port to probe, from 1 up; by default [`DEFAULT_PORT`]. One in the target wins. ICMP has
        /// none.
        port: u16 = DEFAULT_PORT,
        /// Number of traceroute runs, 0 to [`MAX_QUERIES`]; by default
        /// [`DEFAULT_TRACEROUTE_QUERIES`].
        runs: u32 = DEFAULT_TRACEROUTE_QUERIES,
        /// Number of end-to-end probes, 0 to [`MAX_QUERIES`]; by default [`DEFAULT_E2E_QUERIES`].
        e2e_probes: u32 = DEFAULT_E2E_QUERIES,
        /// Lowest TTL to probe in runs, 1 to the highest, in hops. By default 1.
        first_ttl: u8 = 1,
        /// Highest TTL to probe, from 1 up, in hops; by default [`DEFAULT_MAX_TTL`].
        max_ttl: u8 = DEFAULT_MAX_TTL,
        /// How long an answer may take, 1 ms to [`MAX_TIMEOUT_MS`]; by default
        /// [`DEFAULT_TIMEOUT_MS`].
        timeout: Duration = Duration::from_millis(DEFAULT_TIMEOUT_MS),
        /// Take an IPv6 address of a target given by name.
        ipv6: bool = false,
        /// Take no IPv6 address of a target given by name.
        ipv4_only: bool = false,
        /// Look up the names of hops and destination.
        reverse_dns: bool = false,
        /// Ask web services for this machine's public IPv4 address.
        source_public_ip: bool = false,
        /// Use the Windows driver; ignored elsewhere.
        windows_driver: bool = false,
        /// Leave hops with private addresses out of the result.
        skip_private_hops: bool = false,
        /// Report [`details`](crate::details) as well.
        details: bool = false,
        /// How often a silent TTL is probed again, 0 to [`MAX_HOP_RETRIES`]; by default
        /// [`DEFAULT_HOP_RETRIES`].
        hop_retries: u8 = DEFAULT_HOP_RETRIES,
        /// After so many silent TTLs in a row a run ends; by default 0: it goes on to the highest.
        gap_limit: u8 = 0,
        /// Type of service (IPv4) or traffic class (IPv6) of the probes. By default 0.
        tos: u8 = 0,
        /// Set IPv4's DF bit. IPv6 packets are not fragmented by this host.
        dont_fragment: bool = false,
    }
    optional {
        /// Time between end-to-end probes, 1 ms to [`MAX_TIMEOUT_MS`]. All probes must be sent
        /// within the timeout times the highest TTL. Without it, at most 1 s, and over UDP no
        /// faster than the target answers.
        e2e_interval: Duration,
        /// Time between a run's probes, at most the timeout. Zero: up to sixteen are on their way
        /// at once. Without it, 50 ms, for TCP SACK 10 ms.
        delay: Duration,
        /// Bytes of each probe's IP packet, up to [`MAX_PACKET_SIZE`]; not for TCP. Without it, as
        /// short as can be.
        packet_size: u16,
        /// Source address of the probes: one of this host's, of the target's family. Without it,
        /// the routing tables decide.
        source: IpAddr,
        /// Mark of the probes that routing rules and firewalls see (Linux).
        fwmark: NonZeroU32,
    }
}

/// Values for a [`Request`], not yet checked.
#[derive(Debug, Clone)]
#[must_use]
pub struct RequestBuilder(Request);

impl RequestBuilder {
    /// The interface by which probes leave, by name or index (Linux). Without it, the routing
    /// tables decide.
    pub fn interface(mut self, interface: impl Into<String>) -> Self {
        self.0.interface = Some(interface.into());
        self
    }

    /// Checks everything that can be checked without the network.
    ///
    /// # Errors
    /// The first value that is out of its range or does not fit the others.
    pub fn build(self) -> Result<Request, RequestError> {
        self.build_on(traceroute_net::SYN_SOCKET_SUPPORTED)
    }

    fn build_on(self, syn_socket_supported: bool) -> Result<Request, RequestError> {
        const MILLISECOND: Duration = Duration::from_millis(1);
        const LONGEST: Duration = Duration::from_millis(MAX_TIMEOUT_MS);
        let RequestBuilder(mut request) = self;
        let target: Target = request.hostname.parse().map_err(|problem| {
            let text = request.hostname.clone();
            Field::Target.error(Problem::Target { text, problem })
        })?;
        (request.host, request.zone, request.target_port) = (target.host, target.zone, target.port);
        if request.tcp_method == TcpMethod::SynSocket && !syn_socket_supported {
            return Err(Field::TcpMethod.error(Problem::WindowsOnly));
        }
        if request.reverse_dns && cfg!(not(feature = "reverse-dns")) {
            return Err(Field::ReverseDns.error(Problem::NotBuilt("reverse-dns")));
        }
        if request.source_public_ip && cfg!(not(feature = "public-ip")) {
            return Err(Field::SourcePublicIp.error(Problem::NotBuilt("public-ip")));
        }
        Field::Port.check(request.port, 1..=u16::MAX)?;
        Field::MaxTtl.check(request.max_ttl, 1..=u8::MAX)?;
        Field::Timeout.check_time(request.timeout, MILLISECOND..=LONGEST)?;
        Field::E2eProbes.check(request.e2e_probes, 0..=MAX_QUERIES)?;
        if let Some(interval) = request.e2e_interval {
            Field::E2eInterval.check_time(interval, MILLISECOND..=LONGEST)?;
            request.check_e2e_time(interval)?;
        }
        request.check_packet_size()?;
        request.check_source()?;
        Field::Runs.check(request.runs, 0..=MAX_QUERIES)?;
        Field::HopRetries.check(request.hop_retries, 0..=MAX_HOP_RETRIES)?;
        Field::FirstTtl.check(request.first_ttl, 1..=request.max_ttl)?;
        if let Some(delay) = request.delay {
            // So all TTLs are probed within the longest time that runs may take.
            Field::Delay.check_time(delay, Duration::ZERO..=request.timeout)?;
        }
        if request.interface.as_deref() == Some("") {
            return Err(Field::Interface.error(Problem::EmptyInterface));
        }
        Ok(request)
    }
}

impl Request {
    /// The target as it was given, reported as `destination.hostname`.
    pub fn hostname(&self) -> &str {
        &self.hostname
    }

    /// What is resolved.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The interface that a link-local target is on, by name or index, as given.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// The interface by which probes leave, by name or index; `None`: the routing tables decide.
    pub fn interface(&self) -> Option<&str> {
        self.interface.as_deref()
    }

    /// The port that is probed: the target's own, or else [`Request::port`].
    pub fn probed_port(&self) -> u16 {
        self.target_port.unwrap_or(self.port)
    }

    /// The same request, with the target's name already resolved to `address`. An IPv4-mapped one is
    /// the IPv4 address.
    #[must_use]
    pub fn resolved_to(mut self, address: IpAddr) -> Self {
        self.host = Host::Address(address.to_canonical());
        self
    }

    /// The same request, by a client of a service. Look-ups of names are shared out between clients,
    /// so that one with many silent names delays no other. Any number; by default 0.
    #[must_use]
    pub fn by_client(mut self, client: u64) -> Self {
        self.client = client;
        self
    }

    /// Whose request it is ([`Request::by_client`]).
    pub fn client(&self) -> u64 {
        self.client
    }

    /// The same request, with at most so many traces in flight at once, as
    /// [`Request::traces_at_once`] counts them; 3 at least are needed for runs and end-to-end
    /// probes together. Further runs begin as those before end, end-to-end probes are further apart,
    /// and a discovery of paths has fewer flows. So the request may take longer: as many times as
    /// its runs have to wait for each other.
    #[must_use]
    pub fn at_most_at_once(mut self, traces: u32) -> Self {
        self.most_at_once = traces;
        self
    }

    /// What the packets look like.
    pub(crate) fn packet(&self) -> PacketOptions {
        PacketOptions {
            size: self.packet_size,
            tos: self.tos,
            dont_fragment: self.dont_fragment,
        }
    }

    /// All end-to-end probes must have been sent when runs have had the longest time they may take:
    /// a request never ends much later.
    fn check_e2e_time(&self, interval: Duration) -> Result<(), RequestError> {
        let gaps = self.e2e_probes.saturating_sub(1);
        if interval.saturating_mul(gaps) <= self.longest_run() {
            return Ok(());
        }
        Err(Field::E2eInterval.error(Problem::TooSlow {
            interval,
            probes: self.e2e_probes,
            longest: self.longest_run(),
        }))
    }

    /// A name's family is not known yet: what fits IPv6 fits both.
    fn check_packet_size(&self) -> Result<(), RequestError> {
        let Some(size) = self.packet_size else {
            return Ok(());
        };
        let family = match self.host {
            Host::Address(address) => Family::of(address),
            Host::Name(_) => Family::V6,
        };
        match PacketOptions::least_size(self.protocol.method(), family) {
            Some(least) => Field::PacketSize.check(size, least..=MAX_PACKET_SIZE),
            None => Err(Field::PacketSize.error(Problem::NoData(self.protocol))),
        }
    }

    /// Of the target's family, as far as that is known.
    fn check_source(&mut self) -> Result<(), RequestError> {
        let Some(source) = self.source.map(|source| source.to_canonical()) else {
            return Ok(());
        };
        let wanted = match self.host {
            Host::Address(address) => Some(Family::of(address)),
            Host::Name(_) if self.ipv4_only => Some(Family::V4),
            Host::Name(_) => self.ipv6.then_some(Family::V6),
        };
        if wanted.is_some_and(|wanted| wanted != Family::of(source)) {
            return Err(Field::Source.error(Problem::OtherFamily(source)));
        }
        self.source = Some(source);
        // A name has addresses of both families; the source's is the one to take.
        self.ipv6 |= source.is_ipv6();
        Ok(())
    }
}

/// A value that a request cannot have: `max_ttl must be between 1 and 255, got 0`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
#[non_exhaustive]
pub struct RequestError {
    /// Which value.
    pub field: Field,
    /// What is wrong with it.
    pub problem: Problem,
}

/// A value of a [`RequestBuilder`]. Displayed, it is the name of the method that sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the methods have the documentation")]
pub enum Field {
    Target,
    TcpMethod,
    Port,
    Runs,
    E2eProbes,
    FirstTtl,
    MaxTtl,
    Timeout,
    HopRetries,
    E2eInterval,
    Delay,
    PacketSize,
    Source,
    Interface,
    ReverseDns,
    SourcePublicIp,
}

/// What is wrong with a value; displayed, it continues a sentence that starts with its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The target is neither a host name nor an address.
    #[error("{text:?} {problem}")]
    Target {
        /// The target as given.
        text: String,
        /// What is wrong with it.
        problem: InvalidTarget,
    },
    /// A number or a time that is too small or too large.
    #[error("must be between {} and {}{unit}, got {value}", range.start(), range.end())]
    OutOfRange {
        /// The value; times are in milliseconds, rounded down.
        value: i64,
        /// What is allowed beside the other values.
        range: RangeInclusive<i64>,
        /// Its unit, after a space: ` ms` or ` bytes`; empty for others.
        unit: &'static str,
    },
    /// The end-to-end probes take longer than the runs may.
    #[error(
        "must let all {probes} end-to-end probes be sent within max-ttl × timeout = {} ms, got {} ms",
        longest.as_millis(),
        interval.as_millis()
    )]
    TooSlow {
        /// Time between two probes.
        interval: Duration,
        /// How many probes.
        probes: u32,
        /// The time in which all must be sent.
        longest: Duration,
    },
    /// Probes of the protocol have no size to choose.
    #[error("cannot be chosen for {0}: its probes carry no data")]
    NoData(Protocol),
    /// The source is of another address family than the target.
    #[error("must be of the target's address family")]
    OtherFamily(IpAddr),
    /// An interface without a name.
    #[error("must be the name or the index of an interface")]
    EmptyInterface,
    /// [`TcpMethod::SynSocket`], but this is not Windows.
    #[error("syn_socket is supported on Windows only; use syn, sack or prefer_sack")]
    WindowsOnly,
    /// The library was built without what it takes.
    #[error("is not part of this build: it lacks the feature `{0}`")]
    NotBuilt(&'static str),
}

impl Field {
    fn error(self, problem: Problem) -> RequestError {
        RequestError { field: self, problem }
    }

    fn check<T: Into<i64>>(self, value: T, range: RangeInclusive<T>) -> Result<(), RequestError> {
        let (least, most) = range.into_inner();
        let (value, range) = (value.into(), least.into()..=most.into());
        if range.contains(&value) {
            return Ok(());
        }
        let unit = if self == Field::PacketSize { " bytes" } else { "" };
        Err(self.error(Problem::OutOfRange { value, range, unit }))
    }

    fn check_time(self, value: Duration, range: RangeInclusive<Duration>) -> Result<(), RequestError> {
        if range.contains(&value) {
            return Ok(());
        }
        let milliseconds = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        Err(self.error(Problem::OutOfRange {
            value: milliseconds(value),
            range: milliseconds(*range.start())..=milliseconds(*range.end()),
            unit: " ms",
        }))
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `MaxTtl` is set by `max_ttl`.
        for (index, letter) in format!("{self:?}").chars().enumerate() {
            if index > 0 && letter.is_ascii_uppercase() {
                f.write_char('_')?;
            }
            f.write_char(letter.to_ascii_lowercase())?;
        }
        Ok(())
    }
}

/// Protocol of the probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase")
)]
#[non_exhaustive]
pub enum Protocol {
    /// UDP datagrams.
    Udp,
    /// TCP segments, by a [`TcpMethod`].
    Tcp,
    /// ICMP echo requests.
    Icmp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Protocol; 3] = [Protocol::Udp, Protocol::Tcp, Protocol::Icmp];

    /// Its name in documents and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Udp => "udp",
            Protocol::Tcp => "tcp",
            Protocol::Icmp => "icmp",
        }
    }

    /// How its end-to-end probes are made, and its runs unless a [`TcpMethod`] says otherwise.
    pub(crate) fn method(self) -> Method {
        match self {
            Protocol::Udp => Method::Udp,
            Protocol::Tcp => Method::TcpSyn,
            Protocol::Icmp => Method::Icmp,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(name: &str) -> Result<Self, UnknownProtocol> {
        let mut all = Protocol::ALL.into_iter();
        all.find(|protocol| protocol.name() == name)
            .ok_or(UnknownProtocol)
    }
}

/// A text that is not the name of a [`Protocol`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no protocol has this name")]
pub struct UnknownProtocol;

/// How TCP probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
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

/// The host part of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// An address; decides the family by itself.
    Address(IpAddr),
    /// A name to resolve.
    Name(String),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request() -> RequestBuilder {
        Request::to("example.com")
    }

    fn message(request: RequestBuilder) -> String {
        request.build_on(false).unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_the_contracts() {
        let request = request().build().unwrap();
        assert_eq!(request.hostname(), "example.com");
        assert_eq!(*request.host(), Host::Name("example.com".to_owned()));
        assert_eq!((request.zone(), request.target_port), (None, None));
        assert_eq!((request.port(), request.probed_port()), (33434, 33434));
        assert_eq!(
            (request.protocol(), request.tcp_method()),
            (Protocol::Udp, TcpMethod::Syn)
        );
        assert_eq!((request.runs(), request.e2e_probes()), (3, 50));
        assert_eq!((request.first_ttl(), request.max_ttl()), (1, 30));
        assert_eq!(
            (request.timeout(), request.hop_retries()),
            (Duration::from_secs(3), 2)
        );
        assert!(!request.ipv6() && !request.reverse_dns() && !request.source_public_ip());
        assert!(!request.windows_driver() && !request.skip_private_hops() && !request.details());
        assert_eq!((request.e2e_interval(), request.delay()), (None, None));
        assert_eq!(request.packet(), PacketOptions::default());
        assert_eq!(
            (request.source(), request.interface(), request.fwmark()),
            (None, None, None)
        );
    }

    #[test]
    fn no_value_out_of_its_range_is_built() {
        const MS: fn(u64) -> Duration = Duration::from_millis;
        const MAX: Duration = Duration::MAX;
        type Set = fn(RequestBuilder) -> RequestBuilder;
        let cases: [(Set, &str); 19] = [
            (|r| r.port(0), "port must be between 1 and 65535, got 0"),
            (|r| r.max_ttl(0), "max_ttl must be between 1 and 255, got 0"),
            (|r| r.first_ttl(0), "first_ttl must be between 1 and 30, got 0"),
            (
                |r| r.first_ttl(9).max_ttl(8),
                "first_ttl must be between 1 and 8, got 9",
            ),
            (|r| r.runs(65_536), "runs must be between 0 and 65535, got 65536"),
            (
                |r| r.e2e_probes(u32::MAX),
                "e2e_probes must be between 0 and 65535, got 4294967295",
            ),
            (
                |r| r.hop_retries(11),
                "hop_retries must be between 0 and 10, got 11",
            ),
            (
                |r| r.timeout(MS(0)),
                "timeout must be between 1 and 86400000 ms, got 0",
            ),
            (
                |r| r.timeout(MAX),
                "timeout must be between 1 and 86400000 ms, got 9223372036854775807",
            ),
            (
                |r| r.delay(MS(21)).timeout(MS(20)),
                "delay must be between 0 and 20 ms, got 21",
            ),
            (
                |r| r.e2e_interval(MS(0)),
                "e2e_interval must be between 1 and 86400000 ms, got 0",
            ),
            (
                |r| r.e2e_interval(MS(1837)),
                "e2e_interval must let all 50 end-to-end probes be sent within max-ttl × timeout = 90000 ms, got 1837 ms",
            ),
            (
                |r| r.packet_size(53),
                "packet_size must be between 54 and 65535 bytes, got 53",
            ),
            (
                |r| r.packet_size(52).protocol(Protocol::Tcp),
                "packet_size cannot be chosen for tcp: its probes carry no data",
            ),
            (
                |r| r.ipv6(true).source([127, 0, 0, 1].into()),
                "source must be of the target's address family",
            ),
            (
                |r| r.interface(""),
                "interface must be the name or the index of an interface",
            ),
            (
                |r| r.tcp_method(TcpMethod::SynSocket),
                "tcp_method syn_socket is supported on Windows only; use syn, sack or prefer_sack",
            ),
            (|_| Request::to(""), r#"target "" has no host"#),
            (
                |_| Request::to("example.com:0"),
                r#"target "example.com:0" has a port that is not between 1 and 65535: "0""#,
            ),
        ];
        for (set, expected) in cases {
            assert_eq!(message(set(request())), expected);
        }
        let error = request().max_ttl(0).build().unwrap_err();
        let range = 1..=255;
        let problem = Problem::OutOfRange {
            value: 0,
            range,
            unit: "",
        };
        assert_eq!((error.field, error.problem), (Field::MaxTtl, problem));
    }

    #[test]
    fn every_value_at_the_edge_of_its_range_is_built() {
        const MS: fn(u64) -> Duration = Duration::from_millis;
        type Set = fn(RequestBuilder) -> RequestBuilder;
        let cases: [Set; 10] = [
            |r| r.port(1).max_ttl(1).runs(0).e2e_probes(0).hop_retries(0),
            |r| r.port(u16::MAX).max_ttl(255).first_ttl(255).hop_retries(10),
            |r| r.runs(MAX_QUERIES).e2e_probes(MAX_QUERIES).tos(255),
            |r| r.timeout(MS(1)).delay(MS(1)),
            |r| r.timeout(MS(MAX_TIMEOUT_MS)).delay(MS(0)),
            // 50 probes have 49 gaps between them, and 30 hops × 3000 ms are 90 s.
            |r| r.e2e_interval(MS(1836)),
            // Of one probe, or none, any interval is right.
            |r| r.e2e_interval(MS(MAX_TIMEOUT_MS)).e2e_probes(1),
            |r| r.e2e_interval(MS(MAX_TIMEOUT_MS)).e2e_probes(0),
            |r| r.packet_size(MAX_PACKET_SIZE),
            |r| r.fwmark(NonZeroU32::MAX).interface("eth0"),
        ];
        for (index, set) in cases.into_iter().enumerate() {
            let built = set(request())
                .build()
                .unwrap_or_else(|error| panic!("{index}: {error}"));
            assert!(built.time_limit() >= Duration::from_secs(5));
            assert!(built.traces_at_once() <= 2 * MAX_QUERIES);
        }
        assert!(request().tcp_method(TcpMethod::SynSocket).build_on(true).is_ok());
    }

    proptest! {
        #[test]
        fn no_values_panic(
            (port, runs, e2e_probes) in (0_u16..9, 0..=MAX_QUERIES + 1, 0..=MAX_QUERIES + 1),
            (first_ttl, max_ttl, hop_retries) in (0_u8..9, 0_u8.., 0_u8..12),
            [timeout, interval, delay] in [0..=MAX_TIMEOUT_MS + 1, 0..=9, 0..=9],
        ) {
            let request = request().port(port).runs(runs).e2e_probes(e2e_probes);
            let request = request.first_ttl(first_ttl).max_ttl(max_ttl).hop_retries(hop_retries);
            let [timeout, interval, delay] = [timeout, interval, delay].map(Duration::from_millis);
            if let Ok(request) = request.timeout(timeout).e2e_interval(interval).delay(delay).build() {
                let _ = (request.time_limit(), request.traces_at_once());
            }
        }
    }

    #[test]
    fn the_lowest_packet_size_is_the_methods() {
        for (protocol, target, least) in [
            (Protocol::Icmp, "192.0.2.1", 36),
            (Protocol::Icmp, "2001:db8::1", 56),
            (Protocol::Icmp, "example.com", 56),
            (Protocol::Udp, "192.0.2.1", 38),
            (Protocol::Udp, "[2001:db8::1]:53", 54),
            (Protocol::Udp, "example.com:53", 54),
        ] {
            let of = |size| Request::to(target).protocol(protocol).packet_size(size).build();
            assert_eq!(
                of(least).unwrap().packet().size,
                Some(least),
                "{protocol} {target}"
            );
            assert!(of(least - 1).is_err(), "{protocol} {target}");
        }
    }

    #[test]
    fn a_source_decides_the_family_of_a_name() {
        let from = |target: &str, source: &str| Request::to(target).source(source.parse().unwrap()).build();
        let mapped = from("example.com", "::ffff:192.0.2.1").unwrap();
        assert_eq!(
            (mapped.source(), mapped.ipv6()),
            (Some([192, 0, 2, 1].into()), false)
        );
        let resolved = mapped.resolved_to("::ffff:192.0.2.9".parse().unwrap());
        assert_eq!(resolved.host(), &Host::Address([192, 0, 2, 9].into()));
        assert!(from("example.com", "2001:db8::1").unwrap().ipv6());
        assert!(from("192.0.2.1", "::1").is_err());
        assert!(from("2001:db8::1", "127.0.0.1").is_err());
    }

    #[test]
    fn the_port_in_the_target_wins_for_the_probes() {
        let request = Request::to("[fe80::1%eth1]:443").port(80).build().unwrap();
        assert_eq!((request.probed_port(), request.port()), (443, 80));
        assert_eq!(request.zone(), Some("eth1"));
        assert_eq!(request.hostname(), "[fe80::1%eth1]:443");
    }
}
