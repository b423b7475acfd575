//! Ctrl-C and SIGTERM, and their like.

use std::io;
use std::thread;

/// A request to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interruption {
    /// Ctrl-C, that is SIGINT.
    Interrupt,
    /// SIGTERM, on Unix; what comes closest to it, on Windows.
    Terminate,
}

impl Interruption {
    /// The exit status that shells give to a program ended by the signal: 128 and the signal's
    /// number.
    pub fn exit_status(self) -> u8 {
        match self {
            Interruption::Interrupt => 130,
            Interruption::Terminate => 143,
        }
    }
}

/// Calls `stop` each time the program is asked to stop, from a thread of its own: whatever else
/// the program is stuck in, such as writing to a pipe that nobody reads.
///
/// A SIGINT that is ignored stays ignored: shells start programs so in the background, and nohup.
///
/// # Errors
/// No signals can be watched, or no thread be started. Signals end the program as they always do.
pub fn watch_signals(stop: impl FnMut(Interruption) + Send + 'static) -> io::Result<()> {
    let signals = system::Signals::new()?;
    let watcher = thread::Builder::new().name("signals".to_owned());
    watcher.spawn(|| signals.each(stop)).map(drop)
}

/// SIGHUP is caught: from now on it ends the program no more. Systems other than Unix have no such
/// signal.
#[derive(Debug)]
pub struct Hangups(#[cfg(unix)] system::Hangups);

impl Hangups {
    /// Catches the signal.
    ///
    /// # Errors
    /// It cannot be; it ends the program as it always does.
    pub fn catch() -> io::Result<Self> {
        Ok(Hangups(
            #[cfg(unix)]
            system::Hangups::catch()?,
        ))
    }

    /// Calls `reload` when the signal has come or comes, from a thread of its own.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn watch(self, reload: impl FnMut() + Send + 'static) -> io::Result<()> {
        #[cfg(unix)]
        self.0.watch(reload)?;
        #[cfg(not(unix))]
        drop(reload);
        Ok(())
    }
}

#[cfg(unix)]
mod system {
    use std::io;
    use std::thread;

    use datadog_traceroute::system::is_interrupt_ignored;
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::iterator;

    use super::Interruption;

    #[derive(Debug)]
    pub(super) struct Hangups(iterator::Signals);

    impl Hangups {
        pub(super) fn catch() -> io::Result<Self> {
            iterator::Signals::new([SIGHUP]).map(Hangups)
        }

        pub(super) fn watch(mut self, mut reload: impl FnMut() + Send + 'static) -> io::Result<()> {
            let watcher = thread::Builder::new().name("reload".to_owned());
            let watch = move || self.0.forever().for_each(|_| reload());
            watcher.spawn(watch).map(drop)
        }
    }

    pub(super) struct Signals(iterator::Signals);

    impl Signals {
        pub(super) fn new() -> io::Result<Self> {
            let interrupt = (!is_interrupt_ignored()).then_some(SIGINT);
            iterator::Signals::new(interrupt.into_iter().chain([SIGTERM])).map(Signals)
        }

        pub(super) fn each(mut self, mut stop: impl FnMut(Interruption)) {
            for signal in self.0.forever() {
                stop(match signal {
                    SIGINT => Interruption::Interrupt,
                    _ => Interruption::Terminate,
                });
            }
        }
    }
}

#[cfg(windows)]
mod system {
    use std::io;

    use tokio::runtime::{Builder, Runtime};
    use tokio::signal::windows::{
        CtrlBreak, CtrlC, CtrlClose, CtrlShutdown, ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown,
    };

    use super::Interruption;

    pub(super) struct Signals {
        /// Without drivers: the system tells by a thread of its own.
        runtime: Runtime,
        interrupt: CtrlC,
        stop: CtrlBreak,
        /// The console is closed. Windows ends the program some seconds later.
        close: CtrlClose,
        /// The same for the system.
        shutdown: CtrlShutdown,
    }

    impl Signals {
        pub(super) fn new() -> io::Result<Self> {
            Ok(Signals {
                runtime: Builder::new_current_thread().build()?,
                interrupt: ctrl_c()?,
                stop: ctrl_break()?,
                close: ctrl_close()?,
                shutdown: ctrl_shutdown()?,
            })
        }

        pub(super) fn each(mut self, mut stop: impl FnMut(Interruption)) {
            self.runtime.block_on(async {
                loop {
                    stop(tokio::select! {
                        Some(()) = self.interrupt.recv() => Interruption::Interrupt,
                        Some(()) = self.stop.recv() => Interruption::Terminate,
                        Some(()) = self.close.recv() => Interruption::Terminate,
                        Some(()) = self.shutdown.recv() => Interruption::Terminate,
                        else => return,
                    });
                }
            });
        }
    }
}

#[cfg(not(any(unix, windows)))]
mod system {
    use std::io;

    use super::Interruption;

    pub(super) struct Signals;

    impl Signals {
        pub(super) fn new() -> io::Result<Self> {
            Ok(Signals)
        }

        pub(super) fn each(self, _: impl FnMut(Interruption)) {}
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::sync::mpsc;

    use signal_hook::consts::SIGHUP;
    use signal_hook::low_level::raise;

    use super::Hangups;

    /// The service catches the signal first and begins to watch when it can reload.
    #[test]
    fn a_hangup_before_anybody_watches_is_not_lost() {
        let hangups = Hangups::catch().unwrap();
        raise(SIGHUP).unwrap();
        let (came, comes) = mpsc::channel();
        hangups.watch(move || came.send(()).unwrap()).unwrap();
        comes.recv().unwrap();
        raise(SIGHUP).unwrap();
        comes.recv().unwrap();
    }
}
