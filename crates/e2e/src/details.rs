//! The document's `details`, read as strictly as `docs/details.md` describes them, and compared
//! with the rest of the document.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::Result;
use crate::json::{Fields, Value};
use crate::report::{Hop, Report, Run};

/// What else the probes learned.
#[derive(Debug)]
pub struct Details {
    /// One for each run.
    pub runs: Vec<RunDetails>,
    /// End-to-end probes without an answer, by cause.
    pub e2e_lost: BTreeMap<String, u64>,
    /// End-to-end probes that this machine refused.
    pub e2e_refused: u64,
    /// Codes and texts.
    pub warnings: Vec<(String, String)>,
}

/// What a run learned.
#[derive(Debug)]
pub struct RunDetails {
    /// `udp`, `icmp`, `tcp_syn` or `tcp_sack`.
    pub method: String,
    /// Probes that left.
    pub probes_sent: u64,
    /// Whether the destination's distance is known.
    pub is_distance_known: bool,
    /// `destination`, `refused` or `max_ttl`.
    pub end: String,
    /// Who refused.
    pub refused_by: Option<IpAddr>,
    /// One for each hop.
    pub hops: Vec<HopDetails>,
}

/// What a TTL of a run learned.
#[derive(Debug)]
pub struct HopDetails {
    /// Probes.
    pub attempts: u64,
    /// Which one was answered.
    pub attempt: Option<u64>,
    /// Those without an answer, by cause.
    pub lost: BTreeMap<String, u64>,
    /// A NAT begins here to translate.
    pub nat: bool,
}

const CAUSES: [&str; 6] = [
    "network",
    "rate_limited",
    "silent",
    "filtered",
    "local",
    "unknown",
];
const WARNINGS: [&str; 7] = [
    "probes_not_sent",
    "rate_limited",
    "local",
    "distance_unknown",
    "no_retries",
    "run_failed",
    "names_left_out",
];

impl Details {
    pub(crate) fn from(json: Value) -> Result<Details> {
        let mut fields = json.object()?;
        let runs = fields.take("runs")?.list()?;
        let runs = runs
            .into_iter()
            .map(RunDetails::from)
            .collect::<Result<Vec<_>>>()?;
        // Follows from the runs: the library's own tests compute it.
        fields.take("hops")?.list()?;
        let mut e2e = fields.take("e2e")?.object()?;
        let (sent, answered) = (e2e.take("sent")?.integer()?, e2e.take("answered")?.integer()?);
        let e2e_lost = lost(e2e.take("lost")?)?;
        let e2e_refused = e2e.take("refused")?.integer()?;
        if answered + e2e_lost.values().sum::<u64>() != sent {
            return e2e.wrong(format_args!(
                "of {sent}, {answered} answered, but lost {e2e_lost:?}"
            ));
        }
        e2e.end()?;
        let warnings = fields.take("warnings")?.list()?;
        let warnings = warnings.into_iter().map(warning).collect::<Result<_>>()?;
        counters(fields.take("counters")?)?;
        fields.end()?;
        Ok(Details {
            runs,
            e2e_lost,
            e2e_refused,
            warnings,
        })
    }

    /// Whether this and the rest of the document say the same.
    pub(crate) fn check(&self, report: &Report) -> Result<()> {
        if self.runs.len() != report.runs.len() {
            return Err(format!("details of {} runs", self.runs.len()));
        }
        for (index, (details, run)) in self.runs.iter().zip(&report.runs).enumerate() {
            details
                .check(run)
                .map_err(|problem| format!("document.details.runs[{index}]{problem}"))?;
        }
        let lost = self.e2e_lost.values().sum::<u64>();
        if report.e2e.sent - report.e2e.received != lost {
            return Err(format!("document.details.e2e: lost {:?}", self.e2e_lost));
        }
        Ok(())
    }
}

impl RunDetails {
    fn from(json: Value) -> Result<RunDetails> {
        let mut fields = json.object()?;
        fields.take("run_id")?.text()?;
        let method = fields.take("method")?.text()?;
        let probes_sent = fields.take("probes_sent")?.integer()?;
        let distance = fields.take("distance")?.text()?;
        let mut end = fields.take("end")?.object()?;
        let reason = end.take("reason")?.text()?;
        let refused_by = end.take_optional("from").map(Value::address).transpose()?;
        end.end()?;
        let hops = fields.take("hops")?.list()?;
        let hops = (1..)
            .zip(hops)
            .map(|(ttl, hop)| HopDetails::from(ttl, hop))
            .collect::<Result<Vec<_>>>()?;
        if !["known", "unknown"].contains(&distance.as_str()) {
            return fields.wrong(format_args!("distance is {distance}"));
        }
        if !["destination", "refused", "max_ttl", "gap_limit"].contains(&reason.as_str()) {
            return fields.wrong(format_args!("end is {reason}"));
        }
        if refused_by.is_some() && reason != "refused" {
            return fields.wrong(format_args!("refused by {refused_by:?}, but the end is {reason}"));
        }
        if hops.iter().filter(|hop| hop.nat).count() > 1 {
            return fields.wrong("translation begins twice");
        }
        fields.end()?;
        Ok(RunDetails {
            method,
            probes_sent,
            is_distance_known: distance == "known",
            end: reason,
            refused_by,
            hops,
        })
    }

    fn check(&self, run: &Run) -> Result<()> {
        if self.hops.len() != run.hops.len() {
            return Err(format!(": {} hops", self.hops.len()));
        }
        let reached = run.hops.last().and_then(Hop::address) == Some(run.destination);
        // It may be an address that the request wants hidden.
        let is_hidden = self.hops.last().is_some_and(HopDetails::is_hidden);
        if reached != (self.end == "destination") && !is_hidden {
            return Err(format!(": the end is {}", self.end));
        }
        for (details, hop) in self.hops.iter().zip(&run.hops) {
            details
                .check(hop)
                .map_err(|problem| format!(".hops[{}]: {problem}", hop.ttl - 1))?;
        }
        Ok(())
    }
}

impl HopDetails {
    fn from(expected: u64, json: Value) -> Result<HopDetails> {
        let mut fields = json.object()?;
        let ttl = fields.take("ttl")?.integer()?;
        let attempts = fields.take("attempts")?.integer()?;
        let attempt = match fields.take_optional("ip_address") {
            Some(address) => {
                address.address()?;
                answer(&mut fields)?
            }
            None => None,
        };
        let lost = fields.take_optional("lost").map(lost).transpose()?;
        let nat = fields.take_optional("nat").map(Value::boolean).transpose()?;
        if ttl != expected {
            return fields.wrong(format_args!("TTL {ttl} where {expected} belongs"));
        }
        if lost.as_ref().is_some_and(BTreeMap::is_empty) || nat == Some(false) {
            return fields.wrong("what is not so is left out");
        }
        let hop = HopDetails {
            attempts,
            attempt,
            lost: lost.unwrap_or_default(),
            nat: nat.unwrap_or(false),
        };
        if attempt.is_some_and(|attempt| attempt >= attempts) {
            return fields.wrong(format_args!("{hop:?}"));
        }
        fields.end()?;
        Ok(hop)
    }

    /// Nothing is said of it but that it was probed.
    fn is_hidden(&self) -> bool {
        self.attempts > 0 && self.attempt.is_none() && self.lost.is_empty()
    }

    fn check(&self, hop: &Hop) -> Result<()> {
        let lost = self.lost.values().sum::<u64>();
        let is_plausible = match hop.answer {
            Some(_) => lost < self.attempts,
            None => lost == self.attempts || self.is_hidden(),
        };
        if !is_plausible {
            return Err(format!("{self:?} of {:?}", hop.answer));
        }
        match hop.answer {
            Some((_, rtt)) if (rtt > 0.0) != self.attempt.is_some() => {
                Err(format!("attempt {:?} answered after {rtt} ms", self.attempt))
            }
            _ => Ok(()),
        }
    }
}

/// The members after the address of who answered; which attempt was.
fn answer(fields: &mut Fields) -> Result<Option<u64>> {
    fields.take("answer")?.text()?;
    fields.take("destination")?.boolean()?;
    let attempt = fields.take_optional("attempt").map(Value::integer).transpose()?;
    for name in ["icmp_type", "icmp_code"] {
        fields.take_optional(name).map(Value::integer).transpose()?;
    }
    fields.take_optional("notation").map(Value::text).transpose()?;
    for name in ["reply_ttl", "quoted_ttl"] {
        fields.take_optional(name).map(Value::integer).transpose()?;
    }
    fields.take_optional("mpls").map(Value::list).transpose()?;
    fields.take("kernel_timestamps")?.boolean()?;
    Ok(attempt)
}

/// Counts by cause, in the order of their names.
fn lost(json: Value) -> Result<BTreeMap<String, u64>> {
    let mut fields = json.object()?;
    let mut lost = BTreeMap::new();
    let mut causes = CAUSES;
    causes.sort_unstable();
    for cause in causes {
        if let Some(count) = fields.take_optional(cause) {
            let count = count.integer()?;
            if count == 0 {
                return fields.wrong(format_args!("no probe was lost to {cause}"));
            }
            lost.insert(cause.to_owned(), count);
        }
    }
    fields.end()?;
    Ok(lost)
}

fn warning(json: Value) -> Result<(String, String)> {
    let mut fields = json.object()?;
    let (code, text) = (fields.take("code")?.text()?, fields.take("text")?.text()?);
    if !WARNINGS.contains(&code.as_str()) || text.is_empty() {
        return fields.wrong(format_args!("{code}: {text}"));
    }
    fields.end()?;
    Ok((code, text))
}

fn counters(json: Value) -> Result<()> {
    let mut fields = json.object()?;
    let mut probes = fields.take("probes")?.object()?;
    for name in ["sent", "retried", "refused", "kernel_timestamps"] {
        probes.take(name)?.integer()?;
    }
    probes.end()?;
    let mut replies = fields.take("replies")?.object()?;
    for name in ["captured", "kernel_drops", "matched", "translated"] {
        replies.take(name)?.integer()?;
    }
    replies.take("ignored")?.object()?;
    replies.end()?;
    fields.end()
}
