//! What stands above and below a table.

use std::fmt::Write as _;
use std::net::IpAddr;

use datadog_traceroute::details::{Counters, Details, DistanceDetails, E2eDetails, RunDetails};
use datadog_traceroute::{Cause, E2eProbe, Host, Protocol, Report, Target};

use super::View;
use super::path::{distinct, losses};
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
    let mut text = details.map_or_else(String::new, |details| path(details, screen));
    text.push_str(&end_to_end(
        &report.e2e_probe,
        details.map(|details| &details.e2e),
        screen,
    ));
    if let Some(details) = details.filter(|_| view.details) {
        text.push('\n');
        text.push_str(&counters(&details.counters, screen));
    }
    text
}

/// Why paths end before their destination, or how long they are is not known.
fn path(details: &Details, screen: Screen) -> String {
    let mut text = String::new();
    let runs = &details.runs;
    let count = |some: &dyn Fn(&RunDetails) -> bool| {
        let count = runs.iter().filter(|run| some(run)).count();
        format!("{count} of {}", text::count(runs.len(), "run"))
    };
    for from in distinct(runs.iter().filter_map(|run| run.end.from)) {
        let remark = format!("{from} refuses to send probes on");
        let runs = count(&|run| run.end.from == Some(from));
        let _ = writeln!(text, "Path        {} ({runs})", screen.paint(NOTABLE, &remark));
    }
    let is_unknown = |run: &RunDetails| run.distance == DistanceDetails::Unknown;
    if runs.iter().any(is_unknown) {
        let remark = "the destination answers, but its distance is unknown";
        let runs = count(&is_unknown);
        let _ = writeln!(text, "Path        {} ({runs})", screen.paint(NOTABLE, remark));
    }
    text
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
