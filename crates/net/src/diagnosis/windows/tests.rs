use super::*;
use crate::winerror::WSAEPROTONOSUPPORT;

fn fails(code: i32) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(code))
}

fn sockets() -> Sockets {
    Sockets {
        switched_off: false,
        echo: Ok(()),
        connect: Ok(()),
        source: None,
    }
}

/// A server edition, or a client edition; with administrator rights, or without. No driver.
fn facts(is_server: bool, is_elevated: bool) -> Facts {
    Facts {
        v4: sockets(),
        v6: sockets(),
        raw: if is_elevated { Ok(()) } else { fails(WSAEACCES) },
        is_elevated: Some(is_elevated),
        edition: Some(Edition {
            build: 20_348,
            is_server,
        }),
        driver: DriverState::NotInstalled,
        firewall: Some(Firewall::default()),
    }
}

fn find(facts: &Facts, subject: &str) -> Finding {
    let found = report(facts)
        .into_iter()
        .find(|finding| finding.subject.to_string() == subject);
    found.unwrap_or_else(|| panic!("nothing about {subject}"))
}

/// How each protocol is probed over IPv4 and IPv6; `-`: not at all, and then something can be done
/// about it.
fn table(facts: &Facts) -> Vec<[String; 2]> {
    let cell = |protocol, family| {
        let finding = find(facts, &Subject::Probing { protocol, family }.to_string());
        assert_eq!(
            finding.verdict == Verdict::Bad,
            !finding.remedy.is_empty(),
            "{finding:?}"
        );
        if finding.verdict == Verdict::Bad {
            "-".to_owned()
        } else {
            finding.text
        }
    };
    PROTOCOLS
        .into_iter()
        .map(|protocol| Family::ALL.map(|family| cell(protocol, family)))
        .collect()
}

const NO: &str = "-";
const RAW: &str = "raw sockets";
const ICMP_API: &str = "ICMP API";
const CONNECTS: &str = "syn_socket";
const DRIVER: &str = "driver";

#[test]
fn a_server_with_rights_lacks_only_what_needs_the_driver() {
    assert_eq!(
        table(&facts(true, true)),
        [[RAW, ICMP_API], [RAW, NO], [RAW, CONNECTS], [NO, NO]]
    );
    let sack = find(&facts(true, true), "tcp sack over IPv4");
    assert_eq!(sack.text, "needs the driver");
    assert!(sack.remedy.contains("Datadog Agent"), "{sack:?}");
}

#[test]
fn a_client_with_rights_sends_no_raw_tcp() {
    let facts = facts(false, true);
    assert_eq!(
        table(&facts),
        [[RAW, ICMP_API], [RAW, NO], [CONNECTS, CONNECTS], [NO, NO]]
    );
    let edition = find(&facts, "Windows");
    assert_eq!(edition.verdict, Verdict::Limited);
    assert_eq!(edition.remedy, "probe TCP with the method syn_socket");
}

#[test]
fn without_rights_there_are_the_icmp_api_and_connects() {
    for is_server in [false, true] {
        let facts = facts(is_server, false);
        assert_eq!(
            table(&facts),
            [[ICMP_API, ICMP_API], [NO, NO], [CONNECTS, CONNECTS], [NO, NO]]
        );
        for subject in ["udp over IPv4", "raw sockets", "administrator rights"] {
            assert_eq!(find(&facts, subject).remedy, BECOME_ADMINISTRATOR, "{subject}");
        }
    }
}

#[test]
fn with_the_driver_everything_can_be_probed() {
    let mut facts = facts(false, true);
    facts.driver = DriverState::Running(Ok(()));
    assert_eq!(
        table(&facts),
        [[RAW, ICMP_API], [RAW, DRIVER], [DRIVER, DRIVER], [DRIVER, DRIVER]]
    );
    assert_eq!(find(&facts, "driver").verdict, Verdict::Good);
    // This program starts it.
    facts.driver = DriverState::Stopped;
    assert_eq!(find(&facts, "tcp sack over IPv6").text, DRIVER);
    assert!(find(&facts, "driver").remedy.contains("sc.exe start ddnpm"));
}

#[test]
fn a_driver_out_of_reach_says_what_is_in_the_way() {
    let mut facts = facts(true, false);
    facts.driver = DriverState::Stopped;
    assert_eq!(find(&facts, "tcp sack over IPv4").remedy, BECOME_ADMINISTRATOR);
    facts.driver = DriverState::Running(fails(crate::winerror::ERROR_ACCESS_DENIED));
    assert_eq!(find(&facts, "tcp sack over IPv4").remedy, BECOME_ADMINISTRATOR);
    assert!(find(&facts, "driver").text.contains("cannot be opened"));
    // Who is an administrator cannot become one.
    facts.is_elevated = Some(true);
    assert_eq!(find(&facts, "driver").remedy, RESTART_AGENT);
    facts.driver = DriverState::TooOld(io::Error::from_raw_os_error(87));
    let finding = find(&facts, "driver");
    assert_eq!(finding.verdict, Verdict::Limited);
    assert!(finding.text.contains("2.10 or later"), "{finding:?}");
    assert!(
        finding.remedy.starts_with("update the Datadog Agent"),
        "{finding:?}"
    );
    assert_eq!(table(&facts)[3], [NO, NO]);
    facts.driver = DriverState::Unknown(io::Error::other("no manager"));
    let finding = find(&facts, "driver");
    assert_eq!(
        (finding.verdict, finding.text.as_str()),
        (Verdict::Unknown, "no manager")
    );
}

#[test]
fn old_windows_has_no_syn_socket() {
    let mut facts = facts(false, true);
    for sockets in [&mut facts.v4, &mut facts.v6] {
        sockets.connect = fails(WSAENOPROTOOPT);
    }
    facts.edition = Some(Edition {
        build: 17_763,
        is_server: false,
    });
    assert_eq!(table(&facts)[2], [NO, NO]);
    assert!(find(&facts, "tcp syn over IPv4").text.contains("version 2004"));
    assert!(find(&facts, "syn_socket").remedy.contains("version 2004"));
    assert!(find(&facts, "Windows").remedy.contains("Datadog Agent"));
    // A server without rights had better get them.
    facts = Facts {
        raw: fails(WSAEACCES),
        edition: Some(Edition {
            build: 17_763,
            is_server: true,
        }),
        ..facts
    };
    assert_eq!(find(&facts, "tcp syn over IPv4").remedy, BECOME_ADMINISTRATOR);
}

#[test]
fn as_under_wine_one_family_may_lack_the_icmp_api() {
    let mut facts = facts(true, true);
    facts.v6.echo = fails(120);
    assert_eq!(table(&facts)[0], [RAW, NO]);
    let api = find(&facts, "ICMP API");
    assert_eq!(api.verdict, Verdict::Limited);
    assert!(api.text.contains("over IPv4; not over IPv6"), "{api:?}");
    facts.v4.echo = fails(120);
    assert!(find(&facts, "ICMP API").text.starts_with("not available"));
    facts.v6.echo = Ok(());
    assert!(find(&facts, "ICMP API").text.contains("over IPv6; not over IPv4"));
}

#[test]
fn raw_sockets_that_fail_otherwise_are_no_question_of_rights() {
    let mut facts = facts(true, true);
    facts.raw = fails(WSAEPROTONOSUPPORT);
    assert_eq!(find(&facts, "udp over IPv4").text, "needs the driver");
    assert!(find(&facts, "raw sockets").remedy.contains("Datadog Agent"));
}

#[test]
fn a_family_that_is_switched_off_cannot_be_probed() {
    let mut facts = facts(true, true);
    facts.v6.switched_off = true;
    let finding = find(&facts, "icmp over IPv6");
    assert_eq!(
        (finding.verdict, finding.text.as_str()),
        (Verdict::Bad, "IPv6 is switched off")
    );
    assert!(finding.remedy.contains("ms_tcpip6"));
    assert_eq!(find(&facts, "icmp over IPv4").verdict, Verdict::Good);
}

#[test]
fn what_could_not_be_found_out_is_unknown() {
    let mut facts = facts(true, true);
    facts.edition = None;
    facts.is_elevated = None;
    facts.firewall = None;
    for subject in ["Windows", "administrator rights", "firewall"] {
        assert_eq!(find(&facts, subject).verdict, Verdict::Unknown, "{subject}");
    }
    assert_eq!(find(&facts, "tcp syn over IPv4").text, RAW, "tried");
}
