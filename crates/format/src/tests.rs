//! All formats of the same reports.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use datadog_traceroute::document::Document;
use datadog_traceroute::{
    Answer, Cause, Distance, End, EndToEnd, Hop, IcmpError, Losses, Method, MplsStack, Names, Protocol,
    Report, Run, Statistics, TraceResult, Uuid,
};
use proptest::prelude::*;

use super::{Format, Screen, View};

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn milliseconds(text: &str) -> Option<Duration> {
    let milliseconds: f64 = text.parse().unwrap();
    (milliseconds > 0.0).then(|| Duration::from_nanos((milliseconds * 1e6).round() as u64))
}

/// A run in short notation: one word a hop, `*` for silence, or address and milliseconds as in
/// `192.0.2.1/1.5`. As if each answer had been captured.
fn run(number: u128, destination: &str, hops: &str) -> Run {
    let goal = address(destination);
    let source = if goal.is_ipv4() {
        "192.0.2.1"
    } else {
        "2001:db8::1"
    };
    let hop = |(ttl, word): (u8, &str)| {
        let answer = word.split_once('/').map(|(from, rtt)| Answer {
            destination: address(from) == goal,
            reply_ttl: 255 - ttl,
            quoted_ttl: Some(1),
            ..Answer::new(address(from), milliseconds(rtt), Some(IcmpError::TimeExceeded))
        });
        let mut lost = Losses::default();
        lost.add(Cause::Unknown, u32::from(answer.is_none()));
        Hop {
            ttl,
            answer,
            attempts: 1,
            lost,
            nat: false,
        }
    };
    let hops: Vec<Hop> = (1..).zip(hops.split_whitespace()).map(hop).collect();
    let mut run = Run::new(
        0,
        Method::Udp,
        TraceResult {
            source: address(source),
            source_port: 40_000,
            destination: goal,
            destination_port: 443,
            probes_sent: hops.len() as u32,
            hops,
            distance: Distance::Known,
            end: End::Destination,
            retries_limited: false,
        },
    );
    run.id = Uuid::from_u128(number);
    run
}

fn report(hostname: &str, protocol: Protocol, runs: Vec<Run>, rtts: &[&str]) -> Report {
    let mut report = Report::new(hostname, 33434, protocol, runs);
    report.end_to_end = EndToEnd::new(rtts.iter().copied().map(milliseconds).collect());
    report
}

fn name(report: &mut Report, of: &str, names: &[&str]) {
    let named = |(of, names): (&str, &[&str])| {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        (address(of), Arc::from(names))
    };
    let old = report.names.iter().map(|(of, names)| (of, Arc::from(names)));
    report.names = old.chain([named((of, names))]).collect::<Names>();
}

/// Probes by cause in short notation: `network=2 silent=1`.
fn causes(text: &str) -> Losses {
    let mut losses = Losses::default();
    for word in text.split_whitespace() {
        let (name, count) = word.split_once('=').unwrap();
        let cause = Cause::ALL.into_iter().find(|cause| cause.name() == name);
        losses.add(cause.unwrap(), count.parse().unwrap());
    }
    losses
}

/// What became of a run's probes at a TTL.
fn lose(report: &mut Report, run: usize, ttl: u8, attempts: u8, lost: &str) {
    let hop = &mut report.runs[run].hops[usize::from(ttl) - 1];
    (hop.attempts, hop.lost) = (attempts, causes(lost));
}

/// As if details had been asked for; `change` makes answers interesting.
fn detail(report: &mut Report, change: impl Fn(&mut Answer)) {
    for hop in report.runs.iter_mut().flat_map(|run| &mut run.hops) {
        match &mut hop.answer {
            Some(answer) => change(answer),
            None => (hop.attempts, hop.lost) = (3, causes("network=3")),
        }
    }
    let mut statistics = Statistics::default();
    let (engine, network) = (&mut statistics.engine, &mut statistics.network);
    (engine.sent, engine.send_retries, engine.matched) = (8, 1, 6);
    (engine.unmatched, network.captured) = (2, 9);
    (network.kernel_send_stamps, network.kernel_drops) = (7, 2);
    report.statistics = Some(Box::new(statistics));
}

fn unreachable_by(answer: &mut Answer, code: u8) {
    answer.error = Some(IcmpError::Unreachable { code });
}

fn empty() -> Report {
    report("example.com:8443", Protocol::Tcp, Vec::new(), &[])
}

fn all_silent() -> Report {
    let runs = vec![run(1, "198.51.100.9", "* * *"), run(2, "198.51.100.9", "* * *")];
    report("198.51.100.9", Protocol::Icmp, runs, &["0.0", "0.0"])
}

/// Load balancing over paths of different lengths, lost probes, and names, one of which holds what
/// CSV must quote.
fn several_addresses() -> Report {
    let goal = "198.51.100.9";
    let runs = vec![
        run(1, goal, "192.0.2.254/0.25 203.0.113.1/1.5 * 198.51.100.9/9"),
        run(
            2,
            goal,
            "192.0.2.254/0.5 203.0.113.2/12.75 203.0.113.5/8 203.0.113.6/8.5 198.51.100.9/10.125",
        ),
        run(3, goal, "* 203.0.113.1/1.7 * 198.51.100.9/9.5"),
    ];
    let mut report = report("example.com", Protocol::Tcp, runs, &["9.5", "0.0", "10.5", "9.0"]);
    report.public_ip = Some(address("203.0.113.200"));
    name(&mut report, "192.0.2.254", &["gateway.example.net"]);
    name(
        &mut report,
        "203.0.113.2",
        &["a, \"b\" and c.example.net", "second.example.net"],
    );
    name(&mut report, goal, &["example.com"]);
    report
}

fn ipv6_and_wide_names() -> Report {
    let runs = vec![run(
        1,
        "2001:db8:ffff::9",
        "2001:db8:1::1/0.75 2001:db8:2::1/123.456 2001:db8:ffff::9/1234.5",
    )];
    let mut report = report("2001:db8:ffff::9", Protocol::Udp, runs, &["1234.5"]);
    name(&mut report, "2001:db8:1::1", &["ルーター.例え.テスト"]);
    name(&mut report, "2001:db8:2::1", &["bu\u{308}cher.example"]);
    name(
        &mut report,
        "2001:db8:ffff::9",
        &["a-router-with-a-long-name.and.many.parts.example.net"],
    );
    report
}

fn hostile_names() -> Report {
    let runs = vec![run(1, "198.51.100.9", "192.0.2.254/1 198.51.100.9/2")];
    let mut report = report("host\x1b[2J\nname", Protocol::Udp, runs, &[]);
    name(
        &mut report,
        "192.0.2.254",
        &["\x1b]0;owned\x07\x1b[31mred\r\n  9  fake (192.0.2.66)\u{9b}2J"],
    );
    name(
        &mut report,
        "198.51.100.9",
        &["right\u{202e}tfel\\\"]; n0 -> n0 [label=\"x&lt;"],
    );
    report
}

fn unreachable() -> Report {
    let goal = "198.51.100.9";
    let runs = vec![
        run(1, goal, "192.0.2.254/0.25 203.0.113.1/1.5 * *"),
        run(2, goal, "192.0.2.254/0.5 203.0.113.1/1.25 * *"),
    ];
    let mut report = report(goal, Protocol::Udp, runs, &["0.0", "0.0", "0.0"]);
    detail(&mut report, |answer| {
        if answer.address == address("203.0.113.1") {
            unreachable_by(answer, 13);
            // The router would have sent the packet on: refusing it has nothing to do with its TTL.
            answer.quoted_ttl = Some(2);
        } else {
            // As where the system itself matches answers and tells no more.
            (answer.reply_ttl, answer.quoted_ttl) = (0, None);
            answer.kernel_stamped = false;
        }
    });
    report
}

fn mpls() -> Report {
    let runs = vec![run(
        1,
        "198.51.100.9",
        "192.0.2.254/0.25 203.0.113.1/1.5 198.51.100.9/2",
    )];
    let mut report = report("example.com", Protocol::Udp, runs, &["2.0"]);
    name(&mut report, "203.0.113.1", &["label-switching.example.net"]);
    detail(&mut report, |answer| {
        if answer.address == address("203.0.113.1") {
            answer.quoted_ttl = Some(0);
            // Labels 24001 and 24002, the latter at the bottom, with traffic class 5 and TTL 1.
            answer.mpls = MplsStack::default();
            answer.mpls.push(24001 << 12 | 5 << 9 | 1);
            answer.mpls.push(24002 << 12 | 5 << 9 | 0x100 | 1);
        }
    });
    report
}

/// One TTL for each cause, a NAT, a second attempt, an answer that may be to either of two, and two
/// ends before the destination.
fn causes_of_silence() -> Report {
    let goal = "198.51.100.9";
    let runs = vec![
        run(
            1,
            goal,
            "192.0.2.254/0.25 203.0.113.1/1.5 * * 203.0.113.5/0 * 203.0.113.7/4",
        ),
        run(
            2,
            goal,
            "192.0.2.254/0.5 * * * 203.0.113.5/2.5 203.0.113.6/3 203.0.113.7/4.5",
        ),
        run(
            3,
            goal,
            "192.0.2.254/0.75 203.0.113.1/1.25 * * 203.0.113.5/2.75 203.0.113.6/3.5 * *",
        ),
    ];
    let mut report = report(goal, Protocol::Udp, runs, &["9.0", "0.0", "0.0", "0.0"]);
    detail(&mut report, |answer| {
        if answer.address == address("203.0.113.7") {
            unreachable_by(answer, 1);
        }
    });
    // The first attempt lost, the second one answered.
    lose(&mut report, 0, 1, 2, "network=1");
    // A limit, whether or not another attempt was answered.
    lose(&mut report, 0, 2, 2, "rate_limited=1");
    lose(&mut report, 1, 2, 3, "rate_limited=3");
    for run in 0..3 {
        lose(&mut report, run, 3, 3, "silent=3");
        lose(&mut report, run, 4, 3, "local=3");
    }
    lose(&mut report, 0, 5, 2, "");
    lose(&mut report, 0, 6, 3, "network=2 local=1");
    lose(&mut report, 2, 7, 3, "filtered=3");
    lose(&mut report, 2, 8, 3, "filtered=3");
    report.runs[0].hops[4].nat = true;
    for run in &mut report.runs[..2] {
        run.end = refused_by("203.0.113.7");
    }
    report.runs[2].end = End::MaxTtl;
    report.runs[2].distance = Distance::Unknown;
    report.end_to_end.lost = causes("network=1 rate_limited=2");
    report.end_to_end.refused = 2;
    report
}

fn refused_by(from: &str) -> End {
    End::Refused {
        from: Some(address(from)),
        code: 1,
    }
}

fn without_private_hops() -> Report {
    let goal = "198.51.100.9";
    let run = run(
        1,
        goal,
        "192.168.1.1/0.25 10.0.0.1/1.5 203.0.113.1/2 198.51.100.9/3",
    );
    let mut report = report(goal, Protocol::Udp, vec![run], &["3"]);
    report.hide_private_hops();
    report
}

fn all() -> Vec<(&'static str, Report)> {
    vec![
        ("empty", empty()),
        ("all silent", all_silent()),
        ("several addresses", several_addresses()),
        ("IPv6 and wide names", ipv6_and_wide_names()),
        ("hostile names", hostile_names()),
        ("unreachable, with details", unreachable()),
        ("MPLS, with details", mpls()),
        ("causes of silence, with details", causes_of_silence()),
        ("without private hops", without_private_hops()),
    ]
}

fn render(format: Format, screen: Screen) -> String {
    let rendered = all().into_iter().map(|(name, report)| {
        let text = format.render(&report, view(&report, screen)).unwrap();
        format!("--- {name}\n{text}")
    });
    rendered.collect()
}

/// Of a user who asked for details, if there are any.
fn view(report: &Report, screen: Screen) -> View {
    View {
        screen,
        details: report.statistics.is_some(),
        option_prefix: "--",
    }
}

/// Of a user who did not.
const PLAIN: View = View {
    screen: Screen::NONE,
    details: false,
    option_prefix: "--",
};

fn terminal(width: usize) -> Screen {
    Screen {
        colour: false,
        width: Some(width),
    }
}

#[test]
fn table() {
    insta::assert_snapshot!("table", render(Format::Table, Screen::NONE));
    assert_eq!(
        render(Format::Table, terminal(200)),
        render(Format::Table, Screen::NONE)
    );
}

#[test]
fn a_quoted_ttl_is_notable_only_where_the_probe_ran_out_of_it() {
    let table = |report| {
        let view = view(&report, Screen::NONE);
        Format::Table.render(&report, view).unwrap()
    };
    let refused = table(unreachable());
    assert!(refused.contains("!X") && !refused.contains("quoted"), "{refused}");
    let expired = table(mpls());
    assert!(expired.contains("quoted 0"), "{expired}");
}

#[test]
fn table_on_a_narrow_terminal() {
    let rendered = render(Format::Table, terminal(80));
    insta::assert_snapshot!("table_80", rendered);
    let too_wide = rendered.lines().filter(|line| {
        super::text::width(line) > 80 && !line.starts_with("Traceroute to ") && !line.contains("owned")
    });
    assert_eq!(too_wide.collect::<Vec<_>>(), Vec::<&str>::new());
}

/// Remarks are for everybody; figures about packets are for those who ask.
#[test]
fn remarks_without_details() {
    let shown = [Format::Table, Format::Wide].map(|format| {
        let text = |report: &Report| format.render(report, PLAIN).unwrap();
        format!(
            "--- {format:?}\n{}\n{}",
            text(&causes_of_silence()),
            text(&unreachable())
        )
    });
    insta::assert_snapshot!("remarks", shown.concat());
    let labels = Format::Table.render(&mpls(), PLAIN).unwrap();
    let noted = labels.lines().filter(|line| line.ends_with("  MPLS"));
    assert_eq!(noted.count(), 1, "{labels}");
    let nothing_to_note = Format::Table.render(&several_addresses(), PLAIN).unwrap();
    assert!(!nothing_to_note.contains("Note"), "{nothing_to_note}");
}

#[test]
fn what_is_no_loss_is_not_shown_as_loss() {
    let table = Format::Table.render(&causes_of_silence(), PLAIN).unwrap();
    let loss = |ttl: &str| {
        let mut lines = table.lines().skip_while(|line| !line.starts_with("TTL"));
        let line = lines.find(|line| line.split_whitespace().next() == Some(ttl));
        line.unwrap().split_whitespace().nth(2).unwrap().to_owned()
    };
    let shown = ["1", "2", "3", "4", "5", "6", "7", "8"].map(loss);
    // TTL 1: four probes, one lost. TTL 6: five probes, two lost, and one never left.
    let expected = [
        "25.0%", "limited", "silent", "local", "0.0%", "50.0%", "filtered", "filtered",
    ];
    assert_eq!(shown, expected, "{table}");
}

/// A report of one run for each of `paths`, which says how the run ended.
fn ended(paths: &[(&str, End)], rtts: &[&str]) -> Report {
    let goal = "198.51.100.9";
    let runs = (1..)
        .zip(paths)
        .map(|(number, (hops, _))| run(number, goal, hops));
    let mut report = report(goal, Protocol::Udp, runs.collect(), rtts);
    detail(&mut report, |answer| {
        if answer.address == address("10.77.10.2") {
            unreachable_by(answer, 1);
        }
    });
    for (run, (_, end)) in report.runs.iter_mut().zip(paths) {
        run.end = *end;
    }
    report
}

#[test]
fn why_a_path_ends_is_said_below_it() {
    use End::{Destination, GapLimit, MaxTtl};
    let refused = ("192.0.2.254/1 10.77.10.2/2", refused_by("10.77.10.2"));
    let silent = ("192.0.2.254/1 203.0.113.1/2 * * *", MaxTtl);
    let beyond = ("192.0.2.254/1 203.0.113.1/2", MaxTtl);
    let reached = ("192.0.2.254/1 198.51.100.9/2", Destination);
    let refusal = "!H from 10.77.10.2 (host unreachable)";
    let lost = "End to end  2 probes sent, 0 answered, 100.0% lost";
    let not_reached = |why: &str| format!("Path        destination not reached{why}\n{lost}");
    for (paths, expected) in [
        (vec![refused], not_reached(&format!(": {refusal}"))),
        (
            vec![reached, refused],
            not_reached(&format!(": {refusal}\n            in 1 of 2 runs")),
        ),
        (
            vec![silent, refused],
            not_reached(&format!(": {refusal}\n            in 1 of 2 runs")),
        ),
        (vec![silent], not_reached(": no answer after TTL 2")),
        (
            vec![silent, ("192.0.2.254/1 * * * *", MaxTtl)],
            not_reached(": no answer after TTL 2"),
        ),
        (
            vec![("192.0.2.254/1 * *", GapLimit)],
            not_reached(": no answer after TTL 1, and --gap-limit gave up"),
        ),
        (vec![("* * *", MaxTtl)], not_reached(": no answer at any TTL")),
        (
            vec![beyond, reached],
            not_reached(": it is beyond --max-ttl 2\n            in 1 of 2 runs"),
        ),
        (
            vec![beyond],
            "Path        destination not reached: it is beyond --max-ttl 2\n\
             End to end  not measured: the target is beyond --max-ttl 2"
                .to_owned(),
        ),
        (vec![reached], lost.to_owned()),
    ] {
        for format in [Format::Table, Format::Wide] {
            let text = format.render(&ended(&paths, &["0", "0"]), PLAIN).unwrap();
            let (_, below) = text.rsplit_once("\n\n").unwrap();
            assert_eq!(below.trim_end(), expected, "{text}");
            // Over HTTP, options are no flags.
            let view = View {
                option_prefix: "",
                ..PLAIN
            };
            let text = format.render(&ended(&paths, &["0", "0"]), view).unwrap();
            assert!(text.contains(&expected.replace("--", "")), "{text}");
        }
    }
}

#[test]
fn silence_at_the_end_is_one_line() {
    let silent = ("192.0.2.254/1 * 203.0.113.1/2 * * *", End::MaxTtl);
    for (lost, expected) in [
        (["filtered=3"; 3], "4–6  no answer    filtered   0/1"),
        (["network=3"; 3], "4–6  no answer      100.0%   0/1"),
        (
            ["filtered=3", "rate_limited=2", "filtered=3"],
            "4–6  no answer               0/1                              2 rate limited, 6 filtered",
        ),
    ] {
        let mut report = ended(&[silent], &[]);
        for (ttl, lost) in (4..).zip(lost) {
            lose(&mut report, 0, ttl, 3, lost);
        }
        let table = Format::Table.render(&report, PLAIN).unwrap();
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let line = table.lines().find(|line| line.starts_with("4–6")).unwrap();
        assert_eq!(words(line), words(expected), "{table}");
        assert_eq!(table.matches("???").count(), 1, "{table}");
    }
}

#[test]
fn hidden_addresses_are_no_loss() {
    let run = run(1, "198.51.100.9", "10.0.0.1/1.5 198.51.100.9/3");
    let mut report = report("198.51.100.9", Protocol::Udp, vec![run], &["3"]);
    report.hide_private_hops();
    let table = Format::Table.render(&report, PLAIN).unwrap();
    let line = table.lines().find(|line| line.contains("???")).unwrap();
    assert!(line.ends_with("private") && !line.contains('%'), "{table}");
    let wide = Format::Wide.render(&report, PLAIN).unwrap();
    assert!(!wide.contains('*'), "{wide}");
}

#[test]
fn wide() {
    insta::assert_snapshot!("wide", render(Format::Wide, Screen::NONE));
}

#[test]
fn csv() {
    insta::assert_snapshot!("csv", render(Format::Csv, Screen::NONE));
    let report = several_addresses();
    let text = Format::Csv.render(&report, PLAIN).unwrap();
    let mut reader = ::csv::Reader::from_reader(text.as_bytes());
    let records: Vec<_> = reader.records().map(Result::unwrap).collect();
    let hops: usize = report.runs.iter().map(|run| run.hops.len()).sum();
    assert_eq!(records.len(), hops);
    assert_eq!(
        records[5].get(9),
        Some("a, \"b\" and c.example.net second.example.net")
    );
}

#[test]
fn dot() {
    insta::assert_snapshot!("dot", render(Format::Dot, Screen::NONE));
}

#[test]
fn json_is_the_contracts_and_details_come_last() {
    let report = several_addresses();
    let plain = Format::Json.render(&report, PLAIN).unwrap();
    let document: Document = serde_json::from_str(&plain).unwrap();
    assert_eq!(document, Document::of(&report));

    let detailed = mpls();
    let text = Format::Json.render(&detailed, PLAIN).unwrap();
    let (before, details) = text.split_once(",\n  \"details\": {\n").unwrap();
    let mut without = detailed.clone();
    without.statistics = None;
    assert_eq!(
        format!("{before}\n}}\n"),
        Format::Json.render(&without, PLAIN).unwrap()
    );
    assert!(details.ends_with("\n  }\n}\n"));
    assert_eq!(
        serde_json::from_str::<Document>(&text).unwrap(),
        Document::of(&detailed)
    );
    insta::assert_snapshot!("details", text);
}

#[test]
fn colour_is_all_that_terminals_get_in_addition() {
    let screen = Screen {
        colour: true,
        width: None,
    };
    for format in [Format::Table, Format::Wide] {
        let coloured = render(format, screen);
        assert_ne!(coloured, render(format, Screen::NONE));
        assert_eq!(without_colour(&coloured), render(format, Screen::NONE));
    }
    for format in [Format::Json, Format::Csv, Format::Dot] {
        assert_eq!(render(format, screen), render(format, Screen::NONE), "{format:?}");
    }
}

/// Removes "select graphic rendition" with plain numbers (ECMA-48 §8.3.117), and nothing else.
fn without_colour(text: &str) -> String {
    let mut pieces = text.split("\x1b[");
    let mut plain = pieces.next().unwrap().to_owned();
    for piece in pieces {
        let (numbers, rest) = piece.split_once('m').unwrap();
        assert!(numbers.bytes().all(|byte| byte.is_ascii_digit()), "{numbers:?}");
        plain.push_str(rest);
    }
    plain
}

proptest! {
    #[test]
    fn no_name_gets_at_the_terminal(hostname: String, names in prop::collection::vec(any::<String>(), 1..3), width in 1_usize..300) {
        let mut report = several_addresses();
        report.hostname = hostname;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        name(&mut report, "203.0.113.1", &names);
        for format in [Format::Table, Format::Wide, Format::Csv, Format::Dot] {
            for colour in [false, true] {
                let screen = Screen { colour, width: Some(width) };
                let view = View { screen, ..PLAIN };
                let text = without_colour(&format.render(&report, view).unwrap());
                prop_assert!(!text.replace('\n', "").contains(char::is_control), "{text:?}");
            }
        }
    }

    #[test]
    fn no_name_adds_lines(hostname: String, hop: String) {
        let mut report = several_addresses();
        let lines = |report: &Report| {
            [Format::Table, Format::Wide, Format::Csv, Format::Dot]
                .map(|format| format.render(report, PLAIN).unwrap().lines().count())
        };
        name(&mut report, "203.0.113.1", &["x"]);
        let expected = lines(&report);
        report.hostname = hostname;
        name(&mut report, "203.0.113.1", &[&hop]);
        prop_assert_eq!(lines(&report), expected);
    }
}
