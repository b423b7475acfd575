//! Measurements that need namespaces: see the programs in `src/bin`. Figures that need none are
//! criterion benches beside the code they measure.

// Namespaces are Linux's.
#[cfg(target_os = "linux")]
mod server;

use std::time::Duration;

#[cfg(target_os = "linux")]
pub use server::{Server, get, start_server, wait_until_it_listens};

/// The value below which `share` (0–1) of the sorted `values` lie; 0 when there are none.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let last = values.len().saturating_sub(1);
    let index = (last as f64 * share).round() as usize;
    values.get(index).copied().unwrap_or(0.0)
}

/// What the kernel accounts to this process.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Time on a CPU of all live threads, user and system, interrupts served meanwhile included.
    pub cpu: Duration,
    /// Resident memory now, in KiB.
    pub resident: u64,
    /// Highest resident memory since the last reset, in KiB.
    pub peak: u64,
    /// Open file descriptors.
    pub descriptors: usize,
}

impl Usage {
    /// Reads it from `/proc` (proc(5)).
    ///
    /// # Errors
    /// `/proc` is not there.
    pub fn now() -> std::io::Result<Usage> {
        Usage::of("self")
    }

    /// That of another process, by its number.
    ///
    /// # Errors
    /// `/proc` is not there, or the process is not.
    pub fn of(process: &str) -> std::io::Result<Usage> {
        let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next())
                .and_then(|value| value.parse().ok())
                .unwrap_or(0)
        };
        Ok(Usage {
            cpu: cpu_time(process)?,
            resident: field("VmRSS:"),
            peak: field("VmHWM:"),
            descriptors: std::fs::read_dir(format!("/proc/{process}/fd"))?.count(),
        })
    }

    /// Makes `peak` start again from the present.
    ///
    /// # Errors
    /// `/proc` is not there.
    pub fn reset_peak() -> std::io::Result<()> {
        std::fs::write("/proc/self/clear_refs", "5")
    }

    /// [`Usage::reset_peak`] of another process.
    ///
    /// # Errors
    /// `/proc` is not there, or the process is not or not ours.
    pub fn reset_peak_of(process: &str) -> std::io::Result<()> {
        std::fs::write(format!("/proc/{process}/clear_refs"), "5")
    }
}

/// The scheduler's own nanosecond count, summed over threads: more precise than clock ticks.
fn cpu_time(process: &str) -> std::io::Result<Duration> {
    let mut nanos = 0;
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        nanos += text
            .split_whitespace()
            .next()
            .and_then(|field| field.parse::<u64>().ok())
            .unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanos))
}
