//! All options of a trace: the one place that describes them.
//!
//! From this list come the flags, the help text, the manual page, the completions, the query
//! parameters, the OpenAPI parameters and the table in `docs/guide.md`.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use datadog_traceroute::{
    DEFAULT_E2E_QUERIES, DEFAULT_HOP_RETRIES, DEFAULT_MAX_TTL, DEFAULT_PORT, DEFAULT_TIMEOUT_MS,
    DEFAULT_TRACEROUTE_QUERIES, MAX_HOP_RETRIES, MAX_PACKET_SIZE, MAX_QUERIES, MAX_TIMEOUT_MS, Protocol,
    RequestBuilder, TcpMethod,
};

use crate::catalogue::{Choice, Kind, TraceOption};
use crate::values::parse_int;

/// How many runs, and how many end-to-end probes.
const QUERIES: RangeInclusive<i64> = 0..=MAX_QUERIES as i64;
/// How long something may take, in milliseconds.
const TIMES: RangeInclusive<i64> = 0..=MAX_TIMEOUT_MS.cast_signed();

/// All options, in the order of `--help`.
pub static OPTIONS: &[TraceOption] = &[
    TraceOption {
        help: "Host name or address, perhaps with a port: host, host:443, 192.0.2.1, [2001:db8::1]:443, fe80::1%eth0",
        ..option("target", "target", Kind::Target)
    },
    TraceOption {
        short: Some('P'),
        query: Some("protocol"),
        help: "Protocol of the probes: {names}",
        description: "Protocol of the probes, in any letter case; empty means the default.",
        ..choice(
            "proto",
            &[
                name(Protocol::Udp.name(), |r| r.protocol(Protocol::Udp)),
                name(Protocol::Tcp.name(), |r| r.protocol(Protocol::Tcp)),
                name(Protocol::Icmp.name(), |r| r.protocol(Protocol::Icmp)),
            ],
        )
    },
    TraceOption {
        short: Some('p'),
        help: "Port to probe, {range}; 0 means 33434",
        description: "Port to probe; 0 means the default.",
        default: Some(DEFAULT_PORT as i64),
        ..integer("port", "number", 0..=65535, |r, v| match v {
            0 => r,
            port => r.port(port as u16),
        })
    },
    TraceOption {
        short: Some('q'),
        help: "Number of traceroute runs, {range}",
        description: "Number of traceroute runs.",
        default: Some(DEFAULT_TRACEROUTE_QUERIES as i64),
        ..integer("traceroute-queries", "number", QUERIES, |r, v| r.runs(v as u32))
    },
    TraceOption {
        short: Some('m'),
        help: "Highest TTL to probe, {range} hops",
        description: "Highest TTL to probe, in hops.",
        default: Some(DEFAULT_MAX_TTL as i64),
        ..integer("max-ttl", "hops", 1..=255, |r, v| r.max_ttl(v as u8))
    },
    TraceOption {
        short: Some('v'),
        query: None,
        help: "Log everything to standard error",
        ..switch("verbose", |r, _| r)
    },
    TraceOption {
        query: None,
        help: "Write nothing but errors to standard error: no progress, no notices, no warnings",
        ..switch("quiet", |r, _| r)
    },
    TraceOption {
        help: "How TCP probes: syn, sack, prefer_sack or, on Windows, syn_socket",
        description: "How TCP probes, in any letter case; empty means the default; on Windows also syn_socket.",
        may_be_empty: true,
        ..choice(
            "tcp-method",
            &[
                name("syn", |r| r.tcp_method(TcpMethod::Syn)),
                name("sack", |r| r.tcp_method(TcpMethod::Sack)),
                name("prefer_sack", |r| r.tcp_method(TcpMethod::PreferSack)),
                Choice {
                    only_windows: true,
                    ..name("syn_socket", |r| r.tcp_method(TcpMethod::SynSocket))
                },
            ],
        )
    },
    TraceOption {
        help: "Take an IPv6 address of a target given by name",
        ..switch("ipv6", RequestBuilder::ipv6)
    },
    TraceOption {
        short: Some('4'),
        query: None,
        help: "Take no IPv6 address, of a name or as the target",
        ..switch("ipv4-only", RequestBuilder::ipv4_only)
    },
    TraceOption {
        short: Some('6'),
        help: "The same as --ipv6, and take no IPv4 address as the target",
        ..shorthand("ipv6-only", "ipv6", "true")
    },
    TraceOption {
        help: "Milliseconds an answer may take, {range}; 0 means 3000",
        description: "Milliseconds that an answer may take; 0 means the default.",
        query_default: Some(DEFAULT_TIMEOUT_MS.cast_signed()),
        default: Some(0),
        ..integer("timeout", "ms", TIMES, |r, v| match v {
            0 => r,
            ms => r.timeout(milliseconds(ms)),
        })
    },
    TraceOption {
        help: "Look up the names of hops and destination",
        ..switch("reverse-dns", RequestBuilder::reverse_dns)
    },
    TraceOption {
        short: Some('n'),
        help: "Look up no names, the default; of this and --reverse-dns the last one counts",
        ..shorthand("no-reverse-dns", "reverse-dns", "false")
    },
    TraceOption {
        help: "Ask web services for this machine's public IPv4 address",
        description: "Ask web services for the server's public IPv4 address.",
        ..switch("source-public-ip", RequestBuilder::source_public_ip)
    },
    TraceOption {
        short: Some('Q'),
        help: "Number of end-to-end probes, {range}",
        description: "Number of end-to-end probes.",
        default: Some(DEFAULT_E2E_QUERIES as i64),
        ..integer("e2e-queries", "number", QUERIES, |r, v| r.e2e_probes(v as u32))
    },
    TraceOption {
        help: "Use the Windows driver (ignored elsewhere)",
        description: "Use the Windows driver; ignored elsewhere.",
        ..switch("windows-driver", RequestBuilder::windows_driver)
    },
    TraceOption {
        help: "Blank hops with private addresses in the result",
        description: "Blank hops with private addresses.",
        ..switch("skip-private-hops", RequestBuilder::skip_private_hops)
    },
    TraceOption {
        help: "How often a silent hop is probed again, {range}; costs no time",
        description: "How often a silent hop is probed again, while the run waits anyway.",
        default: Some(DEFAULT_HOP_RETRIES as i64),
        ..integer("hop-retries", "number", 0..=MAX_HOP_RETRIES as i64, |r, v| {
            r.hop_retries(v as u8)
        })
    },
    TraceOption {
        help: "Probe no further after so many silent TTLs in a row, {range} hops; 0 means up to max-ttl",
        description: "Probe no further after so many silent TTLs in a row; 0 means up to max-ttl.",
        default: Some(0),
        ..integer("gap-limit", "hops", 0..=255, |r, v| r.gap_limit(v as u8))
    },
    TraceOption {
        help: "Milliseconds between end-to-end probes, {range}; 0 means at most 1000, over UDP as fast as the target answers",
        description: "Milliseconds between end-to-end probes; 0 means min(1000, max-ttl × timeout / e2e-queries), and over UDP \
                      no faster than the target answers. All probes must fit into max-ttl × timeout.",
        default: Some(0),
        ..integer("e2e-interval", "ms", TIMES, |r, v| match v {
            0 => r,
            ms => r.e2e_interval(milliseconds(ms)),
        })
    },
    TraceOption {
        help: "Lowest TTL to probe, 1 to max-ttl hops",
        description: "Lowest TTL to probe, in hops; at most max-ttl.",
        narrowed: true,
        default: Some(1),
        ..integer("first-ttl", "hops", 1..=255, |r, v| {
            r.first_ttl(u8::try_from(v).unwrap_or(0))
        })
    },
    TraceOption {
        help: "Milliseconds between a run's probes, 0 to timeout; 0 means up to 16 at once, TCP SYN too \
               [default: 50, for TCP SACK 10]",
        description: "Milliseconds between a run's probes, at most the timeout; 0 means that up to sixteen are on their way \
                      at once, TCP SYN too. By default 50, for TCP SACK 10.",
        narrowed: true,
        ..integer("delay", "ms", TIMES, |r, v| r.delay(milliseconds(v)))
    },
    TraceOption {
        help: "Bytes of each probe's IP packet, at most 65535; not for TCP [default: as short as can be]",
        description: "Bytes of each probe's IP packet, not for TCP. At least 36 (ICMP over IPv4), 38 (UDP over IPv4), 54 (UDP \
                      otherwise), 56 (ICMP otherwise); by default as short as can be.",
        narrowed: true,
        ..integer("packet-size", "bytes", 36..=MAX_PACKET_SIZE as i64, |r, v| {
            r.packet_size(u16::try_from(v).unwrap_or(0))
        })
    },
    TraceOption {
        help: "Type of service (IPv4) or traffic class (IPv6) of the probes, {range} [default: 0]",
        description: "Type of service (IPv4) or traffic class (IPv6) of the probes.",
        ..integer("tos", "number", 0..=255, |r, v| r.tos(v as u8))
    },
    TraceOption {
        help: "The same by its DSCP alone, {range}; not together with --tos",
        description: "The same by its DSCP alone; not together with tos.",
        ..integer("dscp", "number", 0..=63, |r, v| r.tos((v as u8) << 2))
    },
    TraceOption {
        help: "Set IPv4's DF bit in probes; UDP always has it",
        ..switch("dont-fragment", RequestBuilder::dont_fragment)
    },
    TraceOption {
        help: "Source address of probes, one of this host's; without it, the routing tables decide",
        description: "Source address of probes, one of the server's; without it, its routing tables decide. Only with \
                      --allow-egress.",
        ..text("source", "address", |r, text| {
            let source = text.parse().map_err(|_| "must be an IPv4 or IPv6 address")?;
            Ok(r.source(source))
        })
    },
    TraceOption {
        help: "Interface by which probes leave, by name or index; without it, the routing tables decide",
        description: "Interface by which probes leave, by name or index; without it, the routing tables decide. Only with \
                      --allow-egress.",
        ..text("interface", "name", |r, text| Ok(r.interface(text)))
    },
    TraceOption {
        help: "Mark of probes that routing rules and firewalls see (Linux, CAP_NET_ADMIN), 0 to 4294967295; 0 means none",
        description: "Mark of probes that routing rules and firewalls of the server see, 0 to 4294967295; 0 means none. Only \
                      with --allow-egress.",
        ..text("fwmark", "number", |r, text| {
            let value = parse_int(text).ok().and_then(|value| u32::try_from(value).ok());
            let value = value.ok_or("must be a number between 0 and 4294967295")?;
            Ok(match NonZeroU32::new(value) {
                None => r,
                Some(mark) => r.fwmark(mark),
            })
        })
    },
    TraceOption {
        help: "How the result is written: json, table, wide (a column for each run), csv or dot (Graphviz)",
        description: "How the result is written: json, table, wide (a column for each run), csv or dot (Graphviz), in any \
                      letter case; empty means the default.",
        ..choice(
            "format",
            &[
                name("json", |r| r),
                name("table", |r| r),
                name("wide", |r| r),
                name("csv", |r| r),
                name("dot", |r| r),
            ],
        )
    },
    TraceOption {
        help: "The same as --format json; of both the last one counts",
        ..shorthand("json", "format", "json")
    },
    TraceOption {
        help: "Report why probes went unanswered, ICMP codes, TTLs, MPLS labels and counters as well",
        ..switch("details", RequestBuilder::details)
    },
    TraceOption {
        short: Some('V'),
        query: None,
        help: "Print version, commit and build date",
        ..switch("version", |r, _| r)
    },
];

const fn option(name: &'static str, value_name: &'static str, kind: Kind) -> TraceOption {
    TraceOption {
        flag: name,
        short: None,
        query: Some(name),
        value_name,
        default: None,
        query_default: None,
        may_be_empty: false,
        narrowed: false,
        help: "",
        description: "",
        kind,
    }
}

const fn choice(name: &'static str, choices: &'static [Choice]) -> TraceOption {
    option(name, "name", Kind::Choice(choices))
}

const fn name(name: &'static str, set: fn(RequestBuilder) -> RequestBuilder) -> Choice {
    Choice {
        name,
        only_windows: false,
        set,
    }
}

const fn integer(
    name: &'static str,
    value_name: &'static str,
    range: RangeInclusive<i64>,
    set: fn(RequestBuilder, i64) -> RequestBuilder,
) -> TraceOption {
    option(name, value_name, Kind::Integer(range, set))
}

const fn switch(name: &'static str, set: fn(RequestBuilder, bool) -> RequestBuilder) -> TraceOption {
    option(name, "bool", Kind::Switch(set))
}

/// For the command line only.
const fn shorthand(name: &'static str, of: &'static str, value: &'static str) -> TraceOption {
    TraceOption {
        query: None,
        ..option(name, "bool", Kind::Shorthand { of, value })
    }
}

const fn text(
    name: &'static str,
    value_name: &'static str,
    set: fn(RequestBuilder, &str) -> Result<RequestBuilder, &'static str>,
) -> TraceOption {
    option(name, value_name, Kind::Text(set))
}

/// A negative time becomes one that the library refuses.
fn milliseconds(value: i64) -> Duration {
    u64::try_from(value).map_or(Duration::MAX, Duration::from_millis)
}
