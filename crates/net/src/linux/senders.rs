//! The sockets that send the probes of one address family: more than one while the first are full.
//!
//! What is sent to a neighbour that does not answer waits in the kernel for some seconds and takes
//! up its socket's room (socket(7), `SO_SNDBUF`). Few such neighbours fill it, and must not keep
//! probes to others from leaving.

use std::io;

use traceroute_engine::{NetError, Operation, Time, Token};
use traceroute_wire::Family;

use super::sender::{Outgoing, Sender};
use crate::unix::clock::Converter;
use crate::unix::errors;

/// At most. One has room for what the kernel keeps for one such neighbour (`net.core.wmem_default`
/// and `net.ipv4.neigh.default.unres_qlen_bytes`), some 280 probes.
const MOST: usize = 16;

pub(super) struct Senders {
    family: Family,
    sockets: Vec<Sender>,
    /// The one that had room last.
    current: usize,
}

impl Senders {
    pub(super) fn open(family: Family) -> Result<Self, NetError> {
        let mut senders = Senders {
            family,
            sockets: Vec::new(),
            current: 0,
        };
        senders.add()?;
        Ok(senders)
    }

    /// Opens one more.
    fn add(&mut self) -> Result<(), NetError> {
        if self.sockets.len() == MOST {
            let error = io::ErrorKind::WouldBlock.into();
            return Err(errors::error(Operation::OpenSender, None, error));
        }
        let sender =
            Sender::open(self.family).map_err(|error| errors::error(Operation::OpenSender, None, error))?;
        self.current = self.sockets.len();
        self.sockets.push(sender);
        Ok(())
    }

    /// Sends a packet from a socket that has room, as [`Sender::send`] does.
    ///
    /// # Errors
    /// What the kernel says; [`io::ErrorKind::WouldBlock`] when all sockets are full.
    pub(super) fn send(&mut self, outgoing: &Outgoing<'_>, token: Token) -> Result<Time, NetError> {
        let failed = |error| errors::error(Operation::Send, Some(outgoing.destination), error);
        let existing = self.sockets.len();
        let mut full = io::ErrorKind::WouldBlock.into();
        for attempt in 0..=existing {
            if attempt == existing {
                match self.add() {
                    Ok(()) => {}
                    Err(error) if existing == 0 => return Err(error),
                    // One of the others will have room again.
                    Err(_) => break,
                }
            }
            let Some(sender) = self.sockets.get_mut(self.current) else {
                break;
            };
            match sender.send(outgoing, token) {
                Ok(at) => return Ok(at),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    full = error;
                    self.current = (self.current + 1) % self.sockets.len();
                }
                Err(error) => {
                    self.replace_doubtful();
                    return Err(failed(error));
                }
            }
        }
        Err(failed(full))
    }

    /// Whether there are probes whose reports have not been seen.
    pub(super) fn expects_reports(&self) -> bool {
        self.sockets.iter().any(Sender::expects_reports)
    }

    /// Passes on the reports that have come in.
    pub(super) fn reports(&mut self, clock: &Converter, mut report: impl FnMut(Token, Time)) {
        for sender in &mut self.sockets {
            sender.reports(clock, &mut report);
        }
        self.replace_doubtful();
    }

    /// Closes sockets whose reports might be taken for those of other probes; a new one counts from
    /// zero.
    fn replace_doubtful(&mut self) {
        let before = self.sockets.len();
        self.sockets.retain(|sender| !sender.is_doubtful());
        if self.sockets.len() < before {
            self.current = 0;
        }
    }

    /// Nothing is sent for a while.
    pub(super) fn rest(&mut self) {
        self.sockets.truncate(1);
        self.current = 0;
    }

    /// How many sockets are open.
    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }
}
