//! What stands above and below a table.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use datadog_traceroute::details::{
    AnswerDetails, Counters, Details, DistanceDetails, E2eDetails, EndReason, HopDetails, RunDetails,
};
use datadog_traceroute::{Cause, E2eProbe, Host, Protocol, Report, Target};

use super::View;
use super::path::{distinct, is_hidden, losses};
use super::screen::{BAD, NOTABLE, Screen, TITLE};
use super::text::{self, clean, rtt};

/// From where to where, how, and what the table is about.
pub(crate) fn above(report: &Report, screen: Screen) -> String {
    let runs = &report.traceroute.runs;
    let parsed: Option<Target> = report.destination.hostname.parse().ok();
    let mut line = format!(
        "Traceroute to {}, {}",
        target(report, parsed.as_ref()),
        report.protocol.to_string().to_uppercase()
    );
    if report.protocol != Protocol::Icmp {
        let asked_for = parsed
            .and_then(|target| target.port)
            .unwrap_or(report.destination.port);
        let port = runs.first().map_or(asked_for, |run| run.destination.port);
        let _ = write!(line, " port {port}");
    }
    let mut about = match runs.len() {
        0 => "No runs".to_owned(),
        count => text::count(count, "run"),
    };
    let sources = distinct(runs.iter().map(|run| run.source.ip_address));
    if !sources.is_empty() {
        let _ = write!(about, " from {}", list(&sources));
    }
    if let Some(public) = report.source.public_ip {
        let _ = write!(about, ", public address {public}");
    }
    if !runs.is_empty() {
        about.push_str("; times in ms");
    }
    format!("{}\n{about}\n", screen.paint(TITLE, &line))
}

/// Name and address, as far as they are known and differ.
fn target(report: &Report, parsed: Option<&Target>) -> String {
    let destination = report.traceroute.runs.first().map(|run| &run.destination);
    match (parsed.map(|target| &target.host), destination) {
        (Some(Host::Name(name)), Some(destination)) => {
            format!("{} ({})", clean(name), destination.ip_address)
        }
        (Some(Host::Name(name)), None) => clean(name),
        (_, Some(destination)) => text::host(destination.ip_address, &destination.reverse_dns),
        (Some(Host::Address(address)), None) => address.to_string(),
        (None, None) => clean(&report.destination.hostname),
    }
}

fn list(addresses: &[IpAddr]) -> String {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    addresses.join(", ")
}

/// What is to be said of the path, the end-to-end probes and, where they were asked for, the
/// counters.
pub(crate) fn below(report: &Report, view: View) -> String {
    let screen = view.screen;
    let details = report.details.as_deref();
    let mut text = details.map_or_else(String::new, |details| path(report, details, screen));
    match details.and_then(|details| too_low_max_ttl(report, details)) {
        Some(ttl) => {
            let remark = format!("not measured: the target is beyond --max-ttl {ttl}");
            let _ = writeln!(text, "End to end  {}", screen.paint(NOTABLE, &remark));
        }
        None => text.push_str(&end_to_end(
            &report.e2e_probe,
            details.map(|details| &details.e2e),
            screen,
        )),
    }
    if let Some(details) = details.filter(|_| view.details) {
        text.push('\n');
        text.push_str(&counters(&details.counters, screen));
    }
    text
}

/// Why paths end before their destination, or how long they are is not known.
fn path(report: &Report, details: &Details, screen: Screen) -> String {
    let mut text = String::new();
    let mut tell = |remark: &str, rest: &str| {
        let _ = writeln!(text, "Path        {}{rest}", screen.paint(NOTABLE, remark));
    };
    let runs = details.runs.len();
    let misses = (0..runs).filter_map(|run| Miss::of(report, details, run));
    let mut misses: Vec<Miss> = misses.collect();
    // What refuses one run explains the silence in others: refusals are limited, too.
    if misses.iter().any(|miss| matches!(miss, Miss::Refused { .. })) {
        misses.retain(|miss| !matches!(miss, Miss::Silence { .. }));
    }
    // How far any of them came.
    let furthest = misses.iter().filter_map(Miss::last_answered).max();
    let remarks = misses.iter().map(|miss| match miss {
        Miss::Silence { gave_up, .. } => {
            let (after, gave_up) = (furthest, *gave_up);
            Miss::Silence { after, gave_up }.to_string()
        }
        miss => miss.to_string(),
    });
    let remarks: Vec<String> = remarks.collect();
    for remark in distinct(remarks.iter()) {
        let count = remarks.iter().filter(|other| *other == remark).count();
        let some = if count < runs {
            format!("\n            in {count} of {}", text::count(runs, "run"))
        } else {
            String::new()
        };
        tell(&format!("destination not reached: {remark}"), &some);
    }
    let is_unknown = |run: &&RunDetails| run.distance == DistanceDetails::Unknown;
    match details.runs.iter().filter(is_unknown).count() {
        0 => {}
        count => tell(
            "the destination answers, but its distance is unknown",
            &format!(" ({count} of {})", text::count(runs, "run")),
        ),
    }
    text
}

/// Why a run did not reach its destination.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Miss {
    /// Somebody refuses to send probes on: who, how that is written, and what it means.
    Refused {
        from: Option<IpAddr>,
        notation: Option<String>,
        words: Option<&'static str>,
    },
    /// All hops answer up to the highest TTL.
    MaxTtl(u8),
    /// Nobody answers after this TTL, or at all; perhaps `--gap-limit` gave up.
    Silence { after: Option<u8>, gave_up: bool },
}

impl Miss {
    /// `None` where the destination answered.
    fn of(report: &Report, details: &Details, index: usize) -> Option<Miss> {
        let run = details.runs.get(index)?;
        if run.distance == DistanceDetails::Unknown {
            return None;
        }
        let answered = |hop: &HopDetails| hop.answer.is_some() || is_hidden(hop);
        match run.end.reason {
            EndReason::Destination => None,
            EndReason::Refused => {
                let answers = run.hops.iter().rev().filter_map(|hop| hop.answer.as_ref());
                let refusal = answers
                    .filter(|answer| Some(answer.ip_address) == run.end.from)
                    .find(|answer| answer.notation.is_some());
                Some(Miss::Refused {
                    from: run.end.from,
                    notation: refusal.and_then(|answer| answer.notation.clone()),
                    words: refusal.and_then(AnswerDetails::notation_in_words),
                })
            }
            EndReason::MaxTtl | EndReason::GapLimit => {
                let last = report.traceroute.runs.get(index)?.hops.last()?.ttl;
                let after = run.hops.iter().rfind(|hop| answered(hop)).map(|hop| hop.ttl);
                let gave_up = run.end.reason == EndReason::GapLimit;
                Some(if after == Some(last) {
                    Miss::MaxTtl(last)
                } else {
                    Miss::Silence { after, gave_up }
                })
            }
        }
    }

    fn last_answered(&self) -> Option<u8> {
        match self {
            Miss::Silence { after, .. } => *after,
            _ => None,
        }
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Miss::Refused {
                from,
                notation,
                words,
            } => {
                f.write_str(notation.as_deref().unwrap_or("refused"))?;
                match from {
                    Some(from) => write!(f, " from {from}")?,
                    None => f.write_str(" by a hidden private hop")?,
                }
                words.map_or(Ok(()), |words| write!(f, " ({words})"))
            }
            Miss::MaxTtl(ttl) => write!(f, "it is beyond --max-ttl {ttl}"),
            Miss::Silence { after, gave_up } => {
                match after {
                    Some(ttl) => write!(f, "no answer after TTL {ttl}")?,
                    None => f.write_str("no answer at any TTL")?,
                }
                f.write_str(if *gave_up { ", and --gap-limit gave up" } else { "" })
            }
        }
    }
}

/// The highest TTL, where that is why no end-to-end probe was answered: they have it, too.
fn too_low_max_ttl(report: &Report, details: &Details) -> Option<u8> {
    let probe = &report.e2e_probe;
    if probe.packets_sent == 0 || probe.packets_received > 0 || details.e2e.refused > 0 {
        return None;
    }
    let mut misses = (0..details.runs.len()).map(|run| Miss::of(report, details, run));
    match misses.next()?? {
        Miss::MaxTtl(ttl) if misses.all(|miss| miss == Some(Miss::MaxTtl(ttl))) => Some(ttl),
        _ => None,
    }
}

fn end_to_end(probe: &E2eProbe, details: Option<&E2eDetails>, screen: Screen) -> String {
    let mut text = if probe.packets_sent == 0 {
        "End to end  no probes\n".to_owned()
    } else {
        let lost = probe.packets_received < probe.packets_sent;
        let word = details.map_or("lost", word_for_silence);
        let loss = format!("{:.1}% {word}", probe.packet_loss_percentage * 100.0);
        format!(
            "End to end  {} sent, {} answered, {}\n",
            text::count(probe.packets_sent as usize, "probe"),
            probe.packets_received,
            if lost { screen.paint(BAD, &loss) } else { loss }
        )
    };
    if let Some(reasons) = details.and_then(reasons) {
        let _ = writeln!(text, "            {reasons}");
    }
    if probe.packets_received > 0 {
        let times = [probe.rtt.min, probe.rtt.avg, probe.rtt.max].map(rtt).join("/");
        let _ = writeln!(
            text,
            "            min/avg/max {times} ms, jitter {} ms",
            rtt(probe.jitter)
        );
    }
    text
}

/// What to call it when end-to-end probes go unanswered: loss only where nothing else explains a
/// part of it.
fn word_for_silence(details: &E2eDetails) -> &'static str {
    let lost = losses(&details.lost);
    match lost[Cause::RateLimited] + lost[Cause::Local] {
        0 => "lost",
        _ => "unanswered",
    }
}

/// How many end-to-end probes went unanswered, by cause, and how many this machine did not send.
fn reasons(details: &E2eDetails) -> Option<String> {
    let lost = losses(&details.lost);
    let mut reasons: Vec<String> = lost
        .iter()
        .map(|(cause, count)| format!("{count} {}", why(cause)))
        .collect();
    if details.refused > 0 {
        reasons.push(format!("{} refused by this machine", details.refused));
    }
    (!reasons.is_empty()).then(|| reasons.join(", "))
}

/// Where an end-to-end probe ended.
fn why(cause: Cause) -> &'static str {
    match cause {
        Cause::Network => "lost in the network",
        Cause::RateLimited => "rate limited",
        Cause::Silent => "target silent",
        Cause::Filtered => "filtered",
        Cause::Local => "lost on this machine",
        Cause::Unknown => "lost for an unknown reason",
    }
}

fn counters(counters: &Counters, screen: Screen) -> String {
    let Counters { probes, replies } = counters;
    let mut text = format!(
        "Probes      {} sent, {} with the kernel's timestamp, {} retried, {} refused\n",
        probes.sent, probes.kernel_timestamps, probes.retried, probes.refused
    );
    let drops = format!("{} dropped unread", replies.kernel_drops);
    let _ = writeln!(
        text,
        "Packets     {} received, {} matched ({} translated by a NAT), {}",
        replies.captured,
        replies.matched,
        replies.translated,
        if replies.kernel_drops > 0 {
            screen.paint(BAD, &drops)
        } else {
            drops
        }
    );
    let ignored: Vec<String> = replies
        .ignored
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("{count} {}", clean(&reason.replace('_', " "))))
        .collect();
    let ignored = if ignored.is_empty() {
        "none".to_owned()
    } else {
        ignored.join(", ")
    };
    let _ = writeln!(text, "Ignored     {ignored}");
    text
}
