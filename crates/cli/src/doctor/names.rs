//! Whether names can be looked up.

use datadog_traceroute::system::{ASKED_NAME, Finding, NameReply, NameServer, Subject, Verdict};

const SUBJECT: Subject = Subject::System("name server");

/// `servers`: `None` where the system's library knows whom to ask.
pub(super) fn findings(servers: Option<&[NameServer]>) -> Vec<Finding> {
    match servers {
        None => Vec::new(),
        Some([]) => {
            let text = "none in /etc/resolv.conf: names are only looked up in /etc/hosts, and asked of a server on this \
                        host if there is one";
            vec![
                Finding::new(SUBJECT, Verdict::Limited, text)
                    .with_remedy("add a nameserver line to /etc/resolv.conf"),
            ]
        }
        Some(servers) => servers.iter().map(finding).collect(),
    }
}

fn finding(server: &NameServer) -> Finding {
    let address = server.address.ip();
    let limited = |what: &str, meaning: &str, remedy: &str| {
        Finding::new(SUBJECT, Verdict::Limited, format!("{address} {what}: {meaning}")).with_remedy(remedy)
    };
    let good = |text: &str| Finding::new(SUBJECT, Verdict::Good, format!("{address} {text}"));
    let NameServer { v4, v6, .. } = server;
    let Some(v6) = v6 else {
        return match trouble(v4, "A") {
            None => good("answers A queries; AAAA queries are switched off (no-aaaa in /etc/resolv.conf)"),
            Some(trouble) => limited(&trouble, WITHOUT_BOTH, REPLACE),
        };
    };
    let (no_v4, no_v6) = (trouble(v4, "A"), trouble(v6, "AAAA"));
    match (no_v4, no_v6) {
        (None, None) => match (v4, v6) {
            (NameReply::Addresses, NameReply::None) => {
                let what = format!("hides IPv6 addresses, such as that of {ASKED_NAME}");
                limited(&what, WITHOUT_AAAA, REPLACE)
            }
            (NameReply::None, NameReply::Addresses) => {
                let what = format!("hides IPv4 addresses, such as that of {ASKED_NAME}");
                limited(&what, WITHOUT_A, REPLACE)
            }
            (NameReply::None, _) => good(&format!(
                "answers A and AAAA queries, but does not know {ASKED_NAME}"
            )),
            _ => good("answers A and AAAA queries"),
        },
        (None, Some(no_v6)) => limited(&no_v6, WITHOUT_AAAA, NO_AAAA),
        (Some(no_v4), None) => limited(&no_v4, WITHOUT_A, REPLACE),
        (Some(no_v4), Some(no_v6)) => {
            let both =
                trouble(v4, "A and AAAA").filter(|both| trouble(v6, "A and AAAA").as_ref() == Some(both));
            let what = both.unwrap_or_else(|| format!("{no_v4}, and {no_v6}"));
            limited(&what, WITHOUT_BOTH, REPLACE)
        }
    }
}

const REPLACE: &str = "repair it, or name another server in /etc/resolv.conf";
const NO_AAAA: &str =
    "repair it, or name another server in /etc/resolv.conf; or no longer ask: options no-aaaa there";
const WITHOUT_AAAA: &str = "names with IPv6 addresses only are not found by it, nor any with --ipv6";
const WITHOUT_A: &str = "names are traced by their IPv6 addresses, or not found by it";
const WITHOUT_BOTH: &str = "no name is found by it";

/// What a server does with questions of this kind instead of answering them.
fn trouble(reply: &NameReply, kind: &str) -> Option<String> {
    match reply {
        NameReply::Addresses | NameReply::None => None,
        NameReply::Silence => Some(format!("does not answer {kind} queries")),
        NameReply::Trouble(said) => Some(format!("answers {kind} queries with an error ({said})")),
        NameReply::Unreachable(error) => Some(format!("cannot be reached ({error})")),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::super::system;
    use super::*;

    fn server(v4: NameReply, v6: Option<NameReply>) -> NameServer {
        NameServer {
            address: ([10, 0, 0, 53], 53).into(),
            v4,
            v6,
        }
    }

    #[test]
    fn name_servers_as_a_user_sees_them() {
        use NameReply::{Addresses, None as Nothing, Silence, Trouble, Unreachable};
        let refused = || Trouble("Query Refused".to_owned());
        let unreachable = || Unreachable(io::ErrorKind::NetworkUnreachable.into());
        let servers = [
            server(Addresses, Some(Addresses)),
            server(Nothing, Some(Nothing)),
            server(Addresses, None),
            server(Silence, None),
            server(Addresses, Some(Silence)),
            server(Addresses, Some(refused())),
            server(Addresses, Some(Nothing)),
            server(Nothing, Some(Addresses)),
            server(Silence, Some(Addresses)),
            server(Silence, Some(Silence)),
            server(unreachable(), Some(unreachable())),
            server(refused(), Some(Silence)),
        ];
        let all = [findings(Some(&servers)), findings(Some(&[]))].concat();
        insta::assert_snapshot!("name_servers", system(&all));
        assert!(findings(None).is_empty());
    }
}
