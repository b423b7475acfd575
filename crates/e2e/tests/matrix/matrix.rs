//! The matrix as data.

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::net::IpAddr;

use serde::Deserialize;

use crate::place::Place;

/// `matrix.toml`, whose comments say what is what. That a row or a cell of the contract is missing is an error of reading it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Matrix {
    targets: BTreeMap<Target, Vec<String>>,
    ports: BTreeMap<Target, u16>,
    linux: Rows<LinuxCells>,
    windows: Rows<Cells>,
    macos: Rows<Cells>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Target {
    Localhost,
    LocalhostV6,
    Public,
    FakeNetwork,
    FakeNetworkOpen,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Rows<C> {
    icmp: C,
    udp: C,
    tcp_syn: C,
    tcp_sack: C,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Cells {
    localhost: Cell,
    public: Cell,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct LinuxCells {
    localhost: Cell,
    localhost_v6: Cell,
    public: Cell,
    fake_network: Cell,
    fake_network_open: Cell,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Cell {
    Everywhere(Expectation),
    ByRunner {
        hosted: Expectation,
        elsewhere: Expectation,
        #[serde(default)]
        retries: u32,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Expectation {
    Reached,
    Unreached,
    Error(String),
}

/// Where this runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Runner {
    /// As in [`env::consts::OS`].
    os: &'static str,
    /// One of GitHub's machines.
    is_hosted: bool,
}

impl Runner {
    pub(crate) fn this() -> Runner {
        Runner {
            os: env::consts::OS,
            // Set on every runner, `self-hosted` on others.
            is_hosted: env::var("RUNNER_ENVIRONMENT").as_deref() == Ok("github-hosted"),
        }
    }
}

/// One request, to be made of each program.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub protocol: &'static str,
    /// For TCP.
    pub method: Option<&'static str>,
    pub kind: Target,
    pub target: String,
    pub port: u16,
    pub expectation: Expectation,
    pub retries: u32,
    /// Those that the target may have; empty where no name server may be asked.
    pub addresses: Vec<IpAddr>,
    /// Who answers at each TTL from 1, the target last, where that is known.
    pub path: Option<Vec<IpAddr>>,
}

impl Case {
    /// Traceroute runs to ask for.
    pub(crate) const RUNS: usize = 2;
    /// End-to-end probes to ask for.
    pub(crate) const PROBES: u64 = 3;

    pub(crate) fn max_ttl(&self) -> u8 {
        if self.kind == Target::Public { 30 } else { 6 }
    }

    /// In ms.
    pub(crate) fn timeout(&self) -> u32 {
        if self.kind == Target::Public { 1500 } else { 1000 }
    }

    /// Asked for only where somebody can tell.
    pub(crate) fn wants_public_ip(&self) -> bool {
        self.kind == Target::Public
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = self.method.map(|method| format!(" {method}")).unwrap_or_default();
        write!(
            f,
            "{}{method} to {} port {}",
            self.protocol, self.target, self.port
        )
    }
}

impl Matrix {
    pub(crate) fn read() -> Matrix {
        toml::from_str(include_str!("matrix.toml")).unwrap()
    }

    /// What to ask of each program for this kind of target.
    pub(crate) fn cases(&self, kind: Target, runner: Runner, place: &Place) -> Vec<Case> {
        let rows = self.rows(kind, runner.os);
        let protocols = [
            ("icmp", None, rows.icmp),
            ("udp", None, rows.udp),
            ("tcp", Some("syn"), rows.tcp_syn),
            ("tcp", Some("sack"), rows.tcp_sack),
        ];
        let mut cases = Vec::new();
        for (protocol, method, cell) in protocols {
            for target in &self.targets[&kind] {
                let target = place.fill(target);
                let (expectation, retries) = cell.expectation(runner.is_hosted);
                cases.push(Case {
                    protocol,
                    method,
                    kind,
                    port: self.ports[&kind],
                    expectation,
                    retries,
                    addresses: place.addresses(&target),
                    path: place.path(&target),
                    target,
                });
            }
        }
        cases
    }

    fn rows(&self, kind: Target, os: &str) -> Rows<Cell> {
        let pick = |cells: &Cells| match kind {
            Target::Localhost => cells.localhost.clone(),
            Target::Public => cells.public.clone(),
            _ => panic!("{kind:?} is for Linux, not for {os}"),
        };
        match os {
            "linux" => self.linux.map(|cells| match kind {
                Target::Localhost => cells.localhost.clone(),
                Target::LocalhostV6 => cells.localhost_v6.clone(),
                Target::Public => cells.public.clone(),
                Target::FakeNetwork => cells.fake_network.clone(),
                Target::FakeNetworkOpen => cells.fake_network_open.clone(),
            }),
            "windows" => self.windows.map(pick),
            "macos" => self.macos.map(pick),
            _ => panic!("the contract says nothing of {os}"),
        }
    }
}

impl<C> Rows<C> {
    fn map(&self, pick: impl Fn(&C) -> Cell) -> Rows<Cell> {
        Rows {
            icmp: pick(&self.icmp),
            udp: pick(&self.udp),
            tcp_syn: pick(&self.tcp_syn),
            tcp_sack: pick(&self.tcp_sack),
        }
    }
}

impl Cell {
    fn expectation(&self, is_hosted: bool) -> (Expectation, u32) {
        match self {
            Cell::Everywhere(expectation) => (expectation.clone(), 0),
            Cell::ByRunner { hosted, retries, .. } if is_hosted => (hosted.clone(), *retries),
            Cell::ByRunner {
                elsewhere, retries, ..
            } => (elsewhere.clone(), *retries),
        }
    }
}

/// The contract's own table for GitHub's runners, cell by cell: `matrix.toml` says no other.
#[test]
fn the_matrix_is_the_contracts() {
    use Target::{FakeNetwork, Localhost, Public};
    let contract = [
        ("linux", Localhost, ["pass", "pass", "pass", "fail"]),
        ("linux", Public, ["fail", "fail", "pass", "pass"]),
        ("linux", FakeNetwork, ["pass", "pass", "pass", "fail"]),
        ("windows", Localhost, ["pass", "fail", "pass", "fail"]),
        ("windows", Public, ["fail", "fail", "pass", "fail"]),
        ("macos", Localhost, ["pass", "fail", "pass", "fail"]),
        ("macos", Public, ["pass", "fail", "pass", "pass"]),
    ];
    let matrix = Matrix::read();
    for (os, target, expected) in contract {
        let rows = matrix.rows(target, os);
        let found = [rows.icmp, rows.udp, rows.tcp_syn, rows.tcp_sack].map(|cell| {
            let (expectation, retries) = cell.expectation(true);
            let may_be_flaky = (os, target, "tcp-sack") == ("macos", Public, "tcp-sack");
            assert!(retries == 0 || may_be_flaky, "{os} {target:?}");
            match expectation {
                Expectation::Reached => "pass",
                Expectation::Unreached | Expectation::Error(_) => "fail",
            }
        });
        assert_eq!(found, expected, "{os} {target:?}");
    }
}

#[test]
fn a_matrix_with_a_missing_or_unknown_cell_is_refused() {
    let text = include_str!("matrix.toml");
    for (from, to) in [
        ("[macos.udp]\nlocalhost = \"unreached\"\n", "[macos.udp]\n"),
        ("[windows.icmp]", "[windows.igmp]"),
        ("fake-network = \"reached\"", "fake-network = \"raeched\""),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        assert!(toml::from_str::<Matrix>(&changed).is_err(), "{from}");
    }
}
