//! Giving up all capabilities but the one that probing needs (capabilities(7)).

// Capabilities have no safe interface in the standard library.
#![allow(unsafe_code)]

use std::io;

use crate::Privileges;
use crate::unix::sys;

/// `CAP_NET_RAW` in `linux/capability.h`.
const CAP_NET_RAW: u32 = 13;
/// `_LINUX_CAPABILITY_VERSION_3`: two words of 32 bits.
const VERSION: u32 = 0x2008_0522;

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    /// 0: the calling thread.
    pid: libc::c_int,
}

/// `struct __user_cap_data_struct`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Word {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Drops all capabilities of the calling thread, and of threads that it starts from then on, except `CAP_NET_RAW`;
/// and lets no program that it may start have more. To be called before other threads exist.
///
/// Raises the limit of open files before, which a privilege may allow: each reserved port is one.
///
/// # Errors
/// What the kernel says; some may be dropped then, others not.
pub fn keep_probing_privileges() -> io::Result<Privileges> {
    if let Err(error) = sys::raise_open_files(libc::RLIM_INFINITY) {
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
    let mut words = read()?;
    let held = words.map(|word| word.permitted);
    let can_probe = held[0] & (1 << CAP_NET_RAW) != 0;
    let dropped = held[0].count_ones() + held[1].count_ones() - u32::from(can_probe);
    forbid_more()?;
    for (index, word) in words.iter_mut().enumerate() {
        let kept = if index == 0 { 1 << CAP_NET_RAW } else { 0 };
        *word = Word {
            effective: word.permitted & kept,
            permitted: word.permitted & kept,
            inheritable: 0,
        };
    }
    write(&words)?;
    Ok(Privileges { can_probe, dropped })
}

/// Programs started from now on get nothing, whatever their files or user say.
fn forbid_more() -> io::Result<()> {
    // SAFETY: no pointers.
    sys::check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    for capability in 0..64 {
        if capability != CAP_NET_RAW as libc::c_ulong {
            // Needs a privilege, and ends with those that the kernel does not know; without it the set stays, which
            // `PR_SET_NO_NEW_PRIVS` makes harmless.
            // SAFETY: no pointers.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        }
    }
    // SAFETY: no pointers. Kernels before 4.3 have no ambient set and say so.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    Ok(())
}

fn read() -> io::Result<[Word; 2]> {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut words = [Word::default(); 2];
    // SAFETY: both point to what this version of the call expects, valid during the call.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, words.as_mut_ptr()) };
    sys::check(result as libc::c_int)?;
    Ok(words)
}

fn write(words: &[Word; 2]) -> io::Result<()> {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    // SAFETY: as in `read`; the kernel only reads.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, words.as_ptr()) };
    sys::check(result as libc::c_int).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `CapXxx` of this thread, from proc(5).
    fn capabilities(name: &str) -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
    }

    #[test]
    fn nothing_but_raw_sockets_is_left() {
        // Capabilities belong to threads: this one ends with the test.
        std::thread::spawn(|| {
            let before = capabilities("CapPrm");
            let raw = before & (1 << CAP_NET_RAW);
            let privileges = keep_probing_privileges().unwrap();
            assert_eq!(privileges.can_probe, raw != 0);
            assert_eq!(
                u64::from(privileges.dropped),
                u64::from((before & !raw).count_ones())
            );
            for name in ["CapPrm", "CapEff"] {
                assert_eq!(capabilities(name), raw, "{name}");
            }
            for name in ["CapInh", "CapAmb"] {
                assert_eq!(capabilities(name), 0, "{name}");
            }
            if before & (1 << 8) == 0 {
                eprintln!("not tested: without CAP_SETPCAP the bounding set stays");
            } else {
                assert_eq!(capabilities("CapBnd") & !(1 << CAP_NET_RAW), 0);
            }
            assert_eq!(capabilities("NoNewPrivs"), 1);
        })
        .join()
        .unwrap();
    }
}
