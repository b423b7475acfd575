//! Looks at what decides what can be probed. What it means: [`crate::diagnosis::macos`].

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;

use socket2::{Domain, Socket, Type};
use traceroute_wire::Family;

use super::sender::Sender;
use super::{most_open_files, source_address, sys};
use crate::diagnosis::ELSEWHERE;
use crate::diagnosis::macos::{Device, Facts, Sockets, report};
use crate::unix::interfaces;
use crate::{Access, Finding};

/// By which sockets this process may probe.
pub fn access() -> Access {
    match Sender::open(Family::V4) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Access::None,
        _ => Access::Raw,
    }
}

/// Looks at everything that decides what can be probed, and how. Sends nothing.
pub fn diagnose() -> Vec<Finding> {
    report(&gather())
}

fn gather() -> Facts {
    Facts {
        v4: sockets(Domain::IPV4, Family::V4, ELSEWHERE[0]),
        v6: sockets(Domain::IPV6, Family::V6, ELSEWHERE[1]),
        capture: sys::open_bpf().map(drop),
        device: fs::metadata("/dev/bpf0").ok().map(|node| Device {
            mode: node.mode(),
            user: node.uid(),
            group: node.gid(),
        }),
        user: sys::user(),
        program: crate::program_path().to_owned(),
        open_files: open_files().unwrap_or_default(),
        interfaces: interfaces::all()
            .unwrap_or_default()
            .into_iter()
            .map(|interface| interface.name)
            .collect(),
    }
}

/// How many this process may have, and how many it may ask for.
fn open_files() -> io::Result<(u64, u64)> {
    let (soft, hard) = crate::unix::sys::open_files()?;
    Ok((soft, hard.min(most_open_files()?)))
}

fn sockets(domain: Domain, family: Family, elsewhere: IpAddr) -> Sockets {
    Sockets {
        switched_off: Socket::new(domain, Type::DGRAM, None).is_err(),
        raw: Sender::open(family).map(drop),
        source: source_address(elsewhere).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Subject;

    #[test]
    fn this_system_can_be_looked_at() {
        let findings = diagnose();
        let probing = findings
            .iter()
            .filter(|f| matches!(f.subject, Subject::Probing { .. }));
        assert_eq!(probing.count(), 2 * crate::PROTOCOLS.len());
        assert!(findings.iter().all(|finding| !finding.text.is_empty()));
    }
}
