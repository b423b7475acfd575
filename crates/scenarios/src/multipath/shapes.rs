//! The shapes of the literature, and random ones.

use super::{Hash, Network, Node};

/// A network made of levels, one after the other: who is linked to whom is given level by level.
struct Levels {
    nodes: Vec<Node>,
    last: Vec<usize>,
}

impl Levels {
    fn new() -> Self {
        Levels {
            nodes: vec![Node::default()],
            last: vec![0],
        }
    }

    /// Adds a level of `width` nodes; `links` says for each node of the level before which of them
    /// are its next hops.
    fn level(mut self, width: usize, links: impl Fn(usize) -> Vec<usize>) -> Self {
        let first = self.nodes.len();
        self.nodes.resize(first + width, Node::default());
        for (index, node) in self.last.iter().enumerate() {
            let next = links(index);
            let weight = 1.0 / next.len() as f64;
            self.nodes[*node].next = next.into_iter().map(|to| (first + to, weight)).collect();
        }
        self.last = (first..first + width).collect();
        self
    }

    /// One node, to which all lead.
    fn one(self) -> Self {
        self.level(1, |_| vec![0])
    }

    /// `width` nodes to which each of the level before leads.
    fn all(self, width: usize) -> Self {
        self.level(width, |_| (0..width).collect())
    }

    /// As many nodes again, one behind the other.
    fn straight(self) -> Self {
        let width = self.last.len();
        self.level(width, |index| vec![index])
    }

    /// `times` nodes for each one.
    fn split(self, times: usize) -> Self {
        let width = self.last.len() * times;
        self.level(width, |index| (index * times..(index + 1) * times).collect())
    }

    fn named(self, name: &str) -> Network {
        Network {
            name: name.to_owned(),
            nodes: self.nodes,
            loss: 0.0,
            changes_after: None,
        }
    }
}

/// The shapes by which discoveries are judged.
pub fn shapes() -> Vec<Network> {
    let start = || Levels::new().one();
    let mut shapes = vec![
        start()
            .one()
            .one()
            .one()
            .one()
            .one()
            .one()
            .one()
            .one()
            .one()
            .one()
            .named("no balancing, 11 hops"),
        start().all(2).one().one().named("diamond of 2"),
        start().all(16).one().one().named("diamond of 16"),
        start().all(48).one().one().named("diamond of 48"),
        start()
            .all(4)
            .straight()
            .straight()
            .one()
            .named("diamond of 4, long"),
        start().all(2).all(2).one().named("meshed 2×2"),
        start().all(5).all(4).all(5).one().named("meshed 5×4×5"),
        start().all(2).split(3).straight().one().one().named("nested 2×3"),
        start()
            .all(3)
            .level(4, |index| if index == 0 { vec![0, 1] } else { vec![index + 1] })
            .one()
            .named("asymmetric"),
        start().all(2).one().all(3).one().named("two diamonds"),
    ];
    shapes.extend([
        uneven(),
        per_packet(1),
        per_packet(3),
        unequal(&[0.6, 0.4]),
        unequal(&[0.4, 0.3, 0.2, 0.1]),
        silent_branch(),
        Network {
            loss: 0.1,
            ..start().all(4).straight().one().named("10 % loss")
        },
        flow_label(),
    ]);
    shapes
}

/// Two branches, one of them a hop longer.
fn uneven() -> Network {
    let mut network = Levels::new()
        .one()
        .all(2)
        .straight()
        .one()
        .one()
        .named("uneven length");
    // From the first node of the branch right to where they meet.
    network.nodes[2].next = vec![(6, 1.0)];
    network
}

/// Balancing per packet between two branches of so many hops.
fn per_packet(hops: usize) -> Network {
    let mut levels = Levels::new().one().all(2);
    for _ in 1..hops {
        levels = levels.straight();
    }
    let mut network = levels.one().one().named(&format!("per packet, {hops} hops"));
    network.nodes[1].per_packet = true;
    network
}

fn unequal(weights: &[f64]) -> Network {
    let mut network = Levels::new()
        .one()
        .all(weights.len())
        .one()
        .one()
        .named(&format!("unequal, {} ways", weights.len()));
    for (next, weight) in network.nodes[1].next.iter_mut().zip(weights) {
        next.1 = *weight;
    }
    network
}

fn silent_branch() -> Network {
    let mut network = Levels::new().one().all(2).straight().one().named("silent node");
    network.nodes[3].is_silent = true;
    network
}

fn flow_label() -> Network {
    let mut network = Levels::new().one().all(4).one().one().named("flow label only");
    network.nodes[1].hash = Hash::FlowLabel;
    network
}

/// A random network: up to eight levels of up to eight nodes, with links to the next level and past
/// it.
pub fn random(seed: u64) -> Network {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut levels: Vec<Vec<usize>> = vec![vec![0]];
    let mut count = 1;
    for _ in 0..rng.usize(2..=8) {
        let width = if rng.bool() { 1 } else { rng.usize(1..=8) };
        levels.push((count..count + width).collect());
        count += width;
    }
    levels.push(vec![count]);
    let mut nodes = vec![Node::default(); count + 1];
    for (index, level) in levels.iter().enumerate().take(levels.len() - 1) {
        let Some(further) = levels.get(index + 1) else {
            break;
        };
        let mut next: Vec<Vec<usize>> = vec![Vec::new(); level.len()];
        for to in further {
            next[rng.usize(..level.len())].push(*to);
        }
        for next in &mut next {
            let beyond = levels.get(index + 2).filter(|_| rng.f64() < 0.05);
            if next.is_empty() || rng.f64() < 0.2 {
                let to = *rng.choice(further).unwrap_or(&count);
                if !next.contains(&to) {
                    next.push(to);
                }
            }
            if let Some(to) = beyond.and_then(|level| rng.choice(level)) {
                next.push(*to);
            }
        }
        for (node, next) in level.iter().zip(next) {
            let weight = 1.0 / next.len() as f64;
            nodes[*node].next = next.into_iter().map(|to| (to, weight)).collect();
        }
    }
    Network {
        name: "random".to_owned(),
        nodes,
        loss: 0.0,
        changes_after: None,
    }
}
