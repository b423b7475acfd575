//! What the process may do with files, once everything is open: read them (`landlock(7)`).

use std::path::Path;

/// Whether the kernel enforces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
pub(crate) enum Sandbox {
    /// All of it, or as much as this kernel knows.
    On,
    /// The kernel has nothing of the kind, or it is turned off.
    Unsupported,
}

/// From now on the calling thread, and those that it starts, can neither write, make or remove
/// files nor start programs. A file in `writable` may be removed.
///
/// # Errors
/// What the kernel says.
#[cfg(target_os = "linux")]
pub(crate) fn enter(writable: Option<&Path>) -> Result<Sandbox, landlock::RulesetError> {
    use landlock::{
        ABI, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, path_beneath_rules,
    };

    // What newer kernels can forbid is for devices only.
    let forbidden = AccessFs::from_write(ABI::V3) | AccessFs::Execute;
    let status = Ruleset::default()
        .handle_access(forbidden)?
        .create()?
        .add_rules(path_beneath_rules(writable, AccessFs::RemoveFile))?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::NotEnforced => Sandbox::Unsupported,
        _ => Sandbox::On,
    })
}

/// Does nothing: this system has nothing of the kind.
///
/// # Errors
/// None.
#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "as on Linux")]
pub(crate) fn enter(_writable: Option<&Path>) -> Result<Sandbox, std::convert::Infallible> {
    Ok(Sandbox::Unsupported)
}

#[cfg(all(test, target_os = "linux"))]
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
            if enter(Some(&inside)).unwrap() == Sandbox::Unsupported {
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
