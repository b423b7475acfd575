//! Giving up root, and all capabilities but the one that probing needs (capabilities(7),
//! credentials(7)).

// Capabilities have no safe interface in the standard library.
#![allow(unsafe_code)]

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::ptr;
use std::sync::{Mutex, PoisonError};

use traceroute_wire::Family;

use crate::Privileges;
use crate::unix::sys;

/// `CAP_NET_RAW` in `linux/capability.h`.
const CAP_NET_RAW: u32 = 13;
/// `CAP_NET_ADMIN`.
const CAP_NET_ADMIN: u32 = 12;
/// `_LINUX_CAPABILITY_VERSION_3`: two words of 32 bits.
const VERSION: u32 = 0x2008_0522;
/// The user and the group that own nothing: the kernel's overflow IDs.
const NOBODY: u32 = 65534;

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct CapabilityHeader {
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

/// What is left of the user who started this process, where it has become another's: routing rules
/// and firewalls may depend on the user that a socket was opened as (`uidrange` in ip-rule(8),
/// `skuid` in nft(8)).
static CALLER: Mutex<Option<Caller>> = Mutex::new(None);

struct Caller {
    user: libc::uid_t,
    /// Raw sockets that send, opened as that user.
    senders: Vec<(Family, OwnedFd)>,
}

/// A socket closes when what it told can no longer be relied on; then it takes another.
const SENDERS: usize = 4;

/// The user who started this process, if it has become another's; `None`: it has not.
pub(super) fn caller() -> Option<u32> {
    let caller = CALLER.lock().unwrap_or_else(PoisonError::into_inner);
    caller.as_ref().map(|caller| caller.user)
}

/// A raw socket of the user who started this process, if it has become another's and some are left.
pub(super) fn sender(family: Family) -> Option<OwnedFd> {
    let mut caller = CALLER.lock().unwrap_or_else(PoisonError::into_inner);
    let senders = &mut caller.as_mut()?.senders;
    let index = senders.iter().position(|(of, _)| *of == family)?;
    Some(senders.swap_remove(index).1)
}

/// Remembers root as the one who started this process. What cannot be opened now cannot be later,
/// and is told then.
fn remember_root() {
    let senders = [Family::V4, Family::V6]
        .into_iter()
        .flat_map(|family| std::iter::repeat_n(family, SENDERS))
        .filter_map(|family| Some((family, super::sender::socket(family).ok()?)))
        .collect();
    let caller = Caller { user: 0, senders };
    *CALLER.lock().unwrap_or_else(PoisonError::into_inner) = Some(caller);
}

/// Drops all capabilities of the calling thread, and of threads that it starts from then on, except
/// `CAP_NET_RAW`; and lets no program that it may start have more. A process of root becomes that
/// of the user who started it with sudo or through a set-user-ID file, otherwise of *nobody*: root
/// may change the files that decide what root gets. To be called before other threads exist.
///
/// Raises the limit of open files before, which a privilege may allow: each reserved port is one.
///
/// # Errors
/// What the kernel says; some may be dropped then, others not.
pub fn keep_probing_privileges() -> io::Result<Privileges> {
    keep(1 << CAP_NET_RAW)
}

/// As [`keep_probing_privileges`], and keeps `CAP_NET_ADMIN`, with which packets can be marked on
/// kernels before 5.17 too.
///
/// # Errors
/// As [`keep_probing_privileges`].
pub fn keep_marking_privileges() -> io::Result<Privileges> {
    keep(1 << CAP_NET_RAW | 1 << CAP_NET_ADMIN)
}

/// Lets no other process of the same user look into this one, and writes no core dump: its memory
/// may have secrets (`PR_SET_DUMPABLE` of prctl(2)).
///
/// # Errors
/// What the kernel says.
pub fn forbid_dumps() -> io::Result<()> {
    // SAFETY: no pointers.
    sys::check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }).map(drop)
}

/// Ignores SIGXFSZ (`setrlimit(2)`): writing to a file that may not grow further, such as a log, is
/// an error then and does not end the process.
pub fn ignore_file_size_signal() {
    // SAFETY: no handler is installed. The call cannot fail for this signal.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// How many files this process may have open now. [`keep_probing_privileges`] raises that.
#[must_use]
pub fn most_open_files() -> Option<u64> {
    sys::open_files().ok().map(|(now, _)| now)
}

/// How many bytes of addresses this process may use, if that is limited (`RLIMIT_AS` of
/// `setrlimit(2)`): allocators reserve more than they use.
#[must_use]
pub fn most_address_space() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel fills in the structure.
    sys::check(unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) }).ok()?;
    (limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

fn keep(wanted: u32) -> io::Result<Privileges> {
    if let Err(error) = sys::raise_open_files(libc::RLIM_INFINITY) {
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
    let mut words = read()?;
    let held = words.map(|word| word.permitted);
    let can_probe = held[0] & (1 << CAP_NET_RAW) != 0;
    let can_mark = held[0] & wanted & (1 << CAP_NET_ADMIN) != 0;
    let dropped = (held[0] & !wanted).count_ones() + held[1].count_ones();
    forbid_more(wanted)?;
    leave_root()?;
    for (index, word) in words.iter_mut().enumerate() {
        let kept = if index == 0 { wanted } else { 0 };
        *word = Word {
            effective: word.permitted & kept,
            permitted: word.permitted & kept,
            inheritable: 0,
        };
    }
    write(&words)?;
    Ok(Privileges {
        can_probe,
        can_mark,
        dropped,
        is_root: users()?.contains(&0),
    })
}

/// Lets a process of root be somebody else's, with the permitted capabilities as they are. Stays
/// root where that is not possible: in a container without `CAP_SETUID`, and in a user namespace
/// that has no other user.
fn leave_root() -> io::Result<()> {
    let users = users()?;
    if !users.contains(&0) {
        return Ok(());
    }
    // SAFETY: takes no arguments, cannot fail.
    let group = unsafe { libc::getgid() };
    let (user, group) = heir(
        (users[0], group),
        env::var_os("SUDO_UID"),
        env::var_os("SUDO_GID"),
    );
    remember_root();
    let mut end_with_parent: libc::c_int = 0;
    // SAFETY: the kernel writes one integer.
    sys::check(unsafe { libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut end_with_parent) })?;
    // SAFETY: no pointers.
    if unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) } < 0 {
        // Locked: `CAP_NET_RAW` would go with root.
        return Ok(());
    }
    // The library's functions, because they change every thread: setuid(2), "C library/kernel
    // differences". SAFETY: a list of no groups is not read.
    tolerate(unsafe { libc::setgroups(0, ptr::null()) })?;
    // SAFETY: no pointers.
    tolerate(unsafe { libc::setresgid(group, group, group) })?;
    // SAFETY: no pointers.
    tolerate(unsafe { libc::setresuid(user, user, user) })?;
    // Another user's process no longer gets the signal that this one may have asked for: prctl(2).
    // SAFETY: no pointers.
    sys::check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, end_with_parent) }).map(drop)
}

/// Whose a process of root is to be, as user and group: of the real user, if that is not root, of
/// the one who called sudo by what that says, or of *nobody*.
fn heir(real: (u32, u32), sudo_user: Option<OsString>, sudo_group: Option<OsString>) -> (u32, u32) {
    // The highest number means to the kernel that nothing is to change.
    let is_plain = |id: &u32| *id != 0 && *id != u32::MAX;
    let plain = |id: Option<OsString>| id?.to_str()?.parse().ok().filter(is_plain);
    if is_plain(&real.0) {
        // Not what the environment says: it is that user's.
        return (real.0, Some(real.1).filter(is_plain).unwrap_or(NOBODY));
    }
    plain(sudo_user)
        .zip(plain(sudo_group))
        .unwrap_or((NOBODY, NOBODY))
}

/// Real, effective and saved user.
fn users() -> io::Result<[libc::uid_t; 3]> {
    let mut users = [0; 3];
    let [real, effective, saved] = &mut users;
    // SAFETY: the kernel writes one number to each.
    sys::check(unsafe { libc::getresuid(real, effective, saved) })?;
    Ok(users)
}

/// A user who is not there, or may not be changed to, is no error.
fn tolerate(result: libc::c_int) -> io::Result<()> {
    match sys::check(result) {
        Err(error) if !matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EPERM)) => Err(error),
        _ => Ok(()),
    }
}

/// Programs started from now on get nothing, whatever their files or user say.
fn forbid_more(wanted: u32) -> io::Result<()> {
    // SAFETY: no pointers.
    sys::check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    for capability in 0..64 {
        if u64::from(wanted) >> capability & 1 == 0 {
            // Needs a privilege, and ends with those that the kernel does not know; without it the
            // set stays, which `PR_SET_NO_NEW_PRIVS` makes harmless. SAFETY: no pointers.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        }
    }
    // SAFETY: no pointers. Kernels before 4.3 have no ambient set and say so.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    Ok(())
}

fn read() -> io::Result<[Word; 2]> {
    let mut header = CapabilityHeader {
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
    let mut header = CapabilityHeader {
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
    use std::process::Command;

    /// Those of this thread, from proc(5).
    fn status(name: &str) -> String {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').trim().to_owned()
    }

    /// `CapXxx` of this thread.
    fn capabilities(name: &str) -> u64 {
        u64::from_str_radix(&status(name), 16).unwrap()
    }

    /// In a process of its own: what it gives up is gone.
    #[test]
    fn nothing_but_raw_sockets_is_left() {
        const ALONE: &str = "TRACEROUTE_TEST_PRIVILEGES";
        let name = "linux::privileges::tests::nothing_but_raw_sockets_is_left";
        if env::var_os(ALONE).is_none() {
            for (user, group, expected) in [("", "", NOBODY), ("1234", "1234", 1234), ("1234", "0", NOBODY)] {
                let output = Command::new(env::current_exe().unwrap())
                    .args(["--exact", name, "--nocapture"])
                    .env(ALONE, expected.to_string())
                    .envs([("SUDO_UID", user), ("SUDO_GID", group)])
                    .output()
                    .unwrap();
                let text = String::from_utf8_lossy(&output.stdout);
                assert!(text.contains("running 1 test"), "{text}");
                let errors = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{user} {group}: {text}{errors}");
            }
            return;
        }
        let before = capabilities("CapPrm");
        let raw = before & (1 << CAP_NET_RAW);
        let may_change = [7, 6].iter().all(|capability| before & (1 << capability) != 0);
        let was_root = users().unwrap().contains(&0);
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
        assert_eq!(status("NoNewPrivs"), "1");
        let all_users = std::fs::read_to_string("/proc/self/uid_map")
            .unwrap()
            .contains("4294967295");
        if was_root && may_change && all_users {
            let expected: u32 = env::var(ALONE).unwrap().parse().unwrap();
            assert!(!privileges.is_root);
            for name in ["Uid", "Gid"] {
                assert_eq!(
                    status(name),
                    [expected; 4].map(|id| id.to_string()).join("\t"),
                    "{name}"
                );
            }
            assert_eq!(status("Groups"), "");
        } else {
            assert_eq!(privileges.is_root, users().unwrap().contains(&0));
        }
    }

    #[test]
    fn root_becomes_who_called_it() {
        let name = |text: &str| Some(OsString::from(text));
        let nobody = (NOBODY, NOBODY);
        for (real, user, group, expected) in [
            ((0, 0), None, None, nobody),
            ((0, 0), name("1000"), name("1001"), (1000, 1001)),
            ((0, 0), name("1000"), None, nobody),
            ((0, 0), name("0"), name("1001"), nobody),
            ((0, 0), name("1000"), name("0"), nobody),
            ((0, 0), name("-1"), name("1001"), nobody),
            ((0, 0), name("4294967295"), name("1001"), nobody),
            ((0, 0), name("4294967296"), name("1001"), nobody),
            ((0, 0), name("root"), name("1001"), nobody),
            // Through a set-user-ID file, by somebody who would like to be another.
            ((1000, 1001), name("1002"), name("1002"), (1000, 1001)),
            ((1000, 0), None, None, (1000, NOBODY)),
        ] {
            assert_eq!(
                heir(real, user.clone(), group.clone()),
                expected,
                "{real:?} {user:?} {group:?}"
            );
        }
    }
}
