//! Routing rules in words, and how probes can be made to follow them.

use std::fmt::Display;
use std::ops::RangeInclusive;

use datadog_traceroute::Family;
use datadog_traceroute::system::{
    Condition, DefaultRoute, Finding, Routes, Routing, RoutingAction, Rule, Subject, Verdict,
};

use super::routes::{hops, prefix};

/// Rules that are shown: some container networks have one for each container.
const MOST: usize = 8;

/// IP protocol numbers.
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// The interface by which "comes in" what this host sends itself.
const LOOPBACK: &str = "lo";

/// Routing tables with names (`/etc/iproute2/rt_tables`).
const TABLES: [(u32, &str); 3] = [(253, "default"), (254, "main"), (255, "local")];

/// `is_raw`: probes go through raw sockets.
pub(super) fn findings(family: Family, routing: &Routing, is_raw: bool) -> Vec<Finding> {
    let subject = Subject::System(match family {
        Family::V4 => "IPv4 routing rule",
        Family::V6 => "IPv6 routing rule",
    });
    let command = match family {
        Family::V4 => "ip -4 rule",
        Family::V6 => "ip -6 rule",
    };
    let rules = match &routing.rules {
        Ok(rules) => rules,
        Err(error) => {
            let text = format!("the rules cannot be read: {error}");
            return vec![Finding::new(subject, Verdict::Unknown, text).with_remedy(command)];
        }
    };
    let routes = routing.routes.as_ref().ok();
    let mut findings: Vec<Finding> = rules
        .iter()
        .take(MOST)
        .map(|rule| finding(subject, rule, routes, is_raw))
        .collect();
    if let Some(more) = rules.len().checked_sub(MOST).filter(|more| *more > 0) {
        let text = format!("{more} more rules with conditions");
        findings.push(Finding::new(subject, Verdict::Notable, text).with_remedy(command));
    }
    findings
}

fn finding(subject: Subject, rule: &Rule, routes: Option<&Routes>, is_raw: bool) -> Finding {
    let conditions: Vec<String> = rule.conditions.iter().map(condition).collect();
    let conditions = conditions.join(" ");
    let packets = if rule.is_inverted {
        format!("all packets except those {conditions}")
    } else {
        format!("packets {conditions}")
    };
    let (verdict, probes, remedy) = probes(rule, routes, is_raw);
    let text = format!(
        "{}: {packets} {}; {probes}",
        rule.priority,
        action(rule.action, routes)
    );
    Finding::new(subject, verdict, text).with_remedy(remedy)
}

fn condition(condition: &Condition) -> String {
    match condition {
        Condition::From(source) => format!("from {}", prefix(source)),
        Condition::To(target) => format!("to {}", prefix(target)),
        Condition::ComesIn(interface) if interface == LOOPBACK => "that this host sends".to_owned(),
        Condition::ComesIn(interface) => format!("that come in by {interface}"),
        Condition::BoundTo(interface) => format!("bound to {interface}"),
        Condition::Mark {
            value,
            mask: u32::MAX,
        } => format!("with mark {value:#x}"),
        Condition::Mark { value, mask } => format!("with mark {value:#x}/{mask:#x}"),
        Condition::Users(users) => numbered("of user", users),
        Condition::Protocol(number) => match protocol(*number) {
            Some(name) => format!("of {name}"),
            None => format!("of protocol {number}"),
        },
        Condition::SourcePorts(ports) => numbered("from port", ports),
        Condition::TargetPorts(ports) => numbered("to port", ports),
        Condition::TypeOfService(tos) => format!("with type of service {tos:#x}"),
        Condition::InVrf => "of a VRF".to_owned(),
        Condition::Unknown => "with a condition that this program does not know".to_owned(),
    }
}

/// `to port 80`, `to ports 80 to 90`
fn numbered<N: Display + PartialEq>(what: &str, range: &RangeInclusive<N>) -> String {
    let (first, last) = (range.start(), range.end());
    if first == last {
        format!("{what} {first}")
    } else {
        format!("{what}s {first} to {last}")
    }
}

fn protocol(number: u8) -> Option<&'static str> {
    Some(match number {
        ICMP => "ICMP",
        ICMPV6 => "ICMPv6",
        TCP => "TCP",
        UDP => "UDP",
        _ => return None,
    })
}

fn action(action: RoutingAction, routes: Option<&Routes>) -> String {
    match action {
        RoutingAction::Table(number) => {
            let named = TABLES.iter().find(|(table, _)| *table == number);
            let name = named.map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned());
            match default_of(number, routes) {
                Some(route) if named.is_none() => {
                    format!("take routing table {name} (by default {})", hops(route))
                }
                _ => format!("take routing table {name}"),
            }
        }
        RoutingAction::TableOfVrf => "take its routing table".to_owned(),
        RoutingAction::Refuse => "are refused".to_owned(),
        RoutingAction::GoTo(rule) => format!("go on with rule {rule}"),
        RoutingAction::Other => "are treated specially".to_owned(),
    }
}

fn default_of(table: u32, routes: Option<&Routes>) -> Option<&DefaultRoute> {
    routes?.default.iter().find(|route| route.table == table)
}

/// How a probe meets a condition.
enum Meets {
    /// It does, or does not, and nobody can choose.
    ByItself,
    /// With this flag.
    With(String),
    /// When the program is run so.
    RunAs(String),
    /// Not at all.
    Never(&'static str),
    /// Nobody knows.
    Unknown,
}

fn meets(condition: &Condition) -> Meets {
    match condition {
        Condition::From(source) => Meets::With(match prefix(source) {
            network if network.contains('/') => format!("--source ADDRESS (in {network})"),
            address => format!("--source {address}"),
        }),
        // Without the flag, probes have the mark 0.
        Condition::To(_) | Condition::SourcePorts(_) | Condition::Mark { value: 0, .. } => Meets::ByItself,
        Condition::ComesIn(interface) if interface == LOOPBACK => Meets::ByItself,
        Condition::ComesIn(_) => Meets::Never("it is for packets that this host forwards"),
        Condition::BoundTo(interface) => Meets::With(format!("--interface {interface}")),
        Condition::Mark { value, .. } => Meets::With(format!("--fwmark {value:#x}")),
        Condition::Users(users) => Meets::RunAs(numbered("user", users)),
        Condition::Protocol(number) => match *number {
            ICMP | ICMPV6 => Meets::With("-P icmp".to_owned()),
            TCP => Meets::With("-P tcp".to_owned()),
            UDP => Meets::With("-P udp".to_owned()),
            _ => Meets::Never("no probe is of that protocol"),
        },
        Condition::TargetPorts(ports) => Meets::With(format!("-p {}", ports.start())),
        Condition::TypeOfService(_) => {
            Meets::Never("their routes are looked up without a type of service, even with --tos or --dscp")
        }
        Condition::InVrf => Meets::With("--interface NAME (of the VRF)".to_owned()),
        Condition::Unknown => Meets::Unknown,
    }
}

/// Whether probes follow a rule, and what to do to make them, or to keep them from it.
fn probes(rule: &Rule, routes: Option<&Routes>, is_raw: bool) -> (Verdict, String, String) {
    let (mut flags, mut run_as, mut never) = (Vec::new(), String::new(), None);
    for condition in &rule.conditions {
        match meets(condition) {
            Meets::ByItself => {}
            Meets::With(flag) => flags.push(flag),
            Meets::RunAs(user) => run_as = format!(" as {user}"),
            Meets::Never(why) => never = never.or(Some(why)),
            Meets::Unknown => {
                return (
                    Verdict::Unknown,
                    "whether probes follow it is not known".to_owned(),
                    String::new(),
                );
            }
        }
    }
    let flags = flags.join(" ");
    let run = match (&*run_as, &*flags) {
        ("", "") => String::new(),
        ("", flags) => flags.to_owned(),
        (_, "") => format!("run{run_as}"),
        (_, flags) => format!("run{run_as}, {flags}"),
    };
    let (probes, remedy) = match (never, rule.is_inverted) {
        // These sockets have the type of service, but their source was chosen without it.
        (Some(_), _) if depends_on_tos(rule) && !is_raw => (
            "probes with --tos or --dscp meet it, but their source address is chosen without it, so answers may be \
             lost"
                .to_owned(),
            around(rule, routes),
        ),
        (Some(why), false) => (format!("probes do not follow it: {why}"), around(rule, routes)),
        (Some(why), true) => (format!("all probes follow it: {why}"), String::new()),
        (None, false) if rule.action == RoutingAction::Refuse => ("so are such probes".to_owned(), String::new()),
        (None, false) => (follow(rule), way(&run, "to probe that way")),
        (None, true) => (
            "probes follow it unless they are such packets".to_owned(),
            way(&run, "to probe another way"),
        ),
    };
    (Verdict::Notable, probes, remedy)
}

fn way(run: &str, what: &str) -> String {
    if run.is_empty() {
        String::new()
    } else {
        format!("{what}: {run}")
    }
}

/// How to see the way of packets that probes cannot be like.
fn around(rule: &Rule, routes: Option<&Routes>) -> String {
    if !depends_on_tos(rule) {
        return String::new();
    }
    let hop = match rule.action {
        RoutingAction::Table(number) => default_of(number, routes).and_then(|route| route.hops.first()),
        _ => None,
    };
    let name = hop.map_or("NAME", |hop| &hop.interface);
    format!("to probe that way: --interface {name}, or a rule for a mark and --fwmark")
}

fn depends_on_tos(rule: &Rule) -> bool {
    let is_tos = |condition: &Condition| matches!(condition, Condition::TypeOfService(_));
    rule.conditions.iter().any(is_tos)
}

fn follow(rule: &Rule) -> String {
    let has = |wanted: fn(&Condition) -> bool| rule.conditions.iter().any(wanted);
    if has(|condition| matches!(condition, Condition::SourcePorts(_))) {
        return "probes from such a port follow it, and their ports are random".to_owned();
    }
    let is_tcp = !has(|condition| matches!(condition, Condition::Protocol(number) if *number != TCP));
    if is_tcp && has(|condition| matches!(condition, Condition::TargetPorts(_))) {
        return "such probes follow it, but TCP SACK cannot if the main table has no route by its gateway"
            .to_owned();
    }
    if has(|condition| matches!(condition, Condition::Users(_))) {
        return "probes are of the user who runs the program, root under sudo".to_owned();
    }
    "such probes follow it".to_owned()
}

#[cfg(test)]
mod tests {
    use std::io;

    use datadog_traceroute::system::{NextHop, Prefix};

    use super::super::system;
    use super::*;

    fn rule(priority: u32, conditions: Vec<Condition>) -> Rule {
        Rule {
            priority,
            conditions,
            is_inverted: false,
            action: RoutingAction::Table(100),
        }
    }

    fn except(conditions: Vec<Condition>) -> Rule {
        Rule {
            is_inverted: true,
            ..rule(5, conditions)
        }
    }

    fn routing(rules: io::Result<Vec<Rule>>) -> Routing {
        let hop = NextHop {
            interface: "eth1".to_owned(),
            gateway: Some([10, 8, 0, 2].into()),
            is_dead: false,
        };
        let default = DefaultRoute {
            table: 100,
            metric: 0,
            hops: vec![hop],
        };
        Routing {
            source: None,
            rules,
            routes: Ok(Routes {
                default: vec![default],
                onward: Vec::new(),
            }),
            hash_policy: None,
        }
    }

    fn from(length: u8) -> Condition {
        Condition::From(Prefix {
            address: [10, 8, 0, 0].into(),
            length,
        })
    }

    fn show(rules: Vec<Rule>, is_raw: bool) -> String {
        // Each by itself: more than a few are only counted.
        let texts = rules
            .into_iter()
            .map(|rule| system(&findings(Family::V4, &routing(Ok(vec![rule])), is_raw)));
        texts.collect()
    }

    #[test]
    fn rules_as_a_user_sees_them() {
        let mark = |value, mask| Condition::Mark { value, mask };
        let other = |action| Rule {
            action,
            ..rule(9, vec![from(32)])
        };
        let rules = vec![
            rule(1, vec![from(32)]),
            rule(
                1,
                vec![
                    from(24),
                    Condition::To(Prefix {
                        address: [10, 0, 0, 0].into(),
                        length: 8,
                    }),
                ],
            ),
            rule(2, vec![Condition::Protocol(UDP)]),
            rule(2, vec![Condition::Protocol(ICMP)]),
            rule(2, vec![Condition::Protocol(47)]),
            rule(3, vec![Condition::Protocol(TCP), Condition::TargetPorts(80..=80)]),
            rule(3, vec![Condition::Protocol(UDP), Condition::TargetPorts(53..=60)]),
            rule(3, vec![Condition::SourcePorts(1024..=2048)]),
            rule(4, vec![mark(5, u32::MAX)]),
            rule(4, vec![mark(0x10, 0xf0), from(32)]),
            rule(4, vec![mark(0, 0xff)]),
            except(vec![mark(0xca6c, u32::MAX)]),
            except(vec![Condition::TypeOfService(0x10)]),
            rule(6, vec![Condition::Users(1000..=1000)]),
            rule(6, vec![Condition::Users(0..=999), mark(7, u32::MAX)]),
            rule(7, vec![Condition::ComesIn("eth0".to_owned())]),
            rule(7, vec![Condition::ComesIn("lo".to_owned())]),
            rule(7, vec![Condition::BoundTo("eth1".to_owned())]),
            rule(8, vec![Condition::TypeOfService(0x10)]),
            Rule {
                action: RoutingAction::TableOfVrf,
                ..rule(1000, vec![Condition::InVrf])
            },
            rule(9, vec![Condition::Unknown]),
            other(RoutingAction::Table(254)),
            other(RoutingAction::Table(7)),
            other(RoutingAction::Refuse),
            other(RoutingAction::GoTo(40)),
            other(RoutingAction::Other),
        ];
        insta::assert_snapshot!("rules", show(rules, true));
        let tos = || vec![Condition::TypeOfService(0x10)];
        let ordinary = show(vec![rule(8, tos()), except(tos())], false);
        insta::assert_snapshot!("rules_for_ordinary_sockets", ordinary);
    }

    #[test]
    fn many_rules_are_counted() {
        let rules = (0..20).map(|priority| rule(priority, vec![from(32)])).collect();
        let found = findings(Family::V6, &routing(Ok(rules)), true);
        assert_eq!(found.len(), MOST + 1);
        assert_eq!(
            system(&found[MOST..]),
            "  IPv6 routing rule [note]: 12 more rules with conditions\n    -> ip -6 rule\n"
        );
    }

    #[test]
    fn rules_that_cannot_be_read_are_unknown() {
        let refused = Err(io::ErrorKind::PermissionDenied.into());
        let found = findings(Family::V4, &routing(refused), true);
        assert_eq!(found[0].verdict, Verdict::Unknown);
        assert!(findings(Family::V4, &routing(Ok(Vec::new())), true).is_empty());
    }
}
