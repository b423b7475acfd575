//! All paths to a target: [`Tracer::paths`], and the document `paths/1` that it results in.
//!
//! How paths are found, and what the bound means, is in
//! [`traceroute_engine::multipath`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, timeout_at};
use traceroute_engine::multipath::{
    Balancing, GraphHop, HashedFields, MAX_FLOWS, NodeStatistics, PathFlow, PathsEnd, PathsResult, RttRange,
    Sample, Visit,
};
use traceroute_engine::{Cause, Losses, Method, PathsPlan, Plan, TraceError, TraceOutcome, TraceSpec};

use crate::details::MplsEntry;
use crate::document::address_or_empty;
use crate::driver::{News, OnNews};
use crate::egress::check_target;
use crate::error::Error;
use crate::events::{self, Events, Teller};
use crate::path_events::Growth;
pub use crate::path_events::PathsEvent;
use crate::report::names_limit;
use crate::request::{Protocol, Request};
use crate::target::resolve_target;
use crate::tracer::{EXTRA, EXTRA_FOR_PROBES, FAR, RunError, Tracer, is_one_host};

/// How likely the next hops of a node shall be complete, unless told otherwise.
pub const DEFAULT_CONFIDENCE: f64 = 0.95;
/// Probes of a discovery at most, unless told otherwise.
pub const DEFAULT_MAX_PROBES: u32 = 10_000;
/// Probes that may be asked for at most.
pub const MAX_PROBES: u32 = 1_000_000;
/// The schema of the document.
pub const SCHEMA: &str = "paths/1";

/// What a discovery of paths goes by, besides the [`Request`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PathsOptions {
    confidence: f64,
    max_probes: u32,
}

impl Default for PathsOptions {
    fn default() -> Self {
        PathsOptions {
            confidence: DEFAULT_CONFIDENCE,
            max_probes: DEFAULT_MAX_PROBES,
        }
    }
}

impl PathsOptions {
    /// How likely the next hops of a node shall be complete: 0.5 to 0.9999. `None` outside.
    #[must_use]
    pub fn confidence(self, confidence: f64) -> Option<Self> {
        (0.5..=0.9999)
            .contains(&confidence)
            .then_some(PathsOptions { confidence, ..self })
    }

    /// How many probes the discovery may send, those of retries included: 1 to [`MAX_PROBES`].
    /// `None` outside.
    #[must_use]
    pub fn max_probes(self, max_probes: u32) -> Option<Self> {
        (1..=MAX_PROBES)
            .contains(&max_probes)
            .then_some(PathsOptions { max_probes, ..self })
    }

    /// How many probes the discovery sends at most.
    pub fn probes_at_most(self) -> u32 {
        self.max_probes
    }

    /// How many flows the discovery has at most, each with a port of its own: what it takes from
    /// [`TracerOptions::max_traces`](crate::TracerOptions::max_traces).
    pub fn flows_at_most(self) -> u32 {
        self.max_probes.min(MAX_FLOWS)
    }
}

/// All paths to a target, as far as they were found. Serializes as the document `paths/1`; times
/// are in milliseconds, and an empty address is a node that does not answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Paths {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The target as it was given.
    pub target: String,
    /// Where probes came from.
    pub source: PathsSource,
    /// Where they went.
    pub destination: PathsDestination,
    /// Why the discovery ended.
    pub end: PathsEnding,
    /// Protocol of the probes.
    pub protocol: Protocol,
    /// How likely the next hops of a node were wanted to be complete.
    pub confidence: f64,
    /// Probes that left for the discovery, retries included.
    pub probes_sent: u32,
    /// How long it took.
    pub duration_ms: f64,
    /// How likely something is missing, as achieved; `None`: the path has changed.
    pub bound: Option<PathsBound>,
    /// A flow has moved to other nodes meanwhile.
    pub path_changed: bool,
    /// One for each TTL.
    pub hops: Vec<PathsHop>,
    /// In the order of TTLs.
    pub links: Vec<PathsLink>,
    /// What the flows were, and where they went.
    pub flows: Vec<PathsFlow>,
    /// Links on which loss begins, as far as that is certain. Only where end-to-end probes have
    /// shown loss.
    pub loss_begins: Vec<PathsLoss>,
    /// Of so many addresses the names are left out: all together would take too much memory. Absent
    /// from the document where it is none.
    #[serde(skip_serializing_if = "is_none_left_out")]
    pub names_left_out: usize,
}

/// Where probes came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PathsSource {
    /// Their source address.
    pub ip_address: IpAddr,
}

/// Where probes went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PathsDestination {
    /// The target's address.
    pub ip_address: IpAddr,
    /// It has answered.
    pub reached: bool,
    /// The lowest TTL at which it did, in hops.
    pub ttl: Option<u8>,
}

/// Why a discovery ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PathsEnding {
    /// `destination`, `refused`, `max_ttl`, `gap_limit` or `limit` (of probes or time).
    pub reason: &'static str,
    /// Who refuses to forward.
    pub from: Option<IpAddr>,
}

/// How likely something is missing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PathsBound {
    /// For each node at most.
    pub per_node: f64,
    /// For the graph: the sum over its nodes, at most 1.
    pub graph: f64,
}

/// One TTL.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PathsHop {
    /// TTL, in hops.
    pub ttl: u8,
    /// `none`, `per_flow` or `per_packet`.
    pub balancing: &'static str,
    /// What the node before hashes to choose: `source_port`, `flow_label`, over ICMP `identifier`
    /// and `checksum`. Left out where that was not measured: only over IPv6, where all flows come
    /// from one node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hashed: Option<Vec<&'static str>>,
    /// Who was met there.
    pub nodes: Vec<PathsNode>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PathsNode {
    /// Its address.
    #[serde(serialize_with = "address_or_empty::serialize")]
    pub ip_address: Option<IpAddr>,
    /// Flows that were seen there.
    pub flows: u32,
    /// Probes sent on them.
    pub sent: u32,
    /// Those that were answered.
    pub answered: u32,
    /// Those that were not, by cause; causes without any are left out.
    pub lost: BTreeMap<&'static str, u32>,
    /// Round-trip times.
    pub rtt: Option<PathsRtt>,
    /// MPLS labels that it quoted.
    pub mpls: Vec<MplsEntry>,
    /// Its names.
    pub reverse_dns: Arc<[String]>,
}

/// Round-trip times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PathsRtt {
    /// The shortest.
    pub min: f64,
    /// The mean.
    pub avg: f64,
    /// The longest.
    pub max: f64,
}

/// A link that flows use.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PathsLink {
    /// The TTL of its further end, in hops.
    pub ttl: u8,
    /// The nearer end.
    #[serde(serialize_with = "address_or_empty::serialize")]
    pub from: Option<IpAddr>,
    /// The further end.
    #[serde(serialize_with = "address_or_empty::serialize")]
    pub to: Option<IpAddr>,
    /// Flows that were seen at both.
    pub flows: u32,
    /// What is lost up to its further end; `None`: that was not measured.
    pub loss: Option<PathsRatio>,
}

/// A part of probes that were lost, with Wilson's interval at 95 %.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PathsRatio {
    /// From 0 to 1.
    pub ratio: f64,
    /// The lower end of the interval.
    pub low: f64,
    /// The upper end of the interval.
    pub high: f64,
}

/// A link on which loss begins. That any of them is wrong has a probability of 0.1 % at most.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PathsLoss {
    /// The TTL of its further end, in hops.
    pub ttl: u8,
    /// The nearer end.
    #[serde(serialize_with = "address_or_empty::serialize")]
    pub from: Option<IpAddr>,
    /// The further end.
    #[serde(serialize_with = "address_or_empty::serialize")]
    pub to: Option<IpAddr>,
    /// What is lost up to there.
    #[serde(flatten)]
    pub loss: PathsRatio,
}

/// A flow.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PathsFlow {
    /// Source port of UDP and TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// ICMP echo identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identifier: Option<u16>,
    /// ICMP checksum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum: Option<u16>,
    /// IPv6 flow label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flow_label: Option<u32>,
    /// Where it is at each TTL, as an address; empty: somebody who does not answer; `None`: it was
    /// not asked.
    pub nodes: Vec<Option<String>>,
    /// Its end-to-end probes.
    pub e2e: PathsE2e,
}

/// End-to-end probes of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PathsE2e {
    /// How many left.
    pub sent: u32,
    /// How many were answered.
    pub received: u32,
    /// Their round-trip times.
    pub rtt: Option<PathsRtt>,
}

/// The events of a discovery that is being carried out, and its result.
pub type PathsEvents<'r> = Events<'r, PathsEvent, Paths>;

impl Tracer {
    /// Finds all paths that flows to the request's target take. End-to-end probes, if the request
    /// wants any, then go over the flows in turn. Runs are not made. Dropping the future stops its
    /// probes at once and frees their ports.
    ///
    /// # Errors
    /// As [`Tracer::trace`]. Over TCP this needs raw sockets.
    pub async fn paths(&self, request: &Request, options: PathsOptions) -> Result<Paths, Error> {
        self.paths_since(Instant::now(), request, options).await
    }

    /// [`Tracer::paths`] of a request on which some time has been spent: it ends as if it had begun
    /// at `start`.
    ///
    /// # Errors
    /// As [`Tracer::paths`].
    pub async fn paths_since(
        &self,
        start: Instant,
        request: &Request,
        options: PathsOptions,
    ) -> Result<Paths, Error> {
        self.find_paths(start, request, options, None).await
    }

    /// [`Tracer::paths`] that also tells what it finds meanwhile.
    pub fn paths_events<'r>(&'r self, request: &'r Request, options: PathsOptions) -> PathsEvents<'r> {
        self.paths_events_since(Instant::now(), request, options)
    }

    /// [`Tracer::paths_events`] of a request on which some time has been spent: it ends as if it had
    /// begun at `start`.
    pub fn paths_events_since<'r>(
        &'r self,
        start: Instant,
        request: &'r Request,
        options: PathsOptions,
    ) -> PathsEvents<'r> {
        let (teller, queue) = events::queue();
        queue.of(Box::pin(self.find_paths(start, request, options, Some(teller))))
    }

    async fn find_paths(
        &self,
        start: Instant,
        request: &Request,
        options: PathsOptions,
        events: Option<Teller<PathsEvent>>,
    ) -> Result<Paths, Error> {
        // End-to-end probes come after the discovery.
        let longest = request.longest_run().saturating_add(request.e2e_time());
        let longest = start.checked_add(longest).unwrap_or_else(|| start + FAR);
        let deadline = longest + EXTRA;
        let egress = request.egress()?;
        let resolved = timeout_at(deadline, Box::pin(resolve_target(request))).await;
        let address = resolved.map_err(|_| Error::TooLate)??;
        if !is_one_host(address) {
            return Err(Error::NotAHost(address));
        }
        check_target(&egress, address)?;
        let method = match request.protocol() {
            // Selective acknowledgments need a connection for each flow.
            Protocol::Tcp => Method::TcpSyn,
            protocol => protocol.method(),
        };
        let plan = PathsPlan {
            allowed: ((1.0 - options.confidence) * 1e6).round() as u32,
            max_probes: options.max_probes,
            max_flows: options.flows_at_most().min(request.most_at_once),
            end_to_end: request.e2e_probes(),
            interval: request.e2e_spacing(),
        };
        let port = request.probed_port();
        let spec = TraceSpec {
            plan: Plan::Paths(plan),
            first_ttl: request.first_ttl(),
            delay: request.delay().unwrap_or(Duration::ZERO),
            packet: request.packet(),
            egress,
            hop_retries: request.hop_retries(),
            gap_limit: request.gap_limit(),
            longest: (longest + EXTRA_FOR_PROBES).saturating_duration_since(Instant::now()),
            ..TraceSpec::full(method, address, port, request.max_ttl(), request.timeout())
        };
        let failed = |error| Error::Traces(vec![RunError::Trace(error)]);
        let on_news = events.map(|events| {
            events.tell(PathsEvent::Resolved { address });
            let mut growth = Growth::new(request.first_ttl());
            let on_news: OnNews = Box::new(move |news| {
                if let News::Hop(found) = news {
                    growth.answered(found, |event| events.tell(event));
                }
            });
            on_news
        });
        let outcome = self.driver(request)?.trace_for(request.client(), spec, on_news);
        let outcome = outcome.await.map_err(failed)?;
        let TraceOutcome::Paths(result) = outcome else {
            return Err(failed(TraceError::Stopped));
        };
        let mut paths = Paths::new(request, options, &result, start.elapsed());
        if request.reverse_dns() {
            let limit = names_limit(options.probes_at_most().into());
            self.name(&mut paths, deadline, request.client(), limit).await;
        }
        Ok(paths)
    }

    /// With the names that are found by the deadline.
    async fn name(&self, paths: &mut Paths, deadline: Instant, client: u64, limit: usize) {
        let nodes = paths.hops.iter().flat_map(|hop| &hop.nodes);
        let addresses = nodes.filter_map(|node| node.ip_address).collect();
        let names = self.names_of(addresses, Some(deadline), client, limit).await;
        paths.names_left_out = names.left_out();
        let nodes = paths.hops.iter_mut().flat_map(|hop| &mut hop.nodes);
        for node in nodes {
            node.reverse_dns = node
                .ip_address
                .map_or_else(Arc::default, |address| names.shared(address));
        }
    }
}

impl Paths {
    /// About how many bytes the compact document takes. Names make the difference, and flows where there
    /// are many.
    pub fn estimated_size(&self) -> usize {
        const OF_EVERYTHING: usize = 1024;
        const OF_HOP: usize = 128;
        const OF_NODE: usize = 320;
        const OF_MPLS_ENTRY: usize = 64;
        const OF_LINK: usize = 288;
        const OF_FLOW: usize = 256;
        const OF_FLOWS_NODE: usize = 4;
        let of_node = |node: &PathsNode| {
            let names: usize = node.reverse_dns.iter().map(|name| name.len() + 3).sum();
            OF_NODE + node.mpls.len() * OF_MPLS_ENTRY + names
        };
        let of_hop = |hop: &PathsHop| OF_HOP + hop.nodes.iter().map(of_node).sum::<usize>();
        let of_flow = |flow: &PathsFlow| {
            let nodes = flow.nodes.iter().map(|node| node.as_ref().map_or(0, String::len));
            OF_FLOW + nodes.map(|address| address + OF_FLOWS_NODE).sum::<usize>()
        };
        OF_EVERYTHING
            + self.hops.iter().map(of_hop).sum::<usize>()
            + (self.links.len() + self.loss_begins.len()) * OF_LINK
            + self.flows.iter().map(of_flow).sum::<usize>()
    }

    fn new(request: &Request, options: PathsOptions, result: &PathsResult, took: Duration) -> Self {
        let graph = &result.graph;
        let mut nodes = result.nodes.iter();
        let is_icmp = request.protocol() == Protocol::Icmp;
        let hops = graph.hops.iter().map(|hop| {
            let mut hashed = result.hashed.iter();
            let hashed = hashed.find(|hashed| hashed.ttl == hop.ttl);
            PathsHop {
                hashed: hashed.map(|hashed| describe_hashed(*hashed, is_icmp)),
                ..describe_hop(hop, &mut nodes)
            }
        });
        let begins = || result.loss_begins.iter();
        let from =
            |ttl: u8, from: Option<IpAddr>| from.or((ttl == request.first_ttl()).then_some(result.source));
        let links = graph.links.iter().map(|link| PathsLink {
            ttl: link.ttl,
            from: from(link.ttl, link.from),
            to: link.to,
            flows: link.flows,
            loss: begins()
                .find(|loss| (loss.ttl, loss.from, loss.to) == (link.ttl, link.from, link.to))
                .map(|loss| describe_ratio(loss.sample)),
        });
        let loss_begins = begins().map(|loss| PathsLoss {
            ttl: loss.ttl,
            from: from(loss.ttl, loss.from),
            to: loss.to,
            loss: describe_ratio(loss.sample),
        });
        let flows = graph.flows.iter().zip(&result.flows);
        Paths {
            schema: SCHEMA,
            target: request.hostname().to_owned(),
            source: PathsSource {
                ip_address: result.source,
            },
            destination: PathsDestination {
                ip_address: result.destination,
                reached: result.reached.is_some(),
                ttl: result.reached,
            },
            end: describe_end(result.end),
            protocol: request.protocol(),
            confidence: options.confidence,
            probes_sent: result.probes_sent,
            duration_ms: milliseconds(took),
            bound: graph.bound.map(|bound| PathsBound {
                per_node: bound.per_node,
                graph: bound.graph,
            }),
            path_changed: graph.path_changed,
            hops: hops.collect(),
            links: links.collect(),
            flows: flows
                .map(|(visits, flow)| describe_flow(visits, flow, is_icmp))
                .collect(),
            loss_begins: loss_begins.collect(),
            names_left_out: 0,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_none_left_out(count: &usize) -> bool {
    *count == 0
}

fn describe_end(end: PathsEnd) -> PathsEnding {
    let (reason, from) = match end {
        PathsEnd::Destination => ("destination", None),
        PathsEnd::Refused { from } => ("refused", Some(from)),
        PathsEnd::MaxTtl => ("max_ttl", None),
        PathsEnd::GapLimit => ("gap_limit", None),
        PathsEnd::Limit => ("limit", None),
    };
    PathsEnding { reason, from }
}

/// `statistics` are those of the nodes, hop by hop.
fn describe_hop<'r>(hop: &GraphHop, statistics: &mut impl Iterator<Item = &'r NodeStatistics>) -> PathsHop {
    let nodes = hop
        .nodes
        .iter()
        .zip(statistics)
        .map(|(node, measured)| PathsNode {
            ip_address: node.address,
            flows: node.flows,
            sent: measured.sent,
            answered: measured.answered,
            lost: describe_losses(measured.lost),
            rtt: measured.rtt.map(describe_rtt),
            mpls: measured.mpls.labels().map(MplsEntry::from).collect(),
            reverse_dns: Arc::default(),
        });
    PathsHop {
        ttl: hop.ttl,
        balancing: match hop.balancing {
            Balancing::None => "none",
            Balancing::PerFlow => "per_flow",
            Balancing::PerPacket => "per_packet",
        },
        hashed: None,
        nodes: nodes.collect(),
    }
}

fn describe_hashed(hashed: HashedFields, is_icmp: bool) -> Vec<&'static str> {
    let mut names = Vec::new();
    if hashed.port {
        names.extend_from_slice(if is_icmp {
            &["identifier", "checksum"]
        } else {
            &["source_port"]
        });
    }
    if hashed.label {
        names.push("flow_label");
    }
    names
}

fn describe_losses(lost: Losses) -> BTreeMap<&'static str, u32> {
    let causes = Cause::ALL.into_iter().map(|cause| (cause.name(), lost[cause]));
    causes.filter(|(_, count)| *count > 0).collect()
}

fn describe_flow(visits: &[Visit], flow: &PathFlow, is_icmp: bool) -> PathsFlow {
    let nodes = visits.iter().map(|visit| match visit {
        Visit::Unknown => None,
        Visit::Silent => Some(String::new()),
        Visit::Node(address) => Some(address.to_string()),
    });
    PathsFlow {
        source_port: (!is_icmp).then_some(flow.source_port),
        identifier: is_icmp.then_some(flow.source_port),
        checksum: flow.checksum,
        flow_label: flow.flow_label,
        nodes: nodes.collect(),
        e2e: PathsE2e {
            sent: flow.sent,
            received: flow.received,
            rtt: flow.rtt.map(describe_rtt),
        },
    }
}

fn describe_ratio(sample: Sample) -> PathsRatio {
    let (low, high) = sample.interval();
    PathsRatio {
        ratio: sample.ratio(),
        low,
        high,
    }
}

fn describe_rtt(rtt: RttRange) -> PathsRtt {
    PathsRtt {
        min: milliseconds(rtt.min),
        avg: milliseconds(rtt.mean),
        max: milliseconds(rtt.max),
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value};
    use traceroute_engine::multipath::{Bound, Graph, GraphNode, Link, LossBegins};
    use traceroute_wire::MplsStack;

    use super::*;

    fn address(n: u8) -> IpAddr {
        [192, 0, 2, n].into()
    }

    /// Two nodes and a silent one at the first hop, balancing per packet at the second.
    fn result(is_rich: bool) -> PathsResult {
        let nodes: Vec<(u8, Option<IpAddr>)> = vec![
            (1, Some(address(1))),
            (1, Some(address(2))),
            (1, None),
            (2, Some(address(9))),
        ];
        let hop = |ttl, balancing| GraphHop {
            ttl,
            balancing,
            nodes: nodes
                .iter()
                .filter(|(of, _)| *of == ttl)
                .map(|(_, address)| GraphNode {
                    address: *address,
                    flows: 3,
                    ends: ttl == 2,
                })
                .collect(),
        };
        let rtt = is_rich.then_some(RttRange {
            min: Duration::from_micros(1500),
            mean: Duration::from_micros(1750),
            max: Duration::from_millis(2),
        });
        let mut lost = Losses::default();
        lost.add(Cause::Silent, 2);
        let mut mpls = MplsStack::default();
        mpls.push(16001 << 12 | 0x101);
        let measured = |(ttl, address): &(u8, Option<IpAddr>)| NodeStatistics {
            ttl: *ttl,
            address: *address,
            sent: 5,
            answered: 3,
            lost,
            rtt,
            mpls,
        };
        let sample = Sample { sent: 40, lost: 12 };
        PathsResult {
            source: address(100),
            destination: address(9),
            nodes: nodes.iter().map(measured).collect(),
            graph: Graph {
                hops: vec![hop(1, Balancing::PerFlow), hop(2, Balancing::PerPacket)],
                links: vec![
                    Link {
                        ttl: 1,
                        from: None,
                        to: Some(address(1)),
                        flows: 3,
                    },
                    Link {
                        ttl: 2,
                        from: None,
                        to: Some(address(9)),
                        flows: 3,
                    },
                ],
                flows: vec![vec![Visit::Node(address(1)), Visit::Unknown], vec![Visit::Silent]],
                bound: is_rich.then_some(Bound {
                    per_node: 0.03125,
                    graph: 0.125,
                }),
                path_changed: !is_rich,
            },
            flows: (0..2)
                .map(|n| PathFlow {
                    source_port: 40_000 + n,
                    checksum: is_rich.then_some(7),
                    flow_label: is_rich.then_some(9),
                    sent: 20,
                    received: 14,
                    rtt,
                })
                .collect(),
            hashed: vec![HashedFields {
                ttl: 1,
                port: true,
                label: is_rich,
            }],
            loss_begins: vec![LossBegins {
                ttl: 1,
                from: None,
                to: Some(address(1)),
                sample,
            }],
            probes_sent: 77,
            reached: is_rich.then_some(2),
            end: if is_rich {
                PathsEnd::Destination
            } else {
                PathsEnd::Refused { from: address(1) }
            },
        }
    }

    fn document(protocol: Protocol, is_rich: bool) -> Value {
        let request = Request::to("192.0.2.9").protocol(protocol).build().unwrap();
        let took = Duration::from_millis(1500);
        let mut paths = Paths::new(&request, PathsOptions::default(), &result(is_rich), took);
        if is_rich {
            paths.names_left_out = 3;
            paths.hops[0].nodes[0].reverse_dns = Arc::from(["gateway.example".to_owned()]);
        }
        let text = crate::json::to_compact(&paths).unwrap();
        assert!(text.len() <= paths.estimated_size(), "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Asserts what the schema says, as far as it uses JSON Schema; `seen` are the places that were
    /// compared.
    fn check(place: &str, schema: &Value, value: &Value, seen: &mut Vec<String>) {
        seen.push(place.to_owned());
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_u64() => "integer",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let kinds = match &schema["type"] {
            Value::Array(kinds) => kinds.clone(),
            kind => vec![kind.clone()],
        };
        let is_kind = kinds
            .iter()
            .any(|of| of == kind || kind == "integer" && of == "number");
        assert!(is_kind, "{place}: {value} is no {kinds:?}");
        if let Some(names) = schema["enum"].as_array() {
            assert!(names.contains(value), "{place}: {value}");
        }
        for (limit, is_below) in [("minimum", true), ("maximum", false)] {
            if let (Some(limit), Some(number)) = (schema[limit].as_f64(), value.as_f64()) {
                assert!(
                    if is_below {
                        number >= limit
                    } else {
                        number <= limit
                    },
                    "{place}: {value}"
                );
            }
        }
        for item in value.as_array().into_iter().flatten() {
            check(&format!("{place}[]"), &schema["items"], item, seen);
        }
        let (Some(object), Some(properties)) = (value.as_object(), schema["properties"].as_object()) else {
            return;
        };
        for required in schema["required"].as_array().into_iter().flatten() {
            assert!(
                object.contains_key(required.as_str().unwrap()),
                "{place}: no {required}"
            );
        }
        for (name, value) in object {
            let schema = properties
                .get(name)
                .unwrap_or_else(|| panic!("{place}: {name} is not described"));
            check(&format!("{place}.{name}"), schema, value, seen);
        }
    }

    /// All places that the schema describes.
    fn places(place: &str, schema: &Value, all: &mut Vec<String>) {
        all.push(place.to_owned());
        if schema["items"].is_object() {
            places(&format!("{place}[]"), &schema["items"], all);
        }
        for (name, schema) in schema["properties"].as_object().unwrap_or(&Map::new()) {
            places(&format!("{place}.{name}"), schema, all);
        }
    }

    #[test]
    fn the_document_is_what_its_schema_says() {
        let schema: Value = serde_json::from_str(include_str!("../../../docs/paths.schema.json")).unwrap();
        let mut seen = Vec::new();
        for protocol in Protocol::ALL {
            for is_rich in [true, false] {
                check("paths", &schema, &document(protocol, is_rich), &mut seen);
            }
        }
        let mut all = Vec::new();
        places("paths", &schema, &mut all);
        // Only the causes of this example.
        all.retain(|place| !seen.contains(place) && !place.contains(".lost."));
        assert_eq!(all, [""; 0], "described, but never written");
    }

    #[test]
    fn ends_of_links_are_named() {
        let document = document(Protocol::Icmp, true);
        let from = |list: &str, index: usize| document[list][index]["from"].clone();
        // The source before the first hop, a silent node elsewhere.
        assert_eq!(
            (from("links", 0), from("links", 1)),
            ("192.0.2.100".into(), "".into())
        );
        assert_eq!(from("loss_begins", 0), "192.0.2.100");
        assert_eq!(document["links"][0]["loss"]["ratio"], 0.3);
        assert!(document["links"][1]["loss"].is_null());
        assert_eq!(document["flows"][0]["identifier"], 40_000);
        assert_eq!(document["flows"][1]["nodes"], serde_json::json!([""]));
    }

    #[test]
    fn options_have_their_ranges() {
        let options = PathsOptions::default();
        for (confidence, is_right) in [
            (0.49, false),
            (0.5, true),
            (0.9999, true),
            (1.0, false),
            (f64::NAN, false),
        ] {
            assert_eq!(options.confidence(confidence).is_some(), is_right, "{confidence}");
        }
        for (probes, is_right) in [(0, false), (1, true), (MAX_PROBES, true), (MAX_PROBES + 1, false)] {
            assert_eq!(options.max_probes(probes).is_some(), is_right, "{probes}");
        }
    }
}
