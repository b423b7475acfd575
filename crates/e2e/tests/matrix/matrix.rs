//! The matrix as data.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt;
use std::net::IpAddr;

use serde::Deserialize;

use crate::place::Place;

/// `matrix.toml`, whose comments say what is what. That a row or a cell of the contract is missing
/// is an error of reading it.
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
    tcp_prefer_sack: C,
    /// There is such a method on Windows only.
    tcp_syn_socket: Option<C>,
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

    /// Asked for only where somebody can tell, and only once by each program: those who can tell
    /// are strangers, who need not answer several questions at once.
    pub(crate) fn wants_public_ip(&self) -> bool {
        self.kind == Target::Public && self.method == Some("syn")
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
            ("icmp", None, Some(rows.icmp)),
            ("udp", None, Some(rows.udp)),
            ("tcp", Some("syn"), Some(rows.tcp_syn)),
            ("tcp", Some("sack"), Some(rows.tcp_sack)),
            ("tcp", Some("prefer_sack"), Some(rows.tcp_prefer_sack)),
            ("tcp", Some("syn_socket"), rows.tcp_syn_socket),
        ];
        let mut cases = Vec::new();
        for (protocol, method, cell) in protocols {
            let Some(cell) = cell else { continue };
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
            tcp_prefer_sack: pick(&self.tcp_prefer_sack),
            tcp_syn_socket: self.tcp_syn_socket.as_ref().map(pick),
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

/// A line of the contract's table for GitHub's runners: system, protocol, and for each target
/// whether it passes and what else is said of it.
type ContractRow<'a> = (String, &'a str, Vec<(Target, &'a str, &'a str)>);

/// Reads `- Linux:` and, below it, lines like `  - UDP: localhost pass, public fail, fake network
/// pass.`
fn contract_rows(contract: &str) -> Vec<ContractRow<'_>> {
    let (_, table) = contract
        .split_once("Expectation matrix (high-level):\n\n")
        .unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let mut os = String::new();
    let mut rows = Vec::new();
    for line in table.lines() {
        if let Some(name) = line.strip_prefix("- ") {
            os = name.trim_end_matches(':').to_lowercase();
            continue;
        }
        let (protocol, targets) = line.trim_start_matches([' ', '-']).split_once(": ").unwrap();
        let targets = targets.trim_end_matches('.').split(", ").map(|text| {
            let named = [
                ("localhost ", Target::Localhost),
                ("public ", Target::Public),
                ("fake network ", Target::FakeNetwork),
            ];
            let find = |(name, target)| Some((target, text.strip_prefix(name)?));
            let (target, said) = named.into_iter().find_map(find).unwrap();
            let (outcome, remark) = said.split_once(' ').unwrap_or((said, ""));
            (target, outcome, remark)
        });
        rows.push((os.clone(), protocol, targets.collect()));
    }
    rows
}

/// The contract's own table for GitHub's runners, cell by cell: `matrix.toml` says no other.
#[test]
fn the_matrix_is_the_contracts() {
    let matrix = Matrix::read();
    let mut compared = 0;
    for (os, protocol, targets) in contract_rows(include_str!("../../../../docs/contract.md")) {
        for (target, outcome, remark) in targets {
            let rows = matrix.rows(target, &os);
            let cell = match protocol {
                "ICMP" => rows.icmp,
                "UDP" => rows.udp,
                "TCP SYN" => rows.tcp_syn,
                "TCP SACK" => rows.tcp_sack,
                _ => panic!("{protocol}"),
            };
            let (expectation, retries) = cell.expectation(true);
            let found = match expectation {
                Expectation::Reached => "pass",
                Expectation::Unreached | Expectation::Error(_) => "fail",
            };
            assert_eq!(found, outcome, "{os} {protocol} {target:?}");
            let may_be_flaky = remark.contains("retries");
            assert_eq!(retries > 0, may_be_flaky, "{os} {protocol} {target:?}");
            compared += 1;
        }
    }
    // Four protocols to three kinds of targets on Linux, to two on Windows and macOS.
    assert_eq!(compared, 28);
}

/// Whether a target answers is left open for public ones, and where the contract expects of a
/// system that this machine does not answer itself, which may turn out better. On Linux all that
/// needs no public network is certain.
#[test]
fn what_can_be_known_is_expected() {
    use Target::{FakeNetwork, FakeNetworkOpen, Localhost, LocalhostV6};
    let (matrix, place) = (Matrix::read(), Place::without_network());
    let mut open = BTreeSet::new();
    for (os, kinds) in [
        (
            "linux",
            &[Localhost, LocalhostV6, FakeNetwork, FakeNetworkOpen][..],
        ),
        ("windows", &[Localhost]),
        ("macos", &[Localhost]),
    ] {
        for (kind, is_hosted) in kinds.iter().flat_map(|kind| [(*kind, false), (*kind, true)]) {
            let cases = matrix.cases(kind, Runner { os, is_hosted }, &place);
            let unknown = cases
                .iter()
                .filter(|case| case.expectation == Expectation::Unreached);
            open.extend(unknown.map(|case| (os, case.method.unwrap_or(case.protocol))));
        }
    }
    let expected = [("macos", "udp"), ("windows", "syn_socket"), ("windows", "udp")];
    assert_eq!(open, BTreeSet::from(expected));
}

#[test]
fn every_method_of_tcp_has_its_cases() {
    let matrix = Matrix::read();
    for (os, expected) in [
        ("linux", &["syn", "sack", "prefer_sack"][..]),
        ("windows", &["syn", "sack", "prefer_sack", "syn_socket"]),
        ("macos", &["syn", "sack", "prefer_sack"]),
    ] {
        let runner = Runner { os, is_hosted: true };
        let cases = matrix.cases(Target::Public, runner, &Place::without_network());
        let methods: Vec<_> = cases.iter().filter_map(|case| case.method).collect();
        assert_eq!(methods, expected, "{os}");
        assert_eq!(
            cases.iter().filter(|case| case.wants_public_ip()).count(),
            1,
            "{os}"
        );
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
