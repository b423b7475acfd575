use std::io;

/// Why a lab, or something in it, could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system allows neither network namespaces nor user namespaces that could own them.
    #[error(
        "network namespaces are refused here ({0}): run as root, or allow user namespaces for plain users \
         (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone and \
         kernel.apparmor_restrict_unprivileged_userns)"
    )]
    Refused(#[source] io::Error),

    /// A program that the testbed needs is not installed.
    #[error("the program `{program}` is missing: install the Debian package {package}")]
    MissingTool {
        /// The program that was looked for in `PATH`, `/usr/sbin` and `/sbin`.
        program: String,
        /// The Debian package that has it.
        package: &'static str,
    },

    /// A program ran in a node and failed.
    #[error("{program} failed in node {node}: {stderr}")]
    Tool {
        /// The program.
        program: String,
        /// Name of the node it ran in.
        node: String,
        /// What it wrote to standard error.
        stderr: String,
    },

    /// A system call failed.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried, and in which node.
        what: String,
        /// The answer of the system.
        source: io::Error,
    },

    /// A chain of this many hops cannot be built.
    #[error("a chain has 1 to {max} hops, not {0}", max = crate::chain::MAX_HOPS)]
    Hops(usize),
}

impl Error {
    /// For `map_err`: names what was tried.
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }
}
