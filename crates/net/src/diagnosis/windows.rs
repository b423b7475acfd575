//! What Windows lets a process probe, and with which of the backend's ways: raw sockets, the ICMP
//! API, the system's own connects (`syn_socket`), the driver.

pub(crate) mod firewall;

use std::io;
use std::net::IpAddr;

use super::{Family, Finding, PROTOCOLS, Subject, Verdict, route};
use crate::winerror::{WSAEACCES, WSAENOPROTOOPT};
use firewall::Firewall;

/// The first build that reports ICMP errors of connects: Windows 10 version 2004.
const BUILD_WITH_SYN_SOCKET: u32 = 19_041;
/// In Command Prompt and in `PowerShell`.
const BECOME_ADMINISTRATOR: &str = "powershell Start-Process cmd -Verb RunAs";

/// With it the driver.
const RESTART_AGENT: &str = "powershell Restart-Service datadogagent -Force";

/// Everything that was looked at.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) v4: Sockets,
    pub(crate) v6: Sockets,
    /// Opening a raw IPv4 socket; IPv6 ones are of no use.
    pub(crate) raw: io::Result<()>,
    /// Whether this process has administrator rights; `None`: it could not be found out.
    pub(crate) is_elevated: Option<bool>,
    pub(crate) edition: Option<Edition>,
    pub(crate) driver: DriverState,
    pub(crate) firewall: Option<Firewall>,
}

/// What can be used of one family.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) switched_off: bool,
    /// Opening a handle of the ICMP API.
    pub(crate) echo: io::Result<()>,
    /// Having ICMP errors of a connect reported.
    pub(crate) connect: io::Result<()>,
    /// Address from which packets leave to somewhere else.
    pub(crate) source: Option<IpAddr>,
}

/// Which Windows it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edition {
    pub(crate) build: u32,
    /// Client editions do not send TCP over raw sockets.
    pub(crate) is_server: bool,
}

/// The service of the driver.
#[derive(Debug)]
pub(crate) enum DriverState {
    NotInstalled,
    Stopped,
    /// With what opening its device says.
    Running(io::Result<()>),
    /// Its device opens, but takes no filters: its interface is older than any that can send.
    TooOld(io::Error),
    /// Nobody answers.
    Unknown(io::Error),
}

/// A way to probe, as it is shown.
type Way = (Verdict, &'static str);

impl Facts {
    /// Whether it works, or does once this program starts it.
    fn has_driver(&self) -> bool {
        match &self.driver {
            DriverState::Running(device) => device.is_ok(),
            DriverState::Stopped => self.is_elevated == Some(true),
            DriverState::NotInstalled | DriverState::TooOld(_) | DriverState::Unknown(_) => false,
        }
    }

    /// Where the edition is not known, it is tried.
    fn sends_raw_tcp(&self) -> bool {
        self.raw.is_ok() && self.edition.is_none_or(|edition| edition.is_server)
    }

    fn sockets(&self, family: Family) -> &Sockets {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// The best way to probe with a protocol, if there is one. What the backend takes by itself
    /// comes before what must be asked for.
    fn way(&self, protocol: &str, family: Family) -> Option<Way> {
        let sockets = self.sockets(family);
        let raw = (family == Family::V4 && self.raw.is_ok()).then_some((Verdict::Good, "raw sockets"));
        let raw_tcp = raw.filter(|_| self.sends_raw_tcp());
        let driver = self.has_driver().then_some((Verdict::Good, "driver"));
        let echo = sockets.echo.is_ok().then_some((Verdict::Limited, "ICMP API"));
        let connects = sockets
            .connect
            .is_ok()
            .then_some((Verdict::Limited, "syn_socket"));
        match protocol {
            "icmp" => raw.or(echo).or(driver),
            "udp" => raw.or(driver),
            "tcp syn" => raw_tcp.or(driver).or(connects),
            _ => driver,
        }
    }
}

/// What the facts mean.
pub(crate) fn report(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for protocol in PROTOCOLS {
        findings.push(probing(facts, protocol, Family::V4));
        findings.push(probing(facts, protocol, Family::V6));
    }
    findings.push(administrator(facts));
    findings.push(edition(facts));
    findings.push(raw_sockets(facts));
    findings.push(icmp_api(facts));
    findings.push(syn_socket(facts));
    findings.push(driver(facts));
    findings.push(firewall::finding(facts.firewall.as_ref()));
    findings.push(route(Family::V4, facts.v4.source, "route print -4"));
    findings.push(route(Family::V6, facts.v6.source, "route print -6"));
    findings
}

fn probing(facts: &Facts, protocol: &'static str, family: Family) -> Finding {
    let finding = |verdict, text: &str| Finding::new(Subject::Probing { protocol, family }, verdict, text);
    if facts.sockets(family).switched_off {
        let text = format!("{family} is switched off");
        return finding(Verdict::Bad, &text).with_remedy(enable_family(family));
    }
    if let Some((verdict, text)) = facts.way(protocol, family) {
        return finding(verdict, text);
    }
    // Administrator rights are easier to come by than the driver.
    let rights_are_missing = is_refused(&facts.raw) && facts.edition.is_none_or(|edition| edition.is_server);
    let (text, remedy) = match (protocol, family) {
        ("icmp", _) => ("needs the ICMP API, which does not answer", get_driver(facts)),
        ("udp", Family::V4) if is_refused(&facts.raw) => (
            "needs raw sockets, and so administrator rights, or the driver",
            BECOME_ADMINISTRATOR.to_owned(),
        ),
        ("tcp syn", Family::V4) if rights_are_missing => (
            "needs raw sockets, and so administrator rights, or the driver",
            BECOME_ADMINISTRATOR.to_owned(),
        ),
        ("tcp syn", _) => (
            "needs Windows Server with IPv4, Windows 10 version 2004 or later with the method syn_socket, or the driver",
            get_driver(facts),
        ),
        _ => ("needs the driver", get_driver(facts)),
    };
    finding(Verdict::Bad, text).with_remedy(remedy)
}

fn is_refused(result: &io::Result<()>) -> bool {
    matches!(result, Err(error) if error.raw_os_error() == Some(WSAEACCES))
}

fn enable_family(family: Family) -> &'static str {
    match family {
        Family::V4 => "powershell Enable-NetAdapterBinding -Name '*' -ComponentID ms_tcpip",
        Family::V6 => "powershell Enable-NetAdapterBinding -Name '*' -ComponentID ms_tcpip6",
    }
}

/// How the driver becomes usable.
fn get_driver(facts: &Facts) -> String {
    match &facts.driver {
        DriverState::NotInstalled | DriverState::Unknown(_) => {
            "install the Datadog Agent, which brings the driver, and use the Windows driver".to_owned()
        }
        DriverState::Running(Ok(())) => "use the Windows driver".to_owned(),
        DriverState::TooOld(_) => "update the Datadog Agent, which brings the driver".to_owned(),
        DriverState::Stopped | DriverState::Running(Err(_)) if facts.is_elevated != Some(true) => {
            BECOME_ADMINISTRATOR.to_owned()
        }
        // `sc` alone is another command in PowerShell.
        DriverState::Stopped => "sc.exe start ddnpm, or use the Windows driver".to_owned(),
        DriverState::Running(Err(_)) => RESTART_AGENT.to_owned(),
    }
}

fn administrator(facts: &Facts) -> Finding {
    let subject = Subject::System("administrator rights");
    match facts.is_elevated {
        Some(true) => Finding::new(subject, Verdict::Good, "yes"),
        Some(false) => Finding::new(subject, Verdict::Limited, "no").with_remedy(BECOME_ADMINISTRATOR),
        None => Finding::new(subject, Verdict::Unknown, "could not be found out"),
    }
}

fn edition(facts: &Facts) -> Finding {
    let subject = Subject::System("Windows");
    let Some(Edition { build, is_server }) = facts.edition else {
        return Finding::new(subject, Verdict::Unknown, "which one could not be found out");
    };
    if is_server {
        return Finding::new(subject, Verdict::Good, format!("a server edition, build {build}"));
    }
    let text = format!("a client edition, build {build}: sends no TCP over raw sockets");
    let remedy = if build >= BUILD_WITH_SYN_SOCKET {
        "probe TCP with the method syn_socket".to_owned()
    } else {
        get_driver(facts)
    };
    Finding::new(subject, Verdict::Limited, text).with_remedy(remedy)
}

fn raw_sockets(facts: &Facts) -> Finding {
    let subject = Subject::System("raw sockets");
    match &facts.raw {
        Ok(()) => Finding::new(subject, Verdict::Good, "allowed"),
        Err(_) if is_refused(&facts.raw) => Finding::new(
            subject,
            Verdict::Limited,
            "refused: they need administrator rights",
        )
        .with_remedy(BECOME_ADMINISTRATOR),
        Err(error) => {
            Finding::new(subject, Verdict::Limited, error.to_string()).with_remedy(get_driver(facts))
        }
    }
}

/// One finding about both families.
fn by_family(subject: &'static str, v4: &io::Result<()>, v6: &io::Result<()>, what: &str) -> Finding {
    let (verdict, text) = match (v4, v6) {
        (Ok(()), Ok(())) => (Verdict::Good, what.to_owned()),
        (Ok(()), Err(error)) => (
            Verdict::Limited,
            format!("{what} over IPv4; not over IPv6: {error}"),
        ),
        (Err(error), Ok(())) => (
            Verdict::Limited,
            format!("{what} over IPv6; not over IPv4: {error}"),
        ),
        (Err(error), Err(_)) => (Verdict::Limited, format!("not available: {error}")),
    };
    Finding::new(Subject::System(subject), verdict, text)
}

fn icmp_api(facts: &Facts) -> Finding {
    by_family(
        "ICMP API",
        &facts.v4.echo,
        &facts.v6.echo,
        "probes ICMP without any rights",
    )
}

fn syn_socket(facts: &Facts) -> Finding {
    let what = "probes TCP without any rights";
    let finding = by_family("syn_socket", &facts.v4.connect, &facts.v6.connect, what);
    match &facts.v4.connect {
        Err(error) if error.raw_os_error() == Some(WSAENOPROTOOPT) => {
            finding.with_remedy("winver; it needs Windows 10 version 2004, Windows Server 2022 or later")
        }
        _ => finding,
    }
}

fn driver(facts: &Facts) -> Finding {
    let subject = Subject::System("driver");
    let finding = match &facts.driver {
        DriverState::NotInstalled => {
            Finding::new(subject, Verdict::Limited, "the service ddnpm is not installed")
        }
        DriverState::Stopped => Finding::new(subject, Verdict::Limited, "installed, not running"),
        DriverState::Running(Ok(())) => {
            return Finding::new(subject, Verdict::Good, "running");
        }
        DriverState::Running(Err(error)) => {
            let text = format!("running, but its device cannot be opened: {error}");
            Finding::new(subject, Verdict::Limited, text)
        }
        DriverState::TooOld(error) => {
            let text = format!("running, but takes no filters: {error}; it must be 2.10 or later");
            Finding::new(subject, Verdict::Limited, text)
        }
        DriverState::Unknown(error) => Finding::new(subject, Verdict::Unknown, error.to_string()),
    };
    finding.with_remedy(get_driver(facts))
}

#[cfg(test)]
mod tests;
