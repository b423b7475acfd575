//! System calls that the service never makes, but that help who takes it over, are refused
//! (`seccomp(2)`).
//!
//! This is a list of what is refused, not of what is allowed. A list of what is allowed would have
//! to name all that tokio, rustls and two C libraries call, on every kernel, and an update of the C
//! library of the machine would break the service. A call that is newer than this list is answered
//! as by an older kernel (`ENOSYS`), which every C library copes with. So neither new calls nor the
//! second numbering of `x86_64` (x32) get around the list.
//!
//! What is refused fails with `EPERM` and does not end the process: a mistake in the list must not
//! stop the service. Only calls in the numbering of another processor (`int 0x80`) end it.
//!
//! Addresses are behind pointers, where a filter cannot look: it bounds the kinds of sockets, not
//! whom they talk to.

use std::env::consts::ARCH;
use std::io;

use libc::{c_int, c_long};
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp::{Eq, MaskedEq, Ne};
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use super::Protection;

/// From now on the calling thread, and those that it starts, are refused what the module says.
/// Sockets that listen must be open.
///
/// # Errors
/// What the kernel says.
pub(super) fn restrict() -> Result<Protection, Error> {
    match seccompiler::apply_filter(&program()?) {
        Err(Error::Seccomp(error)) if is_unsupported(&error) => Ok(Protection::Unsupported),
        result => result.map(|()| Protection::On),
    }
}

/// The kernel has no seccomp, or no filters.
fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL))
}

/// The newest call that was looked at: Linux 6.10. From 424 on numbers are the same everywhere.
const NEWEST: c_long = libc::SYS_mseal;
/// `fchmodat2` (Linux 6.6); libc has it for some processors only.
const FCHMODAT2: c_long = 452;

/// Refused whatever their arguments.
#[rustfmt::skip]
const REFUSED: &[c_long] = &[
    // Other programs: start them, look into them, send them signals.
    libc::SYS_execve, libc::SYS_execveat, libc::SYS_ptrace, libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev, libc::SYS_process_madvise, libc::SYS_kcmp, libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd, libc::SYS_pidfd_send_signal, libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo, libc::SYS_move_pages, libc::SYS_migrate_pages,
    // A thread of any program. Only musl's `abort` uses it, and has another way to end.
    libc::SYS_tkill,
    // Files: Landlock's part, also for kernels without it. It leaves modes and owners alone.
    libc::SYS_mkdirat, libc::SYS_mknodat, libc::SYS_symlinkat, libc::SYS_linkat, libc::SYS_renameat2,
    libc::SYS_truncate, libc::SYS_openat2, libc::SYS_fchmod, libc::SYS_fchmodat, FCHMODAT2,
    libc::SYS_fchown, libc::SYS_fchownat, libc::SYS_setxattr, libc::SYS_lsetxattr, libc::SYS_fsetxattr,
    libc::SYS_removexattr, libc::SYS_lremovexattr, libc::SYS_fremovexattr,
    libc::SYS_name_to_handle_at, libc::SYS_open_by_handle_at, libc::SYS_fanotify_init,
    // Memory that can be written and run, or that others share.
    libc::SYS_memfd_create, libc::SYS_shmget, libc::SYS_shmat, libc::SYS_semget, libc::SYS_msgget,
    libc::SYS_mq_open,
    // Doors of the kernel that had many holes, and that nothing here uses.
    libc::SYS_bpf, libc::SYS_perf_event_open, libc::SYS_userfaultfd, libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter, libc::SYS_io_uring_register, libc::SYS_io_setup, libc::SYS_add_key,
    libc::SYS_request_key, libc::SYS_keyctl, libc::SYS_vmsplice, libc::SYS_personality,
    // Somebody to connect to it: what is to listen does.
    libc::SYS_listen,
    // Other users and rights.
    libc::SYS_setuid, libc::SYS_setgid, libc::SYS_setreuid, libc::SYS_setregid, libc::SYS_setresuid,
    libc::SYS_setresgid, libc::SYS_setgroups, libc::SYS_setfsuid, libc::SYS_setfsgid, libc::SYS_capset,
    // Namespaces and mounts.
    libc::SYS_unshare, libc::SYS_setns, libc::SYS_chroot, libc::SYS_pivot_root, libc::SYS_mount,
    libc::SYS_umount2, libc::SYS_open_tree, libc::SYS_move_mount, libc::SYS_fsopen,
    libc::SYS_fsconfig, libc::SYS_fsmount, libc::SYS_fspick, libc::SYS_mount_setattr,
    // The machine. Needs capabilities, which have been given up if that was possible.
    libc::SYS_init_module, libc::SYS_finit_module, libc::SYS_delete_module, libc::SYS_kexec_load,
    libc::SYS_reboot, libc::SYS_swapon, libc::SYS_swapoff, libc::SYS_sethostname,
    libc::SYS_setdomainname, libc::SYS_settimeofday, libc::SYS_clock_settime,
    libc::SYS_clock_adjtime, libc::SYS_adjtimex, libc::SYS_acct, libc::SYS_syslog,
    libc::SYS_quotactl, libc::SYS_quotactl_fd, libc::SYS_vhangup,
];

/// What only this processor has: older forms of the same, and its own.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const REFUSED_HERE: &[c_long] = &[
    libc::SYS_fork, libc::SYS_vfork,
    libc::SYS_creat, libc::SYS_mkdir, libc::SYS_rmdir, libc::SYS_mknod, libc::SYS_symlink,
    libc::SYS_link, libc::SYS_rename, libc::SYS_renameat, libc::SYS_chmod, libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_kexec_file_load, libc::SYS_ioperm, libc::SYS_iopl, libc::SYS_modify_ldt,
];
/// `renameat` and `kexec_file_load`; libc has them for some C libraries only.
#[cfg(target_arch = "aarch64")]
const REFUSED_HERE: &[c_long] = &[38, 294];

/// Families of sockets: clients, probes and look-ups, routes and addresses, captures.
const FAMILIES: [c_int; 5] = [
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
    libc::AF_PACKET,
];
/// Protocols over IP; 0 is the usual one of the socket's type.
const PROTOCOLS: [c_int; 6] = [
    0,
    libc::IPPROTO_ICMP,
    libc::IPPROTO_TCP,
    libc::IPPROTO_UDP,
    libc::IPPROTO_ICMPV6,
    libc::IPPROTO_RAW,
];

/// The filter.
fn program() -> Result<BpfProgram, BackendError> {
    let whatever = REFUSED.iter().chain(REFUSED_HERE);
    let whatever = whatever.map(|call| (*call, Vec::new()));
    let rules = whatever.chain(by_arguments()?).collect();
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let arch = TargetArch::try_from(ARCH)?;
    let refusals = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?;
    let mut program = unknown_calls();
    program.extend(BpfProgram::try_from(refusals)?);
    Ok(program)
}

/// Answers `clone3` and whatever is newer than this list as an older kernel does. What `clone3`
/// is to do is behind a pointer; C libraries then use `clone`.
fn unknown_calls() -> BpfProgram {
    let instruction = |code: u32, jt, jf, k| sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let is = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let is_above = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
    let unknown = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    vec![
        // The number is at 0 in `struct seccomp_data`.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(is, 1, 0, libc::SYS_clone3 as u32),
        instruction(is_above, 0, 1, NEWEST as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, unknown),
    ]
}

/// Calls that are needed, but not with all arguments: refused where one of the rules applies.
fn by_arguments() -> Result<Vec<(c_long, Vec<SeccompRule>)>, BackendError> {
    let process = std::process::id();
    let none_of = |argument, values: &[c_int]| {
        let conditions = values.iter().map(|value| check(argument, Ne, *value as u32));
        conditions.collect::<Result<Vec<_>, _>>()
    };
    let over_ip = |family| {
        let mut conditions = none_of(2, &PROTOCOLS)?;
        conditions.push(check(0, Eq, family as u32)?);
        SeccompRule::new(conditions)
    };
    let any_of = |argument, flags: &[c_int]| {
        let rules = flags.iter().map(|flag| has(argument, *flag as u32));
        rules.collect::<Result<Vec<_>, _>>()
    };
    let write = [libc::O_WRONLY, libc::O_RDWR, libc::O_CREAT, libc::O_TRUNC];
    let run = libc::PROT_EXEC as u32;
    Ok(vec![
        // Threads, not processes.
        (
            libc::SYS_clone,
            vec![rule(check(0, MaskedEq(libc::CLONE_THREAD as u64), 0)?)?],
        ),
        (
            libc::SYS_socket,
            vec![
                SeccompRule::new(none_of(0, &FAMILIES)?)?,
                SeccompRule::new(vec![
                    check(0, Eq, libc::AF_NETLINK as u32)?,
                    check(2, Ne, libc::NETLINK_ROUTE as u32)?,
                ])?,
                over_ip(libc::AF_INET)?,
                over_ip(libc::AF_INET6)?,
            ],
        ),
        (
            libc::SYS_socketpair,
            vec![rule(check(0, Ne, libc::AF_UNIX as u32)?)?],
        ),
        // Programs of libraries are mapped from files, never written.
        (libc::SYS_mmap, vec![has(2, run | libc::PROT_WRITE as u32)?]),
        (libc::SYS_mprotect, vec![has(2, run)?]),
        (libc::SYS_pkey_mprotect, vec![has(2, run)?]),
        (libc::SYS_openat, any_of(2, &write)?),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_open, any_of(1, &write)?),
        (libc::SYS_unlinkat, any_of(2, &[libc::AT_REMOVEDIR])?),
        // Typing on the terminal that it was started from.
        (
            libc::SYS_ioctl,
            vec![
                rule(check(1, Eq, libc::TIOCSTI as u32)?)?,
                rule(check(1, Eq, libc::TIOCLINUX as u32)?)?,
            ],
        ),
        // `abort` sends a signal to its own process.
        (libc::SYS_kill, vec![rule(check(0, Ne, process)?)?]),
        (libc::SYS_tgkill, vec![rule(check(0, Ne, process)?)?]),
    ])
}

fn rule(condition: SeccompCondition) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![condition])
}

/// All of these bits are set.
fn has(argument: u8, bits: u32) -> Result<SeccompRule, BackendError> {
    rule(check(argument, MaskedEq(bits.into()), bits)?)
}

/// The kernel too looks at the lower half of these arguments only.
fn check(argument: u8, operator: SeccompCmpOp, value: u32) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, Dword, operator, value.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "all of this is test code")]
mod tests {
    use super::*;
    use std::fs::{self, File, Permissions};
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;
    use std::process::Command;
    use std::thread;

    use socket2::{Domain, Protocol, Socket, Type};

    /// Its error number; 0: it succeeds.
    #[allow(unsafe_code)]
    fn call(number: c_long, arguments: [c_long; 6]) -> c_int {
        let [first, second, third, fourth, fifth, sixth] = arguments;
        // SAFETY: the tests pass no pointers, except null.
        match unsafe { libc::syscall(number, first, second, third, fourth, fifth, sixth) } {
            -1 => io::Error::last_os_error().raw_os_error().unwrap(),
            _ => 0,
        }
    }

    /// Runs `test` in a thread that is restricted for good.
    fn restricted(test: impl FnOnce() + Send + 'static) {
        let thread = thread::spawn(|| match restrict().unwrap() {
            Protection::On => test(),
            Protection::Unsupported => eprintln!("not run: this kernel has no seccomp"),
        });
        thread.join().unwrap();
    }

    #[allow(
        clippy::cast_possible_wrap,
        reason = "TIOCSTI has a type of each C library's own"
    )]
    #[test]
    fn what_only_an_intruder_calls_is_refused() {
        restricted(|| {
            let nobody = c_long::from(u32::MAX);
            let pages = c_long::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            let both = c_long::from(libc::PROT_WRITE | libc::PROT_EXEC);
            let run = c_long::from(libc::PROT_EXEC);
            // None does anything where it is not refused, nor fails with EPERM.
            let calls = [
                (libc::SYS_ptrace, [-1, 0, 0, 0, 0, 0]),
                (libc::SYS_kill, [1, 0, 0, 0, 0, 0]),
                (libc::SYS_tgkill, [1, 1, 0, 0, 0, 0]),
                (libc::SYS_listen, [-1, 0, 0, 0, 0, 0]),
                (libc::SYS_unshare, [0; 6]),
                (libc::SYS_clone, [libc::CLONE_NEWUSER.into(), 0, 0, 0, 0, 0]),
                (libc::SYS_io_uring_setup, [0; 6]),
                (libc::SYS_memfd_create, [0; 6]),
                (libc::SYS_personality, [nobody, 0, 0, 0, 0, 0]),
                (libc::SYS_mmap, [0, 4096, both, pages, -1, 0]),
                (libc::SYS_mprotect, [0, 0, run, 0, 0, 0]),
                (libc::SYS_ioctl, [-1, libc::TIOCSTI as c_long, 0, 0, 0, 0]),
                (libc::SYS_setresuid, [-1, -1, -1, 0, 0, 0]),
                (FCHMODAT2, [-1, 0, 0, 0, 0, 0]),
            ];
            for (number, arguments) in calls {
                assert_eq!(call(number, arguments), libc::EPERM, "call {number}");
            }
            // Null is no argument for it, which is another error.
            assert_eq!(call(libc::SYS_clone3, [0; 6]), libc::ENOSYS);
            assert_eq!(call(NEWEST + 1, [-1; 6]), libc::ENOSYS);
        });
    }

    #[test]
    fn no_sockets_but_those_of_probes_look_ups_and_clients() {
        restricted(|| {
            let open = |family: c_int, kind, protocol: c_int| {
                let socket = Socket::new(Domain::from(family), kind, Some(Protocol::from(protocol)));
                socket.map_err(|error| error.raw_os_error().unwrap()).err()
            };
            for family in [libc::AF_ALG, libc::AF_VSOCK, libc::AF_BLUETOOTH, libc::AF_XDP] {
                assert_eq!(open(family, Type::RAW, 0), Some(libc::EPERM), "family {family}");
            }
            assert_eq!(open(libc::AF_NETLINK, Type::RAW, libc::NETLINK_ROUTE), None);
            assert_eq!(
                open(libc::AF_NETLINK, Type::RAW, libc::NETLINK_NETFILTER),
                Some(libc::EPERM)
            );
            for family in [libc::AF_INET, libc::AF_INET6] {
                assert_eq!(open(family, Type::STREAM, libc::IPPROTO_SCTP), Some(libc::EPERM));
                assert_ne!(open(family, Type::STREAM, libc::IPPROTO_TCP), Some(libc::EPERM));
            }
        });
    }

    #[test]
    fn files_stay_as_they_are_without_landlock_too() {
        let file = std::env::temp_dir().join(format!("traceroute-calls-{}", std::process::id()));
        fs::write(&file, "old").unwrap();
        let seen = file.clone();
        restricted(move || {
            let denied = |result: io::Result<()>| result.unwrap_err().kind() == ErrorKind::PermissionDenied;
            let other = seen.with_extension("other");
            assert_eq!(fs::read_to_string(&seen).unwrap(), "old");
            assert!(denied(fs::write(&seen, "new")));
            assert!(denied(File::options().append(true).open(&seen).map(drop)));
            assert!(denied(fs::write(&other, "new")));
            assert!(denied(fs::create_dir(&other)));
            assert!(denied(fs::rename(&seen, &other)));
            assert!(denied(fs::hard_link(&seen, &other)));
            assert!(denied(fs::set_permissions(&seen, Permissions::from_mode(0o777))));
            assert!(denied(Command::new("true").spawn().map(drop)));
            // As its Unix socket's file at the end.
            fs::remove_file(&seen).unwrap();
        });
        let _ = fs::remove_file(file);
    }

    #[test]
    fn what_the_service_does_is_allowed() {
        // As its own: it listens before.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        restricted(move || {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let copy = listener.try_clone().unwrap();
            let mut accepted = copy.accept().unwrap().0;
            // With a C library that prefers clone3.
            let writer = thread::spawn(move || client.write_all(b"hello"));
            accepted.read_exact(&mut [0; 5]).unwrap();
            writer.join().unwrap().unwrap();
            UnixStream::pair().unwrap();
            UdpSocket::bind("127.0.0.1:0").unwrap();
            assert!(("localhost", 80).to_socket_addrs().unwrap().next().is_some());
            // A library is loaded, as C libraries do to look up names.
            let program = File::open("/proc/self/exe").unwrap();
            let run = c_long::from(libc::PROT_READ | libc::PROT_EXEC);
            let arguments = [
                0,
                4096,
                run,
                libc::MAP_PRIVATE.into(),
                program.as_raw_fd().into(),
                0,
            ];
            assert_eq!(call(libc::SYS_mmap, arguments), 0);
            let process = std::process::id().into();
            assert_eq!(call(libc::SYS_kill, [process, 0, 0, 0, 0, 0]), 0);
        });
    }
}
