use std::io::ErrorKind;

use super::facts::{NET_ADMIN, NET_RAW, Sockets};
use super::*;

fn sockets(raw: bool, echo: bool) -> Sockets {
    let result = |allowed| {
        if allowed {
            Ok(())
        } else {
            Err(io::Error::from(ErrorKind::PermissionDenied))
        }
    };
    Sockets {
        switched_off: false,
        raw: result(raw),
        echo: result(echo),
    }
}

/// A user without any capability, or with all.
fn facts(raw: bool) -> Facts {
    Facts {
        v4: sockets(raw, false),
        v6: sockets(raw, false),
        capture: sockets(raw, false).raw,
        user: Some(if raw { 0 } else { 1000 }),
        groups: vec![1000, 27],
        capabilities: LinuxCapabilities(if raw { NET_RAW | NET_ADMIN } else { 0 }),
        no_new_privileges: false,
        program: "/bin/x".to_owned(),
        file_capabilities: None,
        initial_user_namespace: true,
        ping_groups: Some((1, 0)),
        open_files: (1024, 1 << 20),
        largest_buffer: Some(212_992),
        strict_reverse_path: false,
        interfaces: vec!["eth0".to_owned(), "lo".to_owned()],
    }
}

fn find(facts: &Facts, subject: &str) -> Finding {
    let found = report(facts)
        .into_iter()
        .find(|finding| finding.subject.to_string() == subject);
    found.unwrap_or_else(|| panic!("nothing about {subject}"))
}

#[test]
fn without_proc_nothing_is_made_up() {
    let facts = Facts {
        user: None,
        capabilities: LinuxCapabilities(0),
        ..facts(true)
    };
    for subject in ["privileges", "user namespace"] {
        let finding = find(&facts, subject);
        assert_eq!(
            (finding.verdict, finding.text.as_str()),
            (Verdict::Unknown, NO_PROC),
            "{subject}"
        );
    }
}

#[test]
fn with_raw_sockets_everything_can_be_probed() {
    for finding in report(&facts(true)) {
        if let Subject::Probing { .. } = finding.subject {
            assert_eq!(
                (finding.verdict, finding.text.as_str()),
                (Verdict::Good, "raw sockets")
            );
        }
    }
    assert_eq!(find(&facts(true), "ping group range").verdict, Verdict::Good);
    assert_eq!(
        find(&facts(true), "receive buffer").verdict,
        Verdict::Good,
        "CAP_NET_ADMIN"
    );
}

#[test]
fn without_them_ordinary_sockets_do_what_they_can() {
    let mut facts = facts(false);
    for subject in ["udp over IPv4", "udp over IPv6", "tcp syn over IPv4"] {
        assert_eq!(
            find(&facts, subject).text,
            "ordinary sockets",
            "{subject} is possible"
        );
    }
    let sack = find(&facts, "tcp sack over IPv6");
    assert_eq!(
        (sack.verdict, sack.remedy.as_str()),
        (Verdict::Bad, "sudo setcap cap_net_raw+ep /bin/x")
    );
    assert_eq!(find(&facts, "icmp over IPv4").verdict, Verdict::Bad);
    assert!(
        find(&facts, "ping group range")
            .remedy
            .contains("ping_group_range=")
    );
    facts.v4 = sockets(false, true);
    facts.ping_groups = Some((27, 27));
    assert_eq!(find(&facts, "icmp over IPv4").verdict, Verdict::Limited);
    assert_eq!(find(&facts, "ping group range").verdict, Verdict::Good);
    facts.ping_groups = Some((28, 999));
    assert_eq!(find(&facts, "ping group range").verdict, Verdict::Limited);
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
    assert_eq!(find(&facts, "udp over IPv4").verdict, Verdict::Good);
}

#[test]
fn capabilities_of_the_file_that_did_not_help_are_explained() {
    let mut facts = facts(false);
    facts.file_capabilities = Some((LinuxCapabilities(NET_RAW), false));
    assert_eq!(
        find(&facts, "file capabilities").remedy,
        "sudo setcap cap_net_raw+ep /bin/x"
    );
    facts.file_capabilities = Some((LinuxCapabilities(NET_RAW), true));
    assert!(find(&facts, "file capabilities").text.contains("nosuid"));
    facts.no_new_privileges = true;
    assert!(find(&facts, "file capabilities").text.contains("no_new_privs"));
    facts.capabilities = LinuxCapabilities(NET_RAW);
    assert_eq!(find(&facts, "file capabilities").verdict, Verdict::Good);
}

#[test]
fn what_is_scarce_is_named_with_its_remedy() {
    let mut facts = facts(true);
    facts.capabilities = LinuxCapabilities(NET_RAW);
    facts.open_files = (256, 512);
    facts.strict_reverse_path = true;
    facts.interfaces.push("wg0".to_owned());
    for (subject, remedy) in [
        ("open files", "ulimit -n"),
        ("receive buffer", "rmem_max=4194304"),
        ("rp_filter", "rp_filter=2"),
    ] {
        let finding = find(&facts, subject);
        assert_eq!(finding.verdict, Verdict::Limited, "{subject}");
        assert!(finding.remedy.contains(remedy), "{finding:?}");
    }
}

#[test]
fn this_system_can_be_looked_at() {
    let findings = diagnose();
    for protocol in PROTOCOLS {
        for family in Family::ALL {
            let about = Subject::Probing { protocol, family };
            assert_eq!(
                findings.iter().filter(|finding| finding.subject == about).count(),
                1
            );
        }
    }
    assert!(findings.iter().all(|finding| !finding.text.is_empty()));
}
