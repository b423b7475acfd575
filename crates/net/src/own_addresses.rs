//! Which addresses are this host's own.

use std::io;
use std::net::IpAddr;
#[cfg(target_os = "linux")]
use std::sync::{Mutex, PoisonError};

/// Tells this host's own addresses from others, however few ports and descriptors are left: it
/// holds all it needs.
pub struct OwnAddresses {
    #[cfg(target_os = "linux")]
    routes: Mutex<crate::imp::FlowRoutes>,
}

impl OwnAddresses {
    /// Of the calling thread's network namespace.
    ///
    /// # Errors
    /// Too many open files; not supported (other systems than Linux).
    pub fn open() -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        return Ok(OwnAddresses {
            routes: Mutex::new(crate::imp::FlowRoutes::open()?),
        });
        #[cfg(not(target_os = "linux"))]
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Whether packets to `address` stay on this host. An address without a route is not its own.
    ///
    /// # Errors
    /// What the system says.
    pub fn contain(&self, address: IpAddr) -> io::Result<bool> {
        #[cfg(target_os = "linux")]
        return self
            .routes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_own(address);
        #[cfg(not(target_os = "linux"))]
        {
            let _ = address;
            Err(io::ErrorKind::Unsupported.into())
        }
    }
}
