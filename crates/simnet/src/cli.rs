//! Command line and the order of things.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use signal_hook::consts::{SIGINT, SIGTERM};
use traceroute_simnet::tun::{self, Settings};
use traceroute_simnet::{Network, Topology, example, examples, namespace};

use self::log::Log;

mod log;

/// A simulated network for traceroute: routers and hosts that answer as real ones do, good and bad.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Answer behind a TUN device until Ctrl-C, or while a command runs.
    Run(Run),
    /// Check a topology file.
    Check {
        /// TOML file, or the name of a built-in topology.
        topology: PathBuf,
    },
    /// List the built-in topologies.
    List,
    /// Print a built-in topology, to be changed and saved.
    Show {
        /// Its name.
        name: String,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// TOML file, or the name of a built-in topology.
    topology: PathBuf,
    /// Create and use a new network namespace; nothing outside is touched, and no privileges are
    /// needed where the system lets ordinary users do so.
    #[arg(long)]
    namespace: bool,
    /// Name of the TUN device; the kernel chooses by default.
    #[arg(long, default_value = "")]
    tun: String,
    /// Seed of everything random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Log each packet, and what each node did at the end, to standard error.
    #[arg(short, long)]
    verbose: bool,
    /// Write the true delay of each answer to a CSV file.
    #[arg(long, value_name = "FILE")]
    log_delays: Option<PathBuf>,
    /// Schedule the answering thread before all ordinary ones (needs to be root).
    #[arg(long)]
    realtime: bool,
    /// Never sleep: keeps one CPU busy for the best timing.
    #[arg(long)]
    busy: bool,
    /// Wake up this many microseconds before an answer is due.
    #[arg(long, default_value_t = 60, value_name = "MICROSECONDS")]
    spin: u64,
    /// Run this once the device is up, and exit with its status when it ends.
    #[arg(last = true)]
    command: Vec<String>,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

pub(crate) fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Subcommands::Run(options) => run(&options),
        Subcommands::Check { topology } => check(&topology),
        Subcommands::List => Ok(list()),
        Subcommands::Show { name } => show(&name),
    };
    result.unwrap_or_else(|failure| {
        eprintln!("Error: {failure}");
        ExitCode::FAILURE
    })
}

/// A file, or a built-in topology when there is no file of that name.
fn load(path: &Path) -> Result<Topology, Failure> {
    let built_in = path.to_str().and_then(example).filter(|_| !path.exists());
    Ok(match built_in {
        Some(example) => example.topology()?,
        None => Topology::load(path)?,
    })
}

fn check(path: &Path) -> Result<ExitCode, Failure> {
    let topology = load(path)?;
    println!(
        "{}: {} targets, no problems",
        path.display(),
        topology.target_addresses().len()
    );
    Ok(ExitCode::SUCCESS)
}

fn list() -> ExitCode {
    for example in examples() {
        println!("{:24} {}", example.name, example.summary());
    }
    ExitCode::SUCCESS
}

fn show(name: &str) -> Result<ExitCode, Failure> {
    let example = example(name).ok_or_else(|| format!("no built-in topology is called {name}"))?;
    print!("{}", example.text);
    Ok(ExitCode::SUCCESS)
}

fn run(options: &Run) -> Result<ExitCode, Failure> {
    let topology = load(&options.topology)?;
    let network = Network::new(&topology, options.seed);
    let log = Log::new(options.verbose, options.log_delays.as_deref())?;
    // Before the first thread: a user namespace cannot be entered with several.
    let user_namespace = options.namespace && namespace::enter()?;
    let (file, device) = tun::open(&options.tun)?;
    if !namespace::configure(&device, &topology, options.namespace)? {
        eprintln!("note: IPv6 cannot be configured here; only IPv4 will work");
    }
    let settings = Settings {
        spin: Duration::from_micros(options.spin),
        busy: options.busy,
        realtime: options.realtime,
    };
    let (stop, stopper) = UnixStream::pair()?;
    let answering = Answering {
        file,
        network,
        stop,
        settings,
        log,
    };
    if options.command.is_empty() {
        print_hints(&topology, &device, options.namespace.then_some(user_namespace));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::low_level::pipe::register(signal, stopper.try_clone()?)?;
        }
        answering.run()?;
        return Ok(ExitCode::SUCCESS);
    }
    run_command(&options.command, answering, stopper)
}

fn print_hints(topology: &Topology, device: &str, namespace: Option<bool>) {
    let enter = match namespace {
        None => String::new(),
        Some(user) => {
            let user = if user {
                " --user --preserve-credentials"
            } else {
                ""
            };
            format!("nsenter --target {}{user} --net ", std::process::id())
        }
    };
    println!("Answering on {device}. Ctrl-C ends it. Try, in another terminal:");
    for address in topology.target_addresses() {
        println!("  {enter}datadog-traceroute {address}");
    }
}

struct Answering {
    file: File,
    network: Network,
    stop: UnixStream,
    settings: Settings,
    log: Log,
}

impl Answering {
    fn run(self) -> io::Result<()> {
        let Self {
            file,
            mut network,
            stop,
            settings,
            mut log,
        } = self;
        let result = tun::run_with(&file, &mut network, &stop, settings, &mut |activity| {
            log.record(&activity);
        });
        log.finish(&network);
        result
    }
}

/// Runs a command while the network answers. Ctrl-C reaches the command, too; its end is awaited.
fn run_command(command: &[String], answering: Answering, stopper: UnixStream) -> Result<ExitCode, Failure> {
    let interrupted = std::sync::Arc::default();
    signal_hook::flag::register(SIGINT, interrupted)?;
    let (program, arguments) = command.split_first().ok_or("no command")?;
    let thread = std::thread::Builder::new()
        .name("network".to_owned())
        .spawn(|| answering.run())?;
    let status = Command::new(program).args(arguments).status();
    drop(stopper);
    let answered = thread.join().map_err(|_| "the network's thread panicked")?;
    let status = status.map_err(|error| format!("cannot run {program}: {error}"))?;
    answered?;
    // A command that a signal ended has no status; shells say 128 + signal.
    let signal = std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or(0);
    let code = status.code().unwrap_or(128 + signal);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
