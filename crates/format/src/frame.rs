//! What stands above and below a table.

use std::fmt::Write as _;
use std::net::IpAddr;

use datadog_traceroute::details::CounterDetails;
use datadog_traceroute::{
    Cause, Distance, End, EndToEnd, Hop, Host, Protocol, Report, Run, Target, is_hidden, notation,
    notation_in_words,
};

use super::View;
use super::screen::{BAD, NOTABLE, Screen, TITLE};
use super::stops::distinct;
use super::text::{self, clean, milliseconds, rtt};

/// From where to where, how, and what the table is about.
pub(crate) fn above(report: &Report, screen: Screen) -> String {
    let runs = &report.runs;
    let parsed: Option<Target> = report.hostname.parse().ok();
    let mut line = format!(
        "Traceroute to {}, {}",
        target(report, parsed.as_ref()),
        report.protocol.to_string().to_uppercase()
    );
    if report.protocol != Protocol::Icmp {
        let asked_for = parsed.and_then(|target| target.port).unwrap_or(report.port);
        let port = runs.first().map_or(asked_for, |run| run.destination.port());
        let _ = write!(line, " port {port}");
    }
    let mut about = match runs.len() {
        0 => "No runs".to_owned(),
        count => text::count(count, "run"),
    };
    let sources = distinct(runs.iter().map(|run| run.source.ip()));
    if !sources.is_empty() {
        let _ = write!(about, " from {}", list(&sources));
    }
    if let Some(public) = report.public_ip {
        let _ = write!(about, ", public address {public}");
    }
    if !runs.is_empty() {
        about.push_str("; times in ms");
    }
    format!("{}\n{about}\n", screen.paint(TITLE, &line))
}

/// Name and address, as far as they are known and differ.
fn target(report: &Report, parsed: Option<&Target>) -> String {
    let destination = report.runs.first().map(|run| run.destination.ip());
    match (parsed.map(|target| &target.host), destination) {
        (Some(Host::Name(name)), Some(destination)) => {
            format!("{} ({destination})", clean(name))
        }
        (Some(Host::Name(name)), None) => clean(name),
        (_, Some(destination)) => text::host(destination, report.names.of(destination)),
        (Some(Host::Address(address)), None) => address.to_string(),
        (None, None) => clean(&report.hostname),
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
    let mut text = path(&report.runs, view);
    match too_low_max_ttl(report) {
        Some(ttl) => {
            let option = view.option_prefix;
            let remark = format!("not measured: the target is beyond {option}max-ttl {ttl}");
            let _ = writeln!(text, "End to end  {}", screen.paint(NOTABLE, &remark));
        }
        None => text.push_str(&end_to_end(&report.end_to_end, screen)),
    }
    if let Some(statistics) = report.statistics.as_deref().filter(|_| view.details) {
        text.push('\n');
        text.push_str(&counters(&CounterDetails::from(*statistics), screen));
    }
    text
}

/// Why paths end before their destination, or how long they are is not known.
fn path(runs: &[Run], view: View) -> String {
    let mut text = String::new();
    let mut tell = |remark: &str, rest: &str| {
        let _ = writeln!(text, "Path        {}{rest}", view.screen.paint(NOTABLE, remark));
    };
    let mut misses: Vec<Miss> = runs.iter().filter_map(Miss::of).collect();
    // What refuses one run explains the silence in others: refusals are limited, too.
    if misses.iter().any(|miss| matches!(miss, Miss::Refused { .. })) {
        misses.retain(|miss| !matches!(miss, Miss::Silence { .. }));
    }
    // How far any of them came.
    let furthest = misses.iter().filter_map(Miss::last_answered).max();
    let remarks = misses.iter().map(|miss| match miss {
        Miss::Silence { gave_up, .. } => {
            let (after, gave_up) = (furthest, *gave_up);
            Miss::Silence { after, gave_up }.in_words(view)
        }
        miss => miss.in_words(view),
    });
    let remarks: Vec<String> = remarks.collect();
    for remark in distinct(remarks.iter()) {
        let count = remarks.iter().filter(|other| *other == remark).count();
        let some = if count < runs.len() {
            format!("\n            in {count} of {}", text::count(runs.len(), "run"))
        } else {
            String::new()
        };
        tell(&format!("destination not reached: {remark}"), &some);
    }
    match runs
        .iter()
        .filter(|run| run.distance == Distance::Unknown)
        .count()
    {
        0 => {}
        count => tell(
            "the destination answers, but its distance is unknown",
            &format!(" ({count} of {})", text::count(runs.len(), "run")),
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
    /// Nobody answers after this TTL, or at all; perhaps the gap limit gave up.
    Silence { after: Option<u8>, gave_up: bool },
}

impl Miss {
    /// `None` where the destination answered.
    fn of(run: &Run) -> Option<Miss> {
        if run.distance == Distance::Unknown {
            return None;
        }
        let answered = |hop: &&Hop| hop.answer.is_some() || is_hidden(hop);
        match run.end {
            End::Destination => None,
            End::Refused { from, .. } => {
                let refusal = run.refusal();
                Some(Miss::Refused {
                    from,
                    notation: refusal.and_then(notation),
                    words: refusal.and_then(notation_in_words),
                })
            }
            End::MaxTtl | End::GapLimit => {
                let last = run.hops.last()?.ttl;
                let after = run.hops.iter().rfind(answered).map(|hop| hop.ttl);
                let gave_up = run.end == End::GapLimit;
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

impl Miss {
    fn in_words(&self, view: View) -> String {
        let option = view.option_prefix;
        match self {
            Miss::Refused {
                from,
                notation,
                words,
            } => {
                let who = match from {
                    Some(from) => format!("from {from}"),
                    None => "by a hidden private hop".to_owned(),
                };
                let meaning = words.map_or(String::new(), |words| format!(" ({words})"));
                format!("{} {who}{meaning}", notation.as_deref().unwrap_or("refused"))
            }
            Miss::MaxTtl(ttl) => format!("it is beyond {option}max-ttl {ttl}"),
            Miss::Silence { after, gave_up } => {
                let since = match after {
                    Some(ttl) => format!("no answer after TTL {ttl}"),
                    None => "no answer at any TTL".to_owned(),
                };
                let end = if *gave_up {
                    format!(", and {option}gap-limit gave up")
                } else {
                    String::new()
                };
                since + &end
            }
        }
    }
}

/// The highest TTL, where that is why no end-to-end probe was answered: they have it, too.
fn too_low_max_ttl(report: &Report) -> Option<u8> {
    let probes = &report.end_to_end;
    let loss = probes.loss();
    if loss.sent == 0 || loss.answered() > 0 || probes.refused > 0 {
        return None;
    }
    let mut misses = report.runs.iter().map(Miss::of);
    match misses.next()?? {
        Miss::MaxTtl(ttl) if misses.all(|miss| miss == Some(Miss::MaxTtl(ttl))) => Some(ttl),
        _ => None,
    }
}

fn end_to_end(probes: &EndToEnd, screen: Screen) -> String {
    let loss = probes.loss();
    let mut text = match loss.ratio() {
        None => "End to end  no probes\n".to_owned(),
        Some(ratio) => {
            let share = format!("{:.1}% {}", ratio * 100.0, word_for_silence(probes));
            format!(
                "End to end  {} sent, {} answered, {}\n",
                text::count(loss.sent as usize, "probe"),
                loss.answered(),
                if loss.lost > 0 {
                    screen.paint(BAD, &share)
                } else {
                    share
                }
            )
        }
    };
    if let Some(reasons) = reasons(probes) {
        let _ = writeln!(text, "            {reasons}");
    }
    if let Some(times) = probes.rtt() {
        let milliseconds = |time| rtt(milliseconds(time));
        let _ = writeln!(
            text,
            "            min/avg/max {} ms, jitter {} ms",
            [times.min, times.avg, times.max].map(milliseconds).join("/"),
            milliseconds(probes.jitter().unwrap_or_default())
        );
    }
    text
}

/// What to call it when end-to-end probes go unanswered: loss only where nothing else explains a
/// part of it.
fn word_for_silence(probes: &EndToEnd) -> &'static str {
    match probes.lost[Cause::RateLimited] + probes.lost[Cause::Local] {
        0 => "lost",
        _ => "unanswered",
    }
}

/// How many end-to-end probes went unanswered, by cause, and how many this machine did not send.
fn reasons(probes: &EndToEnd) -> Option<String> {
    let lost = probes.lost.iter();
    let mut reasons: Vec<String> = lost
        .map(|(cause, count)| format!("{count} {}", why(cause)))
        .collect();
    if probes.refused > 0 {
        reasons.push(format!("{} refused by this machine", probes.refused));
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

fn counters(counters: &CounterDetails, screen: Screen) -> String {
    let CounterDetails { probes, replies } = counters;
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
