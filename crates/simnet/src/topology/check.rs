//! What the types of the model cannot say: names and addresses are unique, references lead
//! somewhere.

use std::collections::HashMap;
use std::net::IpAddr;

use toml::Spanned;

use super::{Block, FlowLabel, Hop, Icmp, Target, Topology};

/// A contradiction and its byte position in the file.
pub(super) struct Problem {
    pub(super) position: usize,
    pub(super) message: String,
}

pub(super) fn check(topology: &Topology) -> Result<(), Problem> {
    let mut names = Unique { seen: HashMap::new() };
    let mut addresses = Unique { seen: HashMap::new() };
    for address in topology.client_addresses() {
        addresses
            .seen
            .insert(address.to_string(), "the client's".to_owned());
    }
    for hop in topology.every_hop() {
        names.add(hop.name.get_ref().clone(), hop.name.span().start, "a hop's")?;
        check_hop(hop)?;
        let whose = format!("{}'s", hop.name.get_ref());
        add_addresses(&mut addresses, hop.v4.as_ref(), &whose)?;
        add_addresses(&mut addresses, hop.v6.as_ref(), &whose)?;
    }
    for spanned in &topology.targets {
        let target = spanned.get_ref();
        if let Some(name) = &target.name {
            names.add(name.get_ref().clone(), name.span().start, "another node's")?;
        }
        check_target(topology, target, spanned.span().start)?;
        add_addresses(&mut addresses, target.v4.as_ref(), "a target's")?;
        add_addresses(&mut addresses, target.v6.as_ref(), "a target's")?;
    }
    Ok(())
}

struct Unique {
    seen: HashMap<String, String>,
}

impl Unique {
    fn add(&mut self, what: String, position: usize, whose: &str) -> Result<(), Problem> {
        if let Some(owner) = self.seen.get(&what) {
            return Err(Problem {
                position,
                message: format!("{what} is already {owner}"),
            });
        }
        self.seen.insert(what, whose.to_owned());
        Ok(())
    }
}

fn add_addresses<A: Copy + Into<IpAddr>>(
    addresses: &mut Unique,
    address: Option<&Spanned<A>>,
    whose: &str,
) -> Result<(), Problem> {
    let Some(address) = address else { return Ok(()) };
    let ip: IpAddr = (*address.get_ref()).into();
    let position = address.span().start;
    if ip.is_multicast() || ip.is_unspecified() || ip.is_loopback() {
        return Err(Problem {
            position,
            message: format!("{ip} is no address that a host can have"),
        });
    }
    addresses.add(ip.to_string(), position, whose)
}

fn check_hop(hop: &Hop) -> Result<(), Problem> {
    let name = hop.name.get_ref();
    let problem = |message: String| {
        Err(Problem {
            position: hop.name.span().start,
            message,
        })
    };
    if hop.v4.is_none() && hop.v6.is_none() {
        return problem(format!("{name} has neither v4 nor v6"));
    }
    if hop.balance.is_some() && hop.branches.len() < 2 {
        return problem(format!("{name} balances over fewer than two branches"));
    }
    if hop.balance.is_none() && !hop.branches.is_empty() {
        return problem(format!("{name} has branches but no balance"));
    }
    if let Some(nat) = &hop.nat {
        if nat.v4.is_none() && nat.v6.is_none() {
            return problem(format!("{name}'s nat has neither v4 nor v6"));
        }
        if nat.quotes.is_some() && nat.translate_quotes.is_some() {
            return problem(format!(
                "{name}'s nat has both quotes and translate_quotes; keep quotes"
            ));
        }
    }
    if let Some(FlowLabel::Value(0x10_0000..)) = hop.flow_label {
        return problem(format!("{name}: an IPv6 flow label has 20 bits"));
    }
    if hop.forge_udp.contains(&0) {
        return problem(format!("{name}: forge_udp counts datagrams from 1"));
    }
    check_blocks(&hop.blocks)
        .and_then(|()| check_icmp(&hop.icmp))
        .or_else(|message| problem(format!("{name}: {message}")))
}

fn check_target(topology: &Topology, target: &Target, position: usize) -> Result<(), Problem> {
    let problem = |message: String| Err(Problem { position, message });
    if target.v4.is_none() && target.v6.is_none() {
        return problem("a target has neither v4 nor v6".to_owned());
    }
    if let Some(behind) = &target.behind {
        let known = topology
            .hops
            .iter()
            .any(|hop| hop.name.get_ref() == behind.get_ref());
        if !known {
            let message = format!("there is no hop {} on the main path", behind.get_ref());
            return Err(Problem {
                position: behind.span().start,
                message,
            });
        }
    }
    if target.tcp.window_scale.is_some_and(|scale| scale > 14) {
        return problem("window_scale is at most 14 (RFC 7323 §2.3)".to_owned());
    }
    if target.icmp.time_exceeded_limit.is_some() {
        let message = "a target sends no time-exceeded errors; what limits the others is unreachable_limit";
        return problem(message.to_owned());
    }
    if target.blocks.iter().any(|block| block.resolve.is_some()) {
        return problem("resolve is for routers: a target does not look for itself".to_owned());
    }
    check_blocks(&target.blocks)
        .and_then(|()| check_icmp(&target.icmp))
        .or_else(problem)
}

fn check_blocks(blocks: &[Block]) -> Result<(), String> {
    for block in blocks {
        if block.answer.is_some() && block.code.is_some() {
            return Err("a block has both answer and code; keep one".to_owned());
        }
        if block.delay.is_some() && block.resolve.is_some() {
            return Err("a block has both delay and resolve; keep one".to_owned());
        }
        if block.says().is_none() && (block.delay.is_some() || block.resolve.is_some()) {
            return Err("a block that answers nothing has a delay; add answer or code".to_owned());
        }
        if block.from_ttl == Some(0) {
            return Err("from_ttl is at least 1".to_owned());
        }
    }
    Ok(())
}

fn check_icmp(icmp: &Icmp) -> Result<(), String> {
    if icmp.mpls.iter().any(|mpls| mpls.label > 0xF_FFFF) {
        return Err("an MPLS label has 20 bits".to_owned());
    }
    if icmp.mpls.iter().any(|mpls| mpls.traffic_class > 7) {
        return Err("an MPLS traffic class has 3 bits".to_owned());
    }
    if icmp.ttl == Some(0) {
        return Err("icmp.ttl is at least 1".to_owned());
    }
    let kinds = [icmp.time_exceeded_limit, icmp.unreachable_limit];
    if icmp.limit.is_some() && kinds.iter().any(Option::is_some) {
        return Err(
            "limit is for all errors; keep it, or time_exceeded_limit and unreachable_limit".to_owned(),
        );
    }
    if let Some(limit) = &icmp.limit {
        limit.check()?;
    }
    for limit in kinds.iter().flatten() {
        limit.check()?;
    }
    Ok(())
}
