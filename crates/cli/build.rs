//! Tells the program which commit it was built from, and when; `unknown` where neither git nor the environment says.
//!
//! Nothing here differs between two builds of one commit: the date is `SOURCE_DATE_EPOCH`
//! (<https://reproducible-builds.org/specs/source-date-epoch/>) or else the commit's own.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let head = Head::read();
    let epoch = std::env::var("SOURCE_DATE_EPOCH")
        .ok()
        .and_then(|seconds| seconds.parse().ok());
    let date = epoch.or(head.as_ref().map(|head| head.committed)).map(utc);
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

/// `seconds` since 1970 in the manner of RFC 3339.
fn utc(seconds: u64) -> String {
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Gregorian date `days` after 1970-01-01.
fn civil(mut days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}
