//! Files can be read, and nothing else (`landlock(7)`).

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
    path_beneath_rules,
};

use super::Protection;

/// From now on the calling thread, and those that it starts, can neither write, make or remove
/// files nor start programs, nor send signals to other programs. A file in `writable` may be
/// removed.
///
/// # Errors
/// What the kernel says.
pub(super) fn protect(writable: Option<&Path>) -> Result<Protection, RulesetError> {
    // What newer kernels can forbid is for devices only.
    let forbidden = AccessFs::from_write(ABI::V3) | AccessFs::Execute;
    let status = Ruleset::default()
        .handle_access(forbidden)?
        .scope(Scope::from_all(ABI::V6))?
        .create()?
        .add_rules(path_beneath_rules(writable, AccessFs::RemoveFile))?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::NotEnforced => Protection::Unsupported,
        _ => Protection::On,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "all of this is test code")]
mod tests {
    use super::*;
    use std::fs;
    use std::io::ErrorKind;
    use std::process::Command;
    use std::thread;

    #[test]
    fn files_can_be_read_and_nothing_else() {
        let folder = std::env::temp_dir().join(format!("traceroute-sandbox-{}", std::process::id()));
        let inside = folder.join("inside");
        fs::create_dir_all(&inside).unwrap();
        for file in [folder.join("outside"), inside.join("socket")] {
            fs::write(file, "old").unwrap();
        }
        let seen = folder.clone();
        // It is for a thread, and for good.
        let sandboxed = thread::spawn(move || {
            if protect(Some(&inside)).unwrap() == Protection::Unsupported {
                return eprintln!("not run: this kernel has no Landlock");
            }
            let denied = |error: std::io::Error| error.kind() == ErrorKind::PermissionDenied;
            let outside = seen.join("outside");
            assert_eq!(fs::read_to_string(&outside).unwrap(), "old");
            assert!(denied(fs::write(&outside, "new").unwrap_err()));
            assert!(denied(fs::write(inside.join("new"), "new").unwrap_err()));
            assert!(denied(fs::remove_file(&outside).unwrap_err()));
            assert!(denied(Command::new("true").spawn().unwrap_err()));
            fs::remove_file(inside.join("socket")).unwrap();
        });
        sandboxed.join().unwrap();
        fs::remove_dir_all(folder).unwrap();
    }
}
