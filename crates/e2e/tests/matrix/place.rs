//! Where programs run: this machine, or a node of a lab.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::process::Command;

type MakeCommand = Box<dyn Fn(&OsStr) -> Command + Sync>;
type Connect = Box<dyn Fn(SocketAddr) -> TcpStream + Sync>;

pub(crate) struct Place {
    command: MakeCommand,
    connect: Connect,
    /// What stands in `matrix.toml` for a target, its address, and the path to it.
    known: Vec<(&'static str, IpAddr, Vec<IpAddr>)>,
    has_network: bool,
}

impl Place {
    /// With the loopback addresses known, which are one hop away.
    pub(crate) fn new(command: MakeCommand, connect: Connect) -> Place {
        Place {
            command,
            connect,
            known: vec![],
            has_network: true,
        }
        .knowing("localhost", &[Ipv4Addr::LOCALHOST.into()])
        .knowing("::1", &[Ipv6Addr::LOCALHOST.into()])
    }

    pub(crate) fn host() -> Place {
        Place::new(
            Box::new(|program| Command::new(program)),
            Box::new(|address| TcpStream::connect(address).unwrap()),
        )
    }

    /// To count cases with, without asking a name server.
    pub(crate) fn without_network() -> Place {
        Place {
            has_network: false,
            ..Place::host()
        }
    }

    /// Adds a target, the last hop of the path to it.
    pub(crate) fn knowing(mut self, name: &'static str, path: &[IpAddr]) -> Place {
        self.known.push((name, *path.last().unwrap(), path.to_vec()));
        self
    }

    pub(crate) fn command(&self, program: &Path) -> Command {
        (self.command)(program.as_os_str())
    }

    pub(crate) fn connect(&self, address: SocketAddr) -> TcpStream {
        (self.connect)(address)
    }

    /// The target that `{…}` stands for, or the name itself.
    pub(crate) fn fill(&self, name: &str) -> String {
        let placeholder = name.starts_with('{');
        match self.known.iter().find(|(known, ..)| *known == name) {
            Some((_, address, _)) if placeholder => address.to_string(),
            _ => name.to_owned(),
        }
    }

    /// All IPv4 addresses of a name, any of which the program may take.
    pub(crate) fn addresses(&self, target: &str) -> Vec<IpAddr> {
        if let Some((address, _)) = self.find(target) {
            vec![address]
        } else if self.has_network {
            let addresses = (target, 0).to_socket_addrs().unwrap();
            addresses
                .map(|address| address.ip())
                .filter(IpAddr::is_ipv4)
                .collect()
        } else {
            vec![]
        }
    }

    pub(crate) fn path(&self, target: &str) -> Option<Vec<IpAddr>> {
        self.find(target).map(|(_, path)| path)
    }

    fn find(&self, target: &str) -> Option<(IpAddr, Vec<IpAddr>)> {
        let is_it =
            |(name, address, _): &&(&str, IpAddr, _)| *name == target || address.to_string() == target;
        let (_, address, path) = self.known.iter().find(is_it)?;
        Some((*address, path.clone()))
    }
}
