//! UDP and TCP services of targets.

use serde::Deserialize;

use super::Millis;

/// What ports do that are not listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Port {
    Open,
    #[default]
    Closed,
    Silent,
}

/// UDP services.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Udp {
    pub(crate) default: Port,
    pub(crate) open: Vec<u16>,
    pub(crate) closed: Vec<u16>,
    pub(crate) silent: Vec<u16>,
    /// What open ports reply; the datagram's own payload when absent.
    pub(crate) reply: Option<String>,
}

/// TCP services.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Tcp {
    pub(crate) default: Port,
    pub(crate) open: Vec<u16>,
    pub(crate) closed: Vec<u16>,
    pub(crate) silent: Vec<u16>,
    /// Permits selective acknowledgments (RFC 2018).
    pub(crate) sack: bool,
    /// Puts blocks into them; without, it acknowledges but says no more.
    pub(crate) sack_blocks: bool,
    /// Reports duplicates (RFC 2883).
    pub(crate) duplicate_sack: bool,
    /// RFC 7323.
    pub(crate) timestamps: bool,
    pub(crate) window: u16,
    pub(crate) window_scale: Option<u8>,
    pub(crate) mss: u16,
    /// Sent as soon as the connection is established.
    pub(crate) greeting: Option<String>,
    pub(crate) greeting_delay: Millis,
    pub(crate) syn_ack_delay: Millis,
    /// How many SYN-ACKs of each connection are lost before one gets through.
    pub(crate) lose_syn_acks: u8,
    /// Resets the connection when the client closes it.
    pub(crate) reset_on_close: bool,
    /// Closed ports answer SYN with a RST that acknowledges nothing.
    pub(crate) bare_reset: bool,
    /// Ignores segments beyond a gap.
    pub(crate) ignore_out_of_order: bool,
}

impl Default for Tcp {
    fn default() -> Self {
        Self {
            default: Port::default(),
            open: Vec::new(),
            closed: Vec::new(),
            silent: Vec::new(),
            sack: true,
            sack_blocks: true,
            duplicate_sack: true,
            timestamps: true,
            window: 65_160,
            window_scale: Some(7),
            mss: 1460,
            greeting: None,
            greeting_delay: Millis::default(),
            syn_ack_delay: Millis::default(),
            lose_syn_acks: 0,
            reset_on_close: false,
            bare_reset: false,
            ignore_out_of_order: false,
        }
    }
}

impl Tcp {
    pub(crate) fn port(&self, port: u16) -> Port {
        port_state(port, self.default, &self.open, &self.closed, &self.silent)
    }
}

impl Udp {
    pub(crate) fn port(&self, port: u16) -> Port {
        port_state(port, self.default, &self.open, &self.closed, &self.silent)
    }
}

fn port_state(port: u16, default: Port, open: &[u16], closed: &[u16], silent: &[u16]) -> Port {
    if open.contains(&port) {
        Port::Open
    } else if closed.contains(&port) {
        Port::Closed
    } else if silent.contains(&port) {
        Port::Silent
    } else {
        default
    }
}
