//! What can be probed on this Linux, and what is in the way.

mod facts;
mod sys;

use std::io;

use crate::diagnosis::PROTOCOLS;
use crate::{Family, Finding, Subject, Verdict};
use facts::{Facts, LinuxCapabilities};

/// What raw capture asks for as receive buffer, in bytes.
const WANTED_BUFFER: u64 = 4 << 20;
/// Open files that are few when many traces run at once.
const FEW_FILES: u64 = 1024;

/// Looks at everything that decides what can be probed by this thread, and how. Sends nothing.
pub fn diagnose() -> Vec<Finding> {
    report(&Facts::gather())
}

fn report(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for protocol in PROTOCOLS {
        findings.push(probing(facts, protocol, Family::V4));
        findings.push(probing(facts, protocol, Family::V6));
    }
    findings.push(privileges(facts));
    findings.push(file_capabilities(facts));
    findings.push(user_namespace(facts));
    findings.push(ping_group_range(facts));
    findings.push(open_files(facts));
    findings.extend(receive_buffer(facts));
    findings.push(interfaces(facts));
    findings.extend(reverse_path(facts));
    findings.push(
        Finding::new(
            Subject::System("firewall"),
            Verdict::Unknown,
            "cannot be known from here; hops are missing when ICMP time exceeded is dropped",
        )
        .with_remedy("sudo nft list ruleset; sudo iptables -S; sudo ip6tables -S"),
    );
    findings
}

fn probing(facts: &Facts, protocol: &'static str, family: Family) -> Finding {
    let finding = |verdict, text: &str| Finding::new(Subject::Probing { protocol, family }, verdict, text);
    let sockets = facts.sockets(family);
    if sockets.switched_off {
        let text = format!("{family} is switched off");
        let finding = finding(Verdict::Bad, &text);
        return if family == Family::V6 {
            finding.with_remedy("sudo sysctl -w net.ipv6.conf.all.disable_ipv6=0")
        } else {
            finding
        };
    }
    if facts.has_raw(family) {
        return finding(Verdict::Good, "raw sockets");
    }
    let get_raw = format!("sudo setcap cap_net_raw+ep {}", facts.program);
    if facts.raw_but_no_capture(family) {
        // The backend is chosen by the raw socket; this is a sandbox that allows half of it.
        return finding(Verdict::Bad, "raw sockets are allowed, packet sockets are not")
            .with_remedy("allow AF_PACKET in the sandbox, or take CAP_NET_RAW away from the program");
    }
    match protocol {
        "tcp sack" => finding(Verdict::Bad, "needs raw sockets, and so CAP_NET_RAW").with_remedy(get_raw),
        "icmp" => match &sockets.echo {
            Ok(()) => finding(Verdict::Limited, "ordinary sockets"),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => finding(
                Verdict::Bad,
                "neither CAP_NET_RAW nor a group in net.ipv4.ping_group_range",
            )
            .with_remedy(get_raw),
            Err(error) => finding(Verdict::Bad, &format!("no ICMP socket: {error}")).with_remedy(get_raw),
        },
        _ => finding(Verdict::Limited, "ordinary sockets"),
    }
}

/// Of what the kernel tells there only.
const NO_PROC: &str = "cannot be read: /proc is not mounted here";

fn privileges(facts: &Facts) -> Finding {
    let subject = Subject::System("privileges");
    let LinuxCapabilities(effective) = facts.capabilities;
    let who = match facts.user {
        None => return Finding::new(subject, Verdict::Unknown, NO_PROC),
        Some(0) => "root".to_owned(),
        Some(user) => format!("user {user}"),
    };
    let text = format!("{who} with {}", facts.capabilities);
    if effective & facts::NET_RAW != 0 {
        return Finding::new(subject, Verdict::Good, text);
    }
    let remedy = format!("run with sudo, or: sudo setcap cap_net_raw+ep {}", facts.program);
    Finding::new(subject, Verdict::Limited, text).with_remedy(remedy)
}

fn file_capabilities(facts: &Facts) -> Finding {
    let subject = Subject::System("file capabilities");
    let text = match facts.file_capabilities {
        Some((capabilities, _)) => format!("{} has {capabilities}", facts.program),
        None => format!("{} has none", facts.program),
    };
    let has_raw = facts
        .file_capabilities
        .is_some_and(|(LinuxCapabilities(set), _)| set & facts::NET_RAW != 0);
    let is_effective = facts.file_capabilities.is_some_and(|(_, effective)| effective);
    let process_has_raw = facts.capabilities.0 & facts::NET_RAW != 0;
    if !has_raw || process_has_raw {
        return Finding::new(subject, Verdict::Good, text);
    }
    let (cause, remedy) = if !is_effective {
        (
            "it is permitted, not effective",
            format!("sudo setcap cap_net_raw+ep {}", facts.program),
        )
    } else if facts.no_new_privileges {
        (
            "no_new_privs is set",
            "start it without NoNewPrivileges= or --no-new-privs".to_owned(),
        )
    } else {
        (
            "a mount with nosuid, or a bounding set without it",
            "move the program, or start the container with --cap-add=NET_RAW".to_owned(),
        )
    };
    Finding::new(
        subject,
        Verdict::Limited,
        format!("{text}, without effect: {cause}"),
    )
    .with_remedy(remedy)
}

fn user_namespace(facts: &Facts) -> Finding {
    let subject = Subject::System("user namespace");
    if facts.user.is_none() {
        return Finding::new(subject, Verdict::Unknown, NO_PROC);
    }
    if facts.initial_user_namespace {
        Finding::new(subject, Verdict::Good, "the system's own")
    } else {
        // user_namespaces(7): capabilities only count for what the namespace owns.
        let text = "one of a container; its capabilities count only in network namespaces of its own";
        Finding::new(subject, Verdict::Unknown, text)
    }
}

fn ping_group_range(facts: &Facts) -> Finding {
    let subject = Subject::System("ping group range");
    let Some((first, last)) = facts.ping_groups else {
        return Finding::new(subject, Verdict::Unknown, "cannot be read");
    };
    if first > last {
        let text = "empty: no group may open ICMP sockets without CAP_NET_RAW";
        return limited_without_raw(facts, subject, text);
    }
    let text = format!("groups {first} to {last} may open ICMP sockets without CAP_NET_RAW");
    if facts.groups.iter().any(|group| (first..=last).contains(group)) {
        Finding::new(subject, Verdict::Good, text)
    } else {
        limited_without_raw(
            facts,
            subject,
            &format!("{text}, and this user is in none of them"),
        )
    }
}

fn limited_without_raw(facts: &Facts, subject: Subject, text: &str) -> Finding {
    if facts.has_raw(Family::V4) {
        return Finding::new(subject, Verdict::Good, text);
    }
    Finding::new(subject, Verdict::Limited, text)
        .with_remedy("sudo sysctl -w net.ipv4.ping_group_range=\"0 2147483647\"")
}

fn open_files(facts: &Facts) -> Finding {
    let subject = Subject::System("open files");
    let (soft, hard) = facts.open_files;
    let text = format!("{soft}, raised to {hard} when probing; each trace takes one");
    if hard < FEW_FILES {
        Finding::new(subject, Verdict::Limited, text).with_remedy("ulimit -n 65536")
    } else {
        Finding::new(subject, Verdict::Good, text)
    }
}

/// Only for raw capture, and not visible in every network namespace.
fn receive_buffer(facts: &Facts) -> Option<Finding> {
    let subject = Subject::System("receive buffer");
    let size = facts.largest_buffer?;
    let text = format!("net.core.rmem_max is {size}");
    let unlimited = facts.capabilities.0 & facts::NET_ADMIN != 0;
    Some(
        if size >= WANTED_BUFFER || unlimited || !facts.has_raw(Family::V4) {
            Finding::new(subject, Verdict::Good, text)
        } else {
            let text = format!("{text}: replies are lost when thousands come at once");
            Finding::new(subject, Verdict::Limited, text)
                .with_remedy(format!("sudo sysctl -w net.core.rmem_max={WANTED_BUFFER}"))
        },
    )
}

fn interfaces(facts: &Facts) -> Finding {
    let subject = Subject::System("interfaces");
    if facts.interfaces.is_empty() {
        return Finding::new(subject, Verdict::Bad, "none is up").with_remedy("sudo ip link set lo up");
    }
    Finding::new(
        subject,
        Verdict::Good,
        format!("up: {}", facts.interfaces.join(", ")),
    )
}

/// Only where there is more than one way back.
fn reverse_path(facts: &Facts) -> Option<Finding> {
    (facts.strict_reverse_path && facts.interfaces.len() > 2).then(|| {
        let text = "strict: replies that come in by another interface than they would leave by are dropped";
        Finding::new(Subject::System("rp_filter"), Verdict::Limited, text)
            .with_remedy("sudo sysctl -w net.ipv4.conf.all.rp_filter=2")
    })
}

#[cfg(test)]
mod tests;
