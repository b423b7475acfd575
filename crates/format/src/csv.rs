//! Comma-separated values (RFC 4180): one line for each TTL of each run.

use std::error::Error;

use csv::Writer;
use datadog_traceroute::Report;
use datadog_traceroute::details::{AnswerDetails, HopDetails};
use datadog_traceroute::document::{Document, HopEntry, RunEntry};
use serde::Serialize;

use super::text::clean;

/// The first line.
const TITLES: [&str; 11] = [
    "run",
    "run_id",
    "protocol",
    "target",
    "source",
    "destination",
    "port",
    "ttl",
    "address",
    "names",
    "rtt_ms",
];
/// Its end, where details were asked for.
const DETAIL_TITLES: [&str; 12] = [
    "answer",
    "icmp_type",
    "icmp_code",
    "notation",
    "reply_ttl",
    "quoted_ttl",
    "mpls",
    "kernel_timestamps",
    "attempts",
    "attempt",
    "lost",
    "nat",
];

/// Some `size` bytes. Lines end with a line feed alone, so that other tools for lines can be used
/// on them.
pub(crate) fn render(report: &Report, size: usize) -> Result<String, Box<dyn Error>> {
    let mut writer = Writer::from_writer(Vec::with_capacity(size));
    let document = Document::of(report);
    let details = document.details.is_some();
    writer.write_record(
        TITLES
            .iter()
            .chain(if details { &DETAIL_TITLES[..] } else { &[] }),
    )?;
    for (index, run) in document.traceroute.runs.iter().enumerate() {
        for hop in &run.hops {
            let mut record = record(&document, index, run, hop);
            if details {
                record.extend(detail_fields(hop_details(&document, index, hop))?);
            }
            writer.write_record(record)?;
        }
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

/// Fields in the order of [`TITLES`]; what is unknown is empty.
fn record(document: &Document, index: usize, run: &RunEntry, hop: &HopEntry) -> Vec<String> {
    let names: Vec<String> = hop.reverse_dns.iter().map(|name| clean(name)).collect();
    vec![
        (index + 1).to_string(),
        run.run_id.to_string(),
        document.protocol.to_string(),
        clean(&document.destination.hostname),
        run.source.ip_address.to_string(),
        run.destination.ip_address.to_string(),
        run.destination.port.to_string(),
        hop.ttl.to_string(),
        hop.ip_address
            .map_or_else(String::new, |address| address.to_string()),
        names.join(" "),
        if hop.rtt > 0.0 {
            hop.rtt.to_string()
        } else {
            String::new()
        },
    ]
}

/// What else is known of a hop of run `index`.
fn hop_details<'d>(document: &'d Document, index: usize, hop: &HopEntry) -> Option<&'d HopDetails> {
    let run = document.details.as_ref()?.runs.get(index)?;
    run.hops.iter().find(|other| other.ttl == hop.ttl)
}

/// Fields in the order of [`DETAIL_TITLES`].
fn detail_fields(details: Option<&HopDetails>) -> Result<Vec<String>, Box<dyn Error>> {
    let Some(details) = details else {
        return Ok(vec![String::new(); DETAIL_TITLES.len()]);
    };
    let mut fields = match &details.answer {
        Some(answer) => answer_fields(answer)?.to_vec(),
        None => vec![String::new(); 8],
    };
    let lost = details
        .lost
        .iter()
        .map(|(cause, count)| format!("{cause}={count}"));
    fields.extend([
        details.attempts.to_string(),
        number(details.answer.as_ref().and_then(|answer| answer.attempt)),
        lost.collect::<Vec<_>>().join(" "),
        details.nat.to_string(),
    ]);
    Ok(fields)
}

fn answer_fields(answer: &AnswerDetails) -> Result<[String; 8], Box<dyn Error>> {
    let labels: Vec<String> = answer.mpls.iter().map(ToString::to_string).collect();
    Ok([
        name(&answer.answer)?,
        number(answer.icmp_type),
        number(answer.icmp_code),
        answer.notation.clone().unwrap_or_default(),
        number(answer.reply_ttl),
        number(answer.quoted_ttl),
        labels.join("/"),
        answer.kernel_timestamps.to_string(),
    ])
}

fn number(value: Option<u8>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// The name that something has in the JSON document.
fn name(value: &impl Serialize) -> serde_json::Result<String> {
    serde_json::from_value(serde_json::to_value(value)?)
}
