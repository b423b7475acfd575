//! Puts a [`Network`] behind a TUN device, in real time.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::network::{Delivery, Network};
use crate::sys;
pub use crate::sys::set_realtime;

/// Packets read before due answers are looked at again.
const BATCH: usize = 64;

/// How to keep time.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Sleep ends this much before an answer is due; the rest is spun away, because waking up takes
    /// a while.
    pub spin: Duration,
    /// Never sleep: one CPU is kept busy, and probes are seen within a microsecond or so.
    pub busy: bool,
    /// Run before all ordinary threads (`SCHED_FIFO`; needs `CAP_SYS_NICE`).
    pub realtime: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            spin: Duration::from_micros(60),
            busy: false,
            realtime: false,
        }
    }
}

/// What just happened. Times are since the start of [`run_with`], on the monotonic clock.
#[derive(Debug)]
pub enum Activity<'a> {
    /// The client sent a packet.
    Read {
        /// Its number, from 1.
        number: u64,
        /// When it was read.
        at: Duration,
        /// The packet.
        packet: &'a [u8],
    },
    /// An answer was handed to the client's kernel.
    Written {
        /// The answer and when it was due.
        delivery: &'a Delivery,
        /// The time just before it was written.
        at: Duration,
    },
    /// The kernel refused an answer.
    Refused {
        /// The answer.
        delivery: &'a Delivery,
        /// Why.
        error: &'a io::Error,
    },
}

/// Opens a TUN device in the calling thread's network namespace; see
/// [`crate::namespace::configure`] for its addresses. An empty name lets the kernel choose; the
/// name is returned. The device vanishes with the file.
///
/// # Errors
/// What the kernel says, with what it needs.
pub fn open(name: &str) -> io::Result<(File, String)> {
    sys::open_tun(name).map_err(|error| {
        let hint = match (error.kind(), error.raw_os_error()) {
            (_, Some(libc::EPERM)) => " (needs CAP_NET_ADMIN: run as root or with --namespace)",
            (io::ErrorKind::PermissionDenied, _) => " (/dev/net/tun must be readable and writable)",
            (io::ErrorKind::NotFound, _) => {
                " (no /dev/net/tun: modprobe tun, or give the container the device)"
            }
            _ => "",
        };
        io::Error::new(error.kind(), format!("cannot create a TUN device: {error}{hint}"))
    })
}

/// Runs `network` behind a non-blocking TUN file until `stop` becomes readable or its other end is
/// closed.
///
/// # Errors
/// When the device is gone.
pub fn run(tun: &File, network: &mut Network, stop: impl AsFd) -> io::Result<()> {
    run_with(tun, network, stop, Settings::default(), &mut |_| {})
}

/// As [`run`], with settings, telling `observer` what happens.
///
/// # Errors
/// When the device is gone; when realtime scheduling is wanted and not permitted.
pub fn run_with(
    tun: &File,
    network: &mut Network,
    stop: impl AsFd,
    settings: Settings,
    observer: &mut dyn FnMut(Activity<'_>),
) -> io::Result<()> {
    sys::set_timer_slack()?;
    if settings.realtime {
        sys::set_realtime().map_err(|error| {
            io::Error::new(error.kind(), format!("cannot use realtime scheduling: {error}"))
        })?;
    }
    let mut pump = Pump {
        tun,
        network,
        start: Instant::now(),
        buffer: vec![0; 65_536],
        observer,
    };
    loop {
        let more = pump.read()?;
        pump.write();
        let wait = if more || settings.busy {
            Some(Duration::ZERO)
        } else {
            pump.time_to_sleep(settings.spin)
        };
        let [_, stopped] = sys::wait([tun.as_fd(), stop.as_fd()], wait)?;
        if stopped {
            return Ok(());
        }
    }
}

struct Pump<'a> {
    tun: &'a File,
    network: &'a mut Network,
    start: Instant,
    buffer: Vec<u8>,
    observer: &'a mut dyn FnMut(Activity<'_>),
}

impl Pump<'_> {
    /// Takes what the client sent; `true` when there may be more.
    fn read(&mut self) -> io::Result<bool> {
        for _ in 0..BATCH {
            let length = match self.tun.read(&mut self.buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let at = self.start.elapsed();
            let packet = self.buffer.get(..length).unwrap_or(&self.buffer);
            let number = self.network.inject(at, packet);
            (self.observer)(Activity::Read { number, at, packet });
            self.write();
        }
        Ok(true)
    }

    /// Delivers what is due.
    fn write(&mut self) {
        while let Some(delivery) = self.network.poll(self.start.elapsed()) {
            let at = self.start.elapsed();
            match self.tun.write_all(&delivery.packet) {
                Ok(()) => (self.observer)(Activity::Written {
                    delivery: &delivery,
                    at,
                }),
                Err(error) => (self.observer)(Activity::Refused {
                    delivery: &delivery,
                    error: &error,
                }),
            }
        }
    }

    fn time_to_sleep(&self, spin: Duration) -> Option<Duration> {
        let due = self.network.next_at()?;
        Some(due.saturating_sub(self.start.elapsed()).saturating_sub(spin))
    }
}
