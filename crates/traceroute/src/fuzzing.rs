//! The fuzz target's body: it takes any bytes and panics when something is wrong.
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a panic is what it finds"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use traceroute_engine::{Answer, Cause, Distance, End, Hop, Losses, Method, TraceResult};
use traceroute_wire::IcmpError;

use crate::report::{EndToEnd, Report, Run};
use crate::request::{Host, MAX_QUERIES, MAX_TIMEOUT_MS, Protocol, Request, RequestBuilder, TcpMethod};
use crate::target;
use crate::{document::Document, json, names, notation, notation_in_words};

/// A target by its name, which is also the name of its corpus.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const ALL: [Target; 1] = [("library", library)];

/// Any bytes as a target, as a request's values, as what the system's files and a name server say,
/// and as a report.
pub fn library(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    match kind % 4 {
        0 => check_target(&String::from_utf8_lossy(rest)),
        1 => check_request(Bytes(rest)),
        2 => check_names(rest),
        _ => check_report(Bytes(rest)),
    }
}

/// What is left of the input. When it is used up, zeros follow.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let bytes = self.slice(N);
        array[..bytes.len()].copy_from_slice(bytes);
        array
    }

    fn slice(&mut self, most: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    fn byte(&mut self) -> u8 {
        u8::from_be_bytes(self.array())
    }

    fn flag(&mut self) -> bool {
        self.byte() & 1 != 0
    }

    fn text(&mut self) -> String {
        let length = self.byte().into();
        String::from_utf8_lossy(self.slice(length)).into_owned()
    }

    fn address(&mut self) -> IpAddr {
        if self.flag() {
            Ipv6Addr::from(self.array::<16>()).into()
        } else {
            Ipv4Addr::from(self.array::<4>()).into()
        }
    }

    /// Small ones, and any.
    fn time(&mut self) -> Duration {
        match self.byte() {
            byte if byte < 200 => Duration::from_millis(byte.into()),
            _ => Duration::new(
                u64::from_be_bytes(self.array()),
                u32::from_be_bytes(self.array()) % 1_000_000_000,
            ),
        }
    }
}

/// What is taken for a target is an address, or a name that means the same when it is read again.
fn check_target(text: &str) {
    let target = text.parse::<target::Target>();
    let request = Request::to(text).build();
    assert_eq!(request.is_ok(), target.is_ok(), "{text:?}");
    let target = match target {
        Ok(target) => target,
        Err(problem) => return check_message(&problem.to_string()),
    };
    assert_ne!(target.port, Some(0));
    let again = match &target.host {
        Host::Name(name) => {
            assert!(name.is_ascii() && (1..=254).contains(&name.len()), "{name:?}");
            name.parse::<target::Target>()
        }
        Host::Address(address) => {
            assert_eq!(*address, address.to_canonical());
            let is_link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
            assert!(target.zone.is_none() || is_link_local, "{text:?}");
            address.to_string().parse()
        }
    };
    let same = target::Target {
        zone: None,
        port: None,
        ..target
    };
    assert_eq!(again, Ok(same), "{text:?}");
}

fn check_message(message: &str) {
    assert!(
        !message.is_empty() && !message.contains(char::is_control),
        "{message:?}"
    );
}

/// A request that is built keeps all ranges, and its times can be computed.
fn check_request(mut bytes: Bytes<'_>) {
    let mut request = any_request(&mut bytes);
    for _ in 0..bytes.byte() % 16 {
        request = with_any_value(request, &mut bytes);
    }
    let request = match request.build() {
        Ok(request) => request,
        Err(problem) => return check_message(&problem.to_string()),
    };
    let longest = Duration::from_millis(MAX_TIMEOUT_MS);
    assert!(request.port() > 0 && request.probed_port() > 0);
    assert!(request.runs() <= MAX_QUERIES && request.e2e_probes() <= MAX_QUERIES);
    assert!(1 <= request.first_ttl() && request.first_ttl() <= request.max_ttl());
    assert!(request.hop_retries() <= traceroute_engine::MAX_HOP_RETRIES);
    assert!(!request.timeout().is_zero() && request.timeout() <= longest);
    assert!(request.delay().is_none_or(|delay| delay <= request.timeout()));
    assert!(request.packet_size().is_none_or(|size| size >= 36));
    assert!(request.interface() != Some(""));
    if let (Host::Address(target), Some(source)) = (request.host(), request.source()) {
        assert_eq!(target.is_ipv4(), source.is_ipv4());
    }
    assert!(request.e2e_time() <= request.longest(), "{request:?}");
    assert!(request.time_limit() > request.longest());
    assert!(request.traces_at_once() <= request.runs() + request.e2e_probes());
}

fn any_request(bytes: &mut Bytes<'_>) -> RequestBuilder {
    match bytes.byte() % 4 {
        0 => Request::to(bytes.text()),
        1 => Request::to(bytes.address().to_string()),
        _ => Request::to("example.com"),
    }
}

fn with_any_value(request: RequestBuilder, bytes: &mut Bytes<'_>) -> RequestBuilder {
    let [number, small] = [u32::from_be_bytes(bytes.array()), bytes.byte().into()];
    match bytes.byte() % 18 {
        0 => request.protocol(Protocol::ALL[number as usize % 3]),
        1 => request.tcp_method(
            [
                TcpMethod::Syn,
                TcpMethod::Sack,
                TcpMethod::PreferSack,
                TcpMethod::SynSocket,
            ][number as usize % 4],
        ),
        2 => request.port(number as u16),
        3 => request.runs(number),
        4 => request.e2e_probes(number),
        5 => request.runs(small),
        6 => request.e2e_probes(small),
        7 => request.first_ttl(number as u8),
        8 => request.max_ttl(number as u8),
        9 => request.timeout(bytes.time()),
        10 => request.hop_retries(number as u8),
        11 => request.e2e_interval(bytes.time()),
        12 => request.delay(bytes.time()),
        13 => request.packet_size(number as u16),
        14 => request.source(bytes.address()),
        15 => request.interface(bytes.text()),
        16 => request.ipv6(number & 1 != 0).ipv4_only(number & 2 != 0),
        _ => match NonZeroU32::new(number) {
            Some(mark) => request.fwmark(mark),
            None => request,
        },
    }
}

/// Up to three parts, with 255 between them.
fn check_names(data: &[u8]) {
    let mut parts = data.splitn(3, |byte| *byte == 0xFF);
    let [name, file, answer] = [(); 3].map(|()| parts.next().unwrap_or_default());
    let [name, text] = [name, file].map(String::from_utf8_lossy);
    names::read_anything(file, answer, (&text, &name));
}

/// The document of any report is valid JSON that reads back.
fn check_report(mut bytes: Bytes<'_>) {
    let hostname = bytes.text();
    let runs = (0..bytes.byte() % 4)
        .map(|index| any_run(index.into(), &mut bytes))
        .collect();
    let mut report = Report::new(
        hostname.clone(),
        u16::from_be_bytes(bytes.array()),
        Protocol::ALL[0],
        runs,
    );
    let count = bytes.byte();
    report.end_to_end = EndToEnd::new(
        (0..count)
            .map(|_| bytes.flag().then(|| bytes.time() / 4096))
            .collect(),
    );
    // Details.
    report.statistics = bytes.flag().then(Box::default);
    let text = json::to_compact(&report).unwrap();
    assert!(text.ends_with('\n') && !text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']));
    let read: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(read["destination"]["hostname"], hostname.as_str());
    serde_json::from_str::<Document>(&text).unwrap();
    let pretty = json::to_pretty(&report).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&pretty).unwrap(), read);
    for answer in report
        .runs
        .iter()
        .flat_map(|run| &run.hops)
        .filter_map(|hop| hop.answer.as_ref())
    {
        let short = notation(answer);
        assert!(
            short
                .as_ref()
                .is_none_or(|short| short.starts_with('!') && short.is_ascii()),
            "{answer:?}"
        );
        assert!(
            short.is_some() || notation_in_words(answer).is_none(),
            "{answer:?}"
        );
    }
}

fn any_run(index: u32, bytes: &mut Bytes<'_>) -> Run {
    let hops = (1..=bytes.byte() % 32).map(|ttl| {
        let (mut lost, count) = (Losses::default(), bytes.byte() % 128);
        lost.add(
            Cause::ALL[usize::from(bytes.byte()) % Cause::ALL.len()],
            count.into(),
        );
        let answer = bytes.flag().then(|| any_answer(bytes));
        Hop {
            ttl,
            attempts: count + u8::from(answer.is_some()),
            answer,
            lost,
            nat: bytes.flag(),
        }
    });
    let hops = hops.collect();
    let ends = [
        End::Destination,
        End::MaxTtl,
        End::GapLimit,
        End::Refused {
            from: None,
            code: bytes.byte(),
        },
    ];
    let result = TraceResult {
        source: bytes.address(),
        source_port: u16::from_be_bytes(bytes.array()),
        destination: bytes.address(),
        destination_port: u16::from_be_bytes(bytes.array()),
        hops,
        probes_sent: u32::from_be_bytes(bytes.array()),
        distance: if bytes.flag() {
            Distance::Unknown
        } else {
            Distance::Known
        },
        end: ends[usize::from(bytes.byte()) % ends.len()],
        retries_limited: bytes.flag(),
    };
    Run::new(index, Method::Udp, result)
}

fn any_answer(bytes: &mut Bytes<'_>) -> Answer {
    let (address, rtt) = (bytes.address(), bytes.flag().then(|| bytes.time() / 4096));
    let error = match bytes.byte() % 3 {
        0 => None,
        1 => Some(IcmpError::TimeExceeded),
        _ => Some(IcmpError::Unreachable { code: bytes.byte() }),
    };
    Answer {
        destination: bytes.flag(),
        ..Answer::new(address, rtt, error)
    }
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
#[test]
fn targets_survive_their_corpora() {
    replay::replay(&ALL);
}
