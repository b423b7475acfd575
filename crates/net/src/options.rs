//! How a backend is opened.

/// How a backend is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct NetworkOptions {
    /// Thousands of probes a second are to come: room for 8192 packets per address family that
    /// nobody has read yet, 4 MiB each, which take some 10 ms longer to set up (Linux).
    pub heavy_load: bool,
    /// Send and capture with the driver, which
    /// [`start_windows_driver`](crate::start_windows_driver) must have started (Windows; ignored
    /// elsewhere).
    pub windows_driver: bool,
    /// Probe TCP with the system's own connects, which need no rights; nothing but TCP SYN probes
    /// can be sent then (Windows; ignored elsewhere).
    pub syn_socket: bool,
}

impl NetworkOptions {
    /// The same without what makes no difference here: traces with equal effective options can
    /// share a network.
    #[must_use]
    pub fn effective(self) -> Self {
        NetworkOptions {
            heavy_load: self.heavy_load,
            // The system's own connects are the same with the driver as without.
            windows_driver: cfg!(windows) && self.windows_driver && !self.syn_socket,
            syn_socket: cfg!(windows) && self.syn_socket,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_windows_make_no_difference_elsewhere() {
        let all = NetworkOptions {
            heavy_load: true,
            windows_driver: true,
            syn_socket: true,
        };
        let effective = all.effective();
        assert!(effective.heavy_load && !effective.windows_driver);
        assert_eq!(effective.syn_socket, cfg!(windows));
        let driver = NetworkOptions {
            syn_socket: false,
            ..all
        };
        assert_eq!(driver.effective().windows_driver, cfg!(windows));
    }
}
