//! The interfaces of this host and their addresses (netioapi.h).
#![allow(unsafe_code)]

use std::io;
use std::mem::{offset_of, size_of, zeroed};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::ptr;

use windows_sys::Win32::Foundation::NO_ERROR;
use windows_sys::Win32::NetworkManagement::IpHelper::{
    ConvertInterfaceAliasToLuid, ConvertInterfaceIndexToLuid, ConvertInterfaceLuidToIndex, FreeMibTable,
    GetUnicastIpAddressTable, MIB_UNICASTIPADDRESS_ROW, MIB_UNICASTIPADDRESS_TABLE,
};
use windows_sys::Win32::NetworkManagement::Ndis::NET_LUID_LH;
use windows_sys::Win32::Networking::WinSock::{AF_UNSPEC, IpDadStatePreferred};

use super::sys;

const _: () = assert!(
    size_of::<MIB_UNICASTIPADDRESS_ROW>() == 80
        && offset_of!(MIB_UNICASTIPADDRESS_ROW, InterfaceIndex) == 40
        && offset_of!(MIB_UNICASTIPADDRESS_ROW, DadState) == 64
        && offset_of!(MIB_UNICASTIPADDRESS_TABLE, Table) == 8
);

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InterfaceAddress {
    pub(super) address: IpAddr,
    /// The interface's index.
    pub(super) interface: u32,
    /// The interface is up, and nobody else on its link has the address.
    pub(super) is_usable: bool,
}

/// The addresses of all interfaces.
pub(super) fn addresses() -> io::Result<Vec<InterfaceAddress>> {
    let mut table: *mut MIB_UNICASTIPADDRESS_TABLE = ptr::null_mut();
    // SAFETY: the pointer is valid during the call.
    check(unsafe { GetUnicastIpAddressTable(AF_UNSPEC, &raw mut table) })?;
    // SAFETY: the call made the table. It has as many rows as it says; they begin where it declares
    // one, so the pointer to that one comes from the whole table.
    let found = unsafe {
        let rows: *const MIB_UNICASTIPADDRESS_ROW = (&raw const (*table).Table).cast();
        std::slice::from_raw_parts(rows, (*table).NumEntries as usize)
            .iter()
            .filter_map(address)
            .collect()
    };
    // SAFETY: what the call made, freed once; nothing refers to it any more.
    unsafe { FreeMibTable(table.cast()) };
    Ok(found)
}

fn address(row: &MIB_UNICASTIPADDRESS_ROW) -> Option<InterfaceAddress> {
    Some(InterfaceAddress {
        address: sys::ip_address(&row.Address)?,
        interface: row.InterfaceIndex,
        is_usable: row.DadState == IpDadStatePreferred,
    })
}

/// The index of the interface with this alias, as `ipconfig` shows it ("Ethernet", "Wi-Fi").
pub(crate) fn of_alias(alias: &str) -> Option<NonZeroU32> {
    if alias.contains('\0') {
        return None;
    }
    let alias: Vec<u16> = alias.encode_utf16().chain([0]).collect();
    // SAFETY: all zeros is a valid LUID.
    let mut luid: NET_LUID_LH = unsafe { zeroed() };
    let mut index = 0;
    // SAFETY: the alias ends with a zero, and both pointers are valid during the call.
    check(unsafe { ConvertInterfaceAliasToLuid(alias.as_ptr(), &raw mut luid) }).ok()?;
    // SAFETY: the pointers are valid during the call.
    check(unsafe { ConvertInterfaceLuidToIndex(&raw const luid, &raw mut index) }).ok()?;
    NonZeroU32::new(index)
}

/// Whether an interface has this index.
pub(crate) fn exists(index: NonZeroU32) -> bool {
    // SAFETY: all zeros is a valid LUID.
    let mut luid: NET_LUID_LH = unsafe { zeroed() };
    // SAFETY: the pointer is valid during the call.
    check(unsafe { ConvertInterfaceIndexToLuid(index.get(), &raw mut luid) }).is_ok()
}

fn check(status: u32) -> io::Result<()> {
    if status == NO_ERROR {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(status.cast_signed()))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_loopback_address_is_on_an_interface_that_exists() {
        let all = addresses().expect("the addresses of this host");
        let loopback = all
            .iter()
            .find(|own| own.address == IpAddr::V4(Ipv4Addr::LOCALHOST))
            .expect("127.0.0.1");
        let index = NonZeroU32::new(loopback.interface).expect("an index");
        assert!(loopback.is_usable && exists(index), "{loopback:?}");
    }

    #[test]
    fn interfaces_that_are_not_there() {
        assert!(!exists(NonZeroU32::MAX));
        for alias in ["", "no such interface", "1"] {
            assert_eq!(of_alias(alias), None, "{alias:?}");
        }
    }
}
