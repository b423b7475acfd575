//! What stands above and below a table.

use std::fmt::Write as _;
use std::net::IpAddr;

use datadog_traceroute::details::Counters;
use datadog_traceroute::{E2eProbe, Host, Protocol, Report, Target};

use super::path::distinct;
use super::screen::{BAD, Screen, TITLE};
use super::text::{self, clean, rtt};

/// From where to where, how, and what the table is about.
pub(crate) fn above(report: &Report, screen: Screen) -> String {
    let runs = &report.traceroute.runs;
    let parsed: Option<Target> = report.destination.hostname.parse().ok();
    let mut line = format!(
        "Traceroute to {}, {}",
        target(report, parsed.as_ref()),
        protocol(report.protocol)
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

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Udp => "UDP",
        Protocol::Tcp => "TCP",
        Protocol::Icmp => "ICMP",
    }
}

fn list(addresses: &[IpAddr]) -> String {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    addresses.join(", ")
}

/// The end-to-end probes and, where they were asked for, the counters.
pub(crate) fn below(report: &Report, screen: Screen) -> String {
    let mut text = end_to_end(&report.e2e_probe, screen);
    if let Some(details) = &report.details {
        text.push('\n');
        text.push_str(&counters(&details.counters, screen));
    }
    text
}

fn end_to_end(probe: &E2eProbe, screen: Screen) -> String {
    if probe.packets_sent == 0 {
        return "End to end  no probes\n".to_owned();
    }
    let loss = format!("{:.1}% lost", probe.packet_loss_percentage * 100.0);
    let lost = probe.packets_received < probe.packets_sent;
    let mut text = format!(
        "End to end  {} sent, {} answered, {}\n",
        text::count(probe.packets_sent as usize, "probe"),
        probe.packets_received,
        if lost { screen.paint(BAD, &loss) } else { loss }
    );
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
