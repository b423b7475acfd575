//! The JSON document, read as strictly as the contract is written: every name, type, range and
//! place, and every figure that follows from others computed anew.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

use crate::Result;
use crate::details::Details;
use crate::json::{Fields, Json, Value};

/// White space in a document. Both end with one new line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// The command line's: indented by two spaces.
    Indented,
    /// The server's: none.
    Compact,
}

/// What a trace found.
#[derive(Debug)]
pub struct Report {
    /// `udp`, `tcp` or `icmp`.
    pub protocol: String,
    /// This machine's address as others see it, where asked for and found.
    pub public_ip: Option<Ipv4Addr>,
    /// The target as it was given.
    pub hostname: String,
    /// The request's port.
    pub port: u16,
    /// The traceroute runs.
    pub runs: Vec<Run>,
    /// Hops of the runs.
    pub hop_count: HopCount,
    /// The end-to-end probes.
    pub e2e: E2e,
    /// What else the probes learned, where asked for.
    pub details: Option<Details>,
}

/// One traceroute run.
#[derive(Debug)]
pub struct Run {
    /// A random UUID.
    pub id: String,
    /// Where its probes came from.
    pub source: IpAddr,
    /// The port they came from; for ICMP any.
    pub source_port: u16,
    /// Where its probes went.
    pub destination: IpAddr,
    /// The port they went to; 0 for ICMP.
    pub destination_port: u16,
    /// Names of the destination.
    pub names: Vec<String>,
    /// TTL 1 and following.
    pub hops: Vec<Hop>,
}

/// What a TTL found.
#[derive(Debug)]
pub struct Hop {
    /// From 1.
    pub ttl: u64,
    /// Who answered, and after how many ms.
    pub answer: Option<(IpAddr, f64)>,
    /// Names of who answered.
    pub names: Vec<String>,
}

impl Hop {
    /// Who answered.
    pub fn address(&self) -> Option<IpAddr> {
        self.answer.map(|(address, _)| address)
    }
}

/// Statistics of the runs' hop counts.
#[derive(Debug, PartialEq)]
pub struct HopCount {
    /// Of all runs.
    pub avg: f64,
    /// Of runs with hops.
    pub min: u64,
    /// Of all runs.
    pub max: u64,
}

/// The end-to-end probes and their statistics.
#[derive(Debug)]
pub struct E2e {
    /// In ms; 0: no answer.
    pub rtts: Vec<f64>,
    /// Probes.
    pub sent: u64,
    /// Answers.
    pub received: u64,
    /// In \[0, 1\].
    pub loss: f64,
    /// In ms.
    pub jitter: f64,
    /// In ms.
    pub avg: f64,
    /// In ms.
    pub min: f64,
    /// In ms.
    pub max: f64,
}

impl Report {
    /// Reads what a program prints.
    ///
    /// # Errors
    /// What is not as the contract says, and where.
    pub fn read(text: &str, layout: Layout) -> Result<Report> {
        let json: Json = serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))?;
        let expected = json.write(layout);
        if text != expected {
            let differing = text
                .lines()
                .zip(expected.lines())
                .find(|(found, expected)| found != expected);
            return Err(format!(
                "not {layout:?}, or a number or a string in an odd form: {differing:?}"
            ));
        }
        let report = Report::from(Value::document(json))?;
        report.e2e.check()?;
        report.check_times()?;
        if let Some(details) = &report.details {
            details.check(&report)?;
        }
        Ok(report)
    }

    /// Whether the hop counts are those of the hops: not so once private hops are removed.
    ///
    /// # Errors
    /// What they should be.
    pub fn check_hop_count(&self) -> Result<()> {
        let counts: Vec<u64> = self.runs.iter().map(Run::hop_count).collect();
        let some = counts.iter().copied().filter(|count| *count > 0);
        let expected = HopCount {
            avg: counts.iter().sum::<u64>() as f64 / counts.len().max(1) as f64,
            min: some.clone().min().unwrap_or(0),
            max: some.max().unwrap_or(0),
        };
        if self.hop_count == expected {
            Ok(())
        } else {
            Err(format!("hop_count should be {expected:?}: {self:?}"))
        }
    }

    /// An answer has a round-trip time, unless details say that it may be to any of several probes.
    fn check_times(&self) -> Result<()> {
        if self.details.is_some() {
            return Ok(());
        }
        for (run, of) in self.runs.iter().enumerate() {
            if let Some(hop) = of
                .hops
                .iter()
                .find(|hop| hop.answer.is_some_and(|(_, rtt)| rtt == 0.0))
            {
                let index = hop.ttl - 1;
                return Err(format!(
                    "document.traceroute.runs[{run}].hops[{index}]: reachable is true after 0 ms"
                ));
            }
        }
        Ok(())
    }

    fn from(document: Value) -> Result<Report> {
        let mut top = document.object()?;
        let protocol = top.take("protocol")?.text()?;
        let mut source = top.take("source")?.object()?;
        let public_ip = public_ip(source.take("public_ip")?)?;
        source.end()?;
        let mut destination = top.take("destination")?.object()?;
        let hostname = destination.take("hostname")?.text()?;
        let port = destination.take("port")?.port()?;
        destination.end()?;
        let mut traceroute = top.take("traceroute")?.object()?;
        let runs = traceroute.take("runs")?.list()?;
        let runs = runs
            .into_iter()
            .map(|run| Run::from(run, &protocol))
            .collect::<Result<Vec<_>>>()?;
        let hop_count = HopCount::from(traceroute.take("hop_count")?)?;
        traceroute.end()?;
        let e2e = E2e::from(top.take("e2e_probe")?)?;
        let details = top.take_optional("details").map(Details::from).transpose()?;
        if !["udp", "tcp", "icmp"].contains(&protocol.as_str()) {
            return top.wrong(format_args!("unknown protocol {protocol}"));
        }
        if hostname.is_empty() || port == 0 {
            return top.wrong("no destination");
        }
        let ids: HashSet<&str> = runs.iter().map(|run| run.id.as_str()).collect();
        if ids.len() < runs.len() {
            return top.wrong("two runs with the same run_id");
        }
        top.end()?;
        Ok(Report {
            protocol,
            public_ip,
            hostname,
            port,
            runs,
            hop_count,
            e2e,
            details,
        })
    }
}

/// Empty, or an address that others can see.
fn public_ip(value: Value) -> Result<Option<Ipv4Addr>> {
    let text = value.text()?;
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse::<Ipv4Addr>() {
        Ok(address) if !(address.is_private() || address.is_loopback() || address.is_unspecified()) => {
            Ok(Some(address))
        }
        _ => Err(format!("source.public_ip: no public IPv4 address: {text:?}")),
    }
}

impl Run {
    fn from(json: Value, protocol: &str) -> Result<Run> {
        let mut run = json.object()?;
        let id = run.take("run_id")?.text()?;
        let mut from = run.take("source")?.object()?;
        let (source, source_port) = (from.take("ip_address")?.address()?, from.take("port")?.port()?);
        from.end()?;
        let mut to = run.take("destination")?.object()?;
        let (destination, destination_port) = (to.take("ip_address")?.address()?, to.take("port")?.port()?);
        let names = reverse_dns(&mut to)?;
        to.end()?;
        let hops = run.take("hops")?.list()?;
        let hops = hops.into_iter().map(Hop::from).collect::<Result<Vec<_>>>()?;
        if !is_random_uuid(&id) {
            return run.wrong(format_args!("run_id is no random UUID: {id}"));
        }
        if source.is_ipv4() != destination.is_ipv4() {
            return run.wrong(format_args!("from {source} to {destination}"));
        }
        if source_port == 0 || (destination_port == 0) != (protocol == "icmp") {
            return run.wrong(format_args!(
                "{protocol} from port {source_port} to port {destination_port}"
            ));
        }
        if hops.is_empty() || hops.len() > 255 || !(1..).zip(&hops).all(|(ttl, hop)| hop.ttl == ttl) {
            return run.wrong("TTLs do not go from 1 upwards");
        }
        run.end()?;
        Ok(Run {
            id,
            source,
            source_port,
            destination,
            destination_port,
            names,
            hops,
        })
    }

    /// The TTL of the last hop that answered, or of the last hop when none did.
    fn hop_count(&self) -> u64 {
        let last = self.hops.iter().rfind(|hop| hop.answer.is_some());
        last.or(self.hops.last()).map_or(0, |hop| hop.ttl)
    }
}

/// RFC 9562 section 5.4: version 4 in the 36-character form, in lower case.
fn is_random_uuid(id: &str) -> bool {
    let fits = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        14 => byte == b'4',
        19 => b"89ab".contains(&byte),
        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    };
    id.len() == 36 && id.bytes().enumerate().all(fits)
}

impl Hop {
    fn from(json: Value) -> Result<Hop> {
        let mut hop = json.object()?;
        let ttl = hop.take("ttl")?.integer()?;
        let address = hop.take("ip_address")?;
        let rtt = hop.take("rtt")?.number()?;
        let reachable = hop.take("reachable")?.boolean()?;
        let names = reverse_dns(&mut hop)?;
        let answer = if reachable {
            Some((address.address()?, rtt))
        } else if address.text()?.is_empty() && names.is_empty() {
            None
        } else {
            return hop.wrong("an address or a name of a hop that did not answer");
        };
        if !reachable && rtt > 0.0 {
            return hop.wrong(format_args!("reachable is {reachable} after {rtt} ms"));
        }
        hop.end()?;
        Ok(Hop { ttl, answer, names })
    }
}

fn reverse_dns(fields: &mut Fields) -> Result<Vec<String>> {
    let Some(names) = fields.take_optional("reverse_dns") else {
        return Ok(Vec::new());
    };
    let names = names
        .list()?
        .into_iter()
        .map(Value::text)
        .collect::<Result<Vec<_>>>()?;
    if names.is_empty() || names.iter().any(|name| name.is_empty() || name.ends_with('.')) {
        return fields.wrong(format_args!(
            "names {names:?}: a list without names is left out, and so is a final dot"
        ));
    }
    Ok(names)
}

impl HopCount {
    fn from(json: Value) -> Result<HopCount> {
        let mut fields = json.object()?;
        let hop_count = HopCount {
            avg: fields.take("avg")?.number()?,
            min: fields.take("min")?.integer()?,
            max: fields.take("max")?.integer()?,
        };
        fields.end()?;
        Ok(hop_count)
    }
}

impl E2e {
    fn from(json: Value) -> Result<E2e> {
        let mut fields = json.object()?;
        let rtts = fields.take("rtts")?.list()?;
        let rtts = rtts.into_iter().map(Value::number).collect::<Result<_>>()?;
        let sent = fields.take("packets_sent")?.integer()?;
        let received = fields.take("packets_received")?.integer()?;
        let loss = fields.take("packet_loss_percentage")?.number()?;
        let jitter = fields.take("jitter")?.number()?;
        let mut rtt = fields.take("rtt")?.object()?;
        fields.end()?;
        let e2e = E2e {
            rtts,
            sent,
            received,
            loss,
            jitter,
            avg: rtt.take("avg")?.number()?,
            min: rtt.take("min")?.number()?,
            max: rtt.take("max")?.number()?,
        };
        rtt.end()?;
        Ok(e2e)
    }

    /// Whether the statistics are those of the round-trip times.
    fn check(&self) -> Result<()> {
        let received: Vec<f64> = self.rtts.iter().copied().filter(|rtt| *rtt > 0.0).collect();
        let (all, answered) = (self.rtts.len() as u64, received.len() as u64);
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let differences: Vec<f64> = received
            .windows(2)
            .map(|pair| (pair[1] - pair[0]).abs())
            .collect();
        let figures = [
            ("packets_sent", self.sent as f64, all as f64),
            ("packets_received", self.received as f64, answered as f64),
            ("packet_loss_percentage", self.loss, loss(all, answered)),
            ("jitter", self.jitter, mean(&differences)),
            ("rtt.avg", self.avg, mean(&received)),
            (
                "rtt.min",
                self.min,
                received.iter().copied().reduce(f64::min).unwrap_or(0.0),
            ),
            (
                "rtt.max",
                self.max,
                received.iter().copied().reduce(f64::max).unwrap_or(0.0),
            ),
        ];
        for (name, found, expected) in figures {
            // Sums may be rounded in another order.
            if (found - expected).abs() > 1e-9 {
                return Err(format!("e2e_probe.{name} should be {expected}: {self:?}"));
            }
        }
        Ok(())
    }
}

/// In single precision, and as that is printed: 0.02, which in double precision would be
/// 0.019999999552965164.
fn loss(sent: u64, received: u64) -> f64 {
    let loss = (sent - received) as f32 / sent.max(1) as f32;
    loss.to_string().parse().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The contract's example, as the program would print it.
    const GOLDEN: &str = r#"{
  "protocol": "udp",
  "source": {
    "public_ip": "203.0.113.10"
  },
  "destination": {
    "hostname": "example.com",
    "port": 33434
  },
  "traceroute": {
    "runs": [
      {
        "run_id": "7f3fcb63-6e54-4a8a-9f8c-3b8edb3e91ac",
        "source": {
          "ip_address": "192.0.2.10",
          "port": 54321
        },
        "destination": {
          "ip_address": "93.184.216.34",
          "port": 33434,
          "reverse_dns": [
            "example.com"
          ]
        },
        "hops": [
          {
            "ttl": 1,
            "ip_address": "192.0.2.1",
            "rtt": 1.2,
            "reachable": true
          },
          {
            "ttl": 2,
            "ip_address": "",
            "rtt": 0,
            "reachable": false
          },
          {
            "ttl": 3,
            "ip_address": "93.184.216.34",
            "rtt": 12.7,
            "reachable": true,
            "reverse_dns": [
              "example.com"
            ]
          }
        ]
      }
    ],
    "hop_count": {
      "avg": 3,
      "min": 3,
      "max": 3
    }
  },
  "e2e_probe": {
    "rtts": [
      12.7,
      12.5,
      0,
      12.9
    ],
    "packets_sent": 4,
    "packets_received": 3,
    "packet_loss_percentage": 0.25,
    "jitter": 0.3,
    "rtt": {
      "avg": 12.7,
      "min": 12.5,
      "max": 12.9
    }
  }
}
"#;

    /// Reads a document that a change of one place has made wrong.
    fn read_changed(from: &str, to: &str) -> Result<Report> {
        let text = GOLDEN.replacen(from, to, 1);
        assert_ne!(text, GOLDEN, "{from}");
        let report = Report::read(&text, Layout::Indented)?;
        report.check_hop_count()?;
        Ok(report)
    }

    #[test]
    fn the_contracts_example_is_read() {
        let report = Report::read(GOLDEN, Layout::Indented).unwrap();
        report.check_hop_count().unwrap();
        assert_eq!(report.public_ip.unwrap().to_string(), "203.0.113.10");
        assert_eq!(report.runs[0].names, ["example.com"]);
        assert_eq!(report.runs[0].hops[1].answer, None);
    }

    #[test]
    fn the_servers_layout_is_read_and_not_mixed_up() {
        let json: Json = serde_json::from_str(GOLDEN).unwrap();
        let compact = json.write(Layout::Compact);
        assert!(!compact.trim_end().contains(['\n', ' ']));
        assert!(Report::read(&compact, Layout::Compact).is_ok());
        assert!(Report::read(&compact, Layout::Indented).is_err());
        assert!(Report::read(GOLDEN, Layout::Compact).is_err());
    }

    /// What is right, though the example does not show it.
    #[test]
    fn other_right_documents_are_read() {
        for (from, to) in [
            ("203.0.113.10", ""),
            ("\"port\": 54321", "\"port\": 65535"),
            ("\"rtt\": 1.2,", "\"rtt\": 0.000001,"),
            ("\"example.com\",\n", "\"a\\u0026b.example\",\n"),
        ] {
            read_changed(from, to).unwrap();
        }
    }

    /// The checks are only worth something if they fail when they should, and say where.
    #[test]
    fn what_differs_from_the_contract_is_refused() {
        let changes = [
            (
                "\"protocol\": \"udp\"",
                "\"protocol\": \"sctp\"",
                "unknown protocol sctp",
            ),
            (
                "\"protocol\": \"udp\"",
                "\"protocol\": \"UDP\"",
                "unknown protocol UDP",
            ),
            (
                "\"protocol\": \"udp\"",
                "\"protocol\": \"icmp\"",
                "icmp from port 54321",
            ),
            ("  \"protocol\": \"udp\",\n", "", "source where protocol belongs"),
            ("203.0.113.10", "2001:db8::1", "source.public_ip"),
            ("203.0.113.10", "10.0.0.1", "source.public_ip"),
            (
                "\"hostname\": \"example.com\"",
                "\"hostname\": \"\"",
                "no destination",
            ),
            ("\"avg\": 3,", "\"avg\": 3.0,", "odd form"),
            ("\"avg\": 3,", "\"avg\": 2.5,", "hop_count should be"),
            ("\"min\": 3,", "\"min\": 2,", "hop_count should be"),
            ("\"max\": 3\n", "\"max\": 4\n", "hop_count should be"),
            ("\"max\": 3\n", "\"max\": 3.5\n", "hop_count.max: no integer"),
            (
                "\"avg\": 3,",
                "\"avg\": 3,\n      \"median\": 3,",
                "median where min belongs",
            ),
            (
                "\"max\": 3\n",
                "\"max\": 3,\n      \"median\": 3\n",
                "unknown field median",
            ),
            (
                "\"min\": 3,\n      \"max\": 3",
                "\"max\": 3,\n      \"min\": 3",
                "max where min belongs",
            ),
            ("\"port\": 54321", "\"port\": 54321.5", "source.port: no port"),
            ("\"port\": 54321", "\"port\": \"54321\"", "source.port: no port"),
            ("\"port\": 54321", "\"port\": 65536", "source.port: no port"),
            ("\"port\": 54321", "\"port\": 0", "from port 0"),
            ("\"port\": 54321", "\"port\": -1", "negative"),
            ("\"ttl\": 2", "\"ttl\": 4", "TTLs"),
            ("\"ttl\": 1", "\"ttl\": 0", "TTLs"),
            (
                "\"rtt\": 0,",
                "\"rtt\": 0.5,",
                "hops[1]: reachable is false after 0.5 ms",
            ),
            (
                "\"rtt\": 12.7,",
                "\"rtt\": 0,",
                "hops[2]: reachable is true after 0 ms",
            ),
            ("\"rtt\": 12.7,", "\"rtt\": -12.7,", "hops[2].rtt: no number"),
            ("\"rtt\": 12.7,", "\"rtt\": 12.70,", "odd form"),
            ("\"rtt\": 12.7,", "\"rtt\": 1.27e1,", "odd form"),
            ("\"rtt\": 12.7,", "\"rtt\": null,", "null"),
            ("\"ip_address\": \"\"", "\"ip_address\": null", "null"),
            (
                "\"ip_address\": \"\"",
                "\"ip_address\": \"192.0.2.9\"",
                "hops[1]: an address",
            ),
            (
                "\"192.0.2.1\"",
                "\"192.0.2.1/32\"",
                "hops[0].ip_address: no IP address",
            ),
            ("\"192.0.2.1\"", "\"\"", "hops[0].ip_address: no IP address"),
            ("\"192.0.2.10\"", "\"2001:DB8::1\"", "usually written"),
            (
                "\"192.0.2.10\"",
                "\"2001:db8::1\"",
                "from 2001:db8::1 to 93.184.216.34",
            ),
            (
                "\"reachable\": false",
                "\"reachable\": 0",
                "reachable: no boolean",
            ),
            (
                "\"reachable\": false",
                "\"reachable\": false,\n            \"icmp_type\": 3",
                "unknown field icmp_type",
            ),
            (
                "\"reachable\": true",
                "\"reachable\": true,\n            \"reachable\": true",
                "unknown field reachable",
            ),
            (
                "\"reachable\": true",
                "\"reachable\": true,\n            \"reverse_dns\": []",
                "names []",
            ),
            (
                "\"reverse_dns\": [\n            \"example.com\"\n          ]",
                "\"reverse_dns\": \"example.com\"",
                "reverse_dns: no array",
            ),
            (
                "            \"example.com\"",
                "            \"example.com.\"",
                "final dot",
            ),
            (
                "            \"example.com\"",
                "            \"a&b.example\"",
                "odd form",
            ),
            ("-4a8a-", "-1a8a-", "run_id"),
            ("-9f8c-", "-cf8c-", "run_id"),
            ("7f3fcb63-", "7F3FCB63-", "run_id"),
            ("7f3fcb63-6e54-", "7f3fcb636e54--", "run_id"),
            ("\"jitter\": 0.3", "\"jitter\": 0.2", "jitter should be 0.2999"),
            (
                "\"packets_received\": 3",
                "\"packets_received\": 4",
                "packets_received should be 3",
            ),
            (
                "\"packets_sent\": 4",
                "\"packets_sent\": 3",
                "packets_sent should be 4",
            ),
            ("0.25", "25", "packet_loss_percentage should be 0.25"),
            (
                "12.5,\n      \"max\": 12.9",
                "12.7,\n      \"max\": 12.9",
                "rtt.min should be 12.5",
            ),
            ("\"max\": 12.9", "\"max\": 12.7", "rtt.max should be 12.9"),
            ("\"avg\": 12.7,", "\"avg\": 12.8,", "rtt.avg should be 12.7"),
            ("  \"source\"", "\t\"source\"", "odd form"),
            ("\n}\n", "\n}", "odd form"),
            ("\n}\n", "\n}\n\n", "odd form"),
        ];
        for (from, to, expected) in changes {
            let found = read_changed(from, to).err().unwrap_or_default();
            assert!(found.contains(expected), "{from} became {to}: {found}");
        }
    }

    /// The example with details as the program would print them.
    fn detailed(details: &str) -> String {
        let json: Json = serde_json::from_str(details).unwrap();
        let Json::Object(mut fields) = serde_json::from_str(GOLDEN).unwrap() else {
            panic!("no object");
        };
        fields.push(("details".to_owned(), json));
        Json::Object(fields).write(Layout::Compact)
    }

    const DETAILS: &str = r#"{
      "runs": [{
        "run_id": "7f3fcb63-6e54-4a8a-9f8c-3b8edb3e91ac", "method": "udp", "probes_sent": 6,
        "distance": "known", "end": {"reason": "destination"},
        "hops": [
          {"ttl": 1, "attempts": 2, "ip_address": "192.0.2.1", "answer": "time_exceeded", "destination": false,
           "attempt": 1, "icmp_type": 11, "icmp_code": 0, "reply_ttl": 64, "quoted_ttl": 1,
           "kernel_timestamps": true, "lost": {"network": 1}, "nat": true},
          {"ttl": 2, "attempts": 3, "lost": {"silent": 3}},
          {"ttl": 3, "attempts": 1, "ip_address": "93.184.216.34", "answer": "unreachable", "destination": true,
           "attempt": 0, "icmp_type": 3, "icmp_code": 3, "kernel_timestamps": true}
        ]
      }],
      "hops": [],
      "e2e": {"sent": 4, "answered": 3, "lost": {"rate_limited": 1}, "refused": 0},
      "warnings": [{"code": "rate_limited", "text": "a limit"}],
      "counters": {
        "probes": {"sent": 10, "retried": 0, "refused": 0, "kernel_timestamps": 10},
        "replies": {"captured": 6, "kernel_drops": 0, "matched": 6, "translated": 3, "ignored": {"duplicate": 0}}
      }
    }"#;

    #[test]
    fn details_are_read_and_compared_with_the_document() {
        let report = Report::read(&detailed(DETAILS), Layout::Compact).unwrap();
        let details = report.details.unwrap();
        assert_eq!(details.runs[0].hops[0].attempt, Some(1));
        assert_eq!(details.runs[0].hops[1].lost["silent"], 3);
        assert_eq!(details.e2e_lost["rate_limited"], 1);
        for (from, to, expected) in [
            ("\"attempts\": 3", "\"attempts\": 4", "hops[1]: HopDetails"),
            ("\"attempts\": 2", "\"attempts\": 1", "attempts: 1"),
            ("\"silent\": 3", "\"slow\": 3", "unknown field slow"),
            ("\"network\": 1", "\"network\": 0", "no probe was lost"),
            ("\"network\": 1", "\"network\": 2", "hops[0]"),
            (", \"nat\": true", ", \"nat\": false", "left out"),
            ("\"known\"", "\"sure\"", "distance is sure"),
            (
                "{\"reason\": \"destination\"}",
                "{\"reason\": \"max_ttl\"}",
                "the end is max_ttl",
            ),
            (
                "{\"reason\": \"destination\"}",
                "{\"reason\": \"destination\", \"from\": \"192.0.2.1\"}",
                "refused by",
            ),
            ("\"answered\": 3", "\"answered\": 2", "of 4, 2 answered"),
            ("\"code\": \"rate_limited\"", "\"code\": \"odd\"", "odd: a limit"),
            (
                "\"refused\": 0}",
                "\"refused\": 0, \"more\": 1}",
                "unknown field more",
            ),
            ("\"attempt\": 0, ", "", "attempt None answered after 12.7 ms"),
            ("\"ttl\": 2", "\"ttl\": 4", "TTL 4 where 2 belongs"),
        ] {
            let text = DETAILS.replacen(from, to, 1);
            assert_ne!(text, DETAILS, "{from}");
            let found = Report::read(&detailed(&text), Layout::Compact)
                .err()
                .unwrap_or_default();
            assert!(found.contains(expected), "{from} became {to}: {found}");
        }
    }

    /// Karn: an answer that may be to any of several probes has no time. Only details say so.
    #[test]
    fn an_answer_without_a_time_needs_details_that_say_so() {
        let text = detailed(&DETAILS.replacen("\"attempt\": 0, ", "", 1));
        let text = text.replacen("\"rtt\":12.7,\"reachable\"", "\"rtt\":0,\"reachable\"", 1);
        Report::read(&text, Layout::Compact).unwrap();
    }

    #[test]
    fn two_runs_have_ids_of_their_own() {
        let start = GOLDEN.find("      {\n        \"run_id\"").unwrap();
        let end = GOLDEN.find("    ],\n    \"hop_count\"").unwrap();
        let run = GOLDEN[start..end].trim_end();
        let text = GOLDEN.replacen(run, &format!("{run},\n{run}"), 1);
        let found = Report::read(&text, Layout::Indented).unwrap_err();
        assert!(found.contains("the same run_id"), "{found}");
        let other = text.replacen("7f3fcb63", "8f3fcb63", 1);
        assert_eq!(Report::read(&other, Layout::Indented).unwrap().runs.len(), 2);
    }

    #[test]
    fn loss_is_that_of_single_precision() {
        assert_eq!(loss(50, 49).to_string(), "0.02");
        assert_eq!(loss(3, 2).to_string(), "0.33333334");
        assert_eq!(loss(0, 0).to_string(), "0");
    }
}
