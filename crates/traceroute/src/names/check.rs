//! Whether the name servers of this system answer.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use tokio::time::timeout;

use super::configuration::{Configuration, full_name};
use super::{LookupFailure, Resolver, System, dns};

/// The name that is asked for: it has addresses of both families, every server that asks others
/// knows it, and it is nobody's in particular.
pub const ASKED_NAME: &str = "a.root-servers.net";
/// How often each question is asked: a datagram may be lost.
const ATTEMPTS: usize = 2;
/// How long each answer may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// A name server, and what it answers.
#[derive(Debug)]
pub struct NameServer {
    /// Where it listens.
    pub address: SocketAddr,
    /// To the question for IPv4 addresses (A).
    pub v4: NameReply,
    /// To the question for IPv6 addresses (AAAA); `None`: this system does not ask for them
    /// (`no-aaaa` in resolv.conf).
    pub v6: Option<NameReply>,
}

/// What a name server answers to one question.
#[derive(Debug)]
pub enum NameReply {
    /// Addresses.
    Addresses,
    /// That there are none, or no such name.
    None,
    /// Something else: what it says.
    Trouble(String),
    /// Nothing: it cannot be asked.
    Unreachable(io::Error),
    /// Nothing within two seconds.
    Silence,
}

/// Asks each name server of this system for [`ASKED_NAME`], all at once, in two seconds at most.
/// Empty: none is configured, and nothing is sent. `None`: only the C library knows whom to ask
/// here (macOS, Windows). Needs a tokio runtime with time and I/O.
pub async fn check_name_servers() -> Option<Vec<NameServer>> {
    let system = System::shared();
    if system.resolver == Resolver::CLibrary {
        return None;
    }
    Some(check(&system.configuration()).await)
}

pub(super) async fn check(configuration: &Configuration) -> Vec<NameServer> {
    let Some(name) = full_name(ASKED_NAME).filter(|_| !configuration.is_assumed) else {
        return Vec::new();
    };
    let name = &name;
    let servers = configuration.servers.iter().map(async |server| {
        let v4 = reply(configuration, *server, name, RecordType::A);
        let v6 = async {
            if configuration.no_ipv6 {
                return None;
            }
            Some(reply(configuration, *server, name, RecordType::AAAA).await)
        };
        let (v4, v6) = tokio::join!(v4, v6);
        NameServer {
            address: *server,
            v4,
            v6,
        }
    });
    join_all(servers).await
}

async fn reply(
    configuration: &Configuration,
    server: SocketAddr,
    name: &Name,
    kind: RecordType,
) -> NameReply {
    let question = Query::query(name.clone(), kind);
    for _ in 0..ATTEMPTS {
        let answer = dns::exchange(server, &question, configuration);
        let Ok(answer) = timeout(PATIENCE, answer).await else {
            continue;
        };
        return match dns::judge(server, answer) {
            Ok(answer) if answer.answers.iter().any(|record| record.record_type() == kind) => {
                NameReply::Addresses
            }
            Ok(_) | Err(LookupFailure::Unknown) => NameReply::None,
            Err(LookupFailure::Refused { code, .. }) => NameReply::Trouble(code.to_string()),
            Err(LookupFailure::Unreachable { error, .. }) => NameReply::Unreachable(error),
            Err(other) => NameReply::Trouble(other.to_string()),
        };
    }
    NameReply::Silence
}
