//! The command line: from arguments to something to do.
// Documentation here is help text as well, in which brackets are brackets.
#![allow(rustdoc::broken_intra_doc_links)]

use std::ffi::OsString;
use std::io;
use std::iter;
use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueHint};
use datadog_traceroute::{MAX_QUERIES, MAX_TIMEOUT_MS, most_name_sockets};
use traceroute_flags::{Manual, Program, Shell, UsageError, go_style, parse_int};

use crate::auth::VARIABLE;
use crate::browser::{AllowedHosts, parse_host};
use crate::connections::Client;
use crate::duration;
use crate::limits::{Capacity, Ceilings};
use crate::listen::ListenAddress;
use crate::logging::{LogFormat, LogLevel};
use crate::observe::BodyLimit;
use crate::parameters::Query;
use crate::policy::{Choices, EgressParameter, Policy, Subnet, parse_subnet};
use crate::tls::TlsFiles;

/// Open files beside connections, the ports of traces and sockets to name servers: what probing and
/// the log need, the reserve of connections, and a socket for each thread that asks the C library.
const OTHER_FILES: u64 = 200;
/// A shorter header names hardly more than a path and a host.
const SMALLEST_HEADER: usize = 256;

/// Name of the program, also where it was renamed.
const NAME: &str = "datadog-traceroute-server";

/// This program.
pub(crate) const PROGRAM: Program = Program {
    name: NAME,
    usage: "datadog-traceroute-server [options]",
    manual: Manual {
        phrase: "trace network paths on request over HTTP",
        exit_status: &[
            ("0", "Stopped by SIGTERM or Ctrl-C."),
            (
                "1",
                "Wrong usage, or the service could not start; standard error says why.",
            ),
        ],
        environment: &[
            (VARIABLE, "The token that requests must have."),
            (
                "HTTPS_PROXY, ALL_PROXY, NO_PROXY",
                "The proxy for source-public-ip, and what needs none; the lower-case forms, too.",
            ),
        ],
        files: &[
            (
                "/etc/hosts",
                "Names and their addresses, read for each request, first.",
            ),
            (
                "/etc/resolv.conf",
                "The name servers, and how they are asked; read for each request.",
            ),
            ("/etc/nsswitch.conf", "Other sources of names (Linux with glibc)."),
        ],
        examples: &[
            (
                "datadog-traceroute-server --addr 127.0.0.1:3765",
                "For this machine only.",
            ),
            (
                "curl 'http://127.0.0.1:3765/traceroute?target=example.com'",
                "Asks it for the path to example.com.",
            ),
        ],
    },
};

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Action {
    /// Serve.
    Serve(Box<Config>),
    /// Print a help text.
    Help(String),
    /// Say which build this is.
    Version,
    /// Print a completion script.
    Completion(Shell),
    /// Print the manual page.
    Man,
}

/// What the operator decided.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// TCP address; `None`: a Unix socket only.
    pub(crate) addr: Option<ListenAddress>,
    #[cfg_attr(not(unix), allow(dead_code))]
    pub(crate) unix_socket: Option<PathBuf>,
    /// Permission bits.
    #[cfg_attr(not(unix), allow(dead_code))]
    pub(crate) unix_socket_mode: u32,
    pub(crate) log_level: LogLevel,
    pub(crate) log_format: LogFormat,
    pub(crate) windows_driver: bool,
    pub(crate) grace_period: Duration,
    pub(crate) capacity: Capacity,
    pub(crate) max_requests_per_minute: Option<NonZeroU32>,
    pub(crate) max_ports: u32,
    pub(crate) max_connections: u32,
    pub(crate) max_connections_per_client: u32,
    pub(crate) ceilings: Ceilings,
    /// Bytes of a header.
    pub(crate) max_header_size: usize,
    /// Bytes of a body.
    pub(crate) max_request_size: usize,
    pub(crate) header_timeout: Duration,
    pub(crate) write_timeout: Duration,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) tokens_file: Option<PathBuf>,
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) allowed_hosts: AllowedHosts,
    pub(crate) no_sandbox: bool,
    pub(crate) policy: Policy,
}

impl Config {
    /// Where the Unix socket's file is.
    pub(crate) fn socket_folder(&self) -> Option<&Path> {
        let folder = self.unix_socket.as_deref()?.parent()?;
        Some(if folder == Path::new("") {
            Path::new(".")
        } else {
            folder
        })
    }

    /// Whether nobody but this machine's users reaches the service.
    pub(crate) fn is_local(&self) -> bool {
        self.addr.as_ref().is_none_or(ListenAddress::is_loopback)
    }

    /// Lowers the limit of traces to three quarters of this many ports: the others are for name
    /// servers, and for whatever else this machine does. True if it fitted already.
    pub(crate) fn fit_ports(&mut self, ports: u32) -> bool {
        let most = (ports - ports / 4).max(1);
        let fits = self.capacity.traces <= most;
        self.capacity.traces = self.capacity.traces.min(most);
        fits
    }

    /// Lowers the limits of connections and traces to what fits into this many open files: otherwise
    /// either would take the last one, and nobody could connect any more. True if they fitted already.
    pub(crate) fn fit(&mut self, files: u64) -> bool {
        let others = OTHER_FILES + most_name_sockets(files);
        let room = files.saturating_sub(others).max(files / 4).max(4);
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        // To the Unix socket there may be as many connections as to TCP addresses.
        let kinds = u32::from(self.addr.is_some()) + u32::from(self.unix_socket.is_some());
        let asked = self.max_connections.saturating_mul(kinds);
        let traces = self.capacity.traces.min(room - asked.min(room / 2));
        let connections = self.max_connections.min((room - traces) / kinds.max(1));
        let fits = traces == self.capacity.traces && connections == self.max_connections;
        // A client keeps its part of the whole.
        let part = u64::from(self.max_connections_per_client) * u64::from(connections);
        let part = part.div_ceil(self.max_connections.into());
        self.max_connections_per_client = u32::try_from(part).unwrap_or(u32::MAX);
        self.max_connections = connections;
        self.capacity.traces = traces;
        fits
    }

    /// # Errors
    /// Limits that keep out everything.
    fn check(&self) -> Result<(), String> {
        if self.max_header_size < SMALLEST_HEADER {
            return Err(format!(
                "--max-header-size and --max-request-size must be at least {SMALLEST_HEADER}: no request would be let in"
            ));
        }
        self.lets_in("traceroute-queries=1&e2e-queries=0&max-ttl=1")
            .map_err(|problem| format!("no request would be let in: {problem}"))
    }

    /// Whether a request with these parameters is let in where nothing else runs.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn lets_in(&self, parameters: &str) -> Result<(), String> {
        // From the range for documentation.
        let query = Query::parse(&format!("target=192.0.2.1&{parameters}"));
        let request = query.read_trace(&self.ceilings).parameters.validate();
        let request = request.map_err(|error| error.to_string())?;
        self.ceilings.check(&request).map_err(|error| error.to_string())?;
        // Through a Unix socket alone one may have everything.
        let client = match self.addr {
            Some(_) => Client::of(Ipv4Addr::LOCALHOST.into()),
            None => Client::Local,
        };
        match self.capacity.refuses(&request, client) {
            Some(scarce) => Err(format!("{} is too small", scarce.option())),
            None => Ok(()),
        }
    }

    pub(crate) fn body_limit(&self) -> BodyLimit {
        BodyLimit {
            size: self.max_request_size,
            timeout: self.header_timeout,
        }
    }
}

/// Reads the arguments after the program's name.
///
/// # Errors
/// Everything that is not a correct usage.
pub(crate) fn parse(arguments: Vec<OsString>) -> Result<Action, UsageError> {
    let mut command = go_style(Flags::command());
    let arguments = iter::once(NAME.into()).chain(arguments);
    let matches = match command.try_get_matches_from_mut(arguments) {
        Ok(matches) => matches,
        Err(error) if !error.use_stderr() => return Ok(Action::Help(error.to_string())),
        Err(error) => return Err(PROGRAM.clap_error(&error)),
    };
    let addr_is_given = matches.value_source("addr") == Some(ValueSource::CommandLine);
    let flags =
        Flags::from_arg_matches(&matches).map_err(|error| PROGRAM.clap_error(&error.format(&mut command)))?;
    match flags.command {
        Some(Command::Version) => Ok(Action::Version),
        Some(Command::Completion { shell }) => Ok(Action::Completion(shell)),
        Some(Command::Man) => Ok(Action::Man),
        None => Ok(Action::Serve(Box::new(flags.config(addr_is_given)?))),
    }
}

/// The completion script for `shell`.
pub(crate) fn completion(shell: Shell) -> Vec<u8> {
    PROGRAM.completion(Flags::command(), shell)
}

/// The manual page.
pub(crate) fn man() -> io::Result<Vec<u8>> {
    PROGRAM.man(Flags::command())
}

/// Serve traceroutes over HTTP
#[derive(Debug, Parser)]
#[command(
    name = NAME,
    bin_name = NAME,
    override_usage = PROGRAM.usage,
    args_override_self = true,
    args_conflicts_with_subcommands = true,
    after_help = "When an option is repeated, the last counts; --allow, --deny, --allowed-hosts and --allow-egress add up.\n\
                  The environment variable DATADOG_TRACEROUTE_TOKEN may hold the bearer token.\n\
                  Durations are written 1h30m, 10s or 500ms.",
)]
struct Flags {
    /// TCP address to listen on: :port (all addresses, IPv6 and IPv4), host:port or [v6]:port
    #[arg(short, long, value_name = "address", default_value = ":3765")]
    addr: ListenAddress,

    /// What is logged: error, warn, info, debug or trace
    #[arg(
        short,
        long,
        value_name = "level",
        default_value = "info",
        hide_possible_values = true
    )]
    log_level: LogLevel,

    /// How it is logged: text or json
    #[arg(
        long,
        value_name = "format",
        default_value = "text",
        hide_possible_values = true
    )]
    log_format: LogFormat,

    /// Listen on a Unix socket as well; on nothing else, unless --addr is given
    #[arg(long, value_name = "path", value_hint = ValueHint::FilePath)]
    unix_socket: Option<PathBuf>,

    /// Permissions of the Unix socket, octal
    #[arg(long, value_name = "mode", default_value = "660", value_parser = parse_mode)]
    unix_socket_mode: u32,

    /// Start the Windows driver at once (ignored elsewhere)
    #[arg(long)]
    windows_driver: bool,

    /// How long requests may go on after SIGTERM or Ctrl-C
    #[arg(long, value_name = "duration", default_value = "10s", value_parser = duration::parse)]
    grace_period: Duration,

    /// Most runs and end-to-end probes in flight, of all requests; beyond that they are refused
    /// with 503
    #[arg(long, value_name = "number", default_value = "16384", value_parser = parse_count)]
    max_traces: u32,

    /// Most probes a second, of all requests; beyond that requests are refused with 503
    #[arg(long, value_name = "number", default_value = "500000", value_parser = parse_count)]
    max_packet_rate: u32,

    /// Most memory of requests and their documents, such as 96M or 4G; beyond that they are refused
    /// with 503
    #[arg(long, value_name = "bytes", default_value = "4G", value_parser = parse_size)]
    max_memory: u64,

    /// Most requests a minute of one client: an address (IPv6: a /64) or a token with a name;
    /// default: no limit
    #[arg(long, value_name = "number", value_parser = parse_count)]
    max_requests_per_minute: Option<u32>,

    /// Most ports of one target that one client may have probed in a minute; beyond that requests
    /// are refused with 429
    #[arg(long, value_name = "number", default_value = "1000", value_parser = parse_count)]
    max_ports: u32,

    /// Most TCP connections, and most to the Unix socket; beyond that idle ones are closed
    #[arg(long, value_name = "number", default_value = "8192", value_parser = parse_count)]
    max_connections: u32,

    /// Most TCP connections of one address (IPv6: of one /64); default: half of --max-connections
    #[arg(long, value_name = "number", value_parser = parse_count)]
    max_connections_per_client: Option<u32>,

    /// Most runs, and most end-to-end probes, of one request
    #[arg(long, value_name = "number", default_value_t = MAX_QUERIES, value_parser = parse_count)]
    max_queries: u32,

    /// Largest TTL of one request
    #[arg(long, value_name = "number", default_value_t = u8::MAX, value_parser = parse_ttl)]
    max_ttl: u8,

    /// Largest timeout of one request
    #[arg(long, value_name = "duration", default_value = "24h", value_parser = parse_period)]
    max_timeout: Duration,

    /// Longest that one request may take as a whole; 0: no limit
    #[arg(long, value_name = "duration", default_value = "0s", value_parser = duration::parse)]
    max_duration: Duration,

    /// Most bytes of a request's header
    #[arg(long, value_name = "bytes", default_value = "16384", value_parser = parse_count)]
    max_header_size: u32,

    /// Most bytes of a request's body, and of its header where that is less than --max-header-size
    #[arg(long, value_name = "bytes", default_value = "65536", value_parser = parse_count)]
    max_request_size: u32,

    /// How long the header of a request may take to arrive, idle time before it included; the body
    /// likewise
    #[arg(long, value_name = "duration", default_value = "30s", value_parser = parse_period)]
    header_timeout: Duration,

    /// How long a client may read nothing of a response
    #[arg(long, value_name = "duration", default_value = "30s", value_parser = parse_period)]
    write_timeout: Duration,

    /// File with the bearer token that clients must show
    #[arg(long, value_name = "path", value_hint = ValueHint::FilePath)]
    token_file: Option<PathBuf>,

    /// File with the names, SHA-256 hashes and limits of several bearer tokens (TOML)
    #[arg(long, value_name = "path", value_hint = ValueHint::FilePath)]
    tokens_file: Option<PathBuf>,

    /// File with the certificate for TLS, and those that lead to its authority (PEM): TCP addresses
    /// speak HTTPS only
    #[arg(long, value_name = "path", value_hint = ValueHint::FilePath)]
    tls_certificate: Option<PathBuf>,

    /// File with the key of --tls-certificate (PEM)
    #[arg(long, value_name = "path", value_hint = ValueHint::FilePath)]
    tls_key: Option<PathBuf>,

    /// File with authorities (PEM); every TLS client must have a certificate of one of them
    #[arg(long, value_name = "path", value_hint = ValueHint::FilePath)]
    tls_client_ca: Option<PathBuf>,

    /// Keep the right to write files, start programs and make any system call (Linux; nothing needs it)
    #[arg(long)]
    no_sandbox: bool,

    /// Names under which browsers may ask, besides addresses and localhost, separated by commas
    #[arg(long, value_name = "names", value_delimiter = ',', value_parser = parse_host)]
    #[arg(action = clap::ArgAction::Append)]
    allowed_hosts: Vec<String>,

    /// Networks that may be traced, separated by commas; none: all
    #[arg(long, value_name = "networks", value_delimiter = ',', value_parser = parse_subnet)]
    #[arg(action = clap::ArgAction::Append)]
    allow: Vec<Subnet>,

    /// Networks that may not be traced, separated by commas
    #[arg(long, value_name = "networks", value_delimiter = ',', value_parser = parse_subnet)]
    #[arg(action = clap::ArgAction::Append)]
    deny: Vec<Subnet>,

    /// Refuse to trace this machine, loopback, link-local and multicast addresses, and the metadata
    /// services of clouds
    #[arg(long)]
    deny_local: bool,

    /// What requests may choose of how probes leave: source, interface, fwmark, separated by
    /// commas; none: nothing
    #[arg(
        long,
        value_name = "parameters",
        value_delimiter = ',',
        hide_possible_values = true
    )]
    #[arg(action = clap::ArgAction::Append)]
    allow_egress: Vec<EgressParameter>,

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
}

impl Flags {
    fn config(self, addr_is_given: bool) -> Result<Config, UsageError> {
        if cfg!(not(unix)) && self.unix_socket.is_some() {
            return Err(PROGRAM.usage_error("--unix-socket is not supported on this system"));
        }
        let tcp = addr_is_given || self.unix_socket.is_none();
        let policy = Policy {
            allow: self.allow,
            deny: self.deny,
            deny_local: self.deny_local,
            egress: Choices::of(&self.allow_egress),
        };
        policy.check().map_err(|problem| PROGRAM.usage_error(&problem))?;
        let tls = match (self.tls_certificate, self.tls_key, self.tls_client_ca) {
            (Some(certificate), Some(key), client_ca) if tcp => Some(TlsFiles {
                certificate,
                key,
                client_ca,
            }),
            (None, None, None) => None,
            (Some(_), Some(_), _) => {
                return Err(PROGRAM.usage_error("TLS is for TCP addresses: name one with --addr"));
            }
            _ => return Err(PROGRAM.usage_error("TLS needs --tls-certificate and --tls-key")),
        };
        let config = Config {
            addr: tcp.then_some(self.addr),
            unix_socket: self.unix_socket,
            unix_socket_mode: self.unix_socket_mode,
            log_level: self.log_level,
            log_format: self.log_format,
            windows_driver: self.windows_driver,
            grace_period: self.grace_period,
            capacity: Capacity {
                traces: self.max_traces,
                packet_rate: self.max_packet_rate.into(),
                memory: self.max_memory,
            },
            max_requests_per_minute: self.max_requests_per_minute.and_then(NonZeroU32::new),
            max_ports: self.max_ports,
            max_connections: self.max_connections,
            max_connections_per_client: self
                .max_connections_per_client
                .unwrap_or(self.max_connections.div_ceil(2)),
            ceilings: Ceilings {
                queries: self.max_queries,
                max_ttl: self.max_ttl,
                timeout: self.max_timeout,
                duration: (!self.max_duration.is_zero()).then_some(self.max_duration),
            },
            max_header_size: self.max_header_size.min(self.max_request_size) as usize,
            max_request_size: self.max_request_size as usize,
            header_timeout: self.header_timeout,
            write_timeout: self.write_timeout,
            token_file: self.token_file,
            tokens_file: self.tokens_file,
            tls,
            allowed_hosts: AllowedHosts(self.allowed_hosts),
            no_sandbox: self.no_sandbox,
            policy,
        };
        config.check().map_err(|problem| PROGRAM.usage_error(&problem))?;
        Ok(config)
    }
}

/// A number from 1 up.
fn parse_count(text: &str) -> Result<u32, String> {
    let value = parse_int(text).map_err(|error| error.to_string())?;
    // The largest that a semaphore takes on every system.
    u32::try_from(value)
        .ok()
        .filter(|count| (1..=1 << 28).contains(count))
        .ok_or_else(|| format!("must be between 1 and {}, got {value}", 1 << 28))
}

/// A TTL.
fn parse_ttl(text: &str) -> Result<u8, String> {
    let ttl = text.parse().ok().filter(|ttl| *ttl > 0);
    ttl.ok_or_else(|| format!("{text:?} is no number between 1 and 255"))
}

/// Bytes: a number, or one of KiB, MiB or GiB.
fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.chars().last() {
        Some('k' | 'K') => (&text[..text.len() - 1], 10),
        Some('m' | 'M') => (&text[..text.len() - 1], 20),
        Some('g' | 'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number = digits
        .parse()
        .ok()
        .filter(|number| (1..=1 << 34).contains(number));
    let size: Option<u64> = number.map(|number: u64| number << shift);
    size.ok_or_else(|| format!("{text:?} is no size such as 268435456, 256M or 4G"))
}

/// A duration that is not zero.
fn parse_period(text: &str) -> Result<Duration, String> {
    match duration::parse(text)? {
        Duration::ZERO => Err("must be longer than 0".to_owned()),
        period => Ok(period),
    }
}

/// Permission bits, octal.
fn parse_mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| format!("{text:?} is no octal number between 0 and 777"))
}

const _: () = assert!(MAX_TIMEOUT_MS == 24 * 3_600_000, "the default of --max-timeout");

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    fn config(line: &str) -> Config {
        match parse(arguments(line)) {
            Ok(Action::Serve(config)) => *config,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn error(line: &str) -> String {
        let error = parse(arguments(line)).unwrap_err().to_string();
        error.lines().next().unwrap().to_owned()
    }

    #[test]
    fn clap_accepts_the_definition() {
        go_style(Flags::command()).debug_assert();
    }

    #[test]
    fn the_contracts_defaults() {
        let config = config("");
        assert_eq!(config.addr, Some(":3765".parse().unwrap()));
        assert_eq!(config.log_level, LogLevel::Info);
        assert_eq!(config.policy, Policy::default());
        assert_eq!(config.ceilings, Ceilings::default());
    }

    #[test]
    fn connections_and_traces_fit_into_the_open_files() {
        for (line, files, fits, expected) in [
            ("", 25_800, true, (16_384, 8192, 4096)),
            ("", 65_536, true, (16_384, 8192, 4096)),
            ("", 20_000, false, (10_584, 8192, 4096)),
            ("", 1024, false, (348, 348, 174)),
            ("--max-traces 100", 1024, false, (100, 596, 298)),
            ("--max-connections 100", 1024, false, (596, 100, 50)),
            ("--max-connections-per-client 8192", 1024, false, (348, 348, 348)),
            #[cfg(unix)]
            ("--unix-socket s --addr :1", 1024, false, (348, 174, 87)),
            ("", 64, false, (8, 8, 4)),
            ("", 0, false, (2, 2, 1)),
        ] {
            let mut config = config(line);
            assert_eq!(config.fit(files), fits, "{line} {files}");
            let connections = (config.max_connections, config.max_connections_per_client);
            let result = (config.capacity.traces, connections.0, connections.1);
            assert_eq!(result, expected, "{line} {files}");
        }
    }

    #[test]
    fn traces_leave_ports_to_others() {
        for (line, ports, fits, expected) in [
            ("", 28_131, true, 16_384),
            ("--max-traces 60000", 28_131, false, 21_099),
            ("", 1000, false, 750),
            ("", 0, false, 1),
        ] {
            let mut config = config(line);
            assert_eq!(config.fit_ports(ports), fits, "{line} {ports}");
            assert_eq!(config.capacity.traces, expected, "{line} {ports}");
        }
    }

    #[test]
    fn values_in_every_form() {
        for line in [
            "-a :80",
            "-a:80",
            "-a=:80",
            "--addr :80",
            "--addr=:80",
            "-a :1 --addr :80",
        ] {
            assert_eq!(config(line).addr, Some(":80".parse().unwrap()), "{line}");
        }
        for line in [
            "--deny-local",
            "--deny-local=true",
            "--deny-local=T",
            "--deny-local=0 --deny-local",
        ] {
            assert!(config(line).policy.deny_local, "{line}");
        }
        assert!(!config("--deny-local --deny-local=false").policy.deny_local);
        assert_eq!(config("--grace-period 1m30s").grace_period.as_secs(), 90);
        assert_eq!(config("--grace-period=0s").grace_period, Duration::ZERO);
        assert_eq!(config("--max-memory 96M").capacity.memory, 96 << 20);
        assert_eq!(
            config("--max-duration 5m").ceilings.duration,
            Some(Duration::from_mins(5))
        );
        assert!(config("--windows-driver").windows_driver);
    }

    /// Every connection may hold a header's size of memory before anything is known of it.
    #[test]
    fn a_header_is_smaller_than_a_body_unless_told_otherwise() {
        for (line, header, body) in [
            ("", 16_384, 65_536),
            ("--max-request-size 9000", 9000, 9000),
            ("--max-header-size 65536", 65_536, 65_536),
            ("--max-header-size 9000", 9000, 65_536),
        ] {
            let config = config(line);
            assert_eq!(
                (config.max_header_size, config.max_request_size),
                (header, body),
                "{line}"
            );
        }
    }

    #[test]
    fn what_is_let_in_is_known_before_anybody_asks() {
        assert_eq!(config("").lets_in(""), Ok(()));
        // More traces than there is room for count as two thirds of it.
        assert_eq!(config("--max-traces 2").lets_in(""), Ok(()));
        #[cfg(unix)]
        config("--unix-socket /s --max-traces 1");
        let slow = "--max-packet-rate 50";
        assert_eq!(
            config(slow).lets_in("").unwrap_err(),
            "--max-packet-rate is too small"
        );
    }

    #[test]
    fn networks_add_up() {
        let policy = config("--deny 192.0.2.0/24,::1 --deny 10.0.0.1 --allow 10.0.0.0/8").policy;
        let texts: Vec<String> = policy.deny.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["192.0.2.0/24", "::1/128", "10.0.0.1/32"]);
        assert_eq!(policy.allow.len(), 1);
    }

    #[test]
    fn choices_of_egress_add_up() {
        let choices = |source, interface, fwmark| Choices {
            source,
            interface,
            fwmark,
        };
        for (line, expected) in [
            ("", choices(false, false, false)),
            ("--allow-egress source", choices(true, false, false)),
            ("--allow-egress interface,fwmark", choices(false, true, true)),
            (
                "--allow-egress=source --allow-egress fwmark",
                choices(true, false, true),
            ),
        ] {
            assert_eq!(config(line).policy.egress, expected, "{line}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_unix_socket_replaces_the_default_address_only() {
        assert_eq!(config("--unix-socket /s").addr, None);
        assert_eq!(
            config("--unix-socket /s -a :80").addr,
            Some(":80".parse().unwrap())
        );
        assert_eq!(
            config("--unix-socket /s --unix-socket-mode 600").unix_socket_mode,
            0o600
        );
        assert_eq!(
            error("--unix-socket /s --tls-certificate c --tls-key k"),
            "TLS is for TCP addresses: name one with --addr"
        );
    }

    #[test]
    fn all_five_levels_and_no_other() {
        for level in ["error", "warn", "info", "debug", "trace"] {
            config(&format!("-l {level}"));
        }
        for level in ["INFO", "warning", "off", "Info", "1"] {
            assert_eq!(
                error(&format!("--log-level {level}")),
                format!(
                    "invalid value for --log-level: {level:?} is none of error, warn, info, debug, trace"
                )
            );
        }
    }

    #[test]
    fn wrong_usage() {
        for (line, expected) in [
            ("x", "unrecognized subcommand 'x'"),
            ("--foo", "unknown flag: --foo"),
            ("-a", "flag needs a value: --addr"),
            (
                "-a 3765",
                "invalid value for --addr: \"3765\" has no port; write :3765, host:3765 or [::1]:3765",
            ),
            (
                "--max-traces 0",
                "invalid value for --max-traces: must be between 1 and 268435456, got 0",
            ),
            (
                "--max-memory 4T",
                "invalid value for --max-memory: \"4T\" is no size such as 268435456, 256M or 4G",
            ),
            (
                "--max-ttl 256",
                "invalid value for --max-ttl: \"256\" is no number between 1 and 255",
            ),
            (
                "--header-timeout 0s",
                "invalid value for --header-timeout: must be longer than 0",
            ),
            (
                "--grace-period 10",
                "invalid value for --grace-period: \"10\" is no duration such as 1h30m, 10s or 500ms",
            ),
            (
                "--deny x",
                "invalid value for --deny: \"x\" is no network such as 192.0.2.0/24 or 2001:db8::/32, and no address",
            ),
            (
                "--allow 10.1.0.0/16,10.2.0.0/16 --deny ::ffff:10.2.0.0/104",
                "--allow 10.1.0.0/16 allows nothing: --deny 10.0.0.0/8 denies all of it",
            ),
            (
                "--allow 10.0.0.0/8 --deny 10.128.0.0/9,10.0.0.0/9",
                "--allow 10.0.0.0/8 allows nothing: --deny 10.128.0.0/9 and --deny 10.0.0.0/9 deny all of it",
            ),
            (
                "--allow 127.0.0.1 --deny-local",
                "--allow 127.0.0.1/32 allows nothing: --deny-local denies all of it",
            ),
            (
                "--max-traces 1",
                "no request would be let in: --max-traces is too small",
            ),
            (
                "--max-packet-rate 1",
                "no request would be let in: --max-packet-rate is too small",
            ),
            (
                "--max-memory 4000",
                "no request would be let in: --max-memory is too small",
            ),
            (
                "--max-timeout 500us",
                "no request would be let in: timeout must be at most 0 ms on this server, got 1",
            ),
            (
                "--max-request-size 255",
                "--max-header-size and --max-request-size must be at least 256: no request would be let in",
            ),
            (
                "--allow-egress mark",
                "invalid value for --allow-egress: \"mark\" is none of source, interface, fwmark",
            ),
            ("--tls-key k", "TLS needs --tls-certificate and --tls-key"),
            ("--tls-certificate c", "TLS needs --tls-certificate and --tls-key"),
            (
                "--tls-client-ca c --tls-key k",
                "TLS needs --tls-certificate and --tls-key",
            ),
            (
                "--unix-socket-mode 8",
                "invalid value for --unix-socket-mode: \"8\" is no octal number between 0 and 777",
            ),
        ] {
            assert_eq!(error(line), expected, "{line}");
        }
    }

    #[test]
    fn commands() {
        assert!(matches!(parse(arguments("version")), Ok(Action::Version)));
        assert!(matches!(
            parse(arguments("completion bash")),
            Ok(Action::Completion(Shell::Bash))
        ));
        assert!(matches!(parse(arguments("man")), Ok(Action::Man)));
        for line in ["help", "-h", "--help", "help version"] {
            assert!(matches!(parse(arguments(line)), Ok(Action::Help(_))), "{line}");
        }
    }

    #[test]
    fn manual_page_and_completions_have_every_flag_and_command() {
        assert_eq!(PROGRAM.undocumented(&Flags::command()), [""; 0]);
    }
}
