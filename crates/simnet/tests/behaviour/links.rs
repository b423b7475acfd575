//! Loss, jitter, duplication, reordering.

use std::collections::BTreeSet;

use crate::lab::*;
use traceroute_simnet::Dropped;

fn pings(lab: &mut Lab, count: u16) -> Vec<Heard> {
    for sequence in 0..count {
        lab.send(&echo(TARGET, 1, sequence, 64));
    }
    lab.wait(ms(1000.0))
}

#[test]
fn loss_is_about_what_was_asked_for_and_counted() {
    let mut lab = Lab::new(&three("forward = { loss = 0.3 }", ""));
    let heard = pings(&mut lab, 2000);
    let lost = lab.counters("r2").dropped(Dropped::LostForward);
    assert_eq!(heard.len() as u64 + lost, 2000);
    assert!((500..700).contains(&lost), "{lost}");
    assert_eq!(lab.counters("r2").seen, 2000 - lost);
}

#[test]
fn loss_on_the_way_back_is_separate() {
    let mut lab = Lab::new(&three("back = { loss = 1 }", ""));
    assert!(pings(&mut lab, 10).is_empty());
    assert_eq!(lab.counters("target").answered, 10);
    assert_eq!(lab.counters("r2").dropped(Dropped::LostBack), 10);
    // The nearer router's replies do not cross that link.
    assert!(lab.ask_one(&udp(TARGET, 1, 1)).is_time_exceeded());
}

#[test]
fn chosen_packets_are_lost() {
    let mut lab = Lab::new(&three("forward = { lose = [1, 3] }", ""));
    let heard = pings(&mut lab, 4);
    assert_eq!(heard.iter().map(|heard| heard.cause).collect::<Vec<_>>(), [2, 4]);
}

#[test]
fn jitter_spreads_delays_but_keeps_the_order() {
    let mut lab = Lab::new(&three("forward = { jitter = 4 }", ""));
    let heard = pings(&mut lab, 200);
    assert!(heard.is_sorted_by_key(|heard| heard.cause));
    assert!(
        heard
            .iter()
            .all(|heard| heard.after >= ms(8.0) && heard.after < ms(12.0))
    );
    let delays: BTreeSet<_> = (0..100)
        .map(|_| lab.ask_one(&echo(TARGET, 1, 1, 64)).after)
        .collect();
    assert!(delays.len() > 90);
    assert!(*delays.last().unwrap() - *delays.first().unwrap() > ms(3.0));
}

#[test]
fn duplicates_are_identical() {
    let mut lab = Lab::new(&three("back = { duplicate = 1 }", ""));
    let heard = lab.ask(&echo(TARGET, 1, 7, 64));
    assert_eq!(heard.len(), 2);
    assert_eq!(heard[0].icmp().body, heard[1].icmp().body);
    assert_eq!(lab.counters("target").seen, 1);
    let mut lab = Lab::new(&three("forward = { duplicate = 1 }", ""));
    assert_eq!(lab.ask(&echo(TARGET, 1, 7, 64)).len(), 2);
    assert_eq!(lab.counters("target").seen, 2);
}

#[test]
fn reordered_packets_are_overtaken() {
    let mut lab = Lab::new(&three("forward = { reorder = 0.5, reorder_delay = 20 }", ""));
    let heard = pings(&mut lab, 100);
    assert_eq!(heard.len(), 100);
    let held = heard.iter().filter(|heard| heard.after == ms(28.0)).count();
    assert_eq!(
        held + heard.iter().filter(|heard| heard.after == ms(8.0)).count(),
        100
    );
    assert!((30..70).contains(&held), "{held}");
    assert!(!heard.is_sorted_by_key(|heard| heard.cause));
}

#[test]
fn the_seed_decides_everything() {
    let topology = three(
        "forward = { loss = 0.2, jitter = 5, reorder = 0.1, duplicate = 0.1 }",
        "",
    );
    let run = |seed| {
        let mut lab = Lab::with_seed(&topology, seed);
        format!("{:?}", pings(&mut lab, 100))
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}
