//! What Ctrl-C and SIGTERM do to a trace.

use std::process;

use tokio::sync::oneshot;
use traceroute_flags::{Interruption, watch_signals};

/// Tells once when the program is asked to stop. When nobody listens (any more), or at the second
/// time, it stops at once.
pub(crate) fn watch() -> oneshot::Receiver<Interruption> {
    let (sender, receiver) = oneshot::channel();
    let mut listener = Some(sender);
    let watching = watch_signals(move |signal| {
        let is_heard = listener
            .take()
            .is_some_and(|listener| listener.send(signal).is_ok());
        if !is_heard {
            process::exit(signal.exit_status().into());
        }
    });
    if let Err(error) = watching {
        tracing::warn!(%error, "cannot watch for signals");
    }
    receiver
}
