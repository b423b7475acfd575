//! Every scenario in memory, and the table in the documentation.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use traceroute_scenarios::{Family, Method, Outcome, Scenario, memory, report, table};

fn outcomes(scenario: &Scenario) -> Vec<(Method, Family, Outcome)> {
    let mut outcomes = Vec::new();
    for method in Method::ALL {
        for family in [Family::V4, Family::V6] {
            if scenario.expectation(method, family).is_some() {
                let outcome = memory::run(scenario, method, family, &|| None).unwrap();
                outcomes.push((method, family, outcome));
            }
        }
    }
    outcomes
}

/// Known defects: what should come out there does not yet.
const OPEN_DEFECTS: [(&str, Method); 1] = [("lossy", Method::Udp)];

#[test]
fn scenarios_come_out_as_expected_and_as_documented() {
    let mut wrong = Vec::new();
    let mut all = Vec::new();
    for scenario in table::scenarios() {
        let outcomes = outcomes(&scenario);
        for (method, family, outcome) in &outcomes {
            let expect = scenario.expectation(*method, *family).unwrap();
            if let Err(difference) = expect.check(&scenario, outcome)
                && !OPEN_DEFECTS.contains(&(scenario.name, *method))
            {
                wrong.push(format!("{} {method:?} {family:?}: {difference}", scenario.name));
            }
        }
        all.push((scenario, outcomes));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    compare(&report::document(&all));
}

fn compare(document: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/adversities.md");
    if std::env::var_os("UPDATE_ADVERSITIES").is_some() {
        std::fs::write(&path, document).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    for (number, (committed, generated)) in (1..).zip(committed.lines().zip(document.lines())) {
        assert_eq!(
            committed, generated,
            "docs/adversities.md:{number} is not what the suite generates"
        );
    }
    assert_eq!(committed.lines().count(), document.lines().count());
}

#[test]
fn every_scenario_says_something_of_every_method_and_family() {
    for scenario in table::scenarios() {
        for method in Method::ALL {
            for family in [Family::V4, Family::V6] {
                let said = scenario.expectation(method, family).is_some();
                assert!(
                    said || scenario.left_out(method, family).is_some(),
                    "{} {method:?} {family:?}: neither an expectation nor why there is none",
                    scenario.name
                );
            }
        }
    }
}

#[test]
fn names_are_unique() {
    let mut names: Vec<_> = table::scenarios().iter().map(|scenario| scenario.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

/// The same seed gives the same result, to the nanosecond.
#[test]
fn runs_repeat_exactly() {
    for scenario in &table::scenarios() {
        let first = format!("{:?}", outcomes(scenario));
        assert_eq!(first, format!("{:?}", outcomes(scenario)));
    }
}
