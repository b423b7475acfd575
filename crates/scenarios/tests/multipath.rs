//! A short version of `just multipath`.

use traceroute_engine::multipath::Control;
use traceroute_scenarios::multipath::{HEADING, Network, Tally, random, shapes};

const RUNS: u64 = 100;

fn named(name: &str) -> Network {
    let found = shapes().into_iter().find(|network| network.name == name);
    found.unwrap_or_else(|| panic!("no shape is called {name}"))
}

#[test]
fn no_shape_is_missed_more_often_than_stated_and_no_link_is_made_up() {
    for control in [Control::Shared, Control::Each] {
        for network in shapes() {
            let tally = Tally::of(&network, control, 0..RUNS);
            assert!(tally.is_good(), "{control:?}\n{HEADING}\n{tally}");
        }
        for seed in 0..RUNS {
            let tally = Tally::of(&random(seed), control, seed..seed + 2);
            assert_eq!(
                tally.wrong, 0,
                "{control:?}, random network {seed}\n{HEADING}\n{tally}"
            );
        }
    }
}

#[test]
fn a_path_without_balancing_costs_at_most_eight_probes_for_each_hop() {
    let tally = Tally::of(&named("no balancing, 11 hops"), Control::Shared, 0..RUNS);
    assert!(tally.probes <= 8 * 11 * RUNS, "{tally}");
}

#[test]
fn nodes_that_share_what_may_be_missed_cost_less_than_each_by_itself() {
    for name in ["diamond of 16", "diamond of 4, long", "nested 2×3"] {
        let cost = |control| Tally::of(&named(name), control, 0..RUNS).probes;
        assert!(cost(Control::Shared) < cost(Control::Each), "{name}");
    }
}

#[test]
fn a_path_that_changes_meanwhile_is_said_to() {
    let mut network = named("diamond of 4, long");
    network.changes_after = Some(60);
    let tally = Tally::of(&network, Control::Shared, 0..RUNS);
    assert!(tally.changed >= 99, "{tally}: {}", tally.changed);
    network.changes_after = None;
    assert_eq!(Tally::of(&network, Control::Shared, 0..RUNS).changed, 0);
}
