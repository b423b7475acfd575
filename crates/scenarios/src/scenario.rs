//! Scenarios and expectations as data, and how an outcome is held against them.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use traceroute_simnet::{Topology, TopologyError, example};
use traceroute_wire::{IcmpError, MplsLabel};

/// How to probe, as a user says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// ICMP echo.
    Icmp,
    /// UDP.
    Udp,
    /// TCP SYN.
    Syn,
    /// TCP SACK.
    Sack,
    /// TCP SACK, else SYN.
    PreferSack,
}

impl Method {
    /// All of them.
    pub const ALL: [Method; 5] = [
        Method::Icmp,
        Method::Udp,
        Method::Syn,
        Method::Sack,
        Method::PreferSack,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Method::Icmp => "icmp",
            Method::Udp => "udp",
            Method::Syn => "syn",
            Method::Sack => "sack",
            Method::PreferSack => "prefer_sack",
        }
    }
}

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// One adversity.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Unique, in `kebab-case`.
    pub name: &'static str,
    /// The adversity in a few words.
    pub what: &'static str,
    /// How many routers there are before the target.
    pub routers: usize,
    /// Lines added to routers, by number from 1, and to the target at 0.
    pub special: &'static [(usize, &'static str)],
    /// First lines of the file.
    pub head: &'static str,
    /// A topology that comes with the simulated network, instead of all that.
    pub example: Option<&'static str>,
    /// Last number of the target's address.
    pub target: u8,
    /// Probed UDP port.
    pub udp_port: u16,
    /// Probed TCP port.
    pub tcp_port: u16,
    /// Timeout in milliseconds.
    pub timeout_ms: u64,
    /// Last TTL.
    pub max_ttl: u8,
    /// What must come out: for each method and family the first that applies.
    pub expect: Vec<Expect>,
}

/// What must come out of a scenario.
#[derive(Debug, Clone)]
pub struct Expect {
    methods: Vec<Method>,
    family: Option<Family>,
    path: &'static str,
    aspects: Vec<(Aspect, String)>,
    error: &'static str,
    received: RangeInclusive<u32>,
    /// Why this is not part of the scenario; empty: it is.
    left_out: &'static str,
    /// The same comes out each time, and so behind a device what came out in memory.
    repeatable: bool,
}

/// End-to-end probes per scenario.
pub const E2E_QUERIES: u32 = 10;

impl Expect {
    /// These methods find this path; see [`Outcome::path`] for the notation. A router may be `a|b`:
    /// either; whole paths likewise with ` || ` between them. No end-to-end probe is lost.
    pub fn on(methods: &[Method], path: &'static str) -> Self {
        Expect {
            methods: methods.to_vec(),
            family: None,
            path,
            aspects: Vec::new(),
            error: "",
            received: E2E_QUERIES..=E2E_QUERIES,
            left_out: "",
            repeatable: !path.contains('|'),
        }
    }

    /// All methods do.
    pub fn all(path: &'static str) -> Self {
        Self::on(&Method::ALL, path)
    }

    /// These methods fail with this error, in which `{target}` stands for the target's address and
    /// `{port}` for the port.
    pub fn fails(methods: &[Method], error: &'static str) -> Self {
        Expect {
            error,
            ..Self::on(methods, "")
        }
    }

    /// These methods are not part of the scenario, and why.
    pub fn left_out(methods: &[Method], why: &'static str) -> Self {
        Expect {
            left_out: why,
            ..Self::on(methods, "")
        }
    }

    /// How many end-to-end probes are answered.
    #[must_use]
    pub fn received(self, received: RangeInclusive<u32>) -> Self {
        Expect { received, ..self }
    }

    /// What else the answers tell, one word for each hop; see [`Outcome::words`] for the notation.
    #[must_use]
    pub fn with(mut self, aspect: Aspect, words: impl Into<String>) -> Self {
        self.aspects.push((aspect, words.into()));
        self
    }

    /// Which end-to-end probes are answered depends on a few milliseconds that memory has and a
    /// device has not.
    #[must_use]
    pub fn varying(self) -> Self {
        Expect {
            repeatable: false,
            ..self
        }
    }

    /// The path leaves a choice, but neither the client's ports nor time decide which.
    #[must_use]
    pub fn repeatable(self) -> Self {
        Expect {
            repeatable: true,
            ..self
        }
    }

    /// The same, but of what else the answers tell only these aspects.
    #[must_use]
    pub(crate) fn only_aspects(mut self, told: &[Aspect]) -> Self {
        self.aspects.retain(|(aspect, _)| told.contains(aspect));
        self
    }

    /// The same with another path or number of answers.
    #[must_use]
    pub(crate) fn but(self, path: Option<&'static str>, received: Option<RangeInclusive<u32>>) -> Self {
        Expect {
            path: path.unwrap_or(self.path),
            received: received.unwrap_or(self.received.clone()),
            ..self
        }
    }

    /// Whether two runs, wherever, must have the same [`Outcome::summary`], as far as they can
    /// tell.
    pub fn is_repeatable(&self) -> bool {
        self.repeatable
    }

    /// How many hops give no answer, on the first of the paths.
    pub fn silent_hops(&self) -> u32 {
        let path = self.path.split("||").next().unwrap_or_default();
        path.split_whitespace().map(|hop| u32::from(hop == "*")).sum()
    }

    /// Only in this family.
    #[must_use]
    pub fn only(self, family: Family) -> Self {
        Expect {
            family: Some(family),
            ..self
        }
    }

    /// Holds an outcome against it.
    ///
    /// # Errors
    /// What is different.
    pub fn check(&self, scenario: &Scenario, outcome: &Outcome) -> Result<(), String> {
        if !outcome.wrong.is_empty() {
            return Err(outcome.wrong.join("; "));
        }
        let received = outcome.received();
        if !self.received.contains(&received) {
            return Err(format!(
                "{received} of {} end-to-end probes answered, not {:?}",
                outcome.rtts.len(),
                self.received
            ));
        }
        match &outcome.hops {
            Err(error) => {
                let expected = scenario.fill(self.error, outcome.target);
                (*error == expected && !expected.is_empty())
                    .then_some(())
                    .ok_or_else(|| format!("error {error:?}, not {expected:?}"))
            }
            Ok(_) => {
                let path = outcome.path();
                let fits = self.error.is_empty()
                    && self
                        .path
                        .split("||")
                        .any(|expected| path_fits(expected.trim(), &path));
                fits.then_some(())
                    .ok_or_else(|| format!("path {path:?}, not {:?} {:?}", self.path, self.error))?;
                self.aspects
                    .iter()
                    .try_for_each(|(aspect, words)| aspect.check(words, outcome))
            }
        }
    }

    /// What to show for an outcome that fits: the expectation where it leaves a choice.
    pub fn shown(&self, outcome: &Outcome) -> String {
        let path = if self.path.contains('|') {
            self.path.replace(" || ", " or ").replace('|', "/")
        } else {
            outcome.path()
        };
        let mut text = format!("`{path}`");
        for (aspect, _) in &self.aspects {
            let _ = write!(text, "; {} `{}`", aspect.name(), outcome.words(*aspect));
        }
        text
    }
}

fn path_fits(expected: &str, path: &str) -> bool {
    let (expected, path): (Vec<_>, Vec<_>) = (expected.split(' ').collect(), path.split(' ').collect());
    expected.len() == path.len()
        && expected
            .iter()
            .zip(path)
            .all(|(expected, hop)| expected.split('|').any(|choice| choice == hop))
}

impl Scenario {
    /// What must come out, if this combination is part of the scenario.
    pub fn expectation(&self, method: Method, family: Family) -> Option<&Expect> {
        self.said_of(method, family)
            .filter(|expect| expect.left_out.is_empty())
    }

    /// Why this combination is not part of the scenario, if it is not.
    pub fn left_out(&self, method: Method, family: Family) -> Option<&'static str> {
        let why = self.said_of(method, family)?.left_out;
        (!why.is_empty()).then_some(why)
    }

    fn said_of(&self, method: Method, family: Family) -> Option<&Expect> {
        self.expect.iter().find(|expect| {
            expect.methods.contains(&method) && expect.family.is_none_or(|only| only == family)
        })
    }

    /// The topology file.
    pub fn text(&self) -> String {
        if let Some(example) = self.example.and_then(example) {
            return example.text.to_owned();
        }
        let mut text = format!("{}\n", self.head);
        for number in 1..=self.routers {
            let _ = write!(
                text,
                "[[hop]]\nname = \"r{number}\"\nv4 = \"10.0.{number}.1\"\nv6 = \"2001:db8:{number:x}::1\"\ndelay = 1\n{}\n",
                self.lines(number)
            );
        }
        let _ = write!(
            text,
            "[[target]]\nname = \"target\"\nv4 = \"198.51.100.11\"\nv6 = \"2001:db8:ffff::11\"\n{}\n",
            self.lines(0)
        );
        if !self.lines(0).contains("delay = ") {
            text.push_str("delay = 1\n");
        }
        text
    }

    fn lines(&self, number: usize) -> String {
        let lines: Vec<&str> = self
            .special
            .iter()
            .filter(|(at, _)| *at == number)
            .map(|(_, line)| *line)
            .collect();
        lines.join("\n")
    }

    /// The topology.
    ///
    /// # Errors
    /// The scenario is wrong.
    pub fn topology(&self) -> Result<Topology, TopologyError> {
        Topology::parse(self.name, &self.text())
    }

    /// The target's address.
    pub fn target(&self, family: Family) -> IpAddr {
        let text = match family {
            Family::V4 => format!("198.51.100.{}", self.target),
            Family::V6 => format!("2001:db8:ffff::{}", self.target),
        };
        text.parse().unwrap_or(IpAddr::from([0, 0, 0, 0]))
    }

    /// The probed port.
    pub fn port(&self, method: Method) -> u16 {
        match method {
            Method::Icmp | Method::Udp => self.udp_port,
            Method::Syn | Method::Sack | Method::PreferSack => self.tcp_port,
        }
    }

    /// Time between end-to-end probes, as for any request.
    pub fn e2e_spacing(&self) -> Duration {
        let longest = Duration::from_millis(self.timeout_ms) * u32::from(self.max_ttl);
        (longest / E2E_QUERIES).min(Duration::from_secs(1))
    }

    /// The time over which all end-to-end probes are sent.
    pub fn e2e_time(&self) -> Duration {
        self.e2e_spacing() * E2E_QUERIES
    }

    fn fill(&self, text: &str, target: IpAddr) -> String {
        text.replace("{target}", &target.to_string())
            .replace("{port}", &self.tcp_port.to_string())
    }
}

/// What came out of a scenario.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Probed address.
    pub target: IpAddr,
    /// The hops from TTL 1 on, or the error text.
    pub hops: Result<Vec<Option<Finding>>, String>,
    /// Round-trip times of the end-to-end probes.
    pub rtts: Vec<Option<Duration>>,
    /// Round-trip times that no packet explains, one line each.
    pub wrong: Vec<String>,
}

/// What an answer tells besides who sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aspect {
    /// ICMP type and code.
    Icmp,
    /// TTL on arrival.
    ReplyTtl,
    /// TTL that the probe had, as quoted.
    QuotedTtl,
    /// MPLS labels.
    Mpls,
}

impl Aspect {
    /// All of them.
    pub const ALL: [Aspect; 4] = [Aspect::Icmp, Aspect::ReplyTtl, Aspect::QuotedTtl, Aspect::Mpls];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Aspect::Icmp => "ICMP",
            Aspect::ReplyTtl => "reply TTL",
            Aspect::QuotedTtl => "quoted TTL",
            Aspect::Mpls => "MPLS",
        }
    }

    fn check(self, expected: &str, outcome: &Outcome) -> Result<(), String> {
        let words = outcome.words(self);
        (words == expected)
            .then_some(())
            .ok_or_else(|| format!("{} {words:?}, not {expected:?}", self.name()))
    }

    fn word(self, finding: &Finding) -> String {
        let number = |ttl: Option<u8>| ttl.map(|ttl| ttl.to_string());
        let word = match self {
            Aspect::Icmp => finding.icmp.map(|(kind, code)| format!("{kind}/{code}")),
            Aspect::ReplyTtl => number(finding.reply_ttl),
            Aspect::QuotedTtl => number(finding.quoted_ttl),
            Aspect::Mpls => (!finding.mpls.is_empty()).then(|| mpls_word(&finding.mpls)),
        };
        word.unwrap_or_else(|| "-".to_owned())
    }
}

/// As traceroute(8) writes it with `-e`.
fn mpls_word(labels: &[MplsLabel]) -> String {
    let entry = |entry: &MplsLabel| {
        let bottom = u8::from(entry.bottom);
        format!(
            "L={},E={},S={bottom},T={}",
            entry.label, entry.traffic_class, entry.ttl
        )
    };
    labels.iter().map(entry).collect::<Vec<_>>().join("/")
}

/// An answer at one TTL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Who answered.
    pub address: IpAddr,
    /// Round-trip time; `None` when it cannot be told which of several probes was answered.
    pub rtt: Option<Duration>,
    /// It is the destination.
    pub destination: bool,
    /// Type and code, when it is an ICMP message.
    pub icmp: Option<(u8, u8)>,
    /// TTL on arrival, in hops.
    pub reply_ttl: Option<u8>,
    /// TTL of the probe in the quote, in hops, when there is one.
    pub quoted_ttl: Option<u8>,
    /// MPLS labels, outermost first.
    pub mpls: Vec<MplsLabel>,
}

/// ICMP type and code of an error (RFC 792, RFC 4443).
pub(crate) fn type_and_code(v6: bool, error: IcmpError) -> (u8, u8) {
    match (error, v6) {
        (IcmpError::TimeExceeded, false) => (11, 0),
        (IcmpError::TimeExceeded, true) => (3, 0),
        (IcmpError::Unreachable { code }, false) => (3, code),
        (IcmpError::Unreachable { code }, true) => (1, code),
    }
}

impl Outcome {
    /// Everything but times and identifiers, in words: what two runs of the same scenario have in
    /// common. Of what the answers tell besides who sent them only these aspects.
    pub fn summary(&self, aspects: &[Aspect]) -> String {
        let run = match &self.hops {
            Err(error) => format!("error: {error}"),
            Ok(_) => aspects.iter().fold(self.path(), |text, aspect| {
                format!("{text}; {} {}", aspect.name(), self.words(*aspect))
            }),
        };
        let answered = self.rtts.iter().map(|rtt| if rtt.is_some() { '!' } else { '*' });
        format!("{run}; end to end {}", answered.collect::<String>())
    }

    /// How many end-to-end probes were answered.
    pub fn received(&self) -> u32 {
        self.rtts.iter().flatten().count() as u32
    }

    /// The hops in TTL order: `r3` is the third router, `T` the target, `*` silence, `!` behind the
    /// destination's.
    pub fn path(&self) -> String {
        let hops = self.hops.as_deref().unwrap_or_default();
        let names: Vec<String> = hops
            .iter()
            .map(|hop| match hop {
                None => "*".to_owned(),
                Some(finding) if finding.destination => format!("{}!", self.name(finding.address)),
                Some(finding) => self.name(finding.address),
            })
            .collect();
        names.join(" ")
    }

    /// One word for each hop: `*` for silence, `-` where the answer does not tell. ICMP type and
    /// code are written `11/0`, MPLS labels as traceroute(8) does.
    pub fn words(&self, aspect: Aspect) -> String {
        let hops = self.hops.as_deref().unwrap_or_default();
        let word = |hop: &Option<Finding>| match hop {
            None => "*".to_owned(),
            Some(finding) => aspect.word(finding),
        };
        hops.iter().map(word).collect::<Vec<_>>().join(" ")
    }

    /// `T` for the target, `rN` for 10.0.N.1, `aN`, `bN`, … for 10.1.1.N, 10.1.2.N, …, and
    /// otherwise the IPv4 address, also for IPv6: all addresses of the simulated networks follow
    /// one plan.
    fn name(&self, address: IpAddr) -> String {
        if address == self.target {
            return "T".to_owned();
        }
        let [a, b, c] = match address {
            IpAddr::V4(address) => {
                let [_, a, b, c] = address.octets();
                [a, b, c]
            }
            IpAddr::V6(address) => {
                let [high, low] = address.segments()[2].to_be_bytes();
                [high, low, address.segments()[7] as u8]
            }
        };
        match (a, b, c) {
            (0, number, 1) => format!("r{number}"),
            (1, branch @ 1..=26, number) => format!("{}{number}", char::from(b'a' + branch - 1)),
            _ => format!("10.{a}.{b}.{c}"),
        }
    }
}
