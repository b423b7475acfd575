//! All runs of a report laid over each other: who answered at which TTL.

use std::collections::BTreeMap;
use std::net::IpAddr;

use datadog_traceroute::details::{AnswerDetails, HopDetails, LossDetails};
use datadog_traceroute::{Cause, Hop, Losses, Report};

/// What all runs together say of one TTL.
#[derive(Debug)]
pub(crate) struct Stop<'r> {
    /// TTL, in hops.
    pub(crate) ttl: u8,
    /// The last of the TTLs that this stands for. Only silence at the end of the path is taken
    /// together.
    pub(crate) last_ttl: u8,
    /// How many runs probed it.
    pub(crate) probed: usize,
    /// The runs that probed it and were not answered, from 0 up.
    silent: Vec<usize>,
    /// How many probes there were, all runs taken together. One for each run where no details say
    /// more.
    pub(crate) probes: u32,
    /// Those without an answer.
    pub(crate) lost: Losses,
    /// All TTLs that this stands for have the same main cause of silence.
    pub(crate) has_one_cause: bool,
    /// A NAT begins here to translate probes.
    pub(crate) nat: bool,
    /// Somebody answered, but the request wants private addresses hidden.
    pub(crate) hidden: bool,
    /// Who answered, in the order of the runs.
    pub(crate) hosts: Vec<Host<'r>>,
}

/// An address at a TTL.
#[derive(Debug)]
pub(crate) struct Host<'r> {
    pub(crate) address: IpAddr,
    pub(crate) names: &'r [String],
    /// It is what was traced.
    pub(crate) is_destination: bool,
    /// By run.
    pub(crate) answers: Vec<Answer<'r>>,
}

/// An answer to one run.
#[derive(Debug)]
pub(crate) struct Answer<'r> {
    /// Which run, from 0.
    pub(crate) run: usize,
    /// Round-trip time in milliseconds; `None` where the answer may be to any of several probes.
    pub(crate) rtt: Option<f64>,
    /// What else is known, where that was asked for.
    pub(crate) details: Option<&'r AnswerDetails>,
}

impl<'r> Stop<'r> {
    /// All TTLs that any run probed, from the lowest.
    pub(crate) fn of(report: &'r Report) -> Vec<Stop<'r>> {
        let mut stops: BTreeMap<u8, Stop> = BTreeMap::new();
        for (index, run) in report.traceroute.runs.iter().enumerate() {
            for hop in &run.hops {
                let stop = stops.entry(hop.ttl).or_insert_with(|| Stop {
                    ttl: hop.ttl,
                    last_ttl: hop.ttl,
                    probed: 0,
                    silent: Vec::new(),
                    probes: 0,
                    lost: Losses::default(),
                    has_one_cause: true,
                    nat: false,
                    hidden: false,
                    hosts: Vec::new(),
                });
                let details = hop_details(report, index, hop);
                stop.count(hop, details);
                if let Some(address) = hop.ip_address {
                    let is_destination = address == run.destination.ip_address;
                    let host = stop.host(address, is_destination, &hop.reverse_dns);
                    host.answers.push(Answer {
                        run: index,
                        rtt: (hop.rtt > 0.0).then_some(hop.rtt),
                        details: details.and_then(|details| details.answer.as_ref()),
                    });
                } else if !details.is_some_and(is_hidden) {
                    stop.silent.push(index);
                }
            }
        }
        let mut stops: Vec<Stop> = stops.into_values().collect();
        fold_silent_end(&mut stops);
        stops
    }

    /// Whether nobody answered, as far as anybody knows.
    fn is_silent_altogether(&self) -> bool {
        self.hosts.is_empty() && !self.hidden
    }

    /// Takes in a silent TTL further on.
    fn extend(&mut self, other: Stop) {
        self.has_one_cause &= self.lost.main() == other.lost.main();
        self.last_ttl = other.last_ttl;
        self.probed = self.probed.max(other.probed);
        self.silent.extend(other.silent);
        self.silent.sort_unstable();
        self.silent.dedup();
        self.probes += other.probes;
        self.lost += other.lost;
    }

    /// Takes in what became of a run's probes.
    fn count(&mut self, hop: &Hop, details: Option<&HopDetails>) {
        self.probed += 1;
        let Some(details) = details else {
            self.probes += 1;
            self.lost.add(Cause::Unknown, u32::from(!hop.reachable));
            return;
        };
        self.probes += u32::from(details.attempts);
        self.lost += losses(&details.lost);
        self.nat |= details.nat;
        self.hidden |= !hop.reachable && is_hidden(details);
    }

    fn host(&mut self, address: IpAddr, is_destination: bool, names: &'r [String]) -> &mut Host<'r> {
        let known = self.hosts.iter().position(|host| host.address == address);
        let index = known.unwrap_or_else(|| {
            self.hosts.push(Host {
                address,
                names,
                is_destination,
                answers: Vec::new(),
            });
            self.hosts.len() - 1
        });
        &mut self.hosts[index]
    }

    /// Whether this run probed here and nobody answered.
    pub(crate) fn is_silent(&self, run: usize) -> bool {
        self.silent.binary_search(&run).is_ok()
    }
}

/// Makes one of all silent TTLs at the end.
fn fold_silent_end(stops: &mut Vec<Stop>) {
    let answered = stops.iter().rposition(|stop| !stop.is_silent_altogether());
    let mut silent = stops.split_off(answered.map_or(0, |index| index + 1)).into_iter();
    if let Some(mut first) = silent.next() {
        silent.for_each(|stop| first.extend(stop));
        stops.push(first);
    }
}

/// Whether the details of a hop without an address are those of one that was hidden: probed, and
/// nothing lost.
pub(crate) fn is_hidden(details: &HopDetails) -> bool {
    details.answer.is_none() && details.attempts > 0 && details.lost.is_empty()
}

impl Host<'_> {
    /// Its answer to this run.
    pub(crate) fn answer(&self, run: usize) -> Option<&Answer<'_>> {
        let index = self.answers.binary_search_by_key(&run, |answer| answer.run);
        self.answers.get(index.ok()?)
    }

    /// Its MPLS label stacks, those of different answers once each, as traceroute(8) writes them.
    pub(crate) fn mpls(&self) -> Vec<String> {
        let stacks = self.answers.iter().filter_map(|answer| mpls(answer.details?));
        distinct(stacks)
    }
}

/// Labels as traceroute(8) writes them, `None` without any.
pub(crate) fn mpls(details: &AnswerDetails) -> Option<String> {
    let labels: Vec<String> = details.mpls.iter().map(ToString::to_string).collect();
    (!labels.is_empty()).then(|| labels.join("/"))
}

/// Each item once, in the order of their first appearance.
pub(crate) fn distinct<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut found = Vec::new();
    for item in items {
        if !found.contains(&item) {
            found.push(item);
        }
    }
    found
}

/// What else is known of a hop of run `index`.
pub(crate) fn hop_details<'r>(report: &'r Report, index: usize, hop: &Hop) -> Option<&'r HopDetails> {
    let run = report.details.as_ref()?.runs.get(index)?;
    run.hops.iter().find(|other| other.ttl == hop.ttl)
}

/// Counts by cause, from their names in the document.
pub(crate) fn losses(details: &LossDetails) -> Losses {
    let mut losses = Losses::default();
    for cause in Cause::ALL {
        losses.add(cause, details.get(cause.name()).copied().unwrap_or(0));
    }
    losses
}
