//! What the doctor says.

mod names;
mod routes;
mod rules;
mod translation;

use std::fmt::Write as _;

use datadog_traceroute::Family;
use datadog_traceroute::system::{
    Access, Finding, PROTOCOLS, Subject, Verdict, access, check_name_servers, diagnose, host,
    keep_probing_privileges, program_path,
};
use tokio::runtime;

/// Width of the table's columns, in characters.
const PROTOCOL_WIDTH: usize = 10;
const CELL_WIDTH: usize = 18;

/// Looks at everything. Sends nothing but questions to the name servers, and gives up privileges
/// before it reads their answers.
pub(crate) fn examine() -> Vec<Finding> {
    let mut findings = diagnose();
    if let Some(host) = host() {
        let is_raw = access() == Access::Raw;
        for (family, routing) in [(Family::V4, &host.v4), (Family::V6, &host.v6)] {
            findings.extend(routes::findings(family, routing));
            findings.extend(rules::findings(family, routing, is_raw));
        }
        findings.push(translation::finding(&host.translation, is_raw, program_path()));
    }
    if let Err(error) = keep_probing_privileges() {
        tracing::debug!(%error, "cannot drop privileges");
    }
    // It needs a few descriptors. Where there are none, other findings say so.
    if let Ok(runtime) = runtime::Builder::new_current_thread().enable_all().build() {
        findings.extend(names::findings(runtime.block_on(check_name_servers()).as_deref()));
    }
    findings
}

/// Whether anything can be probed, as far as is known.
pub(crate) fn can_probe(findings: &[Finding]) -> bool {
    findings
        .iter()
        .any(|finding| is_probing(finding) && finding.verdict != Verdict::Bad)
}

/// A table of what can be probed how; why not, where not; and everything that was looked at, with
/// what to do about it.
pub(crate) fn render(findings: &[Finding]) -> String {
    let mut text = table(findings);
    let (probing, system): (Vec<_>, Vec<_>) = findings.iter().partition(|finding| is_probing(finding));
    let impossible = reasons(&probing);
    if !impossible.is_empty() {
        text.push_str("\nNot possible:\n");
        text.push_str(&impossible);
    }
    if !system.is_empty() {
        text.push_str("\nThis system:\n");
    }
    for finding in system {
        write_finding(&mut text, finding);
    }
    text
}

fn write_finding(text: &mut String, finding: &Finding) {
    let mark = match finding.verdict {
        Verdict::Good => "ok",
        Verdict::Limited => "could be better",
        Verdict::Bad => "bad",
        Verdict::Notable => "note",
        Verdict::Unknown => "unknown",
    };
    let _ = writeln!(text, "  {} [{mark}]: {}", finding.subject, finding.text);
    write_remedy(text, finding);
}

fn is_probing(finding: &Finding) -> bool {
    matches!(finding.subject, Subject::Probing { .. })
}

fn table(findings: &[Finding]) -> String {
    let mut text = String::new();
    let mut line = |cells: [&str; 3]| {
        let [protocol, v4, v6] = cells;
        let _ = writeln!(text, "{protocol:PROTOCOL_WIDTH$}{v4:CELL_WIDTH$}{v6}");
    };
    line(["", "IPv4", "IPv6"]);
    for protocol in PROTOCOLS {
        let cell = |family| {
            let subject = Subject::Probing { protocol, family };
            let found = findings.iter().find(|finding| finding.subject == subject);
            found.map_or("unknown", |finding| match finding.verdict {
                Verdict::Good | Verdict::Limited | Verdict::Notable => &finding.text,
                Verdict::Bad => "not possible",
                Verdict::Unknown => "unknown",
            })
        };
        line([protocol, cell(Family::V4), cell(Family::V6)]);
    }
    text
}

/// Each reason once, after all that it holds for.
fn reasons(probing: &[&Finding]) -> String {
    let mut text = String::new();
    let bad: Vec<_> = probing
        .iter()
        .filter(|finding| finding.verdict == Verdict::Bad)
        .collect();
    for (index, finding) in bad.iter().enumerate() {
        let is_same = |other: &&&&Finding| (&other.text, &other.remedy) == (&finding.text, &finding.remedy);
        if bad.iter().take(index).any(|other| is_same(&other)) {
            continue;
        }
        let subjects: Vec<String> = bad
            .iter()
            .filter(is_same)
            .map(|other| other.subject.to_string())
            .collect();
        let _ = writeln!(text, "  {}: {}", subjects.join(", "), finding.text);
        write_remedy(&mut text, finding);
    }
    text
}

fn write_remedy(text: &mut String, finding: &Finding) {
    if !finding.remedy.is_empty() {
        let _ = writeln!(text, "    -> {}", finding.remedy);
    }
}

/// Findings about the system alone, as [`render`] writes them.
#[cfg(test)]
fn system(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        write_finding(&mut text, finding);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probing(protocol: &'static str, family: Family, verdict: Verdict, text: &str) -> Finding {
        Finding::new(Subject::Probing { protocol, family }, verdict, text)
    }

    fn unprivileged() -> Vec<Finding> {
        let mut findings = Vec::new();
        for family in Family::ALL {
            for protocol in ["udp", "tcp syn"] {
                findings.push(probing(protocol, family, Verdict::Limited, "ordinary sockets"));
            }
            findings.push(
                probing("tcp sack", family, Verdict::Bad, "needs raw sockets").with_remedy("sudo setcap it"),
            );
        }
        findings.push(probing("icmp", Family::V4, Verdict::Bad, "no group").with_remedy("sudo sysctl it"));
        findings.push(probing("icmp", Family::V6, Verdict::Good, "raw sockets"));
        let system =
            |name, verdict| Finding::new(Subject::System(name), verdict, format!("as it is for {name}"));
        findings.push(system("privileges", Verdict::Limited).with_remedy("run with sudo"));
        findings.push(system("open files", Verdict::Good));
        findings.push(system("interfaces", Verdict::Bad));
        findings.push(system("firewall", Verdict::Unknown).with_remedy("look"));
        findings
    }

    #[test]
    fn findings_as_a_user_sees_them() {
        insta::assert_snapshot!("doctor", render(&unprivileged()));
        assert!(can_probe(&unprivileged()));
    }

    #[test]
    fn nothing_can_be_probed_only_when_nothing_can() {
        let bad = probing("udp", Family::V4, Verdict::Bad, "no");
        assert!(!can_probe(std::slice::from_ref(&bad)));
        let unknown = probing("udp", Family::V6, Verdict::Unknown, "who knows");
        assert!(can_probe(&[bad, unknown]));
    }

    #[test]
    fn what_nobody_looked_at_is_unknown() {
        let text = render(&[]);
        assert_eq!(text.matches("unknown").count(), 2 * PROTOCOLS.len());
        assert_eq!(text.lines().count(), 1 + PROTOCOLS.len());
    }
}
