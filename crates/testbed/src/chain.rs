use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::node::link_scripts;
use crate::{Error, Lab, Node, Result};

/// The address plan numbers links with one byte.
pub(crate) const MAX_HOPS: usize = 250;

/// A client, routers and a target in a row.
///
/// Link i leads from hop i − 1 (hop 0 is the client) to hop i. Its near end is `10.0.i.1` and
/// `fd00:i::1`, its far end `10.0.i.2` and `fd00:i::2` (i in hexadecimal in IPv6). Every node
/// reaches every address. Errors are sent from the address of the interface that leads back to the
/// client, for IPv4 and IPv6 alike: that is Linux's choice when there is one address per link (RFC
/// 6724 section 5 rule 5), so hop i answers as the far end of link i.
#[derive(Debug)]
pub struct Chain {
    /// Hop 0: where traces start.
    pub client: Node,
    /// Hops 1 to hops − 1.
    pub routers: Vec<Node>,
    /// The last hop. It does not forward.
    pub target: Node,
}

impl Lab {
    /// Builds a chain whose target answers at TTL `hops`, in 1 to 250.
    ///
    /// # Errors
    /// [`Error::Hops`], or as [`Lab::node`] and [`Lab::link`].
    pub fn chain(&self, hops: usize) -> Result<Chain> {
        if !(1..=MAX_HOPS).contains(&hops) {
            return Err(Error::Hops(hops));
        }
        let client = self.node("client")?;
        let routers = (1..hops)
            .map(|hop| self.router(&format!("router{hop}")))
            .collect::<Result<_>>()?;
        let chain = Chain {
            client,
            routers,
            target: self.node("target")?,
        };
        chain.connect()?;
        Ok(chain)
    }
}

impl Chain {
    /// The TTL at which the target answers.
    pub fn hops(&self) -> usize {
        self.routers.len() + 1
    }

    /// The node at this TTL: the client at 0, the target at [`Chain::hops`].
    pub fn hop(&self, ttl: usize) -> Option<&Node> {
        match ttl {
            0 => Some(&self.client),
            _ if ttl == self.hops() => Some(&self.target),
            _ => self.routers.get(ttl - 1),
        }
    }

    /// Which address answers at each TTL, starting with TTL 1; the last is the target's.
    pub fn hop_addresses_v4(&self) -> Vec<Ipv4Addr> {
        (1..=self.hops()).map(|link| v4(link, FAR)).collect()
    }

    /// Which address answers at each hop limit, starting with 1; the last is the target's.
    pub fn hop_addresses_v6(&self) -> Vec<Ipv6Addr> {
        (1..=self.hops()).map(|link| v6(link, FAR)).collect()
    }

    /// The target's address.
    pub fn target_v4(&self) -> Ipv4Addr {
        v4(self.hops(), FAR)
    }

    /// The target's address.
    pub fn target_v6(&self) -> Ipv6Addr {
        v6(self.hops(), FAR)
    }

    /// The client's address.
    pub fn client_v4(&self) -> Ipv4Addr {
        v4(1, NEAR)
    }

    /// The client's address.
    pub fn client_v6(&self) -> Ipv6Addr {
        v6(1, NEAR)
    }

    /// Makes links and routes with one run of `ip` per node: in order, because each node makes the
    /// interface of the next.
    fn connect(&self) -> Result<()> {
        let nodes: Vec<&Node> = [&self.client]
            .into_iter()
            .chain(&self.routers)
            .chain([&self.target])
            .collect();
        let mut from_previous = String::new();
        for (hop, &node) in nodes.iter().enumerate() {
            let mut script = from_previous;
            let next = nodes.get(hop + 1).copied();
            from_previous = String::new();
            if let Some(next) = next {
                let link = hop + 1;
                let (_, here, there) =
                    link_scripts(node, &addresses(link, NEAR), next, &addresses(link, FAR));
                script += &here;
                from_previous = there;
            }
            script += &self.routes(hop);
            node.ip_with(&script, next)?;
        }
        self.routers
            .iter()
            .try_for_each(|router| router.wait_until_up(&["eth0", "eth1"]))?;
        self.client.wait_until_up(&["eth0"])?;
        self.target.wait_until_up(&["eth0"])
    }

    /// What is nearer to the client goes back, everything else goes on.
    fn routes(&self, hop: usize) -> String {
        let mut script = String::new();
        if hop == self.hops() {
            add_route(&mut script, ("0.0.0.0/0", "::/0"), hop, NEAR);
            return script;
        }
        add_route(&mut script, ("0.0.0.0/0", "::/0"), hop + 1, FAR);
        for link in 1..hop {
            let prefixes = (format!("{}/24", v4(link, 0)), format!("{}/64", v6(link, 0)));
            add_route(&mut script, (&prefixes.0, &prefixes.1), hop, NEAR);
        }
        script
    }
}

/// The host part of the addresses on a link.
const NEAR: u8 = 1;
const FAR: u8 = 2;

fn v4(link: usize, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, link as u8, host)
}

fn v6(link: usize, host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, link as u16, 0, 0, 0, 0, 0, host as u16)
}

fn addresses(link: usize, host: u8) -> [String; 2] {
    [format!("{}/24", v4(link, host)), format!("{}/64", v6(link, host))]
}

fn add_route(script: &mut String, (prefix_v4, prefix_v6): (&str, &str), link: usize, gateway: u8) {
    let _ = writeln!(script, "route add {prefix_v4} via {}", v4(link, gateway));
    let _ = writeln!(script, "route add {prefix_v6} via {}", v6(link, gateway));
}
