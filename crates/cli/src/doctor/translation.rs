//! Whether this host translates its own packets, and what that means for paths.

use std::io;

use datadog_traceroute::system::{Finding, Hook, NatChain, Subject, Translation, Verdict};

const SUBJECT: Subject = Subject::System("translation (NAT)");

/// How to see the rules.
const COMMAND: &str =
    "sudo nft list ruleset; sudo iptables-legacy -t nat -S; sudo ip6tables-legacy -t nat -S";

/// `is_raw`: probes go through raw sockets. `program` is its path.
pub(super) fn finding(translation: &Translation, is_raw: bool, program: &str) -> Finding {
    let Translation { chains, tables } = translation;
    let chains_found: &[NatChain] = chains.as_deref().unwrap_or_default();
    let mut found: Vec<String> = chains_found.iter().map(chain).collect();
    for (table, family) in tables.iter().zip(["IPv4", "IPv6"]) {
        if matches!(table, Ok(true)) {
            found.push(format!("the table \"nat\" of legacy iptables for {family}"));
        }
    }
    if !found.is_empty() {
        // Nobody has looked into the tables.
        let has_table = found.len() > chains_found.len();
        let has = |hook| has_table || chains_found.iter().any(|chain| chain.hook == hook);
        let text = format!(
            "this host may translate what it sends: {}. {}",
            found.join(", "),
            meaning(has(Hook::Output), has(Hook::Postrouting), is_raw)
        );
        return Finding::new(SUBJECT, Verdict::Notable, text).with_remedy(COMMAND);
    }
    let errors = [
        chains.as_ref().err(),
        tables[0].as_ref().err(),
        tables[1].as_ref().err(),
    ];
    match errors.into_iter().flatten().next() {
        None => {
            let text = "no rule translates what this host sends";
            Finding::new(SUBJECT, Verdict::Good, text)
        }
        Some(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let text = "cannot be known without CAP_NET_ADMIN: whether this host translates what it sends";
            Finding::new(SUBJECT, Verdict::Unknown, text).with_remedy(format!("sudo {program} doctor"))
        }
        Some(error) => {
            let text = format!("whether this host translates what it sends cannot be read: {error}");
            Finding::new(SUBJECT, Verdict::Unknown, text).with_remedy(COMMAND)
        }
    }
}

fn chain(chain: &NatChain) -> String {
    let hook = match chain.hook {
        Hook::Output => "output",
        Hook::Postrouting => "postrouting",
    };
    let rules = match chain.rules {
        1 => "1 rule".to_owned(),
        rules => format!("{rules} rules"),
    };
    format!("nftables chain \"{}\" ({hook}, {rules})", chain.name)
}

fn meaning(changes_target: bool, changes_source: bool, is_raw: bool) -> String {
    let mut sentences = Vec::new();
    if changes_source {
        sentences.push("Results show the source address before translation; routers see another.");
    }
    if changes_target {
        sentences.push("Probes may reach another target than the one named.");
    }
    sentences.push(match (is_raw, changes_target) {
        (true, _) => "Answers are read before and after translation, so hops are right.",
        (false, false) => "The kernel translates answers back, so hops are right.",
        (false, true) => {
            "Without raw sockets, routers on the way to a translated target show as the address that was probed."
        }
    });
    sentences.join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::system;
    use super::*;

    fn nat(hook: Hook, rules: u32) -> NatChain {
        NatChain {
            name: "ip nat OUT".to_owned(),
            hook,
            rules,
        }
    }

    fn text(chains: io::Result<Vec<NatChain>>, tables: [io::Result<bool>; 2], is_raw: bool) -> String {
        system(&[finding(&Translation { chains, tables }, is_raw, "/bin/x")])
    }

    #[test]
    fn translation_as_a_user_sees_it() {
        let no = || [Ok(false), Ok(false)];
        let refused = || io::Error::from(io::ErrorKind::PermissionDenied);
        let all = [
            text(Ok(Vec::new()), no(), true),
            text(Ok(vec![nat(Hook::Postrouting, 1)]), no(), true),
            text(Ok(vec![nat(Hook::Postrouting, 1)]), no(), false),
            text(
                Ok(vec![nat(Hook::Output, 2), nat(Hook::Postrouting, 3)]),
                no(),
                true,
            ),
            text(Ok(vec![nat(Hook::Output, 2)]), no(), false),
            text(Ok(Vec::new()), [Ok(true), Ok(false)], true),
            text(Err(refused()), [Err(refused()), Err(refused())], false),
            text(Err(refused()), [Ok(false), Ok(true)], true),
            text(Err(io::Error::other("odd")), no(), true),
        ];
        insta::assert_snapshot!("translation", all.concat());
    }
}
