//! By which sockets a process may probe.

use std::fmt;

use crate::program_path;

/// By which sockets this process may probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// By raw sockets and a capture: everything that the system can do.
    Raw,
    /// The same but for TCP, which this system refuses or drops (client editions of Windows).
    RawWithoutTcp,
    /// By ordinary sockets only, which lack TCP SACK and some precision (Linux).
    Ordinary,
    /// ICMP by the system's ICMP API, TCP SYN by the system's own connects (Windows without
    /// administrator rights).
    IcmpApi,
    /// Not at all (macOS without root; systems without a backend).
    None,
}

/// One line that tells a user what this means and, if it is not the best, how to do better.
impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Access::Raw => "probing through raw sockets",
            Access::RawWithoutTcp => {
                "this edition of Windows sends no TCP over raw sockets; TCP can be probed with the method syn_socket \
                 or the Windows driver"
            }
            Access::Ordinary => {
                return write!(
                    f,
                    "no CAP_NET_RAW: probing through ordinary sockets, which cannot do TCP SACK; for raw sockets run \
                     with sudo, or `setcap cap_net_raw+ep {}`",
                    program_path()
                );
            }
            Access::IcmpApi => {
                "no administrator rights: ICMP is probed through the ICMP API, TCP can be with the method \
                 syn_socket; for everything else run as Administrator or use the Windows driver"
            }
            Access::None => "no raw sockets, without which nothing can be probed: run with sudo",
        })
    }
}
