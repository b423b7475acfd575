//! Limits on ICMP errors.

use std::fmt;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::Millis;

/// A limit on all errors of a node.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit {
    Bucket(Bucket),
    Linux(LinuxLimit),
}

/// Token buckets: each error takes a token, and the errors that find none are not sent.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Bucket {
    /// Time for one more token.
    pub(crate) interval: Millis,
    /// Tokens that a bucket holds.
    pub(crate) burst: u32,
    pub(crate) per: Per,
    /// Tokens at first; as many as it holds when absent.
    pub(crate) start: Option<u32>,
}

/// What has a bucket of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Per {
    /// Each address that errors are sent to.
    #[default]
    Destination,
    /// The node.
    All,
}

impl Default for Bucket {
    fn default() -> Self {
        Self {
            interval: Millis(Duration::from_secs(1)),
            burst: 6,
            per: Per::default(),
            start: None,
        }
    }
}

/// Linux's limits, under the names of its sysctls: a bucket for each destination
/// (`icmp_ratelimit`), which holds 6 tokens, and one for all (`icmp_msgs_per_sec`).
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinuxLimit {
    pub(crate) ratelimit: Millis,
    /// That of IPv6.
    pub(crate) ratelimit_v6: Millis,
    /// Length of the prefix that the route to the client has. Older kernels shorten the interval
    /// for short ones.
    pub(crate) prefix_v6: Option<u8>,
    pub(crate) msgs_per_sec: u32,
    pub(crate) msgs_burst: u32,
    /// Kernel ticks a second.
    pub(crate) hz: u32,
    /// Tokens that each destination has at first.
    pub(crate) start: Option<u32>,
}

/// `"linux"`, or a table.
impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordOrTable;

        impl<'de> Visitor<'de> for WordOrTable {
            type Value = Limit;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("\"linux\" or a table")
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<Limit, E> {
                match word {
                    "linux" => Table::default().linux().map_err(E::custom),
                    _ => Err(E::unknown_variant(word, &["linux"])),
                }
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Limit, M::Error> {
                let table = Table::deserialize(MapAccessDeserializer::new(map))?;
                match table.kind {
                    Some(Kind::Linux) => table.linux(),
                    None => table.bucket(),
                }
                .map_err(M::Error::custom)
            }
        }

        deserializer.deserialize_any(WordOrTable)
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Linux,
}

/// What both kinds of limits have.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Table {
    kind: Option<Kind>,
    interval: Option<Millis>,
    burst: Option<u32>,
    per: Option<Per>,
    start: Option<u32>,
    ratelimit: Option<Millis>,
    ratelimit_v6: Option<Millis>,
    prefix_v6: Option<u8>,
    msgs_per_sec: Option<u32>,
    msgs_burst: Option<u32>,
    hz: Option<u32>,
}

impl Table {
    fn bucket(&self) -> Result<Limit, &'static str> {
        let linux = self.ratelimit.is_some()
            || self.ratelimit_v6.is_some()
            || self.prefix_v6.is_some()
            || self.msgs_per_sec.is_some()
            || self.msgs_burst.is_some()
            || self.hz.is_some();
        if linux {
            return Err("a limit without kind = \"linux\" has interval, burst, per and start only");
        }
        let default = Bucket::default();
        Ok(Limit::Bucket(Bucket {
            interval: self.interval.unwrap_or(default.interval),
            burst: self.burst.unwrap_or(default.burst),
            per: self.per.unwrap_or_default(),
            start: self.start,
        }))
    }

    fn linux(&self) -> Result<Limit, &'static str> {
        if self.interval.is_some() || self.burst.is_some() || self.per.is_some() {
            return Err("a limit of kind linux has no interval, burst or per; it has ratelimit");
        }
        let second = Millis(Duration::from_secs(1));
        let tenth = Millis(Duration::from_millis(100));
        let older = self.prefix_v6.is_some();
        Ok(Limit::Linux(LinuxLimit {
            ratelimit: self.ratelimit.unwrap_or(second),
            ratelimit_v6: self.ratelimit_v6.unwrap_or(if older { second } else { tenth }),
            prefix_v6: self.prefix_v6,
            msgs_per_sec: self.msgs_per_sec.unwrap_or(1000),
            msgs_burst: self.msgs_burst.unwrap_or(50),
            hz: self.hz.unwrap_or(250),
            start: self.start,
        }))
    }
}

impl Limit {
    /// What is wrong with it.
    pub(super) fn check(&self) -> Result<(), String> {
        match self {
            Self::Bucket(bucket) => bucket.check(),
            Self::Linux(limit) => limit.check(),
        }
    }
}

impl Bucket {
    /// What is wrong with it.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.burst == 0 || self.interval.0.is_zero() {
            return Err("a rate limit needs a burst of at least 1 and an interval above 0".to_owned());
        }
        if self.start > Some(self.burst) {
            return Err("a rate limit starts with at most its burst".to_owned());
        }
        Ok(())
    }
}

impl LinuxLimit {
    /// Tokens that the bucket of a destination holds (`XRLIM_BURST_FACTOR`).
    pub(crate) const BURST: u32 = 6;

    fn check(&self) -> Result<(), String> {
        if self.prefix_v6 > Some(128) {
            return Err("prefix_v6 is at most 128".to_owned());
        }
        if ![100, 250, 300, 1000].contains(&self.hz) {
            return Err("hz is 100, 250, 300 or 1000".to_owned());
        }
        if self.msgs_per_sec == 0 || self.msgs_burst == 0 {
            return Err("msgs_per_sec and msgs_burst are at least 1".to_owned());
        }
        if self.start > Some(Self::BURST) {
            return Err(format!("Linux's bucket holds {} tokens", Self::BURST));
        }
        Ok(())
    }
}
