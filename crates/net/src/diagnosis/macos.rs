//! What macOS lets a process probe: by raw sockets, which only root may have, and a BPF device for
//! each interface (bpf(4)).

use std::io;
use std::net::IpAddr;

use super::{Family, Finding, PROTOCOLS, Subject, Verdict, route};

/// Open files that are few when many traces run at once.
const FEW_FILES: u64 = 1024;
/// What opening a BPF device says when another program has it.
const EBUSY: i32 = 16;

/// Everything that was looked at.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) v4: Sockets,
    pub(crate) v6: Sockets,
    /// Opening a BPF device that nobody uses.
    pub(crate) capture: io::Result<()>,
    /// Who may open the first BPF device; `None`: there is none.
    pub(crate) device: Option<Device>,
    pub(crate) user: u32,
    /// The path of this program.
    pub(crate) program: String,
    /// Limit of this process, and how far it may be raised.
    pub(crate) open_files: (u64, u64),
    /// Names of those that have addresses.
    pub(crate) interfaces: Vec<String>,
}

/// What sockets of one family can be opened.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) switched_off: bool,
    pub(crate) raw: io::Result<()>,
    /// Address from which packets leave to somewhere else.
    pub(crate) source: Option<IpAddr>,
}

/// A node in `/dev`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Device {
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) user: u32,
    pub(crate) group: u32,
}

/// What the facts mean.
pub(crate) fn report(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for protocol in PROTOCOLS {
        findings.push(probing(facts, protocol, Family::V4));
        findings.push(probing(facts, protocol, Family::V6));
    }
    findings.push(privileges(facts));
    findings.push(devices(facts));
    findings.push(open_files(facts));
    findings.push(interfaces(facts));
    findings.push(route(Family::V4, facts.v4.source, "netstat -rn -f inet"));
    findings.push(route(Family::V6, facts.v6.source, "netstat -rn -f inet6"));
    findings.push(
        Finding::new(
            Subject::System("firewall"),
            Verdict::Unknown,
            "cannot be known from here; hops are missing when ICMP time exceeded is dropped",
        )
        .with_remedy("sudo pfctl -s rules"),
    );
    findings
}

fn probing(facts: &Facts, protocol: &'static str, family: Family) -> Finding {
    let finding = |verdict, text: &str| Finding::new(Subject::Probing { protocol, family }, verdict, text);
    let sockets = match family {
        Family::V4 => &facts.v4,
        Family::V6 => &facts.v6,
    };
    match (&sockets.raw, &facts.capture) {
        _ if sockets.switched_off => {
            let text = format!("{family} is switched off");
            let finding = finding(Verdict::Bad, &text);
            if family == Family::V6 {
                finding.with_remedy(
                    "networksetup -listallnetworkservices; sudo networksetup -setv6automatic <service>",
                )
            } else {
                finding
            }
        }
        (Ok(()), Ok(())) => finding(Verdict::Good, "raw sockets"),
        (Err(error), _) if is_refused(error) => {
            finding(Verdict::Bad, "only root may open raw sockets").with_remedy(as_root(facts))
        }
        (Err(error), _) => {
            finding(Verdict::Bad, &format!("no raw socket: {error}")).with_remedy(as_root(facts))
        }
        (Ok(()), Err(error)) if error.raw_os_error() == Some(EBUSY) => {
            finding(Verdict::Bad, "all BPF devices are in use by other programs")
                .with_remedy("sudo lsof /dev/bpf*")
        }
        (Ok(()), Err(error)) if is_refused(error) => {
            finding(Verdict::Bad, "this process may not open BPF devices").with_remedy(as_root(facts))
        }
        (Ok(()), Err(error)) => {
            finding(Verdict::Bad, &format!("no BPF device: {error}")).with_remedy("ls -l /dev/bpf*")
        }
    }
}

fn is_refused(error: &io::Error) -> bool {
    // EPERM and EACCES.
    error.kind() == io::ErrorKind::PermissionDenied
}

fn as_root(facts: &Facts) -> String {
    if facts.user == 0 {
        // Root that is refused: a sandbox, or a security agent.
        "run it from Terminal, outside of any sandbox".to_owned()
    } else {
        format!("sudo {}", facts.program)
    }
}

fn privileges(facts: &Facts) -> Finding {
    let subject = Subject::System("privileges");
    if facts.user == 0 {
        return Finding::new(subject, Verdict::Good, "root");
    }
    let text = format!("user {}, not root", facts.user);
    Finding::new(subject, Verdict::Bad, text).with_remedy(as_root(facts))
}

/// Access to them alone, as `ChmodBPF` of Wireshark gives it, is of no use: nothing can be sent.
fn devices(facts: &Facts) -> Finding {
    let subject = Subject::System("BPF devices");
    let Some(Device { mode, user, group }) = facts.device else {
        let text = "there is no /dev/bpf0";
        return Finding::new(subject, Verdict::Bad, text).with_remedy("ls -l /dev/bpf*");
    };
    let owner = format!(
        "/dev/bpf0 has mode {:04o}, owner {user} and group {group}",
        mode & 0o7777
    );
    match &facts.capture {
        Ok(()) if facts.user == 0 => Finding::new(subject, Verdict::Good, owner),
        Ok(()) => {
            let text = format!("{owner}, so this user may capture; but sending needs root");
            Finding::new(subject, Verdict::Limited, text).with_remedy(as_root(facts))
        }
        Err(error) => {
            let finding = Finding::new(subject, Verdict::Bad, format!("{owner}: {error}"));
            if is_refused(error) {
                finding.with_remedy(as_root(facts))
            } else {
                finding.with_remedy("sudo lsof /dev/bpf*")
            }
        }
    }
}

fn open_files(facts: &Facts) -> Finding {
    let subject = Subject::System("open files");
    let (soft, most) = facts.open_files;
    let text = format!("{soft}, raised to {most} when probing; each trace takes one");
    if most < FEW_FILES {
        Finding::new(subject, Verdict::Limited, text).with_remedy("sudo sysctl -w kern.maxfilesperproc=65536")
    } else {
        Finding::new(subject, Verdict::Good, text)
    }
}

fn interfaces(facts: &Facts) -> Finding {
    let subject = Subject::System("interfaces");
    if facts.interfaces.is_empty() {
        return Finding::new(subject, Verdict::Bad, "none has an address").with_remedy("ifconfig");
    }
    let text = format!("with addresses: {}", facts.interfaces.join(", "));
    Finding::new(subject, Verdict::Good, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn sockets(root: bool) -> Sockets {
        Sockets {
            switched_off: false,
            raw: if root { Ok(()) } else { refused() },
            source: None,
        }
    }

    fn facts(root: bool) -> Facts {
        Facts {
            v4: sockets(root),
            v6: sockets(root),
            capture: if root { Ok(()) } else { refused() },
            device: Some(Device {
                mode: 0o20600,
                user: 0,
                group: 0,
            }),
            user: if root { 0 } else { 501 },
            program: "/bin/x".to_owned(),
            open_files: (256, 61_440),
            interfaces: vec!["lo0".to_owned()],
        }
    }

    fn find(facts: &Facts, subject: &str) -> Finding {
        let found = report(facts)
            .into_iter()
            .find(|finding| finding.subject.to_string() == subject);
        found.unwrap_or_else(|| panic!("nothing about {subject}"))
    }

    fn probings(facts: &Facts) -> Vec<Finding> {
        let mut findings = report(facts);
        findings.retain(|finding| matches!(finding.subject, Subject::Probing { .. }));
        findings
    }

    #[test]
    fn root_can_probe_everything() {
        let found = probings(&facts(true));
        assert_eq!(found.len(), 2 * PROTOCOLS.len());
        for finding in found {
            assert_eq!(
                (finding.verdict, finding.text.as_str(), finding.remedy.as_str()),
                (Verdict::Good, "raw sockets", "")
            );
        }
        assert_eq!(find(&facts(true), "BPF devices").verdict, Verdict::Good);
        assert_eq!(find(&facts(true), "privileges").text, "root");
    }

    #[test]
    fn anybody_else_is_told_to_be_root() {
        for finding in probings(&facts(false)) {
            assert_eq!(
                (finding.verdict, finding.remedy.as_str()),
                (Verdict::Bad, "sudo /bin/x")
            );
        }
        let devices = find(&facts(false), "BPF devices");
        assert!(devices.text.contains("mode 0600, owner 0"), "{devices:?}");
        assert_eq!(
            (devices.verdict, devices.remedy.as_str()),
            (Verdict::Bad, "sudo /bin/x")
        );
    }

    #[test]
    fn bpf_devices_alone_are_not_enough() {
        let mut facts = facts(false);
        facts.capture = Ok(());
        assert_eq!(
            find(&facts, "udp over IPv4").text,
            "only root may open raw sockets"
        );
        let devices = find(&facts, "BPF devices");
        assert_eq!(devices.verdict, Verdict::Limited);
        assert!(devices.text.contains("sending needs root"), "{devices:?}");
    }

    #[test]
    fn what_keeps_root_from_capturing_is_named() {
        let mut facts = facts(true);
        facts.capture = Err(io::Error::from_raw_os_error(EBUSY));
        let finding = find(&facts, "icmp over IPv6");
        assert_eq!(
            (finding.verdict, finding.remedy.as_str()),
            (Verdict::Bad, "sudo lsof /dev/bpf*")
        );
        facts.capture = refused();
        let finding = find(&facts, "icmp over IPv4");
        assert!(finding.text.contains("may not open BPF"), "{finding:?}");
        assert!(finding.remedy.contains("sandbox"), "{finding:?}");
        facts.device = None;
        assert_eq!(find(&facts, "BPF devices").verdict, Verdict::Bad);
    }

    #[test]
    fn a_family_that_is_switched_off_cannot_be_probed() {
        let mut facts = facts(true);
        facts.v6.switched_off = true;
        let finding = find(&facts, "udp over IPv6");
        assert_eq!(
            (finding.verdict, finding.text.as_str()),
            (Verdict::Bad, "IPv6 is switched off")
        );
        assert!(finding.remedy.contains("-setv6automatic"));
        assert_eq!(find(&facts, "udp over IPv4").verdict, Verdict::Good);
    }

    #[test]
    fn what_is_scarce_is_named_with_its_remedy() {
        let mut facts = facts(true);
        facts.open_files = (256, 512);
        assert!(find(&facts, "open files").remedy.contains("maxfilesperproc"));
        facts.interfaces.clear();
        assert_eq!(find(&facts, "interfaces").verdict, Verdict::Bad);
        assert!(find(&facts, "IPv6 route").remedy.contains("inet6"));
        facts.v6.source = Some(super::super::ELSEWHERE[1]);
        assert_eq!(find(&facts, "IPv6 route").verdict, Verdict::Good);
    }
}
