//! The documentation keeps to the code: links lead somewhere, and `docs/conformance.md` names tests
//! that there are.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use std::fs;
use std::path::{Path, PathBuf};

/// What a row of the conformance table may have in its last column.
const STATUSES: [&str; 5] = [
    "proven here",
    "proven under Wine",
    "lint and link only",
    "needs a hosted runner",
    "needs a real machine",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// The documents, from the repository's root.
fn documents() -> Vec<PathBuf> {
    let is_document = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "md");
    [root(), root().join("docs"), root().join("fuzz")]
        .into_iter()
        .flat_map(|directory| fs::read_dir(directory).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(is_document)
        .collect()
}

/// `[text](target)`.
#[derive(Debug, PartialEq)]
struct Link<'t> {
    text: &'t str,
    target: &'t str,
}

fn links(text: &str) -> Vec<Link<'_>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("](") {
        let text = rest[..at].rsplit('[').next().unwrap();
        let after = &rest[at + 2..];
        let Some((target, behind)) = after.split_once(')') else {
            break;
        };
        found.push(Link { text, target });
        rest = behind;
    }
    found
}

/// What stands outside fenced blocks.
fn prose(text: &str) -> String {
    let mut fenced = false;
    let lines = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// How headings are addressed: lower case, dashes for spaces, no punctuation.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|heading| {
            let heading = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = heading
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

#[test]
fn links_lead_somewhere() {
    let mut count = 0;
    let mut broken = Vec::new();
    for document in documents() {
        let text = prose(&fs::read_to_string(&document).unwrap());
        for link in links(&text) {
            if link.target.contains("://") || link.target.starts_with("mailto:") {
                continue;
            }
            count += 1;
            let (path, anchor) = link.target.split_once('#').unwrap_or((link.target, ""));
            let file = if path.is_empty() {
                document.clone()
            } else {
                document.parent().unwrap().join(path)
            };
            let found = file.exists()
                && (anchor.is_empty()
                    || anchors(&prose(&fs::read_to_string(&file).unwrap()))
                        .iter()
                        .any(|found| found == anchor));
            if !found {
                broken.push(format!("{}: {link:?}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(count > 100, "only {count} links found");
}

/// Which other tests read and write.
#[test]
fn the_golden_example_is_the_contracts() {
    let contract = fs::read_to_string(root().join("docs/contract.md")).unwrap();
    let (_, example) = contract
        .split_once("### Golden JSON Example\n\n```json\n")
        .unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let golden = fs::read_to_string(root().join("crates/traceroute/tests/golden/report.json")).unwrap();
    assert_eq!(golden.trim_end(), example.trim_end());
}

/// What is wrong with a reference to the test `name` in `source`.
fn problem(source: &str, name: &str) -> Option<&'static str> {
    let signature = format!("fn {name}(");
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let Some(at) = lines.iter().position(|line| {
        line.strip_prefix("async ")
            .unwrap_or(line)
            .starts_with(&signature)
    }) else {
        return Some("is not there");
    };
    let attributes: Vec<&str> = lines[..at]
        .iter()
        .rev()
        .take_while(|line| line.starts_with("#[") || line.starts_with("//"))
        .copied()
        .collect();
    let is_test = |line: &&str| *line == "#[test]" || line.starts_with("#[tokio::test");
    if !attributes.iter().any(is_test) {
        return Some("is no test");
    }
    let is_ignored = attributes.iter().any(|line| line.starts_with("#[ignore"));
    is_ignored.then_some("is ignored")
}

/// Rows of the tables whose last column is a status: the rule, the tests, the status.
fn rows(text: &str) -> Vec<[&str; 3]> {
    text.lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .filter_map(|line| {
            let (rest, status) = line.rsplit_once(" | ")?;
            let (rule, tests) = rest.rsplit_once(" | ").unwrap_or((rest, ""));
            (status != "status").then_some([rule, tests, status])
        })
        .collect()
}

#[test]
fn the_conformance_table_names_tests_that_there_are() {
    let directory = root().join("docs");
    let text = fs::read_to_string(directory.join("conformance.md")).unwrap();
    let (_, tables) = text.split_once("\n## Command line\n").unwrap();
    let mut wrong = Vec::new();
    let mut named = 0;
    for [rule, tests, status] in rows(tables) {
        if !STATUSES.contains(&status) {
            wrong.push(format!("{rule}: unknown status {status:?}"));
        }
        let mut proofs = 0;
        for link in links(tests) {
            let file = directory.join(link.target);
            let Ok(source) = fs::read_to_string(&file) else {
                wrong.push(format!("{rule}: no file {}", link.target));
                continue;
            };
            let name = link.text.trim_matches('`');
            if file.extension().is_none_or(|extension| extension != "rs") {
                // A script; what it checks is for the reader to see.
                proofs += usize::from(status != "proven here");
                continue;
            }
            named += 1;
            match problem(&source, name) {
                None if status == "proven here" && link.target.contains("net/src/windows/") => {
                    wrong.push(format!("{rule}: {name} runs on Windows only"));
                }
                None => proofs += 1,
                Some(problem) => wrong.push(format!("{rule}: {name} in {} {problem}", link.target)),
            }
        }
        if proofs == 0 && status.starts_with("proven") {
            wrong.push(format!("{rule}: nothing proves it"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(named > 100, "only {named} tests named");
}

/// Elsewhere a link whose text is a test's name means that test: `name_with_underscores` in a
/// source file.
#[test]
fn tests_named_elsewhere_exist() {
    let mut wrong = Vec::new();
    let mut named = 0;
    for name in ["todo.md", "guide.md", "scaling.md", "server.md"] {
        let directory = root().join("docs");
        let text = prose(&fs::read_to_string(directory.join(name)).unwrap());
        for link in links(&text) {
            let Some(test) = link
                .text
                .strip_prefix('`')
                .and_then(|text| text.strip_suffix('`'))
            else {
                continue;
            };
            let is_test = test.contains('_') && test.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            let file = directory.join(link.target);
            if !is_test || file.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            named += 1;
            let source = fs::read_to_string(file).unwrap();
            if let Some(problem) = problem(&source, test) {
                wrong.push(format!("{name}: {test} in {} {problem}", link.target));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(named > 5, "only {named} tests named");
}

/// The checks above are only worth something if they fail when they should.
#[test]
fn missing_and_ignored_tests_are_noticed() {
    let source = "#[test]\nfn one() {}\n\n/// Why.\n#[test]\n#[ignore = \"slow\"]\nfn two() {}\n\
                  fn three() {}\n    #[tokio::test(start_paused = true)]\n    async fn four() {}\n";
    assert_eq!(problem(source, "one"), None);
    assert_eq!(problem(source, "two"), Some("is ignored"));
    assert_eq!(problem(source, "three"), Some("is no test"));
    assert_eq!(problem(source, "four"), None);
    assert_eq!(problem(source, "on"), Some("is not there"));
    let table = "| rule | tests | status |\n|---|---|---|\n| a `x | y` | [`one`](../a.rs), [two](b#c) | proven here |\n";
    let rows = rows(table);
    assert_eq!(
        rows,
        [["a `x | y`", "[`one`](../a.rs), [two](b#c)", "proven here"]]
    );
    let [first, second] = &links(rows[0][1])[..] else {
        panic!("{rows:?}")
    };
    assert_eq!((first.text, first.target), ("`one`", "../a.rs"));
    assert_eq!((second.text, second.target), ("two", "b#c"));
    assert_eq!(anchors("# A b: `c-d`\ntext\n## E"), ["a-b-c-d", "e"]);
    assert_eq!(prose("a\n```\n[x](y)\n```\nb"), "a\nb");
}
