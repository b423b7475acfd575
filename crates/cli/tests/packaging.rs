//! What the programs are packed into keeps to the rest of the repository.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use std::fs;

fn read(path: &str) -> String {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../");
    fs::read_to_string(format!("{root}{path}")).unwrap()
}

/// The servers' metrics ask for their token: nothing may announce them to those who do not bring
/// it.
#[test]
fn metrics_in_kubernetes_are_collected_with_the_token() {
    let servers = read("packaging/kubernetes/daemonset.yaml");
    let monitor = read("packaging/kubernetes/podmonitor.yaml");
    assert!(servers.contains("--token-file=") && !servers.contains("prometheus.io/scrape"));
    let (_, spec) = monitor.split_once("\nspec:\n").unwrap();
    let value = |key: &str| {
        let mut lines = spec.lines().map(|line| line.trim_start_matches([' ', '-']));
        lines.find_map(|line| line.strip_prefix(key)).unwrap().trim()
    };
    assert_eq!(value("path:"), "/metrics");
    let [label, port, secret, key] = ["app.kubernetes.io/name:", "port:", "name:", "key:"].map(value);
    for needed in [
        format!("labels:\n        app.kubernetes.io/name: {label}\n"),
        format!("- name: {port}\n              containerPort:"),
        format!("kind: Secret\nmetadata:\n  name: {secret}\n"),
        format!("stringData:\n  {key}: "),
    ] {
        assert!(servers.contains(&needed), "{needed}");
    }
}

/// The image that the examples pull is the one that a release pushes.
#[test]
fn images_in_kubernetes_are_those_that_are_released() {
    let script = read("scripts/release/image");
    let (_, name) = script.split_once("name=${IMAGE:-").unwrap();
    let (name, _) = name.split_once('}').unwrap();
    for example in ["daemonset", "sidecar"] {
        let text = read(&format!("packaging/kubernetes/{example}.yaml"));
        assert!(
            text.contains(&format!("          image: {name}:latest\n")),
            "{example}"
        );
    }
    assert!(read("README.md").contains(name));
}

/// Docker would copy gigabytes that were built outside it. Its patterns begin at the root, git's do
/// so with a slash only.
#[test]
fn what_git_ignores_is_no_part_of_the_image() {
    let ignored = read(".dockerignore");
    for pattern in read(".gitignore").lines().filter(|line| !line.starts_with('#')) {
        let pattern = if pattern.starts_with('/') {
            pattern.to_owned()
        } else {
            format!("**/{pattern}")
        };
        assert!(ignored.lines().any(|line| line == pattern), "{pattern}");
    }
    assert!(
        !ignored
            .lines()
            .any(|line| line.contains(".git") && !line.starts_with('#'))
    );
}
