//! Routing rules as data.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::Nla;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

use super::super::netlink::Netlink;
use crate::host::{Condition, Prefix, RoutingAction, Rule};

/// Attributes that the crate does not know (`linux/fib_rules.h`): a DSCP, and the masks that come
/// with conditions, which cover everything unless somebody wants less.
const DSCP: u16 = 25;
const SOURCE_PORT_MASK: u16 = 28;
const TARGET_PORT_MASK: u16 = 29;
const DSCP_MASK: u16 = 30;
const WHOLE_PORT: &[u8] = &u16::MAX.to_ne_bytes();
const WHOLE_DSCP: &[u8] = &[0x3f];

/// Rules that depend on more than the destination.
pub(super) fn read(family: AddressFamily) -> io::Result<Vec<Rule>> {
    let rules = Netlink::open()?.rules(family)?;
    Ok(rules.iter().map(rule).filter(is_conditional).collect())
}

fn is_conditional(rule: &Rule) -> bool {
    let is_route = |condition: &Condition| matches!(condition, Condition::To(_));
    !rule.conditions.iter().all(is_route)
}

pub(super) fn rule(message: &RuleMessage) -> Rule {
    let header = &message.header;
    let (mut priority, mut table, mut target) = (0, u32::from(header.table), 0);
    let (mut mark, mut mask) = (None, u32::MAX);
    let mut conditions = Vec::new();
    // "from 0.0.0.0/1" has a length and no address.
    let (mut source, mut destination) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(number) => priority = *number,
            RuleAttribute::Table(number) => table = *number,
            RuleAttribute::Goto(number) => target = *number,
            RuleAttribute::Source(address) => source = Some(*address),
            RuleAttribute::Destination(address) => destination = Some(*address),
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(bits) => mask = *bits,
            other => conditions.extend(condition(other)),
        }
    }
    let prefix = |address: Option<IpAddr>, length| Prefix {
        address: address.unwrap_or_else(|| unspecified(header.family)),
        length,
    };
    if header.dst_len > 0 {
        conditions.insert(0, Condition::To(prefix(destination, header.dst_len)));
    }
    if header.src_len > 0 {
        conditions.insert(0, Condition::From(prefix(source, header.src_len)));
    }
    if header.tos > 0 {
        conditions.push(Condition::TypeOfService(header.tos));
    }
    if let Some(value) = mark {
        conditions.push(Condition::Mark { value, mask });
    }
    // A port says little before its protocol does.
    let is_port =
        |condition: &Condition| matches!(condition, Condition::SourcePorts(_) | Condition::TargetPorts(_));
    conditions.sort_by_key(is_port);
    let is_of_vrf = conditions.contains(&Condition::InVrf);
    Rule {
        priority,
        conditions,
        is_inverted: header.flags.contains(RuleFlags::Invert),
        action: match header.action {
            RuleAction::ToTable if is_of_vrf => RoutingAction::TableOfVrf,
            RuleAction::ToTable => RoutingAction::Table(table),
            RuleAction::Goto => RoutingAction::GoTo(target),
            RuleAction::Blackhole | RuleAction::Unreachable | RuleAction::Prohibit => RoutingAction::Refuse,
            _ => RoutingAction::Other,
        },
    }
}

fn condition(attribute: &RuleAttribute) -> Option<Condition> {
    Some(match attribute {
        RuleAttribute::Iifname(name) => Condition::ComesIn(name.clone()),
        RuleAttribute::Oifname(name) => Condition::BoundTo(name.clone()),
        RuleAttribute::UidRange(users) => Condition::Users(users.start..=users.end),
        RuleAttribute::IpProtocol(protocol) => Condition::Protocol((*protocol).into()),
        RuleAttribute::SourcePortRange(ports) => Condition::SourcePorts(ports.start..=ports.end),
        RuleAttribute::DestinationPortRange(ports) => Condition::TargetPorts(ports.start..=ports.end),
        RuleAttribute::L3MDev(true) => Condition::InVrf,
        // These change what is found, not for whom.
        RuleAttribute::L3MDev(false)
        | RuleAttribute::SuppressPrefixLen(_)
        | RuleAttribute::SuppressIfGroup(_)
        | RuleAttribute::Protocol(_)
        | RuleAttribute::Realm(_) => return None,
        RuleAttribute::Other(other) => {
            let mut value = vec![0; other.value_len()];
            other.emit_value(&mut value);
            match (other.kind(), &value[..]) {
                // The upper six bits of the type of service.
                (DSCP, [dscp]) => Condition::TypeOfService(dscp << 2),
                (SOURCE_PORT_MASK | TARGET_PORT_MASK, WHOLE_PORT) | (DSCP_MASK, WHOLE_DSCP) => return None,
                _ => Condition::Unknown,
            }
        }
        _ => Condition::Unknown,
    })
}

fn unspecified(family: AddressFamily) -> IpAddr {
    match family {
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    }
}
