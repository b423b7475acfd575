//! Which way probes leave this host and how their answers come back, against the kernel: rules,
//! several uplinks, translation.
#![cfg(target_os = "linux")]
#![allow(unsafe_code)]
#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
mod support;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use support::{Event, Subject, alone_once, echo, probe, syn, udp};
use traceroute_engine::{Egress, FlowRequest, OpenFlow, Token, Transport};
use traceroute_net::Access;
use traceroute_testbed::{Lab, Node};
use traceroute_wire::{IcmpError, Probe, ProbeKind, Reply, ReplyKind};

/// What can be probed with.
const PROTOCOLS: [Option<Transport>; 3] = [None, Some(Transport::Udp), Some(Transport::Tcp)];
/// Nothing listens there.
const CLOSED: u16 = 9;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A client with two uplinks, each with a router, to one server.
///
/// ```text
///           ┌─ near ─┐
/// client ───┤        ├─── server
///           └─ far ──┘
/// ```
///
/// The main table has the near router for default, table 100 the far one.
struct Uplinks {
    client: Node,
    near: Node,
    /// A node lives as long as it is held.
    _far: Node,
    server: Node,
}

/// One address family of it.
#[derive(Clone, Copy)]
struct Plan {
    v6: bool,
}

const PLANS: [Plan; 2] = [Plan { v6: false }, Plan { v6: true }];

impl Plan {
    /// Links: 1 client and near, 8 client and far, 2 near and server, 9 far and server.
    fn address(self, link: u8, host: u8) -> IpAddr {
        if self.v6 {
            ip(&format!("fd00:{link}::{host}"))
        } else {
            ip(&format!("10.{link}.0.{host}"))
        }
    }

    fn target(self) -> IpAddr {
        self.address(2, 2)
    }

    fn network(self, link: u8) -> String {
        let bits = if self.v6 { 64 } else { 24 };
        format!("{}/{bits}", self.address(link, 0))
    }

    fn ip(self) -> &'static str {
        if self.v6 { "-6" } else { "" }
    }

    fn nft(self) -> &'static str {
        if self.v6 { "ip6" } else { "ip" }
    }

    /// What the near or the far router answers with, to probes from its own link.
    fn gateway(self, link: u8) -> IpAddr {
        self.address(link, 2)
    }
}

impl Uplinks {
    fn new(lab: &Lab) -> Self {
        let client = lab.node("client").unwrap();
        let (near, far) = (lab.router("near").unwrap(), lab.router("far").unwrap());
        let server = lab.router("server").unwrap();
        let both = |link, host| {
            [
                format!("10.{link}.0.{host}/24"),
                format!("fd00:{link}::{host}/64"),
            ]
        };
        let link = |a: &Node, b: &Node, number: u8| {
            let (near, far) = (both(number, 1), both(number, 2));
            lab.link(a, &[&near[0], &near[1]], b, &[&far[0], &far[1]])
                .unwrap();
        };
        link(&client, &near, 1);
        link(&client, &far, 8);
        link(&near, &server, 2);
        link(&far, &server, 9);
        for plan in PLANS {
            let route =
                |to: &str, link: u8, host: u8| format!("route add {to} via {}\n", plan.address(link, host));
            client.ip(&route("default", 1, 2)).unwrap();
            let far_table = route("default", 8, 2);
            client.ip(&format!("{} table 100\n", far_table.trim())).unwrap();
            near.ip(&route(&plan.network(8), 2, 2)).unwrap();
            far.ip(&(route(&plan.network(2), 9, 2) + &route(&plan.network(1), 9, 2)))
                .unwrap();
            server
                .ip(&(route(&plan.network(1), 2, 1) + &route(&plan.network(8), 9, 1)))
                .unwrap();
        }
        Uplinks {
            client,
            near,
            _far: far,
            server,
        }
    }
}

/// Runs a test in the client of a new network, for each plan. Says so where it cannot.
fn with_uplinks(test: impl Fn(&Uplinks, Plan) + Sync) {
    let Some(lab) = traceroute_testbed::require_lab() else {
        return;
    };
    if lab.is_unprivileged() {
        // `unshare -Ur` is root enough.
        traceroute_testbed::not_run("needs root to enter a namespace");
        return;
    }
    for plan in PLANS {
        let uplinks = Uplinks::new(&lab);
        test(&uplinks, plan);
    }
}

/// Runs in a node, with raw sockets and then with ordinary ones.
fn with_both_backends(node: &Node, test: impl Fn(&mut Subject) + Sync) {
    node.sysctl("net.ipv4.ping_group_range", "0 2147483647").unwrap();
    for is_plain in [false, true] {
        node.enter(|| {
            if is_plain {
                traceroute_testbed::forget_capabilities().unwrap();
            }
            test(&mut Subject::new());
        })
        .unwrap();
    }
}

/// An open flow to a target.
struct Traced {
    request: FlowRequest,
    flow: OpenFlow,
}

impl Traced {
    fn open(
        subject: &mut Subject,
        transport: Option<Transport>,
        (target, port): (IpAddr, u16),
        egress: Egress,
    ) -> Self {
        let request = FlowRequest {
            target,
            transport,
            port: if transport.is_some() { port } else { 0 },
            egress,
        };
        let flow = subject.network.open_flow(&request).expect("a flow");
        Traced { request, flow }
    }

    fn probe(&self, ttl: u8) -> Probe {
        let number = self.flow.number.unwrap_or(0);
        let kind = match self.request.transport {
            None => match (echo(ttl.into()), self.flow.number) {
                (
                    ProbeKind::Echo {
                        sequence,
                        tag,
                        cookie,
                        payload_len,
                        ..
                    },
                    Some(identifier),
                ) => ProbeKind::Echo {
                    identifier,
                    sequence,
                    tag,
                    cookie,
                    payload_len,
                },
                (other, _) => other,
            },
            Some(Transport::Udp) => udp(number, self.request.port),
            Some(Transport::Tcp) => match syn(number, self.request.port) {
                ProbeKind::TcpSyn {
                    source_port,
                    destination_port,
                    sequence,
                    timestamps,
                } => ProbeKind::TcpSyn {
                    source_port,
                    destination_port,
                    sequence: sequence + u32::from(ttl),
                    timestamps,
                },
                other => other,
            },
        };
        Probe {
            destination: self.request.target,
            ttl,
            ..probe(self.flow.route.source, kind)
        }
    }

    fn send(&self, subject: &mut Subject, ttl: u8) -> Token {
        let token = Token {
            trace: self.flow.number.unwrap_or(0).into(),
            probe: ttl.into(),
        };
        let sent = subject.network.send_on(&self.probe(ttl), &self.flow.route, token);
        sent.expect("sent");
        token
    }

    /// Whether a reply is one to our own address. Before it is translated, a reply may be seen with
    /// another destination, or from another target.
    fn is_ours(&self, reply: &Reply) -> bool {
        reply.destination == self.flow.route.source
            && (matches!(reply.kind, ReplyKind::IcmpError { .. }) || reply.source == self.request.target)
    }

    /// Who answers at a TTL.
    fn hop(&self, subject: &mut Subject, ttl: u8) -> Option<IpAddr> {
        let ours = self.send(subject, ttl);
        // A neighbour that does not answer the first time is asked again after a second.
        let deadline = subject.network.now() + Duration::from_millis(2500);
        while subject.network.now() < deadline {
            let answer = |event| match event {
                Event::Reply(reply, _) if self.is_ours(&reply) => Some(reply.source),
                Event::Answered(token, answer, _) if token == ours => Some(answer.from),
                _ => None,
            };
            if let Some(source) = subject.poll_until(deadline).into_iter().find_map(answer) {
                return Some(source);
            }
        }
        None
    }

    fn hops(&self, subject: &mut Subject, ttls: u8) -> Vec<Option<IpAddr>> {
        (1..=ttls).map(|ttl| self.hop(subject, ttl)).collect()
    }

    fn close(self, subject: &mut Subject) {
        subject.network.close_flow(&self.request, &self.flow);
    }
}

/// The replies up to the first that is wanted, that one first; none when none comes in time.
fn replies(subject: &mut Subject, limit: Duration, is_wanted: impl Fn(&Reply) -> bool) -> Vec<Reply> {
    let deadline = subject.network.now() + limit;
    let mut seen = Vec::new();
    while subject.network.now() < deadline {
        for event in subject.poll_until(deadline) {
            match event {
                Event::Reply(reply, _) if is_wanted(&reply) => seen.insert(0, reply),
                Event::Reply(reply, _) => seen.push(reply),
                _ => {}
            }
        }
        if seen.first().is_some_and(&is_wanted) {
            return seen;
        }
    }
    Vec::new()
}

fn everywhere() -> Egress {
    Egress::default()
}

#[test]
fn a_rule_for_a_source_is_followed() {
    with_uplinks(|uplinks, plan| {
        let source = plan.address(1, 1);
        let rule = format!("{} rule add pref 100 from {source} lookup 100\n", plan.ip());
        uplinks
            .client
            .command("sh")
            .args(["-c", &format!("ip {rule}")])
            .status()
            .unwrap();
        with_both_backends(&uplinks.client, |subject| {
            for transport in PROTOCOLS {
                let traced = Traced::open(subject, transport, (plan.target(), CLOSED), everywhere());
                assert_eq!(traced.flow.route.source, source);
                // In IPv4 the far router answers with the address that faces the server: that is
                // its way to this source.
                let far = if plan.v6 {
                    plan.gateway(8)
                } else {
                    plan.address(9, 1)
                };
                let hops = traced.hops(subject, 2);
                assert_eq!(hops, [Some(far), Some(plan.target())], "{transport:?}");
                traced.close(subject);
            }
        });
    });
}

#[test]
fn a_rule_for_a_protocol_is_followed() {
    with_uplinks(|uplinks, plan| {
        let rule = format!("ip {} rule add pref 100 ipproto tcp lookup 100", plan.ip());
        uplinks.client.command("sh").args(["-c", &rule]).status().unwrap();
        with_both_backends(&uplinks.client, |subject| {
            for (transport, link) in [(Some(Transport::Tcp), 8), (Some(Transport::Udp), 1), (None, 1)] {
                let traced = Traced::open(subject, transport, (plan.target(), CLOSED), everywhere());
                assert_eq!(traced.flow.route.source, plan.address(link, 1));
                let hops = traced.hops(subject, 2);
                assert_eq!(
                    hops,
                    [Some(plan.gateway(link)), Some(plan.target())],
                    "{transport:?}"
                );
                traced.close(subject);
            }
        });
    });
}

#[test]
fn a_rule_for_a_port_is_followed() {
    with_uplinks(|uplinks, plan| {
        for (protocol, port) in [("udp", 53), ("tcp", 443)] {
            let rule = format!(
                "ip {} rule add pref 100 ipproto {protocol} dport {port} lookup 100",
                plan.ip()
            );
            uplinks.client.command("sh").args(["-c", &rule]).status().unwrap();
        }
        with_both_backends(&uplinks.client, |subject| {
            let flows = [
                (Transport::Udp, 53, 8),
                (Transport::Udp, 443, 1),
                (Transport::Tcp, 443, 8),
                (Transport::Tcp, 53, 1),
            ];
            for (transport, port, link) in flows {
                let traced = Traced::open(subject, Some(transport), (plan.target(), port), everywhere());
                assert_eq!(traced.flow.route.source, plan.address(link, 1));
                assert_eq!(
                    traced.hops(subject, 2),
                    [Some(plan.gateway(link)), Some(plan.target())],
                    "{transport:?} {port}"
                );
                traced.close(subject);
            }
            assert_eq!(subject.network.counters().reserved_ports, 0);
        });
    });
}

#[test]
fn each_flow_keeps_to_one_of_several_uplinks() {
    with_uplinks(|uplinks, plan| {
        let (near, far) = (plan.gateway(1), plan.gateway(8));
        let several = format!(
            "route replace {} nexthop via {near} nexthop via {far}\n",
            plan.network(2)
        );
        uplinks.client.ip(&several).unwrap();
        let policy = if plan.v6 {
            "net.ipv6.fib_multipath_hash_policy"
        } else {
            "net.ipv4.fib_multipath_hash_policy"
        };
        for by_ports in [false, true] {
            let value = if by_ports { "1" } else { "0" };
            uplinks.client.sysctl(policy, value).unwrap();
            with_both_backends(&uplinks.client, |subject| {
                let mut used = Vec::new();
                for transport in PROTOCOLS {
                    for _ in 0..12 {
                        let traced = Traced::open(subject, transport, (plan.target(), CLOSED), everywhere());
                        let link = if traced.flow.route.source == plan.address(1, 1) {
                            1
                        } else {
                            8
                        };
                        assert_eq!(traced.flow.route.source, plan.address(link, 1));
                        let hops = traced.hops(subject, 2);
                        assert_eq!(
                            hops,
                            [Some(plan.gateway(link)), Some(plan.target())],
                            "{transport:?} {by_ports}"
                        );
                        if transport.is_some() {
                            used.push(link);
                        }
                        traced.close(subject);
                    }
                }
                if by_ports {
                    assert!(used.contains(&1) && used.contains(&8), "{used:?}");
                }
            });
        }
    });
}

#[test]
fn answers_to_translated_probes_are_seen_as_they_are_delivered() {
    with_uplinks(|uplinks, plan| {
        let (ours, outside) = (plan.address(1, 1), plan.address(1, 77));
        uplinks
            .client
            .ip(&format!(
                "addr add {outside}/{} dev eth0\n",
                if plan.v6 { "64 nodad" } else { "24" }
            ))
            .unwrap();
        uplinks
            .client
            .nft(&format!(
                "table {family} n {{ chain p {{ type nat hook postrouting priority 100; {family} saddr {ours} snat to {outside}; }}; }}",
                family = plan.nft()
            ))
            .unwrap();
        uplinks
            .client
            .enter(|| {
                let mut subject = Subject::new();
                let egress = Egress {
                    source: Some(ours),
                    ..everywhere()
                };
                for transport in PROTOCOLS {
                    let traced = Traced::open(&mut subject, transport, (plan.target(), CLOSED), egress);
                    let hops = traced.hops(&mut subject, 2);
                    assert_eq!(
                        hops,
                        [Some(plan.gateway(1)), Some(plan.target())],
                        "{transport:?}"
                    );
                    traced.close(&mut subject);
                }
            })
            .unwrap();
    });
}

/// The kernel switches receive stamps on in the background. Until then it stamps a packet in each
/// view by itself, and the views cannot be merged.
fn stamps_are_on(subject: &mut Subject, target: IpAddr, egress: Egress) {
    let traced = Traced::open(subject, PROTOCOLS[0], (target, CLOSED), egress);
    let is_on = (0..20).any(|_| {
        traced.send(subject, 1);
        let soon = subject.network.now() + Duration::from_millis(100);
        let replies = subject.poll_until(soon);
        let replies = replies.iter().filter(|event| matches!(event, Event::Reply(..)));
        replies.count() == 1
    });
    assert!(is_on);
    traced.close(subject);
}

#[test]
fn a_reply_is_news_once_whether_translated_or_not() {
    with_uplinks(|uplinks, plan| {
        let (ours, outside) = (plan.address(1, 1), plan.address(1, 77));
        uplinks
            .client
            .ip(&format!(
                "addr add {outside}/{} dev eth0\n",
                if plan.v6 { "64 nodad" } else { "24" }
            ))
            .unwrap();
        let translate = format!(
            "table {family} n {{ chain p {{ type nat hook postrouting priority 100; {family} saddr {ours} snat to {outside}; }}; }}",
            family = plan.nft()
        );
        for is_translated in [false, true] {
            if is_translated {
                uplinks.client.nft(&translate).unwrap();
            }
            uplinks
                .client
                .enter(|| {
                    let mut subject = Subject::new();
                    let egress = Egress {
                        source: Some(ours),
                        ..everywhere()
                    };
                    stamps_are_on(&mut subject, plan.target(), egress);
                    for transport in PROTOCOLS {
                        let traced = Traced::open(&mut subject, transport, (plan.target(), CLOSED), egress);
                        for ttl in [1, 2] {
                            traced.send(&mut subject, ttl);
                            let mut seen = replies(&mut subject, Duration::from_millis(300), |reply| {
                                reply.destination == ours
                            });
                            // Anything more would follow at once.
                            let soon = subject.network.now() + Duration::from_millis(30);
                            seen.extend(subject.poll_until(soon).into_iter().filter_map(
                                |event| match event {
                                    Event::Reply(reply, _) => Some(reply),
                                    _ => None,
                                },
                            ));
                            // One that is seen before it is translated may be news too: nobody
                            // knows yet what it will become.
                            seen.retain(|reply| !is_translated || reply.destination == ours);
                            assert_eq!(seen.len(), 1, "{transport:?} {ttl} {is_translated}: {seen:?}");
                        }
                        traced.close(&mut subject);
                    }
                    assert_eq!(subject.network.counters().dropped_here, 0);
                })
                .unwrap();
        }
    });
}

#[test]
fn the_second_view_is_sampled_until_this_host_translates() {
    with_uplinks(|uplinks, plan| {
        let (ours, outside) = (plan.address(1, 1), plan.address(1, 77));
        uplinks
            .client
            .ip(&format!(
                "addr add {outside}/{} dev eth0\n",
                if plan.v6 { "64 nodad" } else { "24" }
            ))
            .unwrap();
        let translate = format!(
            "table {family} n {{ chain p {{ type nat hook postrouting priority 100; {family} saddr {ours} snat to {outside}; }}; }}",
            family = plan.nft()
        );
        uplinks
            .client
            .enter(|| {
                let mut subject = Subject::new();
                let egress = Egress {
                    source: Some(ours),
                    ..everywhere()
                };
                let traced = Traced::open(&mut subject, None, (plan.target(), CLOSED), egress);
                let sockets = subject.network.counters().sockets;
                let is_sampling = |subject: &Subject| subject.network.counters().sockets == sockets;
                let mut answered = 0;
                while is_sampling(&subject) {
                    answered += 1;
                    assert!(answered < 1000, "is never closed");
                    assert_eq!(traced.hop(&mut subject, 64), Some(plan.target()));
                }
                assert!(answered > 200, "{answered}");
                uplinks.client.nft(&translate).unwrap();
                // The first probe that this host translates tells that it does.
                traced.send(&mut subject, 64);
                let soon = subject.network.now() + Duration::from_millis(150);
                while subject.network.now() < soon {
                    subject.poll_until(soon);
                }
                subject.poll_until(soon);
                for _ in 0..300 {
                    assert_eq!(traced.hop(&mut subject, 64), Some(plan.target()));
                }
                assert!(is_sampling(&subject), "stays open");
                assert_eq!(subject.network.counters().dropped_here, 0);
                traced.close(&mut subject);
            })
            .unwrap();
    });
}

#[test]
fn a_service_address_that_this_host_translates_is_reached() {
    with_uplinks(|uplinks, plan| {
        let service = if plan.v6 {
            ip("fd00:96::10")
        } else {
            ip("10.96.0.10")
        };
        let target = SocketAddr::new(plan.target(), 8080);
        uplinks
            .client
            .nft(&format!(
                "table {family} n {{ chain o {{ type nat hook output priority -100; \
                 {family} daddr {service} meta l4proto {{ tcp, udp }} dnat to {target}; }}; }}",
                family = plan.nft()
            ))
            .unwrap();
        let listener = uplinks.server.tcp_listener(target).unwrap();
        let echo = uplinks.server.udp_socket(target).unwrap();
        uplinks
            .client
            .enter(|| {
                let mut subject = Subject::new();
                let traced = Traced::open(&mut subject, Some(Transport::Tcp), (service, 443), everywhere());
                assert_eq!(traced.hop(&mut subject, 1), Some(plan.gateway(1)));
                traced.send(&mut subject, 2);
                let seen = replies(&mut subject, Duration::from_secs(1), |reply| {
                    reply.source == service
                });
                let ReplyKind::Tcp(tcp) = seen.first().expect("the service").kind else {
                    panic!("{seen:?}")
                };
                assert_eq!(tcp.source_port, 443);
                assert!(tcp.flags.syn && tcp.flags.ack);
                traced.close(&mut subject);

                let traced = Traced::open(&mut subject, Some(Transport::Udp), (service, 443), everywhere());
                assert_eq!(traced.hop(&mut subject, 1), Some(plan.gateway(1)));
                traced.send(&mut subject, 2);
                let mut buffer = [0; 100];
                let (length, from) = echo.recv_from(&mut buffer).expect("the probe");
                echo.send_to(&buffer[..length], from).expect("answered");
                let seen = replies(&mut subject, Duration::from_secs(1), |reply| {
                    reply.source == service
                });
                let ReplyKind::Udp(datagram) = seen.first().expect("the service").kind else {
                    panic!("{seen:?}")
                };
                assert_eq!(datagram.source_port, 443);
            })
            .unwrap();
        drop(listener);
    });
}

#[test]
fn a_reply_that_this_hosts_firewall_drops_is_seen_and_counted() {
    with_uplinks(|uplinks, plan| {
        uplinks
            .client
            .nft(
                "table inet f { chain i { type filter hook input priority 0; \
                 icmp type time-exceeded drop; icmpv6 type time-exceeded drop; }; }",
            )
            .unwrap();
        uplinks
            .client
            .enter(|| {
                let mut subject = Subject::new();
                let traced = Traced::open(&mut subject, None, (plan.target(), 0), everywhere());
                assert_eq!(
                    traced.hops(&mut subject, 2),
                    [Some(plan.gateway(1)), Some(plan.target())]
                );
                let later = subject.network.now() + Duration::from_millis(80);
                while subject.network.now() < later {
                    subject.poll_until(later);
                }
                traced.hop(&mut subject, 2);
                assert_eq!(subject.network.counters().dropped_here, 1);
            })
            .unwrap();
    });
}

#[test]
fn source_interface_and_mark_can_be_chosen() {
    with_uplinks(|uplinks, plan| {
        let rules = format!("ip {} rule add pref 100 fwmark 5 lookup 100", plan.ip());
        uplinks
            .client
            .command("sh")
            .args(["-c", &rules])
            .status()
            .unwrap();
        uplinks
            .client
            .ip(&format!(
                "route add {} via {} metric 5000\n",
                plan.network(2),
                plan.gateway(8)
            ))
            .unwrap();
        uplinks
            .client
            .ip(&format!(
                "route add {} via {} metric 10\n",
                plan.network(2),
                plan.gateway(1)
            ))
            .unwrap();
        with_both_backends(&uplinks.client, |subject| {
            let index = |name: &str| {
                let name = std::ffi::CString::new(name).unwrap();
                // SAFETY: a C string, valid during the call.
                NonZeroU32::new(unsafe { libc::if_nametoindex(name.as_ptr()) })
            };
            let marked = Egress {
                mark: NonZeroU32::new(5),
                ..everywhere()
            };
            let bound = Egress {
                interface: index("eth1"),
                ..everywhere()
            };
            let is_plain = traceroute_net::access() == Access::Ordinary;
            for egress in [marked, bound] {
                if is_plain && egress == marked {
                    let error = subject
                        .network
                        .open_flow(&FlowRequest {
                            target: plan.target(),
                            transport: None,
                            port: 0,
                            egress,
                        })
                        .expect_err("not allowed");
                    assert_eq!(
                        error.source.kind(),
                        std::io::ErrorKind::PermissionDenied,
                        "{error}"
                    );
                    continue;
                }
                for transport in PROTOCOLS {
                    let traced = Traced::open(subject, transport, (plan.target(), CLOSED), egress);
                    assert_eq!(traced.flow.route.source, plan.address(8, 1), "{egress:?}");
                    assert_eq!(
                        traced.hops(subject, 2),
                        [Some(plan.gateway(8)), Some(plan.target())],
                        "{transport:?} {egress:?}"
                    );
                    traced.close(subject);
                }
            }
            let from = Egress {
                source: Some(plan.address(8, 1)),
                ..everywhere()
            };
            let traced = Traced::open(subject, None, (plan.target(), 0), from);
            assert_eq!(traced.flow.route.source, plan.address(8, 1));
            let foreign = FlowRequest {
                egress: Egress {
                    source: Some(plan.address(8, 2)),
                    ..everywhere()
                },
                ..traced.request
            };
            let error = subject.network.open_flow(&foreign).expect_err("not ours");
            assert_eq!(error.source.raw_os_error(), Some(libc::EADDRNOTAVAIL));
        });
    });
}

#[test]
fn a_link_local_target_is_probed_on_the_interface_that_is_named() {
    with_uplinks(|uplinks, plan| {
        if !plan.v6 {
            return;
        }
        uplinks
            .client
            .ip("addr add fe80::1/64 dev eth0 nodad\naddr add fe80::1/64 dev eth1 nodad\n")
            .unwrap();
        uplinks.near.ip("addr add fe80::99/64 dev eth0 nodad\n").unwrap();
        uplinks
            .client
            .enter(|| {
                let mut subject = Subject::new();
                let index = |name: &std::ffi::CStr| {
                    // SAFETY: a C string, valid during the call.
                    NonZeroU32::new(unsafe { libc::if_nametoindex(name.as_ptr()) })
                };
                let target = ip("fe80::99");
                for transport in PROTOCOLS {
                    let near = Egress {
                        interface: index(c"eth0"),
                        ..everywhere()
                    };
                    let traced = Traced::open(&mut subject, transport, (target, CLOSED), near);
                    assert_eq!(traced.hops(&mut subject, 1), [Some(target)], "{transport:?}");
                    traced.close(&mut subject);
                    let far = Egress {
                        interface: index(c"eth1"),
                        ..everywhere()
                    };
                    let traced = Traced::open(&mut subject, transport, (target, CLOSED), far);
                    assert_ne!(
                        traced.hops(&mut subject, 1),
                        [Some(target)],
                        "it is not there: {transport:?}"
                    );
                    traced.close(&mut subject);
                }
                let unclear = FlowRequest {
                    target,
                    transport: None,
                    port: 0,
                    egress: everywhere(),
                };
                let error = subject
                    .network
                    .open_flow(&unclear)
                    .expect_err("which one?")
                    .to_string();
                assert!(error.contains("%eth0"), "{error}");
            })
            .unwrap();
    });
}

#[test]
fn looking_up_a_route_needs_neither_a_port_nor_a_descriptor() {
    with_uplinks(|uplinks, plan| {
        uplinks
            .client
            .sysctl("net.ipv4.ip_local_port_range", "40000 40001")
            .unwrap();
        uplinks
            .client
            .enter(|| {
                let mut subject = Subject::new();
                let own = traceroute_net::OwnAddresses::open().unwrap();
                // The family's sockets.
                Traced::open(&mut subject, None, (plan.target(), 0), everywhere()).close(&mut subject);
                let ports: Vec<_> = (0..2)
                    .map(|_| std::net::UdpSocket::bind((plan.address(1, 1), 0)).expect("a port"))
                    .collect();
                let traced = Traced::open(&mut subject, None, (plan.target(), 0), everywhere());
                assert_eq!(traced.hop(&mut subject, 1), Some(plan.gateway(1)));
                assert!(own.contain(plan.address(8, 1)).unwrap());
                assert!(!own.contain(plan.target()).unwrap());
                let full = FlowRequest {
                    transport: Some(Transport::Udp),
                    port: CLOSED,
                    ..traced.request
                };
                let error = subject
                    .network
                    .open_flow(&full)
                    .expect_err("no port left")
                    .to_string();
                assert!(error.contains("no local port is free"), "{error}");
                drop(ports);
            })
            .unwrap();
    });
}

#[test]
fn a_neighbour_that_does_not_answer_is_told_by_this_host() {
    with_uplinks(|uplinks, plan| {
        with_both_backends(&uplinks.client, |subject| {
            let dead = plan.address(1, 99);
            let flows =
                PROTOCOLS.map(|transport| Traced::open(subject, transport, (dead, CLOSED), everywhere()));
            let ours = flows.each_ref().map(|flow| flow.send(subject, 1));
            // The kernel asks three times, a second apart.
            let deadline = subject.network.now() + Duration::from_secs(8);
            let mut told = Vec::new();
            while told.len() < flows.len() && subject.network.now() < deadline {
                told.extend(
                    subject
                        .poll_until(deadline)
                        .into_iter()
                        .filter_map(|event| match event {
                            Event::Reply(reply, _) => match reply.kind {
                                ReplyKind::IcmpError { error, .. } => Some((reply.source, error)),
                                _ => None,
                            },
                            Event::Answered(token, answer, _) if ours.contains(&token) => {
                                Some((answer.from, answer.error?))
                            }
                            _ => None,
                        }),
                );
            }
            let code = if plan.v6 { 3 } else { 1 };
            let unreachable = (plan.address(1, 1), IcmpError::Unreachable { code });
            assert_eq!(told, [unreachable; 3]);
            for flow in flows {
                flow.close(subject);
            }
        });
    });
}

#[test]
fn probes_take_the_route_of_the_user_who_started_the_program() {
    alone_once(|| {
        for number in [1, 2] {
            support::ip(&format!("link add up{number} type veth peer name end{number}"));
            support::ip(&format!("addr add 192.0.2.{number}/32 dev up{number}"));
            support::ip(&format!("link set up{number} up"));
            support::ip(&format!("link set end{number} up"));
        }
        support::ip("route add default dev up1");
        support::ip("route add default dev up2 table 100");
        support::ip("rule add pref 100 uidrange 0-0 lookup 100");
        let privileges = traceroute_net::keep_probing_privileges().expect("given up");
        assert!(!privileges.is_root);
        let mut subject = Subject::new();
        let target = ip("198.51.100.1");
        for transport in PROTOCOLS {
            let traced = Traced::open(&mut subject, transport, (target, CLOSED), everywhere());
            assert_eq!(traced.flow.route.source, ip("192.0.2.2"), "{transport:?}");
            traced.send(&mut subject, 1);
            traced.close(&mut subject);
        }
        let asked = |name: &str| {
            let output = std::process::Command::new("ip")
                .args(["neigh", "show", "dev", name])
                .output()
                .expect("ip");
            String::from_utf8_lossy(&output.stdout).contains("198.51.100.1")
        };
        assert!(asked("up2") && !asked("up1"));
    });
}
