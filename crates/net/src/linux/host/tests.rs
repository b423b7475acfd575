use netlink_packet_core::DefaultNla;
use netlink_packet_route::route::RouteAddress;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage, RulePortRange};

use super::rules::rule;
use super::*;
use crate::host::{Condition, RoutingAction, Rule};

fn with(attributes: Vec<RuleAttribute>) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.action = RuleAction::ToTable;
    message.attributes = attributes;
    message
}

#[test]
fn rules_become_conditions() {
    let mut message = with(vec![
        RuleAttribute::Table(100),
        RuleAttribute::Priority(7),
        RuleAttribute::SuppressPrefixLen(u32::MAX),
        RuleAttribute::FwMask(0xff),
        RuleAttribute::FwMark(5),
        RuleAttribute::DestinationPortRange(RulePortRange { start: 80, end: 80 }),
        RuleAttribute::Other(DefaultNla::new(29, vec![0xff, 0xff])),
        RuleAttribute::Other(DefaultNla::new(25, vec![46])),
        RuleAttribute::Other(DefaultNla::new(999, vec![])),
    ]);
    // As the kernel sends "from 0.0.0.0/1".
    message.header.src_len = 1;
    message.header.flags = RuleFlags::Invert;
    let source = Prefix {
        address: [0, 0, 0, 0].into(),
        length: 1,
    };
    assert_eq!(
        rule(&message),
        Rule {
            priority: 7,
            conditions: vec![
                Condition::From(source),
                Condition::TypeOfService(46 << 2),
                Condition::Unknown,
                Condition::Mark { value: 5, mask: 0xff },
                Condition::TargetPorts(80..=80),
            ],
            is_inverted: true,
            action: RoutingAction::Table(100),
        }
    );
}

#[test]
fn actions_of_rules() {
    let mut message = with(vec![RuleAttribute::L3MDev(true)]);
    assert_eq!(rule(&message).action, RoutingAction::TableOfVrf);
    message.header.action = RuleAction::Prohibit;
    assert_eq!(rule(&message).action, RoutingAction::Refuse);
    message = with(vec![RuleAttribute::Goto(9)]);
    message.header.action = RuleAction::Goto;
    assert_eq!(rule(&message).action, RoutingAction::GoTo(9));
}

fn route(destination: Option<[u8; 4]>, length: u8, attributes: Vec<RouteAttribute>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.kind = RouteType::Unicast;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.destination_prefix_length = length;
    message.attributes = attributes;
    let destination = destination.map(|address| RouteAddress::Inet(address.into()));
    message
        .attributes
        .extend(destination.map(RouteAttribute::Destination));
    message
}

#[test]
fn routes_lead_everywhere_or_somewhere() {
    let via = |last| RouteAttribute::Gateway(RouteAddress::Inet([10, 0, 0, last].into()));
    let mut routes = Routes::default();
    let mut add = |message: &RouteMessage| add(&mut routes, message, &mut |index| format!("eth{index}"));
    add(&route(
        None,
        0,
        vec![RouteAttribute::Oif(1), via(1), RouteAttribute::Priority(10)],
    ));
    let mut other = RouteNextHop::default();
    (other.interface_index, other.flags) = (2, RouteNextHopFlags::Dead);
    add(&route(None, 0, vec![RouteAttribute::MultiPath(vec![other])]));
    add(&route(
        Some([10, 7, 0, 0]),
        16,
        vec![RouteAttribute::Oif(1), via(1)],
    ));
    // A network of this host; an address of it; what the kernel remembers.
    let mut own = route(Some([10, 0, 0, 0]), 24, vec![RouteAttribute::Oif(1)]);
    own.header.protocol = RouteProtocol::Kernel;
    add(&own);
    own.header.kind = RouteType::Local;
    add(&own);
    let mut cloned = route(Some([10, 9, 0, 0]), 32, vec![RouteAttribute::Oif(1), via(1)]);
    cloned.header.flags = RouteFlags::Cloned;
    add(&cloned);
    let hop = |interface: &str, gateway: Option<[u8; 4]>, is_dead| NextHop {
        interface: interface.to_owned(),
        gateway: gateway.map(Into::into),
        is_dead,
    };
    let default = |metric, hop| DefaultRoute {
        table: 254,
        metric,
        hops: vec![hop],
    };
    assert_eq!(
        routes.default,
        [
            default(10, hop("eth1", Some([10, 0, 0, 1]), false)),
            default(0, hop("eth2", None, true)),
        ]
    );
    let onward = Prefix {
        address: [10, 7, 0, 0].into(),
        length: 16,
    };
    assert_eq!(routes.onward, [onward]);
}

#[test]
fn this_host_can_be_looked_at() {
    let host = host().expect("Linux tells");
    assert!(host.v4.rules.is_ok() && host.v4.routes.is_ok(), "{host:?}");
}
