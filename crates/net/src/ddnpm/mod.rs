//! The language of `ddnpm`, the capture driver that comes with the Datadog Agent for Windows:
//! names, control codes and byte layouts, without a call to the operating system. What it gives is
//! read by [`traceroute_wire::ddnpm`].
//!
//! Every integer is little-endian. The driver checks a signature, which contains the version of its
//! interface, in front of everything it is given.

pub(crate) mod clock;
pub(crate) mod filter;
pub(crate) mod lingering;
pub(crate) mod service;

use std::sync::atomic::{AtomicU64, Ordering};

use traceroute_wire::ddnpm::signature;

/// Name of the service that loads the driver.
pub(crate) const SERVICE: &str = "ddnpm";
/// Path of the device's class of handles through which packets are captured and sent.
pub(crate) const TRANSPORT_PATH: &str = r"\\.\ddnpm\transporthandle";

/// `CTL_CODE(FILE_DEVICE_NETWORK, function, METHOD_BUFFERED, FILE_ANY_ACCESS)`.
const fn control_code(function: u32) -> u32 {
    const FILE_DEVICE_NETWORK: u32 = 0x12;
    const METHOD_BUFFERED: u32 = 0;
    FILE_DEVICE_NETWORK << 16 | function << 2 | METHOD_BUFFERED
}

/// Adds a filter definition to a handle; answers with the filter's id.
pub(crate) const SET_DATA_FILTER: u32 = control_code(0x803);

/// Versions of the interface that can send, newest first. They differ in nothing that is used here.
pub(crate) const VERSIONS: [u32; 2] = [0x18, 0x17];

/// Which version the driver speaks: that of the last request that worked, in this process. It
/// changes when the Datadog Agent is upgraded.
#[derive(Debug)]
pub(crate) struct Negotiation(
    /// Its signature; 0: none has worked yet.
    AtomicU64,
);

impl Negotiation {
    pub(crate) const fn new() -> Self {
        Negotiation(AtomicU64::new(0))
    }

    /// Tries a request with the signature that worked last, then with the others; returns what the
    /// first one that works returns.
    ///
    /// # Errors
    /// The error of what was tried first when none works.
    pub(crate) fn run<T, E>(&self, mut request: impl FnMut(u64) -> Result<T, E>) -> Result<T, E> {
        let known = self.0.load(Ordering::Relaxed);
        let [newest, older] = VERSIONS.map(signature);
        let (first, second) = if known == older {
            (older, newest)
        } else {
            (newest, older)
        };
        let mut attempt = |signature| {
            let value = request(signature)?;
            self.0.store(signature, Ordering::Relaxed);
            Ok(value)
        };
        attempt(first).or_else(|error| attempt(second).map_err(|_| error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_signatures_are_the_drivers() {
        assert_eq!(SET_DATA_FILTER, 0x12_200C);
        assert_eq!(signature(0x18), 0x0000_DDFD_0000_0018);
    }

    #[test]
    fn the_version_that_works_is_remembered() {
        let negotiation = Negotiation::new();
        let mut tried = Vec::new();
        for _ in 0..2 {
            let result = negotiation.run(|signature| {
                tried.push(signature & 0xFF);
                if signature & 0xFF == 0x17 {
                    Ok(())
                } else {
                    Err("no")
                }
            });
            assert_eq!(result, Ok(()));
        }
        assert_eq!(tried, [0x18, 0x17, 0x17]);
    }

    #[test]
    fn after_an_upgrade_the_other_version_is_tried_again() {
        let negotiation = Negotiation::new();
        let mut tried = Vec::new();
        for spoken in [0x17, 0x18, 0x18, 0x17] {
            let result = negotiation.run(|signature| {
                tried.push(signature & 0xFF);
                if signature & 0xFF == spoken {
                    Ok(())
                } else {
                    Err(())
                }
            });
            assert_eq!(result, Ok(()));
        }
        assert_eq!(tried, [0x18, 0x17, 0x17, 0x18, 0x18, 0x18, 0x17]);
    }

    #[test]
    fn when_no_version_works_the_newest_ones_error_counts_and_nothing_is_remembered() {
        let negotiation = Negotiation::new();
        let result: Result<(), u64> = negotiation.run(|signature| Err(signature & 0xFF));
        assert_eq!(result, Err(0x18));
        assert_eq!(
            negotiation.run(|signature| Ok::<_, ()>(signature & 0xFF)),
            Ok(0x18)
        );
    }
}
