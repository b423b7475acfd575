//! Where the running program is, for advice that names it.

use std::env;
use std::path::Path;
use std::sync::LazyLock;

/// What Linux puts after the path of a program that has been replaced (`proc_pid_exe(5)`).
const REPLACED: &str = " (deleted)";

/// The path of the running program, as a shell takes it.
pub fn program_path() -> &'static str {
    static PATH: LazyLock<String> = LazyLock::new(|| {
        let path = env::current_exe().ok();
        // Where the system does not know, as without /proc: what it was called as.
        let path = path.or_else(|| env::args_os().next().map(Into::into));
        quoted(&path.unwrap_or_default())
    });
    &PATH
}

fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let path = path.strip_suffix(REPLACED).unwrap_or(&path);
    let is_plain = |c: char| c.is_alphanumeric() || "/\\._-+:@%=,".contains(c);
    if path.chars().all(is_plain) {
        path.to_owned()
    } else if cfg!(windows) {
        format!("\"{path}\"")
    } else {
        format!("'{}'", path.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_can_be_pasted_into_a_shell() {
        let text = |path: &str| quoted(Path::new(path));
        assert_eq!(text("/usr/bin/datadog-traceroute"), "/usr/bin/datadog-traceroute");
        assert_eq!(text("/opt/x (deleted)"), "/opt/x");
        if cfg!(unix) {
            assert_eq!(text("/home/a b/it's"), r"'/home/a b/it'\''s'");
        }
    }

    #[test]
    fn this_program_is_known() {
        assert!(!program_path().is_empty());
    }
}
