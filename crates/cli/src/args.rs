//! The command line: from arguments to something to do.

use std::ffi::{OsStr, OsString};
use std::io;
use std::iter;

use crate::format::Format;
use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueHint};
use datadog_traceroute::{Parameters, Request, parse_int};
use traceroute_flags::{Program, Shell, UsageError, go_style};

/// Name of the program, also where it was renamed.
pub(crate) const NAME: &str = "datadog-traceroute";

/// This program.
pub(crate) const PROGRAM: Program = Program {
    name: NAME,
    usage: "datadog-traceroute [options] target",
};

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Action {
    /// Trace the path to a target.
    Trace(Trace),
    /// Print a help text.
    Help(String),
    /// Say which build this is.
    Version,
    /// Print a completion script.
    Completion(Shell),
    /// Print the manual page.
    Man,
    /// Say what can be probed here, and what is in the way.
    Doctor,
}

/// A trace to make.
#[derive(Debug)]
pub(crate) struct Trace {
    /// What to trace, checked.
    pub(crate) request: Request,
    /// How its result is written.
    pub(crate) format: Format,
    /// Whether details were asked for. The request wants them also where only remarks are made of
    /// them.
    pub(crate) details: bool,
    /// Whether to log everything.
    pub(crate) verbose: bool,
}

/// Reads the arguments after the program's name.
///
/// # Errors
/// Everything that is not a correct usage, including values out of their range.
pub(crate) fn parse(arguments: Vec<OsString>) -> Result<Action, UsageError> {
    let literal = arguments.iter().any(|argument| argument == "--");
    let flags = match Flags::read(arguments) {
        Ok(flags) => flags,
        Err(error) if !error.use_stderr() => return Ok(Action::Help(error.to_string())),
        Err(error) => return Err(PROGRAM.clap_error(&error)),
    };
    match flags.command {
        Some(Command::Version) => return Ok(Action::Version),
        Some(Command::Completion { shell }) => return Ok(Action::Completion(shell)),
        Some(Command::Man) => return Ok(Action::Man),
        Some(Command::Doctor) => return Ok(Action::Doctor),
        None => {}
    }
    let verbose = flags.verbose;
    let format: Format = flags
        .format
        .parse()
        .map_err(|problem| PROGRAM.usage_error(format!("--format {problem}")))?;
    let parameters = flags.parameters()?;
    if !literal && is_command(&parameters.target) {
        return Err(command_as_target(&parameters.target));
    }
    let mut request = parameters
        .validate()
        .map_err(|error| PROGRAM.usage_error(error.for_command_line()))?;
    let details = request.details;
    // Remarks are made of them.
    request.details |= format.is_for_people();
    Ok(Action::Trace(Trace {
        request,
        format,
        details,
        verbose,
    }))
}

/// A command's name where a target is expected, as in `--ipv6 version`: command or host?
fn command_as_target(name: &str) -> UsageError {
    PROGRAM.usage_error(format!(
        "the command {name} takes no options before it; to trace a host of that name, write -- {name}"
    ))
}

fn is_command(name: &str) -> bool {
    let mut command = Flags::command();
    // Which adds `help`.
    command.build();
    command.find_subcommand(name).is_some()
}

/// The completion script for `shell`.
pub(crate) fn completion(shell: Shell) -> Vec<u8> {
    PROGRAM.completion(Flags::command(), shell)
}

/// The manual page.
pub(crate) fn man() -> io::Result<Vec<u8>> {
    PROGRAM.man(Flags::command())
}

/// Trace the network path to a host and measure it end to end; the result is one JSON document, or
/// what --format says
#[derive(Debug, Parser)]
#[command(
    name = NAME,
    bin_name = NAME,
    override_usage = PROGRAM.usage,
    args_override_self = true,
    args_conflicts_with_subcommands = true,
    after_help = "Options may stand before or after the target; when one is repeated, the last counts.\n\
                  To trace a host that has the name of a command, write: datadog-traceroute -- version",
)]
#[expect(clippy::doc_markdown, reason = "what stands here is shown to users, as help")]
struct Flags {
    /// Host name or address, perhaps with a port: host, host:443, 192.0.2.1, [2001:db8::1]:443,
    /// fe80::1%eth0
    #[arg(value_name = "target", value_hint = ValueHint::Hostname)]
    target: Option<String>,

    /// Targets beyond the first, which are refused
    #[arg(hide = true)]
    surplus: Vec<String>,

    /// Protocol of the probes: udp, tcp or icmp
    #[arg(short = 'P', long, value_name = "name", value_parser = Suggest(&["udp", "tcp", "icmp"]))]
    #[arg(hide_possible_values = true, default_value_t = Parameters::default().protocol)]
    proto: String,

    /// Port to probe, 0 to 65535; 0 means 33434
    #[arg(short, long, value_name = "number", value_parser = parse_int)]
    #[arg(default_value_t = Parameters::default().port)]
    port: i64,

    /// Number of traceroute runs, 0 to 65535
    #[arg(short = 'q', long, value_name = "number", value_parser = parse_int)]
    #[arg(default_value_t = Parameters::default().traceroute_queries)]
    traceroute_queries: i64,

    /// Highest TTL to probe, 1 to 255 hops
    #[arg(short, long, value_name = "hops", value_parser = parse_int)]
    #[arg(default_value_t = Parameters::default().max_ttl)]
    max_ttl: i64,

    /// Log everything to standard error
    #[arg(short, long)]
    verbose: bool,

    /// How TCP probes: syn, sack, prefer_sack or, on Windows, syn_socket
    #[arg(long, value_name = "name", value_parser = Suggest(&["syn", "sack", "prefer_sack", "syn_socket"]))]
    #[arg(hide_possible_values = true, default_value_t = Parameters::default().tcp_method)]
    tcp_method: String,

    /// Take an IPv6 address of a target given by name
    #[arg(long)]
    ipv6: bool,

    /// Milliseconds an answer may take, 0 to 86400000; 0 means 3000
    #[arg(long, value_name = "ms", value_parser = parse_int)]
    #[arg(default_value_t = Parameters::default().timeout_ms)]
    timeout: i64,

    /// Look up the names of hops and destination
    #[arg(long)]
    reverse_dns: bool,

    /// Ask web services for this machine's public IPv4 address
    #[arg(long)]
    source_public_ip: bool,

    /// Number of end-to-end probes, 0 to 65535
    #[arg(short = 'Q', long, value_name = "number", value_parser = parse_int)]
    #[arg(default_value_t = Parameters::default().e2e_queries)]
    e2e_queries: i64,

    /// Use the Windows driver (ignored elsewhere)
    #[arg(long)]
    windows_driver: bool,

    /// Blank hops with private addresses in the result
    #[arg(long)]
    skip_private_hops: bool,

    /// How often a silent hop is probed again, 0 to 10; costs no time
    #[arg(long, value_name = "number", value_parser = parse_int)]
    #[arg(default_value_t = Parameters::default().hop_retries)]
    hop_retries: i64,

    /// Milliseconds between end-to-end probes, 0 to 86400000; 0 means at most 1000, over UDP as
    /// fast as the target answers
    #[arg(long, value_name = "ms", value_parser = parse_int)]
    #[arg(default_value_t = Parameters::default().e2e_interval_ms)]
    e2e_interval: i64,

    /// Lowest TTL to probe, 1 to max-ttl hops
    #[arg(long, value_name = "hops", value_parser = parse_int)]
    #[arg(default_value_t = Parameters::default().first_ttl)]
    first_ttl: i64,

    /// Milliseconds between a run's probes, 0 to timeout; 0 means up to 16 at once, TCP SYN too
    /// [default: 50, for TCP SACK 10]
    #[arg(long, value_name = "ms", value_parser = parse_int)]
    delay: Option<i64>,

    /// Bytes of each probe's IP packet, at most 65535; not for TCP [default: as short as can be]
    #[arg(long, value_name = "bytes", value_parser = parse_int)]
    packet_size: Option<i64>,

    /// Type of service (IPv4) or traffic class (IPv6) of the probes, 0 to 255 [default: 0]
    #[arg(long, value_name = "number", value_parser = parse_int)]
    tos: Option<i64>,

    /// The same by its DSCP alone, 0 to 63; not together with --tos
    #[arg(long, value_name = "number", value_parser = parse_int)]
    dscp: Option<i64>,

    /// Set IPv4's DF bit in probes; UDP always has it
    #[arg(long)]
    dont_fragment: bool,
    /// Source address of probes, one of this host's; without it, the routing tables decide
    #[arg(long, value_name = "address")]
    source: Option<String>,

    /// Interface by which probes leave, by name or index; without it, the routing tables decide
    #[arg(long, value_name = "name")]
    interface: Option<String>,

    /// Mark of probes that routing rules and firewalls see (Linux, CAP_NET_ADMIN), 0 to 4294967295;
    /// 0 means none
    #[arg(long, value_name = "number")]
    fwmark: Option<String>,

    /// How the result is written: json, table, wide (a column for each run), csv or dot (Graphviz)
    #[arg(long, value_name = "name", value_parser = Suggest(&Format::NAMES))]
    #[arg(hide_possible_values = true, default_value = Format::DEFAULT)]
    format: String,

    /// Report why probes went unanswered, ICMP codes, TTLs, MPLS labels and counters as well
    #[arg(long)]
    details: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print version, commit and build date
    Version,
    /// Print a completion script for a shell
    Completion {
        /// Which shell
        #[arg(value_name = "shell")]
        shell: Shell,
    },
    /// Print the manual page
    Man,
    /// Say what can be probed from here and how, what is in the way, and what to do about it
    Doctor,
}

impl Flags {
    fn read(arguments: Vec<OsString>) -> Result<Flags, clap::Error> {
        let mut command = go_style(Flags::command());
        let matches = command.try_get_matches_from_mut(iter::once(NAME.into()).chain(arguments))?;
        Flags::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    }

    fn parameters(self) -> Result<Parameters, UsageError> {
        if !self.surplus.is_empty() {
            let received = 1 + self.surplus.len();
            return Err(PROGRAM.usage_error(format!("exactly one target is needed, not {received}")));
        }
        Ok(Parameters {
            target: self.target.ok_or_else(|| PROGRAM.usage_error("missing target"))?,
            protocol: self.proto,
            tcp_method: self.tcp_method,
            port: self.port,
            traceroute_queries: self.traceroute_queries,
            e2e_queries: self.e2e_queries,
            max_ttl: self.max_ttl,
            timeout_ms: self.timeout,
            ipv6: self.ipv6,
            reverse_dns: self.reverse_dns,
            source_public_ip: self.source_public_ip,
            windows_driver: self.windows_driver,
            skip_private_hops: self.skip_private_hops,
            details: self.details,
            hop_retries: self.hop_retries,
            e2e_interval_ms: self.e2e_interval,
            first_ttl: self.first_ttl,
            delay_ms: self.delay,
            packet_size: self.packet_size,
            tos: self.tos,
            dscp: self.dscp,
            dont_fragment: self.dont_fragment,
            source: self.source,
            interface: self.interface,
            fwmark: self.fwmark,
        })
    }
}

/// Takes any text, and knows the values to offer in completions. Which are right is for the library
/// to say.
#[derive(Clone)]
struct Suggest(&'static [&'static str]);

impl TypedValueParser for Suggest {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        flag: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, flag, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.0.iter().map(PossibleValue::new)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The contract's table of flags: shorthand, name, default.
    const CONTRACT: [(Option<char>, &str, &str); 13] = [
        (Some('P'), "proto", "udp"),
        (Some('p'), "port", "33434"),
        (Some('q'), "traceroute-queries", "3"),
        (Some('m'), "max-ttl", "30"),
        (Some('v'), "verbose", "false"),
        (None, "tcp-method", "syn"),
        (None, "ipv6", "false"),
        (None, "timeout", "0"),
        (None, "reverse-dns", "false"),
        (None, "source-public-ip", "false"),
        (Some('Q'), "e2e-queries", "50"),
        (None, "windows-driver", "false"),
        (None, "skip-private-hops", "false"),
    ];
    /// Flags beyond the contract.
    const OWN: [(Option<char>, &str, &str); 13] = [
        (None, "hop-retries", "2"),
        (None, "e2e-interval", "0"),
        (None, "first-ttl", "1"),
        (None, "delay", ""),
        (None, "packet-size", ""),
        (None, "tos", ""),
        (None, "dscp", ""),
        (None, "dont-fragment", "false"),
        (None, "source", ""),
        (None, "interface", ""),
        (None, "fwmark", ""),
        (None, "format", "json"),
        (None, "details", "false"),
    ];

    fn arguments(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    /// What `line` says, defaults filled in but nothing checked.
    fn parameters(line: &str) -> Parameters {
        Flags::read(arguments(line)).unwrap().parameters().unwrap()
    }

    fn error(line: &str) -> String {
        let error = parse(arguments(line)).unwrap_err().to_string();
        error.lines().next().unwrap().to_owned()
    }

    fn defaults() -> Parameters {
        Parameters {
            target: "host".to_owned(),
            ..Parameters::default()
        }
    }

    #[test]
    fn clap_accepts_the_definition() {
        go_style(Flags::command()).debug_assert();
    }

    #[test]
    fn manual_page_and_completions_have_every_flag_and_command() {
        assert_eq!(PROGRAM.undocumented(&Flags::command()), [""; 0]);
    }

    #[test]
    fn flags_are_the_contracts() {
        let command = go_style(Flags::command());
        let flags: Vec<_> = command
            .get_arguments()
            .filter(|flag| !flag.is_positional() && flag.get_id() != "help")
            .map(|flag| {
                let default = flag.get_default_values().first();
                let default = default.map_or("", |default| default.to_str().unwrap());
                (flag.get_short(), flag.get_long().unwrap(), default)
            })
            .collect();
        assert_eq!(flags, [&CONTRACT[..], &OWN].concat());
    }

    #[test]
    fn without_flags_all_is_default() {
        assert_eq!(parameters("host"), defaults());
        assert!(!Flags::read(arguments("host")).unwrap().verbose);
    }

    #[test]
    fn every_flag_has_its_effect() {
        let expected = Parameters {
            target: "host".to_owned(),
            protocol: "TCP".to_owned(),
            tcp_method: "prefer_sack".to_owned(),
            port: 443,
            traceroute_queries: 4,
            e2e_queries: 5,
            max_ttl: 6,
            timeout_ms: 7,
            ipv6: true,
            reverse_dns: true,
            source_public_ip: true,
            windows_driver: true,
            skip_private_hops: true,
            details: true,
            hop_retries: 8,
            e2e_interval_ms: 9,
            first_ttl: 2,
            delay_ms: Some(0),
            packet_size: Some(100),
            tos: Some(184),
            dscp: Some(46),
            dont_fragment: true,
            source: Some("10.0.0.1".to_owned()),
            interface: Some("eth1".to_owned()),
            fwmark: Some("0x10".to_owned()),
        };
        let long = "--proto TCP --tcp-method prefer_sack --port 443 --traceroute-queries 4 --e2e-queries 5 \
                    --max-ttl 6 --timeout 7 --ipv6 --reverse-dns --source-public-ip --windows-driver \
                    --skip-private-hops --details --hop-retries 8 --e2e-interval 9 --first-ttl 2 --delay 0 \
                    --packet-size 100 --tos 184 --dscp 46 --dont-fragment --source 10.0.0.1 --interface eth1 \
                    --fwmark 0x10 --verbose host";
        assert_eq!(parameters(long), expected);
        assert!(Flags::read(arguments(long)).unwrap().verbose);
        let short = "-P TCP -p 443 -q 4 -Q 5 -m 6 -v host --tcp-method=prefer_sack --timeout=7 --ipv6=1 \
                     --reverse-dns=t --source-public-ip=T --windows-driver=true --skip-private-hops=TRUE --details \
                     --hop-retries=8 --e2e-interval=9 --first-ttl=2 --delay=0 --packet-size=100 --tos=0xB8 --dscp=46 \
                     --dont-fragment=1 --source=10.0.0.1 --interface=eth1 --fwmark=0x10";
        assert_eq!(parameters(short), expected);
        assert!(Flags::read(arguments(short)).unwrap().verbose);
    }

    /// Remarks in tables are made of details.
    #[test]
    fn tables_have_details_behind_them_but_only_those_who_ask_see_them() {
        for (line, requested, shown) in [
            ("--format table host", true, false),
            ("--format wide host", true, false),
            ("--format table --details host", true, true),
            ("--format json host", false, false),
            ("--format csv host", false, false),
            ("--format dot host", false, false),
            ("--details host", true, true),
        ] {
            let Ok(Action::Trace(trace)) = parse(arguments(line)) else {
                panic!("{line}");
            };
            assert_eq!(
                (trace.request.details, trace.details),
                (requested, shown),
                "{line}"
            );
        }
    }

    #[test]
    fn values_in_every_form() {
        let proto = |protocol: &str| Parameters {
            protocol: protocol.to_owned(),
            ..defaults()
        };
        let port = |port| Parameters { port, ..defaults() };
        let cases = [
            ("--proto tcp host", proto("tcp")),
            ("--proto=tcp host", proto("tcp")),
            ("-P tcp host", proto("tcp")),
            ("-Ptcp host", proto("tcp")),
            ("-P=tcp host", proto("tcp")),
            ("host --proto tcp", proto("tcp")),
            ("host -Ptcp", proto("tcp")),
            ("-vP tcp host", proto("tcp")),
            ("-vPtcp host", proto("tcp")),
            ("-P tcp -- host", proto("tcp")),
            ("--proto= host", proto("")),
            ("--proto --ipv6 host", proto("--ipv6")),
            ("-P udp -P icmp host --proto tcp", proto("tcp")),
            ("-p 0x50 host", port(80)),
            ("-p 1_000 host", port(1000)),
            ("-p +80 host", port(80)),
            ("-p -1 host", port(-1)),
            ("-p-1 host", port(-1)),
            ("-p=-1 host", port(-1)),
            ("--port -1 host", port(-1)),
            ("--port=-1 host", port(-1)),
            ("--port 99999999999 host", port(99_999_999_999)),
            ("--port 80 --port=443 host", port(443)),
        ];
        for (line, expected) in cases {
            assert_eq!(parameters(line), expected, "{line}");
        }
    }

    #[test]
    fn switches_in_every_form() {
        let cases = [
            ("--ipv6 host", true),
            ("--ipv6=true host", true),
            ("--ipv6=True host", true),
            ("--ipv6=TRUE host", true),
            ("--ipv6=t host", true),
            ("--ipv6=T host", true),
            ("--ipv6=1 host", true),
            ("--ipv6=false host", false),
            ("--ipv6=False host", false),
            ("--ipv6=FALSE host", false),
            ("--ipv6=f host", false),
            ("--ipv6=F host", false),
            ("--ipv6=0 host", false),
            ("--ipv6 --ipv6=false host", false),
            ("--ipv6=false --ipv6 host", true),
            ("host --ipv6", true),
        ];
        for (line, expected) in cases {
            assert_eq!(parameters(line).ipv6, expected, "{line}");
        }
        assert!(!Flags::read(arguments("-v=false host")).unwrap().verbose);
        assert!(!Flags::read(arguments("-v -v=0 host")).unwrap().verbose);
    }

    #[test]
    fn formats() {
        let format = |line: &str| match parse(arguments(line)) {
            Ok(Action::Trace(trace)) => trace.format,
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(format("host"), Format::Json);
        for name in Format::NAMES {
            let expected: Format = name.parse().unwrap();
            assert_eq!(format(&format!("--format {name} host")), expected);
            assert_eq!(
                format(&format!("host --format={}", name.to_uppercase())),
                expected
            );
        }
    }

    #[test]
    fn a_switch_takes_no_value_from_the_next_argument() {
        let expected = Parameters {
            target: "false".to_owned(),
            ipv6: true,
            ..Parameters::default()
        };
        assert_eq!(parameters("--ipv6 false"), expected);
        assert_eq!(error("--ipv6 false host"), "exactly one target is needed, not 2");
    }

    #[test]
    fn commands() {
        assert!(matches!(parse(arguments("version")), Ok(Action::Version)));
        assert!(matches!(parse(arguments("doctor")), Ok(Action::Doctor)));
        assert!(matches!(parse(arguments("man")), Ok(Action::Man)));
        for (name, shell) in [
            ("bash", Shell::Bash),
            ("zsh", Shell::Zsh),
            ("fish", Shell::Fish),
            ("powershell", Shell::PowerShell),
        ] {
            let action = parse(arguments(&format!("completion {name}")));
            assert!(
                matches!(action, Ok(Action::Completion(found)) if found == shell),
                "{name}"
            );
        }
        for line in [
            "help",
            "-h",
            "--help",
            "help version",
            "version --help",
            "host -h",
            "--help --bad",
        ] {
            assert!(matches!(parse(arguments(line)), Ok(Action::Help(_))), "{line}");
        }
    }

    #[test]
    fn hosts_with_the_name_of_a_command() {
        for name in ["version", "completion", "man", "doctor", "help"] {
            for line in [format!("-- {name}"), format!("-v -- {name}")] {
                let Ok(Action::Trace(trace)) = parse(arguments(&line)) else {
                    panic!("{line} traces nothing");
                };
                assert_eq!(trace.request.hostname, name);
            }
            assert_eq!(
                error(&format!("-v {name}")),
                format!(
                    "the command {name} takes no options before it; to trace a host of that name, write -- {name}"
                )
            );
        }
    }

    #[test]
    fn out_of_range_names_flag_and_range() {
        let cases = [
            (
                "--port 65536 host",
                "--port must be between 0 and 65535, got 65536",
            ),
            ("-p -1 host", "--port must be between 0 and 65535, got -1"),
            ("--max-ttl 0 host", "--max-ttl must be between 1 and 255, got 0"),
            ("-m 300 host", "--max-ttl must be between 1 and 255, got 300"),
            (
                "-q -1 host",
                "--traceroute-queries must be between 0 and 65535, got -1",
            ),
            ("-Q -1 host", "--e2e-queries must be between 0 and 65535, got -1"),
            (
                "--first-ttl 0 host",
                "--first-ttl must be between 1 and 30, got 0",
            ),
            (
                "--first-ttl 9 -m 8 host",
                "--first-ttl must be between 1 and 8, got 9",
            ),
            (
                "--delay 3001 host",
                "--delay must be between 0 and 3000 ms, got 3001",
            ),
            (
                "--packet-size 53 host",
                "--packet-size must be between 54 and 65535 bytes, got 53",
            ),
            (
                "--packet-size 100 -P tcp host",
                "--packet-size cannot be chosen for tcp: its probes carry no data, got 100",
            ),
            ("--tos 256 host", "--tos must be between 0 and 255, got 256"),
            ("--dscp 64 host", "--dscp must be between 0 and 63, got 64"),
            (
                "--tos 1 --dscp 1 host",
                "--dscp sets part of what tos sets: only one of the two may be given",
            ),
            (
                "--hop-retries 11 host",
                "--hop-retries must be between 0 and 10, got 11",
            ),
            (
                "--hop-retries -1 host",
                "--hop-retries must be between 0 and 10, got -1",
            ),
            (
                "-Q 1 --e2e-interval 86400001 host",
                "--e2e-interval must be between 0 and 86400000 ms, got 86400001",
            ),
            (
                "-Q 10 --e2e-interval 10001 host",
                "--e2e-interval must let all 10 end-to-end probes be sent within max-ttl × timeout = 90000 ms, got 10001 ms",
            ),
            (
                "--timeout -1 host",
                "--timeout must be between 0 and 86400000 ms, got -1",
            ),
            (
                "--source eth0 host",
                "--source must be an IPv4 or IPv6 address, got \"eth0\"",
            ),
            (
                "--fwmark 4294967296 host",
                "--fwmark must be a number between 0 and 4294967295, got \"4294967296\"",
            ),
            ("-P sctp host", "--proto must be udp, tcp or icmp, got \"sctp\""),
            (
                "--format xml host",
                "--format must be json, table, wide, csv or dot, got \"xml\"",
            ),
        ];
        for (line, expected) in cases {
            assert_eq!(error(line), expected, "{line}");
        }
    }

    #[test]
    fn the_manual_page_tells_defaults() {
        let page = String::from_utf8(man().unwrap()).unwrap();
        for (short, name, default) in CONTRACT.iter().chain(&OWN) {
            let name = name.replace('-', "\\-");
            let long = format!("\\fB\\-\\-{name}\\fR");
            let flag = short.map_or(long.clone(), |short| format!("\\fB\\-{short}\\fR, {long}"));
            let line = page.lines().find(|line| line.starts_with(&flag));
            let line = line.unwrap_or_else(|| panic!("no {flag} in {page}"));
            // Those without a value of their own for it say so in words.
            let told = default.is_empty() || line.ends_with(&format!("[default: {default}]"));
            assert!(told, "{line}");
        }
        assert!(page.contains("\n.TH DATADOG-TRACEROUTE 1 "), "{page}");
    }

    /// In shells for which clap can offer any.
    #[test]
    fn completions_offer_values() {
        for (shell, expected) in [
            (Shell::Bash, r#"compgen -W "syn sack prefer_sack syn_socket""#),
            (Shell::Zsh, ":name:(syn sack prefer_sack syn_socket)"),
            (Shell::Fish, r"prefer_sack\t''"),
        ] {
            let script = String::from_utf8(completion(shell)).unwrap();
            assert!(script.contains(expected), "{shell}: {script}");
        }
    }

    proptest! {
        #[test]
        fn no_arguments_panic(arguments: Vec<OsString>) {
            let _ = parse(arguments);
        }

        #[test]
        fn no_arguments_like_ours_panic(
            arguments in prop::collection::vec(
                prop_oneof![
                    "-{0,3}[Ppqmv0]{0,3}=?[a-z0-9_-]{0,4}",
                    "--(proto|port|max-ttl|ipv6|verbose|timeout|help)=?[a-z0-9_-]{0,4}",
                    "help|version|completion|bash|host|-|--|",
                    "[0-9a-f:.\\[\\]]{0,12}",
                ],
                0..6,
            ),
        ) {
            let arguments = arguments.into_iter().map(OsString::from).collect();
            if let Err(error) = parse(arguments) {
                prop_assert!(!error.to_string().starts_with('\n'), "nothing said");
            }
        }
    }
}
