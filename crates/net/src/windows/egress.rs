//! What can be chosen of how packets leave (Windows: the source address and the interface).

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::num::NonZeroU32;

use super::interfaces::{self, InterfaceAddress};
use crate::EgressError;
use crate::route::needs_scope;

pub(crate) use super::interfaces::{exists as has_interface, of_alias as interface_of_name};

/// There are no marks here.
pub(crate) fn check_marking() -> Result<(), EgressError> {
    Err(EgressError::NoMarks)
}

/// Whether this host has an address, on the chosen interface if there is one: Windows sends from no
/// other interface's.
pub(crate) fn is_own_source(source: IpAddr, chosen: Option<NonZeroU32>) -> io::Result<bool> {
    // Every 127.x.y.z is, though only one is listed.
    if source.is_loopback() && chosen.is_none() {
        return Ok(UdpSocket::bind((source, 0)).is_ok());
    }
    let is_it = |own: &InterfaceAddress| {
        own.address == source && chosen.is_none_or(|chosen| own.interface == chosen.get())
    };
    Ok(interfaces::addresses()?.iter().any(is_it))
}

/// The only interface that a link-local target can be on: no other that is up has link-local
/// addresses.
pub(crate) fn only_zone() -> Option<NonZeroU32> {
    let addresses = interfaces::addresses().ok()?;
    let mut links = addresses
        .iter()
        .filter(|own| own.is_usable && needs_scope(own.address))
        .map(|own| own.interface);
    let first = links.next()?;
    links
        .all(|other| other == first)
        .then_some(first)?
        .try_into()
        .ok()
}
