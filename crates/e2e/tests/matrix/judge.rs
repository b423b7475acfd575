//! Whether a program's answer is what the matrix expects, down to every field.

use traceroute_e2e::{Layout, Report};

use crate::matrix::{Case, Expectation, Target};

/// What a program said.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Document(String, Layout),
    /// The cause, without what the program puts before every cause.
    Error(String),
    /// Neither, in a form that the contract does not have.
    Nonsense(String),
}

impl Answer {
    /// One message, after the words before it and before a final new line.
    pub(crate) fn error(text: &str, prefix: &str) -> Answer {
        let cause = text
            .strip_prefix(prefix)
            .and_then(|text| text.strip_suffix('\n'))
            .filter(|cause| !cause.is_empty());
        cause.map_or_else(
            || Answer::Nonsense(text.to_owned()),
            |cause| Answer::Error(cause.to_owned()),
        )
    }
}

/// A remark where the answer is better than it need be.
///
/// # Errors
/// What is wrong with the answer.
pub(crate) fn judge(case: &Case, answer: &Answer) -> Result<Option<String>, String> {
    match (&case.expectation, answer) {
        (_, Answer::Nonsense(text)) => {
            Err(format!("neither a document nor an error of the contract: {text}"))
        }
        (Expectation::Error(expected), Answer::Error(found)) => {
            let mut messages = case.addresses.iter().map(|address| {
                expected
                    .replace("{address}", &address.to_string())
                    .replace("{port}", &case.port.to_string())
            });
            if messages.any(|message| message == *found) {
                Ok(None)
            } else {
                Err(format!("expected {expected}, not {found}"))
            }
        }
        (Expectation::Error(expected), Answer::Document(text, _)) => {
            Err(format!("expected {expected}, not {text}"))
        }
        // Silence is no error of the programs.
        (Expectation::Reached | Expectation::Unreached, Answer::Error(error)) => Err(error.clone()),
        (Expectation::Unreached, Answer::Document(text, layout)) => {
            let report = read(case, text, *layout)?;
            let is_reached = reached(case, &report).is_ok();
            Ok(is_reached.then(|| "reached, though the contract expects that it is not".to_owned()))
        }
        (Expectation::Reached, Answer::Document(text, layout)) => {
            let report = read(case, text, *layout)?;
            reached(case, &report)
                .map(|()| None)
                .map_err(|reason| format!("{reason}: {report:?}"))
        }
    }
}

/// Reads a document, and compares with the request what has to be as it was asked for.
fn read(case: &Case, text: &str, layout: Layout) -> Result<Report, String> {
    let report = Report::read(text, layout)?;
    report.check_hop_count()?;
    let wrong = |what: &str| Err(format!("{what} is not as asked for: {report:?}"));
    if report.protocol != case.protocol {
        return wrong("protocol");
    }
    if (report.hostname.as_str(), report.port) != (&case.target, case.port) {
        return wrong("destination");
    }
    if report.runs.len() != Case::RUNS || report.e2e.sent != Case::PROBES {
        return wrong("the number of runs or probes");
    }
    if report.public_ip.is_some() != case.wants_public_ip() {
        return wrong("source.public_ip");
    }
    let port = if case.protocol == "icmp" { 0 } else { case.port };
    for run in &report.runs {
        if !case.addresses.contains(&run.destination) || run.destination_port != port {
            return wrong("a run's destination");
        }
        if run.hops.len() > usize::from(case.max_ttl()) {
            return wrong("the number of hops");
        }
        if !run.names.is_empty() || run.hops.iter().any(|hop| !hop.names.is_empty()) {
            return wrong("reverse_dns");
        }
    }
    Ok(report)
}

/// Whether every run ends at the target, by the right path where it is known, and end-to-end probes
/// are answered: all of them, except on the wide world's ways.
fn reached(case: &Case, report: &Report) -> Result<(), String> {
    for run in &report.runs {
        let hops: Vec<_> = run.hops.iter().map(traceroute_e2e::Hop::address).collect();
        let is_right = match &case.path {
            Some(path) => hops
                .iter()
                .eq(path.iter().map(|hop| Some(*hop)).collect::<Vec<_>>().iter()),
            None => hops.last() == Some(&Some(run.destination)),
        };
        if !is_right {
            return Err("a run does not end at the target as it should".to_owned());
        }
    }
    let enough = if case.kind == Target::Public {
        1
    } else {
        Case::PROBES
    };
    if report.e2e.received < enough {
        return Err(format!(
            "only {} end-to-end probes were answered",
            report.e2e.received
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERROR: &str = "no {address} port {port}";

    fn case(expectation: Expectation) -> Case {
        Case {
            protocol: "udp",
            method: None,
            kind: Target::FakeNetwork,
            target: "10.0.2.2".to_owned(),
            port: 33434,
            expectation,
            retries: 0,
            addresses: vec!["10.0.2.2".parse().unwrap()],
            path: Some(vec!["10.0.1.2".parse().unwrap(), "10.0.2.2".parse().unwrap()]),
        }
    }

    fn run(id: u32, hops: &str) -> String {
        format!(
            r#"{{"run_id":"7f3fcb63-6e54-4a8a-9f8c-3b8edb3e91a{id}","source":{{"ip_address":"10.0.1.1","port":4000}},"destination":{{"ip_address":"10.0.2.2","port":33434}},"hops":[{hops}]}}"#
        )
    }

    fn hop(ttl: usize, address: &str) -> String {
        let rtt = u8::from(!address.is_empty());
        let reachable = !address.is_empty();
        format!(r#"{{"ttl":{ttl},"ip_address":"{address}","rtt":{rtt},"reachable":{reachable}}}"#)
    }

    fn document(hops: &[&str], rtt: u8) -> String {
        let list: Vec<String> = (1..).zip(hops).map(|(ttl, address)| hop(ttl, address)).collect();
        let runs = [run(1, &list.join(",")), run(2, &list.join(","))].join(",");
        let (count, received, loss) = (hops.len(), 3 * rtt, 1 - rtt);
        format!(
            r#"{{"protocol":"udp","source":{{"public_ip":""}},"destination":{{"hostname":"10.0.2.2","port":33434}},"traceroute":{{"runs":[{runs}],"hop_count":{{"avg":{count},"min":{count},"max":{count}}}}},"e2e_probe":{{"rtts":[{rtt},{rtt},{rtt}],"packets_sent":3,"packets_received":{received},"packet_loss_percentage":{loss},"jitter":0,"rtt":{{"avg":{rtt},"min":{rtt},"max":{rtt}}}}}}}"#
        ) + "\n"
    }

    fn right() -> String {
        document(&["10.0.1.2", "10.0.2.2"], 1)
    }

    fn judged(expectation: Expectation, text: &str) -> Result<Option<String>, String> {
        judge(
            &case(expectation),
            &Answer::Document(text.to_owned(), Layout::Compact),
        )
    }

    #[test]
    fn a_target_that_should_be_reached_has_to_be() {
        assert_eq!(judged(Expectation::Reached, &right()), Ok(None));
        for (hops, rtt) in [
            (vec!["10.0.1.2", "10.0.2.2"], 0),
            (vec!["10.0.2.2"], 1),
            (vec!["", "10.0.2.2"], 1),
            (vec!["10.0.1.2", "10.0.9.9"], 1),
            (vec!["10.0.1.2", "10.0.2.2", "10.0.2.2"], 1),
            (vec![""; 6], 0),
        ] {
            assert!(
                judged(Expectation::Reached, &document(&hops, rtt)).is_err(),
                "{hops:?}"
            );
        }
        let error = Answer::Error("anything".to_owned());
        assert!(judge(&case(Expectation::Reached), &error).is_err());
    }

    #[test]
    fn what_was_not_asked_for_is_refused() {
        for (from, to) in [
            (r#""protocol":"udp""#, r#""protocol":"tcp""#),
            (r#""hostname":"10.0.2.2""#, r#""hostname":"10.0.2.3""#),
            (
                r#""hostname":"10.0.2.2","port":33434"#,
                r#""hostname":"10.0.2.2","port":33435"#,
            ),
            (
                r#""ip_address":"10.0.2.2","port":33434"#,
                r#""ip_address":"10.0.2.2","port":33435"#,
            ),
            (
                r#""ip_address":"10.0.2.2","port":33434"#,
                r#""ip_address":"10.0.2.3","port":33434"#,
            ),
            (r#""public_ip":"""#, r#""public_ip":"203.0.113.9""#),
            (r#""reachable":true"#, r#""reachable":true,"reverse_dns":["a"]"#),
        ] {
            let text = right().replacen(from, to, 1);
            assert_ne!(text, right(), "{from}");
            for expectation in [Expectation::Reached, Expectation::Unreached] {
                assert!(judged(expectation, &text).is_err(), "{from}");
            }
        }
        let long = document(&[""; 7], 0);
        assert!(judged(Expectation::Unreached, &long).is_err());
    }

    #[test]
    fn a_target_that_need_not_be_reached_may_be() {
        let silent = document(&[""; 6], 0);
        assert_eq!(judged(Expectation::Unreached, &silent), Ok(None));
        assert!(judged(Expectation::Unreached, &right()).unwrap().is_some());
        let nonsense = Answer::Nonsense("panicked".to_owned());
        assert!(judge(&case(Expectation::Unreached), &nonsense).is_err());
        let error = Answer::Error("anything".to_owned());
        assert!(judge(&case(Expectation::Unreached), &error).is_err());
    }

    #[test]
    fn errors_are_compared_to_the_letter() {
        let expected = || case(Expectation::Error(ERROR.to_owned()));
        let said = |text: &str| Answer::error(&format!("Error: {text}\n"), "Error: ");
        assert_eq!(judge(&expected(), &said("no 10.0.2.2 port 33434")), Ok(None));
        for wrong in ["no 10.0.2.2 port 33435", "no 10.0.2.2 port 33434, or so", ""] {
            assert!(judge(&expected(), &said(wrong)).is_err(), "{wrong}");
        }
        assert!(judged(Expectation::Error(ERROR.to_owned()), &right()).is_err());
    }
}
