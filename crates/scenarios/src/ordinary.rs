//! What plain users find on Linux, without `CAP_NET_RAW`: what root finds, but for what their
//! kernel keeps to itself.

use crate::scenario::{Aspect, E2E_QUERIES, Expect, Family, Method, Outcome, Scenario};

/// What ordinary sockets can probe with.
pub const METHODS: [Method; 3] = [Method::Icmp, Method::Udp, Method::Syn];

/// Scenarios in which plain users find less than root.
pub const DIFFERENCES: &[Difference] = &[
    Difference {
        path: Some("r1 r2 * * T!"),
        ..Difference::of("nat-untranslated", &[Method::Icmp, Method::Syn], FOREIGN_QUOTE)
    },
    Difference {
        path: Some("r1 r2 * * T!"),
        ..Difference::of("nat-addresses", &[Method::Syn], FOREIGN_QUOTE)
    },
    Difference {
        path: Some("r1 r2 * * * * * *"),
        received: Some((0, 0)),
        ..Difference::of("nat-untranslated", &[Method::Udp], FOREIGN_QUOTE)
    },
    Difference {
        path: Some("r1 r2 * * * * * *"),
        received: Some((0, 0)),
        ..Difference::of("nat-addresses", &[Method::Udp], FOREIGN_QUOTE)
    },
    Difference {
        path: Some("r1 r2 r3 r4 T!"),
        ..Difference::of("nat-and-scrub", &[Method::Icmp], KERNEL_MATCHES)
    },
    Difference {
        path: Some("r1 r2 r3 r4 T!"),
        received: Some((E2E_QUERIES, E2E_QUERIES)),
        ..Difference::of("nat-and-scrub", &[Method::Udp], KERNEL_MATCHES)
    },
    Difference {
        path: Some("r1 r2 * r4 T!"),
        ..Difference::of("probe-lost", &[Method::Syn], NO_ATTEMPTS)
    },
    Difference {
        path: Some("r1 r2 * r4 T!"),
        ..Difference::of("answer-lost", &[Method::Syn], NO_ATTEMPTS)
    },
    Difference {
        path: Some("r1 r2 r3 r4 * T!"),
        ..Difference::of("last-probe-lost", &[Method::Syn], NO_ATTEMPTS)
    },
    Difference {
        path: Some("r1 r2 r3 r3 || r1 r2 r3 * * * * *"),
        ..Difference::of(
            "dead-host",
            &[Method::Syn],
            "the kernel repeats a SYN after a second, before the answer comes, and nobody knows which SYN was answered",
        )
    },
    Difference {
        path: Some("r1 r2 r3 r4 * * * *"),
        received: Some((0, 0)),
        ..Difference::of("tcp-closed-bare", &[Method::Syn], BARE_RESET)
    },
    Difference {
        path: Some("r1 r2 * r4 * * * *"),
        received: Some((0, 0)),
        ..Difference::of("tcp-closed-bare-gap", &[Method::Syn], BARE_RESET)
    },
    Difference {
        path: Some("r1 r2 a1|b1 a2|b2 r3 T!"),
        ..Difference::of(
            "balance-flow-label",
            &[Method::Syn],
            "the kernel gives each connection a flow label of its own over IPv6",
        )
    },
    Difference {
        received: Some((6, 6)),
        ..Difference::of(
            "lossy",
            &[Method::Syn],
            "the kernel acknowledges each connection before it resets it, so other packets are the lost ones",
        )
    },
    Difference {
        path: Some(
            "r1 r2 r3 r4 T! || r1 r2 r3 r4 * T! || r1 r2 r3 r4 * * T! || r1 r2 r3 r4 * * * T! || r1 r2 r3 r4 * * * *",
        ),
        received: Some((0, E2E_QUERIES)),
        ..Difference::of(
            "lost-syn-ack",
            &[Method::Syn],
            "the kernel repeats a SYN after a second, as the server does its SYN-ACK; when it was first, nobody knows which \
             SYN was answered",
        )
    },
];

const FOREIGN_QUOTE: &str = "the kernel drops ICMP errors about packets that none of its sockets has sent";

const KERNEL_MATCHES: &str =
    "the kernel matches errors by addresses and ports or identifier alone, which the NAT has set right";

const NO_ATTEMPTS: &str =
    "the kernel repeats SYNs itself, so attempts cannot be told apart, and silent hops are not probed again";

const BARE_RESET: &str = "the kernel does not believe a reset without an acknowledgment while it connects";

/// One of [`DIFFERENCES`].
#[derive(Debug)]
pub struct Difference {
    /// The scenario's name.
    pub scenario: &'static str,
    /// The methods concerned.
    pub methods: &'static [Method],
    /// The path, where it is another.
    pub path: Option<&'static str>,
    /// How many end-to-end probes are answered at least and at most, where that is different.
    pub received: Option<(u32, u32)>,
    /// What takes the rest away.
    pub why: &'static str,
}

impl Difference {
    const fn of(scenario: &'static str, methods: &'static [Method], why: &'static str) -> Self {
        Difference {
            scenario,
            methods,
            path: None,
            received: None,
            why,
        }
    }

    /// What is different, in words for a table.
    pub(crate) fn shown(&self) -> String {
        let path = self
            .path
            .map(|path| format!("`{}`", path.replace(" || ", " or ").replace('|', "/")));
        let received = self.received.map(|(least, most)| {
            let count = if least == most {
                least.to_string()
            } else {
                format!("{least} to {most}")
            };
            format!("{count} of {E2E_QUERIES} end to end")
        });
        [path, received]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join("; ")
    }
}

/// What must come out for a plain user, if this combination is part of the scenario and can be
/// probed so.
pub fn expectation(scenario: &Scenario, method: Method, family: Family) -> Option<Expect> {
    let expect = scenario.expectation(method, family)?;
    if !METHODS.contains(&method) {
        return None;
    }
    let expect = expect.clone().only_aspects(told_of_all(method));
    Some(match difference(scenario, method) {
        Some(difference) => expect.but(
            difference.path,
            difference.received.map(|(least, most)| least..=most),
        ),
        None => expect,
    })
}

/// What a plain user is told of all answers.
fn told_of_all(method: Method) -> &'static [Aspect] {
    match method {
        // Not always with which TTL a segment of the target arrived.
        Method::Syn => &[Aspect::Icmp, Aspect::Mpls],
        _ => &[Aspect::Icmp, Aspect::Mpls, Aspect::ReplyTtl],
    }
}

/// What a plain user who was `told` this may find of what root `found`: not the TTL of the probe in
/// a quote, and that of a segment only if it is a SYN-ACK over IPv6, so where it was not told it
/// need not be.
#[must_use]
pub fn may_find(method: Method, mut found: Outcome, told: &Outcome) -> Outcome {
    let told = told.hops.iter().flatten();
    for (finding, told) in found.hops.iter_mut().flatten().zip(told) {
        let (Some(finding), Some(told)) = (finding, told) else {
            continue;
        };
        finding.quoted_ttl = None;
        let is_segment = method == Method::Syn && finding.icmp.is_none();
        if is_segment && (finding.address.is_ipv4() || told.reply_ttl.is_none()) {
            finding.reply_ttl = None;
        }
    }
    found
}

/// What is different for a plain user, if anything.
pub fn difference(scenario: &Scenario, method: Method) -> Option<&'static Difference> {
    DIFFERENCES
        .iter()
        .find(|difference| difference.scenario == scenario.name && difference.methods.contains(&method))
}
