//! What the process may do once everything is open: serve, probe, look up names and read files.

#[cfg(all(
    target_os = "linux",
    target_pointer_width = "64",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod calls;
#[cfg(target_os = "linux")]
mod files;

use std::path::Path;

/// Whether the kernel enforces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
enum Protection {
    /// All of it, or as much as this kernel knows.
    On,
    /// The kernel has nothing of the kind, or it is turned off.
    Unsupported,
}

/// What [`enter`] achieved, or why not. There is no log yet when it is called.
#[derive(Debug)]
pub(crate) struct Sandbox {
    files: Result<Protection, String>,
    calls: Result<Protection, String>,
}

/// From now on the calling thread, and those that it starts, can neither write, make or remove
/// files nor start programs, and make no system call that only somebody who took them over would
/// make. A file in `writable` may be removed.
pub(crate) fn enter(writable: Option<&Path>) -> Sandbox {
    Sandbox {
        files: files::protect(writable).map_err(|error| error.to_string()),
        calls: calls::restrict().map_err(|error| error.to_string()),
    }
}

impl Sandbox {
    /// Logs it.
    pub(crate) fn tell(&self) {
        match &self.files {
            Ok(Protection::On) => tracing::debug!("files can be read only"),
            Ok(Protection::Unsupported) => tracing::info!("files are not protected: no Landlock"),
            Err(error) => tracing::warn!(%error, "files are not protected"),
        }
        match &self.calls {
            Ok(Protection::On) => tracing::debug!("system calls are restricted"),
            Ok(Protection::Unsupported) => {
                tracing::info!("system calls are not restricted: no seccomp, or not for this processor");
            }
            Err(error) => tracing::warn!(%error, "system calls are not restricted"),
        }
    }
}

/// Does nothing: this system has nothing of the kind.
#[cfg(not(target_os = "linux"))]
mod files {
    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "as on Linux")]
    pub(super) fn protect(_writable: Option<&Path>) -> Result<Protection, std::convert::Infallible> {
        Ok(Protection::Unsupported)
    }
}

/// Does nothing: the numbers of this processor's calls have not been checked.
#[cfg(not(all(
    target_os = "linux",
    target_pointer_width = "64",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
mod calls {
    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "as on Linux")]
    pub(super) fn restrict() -> Result<Protection, std::convert::Infallible> {
        Ok(Protection::Unsupported)
    }
}
