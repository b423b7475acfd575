//! Chains of nftables that translate: netlink messages of `linux/netfilter/nf_tables.h`, as much
//! of them as is needed here.

use std::io;
use std::ops::ControlFlow;

use netlink_packet_core::{
    DecodeError, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable, NlaBuffer, NlasIterator,
};

use super::super::netlink::Netlink;
use crate::host::{Hook, NatChain};

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN`.
const GET_CHAIN: u16 = 10 << 8 | 4;
/// The family, a version and a resource: `struct nfgenmsg`. Family 0 asks for all.
const HEADER: usize = 4;

/// Attributes of a chain, and of its hook.
const TABLE: u16 = 1;
const NAME: u16 = 3;
const HOOK: u16 = 4;
const USE: u16 = 6;
const TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;

/// `NFPROTO_*` (linux/netfilter.h).
const INET: u8 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 10;
/// `enum nf_inet_hooks` (linux/netfilter.h).
const LOCAL_OUT: u32 = 3;
const POST_ROUTING: u32 = 4;

/// The chains with rules that translate what this host sends. Needs `CAP_NET_ADMIN`.
pub(super) fn chains() -> io::Result<Vec<NatChain>> {
    let mut found = Vec::new();
    let asked = Netlink::open_to(libc::NETLINK_NETFILTER).and_then(|mut netlink| {
        netlink.list(Message::Question, |answer| {
            if let Message::Chain(chain) = answer? {
                found.push(chain);
            }
            Ok(ControlFlow::Continue(()))
        })
    });
    match asked {
        Ok(()) => Ok(found),
        // A kernel without nftables.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EPROTONOSUPPORT)) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Message {
    Question,
    Chain(NatChain),
    /// Does not translate what this host sends.
    Other,
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        GET_CHAIN
    }

    fn buffer_len(&self) -> usize {
        HEADER
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.fill(0);
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let Some((header, attributes)) = payload.split_first_chunk::<HEADER>() else {
            return Err("a chain without a header".into());
        };
        let family = match header[0] {
            INET => "inet",
            IPV4 => "ip",
            IPV6 => "ip6",
            _ => return Ok(Message::Other),
        };
        let (mut table, mut name, mut hook, mut rules) = (String::new(), String::new(), None, 0);
        let mut translates = false;
        for attribute in NlasIterator::new(attributes) {
            let attribute = attribute?;
            let value = attribute.value();
            match attribute.kind() {
                TABLE => table = text(value),
                NAME => name = text(value),
                HOOK => hook = hook_of(value)?,
                // Nothing jumps to a chain with a hook, so each use is a rule.
                USE => rules = number(value),
                TYPE => translates = text(value) == "nat",
                _ => {}
            }
        }
        Ok(match hook {
            Some(hook) if translates && rules > 0 => Message::Chain(NatChain {
                name: format!("{family} {table} {name}"),
                hook,
                rules,
            }),
            _ => Message::Other,
        })
    }
}

fn hook_of(attributes: &[u8]) -> Result<Option<Hook>, DecodeError> {
    for attribute in NlasIterator::new(attributes) {
        let attribute: NlaBuffer<&[u8]> = attribute?;
        if attribute.kind() == HOOK_NUMBER {
            return Ok(match number(attribute.value()) {
                LOCAL_OUT => Some(Hook::Output),
                POST_ROUTING => Some(Hook::Postrouting),
                _ => None,
            });
        }
    }
    Ok(None)
}

/// Strings end with a zero byte.
fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(value.get(..end).unwrap_or_default()).into_owned()
}

/// Numbers are big-endian, unlike those of other netlink messages.
fn number(value: &[u8]) -> u32 {
    value.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn chain(family: u8, kind: &[u8], hook: u32, rules: u32) -> Message {
        let hook = attribute(HOOK_NUMBER, &hook.to_be_bytes());
        let payload = [
            vec![family, 0, 0, 0],
            attribute(TABLE, b"nat\0"),
            attribute(NAME, b"out\0"),
            attribute(HOOK | 1 << 15, &hook),
            attribute(TYPE, kind),
            attribute(USE, &rules.to_be_bytes()),
        ];
        Message::deserialize(&NetlinkHeader::default(), &payload.concat()).expect("a message")
    }

    #[test]
    fn chains_with_rules_that_translate_count() {
        let found = |name: &str, hook, rules| {
            Message::Chain(NatChain {
                name: name.to_owned(),
                hook,
                rules,
            })
        };
        assert_eq!(chain(IPV4, b"nat\0", 3, 2), found("ip nat out", Hook::Output, 2));
        assert_eq!(
            chain(INET, b"nat\0", 4, 1),
            found("inet nat out", Hook::Postrouting, 1)
        );
        assert_eq!(chain(IPV6, b"nat\0", 4, 0), Message::Other, "empty");
        assert_eq!(chain(IPV4, b"nat\0", 0, 1), Message::Other, "prerouting");
        assert_eq!(chain(IPV4, b"filter\0", 3, 1), Message::Other);
        assert_eq!(chain(7, b"nat\0", 3, 1), Message::Other, "a bridge");
    }

    #[test]
    fn nonsense_is_an_error() {
        let read = |bytes: &[u8]| Message::deserialize(&NetlinkHeader::default(), bytes);
        assert!(read(&[2]).is_err());
        assert!(read(&[2, 0, 0, 0, 200, 0, 1, 0, 65]).is_err());
    }
}
