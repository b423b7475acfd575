//! What a discovery of paths finds, as it finds it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use traceroute_engine::FoundHop;

/// What happens while paths are looked for. Provisional: what counts are the [`Paths`] in the end.
/// Nodes that do not answer are only there, and so are links from the source.
///
/// [`Paths`]: crate::Paths
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathsEvent {
    /// The target's address is known. It comes first.
    Resolved {
        /// The address to which paths are looked for.
        address: IpAddr,
    },
    /// A node answered for the first time at this TTL.
    NodeFound {
        /// TTL, in hops.
        ttl: u8,
        /// Its address.
        address: IpAddr,
        /// It is the destination.
        destination: bool,
    },
    /// A flow was seen at both ends of a link, which is new. Both nodes were told before.
    LinkFound {
        /// The TTL of its further end, in hops.
        ttl: u8,
        /// The nearer end.
        from: IpAddr,
        /// The further end.
        to: IpAddr,
    },
    /// A flow was seen at another node than before: packets are balanced, or the path changes.
    /// Links to and from nodes with this TTL do not count any more, and no others are told.
    Moved {
        /// TTL, in hops.
        ttl: u8,
    },
}

/// Where a flow was seen.
#[derive(Debug, Clone, Copy)]
struct Place {
    address: IpAddr,
    destination: bool,
    /// The flow does not go on from there.
    ends: bool,
}

/// The graph as far as it was told.
#[derive(Debug)]
pub(crate) struct Growth {
    first_ttl: u8,
    /// By flow and TTL.
    places: HashMap<(u32, u8), Place>,
    nodes: HashSet<(u8, IpAddr)>,
    links: HashSet<(u8, IpAddr, IpAddr)>,
    moved: BTreeSet<u8>,
}

impl Growth {
    pub(crate) fn new(first_ttl: u8) -> Self {
        Growth {
            first_ttl,
            places: HashMap::new(),
            nodes: HashSet::new(),
            links: HashSet::new(),
            moved: BTreeSet::new(),
        }
    }

    /// Tells what an answer adds.
    pub(crate) fn answered(&mut self, found: FoundHop, tell: impl Fn(PathsEvent)) {
        let FoundHop { flow, ttl, answer } = found;
        let place = Place {
            address: answer.address,
            destination: answer.destination,
            ends: answer.destination || answer.is_refusal(),
        };
        let before = self.places.insert((flow, ttl), place);
        if before.is_some_and(|before| before.address == place.address) {
            return;
        }
        if before.is_some() && self.moved.insert(ttl) {
            tell(PathsEvent::Moved { ttl });
        }
        self.add(flow, ttl, &tell);
        // It may have answered before this one.
        if let Some(next) = ttl.checked_add(1) {
            self.add(flow, next, &tell);
        }
    }

    fn add(&mut self, flow: u32, ttl: u8, tell: &impl Fn(PathsEvent)) {
        let Some(here) = self.places.get(&(flow, ttl)).copied() else {
            return;
        };
        let before = ttl.checked_sub(1).and_then(|ttl| self.places.get(&(flow, ttl)));
        // Probes go beyond the end of a flow until that is known.
        let is_beyond = match before {
            Some(before) => before.ends,
            None => here.ends && ttl != self.first_ttl,
        };
        if is_beyond {
            return;
        }
        if self.nodes.insert((ttl, here.address)) {
            tell(PathsEvent::NodeFound {
                ttl,
                address: here.address,
                destination: here.destination,
            });
        }
        let is_sure = !self.moved.contains(&ttl) && !self.moved.contains(&(ttl - 1));
        if let Some(before) = before.filter(|_| is_sure)
            && self.links.insert((ttl, before.address, here.address))
        {
            tell(PathsEvent::LinkFound {
                ttl,
                from: before.address,
                to: here.address,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use traceroute_engine::Answer;
    use traceroute_wire::IcmpError;

    use super::*;

    fn by(n: u8) -> IpAddr {
        [192, 0, 2, n].into()
    }

    /// What is told of answers to (flow, TTL) by these nodes, in words; 9 is the destination.
    fn told(answers: &[(u32, u8, u8)]) -> Vec<String> {
        let mut growth = Growth::new(1);
        let told = RefCell::new(Vec::new());
        for (flow, ttl, node) in answers.iter().copied() {
            let error = (node != 9).then_some(IcmpError::TimeExceeded);
            let answer = Answer::new(by(node), None, error);
            growth.answered(FoundHop { flow, ttl, answer }, |event| {
                let last = |address: IpAddr| address.to_string().split_off(8);
                told.borrow_mut().push(match event {
                    PathsEvent::NodeFound { ttl, address, .. } => format!("{ttl}:{}", last(address)),
                    PathsEvent::LinkFound { ttl, from, to } => format!("{ttl}:{}-{}", last(from), last(to)),
                    PathsEvent::Moved { ttl } => format!("{ttl} moved"),
                    PathsEvent::Resolved { .. } => String::new(),
                });
            });
        }
        told.into_inner()
    }

    #[test]
    fn nodes_and_links_are_told_once_in_whatever_order_answers_come() {
        let answers = [(0, 2, 2), (0, 1, 1), (1, 1, 1), (1, 2, 3), (2, 2, 3), (2, 1, 1)];
        assert_eq!(told(&answers), ["2:2", "1:1", "2:1-2", "2:3", "2:1-3"]);
    }

    #[test]
    fn nothing_is_told_of_what_answers_beyond_the_end_of_a_flow() {
        // The destination answers sooner the further the probe could have gone.
        let answers = [(0, 4, 9), (0, 3, 9), (0, 1, 1), (0, 2, 2)];
        assert_eq!(told(&answers), ["1:1", "2:2", "2:1-2", "3:9", "3:2-9"]);
        assert_eq!(told(&[(0, 1, 9)]), ["1:9"]);
    }

    #[test]
    fn links_are_not_told_where_a_flow_has_moved() {
        let answers = [
            (0, 1, 1),
            (0, 2, 2),
            (0, 2, 3),
            (1, 1, 1),
            (1, 2, 4),
            (1, 3, 5),
            (1, 4, 6),
        ];
        let expected = [
            "1:1", "2:2", "2:1-2", "2 moved", "2:3", "2:4", "3:5", "4:6", "4:5-6",
        ];
        assert_eq!(told(&answers), expected);
    }
}
