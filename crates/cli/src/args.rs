//! The command line: from arguments to something to do.

use std::ffi::OsString;
use std::io;
use std::iter;

use crate::paths::Discovery;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, FromArgMatches, Subcommand};
use datadog_traceroute::{Host, Protocol, Request, Target};
use traceroute_flags::{
    Kind, Manual, OPTIONS, Parameters, PathParameters, Program, Shell, TraceOption, UsageError, go_style,
    parse_bool, path_arguments,
};
use traceroute_format::{Format, PathsFormat};

/// Name of the program, also where it was renamed.
pub(crate) const NAME: &str = "datadog-traceroute";

/// This program.
pub(crate) const PROGRAM: Program = Program {
    name: NAME,
    usage: "datadog-traceroute [options] target",
    manual: Manual {
        phrase: "trace the network path to a host and measure it end to end",
        exit_status: &[
            (
                "0",
                "There is a result, whether or not the destination was reached; doctor: something can be probed.",
            ),
            (
                "1",
                "Wrong usage, or no result; standard error says why. doctor: nothing can be probed.",
            ),
            ("130, 143", "Interrupted by Ctrl-C, or by SIGTERM."),
        ],
        environment: &[
            (
                "NO_COLOR, CLICOLOR",
                "Tables have no colours when NO_COLOR is set, or CLICOLOR is 0.",
            ),
            ("TERM", "When it is dumb, nothing is shown while a trace goes on."),
            (
                "HTTPS_PROXY, ALL_PROXY, NO_PROXY",
                "The proxy for --source-public-ip, and what needs none; the lower-case forms, too.",
            ),
        ],
        files: &[
            ("/etc/hosts", "Names and their addresses, read first."),
            ("/etc/resolv.conf", "The name servers, and how they are asked."),
            ("/etc/nsswitch.conf", "Other sources of names (Linux with glibc)."),
            (
                "/proc/sys/net/ipv4/ping_group_range",
                "The groups that may send ICMP without CAP_NET_RAW (Linux).",
            ),
        ],
        examples: &[
            (
                "datadog-traceroute --format table example.com",
                "The path as a table.",
            ),
            (
                "datadog-traceroute -P tcp --format table example.com:443",
                "With TCP SYN to port 443, which firewalls let through most often.",
            ),
            (
                "datadog-traceroute -q 1 -Q 0 example.com",
                "One run, no end-to-end probes: the fastest JSON document.",
            ),
            (
                "datadog-traceroute -6 --reverse-dns --format wide example.com",
                "Over IPv6, with names, each run in a column.",
            ),
            (
                "datadog-traceroute paths --format table example.com",
                "All paths that load balancers choose between.",
            ),
            (
                "datadog-traceroute doctor",
                "What can be probed here, and what is in the way.",
            ),
        ],
    },
};

/// The command that finds all paths.
const PATHS: &str = "paths";

/// This program as that command speaks of it.
const PATHS_PROGRAM: Program = Program {
    usage: "datadog-traceroute paths [options] target",
    ..PROGRAM
};

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Action {
    /// Trace the path to a target.
    Trace(Box<Trace>),
    /// Find all paths to a target.
    Paths(Box<Discovery>),
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
    /// Whether to write nothing but errors to standard error.
    pub(crate) quiet: bool,
    /// The TCP port that is probed although nobody chose it.
    pub(crate) default_tcp_port: Option<u16>,
}

/// Reads the arguments after the program's name.
///
/// # Errors
/// Everything that is not a correct usage, including values out of their range.
pub(crate) fn parse(arguments: Vec<OsString>) -> Result<Action, UsageError> {
    let switch_value = switch_value(&arguments);
    let literal = arguments.iter().any(|argument| argument == "--");
    let matches = match read(arguments) {
        Ok(matches) => matches,
        Err(error) if !error.use_stderr() => return Ok(Action::Help(error.to_string())),
        Err(error) => return Err(PROGRAM.clap_error(&error)),
    };
    if let Some((PATHS, matches)) = matches.subcommand() {
        return paths(matches);
    }
    if matches.subcommand_name().is_some() {
        let command = Command::from_arg_matches(&matches).map_err(|error| PROGRAM.clap_error(&error))?;
        return Ok(match command {
            Command::Version => Action::Version,
            Command::Completion { shell } => Action::Completion(shell),
            Command::Man => Action::Man,
            Command::Doctor => Action::Doctor,
        });
    }
    let parameters = Parameters::from_flags(&matches);
    if parameters.switch("version") {
        return Ok(Action::Version);
    }
    let surplus = matches.get_many::<String>(SURPLUS).map_or(0, Iterator::count);
    if surplus > 0 {
        let received = 1 + surplus;
        let advice = switch_value.map_or(String::new(), |written| {
            format!("; the value of a switch needs an equals sign: {written}")
        });
        return Err(PROGRAM.usage_error(format!("exactly one target is needed, not {received}{advice}")));
    }
    if parameters.get("target").is_none() {
        return Err(PROGRAM.usage_error("missing target"));
    }
    let target = parameters.text("target");
    if !literal && is_command(target) {
        return Err(command_as_target(target));
    }
    let request = parameters
        .validate()
        .map_err(|error| PROGRAM.usage_error(error.for_command_line()))?;
    contradiction(&parameters, &request).map_or(Ok(()), |problem| Err(PROGRAM.usage_error(problem)))?;
    let default_tcp_port = default_tcp_port(&matches, &request);
    let format = Format::named(parameters.text("format"));
    Ok(Action::Trace(Box::new(Trace {
        details: request.details(),
        request,
        format,
        verbose: parameters.switch("verbose"),
        quiet: parameters.switch("quiet"),
        default_tcp_port,
    })))
}

/// All paths to a target.
fn paths(matches: &ArgMatches) -> Result<Action, UsageError> {
    let parameters = PathParameters::from_flags(matches);
    let usage = |problem: String| PATHS_PROGRAM.usage_error(problem);
    if parameters.trace.get("target").is_none() {
        return Err(usage("missing target".to_owned()));
    }
    let checked = parameters.validate();
    let (request, options) = checked.map_err(|error| usage(error.for_command_line()))?;
    contradiction(&parameters.trace, &request).map_or(Ok(()), |problem| Err(usage(problem)))?;
    Ok(Action::Paths(Box::new(Discovery {
        request,
        options,
        format: PathsFormat::named(matches.get_one::<String>("format").map_or("", String::as_str)),
        verbose: parameters.trace.switch("verbose"),
        quiet: parameters.trace.switch("quiet"),
    })))
}

/// What cannot both be meant.
fn contradiction(parameters: &Parameters, request: &Request) -> Option<String> {
    let both =
        |one, other| format!("{one} and {other} contradict each other: only one of the two may be given");
    if parameters.switch("quiet") && parameters.switch("verbose") {
        return Some(both("--quiet", "--verbose"));
    }
    let v4_only = request.ipv4_only();
    let v6_only = parameters.switch("ipv6-only") && request.ipv6();
    if v4_only && request.ipv6() {
        return Some(both("-4", "--ipv6"));
    }
    match request.host() {
        Host::Address(address) if v4_only && address.is_ipv6() => {
            Some(format!("-4 takes no IPv6 address as the target, got {address}"))
        }
        Host::Address(address) if v6_only && address.is_ipv4() => {
            Some(format!("-6 takes no IPv4 address as the target, got {address}"))
        }
        _ => None,
    }
}

/// The default port, where it is that of TCP and nobody chose it.
fn default_tcp_port(matches: &ArgMatches, request: &Request) -> Option<u16> {
    let is_chosen = matches.value_source("port") == Some(ValueSource::CommandLine)
        || request
            .hostname()
            .parse()
            .is_ok_and(|target: Target| target.port.is_some());
    (request.protocol() == Protocol::Tcp && !is_chosen).then(|| request.probed_port())
}

/// `--ipv6=true`, where a boolean stands behind a switch as if it were its value.
fn switch_value(arguments: &[OsString]) -> Option<String> {
    arguments.windows(2).find_map(|pair| {
        let [flag, value] = pair else { return None };
        let (flag, value) = (flag.to_str()?, value.to_str()?);
        parse_bool(value).ok()?;
        let is_switch = |option: &&TraceOption| match option.kind {
            Kind::Switch(_) | Kind::Shorthand { .. } => {
                flag.strip_prefix("--") == Some(option.flag)
                    || option.short.is_some_and(|short| flag == format!("-{short}"))
            }
            _ => false,
        };
        OPTIONS.iter().find(is_switch).map(|_| format!("{flag}={value}"))
    })
}

fn read(arguments: Vec<OsString>) -> Result<ArgMatches, clap::Error> {
    go_style(command()).try_get_matches_from(iter::once(NAME.into()).chain(arguments))
}

/// A command's name where a target is expected, as in `--ipv6 version`: command or host?
fn command_as_target(name: &str) -> UsageError {
    PROGRAM.usage_error(format!(
        "the command {name} takes no options before it; to trace a host of that name, write -- {name}"
    ))
}

fn is_command(name: &str) -> bool {
    let mut command = command();
    // Which adds `help`.
    command.build();
    command.find_subcommand(name).is_some()
}

/// The completion script for `shell`.
pub(crate) fn completion(shell: Shell) -> Vec<u8> {
    PROGRAM.completion(command(), shell)
}

/// The manual page.
pub(crate) fn man() -> io::Result<Vec<u8>> {
    PROGRAM.man(command())
}

/// Targets beyond the first, which are refused.
const SURPLUS: &str = "surplus";

fn command() -> clap::Command {
    let command = clap::Command::new(NAME)
        .bin_name(NAME)
        .about(
            "Trace the network path to a host and measure it end to end; the result is one JSON document, or what \
             --format says",
        )
        .override_usage(PROGRAM.usage)
        .args_override_self(true)
        .args_conflicts_with_subcommands(true)
        .after_help(
            "Options may stand before or after the target; when one is repeated, the last counts.\n\
             To trace a host that has the name of a command, write: datadog-traceroute -- version",
        )
        .args(OPTIONS.iter().map(TraceOption::argument))
        .arg(Arg::new(SURPLUS).help("Targets beyond the first, which are refused").action(ArgAction::Append).num_args(1..).hide(true));
    Command::augment_subcommands(command.subcommand(paths_command()))
}

fn paths_command() -> clap::Command {
    let format = Arg::new("format")
        .long("format")
        .value_name("name")
        .value_parser(PathsFormat::NAMES)
        .ignore_case(true)
        .hide_possible_values(true)
        .default_value("json")
        .help("How the result is written: json, table, dot (Graphviz) or svg");
    let command = clap::Command::new(PATHS)
        .about("Find all paths to a host that load balancers choose between, with a bound on what may be missing")
        .override_usage(PATHS_PROGRAM.usage)
        .args_override_self(true)
        .args(path_arguments())
        .arg(format);
    go_style(command)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use traceroute_flags::Interface;

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

    fn arguments(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    /// What `line` says, defaults filled in but nothing checked.
    fn parameters(line: &str) -> Parameters {
        Parameters::from_flags(&read(arguments(line)).unwrap())
    }

    /// Asserts that `line` gives the flags these values, and all others their defaults.
    fn assert_values(line: &str, expected: &[(&str, &str)]) {
        let parameters = parameters(line);
        for option in OPTIONS.iter().filter(|option| option.flag != "target") {
            let name = option.flag;
            let given = expected.iter().find(|(given, _)| *given == name);
            let value = match given {
                Some((_, value)) => Some((*value).to_owned()),
                None => option
                    .default(Interface::CommandLine)
                    .map(|value| value.to_string()),
            };
            assert_eq!(
                parameters.get(name).map(ToString::to_string),
                value,
                "{line}: {name}"
            );
        }
        assert_eq!(parameters.text("target"), "host", "{line}");
    }

    fn error(line: &str) -> String {
        let error = parse(arguments(line)).unwrap_err().to_string();
        error.lines().next().unwrap().to_owned()
    }

    #[test]
    fn clap_accepts_the_definition() {
        go_style(command()).debug_assert();
    }

    #[test]
    fn manual_page_and_completions_have_every_flag_and_command() {
        assert_eq!(PROGRAM.undocumented(&command()), [""; 0]);
    }

    #[test]
    fn flags_are_the_contracts() {
        let command = go_style(command());
        for (short, name, default) in CONTRACT {
            let mut flags = command.get_arguments();
            let flag = flags.find(|flag| flag.get_long() == Some(name)).unwrap();
            assert_eq!(
                (flag.get_short(), flag.get_default_values()),
                (short, &[default.into()][..])
            );
        }
    }

    #[test]
    fn paths_have_options_of_their_own() {
        let discovery = |line: &str| match parse(arguments(line)) {
            Ok(Action::Paths(discovery)) => discovery,
            other => panic!("{line}: {other:?}"),
        };
        let usual = discovery("paths host");
        assert_eq!((usual.request.e2e_probes(), usual.format), (0, PathsFormat::Json));
        assert_eq!(usual.options, datadog_traceroute::PathsOptions::default());
        let chosen = discovery("paths -P icmp host -Q 5 --format SVG -6 --confidence 0.99 --quiet");
        assert_eq!(
            (chosen.request.protocol(), chosen.request.e2e_probes()),
            (Protocol::Icmp, 5)
        );
        assert!(chosen.request.ipv6() && chosen.quiet && chosen.format == PathsFormat::Svg);
        for (line, message) in [
            ("paths", "missing target"),
            (
                "paths host --confidence 2",
                r#"--confidence must be between 0.5 and 0.9999, got "2""#,
            ),
            (
                "paths host -m 300",
                "--max-ttl must be between 1 and 255, got 300",
            ),
        ] {
            assert!(error(line).contains(message), "{line}: {}", error(line));
        }
        // An option of runs.
        assert!(
            error("paths host -q 3").contains("-q"),
            "{}",
            error("paths host -q 3")
        );
        let Ok(Action::Trace(trace)) = parse(arguments("-- paths")) else {
            panic!("paths is a host, too");
        };
        assert_eq!(trace.request.hostname(), "paths");
    }

    #[test]
    fn without_flags_all_is_default() {
        assert_values("host", &[]);
    }

    #[test]
    fn every_flag_has_its_effect() {
        let mut line = vec!["host".to_owned()];
        let mut expected = Vec::new();
        for option in OPTIONS {
            let value = match &option.kind {
                // Shorthands change another one.
                Kind::Target | Kind::Shorthand { .. } => continue,
                Kind::Choice(choices) => choices[1].name.to_uppercase(),
                Kind::Integer(range, _) => (range.end() - 1).to_string(),
                Kind::Switch(_) => "true".to_owned(),
                Kind::Text(_) => "text".to_owned(),
            };
            line.push(format!("--{}={value}", option.flag));
            expected.push((option.flag, value));
        }
        let expected: Vec<_> = expected
            .iter()
            .map(|(flag, value)| (*flag, value.as_str()))
            .collect();
        assert_values(&line.join(" "), &expected);
        let short = [
            ("proto", "TCP"),
            ("port", "443"),
            ("traceroute-queries", "4"),
            ("e2e-queries", "5"),
            ("max-ttl", "6"),
            ("verbose", "true"),
            ("tos", "184"),
        ];
        assert_values("-P TCP -p 443 -q 4 -Q 5 -m 6 -v host --tos 0xB8", &short);
    }

    /// Remarks in tables are made of details.
    #[test]
    fn values_in_every_form() {
        let cases = [
            ("--proto tcp host", "proto", "tcp"),
            ("--proto=tcp host", "proto", "tcp"),
            ("-P tcp host", "proto", "tcp"),
            ("-Ptcp host", "proto", "tcp"),
            ("-P=tcp host", "proto", "tcp"),
            ("host --proto tcp", "proto", "tcp"),
            ("host -Ptcp", "proto", "tcp"),
            ("-vP tcp host --verbose=false", "proto", "tcp"),
            ("-vPtcp host --verbose=0", "proto", "tcp"),
            ("-P tcp -- host", "proto", "tcp"),
            ("--proto= host", "proto", ""),
            ("--proto --ipv6 host", "proto", "--ipv6"),
            ("-P udp -P icmp host --proto tcp", "proto", "tcp"),
            ("-p 0x50 host", "port", "80"),
            ("-p 1_000 host", "port", "1000"),
            ("-p +80 host", "port", "80"),
            ("-p -1 host", "port", "-1"),
            ("-p-1 host", "port", "-1"),
            ("-p=-1 host", "port", "-1"),
            ("--port -1 host", "port", "-1"),
            ("--port=-1 host", "port", "-1"),
            ("--port 99999999999 host", "port", "99999999999"),
            ("--port 80 --port=443 host", "port", "443"),
        ];
        for (line, name, value) in cases {
            assert_values(line, &[(name, value)]);
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
            assert_eq!(parameters(line).switch("ipv6"), expected, "{line}");
        }
        assert!(!parameters("-v=false host").switch("verbose"));
        assert!(!parameters("-v -v=0 host").switch("verbose"));
    }

    #[test]
    fn formats() {
        let format = |line: &str| match parse(arguments(line)) {
            Ok(Action::Trace(trace)) => trace.format,
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(format("host"), Format::Json);
        for name in ["json", "table", "wide", "csv", "dot"] {
            let expected = Format::named(name);
            assert_eq!(format!("{expected:?}").to_lowercase(), name);
            assert_eq!(format(&format!("--format {name} host")), expected);
            let upper_case = format!("host --format={}", name.to_uppercase());
            assert_eq!(format(&upper_case), expected);
        }
    }

    #[test]
    fn an_empty_tcp_method_is_the_default_as_in_the_service() {
        for line in ["--tcp-method= host", "--tcp-method=sack --tcp-method= host"] {
            assert_eq!(parameters(line).text("tcp-method"), "syn", "{line}");
        }
        assert_eq!(
            error("--proto= host"),
            "--proto must be udp, tcp or icmp, got \"\""
        );
    }

    #[test]
    fn a_switch_takes_no_value_from_the_next_argument() {
        let parameters = parameters("--ipv6 false");
        assert_eq!(
            (parameters.text("target"), parameters.switch("ipv6")),
            ("false", true)
        );
        let two = "exactly one target is needed, not 2";
        let advice = "; the value of a switch needs an equals sign:";
        for (line, expected) in [
            ("--ipv6 false host", format!("{two}{advice} --ipv6=false")),
            (
                "host --reverse-dns true",
                format!("{two}{advice} --reverse-dns=true"),
            ),
            ("-v 0 host", format!("{two}{advice} -v=0")),
            ("--ipv6 host other", two.to_owned()),
            ("-p 1 host other", two.to_owned()),
        ] {
            assert_eq!(error(line), expected, "{line}");
        }
    }

    #[test]
    fn of_an_option_and_its_shorthand_the_last_counts() {
        for (line, name, value) in [
            ("-6 host", "ipv6", "true"),
            ("-6 host --ipv6=false", "ipv6", "false"),
            ("--ipv6=false -6 host", "ipv6", "true"),
            ("-6=false host --ipv6", "ipv6", "true"),
            ("-n host", "reverse-dns", "false"),
            ("--reverse-dns -n host", "reverse-dns", "false"),
            ("-n --reverse-dns host", "reverse-dns", "true"),
            ("-n --reverse-dns -n host", "reverse-dns", "false"),
            ("--reverse-dns -n=false host", "reverse-dns", "true"),
            ("--format table --json host", "format", "json"),
            ("--json --format table host", "format", "table"),
        ] {
            assert_eq!(parameters(line).get(name).unwrap().to_string(), value, "{line}");
        }
    }

    #[test]
    fn contradictions() {
        let both = "contradict each other: only one of the two may be given";
        for (line, expected) in [
            ("--quiet -v host", format!("--quiet and --verbose {both}")),
            ("-4 -6 host", format!("-4 and --ipv6 {both}")),
            ("-4 --ipv6 host", format!("-4 and --ipv6 {both}")),
            (
                "-4 ::1",
                "-4 takes no IPv6 address as the target, got ::1".to_owned(),
            ),
            (
                "-6 127.0.0.1",
                "-6 takes no IPv4 address as the target, got 127.0.0.1".to_owned(),
            ),
            (
                "-4 --source ::1 host",
                r#"--source must be of the target's address family, got "::1""#.to_owned(),
            ),
        ] {
            assert_eq!(error(line), expected, "{line}");
        }
        for line in [
            "-4 127.0.0.1",
            "-6 ::1",
            "-4 -6 --ipv6=false host",
            "--ipv6 127.0.0.1",
            "--quiet -v=0 host",
        ] {
            assert!(parse(arguments(line)).is_ok(), "{line}");
        }
    }

    #[test]
    fn a_tcp_port_that_nobody_chose_is_told() {
        for (line, expected) in [
            ("-P tcp host", Some(33434)),
            ("-P tcp host -p 33434", None),
            ("-P tcp host:443", None),
            ("-P tcp [::1]:443", None),
            ("-P tcp ::1", Some(33434)),
            ("host", None),
        ] {
            let Ok(Action::Trace(trace)) = parse(arguments(line)) else {
                panic!("{line}");
            };
            assert_eq!(trace.default_tcp_port, expected, "{line}");
        }
    }

    #[test]
    fn commands() {
        for line in ["version", "-V", "--version", "host --version"] {
            assert!(matches!(parse(arguments(line)), Ok(Action::Version)), "{line}");
        }
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
                assert_eq!(trace.request.hostname(), name);
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
        for option in OPTIONS.iter().filter(|option| option.flag != "target") {
            let name = option.flag.replace('-', "\\-");
            let long = format!("\\fB\\-\\-{name}\\fR");
            let flag = option
                .short
                .map_or(long.clone(), |short| format!("\\fB\\-{short}\\fR, {long}"));
            let line = page.lines().find(|line| line.starts_with(&flag));
            let line = line.unwrap_or_else(|| panic!("no {flag} in {page}"));
            // Those without a value of their own for it say so in words.
            let default = option.default(Interface::CommandLine);
            let told = default.is_none_or(|default| line.ends_with(&format!("[default: {default}]")));
            assert!(told, "{line}");
        }
        assert!(page.contains("\n.TH DATADOG-TRACEROUTE 1 "), "{page}");
        let sections: Vec<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix(".SH "))
            .collect();
        let expected = [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "COMMANDS",
            r#""EXIT STATUS""#,
            "ENVIRONMENT",
            "FILES",
            "NOTES",
            "EXAMPLES",
        ];
        assert_eq!(sections, expected);
        let name = r"datadog\-traceroute \- trace the network path to a host";
        assert!(page.lines().any(|line| line.starts_with(name)), "{page}");
    }

    /// Each is a correct command line.
    #[test]
    fn the_manual_pages_examples_are_obeyed() {
        for (line, _) in PROGRAM.manual.examples {
            let (name, rest) = line.split_once(' ').unwrap();
            assert_eq!(name, NAME);
            assert!(parse(arguments(rest)).is_ok(), "{line}");
        }
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
