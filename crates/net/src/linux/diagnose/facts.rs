//! What a diagnosis is made from.

use std::fmt;
use std::fs;
use std::io;

use socket2::{Domain, Protocol, Socket, Type};

use super::sys;
use crate::{Family, program_path};

/// Bits of capabilities (linux/capability.h).
pub(super) const NET_ADMIN: u64 = 1 << 12;
pub(super) const NET_RAW: u64 = 1 << 13;

/// A set of capabilities, as the kernel numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct LinuxCapabilities(pub(super) u64);

/// What sockets of one family can be opened.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) switched_off: bool,
    pub(super) raw: io::Result<()>,
    pub(super) echo: io::Result<()>,
}

/// Everything that was looked at.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) v4: Sockets,
    pub(super) v6: Sockets,
    pub(super) capture: io::Result<()>,
    pub(super) user: Option<u32>,
    /// The group of this process and its supplementary groups.
    pub(super) groups: Vec<u32>,
    pub(super) capabilities: LinuxCapabilities,
    pub(super) no_new_privileges: bool,
    /// The path of this program, as a shell takes it.
    pub(super) program: String,
    /// That a program may have when it is started, and whether it has them right away; `None`:
    /// none.
    pub(super) file_capabilities: Option<(LinuxCapabilities, bool)>,
    pub(super) initial_user_namespace: bool,
    /// First and last; empty when the last is less.
    pub(super) ping_groups: Option<(u32, u32)>,
    /// Limit of this process, and how far it may be raised.
    pub(super) open_files: (u64, u64),
    pub(super) largest_buffer: Option<u64>,
    /// Replies are only let in where probes leave, on some interface.
    pub(super) strict_reverse_path: bool,
    /// Names of those that are up.
    pub(super) interfaces: Vec<String>,
}

impl Facts {
    pub(super) fn gather() -> Self {
        let status = read("/proc/thread-self/status");
        let program = std::env::current_exe().unwrap_or_default();
        let interfaces = sys::interfaces_up();
        let mut groups = numbers(field(&status, "Groups"));
        // Real, effective, saved, of the file system.
        groups.extend(numbers(field(&status, "Gid")).get(1));
        Facts {
            v4: Sockets::open(Domain::IPV4, Protocol::ICMPV4),
            v6: Sockets::open(Domain::IPV6, Protocol::ICMPV6),
            capture: open(Domain::PACKET, Type::DGRAM, None),
            user: numbers(field(&status, "Uid")).get(1).copied(),
            groups,
            capabilities: LinuxCapabilities(u64::from_str_radix(field(&status, "CapEff"), 16).unwrap_or(0)),
            no_new_privileges: field(&status, "NoNewPrivs") == "1",
            file_capabilities: sys::file_capabilities(&program).and_then(|bytes| parse_xattr(&bytes)),
            program: program_path().to_owned(),
            initial_user_namespace: is_initial(&read("/proc/self/uid_map")),
            ping_groups: match numbers(&read("/proc/sys/net/ipv4/ping_group_range"))[..] {
                [first, last] => Some((first, last)),
                _ => None,
            },
            open_files: crate::unix::sys::open_files().unwrap_or_default(),
            largest_buffer: read("/proc/sys/net/core/rmem_max").trim().parse().ok(),
            strict_reverse_path: is_strict(&interfaces, |name| {
                let value = read(&format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"));
                value.trim().parse().ok()
            }),
            interfaces,
        }
    }

    pub(super) fn has_raw(&self, family: Family) -> bool {
        self.sockets(family).raw.is_ok() && self.capture.is_ok()
    }

    pub(super) fn raw_but_no_capture(&self, family: Family) -> bool {
        self.sockets(family).raw.is_ok() && self.capture.is_err()
    }

    pub(super) fn sockets(&self, family: Family) -> &Sockets {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

impl Sockets {
    fn open(domain: Domain, echo: Protocol) -> Self {
        let raw = Protocol::from(libc::IPPROTO_RAW);
        let disabled =
            domain == Domain::IPV6 && read("/proc/sys/net/ipv6/conf/all/disable_ipv6").trim() == "1";
        Sockets {
            switched_off: disabled
                || open(domain, Type::DGRAM, None).is_err_and(|error| is_unknown_family(&error)),
            raw: open(domain, Type::RAW, Some(raw)),
            echo: open(domain, Type::DGRAM, Some(echo)),
        }
    }
}

/// And not, say, that too many files are open.
fn is_unknown_family(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

/// Whether one of these interfaces filters strictly: the kernel takes the larger of its own
/// `setting` and that of "all" (`Documentation/networking/ip-sysctl.rst`). It does not matter on
/// loopback.
fn is_strict(interfaces: &[String], setting: impl Fn(&str) -> Option<u32>) -> bool {
    let all = setting("all");
    interfaces
        .iter()
        .filter(|name| *name != "lo")
        .any(|name| setting(name).max(all) == Some(1))
}

fn open(domain: Domain, kind: Type, protocol: Option<Protocol>) -> io::Result<()> {
    Socket::new(domain, kind, protocol).map(drop)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// What stands behind `name:` in `proc_pid_status(5)`.
fn field<'s>(status: &'s str, name: &str) -> &'s str {
    let value = |line: &'s str| line.strip_prefix(name)?.strip_prefix(':').map(str::trim);
    status.lines().find_map(value).unwrap_or_default()
}

fn numbers(text: &str) -> Vec<u32> {
    text.split_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect()
}

/// `user_namespaces(7)`: the initial one maps all users to themselves.
fn is_initial(map: &str) -> bool {
    numbers(map) == [0, 0, u32::MAX]
}

/// `struct vfs_cap_data` (linux/capability.h): a magic number with the revision and the effective
/// bit, then permitted and inheritable of the lower 32 bits, then of the upper ones. All
/// little-endian.
fn parse_xattr(bytes: &[u8]) -> Option<(LinuxCapabilities, bool)> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let permitted = u64::from(word(4)?) | u64::from(word(12).unwrap_or(0)) << 32;
    let effective = word(0)? & 1 != 0;
    (permitted != 0).then_some((LinuxCapabilities(permitted), effective))
}

impl fmt::Display for LinuxCapabilities {
    /// Those that matter here by name, the others by how many they are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = [(NET_RAW, "CAP_NET_RAW"), (NET_ADMIN, "CAP_NET_ADMIN")];
        let mut names: Vec<String> = named
            .into_iter()
            .filter(|(bit, _)| self.0 & bit != 0)
            .map(|(_, name)| name.to_owned())
            .collect();
        let others = (self.0 & !(NET_RAW | NET_ADMIN)).count_ones();
        if others > 0 {
            names.push(format!("{others} more"));
        }
        match names.split_last() {
            None => f.write_str("no capabilities"),
            Some((only, [])) => f.write_str(only),
            Some((last, first)) => write!(f, "{} and {last}", first.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_named() {
        let text = |set| LinuxCapabilities(set).to_string();
        assert_eq!(text(0), "no capabilities");
        assert_eq!(text(NET_RAW), "CAP_NET_RAW");
        assert_eq!(text(NET_RAW | NET_ADMIN), "CAP_NET_RAW and CAP_NET_ADMIN");
        assert_eq!(text(0xF | NET_RAW), "CAP_NET_RAW and 4 more");
        assert_eq!(text(1), "1 more");
    }

    #[test]
    fn file_capabilities_are_read() {
        // As written by `setcap cap_net_raw+ep`.
        let mut bytes = 0x0200_0001_u32.to_le_bytes().to_vec();
        bytes.extend(0x2000_u32.to_le_bytes());
        bytes.extend([0; 12]);
        assert_eq!(parse_xattr(&bytes), Some((LinuxCapabilities(NET_RAW), true)));
        assert_eq!(parse_xattr(&bytes[..8]), Some((LinuxCapabilities(NET_RAW), true)));
        // `setcap cap_net_raw+p`.
        bytes[0] = 0;
        assert_eq!(parse_xattr(&bytes), Some((LinuxCapabilities(NET_RAW), false)));
        assert_eq!(parse_xattr(&[0; 20]), None);
        assert_eq!(parse_xattr(&[]), None);
    }

    #[test]
    fn an_interface_may_filter_more_than_all_do_together() {
        let up = ["lo", "eth0", "wg0"].map(str::to_owned);
        let strict = |all, lo, eth0| {
            is_strict(&up, |name| match name {
                "all" => Some(all),
                "lo" => Some(lo),
                "eth0" => Some(eth0),
                _ => None,
            })
        };
        assert!(strict(1, 0, 0) && strict(0, 0, 1));
        assert!(!strict(0, 1, 0) && !strict(2, 0, 1) && !strict(0, 0, 2));
    }

    #[test]
    fn only_an_unknown_family_is_switched_off() {
        let is_off = |code| is_unknown_family(&io::Error::from_raw_os_error(code));
        assert!(is_off(libc::EAFNOSUPPORT));
        assert!(!is_off(libc::EMFILE));
    }

    #[test]
    fn the_status_is_read() {
        let status = "Name:\tx\nUid:\t0\t65534\t0\t0\nGroups:\t4 27 \nCapEff:\t0000000000002000\n";
        assert_eq!(numbers(field(status, "Uid")), [0, 65_534, 0, 0]);
        assert_eq!(numbers(field(status, "Groups")), [4, 27]);
        assert_eq!(field(status, "CapEff"), "0000000000002000");
        assert_eq!(field(status, "Cap"), "");
    }

    #[test]
    fn only_the_initial_user_namespace_maps_everybody() {
        assert!(is_initial("         0          0 4294967295\n"));
        assert!(!is_initial("         0       1000          1\n"));
        assert!(!is_initial(""));
    }
}
