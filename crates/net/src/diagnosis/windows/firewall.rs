//! What Windows Firewall lets in. It drops `ICMPv4` errors before raw sockets see them, unless a
//! rule says otherwise: then only the last hop of a path shows. What the ICMP API and connects ask
//! for it lets through.
//!
//! Rules are read as \[MS-GPFAS\] §2.2.2 writes them:
//! `v2.30|Action=Allow|Active=TRUE|Dir=In|Protocol=1|ICMP4=11:*|Name=…|`.

use super::super::{Finding, Subject, Verdict};

/// Networks are of one of three kinds, each with its own settings.
const PROFILES: [&str; 3] = ["Domain", "Private", "Public"];
/// What hops and targets answer with.
const NEEDED: [Message; 2] = [
    Message {
        kind: 11,
        code: 0,
        name: "time exceeded",
    },
    Message {
        kind: 3,
        code: 3,
        name: "port unreachable",
    },
];
/// Such fields narrow a rule down to some programs, addresses or interfaces, so it does not count
/// as letting all in.
const NARROWING: [&str; 12] = [
    "App", "Svc", "LA4", "RA4", "LA42", "RA42", "IF", "IFType", "LUAuth", "RUAuth", "RMauth", "LUOwn",
];
/// A program of Windows for all that is no program's, as ICMP is not.
const ANY_PROGRAM: &str = "System";
const ICMP: &str = "1";
const ALLOW_ERRORS: &str = "powershell New-NetFirewallRule -DisplayName 'ICMPv4 errors' -Direction Inbound -Protocol \
                            ICMPv4 -IcmpType 3,11 -Action Allow";

/// What group policies say, which goes before what the host itself has set.
const POLICY: &str = r"SOFTWARE\Policies\Microsoft\WindowsFirewall";
/// The keys of [`PROFILES`] there.
const POLICY_PROFILES: [&str; PROFILES.len()] = ["DomainProfile", "PrivateProfile", "PublicProfile"];
/// What the host itself has set.
const OWN: &str = r"SYSTEM\CurrentControlSet\Services\SharedAccess\Parameters\FirewallPolicy";
/// There private networks have the name that they had in Windows XP.
const OWN_PROFILES: [&str; PROFILES.len()] = ["DomainProfile", "StandardProfile", "PublicProfile"];

/// Settings and rules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Firewall {
    /// Settings for `Domain`, `Private` and `Public` networks.
    profiles: [Profile; PROFILES.len()],
    /// Rules of group policies.
    policy_rules: Vec<String>,
    /// The host's own.
    own_rules: Vec<String>,
}

/// Settings for one kind of networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Profile {
    is_on: bool,
    /// Only rules of group policies count.
    ignores_own_rules: bool,
}

/// An ICMP message.
#[derive(Debug, Clone, Copy)]
struct Message {
    kind: u8,
    code: u8,
    name: &'static str,
}

/// `None`: the settings cannot be read.
pub(super) fn finding(firewall: Option<&Firewall>) -> Finding {
    let subject = Subject::System("firewall");
    let Some(firewall) = firewall else {
        let text = "its settings cannot be read; if only the last hop answers, it drops ICMP errors";
        return Finding::new(subject, Verdict::Unknown, text).with_remedy(ALLOW_ERRORS);
    };
    if firewall.profiles.iter().all(|profile| !profile.is_on) {
        return Finding::new(subject, Verdict::Good, "Windows Firewall is off");
    }
    let dropping: Vec<String> = NEEDED
        .iter()
        .filter_map(|message| firewall.drops(*message))
        .collect();
    if dropping.is_empty() {
        return Finding::new(subject, Verdict::Good, "Windows Firewall lets ICMP errors in");
    }
    let text = format!(
        "Windows Firewall drops ICMPv4 {}: raw sockets miss hops",
        dropping.join(", ")
    );
    Finding::new(subject, Verdict::Limited, text).with_remedy(ALLOW_ERRORS)
}

impl Firewall {
    /// Reads the registry of this computer: `number` gives a value by its key and name, `texts` all
    /// texts of a key. `None`: not to be had.
    pub(crate) fn read(
        number: impl Fn(&str, &str) -> Option<u32>,
        texts: impl Fn(&str) -> Vec<String>,
    ) -> Option<Self> {
        let mut profiles = [Profile::default(); PROFILES.len()];
        for (profile, (policy, own)) in profiles.iter_mut().zip(POLICY_PROFILES.iter().zip(OWN_PROFILES)) {
            let policy = format!(r"{POLICY}\{policy}");
            let own = format!(r"{OWN}\{own}");
            let is_on = number(&policy, "EnableFirewall").or_else(|| number(&own, "EnableFirewall"))?;
            *profile = Profile {
                is_on: is_on != 0,
                ignores_own_rules: number(&policy, "AllowLocalPolicyMerge") == Some(0),
            };
        }
        let rules = |root: &str| texts(&format!(r"{root}\FirewallRules"));
        Some(Firewall {
            profiles,
            policy_rules: rules(POLICY),
            own_rules: rules(OWN),
        })
    }

    /// The message and the kinds of networks in which it is dropped, in words.
    fn drops(&self, message: Message) -> Option<String> {
        let policy = inbound(&self.policy_rules);
        let own = inbound(&self.own_rules);
        let is_dropped = |name: &str, profile: Profile| {
            let own = if profile.ignores_own_rules {
                &[]
            } else {
                own.as_slice()
            };
            let about = || {
                policy
                    .iter()
                    .chain(own)
                    .filter(|rule| rule.is_about(message, name))
            };
            // A rule that blocks something goes before those that allow it.
            about().any(|rule| !rule.allows) || !about().any(FirewallRule::lets_all_in)
        };
        let profiles: Vec<&str> = PROFILES
            .into_iter()
            .zip(self.profiles)
            .filter(|(name, profile)| profile.is_on && is_dropped(name, *profile))
            .map(|(name, _)| name)
            .collect();
        (!profiles.is_empty()).then(|| format!("{} ({} networks)", message.name, profiles.join("/")))
    }
}

fn inbound(rules: &[String]) -> Vec<FirewallRule<'_>> {
    rules
        .iter()
        .filter_map(|rule| FirewallRule::inbound(rule))
        .collect()
}

/// An active rule for inbound packets.
struct FirewallRule<'r> {
    allows: bool,
    fields: Vec<(&'r str, &'r str)>,
}

impl<'r> FirewallRule<'r> {
    fn inbound(text: &'r str) -> Option<Self> {
        let fields: Vec<_> = text
            .split('|')
            .filter_map(|field| field.split_once('='))
            .collect();
        let is = |name, value: &str| fields.contains(&(name, value));
        let active = is("Active", "TRUE") && is("Dir", "In");
        let allows = is("Action", "Allow");
        (active && (allows || is("Action", "Block"))).then_some(FirewallRule { allows, fields })
    }

    fn values<'f>(&'f self, name: &'f str) -> impl Iterator<Item = &'r str> + 'f {
        let fields = self.fields.iter();
        fields
            .filter(move |(field, _)| *field == name)
            .map(|(_, value)| *value)
    }

    /// Without such a field, all of them.
    fn has_or_all(&self, name: &str, is_it: impl Fn(&str) -> bool) -> bool {
        let mut values = self.values(name).peekable();
        values.peek().is_none() || values.any(is_it)
    }

    /// Whether the rule is about some such messages.
    fn is_about(&self, message: Message, profile: &str) -> bool {
        self.has_or_all("Protocol", |value| value == ICMP)
            && self.has_or_all("Profile", |value| value == profile)
            && self.has_or_all("ICMP4", |value| message.is_meant_by(value))
    }

    fn lets_all_in(&self) -> bool {
        let is_narrow = |(name, value): &(&str, &str)| NARROWING.contains(name) && *value != ANY_PROGRAM;
        self.allows && !self.fields.iter().any(is_narrow)
    }
}

impl Message {
    /// `11:*`, `3:4` or `11`.
    fn is_meant_by(self, value: &str) -> bool {
        let (kind, code) = value.split_once(':').unwrap_or((value, "*"));
        kind == self.kind.to_string() && (code == "*" || code == self.code.to_string())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL_PROFILES: [bool; 3] = [true; 3];
    const TIME_EXCEEDED: &str = "v2.30|Action=Allow|Active=TRUE|Dir=In|Protocol=1|ICMP4=11:*|Name=a|";
    const UNREACHABLE: &str = "v2.30|Action=Allow|Active=TRUE|Dir=In|Protocol=1|ICMP4=3:*|Name=b|";
    /// Windows has it from the beginning.
    const TOO_BIG: &str =
        "v2.31|Action=Allow|Active=TRUE|Dir=In|Protocol=1|ICMP4=3:4|App=System|Name=@FirewallAPI.dll,-25110|";

    fn verdict(is_on: [bool; 3], rules: &[&str]) -> Verdict {
        verdict_and_text(is_on, rules).0
    }

    fn verdict_and_text(is_on: [bool; 3], rules: &[&str]) -> (Verdict, String) {
        let firewall = Firewall {
            profiles: is_on.map(|is_on| Profile {
                is_on,
                ignores_own_rules: false,
            }),
            policy_rules: Vec::new(),
            own_rules: rules.iter().map(|rule| (*rule).to_owned()).collect(),
        };
        let finding = finding(Some(&firewall));
        assert_eq!(finding.remedy.is_empty(), finding.verdict == Verdict::Good);
        (finding.verdict, finding.text)
    }

    #[test]
    fn a_fresh_windows_drops_errors_and_the_remedy_is_one_command() {
        let (verdict, text) = verdict_and_text(ALL_PROFILES, &[TOO_BIG]);
        assert_eq!(verdict, Verdict::Limited);
        assert_eq!(
            text,
            "Windows Firewall drops ICMPv4 time exceeded (Domain/Private/Public networks), port unreachable \
             (Domain/Private/Public networks): raw sockets miss hops"
        );
        assert!(ALLOW_ERRORS.contains("-IcmpType 3,11") && !ALLOW_ERRORS.contains('\n'));
    }

    #[test]
    fn rules_that_let_errors_in_are_found() {
        assert_eq!(
            verdict(ALL_PROFILES, &[TIME_EXCEEDED, UNREACHABLE]),
            Verdict::Good
        );
        let both = "v2.30|Action=Allow|Active=TRUE|Dir=In|Protocol=1|ICMP4=3:*|ICMP4=11:*|Name=a|";
        assert_eq!(verdict(ALL_PROFILES, &[both]), Verdict::Good);
        for all in [
            "v2.30|Action=Allow|Active=TRUE|Dir=In|Protocol=1|Name=all of ICMP|",
            "v2.30|Action=Allow|Active=TRUE|Dir=In|Name=everything|",
            "v2.30|Action=Allow|Active=TRUE|Dir=In|Protocol=1|App=System|Name=no program's|",
        ] {
            assert_eq!(verdict(ALL_PROFILES, &[all]), Verdict::Good, "{all}");
        }
        let (_, text) = verdict_and_text(ALL_PROFILES, &[TIME_EXCEEDED]);
        assert!(
            text.contains("port unreachable") && !text.contains("time exceeded"),
            "{text}"
        );
    }

    #[test]
    fn rules_that_do_not_help_are_not_taken_for_help() {
        for useless in [
            "v2.30|Action=Allow|Active=FALSE|Dir=In|Protocol=1|",
            "v2.30|Action=Allow|Active=TRUE|Dir=Out|Protocol=1|",
            "v2.30|Action=Allow|Active=TRUE|Dir=In|Protocol=58|",
            "v2.30|Action=Allow|Active=TRUE|Dir=In|Protocol=1|ICMP4=8:*|",
            r"v2.30|Action=Allow|Active=TRUE|Dir=In|Protocol=1|App=C:\agent.exe|",
            "v2.30|Action=Allow|Active=TRUE|Dir=In|RA4=LocalSubnet|",
            "",
            "|||=|Dir",
        ] {
            assert_eq!(verdict(ALL_PROFILES, &[useless]), Verdict::Limited, "{useless}");
        }
        let block = "v2.30|Action=Block|Active=TRUE|Dir=In|Protocol=1|ICMP4=11:*|";
        assert_eq!(
            verdict(ALL_PROFILES, &[TIME_EXCEEDED, UNREACHABLE, block]),
            Verdict::Limited
        );
    }

    #[test]
    fn only_networks_where_it_is_on_count() {
        assert_eq!(verdict([false; 3], &[]), Verdict::Good);
        let private = "v2.30|Action=Allow|Active=TRUE|Dir=In|Protocol=1|Profile=Private|Profile=Domain|";
        assert_eq!(verdict([true, true, false], &[private]), Verdict::Good);
        let (verdict, text) = verdict_and_text(ALL_PROFILES, &[private]);
        assert_eq!(verdict, Verdict::Limited);
        assert!(text.contains("time exceeded (Public networks)"), "{text}");
    }

    /// Numbers by key and name, and rules by key, below the roots.
    fn read(numbers: &[(&str, &str, u32)], rules: &[(&str, &str)]) -> Option<Firewall> {
        Firewall::read(
            |key, name| {
                let mut found = numbers.iter();
                found
                    .find(|(wanted, of, _)| *wanted == key && *of == name)
                    .map(|(.., number)| *number)
            },
            |key| {
                let of_key = rules.iter().filter(|(wanted, _)| *wanted == key);
                of_key.map(|(_, rule)| (*rule).to_owned()).collect()
            },
        )
    }

    const ON: &str = "EnableFirewall";
    const OWN_SETTINGS: [(&str, &str, u32); 3] = [
        (
            r"SYSTEM\CurrentControlSet\Services\SharedAccess\Parameters\FirewallPolicy\DomainProfile",
            ON,
            0,
        ),
        (
            r"SYSTEM\CurrentControlSet\Services\SharedAccess\Parameters\FirewallPolicy\StandardProfile",
            ON,
            0,
        ),
        (
            r"SYSTEM\CurrentControlSet\Services\SharedAccess\Parameters\FirewallPolicy\PublicProfile",
            ON,
            0,
        ),
    ];
    const POLICY_PRIVATE: &str = r"SOFTWARE\Policies\Microsoft\WindowsFirewall\PrivateProfile";

    #[test]
    fn a_policy_for_private_networks_goes_before_the_hosts_own_setting() {
        let off = read(&OWN_SETTINGS, &[]).expect("settings");
        assert_eq!(finding(Some(&off)).verdict, Verdict::Good);
        let mut numbers = OWN_SETTINGS.to_vec();
        numbers.push((POLICY_PRIVATE, ON, 1));
        let text = finding(read(&numbers, &[]).as_ref()).text;
        assert!(text.contains("time exceeded (Private networks)"), "{text}");
        assert_eq!(read(&OWN_SETTINGS[..2], &[]), None, "no setting for public ones");
    }

    #[test]
    fn where_a_policy_says_so_the_hosts_own_rules_do_not_count() {
        let own = r"SYSTEM\CurrentControlSet\Services\SharedAccess\Parameters\FirewallPolicy\FirewallRules";
        let policy = r"SOFTWARE\Policies\Microsoft\WindowsFirewall\FirewallRules";
        let mut numbers = OWN_SETTINGS.to_vec();
        numbers.push((POLICY_PRIVATE, ON, 1));
        let verdict = |numbers: &[_], key| {
            let rules = [(key, TIME_EXCEEDED), (key, UNREACHABLE)];
            finding(read(numbers, &rules).as_ref()).verdict
        };
        assert_eq!(verdict(&numbers, own), Verdict::Good);
        numbers.push((POLICY_PRIVATE, "AllowLocalPolicyMerge", 0));
        assert_eq!(verdict(&numbers, own), Verdict::Limited);
        assert_eq!(verdict(&numbers, policy), Verdict::Good);
    }

    proptest! {
        #[test]
        fn any_rule_is_survived(rule in r"(v2\.30\|)?(([A-Z][a-zA-Z0-9]{0,7}=)?(Allow|Block|TRUE|In|1|11:\*|.{0,6})\|){0,9}") {
            let _ = verdict(ALL_PROFILES, &[TIME_EXCEEDED, &rule]);
        }
    }

    #[test]
    fn settings_that_cannot_be_read_are_unknown() {
        let finding = finding(None);
        assert_eq!(
            (finding.verdict, finding.remedy.as_str()),
            (Verdict::Unknown, ALLOW_ERRORS)
        );
    }
}
