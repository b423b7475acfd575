//! Looks at what decides what can be probed. What it means: [`crate::diagnosis::windows`].
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::net::IpAddr;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::ptr;

use socket2::{Domain, Socket, Type};
use windows_registry::{Key, LOCAL_MACHINE};
use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::Security::{GetTokenInformation, TOKEN_ELEVATION, TOKEN_QUERY, TokenElevation};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

use super::{ddnpm, echo, raw, source_address, sys};
use crate::diagnosis::ELSEWHERE;
use crate::diagnosis::windows::firewall::Firewall;
use crate::diagnosis::windows::{Edition, Facts, Sockets, report};
use crate::winerror::WSAEACCES;
use crate::{Access, Finding};

/// By which sockets this process may probe, as the backend without options would.
pub fn access() -> Access {
    match raw::check() {
        Err(error) if error.raw_os_error() == Some(WSAEACCES) => Access::IcmpApi,
        _ if edition().is_some_and(|edition| !edition.is_server) => Access::RawWithoutTcp,
        _ => Access::Raw,
    }
}

/// Looks at everything that decides what can be probed, and how. Sends nothing.
pub fn diagnose() -> Vec<Finding> {
    report(&gather())
}

fn gather() -> Facts {
    Facts {
        v4: sockets(Domain::IPV4, ELSEWHERE[0]),
        v6: sockets(Domain::IPV6, ELSEWHERE[1]),
        raw: raw::check(),
        is_elevated: is_elevated().ok(),
        edition: edition(),
        driver: ddnpm::state(),
        firewall: firewall(),
    }
}

fn sockets(domain: Domain, elsewhere: IpAddr) -> Sockets {
    let connect = || sys::fail_on_icmp_error(&Socket::new(domain, Type::STREAM, None)?);
    Sockets {
        switched_off: Socket::new(domain, Type::DGRAM, None).is_err(),
        echo: echo::check(elsewhere),
        connect: connect(),
        source: source_address(elsewhere).ok(),
    }
}

/// Whether this process has the rights of an administrator, not only its user.
fn is_elevated() -> io::Result<bool> {
    let mut token: HANDLE = ptr::null_mut();
    // SAFETY: the pseudo handle of the process is always valid, and `token` is written to.
    if unsafe { OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &raw mut token) } == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: new, and owned by nobody else.
    let token = unsafe { OwnedHandle::from_raw_handle(token) };
    let mut elevation = TOKEN_ELEVATION::default();
    let mut written = 0;
    // SAFETY: the token is open, and the buffer as long as stated.
    let result = unsafe {
        GetTokenInformation(
            token.as_raw_handle(),
            TokenElevation,
            (&raw mut elevation).cast(),
            size_of::<TOKEN_ELEVATION>() as u32,
            &raw mut written,
        )
    };
    if result == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(elevation.TokenIsElevated != 0)
}

const _: () = assert!(size_of::<TOKEN_ELEVATION>() == 4);

/// Which Windows this is. Wine calls itself a client edition, but sends TCP over raw sockets all
/// the same.
pub(super) fn edition() -> Option<Edition> {
    let build = LOCAL_MACHINE
        .open(r"SOFTWARE\Microsoft\Windows NT\CurrentVersion")
        .and_then(|key| key.get_string("CurrentBuildNumber"))
        .ok()?;
    // `WinNT` on client editions; `ServerNT`, or `LanmanNT` on domain controllers.
    let product = LOCAL_MACHINE
        .open(r"SYSTEM\CurrentControlSet\Control\ProductOptions")
        .and_then(|key| key.get_string("ProductType"))
        .ok()?;
    Some(Edition {
        build: build.trim().parse().ok()?,
        is_server: !product.eq_ignore_ascii_case("WinNT"),
    })
}

fn firewall() -> Option<Firewall> {
    Firewall::read(
        |key, name| LOCAL_MACHINE.open(key).ok()?.get_u32(name).ok(),
        |key| {
            LOCAL_MACHINE
                .open(key)
                .map_or_else(|_| Vec::new(), |key| strings(&key))
        },
    )
}

/// The values of a key that are strings.
fn strings(key: &Key) -> Vec<String> {
    let values = key.values().into_iter().flatten();
    values
        .filter_map(|(_, value)| String::try_from(value).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::windows::DriverState;

    #[test]
    fn facts_are_gathered_and_the_driver_is_missed() {
        let facts = gather();
        assert!(!facts.v4.switched_off);
        assert!(facts.v4.echo.is_ok(), "{:?}", facts.v4.echo);
        assert!(
            matches!(facts.driver, DriverState::NotInstalled),
            "{:?}",
            facts.driver
        );
        assert!(facts.is_elevated.is_some());
        assert!(
            facts.edition.is_some_and(|edition| edition.build > 7000),
            "{:?}",
            facts.edition
        );
    }

    #[test]
    fn access_is_what_the_backend_would_do() {
        let is_server = edition().expect("known").is_server;
        let expected = match raw::check() {
            Ok(()) if is_server => Access::Raw,
            Ok(()) => Access::RawWithoutTcp,
            Err(_) => Access::IcmpApi,
        };
        assert_eq!(access(), expected);
    }
}
