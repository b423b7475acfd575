//! The system calls that only a diagnosis makes.
#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

/// The extended attribute in which the capabilities of a program are (capabilities(7)).
pub(super) fn file_capabilities(program: &Path) -> Option<Vec<u8>> {
    let path = CString::new(program.as_os_str().as_bytes()).ok()?;
    let mut bytes = vec![0; 64];
    // SAFETY: both strings end with a zero, and `bytes` is valid for its length.
    let length = unsafe {
        libc::getxattr(
            path.as_ptr(),
            c"security.capability".as_ptr(),
            bytes.as_mut_ptr().cast(),
            bytes.len(),
        )
    };
    bytes.truncate(usize::try_from(length).ok()?);
    Some(bytes)
}

/// The names of interfaces that are up, of this thread's network namespace; sorted.
pub(super) fn interfaces_up() -> Vec<String> {
    let mut list: *mut libc::ifaddrs = ptr::null_mut();
    // SAFETY: the pointer is valid during the call.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Vec::new();
    }
    let mut names = BTreeSet::new();
    let mut next = list;
    while !next.is_null() {
        // SAFETY: getifaddrs(3) made a list of valid entries, which ends with a null pointer and
        // has not been freed.
        let entry = unsafe { &*next };
        if entry.ifa_flags & libc::IFF_UP as libc::c_uint != 0 {
            // SAFETY: the name is a string that ends with a zero and lives as long as the list.
            let name = unsafe { CStr::from_ptr(entry.ifa_name) };
            names.insert(name.to_string_lossy().into_owned());
        }
        next = entry.ifa_next;
    }
    // SAFETY: the list is that of getifaddrs, freed once.
    unsafe { libc::freeifaddrs(list) };
    names.into_iter().collect()
}
