//! The process's memory.
#![cfg_attr(target_os = "linux", allow(unsafe_code))]

#[cfg(target_os = "linux")]
mod pages;

#[cfg(target_os = "linux")]
pub use pages::BufferPages;
#[cfg(not(target_os = "linux"))]
pub use std::alloc::System as BufferPages;

/// Gives memory that is free back to the system: that of [`BufferPages`], and what glibc keeps for
/// later (`malloc_trim(3)`). It takes some milliseconds where much is to be given back.
/// Where neither is in use it does nothing.
pub fn return_free_memory() {
    #[cfg(target_os = "linux")]
    pages::clean();
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: no pointers; it may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
