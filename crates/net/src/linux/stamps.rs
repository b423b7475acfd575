//! Waiting until the kernel stamps packets on arrival.
//!
//! The first socket on the machine that asks for receive timestamps (socket(7), `SO_TIMESTAMPNS`)
//! makes the kernel switch them on, but in the background. A packet that arrives before that is
//! stamped when it is read, which on a busy machine is milliseconds late. So a process that begins
//! probing right away would report its first RTTs too large.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::queue;
use super::sys::{self, PacketBatch};

/// Between a packet's arrival and its reading, so that the two stamps differ.
const GAP: Duration = Duration::from_micros(100);
/// After that, better begin.
const PATIENCE: Duration = Duration::from_millis(5);

/// Returns when packets are stamped on arrival, or after some milliseconds, or at once where there
/// is no loopback interface to find out with. The caller has a socket with stamps, so that they
/// stay switched on.
pub(super) fn wait_until_active() {
    match are_active() {
        Ok(true) => {}
        Ok(false) => tracing::debug!(
            "the kernel does not stamp packets on arrival yet; first round-trip times may be late"
        ),
        Err(error) => tracing::debug!(%error, "cannot tell whether the kernel stamps packets on arrival"),
    }
}

fn are_active() -> io::Result<bool> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(socket.local_addr()?)?;
    sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1_i32)?;
    let mut batch = PacketBatch::<1>::new();
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        socket.send(&[0])?;
        std::thread::sleep(GAP);
        let before_reading = sys::realtime();
        match sys::receive_packets(socket.as_fd(), &mut batch, 0) {
            // On a busy machine even loopback takes its time.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            result => result?,
        };
        let stamp = batch.packet(0).and_then(|packet| queue::parse(packet.control));
        if stamp.is_some_and(|(stamp, _)| stamp < before_reading) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_become_active() {
        // Loopback is up wherever tests run. On a busy machine the kernel takes its time.
        let until = Instant::now() + Duration::from_mins(1);
        while !are_active().unwrap() {
            assert!(Instant::now() < until, "never");
        }
    }
}
