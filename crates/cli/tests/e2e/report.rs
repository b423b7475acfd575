//! The JSON document, read as strictly as the contract is written: every name, type and place.

use std::fmt;
use std::net::IpAddr;
use std::vec;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

/// A document, with every field where it was, twice if it was there twice.
#[derive(Debug, Clone, PartialEq)]
enum Json {
    Bool(bool),
    Integer(u64),
    Float(f64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Json;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything but null and negative integers, which no field is")
            }
            fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
                Ok(Json::Bool(value))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
                Ok(Json::Integer(value))
            }
            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Json, E> {
                if value.fract() == 0.0 {
                    return Err(E::custom(format!("a whole number as {value:?}")));
                }
                Ok(Json::Float(value))
            }
            fn visit_str<E>(self, value: &str) -> Result<Json, E> {
                Ok(Json::Text(value.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Json::List(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = entries.next_entry()? {
                    fields.push(field);
                }
                Ok(Json::Object(fields))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Json::Bool(value) => serializer.serialize_bool(*value),
            Json::Integer(value) => serializer.serialize_u64(*value),
            Json::Float(value) => serializer.serialize_f64(*value),
            Json::Text(value) => serializer.serialize_str(value),
            Json::List(items) => serializer.collect_seq(items),
            Json::Object(fields) => serializer.collect_map(fields.iter().map(|(name, value)| (name, value))),
        }
    }
}

impl Json {
    fn object(self) -> Fields {
        match self {
            Json::Object(fields) => Fields(fields.into_iter().peekable()),
            other => panic!("not an object: {other:?}"),
        }
    }

    fn list(self) -> Vec<Json> {
        match self {
            Json::List(items) => items,
            other => panic!("not a list: {other:?}"),
        }
    }

    fn text(self) -> String {
        match self {
            Json::Text(text) => text,
            other => panic!("not a string: {other:?}"),
        }
    }

    fn boolean(self) -> bool {
        match self {
            Json::Bool(value) => value,
            other => panic!("not a boolean: {other:?}"),
        }
    }

    fn integer(self) -> u64 {
        match self {
            Json::Integer(value) => value,
            other => panic!("not an integer: {other:?}"),
        }
    }

    fn number(self) -> f64 {
        match self {
            Json::Integer(value) => value as f64,
            Json::Float(value) => value,
            other => panic!("not a number: {other:?}"),
        }
    }

    fn address(self) -> IpAddr {
        let text = self.text();
        let address: IpAddr = text.parse().unwrap_or_else(|_| panic!("no address: {text:?}"));
        assert_eq!(address.to_string(), text, "not the usual text form");
        address
    }
}

/// An object's fields, to be taken in their order.
struct Fields(std::iter::Peekable<vec::IntoIter<(String, Json)>>);

impl Fields {
    fn take(&mut self, name: &str) -> Json {
        let (found, value) = self.0.next().unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(found, name, "a field out of place");
        value
    }

    fn take_optional(&mut self, name: &str) -> Option<Json> {
        self.0.next_if(|(found, _)| found == name).map(|(_, value)| value)
    }

    fn end(mut self) {
        assert_eq!(self.0.next(), None, "an unknown field");
    }
}

/// What a trace found.
#[derive(Debug)]
pub(crate) struct Report {
    pub protocol: String,
    pub public_ip: String,
    pub hostname: String,
    pub port: u64,
    pub runs: Vec<Run>,
    pub hop_count: HopCount,
    pub e2e: E2e,
}

#[derive(Debug)]
pub(crate) struct Run {
    pub id: String,
    pub source: IpAddr,
    pub source_port: u64,
    pub destination: IpAddr,
    pub destination_port: u64,
    pub names: Vec<String>,
    pub hops: Vec<Hop>,
}

#[derive(Debug)]
pub(crate) struct Hop {
    pub ttl: u64,
    /// Who answered, and after how many ms.
    pub answer: Option<(IpAddr, f64)>,
    pub names: Vec<String>,
}

impl Hop {
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.answer.map(|(address, _)| address)
    }
}

#[derive(Debug, PartialEq)]
pub(crate) struct HopCount {
    pub avg: f64,
    pub min: u64,
    pub max: u64,
}

#[derive(Debug)]
pub(crate) struct E2e {
    /// In ms; 0: no answer.
    pub rtts: Vec<f64>,
    pub sent: u64,
    pub received: u64,
    pub loss: f64,
    pub jitter: f64,
    /// In ms.
    pub avg: f64,
    pub min: f64,
    pub max: f64,
}

impl Report {
    /// Reads what the program prints.
    ///
    /// # Panics
    /// When it is not what the contract says.
    pub(crate) fn read(text: &str) -> Report {
        let json: Json = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let layout = serde_json::to_string_pretty(&json).unwrap() + "\n";
        assert!(
            text == layout,
            "not indented by 2 spaces, or a number in an odd form: {:?}",
            text.lines()
                .zip(layout.lines())
                .find(|(found, expected)| found != expected)
        );
        let report = Report::from(json);
        report.e2e.check();
        report
    }

    /// Whether the hop counts are those of the hops: not so once private hops are removed.
    pub(crate) fn check_hop_count(&self) {
        let counts: Vec<u64> = self
            .runs
            .iter()
            .map(Run::hop_count)
            .filter(|count| *count > 0)
            .collect();
        let sum: u64 = self.runs.iter().map(Run::hop_count).sum();
        let expected = HopCount {
            avg: if self.runs.is_empty() {
                0.0
            } else {
                sum as f64 / self.runs.len() as f64
            },
            min: counts.iter().min().copied().unwrap_or(0),
            max: counts.iter().max().copied().unwrap_or(0),
        };
        assert_eq!(self.hop_count, expected, "{self:?}");
    }

    fn from(json: Json) -> Report {
        let mut top = json.object();
        let protocol = top.take("protocol").text();
        let mut source = top.take("source").object();
        let public_ip = source.take("public_ip").text();
        source.end();
        let mut destination = top.take("destination").object();
        let hostname = destination.take("hostname").text();
        let port = destination.take("port").integer();
        destination.end();
        let mut traceroute = top.take("traceroute").object();
        let runs = traceroute
            .take("runs")
            .list()
            .into_iter()
            .map(Run::from)
            .collect();
        let hop_count = HopCount::from(traceroute.take("hop_count"));
        traceroute.end();
        let e2e = E2e::from(top.take("e2e_probe"));
        top.end();
        assert!(["udp", "tcp", "icmp"].contains(&protocol.as_str()), "{protocol}");
        Report {
            protocol,
            public_ip,
            hostname,
            port,
            runs,
            hop_count,
            e2e,
        }
    }
}

impl Run {
    fn from(json: Json) -> Run {
        let mut run = json.object();
        let id = run.take("run_id").text();
        let mut from = run.take("source").object();
        let (source, source_port) = (from.take("ip_address").address(), from.take("port").integer());
        from.end();
        let mut to = run.take("destination").object();
        let (destination, destination_port) = (to.take("ip_address").address(), to.take("port").integer());
        let names = reverse_dns(&mut to);
        to.end();
        let hops: Vec<Hop> = run.take("hops").list().into_iter().map(Hop::from).collect();
        run.end();
        let shape: String = id
            .chars()
            .map(|c| {
                if matches!(c, '0'..='9' | 'a'..='f') {
                    'x'
                } else {
                    c
                }
            })
            .collect();
        assert_eq!(shape, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", "{id}");
        // RFC 9562 section 5.4: version 4, random.
        assert!(
            id.as_bytes()[14] == b'4' && b"89ab".contains(&id.as_bytes()[19]),
            "{id}"
        );
        let ttls: Vec<u64> = hops.iter().map(|hop| hop.ttl).collect();
        assert_eq!(ttls, (1..=hops.len() as u64).collect::<Vec<_>>());
        Run {
            id,
            source,
            source_port,
            destination,
            destination_port,
            names,
            hops,
        }
    }

    /// The position of the last hop that answered, or the number of hops when none did.
    fn hop_count(&self) -> u64 {
        let last = self.hops.iter().rfind(|hop| hop.answer.is_some());
        last.map_or(self.hops.len() as u64, |hop| hop.ttl)
    }
}

impl Hop {
    fn from(json: Json) -> Hop {
        let mut hop = json.object();
        let ttl = hop.take("ttl").integer();
        let address = hop.take("ip_address");
        let rtt = hop.take("rtt").number();
        let reachable = hop.take("reachable").boolean();
        let names = reverse_dns(&mut hop);
        hop.end();
        let answer = if reachable {
            assert!(rtt > 0.0, "hop {ttl}");
            Some((address.address(), rtt))
        } else {
            assert_eq!((address.text().as_str(), rtt), ("", 0.0), "hop {ttl}");
            None
        };
        Hop { ttl, answer, names }
    }
}

fn reverse_dns(fields: &mut Fields) -> Vec<String> {
    let Some(names) = fields.take_optional("reverse_dns") else {
        return Vec::new();
    };
    let names: Vec<String> = names.list().into_iter().map(Json::text).collect();
    assert!(!names.is_empty(), "an empty reverse_dns is left out");
    names
}

impl HopCount {
    fn from(json: Json) -> HopCount {
        let mut fields = json.object();
        let hop_count = HopCount {
            avg: fields.take("avg").number(),
            min: fields.take("min").integer(),
            max: fields.take("max").integer(),
        };
        fields.end();
        hop_count
    }
}

impl E2e {
    fn from(json: Json) -> E2e {
        let mut fields = json.object();
        let rtts = fields.take("rtts").list().into_iter().map(Json::number).collect();
        let sent = fields.take("packets_sent").integer();
        let received = fields.take("packets_received").integer();
        let loss = fields.take("packet_loss_percentage").number();
        let jitter = fields.take("jitter").number();
        let mut rtt = fields.take("rtt").object();
        fields.end();
        let e2e = E2e {
            rtts,
            sent,
            received,
            loss,
            jitter,
            avg: rtt.take("avg").number(),
            min: rtt.take("min").number(),
            max: rtt.take("max").number(),
        };
        rtt.end();
        e2e
    }

    /// Whether the statistics are those of the round-trip times.
    fn check(&self) {
        let received: Vec<f64> = self.rtts.iter().copied().filter(|rtt| *rtt > 0.0).collect();
        assert_eq!(self.sent, self.rtts.len() as u64);
        assert_eq!(self.received, received.len() as u64);
        let lost = (self.sent - self.received) as f32;
        let loss = if self.sent == 0 {
            0.0
        } else {
            lost / self.sent as f32
        };
        assert_eq!((self.loss as f32).to_bits(), loss.to_bits(), "{self:?}");
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let differences: Vec<f64> = received
            .windows(2)
            .map(|pair| (pair[1] - pair[0]).abs())
            .collect();
        let expected = [
            (self.jitter, mean(&differences)),
            (self.avg, mean(&received)),
            (self.min, received.iter().copied().reduce(f64::min).unwrap_or(0.0)),
            (self.max, received.iter().copied().reduce(f64::max).unwrap_or(0.0)),
        ];
        for (found, expected) in expected {
            assert!(
                (found - expected).abs() < 1e-9,
                "{expected} is expected: {self:?}"
            );
        }
    }
}

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

#[test]
fn the_contracts_example_is_read() {
    let report = Report::read(GOLDEN);
    report.check_hop_count();
    assert_eq!(report.public_ip, "203.0.113.10");
    assert_eq!(report.runs[0].names, ["example.com"]);
    assert_eq!(report.runs[0].hops[1].answer, None);
}

/// The checks below are only worth something if they fail when they should.
#[test]
fn what_differs_from_the_contract_is_refused() {
    let changes = [
        ("\"protocol\": \"udp\"", "\"protocol\": \"sctp\""),
        ("  \"protocol\": \"udp\",\n", ""),
        ("\"avg\": 3,", "\"avg\": 3.0,"),
        ("\"avg\": 3,", "\"avg\": 3,\n      \"median\": 3,"),
        ("\"min\": 3,\n      \"max\": 3", "\"max\": 3,\n      \"min\": 3"),
        ("\"port\": 54321", "\"port\": 54321.5"),
        ("\"port\": 54321", "\"port\": \"54321\""),
        ("\"ttl\": 2", "\"ttl\": 4"),
        ("\"rtt\": 0,", "\"rtt\": 0.5,"),
        ("\"rtt\": 12.7,", "\"rtt\": 0,"),
        ("\"ip_address\": \"\"", "\"ip_address\": null"),
        ("\"192.0.2.1\"", "\"192.0.2.1/32\""),
        ("\"reachable\": false", "\"reachable\": 0"),
        (
            "\"reachable\": false",
            "\"reachable\": false,\n            \"icmp_type\": 3",
        ),
        ("-4a8a-", "-1a8a-"),
        ("\"jitter\": 0.3", "\"jitter\": 0.2"),
        ("\"packets_received\": 3", "\"packets_received\": 4"),
        ("0.25", "25"),
        ("  \"source\"", "\t\"source\""),
        ("\n}\n", "\n}"),
    ];
    for (from, to) in changes {
        let text = GOLDEN.replacen(from, to, 1);
        assert_ne!(text, GOLDEN, "{from}");
        let read = std::panic::catch_unwind(|| Report::read(&text));
        assert!(read.is_err(), "{from} became {to}");
    }
}
