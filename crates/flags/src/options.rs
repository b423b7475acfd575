//! All options of a trace: the one place that describes them.
//!
//! From this list come the flags, the help text, the manual page, the completions, the query
//! parameters, the OpenAPI parameters and the table in `docs/guide.md`.

use std::ops::RangeInclusive;

use datadog_traceroute::{
    DEFAULT_E2E_QUERIES, DEFAULT_HOP_RETRIES, DEFAULT_MAX_TTL, DEFAULT_PORT, DEFAULT_TIMEOUT_MS,
    DEFAULT_TRACEROUTE_QUERIES, MAX_HOP_RETRIES, MAX_PACKET_SIZE, MAX_QUERIES, MAX_TIMEOUT_MS,
    Parameters as Request,
};

use crate::catalogue::{Kind, TraceOption};
use crate::values::parse_int;

/// Names of the formats that `--format` takes, the default first.
pub const FORMATS: [&str; 5] = ["json", "table", "wide", "csv", "dot"];

/// Names of choices that only Windows has.
pub const WINDOWS_ONLY: [&str; 1] = ["syn_socket"];

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
        ..choice("proto", &["udp", "tcp", "icmp"], |request, name| {
            name.clone_into(&mut request.protocol);
        })
    },
    TraceOption {
        short: Some('p'),
        help: "Port to probe, {range}; 0 means 33434",
        description: "Port to probe; 0 means the default.",
        ..integer(
            "port",
            "number",
            0..=65535,
            Some(DEFAULT_PORT as i64),
            |request, value| {
                request.port = value;
            },
        )
    },
    TraceOption {
        short: Some('q'),
        help: "Number of traceroute runs, {range}",
        description: "Number of traceroute runs.",
        ..integer(
            "traceroute-queries",
            "number",
            0..=MAX_QUERIES as i64,
            Some(DEFAULT_TRACEROUTE_QUERIES as i64),
            |request, value| {
                request.traceroute_queries = value;
            },
        )
    },
    TraceOption {
        short: Some('m'),
        help: "Highest TTL to probe, {range} hops",
        description: "Highest TTL to probe, in hops.",
        ..integer(
            "max-ttl",
            "hops",
            1..=255,
            Some(DEFAULT_MAX_TTL as i64),
            |request, value| {
                request.max_ttl = value;
            },
        )
    },
    TraceOption {
        short: Some('v'),
        query: None,
        help: "Log everything to standard error",
        ..switch("verbose", |_, _| ())
    },
    TraceOption {
        help: "How TCP probes: syn, sack, prefer_sack or, on Windows, syn_socket",
        description: "How TCP probes, in any letter case; empty means the default; on Windows also syn_socket.",
        ..choice(
            "tcp-method",
            &["syn", "sack", "prefer_sack", "syn_socket"],
            |request, name| {
                name.clone_into(&mut request.tcp_method);
            },
        )
    },
    TraceOption {
        help: "Take an IPv6 address of a target given by name",
        ..switch("ipv6", |request, value| request.ipv6 = value)
    },
    TraceOption {
        help: "Milliseconds an answer may take, {range}; 0 means 3000",
        description: "Milliseconds that an answer may take; 0 means the default.",
        ..integer_with(
            "timeout",
            "ms",
            0..=MAX_TIMEOUT_MS.cast_signed(),
            [Some(0), Some(DEFAULT_TIMEOUT_MS.cast_signed())],
            |request, value| request.timeout_ms = value,
        )
    },
    TraceOption {
        help: "Look up the names of hops and destination",
        ..switch("reverse-dns", |request, value| request.reverse_dns = value)
    },
    TraceOption {
        help: "Ask web services for this machine's public IPv4 address",
        description: "Ask web services for the server's public IPv4 address.",
        ..switch("source-public-ip", |request, value| {
            request.source_public_ip = value;
        })
    },
    TraceOption {
        short: Some('Q'),
        help: "Number of end-to-end probes, {range}",
        description: "Number of end-to-end probes.",
        ..integer(
            "e2e-queries",
            "number",
            0..=MAX_QUERIES as i64,
            Some(DEFAULT_E2E_QUERIES as i64),
            |request, value| {
                request.e2e_queries = value;
            },
        )
    },
    TraceOption {
        help: "Use the Windows driver (ignored elsewhere)",
        description: "Use the Windows driver; ignored elsewhere.",
        ..switch("windows-driver", |request, value| request.windows_driver = value)
    },
    TraceOption {
        help: "Blank hops with private addresses in the result",
        description: "Blank hops with private addresses.",
        ..switch("skip-private-hops", |request, value| {
            request.skip_private_hops = value;
        })
    },
    TraceOption {
        help: "How often a silent hop is probed again, {range}; costs no time",
        description: "How often a silent hop is probed again, while the run waits anyway.",
        ..integer(
            "hop-retries",
            "number",
            0..=MAX_HOP_RETRIES as i64,
            Some(DEFAULT_HOP_RETRIES as i64),
            |request, value| {
                request.hop_retries = value;
            },
        )
    },
    TraceOption {
        help: "Milliseconds between end-to-end probes, {range}; 0 means at most 1000, over UDP as fast as the target answers",
        description: "Milliseconds between end-to-end probes; 0 means min(1000, max-ttl × timeout / e2e-queries), and over UDP \
                      no faster than the target answers. All probes must fit into max-ttl × timeout.",
        ..integer(
            "e2e-interval",
            "ms",
            0..=MAX_TIMEOUT_MS.cast_signed(),
            Some(0),
            |request, value| {
                request.e2e_interval_ms = value;
            },
        )
    },
    TraceOption {
        help: "Lowest TTL to probe, 1 to max-ttl hops",
        description: "Lowest TTL to probe, in hops; at most max-ttl.",
        ..integer("first-ttl", "hops", 1..=255, Some(1), |request, value| {
            request.first_ttl = value;
        })
    },
    TraceOption {
        help: "Milliseconds between a run's probes, 0 to timeout; 0 means up to 16 at once, TCP SYN too \
               [default: 50, for TCP SACK 10]",
        description: "Milliseconds between a run's probes, at most the timeout; 0 means that up to sixteen are on their way \
                      at once, TCP SYN too. By default 50, for TCP SACK 10.",
        ..integer(
            "delay",
            "ms",
            0..=MAX_TIMEOUT_MS.cast_signed(),
            None,
            |request, value| request.delay_ms = Some(value),
        )
    },
    TraceOption {
        help: "Bytes of each probe's IP packet, at most 65535; not for TCP [default: as short as can be]",
        description: "Bytes of each probe's IP packet, not for TCP. At least 36 (ICMP over IPv4), 38 (UDP over IPv4), 54 (UDP \
                      otherwise), 56 (ICMP otherwise); by default as short as can be.",
        ..integer(
            "packet-size",
            "bytes",
            36..=MAX_PACKET_SIZE as i64,
            None,
            |request, value| {
                request.packet_size = Some(value);
            },
        )
    },
    TraceOption {
        help: "Type of service (IPv4) or traffic class (IPv6) of the probes, {range} [default: 0]",
        description: "Type of service (IPv4) or traffic class (IPv6) of the probes.",
        ..integer("tos", "number", 0..=255, None, |request, value| {
            request.tos = Some(value);
        })
    },
    TraceOption {
        help: "The same by its DSCP alone, {range}; not together with --tos",
        description: "The same by its DSCP alone; not together with tos.",
        ..integer("dscp", "number", 0..=63, None, |request, value| {
            request.dscp = Some(value);
        })
    },
    TraceOption {
        help: "Set IPv4's DF bit in probes; UDP always has it",
        ..switch("dont-fragment", |request, value| request.dont_fragment = value)
    },
    TraceOption {
        help: "Source address of probes, one of this host's; without it, the routing tables decide",
        description: "Source address of probes, one of the server's; without it, its routing tables decide. Only with \
                      --allow-egress.",
        ..text("source", "address", |request, text| {
            request.source = Some(text.to_owned());
            Ok(())
        })
    },
    TraceOption {
        help: "Interface by which probes leave, by name or index; without it, the routing tables decide",
        description: "Interface by which probes leave, by name or index; without it, the routing tables decide. Only with \
                      --allow-egress.",
        ..text("interface", "name", |request, text| {
            request.interface = Some(text.to_owned());
            Ok(())
        })
    },
    TraceOption {
        help: "Mark of probes that routing rules and firewalls see (Linux, CAP_NET_ADMIN), 0 to 4294967295; 0 means none",
        description: "Mark of probes that routing rules and firewalls of the server see, 0 to 4294967295; 0 means none. Only \
                      with --allow-egress.",
        ..text("fwmark", "number", |request, text| {
            let value = parse_int(text).ok().and_then(|value| u32::try_from(value).ok());
            request.fwmark = Some(value.ok_or("must be a number between 0 and 4294967295")?);
            Ok(())
        })
    },
    TraceOption {
        query: None,
        help: "How the result is written: json, table, wide (a column for each run), csv or dot (Graphviz)",
        ..choice("format", &FORMATS, |_, _| ())
    },
    TraceOption {
        help: "Report why probes went unanswered, ICMP codes, TTLs, MPLS labels and counters as well",
        ..switch("details", |request, value| request.details = value)
    },
];

const fn option(name: &'static str, value_name: &'static str, kind: Kind) -> TraceOption {
    TraceOption {
        flag: name,
        short: None,
        query: Some(name),
        value_name,
        help: "",
        description: "",
        kind,
    }
}

/// The first of `names` is the default.
const fn choice(
    name: &'static str,
    names: &'static [&'static str],
    set: fn(&mut Request, &str),
) -> TraceOption {
    option(name, "name", Kind::Choice { names, set })
}

const fn integer(
    name: &'static str,
    value_name: &'static str,
    range: RangeInclusive<i64>,
    default: Option<i64>,
    set: fn(&mut Request, i64),
) -> TraceOption {
    integer_with(name, value_name, range, [default, default], set)
}

/// An integer with a default for the command line, and another one for query strings.
const fn integer_with(
    name: &'static str,
    value_name: &'static str,
    range: RangeInclusive<i64>,
    [default, query_default]: [Option<i64>; 2],
    set: fn(&mut Request, i64),
) -> TraceOption {
    let kind = Kind::Integer {
        range,
        default,
        query_default,
        set,
    };
    option(name, value_name, kind)
}

const fn switch(name: &'static str, set: fn(&mut Request, bool)) -> TraceOption {
    option(name, "bool", Kind::Switch { set })
}

const fn text(
    name: &'static str,
    value_name: &'static str,
    set: fn(&mut Request, &str) -> Result<(), &'static str>,
) -> TraceOption {
    option(name, value_name, Kind::Text { set })
}
