//! What a long-running program may still do once it gave up what it does not need.

use std::fmt;

/// What [`keep_probing_privileges`](crate::keep_probing_privileges) left. Displayed, it names what
/// was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Privileges {
    /// Probing is possible. On Linux: `CAP_NET_RAW` is there.
    pub can_probe: bool,
    /// Packets can be marked on every kernel. On Linux: `CAP_NET_ADMIN` is there.
    pub can_mark: bool,
    /// How many other privileges were given up.
    pub dropped: u32,
    /// The process is still root's and may do with root's files what root may, because it could not
    /// become another user's.
    pub is_root: bool,
}

impl fmt::Display for Privileges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.can_probe, self.can_mark) {
            (true, true) => "CAP_NET_RAW, CAP_NET_ADMIN",
            (true, false) => "CAP_NET_RAW",
            (false, true) => "CAP_NET_ADMIN",
            (false, false) => "none",
        })
    }
}
