//! How a request's probes leave this host: from what a user named to what the kernel is told.

use std::net::IpAddr;

use traceroute_engine::Egress;
use traceroute_net::{EgressError, check_egress, interface_index, only_zone};

use crate::request::Request;

impl Request {
    /// How the probes are to leave: with the target's zone and the chosen interface as an index.
    /// Checks that this is possible; sends nothing.
    ///
    /// # Errors
    /// A source that is not this host's, an interface that does not exist or is not the target's
    /// zone, a mark that this process may not set, a choice that this system does not offer.
    pub fn egress(&self) -> Result<Egress, EgressError> {
        let index = |name: &Option<String>| name.as_deref().map(interface_index).transpose();
        let zone = index(&self.zone)?;
        let interface = index(&self.interface)?;
        if let (Some(zone_index), Some(interface_index)) = (zone, interface)
            && zone_index != interface_index
        {
            return Err(EgressError::OtherZone {
                zone: self.zone.clone().unwrap_or_default(),
                interface: self.interface.clone().unwrap_or_default(),
            });
        }
        let egress = Egress {
            source: self.source,
            interface: zone.or(interface),
            mark: self.fwmark,
        };
        check_egress(&egress)?;
        Ok(egress)
    }
}

/// Whether a target can be reached so: from a source of its family; and by an interface, if its
/// address means nothing without.
///
/// # Errors
/// It cannot.
pub(crate) fn check_target(egress: &Egress, target: IpAddr) -> Result<(), EgressError> {
    if let Some(source) = egress.source
        && source.is_ipv4() != target.is_ipv4()
    {
        return Err(EgressError::OtherFamily {
            source_address: source,
            target,
        });
    }
    if egress.interface.is_none() {
        only_zone(target)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::RequestBuilder;

    fn egress(request: RequestBuilder) -> Result<Egress, EgressError> {
        request.build().unwrap().egress()
    }

    #[test]
    fn unless_told_otherwise_the_system_decides() {
        assert_eq!(egress(Request::to("localhost")).unwrap(), Egress::default());
    }

    #[test]
    fn a_source_of_this_host() {
        let from = |source: [u8; 4]| egress(Request::to("localhost").source(source.into()));
        assert_eq!(
            from([127, 0, 0, 1]).unwrap().source,
            Some(IpAddr::from([127, 0, 0, 1]))
        );
        assert!(matches!(from([192, 0, 2, 7]), Err(EgressError::ForeignSource(_))));
    }

    #[test]
    fn interfaces_and_zones_that_are_not_there() {
        let by = egress(Request::to("localhost").interface("no-such-if"));
        assert!(matches!(by, Err(EgressError::NoInterface(name)) if name == "no-such-if"));
        let within = egress(Request::to("fe80::1%no-such-if"));
        assert!(matches!(within, Err(EgressError::NoInterface(_))));
    }

    #[test]
    fn a_target_is_of_its_sources_family() {
        let egress = Egress {
            source: Some(IpAddr::from([127, 0, 0, 1])),
            ..Egress::default()
        };
        assert!(check_target(&egress, IpAddr::from([192, 0, 2, 1])).is_ok());
        let error = check_target(&egress, "2001:db8::1".parse().unwrap()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "probes cannot go from 127.0.0.1 to 2001:db8::1: take a source of the target's family"
        );
    }
}
