//! Which of an operating system's ways of probing to use.

/// How to open a [`Network`](crate::Network). The default is the usual way of each operating system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Options {
    /// Windows: capture and send with the driver, which must have been started. Ignored elsewhere.
    pub windows_driver: bool,
    /// Windows: probe TCP with the system's own connects, which need no rights. Only TCP SYN probes can be sent then.
    /// Ignored elsewhere.
    pub syn_socket: bool,
}

impl Options {
    /// The same without what makes no difference here, so that equal options mean networks that can be shared.
    #[must_use]
    pub fn effective(self) -> Self {
        if cfg!(windows) {
            Options {
                // Connects are the system's own, whatever else there is.
                windows_driver: self.windows_driver && !self.syn_socket,
                syn_socket: self.syn_socket,
            }
        } else {
            Options::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_matter_on_windows_only() {
        let both = Options {
            windows_driver: true,
            syn_socket: true,
        };
        assert_eq!(both.effective().syn_socket, cfg!(windows));
        assert!(!both.effective().windows_driver);
        let driver = Options {
            syn_socket: false,
            ..both
        };
        assert_eq!(driver.effective().windows_driver, cfg!(windows));
    }
}
