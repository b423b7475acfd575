//! Bodies of the fuzz targets: each takes any bytes and panics when something is wrong.

use std::fmt::Debug;

use super::cases::Case;
use super::checks::{check, check_damaged, check_nameless, check_series};
use super::input::Input;
use super::paths;
use super::support::ms;

/// A target by its name, which is also the name of its corpus.
pub type Target = (&'static str, fn(&[u8]));

pub const ALL: [Target; 3] = [
    ("engine_runs", engine_runs),
    ("engine_series", engine_series),
    ("engine_paths", engine_paths),
];

/// Traceroute runs over a network and a machine. What is left of the bytes damages replies.
pub fn engine_runs(data: &[u8]) {
    let mut input = Input(data);
    let kind = input.byte();
    let case = Case::read(&mut input);
    let result = match kind % 4 {
        0 => check(&case),
        1 => check_nameless(&case, kind & 4 != 0, kind & 8 != 0),
        _ => check_damaged(&case, input),
    };
    assert_kept(&case, result);
}

/// A series of end-to-end probes.
pub fn engine_series(data: &[u8]) {
    let mut input = Input(data);
    let (count, interval, fixed) = (input.byte() % 40, 10 + input.u16() % 990, input.flag());
    let case = Case::read(&mut input);
    let plan = (count.into(), ms(interval.into()), fixed);
    assert_kept(&case, check_series(&case, &case.runs[0], plan));
}

/// A discovery of all paths: asked directly in any order, or by the engine over a graph.
pub fn engine_paths(data: &[u8]) {
    let mut input = Input(data);
    if input.flag() {
        paths::check_discovery(input);
    } else {
        paths::check_paths(input);
    }
}

fn assert_kept(case: &Case, result: Result<(), impl Debug>) {
    if let Err(problem) = result {
        panic!("{problem:?}\n{case:?}");
    }
}
