//! Topology files: all that come with the crate are right, and mistakes are named where they are.

use crate::lab::THREE;
use traceroute_simnet::{Network, Topology, examples};

#[test]
fn every_file_is_built_in_and_right() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/topologies");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    files.sort_unstable();
    let names: Vec<_> = examples().iter().map(|example| example.name).collect();
    assert_eq!(names, files);
    for example in examples() {
        let topology = example.topology().unwrap_or_else(|error| panic!("{error}"));
        assert!(!topology.target_addresses().is_empty(), "{}", example.name);
        assert!(example.text.starts_with("# "), "{}", example.name);
        Network::new(&topology, 1);
    }
}

#[test]
fn mistakes_are_named_where_they_are() {
    let hop = "[[hop]]\nname = \"r\"\nv4 = \"10.0.0.1\"\n";
    for (text, expected) in [
        ("[[hop]\n".to_owned(), "1:"),
        (format!("{hop}colour = 1\n"), "4:1: unknown field `colour`"),
        (format!("{hop}v6 = \"10.0.0.2\"\n"), "4:6: invalid IPv6 address"),
        (format!("{hop}delay = -1\n"), "4:9: milliseconds must be"),
        (format!("{hop}delay = nan\n"), "4:9: milliseconds must be"),
        (
            format!("{hop}forward = {{ loss = 1.5 }}\n"),
            "4:20: a chance must be",
        ),
        (
            format!("{hop}balance = \"luck\"\n"),
            "4:11: unknown variant `luck`",
        ),
        (format!("{hop}{hop}"), "5:8: r is already a hop's"),
        (
            format!("{hop}[[target]]\nv4 = \"10.0.0.1\"\n"),
            "5:6: 10.0.0.1 is already r's",
        ),
        (
            format!("{hop}[[target]]\nv4 = \"192.0.2.1\"\n"),
            "5:6: 192.0.2.1 is already the client's",
        ),
        (
            format!("{hop}[[target]]\nv4 = \"224.0.0.1\"\n"),
            "5:6: 224.0.0.1 is no address that a host",
        ),
        (
            format!("{hop}[[target]]\nv4 = \"10.0.0.2\"\nbehind = \"x\"\n"),
            "6:10: there is no hop x",
        ),
        (
            format!("{hop}[[target]]\necho = true\n"),
            "4:1: a target has neither",
        ),
        ("[[hop]]\nname = \"r\"\n".to_owned(), "2:8: r has neither"),
        (
            format!("{hop}balance = \"ports\"\n"),
            "2:8: r balances over fewer",
        ),
        (
            format!("{hop}[[hop.branch]]\n"),
            "2:8: r has branches but no balance",
        ),
        (format!("{hop}nat = {{}}\n"), "2:8: r's nat has neither"),
        (
            format!("{hop}icmp = {{ limit = \"bsd\" }}\n"),
            "4:18: unknown variant `bsd`",
        ),
        (
            format!("{hop}icmp = {{ limit = {{ interval = -1 }} }}\n"),
            "4:31: milliseconds must be",
        ),
        (
            format!("{hop}icmp = {{ limit = {{ rate = 1 }} }}\n"),
            "4:20: unknown field `rate`",
        ),
        (
            format!("{hop}icmp = {{ limit = {{ hz = 250 }} }}\n"),
            "4:18: a limit without kind",
        ),
        (
            format!("{hop}icmp = {{ limit = {{ kind = \"linux\", burst = 3 }} }}\n"),
            "4:18: a limit of kind linux has no",
        ),
        (
            format!("{hop}icmp = {{ limit = {{ kind = \"linux\", start = 7 }} }}\n"),
            "2:8: r: Linux's bucket holds 6",
        ),
        (
            format!("{hop}icmp = {{ limit = {{ burst = 3, start = 4 }} }}\n"),
            "2:8: r: a rate limit starts",
        ),
        (
            format!("{hop}icmp = {{ limit = \"linux\", unreachable_limit = {{}} }}\n"),
            "2:8: r: limit is for all errors",
        ),
        (
            format!("{hop}nat = {{ v4 = \"10.1.1.1\", translate_quotes = true, quotes = \"translated\" }}\n"),
            "2:8: r's nat has both quotes",
        ),
        (
            format!("{hop}nat = {{ v4 = \"10.1.1.1\", quotes = \"other\" }}\n"),
            "4:35: unknown variant `other`",
        ),
        (
            format!("{hop}flow_label = 1048576\n"),
            "2:8: r: an IPv6 flow label",
        ),
        (
            format!("{hop}flow_label = \"x\"\n"),
            "4:14: a flow label is a number",
        ),
        (format!("{hop}forge_udp = [0]\n"), "2:8: r: forge_udp counts"),
        (
            format!("{hop}block = [{{ answer = \"net\", code = 3 }}]\n"),
            "2:8: r: a block has both answer",
        ),
        (
            format!("{hop}block = [{{ code = 3, delay = 1, resolve = 3 }}]\n"),
            "2:8: r: a block has both delay",
        ),
        (
            format!("{hop}block = [{{ resolve = 3 }}]\n"),
            "2:8: r: a block that answers nothing",
        ),
        (
            format!("{hop}block = [{{ from_ttl = 0 }}]\n"),
            "2:8: r: from_ttl is at least 1",
        ),
        (
            format!("{hop}[[target]]\nv4 = \"10.0.0.2\"\nblock = [{{ code = 1, resolve = 3 }}]\n"),
            "4:1: resolve is for routers",
        ),
        (
            format!("{hop}icmp = {{ mpls = [{{ label = 1048576 }}] }}\n"),
            "2:8: r: an MPLS label",
        ),
        (
            format!("{hop}icmp = {{ unreachable_limit = {{ burst = 0 }} }}\n"),
            "2:8: r: a rate limit",
        ),
        (
            format!("{hop}[[target]]\nv4 = \"10.0.0.2\"\ntcp = {{ lose_syn_acks = 256 }}\n"),
            "6:25: invalid value: integer `256`, expected u8",
        ),
        (
            format!("{hop}[[target]]\nv4 = \"10.0.0.2\"\nicmp = {{ time_exceeded_limit = {{}} }}\n"),
            "4:1: a target sends no time-exceeded errors",
        ),
    ] {
        let error = Topology::parse("file.toml", &text).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("file.toml:{expected}")),
            "{error:?} for {text}"
        );
        assert!(!error.contains('\n'));
    }
}

#[test]
fn unreadable_files_are_errors() {
    let error = Topology::load("/nonexistent/topology.toml".as_ref()).unwrap_err();
    assert!(error.to_string().contains("cannot read"), "{error}");
}

#[test]
fn all_addresses_are_known() {
    let text = THREE.replace(
        "#MIDDLE#",
        "forge_echo_from = \"203.0.113.66\"\nicmp = { from_v4 = \"10.9.9.9\" }\nbalance = \"packet\"\n[[hop.branch]]\n\
         [[hop.branch]]\n[[hop.branch.hop]]\nname = \"b\"\nv4 = \"10.8.8.8\"",
    );
    let topology = Topology::parse("file.toml", &text).unwrap();
    let all: Vec<_> = topology
        .simulated_addresses()
        .iter()
        .map(ToString::to_string)
        .collect();
    for address in [
        "10.0.1.1",
        "203.0.113.66",
        "10.9.9.9",
        "10.8.8.8",
        "198.51.100.1",
        "2001:db8:3::1",
    ] {
        assert!(
            all.iter().any(|known| known == address),
            "{address} is missing in {all:?}"
        );
    }
    assert!(!all.iter().any(|known| known == "192.0.2.1"));
}

#[test]
fn the_guides_examples_are_right() {
    let guide = include_str!("../../../../docs/simulated-network.md");
    let blocks: Vec<_> = guide
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert_eq!(blocks.len(), 5);
    for block in blocks {
        Topology::parse("guide", block).unwrap_or_else(|error| panic!("{error}"));
    }
}
