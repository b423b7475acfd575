//! Tells the programs which commit they were built from, and when; `unknown` where neither git nor
//! the environment says.
//!
//! Nothing here differs between two builds of one commit: the date is `SOURCE_DATE_EPOCH`
//! (<https://reproducible-builds.org/specs/source-date-epoch/>) or else the commit's own.

use std::path::Path;
use std::process::Command;

#[path = "src/utc.rs"]
#[allow(unreachable_pub, reason = "public in the library")]
mod utc;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let head = Head::read();
    let epoch = std::env::var("SOURCE_DATE_EPOCH")
        .ok()
        .and_then(|seconds| seconds.parse().ok());
    let date = epoch
        .or(head.as_ref().map(|head| head.committed))
        .map(utc::rfc3339);
    let commit = head.map(|head| head.commit);
    println!(
        "cargo::rustc-env=BUILD_COMMIT={}",
        commit.as_deref().unwrap_or("unknown")
    );
    println!(
        "cargo::rustc-env=BUILD_DATE={}",
        date.as_deref().unwrap_or("unknown")
    );
}

/// The commit that is checked out.
struct Head {
    commit: String,
    /// Seconds since 1970.
    committed: u64,
}

impl Head {
    fn read() -> Option<Head> {
        // An unpacked source archive may lie inside somebody else's repository.
        git(&["ls-files", "--error-unmatch", "build.rs"])?;
        for file in ["HEAD", "logs/HEAD"] {
            let path = git(&["rev-parse", "--git-path", file])?;
            if Path::new(&path).exists() {
                println!("cargo::rerun-if-changed={path}");
            }
        }
        let line = git(&["-c", "log.showSignature=false", "log", "-1", "--format=%H %ct"])?;
        let (commit, committed) = line.split_once(' ')?;
        Some(Head {
            commit: commit.to_owned(),
            committed: committed.parse().ok()?,
        })
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim_end().to_owned())
}
