//! The process's memory.

/// Gives memory that is free back to the system. Only glibc keeps it for later (`malloc_trim(3)`);
/// elsewhere this does nothing. It takes some milliseconds where much is to be given back.
#[cfg_attr(all(target_os = "linux", target_env = "gnu"), allow(unsafe_code))]
pub fn return_free_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: no pointers; it may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
