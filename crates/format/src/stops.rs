//! All runs of a report laid over each other: who answered at which TTL.

use std::collections::BTreeMap;
use std::net::IpAddr;

use datadog_traceroute::details::MplsEntry;
use datadog_traceroute::{Answer, Hop, Losses, MplsStack, Report, is_hidden};

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
    /// How many probes there were, all runs taken together.
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
    pub(crate) hosts: Vec<Responder<'r>>,
}

/// An address at a TTL.
#[derive(Debug)]
pub(crate) struct Responder<'r> {
    pub(crate) address: IpAddr,
    pub(crate) names: &'r [String],
    /// It is what was traced.
    pub(crate) is_destination: bool,
    /// With the run, from 0, that each is to, in its order.
    pub(crate) answers: Vec<(usize, &'r Answer)>,
}

impl<'r> Stop<'r> {
    /// All TTLs that any run probed, from the lowest.
    pub(crate) fn of(report: &'r Report) -> Vec<Stop<'r>> {
        let mut stops: BTreeMap<u8, Stop> = BTreeMap::new();
        for (index, run) in report.runs.iter().enumerate() {
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
                stop.count(hop);
                if let Some(answer) = &hop.answer {
                    let is_destination = answer.address == run.destination.ip();
                    let names = report.names.of(answer.address);
                    let host = stop.host(answer.address, is_destination, names);
                    host.answers.push((index, answer));
                } else if !is_hidden(hop) {
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
    fn count(&mut self, hop: &Hop) {
        self.probed += 1;
        self.probes += u32::from(hop.attempts);
        self.lost += hop.lost;
        self.nat |= hop.nat;
        self.hidden |= is_hidden(hop);
    }

    fn host(&mut self, address: IpAddr, is_destination: bool, names: &'r [String]) -> &mut Responder<'r> {
        let known = self.hosts.iter().position(|host| host.address == address);
        let index = known.unwrap_or_else(|| {
            self.hosts.push(Responder {
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

impl Responder<'_> {
    /// Its answer to this run.
    pub(crate) fn answer(&self, run: usize) -> Option<&Answer> {
        let index = self.answers.binary_search_by_key(&run, |(of, _)| *of);
        Some(self.answers.get(index.ok()?)?.1)
    }

    /// Its MPLS label stacks, those of different answers once each, as traceroute(8) writes them.
    pub(crate) fn mpls(&self) -> Vec<String> {
        distinct(self.answers.iter().filter_map(|(_, answer)| mpls(&answer.mpls)))
    }
}

/// Labels as traceroute(8) writes them, `None` without any.
fn mpls(stack: &MplsStack) -> Option<String> {
    let labels = stack.labels().map(|label| MplsEntry::from(label).to_string());
    let labels: Vec<String> = labels.collect();
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
