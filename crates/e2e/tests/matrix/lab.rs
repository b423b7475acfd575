//! Places made of Linux network namespaces.

use socket2::Socket;
use traceroute_testbed::{Chain, Node, Service, require_lab};

use crate::place::Place;

/// `AF_INET` and `SOCK_STREAM` of socket(2).
const TCP: (i32, i32) = (2, 1);
/// As in `matrix.toml`.
const OPEN_PORT: u16 = 8443;

pub(crate) struct Network {
    pub place: Place,
    _chain: Chain,
    _services: [Service; 2],
}

/// A host without any link.
pub(crate) fn machine() -> Option<Place> {
    let lab = require_lab()?;
    Some(inside(&lab.node("host").unwrap()))
}

/// The client of a chain of routers.
pub(crate) fn network() -> Option<Network> {
    let lab = require_lab()?;
    let chain = lab.chain(4).unwrap();
    let services = [
        chain.target.listen_tcp(OPEN_PORT).unwrap(),
        chain.target.listen_udp(OPEN_PORT).unwrap(),
    ];
    let v4: Vec<_> = chain.hop_addresses_v4().into_iter().map(Into::into).collect();
    let v6: Vec<_> = chain.hop_addresses_v6().into_iter().map(Into::into).collect();
    let place = inside(&chain.client)
        .knowing("{fake4}", &v4)
        .knowing("{fake6}", &v6);
    Some(Network {
        place,
        _chain: chain,
        _services: services,
    })
}

fn inside(node: &Node) -> Place {
    let (runs, connects) = (node.clone(), node.clone());
    Place::new(
        Box::new(move |program| runs.command(program)),
        Box::new(move |address| {
            let socket = Socket::from(connects.socket(TCP.0, TCP.1, 0).unwrap());
            socket.connect(&address.into()).unwrap();
            socket.into()
        }),
    )
}
