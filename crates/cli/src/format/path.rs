//! All runs of a report laid over each other: who answered at which TTL.

use std::collections::BTreeMap;
use std::net::IpAddr;

use datadog_traceroute::details::AnswerDetails;
use datadog_traceroute::{Hop, Report};

/// What all runs together say of one TTL.
#[derive(Debug)]
pub(crate) struct Stop<'r> {
    /// TTL, in hops.
    pub(crate) ttl: u8,
    /// How many runs probed it.
    pub(crate) probed: usize,
    /// The runs that probed it and were not answered, from 0 up.
    silent: Vec<usize>,
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
    /// Round-trip time in milliseconds.
    pub(crate) rtt: f64,
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
                    probed: 0,
                    silent: Vec::new(),
                    hosts: Vec::new(),
                });
                stop.probed += 1;
                if let Some(address) = hop.ip_address {
                    let is_destination = address == run.destination.ip_address;
                    let details = answer_details(report, index, hop);
                    let host = stop.host(address, is_destination, &hop.reverse_dns);
                    host.answers.push(Answer {
                        run: index,
                        rtt: hop.rtt,
                        details,
                    });
                } else {
                    stop.silent.push(index);
                }
            }
        }
        stops.into_values().collect()
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

    /// How many runs were answered.
    pub(crate) fn answered(&self) -> usize {
        self.probed - self.silent.len()
    }

    /// Whether this run probed here and nobody answered.
    pub(crate) fn is_silent(&self, run: usize) -> bool {
        self.silent.binary_search(&run).is_ok()
    }
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
pub(crate) fn answer_details<'r>(report: &'r Report, index: usize, hop: &Hop) -> Option<&'r AnswerDetails> {
    let run = report.details.as_ref()?.runs.get(index)?;
    run.hops
        .iter()
        .find(|other| other.ttl == hop.ttl)?
        .answer
        .as_ref()
}
