//! The commands of the documents do what they say, where anybody may try them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;

use traceroute_testbed::{Lab, Result, not_run, require_lab};

use crate::program::{Outcome, PROGRAM, finish};

/// What stands before a block that is not run, with the reason.
const MARK: &str = "<!-- not run: ";
/// In place of cargo: what the documents have it build is built.
const CARGO: &str = r#"#!/bin/sh
case "$*" in
    "build "*) ;;
    "run --release -- "*) shift 3; exec datadog-traceroute "$@" ;;
    "run -p "*" --example "*) program=$5; shift 6; exec "$BUILT/examples/$program" "$@" ;;
    *) echo "cargo: not found: $*" >&2; exit 127 ;;
esac
"#;
const SUDO: &str = "#!/bin/sh\nexec \"$@\"\n";

/// A block of commands.
struct Block {
    /// Document and line.
    place: String,
    commands: String,
    is_run: bool,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The blocks of README.md and of all documents for users.
fn blocks() -> Vec<Block> {
    let documents = fs::read_dir(root().join("docs")).unwrap();
    let documents = documents.map(|entry| entry.unwrap().path());
    let mut documents: Vec<PathBuf> = documents.chain([root().join("README.md")]).collect();
    documents.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    documents.iter().flat_map(|path| blocks_of(path)).collect()
}

fn blocks_of(path: &Path) -> Vec<Block> {
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let mut blocks = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let begin = at;
        at += 1;
        if !lines[begin].starts_with("```") {
            continue;
        }
        while at < lines.len() && lines[at] != "```" {
            at += 1;
        }
        if matches!(&lines[begin][3..], "console" | "sh" | "bash" | "shell") {
            let name = path.file_name().unwrap().to_string_lossy();
            blocks.push(Block {
                place: format!("{name}:{}", begin + 1),
                commands: commands(&lines[begin + 1..at]),
                is_run: begin == 0 || !lines[begin - 1].starts_with(MARK),
            });
        }
        at += 1;
    }
    blocks
}

/// What is typed: the lines that begin with a prompt, or else all.
fn commands(lines: &[&str]) -> String {
    let typed: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("$ ")).collect();
    if typed.is_empty() {
        lines.join("\n")
    } else {
        typed.join("\n")
    }
}

/// Runs a block as somebody would: in a folder of its own, on the path of namespaces whose target
/// it names.
fn run(lab: &Lab, block: &Block, folder: &Path) -> Result<Outcome> {
    let folder = folder.join(block.place.replace([':', '.'], "-"));
    let tools = folder.join("tools");
    fs::create_dir_all(&tools).unwrap();
    for (name, script) in [("cargo", CARGO), ("sudo", SUDO)] {
        fs::write(tools.join(name), script).unwrap();
        fs::set_permissions(tools.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let built = Path::new(PROGRAM).parent().unwrap();
    symlink(PROGRAM, tools.join("datadog-traceroute")).unwrap();
    symlink(built.join("traceroute-simnet"), tools.join("traceroute-simnet")).unwrap();
    let hops = (2..=30).find(|hops| block.commands.contains(&format!(" 10.0.{hops}.2")));
    let chain = hops.map(|hops| lab.chain(hops)).transpose()?;
    let node = match &chain {
        Some(chain) => chain.client.clone(),
        None => lab.node("host")?,
    };
    let local = folder.join("usr/local");
    let commands = block.commands.replace("/usr/local", &local.to_string_lossy());
    let path = std::env::var("PATH").unwrap_or_default();
    let mut shell = node.command("bash");
    shell
        .args(["-e", "-u", "-o", "pipefail", "-c", &commands])
        .current_dir(&folder)
        .env("PATH", format!("{}:{path}:/usr/sbin:/sbin", tools.display()))
        .env("HOME", &folder)
        .env("BUILT", built);
    Ok(finish(&mut shell))
}

#[test]
fn commands_of_the_documents_run() -> Result<()> {
    let Some(lab) = require_lab() else { return Ok(()) };
    let folder = std::env::temp_dir().join(format!("documents-{}", std::process::id()));
    let blocks = blocks();
    let (run_here, marked): (Vec<&Block>, Vec<&Block>) = blocks.iter().partition(|block| block.is_run);
    assert!(run_here.len() >= 8, "only {} blocks are run", run_here.len());
    assert!(!marked.is_empty());
    let outcomes: Vec<(&Block, Outcome)> = thread::scope(|scope| {
        let runs: Vec<_> = run_here
            .into_iter()
            .map(|block| (block, scope.spawn(|| run(&lab, block, &folder))))
            .collect();
        let outcome = |(block, run): (_, thread::ScopedJoinHandle<'_, _>)| Ok((block, run.join().unwrap()?));
        runs.into_iter().map(outcome).collect::<Result<_>>()
    })?;
    let mut failed = Vec::new();
    for (block, outcome) in outcomes {
        match outcome.status {
            Some(0) => {}
            // The shell's, and the simulated network's.
            Some(127) => not_run(&format!("{}: {}", block.place, outcome.stderr)),
            _ if outcome.stderr.contains("cannot run traceroute") => {
                not_run(&format!("{}: {}", block.place, outcome.stderr));
            }
            _ => failed.push(format!("{}: {outcome:?}", block.place)),
        }
    }
    fs::remove_dir_all(&folder).unwrap();
    assert!(failed.is_empty(), "{failed:#?}");
    Ok(())
}
