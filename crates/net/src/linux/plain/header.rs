//! Fields of the IP header that a socket writes into all that it sends.

use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use traceroute_wire::Probe;

use super::super::sys;

/// The two low bits of a type of service (RFC 3168 §5).
const ECN: u8 = 0b11;

/// What a probe wants in the IP header besides its TTL. The default is what sockets do anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct HeaderFields {
    tos: u8,
    dont_fragment: bool,
}

impl HeaderFields {
    pub(super) fn of(probe: &Probe) -> Self {
        HeaderFields {
            tos: probe.tos,
            dont_fragment: probe.dont_fragment,
        }
    }

    /// Has a UDP or ICMP socket write this.
    pub(super) fn apply_to_datagrams(self, socket: BorrowedFd<'_>, local: IpAddr) -> io::Result<()> {
        self.apply(
            socket,
            local,
            (libc::IP_PMTUDISC_PROBE, libc::IPV6_PMTUDISC_PROBE),
        )
    }

    /// Has a TCP socket write this. Its ECN bits are the kernel's (ip(7)).
    pub(super) fn apply_to_stream(self, socket: BorrowedFd<'_>, local: IpAddr) -> io::Result<()> {
        if self.tos & ECN != 0 {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "without raw sockets the ECN bits of TCP cannot be set (the two low bits of the type of service)",
            ));
        }
        // "Probe" leaves DF out of segments.
        self.apply(socket, local, (libc::IP_PMTUDISC_DO, libc::IPV6_PMTUDISC_DO))
    }

    fn apply(self, socket: BorrowedFd<'_>, local: IpAddr, (v4, v6): (i32, i32)) -> io::Result<()> {
        let (level, tos, discovery, mode) = match local {
            IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TOS, libc::IP_MTU_DISCOVER, v4),
            IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, libc::IPV6_MTU_DISCOVER, v6),
        };
        if self.tos != 0 {
            sys::set_option(socket, level, tos, i32::from(self.tos))?;
        }
        if self.dont_fragment {
            sys::set_option(socket, level, discovery, mode)?;
            if local.is_ipv6() {
                sys::set_option(socket, level, libc::IPV6_DONTFRAG, 1_i32)?;
            }
        }
        Ok(())
    }
}
