//! What a reader must know to understand a result: said beside it, not in the frozen document.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use traceroute_engine::{Cause, Distance, EndToEndResult, Hop, Losses, TraceError, TraceResult};

use crate::report::{FailedRun, Names};

/// A remark that changes what a result means.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Warning {
    /// What kind of remark.
    pub code: WarningCode,
    /// The remark, for people.
    pub text: String,
}

/// What kind of remark a [`Warning`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum WarningCode {
    /// End-to-end probes were not sent, because the target limits how often it answers.
    ProbesNotSent,
    /// Answers are missing because of limits on ICMP errors.
    RateLimited,
    /// This machine did not send probes, dropped their answers, or found no neighbour.
    Local,
    /// The destination answered, but it is not known how far away it is.
    DistanceUnknown,
    /// Attempts cannot be told apart here, so silent hops were not probed again.
    NoRetries,
    /// A run failed; others worked.
    RunFailed,
    /// Names of hops are left out, because all together take too much memory.
    NamesLeftOut,
}

impl Warning {
    fn new(code: WarningCode, text: impl Into<String>) -> Self {
        Warning {
            code,
            text: text.into(),
        }
    }

    /// Of a run that failed beside others that worked.
    pub(crate) fn run_failed(failed: &FailedRun) -> Self {
        Warning::new(WarningCode::RunFailed, failed.to_string())
    }

    /// That no end-to-end probe could be sent.
    pub(crate) fn no_end_to_end(error: &TraceError) -> Self {
        Warning::new(
            WarningCode::Local,
            format!("no end-to-end probe could be sent: {error}"),
        )
    }

    /// Of names that are left out, if any are.
    pub(crate) fn names_left_out(names: &Names) -> Option<Self> {
        let addresses = match names.left_out() {
            0 => return None,
            1 => "1 address are".to_owned(),
            more => format!("{more} addresses are"),
        };
        Some(Warning::new(
            WarningCode::NamesLeftOut,
            format!("the names of {addresses} left out: all together take too much memory"),
        ))
    }

    /// Of all runs and end-to-end probes of a request.
    pub(crate) fn of(
        target: IpAddr,
        runs: &[(u32, &TraceResult)],
        e2e: Option<(&EndToEndResult, u32)>,
    ) -> Vec<Self> {
        let mut warnings = Vec::new();
        let hops = || runs.iter().flat_map(|(_, run)| &run.hops);
        let mut lost = Losses::default();
        hops().for_each(|hop| lost += hop.lost);
        match lost[Cause::Local] {
            0 => {}
            local => warnings.push(Warning::new(
                WarningCode::Local,
                format!(
                    "{} of the runs ended on this machine: it refused to send, a firewall rejected them, or no neighbour \
                     answered. The network did not lose them",
                    probes(local)
                ),
            )),
        }
        // What a run asked for beyond the destination is no hop.
        let is_destination = |hop: &&Hop| hop.answer.is_some_and(|answer| answer.destination);
        let length = hops()
            .filter(is_destination)
            .map(|hop| hop.ttl)
            .min()
            .unwrap_or(u8::MAX);
        let is_limited = |hop: &&Hop| {
            hop.ttl <= length && hop.answer.is_none() && hop.lost.main() == Some(Cause::RateLimited)
        };
        let limited: BTreeSet<u8> = hops().filter(is_limited).map(|hop| hop.ttl).collect();
        let answered = |ttl: &u8| hops().any(|hop| hop.ttl == *ttl && hop.answer.is_some());
        let somewhere = if limited.iter().any(answered) {
            " in some runs"
        } else {
            ""
        };
        match limited.len() {
            0 => {}
            1 => warnings.push(Warning::new(
                WarningCode::RateLimited,
                format!("1 hop is missing{somewhere} because its router limits how often it answers"),
            )),
            missing => warnings.push(Warning::new(
                WarningCode::RateLimited,
                format!(
                    "{missing} hops are missing{somewhere} because their routers limit how often they answer"
                ),
            )),
        }
        for (index, run) in runs {
            if run.distance == Distance::Unknown {
                let run = index + 1;
                warnings.push(Warning::new(
                    WarningCode::DistanceUnknown,
                    format!("run {run}: {target} answered, but its distance is unknown"),
                ));
            }
        }
        let is_silent = |hop: &Hop| hop.answer.is_none() && hop.lost.main() != Some(Cause::Local);
        let is_unasked = |run: &TraceResult| run.retries_limited && run.hops.iter().any(is_silent);
        if runs.iter().any(|(_, run)| is_unasked(run)) {
            warnings.push(Warning::new(
                WarningCode::NoRetries,
                "silent hops were not probed again: without raw sockets this system cannot tell one attempt from another",
            ));
        }
        if let Some((result, asked)) = e2e {
            warnings.extend(Warning::of_end_to_end(target, result, asked));
        }
        warnings
    }

    fn of_end_to_end(target: IpAddr, result: &EndToEndResult, asked: u32) -> Vec<Self> {
        let mut warnings = Vec::new();
        if result.unsent > 0 {
            let sent = result.probes.len();
            let rate = rate(result.limit.unwrap_or(Duration::from_secs(1)));
            warnings.push(Warning::new(
                WarningCode::ProbesNotSent,
                format!(
                    "{sent} of {asked} end-to-end probes were sent: {target} answers UDP probes {rate} at most, so there was no \
                     time for more. A fixed interval sends all of them. Answers to ICMP and TCP are not limited like this"
                ),
            ));
        }
        if result.refused > 0 {
            let refused = end_to_end_probes(result.refused);
            warnings.push(Warning::new(
                WarningCode::Local,
                format!("this machine refused to send {refused}. They do not count as sent"),
            ));
        }
        if result.lost[Cause::Local] > 0 {
            let lost = end_to_end_probes(result.lost[Cause::Local]);
            warnings.push(Warning::new(
                WarningCode::Local,
                format!(
                    "{lost} ended on this machine: no neighbour answered, or a firewall rejected them. They count as lost, but the \
                     network did not lose them"
                ),
            ));
        }
        if result.lost[Cause::RateLimited] > 0 {
            let lost = end_to_end_probes(result.lost[Cause::RateLimited]);
            warnings.push(Warning::new(
                WarningCode::RateLimited,
                format!(
                    "{lost} went unanswered because {target} limits how often it answers. They count as lost, but the network did not \
                     lose them"
                ),
            ));
        }
        warnings
    }
}

fn probes(count: u32) -> String {
    format!("{count} probe{}", if count == 1 { "" } else { "s" })
}

fn end_to_end_probes(count: u32) -> String {
    format!("{count} end-to-end probe{}", if count == 1 { "" } else { "s" })
}

fn rate(interval: Duration) -> String {
    match interval.as_millis() {
        1000 => "once a second".to_owned(),
        millis => format!("once in {millis} ms"),
    }
}

#[cfg(test)]
mod tests {
    use traceroute_engine::{Answer, End};

    use super::*;

    fn target() -> IpAddr {
        "192.0.2.9".parse().unwrap()
    }

    /// A run with one hop that lost so many probes, by cause.
    fn run(answer: Option<Answer>, lost: &[(Cause, u32)]) -> TraceResult {
        let mut losses = Losses::default();
        for (cause, count) in lost {
            losses.add(*cause, *count);
        }
        TraceResult {
            source: target(),
            source_port: 1,
            destination: target(),
            destination_port: 1,
            hops: vec![Hop {
                ttl: 1,
                answer,
                attempts: 3,
                lost: losses,
                nat: false,
            }],
            probes_sent: 3,
            distance: Distance::Known,
            end: End::MaxTtl,
            retries_limited: false,
        }
    }

    fn codes(warnings: &[Warning]) -> Vec<WarningCode> {
        warnings.iter().map(|warning| warning.code).collect()
    }

    fn of_runs(runs: &[TraceResult]) -> Vec<Warning> {
        let runs: Vec<_> = (0..).zip(runs).collect();
        Warning::of(target(), &runs, None)
    }

    #[test]
    fn what_the_network_does_is_no_warning() {
        for cause in [Cause::Network, Cause::Silent, Cause::Filtered, Cause::Unknown] {
            assert_eq!(of_runs(&[run(None, &[(cause, 3)])]), [], "{cause:?}");
        }
        let fine = EndToEndResult {
            probes: vec![None, Some(Duration::from_millis(1))],
            ..EndToEndResult::default()
        };
        assert_eq!(Warning::of(target(), &[], Some((&fine, 2))), []);
    }

    /// The other runs have asked further than the destination is.
    #[test]
    fn what_is_beyond_the_destination_is_no_missing_hop() {
        let reached = run(Some(Answer::new(target(), None, None)), &[]);
        let mut beyond = run(None, &[(Cause::RateLimited, 3)]);
        beyond.hops[0].ttl = 2;
        assert_eq!(of_runs(&[reached, beyond.clone()]), []);
        assert_eq!(codes(&of_runs(&[beyond])), [WarningCode::RateLimited]);
    }

    #[test]
    fn hops_that_a_limit_hides() {
        let limited = || run(None, &[(Cause::RateLimited, 2), (Cause::Network, 1)]);
        let one = of_runs(&[limited()]);
        assert_eq!(codes(&one), [WarningCode::RateLimited]);
        assert_eq!(
            one[0].text,
            "1 hop is missing because its router limits how often it answers"
        );
        // The same hop of another run is the same router.
        assert_eq!(of_runs(&[limited(), limited()]), one);
        let mut further = limited();
        further.hops[0].ttl = 2;
        let two = of_runs(&[limited(), further]);
        assert!(two[0].text.starts_with("2 hops are missing because"), "{two:?}");
        let router = Answer::new("192.0.2.1".parse().unwrap(), None, None);
        let some = of_runs(&[
            limited(),
            run(
                Some(Answer {
                    destination: false,
                    ..router
                }),
                &[],
            ),
        ]);
        assert!(
            some[0].text.starts_with("1 hop is missing in some runs because"),
            "{some:?}"
        );
        // Nothing is missing where another attempt was answered.
        let answer = Answer::new(target(), None, None);
        assert_eq!(of_runs(&[run(Some(answer), &[(Cause::RateLimited, 2)])]), []);
    }

    #[test]
    fn distances_local_losses_and_attempts_that_could_not_be_told_apart() {
        let mut open = run(None, &[(Cause::Network, 1)]);
        open.distance = Distance::Unknown;
        open.retries_limited = true;
        let mut local = run(None, &[(Cause::Local, 1)]);
        local.retries_limited = true;
        assert_eq!(codes(&of_runs(&[local.clone()])), [WarningCode::Local]);
        let warnings = of_runs(&[local, open.clone()]);
        let expected = [
            WarningCode::Local,
            WarningCode::DistanceUnknown,
            WarningCode::NoRetries,
        ];
        assert_eq!(codes(&warnings), expected);
        assert!(
            warnings[0].text.starts_with("1 probe of the runs"),
            "{warnings:?}"
        );
        assert_eq!(
            warnings[1].text,
            "run 2: 192.0.2.9 answered, but its distance is unknown"
        );
        // Where everybody answered there was nothing to ask again.
        open.hops[0] = Hop {
            answer: Some(Answer::new(target(), None, None)),
            ..run(None, &[]).hops[0]
        };
        assert_eq!(codes(&of_runs(&[open])), [WarningCode::DistanceUnknown]);
    }

    #[test]
    fn end_to_end_probes_that_were_not_sent_or_not_lost() {
        let mut result = EndToEndResult {
            probes: vec![Some(Duration::from_millis(1)); 33],
            unsent: 17,
            refused: 1,
            limit: Some(Duration::from_millis(1500)),
            ..EndToEndResult::default()
        };
        result.lost.add(Cause::Local, 2);
        result.lost.add(Cause::RateLimited, 3);
        let warnings = Warning::of(target(), &[], Some((&result, 50)));
        let texts: Vec<&str> = warnings.iter().map(|warning| warning.text.as_str()).collect();
        for (text, beginning) in texts.iter().zip([
            "33 of 50 end-to-end probes were sent: 192.0.2.9 answers UDP probes once in 1500 ms at most",
            "this machine refused to send 1 end-to-end probe.",
            "2 end-to-end probes ended on this machine",
            "3 end-to-end probes went unanswered because 192.0.2.9 limits",
        ]) {
            assert!(text.starts_with(beginning), "{text}");
        }
        assert_eq!(texts.len(), 4);
        // What a program calls its flags, only that program knows.
        assert!(texts.iter().all(|text| !text.contains("--")), "{texts:?}");
    }
}
