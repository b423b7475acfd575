//! What a long-running program may still do once it gave up what it does not need.

use std::fmt;

/// What [`keep_probing_privileges`](crate::keep_probing_privileges) left. Displayed, it names what was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Privileges {
    /// Probing is possible. On Linux: `CAP_NET_RAW` is there.
    pub can_probe: bool,
    /// How many other privileges were given up.
    pub dropped: u32,
    /// The process is still root's and may do with root's files what root may, because it could not become another user's.
    pub is_root: bool,
}

impl fmt::Display for Privileges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.can_probe { "CAP_NET_RAW" } else { "none" })
    }
}
