//! Ctrl-C and SIGTERM, and their like.

use std::process;
use std::thread;

use tokio::sync::oneshot;

/// A request to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interruption {
    /// Ctrl-C, that is SIGINT.
    Interrupt,
    /// SIGTERM, on Unix; what comes closest to it, on Windows.
    Terminate,
}

impl Interruption {
    /// The exit status that shells give to a program ended by the signal: 128 and the signal's number.
    pub(crate) fn exit_status(self) -> u8 {
        match self {
            Interruption::Interrupt => 130,
            Interruption::Terminate => 143,
        }
    }
}

/// Tells once when the program is asked to stop. When nobody listens (any more), or at the second time, it stops at
/// once: a thread of its own waits for signals, so that the program can be stopped whatever else it is stuck in,
/// such as writing to a pipe that nobody reads.
///
/// Without that thread signals end the program as they always do.
pub(crate) fn watch() -> oneshot::Receiver<Interruption> {
    let (sender, receiver) = oneshot::channel();
    let watcher = thread::Builder::new().name("signals".to_owned());
    if let Err(error) = watcher.spawn(|| wait(sender)) {
        tracing::warn!(%error, "cannot watch for signals");
    }
    receiver
}

fn wait(sender: oneshot::Sender<Interruption>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::warn!(%error, "cannot watch for signals"),
    };
    runtime.block_on(async {
        if let Some(first) = next().await
            && sender.send(first).is_err()
        {
            process::exit(first.exit_status().into());
        }
        if let Some(second) = next().await {
            process::exit(second.exit_status().into());
        }
    });
}

/// The next request to stop; `None` when the system cannot tell.
async fn next() -> Option<Interruption> {
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => interrupt.ok().map(|()| Interruption::Interrupt),
        Some(()) = terminate() => Some(Interruption::Terminate),
    }
}

/// SIGTERM, which only Unix has; this is the one place where the program must ask.
#[cfg(unix)]
async fn terminate() -> Option<()> {
    use tokio::signal::unix::{SignalKind, signal};
    signal(SignalKind::terminate()).ok()?.recv().await
}

/// Ctrl-Break, the console being closed, the system shutting down.
#[cfg(windows)]
async fn terminate() -> Option<()> {
    use tokio::signal::windows::{ctrl_break, ctrl_close, ctrl_shutdown};
    let (mut stop, mut close, mut shutdown) = (ctrl_break().ok()?, ctrl_close().ok()?, ctrl_shutdown().ok()?);
    tokio::select! {
        end = stop.recv() => end,
        end = close.recv() => end,
        end = shutdown.recv() => end,
    }
}

#[cfg(not(any(unix, windows)))]
async fn terminate() -> Option<()> {
    std::future::pending().await
}
